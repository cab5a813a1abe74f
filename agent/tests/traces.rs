//! Trace contexts inside of sealed messages, against a real node: who asked for them sends them, everybody reads them, the node does not,
//! and what a peer says wrongly costs nothing.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use creto_agent::trace::{Propagation, TRACE_HEADER_BYTES, TraceContext};
use creto_agent::{Agent, AgentName, ConnectOptions, SelfDestruct, SendOptions, SessionPolicy};
use creto_node::Node;
use home::{Home, on_time};
use tokio::time::timeout;
use tracing::Span;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Says the same of every span, and remembers what it was told.
#[derive(Debug)]
struct Known {
    state: String,
    continued: Mutex<Vec<TraceContext>>,
}

impl Known {
    fn new(state: &str) -> Arc<Self> {
        Arc::new(Self { state: state.to_owned(), continued: Mutex::default() })
    }

    fn context(&self) -> TraceContext {
        TraceContext::from_headers(PARENT, &self.state).unwrap()
    }
}

impl Propagation for Known {
    fn context_of(&self, _: &Span) -> Option<TraceContext> {
        Some(self.context())
    }

    fn continue_from(&self, _: &Span, context: &TraceContext) {
        self.continued.lock().unwrap().push(context.clone());
    }
}

async fn connect(home: &Home, node: &Node, name: &str, change: impl FnOnce(&mut ConnectOptions)) -> Agent {
    let keys = home.register(node, name).await;
    let mut options = ConnectOptions::new(node.address(), home.certificate.clone(), keys);
    change(&mut options);
    Agent::connect(options).await.unwrap()
}

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

/// Bytes that are sealed in the envelope of a delivery's proof, without the tag.
fn sealed_bytes(proof: &[u8]) -> usize {
    creto_envelope::proof::ProofView::parse(proof).unwrap().envelope.payload().len() - 16
}

#[test]
fn a_recipient_has_the_context_of_its_sender_and_the_payload_as_it_was_given() {
    for sessions in [SessionPolicy::default(), SessionPolicy::Off] {
        on_time(async {
            let home = Home::new();
            let node = home.start();
            let (sender, recipient) = (Known::new("vendor=1,other=2"), Known::new(""));
            let a = connect(&home, &node, "acme/a", |options| {
                options.sessions = sessions;
                options.trace = Some(Arc::clone(&sender) as _);
            })
            .await;
            let b = connect(&home, &node, "acme/b", |options| {
                options.keep_proofs = true;
                options.trace = Some(Arc::clone(&recipient) as _);
            })
            .await;
            a.send(&name("acme/b"), "hello").await.unwrap();
            let delivery = b.receive().await.unwrap();
            assert_eq!((&delivery.payload[..], delivery.trace.as_ref()), (&b"hello"[..], Some(&sender.context())));
            let head_bytes = TRACE_HEADER_BYTES + "vendor=1,other=2".len();
            assert_eq!(sealed_bytes(delivery.proof().unwrap()), head_bytes + 5);
            delivery.ack();
            // What goes before a body of another form goes behind this.
            let burning = SendOptions { self_destruct: Some(SelfDestruct::AfterReading), ..SendOptions::default() };
            a.send_with(&name("acme/b"), "secret", burning).await.unwrap();
            let delivery = b.receive().await.unwrap();
            assert_eq!(delivery.self_destructing().unwrap().read(<[u8]>::to_vec).unwrap(), b"secret");
            assert_eq!(delivery.trace.as_ref(), Some(&sender.context()));
            delivery.ack();
            assert_eq!(*recipient.continued.lock().unwrap(), [sender.context(), sender.context()]);
            assert_eq!(b.stats().traces_malformed, 0);
            b.close().await;
            a.close().await;
            node.stop().unwrap();
        });
    }
}

#[test]
fn without_somebody_who_asked_no_byte_more_is_sent_and_a_context_is_read_all_the_same() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let a = connect(&home, &node, "acme/a", |_| ()).await;
        let b = connect(&home, &node, "acme/b", |options| options.keep_proofs = true).await;
        a.send(&name("acme/b"), "hello").await.unwrap();
        let delivery = b.receive().await.unwrap();
        assert_eq!((sealed_bytes(delivery.proof().unwrap()), &delivery.trace), (5, &None));
        assert!(delivery.span().is_none());
        delivery.ack();
        let traced = connect(&home, &node, "acme/c", |options| options.trace = Some(Known::new(""))).await;
        traced.send(&name("acme/b"), "with a context").await.unwrap();
        let delivery = b.receive().await.unwrap();
        assert_eq!(
            (&delivery.payload[..], delivery.trace.as_ref().unwrap().traceparent().as_str()),
            (&b"with a context"[..], PARENT)
        );
        delivery.ack();
        for agent in [traced, b, a] {
            agent.close().await;
        }
        node.stop().unwrap();
    });
}

#[test]
fn bytes_of_an_application_that_look_like_a_head_come_as_they_were_given() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let known = Known::new("");
        let plain = connect(&home, &node, "acme/a", |_| ()).await;
        let traced = connect(&home, &node, "acme/t", |options| options.trace = Some(Known::new(""))).await;
        let b = connect(&home, &node, "acme/b", |options| options.trace = Some(Arc::clone(&known) as _)).await;
        let mut whole = Vec::new();
        known.context().write(&mut whole);
        whole.extend_from_slice(b"body");
        let zero_ids = [&b"\xffTC\x01\x20\x00\x01\x00"[..], &[0; 24], b"body"].concat();
        let later = [&b"\xffTC\x07\x0a\x00\x01\x00.."[..], b"body"].concat();
        let guard = b"\xffTC\x01\x08\x00\x00\x00body".to_vec();
        let not_one = b"\xffTC\x01\xff\x03\x01\x00 nothing".to_vec();
        for payload in [whole, zero_ids, later, guard, not_one] {
            for (sender, is_traced) in [(&plain, false), (&traced, true)] {
                sender.send(&name("acme/b"), payload.clone()).await.unwrap();
                let delivery = b.receive().await.unwrap();
                assert_eq!((&delivery.payload[..], delivery.trace.is_some()), (&payload[..], is_traced));
                delivery.ack();
            }
        }
        // Signals have no head, and lose nothing to one.
        let mut signals = b.signals().unwrap();
        let signal = b"\xffTC\x01\x08\x00\x00\x00signal";
        let heard = loop {
            // Nobody says when the node has heard that somebody listens.
            plain.signal(&name("acme/b"), signal.to_vec()).await.unwrap();
            if let Ok(heard) = timeout(Duration::from_millis(50), signals.next()).await {
                break heard.unwrap();
            }
        };
        assert_eq!(&heard.payload[..], &signal[..]);
        assert_eq!(b.stats().traces_malformed, 0);
        for agent in [b, traced, plain] {
            agent.close().await;
        }
        node.stop().unwrap();
    });
}

#[test]
fn a_message_that_has_no_room_for_its_context_goes_without() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let a = connect(&home, &node, "acme/a", |options| options.trace = Some(Known::new(""))).await;
        let b = connect(&home, &node, "acme/b", |_| ()).await;
        for (bytes, is_told) in [((1 << 20) - TRACE_HEADER_BYTES, true), ((1 << 20) - TRACE_HEADER_BYTES + 1, false)] {
            a.send(&name("acme/b"), vec![7; bytes]).await.unwrap();
            let delivery = b.receive().await.unwrap();
            assert_eq!((delivery.payload.len(), delivery.trace.is_some()), (bytes, is_told));
            delivery.ack();
        }
        b.close().await;
        a.close().await;
        node.stop().unwrap();
    });
}
