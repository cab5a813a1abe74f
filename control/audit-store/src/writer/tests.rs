use creto_audit::event::{DeathCause, What};
use creto_audit::tree::root_at;
use creto_envelope::AgentId;

use super::*;
use crate::disk::faulty::{Dice, FaultyDisk};
use crate::export::{export, verify_export};
use crate::reader::LogReader;

const ORIGIN: &str = "creto.local/creto-audit/test";

fn keys() -> LogKeys {
    LogKeys::from_seeds(ORIGIN, &[3; 32], &[4; 32]).unwrap()
}

fn open(disk: &FaultyDisk) -> Result<Writer<FaultyDisk>, StoreError> {
    Writer::open(disk.clone(), keys())
}

fn reader(disk: &FaultyDisk) -> LogReader<FaultyDisk> {
    let verifier = LogVerifier::new(keys().public().clone()).unwrap();
    LogReader::with_disk(disk.clone(), verifier).unwrap().expect("something was signed")
}

fn events(first: u64, count: u64) -> Vec<Event> {
    let mailbox = AgentId([7; 16]);
    let what = |sequence: u64| match sequence % 3 {
        0 => What::Delivered { mailbox, sequence },
        1 => What::Expired { mailbox, sequence },
        _ => What::DeadLettered { mailbox, sequence, reason: 1, cause: DeathCause::Rejected, deliveries: 2 },
    };
    (first..first + count).map(|sequence| Event::new(sequence, what(sequence))).collect()
}

/// What a source is told to go on from: events so far.
fn resume(told: u64) -> Resume {
    let mut resume = [0; 32];
    resume[..8].copy_from_slice(&told.to_le_bytes());
    resume
}

fn told(writer: &Writer<FaultyDisk>, source: SourceId) -> u64 {
    writer.resume(source).map_or(0, |resume| u64::from_le_bytes(*resume.first_chunk().unwrap()))
}

/// The whole log verifies, and its checkpoint is the writer's.
fn check_whole(disk: &FaultyDisk) -> u64 {
    let reader = reader(disk);
    let mut file = Vec::new();
    let exported = export(&reader, &mut file, |_| true).unwrap();
    let (checkpoint, summary) = verify_export(&file[..], reader.verifier(), None, |_| ()).unwrap();
    assert_eq!((checkpoint.size, summary.leaves), (exported.leaves, exported.leaves));
    checkpoint.size
}

#[test]
fn what_was_committed_is_there_again_with_its_resume_points_and_the_chains_go_on() {
    let disk = FaultyDisk::default();
    let (one, two) = (SourceId::shard(0), SourceId::shard(1));
    for life in 0..5 {
        let mut writer = open(&disk).unwrap();
        assert_eq!(writer.durable_size(), life * 701);
        assert_eq!((told(&writer, one), told(&writer, two)), (life * 700, life));
        writer.append(one, &events(life * 700, 700)).unwrap();
        writer.append_with_label(SourceId::CONTROL, &events(1, 1)[0], &Label::of("text")).unwrap();
        writer.set_resume(one, resume(life * 700 + 700)).unwrap();
        writer.set_resume(two, resume(life + 1)).unwrap();
        assert_eq!(writer.commit().unwrap().size, (life + 1) * 701);
        writer.checkpoint(life).unwrap();
    }
    assert_eq!(check_whole(&disk), 5 * 701);
}

#[test]
fn nothing_is_signed_before_it_is_durable_and_nothing_twice() {
    let disk = FaultyDisk::default();
    let mut writer = open(&disk).unwrap();
    writer.append(SourceId::CONTROL, &events(0, 10)).unwrap();
    assert_eq!(writer.checkpoint(1).unwrap().unwrap().size, 0, "nothing was committed");
    writer.commit().unwrap();
    assert_eq!(writer.checkpoint(2).unwrap().unwrap().size, 10);
    assert!(writer.checkpoint(3).unwrap().is_none());
    let steps = disk.steps();
    writer.commit().unwrap();
    assert_eq!(disk.steps(), steps, "a commit of nothing costs nothing");
}

