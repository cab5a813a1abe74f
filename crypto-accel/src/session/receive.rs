//! The recipient's end: a key for each message in whatever order they come, until each is settled.

use zeroize::{Zeroize, Zeroizing};

use super::{
    KEY_BYTES, Key, Peers, SESSION_MESSAGES_MAX, SessionError, SessionId, SessionStateError, first_chain_key, state,
    step,
};
use crate::Backend;
use crate::keys::{NONCE_BYTES, XWING_CIPHERTEXT_BYTES};
use crate::seal::{MessageKey, OpenError, RecipientSecret};

/// The recipient's end of a session. Erased on drop, never printed.
///
/// It holds the chain key of counter `next` (one above the highest that was opened), the keys of all counters below it
/// that are not settled, and which ones are. Every counter below `next` is either settled or has its key here.
pub struct ReceiveChain {
    backend: Backend,
    session_id: SessionId,
    next: u64,
    /// The chain key of `next`; zero when the session has no more.
    chain: Key,
    kept: KeptKeys,
    settled: Settled,
    ahead: Ahead,
}

impl ReceiveChain {
    /// Makes the session that a wrapped key opens: one decapsulation (about 65 us).
    ///
    /// Nothing is authentic yet. Keep the chain only after its first message opened.
    ///
    /// # Errors
    /// [`SessionError::OtherKey`], [`SessionError::SessionId`] or [`OpenError::LowOrderShare`]. A wrapped key that was
    /// changed together with the id gives a chain that opens nothing.
    pub fn accept(
        secret: &RecipientSecret,
        peers: &Peers,
        session_id: &SessionId,
        wrapped_key: &[u8; XWING_CIPHERTEXT_BYTES],
    ) -> Result<Self, SessionError> {
        if secret.key_id() != peers.key_id {
            return Err(SessionError::OtherKey);
        }
        if peers.session_id(wrapped_key) != *session_id {
            return Err(SessionError::SessionId);
        }
        let shared = secret.decapsulate(wrapped_key)?;
        let chain = first_chain_key(&shared, session_id, peers);
        let (kept, settled, ahead) = (KeptKeys::default(), Settled::default(), Ahead::default());
        Ok(Self { backend: shared.backend(), session_id: *session_id, next: 0, chain, kept, settled, ahead })
    }

    /// The session's id.
    pub fn session_id(&self) -> SessionId {
        self.session_id
    }

    /// Opens message `counter` into a plaintext of its own. Only a message that opens moves the chain, and it keeps its
    /// key until it is settled: it may be opened again.
    ///
    /// A message ahead of the chain costs a step (about 0.3 us) for each counter that it skips; others as far ahead that do
    /// not open cost at most 64 each. That holds for a chain that is kept: one that was just accepted and dropped because its
    /// first message did not open has cost all its steps, and the decapsulation, each time.
    ///
    /// # Errors
    /// [`SessionError::CounterBeyondEnd`], [`SessionError::AlreadySettled`] or [`SessionError::Open`]. The chain is as it
    /// was.
    pub fn open(
        &mut self,
        counter: u64,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, SessionError> {
        self.open_with(counter, |key| key.open(nonce, aad, sealed))
    }

    /// As [`ReceiveChain::open`], with the plaintext appended to `out`, which stays as it is on failure.
    ///
    /// # Errors
    /// As [`ReceiveChain::open`].
    pub fn open_append(
        &mut self,
        counter: u64,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SessionError> {
        self.open_with(counter, |key| key.open_append(nonce, aad, sealed, out))
    }

    /// As [`ReceiveChain::open`], over the ciphertext itself: `sealed` (ciphertext || tag) becomes the plaintext that is
    /// returned, or zeros when the message does not hold.
    ///
    /// # Errors
    /// As [`ReceiveChain::open`]; `sealed` is untouched unless it was tried.
    pub fn open_in_place<'s>(
        &mut self,
        counter: u64,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &'s mut [u8],
    ) -> Result<&'s mut [u8], SessionError> {
        self.open_with(counter, |key| key.open_in_place(nonce, aad, sealed))
    }

