//! An event as a person and as a script reads it.

use creto_audit::ChainedEvent;
use creto_audit::event::{Code, Shown};
use creto_envelope::AgentId;
use serde_json::{Value, json};

use crate::moment::date_time;

/// One object, with the fields of its kind beside what every event has.
pub(crate) fn as_json(index: u64, event: &ChainedEvent) -> Value {
    let mut value = json!({
        "index": index,
        "source": event.source.to_string(),
        "position": event.position,
        "time_ms": event.event.time_ms(),
        "recovered": event.event.is_recovered(),
        "kind": event.event.what.name(),
    });
    event.event.what.visit(|name, shown| value[name] = field_json(shown));
    if !event.label.as_str().is_empty() {
        value["text"] = event.label.as_str().into();
    }
    value
}

fn field_json(shown: Shown) -> Value {
    match shown {
        Shown::Number(number) => number.into(),
        Shown::TimeMs(time) => time.into(),
        Shown::Agent(agent) if agent.is_zero() => Value::Null,
        Shown::Agent(agent) => agent.to_string().into(),
        Shown::Message(message) if message.is_zero() => Value::Null,
        Shown::Message(message) => message.to_uuid_string().into(),
        Shown::Id([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => Value::Null,
        Shown::Id(id) => hex::encode(id).into(),
        Shown::Digest(digest) => hex::encode(digest).into(),
        Shown::Word(word) => word.into(),
        Shown::Code(Code(0)) => Value::Null,
        Shown::Code(code) => json!({ "number": code.0, "name": code.name() }),
        Shown::Peer(peer) => peer.map(|peer| peer.to_string()).into(),
    }
}

/// Time, kind, and the fields that say something.
pub(crate) fn line(event: &ChainedEvent) -> String {
    let mut line = format!("{}  {}", date_time(event.event.time_ms()), event.event.what.name());
    let said = fields(event, |agent| agent.to_string());
    if !said.is_empty() {
        line.push_str("  ");
        line.push_str(&said);
    }
    line
}

/// The fields that say something, as `name=value`; agents as `name_of` calls them.
pub(crate) fn fields(event: &ChainedEvent, name_of: impl Fn(AgentId) -> String) -> String {
    let mut parts = Vec::new();
    event.event.what.visit(|name, shown| {
        let value = match shown {
            Shown::TimeMs(0) | Shown::Peer(None) | Shown::Code(Code(0)) => return,
            Shown::Agent(agent) if agent.is_zero() => return,
            Shown::Message(message) if message.is_zero() => return,
            Shown::Id(id) if id == [0; 16] => return,
            Shown::Number(number) => number.to_string(),
            Shown::TimeMs(time) => date_time(time).replace(' ', "T"),
            Shown::Agent(agent) => name_of(agent),
            Shown::Message(message) => message.to_uuid_string(),
            Shown::Id(id) => hex::encode(id),
            Shown::Digest(digest) => hex::encode(digest),
            Shown::Word(word) => word.to_owned(),
            Shown::Code(code) => code.name().map_or_else(|| code.0.to_string(), str::to_owned),
            Shown::Peer(Some(peer)) => peer.to_string(),
        };
        parts.push(format!("{name}={value}"));
    });
    if !event.label.as_str().is_empty() {
        parts.push(format!("text={:?}", event.label.as_str()));
    }
    if event.event.is_recovered() {
        parts.push("recovered".to_owned());
    }
    parts.join(" ")
}
