//! What a service manager is told of this process (`sd_notify(3)`): when it is ready, how it is, that it is alive, that it ends.
//!
//! `READY=1` goes out in the look at which `/ready` would first answer 200. `WATCHDOG=1` goes out, if the manager asked for it, as long as
//! every shard moves: a thread that only says that it is there itself would keep a node alive that does nothing. Without a manager
//! (`NOTIFY_SOCKET` is not set) nothing of this happens. The words are the crate's; the socket is our own, because that of the crate
//! cannot reach an abstract one.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use creto_node::Vitals;
use creto_service::health::Readiness;
use sd_notify::NotifyState;

use crate::exit::{Exit, Failure, plain};

/// Between two looks at how the node is.
const LOOK: Duration = Duration::from_millis(100);
/// A manager that takes nothing for so long is not waited for: the next look tells it again.
const SEND: Duration = Duration::from_millis(200);
/// A status is one line of `systemctl status`.
const STATUS_CHARS_MAX: usize = 300;

/// The service manager's ear.
#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    to: SocketAddr,
}

impl Manager {
    /// The manager that started this process, if it wants to be told anything.
    fn of_environment() -> io::Result<Option<Self>> {
        std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).map(|name| Self::at(&name)).transpose()
    }

    /// A path, or the name of an abstract socket behind an `@`.
    fn at(name: &OsStr) -> io::Result<Self> {
        let to = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND))?;
        Ok(Self { socket, to })
    }

    fn tell(&self, states: &[NotifyState<'_>]) -> io::Result<()> {
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        self.socket.send_to_addr(text.as_bytes(), &self.to).map(drop)
    }
}

/// Says what a start is doing that may take long. That the manager cannot be told is found, and said, when it serves.
pub(crate) fn starting(what: &str) {
    if let Ok(Some(manager)) = Manager::of_environment() {
        report(manager.tell(&[NotifyState::Status(what)]));
    }
}

/// Tells the service manager until it is dropped, or told that the end begins.
#[derive(Debug)]
pub(crate) struct Supervised {
    stop: Arc<AtomicBool>,
    manager: Option<Arc<Manager>>,
    thread: Option<JoinHandle<()>>,
}

impl Supervised {
    /// Begins to tell the manager of `vitals`, if there is one. `serves` is how the status says that all is well.
    pub(crate) fn begin(vitals: Vitals, serves: String) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let manager = Manager::of_environment().map_err(|error| {
            let what = format!("the service manager's socket (NOTIFY_SOCKET) cannot be used: {}", plain(&error));
            Failure::new(Exit::System, what, "start it by systemd, or without that variable")
        })?;
        let Some(manager) = manager.map(Arc::new) else { return Ok(Self { stop, manager: None, thread: None }) };
        let teller = Teller {
            manager: Arc::clone(&manager),
            vitals,
            serves,
            // Half of what the manager waits for, as it asks; never faster than a shard that has nothing to do moves.
            alive_every: sd_notify::watchdog_enabled().map(|wait| (wait / 2).max(LOOK)),
            alive_at: None,
            has_moved: false,
            is_ready: false,
            status: String::new(),
        };
        let thread = std::thread::Builder::new().name("creto-notify".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || teller.run(&stop)
        });
        let thread = thread.map_err(|error| {
            let what = format!("a thread cannot be started: {}", plain(&error));
            Failure::new(Exit::System, what, "check the limits on threads (ulimit -u)")
        })?;
        Ok(Self { stop, manager: Some(manager), thread: Some(thread) })
    }

    /// Says that the process answers what is under way and then ends.
    pub(crate) fn ends(mut self) {
        self.halt();
        if let Some(manager) = &self.manager {
            let status = NotifyState::Status("answering what is under way");
            report(manager.tell(&[NotifyState::Stopping, status]));
        }
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in it was printed by its own thread; the node goes on to its end.
            let _ = thread.join();
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.halt();
    }
}

struct Teller {
    manager: Arc<Manager>,
    vitals: Vitals,
    serves: String,
    alive_every: Option<Duration>,
    alive_at: Option<Instant>,
    /// Whether every shard has moved, and the manager was not yet told.
    has_moved: bool,
    is_ready: bool,
    status: String,
}

impl Teller {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.look();
            std::thread::park_timeout(LOOK);
        }
    }

    fn look(&mut self) {
        let readiness = self.vitals.readiness();
        let status = status(&readiness, &self.serves);
        if readiness.ready && !self.is_ready {
            // Together: whoever hears that it is ready hears how it is.
            let told = self.manager.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
            self.is_ready = told.is_ok();
            self.said(told, status);
        } else if status != self.status {
            let told = self.manager.tell(&[NotifyState::Status(&status)]);
            self.said(told, status);
        }
        let Some(every) = self.alive_every else { return };
        if self.alive_at.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.has_moved = self.has_moved || self.vitals.have_moved();
        if self.has_moved {
            let told = self.manager.tell(&[NotifyState::Watchdog]);
            // Only what was heard counts: after one that was not, the next would come when the manager's patience ends.
            if told.is_ok() {
                (self.alive_at, self.has_moved) = (Some(Instant::now()), false);
            }
            report(told);
        }
    }

    /// Remembers the status, if the manager took it.
    fn said(&mut self, told: io::Result<()>, status: String) {
        if told.is_ok() {
            self.status = status;
        }
        report(told);
    }
}

/// One line: that it serves, or why it does not.
fn status(readiness: &Readiness, serves: &str) -> String {
    let text = match readiness.ready {
        true => {
            let others = readiness.shards.iter().filter(|shard| !shard.cause.is_empty());
            let notes: Vec<String> =
                others.map(|shard| format!("; shard {} is {}", shard.shard, shard.state.as_str())).collect();
            format!("{serves}{}", notes.concat())
        }
        false => format!("not ready: {}", readiness.why()),
    };
    // A line break would begin another variable.
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(STATUS_CHARS_MAX).collect()
}

/// What a manager does not take ends nothing: the next look tells it again.
fn report(told: io::Result<()>) {
    if let Err(error) = told {
        tracing::debug!("the service manager was not told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use creto_service::health::{ShardHealth, ShardState};

    use super::*;

    fn readiness(state: ShardState, cause: &str) -> Readiness {
        let shard = ShardHealth { shard: 1, state, since_ms: 0, cause: cause.to_owned() };
        let ready = state.is_ready();
        Readiness { ready, directory: String::new(), control: None, nodes: Vec::new(), shards: vec![shard] }
    }

    #[test]
    fn a_status_is_one_line_that_says_what_is_wrong() {
        assert_eq!(status(&readiness(ShardState::Serving, ""), "serves"), "serves");
        assert_eq!(status(&readiness(ShardState::Slow, "little room"), "serves"), "serves; shard 1 is slow");
        let text = status(&readiness(ShardState::Fenced, "the disk\nREADY=1"), "serves");
        assert_eq!(text, "not ready: shard 1 is fenced: the disk READY=1");
        assert_eq!(status(&readiness(ShardState::Fenced, &"x".repeat(900)), "").chars().count(), STATUS_CHARS_MAX);
    }

    #[test]
    fn a_manager_is_reached_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("creto-test-{}", std::process::id());
        let ears = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (ear, name) in ears {
            let manager = Manager::at(&name).unwrap();
            manager.tell(&[NotifyState::Ready, NotifyState::Status("fine")]).unwrap();
            let mut bytes = [0; 64];
            let length = ear.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"READY=1\nSTATUS=fine\n");
        }
        assert!(Manager::at(OsStr::new("/nowhere/at/all")).unwrap().tell(&[NotifyState::Ready]).is_err());
    }
}
