//! The mailboxes against a plain model: vectors and maps, everything in memory.

use std::cmp::Reverse;

use proptest::prelude::*;

use super::*;
use crate::limits::{NOTICE_BYTES, PROBE_HOLD_US};

const INBOXES: u8 = 3;
/// Pauses of one, two, four milliseconds; three deliveries.
const REDELIVERY: RedeliveryConfig = RedeliveryConfig { base_us: 1_000, max_us: 4_000, deliveries_max: 3 };

fn inbox(number: u8) -> MailboxId {
    MailboxId([number; 16])
}

/// Where a message is: in one of these, and settled ones in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Waiting,
    /// With the number of the hand-out.
    HandedOut(u64),
    /// Until then.
    Delayed(u64),
    Dead,
}

#[derive(Debug)]
struct Known {
    mailbox: u8,
    message: PartMessage,
    attempts: u8,
    failed: u8,
    at: Where,
    /// A record about it was made and is not durable yet.
    is_settling: bool,
}

impl Known {
    /// By the index's clock of seconds.
    fn is_over(&self, now_ms: u64) -> bool {
        self.message.expiry_ms != 0 && self.message.expiry_ms.div_ceil(1_000) * 1_000 <= now_ms
    }

    fn is_in_hand(&self, now_ms: u64) -> bool {
        let is_handed_out = matches!(self.at, Where::HandedOut(_));
        is_handed_out && self.attempts > 0 && !self.is_settling && !self.is_over(now_ms)
    }
}

/// How the consumers of a mailbox fare.
#[derive(Debug, Default, Clone, Copy)]
struct Consumers {
    disappeared: u32,
    is_pausing: bool,
    probe_messages: usize,
    timer_us: Option<u64>,
}

/// What a shard's mailboxes are, said in the simplest way.
#[derive(Debug, Default)]
struct Model {
    messages: BTreeMap<u64, Known>,
    consumers: [Consumers; INBOXES as usize],
    hand_outs: u64,
    /// The time that the mailboxes were told last, and the time that it is.
    told_us: u64,
    now_us: u64,
    now_ms: u64,
    /// Sequences that are to die, in order.
    dying: Vec<u64>,
}

impl Model {
    fn of(&self, mailbox: u8) -> impl Iterator<Item = (u64, &Known)> {
        self.messages
            .iter()
            .filter(move |(_, known)| known.mailbox == mailbox)
            .map(|(&sequence, known)| (sequence, known))
    }

    fn sequences(&self, mailbox: u8) -> Vec<u64> {
        self.of(mailbox).map(|(sequence, _)| sequence).collect()
    }

    /// In the order of their hand-outs.
    fn in_hand(&self, mailbox: u8) -> Vec<u64> {
        let mut held: Vec<_> = self.of(mailbox).filter(|(_, known)| known.is_in_hand(self.now_ms)).collect();
        held.sort_by_key(|(_, known)| match known.at {
            Where::HandedOut(number) => number,
            _ => unreachable!("filtered"),
        });
        held.into_iter().map(|(sequence, _)| sequence).collect()
    }

    fn deliver(&mut self, mailbox: u8, messages: usize) -> Vec<(PartMessage, u8)> {
        let consumers = self.consumers[usize::from(mailbox)];
        let is_probing = consumers.disappeared >= 2;
        let allowed = match (consumers.is_pausing, is_probing) {
            (true, _) => 0,
            (false, true) => consumers.probe_messages.saturating_sub(self.in_hand(mailbox).len()),
            (false, false) => usize::MAX,
        };
        let mut delivered = Vec::new();
        while delivered.len() < messages.min(allowed) {
            let waiting = self.of(mailbox).filter(|(_, known)| known.at == Where::Waiting);
            let next = waiting.min_by_key(|(sequence, known)| (Reverse(known.message.priority), *sequence));
            let Some((sequence, _)) = next else { break };
            self.hand_outs += 1;
            let known = self.messages.get_mut(&sequence).unwrap();
            known.at = Where::HandedOut(self.hand_outs);
            let is_over = known.message.expiry_ms != 0 && known.message.expiry_ms <= self.now_ms;
            if !is_over && !known.is_settling {
                known.attempts += 1;
                delivered.push((known.message.clone(), known.attempts));
            } else {
                known.attempts = 0;
            }
        }
        if is_probing && !delivered.is_empty() {
            self.consumers[usize::from(mailbox)].timer_us = Some(self.told_us + PROBE_HOLD_US);
        }
        delivered
    }

