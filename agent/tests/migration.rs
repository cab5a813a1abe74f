//! Connections whose address changes in mid-stream (RFC 9000, section 9), against a node of two shards: from another port the kernel
//! may hand datagrams to the other shard, which hands them over.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::sync::Arc;
use std::time::Duration;

use creto_agent::raw::{RawConnection, RawStream, seal_envelope, signed_batch_frame};
use creto_agent::{AgentKeys, MessageId};
use creto_envelope::control::StreamRole;
use creto_envelope::deliver::{ConsumerAck, Credit, Deliver, Subscribe};
use creto_envelope::envelope::EnvelopeHeader;
use creto_envelope::submit::SubmitAck;
use creto_envelope::{FrameType, KeyId, SignedKeyRecord};
use creto_node::Node;
use home::{Home, now_ms, on_time};

const BATCHES: u64 = 120;
const MESSAGES: u64 = 8;

struct End {
    connection: RawConnection,
    _control: RawStream,
}

async fn end(home: &Home, node: &Node, keys: &Arc<AgentKeys>) -> End {
    let connection = RawConnection::connect(node.address(), &home.certificate, Duration::from_secs(10)).await.unwrap();
    let (control, _) = connection.log_in(keys).await.unwrap();
    End { connection, _control: control }
}

/// One message, of an id that says which it is.
fn envelope(from: &AgentKeys, to: &SignedKeyRecord, number: u64) -> Vec<u8> {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    let now = now_ms();
    let (id, key) = (MessageId::from_parts(now, random), KeyId(to.record.key_id().0));
    let header = EnvelopeHeader::sealed(from.id(), to.record.agent_id(), key, id, now, 8).unwrap();
    seal_envelope(&header, to, &number.to_be_bytes()).unwrap()
}

#[test]
fn a_connection_whose_address_changes_goes_on_and_loses_nothing() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with("topology.shards = 2\n");
        let sender = Arc::new(home.register(&node, "acme/planner").await);
        let receiver = Arc::new(home.register(&node, "acme/worker").await);
        let record = receiver.signed_record(1, 0, u64::MAX);
        let (from, to) = (end(&home, &node, &sender).await, end(&home, &node, &receiver).await);

        let mut deliver = to.connection.open(StreamRole::Deliver).await.unwrap();
        let mut frames = Vec::new();
        Subscribe { mailbox: receiver.id() }.encode(&mut frames);
        Credit { messages: 4_096, bytes: 4_194_304 }.encode(&mut frames);
        deliver.send(frames).await.unwrap();

        let sending = async {
            let mut submit = from.connection.open(StreamRole::Submit).await.unwrap();
            let mut answered = 0;
            for batch in 1..=BATCHES {
                let numbers = (batch - 1) * MESSAGES..batch * MESSAGES;
                let envelopes: Vec<_> = numbers.map(|number| envelope(&sender, &record, number)).collect();
                submit.send(signed_batch_frame(&sender, batch, &envelopes).unwrap()).await.unwrap();
                if batch % 10 == 0 {
                    // What was just sent is on its way, and its answer will find the new address.
                    from.connection.change_address().unwrap();
                }
                // Sixteen batches at a time, so that some are always under way.
                while batch - answered >= 16 || (batch == BATCHES && answered < batch) {
                    let frame = submit.next().await.unwrap().unwrap();
                    assert_eq!(frame.frame_type, FrameType::SubmitAck as u8);
                    let ack = SubmitAck::parse(&frame.body).unwrap();
                    assert!(ack.results.is_empty(), "{ack:?}");
                    answered = ack.through_sequence;
                }
            }
        };
        let receiving = async {
            let (mut seen, mut moved) = (Vec::new(), 0);
            while (seen.len() as u64) < BATCHES * MESSAGES {
                let frame = deliver.next().await.unwrap().unwrap();
                if frame.frame_type != FrameType::Deliver as u8 {
                    continue;
                }
                let delivered = Deliver::parse(&frame.body).unwrap().messages;
                let sequences: Vec<u64> = delivered.iter().map(|message| message.mailbox_sequence).collect();
                seen.extend(&sequences);
                let mut frames = Vec::new();
                ConsumerAck { sequences }.encode(&mut frames);
                deliver.send(frames).await.unwrap();
                if seen.len() as u64 >= (moved + 1) * 100 {
                    to.connection.change_address().unwrap();
                    moved += 1;
                }
            }
            (seen, moved)
        };
        let ((), (seen, moved)) = tokio::join!(sending, receiving);
        assert!(moved >= 5, "the receiver's address changed {moved} times");
        let all: Vec<u64> = (seen[0]..seen[0] + BATCHES * MESSAGES).collect();
        assert_eq!(seen, all, "every message once and in order");
        node.stop().unwrap();
    });
}
