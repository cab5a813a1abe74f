use std::sync::Arc;

use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, AgentState};

use crate::fixture::{agent, channel, record};
use crate::{
    Attributes, KeyVersion, LowerRetention, MailboxLimits, MailboxSettings, Policy, PrincipalError, Replacement,
    Snapshot, SnapshotBuilder,
};

#[test]
fn the_empty_snapshot_has_epoch_zero_and_knows_nobody() {
    let snapshot = Snapshot::empty();
    assert!((snapshot.epoch(), snapshot.agent_count()) == (0, 0) && snapshot.policy().is_none());
    assert!(snapshot.principal(&AgentId::ZERO).is_none());
}

#[test]
fn a_snapshot_does_not_change_with_its_builder() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let id = builder.insert(AgentState::Active, vec![record("acme/a", 1, 0..10)]).unwrap();
    let before = builder.build(1);
    assert!(builder.set_state(&id, AgentState::Revoked));
    builder.insert(AgentState::Active, vec![record("acme/b", 1, 0..10)]).unwrap();
    let after = builder.build(2);
    assert_eq!(before.principal(&id).unwrap().state(), AgentState::Active);
    assert_eq!(before.agent_count(), 1);
    assert_eq!(after.principal(&id).unwrap().state(), AgentState::Revoked);
    assert_eq!(after.agent_count(), 2);
    assert!(builder.remove(&id) && !builder.remove(&id) && !builder.set_state(&id, AgentState::Active));
}

#[test]
fn what_is_set_for_a_mailbox_is_in_the_next_snapshot_and_stays_when_a_key_is_replaced() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let id = builder.insert(AgentState::Active, vec![record("acme/a", 1, 0..10)]).unwrap();
    let before = builder.build(1);
    let settings = MailboxSettings { messages_max: Some(7), ..MailboxSettings::default() };
    let lower = LowerRetention { retention_s: 60, until_ms: 100 };
    assert!(builder.set_mailbox(&id, settings, lower) && !builder.set_mailbox(&AgentId::ZERO, settings, lower));
    let replacement = Replacement { at_ms: 5, mode: RotationMode::Planned };
    let next = KeyVersion::from(&record("acme/a", 2, 0..10).record);
    builder.replace_key(&id, next, replacement, 2).unwrap();
    let after = builder.build(2);
    assert_eq!(before.principal(&id).unwrap().mailbox_limits(0), MailboxLimits::default());
    let limits = MailboxLimits { messages_max: 7, session_retention_s: 60, ..MailboxLimits::default() };
    assert_eq!(after.principal(&id).unwrap().mailbox_limits(99), limits);
    assert_eq!(after.principal(&id).unwrap().mailbox_settings(), &settings);
}

#[test]
fn organizations_are_equal_by_name_and_trust_domain() {
    let mut builder = SnapshotBuilder::new();
    for name in ["acme/a", "acme/b", "acm/e"] {
        builder.insert(AgentState::Active, vec![record(name, 1, 0..10)]).unwrap();
    }
    let mut elsewhere = (*record("acme/a", 1, 0..10)).clone();
    elsewhere.record.trust_domain = creto_envelope::TrustDomain::parse("other.local").unwrap();
    let elsewhere = builder.insert(AgentState::Active, vec![elsewhere.into()]).unwrap();
    let organization = |id| builder.principal(&id).unwrap().organization();
    assert_eq!(organization(agent("acme/a")), organization(agent("acme/b")));
    assert_ne!(organization(agent("acme/a")), organization(agent("acm/e")));
    assert_ne!(organization(agent("acme/a")), organization(elsewhere));
}

#[test]
fn records_that_do_not_make_one_agent_are_refused_and_change_nothing() {
    let mut builder = SnapshotBuilder::new();
    assert_eq!(builder.insert(AgentState::Active, vec![]), Err(PrincipalError::NoRecord));
    assert_eq!(
        builder.insert(AgentState::Active, vec![record("acme/a", 1, 0..1), record("acme/b", 2, 0..1)]),
        Err(PrincipalError::MixedAgents(agent("acme/a"), agent("acme/b")))
    );
    for (first, second) in [(2, 1), (1, 1)] {
        assert_eq!(
            builder.insert(AgentState::Active, vec![record("acme/a", first, 0..1), record("acme/a", second, 0..1)]),
            Err(PrincipalError::VersionOrder(first, second))
        );
    }
    assert_eq!(builder.build(1).agent_count(), 0);
}