    /// Whether the message may be delivered again.
    fn delivery_failed(&mut self, sequence: u64) -> bool {
        let known = self.messages.get_mut(&sequence).unwrap();
        known.failed += 1;
        if known.failed < REDELIVERY.deliveries_max {
            return true;
        }
        known.is_settling = true;
        self.dying.push(sequence);
        false
    }

    fn nack(&mut self, mailbox: u8, sequence: u64, delay_ms: u32) {
        if !self.in_hand_even_over(mailbox, sequence) || !self.delivery_failed(sequence) {
            return;
        }
        let known = self.messages.get_mut(&sequence).unwrap();
        let pause_us = (1_000 << (known.failed - 1)).min(4_000).max(u64::from(delay_ms) * 1_000);
        known.at = Where::Delayed(self.now_us + pause_us);
    }

    fn reject(&mut self, mailbox: u8, sequence: u64) {
        if self.in_hand_even_over(mailbox, sequence) {
            self.messages.get_mut(&sequence).unwrap().is_settling = true;
            self.consumer_is_well(mailbox);
            self.dying.push(sequence);
        }
    }

    /// A consumer may speak of a message whose time is over, too.
    fn in_hand_even_over(&self, mailbox: u8, sequence: u64) -> bool {
        self.messages.get(&sequence).is_some_and(|known| known.mailbox == mailbox && known.is_in_hand(0))
    }

    fn reset(&mut self, mailbox: u8) {
        self.consumers[usize::from(mailbox)].probe_messages = 1;
        if let Some(&blamed) = self.in_hand(mailbox).first() {
            let now_us = self.now_us;
            let consumers = &mut self.consumers[usize::from(mailbox)];
            consumers.disappeared += 1;
            if consumers.disappeared >= 2 {
                consumers.is_pausing = true;
                consumers.timer_us = Some(now_us + (1_000 << (consumers.disappeared - 2).min(8)).min(4_000));
            }
            self.delivery_failed(blamed);
        }
        for known in self.messages.values_mut().filter(|known| known.mailbox == mailbox && !known.is_settling) {
            if matches!(known.at, Where::HandedOut(_)) {
                known.at = Where::Waiting;
            }
        }
    }

    fn pass(&mut self) {
        self.told_us = self.now_us;
        for known in self.messages.values_mut() {
            if matches!(known.at, Where::Delayed(due_us) if due_us <= self.now_us) {
                known.at = Where::Waiting;
            }
        }
        for consumers in &mut self.consumers {
            if consumers.timer_us.take_if(|due_us| *due_us <= self.now_us).is_some()
                && !std::mem::take(&mut consumers.is_pausing)
            {
                consumers.probe_messages += 1;
            }
        }
    }

    fn consumer_is_well(&mut self, mailbox: u8) {
        let consumers = &mut self.consumers[usize::from(mailbox)];
        if consumers.disappeared > 0 {
            *consumers = Consumers { probe_messages: consumers.probe_messages, ..Consumers::default() };
        }
    }

