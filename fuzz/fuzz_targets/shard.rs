//! Two shards with clients that do whatever the input says: log in, submit good, broken and hostile batches, subscribe, grant
//! credit, acknowledge, send frames that are none, vanish; over a disk that answers late or fails.
//!
//! No panic, and what the clients see keeps the rules of docs/protocol.md: acknowledgements never go back or ahead of what
//! was sent, results name messages that exist, nothing is pushed twice on one subscription, and the first Deliver frame of
//! a stream has a batch header.
#![no_main]

#[path = "../../engine/shard/tests/fixture/mod.rs"]
#[allow(dead_code)]
mod fixture;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use creto_fuzz::creto_envelope::control::{KeyRecordPublish, KeyRecordRequest, RotationMode};
use creto_fuzz::creto_envelope::deliver::{ConsumerAck, Credit, Deliver, Subscribe};
use creto_fuzz::creto_envelope::submit::{SubmitAck, WHOLE_BATCH};
use creto_fuzz::creto_envelope::{AgentId, FrameType, MessageId, RejectCode, SignedKeyRecord};
use creto_fuzz::creto_store::DiskError;
use creto_shard::{Event, KeyRefused, StreamId};
use creto_sim::agents::{SimAgent, snapshot};
use fixture::{CONTROL, Client, DELIVER, NOW, Node, SUBMIT, id};

const CONNECTIONS_MAX: usize = 10;
const OPERATIONS_MAX: usize = 200;

struct World {
    agents: [SimAgent; 3],
    /// The login of each agent on each connection.
    logins: Vec<[Vec<u8>; 3]>,
    /// SignedBatch bodies with sequence zero, and how many messages each holds.
    batches: Vec<(Vec<u8>, u32)>,
}

/// Everything that costs a signature is made once.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let agents =
        [SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2), SimAgent::new("other/stranger", 3)];
    let login = |agent: &SimAgent, number: usize| {
        let mut frame = Vec::new();
        let exporter = [u8::try_from(number).expect("few connections"); 32];
        agent.login(&exporter).encode(&mut frame);
        frame.split_off(8)
    };
    let logins = (0..=CONNECTIONS_MAX).map(|number| agents.each_ref().map(|agent| login(agent, number))).collect();
    let batches = batches(&agents);
    World { agents, logins, batches }
});

fn batches(agents: &[SimAgent; 3]) -> Vec<(Vec<u8>, u32)> {
    let [planner, executor, stranger] = agents;
    let nobody = SimAgent::new("acme/nobody", 9);
    let fine = |number: u8| planner.seal(executor, id(number), NOW.unix_ms, &[number; 20]);
    let broken = |at: usize| {
        let mut envelope = fine(50);
        envelope[at] ^= 0x0e;
        envelope
    };
    let mut urgent = fine(51);
    urgent[3] = 3;
    let mut brief = fine(52);
    brief[12] = 1;
    let old = MessageId::from_parts(1, [6; 10]);
    let envelopes = [
        vec![fine(1)],
        vec![fine(2), urgent, brief],
        vec![fine(2), fine(3)],
        vec![planner.seal(executor, id(4), NOW.unix_ms, &[4; 9_000])],
        vec![broken(3), fine(5)],
        vec![broken(0)],
        vec![fine(6), fine(6)],
        vec![planner.seal(stranger, id(7), NOW.unix_ms, b"x"), fine(8)],
        vec![planner.seal(&nobody, id(9), NOW.unix_ms, b"x")],
        vec![planner.seal(executor, old, NOW.unix_ms, b"x"), fine(10)],
        vec![executor.seal(planner, id(11), NOW.unix_ms, b"x"), broken(2)],
        vec![broken(112)],
    ];
    let mut bodies: Vec<_> = envelopes
        .iter()
        .flat_map(|envelopes| {
            // Signed too long ago as well: what is wrong with a message and with its batch can come together.
            [NOW.unix_ms, NOW.unix_ms - 3_600_001]
                .map(|at| (planner.sign(envelopes, at).body(0), u32::try_from(envelopes.len()).expect("few")))
        })
        .collect();
    bodies.push((executor.sign(&[executor.seal(planner, id(12), NOW.unix_ms, b"x")], NOW.unix_ms).body(0), 1));
    bodies
}

