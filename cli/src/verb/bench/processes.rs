//! A run whose generator is divided among processes: each is this binary again, with a share ([`super::worker`]).

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use creto_loadgen::limits::{PROCESSES_START_IN, SHARE_LINE_BYTES_MAX};
use creto_loadgen::{Finished, Gathering, Progress, Share, ShareOutcome, clock_ns, instant_of};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::driven::Driven;
use super::run::{Ended, failure};
use super::worker::{Begin, Counts, OwnNode, Said, Worker};
use crate::exit::{Exit, Failure, plain};

/// What is kept of the words of a process that failed.
const WORDS_BYTES_MAX: u64 = 16 << 10;
/// What processes have said and nobody has looked at.
const SAID_MAX: usize = 1_024;

/// A run, and what it is divided for.
pub(super) struct Divided<'a> {
    pub(super) driven: &'a Driven,
    pub(super) options: &'a creto_loadgen::RunOptions,
    pub(super) repeat: u32,
    pub(super) seed: u64,
}

/// Something that a process said, or its end.
enum Heard {
    Said(Said),
    /// With these words.
    Ended(String),
}

/// One of the processes. It is killed when this is dropped.
struct Process {
    stdin: ChildStdin,
    /// It hears when the process ends, too.
    hearing: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process goes with it.
        self.hearing.abort();
    }
}

/// Where each process stands in this repetition.
#[derive(Default)]
struct Place {
    is_ready: bool,
    counts: Counts,
    result: Option<Result<ShareOutcome, String>>,
    has_ended: bool,
}

impl Divided<'_> {
    pub(super) async fn run(self, mut progress: impl FnMut(&Progress)) -> Result<Finished, Ended> {
        let ours = |error: &creto_loadgen::RunError| Ended { failure: failure(error), is_ours: true };
        let system = |error: &std::io::Error| {
            let what = format!("the processes of the generator cannot be started: {}", plain(error));
            Ended {
                failure: Failure::new(Exit::System, what, "check the limit on processes (ulimit -u)"),
                is_ours: true,
            }
        };
        let mut gathering =
            Gathering::new(self.options, self.repeat, self.driven.setup.clone()).map_err(|error| ours(&error))?;
        let count = self.options.processes;
        let (say, mut heard) = mpsc::channel::<(usize, Heard)>(SAID_MAX);
        let mut processes = Vec::new();
        for index in 0..count {
            let process = self.start(Share { index, count }, say.clone()).map_err(|error| system(&error))?;
            processes.push(process);
        }
        drop(say);
        let mut ended: Vec<usize> = Vec::new();
        for repetition in 0..self.repeat {
            let place = |at: usize| Place { has_ended: ended.contains(&at), ..Place::default() };
            let mut places: Vec<Place> = (0..processes.len()).map(place).collect();
            let stopped = heard_until(&mut heard, &mut places, |place| place.is_ready, |_| {}).await;
            if let Some((at, text)) = stopped {
                // Whoever could not begin makes no run with fewer.
                let what = format!("process {} of {count} of the generator did not begin: {text}", at + 1);
                return Err(Ended { failure: Failure::new(Exit::System, what, ""), is_ours: false });
            }
            let at_ns = clock_ns().map_err(|error| system(&error))?.saturating_add(nanoseconds(PROCESSES_START_IN));
            let line = serde_json::to_string(&Begin { at_ns }).expect("plain data") + "\n";
            for process in &mut processes {
                // One that has just ended says so itself.
                let _ = process.stdin.write_all(line.as_bytes()).await;
            }
            let start = instant_of(at_ns).ok().flatten().unwrap_or_else(std::time::Instant::now);
            gathering.begin(start).map_err(|error| ours(&error))?;
            let options = self.options;
            let show = |places: &[Place]| {
                progress(&together(places, repetition, start.elapsed(), options));
            };
            heard_until(&mut heard, &mut places, |place| place.result.is_some(), show).await;
            let words = places.iter().find_map(|place| place.result.as_ref()?.as_ref().err().cloned());
            let has_failed = words.is_some();
            ended.extend(places.iter().enumerate().filter(|(_, place)| place.has_ended).map(|(at, _)| at));
            let results =
                places.into_iter().map(|place| place.result.unwrap_or_else(|| Err("it said nothing".to_owned())));
            if !gathering.add(results.collect()) {
                let what = format!("every process of the generator failed: {}", words.unwrap_or_default());
                return Err(Ended { failure: Failure::new(Exit::System, what, ""), is_ours: false });
            }
            if has_failed {
                // The next repetition would be one of fewer processes: what there is says why it is not valid.
                break;
            }
        }
        Ok(gathering.finish())
    }

    fn start(&self, share: Share, say: mpsc::Sender<(usize, Heard)>) -> std::io::Result<Process> {
        let own = self.driven.folder.as_ref().and_then(|folder| {
            let creto_loadgen::Target::Creto(node) = &self.driven.target else { return None };
            let (config, certificate) = (folder.join("creto.toml"), folder.join("node.crt"));
            Some(OwnNode { address: node.address, config, certificate })
        });
        let worker = Worker { share, rate: self.options.rate_per_s, seed: self.seed, own };
        let worker = serde_json::to_string(&worker).expect("plain data");
        // The very same binary, also when the file was replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        let args: Vec<OsString> = std::env::args_os().collect();
        command.args(&args[1..]).arg("--worker").arg(worker);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().expect("it was asked to be a pipe");
        let place = share.index as usize;
        Ok(Process { stdin, hearing: tokio::spawn(hear(child, place, say)) })
    }
}

