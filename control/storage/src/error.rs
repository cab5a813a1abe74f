//! Why the tables cannot be had.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::limits::POSTGRES_VERSION_MIN;

/// What went wrong with the world around the tables.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// a directory file is open in another process
    #[error("the directory file {0} is open in another process; stop that node first, or choose another data folder")]
    InUse(PathBuf),
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
    /// the file refused to work
    #[error("the directory file failed: {0}; look at the free space and the device, then restart the node")]
    Redb(#[source] Box<redb::Error>),
    /// a row is none of its table
    #[error("the directory is damaged: a row of the table {table} is not as it is written; restore it from a copy")]
    Row {
        /// Which table.
        table: &'static str,
    },
    /// the database cannot be reached
    #[error("the database {database} cannot be reached: {cause}; start it, and the node goes on by itself")]
    Unreachable {
        /// Where, without the password.
        database: String,
        /// Why.
        cause: String,
    },
    /// the database refused a statement
    #[error(
        "the database {database} refused to work: {cause}; look at its log, its free space and the rights of its user"
    )]
    Refused {
        /// Where, without the password.
        database: String,
        /// Why.
        cause: String,
    },
    /// another process has the database
    #[error(
        "the database {database} belongs to another node that runs; stop that node first, or choose another database"
    )]
    Taken {
        /// Where, without the password.
        database: String,
    },
    /// another process had the database meanwhile
    #[error(
        "another node has written to the database {database} since this one lost its connection, so what this one knows is old; restart this node, or stop it"
    )]
    Overtaken {
        /// Where, without the password.
        database: String,
    },
    /// commits that were answered are gone
    #[error(
        "the database {database} went back: it has {found} of the {known} transactions that this node knows of (restored to an earlier time, or a standby that was behind took its place); bring back the one that has them, or restart this node to go on without what was changed since"
    )]
    WentBack {
        /// Where, without the password.
        database: String,
        /// How many transactions were known.
        known: i64,
        /// How many are there.
        found: i64,
    },
    /// the connection was lost while a commit was under way
    #[error(
        "the connection to the database {database} was lost during a commit, and it is not known yet whether the change was made; it is looked up when the database is back, then ask again"
    )]
    OutcomeUnknown {
        /// Where, without the password.
        database: String,
    },
    /// the database does not keep what it commits
    #[error(
        "the database {database} runs with fsync = off: what it commits is lost with a power cut; set fsync = on in its postgresql.conf and reload it"
    )]
    NotDurable {
        /// Where, without the password.
        database: String,
    },
    /// the database is too old
    #[error("the database {database} is PostgreSQL {found}, at least {POSTGRES_VERSION_MIN} is needed; upgrade it")]
    TooOld {
        /// Where, without the password.
        database: String,
        /// Its version.
        found: u32,
    },
    /// there are no certificates to check the database's by
    #[error(
        "the certificates in {path} cannot be used: {cause}; name a file of PEM certificates as sslrootcert in the database's URL"
    )]
    Certificates {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// the thread that speaks with the database could not be started
    #[error("the connections to the database cannot be served: {0}; check the limits on threads and open files")]
    Thread(io::Error),
    /// a change of the transaction failed before
    #[error("an earlier change of this transaction failed, so none is made; ask again")]
    Failed,
}

impl StorageError {
    pub(crate) fn redb(error: impl Into<redb::Error>) -> Self {
        Self::Redb(Box::new(error.into()))
    }

    /// The same, for whoever asks next.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Unreachable { database, cause } => {
                Self::Unreachable { database: database.clone(), cause: cause.clone() }
            }
            Self::Refused { database, cause } => Self::Refused { database: database.clone(), cause: cause.clone() },
            Self::Taken { database } => Self::Taken { database: database.clone() },
            Self::Overtaken { database } => Self::Overtaken { database: database.clone() },
            &Self::WentBack { ref database, known, found } => {
                Self::WentBack { database: database.clone(), known, found }
            }
            Self::OutcomeUnknown { database } => Self::OutcomeUnknown { database: database.clone() },
            Self::NotDurable { database } => Self::NotDurable { database: database.clone() },
            &Self::TooOld { ref database, found } => Self::TooOld { database: database.clone(), found },
            Self::Row { table } => Self::Row { table },
            Self::Certificates { path, cause } => Self::Certificates { path: path.clone(), cause: cause.clone() },
            Self::InUse(path) => Self::InUse(path.clone()),
            Self::Failed => Self::Failed,
            Self::File { .. } | Self::Redb(_) | Self::Thread(_) => Self::Thread(io::Error::other(self.to_string())),
        }
    }

    /// Whether it may pass without anybody doing anything to this node.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::OutcomeUnknown { .. } | Self::Taken { .. } | Self::Failed)
    }
}
