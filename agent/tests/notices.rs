//! Notices of a node that does exactly what the script says.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

mod peer;

use creto_agent::{AgentId, ConnectOptions, Kind, MessageId, NoticeCause, ReceiveError, SendOptions};
use creto_envelope::notice::{NOTICE_BODY_BYTES, NoticeBody};
use creto_envelope::{EnvelopeView, deliver::Credit};
use peer::{Batch, Peer, eventually, keys, name};

fn body(recipient: AgentId, number: u8, cause: NoticeCause) -> NoticeBody {
    let message_id = MessageId::from_parts(1_760_000_000_000, [number; 10]);
    NoticeBody { recipient, message_id, expired_at_ms: 1_760_000_001_000, cause }
}

#[tokio::test]
async fn a_notice_is_shown_once_and_acknowledged_when_the_application_has_it() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let mut notices = agent.notices().unwrap();
    assert!(matches!(agent.notices(), Err(ReceiveError::AlreadySubscribed)));
    let _mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    let first = body(b.id(), 1, NoticeCause::TimeToLive);
    let unknown = body(AgentId([7; 16]), 2, NoticeCause::Retention);
    link.notice(10, 0, &first).await;
    link.notice(11, 4, &unknown).await;
    // The node was killed between the notice and the settle: it says the same thing again, under another sequence.
    link.notice(12, 0, &first).await;
    let notice = notices.next().await.unwrap();
    assert_eq!((notice.to.as_ref(), notice.to_id), (Some(&name("acme/b")), b.id()));
    assert_eq!((notice.message_id, notice.cause, notice.attempt), (first.message_id, NoticeCause::TimeToLive, 0));
    assert_eq!(notice.expired_at_ms, first.expired_at_ms);
    let other = notices.next().await.unwrap();
    assert_eq!((other.to.as_ref(), other.to_id, other.attempt), (None, unknown.recipient, 4));
    notice.ack();
    notice.ack();
    assert_eq!(link.consumer_acks(1).await, [12], "where it came last");
    other.ack();
    assert_eq!(link.consumer_acks(1).await, [11]);
    // Once more, after it was acknowledged.
    link.notice(13, 0, &first).await;
    assert_eq!(link.consumer_acks(1).await, [13]);
    // The same message, for another reason: nobody has said that before.
    link.notice(14, 0, &body(b.id(), 1, NoticeCause::Retention)).await;
    assert_eq!(notices.next().await.unwrap().cause, NoticeCause::Retention);
    let stats = agent.stats();
    assert_eq!((stats.notices, stats.notices_unheard, stats.duplicates_hidden, stats.received), (3, 0, 2, 0));
    agent.close().await;
    assert!(notices.next().await.is_none());
}

