//! A node in a process of its own: this binary with the verb `serve`, in a folder of its own, on a loopback port of its
//! own. It can be killed and started again on both.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use creto_agent::NodeCertificate;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::time::clock_getcpuclockid;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::CpuSet;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::exit::{Exit, Failure, plain};
use crate::identity::Identity;
use crate::verb::bench::cpus::starting_on;

/// A node that is not ready by then has a reason that no waiting cures.
const START_WITHIN: Duration = Duration::from_secs(60);
/// A node that was asked to stop answers what is under way first.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// Small, so that a demo takes neither the disk nor a second to lay it out.
const SEGMENT_BYTES: u64 = 16 << 20;
/// More than any receiver misses while it is away: a full mailbox is not what is looked at here.
const MAILBOX_BYTES_MAX: u64 = 512 << 20;
/// What is shown of a node's own words when it does not start.
const LOG_LINES_SHOWN: usize = 12;
/// The file system types that keep files in memory (statfs(2)).
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Where a node lives, and the process while there is one.
pub(in crate::verb) struct NodeHost {
    folder: PathBuf,
    data: PathBuf,
    settings: NodeSettings,
    described: Described,
    certificate: NodeCertificate,
    /// Port zero until the first start has found a free one.
    address: SocketAddr,
    running: Option<Running>,
    /// CPU time of children that had ended before.
    cpu_before: Duration,
}

/// How a node differs from one that nobody configured.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::verb) struct NodeSettings {
    pub(in crate::verb) shard_count: Option<u16>,
    pub(in crate::verb) segment_bytes: Option<u64>,
    pub(in crate::verb) mailbox_bytes_max: Option<u64>,
    pub(in crate::verb) shard_bytes_max: Option<u64>,
    /// CPUs that it may use; those of this process without.
    pub(in crate::verb) cpus: Option<CpuSet>,
}

impl NodeSettings {
    /// As a demo has it.
    pub(in crate::verb) fn of_demo(shard_count: u16) -> Self {
        Self {
            shard_count: Some(shard_count),
            segment_bytes: Some(SEGMENT_BYTES),
            mailbox_bytes_max: Some(MAILBOX_BYTES_MAX),
            ..Self::default()
        }
    }
}

/// What a node says of itself when it serves.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::verb) struct Described {
    /// How its logs are written.
    #[serde(default)]
    pub(in crate::verb) log_written_by: String,
    #[serde(default)]
    shards: Vec<serde_json::Value>,
}

impl Described {
    pub(in crate::verb) fn shard_count(&self) -> Option<u16> {
        u16::try_from(self.shards.len()).ok().filter(|count| *count > 0)
    }
}

struct Running {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

/// What a node says when it serves.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(in crate::verb) struct Ready {
    pub(in crate::verb) address: SocketAddr,
    /// Messages that it found waiting in its log.
    pub(in crate::verb) messages_waiting: u64,
    /// From the start of the process.
    #[serde(skip)]
    pub(in crate::verb) took: Duration,
}

/// What a node says when it has ended in order.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(in crate::verb) struct Stopped {
    /// Everything under way was answered.
    pub(in crate::verb) drained: bool,
    /// How often a shard made no progress.
    pub(in crate::verb) stalls: u64,
}

impl NodeHost {
    /// Makes the configuration, the key and the certificate of a node in `folder`; its data is there, too, or where `data`
    /// says.
    pub(in crate::verb) fn make(folder: &Path, data: Option<&Path>, settings: NodeSettings) -> Result<Self, Failure> {
        let folder = std::path::absolute(folder).map_err(|error| Failure::file("find", folder, &error))?;
        let data = match data {
            // Relative to where this was started, not to the configuration.
            Some(data) => std::path::absolute(data).map_err(|error| Failure::file("find", data, &error))?,
            None => folder.join("data"),
        };
        std::fs::create_dir(&data).map_err(|error| Failure::file("make the folder", &data, &error))?;
        let identity = Identity::self_signed(&[])?;
        let certificate_path = folder.join("node.crt");
        write(&certificate_path, &identity.certificate_pem)?;
        write(&folder.join("node.key"), &identity.private_key_pem)?;
        let certificate = NodeCertificate::from_file(&certificate_path)
            .map_err(|error| Failure::new(Exit::System, error.to_string(), ""))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let cpu_before = ended_children_cpu()?;
        let described = Described::default();
        Ok(Self { folder, data, settings, described, certificate, address, running: None, cpu_before })
    }

