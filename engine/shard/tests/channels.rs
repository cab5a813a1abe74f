//! Channels as clients see them: what is published goes to everybody who subscribes, durably, in order, and to nobody else.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;
#[allow(dead_code, reason = "each test file takes what it needs")]
mod topic;

use creto_envelope::channel::frames::{
    ChannelAck, ChannelCredit, ChannelLeave, ChannelSubscribe, GiveBack, LeaveMode, Start,
};
use creto_envelope::channel::{ChannelRecord, Publishing, Subscribing};
use creto_envelope::control::Reject;
use creto_envelope::limits::{CHANNEL_SUBSCRIPTIONS_MAX, CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX};
use creto_envelope::{FrameType, GroupId, MessageId, RejectCode};
use creto_shard::Event;
use creto_store::DiskError;
use fixture::{CHANNELS, CONTROL, NOW, Node, SUBMIT, id};
use topic::{ALONE, Subscriber, TOPIC, World, count, numbers, publish, record, topic};

const GROUP: GroupId = GroupId([5; 16]);

#[test]
fn what_is_published_goes_to_every_subscriber_in_order_and_opens() {
    for (shard_count, from) in [(1, 0), (2, 0), (2, 1), (4, 3)] {
        let world = World::new();
        let mut node = world.node(shard_count);
        let sender = node.connect_as(from, &world.owner);
        let mut readers: Vec<_> = (0..usize::from(shard_count) * 3)
            .map(|number| {
                let agent = world.agents()[number % 3];
                let mut reader = Subscriber::connect(&mut node, number % usize::from(shard_count), agent);
                let group = if number < 3 { ALONE } else { GroupId([u8::try_from(number).unwrap(); 16]) };
                reader.subscribe(&mut node, 9, TOPIC, group, Start::GoOn);
                reader
            })
            .collect();
        let mut publisher = world.publisher(TOPIC);
        world.send(&mut node, &sender, 1, &mut publisher, 0..5);
        world.send(&mut node, &sender, 2, &mut publisher, 5..6);
        assert_eq!(node.acks(&sender), (2, vec![]));
        for reader in &mut readers {
            let pushed = reader.pushed(&mut node, 9);
            assert_eq!(numbers(&pushed), [0, 1, 2, 3, 4, 5]);
            assert!(pushed.is_sorted_by(|one, next| one.sequence < next.sequence));
            assert!(pushed.iter().all(|pushed| pushed.attempt == 0));
        }
        let pushed = 6 * readers.len() as u64;
        assert_eq!(
            (count(&node, |of| of.messages_published), count(&node, |of| of.channel_messages_pushed)),
            (6, pushed)
        );
        // Whoever comes later begins with what is published from then on, unless it says otherwise.
        let mut late = Subscriber::connect(&mut node, 0, &world.owner);
        late.subscribe(&mut node, 1, TOPIC, GroupId([77; 16]), Start::GoOn);
        late.subscribe(&mut node, 2, TOPIC, GroupId([78; 16]), Start::Oldest);
        world.send(&mut node, &sender, 3, &mut publisher, 6..7);
        let bodies: Vec<_> = node.sent.extract_if(.., |(of, _)| *of == late.client.connection).collect();
        node.sent.extend(bodies.iter().map(|(of, sent)| (*of, copy(sent))));
        assert_eq!(numbers(&late.pushed(&mut node, 2)), [0, 1, 2, 3, 4, 5, 6]);
        node.sent.extend(bodies);
        assert_eq!(numbers(&late.pushed(&mut node, 1)), [6]);
    }
}

fn copy(sent: &fixture::Sent) -> fixture::Sent {
    fixture::Sent { frame_type: sent.frame_type, body: sent.body.clone() }
}

