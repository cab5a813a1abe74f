//! `creto bench run`: a node of its own, or one that runs, under load.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;

use creto_agent::{NodeCertificate, TreeDigest, TrustDomain};
use creto_loadgen::{
    Finished, Limit, NodeSetup, Progress, RegisterError, Registration, Report, RunError, RunOptions, Search, Step,
};
use creto_node::config::{Config, WalSync};
use creto_service::client::Client;
use indicatif::{ProgressBar, ProgressStyle};

use super::{runtime, show};
use crate::args::Global;
use crate::args::bench::BenchRunArgs;
use crate::client::{
    channel_failure, connect_failure, control_failure, keys_failure, node_certificate, receive_failure, resolve,
};
use crate::exit::{Exit, Failure};
use crate::terminal::{grouped, print_json};
use crate::verb::demo::node::{NodeHost, NodeSettings};
use crate::verb::demo::{Keep, on_a_node_so};

/// A step of the search with fewer says nothing.
const STEP_MESSAGES_MIN: f64 = 10.0;

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
                drive(&Target::own(host), args, seed).await
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
}

impl Target {
    fn own(host: &NodeHost) -> Self {
        let described = host.described();
        Self {
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
        }
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
        })
    }
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
    let register = async |registration: Registration| -> Result<(), RegisterError> {
        let done = match &registration {
            Registration::Agent(record) => target.control.register(record).await.map(drop),
            Registration::Channel(record) => target.control.put_channel(record).await.map(drop),
            _ => return Err("this command does not know what is to be registered".into()),
        };
        done.map_err(|error| {
            let text = error.to_string();
            *refused.borrow_mut() = Some(control_failure(&error));
            text.into()
        })
    };
    let finished =
        creto_loadgen::run(options, repeat, target.setup.clone(), register, |progress| bar.show(progress)).await;
    finished.map_err(|error| refused.take().unwrap_or_else(|| failure(&error)))
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
    while let Some(rate) = search.next() {
        let options = RunOptions { rate_per_s: rate, ..options.clone() };
        let finished = once(target, &options, args.repeat, bar).await?;
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
            "steps": steps,
            "best": report,
        }))?;
    } else {
        show::found(search.found(), p99_us, report, args)?;
    }
    Ok(if best.is_some() { Exit::Ok } else { Exit::Found })
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
