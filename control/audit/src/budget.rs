//! How many events of a stranger's making are told one by one: whoever is refused all day long must not fill the log.
//!
//! Of each kind [`TOLD_AT_ONCE_MAX`] may come at once and [`TOLD_PER_S`] more in each second. What is beyond that is counted by
//! kind and reason, and told as one [`What::EventsMerged`] for each: less is known of it, and nothing is lost.

use std::collections::BTreeMap;

use crate::event::{Code, KindOf, Shown, TimeMs, What};
use crate::limits::{TOLD_AT_ONCE_MAX, TOLD_PER_S};

/// What may still be told, and what was counted instead.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    kinds: BTreeMap<KindOf, Bucket>,
    merged: BTreeMap<(KindOf, Code), Merged>,
}

/// In thousandths of events: a clock counts in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    thousandths: u64,
    filled_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Merged {
    count: u32,
    since_ms: u64,
}

const FULL: u64 = TOLD_AT_ONCE_MAX as u64 * 1_000;

impl Budget {
    /// Gives the event back if it is to be told. Counts it otherwise.
    #[must_use]
    pub fn admit(&mut self, what: What, now_ms: u64) -> Option<What> {
        let kind = KindOf(what.number());
        let bucket = self.kinds.entry(kind).or_insert(Bucket { thousandths: FULL, filled_ms: now_ms });
        // A clock that was set back fills nothing at that moment.
        let passed_ms = now_ms.saturating_sub(bucket.filled_ms);
        bucket.thousandths = passed_ms.saturating_mul(TOLD_PER_S.into()).saturating_add(bucket.thousandths).min(FULL);
        bucket.filled_ms = now_ms;
        if bucket.thousandths < 1_000 {
            self.merge(&what, now_ms);
            return None;
        }
        bucket.thousandths -= 1_000;
        Some(what)
    }

    /// Counts an event that cannot be told.
    pub fn merge(&mut self, what: &What, now_ms: u64) {
        let (code, count) = reason_and_count(what);
        let place = (KindOf(what.number()), code);
        let merged = self.merged.entry(place).or_insert(Merged { count: 0, since_ms: now_ms });
        merged.count = merged.count.saturating_add(count);
    }

    /// Whether something was counted and not told.
    #[must_use]
    pub fn has_merged(&self) -> bool {
        !self.merged.is_empty()
    }

    /// Tells what was counted, by kind and reason.
    pub fn take_merged(&mut self) -> impl Iterator<Item = What> + use<> {
        let merged = std::mem::take(&mut self.merged);
        merged.into_iter().map(|((kind, code), Merged { count, since_ms })| What::EventsMerged {
            kind,
            code,
            count,
            since: TimeMs(since_ms),
        })
    }
}

/// The fields `code` and `count`, where a kind has them.
fn reason_and_count(what: &What) -> (Code, u32) {
    let (mut code, mut count) = (Code::NONE, 1);
    what.visit(|name, shown| match shown {
        Shown::Code(found) => code = found,
        Shown::Number(found) if name == "count" => count = u32::try_from(found).unwrap_or(u32::MAX),
        _ => {}
    });
    (code, count)
}

#[cfg(test)]
mod tests {
    use creto_envelope::{AgentId, RejectCode};

    use super::*;
    use crate::event::Peer;

    fn failed(code: RejectCode) -> What {
        What::LoginFailed { claimed: AgentId([1; 16]), peer: Peer::default(), connection: 7, code: code.into() }
    }

    fn refused(count: u32) -> What {
        let (sender, recipient, message_id) = (AgentId([1; 16]), AgentId([2; 16]), creto_envelope::MessageId([0; 16]));
        What::SubmitRefused {
            sender,
            recipient,
            message_id,
            key_version: 1,
            count,
            code: RejectCode::PolicyDenied.into(),
        }
    }

    #[test]
    fn a_flood_is_told_in_part_and_counted_in_whole() {
        let mut budget = Budget::default();
        let bad = RejectCode::LoginBadSignature;
        let told = (0..1_000).filter(|_| budget.admit(failed(bad), 5_000).is_some()).count();
        assert_eq!(told, TOLD_AT_ONCE_MAX as usize);
        assert_eq!(budget.admit(failed(RejectCode::LoginUnknownAgent), 5_100), None);
        // Another kind is not concerned.
        assert_eq!(budget.admit(refused(3), 5_100), Some(refused(3)));
        let merged: Vec<_> = budget.take_merged().collect();
        let of = |code: RejectCode, count, since| What::EventsMerged {
            kind: KindOf(13),
            code: code.into(),
            count,
            since: TimeMs(since),
        };
        assert_eq!(merged, [of(bad, 744, 5_000), of(RejectCode::LoginUnknownAgent, 1, 5_100)]);
        assert!(!budget.has_merged() && budget.take_merged().next().is_none(), "it is told once");
    }

    #[test]
    fn a_second_brings_a_few_and_a_quiet_while_all() {
        let mut budget = Budget::default();
        let mut burst = |now_ms: u64| (0..1_000).filter(|_| budget.admit(refused(1), now_ms).is_some()).count();
        assert_eq!(burst(0), 256);
        assert_eq!(burst(100), 0);
        assert_eq!(burst(1_000), 4);
        assert_eq!(burst(500), 0, "a clock that is set back brings nothing");
        assert_eq!(burst(1_000), 2, "but goes on from there");
        assert_eq!(burst(3_000), 8);
        assert_eq!(burst(10_000_000), 256, "never more than at first");
    }

    #[test]
    fn what_an_event_stands_for_is_added_up_and_does_not_overflow() {
        let mut budget = Budget::default();
        for count in [u32::MAX, 5, 7] {
            budget.merge(&refused(count), 1);
        }
        let merged: Vec<_> = budget.take_merged().collect();
        assert!(matches!(merged[..], [What::EventsMerged { count: u32::MAX, .. }]), "{merged:?}");
    }
}
