//! What an agent did, counted.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use creto_envelope::RejectCode;

/// Counters of an agent since it connected. They only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages given to `send`, `submit` or `send_many`.
    pub submitted: u64,
    /// Messages that the node has acknowledged as durable.
    pub acknowledged: u64,
    /// Of those, messages that it had already: sent again after a lost connection.
    pub acknowledged_again: u64,
    /// Messages that the node refused for good, by code.
    pub refused: BTreeMap<u16, u64>,
    /// Messages sent again, because the connection broke or because the node refused them for now.
    pub resent: u64,
    /// Signed batches sent.
    pub batches: u64,
    /// Messages that were sealed; one that had to be sealed again counts again.
    pub sealed: u64,
    /// Key encapsulations (X-Wing) that were paid for them: one for each session that was opened, and one for each
    /// message without a session.
    pub encapsulations: u64,
    /// Sessions that were opened to recipients.
    pub sessions_opened: u64,
    /// Roots that were signed, each with Ed25519 and ML-DSA-65: one for each batch.
    pub signatures: u64,
    /// Messages that came from the node, in whatever state.
    pub received: u64,
    /// Sessions that senders opened to this agent, and that were accepted: one decapsulation each.
    pub sessions_accepted: u64,
    /// Messages that were verified and opened.
    pub verified: u64,
    /// Messages handed to the application. Each counts once, however often it came.
    pub delivered: u64,
    /// Messages that the application had, or holds, already: hidden from it.
    pub duplicates_hidden: u64,
    /// Messages that the application has acknowledged.
    pub consumer_acknowledged: u64,
    /// Messages that the application wanted later.
    pub consumer_nacked: u64,
    /// Messages that the application refused for good.
    pub consumer_rejected: u64,
    /// Receipts that senders asked for and that are durable at the node, of either kind.
    pub receipts_sent: u64,
    /// Receipts that could not be sent: their senders take nothing from this agent. The messages were acknowledged.
    pub receipts_refused: u64,
    /// Messages that came when the time for which their senders wanted them to be there was over: acknowledged and not shown.
    pub self_destructed: u64,
    /// Receipts of delivery that were not sent, because too many were on their way.
    pub receipts_left_out: u64,
    /// Requests that were begun ([`Agent::request`](crate::Agent::request)).
    pub requests: u64,
    /// Answers that were handed to their requests, failures among them.
    pub responses: u64,
    /// Answers for which nobody waits (any more): their requests were given up or timed out, or another process had made them.
    /// Acknowledged and dropped.
    pub late_responses: u64,
    /// Answers to requests that wait, from somebody else than the agent that was asked: acknowledged and dropped.
    pub foreign_responses: u64,
    /// Requests of others that are answered: their answers are durable.
    pub requests_answered: u64,
    /// Requests of others that came, or were to be answered, when their deadlines had passed: acknowledged and dropped.
    pub requests_expired: u64,
    /// Requests of others whose answers their senders do not take. The requests were acknowledged.
    pub responses_refused: u64,
    /// Messages that came to a server, are no requests, and were left at the node
    /// ([`ServeOptions::others`](crate::ServeOptions::others)).
    pub left_unserved: u64,
    /// Messages that were passed over to get at answers behind them, because the application held all that its window allows:
    /// neither shown nor acknowledged. They come again.
    pub passed_over: u64,
    /// Connections that were made anew so that those come again.
    pub renewals: u64,
    /// Messages given to publishers of channels; they count as submitted, too.
    pub published: u64,
    /// Sessions of channels that were begun to publish under.
    pub channel_sessions_begun: u64,
    /// Keys of such sessions that are durable in the mailboxes of subscribers.
    pub channel_keys_given: u64,
    /// Keys of channels that came from publishers; one that came again counts again.
    pub channel_keys_taken: u64,
    /// Messages of channels that were published before this agent was let in, and passed over: they never open.
    pub channel_before_joining: u64,
    /// Messages of channels that were reported because their keys did not come in time.
    pub channel_without_key: u64,
    /// Notices of the node that were handed to the application: messages of this agent that expired.
    pub notices: u64,
    /// Notices that came while nobody listened ([`Agent::notices`](crate::Agent::notices)): logged and acknowledged.
    pub notices_unheard: u64,
    /// Signals that the node took. It says so whether or not anybody had them.
    pub signals_sent: u64,
    /// Signals that came, hold, and were new: handed to the application, or dropped as below.
    pub signals_received: u64,
    /// Signals that came and were not handed to the application: their time was over, it did not read fast enough, or one sender sends so
    /// many that they could not be told from repeated ones any more.
    pub signals_dropped: u64,
    /// Transactions that settled acknowledged messages of sessions on disk: many messages each.
    pub state_commits: u64,
    /// Messages that came with a trace context that breaks a rule, or is of a later version: shown without it.
    pub traces_malformed: u64,
    /// Messages that could not be verified or opened, by the code that says why. They are not acknowledged.
    pub rejected: BTreeMap<RejectCode, u64>,
    /// Incidents that nobody read in time; each is in `rejected` too.
    pub incidents_dropped: u64,
    /// Connections that were made after the first.
    pub reconnects: u64,
    /// Key records asked for.
    pub key_record_lookups: u64,
    /// Encryption keys of this agent that were replaced.
    pub keys_rotated: u64,
    /// Prekeys of this agent that the node has taken.
    pub prekeys_uploaded: u64,
    /// One-time prekeys of this agent to which sessions were opened, and whose secret halves were erased then.
    pub prekeys_used: u64,
    /// Prekeys of others that the node has given and that hold.
    pub prekeys_claimed: u64,
    /// Of these, prekeys of last resort.
    pub prekeys_last_resort: u64,
    /// Times that a prekey was wanted and none could be had; then [`PrekeyPolicy`](crate::PrekeyPolicy) decides.
    pub prekeys_missing: u64,
    /// Key records that were not used, because the node could not prove them as its key log wants it.
    pub key_log_refused: u64,
    /// Alarms of the key log: a record of this agent that it did not make, or a log that no honest node has.
    pub key_log_alarms: u64,
}

