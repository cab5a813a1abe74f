//! A session under everything that happens to it: messages out of order, twice and never, forgeries, crashes of both ends
//! at any point. The model knows every key (from an HMAC of its own) and says what each step must give.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Send,
    /// The sender dies: what it reserved and did not use is never sent.
    SenderCrash,
    /// One of the messages sent so far comes, maybe again.
    Deliver(prop::sample::Index),
    /// It comes with one bit changed, in the payload (false) or in the header.
    DeliverChanged(prop::sample::Index, usize, bool),
    /// It comes as if it had another counter.
    DeliverAs(prop::sample::Index, u64),
    /// The application is done with one of the messages that it was shown.
    Settle(prop::sample::Index),
    /// A message is given up, whether it came or not.
    GiveUp(u64),
    /// The recipient's state goes to the disk.
    Persist,
    /// The recipient dies and reads its state.
    RecipientCrash,
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        10 => Just(Op::Send),
        1 => Just(Op::SenderCrash),
        12 => index().prop_map(Op::Deliver),
        2 => (index(), any::<usize>(), any::<bool>()).prop_map(|(at, bit, header)| Op::DeliverChanged(at, bit, header)),
        2 => (index(), prop_oneof![0..300u64, 0..5_000u64]).prop_map(|(at, counter)| Op::DeliverAs(at, counter)),
        8 => index().prop_map(Op::Settle),
        1 => (0..40u64).prop_map(Op::GiveUp),
        3 => Just(Op::Persist),
        1 => Just(Op::RecipientCrash),
    ]
}

/// Every secret of a session.
struct Oracle {
    message_keys: Vec<[u8; 32]>,
    /// First eight bytes of each secret: what it is.
    secrets: BTreeMap<[u8; 8], Secret>,
}

#[derive(Clone, Copy, Debug)]
enum Secret {
    Chain(u64),
    Message(u64),
}

impl Oracle {
    fn new(chain_0: [u8; 32]) -> Self {
        let (mut chain, mut message_keys, mut secrets) = (chain_0, Vec::new(), BTreeMap::new());
        for counter in 0..SESSION_MESSAGES_MAX {
            secrets.insert(*chain.first_chunk().unwrap(), Secret::Chain(counter));
            let (next, key) = oracle_step(&chain);
            secrets.insert(*key.first_chunk().unwrap(), Secret::Message(counter));
            message_keys.push(key);
            chain = next;
        }
        assert_eq!(secrets.len(), 8_192, "no two secrets of a session are alike");
        Self { message_keys, secrets }
    }

    fn seal(&self, counter: u64) -> Vec<u8> {
        let key = self.message_keys[usize::try_from(counter).unwrap()];
        seal(MessageKey::from_bytes(Backend::Portable, Zeroizing::new(key)), counter, &counter.to_le_bytes())
    }

    /// The secrets that stand anywhere in `bytes`.
    fn found_in<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = Secret> + 'a {
        bytes.windows(8).filter_map(|window| self.secrets.get(window).copied())
    }
}

/// What the recipient must know.
#[derive(Clone, Default)]
struct Expected {
    /// One above the highest counter that was opened or given up.
    next: u64,
    settled: BTreeSet<u64>,
}

struct World {
    oracle: Oracle,
    send: SendChain,
    send_stored: Vec<u8>,
    reserved_until: u64,
    reserve: u64,
    sent: Vec<(u64, Vec<u8>)>,
    receive: ReceiveChain,
    receive_stored: Vec<u8>,
    expected: Expected,
    expected_stored: Expected,
    shown: Vec<u64>,
}

impl World {
    fn new(sender: Backend, recipient: Backend, reserve: u64) -> Self {
        let (send, receive) = session(sender, recipient);
        let stored = send.to_bytes().to_vec();
        Self {
            oracle: Oracle::new(stored[32..64].try_into().unwrap()),
            reserved_until: 0,
            reserve,
            sent: Vec::new(),
            receive_stored: receive.to_bytes().to_vec(),
            expected: Expected::default(),
            expected_stored: Expected::default(),
            shown: Vec::new(),
            send,
            send_stored: stored,
            receive,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Send => self.send(),
            Op::SenderCrash => {
                self.send = SendChain::from_bytes(&self.send_stored).unwrap();
                self.reserved_until = self.send.counter();
            }
            Op::Deliver(at) if !self.sent.is_empty() => {
                let (counter, sealed) = at.get(&self.sent).clone();
                self.deliver(counter, &sealed);
            }
            Op::DeliverChanged(at, bit, in_header) if !self.sent.is_empty() => {
                let (counter, mut sealed) = at.get(&self.sent).clone();
                let mut header = HEADER;
                match in_header {
                    true => header[bit / 8 % 160] ^= 1 << (bit % 8),
                    false => {
                        let byte = bit / 8 % sealed.len();
                        sealed[byte] ^= 1 << (bit % 8);
                    }
                }
                self.refuse(counter, &header, &sealed);
            }
            Op::DeliverAs(at, counter) if !self.sent.is_empty() => {
                let (sent_as, sealed) = at.get(&self.sent).clone();
                if sent_as != counter {
                    self.refuse(counter, &HEADER, &sealed);
                }
            }
            Op::Settle(at) if !self.shown.is_empty() => self.settle(*at.get(&self.shown)),
            Op::GiveUp(counter) => self.settle(counter),
            Op::Persist => {
                self.receive_stored = self.receive.to_bytes().to_vec();
                self.expected_stored = self.expected.clone();
                self.check_stored();
            }
            Op::RecipientCrash => {
                self.receive = ReceiveChain::from_bytes(&self.receive_stored).unwrap();
                self.expected = self.expected_stored.clone();
            }
            _ => {}
        }
        self.check();
    }

