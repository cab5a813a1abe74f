//! A node around a log and its mailboxes, on the faulty disk: the smallest driver that keeps the contract, and, on demand,
//! one that breaks it.

use bytes::Bytes;
use creto_store::{
    Action, ActionId, Admit, BatchPart, Delivery, DigestUse, DiskError, Durable, LetterFound, LogExtent, MailboxId,
    Mailboxes, MailboxesConfig, MessageFlags, MessageId, Noted, PartMessage, Position, Priority, Record,
    RecordSequence, RecoveryError, SegmentSource, SenderId, SettleCause, Wal, WalConfig, Write, recover, recover_noted,
};

use crate::disk::{Crash, Disk, Random};

pub(crate) const SHARD: u32 = 3;
pub(crate) const MAILBOX: MailboxId = MailboxId([0xb0; 16]);
pub(crate) const SENDER: SenderId = SenderId([0xa0; 16]);
pub(crate) const NOW_MS: u64 = 1_700_000_000_000;

pub(crate) fn small_config(writes_in_flight_max: usize) -> WalConfig {
    WalConfig {
        segment_bytes: 64 << 10,
        frame_bytes_max: 16 << 10,
        wal_bytes_max: 40 * (64 << 10),
        pending_records_max: 64,
        pending_bytes_max: 64 << 10,
        writes_in_flight_max,
        full_group_bytes: 6 << 10,
        recycled_segments_max: 1,
    }
}

pub(crate) struct Node {
    pub(crate) wal: Wal,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) config: WalConfig,
    /// Issued and not yet on the disk.
    pub(crate) issued: Vec<Write>,
    /// On the disk and not yet synced.
    pub(crate) written: Vec<Write>,
    /// What the start took from digests.
    pub(crate) digest_use: DigestUse,
    /// The bug: report a write when it is written, not when it is synced.
    pub(crate) acknowledges_before_sync: bool,
}

impl Node {
    /// Recovers, and opens the log; returns every record that recovery read.
    pub(crate) fn start(
        disk: &mut Disk,
        config: WalConfig,
        mailboxes_config: MailboxesConfig,
        nonce: u64,
        now_ms: u64,
    ) -> Result<(Self, Vec<(Position, Record)>), RecoveryError> {
        let mut mailboxes = Mailboxes::new(mailboxes_config, [nonce, !nonce]);
        let mut records = Vec::new();
        recover(disk, SHARD, |position, record| {
            records.push((position, record));
        })?;
        // With digests or without: the same records are noted at the same places.
        let mut replayed = records.iter().map(|(position, record)| (*position, record.noted(*position)));
        let on_noted = |position, noted: Noted| {
            assert_eq!(Some((position, noted.clone())), replayed.next(), "digests say what the segments say");
            mailboxes.note(position, noted);
        };
        let recovered = recover_noted(disk, SHARD, on_noted)?;
        mailboxes.recovered();
        assert_eq!(replayed.next(), None, "digests say all that the segments say");
        drop(replayed);
        let digest_use = recovered.digest_use().clone();
        let wal = Wal::open(config.clone(), recovered, nonce, now_ms);
        let (issued, written) = (Vec::new(), Vec::new());
        Ok((Self { wal, mailboxes, config, issued, written, digest_use, acknowledges_before_sync: false }, records))
    }

    /// Asks for the next action and carries out what is not a write; writes are only issued.
    pub(crate) fn next_action(&mut self, disk: &mut Disk, now_ms: u64) -> bool {
        let Some(action) = self.wal.next_action(now_ms) else { return false };
        match action {
            Action::Write(write) => self.issued.push(write),
            Action::Prepare { id, segment, bytes, recycle } => {
                disk.prepare(segment, bytes, recycle);
                self.complete(id, Ok(()));
            }
            Action::Delete { id, segment } => {
                disk.delete(segment);
                self.complete(id, Ok(()));
            }
            Action::Shorten { id, segment, bytes } => {
                disk.shorten(segment, bytes);
                self.complete(id, Ok(()));
            }
            Action::WriteDigest { id, segment, digest } => {
                disk.write_digest(segment, &digest);
                self.complete(id, Ok(()));
            }
            Action::Read { .. } => unreachable!("this node reads without asking the log"),
        }
        true
    }

    /// One issued write, any of them, reaches the disk.
    pub(crate) fn write(&mut self, disk: &mut Disk, random: &mut Random) {
        if self.issued.is_empty() {
            return;
        }
        let write = self.issued.remove(random.below(self.issued.len()));
        disk.write(write.segment(), write.offset(), &encoded(&write));
        if self.acknowledges_before_sync {
            self.complete(write.id(), Ok(()));
        } else {
            self.written.push(write);
        }
    }

