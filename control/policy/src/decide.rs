//! May this agent do this to that one, now? Evaluated once per pair, looked up afterwards.
//!
//! [`decide`] is the evaluation, a pure function of the snapshot, the time, the things asked about, and the count of recent
//! messages for a policy that reads it. Between two edges of the sender's key validity its answer is constant in time, so a
//! [`DecisionTable`] can keep an answer together with the span in which it holds. It answers from memory only if [`decide`]
//! would say the same.

use creto_envelope::channel::Subscribing;
use creto_envelope::{AgentId, AgentState, ChannelId, RejectCode};

use crate::channel::Channel;
use crate::obligations::Obligations;
use crate::principal::{Principal, mix};
use crate::snapshot::{Policy, Snapshot};
use crate::source::{Answer, Question};

mod answers;
mod open_door;
mod table;
#[cfg(test)]
mod tests;

pub use open_door::OpenDoor;
pub use table::{DecisionStats, DecisionTable};

/// What an agent wants to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum Action {
    /// Put a message into the recipient's mailbox.
    SendMessage = 0,
    /// Read the recipient's key record.
    ReadDirectory = 1,
    /// Receive what is in the recipient's mailbox.
    Subscribe = 2,
    /// Put a message into a channel, whose id stands in the place of the recipient's.
    Publish = 3,
    /// Subscribe to a channel, and have what is published in it; its id stands in the place of the recipient's.
    SubscribeChannel = 4,
}

impl Action {
    /// The id of a channel in the place of a recipient's.
    #[must_use]
    pub fn on_channel(channel: &ChannelId) -> AgentId {
        AgentId(channel.0)
    }

    /// Whether it is done to a channel.
    #[must_use]
    pub fn is_on_channel(self) -> bool {
        matches!(self, Self::Publish | Self::SubscribeChannel)
    }
}

/// The answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub enum Decision {
    /// It may, bound to these.
    Allow(Obligations),
    /// It may not, and this is what the peer is told.
    Deny(RejectCode),
}

impl Decision {
    /// It may, without bounds.
    pub const ALLOW: Self = Self::Allow(Obligations::NONE);

    /// Whether the answer is yes.
    #[must_use]
    pub fn is_allowed(self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// Evaluates a request against `snapshot` at `now_ms`, without any memory of earlier answers and without a bound on what
/// that costs. `recent_messages` is what the sender sent recently; only some policies read it
/// ([`Snapshot::reads_recent_messages`]).
///
/// Sender first (known, active, keys valid), then recipient, then policy; the first rule that is broken is the answer.
/// - A suspended recipient still gets mail: it reads it when it is active again. A revoked one never will, and to a
///   sender it looks as if it was never registered.
/// - A revoked agent's key record can still be read: it says that it is revoked, and it verifies what was signed before.
/// - Only its owner reads a mailbox, whatever the policy says, and it may read its own key record.
/// - Of what is done to a channel: its record first, then the policy, which sees the channel's owner as the recipient. What the record
///   does not let somebody do is [`ChannelNotAllowed`](RejectCode::ChannelNotAllowed). A channel whose subscribers need a policy that the
///   operator has written has none of them under the built-in one.
/// - Whoever may send to an agent may read its key record, or it could not seal; and whoever may be sent to by it, or it
///   could not verify.
pub fn decide(
    snapshot: &Snapshot,
    now_ms: u64,
    sender: &AgentId,
    action: Action,
    recipient: &AgentId,
    recent_messages: u32,
) -> Decision {
    let mut evaluator = None;
    let ask = |question: &Question<'_>| match snapshot.policy() {
        Some(Policy::Loaded(source)) => {
            Decision::of(evaluator.get_or_insert_with(|| source.evaluator()).evaluate(question).answer, question.action)
        }
        _ => Decision::Deny(RejectCode::PolicyUnavailable),
    };
    match known(snapshot, now_ms, sender, action, recipient) {
        Ok(Known { policy, sender, recipient, channel }) => {
            let name = channel.map(|channel| &channel.record().name);
            let question = Question { sender, action, recipient, channel: name, recent_messages };
            decide_known(policy, now_ms, &question, channel, ask)
        }
        Err(decision) => decision,
    }
}

/// Whom and what a decision is about.
struct Known<'s> {
    policy: &'s Policy,
    sender: &'s Principal,
    /// A channel's owner, of what is done to that.
    recipient: &'s Principal,
    channel: Option<&'s Channel>,
}

