//! The promises, one function each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use creto_control_storage::limits::PAGE_ROWS_MAX;
use creto_control_storage::{Backend, RedbFile, StorageError, Table, TableRef, copy_rows};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Where a back end lives.
pub(crate) trait Home {
    /// Opens it, with what was committed there before.
    fn open(&self) -> Box<dyn Backend>;

    /// Whether it can be closed and opened again.
    fn keeps(&self) -> bool {
        true
    }

    /// Whether another process is told no, while one has it.
    fn second_is_refused(&self) -> bool {
        true
    }

    /// How many random histories it is put through.
    fn cases(&self) -> u32 {
        64
    }
}

const BYTES: Table<[u8; 16], Vec<u8>> = Table::new("bytes");
const NAMES: Table<String, [u8; 16]> = Table::new("names");
const VERSIONS: Table<([u8; 16], u32), Vec<u8>> = Table::new("versions");
const NUMBERS: Table<u64, Vec<u8>> = Table::new("numbers");
const LEVELS: Table<(u8, u64), [u8; 32]> = Table::new("levels");
const PLACES: Table<([u8; 16], u32), u64> = Table::new("places");
const PREKEYS: Table<([u8; 16], u64), Vec<u8>> = Table::new("prekeys");

fn tables() -> [TableRef; 7] {
    [
        BYTES.erased(),
        NAMES.erased(),
        VERSIONS.erased(),
        NUMBERS.erased(),
        LEVELS.erased(),
        PLACES.erased(),
        PREKEYS.erased(),
    ]
}

fn opened(home: &dyn Home) -> Box<dyn Backend> {
    let backend = home.open();
    backend.create(&tables()).unwrap();
    backend
}

fn fill(backend: &dyn Backend, numbers: impl IntoIterator<Item = u64>) {
    let transaction = backend.begin_write().unwrap();
    for number in numbers {
        transaction.table(NUMBERS).put(&number, &number.to_le_bytes()).unwrap();
    }
    transaction.commit().unwrap();
}

fn numbers(backend: &dyn Backend) -> Vec<u64> {
    backend.begin_read().unwrap().table(NUMBERS).all().map(|row| row.unwrap().0).collect()
}

pub(crate) fn rows_of_every_type_come_back_in_the_order_of_their_keys(home: &dyn Home) {
    let backend = opened(home);
    let ids = [[0; 16], [0x7f; 16], [0x80; 16], [0xff; 16]];
    let edges = [0, 1, 0xff, 0x100, u64::from(u32::MAX), u64::MAX - 1, u64::MAX];
    let versions = [0, 1, 0xff, 0x100, u32::MAX];
    let texts = ["", "a", "a/b", "ab", "acme.x/a", "acme/a", "\u{e9}", "\u{10ffff}"];
    let values = [vec![], vec![0], vec![0xff; 3], vec![7; 9_000]];
    let transaction = backend.begin_write().unwrap();
    for (id, value) in ids.iter().zip(&values).rev() {
        transaction.table(BYTES).put(id, value).unwrap();
        for version in versions {
            transaction.table(VERSIONS).put(&(*id, version), value).unwrap();
            transaction.table(PLACES).put(&(*id, version), &u64::from(version)).unwrap();
        }
        edges.iter().for_each(|edge| transaction.table(PREKEYS).put(&(*id, *edge), value).unwrap());
    }
    edges.iter().rev().for_each(|edge| transaction.table(NUMBERS).put(edge, &edge.to_le_bytes()).unwrap());
    for level in [0, 1, 0x80, 0xff] {
        edges.iter().rev().for_each(|edge| transaction.table(LEVELS).put(&(level, *edge), &[level; 32]).unwrap());
    }
    texts
        .iter()
        .rev()
        .for_each(|text| transaction.table(NAMES).put(text, &[u8::try_from(text.len()).unwrap(); 16]).unwrap());
    transaction.commit().unwrap();

    let read = backend.begin_read().unwrap();
    let rows: Vec<_> = read.table(BYTES).all().map(Result::unwrap).collect();
    assert_eq!(rows, ids.into_iter().zip(values.clone()).collect::<Vec<_>>());
    let found: Vec<_> = read.table(VERSIONS).all().map(|row| row.unwrap().0).collect();
    assert_eq!(found, ids.iter().flat_map(|id| versions.map(|version| (*id, version))).collect::<Vec<_>>());
    let found: Vec<_> = read.table(PREKEYS).all().descending().map(|row| row.unwrap().0).collect();
    let expect = ids.iter().flat_map(|id| edges.map(|edge| (*id, edge)));
    assert_eq!(found, expect.rev().collect::<Vec<_>>());
    assert!(read.table(PLACES).all().map(Result::unwrap).all(|((_, version), place)| place == u64::from(version)));
    assert_eq!(numbers(&*backend), edges);
    let found: Vec<_> = read.table(LEVELS).within(&(1, 0), &(0x80, u64::MAX)).map(|row| row.unwrap().0).collect();
    assert_eq!(found.len(), 2 * edges.len());
    assert!(found.is_sorted());
    let found: Vec<_> = read.table(NAMES).all().map(|row| row.unwrap().0).collect();
    assert_eq!(found, texts);

    assert_eq!(read.table(BYTES).get(&ids[3]).unwrap().unwrap().len(), 9_000);
    assert_eq!(read.table(BYTES).get(&[1; 16]).unwrap(), None);
    assert_eq!(read.table(NAMES).last().unwrap().unwrap().0, "\u{10ffff}");
    assert_eq!(read.table(PLACES).get(&(ids[1], u32::MAX)).unwrap(), Some(u64::from(u32::MAX)));
    let many = read.table(NAMES).get_many(["acme/a", "nobody", "", "acme/a"]).unwrap();
    assert_eq!(many, [Some([6; 16]), None, Some([0; 16]), Some([6; 16])]);
    assert_eq!(read.table(NAMES).get_many([]).unwrap(), []);
    assert_eq!(read.table(VERSIONS).count().unwrap(), 20);
}

