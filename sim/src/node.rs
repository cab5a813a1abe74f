//! The node: its shards and the driver around them, from start to stop. The driver keeps the contract of `creto-shard` and
//! `creto-store`, except where a bug is planted.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use creto_envelope::deliver::Deliver;
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::notice::Notice;
use creto_envelope::submit::SubmitAck;
use creto_envelope::{AgentId, FrameHeader, FrameType, RejectCode};
use creto_shard::limits::ConnectionLimits;
use creto_shard::{
    Action, ConnectionId, Event, KeyRefused, Log, Placement, Scratch, Shard, ShardIndex, ShardMessage, StreamId,
    VerifyJob,
};
use creto_store::{Action as DiskAction, Mailboxes, ReadProblemKind, Record, RecoveryError, Wal, recover};

use crate::checkers::{Replayed, has_refused_for_room};
use crate::disk::{Crash, DiskSource};
use crate::fault::Fault;
use crate::model::{Checked, Rule, broken};
use crate::network::{LinkNumber, Packet, SUBMIT, code_of};
use crate::patterns;
use crate::patterns::messages::is_signal;
use crate::planted::PlantedBug;
use crate::pool::{AGENTS, Recipient, aligned};
use crate::strike::StrikeKind;
use crate::world::{Step, World, rests_empty};

const TICK_US: u64 = 100_000;
/// One in so many acknowledgements is checked against a recovery from the durable image alone.
const AUDIT_ONE_IN: u64 = 32;

#[derive(Debug)]
pub(crate) struct Node {
    /// Counts the starts: what is due for an earlier one is void.
    pub(crate) life: u32,
    pub(crate) is_up: bool,
    /// Clients are let in: every shard's log has started, or the shards themselves hold back what comes before.
    pub(crate) is_serving: bool,
    pub(crate) is_draining: bool,
    /// Every shard has drained; their logs come to their ends.
    is_sealing: bool,
    pub(crate) shards: Vec<Shard>,
    /// Messages between shards, by from * count + to.
    rings: Vec<Ring>,
    /// Batches at the crypto workers.
    jobs: BTreeMap<u64, VerifyJob>,
    next_job: u64,
    /// Key records that control was asked for.
    questions: BTreeMap<u64, (AgentId, u32)>,
    next_question: u64,
    turn_is_due: Vec<bool>,
    /// The last turn that was put off to a time that the shard named.
    deadlines_us: Vec<Option<u64>>,
    fenced_at_us: Vec<Option<u64>>,
    /// The log has started, and the subscriptions that it brought back were looked at.
    is_looked_at: Vec<bool>,
}

#[derive(Debug, Default)]
struct Ring {
    messages: VecDeque<ShardMessage>,
    last_arrival_us: u64,
}

impl Node {
    pub(crate) fn off(shard_count: usize) -> Self {
        Self {
            life: 0,
            is_up: false,
            is_serving: false,
            is_draining: false,
            is_sealing: false,
            shards: Vec::new(),
            rings: (0..shard_count * shard_count).map(|_| Ring::default()).collect(),
            jobs: BTreeMap::new(),
            next_job: 0,
            questions: BTreeMap::new(),
            next_question: 0,
            turn_is_due: vec![false; shard_count],
            deadlines_us: vec![None; shard_count],
            fenced_at_us: vec![None; shard_count],
            is_looked_at: vec![false; shard_count],
        }
    }
}

