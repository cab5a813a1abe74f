//! What a shard must know to decide who may do what: the agents, which of their keys count until when, the channels, and the policy.
//!
//! Control builds a [`Snapshot`] after every change and hands it to the shards, which hold it and never ask control
//! on the message's path. A shard keeps a [`DecisionTable`] beside
//! it, so that a pair of agents that talks is decided once and looked up afterwards.
//!
//! The answer is **no** unless there is a reason for yes: no policy, no agent, a validity that is over, a decision
//! from another snapshot or past its lifetime, an evaluation without an end are all a typed [`Decision::Deny`] or a fresh evaluation, never a guess.
//!
//! This crate is pure: time is an argument, nothing is read, nothing is random, and the order of no map is visible.
#![forbid(unsafe_code)]

pub mod attributes;
mod channel;
mod decide;
#[cfg(test)]
mod fixture;
mod id_map;
pub mod limits;
pub mod mailbox;
mod obligations;
mod principal;
mod recent;
mod shared;
mod snapshot;
mod source;

pub use attributes::{Attributes, AttributesError};
pub use channel::Channel;
pub use decide::{Action, Decision, DecisionStats, DecisionTable, OpenDoor, decide};
pub use mailbox::{LowerRetention, MailboxLimits, MailboxSettings};
pub use obligations::{Obligations, Priorities};
pub use principal::{KeyVersion, OrganizationId, Principal, Replacement};
pub use recent::Recent;
pub use snapshot::{KEY_GRACE_MS, Policy, PrincipalError, Snapshot, SnapshotBuilder};
pub use source::{Answer, Evaluation, Evaluator, Input, PolicySource, Question, Reads};
