//! One run: a node of shards, its disks, its agents and the network between them, step by step in virtual time.

use std::collections::VecDeque;

use creto_shard::Event;
use creto_store::MailboxId;

use crate::backup::Backup;
use crate::channels::{Channels, RETENTION_S_MAX};
use crate::clock::Clock;
use crate::disk::{Chance, Crash, Disk, DiskEvent, OpNumber};
use crate::fault::{Fault, FaultCounts};
use crate::model::{Checked, Model, Rule, Violation, broken};
use crate::network::{Link, LinkNumber};
use crate::node::Node;
use crate::patterns::Patterns;
use crate::planted::PlantedBug;
use crate::pool::{AGENTS, Pool};
use crate::profile::Profile;
use crate::random::{Random, mix};
use crate::run::Options;
use crate::strike::{Strike, StrikeKind};
use crate::workload::Agent;

/// Steps after the faults have ended within which everything must come to rest.
const HEALING_STEPS_MAX: u64 = 20_000;
/// Lines of a trace that are kept.
const TRACE_LINES: usize = 120;

/// What is due at some time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A shard ends its turn.
    Turn { life: u32, shard: usize },
    /// 100 ms have passed for a shard.
    Tick { life: u32, shard: usize },
    /// The oldest message of a ring arrives.
    Ring { life: u32, from: usize, to: usize },
    /// A disk goes on with an action.
    Disk { life: u32, shard: usize, op: OpNumber },
    /// A crypto worker is done with a batch.
    Verdict { life: u32, shard: usize, job: u64 },
    /// Control has found a key record, or cannot read it just now.
    KeyRecord { life: u32, shard: usize, question: u64 },
    /// The machine starts the node.
    Boot { life: u32 },
    /// An operator stops a node that does not work.
    Operator { life: u32 },
    /// A handshake is complete on the node's side.
    NodeConnect { link: LinkNumber },
    /// The oldest frame of a stream arrives at the node.
    NodeFrame { link: LinkNumber, stream: usize },
    /// The node notices that a connection is gone.
    NodeGone { link: LinkNumber },
    /// The oldest frame of a stream arrives at the agent.
    ClientFrame { link: LinkNumber, stream: usize },
    /// The agent notices that a connection is gone.
    ClientGone { link: LinkNumber },
    /// An agent does something.
    Agent { agent: usize },
    /// A shard is told to drain.
    Drain { life: u32, shard: usize },
    /// A backup goes on with the next file.
    Copy { life: u32 },
    /// A fault is injected.
    Chaos,
    /// An agent of channels does something.
    ChannelAgent { agent: usize },
    /// What control says of channels and their agents changes.
    ChannelChange,
    /// An agent of the patterns does something.
    PatternAgent { agent: usize },
    /// A shard hears of it.
    Snapshot { life: u32, shard: usize, place: usize },
}

impl Step {
    /// A number that tells it from others: the digest of a run is made of these.
    fn code(self) -> u64 {
        let (kind, a, b) = match self {
            Self::Turn { life, shard } => (1, u64::from(life), shard),
            Self::Tick { life, shard } => (2, u64::from(life), shard),
            Self::Ring { from, to, .. } => (3, from as u64, to),
            Self::Disk { shard, op, .. } => (4, op, shard),
            Self::Boot { life } => (5, u64::from(life), 0),
            Self::Operator { life } => (6, u64::from(life), 0),
            Self::NodeConnect { link } => (7, 0, link),
            Self::NodeFrame { link, stream } => (8, stream as u64, link),
            Self::NodeGone { link } => (9, 0, link),
            Self::ClientFrame { link, stream } => (10, stream as u64, link),
            Self::ClientGone { link } => (11, 0, link),
            Self::Agent { agent } => (12, 0, agent),
            Self::Drain { life, shard } => (13, u64::from(life), shard),
            Self::Chaos => (14, 0, 0),
            Self::Verdict { shard, job, .. } => (15, job, shard),
            Self::KeyRecord { shard, question, .. } => (17, question, shard),
            Self::Copy { life } => (16, u64::from(life), 0),
            Self::ChannelAgent { agent } => (18, 0, agent),
            Self::ChannelChange => (19, 0, 0),
            Self::PatternAgent { agent } => (21, 0, agent),
            Self::Snapshot { shard, place, .. } => (20, place as u64, shard),
        };
        kind << 56 | a << 28 | b as u64
    }
}

