//! The audit log, step by step: `cargo bench -p creto-benches --bench audit`. The same as `creto bench control` measures.

use creto_audit_store::keys;
use creto_benches::control::audit::{ORIGIN, Step, measure};

fn main() {
    // `cargo test --benches` runs every bench with `--test`, to see that it works.
    let leaves: u64 = if std::env::args().any(|argument| argument == "--test") { 20_000 } else { 1_000_000 };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log_keys = keys::create(folder.path(), ORIGIN).expect("a fresh folder");
    let audited = measure(folder.path(), log_keys, leaves).expect("an honest log on a disk that works");
    report("write", audited.write);
    report("export", audited.export);
    report("verify", audited.verify);
}

fn report(what: &str, step: Step) {
    let per_leaf = step.cpu.as_nanos() as f64 / step.leaves as f64;
    let (rate, per_million, wall) = (step.per_s(), per_leaf / 1_000.0, step.wall);
    let leaves = step.leaves;
    println!(
        "{what:8} {leaves} leaves: {per_leaf:.0} ns of CPU each, {rate:.0} leaves/s, {per_million:.3} s of CPU per million; {wall:.2?} in all"
    );
}
