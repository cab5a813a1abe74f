//! The load generator: an open loop, and a ledger of what was promised.
//!
//! **Open loop**: every message has a time at which it is due, whatever became of the ones before it, and its latency counts from
//! then. A node that stalls for a second shows a second of latency for everything that was due in it; a closed loop would only have
//! sent less. How late the generator itself was is measured apart, and a run in which it fell behind is not valid.
//!
//! **Ledger**: an acknowledged message id is written to a file, and counts as acknowledged only when the file is synced.
//! Whatever is killed afterwards, [`verify()`] can say of each of these ids whether it was delivered, exactly once, in order, with
//! the bytes that were sent.
//!
//! Agents and channels are registered through a function of the caller's, so that this crate knows nothing of the control service.
//!
//! ```no_run
//! use creto_loadgen::{NodeSetup, Registration, RunOptions, Scenario, run};
//!
//! # async fn example(node: std::net::SocketAddr, certificate: creto_agent::NodeCertificate)
//! # -> Result<(), creto_loadgen::RunError> {
//! let options = RunOptions { rate_per_s: 20_000, ..RunOptions::new(node, certificate, Scenario::Direct) };
//! let register = async |registration: Registration| {
//!     println!("registering {registration:?}"); // here: the control socket's client
//!     Ok(())
//! };
//! let finished = run(&options, 1, NodeSetup::default(), register, |progress| eprintln!("{progress:?}")).await?;
//! println!("p99 of publish to delivered: {:?} us", finished.report.publish_to_delivered_us.p99);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod arrival;
mod cast;
mod compare;
mod cpu;
mod export;
mod html;
pub mod ledger;
pub mod limits;
mod measure;
mod mix;
mod nats;
mod options;
mod pace;
mod payload;
mod peer;
mod report;
mod run;
mod search;
mod send;
mod setup;
mod shards;
mod share;
mod state;
mod tally;
mod target;
mod verdict;
mod verify;

use std::time::Instant;

use crate::limits::START_IN;

pub use arrival::Arrival;
pub use compare::{CompareLimits, Compared, Comparison, Verdict, compare};
pub use export::csv;
pub use html::html;
pub use measure::{Percentiles, Point};
pub use mix::{PriorityMix, SizeMix};
pub use nats::{NatsError, NatsFound, NatsServer, NatsSync};
pub use options::{RegisterError, Registration, RunError, RunOptions, Scenario};
pub use report::{Curves, DrainReport, Phase, REPORT_FORMAT, Report, Row, RunFigures, Spread, Spreads, Warmup};
pub use run::Progress;
pub use search::{Limit, Search, Step};
pub use setup::{NodeSetup, Options, Setup};
pub use shards::{ShardCounts, ShardLook, ShardSecond, ShardSeries};
pub use share::{Gathering, Share, ShareOutcome, clock_ns, instant_of, run_share};
pub use target::{CretoNode, Target};
pub use verify::{VerifyError, VerifyOptions, VerifyReport, verify};

/// What runs found, and their histograms.
#[derive(Debug)]
pub struct Finished {
    /// What they found.
    pub report: Report,
    outcomes: Vec<run::Outcome>,
}

impl Finished {
    /// A log of the histograms of each second, as the tools of HdrHistogram read it; empty but for its heading without
    /// [`RunOptions::keep_histograms`].
    #[must_use]
    pub fn hdr_log(&self) -> String {
        export::hdr_log(&self.outcomes)
    }
}

/// Runs a scenario, so often. `register` makes agents and channels known to the node; `progress` is called a few times a second.
///
/// # Errors
/// [`RunError`]. What the node does wrong is no error: it stands in the report.
pub async fn run(
    options: &RunOptions,
    repeat: u32,
    node: NodeSetup,
    register: impl AsyncFn(Registration) -> Result<(), RegisterError>,
    mut progress: impl FnMut(&Progress),
) -> Result<Finished, RunError> {
    options.check()?;
    if options.ledger.is_some() && repeat > 1 {
        return Err(RunError::Option("a ledger is of one run: leave out --repeat".to_owned()));
    }
    let repeat = repeat.max(1);
    // Before anything loads the machine.
    let setup = Setup::of(options, repeat, node);
    let mut outcomes = Vec::new();
    for repetition in 0..repeat {
        let soon = async |_| Ok(Instant::now() + START_IN);
        outcomes.push(run::run_once(options, repetition, &register, &soon, &mut progress).await?);
    }
    Ok(Finished { report: Report::of(options, &outcomes, setup), outcomes })
}
