//! Sessions of channels: one publisher, many subscribers, a key for each message from one chain.
//!
//! ```text
//!  random secret ──HKDF──> chain 0 ──step──> chain 1 ──step──> chain 2 ...
//!                             └─> message key 0  └─> message key 1
//! ```
//!
//! There is no encapsulation: the publisher gives each subscriber a [`ChannelKey`], sealed to it like any message, with the chain key
//! of the counter from which on it may read. It opens that message and all later ones of the session, and none before. Whoever
//! leaves keeps what it has, so the publisher goes on with a new session then.
//!
//! All who read hold the keys that seal, so a ciphertext that opens proves nothing about its sender: the signatures of the batch do.
//!
//! A publisher stores [`ChannelSendChain::at`] the end of a range of counters before it uses the first of them, as with a
//! [`SendChain`](super::SendChain). A subscriber may have to read a message again that it has read, so it holds its `ChannelKey` until
//! the channel keeps nothing of the session any more: what is kept on the node can be read with what is kept here.

use std::fmt;

use zeroize::Zeroizing;

use super::{KEY_BYTES, Key, SessionId, SessionStateError, state, step};
use crate::Backend;
use crate::backend::{aws_lc, portable};
use crate::digest::sha256;
use crate::seal::MessageKey;

/// Messages of one session of a channel: counters are below this. A subscriber that reads the last one first takes as many steps, which
/// is about 20 ms.
pub const CHANNEL_SESSION_MESSAGES_MAX: u64 = 65_536;

/// Bytes of the secret that a session begins with.
pub const CHANNEL_SECRET_BYTES: usize = 32;

const SESSION_ID_LABEL: &[u8] = b"creto/channel-session-id/v1";
/// First bytes of HKDF's info for chain 0, with the separator.
const SESSION_LABEL: &[u8] = b"creto/channel-session/v1\0";

/// What is read, and who writes it. Public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelEnds {
    /// Id of the channel.
    pub channel: [u8; 16],
    /// Id of the agent that publishes.
    pub publisher: [u8; 16],
}

/// The publisher's end of a session. Erased on drop, never printed.
///
/// Deliberately not `Clone`: two chains at one counter would encrypt two messages under one key.
pub struct ChannelSendChain(Position);

/// What a subscriber is given: the chain key of one counter. It opens the message of that counter and those behind it. Erased on
/// drop, never printed.
pub struct ChannelKey(Position);

/// A subscriber's end of a session. Erased on drop, never printed.
pub struct ChannelReceiveChain {
    /// What was given.
    first: Position,
    /// Where the last message that was asked for has left it.
    reached: Position,
}

/// A place in a chain.
struct Position {
    backend: Backend,
    ends: ChannelEnds,
    session_id: SessionId,
    /// At most [`CHANNEL_SESSION_MESSAGES_MAX`].
    counter: u64,
    /// The chain key of `counter`.
    chain: Key,
}

/// Why a session gives no key for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelSessionError {
    /// It was published before the subscriber was let in.
    #[error(
        "the message {counter} was published before this subscriber was given the key, which opens those from {first} on"
    )]
    Earlier {
        /// The message.
        counter: u64,
        /// The first that opens.
        first: u64,
    },
    /// No session has this counter.
    #[error("counter is beyond the end of a channel's session, which has 65,536 messages")]
    BeyondEnd,
}

impl ChannelSendChain {
    /// A session that begins with `secret`, which must be fresh and random: two sessions of one publisher from one secret encrypt
    /// under the same keys.
    pub fn new(ends: ChannelEnds, secret: &[u8; CHANNEL_SECRET_BYTES]) -> Self {
        Self::with_backend(Backend::AwsLc, ends, secret)
    }

    /// As [`ChannelSendChain::new`], with the backend chosen.
    pub fn with_backend(backend: Backend, ends: ChannelEnds, secret: &[u8; CHANNEL_SECRET_BYTES]) -> Self {
        let ChannelEnds { channel, publisher } = &ends;
        // It commits to the secret, of which it tells nothing: that has 256 random bits.
        let hash = sha256(&[SESSION_ID_LABEL, channel, publisher, secret]);
        let session_id: SessionId = *hash.first_chunk().expect("32 bytes hold 16");
        let info: [&[u8]; 4] = [SESSION_LABEL, &session_id, channel, publisher];
        let chain = match backend {
            Backend::AwsLc => aws_lc::hkdf_sha256(secret, &info),
            Backend::Portable => portable::hkdf_sha256(secret, &info),
        };
        Self(Position { backend, ends, session_id, counter: 0, chain })
    }

    /// The session's id.
    pub fn session_id(&self) -> SessionId {
        self.0.session_id
    }

    /// Counter of the next message: how many were sealed.
    pub fn counter(&self) -> u64 {
        self.0.counter
    }

    /// Counter and key of the next message, or `None` when the session is full. The key that gave it is gone after this.
    #[allow(clippy::should_implement_trait, reason = "an iterator could be collected: keys must not pile up")]
    pub fn next(&mut self) -> Option<(u64, MessageKey)> {
        let counter = self.0.counter;
        (counter < CHANNEL_SESSION_MESSAGES_MAX).then(|| (counter, self.0.advance()))
    }

    /// What a subscriber is to be given that may read from the next message on.
    pub fn key(&self) -> ChannelKey {
        ChannelKey(self.0.copy())
    }

    /// The same chain further on, at `counter`, for the state that is stored before the counters up to it are used. `None` behind
    /// this chain's position and beyond the end. Of this chain and the returned one only one may go on.
    pub fn at(&self, counter: u64) -> Option<Self> {
        if counter < self.0.counter || counter > CHANNEL_SESSION_MESSAGES_MAX {
            return None;
        }
        let mut ahead = self.0.copy();
        ahead.advance_to(counter);
        Some(Self(ahead))
    }

