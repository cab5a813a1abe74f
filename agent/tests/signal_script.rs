//! Signals of a node that does exactly what the script says: what holds is shown once, and nothing else is.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

mod peer;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use creto_agent::raw::seal_envelope;
use creto_agent::{AgentKeys, MessageId, RejectCode};
use creto_envelope::envelope::FLAG_EPHEMERAL;
use creto_envelope::{EnvelopeHeader, KeyId};
use peer::{Batch, PATIENCE, Peer, eventually, keys, record};
use tokio::time::timeout;

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A signal that was made then and means something for ten seconds.
fn signal(from: &AgentKeys, to: &AgentKeys, number: u8, made_ms: u64) -> Vec<u8> {
    let (id, payload) = (MessageId::from_parts(made_ms, [number; 10]), [number; 3]);
    let header = EnvelopeHeader::sealed(from.id(), to.id(), KeyId(to.key_id().0), id, made_ms, payload.len()).unwrap();
    let header = EnvelopeHeader { flags: FLAG_EPHEMERAL, ttl_s: 10, ..header };
    seal_envelope(&header, &record(to), &payload).unwrap()
}

#[tokio::test]
async fn of_what_a_node_pushes_as_signals_only_what_holds_is_shown_and_once() {
    let (a, b, c) = (keys("acme/a"), keys("acme/b"), keys("acme/c"));
    let peer = Peer::start(&[&a, &b, &c]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let mut signals = agent.signals().unwrap();
    link.subscription_for_keys().await;
    assert_eq!(link.signal_credit().await.signals, 64);
    let now = now_ms();
    let message = peer::envelope(&b, &a, MessageId::from_parts(now, [9; 10]), "a message");
    let batch = Batch::of(
        &b,
        vec![
            signal(&b, &a, 1, now),
            // Over, and not begun, by more than clocks may differ.
            signal(&b, &a, 2, now - 80_000),
            signal(&b, &a, 3, now + 80_000),
            // For somebody else; and one that a node should have stored.
            signal(&b, &c, 4, now),
            message,
            signal(&b, &a, 5, now),
        ],
    );
    // Changed on the way: the last byte of the frame is of the ciphertext or its padding, so one far before it.
    link.signals(&batch, &[0], |frame| {
        let at = frame.len() - 24;
        frame[at] ^= 1;
    })
    .await;
    link.signals(&batch, &[0, 1, 2, 3, 4], |_| ()).await;
    link.signals(&batch, &[0], |_| ()).await;
    link.signals(&batch, &[5], |_| ()).await;
    let shown = [signals.next().await.unwrap(), signals.next().await.unwrap()];
    assert_eq!(shown.each_ref().map(|signal| signal.payload[0]), [1, 5]);
    assert_eq!((shown[0].from_id, shown[0].until_ms), (b.id(), now + 10_000));
    let stats = agent.stats();
    assert_eq!((stats.signals_received, stats.signals_dropped, stats.duplicates_hidden), (4, 2, 1));
    let rejected = |code| stats.rejected.get(&code).copied();
    assert_eq!(rejected(RejectCode::BatchRoot), Some(1));
    assert_eq!((rejected(RejectCode::NotMailboxOwner), rejected(RejectCode::EnvelopeSignal)), (Some(1), Some(1)));
    agent.close().await;
}

#[tokio::test]
async fn a_signal_that_comes_as_a_message_is_an_incident() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let mut incidents = agent.incidents();
    let _mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    let batch = Batch::of(&b, vec![signal(&b, &a, 1, now_ms())]);
    link.deliver(&batch, &[(0, 7, 0)]).await;
    let incident = timeout(PATIENCE, incidents.next()).await.unwrap().unwrap();
    assert_eq!((incident.code, incident.mailbox_sequence), (RejectCode::EnvelopeSignal, 7));
    agent.close().await;
}

#[tokio::test]
async fn a_node_that_pushes_more_signals_than_it_may_loses_the_connection() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let _mailbox = agent.subscribe().unwrap();
    link.subscription().await;
    // Nobody asked for any.
    let batch = Batch::of(&b, vec![signal(&b, &a, 1, now_ms())]);
    link.signals(&batch, &[0], |_| ()).await;
    let closed = timeout(PATIENCE, link.connection.closed()).await.unwrap();
    let code = u32::from(RejectCode::FrameUnexpected.as_u16());
    assert!(
        matches!(&closed, quinn::ConnectionError::ApplicationClosed(closed) if closed.error_code == code.into()),
        "{closed}"
    );
    // It connects again, and goes on.
    let mut link = peer.accept().await;
    link.subscription().await;
    eventually("it is connected again", || agent.stats().reconnects == 1).await;
    assert!(timeout(Duration::from_millis(50), link.connection.closed()).await.is_err());
    agent.close().await;
}
