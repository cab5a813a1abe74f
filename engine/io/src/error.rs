//! What the machine under us can do wrong.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a shard's executor cannot run.
#[derive(Debug, Error)]
pub enum ExecutorError {
    /// The limit on locked memory is too low for io_uring.
    #[error(
        "only {limit_bytes} bytes of memory may be locked and each shard needs {needed_bytes}; \
         raise it: `LimitMEMLOCK=infinity` in the systemd unit, `--ulimit memlock=-1` for docker, `ulimit -l unlimited` in a shell"
    )]
    MemoryLock {
        /// `RLIMIT_MEMLOCK` of this process.
        limit_bytes: u64,
        /// What one shard needs.
        needed_bytes: u64,
    },
    /// The kernel or a sandbox refuses io_uring.
    #[error(
        "io_uring is refused ({0}); allow it: `sysctl kernel.io_uring_disabled=0`, and in docker a seccomp profile with \
         io_uring_setup, io_uring_enter and io_uring_register (`--security-opt seccomp=...`)"
    )]
    IoUringRefused(#[source] io::Error),
    /// The CPU does not exist, or this process may not use it.
    #[error("shard {shard_index} cannot be pinned to CPU {cpu} ({error}); choose one that `taskset -cp $$` lists")]
    Pin {
        /// The shard.
        shard_index: u16,
        /// The CPU.
        cpu: u16,
        /// The system's words.
        error: String,
    },
    /// Anything else.
    #[error("the executor cannot start: {0}")]
    Start(String),
}

/// Why a shard stopped although nobody asked it to.
#[derive(Debug, Error)]
pub enum DriverError {
    /// The socket cannot be used any more.
    #[error("the socket of shard {shard_index} failed ({error}); restart the node")]
    Socket {
        /// The shard.
        shard_index: u16,
        /// The system's words.
        #[source]
        error: io::Error,
    },
    /// Its io_uring cannot be used any more.
    #[error(
        "the io_uring of shard {shard_index} failed ({error}); restart the node, and if it repeats, set `[engine] driver = \"glommio\"` and report it"
    )]
    Ring {
        /// The shard.
        shard_index: u16,
        /// The system's words.
        #[source]
        error: io::Error,
    },
    /// The folder of the shard's log cannot be used.
    #[error("the folder {folder} cannot be used ({error}); check that it exists and may be written")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The system's words.
        #[source]
        error: io::Error,
    },
}

/// How a disk operation failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiskError {
    /// No space is left.
    #[error("the disk is full: free space on it, or lower the log's size")]
    NoSpace,
    /// Anything else, in the system's words.
    #[error("{0}")]
    Io(String),
}

impl From<io::Error> for DiskError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::NoSpace,
            _ => Self::Io(error.to_string()),
        }
    }
}

impl<T> From<glommio::GlommioError<T>> for DiskError {
    fn from(error: glommio::GlommioError<T>) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::NoSpace,
            _ => Self::Io(error.to_string()),
        }
    }
}
