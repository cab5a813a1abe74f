//! The load generator: an open loop, and a ledger of what was promised.
//!
//! **Open loop**: message `k` is due `k / rate` seconds after the start, whatever became of the ones before it, and its
//! latency counts from then. A node that stalls for a second shows a second of latency for everything that was due in
//! it; a closed loop would only have sent less.
//!
//! **Ledger**: an acknowledged message id is written to a file, and counts as acknowledged only when the file is synced.
//! Whatever is killed afterwards, [`verify()`] can say of each of these ids whether it was delivered, exactly once, with
//! the bytes that were sent.
//!
//! Agents are registered through a function of the caller's, so that this crate knows nothing of the control service.
//!
//! ```no_run
//! use creto_loadgen::{RunOptions, Scenario, run};
//!
//! # async fn example(node: std::net::SocketAddr, certificate: creto_agent::NodeCertificate)
//! # -> Result<(), creto_loadgen::RunError> {
//! let options = RunOptions { rate_per_s: 20_000, ..RunOptions::new(node, certificate, Scenario::Direct) };
//! let register = async |record: creto_agent::SignedKeyRecord| {
//!     println!("registering {}", record.record.name); // here: the control socket's client
//!     Ok(())
//! };
//! let report = run(options, register, |progress| eprintln!("{} delivered", progress.delivered)).await?;
//! println!("p99 of publish to delivered: {} us", report.delivered_latency.p99_us);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod ledger;
pub mod limits;
mod pace;
mod payload;
mod peer;
mod report;
mod scenario;
mod tally;
mod verify;

pub use report::{Latency, Progress, Report};
pub use scenario::{RunError, RunOptions, Scenario, run};
pub use verify::{VerifyError, VerifyOptions, VerifyReport, verify};
