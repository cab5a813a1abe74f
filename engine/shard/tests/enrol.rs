//! Enrolments: what a stranger brings goes to control, and the answer back; nobody keeps the shard busy with it.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use creto_crypto_accel::digest::sha256;
use creto_envelope::control::Reject;
use creto_envelope::enrol::{Enrol, Enrolled};
use creto_envelope::{FrameType, RejectCode};
use creto_shard::limits::LOGIN_FAILURES_MAX;
use creto_shard::{Event, KeyRefused};
use creto_sim::agents::SimAgent;
use fixture::{CONTROL, Client, Node};

const TOKEN: [u8; 32] = [0x5a; 32];

fn ask(node: &mut Node, client: &Client, agent: &SimAgent) {
    node.frames(client, CONTROL, |out| Enrol { token: &TOKEN, record: (*agent.record).clone() }.encode(out));
    node.run();
}

fn answer(node: &mut Node, client: &Client, answer: Result<Enrolled, KeyRefused>) {
    node.event(client.shard, Event::Enrolled { connection: client.connection, answer });
}

fn answers(node: &mut Node, client: &Client) -> Vec<Enrolled> {
    node.take(client, FrameType::Enrolled).iter().map(|body| Enrolled::parse(body).unwrap()).collect()
}

#[test]
fn an_enrolment_goes_to_control_without_its_token_and_the_answer_goes_back() {
    let (known, stranger) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/new", 2));
    let mut node = Node::new(2, &[&known]);
    let client = node.connect(1);
    ask(&mut node, &client, &stranger);
    let (shard, connection, token_hash, record) = node.enrolments.pop().unwrap();
    assert_eq!((shard, connection, *record), (1, client.connection, (*stranger.record).clone()));
    assert_eq!(token_hash, sha256(&[&TOKEN]));
    assert!(answers(&mut node, &client).is_empty(), "control has not answered");
    // Another one before the answer.
    ask(&mut node, &client, &stranger);
    assert_eq!(node.rejects(&client), [RejectCode::FrameUnexpected]);
    assert!(node.enrolments.is_empty());
    for answered in [Enrolled::Created, Enrolled::Known] {
        answer(&mut node, &client, Ok(answered));
        assert_eq!(answers(&mut node, &client), [answered]);
        ask(&mut node, &client, &stranger);
    }
}

#[test]
fn only_who_is_not_logged_in_enrols_and_what_is_malformed_goes_nowhere() {
    let known = SimAgent::new("acme/planner", 1);
    let mut node = Node::new(1, &[&known]);
    let client = node.connect_as(0, &known);
    ask(&mut node, &client, &known);
    assert_eq!(node.rejects(&client), [RejectCode::LoginAgain]);
    let stranger = node.connect(0);
    node.frame(&stranger, CONTROL, FrameType::Enrol, &[0; 31]);
    node.frame(&stranger, CONTROL, FrameType::Enrol, &[0; 40]);
    node.run();
    assert_eq!(node.rejects(&stranger)[0], RejectCode::FrameLength);
    assert!(node.enrolments.is_empty());
}

#[test]
fn who_is_refused_again_and_again_is_sent_away_and_a_busy_node_is_nobodys_fault() {
    let (known, stranger) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/new", 2));
    let mut node = Node::new(1, &[&known]);
    let client = node.connect(0);
    for _ in 0..2 * LOGIN_FAILURES_MAX {
        ask(&mut node, &client, &stranger);
        answer(&mut node, &client, Err(KeyRefused { code: RejectCode::Overloaded, retry_after_ms: 70 }));
        let reject = node.take(&client, FrameType::Reject).pop().unwrap();
        assert_eq!(Reject::parse(&reject).unwrap().retry_after_ms, 70);
    }
    assert!(node.closed.is_empty());
    for _ in 0..LOGIN_FAILURES_MAX {
        ask(&mut node, &client, &stranger);
        answer(&mut node, &client, Ok(Enrolled::Refused(1_023)));
        assert_eq!(answers(&mut node, &client), [Enrolled::Refused(1_023)]);
    }
    assert_eq!(node.closed, [(client.connection, RejectCode::LoginUnknownAgent)]);
}

#[test]
fn a_node_that_drains_enrols_nobody_and_the_end_of_a_connection_is_no_trouble() {
    let (known, stranger) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/new", 2));
    let mut node = Node::new(1, &[&known]);
    let client = node.connect(0);
    ask(&mut node, &client, &stranger);
    node.event(0, Event::Disconnected { connection: client.connection });
    answer(&mut node, &client, Ok(Enrolled::Created));
    assert!(answers(&mut node, &client).is_empty());
    let late = node.connect(0);
    node.event(0, Event::Drain);
    ask(&mut node, &late, &stranger);
    assert_eq!(node.rejects(&late), [RejectCode::ShuttingDown]);
    assert_eq!(node.enrolments.len(), 1);
}
