//! Key files that are encrypted, and what opens them.
//!
//! A file has one data key, drawn when it is made, under which its content is sealed; and up to [`LOCKS_MAX`] **locks**,
//! each of which holds that data key for somebody who can open it: whoever knows a passphrase
//! ([`PassphraseLock`]), whoever has a PKCS#11 token and its PIN ([`TokenLock`]). A file
//! that is open is written again without its locks being opened again: an agent that replaces its encryption key keeps the
//! data key, not the passphrase. The bytes are in `docs/keystore-format.md`.
//!
//! ```
//! use creto_agent::keystore::{Passphrase, PassphraseLock};
//! use creto_agent::{AgentKeys, AgentName, KeysError, TrustDomain};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("planner.keys");
//! let lock = PassphraseLock::new(Passphrase::new("correct horse battery staple".to_owned())?);
//! let keys = AgentKeys::generate(AgentName::parse("acme/planner")?, TrustDomain::default())?;
//! keys.save_locked(&path, &lock)?;
//! assert_eq!(AgentKeys::load_locked(&path, &lock)?.id(), keys.id());
//! assert!(matches!(AgentKeys::load(&path), Err(KeysError::Locked { .. })));
//! # Ok(())
//! # }
//! ```

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

pub(crate) mod container;
mod passphrase;
mod token;

pub use container::{KEYSTORE_FORMAT, LOCKS_MAX};
pub use passphrase::{Argon2Cost, Passphrase, PassphraseError, PassphraseLock};
pub use token::TokenLock;

/// What can lock a key file and open it again.
///
/// Opening may take its time (a passphrase is made expensive to guess): not on a thread that carries packets.
pub trait KeyLock: Send + Sync {
    /// Which of a file's locks it opens.
    fn kind(&self) -> LockKind;

    /// Locks a data key up: the bytes of a new lock.
    ///
    /// # Errors
    /// [`LockError`], but for [`LockError::Wrong`] and [`LockError::Damaged`].
    fn close(&self, data_key: &DataKey) -> Result<Vec<u8>, LockError>;

    /// Takes the data key out of a lock that [`close`](Self::close) made.
    ///
    /// # Errors
    /// [`LockError`].
    fn open(&self, lock: &[u8]) -> Result<DataKey, LockError>;
}

/// What opens a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockKind {
    /// A passphrase, made expensive to guess by Argon2id (RFC 9106).
    Passphrase,
    /// A key on a PKCS#11 token, and the token's PIN.
    Token,
}

impl LockKind {
    /// Every kind, with its byte in the file and its name.
    const ALL: &[(Self, u8, &str)] = &[(Self::Passphrase, 1, "passphrase"), (Self::Token, 2, "token")];

    pub(crate) fn to_byte(self) -> u8 {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).expect("every kind is listed").1
    }

    /// In one word, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).expect("every kind is listed").2
    }

    pub(crate) fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, listed, _)| *listed == byte).map(|(kind, ..)| *kind)
    }
}

/// The key that a file's content is sealed under. Erased on drop and never printed.
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    /// As a lock gives it.
    #[must_use]
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// The key itself, for a lock.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey")
    }
}

/// Why a lock was not made or does not open.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LockError {
    /// What was given is not what the lock was made with, such as another passphrase.
    #[error("it was locked with something else")]
    Wrong,
    /// The lock is not as it was made.
    #[error("{0}")]
    Damaged(String),
    /// This machine cannot do what the lock asks for.
    #[error("{0}")]
    System(String),
}
