//! One pinned glommio executor per shard.
//!
//! Two settings are not a matter of taste. **No task queue with `Latency::Matters`, and a preemption timer of an hour**:
//! when the timer has fired before the first task of a round, glommio 0.9 answers "nothing to run" and parks with runnable
//! tasks. With a latency queue of 1 ms, 13 of 15 two-shard ping-pongs stuck within 200,000 rounds; the default timer of
//! 100 ms leaves the same hole for whoever is descheduled that long. With the hour, turns must be short, and they are.

use std::future::Future;
use std::io;
use std::time::Duration;

use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement, PoolPlacement, ReactorErrorKind};

use crate::error::ExecutorError;

/// `RLIMIT_MEMLOCK` that one executor needs.
pub const MEMORY_LOCK_BYTES_MIN: u64 = 512 << 10;

/// Memory for direct IO that is registered with the kernel, three times over (once per ring), and so counts against
/// `RLIMIT_MEMLOCK`. The smallest that glommio takes: 40 shards fit into the usual limit of 8 MiB. Larger buffers come
/// from the heap, which costs a few microseconds per write.
pub const IO_MEMORY_BYTES: usize = 64 << 10;

/// Entries of each of a shard's rings.
pub const RING_ENTRIES: usize = 128;

/// See the module's page.
const PREEMPT_NEVER: Duration = Duration::from_secs(3_600);

/// Where and how a shard's executor runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorConfig {
    /// The shard.
    pub shard_index: u16,
    /// The CPU it is pinned to; `None` leaves it to the kernel.
    pub cpu: Option<u16>,
    /// Entries of each of its rings.
    pub ring_entries: usize,
    /// Memory for direct IO that is registered with the kernel, in bytes.
    pub io_memory_bytes: usize,
}

impl ExecutorConfig {
    /// The defaults for a shard.
    pub fn new(shard_index: u16, cpu: Option<u16>) -> Self {
        Self { shard_index, cpu, ring_entries: RING_ENTRIES, io_memory_bytes: IO_MEMORY_BYTES }
    }

    fn builder(&self) -> LocalExecutorBuilder {
        let placement = self.cpu.map_or(Placement::Unbound, |cpu| Placement::Fixed(usize::from(cpu)));
        LocalExecutorBuilder::new(placement)
            .name(&format!("creto-shard-{}", self.shard_index))
            .preempt_timer(PREEMPT_NEVER)
            .ring_depth(self.ring_entries)
            .io_memory(self.io_memory_bytes)
            // Renames and folder syncs must not take the shard's own CPU while they wait for the disk.
            .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
    }
}

/// A shard's thread.
#[derive(Debug)]
pub struct ShardThread<T: Send + 'static> {
    config: ExecutorConfig,
    handle: ExecutorJoinHandle<T>,
}

impl<T: Send + 'static> ShardThread<T> {
    /// Waits until the shard has ended.
    ///
    /// # Errors
    /// The executor could not start. A panic in the shard is passed on.
    pub fn join(self) -> Result<T, ExecutorError> {
        self.handle.join().map_err(|error| explain(&self.config, &error))
    }
}

/// Makes one executor as configured and lets it go: says at once, and in words, why shards could not run here.
///
/// # Errors
/// What is missing, with the command that gives it.
pub fn preflight(config: &ExecutorConfig) -> Result<(), ExecutorError> {
    let builder = config.builder();
    let config = config.clone();
    // On a thread of its own: making an executor pins the thread that makes it.
    let made = std::thread::spawn(move || builder.make().map(drop).map_err(|error| explain(&config, &error)));
    made.join().unwrap_or_else(|_| Err(ExecutorError::Start("the executor panicked while it was made".into())))
}

/// Starts a shard's thread. `shard` is called on that thread and makes what it runs until it ends.
///
/// # Errors
/// The thread could not be made. What the executor itself lacks is said by [`preflight`], or by [`ShardThread::join`].
pub fn spawn<F, T>(
    config: &ExecutorConfig,
    shard: impl FnOnce() -> F + Send + 'static,
) -> Result<ShardThread<T>, ExecutorError>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    match config.builder().spawn(shard) {
        Ok(handle) => Ok(ShardThread { config: config.clone(), handle }),
        Err(error) => Err(explain(config, &error)),
    }
}

fn explain<T>(config: &ExecutorConfig, error: &GlommioError<T>) -> ExecutorError {
    let memory_lock = |limit_bytes| ExecutorError::MemoryLock { limit_bytes, needed_bytes: MEMORY_LOCK_BYTES_MIN };
    match error {
        GlommioError::ReactorError(ReactorErrorKind::MemLockLimit(limit, _)) => memory_lock(*limit),
        GlommioError::IoError(io) => match io.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => {
                ExecutorError::IoUringRefused(io::Error::from_raw_os_error(io.raw_os_error().unwrap_or(libc::EPERM)))
            }
            Some(libc::ENOMEM) => memory_lock(memory_lock_limit()),
            _ => with_cpu(config, io),
        },
        other => with_cpu(config, other),
    }
}

fn with_cpu(config: &ExecutorConfig, error: &impl ToString) -> ExecutorError {
    let error = error.to_string();
    match config.cpu {
        Some(cpu) => ExecutorError::Pin { shard_index: config.shard_index, cpu, error },
        None => ExecutorError::Start(error),
    }
}

/// `RLIMIT_MEMLOCK` of this process, in bytes.
pub fn memory_lock_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current.unwrap_or(u64::MAX)
}
