//! Bugs to plant, to prove that the checkers see them.

use clap::ValueEnum;
use clap::builder::PossibleValue;
#[cfg(feature = "planted-bugs")]
use creto_store::planted::Bug;

/// A bug to plant. The first ones stand around the product: each is a driver or a disk that breaks its contract. The others
/// are in its code, where the feature `planted-bugs` has put them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlantedBug {
    /// The disk reports a write when it is in the cache, not when it is synced.
    AckBeforeSync,
    /// The driver syncs again after a failed sync, and believes the second answer.
    RetrySync,
    /// The driver makes a segment's file and does not sync the folder.
    SkipFolderSync,
    /// Recovery does not hand the carried-over message ids to the mailboxes.
    ForgetDedupOnRestart,
    /// Recovery does not hand the settle records to the mailboxes.
    LostSettle,
    /// The rings between shards do not keep their order.
    Reorder,
    /// The driver answers a damaged log by deleting what is behind the damage.
    RepairByTruncation,
    /// An agent takes an answer from whoever sends one.
    TakeAnyAnswer,
    /// A receiver keeps chunks of files that it has refused.
    KeepChunks,
    /// A bug inside the product.
    #[cfg(feature = "planted-bugs")]
    Product(Bug),
}

impl PlantedBug {
    /// Every one with its name.
    pub const ALL: &[(Self, &str)] = &[
        (Self::AckBeforeSync, "ack-before-sync"),
        (Self::RetrySync, "retry-sync"),
        (Self::SkipFolderSync, "skip-folder-sync"),
        (Self::ForgetDedupOnRestart, "forget-dedup-on-restart"),
        (Self::LostSettle, "lost-settle"),
        (Self::Reorder, "reorder"),
        (Self::RepairByTruncation, "repair-by-truncation"),
        (Self::TakeAnyAnswer, "take-any-answer"),
        (Self::KeepChunks, "keep-chunks"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::SkipPreviousCrc), "skip-previous-crc"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::CutAtFirstBadFrame), "cut-at-first-bad-frame"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::IgnoreNonce), "ignore-nonce"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::AcceptOldFrames), "accept-old-frames"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::SkipRewrite), "skip-rewrite"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::AcknowledgeBeyondGap), "acknowledge-beyond-gap"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::AcknowledgeFailedWrite), "acknowledge-failed-write"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::DeliverBeforeDurable), "deliver-before-durable"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::SkipConfirmation), "skip-confirmation"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::TrimBeforeCarryOver), "trim-before-carry-over"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::PrepareEarly), "prepare-early"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ReuseSequence), "reuse-sequence"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ForgetFloor), "forget-floor"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ExpireEarly), "expire-early"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ForgetBeforeNotice), "forget-before-notice"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::NoNoticeFromDisk), "no-notice-from-disk"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::AnswerDuplicateEarly), "answer-duplicate-early"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::LetOvertake), "let-overtake"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::SettleInMemoryOnly), "settle-in-memory-only"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::AnswerWhenFenced), "answer-when-fenced"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::CountCreditTwice), "count-credit-twice"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ForgetDeadWhenMoved), "forget-dead-when-moved"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ReviveOnRestart), "revive-on-restart"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::PauseForEver), "pause-for-ever"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ReviveInMemoryOnly), "revive-in-memory-only"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::CountMovedTwice), "count-moved-twice"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::KeepOldOffset), "keep-old-offset"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::MoveWhileSettling), "move-while-settling"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::LeaveMovedOutOfDigest), "leave-moved-out-of-digest"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::TakeAnyDigest), "take-any-digest"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::LeaveOutLastFrame), "leave-out-last-frame"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::BelieveWhatIsRead), "believe-what-is-read"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ReuseHeld), "reuse-held"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::CursorBeforeDurable), "cursor-before-durable"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::MakeRoomOfUnconsumed), "make-room-of-unconsumed"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::AcknowledgeOneMore), "acknowledge-one-more"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::GoBackToDurable), "go-back-to-durable"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ForgetCursors), "forget-cursors"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ForgetCarriedSubscriptions), "forget-carried-subscriptions"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::BeginLate), "begin-late"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::HandOutTwice), "hand-out-twice"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::SubscribedBeforeDurable), "subscribed-before-durable"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ReadAfterRemoval), "read-after-removal"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::TellJoinLate), "tell-join-late"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ForgetRefusedEnd), "forget-refused-end"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::LeaveLateJoined), "leave-late-joined"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::StoreSignals), "store-signals"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::KeepSignalCredit), "keep-signal-credit"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::SignalOfRevoked), "signal-of-revoked"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::TellWhoListens), "tell-who-listens"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ShowToAnybody), "show-to-anybody"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::KeepPresence), "keep-presence"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::PushWhatIsOver), "push-what-is-over"),
        #[cfg(feature = "planted-bugs")]
        (Self::Product(Bug::ForgetQuota), "forget-quota"),
    ];

    /// Every one.
    const VALUES: [Self; Self::ALL.len()] = {
        let mut values = [Self::AckBeforeSync; Self::ALL.len()];
        let mut at = 0;
        while at < values.len() {
            values[at] = Self::ALL[at].0;
            at += 1;
        }
        values
    };

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(bug, _)| *bug == self).map_or("", |(_, name)| name)
    }
}

impl ValueEnum for PlantedBug {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::VALUES
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// A bug of the product, as long as this lives.
#[derive(Debug)]
pub(crate) struct Planted(());

impl Planted {
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn new(bug: Option<PlantedBug>) -> Self {
        creto_store::planted::plant(match bug {
            Some(PlantedBug::Product(bug)) => Some(bug),
            _ => None,
        });
        Self(())
    }

    #[cfg(not(feature = "planted-bugs"))]
    pub(crate) fn new(_: Option<PlantedBug>) -> Self {
        Self(())
    }
}

#[cfg(feature = "planted-bugs")]
impl Drop for Planted {
    fn drop(&mut self) {
        creto_store::planted::plant(None);
    }
}
