//! Values of which many agents have the same.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Every value that some agent has, once: agents with equal ones share them.
#[derive(Clone, Debug)]
pub(crate) struct Shared<T> {
    values: BTreeSet<Arc<T>>,
    /// At this many it is worth looking for those that nobody has any more.
    sweep_at: usize,
}

/// Below this many nothing is looked for.
const SWEEP_MIN: usize = 64;

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { values: BTreeSet::new(), sweep_at: SWEEP_MIN }
    }
}

impl<T: Ord> Shared<T> {
    /// The one that is shared by all who have equal ones.
    pub(crate) fn share(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(shared) = self.values.get(&value) {
            return Arc::clone(shared);
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|shared| Arc::strong_count(shared) > 1);
            // Twice what is left: looking costs a constant time for each value that comes.
            self.sweep_at = (self.values.len() * 2).max(SWEEP_MIN);
        }
        self.values.insert(Arc::clone(&value));
        value
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_nobody_has_any_more_are_forgotten() {
        let mut values = Shared::default();
        let kept: Vec<_> = (0..100).map(|number| values.share(Arc::new(number))).collect();
        for number in 100..10_100 {
            drop(values.share(Arc::new(number)));
            assert!(values.len() <= 256, "{} values for {} that are kept", values.len(), kept.len());
        }
        for value in &kept {
            assert!(Arc::ptr_eq(value, &values.share(Arc::new(**value))));
        }
    }
}
