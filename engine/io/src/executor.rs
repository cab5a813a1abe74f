//! One pinned thread per shard, and the driver that runs on it.
//!
//! Of glommio, two settings are not a matter of taste. **No task queue with `Latency::Matters`, and a preemption timer of an hour**:
//! when the timer has fired before the first task of a round, glommio 0.9 answers "nothing to run" and parks with runnable
//! tasks. With a latency queue of 1 ms, 13 of 15 two-shard ping-pongs stuck within 200,000 rounds; the default timer of
//! 100 ms leaves the same hole for whoever is descheduled that long. With the hour, turns must be short, and they are.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement, PoolPlacement, ReactorErrorKind};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::driver::DriverConfig;
use crate::error::{DriverError, ExecutorError};
use crate::machine::Machine;
use crate::on_glommio;
use crate::on_io_uring::{self, Beside, Ring};

/// What carries out a shard's actions. `docs/decisions/2026-12-01-driver.md` compares them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverKind {
    /// A task of a glommio executor, which has three rings.
    Glommio,
    /// A loop with one ring of io_uring.
    #[default]
    IoUring,
}

impl DriverKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Glommio, Self::IoUring];

    /// As it stands in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Glommio => "glommio",
            Self::IoUring => "io-uring",
        }
    }
}

/// `RLIMIT_MEMLOCK` that one shard needs on glommio; on a ring of its own it needs none.
pub const MEMORY_LOCK_BYTES_MIN: u64 = 512 << 10;

/// Memory for direct IO that is registered with the kernel, three times over (once per ring), and so counts against
/// `RLIMIT_MEMLOCK`. The smallest that glommio takes: 40 shards fit into the usual limit of 8 MiB. Larger buffers come
/// from the heap, which costs a few microseconds per write.
pub const IO_MEMORY_BYTES: usize = 64 << 10;

/// Entries of each of a shard's rings.
pub const RING_ENTRIES: usize = 128;

/// See the module's page.
const PREEMPT_NEVER: Duration = Duration::from_secs(3_600);

/// Where and how a shard's thread runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorConfig {
    /// The shard.
    pub shard_index: u16,
    /// What runs on it.
    pub driver: DriverKind,
    /// The CPU it is pinned to; `None` leaves it to the kernel.
    pub cpu: Option<u16>,
    /// Entries of each of its rings.
    pub ring_entries: usize,
    /// Memory for direct IO that glommio registers with the kernel, in bytes.
    pub io_memory_bytes: usize,
}

impl ExecutorConfig {
    /// The defaults for a shard.
    pub fn new(shard_index: u16, cpu: Option<u16>) -> Self {
        Self {
            shard_index,
            driver: DriverKind::default(),
            cpu,
            ring_entries: RING_ENTRIES,
            io_memory_bytes: IO_MEMORY_BYTES,
        }
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
    thread: Thread<T>,
}

#[derive(Debug)]
enum Thread<T: Send + 'static> {
    Glommio(ExecutorJoinHandle<T>),
    Own(JoinHandle<Result<T, ExecutorError>>),
}

impl<T: Send + 'static> ShardThread<T> {
    /// Waits until the shard has ended.
    ///
    /// # Errors
    /// The driver could not start. A panic in the shard is passed on.
    pub fn join(self) -> Result<T, ExecutorError> {
        match self.thread {
            Thread::Glommio(handle) => handle.join().map_err(|error| explain(&self.config, &error)),
            Thread::Own(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        }
    }
}

/// Makes what a shard's thread needs as configured and lets it go: says at once, and in words, why shards could not run here.
///
/// # Errors
/// What is missing, with the command that gives it.
pub fn preflight(config: &ExecutorConfig) -> Result<(), ExecutorError> {
    let config = config.clone();
    // On a thread of its own: the thread is pinned by it.
    let made = std::thread::spawn(move || match config.driver {
        DriverKind::Glommio => config.builder().make().map(drop).map_err(|error| explain(&config, &error)),
        DriverKind::IoUring => {
            pin(&config)?;
            on_io_uring::preflight(config.ring_entries).map_err(|error| explain_io(&config, &error))
        }
    });
    made.join().unwrap_or_else(|_| Err(ExecutorError::Start("what a shard needs panicked while it was made".into())))
}

