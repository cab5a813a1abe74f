//! Builds the segments of a log out of fuzz input: mostly as the log would have written them, then damaged.
//!
//! Random bytes never have a checksum that holds, so recovery would look at nothing. The input is a program instead: write a
//! segment header, write a frame, lie in one of its fields, flip, zero, cut, move, lose. Whatever comes out, recovery may
//! not panic and must say the same as the verifier.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use creto_store::{
    BatchPart, Dead, DeadLetter, DeathCause, Epoch, FrameHeader, Lsn, MailboxId, MessageFlags, MessageId, PartMessage, Priority,
    Record, SegmentFile, SegmentHeader, SegmentNumber, SegmentSource, SenderId, Settle, SettleCause, SourceError,
    Start,
};

/// The shard whose log is read.
pub const SHARD: u32 = 3;

const BLOCK: usize = 4096;
const SEGMENTS_MAX: usize = 5;
const SEGMENT_BLOCKS_MAX: usize = 8;

/// A folder in memory.
#[derive(Debug, Default)]
pub struct LogImage {
    segments: BTreeMap<u64, Vec<u8>>,
}

impl SegmentSource for LogImage {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        let file = |(&number, bytes): (&u64, &Vec<u8>)| SegmentFile {
            number: SegmentNumber(number),
            bytes: bytes.len() as u64,
        };
        Ok(self.segments.iter().map(file).collect())
    }

    fn read(&mut self, segment: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let start = usize::try_from(offset).expect("an image is small");
        let bytes = self.segments.get(&segment.0).and_then(|bytes| bytes.get(start..start + out.len()));
        let missing = || SourceError { action: "read".into(), error: io::ErrorKind::UnexpectedEof.into() };
        out.copy_from_slice(bytes.ok_or_else(missing)?);
        Ok(())
    }
}

/// Numbers out of the input; zeros when it is used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn below(&mut self, limit: usize) -> usize {
        let number = usize::from(self.u8()) << 8 | usize::from(self.u8());
        number.checked_rem(limit).unwrap_or(0)
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes([(); 8].map(|()| self.u8()))
    }

    /// `honest`, or a number near it, or any number: as the bit of `lies` says.
    fn lie(&mut self, lies: u8, bit: u8, honest: u64) -> u64 {
        if lies & 1 << bit == 0 {
            return honest;
        }
        match self.u8() {
            0 => self.u64(),
            near => honest.wrapping_add(u64::from(near)).wrapping_sub(4),
        }
    }
}

/// What an honest log would write next.
struct Writer {
    image: LogImage,
    segment: u64,
    epoch: u64,
    nonce: u64,
    next_lsn: u64,
    previous_crc: u32,
    log_start: u64,
}

/// Builds an image.
pub fn build(input: &[u8]) -> LogImage {
    let mut input = Input(input);
    let mut writer = Writer {
        image: LogImage::default(),
        segment: 0,
        epoch: 1,
        nonce: 0x5eed,
        next_lsn: 1,
        previous_crc: 0,
        log_start: 1,
    };
    while !input.0.is_empty() {
        match input.u8() % 16 {
            0 | 1 => writer.segment(&mut input),
            2..=8 => writer.frame(&mut input),
            9 => writer.damage(&mut input, |input, bytes, at| bytes[at] ^= input.u8()),
            10 => writer.damage(&mut input, |_, bytes, at| bytes[at / BLOCK * BLOCK..].fill(0)),
            11 => writer.damage(&mut input, |_, bytes, at| bytes.truncate(at)),
            12 => writer.damage(&mut input, |input, bytes, at| {
                let blocks = bytes.len() / BLOCK;
                let from = input.below(blocks) * BLOCK;
                bytes.copy_within(from..from + BLOCK, (at / BLOCK).min(blocks - 1) * BLOCK);
            }),
            13 => writer.damage(&mut input, |_, bytes, _| bytes.resize(bytes.len() + BLOCK, 0)),
            14 => writer.lose(&mut input),
            _ => writer.log_start = (writer.log_start + 1).min(writer.segment.max(1)),
        }
    }
    writer.image
}

impl Writer {
    fn segment(&mut self, input: &mut Input<'_>) {
        if self.image.segments.len() >= SEGMENTS_MAX {
            return;
        }
        self.segment = self.segment.wrapping_add(1);
        let lies = input.u8();
        if lies & 0x80 != 0 {
            // A new start of the log.
            self.epoch += 1;
            self.nonce = self.nonce.wrapping_mul(31);
        }
        let lies = if lies & 0x40 == 0 { 0 } else { lies };
        let header = SegmentHeader {
            shard_index: SHARD ^ u32::from(lies & 0x20 != 0),
            number: SegmentNumber(input.lie(lies, 0, self.segment)),
            epoch: Epoch(input.lie(lies, 1, self.epoch)),
            epoch_nonce: self.nonce,
            first_lsn: Lsn(input.lie(lies, 2, self.next_lsn)),
            previous_crc: self.previous_crc ^ u32::from(lies & 0x10 != 0),
            log_start: SegmentNumber(input.lie(lies, 3, self.log_start)),
            created_ms: 1_700_000_000_000,
        };
        let mut block = [0; BLOCK];
        header.encode_into(&mut block);
        let file_number = if lies & 0x10 == 0 { self.segment } else { input.lie(lies, 4, self.segment) };
        self.image.segments.insert(file_number, block.to_vec());
        self.segment = file_number;
        if lies & 0x04 != 0 {
            self.next_lsn = header.first_lsn.0;
        }
    }

