//! The SDK against a node that does exactly what the script says, over real QUIC on the loopback.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

mod peer;

use std::sync::atomic::Ordering;
use std::time::Duration;

use creto_agent::{
    Agent, ConnectError, LookupError, NodeCertificate, ReceiveError, RejectCode, SendError, SendOptions,
};
use creto_envelope::batch::BATCH_HEADER_BYTES;
use creto_envelope::deliver::{DELIVERED_MESSAGE_HEADER_BYTES, Nack};
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::submit::WHOLE_BATCH;
use peer::{Batch, PATIENCE, Peer, Prekeys, eventually, keys, name, record};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

/// Submits without waiting for the answers.
async fn submit(agent: &Agent, payloads: std::ops::Range<u32>) -> Vec<creto_agent::PendingSend> {
    let mut pending = Vec::new();
    for n in payloads {
        pending.push(agent.submit(&name("acme/b"), n.to_string(), SendOptions::default()).await.unwrap());
    }
    pending
}

#[tokio::test]
async fn a_send_resolves_when_the_node_acknowledges_it_and_not_before() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let sending = tokio::spawn({
        let agent = agent.clone();
        async move { agent.send(&name("acme/b"), "hello").await }
    });
    let batch = link.batch().await;
    assert_eq!((batch.sequence, batch.entries.len()), (1, 1));
    assert!(!sending.is_finished());
    link.acknowledge(1, &[]).await;
    let receipt = sending.await.unwrap().unwrap();
    assert_eq!([receipt.message_id], batch.ids()[..]);
    assert_eq!((agent.stats().submitted, agent.stats().acknowledged, agent.stats().batches), (1, 1, 1));
    agent.close().await;
    assert!(matches!(link.connection.closed().await, quinn::ConnectionError::ApplicationClosed(_)));
}

#[tokio::test]
async fn one_refused_message_of_a_batch_fails_alone_with_the_reason() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let pending = submit(&agent, 0..3).await;
    let (_, last) = link.ids(3).await;
    link.acknowledge(last, &[(last, 0, RejectCode::PolicyDenied)]).await;
    let mut failed = Vec::new();
    for answer in pending {
        failed.extend(answer.await.err());
    }
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].code(), Some(RejectCode::PolicyDenied));
    assert!(failed[0].to_string().contains("policy does not allow"), "{}", failed[0]);
    assert_eq!(agent.stats().refused.get(&400), Some(&1));
}

#[tokio::test]
async fn what_was_in_flight_when_the_connection_broke_goes_again_under_the_same_ids_and_in_order() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let pending = submit(&agent, 0..500).await;
    let expected: Vec<_> = pending.iter().map(creto_agent::PendingSend::message_id).collect();
    let first = link.batch().await;
    link.acknowledge(1, &[]).await;
    eventually("the first batch is answered", || agent.stats().acknowledged == first.entries.len() as u64).await;
    let second = link.batch().await;
    link.cut();

    let mut link = peer.accept().await;
    let (ids, last) = link.ids(500 - first.entries.len()).await;
    assert_eq!(ids, expected[first.entries.len()..]);
    assert_eq!(second.ids(), ids[..second.entries.len()], "the same ids as before");
    // The node had the second batch: it says so, and that is success.
    link.acknowledge(last, &[(1, WHOLE_BATCH, RejectCode::Duplicate)]).await;
    for answer in pending {
        answer.await.unwrap();
    }
    let stats = agent.stats();
    assert_eq!((stats.acknowledged, stats.reconnects), (500, 1));
    assert!(stats.acknowledged_again > 0 && stats.resent >= second.entries.len() as u64);
}

#[tokio::test]
async fn the_bytes_of_an_envelope_never_change_over_a_resend() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let pending = submit(&agent, 0..1).await;
    let before = link.batch().await;
    link.cut();
    let mut link = peer.accept().await;
    let after = link.batch().await;
    assert_eq!(before.entries[0].1, after.entries[0].1);
    assert_ne!(before.header, after.header, "the batch is a new one, signed now");
    link.acknowledge(1, &[]).await;
    for answer in pending {
        answer.await.unwrap();
    }
}