#[test]
fn nothing_is_said_of_a_subscription_before_it_is_durable_and_nothing_is_pushed() {
    let world = World::new();
    let mut node = world.node(2);
    let sender = node.connect_as(0, &world.owner);
    let mut reader = Subscriber::connect(&mut node, 1, &world.worker);
    node.hold_disk = true;
    reader.ask(&mut node, 3, TOPIC, ALONE, Start::Now);
    reader.grant(&mut node, 3, 100, 1 << 20);
    world.send(&mut node, &sender, 1, &mut world.publisher(TOPIC), 0..3);
    assert_eq!((reader.subscribed(&mut node), node.acks(&sender).0), (None, 0));
    while !node.disk.is_empty() {
        node.complete_disk(Ok(()));
        node.run();
    }
    let subscribed = reader.subscribed(&mut node).unwrap();
    assert_eq!((subscribed.handle, subscribed.channel), (3, topic(TOPIC)));
    // The credit that came early counts.
    let pushed = reader.pushed(&mut node, 3);
    assert_eq!(numbers(&pushed), [0, 1, 2]);
    assert!(subscribed.next_sequence <= pushed[0].sequence);
    node.hold_disk = false;
    let mut late = Subscriber::connect(&mut node, 0, &world.critic);
    late.ask(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    let subscribed = late.subscribed(&mut node).unwrap();
    assert_eq!((subscribed.oldest_sequence, subscribed.newest_sequence), (pushed[0].sequence, pushed[2].sequence));
    assert!(subscribed.next_sequence > pushed[2].sequence);
}

#[test]
fn what_was_acknowledged_comes_no_more_and_the_rest_comes_again_to_whoever_takes_over() {
    let world = World::new();
    let mut node = world.node(2);
    let sender = node.connect_as(0, &world.owner);
    let mut first = Subscriber::connect(&mut node, 0, &world.worker);
    first.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    world.send(&mut node, &sender, 1, &mut world.publisher(TOPIC), 0..4);
    let pushed = first.pushed(&mut node, 1);
    first.acknowledge(&mut node, 1, &[pushed[1].sequence]);

    let mut second = Subscriber::connect(&mut node, 1, &world.worker);
    second.subscribe(&mut node, 8, TOPIC, ALONE, Start::GoOn);
    assert_eq!(first.left(&mut node), [(1, Some(RejectCode::SubscriptionReplaced))]);
    let again = second.pushed(&mut node, 8);
    assert_eq!((numbers(&again), again[0].attempt), (vec![2, 3], 1));
    // What the first one says now is about nothing.
    first.acknowledge(&mut node, 1, &[pushed[3].sequence]);
    first.grant(&mut node, 1, 10, 10);
    first.leave(&mut node, 1, LeaveMode::Unsubscribe);
    assert!(node.rejects(&first.client).is_empty() && first.left(&mut node).is_empty());

    // It leaves, and goes on where it was; with a start it begins anew.
    second.acknowledge(&mut node, 8, &[again[0].sequence]);
    second.leave(&mut node, 8, LeaveMode::Detach);
    assert_eq!(second.left(&mut node), [(8, None)]);
    second.subscribe(&mut node, 8, TOPIC, ALONE, Start::GoOn);
    assert_eq!(numbers(&second.pushed(&mut node, 8)), [3]);
    second.subscribe(&mut node, 9, TOPIC, ALONE, Start::Sequence(pushed[1].sequence));
    assert_eq!(second.left(&mut node), [(8, Some(RejectCode::SubscriptionReplaced))]);
    assert_eq!(numbers(&second.pushed(&mut node, 9)), [1, 2, 3]);
    assert_eq!(node.shards.iter().map(|shard| shard.channel_subscriptions().0).sum::<u64>(), 1);
}

#[test]
fn a_subscription_outlives_a_restart_and_goes_on_where_it_was() {
    let world = World::new();
    let mut node = world.node(2);
    let sender = node.connect_as(0, &world.owner);
    let mut reader = Subscriber::connect(&mut node, 1, &world.worker);
    reader.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    let mut gone = Subscriber::connect(&mut node, 1, &world.critic);
    gone.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    let mut publisher = world.publisher(TOPIC);
    world.send(&mut node, &sender, 1, &mut publisher, 0..4);
    let pushed = reader.pushed(&mut node, 1);
    reader.acknowledge(&mut node, 1, &[pushed[2].sequence]);
    gone.leave(&mut node, 1, LeaveMode::Unsubscribe);
    assert_eq!(gone.left(&mut node), [(1, None)]);

    let mut node = node.restarted(&world.agents(), &world.snapshot(2, &[record(TOPIC)], |_| {}));
    let sender = node.connect_as(0, &world.owner);
    topic::attach(&mut node, &sender, TOPIC);
    let whole = topic::members(&mut node, &sender);
    assert_eq!((whole.len(), whole[0].is_whole, &whole[0].joined), (1, true, &vec![world.worker.id]));
    world.send(&mut node, &sender, 1, &mut publisher, 4..6);
    let mut reader = Subscriber::connect(&mut node, 0, &world.worker);
    reader.subscribe(&mut node, 5, TOPIC, ALONE, Start::GoOn);
    assert_eq!(numbers(&reader.pushed(&mut node, 5)), [3, 4, 5]);
}

#[test]
fn what_cannot_be_granted_is_answered_with_its_code() {
    let world = World::new();
    let mut node = world.node(2);
    let mut closed = record("acme/closed");
    (closed.subscribing, closed.publishing) = (Subscribing::Private, Publishing::Listed(vec![]));
    let mut small = record("acme/small");
    small.subscribers_max = 1;
    publish(&mut node, &world.snapshot(3, &[record(TOPIC), closed, small], |_| {}));
    let reader = Subscriber::connect(&mut node, 0, &world.worker);
    let ask = |node: &mut Node, name: &str| {
        reader.ask(node, 1, name, ALONE, Start::GoOn);
        reader.left(node)
    };
    assert_eq!(ask(&mut node, "acme/nothing"), [(1, Some(RejectCode::UnknownChannel))]);
    assert_eq!(ask(&mut node, "acme/closed"), [(1, Some(RejectCode::ChannelNotAllowed))]);
    let stranger = Subscriber::connect(&mut node, 1, &world.stranger);
    stranger.ask(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    assert_eq!(stranger.left(&mut node), [(1, Some(RejectCode::PolicyDenied))]);
    // One subscriber, who may come again, in whatever group; and no second one.
    let mut owner = Subscriber::connect(&mut node, 1, &world.owner);
    owner.subscribe(&mut node, 1, "acme/small", ALONE, Start::GoOn);
    assert_eq!(ask(&mut node, "acme/small"), [(1, Some(RejectCode::ChannelFull))]);
    owner.subscribe(&mut node, 2, "acme/small", ALONE, Start::Oldest);
    assert_eq!(owner.left(&mut node), [(1, Some(RejectCode::SubscriptionReplaced))]);

    // What is published where one may not.
    let sender = node.connect_as(0, &world.worker);
    let seal = |name: &str| world.worker.publish_in(topic(name), [1; 32]).seal(id(1), NOW.unix_ms, &[1]);
    for (sequence, name, code) in
        [(1, "acme/nothing", RejectCode::UnknownChannel), (2, "acme/closed", RejectCode::ChannelNotAllowed)]
    {
        node.submit(&sender, sequence, &world.worker.sign(&[seal(name)], NOW.unix_ms));
        assert_eq!(node.acks(&sender), (sequence, vec![(0, code)]));
    }
    let sender = node.connect_as(0, &world.stranger);
    let sealed = world.stranger.publish_in(topic(TOPIC), [1; 32]).seal(id(1), NOW.unix_ms, &[1]);
    node.submit(&sender, 1, &world.stranger.sign(&[sealed], NOW.unix_ms));
    assert_eq!(node.acks(&sender), (1, vec![(0, RejectCode::PolicyDenied)]));
    // A message for an agent goes to no channel of that id, nor one for a channel to an agent.
    let sealed = world.worker.publish_in(creto_envelope::ChannelId(world.owner.id.0), [1; 32]);
    let mut sealed = sealed;
    let envelope = sealed.seal(id(2), NOW.unix_ms, &[1]);
    let sender = node.connect_as(0, &world.worker);
    node.submit(&sender, 1, &world.worker.sign(&[envelope], NOW.unix_ms));
    assert_eq!(node.acks(&sender), (1, vec![(0, RejectCode::UnknownChannel)]));
}

#[test]
fn frames_that_fit_nothing_are_refused_and_those_that_crossed_are_not() {
    let world = World::new();
    let mut node = world.node(2);
    let mut reader = Subscriber::connect(&mut node, 0, &world.worker);
    reader.acknowledge(&mut node, 1, &[1]);
    reader.grant(&mut node, 1, 1, 1);
    reader.leave(&mut node, 1, LeaveMode::Detach);
    assert_eq!(node.rejects(&reader.client), [RejectCode::NotSubscribed; 3]);
    reader.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    reader.ask(&mut node, 1, TOPIC, GROUP, Start::GoOn);
    reader.acknowledge(&mut node, 1, &[]);
    reader.acknowledge(&mut node, 1, &[1, 2]);
    reader.grant(&mut node, 1, CREDIT_MESSAGES_MAX + 1, 0);
    reader.grant(&mut node, 1, 0, CREDIT_BYTES_MAX + 1);
    let codes = [
        RejectCode::FrameUnexpected,
        RejectCode::FrameLength,
        RejectCode::FrameLength,
        RejectCode::CreditExceeded,
        RejectCode::CreditExceeded,
    ];
    assert_eq!(node.rejects(&reader.client), codes);
    // In a group, none and several are as good.
    reader.subscribe(&mut node, 2, TOPIC, GROUP, Start::GoOn);
    reader.acknowledge(&mut node, 2, &[]);
    reader.acknowledge(&mut node, 2, &[1, 2]);
    reader.leave(&mut node, 2, LeaveMode::Unsubscribe);
    assert_eq!(reader.left(&mut node), [(2, None)]);
    reader.acknowledge(&mut node, 2, &[1, 2]);
    reader.leave(&mut node, 2, LeaveMode::Unsubscribe);
    assert!(node.rejects(&reader.client).is_empty() && reader.left(&mut node).is_empty());

    // On other streams, and before a login.
    let subscribe = ChannelSubscribe { handle: 5, channel: topic(TOPIC), group: ALONE, start: Start::GoOn };
    node.frames(&reader.client, CONTROL, |out| subscribe.encode(out));
    node.frames(&reader.client, SUBMIT, |out| subscribe.encode(out));
    assert_eq!(node.rejects(&reader.client), [RejectCode::FrameUnexpected; 2]);
    let stranger = node.connect(0);
    node.frames(&stranger, CHANNELS, |out| subscribe.encode(out));
    node.frames(&stranger, CHANNELS, |out| ChannelAck { handle: 5, sequences: vec![1] }.encode(out));
    node.frames(&stranger, CHANNELS, |out| ChannelCredit { handle: 5, messages: 1, bytes: 1 }.encode(out));
    node.frames(&stranger, CHANNELS, |out| ChannelLeave { handle: 5, mode: LeaveMode::Detach }.encode(out));
    assert_eq!(node.rejects(&stranger), [RejectCode::LoginRequired; 4]);
}

#[test]
fn credit_that_came_with_the_question_for_a_subscription_that_is_refused_is_no_error() {
    let world = World::new();
    let mut node = world.node(2);
    let reader = Subscriber::connect(&mut node, 0, &world.worker);
    let subscribe = ChannelSubscribe { handle: 3, channel: topic("acme/nothing"), group: ALONE, start: Start::GoOn };
    node.frames(&reader.client, CHANNELS, |out| subscribe.encode(out));
    reader.grant(&mut node, 3, 10, 1 << 10);
    assert_eq!(reader.left(&mut node), [(3, Some(RejectCode::UnknownChannel))]);
    assert!(node.rejects(&reader.client).is_empty());
    // Of a number that was never asked for it still is one.
    reader.grant(&mut node, 4, 10, 1 << 10);
    assert_eq!(node.rejects(&reader.client), [RejectCode::NotSubscribed]);
}

#[test]
fn questions_from_before_the_log_has_started_are_answered_in_their_order() {
    // Both shards may own the channel: where the older question comes from its own connection and where it crosses a ring.
    for first in [0, 1] {
        let world = World::new();
        let mut node = Node::start(2, &world.agents(), true);
        let snapshot = world.snapshot(2, &[record(TOPIC)], |_| {});
        for shard in 0..2 {
            node.event(shard, Event::Snapshot(std::sync::Arc::clone(&snapshot)));
        }
        let older = Subscriber::connect(&mut node, first, &world.worker);
        older.ask(&mut node, 1, TOPIC, ALONE, Start::Now);
        older.disconnect(&mut node);
        let mut newer = Subscriber::connect(&mut node, 1 - first, &world.worker);
        newer.ask(&mut node, 2, TOPIC, ALONE, Start::Oldest);
        newer.grant(&mut node, 2, 10, 1 << 20);
        let sender = node.connect_as(1 - first, &world.owner);
        world.send(&mut node, &sender, 1, &mut world.publisher(TOPIC), 0..1);
        node.hold_disk = false;
        node.run();
        // The older one would have it begin behind that.
        assert_eq!((newer.subscribed(&mut node).map(|of| of.handle), newer.left(&mut node)), (Some(2), vec![]));
        assert_eq!(newer.subscribed(&mut node), None);
        assert_eq!(numbers(&newer.pushed(&mut node, 2)), [0]);
    }
}

#[test]
fn a_connection_has_so_many_subscriptions_and_a_place_that_is_left_is_free() {
    let world = World::new();
    let mut node = world.node(2);
    let mut reader = Subscriber::connect(&mut node, 1, &world.worker);
    let group = |number: u32| GroupId([u8::try_from(number + 1).unwrap(); 16]);
    let most = u32::try_from(CHANNEL_SUBSCRIPTIONS_MAX).unwrap();
    for number in 0..most {
        reader.subscribe(&mut node, number, TOPIC, group(number), Start::GoOn);
    }
    reader.ask(&mut node, most, TOPIC, group(most), Start::GoOn);
    assert_eq!(reader.left(&mut node), [(most, Some(RejectCode::TooManySubscriptions))]);
    reader.leave(&mut node, 7, LeaveMode::Detach);
    assert_eq!(reader.left(&mut node), [(7, None)]);
    reader.subscribe(&mut node, most, TOPIC, group(most), Start::GoOn);
    assert!(reader.left(&mut node).is_empty());
}

#[test]
fn a_group_shares_what_is_published_and_what_a_member_leaves_goes_to_another() {
    let world = World::new();
    let mut node = world.node(2);
    let sender = node.connect_as(0, &world.owner);
    let mut one = Subscriber::connect(&mut node, 0, &world.worker);
    let mut two = Subscriber::connect(&mut node, 1, &world.critic);
    for (member, handle) in [(&mut one, 1), (&mut two, 2)] {
        member.ask(&mut node, handle, TOPIC, GROUP, Start::GoOn);
        member.grant(&mut node, handle, 3, 1 << 20);
        assert!(member.subscribed(&mut node).is_some());
    }
    world.send(&mut node, &sender, 1, &mut world.publisher(TOPIC), 0..6);
    let (ones, twos) = (one.pushed(&mut node, 1), two.pushed(&mut node, 2));
    let mut all = [numbers(&ones), numbers(&twos)].concat();
    all.sort_unstable();
    assert_eq!((all, ones.len()), (vec![0, 1, 2, 3, 4, 5], 3));
    // One is done with one of its messages, and goes.
    one.acknowledge(&mut node, 1, &[ones[1].sequence]);
    one.disconnect(&mut node);
    let twos: Vec<u64> = twos.iter().map(|pushed| pushed.sequence).collect();
    two.acknowledge(&mut node, 2, &twos);
    let mut came = Vec::new();
    loop {
        two.grant(&mut node, 2, 10, 1 << 20);
        let more = two.pushed(&mut node, 2);
        if more.is_empty() {
            break;
        }
        // What came back comes one at a time.
        assert_eq!((more.len(), more[0].attempt), (1, 1));
        two.acknowledge(&mut node, 2, &[more[0].sequence]);
        came.extend(numbers(&more));
    }
    let expected: Vec<_> = numbers(&ones).into_iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, n)| n).collect();
    assert_eq!(came, expected);
}