    fn open_with<T>(
        &mut self,
        counter: u64,
        open: impl FnOnce(MessageKey) -> Result<T, OpenError>,
    ) -> Result<T, SessionError> {
        self.check(counter)?;
        let message_key = |key: &[u8; KEY_BYTES]| MessageKey::from_bytes(self.backend, Zeroizing::new(*key));
        if let Some(key) = self.kept.get(counter) {
            return Ok(open(message_key(key))?);
        }
        // On a copy: what an unauthentic message asks for leaves no trace.
        let mut chain = self.ahead.chain_at(counter, self.backend, self.next, &self.chain);
        let key = step(self.backend, &mut chain);
        let plaintext = open(message_key(&key))?;
        self.advance_to(counter);
        self.accept_step(chain, &key);
        Ok(plaintext)
    }

    /// The key of message `counter`; steps the chain as far as needed, keeping the keys that it skips. May be asked again
    /// until the message is settled.
    ///
    /// It moves the chain whether the message holds or not: prefer [`ReceiveChain::open`].
    ///
    /// # Errors
    /// [`SessionError::CounterBeyondEnd`] or [`SessionError::AlreadySettled`].
    pub fn key(&mut self, counter: u64) -> Result<MessageKey, SessionError> {
        self.check(counter)?;
        self.advance_to(counter + 1);
        let key = self.kept.get(counter).expect("what is below `next` and not settled has its key here");
        Ok(MessageKey::from_bytes(self.backend, Zeroizing::new(*key)))
    }

    /// The bytes of the key of message `counter`, if it is held: some message up to this one was opened, and this one is not
    /// settled. For whoever keeps the key of one message longer than the session; [`MessageKey::from_bytes`] takes it.
    pub fn kept_key(&self, counter: u64) -> Option<&[u8; KEY_BYTES]> {
        self.check(counter).ok()?;
        self.kept.get(counter)
    }

    /// Marks message `counter` as done for good and erases its key. One that never came counts as done, too: the chain
    /// steps over it. Beyond the end nothing happens.
    pub fn settle(&mut self, counter: u64) {
        if counter >= SESSION_MESSAGES_MAX || self.settled.contains(counter) {
            return;
        }
        self.advance_to(counter + 1);
        self.settled.insert(counter);
        self.kept.erase(counter, &self.settled);
    }

    /// True if message `counter` was settled: what comes again under it is a duplicate.
    pub fn is_settled(&self, counter: u64) -> bool {
        counter < SESSION_MESSAGES_MAX && self.settled.contains(counter)
    }

    /// True if every message of the session is settled: nothing more can come.
    pub fn is_finished(&self) -> bool {
        self.kept.base == SESSION_MESSAGES_MAX
    }

    /// Message keys that are held: of messages that were skipped or are not settled. At most [`SESSION_MESSAGES_MAX`].
    pub fn kept_keys(&self) -> usize {
        self.settled.clear_below(self.next)
    }

    /// Counters of the chain keys that are in memory ahead of the chain.
    #[cfg(test)]
    pub(super) fn remembered_ahead(&self) -> Vec<u64> {
        let Ahead { slots, known } = &self.ahead;
        let is_held = |slot: &u64| slots.get(index(*slot)).is_some_and(|slot| *slot != [0; KEY_BYTES]);
        let held: Vec<u64> = (0..64).filter(is_held).collect();
        assert_eq!(held, (0..64).filter(|slot| known >> slot & 1 == 1).collect::<Vec<_>>());
        assert!(held.iter().all(|slot| slot * AHEAD_EVERY > self.next), "a chain key that was passed is erased");
        held.iter().map(|slot| slot * AHEAD_EVERY).collect()
    }

    fn check(&self, counter: u64) -> Result<(), SessionError> {
        if counter >= SESSION_MESSAGES_MAX {
            return Err(SessionError::CounterBeyondEnd);
        }
        match self.settled.contains(counter) {
            true => Err(SessionError::AlreadySettled),
            false => Ok(()),
        }
    }

    /// Steps up to `counter` and keeps every key on the way.
    fn advance_to(&mut self, counter: u64) {
        while self.next < counter {
            let mut chain = self.chain.clone();
            let key = step(self.backend, &mut chain);
            self.accept_step(chain, &key);
        }
    }

    /// Takes over the chain of `next` + 1 and the key of `next`.
    fn accept_step(&mut self, chain: Key, key: &[u8; KEY_BYTES]) {
        assert!(self.next < SESSION_MESSAGES_MAX, "no message is beyond the end");
        self.kept.push(self.next, key);
        self.next += 1;
        self.ahead.forget(self.next);
        match self.next == SESSION_MESSAGES_MAX {
            true => self.chain.zeroize(),
            false => self.chain.copy_from_slice(chain.as_slice()),
        }
    }

