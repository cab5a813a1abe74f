//! Requests and answers against a node that does exactly what the script says: what is acknowledged when, and how answers come
//! through where the application has no room.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

mod peer;

use std::time::Duration;

use creto_agent::raw::seal_envelope;
use creto_agent::{
    Agent, AgentKeys, ConnectOptions, Kind, MessageId, ReceiveError, RejectCode, RequestError, ServeOptions,
};
use creto_envelope::deliver::{Credit, Nack};
use creto_envelope::envelope::EnvelopeHeader;
use creto_envelope::request::{RequestPayload, ResponsePayload};
use creto_envelope::{EnvelopeView, KeyId};
use peer::{Batch, Link, Peer, eventually, keys, name, record};
use rkyv::util::AlignedVec;

const LONG: Duration = Duration::from_secs(15);
const FAR_MS: u64 = 9_999_999_999_999;

/// A message of this kind that nobody's SDK made.
fn message(from: &AgentKeys, to: &AgentKeys, number: u8, kind: Kind, about: MessageId, payload: &[u8]) -> Batch {
    let id = MessageId::from_parts(1_760_000_000_000, [number; 10]);
    let key_id = KeyId(to.key_id().0);
    let mut header = EnvelopeHeader::sealed(from.id(), to.id(), key_id, id, 1_760_000_000_000, payload.len()).unwrap();
    (header.kind, header.correlation_id) = (kind as u8, about.0);
    Batch::of(from, vec![seal_envelope(&header, &record(to), payload).unwrap()])
}

fn answer(from: &AgentKeys, to: &AgentKeys, number: u8, about: MessageId, body: &str) -> Batch {
    message(from, to, number, Kind::Response, about, &ResponsePayload::Answered(body.as_bytes()).to_bytes())
}

fn header<R>(batch: &Batch, index: usize, read: impl FnOnce(&EnvelopeView<'_>) -> R) -> R {
    let mut bytes = AlignedVec::<8>::new();
    bytes.extend_from_slice(&batch.entries[index].1);
    read(&EnvelopeView::parse(&bytes).unwrap())
}

/// Takes the request that is submitted next, says that it is durable, and gives its id.
async fn take_request(link: &mut Link) -> MessageId {
    let batch = link.batch().await;
    link.acknowledge(batch.sequence, &[]).await;
    batch.ids()[0]
}

/// Has the agent send something and waits until it is acknowledged, so that whatever came before was handled.
async fn pass(agent: &Agent, link: &mut Link) {
    let me = agent.name().clone();
    let (sent, batch) = tokio::join!(agent.submit(&me, "mark", creto_agent::SendOptions::default()), link.batch());
    link.acknowledge(batch.sequence, &[]).await;
    sent.unwrap().await.unwrap();
}

#[tokio::test]
async fn a_request_goes_out_with_its_deadline_as_time_to_live_and_asks_for_no_notice() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let to = name("acme/b");
    for (timeout_ms, ttl_s) in [(1_500, 2), (2_000, 2), (5_000, 5), (5_001, 6)] {
        let mut asking = Box::pin(agent.request(&to, "?", Duration::from_millis(timeout_ms)));
        let batch = tokio::select! {
            answer = &mut asking => panic!("{answer:?}"),
            batch = link.batch() => batch,
        };
        header(&batch, 0, |view| {
            // Part of its time may have passed.
            assert!((ttl_s - 1..=ttl_s).contains(&view.header().ttl_s.to_native()), "{timeout_ms} ms");
            assert_eq!((view.kind(), view.wants_notice(), view.wants_receipt()), (Kind::Request, false, false));
            assert!(view.header().correlation_id == [0; 16]);
        });
        link.acknowledge(batch.sequence, &[]).await;
    }
    agent.close().await;
}