#[test]
fn what_a_member_gives_back_goes_to_another_and_what_it_refuses_comes_again_later() {
    let world = World::new();
    let mut node = world.node(2);
    let sender = node.connect_as(0, &world.owner);
    let mut one = Subscriber::connect(&mut node, 0, &world.worker);
    let mut two = Subscriber::connect(&mut node, 1, &world.critic);
    one.subscribe(&mut node, 1, TOPIC, GROUP, Start::GoOn);
    two.ask(&mut node, 2, TOPIC, GROUP, Start::GoOn);
    assert!(two.subscribed(&mut node).is_some());
    world.send(&mut node, &sender, 1, &mut world.publisher(TOPIC), 0..3);
    let ones = one.pushed(&mut node, 1);
    assert_eq!(numbers(&ones), [0, 1, 2], "the other one grants nothing yet");
    let sequences: Vec<u64> = ones.iter().map(|pushed| pushed.sequence).collect();
    one.give_back(&mut node, 1, GiveBack::Untouched, &sequences[..2]);
    assert!(one.pushed(&mut node, 1).is_empty(), "somebody else is there");
    two.grant(&mut node, 2, 10, 1 << 20);
    let twos = two.pushed(&mut node, 2);
    assert_eq!((numbers(&twos), twos[0].attempt), (vec![0, 1], 0), "as if nobody had had them");
    // What it does not have any more is left out.
    one.give_back(&mut node, 1, GiveBack::Later { delay_ms: 5_000 }, &sequences);
    assert!(one.pushed(&mut node, 1).is_empty() && two.pushed(&mut node, 2).is_empty());
    node.tick(NOW.monotonic_us + 6_000_000);
    node.run();
    let mut came = one.pushed(&mut node, 1);
    came.extend(two.pushed(&mut node, 2));
    assert_eq!((numbers(&came), came[0].attempt), (vec![2], 1));
    // Who reads alone has nobody to give to.
    one.subscribe(&mut node, 3, TOPIC, ALONE, Start::GoOn);
    one.give_back(&mut node, 3, GiveBack::Untouched, &[1]);
    assert_eq!(node.rejects(&one.client), [RejectCode::FrameUnexpected]);
}

