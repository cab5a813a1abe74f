//! A node that is stopped again and again, by kill and by loss of power, against a model that remembers every promise.
//!
//! `CRETO_SEED=7 cargo test -p creto-store --test log crash` repeats one seed; `CRETO_SEEDS=100000` runs that many.

use std::collections::BTreeMap;

use bytes::Bytes;
use creto_store::{
    DedupConfig, MailboxId, MailboxesConfig, MessageFlags, MessageId, PartMessage, Priority, Record, SenderId,
};

use crate::backup::Backup;
use crate::disk::{Crash, Disk, Random};
use crate::node::{Node, small_config};

#[test]
fn nothing_acknowledged_is_lost_and_order_is_kept() {
    let mut seen = Seen::default();
    for seed in seeds(400) {
        println!("seed {seed}");
        let run = Run::new(seed, false).go().unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        seen.add(&run);
    }
    // A run that compared nothing proves nothing.
    assert!(
        seen.acknowledged > 1000 && seen.recovered > 1000 && seen.trims > 10 && seen.moved > 100,
        "vacuous: {seen:?}"
    );
    assert!(seen.deaths > 100 && seen.deaths_again > 20 && seen.revived > 20, "vacuous: {seen:?}");
    assert!(seen.groups_ahead > 1000, "vacuous: {seen:?}");
    assert!(seen.backups > 100 && seen.backups_held_back > 20, "vacuous: {seen:?}");
    assert!(seen.digests_used > 100 && seen.digests_refused > 20, "vacuous: {seen:?}");
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    let mut broken = (0..200).filter_map(|seed| Run::new(seed, true).go().err());
    let broken = broken.find(|broken| broken.contains("is lost"));
    let broken = broken.expect("the planted bug must be found within 200 seeds");
    println!("caught: {broken}");
}

fn seeds(count: u64) -> Vec<u64> {
    let read = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    match read("CRETO_SEED") {
        Some(seed) => vec![seed],
        None => (0..read("CRETO_SEEDS").unwrap_or(count)).collect(),
    }
}

#[derive(Debug, Default, Clone)]
struct Seen {
    acknowledged: u64,
    recovered: u64,
    trims: u64,
    moved: u64,
    digests_used: usize,
    digests_refused: usize,
    /// Messages that died, whose death was written again, and that live again.
    deaths: u64,
    deaths_again: u64,
    revived: u64,
    /// Steps at which full groups were on their way beside as many writes as usual.
    groups_ahead: u64,
    backups: u64,
    /// Those that kept files from being reused.
    backups_held_back: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.recovered += other.recovered;
        self.trims += other.trims;
        self.moved += other.moved;
        self.digests_used += other.digests_used;
        self.digests_refused += other.digests_refused;
        self.deaths += other.deaths;
        self.deaths_again += other.deaths_again;
        self.revived += other.revived;
        self.groups_ahead += other.groups_ahead;
        self.backups += other.backups;
        self.backups_held_back += other.backups_held_back;
    }
}

struct Run {
    random: Random,
    disk: Disk,
    now_ms: u64,
    acknowledges_before_sync: bool,
    writes_in_flight_max: usize,
    next_message: u64,
    promises: Promises,
    /// Of its own, so that backups change nothing else about a seed.
    backup_random: Random,
    backup: Option<Backup>,
    death_random: Random,
    seen: Seen,
}

/// What the node said about messages.
#[derive(Clone, Default)]
struct Promises {
    /// Appended in this life and not known durable.
    unacknowledged: Vec<PartMessage>,
    /// Acknowledged and not asked to be settled, by sequence.
    acknowledged: BTreeMap<u64, PartMessage>,
    /// Acknowledged, and a settle was asked for: may be there or not, until the settle is durable.
    settling: BTreeMap<u64, PartMessage>,
    /// Those of all these that are dead letters, or are about to become or to have been ones.
    dead: BTreeMap<u64, Death>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Death {
    /// Its record is not known durable.
    Begun,
    Durable,
    /// A record that takes it back is not known durable.
    TakenBack,
}

impl Run {
    fn new(seed: u64, acknowledges_before_sync: bool) -> Self {
        let mut random = Random(seed);
        let writes_in_flight_max = 1 + random.below(4);
        Self {
            random,
            disk: Disk::default(),
            now_ms: 1_700_000_000_000,
            acknowledges_before_sync,
            writes_in_flight_max,
            next_message: 0,
            promises: Promises::default(),
            backup_random: Random(!seed),
            backup: None,
            death_random: Random(seed.rotate_left(7)),
            seen: Seen::default(),
        }
    }