pub(crate) fn a_transaction_sees_what_it_did_and_nobody_else_does(home: &dyn Home) {
    let backend = opened(home);
    fill(&*backend, 0..10);
    let transaction = backend.begin_write().unwrap();
    let rows = transaction.table(NUMBERS);
    assert_eq!(rows.insert(&3, b"three").unwrap(), Some(3_u64.to_le_bytes().to_vec()));
    assert_eq!(rows.insert(&30, b"thirty").unwrap(), None);
    assert_eq!(rows.take(&4).unwrap(), Some(4_u64.to_le_bytes().to_vec()));
    assert_eq!(rows.take(&4).unwrap(), None);
    rows.delete(&40).unwrap();
    rows.delete(&5).unwrap();
    rows.put(&5, b"again").unwrap();
    rows.put(&50, b"for now").unwrap();
    rows.delete(&50).unwrap();
    assert_eq!(rows.get(&3).unwrap().unwrap(), b"three");
    assert_eq!(rows.get(&50).unwrap(), None);
    assert_eq!(
        rows.get_many([&30, &4, &5, &0]).unwrap()[..3],
        [Some(b"thirty".to_vec()), None, Some(b"again".to_vec())]
    );
    let expect = [0, 1, 2, 3, 5, 6, 7, 8, 9, 30];
    assert_eq!(rows.all().map(|row| row.unwrap().0).collect::<Vec<_>>(), expect);
    assert_eq!(rows.count().unwrap(), 10);
    assert_eq!(rows.last().unwrap().unwrap().0, 30);
    assert_eq!(numbers(&*backend), (0..10).collect::<Vec<_>>(), "nobody else sees it");
    transaction.commit().unwrap();
    assert_eq!(numbers(&*backend), expect);
    assert_eq!(backend.begin_read().unwrap().table(NUMBERS).get(&5).unwrap().unwrap(), b"again");
}

pub(crate) fn what_is_given_up_or_dropped_leaves_nothing(home: &dyn Home) {
    let backend = opened(home);
    fill(&*backend, 0..3);
    for is_dropped in [false, true] {
        let transaction = backend.begin_write().unwrap();
        transaction.table(NUMBERS).put(&7, b"seven").unwrap();
        transaction.table(NUMBERS).delete(&0).unwrap();
        // Also what the back end was told already.
        assert_eq!(transaction.table(NUMBERS).count().unwrap(), 3);
        if is_dropped {
            drop(transaction)
        } else {
            transaction.abort().unwrap()
        }
        assert_eq!(numbers(&*backend), [0, 1, 2]);
    }
    backend.begin_write().unwrap().commit().unwrap();
    assert_eq!(numbers(&*backend), [0, 1, 2]);
}