/// The policy and both agents, or the answer where one of them is not there. Only answers with all three are worth keeping,
/// see [`DecisionTable`].
fn known<'s>(
    snapshot: &'s Snapshot,
    now_ms: u64,
    sender: &AgentId,
    action: Action,
    recipient: &AgentId,
) -> Result<Known<'s>, Decision> {
    let policy = snapshot.policy().ok_or(Decision::Deny(RejectCode::PolicyUnavailable))?;
    let sender = snapshot.principal(sender).ok_or(Decision::Deny(RejectCode::UnknownSender))?;
    let channel = action.is_on_channel().then(|| snapshot.channel(&ChannelId(recipient.0)));
    let (channel, recipient) = match channel {
        None => (None, snapshot.principal(recipient)),
        Some(None) => (None, None),
        Some(Some(channel)) => (Some(&**channel), snapshot.principal(&channel.record().owner)),
    };
    let Some(recipient) = recipient else {
        // The sender's own fault comes first, also when the recipient is nobody.
        return Err(Decision::Deny(sender.may_act(now_ms).err().unwrap_or(unknown_target(action))));
    };
    Ok(Known { policy, sender, recipient, channel })
}

/// [`decide`] when policy and both agents are there; `ask` asks a loaded policy.
fn decide_known(
    policy: &Policy,
    now_ms: u64,
    question: &Question<'_>,
    channel: Option<&Channel>,
    mut ask: impl FnMut(&Question<'_>) -> Decision,
) -> Decision {
    let Question { sender: from, action, recipient: to, channel: _, recent_messages: _ } = *question;
    if let Err(code) = from.may_act(now_ms) {
        return Decision::Deny(code);
    }
    match action {
        Action::Subscribe if from.agent() == to.agent() => return Decision::ALLOW,
        Action::Subscribe => return Decision::Deny(RejectCode::NotMailboxOwner),
        Action::SendMessage if to.state() == AgentState::Revoked => return Decision::Deny(unknown_target(action)),
        // Or it could not find out that somebody else has a key for its name.
        Action::ReadDirectory if from.agent() == to.agent() => return Decision::ALLOW,
        Action::SendMessage | Action::ReadDirectory | Action::Publish | Action::SubscribeChannel => {}
    }
    if let Some(channel) = channel
        && let Err(code) = record_lets(channel, policy, action, &from.agent())
    {
        return Decision::Deny(code);
    }
    let organization = channel.map_or(to.organization(), Channel::organization);
    match policy {
        Policy::SameOrganization if from.organization() == organization => Decision::ALLOW,
        Policy::SameOrganization => Decision::Deny(RejectCode::PolicyDenied),
        Policy::FailOpen => Decision::ALLOW,
        Policy::Loaded(_) if action == Action::ReadDirectory => may_read_record(question, ask),
        Policy::Loaded(_) => ask(question),
    }
}

/// Whether the record of a channel lets an agent do this, whatever the policy says of it.
fn record_lets(channel: &Channel, policy: &Policy, action: Action, agent: &AgentId) -> Result<(), RejectCode> {
    let record = channel.record();
    let is_let = match action {
        Action::Publish => record.lets_publish(agent),
        _ => record.lets_subscribe(agent),
    };
    let needs_policy = action == Action::SubscribeChannel && record.subscribing == Subscribing::AuthzRequired;
    match (is_let, policy) {
        (false, _) => Err(RejectCode::ChannelNotAllowed),
        (true, Policy::SameOrganization) if needs_policy => Err(RejectCode::ChannelNotAllowed),
        // There is a policy that the operator wrote, and it may say yes when it can be loaded.
        (true, Policy::FailOpen) if needs_policy => Err(RejectCode::PolicyUnavailable),
        (true, _) => Ok(()),
    }
}

/// Whether a policy lets an agent read a key record: by that action, or because one of the two may send to the other.
fn may_read_record(question: &Question<'_>, mut ask: impl FnMut(&Question<'_>) -> Decision) -> Decision {
    let sends = Question { action: Action::SendMessage, ..*question };
    // What the other one has sent is not known here, and not the point.
    let receives = Question { sender: sends.recipient, recipient: sends.sender, recent_messages: 0, ..sends };
    let mut denied = Decision::Deny(RejectCode::PolicyDenied);
    for question in [question, &sends, &receives] {
        match ask(question) {
            Decision::Allow(_) => return Decision::ALLOW,
            // No is an answer only when all three have been given.
            Decision::Deny(RejectCode::PolicyDenied) => {}
            unanswered @ Decision::Deny(_) => denied = unanswered,
        }
    }
    denied
}

impl Decision {
    /// What an answer to a question about this action means.
    fn of(answer: Answer, action: Action) -> Self {
        match answer {
            Answer::Allow(obligations) => Self::Allow(obligations),
            // A subscription that is denied ends for good: a policy that fails has not said that.
            Answer::Failed if action == Action::SubscribeChannel => Self::Deny(RejectCode::PolicyUnavailable),
            Answer::Deny | Answer::Failed => Self::Deny(RejectCode::PolicyDenied),
            Answer::TooLong => Self::Deny(RejectCode::PolicyUnavailable),
        }
    }
}

fn unknown_target(action: Action) -> RejectCode {
    match action {
        Action::SendMessage => RejectCode::UnknownRecipient,
        Action::ReadDirectory => RejectCode::UnknownAgent,
        Action::Subscribe => RejectCode::NotMailboxOwner,
        Action::Publish | Action::SubscribeChannel => RejectCode::UnknownChannel,
    }
}