struct Peer {
    client: Client,
    number: usize,
    logged_in: bool,
    submitted: Vec<u32>,
    answered: u64,
    delivered: BTreeSet<u64>,
    saw_header: bool,
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn index(&mut self, length: usize) -> usize {
        usize::from(self.u8()).checked_rem(length).unwrap_or(0)
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.u8()))
    }

    fn bytes(&mut self) -> &'a [u8] {
        let count = usize::from(self.u8()).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }
}

libfuzzer_sys::fuzz_target!(init: { LazyLock::force(&WORLD); }, |data: &[u8]| {
    let mut input = Input(data);
    let shard_count = 1 + u16::from(input.u8() % 2);
    let mut node = Node::new(shard_count, &WORLD.agents.each_ref());
    let mut peers = Vec::new();
    for _ in 0..OPERATIONS_MAX {
        if input.0.is_empty() {
            break;
        }
        let operation = input.u8();
        step(operation % 16, &mut node, &mut peers, &mut input);
        // Some turns take in several events at once.
        if operation & 0x80 == 0 {
            node.run();
            look(&mut node, &mut peers);
        }
    }
    node.hold_disk = false;
    node.run();
    look(&mut node, &mut peers);
});

fn step(operation: u8, node: &mut Node, peers: &mut Vec<Peer>, input: &mut Input<'_>) {
    if peers.is_empty() || operation == 0 {
        if peers.len() < CONNECTIONS_MAX {
            let client = node.connect(input.index(node.shards.len()));
            let number = peers.len() + 1;
            let (submitted, delivered) = (Vec::new(), BTreeSet::new());
            peers.push(Peer { client, number, logged_in: false, submitted, answered: 0, delivered, saw_header: false });
        }
        return;
    }
    let which = input.index(peers.len());
    let peer = &mut peers[which];
    let client = peer.client;
    match operation {
        1 | 2 => {
            let number = if operation == 1 { peer.number } else { input.index(WORLD.logins.len()) };
            let login = &WORLD.logins[number][input.index(3)];
            node.frame(&client, CONTROL, FrameType::Login, login);
        }
        3..=5 => {
            let (body, count) = &WORLD.batches[input.index(WORLD.batches.len())];
            let mut body = body.clone();
            let mut sequence = peer.submitted.len() as u64 + 1;
            if operation == 5 {
                match input.u8() {
                    0 => sequence = input.u32().into(),
                    1 => body.truncate(input.u32() as usize % (body.len() + 1)),
                    _ => {
                        let at = input.u32() as usize % body.len();
                        body[at] ^= input.u8() | 1;
                    }
                }
            }
            if let Some(front) = body.first_chunk_mut() {
                *front = sequence.to_le_bytes();
            }
            // Before the login a batch is refused and not counted.
            peer.logged_in |= !node.take(&client, FrameType::LoginAccepted).is_empty();
            if peer.logged_in {
                peer.submitted.push(*count);
            }
            node.frame(&client, SUBMIT, FrameType::SignedBatch, &body);
        }
        6 => {
            let mailbox = WORLD.agents.get(input.index(4)).map_or(AgentId::ZERO, |agent| agent.id);
            node.frames(&client, DELIVER, |out| Subscribe { mailbox }.encode(out));
        }
        7 => {
            let (messages, bytes) = (u32::from(input.u8()), u32::from(input.u8()) << input.index(24));
            node.frames(&client, DELIVER, |out| Credit { messages, bytes }.encode(out));
        }
        8 => {
            let honest = input.u8() != 0;
            let sequences = if honest { peer.delivered.iter().copied().collect() } else { vec![input.u8().into()] };
            node.frames(&client, DELIVER, |out| ConsumerAck { sequences }.encode(out));
        }
        9 => {
            let agent = WORLD.agents.get(input.index(4)).map_or(AgentId::ZERO, |agent| agent.id);
            let version = u32::from(input.u8() % 3);
            node.frames(&client, CONTROL, |out| KeyRecordRequest { agent, version }.encode(out));
        }
        10 if input.u8() & 1 == 1 => {
            // An agent replaces its key, or control answers whoever did.
            match node.published.pop() {
                Some((shard, connection, ..)) => {
                    let refused = KeyRefused { code: RejectCode::Overloaded, retry_after_ms: 1 };
                    let answer = if input.u8() & 1 == 1 { Ok(2) } else { Err(refused) };
                    node.event(shard, Event::KeyRecordPublished { connection, answer });
                }
                None => {
                    let record = SignedKeyRecord::clone(&WORLD.agents[input.index(WORLD.agents.len())].record);
                    let publish = KeyRecordPublish { mode: RotationMode::Planned, record };
                    node.frames(&client, CONTROL, |out| publish.encode(out));
                }
            }
        }
        10 => {
            let frame_type = FrameType::ALL[input.index(FrameType::ALL.len())];
            if frame_type == FrameType::SignedBatch {
                // It may be counted as the next batch; how many messages it claims to have is anybody's guess.
                peer.submitted.push(u32::MAX);
            }
            node.frame(&client, StreamId(u64::from(input.u8() % 5)), frame_type, input.bytes());
        }
        11 => {
            let stream = [CONTROL, SUBMIT, DELIVER][input.index(3)];
            let connection = client.connection;
            node.event(
                client.shard,
                match input.u8() % 4 {
                    0 => Event::FrameError { connection, stream, code: RejectCode::FrameTruncated },
                    _ => Event::StreamClosed { connection, stream },
                },
            );
        }
        12 => node.event(client.shard, Event::Disconnected { connection: client.connection }),
        13 => node.hold_disk = !node.hold_disk,
        14 => match input.u8() {
            0 => node.complete_disk(Err(DiskError::Io("the input says so".into()))),
            _ => node.complete_disk(Ok(())),
        },
        _ => match input.u8() % 8 {
            0 => node.event(client.shard, Event::Drain),
            1 => {
                // Someone is not registered any more.
                let gone = input.index(4);
                let left = WORLD.agents.iter().enumerate().filter(|(index, _)| *index != gone).map(|(_, agent)| agent);
                let snapshot = snapshot(left);
                for shard in 0..node.shards.len() {
                    node.event(shard, Event::Snapshot(snapshot.clone()));
                }
            }
            _ => node.event(client.shard, Event::Tick),
        },
    }
}

