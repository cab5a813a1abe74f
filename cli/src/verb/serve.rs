//! `creto serve`: runs a node until it is asked to stop. One line when it is ready, one when it has ended; what happens
//! in between is in the log, on standard error.

use std::io::{Write, stderr};
use std::time::{Duration, Instant};

use creto_node::config::{Config, LogFormat};
use creto_node::data_dir::DataDirError;
use creto_node::{Node, NodeError, Summary};
use creto_service::{PolicyReloader, ServiceError};
use crossbeam::channel::{self, Receiver};
use rustix::process::Signal;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

use crate::args::{Global, ServeArgs};
use crate::exit::{Exit, Failure, plain};
use crate::supervisor::{self, Supervised};
use crate::terminal::{CAUTION, DIM, GOOD, STRONG, grouped, stdout};

pub(crate) fn run(global: &Global, args: &ServeArgs) -> Result<Exit, Failure> {
    if args.with_parent {
        // Nobody else would end it: whoever asks for this made the node for the time of its own life.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)?;
    }
    let mut config = global.load_config()?;
    if let Some(control) = &args.control {
        config.link.control.clone_from(control);
    }
    if let Some(certificate) = &args.control_certificate {
        // Relative to where the command is run, and not to the configuration.
        config.link.control_certificate = std::path::absolute(certificate).unwrap_or_else(|_| certificate.clone());
    }
    start_log(&config);
    // Before the node: a signal that comes while it starts must end it in order, too.
    let (stop, reload) = catch_signals()?;
    supervisor::starting("reads its log");
    let mut node = Node::start(&config).map_err(|error| failure(&error))?;
    reload_when_asked(node.policy_reloader(), reload)?;
    let supervised = Supervised::begin(node.vitals(), format!("serves on {}", node.address()))?;
    // Nobody may be reading any more; that is no reason to stop serving.
    if node.waits_for_control() {
        let _ = waiting(&node, &config, args);
    }
    let ended = match node.wait_for_control(&stop) {
        Ok(true) => {
            let _ = ready(&node, args);
            node.wait(&stop)
        }
        stopped => stopped.map(drop),
    };
    supervised.ends();
    let begin = Instant::now();
    let stopping = node.stop();
    ended.map_err(|error| failure(&error))?;
    let summary = stopping.map_err(|error| failure(&error))?;
    let _ = stopped(&summary, begin.elapsed(), args);
    Ok(Exit::Ok)
}

/// Lines of our own crates from the configured level on; of others only what is worth a look.
pub(crate) fn start_log(config: &Config) {
    let filter = EnvFilter::new(format!("warn,creto={}", config.log.level));
    let colours = anstream::AutoStream::choice(&stderr()) != anstream::ColorChoice::Never;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colours);
    match config.log.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// A message for the first Ctrl-C or SIGTERM, the second one ends the process at once; and one for each SIGHUP.
