//! What senders send: how many messages of late, for policies that ask, and whether it is within the rate that one gives.
//!
//! Both count what was accepted, on the shard of the sender's connection, from when the shard started. A sender with
//! connections to several shards is counted on each of them by itself.

use std::collections::BTreeMap;

use creto_envelope::AgentId;
use creto_policy::Obligations;

use crate::limits::{METER_RETRY_MS, RATES_MAX, RECENT_S, RECENT_SENDERS_MAX};

#[cfg(test)]
mod tests;

const US_PER_S: u64 = 1_000_000;

/// The counters of one shard. Bounded by [`RECENT_SENDERS_MAX`] and [`RATES_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Meter {
    recent: BTreeMap<AgentId, RecentMessages>,
    recent_swept_s: u64,
    /// By sender and figures: messages in a second, bytes in a second.
    rates: BTreeMap<(AgentId, Option<u64>, Option<u64>), Rate>,
    rates_swept_s: u64,
}

impl Meter {
    /// How many messages of `sender` were accepted in the last [`RECENT_S`] seconds, by whole seconds; `None` when there is
    /// no room to count them.
    pub(crate) fn recent(&mut self, sender: &AgentId, now_us: u64) -> Option<u32> {
        let now_s = now_us / US_PER_S;
        if let Some(sent) = self.recent.get_mut(sender) {
            return Some(sent.count(now_s));
        }
        if self.recent.len() >= RECENT_SENDERS_MAX && self.recent_swept_s < now_s {
            self.recent_swept_s = now_s;
            self.recent.retain(|_, sent| sent.count(now_s) > 0);
        }
        if self.recent.len() >= RECENT_SENDERS_MAX {
            return None;
        }
        self.recent.insert(*sender, RecentMessages::default());
        Some(0)
    }

    /// The same, without making room to count them.
    pub(crate) fn look(&self, sender: &AgentId, now_us: u64) -> u32 {
        self.recent.get(sender).map_or(0, |sent| sent.clone().count(now_us / US_PER_S))
    }

    /// Counts a message that was accepted.
    pub(crate) fn sent(&mut self, sender: &AgentId, now_us: u64) {
        self.recent.get_mut(sender).expect("it was asked about just now").add(now_us / US_PER_S);
    }

    /// No policy asks any more.
    pub(crate) fn forget_recent(&mut self) {
        self.recent = BTreeMap::new();
    }

    /// Takes one message of so many bytes out of the rate that `obligations` give `sender`; or says in how many milliseconds
    /// there may be room for it.
    ///
    /// All that a sender sends under the same figures counts together, whoever it is for.
    pub(crate) fn take(
        &mut self,
        sender: &AgentId,
        obligations: &Obligations,
        bytes: u32,
        now_us: u64,
    ) -> Result<(), u32> {
        let now_s = now_us / US_PER_S;
        let key = (*sender, obligations.messages_per_s, obligations.bytes_per_s);
        if self.rates.len() >= RATES_MAX && !self.rates.contains_key(&key) {
            if self.rates_swept_s < now_s {
                self.rates_swept_s = now_s;
                self.rates.retain(|(_, messages, bytes), rate| !rate.is_full(*messages, *bytes, now_us));
            }
            if self.rates.len() >= RATES_MAX {
                return Err(METER_RETRY_MS);
            }
        }
        let rate = self.rates.entry(key).or_insert_with(|| Rate {
            messages: Bucket::full(obligations.messages_per_s, now_us),
            bytes: Bucket::full(obligations.bytes_per_s, now_us),
        });
        rate.take(obligations, bytes, now_us)
    }
}

/// How many messages were sent in each of the last seconds.
#[derive(Clone, Debug)]
struct RecentMessages {
    slots: [u16; RECENT_S],
    newest_s: u64,
    total: u32,
}

impl Default for RecentMessages {
    fn default() -> Self {
        Self { slots: [0; RECENT_S], newest_s: 0, total: 0 }
    }
}

