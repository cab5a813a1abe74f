//! Damage to a real folder of segments and digests: every flip, cut, swap and zeroed sector is found and called by its name.
//!
//! The oracle knows nothing of recovery. It knows what was written where, because it carried out the writes, and what was
//! acknowledged, because it was told. From that alone it says what a damaged sector must lead to.
//!
//! `every_sector_of_a_small_log` runs with the tests. `random_places_of_a_large_log` is long: `scripts/corruption.sh`.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test harness: a wrong unwrap or cast fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use creto_store::{
    Action, BatchPart, DigestState, FileSource, MailboxId, MessageFlags, MessageId, Noted, NotedMessage, PartMessage,
    Priority, Record, RecoveryError, SegmentNumber, SenderId, Settle, SettleCause, Wal, WalConfig, digest_file_name,
    recover, recover_noted, segment_file_name, verify,
};

const SHARD: u32 = 3;
const NOW_MS: u64 = 1_700_000_000_000;
const SECTOR_BYTES: u64 = 512;
const HEADER_BYTES: u64 = 4096;

/// Random numbers from a seed (splitmix64), the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What was written and acknowledged, kept beside the log.
struct Written {
    folder: PathBuf,
    /// The frames of each segment of the log: where they begin and end.
    frames: BTreeMap<SegmentNumber, Vec<(u64, u64)>>,
    /// Acknowledged messages by sequence.
    acknowledged: BTreeMap<u64, PartMessage>,
    /// The last frame was written and never acknowledged: where it begins in the last segment.
    unsynced: (SegmentNumber, u64),
    /// Every file as it was left.
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// The first segment of the log; what lies before it is trimmed.
    log_start: SegmentNumber,
}

/// What damage must lead to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Class {
    /// Nothing that belongs to the log has changed.
    Harmless,
    /// What was never acknowledged is cut.
    UnsyncedEnd,
    /// The last file ends between two frames, as a copy that was made at that moment does: the log ends there. See the limits
    /// in `docs/wal-format.md`.
    CutBetweenFrames(u64),
    /// Corruption, named in this segment at this byte or before, which is the beginning of the header or frame.
    Corrupt(SegmentNumber, u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Flip,
    Zero,
    Swap,
    Cut,
}

const FAULTS: [Fault; 4] = [Fault::Flip, Fault::Zero, Fault::Swap, Fault::Cut];

#[derive(Default, Debug)]
struct Tally {
    harmless: u64,
    unsynced: u64,
    cut_between_frames: u64,
    corrupt: u64,
    unreadable: u64,
    served: u64,
}

