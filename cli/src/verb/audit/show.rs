//! An event as a person reads it.

use creto_audit::ChainedEvent;
use creto_audit::event::{Code, Shown};
pub(crate) use creto_audit_store::event_json as as_json;
use creto_envelope::AgentId;

use crate::moment::date_time;

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
