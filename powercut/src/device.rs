//! The process that is the drive: a FUSE file system with one file, whose bytes are a [`Drive`].
//!
//! A process of its own, because a process whose own system calls wait for a file system that it serves itself can wait
//! for ever. It does what the lines on its control socket say, and when that closes, however whoever held it ended, it
//! takes everything away: mounts, loop devices, the folder.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::drive::{Counts, Cut, Drive, Keep, Random};
use crate::fuse::{self, Errno, Operation, REQUEST_BYTES_MAX, Request, VOLUME_NAME};
use crate::rig::{self, RigError};

/// Where the folder and the size of the drive stand for the process: in its environment, so that any program can be it.
pub(crate) const FOLDER_VARIABLE: &str = "POWERCUT_FOLDER";
/// See [`FOLDER_VARIABLE`].
pub(crate) const BYTES_VARIABLE: &str = "POWERCUT_BYTES";

/// Requests that are served side by side.
const THREADS: usize = 4;
/// A write or a flush takes up to this long before it takes effect: those that are under way together take effect in any
/// order, and whoever does not wait for a flush is ahead of it.
const LATENCY_US_MAX: usize = 400;
/// A power failure that waits for a certain request comes by then, whether that request came or not.
const CUT_WITHIN: Duration = Duration::from_millis(200);

struct Shared {
    drive: Mutex<Drive>,
    failed: Condvar,
}

impl Shared {
    fn drive(&self) -> MutexGuard<'_, Drive> {
        self.drive.lock().expect("no code panics while it holds this lock")
    }
}

/// Serves the drive that the environment describes, until its control socket closes. `None` if it describes none.
///
/// # Errors
/// [`RigError`].
pub fn serve_from_environment() -> Option<Result<(), RigError>> {
    let folder = PathBuf::from(std::env::var_os(FOLDER_VARIABLE)?);
    let bytes = std::env::var(BYTES_VARIABLE).ok()?.parse().ok()?;
    Some(serve(&folder, bytes))
}

fn serve(folder: &Path, bytes: usize) -> Result<(), RigError> {
    let control = UnixStream::connect(rig::control_path(folder)).map_err(RigError::io("reach", folder))?;
    // The kernel must not wait for this process's memory while it waits for this process.
    let _ = rustix::process::configure_io_flusher_behavior(true);
    let shared = Arc::new(Shared { drive: Mutex::new(Drive::new(bytes)), failed: Condvar::new() });
    let path = rig::drive_folder(folder);
    let kernel = File::options().read(true).write(true).open("/dev/fuse");
    let kernel = Arc::new(kernel.map_err(RigError::io("open", Path::new("/dev/fuse")))?);
    rig::mount_fuse(&kernel, &path)?;
    for _ in 0..THREADS {
        let (kernel, shared) = (Arc::clone(&kernel), Arc::clone(&shared));
        std::thread::spawn(move || answer_kernel(&kernel, &shared));
    }
    let obeyed = obey(&control, &shared);
    shared.drive().cut(Cut { after_requests: 0, keep: Keep::Nothing, seed: 0 });
    rig::clean_up(folder);
    obeyed.map_err(RigError::io("read from", folder))
}

/// Answers until the file system is unmounted.
fn answer_kernel(kernel: &File, shared: &Shared) {
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    loop {
        match (&mut &*kernel).read(&mut buffer) {
            Ok(bytes) => {
                if let Some(answer) = answer(&buffer[..bytes], shared) {
                    // The asker may have been killed meanwhile; then nobody waits for it.
                    let _ = (&mut &*kernel).write(&answer);
                }
            }
            // Interrupted, or the request was taken back before it was read.
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::NotFound) => {}
            // Unmounted.
            Err(_) => return,
        }
    }
}

