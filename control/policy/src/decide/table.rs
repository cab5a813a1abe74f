//! A shard's memory of decisions: bounded, and never a reason for an answer that an evaluation would not give.

use creto_envelope::AgentId;

use super::{Action, Decision, decide, decide_known, mix};
use crate::snapshot::Snapshot;

/// Entries that share a place. A lookup reads at most this many, whatever ids someone makes up.
const WAYS: usize = 4;

/// Decisions of one shard, by (sender, action, recipient).
///
/// An entry answers only while all of this holds, and is evaluated anew otherwise:
/// - it was made under the same snapshot: same epoch and same digest of every agent's state, version and validity
///   (so both key record versions are the same too);
/// - the time is in the span in which it holds: from when it was made, until its lifetime is over or the sender's
///   keys begin or cease to be valid, whichever comes first. A clock that steps back finds no entry.
///
/// Requests that name an unknown agent are never kept: they are answered by one failed lookup, and a peer that makes
/// ids up cannot push out the pairs that talk.
///
/// When a place is full, the entry that lapses first makes room, the first of them if several do.
#[derive(Debug)]
pub struct DecisionTable {
    sets: Box<[Set]>,
    lifetime_ms: u64,
    /// The snapshot that entries of `generation` were made under.
    stamp: (u64, u64),
    /// Entries of another generation are void. Zero is that of an unused entry.
    generation: u32,
    stats: DecisionStats,
}

/// What a table did since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DecisionStats {
    /// Answered from memory.
    pub hits: u64,
    /// Evaluated.
    pub misses: u64,
    /// Entries that still held and made room for another.
    pub evictions: u64,
    /// Times that a new snapshot made all entries void.
    pub invalidations: u64,
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
    decision: Decision,
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
    decision: Decision::Deny(creto_envelope::RejectCode::PolicyUnavailable),
};

impl DecisionTable {
    /// A table of at most `entries_max` entries of 64 bytes, each for at most `lifetime_ms`.
    ///
    /// The memory is taken now. Below 4 entries nothing is kept, and every request is evaluated.
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
            stats: DecisionStats::default(),
        }
    }

    /// Answers as [`decide`] would at this moment.
    pub fn decide(
        &mut self,
        snapshot: &Snapshot,
        now_ms: u64,
        sender: &AgentId,
        action: Action,
        recipient: &AgentId,
    ) -> Decision {
        if self.stamp != snapshot.stamp() {
            self.start_generation(snapshot);
        }
        let place = self.place(sender, action, recipient);
        if let Some(set) = self.sets.get(place) {
            let answers = |entry: &&Entry| {
                entry.recipient == *recipient
                    && entry.sender == *sender
                    && entry.action == action
                    && entry.generation == self.generation
                    && entry.holds_from_ms <= now_ms
                    && now_ms < entry.holds_until_ms
            };
            if let Some(entry) = set.iter().find(answers) {
                self.stats.hits += 1;
                return entry.decision;
            }
        }
        self.stats.misses += 1;
        self.evaluate(snapshot, now_ms, sender, action, recipient, place)
    }

    /// What the table did so far.
    #[must_use]
    pub fn stats(&self) -> DecisionStats {
        self.stats
    }

    #[cold]
    fn evaluate(
        &mut self,
        snapshot: &Snapshot,
        now_ms: u64,
        sender: &AgentId,
        action: Action,
        recipient: &AgentId,
        place: usize,
    ) -> Decision {
        let (Some(policy), Some(from), Some(to)) =
            (snapshot.policy(), snapshot.principal(sender), snapshot.principal(recipient))
        else {
            return decide(snapshot, now_ms, sender, action, recipient);
        };
        let decision = decide_known(policy, now_ms, from, action, to);
        let holds_until_ms = now_ms.saturating_add(self.lifetime_ms).min(from.next_validity_change_ms(now_ms));
        let Some(set) = self.sets.get_mut(place) else { return decision };
        let holds = |entry: &Entry| entry.generation == self.generation && now_ms < entry.holds_until_ms;
        let same = |entry: &Entry| entry.sender == *sender && entry.recipient == *recipient && entry.action == action;
        // The pair's own lapsed entry first, or it would be found twice.
        let way = set.iter().position(same).unwrap_or_else(|| {
            let lapses_ms = |way: &usize| if holds(&set[*way]) { set[*way].holds_until_ms } else { 0 };
            (0..WAYS).min_by_key(lapses_ms).expect("a set has ways")
        });
        self.stats.evictions += u64::from(holds(&set[way]) && !same(&set[way]));
        set[way] = Entry {
            sender: *sender,
            recipient: *recipient,
            holds_from_ms: now_ms,
            holds_until_ms,
            generation: self.generation,
            action,
            decision,
        };
        decision
    }

    #[cold]
    fn start_generation(&mut self, snapshot: &Snapshot) {
        self.stamp = snapshot.stamp();
        self.stats.invalidations += 1;
        self.generation = self.generation.checked_add(1).unwrap_or_else(|| {
            // After four billion snapshots the numbers begin again, and no old entry may be taken for a new one.
            self.sets.fill([UNUSED; WAYS]);
            1
        });
    }

    /// The set of a request; past the end when there are no sets.
    fn place(&self, sender: &AgentId, action: Action, recipient: &AgentId) -> usize {
        let last = |id: &AgentId| u64::from_le_bytes(*id.0.last_chunk().expect("an id has sixteen bytes"));
        let hash = mix(last(sender).wrapping_add(action as u64), last(recipient).rotate_left(32));
        #[allow(clippy::cast_possible_truncation, reason = "the lower bits of a hash are as good as all of them")]
        let hash = hash as usize;
        hash & self.sets.len().wrapping_sub(1)
    }
}
