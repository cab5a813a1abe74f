//! May this agent do this to that one, now? Evaluated once per pair, looked up afterwards.
//!
//! [`decide`] is the evaluation, a pure function of the snapshot, the time and the three things asked about. Between
//! two edges of the sender's key validity its answer is constant in time, so a [`DecisionTable`] can keep an answer
//! together with the span in which it holds. It answers from memory only if [`decide`] would say the same.

use creto_envelope::{AgentId, AgentState, RejectCode};

use crate::principal::{Principal, mix};
use crate::snapshot::{Policy, Snapshot};

mod table;
#[cfg(test)]
mod tests;

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
}

/// The answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub enum Decision {
    /// It may.
    Allow,
    /// It may not, and this is what the peer is told.
    Deny(RejectCode),
}

impl Decision {
    /// Whether the answer is yes.
    #[must_use]
    pub fn is_allowed(self) -> bool {
        self == Self::Allow
    }
}

/// Evaluates a request against `snapshot` at `now_ms`, without any memory of earlier answers.
///
/// Sender first (known, active, keys valid), then recipient, then policy; the first rule that is broken is the answer.
/// - A suspended recipient still gets mail: it reads it when it is active again. A revoked one never will, and to a
///   sender it looks as if it was never registered.
/// - A revoked agent's key record can still be read: it says that it is revoked, and it verifies what was signed before.
/// - Only its owner reads a mailbox, whatever the policy says.
pub fn decide(snapshot: &Snapshot, now_ms: u64, sender: &AgentId, action: Action, recipient: &AgentId) -> Decision {
    let Some(policy) = snapshot.policy() else { return Decision::Deny(RejectCode::PolicyUnavailable) };
    let Some(from) = snapshot.principal(sender) else { return Decision::Deny(RejectCode::UnknownSender) };
    let Some(to) = snapshot.principal(recipient) else {
        // The sender's own fault comes first, also when the recipient is nobody.
        return Decision::Deny(from.may_act(now_ms).err().unwrap_or(unknown_target(action)));
    };
    decide_known(policy, now_ms, from, action, to)
}

/// [`decide`] when policy and both agents are there. Only these answers are worth keeping, see [`DecisionTable`].
fn decide_known(policy: Policy, now_ms: u64, from: &Principal, action: Action, to: &Principal) -> Decision {
    if let Err(code) = from.may_act(now_ms) {
        return Decision::Deny(code);
    }
    match action {
        Action::Subscribe if from.agent() == to.agent() => return Decision::Allow,
        Action::Subscribe => return Decision::Deny(RejectCode::NotMailboxOwner),
        Action::SendMessage if to.state() == AgentState::Revoked => return Decision::Deny(unknown_target(action)),
        Action::SendMessage | Action::ReadDirectory => {}
    }
    let allowed = match policy {
        Policy::SameOrganization => from.organization() == to.organization(),
    };
    if allowed { Decision::Allow } else { Decision::Deny(RejectCode::PolicyDenied) }
}

fn unknown_target(action: Action) -> RejectCode {
    match action {
        Action::SendMessage => RejectCode::UnknownRecipient,
        Action::ReadDirectory => RejectCode::UnknownAgent,
        Action::Subscribe => RejectCode::NotMailboxOwner,
    }
}
