use super::*;
use crate::fixture::{record, rotated};
use crate::leaf::{LeafKind, signing_fingerprint};
use crate::memory::MemoryLog;
use creto_envelope::KeyRecord;
use creto_envelope::key_log::KeyLeavesRequest;

/// An agent that has these records' keys.
struct Own(Vec<KeyRecord>);

impl ScanSelf for Own {
    fn agent(&self) -> AgentId {
        self.0[0].agent_id()
    }

    fn signing(&self) -> Hash {
        signing_fingerprint(&self.0[0])
    }

    fn key_id(&self, version: u32) -> Option<KeyId> {
        self.0.iter().find(|record| record.version == version).map(KeyRecord::key_id)
    }
}

fn log(records: &[&KeyRecord]) -> MemoryLog {
    let mut log = MemoryLog::new();
    for record in records {
        log.append(KeyLeaf::of(record, LeafKind::Enrolled, 5));
    }
    log
}

fn read(scan: &mut Scan, log: &MemoryLog, through: u64, own: &Own) -> Result<(), KeyLogError> {
    scan.take(&log.leaves(&KeyLeavesRequest { from: scan.size(), through }).answer.unwrap(), own)
}

#[test]
fn an_agent_reads_the_log_in_parts_and_finds_nothing_that_it_did_not_make() {
    let (a, b, me) = (record("acme/a", 1), record("acme/b", 2), record("acme/me", 3));
    let next = rotated(&me, 9);
    // The first version's key is erased by now.
    let own = Own(vec![next.clone()]);
    let mut log = log(&[&a, &me, &b, &next]);
    log.append(KeyLeaf { since_ms: 4, ..KeyLeaf::of(&next, LeafKind::Revoked, 6) });
    let mut scan = Scan::new();
    for through in [1, 3, 5] {
        assert_eq!(scan.ends_at(&log.head(through, 0)), Ok(false));
        read(&mut scan, &log, through, &own).unwrap();
        assert_eq!(scan.ends_at(&log.head(through, 0)), Ok(true));
        let subtrees: Vec<_> = scan.subtrees().copied().collect();
        scan = Scan::resume(scan.size(), &subtrees).unwrap();
    }
}

#[test]
fn a_record_of_mine_that_i_did_not_make_is_found_wherever_it_stands() {
    let (a, me) = (record("acme/a", 1), record("acme/me", 3));
    let own = Own(vec![me.clone()]);
    // Other signing keys, before and after mine; and my signing keys with a key that is not mine under my version.
    let theirs = record("acme/me", 66);
    let mut with_their_key = me.clone();
    (with_their_key.x25519, with_their_key.ml_kem_768) = (theirs.x25519, theirs.ml_kem_768.clone());
    for (records, index) in
        [([&theirs, &me, &a], 0), ([&me, &a, &rotated(&theirs, 9)], 2), ([&a, &with_their_key, &me], 1)]
    {
        let error = read(&mut Scan::new(), &log(&records), 3, &own).unwrap_err();
        let version = records[index].version;
        assert_eq!(error, KeyLogError::ForeignRecord { index: index as u64, version });
        assert_eq!(error.code(), "foreign_record");
    }
}

#[test]
fn leaves_that_are_kept_from_an_agent_or_changed_do_not_make_the_tree() {
    let (a, me) = (record("acme/a", 1), record("acme/me", 3));
    let (theirs, own) = (record("acme/me", 66), Own(vec![me.clone()]));
    let mut whole = log(&[&a, &theirs, &me]);
    let head = whole.head(3, 0);
    let b = record("acme/b", 2);
    for shown in [vec![&a, &b, &me], vec![&a, &me, &a, &a]] {
        let shown = log(&shown);
        let mut scan = Scan::new();
        read(&mut scan, &shown, shown.size(), &own).unwrap();
        let error = scan.ends_at(&head).unwrap_err();
        assert_eq!((error.code(), error), ("leaves_changed", KeyLogError::LeavesChanged { size: 3 }));
    }
    let mut scan = Scan::new();
    read(&mut scan, &log(&[&a, &me]), 2, &own).unwrap();
    assert_eq!(scan.ends_at(&head), Ok(false), "one is owed still");
}

#[test]
fn leaves_that_are_none_are_refused_by_their_place() {
    let own = Own(vec![record("acme/me", 3)]);
    let mut scan = Scan::new();
    read(&mut scan, &log(&[&record("acme/a", 1)]), 1, &own).unwrap();
    assert_eq!(scan.take(&[[9; KEY_LEAF_BYTES]], &own), Err(KeyLogError::LeafForm { index: 1 }));
}
