//! Arguments of `creto control`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<ControlVerb>,
    /// Folder of everything the service keeps [default: node.data_dir of the configuration].
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where nodes connect to [default: link.listen of the configuration].
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Print one JSON object per line: when it is ready, and when it has ended.
    #[arg(long)]
    pub(crate) json: bool,
    /// Die with the process that started it, however that ends.
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ControlVerb {
    /// Serve a node from now on: the one that has the key of this certificate. Needs no restart.
    Admit(AdmitArgs),
    /// Serve a node no more, and end its link. It denies everything when its snapshot lapses.
    Dismiss(DismissArgs),
    /// List the nodes that are served.
    Nodes(NodesArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AdmitArgs {
    /// What the node is called here: a-z, 0-9, dots, dashes and underscores.
    #[arg(value_name = "NAME", value_parser = node_name)]
    pub(crate) name: String,
    /// The node's TLS certificate (data/node.crt there).
    #[arg(value_name = "CERTIFICATE")]
    pub(crate) certificate: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DismissArgs {
    /// What the node is called here.
    #[arg(value_name = "NAME", value_parser = node_name)]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A name that is the name of a file, too.
fn node_name(text: &str) -> Result<String, String> {
    const CHARS_MAX: usize = 64;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    match !text.is_empty() && text.len() <= CHARS_MAX && !text.starts_with('.') && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(format!("use 1 to {CHARS_MAX} of a-z, 0-9, dots, dashes and underscores, such as node-1")),
    }
}
