//! Putting files together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use creto_crypto_accel::digest::sha256;
use creto_envelope::attachment::{AttachmentChunk, AttachmentHead, AttachmentId, AttachmentPart};
use creto_envelope::{AgentName, Kind};

use super::AttachmentError;
use super::spool::{Key, Part, Spool};
use crate::receiver::Delivery;
use crate::stats::UNPOISONED;
use crate::worker::on_disk;

/// Refused attachments that are remembered, so that their chunks are refused, too.
const REFUSED_MAX: usize = 1_024;
/// When what there is no room for is wanted again.
const LATER: Duration = Duration::from_secs(5);

/// What a receiver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachmentLimits {
    /// Most bytes of one file. Default 1 GiB.
    pub file_bytes_max: u64,
    /// Most bytes of files that are not whole, together. Default 4 GiB.
    pub parts_bytes_max: u64,
    /// Most files that are not whole. Default 64.
    pub parts_max: usize,
    /// How long a file that is not whole is kept when nothing is added to it; asked when the folder is opened. Default 7 days.
    pub keep_parts: Duration,
}

impl Default for AttachmentLimits {
    fn default() -> Self {
        Self {
            file_bytes_max: 1 << 30,
            parts_bytes_max: 4 << 30,
            parts_max: 64,
            keep_parts: Duration::from_secs(7 * 86_400),
        }
    }
}

/// A folder that files are received in.
///
/// Give it every delivery; what is no part of an attachment comes back. It acknowledges each chunk when that is on the disk. The head
/// it keeps until the file is whole, and gives it out with it: **acknowledge it when you have the file**, and move the file only then.
/// What is not whole survives a restart, on both sides. One process works in a folder at a time.
#[derive(Clone, Debug)]
pub struct Attachments {
    inner: Arc<Mutex<Inner>>,
}

/// What a delivery was.
#[derive(Debug)]
#[non_exhaustive]
pub enum Taken {
    /// No part of an attachment, or one of a later version: the application's to handle and to acknowledge.
    Message(Box<Delivery>),
    /// A part, which is on the disk. The file is not whole yet.
    Part(PartTaken),
    /// The file is whole.
    File(Box<ReceivedFile>),
    /// There is no room now: the part was refused for now, and comes again.
    Later(Later),
    /// The attachment is not wanted, or does not hold: its parts go to the dead letters.
    Refused {
        /// Who sent it.
        from: AgentName,
        /// Which attachment.
        id: AttachmentId,
        /// Why.
        refusal: Refusal,
    },
    /// A part that was taken before.
    Known,
}

/// How far a file has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartTaken {
    /// Who sends it.
    pub from: AgentName,
    /// Which attachment.
    pub id: AttachmentId,
    /// The file's name, once the head is there.
    pub name: Option<String>,
    /// Bytes on the disk.
    pub received_bytes: u64,
    /// Bytes of the file, once the head is there.
    pub bytes: Option<u64>,
}

/// A file that is whole, and on the disk under its name. Every byte is the sender's: the head has the hashes of all chunks, and both
/// signatures of its sender hold.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReceivedFile {
    /// Where it is. Its name is the sender's, or with a number where there was one of that name.
    pub path: PathBuf,
    /// What its sender calls it.
    pub name: String,
    /// Its media type as its sender says it, or nothing.
    pub media_type: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Which attachment.
    pub id: AttachmentId,
    /// The sender's own words about it.
    pub note: Bytes,
    /// The head: [`ack`](Delivery::ack) it when the work is done. If it is not acknowledged it comes again, and so does this.
    pub head: Delivery,
}

/// Why a part has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Later {
    /// As many files are not whole as may be.
    TooManyParts,
    /// Files that are not whole have as many bytes as they may.
    NoRoom,
}

/// Why an attachment is refused. The number is the reason of the dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[repr(u16)]
pub enum Refusal {
    /// The file is larger than the receiver takes.
    #[error("the file is larger than this receiver takes")]
    TooLarge = 65_000,
    /// A chunk is not what the head says.
    #[error(
        "a chunk is not what the head of the attachment says: its sender made a mistake, or changed the file meanwhile"
    )]
    BrokenChunk = 65_001,
    /// The receiver's disk does not have what was written to it.
    #[error("the disk does not have what was received: ask for the file again, and look at the disk")]
    Damaged = 65_002,
}