#[derive(Debug)]
pub(crate) struct World<'p> {
    pub(crate) pool: &'p Pool,
    pub(crate) planted: Option<PlantedBug>,
    pub(crate) profile: Profile,
    pub(crate) random: Random,
    /// Decides about refused messages and dead letters.
    pub(crate) letters_random: Random,
    /// Decides about control.
    pub(crate) control_random: Random,
    pub(crate) clock: Clock<Step>,
    pub(crate) faults: FaultCounts,
    pub(crate) disks: Vec<Disk>,
    pub(crate) node: Node,
    pub(crate) links: Vec<Link>,
    pub(crate) agents: [Agent; AGENTS],
    pub(crate) model: Model,
    pub(crate) channels: Channels,
    pub(crate) patterns: Patterns,
    /// A backup under way.
    pub(crate) backup: Option<Backup>,
    pub(crate) is_healing: bool,
    /// A drive has lost what it had called durable: there is nothing to go on with.
    pub(crate) is_over: bool,
    pub(crate) strike: Option<Strike>,
    /// Everything rests, and the node is told to stop.
    pub(crate) is_finishing: bool,
    digest: u64,
    trace: Option<VecDeque<String>>,
}

impl<'p> World<'p> {
    pub(crate) fn new(pool: &'p Pool, seed: u64, options: &Options, is_traced: bool) -> Self {
        let mut random = Random::new(seed);
        let mut letters_random = Random::new(mix(!seed));
        let mut control_random = Random::new(mix(mix(!seed)));
        let mut profile = Profile::draw(&mut random, &mut letters_random, options.shard_count);
        profile.busy_control_one_in = control_random.pick(&[0, 0, 3, 10]);
        let channels =
            Channels::draw(pool, Random::new(mix(mix(mix(!seed)))), profile.shard_count, profile.wal.wal_bytes_max);
        let (deliveries_max, messages_max) =
            (profile.mailboxes.redelivery.deliveries_max, profile.mailboxes.mailbox_messages_max);
        Self {
            pool,
            planted: options.planted,
            strike: options.strike,
            is_over: false,
            clock: Clock::new(),
            faults: FaultCounts::default(),
            disks: vec![Disk::default(); profile.shard_count],
            node: Node::off(profile.shard_count),
            links: Vec::new(),
            agents: std::array::from_fn(Agent::new),
            model: Model::new(profile.shard_count, deliveries_max, messages_max),
            channels,
            patterns: Patterns::draw(Random::new(mix(mix(mix(mix(!seed)))))),
            backup: None,
            is_healing: false,
            is_finishing: false,
            digest: seed,
            trace: is_traced.then(VecDeque::new),
            profile,
            random,
            letters_random,
            control_random,
        }
    }

    /// Runs `steps` steps with faults, then lets everything come to rest.
    pub(crate) fn run(&mut self, steps: u64) -> Checked {
        self.note(|| "the run begins".to_owned());
        self.clock.after(0, Step::Boot { life: 0 });
        for agent in 0..AGENTS {
            let delay_us = self.random.between(0, 5_000);
            self.clock.after(delay_us, Step::Agent { agent });
        }
        self.chaos_later();
        self.channels_begin();
        self.patterns_begin();
        for step in 1..=steps {
            self.next()?;
            if self.is_over {
                return Ok(());
            }
            self.strike_after(step);
        }
        self.note(|| "the faults end".to_owned());
        self.is_healing = true;
        self.profile.heal();
        self.disks.iter_mut().for_each(|disk| disk.is_full = false);
        // Not behind what it ever showed: a message that was over once, and was passed over, is over now.
        self.clock.catch_up(self.model.latest_unix_ms);
        for step in 0..HEALING_STEPS_MAX {
            self.next()?;
            if self.is_over {
                return Ok(());
            }
            if step % 64 == 0 && self.channels.is_let_go {
                self.let_late_go();
            }
            if step % 64 == 0 && self.is_at_rest() && self.unbounded_log().is_none() {
                if self.channels.is_on && !self.channels.is_let_go {
                    self.let_go()?;
                    continue;
                }
                self.model.tally.bounded_logs += self.profile.shard_count as u64;
                return self.finish();
            }
        }
        match self.unbounded_log() {
            Some(text) if self.is_at_rest() => broken(Rule::SpaceIsBounded, text),
            _ => broken(Rule::ComesToRest, self.unrest()),
        }
    }