    /// A record is durable.
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Settle(settle) => {
                settle.sequences.iter().for_each(|sequence| drop(self.messages.remove(sequence)));
            }
            Record::Dead(dead) if !dead.is_again => {
                for letter in &dead.letters {
                    let known = self.messages.get_mut(&letter.sequence).unwrap();
                    (known.at, known.is_settling, known.failed) = (Where::Dead, false, 0);
                }
                self.consumer_is_well(dead.mailbox.0[0]);
            }
            Record::Revive(revive) => {
                for sequence in &revive.sequences {
                    let known = self.messages.get_mut(sequence).unwrap();
                    (known.at, known.is_settling, known.attempts) = (Where::Waiting, false, 0);
                }
            }
            _ => {}
        }
        // A mailbox that holds nothing is forgotten, with all that was known of its consumers.
        for mailbox in 0..INBOXES {
            if self.sequences(mailbox).is_empty() {
                self.consumers[usize::from(mailbox)] = Consumers::default();
            }
        }
    }

    /// Nothing becomes of a record.
    fn refused(&mut self, sequences: &[u64]) {
        for sequence in sequences {
            self.messages.get_mut(sequence).unwrap().is_settling = false;
        }
    }

    /// What is in memory only is gone.
    fn restart(&mut self) {
        self.dying.clear();
        self.told_us = 0;
        self.consumers = Default::default();
        for known in self.messages.values_mut() {
            (known.attempts, known.failed, known.is_settling) = (0, 0, false);
            known.at = if known.at == Where::Dead { Where::Dead } else { Where::Waiting };
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Part(Vec<(u8, u8, u16, bool)>),
    Deliver(u8, u8),
    Settle { mailbox: u8, choice: u16, count: u8 },
    Nack { mailbox: u8, choice: u16, count: u8, delay_ms: u8 },
    Reject { mailbox: u8, choice: u16, count: u8 },
    Revive { mailbox: u8, choice: u16, count: u8 },
    Purge { mailbox: u8, choice: u16, count: u8 },
    Move(u16),
    Durable,
    Refuse,
    Reset(u8),
    Pass(u16),
    Expire(u16),
    Restart,
}

fn any_op() -> impl Strategy<Value = Op> {
    let message = (0..INBOXES, 0_u8..4, 0_u16..2_000, prop::bool::weighted(0.2));
    let some = || (0..INBOXES, any::<u16>(), 1_u8..6);
    prop_oneof![
        4 => prop::collection::vec(message, 1..6).prop_map(Op::Part),
        5 => (0..INBOXES, 1_u8..20).prop_map(|(mailbox, count)| Op::Deliver(mailbox, count)),
        3 => some().prop_map(|(mailbox, choice, count)| Op::Settle { mailbox, choice, count }),
        3 => (some(), 0_u8..6).prop_map(|((mailbox, choice, count), delay_ms)| {
            Op::Nack { mailbox, choice, count, delay_ms }
        }),
        2 => some().prop_map(|(mailbox, choice, count)| Op::Reject { mailbox, choice, count }),
        1 => some().prop_map(|(mailbox, choice, count)| Op::Revive { mailbox, choice, count }),
        1 => some().prop_map(|(mailbox, choice, count)| Op::Purge { mailbox, choice, count }),
        1 => any::<u16>().prop_map(Op::Move),
        4 => Just(Op::Durable),
        1 => Just(Op::Refuse),
        3 => (0..INBOXES).prop_map(Op::Reset),
        3 => any::<u16>().prop_map(Op::Pass),
        1 => any::<u16>().prop_map(Op::Expire),
        1 => Just(Op::Restart),
    ]
}

/// Some of these, and one that may be anything.
fn choose(known: &[u64], choice: u16, count: u8) -> Vec<u64> {
    let skip = usize::from(choice) % (known.len() + 1);
    let mut chosen: Vec<u64> = known.iter().copied().skip(skip).take(usize::from(count)).collect();
    chosen.push(u64::from(choice));
    chosen
}

/// The mailboxes with the log that a restart reads, and the records that are on their way to it.
struct Tested {
    shard: Shard,
    config: MailboxesConfig,
    log: Vec<(Position, Record)>,
    pending: Vec<Record>,
}

impl Tested {
    fn durable(&mut self, record: Record) {
        let position = self.shard.write(&record);
        self.log.push((position, record.clone()));
        self.shard.make_durable(position, record);
    }

    fn deliver(&mut self, mailbox: u8, count: u8, now_ms: u64) -> Vec<(PartMessage, u8)> {
        let mut found = Vec::new();
        loop {
            let credit = u32::from(count) - u32::try_from(found.len()).unwrap();
            let deliveries = self.shard.mailboxes.next_for_delivery(inbox(mailbox), credit, u64::MAX, now_ms);
            self.shard.mailboxes.end_turn();
            let reads = self.shard.reads;
            assert_eq!(self.shard.read(), []);
            if deliveries.is_empty() && self.shard.reads == reads {
                return found;
            }
            found.extend(deliveries.into_iter().map(|delivery| (delivery.message, delivery.attempt)));
        }
    }

    fn restart(&mut self) {
        let mut again = Mailboxes::new(self.config.clone(), [5, 6]);
        for (position, record) in &self.log {
            again.note(*position, record.noted(*position));
        }
        again.recovered();
        self.shard.mailboxes = again;
        self.pending.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn mailboxes_do_what_the_model_does(ops in prop::collection::vec(any_op(), 1..120), cache_bytes in 0_usize..20_000) {
        let config = MailboxesConfig { cache_bytes, redelivery: REDELIVERY, ..MailboxesConfig::default() };
        let mut tested = Tested { shard: Shard::new(config.clone()), config, log: Vec::new(), pending: Vec::new() };
        let mut model = Model { now_ms: NOW_MS, ..Model::default() };
        let mut number = 0;
        for op in ops {
            match op {
                Op::Part(messages) => {
                    let header = Bytes::from(vec![u64::to_le_bytes(number)[0]; 50]);
                    let mut part = BatchPart { batch_header: header, messages: Vec::new() };
                    for (mailbox, priority, envelope_bytes, expires) in messages {
                        number += 1;
                        // One of a notice's length would be taken for a notice: no envelope is as short.
                        let bytes = match usize::from(envelope_bytes) {
                            NOTICE_BYTES => NOTICE_BYTES + 1,
                            bytes => bytes,
                        };
                        let mailboxes = &mut tested.shard.mailboxes;
                        let admitted = mailboxes.admit(SENDER, message_id(number), inbox(mailbox), bytes, NOW_MS);
                        let Ok(Admit::New(sequence)) = admitted else { panic!("{admitted:?}") };
                        let envelope = Bytes::from(vec![u64::to_le_bytes(number)[0]; bytes]);
                        let priority = Priority::from_byte(priority).unwrap();
                        let mut message = super::part(sequence, number, priority, envelope).messages.remove(0);
                        message.mailbox = inbox(mailbox);
                        message.expiry_ms = if expires { model.now_ms + 2_000 } else { 0 };
                        let known = Known {
                            mailbox, message: message.clone(), attempts: 0, failed: 0, at: Where::Waiting, is_settling: false,
                        };
                        model.messages.insert(sequence, known);
                        part.messages.push(message);
                    }
                    tested.durable(Record::BatchPart(part));
                }
                Op::Deliver(mailbox, count) => {
                    let expected = model.deliver(mailbox, usize::from(count));
                    prop_assert_eq!(tested.deliver(mailbox, count, model.now_ms), expected);
                }
                Op::Settle { mailbox, choice, count } => {
                    let known = model.sequences(mailbox);
                    let sequences = choose(&known, choice, count);
                    let settle = tested.shard.mailboxes.settle(inbox(mailbox), &sequences, SettleCause::Acknowledged);
                    if let Some(settle) = settle {
                        for sequence in &settle.sequences {
                            let known = model.messages.get_mut(sequence).unwrap();
                            prop_assert!(known.mailbox == mailbox && !std::mem::replace(&mut known.is_settling, true));
                        }
                        model.consumer_is_well(mailbox);
                        tested.pending.push(Record::Settle(settle));
                    }
                }
                Op::Nack { mailbox, choice, count, delay_ms } => {
                    let asked = choose(&model.sequences(mailbox), choice, count).into_iter();
                    let asked: Vec<(u64, u32)> = asked.map(|sequence| (sequence, u32::from(delay_ms))).collect();
                    tested.shard.mailboxes.nack(inbox(mailbox), &asked, None, model.now_us, model.now_ms);
                    for (sequence, delay_ms) in asked {
                        model.nack(mailbox, sequence, delay_ms);
                    }
                }
                Op::Reject { mailbox, choice, count } => {
                    let asked = choose(&model.sequences(mailbox), choice, count);
                    let with_reason: Vec<(u64, u16)> = asked.iter().map(|&sequence| (sequence, choice)).collect();
                    tested.shard.mailboxes.reject(inbox(mailbox), &with_reason, model.now_ms);
                    asked.into_iter().for_each(|sequence| model.reject(mailbox, sequence));
                }
                Op::Revive { mailbox, choice, count } | Op::Purge { mailbox, choice, count } => {
                    let chosen = choose(&model.sequences(mailbox), choice, count);
                    let mailboxes = &mut tested.shard.mailboxes;
                    let record = match op {
                        Op::Revive { .. } => mailboxes.revive(inbox(mailbox), &chosen).map(Record::Revive),
                        _ => mailboxes.purge(inbox(mailbox), &chosen).map(Record::Settle),
                    };
                    let mut expected: Vec<u64> = chosen.into_iter().filter(|sequence| {
                        let known = model.messages.get(sequence);
                        known.is_some_and(|known| known.mailbox == mailbox && known.at == Where::Dead && !known.is_settling)
                    }).collect();
                    expected.sort_unstable();
                    expected.dedup();
                    let found = match &record {
                        Some(Record::Revive(revive)) => &revive.sequences[..],
                        Some(Record::Settle(settle)) => &settle.sequences[..],
                        _ => &[],
                    };
                    prop_assert_eq!(found, &expected[..]);
                    for sequence in expected {
                        model.messages.get_mut(&sequence).unwrap().is_settling = true;
                    }
                    tested.pending.extend(record);
                }
                Op::Move(choice) => {
                    // What cleaning does with one message: not if a record about it is on its way.
                    let free = model.messages.values().filter(|known| !known.is_settling).collect::<Vec<_>>();
                    if !free.is_empty() {
                        let message = free[usize::from(choice) % free.len()].message.clone();
                        let batch_header = tested.log.iter().find_map(|(_, record)| match record {
                            Record::BatchPart(part) if part.messages.contains(&message) => Some(part.batch_header.clone()),
                            _ => None,
                        });
                        let batch_header = batch_header.expect("it came in a part");
                        tested.durable(Record::Moved(BatchPart { batch_header, messages: vec![message] }));
                    }
                }
                Op::Durable => for record in std::mem::take(&mut tested.pending) {
                    model.apply(&record);
                    tested.durable(record);
                },
                Op::Refuse => for record in std::mem::take(&mut tested.pending) {
                    match record {
                        Record::Settle(settle) => {
                            tested.shard.mailboxes.settle_refused(&settle);
                            model.refused(&settle.sequences);
                        }
                        Record::Revive(revive) => {
                            tested.shard.mailboxes.revive_refused(&revive);
                            model.refused(&revive.sequences);
                        }
                        Record::Dead(dead) => {
                            if !dead.is_again {
                                model.dying.splice(..0, dead.letters.iter().map(|letter| letter.sequence));
                            }
                            tested.shard.mailboxes.death_refused(dead);
                        }
                        other => panic!("{other:?} is never refused here"),
                    }
                },
                Op::Reset(mailbox) => {
                    tested.shard.mailboxes.reset(inbox(mailbox), None, model.now_us, model.now_ms);
                    model.reset(mailbox);
                }
                Op::Pass(later) => {
                    // Milliseconds, and now and then the time that a consumer may sit on a message.
                    model.now_us += if later % 5 == 0 { PROBE_HOLD_US } else { u64::from(later) % 3_000 };
                    tested.shard.mailboxes.pass(model.now_us);
                    model.pass();
                }
                Op::Expire(later_ms) => {
                    model.now_ms += u64::from(later_ms) % 1_500;
                    for settle in tested.shard.mailboxes.expire(model.now_ms, 100) {
                        for sequence in &settle.sequences {
                            let known = model.messages.get_mut(sequence).unwrap();
                            prop_assert!(known.is_over(model.now_ms) && !std::mem::replace(&mut known.is_settling, true));
                        }
                        tested.pending.push(Record::Settle(settle));
                    }
                    prop_assert!(model.messages.values().all(|known| known.is_settling || !known.is_over(model.now_ms)));
                }
                Op::Restart => {
                    tested.restart();
                    model.restart();
                }
            }
            // What is to die goes to the log at once, but for those that were refused: again with the next.
            let mut dying = Vec::new();
            while let Some(dead) = tested.shard.mailboxes.next_death() {
                if !dead.is_again {
                    dying.extend(dead.letters.iter().map(|letter| letter.sequence));
                }
                tested.pending.push(Record::Dead(dead));
            }
            let mut expected = std::mem::take(&mut model.dying);
            expected.sort_unstable();
            dying.sort_unstable();
            prop_assert_eq!(dying, expected);
            for mailbox in 0..INBOXES {
                let (id, mailboxes) = (inbox(mailbox), &tested.shard.mailboxes);
                prop_assert_eq!(mailboxes.queued_messages(id), model.sequences(mailbox).len() as u64);
                let dead = |known: &Known| known.at == Where::Dead;
                let dead: Vec<u64> = model.of(mailbox).filter(|(_, known)| dead(known)).map(|(sequence, _)| sequence).collect();
                let listed = mailboxes.dead_letters(id, 0, usize::MAX).into_iter().map(|listed| listed.letter.sequence);
                prop_assert_eq!(listed.collect::<Vec<_>>(), dead);
                let handed_out = model.of(mailbox).filter(|(_, known)| matches!(known.at, Where::HandedOut(_))).count();
                prop_assert_eq!(mailboxes.handed_out_messages(id), handed_out);
            }
            let delayed = model.messages.values().filter(|known| matches!(known.at, Where::Delayed(_))).count();
            prop_assert_eq!(tested.shard.mailboxes.delayed_messages(), delayed);
            prop_assert_eq!(tested.shard.mailboxes.messages(), model.messages.len() as u64);
            prop_assert!(tested.shard.mailboxes.cold.next_read().is_none());
        }
    }
}