#[derive(Debug)]
struct Inner {
    spool: Spool,
    limits: AttachmentLimits,
    /// Files that are not whole.
    parts: BTreeMap<Key, Incoming>,
    refused: BTreeMap<Key, Refusal>,
}

#[derive(Debug)]
struct Incoming {
    part: Part,
    head: Option<Delivery>,
}

impl Attachments {
    /// Opens a folder to receive in, and makes it if it is not there.
    ///
    /// # Errors
    /// [`AttachmentError::File`], or [`AttachmentError::InUse`] when another process has it.
    pub async fn open(folder: impl AsRef<Path>, limits: AttachmentLimits) -> Result<Self, AttachmentError> {
        let folder = folder.as_ref().to_owned();
        on_disk(move || {
            let spool = Spool::open(&folder, limits.keep_parts)?;
            let parts = spool.parts()?.into_iter().map(|(key, part)| (key, Incoming { part, head: None })).collect();
            let inner = Inner { spool, limits, parts, refused: BTreeMap::new() };
            Ok(Self { inner: Arc::new(Mutex::new(inner)) })
        })
        .await
    }

    /// Takes a delivery. When the future is dropped the part is taken all the same; a file that became whole with it is where it should
    /// be, and its head comes again with the next connection.
    ///
    /// # Errors
    /// [`AttachmentError::File`]: the part was not taken, and comes again with the next connection.
    pub async fn take(&self, delivery: Delivery) -> Result<Taken, AttachmentError> {
        if !delivery.is_attachment_part() {
            return Ok(Taken::Message(Box::new(delivery)));
        }
        let inner = Arc::clone(&self.inner);
        on_disk(move || inner.lock().expect(UNPOISONED).take(delivery)).await
    }
}

impl Inner {
    fn take(&mut self, delivery: Delivery) -> Result<Taken, AttachmentError> {
        debug_assert_eq!(delivery.kind, Kind::Direct, "only such have parts");
        let payload = delivery.payload.clone();
        let Ok(Some(part)) = AttachmentPart::parse(&payload) else { return Ok(Taken::Message(Box::new(delivery))) };
        let key = match &part {
            AttachmentPart::Head(head) => (delivery.from_id, head.id),
            AttachmentPart::Chunk(chunk) => (delivery.from_id, chunk.id),
        };
        if let Some(refusal) = self.refused.get(&key).copied() {
            return Ok(refuse(&delivery, key, refusal));
        }
        if let Some(path) = self.spool.finished(key) {
            return Ok(match part {
                AttachmentPart::Head(head) if path.exists() => Taken::File(Box::new(received(&head, path, delivery))),
                _ => {
                    delivery.ack();
                    Taken::Known
                }
            });
        }
        if !self.parts.contains_key(&key) {
            if self.parts.len() >= self.limits.parts_max {
                delivery.nack_after(LATER);
                return Ok(Taken::Later(Later::TooManyParts));
            }
            let part = self.spool.part(key)?;
            self.parts.insert(key, Incoming { part, head: None });
        }
        match part {
            AttachmentPart::Head(head) => self.take_head(key, &head, delivery),
            AttachmentPart::Chunk(chunk) => self.take_chunk(key, &chunk, delivery),
        }
    }

    fn take_head(&mut self, key: Key, head: &AttachmentHead<'_>, delivery: Delivery) -> Result<Taken, AttachmentError> {
        if head.bytes > self.limits.file_bytes_max {
            return self.refuse_all(key, &delivery, Refusal::TooLarge);
        }
        let incoming = self.parts.get_mut(&key).expect("it was just looked up");
        let part = &incoming.part;
        let fits = part.chunk_bytes.is_none_or(|known| known == head.chunk_bytes)
            && part.have.iter().all(|(index, hash)| head.chunk_hashes.get(*index as usize) == Some(hash));
        if !fits {
            return self.refuse_all(key, &delivery, Refusal::BrokenChunk);
        }
        // One that comes again replaces the one from the connection before.
        let from = delivery.from.clone();
        incoming.head = Some(delivery);
        self.complete(key, from)
    }

