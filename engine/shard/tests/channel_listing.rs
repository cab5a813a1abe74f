//! Which channels there are, as an agent that may subscribe to them is told.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;
#[allow(dead_code, reason = "each test file takes what it needs")]
mod topic;

use creto_envelope::channel::listing::{CHANNELS_LISTED_MAX, ChannelList, ChannelListed};
use creto_envelope::channel::{ChannelPattern, ChannelRecord, Subscribing};
use creto_envelope::control::Reject;
use creto_envelope::{AgentState, ChannelId, FrameType, RejectCode};
use creto_sim::agents::SimAgent;
use fixture::{CONTROL, Client, Node};
use topic::{TOPIC, World, publish, record};

fn ask(node: &mut Node, client: &Client, pattern: &str, after: Option<ChannelId>, is_watched: bool) {
    let pattern = ChannelPattern::parse(pattern).unwrap();
    node.frames(client, CONTROL, |out| {
        ChannelList { context: [9; 16], after, is_watched, pattern }.encode(out);
    });
}

fn listed(node: &mut Node, client: &Client) -> Vec<ChannelListed> {
    let bodies = node.take(client, FrameType::ChannelListed);
    bodies.iter().map(|body| ChannelListed::parse(body).unwrap()).collect()
}

/// All pages, and how many.
fn list(node: &mut Node, client: &Client, pattern: &str) -> (Vec<String>, usize) {
    let (mut all, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        ask(node, client, pattern, after, false);
        node.run();
        let [ChannelListed::Page { context, next, names }] = &listed(node, client)[..] else {
            panic!("one answer to one question")
        };
        assert_eq!(*context, [9; 16]);
        assert!(names.len() <= CHANNELS_LISTED_MAX);
        all.extend(names.iter().map(|name| name.as_str().to_owned()));
        pages += 1;
        match next {
            Some(next) => after = Some(*next),
            None => return (all, pages),
        }
    }
}

fn changed(node: &mut Node, client: &Client) -> usize {
    let all = listed(node, client);
    assert!(all.iter().all(|of| *of == ChannelListed::Changed { context: [9; 16] }), "{all:?}");
    all.len()
}

#[test]
fn all_channels_whose_names_fit_are_listed_once_to_whoever_may_subscribe() {
    for shard_count in [1, 3] {
        let world = World::new();
        let mut records: Vec<ChannelRecord> =
            (0..260).map(|of| record(&format!("acme/alerts.r{of}.critical"))).collect();
        records.extend((0..10).map(|of| record(&format!("acme/alerts.r{of}.minor"))));
        let hidden = ["acme/alerts.secret.critical", "acme/alerts.board.critical"];
        let private = |name| ChannelRecord { subscribing: Subscribing::Private, ..record(name) };
        records.extend(hidden.map(private));
        let mut node = Node::new(shard_count, &world.agents());
        publish(&mut node, &world.snapshot(2, &records, |_| {}));

        let worker = node.connect_as(usize::from(shard_count) - 1, &world.worker);
        let (names, pages) = list(&mut node, &worker, "acme/alerts.*.critical");
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!((names.len(), sorted.len(), pages), (260, 260, 3));
        assert!(names.iter().all(|name| name.ends_with(".critical") && !hidden.contains(&&name[..])));
        assert_eq!(list(&mut node, &worker, "acme/**").0.len(), 270);
        assert_eq!(list(&mut node, &worker, "acme/alerts.r7.minor").0, ["acme/alerts.r7.minor"]);
        assert!(list(&mut node, &worker, "acme/*").0.is_empty());
        let owner = node.connect_as(0, &world.owner);
        assert_eq!(list(&mut node, &owner, "acme/alerts.*.critical").0.len(), 262);
        let stranger = node.connect_as(0, &world.stranger);
        assert!(list(&mut node, &stranger, "acme/**").0.is_empty());
    }
}

