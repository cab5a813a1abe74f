//! Channels between agents over real QUIC, against a real node in this process.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use creto_agent::channel::{ChannelRecord, Publishing, Start, Subscribing};
use creto_agent::{
    Agent, AgentKeys, ChannelError, ChannelMessage, ChannelName, ChannelPattern, ChannelSubscription, ConnectOptions,
    PatternEvent, PatternSubscription, RejectCode, SubscribeOptions, TrustDomain,
};
use creto_node::Node;
use creto_service::client::Client;
use home::{Home, on_time};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// A node, and the owner of a channel with its keys.
struct Scene {
    home: Home,
    node: Node,
    owner: PathBuf,
    record: ChannelRecord,
}

impl Scene {
    async fn new(change: impl FnOnce(&mut ChannelRecord)) -> Self {
        let home = Home::new();
        let node = home.start();
        let owner = key_file(&home, &node, "acme/owner").await;
        let keys = AgentKeys::load(&owner).unwrap();
        let mut record = ChannelRecord {
            version: 0,
            name: channel(),
            trust_domain: TrustDomain::default(),
            owner: keys.id(),
            owner_key_version: 1,
            signed_at_ms: 0,
            subscribing: Subscribing::Open,
            publishing: Publishing::Open,
            has_history: false,
            is_deleted: false,
            retention_s: 3_600,
            messages_max: 100_000,
            bytes_max: 1 << 28,
            subscribers_max: 100,
        };
        change(&mut record);
        let mut scene = Self { home, node, owner, record };
        scene.put(|_| {}).await;
        scene
    }

    /// Says something else of the channel; its shards know when this returns, or a moment later.
    async fn put(&mut self, change: impl FnOnce(&mut ChannelRecord)) {
        change(&mut self.record);
        self.record.version += 1;
        let signed = AgentKeys::load(&self.owner).unwrap().signed_channel(self.record.clone()).unwrap();
        Client::new(self.node.control_socket()).put_channel(&signed).await.unwrap();
    }

    /// Says this of another channel like it.
    async fn put_another(&self, name: &str, version: u32, is_deleted: bool) {
        let name = ChannelName::parse(name).unwrap();
        let record = ChannelRecord { name, version, is_deleted, ..self.record.clone() };
        let signed = AgentKeys::load(&self.owner).unwrap().signed_channel(record).unwrap();
        Client::new(self.node.control_socket()).put_channel(&signed).await.unwrap();
    }

    async fn register(&self, name: &str) -> PathBuf {
        key_file(&self.home, &self.node, name).await
    }

    async fn connect(&self, keys: &PathBuf) -> Agent {
        let keys = AgentKeys::load(keys).unwrap();
        Agent::connect(ConnectOptions::new(self.node.address(), self.home.certificate.clone(), keys)).await.unwrap()
    }

    async fn agent(&self, name: &str) -> Agent {
        self.connect(&self.register(name).await).await
    }

    async fn owner(&self) -> Agent {
        self.connect(&self.owner).await
    }
}

async fn key_file(home: &Home, node: &Node, name: &str) -> PathBuf {
    let path = home.path().join(format!("{}.keys", name.replace('/', "-")));
    home.register(node, name).await.save(&path).unwrap();
    path
}

fn channel() -> ChannelName {
    ChannelName::parse("acme/alerts.eu").unwrap()
}

async fn subscribe(agent: &Agent, options: SubscribeOptions) -> ChannelSubscription {
    timeout(PATIENCE, agent.subscribe_channel(&channel(), options)).await.unwrap().unwrap()
}

fn from(start: Start) -> SubscribeOptions {
    SubscribeOptions { start, key_wait: Duration::from_millis(500), ..SubscribeOptions::default() }
}

async fn next(subscription: &mut ChannelSubscription) -> ChannelMessage {
    timeout(PATIENCE, subscription.next()).await.expect("a message comes").unwrap().unwrap()
}

