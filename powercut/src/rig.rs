//! Everything that a power cut needs: the drive's process, a loop device on its file, ext4 on that.
//!
//! ```text
//! folder/control        socket to the drive's process
//! folder/drive/volume   FUSE: the drive as a file
//! /dev/loopN            the drive as a block device; its flush is an fsync of the file
//! folder/disk           ext4 on it
//! ```

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::device::{BYTES_VARIABLE, FOLDER_VARIABLE, counts_of, keep_name};
use crate::drive::{Counts, Cut};
use crate::fuse::VOLUME_NAME;

/// How long the kernel may take to let go of a mount or a loop device.
const LET_GO_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long the drive's process may take to be there.
const START_WITHIN: Duration = Duration::from_secs(20);
/// What is needed beside a kernel, from util-linux and e2fsprogs.
const PROGRAMS: [&str; 4] = ["mount", "umount", "losetup", "mkfs.ext4"];

/// Why there can be no power cut.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RigError {
    /// The system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{command} failed: {said}")]
    Program {
        /// What was called.
        command: String,
        /// What it said.
        said: String,
    },
    /// The drive's process ended or does not answer as it should.
    #[error("the drive's process is gone or confused: {0}")]
    Device(String),
    /// Something is still held.
    #[error("{0} is still in use after {LET_GO_WITHIN:?}; `fuser -vm` shows by whom")]
    Busy(PathBuf),
}

impl RigError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// What is missing here for a power cut; `None` if nothing is.
#[must_use]
pub fn what_is_missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root".to_owned());
    }
    if !may_mount() {
        return Some("the capability CAP_SYS_ADMIN".to_owned());
    }
    for path in ["/dev/fuse", "/dev/loop-control"] {
        if let Err(error) = fs::File::options().read(true).write(true).open(path) {
            return Some(format!("{path} ({error})"));
        }
    }
    let absent = |program: &&&str| {
        !Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|_| true)
    };
    PROGRAMS.iter().find(absent).map(|program| format!("the program {program}"))
}

/// Root of a container often may not.
fn may_mount() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_none_or(|set| set >> CAP_SYS_ADMIN & 1 == 1)
}

pub(crate) fn control_path(folder: &Path) -> PathBuf {
    folder.join("control")
}

pub(crate) fn drive_folder(folder: &Path) -> PathBuf {
    folder.join("drive")
}

fn volume(folder: &Path) -> PathBuf {
    drive_folder(folder).join(VOLUME_NAME)
}

fn disk_folder(folder: &Path) -> PathBuf {
    folder.join("disk")
}

/// A file system whose power can be cut. When it is dropped, nothing of it is left but the empty folder.
pub struct Rig {
    folder: PathBuf,
    control: BufReader<UnixStream>,
    device: Child,
}

impl Rig {
    /// Makes an ext4 file system on a drive of so many bytes; everything it needs is in `folder`, which is there and empty.
    ///
    /// `device` is started as the drive's process: it calls [`serve_from_environment`](crate::serve_from_environment).
    ///
    /// # Errors
    /// [`RigError`].
    pub fn start(folder: &Path, drive_bytes: usize, mut device: Command) -> Result<Self, RigError> {
        for path in [drive_folder(folder), disk_folder(folder)] {
            fs::create_dir(&path).map_err(RigError::io("make", &path))?;
        }
        let socket = control_path(folder);
        let listener = UnixListener::bind(&socket).map_err(RigError::io("listen at", &socket))?;
        device.env(FOLDER_VARIABLE, folder).env(BYTES_VARIABLE, drive_bytes.to_string());
        // Ctrl-C in a terminal ends whoever uses the drive; the drive takes everything away after that.
        device.process_group(0).stdin(Stdio::null());
        let mut device = device.spawn().map_err(RigError::io("start", Path::new("the drive's process")))?;
        let control = accept(&listener, &mut device).map_err(RigError::io("listen at", &socket));
        let control = match control {
            Ok(Some(control)) => BufReader::new(control),
            Ok(None) => return Err(RigError::Device("it did not come up".to_owned())),
            Err(error) => return Err(error),
        };
        let mut rig = Self { folder: folder.to_owned(), control, device };
        // Answered once the file system is there.
        rig.counts()?;
        let block_device = rig.attach()?;
        // Everything is laid out now: nothing writes later but who is tested.
        let layout = ["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-N", "8192"];
        run(Command::new("mkfs.ext4").args(layout).arg(&block_device))?;
        rig.mount(&block_device)?;
        Ok(rig)
    }

