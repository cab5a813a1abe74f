//! A conversation over a real node, kept by both sides, and checked by somebody who was not there.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use creto_agent::thread::{MessageType, Thread, ThreadError, Typed, TypedError, TypedMessage};
use creto_agent::{Agent, AgentName, ConnectOptions, Kind, MessageId, SendError, SendOptions, proof};
use creto_envelope::thread::TypedPayload;
use creto_node::Node;
use home::{Home, on_time};

const ARTEFACT: [u8; 32] = [0xaf; 32];

async fn connect(home: &Home, node: &Node, name: &str) -> Agent {
    let keys = home.register(node, name).await;
    let mut options = ConnectOptions::new(node.address(), home.certificate.clone(), keys);
    options.keep_proofs = true;
    Agent::connect(options).await.unwrap()
}

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

/// What an agent keeps of what came: proof and payload.
#[derive(Default)]
struct Kept(Vec<(String, Vec<u8>, Vec<u8>)>);

impl Kept {
    async fn take(&mut self, agent: &Agent, label: &str) -> Typed {
        let delivery = agent.receive().await.unwrap();
        self.0.push((label.to_owned(), delivery.proof().unwrap().to_vec(), delivery.payload.to_vec()));
        let typed = delivery.typed().unwrap().unwrap();
        delivery.ack();
        typed
    }
}

#[test]
fn a_conversation_is_shown_to_somebody_who_was_not_there() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = (connect(&home, &node, "acme/a").await, connect(&home, &node, "acme/b").await);
        let (to_a, to_b) = (name("acme/a"), name("acme/b"));
        let (mut of_a, mut of_b) = (Kept::default(), Kept::default());

        let offer = TypedMessage::new(MessageType::HandoffRequest, r#"{"work":"parser"}"#);
        assert!(matches!(a.send_typed(&to_b, offer.clone()).await, Err(SendError::NoHandoff)));
        let sent = a.send_typed(&to_b, offer.handing_over(ARTEFACT)).await.unwrap();
        let offered = of_b.take(&b, "offer").await;
        assert_eq!((offered.message_type, offered.handoff), (MessageType::HandoffRequest, Some(ARTEFACT)));
        assert_eq!((&offered.content[..], offered.parent), (&br#"{"work":"parser"}"#[..], None));
        assert_eq!(sent.envelope_sha256, Some(offered.hash), "both sides have the same hash");

        let approval = TypedMessage::new(MessageType::HandoffApproval, "{}").handing_over(ARTEFACT);
        b.send_typed(&to_a, approval.after(offered.hash)).await.unwrap();
        let approved = of_a.take(&a, "approval").await;
        let task = TypedMessage::new(MessageType::TaskAssignment, r#"{"then":"document it"}"#).after(approved.hash);
        let sent = a.send_typed(&to_b, task).await.unwrap();
        // Behind one of its own.
        let alert = TypedMessage::new(MessageType::SecurityAlert, r#"{"found":"a key in the log"}"#);
        a.send_typed(&to_b, alert.after(sent.envelope_sha256.unwrap())).await.unwrap();
        of_b.take(&b, "task").await;
        of_b.take(&b, "alert").await;

        let mut thread = Thread::new();
        for (label, proof, payload) in of_a.0.iter().chain(&of_b.0) {
            thread.add(label, proof, payload).unwrap();
        }
        let verified = thread.verify().unwrap();
        let labels: Vec<_> = verified.messages.iter().map(|message| message.label.as_str()).collect();
        assert_eq!(labels, ["offer", "approval", "task", "alert"]);
        let known = proof::verify(&of_b.0[0].1).unwrap();
        assert_eq!(verified.messages[0].signing_fingerprint, known.signing_fingerprint);

        // One side alone has not all of it, and the first that is missing is named.
        let mut half = Thread::new();
        for (label, proof, payload) in &of_b.0 {
            half.add(label, proof, payload).unwrap();
        }
        let error = half.verify().unwrap_err();
        assert_eq!(error, ThreadError::MissingParent { label: "task".to_owned(), parent: approved.hash });
        a.close().await;
        b.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn what_only_says_that_it_is_typed_is_not() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = (connect(&home, &node, "acme/a").await, connect(&home, &node, "acme/b").await);
        let to = name("acme/b");
        let typed = TypedPayload {
            message_type: MessageType::ConsensusVote,
            blinding: [7; 32],
            parent: None,
            handoff: None,
            content: b"yes",
        };
        let payload = typed.to_bytes().unwrap();
        a.send(&to, payload.clone()).await.unwrap();
        let answers = SendOptions { correlation_id: Some(MessageId([7; 16])), ..SendOptions::default() };
        a.send_with(&to, payload.clone(), answers).await.unwrap();
        a.send(&to, &b"\xffTH\x02"[..]).await.unwrap();
        for expected in [TypedError::NotCommitted, TypedError::NotCommitted, TypedError::Malformed] {
            let delivery = b.receive().await.unwrap();
            assert_eq!(delivery.typed(), Err(expected));
            delivery.ack();
        }
        // Other kinds, and other payloads, are what they always were.
        a.send_with(&to, payload, SendOptions { kind: Kind::SessionOpen, ..SendOptions::default() }).await.unwrap();
        a.send(&to, "CTH").await.unwrap();
        for _ in 0..2 {
            let delivery = b.receive().await.unwrap();
            assert_eq!(delivery.typed(), Ok(None));
            delivery.ack();
        }
        a.close().await;
        b.close().await;
        node.stop().unwrap();
    });
}