    fn frame(&mut self, input: &mut Input<'_>) {
        let Some(bytes) = self.image.segments.get_mut(&self.segment) else { return };
        if bytes.len() >= SEGMENT_BLOCKS_MAX * BLOCK {
            return;
        }
        let at = bytes.len();
        let mut body = Vec::new();
        let records = usize::from(input.u8() % 4);
        for _ in 0..records {
            encode(&record(input), &mut body);
        }
        let lies = input.u8();
        let lies = if lies & 0x80 == 0 { 0 } else { lies };
        if lies & 0x40 != 0 {
            body.extend((0..8).map(|_| input.u8()));
        }
        let lsn = input.lie(lies, 0, self.next_lsn).max(1);
        let durable_upto = (lsn - 1).saturating_sub(u64::from(input.u8() % 3)).min(lsn - 1);
        let segment = input.lie(lies, 1, self.segment);
        let header = FrameHeader {
            crc: 0,
            epoch: Epoch(input.lie(lies, 2, self.epoch)),
            epoch_nonce: self.nonce,
            lsn: Lsn(lsn),
            durable_upto: Lsn(durable_upto),
            segment: SegmentNumber(segment),
            log_start: SegmentNumber(self.log_start.min(segment)),
            body_bytes: u32::try_from(body.len()).expect("a few records"),
            record_count: u32::try_from(records).expect("a few") + u32::from(lies & 0x20 != 0),
            previous_crc: self.previous_crc ^ u32::from(lies & 0x10 != 0),
            offset_blocks: u32::try_from(at / BLOCK).expect("an image is small") ^ u32::from(lies & 0x08 != 0),
            shard_index: SHARD,
        };
        let mut frame = vec![0; header.total_bytes()];
        frame[96..96 + body.len()].copy_from_slice(&body);
        self.previous_crc = header.seal(&mut frame);
        bytes.extend_from_slice(&frame);
        self.next_lsn = lsn.saturating_add(1);
    }

    fn damage(&mut self, input: &mut Input<'_>, damage: impl FnOnce(&mut Input<'_>, &mut Vec<u8>, usize)) {
        let nth = input.below(self.image.segments.len());
        let Some(bytes) = self.image.segments.values_mut().nth(nth).filter(|bytes| bytes.len() >= BLOCK) else {
            return;
        };
        let at = input.below(bytes.len());
        damage(input, bytes, at);
    }

    fn lose(&mut self, input: &mut Input<'_>) {
        let nth = input.below(self.image.segments.len());
        let number = self.image.segments.keys().nth(nth).copied();
        number.map(|number| self.image.segments.remove(&number));
    }
}

fn encode(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + record.encoded_bytes(), 0);
    record.encode_into(&mut out[start..]);
}

fn record(input: &mut Input<'_>) -> Record {
    match input.u8() % 4 {
        0 => Record::Start(Start { epoch: Epoch(1), started_ms: 1, recovered_through: Lsn(0) }),
        1 => Record::Settle(Settle {
            mailbox: MailboxId([input.u8(); 16]),
            cause: SettleCause::Acknowledged,
            sequences: vec![input.u8().into()],
        }),
        2 => Record::Dead(Dead {
            mailbox: MailboxId([input.u8(); 16]),
            is_again: input.u8() & 1 == 1,
            letters: vec![DeadLetter {
                sequence: input.u8().into(),
                died_ms: 1,
                reason: 2,
                cause: DeathCause::Deliveries,
                deliveries: 3,
            }],
        }),
        _ => Record::BatchPart(BatchPart {
            batch_header: Bytes::from(vec![1; input.below(40)]),
            messages: vec![PartMessage {
                mailbox: MailboxId([input.u8(); 16]),
                sender: SenderId([2; 16]),
                message_id: MessageId([input.u8(); 16]),
                sequence: input.u8().into(),
                expiry_ms: 0,
                leaf_index: 0,
                priority: Priority::Normal,
                flags: MessageFlags::NONE,
                salt: [3; 16],
                path: Bytes::from(vec![4; 32]),
                envelope: Bytes::from(vec![5; input.below(4_200)]),
            }],
        }),
    }
}
