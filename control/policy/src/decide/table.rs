//! A shard's memory of decisions: bounded, and never a reason for an answer that an evaluation would not give.

use std::collections::BTreeMap;
use std::ops::Range;

use creto_envelope::{AgentId, RejectCode};

use super::answers::KeptAnswers;
use super::{Action, Decision, Known, OpenDoor, decide_known, known, mix};
use crate::limits::{EVALUATION_US_PER_TURN_MAX, OBLIGATIONS_MAX, TOO_LONG_MS};
use crate::obligations::Obligations;
use crate::snapshot::{Policy, Snapshot};
use crate::source::{Answer, Evaluator, Input, Question, Reads};

/// Entries that share a place. A lookup reads at most this many, whatever ids someone makes up.
const WAYS: usize = 4;

/// Decisions of one shard, by (sender, action, recipient or channel); below them, answers of its policy, by what it reads.
///
/// An entry answers only while all of this holds, and is decided anew otherwise:
/// - it was made under the same snapshot: same epoch and same digest of the policy, of every agent's state, version,
///   attributes and validity, and of every channel's record (so the versions of the records are the same too);
/// - the time is in the span in which it holds: from when it was made, until its lifetime is over or the sender's
///   keys begin or cease to be valid, whichever comes first. A clock that steps back finds no entry.
///
/// Requests that name an unknown agent or channel are never kept: they are answered by one failed lookup, and a peer that makes
/// ids up cannot push out the pairs that talk. Nor is what a policy says that reads the count of recent messages.
///
/// When a place is full, the entry that lapses first makes room, the first of them in the order of lookup if several do.
///
/// A policy's answers outlive snapshots: what they depend on is their key. A policy that does not come to an end is not
/// asked the same again for [`TOO_LONG_MS`], and no more is evaluated in a turn than [`EVALUATION_US_PER_TURN_MAX`] has
/// room for.
#[derive(Debug)]
pub struct DecisionTable {
    sets: Box<[Set]>,
    lifetime_ms: u64,
    /// The snapshot that entries of `generation` were made under.
    stamp: (u64, u64),
    /// Entries of another generation are void. Zero is that of an unused entry.
    generation: u32,
    /// Obligations of the entries of this generation, each once, by number.
    obligations: Vec<Obligations>,
    obligation_numbers: BTreeMap<Obligations, u16>,
    policy: Option<LoadedPolicy>,
    /// Spent in evaluations in this turn.
    turn_us: u64,
    stats: DecisionStats,
    open_door: OpenDoor,
}

/// A policy that an operator wrote, with what it said.
#[derive(Debug)]
struct LoadedPolicy {
    digest: [u8; 32],
    reads: Reads,
    evaluator: Box<dyn Evaluator>,
    answers: KeptAnswers,
    /// Memory for keys.
    key: Vec<u8>,
}

/// What a table did since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DecisionStats {
    /// Answered from memory.
    pub hits: u64,
    /// Decided anew.
    pub misses: u64,
    /// Entries that still held and made room for another.
    pub evictions: u64,
    /// Times that a new snapshot made all entries void.
    pub invalidations: u64,
    /// Evaluations of a policy that an operator wrote.
    pub evaluations: u64,
    /// Times that such an evaluation was not needed, because the policy had answered the same question before.
    pub answers_reused: u64,
    /// Evaluations that failed: denied.
    pub evaluations_failed: u64,
    /// Evaluations that did not come to an end in time: denied.
    pub evaluations_too_long: u64,
    /// Times that an evaluation was refused because the turn's time for them was spent.
    pub evaluations_refused: u64,
    /// Times that something was allowed because no policy could be loaded and the configuration says so.
    pub allowed_without_policy: u64,
}

/// One cache line's neighbours: the entries that one pair can be in.
type Set = [Entry; WAYS];

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Entry {
    sender: AgentId,
    recipient: AgentId,
    holds_from_ms: u64,
    holds_until_ms: u64,
    generation: u32,
    action: Action,
    decision: Kept,
}