/// Starts a shard's thread, which runs its driver until the machine halts and gives the machine back. When the shard has ended, also
/// when it could not begin, it calls `ended` on that thread.
///
/// # Errors
/// The thread could not be made. What the driver itself lacks is said by [`preflight`], or by [`ShardThread::join`].
pub fn start<M>(
    config: &ExecutorConfig,
    driver: DriverConfig<M::Item>,
    machine: M,
    ended: impl FnOnce() + Send + 'static,
) -> Result<ShardThread<Result<M, DriverError>>, ExecutorError>
where
    M: Machine + Send + 'static,
    M::Write: 'static,
{
    let thread = match config.driver {
        DriverKind::Glommio => {
            let run = move || async move {
                let machine = on_glommio::drive(driver, machine).await;
                ended();
                machine
            };
            Thread::Glommio(config.builder().spawn(run).map_err(|error| explain(config, &error))?)
        }
        DriverKind::IoUring => {
            let of_thread = |error: io::Error| ExecutorError::Start(error.to_string());
            // Before the shard's thread is pinned: it must not take the shard's own CPU while it waits for the disk.
            let beside = Beside::start(config.shard_index).map_err(of_thread)?;
            let own = config.clone();
            let run = move || {
                // Called once, however the shard ends: whoever waits for it must not wait for ever.
                let ended = CallOnDrop(Some(ended));
                pin(&own)?;
                let ring = Ring::new(own.ring_entries).map_err(|error| explain_io(&own, &error))?;
                Ok(on_io_uring::drive(ring, beside, driver, machine, move || drop(ended)))
            };
            let named = std::thread::Builder::new().name(format!("creto-shard-{}", config.shard_index));
            Thread::Own(named.spawn(run).map_err(of_thread)?)
        }
    };
    Ok(ShardThread { config: config.clone(), thread })
}

struct CallOnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for CallOnDrop<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// Pins the calling thread.
fn pin(config: &ExecutorConfig) -> Result<(), ExecutorError> {
    let Some(cpu) = config.cpu else { return Ok(()) };
    let pinned = match usize::from(cpu) {
        place if place < CpuSet::MAX_CPU => {
            let mut set = CpuSet::new();
            set.set(place);
            sched_setaffinity(None, &set).map_err(io::Error::from)
        }
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    pinned.map_err(|error| with_cpu(config, &error))
}

fn explain<T>(config: &ExecutorConfig, error: &GlommioError<T>) -> ExecutorError {
    match error {
        GlommioError::ReactorError(ReactorErrorKind::MemLockLimit(limit, _)) => memory_lock(*limit),
        GlommioError::IoError(error) => explain_io(config, error),
        other => with_cpu(config, other),
    }
}

fn explain_io(config: &ExecutorConfig, error: &io::Error) -> ExecutorError {
    match error.raw_os_error() {
        Some(code @ (libc::EPERM | libc::ENOSYS | libc::EACCES)) => {
            ExecutorError::IoUringRefused(io::Error::from_raw_os_error(code))
        }
        Some(libc::ENOMEM) if config.driver == DriverKind::Glommio => memory_lock(memory_lock_limit()),
        Some(libc::ENOMEM) => ExecutorError::Start(format!("no memory for its ring ({error}); give the node more")),
        _ if error.kind() == io::ErrorKind::Unsupported => ExecutorError::Start(error.to_string()),
        _ => with_cpu(config, error),
    }
}

fn memory_lock(limit_bytes: u64) -> ExecutorError {
    ExecutorError::MemoryLock { limit_bytes, needed_bytes: MEMORY_LOCK_BYTES_MIN }
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
