//! Why the node lets an agent do something or not: what holds of the two, what the policy says, what the shards keep.

use creto_envelope::{AgentId, RejectCode};
use creto_policy::{Action, Decision, Obligations, Policy, Priorities, Question, Snapshot, decide};
use creto_rego::{Agent, AgentView, Request};

use super::{FAIL_OPEN, InForce, SAME_ORGANIZATION, rego};
use crate::api::{DecisionInfo, KeptDecision, RuleInfo};

/// The shards, as they are asked what they keep.
pub trait DecisionHost: Send + Sync + 'static {
    /// What each shard keeps of the decision about a pair. Those that do not answer in time are left out.
    fn kept(&self, sender: AgentId, action: Action, recipient: AgentId) -> Vec<KeptOn>;
}

/// What a shard keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeptOn {
    /// Which shard.
    pub shard: u16,
    /// Its decision, if it keeps one.
    pub decision: Option<Decision>,
    /// How many messages of the sender it counted of late; zero where the policy does not read that.
    pub recent_messages: u32,
}

/// Explains a decision under `snapshot` at `now_ms`, for a sender with so many recent messages.
pub(crate) fn explain(
    in_force: &InForce,
    snapshot: &Snapshot,
    now_ms: u64,
    (sender, action, recipient): (AgentId, Action, AgentId),
    kept: Vec<KeptOn>,
) -> DecisionInfo {
    let recent_messages = kept.iter().map(|kept| kept.recent_messages).max().unwrap_or(0);
    let decision = decide(snapshot, now_ms, &sender, action, &recipient, recent_messages);
    let policy = match snapshot.policy() {
        Some(Policy::SameOrganization) => SAME_ORGANIZATION.to_owned(),
        Some(Policy::FailOpen) => FAIL_OPEN.to_owned(),
        Some(Policy::Loaded(_)) => in_force.info().name,
        _ => "none".to_owned(),
    };
    let mut info = DecisionInfo {
        allow: decision.is_allowed(),
        code: None,
        reason: None,
        bound_to: None,
        policy,
        policy_epoch: in_force.info().epoch,
        epoch: snapshot.epoch(),
        rules: Vec::new(),
        inputs: serde_json::Value::Null,
        recent_messages: snapshot.reads_recent_messages().then_some(recent_messages),
        kept: kept.into_iter().filter_map(|kept| Some((kept.shard, kept.decision?))).map(told).collect(),
    };
    match decision {
        Decision::Allow(obligations) => info.bound_to = bound_to(&obligations),
        Decision::Deny(code) => {
            info.code = Some(code.as_u16());
            info.reason = Some(format!("{}: {}", code.name(), code.text()));
        }
    }
    // The policy is asked only about agents that are there and may act; it is explained whenever both are there.
    let pair = (snapshot.principal(&sender), snapshot.principal(&recipient));
    if let (Some(compiled), (Some(from), Some(to)), Some(Policy::Loaded(_))) =
        (in_force.compiled(), pair, snapshot.policy())
    {
        let question = Question { sender: from, action, recipient: to, channel: None, recent_messages };
        let explanation = compiled.compiled().explain(&request(&question));
        info.inputs = explanation.inputs;
        if let (Decision::Deny(RejectCode::PolicyDenied), Some(reason)) = (decision, explanation.verdict.reason) {
            info.reason = Some(reason);
        }
        let rule = |rule: creto_rego::RuleOutcome| RuleInfo {
            line: rule.line,
            text: rule.text,
            allow: rule.allow,
            error: rule.error.map(|error| error.to_string()),
        };
        info.rules = explanation.rules.into_iter().map(rule).collect();
    }
    info
}

fn told((shard, decision): (u16, Decision)) -> KeptDecision {
    match decision {
        Decision::Allow(_) => KeptDecision { shard, allow: true, code: None },
        Decision::Deny(code) => KeptDecision { shard, allow: false, code: Some(code.as_u16()) },
    }
}

fn bound_to(obligations: &Obligations) -> Option<creto_rego::Obligations> {
    if *obligations == Obligations::NONE {
        return None;
    }
    let Obligations { messages_per_s, bytes_per_s, size_max, priorities } = *obligations;
    let names = rego::PRIORITIES.iter().filter(|(_, priority)| priorities.has(*priority)).map(|(name, _)| *name);
    let priorities = (priorities != Priorities::ALL).then(|| names.collect());
    Some(creto_rego::Obligations { messages_per_s, bytes_per_s, size_max, priorities })
}

fn request(question: &Question<'_>) -> Request {
    let view = rego::request(question);
    let agent = |agent: AgentView<'_>| Agent {
        nhi: agent.nhi.to_owned(),
        name: agent.name.to_owned(),
        organization_id: agent.organization_id.to_owned(),
        kind: agent.kind.to_owned(),
        roles: agent.roles.to_vec(),
        capabilities: agent.capabilities.to_vec(),
    };
    Request {
        sender: agent(view.sender),
        recipient: view.recipient.map(agent),
        action: view.action,
        channel: view.channel.map(str::to_owned),
        recent_messages: view.recent_messages,
    }
}