#[tokio::test]
async fn an_answer_is_acknowledged_when_its_request_has_it_or_is_given_up_and_never_before() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let mut mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    let to = name("acme/b");
    for (number, is_taken) in [(1, true), (2, false)] {
        let sequence = u64::from(number) * 10;
        let mut asking = Box::pin(agent.request(&to, "?", LONG));
        let id = tokio::select! {
            answer = &mut asking => panic!("{answer:?}"),
            id = take_request(&mut link) => id,
        };
        link.deliver(&answer(&b, &a, number, id, "yes"), &[(0, sequence, 0)]).await;
        // What comes behind it is shown and acknowledged, so it was handled itself.
        link.deliver(&Batch::make(&b, &a, &["x", "y"]), &[(usize::from(number) - 1, sequence + 1, 0)]).await;
        mailbox.next().await.unwrap().unwrap().ack();
        assert_eq!(link.consumer_acks(1).await, [sequence + 1], "nobody has looked at the answer");
        match is_taken {
            true => assert_eq!(asking.await.unwrap().payload, "yes"),
            false => drop(asking),
        }
        assert_eq!(link.consumer_acks(1).await, [sequence]);
    }
    let stats = agent.stats();
    assert_eq!((stats.responses, stats.late_responses, stats.delivered), (1, 1, 2));
    drop(mailbox);
    agent.close().await;
}

#[tokio::test]
async fn an_answer_that_comes_again_on_the_next_connection_is_taken_once() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let to = name("acme/b");
    let mut asking = Box::pin(agent.request(&to, "?", LONG));
    let id = tokio::select! {
        answer = &mut asking => panic!("{answer:?}"),
        id = take_request(&mut link) => id,
    };
    link.subscription().await;
    let yes = answer(&b, &a, 1, id, "yes");
    link.deliver(&yes, &[(0, 1, 0)]).await;
    eventually("it came", || agent.stats().verified == 1).await;
    link.cut();
    let mut link = peer.accept().await;
    link.subscription().await;
    link.deliver(&yes, &[(0, 1, 1)]).await;
    eventually("it came again", || agent.stats().verified == 2).await;
    assert_eq!(asking.await.unwrap().payload, "yes");
    assert_eq!(link.consumer_acks(1).await, [1]);
    let stats = agent.stats();
    assert_eq!((stats.responses, stats.late_responses, stats.duplicates_hidden), (1, 0, 1));
    agent.close().await;
}

#[tokio::test]
async fn a_full_window_is_lent_credit_for_answers_only_while_a_request_waits() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let options = ConnectOptions { window_messages: 2, ..peer.options(&a) };
    let (agent, mut link) = peer.connect(options).await;
    let mut mailbox = agent.subscribe().unwrap();
    assert_eq!(link.subscription().await.messages, 2);
    let texts = Batch::make(&b, &a, &["one", "two", "three", "four"]);
    link.deliver(&texts, &[(0, 1, 0), (1, 2, 0)]).await;
    let held = [mailbox.next().await.unwrap().unwrap(), mailbox.next().await.unwrap().unwrap()];
    pass(&agent, &mut link).await;
    let early = tokio::time::timeout(Duration::from_millis(100), link.credit()).await;
    assert!(early.is_err(), "nothing is lent while nobody asks: {early:?}");
    let to = name("acme/b");
    let mut asking = Box::pin(agent.request(&to, "?", LONG));
    let id = tokio::select! {
        answer = &mut asking => panic!("{answer:?}"),
        id = take_request(&mut link) => id,
    };
    let lent = link.credit().await;
    assert_eq!((lent.messages, lent.bytes), (creto_agent::limits::LENT_MESSAGES, 0), "bytes are left");
    // Two for which there is no room, and the answer behind them.
    link.deliver(&texts, &[(2, 3, 0), (3, 4, 0)]).await;
    link.deliver(&answer(&b, &a, 1, id, "yes"), &[(0, 5, 0)]).await;
    assert_eq!(asking.await.unwrap().payload, "yes");
    assert_eq!(link.consumer_acks(1).await, [5], "what was passed over is not acknowledged");
    assert_eq!((agent.stats().passed_over, agent.stats().delivered), (2, 2));
    // One of them is done: there is room, but a subscription is not renewed over what the application still works on.
    held[0].ack();
    assert_eq!(link.consumer_acks(1).await, [1]);
    assert_eq!(agent.stats().reconnects, 0);
    held[1].ack();
    assert_eq!(link.consumer_acks(1).await, [2], "before the connection ends");
    let mut link = peer.accept().await;
    assert_eq!(link.subscription().await.messages, 2);
    link.deliver(&texts, &[(2, 3, 1), (3, 4, 1)]).await;
    for (text, sequence) in [("three", 3), ("four", 4)] {
        let delivery = mailbox.next().await.unwrap().unwrap();
        assert_eq!(delivery.payload, text);
        delivery.ack();
        assert_eq!(link.consumer_acks(1).await, [sequence]);
    }
    let stats = agent.stats();
    assert_eq!((stats.renewals, stats.passed_over, stats.delivered), (1, 2, 4));
    drop(mailbox);
    agent.close().await;
}