    /// One written segment is synced; everything written to it is then reported, in any order.
    pub(crate) fn sync(&mut self, disk: &mut Disk, random: &mut Random) {
        if self.written.is_empty() {
            return;
        }
        let segment = self.written[random.below(self.written.len())].segment();
        disk.sync(segment);
        let (mut synced, rest): (Vec<_>, _) = self.written.drain(..).partition(|write| write.segment() == segment);
        self.written = rest;
        while !synced.is_empty() {
            let write = synced.swap_remove(random.below(synced.len()));
            self.complete(write.id(), Ok(()));
        }
    }

    /// A node on this disk that is ready to serve.
    pub(crate) fn ready(disk: &mut Disk, config: WalConfig) -> Self {
        let nonce = Random(disk.names().len() as u64).next();
        let started = Self::start(disk, config, MailboxesConfig::default(), nonce, NOW_MS);
        let mut node = started.unwrap_or_else(|error| panic!("{error}")).0;
        node.settle_down(disk, &mut Random(1), NOW_MS);
        assert!(node.wal.is_started());
        node.take_durable();
        node
    }

    /// Submits messages and does all that can be done.
    pub(crate) fn commit(&mut self, disk: &mut Disk, messages: Vec<PartMessage>) -> Vec<PartMessage> {
        let submitted = self.submit(messages, NOW_MS);
        self.settle_down(disk, &mut Random(1), NOW_MS);
        self.take_durable();
        submitted
    }

    /// Applies what is durable, and returns it.
    pub(crate) fn take_durable(&mut self) -> Vec<Durable> {
        let durable: Vec<_> = std::iter::from_fn(|| self.wal.next_durable()).collect();
        for durable in &durable {
            self.mailboxes.apply(durable.clone());
        }
        durable
    }

    /// Does all that can be done until nothing is left.
    pub(crate) fn settle_down(&mut self, disk: &mut Disk, random: &mut Random, now_ms: u64) {
        loop {
            while self.next_action(disk, now_ms) {}
            if self.issued.is_empty() && self.written.is_empty() {
                return;
            }
            self.write(disk, random);
            self.sync(disk, random);
        }
    }

    pub(crate) fn crash(mut self, disk: &mut Disk, how: Crash, random: &mut Random) {
        for write in self.issued.drain(..) {
            disk.leave_late(write.segment(), write.offset(), encoded(&write));
        }
        disk.crash(how, random);
    }

    /// Admits messages and appends them as one part; returns those that were new.
    pub(crate) fn submit(&mut self, messages: Vec<PartMessage>, now_ms: u64) -> Vec<PartMessage> {
        let mut part = BatchPart { batch_header: Bytes::from_static(&[7; 100]), messages: Vec::new() };
        for mut message in messages {
            let envelope_bytes = message.envelope.len();
            let admit =
                self.mailboxes.admit(message.sender, message.message_id, message.mailbox, envelope_bytes, now_ms);
            if let Ok(Admit::New(sequence)) = admit {
                message.sequence = sequence;
                part.messages.push(message);
            }
        }
        if part.messages.is_empty() {
            return Vec::new();
        }
        let messages = part.messages.clone();
        let record = Record::BatchPart(part);
        if self.wal.check_append(&record).is_err() {
            let Record::BatchPart(part) = record else { unreachable!() };
            self.mailboxes.withdraw(&part);
            return Vec::new();
        }
        self.wal.append(record).unwrap();
        messages
    }

    pub(crate) fn settle(&mut self, message: &PartMessage) -> Option<RecordSequence> {
        let settle = self.mailboxes.settle(message.mailbox, &[message.sequence], SettleCause::Acknowledged)?;
        match self.wal.append(Record::Settle(settle.clone())) {
            Ok(sequence) => Some(sequence),
            Err(_) => {
                self.mailboxes.settle_refused(&settle);
                None
            }
        }
    }

    /// Appends the records by which messages die, as far as there is room.
    pub(crate) fn append_deaths(&mut self) {
        while let Some(dead) = self.mailboxes.next_death() {
            let record = Record::Dead(dead);
            if self.wal.check_append(&record).is_err() {
                let Record::Dead(dead) = record else { unreachable!() };
                return self.mailboxes.death_refused(dead);
            }
            self.wal.append(record).unwrap();
        }
    }

    /// Hands out everything in a mailbox and rejects one of the messages.
    pub(crate) fn reject(&mut self, disk: &mut Disk, message: &PartMessage, now_ms: u64) {
        self.deliveries(disk, message.mailbox, now_ms);
        self.mailboxes.reject(message.mailbox, &[(message.sequence, 7)], now_ms);
        self.append_deaths();
    }

    /// Has a dead letter delivered again.
    pub(crate) fn revive(&mut self, message: &PartMessage) -> bool {
        let Some(revive) = self.mailboxes.revive(message.mailbox, &[message.sequence]) else { return false };
        let is_appended = self.wal.append(Record::Revive(revive.clone())).is_ok();
        if !is_appended {
            self.mailboxes.revive_refused(&revive);
        }
        is_appended
    }

