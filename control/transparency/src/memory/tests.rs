use super::*;

/// Counts what is read.
struct Counting<'n> {
    nodes: &'n mut Subtrees,
    reads: usize,
}

impl Nodes for Counting<'_> {
    type Error = Infallible;

    fn complete(&mut self, level: u8, index: u64) -> Result<Hash, Infallible> {
        self.reads += 1;
        self.nodes.complete(level, index)
    }
}

#[test]
fn a_proof_of_a_million_leaves_reads_two_rows_for_each_level() {
    const SIZE: u64 = 1_000_000;
    const LEVELS: usize = 20;
    let mut nodes = Subtrees::default();
    for index in 0..SIZE {
        let leaf = creto_crypto_accel::digest::sha256(&[&index.to_le_bytes()]);
        let Ok(()) = completed_by(&mut nodes, index, leaf, |nodes, level, at, hash| {
            nodes.0.insert((level, at), hash);
            Ok(())
        });
    }
    assert!((nodes.0.len() as u64) < 2 * SIZE);
    let mut counting = Counting { nodes: &mut nodes, reads: 0 };
    let mut most = 0;
    // An index of each kind: the ends, and a spread in between.
    for index in (0..SIZE).step_by(9_973).chain([1, SIZE / 2, SIZE - 2, SIZE - 1]) {
        for size in [SIZE, SIZE - 1, 999_423] {
            counting.reads = 0;
            let Ok(path) = inclusion_proof(&mut counting, index.min(size - 1), size);
            assert!(path.len() <= LEVELS);
            most = most.max(counting.reads);
            counting.reads = 0;
            let Ok(proof) = consistency_proof(&mut counting, index.clamp(1, size), size);
            assert!(proof.len() <= LEVELS + 1);
            most = most.max(counting.reads);
        }
    }
    assert!(most <= 2 * LEVELS, "{most} rows");
    counting.reads = 0;
    let Ok(_) = root_at(&mut counting, SIZE);
    assert!(counting.reads <= LEVELS, "{} rows", counting.reads);
}