impl Entry {
    /// Whether it is that of this request, be it void or not.
    fn is_about(&self, sender: &AgentId, action: Action, recipient: &AgentId) -> bool {
        self.recipient == *recipient && self.sender == *sender && self.action == action
    }
}

/// A decision as an entry has it.
#[derive(Clone, Copy, Debug)]
enum Kept {
    /// The number of its obligations.
    Allow(u16),
    Deny(RejectCode),
}

// An entry is one cache line, so that a hit in the first way costs one miss of the processor's cache.
const _: () = assert!(size_of::<Entry>() == 64);

const UNUSED: Entry = Entry {
    sender: AgentId::ZERO,
    recipient: AgentId::ZERO,
    holds_from_ms: 0,
    holds_until_ms: 0,
    generation: 0,
    action: Action::SendMessage,
    decision: Kept::Deny(RejectCode::PolicyUnavailable),
};

impl DecisionTable {
    /// A table of at most `entries_max` entries of 64 bytes, each for at most `lifetime_ms`.
    ///
    /// The memory is taken now. Below 4 entries nothing is kept, and every request is decided anew.
    #[must_use]
    pub fn new(entries_max: usize, lifetime_ms: u64) -> Self {
        let set_count = match entries_max / WAYS {
            0 => 0,
            sets_max => 1 << sets_max.ilog2(),
        };
        Self {
            sets: vec![[UNUSED; WAYS]; set_count].into_boxed_slice(),
            lifetime_ms,
            stamp: Snapshot::empty().stamp(),
            generation: 1,
            obligations: Vec::new(),
            obligation_numbers: BTreeMap::new(),
            policy: None,
            turn_us: 0,
            stats: DecisionStats::default(),
            open_door: OpenDoor::default(),
        }
    }

    /// Where its entries are, for whoever chooses the pages of memory.
    #[must_use]
    pub fn memory(&self) -> Range<*const u8> {
        let entries = self.sets.as_ptr_range();
        entries.start.cast()..entries.end.cast()
    }

    /// Begins a turn: evaluations may take their time again.
    pub fn begin_turn(&mut self) {
        self.turn_us = 0;
    }

    /// Answers as [`decide`](super::decide) would at this moment; or refuses, because the turn's time for evaluations is
    /// spent or the policy did not come to an end.
    ///
    /// `recent_messages` is what the sender sent recently, where [`Snapshot::reads_recent_messages`].
    pub fn decide(
        &mut self,
        snapshot: &Snapshot,
        now_ms: u64,
        sender: &AgentId,
        action: Action,
        recipient: &AgentId,
        recent_messages: u32,
    ) -> Decision {
        if self.stamp != snapshot.stamp() {
            self.start_generation(snapshot);
        }
        let place = self.place(sender, action, recipient);
        if let Some(entry) = self.find(place, now_ms, sender, action, recipient) {
            let decision = self.told(entry.decision);
            self.stats.hits += 1;
            return decision;
        }
        self.stats.misses += 1;
        self.evaluate(snapshot, now_ms, sender, action, recipient, recent_messages, place)
    }

