//! Signals against a real node, over QUIC: had by whoever listens, stored nowhere, and never shown twice.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::time::Duration;

use creto_agent::{
    Agent, AgentName, ConnectOptions, MessageId, PrekeyPolicy, Priority, ReceiveError, RejectCode, SendError, Signal,
    SignalOptions, Signals, WorkState, Working,
};
use creto_node::Node;
use home::{Home, on_time};
use tokio::time::timeout;

async fn connect(home: &Home, node: &Node, name: &str, change: impl FnOnce(&mut ConnectOptions)) -> Agent {
    let keys = home.register(node, name).await;
    let mut options = ConnectOptions::new(node.address(), home.certificate.clone(), keys);
    change(&mut options);
    Agent::connect(options).await.unwrap()
}

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

/// Signals until one comes: nobody says when the node has heard that somebody listens.
async fn until_heard(from: &Agent, to: &str, signals: &mut Signals) -> Signal {
    loop {
        from.signal(&name(to), "are you there?").await.unwrap();
        if let Ok(signal) = timeout(Duration::from_millis(50), signals.next()).await {
            return signal.unwrap();
        }
    }
}

/// The next signal that says something else.
async fn next(signals: &mut Signals) -> Signal {
    loop {
        let signal = signals.next().await.unwrap();
        if &signal.payload[..] != b"are you there?" {
            return signal;
        }
    }
}

#[test]
fn a_signal_reaches_an_agent_that_listens_and_leaves_nothing_behind() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with("topology.shards = 2\n");
        let (a, b) = (connect(&home, &node, "acme/a", |_| ()).await, connect(&home, &node, "acme/b", |_| ()).await);
        let mut signals = b.signals().unwrap();
        assert!(matches!(b.signals(), Err(ReceiveError::AlreadySubscribed)));
        until_heard(&a, "acme/b", &mut signals).await;

        let about = Some(MessageId::from_parts(1, [7; 10]));
        let working = Working { state: WorkState::Waiting, about, note: "for the compiler".to_owned() };
        a.signal_working(&name("acme/b"), &working, Duration::from_secs(60)).await.unwrap();
        let signal = next(&mut signals).await;
        assert_eq!((signal.from.as_str(), signal.from_id, signal.working()), ("acme/a", a.id(), Some(working)));
        assert_eq!(signal.until_ms - signal.timestamp_ms, 60_000);

        let urgent = SignalOptions { ttl: Duration::from_millis(1_900), priority: Priority::Critical };
        a.signal_with(&name("acme/b"), "now", urgent).await.unwrap();
        let signal = next(&mut signals).await;
        assert_eq!((&signal.payload[..], signal.priority, signal.working()), (&b"now"[..], Priority::Critical, None));
        assert_eq!(signal.until_ms - signal.timestamp_ms, 1_000, "to the second");

        // Messages go their way beside it, and signals are none of them.
        a.send(&name("acme/b"), "a message").await.unwrap();
        let message = b.receive().await.unwrap();
        assert_eq!((&message.payload[..], message.mailbox_sequence), (&b"a message"[..], 1));
        message.ack();
        let (sent, taken) = (a.stats().signals_sent, b.stats().signals_received);
        assert!(taken >= 3 && sent >= taken && a.stats().acknowledged == 1);
        b.close().await;
        assert_eq!(signals.next().await, None, "no more will come");
        a.close().await;
        let summary = node.stop().unwrap();
        let shards = || summary.shards.iter();
        let durable: u64 = shards().map(|of| of.messages_durable).sum();
        let accepted: u64 = shards().map(|of| of.signals_accepted).sum();
        let (pushed, dropped): (Vec<_>, Vec<_>) = shards().map(|of| (of.signals_pushed, of.signals_dropped)).unzip();
        assert_eq!((durable, accepted), (1, sent));
        assert_eq!(pushed.iter().sum::<u64>() + dropped.iter().sum::<u64>(), sent);
    });
}

#[test]
fn whoever_signals_is_told_the_same_whether_or_not_anybody_listens() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let a = connect(&home, &node, "acme/a", |_| ()).await;
        // One that never connected, one that is connected, one that reads its mailbox.
        home.register(&node, "acme/never").await;
        let b = connect(&home, &node, "acme/b", |_| ()).await;
        let c = connect(&home, &node, "acme/c", |_| ()).await;
        let _mailbox = c.subscribe().unwrap();
        for to in ["acme/never", "acme/b", "acme/c"] {
            a.signal(&name(to), "hello").await.unwrap();
        }
        assert_eq!((a.stats().signals_sent, c.stats().signals_received), (3, 0), "nobody asked for signals");
        for agent in [a, b, c] {
            agent.close().await;
        }
        node.stop().unwrap();
    });
}

#[test]
fn what_cannot_be_a_signal_is_refused_before_it_is_sent() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let a = connect(&home, &node, "acme/a", |_| ()).await;
        let large = a.signal(&name("acme/a"), vec![0; 4_097]).await;
        assert!(matches!(large, Err(SendError::SignalTooLarge { bytes: 4_097 })));
        a.signal(&name("acme/a"), vec![0; 4_096]).await.unwrap();
        let unknown = a.signal(&name("acme/nobody"), "hello").await;
        assert_eq!(unknown.unwrap_err().code(), Some(RejectCode::UnknownAgent));
        let strict = connect(&home, &node, "acme/strict", |options| options.prekeys = PrekeyPolicy::Require).await;
        let refused = strict.signal(&name("acme/a"), "hello").await;
        assert!(matches!(refused, Err(SendError::SignalWithoutPrekey)));
        strict.close().await;
        a.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn an_agent_hears_signals_again_after_its_node_was_gone_and_none_of_those_before() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = (connect(&home, &node, "acme/a", |_| ()).await, connect(&home, &node, "acme/b", |_| ()).await);
        let mut signals = b.signals().unwrap();
        until_heard(&a, "acme/b", &mut signals).await;
        let address = node.address();
        node.stop().unwrap();
        // Without a connection a signal is not kept for a better time.
        let gone = loop {
            match a.signal_with(&name("acme/b"), "lost", SignalOptions::default()).await {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert!(
            matches!(
                &gone,
                SendError::SignalDropped { .. } | SendError::Refused { code: RejectCode::ShuttingDown, .. }
            ),
            "{gone}"
        );
        let node = home.start_at(address);
        loop {
            match a.signal(&name("acme/b"), "back").await {
                Ok(()) => {}
                Err(_) => continue,
            }
            if let Ok(signal) = timeout(Duration::from_millis(50), next(&mut signals)).await {
                assert_ne!(&signal.payload[..], b"lost");
                break;
            }
        }
        b.close().await;
        a.close().await;
        node.stop().unwrap();
    });
}
