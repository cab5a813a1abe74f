//! `creto kill-cycles` (`scripts/kill-cycles.sh`): a node under load is killed with SIGKILL and started again, over and
//! over. At the end every acknowledged message was delivered to the application, once, as it was sent, and the node's audit
//! log, verified, has each as accepted, once.
//!
//! One receiver at a time is away, so that acknowledged messages always wait in the log when the node dies. With a switch
//! for the power of its disk (`--power`), the power is cut before each kill: what was not synced may be gone.
//!
//! What was acknowledged stands in a ledger that is synced before it counts, what was delivered in another; the verdict
//! comes from those files, and from the book that the agents write.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_agent::Delivery;
use creto_loadgen::ledger::{Durability, LedgerPaths, LedgerWriter};
use creto_loadgen::{VerifyOptions, VerifyReport, verify};
use serde_json::{Value, json};

use super::audit::{self, Findings, Tally};
use super::book::{Book, Counts, Received, percentile};
use super::cast::Cast;
use super::node::NodeHost;
use super::payload::{Payloads, split_mix};
use super::power::PowerSwitch;
use super::report::{print_row, print_verdict};
use super::stage::Stage;
use super::traffic::{Hidden, Troupe, finish};
use super::{on_a_node, probe, settle};
use crate::args::KillCyclesArgs;
use crate::exit::{Exit, Failure};
use crate::terminal::{grouped, print_json, stdout};

/// Of so many kills one comes while the node is still starting.
const EARLY_ONE_IN: u64 = 4;
/// Latest moment of a kill while it starts.
const EARLY_WITHIN_US: u64 = 150_000;
/// Latest moment of any other kill, after the first acknowledgement of its life.
const LATE_WITHIN_US: u64 = 500_000;
/// After so many cycles the receiver that was away comes back and the next one leaves.
const AWAY_CYCLES: u64 = 8;
/// A node without power lives on so long at most: it must not acknowledge anything more.
const POWERLESS_WITHIN_US: u64 = 20_000;

pub(crate) fn run(args: &KillCyclesArgs) -> Result<Exit, Failure> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => u64::from_le_bytes(probe::random()?),
    };
    on_a_node("creto-kill-cycles-", args.data.as_deref(), args.shards, args.keep, async |host, _| {
        let stage = Stage::open(args.cycles, "cycles");
        stage.tell(&format!("{} cycles, seed {seed}", grouped(args.cycles)));
        let report = cycle(host, args, seed, &stage).await?;
        stage.close();
        let problems = report.problems();
        if args.json {
            print_json(&report.to_json(&problems))?;
        } else {
            report.print(&problems)?;
        }
        Ok(if problems.is_empty() { Exit::Ok } else { Exit::Found })
    })
}

/// What was counted.
struct Report {
    seed: u64,
    cycles: u64,
    /// Processes that SIGKILL ended; as many as were asked for, or it is a problem.
    kills: u64,
    /// Of those, nodes that were not serving yet.
    early: u64,
    counts: Counts,
    files: VerifyReport,
    hidden: Hidden,
    failures: Vec<(String, u64)>,
    left_in_mailboxes: u64,
    stalls: Option<u64>,
    /// What the node's audit log says; or why it says nothing that counts.
    audit: Result<Findings, String>,
    /// From the start of the process to its word that it serves, ascending.
    started_us: Vec<u64>,
    /// From the kill to the next acknowledgement, ascending.
    recovered_us: Vec<u64>,
    took: Duration,
}