impl World<'_> {
    /// Recovers every log and starts the shards on them.
    pub(crate) fn boot(&mut self) -> Checked {
        let (count, now) = (self.profile.shard_count, self.clock.now());
        let life = self.node.life;
        self.note(|| format!("the node starts (life {life})"));
        if self.random.one_in(self.profile.failed_read_one_in) {
            return self.boot_fails();
        }
        let mut shards = Vec::new();
        for shard in 0..count {
            self.check_damage(shard)?;
            self.damage_digests(shard);
            self.check_rot(shard)?;
            let nonce = self.random.bits();
            let mut mailboxes = Mailboxes::new(self.profile.mailboxes.clone(), [nonce, !nonce]);
            let mut replayed = Replayed::default();
            let mut checked = Ok(());
            let mut records = Vec::new();
            let reads_left = self.reads_left();
            let mut source = DiskSource { reads_left, ..DiskSource::new(&self.disks[shard]) };
            let recovered = recover(&mut source, shard_u32(shard), |position, record| {
                records.push((position, record.clone()));
                if checked.is_ok() {
                    checked = replayed.take(self.pool, &record);
                }
                let is_forgotten = match self.planted {
                    Some(PlantedBug::ForgetDedupOnRestart) => matches!(record, Record::Dedup(_)),
                    Some(PlantedBug::LostSettle) => matches!(record, Record::Settle(_)),
                    _ => false,
                };
                if !is_forgotten {
                    mailboxes.note(position, record.noted(position));
                }
            });
            mailboxes.recovered();
            checked?;
            self.model.tally.recovery_reads += source.reads;
            if source.has_failed {
                self.faults.add(Fault::FailedRead);
                return self.boot_failed(&recovered.map(drop));
            }
            let has_lied = self.disks[shard].has_lied;
            // Frames without messages may be lost, too: their numbers are given again.
            let durable_through = self.model.ledgers[shard].durable_through();
            let is_shorter = recovered.as_ref().is_ok_and(|found| found.end_lsn().0 < durable_through);
            if has_lied && (!self.survives_lies(shard, &recovered, &replayed)? || is_shorter) {
                self.is_over = true;
                return Ok(());
            }
            let recovered = match recovered {
                Ok(recovered) => recovered,
                Err(error) => {
                    return broken(Rule::NothingAcknowledgedIsLost, format!("shard {shard} cannot start: {error}"));
                }
            };
            if !has_lied {
                self.check_digests(shard, &records)?;
            }
            self.note(|| format!("shard {shard} recovers {} records, {recovered:?}", replayed.records));
            self.model.restarts(shard);
            self.model.recovered(shard, &replayed)?;
            if self.planted != Some(PlantedBug::LostSettle) {
                self.model.mailboxes_filled(shard, &replayed, &mailboxes)?;
                self.model.dead_filled(shard, self.pool, &replayed, &mailboxes)?;
            }
            let wal = Wal::open(self.profile.wal.clone(), recovered, nonce, now.unix_ms);
            let index = ShardIndex(u16::try_from(shard).expect("a handful of shards"));
            let placement = Placement::new(u16::try_from(count).expect("a handful of shards"));
            let log = Log::new(wal, mailboxes);
            let limits = ConnectionLimits::default();
            let shard = Shard::with_decision_entries(index, placement, limits, log, 64);
            shards.push(match self.profile.at_workers_max {
                Some(at_workers_max) => shard.with_workers(at_workers_max),
                None => shard,
            });
        }
        self.node = Node { life, is_up: true, shards, ..Node::off(count) };
        self.node.is_serving = self.profile.lets_in_early;
        self.channels.starts(self.clock.now_us());
        for shard in 0..count {
            self.shard_event(shard, Event::Snapshot(self.channels.snapshot(self.pool)))?;
            self.clock.after(TICK_US, Step::Tick { life, shard });
        }
        Ok(())
    }

    /// The disk cannot be read just now: recovery must say so, and must not take a part for the whole.
    fn boot_fails(&mut self) -> Checked {
        self.faults.add(Fault::FailedRead);
        let shard = self.random.index(self.profile.shard_count);
        let reads_left = Some(self.random.below(6));
        let mut source = DiskSource { reads_left, ..DiskSource::new(&self.disks[shard]) };
        let outcome = recover(&mut source, shard_u32(shard), |_, _| {});
        // It needed no more reads than there were, or it says what happened.
        match source.has_failed {
            true => self.boot_failed(&outcome.map(drop)),
            false => self.boot_failed(&Ok(())),
        }
    }

    /// A recovery that could not read has said so; the node is started again.
    fn boot_failed(&mut self, outcome: &Result<(), RecoveryError>) -> Checked {
        if !matches!(outcome, Ok(()) | Err(RecoveryError::Source(_))) {
            return broken(Rule::NothingAcknowledgedIsLost, format!("a failed read became {outcome:?}"));
        }
        let delay_us = self.random.between(1_000, 20_000);
        self.clock.after(delay_us, Step::Boot { life: self.node.life });
        Ok(())
    }

    /// How many more reads of recoveries succeed, if one is to fail.
    fn reads_left(&self) -> Option<u64> {
        let strike = self.strike.filter(|strike| strike.kind == StrikeKind::FailedRead)?;
        strike.at.checked_sub(1)?.checked_sub(self.model.tally.recovery_reads)
    }

    /// The node stops between two steps, and starts again later.
    pub(crate) fn crash(&mut self, how: Crash) {
        if !self.node.shards.iter().all(Shard::is_started) {
            self.faults.add(Fault::InterruptedStart);
        }
        self.stop(how);
        let delay_us = self.random.between(1_000, 40_000);
        self.clock.after(delay_us, Step::Boot { life: self.node.life });
    }

    fn stop(&mut self, how: Crash) {
        self.note(|| format!("the node stops: {how:?}"));
        for shard in 0..self.profile.shard_count {
            self.with_disk(shard, |disk, _, chance| disk.crash(how, chance));
        }
        self.count_read_back();
        // Whoever was refused for the clock, and has not heard of it, sends the same again behind what was taken since.
        self.model.refused_for_room |= self.model.clock_was_far_off();
        for (shard, state) in self.node.shards.iter().enumerate() {
            self.model.stops(shard, state.log().mailboxes());
        }
        self.node = Node { life: self.node.life + 1, ..Node::off(self.profile.shard_count) };
        self.channels.stops();
        for link in 0..self.links.len() {
            if std::mem::take(&mut self.links[link].node_side.is_open) {
                self.links[link].node_side.gone_us = self.clock.now_us();
                let delay_us = self.delay(self.profile.network_us * 2);
                self.clock.after(delay_us, Step::ClientGone { link });
            }
        }
    }

    /// Takes what the shards of this life have counted into the tally.
    fn count_read_back(&mut self) {
        let counted = self.node.shards.iter().map(|shard| shard.counters().messages_read_back);
        self.model.tally.read_back += counted.sum::<u64>();
        self.model.notices.refused_before += self.notices_refused();
    }

    /// Notices that the shards of this life said they could not give.
    pub(crate) fn notices_refused(&self) -> u64 {
        self.node.shards.iter().map(|shard| shard.log().notices_refused() + shard.counters().messages_unreadable).sum()
    }

    /// A shard is fenced, or cannot read: somebody looks at it and starts the node again, unless it is about to end by itself.
    pub(crate) fn operator_restarts(&mut self) -> Checked {
        if self.is_finishing && self.node.is_draining {
            return Ok(());
        }
        let how = if self.random.one_in(3) { Crash::Power } else { Crash::Kill };
        self.crash(how);
        Ok(())
    }

    pub(crate) fn shard_event(&mut self, shard: usize, event: Event) -> Checked {
        let now = self.clock.now();
        let mut actions = Vec::new();
        self.node.shards[shard].apply(now, event, &mut actions);
        self.turn_later(shard);
        self.carry_out(shard, actions)
    }

    fn turn_later(&mut self, shard: usize) {
        if !std::mem::replace(&mut self.node.turn_is_due[shard], true) {
            let delay_us = self.random.between(1, 60);
            self.clock.after(delay_us, Step::Turn { life: self.node.life, shard });
        }
    }

    pub(crate) fn end_turn(&mut self, shard: usize) -> Checked {
        self.node.turn_is_due[shard] = false;
        if self.channels.is_on && self.node.shards[shard].is_started() && !self.node.is_looked_at[shard] {
            self.node.is_looked_at[shard] = true;
            let mailboxes = self.node.shards[shard].log().mailboxes();
            self.model.subscriptions_are_recovered(self.pool, shard, self.profile.shard_count, mailboxes)?;
        }
        let mut actions = Vec::new();
        self.node.shards[shard].end_turn(self.clock.now(), &mut actions);
        if self.node.shards[shard].has_work() {
            self.turn_later(shard);
        } else if let Some(deadline_us) = self.node.shards[shard].next_deadline_us()
            && self.node.deadlines_us[shard].replace(deadline_us) != Some(deadline_us)
        {
            let delay_us = deadline_us.saturating_sub(self.clock.now().monotonic_us);
            self.clock.after(delay_us, Step::Turn { life: self.node.life, shard });
        }
        self.model.refused_for_room |= has_refused_for_room(&self.node.shards[shard]);
        self.carry_out(shard, actions)?;
        if !self.node.is_serving && self.node.shards.iter().all(Shard::is_started) {
            self.note(|| "the node serves".to_owned());
            self.node.is_serving = true;
        }
        if self.node.is_draining && !self.node.is_sealing && self.node.shards.iter().all(Shard::is_drained) {
            self.note(|| "the node has drained".to_owned());
            self.node.is_sealing = true;
            (0..self.profile.shard_count).try_for_each(|shard| self.shard_event(shard, Event::Seal))?;
        }
        if self.node.is_sealing && self.node.shards.iter().all(Shard::is_sealed) {
            self.sealed()?;
        }
        Ok(())
    }

    fn sealed(&mut self) -> Checked {
        self.note(|| "the logs are sealed".to_owned());
        let life = self.node.life;
        if self.is_finishing {
            // Nobody is connected any more, and nothing is left.
            for link in 0..self.links.len() {
                if self.links[link].life == life {
                    self.node_gone(link)?;
                }
            }
            // What an agent gave up may have arrived after all when everything had come to rest.
            let has_given_up = self.model.tally.refused_for_the_clock > 0;
            for shard in (0..self.profile.shard_count).filter(|_| !has_given_up) {
                rests_empty(shard, &self.node.shards[shard])?;
            }
        }
        self.stop(Crash::Kill);
        let delay_us = self.random.between(1_000, 40_000);
        self.clock.after(delay_us, Step::Boot { life: self.node.life });
        Ok(())
    }

    pub(crate) fn tick(&mut self, shard: usize) -> Checked {
        self.clock.after(TICK_US, Step::Tick { life: self.node.life, shard });
        self.shard_event(shard, Event::Tick)
    }

    pub(crate) fn ring_arrives(&mut self, from: usize, to: usize) -> Checked {
        let messages = &mut self.node.rings[from * self.profile.shard_count + to].messages;
        let place = match self.planted {
            Some(PlantedBug::Reorder) => self.random.index(messages.len()),
            _ => 0,
        };
        let message = messages.remove(place).expect("every message of a ring arrives once");
        let from = ShardIndex(u16::try_from(from).expect("a handful of shards"));
        self.shard_event(to, Event::FromShard { from, message })
    }

    /// Verdicts come in any order: workers do not wait for each other.
    pub(crate) fn verdict_arrives(&mut self, shard: usize, job: u64) -> Checked {
        let job = self.node.jobs.remove(&job).expect("every job is done once");
        self.shard_event(shard, Event::Verified(job.run(&mut Scratch::default())))
    }

    /// Control answers once, sometimes only that it cannot read now.
    pub(crate) fn key_record_arrives(&mut self, shard: usize, question: u64) -> Checked {
        let (agent, version) = self.node.questions.remove(&question).expect("every question is answered once");
        let is_busy = self.control_random.one_in(self.profile.busy_control_one_in);
        let answer = match is_busy {
            true => {
                self.faults.add(Fault::BusyControl);
                Err(KeyRefused { code: RejectCode::Overloaded, retry_after_ms: 1_000 })
            }
            false => Ok(self.pool.key_record(&agent, version)),
        };
        self.note(|| format!("control answers shard {shard}: version {version} of agent {agent}, busy: {is_busy}"));
        self.shard_event(shard, Event::KeyRecordAnswered { agent, version, answer })
    }

    fn carry_out(&mut self, shard: usize, actions: Vec<Action>) -> Checked {
        let life = self.node.life;
        for action in actions {
            match action {
                Action::Send { connection, stream, frames } => {
                    self.send_to_client(shard, connection, stream, frames)?
                }
                Action::Close { connection, code } => self.close(connection, code)?,
                Action::ToShard { to, message } => {
                    self.check_ring(shard, &message)?;
                    self.check_pushed_signals(shard, &message)?;
                    let (from, to) = (shard, usize::from(to.0));
                    let arrival_us = self.clock.now_us() + self.random.between(1, 80);
                    let ring = &mut self.node.rings[from * self.profile.shard_count + to];
                    ring.last_arrival_us = ring.last_arrival_us.max(arrival_us);
                    ring.messages.push_back(message);
                    self.clock.at(ring.last_arrival_us, Step::Ring { life, from, to });
                }
                Action::Disk(action) => self.begin_disk_action(shard, action),
                Action::Verify(verify) => {
                    let job = self.node.next_job;
                    self.node.next_job += 1;
                    self.node.jobs.insert(job, verify);
                    let delay_us = self.random.between(1, 400);
                    self.clock.after(delay_us, Step::Verdict { life, shard, job });
                }
                Action::Fenced { cause } => {
                    self.note(|| format!("shard {shard} is fenced: {cause}"));
                    self.model.is_fenced(shard);
                    self.node.fenced_at_us[shard] = Some(self.clock.now_us());
                    let delay_us = self.random.between(1_000, 60_000);
                    self.clock.after(delay_us, Step::Operator { life });
                }
                Action::Unreadable { problem } => {
                    self.note(|| format!("shard {shard}: {problem}"));
                    // Damage is made on copies only: what the node reads back is what it wrote.
                    if !matches!(problem.kind, ReadProblemKind::TriedAgain(_)) {
                        // Or what its drive made of it: then it is not served, and the mailbox waits for somebody.
                        if self.disks[shard].has_lied {
                            self.model.tally.lies_refused += 1;
                            self.is_over = true;
                            return Ok(());
                        }
                        // Or what came over a bad cable: it is not served, and an operator starts the node again.
                        if self.disks[shard].has_flipped_a_read {
                            self.model.tally.flips_noticed += 1;
                            if let Some(&number) = self.model.ledgers[shard].messages.get(&problem.sequence) {
                                self.model.fates[number].passed_over = true;
                            }
                            let delay_us = self.random.between(1_000, 60_000);
                            self.clock.after(delay_us, Step::Operator { life });
                            continue;
                        }
                        return broken(Rule::Content, format!("shard {shard}: {problem}"));
                    }
                }
                Action::AskKeyRecord { agent, version } => {
                    let question = self.node.next_question;
                    self.node.next_question += 1;
                    self.node.questions.insert(question, (agent, version));
                    let delay_us = self.control_random.between(1, 2_000);
                    self.clock.after(delay_us, Step::KeyRecord { life, shard, question });
                }
                Action::AskKeyLog { .. } => unreachable!("no simulated agent asks about the key log"),
                Action::AskChannel { .. } => unreachable!("no simulated agent asks for the record of a channel"),
                Action::Enrol { .. } => unreachable!("every simulated agent is registered"),
                Action::AskPrekeys { .. } => unreachable!("no simulated agent has prekeys"),
                Action::PublishKeyRecord { .. } => unreachable!("no simulated agent replaces its keys"),
                Action::Authenticated { .. } | Action::SetReading(_) => {}
                Action::Audit(_) => unreachable!("nobody follows these shards"),
            }
        }
        Ok(())
    }

    fn begin_disk_action(&mut self, shard: usize, action: DiskAction) {
        self.note(|| match &action {
            DiskAction::Write(write) => {
                let (id, segment, offset, bytes) = (write.id(), write.segment(), write.offset(), write.bytes());
                format!("disk {shard}: {id:?} writes {bytes} bytes at {offset} of segment {segment}")
            }
            other => format!("disk {shard}: {other:?}"),
        });
        let trims = match &action {
            DiskAction::Delete { .. } => self.node.shards[shard].is_started(),
            DiskAction::Prepare { recycle, .. } => recycle.is_some(),
            DiskAction::Write(_)
            | DiskAction::Shorten { .. }
            | DiskAction::WriteDigest { .. }
            | DiskAction::Read { .. } => false,
        };
        self.model.tally.trimmed_segments += u64::from(trims);
        self.model.tally.disk_actions += 1;
        let goes_ahead = self.disks[shard].writes_under_way() >= self.profile.wal.writes_in_flight_max;
        self.model.tally.groups_ahead += u64::from(goes_ahead && matches!(action, DiskAction::Write(_)));
        let is_struck = self.strike.is_some_and(|strike| strike.at == self.model.tally.disk_actions);
        let doom = match (&action, self.strike.map(|strike| strike.kind)) {
            (DiskAction::Write(_), Some(StrikeKind::FailedWrite)) => Some(Fault::FailedWrite),
            (DiskAction::Write(_), Some(StrikeKind::FailedSync)) => Some(Fault::FailedSync),
            (DiskAction::Prepare { .. }, Some(StrikeKind::FailedWrite)) => Some(Fault::NoSpace),
            (DiskAction::Read { .. }, Some(StrikeKind::FailedWrite | StrikeKind::FailedSync)) => {
                Some(Fault::FailedColdRead)
            }
            (_, Some(StrikeKind::FailedWrite | StrikeKind::FailedSync)) => Some(Fault::FailedFile),
            _ => None,
        };
        let doom = doom.filter(|_| is_struck);
        if self.profile.late_writes && self.random.one_in(4) {
            self.with_disk(shard, |disk, _, chance| disk.land_late(chance));
        }
        let (op, delay_us) = self.with_disk(shard, |disk, habits, chance| disk.begin(action, doom, habits, chance));
        self.clock.after(delay_us, Step::Disk { life: self.node.life, shard, op });
    }

    fn close(&mut self, connection: ConnectionId, code: RejectCode) -> Checked {
        let link = link_of(connection);
        self.note(|| format!("the node closes connection {link}: {}", code.name()));
        let agent = self.links[link].agent;
        let was_revoked = self.channels.is_on && self.channels.ever(|records| records.is_revoked(agent));
        if code != RejectCode::BadSignature && !(code == RejectCode::AgentRevoked && was_revoked) {
            return broken(Rule::RefusedForAReason, format!("connection {link} was closed: {}", code.name()));
        }
        self.links[link].node_side.is_open = false;
        self.link_is_gone(link);
        let delay_us = self.delay(self.profile.network_us);
        self.clock.after(delay_us, Step::ClientGone { link });
        Ok(())
    }

    fn send_to_client(&mut self, shard: usize, connection: ConnectionId, stream: StreamId, frames: Bytes) -> Checked {
        let link = link_of(connection);
        let lane = lane_of(stream);
        let mut rest = self.join_pieces(link, lane, frames);
        while !rest.is_empty() {
            let header = rest.first_chunk::<FRAME_HEADER_BYTES>().expect("a shard sends whole frames");
            let header = FrameHeader::parse(header).expect("a shard sends proper frames");
            let frame = rest.split_to(FRAME_HEADER_BYTES + header.body_bytes as usize);
            let body = aligned(&frame[FRAME_HEADER_BYTES..]);
            match header.frame_type {
                FrameType::SubmitAck => self.check_answer(link, &body)?,
                FrameType::Deliver => self.check_push(link, &body)?,
                FrameType::Notice => {
                    let notice = Notice::parse(&body).expect("a shard sends proper frames");
                    let agent = self.links[link].agent;
                    self.model.notice_pushed(self.pool, agent, notice.mailbox_sequence, &notice.body)?;
                }
                other if patterns::number_of(self.links[link].agent).is_some() => {
                    self.check_pattern_frame(shard, link, other, &body)?
                }
                other if self.links[link].agent >= AGENTS => self.check_channel_frame(shard, link, other, &body)?,
                other => self.check_letters(link, other, &body)?,
            }
            let earliest_us = self.clock.now_us() + self.delay(self.profile.network_us);
            let packet = Packet { frame_type: header.frame_type, body };
            let arrival_us = self.links[link].to_client[lane].send(packet, earliest_us);
            self.clock.at(arrival_us, Step::ClientFrame { link, stream: lane });
        }
        Ok(())
    }

    /// The moment at which a promise is made: it must be true already.
    fn check_answer(&mut self, link: LinkNumber, body: &[u8]) -> Checked {
        let ack = SubmitAck::parse(body).expect("a shard sends proper frames");
        let through = ack.through_sequence;
        self.note(|| format!("the node answers connection {link} through {through}: {:?}", ack.results));
        for result in ack.results {
            let results = self.links[link].node_side.results.entry(result.sequence).or_default();
            results.push((result.index, result.code));
        }
        let side = &mut self.links[link].node_side;
        let waiting = side.batches.split_off(&(through + 1));
        let answered = std::mem::replace(&mut side.batches, waiting);
        for (sequence, batch) in answered {
            let results = self.links[link].node_side.results.remove(&sequence).unwrap_or_default();
            for (index, number) in (0..).zip(batch.window.messages()) {
                let code = code_of(&results, index);
                let duplicate = RejectCode::Duplicate.as_u16();
                let owner = self.pool.owner(self.pool.messages[number].to, self.profile.shard_count);
                if is_signal(number) {
                    self.check_signal_answer(number, code)?;
                    continue;
                }
                match code {
                    None | Some(_) if batch.is_tampered && code.is_none_or(|code| code == duplicate) => {
                        return broken(Rule::Content, format!("a batch with message {number} was taken, changed"));
                    }
                    Some(_) if batch.is_tampered => {}
                    Some(code) if code != duplicate => {
                        let code = RejectCode::from_u16(code).expect("a shard sends known codes");
                        self.model.refused(number, code)?;
                    }
                    code => {
                        let since_fence = self.node.fenced_at_us[owner].is_some_and(|at_us| batch.arrived_us > at_us);
                        self.model.acknowledged(number, owner, code.is_some(), since_fence)?;
                        if let Recipient::Channel(channel) = self.pool.messages[number].to {
                            self.check_joins(link, batch.attached[channel], number)?;
                        }
                        if self.random.one_in(AUDIT_ONE_IN) {
                            self.audit(owner)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Loses everything doubtful, on a copy, and looks whether every promise would survive.
    pub(crate) fn audit(&mut self, shard: usize) -> Checked {
        let mut replayed = Replayed::default();
        let mut checked = Ok(());
        let mut image = self.disks[shard].durable_image();
        let outcome = recover(&mut image, shard_u32(shard), |_, record| {
            if checked.is_ok() {
                checked = replayed.take(self.pool, &record);
            }
        });
        checked?;
        if self.disks[shard].has_lied {
            self.model.judge(shard, &image, &outcome, &replayed)?;
            return Ok(());
        }
        self.model.audited(shard, outcome, &replayed)
    }

    fn check_push(&mut self, link: LinkNumber, body: &[u8]) -> Checked {
        let deliver = Deliver::parse(body).expect("a shard sends proper frames");
        let agent = self.links[link].agent;
        for span in &deliver.messages {
            let now_us = self.clock.now_us();
            let number = self.model.pushed(self.pool, span, &body[span.envelope.clone()], agent, now_us)?;
            self.check_not_over(number)?;
        }
        Ok(())
    }

    pub(crate) fn node_connects(&mut self, link: LinkNumber) -> Checked {
        if !self.node.is_serving || self.links[link].life != self.node.life {
            let delay_us = self.delay(self.profile.network_us);
            self.clock.after(delay_us, Step::ClientGone { link });
            return Ok(());
        }
        self.links[link].node_side.is_open = true;
        let (shard, exporter) = (self.links[link].shard, self.links[link].exporter);
        self.note(|| format!("connection {link} reaches shard {shard}"));
        let peer = ([127, 0, 0, 1], 4433).into();
        self.shard_event(shard, Event::Connected { connection: ConnectionId(link as u64), exporter, peer })
    }

    pub(crate) fn node_frame(&mut self, link: LinkNumber, stream: usize) -> Checked {
        let Packet { frame_type, body } = self.links[link].to_node[stream].arrive();
        if !self.links[link].node_side.is_open {
            return Ok(());
        }
        if stream == lane_of(SUBMIT) && frame_type == FrameType::SignedBatch {
            self.note_batch(link, &body);
        }
        if patterns::number_of(self.links[link].agent).is_some() {
            self.note_pattern_frame(link, frame_type, &body);
        } else if self.links[link].agent >= AGENTS {
            self.note_channel_frame(link, frame_type, &body);
        }
        let (shard, connection) = (self.links[link].shard, ConnectionId(link as u64));
        let stream = StreamId(stream as u64);
        self.shard_event(shard, Event::Frame { connection, stream, frame_type, body })
    }

    fn note_batch(&mut self, link: LinkNumber, body: &[u8]) {
        let sequence = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).expect("agents send proper frames");
        let mut batch = self.links[link].client_side.sent[&sequence];
        batch.arrived_us = self.clock.now_us();
        batch.attached = self.links[link].node_side.attached;
        self.note(|| format!("connection {link}: batch {sequence} arrives: {:?}", batch.window));
        self.links[link].node_side.batches.insert(sequence, batch);
    }

    pub(crate) fn node_gone(&mut self, link: LinkNumber) -> Checked {
        if !std::mem::take(&mut self.links[link].node_side.is_open) {
            return Ok(());
        }
        self.note(|| format!("the node sees that connection {link} is gone"));
        self.link_is_gone(link);
        let shard = self.links[link].shard;
        self.shard_event(shard, Event::Disconnected { connection: ConnectionId(link as u64) })
    }
}

pub(crate) fn lane_of(stream: StreamId) -> usize {
    usize::try_from(stream.0).expect("a handful of streams")
}

pub(crate) fn link_of(connection: ConnectionId) -> LinkNumber {
    usize::try_from(connection.0).expect("connections are numbered by their place")
}

pub(crate) fn shard_u32(shard: usize) -> u32 {
    u32::try_from(shard).expect("a handful of shards")
}
