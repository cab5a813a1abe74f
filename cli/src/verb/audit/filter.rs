//! Which events somebody wants to see.

use std::collections::BTreeSet;

use creto_audit::event::{Kind, Shown};
use creto_audit::{ChainedEvent, Checkpoint, SourceId, What};
use creto_envelope::{AgentId, AgentName, MessageId, TrustDomain};

use crate::args::audit::AuditFilterArgs;
use crate::exit::{Exit, Failure};

/// Most messages that are followed at a time: ids are chosen by senders, and a log may hold one id often.
const FOLLOWED_MAX: usize = 65_536;

/// Takes events in the order of the log.
pub(crate) struct Filter {
    kinds: Vec<u8>,
    agent: Option<AgentId>,
    message: Option<MessageId>,
    source: Option<SourceId>,
    after: Option<u64>,
    before: Option<u64>,
    /// What the followed message is called by later events of its source.
    followed: BTreeSet<(SourceId, u64)>,
}

impl Filter {
    pub(crate) fn new(args: &AuditFilterArgs, checkpoint: &Checkpoint) -> Result<Self, Failure> {
        let agent = args.agent.as_deref().map(|text| agent(text, checkpoint)).transpose()?;
        let AuditFilterArgs { kinds, message, source, after, before, .. } = args;
        let (kinds, message, source) = (kinds.clone(), *message, *source);
        Ok(Self { kinds, agent, message, source, after: *after, before: *before, followed: BTreeSet::new() })
    }

    /// Whether it lets everything pass.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { kinds, agent, message, source, after, before, .. } = self;
        kinds.is_empty()
            && agent.is_none()
            && message.is_none()
            && source.is_none()
            && after.is_none()
            && before.is_none()
    }

    /// Whether it must see events from the first one on.
    pub(crate) fn follows_a_message(&self) -> bool {
        self.message.is_some()
    }

    pub(crate) fn fits(&mut self, event: &ChainedEvent) -> bool {
        // First, since what follows from an event that is filtered out may be wanted.
        let is_of_message = self.is_of_message(event);
        let time_ms = event.event.time_ms();
        is_of_message
            && (self.kinds.is_empty() || self.kinds.contains(&event.event.what.number()))
            && self.source.is_none_or(|source| source == event.source)
            && self.after.is_none_or(|after| time_ms >= after)
            && self.before.is_none_or(|before| time_ms < before)
            && self.agent.is_none_or(|agent| names(&event.event.what, agent))
    }

    fn is_of_message(&mut self, event: &ChainedEvent) -> bool {
        let Some(message) = self.message else { return true };
        let (mut names_it, mut sequence) = (false, None);
        event.event.what.visit(|field, shown| match shown {
            Shown::Message(found) => names_it |= found == message,
            Shown::Number(number) if field == "sequence" => sequence = Some(number),
            _ => {}
        });
        let Some(key) = sequence.map(|sequence| (event.source, sequence)) else { return names_it };
        let is_the_message = matches!(event.event.what, What::Accepted { .. });
        if names_it && is_the_message && self.followed.len() < FOLLOWED_MAX {
            self.followed.insert(key);
        }
        names_it || self.followed.contains(&key)
    }
}

fn names(what: &What, agent: AgentId) -> bool {
    let mut is_named = false;
    what.visit(|_, shown| is_named |= shown == Shown::Agent(agent));
    is_named
}

/// A name in the log's trust domain, or an id.
fn agent(text: &str, checkpoint: &Checkpoint) -> Result<AgentId, Failure> {
    if let Some(id) = AgentId::parse_hex(text) {
        return Ok(id);
    }
    let name = AgentName::parse(text).map_err(|error| Failure::of(Exit::Usage, &error))?;
    let domain = checkpoint.origin.split('/').next().unwrap_or_default();
    let domain = TrustDomain::parse(domain).map_err(|error| Failure::of(Exit::Usage, &error))?;
    Ok(AgentId::derive(&domain, &name))
}

pub(crate) fn parse_kind(text: &str) -> Result<u8, String> {
    let kind = Kind::ALL.iter().find(|kind| kind.name == text);
    kind.map(|kind| kind.number).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name).collect();
        format!("it is one of {}", names.join(", "))
    })
}

pub(crate) fn parse_source(text: &str) -> Result<SourceId, String> {
    SourceId::parse(text).ok_or_else(|| "it is control, or a shard such as shard-0".to_owned())
}

/// Unix milliseconds, or a date and perhaps a time in UTC.
pub(crate) fn parse_moment(text: &str) -> Result<u64, String> {
    if let Ok(unix_ms) = text.parse() {
        return Ok(unix_ms);
    }
    let wrong = || "write 2026-11-20, 2026-11-20 16:05:09 (UTC), or Unix milliseconds".to_owned();
    let (date, time) = text.split_once([' ', 'T']).unwrap_or((text, "00:00:00"));
    let date = numbers(date, '-').ok_or_else(wrong)?;
    let [hour, minute, second] = numbers(time.trim_end_matches('Z'), ':').ok_or_else(wrong)?;
    let days = crate::moment::day_of(date).ok_or_else(wrong)?;
    if hour > 23 || minute > 59 || second > 59 {
        return Err(wrong());
    }
    Ok((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000)
}

fn numbers(text: &str, between: char) -> Option<[u64; 3]> {
    let mut parts = text.split(between).map(|part| part.parse::<u64>().ok().filter(|number| *number < 10_000));
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        assert_eq!(parse_moment("1795190709999"), Ok(1_795_190_709_999));
        assert_eq!(parse_moment("2026-11-20"), Ok(1_795_132_800_000));
        assert_eq!(parse_moment("2026-11-20 16:05:09"), Ok(1_795_190_709_000));
        assert_eq!(parse_moment("2026-11-20T16:05:09Z"), Ok(1_795_190_709_000));
        for wrong in ["", "2026-13-01", "2026-02-30", "2026-11", "2026-11-20 24:00:00", "yesterday", "1969-12-31"] {
            assert!(parse_moment(wrong).is_err(), "{wrong}");
        }
    }
}
