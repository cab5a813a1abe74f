//! The command lines of `creto request` and `creto respond`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use creto_agent::AgentName;

use super::{PrekeysArg, PriorityArg, ReachArgs, TraceArgs, agent_name};

#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// The agent that asks; its keys are here.
    #[arg(value_name = "FROM", value_parser = agent_name)]
    pub(crate) from: AgentName,
    /// The agent that is asked.
    #[arg(value_name = "TO", value_parser = agent_name)]
    pub(crate) to: AgentName,
    /// What is asked; `-` reads it from standard input.
    #[arg(value_name = "TEXT", required_unless_present = "file", conflicts_with = "file")]
    pub(crate) text: Option<String>,
    /// Ask with the content of a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How long to wait for the answer; nobody works on the request after that.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::verb::bench::parse_duration)]
    pub(crate) timeout: Duration,
    /// How urgent it is.
    #[arg(long, value_enum, value_name = "PRIORITY", default_value_t)]
    pub(crate) priority: PriorityArg,
    /// Keys for one session each, which the agent's node keeps: whoever steals keys later cannot read what was sent to one.
    #[arg(long, value_enum, value_name = "POLICY", env = "CRETO_PREKEYS", hide_env_values = true, default_value_t)]
    pub(crate) prekeys: PrekeysArg,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("with").required(true))]
pub(crate) struct RespondArgs {
    /// The agent that answers; its keys are here.
    #[arg(value_name = "AGENT", value_parser = agent_name)]
    pub(crate) agent: AgentName,
    /// Answer each request with what it asks.
    #[arg(long, group = "with")]
    pub(crate) echo: bool,
    /// Answer each request with this.
    #[arg(long, group = "with", value_name = "TEXT")]
    pub(crate) reply: Option<String>,
    /// Answer each request with what this command prints, which gets the request on its standard input. No shell is between;
    /// everything behind it is its own. A status other than 0 fails the request with that number.
    #[arg(long, group = "with", value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    pub(crate) exec: Vec<String>,
    /// Requests that are worked on at a time.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) concurrency: u16,
    /// Stop after so many requests [default: at Ctrl-C].
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
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
