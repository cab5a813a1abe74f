use proptest::prelude::*;

use super::*;

const DAY_S: u32 = 86_400;

#[test]
fn a_value_outside_its_range_is_named_with_the_range() {
    assert_eq!(MailboxSettings::default().check(), Ok(()));
    let all = |retention_s, messages_max, bytes_max, max_deliveries| MailboxSettings {
        retention_s: Some(retention_s),
        messages_max: Some(messages_max),
        bytes_max: Some(bytes_max),
        max_deliveries: Some(max_deliveries),
    };
    assert_eq!(all(3_600, 1, 2 << 20, 2).check(), Ok(()));
    assert_eq!(all(30 * DAY_S, 10_000_000, 1 << 40, 255).check(), Ok(()));
    for (settings, text) in [
        (all(3_599, 1, 2 << 20, 2), "retention_s: 3599 is out of range: from 3600 to 2592000"),
        (all(30 * DAY_S + 1, 1, 2 << 20, 2), "retention_s: 2592001 is out of range: from 3600 to 2592000"),
        (all(3_600, 0, 2 << 20, 2), "messages_max: 0 is out of range: from 1 to 10000000"),
        (all(3_600, 1, (2 << 20) - 1, 2), "bytes_max: 2097151 is out of range: from 2097152 to 1099511627776"),
        (all(3_600, 1, 2 << 20, 0), "max_deliveries: 0 is out of range: from 2 to 255"),
        (all(3_600, 1, 2 << 20, 1), "max_deliveries: 1 is out of range: from 2 to 255"),
    ] {
        assert_eq!(settings.check().unwrap_err().to_string(), text);
    }
}

#[test]
fn after_a_rise_the_lower_retention_counts_for_sessions_until_none_can_be_that_old() {
    let risen = LowerRetention::default().changed(DAY_S, 7 * DAY_S, 1_000);
    assert_eq!(risen.in_force_s(1_000), Some(DAY_S));
    assert_eq!(risen.in_force_s(999 + SESSION_SPAN_MS), Some(DAY_S));
    assert_eq!(risen.in_force_s(1_000 + SESSION_SPAN_MS), None);
    assert_eq!(risen.changed(7 * DAY_S, 2 * DAY_S, 2_000), risen, "what sinks asks for nothing");
    let settings = MailboxSettings { retention_s: Some(7 * DAY_S), ..MailboxSettings::default() };
    assert_eq!(MailboxLimits::new(&settings, risen, 2_000).session_retention_s, DAY_S);
    assert_eq!(MailboxLimits::new(&settings, risen, u64::MAX).session_retention_s, 0);
}

proptest! {
    /// Whatever is set when: a message that needs a key is kept no longer than any retention that was in force while its
    /// session may have begun.
    #[test]
    fn no_retention_under_which_a_session_may_have_begun_is_exceeded(
        changes in proptest::collection::vec((1..=3 * SESSION_SPAN_MS, RETENTION_S), 0..12),
        first_s in RETENTION_S,
        rest_ms in 0..=2 * SESSION_SPAN_MS,
        ago_ms in 0..SESSION_SPAN_MS,
    ) {
        let mut history = vec![(0, first_s)];
        let mut lower = LowerRetention::default();
        let mut now_ms = 10 * SESSION_SPAN_MS;
        for (pause_ms, retention_s) in changes {
            now_ms += pause_ms;
            let before_s = history.last().expect("it begins with one").1;
            lower = lower.changed(before_s, retention_s, now_ms);
            history.push((now_ms, retention_s));
        }
        now_ms += rest_ms;
        let begun_ms = now_ms - ago_ms;
        let in_force_s = |at_ms: u64| history.iter().rfind(|(since_ms, _)| *since_ms <= at_ms).expect("since zero").1;
        let kept_s = in_force_s(now_ms).min(lower.in_force_s(now_ms).unwrap_or(u32::MAX));
        prop_assert!(kept_s <= in_force_s(begun_ms), "{kept_s} s is more than {} s", in_force_s(begun_ms));
    }
}