impl Written {
    /// Writes a log of `segments` segments and more, some of them trimmed, and leaves its last frame unacknowledged.
    fn make(folder: &Path, segment_bytes: u64, segments: usize, envelope_bytes: u64, random: &mut Random) -> Self {
        let mut written = Self {
            folder: folder.to_owned(),
            frames: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            unsynced: (SegmentNumber(0), 0),
            files: BTreeMap::new(),
            log_start: SegmentNumber(1),
        };
        let config = WalConfig {
            segment_bytes,
            frame_bytes_max: 16 << 10,
            wal_bytes_max: (segments as u64 + 16) * segment_bytes,
            recycled_segments_max: 1,
            ..WalConfig::default()
        };
        let mut sequence = 0;
        for life in 0..3 {
            let recovered = recover(&mut FileSource::new(folder), SHARD, |_, _| {}).unwrap();
            let mut wal = Wal::open(config.clone(), recovered, life ^ 0x5eed, NOW_MS);
            written.settle_down(&mut wal);
            while written.frames.len() < 2 + segments * (life as usize + 1) / 3 {
                let messages = (0..1 + random.below(4)).map(|_| {
                    sequence += 1;
                    message(sequence, random.below(envelope_bytes), random)
                });
                let messages = messages.collect();
                let header = vec![7; 100 + random.below(300) as usize];
                let part = BatchPart { batch_header: Bytes::from(header), messages };
                wal.append(Record::BatchPart(part)).unwrap();
                if random.below(4) == 0 {
                    let settle =
                        Settle { mailbox: MailboxId([1; 16]), cause: SettleCause::Acknowledged, sequences: vec![1] };
                    wal.append(Record::Settle(settle)).unwrap();
                }
                written.settle_down(&mut wal);
            }
            if life == 1 {
                wal.trim(SegmentNumber(2), Vec::new()).unwrap();
                written.settle_down(&mut wal);
                written.log_start = SegmentNumber(2);
            }
            if life == 2 {
                // One frame is on the disk, and the sync was never reported: nobody was told.
                let last = vec![message(sequence + 1, 200, random)];
                let part = BatchPart { batch_header: Bytes::from_static(&[9; 50]), messages: last };
                wal.append(Record::BatchPart(part)).unwrap();
                let Some(Action::Write(write)) = wal.next_action(NOW_MS) else { panic!("it is idle otherwise") };
                written.write(&write);
                written.unsynced = (write.segment(), write.offset());
            }
        }
        written.acknowledged.retain(|_, message| message.sequence != sequence + 1);
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            written.files.insert(path.clone(), fs::read(path).unwrap());
        }
        // Messages of trimmed segments were given up.
        let first = written.log_start;
        written.frames.retain(|number, _| *number >= first);
        let mut kept = Vec::new();
        recover(&mut FileSource::new(folder), SHARD, |_, record| {
            if let Record::BatchPart(part) = record {
                kept.extend(part.messages.iter().map(|message| message.sequence));
            }
        })
        .unwrap();
        let trimmed = written.acknowledged.range(..kept[0]).count();
        assert!(trimmed > 0 && trimmed < written.acknowledged.len() / 3, "trimming took one segment");
        written.acknowledged = written.acknowledged.split_off(&kept[0]);
        written
    }

    fn settle_down(&mut self, wal: &mut Wal) {
        while let Some(action) = wal.next_action(NOW_MS) {
            let path = |segment| self.folder.join(segment_file_name(segment));
            let digest = |segment| self.folder.join(digest_file_name(segment));
            match &action {
                Action::Write(write) => self.write(write),
                Action::Prepare { segment, bytes, recycle, .. } => {
                    if let Some(recycle) = recycle {
                        let _ = fs::remove_file(digest(*recycle));
                        fs::rename(path(*recycle), path(*segment)).unwrap();
                    } else {
                        File::create(path(*segment)).unwrap().set_len(*bytes).unwrap();
                    }
                    self.frames.remove(segment);
                }
                Action::Delete { segment, .. } => {
                    let _ = fs::remove_file(digest(*segment));
                    let _ = fs::remove_file(path(*segment));
                }
                Action::Shorten { segment, bytes, .. } => {
                    OpenOptions::new().write(true).open(path(*segment)).unwrap().set_len(*bytes).unwrap();
                }
                Action::WriteDigest { segment, digest: bytes, .. } => {
                    fs::write(digest(*segment), bytes.pieces().concat()).unwrap();
                }
                #[allow(unreachable_patterns, reason = "actions that this log never asks for")]
                other => panic!("{other:?}"),
            }
            wal.completed(action.id(), Ok(())).unwrap();
        }
        while let Some(durable) = wal.next_durable() {
            if let Record::BatchPart(part) = durable.record {
                self.acknowledged.extend(part.messages.into_iter().map(|message| (message.sequence, message)));
            }
        }
    }

    fn write(&mut self, write: &creto_store::Write) {
        let mut bytes = vec![0; write.bytes()];
        write.encode_into(&mut bytes);
        let path = self.folder.join(segment_file_name(write.segment()));
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&bytes, write.offset()).unwrap();
        let frame_start = write.offset().max(HEADER_BYTES);
        let frames = self.frames.entry(write.segment()).or_default();
        // What a start writes back is already known.
        if frames.last().is_none_or(|&(last, _)| last < frame_start) {
            frames.push((frame_start, write.offset() + bytes.len() as u64));
        }
    }

    /// What a change of the bytes `from..to` of this file must lead to.
    fn class(&self, path: &Path, from: u64, to: u64) -> Class {
        let Some((&segment, frames)) = self.frames.iter().find(|(number, _)| is_file_of(path, **number)) else {
            // A digest, a trimmed segment, one that was prepared and not begun.
            return Class::Harmless;
        };
        if from < HEADER_BYTES {
            return Class::Corrupt(segment, 0);
        }
        match frames.iter().find(|(start, end)| *start < to && from < *end) {
            None => Class::Harmless,
            Some((start, _)) if self.unsynced == (segment, *start) => Class::UnsyncedEnd,
            Some((start, _)) => Class::Corrupt(segment, *start),
        }
    }

    fn last_segment(&self) -> SegmentNumber {
        *self.frames.keys().next_back().unwrap()
    }

    /// Damages one sector of a file; returns what it must lead to. `None` when nothing changed.
    fn damage(&self, path: &Path, sector: u64, fault: Fault, random: &mut Random) -> Option<Class> {
        let before = &self.files[path];
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(before.len() as u64);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let old = &before[from as usize..to as usize];
        let new = match fault {
            Fault::Cut => {
                file.set_len(from).unwrap();
                let class = self.class(path, from, before.len() as u64);
                let frames = self.frames.get(&self.last_segment()).filter(|_| is_file_of(path, self.last_segment()));
                return Some(match frames {
                    Some(frames) if frames.iter().any(|(start, _)| *start == from) => Class::CutBetweenFrames(from),
                    // No crash cuts a file inside a frame, not even inside one that was never acknowledged.
                    Some(frames) if class == Class::UnsyncedEnd => {
                        Class::Corrupt(self.last_segment(), frames.last()?.0)
                    }
                    _ => class,
                });
            }
            Fault::Zero => vec![0; old.len()],
            Fault::Flip => {
                let mut new = old.to_vec();
                let bit = random.below(new.len() as u64 * 8);
                new[(bit / 8) as usize] ^= 1 << (bit % 8);
                new
            }
            Fault::Swap => {
                // With any sector of any file; the other one is as it was, so that the damage is in one place.
                let other = self.files.values().nth(random.below(self.files.len() as u64) as usize).unwrap();
                let at = random.below((other.len() as u64 / SECTOR_BYTES).max(1)) * SECTOR_BYTES;
                let other = other.get(at as usize..at as usize + old.len()).unwrap_or(old);
                other.to_vec()
            }
        };
        if new == old {
            return None;
        }
        file.write_all_at(&new, from).unwrap();
        let first = old.iter().zip(&new).position(|(a, b)| a != b).unwrap() as u64;
        let last = old.iter().zip(&new).rposition(|(a, b)| a != b).unwrap() as u64;
        Some(self.class(path, from + first, from + last + 1))
    }

    fn mend(&self, path: &Path) {
        fs::write(path, &self.files[path]).unwrap();
    }

    /// Holds what the store says of a folder with one damaged place against what it must say.
    fn check(&self, what: &str, class: Class, tally: &mut Tally) {
        let damaged: BTreeMap<_, _> = match class {
            Class::Corrupt(segment, offset) => [(segment, offset)].into(),
            Class::Harmless | Class::UnsyncedEnd | Class::CutBetweenFrames(_) => BTreeMap::new(),
        };
        self.check_verifier(what, &damaged);
        // A start by digests finds it, or finds everything as it was and serves none of it.
        let (noted, outcome) = self.start();
        match (class, outcome) {
            (Class::Corrupt(segment, offset), Err(RecoveryError::Corrupt(found))) => {
                assert_eq!((found.segment, found.offset), (segment, offset), "{what}: {found}");
                tally.corrupt += 1;
                return;
            }
            (Class::Corrupt(segment, offset), Ok(())) => {
                let is_sealed = segment < self.last_segment() && offset >= HEADER_BYTES;
                assert!(is_sealed, "{what}: only what a digest stands for may be found later");
                tally.corrupt += 1;
            }
            (Class::Harmless, Ok(())) => tally.harmless += 1,
            (Class::UnsyncedEnd, Ok(())) => tally.unsynced += 1,
            (Class::CutBetweenFrames(_), Ok(())) => tally.cut_between_frames += 1,
            (class, other) => panic!("{what}: {class:?}, but {other:?}"),
        }
        let missing = self.check_messages(what, &damaged, &noted, tally);
        if !matches!(class, Class::CutBetweenFrames(_)) {
            assert!(missing.is_empty(), "{what}: acknowledged and gone: {missing:?}");
        }
        if class == Class::UnsyncedEnd {
            let came_back = noted.iter().any(|noted| !self.acknowledged.contains_key(&noted.sequence));
            assert!(!came_back, "{what}: what was cut came back");
        }
    }

    /// Reading everything finds exactly this damage, and places it.
    fn check_verifier(&self, what: &str, damaged: &BTreeMap<SegmentNumber, u64>) {
        let report = verify(&mut FileSource::new(&self.folder), SHARD).unwrap();
        let found = report.problems.iter().map(|problem| match problem {
            RecoveryError::Corrupt(found) => (found.segment, found.offset),
            RecoveryError::Source(error) => panic!("{what}: {error}"),
        });
        assert_eq!(&found.collect::<BTreeMap<_, _>>(), damaged, "{what}: {:?}", report.problems);
        assert!(report.segments.iter().all(|segment| segment.digest != DigestState::Wrong), "{what}");
    }

    fn start(&self) -> (Vec<NotedMessage>, Result<(), RecoveryError>) {
        let mut noted = Vec::new();
        let on_noted = |_, record| {
            if let Noted::Part(messages) = record {
                noted.extend(messages);
            }
        };
        let outcome = recover_noted(&mut FileSource::new(&self.folder), SHARD, on_noted);
        (noted, outcome.map(drop))
    }

    /// What is read of a message is what was sent, or it lies in the damaged frame of its segment and is known to be
    /// damaged. Returns the acknowledged messages that nobody knows of.
    fn check_messages(
        &self,
        what: &str,
        damaged: &BTreeMap<SegmentNumber, u64>,
        noted: &[NotedMessage],
        tally: &mut Tally,
    ) -> Vec<u64> {
        let mut missing: BTreeSet<u64> = self.acknowledged.keys().copied().collect();
        let mut file = (SegmentNumber(0), Vec::new());
        for noted in noted {
            let Some(expected) = self.acknowledged.get(&noted.sequence) else { continue };
            missing.remove(&noted.sequence);
            let segment = noted.place.segment;
            if file.0 != segment {
                file = (segment, fs::read(self.folder.join(segment_file_name(segment))).unwrap());
            }
            match read(&file.1, noted) {
                Some(message) => {
                    assert_eq!(&message, expected, "{what}: another message is served");
                    tally.served += 1;
                }
                None => {
                    let Some(frame) = damaged.get(&segment) else {
                        panic!("{what}: message {} of a sound segment cannot be read", noted.sequence)
                    };
                    let end = self.frames[&segment].iter().find(|(start, _)| start == frame).unwrap().1;
                    let place = u64::from(noted.place.message_offset);
                    assert!((*frame..end).contains(&place), "{what}: a sound message is refused");
                    tally.unreadable += 1;
                }
            }
        }
        missing.into_iter().collect()
    }
}