#[test]
fn nobody_is_pushed_more_than_their_credit_and_none_waits_for_another() {
    let world = World::new();
    let mut node = world.node(1);
    let sender = node.connect_as(0, &world.owner);
    let mut slow = Subscriber::connect(&mut node, 0, &world.worker);
    slow.ask(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    let mut fast = Subscriber::connect(&mut node, 0, &world.critic);
    fast.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    let mut publisher = world.publisher(TOPIC);
    world.send(&mut node, &sender, 1, &mut publisher, 0..100);
    world.send(&mut node, &sender, 2, &mut publisher, 100..200);
    assert_eq!(fast.pushed(&mut node, 1).len(), 200);
    assert!(slow.pushed(&mut node, 1).is_empty());
    slow.grant(&mut node, 1, 5, 1 << 20);
    assert_eq!(numbers(&slow.pushed(&mut node, 1)), [0, 1, 2, 3, 4]);
    // With any byte left, one message may overdraw it.
    slow.grant(&mut node, 1, 0, 1);
    assert!(slow.pushed(&mut node, 1).is_empty());
    let mut slower = Subscriber::connect(&mut node, 0, &world.owner);
    slower.ask(&mut node, 1, TOPIC, ALONE, Start::Oldest);
    slower.grant(&mut node, 1, 50, 1);
    assert_eq!(numbers(&slower.pushed(&mut node, 1)), [0]);
}

#[test]
fn one_look_and_one_encoding_serve_all_that_are_as_far() {
    let world = World::new();
    let mut node = world.node(1);
    let sender = node.connect_as(0, &world.owner);
    let mut readers: Vec<_> = (0..40_u8)
        .map(|number| {
            let mut reader = Subscriber::connect(&mut node, 0, world.agents()[usize::from(number % 3)]);
            // In groups of one, they have agents enough.
            reader.subscribe(&mut node, 1, TOPIC, GroupId([number + 1; 16]), Start::GoOn);
            reader
        })
        .collect();
    let before = node.shards[0].log().mailboxes().published_lookups();
    world.send(&mut node, &sender, 1, &mut world.publisher(TOPIC), 0..50);
    assert_eq!(node.shards[0].log().mailboxes().published_lookups() - before, 50);
    let mut bodies: Vec<*const u8> = Vec::new();
    for (connection, sent) in &node.raw {
        if readers.iter().any(|reader| reader.client.connection == *connection) && sent.len() > 1_000 {
            bodies.push(sent.as_ptr());
        }
    }
    assert_eq!(bodies.len(), readers.len());
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "the bytes are shared");
    for reader in &mut readers {
        assert_eq!(reader.pushed(&mut node, 1).len(), 50);
    }
}

