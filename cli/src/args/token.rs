//! Arguments of `creto token`.

use std::time::Duration;

use clap::{Args, Subcommand};
use creto_agent::AgentName;

use super::agent::span;
use super::agent_name;

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) verb: TokenVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Make a token and print it, once: the node keeps its hash only.
    Create(TokenCreateArgs),
    /// List the tokens, without their texts.
    List(TokenListArgs),
    /// Take a token back: nobody is registered with it any more.
    Withdraw(TokenWithdrawArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreateArgs {
    /// Agents of this organization may be registered with it.
    #[arg(long, value_name = "ORGANIZATION", required_unless_present = "name")]
    pub(crate) organization: Option<String>,
    /// Only this agent may.
    #[arg(long, value_name = "NAME", value_parser = agent_name)]
    pub(crate) name: Option<AgentName>,
    /// How long it is good, 1 minute to 90 days.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = span)]
    pub(crate) expires: Duration,
    /// How many agents may be registered with it.
    #[arg(long, value_name = "COUNT", default_value_t = 1, conflicts_with = "name")]
    pub(crate) uses: u32,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenListArgs {
    /// Print one JSON array.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenWithdrawArgs {
    /// Its id, as `creto token list` prints it.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
