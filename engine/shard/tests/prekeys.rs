//! Prekeys: who may claim, what goes to control and comes back, what is said unasked, and which messages are accepted.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use std::sync::Arc;

use creto_envelope::control::RotationMode;
use creto_envelope::envelope::FLAG_PREKEY;
use creto_envelope::limits::WRAPPED_KEY_BYTES;
use creto_envelope::prekeys::{
    Prekey, PrekeyBatch, PrekeyClaim, PrekeyClaimed, PrekeyKind, PrekeyRefusal, PrekeySignature, PrekeyStock,
    PrekeyStockRequest, PrekeyStockTold, PrekeyUploaded, encode_prekey_upload,
};
use creto_envelope::{AgentId, AgentState, EnvelopeHeader, FrameType, InSession, KeyId, RejectCode};
use creto_policy::{KeyVersion, Policy, Replacement, Snapshot, SnapshotBuilder};
use creto_shard::limits::PREKEY_QUESTIONS_MAX;
use creto_shard::{Event, Now, PrekeyQuestion};
use creto_sim::agents::SimAgent;
use fixture::{CONTROL, Client, NOW, Node, id};

fn batch(agent: &SimAgent) -> PrekeyBatch {
    let prekey = Prekey { kind: PrekeyKind::OneTime, x25519: [3; 32], ml_kem_768: Box::new([4; 1_184]) };
    let signature = PrekeySignature {
        key_record_version: 1,
        signed_at_ms: NOW.unix_ms,
        ed25519: [5; 64],
        ml_dsa_65: Box::new([6; 3_309]),
    };
    PrekeyBatch { agent: agent.id, signature, prekeys: vec![prekey] }
}

fn ask(node: &mut Node, client: &Client, question: &PrekeyQuestion) {
    match question {
        PrekeyQuestion::Upload(batch) => node.frames(client, CONTROL, |out| encode_prekey_upload(out, batch)),
        PrekeyQuestion::Claim(agent) => node.frames(client, CONTROL, |out| PrekeyClaim { agent: *agent }.encode(out)),
        PrekeyQuestion::Stock => node.frames(client, CONTROL, |out| PrekeyStockRequest.encode(out)),
    }
    node.run();
}

/// The codes of claims that were refused.
fn refused(node: &mut Node, client: &Client) -> Vec<u16> {
    let bodies = node.take(client, FrameType::PrekeyClaimed);
    bodies.iter().filter_map(|body| PrekeyClaimed::parse(body).unwrap().answer.err()).map(|no| no.code).collect()
}

#[test]
fn a_question_goes_to_control_with_who_asks_and_its_answer_back() {
    let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
    let mut node = Node::new(2, &[&planner, &executor]);
    let client = node.connect_as(1, &planner);
    let questions =
        [PrekeyQuestion::Upload(Box::new(batch(&planner))), PrekeyQuestion::Claim(executor.id), PrekeyQuestion::Stock];
    for question in &questions {
        ask(&mut node, &client, question);
    }
    let asked = questions.clone().map(|question| (1, client.connection, planner.id, question));
    assert_eq!(node.prekeys, asked);
    assert!(node.sent.iter().all(|(_, sent)| sent.frame_type == FrameType::LoginAccepted), "control has not answered");
    // In another order than they were asked.
    for question in questions.iter().rev() {
        let frames = question.topic().refused(PrekeyRefusal { code: 318, retry_after_ms: 7 });
        node.event(client.shard, Event::PrekeysAnswered { connection: client.connection, frames });
    }
    let no = PrekeyRefusal { code: 318, retry_after_ms: 7 };
    let [uploaded] = &node.take(&client, FrameType::PrekeyUploaded)[..] else { panic!("one") };
    assert_eq!(PrekeyUploaded::parse(uploaded).unwrap().answer, Err(no));
    let [claimed] = &node.take(&client, FrameType::PrekeyClaimed)[..] else { panic!("one") };
    assert_eq!(PrekeyClaimed::parse(claimed).unwrap(), PrekeyClaimed { agent: executor.id, answer: Err(no) });
    let [stock] = &node.take(&client, FrameType::PrekeyStock)[..] else { panic!("one") };
    assert_eq!(PrekeyStockTold::parse(stock).unwrap().answer, Err(no));
    assert!(node.rejects(&client).is_empty());
}

