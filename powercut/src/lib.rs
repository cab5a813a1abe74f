//! Power cuts for real processes: a file system that forgets whatever was not synced.
//!
//! SIGKILL cannot show a missing sync, because the page cache outlives the process. Here the last layer of the storage is
//! a [`Drive`] in memory with a volatile cache, served as a file by a FUSE file system of our own; on the file is a loop
//! device, on that ext4, on that whatever is tested. A write with O_DIRECT reaches the drive's cache, and only the flush
//! that a sync ends in makes it durable. A [`Cut`] takes away any subset of the sectors that no flush covered, and the
//! drive answers with errors until [`Rig::restore`].
//!
//! It promises nothing about time: this drive is as fast as memory. Needs root, `/dev/fuse` and loop devices;
//! [`what_is_missing`] says what of it is not there.
#![forbid(unsafe_code)]

mod device;
mod drive;
mod fuse;
mod rig;
mod run;
mod switch;

pub use device::{keep_of, serve_from_environment};
pub use drive::{CACHE_BYTES_MAX, Counts, Cut, Drive, Keep, NoPower, SECTOR_BYTES};
pub use rig::{Rig, RigError, what_is_missing};
pub use run::{Outcome, RunOptions, run};
pub use switch::{Switch, SwitchOptions};
