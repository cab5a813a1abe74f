//! Who subscribes to a channel, as its publishers are told, and who may not any more.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;
#[allow(dead_code, reason = "each test file takes what it needs")]
mod topic;

use std::sync::Arc;

use creto_audit::What;
use creto_envelope::channel::frames::{
    ChannelAttach, ChannelDetach, ChannelLeave, ChannelMembers, ChannelSubscribe, LeaveMode, Start,
};
use creto_envelope::channel::{ChannelRecord, Publishing, Subscribing};
use creto_envelope::control::Reject;
use creto_envelope::limits::CHANNEL_SUBSCRIPTIONS_MAX;
use creto_envelope::submit::SubmitAck;
use creto_envelope::{AgentState, ChannelId, FrameType, GroupId, RejectCode};
use creto_policy::{Policy, SnapshotBuilder};
use creto_sim::agents::SimAgent;
use creto_store::WalConfig;
use fixture::{CHANNELS, NOW, Node, SUBMIT, id};
use topic::{ALONE, Subscriber, TOPIC, World, attach, count, members, numbers, publish, record, topic};

const GROUP: GroupId = GroupId([5; 16]);

#[test]
fn a_publisher_is_told_who_subscribes_and_every_change() {
    for shard_count in [1, 2, 4] {
        let world = World::new();
        let mut node = world.node(shard_count);
        let last = usize::from(shard_count) - 1;
        let publisher = node.connect_as(last, &world.owner);
        let mut worker = Subscriber::connect(&mut node, 0, &world.worker);
        worker.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
        attach(&mut node, &publisher, TOPIC);
        let whole = members(&mut node, &publisher);
        assert_eq!((whole.len(), whole[0].is_whole, &whole[0].joined), (1, true, &vec![world.worker.id]));
        // A second subscription of the same agent changes nothing, nor does one that begins anew.
        worker.subscribe(&mut node, 2, TOPIC, GROUP, Start::GoOn);
        worker.subscribe(&mut node, 3, TOPIC, GROUP, Start::Oldest);
        assert!(members(&mut node, &publisher).is_empty());
        let mut critic = Subscriber::connect(&mut node, last, &world.critic);
        critic.subscribe(&mut node, 1, TOPIC, GROUP, Start::GoOn);
        worker.leave(&mut node, 1, LeaveMode::Unsubscribe);
        let told = members(&mut node, &publisher);
        assert_eq!(told.len(), 1, "it is a member of the group still");
        assert_eq!((told[0].is_whole, &told[0].joined, &told[0].left), (false, &vec![world.critic.id], &vec![]));
        assert!(told[0].version > whole[0].version);
        worker.leave(&mut node, 3, LeaveMode::Unsubscribe);
        let told = members(&mut node, &publisher);
        assert_eq!((told.len(), &told[0].joined, &told[0].left), (1, &vec![], &vec![world.worker.id]));
        // A connection that goes leaves its subscription.
        critic.disconnect(&mut node);
        assert!(members(&mut node, &publisher).is_empty());
        attach(&mut node, &publisher, TOPIC);
        assert_eq!(members(&mut node, &publisher)[0].joined, [world.critic.id]);
        node.frames(&publisher, SUBMIT, |out| ChannelDetach { channel: topic(TOPIC) }.encode(out));
        node.run();
        worker.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
        assert!(members(&mut node, &publisher).is_empty());
    }
}