#[tokio::test]
async fn without_a_request_nothing_beyond_the_window_is_asked_for() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let options = ConnectOptions { window_messages: 1, ..peer.options(&a) };
    let (agent, mut link) = peer.connect(options).await;
    let mut mailbox = agent.subscribe().unwrap();
    assert_eq!(link.subscription().await.messages, 1);
    link.deliver(&Batch::make(&b, &a, &["one"]), &[(0, 1, 0)]).await;
    let held = mailbox.next().await.unwrap().unwrap();
    let to = name("acme/b");
    {
        // A request that is over leaves the window as it was.
        let mut asking = Box::pin(agent.request(&to, "?", LONG));
        let id = tokio::select! {
            answer = &mut asking => panic!("{answer:?}"),
            id = take_request(&mut link) => id,
        };
        assert_eq!(link.credit().await.messages, creto_agent::limits::LENT_MESSAGES);
        link.deliver(&answer(&b, &a, 1, id, "yes"), &[(0, 2, 0)]).await;
        asking.await.unwrap();
    }
    assert_eq!(link.consumer_acks(1).await, [2]);
    held.ack();
    assert_eq!(link.consumer_acks(1).await, [1]);
    // 62 of what was lent are left, so nothing is granted until they are used up.
    pass(&agent, &mut link).await;
    assert_eq!((agent.stats().passed_over, agent.stats().renewals), (0, 0));
    drop(mailbox);
    agent.close().await;
}

#[tokio::test]
async fn a_request_is_acknowledged_only_when_its_answer_is_durable() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let server = agent.serve(ServeOptions::default(), |request| std::future::ready(Ok(request.payload))).unwrap();
    link.subscription().await;
    let payload = RequestPayload { deadline_ms: FAR_MS, body: b"echo" }.to_bytes();
    let request = message(&a, &b, 1, Kind::Request, MessageId::ZERO, &payload);
    link.deliver(&request, &[(0, 1, 0)]).await;
    let batch = link.batch().await;
    header(&batch, 0, |view| {
        assert_eq!((view.kind(), view.recipient()), (Kind::Response, a.id()));
        assert!(view.header().correlation_id == request.ids()[0].0 && !view.wants_notice());
        assert!(view.header().ttl_s.to_native() > 0);
        assert_eq!(view.priority(), creto_agent::Priority::High, "somebody waits for it");
    });
    // The connection breaks before the node has answered: request and answer go again, the answer under its own id.
    link.cut();
    let mut link = peer.accept().await;
    let again = link.batch().await;
    assert_eq!(again.ids(), batch.ids());
    link.subscription().await;
    link.deliver(&request, &[(0, 1, 1)]).await;
    eventually("the request is known", || agent.stats().duplicates_hidden == 1).await;
    assert_eq!((agent.stats().requests_answered, agent.stats().consumer_acknowledged), (0, 0));
    link.acknowledge(again.sequence, &[]).await;
    assert_eq!(link.consumer_acks(1).await, [1]);
    assert_eq!(agent.stats().requests_answered, 1);
    server.stop().await.unwrap();
    agent.close().await;
}

