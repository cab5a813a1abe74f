//! `creto demo`: the main job, end to end, on a node of its own that is killed in the middle.
//!
//! It promises that every figure is counted: by the [`book`] that the agents write, by what the node answered, by the
//! kernel. What a message must survive here is real: the node is a process, its end is SIGKILL, its data is on a disk.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::args::DemoArgs;
use crate::exit::{Exit, Failure, plain};
use crate::terminal::{DIM, LITERAL, grouped, print_json, stdout};

mod audit;
mod book;
mod cast;
pub(crate) mod cycles;
pub(in crate::verb) mod node;
mod payload;
mod power;
mod probe;
mod report;
pub(crate) mod revocation;
pub(crate) mod rotation;
mod stage;
mod traffic;

use audit::{Exhibit, Tally};
use book::Book;
use cast::Cast;
use node::{NodeHost, NodeSettings};
use payload::Payloads;
use probe::Verdict;
use report::Report;
use stage::Stage;
use traffic::Troupe;

/// Messages when nothing is said.
const MESSAGES: u64 = 20_000;
/// Fewer do not make three acts.
const MESSAGES_MIN: u64 = 10;
/// The pace of the messages whose latency counts: far below what the machine can do, so that nothing queues.
const STEADY_PER_SECOND: u64 = 1_000;
/// The same for large payloads.
const STEADY_BYTES_PER_SECOND: u64 = 8 << 20;
/// How long the steady part takes at most.
const STEADY_SECONDS: u64 = 5;
/// Messages of the batch that is tampered with.
const TAMPERED_MESSAGES: u64 = 4;
/// A consumer acknowledgement that is on its way is there by then.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &DemoArgs) -> Result<Exit, Failure> {
    let payloads = match &args.input {
        Some(path) => Payloads::from_file(path)?,
        None => Payloads::Made { seed: u64::from_le_bytes(probe::random()?), payload_bytes: args.size as usize },
    };
    let messages = args.messages.or(payloads.line_count()).unwrap_or(MESSAGES).max(MESSAGES_MIN);
    let acts = Acts::of(messages, payloads.bytes_range().1);
    let show = Show { args, payloads: Arc::new(payloads), acts };
    on_a_node("creto-demo-", None, args.shards, args.keep, async |host, on_disk| {
        let stage = Stage::open(messages, "delivered");
        let report = show.play(host, &stage, on_disk).await?;
        stage.close();
        let problems = report.problems();
        let printed = if args.json { print_json(&report.to_json()) } else { show.print(&report, &problems) };
        printed?;
        Ok(if problems.is_empty() { Exit::Ok } else { Exit::Found })
    })
}

/// Which messages are sent when: numbers of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Acts {
    /// As fast as it goes; the node is killed in the middle.
    burst: Range<u64>,
    /// One signed batch, once changed and once untouched.
    tampered: Range<u64>,
    /// At a steady pace; these have a latency.
    steady: Range<u64>,
    steady_per_second: u64,
}

impl Acts {
    fn of(messages: u64, payload_bytes_max: usize) -> Self {
        let by_bytes = STEADY_BYTES_PER_SECOND / (payload_bytes_max as u64).max(1);
        let steady_per_second = STEADY_PER_SECOND.min(by_bytes).max(1);
        let steady = (messages / 4).min(steady_per_second * STEADY_SECONDS).max(1);
        let tampered = TAMPERED_MESSAGES.min(messages / 10).max(1);
        let burst = messages - steady - tampered;
        Self {
            burst: 0..burst,
            tampered: burst..burst + tampered,
            steady: burst + tampered..messages,
            steady_per_second,
        }
    }
}

struct Show<'a> {
    args: &'a DemoArgs,
    payloads: Arc<Payloads>,
    acts: Acts,
}

