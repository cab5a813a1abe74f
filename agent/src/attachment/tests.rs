//! Journal and spool on real files; attachments over a real node are in `agent/tests/attachments.rs`.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::time::Duration;

use creto_crypto_accel::digest::sha256;
use creto_envelope::AgentId;
use creto_envelope::attachment::{AttachmentChunk, AttachmentId};

use super::AttachmentError;
use super::journal::Journal;
use super::spool::Spool;

const TO: AgentId = AgentId([2; 16]);
const FROM: AgentId = AgentId([1; 16]);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

fn id(fill: u8) -> AttachmentId {
    AttachmentId([fill; 16])
}

#[test]
fn a_journal_goes_on_where_it_was_and_begins_anew_for_anything_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("uploads").join("one");
    let open = |to, digest: u8, fresh| Journal::open(&path, to, &[digest; 32], id(fresh));
    let mut journal = open(TO, 7, 1).unwrap();
    journal.head_is_durable().unwrap();
    journal.chunk_is_durable(0).unwrap();
    journal.chunk_is_durable(12).unwrap();
    assert!(matches!(open(TO, 7, 2), Err(AttachmentError::InUse { .. })), "one process at a time");
    drop(journal);
    // What a crash has torn does not count, and does not spoil what is added.
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"13").unwrap();
    let mut journal = open(TO, 7, 2).unwrap();
    assert_eq!((journal.id, journal.has_head), (id(1), true));
    assert_eq!(journal.chunks.iter().copied().collect::<Vec<_>>(), [0, 12]);
    journal.chunk_is_durable(5).unwrap();
    drop(journal);
    let journal = open(TO, 7, 3).unwrap();
    // 13 may be what is left of 130.
    assert_eq!(journal.chunks.iter().copied().collect::<Vec<_>>(), [0, 5, 12]);
    drop(journal);
    for (to, digest) in [(FROM, 7), (TO, 8)] {
        let journal = open(to, digest, 9).unwrap();
        assert_eq!((journal.id, journal.has_head, journal.chunks.len()), (id(9), false, 0));
        drop(journal);
    }
    fs::write(&path, b"\xff\xfe nothing of ours\n").unwrap();
    assert_eq!(open(TO, 8, 4).unwrap().id, id(4));
    open(TO, 8, 5).unwrap().end().unwrap();
    assert!(!path.exists());
}

/// Writes so many chunks of 10 bytes each; returns their hashes.
fn fill(spool: &Spool, attachment: u8, chunks: std::ops::Range<u32>) -> Vec<[u8; 32]> {
    let mut part = spool.part((FROM, id(attachment))).unwrap();
    chunks
        .map(|index| {
            let content = [u8::try_from(index).unwrap(); 10];
            let hash = sha256(&[&content]);
            part.write(&AttachmentChunk { id: id(attachment), index, chunk_bytes: 10, content: &content }, hash)
                .unwrap();
            hash
        })
        .collect()
}

#[test]
fn a_spool_finds_what_was_on_the_disk_and_nothing_that_was_torn() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), WEEK).unwrap();
    assert!(matches!(Spool::open(folder.path(), WEEK), Err(AttachmentError::InUse { .. })));
    fill(&spool, 7, 0..3);
    drop(spool);
    let have = fs::read_dir(folder.path().join(".creto-parts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "have"))
        .unwrap();
    OpenOptions::new().append(true).open(&have).unwrap().write_all(&[9; 39]).unwrap();
    let spool = Spool::open(folder.path(), WEEK).unwrap();
    let parts = spool.parts().unwrap();
    let part = &parts[&(FROM, id(7))];
    assert_eq!(part.have.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((part.chunk_bytes, part.bytes), (Some(10), 30));
    drop(parts);
    fill(&spool, 7, 3..4);
    assert_eq!(spool.part((FROM, id(7))).unwrap().have.len(), 4);
}

#[test]
fn a_file_gets_a_name_that_is_free_and_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), WEEK).unwrap();
    let mut paths = Vec::new();
    for attachment in 1..=3 {
        let hashes = fill(&spool, attachment, 0..2);
        let key = (FROM, id(attachment));
        assert!(spool.is_as(key, 20, 10, &hashes).unwrap());
        assert!(!spool.is_as(key, 20, 10, &[hashes[1], hashes[0]]).unwrap());
        assert!(!spool.is_as(key, 19, 10, &hashes).unwrap());
        paths.push(spool.finish(key, "report.csv").unwrap());
        assert_eq!(spool.finished(key).as_ref(), paths.last());
    }
    let names: Vec<_> = paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["report.csv", "report (2).csv", "report (3).csv"]);
    assert_eq!(fs::read(&paths[0]).unwrap(), [[0; 10], [1; 10]].concat());
    drop(spool);
    // A torn record is the last one.
    let finished = folder.path().join(".creto-parts").join("finished");
    OpenOptions::new().append(true).open(finished).unwrap().write_all(&[9; 40]).unwrap();
    let mut spool = Spool::open(folder.path(), WEEK).unwrap();
    assert_eq!(spool.finished((FROM, id(2))).as_ref(), Some(&paths[1]));
    assert!(spool.parts().unwrap().is_empty());
    fill(&spool, 4, 0..1);
    spool.finish((FROM, id(4)), &"ü".repeat(127)).unwrap();
    fill(&spool, 5, 0..1);
    let second = spool.finish((FROM, id(5)), &"ü".repeat(127)).unwrap();
    assert!(second.file_name().unwrap().to_str().unwrap().ends_with("ü (2)"));
    drop(spool);
    assert_eq!(Spool::open(folder.path(), WEEK).unwrap().finished((FROM, id(5))), Some(second));
}

#[test]
fn a_crash_between_remembering_and_naming_is_made_up_for() {
    for was_named in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), WEEK).unwrap();
        fill(&spool, 7, 0..2);
        let parts = folder.path().join(".creto-parts");
        let saved: Vec<_> = fs::read_dir(&parts)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "data" || extension == "have"))
            .map(|path| {
                // As a link, so that a file with a name is the same file.
                let aside = path.with_extension("aside");
                let aside = aside.with_file_name(format!("{}-aside", path.file_name().unwrap().to_str().unwrap()));
                fs::hard_link(&path, &aside).unwrap();
                (path, aside)
            })
            .collect();
        let named = spool.finish((FROM, id(7)), "a").unwrap();
        drop(spool);
        for (path, aside) in saved {
            fs::rename(aside, path).unwrap();
        }
        if !was_named {
            fs::remove_file(&named).unwrap();
        }
        let spool = Spool::open(folder.path(), WEEK).unwrap();
        assert_eq!(fs::read(&named).unwrap().len(), 20);
        assert!(spool.parts().unwrap().is_empty(), "the file has its name, and nothing else is left of it");
    }
}

#[test]
fn parts_that_nobody_goes_on_with_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), WEEK).unwrap();
    fill(&spool, 7, 0..2);
    drop(spool);
    assert_eq!(Spool::open(folder.path(), WEEK).unwrap().parts().unwrap().len(), 1);
    assert!(Spool::open(folder.path(), Duration::ZERO).unwrap().parts().unwrap().is_empty());
}
