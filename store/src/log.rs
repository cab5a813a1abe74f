//! What a shard asks of a log: the place where another back end plugs in.
//!
//! ```text
//! append(record) --> next_action(): to the driver --> completed(id, outcome) --> next_durable(): the record, safe to act on
//! trim(point, carried)   what lies before `point` goes, and what is still needed of it is appended again first
//! seal()                 nothing is appended any more; when everything is durable, end() says where the log ends
//! ```
//!
//! [`Wal`](crate::Wal) keeps its records on a disk, [`MemoryLog`](crate::MemoryLog) only as long as it lives. The
//! conformance suite (`creto_store::conformance`, a feature) holds the rules below against any of them.
//!
//! # Rules
//!
//! 1. **Order.** Records become durable in the order in which they were taken, each exactly as it was, none twice and none
//!    left out. A log's own records (a [`Start`](crate::Start)) come before all others of its life.
//! 2. **Durable means done.** Nothing is handed out by [`next_durable`](RecordLog::next_durable) before every write that it
//!    depends on, and every write before those, was reported to have succeeded.
//! 3. **A failed write fences.** What it held, and everything behind it, is never handed out in this life, and nothing is
//!    taken any more. Whether any of it is found by the next one, nobody knows.
//! 4. **Every queue is bounded.** A record is refused ([`AppendError`]) before anything is promised about it. A log without
//!    space for messages still takes settles: they are how space comes back.
//! 5. **A durable record stands at its position**, encoded, until it is trimmed: what is read there from
//!    [`Position::offset`] on is the record, byte for byte.
//! 6. **A trim takes a prefix.** What it carries over is durable before anything of the prefix goes.
//! 7. **A sealed log has one end.** Nothing is appended after the seal; what was taken before becomes durable, or the log is
//!    fenced and has no end.
//! 8. **The next life finds at least what was durable**, in order, then perhaps more of what was taken, without a gap, and
//!    nothing else. It has a higher epoch than any that was started. (For a log that keeps anything.)
//!
//! # Who is locked out by what
//!
//! A seal is the owner's own word, kept in memory: it ends this life of the log so that another owner can begin the next
//! one. It is not written down as a state, because no reader needs it. Against an owner that gave no word, because it died
//! or is cut off, stands the epoch: each life has a higher one, made durable before anything is acknowledged, and what an
//! earlier life still has on its way is not part of the log from then on.
//!
//! A log that is kept by several nodes fits the same shape: an append is a proposal, an action may be a message to another
//! node, a record is durable when a quorum has it, the epoch is the term. A leader that hands over in order seals; one
//! that was deposed is fenced, for it cannot know what its successor keeps. What such a log must remember over a restart,
//! its vote among it, is its own to write before it answers.

use crate::lsn::{Epoch, Position, RecordSequence, SegmentNumber};
use crate::mailboxes::LogExtent;
use crate::record::Record;
use crate::wal::{Action, ActionId, AppendClass, AppendError, DiskError, Durable, Fenced, HeldLog, Space};

/// A log of records, as a state machine. The rules that every implementation keeps are in the module's documentation and in
/// `docs/wal-format.md` under "The interface".
pub trait RecordLog {
    /// Takes a record. It comes back from [`next_durable`](Self::next_durable), or the log is fenced first.
    ///
    /// # Errors
    /// [`AppendError`]; the record was not taken.
    ///
    /// # Panics
    /// When a count or length in the record is above its limit in [`limits`](crate::limits).
    fn append(&mut self, record: Record) -> Result<RecordSequence, AppendError>;

    /// Whether a record of this class and size would be taken now, to be asked before anything is promised about it.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    fn check_room(&self, class: AppendClass, bytes: usize) -> Result<(), AppendError>;

