//! THE PATH: what happens to a message, in order. A table of contents; each stage has its file under `stage/`.
//!
//! ```text
//! frames -> receive -> decode -> verify -> authorize -> (the mailbox's shard) -> log -> durable -> outcome, deliver
//! ```
//!
//! The path waits in one place, for the disk. A shard with crypto workers waits in a second one: verify ([`crate::workers`]).
//! A message that left memory before it was read waits once more, to be read back.
//!
//! A signal ends before the log: its mailbox's shard pushes it to whoever reads there now, or drops it ([`crate::stage::signal`]).
//!
//! What is published in a channel goes the same way, to the channel's shard; from there it goes to everybody who reads the channel
//! ([`crate::channels`]).

use creto_envelope::AgentId;
use creto_store::RecordLog;
use creto_store::planted::{Bug, is_planted};

use crate::event::{Action, Now};
use crate::limits::INGRESS_BYTES_RESUME;
use crate::route::{BatchPart, ShardMessage};
use crate::shard::Shard;
use crate::stage::decode::decode;
use crate::stage::deliver::{Delivered, Push};
use crate::stage::receive::receive;
use crate::stage::signal::{Signalled, signal};

impl<L: RecordLog> Shard<L> {
    /// On the connection's shard: carries what arrived in this turn from frames to parts for the mailboxes' shards.
    pub(crate) fn ingress(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.submit_frames.is_empty() && self.workers.is_none() {
            return;
        }
        let frames = std::mem::take(&mut self.submit_frames);
        let mut broken = Vec::new();
        let received = receive(
            frames,
            &mut self.connections,
            &self.limits,
            self.draining,
            &mut self.ingress_bytes,
            &mut self.refusals,
            &mut broken,
        );
        self.counters.received(&received);
        let decoded = decode(received, &mut self.refusals);
        let verified = self.verified(now, decoded);
        self.counters.verified(&verified, self.verifier.roots_checked);
        let authorized = self.authorized(now, verified);
        self.counters.authorized(&authorized, self.decisions.stats());
        for (owner, part) in authorized.into_parts(self.index, &self.placement) {
            self.tell(owner, part, actions);
        }
        for stream in broken {
            self.close(stream.connection, stream.code, actions);
        }
    }

    /// On the mailbox's shard: what is not stored is pushed or dropped. Its sender hears the same either way.
    pub(crate) fn take_signals(&mut self, now: Now, part: &BatchPart, actions: &mut Vec<Action>) {
        // Behind everything that is stored: of what this shard has too much, signals go first.
        let room = if self.ingress_bytes > INGRESS_BYTES_RESUME { 0 } else { self.signals_left };
        let Signalled { pushes, outcome } = signal(now, part, &self.snapshot, &mut self.subscriptions, room);
        let pushed: u64 = pushes.iter().map(|push| push.message_count).sum();
        self.signals_left -= usize::try_from(pushed).expect("no more are pushed than there is room for");
        self.counters.signals_accepted += u64::from(outcome.message_count);
        self.counters.signals_pushed += pushed;
        self.counters.signals_dropped += u64::from(outcome.message_count) - pushed;
        for Push { to, frames, .. } in pushes {
            self.tell(to.shard, ShardMessage::Push { connection: to.connection, frames }, actions);
        }
        self.tell(part.origin.shard, ShardMessage::Outcome(outcome), actions);
    }

    /// On the mailbox's shard: what expired is told to whoever owns its sender's mailbox, before it is settled.
    pub(crate) fn tell_expired(&mut self, actions: &mut Vec<Action>) {
        let from = self.index;
        for (owner, expired) in self.log.next_to_tell(&self.placement) {
            self.tell(owner, ShardMessage::Tell { from, expired }, actions);
        }
    }

    /// On the mailbox's shard: parts become records, records become one group commit.
    pub(crate) fn commit(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.log.admit(now, self.draining);
        self.those_before_rise(actions);
        self.log.commit(now, actions);
    }

    /// On the mailbox's shard: what became durable is answered and pushed to whoever reads the mailbox.
    pub(crate) fn egress(&mut self, now: Now, actions: &mut Vec<Action>) {
        let mut durable = self.log.take_durable(now, &mut self.audit);
        self.counters.durable(&durable);
        self.counters.messages_untold = self.log.messages_untold();
        self.check_begun(now, &mut durable, actions);
        // Before the outcomes: a publisher knows who joined when it hears of messages behind that.
        if !is_planted(Bug::TellJoinLate) {
            self.tell_members(now, std::mem::take(&mut durable.members), actions);
        }
        for (shard, outcome) in durable.outcomes {
            self.tell(shard, ShardMessage::Outcome(outcome), actions);
        }
        if is_planted(Bug::TellJoinLate) {
            self.tell_members(now, std::mem::take(&mut durable.members), actions);
        }
        for (shard, told) in durable.told {
            self.tell(shard, ShardMessage::Told { told }, actions);
        }
        self.subscriptions_changed(durable.subscriptions, actions);
        for mailbox in durable.mailboxes {
            self.subscriptions.wake(mailbox);
        }
        for mailbox in self.log.mailboxes_mut().take_ready() {
            self.subscriptions.wake(AgentId(mailbox.0));
        }
        for (origin, answer) in self.log.take_letter_answers() {
            let message = ShardMessage::LetterAnswer { connection: origin.connection, answer };
            self.tell(origin.shard, message, actions);
        }
        let Delivered { pushes, void } = self.delivered(now);
        self.counters.messages_void += void.len() as u64;
        self.audit_void(&void);
        self.push(pushes, actions);
        self.fan_out(now, actions);
        self.log.end_deliveries(now, actions);
    }

    pub(crate) fn push(&mut self, pushes: Vec<Push>, actions: &mut Vec<Action>) {
        for Push { to, frames, message_count } in pushes {
            self.counters.messages_pushed += message_count;
            self.tell(to.shard, ShardMessage::Push { connection: to.connection, frames }, actions);
        }
    }
}
