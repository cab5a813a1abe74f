//! Where the node touches the machine: executors, sockets, disks, clocks, and rings between shards.
//!
//! Everything the node decides is in pure crates; this one carries it out. A shard's driver turns what the kernel has into
//! [`IoEvent`]s for a [`Machine`], and the machine's [`IoAction`]s into what the kernel does ([`executor::start`]). There are two, and
//! [`executor::DriverKind`] chooses: one is a task of a glommio executor, one has a ring of io_uring to itself. Their loop, their disk
//! and their rings are the same code; they differ in how they wait, and in who calls the kernel. The tests of this crate run with both.
//!
//! # The rules under which glommio 0.9 runs here
//!
//! Each was found by running into it; the soak test in `tests/soak.rs` holds them.
//!
//! - No task queue asks for latency and the preemption timer is an hour, or the executor can fall asleep with runnable
//!   tasks ([`executor`]).
//! - Every turn of a busy shard gives the reactor its turn by a timer of a microsecond: the reactor is only polled when no
//!   task is runnable, and neither `yield_now` nor a sleep of zero makes it so. Without it, disk completions starve for as
//!   long as the load lasts.
//! - A parked shard always has a timer of at most 50 ms. It keeps the progress counter moving, so that the [`watchdog`]
//!   needs no notion of "idle"; and should a wake-up ever be lost, it ends the harm.
//! - Sockets are waited for through glommio (`peek_from`) and read and written through `quinn-udp` ([`socket`]).
//! - Nothing is borrowed from a `RefCell` across an `.await`.

mod aligned;
mod clock;
pub mod discipline;
mod disk;
mod driver;
mod error;
pub mod executor;
mod files;
pub mod limits;
mod machine;
pub mod memory;
mod on_glommio;
mod on_io_uring;
mod park;
mod planted;
pub mod probe;
pub mod ring;
pub mod socket;
mod stats;
pub mod watchdog;

pub use aligned::AlignedBuffer;
pub use clock::{Clock, Now};
pub use disk::{DiskConfig, Durability};
pub use driver::DriverConfig;
pub use error::{DiskError, DriverError, ExecutorError};
pub use machine::{ActionId, EncodeWrite, IoAction, IoEvent, Machine, Parcel, Source};
pub use stats::{DriverStats, StatsReader, TIME_BOUNDS_US, Times};
