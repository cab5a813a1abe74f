use std::collections::BTreeMap;

use super::*;
use crate::cold::ColdRead;
use crate::flags::MessageFlags;
use crate::limits::CLEANING_PASSES_MAX;
use crate::lsn::{Lsn, RecordSequence};
use crate::record::{DeadLetter, DeathCause, Priority};

const NOW_MS: u64 = 1_700_000_000_000;
const INBOX: MailboxId = MailboxId([9; 16]);
const SENDER: SenderId = SenderId([1; 16]);

/// Mailboxes with the log left out: what is admitted becomes durable when the test says so, and is then in a segment of
/// ten records.
struct Shard {
    mailboxes: Mailboxes,
    durable: u64,
    segments: BTreeMap<SegmentNumber, Vec<u8>>,
    reads: u64,
}

impl Shard {
    fn new(config: MailboxesConfig) -> Self {
        Self { mailboxes: Mailboxes::new(config, [3, 4]), durable: 0, segments: BTreeMap::new(), reads: 0 }
    }

    fn admit(&mut self, number: u64, priority: Priority) -> Result<BatchPart, Refusal> {
        let envelope = Bytes::from(vec![7; 100]);
        match self.mailboxes.admit(SENDER, message_id(number), INBOX, envelope.len(), NOW_MS)? {
            Admit::New(sequence) => Ok(part(sequence, number, priority, envelope)),
            Admit::Duplicate { .. } => panic!("message {number} was admitted before"),
        }
    }

    /// Writes a record to the log.
    fn write(&mut self, record: &Record) -> Position {
        self.durable += 1;
        let segment = SegmentNumber(1 + self.durable / 10);
        let bytes = self.segments.entry(segment).or_insert_with(|| vec![0; 4192]);
        let offset = u32::try_from(bytes.len()).unwrap();
        bytes.resize(bytes.len() + record.encoded_bytes(), 0);
        record.encode_into(&mut bytes[offset as usize..]);
        Position { segment, lsn: Lsn(self.durable), index: 0, offset }
    }

    fn apply(&mut self, record: Record) {
        let position = self.write(&record);
        self.make_durable(position, record);
    }

    fn make_durable(&mut self, position: Position, record: Record) {
        let (sequence, noted) = (RecordSequence(self.durable), record.noted(position));
        self.mailboxes.apply(Durable { sequence, position, noted, record });
    }

    fn queue(&mut self, number: u64, priority: Priority) {
        let part = self.admit(number, priority).unwrap();
        self.apply(Record::BatchPart(part));
    }

    /// Reads of the log, answered as the disk would.
    fn read(&mut self) -> Vec<ReadProblem> {
        let mut problems = Vec::new();
        while let Some(ColdRead { id, segment, offset, bytes }) = self.mailboxes.next_read() {
            self.reads += 1;
            let done = self.mailboxes.read_completed(id, Ok(self.bytes(segment, offset, bytes)));
            problems.extend(done.problems);
        }
        problems
    }

    fn bytes(&self, segment: SegmentNumber, offset: u64, bytes: usize) -> Bytes {
        assert!(offset.is_multiple_of(4096) && bytes.is_multiple_of(4096) && bytes > 0);
        let mut content = self.segments[&segment][usize::try_from(offset).unwrap()..].to_vec();
        content.resize(bytes, 0);
        Bytes::from(content)
    }

    fn deliveries(&mut self, messages: u32, bytes: u64, now_ms: u64) -> Vec<Delivery> {
        let mut deliveries: Vec<Delivery> = Vec::new();
        loop {
            let credit = messages - u32::try_from(deliveries.len()).unwrap();
            let more = self.mailboxes.next_for_delivery(INBOX, credit, bytes, now_ms);
            self.mailboxes.end_turn();
            let reads = self.reads;
            assert_eq!(self.read(), []);
            if more.is_empty() && reads == self.reads {
                return deliveries;
            }
            deliveries.extend(more);
        }
    }

