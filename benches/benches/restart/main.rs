//! What a backlog costs a whole node: a start with millions of messages waiting, its memory then, and how fast mailboxes
//! are read whose messages are on disk only.
//!
//! `cargo bench -p creto-benches --bench restart [-- --messages 10000000] [--json]`. A message takes 1.7 KB of disk: ten
//! million are 17 GB, which are written below the target folder and removed at the end, also after Ctrl-C.
//! `--keep FOLDER` writes them there instead and leaves them, and with what an earlier run left there only measures;
//! `--write` only writes.
//!
//! The log is written by the node's own code, but not through a node: so many messages signed and sent would take hours.
//! Everything else is real: the node in a process of its own with the default configuration on two shards, QUIC on loopback,
//! agents that log in, and every message that they get is held against what was written.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use creto_agent::{AgentKeys, NodeCertificate, TrustDomain};
use creto_benches::node::{now_ms, prepare, record};
use creto_node::config::Config;
use creto_node::data_dir::DataDir;
use creto_service::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::backlog::{Backlog, MESSAGES_MAX, MESSAGES_MIN, SHARDS, Spread, Written};
use crate::drain::{Target, drain, key_file, read_plainly};
use crate::process::{NodeProcess, SERVE, die_with_parent, serve};
use crate::report::{Log, Read, Report};

mod backlog;
mod drain;
mod page_cache;
mod process;
mod report;

/// How this bench is told in which folder to do its work.
const IN: &str = "--in";
/// Mailboxes of each kind that are read at the same time; one more is read alone.
const TOGETHER: usize = 16;
/// Messages that are read of all these, and of the one, if there are so many.
const READ_TOGETHER: u64 = 100_000;
const READ_ALONE: u64 = 20_000;
/// Plain reads of each shard's segments.
const PLAIN_BYTES_MAX: u64 = 1 << 30;
/// Bytes on disk for each message, with room to spare.
const DISK_BYTES_PER_MESSAGE: u64 = 2_000;
/// Two segments of each shard are made before they are needed.
const DISK_BYTES_MIN: u64 = 1 << 30;

const USAGE: &str = "cargo bench -p creto-benches --bench restart [-- --messages N] [--json] [--keep FOLDER [--write]]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, config] = &arguments[..]
        && flag == SERVE
    {
        serve(Path::new(config));
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match &options.folder {
        Some(folder) => {
            die_with_parent();
            // On any thread: the others would wait for that one.
            std::panic::set_hook(Box::new(|panic| {
                eprintln!("{panic}");
                std::process::exit(1);
            }));
            measure(folder, &options);
            ExitCode::SUCCESS
        }
        None => supervise(&arguments, &options),
    }
}

struct Options {
    messages: u64,
    json: bool,
    keep: Option<PathBuf>,
    write_only: bool,
    /// Where to work: said by the process that removes it afterwards.
    folder: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { messages: 1_000_000, json: false, keep: None, write_only: false, folder: None };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().ok_or(format!("{argument} wants a value"));
            match &argument[..] {
                "--messages" => {
                    let text = value()?.replace(['_', ','], "");
                    let messages =
                        text.parse().ok().filter(|messages| (MESSAGES_MIN..=MESSAGES_MAX).contains(messages));
                    let range = format!("{MESSAGES_MIN} to {MESSAGES_MAX}, which two shards hold by default");
                    options.messages = messages.ok_or(format!("--messages wants a number from {range}"))?;
                }
                "--json" => options.json = true,
                "--keep" => options.keep = Some(PathBuf::from(value()?)),
                "--write" => options.write_only = true,
                IN => options.folder = Some(PathBuf::from(value()?)),
                // `cargo test --benches` runs every bench with `--test`, to see that it works.
                "--test" => options.messages = MESSAGES_MIN,
                // Said by cargo.
                "--bench" => {}
                _ => return Err(format!("{argument} is not known")),
            }
        }
        if options.write_only && options.keep.is_none() {
            return Err("--write wants --keep: what is not kept is written for nothing".to_owned());
        }
        Ok(options)
    }
}