/// It may have lost its folder, and with it the keys: a publisher that hears nothing would go on with a session that it cannot read.
#[test]
fn who_leaves_and_comes_again_in_one_turn_is_told_as_both() {
    let world = World::new();
    let mut node = world.node(1);
    let publisher = node.connect_as(0, &world.owner);
    attach(&mut node, &publisher, TOPIC);
    let mut worker = Subscriber::connect(&mut node, 0, &world.worker);
    worker.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    assert_eq!(members(&mut node, &publisher).len(), 2);
    let again = ChannelSubscribe { handle: 2, channel: topic(TOPIC), group: ALONE, start: Start::GoOn };
    node.frames(&worker.client, CHANNELS, |out| {
        ChannelLeave { handle: 1, mode: LeaveMode::Unsubscribe }.encode(out);
    });
    node.frames(&worker.client, CHANNELS, |out| again.encode(out));
    node.run();
    assert!(worker.subscribed(&mut node).is_some());
    let told = members(&mut node, &publisher);
    let last = told.last().unwrap();
    assert_eq!((told.len(), &last.joined, &last.left), (1, &vec![world.worker.id], &vec![world.worker.id]));
    // Who came and went was never there.
    let critic = Subscriber::connect(&mut node, 0, &world.critic);
    node.frames(&critic.client, CHANNELS, |out| again.encode(out));
    node.frames(&critic.client, CHANNELS, |out| {
        ChannelLeave { handle: 2, mode: LeaveMode::Unsubscribe }.encode(out);
    });
    node.run();
    assert!(members(&mut node, &publisher).iter().all(|told| told.joined != told.left || told.left.is_empty()));
}

/// The order that publishers rely on: with it, a newcomer that gets the key of the oldest unanswered message misses nothing.
#[test]
fn a_join_is_told_before_the_answer_about_any_message_behind_it() {
    for shard_count in [1, 2, 4] {
        let world = World::new();
        let mut node = world.node(shard_count);
        let publisher = node.connect_as(0, &world.owner);
        attach(&mut node, &publisher, TOPIC);
        assert_eq!(members(&mut node, &publisher).len(), 1);
        let mut worker = Subscriber::connect(&mut node, usize::from(shard_count) - 1, &world.worker);
        let mut session = world.publisher(TOPIC);
        node.hold_disk = true;
        world.send(&mut node, &publisher, 1, &mut session, 0..2);
        worker.ask(&mut node, 1, TOPIC, ALONE, Start::GoOn);
        worker.grant(&mut node, 1, 100, 1 << 20);
        world.send(&mut node, &publisher, 2, &mut session, 2..4);
        node.hold_disk = false;
        node.run();
        // What came on the submit stream, in its order.
        let mut joined_before = None;
        let mut through = 0;
        for (connection, sent) in std::mem::take(&mut node.sent) {
            match sent.frame_type {
                FrameType::ChannelMembers if connection == publisher.connection => {
                    let told = ChannelMembers::parse(&sent.body).unwrap();
                    assert_eq!((told.joined, told.is_whole), (vec![world.worker.id], false));
                    joined_before = Some(through);
                }
                FrameType::SubmitAck => through = SubmitAck::parse(&sent.body).unwrap().through_sequence,
                _ => node.sent.push((connection, sent)),
            }
        }
        assert_eq!(through, 2);
        assert!(joined_before.is_some_and(|through| through < 2), "{joined_before:?}");
        assert_eq!(numbers(&worker.pushed(&mut node, 1)), [2, 3]);
    }
}

#[test]
fn who_may_not_publish_is_told_of_no_members_and_a_connection_watches_so_many_channels() {
    let world = World::new();
    let mut node = world.node(2);
    let listed = ChannelRecord { publishing: Publishing::Listed(vec![]), ..record("acme/listed") };
    publish(&mut node, &world.snapshot(3, &[record(TOPIC), listed], |_| {}));
    let reject = |node: &mut Node, agent: &SimAgent, name: &str| {
        let client = node.connect_as(1, agent);
        attach(node, &client, name);
        assert!(members(node, &client).is_empty());
        let body = node.take(&client, FrameType::Reject);
        let reject = Reject::parse(&body[0]).unwrap();
        assert_eq!(reject.context, topic(name).0);
        RejectCode::from_u16(reject.code).unwrap()
    };
    assert_eq!(reject(&mut node, &world.worker, "acme/listed"), RejectCode::ChannelNotAllowed);
    assert_eq!(reject(&mut node, &world.worker, "acme/nothing"), RejectCode::UnknownChannel);
    assert_eq!(reject(&mut node, &world.stranger, TOPIC), RejectCode::PolicyDenied);
    let client = node.connect(0);
    attach(&mut node, &client, TOPIC);
    assert_eq!(node.rejects(&client), [RejectCode::LoginRequired]);

    let records: Vec<_> = (0..=CHANNEL_SUBSCRIPTIONS_MAX).map(|number| record(&format!("acme/t{number}"))).collect();
    publish(&mut node, &world.snapshot(4, &records, |_| {}));
    let client = node.connect_as(0, &world.owner);
    let channels: Vec<ChannelId> = records.iter().map(ChannelRecord::channel_id).collect();
    for &channel in &channels {
        node.frames(&client, SUBMIT, |out| ChannelAttach { channel }.encode(out));
    }
    node.run();
    assert_eq!(members(&mut node, &client).len(), CHANNEL_SUBSCRIPTIONS_MAX);
    assert_eq!(node.rejects(&client), [RejectCode::TooManySubscriptions]);
    node.frames(&client, SUBMIT, |out| ChannelDetach { channel: channels[0] }.encode(out));
    node.frames(&client, SUBMIT, |out| ChannelAttach { channel: *channels.last().unwrap() }.encode(out));
    node.run();
    assert_eq!(members(&mut node, &client).len(), 1);
}

