//! The SDK against a real node in this process: two shards, QUIC, a log on disk, keys and sessions in files.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::path::PathBuf;

use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions};
use creto_node::Node;
use home::{Home, on_time};

const MESSAGES: usize = 5_000;

async fn key_file(home: &Home, node: &Node, name: &str) -> PathBuf {
    let path = home.path().join(format!("{}.keys", name.replace('/', "-")));
    home.register(node, name).await.save(&path).unwrap();
    path
}

async fn connect(home: &Home, node: &Node, keys: &PathBuf) -> Agent {
    let keys = AgentKeys::load(keys).unwrap();
    Agent::connect(ConnectOptions::new(node.address(), home.certificate.clone(), keys)).await.unwrap()
}

async fn receive(agent: &Agent, expected: std::ops::Range<usize>) {
    for n in expected {
        let delivery = agent.receive().await.unwrap();
        assert_eq!(delivery.payload, n.to_string(), "in order, and once");
        delivery.ack();
    }
}

#[test]
fn thousands_of_messages_are_paid_for_with_a_handful_of_encapsulations_also_over_restarts() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = (key_file(&home, &node, "acme/a").await, key_file(&home, &node, "acme/b").await);
        let to = AgentName::parse("acme/b").unwrap();
        let (sender, receiver) = (connect(&home, &node, &a).await, connect(&home, &node, &b).await);
        let messages: Vec<String> = (0..MESSAGES).map(|n| n.to_string()).collect();
        let (answers, ()) = tokio::join!(
            sender.send_many(messages.into_iter().map(|text| (&to, text))),
            receive(&receiver, 0..MESSAGES)
        );
        assert!(answers.iter().all(Result::is_ok));
        let (sent, received) = (sender.stats(), receiver.stats());
        assert_eq!((sent.sealed, received.delivered, received.rejected_total()), (5_000, 5_000, 0));
        // A thousand messages each, the next one opened when nine tenths are used: seven at most, 5,000 without sessions.
        assert!((5..=8).contains(&sent.encapsulations), "{sent:?}");
        assert_eq!((sent.sessions_opened, received.sessions_accepted), (sent.encapsulations, sent.encapsulations));
        assert!(sent.signatures < 1_000, "{sent:?}");
        assert!((1..500).contains(&receiver.stats().state_commits), "acknowledgements share their syncs: {received:?}");
        sender.close().await;
        receiver.close().await;

        // Both start again: the session goes on at both ends, and nothing comes again.
        let sender = connect(&home, &node, &a).await;
        for n in 0..10 {
            sender.send(&to, n.to_string()).await.unwrap();
        }
        assert_eq!(sender.stats().encapsulations, 0);
        let receiver = connect(&home, &node, &b).await;
        receive(&receiver, 0..10).await;
        assert_eq!((receiver.stats().received, receiver.stats().sessions_accepted), (10, 0));
        sender.close().await;
        receiver.close().await;
        node.stop().unwrap();
    });
}
