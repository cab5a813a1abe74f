//! What the verbs that talk to a node share: where it is, whose keys are used, what a refusal means for the status.

use std::path::{Path, PathBuf};

use creto_agent::{AgentName, KeysError};
use creto_service::client::ClientError;

use crate::args::{Global, KeysArgs};
use crate::exit::{Exit, Failure, plain};

/// Folder of the agents' keys, beside the configuration.
const KEYS_FOLDER: &str = "agents";
/// What a file of keys is called, behind the name of its agent.
const KEYS_EXTENSION: &str = "keys";

/// Runs one conversation with a node to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        let what = format!("no runtime can be started: {}", plain(&error));
        Failure::new(Exit::System, what, "check the limits on open files and threads (ulimit -a)")
    })?;
    runtime.block_on(work)
}

/// Folder of the agents' keys.
pub(crate) fn keys_folder(global: &Global, args: &KeysArgs) -> PathBuf {
    match &args.folder {
        Some(folder) => folder.clone(),
        None => global.config_path().parent().unwrap_or(Path::new("")).join(KEYS_FOLDER),
    }
}

/// The file of an agent's keys: one folder per organization.
pub(crate) fn keys_path(folder: &Path, name: &AgentName) -> PathBuf {
    folder.join(format!("{name}.{KEYS_EXTENSION}"))
}

pub(crate) fn keys_failure(error: &KeysError) -> Failure {
    match error {
        KeysError::File { .. } => {
            Failure::new(Exit::System, error.to_string(), "check the folder, or name another with --keys")
        }
        KeysError::Permissions { .. } | KeysError::Format { .. } | KeysError::Version { .. } => {
            Failure::new(Exit::Usage, error.to_string(), "")
        }
        _ => Failure::of(Exit::System, error),
    }
}

pub(crate) fn control_failure(error: &ClientError) -> Failure {
    match error {
        ClientError::Refused { error, .. } => Failure::new(Exit::Refused, error.message.clone(), error.next.clone()),
        ClientError::NotAllowed(_) => Failure::of(Exit::System, error),
        _ => Failure::of(Exit::Unreachable, error),
    }
}
