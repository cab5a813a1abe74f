//! A map from ids of which many versions share what is the same in them.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Parts of a map. A version that differs in one agent copies one of them, and the list of all: 32 KiB.
const PARTS: usize = 4_096;
/// Parts that are compared entry by entry before two maps count as different: what a turn of a shard has the time for.
const COMPARED_PARTS_MAX: usize = 64;

/// The bytes of an id: of an agent, or of a channel.
type Id = [u8; 16];
type Part<V> = hashbrown::HashMap<Id, V, BuildHasherDefault<IdHasher>>;

/// A map keyed by ids. A clone shares every part with the original until one of the two changes something in it: a
/// directory of a million agents is published as often as one of them changes.
///
/// Its order is never shown to what decides, because it follows the history of insertions.
#[derive(Clone, Debug)]
pub(crate) struct IdMap<V> {
    /// Empty while nobody is in it, else [`PARTS`].
    parts: Arc<[Arc<Part<V>>]>,
    len: usize,
}

impl<V> Default for IdMap<V> {
    fn default() -> Self {
        Self { parts: Arc::default(), len: 0 }
    }
}

impl<V> IdMap<V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, id: &Id) -> Option<&V> {
        self.parts.get(part_of(id))?.get(id)
    }
}

impl<V> IdMap<V> {
    /// All values, in an order that depends on the ids alone, so that whoever stopped at one can go on behind it in another version.
    pub(crate) fn after(&self, last: Option<&Id>) -> impl Iterator<Item = (Id, &V)> {
        let first = last.map_or(0, part_of);
        let parts = self.parts.iter().skip(first).enumerate();
        parts.flat_map(move |(index, part)| {
            let floor = last.filter(|_| index == 0).copied();
            let mut of_part: Vec<_> = part.iter().filter(|(id, _)| floor.is_none_or(|floor| **id > floor)).collect();
            of_part.sort_unstable_by_key(|(id, _)| **id);
            of_part.into_iter().map(|(id, value)| (*id, value))
        })
    }

    /// Whether both are the same version, or versions that nothing was changed between.
    pub(crate) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.parts, &other.parts)
            || (self.parts.len() == other.parts.len()
                && self.parts.iter().zip(&other.parts[..]).all(|(one, other)| Arc::ptr_eq(one, other)))
    }
}

impl<V: PartialEq> IdMap<V> {
    /// What differs from `before`: which id has which value, or is not there any more. Parts that both share are passed over,
    /// so that this takes as long as there are differences; of two maps that share nothing, as long as they are large.
    pub(crate) fn changes_since<'s>(&'s self, before: &'s Self) -> impl Iterator<Item = (Id, Option<&'s V>)> {
        let empty: &'s [Arc<Part<V>>] = &[];
        let parts = |map: &'s Self| if map.parts.is_empty() { empty } else { &map.parts[..] };
        let (now, then) = (parts(self), parts(before));
        let of_part = move |index: usize| {
            let (now, then) = (now.get(index), then.get(index));
            let is_shared = now.zip(then).is_some_and(|(now, then)| Arc::ptr_eq(now, then));
            let (now, then) = if is_shared { (None, None) } else { (now, then) };
            let is_new = move |(id, value): &(&Id, &V)| then.and_then(|then| then.get(*id)) != Some(*value);
            let is_gone = move |id: &&Id| now.is_none_or(|now| !now.contains_key(*id));
            let changed =
                now.into_iter().flat_map(|now| now.iter()).filter(is_new).map(|(id, value)| (*id, Some(value)));
            let gone = then.into_iter().flat_map(|then| then.keys()).filter(is_gone).map(|id| (*id, None));
            changed.chain(gone)
        };
        (0..PARTS).flat_map(of_part)
    }
}

impl<V: PartialEq> IdMap<V> {
    /// Whether something that was in `before` is another here, or not here at all. Also `true` where too little is shared to look.
    pub(crate) fn replaces_some_of(&self, before: &Self) -> bool {
        if before.len == 0 || Arc::ptr_eq(&self.parts, &before.parts) {
            return false;
        }
        let mut compared = 0;
        self.len == 0
            || self.parts.iter().zip(&before.parts[..]).any(|(now, then)| {
                let is_same = Arc::ptr_eq(now, then);
                compared += usize::from(!is_same);
                !is_same && (compared > COMPARED_PARTS_MAX || then.iter().any(|(id, value)| now.get(id) != Some(value)))
            })
    }
}

impl<V: Clone> IdMap<V> {
    pub(crate) fn get_mut(&mut self, id: &Id) -> Option<&mut V> {
        // Looked for first: nothing is copied for somebody who is not there.
        self.get(id)?;
        self.part_mut(id).get_mut(id)
    }

