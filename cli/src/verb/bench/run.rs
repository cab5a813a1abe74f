//! `creto bench run`: a node of its own, or one that runs, under load.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use creto_agent::{AgentName, BatchOptions};
use creto_loadgen::{
    Finished, Limit, Progress, RegisterError, Registration, Report, RunError, RunOptions, Search, Step,
};
use creto_service::mailboxes::{BYTES_MAX, MESSAGES_MAX, MailboxChange};
use creto_store::limits::SHARD_BYTES_MAX;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::timeout;

use super::driven::{Driven, nats_failure};
use super::processes::Divided;
use super::shards::Watched;
use super::{cpus, runtime, show, worker};
use crate::args::Global;
use crate::args::bench::BenchRunArgs;
use crate::client::{channel_failure, connect_failure, control_failure, keys_failure, receive_failure};
use crate::exit::{Exit, Failure};
use crate::terminal::{grouped, print_json};
use crate::verb::demo::node::NodeSettings;
use crate::verb::demo::{Keep, on_a_node_so};

/// A step of the search with fewer says nothing.
const STEP_MESSAGES_MIN: f64 = 10.0;
/// More than an envelope and a queue have beside the payload.
const MESSAGE_EXTRA_BYTES: u64 = 4_096;
/// Longer than a process takes to end whose sockets are closed.
const DIED_WITHIN: Duration = Duration::from_secs(1);

pub(super) fn run(global: &Global, args: &BenchRunArgs) -> Result<Exit, Failure> {
    if let Some(worker) = &args.worker {
        return worker::run(global, args, worker);
    }
    // Before anything has started a thread: all of them are pinned with it, and the node is not.
    let allowed = match &args.pin {
        Some(pin) => pin.pin()?,
        None => cpus::allowed()?,
    };
    let node_cpus = args.node_cpus.as_ref().map_or(Ok(allowed), |list| cpus::set_of(list, &allowed))?;
    let seed = match args.seed {
        Some(seed) => seed,
        None => creto_loadgen::arrival::new_seed().map_err(|error| Failure::of(Exit::System, &error))?,
    };
    for path in [&args.html, &args.csv, &args.hdr].into_iter().flatten() {
        writable(path)?;
    }
    match (&args.connect, &args.target) {
        (None, None) => {
            let settings = NodeSettings {
                shard_count: args.shards,
                shard_bytes_max: shard_bytes_max(args),
                cpus: Some(node_cpus),
                ..NodeSettings::default()
            };
            let place = args.dir.as_deref();
            on_a_node_so("creto-bench-", place, None, settings, Keep::Never, async |host, _| {
                host.start().await?;
                let cpus = args.node_cpus.as_ref().map(ToString::to_string);
                drive(&Driven::own(host, cpus)?, args, seed).await
            })
        }
        (Some(address), _) => runtime()?.block_on(async {
            let (config, _) = global.load_config_or_default()?;
            let certificate = args.certificate.as_deref();
            drive(&Driven::running(address, certificate, args.node_pid, &config).await?, args, seed).await
        }),
        (_, Some(url)) => runtime()?.block_on(async { drive(&Driven::nats(url, args).await?, args, seed).await }),
    }
}

/// Whoever waited for a run wants its results: a file that cannot be written is said before.
fn writable(path: &Path) -> Result<(), Failure> {
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    opened.map(drop).map_err(|error| Failure::file("write", path, &error))
}

/// More messages than will be due: more than the mean of independent arrivals, and all of it may be for one.
fn planned(rate_per_s: u64, warmup: Duration, duration: Duration) -> u32 {
    let seconds = u128::from(warmup.saturating_add(duration).as_secs()) + 1;
    let planned = u128::from(rate_per_s).saturating_mul(seconds);
    u32::try_from(planned.saturating_add(planned / 4).saturating_add(1_000)).unwrap_or(u32::MAX)
}

/// What may be queued on one shard of a node of the run's own; none where nobody is away, and the node's default does. All of a run may
/// be for mailboxes of one shard. A closed loop sends as many as the default has room for, and is told when that is full.
fn shard_bytes_max(args: &BenchRunArgs) -> Option<u64> {
    let is_planned = args.offline_then_drain && args.closed_loop.is_none();
    let messages = planned(args.rate, args.warmup, args.duration);
    is_planned.then(|| shard_bytes_for(messages, args.repeat, args.size.bytes_max())).flatten()
}