#[test]
fn a_full_channel_refuses_until_all_have_consumed_its_oldest_and_loses_nothing() {
    let world = World::new();
    let mut node = world.node(2);
    publish(&mut node, &world.snapshot(3, &[ChannelRecord { messages_max: 4, ..record(TOPIC) }], |_| {}));
    let sender = node.connect_as(0, &world.owner);
    let mut reader = Subscriber::connect(&mut node, 1, &world.worker);
    reader.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    let mut publisher = world.publisher(TOPIC);
    world.send(&mut node, &sender, 1, &mut publisher, 0..4);
    world.send(&mut node, &sender, 2, &mut publisher, 4..5);
    assert_eq!(node.acks(&sender), (2, vec![(0, RejectCode::MailboxFull)]));
    let pushed = reader.pushed(&mut node, 1);
    reader.acknowledge(&mut node, 1, &[pushed[1].sequence]);
    // The first attempt has what is consumed leave; when that is durable there is room.
    for sequence in 3..6 {
        world.send(
            &mut node,
            &sender,
            sequence,
            &mut publisher,
            u8::try_from(sequence).unwrap() + 10..u8::try_from(sequence).unwrap() + 11,
        );
    }
    let (through, refused) = node.acks(&sender);
    assert_eq!(through, 5);
    let taken = 3 - refused.len();
    assert!(refused.iter().all(|(_, code)| *code == RejectCode::MailboxFull) && taken == 2, "{refused:?}");
    let kept = reader.pushed(&mut node, 1);
    assert_eq!(kept.len(), taken);
    // Everything that was acknowledged to the publisher and not consumed is there.
    let mut other = Subscriber::connect(&mut node, 0, &world.critic);
    other.subscribe(&mut node, 1, TOPIC, ALONE, Start::Oldest);
    let mut expected = vec![2, 3];
    expected.extend(numbers(&kept));
    assert_eq!(numbers(&other.pushed(&mut node, 1)), expected);
}