#[tokio::test]
async fn sends_wait_when_too_much_is_in_flight() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let mut options = peer.options(&a);
    options.in_flight_messages = 8;
    let (agent, mut link) = peer.connect(options).await;
    let pending = submit(&agent, 0..8).await;
    let to = name("acme/b");
    let ninth = agent.submit(&to, "9", SendOptions::default());
    assert!(timeout(Duration::from_millis(100), ninth).await.is_err(), "the ninth waits");
    let (_, last) = link.ids(8).await;
    link.acknowledge(last, &[]).await;
    for answer in pending {
        answer.await.unwrap();
    }
    let ninth = submit(&agent, 9..10).await.pop().unwrap();
    link.ids(1).await;
    link.acknowledge(last + 1, &[]).await;
    ninth.await.unwrap();
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_says_that_the_message_may_still_be_accepted() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let options = SendOptions { deadline: Some(Duration::from_millis(150)), ..SendOptions::default() };
    let error = agent.send_with(&name("acme/b"), "late", options).await.unwrap_err();
    assert!(matches!(error, SendError::TimedOut { .. }) && error.to_string().contains("may still be accepted"));
    link.ids(1).await;
}

#[tokio::test]
async fn a_message_that_is_refused_for_now_is_sent_again_under_its_id() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let pending = submit(&agent, 0..1).await.pop().unwrap();
    let (first, _) = link.ids(1).await;
    link.acknowledge(1, &[(1, 0, RejectCode::MailboxFull)]).await;
    let (again, _) = link.ids(1).await;
    assert_eq!(first, again);
    link.acknowledge(2, &[]).await;
    pending.await.unwrap();
}

#[tokio::test]
async fn a_recipient_with_new_keys_is_sealed_to_again() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let sending = tokio::spawn({
        let agent = agent.clone();
        async move { agent.send(&name("acme/b"), "hello").await }
    });
    link.ids(1).await;
    let renewed = keys("acme/b");
    peer.set_record(b.id(), renewed.signed_record(2, 0, u64::MAX));
    link.acknowledge(1, &[(1, 0, RejectCode::UnknownRecipientKey)]).await;
    let batch = link.batch().await;
    assert_eq!(batch.entries[0].1[112..128], renewed.key_id().0);
    link.acknowledge(2, &[]).await;
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_unknown_recipient_and_a_false_record_are_refused_before_anything_is_sent() {
    let (a, b, thief) = (keys("acme/a"), keys("acme/b"), keys("acme/b"));
    let peer = Peer::start(&[&a]);
    let (agent, _link) = peer.connect(peer.options(&a)).await;
    let error = agent.send(&name("acme/b"), "hello").await.unwrap_err();
    assert_eq!(error.code(), Some(RejectCode::UnknownAgent));
    assert!(error.to_string().contains("acme/b") && error.to_string().contains("check the name"), "{error}");

    // The right name and id, another's encryption key, the owner's signatures.
    let mut false_record = record(&b);
    false_record.record.x25519 = record(&thief).record.x25519;
    false_record.record.ml_kem_768 = record(&thief).record.ml_kem_768;
    peer.set_record(b.id(), false_record);
    let error = agent.send(&name("acme/b"), "hello").await.unwrap_err();
    assert!(matches!(error, SendError::Recipient { source: LookupError::Invalid { .. }, .. }), "{error}");
    assert_eq!(agent.stats().submitted, 0);
}

#[tokio::test]
async fn deliveries_are_opened_in_order_and_acknowledged_together() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let mut mailbox = agent.subscribe().unwrap();
    assert!(matches!(agent.subscribe(), Err(ReceiveError::AlreadySubscribed)));
    assert_eq!(link.subscription().await.messages, 1_024);
    let batch = Batch::make(&a, &b, &["one", "two", "three", "four", "five"]);
    link.deliver(&batch, &[(0, 10, 0), (1, 11, 0)]).await;
    link.deliver(&batch, &[(2, 12, 0), (3, 13, 2), (4, 14, 0)]).await;
    let mut held = Vec::new();
    for expected in ["one", "two", "three", "four", "five"] {
        let delivery = mailbox.next().await.unwrap().unwrap();
        assert_eq!(delivery.payload, expected);
        assert_eq!((delivery.from.as_str(), delivery.from_id), ("acme/a", a.id()));
        held.push(delivery);
    }
    assert_eq!((held[3].attempt, held[3].mailbox_sequence), (2, 13));
    assert_eq!(held.iter().map(|d| d.message_id).collect::<Vec<_>>(), batch.ids());
    held.iter().for_each(creto_agent::Delivery::ack);
    held[0].ack();
    assert_eq!(link.consumer_acks(5).await, [10, 11, 12, 13, 14]);
    let stats = agent.stats();
    assert_eq!((stats.received, stats.verified, stats.delivered, stats.consumer_acknowledged), (5, 5, 5, 5));
    assert_eq!(stats.rejected_total(), 0);
}

