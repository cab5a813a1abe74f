//! Proofs as files, good ones and bad ones, with the verdict of each: also for a second verifier, such as the dashboard's, which runs in
//! a browser (`scripts/proofs.mjs`).
//!
//! `CRETO_GOLDEN=write cargo test -p creto-audit golden` writes them anew: only for a new version of the format.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Log, proof, verifier};
use crate::LogVerifier;
use crate::event::{Event, Label, SourceId};
use crate::fixture::{ORIGIN, keys, what};
use crate::keys::LogPublic;
use crate::limits::SALT_BYTES;
use crate::proof::{InclusionProof, entry_hash};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/proofs"))
}

fn is_written() -> bool {
    std::env::var_os("CRETO_GOLDEN").is_some_and(|how| how == "write")
}

/// The proof's file with another note under it.
fn under(proof: &InclusionProof, checkpoint: String) -> String {
    InclusionProof { checkpoint, ..proof.clone() }.to_text()
}

/// The note with one bit of its signature number `which` turned.
fn forged(note: &str, which: usize) -> String {
    let mut lines: Vec<String> = note.lines().map(str::to_owned).collect();
    let place = lines.len() - 2 + which;
    let (head, encoded) =
        lines[place].rsplit_once(' ').map(|(head, encoded)| (head.to_owned(), encoded.to_owned())).unwrap();
    let mut bytes = STANDARD.decode(encoded).unwrap();
    bytes[40] ^= 1;
    lines[place] = format!("{head} {}", STANDARD.encode(bytes));
    lines.join("\n") + "\n"
}

/// The note with some of its two signatures.
fn signed_by(note: &str, which: &[usize]) -> String {
    let (text, lines) = note.split_once("\n\n").unwrap();
    let signatures: Vec<&str> = lines.lines().collect();
    let chosen: String = which.iter().map(|&place| format!("{}\n", signatures[place])).collect();
    format!("{text}\n\n{chosen}")
}

/// By name: the file, and its verdict.
fn made() -> BTreeMap<&'static str, (String, &'static str)> {
    let mut log = Log::of(70);
    let good = proof(&mut log, 20, 70, None);
    let (note, text) = (good.checkpoint.clone(), good.to_text());
    let changed = |change: &dyn Fn(&mut InclusionProof)| {
        let mut proof = good.clone();
        change(&mut proof);
        proof.to_text()
    };
    let signed = |text: String| under(&good, keys().sign_note(&text));
    let checkpoint = note.split_once("\n\n").unwrap().0.to_owned() + "\n";
    let holds = "holds";
    let absent = "not_in_the_log";
    let no_proof = "not_a_proof";
    BTreeMap::from([
        ("leaf-20-of-70", (text.clone(), holds)),
        ("leaf-0-of-1", (proof(&mut log, 0, 1, None).to_text(), holds)),
        ("leaf-0-of-64", (proof(&mut log, 0, 64, None).to_text(), holds)),
        ("leaf-69-of-70", (proof(&mut log, 69, 70, None).to_text(), holds)),
        ("leaf-64-of-65", (proof(&mut log, 64, 65, None).to_text(), holds)),
        ("grown-from-33", (proof(&mut log, 20, 70, Some(33)).to_text(), holds)),
        ("other-salt", (changed(&|proof| proof.entry[0] ^= 1), absent)),
        ("other-event", (changed(&|proof| *proof.entry.last_mut().unwrap() ^= 1), absent)),
        ("other-place", (changed(&|proof| proof.index = 21), absent)),
        ("place-outside", (changed(&|proof| proof.index = 70), absent)),
        ("path-longer", (changed(&|proof| proof.path.push([0; 32])), absent)),
        ("path-shorter", (changed(&|proof| proof.path.truncate(proof.path.len() - 1)), absent)),
        ("path-changed", (changed(&|proof| proof.path[2][31] ^= 0x80), absent)),
        ("path-exchanged", (changed(&|proof| proof.path.swap(0, 1)), absent)),
        ("checkpoint-of-69", (under(&good, log.checkpoint(69).note().to_owned()), absent)),
        ("text-changed", (under(&good, note.replace("time 17", "time 18")), "signature_forged")),
        ("ed25519-forged", (under(&good, forged(&note, 0)), "signature_forged")),
        ("ml-dsa-65-forged", (under(&good, forged(&note, 1)), "signature_forged")),
        ("ed25519-only", (under(&good, signed_by(&note, &[0])), "signature_missing")),
        ("ml-dsa-65-only", (under(&good, signed_by(&note, &[1])), "signature_missing")),
        ("signed-twice", (under(&good, signed_by(&note, &[0, 1, 1])), "signature_repeated")),
        ("other-log", (under(&good, note.replace(ORIGIN, "creto.local/creto-audit/node-2")), "other_origin")),
        ("sources-do-not-add-up", (signed(checkpoint.replace("\n70\n", "\n71\n")), "checkpoint_sources")),
        ("sources-out-of-order", (signed(in_other_order(&checkpoint)), "checkpoint_sources")),
        ("size-with-a-zero-before", (signed(checkpoint.replace("\n70\n", "\n070\n")), "checkpoint_form")),
        ("time-is-no-number", (signed(checkpoint.replace("\ntime ", "\ntime +")), "checkpoint_form")),
        ("note-without-an-end", (text.trim_end().to_owned(), "not_a_note")),
        ("other-version", (text.replacen("@v1", "@v2", 1), no_proof)),
        ("without-an-index", (text.replacen("index", "place", 1), no_proof)),
        ("index-with-a-zero-before", (text.replacen("index 20", "index 020", 1), no_proof)),
        ("base64-not-padded", (without_padding(&text), no_proof)),
        ("leaf-with-a-text", (with_a_text(), holds)),
        ("event-of-another-version", (alone(&log, &|event| event[0] = 2), "event")),
        ("event-of-no-kind", (alone(&log, &|event| event[1] = 255), "event")),
        ("event-with-an-unknown-flag", (alone(&log, &|event| event[2] |= 2), "event")),
        ("event-with-something-reserved", (alone(&log, &|event| event[7] = 1), "event")),
        ("event-of-no-time", (alone(&log, &|event| event[23] = 0x80), "event")),
        ("event-with-a-byte-more", (alone(&log, &|event| event.push(b'x')), "event")),
        ("event-with-a-byte-less", (alone(&log, &|event| event.truncate(event.len() - 1)), "event")),
        ("event-without-its-text", (alone(&log, &|event| event[3] = 1), "event")),
        ("event-with-a-text-that-moves-a-cursor", (alone(&log, &unprintable), "event")),
        ("event-without-its-fields", (alone(&log, &|event| event.truncate(56)), "event")),
        ("event-cut-in-its-header", (alone(&log, &|event| event.truncate(40)), no_proof)),
        ("cut", (text[..text.find("\n\n").unwrap()].to_owned(), no_proof)),
    ])
}

