//! The audit log: events to durable leaves, and their verification: `cargo bench -p creto-benches --bench audit`.
//!
//! What is measured is the whole work of the audit thread: encoding, chaining, salting, hashing, the tree, writing, a commit for
//! every 16,384 events and a signed checkpoint for every 300,000. Then the export of the log is verified as an auditor does it.
//! CPU time of the one thread is what counts; the clock on the wall has the disk's syncs in it.

use std::time::{Duration, Instant};

use creto_audit::event::{ChannelId, What};
use creto_audit::{Event, LogVerifier, SourceId};
use creto_audit_store::disk::RealDisk;
use creto_audit_store::{LogReader, Writer, export, keys, verify_export};
use creto_envelope::{AgentId, MessageId};
use nix::time::{ClockId, clock_gettime};

/// Events of one push of a shard.
const PUSH: usize = 1_024;
/// Events between two commits.
const COMMIT: u64 = 16_384;
/// Events between two checkpoints: a second at the rate that is promised.
const CHECKPOINT: u64 = 300_000;

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a CPU clock").into()
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

fn main() {
    // `cargo test --benches` runs every bench with `--test`, to see that it works.
    let leaves: u64 = if std::env::args().any(|argument| argument == "--test") { 20_000 } else { 1_000_000 };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log_keys = keys::create(folder.path(), "creto.local/creto-audit/bench").expect("a fresh folder");
    let verifier = LogVerifier::new(log_keys.public().clone()).expect("honest keys");
    let mut writer = Writer::open(RealDisk::new(folder.path()), log_keys).expect("an empty folder");

    let events: Vec<_> = (0..PUSH as u64).map(event).collect();
    let (wall, cpu) = (Instant::now(), cpu_time());
    let (mut written, mut committed, mut signed) = (0_u64, 0_u64, 0_u64);
    while written < leaves {
        let source = SourceId::shard(u16::from(written / PUSH as u64 % 2 == 1));
        writer.append(source, &events).expect("the disk takes it");
        written += PUSH as u64;
        if written - committed >= COMMIT || written >= leaves {
            writer.commit().expect("the disk takes it");
            committed = written;
        }
        if committed - signed >= CHECKPOINT || written >= leaves {
            writer.checkpoint(written).expect("the disk takes it");
            signed = committed;
        }
    }
    report("write", written, wall.elapsed(), cpu_time() - cpu);

    let file = folder.path().join("export");
    let reader = LogReader::open(folder.path()).expect("it was just written");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&file).expect("a temporary folder"));
    let (wall, cpu) = (Instant::now(), cpu_time());
    export(&reader, &mut out, |_| true).expect("it was just written");
    drop(out);
    report("export", written, wall.elapsed(), cpu_time() - cpu);

    let (wall, cpu) = (Instant::now(), cpu_time());
    let input = std::io::BufReader::with_capacity(1 << 20, std::fs::File::open(&file).expect("just written"));
    let (_, summary) = verify_export(input, &verifier, None, |_| ()).expect("an honest log holds");
    assert_eq!(summary.leaves, written, "every leaf was verified");
    report("verify", written, wall.elapsed(), cpu_time() - cpu);
}

fn report(what: &str, leaves: u64, wall: Duration, cpu: Duration) {
    let per_leaf = cpu.as_nanos() as f64 / leaves as f64;
    let (rate, per_million) = (1e9 / per_leaf, per_leaf / 1_000.0);
    println!(
        "{what:8} {leaves} leaves: {per_leaf:.0} ns of CPU each, {rate:.0} leaves/s, {per_million:.3} s of CPU per million; {wall:.2?} in all"
    );
}
