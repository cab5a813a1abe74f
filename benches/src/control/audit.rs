//! The audit log: events to durable leaves, their export, and its verification as an auditor does it.
//!
//! What is measured is the whole work of the audit thread: encoding, chaining, salting, hashing, the tree, writing, a commit for
//! every 16,384 events and a signed checkpoint for every 300,000. CPU time of the one thread is what counts; the clock on the
//! wall has the disk's syncs in it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use creto_audit::event::{ChannelId, What};
use creto_audit::{Event, LogKeys, LogVerifier, SourceId};
use creto_audit_store::disk::RealDisk;
use creto_audit_store::{LogReader, Writer, export, verify_export};
use creto_envelope::{AgentId, MessageId};
use nix::time::{ClockId, clock_gettime};

use super::ControlBenchError;

/// The log that is made.
pub const ORIGIN: &str = "creto.local/creto-audit/bench";
/// Events of one push of a shard.
const PUSH: u64 = 1_024;
/// Events between two commits.
const COMMIT: u64 = 16_384;
/// Events between two checkpoints: a second at the rate that is promised.
const CHECKPOINT: u64 = 300_000;

const BROKEN: &str = "the audit log that was just written does not hold";

/// What one step took.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Leaves.
    pub leaves: u64,
    /// On the clock.
    pub wall: Duration,
    /// CPU time of the thread.
    pub cpu: Duration,
}

impl Step {
    fn take(leaves: u64, run: impl FnOnce() -> Result<(), ControlBenchError>) -> Result<Self, ControlBenchError> {
        let (wall, cpu) = (Instant::now(), cpu_time());
        run()?;
        Ok(Self { leaves, wall: wall.elapsed(), cpu: cpu_time() - cpu })
    }

    /// Leaves per second of CPU time.
    #[must_use]
    pub fn per_s(&self) -> f64 {
        self.leaves as f64 / self.cpu.as_secs_f64()
    }
}

/// What became of the log.
#[derive(Clone, Copy, Debug)]
pub struct Audited {
    /// Leaves.
    pub leaves: u64,
    /// From events to a signed log.
    pub write: Step,
    /// Its export.
    pub export: Step,
    /// Verification of the export.
    pub verify: Step,
}

/// Writes a log of at least so many leaves into a folder with nothing but its keys, exports and verifies it.
///
/// # Errors
/// The disk does not take it, or the log does not hold.
pub fn measure(folder: &Path, keys: LogKeys, leaves: u64) -> Result<Audited, ControlBenchError> {
    let verifier = LogVerifier::new(keys.public().clone()).map_err(ControlBenchError::when(BROKEN))?;
    let leaves = leaves.next_multiple_of(PUSH);
    let write = Step::take(leaves, || {
        write(folder, keys, leaves).map_err(ControlBenchError::when("the audit log cannot be written"))
    })?;

    let file = folder.join("export");
    let reader = LogReader::open(folder).map_err(ControlBenchError::when(BROKEN))?;
    let export = Step::take(leaves, || {
        let out = File::create(&file).map_err(ControlBenchError::when("the export cannot be written"))?;
        let mut out = BufWriter::new(out);
        export(&reader, &mut out, |_| true).map_err(ControlBenchError::when(BROKEN))?;
        out.flush().map_err(ControlBenchError::when("the export cannot be written"))
    })?;

    let mut verified = 0;
    let verify = Step::take(leaves, || {
        let input = File::open(&file).map_err(ControlBenchError::when("the export cannot be read"))?;
        let input = BufReader::with_capacity(1 << 20, input);
        let (_, summary) = verify_export(input, &verifier, None, |_| ()).map_err(ControlBenchError::when(BROKEN))?;
        verified = summary.leaves;
        Ok(())
    })?;
    assert_eq!(verified, leaves, "every leaf was verified");
    Ok(Audited { leaves, write, export, verify })
}

fn write(folder: &Path, keys: LogKeys, leaves: u64) -> Result<(), creto_audit_store::StoreError> {
    let mut writer = Writer::open(RealDisk::new(folder), keys)?;
    let events: Vec<_> = (0..PUSH).map(event).collect();
    let (mut written, mut committed, mut signed) = (0, 0, 0);
    while written < leaves {
        writer.append(SourceId::shard(u16::from(written / PUSH % 2 == 1)), &events)?;
        written += PUSH;
        if written - committed >= COMMIT || written >= leaves {
            writer.commit()?;
            committed = written;
        }
        if committed - signed >= CHECKPOINT || written >= leaves {
            writer.checkpoint(written)?;
            signed = committed;
        }
    }
    Ok(())
}

/// Half accepted, half delivered.
fn event(sequence: u64) -> Event {
    let id = |first: u8| AgentId([first; 16]);
    let what = match sequence % 2 {
        0 => What::Accepted {
            sender: id(1),
            recipient: id(2),
            message_id: MessageId([3; 16]),
            channel: ChannelId::default(),
            sequence,
            envelope_bytes: 1_400,
            key_version: 1,
            priority: 1,
            message_kind: 0,
        },
        _ => What::Delivered { mailbox: id(2), sequence },
    };
    Event::new(1_764_000_000_000 + sequence, what)
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a CPU clock").into()
}
