//! What is allowed, written once more in Rust from the documentation, without Rego, tables or caches.

use creto_envelope::channel::{ChannelName, Publishing, Subscribing};
use creto_envelope::{AgentId, AgentState, ChannelId, Priority, RejectCode};
use creto_policy::{Action, Decision, Obligations, Policy, Principal, Priorities, Snapshot};

/// A policy and who there is.
pub(crate) struct Model<'a> {
    agents: &'a Snapshot,
    policy: Option<&'a Grant>,
}

/// What a policy grants: to whom, for what, with how many recent messages, and what that is bound to.
pub(crate) type Grant = dyn Fn(&Asked<'_>) -> Option<Obligations> + Sync;

/// What a policy sees.
pub(crate) struct Asked<'a> {
    pub(crate) sender: &'a Principal,
    pub(crate) recipient: &'a Principal,
    pub(crate) action: &'static str,
    /// The name of the channel, if it is done to one.
    pub(crate) channel: Option<&'a ChannelName>,
    pub(crate) recent_messages: u32,
}

impl<'a> Model<'a> {
    pub(crate) fn new(agents: &'a Snapshot, policy: Option<&'a Grant>) -> Self {
        Self { agents, policy }
    }

    pub(crate) fn decide(
        &self,
        now_ms: u64,
        sender: &AgentId,
        action: Action,
        recipient: &AgentId,
        recent_messages: u32,
    ) -> Decision {
        match self.grant(now_ms, sender, action, recipient, recent_messages) {
            Ok(obligations) => Decision::Allow(obligations),
            Err(code) => Decision::Deny(code),
        }
    }

    fn grant(
        &self,
        now_ms: u64,
        sender: &AgentId,
        action: Action,
        recipient: &AgentId,
        recent_messages: u32,
    ) -> Result<Obligations, RejectCode> {
        let policy = self.policy.ok_or(RejectCode::PolicyUnavailable)?;
        let from = self.agents.principal(sender).ok_or(RejectCode::UnknownSender)?;
        match from.state() {
            AgentState::Active => {}
            AgentState::Suspended => return Err(RejectCode::AgentSuspended),
            AgentState::Revoked => return Err(RejectCode::AgentRevoked),
        }
        let current = from.current();
        if now_ms >= current.valid_until_ms {
            return Err(RejectCode::KeyExpired);
        }
        if now_ms < current.valid_from_ms {
            return Err(RejectCode::KeyNotYetValid);
        }
        if let Action::Publish | Action::SubscribeChannel = action {
            return self.grant_on_channel(policy, from, action == Action::Publish, recipient, recent_messages);
        }
        let sends = action == Action::SendMessage;
        let unknown = if sends { RejectCode::UnknownRecipient } else { RejectCode::UnknownAgent };
        let to = self.agents.principal(recipient).ok_or(unknown)?;
        if sends {
            if to.state() == AgentState::Revoked {
                return Err(unknown);
            }
            let asked = Asked { sender: from, recipient: to, action: "send_message", channel: None, recent_messages };
            return policy(&asked).ok_or(RejectCode::PolicyDenied);
        }
        if sender == recipient {
            return Ok(Obligations::NONE);
        }
        let reads = Asked { sender: from, recipient: to, action: "read_directory", channel: None, recent_messages };
        let sends = Asked { action: "send_message", ..reads };
        let gets = Asked { sender: to, recipient: from, action: "send_message", channel: None, recent_messages: 0 };
        let may_read = [reads, sends, gets].iter().any(|asked| policy(asked).is_some());
        if may_read { Ok(Obligations::NONE) } else { Err(RejectCode::PolicyDenied) }
    }

    fn grant_on_channel(
        &self,
        policy: &Grant,
        from: &Principal,
        publishes: bool,
        channel: &AgentId,
        recent_messages: u32,
    ) -> Result<Obligations, RejectCode> {
        let record = self.agents.channel(&ChannelId(channel.0)).ok_or(RejectCode::UnknownChannel)?.record();
        let owner = self.agents.principal(&record.owner).ok_or(RejectCode::UnknownChannel)?;
        let me = from.agent();
        let has_rego = matches!(self.agents.policy(), Some(Policy::Loaded(_)));
        let is_let = me == record.owner
            || match (publishes, &record.publishing, &record.subscribing) {
                (true, Publishing::Open, _) | (false, _, Subscribing::Open) => true,
                (true, Publishing::Listed(listed), _) | (false, _, Subscribing::Allowlist(listed)) => {
                    listed.contains(&me)
                }
                (false, _, Subscribing::Private) => false,
                (false, _, Subscribing::AuthzRequired) => true,
            };
        if !is_let {
            return Err(RejectCode::ChannelNotAllowed);
        }
        if !publishes && record.subscribing == Subscribing::AuthzRequired && !has_rego {
            let is_built_in = matches!(self.agents.policy(), Some(Policy::SameOrganization));
            return Err(if is_built_in { RejectCode::ChannelNotAllowed } else { RejectCode::PolicyUnavailable });
        }
        if let Some(Policy::SameOrganization) = self.agents.policy() {
            // By the name of the channel, not by who owns it.
            let same = record.name.organization() == organization(from);
            return if same { Ok(Obligations::NONE) } else { Err(RejectCode::PolicyDenied) };
        }
        let action = if publishes { "publish" } else { "subscribe" };
        let asked = Asked { sender: from, recipient: owner, action, channel: Some(&record.name), recent_messages };
        policy(&asked).ok_or(RejectCode::PolicyDenied)
    }
}

