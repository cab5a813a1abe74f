//! What the path promises, told from the outside: frames in, frames out, and a disk that is asked first.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use creto_envelope::control::Login;
use creto_envelope::deliver::{ConsumerAck, Subscribe, Subscribed};
use creto_envelope::submit::WHOLE_BATCH;
use creto_envelope::{EnvelopeView, FrameType, MessageId, RejectCode};
use creto_shard::limits::{SETTLE_REST_US, SETTLES_RESTING_MAX};
use creto_shard::route::Origin;
use creto_shard::{Event, Placement, ShardIndex, ShardMessage};
use creto_sim::agents::{SimAgent, SimBatch};
use creto_store::{DiskError, WalConfig};
use fixture::{CONTROL, Client, DELIVER, NOW, Node, SUBMIT, id};

struct World {
    planner: SimAgent,
    executor: SimAgent,
    stranger: SimAgent,
}

impl World {
    fn new() -> Self {
        Self {
            planner: SimAgent::new("acme/planner", 1),
            executor: SimAgent::new("acme/executor", 2),
            stranger: SimAgent::new("other/stranger", 3),
        }
    }

    fn node(&self, shard_count: u16) -> Node {
        Node::new(shard_count, &[&self.planner, &self.executor, &self.stranger])
    }

    fn batch(&self, numbers: &[u8]) -> SimBatch {
        let envelopes: Vec<_> = numbers
            .iter()
            .map(|&number| self.planner.seal(&self.executor, id(number), NOW.unix_ms, &[number; 20]))
            .collect();
        self.planner.sign(&envelopes, NOW.unix_ms)
    }
}

/// Submits one batch as the planner and looks at the answer.
#[track_caller]
fn check_answer(make: impl FnOnce(&World) -> SimBatch, expect: &[(u32, RejectCode)]) {
    let world = World::new();
    let mut node = world.node(2);
    let client = node.connect_as(0, &world.planner);
    let batch = make(&world);
    node.submit(&client, 1, &batch);
    assert_eq!(node.acks(&client), (1, expect.to_vec()));
    // Whatever was wrong, the connection goes on.
    node.submit(&client, 2, &world.batch(&[99]));
    assert_eq!(node.acks(&client), (2, vec![]));
}

#[test]
fn a_message_is_acknowledged_only_after_write_and_sync() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.planner);
    node.hold_disk = true;
    node.submit(&client, 1, &world.batch(&[1, 2]));
    assert_eq!(node.acks(&client), (0, vec![]), "nothing is durable yet");
    node.complete_disk(Ok(()));
    node.run();
    assert_eq!(node.acks(&client), (1, vec![]));
}

#[test]
fn what_is_delivered_opens_to_what_was_sealed_and_comes_once() {
    for (shard_count, from, to) in [(1, 0, 0), (2, 0, 1), (2, 1, 0), (4, 3, 2)] {
        let world = World::new();
        let mut node = world.node(shard_count);
        let sender = node.connect_as(from, &world.planner);
        let reader = node.connect_as(to, &world.executor);
        node.subscribe(&reader, &world.executor);
        node.submit(&sender, 1, &world.batch(&[1, 2, 3]));
        let deliveries = node.deliveries(&reader);
        let opened: Vec<_> = deliveries
            .iter()
            .map(|(_, envelope)| world.executor.open(&EnvelopeView::parse(envelope).unwrap()))
            .collect();
        assert_eq!(opened, [[1; 20], [2; 20], [3; 20]]);
        let sequences: Vec<_> = deliveries.iter().map(|(span, _)| span.mailbox_sequence).collect();
        node.frames(&reader, DELIVER, |out| ConsumerAck { sequences: sequences[..2].to_vec() }.encode(out));
        node.run();
        // Another connection takes over and is given what was not acknowledged, marked as a repetition.
        let second = node.connect_as(0, &world.executor);
        node.frames(&second, DELIVER, |out| Subscribe { mailbox: world.executor.id }.encode(out));
        node.run();
        assert_eq!(node.rejects(&reader), [RejectCode::SubscriptionReplaced]);
        let subscribed = Subscribed::parse(&node.take(&second, FrameType::Subscribed)[0]).unwrap();
        assert_eq!(subscribed.queued_messages, 1);
        let second = node.connect_as(0, &world.executor);
        node.subscribe(&second, &world.executor);
        let again = node.deliveries(&second);
        assert_eq!(again.iter().map(|(span, _)| span.mailbox_sequence).collect::<Vec<_>>(), sequences[2..]);
        assert_eq!(again[0].0.attempt, 1);
    }
}

