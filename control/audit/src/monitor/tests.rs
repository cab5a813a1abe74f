use creto_envelope::MessageId;
use proptest::prelude::*;

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;

fn agent(number: u16) -> AgentId {
    let mut id = [7; 16];
    id[..2].copy_from_slice(&number.to_le_bytes());
    AgentId(id)
}

fn peer(number: u8) -> Peer {
    Peer::from(std::net::IpAddr::from([192, 0, 2, number]))
}

fn forged(claimed: AgentId) -> What {
    let code = RejectCode::BadSignature.into();
    What::SignatureFailure { claimed, sender: claimed, peer: peer(1), key_version: 1, count: 9, code }
}

fn refused(sender: AgentId, count: u32, code: RejectCode) -> What {
    let (recipient, message_id) = (AgentId::ZERO, MessageId([0; 16]));
    What::SubmitRefused { sender, recipient, message_id, key_version: 1, count, code: code.into() }
}

fn login_failed(claimed: AgentId, from: Peer, code: RejectCode) -> What {
    What::LoginFailed { claimed, peer: from, connection: 1, code: code.into() }
}

/// An event that counts one for the rule.
fn one(rule: Rule) -> What {
    match rule {
        Rule::ForgedSignatures => forged(agent(1)),
        Rule::Replays => refused(agent(1), 1, RejectCode::OutsideDedupWindow),
        Rule::Denials => refused(agent(1), 1, RejectCode::PolicyDenied),
        Rule::LoginFailures => login_failed(agent(1), peer(1), RejectCode::LoginUnknownAgent),
        Rule::ClockSkew => refused(agent(1), 1, RejectCode::SigningTime),
        Rule::RevokedKeys => login_failed(agent(1), peer(1), RejectCode::AgentRevoked),
    }
}

#[test]
fn each_rule_raises_an_alert_at_its_threshold_and_none_below() {
    for &(rule, ..) in Rule::ALL {
        let Limit { threshold, window_s } = usual(rule);
        let mut monitor = Monitor::new(Limits::usual());
        for _ in 1..threshold {
            assert_eq!(monitor.see(NOW_MS, &one(rule)), None, "{rule:?}");
        }
        let alert = monitor.see(NOW_MS + 5, &one(rule));
        let Some(What::AlertRaised { agent: of, peer: from, count, threshold: at, window_s: within, rule: found }) =
            alert
        else {
            panic!("{rule:?}: {alert:?}");
        };
        assert_eq!((count, at, within, found), (threshold, threshold, window_s, rule));
        match rule {
            Rule::LoginFailures => assert_eq!((of, from), (AgentId::ZERO, peer(1))),
            Rule::ForgedSignatures | Rule::RevokedKeys => assert_eq!((of, from), (agent(1), peer(1))),
            _ => assert_eq!((of, from), (agent(1), Peer::default())),
        }
        assert!(!what_to_do(rule).is_empty());
    }
}

#[test]
fn what_is_no_fault_of_an_agent_counts_for_no_rule() {
    for what in [
        refused(agent(1), 1_000, RejectCode::MailboxFull),
        refused(agent(1), 1_000, RejectCode::ShuttingDown),
        refused(agent(1), 1_000, RejectCode::RateLimited),
        login_failed(agent(1), peer(1), RejectCode::PolicyUnavailable),
        What::Delivered { mailbox: agent(1), sequence: 1 },
        What::AgentSuspended { agent: agent(1), actor: AgentId::ZERO },
    ] {
        assert_eq!(counts_for(&what), None, "{what:?}");
    }
    let code = Code::of_control("token_used").unwrap();
    let guess = What::EnrolmentRefused { token: Default::default(), peer: Peer::default(), code };
    assert_eq!(counts_for(&guess), Some((Rule::LoginFailures, 1)));
}

#[test]
fn what_was_spread_over_more_than_a_window_raises_none() {
    let limits = Limits::usual().with(Rule::Denials, Limit { threshold: 3, window_s: 60 });
    let mut monitor = Monitor::new(limits);
    for time in [0, 29_000, 61_000, 95_000, 130_000] {
        assert_eq!(monitor.see(NOW_MS + time, &one(Rule::Denials)), None, "after {time} ms");
    }
    assert!(monitor.see(NOW_MS + 131_000, &one(Rule::Denials)).is_some(), "three within 36 s");
}

#[test]
fn events_of_several_shards_that_come_a_little_out_of_order_all_count() {
    let limits = Limits::usual().with(Rule::LoginFailures, Limit { threshold: 20, window_s: 8 });
    let mut monitor = Monitor::new(limits);
    let mut alerts = 0;
    // Two shards, each two events around every second: the second tells last what happened before it.
    for second in 1..=40 {
        for millisecond in [1_010, 990, 1_020, 980] {
            let after = second * 1_000 + millisecond - 1_000;
            alerts += u32::from(monitor.see(NOW_MS + after, &one(Rule::LoginFailures)).is_some());
        }
    }
    // 32 in each window: the first alert after 20 of them, then one for each window that is left.
    assert_eq!(alerts, 5);
}

