//! Watches the events that a log is told for what an operator should look at: forged signatures, replays, bursts of denials,
//! failed logins, clocks that are wrong, revoked keys.
//!
//! Each [`Rule`] counts what it is about for each agent or address, over a window that slides. When as much as its threshold was
//! seen within one window, it raises an alert, which is an event of the log itself, and is silent about the same for one window.
//! Below the threshold it never does. What was only counted ([`What::EventsMerged`]) counts for nobody in particular.
//!
//! A rule keeps counts of [`ALERT_SUBJECTS_MAX`] agents and addresses; when there are more at a time, the others count together.

use std::collections::BTreeMap;

use creto_envelope::{AgentId, RejectCode};

use crate::event::{Code, KindOf, Peer, What};
use crate::limits::ALERT_SUBJECTS_MAX;

pub use crate::event::Rule;

/// When a rule raises an alert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// So much of it; zero: never.
    pub threshold: u32,
    /// Within so long, in seconds.
    pub window_s: u32,
}

/// The limit of each rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits(BTreeMap<Rule, Limit>);

impl Limits {
    /// Those that hold unless an operator says otherwise.
    #[must_use]
    pub fn usual() -> Self {
        Self(Rule::ALL.iter().map(|(rule, ..)| (*rule, usual(*rule))).collect())
    }

    /// The same, and this one.
    #[must_use]
    pub fn with(mut self, rule: Rule, limit: Limit) -> Self {
        self.0.insert(rule, limit);
        self
    }

    /// The limit of this rule.
    #[must_use]
    pub fn of(&self, rule: Rule) -> Limit {
        self.0.get(&rule).copied().unwrap_or_else(|| usual(rule))
    }
}

/// What holds of a rule unless an operator says otherwise.
#[must_use]
pub const fn usual(rule: Rule) -> Limit {
    let (threshold, window_s) = match rule {
        // Never by accident.
        Rule::ForgedSignatures => (3, 60),
        // A sender that was away for longer than messages are remembered has some.
        Rule::Replays => (20, 300),
        // An agent that tries what it may not once is mistaken.
        Rule::Denials => (100, 60),
        Rule::LoginFailures => (10, 60),
        Rule::ClockSkew => (10, 300),
        // An agent that runs when it is revoked comes back a few times.
        Rule::RevokedKeys => (5, 300),
    };
    Limit { threshold, window_s }
}

/// What an operator should do about an alert.
#[must_use]
pub const fn what_to_do(rule: Rule) -> &'static str {
    match rule {
        Rule::ForgedSignatures => {
            "somebody signs with other keys than the agent's, or changes what it signed: ask whoever runs the agent; if its keys may be in foreign hands, `creto agent revoke NAME`"
        }
        Rule::Replays => {
            "messages came again after their time, or under another agent's login: look who sends from that address; an agent that was away for hours has to send anew"
        }
        Rule::Denials => {
            "an agent tries what policy denies it, over and over: `creto policy explain FROM ACTION TO` says why; correct the policy or the agent, or `creto agent suspend NAME`"
        }
        Rule::LoginFailures => {
            "somebody tries to log in or to enrol without the right keys or token: close the address in the firewall, or give the agent its own key file"
        }
        Rule::ClockSkew => {
            "what an agent signs is dated more than five minutes ahead of this node's clock, or more than an hour behind: set its clock or the node's (NTP)"
        }
        Rule::RevokedKeys => {
            "somebody uses, or claims to be, an agent that was revoked or suspended: look at the address, stop that agent, and find out who else has its key file"
        }
    }
}

/// Whom a rule counts for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
struct Subject {
    agent: AgentId,
    peer: Peer,
}

/// Parts of a window that are counted by themselves. A part goes at once, so a window is cut by at most one of them.
const PARTS: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    parts: [u32; PARTS],
    /// Which part of all time is counted last.
    last: u64,
    /// No alert before this part.
    silent_until: u64,
}

/// Counts, and says when there is too much of something.
#[derive(Debug)]
pub struct Monitor {
    limits: Limits,
    counts: BTreeMap<(Rule, Subject), Count>,
    /// Subjects of each rule.
    subjects: BTreeMap<Rule, usize>,
}

impl Monitor {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, counts: BTreeMap::new(), subjects: BTreeMap::new() }
    }

    /// Takes an event of this moment, Unix milliseconds; the alert that it raises, if it does.
    pub fn see(&mut self, time_ms: u64, what: &What) -> Option<What> {
        let (rule, subject, count) = counted(what)?;
        let Limit { threshold, window_s } = self.limits.of(rule);
        if threshold == 0 || window_s == 0 {
            return None;
        }
        let part_ms = (u64::from(window_s) * 1_000).div_ceil(PARTS as u64);
        let part = time_ms / part_ms;
        let subject = self.place(rule, subject, part);
        let counted = self.counts.entry((rule, subject)).or_default();
        counted.add(part, count);
        let seen = counted.parts.iter().fold(0_u32, |sum, part| sum.saturating_add(*part));
        if seen < threshold || part < counted.silent_until {
            return None;
        }
        counted.silent_until = part + PARTS as u64;
        let Subject { agent, peer } = subject;
        Some(What::AlertRaised { agent, peer, count: seen, threshold, window_s, rule })
    }

    /// The subject's own count, or that of all for whom there is no room.
    fn place(&mut self, rule: Rule, subject: Subject, part: u64) -> Subject {
        if subject == Subject::default() || self.counts.contains_key(&(rule, subject)) {
            return subject;
        }
        let mut subjects = self.subjects.get(&rule).copied().unwrap_or(0);
        if subjects >= ALERT_SUBJECTS_MAX {
            // Those that count nothing any more make room.
            self.counts.retain(|(of, _), count| *of != rule || count.last.saturating_add(PARTS as u64) > part);
            subjects = self.counts.keys().filter(|(of, subject)| *of == rule && *subject != Subject::default()).count();
        }
        let has_room = subjects < ALERT_SUBJECTS_MAX;
        self.subjects.insert(rule, subjects + usize::from(has_room));
        if has_room { subject } else { Subject::default() }
    }
}