#[test]
fn messages_of_a_session_take_the_same_path_with_and_without_the_wrapped_key() {
    let world = World::new();
    let mut node = world.node(2);
    let sender = node.connect_as(0, &world.planner);
    let reader = node.connect_as(1, &world.executor);
    node.subscribe(&reader, &world.executor);
    let mut session = world.planner.open_session(&world.executor);
    let mut seal = |number, with_key| session.seal(with_key, id(number), NOW.unix_ms, &[number; 20]);
    let mut beyond = seal(4, false);
    beyond[105] = 0x10;
    beyond[149] = 0x10;
    let mut nameless = seal(5, false);
    nameless[128..144].fill(0);
    let envelopes = [seal(1, true), beyond, seal(2, false), nameless, seal(3, false)];
    node.submit(&sender, 1, &world.planner.sign(&envelopes, NOW.unix_ms));
    assert_eq!(node.acks(&sender), (1, vec![(1, RejectCode::SessionCounter), (3, RejectCode::UnknownSession)]));

    let deliveries = node.deliveries(&reader);
    let views: Vec<_> = deliveries.iter().map(|(_, envelope)| EnvelopeView::parse(envelope).unwrap()).collect();
    let mut chain = world.executor.accept_session(&views[0]);
    let opened: Vec<_> = views
        .iter()
        .map(|view| chain.open(view.counter(), &view.header().nonce, view.header_bytes(), view.payload()).unwrap())
        .collect();
    assert_eq!(opened, [[1; 20], [2; 20], [3; 20]]);
}

#[test]
fn a_subscription_that_was_overtaken_does_not_take_the_mailbox_back() {
    let world = World::new();
    let mut node = world.node(3);
    let mailbox = world.executor.id;
    let owner = usize::from(Placement::new(3).owner(&mailbox).0);
    let (old, new) = (node.connect_as(0, &world.executor), node.connect_as(1, &world.executor));
    // Each from its own ring: the newer one is read first, and then the older connection is found dead.
    let origin = |client: &fixture::Client| Origin {
        shard: ShardIndex(u16::try_from(client.shard).unwrap()),
        connection: client.connection,
    };
    let told = [
        ShardMessage::Subscribe { mailbox, origin: origin(&new), since_us: 2 },
        ShardMessage::Credit { mailbox, origin: origin(&new), messages: 10, bytes: 1 << 20 },
        ShardMessage::Subscribe { mailbox, origin: origin(&old), since_us: 1 },
        ShardMessage::Unsubscribe { mailbox, origin: origin(&old) },
    ];
    for message in told {
        node.event(owner, Event::FromShard { from: ShardIndex(0), message });
    }
    let sender = node.connect_as(2, &world.planner);
    node.submit(&sender, 1, &world.batch(&[1]));
    assert_eq!((node.rejects(&old), node.rejects(&new)), (vec![RejectCode::SubscriptionReplaced], vec![]));
    assert_eq!(node.deliveries(&new).len(), 1);
}

#[test]
fn nothing_is_pushed_beyond_the_credit() {
    let world = World::new();
    let mut node = world.node(2);
    let sender = node.connect_as(0, &world.planner);
    let reader = node.connect_as(1, &world.executor);
    node.frames(&reader, DELIVER, |out| Subscribe { mailbox: world.executor.id }.encode(out));
    node.submit(&sender, 1, &world.batch(&[1, 2, 3]));
    assert_eq!(node.deliveries(&reader).len(), 0);
    let credit = creto_envelope::deliver::Credit { messages: 2, bytes: 1 << 20 };
    node.frames(&reader, DELIVER, |out| credit.encode(out));
    node.run();
    assert_eq!(node.deliveries(&reader).len(), 2);
    let credit = creto_envelope::deliver::Credit { messages: 5, bytes: 0 };
    node.frames(&reader, DELIVER, |out| credit.encode(out));
    node.run();
    assert_eq!(node.deliveries(&reader).len(), 1);
}

