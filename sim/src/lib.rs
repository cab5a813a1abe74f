//! A node without IO: seed in, verdict out.
//!
//! [`run_seed`] runs a whole node (its shards, a faulty disk for each, agents, and the network between them) in one thread
//! and in virtual time. Everything that happens comes out of the seed; `docs/simulation.md` says what is simulated, which
//! rules are checked, and how to replay a seed.
//!
//! [`agents`] is of use to other tests: agents with real keys that seal and sign.
#![forbid(unsafe_code)]

pub mod agents;
mod backup;
mod channels;
mod chaos;
mod checkers;
mod clock;
mod digests;
mod disk;
mod fault;
mod history;
mod letters;
mod lies;
mod model;
mod network;
mod node;
mod notices;
mod patterns;
mod planted;
mod pool;
mod profile;
mod random;
mod run;
mod strike;
mod workload;
mod world;

pub use clock::START_MS;
pub use disk::SECTOR_BYTES;
pub use fault::{Fault, FaultCounts};
pub use model::{Rule, Tally, Violation};
pub use patterns::truth::{Counted, PatternCounts};
pub use planted::PlantedBug;
pub use pool::Pool;
pub use random::Random;
pub use run::{Options, Outcome, Summary, run_seed};
pub use strike::{Strike, StrikeKind, run_every_step};
