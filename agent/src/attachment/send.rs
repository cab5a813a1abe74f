//! Sending a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use creto_crypto_accel::digest::sha256;
use creto_envelope::attachment::{
    AttachmentChunk, AttachmentHead, AttachmentId, CHUNK_BYTES_MAX, CHUNKS_MAX, chunk_count, is_file_name,
};
use creto_envelope::{AgentName, Kind, MessageId, RejectCode};
use tokio::time::{Instant, timeout_at};

use super::journal::Journal;
use super::{AttachmentError, failed};
use crate::client::Agent;
use crate::clock;
use crate::error::SendError;
use crate::sender::{PendingSend, SendOptions};
use crate::submit::Handling;
use crate::worker::on_disk;

/// Bytes of a chunk, unless the file needs larger ones: several fit into one batch.
const CHUNK_BYTES: u32 = 256 * 1024 - 32;
/// How long it is believed that what is durable is still at the node, unless the messages live shorter. A mailbox may be set to keep
/// messages for less than that; its recipient then finds that chunks are missing.
const RESUME_MAX: Duration = Duration::from_secs(86_400);
/// Chunks on their way at a time. The agent's own bound on bytes in flight holds, too.
const CHUNKS_IN_FLIGHT: usize = 16;

/// A file to send.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileToSend {
    /// Where it is.
    pub path: PathBuf,
    /// What the recipient is to call it; the last part of `path` unless it is given.
    pub name: Option<String>,
    /// Its media type (RFC 6838), such as `text/csv`; nothing by default.
    pub media_type: String,
    /// The application's own words about it, which come with the file.
    pub note: Bytes,
    /// How its messages are sent, each of them. Receipt and notice are those of the head alone: its receipt says that the application
    /// there has the whole file. Kind and correlation id are not used. A mailbox that is full is waited for, for as long as
    /// [`SendOptions::deadline`] lets each message wait.
    pub options: SendOptions,
    /// Where to keep how far it has come. With it, sending the same file to the same agent again goes on where it was; the file is
    /// removed at the end.
    pub resume: Option<PathBuf>,
}

impl FileToSend {
    /// The file at `path`, of normal priority, under its own name.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let (path, options) = (path.into(), SendOptions::default());
        Self { path, name: None, media_type: String::new(), note: Bytes::new(), options, resume: None }
    }
}

/// How far a file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileProgress {
    /// Bytes that are durable at the node.
    pub durable_bytes: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// A file that is durable at the node, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentFile {
    /// Names the attachment.
    pub id: AttachmentId,
    /// The head's message id: its receipt is that of the file.
    pub message_id: MessageId,
    /// Bytes of the file.
    pub bytes: u64,
    /// Messages that it takes, the head among them.
    pub messages: u64,
    /// Chunks that an earlier run has sent.
    pub resumed_chunks: u64,
}

/// A file that was read once, and what its head says.
struct Read {
    file: Arc<File>,
    stamp: (u64, SystemTime),
    bytes: u64,
    chunk_bytes: u32,
    hashes: Vec<[u8; 32]>,
}