#[tokio::test]
async fn a_busy_application_acknowledges_in_few_frames() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let mut mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    // A quarter of the window would bring credit, which does not wait.
    let batch = Batch::make(&a, &b, &["x"; 200]);
    let messages: Vec<_> = (0..200).map(|index| (index, index as u64 + 1, 0)).collect();
    link.deliver(&batch, &messages).await;
    let first = mailbox.next().await.unwrap().unwrap();
    let began = Instant::now();
    first.ack();
    for _ in 1..200 {
        mailbox.next().await.unwrap().unwrap().ack();
        // Whoever writes the frames has its turn.
        for _ in 0..4 {
            yield_now().await;
        }
    }
    let frames = link.consumer_ack_frames(200).await;
    assert_eq!(frames.concat(), (1..=200).collect::<Vec<u64>>(), "all, in order, each once");
    let rests = usize::try_from(began.elapsed().as_millis()).unwrap() / 4;
    assert!(frames.len() <= rests + 2, "{} frames in {rests} rests", frames.len());
}

#[tokio::test]
async fn what_the_application_has_or_holds_is_hidden_when_it_comes_again_and_what_it_dropped_is_not() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let mut mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    let batch = Batch::make(&a, &b, &["acknowledged", "held", "dropped"]);
    link.deliver(&batch, &[(0, 1, 0), (1, 2, 0), (2, 3, 0)]).await;
    mailbox.next().await.unwrap().unwrap().ack();
    let held = mailbox.next().await.unwrap().unwrap();
    drop(mailbox.next().await.unwrap().unwrap());
    link.consumer_acks(1).await;
    link.cut();

    // The node has lost the acknowledgement.
    let mut link = peer.accept().await;
    let credit = link.subscription().await;
    assert_eq!(credit.messages, 1_023, "one is held");
    link.deliver(&batch, &[(0, 1, 1), (1, 2, 1), (2, 3, 1)]).await;
    let again = mailbox.next().await.unwrap().unwrap();
    assert_eq!((&again.payload[..], again.attempt), (&b"dropped"[..], 1));
    assert_eq!(link.consumer_acks(1).await, [1], "the node is told again");
    held.ack();
    again.ack();
    let mut acks = link.consumer_acks(2).await;
    acks.sort_unstable();
    assert_eq!(acks, [2, 3], "what was held is acknowledged on the new connection");
    assert_eq!(agent.stats().duplicates_hidden, 2);
}

#[tokio::test]
async fn credit_goes_back_as_the_application_finishes_and_not_as_frames_arrive() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let mut options = peer.options(&b);
    options.window_messages = 8;
    let (agent, mut link) = peer.connect(options).await;
    let mut mailbox = agent.subscribe().unwrap();
    assert_eq!(link.subscription().await.messages, 8);
    let batch = Batch::make(&a, &b, &["x"; 8]);
    link.deliver(&batch, &[0, 1, 2, 3, 4, 5, 6, 7].map(|n| (n, n as u64, 0))).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(mailbox.next().await.unwrap().unwrap());
    }
    assert!(timeout(Duration::from_millis(100), link.credit()).await.is_err(), "nothing is finished yet");
    let envelope_bytes = u32::try_from(batch.entries[0].1.len()).unwrap();
    drop(held.drain(..2));
    let credit = link.credit().await;
    assert_eq!((credit.messages, credit.bytes), (2, 2 * envelope_bytes));
    drop(held);
    assert_eq!(link.credit().await.messages, 6);
}

