//! How fast a revocation is everywhere: real QUIC, two shards, from the answer of the control service to the last shard.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_agent::raw::{RawConnection, RawStream};
use creto_agent::{AgentKeys, REASON_SENDER_REVOKED, RejectCode};
use creto_node::Node;
use creto_service::client::Client;
use creto_service::states::{StateChange, StateWord};
use home::{Home, now_ms, on_time};

const WITHIN: Duration = Duration::from_secs(10);
/// The promise.
const EVERYWHERE_WITHIN: Duration = Duration::from_secs(1);
const SHARDS: u32 = 2;

/// A connection of this agent to each shard: the kernel spreads them, so some are made for nothing.
async fn on_every_shard(home: &Home, node: &Node, keys: &Arc<AgentKeys>) -> Vec<(RawConnection, RawStream)> {
    let mut by_shard: Vec<Option<(RawConnection, RawStream)>> = (0..SHARDS).map(|_| None).collect();
    while by_shard.iter().any(Option::is_none) {
        let connection = RawConnection::connect(node.address(), &home.certificate, WITHIN).await.unwrap();
        let (control, accepted) = connection.log_in(keys).await.unwrap();
        by_shard[accepted.shard_index as usize] = Some((connection, control));
    }
    by_shard.into_iter().flatten().collect()
}

fn change(state: StateWord) -> StateChange {
    StateChange { state, reason: Some("a test".to_owned()), since_ms: None }
}

#[test]
fn a_revocation_is_on_every_shard_within_a_second_of_its_answer() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let control = Client::new(node.control_socket());
        for (round, (state, code)) in
            [(StateWord::Suspended, RejectCode::AgentSuspended), (StateWord::Revoked, RejectCode::AgentRevoked)]
                .into_iter()
                .enumerate()
        {
            let keys = Arc::new(home.register(&node, &format!("acme/a{round}")).await);
            let other = Arc::new(home.register(&node, &format!("acme/b{round}")).await);
            let connections = on_every_shard(&home, &node, &keys).await;
            let others = on_every_shard(&home, &node, &other).await;

            let asked = Instant::now();
            let closing: Vec<_> = connections
                .into_iter()
                .map(|(connection, stream)| {
                    tokio::spawn(async move {
                        let error = connection.closed().await;
                        drop(stream);
                        (error, asked.elapsed())
                    })
                })
                .collect();
            control.set_state(keys.name(), &change(state)).await.unwrap();
            let answered = asked.elapsed();
            let mut closed = Vec::new();
            for closing in closing {
                closed.push(closing.await.unwrap());
            }
            let last = closed.iter().map(|(_, after)| *after).max().unwrap();
            for (error, after) in &closed {
                assert_eq!(error.code(), Some(code), "{error}");
                assert!(*after <= answered + EVERYWHERE_WITHIN, "closed {after:?} after it was asked for");
            }
            println!(
                "{state:?}: answered {:.1} ms after the request, the last of {SHARDS} shards closed {:.1} ms after it",
                answered.as_secs_f64() * 1e3,
                last.as_secs_f64() * 1e3
            );

            // From the answer on, no shard takes it any more, and everybody else goes on.
            let mut refused = 0;
            while refused < 8 {
                let connection = RawConnection::connect(node.address(), &home.certificate, WITHIN).await.unwrap();
                let Err(error) = connection.log_in(&keys).await else { panic!("a login is refused") };
                assert_eq!(error.code(), Some(code), "{error}");
                refused += 1;
            }
            for (connection, _) in &others {
                let alive = tokio::time::timeout(Duration::from_millis(1), connection.closed()).await;
                assert!(alive.is_err(), "an agent that nobody revoked stays connected");
            }
            if state == StateWord::Suspended {
                control.set_state(keys.name(), &change(StateWord::Active)).await.unwrap();
                on_every_shard(&home, &node, &keys).await;
            }
        }
        node.stop().unwrap();

        // It is revoked after a restart, too.
        let node = home.start();
        let listed = Client::new(node.control_socket()).agents(Some("acme")).await.unwrap();
        let states: Vec<_> = listed.iter().map(|agent| (agent.name.as_str(), agent.state.as_str())).collect();
        assert_eq!(
            states,
            [("acme/a0", "active"), ("acme/a1", "revoked"), ("acme/b0", "active"), ("acme/b1", "active")]
        );
        node.stop().unwrap();
    });
}

#[test]
fn what_was_signed_since_a_revocation_counts_waits_in_vain_and_what_was_signed_before_is_read() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let control = Client::new(node.control_socket());
        let (planner, executor) =
            (home.register(&node, "acme/planner").await, home.register(&node, "acme/executor").await);
        let (from, to) = (planner.name().clone(), executor.name().clone());
        let sender = home.connect(&node, planner).await;
        sender.send(&to, b"before".to_vec()).await.unwrap();
        let before_ms = now_ms();
        // Batches are dated in milliseconds.
        while now_ms() == before_ms {
            tokio::task::yield_now().await;
        }
        let since_ms = now_ms();
        sender.send(&to, b"after".to_vec()).await.unwrap();

        // Found out later: both messages are accepted and durable by now.
        let change = StateChange { state: StateWord::Revoked, reason: None, since_ms: Some(since_ms) };
        control.set_state(&from, &change).await.unwrap();
        assert!(sender.send(&to, b"too late".to_vec()).await.is_err());

        let reader = home.connect(&node, executor).await;
        let delivery = reader.receive().await.unwrap();
        assert_eq!((delivery.payload.as_ref(), delivery.from.to_string()), (&b"before"[..], from.to_string()));
        delivery.ack();
        let letters = loop {
            let page = reader.dead_letters(0, 10).await.unwrap();
            if page.total > 0 {
                break page.letters;
            }
        };
        assert_eq!((letters.len(), letters[0].reason), (1, REASON_SENDER_REVOKED));
        // A message of somebody else comes behind it, so nothing else was on its way.
        let other = home.register(&node, "acme/other").await;
        home.connect(&node, other).await.send(&to, b"last".to_vec()).await.unwrap();
        assert_eq!(reader.receive().await.unwrap().payload.as_ref(), b"last");
        node.stop().unwrap();
    });
}
