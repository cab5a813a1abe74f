//! One of the processes that a run is divided among: what it is told, and what it says.
//!
//! It gets the very command line of the process that started it, and `--worker` with what differs. Both speak in lines of JSON: this
//! process says [`Said`] on its standard output, the other one [`Begin`] on this one's standard input. When that ends, so does this
//! process: nobody waits for it any more.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use creto_loadgen::{Progress, RunError, RunOptions, Share, ShareOutcome, instant_of, run_share};
use creto_node::config::Config;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::driven::Driven;
use super::run::{Registrar, failure, options};
use super::runtime;
use crate::args::Global;
use crate::args::bench::BenchRunArgs;
use crate::exit::{Exit, Failure};

const GONE: &str = "the process that divided this run is gone";

/// What one process does, beside what its command line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub(super) share: Share,
    pub(super) rate: u64,
    pub(super) seed: u64,
    /// The node that the other process has started.
    pub(super) own: Option<OwnNode>,
}

/// A node that another process has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnNode {
    pub(super) address: SocketAddr,
    pub(super) config: PathBuf,
    pub(super) certificate: PathBuf,
}

impl FromStr for Worker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

/// What a process says of itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Said {
    /// Everybody is connected for this repetition.
    Ready(u32),
    /// Where it stands.
    Progress(Counts),
    /// What it found.
    Outcome(Box<ShareOutcome>),
}

/// Where a process stands; percentiles are nobody's to add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) due: u64,
    pub(super) planned: Option<u64>,
    pub(super) submitted: u64,
    pub(super) acknowledged: u64,
    pub(super) delivered: u64,
}

impl Counts {
    fn of(progress: &Progress) -> Self {
        let Progress { due, message_count, submitted, acknowledged, delivered, .. } = *progress;
        Self { due, planned: message_count, submitted, acknowledged, delivered }
    }
}

/// When a repetition begins, by the clock that both processes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begin {
    pub(super) at_ns: u64,
}

pub(super) fn run(global: &Global, args: &BenchRunArgs, worker: &Worker) -> Result<Exit, Failure> {
    if let Some(pin) = &args.pin {
        pin.share(worker.share).pin()?;
    }
    runtime()?.block_on(async {
        let driven = match (&worker.own, &args.connect, &args.target) {
            (Some(own), ..) => {
                let config = Config::load(&own.config, []).map_err(|error| Failure::of(Exit::Usage, &error))?;
                let address = own.address.to_string();
                let driven = Driven::running(&address, Some(&own.certificate), None, &config).await?;
                // Mailboxes get the room that a run's own node gives.
                Driven { setup: creto_loadgen::NodeSetup { is_own: true, ..driven.setup }, ..driven }
            }
            (None, Some(address), _) => {
                let (config, _) = global.load_config_or_default()?;
                Driven::running(address, args.certificate.as_deref(), None, &config).await?
            }
            (None, None, Some(url)) => Driven::nats(url, args).await?,
            (None, None, None) => {
                return Err(Failure::new(
                    Exit::Usage,
                    "a worker starts no node",
                    "leave --worker to this command itself",
                ));
            }
        };
        let whole = options(&driven, args, worker.seed);
        let options = RunOptions { rate_per_s: worker.rate, share: Some(worker.share), node_pid: None, ..whole };
        let registrar = Registrar::new(&driven, &options);
        let heard = Heard::listen()?;
        for repetition in 0..args.repeat {
            let start = async |repetition: u32| heard.begun(repetition).await;
            let register = async |registration| registrar.register(registration).await;
            let mut progress = |progress: &Progress| say(&Said::Progress(Counts::of(progress)));
            let found = run_share(&options, repetition, &register, &start, &mut progress);
            let found = tokio::select! {
                found = found => found,
                () = heard.abandoned() => return Err(Failure::new(Exit::System, GONE, "")),
            };
            match found {
                Ok(outcome) => say(&Said::Outcome(Box::new(outcome))),
                Err(error) => return Err(registrar.refused().unwrap_or_else(|| failure(&error))),
            }
        }
        Ok(Exit::Ok)
    })
}

/// What the other process says, and whether it is still there.
struct Heard {
    lines: Mutex<mpsc::Receiver<String>>,
    /// Its other end is dropped with the last line.
    gone: Mutex<oneshot::Receiver<()>>,
}

impl Heard {
    fn listen() -> Result<Self, Failure> {
        let (line, lines) = mpsc::channel(1);
        let (here, gone) = oneshot::channel();
        // Nothing else of this process waits for it: it ends with the process.
        let thread = std::thread::Builder::new().name("creto-heard".to_owned()).spawn(move || {
            for text in std::io::stdin().lines().map_while(Result::ok) {
                if line.blocking_send(text).is_err() {
                    break;
                }
            }
            drop(here);
        });
        thread?;
        Ok(Self { lines: Mutex::new(lines), gone: Mutex::new(gone) })
    }

    /// Ends when nobody can say anything any more.
    async fn abandoned(&self) {
        let _ = (&mut *self.gone.lock().await).await;
    }

    /// Says that everybody is connected, and waits for when it begins.
    async fn begun(&self, repetition: u32) -> Result<Instant, RunError> {
        say(&Said::Ready(repetition));
        let broken = |text: String| RunError::Divided(std::io::Error::other(text));
        let line = self.lines.lock().await.recv().await;
        let line = line.ok_or_else(|| broken(GONE.to_owned()))?;
        let Begin { at_ns } = serde_json::from_str(&line).map_err(|error| broken(error.to_string()))?;
        let at = instant_of(at_ns).map_err(RunError::Divided)?;
        at.ok_or_else(|| broken("it had begun before this process was told; give the generator more CPUs".to_owned()))
    }
}

fn say(said: &Said) {
    let mut line = serde_json::to_vec(said).expect("what is said is plain data");
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    // Whoever listens no more has closed standard input, too.
    let _ = out.write_all(&line).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_is_told_is_read_as_it_was_written() {
        let worker = Worker {
            share: Share { index: 1, count: 4 },
            rate: 9,
            seed: u64::MAX,
            own: Some(OwnNode {
                address: ([127, 0, 0, 1], 9).into(),
                config: "creto.toml".into(),
                certificate: "node.crt".into(),
            }),
        };
        assert_eq!(serde_json::to_string(&worker).expect("plain data").parse(), Ok(worker));
        assert!("{}".parse::<Worker>().is_err());
    }
}