pub(crate) fn a_snapshot_stays_as_it_was(home: &dyn Home) {
    let backend = opened(home);
    fill(&*backend, 0..5);
    let before = backend.begin_read().unwrap();
    fill(&*backend, 5..8);
    let transaction = backend.begin_write().unwrap();
    transaction.table(NUMBERS).clear().unwrap();
    transaction.commit().unwrap();
    assert_eq!(before.table(NUMBERS).all().map(|row| row.unwrap().0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(before.table(NUMBERS).count().unwrap(), 5);
    assert_eq!(numbers(&*backend), [0; 0]);
}

pub(crate) fn what_was_committed_is_there_when_it_is_opened_again(home: &dyn Home) {
    if !home.keeps() {
        return;
    }
    let backend = opened(home);
    fill(&*backend, [1, 2, 3]);
    let transaction = backend.begin_write().unwrap();
    transaction.table(NUMBERS).put(&4, b"not committed").unwrap();
    drop(transaction);
    drop(backend);
    assert_eq!(numbers(&*opened(home)), [1, 2, 3]);
}

pub(crate) fn pages_end_where_they_should(home: &dyn Home) {
    let backend = opened(home);
    let page = PAGE_ROWS_MAX as u64;
    let mut there = 0;
    for count in [0, 1, page - 1, page, page + 1, 2 * page, 2 * page + 1] {
        fill(&*backend, there..count);
        there = count;
        let read = backend.begin_read().unwrap();
        let rows = read.table(NUMBERS);
        let keys = |scan: creto_control_storage::Scan<'_, _, u64, Vec<u8>>| -> Vec<u64> {
            scan.map(|row| row.unwrap().0).collect()
        };
        let all: Vec<_> = (0..count).collect();
        assert_eq!(keys(rows.all()), all);
        assert_eq!(keys(rows.all().descending()), all.iter().rev().copied().collect::<Vec<_>>());
        for limit in [0, 1, PAGE_ROWS_MAX - 1, PAGE_ROWS_MAX, PAGE_ROWS_MAX + 1] {
            assert_eq!(keys(rows.all().limit(limit)), all[..limit.min(all.len())]);
            let last: Vec<_> = all.iter().rev().take(limit).copied().collect();
            assert_eq!(keys(rows.all().descending().limit(limit)), last);
        }
        let (from, to) = (page - 1, page + 1);
        assert_eq!(keys(rows.within(&from, &to)), (from..=to).filter(|key| *key < count).collect::<Vec<_>>());
        assert_eq!(keys(rows.from(&from)), (from..count).collect::<Vec<_>>());
        assert_eq!(keys(rows.after(&from)), (from + 1..count).collect::<Vec<_>>());
    }
}

pub(crate) fn bounds_that_hold_nothing_are_empty(home: &dyn Home) {
    let backend = opened(home);
    fill(&*backend, 0..10);
    let transaction = backend.begin_write().unwrap();
    let rows = transaction.table(NUMBERS);
    assert!(rows.within(&5, &4).next().is_none());
    assert!(rows.within(&5, &4).descending().next().is_none());
    assert_eq!(rows.within(&5, &5).count(), 1);
    assert!(rows.after(&u64::MAX).next().is_none());
    rows.delete_within(&5, &4).unwrap();
    assert_eq!(rows.count().unwrap(), 10);
    rows.delete_within(&3, &6).unwrap();
    rows.delete_within(&9, &u64::MAX).unwrap();
    rows.delete_within(&100, &200).unwrap();
    transaction.commit().unwrap();
    assert_eq!(numbers(&*backend), [0, 1, 2, 7, 8]);
}

pub(crate) fn changes_of_many_pages_are_one_transaction(home: &dyn Home) {
    let backend = opened(home);
    let transaction = backend.begin_write().unwrap();
    let (numbers, bytes) = (transaction.table(NUMBERS), transaction.table(BYTES));
    for number in 0..3_000_u64 {
        numbers.put(&number, &[7; 40]).unwrap();
        if number % 3 == 0 {
            numbers.delete(&number).unwrap();
        }
    }
    // Six megabytes of values.
    (0..60_u8).for_each(|id| bytes.put(&[id; 16], &vec![id; 100_000]).unwrap());
    assert_eq!(numbers.count().unwrap(), 2_000);
    assert_eq!(backend.begin_read().unwrap().table(NUMBERS).count().unwrap(), 0);
    transaction.commit().unwrap();
    let read = backend.begin_read().unwrap();
    assert_eq!(read.table(NUMBERS).count().unwrap(), 2_000);
    assert!(read.table(NUMBERS).all().map(Result::unwrap).all(|(number, value)| number % 3 != 0 && value == [7; 40]));
    assert!(read.table(BYTES).all().map(Result::unwrap).all(|(id, value)| value == vec![id[0]; 100_000]));
}

pub(crate) fn counts_are_exact_inside_of_a_transaction(home: &dyn Home) {
    let backend = opened(home);
    fill(&*backend, 0..5);
    let transaction = backend.begin_write().unwrap();
    let rows = transaction.table(NUMBERS);
    assert_eq!(rows.count().unwrap(), 5);
    rows.put(&4, b"there before").unwrap();
    rows.put(&5, b"new").unwrap();
    assert_eq!(rows.count().unwrap(), 6);
    rows.delete(&0).unwrap();
    rows.delete(&77).unwrap();
    rows.put(&6, b"new").unwrap();
    assert_eq!(rows.count().unwrap(), 6);
    rows.delete_within(&4, &6).unwrap();
    assert_eq!(rows.count().unwrap(), 3);
    rows.clear().unwrap();
    assert_eq!(rows.count().unwrap(), 0);
    transaction.commit().unwrap();
    assert_eq!(backend.begin_read().unwrap().table(NUMBERS).count().unwrap(), 0);
}

pub(crate) fn a_second_writer_waits_and_a_reader_does_not(home: &dyn Home) {
    let backend = opened(home);
    let (began, begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let first = backend.begin_write().unwrap();
        first.table(NUMBERS).put(&1, b"first").unwrap();
        let second = scope.spawn(|| {
            let second = backend.begin_write().unwrap();
            began.send(()).unwrap();
            let before = second.table(NUMBERS).get(&1).unwrap();
            second.table(NUMBERS).put(&2, b"second").unwrap();
            second.commit().unwrap();
            before
        });
        assert!(begun.recv_timeout(Duration::from_millis(200)).is_err(), "two write at a time");
        assert_eq!(numbers(&*backend), [0; 0]);
        first.commit().unwrap();
        assert_eq!(second.join().unwrap().unwrap(), b"first", "it sees what the one before did");
    });
    assert_eq!(numbers(&*backend), [1, 2]);
}

