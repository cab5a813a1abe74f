//! Whatever a client gets wrong has its own code, and nobody else notices.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::sync::Arc;
use std::time::Duration;

use creto_agent::raw::{RawConnection, RawStream, seal_envelope, signed_batch_frame};
use creto_agent::{AgentKeys, RejectCode, TrustDomain};
use creto_envelope::control::{KeyRecordRequest, StreamRole};
use creto_envelope::deliver::Subscribe;
use creto_envelope::submit::{SubmitAck, WHOLE_BATCH};
use creto_envelope::{AgentId, EnvelopeHeader, FrameType, MessageId, SignedKeyRecord};
use creto_node::Node;
use home::{Home, now_ms, on_time};

struct World {
    home: Home,
    node: Node,
    planner: Arc<AgentKeys>,
    executor: Arc<AgentKeys>,
    stranger: Arc<AgentKeys>,
    started_ms: u64,
}

impl World {
    async fn new() -> Self {
        let home = Home::new();
        let node = home.start();
        Self::around(home, node).await
    }

    /// The same, but the node's signatures are verified by a crypto worker.
    async fn with_worker() -> Self {
        let home = Home::new();
        let node = home.start_with_worker();
        Self::around(home, node).await
    }

    async fn around(home: Home, node: Node) -> Self {
        let planner = Arc::new(home.register(&node, "acme/planner").await);
        let executor = Arc::new(home.register(&node, "acme/executor").await);
        let stranger = Arc::new(home.register(&node, "other/stranger").await);
        Self { home, node, planner, executor, stranger, started_ms: now_ms() }
    }

    async fn connect(&self) -> RawConnection {
        let within = Duration::from_secs(10);
        RawConnection::connect(self.node.address(), &self.home.certificate, within).await.unwrap()
    }

    fn record(&self, keys: &AgentKeys) -> SignedKeyRecord {
        keys.signed_record(1, 0, u64::MAX)
    }

    fn envelope(&self, from: &AgentKeys, to: &AgentKeys, message_id: MessageId) -> Vec<u8> {
        let header = EnvelopeHeader::sealed(from.id(), to.id(), to.key_id(), message_id, now_ms(), 5).unwrap();
        seal_envelope(&header, &self.record(to), b"hello").unwrap()
    }

    fn batch(&self, number: u8, sequence: u64) -> Vec<u8> {
        let id = MessageId::from_parts(self.started_ms, [number; 10]);
        signed_batch_frame(&self.planner, sequence, &[self.envelope(&self.planner, &self.executor, id)]).unwrap()
    }

    /// The rest of the world goes on: one message is accepted on a connection of its own.
    async fn check_alive(&self, number: u8) {
        let connection = self.connect().await;
        let _control = connection.log_in(&self.planner).await.unwrap();
        let mut submit = connection.open(StreamRole::Submit).await.unwrap();
        submit.send(self.batch(number, 1)).await.unwrap();
        assert_eq!(results(&mut submit).await, []);
    }
}

async fn results(submit: &mut RawStream) -> Vec<(u32, RejectCode)> {
    let frame = submit.next().await.unwrap().unwrap();
    assert_eq!(frame.frame_type, FrameType::SubmitAck as u8);
    let ack = SubmitAck::parse(&frame.body).unwrap();
    ack.results.iter().map(|result| (result.index, RejectCode::from_u16(result.code).unwrap())).collect()
}

async fn reject(stream: &mut RawStream) -> RejectCode {
    stream.next().await.unwrap().unwrap().reject_code().unwrap()
}

/// Sends bytes as the first thing after the login, on a submit stream; the node names the fault and hangs up.
async fn check_closed(world: &World, bytes: Vec<u8>, finish: bool, expect: RejectCode) {
    let connection = world.connect().await;
    let _control = connection.log_in(&world.planner).await.unwrap();
    let mut stream = connection.open(StreamRole::Submit).await.unwrap();
    // The node may hang up before it has read everything.
    let _ = stream.send(bytes).await;
    if finish {
        stream.finish();
    }
    assert_eq!(connection.closed().await.code(), Some(expect));
}

#[test]
fn a_stream_of_no_frames_ends_its_connection_with_a_code() {
    on_time(async {
        let world = World::new().await;
        let good = world.batch(1, 1);
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        check_closed(&world, changed(5, 9), false, RejectCode::FrameVersion).await;
        check_closed(&world, changed(4, 0x7f), false, RejectCode::FrameUnknownType).await;
        check_closed(&world, changed(6, 1), false, RejectCode::FrameReserved).await;
        check_closed(&world, changed(3, 0xff), false, RejectCode::FrameOversized).await;
        check_closed(&world, good[..good.len() - 1].to_vec(), true, RejectCode::FrameTruncated).await;
        check_closed(&world, changed(8, 2), false, RejectCode::BatchSequence).await;
        world.check_alive(2).await;
    });
}

#[test]
fn a_bad_batch_is_answered_and_its_connection_goes_on() {
    on_time(async { check_bad_batches(&World::new().await).await });
}

#[test]
fn with_a_crypto_worker_a_bad_batch_is_answered_all_the_same() {
    on_time(async {
        let world = World::with_worker().await;
        check_bad_batches(&world).await;
        let summary = world.node.stop().unwrap();
        assert!(summary.drained, "the worker leaves nothing under way");
    });
}