fn unbound(granted: bool) -> Option<Obligations> {
    granted.then_some(Obligations::NONE)
}

fn organization(principal: &Principal) -> &str {
    principal.name().organization()
}

fn has_role(principal: &Principal, role: &str) -> bool {
    principal.attributes().roles().iter().any(|own| own == role)
}

fn same_organization(asked: &Asked<'_>) -> bool {
    organization(asked.sender) == organization(asked.recipient)
}

fn few_messages(asked: &Asked<'_>) -> bool {
    asked.recent_messages < 1_000
}

fn coordinator(asked: &Asked<'_>) -> bool {
    has_role(asked.sender, "coordinator") && asked.action == "send_message"
}

pub(crate) fn by_organization(asked: &Asked<'_>) -> Option<Obligations> {
    unbound(same_organization(asked))
}

pub(crate) fn everything(_: &Asked<'_>) -> Option<Obligations> {
    unbound(true)
}

/// Policies in Rego, each with the same in Rust. The first three and all of them in one file are those of the documents.
pub(crate) const POLICIES: &[(&str, &Grant)] = &[
    (include_str!("../../../rego/tests/examples/same_organization.rego"), &by_organization),
    (include_str!("../../../rego/tests/examples/rate_limiting.rego"), &|asked| unbound(few_messages(asked))),
    (include_str!("../../../rego/tests/examples/role_based.rego"), &|asked| unbound(coordinator(asked))),
    (
        concat!(
            include_str!("../../../rego/tests/examples/same_organization.rego"),
            "\n",
            include_str!("../../../rego/tests/examples/rate_limiting.rego"),
            "\n",
            include_str!("../../../rego/tests/examples/role_based.rego")
        ),
        &|asked| {
            // With more messages than a policy can count, one that counts them denies.
            let countable = asked.recent_messages <= 10_000;
            unbound(countable && (same_organization(asked) || few_messages(asked) || coordinator(asked)))
        },
    ),
    (
        "package creto.messaging

default allow := false

allow if {
    some capability in input.sender.capabilities
    capability == input.recipient.type
}

allow if input.sender.name == \"acme/0\"

obligations := {\"messages_per_s\": 5, \"priorities\": [\"low\", \"normal\"]} if input.sender.type == \"worker\"
",
        &|asked| {
            let (sender, recipient) = (asked.sender, asked.recipient);
            let serves =
                sender.attributes().capabilities().iter().any(|own| own == recipient.attributes().agent_type());
            let first = sender.name().as_str() == "acme/0";
            let worker = Obligations {
                messages_per_s: Some(5),
                priorities: Priorities::NONE.with(Priority::Low).with(Priority::Normal),
                ..Obligations::NONE
            };
            (serves || first)
                .then(|| if sender.attributes().agent_type() == "worker" { worker } else { Obligations::NONE })
        },
    ),
    (
        "package creto.messaging

blocked if \"intern\" in input.sender.roles
blocked if \"intern\" in input.recipient.roles

allow if not blocked

obligations := {\"size_max\": 100 * count(input.sender.roles), \"bytes_per_s\": 1000} if count(input.sender.roles) > 0
",
        &|asked| {
            let blocked = has_role(asked.sender, "intern") || has_role(asked.recipient, "intern");
            let roles = asked.sender.attributes().roles().len() as u64;
            let bound = Obligations { size_max: Some(100 * roles), bytes_per_s: Some(1_000), ..Obligations::NONE };
            (!blocked).then_some(if roles > 0 { bound } else { Obligations::NONE })
        },
    ),
    (
        "# What fails denies the whole request.
allow {
    input.sender.type == \"worker\"
}

allow {
    count(input.sender.roles) > 1
    startswith(input.sender.roles, \"c\")
}
",
        &|asked| {
            let attributes = asked.sender.attributes();
            unbound(attributes.agent_type() == "worker" && attributes.roles().len() <= 1)
        },
    ),
    (
        "allow {
    input.action == \"read_directory\"
    startswith(input.recipient.nhi, \"acme/\")
}
",
        &|asked| unbound(asked.action == "read_directory" && organization(asked.recipient) == "acme"),
    ),
    (
        "allow {
    input.action == \"publish\"
    input.channel == \"acme/plans\"
}

allow {
    input.action == \"subscribe\"
    startswith(input.channel, input.sender.organization_id)
}

allow {
    not input.channel
    input.sender.organization_id == input.recipient.organization_id
}
",
        &|asked| {
            let name = asked.channel.map(ChannelName::as_str);
            unbound(match (name, asked.action) {
                (Some(name), "publish") => name == "acme/plans",
                (Some(name), _) => name.starts_with(organization(asked.sender)),
                (None, _) => same_organization(asked),
            })
        },
    ),
];
