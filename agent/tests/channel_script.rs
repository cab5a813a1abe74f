//! Channels in the SDK over real QUIC, against a node that does exactly what the script says.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

mod peer;

use std::sync::Arc;
use std::time::Duration;

use creto_agent::channel::{ChannelRecord, Publishing, Start, Subscribing};
use creto_agent::{
    Agent, AgentId, AgentKeys, ChannelError, ChannelMessage, ChannelName, ChannelSubscription, RejectCode,
    SubscribeOptions, TrustDomain,
};
use creto_envelope::channel::frames::{ChannelLeft, ChannelMembers};
use peer::{Batch, Link, PATIENCE, Peer, eventually, keys};
use tokio::time::timeout;

fn channel() -> ChannelName {
    ChannelName::parse("acme/alerts").unwrap()
}

/// What the owner says of the channel.
fn record(owner: &AgentKeys, version: u32, subscribing: Subscribing) -> ChannelRecord {
    ChannelRecord {
        version,
        name: channel(),
        trust_domain: TrustDomain::default(),
        owner: owner.id(),
        owner_key_version: 1,
        signed_at_ms: 1,
        subscribing,
        publishing: Publishing::Open,
        has_history: false,
        is_deleted: false,
        retention_s: 3_600,
        messages_max: 1_000,
        bytes_max: 1 << 20,
        subscribers_max: 100,
    }
}

fn set_record(peer: &Peer, owner: &AgentKeys, record: ChannelRecord) {
    let signed = owner.signed_channel(record).unwrap();
    peer.directory().channels.insert(signed.record.channel_id(), signed);
}

/// A node with an owner, who publishes, two others, and an open channel.
fn scene() -> (Peer, Arc<AgentKeys>, Arc<AgentKeys>, Arc<AgentKeys>) {
    let (owner, b, c) = (keys("acme/owner"), keys("acme/b"), keys("acme/c"));
    let peer = Peer::start(&[&owner, &b, &c]);
    set_record(&peer, &owner, record(&owner, 1, Subscribing::Open));
    (peer, owner, b, c)
}

fn kind(envelope: &[u8]) -> u8 {
    envelope[2]
}

fn recipient(envelope: &[u8]) -> AgentId {
    AgentId(envelope[32..48].try_into().unwrap())
}

/// One batch with all messages of these, signed anew as the node would hand out any of them.
struct Sent {
    batch: Batch,
    index: usize,
}

/// Reads batches and acknowledges them until there were so many keys and published messages.
async fn take(link: &mut Link, keys: usize, published: usize) -> (Vec<Sent>, Vec<Sent>) {
    let (mut given, mut messages) = (Vec::new(), Vec::new());
    while given.len() < keys || messages.len() < published {
        let batch = link.batch().await;
        for (index, (_, envelope)) in batch.entries.iter().enumerate() {
            let sent = Sent { batch: batch.clone(), index };
            match kind(envelope) {
                2 => messages.push(sent),
                7 => given.push(sent),
                other => panic!("kind {other}"),
            }
        }
        link.acknowledge(batch.sequence, &[]).await;
    }
    assert_eq!((given.len(), messages.len()), (keys, published));
    (given, messages)
}

/// What a publisher sends when `members` subscribe: keys, and a message for each text.
async fn published(peer: &Peer, owner: &Arc<AgentKeys>, members: &[AgentId], texts: &[&str]) -> (Vec<Sent>, Vec<Sent>) {
    let (agent, mut link) = peer.connect(peer.options(owner)).await;
    let (name, texts): (_, Vec<String>) = (channel(), texts.iter().map(|text| (*text).to_owned()).collect());
    let count = texts.len();
    let publishing = tokio::spawn(async move {
        let publisher = agent.publisher(&name).await.unwrap();
        for text in texts {
            publisher.publish(text).await.unwrap();
        }
    });
    link.attached(members).await;
    let sent = take(&mut link, members.len(), count).await;
    timeout(PATIENCE, publishing).await.unwrap().unwrap();
    sent
}

async fn subscribe(
    agent: &Agent,
    link: &mut Link,
    options: SubscribeOptions,
    next_sequence: u64,
) -> (ChannelSubscription, u32) {
    let name = channel();
    let (subscription, (handle, _)) = tokio::join!(agent.subscribe_channel(&name, options), async {
        let handle = link.channel_subscription(next_sequence).await.handle;
        (handle, link.subscription().await)
    });
    (subscription.unwrap(), handle)
}

async fn next(subscription: &mut ChannelSubscription) -> ChannelMessage {
    timeout(PATIENCE, subscription.next()).await.expect("a message comes").unwrap().unwrap()
}

async fn error(subscription: &mut ChannelSubscription) -> ChannelError {
    timeout(PATIENCE, subscription.next()).await.expect("something comes").unwrap().unwrap_err()
}