/// Takes `change` to what a snapshot says, with a subscriber who is there and one who is not; both are members of channel and group.
#[track_caller]
fn check_ended(code: RejectCode, change: impl Fn(&World, u64) -> Arc<creto_policy::Snapshot>) {
    for shard_count in [1, 2] {
        let world = World::new();
        let mut node = world.node(shard_count);
        let publisher = node.connect_as(0, &world.owner);
        attach(&mut node, &publisher, TOPIC);
        let mut session = world.publisher(TOPIC);
        let mut here = Subscriber::connect(&mut node, usize::from(shard_count) - 1, &world.critic);
        here.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
        here.subscribe(&mut node, 2, TOPIC, GROUP, Start::GoOn);
        let mut stays = Subscriber::connect(&mut node, 0, &world.owner);
        stays.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
        world.send(&mut node, &publisher, 1, &mut session, 0..2);
        assert_eq!((node.acks(&publisher).0, here.pushed(&mut node, 1).len()), (1, 2));
        members(&mut node, &publisher);

        publish(&mut node, &change(&world, 3));
        let mut left = here.left(&mut node);
        left.sort_unstable_by_key(|(handle, _)| *handle);
        assert_eq!(left, [(1, Some(code)), (2, Some(code))]);
        let told = members(&mut node, &publisher);
        assert_eq!(told.iter().flat_map(|told| told.left.clone()).collect::<Vec<_>>(), [world.critic.id]);
        assert_eq!(count(&node, |of| of.subscriptions_ended), 2);
        // Nothing goes there any more, and to the others it does.
        world.send(&mut node, &publisher, 2, &mut session, 2..4);
        assert!(here.pushed(&mut node, 1).is_empty() && here.pushed(&mut node, 2).is_empty());
        assert_eq!(numbers(&stays.pushed(&mut node, 1)), [0, 1, 2, 3]);
        // It is over: who may again begins anew, also after a restart.
        let mut node = node.restarted(&world.agents(), &world.snapshot(4, &[record(TOPIC)], |_| {}));
        let mut again = Subscriber::connect(&mut node, 0, &world.critic);
        again.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
        assert!(again.pushed(&mut node, 1).is_empty());
    }
}

#[test]
fn whoever_the_record_does_not_name_any_more_is_out() {
    check_ended(RejectCode::ChannelNotAllowed, |world, epoch| {
        let subscribing = Subscribing::Allowlist(vec![world.worker.id]);
        world.snapshot(epoch, &[ChannelRecord { version: 2, subscribing, ..record(TOPIC) }], |_| {})
    });
}

#[test]
fn whoever_the_policy_does_not_let_any_more_is_out() {
    // An organization that is not the channel's any more: here, a policy that lets nobody but the owner.
    let policy = Policy::Loaded(Arc::new(OnlyTheOwner));
    check_ended(RejectCode::PolicyDenied, move |world, epoch| {
        world.snapshot(epoch, &[record(TOPIC)], |builder| builder.set_policy(Some(policy.clone())))
    });
}

#[derive(Clone, Debug)]
struct OnlyTheOwner;

impl creto_policy::PolicySource for OnlyTheOwner {
    fn digest(&self) -> &[u8; 32] {
        &[9; 32]
    }