#[test]
fn what_a_revoked_publisher_signed_is_passed_over_and_does_not_stop_the_channel() {
    let world = World::new();
    let mut node = world.node(2);
    let channels = [ChannelRecord { messages_max: 3, owner: world.critic.id, ..record(TOPIC) }];
    publish(&mut node, &world.snapshot(3, &channels, |_| {}));
    let sender = node.connect_as(0, &world.owner);
    let mut reader = Subscriber::connect(&mut node, 1, &world.worker);
    reader.ask(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    world.send(&mut node, &sender, 1, &mut world.publisher(TOPIC), 0..3);
    let revoked = |builder: &mut creto_policy::SnapshotBuilder| {
        builder.revoke(&world.owner.id, NOW.unix_ms - 1);
    };
    publish(&mut node, &world.snapshot(4, &channels, revoked));
    reader.grant(&mut node, 1, 100, 1 << 20);
    assert!(reader.pushed(&mut node, 1).is_empty());
    assert_eq!(count(&node, |of| of.messages_void), 3);
    // All of it counts as consumed: there is room.
    let sender = node.connect_as(0, &world.critic);
    let mut publisher = world.critic.publish_in(topic(TOPIC), [7; 32]);
    let mut taken = 0;
    for sequence in 1..4 {
        let sealed = publisher.seal(id(100 + u8::try_from(sequence).unwrap()), NOW.unix_ms, &[9]);
        node.submit(&sender, sequence, &world.critic.sign(&[sealed], NOW.unix_ms));
        taken += usize::from(node.acks(&sender).1.is_empty());
    }
    assert!(taken >= 2, "{taken}");
}

#[test]
fn a_fenced_shard_says_so_and_one_that_shuts_down_too() {
    let world = World::new();
    let mut node = world.node(1);
    let sender = node.connect_as(0, &world.owner);
    let mut known = Subscriber::connect(&mut node, 0, &world.critic);
    known.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    let reader = Subscriber::connect(&mut node, 0, &world.worker);
    node.hold_disk = true;
    reader.ask(&mut node, 1, TOPIC, ALONE, Start::GoOn);
    known.leave(&mut node, 1, LeaveMode::Unsubscribe);
    world.send(&mut node, &sender, 1, &mut world.publisher(TOPIC), 0..1);
    node.complete_disk(Err(DiskError::Io("input/output error".into())));
    node.run();
    let fenced = Some(RejectCode::ShardFenced);
    assert_eq!((reader.left(&mut node), known.left(&mut node)), (vec![(1, fenced)], vec![(1, fenced)]));
    assert_eq!(node.acks(&sender), (1, vec![(0, RejectCode::ShardFenced)]));
    reader.ask(&mut node, 2, TOPIC, ALONE, Start::GoOn);
    assert_eq!(reader.left(&mut node), [(2, fenced)]);

    let mut node = world.node(2);
    let reader = Subscriber::connect(&mut node, 0, &world.worker);
    for shard in 0..2 {
        node.event(shard, Event::Drain);
    }
    node.run();
    reader.ask(&mut node, 2, TOPIC, ALONE, Start::GoOn);
    assert_eq!(reader.left(&mut node), [(2, Some(RejectCode::ShuttingDown))]);
    assert!(node.shards.iter().all(creto_shard::Shard::is_drained));
}

#[test]
fn a_record_is_asked_of_control_by_whoever_may_do_something_in_the_channel() {
    let world = World::new();
    let mut node = world.node(1);
    let worker = node.connect_as(0, &world.worker);
    let stranger = node.connect_as(0, &world.stranger);
    let request = |node: &mut Node, client, name: &str| {
        let request = creto_envelope::channel::frames::ChannelRequest { channel: topic(name) };
        node.frames(client, CONTROL, |out| request.encode(out));
    };
    request(&mut node, &worker, "acme/nothing");
    request(&mut node, &stranger, TOPIC);
    for client in [&worker, &stranger] {
        let bodies = node.take(client, FrameType::Reject);
        let reject = Reject::parse(&bodies[0]).unwrap();
        assert_eq!(RejectCode::from_u16(reject.code), Some(RejectCode::UnknownChannel));
    }
    request(&mut node, &worker, TOPIC);
    assert_eq!(node.channels, [(0, worker.connection, topic(TOPIC))]);
    let (connection, channel) = (worker.connection, topic(TOPIC));
    let answer = Err(RejectCode::UnknownChannel);
    node.event(0, Event::ChannelAnswered { connection, channel, answer });
    let bodies = node.take(&worker, FrameType::Reject);
    assert_eq!(Reject::parse(&bodies[0]).unwrap().context, channel.0);
}

#[test]
fn whoever_begins_anew_misses_nothing_whatever_the_reader_before_says_meanwhile() {
    for shard_count in [1, 2] {
        let world = World::new();
        let mut node = world.node(shard_count);
        let sender = node.connect_as(0, &world.owner);
        let mut before = Subscriber::connect(&mut node, 0, &world.worker);
        before.subscribe(&mut node, 1, TOPIC, ALONE, Start::GoOn);
        world.send(&mut node, &sender, 1, &mut world.publisher(TOPIC), 0..4);
        let pushed = before.pushed(&mut node, 1);
        before.acknowledge(&mut node, 1, &[pushed[3].sequence]);

        node.hold_disk = true;
        let mut anew = Subscriber::connect(&mut node, usize::from(shard_count) - 1, &world.worker);
        anew.ask(&mut node, 7, TOPIC, ALONE, Start::Oldest);
        anew.grant(&mut node, 7, 100, 1 << 20);
        // Whoever read it until now is pushed nothing of what the other one is to have, and moves nothing.
        assert_eq!(before.left(&mut node), [(1, Some(RejectCode::SubscriptionReplaced))]);
        before.acknowledge(&mut node, 1, &[pushed[3].sequence]);
        assert!(before.pushed(&mut node, 1).is_empty() && anew.pushed(&mut node, 7).is_empty());
        node.hold_disk = false;
        node.run();
        assert!(anew.subscribed(&mut node).is_some_and(|subscribed| subscribed.next_sequence <= pushed[0].sequence));
        assert_eq!(numbers(&anew.pushed(&mut node, 7)), [0, 1, 2, 3]);
    }
}

#[test]
fn groups_with_different_holes_are_handed_each_what_is_missing_there_after_a_restart() {
    let world = World::new();
    let mut node = world.node(1);
    let sender = node.connect_as(0, &world.owner);
    let members = [(&world.worker, GroupId([1; 16]), 1), (&world.critic, GroupId([2; 16]), 2)];
    let mut readers: Vec<_> = members.iter().map(|(agent, ..)| Subscriber::connect(&mut node, 0, agent)).collect();
    for (reader, (_, group, _)) in readers.iter_mut().zip(members) {
        reader.subscribe(&mut node, 1, TOPIC, group, Start::GoOn);
    }
    world.send(&mut node, &sender, 1, &mut world.publisher(TOPIC), 0..5);
    // One message of the same record each, with as many before and behind it.
    for (reader, (.., done)) in readers.iter_mut().zip(members) {
        let sequence = reader.pushed(&mut node, 1)[done].sequence;
        reader.acknowledge(&mut node, 1, &[sequence]);
    }

    let mut node = node.restarted(&world.agents(), &world.snapshot(2, &[record(TOPIC)], |_| {}));
    for ((agent, group, _), missing) in members.into_iter().zip([[0, 2, 3, 4], [0, 1, 3, 4]]) {
        let mut reader = Subscriber::connect(&mut node, 0, agent);
        reader.subscribe(&mut node, 1, TOPIC, group, Start::GoOn);
        assert_eq!(numbers(&reader.pushed(&mut node, 1)), missing);
    }
}

#[test]
fn whoever_reads_a_subscription_that_another_connection_ends_is_told() {
    for shard_count in [1, 2] {
        let world = World::new();
        let mut node = world.node(shard_count);
        for group in [ALONE, GROUP] {
            let mut reads = Subscriber::connect(&mut node, 0, &world.worker);
            reads.subscribe(&mut node, 1, TOPIC, group, Start::GoOn);
            let ends = Subscriber::connect(&mut node, usize::from(shard_count) - 1, &world.worker);
            node.hold_disk = true;
            ends.ask(&mut node, 4, TOPIC, group, Start::Oldest);
            // It does not wait to become the reader.
            ends.leave(&mut node, 4, LeaveMode::Unsubscribe);
            node.hold_disk = false;
            node.run();
            assert_eq!(ends.left(&mut node), [(4, None)]);
            assert_eq!(reads.left(&mut node).len(), 1);
            assert_eq!(node.shards.iter().map(|shard| shard.channel_subscriptions().0).sum::<u64>(), 0);

            // The same where nothing begins anew: the reader keeps its seat until the end is durable.
            reads.subscribe(&mut node, 2, TOPIC, group, Start::GoOn);
            node.hold_disk = true;
            let first = Subscriber::connect(&mut node, 0, &world.critic);
            first.ask(&mut node, 1, TOPIC, GroupId([99; 16]), Start::GoOn);
            ends.ask(&mut node, 5, TOPIC, group, Start::GoOn);
            ends.leave(&mut node, 5, LeaveMode::Unsubscribe);
            node.hold_disk = false;
            node.run();
            let left = reads.left(&mut node);
            let gone = [RejectCode::NotSubscribed, RejectCode::SubscriptionReplaced];
            assert!(
                left.len() == 1 && left[0].0 == 2 && left[0].1.is_some_and(|code| gone.contains(&code)),
                "{left:?}"
            );
            first.leave(&mut node, 1, LeaveMode::Unsubscribe);
            assert_eq!(node.shards.iter().map(|shard| shard.channel_subscriptions().1).sum::<u64>(), 0);
        }
    }
}

#[test]
fn what_was_on_its_way_to_a_subscription_that_was_refused_is_no_error() {
    let world = World::new();
    let mut node = world.node(2);
    let stranger = Subscriber::connect(&mut node, 1, &world.stranger);
    for handle in 0..20 {
        stranger.ask(&mut node, handle, TOPIC, ALONE, Start::GoOn);
        stranger.grant(&mut node, handle, 1, 1);
        stranger.leave(&mut node, handle, LeaveMode::Detach);
    }
    assert_eq!(stranger.left(&mut node).len(), 20);
    assert!(node.rejects(&stranger.client).is_empty() && node.closed.is_empty());
}

#[test]
fn a_snapshot_that_is_late_on_the_shard_of_a_channel_is_no_final_answer() {
    let world = World::new();
    let mut node = world.node(2);
    let snapshot = world.snapshot(3, &[record(TOPIC), record("acme/new")], |_| {});
    let owner = usize::from(creto_shard::Placement::new(2).channel_owner(&topic("acme/new")).0);
    node.event(1 - owner, Event::Snapshot(std::sync::Arc::clone(&snapshot)));
    let reader = Subscriber::connect(&mut node, 1 - owner, &world.worker);
    reader.ask(&mut node, 1, "acme/new", ALONE, Start::GoOn);
    assert_eq!(reader.left(&mut node), [(1, Some(RejectCode::Overloaded))]);
    let publisher = node.connect_as(1 - owner, &world.owner);
    topic::attach(&mut node, &publisher, "acme/new");
    assert_eq!(node.rejects(&publisher), [RejectCode::Overloaded]);
    node.event(owner, Event::Snapshot(snapshot));
    let mut reader = reader;
    reader.subscribe(&mut node, 1, "acme/new", ALONE, Start::GoOn);
    topic::attach(&mut node, &publisher, "acme/new");
    assert_eq!(topic::members(&mut node, &publisher).len(), 1);
}

/// What each turn hands out to twenty readers that come at once for so many messages of this size, and the bytes of an envelope.
fn handed_in_each_turn(messages: u16, bytes: usize) -> (Vec<u64>, usize) {
    let world = World::new();
    let mut node = world.node(1);
    let sender = node.connect_as(0, &world.owner);
    let readers: Vec<_> = (1..=20_u8)
        .map(|number| {
            let reader = Subscriber::connect(&mut node, 0, &world.worker);
            reader.ask(&mut node, 1, TOPIC, GroupId([number; 16]), Start::GoOn);
            reader
        })
        .collect();
    let mut publisher = world.publisher(TOPIC);
    let plaintext = vec![7; bytes];
    let envelopes: Vec<_> = (0..messages)
        .map(|number| {
            let [a, b] = number.to_le_bytes();
            let id = MessageId::from_parts(NOW.unix_ms, [0, 0, 0, 0, 0, 0, 0, 0, a, b]);
            publisher.seal(id, NOW.unix_ms, &plaintext)
        })
        .collect();
    node.submit(&sender, 1, &world.owner.sign(&envelopes, NOW.unix_ms));
    assert_eq!(node.acks(&sender), (1, vec![]));
    for reader in &readers {
        let all = ChannelCredit { handle: 1, messages: CREDIT_MESSAGES_MAX, bytes: CREDIT_BYTES_MAX };
        node.frames(&reader.client, CHANNELS, |out| all.encode(out));
    }
    let (mut handed, mut before) = (Vec::new(), 0);
    while before < 20 * u64::from(messages) {
        node.turn(0);
        let pushed = count(&node, |of| of.channel_messages_pushed);
        handed.push(pushed - before);
        before = pushed;
    }
    (handed, envelopes[0].len())
}

#[test]
fn a_turn_hands_out_so_much_to_each_reader_and_so_much_to_all() {
    // Sixteen readers have 256 each; then the four that are left, and the rest of the sixteen; then that of the four.
    assert_eq!(handed_in_each_turn(300, 20).0, [4_096, 4 * 256 + 16 * 44, 4 * 44]);
    // Readers have up to 512 KiB each, until there are 4 MiB: the last one may go beyond.
    let (handed, bytes) = handed_in_each_turn(12, 64 << 10);
    let share = (512 << 10) / bytes;
    let readers = (4_usize << 20).div_ceil(share * bytes);
    assert!((4..12).contains(&share) && readers < 20);
    assert_eq!(handed[0], (share * readers) as u64);
}