#[tokio::test]
async fn a_subscriber_that_the_node_invents_is_given_no_key() {
    let (peer, owner, b, c) = scene();
    set_record(&peer, &owner, record(&owner, 2, Subscribing::Allowlist(vec![b.id()])));
    let (agent, mut link) = peer.connect(peer.options(&owner)).await;
    let name = channel();
    let opening = {
        let agent = agent.clone();
        tokio::spawn(async move { agent.publisher(&name).await })
    };
    // Both are agents of the node; one of them is on the owner's list.
    let id = link.attached(&[b.id(), c.id()]).await;
    let publisher = timeout(PATIENCE, opening).await.unwrap().unwrap().unwrap();
    assert_eq!((publisher.subscribers(), publisher.channel().as_str()), (2, "acme/alerts"));
    let publishing = {
        let publisher = publisher.clone();
        tokio::spawn(async move { publisher.publish("one").await })
    };
    let (given, _) = take(&mut link, 1, 1).await;
    assert_eq!(recipient(&given[0].batch.entries[given[0].index].1), b.id());
    timeout(PATIENCE, publishing).await.unwrap().unwrap().unwrap();
    publisher.keys_given().await.unwrap();
    // It is named again, and once more from the beginning.
    link.members(&ChannelMembers { channel: id, version: 2, is_whole: false, joined: vec![c.id()], left: vec![] })
        .await;
    link.members(&ChannelMembers {
        channel: id,
        version: 3,
        is_whole: true,
        joined: vec![b.id(), c.id()],
        left: vec![],
    })
    .await;
    let publishing = {
        let publisher = publisher.clone();
        tokio::spawn(async move { publisher.publish("two").await })
    };
    take(&mut link, 0, 1).await;
    timeout(PATIENCE, publishing).await.unwrap().unwrap().unwrap();
    assert_eq!(agent.stats().channel_keys_given, 1);
}

#[tokio::test]
async fn what_is_published_is_answered_when_it_is_durable_and_its_key_is_with_those_who_subscribe() {
    let (peer, owner, b, _) = scene();
    let (agent, mut link) = peer.connect(peer.options(&owner)).await;
    let name = channel();
    let publishing = tokio::spawn(async move { agent.publisher(&name).await.unwrap().publish("one").await });
    link.attached(&[b.id()]).await;
    // The key and the message travel on their own; the first that comes is acknowledged alone.
    let first = link.batch().await;
    assert_eq!(first.entries.len(), 1, "nothing else was on its way");
    link.acknowledge(first.sequence, &[]).await;
    let second = link.batch().await;
    assert!(!publishing.is_finished(), "one half of it is not durable");
    let kinds = [kind(&first.entries[0].1), kind(&second.entries[0].1)];
    assert!(kinds == [7, 2] || kinds == [2, 7], "{kinds:?}");
    link.acknowledge(second.sequence, &[]).await;
    timeout(PATIENCE, publishing).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_record_that_the_owner_did_not_sign_is_not_gone_by() {
    let (peer, owner, b, _) = scene();
    let (agent, mut link) = peer.connect(peer.options(&owner)).await;
    for forged in [
        // Signed by somebody else.
        {
            let mut signed = owner.signed_channel(record(&owner, 3, Subscribing::Open)).unwrap();
            signed.record.subscribing = Subscribing::Private;
            signed
        },
        // Somebody else's, who signed it well, of another organization.
        {
            let stranger = keys("other/owner");
            peer.set_record(stranger.id(), peer::record(&stranger));
            stranger
                .signed_channel(ChannelRecord { owner: stranger.id(), ..record(&owner, 3, Subscribing::Open) })
                .unwrap()
        },
    ] {
        peer.directory().channels.insert(forged.record.channel_id(), forged);
        let name = channel();
        let opening = {
            let agent = agent.clone();
            tokio::spawn(async move { agent.publisher(&name).await })
        };
        link.attached(&[b.id()]).await;
        let refused = timeout(PATIENCE, opening).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(refused, ChannelError::Record { .. }), "{refused}");
        link.detached().await;
    }
    let unknown = ChannelName::parse("acme/none").unwrap();
    let opening = {
        let agent = agent.clone();
        tokio::spawn(async move { agent.publisher(&unknown).await })
    };
    link.attached(&[]).await;
    let refused = timeout(PATIENCE, opening).await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.code(), Some(RejectCode::UnknownChannel));
}