fn answer(bytes: &[u8], shared: &Shared) -> Option<Vec<u8>> {
    let Request { unique, operation } = Request::parse(bytes).ok()?;
    if matches!(operation, Operation::Write { .. } | Operation::Sync) {
        let latency_us = Random(unique).below(LATENCY_US_MAX) as u64;
        std::thread::sleep(Duration::from_micros(latency_us));
    }
    let mut drive = shared.drive();
    let was_off = drive.is_off();
    let answer = match operation {
        Operation::Init => fuse::init(unique),
        Operation::Lookup { name } if name == VOLUME_NAME.as_bytes() => fuse::entry(unique, drive.bytes()),
        Operation::Lookup { .. } => fuse::refuse(unique, Errno::NO_ENTRY),
        Operation::Attributes { node } => fuse::attributes(unique, node, drive.bytes()),
        Operation::Open => fuse::opened(unique),
        Operation::StatFs => fuse::stat_fs(unique, drive.bytes()),
        Operation::Read { at, bytes } => {
            drive.read(at, bytes).map_or_else(|_| fuse::refuse(unique, Errno::IO), |read| fuse::content(unique, read))
        }
        Operation::Write { at, bytes } => drive
            .write(at, bytes)
            .map_or_else(|_| fuse::refuse(unique, Errno::IO), |taken| fuse::written(unique, taken)),
        Operation::Sync => drive.flush().map_or_else(|_| fuse::refuse(unique, Errno::IO), |()| fuse::done(unique)),
        // A close makes nothing durable.
        Operation::Done => fuse::done(unique),
        Operation::Silent => return None,
        Operation::Other => fuse::refuse(unique, Errno::NOT_SUPPORTED),
    };
    if drive.is_off() && !was_off {
        shared.failed.notify_all();
    }
    Some(answer)
}

/// One line, one answer.
fn obey(control: &UnixStream, shared: &Shared) -> io::Result<()> {
    let mut answers = control;
    for line in BufReader::new(control).lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["cut", after, keep, seed] => match cut_of(after, keep, seed) {
                Some(cut) => {
                    cut_power(cut, shared);
                    "ok".to_owned()
                }
                None => "error: cut takes a number, what to keep, and a seed".to_owned(),
            },
            ["restore"] => {
                shared.drive().restore();
                "ok".to_owned()
            }
            ["counts"] => counts_line(shared.drive().counts()),
            _ => format!("error: {line:?} is not understood"),
        };
        writeln!(answers, "{answer}")?;
    }
    Ok(())
}

/// Returns when the power is off.
fn cut_power(cut: Cut, shared: &Shared) {
    let mut drive = shared.drive();
    drive.cut(cut);
    let (mut drive, _) = shared
        .failed
        .wait_timeout_while(drive, CUT_WITHIN, |drive| !drive.is_off())
        .expect("no code panics while it holds this lock");
    drive.cut(Cut { after_requests: 0, ..cut });
}

fn cut_of(after: &str, keep: &str, seed: &str) -> Option<Cut> {
    Some(Cut { after_requests: after.parse().ok()?, keep: keep_of(keep)?, seed: seed.parse().ok()? })
}

const KEEPS: [(&str, Keep); 5] = [
    ("any", Keep::Any),
    ("nothing", Keep::Nothing),
    ("first", Keep::First),
    ("writes", Keep::Writes),
    ("sectors", Keep::Sectors),
];

/// What to keep, by its name.
#[must_use]
pub fn keep_of(name: &str) -> Option<Keep> {
    KEEPS.iter().find(|(known, _)| *known == name).map(|(_, keep)| *keep)
}

pub(crate) fn keep_name(keep: Keep) -> &'static str {
    KEEPS.iter().find(|(_, known)| *known == keep).map_or("any", |(name, _)| name)
}

fn counts_line(counts: Counts) -> String {
    let Counts { writes, flushes, refused, cuts, cuts_with_unflushed, sectors_lost, sectors_kept } = counts;
    format!("{writes} {flushes} {refused} {cuts} {cuts_with_unflushed} {sectors_lost} {sectors_kept}")
}

pub(crate) fn counts_of(line: &str) -> Option<Counts> {
    let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
    let [writes, flushes, refused, cuts, cuts_with_unflushed, sectors_lost, sectors_kept] = numbers.ok()?[..] else {
        return None;
    };
    Some(Counts { writes, flushes, refused, cuts, cuts_with_unflushed, sectors_lost, sectors_kept })
}