    /// The chain as it is stored: chain key, kept keys, and which counters are settled. A key that was erased is not in
    /// it. Its layout is versioned; see [`ReceiveChain::from_bytes`].
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let words = self.settled.words_below(self.next);
        let content_bytes = KEY_BYTES + words.len() * 8 + self.kept_keys() * KEY_BYTES;
        let mut writer = state::Writer::new(state::Kind::Receive, content_bytes, &self.session_id);
        writer.number(self.next);
        writer.bytes(self.chain.as_slice());
        words.iter().for_each(|&word| writer.number(word));
        for counter in self.kept.base..self.next {
            if let Some(key) = self.kept.get(counter).filter(|_| !self.settled.contains(counter)) {
                writer.bytes(key);
            }
        }
        writer.finish()
    }

    /// A stored chain, for the path ([`Backend::AwsLc`]).
    ///
    /// # Errors
    /// [`SessionStateError`] unless the bytes are exactly what [`ReceiveChain::to_bytes`] gives.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SessionStateError> {
        Self::with_backend(Backend::AwsLc, bytes)
    }

    /// As [`ReceiveChain::from_bytes`], with the backend chosen.
    ///
    /// # Errors
    /// As [`ReceiveChain::from_bytes`].
    pub fn with_backend(backend: Backend, bytes: &[u8]) -> Result<Self, SessionStateError> {
        let (mut reader, session_id) = state::Reader::new(state::Kind::Receive, bytes)?;
        let next = reader.counter()?;
        let chain = reader.key()?;
        let mut settled = Settled::default();
        for word in settled.words_below_mut(next) {
            *word = reader.number()?;
        }
        if settled.any_from(next) {
            return Err(SessionStateError::Content);
        }
        let mut kept = KeptKeys::starting_at(settled.first_clear(next));
        for counter in kept.base..next {
            match settled.contains(counter) {
                true => kept.push(counter, &[0; KEY_BYTES]),
                false => kept.push(counter, &*reader.key()?),
            }
        }
        reader.finish()?;
        state::check_chain(next, &chain)?;
        Ok(Self { backend, session_id, next, chain, kept, settled, ahead: Ahead::default() })
    }
}

impl std::fmt::Debug for ReceiveChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveChain")
            .field("session_id", &self.session_id)
            .field("next", &self.next)
            .field("kept_keys", &self.kept_keys())
            .finish_non_exhaustive()
    }
}

/// Counters between two chain keys that are remembered ahead of the chain.
const AHEAD_EVERY: u64 = 64;
const AHEAD_SLOTS: usize = 64;
const _: () = assert!(AHEAD_SLOTS as u64 * AHEAD_EVERY == SESSION_MESSAGES_MAX);

/// Chain keys ahead of the chain that were worked out for messages that may not have opened. They follow from the chain key
/// that is held anyway, so they tell nobody more; one that the chain comes to is erased. Never stored.
#[derive(Default)]
struct Ahead {
    /// Slot n is for counter 64 n. There are none before they are needed, and they never move.
    slots: Vec<[u8; KEY_BYTES]>,
    /// One bit for each slot.
    known: u64,
}

impl Ahead {
    /// The chain key of `counter`, which is at or ahead of `next`, whose chain key is `chain`.
    fn chain_at(&mut self, counter: u64, backend: Backend, next: u64, chain: &Key) -> Key {
        let (mut at, mut chain) = match (1..=counter / AHEAD_EVERY).rev().find(|slot| self.known >> slot & 1 == 1) {
            Some(slot) => (slot * AHEAD_EVERY, Zeroizing::new(self.slots[index(slot)])),
            None => (next, chain.clone()),
        };
        while at < counter {
            step(backend, &mut chain);
            at += 1;
            if at.is_multiple_of(AHEAD_EVERY) {
                if self.slots.is_empty() {
                    self.slots = vec![[0; KEY_BYTES]; AHEAD_SLOTS];
                }
                let slot = at / AHEAD_EVERY;
                self.slots[index(slot)] = *chain;
                self.known |= 1 << slot;
            }
        }
        chain
    }