pub(crate) fn catch_signals() -> Result<(Receiver<()>, Receiver<()>), Failure> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|error| no_signals(&error))?;
    let (stop, stopped) = channel::bounded(1);
    let (reload, reloads) = channel::bounded(1);
    let watch = move || {
        let mut stops = 0;
        for signal in signals.forever() {
            if signal == SIGHUP {
                // One that waits reads what there is then.
                let _ = reload.try_send(());
                continue;
            }
            stops += 1;
            if stops == 1 {
                let _ = stop.try_send(());
                let note = "answering what is under way; a second Ctrl-C ends it at once";
                let _ = writeln!(anstream::stderr().lock(), "{DIM}{note}{DIM:#}");
            } else {
                // What was acknowledged is durable, so nothing is lost by this.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(|error| no_signals(&error))?;
    Ok((stopped, reloads))
}

/// Hands each SIGHUP on, until the node is gone.
pub(crate) fn reload_when_asked(reloader: Option<PolicyReloader>, reloads: Receiver<()>) -> Result<(), Failure> {
    // Without a policy of its own a node has nothing to read again, and is not ended by it.
    let hand_on = move || reloads.iter().for_each(|()| reloader.iter().for_each(PolicyReloader::reload));
    let thread = std::thread::Builder::new().name("reloads".to_owned()).spawn(hand_on);
    thread.map(drop).map_err(|error| no_signals(&error))
}

fn no_signals(error: &std::io::Error) -> Failure {
    let what = format!("signals cannot be caught: {}", plain(error));
    Failure::new(Exit::System, what, "check the limits on open files and threads (ulimit -a)")
}

/// The logs are open, and control has not said anything yet.
fn waiting(node: &Node, config: &Config, args: &ServeArgs) -> std::io::Result<()> {
    let control = &config.link.control;
    if args.json {
        return print_line(&json!({
            "event": "waiting",
            "address": node.address(),
            "control_socket": node.control_socket(),
            "control": control,
            "pid": std::process::id(),
        }));
    }
    let note = "nothing is allowed before it has said who may do what";
    let mut out = stdout();
    writeln!(out, "{CAUTION}waiting{CAUTION:#}  for control at {STRONG}{control}{STRONG:#}  {DIM}{note}{DIM:#}")?;
    out.flush()
}

fn ready(node: &Node, args: &ServeArgs) -> std::io::Result<()> {
    let (plan, recovered) = (node.plan(), node.recovered());
    if args.json {
        let line = json!({
            "event": "ready",
            "address": node.address(),
            "control_socket": node.control_socket(),
            "control_address": node.control_address(),
            "pid": std::process::id(),
            "shards": plan.shards.iter().map(|shard| json!({ "shard": shard.shard_index, "cpu": shard.cpu })).collect::<Vec<_>>(),
            "log_written_by": node.writes().to_string(),
            "messages_waiting": recovered.messages,
            "recovery_us": u64::try_from(recovered.took.as_micros()).unwrap_or(u64::MAX),
        });
        return print_line(&line);
    }
    let shards = if plan.shard_count() == 1 { "1 shard".to_owned() } else { format!("{} shards", plan.shard_count()) };
    let cpus = match plan.shards.iter().all(|shard| shard.cpu.is_some()) {
        true => format!("on CPU {}", plan.cpus_text()),
        false => "not pinned".to_owned(),
    };
    let waiting = match recovered.messages {
        0 => "no message waits".to_owned(),
        count => format!("{} messages wait, read in {}", grouped(count), seconds(recovered.took)),
    };
    let mut out = stdout();
    writeln!(
        out,
        "{GOOD}ready{GOOD:#}    {STRONG}{}{STRONG:#}  {DIM}{shards} {cpus}, {waiting}{DIM:#}",
        node.address()
    )?;
    out.flush()
}

fn stopped(summary: &Summary, took: Duration, args: &ServeArgs) -> std::io::Result<()> {
    let durable: u64 = summary.shards.iter().map(|shard| shard.messages_durable).sum();
    let settled: u64 = summary.shards.iter().map(|shard| shard.messages_settled).sum();
    let dead: u64 = summary.shards.iter().map(|shard| shard.messages_dead).sum();
    if args.json {
        return print_line(&json!({
            "event": "stopped",
            "drained": summary.drained,
            "messages_durable": durable,
            "messages_settled": settled,
            "messages_dead": dead,
            "stalls": summary.stalls,
            "took_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        }));
    }
    let counts = format!("{} messages made durable, {} read", grouped(durable), grouped(settled));
    let mut out = stdout();
    if summary.drained {
        writeln!(out, "{GOOD}stopped{GOOD:#}  in {}  {DIM}{counts}{DIM:#}", seconds(took))
    } else {
        let note = "before everything under way was answered; senders send that again";
        writeln!(out, "{CAUTION}stopped{CAUTION:#}  {note}  {DIM}{counts}{DIM:#}")
    }
}

/// One object per line: whoever starts nodes reads lines.
pub(crate) fn print_line(value: &serde_json::Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

pub(crate) fn failure(error: &NodeError) -> Failure {
    let exit = match error {
        NodeError::TrustDomain(_) | NodeError::Plan(_) | NodeError::Pem { .. } | NodeError::Tls(_) => Exit::Usage,
        NodeError::Service(ServiceError::Policy(_)) => Exit::Usage,
        NodeError::DataDir(
            DataDirError::ShardCount { .. }
            | DataDirError::OfControl(_)
            | DataDirError::OfNode(_)
            | DataDirError::HasDirectory(_)
            | DataDirError::ControlElsewhere(_)
            | DataDirError::Format { .. },
        ) => Exit::Usage,
        NodeError::Admitted(_) => Exit::Usage,
        NodeError::Recovery { .. } | NodeError::DataDir(DataDirError::Damaged { .. }) => Exit::Found,
        NodeError::Executor(_) => {
            return Failure::new(
                Exit::System,
                error.to_string(),
                "`creto doctor` finds what is missing and prints the fix",
            );
        }
        _ => Exit::System,
    };
    Failure::of(exit, error)
}
