//! Putting files together.
//!
//! A head comes behind its chunks: it is what hands the file out, and is never held. One that is early is refused for now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use creto_crypto_accel::digest::sha256;
use creto_envelope::AgentName;
use creto_envelope::attachment::{AttachmentChunk, AttachmentHead, AttachmentId, AttachmentPart};

use super::AttachmentError;
use super::spool::{Key, Part, Settled, Shape, Spool};
use crate::receiver::Delivery;
use crate::stats::UNPOISONED;
use crate::worker::on_disk;

/// When what there is no room for is wanted again.
const LATER: Duration = Duration::from_secs(5);
/// Tries of a part for which there is no room, some minutes, before its file is refused: what waits in the mailbox takes the room there
/// that the files need which have begun.
const TRIES_WITHOUT_ROOM: u8 = 10;
/// A file that nothing was added to for so long, while it could have been, makes room: its sender would not go on with it.
const ABANDONED: Duration = Duration::from_secs(86_400);

/// What a receiver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachmentLimits {
    /// Most bytes of one file. Default 1 GiB.
    pub file_bytes_max: u64,
    /// Most bytes of files that are not whole, together; each counts in full from its first chunk on. Default 4 GiB.
    pub parts_bytes_max: u64,
    /// Most files that are not whole. Default 64.
    pub parts_max: usize,
    /// The same of one sender, who may have half of the bytes, too. Default 16.
    pub sender_parts_max: usize,
    /// How long a file that is not whole is kept when nothing is added to it, and its room is wanted. Default 32 days: a mailbox keeps
    /// messages for 31 at most. One that nothing is added to for a day while somebody receives makes room before.
    pub keep_parts: Duration,
}

impl Default for AttachmentLimits {
    fn default() -> Self {
        Self {
            file_bytes_max: 1 << 30,
            parts_bytes_max: 4 << 30,
            parts_max: 64,
            sender_parts_max: 16,
            keep_parts: Duration::from_secs(32 * 86_400),
        }
    }
}

/// A folder that files are received in.
///
/// Give it every delivery; what is no part of an attachment comes back. It acknowledges each chunk when that is on the disk, and gives
/// the head out with the whole file: **acknowledge it when you have the file**, and move the file only then. What is not whole survives a
/// restart, on both sides. One process works in a folder at a time. How many whole files there are is the application's business.
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
    /// Not now: the part was refused for now, and comes again.
    Later {
        /// Who sent it.
        from: AgentName,
        /// Which attachment.
        id: AttachmentId,
        /// Why.
        later: Later,
    },
    /// The attachment is not wanted, or does not hold: this part, and its head, are dead letters, and its other chunks are dropped.
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
    /// Bytes on the disk.
    pub received_bytes: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// A file that is whole, and on the disk under its name. Every byte is the sender's: the head has the hashes of all chunks, and both
/// signatures of its sender hold.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReceivedFile {
    /// Where it is. Its name is the sender's, but for a first character that would hide it, a number where there was one of that name,
    /// or the attachment's id where the file system does not take it.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Later {
    /// As many files are not whole as may be, of all or of this sender.
    #[error("too many files are not whole")]
    TooManyParts,
    /// Files that are not whole have as many bytes as they may, of all or of this sender.
    #[error("files that are not whole take all the room that there is for them")]
    NoRoom,
    /// The head is there and chunks are not.
    #[error("chunks of it are missing")]
    Missing,
}

/// Why an attachment is refused. The number is the reason of the dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[repr(u16)]
pub enum Refusal {
    /// The file is larger than the receiver takes.
    #[error("the file is larger than this receiver takes")]
    TooLarge = 65_000,
    /// Its parts do not fit each other.
    #[error("its head and its chunks do not fit each other: its sender made a mistake, or changed the file meanwhile")]
    Broken = 65_001,
    /// The receiver's disk does not have what was written to it.
    #[error("what was received does not come back from the disk: look at the disk, and ask for the file again")]
    Damaged = 65_002,
    /// There was no room for it for too long.
    #[error(
        "other files that are not whole took all the room that there is, for too long: ask for it again when they are"
    )]
    NoRoom = 65_003,
}

impl Refusal {
    fn of(reason: u16) -> Self {
        [Self::TooLarge, Self::Damaged, Self::NoRoom]
            .into_iter()
            .find(|known| *known as u16 == reason)
            .unwrap_or(Self::Broken)
    }
}