async fn cycle(host: &mut NodeHost, args: &KillCyclesArgs, seed: u64, stage: &Stage) -> Result<Report, Failure> {
    let ledger = host.folder().join("ledger");
    let paths = LedgerPaths::of(&ledger);
    let failed = |error| Failure::of(Exit::System, &error);
    let acknowledged =
        LedgerWriter::start(&paths.acknowledged, Durability::Synced, false, |_, ()| {}).map_err(failed)?;
    let book = Arc::new(Book::new());
    let counting = Arc::clone(&book);
    let count = move |_, (delivery, received): (Delivery, Received)| finish(&counting, &delivery, received);
    let delivered = LedgerWriter::start(&paths.delivered, Durability::Written, false, count).map_err(failed)?;

    let mut power = match &args.power {
        Some(socket) => Some(PowerSwitch::connect(socket).await?),
        None => None,
    };
    host.start().await?;
    let began = Instant::now();
    let cast = Arc::new(Cast::register(host).await?);
    let payloads = Arc::new(Payloads::Made { seed, payload_bytes: args.size as usize });
    let ledgers = Some((acknowledged.records(), delivered.records()));
    let mut troupe = Troupe::connect(host, &cast, payloads, Arc::clone(&book), ledgers).await?;
    let load = troupe.burst(0..u64::MAX);

    let mut random = seed;
    let (mut kills, mut early) = (0, 0);
    let (mut started_us, mut recovered_us) = (Vec::new(), Vec::new());
    let mut killed_at: Option<Instant> = None;
    let mut away: Option<usize> = None;
    for index in 0..args.cycles {
        stage.now("kill");
        stage.at(index);
        let before = book.progress().acknowledged;
        if !book.reach(|progress| progress.acknowledged > before).await {
            // Nothing is acknowledged any more: the report will tell what is missing.
            break;
        }
        recovered_us.extend(killed_at.map(|killed_at| micros(killed_at.elapsed())));
        if index.is_multiple_of(AWAY_CYCLES) {
            let turn = usize::try_from(index / AWAY_CYCLES).unwrap_or(0);
            if let Some(back) = away.take() {
                troupe.come(host, back).await?;
            }
            let leaves = turn % cast.receivers.len();
            troupe.leave(leaves).await;
            away = Some(leaves);
        }
        tokio::time::sleep(Duration::from_micros(split_mix(&mut random) % LATE_WITHIN_US)).await;
        let mut killed = Instant::now();
        kills += u64::from(kill(host, power.as_mut(), &mut random).await?);
        if split_mix(&mut random).is_multiple_of(EARLY_ONE_IN) {
            host.spawn()?;
            tokio::time::sleep(Duration::from_micros(split_mix(&mut random) % EARLY_WITHIN_US)).await;
            killed = Instant::now();
            early += u64::from(kill(host, power.as_mut(), &mut random).await?);
        }
        started_us.push(micros(host.start().await?.took));
        killed_at = Some(killed);
    }
    stage.at(args.cycles);

    stage.now("drain");
    troupe.rest();
    if let Some(back) = away {
        troupe.come(host, back).await?;
    }
    book.reach(|progress| progress.answered == progress.sent && progress.delivered >= progress.acknowledged).await;
    drop(load);
    let hidden = troupe.close().await;
    let took = began.elapsed();
    acknowledged.finish().await.map_err(failed)?;
    delivered.finish().await.map_err(failed)?;
    let left_in_mailboxes = settle(host, &cast).await?;
    let stopped = host.stop().await;
    let files = verify(VerifyOptions::new(ledger)).await.map_err(|error| Failure::of(Exit::System, &error))?;
    started_us.sort_unstable();
    recovered_us.sort_unstable();
    stage.now("audit");
    let tally = Tally::of(&book.pages());
    let log = host.audit();
    let audit = audit::examine(move || audit::verify_in_place(&log, tally)).await?;
    let pages = book.pages();
    Ok(Report {
        seed,
        cycles: args.cycles,
        kills,
        early,
        counts: pages.count(),
        files,
        hidden,
        failures: pages.failures.clone().into_iter().collect(),
        left_in_mailboxes,
        audit,
        stalls: stopped.filter(|stopped| stopped.drained).map(|stopped| stopped.stalls),
        started_us,
        recovered_us,
        took,
    })
}

/// Kills the node; its disk loses its power before and has it again after. True if that is what ended it.
async fn kill(host: &mut NodeHost, power: Option<&mut PowerSwitch>, random: &mut u64) -> Result<bool, Failure> {
    let Some(power) = power else { return Ok(host.kill().await) };
    power.off().await?;
    tokio::time::sleep(Duration::from_micros(split_mix(random) % POWERLESS_WITHIN_US)).await;
    // Without its disk it may have ended by itself before.
    host.kill().await;
    power.on().await?;
    Ok(true)
}

