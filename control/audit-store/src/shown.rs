//! An event as a program reads it.

use creto_audit::ChainedEvent;
use creto_audit::event::{Code, Shown};
use serde_json::{Value, json};

/// One object, with the fields of its kind beside what every event has.
#[must_use]
pub fn event_json(index: u64, event: &ChainedEvent) -> Value {
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
