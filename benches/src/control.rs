//! What identities, policy and audit cost on this machine: `creto bench control` prints these figures, the benches
//! `authorize` and `audit` measure more of the same.

pub mod audit;
pub mod decisions;

use std::path::Path;

use creto_audit::LogKeys;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Pairs of agents whose decisions a shard remembers. A power of two.
    pub pairs: usize,
    /// Decisions that are evaluated.
    pub misses: usize,
    /// Leaves of the audit log.
    pub leaves: u64,
}

impl Scale {
    /// What the targets speak of.
    pub const FULL: Self = Self { pairs: 1 << 20, misses: 20_000, leaves: 1_000_000 };
    /// Shows that measuring works; the figures mean nothing.
    pub const TRIAL: Self = Self { pairs: 1 << 10, misses: 100, leaves: 20_000 };
}

/// The figures, named as `creto bench control --json` names them.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Figures {
    /// Pairs in the table of decisions.
    pub decision_pairs: usize,
    /// A decision from a warm table, as a shard makes it for each message of a batch to sixteen recipients; pairs in an order
    /// that the processor cannot guess, median.
    pub decision_p50_ns: u64,
    /// The same, 99th percentile.
    pub decision_p99_ns: u64,
    /// A decision of which the table knows nothing before it is asked for it: it waits for memory. Median.
    pub decision_alone_p50_ns: u64,
    /// The same, 99th percentile.
    pub decision_alone_p99_ns: u64,
    /// A decision that is not in the table: the three policies of the product's documents in one are evaluated. Median.
    pub decision_miss_us: f64,
    /// From an operator's request to revoke an agent until its connection to the last shard is closed, slowest of several.
    /// Measured with a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation_ms: Option<f64>,
    /// Events that one core makes leaves of: encoded, chained, salted, hashed, written, committed, signed.
    pub audit_leaves_per_s: f64,
    /// Leaves of the log that was written and verified.
    pub audit_leaves: u64,
    /// An export of a million leaves, verified offline: on the clock, read from disk. `null` where fewer were written.
    pub verify_1m_leaves_s: Option<f64>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct ControlBenchError {
    what: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl ControlBenchError {
    fn when<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self { what, source: Box::new(error) }
    }
}

/// Measures everything but the revocation, which needs a node. What it writes into the folder, some 300 MB at full scale, is
/// left to whoever made it.
///
/// # Errors
/// The folder cannot be written to.
pub fn measure(folder: &Path, scale: Scale) -> Result<Figures, ControlBenchError> {
    let warm = decisions::warm(scale.pairs);
    let misses = decisions::misses(scale.misses);
    let log_keys: LogKeys = creto_audit_store::keys::create(folder, audit::ORIGIN)
        .map_err(ControlBenchError::when("no keys can be made for the audit log"))?;
    let audited = audit::measure(folder, log_keys, scale.leaves)?;
    Ok(Figures {
        decision_pairs: scale.pairs,
        decision_p50_ns: warm.batch.at(0.5),
        decision_p99_ns: warm.batch.at(0.99),
        decision_alone_p50_ns: warm.alone.at(0.5),
        decision_alone_p99_ns: warm.alone.at(0.99),
        decision_miss_us: misses.at(0.5) as f64 / 1e3,
        revocation_ms: None,
        audit_leaves_per_s: audited.write.per_s(),
        audit_leaves: audited.leaves,
        verify_1m_leaves_s: (audited.leaves >= 1_000_000)
            .then(|| audited.verify.wall.as_secs_f64() * 1e6 / audited.leaves as f64),
    })
}