impl Agent {
    /// Sends a file as an attachment; returns when all of it is durable. `progress` is told after every step.
    ///
    /// The file is read twice: to hash its chunks, and to send them. Dropping the future leaves what is durable where it is: with
    /// [`FileToSend::resume`] the next call goes on from there, and whatever is sent twice the recipient takes once.
    ///
    /// # Errors
    /// [`AttachmentError`].
    pub async fn send_file(
        &self,
        to: &AgentName,
        file: FileToSend,
        mut progress: impl FnMut(FileProgress),
    ) -> Result<SentFile, AttachmentError> {
        let name = match &file.name {
            Some(name) => name.clone(),
            None => file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        };
        if file.options.self_destruct.is_some() {
            return Err(AttachmentError::SelfDestruct);
        }
        if !is_file_name(&name) {
            return Err(AttachmentError::Name { name });
        }
        let path = Arc::new(file.path);
        let read = {
            let path = Arc::clone(&path);
            on_disk(move || read(&path)).await?
        };
        let Read { bytes, chunk_bytes, .. } = read;
        let head = |id| AttachmentHead {
            id,
            bytes,
            chunk_bytes,
            name: &name,
            media_type: &file.media_type,
            chunk_hashes: &read.hashes,
            note: &file.note,
        };
        // With what its messages are to be like, and the node that they are durable at: another one knows nothing of them.
        let same = head(AttachmentId([0; 16])).to_bytes().ok_or(AttachmentError::Description)?;
        let like = format!("{:?}", file.options);
        let digest = sha256(&[&same, like.as_bytes(), &self.node_digest()]);
        let fresh = AttachmentId(clock::random());
        let live = file.options.ttl.unwrap_or(RESUME_MAX).min(RESUME_MAX);
        let mut journal = match file.resume {
            Some(path) => {
                let (to, now_ms) = (self.id_of(to), clock::now_ms());
                Some(on_disk(move || Journal::open(&path, to, &digest, fresh, live, now_ms)).await?)
            }
            None => None,
        };
        let id = journal.as_ref().map_or(fresh, |journal| journal.id);
        let count = u32::try_from(read.hashes.len()).expect("a head has fewer chunks");
        let is_durable = |index: &u32| journal.as_ref().is_some_and(|journal| journal.chunks.contains(index));
        let (before, missing): (Vec<u32>, Vec<u32>) = (0..count).partition(is_durable);
        let bytes_of = |index| head(id).bytes_of_chunk(index) as u64;
        let mut durable_bytes = before.iter().map(|index| bytes_of(*index)).sum();
        progress(FileProgress { durable_bytes, bytes });
        let options = SendOptions { receipt: false, delivered: false, notice: false, ..file.options };
        let mut in_flight: VecDeque<(u32, PendingSend)> = VecDeque::with_capacity(CHUNKS_IN_FLIGHT);
        let mut missing = VecDeque::from(missing);
        let begun_ms = journal.as_ref().map_or_else(clock::now_ms, |journal| journal.begun_ms);
        loop {
            let next = if in_flight.len() < CHUNKS_IN_FLIGHT { missing.pop_front() } else { None };
            if let Some(index) = next {
                let (file, path, expected) = (Arc::clone(&read.file), Arc::clone(&path), read.hashes[index as usize]);
                let piece = Piece { id, index, chunk_bytes, bytes };
                let payload = on_disk(move || chunk(&file, &path, piece, &expected)).await?;
                in_flight.push_back((index, self.submit_part(to, payload, options).await?));
                continue;
            }
            let Some((index, pending)) = in_flight.pop_front() else { break };
            match pending.await {
                // It has waited for room for so long that its id is too old to be new. Whatever became of it, the recipient takes a
                // chunk once.
                Err(error) if is_outworn(&error) => {
                    missing.push_front(index);
                    continue;
                }
                answer => drop(answer?),
            }
            if let Some(known) = &mut journal
                && let Err(error) = known.chunk_is_durable(index)
            {
                tracing::warn!(%error, "how far the file has come is not written down any more");
                journal = None;
            }
            durable_bytes += bytes_of(index);
            progress(FileProgress { durable_bytes, bytes });
        }
        // A file that has grown is another file, too.
        let (file_now, path_now, known) = (Arc::clone(&read.file), Arc::clone(&path), read.stamp);
        if on_disk(move || stamp(&file_now, &path_now)).await? != known {
            return Err(AttachmentError::Changed { path: path.to_path_buf() });
        }
        // Last: whoever has it needs to wait for nothing.
        let payload = head(id).to_bytes().ok_or(AttachmentError::Description)?;
        let message_id = loop {
            let age = Duration::from_millis(clock::now_ms().saturating_sub(begun_ms));
            if age >= live && count > 0 {
                return Err(AttachmentError::Expired { age });
            }
            match self.submit_part(to, payload.clone(), file.options).await?.await {
                Err(error) if is_outworn(&error) => {}
                sent => break sent?.message_id,
            }
        };
        if let Some(Err(error)) = journal.map(Journal::end) {
            tracing::warn!(%error, "the file is sent; how far it had come stays written down");
        }
        let (messages, resumed_chunks) = (u64::from(count) + 1, before.len() as u64);
        Ok(SentFile { id, message_id, bytes, messages, resumed_chunks })
    }