    fn deliver(&mut self, messages: u32) -> Vec<(u32, u8)> {
        let deliveries = self.deliveries(messages, u64::MAX, NOW_MS);
        deliveries.iter().map(|delivery| (delivery.message.leaf_index, delivery.attempt)).collect()
    }

    /// Makes what is to die dead; returns the letters.
    fn die(&mut self) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        while let Some(dead) = self.mailboxes.next_death() {
            letters.extend_from_slice(&dead.letters);
            self.apply(Record::Dead(dead));
        }
        letters
    }

    fn revive(&mut self, sequences: &[u64]) -> Vec<u64> {
        let Some(revive) = self.mailboxes.revive(INBOX, sequences) else { return Vec::new() };
        self.apply(Record::Revive(revive.clone()));
        revive.sequences
    }

    /// The sequences of all dead letters.
    fn dead(&self) -> Vec<u64> {
        let listed = self.mailboxes.dead_letters(INBOX, 0, 1_000);
        listed.into_iter().map(|listed| listed.letter.sequence).collect()
    }

    fn settle(&mut self, sequences: &[u64]) -> Option<Vec<u64>> {
        let settle = self.mailboxes.settle(INBOX, sequences, SettleCause::Acknowledged)?;
        self.apply(Record::Settle(settle.clone()));
        Some(settle.sequences)
    }
}

fn message_id(number: u64) -> MessageId {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&NOW_MS.to_be_bytes()[2..]);
    id[8..].copy_from_slice(&number.to_be_bytes());
    MessageId(id)
}

fn part(sequence: u64, number: u64, priority: Priority, envelope: Bytes) -> BatchPart {
    let message = PartMessage {
        mailbox: INBOX,
        sender: SENDER,
        message_id: message_id(number),
        sequence,
        expiry_ms: 0,
        leaf_index: u32::try_from(number).unwrap(),
        priority,
        flags: MessageFlags::NONE,
        salt: [0; 16],
        path: Bytes::new(),
        envelope,
    };
    BatchPart { batch_header: Bytes::from_static(b"header"), messages: vec![message] }
}

#[test]
fn a_message_is_delivered_only_when_it_is_durable() {
    let mut shard = Shard::new(MailboxesConfig::default());
    let part = shard.admit(1, Priority::Normal).unwrap();
    assert!(shard.deliver(10).is_empty());
    let again = shard.mailboxes.admit(SENDER, message_id(1), INBOX, 100, NOW_MS);
    assert_eq!(again, Ok(Admit::Duplicate { durable: false }));
    shard.apply(Record::BatchPart(part));
    let again = shard.mailboxes.admit(SENDER, message_id(1), INBOX, 100, NOW_MS);
    assert_eq!(again, Ok(Admit::Duplicate { durable: true }));
    assert_eq!(shard.deliver(10), [(1, 1)]);
}

#[test]
fn priorities_go_first_and_order_holds_inside_each() {
    let mut shard = Shard::new(MailboxesConfig::default());
    for (number, priority) in [
        (1, Priority::Low),
        (2, Priority::Normal),
        (3, Priority::Critical),
        (4, Priority::Normal),
        (5, Priority::High),
        (6, Priority::Critical),
    ] {
        shard.queue(number, priority);
    }
    assert_eq!(shard.deliver(4), [(3, 1), (6, 1), (5, 1), (2, 1)]);
    assert_eq!(shard.deliver(4), [(4, 1), (1, 1)]);
    assert!(shard.deliver(4).is_empty());
}

#[test]
fn credit_limits_messages_and_bytes() {
    let mut shard = Shard::new(MailboxesConfig::default());
    for number in 1..=5 {
        shard.queue(number, Priority::Normal);
    }
    assert!(shard.deliver(0).is_empty());
    let by_bytes = shard.mailboxes.next_for_delivery(INBOX, 10, 299, NOW_MS);
    assert_eq!(by_bytes.len(), 2);
    assert_eq!(shard.deliver(2), [(3, 1), (4, 1)]);
    assert_eq!(shard.mailboxes.handed_out_messages(INBOX), 4);
}