impl Show<'_> {
    async fn play(&self, host: &mut NodeHost, stage: &Stage, on_disk: bool) -> Result<Report, Failure> {
        let Self { acts, payloads, .. } = self;
        let ready = host.start().await?;
        let (address, shards) = (ready.address, self.args.shards);
        stage.tell(&format!("a node with {shards} shards serves on {address}, in {}", seconds(ready.took)));
        let cast = Arc::new(Cast::register(host).await?);
        let book = Arc::new(Book::new());
        let troupe = Troupe::connect(host, &cast, Arc::clone(payloads), Arc::clone(&book), None).await?;
        stage.tell("five agents of acme and a stranger are registered");
        let bar = stage.follow(&book);

        // Act one: as fast as it goes, and the node dies in the middle.
        stage.now("burst");
        let began = Instant::now();
        let burst = troupe.burst(acts.burst.clone());
        book.reach(|progress| progress.acknowledged >= acts.burst.end / 2).await;
        let acknowledged_at_kill = book.progress().acknowledged;
        let killed_at = Instant::now();
        let killed = host.kill().await;
        stage.tell(&format!("killed it with SIGKILL after {} acknowledgements", grouped(acknowledged_at_kill)));
        let again = host.start().await?;
        let restart = killed_at.elapsed();
        let found = grouped(again.messages_waiting);
        stage.tell(&format!("it serves again after {}; {found} messages were waiting in its log", seconds(restart)));
        let arrived =
            book.reach(|progress| progress.answered >= acts.burst.end && progress.delivered >= progress.acknowledged);
        let arrived = arrived.await;
        let burst_took = began.elapsed();
        let burst_cpu = host.ended_cpu()? + host.running_cpu();
        drop(burst);

        // Act two: what must not work.
        let (mut tampered, mut untampered, mut denied) = (Verdict::NotTried, Verdict::NotTried, Verdict::NotTried);
        let (mut revoked, mut exhibits) = (None, Vec::new());
        if arrived {
            let attempt = probe::tamper(host, &cast, payloads, acts.tampered.clone()).await?;
            (tampered, untampered) = (attempt.changed, attempt.untouched);
            for message in attempt.messages {
                book.sent(message);
                match untampered {
                    Verdict::Accepted => book.acknowledged(message.id),
                    refused => book.refused(format!("an untouched batch was refused: {}", refused.text())),
                }
            }
            stage.tell(&format!("changed one byte of a signed batch: {}", tampered.sentence()));
            let (verdict, message_id) = probe::forbidden_send(host, &cast).await?;
            denied = verdict;
            stage.tell(&format!("a stranger wrote to acme/executor: {}", denied.sentence()));
            let found = probe::revoke(host, &cast.leaver).await?;
            revoked = Some(found);
            let (leaver, after, again) = (cast.leaver.name(), millis(found.closed_after), found.again.sentence());
            stage.tell(&format!("revoked {leaver}: its connection closed after {after}; its next login: {again}"));
            exhibits = vec![
                Exhibit::Denial { sender: cast.stranger.id(), message_id },
                Exhibit::Revocation { agent: cast.leaver.id() },
                Exhibit::Closing { agent: cast.leaver.id() },
            ];

            // Act three: a steady pace, and the time that each message takes.
            stage.now("steady");
            let steady = troupe.steady(acts.steady.clone(), acts.steady_per_second)?;
            let all = acts.steady.end;
            book.reach(|progress| progress.answered >= all && progress.delivered >= progress.acknowledged).await;
            drop(steady);
        }

        stage.now("closing");
        let hidden = troupe.close().await;
        let left_in_mailboxes = settle(host, &cast).await?;
        let stopped = host.stop().await;
        host.end().await;
        let tally = Tally::of(&book.pages());
        let (log, folder) = (host.audit(), host.folder().to_owned());
        stage.now("audit");
        let audit = audit::examine(move || audit::export_and_verify(&log, &folder, tally, &exhibits)).await?;
        bar.abort();
        if self.args.keep {
            cast.save_keys(&host.folder().join(cast::AGENTS_FOLDER))?;
        }
        let pages = book.pages();
        Ok(Report {
            counts: pages.count(),
            hidden,
            failures: pages.failures.clone().into_iter().collect(),
            sender_count: cast.senders.len(),
            receiver_count: cast.receivers.len(),
            shard_count: self.args.shards,
            payload_bytes: payloads.bytes_range(),
            input: self.args.input.as_deref().map(file_name),
            tampered,
            untampered,
            denied,
            revoked,
            audit,
            kills: u64::from(killed),
            acknowledged_at_kill,
            restart,
            steady_per_second: acts.steady_per_second,
            burst: burst_took,
            burst_messages: acts.burst.end,
            node_cpu: host.ended_cpu()?,
            burst_cpu,
            left_in_mailboxes,
            node_stopped: stopped.is_some_and(|stopped| stopped.drained),
            on_disk,
        })
    }

    fn print(&self, report: &Report, problems: &[String]) -> std::io::Result<()> {
        use std::io::Write as _;
        let mut out = stdout();
        report.print(&mut out)?;
        writeln!(out)?;
        report::print_verdict(&mut out, problems)?;
        writeln!(out)?;
        report::print_next(&mut out)
    }
}

