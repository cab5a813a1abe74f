//! Journal and spool on real files; attachments over a real node are in `agent/tests/attachments.rs`.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use creto_crypto_accel::digest::sha256;
use creto_envelope::AgentId;
use creto_envelope::attachment::{AttachmentChunk, AttachmentId};

use super::AttachmentError;
use super::journal::Journal;
use super::spool::{Settled, Shape, Spool};

const TO: AgentId = AgentId([2; 16]);
const FROM: AgentId = AgentId([1; 16]);
const HOUR: Duration = Duration::from_secs(3_600);
const NOW_MS: u64 = 1_700_000_000_000;
const DIGEST: [u8; 32] = [3; 32];

fn id(fill: u8) -> AttachmentId {
    AttachmentId([fill; 16])
}

#[test]
fn a_journal_goes_on_where_it_was_and_begins_anew_for_anything_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("uploads").join("one");
    let open = |to, digest: u8, fresh, now_ms| Journal::open(&path, to, &[digest; 32], id(fresh), HOUR, now_ms);
    let mut journal = open(TO, 7, 1, NOW_MS).unwrap();
    journal.chunk_is_durable(0).unwrap();
    journal.chunk_is_durable(12).unwrap();
    assert!(matches!(open(TO, 7, 2, NOW_MS), Err(AttachmentError::InUse { .. })), "one process at a time");
    drop(journal);
    // What a crash has torn does not count, and does not spoil what is added: 13 may be what is left of 130.
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"13").unwrap();
    let mut journal = open(TO, 7, 2, NOW_MS + 3_599_999).unwrap();
    assert_eq!(journal.id, id(1));
    assert_eq!(journal.chunks.iter().copied().collect::<Vec<_>>(), [0, 12]);
    journal.chunk_is_durable(5).unwrap();
    drop(journal);
    let journal = open(TO, 7, 3, NOW_MS).unwrap();
    assert_eq!(journal.chunks.iter().copied().collect::<Vec<_>>(), [0, 5, 12]);
    drop(journal);
    // Another recipient, another file, and what has been there for as long as its messages live, or comes from the future.
    for (to, digest, now_ms) in [(FROM, 7, 0), (TO, 8, 0), (TO, 8, 3_600_000), (TO, 8, 3_500_000)] {
        let mut journal = open(to, digest, 9, NOW_MS + now_ms).unwrap();
        assert_eq!((journal.id, journal.chunks.len()), (id(9), 0));
        journal.chunk_is_durable(1).unwrap();
    }
    fs::write(&path, b"").unwrap();
    assert_eq!(open(TO, 8, 4, NOW_MS).unwrap().id, id(4));
    let journal = open(TO, 8, 5, NOW_MS + 1).unwrap();
    assert_eq!((journal.id, journal.begun_ms), (id(4), NOW_MS));
    journal.end().unwrap();
    assert!(!path.exists());
    // It is sent, whoever has tidied up.
    let journal = open(TO, 8, 5, NOW_MS).unwrap();
    fs::remove_file(&path).unwrap();
    journal.end().unwrap();
    // Whatever else somebody names by mistake stays as it is.
    fs::write(&path, b"\xff\xfe nothing of ours\n").unwrap();
    assert!(matches!(open(TO, 8, 5, NOW_MS), Err(AttachmentError::File { doing: "used", .. })));
    assert_eq!(fs::read(&path).unwrap(), b"\xff\xfe nothing of ours\n");
    fs::write(&path, b"creto-upload 2 who knows\n").unwrap();
    assert!(matches!(open(TO, 8, 5, NOW_MS), Err(AttachmentError::File { doing: "read", .. })));
    assert!(path.exists(), "what a later version has written is not thrown away");
}

const SHAPE: Shape = Shape { bytes: 30, chunk_bytes: 10 };

/// Writes these chunks of three; returns their hashes.
fn fill(spool: &Spool, attachment: u8, chunks: std::ops::Range<u32>) -> Vec<[u8; 32]> {
    let mut part = spool.part((FROM, id(attachment)), Some(SHAPE)).unwrap().unwrap();
    chunks
        .map(|index| {
            let content = [u8::try_from(index).unwrap(); 10];
            let hash = sha256(&[&content]);
            let chunk = AttachmentChunk { id: id(attachment), index, chunk_bytes: 10, bytes: 30, content: &content };
            part.write(&chunk, hash).unwrap();
            hash
        })
        .collect()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(folder.join(".creto-parts")).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

#[test]
fn a_spool_finds_what_was_on_the_disk_and_nothing_that_was_torn_or_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    assert!(matches!(Spool::open(folder.path()), Err(AttachmentError::InUse { .. })));
    fill(&spool, 7, 0..2);
    drop(spool);
    let have = files(folder.path(), "have").pop().unwrap();
    let whole = fs::read(&have).unwrap();
    assert_eq!(whole.len(), 32 + 2 * 48);
    let found = |bytes: &[u8]| {
        fs::write(&have, bytes).unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        let parts = spool.parts().unwrap();
        parts.get(&(FROM, id(7))).map(|part| part.have.keys().copied().collect::<Vec<_>>())
    };
    for torn in 0..=whole.len() {
        let expected = (torn >= 32).then(|| (0..u32::try_from((torn - 32) / 48).unwrap()).collect());
        let data = files(folder.path(), "data").pop().unwrap();
        let aside = fs::read(&data).unwrap();
        assert_eq!(found(&whole[..torn]), expected, "{torn} bytes");
        // Without a header nothing was ever acknowledged, and all of it was deleted.
        assert_eq!(data.exists(), torn >= 32);
        fs::write(&data, aside).unwrap();
    }
    // One record that does not hold is one chunk, not all behind it.
    for at in 32..80 {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        assert_eq!(found(&damaged), Some(vec![1]), "byte {at}");
    }
    assert_eq!(found(&[&whole[..], &[0; 48]].concat()), Some(vec![0, 1]), "zeros are no chunk 0");
    let spool = Spool::open(folder.path()).unwrap();
    fill(&spool, 7, 2..3);
    let part = spool.part((FROM, id(7)), None).unwrap().unwrap();
    assert_eq!((part.have.len(), part.received(), part.shape), (3, 30, SHAPE));
}

