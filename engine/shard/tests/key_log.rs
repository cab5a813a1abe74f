//! Questions about the key log: handed to control without waiting, answered in their own kind, bounded.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use creto_envelope::key_log::{KeyLeaves, KeyLeavesRequest, KeyLogQuestion, KeyLogRefusal, KeyProof, KeyProofRequest};
use creto_envelope::{AgentId, FrameType, RejectCode};
use creto_shard::Event;
use creto_shard::limits::KEY_LOG_QUESTIONS_MAX;
use creto_sim::agents::SimAgent;
use fixture::{CONTROL, Client, Node};

fn proof_of(agent: AgentId) -> KeyProofRequest {
    KeyProofRequest { agent, version: 1, seen: 7, wants_keys: false }
}

fn ask(node: &mut Node, client: &Client, question: &KeyLogQuestion) {
    match question {
        KeyLogQuestion::Proof(question) => node.frames(client, CONTROL, |out| question.encode(out)),
        KeyLogQuestion::Leaves(question) => node.frames(client, CONTROL, |out| question.encode(out)),
    }
    node.run();
}

/// The codes of proofs that were refused.
fn refused(node: &mut Node, client: &Client) -> Vec<u16> {
    let bodies = node.take(client, FrameType::KeyProof);
    bodies.iter().filter_map(|body| KeyProof::parse(body).unwrap().answer.err()).map(|refusal| refusal.code).collect()
}

#[test]
fn a_question_goes_to_control_and_its_answer_back_to_whoever_asked() {
    let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
    let mut node = Node::new(2, &[&planner, &executor]);
    let client = node.connect_as(1, &planner);
    let leaves = KeyLeavesRequest { from: 3, through: 9 };
    let questions = [KeyLogQuestion::Proof(proof_of(executor.id)), KeyLogQuestion::Leaves(leaves)];
    for question in &questions {
        ask(&mut node, &client, question);
    }
    assert_eq!(node.key_log, questions.map(|question| (1, client.connection, question)));
    assert!(node.take(&client, FrameType::KeyProof).is_empty(), "nothing is said before control has answered");
    // In another order than they were asked.
    let mut page = Vec::new();
    KeyLeaves { from: 3, answer: Ok(vec![[7; 120]]) }.encode(&mut page);
    let refusal = questions[0].refused(RejectCode::UnknownKeyVersion.into());
    for frames in [page, refusal] {
        let connection = client.connection;
        node.event(client.shard, Event::KeyLogAnswered { connection, frames: frames.into() });
    }
    let [body] = &node.take(&client, FrameType::KeyLeaves)[..] else { panic!("one page") };
    assert_eq!(KeyLeaves::parse(body).unwrap().answer, Ok(vec![[7; 120]]));
    assert_eq!(refused(&mut node, &client), [RejectCode::UnknownKeyVersion.as_u16()]);
    assert!(node.rejects(&client).is_empty());
}

#[test]
fn whoever_may_not_have_a_record_may_not_have_its_proof() {
    let (planner, other) = (SimAgent::new("acme/planner", 1), SimAgent::new("other/worker", 2));
    let mut node = Node::new(1, &[&planner, &other]);
    let client = node.connect_as(0, &planner);
    for (agent, code) in [(other.id, RejectCode::PolicyDenied), (AgentId([9; 16]), RejectCode::UnknownAgent)] {
        ask(&mut node, &client, &KeyLogQuestion::Proof(proof_of(agent)));
        assert_eq!(refused(&mut node, &client), [code.as_u16()]);
    }
    assert!(node.key_log.is_empty());
    // Its own, always.
    ask(&mut node, &client, &KeyLogQuestion::Proof(proof_of(planner.id)));
    assert_eq!(node.key_log.len(), 1);
}

#[test]
fn before_the_login_and_malformed_a_question_is_a_reject() {
    let planner = SimAgent::new("acme/planner", 1);
    let mut node = Node::new(1, &[&planner]);
    let stranger = node.connect(0);
    ask(&mut node, &stranger, &KeyLogQuestion::Proof(proof_of(planner.id)));
    assert_eq!(node.rejects(&stranger), [RejectCode::LoginRequired]);
    let client = node.connect_as(0, &planner);
    node.frame(&client, CONTROL, FrameType::KeyLeavesRequest, &[0; 15]);
    node.frame(&client, CONTROL, FrameType::KeyLeavesRequest, &[0; 16]);
    node.frame(&client, CONTROL, FrameType::KeyProofRequest, &[9; 32]);
    node.run();
    let expect = [RejectCode::FrameLength, RejectCode::FrameLength, RejectCode::FrameReserved];
    assert_eq!(node.rejects(&client), expect);
    assert!(node.key_log.is_empty());
}

#[test]
fn a_connection_has_so_many_questions_open_and_its_end_is_no_trouble() {
    let planner = SimAgent::new("acme/planner", 1);
    let mut node = Node::new(1, &[&planner]);
    let client = node.connect_as(0, &planner);
    let question = KeyLogQuestion::Proof(proof_of(planner.id));
    for _ in 0..KEY_LOG_QUESTIONS_MAX {
        ask(&mut node, &client, &question);
    }
    assert!(refused(&mut node, &client).is_empty());
    ask(&mut node, &client, &question);
    assert_eq!(refused(&mut node, &client), [RejectCode::Overloaded.as_u16()]);
    assert_eq!(node.key_log.len(), KEY_LOG_QUESTIONS_MAX as usize);
    let answer = |node: &mut Node| {
        let frames = question.refused(KeyLogRefusal { code: 306, retry_after_ms: 0 }).into();
        node.event(0, Event::KeyLogAnswered { connection: client.connection, frames });
    };
    answer(&mut node);
    ask(&mut node, &client, &question);
    assert_eq!(node.key_log.len(), KEY_LOG_QUESTIONS_MAX as usize + 1);
    node.event(0, Event::Disconnected { connection: client.connection });
    answer(&mut node);
}

#[test]
fn a_node_that_shuts_down_says_so() {
    let planner = SimAgent::new("acme/planner", 1);
    let mut node = Node::new(1, &[&planner]);
    let client = node.connect_as(0, &planner);
    node.event(0, Event::Drain);
    ask(&mut node, &client, &KeyLogQuestion::Proof(proof_of(planner.id)));
    assert_eq!(refused(&mut node, &client), [RejectCode::ShuttingDown.as_u16()]);
}
