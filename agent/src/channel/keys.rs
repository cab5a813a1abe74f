//! The keys of channels that publishers gave this agent: what each opens, how long it is kept. Pure.
//!
//! A key is kept as it was given, because what was read may have to be read again, as long as the channel keeps it. Bounded per
//! publisher and in all: whoever is above its own bound loses the key that was idle longest; above the bound over all, whoever has most
//! does.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use creto_crypto_accel::seal::MessageKey;
use creto_crypto_accel::session::{ChannelKey, ChannelReceiveChain, ChannelSessionError, SessionId};
use creto_envelope::{AgentId, ChannelId};

use crate::limits::{ALL_CHANNEL_KEYS_MAX, CHANNEL_KEY_GRACE, PUBLISHER_CHANNEL_KEYS_MAX};

/// Names a session of a channel to whoever reads it.
pub(crate) type PublishedSession = (AgentId, SessionId);

/// See the module.
#[derive(Debug)]
pub(crate) struct ChannelKeys {
    entries: HashMap<PublishedSession, Entry>,
    counts: BTreeMap<AgentId, usize>,
    publisher_max: usize,
    all_max: usize,
}

#[derive(Debug)]
struct Entry {
    chain: ChannelReceiveChain,
    first: u64,
    times: Times,
    /// When it was used last, as the disk has it.
    written_used_at_ms: u64,
}

/// When a key came and when it opened something last, Unix milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Times {
    pub(crate) received_at_ms: u64,
    pub(crate) used_at_ms: u64,
}

/// A key as it is stored.
#[derive(Debug)]
pub(crate) struct StoredKey {
    pub(crate) key: ChannelKey,
    pub(crate) times: Times,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct KeyChanges {
    pub(crate) kept: Vec<StoredKey>,
    pub(crate) removed: Vec<PublishedSession>,
}

impl KeyChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.removed.is_empty()
    }
}

/// Why a message does not open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoKey {
    /// Its publisher has not given the key of its session, or not yet.
    NotGiven,
    /// It was published before this agent was let in: it never opens.
    Earlier,
}

impl ChannelKeys {
    pub(crate) fn new() -> Self {
        Self::bounded(PUBLISHER_CHANNEL_KEYS_MAX, ALL_CHANNEL_KEYS_MAX)
    }

    fn bounded(publisher_max: usize, all_max: usize) -> Self {
        assert!(0 < publisher_max && publisher_max <= all_max, "the session in use must have a place");
        Self { entries: HashMap::new(), counts: BTreeMap::new(), publisher_max, all_max }
    }

    /// A key from the disk.
    pub(crate) fn adopt(&mut self, stored: StoredKey) {
        let StoredKey { key, times } = stored;
        self.insert(key, times, &mut Vec::new());
    }

    /// A publisher gave a key, whose sender was verified to be that. What is to be written before that is acknowledged is added to
    /// `changes`.
    pub(crate) fn keep(&mut self, key: ChannelKey, now_ms: u64, changes: &mut KeyChanges) {
        let session = session_of(&key);
        // The one that opens more stays.
        if self.entries.get(&session).is_some_and(|known| known.first <= key.counter()) {
            return;
        }
        let used_at_ms = self.entries.get(&session).map_or(now_ms, |known| known.times.used_at_ms);
        let times = Times { received_at_ms: now_ms, used_at_ms };
        changes.kept.push(StoredKey { key: key.at(key.counter()).expect("where it is"), times });
        self.insert(key, times, &mut changes.removed);
    }

    fn insert(&mut self, key: ChannelKey, times: Times, removed: &mut Vec<PublishedSession>) {
        let session = session_of(&key);
        let entry = Entry {
            first: key.counter(),
            chain: ChannelReceiveChain::new(key),
            times,
            written_used_at_ms: times.used_at_ms,
        };
        if self.entries.insert(session, entry).is_none() {
            *self.counts.entry(session.0).or_default() += 1;
        }
        while self.counts[&session.0] > self.publisher_max {
            self.remove_idle(session.0, session, removed);
        }
        while self.entries.len() > self.all_max {
            let most = self.counts.iter().max_by_key(|(_, count)| **count).expect("somebody has some").0;
            self.remove_idle(*most, session, removed);
        }
    }

