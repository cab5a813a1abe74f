//! How long a message takes over a whole node, by the wall clock: QUIC on loopback, a log that is synced before anything is
//! acknowledged or delivered, the sender and the recipient beside the node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_agent::raw::{RawConnection, RawStream};
use creto_benches::crypto::PAYLOAD_BYTES;
use creto_benches::node::BenchNode;
use creto_benches::sessions::Sessions;
use creto_envelope::FrameType;
use creto_envelope::control::StreamRole;
use creto_envelope::deliver::{ConsumerAck, Credit, Deliver, Subscribe};
use creto_loadgen::{NodeSetup, RegisterError, Registration, Report, RunOptions, Scenario, SizeMix};

/// Messages a second of the open loop.
pub(crate) const RATE_PER_S: u64 = 1_000;
const WITHIN: Duration = Duration::from_secs(30);

/// From the bytes of a signed message that its sender has to the same bytes at its recipient, one message at a time; the
/// shortest first. The node admits it and syncs it in between.
pub(crate) async fn wire(node: &BenchNode, messages: usize) -> Vec<Duration> {
    let sender = Arc::new(node.new_agent("acme/wire-a").await);
    let recipient = Arc::new(node.new_agent("acme/wire-b").await);
    let mut sessions = Sessions::between(&sender, &recipient);
    let frames: Vec<_> = (0..messages).map(|_| sessions.batch(&sender, 1, &[0x5a; PAYLOAD_BYTES])).collect();

    let out = RawConnection::connect(node.address(), node.certificate(), WITHIN).await.unwrap();
    let _control = out.log_in(&sender).await.unwrap();
    let mut submit = out.open(StreamRole::Submit).await.unwrap();
    let back = RawConnection::connect(node.address(), node.certificate(), WITHIN).await.unwrap();
    let _control = back.log_in(&recipient).await.unwrap();
    let mut deliver = back.open(StreamRole::Deliver).await.unwrap();
    let mut frame = Vec::new();
    Subscribe { mailbox: recipient.id() }.encode(&mut frame);
    Credit { messages: 64, bytes: 1 << 20 }.encode(&mut frame);
    deliver.send(frame).await.unwrap();

    let mut took = Vec::with_capacity(messages);
    for frame in frames {
        let begun = Instant::now();
        submit.send(frame).await.unwrap();
        let (sequences, bytes) = delivered(&mut deliver).await;
        took.push(begun.elapsed());
        assert_eq!(sequences.len(), 1, "one message was sent");
        let mut answer = Vec::new();
        ConsumerAck { sequences }.encode(&mut answer);
        Credit { messages: 1, bytes: u32::try_from(bytes).unwrap() }.encode(&mut answer);
        deliver.send(answer).await.unwrap();
        submit.next().await.unwrap().unwrap();
    }
    took.sort_unstable();
    took
}

async fn delivered(deliver: &mut RawStream) -> (Vec<u64>, usize) {
    loop {
        let frame = deliver.next().await.unwrap().unwrap();
        if frame.frame_type == FrameType::Deliver as u8 {
            let messages = Deliver::parse(&frame.body).unwrap().messages;
            let bytes = messages.iter().map(|message| message.envelope.len()).sum();
            return (messages.iter().map(|message| message.mailbox_sequence).collect(), bytes);
        }
    }
}

/// From the moment a message is due to the recipient's application, through the SDK at both ends: sealed, signed, admitted,
/// durable, delivered, verified, opened.
pub(crate) async fn total(node: &BenchNode, duration: Duration) -> Report {
    let options = RunOptions {
        rate_per_s: RATE_PER_S,
        duration,
        sizes: SizeMix::of(PAYLOAD_BYTES),
        ..RunOptions::new(node.address(), node.certificate().clone(), Scenario::Direct)
    };
    let register = async |registration: Registration| -> Result<(), RegisterError> {
        match registration {
            Registration::Agent(record) => drop(node.control().register(&record).await?),
            other => panic!("this scenario has agents only: {other:?}"),
        }
        Ok(())
    };
    let finished = creto_loadgen::run(&options, 1, NodeSetup::default(), register, |_| ()).await.unwrap();
    let report = finished.report;
    assert!(report.holds(), "a message was lost or repeated: {report:?}");
    report
}
