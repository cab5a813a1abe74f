//! The mailboxes against a plain model: vectors and maps, everything in memory.

use proptest::prelude::*;

use super::*;

const INBOXES: u8 = 3;

fn inbox(number: u8) -> MailboxId {
    MailboxId([number; 16])
}

/// What a mailbox is, said in the simplest way.
#[derive(Debug, Default)]
struct Model {
    /// Waiting, by priority downwards and sequence.
    waiting: BTreeMap<(u8, std::cmp::Reverse<Priority>, u64), (PartMessage, u8)>,
    /// Handed out, by mailbox and sequence.
    handed_out: BTreeMap<(u8, u64), (PartMessage, u8)>,
    /// Settled by a record that is not durable yet.
    settling: Vec<u64>,
}

impl Model {
    fn deliver(&mut self, mailbox: u8, messages: usize, now_ms: u64) -> Vec<(PartMessage, u8)> {
        let mut delivered = Vec::new();
        while delivered.len() < messages {
            let Some((&key, _)) = self.waiting.iter().find(|(key, _)| key.0 == mailbox) else { break };
            let (message, attempts) = self.waiting.remove(&key).unwrap();
            let is_over = message.expiry_ms != 0 && message.expiry_ms <= now_ms;
            let attempts = if is_over || self.settling.contains(&key.2) {
                attempts
            } else {
                delivered.push((message.clone(), attempts + 1));
                attempts + 1
            };
            self.handed_out.insert((mailbox, key.2), (message, attempts));
        }
        delivered
    }

    fn reset(&mut self, mailbox: u8) {
        let settling = self.settling.clone();
        let back = self.handed_out.extract_if(.., |key, _| key.0 == mailbox && !settling.contains(&key.1));
        let back: Vec<_> = back.collect();
        for ((mailbox, sequence), (message, attempts)) in back {
            self.waiting.insert((mailbox, std::cmp::Reverse(message.priority), sequence), (message, attempts));
        }
    }

    fn settle(&mut self, sequences: &[u64]) {
        self.waiting.retain(|key, _| !sequences.contains(&key.2));
        self.handed_out.retain(|key, _| !sequences.contains(&key.1));
        self.settling.retain(|sequence| !sequences.contains(sequence));
    }

    fn sequences(&self, mailbox: u8) -> Vec<u64> {
        let waiting = self.waiting.keys().filter(|key| key.0 == mailbox).map(|key| key.2);
        let handed_out = self.handed_out.keys().filter(|key| key.0 == mailbox).map(|key| key.1);
        let mut all: Vec<_> = waiting.chain(handed_out).collect();
        all.sort_unstable();
        all
    }
}

#[derive(Debug, Clone)]
enum Op {
    Part(Vec<(u8, u8, u16, bool)>),
    Deliver(u8, u8),
    Settle { mailbox: u8, choice: u16, count: u8 },
    Durable,
    Refuse,
    Reset(u8),
    Expire(u16),
    Restart,
}