#[test]
fn the_digest_sees_every_input_of_a_decision_and_no_order() {
    let build = |names: &[&str], version, valid: std::ops::Range<u64>, state, policy| {
        let mut builder = SnapshotBuilder::with_policy(policy);
        // Interned first, so that the numbers of the organizations do not depend on the order below.
        builder.insert(state, vec![record("acme/z", 1, 0..1)]).unwrap();
        for name in names {
            builder.insert(state, vec![record(name, version, valid.clone())]).unwrap();
        }
        builder.build(1).stamp().1
    };
    let (active, same) = (AgentState::Active, Policy::SameOrganization);
    let base = build(&["acme/a", "acme/b"], 1, 0..10, active, same.clone());
    assert_eq!(base, build(&["acme/b", "acme/a"], 1, 0..10, active, same.clone()));
    assert_ne!(base, build(&["acme/a"], 1, 0..10, active, same.clone()));
    assert_ne!(base, build(&["acme/a", "acme/b"], 2, 0..10, active, same.clone()));
    assert_ne!(base, build(&["acme/a", "acme/b"], 1, 1..10, active, same.clone()));
    assert_ne!(base, build(&["acme/a", "acme/b"], 1, 0..11, active, same.clone()));
    assert_ne!(base, build(&["acme/a", "acme/b"], 1, 0..10, AgentState::Suspended, same.clone()));
    let mut unloaded = SnapshotBuilder::new();
    let nobody = unloaded.build(1).stamp().1;
    unloaded.set_policy(Some(same));
    assert_ne!(nobody, unloaded.build(1).stamp().1);
}

#[test]
fn since_when_an_agent_is_revoked_is_in_the_next_snapshot_and_its_stamp() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let id = builder.insert(AgentState::Active, vec![record("acme/a", 1, 0..10)]).unwrap();
    let before = builder.build(1);
    assert_eq!(before.principal(&id).unwrap().revoked_at_ms(), None);
    assert!(builder.revoke(&id, 7) && !builder.revoke(&AgentId::ZERO, 7));
    let revoked = builder.build(1);
    assert_eq!(revoked.principal(&id).unwrap().revoked_at_ms(), Some(7));
    builder.insert(AgentState::Revoked, vec![record("acme/a", 1, 0..10)]).unwrap();
    assert_eq!(builder.principal(&id).unwrap().revoked_at_ms(), Some(7), "inserted anew, it is revoked since then");
    builder.revoke(&id, 5);
    let stamps = [&before, &revoked, &builder.build(1)].map(Snapshot::stamp);
    assert!(stamps[0] != stamps[1] && stamps[1] != stamps[2] && stamps[0] != stamps[2]);
}

#[test]
fn a_builder_that_was_changed_gives_the_stamp_of_one_that_was_made_so() {
    let attributes = || Arc::new(Attributes::parse("service", ["reader"], [""; 0]).unwrap());
    let mut changed = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let ids: Vec<_> = ["acme/a", "acme/b", "acme/c", "acme/d"]
        .map(|name| changed.insert(AgentState::Suspended, vec![record(name, 1, 0..10)]).unwrap())
        .into();
    let empty = SnapshotBuilder::with_policy(Policy::SameOrganization).build(1).stamp();
    changed.set_state(&ids[0], AgentState::Active);
    changed.set_attributes(&ids[0], attributes());
    let replacement = Replacement { at_ms: 5, mode: RotationMode::Planned };
    let next = KeyVersion::from(&record("acme/a", 2, 0..20).record);
    changed.replace_key(&ids[0], next, replacement, 9).unwrap();
    changed.revoke(&ids[1], 7);
    changed.insert(AgentState::Active, vec![record("acme/c", 3, 0..30)]).unwrap();
    assert!(changed.remove(&ids[3]) && !changed.remove(&ids[3]));

    let mut made = SnapshotBuilder::with_policy(Policy::SameOrganization);
    made.insert(AgentState::Active, vec![record("acme/c", 3, 0..30)]).unwrap();
    made.insert(AgentState::Revoked, vec![record("acme/b", 1, 0..10)]).unwrap();
    made.revoke(&ids[1], 7);
    made.insert(AgentState::Active, vec![record("acme/a", 2, 0..20)]).unwrap();
    made.set_attributes(&ids[0], attributes());
    assert_eq!(changed.build(1).stamp(), made.build(1).stamp());
    assert_eq!(ids.iter().filter(|id| changed.remove(id)).count(), 3);
    assert_eq!(changed.build(1).stamp(), empty);
}