#[tokio::test]
async fn a_tampered_delivery_is_reported_and_neither_shown_nor_acknowledged() {
    let (a, b, other) = (keys("acme/a"), keys("acme/b"), keys("acme/other"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let mut incidents = agent.incidents();
    let mut mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    let batch = |text: &str| Batch::make(&a, &b, &[text]);
    let envelope_at = FRAME_HEADER_BYTES + 8 + BATCH_HEADER_BYTES + DELIVERED_MESSAGE_HEADER_BYTES;

    // A bit of the ciphertext, of a signature, of the salt: the node cannot change a thing.
    let flips = [
        (envelope_at + 160 + 1_120 + 2, RejectCode::BatchRoot),
        (FRAME_HEADER_BYTES + 8 + 72 + 5, RejectCode::BadSignature),
        (FRAME_HEADER_BYTES + 8 + 136 + 5, RejectCode::BadSignature),
        (FRAME_HEADER_BYTES + 8 + BATCH_HEADER_BYTES + 16, RejectCode::BatchRoot),
        (envelope_at, RejectCode::EnvelopeVersion),
    ];
    for (n, (at, code)) in flips.into_iter().enumerate() {
        link.deliver_changed(&batch(&n.to_string()), &[(0, n as u64, 0)], |frame| frame[at] ^= 1).await;
        let incident = timeout(PATIENCE, incidents.next()).await.unwrap().unwrap();
        assert_eq!((incident.code, incident.mailbox_sequence), (code, n as u64));
    }
    // Sealed to someone else's key under my id; sealed for somebody else; signed by somebody else.
    let id = batch("?").ids()[0];
    let mut header = creto_envelope::EnvelopeHeader::sealed(a.id(), b.id(), b.key_id(), id, 0, 1).unwrap();
    let wrong_key = creto_agent::raw::seal_envelope(&header, &record(&other), b"x").unwrap();
    header.recipient = other.id().0;
    let wrong_recipient = creto_agent::raw::seal_envelope(&header, &record(&b), b"x").unwrap();
    header.recipient = b.id().0;
    header.sender = other.id().0;
    let wrong_sender = creto_agent::raw::seal_envelope(&header, &record(&b), b"x").unwrap();
    let wrong = [
        (wrong_key, RejectCode::EnvelopeSeal),
        (wrong_recipient, RejectCode::NotMailboxOwner),
        (wrong_sender, RejectCode::SenderMismatch),
    ];
    for (envelope, code) in wrong {
        link.deliver(&Batch::of(&a, vec![envelope]), &[(0, 90, 0)]).await;
        assert_eq!(timeout(PATIENCE, incidents.next()).await.unwrap().unwrap().code, code);
    }

    // What follows is not held up, and is all that is acknowledged.
    link.deliver(&batch("good"), &[(0, 99, 0)]).await;
    let good = mailbox.next().await.unwrap().unwrap();
    assert_eq!(good.payload, "good");
    good.ack();
    assert_eq!(link.consumer_acks(1).await, [99]);
    let stats = agent.stats();
    assert_eq!((stats.rejected_total(), stats.verified, stats.delivered), (8, 1, 1));
    assert_eq!(stats.rejected.get(&RejectCode::BadSignature), Some(&2));
}

#[tokio::test]
async fn what_the_application_refuses_is_told_once_where_it_came_and_shown_again_when_it_comes_again() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let mut mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    let batch = Batch::make(&a, &b, &["later", "after a while", "never"]);
    link.deliver(&batch, &[(0, 10, 0), (1, 11, 0), (2, 12, 0)]).await;
    let [later, while_, never] =
        [mailbox.next().await, mailbox.next().await, mailbox.next().await].map(|d| d.unwrap().unwrap());
    later.nack();
    while_.nack_after(Duration::from_micros(1_500_001));
    never.reject(7);
    let expect =
        [(10, Nack::Later { delay_ms: 0 }), (11, Nack::Later { delay_ms: 1_501 }), (12, Nack::Never { reason: 7 })];
    assert_eq!(link.consumer_nacks(3).await, expect);
    // What was said is said, whatever becomes of the delivery.
    later.ack();
    drop((later, while_, never));
    link.deliver(&batch, &[(0, 10, 1)]).await;
    let again = mailbox.next().await.unwrap().unwrap();
    assert_eq!((&again.payload[..], again.attempt), (&b"later"[..], 1));
    // On another connection it means nothing: there it comes again by itself.
    link.connection.close(0_u32.into(), b"");
    let mut link = peer.accept().await;
    link.subscription().await;
    again.nack();
    link.deliver(&batch, &[(0, 10, 2), (2, 12, 1)]).await;
    let third = [mailbox.next().await, mailbox.next().await].map(|delivery| delivery.unwrap().unwrap());
    assert_eq!(third.each_ref().map(|delivery| &delivery.payload[..]), [&b"later"[..], b"never"]);
    third[0].ack();
    third[1].reject(0);
    assert_eq!(link.consumer_acks(1).await, [10]);
    assert_eq!(link.consumer_nacks(1).await, [(12, Nack::Never { reason: 0 })]);
    let stats = agent.stats();
    assert_eq!((stats.consumer_acknowledged, stats.consumer_nacked, stats.consumer_rejected), (1, 3, 2));
}

#[tokio::test]
async fn an_incident_can_be_sent_to_the_dead_letters() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let mut incidents = agent.incidents();
    let _mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    link.deliver_changed(&Batch::make(&a, &b, &["xx"]), &[(0, 8, 0)], |frame| frame[FRAME_HEADER_BYTES + 80] ^= 1)
        .await;
    let incident = timeout(PATIENCE, incidents.next()).await.unwrap().unwrap();
    assert!(incident.reject(3));
    assert_eq!(link.consumer_nacks(1).await, [(8, Nack::Never { reason: 3 })]);
}

