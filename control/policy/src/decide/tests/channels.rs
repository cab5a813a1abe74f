//! Channels: what their records let agents do, under each policy.

use std::sync::Arc;

use creto_envelope::channel::{ChannelRecord, Publishing, Subscribing};
use creto_envelope::{AgentState, RejectCode};

use super::loaded::{is_on_channel_of_acme, played};
use super::{NOW_MS, Script, world};
use crate::decide::{Action, Decision, DecisionTable, decide};
use crate::fixture::{agent, channel};
use crate::{Input, Policy, SnapshotBuilder};

pub(super) const ACTIONS: [Action; 2] = [Action::Publish, Action::SubscribeChannel];

/// A record with rules of its own.
pub(super) fn some(script: &mut Script, record: ChannelRecord, names: &[&str]) -> ChannelRecord {
    let listed = |script: &mut Script| {
        let mut listed: Vec<_> = (0..script.next(4)).map(|_| agent(script.pick(names))).collect();
        listed.sort_unstable();
        listed.dedup();
        listed
    };
    let subscribing = match script.next(4) {
        0 => Subscribing::Open,
        1 => Subscribing::Private,
        2 => Subscribing::AuthzRequired,
        _ => Subscribing::Allowlist(listed(script)),
    };
    let publishing = if script.next(2) == 0 { Publishing::Open } else { Publishing::Listed(listed(script)) };
    ChannelRecord { owner: agent(script.pick(names)), subscribing, publishing, ..record }
}

fn check(builder: &SnapshotBuilder, sender: &str, action: Action, topic: &str, expect: Result<(), RejectCode>) {
    let expect = expect.map_or_else(Decision::Deny, |()| Decision::ALLOW);
    let snapshot = builder.build(1);
    let (sender, on) = (agent(sender), Action::on_channel(&channel(topic, 1).channel_id()));
    assert_eq!(decide(&snapshot, NOW_MS, &sender, action, &on, 0), expect);
    let mut table = DecisionTable::new(64, 1_000);
    for _ in 0..2 {
        assert_eq!(table.decide(&snapshot, NOW_MS, &sender, action, &on, 0), expect);
    }
}

fn with(record: ChannelRecord) -> SnapshotBuilder {
    let mut builder = world();
    builder.insert_channel(record);
    builder
}

const TOPIC: &str = "acme/topic";

#[test]
fn an_organization_has_its_channels_and_nobody_else_does() {
    let open = with(channel(TOPIC, 1));
    for action in ACTIONS {
        check(&open, "acme/b", action, TOPIC, Ok(()));
        check(&open, "globex/c", action, TOPIC, Err(RejectCode::PolicyDenied));
        check(&open, "acme/a", action, "acme/other", Err(RejectCode::UnknownChannel));
        check(&open, "acme/revoked", action, TOPIC, Err(RejectCode::AgentRevoked));
        check(&open, "acme/suspended", action, "acme/other", Err(RejectCode::AgentSuspended));
        check(&open, "acme/nobody", action, TOPIC, Err(RejectCode::UnknownSender));
        // An agent has no channel of its own, whatever its id.
        let (a, b) = (agent("acme/a"), agent("acme/b"));
        let unknown = Decision::Deny(RejectCode::UnknownChannel);
        assert_eq!(decide(&open.build(1), NOW_MS, &a, action, &b, 0), unknown);
    }
    // Nor is a channel somebody.
    let on = Action::on_channel(&channel(TOPIC, 1).channel_id());
    let unknown = Decision::Deny(RejectCode::UnknownRecipient);
    assert_eq!(decide(&open.build(1), NOW_MS, &agent("acme/a"), Action::SendMessage, &on, 0), unknown);
}

#[test]
fn the_record_says_no_before_the_policy_is_asked_and_its_owner_is_on_every_list() {
    let listed = with(ChannelRecord {
        subscribing: Subscribing::Allowlist(vec![agent("globex/c")]),
        publishing: Publishing::Listed(vec![agent("acme/b")]),
        ..channel(TOPIC, 1)
    });
    check(&listed, "acme/a", Action::Publish, TOPIC, Ok(()));
    check(&listed, "acme/a", Action::SubscribeChannel, TOPIC, Ok(()));
    check(&listed, "acme/b", Action::Publish, TOPIC, Ok(()));
    check(&listed, "acme/b", Action::SubscribeChannel, TOPIC, Err(RejectCode::ChannelNotAllowed));
    check(&listed, "globex/c", Action::Publish, TOPIC, Err(RejectCode::ChannelNotAllowed));
    // Whoever is listed needs the policy, too.
    check(&listed, "globex/c", Action::SubscribeChannel, TOPIC, Err(RejectCode::PolicyDenied));
    let private = with(ChannelRecord { subscribing: Subscribing::Private, ..channel(TOPIC, 1) });
    check(&private, "acme/a", Action::SubscribeChannel, TOPIC, Ok(()));
    check(&private, "acme/b", Action::SubscribeChannel, TOPIC, Err(RejectCode::ChannelNotAllowed));
    check(&private, "acme/b", Action::Publish, TOPIC, Ok(()));
}

