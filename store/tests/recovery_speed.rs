//! How fast a log is read back from a real disk: all of it, and by digests. Long; run it alone on a machine at rest:
//!
//! `CRETO_MESSAGES=10000000 cargo test --release -p creto-store --test recovery_speed -- --ignored --nocapture`
//!
//! The folder is made below `TMPDIR`. What the disk itself gives is measured beside it, in the same run, with the same reads.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test harness that measures: a wrong unwrap or cast fails the test"
)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use creto_store::{
    Action, BatchPart, FileSource, MailboxId, MessageFlags, MessageId, PartMessage, Priority, Record, SenderId, Wal,
    WalConfig, digest_file_name, recover, recover_noted, segment_file_name, verify,
};

const NOW_MS: u64 = 1_800_000_000_000;

#[test]
#[ignore = "long: writes a gigabyte and more, and measures"]
fn a_log_is_read_back_at_the_speed_of_the_disk() {
    let messages: u64 = std::env::var("CRETO_MESSAGES").map_or(1_000_000, |value| value.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_log(folder, messages);
    let segment_bytes = bytes_of(folder, "wal");
    let digest_bytes = bytes_of(folder, "idx");
    println!("{messages} messages, {segment_bytes} bytes of segments, {digest_bytes} bytes of digests");

    // By the clock, and by the processor's own count: a machine that is busy with other things changes only the first.
    let rate = |bytes: u64, (begun, cpu): (Instant, f64)| {
        let gigabytes = bytes as f64 / 1e9;
        let (seconds, cpu_seconds) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        format!("{:.2} GB/s, {:.2} GB per second of CPU", gigabytes / seconds, gigabytes / cpu_seconds)
    };
    let now = || (Instant::now(), cpu_seconds());
    forget(folder);
    let begun = now();
    read_plainly(folder, "wal");
    println!("plain reads of 1 MiB: {}", rate(segment_bytes, begun));

    for cached in [false, true] {
        let state = if cached { "from memory" } else { "from the disk" };
        if !cached {
            forget(folder);
        }
        let (mut count, begun, cpu) = (0, Instant::now(), cpu_seconds());
        let recovered = recover_noted(&mut FileSource::new(folder), 0, |_, noted| count += noted.message_count());
        let used = recovered.unwrap().digest_use().clone();
        let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        println!(
            "by digests, {state}: {seconds:.3} s, {cpu:.3} s of CPU, {:.2} million messages/s; {} digests, {} segments read",
            count as f64 / 1e6 / seconds,
            used.used,
            used.read
        );
        assert_eq!(count as u64, messages);
    }
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "idx") {
            fs::remove_file(path).unwrap();
        }
    }
    for cached in [false, true] {
        let state = if cached { "from memory" } else { "from the disk" };
        if !cached {
            forget(folder);
        }
        let (mut count, begun) = (0, now());
        recover_noted(&mut FileSource::new(folder), 0, |_, noted| count += noted.message_count()).unwrap();
        println!("everything read, {state}: {}", rate(segment_bytes, begun));
        assert_eq!(count as u64, messages);
    }
    let begun = now();
    assert!(verify(&mut FileSource::new(folder), 0).unwrap().problems.is_empty());
    println!("verified, from memory: {}", rate(segment_bytes, begun));
}

/// What this thread had of a processor.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

#[test]
#[ignore = "measures"]
fn what_a_message_costs_between_append_and_durable() {
    let folder = tempfile::tempdir().unwrap();
    let recovered = recover(&mut FileSource::new(folder.path()), 0, |_, _| {}).unwrap();
    let config = WalConfig { wal_bytes_max: 64 << 30, ..WalConfig::default() };
    let mut wal = Wal::open(config, recovered, 7, NOW_MS);
    let part = BatchPart { batch_header: Bytes::from(vec![3; 3448]), messages: (1..=256).map(message).collect() };
    let mut out = vec![0; creto_store::limits::WRITE_BYTES_MAX];
    let (parts, mut cpu) = (4_000, 0.0);
    for _ in 0..parts {
        let record = Record::BatchPart(part.clone());
        let begun = cpu_seconds();
        wal.append(record).unwrap();
        while let Some(action) = wal.next_action(NOW_MS) {
            if let Action::Write(write) = &action {
                write.encode_into(&mut out[..write.bytes()]);
            }
            let id = action.id();
            drop(action);
            wal.completed(id, Ok(())).unwrap();
        }
        while wal.next_durable().is_some() {}
        cpu += cpu_seconds() - begun;
    }
    println!("{:.3} us of CPU per message of 1 KiB", cpu * 1e6 / f64::from(256 * parts));
}