    fn reads(&self) -> creto_policy::Reads {
        creto_policy::Reads::default().with(creto_policy::Input::SenderName)
    }

    fn evaluator(&self) -> Box<dyn creto_policy::Evaluator> {
        Box::new(self.clone())
    }
}

impl creto_policy::Evaluator for OnlyTheOwner {
    fn evaluate(&mut self, question: &creto_policy::Question<'_>) -> creto_policy::Evaluation {
        let answer = match question.sender.name().as_str() {
            "acme/owner" => creto_policy::Answer::Allow(creto_policy::Obligations::NONE),
            _ => creto_policy::Answer::Deny,
        };
        creto_policy::Evaluation { answer, took_us: 1 }
    }
}

#[test]
fn a_suspended_subscriber_stays_one_and_a_revoked_one_does_not() {
    let world = World::new();
    let mut node = world.node(2);
    let publisher = node.connect_as(0, &world.owner);
    attach(&mut node, &publisher, TOPIC);
    let mut critic = Subscriber::connect(&mut node, 1, &world.critic);
    critic.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    let mut session = world.publisher(TOPIC);
    members(&mut node, &publisher);
    let with = |state| {
        move |builder: &mut SnapshotBuilder| {
            builder.set_state(&SimAgent::new("acme/critic", 3).id, state);
        }
    };
    publish(&mut node, &world.snapshot(3, &[record(TOPIC)], with(AgentState::Suspended)));
    assert!(members(&mut node, &publisher).is_empty());
    world.send(&mut node, &publisher, 1, &mut session, 0..2);
    assert!(critic.pushed(&mut node, 1).is_empty());
    publish(&mut node, &world.snapshot(4, &[record(TOPIC)], |_| {}));
    let mut critic = Subscriber::connect(&mut node, 0, &world.critic);
    critic.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    assert_eq!(numbers(&critic.pushed(&mut node, 1)), [0, 1]);
    publish(&mut node, &world.snapshot(5, &[record(TOPIC)], with(AgentState::Revoked)));
    assert_eq!(members(&mut node, &publisher)[0].left, [world.critic.id]);
}

#[test]
fn a_deleted_channel_has_no_subscribers_and_nobody_is_told_of_it() {
    let world = World::new();
    let mut node = world.node(2);
    let publisher = node.connect_as(0, &world.owner);
    attach(&mut node, &publisher, TOPIC);
    let mut readers: Vec<_> = (0..5_u8)
        .map(|number| {
            let mut reader = Subscriber::connect(&mut node, usize::from(number % 2), &world.worker);
            reader.subscribe(&mut node, 1, TOPIC, GroupId([number + 1; 16]), Start::GoOn);
            reader
        })
        .collect();
    members(&mut node, &publisher);
    publish(&mut node, &world.snapshot(3, &[], |_| {}));
    for reader in &mut readers {
        assert_eq!(reader.left(&mut node), [(1, Some(RejectCode::UnknownChannel))]);
    }
    // The publisher may not know any more, and is told that.
    assert!(members(&mut node, &publisher).is_empty());
    assert_eq!(node.rejects(&publisher), [RejectCode::UnknownChannel]);
    assert_eq!(node.shards.iter().map(|shard| shard.channel_subscriptions().0).sum::<u64>(), 0);
    let sealed = world.publisher(TOPIC).seal(id(1), NOW.unix_ms, &[1]);
    node.submit(&publisher, 1, &world.owner.sign(&[sealed], NOW.unix_ms));
    assert_eq!(node.acks(&publisher), (1, vec![(0, RejectCode::UnknownChannel)]));
}

