use creto_audit::{Checkpoint, LogVerifier};

use super::*;
use crate::fixture::{AUDIT_ORIGIN, audit_keys, keys};

const HEAD: TreeHead = TreeHead { size: 3, root: [7; 32], time_ms: 1_764_460_800_000 };

fn verify(note: &str) -> Result<SignedHead, KeyLogError> {
    SignedHead::verify(&LogVerifier::new(keys().public().clone()).unwrap(), note.as_bytes())
}

#[test]
fn a_head_is_read_as_it_was_signed() {
    let note = HEAD.sign(&keys());
    let head = verify(&note).unwrap();
    assert_eq!((&*head, head.note()), (&HEAD, &*note));
    assert!(note.starts_with("creto.local/creto-audit/node-1/keys\n3\nBwcH"), "{note}");
}

#[test]
fn a_head_holds_with_both_signatures_only() {
    let note = HEAD.sign(&keys());
    let (text, signatures) = note.rsplit_once("\n\n").unwrap();
    let lines: Vec<_> = signatures.lines().collect();
    for line in &lines {
        assert_eq!(verify(&format!("{text}\n\n{line}\n")).unwrap_err().code(), "signature_missing");
        assert_eq!(verify(&format!("{note}{line}\n")).unwrap_err().code(), "signature_repeated");
    }
    let grown = note.replacen("\n3\n", "\n4\n", 1);
    assert_eq!(verify(&grown).unwrap_err().code(), "signature_forged");
}

#[test]
fn a_checkpoint_of_the_audit_log_is_no_head_and_a_head_no_checkpoint() {
    let checkpoint =
        Checkpoint { origin: AUDIT_ORIGIN.to_owned(), size: 0, root: [7; 32], time_ms: 5, sources: Vec::new() };
    assert_eq!(verify(&checkpoint.sign(&audit_keys())).unwrap_err().code(), "other_origin");
    let audit = LogVerifier::new(audit_keys().public().clone()).unwrap();
    assert_eq!(audit.verify(HEAD.sign(&keys()).as_bytes()).unwrap_err().code(), "other_origin");
}

#[test]
fn a_text_that_is_no_head_is_refused_though_it_is_signed() {
    let origin = keys().public().origin().to_owned();
    let root = STANDARD.encode([7; 32]);
    for text in [
        format!("{origin}\n3\n{root}\n"),
        format!("{origin}\n03\n{root}\ntime 5\n"),
        format!("{origin}\n3\n{root}\ntime +5\n"),
        format!("{origin}\n3\nBwcH\ntime 5\n"),
        format!("{origin}\n3\n{root}\ntime 5\nmore\n"),
    ] {
        assert_eq!(verify(&keys().sign_note(&text)), Err(KeyLogError::HeadForm), "{text}");
    }
}
