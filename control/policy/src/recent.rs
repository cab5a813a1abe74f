//! What came last, by key, up to a bound.

use std::collections::{BTreeMap, VecDeque};

/// A bounded memory: the oldest makes room, however often it is looked at.
#[derive(Clone, Debug)]
pub struct Recent<K, V> {
    values: BTreeMap<K, V>,
    /// Each key once, in the order in which they came.
    order: VecDeque<K>,
    entries_max: usize,
}

impl<K: Ord + Copy, V> Recent<K, V> {
    /// An empty memory of so many entries, at least one.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        assert!(entries_max > 0, "a memory has at least one entry");
        Self { values: BTreeMap::new(), order: VecDeque::new(), entries_max }
    }

    /// What is remembered under this key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key)
    }

    /// Remembers a value, instead of the one that was there; that one's age stays.
    pub fn insert(&mut self, key: K, value: V) {
        if self.values.insert(key, value).is_none() {
            self.order.push_back(key);
            if self.order.len() > self.entries_max {
                self.order.pop_front().map(|oldest| self.values.remove(&oldest));
            }
        }
        assert_eq!(self.values.len(), self.order.len(), "every entry stands in the order once");
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room_and_a_value_that_is_replaced_does_not_grow_younger() {
        let mut recent = Recent::new(3);
        assert!(recent.is_empty());
        for key in 0..3 {
            recent.insert(key, key);
        }
        recent.insert(0, 10);
        assert_eq!((recent.len(), recent.get(&0)), (3, Some(&10)));
        recent.insert(3, 3);
        recent.insert(4, 4);
        let kept: Vec<_> = (0..6).filter_map(|key| recent.get(&key).copied()).collect();
        assert_eq!((kept, recent.len()), (vec![2, 3, 4], 3));
    }
}