/// Room on a shard for so many messages of each repetition, where the default has too little: repetitions have mailboxes of their own,
/// and what is settled in one may still be counted in the next.
fn shard_bytes_for(messages: u32, repeat: u32, payload_bytes: usize) -> Option<u64> {
    let messages = u64::from(messages).saturating_mul(u64::from(repeat));
    let needed = messages.saturating_mul((payload_bytes as u64).saturating_add(MESSAGE_EXTRA_BYTES));
    // More than a configuration can say is more than a disk has.
    Some(needed.min(i64::MAX as u64)).filter(|bytes| *bytes > SHARD_BYTES_MAX)
}

/// Room in a mailbox for everything that a run sends, so that receivers can be away until then; none where they are not.
fn room_for(options: &RunOptions) -> Option<MailboxChange> {
    if !options.offline_then_drain {
        return None;
    }
    let messages = match options.closed_loop {
        None => planned(options.rate_per_s, options.warmup, options.duration).clamp(100_000, *MESSAGES_MAX.end()),
        Some(_) => *MESSAGES_MAX.end(),
    };
    let message_bytes = (options.sizes.bytes_max() as u64).saturating_add(MESSAGE_EXTRA_BYTES);
    let bytes = u64::from(messages).saturating_mul(message_bytes).clamp(64 << 20, *BYTES_MAX.end());
    Some(MailboxChange { messages_max: Some(Some(messages)), bytes_max: Some(Some(bytes)), ..MailboxChange::default() })
}

pub(super) fn options(target: &Driven, args: &BenchRunArgs, seed: u64) -> RunOptions {
    RunOptions {
        rate_per_s: args.rate,
        arrival: args.arrival,
        closed_loop: args.closed_loop,
        seed,
        warmup: args.warmup,
        duration: args.duration,
        sizes: args.size.clone(),
        priorities: args.priority.clone(),
        batch: BatchOptions { messages: args.batch, age: args.batch_age, ..BatchOptions::default() },
        connections: args.connections,
        agents: args.agents,
        skew: args.skew,
        slow_consumers: args.slow_consumers,
        slow_by: args.slow_by,
        offline_then_drain: args.offline_then_drain,
        churn: args.churn,
        ledger: args.ledger.clone(),
        keep_histograms: args.hdr.is_some(),
        node_pid: target.setup.pid,
        processes: args.processes,
        pinned_to: args.pin.as_ref().map(ToString::to_string),
        ..RunOptions::against(target.target.clone(), args.scenario)
    }
}

async fn drive(target: &Driven, args: &BenchRunArgs, seed: u64) -> Result<Exit, Failure> {
    let options = options(target, args, seed);
    let bar = Bar::new(args.json);
    if args.find_max {
        return find_max(target, args, &options, &bar).await;
    }
    let finished = once(target, &options, args, seed, &bar).await?;
    bar.close();
    let report = &finished.report;
    write_results(args, &finished)?;
    if args.json {
        print_json(&serde_json::to_value(report).expect("a report is plain data"))?;
    } else {
        show::report(report, args)?;
    }
    Ok(if report.valid && report.holds() { Exit::Ok } else { Exit::Found })
}

/// Registers agents and channels at the node that is driven.
pub(super) struct Registrar<'a> {
    driven: &'a Driven,
    /// The control socket is the operator's: what it refuses is shown as it says it.
    refused: RefCell<Option<Failure>>,
    /// A node that somebody else runs keeps the limits that it has.
    room: Option<MailboxChange>,
}

impl<'a> Registrar<'a> {
    pub(super) fn new(driven: &'a Driven, options: &RunOptions) -> Self {
        let room = room_for(options).filter(|_| driven.setup.is_own);
        Self { driven, refused: RefCell::new(None), room }
    }

    pub(super) async fn register(&self, registration: Registration) -> Result<(), RegisterError> {
        let control = self.driven.control.as_ref().ok_or("this system registers nobody")?;
        let done = match &registration {
            Registration::Agent(record) => match (control.register(record).await, &self.room) {
                (Ok(registered), Some(room)) => {
                    let name = AgentName::parse(&registered.agent.name)?;
                    control.set_mailbox(&name, room).await.map(drop)
                }
                (registered, _) => registered.map(drop),
            },
            Registration::Channel(record) => control.put_channel(record).await.map(drop),
            _ => return Err("this command does not know what is to be registered".into()),
        };
        done.map_err(|error| {
            let text = error.to_string();
            *self.refused.borrow_mut() = Some(control_failure(&error));
            text.into()
        })
    }