#[test]
fn a_key_is_replaced_by_a_newer_version_only_and_the_oldest_make_room() {
    let mut builder = SnapshotBuilder::new();
    let version = |version| KeyVersion::from(&record("acme/a", version, 0..u64::MAX).record);
    let replacement = Replacement { at_ms: 5, mode: RotationMode::Planned };
    assert_eq!(builder.replace_key(&agent("acme/a"), version(1), replacement, 3), Err(PrincipalError::NoRecord));
    let id = builder.insert(AgentState::Suspended, vec![record("acme/a", 1, 0..10)]).unwrap();
    for next in 2..=5 {
        builder.replace_key(&id, version(next), replacement, 3).unwrap();
    }
    let order = Err(PrincipalError::VersionOrder(5, 5));
    assert_eq!(builder.replace_key(&id, version(5), replacement, 3), order);
    let principal = builder.principal(&id).unwrap();
    let known: Vec<_> = (0..7).filter(|version| principal.key_version(*version).is_some()).collect();
    assert_eq!((known, principal.state()), (vec![3, 4, 5], AgentState::Suspended));
    assert_eq!(principal.key_version(4), Some(KeyVersion { replaced: Some(replacement), ..version(4) }));
    assert_eq!(principal.name().as_str(), "acme/a");
}

#[test]
fn mailboxes_for_which_the_same_is_set_share_it() {
    let mut builder = SnapshotBuilder::new();
    let ids =
        ["acme/a", "acme/b"].map(|name| builder.insert(AgentState::Active, vec![record(name, 1, 0..10)]).unwrap());
    let shared = |builder: &SnapshotBuilder| {
        let of = |id| builder.principal(id).unwrap().mailbox();
        Arc::ptr_eq(of(&ids[0]), of(&ids[1]))
    };
    assert!(shared(&builder));
    let settings = MailboxSettings { messages_max: Some(7), ..MailboxSettings::default() };
    builder.set_mailbox(&ids[0], settings, LowerRetention::default());
    assert!(!shared(&builder));
    builder.set_mailbox(&ids[1], settings, LowerRetention::default());
    assert!(shared(&builder));
}

#[test]
fn a_snapshot_that_lapsed_knows_everybody_and_allows_nothing_also_not_from_memory() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let a = builder.insert(AgentState::Active, vec![record("acme/a", 1, 0..u64::MAX)]).unwrap();
    let b = builder.insert(AgentState::Active, vec![record("acme/b", 1, 0..u64::MAX)]).unwrap();
    let topic = crate::Action::on_channel(&builder.insert_channel(channel("acme/alerts", 1)));
    let snapshot = builder.build(7);
    let lapsed = snapshot.lapsed();
    let mut table = crate::DecisionTable::new(64, 60_000);
    let mut decide = |snapshot: &Snapshot, action, on| table.decide(snapshot, 5, &a, action, on, 0);
    for _ in 0..2 {
        for (action, on) in [
            (crate::Action::SendMessage, &b),
            (crate::Action::Publish, &topic),
            (crate::Action::SubscribeChannel, &topic),
        ] {
            assert_eq!(decide(&snapshot, action, on), crate::Decision::ALLOW);
            let denied = crate::Decision::Deny(creto_envelope::RejectCode::PolicyUnavailable);
            assert_eq!(decide(&lapsed, action, on), denied, "{action:?}");
            assert_eq!(crate::decide(&lapsed, 5, &a, action, on, 0), denied, "{action:?}");
        }
    }
    assert_eq!((lapsed.epoch(), lapsed.agent_count(), lapsed.channel_count()), (7, 2, 1));
    // A snapshot without a policy may lapse, too: it is not the same as before.
    assert_ne!(lapsed.lapsed().stamp(), lapsed.stamp());
}

