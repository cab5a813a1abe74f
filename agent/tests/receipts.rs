//! Receipts against a real node: asked for, signed by the recipient, sent before the message is acknowledged.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::time::Duration;

use creto_agent::{
    Acknowledged, Agent, AgentName, ConnectOptions, Delivery, Kind, ReceiptKind, ReceiptPolicy, SendOptions, proof,
};
use creto_crypto_accel::digest::sha256;
use creto_envelope::proof::ProofView;
use creto_node::Node;
use home::{Home, on_time};

const CONFIRM: fn() -> SendOptions = || SendOptions { receipt: true, ..SendOptions::default() };

async fn connect(home: &Home, node: &Node, name: &str, change: impl FnOnce(&mut ConnectOptions)) -> Agent {
    let keys = home.register(node, name).await;
    let mut options = ConnectOptions::new(node.address(), home.certificate.clone(), keys);
    options.keep_proofs = true;
    change(&mut options);
    Agent::connect(options).await.unwrap()
}

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

fn envelope_sha256(delivery: &Delivery) -> [u8; 32] {
    sha256(&[ProofView::parse(delivery.proof().unwrap()).unwrap().parts().envelope])
}

#[test]
fn a_receipt_confirms_exactly_what_the_application_acknowledged_and_asks_for_none_itself() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = (connect(&home, &node, "acme/a", |_| ()).await, connect(&home, &node, "acme/b", |_| ()).await);
        let sent = a.send_with(&name("acme/b"), "order 7", CONFIRM()).await.unwrap();
        a.send(&name("acme/b"), "no need to confirm this").await.unwrap();

        let order = b.receive().await.unwrap();
        assert!(order.receipt_wanted && order.receipt().is_none());
        let digest = envelope_sha256(&order);
        assert_eq!(b.stats().receipts_sent, 0, "nothing is confirmed before the application has done so");
        order.ack();
        let other = b.receive().await.unwrap();
        assert!(!other.receipt_wanted);
        other.ack();

        let answer = a.receive().await.unwrap();
        let receipt = answer.receipt().unwrap();
        assert_eq!((answer.kind, answer.from.as_str(), answer.receipt_wanted), (Kind::Receipt, "acme/b", false));
        assert_eq!((receipt.message_id, receipt.envelope_sha256), (sent.message_id, digest));
        assert!(receipt.at_ms >= order.timestamp_ms);
        // Whoever gets the proof of the receipt needs to believe neither of the two, nor the node.
        assert!(proof::verify(answer.proof().unwrap()).is_ok());
        answer.ack();
        b.close().await;
        assert_eq!(a.stats().receipts_sent, 0);
        a.close().await;
        assert_eq!(node.stop().unwrap().shards.iter().map(|shard| shard.messages_settled).sum::<u64>(), 3);
    });
}

#[test]
fn an_agent_that_closes_at_once_after_its_acknowledgement_has_sent_the_receipt() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = (connect(&home, &node, "acme/a", |_| ()).await, connect(&home, &node, "acme/b", |_| ()).await);
        let to = name("acme/b");
        let mut ids = Vec::new();
        for n in 0..100 {
            ids.push(a.submit(&to, n.to_string(), CONFIRM()).await.unwrap().await.unwrap().message_id);
        }
        for _ in 0..100 {
            b.receive().await.unwrap().ack();
        }
        b.close().await;
        let mut confirmed = Vec::new();
        for _ in 0..100 {
            let answer = a.receive().await.unwrap();
            confirmed.push(answer.receipt().unwrap().message_id);
            answer.ack();
        }
        confirmed.sort_unstable();
        ids.sort_unstable();
        assert_eq!(confirmed, ids);
        a.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn who_sends_no_receipts_acknowledges_all_the_same() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let a = connect(&home, &node, "acme/a", |_| ()).await;
        let b = connect(&home, &node, "acme/b", |options| options.receipts = ReceiptPolicy::Off).await;
        a.send_with(&name("acme/b"), "seen?", CONFIRM()).await.unwrap();
        let question = b.receive().await.unwrap();
        assert!(question.receipt_wanted);
        question.ack();
        b.close().await;
        a.close().await;
        let summary = node.stop().unwrap();
        let (durable, settled): (Vec<_>, Vec<_>) =
            summary.shards.iter().map(|shard| (shard.messages_durable, shard.messages_settled)).unzip();
        assert_eq!((durable.iter().sum::<u64>(), settled.iter().sum::<u64>()), (1, 1));
    });
}

#[test]
fn a_receipt_that_its_reader_has_no_room_for_does_not_keep_the_message() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with("topology.shards = 2\nmailbox.messages_max = 1\n");
        let a = connect(&home, &node, "acme/a", |_| ()).await;
        let b = connect(&home, &node, "acme/b", |options| options.retry_for = Duration::from_millis(50)).await;
        a.send(&name("acme/a"), "fills the mailbox").await.unwrap();
        a.send_with(&name("acme/b"), "seen?", CONFIRM()).await.unwrap();
        b.receive().await.unwrap().ack();
        b.close().await;
        let left = a.receive().await.unwrap();
        assert_eq!((&left.payload[..], left.kind), (&b"fills the mailbox"[..], Kind::Direct));
        left.ack();
        a.close().await;
        let summary = node.stop().unwrap();
        assert_eq!(summary.shards.iter().map(|shard| shard.messages_settled).sum::<u64>(), 2);
    });
}

