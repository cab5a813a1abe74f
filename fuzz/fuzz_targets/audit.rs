//! Any bytes as an event, a checkpoint, a proof, a bundle or the head of an export of the audit log. The first byte chooses.
#![no_main]

use creto_audit::export::{EXPORT_HEAD_BYTES, ExportHead, Verifier};
use creto_audit::note::Note;
use creto_audit::proof::InclusionProof;
use creto_audit::tile::{Entry, entries, push_entry, push_hidden};
use creto_audit::{ChainedEvent, Checkpoint, LogKeys, LogPublic, LogVerifier};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    match choice % 6 {
        0 => check_event(data),
        1 => check_note(data),
        2 => check_proof(data),
        3 => check_bundle(data),
        4 => check_head(data),
        _ => check_log(data),
    }
});

/// An event that is accepted encodes to the bytes that it was read from.
fn check_event(data: &[u8]) {
    let Ok(event) = ChainedEvent::parse(data) else { return };
    let mut again = Vec::new();
    event.encode(&mut again);
    assert!(again == data, "an accepted event comes back as it was");
    assert_eq!(ChainedEvent::peek(data), Ok((event.source, event.position, event.previous)));
}

/// A checkpoint that is accepted is written as the text that it was read from.
fn check_note(data: &[u8]) {
    if let Ok(note) = Note::parse(data) {
        assert!(note.text.ends_with('\n') && !note.signatures.is_empty());
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert!(checkpoint.to_text() == text, "an accepted checkpoint comes back as it was");
    }
    if let Ok(public) = LogPublic::parse(text) {
        assert_eq!(LogPublic::parse(&public.to_text()).as_ref(), Ok(&public));
    }
}

fn check_proof(data: &[u8]) {
    let Ok(proof) = InclusionProof::parse(data) else { return };
    assert!(proof.to_text().as_bytes() == data, "an accepted proof comes back as it was");
}

/// A bundle whose places are all there is written as the bytes that it was read from.
fn check_bundle(data: &[u8]) {
    let mut again = Vec::new();
    for entry in entries(data) {
        match entry {
            Entry::Full(entry) => push_entry(&mut again, entry),
            Entry::Hidden => push_hidden(&mut again),
            Entry::Broken => return,
        }
    }
    assert!(again == data, "an accepted bundle comes back as it was");
}

fn check_head(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<EXPORT_HEAD_BYTES>() else { return };
    if let Ok(head) = ExportHead::parse(bytes) {
        assert_eq!(head.to_bytes(), *bytes, "an accepted head comes back as it was");
    }
}

/// Any bundle and tile under a checkpoint of one source: a finding, or taken, and never a panic.
fn check_log(data: &[u8]) {
    const ORIGIN: &str = "creto.local/creto-audit/fuzz";
    let keys = LogKeys::from_seeds(ORIGIN, &[1; 32], &[2; 32]).expect("a fixed origin");
    let checkpoint = Checkpoint {
        origin: ORIGIN.to_owned(),
        size: 4,
        root: [0; 32],
        time_ms: 0,
        sources: vec![creto_audit::Chain { position: 4, ..creto_audit::Chain::beginning(ORIGIN, creto_audit::SourceId::CONTROL) }],
    };
    let verifier = LogVerifier::new(keys.public().clone()).expect("honest keys");
    let signed = verifier.verify(checkpoint.sign(&keys).as_bytes()).expect("it was just signed");
    let Ok(mut log) = Verifier::new(signed, Vec::new(), None) else { return };
    let Some((tile, bundle)) = data.split_at_checked(4 * 32) else { return };
    let (tile, _) = tile.as_chunks::<32>();
    assert!(log.block(bundle, tile, |_| ()).is_err(), "nobody finds leaves whose root is zero");
}
