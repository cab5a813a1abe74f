//! Channels in the SDK over real QUIC, against a node that does exactly what the script says.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

mod peer;

use std::sync::Arc;
use std::time::Duration;

use creto_agent::channel::{ChannelRecord, Publishing, Start, Subscribing};
use creto_agent::{
    Agent, AgentId, AgentKeys, ChannelError, ChannelMessage, ChannelName, ChannelSubscription, PublisherOptions,
    RejectCode, SubscribeOptions, TrustDomain,
};
use creto_envelope::FrameType;
use creto_envelope::channel::frames::{ChannelLeave, ChannelLeft, ChannelMembers, GiveBack, LeaveMode};
use creto_envelope::control::Reject;
use creto_envelope::deliver::Nack;
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
        link.subscription_for_keys().await;
        (handle, ())
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

fn in_group() -> SubscribeOptions {
    let key_wait = Duration::from_millis(200);
    SubscribeOptions { group: Some("workers".to_owned()), key_wait, ..SubscribeOptions::default() }
}

/// Whom `publisher` gives keys only of what it publishes behind `texts`: the key, and all that is published.
async fn joined_late(peer: &Peer, owner: &Arc<AgentKeys>, late: AgentId, texts: &[&str]) -> (Sent, Vec<Sent>) {
    let (agent, mut link) = peer.connect(peer.options(owner)).await;
    let name = channel();
    let opening = tokio::spawn(async move { (agent.publisher(&name).await.unwrap(), agent) });
    let id = link.attached(&[]).await;
    let (publisher, _agent) = timeout(PATIENCE, opening).await.unwrap().unwrap();
    let mut messages = Vec::new();
    for text in texts {
        let (publisher, text) = (publisher.clone(), (*text).to_owned());
        let publishing = tokio::spawn(async move { publisher.publish(text).await });
        messages.extend(take(&mut link, 0, 1).await.1);
        timeout(PATIENCE, publishing).await.unwrap().unwrap().unwrap();
    }
    link.members(&ChannelMembers { channel: id, version: 2, is_whole: false, joined: vec![late], left: vec![] }).await;
    let (mut given, _) = take(&mut link, 1, 0).await;
    let publishing = tokio::spawn(async move { publisher.publish("the last").await });
    messages.extend(take(&mut link, 0, 1).await.1);
    timeout(PATIENCE, publishing).await.unwrap().unwrap().unwrap();
    (given.remove(0), messages)
}