    /// What was refused, if that is why a run was not made.
    pub(super) fn refused(&self) -> Option<Failure> {
        self.refused.take()
    }
}

/// Makes the runs, and what agents and channels need at the node.
async fn once(
    target: &Driven,
    options: &RunOptions,
    args: &BenchRunArgs,
    seed: u64,
    bar: &Bar,
) -> Result<Finished, Failure> {
    let registrar = Registrar::new(target, options);
    let watched = Watched::begin(target);
    let progress = |progress: &Progress| {
        watched.take(progress);
        bar.show(progress);
    };
    let running = async {
        if options.processes > 1 {
            let divided = Divided { driven: target, options, repeat: args.repeat, seed };
            return divided.run(progress).await;
        }
        let register = async |registration| registrar.register(registration).await;
        let setup = target.setup.clone();
        let ran = creto_loadgen::run(options, args.repeat, setup, register, progress).await;
        ran.map_err(|error| {
            let is_ours = matches!(error, RunError::Option(_));
            Ended { failure: registrar.refused().unwrap_or_else(|| failure(&error)), is_ours }
        })
    };
    let Ended { failure, is_ours } = tokio::select! {
        finished = running => match finished {
            Ok(mut finished) => {
                finished.report.shards = watched.end().await;
                return Ok(finished);
            }
            Err(ended) => ended,
        },
        // Agents would look for a node that is gone for as long as the run waits for anything.
        failure = target.died() => return Err(failure),
    };
    // The sockets of a process are closed some moments before its end is known: that is why they refuse, then.
    if target.process.is_some()
        && !is_ours
        && let Ok(died) = timeout(DIED_WITHIN, target.died()).await
    {
        return Err(died);
    }
    Err(failure)
}

/// Why a run was not made.
pub(super) struct Ended {
    pub(super) failure: Failure,
    /// Whether it is whoever asked for the run that is to do something.
    pub(super) is_ours: bool,
}

fn write_results(args: &BenchRunArgs, finished: &Finished) -> Result<(), Failure> {
    let report = &finished.report;
    let write = |path: &Option<std::path::PathBuf>, text: &dyn Fn() -> String| match path {
        None => Ok(()),
        Some(path) => std::fs::write(path, text()).map_err(|error| Failure::file("write", path, &error)),
    };
    write(&args.html, &|| creto_loadgen::html(report))?;
    write(&args.csv, &|| creto_loadgen::csv(report))?;
    write(&args.hdr, &|| finished.hdr_log())
}

/// Searches the highest rate that holds.
async fn find_max(target: &Driven, args: &BenchRunArgs, options: &RunOptions, bar: &Bar) -> Result<Exit, Failure> {
    let p99_us = u64::try_from(args.p99.as_micros()).unwrap_or(u64::MAX);
    let limit = Limit { p99_us };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and `as` saturates")]
    let rate_min = (STEP_MESSAGES_MIN / args.duration.as_secs_f64()).ceil() as u64;
    let mut search = Search::from(args.rate, rate_min..=args.rate_max, args.precision / 100.0);
    let mut steps: Vec<Step> = Vec::new();
    let mut best: Option<Finished> = None;
    let mut failed = None;
    while let Some(rate) = search.next() {
        let options = RunOptions { rate_per_s: rate, ..options.clone() };
        let finished = match once(target, &options, args, options.seed, bar).await {
            Ok(finished) => finished,
            // What was found before is shown all the same.
            Err(failure) if !steps.is_empty() => {
                failed = Some(failure);
                break;
            }
            Err(failure) => return Err(failure),
        };
        let step = Step::of(rate, limit, &finished.report);
        search.tried(step.holds);
        bar.suspend(|| show::step(&step));
        if step.holds {
            best = Some(finished);
        }
        steps.push(step);
    }
    bar.close();
    if let Some(best) = &best {
        write_results(args, best)?;
    }
    let report: Option<&Report> = best.as_ref().map(|best| &best.report);
    if args.json {
        print_json(&serde_json::json!({
            "max_rate": search.found(),
            "p99_limit_us": p99_us,
            "precision_percent": args.precision,
            "is_complete": failed.is_none(),
            "steps": steps,
            "best": report,
        }))?;
    } else {
        show::found(search.found(), p99_us, report, args)?;
    }
    match failed {
        Some(failure) => Err(failure),
        None => Ok(if best.is_some() { Exit::Ok } else { Exit::Found }),
    }
}