#[test]
fn one_byte_of_credit_lets_one_message_of_any_size_through() {
    let world = World::new();
    let mut node = world.node(1);
    let sender = node.connect_as(0, &world.planner);
    let reader = node.connect_as(0, &world.executor);
    node.frames(&reader, DELIVER, |out| Subscribe { mailbox: world.executor.id }.encode(out));
    let large = world.planner.seal(&world.executor, id(1), NOW.unix_ms, &vec![7; 1 << 20]);
    node.submit(&sender, 1, &world.planner.sign(&[large], NOW.unix_ms));
    node.submit(&sender, 2, &world.batch(&[2]));
    let credit = creto_envelope::deliver::Credit { messages: 5, bytes: 1 };
    node.frames(&reader, DELIVER, |out| credit.encode(out));
    node.run();
    assert_eq!(node.deliveries(&reader).len(), 1);
}

#[test]
fn a_resend_is_a_duplicate_and_is_delivered_once() {
    let world = World::new();
    let mut node = world.node(2);
    let sender = node.connect_as(0, &world.planner);
    node.hold_disk = true;
    node.submit(&sender, 1, &world.batch(&[1]));
    node.submit(&sender, 2, &world.batch(&[1]));
    assert_eq!(node.acks(&sender), (0, vec![]), "a duplicate waits for its first copy");
    node.hold_disk = false;
    node.run();
    assert_eq!(node.acks(&sender), (2, vec![(0, RejectCode::Duplicate)]));
    let reader = node.connect_as(1, &world.executor);
    node.subscribe(&reader, &world.executor);
    assert_eq!(node.deliveries(&reader).len(), 1);
}

#[test]
fn a_changed_envelope_is_refused() {
    check_answer(
        |world| {
            let mut batch = world.batch(&[1, 2]);
            *batch.envelopes[1].last_mut().unwrap() ^= 1;
            batch
        },
        &[(WHOLE_BATCH, RejectCode::BatchRoot)],
    );
}

#[test]
fn either_bad_signature_refuses_the_batch() {
    let changes: [fn(&mut SimBatch); 2] =
        [|batch| batch.header.ed25519[5] ^= 1, |batch| batch.header.ml_dsa_65[5] ^= 1];
    for field in changes {
        check_answer(
            |world| {
                let mut batch = world.batch(&[1]);
                field(&mut batch);
                batch
            },
            &[(WHOLE_BATCH, RejectCode::BadSignature)],
        );
    }
}

#[test]
fn a_statement_that_says_something_else_is_refused() {
    check_answer(
        |world| {
            let mut batch = world.batch(&[1]);
            batch.header.signed_at_ms += 1;
            batch
        },
        &[(WHOLE_BATCH, RejectCode::BadSignature)],
    );
    check_answer(
        |world| {
            let mut batch = world.batch(&[1]);
            batch.header.key_record_version = 2;
            batch
        },
        &[(WHOLE_BATCH, RejectCode::UnknownKeyVersion)],
    );
    check_answer(
        |world| {
            let envelope = world.planner.seal(&world.executor, id(1), NOW.unix_ms, b"x");
            world.planner.sign(&[envelope], NOW.unix_ms - 3_600_001)
        },
        &[(WHOLE_BATCH, RejectCode::SigningTime)],
    );
}

#[test]
fn nobody_sends_as_someone_else() {
    check_answer(
        |world| {
            let envelope = world.executor.seal(&world.planner, id(1), NOW.unix_ms, b"x");
            world.executor.sign(&[envelope], NOW.unix_ms)
        },
        &[(WHOLE_BATCH, RejectCode::SenderMismatch)],
    );
    check_answer(
        |world| {
            let own = world.planner.seal(&world.executor, id(1), NOW.unix_ms, b"x");
            let foreign = world.executor.seal(&world.planner, id(2), NOW.unix_ms, b"x");
            world.planner.sign(&[own, foreign], NOW.unix_ms)
        },
        &[(1, RejectCode::SenderMismatch)],
    );
}