#[test]
fn all_of_very_many_subscriptions_are_looked_at_some_in_each_turn() {
    let world = World::new();
    let mut node = world.node(1);
    let mut readers = Vec::new();
    for number in 0..400_u16 {
        if number % 64 == 0 {
            readers.push(Subscriber::connect(&mut node, 0, &world.worker));
        }
        let mut group = [1; 16];
        group[..2].copy_from_slice(&number.to_le_bytes());
        let reader = readers.last_mut().unwrap();
        reader.ask(&mut node, u32::from(number), TOPIC, GroupId(group), Start::GoOn);
    }
    assert_eq!(node.shards[0].channel_subscriptions(), (400, 400));
    let subscribing = Subscribing::Private;
    let snapshot = world.snapshot(3, &[ChannelRecord { version: 2, subscribing, ..record(TOPIC) }], |_| {});
    node.event(0, creto_shard::Event::Snapshot(snapshot));
    let ended = [(); 4].map(|()| {
        node.turn(0);
        count(&node, |of| of.subscriptions_ended)
    });
    assert_eq!(ended, [128, 256, 384, 400]);
    node.run();
    assert_eq!(node.shards[0].channel_subscriptions(), (0, 0));
    assert_eq!(count(&node, |of| of.subscriptions_ended), 400);
}

/// Version 2 of the open channel: only its owner may subscribe.
fn private() -> ChannelRecord {
    ChannelRecord { version: 2, subscribing: Subscribing::Private, ..record(TOPIC) }
}

#[test]
fn an_end_that_the_log_has_no_room_for_comes_when_there_is_room_again() {
    let world = World::new();
    let small = WalConfig { segment_bytes: 32 << 10, frame_bytes_max: 20 << 10, ..WalConfig::default() };
    let mut node = Node::start_with(1, &world.agents(), false, &small);
    publish(&mut node, &world.snapshot(2, &[record(TOPIC)], |_| {}));
    let publisher = node.connect_as(0, &world.owner);
    let mut reader = Subscriber::connect(&mut node, 0, &world.worker);
    reader.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    attach(&mut node, &publisher, TOPIC);
    members(&mut node, &publisher);
    // Half of the segment is used then; the next one cannot be made, and what is left is not enough for anything.
    node.is_disk_full = true;
    world.send(&mut node, &publisher, 1, &mut world.publisher(TOPIC), 0..1);
    publish(&mut node, &world.snapshot(3, &[private()], |_| {}));
    assert_eq!(reader.left(&mut node), [(1, Some(RejectCode::ChannelNotAllowed))]);
    assert_eq!((node.shards[0].channel_subscriptions(), count(&node, |of| of.subscriptions_ended)), ((1, 0), 1));
    node.is_disk_full = false;
    for _ in 0..2 {
        node.tick(0);
        node.run();
    }
    assert_eq!((node.shards[0].channel_subscriptions(), count(&node, |of| of.subscriptions_ended)), ((0, 0), 1));
    let told = members(&mut node, &publisher);
    assert_eq!(told.iter().flat_map(|told| told.left.clone()).collect::<Vec<_>>(), [world.worker.id]);
}

#[test]
fn a_subscription_that_becomes_durable_under_a_snapshot_that_forbids_it_ends() {
    for is_there in [true, false] {
        let world = World::new();
        let mut node = world.node(2);
        let reader = Subscriber::connect(&mut node, 1, &world.worker);
        node.hold_disk = true;
        reader.ask(&mut node, 1, TOPIC, ALONE, Start::GoOn);
        publish(&mut node, &world.snapshot(3, &[private()], |_| {}));
        if !is_there {
            reader.disconnect(&mut node);
        }
        // All subscriptions were looked at under the new snapshot, and this one was not among them yet.
        node.hold_disk = false;
        node.complete_disk(Ok(()));
        node.run();
        let left = if is_there { vec![(1, Some(RejectCode::ChannelNotAllowed))] } else { Vec::new() };
        assert_eq!(reader.left(&mut node), left);
        assert_eq!(node.shards.iter().map(|shard| shard.channel_subscriptions().0).sum::<u64>(), 0);
        assert_eq!(count(&node, |of| of.subscriptions_ended), 1);
    }
}