#[derive(Debug)]
struct Inner {
    spool: Spool,
    limits: AttachmentLimits,
    /// Files that are not whole.
    parts: BTreeMap<Key, Part>,
}

/// What becomes of a part.
enum Verdict {
    /// It is on the disk.
    Stored(PartTaken),
    Known,
    Whole(PathBuf),
    Later(Later),
    Refused(Refusal),
}

impl Attachments {
    /// Opens a folder to receive in, and makes it if it is not there.
    ///
    /// # Errors
    /// [`AttachmentError::File`], or [`AttachmentError::InUse`] when another process has it.
    pub async fn open(folder: impl AsRef<Path>, limits: AttachmentLimits) -> Result<Self, AttachmentError> {
        let folder = folder.as_ref().to_owned();
        on_disk(move || {
            let spool = Spool::open(&folder)?;
            let parts = spool.parts()?;
            Ok(Self { inner: Arc::new(Mutex::new(Inner { spool, limits, parts })) })
        })
        .await
    }

    /// Takes a delivery. When the future is dropped the part is taken all the same; a file that became whole with it is where it should
    /// be, and its head comes again with the next connection.
    ///
    /// # Errors
    /// [`AttachmentError::File`]: the part was not taken, was refused for now, and comes again.
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
        let payload = delivery.payload.clone();
        let Ok(Some(part)) = AttachmentPart::parse(&payload) else { return Ok(Taken::Message(Box::new(delivery))) };
        let id = match &part {
            AttachmentPart::Head(head) => head.id,
            AttachmentPart::Chunk(chunk) => chunk.id,
        };
        let from = delivery.from.clone();
        let key = (delivery.from_id, id);
        let verdict = match self.judge(key, &part, &payload, &from) {
            Ok(Verdict::Later(Later::TooManyParts | Later::NoRoom)) if delivery.attempt >= TRIES_WITHOUT_ROOM => {
                self.refuse(key, Refusal::NoRoom)
            }
            verdict => verdict,
        };
        // Whatever failed, the part is wanted again, and not only with the next connection.
        let verdict = verdict.inspect_err(|_| delivery.nack_after(LATER))?;
        Ok(match (verdict, part) {
            (Verdict::Stored(taken), _) => {
                delivery.ack();
                Taken::Part(taken)
            }
            (Verdict::Whole(path), AttachmentPart::Head(head)) => {
                Taken::File(Box::new(received(&head, path, delivery)))
            }
            (Verdict::Known | Verdict::Whole(_), _) => {
                delivery.ack();
                Taken::Known
            }
            (Verdict::Later(later), _) => {
                delivery.nack_after(LATER);
                Taken::Later { from, id, later }
            }
            (Verdict::Refused(refusal), _) => {
                delivery.reject(refusal as u16);
                Taken::Refused { from, id, refusal }
            }
        })
    }

    fn judge(
        &mut self,
        key: Key,
        part: &AttachmentPart<'_>,
        payload: &[u8],
        from: &AgentName,
    ) -> Result<Verdict, AttachmentError> {
        match self.spool.settled(key) {
            // One letter says so, and the head with the hashes another. All chunks as letters would fill the mailbox.
            Some(Settled::Refused(reason)) => {
                return Ok(match part {
                    AttachmentPart::Chunk(_) => Verdict::Known,
                    AttachmentPart::Head(_) => Verdict::Refused(Refusal::of(*reason)),
                });
            }
            Some(Settled::Finished(finished)) => {
                return Ok(match part {
                    AttachmentPart::Chunk(_) => Verdict::Known,
                    // The application has it, and has moved it; or this is the head of a run that did not know so.
                    AttachmentPart::Head(head) if finished.digest == sha256(&[payload]) => {
                        let shape = Shape { bytes: head.bytes, chunk_bytes: head.chunk_bytes };
                        self.spool.place_of(finished, shape, head.chunk_hashes)?.map_or(Verdict::Known, Verdict::Whole)
                    }
                    AttachmentPart::Head(_) => Verdict::Refused(Refusal::Broken),
                });
            }
            None => {}
        }
        let shape = match part {
            AttachmentPart::Head(head) => Shape { bytes: head.bytes, chunk_bytes: head.chunk_bytes },
            AttachmentPart::Chunk(chunk) => Shape { bytes: chunk.bytes, chunk_bytes: chunk.chunk_bytes },
        };
        if shape.bytes > self.limits.file_bytes_max {
            return self.refuse(key, Refusal::TooLarge);
        }
        if !self.parts.contains_key(&key) {
            if matches!(part, AttachmentPart::Head(head) if !head.chunk_hashes.is_empty()) {
                return Ok(Verdict::Later(Later::Missing));
            }
            if let Some(later) = self.room_for(key, shape)? {
                return Ok(Verdict::Later(later));
            }
            let begun = self.spool.part(key, Some(shape))?.expect("it begins with this shape");
            self.parts.insert(key, begun);
        }
        if self.parts[&key].shape != shape {
            return self.refuse(key, Refusal::Broken);
        }
        match part {
            AttachmentPart::Head(head) => self.judge_head(key, head, payload),
            AttachmentPart::Chunk(chunk) => self.judge_chunk(key, chunk, from),
        }
    }

    /// Why there is no room for one more file, after what nobody goes on with was deleted.
    fn room_for(&mut self, key: Key, shape: Shape) -> Result<Option<Later>, AttachmentError> {
        if self.is_full(key, shape).is_some() {
            let is_old = |(key, part): &(&Key, &Part)| {
                part.rests() > ABANDONED || self.spool.rests(**key) > self.limits.keep_parts
            };
            let mut old: Vec<_> = self.parts.iter().filter(is_old).map(|(key, part)| (part.rests(), *key)).collect();
            // Those that rest longest go first, and no more than need to.
            old.sort_unstable();
            while self.is_full(key, shape).is_some()
                && let Some((_, old)) = old.pop()
            {
                self.refuse(old, Refusal::NoRoom)?;
            }
        }
        Ok(self.is_full(key, shape))
    }

    fn is_full(&self, key: Key, shape: Shape) -> Option<Later> {
        let sum = |of_sender: bool| {
            let counted = self.parts.iter().filter(|((sender, _), _)| !of_sender || *sender == key.0);
            counted.fold((0, 0u64), |(count, bytes), (_, part)| (count + 1, bytes.saturating_add(part.shape.bytes)))
        };
        let AttachmentLimits { parts_bytes_max, parts_max, sender_parts_max, .. } = self.limits;
        let ((all, all_bytes), (own, own_bytes)) = (sum(false), sum(true));
        if all >= parts_max || own >= sender_parts_max {
            return Some(Later::TooManyParts);
        }
        // One that is alone may be as large as a file may be.
        let is_over = |bytes: u64, max: u64| bytes > 0 && bytes.saturating_add(shape.bytes) > max;
        (is_over(all_bytes, parts_bytes_max) || is_over(own_bytes, parts_bytes_max / 2)).then_some(Later::NoRoom)
    }

    fn judge_head(&mut self, key: Key, head: &AttachmentHead<'_>, payload: &[u8]) -> Result<Verdict, AttachmentError> {
        let part = &self.parts[&key];
        if !part.have.iter().all(|(index, hash)| head.chunk_hashes.get(*index as usize) == Some(hash)) {
            return self.refuse(key, Refusal::Broken);
        }
        if part.have.len() < head.chunk_hashes.len() {
            return Ok(Verdict::Later(Later::Missing));
        }
        if !self.spool.is_as(key, part.shape, head.chunk_hashes)? {
            return self.refuse(key, Refusal::Damaged);
        }
        let path = self.spool.finish(key, sha256(&[payload]), head.name)?;
        self.parts.remove(&key);
        Ok(Verdict::Whole(path))
    }

    fn judge_chunk(
        &mut self,
        key: Key,
        chunk: &AttachmentChunk<'_>,
        from: &AgentName,
    ) -> Result<Verdict, AttachmentError> {
        let part = self.parts.get_mut(&key).expect("it was just looked up");
        let hash = sha256(&[chunk.content]);
        match part.have.get(&chunk.index) {
            Some(known) if *known == hash => return Ok(Verdict::Known),
            Some(_) => return self.refuse(key, Refusal::Broken),
            None => part.write(chunk, hash)?,
        }
        let (received_bytes, bytes) = (part.received(), part.shape.bytes);
        Ok(Verdict::Stored(PartTaken { from: from.clone(), id: key.1, received_bytes, bytes }))
    }

    /// Nothing of this attachment is wanted any more: remembered before anything of it is deleted.
    fn refuse(&mut self, key: Key, refusal: Refusal) -> Result<Verdict, AttachmentError> {
        self.spool.settle(key, Settled::Refused(refusal as u16))?;
        self.parts.remove(&key);
        self.spool.forget(key)?;
        Ok(Verdict::Refused(refusal))
    }
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