#[test]
fn one_refused_message_does_not_hold_back_the_others() {
    check_answer(
        |world| {
            let nobody = SimAgent::new("acme/nobody", 9);
            let old_key = SimAgent::new("acme/executor", 8);
            let mut malformed = world.planner.seal(&world.executor, id(4), NOW.unix_ms, b"x");
            malformed[3] = 9;
            let envelopes = [
                world.planner.seal(&world.executor, id(1), NOW.unix_ms, b"fine"),
                world.planner.seal(&world.stranger, id(2), NOW.unix_ms, b"x"),
                world.planner.seal(&nobody, id(3), NOW.unix_ms, b"x"),
                malformed,
                world.planner.seal(&old_key, id(5), NOW.unix_ms, b"x"),
                world.planner.seal(&world.executor, MessageId::from_parts(1, [6; 10]), NOW.unix_ms, b"x"),
            ];
            world.planner.sign(&envelopes, NOW.unix_ms)
        },
        &[
            (3, RejectCode::EnvelopePriority),
            (1, RejectCode::PolicyDenied),
            (2, RejectCode::UnknownRecipient),
            (4, RejectCode::UnknownRecipientKey),
            (5, RejectCode::OutsideDedupWindow),
        ],
    );
}

#[test]
fn a_batch_that_is_refused_as_a_whole_answers_for_its_refused_messages_too() {
    // Decode refuses the first message alone; what comes after decode refuses them all.
    fn malformed(world: &World) -> Vec<Vec<u8>> {
        let mut malformed = world.planner.seal(&world.executor, id(1), NOW.unix_ms, b"x");
        malformed[3] = 9;
        vec![malformed, world.planner.seal(&world.executor, id(2), NOW.unix_ms, b"fine")]
    }
    check_answer(
        |world| world.planner.sign(&malformed(world), NOW.unix_ms - 3_600_001),
        &[(WHOLE_BATCH, RejectCode::SigningTime)],
    );
    check_answer(
        |world| {
            let mut batch = world.planner.sign(&malformed(world), NOW.unix_ms);
            batch.header.root[0] ^= 1;
            batch
        },
        &[(WHOLE_BATCH, RejectCode::BatchRoot)],
    );
    check_answer(
        |world| {
            let mut batch = world.planner.sign(&malformed(world), NOW.unix_ms);
            batch.header.ed25519[5] ^= 1;
            batch
        },
        &[(WHOLE_BATCH, RejectCode::BadSignature)],
    );
    check_answer(
        |world| {
            let mut envelopes = malformed(world);
            envelopes.push(envelopes[1].clone());
            world.planner.sign(&envelopes, NOW.unix_ms)
        },
        &[(WHOLE_BATCH, RejectCode::BatchRepeatedMessage)],
    );
}

#[test]
fn a_batch_that_repeats_a_message_id_is_refused() {
    check_answer(|world| world.batch(&[1, 2, 1]), &[(WHOLE_BATCH, RejectCode::BatchRepeatedMessage)]);
}

#[test]
fn only_the_holder_of_both_keys_logs_in_and_only_here() {
    let world = World::new();
    let mut node = world.node(1);
    let first = node.connect(0);
    let second = node.connect(0);
    // A login that was made for another connection.
    let replayed = world.planner.login(&first.exporter);
    node.frames(&second, CONTROL, |out| replayed.encode(out));
    assert_eq!(node.rejects(&second), [RejectCode::LoginBadSignature]);
    let changes: [fn(&mut Login); 2] = [|login| login.ed25519[0] ^= 1, |login| login.ml_dsa_65[9] ^= 1];
    for change in changes {
        let mut login = world.planner.login(&first.exporter);
        change(&mut login);
        node.frames(&first, CONTROL, |out| login.encode(out));
        assert_eq!(node.rejects(&first), [RejectCode::LoginBadSignature]);
    }
    let nobody = SimAgent::new("acme/nobody", 9);
    node.frames(&second, CONTROL, |out| nobody.login(&second.exporter).encode(out));
    assert_eq!(node.rejects(&second), [RejectCode::LoginUnknownAgent]);
    node.frames(&second, CONTROL, |out| world.planner.login(&second.exporter).encode(out));
    assert_eq!(node.take(&second, FrameType::LoginAccepted).len(), 1);
    node.frames(&second, CONTROL, |out| world.planner.login(&second.exporter).encode(out));
    assert_eq!(node.rejects(&second), [RejectCode::LoginAgain]);
    // The third failure closes the first connection.
    node.frames(&first, CONTROL, |out| world.planner.login(&second.exporter).encode(out));
    assert_eq!(node.closed, [(first.connection, RejectCode::LoginBadSignature)]);
}