    /// A message of an attachment, which waits for room at the node.
    async fn submit_part(
        &self,
        to: &AgentName,
        payload: Vec<u8>,
        options: SendOptions,
    ) -> Result<PendingSend, AttachmentError> {
        let options = SendOptions { kind: Kind::Direct, correlation_id: None, ..options };
        let deadline = options.deadline.map(|after| (after, Instant::now() + after));
        let submitter = self.submitter();
        let handling = Handling { retry_for_us: u64::MAX, ..submitter.usual() };
        let message_id = clock::new_message_id();
        let submit = submitter.submit_so(handling, message_id, to, payload.into(), options, deadline);
        let pending = match deadline {
            None => submit.await?,
            Some((after, at)) => {
                timeout_at(at, submit).await.map_err(|_| SendError::TimedOut { message_id, after })??
            }
        };
        Ok(pending)
    }
}

/// Whether the node said that the message's id is older than what it can tell from a replay.
fn is_outworn(error: &SendError) -> bool {
    let code = match error {
        SendError::Refused { code, .. } | SendError::Unknown { code, .. } => *code,
        _ => return false,
    };
    code == RejectCode::OutsideDedupWindow
}

fn read(path: &Path) -> Result<Read, AttachmentError> {
    let file = File::open(path).map_err(failed(path, "read"))?;
    // What is no file, such as a pipe, cannot be read twice, and does not say how long it is.
    if !file.metadata().map_err(failed(path, "read"))?.is_file() {
        let other = io::Error::new(io::ErrorKind::InvalidInput, "it is not a file; save it in one first");
        return Err(failed(path, "read")(other));
    }
    let stamp = stamp(&file, path)?;
    let bytes = stamp.0;
    let max = CHUNKS_MAX as u64 * CHUNK_BYTES_MAX as u64;
    if bytes > max {
        return Err(AttachmentError::TooLarge { bytes, max });
    }
    let largest = u32::try_from(CHUNK_BYTES_MAX).expect("less than a mebibyte");
    let chunk_bytes = if chunk_count(bytes, CHUNK_BYTES) <= CHUNKS_MAX as u64 { CHUNK_BYTES } else { largest };
    let count = chunk_count(bytes, chunk_bytes);
    let mut hashes = Vec::with_capacity(usize::try_from(count).expect("a head has fewer chunks"));
    let mut content = vec![0; chunk_bytes as usize];
    for index in 0..count {
        let begin = index * u64::from(chunk_bytes);
        let length = usize::try_from((bytes - begin).min(u64::from(chunk_bytes))).expect("a chunk");
        file.read_exact_at(&mut content[..length], begin).map_err(failed(path, "read"))?;
        hashes.push(sha256(&[&content[..length]]));
    }
    Ok(Read { file: Arc::new(file), stamp, bytes, chunk_bytes, hashes })
}

/// Length and time of the last change of a file.
fn stamp(file: &File, path: &Path) -> Result<(u64, SystemTime), AttachmentError> {
    let metadata = file.metadata().map_err(failed(path, "read"))?;
    Ok((metadata.len(), metadata.modified().map_err(failed(path, "read"))?))
}

/// Which chunk of which file.
#[derive(Clone, Copy)]
struct Piece {
    id: AttachmentId,
    index: u32,
    chunk_bytes: u32,
    bytes: u64,
}

fn chunk(file: &File, path: &Path, piece: Piece, expected: &[u8; 32]) -> Result<Vec<u8>, AttachmentError> {
    let Piece { id, index, chunk_bytes, bytes } = piece;
    let begin = u64::from(index) * u64::from(chunk_bytes);
    let mut content = vec![0; usize::try_from((bytes - begin).min(u64::from(chunk_bytes))).expect("a chunk")];
    match file.read_exact_at(&mut content, begin) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(failed(path, "read")(error)),
        Ok(()) if sha256(&[&content]) == *expected => {}
        _ => return Err(AttachmentError::Changed { path: path.to_owned() }),
    }
    let chunk = AttachmentChunk { id, index, chunk_bytes, bytes, content: &content };
    Ok(chunk.to_bytes().expect("a chunk as its head says"))
}
