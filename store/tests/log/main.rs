//! The log as a whole, on a disk in memory that keeps only what it promised.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test harness: a wrong unwrap or cast fails the test"
)]

mod backup;
mod behind;
mod channels;
mod clean;
mod conformance;
mod crash;
mod damage;
mod digest;
mod disk;
mod golden;
mod hold;
mod node;
mod noted;
mod space;
mod torn;