#[test]
fn nothing_is_taken_before_the_login() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect(0);
    node.submit(&client, 1, &world.batch(&[1]));
    assert_eq!(node.rejects(&client), [RejectCode::LoginRequired]);
    node.frames(&client, DELIVER, |out| Subscribe { mailbox: world.planner.id }.encode(out));
    assert_eq!(node.rejects(&client), [RejectCode::LoginRequired]);
}

#[test]
fn a_connection_that_does_not_log_in_is_closed() {
    let world = World::new();
    let mut node = world.node(1);
    let stranger = node.connect(0);
    let agent = node.connect_as(0, &world.planner);
    node.tick(10_000_000 - 1);
    assert_eq!(node.closed, []);
    node.tick(10_000_000);
    assert_eq!(node.closed, [(stranger.connection, RejectCode::LoginRequired)]);
    node.tick(u64::MAX);
    node.submit(&agent, 1, &world.batch(&[1]));
    assert_eq!(node.acks(&agent), (1, vec![]));
}

#[test]
fn nobody_is_unknown_before_the_node_knows_anybody() {
    let world = World::new();
    let mut node = world.node(1);
    node.event(0, Event::Snapshot(std::sync::Arc::new(creto_policy::Snapshot::empty())));
    let client = node.connect(0);
    node.frames(&client, CONTROL, |out| world.planner.login(&client.exporter).encode(out));
    let codes = node.rejects(&client);
    assert_eq!(codes, [RejectCode::PolicyUnavailable]);
    assert!(codes[0].is_retryable(), "an agent must come back instead of giving up");
    node.event(0, Event::Snapshot(creto_sim::agents::snapshot([&world.planner])));
    node.frames(&client, CONTROL, |out| world.planner.login(&client.exporter).encode(out));
    assert_eq!(node.take(&client, FrameType::LoginAccepted).len(), 1);
}

#[test]
fn only_the_owner_reads_a_mailbox() {
    let world = World::new();
    let mut node = world.node(2);
    let thief = node.connect_as(0, &world.planner);
    node.frames(&thief, DELIVER, |out| Subscribe { mailbox: world.executor.id }.encode(out));
    node.run();
    assert_eq!(node.rejects(&thief), [RejectCode::NotMailboxOwner]);
    assert!(node.take(&thief, FrameType::Subscribed).is_empty());
}

#[test]
fn a_key_record_is_given_to_whoever_may_talk_to_the_agent() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.planner);
    let ask = |agent| creto_envelope::control::KeyRecordRequest { agent, version: 0 };
    node.frames(&client, CONTROL, |out| ask(world.executor.id).encode(out));
    let answers = node.take(&client, FrameType::KeyRecordResponse);
    assert_eq!(creto_envelope::SignedKeyRecord::parse(&answers[0]).unwrap(), *world.executor.record);
    node.frames(&client, CONTROL, |out| ask(world.stranger.id).encode(out));
    node.frames(&client, CONTROL, |out| ask(creto_envelope::AgentId([7; 16])).encode(out));
    assert_eq!(node.rejects(&client), [RejectCode::PolicyDenied, RejectCode::UnknownAgent]);
}

#[test]
fn a_stream_whose_numbering_breaks_is_closed() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.planner);
    node.submit(&client, 2, &world.batch(&[1]));
    assert_eq!(node.closed, [(client.connection, RejectCode::BatchSequence)]);
}

#[test]
fn a_shard_that_has_not_started_holds_what_came_and_reads_no_more() {
    let world = World::new();
    let mut node = Node::start(1, &[&world.planner, &world.executor], true);
    let client = node.connect_as(0, &world.planner);
    node.submit(&client, 1, &world.batch(&[1]));
    assert!(!node.shards[0].is_started() && !node.reading);
    assert!(!node.shards[0].has_work(), "only the disk can bring it on");
    assert_eq!(node.acks(&client), (0, vec![]));
    node.hold_disk = false;
    node.run();
    assert!(node.reading);
    assert_eq!(node.acks(&client), (1, vec![]));
}