async fn check_bad_batches(world: &World) {
    let connection = world.connect().await;
    let _control = connection.log_in(&world.planner).await.unwrap();
    let mut submit = connection.open(StreamRole::Submit).await.unwrap();
    let id = |number| MessageId::from_parts(now_ms(), [number; 10]);
    let mut sequence = 0;
    // Offsets are those of docs/protocol.md: 8 bytes of frame header, 8 of sequence, then the batch header.
    let in_frame: [(usize, u8, RejectCode); 6] = [
        (16, 9, RejectCode::BatchVersion),
        (17, 9, RejectCode::BatchSuite),
        (18, 1, RejectCode::BatchReserved),
        (20, 2, RejectCode::BatchTruncated),
        (16 + 72, 0, RejectCode::BadSignature),
        (16 + 3_448 + 24 + 200, 0, RejectCode::BatchRoot),
    ];
    for (at, value, code) in in_frame {
        sequence += 1;
        let mut bytes = world.batch(1, sequence);
        bytes[at] = if bytes[at] == value { !value } else { value };
        submit.send(bytes).await.unwrap();
        assert_eq!(results(&mut submit).await, [(WHOLE_BATCH, code)]);
    }
    let (planner, executor, stranger) = (&world.planner, &world.executor, &world.stranger);
    let nobody = AgentKeys::generate("acme/nobody".parse().unwrap(), TrustDomain::default()).unwrap();
    let malformed = |at: usize, value: u8| {
        let mut envelope = world.envelope(planner, executor, id(9));
        // A key's id is as random as the key: it may have this byte by chance.
        envelope[at] = if envelope[at] == value { !value } else { value };
        envelope
    };
    let in_envelope = [
        (malformed(0, 2), RejectCode::EnvelopeVersion),
        (malformed(1, 9), RejectCode::EnvelopeSuite),
        (malformed(2, 0), RejectCode::EnvelopeKind),
        (malformed(8, 1), RejectCode::EnvelopeLength),
        (malformed(145, 1), RejectCode::EnvelopeNonce),
        (world.envelope(executor, planner, id(3)), RejectCode::SenderMismatch),
        (world.envelope(planner, stranger, id(4)), RejectCode::PolicyDenied),
        (world.envelope(planner, &nobody, id(5)), RejectCode::UnknownRecipient),
        (malformed(112, 0xee), RejectCode::UnknownRecipientKey),
        (world.envelope(planner, executor, MessageId::from_parts(1, [6; 10])), RejectCode::OutsideDedupWindow),
    ];
    for (envelope, code) in in_envelope {
        sequence += 1;
        submit.send(signed_batch_frame(planner, sequence, &[envelope]).unwrap()).await.unwrap();
        assert_eq!(results(&mut submit).await, [(0, code)]);
    }
    // The same message twice: stored once, and said so.
    for expect in [vec![], vec![(0, RejectCode::Duplicate)]] {
        sequence += 1;
        submit.send(world.batch(7, sequence)).await.unwrap();
        assert_eq!(results(&mut submit).await, expect);
    }
}

#[test]
fn nobody_gets_in_as_someone_else() {
    on_time(async {
        let world = World::new().await;
        let first = world.connect().await;
        let second = world.connect().await;
        let stolen = first.login(&world.planner).await.unwrap();
        let mut control = second.open(StreamRole::Control).await.unwrap();
        let mut frame = Vec::new();
        stolen.encode(&mut frame);
        control.send(frame).await.unwrap();
        assert_eq!(reject(&mut control).await, RejectCode::LoginBadSignature);

        let nobody = Arc::new(AgentKeys::generate("acme/nobody".parse().unwrap(), TrustDomain::default()).unwrap());
        let error = world.connect().await.log_in(&nobody).await.unwrap_err();
        assert_eq!(error.code(), Some(RejectCode::LoginUnknownAgent));

        // Logged in as oneself, someone else's mailbox is still someone else's.
        let (mut control, _) = first.log_in(&world.planner).await.unwrap();
        let mut deliver = first.open(StreamRole::Deliver).await.unwrap();
        let mut frame = Vec::new();
        Subscribe { mailbox: world.executor.id() }.encode(&mut frame);
        deliver.send(frame).await.unwrap();
        assert_eq!(reject(&mut deliver).await, RejectCode::NotMailboxOwner);

        // Nor is an unknown name confused with a forbidden one.
        for (agent, code) in
            [(AgentId([7; 16]), RejectCode::UnknownAgent), (world.stranger.id(), RejectCode::PolicyDenied)]
        {
            let mut frame = Vec::new();
            KeyRecordRequest { agent, version: 0 }.encode(&mut frame);
            control.send(frame).await.unwrap();
            assert_eq!(reject(&mut control).await, code);
        }
        world.check_alive(3).await;
    });
}

#[test]
fn a_key_that_has_expired_neither_logs_in_nor_signs() {
    on_time(async {
        let world = World::new().await;
        let until_ms = now_ms() + 500;
        let keys = Arc::new(world.home.register_until(&world.node, "acme/brief", until_ms).await);
        while now_ms() < until_ms {
            tokio::time::sleep(Duration::from_millis(until_ms.saturating_sub(now_ms()))).await;
        }
        let error = world.connect().await.log_in(&keys).await.unwrap_err();
        assert_eq!(error.code(), Some(RejectCode::KeyExpired));
    });
}
