//! Why a node does not start, or stopped.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use creto_envelope::id::NameError;
use creto_io::{DriverError, ExecutorError};
use creto_net::tls::TlsError;
use creto_service::ServiceError;
use creto_store::RecoveryError;
use thiserror::Error;

use crate::data_dir::DataDirError;
use crate::plan::PlanError;

/// Why a node does not start, or stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The trust domain of the configuration.
    #[error(transparent)]
    TrustDomain(#[from] NameError),
    /// The plan does not fit the machine.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log of a shard.
    #[error("the log of shard {shard_index} cannot be used: {error}")]
    Recovery {
        /// Which shard.
        shard_index: u16,
        /// What recovery says.
        #[source]
        error: RecoveryError,
    },
    /// Certificate or private key.
    #[error(
        "{path} cannot be read as PEM ({reason}); make a new pair with `creto init --force`, or name the right file in [node]"
    )]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not work together.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The control service.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The nodes that a control service is to serve.
    #[error(transparent)]
    Admitted(#[from] creto_service::link::AdmittedError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] creto_audit_store::StoreError),
    /// The address is not to be had.
    #[error("cannot listen on UDP {address} ({error}); stop what uses it, or change node.listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// A shard's thread.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// A shard's loop.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A log stopped: what it had not acknowledged must be sent again after a restart.
    #[error("shard {shard_index} stopped acknowledging: {cause}")]
    Fenced {
        /// Which shard.
        shard_index: u16,
        /// What the disk said.
        cause: String,
    },
    /// The thread of the control service, or of the link to it, has ended.
    #[error("the control service, or the link to it, has failed; its log says why, restart the process")]
    ControlEnded,
    /// The operating system refuses something that always works.
    #[error("{what} failed: {error}")]
    System {
        /// What.
        what: &'static str,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}