impl Stats {
    /// Messages that the node refused for good, whatever the code.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Received messages that could not be verified or opened, whatever the code.
    #[must_use]
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }
}

macro_rules! counters {
    ($($name:ident),+ $(,)?) => {
        /// The counters behind [`Stats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $( pub(crate) $name: Counter, )+
            refused: Mutex<BTreeMap<u16, u64>>,
            rejected: Mutex<BTreeMap<RejectCode, u64>>,
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats {
                    $( $name: self.$name.get(), )+
                    refused: self.refused.lock().expect(UNPOISONED).clone(),
                    rejected: self.rejected.lock().expect(UNPOISONED).clone(),
                }
            }
        }
    };
}

counters!(
    submitted,
    acknowledged,
    acknowledged_again,
    resent,
    batches,
    sealed,
    encapsulations,
    sessions_opened,
    signatures,
    received,
    sessions_accepted,
    verified,
    delivered,
    duplicates_hidden,
    consumer_acknowledged,
    consumer_nacked,
    consumer_rejected,
    receipts_sent,
    receipts_refused,
    self_destructed,
    receipts_left_out,
    requests,
    responses,
    late_responses,
    foreign_responses,
    requests_answered,
    requests_expired,
    responses_refused,
    left_unserved,
    passed_over,
    renewals,
    published,
    channel_sessions_begun,
    channel_keys_given,
    channel_keys_taken,
    channel_before_joining,
    channel_without_key,
    notices,
    notices_unheard,
    signals_sent,
    signals_received,
    signals_dropped,
    state_commits,
    incidents_dropped,
    reconnects,
    key_record_lookups,
    keys_rotated,
    prekeys_uploaded,
    prekeys_used,
    prekeys_claimed,
    prekeys_last_resort,
    prekeys_missing,
    key_log_refused,
    key_log_alarms,
    traces_malformed,
);

pub(crate) const UNPOISONED: &str = "no code panics while it holds this lock";

impl Counters {
    pub(crate) fn refused(&self, code: u16) {
        *self.refused.lock().expect(UNPOISONED).entry(code).or_default() += 1;
    }

    pub(crate) fn rejected(&self, code: RejectCode) {
        *self.rejected.lock().expect(UNPOISONED).entry(code).or_default() += 1;
    }
}

/// One counter. Relaxed: it orders nothing.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