#[test]
fn a_disk_error_ends_every_acknowledgement() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.planner);
    node.hold_disk = true;
    node.submit(&client, 1, &world.batch(&[1]));
    node.complete_disk(Err(DiskError::Io("input/output error".into())));
    node.run();
    assert_eq!(node.fenced, 1);
    assert_eq!(node.acks(&client), (1, vec![(0, RejectCode::ShardFenced)]));
    node.submit(&client, 2, &world.batch(&[2]));
    assert_eq!(node.acks(&client), (2, vec![(0, RejectCode::ShardFenced)]));
}

#[test]
fn what_a_consumer_acknowledged_is_settled_when_a_full_disk_has_space_again() {
    let world = World::new();
    let small = WalConfig { segment_bytes: 32 << 10, frame_bytes_max: 20 << 10, ..WalConfig::default() };
    let mut node = Node::start_with(1, &[&world.planner, &world.executor], false, &small);
    let sender = node.connect_as(0, &world.planner);
    let reader = node.connect_as(0, &world.executor);
    node.subscribe(&reader, &world.executor);
    // Half of the segment is used then; the next one cannot be made, and what is left is not enough for anything.
    node.is_disk_full = true;
    node.submit(&sender, 1, &world.batch(&[1]));
    let sequences = node.deliveries(&reader).iter().map(|(span, _)| span.mailbox_sequence).collect();
    node.frames(&reader, DELIVER, |out| ConsumerAck { sequences }.encode(out));
    node.run();
    assert_eq!(node.shards[0].counters().messages_settled, 0);
    node.is_disk_full = false;
    node.tick(0);
    node.run();
    assert_eq!(node.shards[0].counters().messages_settled, 1);
}

#[test]
fn a_draining_shard_answers_what_it_took_and_takes_nothing_new() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.planner);
    node.hold_disk = true;
    node.submit(&client, 1, &world.batch(&[1]));
    node.event(0, creto_shard::Event::Drain);
    node.submit(&client, 2, &world.batch(&[2]));
    assert!(!node.shards[0].is_drained());
    node.hold_disk = false;
    node.run();
    assert_eq!(node.acks(&client), (2, vec![(WHOLE_BATCH, RejectCode::ShuttingDown)]));
    assert!(node.shards[0].is_drained());
}

#[test]
fn a_flood_of_bad_signatures_ends_its_connection() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.planner);
    for sequence in 1..=8 {
        let mut batch = world.batch(&[u8::try_from(sequence).unwrap()]);
        batch.header.ed25519[0] ^= 1;
        node.submit(&client, sequence, &batch);
    }
    assert_eq!(node.closed, [(client.connection, RejectCode::BadSignature)]);
}

#[test]
fn frames_on_the_wrong_stream_are_refused_and_too_many_close() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.planner);
    for _ in 0..16 {
        node.frame(&client, SUBMIT, FrameType::Credit, &[0; 8]);
    }
    assert_eq!(node.rejects(&client), [RejectCode::FrameUnexpected; 16]);
    assert_eq!(node.closed, [(client.connection, RejectCode::FrameUnexpected)]);
}

#[test]
fn reading_stops_when_too_much_is_unanswered_and_goes_on_after() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.planner);
    node.hold_disk = true;
    let payload = vec![7; 1 << 20];
    for number in 1..=65 {
        let large = world.planner.seal(&world.executor, id(number), NOW.unix_ms, &payload);
        node.submit(&client, u64::from(number), &world.planner.sign(&[large], NOW.unix_ms));
        let unanswered_bytes = usize::from(number) * (1 << 20);
        assert_eq!(node.reading, unanswered_bytes < creto_shard::limits::INGRESS_BYTES_MAX);
    }
    node.hold_disk = false;
    node.run();
    assert!(node.reading);
}

#[test]
fn who_may_not_act_any_more_is_disconnected_at_once() {
    let world = World::new();
    let mut node = world.node(1);
    let client = node.connect_as(0, &world.planner);
    let stays = node.connect_as(0, &world.executor);
    // Control publishes anew, and the planner is gone.
    let snapshot = creto_sim::agents::snapshot([&world.executor]);
    node.event(0, creto_shard::Event::Snapshot(snapshot));
    assert_eq!(node.closed, [(client.connection, RejectCode::UnknownSender)]);
    assert!(node.acks(&stays).1.is_empty());
}