/// Does the work in a process of its own, and removes its folder when that has ended, however it did.
fn supervise(arguments: &[String], options: &Options) -> ExitCode {
    let mut signals = Signals::new([SIGINT, SIGTERM]).unwrap();
    let made = match &options.keep {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("restart-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()),
    };
    let folder = made.as_ref().map(|made| made.path().to_owned()).or(options.keep.clone()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut worker = command.args(arguments).arg(IN).arg(&folder).spawn().unwrap();
    let pid = Pid::from_child(&worker);
    thread::spawn(move || {
        for _ in signals.forever() {
            // Ctrl-C has reached it already, and ended it.
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let status = worker.wait().unwrap();
    if let Some(made) = made {
        made.close().unwrap();
    }
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure(folder: &Path, options: &Options) {
    fs::create_dir_all(folder).unwrap();
    let kept = folder.join("backlog.json");
    let backlog = match Written::load(&kept) {
        Some(backlog) => backlog,
        None => {
            let Some(backlog) = write(folder, options.messages) else { std::process::exit(1) };
            backlog.written().save(&kept);
            backlog
        }
    };
    if options.write_only {
        return;
    }
    let report = measure_written(folder, Arc::new(backlog));
    match options.json {
        true => println!("{}", serde_json::to_string(&report).unwrap()),
        false => println!("{report}"),
    }
}

/// Makes a node that knows the agents whose mailboxes will be read, stops it, and writes its logs.
fn write(folder: &Path, messages: u64) -> Option<Backlog> {
    let wanted = messages * DISK_BYTES_PER_MESSAGE + DISK_BYTES_MIN;
    let free = rustix::fs::statvfs(folder).map(|found| found.f_bavail * found.f_frsize).unwrap();
    if free < wanted {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let folder = folder.display();
        eprintln!("{folder} has {:.1} GB left and {:.1} are wanted: write fewer --messages", gb(free), gb(wanted));
        return None;
    }
    let config_path = prepare(folder, &format!("topology.shards = {SHARDS}\n"));
    let config = Config::load(&config_path, []).unwrap();
    let mut backlog = Backlog::new(messages);
    let node = NodeProcess::start(&config_path);
    register(&config, &backlog, folder);
    node.stop();

    let (began, written) = (Instant::now(), AtomicU64::new(0));
    let data = DataDir::open(&config.data_dir(), &config.wal_dir(), SHARDS).unwrap();
    thread::scope(|scope| {
        let (finish, finished) = mpsc::channel::<()>();
        scope.spawn(|| {
            // Gone with the last message.
            let _finish = finish;
            backlog.write(&data, &written);
        });
        let on_terminal = std::io::stderr().is_terminal();
        let pause = Duration::from_secs(if on_terminal { 1 } else { 10 });
        while let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(pause) {
            let (done, seconds) = (written.load(Relaxed), began.elapsed().as_secs());
            let (begin, end) = if on_terminal { ("\r", "") } else { ("", "\n") };
            eprint!("{begin}writing: {done} of {messages} messages in {seconds} s{end}");
            std::io::stderr().flush().unwrap();
        }
    });
    assert_eq!(written.into_inner(), messages, "every message is written");
    eprintln!();
    backlog.took(began.elapsed());
    Some(backlog)
}

fn register(config: &Config, backlog: &Backlog, folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let control = Client::new(config.control_socket());
    for spread in [Spread::Runs, Spread::Scattered] {
        for (number, mailbox) in backlog.mailboxes(spread).iter().take(TOGETHER + 1).enumerate() {
            let keys = AgentKeys::generate(mailbox.name.clone(), TrustDomain::default()).unwrap();
            assert_eq!(keys.id(), mailbox.id, "an id follows from a name");
            runtime.block_on(control.register(&record(&keys))).unwrap();
            keys.save(key_file(folder, spread, number)).unwrap();
        }
    }
}

fn measure_written(folder: &Path, backlog: Arc<Backlog>) -> Report {
    // Before this run adds its own.
    let load = load_average();
    let config_path = folder.join("creto.toml");
    let config = Config::load(&config_path, []).unwrap();
    let folders: Vec<_> = {
        let data = DataDir::open(&config.data_dir(), &config.wal_dir(), SHARDS).unwrap();
        (0..SHARDS).map(|shard| data.shard_dir(shard)).collect()
    };
    let log = Log::measure(&folders);
    let age_s = (now_ms() - backlog.written().to_ms) / 1_000;

    let dropped = page_cache::drop(&folders);
    let node = NodeProcess::start(&config_path);
    let cold = node.started.clone();
    node.stop();
    let node = NodeProcess::start(&config_path);
    let warm = node.started.clone();
    assert_eq!(warm.messages, cold.messages, "a start changes nothing that waits");

    page_cache::drop(&folders);
    let (bytes, seconds) = read_plainly(&folders, PLAIN_BYTES_MAX);
    let plain_gb_per_s = bytes as f64 / 1e9 / seconds;
    let certificate = NodeCertificate::from_file(config.data_dir().join("node.crt")).unwrap();
    let target = Target {
        backlog: Arc::clone(&backlog),
        address: node.address,
        certificate,
        process: node.process(),
        keys: folder.to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut reads = Vec::new();
    for spread in [Spread::Runs, Spread::Scattered] {
        for (mailboxes, messages) in [(TOGETHER..TOGETHER + 1, READ_ALONE), (0..TOGETHER, READ_TOGETHER)] {
            let each = messages / mailboxes.len() as u64;
            let drained = runtime.block_on(drain(&target, spread, mailboxes, each));
            reads.push(Read { is_in_runs: spread == Spread::Runs, drained });
        }
    }
    let resident_then_bytes = node.process().resident_bytes();
    node.stop();

    // What was acknowledged is gone for good, and nothing else is.
    let node = NodeProcess::start(&config_path);
    let read: u64 = reads.iter().map(|Read { drained, .. }| drained.messages).sum();
    assert_eq!(node.started.messages, cold.messages - read, "what was read and acknowledged is gone, the rest waits");
    node.stop();

    let written = *backlog.written();
    let mailboxes = [Spread::Runs, Spread::Scattered].map(|spread| backlog.mailboxes(spread).len()).iter().sum();
    Report { written, mailboxes, age_s, log, load, dropped, cold, warm, plain_gb_per_s, reads, resident_then_bytes }
}

/// Processes of others that want a CPU, over the last minute.
fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}
