//! The policy in force: read from the operator's file at the start, and again when the file changes or somebody asks.
//!
//! A file that is refused changes nothing: the policy before it stays in force. When there is none before it, because the
//! node has just started, the node does not start; or, where the configuration says so in so many words, everything is
//! allowed until the file can be loaded, and every use of that is counted and logged.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use creto_audit::event::Digest;
use creto_audit::{Label, What};
use creto_crypto_accel::digest::sha256;
use creto_envelope::AgentId;
use creto_policy::Policy;
use creto_rego::limits::POLICY_BYTES_MAX;
use creto_rego::{CompiledPolicy, PolicyError, PolicySource as RegoSource};
use thiserror::Error;

use crate::api::PolicyInfo;
use crate::service::wall_clock_ms;
use crate::telling::Note;

pub(crate) use explain::explain;
pub use explain::{DecisionHost, KeptOn};
pub use rego::RegoPolicy;
pub(crate) use reload::{NotReloaded, Reload, Reloads, follow};

mod explain;
mod rego;
mod reload;
#[cfg(test)]
mod tests;

/// Name of the policy that holds when no file is configured.
pub const SAME_ORGANIZATION: &str = "same-organization";
/// Name of the one that allows everything while there is no other.
pub const FAIL_OPEN: &str = "fail-open";

/// What an operator configured.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PolicyOptions {
    /// The file; without one, agents of one organization may talk to each other.
    pub file: Option<PathBuf>,
    /// What holds when the node starts and the file cannot be loaded.
    pub on_failure: OnFailure,
}

/// What holds while no policy can be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum OnFailure {
    /// Nothing: the node does not start.
    #[default]
    Deny,
    /// Everything is allowed, counted and logged, until the file can be loaded.
    Allow,
}

/// Why a file of policy is not in force.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// the file cannot be read
    #[error("the policy {path} cannot be read ({reason}); check [policy] file and who may read it")]
    File {
        /// As configured.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// the file is no text
    #[error("the policy {0} is not UTF-8; a policy is a text, check [policy] file")]
    NotText(PathBuf),
    /// the policy is refused
    #[error("{error}")]
    Refused {
        /// Where and why.
        error: PolicyError,
        /// SHA-256 of the text.
        sha256: [u8; 32],
    },
}

impl LoadError {
    /// What the audit log is told of it.
    pub(crate) fn note(&self) -> Note {
        let (policy, line, code) = match self {
            Self::File { .. } => ([0; 32], 0, "file"),
            Self::NotText(_) => ([0; 32], 0, "not_text"),
            Self::Refused { error, sha256 } => (*sha256, error.line, error.code.as_str()),
        };
        (What::PolicyRefused { policy: Digest(policy), actor: AgentId::ZERO, line }, Label::of(code))
    }
}

/// Says whether a node of this configuration has a policy to start with, before it does anything else.
///
/// # Errors
/// [`LoadError`], unless the configuration says that everything is allowed then.
pub fn check(options: &PolicyOptions) -> Result<(), LoadError> {
    match (options.on_failure, &options.file) {
        (OnFailure::Deny, Some(file)) => load(file).map(drop),
        _ => Ok(()),
    }
}

/// The policy in force and what is told about it. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) options: PolicyOptions,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    compiled: Option<Arc<RegoPolicy>>,
    info: PolicyInfo,
}

impl InForce {
    /// Loads the policy of a node that starts, with the epoch of its directory; and says why it is none, if it has to be.
    ///
    /// # Errors
    /// [`LoadError`], unless the configuration says that everything is allowed then.
    pub(crate) fn open(options: PolicyOptions, epoch: u64) -> Result<(Self, Policy, Option<LoadError>), LoadError> {
        let (loaded, failure) = match options.file.as_deref().map(load).transpose() {
            Ok(loaded) => (loaded, None),
            Err(error) if options.on_failure == OnFailure::Allow => {
                tracing::error!(
                    "{error}; EVERYTHING IS ALLOWED until it can be loaded, because [policy] on_failure says so"
                );
                (None, Some(error))
            }
            Err(error) => return Err(error),
        };
        let policy = match (&loaded, &failure) {
            (Some(loaded), _) => Policy::Loaded(Arc::clone(loaded) as _),
            (None, Some(_)) => Policy::FailOpen,
            (None, None) => Policy::SameOrganization,
        };
        let info = info(loaded.as_deref(), epoch, failure.as_ref().map(ToString::to_string), &options);
        let state = State { compiled: loaded, info };
        Ok((Self { options, state: Arc::new(Mutex::new(state)) }, policy, failure))
    }

    /// Reads the file again, if one is configured.
    pub(crate) fn load(&self) -> Option<Result<Arc<RegoPolicy>, LoadError>> {
        self.options.file.as_deref().map(load)
    }

    /// A policy is in force from this epoch on.
    pub(crate) fn replace(&self, loaded: Arc<RegoPolicy>, epoch: u64) -> PolicyInfo {
        let info = info(Some(&loaded), epoch, None, &self.options);
        *self.lock() = State { compiled: Some(loaded), info: info.clone() };
        info
    }

    /// The file is the one that is in force.
    pub(crate) fn confirm(&self) {
        self.lock().info.failure = None;
    }

    /// The file could not be loaded: what was in force stays so.
    pub(crate) fn keep(&self, error: &LoadError) {
        self.lock().info.failure = Some(error.to_string());
    }

    pub(crate) fn info(&self) -> PolicyInfo {
        self.lock().info.clone()
    }

    pub(crate) fn compiled(&self) -> Option<Arc<RegoPolicy>> {
        self.lock().compiled.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn info(loaded: Option<&RegoPolicy>, epoch: u64, failure: Option<String>, options: &PolicyOptions) -> PolicyInfo {
    let built_in = if failure.is_some() { FAIL_OPEN } else { SAME_ORGANIZATION };
    PolicyInfo {
        name: loaded.map_or_else(|| built_in.to_owned(), |loaded| loaded.compiled().name().to_owned()),
        sha256: loaded.map(RegoPolicy::digest_text),
        epoch,
        loaded_at_ms: wall_clock_ms(),
        reads: loaded.map(|loaded| loaded.compiled().reads().names().collect()).unwrap_or_default(),
        allows_on_failure: options.on_failure == OnFailure::Allow,
        failure,
    }
}

/// Reads a file of policy, of which no more is read than it takes to see that it is too large.
fn load(path: &Path) -> Result<Arc<RegoPolicy>, LoadError> {
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(POLICY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| LoadError::File { path: path.to_owned(), reason: error.to_string() })?;
    let text = String::from_utf8(bytes).map_err(|_| LoadError::NotText(path.to_owned()))?;
    let compiled: CompiledPolicy = RegoSource::parse(&path.display().to_string(), &text)
        .map_err(|error| LoadError::Refused { error, sha256: sha256(&[text.as_bytes()]) })?;
    Ok(Arc::new(RegoPolicy::new(compiled, &text)))
}
