//! The command line of `creto dlq`.

use clap::{Args, Subcommand};
use creto_agent::AgentName;

use super::{ReachArgs, agent_name};

#[derive(Debug, Args)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    pub(crate) verb: DlqVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqVerb {
    /// List the dead letters of an agent: what its consumer rejected, and what failed too often.
    List(DlqListArgs),
    /// Open one dead letter and print it; it stays where it is.
    Inspect(DlqInspectArgs),
    /// Have dead letters delivered again, at their old places and with all their deliveries before them.
    Replay(DlqChangeArgs),
    /// Delete dead letters, for good.
    Purge(DlqChangeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DlqListArgs {
    /// The agent whose mailbox it is; its keys are here.
    #[arg(value_name = "NAME", value_parser = agent_name)]
    pub(crate) name: AgentName,
    /// Only those behind this number.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub(crate) after: u64,
    /// Most of them.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) limit: u64,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DlqInspectArgs {
    /// The agent whose mailbox it is; its keys are here.
    #[arg(value_name = "NAME", value_parser = agent_name)]
    pub(crate) name: AgentName,
    /// Its number in the mailbox, as `creto dlq list` prints it.
    #[arg(value_name = "ID")]
    pub(crate) id: u64,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DlqChangeArgs {
    /// The agent whose mailbox it is; its keys are here.
    #[arg(value_name = "NAME", value_parser = agent_name)]
    pub(crate) name: AgentName,
    /// Their numbers in the mailbox, as `creto dlq list` prints them.
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<u64>,
    /// All dead letters that are there now.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