    /// The chain has come to `next`, one further than before.
    fn forget(&mut self, next: u64) {
        let slot = next / AHEAD_EVERY;
        if next.is_multiple_of(AHEAD_EVERY) && self.known >> (slot % 64) & 1 == 1 {
            self.slots[index(slot)].zeroize();
            self.known &= !(1 << slot);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.slots.zeroize();
    }
}

fn index(slot: u64) -> usize {
    usize::try_from(slot).expect("a slot is below 64")
}

/// The keys of counters `base..next`, in a ring: the slot of a counter never moves but when the ring grows, so an erased
/// key leaves no copy behind.
#[derive(Default)]
struct KeptKeys {
    /// A power of two many, or none. The slot of a settled counter is zero.
    slots: Vec<[u8; KEY_BYTES]>,
    /// The lowest counter that is not settled.
    base: u64,
    next: u64,
}

impl KeptKeys {
    fn starting_at(base: u64) -> Self {
        Self { slots: Vec::new(), base, next: base }
    }

    fn slot(&self, counter: u64) -> usize {
        let mask = self.slots.len() as u64 - 1;
        usize::try_from(counter & mask).expect("a slot is below 4,096")
    }

    fn get(&self, counter: u64) -> Option<&[u8; KEY_BYTES]> {
        (self.base..self.next).contains(&counter).then(|| &self.slots[self.slot(counter)])
    }

    fn push(&mut self, counter: u64, key: &[u8; KEY_BYTES]) {
        assert_eq!(counter, self.next, "keys come in the order of the chain");
        if self.next - self.base == self.slots.len() as u64 {
            self.grow();
        }
        let slot = self.slot(counter);
        self.slots[slot] = *key;
        self.next += 1;
    }

    /// Erases the key of a counter that was just settled, and forgets the settled ones at the front.
    fn erase(&mut self, counter: u64, settled: &Settled) {
        let slot = self.slot(counter);
        self.slots[slot].zeroize();
        while self.base < self.next && settled.contains(self.base) {
            self.base += 1;
        }
    }

    fn grow(&mut self) {
        let slots = vec![[0; KEY_BYTES]; (self.slots.len() * 2).max(16)];
        let mut old = std::mem::replace(&mut self.slots, slots);
        let old_mask = (old.len() as u64).wrapping_sub(1);
        for counter in self.base..self.next {
            let slot = self.slot(counter);
            self.slots[slot] = old[usize::try_from(counter & old_mask).expect("a slot is below 4,096")];
        }
        old.zeroize();
        assert!(self.slots.len() as u64 <= SESSION_MESSAGES_MAX, "no more keys than a session has messages");
    }
}

impl Drop for KeptKeys {
    fn drop(&mut self) {
        self.slots.zeroize();
    }
}

const SETTLED_WORDS: usize = 64;
const _: () = assert!(SETTLED_WORDS as u64 * 64 == SESSION_MESSAGES_MAX);

/// Which counters are settled, one bit each.
struct Settled {
    words: Box<[u64; SETTLED_WORDS]>,
}

impl Default for Settled {
    fn default() -> Self {
        Self { words: Box::new([0; SETTLED_WORDS]) }
    }
}

impl Settled {
    fn contains(&self, counter: u64) -> bool {
        let (word, bit) = position(counter);
        self.words[word] >> bit & 1 == 1
    }

    fn insert(&mut self, counter: u64) {
        let (word, bit) = position(counter);
        self.words[word] |= 1 << bit;
    }

    /// The words that hold the bits below `end`.
    fn words_below(&self, end: u64) -> &[u64] {
        &self.words[..words_of(end)]
    }

    fn words_below_mut(&mut self, end: u64) -> &mut [u64] {
        &mut self.words[..words_of(end)]
    }

    /// How many counters below `end` are not settled, where nothing from `end` on is.
    fn clear_below(&self, end: u64) -> usize {
        let settled: u32 = self.words_below(end).iter().map(|word| word.count_ones()).sum();
        usize::try_from(end).expect("a counter is at most 4,096") - settled as usize
    }

    /// True if anything from `end` on is settled.
    fn any_from(&self, end: u64) -> bool {
        (end..SESSION_MESSAGES_MAX).any(|counter| self.contains(counter))
    }

    /// The first counter that is not settled, or `end`.
    fn first_clear(&self, end: u64) -> u64 {
        (0..end).find(|&counter| !self.contains(counter)).unwrap_or(end)
    }
}

fn position(counter: u64) -> (usize, u64) {
    (usize::try_from(counter / 64).expect("a counter is below 4,096"), counter % 64)
}

fn words_of(end: u64) -> usize {
    usize::try_from(end.div_ceil(64)).expect("a counter is at most 4,096")
}
