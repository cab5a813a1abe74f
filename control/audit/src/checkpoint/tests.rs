use super::*;
use crate::fixture::{Log, ORIGIN, keys, verifier};

#[test]
fn a_checkpoint_is_read_as_it_was_signed() {
    let log = Log::of(300);
    let signed = log.checkpoint(300);
    assert_eq!(signed.origin, ORIGIN);
    assert_eq!((signed.size, signed.root), (300, log.root(300)));
    assert_eq!(signed.sources.iter().map(|chain| chain.source.to_string()).collect::<Vec<_>>(), ["shard-0", "control"]);
    let lines: Vec<_> = signed.note().lines().collect();
    assert_eq!(lines[..2], [ORIGIN, "300"]);
    assert_eq!(lines[3], "time 1764460800000");
    assert!(lines[4].starts_with("source shard-0 100 "), "{}", lines[4]);
    assert_eq!(lines[6], "");
    let empty = log.checkpoint(0);
    assert!(empty.sources.is_empty() && empty.size == 0);
}

#[test]
fn both_signatures_must_be_there_and_hold() {
    let note = Log::of(3).checkpoint(3).note().to_owned();
    let verify = |note: &str| verifier().verify(note.as_bytes()).map(|_| ());
    assert_eq!(verify(&note), Ok(()));
    let lines: Vec<_> = note.lines().collect();
    let [rest @ .., ed25519, ml_dsa] = lines.as_slice() else { panic!("two signatures") };
    let with = |signatures: &[&str]| format!("{}\n{}\n", rest.join("\n"), signatures.join("\n"));
    assert_eq!(verify(&with(&[ml_dsa, ed25519])), Ok(()), "their order says nothing");
    assert_eq!(verify(&with(&[ed25519])), Err(CheckpointError::Missing("ML-DSA-65")));
    assert_eq!(verify(&with(&[ml_dsa])), Err(CheckpointError::Missing("Ed25519")));
    assert_eq!(verify(&with(&[ed25519, ed25519, ml_dsa])), Err(CheckpointError::Repeated("Ed25519")));
    let stranger = "\u{2014} witness.example AAAAAQID";
    assert_eq!(verify(&with(&[stranger, ed25519, ml_dsa])), Ok(()), "others may sign, too");
    for (index, algorithm) in [(0, "Ed25519"), (1, "ML-DSA-65")] {
        let mut signatures = [(*ed25519).to_owned(), (*ml_dsa).to_owned()];
        let (head, encoded) = signatures[index].rsplit_once(' ').unwrap();
        let mut bytes = STANDARD.decode(encoded).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        signatures[index] = format!("{head} {}", STANDARD.encode(bytes));
        let forged = with(&[&signatures[0], &signatures[1]]);
        assert_eq!(verify(&forged), Err(CheckpointError::Forged(algorithm)));
    }
    assert_eq!(verify(&note.replacen("\n3\n", "\n4\n", 1)), Err(CheckpointError::Forged("Ed25519")));
}

#[test]
fn another_logs_checkpoint_is_refused_by_its_name() {
    let other = LogKeys::from_seeds("creto.local/creto-audit/other", &[1; 32], &[2; 32]).unwrap();
    let checkpoint = Checkpoint { origin: other.public().origin().to_owned(), ..(*Log::of(1).checkpoint(1)).clone() };
    let error = verifier().verify(checkpoint.sign(&other).as_bytes()).unwrap_err();
    assert_eq!((error.code(), error.to_string().contains("creto-audit/other")), ("other_origin", true));
}

#[test]
fn texts_that_are_not_a_checkpoints_are_refused() {
    let good = Log::of(3).checkpoint(3).to_text();
    assert!(Checkpoint::parse(&good).is_ok());
    let lines: Vec<_> = good.lines().collect();
    let with = |changes: &[(usize, &str)]| {
        let mut lines = lines.clone();
        changes.iter().for_each(|(index, line)| lines[*index] = line);
        Checkpoint::parse(&format!("{}\n", lines.join("\n")))
    };
    for (index, line) in [
        (0, ""),
        (1, "03"),
        (1, "+3"),
        (1, "-1"),
        (2, "AAAA"),
        (3, "time 01"),
        (3, "times 1"),
        (4, ""),
        (4, "source shard-0 0 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        (4, "source shard-00 1 x"),
    ] {
        assert_eq!(with(&[(index, line)]), Err(CheckpointError::Form), "{line}");
    }
    assert_eq!(with(&[(1, "4")]), Err(CheckpointError::Sources), "positions add up to the size");
    assert_eq!(with(&[(4, lines[5]), (5, lines[4])]), Err(CheckpointError::Sources), "sources are in order");
    assert_eq!(Checkpoint::parse(good.trim_end()), Err(CheckpointError::Form));
}

#[test]
#[should_panic(expected = "every leaf is of one source")]
fn a_log_does_not_sign_what_does_not_add_up() {
    let checkpoint = Checkpoint { size: 4, ..(*Log::of(3).checkpoint(3)).clone() };
    let _ = checkpoint.sign(&keys());
}