#[test]
fn acknowledgements_are_told_when_they_are_handed_to_the_connection_and_no_others() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let keys = home.register(&node, "acme/a").await;
        let agent = home.connect(&node, keys).await;
        let mut acknowledgements = agent.acknowledgements();
        let mut mailbox = agent.subscribe().unwrap();
        let me = agent.name().clone();
        let mut wanted = Vec::new();
        for number in 0..4 {
            agent.send(&me, format!("message {number}")).await.unwrap();
            let delivery = mailbox.next().await.unwrap().unwrap();
            match number {
                // Refused, and dropped: neither is an acknowledgement.
                1 => delivery.reject(9),
                2 => drop(delivery),
                _ => {
                    wanted.push(delivery.mailbox_sequence);
                    delivery.ack();
                }
            }
        }
        let mut told = Vec::new();
        while told.len() < wanted.len() {
            let Some(Acknowledged::Mailbox(sequences)) = acknowledgements.next().await else {
                panic!("the agent is there")
            };
            told.extend_from_slice(&sequences);
        }
        assert_eq!((told, acknowledgements.missed()), (wanted, 0));
        agent.close().await;
        node.stop().unwrap();
    });
}

const BOTH: fn() -> SendOptions = || SendOptions { receipt: true, delivered: true, ..SendOptions::default() };

#[test]
fn whoever_asks_hears_that_a_message_was_opened_before_anybody_acknowledged_it() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = (connect(&home, &node, "acme/a", |_| ()).await, connect(&home, &node, "acme/b", |_| ()).await);
        let sent = a.send_with(&name("acme/b"), "order 7", BOTH()).await.unwrap();
        let mailbox = b.subscribe().unwrap();
        // The application has not even asked for it.
        let told = a.receive().await.unwrap();
        let delivered = told.receipt().unwrap();
        assert_eq!((delivered.kind, delivered.message_id), (ReceiptKind::Delivered, sent.message_id));
        assert_eq!((told.kind, told.from.as_str(), told.receipt_wanted), (Kind::Receipt, "acme/b", false));
        assert!(proof::verify(told.proof().unwrap()).is_ok(), "a third party can check it");
        told.ack();

        drop(mailbox);
        let order = b.receive().await.unwrap();
        assert_eq!(delivered.envelope_sha256, envelope_sha256(&order), "it names the exact bytes");
        order.ack();
        let told = a.receive().await.unwrap();
        let done = told.receipt().unwrap();
        assert_eq!((done.kind, done.message_id), (ReceiptKind::Done, sent.message_id));
        assert!(done.at_ms >= delivered.at_ms);
        told.ack();
        b.close().await;
        a.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn an_agent_that_tells_no_deliveries_tells_when_it_is_done_and_one_that_tells_nothing_does_neither() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let a = connect(&home, &node, "acme/a", |_| ()).await;
        for (to, policy, expected) in [("acme/b", ReceiptPolicy::Done, 1), ("acme/c", ReceiptPolicy::Off, 0)] {
            let b = connect(&home, &node, to, |options| options.receipts = policy).await;
            a.send_with(&name(to), "seen?", BOTH()).await.unwrap();
            b.receive().await.unwrap().ack();
            b.close().await;
            let mut kinds = Vec::new();
            for _ in 0..expected {
                let told = a.receive().await.unwrap();
                kinds.push(told.receipt().unwrap().kind);
                told.ack();
            }
            assert_eq!(kinds, vec![ReceiptKind::Done; expected]);
        }
        // Nothing else came: what is next is what was sent next.
        a.send(&name("acme/a"), "to myself").await.unwrap();
        assert_eq!(a.receive().await.unwrap().kind, Kind::Direct);
        a.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn a_message_that_is_dropped_and_comes_again_is_told_as_delivered_once() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = (connect(&home, &node, "acme/a", |_| ()).await, connect(&home, &node, "acme/b", |_| ()).await);
        let delivered = SendOptions { delivered: true, ..SendOptions::default() };
        a.send_with(&name("acme/b"), "again and again", delivered).await.unwrap();
        for attempt in 0..3 {
            let message = b.receive().await.unwrap();
            assert_eq!(message.attempt, attempt);
            if attempt < 2 {
                message.nack_after(Duration::from_millis(1));
            } else {
                message.ack();
            }
        }
        b.close().await;
        let told = a.receive().await.unwrap();
        assert_eq!(told.receipt().unwrap().kind, ReceiptKind::Delivered);
        told.ack();
        a.send(&name("acme/a"), "to myself").await.unwrap();
        assert_eq!(a.receive().await.unwrap().kind, Kind::Direct);
        a.close().await;
        node.stop().unwrap();
    });
}
