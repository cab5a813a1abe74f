//! Why the service could not be started, or stopped working.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use creto_control_storage::StorageError;
use thiserror::Error;

use crate::limits::ADMINISTRATORS_MAX;

/// How much is in a directory, to tell it from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// How many agents it has, whatever their state.
    pub agents: u64,
    /// Counts its changes; 0 when it cannot be read.
    pub epoch: u64,
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} agents, epoch {}", self.agents, self.epoch)
    }
}

/// What went wrong with the world around the service.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// a file operation failed
    #[error("cannot {what} {path}: {source}; check that the folder exists, is writable by this user and has space")]
    File {
        /// What was tried, a verb.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The tables cannot be had.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// there is a directory in the file, and another one in the database
    #[error(
        "there is a directory in {file} ({in_file}) and another in the database {database} ({in_database}); to go on with the one in the database move the file away, to go on with the one in the file name a new database in control.database, which takes it over"
    )]
    TwoDirectories {
        /// The file.
        file: PathBuf,
        /// What is in it.
        in_file: Extent,
        /// The database, without the password.
        database: String,
        /// What is in it.
        in_database: Extent,
    },
    /// the directory was in a database, and the configuration names none
    #[error(
        "the directory of this node is in a database, as {mark} says, and the configuration names none; set control.database again, or, to go on with a backup, put its file at {file}"
    )]
    InDatabase {
        /// Where the file would be made.
        file: PathBuf,
        /// What says so.
        mark: PathBuf,
    },
    /// the file was written by a version that this one does not know
    #[error("the directory has format {found}, this version knows {known}; start the version that wrote it")]
    Format {
        /// In the file.
        found: u64,
        /// Of this code.
        known: u64,
    },
    /// the trust bundle of SPIFFE is none
    #[error("the SPIFFE trust bundle {path} cannot be used: {source}; correct [control] spiffe_bundle, or the file")]
    TrustBundle {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: crate::svid::BundleError,
    },
    /// the file belongs to another trust domain
    #[error(
        "the directory belongs to trust domain {found}, the node is configured for {configured}; correct the configuration or choose another data folder"
    )]
    TrustDomain {
        /// In the file.
        found: String,
        /// In the configuration.
        configured: String,
    },
    /// the file contradicts itself
    #[error("the directory is damaged at {0}; restore it from a copy")]
    Damaged(String),
    /// a live process answers on the socket
    #[error("another node answers on {0}; stop it first, or choose another control socket")]
    SocketInUse(PathBuf),
    /// something else lies where the socket should be
    #[error("{0} exists and is not a socket; move it away, or choose another control socket")]
    NotASocket(PathBuf),
    /// the path does not fit the system's limit
    #[error("the socket path {path} has {bytes} bytes, at most {bytes_max} are possible; choose a shorter one")]
    SocketPathLong {
        /// As configured.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// The system's limit, less what is needed to replace a socket safely.
        bytes_max: usize,
    },
    /// the directory has a table that copying does not know
    #[error(
        "the directory has the table {0}, which a backup would leave out; report this fault, and stop the node to back it up"
    )]
    UnknownTable(String),
    /// the API over TCP was to listen where others could listen in
    #[error(
        "the API over TCP has no encryption of its own and listens on this machine only: set control.listen to 127.0.0.1 or [::1] instead of {0}, and reach it through SSH or a proxy with TLS"
    )]
    NotLoopback(SocketAddr),
    /// more administrators than requests can be remembered of
    #[error("{0} administrators are named, at most {ADMINISTRATORS_MAX} can be; name fewer in control.administrators")]
    Administrators(usize),
    /// the address cannot be listened on
    #[error("cannot listen on {address}: {source}; choose another address with control.listen")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// the address for what is counted and measured cannot be listened on
    #[error("cannot listen on {address}: {source}; choose another address with metrics.listen")]
    MetricsListen {
        /// As configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// nodes cannot be listened for
    #[error("cannot listen for nodes on {address}: {source}; choose another address with --listen or link.listen")]
    LinkListen {
        /// As configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// there is no policy to begin with
    #[error(transparent)]
    Policy(#[from] crate::policy::LoadError),
    /// the control thread could not be started
    #[error("cannot start the control thread: {0}; check the limits on threads and open files")]
    Thread(io::Error),
    /// the control thread ended by a panic
    #[error("the control thread died; this is a fault of this software, please report what the log says")]
    Died,
    /// requests were still running when the shutdown had to end
    #[error("{0} control requests were cut off by the shutdown; registrations that were committed are safe")]
    CutOff(usize),
}