#[test]
fn a_page_looks_at_so_many_channels_and_a_turn_makes_so_many_pages() {
    let world = World::new();
    let records: Vec<ChannelRecord> = (0..4_200).map(|of| record(&format!("acme/c{of}"))).collect();
    let mut node = Node::new(1, &world.agents());
    publish(&mut node, &world.snapshot(2, &records, |_| {}));
    let worker = node.connect_as(0, &world.worker);
    assert_eq!(list(&mut node, &worker, "acme/other.**"), (Vec::new(), 3));
    let mut all: Vec<_> = (0..10).map(|_| node.connect_as(0, &world.worker)).collect();
    // One page for each connection, whatever it asks for.
    all.insert(0, worker);
    for client in all.iter().chain([&all[0]]) {
        ask(&mut node, client, "acme/other.**", None, false);
    }
    node.run();
    let made: Vec<_> = all.iter().map(|client| listed(&mut node, client).len()).collect();
    assert_eq!(made, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
    let rejects = all.iter().flat_map(|client| node.take(client, FrameType::Reject)).collect::<Vec<_>>();
    let rejects: Vec<_> = rejects.iter().map(|body| Reject::parse(body).unwrap()).collect();
    assert_eq!(rejects.len(), 4);
    let worker = all.remove(0);
    assert!(rejects.iter().all(|of| of.code == RejectCode::Overloaded.as_u16() && of.context == [9; 16]));
    assert_eq!(list(&mut node, &worker, "acme/c17").0, ["acme/c17"], "the next turn has time again");
}

#[test]
fn what_comes_while_a_listing_goes_on_is_told_and_no_page_tells_of_a_channel_that_it_does_not_name() {
    let world = World::new();
    let mut builder = creto_policy::SnapshotBuilder::with_policy(creto_policy::Policy::SameOrganization);
    for agent in world.agents() {
        builder.insert(AgentState::Active, vec![std::sync::Arc::clone(&agent.record)]).unwrap();
    }
    let all: Vec<_> = (0..3_000).map(|of| format!("acme/c{of}")).collect();
    for (of, name) in all.iter().enumerate() {
        let subscribing = if of % 10 == 0 { Subscribing::Open } else { Subscribing::Private };
        builder.insert_channel(ChannelRecord { subscribing, ..record(name) });
    }
    let mut node = Node::new(1, &world.agents());
    publish(&mut node, &std::sync::Arc::new(builder.build(2)));
    let worker = node.connect_as(0, &world.worker);
    let hidden: std::collections::BTreeSet<_> =
        all.iter().enumerate().filter(|(of, _)| of % 10 != 0).map(|(_, name)| topic::topic(name)).collect();
    let (mut after, mut pages) = (None, 0);
    loop {
        ask(&mut node, &worker, "acme/**", after, true);
        node.run();
        let [ChannelListed::Page { next, .. }] = listed(&mut node, &worker)[..] else { panic!("a page") };
        pages += 1;
        assert!(next.is_none_or(|next| !hidden.contains(&next)));
        if pages == 1 {
            builder.insert_channel(record("acme/late"));
            publish(&mut node, &std::sync::Arc::new(builder.build(3)));
            assert_eq!(changed(&mut node, &worker), 1);
        }
        match next {
            Some(_) => after = next,
            None => break,
        }
    }
    assert!(pages >= 3);
}

#[test]
fn whoever_watches_is_told_once_that_there_may_be_another_answer() {
    let world = World::new();
    let mut node = world.node(2);
    let snapshot = world.snapshot(3, &[record("acme/a")], |_| {});
    publish(&mut node, &snapshot);
    let worker = node.connect_as(1, &world.worker);
    let watch = |node: &mut Node| {
        ask(node, &worker, "acme/**", None, true);
        node.run();
        assert!(matches!(&listed(node, &worker)[..], [ChannelListed::Page { next: None, .. }]));
    };
    watch(&mut node);
    // One builder's snapshots share what is the same in them.
    let mut builder = creto_policy::SnapshotBuilder::with_policy(creto_policy::Policy::SameOrganization);
    for agent in world.agents() {
        builder.insert(AgentState::Active, vec![std::sync::Arc::clone(&agent.record)]).unwrap();
    }
    builder.insert_channel(record("acme/a"));
    let mut epoch = 3;
    let mut next = |node: &mut Node, builder: &creto_policy::SnapshotBuilder| {
        epoch += 1;
        publish(node, &std::sync::Arc::new(builder.build(epoch)));
    };
    next(&mut node, &builder);
    assert_eq!(changed(&mut node, &worker), 1, "nobody knows what another builder made");
    next(&mut node, &builder);
    assert_eq!(changed(&mut node, &worker), 0, "it has not asked again");

    watch(&mut node);
    let newcomer = SimAgent::new("acme/newcomer", 5);
    builder.insert(AgentState::Active, vec![std::sync::Arc::clone(&newcomer.record)]).unwrap();
    next(&mut node, &builder);
    assert_eq!(changed(&mut node, &worker), 0, "an agent more is no channel more");
    builder.insert_channel(record("acme/b"));
    next(&mut node, &builder);
    assert_eq!(changed(&mut node, &worker), 1);
    builder.insert_channel(record("acme/c"));
    next(&mut node, &builder);
    assert_eq!(changed(&mut node, &worker), 0);
    watch(&mut node);
    // A listing that nobody is to be told of changes nothing in that.
    ask(&mut node, &worker, "acme/**", None, false);
    node.run();
    listed(&mut node, &worker);
    builder.set_policy(None);
    next(&mut node, &builder);
    assert_eq!(changed(&mut node, &worker), 1);
    ask(&mut node, &worker, "acme/**", None, true);
    node.run();
    assert_eq!(node.rejects(&worker), [RejectCode::PolicyUnavailable]);
}

#[test]
fn what_is_no_question_for_channels_is_refused_and_the_connection_goes_on() {
    let world = World::new();
    let mut node = world.node(1);
    let worker = node.connect_as(0, &world.worker);
    let mut body = vec![0; 33];
    body.extend_from_slice(b"\x07acme/**x");
    node.frame(&worker, CONTROL, FrameType::ChannelList, &body);
    body.truncate(41);
    node.frame(&worker, CONTROL, FrameType::ChannelList, &body);
    node.run();
    assert_eq!(node.rejects(&worker), [RejectCode::FrameLength]);
    assert!(matches!(&listed(&mut node, &worker)[..], [ChannelListed::Page { .. }]));
    body[32] = 2;
    node.frame(&worker, CONTROL, FrameType::ChannelList, &body);
    body[32] = 0;
    body[39..].copy_from_slice(b"*a");
    node.frame(&worker, CONTROL, FrameType::ChannelList, &body);
    node.run();
    assert_eq!(node.rejects(&worker), [RejectCode::FrameReserved; 2]);
    assert_eq!(list(&mut node, &worker, "acme/**").0, [TOPIC]);
}