    fn go(mut self) -> Result<Seen, String> {
        for _life in 0..6 {
            let config = small_config(self.writes_in_flight_max);
            let nonce = self.random.next();
            let started = Node::start(&mut self.disk, config, mailboxes_config(), nonce, self.now_ms);
            let (mut node, records) = started.map_err(|error| error.to_string())?;
            self.seen.digests_used += node.digest_use.used;
            self.seen.digests_refused += node.digest_use.refused.len();
            let promised = self.promises.clone();
            self.check_recovered(&mut node, &records)?;
            node.acknowledges_before_sync = self.acknowledges_before_sync;
            for _ in 0..self.random.below(400) {
                self.step(&mut node)?;
                self.die_or_live(&mut node);
                self.back_up(&mut node)?;
            }
            // A hold does not outlive its process, and what was copied so far is no backup.
            self.backup = None;
            // What recovery read is proven durable only by a finished start: before it nobody was told.
            if !node.wal.is_started() {
                self.promises = promised;
            }
            let how = if self.random.one_in(2) { Crash::Kill } else { Crash::Power };
            node.crash(&mut self.disk, how, &mut self.random);
            if self.random.one_in(3) {
                self.disk.damage_digest(&mut self.random);
            }
        }
        Ok(self.seen)
    }

    fn step(&mut self, node: &mut Node) -> Result<(), String> {
        self.now_ms += 1;
        match self.random.below(14) {
            0..3 => {
                node.next_action(&mut self.disk, self.now_ms);
            }
            3..5 => node.write(&mut self.disk, &mut self.random),
            5..7 => node.sync(&mut self.disk, &mut self.random),
            7..9 => self.submit(node),
            9 => self.settle_one(node),
            10 => {
                let before = node.wal.log_start();
                node.trim();
                self.seen.trims += u64::from(node.wal.is_trimming() && before == node.wal.log_start());
            }
            11..13 => self.seen.moved += node.clean(&mut self.disk) as u64,
            _ => match self.random.below(4) {
                0 => node.wal.confirm(),
                1 => self.disk.land_late(&mut self.random),
                2 => self.resubmit(node)?,
                _ => node.settle_down(&mut self.disk, &mut self.random, self.now_ms),
            },
        }
        let under_way = node.issued.len() + node.written.len();
        self.seen.groups_ahead += u64::from(under_way > self.writes_in_flight_max);
        self.take_durable(node)
    }

    /// Now and then a message dies, or lives again.
    fn die_or_live(&mut self, node: &mut Node) {
        if !node.wal.is_started() || !self.death_random.one_in(10) {
            return;
        }
        let Promises { acknowledged, dead, .. } = &mut self.promises;
        if self.death_random.one_in(3) {
            let mut durable = dead
                .iter_mut()
                .filter(|(sequence, death)| **death == Death::Durable && acknowledged.contains_key(sequence));
            if let Some((sequence, death)) = durable.next_back()
                && node.revive(&acknowledged[sequence])
            {
                *death = Death::TakenBack;
            }
            return;
        }
        let mut alive = acknowledged.values().filter(|message| !dead.contains_key(&message.sequence));
        let skip = self.death_random.below(8);
        if let Some(message) = alive.nth(skip) {
            node.reject(&mut self.disk, message, self.now_ms);
            dead.insert(message.sequence, Death::Begun);
        }
    }

    /// Now and then begins a backup, and goes on with the one that was begun.
    fn back_up(&mut self, node: &mut Node) -> Result<(), String> {
        if self.acknowledges_before_sync {
            return Ok(());
        }
        match self.backup.take() {
            None if self.backup_random.one_in(30) => {
                let queued = self.promises.acknowledged.iter().chain(&self.promises.settling);
                let queued = queued.map(|(&sequence, message)| (sequence, message.clone())).collect();
                self.backup = Backup::begin(node, queued);
            }
            Some(mut backup) if self.backup_random.one_in(12) => {
                if backup.copy_one(&mut self.disk) {
                    self.seen.backups += 1;
                    self.seen.backups_held_back += u64::from(node.wal.held_back_bytes() > 0);
                    node.wal.let_go();
                    backup.check(&mut self.backup_random)?;
                } else {
                    self.backup = Some(backup);
                }
            }
            backup => self.backup = backup,
        }
        Ok(())
    }

