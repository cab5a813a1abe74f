//! How much the node may push: the window less what the application holds. Pure.

use creto_envelope::deliver::Credit;
use creto_envelope::limits::{CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX};

/// Credit that the node has, that the application holds, and that is to be given back.
#[derive(Debug)]
pub(crate) struct CreditLedger {
    window: Credit,
    held: Amount,
    owed: Amount,
    /// Bytes granted less bytes arrived on this stream. The node may have more: what a message overdraws it forgets.
    allowance_bytes: i64,
    /// Bytes that the node was seen to have too many: the next ones that are owed are kept back for them.
    kept_back_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    messages: u64,
    bytes: u64,
}

impl CreditLedger {
    pub(crate) fn new(window: Credit) -> Self {
        assert!(window.messages > 0 && window.bytes > 0, "nothing could ever be delivered");
        Self { window, held: Amount::default(), owed: Amount::default(), allowance_bytes: 0, kept_back_bytes: 0 }
    }

    /// A new stream: everything that is not held.
    pub(crate) fn opened(&mut self) -> Credit {
        self.owed = Amount::default();
        self.kept_back_bytes = 0;
        let credit = Credit {
            messages: left(self.window.messages, self.held.messages),
            bytes: left(self.window.bytes, self.held.bytes),
        };
        self.allowance_bytes = i64::from(credit.bytes);
        credit
    }

    /// A message came and used up credit.
    pub(crate) fn arrived(&mut self, bytes: usize) {
        self.held.messages += 1;
        self.held.bytes += bytes as u64;
        // It was pushed with credit, so credit that counts as overdrawn here is still there at the node.
        self.kept_back_bytes += self.allowance_bytes.min(0).unsigned_abs();
        self.allowance_bytes = self.allowance_bytes.max(0) - i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// A message is done with: acknowledged, dropped, hidden or refused.
    pub(crate) fn finished(&mut self, bytes: usize) {
        assert!(self.held.messages > 0 && self.held.bytes >= bytes as u64, "only what came can be finished");
        self.held.messages -= 1;
        self.held.bytes -= bytes as u64;
        self.owed.messages += 1;
        let kept = self.kept_back_bytes.min(bytes as u64);
        self.kept_back_bytes -= kept;
        self.owed.bytes += bytes as u64 - kept;
    }

    /// What to give back now: nothing until a quarter of the window has come together, to spare frames.
    pub(crate) fn take(&mut self) -> Option<Credit> {
        let worth_it = self.owed.messages >= u64::from(self.window.messages / 4).max(1)
            || self.owed.bytes >= u64::from(self.window.bytes / 4).max(1);
        if !worth_it {
            return None;
        }
        // A larger grant would be refused as a whole; the rest goes with the next one.
        let credit = Credit {
            messages: clamp(self.owed.messages).min(CREDIT_MESSAGES_MAX),
            bytes: clamp(self.owed.bytes).min(CREDIT_BYTES_MAX),
        };
        self.owed.messages -= u64::from(credit.messages);
        self.owed.bytes -= u64::from(credit.bytes);
        self.allowance_bytes += i64::from(credit.bytes);
        Some(credit)
    }
}

fn left(window: u32, held: u64) -> u32 {
    window.saturating_sub(clamp(held))
}

fn clamp(amount: u64) -> u32 {
    u32::try_from(amount).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credit_goes_back_as_messages_are_finished_and_not_as_they_arrive() {
        let mut ledger = CreditLedger::new(Credit { messages: 8, bytes: 1_000_000 });
        assert_eq!(ledger.opened(), Credit { messages: 8, bytes: 1_000_000 });
        (0..8).for_each(|_| ledger.arrived(1_000));
        assert_eq!(ledger.take(), None);
        ledger.finished(1_000);
        assert_eq!(ledger.take(), None, "a frame for each message would be one too many");
        ledger.finished(1_000);
        assert_eq!(ledger.take(), Some(Credit { messages: 2, bytes: 2_000 }));
        assert_eq!(ledger.take(), None);
    }

    #[test]
    fn a_new_stream_gets_what_the_application_does_not_hold() {
        let mut ledger = CreditLedger::new(Credit { messages: 4, bytes: 10_000 });
        ledger.opened();
        (0..3).for_each(|_| ledger.arrived(4_000));
        ledger.finished(4_000);
        assert_eq!(ledger.opened(), Credit { messages: 2, bytes: 2_000 });
    }

    proptest! {
        /// The node here pushes whenever it has credit. A message may overdraw the bytes; what it overdraws the node
        /// forgets, or remembers as a debt. Grants may cross with pushes.
        #[test]
        fn the_node_never_exceeds_the_window_and_never_starves(
            window in (1u32..64, 1u32..5_000),
            sizes in prop::collection::vec(160usize..4_000, 1..300),
            (forgets, crosses) in any::<(bool, bool)>(),
            order in any::<u64>(),
        ) {
            let window = Credit { messages: window.0, bytes: window.1 };
            let mut ledger = CreditLedger::new(window);
            let first = ledger.opened();
            let (mut messages, mut bytes) = (i64::from(first.messages), i64::from(first.bytes));
            let mut on_the_way: Option<Credit> = None;
            let mut held: Vec<usize> = Vec::new();
            let mut sizes = sizes.into_iter().peekable();
            let mut pick = order;
            while sizes.peek().is_some() || !held.is_empty() {
                while messages > 0 && bytes > 0 && sizes.peek().is_some() {
                    let size = sizes.next().expect("peeked");
                    messages -= 1;
                    bytes -= i64::try_from(size).expect("small");
                    if forgets {
                        bytes = bytes.max(0);
                    }
                    ledger.arrived(size);
                    held.push(size);
                }
                prop_assert!(held.len() <= window.messages as usize);
                // Overdrawing is seen with the next message at the latest, two with a grant on the way.
                prop_assert!(held.iter().sum::<usize>() <= window.bytes as usize + 3 * 4_000);
                if let Some(credit) = on_the_way.take() {
                    messages += i64::from(credit.messages);
                    bytes += i64::from(credit.bytes);
                    continue;
                }
                prop_assert!(!held.is_empty() || sizes.peek().is_none(), "starved: {messages} messages, {bytes} bytes");
                if held.is_empty() { break; }
                pick = pick.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let done = held.swap_remove(usize::try_from(pick >> 33).expect("31 bits") % held.len());
                ledger.finished(done);
                on_the_way = ledger.take();
                if !crosses && let Some(credit) = on_the_way.take() {
                    messages += i64::from(credit.messages);
                    bytes += i64::from(credit.bytes);
                }
            }
        }
    }
}