/// Waits until the node has settled every message; gives how many it still holds when it does not.
async fn settle(host: &NodeHost, cast: &Cast) -> Result<u64, Failure> {
    let until = Instant::now() + SETTLED_WITHIN;
    loop {
        let mut left = 0;
        for receiver in &cast.receivers {
            left += probe::queued_messages(host, receiver).await?;
        }
        if left == 0 || Instant::now() > until {
            return Ok(left);
        }
    }
}

/// When the folder of a node is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::verb) enum Keep {
    Always,
    /// When something was found that is worth a look.
    IfFound,
    Never,
}

/// Runs `work` with a node in a folder that is removed afterwards, also after Ctrl-C, unless it is to be kept or
/// something was found.
fn on_a_node(
    prefix: &str,
    data: Option<&Path>,
    shard_count: u16,
    keep: bool,
    work: impl AsyncFnOnce(&mut NodeHost, bool) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let keep = if keep { Keep::Always } else { Keep::IfFound };
    on_a_node_so(prefix, None, data, NodeSettings::of_demo(shard_count), keep, work)
}

/// As [`on_a_node`], in a folder in `place` if there is one, with these settings.
pub(in crate::verb) fn on_a_node_so(
    prefix: &str,
    place: Option<&Path>,
    data: Option<&Path>,
    settings: NodeSettings,
    keep: Keep,
    work: impl AsyncFnOnce(&mut NodeHost, bool) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    // The main thread starts the nodes: they end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        let what = format!("no runtime can be started: {}", plain(&error));
        Failure::new(Exit::System, what, "check the limits on open files and threads (ulimit -a)")
    })?;
    let (mut folder, on_disk) = node::scratch_folder(prefix, place)?;
    let mut host = NodeHost::make(folder.path(), data, settings)?;
    let ended = runtime.block_on(async {
        let ended = tokio::select! {
            ended = work(&mut host, on_disk) => Ok(ended),
            signal = interrupted() => Err(signal),
        };
        host.end().await;
        ended
    });
    // Tasks that still run have nobody to talk to any more.
    runtime.shutdown_background();
    let kept = match keep {
        Keep::Always => true,
        Keep::IfFound => !matches!(ended, Ok(Ok(Exit::Ok)) | Err(_)),
        Keep::Never => false,
    };
    if kept {
        folder.disable_cleanup(true);
        tell_where(&host);
    }
    drop(folder);
    match ended {
        Ok(ended) => ended,
        Err(signal) => {
            let note = "interrupted: the node is ended and its folder removed";
            let _ = std::io::Write::write_fmt(&mut anstream::stderr(), format_args!("{DIM}{note}{DIM:#}\n"));
            // Whoever started this sees that a signal ended it.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            Ok(Exit::System)
        }
    }
}

/// The number of the signal that asks for the end.
async fn interrupted() -> i32 {
    let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
    let (Ok(mut interrupts), Ok(mut terminates)) = (signal(interrupt), signal(terminate)) else {
        // Without handlers the signals do what they always do.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupts.recv() => interrupt.as_raw_value(),
        _ = terminates.recv() => terminate.as_raw_value(),
    }
}

fn tell_where(host: &NodeHost) {
    let (folder, config) = (host.folder().display(), host.config());
    let (config, audit) = (config.display(), host.audit());
    let audit = audit.display();
    let lines = format!(
        "kept  {LITERAL}{folder}{LITERAL:#}  {DIM}node.log, data/, creto.toml{DIM:#}\n      \
         {LITERAL}creto wal verify -c {config}{LITERAL:#}\n      \
         {LITERAL}creto audit verify {audit} --key {audit}/audit.pub{LITERAL:#}\n"
    );
    let _ = std::io::Write::write_all(&mut anstream::stderr(), lines.as_bytes());
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_its_act() {
        for messages in [MESSAGES_MIN, 11, 100, 241, MESSAGES, 1_000_000] {
            for bytes in [0, 1_024, 1 << 20] {
                let acts = Acts::of(messages, bytes);
                assert_eq!(acts.burst.start, 0);
                assert_eq!(acts.burst.end, acts.tampered.start);
                assert_eq!(acts.tampered.end, acts.steady.start);
                assert_eq!(acts.steady.end, messages);
                assert!(!acts.burst.is_empty() && !acts.tampered.is_empty() && !acts.steady.is_empty());
            }
        }
    }

    #[test]
    fn large_messages_are_sent_at_a_slower_pace() {
        assert_eq!(Acts::of(20_000, 1_024).steady_per_second, STEADY_PER_SECOND);
        assert_eq!(Acts::of(20_000, 1 << 20).steady_per_second, 8);
    }
}