impl RecentMessages {
    fn count(&mut self, now_s: u64) -> u32 {
        let passed = now_s.saturating_sub(self.newest_s).min(RECENT_S as u64);
        for back in 0..passed {
            let slot = slot(now_s - back);
            self.total -= u32::from(self.slots[slot]);
            self.slots[slot] = 0;
        }
        self.newest_s = self.newest_s.max(now_s);
        self.total
    }

    fn add(&mut self, now_s: u64) {
        self.count(now_s);
        let slot = &mut self.slots[slot(self.newest_s)];
        // A policy that counts as many denies.
        if *slot < u16::MAX {
            *slot += 1;
            self.total += 1;
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "it is below the number of slots")]
fn slot(second: u64) -> usize {
    (second % RECENT_S as u64) as usize
}

#[derive(Debug)]
struct Rate {
    messages: Bucket,
    bytes: Bucket,
}

impl Rate {
    fn take(&mut self, obligations: &Obligations, bytes: u32, now_us: u64) -> Result<(), u32> {
        self.messages.refill(obligations.messages_per_s, now_us);
        self.bytes.refill(obligations.bytes_per_s, now_us);
        // A message goes when one is left, or a byte: one that is larger than a second's worth must pass some time, and the
        // next then waits for it.
        let waits = [
            self.messages.missing_ms(obligations.messages_per_s, MICRO),
            self.bytes.missing_ms(obligations.bytes_per_s, 1),
        ];
        match waits.into_iter().max() {
            Some(wait_ms) if wait_ms > 0 => Err(wait_ms),
            _ => {
                self.messages.left_micro -= MICRO;
                self.bytes.left_micro -= i128::from(bytes) * MICRO;
                Ok(())
            }
        }
    }

    fn is_full(&mut self, messages_per_s: Option<u64>, bytes_per_s: Option<u64>, now_us: u64) -> bool {
        self.messages.refill(messages_per_s, now_us);
        self.bytes.refill(bytes_per_s, now_us);
        let full = |bucket: &Bucket, per_s: Option<u64>| per_s.is_none() || bucket.left_micro == capacity_micro(per_s);
        full(&self.messages, messages_per_s) && full(&self.bytes, bytes_per_s)
    }
}

/// Millionths, so that a microsecond brings a whole number of them.
const MICRO: i128 = 1_000_000;

/// What is left of one figure. It may be overdrawn by one message, and holds at most a second's worth.
#[derive(Debug)]
struct Bucket {
    left_micro: i128,
    filled_us: u64,
}

impl Bucket {
    fn full(per_s: Option<u64>, now_us: u64) -> Self {
        Self { left_micro: capacity_micro(per_s), filled_us: now_us }
    }

    fn refill(&mut self, per_s: Option<u64>, now_us: u64) {
        let passed_us = i128::from(now_us.saturating_sub(self.filled_us));
        self.filled_us = self.filled_us.max(now_us);
        let brought = i128::from(per_s.unwrap_or(0)).saturating_mul(passed_us);
        self.left_micro = self.left_micro.saturating_add(brought).min(capacity_micro(per_s));
    }

    /// Milliseconds until so much is there; zero when it is.
    fn missing_ms(&self, per_s: Option<u64>, needed_micro: i128) -> u32 {
        let Some(per_s) = per_s else { return 0 };
        let missing = needed_micro - self.left_micro;
        match (missing > 0, per_s) {
            (false, _) => 0,
            // Never: as long as the code says, and again.
            (true, 0) => METER_RETRY_MS,
            (true, per_s) => {
                let wait_us = missing.unsigned_abs().div_ceil(u128::from(per_s));
                u32::try_from(wait_us.div_ceil(1_000)).unwrap_or(u32::MAX)
            }
        }
    }
}

/// A second's worth.
fn capacity_micro(per_s: Option<u64>) -> i128 {
    i128::from(per_s.unwrap_or(0)) * MICRO
}
