//! Arguments of `creto channel`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use creto_agent::AgentName;
use creto_agent::channel::{ChannelName, ChannelPattern};
use creto_envelope::limits::{CHANNEL_RETENTION_S_MAX, CHANNEL_RETENTION_S_MIN, CHANNEL_SUBSCRIBERS_MAX};
use creto_node::config::{parse_size, parse_span, span_text};

use super::mailbox::within;
use super::{KeysArgs, agent_name};

#[derive(Debug, Args)]
pub(crate) struct ChannelArgs {
    #[command(subcommand)]
    pub(crate) verb: ChannelVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ChannelVerb {
    /// Create a channel; its owner's keys, which are here, sign what it is.
    Create(ChannelCreateArgs),
    /// Change a channel; its owner's keys sign that.
    ///
    /// What is not named stays as it is. `--allow` and `--publisher` replace the whole list.
    Set(ChannelSetArgs),
    /// List channels.
    List(ChannelListArgs),
    /// Show one channel and whom it names.
    Show(ChannelShowArgs),
    /// Delete a channel; its owner's keys sign that. Its name stays its owner's.
    Delete(ChannelDeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ChannelCreateArgs {
    /// Name of the channel, such as acme/alerts.eu.critical.
    #[arg(value_name = "CHANNEL")]
    pub(crate) name: ChannelName,
    /// The agent that owns it, of the same organization.
    #[arg(long, value_name = "AGENT", value_parser = agent_name)]
    pub(crate) owner: AgentName,
    #[command(flatten)]
    pub(crate) settings: ChannelSettings,
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ChannelSetArgs {
    /// Name of the channel.
    #[arg(value_name = "CHANNEL")]
    pub(crate) name: ChannelName,
    /// Take the channel over for this agent of its organization: its owner was revoked.
    #[arg(long, value_name = "AGENT", value_parser = agent_name)]
    pub(crate) owner: Option<AgentName>,
    #[command(flatten)]
    pub(crate) settings: ChannelSettings,
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ChannelListArgs {
    /// Only channels whose names fit: `*` is any one word, `**` at the end all further ones, such as 'acme/alerts.*.critical'.
    #[arg(value_name = "PATTERN")]
    pub(crate) pattern: Option<ChannelPattern>,
    /// Print one JSON array.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ChannelShowArgs {
    /// Name of the channel.
    #[arg(value_name = "CHANNEL")]
    pub(crate) name: ChannelName,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ChannelDeleteArgs {
    /// Name of the channel.
    #[arg(value_name = "CHANNEL")]
    pub(crate) name: ChannelName,
    /// Take the channel over for this agent of its organization: its owner was revoked.
    #[arg(long, value_name = "AGENT", value_parser = agent_name)]
    pub(crate) owner: Option<AgentName>,
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be said of a channel.
#[derive(Debug, Args)]
pub(crate) struct ChannelSettings {
    /// Who may subscribe, as far as the node's policy lets them [default: open].
    #[arg(long, value_enum, value_name = "WHO")]
    pub(crate) subscribe: Option<SubscribeArg>,
    /// An agent that may subscribe; more than once for several. The channel has an allowlist then.
    #[arg(long = "allow", value_name = "AGENT", value_parser = agent_name)]
    pub(crate) allowed: Vec<AgentName>,
    /// Who may publish, as far as the node's policy lets them [default: open].
    #[arg(long, value_enum, value_name = "WHO")]
    pub(crate) publish: Option<PublishArg>,
    /// An agent that may publish; more than once for several. Nobody else may then, but the owner.
    #[arg(long = "publisher", value_name = "AGENT", value_parser = agent_name)]
    pub(crate) publishers: Vec<AgentName>,
    /// Whether new subscribers are given the keys of what was published before [default: false].
    #[arg(long, value_name = "BOOL")]
    pub(crate) history: Option<bool>,
    /// How long messages are kept, 1m to 30d [default: 7d].
    #[arg(long, value_name = "TIME", value_parser = retention_s)]
    pub(crate) retention: Option<u32>,
    /// Most messages that are kept [default: 1000000].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages: Option<u64>,
    /// Most bytes of messages that are kept [default: 1GiB].
    #[arg(long, value_name = "BYTES", value_parser = bytes_max)]
    pub(crate) bytes: Option<u64>,
    /// Most subscribers, 1 to 10000 [default: 10000].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(CHANNEL_SUBSCRIBERS_MAX)))]
    pub(crate) subscribers: Option<u32>,
}

/// Who may subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SubscribeArg {
    /// Whoever the node's policy lets.
    Open,
    /// The owner only.
    Private,
    /// Whoever a policy lets that the node's operator has written.
    AuthzRequired,
    /// The owner and whoever is named with --allow.
    Allowlist,
}

/// Who may publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublishArg {
    /// Whoever the node's policy lets.
    Open,
    /// The owner and whoever is named with --publisher.
    Listed,
}

fn retention_s(text: &str) -> Result<u32, String> {
    let seconds = parse_span(text).ok_or("expected a time with its unit such as 3d or 12h")?.as_secs();
    let range = CHANNEL_RETENTION_S_MIN..=CHANNEL_RETENTION_S_MAX;
    let span = |seconds: u64| span_text(Duration::from_secs(seconds));
    within(seconds, &range, span, |seconds| span(u64::from(seconds)))
}

fn bytes_max(text: &str) -> Result<u64, String> {
    parse_size(text).filter(|bytes| *bytes > 0).ok_or_else(|| "expected a size such as 1GiB or \"64 MiB\"".to_owned())
}
