//! `creto backup`: a whole node in a folder or a tar archive. Of a running one, which is asked to hold its files still and
//! goes on serving; of a stopped one, which is kept from starting meanwhile.

mod hold;

use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use creto_node::backup::{BackupError, Manifest, Order, Stopped, Target, take};
use creto_node::config::{Config, parse_size};
use creto_node::data_dir::DataDirError;
use creto_service::client::{Client, ClientError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use self::hold::Hold;
use crate::args::{BackupArgs, Global};
use crate::client::{block_on, control_failure};
use crate::exit::{Exit, Failure};
use crate::moment::now_ms;
use crate::terminal::{CAUTION, DIM, GOOD, STRONG, print_json, stdout};

/// Slower than this, a piece takes so long that nobody could tell a backup from one that hangs.
const RATE_MIN: u64 = 1 << 20;

pub(crate) fn run(global: &Global, args: &BackupArgs) -> Result<Exit, Failure> {
    let config = global.load_config()?;
    let stop = stop_flag()?;
    let taken_ms = now_ms();
    let target = target(args, taken_ms / 1_000).map_err(|error| failure(&error))?;
    let bar = bar("copied");
    let began = Instant::now();
    let client = Client::new(config.control_socket());
    let (manifest, is_running) = match block_on(async { Ok(client.begin_backup().await) })? {
        Ok(begun) => (running(client, begun, taken_ms, args, target, &stop, &bar)?, true),
        // Nobody serves this node: nobody changes it, if it can be locked.
        Err(ClientError::SocketMissing(_) | ClientError::NotRunning(_)) => {
            (stopped(&config, taken_ms, args, target, &stop, &bar)?, false)
        }
        Err(error) => return Err(control_failure(&error)),
    };
    bar.finish_and_clear();
    report(args, &manifest, is_running, began.elapsed())?;
    Ok(Exit::Ok)
}

fn running(
    client: Client,
    begun: creto_service::api::BackupBegun,
    taken_ms: u64,
    args: &BackupArgs,
    target: Target,
    stop: &AtomicBool,
    bar: &ProgressBar,
) -> Result<Manifest, Failure> {
    if begun.version != env!("CARGO_PKG_VERSION") {
        let what = format!("the node is version {}, this is {}", begun.version, env!("CARGO_PKG_VERSION"));
        return Err(Failure::new(Exit::Usage, what, "take the backup with the version that runs the node"));
    }
    let hold = Hold::keep(client, begun.id, Duration::from_millis(begun.lease_ms))?;
    let hold = std::cell::RefCell::new(hold);
    let order = Order {
        source: begun.node,
        shards: begun.shards.into_iter().map(Into::into).collect(),
        taken_ms,
        with_secrets: args.with_secrets,
        bytes_per_s: args.rate,
        directory: &mut || hold.borrow().directory(|| check_stop(stop)),
        let_go: &mut || hold.borrow_mut().let_go(),
        on_progress: &mut |done, known| {
            show(bar, done, known);
            hold.borrow().check()?;
            check_stop(stop)
        },
    };
    take(order, target).map_err(|error| match (error, hold.borrow().failure()) {
        (BackupError::Lost(_), Some(failure)) => failure,
        (error, _) => failure(&error),
    })
}

fn stopped(
    config: &Config,
    taken_ms: u64,
    args: &BackupArgs,
    target: Target,
    stop: &AtomicBool,
    bar: &ProgressBar,
) -> Result<Manifest, Failure> {
    let stopped = Stopped::open(config).map_err(|error| failure(&error))?;
    let order = Order {
        source: stopped.source.clone(),
        shards: stopped.shards.clone(),
        taken_ms,
        with_secrets: args.with_secrets,
        bytes_per_s: args.rate,
        directory: &mut || Ok(stopped.directory()),
        let_go: &mut || Ok(()),
        on_progress: &mut |done, known| {
            show(bar, done, known);
            check_stop(stop)
        },
    };
    take(order, target).map_err(|error| failure(&error))
}

fn target(args: &BackupArgs, now_s: u64) -> Result<Target, BackupError> {
    match (&args.folder, &args.tar) {
        (_, Some(tar)) if tar == Path::new("-") => Ok(Target::tar_stream(std::io::stdout(), now_s)),
        (_, Some(tar)) => Target::tar_file(tar, now_s),
        (folder, None) => Target::folder(folder.as_deref().unwrap_or(Path::new("."))),
    }
}

/// Set by Ctrl-C and SIGTERM: what was written is removed then.
pub(super) fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

pub(super) fn check_stop(stop: &AtomicBool) -> Result<(), BackupError> {
    if stop.load(Ordering::Relaxed) { Err(BackupError::Interrupted) } else { Ok(()) }
}

/// On a terminal only, on standard error.
pub(crate) fn bar(what: &'static str) -> ProgressBar {
    let seen = stderr().is_terminal();
    let target = if seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template(
        "{msg:<8} {bar:30} {binary_bytes:>11} of {binary_total_bytes}  {binary_bytes_per_sec}",
    );
    bar.set_style(style.expect("the template is a constant").progress_chars("━━┄"));
    bar.set_message(what);
    bar
}

/// How far it has come, of what is known to be there.
pub(crate) fn show(bar: &ProgressBar, done: u64, known: u64) {
    bar.set_length(known);
    bar.set_position(done);
}

fn report(args: &BackupArgs, manifest: &Manifest, is_running: bool, took: Duration) -> Result<(), Failure> {
    let is_streamed = args.tar.as_deref() == Some(Path::new("-"));
    let destination = args.tar.as_ref().or(args.folder.as_ref());
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    if args.json {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let value = json!({
            "destination": destination,
            "running": is_running,
            "taken_ms": manifest.taken_ms,
            "files": manifest.files.len(),
            "bytes": bytes,
            "secrets": manifest.secrets,
            "audit_leaves": manifest.audit.as_ref().map(|audit| audit.size),
            "shards": manifest.shards.iter().map(point).collect::<Vec<_>>(),
            "took_ms": took_ms,
        });
        if is_streamed {
            writeln!(stderr(), "{value}")?;
        } else {
            print_json(&value)?;
        }
        return Ok(());
    }
    let place = destination.map_or_else(String::new, |path| path.display().to_string());
    let place = if is_streamed { "to standard output".to_owned() } else { place };
    let state = if is_running { "the node went on" } else { "the node is stopped" };
    let mut out: Box<dyn Write> = if is_streamed { Box::new(anstream::stderr().lock()) } else { Box::new(stdout()) };
    let (size, files) = (size(bytes), manifest.files.len());
    writeln!(
        out,
        "{GOOD}backed up{GOOD:#}  {STRONG}{place}{STRONG:#}  {DIM}{size} in {files} files, {:.1} s, {state}{DIM:#}",
        took.as_secs_f64()
    )?;
    if manifest.audit.is_none() {
        writeln!(out, "{CAUTION}The audit log is not in it:{CAUTION:#} nothing of it was signed.")?;
    }
    match manifest.secrets {
        true => writeln!(
            out,
            "{CAUTION}It holds the secret keys of the node and of its audit log:{CAUTION:#} keep it as safe as the node."
        )?,
        false => writeln!(
            out,
            "{DIM}Without the secret keys of the node and its audit log (--with-secrets): a restored node needs its old ones.{DIM:#}"
        )?,
    }
    Ok(())
}

pub(super) fn point(point: &creto_node::backup::ShardPoint) -> Value {
    json!({
        "shard": point.shard,
        "first_segment": point.first_segment,
        "last_segment": point.last_segment,
        "end_offset": point.end_offset,
        "end_lsn": point.end_lsn,
    })
}

pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// What a failed backup or restore means for the status.
pub(super) fn failure(error: &BackupError) -> Failure {
    let exit = match error {
        BackupError::Damaged(_) | BackupError::Incomplete(_) | BackupError::LogDamaged { .. } => Exit::Found,
        BackupError::NotEmpty(_) | BackupError::Format { .. } | BackupError::TooLargeForTar { .. } => Exit::Usage,
        BackupError::DataDir(DataDirError::Damaged { .. }) => Exit::Found,
        BackupError::DataDir(DataDirError::NotOne(_) | DataDirError::Format { .. }) => Exit::Usage,
        BackupError::Lost(_) => Exit::Unreachable,
        BackupError::Log(_) => {
            return Failure::new(Exit::System, error.to_string(), "run it as the user who owns the log");
        }
        _ => Exit::System,
    };
    Failure::of(exit, error)
}

/// A rate in bytes per second.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    let rate = parse_size(text).filter(|&rate| rate >= RATE_MIN);
    rate.ok_or_else(|| "expected bytes per second, at least 1 MiB, such as \"100 MiB\"".to_owned())
}

/// The archive that `-` or a file is.
pub(super) fn open_tar(path: &Path) -> Result<(Box<dyn std::io::Read>, PathBuf), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), PathBuf::from("the input")));
    }
    let file = std::fs::File::open(path).map_err(|error| Failure::file("open", path, &error))?;
    Ok((Box::new(file), path.to_owned()))
}