/// Reads a message as who serves it does: by its place, against its checksum.
fn read(segment: &[u8], noted: &NotedMessage) -> Option<PartMessage> {
    let place = noted.place;
    let record = segment.get(place.record_offset as usize..)?;
    let header_bytes = u32::from_le_bytes(*record.get(12..)?.first_chunk()?) as usize;
    let header = record.get(16..16_usize.checked_add(header_bytes)?)?;
    let message = segment.get(place.message_offset as usize..)?.get(..place.message_bytes as usize)?;
    if crc32c::crc32c_append(crc32c::crc32c(header), message) != place.crc {
        return None;
    }
    let path_end = 96 + 32 * usize::from(message[69]);
    let envelope_end = path_end + noted.envelope_bytes as usize;
    Some(PartMessage {
        mailbox: MailboxId(message[..16].try_into().unwrap()),
        sender: SenderId(message[16..32].try_into().unwrap()),
        message_id: MessageId(message[32..48].try_into().unwrap()),
        sequence: u64::from_le_bytes(message[48..56].try_into().unwrap()),
        expiry_ms: u64::from_le_bytes(message[56..64].try_into().unwrap()),
        leaf_index: u32::from_le_bytes(message[64..68].try_into().unwrap()),
        priority: Priority::from_byte(message[68]).unwrap(),
        flags: MessageFlags::NONE,
        salt: message[80..96].try_into().unwrap(),
        path: Bytes::copy_from_slice(&message[96..path_end]),
        envelope: Bytes::copy_from_slice(&message[path_end..envelope_end]),
    })
}

