//! Policies in Rego: read, refused where they could not be trusted, and evaluated within bounds.
//!
//! [`PolicySource::parse`] takes a file as an operator wrote it and gives a [`CompiledPolicy`] or one [`PolicyError`] with
//! a stable code, a place and what to do. What it lets pass is deterministic and reads nothing but the documented input
//! (`docs/policy.md`), so that a decision may be kept under [`CompiledPolicy::reads`]: two requests that agree on those
//! inputs get the same [`Verdict`].
//!
//! The answer is **no** unless a rule says yes: [`CompiledPolicy::decide`] turns everything else into a denial.
//!
//! This crate is pure but for the clock by which regorus ends an evaluation that takes too long.
#![forbid(unsafe_code)]

mod builtins;
mod compile;
mod error;
mod evaluate;
mod explain;
mod facts;
pub mod limits;
mod obligations;
mod request;
mod scan;
mod schema;
mod suite;

pub use compile::{CompiledPolicy, PolicySource};
pub use error::{EvaluationError, PolicyError, RefusalCode};
pub use evaluate::{Evaluator, Verdict};
pub use explain::{Explanation, RuleOutcome};
pub use obligations::{Obligations, PriorityName};
pub use request::{Action, Agent, AgentView, Request, RequestView};
pub use schema::ReadSet;
pub use suite::{TestOutcome, TestReport};
