//! Which messages of a run were acknowledged and which delivered, one bit each. Pure.

/// A set of message numbers below a bound. Takes memory for the largest that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    words: Vec<u64>,
    bound: u64,
    count: u64,
}

impl Numbers {
    pub(crate) fn below(bound: u64) -> Self {
        Self { words: Vec::new(), bound, count: 0 }
    }

    /// Adds a number; false if it was there already.
    ///
    /// # Panics
    /// If it is not below the bound.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        assert!(number < self.bound, "message {number} of a run of {}", self.bound);
        let at = usize::try_from(number / 64).expect("a run's messages were held against the limit");
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        let (word, bit) = (&mut self.words[at], 1 << (number % 64));
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
        let there = other.words.iter().chain(std::iter::repeat(&0));
        self.words.iter().zip(there).map(|(here, there)| u64::from((here & !there).count_ones())).sum()
    }
}

/// What became of a run's messages.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Those that are for one agent.
    pub(crate) acknowledged: Numbers,
    delivered: Numbers,
    /// Those that were published, which each subscriber is to get.
    pub(crate) published: Numbers,
    read: Vec<Numbers>,
    /// Deliveries to the application of a message that it had already.
    pub(crate) delivered_twice: u64,
    /// Deliveries that are not this run's, or not as they were sent.
    pub(crate) strange: u64,
}

impl Tally {
    pub(crate) fn new(numbers_below: u64, subscribers: usize) -> Self {
        let numbers = Numbers::below(numbers_below);
        Self {
            acknowledged: numbers.clone(),
            delivered: numbers.clone(),
            published: numbers.clone(),
            read: vec![numbers; subscribers],
            delivered_twice: 0,
            strange: 0,
        }
    }

    pub(crate) fn numbers_below(&self) -> u64 {
        self.acknowledged.bound
    }

    pub(crate) fn in_bounds(&self, number: u64) -> bool {
        number < self.acknowledged.bound
    }

    /// A message that is for one agent came to it. False if it had come before.
    pub(crate) fn deliver(&mut self, number: u64) -> bool {
        let is_new = self.delivered.insert(number);
        self.delivered_twice += u64::from(!is_new);
        is_new
    }

    /// A message that was published came to a subscriber. False if it had come before.
    pub(crate) fn read(&mut self, subscriber: usize, number: u64) -> bool {
        let is_new = self.read[subscriber].insert(number);
        self.delivered_twice += u64::from(!is_new);
        is_new
    }

    pub(crate) fn acknowledged_count(&self) -> u64 {
        self.acknowledged.count() + self.published.count()
    }

    /// Deliveries so far.
    pub(crate) fn deliveries(&self) -> u64 {
        self.delivered.count() + self.read.iter().map(Numbers::count).sum::<u64>()
    }

    /// Deliveries that what was acknowledged is to have.
    pub(crate) fn deliveries_due(&self) -> u64 {
        self.acknowledged.count() + self.published.count() * self.read.len() as u64
    }

    /// Deliveries that what was acknowledged has not had.
    pub(crate) fn lost(&self) -> u64 {
        let unread = self.read.iter().map(|read| self.published.missing_in(read));
        self.acknowledged.missing_in(&self.delivered) + unread.sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_and_not_delivered_is_lost_and_nothing_else_is() {
        let mut tally = Tally::new(200, 0);
        for number in [0, 63, 64, 199] {
            assert!(tally.acknowledged.insert(number));
        }
        assert_eq!(tally.lost(), 4);
        [0, 63, 199, 100, 0].into_iter().for_each(|number| _ = tally.deliver(number));
        assert_eq!((tally.lost(), tally.delivered_twice), (1, 1));
        assert_eq!((tally.deliveries(), tally.deliveries_due()), (4, 4), "one of them was never acknowledged");
    }

    #[test]
    fn what_was_published_is_lost_for_each_subscriber_that_does_not_get_it() {
        let mut tally = Tally::new(1_000, 3);
        for number in [5, 900] {
            tally.published.insert(number);
        }
        for (subscriber, number) in [(0, 5), (0, 900), (1, 900), (2, 5), (2, 5)] {
            tally.read(subscriber, number);
        }
        assert_eq!((tally.deliveries_due(), tally.deliveries(), tally.lost(), tally.delivered_twice), (6, 4, 2, 1));
    }
}
