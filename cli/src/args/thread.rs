//! The command line of `creto thread`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use creto_agent::AgentName;
use creto_agent::thread::MessageType;

use super::{PriorityArg, ReachArgs, agent_name};
use crate::verb::proof::Fingerprint;

#[derive(Debug, Args)]
pub(crate) struct ThreadArgs {
    #[command(subcommand)]
    pub(crate) verb: ThreadVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ThreadVerb {
    /// Send a typed message, which names the one that it follows; prints the hash that the next one names.
    Send(Box<ThreadSendArgs>),
    /// Check a conversation that `creto recv --proofs` kept, without a node; names the first message that does not fit.
    Verify(ThreadVerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ThreadSendArgs {
    /// The agent that sends; its keys are here.
    #[arg(value_name = "FROM", value_parser = agent_name)]
    pub(crate) from: AgentName,
    /// The agent that receives.
    #[arg(value_name = "TO", value_parser = agent_name)]
    pub(crate) to: AgentName,
    /// What it is: handoff_request, handoff_approval, consensus_vote, status_update, task_assignment, quality_gate_result,
    /// security_alert or system_notification.
    #[arg(value_name = "TYPE", value_parser = message_type)]
    pub(crate) message_type: MessageType,
    /// Its content, JSON as a rule; `-` reads it from standard input.
    #[arg(value_name = "TEXT", required_unless_present = "file", conflicts_with = "file")]
    pub(crate) text: Option<String>,
    /// Send the content of a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Hash of the message that it follows, as `creto recv --json` and this command print it; without, it begins a thread.
    #[arg(long, value_name = "SHA-256")]
    pub(crate) parent: Option<Fingerprint>,
    /// SHA-256 of what is handed over; a request and an approval of a handoff need it.
    #[arg(long, value_name = "SHA-256")]
    pub(crate) handoff: Option<Fingerprint>,
    /// How urgent it is.
    #[arg(long, value_enum, value_name = "PRIORITY", default_value_t)]
    pub(crate) priority: PriorityArg,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ThreadVerifyArgs {
    /// Folders with what `creto recv --proofs` kept: of everybody who took part.
    #[arg(value_name = "DIR", required = true)]
    pub(crate) folders: Vec<PathBuf>,
    /// Whose signing keys they must be, as NAME=FINGERPRINT; may be given more than once. `creto agent show` prints it there.
    #[arg(long, value_name = "NAME=FINGERPRINT", value_parser = expectation)]
    pub(crate) expect: Vec<(AgentName, Fingerprint)>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

fn message_type(text: &str) -> Result<MessageType, String> {
    MessageType::ALL.into_iter().find(|known| known.name() == text).ok_or_else(|| {
        let names: Vec<_> = MessageType::ALL.iter().map(|known| known.name()).collect();
        format!("there is no such type of message; use one of {}", names.join(", "))
    })
}

fn expectation(text: &str) -> Result<(AgentName, Fingerprint), String> {
    let (name, fingerprint) = text.split_once('=').ok_or("write NAME=FINGERPRINT")?;
    Ok((agent_name(name)?, fingerprint.parse()?))
}