#[test]
fn only_whom_policy_lets_send_to_an_agent_claims_its_prekeys() {
    let (planner, other) = (SimAgent::new("acme/planner", 1), SimAgent::new("other/worker", 2));
    let mut node = Node::new(1, &[&planner, &other]);
    let client = node.connect_as(0, &planner);
    for (agent, code) in [(other.id, RejectCode::PolicyDenied), (AgentId([9; 16]), RejectCode::UnknownRecipient)] {
        ask(&mut node, &client, &PrekeyQuestion::Claim(agent));
        assert_eq!(refused(&mut node, &client), [code.as_u16()]);
    }
    assert!(node.prekeys.is_empty());
    assert!(node.rejects(&client).is_empty(), "an answer says it, and no Reject");
}

#[test]
fn before_the_login_and_malformed_a_question_is_a_reject() {
    let planner = SimAgent::new("acme/planner", 1);
    let mut node = Node::new(1, &[&planner]);
    let stranger = node.connect(0);
    ask(&mut node, &stranger, &PrekeyQuestion::Stock);
    ask(&mut node, &stranger, &PrekeyQuestion::Claim(planner.id));
    assert_eq!(node.rejects(&stranger), [RejectCode::LoginRequired; 2]);
    let client = node.connect_as(0, &planner);
    node.frame(&client, CONTROL, FrameType::PrekeyClaim, &[0; 15]);
    node.frame(&client, CONTROL, FrameType::PrekeyStockRequest, &[1; 8]);
    let empty = PrekeyBatch { prekeys: Vec::new(), ..batch(&planner) };
    node.frame(&client, CONTROL, FrameType::PrekeyUpload, &empty.to_bytes());
    node.run();
    assert_eq!(node.rejects(&client), [RejectCode::FrameLength, RejectCode::FrameReserved, RejectCode::PrekeyBatch]);
    assert!(node.prekeys.is_empty());
}

#[test]
fn a_connection_has_so_many_questions_open_and_its_end_is_no_trouble() {
    let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
    let mut node = Node::new(1, &[&planner, &executor]);
    let client = node.connect_as(0, &planner);
    let claim = PrekeyQuestion::Claim(executor.id);
    for _ in 0..PREKEY_QUESTIONS_MAX {
        ask(&mut node, &client, &claim);
    }
    assert!(refused(&mut node, &client).is_empty());
    ask(&mut node, &client, &claim);
    assert_eq!(refused(&mut node, &client), [RejectCode::TooManyInFlight.as_u16()]);
    assert_eq!(node.prekeys.len(), PREKEY_QUESTIONS_MAX as usize);
    let answer = |node: &mut Node| {
        let frames = claim.topic().refused(RejectCode::NoPrekey.into());
        node.event(0, Event::PrekeysAnswered { connection: client.connection, frames });
    };
    answer(&mut node);
    ask(&mut node, &client, &claim);
    assert_eq!(node.prekeys.len(), PREKEY_QUESTIONS_MAX as usize + 1);
    node.event(0, Event::Disconnected { connection: client.connection });
    answer(&mut node);
}

#[test]
fn a_node_that_shuts_down_says_so() {
    let planner = SimAgent::new("acme/planner", 1);
    let mut node = Node::new(1, &[&planner]);
    let client = node.connect_as(0, &planner);
    node.event(0, Event::Drain);
    ask(&mut node, &client, &PrekeyQuestion::Claim(planner.id));
    assert_eq!(refused(&mut node, &client), [RejectCode::ShuttingDown.as_u16()]);
}

