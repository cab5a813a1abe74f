//! Instructions of the stages, counted by valgrind's callgrind, against the baseline of this kind of processor in `benches/baseline`.
//! See [`creto_benches::instructions`] for what a count says. Status 1: a stage takes more than it may.
//!
//! ```text
//! scripts/instructions.sh             # against the baseline
//! scripts/instructions.sh --write     # make the baseline anew
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use creto_benches::crypto::station::{Recipient, Sender};
use creto_benches::instructions::{Baseline, Kind, LIMIT, compare, counted, features};
use creto_benches::{InstantShard, NOW, SUBMIT, session_batches};
use creto_crypto_accel::merkle::{Tree, leaf_hashes};
use creto_crypto_accel::session::{Peers, ReceiveChain, SendChain};
use creto_crypto_accel::sign::SigningKeys;
use creto_crypto_accel::verify::{Item, VerifyingKeys, verify_turn};
use creto_envelope::FrameType;
use creto_sim::agents::{SimAgent, snapshot};

const BATCH_MESSAGES: u64 = 256;

/// What is counted: callgrind collects while this runs, and only then.
#[inline(never)]
fn creto_counted(work: &mut dyn FnMut()) {
    // Kept over the work: nothing to be done behind it would make its call a jump, by which this was left before it began.
    let kept = std::hint::black_box([0u64; 2]);
    work();
    std::hint::black_box(kept);
}

/// Each does its work once uncounted, so that nothing is counted that a process does once.
const STAGES: [(&str, fn()); 8] = [
    ("submit/session-256x1KiB", submit),
    ("tree/256x1KiB", tree),
    ("verify/turn-of-16", verify),
    ("admit/session-256x1KiB", admit),
    ("admit_authorized/session-256x1KiB", admit_authorized),
    ("admit_logged/session-256x1KiB", admit_logged),
    ("open/session-256x1KiB", open),
    ("session/open-and-accept", session),
];

fn agents() -> (SimAgent, SimAgent) {
    (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2))
}

fn submit() {
    let (planner, executor) = agents();
    let mut sender = Sender::new(&planner, &executor);
    sender.submit(256);
    sender.frame();
    creto_counted(&mut || sender.submit(256));
}

fn tree() {
    let envelopes = vec![vec![5; 1_200]; 256];
    let (mut leaves, mut tree) = (Vec::new(), Tree::new());
    let mut work = || {
        leaves.clear();
        leaf_hashes(envelopes.iter().map(|envelope| (&[7; 16], envelope.as_slice())), &mut leaves);
        tree.rebuild(&leaves);
        std::hint::black_box(tree.root());
    };
    work();
    creto_counted(&mut work);
}

fn verify() {
    let signers: Vec<SigningKeys> =
        (0..16).map(|number| SigningKeys::from_seeds(&[number; 32], &[number + 99; 32])).collect();
    let keys: Vec<VerifyingKeys> = signers
        .iter()
        .map(|signer| VerifyingKeys::parse(&signer.public().ed25519, &signer.public().ml_dsa_65).expect("honest keys"))
        .collect();
    let statement = [3; 80];
    let signatures: Vec<_> = signers.iter().map(|signer| signer.sign(&statement)).collect();
    let items: Vec<Item<'_>> = keys
        .iter()
        .zip(&signatures)
        .map(|(keys, signature)| Item {
            keys,
            statement: &statement,
            ed25519: &signature.ed25519,
            ml_dsa_65: &signature.ml_dsa_65,
        })
        .collect();
    std::hint::black_box(verify_turn(&items));
    creto_counted(&mut || drop(std::hint::black_box(verify_turn(&items))));
}

/// Admits one batch, and then another one counted: a verdict that is remembered would cost nothing.
fn admitted(stages: fn(&mut creto_shard::admission::Admission, creto_shard::Now, bytes::Bytes) -> usize) {
    let (planner, executor) = agents();
    let bodies = session_batches(&planner, &executor, 2, BATCH_MESSAGES, 1_024);
    let mut admission = creto_shard::admission::Admission::new(snapshot([&planner, &executor]), planner.record.clone());
    stages(&mut admission, NOW, bodies[0].clone());
    let mut count = 0;
    creto_counted(&mut || count = stages(&mut admission, NOW, bodies[1].clone()));
    assert_eq!(count, 256, "every message is admitted");
}

fn admit() {
    admitted(creto_shard::admission::Admission::verify);
}

fn admit_authorized() {
    admitted(creto_shard::admission::Admission::authorize);
}

fn admit_logged() {
    let (planner, executor) = agents();
    let bodies = session_batches(&planner, &executor, 2, BATCH_MESSAGES, 1_024);
    let mut shard = InstantShard::new(&[&planner, &executor]);
    let connection = shard.connect(1, &planner);
    let mut take = |body: &bytes::Bytes| {
        shard.frame(connection, SUBMIT, FrameType::SignedBatch, body.clone());
        shard.turns();
    };
    take(&bodies[0]);
    creto_counted(&mut || take(&bodies[1]));
}

fn open() {
    let (planner, executor) = agents();
    let mut recipient = Recipient::new(&planner, &executor, 256);
    let mut number = 0;
    recipient.each_delivery(|work| {
        number += 1;
        // The first of a session decapsulates, and has its root verified.
        match number {
            2 => creto_counted(work),
            _ => work(),
        }
    });
}