#[tokio::test]
async fn a_request_whose_sender_takes_no_answer_is_acknowledged_and_counted() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let server = agent.serve(ServeOptions::default(), |request| std::future::ready(Ok(request.payload))).unwrap();
    link.subscription().await;
    let payload = RequestPayload { deadline_ms: FAR_MS, body: b"echo" }.to_bytes();
    link.deliver(&message(&a, &b, 1, Kind::Request, MessageId::ZERO, &payload), &[(0, 1, 0)]).await;
    let batch = link.batch().await;
    link.acknowledge(batch.sequence, &[(batch.sequence, 0, RejectCode::PolicyDenied)]).await;
    assert_eq!(link.consumer_acks(1).await, [1]);
    let stats = agent.stats();
    assert_eq!((stats.responses_refused, stats.requests_answered), (1, 0));
    server.stop().await.unwrap();
    agent.close().await;
}

#[tokio::test]
async fn a_request_that_waits_is_lent_credit_on_the_next_connection_too() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let options = ConnectOptions { window_messages: 1, ..peer.options(&a) };
    let (agent, mut link) = peer.connect(options).await;
    let mut mailbox = agent.subscribe().unwrap();
    assert_eq!(link.subscription().await.messages, 1);
    link.deliver(&Batch::make(&b, &a, &["one"]), &[(0, 1, 0)]).await;
    let held = mailbox.next().await.unwrap().unwrap();
    let to = name("acme/b");
    let mut asking = Box::pin(agent.request(&to, "?", LONG));
    let id = tokio::select! {
        answer = &mut asking => panic!("{answer:?}"),
        id = take_request(&mut link) => id,
    };
    link.cut();
    let mut link = peer.accept().await;
    assert_eq!(link.subscription().await.messages, 0, "the window is full");
    assert_eq!(link.credit().await.messages, creto_agent::limits::LENT_MESSAGES);
    link.deliver(&answer(&b, &a, 1, id, "yes"), &[(0, 2, 0)]).await;
    assert_eq!(asking.await.unwrap().payload, "yes");
    // Whether the node had heard of the request before the cut is not what this is about.
    drop((held, mailbox, agent));
}

/// A server and a request that it is given, and its answer as it is submitted.
async fn answered(
    peer: &Peer,
    a: &AgentKeys,
    b: &AgentKeys,
    options: ConnectOptions,
) -> (Agent, creto_agent::Server, Link, Batch) {
    let (agent, mut link) = peer.connect(options).await;
    let server = agent.serve(ServeOptions::default(), |request| std::future::ready(Ok(request.payload))).unwrap();
    link.subscription().await;
    let payload = RequestPayload { deadline_ms: FAR_MS, body: b"echo" }.to_bytes();
    link.deliver(&message(a, b, 1, Kind::Request, MessageId::ZERO, &payload), &[(0, 1, 0)]).await;
    let batch = link.batch().await;
    (agent, server, link, batch)
}

#[tokio::test]
async fn an_answer_that_does_not_get_through_now_leaves_its_request_for_later() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    for code in [RejectCode::Overloaded, RejectCode::MailboxFull, RejectCode::RateLimited] {
        let options = ConnectOptions { retry_for: Duration::ZERO, ..peer.options(&b) };
        let (agent, server, mut link, batch) = answered(&peer, &a, &b, options).await;
        link.acknowledge(batch.sequence, &[(batch.sequence, 0, code)]).await;
        assert!(matches!(link.consumer_nacks(1).await[..], [(1, Nack::Later { .. })]), "{code}");
        assert_eq!(agent.stats().responses_refused, 0);
        server.stop().await.unwrap();
        agent.close().await;
    }
}