/// Holds what the clients were sent against the protocol.
fn look(node: &mut Node, peers: &mut [Peer]) {
    for peer in peers {
        peer.logged_in |= !node.take(&peer.client, FrameType::LoginAccepted).is_empty();
        for body in node.take(&peer.client, FrameType::SubmitAck) {
            let ack = SubmitAck::parse(&body).expect("the node sends frames that parse");
            assert!(ack.through_sequence >= peer.answered, "acknowledgements never go back");
            assert!(ack.through_sequence <= peer.submitted.len() as u64, "nothing is answered before it was sent");
            peer.answered = ack.through_sequence;
            for result in ack.results {
                assert!(RejectCode::from_u16(result.code).is_some());
                let batch = usize::try_from(result.sequence - 1).expect("few batches");
                let count = *peer.submitted.get(batch).expect("a result names a batch that was sent");
                assert!(result.index == WHOLE_BATCH || result.index < count, "a result names a message that was sent");
            }
        }
        for body in node.take(&peer.client, FrameType::Deliver) {
            let deliver = Deliver::parse(&body).expect("the node sends frames that parse");
            peer.saw_header |= deliver.batch_header.is_some();
            assert!(peer.saw_header, "the first Deliver frame of a stream has a header");
            for message in deliver.messages {
                assert!(peer.delivered.insert(message.mailbox_sequence), "a message is pushed once per subscription");
            }
        }
    }
    node.sent.clear();
}