#[test]
fn a_channel_that_needs_a_policy_has_subscribers_only_under_one_that_was_written() {
    let mut builder = with(ChannelRecord { subscribing: Subscribing::AuthzRequired, ..channel(TOPIC, 1) });
    check(&builder, "acme/b", Action::SubscribeChannel, TOPIC, Err(RejectCode::ChannelNotAllowed));
    check(&builder, "acme/b", Action::Publish, TOPIC, Ok(()));
    builder.set_policy(Some(Policy::FailOpen));
    check(&builder, "acme/b", Action::SubscribeChannel, TOPIC, Err(RejectCode::PolicyUnavailable));
    check(&builder, "globex/c", Action::Publish, TOPIC, Ok(()));
    let policy = played(&[Input::Channel, Input::Action, Input::RecipientName], is_on_channel_of_acme);
    builder.set_policy(Some(Policy::Loaded(Arc::new(policy))));
    check(&builder, "acme/b", Action::SubscribeChannel, TOPIC, Ok(()));
    check(&builder, "globex/c", Action::SubscribeChannel, TOPIC, Ok(()));
    builder.set_policy(None);
    check(&builder, "acme/b", Action::SubscribeChannel, TOPIC, Err(RejectCode::PolicyUnavailable));
}

#[test]
fn a_policy_that_reads_the_channel_is_asked_about_each() {
    let policy = played(&[Input::Channel], is_on_channel_of_acme);
    let mut builder = with(channel(TOPIC, 1));
    builder.insert_channel(channel("globex/topic", 1));
    builder.set_policy(Some(Policy::Loaded(Arc::new(policy.clone()))));
    check(&builder, "acme/b", Action::Publish, TOPIC, Ok(()));
    check(&builder, "acme/b", Action::Publish, "globex/topic", Err(RejectCode::PolicyDenied));
    let mut table = DecisionTable::new(64, 1_000);
    let snapshot = builder.build(1);
    for (topic, allowed) in [(TOPIC, true), ("globex/topic", false), (TOPIC, true)] {
        let on = Action::on_channel(&channel(topic, 1).channel_id());
        for action in ACTIONS {
            let decision = table.decide(&snapshot, NOW_MS, &agent("acme/b"), action, &on, 0);
            assert_eq!(decision.is_allowed(), allowed, "{topic}");
        }
    }
    // What both actions look like to it is asked once for each channel.
    assert_eq!(table.stats().evaluations, 2);
}

#[test]
fn the_next_version_of_a_record_voids_what_was_kept_and_a_deleted_channel_is_none() {
    let mut builder = with(channel(TOPIC, 1));
    let (b, on) = (agent("acme/b"), Action::on_channel(&channel(TOPIC, 1).channel_id()));
    let mut table = DecisionTable::new(64, u64::MAX);
    let first = builder.build(1);
    assert!(table.decide(&first, NOW_MS, &b, Action::Publish, &on, 0).is_allowed());
    builder.insert_channel(ChannelRecord { publishing: Publishing::Listed(Vec::new()), ..channel(TOPIC, 2) });
    // Also under the same epoch.
    let denied = Decision::Deny(RejectCode::ChannelNotAllowed);
    assert_eq!(table.decide(&builder.build(1), NOW_MS, &b, Action::Publish, &on, 0), denied);
    let deleted = ChannelRecord { is_deleted: true, ..channel(TOPIC, 3) };
    let id = builder.insert_channel(deleted);
    let last = builder.build(2);
    let unknown = Decision::Deny(RejectCode::UnknownChannel);
    assert_eq!(table.decide(&last, NOW_MS, &b, Action::Publish, &on, 0), unknown);
    assert!(last.channel(&id).is_none() && last.channel_count() == 0 && builder.listed_count() == 0);
    assert_eq!(first.channel(&id).unwrap().record().version, 1);
}

#[test]
fn the_channel_of_a_revoked_owner_goes_on_and_that_of_nobody_does_not() {
    let mut builder = with(channel(TOPIC, 1));
    builder.set_state(&agent("acme/a"), AgentState::Revoked);
    check(&builder, "acme/b", Action::Publish, TOPIC, Ok(()));
    builder.remove(&agent("acme/a"));
    check(&builder, "acme/b", Action::Publish, TOPIC, Err(RejectCode::UnknownChannel));
}

#[test]
fn what_channels_list_is_counted() {
    let listed = |count: u8| (0..count).map(|number| creto_envelope::AgentId([number; 16])).collect::<Vec<_>>();
    let mut builder = world();
    let mut record = channel(TOPIC, 1);
    (record.subscribing, record.publishing) = (Subscribing::Allowlist(listed(5)), Publishing::Listed(listed(3)));
    builder.insert_channel(record.clone());
    builder.insert_channel(ChannelRecord { version: 1, ..channel("acme/other", 1) });
    assert_eq!((builder.channel_count(), builder.listed_count()), (2, 8));
    record.subscribing = Subscribing::Allowlist(listed(1));
    let id = builder.insert_channel(record);
    assert_eq!((builder.channel_count(), builder.listed_count()), (2, 4));
    assert!(builder.remove_channel(&id) && !builder.remove_channel(&id));
    assert_eq!((builder.channel_count(), builder.listed_count()), (1, 0));
}