#[test]
fn a_file_gets_a_name_that_is_free_and_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path()).unwrap();
    let mut names = Vec::new();
    let long = "ü".repeat(127);
    for (attachment, name) in (1..).zip(["report.csv", "report.csv", ".bashrc", "-rf", "a", &long, &long]) {
        let key = (FROM, id(attachment));
        let hashes = fill(&spool, attachment, 0..3);
        assert!(spool.is_as(key, SHAPE, &hashes).unwrap());
        assert!(!spool.is_as(key, SHAPE, &[hashes[1], hashes[0], hashes[2]]).unwrap());
        assert_eq!(spool.settled(key), None);
        let path = spool.finish(key, DIGEST, name).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [[0; 10], [1; 10], [2; 10]].concat());
        let Some(Settled::Finished(finished)) = spool.settled(key) else { panic!("it is whole") };
        assert_eq!(finished.digest, DIGEST);
        assert_eq!(spool.place_of(finished, SHAPE, &hashes).unwrap(), Some(path.clone()));
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    let second = format!("{} (2)", "ü".repeat(125));
    assert_eq!(names, ["report.csv", "report (2).csv", "_.bashrc", "_-rf", "a", &long, &second]);
    assert!(files(folder.path(), "have").is_empty() && files(folder.path(), "data").is_empty());
    // Another file at its place is not taken for it, whatever it has in common; what it is made of counts, wherever it lies now.
    fs::write(folder.path().join("a"), [[0; 10], [1; 10], [3; 10]].concat()).unwrap();
    let copied = fs::read(folder.path().join("report (2).csv")).unwrap();
    fs::remove_file(folder.path().join("report (2).csv")).unwrap();
    fs::write(folder.path().join("report (2).csv"), copied).unwrap();
    drop(spool);
    let settled = folder.path().join(".creto-parts").join("settled");
    OpenOptions::new().append(true).open(&settled).unwrap().write_all(&[9; 60]).unwrap();
    let hashes: Vec<_> = (0..3).map(|content| sha256(&[&[content; 10]])).collect();
    let place = |spool: &Spool, attachment| match spool.settled((FROM, id(attachment))) {
        Some(Settled::Finished(finished)) => Some(spool.place_of(finished, SHAPE, &hashes).unwrap()),
        None => None,
        other => panic!("{other:?}"),
    };
    let spool = Spool::open(folder.path()).unwrap();
    let second = folder.path().join("report (2).csv");
    assert_eq!((place(&spool, 5), place(&spool, 2)), (Some(None), Some(Some(second.clone()))));
    drop(spool);
    // A record that is damaged is one, not all behind it.
    let mut bytes = fs::read(&settled).unwrap();
    bytes[b"creto-attachments 1\n".len() + 10] ^= 1;
    fs::write(&settled, bytes).unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    assert_eq!((place(&spool, 1), place(&spool, 2)), (None, Some(Some(second))));
}

#[test]
fn a_name_is_found_whatever_names_others_took() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path()).unwrap();
    fs::write(folder.path().join("a"), "").unwrap();
    (2..=100).for_each(|number| fs::write(folder.path().join(format!("a ({number})")), "").unwrap());
    fill(&spool, 7, 0..3);
    let path = spool.finish((FROM, id(7)), DIGEST, "a").unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(&format!("attachment-{}-", "07".repeat(16))), "{name}");
    assert_eq!(fs::read(&path).unwrap().len(), 30);
}

