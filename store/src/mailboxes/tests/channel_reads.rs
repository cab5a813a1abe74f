use std::collections::BTreeMap;

use super::channels::{CHANNEL, HOUR_MS, who};
use super::*;
use crate::id::GroupId;
use crate::limits::{CHANNEL_READS_MAX, READ_TRIES_MAX};
use crate::subscription::Reader;
use crate::wal::DiskError;

/// Larger than what is read along, so that no read covers two.
const LARGE: usize = 20 << 10;

/// A channel whose messages are on disk only.
fn shard(messages: u64) -> (Shard, Vec<u64>) {
    let mut shard = Shard::new(MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() });
    let sequences = (1..=messages).map(|number| shard.publish_of(number, LARGE, NOW_MS + HOUR_MS)).collect();
    shard.mailboxes.end_turn();
    (shard, sequences)
}

impl Shard {
    /// A subscriber of its own that begins with the message of this sequence.
    fn reader_at(&mut self, number: u32, sequence: u64) -> Reader {
        let start = Some(StartAt::Sequence(sequence));
        let subscribe = self.mailboxes.subscribe(CHANNEL, who(number), GroupId::NONE, start).unwrap();
        self.apply(Record::Subscribe(subscribe.unwrap()));
        self.mailboxes.attach(CHANNEL, who(number), GroupId::NONE).unwrap()
    }

    /// Answers the reads that are asked for; one that would bring the beginning of a bad message fails.
    fn read_all_but(&mut self, bad: &[u64]) -> Vec<ReadProblem> {
        let bad: Vec<_> = bad
            .iter()
            .filter_map(|&sequence| self.mailboxes.index.find(sequence))
            .map(|slot| self.mailboxes.index.entries.get(slot).place())
            .collect();
        let reads: Vec<ColdRead> = std::iter::from_fn(|| self.mailboxes.next_read()).collect();
        let mut problems = Vec::new();
        for read in reads {
            let range = read.offset..read.offset + read.bytes as u64;
            let mut bad = bad.iter();
            let is_bad = bad.any(|p| p.segment == read.segment && range.contains(&u64::from(p.message_offset)));
            let outcome = match is_bad {
                true => Err(DiskError::Io("no".to_owned())),
                false => Ok(self.bytes(read.segment, read.offset, read.bytes)),
            };
            problems.extend(self.mailboxes.read_completed(read.id, outcome).problems);
        }
        problems
    }
}

#[test]
fn a_message_is_given_up_by_its_own_failed_reads_whatever_becomes_of_others() {
    let (mut shard, sequences) = shard(40);
    // Two that cannot be read, and one reader that finds all it wants.
    let bad = [sequences[0], sequences[9]];
    let readers = [shard.reader_at(1, bad[0]), shard.reader_at(2, bad[1]), shard.reader_at(3, sequences[20])];
    let mut given_up = BTreeMap::new();
    for tick in 1..=2 * READ_TRIES_MAX {
        for reader in readers {
            if let Some(&sequence) = shard.take(reader, 1).first() {
                shard.mailboxes.acknowledge_upto(reader, sequence);
                shard.take(reader, 1);
            }
        }
        shard.mailboxes.end_turn();
        for problem in shard.read_all_but(&bad) {
            if matches!(problem.kind, ReadProblemKind::GivenUp(_)) {
                assert_eq!(given_up.insert(problem.sequence, tick), None, "each is given up once");
            }
        }
        shard.mailboxes.retry_reads();
    }
    let expected = BTreeMap::from([(bad[0], READ_TRIES_MAX), (bad[1], READ_TRIES_MAX)]);
    assert_eq!(given_up, expected, "each after all its own tries, and none before");
}