    /// Says that these will be asked about in a moment. Their entries are on their way from memory when they are: a batch to many
    /// recipients waits for memory once, not once for each. Changes no answer.
    ///
    /// One in twelve is not in the way that is looked at first, in a table that is a sixth full: its second way is called as well, when
    /// the first has come, or the slowest hundredth of the decisions would wait for memory alone.
    pub fn expect<'a>(&self, asked: impl Iterator<Item = (&'a AgentId, Action, &'a AgentId)> + Clone) {
        // A read that nothing waits for: the processor goes on beside it.
        let call = |entry: &Entry| {
            std::hint::black_box(entry.generation);
        };
        let set = |place: usize| self.sets.get(place / WAYS);
        for (sender, action, recipient) in asked.clone() {
            let place = self.place(sender, action, recipient);
            set(place).into_iter().for_each(|set| call(&set[place % WAYS]));
        }
        for (sender, action, recipient) in asked {
            let place = self.place(sender, action, recipient);
            let Some(set) = set(place) else { continue };
            if !set[place % WAYS].is_about(sender, action, recipient) {
                call(&set[(place + 1) % WAYS]);
            }
        }
    }

    /// What the table would answer from memory, if it would.
    #[must_use]
    pub fn kept(
        &self,
        snapshot: &Snapshot,
        now_ms: u64,
        sender: &AgentId,
        action: Action,
        recipient: &AgentId,
    ) -> Option<Decision> {
        if self.stamp != snapshot.stamp() {
            return None;
        }
        let entry = self.find(self.place(sender, action, recipient), now_ms, sender, action, recipient)?;
        Some(self.told(entry.decision))
    }

    /// What was allowed without a policy since this was last asked.
    pub fn take_open_door(&mut self) -> OpenDoor {
        std::mem::take(&mut self.open_door)
    }

    /// What the table did so far.
    #[must_use]
    pub fn stats(&self) -> DecisionStats {
        self.stats
    }

    fn find(&self, place: usize, now_ms: u64, sender: &AgentId, action: Action, recipient: &AgentId) -> Option<&Entry> {
        let set = self.sets.get(place / WAYS)?;
        from_way(place).map(|way| &set[way]).find(|entry| {
            entry.is_about(sender, action, recipient)
                && entry.generation == self.generation
                && entry.holds_from_ms <= now_ms
                && now_ms < entry.holds_until_ms
        })
    }

    fn told(&self, kept: Kept) -> Decision {
        match kept {
            Kept::Allow(0) => Decision::ALLOW,
            Kept::Allow(number) => Decision::Allow(self.obligations[usize::from(number) - 1]),
            Kept::Deny(code) => Decision::Deny(code),
        }
    }

    #[cold]
    #[allow(clippy::too_many_arguments, reason = "the arguments of `decide`, and the place that it has computed")]
    fn evaluate(
        &mut self,
        snapshot: &Snapshot,
        now_ms: u64,
        sender: &AgentId,
        action: Action,
        recipient: &AgentId,
        recent_messages: u32,
        place: usize,
    ) -> Decision {
        let known = match known(snapshot, now_ms, sender, action, recipient) {
            Ok(known) => known,
            Err(decision) => return decision,
        };
        let Known { policy, sender: from, recipient: to, channel } = known;
        let name = channel.map(|channel| &channel.record().name);
        let question = Question { sender: from, action, recipient: to, channel: name, recent_messages };
        let (loaded, turn_us, stats) = (&mut self.policy, &mut self.turn_us, &mut self.stats);
        let decision = decide_known(policy, now_ms, &question, channel, |question| match loaded {
            Some(loaded) => loaded.ask(question, turn_us, stats),
            None => Decision::Deny(RejectCode::PolicyUnavailable),
        });
        let keep_ms = match (policy, decision) {
            (Policy::FailOpen, _) => {
                // Its own mailbox is open to an agent under every policy.
                if decision.is_allowed() && action != Action::Subscribe {
                    self.stats.allowed_without_policy += 1;
                    self.open_door.used(sender, action, recipient);
                }
                return decision;
            }
            (_, Decision::Deny(RejectCode::Overloaded)) => return decision,
            _ if snapshot.reads_recent_messages() => return decision,
            (_, Decision::Deny(RejectCode::PolicyUnavailable)) => self.lifetime_ms.min(TOO_LONG_MS),
            _ => self.lifetime_ms,
        };
        let kept = self.number(decision);
        let holds_until_ms = now_ms.saturating_add(keep_ms).min(from.next_validity_change_ms(now_ms));
        let Some(set) = self.sets.get_mut(place / WAYS) else { return decision };
        let holds = |entry: &Entry| entry.generation == self.generation && now_ms < entry.holds_until_ms;
        let same = |entry: &Entry| entry.is_about(sender, action, recipient);
        // The pair's own lapsed entry first, or it would be found twice.
        let way = from_way(place).find(|way| same(&set[*way])).unwrap_or_else(|| {
            let lapses_ms = |way: &usize| if holds(&set[*way]) { set[*way].holds_until_ms } else { 0 };
            from_way(place).min_by_key(lapses_ms).expect("a set has ways")
        });
        self.stats.evictions += u64::from(holds(&set[way]) && !same(&set[way]));
        set[way] = Entry {
            sender: *sender,
            recipient: *recipient,
            holds_from_ms: now_ms,
            holds_until_ms,
            generation: self.generation,
            action,
            decision: kept,
        };
        decision
    }

    /// The decision as an entry keeps it.
    fn number(&mut self, decision: Decision) -> Kept {
        let obligations = match decision {
            Decision::Deny(code) => return Kept::Deny(code),
            Decision::Allow(Obligations::NONE) => return Kept::Allow(0),
            Decision::Allow(obligations) => obligations,
        };
        if let Some(number) = self.obligation_numbers.get(&obligations) {
            return Kept::Allow(*number);
        }
        if self.obligations.len() == OBLIGATIONS_MAX {
            self.void_entries();
        }
        self.obligations.push(obligations);
        let number = u16::try_from(self.obligations.len()).expect("limits.rs says so");
        self.obligation_numbers.insert(obligations, number);
        Kept::Allow(number)
    }

    #[cold]
    fn start_generation(&mut self, snapshot: &Snapshot) {
        self.stamp = snapshot.stamp();
        self.stats.invalidations += 1;
        self.void_entries();
        match snapshot.policy() {
            Some(Policy::Loaded(source)) => {
                if self.policy.as_ref().is_none_or(|loaded| loaded.digest != *source.digest()) {
                    self.policy = Some(LoadedPolicy {
                        digest: *source.digest(),
                        reads: source.reads(),
                        evaluator: source.evaluator(),
                        answers: KeptAnswers::default(),
                        key: Vec::new(),
                    });
                }
            }
            _ => self.policy = None,
        }
    }

    fn void_entries(&mut self) {
        self.obligations.clear();
        self.obligation_numbers.clear();
        self.generation = self.generation.checked_add(1).unwrap_or_else(|| {
            // After four billion snapshots the numbers begin again, and no old entry may be taken for a new one.
            self.sets.fill([UNUSED; WAYS]);
            1
        });
    }

    /// The entry of a request: the way of its set that is looked at first. Past the end when there are no sets.
    fn place(&self, sender: &AgentId, action: Action, recipient: &AgentId) -> usize {
        let last = |id: &AgentId| u64::from_le_bytes(*id.0.last_chunk().expect("an id has sixteen bytes"));
        let hash = mix(last(sender).wrapping_add(action as u64), last(recipient).rotate_left(32));
        #[allow(clippy::cast_possible_truncation, reason = "the lower bits of a hash are as good as all of them")]
        let hash = hash as usize;
        hash & (self.sets.len() * WAYS).wrapping_sub(1)
    }
}