    /// Reserves on disk before use, as a sender must.
    fn send(&mut self) {
        if self.send.counter() == self.reserved_until {
            self.reserved_until = (self.reserved_until + self.reserve).min(SESSION_MESSAGES_MAX);
            self.send_stored = self.send.at(self.reserved_until).unwrap().to_bytes().to_vec();
        }
        let Some((counter, key)) = self.send.next() else { return };
        let sealed = seal(key, counter, &counter.to_le_bytes());
        assert_eq!(sealed, self.oracle.seal(counter), "the key of {counter} is the one of its place in the chain");
        let used = self.sent.iter().any(|(used, _)| *used == counter);
        assert!(!used, "counter {counter}, its key and its nonce were used before");
        self.sent.push((counter, sealed));
    }

    fn deliver(&mut self, counter: u64, sealed: &[u8]) {
        let opened = open(&mut self.receive, counter, sealed);
        match self.expected.settled.contains(&counter) {
            true => assert_eq!(opened, Err(SessionError::AlreadySettled)),
            false => {
                assert_eq!(opened.unwrap(), counter.to_le_bytes());
                self.expected.next = self.expected.next.max(counter + 1);
                self.shown.push(counter);
            }
        }
    }

    /// What is not authentic is refused and leaves no trace.
    fn refuse(&mut self, counter: u64, header: &[u8], sealed: &[u8]) {
        let before = self.receive.to_bytes();
        let refused = self.receive.open(counter, &nonce(counter), header, sealed).unwrap_err();
        let expected = match counter {
            SESSION_MESSAGES_MAX.. => SessionError::CounterBeyondEnd,
            _ if self.expected.settled.contains(&counter) => SessionError::AlreadySettled,
            _ => NOT_AUTHENTIC,
        };
        assert_eq!(refused, expected);
        assert_eq!(self.receive.to_bytes(), before);
    }

    fn settle(&mut self, counter: u64) {
        self.receive.settle(counter);
        self.expected.settled.insert(counter);
        self.expected.next = self.expected.next.max(counter + 1);
    }

    fn check(&self) {
        let Expected { next, settled } = &self.expected;
        let kept = usize::try_from(*next).unwrap() - settled.len();
        assert_eq!(self.receive.kept_keys(), kept);
        assert!(kept <= 4_096);
        assert_eq!(self.receive.is_finished(), settled.len() == 4_096);
        self.receive.remembered_ahead();
        for counter in 0..*next {
            assert_eq!(self.receive.is_settled(counter), settled.contains(&counter));
        }
    }

    /// The stored state has exactly the secrets that it needs: this chain key, and the keys of what is not settled.
    fn check_stored(&self) {
        let Expected { next, settled } = &self.expected_stored;
        let (mut chains, mut keys) = (Vec::new(), BTreeSet::new());
        for secret in self.oracle.found_in(&self.receive_stored) {
            match secret {
                Secret::Chain(counter) => chains.push(counter),
                Secret::Message(counter) => drop(keys.insert(counter)),
            }
        }
        assert_eq!(chains, [*next], "passed chain keys are gone");
        assert_eq!(keys, (0..*next).filter(|counter| !settled.contains(counter)).collect());
    }
}

fn backend() -> impl Strategy<Value = Backend> {
    prop_oneof![Just(Backend::AwsLc), Just(Backend::Portable)]
}

proptest! {
    // A failing case is printed with its seed and made small.
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn every_message_opens_exactly_when_it_should_whatever_happens(
        (sender, recipient) in (backend(), backend()),
        reserve in prop_oneof![1..4u64, Just(128), Just(1_000)],
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let mut world = World::new(sender, recipient, reserve);
        ops.into_iter().for_each(|op| world.apply(op));
        // In the end everything that was sent and not settled comes once more and opens.
        for (counter, sealed) in world.sent.clone() {
            world.deliver(counter, &sealed);
        }
    }
}