fn write_log(folder: &Path, messages: u64) {
    let recovered = recover(&mut FileSource::new(folder), 0, |_, _| {}).unwrap();
    let config = WalConfig { wal_bytes_max: 64 << 30, ..WalConfig::default() };
    let mut wal = Wal::open(config, recovered, 7, NOW_MS);
    settle_down(&mut wal, folder);
    let mut number = 0;
    while number < messages {
        let count = 256.min(messages - number);
        let part = BatchPart {
            batch_header: Bytes::from(vec![3; 3448]),
            messages: (number + 1..=number + count).map(message).collect(),
        };
        number += count;
        wal.append(Record::BatchPart(part)).unwrap();
        settle_down(&mut wal, folder);
    }
}

fn settle_down(wal: &mut Wal, folder: &Path) {
    while let Some(action) = wal.next_action(NOW_MS) {
        match &action {
            Action::Write(write) => {
                let mut bytes = vec![0; write.bytes()];
                write.encode_into(&mut bytes);
                let path = folder.join(segment_file_name(write.segment()));
                OpenOptions::new().write(true).open(path).unwrap().write_all_at(&bytes, write.offset()).unwrap();
            }
            Action::Prepare { segment, bytes, .. } => {
                File::create(folder.join(segment_file_name(*segment))).unwrap().set_len(*bytes).unwrap();
            }
            Action::WriteDigest { segment, digest, .. } => {
                fs::write(folder.join(digest_file_name(*segment)), digest.pieces().concat()).unwrap();
            }
            other => panic!("nothing is deleted or shortened: {other:?}"),
        }
        let id = action.id();
        drop(action);
        wal.completed(id, Ok(())).unwrap();
    }
    while wal.next_durable().is_some() {}
}

/// 1 KiB in an envelope, in one of 10,000 mailboxes.
fn message(number: u64) -> PartMessage {
    let id = |first: u64| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&first.to_be_bytes());
        id[8..].copy_from_slice(&number.to_be_bytes());
        id
    };
    let mut mailbox = [1; 16];
    mailbox[..8].copy_from_slice(&(number % 10_000).to_le_bytes());
    PartMessage {
        mailbox: MailboxId(mailbox),
        sender: SenderId([2; 16]),
        message_id: MessageId(id(NOW_MS)),
        sequence: number,
        expiry_ms: NOW_MS + 604_800_000,
        leaf_index: (number % 256) as u32,
        priority: Priority::Normal,
        flags: MessageFlags::NONE,
        salt: id(number),
        path: Bytes::from(vec![5; 256]),
        envelope: Bytes::from(vec![number as u8; 1024]),
    }
}

fn bytes_of(folder: &Path, extension: &str) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let wanted = entries.filter(|entry| entry.path().extension().is_some_and(|found| found == extension));
    wanted.map(|entry| entry.metadata().unwrap().len()).sum()
}

/// Has the system forget what it holds of these files in memory.
fn forget(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

fn read_plainly(folder: &Path, extension: &str) {
    let mut buffer = vec![0; 1 << 20];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|found| found == extension) {
            let file = File::open(path).unwrap();
            let mut offset = 0;
            loop {
                let read = file.read_at(&mut buffer, offset).unwrap();
                if read == 0 {
                    break;
                }
                offset += read as u64;
            }
        }
    }
}