    pub(in crate::verb) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(in crate::verb) fn certificate(&self) -> NodeCertificate {
        self.certificate.clone()
    }

    pub(in crate::verb) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the audit log is.
    pub(in crate::verb) fn audit(&self) -> PathBuf {
        self.data.join("audit")
    }

    pub(in crate::verb) fn config(&self) -> PathBuf {
        self.folder.join("creto.toml")
    }

    pub(in crate::verb) fn control_socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// The process, while there is one.
    pub(in crate::verb) fn pid(&self) -> Option<i32> {
        self.running.as_ref().and_then(|running| running.child.id()).and_then(|pid| i32::try_from(pid).ok())
    }

    /// What the node said of itself when it served last.
    pub(in crate::verb) fn described(&self) -> &Described {
        &self.described
    }

    fn log(&self) -> PathBuf {
        self.folder.join("node.log")
    }

    /// Starts the process and waits until it serves: on a free port the first time, on the same one from then on.
    ///
    /// To be called on the main thread: the system ends the node when the thread that started it ends.
    pub(in crate::verb) async fn start(&mut self) -> Result<Ready, Failure> {
        let began = Instant::now();
        self.spawn()?;
        let running = self.running.as_mut().expect("it was started just now");
        let line = timeout(START_WITHIN, running.output.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            let how = match line {
                Ok(_) => match timeout(START_WITHIN, running.child.wait()).await {
                    Ok(Ok(status)) => format!("it ended with {status}"),
                    _ => "it closed its output".to_owned(),
                },
                Err(_) => format!("it is not ready after {} s", START_WITHIN.as_secs()),
            };
            self.end().await;
            return Err(self.did_not_start(&how));
        };
        let mut ready: Ready = serde_json::from_str(&line).map_err(|error| {
            Failure::new(Exit::System, format!("the node said what is not understood: {error}"), "")
        })?;
        ready.took = began.elapsed();
        self.described = serde_json::from_str(&line).unwrap_or_default();
        self.address = ready.address;
        Ok(ready)
    }