    /// Whether [`append`](Self::append) would take this record now.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    fn check_append(&self, record: &Record) -> Result<(), AppendError> {
        self.check_room(AppendClass::of(record), record.encoded_bytes())
    }

    /// Bytes of the largest record that this log takes.
    fn record_bytes_max(&self) -> usize;

    /// The next thing to do, if there is one: call until `None`, after every call that may lead to one.
    fn next_action(&mut self, now_ms: u64) -> Option<Action>;

    /// Takes the outcome of an action other than a read.
    ///
    /// # Errors
    /// [`Fenced`] when something failed that records depend on, now or before.
    ///
    /// # Panics
    /// When no action of this id is under way in a log that is not fenced.
    fn completed(&mut self, id: ActionId, outcome: Result<(), DiskError>) -> Result<(), Fenced>;

    /// The next record that is durable, in the order of the log. Apply it, then acknowledge it.
    fn next_durable(&mut self) -> Option<Durable>;

    /// The last record taken, the log's own among them.
    fn appended(&self) -> RecordSequence;

    /// The last record known durable, whether handed out by [`next_durable`](Self::next_durable) or not.
    fn durable(&self) -> RecordSequence;

    /// Which life of the log this is: higher than that of any that was started before.
    fn epoch(&self) -> Epoch;

    /// Whether this life of the log is proven durable, and with it everything that recovery found. Serve nobody before.
    fn is_started(&self) -> bool;

    /// Why nothing is taken and acknowledged any more, if so.
    fn fenced(&self) -> Option<&Fenced>;

    /// Has the log prove its end, if it can: called when it has been idle for a moment.
    fn confirm(&mut self);

    /// Has durable bytes of a segment read, at multiples of 4 KiB: an [`Action::Read`] under this id, answered to whoever
    /// asked. The segment may be gone when nothing in it is wanted any more; the read then fails, or brings something else.
    /// A sealed log reads on; a fenced one need not.
    fn read(&mut self, segment: SegmentNumber, offset: u64, bytes: usize) -> ActionId;

    /// How long the log is, and where it is being written.
    fn extent(&self) -> LogExtent;

    /// The oldest segment that belongs to the log.
    fn log_start(&self) -> SegmentNumber;

    /// Lets the log begin at `log_start`. `carry_over` holds what older segments know and is still needed; it is durable
    /// before any of them goes. One trim at a time: see [`is_trimming`](Self::is_trimming).
    ///
    /// # Errors
    /// [`AppendError::Sealed`] and [`AppendError::Fenced`]; nothing was begun.
    ///
    /// # Panics
    /// When a trim is under way, or `log_start` lies outside the log.
    fn trim(&mut self, log_start: SegmentNumber, carry_over: Vec<Record>) -> Result<(), AppendError>;

    /// Whether a [`trim`](Self::trim) is not finished. When it is, what lies before the log's start never comes back.
    fn is_trimming(&self) -> bool;

    /// How full the log is.
    fn space(&self) -> Space;

    /// Takes what the medium has left for this log beyond what the log has already.
    fn set_disk_room(&mut self, bytes: u64);

    /// Time has passed: asks again for space that was refused, and gives one spare file back if the log takes more than
    /// `bytes_max`.
    fn tick(&mut self, bytes_max: u64);

    /// Ends this life of the log: nothing is appended from now on. What was taken before becomes durable, and a trim that
    /// was begun is finished. Sealing twice is sealing once.
    fn seal(&mut self);

    /// Whether the log is sealed.
    fn is_sealed(&self) -> bool;

    /// Where a sealed log ends, once everything in it is durable and nothing but reads is under way: from then on another
    /// owner may open it. `None` before that, and for good when the log was fenced first.
    fn end(&self) -> Option<SealedEnd>;

    /// Keeps everything that is durable now as it is, so that it can be copied, until [`let_go`](Self::let_go). One hold at
    /// a time: another one takes its place. `None` before the log has started.
    fn hold(&mut self) -> Option<HeldLog>;

    /// Ends the hold.
    fn let_go(&mut self);

    /// What is held, if something is.
    fn held(&self) -> Option<&HeldLog>;

    /// Bytes that are trimmed and would be given back but for the hold.
    fn held_back_bytes(&self) -> u64;
}

impl LogExtent {
    /// What cleaning goes by, of a log with files that are not part of it any more: `spare_bytes`.
    pub(crate) fn new(space: Space, spare_bytes: u64, active: SegmentNumber, segment_bytes: u64) -> Self {
        let is_short = space.message_bytes_left < space.bytes_max / 4;
        Self { bytes: space.bytes - spare_bytes, active, segment_bytes, is_short, is_giving_back: false }
    }
}

/// Where a sealed log ends: what a new owner starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedEnd {
    /// The life that was sealed. The next one's is higher.
    pub epoch: Epoch,
    /// The last record of that life.
    pub sequence: RecordSequence,
    /// Where that record is.
    pub position: Position,
}
