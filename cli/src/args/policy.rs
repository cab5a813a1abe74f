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
    /// Say what a running node, or a file of policy, decides for two agents, and why; status 1 when it denies.
    Explain(PolicyExplainArgs),
    /// Have the node that runs here read its file of policy again; status 4 when it is refused.
    Reload(PolicyReloadArgs),
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
    /// The agent that acts.
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// What it does: send_message or read_directory; of a file also create_channel, subscribe, publish or administer.
    #[arg(value_name = "ACTION", value_parser = crate::verb::policy::parse_action)]
    pub(crate) action: creto_rego::Action,
    /// The agent that it is done to, if it is done to one.
    #[arg(value_name = "TO")]
    pub(crate) to: Option<String>,
    /// Ask this file of policy instead of the node that runs here.
    #[arg(long, value_name = "FILE", requires = "agents")]
    pub(crate) file: Option<PathBuf>,
    /// With --file, what is known of the agents: an object with one for each name, such as {"acme/planner": {"roles":
    /// ["coordinator"]}}.
    #[arg(long, value_name = "AGENTS.json", requires = "file")]
    pub(crate) agents: Option<PathBuf>,
    /// With --file, the channel that it is done on.
    #[arg(long, value_name = "CHANNEL", requires = "file")]
    pub(crate) channel: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyReloadArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
