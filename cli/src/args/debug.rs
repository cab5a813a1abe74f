//! `creto debug`

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct DebugArgs {
    #[command(subcommand)]
    pub(crate) verb: DebugVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DebugVerb {
    /// Put into one archive what somebody needs who shall help with this node: no messages, no keys, no tokens, no passwords.
    #[command(after_help = "Example: journalctl -u creto -n 5000 | creto debug bundle --log -")]
    Bundle(BundleArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// The archive, a .tar.gz that does not exist yet [default: creto-debug-TIME.tar.gz in this folder].
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// A log of the node, such as what `journalctl -u creto` prints: its last lines are taken. `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Leave out what the doctor measures, which writes to the log's device for two seconds.
    #[arg(long)]
    pub(crate) no_doctor: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
