//! The secret halves of an agent's prekeys: written before the public halves are uploaded, **overwritten in place** once they were
//! used. A database keeps what was removed from it in pages that it uses again some day; here the bytes are gone when
//! [`PrekeySecrets::erase`] returns, as far as file system and disk write where they are told to.
//!
//! Each is sealed (AES-256-GCM) under a key that follows from the agent's signing keys and its own id: whoever has this file and
//! not the key file, or an encrypted one without its passphrase, has nothing.
//!
//! The file `prekeys`, little-endian:
//!
//! ```text
//! 0 [8] "CRETOPKS" | 8 u32 format=1 | 12 u32 0 | 16 [16] agent id | 32 [472] 0 | 504 check 8
//! 512 slots of 128 bytes
//! ```
//!
//! A slot, all zeros when it is empty:
//!
//! ```text
//! 0 u8 1 one-time, 2 last resort | 1 u8 1 when the node has it | 2 u16 0 | 4 u32 key record version | 8 u64 made at, Unix ms
//! 16 u64 replaced at, Unix ms, 0 while it is not | 24 [16] prekey id | 40 [48] sealed seed | 88 [32] 0 | 120 check 8
//! ```
//!
//! A check is the first 8 bytes of SHA-256 over the number of the slot (u64, the header's is 2^64 - 1) and what is before the
//! check. Slots lie within sectors, so a crash leaves the old one or the new one. The file belongs to whoever holds
//! `incoming.redb` beside it.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use creto_crypto_accel::Backend;
use creto_crypto_accel::seal::{MessageKey, RecipientSecret, derived_key};
use creto_envelope::prekeys::PrekeyKind;
use creto_envelope::{AgentId, KeyId};
use zeroize::Zeroizing;

use super::check_bytes;
use crate::error::StateError;
use crate::limits::{KEY_UNUSED_MS_MIN, PREKEY_SECRETS_MAX};
use crate::stats::UNPOISONED;

/// The format of the file of prekeys that this version reads and writes.
pub const PREKEY_FILE_FORMAT: u32 = 1;

const FILE: &str = "prekeys";
const MAGIC: &[u8; 8] = b"CRETOPKS";
const HEADER_BYTES: usize = 512;
const SLOT_BYTES: usize = 128;
const CHECKED_BYTES: usize = SLOT_BYTES - 8;
const HEADER_PLACE: u64 = u64::MAX;
const EMPTY: [u8; SLOT_BYTES] = [0; SLOT_BYTES];
const SEALED_BYTES: usize = 48;
const SEAL_LABEL: &[u8] = b"creto/prekey-file/v1\0";

/// A prekey that was just made.
pub(crate) struct Made {
    pub(crate) kind: PrekeyKind,
    pub(crate) version: u32,
    pub(crate) id: KeyId,
    pub(crate) seed: Zeroizing<[u8; 32]>,
}

/// The secret half of one prekey.
struct Secret {
    kind: PrekeyKind,
    /// Of the key record that it belongs to.
    version: u32,
    made_ms: u64,
    /// The node has said that it has the public half.
    is_uploaded: bool,
    /// When the node had the next one of last resort; zero before.
    replaced_ms: u64,
    /// Its seed, as it is in the file.
    sealed: Zeroizing<[u8; SEALED_BYTES]>,
    /// Its slot; `None`: it has left the file, and what was accepted before may still be on its way.
    place: Option<usize>,
    /// When it last opened something, or was read; in memory only.
    used_ms: u64,
    /// When it left the file; zero before, and in memory only.
    left_ms: u64,
}

/// How long secret halves are kept that are of no use any more, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Grace {
    /// One of last resort, once the next one is with the node, unless it opened something just now.
    pub(crate) last_resort_ms: u64,
    /// The longest that whatever is in use may be kept beyond its time: what senders use for ever is not kept for ever.
    pub(crate) in_use_ms_max: u64,
}

/// The ids of the prekeys for one use that are in the file: whoever asks does not wait for a disk.
#[derive(Clone, Default)]
pub(crate) struct OneTimeIds(Arc<Mutex<HashSet<KeyId>>>);

impl OneTimeIds {
    /// Whether this prekey is there, and is to go with its first use.
    pub(crate) fn contains(&self, id: &KeyId) -> bool {
        self.0.lock().expect(UNPOISONED).contains(id)
    }

    /// Nothing is to go any more.
    pub(crate) fn clear(&self) {
        self.0.lock().expect(UNPOISONED).clear();
    }

