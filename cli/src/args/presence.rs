//! Arguments of `creto presence`.

use clap::Args;
use creto_agent::AgentName;

use super::{ReachArgs, agent_name};

#[derive(Debug, Args)]
pub(crate) struct PresenceArgs {
    /// The agent that asks; its keys are here.
    #[arg(value_name = "FROM", value_parser = agent_name)]
    pub(crate) from: AgentName,
    /// The agent that is asked for.
    #[arg(value_name = "AGENT", value_parser = agent_name)]
    pub(crate) agent: AgentName,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