#[tokio::test]
async fn a_member_of_a_group_gives_back_what_it_cannot_open_and_acknowledges_none_of_it() {
    let (peer, owner, b, c) = scene();
    let (key, messages) = joined_late(&peer, &owner, b.id(), &["one", "two"]).await;
    let (_, foreign) = published(&peer, &c, &[], &["without a key"]).await;
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let (mut subscription, handle) = subscribe(&agent, &mut link, in_group(), 1).await;
    link.deliver(&key.batch, &[(key.index, 1, 0)]).await;
    link.consumer_acks(1).await;
    // What was published before it was let in: another member may read it.
    for (sequence, sent) in (1..).zip(&messages) {
        link.deliver_channel(handle, &sent.batch, &[(sent.index, sequence)]).await;
    }
    let mut back = Vec::new();
    while back.len() < 2 {
        let nack = link.channel_nack().await;
        assert_eq!((nack.handle, nack.how), (handle, GiveBack::Untouched));
        back.extend(nack.sequences);
    }
    assert_eq!(back, [1, 2]);
    let mut shown = Vec::new();
    for _ in 0..3 {
        match timeout(PATIENCE, subscription.next()).await.unwrap().unwrap() {
            Ok(message) => shown.push(message),
            Err(error) => assert!(matches!(error, ChannelError::NoKey { .. }), "{error}"),
        }
    }
    assert_eq!((shown.len(), &shown[0].payload[..]), (1, &b"the last"[..]));
    assert!(!subscription.skip(1), "it is not this member's any more");
    // Nor is one whose key does not come.
    link.deliver_channel(handle, &foreign[0].batch, &[(foreign[0].index, 4)]).await;
    assert_eq!(link.channel_nack().await.sequences, [4]);
    let reported = error(&mut subscription).await;
    assert_eq!(reported.sequence(), Some(4));
    // It comes again, because nobody else is there: it is held, said once, and goes back once more.
    link.deliver_channel(handle, &foreign[0].batch, &[(foreign[0].index, 4)]).await;
    let came = std::time::Instant::now();
    assert_eq!(link.channel_nack().await.sequences, [4]);
    assert!(came.elapsed() >= Duration::from_millis(900), "round and round without a pause");
    // What it could not do now it refuses; what it could, it acknowledges.
    assert!(shown[0].nack_after(Duration::from_millis(1_500)) && !shown[0].nack());
    let nack = link.channel_nack().await;
    assert_eq!((nack.how, nack.sequences), (GiveBack::Later { delay_ms: 1_500 }, vec![3]));
    link.deliver_channel(handle, &messages[2].batch, &[(messages[2].index, 3)]).await;
    let again = next(&mut subscription).await;
    again.ack();
    assert!(!again.nack(), "it is acknowledged");
    assert_eq!(link.channel_ack().await.sequences, [3]);
    // What it has not taken goes back when it goes.
    link.deliver_channel(handle, &messages[2].batch, &[(messages[2].index, 5)]).await;
    eventually("it is opened", || agent.stats().verified >= 3).await;
    let leaving = tokio::spawn(subscription.leave());
    assert_eq!(link.channel_nack().await.sequences, [5]);
    let (frame_type, body) = link.channel_frame().await;
    assert_eq!((frame_type, ChannelLeave::parse(&body).unwrap().mode), (FrameType::ChannelLeave, LeaveMode::Detach));
    link.channel_left(&ChannelLeft::as_asked(handle)).await;
    timeout(PATIENCE, leaving).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_published_before_the_subscription_began_is_passed_over_and_nothing_else_is() {
    let (peer, owner, b, _) = scene();
    let (key, messages) = joined_late(&peer, &owner, b.id(), &["one", "two"]).await;
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let options = SubscribeOptions {
        start: Start::Oldest,
        key_wait: Duration::from_millis(200),
        skip_unreadable: true,
        ..SubscribeOptions::default()
    };
    let name = channel();
    let (subscription, handle) = tokio::join!(agent.subscribe_channel(&name, options.clone()), async {
        // When it began, the channel kept one message.
        let handle = link.channel_subscription_at(1, 1).await.0.handle;
        link.subscription_for_keys().await;
        handle
    });
    let mut subscription = subscription.unwrap();
    link.deliver(&key.batch, &[(key.index, 1, 0)]).await;
    link.consumer_acks(1).await;
    for (sequence, sent) in (1..).zip(&messages) {
        link.deliver_channel(handle, &sent.batch, &[(sent.index, sequence)]).await;
    }
    assert_eq!(link.channel_ack().await.sequences, [1], "nobody is owed it");
    // The second one came behind it: its publisher owes the key, and it is not acknowledged before somebody has heard of that.
    eventually("it is reported", || agent.stats().channel_without_key > 0).await;
    let (before, without) = (agent.stats().channel_before_joining, agent.stats().channel_without_key);
    assert_eq!((before, without), (1, 1));
    let reported = error(&mut subscription).await;
    assert!(matches!(reported, ChannelError::NoKey { sequence: 2, .. }), "{reported}");
    assert_eq!(link.channel_ack().await.sequences, [2], "skipped, because that was asked for, once it was said");
    let last = next(&mut subscription).await;
    assert_eq!((last.sequence, &last.payload[..]), (3, &b"the last"[..]));
}

#[tokio::test]
async fn an_acknowledgement_does_not_reach_what_the_application_has_not_taken() {
    let (peer, owner, b, c) = scene();
    let (given, messages) = published(&peer, &owner, &[b.id()], &["one", "three"]).await;
    let (foreign_key, foreign) = published(&peer, &c, &[b.id()], &["two"]).await;
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let options = SubscribeOptions { key_wait: Duration::from_millis(100), ..SubscribeOptions::default() };
    let (mut subscription, handle) = subscribe(&agent, &mut link, options, 1).await;
    link.deliver(&given[0].batch, &[(given[0].index, 1, 0)]).await;
    link.consumer_acks(1).await;
    for (sequence, sent) in [(1, &messages[0]), (2, &foreign[0]), (3, &messages[1])] {
        link.deliver_channel(handle, &sent.batch, &[(sent.index, sequence)]).await;
    }
    assert_eq!(next(&mut subscription).await.sequence, 1);
    assert!(matches!(error(&mut subscription).await, ChannelError::NoKey { sequence: 2, .. }));
    let third = next(&mut subscription).await;
    // Its key comes, and it waits for the application, which acknowledges the one behind it.
    link.deliver(&foreign_key[0].batch, &[(foreign_key[0].index, 2, 0)]).await;
    eventually("it is opened", || agent.stats().verified == 3).await;
    third.ack();
    assert_eq!(link.channel_ack().await.sequences, [1]);
    let second = next(&mut subscription).await;
    assert_eq!((second.sequence, &second.payload[..]), (2, &b"two"[..]));
    second.ack();
    assert_eq!(link.channel_ack().await.sequences, [3]);
}

#[tokio::test]
async fn a_window_that_is_full_when_the_connection_breaks_does_not_stop_what_comes_after() {
    let (peer, owner, b, _) = scene();
    let (given, messages) = published(&peer, &owner, &[b.id()], &["one", "two", "three"]).await;
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let options = SubscribeOptions { window_messages: 2, ..SubscribeOptions::default() };
    let (mut subscription, handle) = subscribe(&agent, &mut link, options, 1).await;
    link.deliver(&given[0].batch, &[(given[0].index, 1, 0)]).await;
    for (sequence, sent) in (1..).zip(&messages[..2]) {
        link.deliver_channel(handle, &sent.batch, &[(sent.index, sequence)]).await;
    }
    let held = [next(&mut subscription).await, next(&mut subscription).await];
    link.cut();
    let mut link = peer.accept().await;
    // The node hands out what it was not told of again, and needs credit for that.
    let (_, credit) = link.channel_subscription_at(1, 3).await;
    assert_eq!(credit.messages, 2);
    held[1].ack();
    for (sequence, sent) in (1..).zip(&messages[..2]) {
        link.deliver_channel(handle, &sent.batch, &[(sent.index, sequence)]).await;
    }
    let mut through = 0;
    while through < 2 {
        through = link.channel_ack().await.sequences[0];
    }
    link.deliver_channel(handle, &messages[2].batch, &[(messages[2].index, 3)]).await;
    assert_eq!(next(&mut subscription).await.payload, "three");
}

#[tokio::test]
async fn what_comes_before_a_key_is_given_back_untouched_where_nobody_reads_the_mailbox() {
    let (peer, owner, b, _) = scene();
    let (given, messages) = published(&peer, &owner, &[b.id()], &["one"]).await;
    let mail = Batch::make(&owner, &b, &["for later"]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    // Nothing of the mailbox is asked for.
    let (mut subscription, handle) = subscribe(&agent, &mut link, SubscribeOptions::default(), 1).await;
    link.deliver_channel(handle, &messages[0].batch, &[(messages[0].index, 1)]).await;
    let lent = link.credit().await;
    assert!(0 < lent.messages && lent.messages < 1_024, "{lent:?}");
    link.deliver(&mail, &[(0, 1, 0)]).await;
    assert_eq!(link.consumer_nacks(1).await, [(1, Nack::Untouched)]);
    link.deliver(&given[0].batch, &[(given[0].index, 2, 0)]).await;
    assert_eq!(link.consumer_acks(1).await, [2]);
    assert_eq!(next(&mut subscription).await.payload, "one");
    // Somebody reads: it comes, over a new connection and in its place.
    let mut mailbox = agent.subscribe().unwrap();
    let mut link = peer.accept().await;
    link.channel_subscription(1).await;
    let credit = link.subscription().await;
    assert_eq!(credit.messages, 1_024);
    link.deliver(&mail, &[(0, 1, 1)]).await;
    let delivery = timeout(PATIENCE, mailbox.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(delivery.payload, "for later");
}

#[tokio::test]
async fn a_publisher_publishes_nothing_while_the_node_does_not_say_who_subscribes() {
    let (peer, owner, b, _) = scene();
    let (agent, mut link) = peer.connect(peer.options(&owner)).await;
    let name = channel();
    let opening = {
        let agent = agent.clone();
        tokio::spawn(async move { agent.publisher(&name).await })
    };
    let id = link.attached(&[b.id()]).await;
    let publisher = timeout(PATIENCE, opening).await.unwrap().unwrap().unwrap();
    let publishing = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.publish("one").await }
    });
    let (given, first) = take(&mut link, 1, 1).await;
    timeout(PATIENCE, publishing).await.unwrap().unwrap().unwrap();
    let session = |sent: &Sent| sent.batch.entries[sent.index].1.clone();
    // In the middle of it: for now it says nothing.
    link.refuse_submit(Reject { context: id.0, ..Reject::new(RejectCode::Overloaded) }).await;
    assert_eq!(link.attaches().await, id, "it asks again");
    let publishing = tokio::spawn(async move { publisher.publish("two").await });
    let sent = timeout(Duration::from_millis(300), link.batch()).await;
    assert!(sent.is_err(), "somebody may have left meanwhile, and has");
    link.members(&ChannelMembers { channel: id, version: 2, is_whole: true, joined: vec![], left: vec![] }).await;
    let (_, second) = take(&mut link, 0, 1).await;
    timeout(PATIENCE, publishing).await.unwrap().unwrap().unwrap();
    assert_eq!((given.len(), agent.stats().channel_sessions_begun), (1, 2), "who left does not read it");
    assert_ne!(session(&first[0])[..], session(&second[0])[..]);
}