/// Whom a notice is about is asked beside the stream, which goes on meanwhile.
#[tokio::test]
async fn a_notice_about_somebody_whom_nobody_knows_yet_holds_neither_deliveries_nor_acknowledgements() {
    let (a, b, slow) = (keys("acme/a"), keys("acme/b"), keys("acme/slow"));
    let peer = Peer::start(&[&a, &b, &slow]);
    peer.withhold(&[slow.id()]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let (mut notices, mut mailbox) = (agent.notices().unwrap(), agent.subscribe().unwrap());
    link.subscription().await;
    link.notice(1, 0, &body(slow.id(), 1, NoticeCause::TimeToLive)).await;
    // More of them than are asked about at a time.
    for number in 2..100 {
        link.notice(number.into(), 0, &body(b.id(), number, NoticeCause::TimeToLive)).await;
    }
    let batch = Batch::make(&b, &a, &["first", "second"]);
    for index in 0..2 {
        link.deliver(&batch, &[(index, 100 + index as u64, 0)]).await;
        mailbox.next().await.unwrap().unwrap().ack();
        assert_eq!(link.consumer_acks(1).await, [100 + index as u64]);
    }
    assert_eq!(agent.stats().notices, 0, "they keep their order");
    peer.withhold(&[]);
    for number in 1..100 {
        let notice = notices.next().await.unwrap();
        assert_eq!(notice.message_id, body(b.id(), number, NoticeCause::TimeToLive).message_id);
        assert_eq!(notice.to, Some(name(if number == 1 { "acme/slow" } else { "acme/b" })));
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_is_shown_again_on_the_next_connection() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let mut notices = agent.notices().unwrap();
    let _mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    for (sequence, number) in [(1, 1), (2, 2)] {
        link.notice(sequence, 0, &body(b.id(), number, NoticeCause::TimeToLive)).await;
    }
    drop(notices.next().await.unwrap());
    let held = notices.next().await.unwrap();
    link.cut();
    let mut link = peer.accept().await;
    link.subscription().await;
    for (sequence, number) in [(1, 1), (2, 2)] {
        link.notice(sequence, 1, &body(b.id(), number, NoticeCause::TimeToLive)).await;
    }
    let again = notices.next().await.unwrap();
    assert_eq!((again.message_id, again.attempt), (body(b.id(), 1, NoticeCause::TimeToLive).message_id, 1));
    again.ack();
    assert_eq!(link.consumer_acks(1).await, [1]);
    held.ack();
    assert_eq!(link.consumer_acks(1).await, [2]);
    agent.close().await;
}

#[tokio::test]
async fn where_nobody_listens_notices_are_acknowledged_and_take_no_room() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let options = ConnectOptions { window_messages: 4, ..peer.options(&a) };
    let (agent, mut link) = peer.connect(options).await;
    let mut mailbox = agent.subscribe().unwrap();
    assert_eq!(link.subscription().await.messages, 4);
    for number in 1..=9 {
        link.notice(u64::from(number), 0, &body(b.id(), number, NoticeCause::TimeToLive)).await;
        assert_eq!(link.consumer_acks(1).await, [u64::from(number)]);
    }
    link.deliver(&Batch::make(&b, &a, &["hello"]), &[(0, 10, 0)]).await;
    assert_eq!(mailbox.next().await.unwrap().unwrap().payload, "hello");
    assert_eq!((agent.stats().notices, agent.stats().notices_unheard), (0, 9));
    // Whoever asks later hears what comes from then on.
    let mut notices = agent.notices().unwrap();
    link.notice(11, 0, &body(b.id(), 11, NoticeCause::TimeToLive)).await;
    notices.next().await.unwrap().ack();
    assert_eq!(link.consumer_acks(1).await, [11]);
    agent.close().await;
}

/// Above all while an agent closes: what comes then was never shown to anybody.
#[tokio::test]
async fn what_comes_when_the_application_has_stopped_listening_is_not_acknowledged_and_takes_no_room() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let options = ConnectOptions { window_messages: 4, ..peer.options(&a) };
    let (agent, mut link) = peer.connect(options).await;
    let notices = agent.notices().unwrap();
    let mut mailbox = agent.subscribe().unwrap();
    assert_eq!(link.subscription().await.messages, 4);
    for number in 1..=2 {
        link.notice(u64::from(number), 0, &body(b.id(), number, NoticeCause::TimeToLive)).await;
    }
    eventually("both wait for the application", || agent.stats().notices == 2).await;
    drop(notices);
    for number in 3..=4 {
        link.notice(u64::from(number), 0, &body(b.id(), number, NoticeCause::TimeToLive)).await;
    }
    link.deliver(&Batch::make(&b, &a, &["hello"]), &[(0, 10, 0)]).await;
    mailbox.next().await.unwrap().unwrap().ack();
    assert_eq!(link.consumer_acks(1).await, [10], "nothing else");
    link.cut();
    let mut link = peer.accept().await;
    assert_eq!(link.subscription().await.messages, 4, "nothing takes room");
    let mut notices = agent.notices().unwrap();
    for number in 1..=4 {
        link.notice(u64::from(number), 1, &body(b.id(), number, NoticeCause::TimeToLive)).await;
        notices.next().await.unwrap().ack();
        assert_eq!(link.consumer_acks(1).await, [u64::from(number)]);
    }
    assert_eq!(agent.stats().notices_unheard, 0);
    agent.close().await;
}

#[tokio::test]
async fn what_the_application_has_not_acknowledged_bounds_what_comes() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let options = ConnectOptions { window_messages: 4, ..peer.options(&a) };
    let (agent, mut link) = peer.connect(options).await;
    let mut notices = agent.notices().unwrap();
    let _mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    for number in 1..=4 {
        link.notice(u64::from(number), 0, &body(b.id(), number, NoticeCause::TimeToLive)).await;
    }
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(notices.next().await.unwrap());
    }
    held.iter().for_each(creto_agent::Notice::ack);
    assert_eq!(link.consumer_acks(4).await.len(), 4);
    let bytes = u32::try_from(4 * NOTICE_BODY_BYTES).unwrap();
    assert_eq!(link.credit().await, Credit { messages: 4, bytes });
    agent.close().await;
}

#[tokio::test]
async fn a_notice_is_asked_for_unless_it_is_left_out_and_never_by_a_receipt() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let usual = SendOptions::default();
    for (options, asks) in [
        (usual, true),
        (SendOptions { receipt: true, ..usual }, true),
        (SendOptions { notice: false, ..usual }, false),
        (SendOptions { kind: Kind::Receipt, ..usual }, false),
    ] {
        let pending = agent.submit(&name("acme/b"), "x", options).await.unwrap();
        let batch = link.batch().await;
        let mut envelope = rkyv::util::AlignedVec::<8>::new();
        envelope.extend_from_slice(&batch.entries[0].1);
        assert_eq!(EnvelopeView::parse(&envelope).unwrap().wants_notice(), asks, "{options:?}");
        link.acknowledge(batch.sequence, &[]).await;
        pending.await.unwrap();
    }
    eventually("everything is answered", || agent.stats().acknowledged == 4).await;
    agent.close().await;
}