#[test]
fn what_changed_since_another_snapshot_is_everything_that_differs_in_an_agent() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let ids: Vec<_> = (0..50)
        .map(|number| {
            let record = record(&format!("acme/a{number}"), 1, 0..10);
            builder.insert(AgentState::Active, vec![record]).unwrap()
        })
        .collect();
    let before = builder.build(1);
    assert_eq!(before.changes_since(&before).count(), 0);
    assert_eq!(before.changes_since(&Snapshot::empty()).count(), 50);
    assert!(Snapshot::empty().changes_since(&before).all(|(_, principal)| principal.is_none()));
    builder.set_state(&ids[1], AgentState::Suspended);
    builder.set_mailbox(&ids[2], MailboxSettings { messages_max: Some(5), ..Default::default() }, Default::default());
    builder.set_attributes(&ids[3], Arc::new(Attributes::parse("planner", ["a"], ["b"]).unwrap()));
    builder.revoke(&ids[4], 77);
    builder.remove(&ids[5]);
    let key = KeyVersion::from(&record("acme/a6", 2, 0..10).record);
    builder.replace_key(&ids[6], key, Replacement { at_ms: 3, mode: RotationMode::Planned }, 8).unwrap();
    let after = builder.build(2);
    let mut changed: Vec<_> = after.changes_since(&before).map(|(id, now)| (id, now.is_some())).collect();
    changed.sort_unstable();
    let mut wanted: Vec<_> = (1..7).map(|number| (ids[number], number != 5)).collect();
    wanted.sort_unstable();
    assert_eq!(changed, wanted);
}

#[test]
fn what_changed_in_channels_since_another_snapshot_is_every_record_that_differs_and_every_channel_that_is_gone() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let ids: Vec<_> = (0..50).map(|number| builder.insert_channel(channel(&format!("acme/c{number}"), 1))).collect();
    let before = builder.build(1);
    assert_eq!(before.channel_changes_since(&before).count(), 0);
    assert_eq!(before.changes_since(&Snapshot::empty()).count(), 0, "these are channels, and no agents");
    assert_eq!(before.channel_changes_since(&Snapshot::empty()).count(), 50);
    assert!(Snapshot::empty().channel_changes_since(&before).all(|(_, channel)| channel.is_none()));
    builder.insert_channel(channel("acme/c1", 2));
    // The same again is no change.
    builder.insert_channel(channel("acme/c2", 1));
    builder.remove_channel(&ids[3]);
    builder.insert_channel(creto_envelope::channel::ChannelRecord { is_deleted: true, ..channel("acme/c4", 2) });
    let new = builder.insert_channel(channel("acme/new", 1));
    let after = builder.build(2);
    let mut changed: Vec<_> = after.channel_changes_since(&before).map(|(id, now)| (id, now.is_some())).collect();
    changed.sort_unstable();
    let mut wanted = vec![(ids[1], true), (ids[3], false), (ids[4], false), (new, true)];
    wanted.sort_unstable();
    assert_eq!(changed, wanted);
}

#[test]
fn what_is_new_takes_nothing_from_anybody_and_what_is_not_as_it_was_may() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let agents: Vec<AgentId> = (0..200)
        .map(|of| builder.insert(AgentState::Active, vec![record(&format!("acme/a{of}"), 1, 0..10)]).unwrap())
        .collect();
    builder.insert_channel(channel("acme/alerts", 1));
    let first = builder.build(1);
    assert!(first.may_take_away_since(&Snapshot::empty()), "there was no policy");
    assert!(!first.may_take_away_since(&first) && first.lapsed().may_take_away_since(&first));
    assert!(first.may_take_away_since(&first.lapsed()));
    // Somebody new, and something.
    builder.insert(AgentState::Active, vec![record("acme/b", 1, 0..10)]).unwrap();
    builder.insert_channel(channel("acme/news", 1));
    let more = builder.build(2);
    assert!(!more.may_take_away_since(&first));
    assert!(first.may_take_away_since(&more), "what is gone is");
    // Any agent, or channel.
    for agent in &agents {
        let mut builder = builder.clone();
        assert!(builder.set_state(agent, AgentState::Suspended));
        assert!(builder.build(3).may_take_away_since(&more));
    }
    let mut changed = builder.clone();
    changed.insert_channel(channel("acme/alerts", 2));
    assert!(changed.build(3).may_take_away_since(&more));
    builder.set_policy(Some(Policy::FailOpen));
    assert!(builder.build(3).may_take_away_since(&more));
}
