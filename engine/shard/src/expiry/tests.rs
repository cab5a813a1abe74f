use creto_policy::mailbox::RETENTION_S;
use creto_policy::{LowerRetention, MailboxSettings};
use proptest::prelude::*;

use super::*;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const AS_CONFIGURED: MailboxLimits =
    MailboxLimits { bytes_max: 0, messages_max: 0, retention_s: 0, session_retention_s: 0 };

#[test]
fn the_shorter_of_sender_and_mailbox_holds() {
    let week = Retention::default();
    assert_eq!(week.0, 7 * DAY_MS);
    let expiry_ms = |now_ms, ttl_s, bond| week.expiry_ms(now_ms, ttl_s, bond, &AS_CONFIGURED);
    assert_eq!(expiry_ms(1_000, 0, Bond::None), 1_000 + 7 * DAY_MS);
    assert_eq!(expiry_ms(1_000, 60, Bond::NeedsKey), 61_000);
    assert_eq!(expiry_ms(1_000, u32::MAX, Bond::None), 1_000 + 7 * DAY_MS);
    assert_eq!(expiry_ms(1_000, 60, Bond::BringsKey), 61_000, "its sender knows what depends on it");
    assert_eq!(expiry_ms(u64::MAX, 60, Bond::BringsKey), u64::MAX);
    let hour = Retention(HOUR_MS);
    assert_eq!(hour.expiry_ms(0, 0, Bond::BringsKey, &AS_CONFIGURED), HOUR_MS + SESSION_OPENER_EXTRA_MS);
}

#[test]
fn what_is_set_for_a_mailbox_comes_before_what_is_configured() {
    let limits = MailboxLimits { retention_s: 7_200, ..AS_CONFIGURED };
    for configured in [Retention(HOUR_MS), Retention::default()] {
        assert_eq!(configured.expiry_ms(0, 0, Bond::None, &limits), 2 * HOUR_MS);
        assert_eq!(configured.expiry_ms(0, 0, Bond::NeedsKey, &limits), 2 * HOUR_MS);
        assert_eq!(configured.expiry_ms(0, 0, Bond::BringsKey, &limits), 2 * HOUR_MS + SESSION_OPENER_EXTRA_MS);
        assert_eq!(configured.expiry_ms(0, 60, Bond::None, &limits), 60_000);
    }
}

proptest! {
    /// What the sender's rule leaves to the node: the key is left out of a message only when one that brought it was
    /// accepted, at most a session's life earlier, with a lifetime that ends no earlier by the sender's own reckoning.
    /// The mailbox's retention may be set anew at any time between the two, and before: lower or higher.
    #[test]
    fn whoever_brings_the_key_of_a_session_stays_as_long_as_whoever_needs_it(
        configured_s in RETENTION_S,
        changes in proptest::collection::vec((0..2 * DAY_MS, proptest::option::of(RETENTION_S)), 0..8),
        opened_ms in 0..8 * DAY_MS,
        later_ms in 0..=SESSION_OPENER_EXTRA_MS,
        opener_ttl_s: u32,
        ttl_s: u32,
    ) {
        let configured = Retention(ms(configured_s));
        let mut history = vec![(0, MailboxSettings::default(), LowerRetention::default())];
        let mut at_ms = 0;
        for (pause_ms, retention_s) in changes {
            at_ms += pause_ms;
            let &(_, before, lower) = history.last().expect("it begins with one");
            let in_force_s = |retention_s: Option<u32>| retention_s.unwrap_or(configured_s);
            let lower = lower.changed(in_force_s(before.retention_s), in_force_s(retention_s), at_ms);
            history.push((at_ms, MailboxSettings { retention_s, ..MailboxSettings::default() }, lower));
        }
        let expiry_ms = |now_ms: u64, ttl_s: u32, bond: Bond| {
            let (_, settings, lower) = history.iter().rfind(|change| change.0 <= now_ms).expect("since zero");
            configured.expiry_ms(now_ms, ttl_s, bond, &MailboxLimits::new(settings, *lower, now_ms))
        };
        let reckoned = |at_ms: u64, ttl_s: u32| if ttl_s == 0 { u64::MAX } else { at_ms + ms(ttl_s) };
        let now_ms = opened_ms + later_ms;
        prop_assume!(reckoned(opened_ms, opener_ttl_s) >= reckoned(now_ms, ttl_s));
        let opener = expiry_ms(opened_ms, opener_ttl_s, Bond::BringsKey);
        prop_assert!(opener >= expiry_ms(now_ms, ttl_s, Bond::NeedsKey));
    }
}
