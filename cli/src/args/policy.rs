//! Arguments of `creto policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) verb: PolicyVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Read a policy, and say what it reads or why it is refused; status 1 when it is.
    Check(PolicyCheckArgs),
    /// Run the tests beside each policy: rules `test_...` of POLICY_test.rego; status 1 when one fails.
    Test(PolicyTestArgs),
    /// Say what a policy decides for two agents, and which of its rules say so; status 1 when it denies.
    Explain(PolicyExplainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PolicyCheckArgs {
    /// The policy.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyTestArgs {
    /// Policies, or files of their tests.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyExplainArgs {
    /// The policy.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The agent that acts; it is in AGENTS.json.
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// What it does: send_message, create_channel, subscribe, publish, read_directory or administer.
    #[arg(value_name = "ACTION", value_parser = crate::verb::policy::parse_action)]
    pub(crate) action: creto_rego::Action,
    /// The agent that it is done to, if it is done to one.
    #[arg(value_name = "TO")]
    pub(crate) to: Option<String>,
    /// What is known of the agents: an object with one for each name, such as {"acme/planner": {"roles": ["coordinator"]}}.
    #[arg(long, value_name = "AGENTS.json")]
    pub(crate) agents: PathBuf,
    /// The channel that it is done on.
    #[arg(long, value_name = "CHANNEL")]
    pub(crate) channel: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