#[test]
fn a_crash_at_any_point_of_refusing_and_deleting_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path()).unwrap();
    // Remembered, and not deleted.
    fill(&spool, 7, 0..2);
    spool.settle((FROM, id(7)), Settled::Refused(65_000)).unwrap();
    // Half deleted, and half begun.
    fill(&spool, 8, 0..2);
    let data = folder.path().join(".creto-parts").join(format!("{}-{}.data", "01".repeat(16), "08".repeat(16)));
    fs::remove_file(data.with_extension("have")).unwrap();
    fill(&spool, 9, 0..2);
    fs::remove_file(data.with_file_name(format!("{}-{}.data", "01".repeat(16), "09".repeat(16)))).unwrap();
    drop(spool);
    let spool = Spool::open(folder.path()).unwrap();
    assert!(spool.parts().unwrap().is_empty());
    assert!(files(folder.path(), "have").is_empty() && files(folder.path(), "data").is_empty());
    assert_eq!(spool.settled((FROM, id(7))), Some(&Settled::Refused(65_000)));
}

#[test]
fn a_crash_at_any_point_of_naming_is_made_up_for() {
    // Remembered and not renamed: as if it was never said. Renamed and not tidied: it is whole.
    for was_renamed in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path()).unwrap();
        let hashes = fill(&spool, 7, 0..3);
        let (data, have) = (files(folder.path(), "data").pop().unwrap(), files(folder.path(), "have").pop().unwrap());
        let kept = fs::read(&have).unwrap();
        let named = spool.finish((FROM, id(7)), DIGEST, "a").unwrap();
        drop(spool);
        fs::write(&have, kept).unwrap();
        if !was_renamed {
            fs::rename(&named, &data).unwrap();
            // Meanwhile somebody took the name.
            fs::write(&named, "of somebody else").unwrap();
        }
        let mut spool = Spool::open(folder.path()).unwrap();
        assert_eq!(spool.parts().unwrap().len(), usize::from(!was_renamed));
        assert_eq!(spool.settled((FROM, id(7))).is_some(), was_renamed);
        if !was_renamed {
            assert!(spool.is_as((FROM, id(7)), SHAPE, &hashes).unwrap());
            let path = spool.finish((FROM, id(7)), DIGEST, "a").unwrap();
            assert_eq!(path, folder.path().join("a (2)"));
            assert_eq!(fs::read(&named).unwrap(), b"of somebody else");
        }
        assert!(files(folder.path(), "have").is_empty());
    }
    // Where a file system takes two steps, between them: it is one file, of one name.
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path()).unwrap();
    fill(&spool, 7, 0..3);
    let data = files(folder.path(), "data").pop().unwrap();
    fs::hard_link(&data, folder.path().join("a")).unwrap();
    assert_eq!(spool.finish((FROM, id(7)), DIGEST, "a").unwrap(), folder.path().join("a"));
    assert!(!data.exists() && !folder.path().join("a (2)").exists());
}

#[test]
fn what_is_settled_is_remembered_in_order_and_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path()).unwrap();
    let key = |number: u32| {
        let mut id = [0; 16];
        // The youngest has the smallest id.
        id[..4].copy_from_slice(&(u32::MAX - number).to_be_bytes());
        (AgentId([u8::try_from(number % 16).unwrap(); 16]), AttachmentId(id))
    };
    for number in 0..4_100 {
        spool.settle(key(number), Settled::Refused(65_000)).unwrap();
    }
    let is_there = |spool: &Spool, key| spool.settled(key) == Some(&Settled::Refused(65_000));
    let check = |spool: &Spool| {
        assert!(!is_there(spool, key(3)) && is_there(spool, key(4)) && is_there(spool, key(4_099)));
    };
    check(&spool);
    // What is settled anew is the youngest.
    spool.settle(key(4), Settled::Refused(65_000)).unwrap();
    // And a sender makes room for its own by its own.
    let of_one = |number: u16| {
        let mut id = [9; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        (AgentId([0xee; 16]), AttachmentId(id))
    };
    for number in 0..600 {
        spool.settle(of_one(number), Settled::Refused(65_000)).unwrap();
    }
    let check = |spool: &Spool| {
        assert!(is_there(spool, key(4)) && !is_there(spool, key(516)) && is_there(spool, key(517)));
        assert!(!is_there(spool, of_one(87)) && is_there(spool, of_one(88)) && is_there(spool, of_one(599)));
    };
    check(&spool);
    drop(spool);
    check(&Spool::open(folder.path()).unwrap());
    fs::write(folder.path().join(".creto-parts").join("settled"), "creto-attachments 2\n").unwrap();
    assert!(matches!(Spool::open(folder.path()), Err(AttachmentError::File { doing: "read", .. })));
}

#[test]
fn a_folder_of_parts_that_somebody_else_has_prepared_is_not_used() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let refused = |folder: &Path| matches!(Spool::open(folder), Err(AttachmentError::File { doing: "used", .. }));
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), folder.path().join(".creto-parts")).unwrap();
    assert!(refused(folder.path()));
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(".creto-parts")).unwrap();
    fs::set_permissions(folder.path().join(".creto-parts"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refused(folder.path()));
    // And a link in it is not followed.
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let target = elsewhere.path().join("target");
    let name = format!("{}-{}.data", "01".repeat(16), "07".repeat(16));
    symlink(&target, folder.path().join(".creto-parts").join(name)).unwrap();
    assert!(spool.part((FROM, id(7)), Some(SHAPE)).is_err() && !target.exists());
}
