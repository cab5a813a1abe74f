//! What the log and the mailboxes cost a shard, the disk left out: admit, encode a group commit, apply, settle, recover.
//!
//! Messages have 1 KiB of envelope and a path of eight hashes, in parts of 256: what a sender's full batch looks like.

use std::collections::BTreeMap;
use std::hint::black_box;

use bytes::Bytes;
use creto_store::{
    Action, Admit, BatchPart, Durable, MailboxId, Mailboxes, MailboxesConfig, MessageFlags, MessageId, PartMessage,
    Position, Priority, Record, RecordSequence, SegmentFile, SegmentNumber, SegmentSource, SenderId, SettleCause,
    SourceError, Wal, WalConfig, limits, recover, recover_noted,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const NOW_MS: u64 = 1_800_000_000_000;
const PART_MESSAGES: u64 = 256;
const ENVELOPE_BYTES: usize = 1024;
const PATH_BYTES: usize = 8 * 32;
const BATCH_HEADER_BYTES: usize = 3448;
const SHARD: u32 = 0;

/// One part of a batch as the log stage builds it: slices of the frame that came in.
fn part(first: u64) -> BatchPart {
    let received = Bytes::from(vec![7; BATCH_HEADER_BYTES + ENVELOPE_BYTES]);
    let paths = Bytes::from(vec![9; PATH_BYTES]);
    let message = |number: u64| {
        let mut id = [0; 16];
        // 64 messages a millisecond: the window's floor moves along behind them.
        id[..6].copy_from_slice(&(NOW_MS + number / 64).to_be_bytes()[2..]);
        id[8..].copy_from_slice(&number.to_be_bytes());
        PartMessage {
            mailbox: MailboxId([u8::try_from(number % 16).expect("below 16"); 16]),
            sender: SenderId([1; 16]),
            message_id: MessageId(id),
            sequence: number,
            expiry_ms: 0,
            leaf_index: 0,
            priority: Priority::Normal,
            flags: MessageFlags::NONE,
            salt: [3; 16],
            path: paths.clone(),
            envelope: received.slice(BATCH_HEADER_BYTES..),
        }
    };
    BatchPart {
        batch_header: received.slice(..BATCH_HEADER_BYTES),
        messages: (first..first + PART_MESSAGES).map(message).collect(),
    }
}

/// A log on a disk that takes no time. Old segments are let go as it goes on.
struct Log {
    wal: Wal,
    buffer: Vec<u8>,
    digests: BTreeMap<SegmentNumber, Bytes>,
}

impl Log {
    fn open(on_write: impl FnMut(SegmentNumber, u64, &[u8])) -> Self {
        let recovered = recover(&mut Memory::default(), SHARD, |_, _| ());
        let wal = Wal::open(WalConfig::default(), recovered.expect("an empty log"), 1, NOW_MS);
        let mut log = Self { wal, buffer: vec![0; limits::WRITE_BYTES_MAX], digests: BTreeMap::new() };
        log.turn(on_write);
        log
    }

    /// Carries out everything there is to do; `on_write` sees the bytes.
    fn turn(&mut self, mut on_write: impl FnMut(SegmentNumber, u64, &[u8])) {
        while let Some(action) = self.wal.next_action(NOW_MS) {
            if let Action::Write(write) = &action {
                let out = &mut self.buffer[..write.bytes()];
                write.encode_into(out);
                on_write(write.segment(), write.offset(), out);
            }
            if let Action::WriteDigest { segment, digest, .. } = &action {
                self.digests = [(*segment, Bytes::from(digest.pieces().concat()))].into();
            }
            let id = action.id();
            drop(action);
            self.wal.completed(id, Ok(())).expect("nothing fails here");
        }
    }

    fn trim(&mut self) {
        let active = self.wal.active_segment();
        if self.wal.log_start().0 + 4 < active.0 {
            self.wal.trim(active, Vec::new()).expect("nothing fails here");
        }
    }
}

/// Segments in memory.
#[derive(Clone, Default)]
struct Memory {
    segments: Vec<Vec<u8>>,
    digests: BTreeMap<SegmentNumber, Bytes>,
}

impl Memory {
    fn write(&mut self, segment: SegmentNumber, offset: u64, bytes: &[u8]) {
        let segment_bytes = usize::try_from(limits::SEGMENT_BYTES).expect("64 MiB");
        let index = usize::try_from(segment.0 - 1).expect("few segments");
        self.segments.resize(self.segments.len().max(index + 1), vec![0; segment_bytes]);
        let offset = usize::try_from(offset).expect("small segments");
        self.segments[index][offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl SegmentSource for Memory {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        let file =
            |(number, bytes): (u64, &Vec<u8>)| SegmentFile { number: SegmentNumber(number), bytes: bytes.len() as u64 };
        Ok((1..).zip(&self.segments).map(file).collect())
    }

    fn digests(&mut self) -> Result<Vec<SegmentNumber>, SourceError> {
        Ok(self.digests.keys().copied().collect())
    }

    fn read_digest(&mut self, segment: SegmentNumber) -> Result<Bytes, SourceError> {
        Ok(self.digests[&segment].clone())
    }

    fn read(&mut self, segment: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let segment = &self.segments[usize::try_from(segment.0 - 1).expect("few segments")];
        let offset = usize::try_from(offset).expect("small segments");
        out.copy_from_slice(&segment[offset..offset + out.len()]);
        Ok(())
    }
}

/// From a record to the bytes of its frame, and back to the record as durable.
fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Elements(PART_MESSAGES));
    group.bench_function("encode/256x1KiB", |b| {
        let mut log = Log::open(|_, _, _| ());
        let part = part(1);
        b.iter_batched(
            || Record::BatchPart(part.clone()),
            |record| {
                log.trim();
                log.wal.append(record).expect("there is room");
                log.turn(|_, _, bytes| {
                    black_box(bytes);
                });
                while let Some(durable) = log.wal.next_durable() {
                    black_box(durable);
                }
            },
            BatchSize::SmallInput,
        );
    });
    // What the disk gets: the same work in bytes, to hold beside its rate.
    let bytes = Record::BatchPart(part(1)).encoded_bytes() as u64;
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function("encode/bytes", |b| {
        let record = Record::BatchPart(part(1));
        let mut out = vec![0; record.encoded_bytes()];
        b.iter(|| record.encode_into(black_box(&mut out)));
    });
    group.finish();
}

/// As the log hands a record on.
fn durable(position: Position, record: Record) -> Durable {
    Durable { sequence: RecordSequence(1), position, noted: record.noted(position), record }
}

/// The mailboxes' share: admit, apply, hand out, settle.
fn mailboxes(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Elements(PART_MESSAGES));
    // One busy sender: its window of 65,536 ids is full, and every id pushes one out.
    let mut mailboxes = Mailboxes::new(MailboxesConfig::default(), [1, 2]);
    let mut first = 1;
    let mut position = Position { segment: SegmentNumber(1), lsn: creto_store::Lsn(1), index: 0, offset: 4192 };
    group.bench_function("admit_apply_settle/256", |b| {
        b.iter_batched(
            || {
                first += PART_MESSAGES;
                part(first)
            },
            |mut part| {
                let now_ms = part.messages[0].message_id.time_ms();
                for message in &mut part.messages {
                    let admit =
                        mailboxes.admit(message.sender, message.message_id, message.mailbox, ENVELOPE_BYTES, now_ms);
                    match admit {
                        Ok(Admit::New(sequence)) => message.sequence = sequence,
                        other => panic!("{other:?}"),
                    }
                }
                position.lsn = position.lsn.next();
                mailboxes.apply(durable(position, Record::BatchPart(part)));
                for mailbox in 0..16 {
                    let mailbox = MailboxId([mailbox; 16]);
                    let deliveries = mailboxes.next_for_delivery(mailbox, u32::MAX, u64::MAX, NOW_MS);
                    let sequences: Vec<u64> = deliveries.iter().map(|delivery| delivery.message.sequence).collect();
                    let settle = mailboxes.settle(mailbox, &sequences, SettleCause::Acknowledged);
                    mailboxes.apply(durable(position, Record::Settle(settle.expect("just handed out"))));
                }
                mailboxes.end_turn();
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Reading a segment back: checksums, records, and the copies that are kept.
fn recovery(c: &mut Criterion) {
    let mut memory = Memory::default();
    let mut log = Log::open(|segment, offset, bytes| memory.write(segment, offset, bytes));
    let mut first = 1;
    while log.wal.active_segment() == SegmentNumber(1) {
        log.wal.append(Record::BatchPart(part(first))).expect("there is room");
        first += PART_MESSAGES;
        log.turn(|segment, offset, bytes| memory.write(segment, offset, bytes));
    }
    let report = creto_store::verify(&mut memory, SHARD).expect("memory can be read");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Bytes(report.bytes));
    group.sample_size(20);
    group.bench_function("recover/bytes", |b| {
        b.iter(|| recover(&mut memory, SHARD, |position, record| drop(black_box((position, record)))));
    });
    group.bench_function("recover_noted/bytes", |b| {
        b.iter(|| recover_noted(&mut memory, SHARD, |position, noted| drop(black_box((position, noted)))));
    });
    group.bench_function("verify/bytes", |b| {
        b.iter(|| creto_store::verify(&mut memory, SHARD));
    });
    // The whole digest of a segment: what a start reads instead of 64 MiB.
    let digest = log.digests.remove(&SegmentNumber(1)).expect("written when the second segment was begun");
    println!("append/digest: {} bytes for {} messages in {} bytes", digest.len(), first - 1, report.bytes);
    let messages = creto_store::SegmentDigest::parse(&digest).expect("as written");
    let messages: usize = messages.entries().map(|(_, noted)| noted.message_count()).sum();
    group.throughput(Throughput::Elements(messages as u64));
    group.bench_function("digest/messages", |b| {
        b.iter(|| {
            let digest = creto_store::SegmentDigest::parse(&digest).expect("as written");
            digest.entries().for_each(|entry| drop(black_box(entry)));
        });
    });
    memory.digests.insert(SegmentNumber(1), digest);
    let recovered = recover_noted(&mut memory, SHARD, |_, _| ()).expect("a sound log");
    assert_eq!(recovered.digest_use().used, 1, "the digest is taken");
    group.finish();
}

criterion_group!(benches, encode, mailboxes, recovery);
criterion_main!(benches);