    fn strike_after(&mut self, step: u64) {
        let Some(Strike { kind, at }) = self.strike else { return };
        if at != step || !self.node.is_up {
            return;
        }
        let (fault, how) = match kind {
            StrikeKind::Kill => (Fault::Kill, Crash::Kill),
            StrikeKind::PowerLoss => (Fault::PowerLoss, Crash::Power),
            StrikeKind::FailedWrite | StrikeKind::FailedSync | StrikeKind::FailedRead => return,
        };
        self.faults.add(fault);
        self.crash(how);
    }

    fn next(&mut self) -> Checked {
        let step = self.clock.next().expect("agents always have something due");
        self.model.tally.steps += 1;
        self.digest = mix(self.digest ^ step.code()).wrapping_add(self.clock.now_us());
        let unix_ms = self.clock.now().unix_ms;
        self.model.latest_unix_ms = self.model.latest_unix_ms.max(unix_ms);
        self.model.earliest_unix_ms = self.model.earliest_unix_ms.min(unix_ms);
        let is_current = |life: u32| life == self.node.life && self.node.is_up;
        match step {
            Step::Turn { life, shard } if is_current(life) => self.end_turn(shard),
            Step::Tick { life, shard } if is_current(life) => self.tick(shard),
            Step::Ring { life, from, to } if is_current(life) => self.ring_arrives(from, to),
            Step::Disk { life, shard, op } if is_current(life) => self.disk_step(shard, op),
            Step::Verdict { life, shard, job } if is_current(life) => self.verdict_arrives(shard, job),
            Step::KeyRecord { life, shard, question } if is_current(life) => self.key_record_arrives(shard, question),
            Step::Drain { life, shard } if is_current(life) => {
                self.note(|| format!("shard {shard} drains"));
                self.shard_event(shard, Event::Drain)
            }
            Step::Operator { life } if is_current(life) => self.operator_restarts(),
            Step::Copy { life } if is_current(life) => self.copy_one(),
            Step::Snapshot { life, shard, place } if is_current(life) => self.snapshot_arrives(shard, place),
            Step::Boot { life } if life == self.node.life && !self.node.is_up => self.boot(),
            // Of an earlier start of the node.
            Step::Turn { .. }
            | Step::Tick { .. }
            | Step::Ring { .. }
            | Step::Disk { .. }
            | Step::Verdict { .. }
            | Step::KeyRecord { .. }
            | Step::Drain { .. }
            | Step::Operator { .. }
            | Step::Copy { .. }
            | Step::Snapshot { .. }
            | Step::Boot { .. } => Ok(()),
            Step::NodeConnect { link } => self.node_connects(link),
            Step::NodeFrame { link, stream } => self.node_frame(link, stream),
            Step::NodeGone { link } => self.node_gone(link),
            Step::ClientFrame { link, stream } => self.client_frame(link, stream),
            Step::ClientGone { link } => {
                self.client_gone(link);
                Ok(())
            }
            Step::Agent { agent } => self.agent_acts(agent),
            Step::Chaos => self.chaos(),
            Step::ChannelAgent { agent } => self.channel_agent_acts(agent),
            Step::ChannelChange => self.channel_change(),
            Step::PatternAgent { agent } => self.pattern_agent_acts(agent),
        }
    }