#[test]
fn every_reader_of_what_left_memory_has_its_turn() {
    let readers_count = CHANNEL_READS_MAX + 3;
    let (mut shard, sequences) = shard(20 * readers_count as u64);
    let places = (0..).zip(sequences.chunks(20));
    let readers: Vec<Reader> = places.map(|(number, chunk): (u32, _)| shard.reader_at(number, chunk[0])).collect();
    let mut handed: BTreeMap<Reader, usize> = readers.iter().map(|&reader| (reader, 0)).collect();
    for &reader in &readers {
        assert_eq!(shard.take(reader, 1), []);
    }
    // One read after the other is answered, the oldest first; whoever has something asks for more at once.
    let mut asked = std::collections::VecDeque::new();
    for _ in 0..8 * readers_count {
        shard.mailboxes.end_turn();
        asked.extend(std::iter::from_fn(|| shard.mailboxes.next_read()));
        let read: ColdRead = asked.pop_front().unwrap();
        let bytes = shard.bytes(read.segment, read.offset, read.bytes);
        shard.mailboxes.read_completed(read.id, Ok(bytes));
        for reader in shard.mailboxes.take_ready_readers() {
            while let Some(&sequence) = shard.take(reader, 1).first() {
                shard.mailboxes.acknowledge_upto(reader, sequence);
                *handed.get_mut(&reader).unwrap() += 1;
            }
        }
    }
    assert!(handed.values().all(|&messages| messages >= 3), "{handed:?}");
}

#[test]
fn a_read_wakes_those_that_wait_for_it_and_nobody_else() {
    let (mut shard, sequences) = shard(20);
    let first: Vec<Reader> = (0..CHANNEL_READS_MAX)
        .map(|place| shard.reader_at(u32::try_from(place).unwrap(), sequences[2 * place]))
        .collect();
    let herd: Vec<Reader> = (100..1_100).map(|number| shard.reader_at(number, sequences[15])).collect();
    for &reader in first.iter().chain(&herd) {
        assert_eq!(shard.take(reader, 1), []);
    }
    let asked: Vec<ColdRead> = std::iter::from_fn(|| shard.mailboxes.next_read()).collect();
    assert_eq!(asked.len(), CHANNEL_READS_MAX);
    let answer = |shard: &mut Shard, read: ColdRead| {
        let bytes = shard.bytes(read.segment, read.offset, read.bytes);
        shard.mailboxes.read_completed(read.id, Ok(bytes));
        shard.mailboxes.take_ready_readers()
    };
    let ready = answer(&mut shard, asked[1]);
    assert_eq!((ready.len(), ready[0]), (1, first[1]));
    assert_eq!(shard.take(first[1], 1), sequences[2..3]);
    // What frees is for those that waited, and one read is for all of them.
    let next: Vec<ColdRead> = std::iter::from_fn(|| shard.mailboxes.next_read()).collect();
    assert_eq!(next.len(), 1);
    let ready = answer(&mut shard, next[0]);
    assert_eq!(ready.len(), herd.len());
    for reader in ready {
        assert_eq!(shard.take(reader, 1), sequences[15..16]);
    }
}

#[test]
fn a_reader_that_goes_leaves_no_read_behind_that_others_wait_for() {
    let (mut shard, sequences) = shard(30);
    let readers: Vec<Reader> = (0..6).map(|place| shard.reader_at(place, sequences[4 * place as usize])).collect();
    for &reader in &readers {
        assert_eq!(shard.take(reader, 1), []);
    }
    // Two go before their reads are answered or begun; one comes again, at another place.
    shard.mailboxes.reset_reader(readers[0], None);
    shard.mailboxes.reset_reader(readers[4], None);
    let again = shard.mailboxes.subscribe(CHANNEL, who(1), GroupId::NONE, Some(StartAt::Sequence(sequences[29])));
    shard.apply(Record::Subscribe(again.unwrap().unwrap()));
    let moved = shard.mailboxes.attach(CHANNEL, who(1), GroupId::NONE).unwrap();
    assert_eq!(shard.take(moved, 1), []);
    let mut found = BTreeMap::new();
    for _ in 0..10 {
        assert_eq!(shard.read_all_but(&[]), []);
        for reader in shard.mailboxes.take_ready_readers() {
            found.extend(shard.take(reader, 1).first().map(|&sequence| (reader, sequence)));
        }
        shard.mailboxes.end_turn();
    }
    let left = [(moved, 29), (readers[2], 8), (readers[3], 12), (readers[5], 20)];
    assert_eq!(found, left.map(|(reader, at)| (reader, sequences[at])).into());
    assert_eq!(shard.mailboxes.reads_in_flight(), 0);
}