#[tokio::test]
async fn where_the_policy_allows_no_urgent_answer_it_goes_with_the_priority_of_its_request() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, server, mut link, batch) = answered(&peer, &a, &b, peer.options(&b)).await;
    link.acknowledge(batch.sequence, &[(batch.sequence, 0, RejectCode::PolicyPriority)]).await;
    let again = link.batch().await;
    header(&again, 0, |view| assert_eq!(view.priority(), creto_agent::Priority::Normal));
    link.acknowledge(again.sequence, &[]).await;
    assert_eq!(link.consumer_acks(1).await, [1]);
    assert_eq!((agent.stats().requests_answered, agent.stats().responses_refused), (1, 0));
    server.stop().await.unwrap();
    agent.close().await;
}

#[tokio::test]
async fn a_request_of_which_the_node_cannot_say_whether_it_has_it_waits_on_and_is_answered() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let options = ConnectOptions { retry_for: Duration::ZERO, ..peer.options(&a) };
    let (agent, mut link) = peer.connect(options).await;
    let to = name("acme/b");
    let mut asking = Box::pin(agent.request(&to, "?", LONG));
    let batch = tokio::select! {
        answer = &mut asking => panic!("{answer:?}"),
        batch = link.batch() => batch,
    };
    // Its disk failed while it wrote.
    link.acknowledge(batch.sequence, &[(batch.sequence, 0, RejectCode::ShardFenced)]).await;
    tokio::select! {
        answer = &mut asking => panic!("{answer:?}"),
        _ = link.subscription() => {}
    }
    // Answered behind it, so both sides have heard of it.
    tokio::select! {
        answer = &mut asking => panic!("{answer:?}"),
        () = pass(&agent, &mut link) => {}
    }
    link.deliver(&answer(&b, &a, 1, batch.ids()[0], "yes"), &[(0, 1, 0)]).await;
    assert_eq!(asking.await.unwrap().payload, "yes");
    agent.close().await;
}

#[tokio::test]
async fn what_ends_receiving_ends_the_requests_that_wait_and_those_that_come() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let to = name("acme/b");
    let mut asking = Box::pin(agent.request(&to, "?", LONG));
    tokio::select! {
        answer = &mut asking => panic!("{answer:?}"),
        _ = take_request(&mut link) => {}
    }
    link.subscription().await;
    link.refuse_deliver(RejectCode::SubscriptionReplaced).await;
    for error in [asking.await.unwrap_err(), agent.request(&to, "?", LONG).await.unwrap_err()] {
        assert!(matches!(error, RequestError::Receiving(ReceiveError::Replaced)), "{error:?}");
    }
    agent.close().await;
}

#[tokio::test]
async fn an_answer_of_a_later_version_is_told_to_its_request_and_to_nobody_else() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let to = name("acme/b");
    let mut asking = Box::pin(agent.request(&to, "?", LONG));
    let id = tokio::select! {
        answer = &mut asking => panic!("{answer:?}"),
        id = take_request(&mut link) => id,
    };
    assert_eq!(link.subscription().await, Credit { messages: 1_024, bytes: 4 * 1_024 * 1_024 });
    link.deliver(&message(&b, &a, 1, Kind::Response, id, b"\xffRS\x02 whatever"), &[(0, 1, 0)]).await;
    let error = asking.await.unwrap_err();
    assert!(matches!(&error, RequestError::Unreadable { from, .. } if from == "acme/b"), "{error:?}");
    assert_eq!(link.consumer_acks(1).await, [1]);
    // What answers no request and only looks as if it did is the application's.
    let mut mailbox = agent.subscribe().unwrap();
    link.deliver(&message(&b, &a, 2, Kind::Response, id, b"\xffRS"), &[(0, 2, 0)]).await;
    link.deliver(&message(&b, &a, 3, Kind::Response, id, b"CRS of an application"), &[(0, 3, 0)]).await;
    for (payload, sequence) in [(&b"\xffRS"[..], 2), (b"CRS of an application", 3)] {
        let delivery = mailbox.next().await.unwrap().unwrap();
        assert_eq!(delivery.payload, payload);
        delivery.ack();
        assert_eq!(link.consumer_acks(1).await, [sequence]);
    }
    assert_eq!(agent.stats().late_responses, 0);
    drop(mailbox);
    agent.close().await;
}