fn message(sequence: u64, envelope_bytes: u64, random: &mut Random) -> PartMessage {
    let mut fill = || random.next() as u8;
    PartMessage {
        mailbox: MailboxId([1; 16]),
        sender: SenderId([2; 16]),
        message_id: MessageId(std::array::from_fn(|_| fill())),
        sequence,
        expiry_ms: 0,
        leaf_index: sequence as u32,
        priority: Priority::Normal,
        flags: MessageFlags::NONE,
        salt: std::array::from_fn(|_| fill()),
        path: (0..64).map(|_| fill()).collect(),
        envelope: (0..envelope_bytes).map(|_| fill()).collect(),
    }
}

fn is_file_of(path: &Path, segment: SegmentNumber) -> bool {
    path.file_name().is_some_and(|name| *name == *segment_file_name(segment))
}

#[test]
fn every_sector_of_a_small_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(1);
    let written = Written::make(folder.path(), 32 << 10, 6, 1500, &mut random);
    let mut tally = Tally::default();
    written.check("untouched", Class::Harmless, &mut tally);
    assert_eq!(tally.unreadable, 0);
    let (mut cases, mut unchanged) = (0, 0);
    for (path, bytes) in &written.files {
        for sector in 0..(bytes.len() as u64).div_ceil(SECTOR_BYTES) {
            for fault in FAULTS {
                match written.damage(path, sector, fault, &mut random) {
                    Some(class) => {
                        let what = format!("{fault:?} of sector {sector} of {}", path.display());
                        written.check(&what, class, &mut tally);
                        written.mend(path);
                        cases += 1;
                    }
                    None => unchanged += 1,
                }
            }
        }
    }
    println!("{cases} cases, {unchanged} changed nothing, {tally:?}");
    assert!(tally.corrupt > 500 && tally.unsynced > 5 && tally.harmless > 100 && tally.unreadable > 100, "{tally:?}");
}