    fn insert(&self, id: KeyId) {
        self.0.lock().expect(UNPOISONED).insert(id);
    }

    fn remove(&self, id: &KeyId) {
        self.0.lock().expect(UNPOISONED).remove(id);
    }
}

impl std::fmt::Debug for OneTimeIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OneTimeIds").finish_non_exhaustive()
    }
}

/// All of them.
pub(crate) struct PrekeySecrets {
    path: PathBuf,
    agent: AgentId,
    /// Under which the seeds are sealed, each under a key of its own.
    key: Zeroizing<[u8; 32]>,
    /// `None`: nothing was ever written.
    file: Option<File>,
    secrets: HashMap<KeyId, Secret>,
    /// Whose slot it is.
    slots: Vec<Option<KeyId>>,
    one_time: OneTimeIds,
    /// When one of each version of the key record last opened something, also one that is gone by now.
    used_ms: HashMap<u32, u64>,
}

impl PrekeySecrets {
    /// Reads the file in `folder`, if there is one.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn open(
        folder: &Path,
        agent: AgentId,
        key: Zeroizing<[u8; 32]>,
        now_ms: u64,
    ) -> Result<Self, StateError> {
        let path = folder.join(FILE);
        let (file, secrets, slots) = (None, HashMap::new(), Vec::new());
        let (one_time, used_ms) = (OneTimeIds::default(), HashMap::new());
        let new = Self { path, agent, key, file, secrets, slots, one_time, used_ms };
        let mut file = match OpenOptions::new().read(true).write(true).open(&new.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(new),
            opened => opened.map_err(|source| new.failed("opened", source))?,
        };
        let most = HEADER_BYTES + PREKEY_SECRETS_MAX * SLOT_BYTES;
        let metadata = file.metadata().map_err(|source| new.failed("read", source))?;
        // With room for all of it from the beginning: no copy of what is in it stays where it grew out of.
        let bytes = usize::try_from(metadata.len()).unwrap_or(most).min(most) + 1;
        let mut bytes = Zeroizing::new(Vec::with_capacity(bytes));
        let room = bytes.capacity() as u64;
        (&mut file).take(room).read_to_end(&mut bytes).map_err(|source| new.failed("read", source))?;
        new.with_content(file, &bytes, now_ms)
    }

    /// Opens the file in `folder`, which nobody may have open, for as long as it takes to erase what is of no use any more; see
    /// [`end`](Self::end). Where there is none, none is made.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::InUse`] when somebody has it, who erases then.
    pub(crate) fn end_in(
        folder: &Path,
        agent: AgentId,
        key: Zeroizing<[u8; 32]>,
        has_version: impl Fn(u32) -> bool,
        grace: Grace,
        now_ms: u64,
    ) -> Result<(), StateError> {
        if !folder.join(FILE).exists() {
            return Ok(());
        }
        let _lock = super::incoming::lock(folder)?;
        Self::open(folder, agent, key, now_ms)?.end(has_version, grace, now_ms)
    }

    fn with_content(mut self, file: File, bytes: &[u8], now_ms: u64) -> Result<Self, StateError> {
        let Some((header, slots)) =
            bytes.split_first_chunk::<HEADER_BYTES>().filter(|(header, _)| **header != [0; 512])
        else {
            // It was made, and a crash came before its header.
            return Ok(self);
        };
        if !header.starts_with(MAGIC) {
            return Err(self.damaged("it does not begin as a file of prekeys"));
        }
        let format = u32::from_le_bytes(*header[8..].first_chunk().expect("within the header"));
        if format != PREKEY_FILE_FORMAT {
            return Err(StateError::Version { path: self.path, found: format.into() });
        }
        if header[HEADER_BYTES - 8..] != check_bytes(&HEADER_PLACE.to_le_bytes(), &header[..HEADER_BYTES - 8]) {
            return Err(self.damaged("its header is not as it was written"));
        }
        if header[16..32] != self.agent.0 {
            return Err(StateError::OtherAgent { path: self.path });
        }
        self.file = Some(file);
        for (place, slot) in slots.chunks(SLOT_BYTES).enumerate().take(PREKEY_SECRETS_MAX) {
            let read = <&[u8; SLOT_BYTES]>::try_from(slot).ok().filter(|slot| **slot != EMPTY);
            let parsed = read.and_then(|slot| parse(place, slot, now_ms));
            if parsed.is_none() && read.is_some() {
                tracing::warn!(file = %self.path.display(), place, "a prekey is not as it was written: what was sealed to it cannot be opened");
            }
            // A slot that says nothing is used again.
            self.slots.push(parsed.as_ref().map(|(id, _)| *id));
            if let Some((id, Secret { kind: PrekeyKind::OneTime, .. })) = &parsed {
                self.one_time.insert(*id);
            }
            self.secrets.extend(parsed);
        }
        Ok(self)
    }

    /// Writes secrets, durably. Where there is no room, the oldest for one use go: they were handed out first.
    ///
    /// # Errors
    /// [`StateError`]: none of them may be uploaded.
    pub(crate) fn add(&mut self, made: Vec<Made>, now_ms: u64) -> Result<(), StateError> {
        let over = (self.secrets.len() + made.len()).saturating_sub(PREKEY_SECRETS_MAX);
        if over > 0 {
            let mut oldest: Vec<_> =
                self.secrets.iter().filter(|(_, secret)| secret.kind == PrekeyKind::OneTime).collect();
            oldest.sort_unstable_by_key(|(_, secret)| secret.made_ms);
            let oldest: Vec<KeyId> = oldest.into_iter().take(over).map(|(id, _)| *id).collect();
            self.erase(&oldest)?;
        }
        self.create()?;
        let places = (0..).filter(|place| self.slots.get(*place).is_none_or(Option::is_none));
        let places: Vec<usize> = places.take(made.len()).collect();
        for (place, Made { kind, version, id, seed }) in places.into_iter().zip(made) {
            let (is_uploaded, replaced_ms) = (false, 0);
            let sealed = self.seal(&id, &seed);
            let (made_ms, used_ms, left_ms, place_of) = (now_ms, now_ms, 0, Some(place));
            let secret =
                Secret { kind, version, made_ms, is_uploaded, replaced_ms, sealed, place: place_of, used_ms, left_ms };
            if self.slots.len() <= place {
                self.slots.resize(place + 1, None);
            }
            self.slots[place] = Some(id);
            self.secrets.insert(id, secret);
            self.write(&id)?;
            if kind == PrekeyKind::OneTime {
                self.one_time.insert(id);
            }
        }
        self.sync()
    }

    /// The node has these. One of last resort among them takes the place of those before it.
    ///
    /// # Errors
    /// [`StateError`]: it is as if nobody knew that the node has them.
    pub(crate) fn uploaded(&mut self, ids: &[KeyId], now_ms: u64) -> Result<(), StateError> {
        let mut changed = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some(secret) = self.secrets.get_mut(id) {
                (secret.is_uploaded, secret.replaced_ms) = (true, 0);
                changed.push(*id);
            }
        }
        if ids.iter().any(|id| self.secrets.get(id).is_some_and(|secret| secret.kind == PrekeyKind::LastResort)) {
            for (id, secret) in &mut self.secrets {
                let is_before = secret.kind == PrekeyKind::LastResort && !ids.contains(id);
                if is_before && secret.replaced_ms == 0 {
                    secret.replaced_ms = now_ms;
                    changed.push(*id);
                }
            }
        }
        for id in &changed {
            self.write(id)?;
        }
        self.sync()
    }

    /// The secret half of a prekey, and the version of the key record that it belongs to.
    pub(crate) fn opening(&mut self, id: KeyId, now_ms: u64) -> Option<(Arc<RecipientSecret>, u32)> {
        let secret = self.secrets.get(&id)?;
        let mut sealed = secret.sealed.clone();
        let Ok(seed) = self.slot_key(&id).open_in_place(&[0; 12], SEAL_LABEL, &mut sealed[..]) else {
            tracing::warn!(file = %self.path.display(), "a prekey was sealed under other keys of this agent: what was sent to it cannot be opened");
            return None;
        };
        let seed = <&[u8; 32]>::try_from(&*seed).expect("48 bytes without the tag");
        let opened = RecipientSecret::from_seed(seed).named(id.0);
        let secret = self.secrets.get_mut(&id)?;
        secret.used_ms = secret.used_ms.max(now_ms);
        let of_version = self.used_ms.entry(secret.version).or_default();
        *of_version = secret.used_ms.max(*of_version);
        Some((Arc::new(opened), secret.version))
    }

    fn seal(&self, id: &KeyId, seed: &[u8; 32]) -> Zeroizing<[u8; SEALED_BYTES]> {
        let mut sealed = Zeroizing::new([0; SEALED_BYTES]);
        let (place, tag_place) = sealed.split_at_mut(seed.len());
        place.copy_from_slice(seed);
        // An id is never sealed twice: it is the hash of a key that was just made.
        let tag = self.slot_key(id).seal_in_place(&[0; 12], SEAL_LABEL, place);
        tag_place.copy_from_slice(&tag);
        sealed
    }

    fn slot_key(&self, id: &KeyId) -> MessageKey {
        MessageKey::from_bytes(Backend::AwsLc, derived_key(&self.key, &[SEAL_LABEL, &id.0]))
    }

    /// The ids of those for one use, as they are at any moment.
    pub(crate) fn one_time(&self) -> OneTimeIds {
        self.one_time.clone()
    }

    /// How many for one use are in the file for this version of the key record.
    pub(crate) fn one_time_of(&self, version: u32) -> usize {
        let is_it = |secret: &&Secret| {
            secret.kind == PrekeyKind::OneTime && secret.version == version && secret.place.is_some()
        };
        self.secrets.values().filter(is_it).count()
    }

    /// How many more there is room for without one having to go.
    pub(crate) fn room(&self) -> usize {
        PREKEY_SECRETS_MAX.saturating_sub(self.secrets.len())
    }

    /// Overwrites the secret halves of these, durably.
    ///
    /// # Errors
    /// [`StateError`]: some may still be there.
    pub(crate) fn erase(&mut self, ids: &[KeyId]) -> Result<(), StateError> {
        let mut is_written = false;
        for id in ids {
            let Some(place) = self.secrets.get(id).and_then(|secret| secret.place) else { continue };
            self.write_at(&EMPTY, offset(place))?;
            is_written = true;
        }
        if is_written {
            self.sync()?;
        }
        for id in ids {
            let place = self.secrets.remove(id).and_then(|secret| secret.place);
            place.into_iter().for_each(|place| self.slots[place] = None);
            self.one_time.remove(id);
        }
        Ok(())
    }

    /// Erases what is of no use any more: prekeys of versions whose own key has gone from the key file (`has_version` says which
    /// have not), and those of last resort that were replaced [`Grace::last_resort_ms`] ago. One of last resort that opened something
    /// within [`KEY_UNUSED_MS_MIN`] stays a while, and so do, in memory only, those of a version of which one did: what was accepted
    /// before may still be on its way to any of them. None stays for longer than [`Grace::in_use_ms_max`].
    ///
    /// # Errors
    /// [`StateError`]: some may still be there.
    pub(crate) fn end(
        &mut self,
        has_version: impl Fn(u32) -> bool,
        grace: Grace,
        now_ms: u64,
    ) -> Result<(), StateError> {
        let is_over = |since_ms: u64, for_ms: u64| since_ms != 0 && now_ms >= since_ms.saturating_add(for_ms);
        let is_quiet = |secret: &Secret| now_ms.saturating_sub(secret.used_ms) >= KEY_UNUSED_MS_MIN;
        let is_leaving = |secret: &Secret| {
            let Grace { last_resort_ms, in_use_ms_max } = grace;
            !has_version(secret.version)
                || (is_over(secret.replaced_ms, last_resort_ms) && is_quiet(secret))
                || is_over(secret.replaced_ms, last_resort_ms.saturating_add(in_use_ms_max))
        };
        let leaving: HashSet<KeyId> =
            self.secrets.iter().filter(|(_, secret)| is_leaving(secret)).map(|(id, _)| *id).collect();
        let places: Vec<(KeyId, usize)> =
            leaving.iter().filter_map(|id| Some((*id, self.secrets[id].place?))).collect();
        for (_, place) in &places {
            self.write_at(&EMPTY, offset(*place))?;
        }
        if !places.is_empty() {
            self.sync()?;
        }
        for (id, place) in places {
            self.slots[place] = None;
            self.one_time.remove(&id);
            let secret = self.secrets.get_mut(&id).expect("listed just now");
            (secret.place, secret.left_ms) = (None, now_ms);
        }
        let used_ms = &self.used_ms;
        self.secrets.retain(|id, secret| {
            let version_used_ms = used_ms.get(&secret.version).copied().unwrap_or_default();
            let is_unused = match has_version(secret.version) {
                true => is_quiet(secret),
                false => is_over(secret.left_ms.max(version_used_ms), KEY_UNUSED_MS_MIN),
            };
            let is_done = is_unused
                || is_over(secret.left_ms, grace.in_use_ms_max)
                || is_over(secret.replaced_ms, grace.last_resort_ms.saturating_add(grace.in_use_ms_max));
            !(leaving.contains(id) && is_done)
        });
        let secrets = &self.secrets;
        self.used_ms.retain(|version, _| secrets.values().any(|secret| secret.version == *version));
        Ok(())
    }

    /// When the prekey of last resort that the node has of this version was made, Unix milliseconds.
    pub(crate) fn last_resort_made_ms(&self, version: u32) -> Option<u64> {
        let is_it = |secret: &&Secret| {
            secret.kind == PrekeyKind::LastResort
                && secret.version == version
                && secret.is_uploaded
                && secret.replaced_ms == 0
        };
        self.secrets.values().filter(is_it).map(|secret| secret.made_ms).max()
    }

    /// Makes the file, if it is not there.
    fn create(&mut self) -> Result<(), StateError> {
        if self.file.is_some() {
            return Ok(());
        }
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = open.open(&self.path).map_err(|source| self.failed("made", source))?;
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&PREKEY_FILE_FORMAT.to_le_bytes());
        header[16..32].copy_from_slice(&self.agent.0);
        let check = check_bytes(&HEADER_PLACE.to_le_bytes(), &header[..HEADER_BYTES - 8]);
        header[HEADER_BYTES - 8..].copy_from_slice(&check);
        let folder = self.path.parent().expect("a file in a folder");
        file.write_all_at(&header, 0)
            .and_then(|()| file.sync_all())
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|source| self.failed("made", source))?;
        self.file = Some(file);
        Ok(())
    }

    fn write(&self, id: &KeyId) -> Result<(), StateError> {
        let secret = &self.secrets[id];
        let Some(place) = secret.place else { return Ok(()) };
        let mut slot = Zeroizing::new(EMPTY);
        slot[0] = secret.kind as u8 + 1;
        slot[1] = u8::from(secret.is_uploaded);
        slot[4..8].copy_from_slice(&secret.version.to_le_bytes());
        slot[8..16].copy_from_slice(&secret.made_ms.to_le_bytes());
        slot[16..24].copy_from_slice(&secret.replaced_ms.to_le_bytes());
        slot[24..40].copy_from_slice(&id.0);
        slot[40..88].copy_from_slice(&secret.sealed[..]);
        let check = check_bytes(&(place as u64).to_le_bytes(), &slot[..CHECKED_BYTES]);
        slot[CHECKED_BYTES..].copy_from_slice(&check);
        self.write_at(&slot, offset(place))
    }

    fn write_at(&self, slot: &[u8; SLOT_BYTES], offset: u64) -> Result<(), StateError> {
        let file = self.file.as_ref().expect("a secret that has a slot is in a file");
        file.write_all_at(slot, offset).map_err(|source| self.failed("written", source))
    }

    fn sync(&self) -> Result<(), StateError> {
        let Some(file) = &self.file else { return Ok(()) };
        file.sync_data().map_err(|source| self.failed("written", source))
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> StateError {
        StateError::File { path: self.path.clone(), doing, source }
    }

    fn damaged(&self, reason: &str) -> StateError {
        StateError::Damaged { path: self.path.clone(), reason: reason.to_owned() }
    }
}