/// Reads and acknowledges so many messages, which must be in order.
async fn read(subscription: &mut ChannelSubscription, count: usize) -> Vec<String> {
    let (mut texts, mut before) = (Vec::new(), 0);
    while texts.len() < count {
        let message = next(subscription).await;
        assert!(message.sequence > before, "in order");
        before = message.sequence;
        texts.push(String::from_utf8(message.payload.to_vec()).unwrap());
        message.ack();
    }
    texts
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Publishes them as fast as it goes, in order.
async fn publish(publisher: &creto_agent::Publisher, texts: &[String]) {
    let mut pending = Vec::new();
    for text in texts {
        pending.push(publisher.submit(text.clone(), creto_agent::PublishOptions::default()).await.unwrap());
    }
    for answer in pending {
        timeout(PATIENCE, answer).await.unwrap().unwrap();
    }
}

#[test]
fn every_subscriber_reads_everything_in_one_order_and_a_group_shares_it() {
    on_time(async {
        let scene = Scene::new(|_| {}).await;
        let (owner, second) = (scene.owner().await, scene.agent("acme/second").await);
        let agents = [scene.agent("acme/a").await, scene.agent("acme/b").await];
        let members = [scene.agent("acme/c").await, scene.agent("acme/d").await];
        let mut subscriptions = Vec::new();
        for agent in &agents {
            subscriptions.push(subscribe(agent, SubscribeOptions::default()).await);
        }
        let mut group = Vec::new();
        for agent in &members {
            let options = SubscribeOptions { group: Some("workers".to_owned()), ..SubscribeOptions::default() };
            group.push(subscribe(agent, options).await);
        }
        let (one, other) = (owner.publisher(&channel()).await.unwrap(), second.publisher(&channel()).await.unwrap());
        let texts = numbered(0..3_000);
        let (first_half, second_half) = texts.split_at(1_500);
        let [a, b] = &mut subscriptions[..] else { unreachable!() };
        let [c, d] = &mut group[..] else { unreachable!() };
        let shared = async {
            let mut shares = [Vec::new(), Vec::new()];
            while shares[0].len() + shares[1].len() < texts.len() {
                let (share, message) = tokio::select! {
                    message = c.next() => (0, message),
                    message = d.next() => (1, message),
                };
                let message = message.unwrap().unwrap();
                message.ack();
                shares[share].push(String::from_utf8(message.payload.to_vec()).unwrap());
            }
            shares
        };
        let ((), (), of_a, of_b, shares) = tokio::join!(
            publish(&one, first_half),
            publish(&other, second_half),
            read(a, texts.len()),
            read(b, texts.len()),
            shared
        );
        assert_eq!(of_a, of_b, "one order");
        // What one publisher published stands in its own order.
        for half in [first_half, second_half] {
            let of_half: Vec<_> = of_a.iter().filter(|text| half.contains(text)).cloned().collect();
            assert_eq!(of_half, half);
        }
        let all: BTreeSet<_> = shares.iter().flatten().collect();
        assert_eq!((all.len(), shares[0].len() + shares[1].len()), (3_000, 3_000), "each to one of them");
        assert!(shares.iter().all(|share| !share.is_empty()), "both of them");
        let stats = owner.stats();
        assert_eq!((stats.published, stats.channel_sessions_begun, stats.channel_keys_given), (1_500, 1, 4));
        for agent in agents.into_iter().chain(members).chain([owner, second]) {
            agent.close().await;
        }
        scene.node.stop().unwrap();
    });
}

#[test]
fn a_newcomer_reads_what_was_before_only_where_the_owner_says_so() {
    on_time(async {
        for has_history in [false, true] {
            let scene = Scene::new(|record| record.has_history = has_history).await;
            let (owner, a, b) = (scene.owner().await, scene.agent("acme/a").await, scene.agent("acme/b").await);
            let mut early = subscribe(&a, SubscribeOptions::default()).await;
            let publisher = owner.publisher(&channel()).await.unwrap();
            publish(&publisher, &numbered(0..10)).await;
            assert_eq!(read(&mut early, 10).await, numbered(0..10));
            let mut late = subscribe(&b, from(Start::Oldest)).await;
            publish(&publisher, &numbered(10..20)).await;
            let expected = if has_history { numbered(0..20) } else { numbered(10..20) };
            assert_eq!(read(&mut late, expected.len()).await, expected);
            let before = if has_history { 0 } else { 10 };
            assert_eq!(b.stats().channel_before_joining, before, "passed over, and acknowledged");
            assert_eq!(read(&mut early, 10).await, numbered(10..20));
            for agent in [owner, a, b] {
                agent.close().await;
            }
            scene.node.stop().unwrap();
        }
    });
}

#[test]
fn whoever_is_taken_off_the_list_reads_nothing_more_and_has_no_key_of_what_follows() {
    on_time(async {
        let mut scene = Scene::new(|_| {}).await;
        let (owner, a, b) = (scene.owner().await, scene.agent("acme/a").await, scene.agent("acme/b").await);
        let listed = |agents: &[&Agent]| {
            let mut ids: Vec<_> = agents.iter().map(|agent| agent.id()).collect();
            ids.sort_unstable();
            Subscribing::Allowlist(ids)
        };
        scene.put(|record| record.subscribing = listed(&[&a, &b])).await;
        let (mut of_a, mut of_b) = (subscribe_soon(&a).await, subscribe_soon(&b).await);
        let publisher = owner.publisher(&channel()).await.unwrap();
        publish(&publisher, &numbered(0..3)).await;
        assert_eq!((read(&mut of_a, 3).await, read(&mut of_b, 3).await), (numbered(0..3), numbered(0..3)));
        assert_eq!(b.stats().channel_keys_taken, 1);
        scene.put(|record| record.subscribing = listed(&[&a])).await;
        let ended = timeout(PATIENCE, of_b.next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(ended.code(), Some(RejectCode::ChannelNotAllowed), "{ended}");
        // The node has told the publisher, too, before long.
        while publisher.subscribers() > 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        publish(&publisher, &numbered(3..6)).await;
        assert_eq!(read(&mut of_a, 3).await, numbered(3..6));
        assert_eq!((owner.stats().channel_sessions_begun, b.stats().channel_keys_taken), (2, 1));
        let refused = b.subscribe_channel(&channel(), from(Start::Oldest)).await.unwrap_err();
        assert!(matches!(refused, ChannelError::NotAllowed { doing: "subscribe", .. }), "{refused}");
        for agent in [owner, a, b] {
            agent.close().await;
        }
        scene.node.stop().unwrap();
    });
}

/// Subscribes as soon as the node's shards know of the record.
async fn subscribe_soon(agent: &Agent) -> ChannelSubscription {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match agent.subscribe_channel(&channel(), SubscribeOptions::default()).await {
            Err(ChannelError::NotAllowed { .. } | ChannelError::Unknown { .. })
                if tokio::time::Instant::now() < until =>
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            subscribed => return subscribed.unwrap(),
        }
    }
}

#[test]
fn publisher_and_subscriber_go_on_where_they_were_when_they_start_again() {
    on_time(async {
        let scene = Scene::new(|_| {}).await;
        let reader = scene.register("acme/a").await;
        let a = scene.connect(&reader).await;
        let mut subscription = subscribe(&a, SubscribeOptions::default()).await;
        let owner = scene.owner().await;
        let publisher = owner.publisher(&channel()).await.unwrap();
        publish(&publisher, &numbered(0..5)).await;
        assert_eq!(read(&mut subscription, 3).await, numbered(0..3));
        let fourth = next(&mut subscription).await;
        assert_eq!((&fourth.payload[..], fourth.attempt), (&b"3"[..], 0));
        // Not acknowledged.
        a.close().await;
        drop(publisher);
        owner.close().await;

        // The publisher goes on under its session, whose key it need not give again.
        let owner = scene.owner().await;
        let publisher = owner.publisher(&channel()).await.unwrap();
        publish(&publisher, &numbered(5..8)).await;
        assert_eq!((owner.stats().channel_sessions_begun, owner.stats().channel_keys_given), (0, 0));

        // The subscriber comes again, with the keys that it kept, and what it has not acknowledged comes again.
        let a = scene.connect(&reader).await;
        let mut subscription = subscribe(&a, SubscribeOptions::default()).await;
        assert_eq!(read(&mut subscription, 5).await, numbered(3..8));
        assert_eq!(a.stats().channel_keys_taken, 0);

        // It can begin anew, with what it read before; and end.
        subscription.leave().await;
        let mut anew = subscribe(&a, from(Start::Oldest)).await;
        assert_eq!(read(&mut anew, 8).await, numbered(0..8));
        timeout(PATIENCE, anew.unsubscribe()).await.unwrap().unwrap();
        publish(&publisher, &numbered(8..9)).await;
        let mut later = subscribe(&a, SubscribeOptions::default()).await;
        publish(&publisher, &numbered(9..10)).await;
        assert_eq!(read(&mut later, 1).await, numbered(9..10), "what was published in between was not kept for it");
        assert!(owner.stats().channel_sessions_begun >= 1, "somebody had left");
        for agent in [owner, a] {
            agent.close().await;
        }
        scene.node.stop().unwrap();
    });
}

#[test]
fn a_publisher_that_comes_after_its_subscribers_messages_are_read_by_those_who_came_first() {
    on_time(async {
        let scene = Scene::new(|_| {}).await;
        let (owner, a) = (scene.owner().await, scene.agent("acme/a").await);
        // The mailbox is full of what nobody reads: keys come through all the same.
        for n in 0..1_200 {
            owner.submit(a.name(), n.to_string(), creto_agent::SendOptions::default()).await.unwrap().await.unwrap();
        }
        let mut subscription = subscribe(&a, SubscribeOptions::default()).await;
        let publisher = owner.publisher(&channel()).await.unwrap();
        publish(&publisher, &numbered(0..5)).await;
        assert_eq!(read(&mut subscription, 5).await, numbered(0..5));
        let mut mailbox = a.subscribe().unwrap();
        let first = timeout(PATIENCE, mailbox.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(first.payload, "0", "and no key is ever shown");
        for agent in [owner, a] {
            agent.close().await;
        }
        scene.node.stop().unwrap();
    });
}

#[test]
fn a_group_loses_nothing_to_a_new_member_that_cannot_open_what_was_published_before_it_came() {
    on_time(async {
        let scene = Scene::new(|_| {}).await;
        let (owner, a, b) = (scene.owner().await, scene.agent("acme/a").await, scene.agent("acme/b").await);
        let options = || SubscribeOptions { group: Some("workers".to_owned()), ..from(Start::GoOn) };
        let first = subscribe(&a, options()).await;
        first.leave().await;
        let publisher = owner.publisher(&channel()).await.unwrap();
        publish(&publisher, &numbered(0..20)).await;
        // The new one is alone with what it has no key for, for a while.
        let mut new = subscribe(&b, options()).await;
        let told = timeout(PATIENCE, new.next()).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(told, ChannelError::NoKey { .. }), "{told}");
        let mut old = subscribe(&a, options()).await;
        publish(&publisher, &numbered(20..40)).await;
        let mut shown = BTreeSet::new();
        while shown.len() < 40 {
            let next = tokio::select! {
                next = old.next() => next,
                next = new.next() => next,
            };
            match next.unwrap() {
                Ok(message) => {
                    message.ack();
                    shown.insert(String::from_utf8(message.payload.to_vec()).unwrap());
                }
                Err(error) => assert!(error.is_about_one_message(), "{error}"),
            }
        }
        assert_eq!(shown, numbered(0..40).into_iter().collect());
        for agent in [owner, a, b] {
            agent.close().await;
        }
        scene.node.stop().unwrap();
    });
}

#[test]
fn mail_that_nobody_reads_is_no_dead_letter_however_often_an_agent_reads_a_channel() {
    on_time(async {
        let scene = Scene::new(|_| {}).await;
        let owner = scene.owner().await;
        let reader = scene.register("acme/a").await;
        owner.send(&"acme/a".parse().unwrap(), "for later").await.unwrap();
        // More often than a delivery may fail.
        for round in 0..25 {
            let a = scene.connect(&reader).await;
            let mut subscription = subscribe(&a, from(Start::Now)).await;
            if round % 8 == 0 {
                let publisher = owner.publisher(&channel()).await.unwrap();
                publish(&publisher, &numbered(round..round + 1)).await;
                assert_eq!(read(&mut subscription, 1).await, numbered(round..round + 1));
            }
            a.close().await;
        }
        let a = scene.connect(&reader).await;
        let mut mailbox = a.subscribe().unwrap();
        let delivery = timeout(PATIENCE, mailbox.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(delivery.payload, "for later");
        for agent in [owner, a] {
            agent.close().await;
        }
        scene.node.stop().unwrap();
    });
}

#[test]
fn who_may_not_and_what_is_not_there_have_codes_of_their_own() {
    on_time(async {
        let mut scene = Scene::new(|_| {}).await;
        let (owner, a) = (scene.owner().await, scene.agent("acme/a").await);
        let unknown = ChannelName::parse("acme/none").unwrap();
        let refused = a.subscribe_channel(&unknown, SubscribeOptions::default()).await.unwrap_err();
        assert!(matches!(refused, ChannelError::Unknown { .. }), "{refused}");
        let refused = a.publisher(&unknown).await.unwrap_err();
        assert!(matches!(refused, ChannelError::Unknown { .. }), "{refused}");
        scene
            .put(|record| {
                // Who may neither read nor publish is told by one shard that it may not, and by another that there is no such channel.
                record.subscribing = Subscribing::Allowlist(vec![a.id()]);
                record.publishing = Publishing::Listed(vec![]);
            })
            .await;
        let refused = a.publisher(&channel()).await.unwrap_err();
        assert!(matches!(refused, ChannelError::NotAllowed { doing: "publish", .. }), "{refused}");
        assert!(refused.to_string().contains("creto channel show"), "{refused}");
        let mut subscription = subscribe_soon(&owner).await;
        let publisher = owner.publisher(&channel()).await.unwrap();
        publish(&publisher, &numbered(0..1)).await;
        assert_eq!(read(&mut subscription, 1).await, numbered(0..1), "the owner reads what it publishes");
        let again = owner.subscribe_channel(&channel(), SubscribeOptions::default()).await.unwrap_err();
        assert!(matches!(again, ChannelError::AlreadySubscribed { .. }), "{again}");
        scene
            .put(|record| {
                record.is_deleted = true;
                (record.subscribing, record.publishing) = (Subscribing::Open, Publishing::Open);
            })
            .await;
        let ended = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(ended, ChannelError::Unknown { .. }), "{ended}");
        let until = tokio::time::Instant::now() + PATIENCE;
        let refused = loop {
            match publisher.publish("late").await {
                Err(error) => break error,
                Ok(_) => assert!(tokio::time::Instant::now() < until, "the shards learn of it"),
            }
        };
        assert_eq!(refused.code(), Some(RejectCode::UnknownChannel), "{refused}");
        for agent in [owner, a] {
            agent.close().await;
        }
        scene.node.stop().unwrap();
    });
}

async fn next_event(subscription: &mut PatternSubscription) -> PatternEvent {
    timeout(PATIENCE, subscription.next()).await.expect("something comes").expect("the agent is there")
}

/// The channel of the next message, and its text; it is acknowledged.
async fn next_of(subscription: &mut PatternSubscription) -> (String, String) {
    match next_event(subscription).await {
        PatternEvent::Message { channel, message } => {
            message.ack();
            (channel.as_str().to_owned(), String::from_utf8(message.payload.to_vec()).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pattern_reads_all_channels_that_fit_and_those_that_come_later_from_their_beginning() {
    on_time(async {
        let scene = Scene::new(|record| record.has_history = true).await;
        for name in ["acme/alerts.eu.critical", "acme/alerts.us.critical", "acme/alerts.eu.minor"] {
            scene.put_another(name, 1, false).await;
        }
        let (owner, reader) = (scene.owner().await, scene.agent("acme/reader").await);
        let pattern = ChannelPattern::parse("acme/alerts.*.critical").unwrap();
        let options = SubscribeOptions::default();
        let mut all = timeout(PATIENCE, reader.subscribe_pattern(&pattern, options)).await.unwrap().unwrap();
        let names: Vec<_> = all.channels().map(|name| name.as_str().to_owned()).collect();
        assert_eq!(names, ["acme/alerts.eu.critical", "acme/alerts.us.critical"]);
        let listed = timeout(PATIENCE, reader.list_channels(&pattern)).await.unwrap().unwrap();
        assert!(listed.iter().map(ChannelName::as_str).eq(names.iter().map(String::as_str)));
        for _ in &names {
            assert!(matches!(next_event(&mut all).await, PatternEvent::Joined { .. }));
        }

        let publisher = async |name: &str| {
            let name = ChannelName::parse(name).unwrap();
            timeout(PATIENCE, owner.publisher(&name)).await.unwrap().unwrap()
        };
        for name in names.iter().map(String::as_str).chain(["acme/alerts.eu.minor"]) {
            publish(&publisher(name).await, &numbered(0..20)).await;
        }
        let mut read: BTreeSet<(String, usize)> = BTreeSet::new();
        let mut last = std::collections::BTreeMap::new();
        while read.len() < 40 {
            let (channel, text) = next_of(&mut all).await;
            let number: usize = text.parse().unwrap();
            let before = last.insert(channel.clone(), number);
            assert!(
                number == before.map_or(0, |before| before + 1),
                "each in its order: {channel} {before:?} {number}"
            );
            assert!(names.contains(&channel) && read.insert((channel, number)));
        }

        // This one comes later, and has messages before anybody can have joined it.
        let late = "acme/alerts.ap.critical";
        scene.put_another(late, 1, false).await;
        let publishes = publisher(late).await;
        publish(&publishes, &numbered(0..3)).await;
        assert!(matches!(next_event(&mut all).await, PatternEvent::Joined { channel } if channel.as_str() == late));
        for number in 0..3 {
            assert_eq!(next_of(&mut all).await, (late.to_owned(), number.to_string()));
        }
        // One is deleted, and comes again.
        scene.put_another("acme/alerts.eu.critical", 2, true).await;
        let PatternEvent::Left { channel, error } = next_event(&mut all).await else { panic!("it was deleted") };
        assert_eq!((channel.as_str(), error.code()), ("acme/alerts.eu.critical", Some(RejectCode::UnknownChannel)));
        scene.put_another("acme/alerts.eu.critical", 3, false).await;
        let joined = next_event(&mut all).await;
        assert!(
            matches!(&joined, PatternEvent::Joined { channel } if channel.as_str() == "acme/alerts.eu.critical"),
            "{joined:?}"
        );
        let names: Vec<_> = all.channels().map(ChannelName::as_str).collect();
        assert_eq!(names, [late, "acme/alerts.eu.critical", "acme/alerts.us.critical"]);
        // Another process of the agent reads its mailbox, to which the keys come: this one lets go, and does not take it back.
        let taken = ChannelName::parse("acme/alerts.us.critical").unwrap();
        let other = scene.connect(&scene.home.path().join("acme-reader.keys")).await;
        let options = SubscribeOptions::default();
        let subscription = timeout(PATIENCE, other.subscribe_channel(&taken, options)).await.unwrap().unwrap();
        loop {
            match next_event(&mut all).await {
                PatternEvent::Left { error, .. } => assert_eq!(error.code(), Some(RejectCode::SubscriptionReplaced)),
                PatternEvent::Incomplete { error } => {
                    assert!(matches!(error, ChannelError::Mailbox(_)), "{error:?}");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(all.next().await.is_none() && all.channels().next().is_none());
        subscription.leave().await;
        reader.close().await;
    });
}

#[test]
fn a_pattern_of_more_channels_than_an_agent_may_read_says_that_it_is_incomplete() {
    on_time(async {
        let scene = Scene::new(|_| {}).await;
        for of in 0..70 {
            scene.put_another(&format!("acme/many.c{of:02}"), 1, false).await;
        }
        let reader = scene.agent("acme/reader").await;
        let pattern = ChannelPattern::parse("acme/many.*").unwrap();
        let mut all = timeout(PATIENCE, reader.subscribe_pattern(&pattern, from(Start::GoOn))).await.unwrap().unwrap();
        assert_eq!(all.channels().count(), 64);
        assert_eq!(all.channels().last().unwrap().as_str(), "acme/many.c63");
        assert!(matches!(
            next_event(&mut all).await,
            PatternEvent::Incomplete { error: ChannelError::TooMany { most: 64 } }
        ));
        all.leave().await;
    });
}
