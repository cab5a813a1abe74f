//! The sender's end: a key for each message, forward only.

use zeroize::{Zeroize, Zeroizing};

use super::{KEY_BYTES, Key, Peers, SESSION_MESSAGES_MAX, SessionId, SessionStateError, first_chain_key, state, step};
use crate::Backend;
use crate::keys::{KeyError, RecipientPublic, XWING_CIPHERTEXT_BYTES, XWING_COINS_BYTES};
use crate::seal::{MessageKey, RecipientKey, SharedSecret};

/// The sender's end of a session. Erased on drop, never printed.
///
/// Deliberately not `Clone`: two chains at one counter would encrypt two messages under one key.
pub struct SendChain {
    backend: Backend,
    session_id: SessionId,
    /// Counter of the next message.
    counter: u64,
    /// The chain key of `counter`; zero when the session is full.
    chain: Key,
}

impl SendChain {
    /// Opens a session with one encapsulation (about 80 us): the chain at counter 0, and the wrapped key that the
    /// session's first messages carry. The session id commits to it.
    ///
    /// # Panics
    /// If `peers` names another key than `recipient`: the session could never be opened.
    pub fn open(recipient: &RecipientKey, peers: &Peers) -> (Self, [u8; XWING_CIPHERTEXT_BYTES]) {
        assert_eq!(recipient.key_id(), peers.key_id, "a session is sealed to the key that it names");
        let (wrapped_key, secret) = recipient.encapsulate();
        (Self::begin(&secret, peers, &wrapped_key), wrapped_key)
    }

    fn begin(secret: &SharedSecret, peers: &Peers, wrapped_key: &[u8; XWING_CIPHERTEXT_BYTES]) -> Self {
        let session_id = peers.session_id(wrapped_key);
        let chain = first_chain_key(secret, &session_id, peers);
        Self { backend: secret.backend(), session_id, counter: 0, chain }
    }

    /// The session's id.
    pub fn session_id(&self) -> SessionId {
        self.session_id
    }

    /// Counter of the next message: how many were sent.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Counter and key of the next message, or `None` when the session is full. The key that gave it is gone after this.
    #[allow(clippy::should_implement_trait, reason = "an iterator could be collected: keys must not pile up")]
    pub fn next(&mut self) -> Option<(u64, MessageKey)> {
        if self.counter >= SESSION_MESSAGES_MAX {
            return None;
        }
        let counter = self.counter;
        let key = self.advance();
        Some((counter, MessageKey::from_bytes(self.backend, key)))
    }

    /// The same chain further on, at `counter`, for the state that is stored before the counters up to it are used.
    /// `None` behind this chain's position and beyond the end. Of this chain and the returned one only one may go on.
    pub fn at(&self, counter: u64) -> Option<Self> {
        if counter < self.counter || counter > SESSION_MESSAGES_MAX {
            return None;
        }
        let mut ahead = Self { chain: self.chain.clone(), ..*self };
        while ahead.counter < counter {
            ahead.advance();
        }
        Some(ahead)
    }

    fn advance(&mut self) -> Key {
        assert!(self.counter < SESSION_MESSAGES_MAX, "a full session gives no key");
        let key = step(self.backend, &mut self.chain);
        self.counter += 1;
        if self.counter == SESSION_MESSAGES_MAX {
            // Nothing comes after it, so nothing needs it.
            self.chain.zeroize();
        }
        key
    }

    /// The chain as it is stored. Its layout is versioned; see [`SendChain::from_bytes`].
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = state::Writer::new(state::Kind::Send, KEY_BYTES, &self.session_id);
        writer.number(self.counter);
        writer.bytes(self.chain.as_slice());
        writer.finish()
    }

    /// A stored chain, for the path ([`Backend::AwsLc`]).
    ///
    /// # Errors
    /// [`SessionStateError`] unless the bytes are exactly what [`SendChain::to_bytes`] gives.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SessionStateError> {
        Self::with_backend(Backend::AwsLc, bytes)
    }

    /// As [`SendChain::from_bytes`], with the backend chosen.
    ///
    /// # Errors
    /// As [`SendChain::from_bytes`].
    pub fn with_backend(backend: Backend, bytes: &[u8]) -> Result<Self, SessionStateError> {
        let (mut reader, session_id) = state::Reader::new(state::Kind::Send, bytes)?;
        let counter = reader.counter()?;
        let chain = reader.key()?;
        reader.finish()?;
        state::check_chain(counter, &chain)?;
        Ok(Self { backend, session_id, counter, chain })
    }
}

impl std::fmt::Debug for SendChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendChain")
            .field("session_id", &self.session_id)
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

/// [`SendChain::open`] with the coins of its encapsulation given, on the portable backend: the same coins give the same
/// session. Only for golden files: two sessions from the same coins encrypt under the same keys.
///
/// # Errors
/// As [`RecipientKey::parse`].
pub fn open_session_deterministic(
    recipient: &RecipientPublic,
    peers: &Peers,
    coins: &[u8; XWING_COINS_BYTES],
) -> Result<(SendChain, [u8; XWING_CIPHERTEXT_BYTES]), KeyError> {
    let (wrapped_key, secret) = crate::portable::encapsulate_deterministic(recipient, coins)?;
    Ok((SendChain::begin(&secret, peers, &wrapped_key), wrapped_key))
}
