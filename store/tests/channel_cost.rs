//! What keeping a channel in order costs does not grow with what the channel keeps, nor groups times messages: the same work is
//! done at two sizes, and the larger one must not take what work that is squared would.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test harness that measures: a wrong unwrap fails the test"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use creto_store::{
    Admit, BatchPart, Durable, GroupId, Lsn, MailboxId, Mailboxes, MailboxesConfig, MessageFlags, MessageId,
    PartMessage, Position, Priority, Quota, Record, RecordSequence, Refusal, SegmentNumber, SenderId, Settle,
    SettleCause, StartAt, SubscriberId,
};

const NOW_MS: u64 = 1_800_000_000_000;
const CHANNEL: MailboxId = MailboxId([9; 16]);

/// Mailboxes whose records are durable at once.
struct Shard {
    mailboxes: Mailboxes,
    durable: u64,
    quota: Quota,
}

impl Shard {
    fn new(quota: Quota) -> Self {
        Self { mailboxes: Mailboxes::new(MailboxesConfig::default(), [1, 2]), durable: 0, quota }
    }

    fn apply(&mut self, record: Record) {
        self.durable += 1;
        let position = Position { segment: SegmentNumber(1), lsn: Lsn(self.durable), index: 0, offset: 4_192 };
        let noted = record.noted(position);
        self.mailboxes.apply(Durable { sequence: RecordSequence(self.durable), position, noted, record });
    }

    fn admit(&mut self, number: u64, envelope_bytes: usize) -> Result<PartMessage, Refusal> {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&NOW_MS.to_be_bytes()[2..]);
        id[8..].copy_from_slice(&number.to_be_bytes());
        // Many senders: each has few messages on their way.
        let (sender, message_id) =
            (SenderId((number % 64 + 1).to_le_bytes().repeat(2).try_into().unwrap()), MessageId(id));
        let admitted =
            self.mailboxes.admit_published(self.quota, sender, message_id, CHANNEL, envelope_bytes, NOW_MS)?;
        let Admit::New(sequence) = admitted else { panic!("{admitted:?}") };
        Ok(PartMessage {
            mailbox: CHANNEL,
            sender,
            message_id,
            sequence,
            expiry_ms: NOW_MS + 3_600_000,
            leaf_index: 0,
            priority: Priority::Normal,
            flags: MessageFlags::PUBLISHED,
            salt: [0; 16],
            path: Bytes::new(),
            envelope: Bytes::from_static(&[7; 100]),
        })
    }

    fn publish(&mut self, messages: u64) -> Vec<u64> {
        let batch_header = Bytes::from_static(&[1; 100]);
        let messages: Vec<PartMessage> = (0..messages).map(|number| self.admit(number, 100).unwrap()).collect();
        let sequences = messages.iter().map(|message| message.sequence).collect();
        self.apply(Record::BatchPart(BatchPart { batch_header, messages }));
        sequences
    }

    fn subscribe(&mut self, group: GroupId) -> creto_store::Reader {
        let subscriber = SubscriberId([7; 16]);
        let made = self.mailboxes.subscribe(CHANNEL, subscriber, group, Some(StartAt::Oldest)).unwrap();
        self.apply(Record::Subscribe(made.unwrap()));
        self.mailboxes.attach(CHANNEL, subscriber, group).unwrap()
    }

    fn settle(&mut self, sequences: Vec<u64>) {
        self.apply(Record::Settle(Settle { mailbox: CHANNEL, cause: SettleCause::Expired, sequences }));
    }
}

/// The least of three runs: whoever else uses the machine adds to some of them.
fn least(run: impl Fn() -> Duration) -> Duration {
    (0..3).map(|_| run()).min().unwrap()
}

fn check(what: &str, times_as_much: u32, small: Duration, large: Duration) {
    println!("{what}: {small:?}, and {large:?} at {times_as_much} times the size");
    assert!(large < 4 * small + Duration::from_millis(5), "{what}: {small:?}, then {large:?}");
}

#[test]
fn what_leaves_a_channel_costs_the_same_whatever_stays() {
    let run = |messages: u64| {
        let mut shard = Shard::new(Quota { messages_max: Some(1 << 20), bytes_max: Some(1 << 40) });
        let sequences = shard.publish(messages);
        // Here and there, sixteen at a time.
        let mut leaving: Vec<u64> = sequences.iter().copied().skip(7).step_by(3).take(1_024).collect();
        let begun = Instant::now();
        while !leaving.is_empty() {
            shard.settle(leaving.split_off(leaving.len() - 16));
        }
        begun.elapsed()
    };
    check("to let 1,024 messages leave", 16, least(|| run(4_000)), least(|| run(64_000)));
}

#[test]
fn a_refusal_costs_the_same_however_much_is_consumed() {
    let run = |messages: u64| {
        // It takes what is there, and no more; half of it is consumed.
        let mut shard = Shard::new(Quota { messages_max: None, bytes_max: Some(612 * messages) });
        let reader = shard.subscribe(GroupId::NONE);
        let sequences = shard.publish(messages);
        assert_eq!(shard.mailboxes.next_published(reader, u32::MAX, u64::MAX, NOW_MS).len(), sequences.len());
        shard.mailboxes.acknowledge_upto(reader, sequences[sequences.len() / 2]);
        let cursors = shard.mailboxes.next_cursors(1 << 20).unwrap();
        shard.apply(Record::Cursors(cursors));
        // One that needs more than that.
        let large = usize::try_from(messages).unwrap() * 500;
        let begun = Instant::now();
        for number in messages..messages + 300 {
            assert_eq!(shard.admit(number, large).unwrap_err(), Refusal::MailboxFull);
        }
        let elapsed = begun.elapsed();
        // What does fit is taken all the same, and the oldest leave for it.
        assert!(shard.admit(messages, 100).is_ok());
        assert_eq!(shard.mailboxes.next_leaving().unwrap().sequences[0], sequences[0]);
        elapsed
    };
    check("to refuse 300 messages", 32, least(|| run(1_000)), least(|| run(32_000)));
}

#[test]
fn an_expiry_costs_groups_and_messages_not_their_product() {
    let run = |messages: u64| {
        let mut shard = Shard::new(Quota { messages_max: Some(1 << 20), bytes_max: Some(1 << 40) });
        for group in 0..400_u64 {
            let reader = shard.subscribe(GroupId((group + 1).to_le_bytes().repeat(2).try_into().unwrap()));
            assert!(shard.mailboxes.next_published(reader, 1, u64::MAX, NOW_MS).is_empty());
        }
        let sequences = shard.publish(messages);
        // One message of each group is in hand.
        for reader in shard.mailboxes.take_ready_readers() {
            assert_eq!(shard.mailboxes.next_published(reader, 1, u64::MAX, NOW_MS).len(), 1);
        }
        let begun = Instant::now();
        shard.settle(sequences[..sequences.len() - 1].to_vec());
        let elapsed = begun.elapsed();
        // Apart from the messages themselves.
        let mut nobody = Shard::new(Quota { messages_max: Some(1 << 20), bytes_max: Some(1 << 40) });
        let sequences = nobody.publish(messages);
        let begun = Instant::now();
        nobody.settle(sequences[..sequences.len() - 1].to_vec());
        elapsed.saturating_sub(begun.elapsed())
    };
    check("to have messages expire for 400 groups", 64, least(|| run(200)), least(|| run(12_800)));
}