impl Report {
    fn problems(&self) -> Vec<String> {
        let Self { counts, files, .. } = self;
        let mut problems = Vec::new();
        let mut none = |count: u64, what: &str| {
            if count > 0 {
                problems.push(format!("{} {what}", grouped(count)));
            }
        };
        none(self.cycles.saturating_sub(self.kills), "kills did not take place");
        none(files.missing, "messages of the ledger of acknowledgements were not delivered");
        none(files.duplicated, "messages stand twice in the ledger of deliveries");
        none(files.altered, "messages were delivered with other content");
        none(counts.lost, "acknowledged messages were not delivered");
        none(counts.delivered_twice, "messages reached an application twice");
        none(counts.delivered - counts.verified, "messages were delivered with other content, sender or mailbox");
        none(counts.out_of_order, "messages overtook earlier ones of their sender");
        none(counts.unknown, "messages were delivered that nobody sent");
        none(counts.sent - counts.acknowledged, "messages were never acknowledged");
        none(self.hidden.rejected, "deliveries did not verify at their receiver");
        none(self.left_in_mailboxes, "messages are still in mailboxes after all were acknowledged");
        none(counts.acknowledged.abs_diff(files.acknowledged), "acknowledgements are missing in the ledger");
        for (text, count) in &self.failures {
            none(*count, &format!("times: {text}"));
        }
        if !files.holds() && problems.is_empty() {
            problems.push("the ledger holds no message, so nothing was proven".to_owned());
        }
        match &self.audit {
            Ok(findings) => problems.extend(findings.problems(counts.acknowledged)),
            Err(error) => problems.push(format!("the audit log: {error}")),
        }
        if self.stalls.is_none() {
            problems.push("the last node did not stop in order when it was asked to".to_owned());
        }
        problems
    }

    fn to_json(&self, problems: &[String]) -> Value {
        let Self { counts, files, hidden, .. } = self;
        json!({
            "seed": self.seed,
            "cycles": self.kills,
            "kills_while_starting": self.early,
            "acknowledged": files.acknowledged,
            "delivered": files.delivered,
            "lost": files.missing,
            "delivered_twice": files.duplicated,
            "altered": files.altered,
            "sent": counts.sent,
            "verified": counts.verified,
            "out_of_order": counts.out_of_order,
            "duplicates_hidden_by_node": hidden.by_node,
            "duplicates_hidden_by_agents": hidden.by_agents,
            "reconnects": hidden.reconnects,
            "start_p50_us": percentile(&self.started_us, 500),
            "start_max_us": self.started_us.last(),
            "recovery_p50_us": percentile(&self.recovered_us, 500),
            "recovery_max_us": self.recovered_us.last(),
            "audit": self.audit.as_ref().ok().map(Findings::to_json),
            "stalls": self.stalls,
            "seconds": self.took.as_secs(),
            "problems": problems,
        })
    }

    fn print(&self, problems: &[String]) -> std::io::Result<()> {
        let Self { counts, files, hidden, .. } = self;
        let mut out = stdout();
        let ms = |us: Option<&u64>| us.map_or_else(|| "-".to_owned(), |us| format!("{} ms", grouped(us / 1_000)));
        let both = |values: &[u64]| (ms(percentile(values, 500).as_ref()), ms(values.last()));
        let ((started, started_max), (recovered, recovered_max)) = (both(&self.started_us), both(&self.recovered_us));
        let per_s = u128::from(counts.acknowledged) * 1_000 / self.took.as_millis().max(1);
        let early = grouped(self.early);
        let mut row =
            |label: &str, value: String, holds: bool, remark: &str| print_row(&mut out, label, &value, holds, remark);
        let remark = format!("SIGKILL under load; {early} more while starting; seed {}", self.seed);
        row("cycles", grouped(self.kills), self.kills == self.cycles, &remark)?;
        let remark = format!("in the ledger, synced; {per_s} a second, outages included");
        row("acknowledged", grouped(files.acknowledged), true, &remark)?;
        let remark = format!("{} verified against what was sent", grouped(counts.verified));
        row("delivered", grouped(files.delivered), counts.verified == counts.delivered, &remark)?;
        row("lost", grouped(files.missing), files.missing == 0, "acknowledged and not delivered")?;
        let twice = files.duplicated;
        row("twice", grouped(twice), twice == 0, "delivered to the application more than once")?;
        row("hidden by node", grouped(hidden.by_node), true, "sent again, and durable already")?;
        let remark = "pushed again, and held or acknowledged already";
        row("hidden by agents", grouped(hidden.by_agents), true, remark)?;
        row(
            "node start p50",
            started,
            true,
            &format!("max {started_max}; from its process to its word that it serves"),
        )?;
        row(
            "recovery p50",
            recovered,
            true,
            &format!("max {recovered_max}; from the kill to the next acknowledgement"),
        )?;
        match &self.audit {
            Ok(findings) => findings.print(&mut out, counts.acknowledged)?,
            Err(error) => print_row(&mut out, "audit log", "-", false, error)?,
        }
        writeln!(out)?;
        print_verdict(&mut out, problems)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