fn any_op() -> impl Strategy<Value = Op> {
    let message = (0..INBOXES, 0_u8..4, 0_u16..2_000, prop::bool::weighted(0.2));
    prop_oneof![
        4 => prop::collection::vec(message, 1..6).prop_map(Op::Part),
        4 => (0..INBOXES, 1_u8..20).prop_map(|(mailbox, count)| Op::Deliver(mailbox, count)),
        3 => (0..INBOXES, any::<u16>(), 1_u8..6).prop_map(|(mailbox, choice, count)| Op::Settle { mailbox, choice, count }),
        3 => Just(Op::Durable),
        1 => Just(Op::Refuse),
        1 => (0..INBOXES).prop_map(Op::Reset),
        1 => any::<u16>().prop_map(Op::Expire),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn mailboxes_do_what_the_model_does(ops in prop::collection::vec(any_op(), 1..80), cache_bytes in 0_usize..20_000) {
        let config = MailboxesConfig { cache_bytes, ..MailboxesConfig::default() };
        let mut shard = Shard::new(config.clone());
        let (mut model, mut now_ms, mut number) = (Model::default(), NOW_MS, 0);
        let mut log: Vec<(Position, Record)> = Vec::new();
        let mut pending: Vec<Settle> = Vec::new();
        for op in ops {
            match op {
                Op::Part(messages) => {
                    let mut part = BatchPart { batch_header: Bytes::from(vec![u64::to_le_bytes(number)[0]; 50]), messages: Vec::new() };
                    for (mailbox, priority, envelope_bytes, expires) in messages {
                        number += 1;
                        let bytes = usize::from(envelope_bytes);
                        let admitted = shard.mailboxes.admit(SENDER, message_id(number), inbox(mailbox), bytes, NOW_MS);
                        let Ok(Admit::New(sequence)) = admitted else { panic!("{admitted:?}") };
                        let envelope = Bytes::from(vec![u64::to_le_bytes(number)[0]; bytes]);
                        let priority = Priority::from_byte(priority).unwrap();
                        let mut message = super::part(sequence, number, priority, envelope).messages.remove(0);
                        message.mailbox = inbox(mailbox);
                        message.expiry_ms = if expires { now_ms + 2_000 } else { 0 };
                        model.waiting.insert((mailbox, std::cmp::Reverse(priority), sequence), (message.clone(), 0));
                        part.messages.push(message);
                    }
                    let record = Record::BatchPart(part);
                    let position = shard.write(&record);
                    log.push((position, record.clone()));
                    shard.make_durable(position, record);
                }
                Op::Deliver(mailbox, count) => {
                    let expected = model.deliver(mailbox, usize::from(count), now_ms);
                    let mut found = Vec::new();
                    loop {
                        let credit = u32::from(count) - u32::try_from(found.len()).unwrap();
                        let deliveries = shard.mailboxes.next_for_delivery(inbox(mailbox), credit, u64::MAX, now_ms);
                        shard.mailboxes.end_turn();
                        let reads = shard.reads;
                        prop_assert_eq!(shard.read(), []);
                        if deliveries.is_empty() && shard.reads == reads {
                            break;
                        }
                        found.extend(deliveries.into_iter().map(|delivery| (delivery.message, delivery.attempt)));
                    }
                    prop_assert_eq!(found, expected);
                }
                Op::Settle { mailbox, choice, count } => {
                    let known = model.sequences(mailbox);
                    let mut sequences: Vec<u64> = known.iter().copied().skip(usize::from(choice) % (known.len() + 1)).take(usize::from(count)).collect();
                    sequences.push(u64::from(choice));
                    if let Some(settle) = shard.mailboxes.settle(inbox(mailbox), &sequences, SettleCause::Acknowledged) {
                        prop_assert!(settle.sequences.iter().all(|sequence| known.contains(sequence) && !model.settling.contains(sequence)));
                        model.settling.extend(&settle.sequences);
                        pending.push(settle);
                    }
                }
                Op::Durable => for settle in pending.drain(..) {
                    let position = shard.write(&Record::Settle(settle.clone()));
                    log.push((position, Record::Settle(settle.clone())));
                    shard.make_durable(position, Record::Settle(settle.clone()));
                    model.settle(&settle.sequences);
                },
                Op::Refuse => for settle in pending.drain(..) {
                    shard.mailboxes.settle_refused(&settle);
                    model.settling.retain(|sequence| !settle.sequences.contains(sequence));
                },
                Op::Reset(mailbox) => {
                    shard.mailboxes.reset(inbox(mailbox));
                    model.reset(mailbox);
                }
                Op::Expire(later_ms) => {
                    now_ms += u64::from(later_ms) % 1_500;
                    for settle in shard.mailboxes.expire(now_ms, 100) {
                        model.settling.extend(&settle.sequences);
                        pending.push(settle);
                    }
                    // What is over by the index's clock of seconds is being settled.
                    let all = model.waiting.iter().map(|(key, value)| (key.2, value)).chain(model.handed_out.iter().map(|(key, value)| (key.1, value)));
                    for (sequence, (message, _)) in all {
                        let is_over = message.expiry_ms != 0 && message.expiry_ms.div_ceil(1_000) * 1_000 <= now_ms;
                        prop_assert!(!is_over || model.settling.contains(&sequence));
                    }
                }
                Op::Restart => {
                    let mut again = Mailboxes::new(config.clone(), [5, 6]);
                    for (position, record) in &log {
                        again.note(*position, record.noted(*position));
                    }
                    again.recovered();
                    shard.mailboxes = again;
                    pending.clear();
                    model.settling.clear();
                    (0..INBOXES).for_each(|mailbox| model.reset(mailbox));
                    model.waiting.values_mut().for_each(|(_, attempts)| *attempts = 0);
                }
            }
            for mailbox in 0..INBOXES {
                prop_assert_eq!(shard.mailboxes.queued_messages(inbox(mailbox)), model.sequences(mailbox).len() as u64);
            }
            prop_assert_eq!(shard.mailboxes.messages(), (model.waiting.len() + model.handed_out.len()) as u64);
            prop_assert!(shard.mailboxes.cold.next_read().is_none());
        }
    }
}