#[test]
fn what_a_lost_subscriber_held_comes_back_in_front_in_order() {
    let mut shard = Shard::new(MailboxesConfig::default());
    for number in 1..=6 {
        shard.queue(number, if number == 3 { Priority::High } else { Priority::Normal });
    }
    assert_eq!(shard.deliver(4), [(3, 1), (1, 1), (2, 1), (4, 1)]);
    assert_eq!(shard.settle(&[1]), Some(vec![1]));
    shard.mailboxes.reset(INBOX, None, 0, NOW_MS);
    assert_eq!(shard.deliver(10), [(3, 2), (2, 2), (4, 2), (5, 1), (6, 1)]);
}

#[test]
fn settling_is_idempotent_and_ignores_what_is_unknown() {
    let mut shard = Shard::new(MailboxesConfig::default());
    for number in 1..=3 {
        shard.queue(number, Priority::Normal);
    }
    shard.deliver(3);
    assert_eq!(shard.settle(&[2, 2, 77]), Some(vec![2]));
    assert_eq!(shard.settle(&[2]), None);
    // Twice in the log, as after a repeated acknowledgement before a crash: the second does nothing.
    let settle = Settle { mailbox: INBOX, cause: SettleCause::Acknowledged, sequences: vec![2, 1] };
    shard.apply(Record::Settle(settle));
    assert_eq!(shard.mailboxes.queued_messages(INBOX), 1);
    assert_eq!(shard.mailboxes.settle(MailboxId([0; 16]), &[3], SettleCause::Acknowledged), None);
}

#[test]
fn a_message_being_settled_is_not_delivered_again() {
    let mut shard = Shard::new(MailboxesConfig::default());
    for number in 1..=2 {
        shard.queue(number, Priority::Normal);
    }
    shard.deliver(2);
    let settle = shard.mailboxes.settle(INBOX, &[1], SettleCause::Acknowledged).unwrap();
    shard.mailboxes.reset(INBOX, None, 0, NOW_MS);
    assert_eq!(shard.deliver(10), [(2, 2)]);
    // Its record did not make it into the log: the message is there for the next subscriber.
    shard.mailboxes.settle_refused(&settle);
    shard.mailboxes.reset(INBOX, None, 0, NOW_MS);
    shard.mailboxes.pass(u64::MAX);
    assert_eq!(shard.deliver(10), [(1, 2)], "one at a time, after two that disappeared");
}

#[test]
fn a_waiting_message_can_be_settled() {
    let mut shard = Shard::new(MailboxesConfig::default());
    for number in 1..=200 {
        shard.queue(number, Priority::Normal);
    }
    for sequence in (1..=200).filter(|sequence| sequence % 3 != 0) {
        assert_eq!(shard.settle(&[sequence]), Some(vec![sequence]));
    }
    let left: Vec<_> = (1..=200).filter(|number| number % 3 == 0).map(|number| (number, 1)).collect();
    assert_eq!(shard.deliver(1000), left);
    assert_eq!(shard.mailboxes.messages(), left.len() as u64);
}

#[test]
fn quotas_count_what_is_queued_and_what_is_on_its_way() {
    let config = MailboxesConfig { mailbox_messages_max: 3, ..MailboxesConfig::default() };
    let mut shard = Shard::new(config);
    shard.queue(1, Priority::Normal);
    shard.queue(2, Priority::Normal);
    let third = shard.admit(3, Priority::Normal).unwrap();
    assert_eq!(shard.admit(4, Priority::Normal), Err(Refusal::MailboxFull));
    shard.mailboxes.withdraw(&third);
    shard.queue(4, Priority::Normal);
    assert_eq!(shard.admit(5, Priority::Normal), Err(Refusal::MailboxFull));
    shard.settle(&[1]).unwrap();
    shard.queue(5, Priority::Normal);

    let config = MailboxesConfig { mailbox_bytes_max: 2 * 612, ..MailboxesConfig::default() };
    let mut shard = Shard::new(config);
    shard.queue(1, Priority::Normal);
    shard.queue(2, Priority::Normal);
    assert_eq!(shard.admit(3, Priority::Normal), Err(Refusal::MailboxFull));

    let config = MailboxesConfig { shard_bytes_max: 612, ..MailboxesConfig::default() };
    let mut shard = Shard::new(config);
    shard.queue(1, Priority::Normal);
    assert_eq!(shard.admit(2, Priority::Normal), Err(Refusal::ShardFull));
    shard.settle(&[1]).unwrap();
    assert_eq!((shard.mailboxes.queued_bytes(), shard.mailboxes.messages()), (0, 0));
    shard.queue(2, Priority::Normal);
}