    fn take_chunk(
        &mut self,
        key: Key,
        chunk: &AttachmentChunk<'_>,
        delivery: Delivery,
    ) -> Result<Taken, AttachmentError> {
        let end = chunk.offset() + chunk.content.len() as u64;
        if end > self.limits.file_bytes_max {
            return self.refuse_all(key, &delivery, Refusal::TooLarge);
        }
        let waiting: u64 = self.parts.values().map(|incoming| incoming.part.bytes).sum();
        let incoming = self.parts.get_mut(&key).expect("it was just looked up");
        if incoming.part.have.contains_key(&chunk.index) {
            delivery.ack();
            return Ok(Taken::Known);
        }
        let hash = sha256(&[chunk.content]);
        let fits_others = incoming.part.chunk_bytes.is_none_or(|known| known == chunk.chunk_bytes);
        let fits_head = incoming.head.as_ref().is_none_or(|head| is_of(head, chunk, &hash));
        if !fits_others || !fits_head {
            return self.refuse_all(key, &delivery, Refusal::BrokenChunk);
        }
        if waiting + chunk.content.len() as u64 > self.limits.parts_bytes_max {
            delivery.nack_after(LATER);
            return Ok(Taken::Later(Later::NoRoom));
        }
        incoming.part.write(chunk, hash)?;
        delivery.ack();
        self.complete(key, delivery.from.clone())
    }

    /// Hands the file out, if it is whole.
    fn complete(&mut self, key: Key, from: AgentName) -> Result<Taken, AttachmentError> {
        let incoming = self.parts.get_mut(&key).expect("it was just added to");
        let received_bytes = incoming.part.bytes;
        let taken = |name, bytes| Taken::Part(PartTaken { from, id: key.1, name, received_bytes, bytes });
        let Some(payload) = incoming.head.as_ref().map(|head| head.payload.clone()) else {
            return Ok(taken(None, None));
        };
        let head = head_of(&payload);
        if incoming.part.have.len() < head.chunk_hashes.len() {
            return Ok(taken(Some(head.name.to_owned()), Some(head.bytes)));
        }
        let delivery = incoming.head.take().expect("its payload was just read");
        if !self.spool.is_as(key, head.bytes, head.chunk_bytes, head.chunk_hashes)? {
            return self.refuse_all(key, &delivery, Refusal::Damaged);
        }
        // From here on the file says that it is whole, also if this comes to no end.
        self.parts.remove(&key);
        let path = self.spool.finish(key, head.name)?;
        Ok(Taken::File(Box::new(received(&head, path, delivery))))
    }

    /// Nothing of this attachment is wanted any more.
    fn refuse_all(&mut self, key: Key, delivery: &Delivery, refusal: Refusal) -> Result<Taken, AttachmentError> {
        if let Some(head) = self.parts.remove(&key).and_then(|incoming| incoming.head) {
            head.reject(refusal as u16);
        }
        if self.refused.len() >= REFUSED_MAX {
            self.refused.pop_first();
        }
        self.refused.insert(key, refusal);
        let refused = refuse(delivery, key, refusal);
        self.spool.forget(key)?;
        Ok(refused)
    }
}

fn refuse(delivery: &Delivery, key: Key, refusal: Refusal) -> Taken {
    delivery.reject(refusal as u16);
    Taken::Refused { from: delivery.from.clone(), id: key.1, refusal }
}

/// The head that a payload is, which was kept because it is one.
fn head_of(payload: &[u8]) -> AttachmentHead<'_> {
    match AttachmentPart::parse(payload) {
        Ok(Some(AttachmentPart::Head(head))) => head,
        _ => unreachable!("only heads are kept"),
    }
}

/// Whether a chunk is one of the file that this head speaks of.
fn is_of(head: &Delivery, chunk: &AttachmentChunk<'_>, hash: &[u8; 32]) -> bool {
    let head = head_of(&head.payload);
    head.chunk_bytes == chunk.chunk_bytes && head.chunk_hashes.get(chunk.index as usize) == Some(hash)
}

fn received(head: &AttachmentHead<'_>, path: PathBuf, delivery: Delivery) -> ReceivedFile {
    ReceivedFile {
        path,
        name: head.name.to_owned(),
        media_type: head.media_type.to_owned(),
        bytes: head.bytes,
        id: head.id,
        note: delivery.payload.slice_ref(head.note),
        head: delivery,
    }
}
