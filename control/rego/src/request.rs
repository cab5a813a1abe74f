//! What a policy is asked: the documented input.

use std::collections::BTreeMap;

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

/// An agent, where its texts are elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentView<'a> {
    /// As [`Agent::nhi`].
    pub nhi: &'a str,
    /// As [`Agent::name`].
    pub name: &'a str,
    /// As [`Agent::organization_id`].
    pub organization_id: &'a str,
    /// As [`Agent::kind`].
    pub kind: &'a str,
    /// As [`Agent::roles`].
    pub roles: &'a [String],
    /// As [`Agent::capabilities`].
    pub capabilities: &'a [String],
}

impl Agent {
    /// Without its texts.
    #[must_use]
    pub fn view(&self) -> AgentView<'_> {
        let Self { nhi, name, organization_id, kind, roles, capabilities } = self;
        AgentView { nhi, name, organization_id, kind, roles, capabilities }
    }
}

/// A [`Request`], where its texts are elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestView<'a> {
    /// As [`Request::sender`].
    pub sender: AgentView<'a>,
    /// As [`Request::recipient`].
    pub recipient: Option<AgentView<'a>>,
    /// As [`Request::action`].
    pub action: Action,
    /// As [`Request::channel`].
    pub channel: Option<&'a str>,
    /// As [`Request::recent_messages`].
    pub recent_messages: u32,
}

impl RequestView<'_> {
    fn check(&self, counts_messages: bool) -> Result<(), EvaluationError> {
        for agent in [Some(&self.sender), self.recipient.as_ref()].into_iter().flatten() {
            let AgentView { nhi, name, organization_id, kind, roles, capabilities } = *agent;
            if roles.len() > ROLES_MAX {
                return Err(EvaluationError::TooMuch("roles"));
            }
            if capabilities.len() > CAPABILITIES_MAX {
                return Err(EvaluationError::TooMuch("capabilities"));
            }
            let texts = roles.iter().chain(capabilities).map(String::as_str);
            if [nhi, name, organization_id, kind].into_iter().chain(texts).any(|text| text.len() > TEXT_BYTES_MAX) {
                return Err(EvaluationError::TooMuch("bytes in a text of an agent"));
            }
        }
        if self.channel.is_some_and(|channel| channel.len() > TEXT_BYTES_MAX) {
            return Err(EvaluationError::TooMuch("bytes in the channel"));
        }
        if counts_messages && self.recent_messages > RECENT_MESSAGES_MAX {
            return Err(EvaluationError::TooMuch("recent messages"));
        }
        Ok(())
    }
}

/// Makes inputs for the interpreter that hold what one policy reads. Names of fields, and what comes again and again, are
/// made once.
#[derive(Clone)]
pub(crate) struct InputWriter {
    sender: Option<(Value, Vec<(Value, Field)>)>,
    recipient: Option<(Value, Vec<(Value, Field)>)>,
    action: Option<(Value, Vec<Value>)>,
    channel: Option<Value>,
    recent_messages: Option<Value>,
    /// That many nulls, from the last request that had as many.
    messages: (u32, Value),
}

#[derive(Clone, Copy)]
enum Field {
    Nhi,
    Name,
    OrganizationId,
    Kind,
    Roles,
    Capabilities,
}

impl InputWriter {
    pub(crate) fn new(reads: &ReadSet) -> Self {
        let side = |side: &str| {
            let fields = [
                ("nhi", Field::Nhi),
                ("name", Field::Name),
                ("organization_id", Field::OrganizationId),
                ("type", Field::Kind),
                ("roles", Field::Roles),
                ("capabilities", Field::Capabilities),
            ];
            let read: Vec<_> = fields
                .into_iter()
                .filter(|(name, _)| reads.reads(&[side, name]))
                .map(|(name, field)| (text(name), field))
                .collect();
            (!read.is_empty()).then(|| (text(side), read))
        };
        Self {
            sender: side("sender"),
            recipient: side("recipient"),
            action: reads
                .reads(&["action"])
                .then(|| (text("action"), Action::ALL.map(|action| text(action.as_str())).to_vec())),
            channel: reads.reads(&["channel"]).then(|| text("channel")),
            recent_messages: reads.has_recent_messages().then(|| text(RECENT_MESSAGES)),
            messages: (0, Value::from(Vec::new())),
        }
    }

    pub(crate) fn write(&mut self, request: &RequestView<'_>) -> Result<Value, EvaluationError> {
        request.check(self.recent_messages.is_some())?;
        let mut input = BTreeMap::new();
        if let Some((name, fields)) = &self.sender {
            input.insert(name.clone(), side(fields, &request.sender));
        }
        if let (Some((name, fields)), Some(recipient)) = (&self.recipient, &request.recipient) {
            input.insert(name.clone(), side(fields, recipient));
        }
        if let Some((name, actions)) = &self.action {
            input.insert(name.clone(), actions[request.action as usize].clone());
        }
        if let (Some(name), Some(channel)) = (&self.channel, request.channel) {
            input.insert(name.clone(), text(channel));
        }
        if let Some(name) = &self.recent_messages {
            if self.messages.0 != request.recent_messages {
                let messages = vec![Value::Null; request.recent_messages as usize];
                self.messages = (request.recent_messages, Value::from(messages));
            }
            let of_sender = BTreeMap::from([(text(request.sender.nhi), self.messages.1.clone())]);
            input.insert(name.clone(), Value::from(of_sender));
        }
        Ok(Value::from(input))
    }
}

fn side(fields: &[(Value, Field)], agent: &AgentView<'_>) -> Value {
    let list = |texts: &[String]| Value::from(texts.iter().map(|item| text(item)).collect::<Vec<_>>());
    let value = |field: Field| match field {
        Field::Nhi => text(agent.nhi),
        Field::Name => text(agent.name),
        Field::OrganizationId => text(agent.organization_id),
        Field::Kind => text(agent.kind),
        Field::Roles => list(agent.roles),
        Field::Capabilities => list(agent.capabilities),
    };
    let written: BTreeMap<_, _> = fields.iter().map(|(name, field)| (name.clone(), value(*field))).collect();
    Value::from(written)
}

impl Request {
    /// Without its texts.
    #[must_use]
    pub fn view(&self) -> RequestView<'_> {
        RequestView {
            sender: self.sender.view(),
            recipient: self.recipient.as_ref().map(Agent::view),
            action: self.action,
            channel: self.channel.as_deref(),
            recent_messages: self.recent_messages,
        }
    }

    /// As the interpreter takes it. Recent messages are put in only for a policy that reads them.
    pub(crate) fn to_value(&self, reads: &ReadSet) -> Result<Value, EvaluationError> {
        self.view().check(reads.has_recent_messages())?;
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
    let fields: BTreeMap<Value, Value> = fields.into_iter().map(|(name, value)| (text(name), value)).collect();
    Value::from(fields)
}
