//! A policy's answers under what it read: a thousand pairs of agents that look the same to it cost one evaluation.

use std::collections::BTreeMap;

use crate::limits::{ANSWER_EXTRA_BYTES, ANSWER_KEY_BYTES_MAX, ANSWERS_BYTES_MAX};
use crate::source::Answer;

type Answers = BTreeMap<Box<[u8]>, Answer>;

/// Answers of one policy, at most [`ANSWERS_BYTES_MAX`] of them. When one half of that is full, the older half is forgotten;
/// what is still asked for moves to the younger one.
#[derive(Debug, Default)]
pub(super) struct KeptAnswers {
    young: Answers,
    young_bytes: usize,
    old: Answers,
}

impl KeptAnswers {
    pub(super) fn get(&mut self, key: &[u8]) -> Option<Answer> {
        if let Some(answer) = self.young.get(key) {
            return Some(*answer);
        }
        let (key, answer) = self.old.remove_entry(key)?;
        self.keep(key, answer);
        Some(answer)
    }

    pub(super) fn insert(&mut self, key: &[u8], answer: Answer) {
        if key.len() <= ANSWER_KEY_BYTES_MAX {
            self.keep(key.into(), answer);
        }
    }

    fn keep(&mut self, key: Box<[u8]>, answer: Answer) {
        let bytes = key.len() + ANSWER_EXTRA_BYTES;
        if self.young_bytes + bytes > ANSWERS_BYTES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        let before = self.young.insert(key, answer);
        assert!(before.is_none(), "a key is looked up before it is kept");
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.young.keys().chain(self.old.keys()).map(|key| key.len() + ANSWER_EXTRA_BYTES).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_what_is_asked_for_stays() {
        let mut kept = KeptAnswers::default();
        let key = |number: u32| [&number.to_le_bytes()[..], &[0; 1_000]].concat();
        kept.insert(&key(0), Answer::Failed);
        for number in 1..20_000 {
            kept.insert(&key(number), Answer::Deny);
            assert_eq!(kept.get(&key(0)), Some(Answer::Failed), "{number}");
            assert!(kept.bytes() <= ANSWERS_BYTES_MAX, "{number}");
        }
        assert_eq!((kept.get(&key(1)), kept.get(&key(19_999))), (None, Some(Answer::Deny)));
    }

    #[test]
    fn a_key_that_is_too_large_is_not_kept() {
        let mut kept = KeptAnswers::default();
        let key = vec![0; ANSWER_KEY_BYTES_MAX + 1];
        kept.insert(&key, Answer::Deny);
        assert_eq!(kept.get(&key), None);
        kept.insert(&key[1..], Answer::Deny);
        assert_eq!(kept.get(&key[1..]), Some(Answer::Deny));
    }
}