    /// Starts the process and does not wait.
    pub(in crate::verb) fn spawn(&mut self) -> Result<(), Failure> {
        assert!(self.running.is_none(), "one node at a time owns a data folder");
        write(&self.config(), &self.config_text())?;
        let log = OpenOptions::new().append(true).create(true).open(self.log());
        let log = log.map_err(|error| Failure::file("write", &self.log(), &error))?;
        // The very same binary, also when the file was replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("creto").args(["serve", "--json", "--with-parent", "--config"]).arg(self.config());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CRETO_")) {
            command.env_remove(name);
        }
        // A group of its own: Ctrl-C in the terminal is this process's to handle.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let spawned = match &self.settings.cpus {
            None => command.spawn(),
            Some(cpus) => starting_on(cpus, || command.spawn()).and_then(|spawned| spawned),
        };
        let mut child = spawned.map_err(|error| {
            let what = format!("the node's process cannot be started: {}", plain(&error));
            Failure::new(Exit::System, what, "check the limit on processes (ulimit -u)")
        })?;
        let output = child.stdout.take().expect("it was asked to be a pipe");
        self.running = Some(Running { child, output: BufReader::new(output).lines() });
        Ok(())
    }

    /// Kills the process with SIGKILL. True if that is what ended it.
    pub(in crate::verb) async fn kill(&mut self) -> bool {
        let Some(mut running) = self.running.take() else { return false };
        // It may have ended by itself; the status tells.
        let _ = running.child.start_kill();
        running.child.wait().await.is_ok_and(|status| status.signal() == Some(Signal::KILL.as_raw()))
    }

    /// Asks the process to stop (SIGTERM) and waits. `None` if it did not end in order.
    pub(in crate::verb) async fn stop(&mut self) -> Option<Stopped> {
        let running = self.running.as_mut()?;
        let pid = running.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw)?;
        kill_process(pid, Signal::TERM).ok()?;
        let ended = timeout(STOP_WITHIN, async {
            let line = running.output.next_line().await.ok().flatten();
            (line, running.child.wait().await.ok())
        });
        let (line, status) = ended.await.ok()?;
        self.running = None;
        if !status.is_some_and(|status: ExitStatus| status.success()) {
            return None;
        }
        serde_json::from_str(&line?).ok()
    }

    /// User and system time of the nodes that were started here and have ended.
    pub(in crate::verb) fn ended_cpu(&self) -> Result<Duration, Failure> {
        Ok(ended_children_cpu()?.saturating_sub(self.cpu_before))
    }

    /// User and system time of the process so far.
    pub(in crate::verb) fn running_cpu(&self) -> Duration {
        let clock = self.pid().and_then(|pid| clock_getcpuclockid(nix::unistd::Pid::from_raw(pid)).ok());
        clock.and_then(|clock| clock.now().ok()).map_or(Duration::ZERO, Duration::from)
    }

    /// Ends the process if there is one, however it is.
    pub(in crate::verb) async fn end(&mut self) {
        self.kill().await;
    }

    fn config_text(&self) -> String {
        let Self { address, settings, .. } = self;
        // The data may be on a disk of its own; all else is here.
        let path = |path: PathBuf| format!("{:?}", path.to_string_lossy());
        let (data, socket) = (path(self.data.clone()), path(self.control_socket()));
        let (certificate, key) = (path(self.folder.join("node.crt")), path(self.folder.join("node.key")));
        let mut text = format!(
            "node.listen = \"{address}\"\nnode.data_dir = {data}\nnode.certificate = {certificate}\n\
             node.private_key = {key}\ncontrol.socket = {socket}\nlog.level = \"info\"\n"
        );
        for (name, value) in [
            ("topology.shards", settings.shard_count.map(u64::from)),
            ("wal.segment_bytes", settings.segment_bytes),
            ("mailbox.bytes_max", settings.mailbox_bytes_max),
            ("mailbox.shard_bytes_max", settings.shard_bytes_max),
        ] {
            if let Some(value) = value {
                text.push_str(&format!("{name} = {value}\n"));
            }
        }
        text
    }

    fn did_not_start(&self, how: &str) -> Failure {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        let what = format!("the node did not start: {how}\n{}", last.join("\n"));
        Failure::new(Exit::System, what, "`creto doctor` looks at the machine and prints the fix")
    }
}

/// User and system time of all children of this process that have ended. `cargo run` becomes this process and leaves
/// its compilers among them, so only what came since a node was prepared counts.
fn ended_children_cpu() -> Result<Duration, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|error| {
        let what = format!("the CPU time of the node is not to be had: {}", plain(&error.into()));
        Failure::new(Exit::System, what, "")
    })?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

/// A folder for what is removed afterwards, in `place` or else on a disk if there is one to be had, and whether it is on a disk.
pub(in crate::verb) fn scratch_folder(
    prefix: &str,
    place: Option<&Path>,
) -> Result<(tempfile::TempDir, bool), Failure> {
    let usual = place.map_or_else(std::env::temp_dir, Path::to_owned);
    let on_disk =
        |folder: &Path| rustix::fs::statfs(folder).is_ok_and(|found| !MEMORY_FILE_SYSTEMS.contains(&found.f_type));
    // Many systems keep /tmp in memory; /var/tmp is there to be on a disk.
    let others = if place.is_none() { &["/var/tmp"][..] } else { &[] };
    let folder = [usual.as_path()].into_iter().chain(others.iter().map(Path::new)).find(|folder| on_disk(folder));
    let chosen = folder.unwrap_or(&usual);
    let made = tempfile::Builder::new().prefix(prefix).tempdir_in(chosen);
    let made = made.map_err(|error| Failure::file("make a folder in", chosen, &error))?;
    Ok((made, folder.is_some()))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let file: std::io::Result<File> = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| Failure::file("write", path, &error))
}
