//! A passphrase as a lock: Argon2id (RFC 9106) makes every guess expensive, and what it gives wraps the data key.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use creto_crypto_accel::Backend;
use creto_crypto_accel::keys::TAG_BYTES;
use creto_crypto_accel::seal::{MessageKey, derived_key};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::{DataKey, KeyLock, LockError, LockKind};
use crate::clock;
use crate::limits::{
    ARGON2_LANES_MAX, ARGON2_MEMORY_KIB_MAX, ARGON2_MEMORY_KIB_MIN, ARGON2_PASSES_MAX, ARGON2_PASSES_MIN,
    ARGON2_WORK_KIB_MAX, PASSPHRASE_BYTES_MAX, PASSPHRASE_CHARS_MIN,
};

const ARGON2ID: u8 = 1;
const SALT_BYTES: usize = 16;
const CHECK_BYTES: usize = 16;
/// Everything before the wrapped key: it is authenticated with it.
const HEAD_BYTES: usize = 16 + SALT_BYTES + CHECK_BYTES;
const LOCK_BYTES: usize = HEAD_BYTES + 32 + TAG_BYTES;

/// Says whether the passphrase is the right one, before anything is opened with it.
const CHECK_LABEL: &[u8] = b"creto/keystore/v1/check\0";
const WRAP_LABEL: &[u8] = b"creto/keystore/v1/wrap\0";
/// A wrapping key comes of a salt that is drawn for it and encrypts once.
const ONLY_NONCE: [u8; 12] = [0; 12];

/// A passphrase. Erased on drop and never printed.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes one as it is: letters, spaces and everything else count as they were written.
    ///
    /// # Errors
    /// [`PassphraseError::Empty`] and [`PassphraseError::TooLong`].
    pub fn new(text: String) -> Result<Self, PassphraseError> {
        let text = Zeroizing::new(text);
        match text.len() {
            0 => Err(PassphraseError::Empty),
            1..=PASSPHRASE_BYTES_MAX => Ok(Self(text)),
            _ => Err(PassphraseError::TooLong),
        }
    }

    /// Whether it may lock something new.
    ///
    /// # Errors
    /// [`PassphraseError::TooShort`].
    pub fn check_new(&self) -> Result<(), PassphraseError> {
        if self.0.chars().count() < PASSPHRASE_CHARS_MIN {
            return Err(PassphraseError::TooShort);
        }
        Ok(())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether two are the same, for whoever has it typed twice.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// Why a text is no passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PassphraseError {
    /// It is empty.
    #[error("the passphrase is empty; give one")]
    Empty,
    /// It is longer than any that is taken.
    #[error("the passphrase is longer than {PASSPHRASE_BYTES_MAX} bytes; give a shorter one")]
    TooLong,
    /// It is too short to lock anything new.
    #[error(
        "the passphrase is shorter than {PASSPHRASE_CHARS_MIN} characters; take a longer one, such as several words"
    )]
    TooShort,
}

/// What one guess of a passphrase costs: the parameters of Argon2id (RFC 9106 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Argon2Cost {
    /// What RFC 9106 (section 4) recommends where memory is no server's: 64 MiB, three passes, four lanes.
    pub const RECOMMENDED: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
    /// The least that is taken, for machines that have little: 19 MiB, two passes, one lane, as OWASP has it.
    pub const LEAST: Self = Self { memory_kib: ARGON2_MEMORY_KIB_MIN, passes: ARGON2_PASSES_MIN, lanes: 1 };

    /// Memory in KiB, passes over it, and lanes. `None`: below what protects anything, or above what a file may ask of the
    /// machine that opens it.
    #[must_use]
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Option<Self> {
        let is_within = (ARGON2_MEMORY_KIB_MIN..=ARGON2_MEMORY_KIB_MAX).contains(&memory_kib)
            && (ARGON2_PASSES_MIN..=ARGON2_PASSES_MAX).contains(&passes)
            && (1..=ARGON2_LANES_MAX).contains(&lanes)
            && u64::from(memory_kib) * u64::from(passes) <= ARGON2_WORK_KIB_MAX;
        is_within.then_some(Self { memory_kib, passes, lanes })
    }

    /// 32 bytes that only the passphrase gives.
    fn stretch(self, passphrase: &Passphrase, salt: &[u8]) -> Result<Zeroizing<[u8; 32]>, LockError> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).expect("the bounds are Argon2's");
        let no_memory = || LockError::System(format!("there are no {} MiB of memory for it", self.memory_kib / 1024));
        let mut blocks: Vec<Block> = Vec::new();
        blocks.try_reserve_exact(params.block_count()).map_err(|_| no_memory())?;
        blocks.resize(params.block_count(), Block::default());
        let mut key = Zeroizing::new([0; 32]);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let made = argon2.hash_password_into_with_memory(passphrase.0.as_bytes(), salt, &mut key[..], &mut blocks);
        blocks.zeroize();
        made.expect("salt, passphrase and memory have sizes that Argon2 takes");
        Ok(key)
    }
}

