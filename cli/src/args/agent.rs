//! Arguments of `creto agent`.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use creto_agent::AgentName;
use creto_node::config::parse_span;
use creto_service::tokens::EnrolmentToken;

use super::{KeysArgs, ReachArgs, agent_name};

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    pub(crate) verb: AgentVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentVerb {
    /// Make an agent's keys here and register their public half with the node.
    ///
    /// The node of this machine is asked at its control socket. With `--node` one that runs elsewhere is, where its agents reach
    /// it: it wants a token (`creto token create` there), and its certificate (`data/node.crt` there).
    Create(AgentCreateArgs),
    /// List the agents that are registered.
    List(AgentListArgs),
    /// Show one agent and the versions of its key.
    Show(AgentShowArgs),
    /// Show how many prekeys an agent has at the node: keys for one session each, which senders claim.
    Prekeys(AgentShowArgs),
    /// Set an agent's type, roles and capabilities, which policies read.
    ///
    /// What is given takes the place of all that was there: `--role a --role b` leaves these two and no other. What is not
    /// named stays as it is.
    Set(AgentSetArgs),
    /// Let an agent do nothing until it is resumed: its connections are closed, and what it is sent waits.
    Suspend(AgentStateArgs),
    /// Let a suspended agent act again.
    Resume(AgentStateArgs),
    /// Take an agent's rights away for good: what its keys sign from now on is void, and its name is never used again.
    Revoke(AgentRevokeArgs),
    /// Replace an agent's encryption key; what is sealed to the old one still arrives for the grace period.
    Rotate(AgentRotateArgs),
    /// Encrypt an agent's keys that are here with a passphrase, or change it.
    ///
    /// Asks for the old one, if there is one, and twice for the new one. The node need not run. An agent that is running goes
    /// on when the passphrase changes; when its keys were not encrypted before, restart it.
    Passphrase(AgentPassphraseArgs),
    /// Show the digits that two people compare to know that they mean the same keys; the node proves that all see these.
    Fingerprint(AgentFingerprintArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AgentCreateArgs {
    /// Name of the agent, such as acme/planner.
    #[arg(value_name = "NAME", value_parser = agent_name)]
    pub(crate) name: AgentName,
    /// A node that runs elsewhere, where its agents reach it [default: the one of this machine, at its control socket].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) node: Option<String>,
    /// That node's certificate; exactly this one is trusted [default: the configuration's].
    #[arg(long, value_name = "FILE", requires = "node")]
    pub(crate) certificate: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// The node's trust domain [default: the configuration's].
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) trust_domain: Option<String>,
    /// Days that the keys are valid.
    #[arg(long, default_value_t = 365, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) valid_days: u32,
    /// A token for enrolment, as `creto token create` printed it. Processes of this machine see what is on a command line: the
    /// variable CRETO_ENROLMENT_TOKEN is better.
    #[arg(long, value_name = "TOKEN", env = "CRETO_ENROLMENT_TOKEN", hide_env = true, value_parser = enrolment_token)]
    pub(crate) token: Option<TokenArg>,
    /// The workload's X.509-SVID (PEM): where the node has a trust bundle of SPIFFE, it registers the agent of its path.
    #[arg(long, value_name = "FILE", requires = "svid_key", conflicts_with_all = ["token", "node"])]
    pub(crate) svid: Option<PathBuf>,
    /// The SVID's private key (PEM); only its owner may read it.
    #[arg(long, value_name = "FILE", requires = "svid")]
    pub(crate) svid_key: Option<PathBuf>,
    /// Encrypt the keys with a passphrase that is asked for. With a passphrase in a file or a credential, or with a token, they
    /// always are.
    #[arg(long)]
    pub(crate) encrypt: bool,
    /// Experimental: sign with FN-DSA-512 as a third. Node and recipients need the feature fn-dsa, too.
    #[cfg(feature = "fn-dsa")]
    #[arg(long)]
    pub(crate) fn_dsa: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AgentListArgs {
    /// Only agents of this organization.
    #[arg(value_name = "ORGANIZATION")]
    pub(crate) organization: Option<String>,
    /// Print one JSON array.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AgentShowArgs {
    /// Name of the agent.
    #[arg(value_name = "NAME", value_parser = agent_name)]
    pub(crate) name: AgentName,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group(
    ArgGroup::new("attributes")
        .required(true)
        .multiple(true)
        .args(["agent_type", "roles", "capabilities", "clear_roles", "clear_capabilities"])
))]
pub(crate) struct AgentSetArgs {
    /// Name of the agent.
    #[arg(value_name = "NAME", value_parser = agent_name)]
    pub(crate) name: AgentName,
    /// What kind of agent it is; `agent` is what all are that were not set.
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) agent_type: Option<String>,
    /// A role; all of them take the place of those it had. May be given more than once.
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// A capability; all of them take the place of those it had. May be given more than once.
    #[arg(long = "capability", value_name = "CAPABILITY")]
    pub(crate) capabilities: Vec<String>,
    /// Take every role away.
    #[arg(long, conflicts_with = "roles")]
    pub(crate) clear_roles: bool,
    /// Take every capability away.
    #[arg(long, conflicts_with = "capabilities")]
    pub(crate) clear_capabilities: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AgentStateArgs {
    #[command(flatten)]
    pub(crate) whose: WhoseArgs,
    /// Why; `creto agent show` prints it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AgentRevokeArgs {
    #[command(flatten)]
    pub(crate) whose: WhoseArgs,
    /// Why; `creto agent show` prints it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// The keys were in foreign hands for so long already, such as 2h: what was signed with them since is void, too.
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) since: Option<Duration>,
    /// Do not ask before a whole organization is revoked.
    #[arg(long, requires = "organization")]
    pub(crate) yes: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whom a change of state concerns.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WhoseArgs {
    /// Name of the agent.
    #[arg(value_name = "NAME", value_parser = agent_name)]
    pub(crate) name: Option<AgentName>,
    /// All agents that this organization has now.
    #[arg(long, value_name = "ORGANIZATION")]
    pub(crate) organization: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AgentRotateArgs {
    /// The agent; its keys are here. One that is running goes on, and finds the new key in its file.
    #[arg(value_name = "NAME", value_parser = agent_name)]
    pub(crate) name: AgentName,
    /// The old keys may be in foreign hands: refuse what is sealed to them at once. Messages that wait in the mailbox can
    /// then only be opened by an agent that is running now.
    #[arg(long)]
    pub(crate) emergency: bool,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AgentPassphraseArgs {
    /// The agent; its keys are here.
    #[arg(value_name = "NAME", value_parser = agent_name)]
    pub(crate) name: AgentName,
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// File whose first line is the new passphrase; only its owner may read it [default: the terminal].
    #[arg(long, value_name = "FILE")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AgentFingerprintArgs {
    /// The agent whose keys are meant.
    #[arg(value_name = "NAME", value_parser = agent_name)]
    pub(crate) name: AgentName,
    /// The agent that asks the node; its keys are here [default: the one whose keys are meant].
    #[arg(long = "as", value_name = "AGENT", value_parser = agent_name)]
    pub(crate) as_agent: Option<AgentName>,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A token as it was given; `None` if it is none. What is wrong is said by the verb: the parser of the command line would repeat
/// the text, which may be a good token but for one character.
#[derive(Clone, Debug)]
pub(crate) struct TokenArg(pub(crate) Option<Arc<EnrolmentToken>>);

#[allow(clippy::unnecessary_wraps, reason = "the form that a parser of arguments has")]
fn enrolment_token(text: &str) -> Result<TokenArg, Infallible> {
    Ok(TokenArg(EnrolmentToken::parse(text.trim()).map(Arc::new)))
}

pub(super) fn span(text: &str) -> Result<Duration, String> {
    parse_span(text).ok_or_else(|| "expected a time with its unit such as 2h or 3d".to_owned())
}
