//! Bugs to plant into the log, the mailboxes and the shard, so that the simulator's rules can prove that they see.
//!
//! Without the feature `planted-bugs` every question below is answered "no" when the program is compiled, and nothing of
//! this is in it.

#[cfg(feature = "planted-bugs")]
use std::cell::Cell;

/// A bug of the product, each of a kind that has been in the logs of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// Recovery does not compare a frame's link with the frame before it.
    SkipPreviousCrc,
    /// Recovery takes every bad frame for the unsynced end.
    CutAtFirstBadFrame,
    /// Recovery does not compare the nonce of a frame with that of its segment.
    IgnoreNonce,
    /// Recovery takes frames of a recycled file's earlier life for those that follow.
    AcceptOldFrames,
    /// A start does not write back what recovery read and nothing proves durable.
    SkipRewrite,
    /// A completed write counts, and all before it do, whether they were reported or not.
    AcknowledgeBeyondGap,
    /// A failed write counts as done.
    AcknowledgeFailedWrite,
    /// Records are applied when their write begins.
    DeliverBeforeDurable,
    /// Nothing ever states that the last frame is durable.
    SkipConfirmation,
    /// Trimmed segments go before the frame that states the new start is durable.
    TrimBeforeCarryOver,
    /// The next segment is made before the header of the current one is durable.
    PrepareEarly,
    /// Recovery does not learn which sequences were given.
    ReuseSequence,
    /// Recovery does not learn below which time message ids are refused.
    ForgetFloor,
    /// Messages expire two seconds before their time.
    ExpireEarly,
    /// A message that expired is settled before the notice to its sender is durable.
    ForgetBeforeNotice,
    /// Of messages that expired after they left memory nobody is told.
    NoNoticeFromDisk,
    /// A duplicate is answered at once, though its first copy is on its way.
    AnswerDuplicateEarly,
    /// What the log had no room for goes to the end of what waits.
    LetOvertake,
    /// Settles change the mailboxes and never reach the log.
    SettleInMemoryOnly,
    /// What waits for a log that was fenced is answered as stored.
    AnswerWhenFenced,
    /// Credit of a subscriber counts twice.
    CountCreditTwice,
    /// A dead letter that is moved is not said to be dead again.
    ForgetDeadWhenMoved,
    /// A restart takes dead letters for messages that wait.
    ReviveOnRestart,
    /// The pause before a message is delivered again never ends.
    PauseForEver,
    /// Dead letters that are to live again do so in memory only.
    ReviveInMemoryOnly,
    /// A message that was moved counts twice against the quotas.
    CountMovedTwice,
    /// Of the place of a message that was moved, the segment is the new one and the byte in it the old one.
    KeepOldOffset,
    /// A message is moved although the record that settles it is on its way.
    MoveWhileSettling,
    /// What was moved is not in the digest of its segment.
    LeaveMovedOutOfDigest,
    /// A digest is taken that is of another segment, or of an earlier life of this one.
    TakeAnyDigest,
    /// The last frame of a digest is left out.
    LeaveOutLastFrame,
    /// What is read back is not held against its checksum.
    BelieveWhatIsRead,
    /// Files that are held for a copy are deleted and reused as others are.
    ReuseHeld,
    /// What a subscriber acknowledged makes room in its channel before that is durable.
    CursorBeforeDurable,
    /// A channel at its quota lets its oldest messages go, whoever still wants them.
    MakeRoomOfUnconsumed,
    /// A cursor moves one message further than its subscriber says.
    AcknowledgeOneMore,
    /// Whoever comes again to read a channel begins behind what is durably acknowledged, not behind what is.
    GoBackToDurable,
    /// Recovery does not learn how far subscriptions had come.
    ForgetCursors,
    /// Recovery does not learn of subscriptions that were carried over.
    ForgetCarriedSubscriptions,
    /// A subscription that begins now begins behind the next message.
    BeginLate,
    /// A message that a member of a group has is handed to the next one that asks, too.
    HandOutTwice,
    /// A subscription is said to be there before it is durable.
    SubscribedBeforeDurable,
    /// Whoever reads a channel goes on for a while under a snapshot that does not let them.
    ReadAfterRemoval,
    /// Publishers are told who joined after the outcomes of messages.
    TellJoinLate,
    /// The end of a subscription that the log had no room for is not tried again.
    ForgetRefusedEnd,
    /// Nobody looks at a subscription that became durable after all others were looked at.
    LeaveLateJoined,
    /// A signal is stored like a message.
    StoreSignals,
    /// Another subscription has the credit for signals that the one before it had.
    KeepSignalCredit,
    /// Signals of agents that may not act any more are pushed.
    SignalOfRevoked,
    /// Whoever signals is told when nobody listens.
    TellWhoListens,
    /// Presence is shown to whoever asks.
    ShowToAnybody,
    /// Another subscription shows itself because the one before it did.
    KeepPresence,
    /// What is over is pushed as long as nothing has settled it.
    PushWhatIsOver,
    /// A mailbox takes messages above its quota.
    ForgetQuota,
}

/// Whether this bug is planted in the thread that asks.
#[cfg(not(feature = "planted-bugs"))]
pub const fn is_planted(_: Bug) -> bool {
    false
}

/// Whether this bug is planted in the thread that asks.
#[cfg(feature = "planted-bugs")]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plants a bug in this thread, or takes it out.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

// The product is built without: the answer is known before it runs.
#[cfg(not(feature = "planted-bugs"))]
const _: () = assert!(!is_planted(Bug::SkipPreviousCrc));