/// A passphrase, and what a guess at it costs in locks that it makes.
#[derive(Debug)]
pub struct PassphraseLock {
    passphrase: Passphrase,
    cost: Argon2Cost,
}

impl PassphraseLock {
    /// New locks are made with [`Argon2Cost::RECOMMENDED`]; a lock that is there says itself what it costs.
    #[must_use]
    pub fn new(passphrase: Passphrase) -> Self {
        Self::with_cost(passphrase, Argon2Cost::RECOMMENDED)
    }

    /// New locks are made at another cost.
    #[must_use]
    pub fn with_cost(passphrase: Passphrase, cost: Argon2Cost) -> Self {
        Self { passphrase, cost }
    }
}

impl KeyLock for PassphraseLock {
    fn kind(&self) -> LockKind {
        LockKind::Passphrase
    }

    fn close(&self, data_key: &DataKey) -> Result<Vec<u8>, LockError> {
        let Argon2Cost { memory_kib, passes, lanes } = self.cost;
        let salt: [u8; SALT_BYTES] = clock::random();
        let stretched = self.cost.stretch(&self.passphrase, &salt)?;
        let mut lock = vec![ARGON2ID, 0, 0, 0];
        for parameter in [memory_kib, passes, lanes] {
            lock.extend_from_slice(&parameter.to_le_bytes());
        }
        lock.extend_from_slice(&salt);
        lock.extend_from_slice(&check(&stretched));
        assert_eq!(lock.len(), HEAD_BYTES);
        let head = lock.clone();
        wrapping_key(&stretched).seal_append(&ONLY_NONCE, &head, data_key.expose(), &mut lock);
        assert_eq!(lock.len(), LOCK_BYTES);
        Ok(lock)
    }

    fn open(&self, lock: &[u8]) -> Result<DataKey, LockError> {
        let damaged = |reason: &str| LockError::Damaged(reason.to_owned());
        let lock: &[u8; LOCK_BYTES] =
            lock.try_into().map_err(|_| damaged("its passphrase lock has another length than such locks have"))?;
        let (head, wrapped) = lock.split_at(HEAD_BYTES);
        if head[..4] != [ARGON2ID, 0, 0, 0] {
            return Err(damaged("its passphrase lock is not of Argon2id"));
        }
        let number = |at: usize| u32::from_le_bytes(*head[at..].first_chunk().expect("the head is longer"));
        // Before any memory is taken: a file from a stranger must not be able to ask for all of it.
        let cost = Argon2Cost::new(number(4), number(8), number(12)).ok_or_else(|| {
            damaged("its passphrase lock asks for more memory or time, or for less, than any that is made")
        })?;
        let (salt, expected) = head[16..].split_at(SALT_BYTES);
        let stretched = cost.stretch(&self.passphrase, salt)?;
        // Not in constant time: whoever can measure it here has the file, and can try passphrases without us.
        if check(&stretched)[..] != *expected {
            return Err(LockError::Wrong);
        }
        let opened = wrapping_key(&stretched).open(&ONLY_NONCE, head, wrapped);
        let opened = Zeroizing::new(opened.map_err(|_| damaged("the key in its passphrase lock was changed"))?);
        let key = <[u8; 32]>::try_from(opened.as_slice()).expect("the lock's length leaves 32 bytes");
        Ok(DataKey::new(Zeroizing::new(key)))
    }
}

fn check(stretched: &[u8; 32]) -> [u8; CHECK_BYTES] {
    *derived_key(stretched, &[CHECK_LABEL]).first_chunk().expect("32 bytes hold 16")
}

fn wrapping_key(stretched: &[u8; 32]) -> MessageKey {
    MessageKey::from_bytes(Backend::AwsLc, derived_key(stretched, &[WRAP_LABEL]))
}