pub(crate) fn readers_see_whole_transactions_while_one_writes(home: &dyn Home) {
    let backend = opened(home);
    fill(&*backend, [0]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let read = || {
            let (mut last, mut rounds) = (0, 0);
            while !is_over.load(Ordering::Relaxed) || rounds == 0 {
                let read = backend.begin_read().unwrap();
                let count = read.table(NUMBERS).count().unwrap();
                let greatest = read.table(NUMBERS).last().unwrap().unwrap().0;
                let ids = read.table(BYTES).count().unwrap();
                assert_eq!((count, ids), (greatest + 1, greatest), "half of a transaction is seen");
                assert!(greatest >= last, "what was committed is gone again");
                (last, rounds) = (greatest, rounds + 1);
            }
            rounds
        };
        let readers = [scope.spawn(read), scope.spawn(read)];
        for number in 1..=30_u64 {
            let transaction = backend.begin_write().unwrap();
            transaction.table(NUMBERS).put(&number, b"").unwrap();
            transaction.table(BYTES).put(&[u8::try_from(number).unwrap(); 16], b"").unwrap();
            transaction.commit().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
    });
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64, Vec<u8>),
    Delete(u64),
    DeleteWithin(u64, u64),
    Look(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    // A few keys, some of them where bytes turn over, so that steps meet each other.
    let key = || prop_oneof![0..12_u64, 250..260_u64, Just(u64::MAX), Just(1 << 32)];
    prop_oneof![
        5 => (key(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(key, value)| Step::Put(key, value)),
        3 => key().prop_map(Step::Delete),
        1 => (key(), key()).prop_map(|(from, to)| Step::DeleteWithin(from, to)),
        2 => (key(), key()).prop_map(|(from, to)| Step::Look(from, to)),
    ]
}

pub(crate) fn it_does_what_a_map_in_memory_does(home: &dyn Home) {
    let backend = opened(home);
    let histories = prop::collection::vec((prop::collection::vec(step(), 0..12), any::<bool>()), 1..6);
    let mut runner = TestRunner::new(Config { cases: home.cases(), failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&histories, |history| {
        let mut committed: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let transaction = backend.begin_write().unwrap();
        transaction.table(NUMBERS).clear().unwrap();
        transaction.commit().unwrap();
        for (steps, commits) in history {
            let transaction = backend.begin_write().unwrap();
            let rows = transaction.table(NUMBERS);
            let mut model = committed.clone();
            for step in steps {
                match step {
                    Step::Put(key, value) => {
                        prop_assert_eq!(rows.insert(&key, &value).unwrap(), model.insert(key, value));
                    }
                    Step::Delete(key) => {
                        prop_assert_eq!(rows.take(&key).unwrap(), model.remove(&key));
                    }
                    Step::DeleteWithin(from, to) => {
                        rows.delete_within(&from, &to).unwrap();
                        model.retain(|key, _| !(from..=to).contains(key));
                    }
                    Step::Look(from, to) => {
                        let found: Vec<_> = rows.within(&from, &to).map(Result::unwrap).collect();
                        let expect = model.iter().filter(|(key, _)| (from..=to).contains(key));
                        prop_assert_eq!(found, expect.map(|(key, value)| (*key, value.clone())).collect::<Vec<_>>());
                        prop_assert_eq!(rows.count().unwrap(), model.len() as u64);
                        prop_assert_eq!(
                            rows.last().unwrap().map(|row| row.0),
                            model.last_key_value().map(|row| *row.0)
                        );
                    }
                }
            }
            if commits {
                transaction.commit().unwrap();
                committed = model;
            } else {
                drop(transaction);
            }
            let found: BTreeMap<_, _> =
                backend.begin_read().unwrap().table(NUMBERS).all().map(Result::unwrap).collect();
            prop_assert_eq!(&found, &committed);
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

pub(crate) fn tables_are_made_once_and_named(home: &dyn Home) {
    let backend = home.open();
    backend.create(&[NUMBERS.erased()]).unwrap();
    fill(&*backend, [5]);
    backend.create(&tables()).unwrap();
    backend.create(&tables()).unwrap();
    let mut names = backend.begin_read().unwrap().table_names().unwrap();
    names.sort();
    assert_eq!(names, ["bytes", "levels", "names", "numbers", "places", "prekeys", "versions"]);
    assert_eq!(numbers(&*backend), [5]);
    assert!(!backend.place().is_empty());
}

pub(crate) fn only_one_process_has_it(home: &dyn Home) {
    let backend = opened(home);
    assert!(home.second_is_refused());
    fill(&*backend, [1]);
    drop(backend);
    drop(opened(home));
}

pub(crate) fn all_rows_are_copied_to_a_file_and_back(home: &dyn Home) {
    let backend = opened(home);
    let count = 2 * PAGE_ROWS_MAX as u64 + 3;
    fill(&*backend, 0..count);
    let transaction = backend.begin_write().unwrap();
    transaction.table(NAMES).put("acme/a", &[3; 16]).unwrap();
    transaction.table(PLACES).put(&([4; 16], 7), &9).unwrap();
    transaction.commit().unwrap();

    let folder = tempfile::tempdir().unwrap();
    let copy = RedbFile::replace(&folder.path().join("copy.redb"), 1 << 20).unwrap();
    let copied = |from: &dyn Backend, to: &dyn Backend| -> Result<u64, StorageError> {
        let (read, write) = (from.begin_read()?, to.begin_write()?);
        let mut rows = 0;
        for table in tables() {
            rows += copy_rows(&*read, &*write, table)?;
        }
        write.commit()?;
        Ok(rows)
    };
    assert_eq!(copied(&*backend, &copy).unwrap(), count + 2);
    assert_eq!(numbers(&copy), (0..count).collect::<Vec<_>>());

    let transaction = backend.begin_write().unwrap();
    transaction.table(NUMBERS).clear().unwrap();
    transaction.commit().unwrap();
    assert_eq!(copied(&copy, &*backend).unwrap(), count + 2);
    assert_eq!(numbers(&*backend), (0..count).collect::<Vec<_>>());
    assert_eq!(backend.begin_read().unwrap().table(PLACES).get(&([4; 16], 7)).unwrap(), Some(9));
}
