//! The driver straight on io_uring: one ring per shard, one system call for all that a turn gives to the disk, and the same one to
//! rest.
//!
//! ```text
//! turn -> what the disk wants is submitted, what completed is taken -> turn -> ... -> nothing happened: wait in the ring
//! ```
//!
//! The ring waits for everything: completions, datagrams (a poll of the socket, armed before the shard rests), other threads (a poll
//! of an eventfd), and the clock (the time limit of the wait). Completions are delivered when the shard enters the kernel, never in
//! between (`IORING_SETUP_DEFER_TASKRUN`), so nothing interrupts a turn.

mod beside;
mod buffer;
mod files;
mod reactor;
mod ring;
mod wake;

use std::io;
use std::sync::Arc;
use std::task::Waker;

pub(crate) use self::beside::Beside;
use self::files::OnIoUring;
use self::reactor::Reactor;
pub(crate) use self::ring::Ring;
use self::wake::EventFd;
use crate::driver::{Driver, DriverConfig, TurnEnd};
use crate::error::DriverError;
use crate::machine::Machine;

/// Runs a shard on the calling thread until its machine halts, calls `ended`, and gives the machine back.
///
/// # Errors
/// The socket, the folder or the ring cannot be used, or not any more.
pub(crate) fn drive<M>(
    ring: Ring,
    beside: Beside,
    config: DriverConfig<M::Item>,
    machine: M,
    ended: impl FnOnce(),
) -> Result<M, DriverError>
where
    M: Machine,
    M::Write: 'static,
{
    let shard_index = config.ports.shard_index();
    let socket_failed = |error| DriverError::Socket { shard_index, error };
    let ring_failed = |error| DriverError::Ring { shard_index, error };
    let folder = config.disk.folder.clone();
    std::fs::read_dir(&folder).map_err(|error| DriverError::Folder { folder, error })?;
    let (progress, bell) = (Arc::clone(&config.progress), Arc::clone(config.ports.bell()));
    let event = Arc::new(EventFd::new().map_err(ring_failed)?);
    let waker = Waker::from(Arc::clone(&event));
    let socket = config.socket.descriptor().map_err(socket_failed)?;
    let reactor = Reactor::new(ring, beside, event, socket);
    let mut driver = Driver::new(config, machine, OnIoUring::new(&reactor)).map_err(socket_failed)?;

    progress.begin();
    let how = loop {
        let waited = match driver.turn(&progress) {
            Ok(TurnEnd::Over) => break Ok(()),
            Ok(TurnEnd::Again) => reactor.look(),
            Ok(TurnEnd::Rest(longest)) => {
                reactor.run_tasks();
                bell.park(&waker);
                // What came before the announcement is seen here, what comes after it rings the bell.
                let came = driver.signal.is_set() || !driver.nothing_waits();
                let waited = if came { reactor.look() } else { reactor.rest(longest) };
                bell.unpark();
                waited
            }
            Err(error) => break Err(socket_failed(error)),
        };
        if let Err(error) = waited {
            break Err(ring_failed(error));
        }
    };
    progress.end();
    bell.retire();
    // Now, and not when everything below is done: a device that hangs holds up what the ring has under way.
    ended();
    // Its tasks hold the disk, which holds the reactor.
    reactor.end();
    how.map(|()| driver.into_machine())
}

/// Makes a ring as a shard needs it, waits in it for a moment, and lets it go.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn preflight(ring_entries: usize) -> io::Result<()> {
    Ring::new(ring_entries)?.try_out()
}
