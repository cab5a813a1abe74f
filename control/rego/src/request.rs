//! What a policy is asked: the documented input.

use regorus::Value;
use serde::{Deserialize, Serialize};

use crate::error::EvaluationError;
use crate::limits::{CAPABILITIES_MAX, RECENT_MESSAGES_MAX, ROLES_MAX, TEXT_BYTES_MAX};
use crate::schema::{RECENT_MESSAGES, ReadSet};

/// An agent, as a policy sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its identity, under which its recent messages are counted.
    pub nhi: String,
    /// Its name, such as `acme/planner`.
    pub name: String,
    /// Its organization.
    pub organization_id: String,
    /// What kind of agent it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it may act as.
    pub roles: Vec<String>,
    /// What it can do.
    pub capabilities: Vec<String>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Send a message to the recipient.
    SendMessage,
    /// Make a channel.
    CreateChannel,
    /// Read a channel.
    Subscribe,
    /// Write to a channel.
    Publish,
    /// Look up agents.
    ReadDirectory,
    /// Change agents, mailboxes or policy.
    Administer,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::SendMessage, Self::CreateChannel, Self::Subscribe, Self::Publish, Self::ReadDirectory, Self::Administer];

    /// As `input.action` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SendMessage => "send_message",
            Self::CreateChannel => "create_channel",
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::ReadDirectory => "read_directory",
            Self::Administer => "administer",
        }
    }
}

/// One question: may this agent do that?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who acts.
    pub sender: Agent,
    /// To whom, if the action is done to an agent.
    pub recipient: Option<Agent>,
    /// What.
    pub action: Action,
    /// On which channel, if on one.
    pub channel: Option<String>,
    /// How many messages the sender sent recently, by the counter of whoever asks.
    pub recent_messages: u32,
}

impl Request {
    /// As the interpreter takes it. Recent messages are put in only for a policy that reads them.
    pub(crate) fn to_value(&self, reads: &ReadSet) -> Result<Value, EvaluationError> {
        self.check(reads)?;
        let mut fields = vec![("sender", agent(&self.sender)), ("action", text(self.action.as_str()))];
        fields.extend(self.recipient.as_ref().map(|recipient| ("recipient", agent(recipient))));
        fields.extend(self.channel.as_deref().map(|channel| ("channel", text(channel))));
        if reads.has_recent_messages() {
            // Only their count means something.
            let messages = Value::from(vec![Value::Null; self.recent_messages as usize]);
            fields.push((RECENT_MESSAGES, object([(self.sender.nhi.as_str(), messages)])));
        }
        Ok(object(fields))
    }

    /// What a policy that reads these sees of it. The messages are their count.
    pub(crate) fn project(&self, reads: &ReadSet) -> serde_json::Value {
        let mut whole = serde_json::json!({
            "sender": self.sender,
            "action": self.action,
            RECENT_MESSAGES: self.recent_messages,
        });
        if let Some(recipient) = &self.recipient {
            whole["recipient"] = serde_json::json!(recipient);
        }
        if let Some(channel) = &self.channel {
            whole["channel"] = channel.as_str().into();
        }
        reads.project(&whole)
    }

    fn check(&self, reads: &ReadSet) -> Result<(), EvaluationError> {
        for agent in [Some(&self.sender), self.recipient.as_ref()].into_iter().flatten() {
            let Agent { nhi, name, organization_id, kind, roles, capabilities } = agent;
            if roles.len() > ROLES_MAX {
                return Err(EvaluationError::TooMuch("roles"));
            }
            if capabilities.len() > CAPABILITIES_MAX {
                return Err(EvaluationError::TooMuch("capabilities"));
            }
            let mut texts = [nhi, name, organization_id, kind].into_iter().chain(roles).chain(capabilities);
            if texts.any(|text| text.len() > TEXT_BYTES_MAX) {
                return Err(EvaluationError::TooMuch("bytes in a text of an agent"));
            }
        }
        if self.channel.as_ref().is_some_and(|channel| channel.len() > TEXT_BYTES_MAX) {
            return Err(EvaluationError::TooMuch("bytes in the channel"));
        }
        if reads.has_recent_messages() && self.recent_messages > RECENT_MESSAGES_MAX {
            return Err(EvaluationError::TooMuch("recent messages"));
        }
        Ok(())
    }
}

fn agent(agent: &Agent) -> Value {
    let list = |texts: &[String]| Value::from(texts.iter().map(|item| text(item)).collect::<Vec<_>>());
    object([
        ("nhi", text(&agent.nhi)),
        ("name", text(&agent.name)),
        ("organization_id", text(&agent.organization_id)),
        ("type", text(&agent.kind)),
        ("roles", list(&agent.roles)),
        ("capabilities", list(&agent.capabilities)),
    ])
}

fn text(text: &str) -> Value {
    Value::from(text)
}

fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let fields: std::collections::BTreeMap<Value, Value> =
        fields.into_iter().map(|(name, value)| (text(name), value)).collect();
    Value::from(fields)
}