pub(super) fn failure(error: &RunError) -> Failure {
    match error {
        RunError::Option(_) => Failure::of(Exit::Usage, error),
        RunError::Nats(error) => nats_failure(error),
        RunError::Keys(error) => keys_failure(error),
        RunError::Connect { source, .. } => connect_failure(source),
        RunError::Subscribe { source, .. } => receive_failure(source),
        RunError::Channel { source, .. } => channel_failure(source),
        RunError::Register { .. } => Failure::of(Exit::Refused, error),
        _ => Failure::of(Exit::System, error),
    }
}

/// Where the run stands, on a terminal only.
struct Bar(ProgressBar);

impl Bar {
    fn new(json: bool) -> Self {
        if json || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{prefix:>8}  {bar:24} {msg}").expect("a constant template");
        Self(ProgressBar::new(1).with_style(style.progress_chars("━━┄")))
    }

    fn show(&self, progress: &Progress) {
        let seconds = progress.elapsed.as_secs_f64();
        self.0.set_length(u64::try_from(progress.duration.as_millis()).unwrap_or(u64::MAX));
        self.0.set_position(u64::try_from(progress.elapsed.as_millis()).unwrap_or(u64::MAX));
        self.0.set_prefix(match (progress.is_warming_up, progress.elapsed >= progress.duration) {
            (true, _) => "warm-up".to_owned(),
            (_, true) => "drain".to_owned(),
            _ => format!("run {}", progress.run),
        });
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "for people"
        )]
        let rate = (progress.acknowledged as f64 / seconds.max(0.001)) as u64;
        let us = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), show::micros);
        let waiting = progress.due.saturating_sub(progress.acknowledged);
        self.0.set_message(format!(
            "{}/s  {} delivered  {} waiting  p50 {}  p99 {}",
            grouped(rate),
            grouped(progress.delivered),
            grouped(waiting),
            us(progress.p50_us),
            us(progress.p99_us)
        ));
    }

    fn suspend(&self, work: impl FnOnce()) {
        self.0.suspend(work);
    }

    fn close(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use creto_loadgen::Scenario;

    use super::*;

    #[test]
    fn a_mailbox_has_room_for_everything_that_is_sent_while_its_reader_is_away() {
        let identity = crate::identity::Identity::self_signed(&[]).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.crt");
        std::fs::write(&path, &identity.certificate_pem).expect("a file");
        let certificate = creto_agent::NodeCertificate::from_file(&path).expect("a certificate");
        let usual = RunOptions::new(([127, 0, 0, 1], 1).into(), certificate, Scenario::Direct);
        assert_eq!(room_for(&usual), None, "whoever reads leaves nothing in it");
        let away = RunOptions { offline_then_drain: true, ..usual };
        let room = |options: &RunOptions| {
            let change = room_for(options).expect("they are away");
            (change.messages_max.flatten().expect("a limit"), change.bytes_max.flatten().expect("a limit"))
        };
        let long = RunOptions { rate_per_s: 20_000, duration: Duration::from_secs(60), ..away.clone() };
        let (messages, bytes) = room(&long);
        assert!(messages >= 61 * 20_000 && bytes >= u64::from(messages) * 1_024, "{messages} of {bytes} bytes");
        let endless = RunOptions { rate_per_s: u64::MAX, duration: Duration::MAX, ..away.clone() };
        assert_eq!(room(&endless).0, *MESSAGES_MAX.end());
        assert_eq!(room(&RunOptions { closed_loop: Some(9), ..away.clone() }).0, *MESSAGES_MAX.end());
        assert!(room(&RunOptions { rate_per_s: 1, ..away }) >= (100_000, 64 << 20), "never less than without");
    }

    #[test]
    fn a_shard_has_room_for_what_every_repetition_sends_while_readers_are_away() {
        let messages = planned(20_000, Duration::ZERO, Duration::from_secs(60));
        assert!(messages >= 1_200_000, "{messages}");
        assert_eq!(shard_bytes_for(messages, 1, 1_024), None, "the default has room for that");
        let needed = shard_bytes_for(messages, 3, 16_384).expect("more than the default");
        assert!(needed >= 3 * 1_200_000 * 16_384, "{needed}");
        assert!(shard_bytes_for(u32::MAX, u32::MAX, 1 << 20).expect("more") <= i64::MAX as u64);
    }
}