#[test]
fn reading_a_channel_is_in_the_audit_log() {
    let world = World::new();
    let mut node = world.node(2).with_audit();
    let mut reader = Subscriber::connect(&mut node, 1, &world.worker);
    reader.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    reader.subscribe(&mut node, 2, TOPIC, GROUP, Start::GoOn);
    reader.leave(&mut node, 1, LeaveMode::Detach);
    reader.disconnect(&mut node);
    node.tick(1_000_000);
    node.run();
    let told: Vec<_> = node.keep_audit().into_iter().flat_map(|(_, batch)| batch.events).collect();
    let (mut began, mut ended) = (0, 0);
    for event in told {
        match event.what {
            What::Subscribed { agent, channel, .. } => {
                assert_eq!((agent, channel), (world.worker.id, topic(TOPIC)));
                began += 1;
            }
            What::Unsubscribed { agent, channel, .. } => {
                assert_eq!((agent, channel), (world.worker.id, topic(TOPIC)));
                ended += 1;
            }
            _ => {}
        }
    }
    assert_eq!((began, ended), (2, 2));
}

#[test]
fn while_a_snapshot_has_lapsed_nobody_is_pushed_a_channel_or_told_of_members_and_subscriptions_stay() {
    for (shard_count, from, reads_at) in [(1, 0, 0), (2, 0, 1), (3, 2, 1)] {
        let world = World::new();
        let mut node = world.node(shard_count);
        let publisher = node.connect_as(from, &world.owner);
        attach(&mut node, &publisher, TOPIC);
        assert_eq!(members(&mut node, &publisher).len(), 1);
        let mut reader = Subscriber::connect(&mut node, reads_at, &world.worker);
        reader.ask(&mut node, 1, TOPIC, ALONE, Start::GoOn);
        reader.grant(&mut node, 1, 1, 1 << 20);
        assert!(reader.subscribed(&mut node).is_some());
        assert_eq!(members(&mut node, &publisher).len(), 1);
        let mut session = world.publisher(TOPIC);
        world.send(&mut node, &publisher, 1, &mut session, 0..3);
        assert_eq!(
            numbers(&reader.pushed(&mut node, 1)),
            [0],
            "it may read under this epoch, and has no credit for more"
        );
        // This one becomes a member when the snapshot has lapsed.
        let critic = Subscriber::connect(&mut node, reads_at, &world.critic);
        node.hold_disk = true;
        critic.ask(&mut node, 1, TOPIC, ALONE, Start::GoOn);

        let snapshot = world.snapshot(2, &[record(TOPIC)], |_| {});
        publish(&mut node, &Arc::new(snapshot.lapsed()));
        node.hold_disk = false;
        node.run();
        assert!(members(&mut node, &publisher).is_empty());
        assert_eq!(node.rejects(&publisher), [RejectCode::PolicyUnavailable], "whoever publishes asks again");
        reader.grant(&mut node, 1, 10, 1 << 20);
        assert!(reader.pushed(&mut node, 1).is_empty());
        world.send(&mut node, &publisher, 2, &mut session, 3..4);
        assert_eq!(node.acks(&publisher), (2, vec![(0, RejectCode::PolicyUnavailable)]));
        assert_eq!(node.closed, [], "whoever is there stays");
        reader.ask(&mut node, 2, TOPIC, GROUP, Start::GoOn);
        assert_eq!(reader.left(&mut node), [(2, Some(RejectCode::PolicyUnavailable))]);
        attach(&mut node, &publisher, TOPIC);
        assert_eq!(node.rejects(&publisher), [RejectCode::PolicyUnavailable]);

        // It is confirmed: the same epoch, the same subscriptions.
        publish(&mut node, &snapshot);
        assert_eq!(numbers(&reader.pushed(&mut node, 1)), [1, 2]);
        assert!(reader.left(&mut node).is_empty());
        assert_eq!(count(&node, |of| of.subscriptions_ended), 0);
        attach(&mut node, &publisher, TOPIC);
        let whole = members(&mut node, &publisher);
        let mut both = vec![world.worker.id, world.critic.id];
        both.sort_unstable();
        assert_eq!((whole.len(), &whole[0].joined), (1, &both));
    }
}

#[test]
fn whoever_watches_for_nothing_any_more_is_forgotten() {
    for shard in 0..2 {
        check_forgotten(shard);
    }
}

