//! When a batch closes: on count, on bytes, on age, and at once when nothing is in flight.
//!
//! Signing costs the same for one message as for 256, and so does verifying. While other batches are under way a young
//! batch waits for company, at most [`BatchLimits::age_us`]; when nothing is under way nobody could profit from the
//! wait, so a lone message leaves at once.

use std::time::Duration;

use creto_envelope::batch::{BATCH_HEADER_BYTES_MAX, entry_bytes};
use creto_envelope::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};

use crate::limits::{BATCH_AGE, BATCH_BYTES, BATCH_MESSAGES};

/// When a batch closes, whatever comes first. A message that is submitted while nothing is under way leaves at once:
/// a lone `send` never waits for company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// A batch holds at most so many messages. Default 256, at most 1,024. The node's own bound holds as well.
    pub messages: usize,
    /// A batch holds at most so many bytes; a larger single message gets a batch of its own. Default 256 KiB. The node's
    /// own bound holds as well.
    pub bytes: usize,
    /// How long the oldest message waits for company while others are under way. Default 1 ms.
    pub age: Duration,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { messages: BATCH_MESSAGES, bytes: BATCH_BYTES, age: BATCH_AGE }
    }
}

/// When a batch closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    pub(crate) messages: usize,
    /// Of entries. A single larger message gets a batch of its own.
    pub(crate) bytes: usize,
    pub(crate) age_us: u64,
}

impl From<BatchOptions> for BatchLimits {
    fn from(BatchOptions { messages, bytes, age }: BatchOptions) -> Self {
        let bytes_max = BATCH_BYTES_MAX - BATCH_HEADER_BYTES_MAX;
        Self {
            messages: messages.clamp(1, BATCH_MESSAGES_MAX),
            bytes: bytes.clamp(1, bytes_max),
            age_us: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

impl Default for BatchLimits {
    fn default() -> Self {
        BatchOptions::default().into()
    }
}

/// What to do with the messages that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nothing waits.
    Empty,
    /// The first so many are a batch now.
    Now(usize),
    /// Look again at this time.
    At(u64),
}

/// Decides over the messages that wait, given as (envelope bytes, when it came) in their order.
pub(crate) fn cut(
    limits: &BatchLimits,
    waiting: impl IntoIterator<Item = (usize, u64)>,
    nothing_in_flight: bool,
    now_us: u64,
) -> Cut {
    let (mut count, mut bytes, mut oldest_us) = (0, 0, u64::MAX);
    for (envelope_bytes, came_us) in waiting {
        bytes += entry_bytes(envelope_bytes);
        if count == limits.messages || (count > 0 && bytes > limits.bytes) {
            return Cut::Now(count);
        }
        count += 1;
        oldest_us = oldest_us.min(came_us);
    }
    let due_us = oldest_us.saturating_add(limits.age_us);
    match count {
        0 => Cut::Empty,
        _ if count == limits.messages || bytes >= limits.bytes || nothing_in_flight || due_us <= now_us => {
            Cut::Now(count)
        }
        _ => Cut::At(due_us),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: BatchLimits = BatchLimits { messages: 4, bytes: 10_000, age_us: 1_000 };

    fn check(waiting: &[(usize, u64)], nothing_in_flight: bool, now_us: u64, expected: Cut) {
        assert_eq!(cut(&LIMITS, waiting.iter().copied(), nothing_in_flight, now_us), expected);
    }

    #[test]
    fn a_lone_message_leaves_at_once_when_nothing_is_in_flight() {
        check(&[(1_296, 50)], true, 50, Cut::Now(1));
    }

    #[test]
    fn a_young_batch_waits_for_company_until_it_is_one_millisecond_old() {
        check(&[(1_296, 50), (1_296, 400)], false, 400, Cut::At(1_050));
        check(&[(1_296, 50), (1_296, 400)], false, 1_049, Cut::At(1_050));
        check(&[(1_296, 50), (1_296, 400)], false, 1_050, Cut::Now(2));
    }

    #[test]
    fn a_batch_closes_on_count() {
        check(&[(200, 0); 4], false, 0, Cut::Now(4));
        check(&[(200, 0); 9], false, 0, Cut::Now(4));
    }

    #[test]
    fn a_batch_closes_before_its_bytes_exceed_the_limit() {
        check(&[(6_000, 0), (3_000, 0)], false, 0, Cut::At(1_000));
        check(&[(6_000, 0), (6_000, 0)], false, 0, Cut::Now(1));
    }

    #[test]
    fn a_message_above_the_limit_gets_a_batch_of_its_own() {
        check(&[(1_000_000, 0), (200, 0)], false, 0, Cut::Now(1));
        check(&[(200, 0), (1_000_000, 0)], false, 0, Cut::Now(1));
        check(&[(1_000_000, 0)], false, 0, Cut::Now(1));
    }

    #[test]
    fn options_stay_within_what_the_wire_allows() {
        let limits = |messages, bytes| BatchLimits::from(BatchOptions { messages, bytes, age: Duration::MAX });
        assert_eq!((limits(0, 0).messages, limits(0, 0).bytes), (1, 1), "a batch of one message, whatever its size");
        let most = limits(usize::MAX, usize::MAX);
        assert_eq!((most.messages, most.bytes), (BATCH_MESSAGES_MAX, BATCH_BYTES_MAX - BATCH_HEADER_BYTES_MAX));
        assert_eq!(BatchLimits::default().age_us, 1_000);
    }

    #[test]
    fn nothing_waits_for_nothing() {
        check(&[], true, 0, Cut::Empty);
        check(&[], false, 0, Cut::Empty);
    }

    proptest! {
        #[test]
        fn every_message_leaves_in_order_within_its_age_and_no_batch_exceeds_a_limit(
            sizes in prop::collection::vec(160usize..12_000, 0..40),
            busy: bool,
        ) {
            let mut waiting: Vec<(usize, u64)> = sizes.iter().map(|size| (*size, 0)).collect();
            while !waiting.is_empty() {
                let cut = cut(&LIMITS, waiting.iter().copied(), !busy, LIMITS.age_us);
                let Cut::Now(count) = cut else { panic!("{cut:?} although the age is reached") };
                prop_assert!((1..=LIMITS.messages).contains(&count));
                let bytes: usize = waiting.drain(..count).map(|(size, _)| entry_bytes(size)).sum();
                prop_assert!(count == 1 || bytes <= LIMITS.bytes);
            }
        }
    }
}