#[test]
fn a_quota_of_its_own_counts_instead_of_the_shards_and_drops_nothing() {
    let mut shard = Shard::new(MailboxesConfig { mailbox_messages_max: 2, ..MailboxesConfig::default() });
    let mut admit = |number, quota: Quota| {
        let admitted = shard.mailboxes.admit_within(quota, SENDER, message_id(number), INBOX, 100, NOW_MS);
        if let Ok(Admit::New(sequence)) = admitted {
            let part = part(sequence, number, Priority::Normal, Bytes::from(vec![7; 100]));
            shard.apply(Record::BatchPart(part));
        }
        (admitted.map(drop), shard.mailboxes.queued_messages(INBOX))
    };
    let messages = |count| Quota { messages_max: Some(count), bytes_max: None };
    for number in 1..=4 {
        assert_eq!(admit(number, messages(4)), (Ok(()), number));
    }
    assert_eq!(admit(5, messages(4)), (Err(Refusal::MailboxFull), 4));
    assert_eq!(admit(5, messages(3)), (Err(Refusal::MailboxFull), 4));
    assert_eq!(admit(5, Quota::default()), (Err(Refusal::MailboxFull), 4));
    let bytes = |count| Quota { messages_max: Some(9), bytes_max: Some(count * cost_of(100)) };
    assert_eq!(admit(5, bytes(4)), (Err(Refusal::MailboxFull), 4));
    assert_eq!(admit(5, bytes(5)), (Ok(()), 5));
}

#[test]
fn a_refused_message_leaves_nothing_behind() {
    let mut shard = Shard::new(MailboxesConfig { mailboxes_max: 1, ..MailboxesConfig::default() });
    let part = shard.admit(1, Priority::Normal).unwrap();
    shard.mailboxes.withdraw(&part);
    let other = shard.mailboxes.admit(SENDER, message_id(2), MailboxId([8; 16]), 100, NOW_MS);
    assert!(matches!(other, Ok(Admit::New(_))), "the first mailbox is gone with its only message: {other:?}");
    assert_eq!(shard.admit(1, Priority::Normal), Err(Refusal::ShardFull));
}

#[test]
fn an_expired_message_is_left_out_and_settled() {
    let mut shard = Shard::new(MailboxesConfig::default());
    for number in 1..=4 {
        let mut part = shard.admit(number, Priority::Normal).unwrap();
        part.messages[0].expiry_ms = if number % 2 == 0 { NOW_MS } else { NOW_MS + 1 };
        shard.apply(Record::BatchPart(part));
    }
    assert_eq!(shard.deliver(1), [(1, 1)]);
    assert_eq!(shard.deliver(10), [(3, 1)]);
    let settles = shard.mailboxes.expire(NOW_MS, 1);
    assert_eq!((settles.len(), &settles[0].sequences[..], settles[0].cause), (1, &[2][..], SettleCause::Expired));
    assert_eq!(shard.mailboxes.expire(NOW_MS, 10)[0].sequences, [4], "what is being settled is not asked for again");
    // Nobody reads: time alone empties the mailbox.
    assert_eq!(shard.mailboxes.expire(NOW_MS + 1, 10), [], "the index knows seconds");
    for settle in settles.into_iter().chain(shard.mailboxes.expire(NOW_MS + 1_000, 10)) {
        shard.apply(Record::Settle(settle));
    }
    assert_eq!(shard.mailboxes.queued_messages(INBOX), 1);
}