#[tokio::test]
async fn a_channel_that_another_agent_says_it_owns_is_not_published_to_nor_read() {
    let (peer, owner, b, evil) = scene();
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let (subscription, handle) = subscribe(&agent, &mut link, SubscribeOptions::default(), 1).await;
    let leaving = tokio::spawn(subscription.leave());
    link.channel_frame().await;
    link.channel_left(&ChannelLeft::as_asked(handle)).await;
    timeout(PATIENCE, leaving).await.unwrap().unwrap();
    // A node makes an agent of the organization, and has it sign the next version.
    set_record(&peer, &evil, ChannelRecord { owner: evil.id(), ..record(&owner, 2, Subscribing::Open) });
    let name = channel();
    let (refused, ()) = tokio::join!(agent.subscribe_channel(&name, SubscribeOptions::default()), async {
        link.channel_subscription(1).await;
    });
    let refused = refused.unwrap_err();
    assert!(matches!(refused, ChannelError::Record { .. }) && refused.to_string().contains("owner"), "{refused}");
    // The application knows better, whoever it means.
    let (_, body) = link.channel_frame().await;
    let handle = ChannelLeave::parse(&body).unwrap().handle;
    link.channel_left(&ChannelLeft::as_asked(handle)).await;
    let named = |name: &str| SubscribeOptions { owner: Some(name.parse().unwrap()), ..SubscribeOptions::default() };
    for (owner, is_it) in [("acme/owner", false), ("acme/c", true)] {
        let (subscribed, _) =
            tokio::join!(agent.subscribe_channel(&name, named(owner)), async { link.channel_subscription(1).await });
        assert_eq!(subscribed.is_ok(), is_it, "{owner}");
        drop(subscribed);
        let (_, body) = link.channel_frame().await;
        let handle = ChannelLeave::parse(&body).unwrap().handle;
        link.channel_left(&ChannelLeft::as_asked(handle)).await;
    }
}

