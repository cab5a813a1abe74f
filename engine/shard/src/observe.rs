//! What a shard counts. Plain numbers of one core; the driver publishes copies.

use std::collections::BTreeMap;

use creto_envelope::RejectCode;
use creto_policy::DecisionStats;
use creto_store::{ReadDone, ReadProblemKind};

use crate::stage::authorize::Authorized;
use crate::stage::log::Durable;
use crate::stage::receive::Received;
use crate::stage::verify::Verified;
use crate::stages::Stages;

/// Counters of one shard since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Signed batches taken in.
    pub batches_received: u64,
    /// Bytes of them.
    pub batch_bytes_received: u64,
    /// Batches whose signatures were checked; a verdict that is remembered is not made again.
    pub roots_checked: u64,
    /// Signatures of batches that held.
    pub batches_verified: u64,
    /// Messages that policy allowed.
    pub messages_authorized: u64,
    /// What deciding cost, and what it could not decide.
    pub decisions: DecisionStats,
    /// Messages that became durable in a mailbox of this shard.
    pub messages_durable: u64,
    /// Of these, those that were published in a channel.
    pub messages_published: u64,
    /// Messages of channels pushed to subscribers, repeated pushes included.
    pub channel_messages_pushed: u64,
    /// Subscriptions to channels that were to end because their agents may not read the channel any more.
    pub subscriptions_ended: u64,
    /// Messages that were durable already.
    pub messages_duplicate: u64,
    /// Messages pushed to subscribers, repeated pushes included.
    pub messages_pushed: u64,
    /// Signals for mailboxes of this shard that were accepted. Policy allowed them like messages; none is durable.
    pub signals_accepted: u64,
    /// Of these, those that were pushed to a reader.
    pub signals_pushed: u64,
    /// Of these, those that were not: nobody read there, or took more, or the shard had too much to do.
    pub signals_dropped: u64,
    /// Questions for presence that went to the asked agents' shards.
    pub presence_asked: u64,
    /// Questions for presence that were not looked up, because their connections had asked too much.
    pub presence_refused: u64,
    /// Messages that had left memory and were read back from the log to be pushed.
    pub messages_read_back: u64,
    /// Messages that could not be read back: damaged, or not given by the disk.
    pub messages_unreadable: u64,
    /// Messages that were written again, so that the segments that held them could go.
    pub messages_moved: u64,
    /// Messages that were not delivered, because their senders signed them after they were revoked; a message that is replayed
    /// counts again.
    pub messages_void: u64,
    /// Messages that consumers asked to have again, later.
    pub messages_nacked: u64,
    /// Messages that became dead letters, durably.
    pub messages_dead: u64,
    /// Dead letters that their owners had delivered again, durably.
    pub messages_revived: u64,
    /// Messages that consumers acknowledged, durably.
    pub messages_settled: u64,
    /// Notices to senders that became durable in a mailbox of this shard.
    pub notices_durable: u64,
    /// Messages that expired, durably.
    pub messages_expired: u64,
    /// Of these, those whose senders asked to be told and could not be.
    pub messages_untold: u64,
    /// Logins that held.
    pub logins: u64,
    /// Encryption keys that agents of this shard's connections replaced.
    pub keys_replaced: u64,
    /// How long messages took in each stage.
    pub stages: Stages,
    /// Refusals by code.
    pub rejects: BTreeMap<RejectCode, u64>,
}

impl Counters {
    pub(crate) fn received(&mut self, received: &Received) {
        for batch in received.batches() {
            self.batches_received += 1;
            self.batch_bytes_received += batch.batch.len() as u64;
        }
    }

    pub(crate) fn verified(&mut self, verified: &Verified, roots_checked: u64) {
        self.roots_checked = roots_checked;
        self.batches_verified += verified.batch_count();
    }

    pub(crate) fn authorized(&mut self, authorized: &Authorized, decisions: DecisionStats) {
        self.decisions = decisions;
        self.messages_authorized += authorized.message_count();
    }

    pub(crate) fn durable(&mut self, durable: &Durable) {
        self.messages_durable += durable.messages;
        self.messages_published += durable.published;
        self.messages_settled += durable.settled;
        self.messages_moved += durable.moved;
        self.messages_dead += durable.dead;
        self.messages_revived += durable.revived;
        self.notices_durable += durable.notices;
        self.messages_expired += durable.expired;
    }

    pub(crate) fn read_back(&mut self, done: &ReadDone) {
        self.messages_read_back += done.messages;
        let lost = done.problems.iter().filter(|problem| !matches!(problem.kind, ReadProblemKind::TriedAgain(_)));
        self.messages_unreadable += lost.count() as u64;
    }

    pub(crate) fn reject(&mut self, code: RejectCode, count: u64) {
        *self.rejects.entry(code).or_default() += count;
    }
}