/// The ways of a set, from the one that `place` names on. Requests of one set begin at different ones: where there is room, most
/// are found at once.
fn from_way(place: usize) -> impl Iterator<Item = usize> {
    (0..WAYS).map(move |step| (place + step) % WAYS)
}

impl LoadedPolicy {
    /// The answer, from memory if it is there.
    fn ask(&mut self, question: &Question<'_>, turn_us: &mut u64, stats: &mut DecisionStats) -> Decision {
        // Almost every message has another count of them.
        let may_keep = !self.reads.has(Input::RecentMessages);
        if may_keep {
            self.key.clear();
            self.reads.write_key(question, &mut self.key);
            if let Some(answer) = self.answers.get(&self.key) {
                stats.answers_reused += 1;
                return Decision::of(answer, question.action);
            }
        }
        if *turn_us >= EVALUATION_US_PER_TURN_MAX {
            stats.evaluations_refused += 1;
            return Decision::Deny(RejectCode::Overloaded);
        }
        let evaluation = self.evaluator.evaluate(question);
        *turn_us += evaluation.took_us;
        stats.evaluations += 1;
        match evaluation.answer {
            // What one evaluation had no time for, the next one may have.
            Answer::TooLong => stats.evaluations_too_long += 1,
            answer => {
                stats.evaluations_failed += u64::from(answer == Answer::Failed);
                if may_keep {
                    self.answers.insert(&self.key, answer);
                }
            }
        }
        Decision::of(evaluation.answer, question.action)
    }
}