#[test]
fn that_few_are_left_is_told_to_the_owners_connections_that_keep_some() {
    let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
    let mut node = Node::new(1, &[&planner, &executor]);
    let (keeps, reads_only) = (node.connect_as(0, &executor), node.connect_as(0, &executor));
    let claims = node.connect_as(0, &planner);
    ask(&mut node, &keeps, &PrekeyQuestion::Stock);
    ask(&mut node, &claims, &PrekeyQuestion::Claim(executor.id));
    let stock = PrekeyStock { key_record_version: 1, one_time: 31, last_resort: true, is_notice: false };
    node.event(0, Event::PrekeysLow { agent: executor.id, stock });
    let [told] = &node.take(&keeps, FrameType::PrekeyStock)[..] else { panic!("once") };
    assert_eq!(PrekeyStockTold::parse(told).unwrap().answer, Ok(PrekeyStock { is_notice: true, ..stock }));
    for other in [&reads_only, &claims] {
        assert!(node.take(other, FrameType::PrekeyStock).is_empty());
    }
}

/// An envelope of a session that was opened to a prekey of this version. What is in it, nobody looks at here.
fn to_prekey(from: &SimAgent, to: &SimAgent, version: u32, number: u8, flags: u8) -> Vec<u8> {
    let mut key_id = [number; 16];
    key_id[..4].copy_from_slice(&version.to_le_bytes());
    let place = InSession { session_id: [7; 16], counter: 0, with_wrapped_key: true };
    let mut header =
        EnvelopeHeader::session(from.id, to.id, KeyId(key_id), id(number), NOW.unix_ms, 5, &place).unwrap();
    header.flags |= flags;
    let mut bytes = header.to_bytes().to_vec();
    bytes.resize(bytes.len() + WRAPPED_KEY_BYTES + 5 + 16, 1);
    bytes
}

#[test]
fn a_message_to_a_prekey_is_accepted_while_one_to_the_key_of_its_version_is() {
    const GRACE_MS: u64 = 1_000;
    let (planner, before) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
    let after = before.with_next_key(2, 12);
    let snapshot = |mode: RotationMode| -> Arc<Snapshot> {
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        builder.set_key_grace_ms(GRACE_MS);
        builder.insert(AgentState::Active, vec![Arc::clone(&planner.record)]).unwrap();
        let replaced = Some(Replacement { at_ms: NOW.unix_ms, mode });
        let (before, after) = (&before.record.record, &after.record.record);
        let versions = vec![KeyVersion { replaced, ..before.into() }, after.into()];
        builder.insert_versions(&before.trust_domain, &before.name, AgentState::Active, versions).unwrap();
        Arc::new(builder.build(2))
    };
    let check = |mode, after_ms: u64, refused: &[u32]| {
        let mut node = Node::new(1, &[&planner, &before]);
        let client = node.connect_as(0, &planner);
        node.event(0, Event::Snapshot(snapshot(mode)));
        node.now = Now { unix_ms: NOW.unix_ms + after_ms, monotonic_us: NOW.monotonic_us + after_ms * 1_000 };
        // To prekeys of four versions, all under one key id but for the version; and once without the flag.
        let mut envelopes: Vec<_> =
            (0..4).map(|version| to_prekey(&planner, &before, u32::from(version), 20 + version, FLAG_PREKEY)).collect();
        envelopes.push(to_prekey(&planner, &before, 2, 30, 0));
        node.submit(&client, 1, &planner.sign(&envelopes, node.now.unix_ms));
        let expect: Vec<_> = refused.iter().map(|index| (*index, RejectCode::UnknownRecipientKey)).collect();
        assert_eq!(node.acks(&client), (1, expect), "{mode:?} after {after_ms} ms");
    };
    check(RotationMode::Planned, 0, &[0, 3, 4]);
    check(RotationMode::Planned, GRACE_MS - 1, &[0, 3, 4]);
    check(RotationMode::Planned, GRACE_MS, &[0, 1, 3, 4]);
    check(RotationMode::Emergency, 0, &[0, 1, 3, 4]);
}