    fn disk_step(&mut self, shard: usize, op: OpNumber) -> Checked {
        let events = self.with_disk(shard, |disk, habits, chance| disk.step(op, habits, chance));
        for event in events {
            match event {
                DiskEvent::Later(delay_us) => {
                    self.clock.after(delay_us, Step::Disk { life: self.node.life, shard, op });
                }
                DiskEvent::Durable(segment, offset, bytes) => {
                    let length = bytes.len();
                    self.note(|| format!("disk {shard}: {length} bytes at {offset} of segment {segment} are durable"));
                    let disk = &self.disks[shard];
                    // What the drive says counts; that it holds what was written is checked as long as it has not lied.
                    let held = if disk.has_lied { Some(&bytes[..]) } else { disk.bytes(segment, offset, length) };
                    if let Some(bytes) = held {
                        let now_us = self.clock.now_us();
                        self.model.became_durable(self.pool, shard, offset, bytes, now_us)?;
                        self.model.untold_are_excused(self.notices_refused())?;
                    }
                }
                DiskEvent::Read(id, outcome) => {
                    self.note(|| {
                        let bytes = outcome.as_ref().map(bytes::Bytes::len);
                        format!("disk {shard}: {id:?} has read: {bytes:?}")
                    });
                    self.shard_event(shard, Event::DiskRead { id, outcome })?;
                }
                DiskEvent::Completed(id, outcome) => {
                    self.note(|| format!("disk {shard}: {id:?} completes: {outcome:?}"));
                    self.shard_event(shard, Event::Disk { id, outcome })?;
                }
            }
        }
        Ok(())
    }

    /// Lends a disk together with what decides in it.
    pub(crate) fn with_disk<T>(
        &mut self,
        shard: usize,
        act: impl FnOnce(&mut Disk, &crate::disk::DiskHabits, &mut Chance<'_>) -> T,
    ) -> T {
        let mut chance = Chance { random: &mut self.random, faults: &mut self.faults, planted: self.planted };
        act(&mut self.disks[shard], &self.profile.disk, &mut chance)
    }

    /// A delay around the usual one: now and then a long one.
    pub(crate) fn delay(&mut self, usual_us: u64) -> u64 {
        let factor = if self.random.one_in(30) { 10 } else { 1 };
        self.random.between(usual_us / 4, usual_us * 2) * factor
    }

    /// Everything is answered, delivered and settled, and the node has nothing left to do.
    fn is_at_rest(&self) -> bool {
        let node_rests = self.node.is_serving
            && !self.node.is_draining
            && self.node.shards.iter().enumerate().all(|(number, shard)| {
                let log = shard.log();
                // What channels keep stays there until its time is over.
                let kept = if self.channels.is_let_go { 0 } else { self.model.kept(number) };
                log.wal().fenced().is_none() && log.wal().is_idle() && log.mailboxes().messages() == kept
            });
        node_rests
            && self.agents.iter().all(Agent::has_all_acknowledged)
            && (self.channels.is_let_go || self.channels_wait().is_none())
            && self.patterns_wait().is_none()
    }

    /// Everything was read to its end. Then the time of what channels keep is over.
    fn let_go(&mut self) -> Checked {
        self.note(|| "everything was read".to_owned());
        self.model.everybody_was_given_all(self.pool)?;
        self.channels.is_let_go = true;
        let over_ms = self.clock.now().unix_ms + 1_000 * (u64::from(RETENTION_S_MAX) + 1);
        self.clock.catch_up(over_ms);
        Ok(())
    }

    /// What a publisher had given up may have arrived since: its time is over, too.
    fn let_late_go(&mut self) {
        if let Some(expiry_ms) = self.model.last_expiry_ms() {
            self.clock.catch_up(expiry_ms);
        }
    }

    /// A log that takes more space than what it holds is worth.
    fn unbounded_log(&self) -> Option<String> {
        // A file that could not be deleted counts until the next start.
        if self.faults.of(Fault::FailedFile) > 0 {
            return None;
        }
        self.node.shards.iter().enumerate().find_map(|(shard, state)| {
            let (wal, mailboxes) = (state.log().wal(), state.log().mailboxes());
            let (used, most) = (wal.space().bytes, mailboxes.space_bytes_max(wal.segment_bytes()));
            // What channels keep: cleaning may have to wait until another segment was settled, and a file is kept for the next one.
            let waits = if self.channels.is_on && !self.channels.is_let_go { 2 * wal.segment_bytes() } else { 0 };
            let most = most + waits;
            (used > most).then(|| {
                let (start, active) = (wal.log_start(), wal.active_segment());
                format!("shard {shard} takes {used} bytes, {most} at most; segments {start} to {active}")
            })
        })
    }

    fn unrest(&self) -> String {
        let agents: Vec<String> = self.agents.iter().map(|agent| agent.state(&self.links)).collect();
        let shards: Vec<String> = self
            .node
            .shards
            .iter()
            .map(|shard| {
                let (wal, mailboxes) = (shard.log().wal(), shard.log().mailboxes());
                let (idle, fenced, space) = (wal.is_idle(), wal.fenced(), wal.space());
                let agents = self.pool.agents.iter().map(|agent| MailboxId(agent.id.0));
                let queues: Vec<_> =
                    agents.map(|id| (mailboxes.queued_messages(id), mailboxes.handed_out_messages(id))).collect();
                let messages = mailboxes.messages();
                format!("{messages} messages, queued and handed out by agent {queues:?}, log idle {idle}, fenced {fenced:?}, {space:?}")
            })
            .collect();
        let (is_up, is_serving, is_draining) = (self.node.is_up, self.node.is_serving, self.node.is_draining);
        format!(
            "{HEALING_STEPS_MAX} steps after the faults ended: node up {is_up}, serving {is_serving}, draining \
             {is_draining}; shards {shards:?}; agents {agents:?}; channels {:?}, patterns {:?}, let go {}, \
             kept {:?}",
            self.channels_wait(),
            self.patterns_wait(),
            self.channels.is_let_go,
            (0..self.profile.shard_count).map(|shard| self.model.kept(shard)).collect::<Vec<_>>(),
        )
    }

    /// Writes a line into the trace, if there is one.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let Some(trace) = &mut self.trace else { return };
        if trace.len() == TRACE_LINES {
            trace.pop_front();
        }
        trace.push_back(format!("{:>12} us  {}", self.clock.now_us(), line()));
    }