#[test]
fn replaying_the_records_gives_the_same_queues() {
    let mut shard = Shard::new(MailboxesConfig::default());
    let mut records = Vec::new();
    for number in 1..=50 {
        let part = Record::BatchPart(shard.admit(number, Priority::from_byte((number % 4) as u8).unwrap()).unwrap());
        records.push(part.clone());
        shard.apply(part);
        if number % 3 == 0 {
            let settle = shard.mailboxes.settle(INBOX, &[number / 2], SettleCause::Acknowledged).unwrap();
            records.push(Record::Settle(settle.clone()));
            shard.apply(Record::Settle(settle));
        }
    }
    let mut replayed = Shard::new(MailboxesConfig::default());
    for record in records {
        let position = replayed.write(&record);
        replayed.mailboxes.note(position, record.noted(position));
    }
    replayed.mailboxes.recovered();
    assert_eq!(replayed.deliver(100), shard.deliver(100));
    assert_eq!(replayed.mailboxes.queued_bytes(), shard.mailboxes.queued_bytes());
    let next = shard.mailboxes.admit(SENDER, message_id(51), INBOX, 100, NOW_MS);
    assert_eq!(replayed.mailboxes.admit(SENDER, message_id(51), INBOX, 100, NOW_MS), next);
}

#[test]
fn the_log_may_begin_at_the_oldest_queued_message() {
    let mut shard = Shard::new(MailboxesConfig::default());
    for number in 1..=40 {
        shard.queue(number, Priority::Normal);
    }
    let point = |shard: &Shard| shard.mailboxes.trim_point(SegmentNumber(1), SegmentNumber(6), 64 << 20, false);
    assert_eq!(point(&shard), None);
    shard.settle(&(1..=25).collect::<Vec<_>>()).unwrap();
    assert_eq!(point(&shard), Some(SegmentNumber(3)));
    shard.settle(&(26..=40).collect::<Vec<_>>()).unwrap();
    assert_eq!(point(&shard), Some(SegmentNumber(6)), "nothing is queued: up to the segment that is written to");
    // Forty ids to carry over for eighty bytes freed is a bad trade.
    assert_eq!(shard.mailboxes.trim_point(SegmentNumber(1), SegmentNumber(6), 16, false), None);
}

mod channel_model;
mod channel_reads;
mod channels;
mod cold;
mod dead;
mod depth;
mod expire;
mod groups;
mod model;
mod redeliver;
mod subscriptions;

/// Goes over a log of so many segments once; returns whether anything was moved.
fn clean_once(shard: &mut Shard, is_short: bool) -> bool {
    clean_while(shard, is_short, false)
}

fn clean_while(shard: &mut Shard, is_short: bool, is_giving_back: bool) -> bool {
    let active = SegmentNumber(1 + (shard.durable + 10) / 10);
    let log = LogExtent { bytes: 1 << 20, active, segment_bytes: 4_192, is_short, is_giving_back };
    for _ in 0..3 {
        shard.mailboxes.clean(&log);
    }
    shard.read();
    // It is written again in the segment that was being written to.
    shard.durable = 10 * active.0;
    let mut is_any = false;
    while let Some(part) = shard.mailboxes.next_moved() {
        is_any = true;
        shard.apply(Record::Moved(part));
    }
    shard.mailboxes.clean(&log);
    is_any
}

#[test]
fn a_log_of_which_nothing_is_settled_is_cleaned_once_more_when_a_message_is_refused() {
    let mut shard = Shard::new(MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() });
    shard.queue(1, Priority::Normal);
    let passes = (0..10).take_while(|_| clean_once(&mut shard, true)).count();
    assert_eq!(passes, CLEANING_PASSES_MAX as usize);
    shard.mailboxes.room_is_wanted();
    assert!(!clean_once(&mut shard, false), "there is room in it");
    assert!(clean_once(&mut shard, true));
    assert!(!clean_once(&mut shard, true), "once for each time");
    shard.mailboxes.room_is_wanted();
    assert!(clean_once(&mut shard, true));
    // What was let go is on its way out: moving the same again would fill what that gives back.
    shard.mailboxes.room_is_wanted();
    assert!(!clean_while(&mut shard, true, true), "room comes without it");
    assert!(clean_once(&mut shard, true), "it did not come from that");
}