#[tokio::test]
async fn an_incident_can_be_discarded_when_the_application_says_so() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let mut incidents = agent.incidents();
    let _mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    link.deliver_changed(&Batch::make(&a, &b, &["xx"]), &[(0, 8, 0)], |frame| frame[FRAME_HEADER_BYTES + 80] ^= 1)
        .await;
    let incident = timeout(PATIENCE, incidents.next()).await.unwrap().unwrap();
    assert!(incident.discard());
    assert_eq!(link.consumer_acks(1).await, [8]);
}

#[tokio::test]
async fn a_sender_whose_record_is_false_is_refused() {
    let (a, b, thief) = (keys("acme/a"), keys("acme/b"), keys("acme/a"));
    let peer = Peer::start(&[&a, &b]);
    // The thief's keys under a's name, with a's signatures.
    let mut false_record = record(&a);
    false_record.record.ed25519 = record(&thief).record.ed25519;
    false_record.record.ml_dsa_65 = record(&thief).record.ml_dsa_65;
    peer.set_record(a.id(), false_record);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let mut incidents = agent.incidents();
    let mut mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    link.deliver(&Batch::make(&thief, &b, &["I am a"]), &[(0, 1, 0)]).await;
    assert_eq!(timeout(PATIENCE, incidents.next()).await.unwrap().unwrap().code, RejectCode::BadSignature);
    assert!(timeout(Duration::from_millis(50), mailbox.next()).await.is_err());
}

#[tokio::test]
async fn another_connection_of_the_same_agent_ends_the_subscription_and_nothing_else() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let mut mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    link.refuse_deliver(RejectCode::SubscriptionReplaced).await;
    assert!(matches!(mailbox.next().await, Some(Err(ReceiveError::Replaced))));
    assert!(mailbox.next().await.is_none());
    let sending = tokio::spawn(async move { agent.send(&name("acme/a"), "still here").await });
    link.ids(1).await;
    link.acknowledge(1, &[]).await;
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn dropping_a_subscription_keeps_what_it_has_not_handed_out() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let mut mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    link.deliver(&Batch::make(&a, &b, &["one", "two"]), &[(0, 1, 0), (1, 2, 0)]).await;
    assert_eq!(mailbox.next().await.unwrap().unwrap().payload, "one");
    drop(mailbox);
    assert_eq!(agent.receive().await.unwrap().payload, "two");
}

#[tokio::test]
async fn a_login_that_the_node_refuses_says_why() {
    let a = keys("acme/a");
    let peer = Peer::start(&[&a]);
    let (refused, ()) = tokio::join!(Agent::connect(peer.options(&a)), peer.refuse(RejectCode::LoginUnknownAgent));
    let error = refused.unwrap_err();
    assert_eq!(error.code(), Some(RejectCode::LoginUnknownAgent));
    assert!(error.to_string().contains("creto agent create"), "{error}");
}

#[tokio::test]
async fn a_revoked_agent_gives_up_and_tells_everyone_who_waits() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let mut mailbox = agent.subscribe().unwrap();
    let pending = submit(&agent, 0..1).await.pop().unwrap();
    link.ids(1).await;
    link.cut();
    peer.refuse(RejectCode::AgentRevoked).await;
    let error = pending.await.unwrap_err();
    assert_eq!(error.code(), Some(RejectCode::AgentRevoked), "{error}");
    assert!(matches!(mailbox.next().await, Some(Err(ReceiveError::Disconnected(_)))));
    let later = agent.send(&name("acme/b"), "later").await.unwrap_err();
    assert!(matches!(later, SendError::Disconnected(_) | SendError::Closed | SendError::Recipient { .. }), "{later}");
}

