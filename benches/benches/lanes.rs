//! SHA-256 of many messages at once against one by one: `cargo bench -p creto-benches --bench lanes`.
//!
//! What processors and neighbours do to a figure they do to its neighbours in time, too: all ways take turns, and beside the
//! best time of each stands the median of its ratio to one by one of the same turn.

use std::hint::black_box;

use creto_benches::crypto::median::CpuTime;
use creto_crypto_accel::digest::{Hash, sha256};
use creto_sha_lanes::{Kind, Lanes, Message};

const KINDS: [Kind; 3] = [Kind::Two, Kind::SixteenAndTwo, Kind::Sixteen];
/// Salt and domain of a leaf; the domain of a node.
const LEAF_HEAD_BYTES: usize = 17;
const NODE_HEAD_BYTES: usize = 1;
/// Header, payload of 1 KiB and tag.
const ENVELOPE_BYTES: usize = 1_200;

struct Run {
    turns: usize,
    /// Bytes that are hashed in one turn of one way, about.
    turn_bytes: usize,
}

fn main() {
    // `cargo test --benches` runs every bench with `--test`, to see that it works.
    let run = match std::env::args().any(|argument| argument == "--test") {
        true => Run { turns: 1, turn_bytes: 0 },
        false => Run { turns: 101, turn_bytes: 200_000 },
    };
    println!("nanoseconds per message, the best of {} turns; ratio to one by one\n", run.turns);
    println!("| messages | one by one | {} |", KINDS.map(|kind| format!("{kind:?}")).join(" | "));
    println!("|---|---|{}", "---|".repeat(KINDS.len()));
    for count in [1, 2, 8, 9, 10, 12, 16, 17, 24, 32, 64, 256] {
        run.row::<LEAF_HEAD_BYTES>(&format!("{count} leaves of 1 KiB"), &vec![ENVELOPE_BYTES; count]);
    }
    for count in [1, 2, 8, 10, 16, 128] {
        run.row::<NODE_HEAD_BYTES>(&format!("{count} nodes"), &vec![64; count]);
    }
    let mixed: Vec<_> = (0..256usize).map(|index| 200 + index * 1_237 % 2_000).collect();
    run.row::<LEAF_HEAD_BYTES>("256 of 200 to 2,200 bytes", &mixed);
    run.row::<LEAF_HEAD_BYTES>("24 of them", &mixed[..24]);
    let mut one_long = vec![ENVELOPE_BYTES; 64];
    one_long[20] = 200_000;
    run.row::<LEAF_HEAD_BYTES>("64, one of them of 200,000 bytes", &one_long);
}

impl Run {
    fn row<const HEAD: usize>(&self, name: &str, lengths: &[usize]) {
        let bodies: Vec<_> = lengths.iter().map(|length| vec![0x5a; *length]).collect();
        let messages = || black_box(&bodies).iter().map(|body| Message { head: [7; HEAD], body });
        let mut hashes: Vec<Hash> = vec![[0; 32]; bodies.len()];
        let repeats = (self.turn_bytes / lengths.iter().sum::<usize>()).max(1);
        let mut time = |work: &mut dyn FnMut(&mut [Hash])| {
            let begun = CpuTime::now();
            for _ in 0..repeats {
                work(&mut hashes);
            }
            black_box(&hashes);
            begun.elapsed().as_nanos() as f64 / (repeats * bodies.len()) as f64
        };
        let mut one_by_one = Vec::new();
        let mut found = KINDS.map(|_| Vec::new());
        for _ in 0..self.turns {
            one_by_one.push(time(&mut |hashes| {
                hashes.iter_mut().zip(messages()).for_each(|(hash, m)| *hash = sha256(&[&m.head, m.body]));
            }));
            for (kind, times) in KINDS.into_iter().zip(&mut found) {
                if let Some(lanes) = Lanes::of_kind(kind) {
                    times.push(time(&mut |hashes| lanes.hash_each(messages(), hashes)));
                }
            }
        }
        let cells = found.map(|times| match times.is_empty() {
            true => "not here".to_owned(),
            false => format!("{:.0} ({:.2})", best(&times), median_ratio(&times, &one_by_one)),
        });
        println!("| {name} | {:.0} | {} |", best(&one_by_one), cells.join(" | "));
    }
}

fn best(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median_ratio(times: &[f64], to: &[f64]) -> f64 {
    let mut ratios: Vec<_> = times.iter().zip(to).map(|(time, to)| time / to).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}
