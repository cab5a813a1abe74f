//! What goes wrong in a run, and how often it did.

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Fault {
    /// The process dies between two steps; the page cache stays.
    Kill,
    /// The power fails between two steps; of what was not synced any subset of sectors is there.
    PowerLoss,
    /// The node stops before its logs were started again.
    InterruptedStart,
    /// Of a write that was under way at a power loss some sectors are there, some are not.
    TornWrite,
    /// Of a write that was under way at a power loss nothing is there.
    LostWrite,
    /// A write of a dead process lands after the next one has started.
    LateWrite,
    /// A write ends with an input/output error; what its place holds is anyone's guess.
    FailedWrite,
    /// A sync ends with an error; the cache shows what the disk does not have.
    FailedSync,
    /// A read ends with an error while a log is recovered.
    FailedRead,
    /// A read ends with an error while a message is read back.
    FailedColdRead,
    /// There is no space for another segment.
    NoSpace,
    /// The disk takes fifty times as long as usual.
    SlowDisk,
    /// A write is durable before one that was asked for earlier.
    ReorderedWrite,
    /// Bytes of a copy of the log changed where it is durable.
    BitRot,
    /// A segment of a copy of the log vanished.
    LostSegment,
    /// The digest of a segment is lost, cut, changed, or another's.
    DamagedDigest,
    /// A connection breaks; frames on their way are lost from some point on, in each direction.
    ConnectionDrop,
    /// A second connection of an agent takes the subscription over.
    Takeover,
    /// A batch was changed after it was signed.
    Tampering,
    /// The node's wall clock jumps.
    ClockJump,
    /// The node is asked to shut down in an orderly way.
    Drain,
    /// A segment of a copy of the log is one of another history: a folder brought back from a backup, and mixed.
    ForeignSegment,
    /// Behind the end of a copy of the log stands a frame of another history that claims to belong there.
    ForeignFrame,
    /// A write lands at another place of the same file or of another one, and reports success.
    MisdirectedWrite,
    /// A write lands nowhere, and reports success.
    VanishedWrite,
    /// A sync does nothing, and reports success.
    LyingSync,
    /// The only copy of a log changes while the node is down.
    Rot,
    /// A file cannot be made, deleted or shortened.
    FailedFile,
    /// For a while the disk has no space for any new file.
    DiskFull,
    /// An agent comes back with an old state and sends everything again.
    Resend,
    /// A log is held and copied while it goes on.
    Backup,
    /// A message is read back with one bit changed; the disk has it as it was.
    FlippedRead,
    /// Control cannot read a key record that a shard asks for.
    BusyControl,
    /// The record of a channel changes: who may read it, or how much it keeps.
    RecordChange,
    /// A channel is deleted.
    ChannelDeletion,
    /// An agent that reads or publishes in channels is revoked.
    Revocation,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 36] = [
        Self::Kill,
        Self::PowerLoss,
        Self::InterruptedStart,
        Self::TornWrite,
        Self::LostWrite,
        Self::LateWrite,
        Self::FailedWrite,
        Self::FailedSync,
        Self::FailedRead,
        Self::FailedColdRead,
        Self::NoSpace,
        Self::SlowDisk,
        Self::ReorderedWrite,
        Self::BitRot,
        Self::LostSegment,
        Self::DamagedDigest,
        Self::ConnectionDrop,
        Self::Takeover,
        Self::Tampering,
        Self::ClockJump,
        Self::Drain,
        Self::ForeignSegment,
        Self::ForeignFrame,
        Self::MisdirectedWrite,
        Self::VanishedWrite,
        Self::LyingSync,
        Self::Rot,
        Self::FailedFile,
        Self::DiskFull,
        Self::Resend,
        Self::Backup,
        Self::FlippedRead,
        Self::BusyControl,
        Self::RecordChange,
        Self::ChannelDeletion,
        Self::Revocation,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerLoss => "power-loss",
            Self::InterruptedStart => "interrupted-start",
            Self::TornWrite => "torn-write",
            Self::LostWrite => "lost-write",
            Self::LateWrite => "late-write",
            Self::FailedWrite => "failed-write",
            Self::FailedSync => "failed-sync",
            Self::FailedRead => "failed-read",
            Self::FailedColdRead => "failed-cold-read",
            Self::NoSpace => "no-space",
            Self::SlowDisk => "slow-disk",
            Self::ReorderedWrite => "reordered-write",
            Self::BitRot => "bit-rot",
            Self::LostSegment => "lost-segment",
            Self::DamagedDigest => "damaged-digest",
            Self::ConnectionDrop => "connection-drop",
            Self::Takeover => "takeover",
            Self::Tampering => "tampering",
            Self::ClockJump => "clock-jump",
            Self::Drain => "drain",
            Self::ForeignSegment => "foreign-segment",
            Self::ForeignFrame => "foreign-frame",
            Self::MisdirectedWrite => "misdirected-write",
            Self::VanishedWrite => "vanished-write",
            Self::LyingSync => "lying-sync",
            Self::Rot => "rot",
            Self::FailedFile => "failed-file",
            Self::DiskFull => "disk-full",
            Self::Resend => "resend",
            Self::Backup => "backup",
            Self::FlippedRead => "flipped-read",
            Self::BusyControl => "busy-control",
            Self::RecordChange => "record-change",
            Self::ChannelDeletion => "channel-deletion",
            Self::Revocation => "revocation",
        }
    }
}

/// How often each fault was injected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl FaultCounts {
    /// Counts one.
    pub fn add(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// How often this one was injected.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    /// Kinds that were never injected.
    pub fn never(&self) -> impl Iterator<Item = Fault> + '_ {
        Fault::ALL.into_iter().filter(|fault| self.of(*fault) == 0)
    }
}