#[tokio::test]
async fn a_message_waits_for_its_key_and_is_neither_lost_nor_acknowledged_without_it() {
    let (peer, owner, b, _) = scene();
    let (given, messages) = published(&peer, &owner, &[b.id()], &["one", "two", "three"]).await;
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let options = SubscribeOptions { key_wait: Duration::from_millis(200), ..SubscribeOptions::default() };
    let (mut subscription, handle) = subscribe(&agent, &mut link, options, 1).await;
    for (sequence, sent) in (1..).zip(&messages[..2]) {
        link.deliver_channel(handle, &sent.batch, &[(sent.index, sequence)]).await;
    }
    for expected in 1..=2 {
        let reported = error(&mut subscription).await;
        let ChannelError::NoKey { sequence, publisher, .. } = &reported else { panic!("{reported}") };
        assert_eq!((*sequence, publisher.as_str(), reported.is_about_one_message()), (expected, "acme/owner", true));
    }
    // The key comes, and nobody sees it; what waited is shown, late and whole.
    link.deliver(&given[0].batch, &[(given[0].index, 1, 0)]).await;
    assert_eq!(link.consumer_acks(1).await, [1], "a key is acknowledged once it is kept");
    link.deliver_channel(handle, &messages[2].batch, &[(messages[2].index, 3)]).await;
    for (sequence, text) in [(1, "one"), (2, "two"), (3, "three")] {
        let message = next(&mut subscription).await;
        assert_eq!(
            (message.sequence, &message.payload[..], message.publisher.as_str()),
            (sequence, text.as_bytes(), "acme/owner")
        );
        message.ack();
        assert_eq!(link.channel_ack().await.sequences, [sequence]);
    }
    let stats = agent.stats();
    assert_eq!((stats.channel_keys_taken, stats.channel_without_key, stats.delivered), (1, 2, 3));
}

#[tokio::test]
async fn what_cannot_be_read_is_skipped_when_the_application_says_so() {
    let (peer, owner, b, _) = scene();
    let (_, messages) = published(&peer, &owner, &[b.id()], &["one", "two"]).await;
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let options = SubscribeOptions { key_wait: Duration::ZERO, ..SubscribeOptions::default() };
    let (mut subscription, handle) = subscribe(&agent, &mut link, options, 1).await;
    for (sequence, sent) in (1..).zip(&messages) {
        link.deliver_channel(handle, &sent.batch, &[(sent.index, sequence)]).await;
    }
    for _ in 0..2 {
        assert!(matches!(error(&mut subscription).await, ChannelError::NoKey { .. }));
    }
    assert!(subscription.skip(2));
    assert!(subscription.skip(1) && !subscription.skip(1));
    assert_eq!(link.channel_ack().await.sequences, [2], "up to and with");
}

#[tokio::test]
async fn a_key_that_is_not_its_senders_is_refused_and_opens_nothing() {
    let (peer, owner, b, c) = scene();
    // A publisher that is another agent gives a key of its own session.
    let (given, messages) = published(&peer, &owner, &[b.id()], &["one"]).await;
    let (foreign, _) = published(&peer, &c, &[b.id()], &["other"]).await;
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let (mut subscription, handle) = subscribe(&agent, &mut link, SubscribeOptions::default(), 1).await;
    link.deliver(&foreign[0].batch, &[(foreign[0].index, 1, 0)]).await;
    link.consumer_acks(1).await;
    link.deliver_channel(handle, &messages[0].batch, &[(messages[0].index, 1)]).await;
    // Its own key opens its own session only.
    link.deliver(&given[0].batch, &[(given[0].index, 2, 0)]).await;
    assert_eq!(next(&mut subscription).await.payload, "one");
    // What is published does not come by mail.
    let mut incidents = agent.incidents();
    link.deliver(&messages[0].batch, &[(messages[0].index, 3, 0)]).await;
    let incident = timeout(PATIENCE, incidents.next()).await.unwrap().unwrap();
    assert_eq!(incident.mailbox_sequence, 3);
}

#[tokio::test]
async fn a_subscription_goes_on_over_a_broken_connection_and_shows_nothing_twice() {
    let (peer, owner, b, _) = scene();
    let (given, messages) = published(&peer, &owner, &[b.id()], &["one", "two", "three"]).await;
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let options = SubscribeOptions { start: Start::Oldest, ..SubscribeOptions::default() };
    let (mut subscription, handle) = subscribe(&agent, &mut link, options, 1).await;
    link.deliver(&given[0].batch, &[(given[0].index, 1, 0)]).await;
    for (sequence, sent) in (1..).zip(&messages[..2]) {
        link.deliver_channel(handle, &sent.batch, &[(sent.index, sequence)]).await;
    }
    let first = next(&mut subscription).await;
    let second = next(&mut subscription).await;
    link.cut();
    eventually("the connection is seen to be gone", || agent.stats().reconnects == 0).await;
    let mut link = peer.accept().await;
    let again = link.channel_subscription(1).await;
    assert_eq!((again.handle, again.start), (handle, Start::GoOn), "it is not begun anew");
    for (sequence, sent) in (1..).zip(&messages) {
        link.deliver_channel(handle, &sent.batch, &[(sent.index, sequence)]).await;
    }
    let third = next(&mut subscription).await;
    assert_eq!((first.sequence, second.sequence, third.sequence), (1, 2, 3));
    third.ack();
    assert_eq!(link.channel_ack().await.sequences, [3]);
    assert_eq!(agent.stats().duplicates_hidden, 2);
    // The node ends it.
    link.channel_left(&ChannelLeft::because(handle, RejectCode::ChannelNotAllowed)).await;
    let ended = error(&mut subscription).await;
    assert!(matches!(ended, ChannelError::NotAllowed { doing: "subscribe", .. }) && !ended.is_about_one_message());
    assert!(timeout(PATIENCE, subscription.next()).await.unwrap().is_none());
}
