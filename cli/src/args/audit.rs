//! Arguments of `creto audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use creto_audit::SourceId;
use creto_envelope::MessageId;

use super::message_id;
use crate::verb::audit::filter::{parse_kind, parse_moment, parse_source};

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) verb: AuditVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditVerb {
    /// Print the last events, and with --follow those that come.
    Tail(AuditTailArgs),
    /// List events: by kind, agent, message, source and time.
    Query(AuditQueryArgs),
    /// List what an operator should look at: forged signatures, replays, denials, failed logins, wrong clocks, revoked keys.
    /// Status 1 when there is any.
    Alerts(AuditAlertsArgs),
    /// Write the signed log to one file that can be verified anywhere. The log is only read; the node may run.
    Export(AuditExportArgs),
    /// Write the proof that one event is in the log.
    Prove(AuditProveArgs),
    /// Check an export, a proof or the folder of a log: needs it and the log's public keys, nothing else. Status 1 when it does
    /// not hold.
    Verify(AuditVerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AuditLogArgs {
    /// Folder of the audit log [default: `audit` in the configuration's data folder].
    #[arg(long, value_name = "DIR")]
    pub(crate) log: Option<PathBuf>,
}

#[derive(Debug, Default, Args)]
pub(crate) struct AuditFilterArgs {
    /// Only this kind, such as message_accepted; may be given more than once.
    #[arg(long = "kind", value_name = "KIND", value_parser = parse_kind)]
    pub(crate) kinds: Vec<u8>,
    /// Only what names this agent: its name, or the 32 digits of its id.
    #[arg(long, value_name = "NAME|ID")]
    pub(crate) agent: Option<String>,
    /// Only this message, and what became of it.
    #[arg(long, value_name = "MESSAGE_ID", value_parser = message_id)]
    pub(crate) message: Option<MessageId>,
    /// Only what this source told: control, or a shard such as shard-0.
    #[arg(long, value_name = "SOURCE", value_parser = parse_source)]
    pub(crate) source: Option<SourceId>,
    /// Only from this moment on: `2026-11-20`, `2026-11-20 16:05:09` (UTC) or Unix milliseconds.
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub(crate) after: Option<u64>,
    /// Only before this moment.
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub(crate) before: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditTailArgs {
    #[command(flatten)]
    pub(crate) log: AuditLogArgs,
    #[command(flatten)]
    pub(crate) filter: AuditFilterArgs,
    /// How many events.
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) count: u32,
    /// Go on with what comes, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AuditQueryArgs {
    #[command(flatten)]
    pub(crate) log: AuditLogArgs,
    #[command(flatten)]
    pub(crate) filter: AuditFilterArgs,
    /// Most events that are listed.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) limit: u32,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AuditAlertsArgs {
    #[command(flatten)]
    pub(crate) log: AuditLogArgs,
    /// Only from this moment on: `2026-11-20`, `2026-11-20 16:05:09` (UTC) or Unix milliseconds.
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub(crate) after: Option<u64>,
    /// Most alerts that are listed: the last ones.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    /// Go on with what comes, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Print one JSON object; with --follow one a line for each alert.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AuditExportArgs {
    #[command(flatten)]
    pub(crate) log: AuditLogArgs,
    #[command(flatten)]
    pub(crate) filter: AuditFilterArgs,
    /// File to write; `-` is standard output.
    #[arg(value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Of what does not fit the filter only the hash: without a filter, only hashes.
    #[arg(long)]
    pub(crate) redact: bool,
    /// Print one JSON object; to standard error when the export goes to standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AuditProveArgs {
    #[command(flatten)]
    pub(crate) log: AuditLogArgs,
    /// The leaf.
    #[arg(value_name = "INDEX", required_unless_present = "message")]
    pub(crate) index: Option<u64>,
    /// The event that this message was accepted.
    #[arg(long, value_name = "MESSAGE_ID", value_parser = message_id, conflicts_with = "index")]
    pub(crate) message: Option<MessageId>,
    /// A checkpoint that whoever gets the proof has seen: the proof shows that the log grew out of it.
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) since: Option<PathBuf>,
    /// File to write; `-` is standard output [default: INDEX.tlog-proof].
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print one JSON object; to standard error when the proof goes to standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AuditVerifyArgs {
    /// An export, a proof, or the folder of a log; `-` reads a file from standard input.
    #[arg(value_name = "FILE|DIR")]
    pub(crate) file: PathBuf,
    /// The log's public keys: `audit.pub`, from somebody you trust, not from whoever gave you the export.
    #[arg(long, value_name = "audit.pub")]
    pub(crate) key: PathBuf,
    /// A checkpoint that was seen before: what is older, or does not extend it, is refused.
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) since: Option<PathBuf>,
    /// Keep the checkpoint in this file, for --since the next time.
    #[arg(long, value_name = "FILE")]
    pub(crate) keep_checkpoint: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
