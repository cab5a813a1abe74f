//! A power switch at a Unix socket, for `creto kill-cycles --power SOCKET`: `off` and `on`, a line each, answered with `ok`
//! when it is so, or with `error: ` and why not.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::drive::{Counts, Cut, Keep, Random};
use crate::rig::{Rig, RigError};

/// A cut comes within so many requests after the word: in the middle of a write, before a flush, between the two.
const AFTER_REQUESTS_MAX: usize = 24;
/// Of so many cuts one comes at once.
const AT_ONCE_ONE_IN: usize = 4;

/// How a switch cuts.
#[derive(Clone, Copy, Debug)]
pub struct SwitchOptions {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// What a cut leaves.
    pub keep: Keep,
}

/// A switch for one user.
pub struct Switch {
    socket: PathBuf,
    thread: JoinHandle<Result<Counts, RigError>>,
}

impl Switch {
    /// Listens at `socket` and does what the first one says who comes, until they go.
    ///
    /// # Errors
    /// [`RigError::Io`].
    pub fn start(socket: &Path, rig: Rig, options: SwitchOptions) -> Result<Self, RigError> {
        let listener = UnixListener::bind(socket).map_err(RigError::io("listen at", socket))?;
        let serve = move || {
            let (user, _) = listener.accept().map_err(RigError::io("listen", Path::new("the switch")))?;
            operate(&user, rig, options)
        };
        Ok(Self { socket: socket.to_owned(), thread: std::thread::spawn(serve) })
    }

    /// Waits until the user has gone and everything is taken away; gives what the drive counted.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn finish(self) -> Result<Counts, RigError> {
        // If nobody ever came, this one comes and goes.
        let _ = UnixStream::connect(&self.socket);
        self.thread.join().map_err(|_| RigError::Device("the switch panicked".to_owned()))?
    }
}

fn operate(user: &UnixStream, mut rig: Rig, options: SwitchOptions) -> Result<Counts, RigError> {
    let mut random = Random(options.seed);
    let mut answers = user;
    for line in BufReader::new(user).lines().map_while(Result::ok) {
        let done = match line.as_str() {
            "off" => rig.cut(cut(&mut random, options.keep)),
            "on" => rig.restore(),
            other => Err(RigError::Device(format!("{other:?} is neither on nor off"))),
        };
        let answer = done.as_ref().map_or_else(|error| format!("error: {error}"), |()| "ok".to_owned());
        // Whoever is gone needs no answer; the loop ends.
        let _ = writeln!(answers, "{answer}");
        done?;
    }
    let counts = rig.counts()?;
    rig.end()?;
    Ok(counts)
}

fn cut(random: &mut Random, keep: Keep) -> Cut {
    let at_once = random.below(AT_ONCE_ONE_IN) == 0;
    let after_requests = if at_once { 0 } else { 1 + random.below(AFTER_REQUESTS_MAX) };
    Cut { after_requests: u32::try_from(after_requests).unwrap_or(0), keep, seed: random.next() }
}