#[test]
fn after_a_failed_write_nothing_is_written_any_more() {
    let disk = FaultyDisk::default();
    let mut writer = open(&disk).unwrap();
    writer.append(SourceId::CONTROL, &events(0, 10)).unwrap();
    disk.stop_after(1);
    assert!(matches!(writer.commit(), Err(StoreError::File { .. })));
    disk.stop_after(u64::MAX);
    let steps = disk.steps();
    assert!(matches!(writer.append(SourceId::CONTROL, &events(0, 1)), Err(StoreError::Fenced)));
    assert!(matches!(writer.commit(), Err(StoreError::Fenced)));
    assert!(matches!(writer.checkpoint(1), Err(StoreError::Fenced)));
    assert_eq!(disk.steps(), steps);
}

/// One life after another on one disk, each ended by a power cut at any step. After each: what was committed is there with its
/// resume points or a later commit's, every checkpoint that was signed is a prefix of the tree, and the whole log verifies.
fn lives(seed: u64) -> u64 {
    let mut dice = Dice::new(seed);
    let disk = FaultyDisk::default();
    let source = SourceId::shard(2);
    let mut signed: Vec<SignedCheckpoint> = Vec::new();
    let (mut committed, mut committed_told, mut cuts) = (0, 0, 0);
    let mut most_told = 0;
    for _ in 0..6 {
        let mut writer = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(writer.durable_size() >= committed, "seed {seed}: {} < {committed}", writer.durable_size());
        let mut next = told(&writer, source);
        assert!((committed_told..=most_told).contains(&next), "seed {seed}: {committed_told}..={most_told}, {next}");
        let reached = writer.signed().map_or(0, |signed| signed.size);
        assert!(signed.last().is_none_or(|last| last.size <= reached), "seed {seed}: a checkpoint is gone");
        for old in &signed {
            let nodes = &mut crate::reader::TreeFiles::new(&writer.disk);
            assert_eq!(root_at(nodes, old.size).unwrap(), old.root, "seed {seed}: size {}", old.size);
        }
        if writer.signed().is_some() {
            check_whole(&disk);
        }
        disk.stop_after(1 + dice.below(60));
        let died = (|| -> Result<(), StoreError> {
            loop {
                let count = [1, 3, 200, 512, 700][usize::try_from(dice.below(5)).unwrap()];
                writer.append(source, &events(next, count))?;
                next += count;
                most_told = most_told.max(next);
                if dice.below(3) == 0 {
                    writer.append(SourceId::CONTROL, &events(0, 2))?;
                }
                writer.set_resume(source, resume(next))?;
                committed = writer.commit()?.size;
                committed_told = next;
                if dice.below(2) == 0 {
                    signed.extend(writer.checkpoint(next)?.cloned());
                }
                if dice.below(8) == 0 {
                    writer.drop_entries_before(dice.below(committed), next)?;
                    committed = writer.durable_size();
                }
            }
        })();
        assert!(matches!(died, Err(StoreError::File { .. })), "seed {seed}: {died:?}");
        disk.lose_power(&mut dice);
        cuts += 1;
    }
    cuts
}

