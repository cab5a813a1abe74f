//! Sending a file.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use creto_crypto_accel::digest::sha256;
use creto_envelope::attachment::{
    AttachmentChunk, AttachmentHead, AttachmentId, CHUNK_BYTES_MAX, CHUNKS_MAX, chunk_count, is_file_name,
};
use creto_envelope::{AgentName, Kind, MessageId};

use super::journal::Journal;
use super::{AttachmentError, failed};
use crate::client::Agent;
use crate::clock;
use crate::sender::{PendingSend, SendOptions};
use crate::worker::on_disk;

/// Bytes of a chunk, unless the file needs larger ones: several fit into one batch.
const CHUNK_BYTES: u32 = 256 * 1024 - 32;
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
    /// How its messages are sent. Receipt and notice are those of the head alone: its receipt says that the application there has the
    /// whole file. Kind and correlation id are not used.
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
    /// The head's message id, or none when an earlier run has sent the head.
    pub message_id: Option<MessageId>,
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
        let same = head(AttachmentId([0; 16])).to_bytes().ok_or(AttachmentError::Description)?;
        let fresh = AttachmentId(clock::random());
        let mut journal = match file.resume {
            Some(path) => {
                let (to, digest) = (self.id_of(to), sha256(&[&same]));
                Some(on_disk(move || Journal::open(&path, to, &digest, fresh)).await?)
            }
            None => None,
        };
        let id = journal.as_ref().map_or(fresh, |journal| journal.id);

        let mut message_id = None;
        if !journal.as_ref().is_some_and(|journal| journal.has_head) {
            let payload = head(id).to_bytes().ok_or(AttachmentError::Description)?;
            let options = SendOptions { kind: Kind::Direct, correlation_id: None, ..file.options };
            message_id = Some(self.send_with(to, payload, options).await?.message_id);
            if let Some(journal) = &mut journal {
                journal.head_is_durable()?;
            }
        }
        let options =
            SendOptions { kind: Kind::Direct, correlation_id: None, receipt: false, notice: false, ..file.options };
        let count = u32::try_from(read.hashes.len()).expect("a head has fewer chunks");
        let is_durable = |index: &u32| journal.as_ref().is_some_and(|journal| journal.chunks.contains(index));
        let (before, missing): (Vec<u32>, Vec<u32>) = (0..count).partition(is_durable);
        let bytes_of = |index| head(id).bytes_of_chunk(index) as u64;
        let mut durable_bytes = before.iter().map(|index| bytes_of(*index)).sum();
        progress(FileProgress { durable_bytes, bytes });
        let mut in_flight: VecDeque<(u32, PendingSend)> = VecDeque::with_capacity(CHUNKS_IN_FLIGHT);
        let mut missing = missing.into_iter();
        loop {
            let next = if in_flight.len() < CHUNKS_IN_FLIGHT { missing.next() } else { None };
            if let Some(index) = next {
                let (file, path, expected) = (Arc::clone(&read.file), Arc::clone(&path), read.hashes[index as usize]);
                let length = head(id).bytes_of_chunk(index);
                let payload = on_disk(move || chunk(&file, &path, id, index, chunk_bytes, length, &expected)).await?;
                in_flight.push_back((index, self.submit(to, payload, options).await?));
                continue;
            }
            let Some((index, pending)) = in_flight.pop_front() else { break };
            pending.await?;
            if let Some(journal) = &mut journal {
                journal.chunk_is_durable(index)?;
            }
            durable_bytes += bytes_of(index);
            progress(FileProgress { durable_bytes, bytes });
        }
        if let Some(journal) = journal {
            journal.end()?;
        }
        let (messages, resumed_chunks) = (u64::from(count) + 1, before.len() as u64);
        Ok(SentFile { id, message_id, bytes, messages, resumed_chunks })
    }
}

fn read(path: &Path) -> Result<Read, AttachmentError> {
    let file = File::open(path).map_err(failed(path, "read"))?;
    let bytes = file.metadata().map_err(failed(path, "read"))?.len();
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
    Ok(Read { file: Arc::new(file), bytes, chunk_bytes, hashes })
}

fn chunk(
    file: &File,
    path: &Path,
    id: AttachmentId,
    index: u32,
    chunk_bytes: u32,
    length: usize,
    expected: &[u8; 32],
) -> Result<Vec<u8>, AttachmentError> {
    let mut content = vec![0; length];
    let read = file.read_exact_at(&mut content, u64::from(index) * u64::from(chunk_bytes));
    match read {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(failed(path, "read")(error)),
        Ok(()) if sha256(&[&content]) == *expected => {}
        _ => return Err(AttachmentError::Changed { path: path.to_owned() }),
    }
    Ok(AttachmentChunk { id, index, chunk_bytes, content: &content }.to_bytes().expect("a chunk as its head says"))
}
