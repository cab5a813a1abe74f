//! A policy in Rego as the shards ask it: the seam between `creto-policy`, which knows no language, and `creto-rego`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_envelope::Priority;
use creto_policy::{
    Action, Answer, Evaluation, Evaluator, Input, Obligations, PolicySource, Principal, Priorities, Question, Reads,
};
use creto_rego::{AgentView, CompiledPolicy, EvaluationError, PriorityName, RequestView, Verdict};

use crate::limits::SHARD_EVALUATION_MAX;

/// A compiled policy, and what is known of it without asking it.
#[derive(Clone, Debug)]
pub struct RegoPolicy {
    compiled: CompiledPolicy,
    text: Arc<str>,
    digest: [u8; 32],
    reads: Reads,
}

impl RegoPolicy {
    /// The policy `compiled` of `text`.
    #[must_use]
    pub fn new(compiled: CompiledPolicy, text: &str) -> Self {
        let digest = creto_crypto_accel::digest::sha256(&[text.as_bytes()]);
        let reads = INPUTS.iter().filter(|(path, _)| compiled.reads().reads(path));
        let reads = reads.fold(Reads::default(), |reads, (_, input)| reads.with(*input));
        Self { compiled, text: text.into(), digest, reads }
    }

    /// The policy.
    #[must_use]
    pub fn compiled(&self) -> &CompiledPolicy {
        &self.compiled
    }

    /// SHA-256 of the file, in hexadecimal digits.
    #[must_use]
    pub fn digest_text(&self) -> String {
        self.digest.iter().fold(String::new(), |mut text, byte| {
            let _always = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Every input, as a policy writes it.
const INPUTS: &[(&[&str], Input)] = &[
    (&["sender", "nhi"], Input::SenderNhi),
    (&["sender", "name"], Input::SenderName),
    (&["sender", "organization_id"], Input::SenderOrganization),
    (&["sender", "type"], Input::SenderType),
    (&["sender", "roles"], Input::SenderRoles),
    (&["sender", "capabilities"], Input::SenderCapabilities),
    (&["recipient", "nhi"], Input::RecipientNhi),
    (&["recipient", "name"], Input::RecipientName),
    (&["recipient", "organization_id"], Input::RecipientOrganization),
    (&["recipient", "type"], Input::RecipientType),
    (&["recipient", "roles"], Input::RecipientRoles),
    (&["recipient", "capabilities"], Input::RecipientCapabilities),
    (&["action"], Input::Action),
    (&["channel"], Input::Channel),
    (&["recent_messages"], Input::RecentMessages),
];

impl PolicySource for RegoPolicy {
    fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    fn reads(&self) -> Reads {
        self.reads
    }

    fn text(&self) -> Option<(&str, &str)> {
        Some((self.compiled.name(), &self.text))
    }

    fn evaluator(&self) -> Box<dyn Evaluator> {
        Box::new(Asked(self.compiled.evaluator(SHARD_EVALUATION_MAX)))
    }
}

#[derive(Debug)]
struct Asked(creto_rego::Evaluator);

impl Evaluator for Asked {
    fn evaluate(&mut self, question: &Question<'_>) -> Evaluation {
        let begun = Instant::now();
        let verdict = self.0.evaluate(&request(question));
        let took = begun.elapsed();
        Evaluation { answer: answer(verdict, took), took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX) }
    }
}

fn answer(verdict: Result<Verdict, EvaluationError>, took: Duration) -> Answer {
    match verdict {
        Ok(Verdict { allow: true, obligations, .. }) => Answer::Allow(bounds(&obligations)),
        Ok(_) => Answer::Deny,
        Err(EvaluationError::TooLong) => Answer::TooLong,
        // An error that hides that the time was up is one of time.
        Err(_) if took >= SHARD_EVALUATION_MAX => Answer::TooLong,
        Err(_) => Answer::Failed,
    }
}

/// A question of a shard as a policy sees it.
pub(super) fn request<'a>(question: &Question<'a>) -> RequestView<'a> {
    RequestView {
        sender: agent(question.sender),
        recipient: Some(agent(question.recipient)),
        action: action(question.action),
        channel: question.channel.map(|name| name.as_str()),
        recent_messages: question.recent_messages,
    }
}

/// An agent as a policy sees it. Its identity is its name, which is unique in the trust domain.
pub(super) fn agent(principal: &Principal) -> AgentView<'_> {
    let (name, attributes) = (principal.name(), principal.attributes());
    AgentView {
        nhi: name.as_str(),
        name: name.as_str(),
        organization_id: name.organization(),
        kind: attributes.agent_type(),
        roles: attributes.roles(),
        capabilities: attributes.capabilities(),
    }
}

fn action(action: Action) -> creto_rego::Action {
    match action {
        Action::SendMessage => creto_rego::Action::SendMessage,
        Action::Subscribe | Action::SubscribeChannel => creto_rego::Action::Subscribe,
        Action::Publish => creto_rego::Action::Publish,
        // An action that is not known here is one that least may do.
        Action::ReadDirectory => creto_rego::Action::ReadDirectory,
        _ => creto_rego::Action::Administer,
    }
}

/// Priorities as policies call them, and as shards do.
pub(super) const PRIORITIES: [(PriorityName, Priority); 4] = [
    (PriorityName::Low, Priority::Low),
    (PriorityName::Normal, Priority::Normal),
    (PriorityName::High, Priority::High),
    (PriorityName::Critical, Priority::Critical),
];

/// What a yes is bound to, as a shard holds to it.
pub(super) fn bounds(obligations: &creto_rego::Obligations) -> Obligations {
    let creto_rego::Obligations { messages_per_s, bytes_per_s, size_max, priorities } = obligations;
    let priorities = priorities.as_ref().map_or(Priorities::ALL, |names| {
        PRIORITIES.iter().filter(|(name, _)| names.contains(name)).map(|(_, priority)| *priority).collect()
    });
    Obligations { messages_per_s: *messages_per_s, bytes_per_s: *bytes_per_s, size_max: *size_max, priorities }
}