impl std::fmt::Debug for PrekeySecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrekeySecrets")
            .field("path", &self.path)
            .field("count", &self.secrets.len())
            .finish_non_exhaustive()
    }
}

fn offset(place: usize) -> u64 {
    (HEADER_BYTES + place * SLOT_BYTES) as u64
}

fn parse(place: usize, slot: &[u8; SLOT_BYTES], now_ms: u64) -> Option<(KeyId, Secret)> {
    if slot[CHECKED_BYTES..] != check_bytes(&(place as u64).to_le_bytes(), &slot[..CHECKED_BYTES]) {
        return None;
    }
    let u64_at = |at: usize| Some(u64::from_le_bytes(*slot.get(at..)?.first_chunk()?));
    let kind = PrekeyKind::from_u8(slot[0].checked_sub(1)?)?;
    let secret = Secret {
        kind,
        version: u32::from_le_bytes(*slot[4..].first_chunk()?),
        made_ms: u64_at(8)?,
        is_uploaded: slot[1] == 1,
        replaced_ms: u64_at(16)?,
        sealed: Zeroizing::new(*slot[40..].first_chunk()?),
        place: Some(place),
        used_ms: now_ms,
        left_ms: 0,
    };
    Some((KeyId(*slot[24..].first_chunk()?), secret))
}

#[cfg(test)]
mod tests;