#[test]
fn every_checkpoint_ever_signed_is_a_prefix_of_the_tree_after_power_cuts_at_any_step() {
    let seeds = std::env::var("AUDIT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300);
    let cuts: u64 = (0..seeds).map(lives).sum();
    assert_eq!(cuts, seeds * 6, "a run that cut nothing says nothing");
}

#[test]
fn a_power_cut_while_the_log_is_opened_harms_nothing() {
    for seed in 0..200 {
        let (mut dice, disk) = (Dice::new(seed), FaultyDisk::default());
        let mut writer = open(&disk).unwrap();
        writer.append(SourceId::CONTROL, &events(0, 900)).unwrap();
        writer.commit().unwrap();
        writer.checkpoint(1).unwrap();
        writer.append(SourceId::CONTROL, &events(0, 700)).unwrap();
        writer.write().unwrap();
        drop(writer);
        disk.lose_power(&mut dice);
        for _ in 0..4 {
            disk.stop_after(1 + dice.below(6));
            drop(open(&disk));
            disk.lose_power(&mut dice);
        }
        assert_eq!(open(&disk).unwrap().durable_size(), 900, "seed {seed}");
        assert_eq!(check_whole(&disk), 900);
    }
}

#[test]
fn what_is_damaged_is_refused_by_its_name_and_stays_as_it_was_found() {
    let disk = FaultyDisk::default();
    let mut writer = open(&disk).unwrap();
    writer.append(SourceId::CONTROL, &events(0, 1_300)).unwrap();
    writer.commit().unwrap();
    writer.checkpoint(1).unwrap();
    drop(writer);
    let damage: [(&str, usize, &str); 7] = [
        ("entries/000000000002", 40, "leaf 1024"),
        ("entries/000000000002", 2, "leaf 1024"),
        ("hashes/000000000002", 33, "leaf 1025"),
        ("tiles", 5, "another root"),
        ("checkpoint", 3, "checkpoint"),
        ("checkpoint", 200, "checkpoint"),
        ("commit", crate::layout::SLOT_BYTES + 30, "no commit file"),
    ];
    for (file, at, says) in damage {
        disk.flip(file, at);
        let before = disk.contents();
        let error = open(&disk).err().unwrap_or_else(|| panic!("{file} at {at} was not noticed"));
        assert!(error.to_string().contains(says), "{file}: {error}");
        assert_eq!(disk.contents(), before, "{file}: nothing is changed");
        disk.flip(file, at);
    }
    assert_eq!(open(&disk).unwrap().durable_size(), 1_300);
}

#[test]
fn a_commit_that_is_older_than_the_checkpoint_is_refused() {
    let disk = FaultyDisk::default();
    let mut writer = open(&disk).unwrap();
    for round in 0..2 {
        writer.append(SourceId::CONTROL, &events(0, 10)).unwrap();
        writer.commit().unwrap();
        writer.checkpoint(round).unwrap();
    }
    drop(writer);
    // The newest slot, as if it had never been written whole: what it said was signed.
    disk.flip("commit", 30);
    let error = open(&disk).err().unwrap();
    assert!(error.to_string().contains("less than the signed checkpoint"), "{error}");
}

#[test]
fn dropped_entries_leave_their_hashes_and_the_log_verifies() {
    let disk = FaultyDisk::default();
    let mut writer = open(&disk).unwrap();
    writer.append(SourceId::shard(0), &events(0, 2_000)).unwrap();
    writer.commit().unwrap();
    assert_eq!(writer.drop_entries_before(1_500, 9).unwrap(), 0, "what is not signed is not dropped");
    writer.checkpoint(1).unwrap();
    assert_eq!(writer.drop_entries_before(1_500, 9).unwrap(), 1_024, "whole files only");
    writer.checkpoint(2).unwrap();
    let reader = reader(&disk);
    let mut file = Vec::new();
    export(&reader, &mut file, |_| true).unwrap();
    let mut last = None;
    let (_, summary) =
        verify_export(&file[..], reader.verifier(), None, |seen| last = Some(seen.event.event.what)).unwrap();
    assert_eq!((summary.leaves, summary.hidden), (2_001, 1_024));
    assert_eq!(last, Some(What::EntriesDropped { below: 1_024 }));
    assert!(matches!(reader.entry(1_023), Err(StoreError::NoLeaf(1_023))));
    assert!(reader.entry(1_024).is_ok());
    drop(writer);
    assert_eq!(open(&disk).unwrap().durable_size(), 2_001);
}