    /// The last lines of the trace.
    pub(crate) fn into_trace(self) -> Vec<String> {
        self.trace.map(Vec::from).unwrap_or_default()
    }

    /// The same for the same seed, different for every other run.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// The end of a run at rest: an orderly shutdown, and a look at what is left.
    fn finish(&mut self) -> Checked {
        self.note(|| "everything rests".to_owned());
        self.model.nothing_is_missing()?;
        self.patterns_ended_well()?;
        self.is_finishing = true;
        for shard in 0..self.profile.shard_count {
            self.shard_event(shard, Event::Drain)?;
        }
        self.node.is_draining = true;
        // Acknowledgements of consumers and a confirmation of the log may still be on their way.
        for _ in 0..HEALING_STEPS_MAX {
            if !self.node.is_up {
                break;
            }
            self.next()?;
        }
        if self.node.is_draining {
            return broken(Rule::ComesToRest, "an idle node that was told to drain does not say that it has");
        }
        if self.model.tally.refused_for_the_clock == 0 {
            self.model.everything_is_settled()?;
        }
        (0..self.profile.shard_count).try_for_each(|shard| {
            self.audit(shard)?;
            self.check_confirmed(shard)
        })
    }
}

/// The last rule: what rests is empty. Asked of a node that has drained, before it stops.
pub(crate) fn rests_empty(shard: usize, state: &creto_shard::Shard) -> Result<(), Violation> {
    let mailboxes = state.log().mailboxes();
    let left = [
        ("queued messages", mailboxes.messages()),
        ("queued bytes", mailboxes.queued_bytes()),
        ("unanswered bytes", state.ingress_bytes() as u64),
    ];
    match left.iter().find(|(_, count)| *count != 0) {
        None => Ok(()),
        Some((what, count)) => broken(Rule::RestsEmpty, format!("shard {shard} rests with {count} {what}")),
    }
}
