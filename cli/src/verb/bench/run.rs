//! `creto bench run`: a node of its own, or one that runs, under load.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use creto_agent::{AgentName, NodeCertificate, TreeDigest, TrustDomain};
use creto_loadgen::{
    Finished, Limit, NodeSetup, Progress, RegisterError, Registration, Report, RunError, RunOptions, Search, Step,
};
use creto_node::config::{Config, WalSync};
use creto_service::client::Client;
use creto_service::mailboxes::{BYTES_MAX, MESSAGES_MAX, MailboxChange};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{runtime, show};
use crate::args::Global;
use crate::args::bench::BenchRunArgs;
use crate::client::{
    channel_failure, connect_failure, control_failure, keys_failure, node_certificate, receive_failure, resolve,
};
use crate::exit::{Exit, Failure, plain};
use crate::terminal::{grouped, print_json};
use crate::verb::demo::node::{NodeHost, NodeSettings};
use crate::verb::demo::{Keep, on_a_node_so};

/// A step of the search with fewer says nothing.
const STEP_MESSAGES_MIN: f64 = 10.0;
/// More than an envelope and a queue have beside the payload.
const MESSAGE_EXTRA_BYTES: u64 = 4_096;
/// What is shown of the words of a node that ended.
const LOG_LINES_SHOWN: usize = 12;
/// Longer than a process takes to end whose sockets are closed.
const DIED_WITHIN: Duration = Duration::from_secs(1);

pub(super) fn run(global: &Global, args: &BenchRunArgs) -> Result<Exit, Failure> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => creto_loadgen::arrival::new_seed().map_err(|error| Failure::of(Exit::System, &error))?,
    };
    for path in [&args.html, &args.csv, &args.hdr].into_iter().flatten() {
        writable(path)?;
    }
    match &args.connect {
        None => {
            let settings = NodeSettings { shard_count: args.shards, ..NodeSettings::default() };
            let place = args.dir.as_deref();
            on_a_node_so("creto-bench-", place, None, settings, Keep::Never, async |host, _| {
                host.start().await?;
                drive(&Target::own(host)?, args, seed).await
            })
        }
        Some(address) => runtime()?.block_on(async {
            let (config, _) = global.load_config_or_default()?;
            drive(&Target::running(address, args, &config).await?, args, seed).await
        }),
    }
}

/// Whoever waited for a run wants its results: a file that cannot be written is said before.
fn writable(path: &Path) -> Result<(), Failure> {
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    opened.map(drop).map_err(|error| Failure::file("write", path, &error))
}

/// The node that is driven.
struct Target {
    node: SocketAddr,
    certificate: NodeCertificate,
    control: Client,
    trust_domain: TrustDomain,
    tree_digest: TreeDigest,
    setup: NodeSetup,
    /// The process, where it is a node of its own.
    process: Option<Process>,
}

impl Target {
    fn own(host: &NodeHost) -> Result<Self, Failure> {
        let described = host.described();
        Ok(Self {
            process: Some(Process::of(host)?),
            node: host.address(),
            certificate: host.certificate(),
            control: Client::new(host.control_socket()),
            trust_domain: TrustDomain::default(),
            tree_digest: TreeDigest::default(),
            setup: NodeSetup {
                address: host.address().to_string(),
                is_own: true,
                pid: host.pid(),
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                shards: described.shard_count(),
                durability: Some(described.log_written_by.clone()).filter(|text| !text.is_empty()),
            },
        })
    }

    /// One that runs, and that this configuration is of.
    async fn running(address: &str, args: &BenchRunArgs, config: &Config) -> Result<Self, Failure> {
        let node = resolve(Some(address), config)?;
        let trust_domain = TrustDomain::parse(&config.node.trust_domain);
        let control = Client::new(config.control_socket());
        let status = control.status().await.map_err(|error| control_failure(&error))?;
        let shards = control.readiness().await.ok().and_then(|ready| u16::try_from(ready.shards.len()).ok());
        Ok(Self {
            node,
            certificate: node_certificate(args.certificate.as_deref(), config)?,
            control,
            trust_domain: trust_domain.map_err(|error| Failure::of(Exit::Usage, &error))?,
            tree_digest: config.crypto.tree_digest,
            setup: NodeSetup {
                address: node.to_string(),
                is_own: false,
                pid: args.node_pid,
                version: Some(status.version),
                shards: shards.filter(|count| *count > 0),
                durability: durability(config),
            },
            process: None,
        })
    }

    /// Ends when a node of its own does, with why.
    async fn died(&self) -> Failure {
        match &self.process {
            Some(process) => process.died().await,
            None => std::future::pending().await,
        }
    }
}

/// The process of a node of its own, to notice its end. Whoever started it collects it.
struct Process {
    /// How it ended, once it has.
    ended: watch::Receiver<Option<String>>,
    log: PathBuf,
}

impl Process {
    fn of(host: &NodeHost) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| {
            Failure::new(Exit::System, format!("the node's process cannot be watched: {}", plain(&error)), "")
        };
        let pid = host.pid().and_then(Pid::from_raw).ok_or_else(|| cannot(std::io::ErrorKind::NotFound.into()))?;
        let (end, ended) = watch::channel(None);
        // Ends with the node, at the latest when the run is over.
        let thread = std::thread::Builder::new().name("creto-node-end".to_owned()).spawn(move || {
            let status = loop {
                match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                    Err(Errno::INTR) => {}
                    status => break status.ok().flatten(),
                }
            };
            let how = match status.map(|status| (status.terminating_signal(), status.exit_status())) {
                Some((Some(signal), _)) => format!(" by signal {signal}"),
                Some((None, Some(status))) => format!(" with status {status}"),
                _ => String::new(),
            };
            end.send_replace(Some(how));
        });
        thread.map_err(cannot)?;
        Ok(Self { ended, log: host.folder().join("node.log") })
    }

    async fn died(&self) -> Failure {
        let mut ended = self.ended.clone();
        let how = match ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            // Nothing tells any more; agents notice by themselves that nobody answers.
            Err(_) => return std::future::pending().await,
        };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        let what = format!("the node ended{how} while it was under load; what it wrote last:\n{}", last.join("\n"));
        Failure::new(Exit::Unreachable, what, "`creto doctor` looks at the machine and prints the fix")
    }
}

