//! The keys of a session on the sender's side: opened, stepped and used on the cryptographic workers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use creto_crypto_accel::keys::XWING_CIPHERTEXT_BYTES;
use creto_crypto_accel::seal::MessageKey;
use creto_crypto_accel::session::{Peers, SendChain, SessionId};
use creto_envelope::{AgentId, KeyId};

use crate::directory::Identity;
use crate::stats::UNPOISONED;

/// A session's chain, shared by the jobs that seal under it: whoever comes first takes the next counters, so they are
/// in no particular order between jobs.
#[derive(Debug)]
pub(crate) struct Chain(Mutex<State>);

#[derive(Debug)]
enum State {
    /// Nobody has sealed under it yet: the first job pays the encapsulation.
    ToOpen {
        me: AgentId,
        recipient: Arc<Identity>,
    },
    Open(Open),
    /// Handed over to the next run.
    Closed,
}

#[derive(Debug)]
struct Open {
    key_id: KeyId,
    wrapped_key: Box<[u8; XWING_CIPHERTEXT_BYTES]>,
    chain: SendChain,
}

/// Keys for some messages of a session.
pub(crate) struct Taken {
    pub(crate) session_id: SessionId,
    pub(crate) key_id: KeyId,
    pub(crate) wrapped_key: Box<[u8; XWING_CIPHERTEXT_BYTES]>,
    /// As many as were asked for, fewer at the session's end.
    pub(crate) keys: VecDeque<(u64, MessageKey)>,
    /// This was the first use: an encapsulation was paid.
    pub(crate) opened: bool,
}

impl Chain {
    pub(crate) fn new(me: AgentId, recipient: Arc<Identity>) -> Self {
        Self(Mutex::new(State::ToOpen { me, recipient }))
    }

    /// A chain of an earlier run.
    pub(crate) fn of(key_id: KeyId, wrapped_key: Box<[u8; XWING_CIPHERTEXT_BYTES]>, chain: SendChain) -> Self {
        Self(Mutex::new(State::Open(Open { key_id, wrapped_key, chain })))
    }

    /// The keys of the next `count` messages. `None` once the chain was handed over.
    pub(crate) fn take(&self, count: usize) -> Option<Taken> {
        let mut state = self.0.lock().expect(UNPOISONED);
        let mut opened = false;
        if let State::ToOpen { me, recipient } = &*state {
            let key_id = recipient.sealing.key_id();
            let peers = Peers { sender: me.0, recipient: recipient.record.agent_id().0, key_id };
            let (chain, wrapped_key) = SendChain::open(&recipient.sealing, &peers);
            *state = State::Open(Open { key_id: KeyId(key_id), wrapped_key: Box::new(wrapped_key), chain });
            opened = true;
        }
        let State::Open(Open { key_id, wrapped_key, chain }) = &mut *state else { return None };
        let keys = std::iter::from_fn(|| chain.next()).take(count).collect();
        let (session_id, key_id, wrapped_key) = (chain.session_id(), *key_id, wrapped_key.clone());
        Some(Taken { session_id, key_id, wrapped_key, keys, opened })
    }

    /// Hands the chain over: nobody takes a key from it here any more. `None` if it was never used.
    pub(crate) fn close(&self) -> Option<(Box<[u8; XWING_CIPHERTEXT_BYTES]>, SendChain)> {
        match std::mem::replace(&mut *self.0.lock().expect(UNPOISONED), State::Closed) {
            State::Open(Open { wrapped_key, chain, .. }) => Some((wrapped_key, chain)),
            State::ToOpen { .. } | State::Closed => None,
        }
    }
}
