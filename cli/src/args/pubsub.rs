//! The command lines of `creto pub` and `creto sub`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use creto_agent::AgentName;
use creto_agent::channel::{ChannelName, ChannelPattern, Start};

use super::{PrekeysArg, PriorityArg, ReachArgs, TraceArgs, agent_name};
use crate::verb::audit::filter::parse_moment;

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(crate) struct PubArgs {
    /// The agent that publishes; its keys are here.
    #[arg(value_name = "AGENT", value_parser = agent_name)]
    pub(crate) agent: AgentName,
    /// The channel.
    #[arg(value_name = "CHANNEL")]
    pub(crate) channel: ChannelName,
    /// The message; `-` reads it from standard input.
    #[arg(value_name = "TEXT", group = "what")]
    pub(crate) text: Option<String>,
    /// Publish the content of a file.
    #[arg(long, value_name = "FILE", group = "what")]
    pub(crate) file: Option<PathBuf>,
    /// Publish each line of standard input as a message, until it ends.
    #[arg(long, group = "what")]
    pub(crate) lines: bool,
    /// How urgent it is to whoever reads it. It changes nothing in the channel's order.
    #[arg(long, value_enum, value_name = "PRIORITY", default_value_t)]
    pub(crate) priority: PriorityArg,
    /// Seconds for which the channel keeps it, if that is less than it keeps others.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ttl: Option<u32>,
    /// The agent that owns the channel: what anybody else says of it is not gone by [default: whoever was its owner at first].
    #[arg(long, value_name = "AGENT", value_parser = agent_name)]
    pub(crate) owner: Option<AgentName>,
    /// Keys for one session each, which the agent's node keeps: whoever steals keys later cannot read what was sent to one.
    #[arg(long, value_enum, value_name = "POLICY", env = "CRETO_PREKEYS", hide_env_values = true, default_value_t)]
    pub(crate) prekeys: PrekeysArg,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    /// Print one JSON object per message.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SubArgs {
    /// The agent that subscribes; its keys are here.
    #[arg(value_name = "AGENT", value_parser = agent_name)]
    pub(crate) agent: AgentName,
    /// The channel, or a pattern of channels: `*` is any one word, `**` at the end one or more, such as 'acme/alerts.*.critical'. Channels
    /// that come later are read, too, from their oldest message on where their owners let newcomers read it.
    #[arg(value_name = "CHANNEL")]
    pub(crate) channel: ChannelPattern,
    /// Share the channel's messages with the other members of this group: each goes to one of them.
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
    /// Begin anew here: `now`, `oldest`, a sequence such as 1042, or a time in UTC such as 2026-11-20T16:05:00Z
    /// [default: where the subscription was, or now].
    #[arg(long, value_name = "START", value_parser = start)]
    pub(crate) from: Option<Start>,
    /// Go on until Ctrl-C.
    #[arg(long, short, conflicts_with = "unsubscribe")]
    pub(crate) follow: bool,
    /// Stop after so many messages.
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Milliseconds to wait for a message before stopping, unless --follow. While one that came waits for its key, it goes on.
    #[arg(long, value_name = "MS", default_value_t = 1000, conflicts_with = "follow")]
    pub(crate) wait: u64,
    /// How long a message waits for its key, which its publisher gives, before that is said.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::verb::bench::parse_duration)]
    pub(crate) key_wait: Duration,
    /// Acknowledge messages that cannot be read once that was said, so that they do not come again.
    #[arg(long)]
    pub(crate) skip_unreadable: bool,
    /// End the subscription, and read nothing.
    #[arg(long, conflicts_with_all = ["from", "count", "skip_unreadable"])]
    pub(crate) unsubscribe: bool,
    /// The agent that owns the channel: what anybody else says of it is not gone by [default: whoever was its owner at first].
    #[arg(long, value_name = "AGENT", value_parser = agent_name)]
    pub(crate) owner: Option<AgentName>,
    /// Keys for one session each, which the agent's node keeps: whoever steals keys later cannot read what was sent to one.
    #[arg(long, value_enum, value_name = "POLICY", env = "CRETO_PREKEYS", hide_env_values = true, default_value_t)]
    pub(crate) prekeys: PrekeysArg,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

fn start(text: &str) -> Result<Start, String> {
    if let Ok(sequence) = text.parse() {
        return Ok(Start::Sequence(sequence));
    }
    match text {
        "now" => Ok(Start::Now),
        "oldest" => Ok(Start::Oldest),
        time => parse_moment(time).map(Start::Time).map_err(|_| {
            "expected now, oldest, a sequence such as 1042, or a time in UTC such as 2026-11-20T16:05:00Z".to_owned()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_begins_now_with_the_oldest_a_sequence_or_a_time() {
        assert_eq!(start("now"), Ok(Start::Now));
        assert_eq!(start("oldest"), Ok(Start::Oldest));
        assert_eq!(start("1042"), Ok(Start::Sequence(1042)));
        assert_eq!(start("2026-11-20T16:05:09Z"), Ok(Start::Time(1_795_190_709_000)));
        assert!(start("yesterday").unwrap_err().contains("2026-11-20T16:05:00Z"));
    }
}
