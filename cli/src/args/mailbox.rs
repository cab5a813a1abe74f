//! Arguments of `creto mailbox`.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use creto_agent::AgentName;
use creto_node::config::{parse_size, parse_span, size_text, span_text};
use creto_service::mailboxes::{BYTES_MAX, MAX_DELIVERIES, MESSAGES_MAX, RETENTION_S};

use super::agent_name;

#[derive(Debug, Args)]
pub(crate) struct MailboxArgs {
    #[command(subcommand)]
    pub(crate) verb: MailboxVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MailboxVerb {
    /// List the mailboxes and what each may hold.
    List(MailboxListArgs),
    /// Show what one mailbox may hold.
    Show(MailboxShowArgs),
    /// Set what one mailbox may hold, from now on and without a restart.
    ///
    /// Lowering a limit drops nothing: it only refuses more. Retention counts for messages that are admitted from then on.
    Set(MailboxSetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct MailboxListArgs {
    /// Only of this organization.
    #[arg(value_name = "ORGANIZATION")]
    pub(crate) organization: Option<String>,
    /// Print one JSON array.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MailboxShowArgs {
    /// Whose mailbox.
    #[arg(value_name = "AGENT", value_parser = agent_name)]
    pub(crate) name: AgentName,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group(
    ArgGroup::new("settings")
        .required(true)
        .multiple(true)
        .args(["retention", "messages", "bytes", "max_deliveries", "default"])
))]
pub(crate) struct MailboxSetArgs {
    /// Whose mailbox.
    #[arg(value_name = "AGENT", value_parser = agent_name)]
    pub(crate) name: AgentName,
    /// How long what nobody acknowledges is kept, 1h to 30d, such as 3d.
    #[arg(long, value_name = "TIME", value_parser = retention_s)]
    pub(crate) retention: Option<u32>,
    /// Most messages queued, 1 to 10000000.
    #[arg(long, value_name = "COUNT", value_parser = messages_max)]
    pub(crate) messages: Option<u32>,
    /// Most bytes queued, 2MiB to 1TiB, such as 1GiB.
    #[arg(long, value_name = "BYTES", value_parser = bytes_max)]
    pub(crate) bytes: Option<u64>,
    /// Deliveries after which a message is given up, 2 to 255.
    #[arg(long, value_name = "COUNT", value_parser = max_deliveries)]
    pub(crate) max_deliveries: Option<u8>,
    /// Take back these settings, or all of them: the node's configuration holds again.
    #[arg(long, value_enum, value_name = "SETTING", num_args = 0.., value_delimiter = ',')]
    pub(crate) default: Option<Vec<Setting>>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Setting {
    /// How long what nobody acknowledges is kept.
    Retention,
    /// Most messages queued.
    Messages,
    /// Most bytes queued.
    Bytes,
    /// Deliveries after which a message is given up.
    MaxDeliveries,
}

fn retention_s(text: &str) -> Result<u32, String> {
    let span = |seconds: u32| span_text(Duration::from_secs(u64::from(seconds)));
    let seconds = parse_span(text).ok_or("expected a time with its unit such as 3d or 12h")?.as_secs();
    within(seconds, &RETENTION_S, |seconds| span_text(Duration::from_secs(seconds)), span)
}

fn messages_max(text: &str) -> Result<u32, String> {
    let count = text.replace('_', "").parse().map_err(|_| "expected a whole number".to_owned())?;
    within(count, &MESSAGES_MAX, |count| count.to_string(), |count| count.to_string())
}

fn bytes_max(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text).ok_or("expected a size such as 1GiB or \"64 MiB\"")?;
    within(bytes, &BYTES_MAX, size_text, size_text)
}

fn max_deliveries(text: &str) -> Result<u8, String> {
    let count = text.parse().map_err(|_| "expected a whole number".to_owned())?;
    within(count, &MAX_DELIVERIES, |count| count.to_string(), |count| count.to_string())
}

pub(super) fn within<T: Copy + PartialOrd + TryFrom<u64>>(
    value: u64,
    range: &RangeInclusive<T>,
    show: impl Fn(u64) -> String,
    show_bound: impl Fn(T) -> String,
) -> Result<T, String> {
    T::try_from(value).ok().filter(|value| range.contains(value)).ok_or_else(|| {
        let (least, most) = (show_bound(*range.start()), show_bound(*range.end()));
        format!("{} is out of range: from {least} to {most}", show(value))
    })
}