    /// Where the file system is.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        disk_folder(&self.folder)
    }

    /// Cuts the power. When this returns, the drive answers everything with errors.
    ///
    /// # Errors
    /// [`RigError::Device`].
    pub fn cut(&mut self, cut: Cut) -> Result<(), RigError> {
        let Cut { after_requests, keep, seed } = cut;
        self.ask(&format!("cut {after_requests} {} {seed}", keep_name(keep))).and_then(expect_ok)
    }

    /// Gives the power back: the file system is mounted again, from what the drive still has. Whoever used it has ended.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn restore(&mut self) -> Result<(), RigError> {
        self.detach()?;
        self.ask("restore").and_then(expect_ok)?;
        let block_device = self.attach()?;
        self.mount(&block_device)
    }

    /// What the drive counted.
    ///
    /// # Errors
    /// [`RigError::Device`].
    pub fn counts(&mut self) -> Result<Counts, RigError> {
        let line = self.ask("counts")?;
        counts_of(&line).ok_or(RigError::Device(line))
    }

    /// Takes everything away in good order, so that an error of that is seen.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn end(self) -> Result<(), RigError> {
        self.detach()
    }

    fn ask(&mut self, line: &str) -> Result<String, RigError> {
        let gone = |error: io::Error| RigError::Device(error.to_string());
        writeln!(self.control.get_mut(), "{line}").map_err(gone)?;
        let mut answer = String::new();
        self.control.read_line(&mut answer).map_err(gone)?;
        match answer.strip_suffix('\n') {
            Some(answer) => Ok(answer.to_owned()),
            None => Err(RigError::Device("it closed its socket".to_owned())),
        }
    }

    fn attach(&self) -> Result<PathBuf, RigError> {
        let path = run(Command::new("losetup").args(["--find", "--show"]).arg(volume(&self.folder)))?;
        Ok(PathBuf::from(path.trim()))
    }

    fn mount(&self, block_device: &Path) -> Result<(), RigError> {
        run(Command::new("mount").args(["-t", "ext4", "-o", "noatime"]).arg(block_device).arg(self.disk())).map(drop)
    }

    fn detach(&self) -> Result<(), RigError> {
        let disk = self.disk();
        // The kernel closes the files of a killed process a moment after the process has ended.
        let unmounted = wait_until(|| !is_mounted(&disk) || run(Command::new("umount").arg(&disk)).is_ok());
        if !unmounted {
            return Err(RigError::Busy(disk));
        }
        for block_device in loop_devices(&volume(&self.folder)) {
            run(Command::new("losetup").arg("--detach").arg(&block_device))?;
        }
        match wait_until(|| loop_devices(&volume(&self.folder)).is_empty()) {
            true => Ok(()),
            false => Err(RigError::Busy(volume(&self.folder))),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The drive's process sees its socket closed, takes everything away and ends.
        let _ = self.control.get_ref().shutdown(std::net::Shutdown::Both);
        let _ = self.device.wait();
    }
}

fn accept(listener: &UnixListener, device: &mut Child) -> io::Result<Option<UnixStream>> {
    listener.set_nonblocking(true)?;
    let mut accepted = None;
    let mut failed = None;
    wait_until_within(START_WITHIN, || match listener.accept() {
        Ok((stream, _)) => {
            accepted = Some(stream);
            true
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            device.try_wait().is_ok_and(|status| status.is_some())
        }
        Err(error) => {
            failed = Some(error);
            true
        }
    });
    if accepted.is_none() {
        let _ = device.kill();
        let _ = device.wait();
    }
    if let Some(stream) = &accepted {
        stream.set_nonblocking(false)?;
    }
    failed.map_or(Ok(accepted), Err)
}

/// Mounts the file system that is served over `kernel`: the program finds it as its standard input.
pub(crate) fn mount_fuse(kernel: &fs::File, path: &Path) -> Result<(), RigError> {
    let kernel = kernel.try_clone().map_err(RigError::io("share", Path::new("/dev/fuse")))?;
    let options = "fd=0,rootmode=40000,user_id=0,group_id=0,nosuid,nodev,noexec";
    let mut command = Command::new("mount");
    command.args(["--internal-only", "-t", "fuse", "-o", options, "creto-powercut"]).arg(path);
    run_with(&mut command, Stdio::from(kernel)).map(drop)
}

/// Takes away whatever of a rig is there. Called by the drive's process, whose power is off: nothing can wait for it.
pub(crate) fn clean_up(folder: &Path) {
    let disk = disk_folder(folder);
    if is_mounted(&disk) && run(Command::new("umount").arg(&disk)).is_err() {
        // Somebody is still in there: it goes when they do.
        let _ = run(Command::new("umount").arg("--lazy").arg(&disk));
    }
    for block_device in loop_devices(&volume(folder)) {
        let _ = run(Command::new("losetup").arg("--detach").arg(&block_device));
    }
    let drive = drive_folder(folder);
    if is_mounted(&drive) {
        let _ = run(Command::new("umount").arg("--lazy").arg(&drive));
    }
    let _ = fs::remove_file(control_path(folder));
    // Only folders that are empty go: never what is still mounted.
    let _ = (fs::remove_dir(&disk), fs::remove_dir(&drive));
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let path = path.to_string_lossy();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&path))
}

/// Loop devices on this file. Looked up by name in the kernel's list: the file itself may not answer any more.
fn loop_devices(file: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let on_file = |entry: fs::DirEntry| {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        (Path::new(backing.trim_end()) == file).then(|| Path::new("/dev").join(entry.file_name()))
    };
    entries.flatten().filter_map(on_file).collect()
}

fn expect_ok(answer: String) -> Result<(), RigError> {
    if answer == "ok" { Ok(()) } else { Err(RigError::Device(answer)) }
}

fn wait_until(done: impl FnMut() -> bool) -> bool {
    wait_until_within(LET_GO_WITHIN, done)
}

fn wait_until_within(within: Duration, mut done: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + within;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        sleep(LOOK_AGAIN);
    }
}

fn run(command: &mut Command) -> Result<String, RigError> {
    run_with(command, Stdio::null())
}

fn run_with(command: &mut Command, input: Stdio) -> Result<String, RigError> {
    let program = command.get_program().to_owned();
    let output = command.stdin(input).output().map_err(RigError::io("run", Path::new(&program)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RigError::Program { command: format!("{command:?}"), said })
}