/// Tells what a process says, and how it ends.
async fn hear(mut child: Child, place: usize, say: mpsc::Sender<(usize, Heard)>) {
    let stdout = child.stdout.take().expect("it was asked to be a pipe");
    let stderr = child.stderr.take().expect("it was asked to be a pipe");
    let words = tokio::spawn(async move {
        let mut words = Vec::new();
        let mut stderr = stderr;
        let _ = (&mut stderr).take(WORDS_BYTES_MAX).read_to_end(&mut words).await;
        // Whoever says more than is kept is not held up by it.
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        String::from_utf8_lossy(&words).trim().to_owned()
    });
    let mut read = BufReader::new(stdout);
    let mut why = None;
    loop {
        let mut line = Vec::new();
        match (&mut read).take(SHARE_LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                why = Some(plain(&error));
                break;
            }
        }
        match serde_json::from_slice(&line) {
            Ok(said) => drop(say.send((place, Heard::Said(said))).await),
            Err(error) => {
                why = Some(format!("it said what is not understood: {error}"));
                break;
            }
        }
    }
    drop(read);
    let status = child.wait().await;
    let words = words.await.unwrap_or_default();
    let status = status.map_or_else(|error| plain(&error), |status| status.to_string());
    let text = match (why, words.is_empty()) {
        (Some(why), _) => why,
        (None, true) => format!("it ended with {status}"),
        (None, false) => format!("it ended with {status}: {words}"),
    };
    let _ = say.send((place, Heard::Ended(text))).await;
}

/// Takes what processes say until this is so of each of them. One that ended before, with its words: the first that is found.
async fn heard_until(
    heard: &mut mpsc::Receiver<(usize, Heard)>,
    places: &mut [Place],
    is_so: impl Fn(&Place) -> bool,
    mut show: impl FnMut(&[Place]),
) -> Option<(usize, String)> {
    while !places.iter().all(&is_so) {
        // Nothing more comes from it.
        if let Some(at) = places.iter().position(|place| place.has_ended && !place.is_ready) {
            return Some((at, "it had ended".to_owned()));
        }
        let (at, heard) = heard.recv().await?;
        match heard {
            Heard::Said(Said::Ready(_)) => places[at].is_ready = true,
            Heard::Said(Said::Progress(counts)) => {
                places[at].counts = counts;
                show(places);
            }
            Heard::Said(Said::Outcome(outcome)) => places[at].result = Some(Ok(*outcome)),
            Heard::Ended(words) => {
                places[at].has_ended = true;
                // One that has given its part may end.
                if places[at].result.is_none() {
                    if !places[at].is_ready {
                        return Some((at, words));
                    }
                    places[at].result = Some(Err(words));
                }
            }
        }
    }
    None
}

/// Where all of them stand together.
fn together(places: &[Place], repetition: u32, elapsed: Duration, options: &creto_loadgen::RunOptions) -> Progress {
    let sum = |of: fn(&Counts) -> u64| places.iter().map(|place| of(&place.counts)).sum();
    let mut progress = Progress::default();
    progress.run = repetition + 1;
    progress.is_warming_up = elapsed < options.warmup;
    progress.due = sum(|counts| counts.due);
    progress.message_count = places.iter().map(|place| place.counts.planned).sum();
    progress.submitted = sum(|counts| counts.submitted);
    progress.acknowledged = sum(|counts| counts.acknowledged);
    progress.delivered = sum(|counts| counts.delivered);
    progress.elapsed = elapsed;
    progress.duration = options.warmup.saturating_add(options.duration);
    progress
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