/// With a publisher whose connection is on this shard of two: the channel's, or the other one.
fn check_forgotten(shard: usize) {
    let world = World::new();
    let mut node = world.node(2);
    let publisher = node.connect_as(shard, &world.worker);
    attach(&mut node, &publisher, TOPIC);
    assert_eq!(members(&mut node, &publisher).len(), 1);
    // It may not publish any more, and asks again before it knows.
    let publishing = Publishing::Listed(vec![]);
    let closed = ChannelRecord { version: 2, publishing, ..record(TOPIC) };
    let snapshot = world.snapshot(3, &[closed], |_| {});
    let owner = usize::from(creto_shard::Placement::new(2).channel_owner(&topic(TOPIC)).0);
    node.event(owner, creto_shard::Event::Snapshot(Arc::clone(&snapshot)));
    attach(&mut node, &publisher, TOPIC);
    assert_eq!(node.rejects(&publisher), [RejectCode::ChannelNotAllowed]);
    publish(&mut node, &world.snapshot(4, &[record(TOPIC)], |_| {}));
    let mut critic = Subscriber::connect(&mut node, 0, &world.critic);
    critic.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    assert!(members(&mut node, &publisher).is_empty(), "it was told that it is not told");
    attach(&mut node, &publisher, TOPIC);
    assert_eq!(members(&mut node, &publisher)[0].joined, [world.critic.id]);
}

#[test]
fn what_a_publisher_asks_again_before_it_is_answered_is_answered_once() {
    let world = World::new();
    let mut node = world.node(2);
    let owner = usize::from(creto_shard::Placement::new(2).channel_owner(&topic(TOPIC)).0);
    let publisher = node.connect_as(owner, &world.owner);
    let ask = |node: &mut Node| {
        node.frames(&publisher, SUBMIT, |out| ChannelAttach { channel: topic(TOPIC) }.encode(out));
    };
    (0..1_000).for_each(|_| ask(&mut node));
    node.run();
    assert_eq!(members(&mut node, &publisher).len(), 1);
    // Detached before the answer: it is to ask again when that is there.
    ask(&mut node);
    node.frames(&publisher, SUBMIT, |out| ChannelDetach { channel: topic(TOPIC) }.encode(out));
    ask(&mut node);
    node.run();
    assert!(members(&mut node, &publisher).is_empty());
    assert_eq!(node.rejects(&publisher), [RejectCode::Overloaded]);
    ask(&mut node);
    node.run();
    assert_eq!(members(&mut node, &publisher).len(), 1);
}

/// A policy that fails on whatever is asked.
#[derive(Clone, Debug)]
struct Failing;

impl creto_policy::PolicySource for Failing {
    fn digest(&self) -> &[u8; 32] {
        &[8; 32]
    }

    fn reads(&self) -> creto_policy::Reads {
        creto_policy::Reads::default()
    }

    fn evaluator(&self) -> Box<dyn creto_policy::Evaluator> {
        Box::new(self.clone())
    }
}

impl creto_policy::Evaluator for Failing {
    fn evaluate(&mut self, _: &creto_policy::Question<'_>) -> creto_policy::Evaluation {
        creto_policy::Evaluation { answer: creto_policy::Answer::Failed, took_us: 1 }
    }
}

#[test]
fn a_policy_that_fails_ends_no_subscription_and_hands_nothing_out() {
    let world = World::new();
    let mut node = world.node(1);
    let publisher = node.connect_as(0, &world.owner);
    let mut critic = Subscriber::connect(&mut node, 0, &world.critic);
    critic.ask(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    world.send(&mut node, &publisher, 1, &mut world.publisher(TOPIC), 0..2);
    let failing = Policy::Loaded(Arc::new(Failing));
    publish(&mut node, &world.snapshot(3, &[record(TOPIC)], |builder| builder.set_policy(Some(failing.clone()))));
    critic.grant(&mut node, 1, 10, 1 << 20);
    assert!(critic.pushed(&mut node, 1).is_empty() && critic.left(&mut node).is_empty());
    assert_eq!((node.shards[0].channel_subscriptions(), count(&node, |of| of.subscriptions_ended)), ((1, 1), 0));
    publish(&mut node, &world.snapshot(4, &[record(TOPIC)], |_| {}));
    critic.subscribed(&mut node);
    assert_eq!(numbers(&critic.pushed(&mut node, 1)), [0, 1]);
}