fn session() {
    let (planner, executor) = agents();
    let peers = Peers { sender: planner.id.0, recipient: executor.id.0, key_id: executor.recipient_key().key_id() };
    let mut work = || {
        let (chain, wrapped_key) = SendChain::open(executor.recipient_key(), &peers);
        let accepted = ReceiveChain::accept(executor.recipient(), &peers, &chain.session_id(), &wrapped_key);
        std::hint::black_box(accepted.expect("the chain was opened for this recipient"));
    };
    work();
    creto_counted(&mut work);
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["--stage", name] => stage(name),
        ["--features"] => {
            println!("{}", features().join(" "));
            Ok(true)
        }
        [] => measure().and_then(|now| against_baseline(&now)),
        ["--write"] => measure().and_then(|now| write(&now)),
        _ => Err("give nothing, or --write".to_owned()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(text) => {
            eprintln!("error: {text}");
            ExitCode::from(2)
        }
    }
}

fn stage(name: &str) -> Result<bool, String> {
    let (_, work) = STAGES.iter().find(|(known, _)| *known == name).ok_or(format!("there is no stage `{name}`"))?;
    work();
    Ok(true)
}

fn valgrind(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("valgrind").args(arguments).output();
    let output = output.map_err(|error| format!("valgrind cannot be started: {error}; apt install valgrind"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = words.lines().rev().take(8).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        return Err(format!("valgrind ended with {}: {}", output.status, last.join("\n")));
    }
    String::from_utf8(output.stdout).map(|text| text.trim().to_owned()).map_err(|error| error.to_string())
}

/// Runs every stage under callgrind.
fn measure() -> Result<Baseline, String> {
    if cfg!(debug_assertions) {
        return Err(
            "counts of a debug build say nothing of the product: scripts/instructions.sh builds a release".to_owned()
        );
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = program.to_str().ok_or("the path of this program is not UTF-8")?;
    let seen = valgrind(&["-q", "--tool=none", program, "--features"])?;
    let c_compiler = Command::new("cc").arg("--version").output().ok();
    let c_compiler = c_compiler.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let kind = Kind {
        architecture: std::env::consts::ARCH.to_owned(),
        features: seen.split_whitespace().map(str::to_owned).collect(),
        valgrind: valgrind(&["--version"])?,
        rustc: env!("CRETO_RUSTC").to_owned(),
        c_compiler: c_compiler.lines().next().unwrap_or("unknown").to_owned(),
    };
    let left_out: Vec<String> = features().into_iter().filter(|name| !kind.features.contains(name)).collect();
    if !left_out.is_empty() {
        println!("valgrind hides {}: what code does with them here is not counted\n", left_out.join(", "));
    }
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut stages = BTreeMap::new();
    for (name, _) in STAGES {
        let file = folder.path().join("counts");
        let out = format!("--callgrind-out-file={}", file.display());
        let collect = "--toggle-collect=*creto_counted*";
        valgrind(&["-q", "--tool=callgrind", &out, collect, program, "--stage", name])?;
        let text = std::fs::read_to_string(&file).map_err(|error| format!("callgrind wrote no counts: {error}"))?;
        let count =
            counted(&text).ok_or(format!("callgrind counted nothing of `{name}`: was its function left out?"))?;
        stages.insert(name.to_owned(), count);
    }
    Ok(Baseline { kind, stages })
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline")
}

fn write(now: &Baseline) -> Result<bool, String> {
    let path = folder().join(now.kind.file_name());
    let text = serde_json::to_string_pretty(now).expect("counts are plain data") + "\n";
    std::fs::create_dir_all(folder()).and_then(|()| std::fs::write(&path, text)).map_err(|error| error.to_string())?;
    for (stage, count) in &now.stages {
        println!("{stage:38} {count:>12}");
    }
    println!("\nwritten: {}", path.display());
    Ok(true)
}

fn against_baseline(now: &Baseline) -> Result<bool, String> {
    let path = folder().join(now.kind.file_name());
    let text = std::fs::read_to_string(&path).map_err(|_| {
        let files = std::fs::read_dir(folder()).into_iter().flatten().flatten();
        let known: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        format!(
            "there is no baseline for this kind of processor ({}); there is {}. On the commit before the change, make one with \
             `scripts/instructions.sh --write`",
            now.kind.file_name(),
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        )
    })?;
    let baseline: Baseline = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let compared = compare(&baseline, now).map_err(|error| error.to_string())?;
    println!("{:38} {:>12} {:>12} {:>9}", "stage", "baseline", "now", "change");
    for one in &compared {
        let count = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let change = one.change().map_or_else(|| "-".to_owned(), |change| format!("{:+.2} %", change * 100.0));
        let verdict = match (one.holds(), one.change()) {
            (false, _) => "  MORE THAN IT MAY",
            (true, Some(change)) if change < -LIMIT => "  less: write the baseline anew",
            _ => "",
        };
        println!("{:38} {:>12} {:>12} {change:>9}{verdict}", one.stage, count(one.before), count(one.now));
    }
    Ok(compared.iter().all(creto_benches::instructions::Compared::holds))
}