/// Damage in many segments at once, one place in each, so that one look at the log judges all of them; one by one where one
/// place decides about the whole log: headers, cuts, the last segment.
#[test]
#[ignore = "long: scripts/corruption.sh"]
fn random_places_of_a_large_log() {
    let setting = |name: &str, default: u64| match std::env::var(name) {
        Ok(value) => value.parse().unwrap(),
        Err(_) => default,
    };
    let (seed, places) = (setting("CRETO_SEED", 1), setting("CRETO_PLACES", 1_000));
    let segments = usize::try_from(setting("CRETO_SEGMENTS", 128)).unwrap();
    println!("CRETO_SEED={seed} CRETO_PLACES={places} CRETO_SEGMENTS={segments}");
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(seed);
    let written = Written::make(folder.path(), 1 << 20, segments, 3000, &mut random);
    let mut tally = Tally::default();
    written.check("untouched", Class::Harmless, &mut tally);
    let paths: Vec<_> = written.files.keys().cloned().collect();
    let (mut cases, mut unchanged, mut passes) = (0, 0, 0);
    while cases < places {
        let mut touched: Vec<(SegmentNumber, PathBuf)> = Vec::new();
        let mut damaged = BTreeMap::new();
        let mut alone = None;
        for path in &paths {
            // A segment and its digest are not damaged together: then there is nothing left to start from.
            let number = path.file_stem().unwrap().to_string_lossy();
            let number = SegmentNumber(u64::from_str_radix(number.trim_start_matches("segment-"), 16).unwrap());
            if touched.iter().any(|(other, _)| *other == number) || random.below(3) == 0 {
                continue;
            }
            let is_segment = path.extension().is_some_and(|extension| extension == "wal");
            if !is_segment && random.below(4) > 0 {
                continue;
            }
            let sectors = (written.files[path].len() as u64).div_ceil(SECTOR_BYTES);
            let (sector, fault) = (random.below(sectors), FAULTS[random.below(4) as usize]);
            let decides_alone = is_segment
                && (fault == Fault::Cut || sector * SECTOR_BYTES < HEADER_BYTES || number >= written.last_segment());
            if decides_alone {
                alone = Some((path, sector, fault));
                continue;
            }
            match written.damage(path, sector, fault, &mut random) {
                Some(class) => {
                    touched.push((number, path.clone()));
                    cases += 1;
                    match class {
                        Class::Corrupt(segment, offset) => {
                            damaged.insert(segment, offset);
                            tally.corrupt += 1;
                        }
                        Class::Harmless => tally.harmless += 1,
                        other => panic!("{other:?} of a sealed segment"),
                    }
                }
                None => unchanged += 1,
            }
        }
        passes += 1;
        let what = format!("pass {passes} of seed {seed}");
        written.check_verifier(&what, &damaged);
        let (noted, outcome) = written.start();
        // A start reads what has no digest.
        let is_read = |segment| !written.files.contains_key(&written.folder.join(digest_file_name(segment)));
        match (damaged.iter().find(|(segment, _)| is_read(**segment)), outcome) {
            (Some((segment, offset)), Err(RecoveryError::Corrupt(found))) => {
                assert_eq!((found.segment, found.offset), (*segment, *offset), "{what}: {found}");
            }
            (None, Ok(())) => {
                let missing = written.check_messages(&what, &damaged, &noted, &mut tally);
                assert!(missing.is_empty(), "{what}: acknowledged and gone: {missing:?}");
            }
            (expected, other) => panic!("{what}: {expected:?}, but {other:?}"),
        }
        touched.iter().for_each(|(_, path)| written.mend(path));
        if let Some((path, sector, fault)) = alone
            && let Some(class) = written.damage(path, sector, fault, &mut random)
        {
            let what = format!("{what}: {fault:?} of sector {sector} of {}", path.display());
            written.check(&what, class, &mut tally);
            written.mend(path);
            cases += 1;
        }
    }
    println!("{cases} damaged places in {passes} passes, {unchanged} changed nothing: {tally:?}");
    assert!(tally.corrupt > cases / 10 && tally.unreadable > 0 && tally.harmless > 0, "vacuous: {tally:?}");
}