#[tokio::test]
async fn a_node_with_another_certificate_is_not_talked_to() {
    let a = keys("acme/a");
    let (peer, other) = (Peer::start(&[&a]), Peer::start(&[&a]));
    let mut options = peer.options(&a);
    options.certificate = other.certificate.clone();
    let listening = tokio::spawn(async move { peer.accept().await });
    let error = Agent::connect(options).await.unwrap_err();
    assert!(matches!(error, ConnectError::Certificate { .. }), "{error}");
    listening.abort();
    assert!(NodeCertificate::from_pem(b"no certificate").is_err());
}

#[tokio::test]
async fn nobody_there_is_said_in_time_with_the_address() {
    let a = keys("acme/a");
    let peer = Peer::start(&[&a]);
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut options = peer.options(&a);
    options.node = silent.local_addr().unwrap();
    options.connect_timeout = Duration::from_millis(300);
    let error = Agent::connect(options).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains(&silent.local_addr().unwrap().to_string()));
}

#[tokio::test]
async fn closing_waits_for_the_answers_and_sends_the_last_acknowledgements() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let mut mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    link.deliver(&Batch::make(&a, &b, &["last"]), &[(0, 77, 0)]).await;
    let delivery = mailbox.next().await.unwrap().unwrap();
    let sent = agent.submit(&name("acme/a"), "bye", SendOptions::default()).await.unwrap();
    delivery.ack();
    let closing = tokio::spawn(agent.close());
    link.ids(1).await;
    assert!(!closing.is_finished());
    link.acknowledge(1, &[]).await;
    sent.await.unwrap();
    assert_eq!(link.consumer_acks(1).await, [77]);
    closing.await.unwrap();
}

#[tokio::test]
async fn a_payload_above_the_limit_is_refused_here() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let error = agent.send(&name("acme/b"), vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert!(matches!(error, SendError::TooLarge { bytes: 1_048_577 }));
    let sending = tokio::spawn(async move { agent.send(&name("acme/b"), vec![7; 1 << 20]).await });
    assert_eq!(link.batch().await.entries[0].1.len(), 160 + 1_120 + (1 << 20) + 16);
    link.acknowledge(1, &[]).await;
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn with_a_node_that_knows_no_prekeys_messages_go_to_the_keys_of_records_and_connections_last() {
    let (a, b, c) = (keys("acme/a"), keys("acme/b"), keys("acme/c"));
    for (prekeys, reconnects) in [(Prekeys::Unexpected, 0), (Prekeys::UnknownType, 1)] {
        let mut peer = Peer::start(&[&a, &b, &c]);
        peer.prekeys = prekeys;
        let (agent, mut link) = peer.connect(peer.options(&a)).await;
        for (n, to) in ["acme/b", "acme/c"].into_iter().enumerate() {
            let sending = tokio::spawn({
                let agent = agent.clone();
                async move { agent.send(&name(to), "hello").await }
            });
            if n == 0 && reconnects == 1 {
                // It ends the connection in the turn in which it refuses, and is not asked on the next one.
                link = peer.accept().await;
            }
            let batch = link.batch().await;
            link.acknowledge(batch.sequence, &[]).await;
            sending.await.unwrap().unwrap();
        }
        assert_eq!(peer.claims.load(Ordering::Relaxed), 1, "{prekeys:?}");
        assert_eq!(agent.stats().reconnects, reconnects);
        agent.close().await;
    }
}

#[tokio::test]
async fn a_question_about_dead_letters_that_is_refused_says_nothing_about_prekeys() {
    let (a, b, c) = (keys("acme/a"), keys("acme/b"), keys("acme/c"));
    let mut peer = Peer::start(&[&a, &b, &c]);
    peer.prekeys = Prekeys::RefusesLetters;
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let letters = tokio::spawn({
        let agent = agent.clone();
        async move { agent.dead_letters(0, 1).await }
    });
    eventually("it is asked before anything about prekeys is", || peer.letters.load(Ordering::Relaxed)).await;
    let sending = tokio::spawn({
        let agent = agent.clone();
        async move { agent.send(&name("acme/b"), "hello").await }
    });
    let batch = link.batch().await;
    link.acknowledge(batch.sequence, &[]).await;
    sending.await.unwrap().unwrap();
    letters.await.unwrap().unwrap_err();
    // The claim was answered, and the next session claims again.
    let sending = tokio::spawn({
        let agent = agent.clone();
        async move { agent.send(&name("acme/c"), "hello").await }
    });
    let batch = link.batch().await;
    link.acknowledge(batch.sequence, &[]).await;
    sending.await.unwrap().unwrap();
    assert_eq!(peer.claims.load(Ordering::Relaxed), 2);
}
