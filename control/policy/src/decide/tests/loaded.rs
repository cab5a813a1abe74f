//! Policies that an operator wrote, played by a function: what is asked, what is kept, what is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use creto_envelope::{AgentId, AgentState, Priority, RejectCode};

use super::NOW_MS;
use crate::decide::{Action, Decision, DecisionTable, decide};
use crate::fixture::{agent, record};
use crate::limits::{EVALUATION_US_PER_TURN_MAX, OBLIGATIONS_MAX, TOO_LONG_MS};
use crate::{
    Answer, Attributes, Evaluation, Evaluator, Input, Obligations, Policy, PolicySource, Priorities, Question, Reads,
    Snapshot, SnapshotBuilder,
};

pub(super) type Rule = fn(&Question<'_>) -> Answer;

/// A policy that is a function, and counts how often it is asked.
#[derive(Clone, Debug)]
pub(super) struct Played {
    digest: [u8; 32],
    reads: Reads,
    rule: Rule,
    took_us: u64,
    asked: Arc<AtomicU64>,
}

impl PolicySource for Played {
    fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    fn reads(&self) -> Reads {
        self.reads
    }

    fn evaluator(&self) -> Box<dyn Evaluator> {
        Box::new(self.clone())
    }
}

impl Evaluator for Played {
    fn evaluate(&mut self, question: &Question<'_>) -> Evaluation {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Evaluation { answer: (self.rule)(question), took_us: self.took_us }
    }
}

fn reads(inputs: &[Input]) -> Reads {
    inputs.iter().fold(Reads::default(), |reads, input| reads.with(*input))
}

pub(super) fn played(inputs: &[Input], rule: Rule) -> Played {
    Played { digest: [1; 32], reads: reads(inputs), rule, took_us: 10, asked: Arc::default() }
}

/// A thousand agents of acme, of which every second is a coordinator.
fn crowd(policy: &Played) -> (SnapshotBuilder, Vec<AgentId>) {
    let mut builder = SnapshotBuilder::with_policy(Policy::Loaded(Arc::new(policy.clone())));
    let coordinator = Arc::new(Attributes::parse("agent", ["coordinator"], ["plan"]).unwrap());
    let agents = (0..1_000).map(|number| {
        let agent = builder.insert(AgentState::Active, vec![record(&format!("acme/{number}"), 1, 0..2_000)]).unwrap();
        if number % 2 == 0 {
            builder.set_attributes(&agent, Arc::clone(&coordinator));
        }
        agent
    });
    let agents = agents.collect();
    (builder, agents)
}

pub(super) fn is_on_channel_of_acme(question: &Question<'_>) -> Answer {
    match question.channel {
        Some(channel) if channel.organization() == "acme" => Answer::Allow(Obligations::NONE),
        _ => Answer::Deny,
    }
}

fn is_coordinator(question: &Question<'_>) -> Answer {
    match question.sender.attributes().roles() {
        [role] if role == "coordinator" => Answer::Allow(Obligations::NONE),
        _ => Answer::Deny,
    }
}

const SEND: Action = Action::SendMessage;

fn ask(table: &mut DecisionTable, snapshot: &Snapshot, from: &AgentId, to: &AgentId) -> Decision {
    table.decide(snapshot, NOW_MS, from, SEND, to, 0)
}

#[test]
fn a_thousand_pairs_that_look_the_same_cost_one_evaluation_also_after_a_new_snapshot() {
    let policy = played(&[Input::SenderRoles], is_coordinator);
    let (mut builder, agents) = crowd(&policy);
    let mut table = DecisionTable::new(8_192, 1_000);
    for epoch in 1..4 {
        let snapshot = builder.build(epoch);
        for (number, from) in agents.iter().enumerate() {
            let decision = ask(&mut table, &snapshot, from, &agents[0]);
            let wanted = if number % 2 == 0 { Decision::ALLOW } else { Decision::Deny(RejectCode::PolicyDenied) };
            assert_eq!(decision, wanted, "{number}");
        }
        builder.set_state(&agents[7], AgentState::Active);
    }
    assert_eq!(policy.asked.load(Ordering::Relaxed), 2, "one for each kind of sender");
    assert_eq!(table.stats().answers_reused, 3 * 1_000 - 2);
}

#[test]
fn a_change_of_roles_or_of_the_policy_counts_at_once() {
    let policy = played(&[Input::SenderRoles], is_coordinator);
    let (mut builder, agents) = crowd(&policy);
    let mut table = DecisionTable::new(64, u64::MAX);
    let (from, to) = (&agents[0], &agents[1]);
    assert_eq!(ask(&mut table, &builder.build(1), from, to), Decision::ALLOW);
    builder.set_attributes(from, Arc::default());
    assert_eq!(ask(&mut table, &builder.build(2), from, to), Decision::Deny(RejectCode::PolicyDenied));
    let everybody = Played { digest: [2; 32], ..played(&[Input::SenderRoles], |_| Answer::Allow(Obligations::NONE)) };
    builder.set_policy(Some(Policy::Loaded(Arc::new(everybody))));
    assert_eq!(ask(&mut table, &builder.build(2), from, to), Decision::ALLOW, "also under the same epoch");
    builder.set_policy(None);
    assert_eq!(ask(&mut table, &builder.build(3), from, to), Decision::Deny(RejectCode::PolicyUnavailable));
}

#[test]
fn state_and_validity_come_before_the_policy() {
    let policy = played(&[], |_| Answer::Allow(Obligations::NONE));
    let (mut builder, agents) = crowd(&policy);
    builder.set_state(&agents[0], AgentState::Suspended);
    builder.set_state(&agents[1], AgentState::Revoked);
    let snapshot = builder.build(1);
    let mut table = DecisionTable::new(64, 1_000);
    for (from, to, now_ms, code) in [
        (agents[0], agents[2], NOW_MS, RejectCode::AgentSuspended),
        (agents[1], agents[2], NOW_MS, RejectCode::AgentRevoked),
        (agents[2], agents[1], NOW_MS, RejectCode::UnknownRecipient),
        (agents[2], agents[3], 2_000, RejectCode::KeyExpired),
        (agent("acme/nobody"), agents[2], NOW_MS, RejectCode::UnknownSender),
    ] {
        assert_eq!(table.decide(&snapshot, now_ms, &from, SEND, &to, 0), Decision::Deny(code));
    }
    assert_eq!(policy.asked.load(Ordering::Relaxed), 0);
    assert_eq!(
        table.decide(&snapshot, NOW_MS, &agents[2], Action::Subscribe, &agents[3], 0),
        Decision::Deny(RejectCode::NotMailboxOwner),
        "whatever the policy says"
    );
}

#[test]
fn obligations_come_with_a_kept_yes_and_do_not_mix() {
    // What a sender may depends on its number, which is in its name.
    let policy = played(&[Input::SenderName], |question| {
        let number = question.sender.name().as_str().trim_start_matches("acme/").parse().unwrap();
        Answer::Allow(Obligations {
            size_max: Some(number),
            priorities: Priorities::NONE.with(Priority::Low),
            ..Obligations::NONE
        })
    });
    let (builder, agents) = crowd(&policy);
    let snapshot = builder.build(1);
    let mut table = DecisionTable::new(8_192, 1_000);
    for _ in 0..2 {
        for (number, from) in (0..).zip(&agents) {
            let Decision::Allow(obligations) = ask(&mut table, &snapshot, from, &agents[0]) else { panic!("{number}") };
            assert_eq!(obligations.size_max, Some(number));
            assert!(obligations.priorities.has(Priority::Low) && !obligations.priorities.has(Priority::High));
        }
    }
    assert!(table.stats().hits > 900, "{:?}", table.stats());
}

#[test]
fn more_obligations_than_there_is_room_for_are_still_told_apart() {
    let number = |principal: &crate::Principal| -> u64 {
        principal.name().as_str().trim_start_matches("acme/").parse().unwrap()
    };
    let rule: Rule = |question| {
        let number = |principal: &crate::Principal| -> u64 {
            principal.name().as_str().trim_start_matches("acme/").parse().unwrap()
        };
        let size_max = Some(number(question.sender) * 1_000 + number(question.recipient));
        Answer::Allow(Obligations { size_max, ..Obligations::NONE })
    };
    let policy = played(&[Input::SenderName, Input::RecipientName], rule);
    let (builder, agents) = crowd(&policy);
    let snapshot = builder.build(1);
    let mut table = DecisionTable::new(8_192, 1_000);
    let pairs = (0..OBLIGATIONS_MAX + 100).map(|place| (&agents[place % 1_000], &agents[place / 1_000]));
    for (from, to) in pairs.clone().chain(pairs) {
        let principal = |agent| snapshot.principal(agent).unwrap();
        let size_max = Some(number(principal(from)) * 1_000 + number(principal(to)));
        let wanted = Decision::Allow(Obligations { size_max, ..Obligations::NONE });
        assert_eq!(ask(&mut table, &snapshot, from, to), wanted);
    }
}

#[test]
fn a_policy_that_counts_messages_is_asked_for_each() {
    let policy = played(&[Input::RecentMessages], |question| match question.recent_messages {
        0..3 => Answer::Allow(Obligations::NONE),
        _ => Answer::Deny,
    });
    let (builder, agents) = crowd(&policy);
    let snapshot = builder.build(1);
    assert!(snapshot.reads_recent_messages());
    let mut table = DecisionTable::new(64, 1_000);
    for recent_messages in [0, 2, 3, 2, 3] {
        let decision = table.decide(&snapshot, NOW_MS, &agents[0], SEND, &agents[1], recent_messages);
        assert_eq!(decision.is_allowed(), recent_messages < 3);
        assert_eq!(table.kept(&snapshot, NOW_MS, &agents[0], SEND, &agents[1]), None);
    }
    assert_eq!(policy.asked.load(Ordering::Relaxed), 5);
}

#[test]
fn a_turn_has_its_time_for_evaluations_and_no_more() {
    let policy = Played { took_us: EVALUATION_US_PER_TURN_MAX / 4, ..played(&[Input::SenderName], is_coordinator) };
    let (builder, agents) = crowd(&policy);
    let snapshot = builder.build(1);
    let mut table = DecisionTable::new(64, 1_000);
    for turn in 0..3 {
        table.begin_turn();
        let decisions: Vec<_> =
            (0..6).map(|place| ask(&mut table, &snapshot, &agents[turn * 10 + place], &agents[0])).collect();
        let refused = decisions.iter().filter(|decision| **decision == Decision::Deny(RejectCode::Overloaded)).count();
        assert_eq!(refused, 2, "{decisions:?}");
    }
    assert_eq!((table.stats().evaluations, table.stats().evaluations_refused), (12, 6));
    table.begin_turn();
    assert_eq!(ask(&mut table, &snapshot, &agents[4], &agents[0]), Decision::ALLOW, "a refusal is not kept");
}

#[test]
fn what_took_too_long_is_denied_and_not_asked_again_for_a_second() {
    let policy = played(&[Input::SenderRoles], |_| Answer::TooLong);
    let (builder, agents) = crowd(&policy);
    let snapshot = builder.build(1);
    let mut table = DecisionTable::new(64, u64::MAX);
    let until_ms = 100 + TOO_LONG_MS;
    for (now_ms, asked) in [(100, 1), (100, 1), (until_ms - 1, 1), (until_ms, 2)] {
        let decision = table.decide(&snapshot, now_ms, &agents[0], SEND, &agents[1], 0);
        assert_eq!(decision, Decision::Deny(RejectCode::PolicyUnavailable));
        assert_eq!((policy.asked.load(Ordering::Relaxed), table.stats().evaluations_too_long), (asked, asked));
    }
}

#[test]
fn what_failed_is_denied_and_kept() {
    let policy = played(&[Input::SenderRoles], |_| Answer::Failed);
    let (builder, agents) = crowd(&policy);
    let snapshot = builder.build(1);
    let mut table = DecisionTable::new(64, u64::MAX);
    for from in &agents[1..100] {
        assert_eq!(ask(&mut table, &snapshot, from, &agents[0]), Decision::Deny(RejectCode::PolicyDenied));
    }
    assert_eq!((table.stats().evaluations, table.stats().evaluations_failed), (2, 2));
}

#[test]
fn an_open_door_lets_only_those_in_who_may_act_and_counts_each() {
    let policy = played(&[], |_| Answer::Deny);
    let (mut builder, agents) = crowd(&policy);
    builder.set_policy(Some(Policy::FailOpen));
    builder.set_state(&agents[0], AgentState::Suspended);
    let snapshot = builder.build(1);
    let mut table = DecisionTable::new(64, 1_000);
    for _ in 0..3 {
        assert_eq!(ask(&mut table, &snapshot, &agents[0], &agents[1]), Decision::Deny(RejectCode::AgentSuspended));
        assert_eq!(ask(&mut table, &snapshot, &agents[1], &agents[0]), Decision::ALLOW);
    }
    assert_eq!((table.stats().allowed_without_policy, policy.asked.load(Ordering::Relaxed)), (3, 0));
}

#[test]
fn whoever_may_send_or_be_sent_to_may_read_the_key_record() {
    let policy = played(&[Input::SenderRoles, Input::Action], |question| match question.action {
        Action::SendMessage => is_coordinator(question),
        _ => Answer::Deny,
    });
    let (builder, agents) = crowd(&policy);
    let snapshot = builder.build(1);
    let mut table = DecisionTable::new(64, 1_000);
    for (from, to, may_read) in [(0, 1, true), (1, 0, true), (0, 2, true), (1, 3, false), (1, 1, true)] {
        let read = table.decide(&snapshot, NOW_MS, &agents[from], Action::ReadDirectory, &agents[to], 0);
        assert_eq!(read.is_allowed(), may_read, "{from} reads {to}");
        assert_eq!(read, decide(&snapshot, NOW_MS, &agents[from], Action::ReadDirectory, &agents[to], 0));
        assert_eq!(ask(&mut table, &snapshot, &agents[from], &agents[to]).is_allowed(), from == 0, "{from} to {to}");
    }
}
