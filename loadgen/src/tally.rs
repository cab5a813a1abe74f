//! Which messages of a run were acknowledged and which delivered, one bit each. Pure.

/// A set of message numbers below a bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    words: Vec<u64>,
    bound: u64,
    count: u64,
}

impl Numbers {
    pub(crate) fn below(bound: u64) -> Self {
        let words = usize::try_from(bound.div_ceil(64)).expect("a run's messages were held against the limit");
        Self { words: vec![0; words], bound, count: 0 }
    }

    /// Adds a number; false if it was there already.
    ///
    /// # Panics
    /// If it is not below the bound.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        assert!(number < self.bound, "message {number} of a run of {}", self.bound);
        let word = &mut self.words[usize::try_from(number / 64).expect("below the bound")];
        let bit = 1 << (number % 64);
        let new = *word & bit == 0;
        *word |= bit;
        self.count += u64::from(new);
        new
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many of these numbers are not in `other`.
    pub(crate) fn missing_in(&self, other: &Self) -> u64 {
        self.words.iter().zip(&other.words).map(|(here, there)| u64::from((here & !there).count_ones())).sum()
    }
}

/// What became of a run's messages.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) acknowledged: Numbers,
    pub(crate) delivered: Numbers,
    /// Deliveries to the application of a message that it had already.
    pub(crate) delivered_twice: u64,
    /// Deliveries that are not this run's, or not as they were sent.
    pub(crate) strange: u64,
}

impl Tally {
    pub(crate) fn new(message_count: u64) -> Self {
        Self {
            acknowledged: Numbers::below(message_count),
            delivered: Numbers::below(message_count),
            delivered_twice: 0,
            strange: 0,
        }
    }

    pub(crate) fn deliver(&mut self, number: u64) {
        if !self.delivered.insert(number) {
            self.delivered_twice += 1;
        }
    }

    /// Acknowledged and not delivered.
    pub(crate) fn lost(&self) -> u64 {
        self.acknowledged.missing_in(&self.delivered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_and_not_delivered_is_lost_and_nothing_else_is() {
        let mut tally = Tally::new(200);
        for number in [0, 63, 64, 199] {
            assert!(tally.acknowledged.insert(number));
        }
        assert_eq!(tally.lost(), 4);
        [0, 63, 199, 100, 0].into_iter().for_each(|number| tally.deliver(number));
        assert_eq!((tally.lost(), tally.delivered_twice), (1, 1));
        assert_eq!((tally.delivered.count(), tally.acknowledged.count()), (4, 4));
    }
}