    /// A dead letter as its owner sees it.
    pub(crate) fn letter(&mut self, disk: &mut Disk, mailbox: MailboxId, sequence: u64) -> Option<PartMessage> {
        match self.mailboxes.dead_letter(mailbox, sequence)? {
            LetterFound::Here(delivery) => return Some(delivery.message),
            LetterFound::Busy => panic!("nothing else is read"),
            LetterFound::Later(_) => {}
        }
        let mut found = None;
        while let Some(read) = self.mailboxes.next_read() {
            let mut bytes = vec![0; read.bytes];
            let outcome = disk.read(read.segment, read.offset, &mut bytes);
            let outcome = outcome.map(|()| bytes.into()).map_err(|error| DiskError::Io(error.to_string()));
            let done = self.mailboxes.read_completed(read.id, outcome);
            assert!(done.problems.is_empty(), "{}", done.problems[0]);
            found = done.letter.and_then(|(_, read)| read.ok()).map(|delivery| delivery.message).or(found);
        }
        found
    }

    /// Everything that a mailbox can hand out, with what must be read for it.
    pub(crate) fn deliveries(&mut self, disk: &mut Disk, mailbox: MailboxId, now_ms: u64) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        loop {
            let more = self.mailboxes.next_for_delivery(mailbox, u32::MAX, u64::MAX, now_ms);
            self.mailboxes.end_turn();
            let mut is_done = more.is_empty();
            deliveries.extend(more);
            while let Some(read) = self.mailboxes.next_read() {
                let mut bytes = vec![0; read.bytes];
                let outcome = disk.read(read.segment, read.offset, &mut bytes);
                let outcome = outcome.map(|()| bytes.into()).map_err(|error| DiskError::Io(error.to_string()));
                let done = self.mailboxes.read_completed(read.id, outcome);
                assert!(done.problems.is_empty(), "{}", done.problems[0]);
                is_done = false;
            }
            if is_done {
                return deliveries;
            }
        }
    }

    /// One step of cleaning, whose reads are answered at once; returns how many messages were moved.
    pub(crate) fn clean(&mut self, disk: &mut Disk) -> usize {
        if !self.wal.is_started() {
            return 0;
        }
        let mut moved = 0;
        while let Some(part) = self.mailboxes.next_moved() {
            let record = Record::Moved(part);
            if self.wal.check_append(&record).is_err() {
                let Record::Moved(part) = record else { unreachable!() };
                self.mailboxes.move_refused(part);
                break;
            }
            moved += record.message_count();
            self.wal.append(record).unwrap();
        }
        self.append_deaths();
        let bytes = self.wal.space().bytes - self.wal.spare_bytes();
        let active = self.wal.active_segment();
        let segment_bytes = self.wal.segment_bytes();
        self.mailboxes.clean(&LogExtent { bytes, active, segment_bytes, is_short: false, is_giving_back: false });
        while let Some(read) = self.mailboxes.next_read() {
            let mut bytes = vec![0; read.bytes];
            let outcome = disk.read(read.segment, read.offset, &mut bytes);
            let outcome = outcome.map(|()| bytes.into()).map_err(|error| DiskError::Io(error.to_string()));
            let done = self.mailboxes.read_completed(read.id, outcome);
            assert!(done.problems.is_empty(), "{}", done.problems[0]);
        }
        moved
    }

    pub(crate) fn trim(&mut self) {
        let (start, active) = (self.wal.log_start(), self.wal.active_segment());
        if self.wal.is_trimming() || !self.wal.is_started() {
            return;
        }
        if let Some(point) = self.mailboxes.trim_point(start, active, self.config.segment_bytes, true) {
            let carried = self.mailboxes.carry_over(point, self.wal.record_bytes_max());
            self.wal.trim(point, carried).unwrap();
        }
    }

    fn complete(&mut self, id: ActionId, outcome: Result<(), DiskError>) {
        self.wal.completed(id, outcome).unwrap();
    }
}

/// Messages for one mailbox from one sender, numbered from `first`, with this many bytes of envelope each.
pub(crate) fn messages(first: u64, count: u64, envelope_bytes: usize, now_ms: u64) -> Vec<PartMessage> {
    let message = |number: u64| PartMessage {
        mailbox: MAILBOX,
        sender: SENDER,
        message_id: message_id(now_ms, number),
        sequence: 0,
        expiry_ms: 0,
        leaf_index: u32::try_from(number).unwrap(),
        priority: Priority::Normal,
        flags: MessageFlags::NONE,
        salt: [number as u8; 16],
        path: Bytes::from(vec![number as u8; 64]),
        envelope: Bytes::from(vec![number as u8; envelope_bytes]),
    };
    (first..first + count).map(message).collect()
}

pub(crate) fn message_id(time_ms: u64, number: u64) -> MessageId {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
    id[8..].copy_from_slice(&number.to_be_bytes());
    MessageId(id)
}

pub(crate) fn encoded(write: &Write) -> Vec<u8> {
    let mut bytes = vec![0xee; write.bytes()];
    write.encode_into(&mut bytes);
    bytes
}