    /// Returns what was there.
    pub(crate) fn insert(&mut self, id: Id, value: V) -> Option<V> {
        if self.parts.is_empty() {
            self.parts = (0..PARTS).map(|_| Arc::new(Part::default())).collect();
        }
        let before = self.part_mut(&id).insert(id, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Returns what was there.
    pub(crate) fn remove(&mut self, id: &Id) -> Option<V> {
        self.get(id)?;
        let before = self.part_mut(id).remove(id);
        self.len -= usize::from(before.is_some());
        before
    }

    /// The part that the id belongs to, which nobody else sees. There are parts.
    fn part_mut(&mut self, id: &Id) -> &mut Part<V> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.parts)[part_of(id)])
    }
}

/// A place behind all ids of the part that this one belongs to.
pub(crate) fn end_of_part(id: &Id) -> Id {
    let [a, b] = u16::try_from(part_of(id)).expect("there are 4,096 parts").to_le_bytes();
    let mut end = [0xff; 16];
    (end[11], end[12]) = (a, b);
    end
}

fn part_of(id: &Id) -> usize {
    // Neither what a part's own map looks at first, the lowest and the highest bits of the last eight bytes, nor the first eight,
    // of which all ids of one shard share what chooses the partition.
    let [.., a, b, _, _, _] = *id;
    usize::from(u16::from_le_bytes([a, b])) % PARTS
}

/// Takes eight bytes of an id as its hash: ids are SHA-256 outputs, so they are already spread evenly. The hash is the same in
/// every run, and one load instead of a hash function.
///
/// These are the *last* eight. The first eight choose the partition, and all ids of one shard share what those say.
/// Someone may search for names whose ids collide here, but a name enters the map only by a registration at the
/// node's own control socket, and each costs two signatures.
#[derive(Clone, Copy, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk() {
            self.0 = u64::from_le_bytes(*last);
        }
    }

    // The length prefix of a byte array is the same for every id and says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use creto_envelope::{AgentId, AgentName, TrustDomain};
    use proptest::prelude::*;

    use super::*;

    fn agent(number: u16) -> Id {
        AgentId::derive(&TrustDomain::default(), &AgentName::parse(&format!("acme/a{number}")).unwrap()).0
    }

    proptest! {
        #[test]
        fn every_version_stays_what_it_was(changes in prop::collection::vec((0..40_u16, 0..5_u8, any::<u32>()), 0..200)) {
            let mut map = IdMap::default();
            let mut model = BTreeMap::new();
            let mut versions = Vec::new();
            for (number, what, value) in changes {
                let id = agent(number);
                match what {
                    0 | 1 => prop_assert_eq!(map.insert(id, value), model.insert(id, value)),
                    2 => prop_assert_eq!(map.remove(&id), model.remove(&id)),
                    3 => {
                        let known = map.get_mut(&id).map(|there| *there = value).is_some();
                        prop_assert_eq!(known, model.get_mut(&id).map(|there| *there = value).is_some());
                    }
                    _ => versions.push((map.clone(), model.clone())),
                }
                prop_assert_eq!(map.len(), model.len());
            }
            versions.push((map, model));
            for (before, then) in &versions {
                for (now, is) in &versions {
                    let mut told: BTreeMap<Id, u32> = then.clone();
                    for (id, value) in now.changes_since(before) {
                        prop_assert_ne!(told.get(&id), value, "only what differs is told");
                        match value {
                            Some(value) => drop(told.insert(id, *value)),
                            None => drop(told.remove(&id)),
                        }
                    }
                    prop_assert_eq!(&told, is);
                }
            }
            for (map, model) in versions {
                prop_assert_eq!(map.len(), model.len());
                for number in 0..40 {
                    prop_assert_eq!(map.get(&agent(number)), model.get(&agent(number)));
                }
            }
        }
    }

    #[test]
    fn a_clone_shares_all_parts_but_those_that_change() {
        let mut map = IdMap::default();
        for number in 0..5_000 {
            map.insert(agent(number), number);
        }
        let before = map.clone();
        map.insert(agent(7), 0);
        map.get_mut(&agent(20_000));
        map.remove(&agent(20_001));
        let is_shared = |(one, other): &(&Arc<Part<u16>>, &Arc<Part<u16>>)| !Arc::ptr_eq(one, other);
        assert_eq!(map.parts.iter().zip(before.parts.iter()).filter(is_shared).count(), 1);
        // Ids are spread: no part has many more than its share of about one.
        assert!(map.parts.iter().all(|part| part.len() < 12));
    }
}
