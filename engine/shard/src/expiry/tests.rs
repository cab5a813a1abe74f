use proptest::prelude::*;

use super::*;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

#[test]
fn the_shorter_of_sender_and_mailbox_holds() {
    let week = Retention::default();
    assert_eq!(week.0, 7 * DAY_MS);
    assert_eq!(week.expiry_ms(1_000, 0, false), 1_000 + 7 * DAY_MS);
    assert_eq!(week.expiry_ms(1_000, 60, false), 61_000);
    assert_eq!(week.expiry_ms(1_000, u32::MAX, false), 1_000 + 7 * DAY_MS);
    assert_eq!(Retention(HOUR_MS).expiry_ms(0, 0, true), HOUR_MS + SESSION_OPENER_EXTRA_MS);
    assert_eq!(week.expiry_ms(1_000, 60, true), 61_000, "its sender knows what depends on it");
    assert_eq!(week.expiry_ms(u64::MAX, 60, true), u64::MAX);
}

proptest! {
    /// What the sender's rule leaves to the node: the key is left out of a message only when one that brought it was
    /// accepted, at most a session's life earlier, with a lifetime that ends no earlier by the sender's own reckoning.
    #[test]
    fn whoever_brings_the_key_of_a_session_stays_as_long_as_whoever_needs_it(
        retention_ms in HOUR_MS..=30 * DAY_MS,
        opened_ms in 0..DAY_MS,
        later_ms in 0..=SESSION_OPENER_EXTRA_MS,
        opener_ttl_s: u32,
        ttl_s: u32,
    ) {
        let retention = Retention(retention_ms);
        let reckoned = |at_ms: u64, ttl_s: u32| if ttl_s == 0 { u64::MAX } else { at_ms + u64::from(ttl_s) * 1_000 };
        let now_ms = opened_ms + later_ms;
        prop_assume!(reckoned(opened_ms, opener_ttl_s) >= reckoned(now_ms, ttl_s));
        let opener = retention.expiry_ms(opened_ms, opener_ttl_s, true);
        prop_assert!(opener >= retention.expiry_ms(now_ms, ttl_s, false));
    }
}
