//! Arguments of `creto signal`.

use clap::{Args, ValueEnum};
use creto_agent::{AgentName, MessageId, WorkState};

use super::{PriorityArg, ReachArgs, agent_name, message_id};

#[derive(Debug, Args)]
pub(crate) struct SignalArgs {
    /// The agent that signals; its keys are here.
    #[arg(value_name = "FROM", value_parser = agent_name)]
    pub(crate) from: AgentName,
    /// The agent that is to have it, if it listens now.
    #[arg(value_name = "TO", value_parser = agent_name)]
    pub(crate) to: AgentName,
    /// What is so just now, at most 4,096 bytes; with --state a note of at most 256.
    #[arg(value_name = "TEXT", required_unless_present = "state")]
    pub(crate) text: Option<String>,
    /// Say what FROM is doing.
    #[arg(long, value_enum, value_name = "STATE")]
    pub(crate) state: Option<StateArg>,
    /// The message that FROM works on.
    #[arg(long, value_name = "MESSAGE_ID", value_parser = message_id, requires = "state")]
    pub(crate) about: Option<MessageId>,
    /// Seconds for which it means something.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) ttl: u32,
    /// How urgent it is.
    #[arg(long, value_enum, value_name = "PRIORITY", default_value_t)]
    pub(crate) priority: PriorityArg,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What an agent is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateArg {
    /// It works.
    Working,
    /// It waits, for somebody or something else.
    Waiting,
    /// It has stopped.
    Idle,
}

impl From<StateArg> for WorkState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Working => Self::Working,
            StateArg::Waiting => Self::Waiting,
            StateArg::Idle => Self::Idle,
        }
    }
}
