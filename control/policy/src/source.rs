//! The seam to whatever evaluates an operator's policy. This crate asks, and knows nothing of languages.

use std::fmt;

use creto_envelope::channel::ChannelName;

use crate::decide::Action;
use crate::obligations::Obligations;
use crate::principal::Principal;

/// A policy that was read and found good. All shards share it.
pub trait PolicySource: fmt::Debug + Send + Sync {
    /// SHA-256 of its text: two with the same digest decide the same.
    fn digest(&self) -> &[u8; 32];

    /// What of a question its answers depend on, and nothing else.
    fn reads(&self) -> Reads;

    /// Its name and its text, for whoever hands it on to another process; `None` when it has no text.
    fn text(&self) -> Option<(&str, &str)> {
        None
    }

    /// An evaluator for one shard: prepared once, asked again and again.
    fn evaluator(&self) -> Box<dyn Evaluator>;
}

/// Answers questions by one policy, on one thread.
pub trait Evaluator: fmt::Debug + Send {
    /// What the policy says, within a bound of time of its own.
    fn evaluate(&mut self, question: &Question<'_>) -> Evaluation;
}

/// May this agent do that to this one?
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who acts.
    pub sender: &'a Principal,
    /// What.
    pub action: Action,
    /// To whom; of what is done to a channel, its owner.
    pub recipient: &'a Principal,
    /// To which channel, if to one.
    pub channel: Option<&'a ChannelName>,
    /// How many messages the sender sent recently, by the counter of whoever asks.
    pub recent_messages: u32,
}

/// An answer and what it cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evaluation {
    /// The answer.
    pub answer: Answer,
    /// How long it took, in microseconds. Zero where there is no clock.
    pub took_us: u64,
}

/// What a policy says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Yes, bound to these.
    Allow(Obligations),
    /// No.
    Deny,
    /// It failed on this question, and will fail on it again: no.
    Failed,
    /// It did not come to an end in time: no, for now.
    TooLong,
}

/// One thing that a policy can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum Input {
    /// The sender's identity.
    SenderNhi,
    /// The sender's name.
    SenderName,
    /// The sender's organization.
    SenderOrganization,
    /// The sender's type.
    SenderType,
    /// The sender's roles.
    SenderRoles,
    /// The sender's capabilities.
    SenderCapabilities,
    /// The recipient's identity.
    RecipientNhi,
    /// The recipient's name.
    RecipientName,
    /// The recipient's organization.
    RecipientOrganization,
    /// The recipient's type.
    RecipientType,
    /// The recipient's roles.
    RecipientRoles,
    /// The recipient's capabilities.
    RecipientCapabilities,
    /// What is to be done.
    Action,
    /// On which channel.
    Channel,
    /// How many messages the sender sent recently.
    RecentMessages,
}

/// A set of inputs.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Reads(u16);

impl Reads {
    /// The same set and this one.
    #[must_use]
    pub const fn with(self, input: Input) -> Self {
        Self(self.0 | 1 << input as u8)
    }

    /// Whether it is in the set.
    #[must_use]
    pub const fn has(self, input: Input) -> bool {
        self.0 & 1 << input as u8 != 0
    }

    /// Writes what is read of `question` to `key`: questions with the same key get the same answer.
    pub(crate) fn write_key(self, question: &Question<'_>, key: &mut Vec<u8>) {
        let sides = [(question.sender, Input::SenderNhi as u8), (question.recipient, Input::RecipientNhi as u8)];
        for (principal, first) in sides {
            let reads = |input: Input| self.0 & 1 << (first + input as u8) != 0;
            let name = principal.name();
            // Identity and name are one text.
            if reads(Input::SenderNhi) || reads(Input::SenderName) {
                write_text(key, name.as_str());
            }
            if reads(Input::SenderOrganization) {
                write_text(key, name.organization());
            }
            let attributes = principal.attributes();
            if reads(Input::SenderType) {
                write_text(key, attributes.agent_type());
            }
            if reads(Input::SenderRoles) {
                write_texts(key, attributes.roles());
            }
            if reads(Input::SenderCapabilities) {
                write_texts(key, attributes.capabilities());
            }
        }
        if self.has(Input::Action) {
            key.push(question.action as u8);
        }
        if self.has(Input::Channel) {
            // No name is empty.
            write_text(key, question.channel.map_or("", ChannelName::as_str));
        }
        if self.has(Input::RecentMessages) {
            key.extend_from_slice(&question.recent_messages.to_le_bytes());
        }
    }
}

// The sides have the same inputs in the same order.
const _: () =
    assert!(Input::RecipientCapabilities as u8 == Input::RecipientNhi as u8 + Input::SenderCapabilities as u8);
const _: () = assert!((Input::RecentMessages as u32) < u16::BITS);

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reads({:#b})", self.0)
    }
}

/// The length first, so that where one text ends and the next begins counts too.
fn write_text(key: &mut Vec<u8>, text: &str) {
    key.extend_from_slice(&(text.len() as u64).to_le_bytes());
    key.extend_from_slice(text.as_bytes());
}

fn write_texts(key: &mut Vec<u8>, texts: &[String]) {
    key.extend_from_slice(&(texts.len() as u64).to_le_bytes());
    for text in texts {
        write_text(key, text);
    }
}
