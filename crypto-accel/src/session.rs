//! The session suite: one X-Wing encapsulation opens a session, then every message has a key of its own from a chain.
//!
//! ```text
//!  wrapped key ──X-Wing──> shared secret ──HKDF──> chain 0 ──step──> chain 1 ──step──> chain 2 ...
//!       └──SHA-256──> session id ─────────────────┘    └─> message key 0  └─> message key 1
//! ```
//!
//! A chain key is erased when it was stepped, a message key when its message is done: who takes a device learns nothing
//! about messages that were settled before, unless they also hold the recipient's encryption key, which opens the wrapped
//! key again until it was rotated away and erased.
//!
//! Both ends are state machines without clock, files or randomness of their own; whoever owns them persists them:
//!
//! - the sender stores [`SendChain::at`] the end of a range of counters **before** it uses the first counter of the range.
//!   After a crash it goes on from there, so no key ever encrypts two messages.
//! - the recipient keeps a key until its message is [settled](ReceiveChain::settle), and stores the chain before it tells
//!   the node that the message is done. After a crash a message that comes again opens again or is known to be settled.
//!
//! The derivations, byte for byte, are in `docs/envelope-format.md`.

use zeroize::Zeroizing;

use crate::Backend;
use crate::backend::step::Step;
use crate::backend::{aws_lc, portable};
use crate::digest::sha256;
use crate::keys::XWING_CIPHERTEXT_BYTES;
use crate::seal::{OpenError, SharedSecret};

mod channel;
mod receive;
pub(crate) mod send;
mod state;
#[cfg(test)]
mod tests;

pub use channel::{
    CHANNEL_SECRET_BYTES, CHANNEL_SESSION_MESSAGES_MAX, ChannelEnds, ChannelKey, ChannelReceiveChain, ChannelSendChain,
    ChannelSessionError,
};
pub use receive::ReceiveChain;
pub use send::SendChain;
pub use state::SessionStateError;

/// Messages of one session: counters are below this. The recipient remembers every counter of a session, so nothing
/// inside a session can fall out of a window.
pub const SESSION_MESSAGES_MAX: u64 = 4_096;

/// Names a session: a commitment to both ends and to the wrapped key that opened it. Never zero.
pub type SessionId = [u8; 16];

/// Bytes of a chain key and of a message key.
const KEY_BYTES: usize = 32;
/// A chain key or a message key; erased on drop.
type Key = Zeroizing<[u8; KEY_BYTES]>;

const SESSION_ID_LABEL: &[u8] = b"creto/session-id/v1";
/// First bytes of HKDF's info for chain 0, with the separator.
const SESSION_LABEL: &[u8] = b"creto/session/v1\0";
/// HKDF's info of a step. With it both HMACs of a step stay within one block each of SHA-256.
const STEP_LABEL: &[u8] = b"creto/session-step/v1";

/// The two ends of a session, and the recipient's key that it is sealed to. All of it is public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peers {
    /// Id of the agent that sends.
    pub sender: [u8; 16],
    /// Id of the agent that receives.
    pub recipient: [u8; 16],
    /// Id of the recipient's encryption key.
    pub key_id: [u8; 16],
}

impl Peers {
    /// The id of the session that `wrapped_key` opens between these two:
    /// SHA-256("creto/session-id/v1" || sender || recipient || key id || wrapped key)\[..16\].
    pub fn session_id(&self, wrapped_key: &[u8; XWING_CIPHERTEXT_BYTES]) -> SessionId {
        let hash = sha256(&[SESSION_ID_LABEL, &self.sender, &self.recipient, &self.key_id, wrapped_key]);
        *hash.first_chunk().expect("32 bytes hold 16")
    }
}

/// Chain key 0: HKDF-SHA256 with the empty salt, the shared secret, and as info
/// "creto/session/v1" || 0x00 || session id || sender || recipient || key id.
fn first_chain_key(secret: &SharedSecret, session_id: &SessionId, peers: &Peers) -> Key {
    let info: [&[u8]; 5] = [SESSION_LABEL, session_id, &peers.sender, &peers.recipient, &peers.key_id];
    match secret.backend() {
        Backend::AwsLc => aws_lc::hkdf_sha256(secret.expose(), &info),
        Backend::Portable => portable::hkdf_sha256(secret.expose(), &info),
    }
}

/// Steps `chain` from counter c to c + 1 and returns message key c:
/// HKDF-Expand-SHA256(chain c, "creto/session-step/v1", 64) = chain c + 1 || message key c. Chain c is gone after it.
fn step(backend: Backend, chain: &mut Key) -> Key {
    const STEP: Step = Step::new(STEP_LABEL);
    #[cfg(test)]
    STEPS.with(|steps| steps.set(steps.get() + 1));
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    match backend {
        Backend::AwsLc => STEP.expand(chain, &mut key),
        Backend::Portable => portable::step(chain, STEP_LABEL, &mut key),
    }
    key
}

#[cfg(test)]
thread_local! {
    /// Steps that this thread took.
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Why a session does not give a message, or is none. It says nothing about keys or plaintexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The session is sealed to another key than the one that was given.
    #[error("session is sealed to another key: look the secret up by the envelope's key id")]
    OtherKey,
    /// The session id is not the one that both ends and the wrapped key give.
    #[error("session id does not commit to this wrapped key and these agents: ask the sender to open a new session")]
    SessionId,
    /// No session has this counter.
    #[error("counter is beyond the end of a session: ask the sender to open a new session after 4,096 messages")]
    CounterBeyondEnd,
    /// This message was settled, and its key is gone.
    #[error("message was settled before and its key is erased: acknowledge it again and do not show it")]
    AlreadySettled,
    /// The wrapped key or the payload does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
}