    /// Removes the key of `publisher` that was idle longest, but for `new`.
    fn remove_idle(&mut self, publisher: AgentId, new: PublishedSession, removed: &mut Vec<PublishedSession>) {
        let of_publisher = self.entries.iter().filter(|(known, _)| known.0 == publisher && **known != new);
        let idle = of_publisher.min_by_key(|(_, entry)| entry.times.used_at_ms).map(|(known, _)| *known);
        // Where `new` is the only one, it goes itself.
        let idle = idle.unwrap_or(new);
        self.remove(idle);
        removed.push(idle);
    }

    fn remove(&mut self, session: PublishedSession) {
        if self.entries.remove(&session).is_none() {
            return;
        }
        let count = self.counts.get_mut(&session.0).expect("every key is counted");
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&session.0);
        }
    }

    /// Whether this session was given, for this channel.
    pub(crate) fn has(&self, channel: ChannelId, session: PublishedSession) -> bool {
        self.entries.get(&session).is_some_and(|entry| entry.chain.ends().channel == channel.0)
    }

    /// The key of a message of `channel`.
    pub(crate) fn key(
        &mut self,
        channel: ChannelId,
        session: PublishedSession,
        counter: u64,
        now_ms: u64,
    ) -> Result<MessageKey, NoKey> {
        let known = self.entries.get_mut(&session).filter(|entry| entry.chain.ends().channel == channel.0);
        let entry = known.ok_or(NoKey::NotGiven)?;
        let key = entry.chain.key(counter).map_err(|error| match error {
            ChannelSessionError::Earlier { .. } | ChannelSessionError::BeyondEnd => NoKey::Earlier,
        })?;
        entry.times.used_at_ms = entry.times.used_at_ms.max(now_ms);
        Ok(key)
    }

    /// Forgets what opens nothing that a channel keeps: `retention` says for how long each does, if that is known. Gives what is to be
    /// written.
    pub(crate) fn expire(&mut self, now_ms: u64, retention: impl Fn(ChannelId) -> Duration) -> KeyChanges {
        let mut changes = KeyChanges::default();
        for (session, entry) in &mut self.entries {
            let kept = retention(ChannelId(entry.chain.ends().channel)) + CHANNEL_KEY_GRACE;
            let last_ms = entry.times.received_at_ms.max(entry.times.used_at_ms);
            let over_ms = last_ms.saturating_add(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX));
            if now_ms > over_ms {
                changes.removed.push(*session);
            } else if entry.written_used_at_ms != entry.times.used_at_ms {
                let key = ChannelKey::from_bytes(&entry.chain.to_bytes()).expect("a chain reads what it wrote");
                changes.kept.push(StoredKey { key, times: entry.times });
                entry.written_used_at_ms = entry.times.used_at_ms;
            }
        }
        changes.removed.iter().for_each(|session| self.remove(*session));
        changes
    }
}

/// Whose session a key is.
pub(crate) fn session_of(key: &ChannelKey) -> PublishedSession {
    (AgentId(key.ends().publisher), key.session_id())
}

#[cfg(test)]
mod tests {
    use creto_crypto_accel::session::{ChannelEnds, ChannelSendChain};

    use super::*;

    const CHANNEL: ChannelId = ChannelId([9; 16]);

    fn begun(publisher: u8, secret: u8) -> ChannelSendChain {
        ChannelSendChain::new(ChannelEnds { channel: CHANNEL.0, publisher: [publisher; 16] }, &[secret; 32])
    }

