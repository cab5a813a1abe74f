//! The log of a shard and the mailboxes on it, as state machines: bytes and time come in, writes go out.
//!
//! Two halves that meet in the [`Record`]:
//! - **The log** ([`Wal`], [`recover`], [`verify()`]) makes records durable in frames that are written and synced together,
//!   and reads them back after a stop of any kind. `docs/wal-format.md` gives every byte and argues every crash. What a
//!   shard asks of any log is [`RecordLog`]; [`MemoryLog`] is one without a disk.
//! - **The mailboxes** ([`Mailboxes`]) decide what is admitted, hold what is queued, and hand it out in order. They change
//!   only by durable records, so that a restart, which replays the log, leads to the same state. A channel is a mailbox with many
//!   readers: `docs/channels.md`.
//!
//! # What a driver does
//!
//! ```text
//! start:    recover_noted(source, shard, |position, noted| mailboxes.note(position, noted))  -> Recovered
//!           mailboxes.recovered()
//!           Wal::open(config, recovered, epoch_nonce, now_ms)
//!           carry out actions until wal.is_started(); only then serve
//!
//! message:  wal.check_room(Message, bytes)   refuse before anything is promised
//!           mailboxes.admit(..)              New(sequence): into the part; Duplicate: see `Admit`; Refusal: to the sender
//!           wal.append(Record::BatchPart)
//!
//! turn:     while let Some(action) = wal.next_action(now_ms)   carry it out; when done: wal.completed(id, outcome)
//!           while let Some(durable) = wal.next_durable()       mailboxes.apply(durable), then
//!                                                              acknowledge everything up to durable.sequence
//!
//! deliver:  mailboxes.next_for_delivery(..); for each mailboxes.next_read(): wal.read(..); mailboxes.end_turn()
//!           when it is read: mailboxes.read_completed(..) names the mailbox that can go on
//! publish:  mailboxes.admit_published(..) -> wal.append(Record::BatchPart); for each next_leaving(): wal.append(Record::Settle)
//! subscribe: mailboxes.subscribe(..) -> wal.append(Record::Subscribe); when it is durable: mailboxes.attach(..) -> Reader
//! fan out:  for each of mailboxes.take_ready_readers(): next_published(..), acknowledge_upto(..) or acknowledge_each(..);
//!           once a turn: mailboxes.next_cursors(..) -> wal.append(Record::Cursors)
//! consumer: mailboxes.settle(..) -> Record, wal.append(record); mailboxes.nack(..), mailboxes.reject(..);
//!           for each mailboxes.next_death(): wal.append(Record::Dead)
//! tick:     mailboxes.pass(now_us); for each of mailboxes.take_ready(): deliver
//! idle:     wal.confirm(); mailboxes.expire(now_ms, max) -> Record, wal.append(record);
//!           mailboxes.trim_point(..) -> carry_over(..) -> wal.trim(..)
//! expired:  mailboxes.next_expired(): make a notice durable in its sender's mailbox, then mailboxes.settle_expired(..)
//! the end:  wal.seal(); go on with turns until wal.end() is there, or the log is fenced
//! space:    mailboxes.clean(..), a step a turn; mailboxes.next_moved() -> wal.append(Record::Moved)
//! ```
//!
//! Nothing here reads a clock, draws a random number, starts a thread or writes a file. [`FileSource`] reads segment files
//! for recovery; it is the only thing that touches the system.
#![forbid(unsafe_code)]

mod cache;
mod channel;
mod checksum;
mod cold;
#[cfg(feature = "conformance")]
pub mod conformance;
mod dedup;
mod digest;
mod entry;
mod file_source;
mod flags;
mod frame;
mod hash;
mod id;
mod index;
mod layout;
pub mod limits;
mod log;
mod lsn;
mod mailbox;
mod mailboxes;
mod memory_log;
mod noted;
#[doc(hidden)]
pub mod planted;
mod queue;
mod record;
mod recovery;
mod segment;
mod sequences;
mod slab;
mod source;
mod subscription;
mod verify;
mod wal;

pub use channel::Retention;
pub use cold::{ColdRead, ReadId};
pub use dedup::DedupConfig;
pub use digest::{
    DIGEST_MAGIC, DIGEST_VERSION, Digest, DigestDamage, SegmentDigest, digest_file_name, parse_digest_file_name,
};
pub use file_source::FileSource;
pub use flags::MessageFlags;
pub use frame::{FRAME_MAGIC, FRAME_VERSION, FrameDamage, FrameHeader};
pub use id::{GroupId, MailboxId, MessageId, SenderId, SubscriberId};
pub use log::{RecordLog, SealedEnd};
pub use lsn::{Epoch, Lsn, Position, RecordSequence, SegmentNumber};
pub use mailboxes::{
    Admit, Delivery, Depth, Expired, LetterFound, LetterRead, LetterUnread, ListedLetter, LogExtent, Mailboxes,
    MailboxesConfig, Quota, ReadDone, ReadProblem, ReadProblemKind, RedeliveryConfig, Refusal, StartAt,
    SubscribeRefusal, SubscriptionState,
};
pub use memory_log::MemoryLog;
pub use noted::{Noted, NotedMessage, Place};
pub use record::{
    BatchPart, Cursors, CursorsEntry, Dead, DeadLetter, DeathCause, Dedup, DedupSender, PartMessage, Priority,
    Progress, RECORD_VERSION, Record, RecordError, Revive, Settle, SettleCause, Start, Subscribe, Subscriptions,
    SubscriptionsEntry, Unsubscribe,
};
pub use recovery::{
    Corruption, Damage, DigestUse, LogPlace, ReadBehind, Recovered, RecoveryError, read_behind, recover, recover_noted,
};
pub use segment::{
    SEGMENT_MAGIC, SEGMENT_VERSION, SegmentDamage, SegmentHeader, parse_segment_file_name, segment_file_name,
};
pub use source::{SegmentFile, SegmentSource, SourceError};
pub use subscription::Reader;
pub use verify::{DigestState, LogEnd, LogEntry, Report, SegmentReport, verify, walk};
pub use wal::{
    Action, ActionId, AppendClass, AppendError, DiskError, Durable, Fenced, HeldLog, Space, Wal, WalConfig, Write,
};
