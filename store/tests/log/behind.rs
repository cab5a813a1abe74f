//! Reading behind a place: whoever follows a log gets every record once, wherever it stopped.

use creto_store::{LogPlace, Lsn, Position, ReadBehind, Record, read_behind, recover};

use crate::disk::{Crash, Disk, Random};
use crate::node::{NOW_MS, Node, SHARD, messages, small_config};

fn grown(random: &mut Random, trims: bool) -> Disk {
    let mut disk = Disk::default();
    let mut node = Node::ready(&mut disk, small_config(1));
    for number in 0..80 {
        let submitted = node.commit(&mut disk, messages(1 + number * 3, 3, 500 + random.below(3000), NOW_MS));
        for message in &submitted {
            node.settle(message);
        }
        if trims {
            node.trim();
        }
    }
    node.commit(&mut disk, Vec::new());
    node.crash(&mut disk, Crash::Power, random);
    disk
}

fn behind(disk: &mut Disk, place: LogPlace) -> (ReadBehind, Vec<(Position, Record)>) {
    let mut found = Vec::new();
    let read = read_behind(disk, SHARD, place, |position, record| found.push((position, record))).unwrap();
    (read, found)
}

#[test]
fn what_stands_behind_any_place_is_read_once_and_in_order() {
    let mut disk = grown(&mut Random(1), false);
    let mut all = Vec::new();
    let end_lsn = recover(&mut disk, SHARD, |position, record| all.push((position, record))).unwrap().end_lsn();
    assert!(all.len() > 100 && all.last().unwrap().0.segment.0 > 5, "vacuous");
    let (read, found) = behind(&mut disk, LogPlace::default());
    assert_eq!(read, ReadBehind { records: all.len() as u64, frames_missing: 0, end_lsn });
    assert_eq!(found, all);
    for (index, (position, _)) in all.iter().enumerate() {
        let (read, found) = behind(&mut disk, LogPlace::from(*position));
        assert_eq!(found, all[index + 1..], "behind {position:?}");
        assert_eq!((read.records, read.frames_missing), (found.len() as u64, 0));
    }
}

#[test]
fn what_was_trimmed_before_it_was_read_is_counted_and_a_place_beyond_the_end_is_seen() {
    let mut disk = grown(&mut Random(2), true);
    let mut first = None;
    let end_lsn = recover(&mut disk, SHARD, |position, _| first = first.or(Some(position))).unwrap().end_lsn();
    let first = first.unwrap().lsn;
    assert!(first > Lsn(10), "vacuous: nothing was trimmed");
    assert_eq!(behind(&mut disk, LogPlace::default()).0.frames_missing, first.0 - 1);
    let just_before = LogPlace { lsn: first.previous(), index: 0 };
    assert_eq!(behind(&mut disk, just_before).0.frames_missing, 0);
    let beyond = LogPlace { lsn: Lsn(end_lsn.0 + 5), index: 0 };
    let (read, found) = behind(&mut disk, beyond);
    assert_eq!((read.records, found.len()), (0, 0));
    assert!(read.end_lsn < beyond.lsn);
}