impl Count {
    fn add(&mut self, part: u64, count: u32) {
        // A clock that was set back begins anew: what it counts again is no more than there was.
        // Events of several shards come a little out of order: those of an earlier part count there.
        let is_new = self.last == 0 && self.parts == [0; PARTS];
        if is_new || part.abs_diff(self.last) >= PARTS as u64 {
            self.parts = [0; PARTS];
            if part < self.last {
                self.silent_until = 0;
            }
            self.last = part;
        } else {
            for gone in self.last + 1..=part {
                self.parts[place(gone)] = 0;
            }
            self.last = self.last.max(part);
        }
        let counted = &mut self.parts[place(part)];
        *counted = counted.saturating_add(count);
    }
}

fn place(part: u64) -> usize {
    usize::try_from(part % PARTS as u64).expect("below eight")
}

/// Which rule an event is about, for whom and how much it counts; `None` for most.
fn counted(what: &What) -> Option<(Rule, Subject, u32)> {
    let of_agent = |agent| Subject { agent, peer: Peer::default() };
    let of_peer = |peer| Subject { agent: AgentId::ZERO, peer };
    match *what {
        What::SignatureFailure { claimed, peer, code, .. } => {
            Some((rule_of(11, code)?, Subject { agent: claimed, peer }, 1))
        }
        What::SubmitRefused { sender, count, code, .. } => Some((rule_of(9, code)?, of_agent(sender), count)),
        What::DeliveryDenied { sender, code, .. } => Some((rule_of(10, code)?, of_agent(sender), 1)),
        What::LoginFailed { claimed, peer, code, .. } => {
            let rule = rule_of(13, code)?;
            // Who guesses names is known by the address only.
            // Nobody has looked at the signatures of one that is revoked: the address is a part of what is known.
            let of_both = Subject { agent: claimed, peer };
            Some((rule, if rule == Rule::RevokedKeys { of_both } else { of_peer(peer) }, 1))
        }
        What::EnrolmentRefused { peer, code, .. } => Some((rule_of(77, code)?, of_peer(peer), 1)),
        What::EventsMerged { kind: KindOf(kind), code, count, .. } => {
            Some((rule_of(kind, code)?, Subject::default(), count))
        }
        _ => None,
    }
}

/// Which rule a refusal is about, by the number of its event's kind and its reason.
fn rule_of(kind: u8, code: Code) -> Option<Rule> {
    let of_token = |name: &str| Code::of_control(name) == Some(code);
    if kind == 77 {
        let is_guess = [
            "token_missing",
            "token_unknown",
            "token_expired",
            "token_used",
            "token_scope",
            "record_purpose",
            "svid_trust_domain",
            "svid_name",
            "svid_time",
            "svid_untrusted",
            "svid_signature",
        ];
        return is_guess.iter().any(|name| of_token(name)).then_some(Rule::LoginFailures);
    }
    let code = RejectCode::from_u16(code.0)?;
    match (kind, code) {
        (9..=11 | 13, RejectCode::AgentRevoked | RejectCode::AgentSuspended) => Some(Rule::RevokedKeys),
        (9 | 11, RejectCode::BadSignature) => Some(Rule::ForgedSignatures),
        (9, RejectCode::OutsideDedupWindow | RejectCode::SenderMismatch) => Some(Rule::Replays),
        (9, RejectCode::SigningTime) => Some(Rule::ClockSkew),
        (
            9,
            RejectCode::PolicyDenied
            | RejectCode::PolicySize
            | RejectCode::PolicyPriority
            | RejectCode::UnknownRecipient
            | RejectCode::NotMailboxOwner,
        ) => Some(Rule::Denials),
        (
            13,
            RejectCode::LoginBadSignature
            | RejectCode::LoginUnknownAgent
            | RejectCode::UnknownKeyVersion
            | RejectCode::KeyExpired
            | RejectCode::KeyNotYetValid,
        ) => Some(Rule::LoginFailures),
        _ => None,
    }
}

/// The rule that an event counts for, and how much: for whoever counts what a log holds.
#[must_use]
pub fn counts_for(what: &What) -> Option<(Rule, u32)> {
    counted(what).map(|(rule, _, count)| (rule, count))
}

#[cfg(test)]
mod tests;