#[tokio::test]
async fn what_a_publisher_published_whom_the_owner_does_not_list_is_not_shown() {
    let (peer, owner, b, c) = scene();
    let (given, messages) = published(&peer, &c, &[b.id()], &["one", "two"]).await;
    let listed = |version, listed: Vec<AgentId>| ChannelRecord {
        publishing: Publishing::Listed(listed),
        ..record(&owner, version, Subscribing::Open)
    };
    set_record(&peer, &owner, listed(2, vec![]));
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let (mut subscription, handle) = subscribe(&agent, &mut link, SubscribeOptions::default(), 1).await;
    link.deliver(&given[0].batch, &[(given[0].index, 1, 0)]).await;
    link.deliver_channel(handle, &messages[0].batch, &[(messages[0].index, 1)]).await;
    let refused = error(&mut subscription).await;
    assert_eq!((refused.code(), refused.sequence()), (Some(RejectCode::ChannelNotAllowed), Some(1)), "{refused}");
    // A record that lists it is asked for when it publishes, and not a minute later.
    set_record(&peer, &owner, listed(3, vec![c.id()]));
    link.deliver_channel(handle, &messages[1].batch, &[(messages[1].index, 2)]).await;
    assert_eq!(next(&mut subscription).await.payload, "two");
}

#[tokio::test]
async fn a_publisher_whose_keys_cannot_be_had_now_is_looked_up_again() {
    let (peer, owner, b, c) = scene();
    let (given, messages) = published(&peer, &c, &[b.id()], &["one"]).await;
    let (_, of_owner) = published(&peer, &owner, &[], &["two"]).await;
    let _ = &of_owner;
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let options = SubscribeOptions {
        key_wait: Duration::from_millis(100),
        skip_unreadable: false,
        ..SubscribeOptions::default()
    };
    let (mut subscription, handle) = subscribe(&agent, &mut link, options, 1).await;
    peer.withhold(&[c.id()]);
    link.deliver_channel(handle, &messages[0].batch, &[(messages[0].index, 1)]).await;
    let patience = 3 * PATIENCE;
    let reported = timeout(patience, subscription.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!((reported.code(), reported.sequence()), (Some(RejectCode::UnknownSender), Some(1)), "{reported}");
    peer.withhold(&[]);
    link.deliver(&given[0].batch, &[(given[0].index, 1, 0)]).await;
    let message = timeout(patience, subscription.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(message.payload, "one");
    message.ack();
    assert_eq!(link.channel_ack().await.sequences, [1]);
}

#[tokio::test]
async fn a_subscription_that_could_not_be_ended_says_so_and_one_that_cannot_be_now_is_asked_again() {
    let (peer, _, b, _) = scene();
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let (subscription, handle) = subscribe(&agent, &mut link, SubscribeOptions::default(), 1).await;
    let ending = tokio::spawn(subscription.unsubscribe());
    let (_, body) = link.channel_frame().await;
    assert_eq!(ChannelLeave::parse(&body).unwrap().mode, LeaveMode::Unsubscribe);
    let busy = ChannelLeft { retry_after_ms: 10, ..ChannelLeft::because(handle, RejectCode::Overloaded) };
    link.channel_left(&busy).await;
    // It is read again, to be ended.
    assert_eq!(link.channel_subscription_again(1).await.handle, handle);
    let (frame_type, body) = link.channel_frame().await;
    assert_eq!(
        (frame_type, ChannelLeave::parse(&body).unwrap().mode),
        (FrameType::ChannelLeave, LeaveMode::Unsubscribe)
    );
    link.channel_left(&ChannelLeft::because(handle, RejectCode::SubscriptionReplaced)).await;
    let refused = timeout(PATIENCE, ending).await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.code(), Some(RejectCode::SubscriptionReplaced), "{refused}");
}

#[tokio::test]
async fn a_record_of_another_owner_is_not_gone_by_however_new_until_the_application_names_that_owner() {
    let (peer, owner, b, c) = scene();
    set_record(&peer, &owner, record(&owner, 1, Subscribing::Allowlist(vec![owner.id()])));
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let open = |named: Option<&Arc<AgentKeys>>| {
        let (agent, options) = (agent.clone(), PublisherOptions { owner: named.map(|keys| keys.name().clone()) });
        tokio::spawn(async move { agent.publisher_with(&channel(), options).await })
    };
    let opening = open(None);
    let id = link.attached(&[]).await;
    let publisher = timeout(PATIENCE, opening).await.unwrap().unwrap().unwrap();
    // The node has an agent of its own say that it is the owner now, and lets somebody in. That makes the record be looked at anew.
    set_record(&peer, &c, record(&c, 2, Subscribing::Open));
    let joined = vec![c.id()];
    link.members(&ChannelMembers { channel: id, version: 2, is_whole: false, joined, left: vec![] }).await;
    let until = tokio::time::Instant::now() + PATIENCE;
    let refused = loop {
        match timeout(PATIENCE, publisher.keys_given()).await.unwrap() {
            Err(error) => break error,
            Ok(()) => assert!(tokio::time::Instant::now() < until, "the record is looked at"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert!(matches!(refused, ChannelError::Record { .. }) && refused.to_string().contains("owner"), "{refused}");
    assert!(matches!(publisher.publish("x").await, Err(ChannelError::Record { .. })));
    link.detached().await;
    assert_eq!(agent.stats().channel_keys_given, 0);
    drop(publisher);
    // Nor when the channel is opened again, or another one is named.
    for named in [None, Some(&owner)] {
        let opening = open(named);
        link.attached(&[c.id()]).await;
        let refused = timeout(PATIENCE, opening).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(refused, ChannelError::Record { .. }), "{refused}");
        link.detached().await;
    }
    let opening = open(Some(&c));
    link.attached(&[]).await;
    let publisher = timeout(PATIENCE, opening).await.unwrap().unwrap().unwrap();
    assert_eq!(publisher.record().unwrap().owner, c.id());
}