#[test]
fn one_alert_a_window_is_enough() {
    let limits = Limits::usual().with(Rule::LoginFailures, Limit { threshold: 2, window_s: 8 });
    let mut monitor = Monitor::new(limits);
    let alerts: Vec<u64> = (0..160)
        .map(|number| number * 100)
        .filter(|after| monitor.see(NOW_MS + after, &one(Rule::LoginFailures)).is_some())
        .collect();
    assert_eq!(alerts, [100, 8_000]);
}

#[test]
fn each_agent_counts_for_itself_and_what_was_only_counted_for_nobody() {
    let limits = Limits::usual().with(Rule::Denials, Limit { threshold: 10, window_s: 60 });
    let mut monitor = Monitor::new(limits);
    for number in 0..50 {
        assert_eq!(monitor.see(NOW_MS, &refused(agent(number), 9, RejectCode::PolicyDenied)), None);
    }
    let (kind, code, since) = (KindOf(9), Code::from(RejectCode::PolicyDenied), crate::event::TimeMs(NOW_MS));
    let alert = monitor.see(NOW_MS, &What::EventsMerged { kind, code, count: 10, since });
    assert!(
        matches!(alert, Some(What::AlertRaised { agent: AgentId::ZERO, count: 10, rule: Rule::Denials, .. })),
        "{alert:?}"
    );
    assert!(monitor.see(NOW_MS, &refused(agent(7), 1, RejectCode::PolicyDenied)).is_some());
}

#[test]
fn more_agents_than_there_is_room_for_count_together_until_others_are_silent() {
    let limits = Limits::usual().with(Rule::ClockSkew, Limit { threshold: 2, window_s: 60 });
    let mut monitor = Monitor::new(limits);
    let most = u16::try_from(ALERT_SUBJECTS_MAX).unwrap();
    for number in 0..most {
        assert_eq!(monitor.see(NOW_MS, &refused(agent(number), 1, RejectCode::SigningTime)), None);
    }
    assert_eq!(monitor.see(NOW_MS, &refused(agent(most), 1, RejectCode::SigningTime)), None);
    let alert = monitor.see(NOW_MS, &refused(agent(most + 1), 1, RejectCode::SigningTime));
    assert!(matches!(alert, Some(What::AlertRaised { agent: AgentId::ZERO, .. })), "{alert:?}");
    assert!(monitor.counts.len() <= ALERT_SUBJECTS_MAX + 1);
    let later = NOW_MS + 120_000;
    for _ in 0..2 {
        let alert = monitor.see(later, &refused(agent(most + 2), 1, RejectCode::SigningTime));
        if let Some(What::AlertRaised { agent: of, .. }) = alert {
            assert_eq!(of, agent(most + 2));
            return;
        }
    }
    panic!("the silent ones made no room");
}

#[test]
fn a_rule_that_is_off_raises_none() {
    let mut monitor = Monitor::new(Limits::usual().with(Rule::Denials, Limit { threshold: 0, window_s: 60 }));
    assert_eq!(monitor.see(NOW_MS, &refused(agent(1), u32::MAX, RejectCode::PolicyDenied)), None);
}

proptest! {
    /// Against every event of the last window, counted one by one.
    #[test]
    fn an_alert_comes_when_there_was_enough_and_only_then(
        steps in prop::collection::vec((0_u64..4_000, 1_u32..5), 1..200),
        threshold in 1_u32..20,
        window_s in 1_u32..12,
    ) {
        let mut monitor = Monitor::new(Limits::usual().with(Rule::Denials, Limit { threshold, window_s }));
        let window_ms = u64::from(window_s) * 1_000;
        let (mut now_ms, mut seen, mut last_alert) = (NOW_MS, Vec::new(), None::<u64>);
        for (passed_ms, count) in steps {
            now_ms += passed_ms;
            seen.push((now_ms, count));
            let alert = monitor.see(now_ms, &refused(agent(1), count, RejectCode::PolicyDenied));
            let within = |ms: u64| -> u32 {
                seen.iter().filter(|(time, _)| now_ms - time < ms).map(|(_, count)| count).sum()
            };
            let is_silent = last_alert.is_some_and(|last| now_ms - last <= window_ms + window_ms / 8);
            match alert {
                Some(_) => {
                    prop_assert!(within(window_ms) >= threshold, "{} in the window", within(window_ms));
                    prop_assert!(last_alert.is_none_or(|last| now_ms - last > window_ms * 7 / 8 - 8));
                    last_alert = Some(now_ms);
                }
                None => prop_assert!(is_silent || within(window_ms * 7 / 8) < threshold),
            }
        }
    }
}