    fn submit(&mut self, node: &mut Node) {
        if !node.wal.is_started() {
            return;
        }
        let count = 1 + self.random.below(5);
        let messages = (0..count).map(|_| self.message()).collect();
        self.promises.unacknowledged.extend(node.submit(messages, self.now_ms));
    }

    /// Sends acknowledged messages again, settled or not: none may be new.
    fn resubmit(&mut self, node: &mut Node) -> Result<(), String> {
        if !node.wal.is_started() {
            return Ok(());
        }
        let known: Vec<_> =
            self.promises.acknowledged.values().chain(self.promises.settling.values()).cloned().collect();
        for message in known.into_iter().rev().take(3) {
            if !node.submit(vec![message.clone()], self.now_ms).is_empty() {
                return Err(format!("message {} was admitted twice", message.message_id));
            }
        }
        Ok(())
    }

    fn settle_one(&mut self, node: &mut Node) {
        if !node.wal.is_started() {
            return;
        }
        // Mostly the oldest, so that segments become free.
        let skip = if self.random.one_in(4) { self.random.below(self.promises.acknowledged.len().max(1)) } else { 0 };
        for _ in 0..4 {
            let Some(message) = self.promises.acknowledged.values().nth(skip).cloned() else { return };
            if node.settle(&message).is_some() {
                self.promises.acknowledged.remove(&message.sequence);
                self.promises.settling.insert(message.sequence, message);
            }
        }
    }

    fn take_durable(&mut self, node: &mut Node) -> Result<(), String> {
        while let Some(durable) = node.wal.next_durable() {
            node.mailboxes.apply(durable.clone());
            match durable.record {
                Record::BatchPart(part) => {
                    for message in part.messages {
                        if self.promises.unacknowledged.is_empty() || self.promises.unacknowledged.remove(0) != message
                        {
                            return Err("records became durable out of order".into());
                        }
                        self.seen.acknowledged += 1;
                        self.promises.acknowledged.insert(message.sequence, message);
                    }
                }
                Record::Settle(settle) => {
                    for sequence in settle.sequences {
                        self.promises.dead.remove(&sequence);
                        self.promises.settling.remove(&sequence).ok_or("settled what nobody asked for")?;
                    }
                }
                Record::Moved(part) => {
                    for message in part.messages {
                        let known = self.promises.acknowledged.get(&message.sequence);
                        let known = known.or_else(|| self.promises.settling.get(&message.sequence));
                        if known != Some(&message) {
                            let id = message.message_id;
                            return Err(format!("message {id} was moved as another one, or when it was settled"));
                        }
                    }
                }
                Record::Dead(dead) => {
                    for letter in dead.letters {
                        let before = self.promises.dead.insert(letter.sequence, Death::Durable);
                        match (before, dead.is_again) {
                            (Some(Death::Begun), false) => self.seen.deaths += 1,
                            (Some(Death::Durable), true) => self.seen.deaths_again += 1,
                            // Written again, then taken back; this was appended first.
                            (Some(Death::TakenBack), true) => {
                                self.promises.dead.insert(letter.sequence, Death::TakenBack);
                            }
                            before => return Err(format!("message {} died: {before:?}", letter.sequence)),
                        }
                    }
                }
                Record::Revive(revive) => {
                    for sequence in revive.sequences {
                        let before = self.promises.dead.remove(&sequence);
                        if before != Some(Death::TakenBack) {
                            return Err(format!("message {sequence} lives again: {before:?}"));
                        }
                        self.seen.revived += 1;
                    }
                }
                Record::Dedup(_) | Record::Start(_) => {}
                Record::Subscribe(_) | Record::Unsubscribe(_) | Record::Cursors(_) | Record::Subscriptions(_) => {
                    return Err("nobody subscribed".into());
                }
                Record::Notice(_) => return Err("nobody made a notice".into()),
            }
        }
        Ok(())
    }