/// The log's first entry with its event changed, alone in a log that its keys signed all the same.
fn alone(log: &Log, change: &dyn Fn(&mut Vec<u8>)) -> String {
    let mut entry = log.entries[0].clone().unwrap();
    let mut event = entry.split_off(SALT_BYTES);
    change(&mut event);
    entry.append(&mut event);
    let note = log.checkpoint(1).note().to_owned();
    let mut lines: Vec<&str> = note.split_once("\n\n").unwrap().0.lines().collect();
    let root = STANDARD.encode(entry_hash(&entry).unwrap());
    lines[2] = &root;
    let checkpoint = keys().sign_note(&(lines.join("\n") + "\n"));
    InclusionProof { index: 0, entry, path: Vec::new(), checkpoint, grown_from: None }.to_text()
}

fn unprintable(event: &mut Vec<u8>) {
    event[3] = 1;
    event.push(0x1b);
}

fn with_a_text() -> String {
    let mut log = Log::of(3);
    log.push(SourceId::CONTROL, &Event::new(2_000, what(3)), &Label::of("acme/planner"));
    proof(&mut log, 3, 4, None).to_text()
}

fn in_other_order(checkpoint: &str) -> String {
    let mut lines: Vec<&str> = checkpoint.lines().collect();
    let last = lines.len() - 1;
    lines.swap(last, last - 1);
    lines.join("\n") + "\n"
}

/// The first line that has padding, without it.
fn without_padding(text: &str) -> String {
    let line = text.lines().find(|line| line.ends_with('=')).unwrap();
    text.replacen(line, line.trim_end_matches('='), 1)
}

fn verdict(log: &LogVerifier, file: &str) -> &'static str {
    let verified = InclusionProof::parse(file.as_bytes()).and_then(|proof| proof.verify(log, None));
    verified.map_or_else(|error| error.code(), |_| "holds")
}

#[test]
fn every_golden_proof_has_the_verdict_that_is_written_beside_it() {
    let made = made();
    if is_written() {
        fs::create_dir_all(folder()).unwrap();
        fs::write(folder().join("audit.pub"), keys().public().to_text()).unwrap();
        let verdicts: String = made.iter().map(|(name, (_, verdict))| format!("{name} {verdict}\n")).collect();
        fs::write(folder().join("verdicts"), verdicts).unwrap();
        for (name, (file, _)) in &made {
            fs::write(folder().join(format!("{name}.proof")), file).unwrap();
        }
    }
    let public = LogPublic::parse(&fs::read_to_string(folder().join("audit.pub")).unwrap()).unwrap();
    let log = LogVerifier::new(public).unwrap();
    let verdicts = fs::read_to_string(folder().join("verdicts")).unwrap();
    let mut count = 0;
    for line in verdicts.lines() {
        let (name, wanted) = line.split_once(' ').unwrap();
        let file = fs::read_to_string(folder().join(format!("{name}.proof"))).unwrap();
        assert_eq!(verdict(&log, &file), wanted, "{name}");
        // What is made today is judged the same: the files say what this code does. One signature of two is hedged, so bytes differ.
        assert_eq!(verdict(&verifier(), &made[name].0), made[name].1, "{name}");
        assert_eq!(made[name].1, wanted, "{name}");
        count += 1;
    }
    assert_eq!(count, made.len(), "no verdict is missing");
}
