use std::path::Path;

use creto_audit::event::What;
use creto_audit::{Event, SourceId};
use creto_envelope::AgentId;

use super::*;
use crate::disk::RealDisk;
use crate::writer::Writer;

fn log(folder: &Path, count: u64) -> (Writer<RealDisk>, LogReader) {
    let keys =
        crate::keys::load(folder).unwrap_or_else(|_| crate::keys::create(folder, "creto.local/creto-audit/n").unwrap());
    let mut writer = Writer::open(RealDisk::new(folder), keys).unwrap();
    let mailbox = AgentId([1; 16]);
    for sequence in writer.size()..count {
        let source = if sequence % 5 == 0 { SourceId::CONTROL } else { SourceId::shard(0) };
        writer.append(source, &[Event::new(sequence, What::Delivered { mailbox, sequence })]).unwrap();
    }
    writer.commit().unwrap();
    writer.checkpoint(count).unwrap();
    (writer, LogReader::open(folder).unwrap())
}

fn exported(reader: &LogReader) -> Vec<u8> {
    let mut file = Vec::new();
    export(reader, &mut file, |_| true).unwrap();
    file
}

fn code(file: &[u8], reader: &LogReader, since: Option<SignedCheckpoint>) -> &'static str {
    match verify_export(file, reader.verifier(), since, |_| ()) {
        Ok(_) => "ok",
        Err(ExportFailure::Export(error)) => error.code(),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn an_export_of_real_files_verifies_and_a_cut_one_is_refused_at_every_length() {
    let folder = tempfile::tempdir().unwrap();
    let (_, reader) = log(folder.path(), 600);
    let file = exported(&reader);
    assert_eq!(code(&file, &reader, None), "ok");
    for length in (0..file.len()).step_by(61).chain([file.len() - 1]) {
        let code = code(&file[..length], &reader, None);
        assert!(matches!(code, "truncated" | "not_an_export"), "cut at {length}: {code}");
    }
    assert_eq!(code(&[&file[..], &[0]].concat(), &reader, None), "export_form");
}

#[test]
fn every_changed_byte_of_an_export_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (_, reader) = log(folder.path(), 40);
    let file = exported(&reader);
    let keys_end = 40 + reader.checkpoint().note().len() + reader.verifier().public().to_text().len();
    let keys_begin = 40 + reader.checkpoint().note().len();
    for at in 0..file.len() {
        // The keys in the file are only there to compare with.
        if (keys_begin..keys_end).contains(&at) {
            continue;
        }
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert_ne!(code(&changed, &reader, None), "ok", "byte {at}");
    }
}

#[test]
fn an_older_checkpoint_that_was_seen_is_held_against_the_log() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (writer, old) = log(folder.path(), 300);
    let old_file = exported(&old);
    let seen = old.checkpoint().clone();
    drop(writer);
    let (_, new) = log(folder.path(), 900);
    assert_eq!(code(&exported(&new), &new, Some(seen.clone())), "ok");
    assert_eq!(code(&old_file, &new, Some(new.checkpoint().clone())), "rolled_back");
    // The same keys, another history.
    for name in [crate::layout::SECRET_KEYS, crate::layout::PUBLIC_KEYS] {
        std::fs::copy(folder.path().join(name), other.path().join(name)).unwrap();
    }
    let (_, forked) = log(other.path(), 900);
    assert_eq!(code(&exported(&forked), &forked, Some(seen)), "does_not_extend");
}

#[test]
fn proofs_of_real_files_hold_also_from_an_older_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, old) = log(folder.path(), 300);
    drop(writer);
    let (_, new) = log(folder.path(), 1_200);
    for index in [0, 255, 256, 511, 512, 1_199] {
        let proof = prove(&new, index, Some(old.checkpoint())).unwrap();
        let parsed = InclusionProof::parse(proof.to_text().as_bytes()).unwrap();
        assert_eq!(parsed.verify(new.verifier(), Some(old.checkpoint())).unwrap().index, index);
    }
    assert!(matches!(prove(&new, 1_200, None), Err(StoreError::NoLeaf(1_200))));
}

#[test]
fn a_redacted_export_discloses_only_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (_, reader) = log(folder.path(), 600);
    let mut file = Vec::new();
    let exported = export(&reader, &mut file, |event| event.source == SourceId::CONTROL).unwrap();
    assert_eq!(exported, Exported { leaves: 600, disclosed: 120, dropped: 0 });
    let mut seen_count = 0;
    let (_, summary) = verify_export(&file[..], reader.verifier(), None, |seen| {
        assert_eq!(seen.event.source, SourceId::CONTROL);
        seen_count += 1;
    })
    .unwrap();
    assert_eq!((seen_count, summary.hidden), (120, 480));
}

#[test]
fn keys_are_made_once_and_only_their_owner_may_read_the_secret_ones() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let keys = crate::keys::create(folder.path(), "creto.local/creto-audit/n").unwrap();
    let secret = folder.path().join(crate::layout::SECRET_KEYS);
    assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(crate::keys::create(folder.path(), "creto.local/creto-audit/n").is_err());
    assert_eq!(crate::keys::load(folder.path()).unwrap().public(), keys.public());
}

#[test]
fn a_stop_between_the_two_key_files_is_mended_and_lost_keys_are_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(crate::layout::PUBLIC_KEYS), "half").unwrap();
    let keys = crate::keys::load_or_create(folder.path(), "creto.local").unwrap();
    assert!(keys.public().origin().starts_with("creto.local/creto-audit/node-"));
    let again = crate::keys::load_or_create(folder.path(), "other.domain").unwrap();
    assert_eq!(again.public(), keys.public());
    let mut writer = Writer::open(RealDisk::new(folder.path()), keys).unwrap();
    writer.checkpoint(1).unwrap();
    std::fs::remove_file(folder.path().join(crate::layout::SECRET_KEYS)).unwrap();
    assert!(crate::keys::load_or_create(folder.path(), "creto.local").is_err());
}