    /// What the mailboxes hold after recovery must be what was promised before.
    fn check_recovered(&mut self, node: &mut Node, records: &[(creto_store::Position, Record)]) -> Result<(), String> {
        if !records.is_sorted_by_key(|(position, _)| *position) {
            return Err("recovery hands out records out of order".into());
        }
        let mut queued: BTreeMap<u64, PartMessage> = BTreeMap::new();
        for mailbox in 0..MAILBOXES {
            let deliveries = node.deliveries(&mut self.disk, mailbox_id(mailbox), self.now_ms);
            let order = |delivery: &creto_store::Delivery| {
                (std::cmp::Reverse(delivery.message.priority), delivery.message.sequence)
            };
            if !deliveries.is_sorted_by_key(order) {
                return Err("recovered messages are out of order".into());
            }
            for delivery in &deliveries {
                match self.promises.dead.get(&delivery.message.sequence) {
                    Some(Death::Durable) => {
                        return Err(format!("dead message {} is delivered", delivery.message.message_id));
                    }
                    // Its death was not known durable, or that it lives again was.
                    _ => drop(self.promises.dead.remove(&delivery.message.sequence)),
                }
            }
            queued.extend(deliveries.into_iter().map(|delivery| (delivery.message.sequence, delivery.message)));
            for listed in node.mailboxes.dead_letters(mailbox_id(mailbox), 0, usize::MAX) {
                let sequence = listed.letter.sequence;
                let death = self.promises.dead.get_mut(&sequence);
                *death.ok_or(format!("message {sequence} is dead, and nothing killed it"))? = Death::Durable;
                let message = node.letter(&mut self.disk, mailbox_id(mailbox), sequence);
                queued.insert(sequence, message.ok_or(format!("dead letter {sequence} cannot be read"))?);
            }
            node.mailboxes.reset(mailbox_id(mailbox), None, 0, self.now_ms);
        }
        self.seen.recovered += queued.len() as u64;
        for message in self.promises.acknowledged.values() {
            if queued.remove(&message.sequence).as_ref() != Some(message) {
                return Err(format!("acknowledged message {} is lost", message.message_id));
            }
        }
        // A settle that was not known durable may have happened or not.
        for (sequence, message) in std::mem::take(&mut self.promises.settling) {
            match queued.remove(&sequence) {
                Some(found) if found == message => {
                    self.promises.acknowledged.insert(sequence, message);
                }
                Some(_) => return Err("a settling message changed".into()),
                None => {}
            }
        }
        // What was appended and never acknowledged: a prefix of it may be there.
        let mut may_follow = true;
        for message in std::mem::take(&mut self.promises.unacknowledged) {
            match queued.remove(&message.sequence) {
                Some(found) if found == message && may_follow => {
                    self.promises.acknowledged.insert(message.sequence, message);
                }
                Some(_) => return Err("an unacknowledged message survived the one before it".into()),
                None => may_follow = false,
            }
        }
        self.promises.dead.retain(|sequence, _| self.promises.acknowledged.contains_key(sequence));
        match queued.values().next() {
            Some(message) => Err(format!("message {} came from nowhere", message.message_id)),
            None => Ok(()),
        }
    }

    fn message(&mut self) -> PartMessage {
        self.next_message += 1;
        let mut id = [0; 16];
        id[..6].copy_from_slice(&self.now_ms.to_be_bytes()[2..]);
        id[8..].copy_from_slice(&self.next_message.to_be_bytes());
        let envelope_bytes = [30, 700, 3000][self.random.below(3)];
        let fill = self.random.next() as u8;
        PartMessage {
            mailbox: mailbox_id(self.random.below(MAILBOXES)),
            sender: SenderId([self.random.below(3) as u8 + 1; 16]),
            message_id: MessageId(id),
            sequence: 0,
            expiry_ms: 0,
            leaf_index: 1,
            priority: Priority::from_byte(self.random.below(4) as u8).unwrap(),
            flags: MessageFlags::NONE,
            salt: [fill; 16],
            path: Bytes::from(vec![fill; 64]),
            envelope: Bytes::from(vec![fill; envelope_bytes]),
        }
    }
}

const MAILBOXES: usize = 4;

fn mailbox_id(index: usize) -> MailboxId {
    MailboxId([index as u8; 16])
}

pub(crate) fn mailboxes_config() -> MailboxesConfig {
    MailboxesConfig {
        dedup: DedupConfig { sender_ids_max: 3000, ..DedupConfig::default() },
        ..MailboxesConfig::default()
    }
}