/// A shard that has delivered what it was sent, and on which what rests goes on resting.
struct Resting {
    world: World,
    node: Node,
    sender: Client,
    reader: Client,
    /// Of what was delivered.
    sequences: Vec<u64>,
}

impl Resting {
    fn with(batches: &[&[u8]]) -> Self {
        let world = World::new();
        let mut node = world.node(1);
        let (sender, reader) = (node.connect_as(0, &world.planner), node.connect_as(0, &world.executor));
        node.subscribe(&reader, &world.executor);
        let mut sequences = Vec::new();
        for (round, numbers) in (1..).zip(batches) {
            node.submit(&sender, round, &world.batch(numbers));
            sequences.extend(node.deliveries(&reader).iter().map(|(span, _)| span.mailbox_sequence));
        }
        node.hold_rest = true;
        Self { world, node, sender, reader, sequences }
    }
}

#[test]
fn an_acknowledgement_of_a_consumer_goes_to_the_disk_with_the_next_message_and_not_alone() {
    let Resting { world, mut node, sender, reader, sequences } = Resting::with(&[&[1]]);
    let before = node.shards[0].log().wal().appended();
    node.frames(&reader, DELIVER, |out| ConsumerAck { sequences }.encode(out));
    node.run();
    assert_eq!(node.shards[0].log().wal().appended(), before, "nobody waits for it");
    assert!(node.shards[0].next_deadline_us().is_some());
    node.hold_disk = true;
    node.submit(&sender, 2, &world.batch(&[2]));
    assert_eq!(node.disk.len(), 1, "one write");
    node.hold_disk = false;
    node.run();
    assert_eq!(node.shards[0].counters().messages_settled, 1, "it had company");
    assert_eq!(node.shards[0].next_deadline_us(), None);
}

#[test]
fn an_acknowledgement_without_company_rests_no_longer_than_five_milliseconds() {
    let Resting { mut node, reader, sequences, .. } = Resting::with(&[&[1, 2]]);
    let began_us = node.now.monotonic_us;
    node.frames(&reader, DELIVER, |out| ConsumerAck { sequences: sequences[..1].to_vec() }.encode(out));
    node.run();
    node.now.monotonic_us = began_us + SETTLE_REST_US - 1;
    // Another one does not begin the rest anew.
    node.frames(&reader, DELIVER, |out| ConsumerAck { sequences: sequences[1..].to_vec() }.encode(out));
    node.run();
    assert_eq!(node.shards[0].counters().messages_settled, 0);
    assert_eq!(node.shards[0].next_deadline_us(), Some(began_us + SETTLE_REST_US));
    node.now.monotonic_us = began_us + SETTLE_REST_US;
    node.run();
    assert_eq!(node.shards[0].counters().messages_settled, 2);
}

#[test]
fn acknowledgements_of_many_consumers_are_company_enough() {
    let numbers: Vec<u8> = (0..=255).collect();
    let Resting { mut node, reader, sequences, .. } = Resting::with(&numbers.chunks(64).collect::<Vec<_>>());
    let (last, others) = sequences[..SETTLES_RESTING_MAX].split_last().unwrap();
    for &sequence in others {
        node.frames(&reader, DELIVER, |out| ConsumerAck { sequences: vec![sequence] }.encode(out));
    }
    node.run();
    assert_eq!(node.shards[0].counters().messages_settled, 0);
    node.frames(&reader, DELIVER, |out| ConsumerAck { sequences: vec![*last] }.encode(out));
    node.run();
    assert_eq!(node.shards[0].counters().messages_settled, SETTLES_RESTING_MAX as u64);
}

#[test]
fn a_draining_shard_lets_no_acknowledgement_rest() {
    let Resting { mut node, reader, sequences, .. } = Resting::with(&[&[1]]);
    node.frames(&reader, DELIVER, |out| ConsumerAck { sequences }.encode(out));
    node.run();
    node.event(0, Event::Drain);
    assert!(!node.shards[0].is_drained(), "it is not on the disk");
    node.run();
    assert_eq!(node.shards[0].counters().messages_settled, 1);
    assert!(node.shards[0].is_drained());
}
