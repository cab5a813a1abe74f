//! The keys of a session on the sender's side: opened, stepped and used on the cryptographic workers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use creto_crypto_accel::keys::XWING_CIPHERTEXT_BYTES;
use creto_crypto_accel::seal::MessageKey;
use creto_crypto_accel::session::{Peers, SendChain, SessionId};
use creto_envelope::{AgentId, KeyId};

use crate::directory::Identity;
use crate::prekeys::claimed::ClaimedPrekey;
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
        prekey: Option<Arc<ClaimedPrekey>>,
    },
    Open(Open),
    /// Handed over to the next run.
    Closed,
}

#[derive(Debug)]
struct Open {
    keys: SessionKeys,
    wrapped_key: Box<[u8; XWING_CIPHERTEXT_BYTES]>,
    chain: SendChain,
}

/// What a session was opened to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SessionKeys {
    /// The encryption key of the recipient's record.
    pub(crate) record: KeyId,
    /// The prekey, if it was opened to one.
    pub(crate) prekey: Option<KeyId>,
}

/// Keys for some messages of a session.
pub(crate) struct Taken {
    pub(crate) session_id: SessionId,
    pub(crate) opened_to: SessionKeys,
    pub(crate) wrapped_key: Box<[u8; XWING_CIPHERTEXT_BYTES]>,
    /// As many as were asked for, fewer at the session's end.
    pub(crate) keys: VecDeque<(u64, MessageKey)>,
    /// This was the first use: an encapsulation was paid.
    pub(crate) opened: bool,
}

impl SessionKeys {
    /// The one that the session's envelopes name.
    pub(crate) fn wire(&self) -> KeyId {
        self.prekey.unwrap_or(self.record)
    }
}

impl Chain {
    /// A chain that is opened with its first key: to the prekey, or to the key of the record.
    pub(crate) fn new(me: AgentId, recipient: Arc<Identity>, prekey: Option<Arc<ClaimedPrekey>>) -> Self {
        Self(Mutex::new(State::ToOpen { me, recipient, prekey }))
    }

    /// A chain of an earlier run.
    pub(crate) fn of(keys: SessionKeys, wrapped_key: Box<[u8; XWING_CIPHERTEXT_BYTES]>, chain: SendChain) -> Self {
        Self(Mutex::new(State::Open(Open { keys, wrapped_key, chain })))
    }

    /// The keys of the next `count` messages. `None` once the chain was handed over.
    pub(crate) fn take(&self, count: usize) -> Option<Taken> {
        let mut state = self.0.lock().expect(UNPOISONED);
        let mut opened = false;
        if let State::ToOpen { me, recipient, prekey } = &*state {
            let record = KeyId(recipient.sealing.key_id());
            let keys = SessionKeys { record, prekey: prekey.as_ref().map(|prekey| prekey.id) };
            let key = prekey.as_ref().map_or(&recipient.sealing, |prekey| &prekey.key);
            let peers = Peers { sender: me.0, recipient: recipient.record.agent_id().0, key_id: keys.wire().0 };
            let (chain, wrapped_key) = SendChain::open(key, &peers);
            *state = State::Open(Open { keys, wrapped_key: Box::new(wrapped_key), chain });
            opened = true;
        }
        let State::Open(Open { keys: opened_to, wrapped_key, chain }) = &mut *state else { return None };
        let keys = std::iter::from_fn(|| chain.next()).take(count).collect();
        let (session_id, opened_to, wrapped_key) = (chain.session_id(), *opened_to, wrapped_key.clone());
        Some(Taken { session_id, opened_to, wrapped_key, keys, opened })
    }

    /// Hands the chain over: nobody takes a key from it here any more. `None` if it was never used.
    pub(crate) fn close(&self) -> Option<(SessionKeys, Box<[u8; XWING_CIPHERTEXT_BYTES]>, SendChain)> {
        match std::mem::replace(&mut *self.0.lock().expect(UNPOISONED), State::Closed) {
            State::Open(Open { keys, wrapped_key, chain }) => Some((keys, wrapped_key, chain)),
            State::ToOpen { .. } | State::Closed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use creto_envelope::{AgentName, TrustDomain};

    use super::*;
    use crate::keys::AgentKeys;

    fn chain() -> Chain {
        let keys = AgentKeys::generate(AgentName::parse("acme/worker").unwrap(), TrustDomain::default()).unwrap();
        let identity = Identity::verify(keys.id(), &keys.signed_record(1, 0, u64::MAX)).unwrap();
        Chain::new(AgentId([7; 16]), Arc::new(identity), None)
    }

    #[test]
    fn jobs_side_by_side_never_get_the_same_counter_and_pay_one_encapsulation() {
        let chain = chain();
        let mut taken: Vec<Taken> = Vec::new();
        std::thread::scope(|scope| {
            let jobs: Vec<_> = (1..=8)
                .map(|count| {
                    let chain = &chain;
                    scope.spawn(move || [chain.take(count), chain.take(count)])
                })
                .collect();
            jobs.into_iter().for_each(|job| taken.extend(job.join().unwrap().into_iter().flatten()));
        });
        let counters: BTreeSet<u64> = taken.iter().flat_map(|taken| &taken.keys).map(|(counter, _)| *counter).collect();
        assert_eq!(counters, (0..72).collect());
        assert_eq!(taken.iter().filter(|taken| taken.opened).count(), 1);
        assert!(taken.iter().all(|other| other.session_id == taken[0].session_id));
    }

    #[test]
    fn a_chain_that_was_handed_over_gives_no_key_any_more() {
        let chain = chain();
        assert!(chain.take(3).is_some());
        let (_, _, handed) = chain.close().unwrap();
        assert_eq!(handed.counter(), 3);
        assert!(chain.take(1).is_none() && chain.close().is_none());
    }

    #[test]
    fn a_session_that_was_planned_and_never_used_leaves_nothing_behind() {
        assert!(chain().close().is_none());
    }
}
