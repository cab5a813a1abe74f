//! How much the node may push: the window less what the application holds. Pure.
//!
//! While somebody waits for an answer and the application holds all that the window allows, credit beyond the window is *lent*:
//! the answer may stand behind messages for which the application has no room. What comes on that credit and is no answer is
//! passed over; what is lent is taken back from what is finished.

use creto_envelope::deliver::Credit;
use creto_envelope::limits::{CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX};

/// Credit that the node has, that the application holds, and that is to be given back.
#[derive(Debug)]
pub(crate) struct CreditLedger {
    window: Credit,
    held: Amount,
    owed: Amount,
    /// Credit beyond the window that the node has, or had.
    lent: Amount,
    /// Messages that the node may still push.
    allowance_messages: u64,
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
        Self {
            window,
            held: Amount::default(),
            owed: Amount::default(),
            lent: Amount::default(),
            allowance_messages: 0,
            allowance_bytes: 0,
            kept_back_bytes: 0,
        }
    }

    /// Whether the application holds all that the window allows.
    pub(crate) fn is_full(&self) -> bool {
        self.held.messages >= u64::from(self.window.messages) || self.held.bytes >= u64::from(self.window.bytes)
    }

    /// Whether the node may push nothing.
    pub(crate) fn is_dry(&self) -> bool {
        self.allowance_messages == 0 || self.allowance_bytes <= 0
    }

    /// Whether the node has, or had, credit beyond the window.
    pub(crate) fn has_lent(&self) -> bool {
        self.lent != Amount::default()
    }

    /// Whether the application holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.messages == 0
    }

    /// Whether the node has credit for a message.
    pub(crate) fn may_push(&self) -> bool {
        self.allowance_messages > 0
    }

    /// A message is held that came on an earlier stream and does not come again: what its end gives back was granted already.
    pub(crate) fn held_back(&mut self, bytes: usize) {
        self.held.messages += 1;
        self.held.bytes += bytes as u64;
        self.lent.messages += 1;
        self.lent.bytes += bytes as u64;
    }

    /// A new stream: everything that is not held.
    pub(crate) fn opened(&mut self) -> Credit {
        self.owed = Amount::default();
        // What is held beyond the window came on credit that was lent.
        self.lent = Amount {
            messages: self.held.messages.saturating_sub(self.window.messages.into()),
            bytes: self.held.bytes.saturating_sub(self.window.bytes.into()),
        };
        self.kept_back_bytes = 0;
        let credit = Credit {
            messages: left(self.window.messages, self.held.messages),
            bytes: left(self.window.bytes, self.held.bytes),
        };
        self.allowance_messages = u64::from(credit.messages);
        self.allowance_bytes = i64::from(credit.bytes);
        credit
    }

    /// A new stream on which the node may push nothing for now: nobody reads.
    pub(crate) fn opened_dry(&mut self) {
        let Credit { messages, bytes } = self.opened();
        self.owed = Amount { messages: messages.into(), bytes: bytes.into() };
        (self.allowance_messages, self.allowance_bytes) = (0, 0);
    }

    /// As [`take_or_lend`](Self::take_or_lend), where nobody reads: nothing of the window is granted.
    pub(crate) fn lend(&mut self, most: Credit) -> Option<Credit> {
        if !self.is_dry() {
            return None;
        }
        let mut credit = Credit { messages: 0, bytes: 0 };
        if self.allowance_messages == 0 {
            credit.messages = most.messages;
            self.lent.messages += u64::from(most.messages);
            self.allowance_messages = u64::from(most.messages);
        }
        if self.allowance_bytes <= 0 {
            credit.bytes = most.bytes;
            self.lent.bytes += u64::from(most.bytes) + self.allowance_bytes.unsigned_abs();
            self.allowance_bytes = i64::from(most.bytes);
        }
        Some(credit)
    }

    /// A message came and used up credit.
    pub(crate) fn arrived(&mut self, bytes: usize) {
        self.held.messages += 1;
        self.held.bytes += bytes as u64;
        self.allowance_messages = self.allowance_messages.saturating_sub(1);
        // It was pushed with credit, so credit that counts as overdrawn here is still there at the node.
        self.kept_back_bytes += self.allowance_bytes.min(0).unsigned_abs();
        self.allowance_bytes = self.allowance_bytes.max(0) - i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// A message is done with: acknowledged, dropped, hidden or refused.
    pub(crate) fn finished(&mut self, bytes: usize) {
        assert!(self.held.messages > 0 && self.held.bytes >= bytes as u64, "only what came can be finished");
        self.held.messages -= 1;
        self.held.bytes -= bytes as u64;
        match self.lent.messages.checked_sub(1) {
            Some(lent) => self.lent.messages = lent,
            None => self.owed.messages += 1,
        }
        let kept = self.kept_back_bytes.min(bytes as u64);
        self.kept_back_bytes -= kept;
        let bytes = bytes as u64 - kept;
        let lent = self.lent.bytes.min(bytes);
        self.lent.bytes -= lent;
        self.owed.bytes += bytes - lent;
    }

    /// What to give back now: nothing until a quarter of the window has come together, to spare frames.
    pub(crate) fn take(&mut self) -> Option<Credit> {
        self.is_worth_it().then(|| self.grant_owed())
    }

    /// Whether [`take`](Self::take) would give something.
    pub(crate) fn is_worth_it(&self) -> bool {
        self.owed.messages >= u64::from(self.window.messages / 4).max(1)
            || self.owed.bytes >= u64::from(self.window.bytes / 4).max(1)
    }

    /// As [`take`](Self::take); and where the node may push nothing and the application has no room, as much as `most` beyond the
    /// window.
    pub(crate) fn take_or_lend(&mut self, most: Credit) -> Option<Credit> {
        if !self.is_dry() {
            return self.take();
        }
        let mut credit = self.grant_owed();
        if self.allowance_messages == 0 {
            assert_eq!(credit.messages, 0, "what was granted may be pushed");
            credit.messages = most.messages;
            self.lent.messages += u64::from(most.messages);
            self.allowance_messages = u64::from(most.messages);
        }
        if self.allowance_bytes <= 0 {
            let bytes = most.bytes.min(CREDIT_BYTES_MAX - credit.bytes);
            credit.bytes += bytes;
            // The node forgets what a message overdraws, and it is granted again when that one is finished: it is lent, too.
            self.lent.bytes += u64::from(bytes) + self.allowance_bytes.unsigned_abs();
            self.allowance_bytes = i64::from(bytes);
        }
        Some(credit)
    }

    fn grant_owed(&mut self) -> Credit {
        // A larger grant would be refused as a whole; the rest goes with the next one.
        let credit = Credit {
            messages: clamp(self.owed.messages).min(CREDIT_MESSAGES_MAX),
            bytes: clamp(self.owed.bytes).min(CREDIT_BYTES_MAX),
        };
        self.owed.messages -= u64::from(credit.messages);
        self.owed.bytes -= u64::from(credit.bytes);
        self.allowance_messages += u64::from(credit.messages);
        self.allowance_bytes += i64::from(credit.bytes);
        credit
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

    #[test]
    fn where_the_application_has_no_room_credit_is_lent_and_taken_back_from_what_is_finished() {
        let mut ledger = CreditLedger::new(Credit { messages: 4, bytes: 10_000 });
        let most = Credit { messages: 2, bytes: 500 };
        ledger.opened();
        ledger.arrived(100);
        assert_eq!(ledger.take_or_lend(most), None, "the node may push three more");
        (0..3).for_each(|_| ledger.arrived(100));
        assert!(ledger.is_full());
        assert_eq!(ledger.take_or_lend(most), Some(Credit { messages: 2, bytes: 0 }));
        ledger.arrived(100);
        ledger.finished(100);
        assert_eq!(ledger.take_or_lend(most), None, "one is still to come");
        ledger.arrived(100);
        ledger.finished(100);
        assert_eq!(ledger.take_or_lend(most), Some(Credit { messages: 2, bytes: 200 }));
        ledger.finished(100);
        ledger.finished(100);
        assert_eq!(ledger.take(), None, "two were lent");
        ledger.finished(100);
        assert_eq!(ledger.take().map(|credit| credit.messages), Some(1));
    }

    #[test]
    fn where_nobody_reads_nothing_is_granted_but_what_is_lent_and_the_window_is_there_for_who_comes() {
        let mut ledger = CreditLedger::new(Credit { messages: 100, bytes: 10_000 });
        let most = Credit { messages: 2, bytes: 500 };
        ledger.opened_dry();
        assert_eq!(ledger.lend(most), Some(most));
        assert_eq!(ledger.lend(most), None, "they are still to come");
        for _ in 0..2 {
            ledger.arrived(200);
            ledger.finished(200);
        }
        assert_eq!(ledger.lend(most), Some(Credit { messages: 2, bytes: 0 }), "a hundred bytes are left");
        // Somebody reads.
        let granted = ledger.take().unwrap();
        assert_eq!((granted.messages, ledger.take()), (100, None));
        assert!((9_000..=10_000).contains(&granted.bytes), "{granted:?}");
    }

    #[test]
    fn bytes_are_lent_where_they_are_what_is_missing() {
        let mut ledger = CreditLedger::new(Credit { messages: 100, bytes: 1_000 });
        let most = Credit { messages: 2, bytes: 500 };
        ledger.opened();
        ledger.arrived(5_000);
        assert!(ledger.is_full());
        assert_eq!(ledger.take_or_lend(most), Some(Credit { messages: 0, bytes: 500 }));
        ledger.arrived(400);
        ledger.finished(400);
        assert_eq!(ledger.take_or_lend(most), None, "a hundred bytes are left");
        ledger.arrived(100);
        ledger.finished(100);
        assert_eq!(ledger.take_or_lend(most), Some(Credit { messages: 2, bytes: 500 }));
        assert_eq!(ledger.opened(), Credit { messages: 99, bytes: 0 }, "a new stream begins without what was lent");
    }

    proptest! {
        /// A node that pushes what it may, an application that finishes what it likes, and requests that come and go. What is
        /// lent is taken back: in the end the node has as much as the window allows, or what was lent last and not used.
        #[test]
        fn what_is_lent_comes_back_and_a_request_never_starves(
            window in (1u32..20, 500u32..5_000),
            lends in (1u32..8, 100u32..900),
            steps in prop::collection::vec((0u8..4, any::<u16>()), 1..1_000),
        ) {
            let window = Credit { messages: window.0, bytes: window.1 };
            let most = Credit { messages: lends.0, bytes: lends.1 };
            let mut ledger = CreditLedger::new(window);
            let first = ledger.opened();
            let (mut messages, mut bytes) = (first.messages, first.bytes);
            let mut held: Vec<usize> = Vec::new();
            for (what, pick) in steps {
                let granted = match what {
                    0 if messages > 0 && bytes > 0 => {
                        let size = 160 + usize::from(pick) % 1_000;
                        messages -= 1;
                        bytes = bytes.saturating_sub(u32::try_from(size).expect("small"));
                        let is_passed_over = ledger.has_lent() && ledger.is_full();
                        ledger.arrived(size);
                        if is_passed_over { ledger.finished(size) } else { held.push(size) }
                        None
                    }
                    1 if !held.is_empty() => {
                        ledger.finished(held.swap_remove(usize::from(pick) % held.len()));
                        None
                    }
                    2 => {
                        let lent = ledger.take_or_lend(most);
                        let granted = lent.unwrap_or(Credit { messages: 0, bytes: 0 });
                        prop_assert!(messages + granted.messages > 0 && bytes + granted.bytes > 0, "a request starves");
                        lent
                    }
                    _ => ledger.take(),
                };
                if let Some(credit) = granted {
                    messages += credit.messages;
                    bytes += credit.bytes;
                }
                prop_assert!(held.len() <= window.messages as usize, "what is beyond the window is passed over");
                let lent_at_most = window.messages + most.messages;
                prop_assert!(messages <= lent_at_most, "{messages} messages, {held:?}");
                // A message overdraws, and is granted again before that is seen: one or two of them, and it does not add up.
                let bytes_at_most = window.bytes + most.bytes + 3 * 1_160;
                prop_assert!(bytes <= bytes_at_most, "{bytes} bytes of {window:?} and {most:?}");
            }
            for size in held.drain(..) {
                ledger.finished(size);
            }
            while let Some(credit) = ledger.take() {
                messages += credit.messages;
            }
            // Below a quarter of the window nothing is granted.
            let least = window.messages - (window.messages / 4).max(1) + 1;
            prop_assert!((least..=window.messages.max(most.messages)).contains(&messages), "{messages} of {window:?}");
        }

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