/// Room in a mailbox for everything that a run sends, so that receivers can be away until then; none where they are not.
fn room_for(options: &RunOptions) -> Option<MailboxChange> {
    if !options.offline_then_drain {
        return None;
    }
    let seconds = u128::from((options.warmup.saturating_add(options.duration)).as_secs()) + 1;
    // More than the mean of independent arrivals; all of it may be for one. A closed loop sends as many as it can.
    let planned = u128::from(options.rate_per_s).saturating_mul(seconds);
    let planned = planned.saturating_add(planned / 4).saturating_add(1_000);
    let messages = match options.closed_loop {
        None => u32::try_from(planned).unwrap_or(u32::MAX).clamp(100_000, *MESSAGES_MAX.end()),
        Some(_) => *MESSAGES_MAX.end(),
    };
    let message_bytes = (options.sizes.bytes_max() as u64).saturating_add(MESSAGE_EXTRA_BYTES);
    let bytes = u64::from(messages).saturating_mul(message_bytes).clamp(64 << 20, *BYTES_MAX.end());
    Some(MailboxChange { messages_max: Some(Some(messages)), bytes_max: Some(Some(bytes)), ..MailboxChange::default() })
}

/// How the node of this configuration makes writes durable: as it is told, or as it measured and remembers.
fn durability(config: &Config) -> Option<String> {
    match config.wal.sync {
        WalSync::Fdatasync => Some("write + fdatasync, as configured".to_owned()),
        WalSync::Dsync => Some("O_DSYNC, as configured".to_owned()),
        WalSync::Auto => {
            let measured = creto_node::device::remembered(&config.data_dir(), &config.wal_dir())?;
            Some(measured.report.choice.to_string())
        }
    }
}

fn options(target: &Target, args: &BenchRunArgs, seed: u64) -> RunOptions {
    RunOptions {
        rate_per_s: args.rate,
        arrival: args.arrival,
        closed_loop: args.closed_loop,
        seed,
        warmup: args.warmup,
        duration: args.duration,
        sizes: args.size.clone(),
        priorities: args.priority.clone(),
        connections: args.connections,
        agents: args.agents,
        skew: args.skew,
        slow_consumers: args.slow_consumers,
        slow_by: args.slow_by,
        offline_then_drain: args.offline_then_drain,
        churn: args.churn,
        ledger: args.ledger.clone(),
        keep_histograms: args.hdr.is_some(),
        trust_domain: target.trust_domain.clone(),
        tree_digest: target.tree_digest,
        node_pid: target.setup.pid,
        ..RunOptions::new(target.node, target.certificate.clone(), args.scenario)
    }
}

async fn drive(target: &Target, args: &BenchRunArgs, seed: u64) -> Result<Exit, Failure> {
    let options = options(target, args, seed);
    let bar = Bar::new(args.json);
    if args.find_max {
        return find_max(target, args, &options, &bar).await;
    }
    let finished = once(target, &options, args.repeat, &bar).await?;
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

/// Makes the runs, and what agents and channels need at the node.
async fn once(target: &Target, options: &RunOptions, repeat: u32, bar: &Bar) -> Result<Finished, Failure> {
    // The control socket is the operator's: what it refuses is shown as it says it.
    let refused = RefCell::new(None);
    // A node that somebody else runs keeps the limits that it has.
    let room = room_for(options).filter(|_| target.setup.is_own);
    let register = async |registration: Registration| -> Result<(), RegisterError> {
        let done = match &registration {
            Registration::Agent(record) => match (target.control.register(record).await, &room) {
                (Ok(registered), Some(room)) => {
                    let name = AgentName::parse(&registered.agent.name)?;
                    target.control.set_mailbox(&name, room).await.map(drop)
                }
                (registered, _) => registered.map(drop),
            },
            Registration::Channel(record) => target.control.put_channel(record).await.map(drop),
            _ => return Err("this command does not know what is to be registered".into()),
        };
        done.map_err(|error| {
            let text = error.to_string();
            *refused.borrow_mut() = Some(control_failure(&error));
            text.into()
        })
    };
    let running = creto_loadgen::run(options, repeat, target.setup.clone(), register, |progress| bar.show(progress));
    let finished = tokio::select! {
        finished = running => finished,
        // Agents would look for a node that is gone for as long as the run waits for anything.
        failure = target.died() => return Err(failure),
    };
    let error = match finished {
        Ok(finished) => return Ok(finished),
        Err(error) => error,
    };
    // The sockets of a process are closed some moments before its end is known: that is why they refuse, then.
    if target.process.is_some()
        && !matches!(error, RunError::Option(_))
        && let Ok(died) = timeout(DIED_WITHIN, target.died()).await
    {
        return Err(died);
    }
    Err(refused.take().unwrap_or_else(|| failure(&error)))
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
async fn find_max(target: &Target, args: &BenchRunArgs, options: &RunOptions, bar: &Bar) -> Result<Exit, Failure> {
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
        let finished = match once(target, &options, args.repeat, bar).await {
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

fn failure(error: &RunError) -> Failure {
    match error {
        RunError::Option(_) => Failure::of(Exit::Usage, error),
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
        let certificate = NodeCertificate::from_file(&path).expect("a certificate");
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
}