    /// The chain as it is stored.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        self.0.to_bytes(state::Kind::ChannelSend)
    }

    /// A stored chain, for the path ([`Backend::AwsLc`]).
    ///
    /// # Errors
    /// [`SessionStateError`] unless the bytes are exactly what [`ChannelSendChain::to_bytes`] gives.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SessionStateError> {
        Position::from_bytes(Backend::AwsLc, state::Kind::ChannelSend, bytes).map(Self)
    }
}

impl ChannelKey {
    /// What it reads, and whose.
    pub fn ends(&self) -> ChannelEnds {
        self.0.ends
    }

    /// The session's id.
    pub fn session_id(&self) -> SessionId {
        self.0.session_id
    }

    /// The first message that it opens.
    pub fn counter(&self) -> u64 {
        self.0.counter
    }

    /// The key further on, which opens from the message `counter` on and none before: what a publisher gives whom it lets in later.
    /// `None` behind this key's own message and beyond the end.
    pub fn at(&self, counter: u64) -> Option<Self> {
        if counter < self.0.counter || counter >= CHANNEL_SESSION_MESSAGES_MAX {
            return None;
        }
        let mut ahead = self.0.copy();
        ahead.advance_to(counter);
        Some(Self(ahead))
    }

    /// The key as it is sealed to a subscriber, and stored there.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        self.0.to_bytes(state::Kind::ChannelKey)
    }

    /// A key that a publisher gave, for the path ([`Backend::AwsLc`]). Whether it is that of the channel and the publisher whom it is
    /// asked of is for the caller to say: [`ChannelKey::ends`].
    ///
    /// # Errors
    /// [`SessionStateError`] unless the bytes are exactly what [`ChannelKey::to_bytes`] gives.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SessionStateError> {
        Self::with_backend(Backend::AwsLc, bytes)
    }

    /// As [`ChannelKey::from_bytes`], with the backend chosen.
    ///
    /// # Errors
    /// As [`ChannelKey::from_bytes`].
    pub fn with_backend(backend: Backend, bytes: &[u8]) -> Result<Self, SessionStateError> {
        Position::from_bytes(backend, state::Kind::ChannelKey, bytes).map(Self)
    }
}

impl ChannelReceiveChain {
    /// The session that a key opens, from its message on.
    pub fn new(key: ChannelKey) -> Self {
        Self { reached: key.0.copy(), first: key.0 }
    }

    /// What it reads, and whose.
    pub fn ends(&self) -> ChannelEnds {
        self.first.ends
    }

    /// The session's id.
    pub fn session_id(&self) -> SessionId {
        self.first.session_id
    }

    /// The key of a message. One step for each that follows the last one asked for; one that lies before it is reached from the
    /// beginning.
    ///
    /// # Errors
    /// [`ChannelSessionError`].
    pub fn key(&mut self, counter: u64) -> Result<MessageKey, ChannelSessionError> {
        if counter >= CHANNEL_SESSION_MESSAGES_MAX {
            return Err(ChannelSessionError::BeyondEnd);
        }
        let first = self.first.counter;
        if counter < first {
            return Err(ChannelSessionError::Earlier { counter, first });
        }
        if counter < self.reached.counter {
            self.reached = self.first.copy();
        }
        self.reached.advance_to(counter);
        Ok(self.reached.advance())
    }

    /// What it was made of, to be stored.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        self.first.to_bytes(state::Kind::ChannelKey)
    }
}

impl Position {
    fn copy(&self) -> Self {
        Self { chain: self.chain.clone(), ..*self }
    }

    /// The key of this message; the chain is that of the next one then.
    fn advance(&mut self) -> MessageKey {
        MessageKey::from_bytes(self.backend, self.step())
    }

    fn advance_to(&mut self, counter: u64) {
        while self.counter < counter {
            self.step();
        }
    }

    fn step(&mut self) -> Key {
        assert!(self.counter < CHANNEL_SESSION_MESSAGES_MAX, "a full session gives no key");
        self.counter += 1;
        step(self.backend, &mut self.chain)
    }

    fn to_bytes(&self, kind: state::Kind) -> Zeroizing<Vec<u8>> {
        let mut writer = state::Writer::new(kind, KEY_BYTES + 32, &self.session_id);
        writer.number(self.counter);
        writer.bytes(self.chain.as_slice());
        writer.bytes(&self.ends.channel);
        writer.bytes(&self.ends.publisher);
        writer.finish()
    }

    fn from_bytes(backend: Backend, kind: state::Kind, bytes: &[u8]) -> Result<Self, SessionStateError> {
        let (mut reader, session_id) = state::Reader::new(kind, bytes)?;
        let counter = reader.number()?;
        let chain = reader.key()?;
        let ends = ChannelEnds { channel: reader.id()?, publisher: reader.id()? };
        reader.finish()?;
        // A key that opens nothing is none.
        let counter_max = CHANNEL_SESSION_MESSAGES_MAX - u64::from(kind == state::Kind::ChannelKey);
        match counter <= counter_max {
            true => Ok(Self { backend, ends, session_id, counter, chain }),
            false => Err(SessionStateError::Content),
        }
    }
}

impl Position {
    fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session_id, counter, .. } = self;
        f.debug_struct(name).field("session_id", session_id).field("counter", counter).finish_non_exhaustive()
    }
}

impl fmt::Debug for ChannelSendChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show("ChannelSendChain", f)
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show("ChannelKey", f)
    }
}

impl fmt::Debug for ChannelReceiveChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.show("ChannelReceiveChain", f)
    }
}