    fn keep(keys: &mut ChannelKeys, chain: &ChannelSendChain, now_ms: u64) -> KeyChanges {
        let mut changes = KeyChanges::default();
        keys.keep(chain.key(), now_ms, &mut changes);
        changes
    }

    fn opens(keys: &mut ChannelKeys, chain: &ChannelSendChain, counter: u64) -> Result<(), NoKey> {
        let session = (AgentId(chain.key().ends().publisher), chain.session_id());
        keys.key(CHANNEL, session, counter, 0).map(drop)
    }

    #[test]
    fn of_two_keys_of_a_session_the_one_that_opens_more_stays() {
        let mut keys = ChannelKeys::new();
        let mut chain = begun(1, 1);
        let first = chain.at(0).unwrap();
        (0..5).for_each(|_| drop(chain.next()));
        assert_eq!(opens(&mut keys, &chain, 7), Err(NoKey::NotGiven));
        assert_eq!(keep(&mut keys, &chain, 1).kept.len(), 1);
        assert_eq!((opens(&mut keys, &chain, 7), opens(&mut keys, &chain, 4)), (Ok(()), Err(NoKey::Earlier)));
        assert!(keep(&mut keys, &chain, 2).kept.is_empty(), "given again");
        assert_eq!(keep(&mut keys, &first, 3).kept.len(), 1);
        assert_eq!(opens(&mut keys, &chain, 4), Ok(()));
        assert!(keep(&mut keys, &chain, 4).kept.is_empty());
        assert_eq!(opens(&mut keys, &chain, 4), Ok(()));
        let session = (AgentId([1; 16]), chain.session_id());
        assert!(keys.has(CHANNEL, session) && !keys.has(ChannelId([8; 16]), session), "of this channel alone");
        assert_eq!(keys.key(ChannelId([8; 16]), session, 4, 0).err(), Some(NoKey::NotGiven));
    }

    #[test]
    fn keys_are_bounded_for_each_publisher_and_in_all_and_no_publisher_costs_another_one_more() {
        let mut keys = ChannelKeys::bounded(3, 5);
        let chains: Vec<_> = (0..9).map(|secret| begun(1, secret)).collect();
        let mut removed = 0;
        for (now_ms, chain) in (1..).zip(&chains) {
            removed += keep(&mut keys, chain, now_ms).removed.len();
        }
        assert_eq!((keys.entries.len(), removed), (3, 6));
        assert!((0..6).all(|n| opens(&mut keys, &chains[n], 0).is_err()) && opens(&mut keys, &chains[8], 0).is_ok());
        let others: Vec<_> = (2..6).map(|publisher| begun(publisher, 1)).collect();
        let gone: Vec<_> =
            (20..).zip(&others).flat_map(|(now_ms, chain)| keep(&mut keys, chain, now_ms).removed).collect();
        assert_eq!(gone.iter().map(|gone| gone.0).collect::<Vec<_>>(), [AgentId([1; 16]); 2]);
        assert!(others.iter().all(|chain| opens(&mut keys, chain, 0).is_ok()));
    }

    #[test]
    fn a_key_goes_when_the_channel_keeps_nothing_of_its_session_any_more() {
        let mut keys = ChannelKeys::new();
        let chain = begun(1, 1);
        keep(&mut keys, &chain, 1_000);
        let retention = |_| Duration::from_secs(60);
        let grace_ms = u64::try_from(CHANNEL_KEY_GRACE.as_millis()).unwrap();
        let session = (AgentId([1; 16]), chain.session_id());
        keys.key(CHANNEL, session, 0, 5_000).unwrap();
        let changes = keys.expire(65_000 + grace_ms, retention);
        assert_eq!((changes.removed.len(), changes.kept[0].times.used_at_ms), (0, 5_000), "its use is written down");
        assert!(keys.expire(65_000 + grace_ms, retention).kept.is_empty());
        assert_eq!(keys.expire(65_001 + grace_ms, retention).removed, [session]);
        assert!(keys.entries.is_empty() && keys.counts.is_empty());
    }
}
