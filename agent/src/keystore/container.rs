//! The encrypted file around a key file: locks, and the content sealed under the data key. No IO.

use creto_crypto_accel::Backend;
use creto_crypto_accel::digest::sha256;
use creto_crypto_accel::keys::TAG_BYTES;
use creto_crypto_accel::seal::{MessageKey, derived_key};
use zeroize::Zeroizing;

use super::{DataKey, KeyLock, LockError, LockKind};
use crate::clock;
use crate::limits::KEY_FILE_BYTES_MAX;

/// The format of encrypted key files that this version writes.
pub const KEYSTORE_FORMAT: u16 = 1;
/// Most locks of one file.
pub const LOCKS_MAX: usize = 4;

/// The line ends find a file that was copied as text.
const MAGIC: &[u8; 16] = b"creto keystore\r\n";
const LOCK_BYTES_MAX: usize = 1024;
const SALT_BYTES: usize = 32;
const SUM_BYTES: usize = 32;
const BODY_LABEL: &[u8] = b"creto/keystore/v1/body\0";
/// A body key comes of a salt that is drawn for each writing.
const ONLY_NONCE: [u8; 12] = [0; 12];

/// What it takes to write an encrypted file again.
pub(crate) struct Held {
    data_key: DataKey,
    locks: Vec<Lock>,
}

/// One lock as it stands in the file. Its kind may be one that a later version brought: it is kept.
#[derive(Clone)]
struct Lock {
    kind: u8,
    body: Vec<u8>,
}

/// A file's content, and what it takes to write it again.
pub(crate) type Opened = Result<(Zeroizing<Vec<u8>>, Held), LockError>;

/// What an encrypted file says before anything is opened.
pub(crate) struct Container<'a> {
    locks: Vec<Lock>,
    /// Everything before the sealed content.
    head: &'a [u8],
    salt: &'a [u8; SALT_BYTES],
    sealed: &'a [u8],
}

/// Why bytes are no encrypted file that can be opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// A later version wrote it.
    Version(u16),
    /// It is not as it was written.
    Damaged(&'static str),
}

pub(crate) fn is_encrypted(bytes: &[u8]) -> bool {
    // The first word suffices: a file that was changed at its line ends is a damaged one, not one of another sort.
    bytes.starts_with(&MAGIC[..14])
}

impl Held {
    /// A new data key behind one lock.
    pub(crate) fn new(lock: &dyn KeyLock) -> Result<Self, LockError> {
        let data_key = DataKey::new(Zeroizing::new(clock::random()));
        Self { data_key, locks: Vec::new() }.with(lock)
    }

    /// The same data key with one lock more, in the place of the one of its kind.
    pub(crate) fn with(&self, lock: &dyn KeyLock) -> Result<Self, LockError> {
        let new = Lock { kind: lock.kind().to_byte(), body: lock.close(&self.data_key)? };
        assert!(new.body.len() <= LOCK_BYTES_MAX, "a lock has room");
        let mut locks = self.locks.clone();
        match locks.iter().position(|there| there.kind == new.kind) {
            Some(at) => locks[at] = new,
            None if locks.len() < LOCKS_MAX => locks.push(new),
            None => return Err(LockError::System(format!("it has {LOCKS_MAX} locks, the most there may be"))),
        }
        Ok(Self { data_key: DataKey::new(self.data_key.0.clone()), locks })
    }

    /// The kinds of the locks that this version knows.
    pub(crate) fn kinds(&self) -> Vec<LockKind> {
        self.locks.iter().filter_map(|lock| LockKind::of_byte(lock.kind)).collect()
    }

    /// The bytes of a file with this content.
    pub(crate) fn seal(&self, content: &[u8]) -> Vec<u8> {
        let salt: [u8; SALT_BYTES] = clock::random();
        let sealed_bytes = u32::try_from(content.len() + TAG_BYTES).expect("a key file is far below 4 GiB");
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&KEYSTORE_FORMAT.to_le_bytes());
        file.extend_from_slice(&[u8::try_from(self.locks.len()).expect("a few locks"), 0]);
        for Lock { kind, body } in &self.locks {
            file.extend_from_slice(&[*kind, 0]);
            file.extend_from_slice(&u16::try_from(body.len()).expect("a lock is short").to_le_bytes());
            file.extend_from_slice(body);
        }
        file.extend_from_slice(&salt);
        file.extend_from_slice(&sealed_bytes.to_le_bytes());
        let head = file.clone();
        body_key(&self.data_key, &salt).seal_append(&ONLY_NONCE, &head, content, &mut file);
        let sum = sha256(&[&file]);
        file.extend_from_slice(&sum);
        file
    }
}

impl<'a> Container<'a> {
    /// Reads everything that can be read without a key. Damage by accident is found here, so that nobody is asked for a
    /// passphrase that could not help.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, Unread> {
        let damaged = |reason| Err(Unread::Damaged(reason));
        if file.len() > KEY_FILE_BYTES_MAX {
            return damaged("it is longer than any key file");
        }
        if !file.starts_with(MAGIC) {
            return damaged("its first line was changed");
        }
        let mut rest = Rest(&file[MAGIC.len()..]);
        // The version comes first: another one may mean everything else differently.
        let version = u16::from_le_bytes(rest.take()?);
        if version != KEYSTORE_FORMAT {
            return Err(Unread::Version(version));
        }
        let (content, sum) = file.split_last_chunk::<SUM_BYTES>().ok_or(Unread::Damaged("it ends early"))?;
        if sha256(&[content]) != *sum {
            return damaged("its checksum does not match");
        }
        let [count, zero] = rest.take()?;
        if zero != 0 || !(1..=LOCKS_MAX).contains(&usize::from(count)) {
            return damaged("its number of locks is out of bounds");
        }
        let mut locks: Vec<Lock> = Vec::new();
        for _ in 0..count {
            let [kind, zero] = rest.take()?;
            let bytes = usize::from(u16::from_le_bytes(rest.take()?));
            if zero != 0 || bytes > LOCK_BYTES_MAX || locks.iter().any(|lock| lock.kind == kind) {
                return damaged("one of its locks is not as any is made");
            }
            locks.push(Lock { kind, body: rest.bytes(bytes)?.to_vec() });
        }
        let salt = rest.bytes(SALT_BYTES)?.try_into().expect("as many as were asked for");
        let sealed_bytes = u32::from_le_bytes(rest.take()?);
        let (head, sealed) =
            content.split_at_checked(file.len() - rest.0.len()).ok_or(Unread::Damaged("it ends early"))?;
        if u64::from(sealed_bytes) != sealed.len() as u64 || sealed.len() < TAG_BYTES {
            return damaged("its length is another one than it says");
        }
        Ok(Self { locks, head, salt, sealed })
    }

    /// Opens it with a lock's counterpart.
    ///
    /// # Errors
    /// `None` when it has no lock of this kind.
    pub(crate) fn open(&self, lock: &dyn KeyLock) -> Option<Opened> {
        let own = self.locks.iter().find(|there| there.kind == lock.kind().to_byte())?;
        Some(lock.open(&own.body).and_then(|data_key| self.open_with(data_key)))
    }

    /// Opens it with the data key of an earlier state of it.
    ///
    /// # Errors
    /// [`LockError::Damaged`], also when it is another file.
    pub(crate) fn open_again(&self, held: &Held) -> Opened {
        self.open_with(DataKey::new(held.data_key.0.clone()))
    }

    fn open_with(&self, data_key: DataKey) -> Opened {
        let opened = body_key(&data_key, self.salt).open(&ONLY_NONCE, self.head, self.sealed);
        let content = opened.map_err(|_| LockError::Damaged("what is sealed in it was changed".to_owned()))?;
        Ok((Zeroizing::new(content), Held { data_key, locks: self.locks.clone() }))
    }

    /// The kinds of its locks, those of a later version left out.
    pub(crate) fn kinds(&self) -> Vec<LockKind> {
        self.locks.iter().filter_map(|lock| LockKind::of_byte(lock.kind)).collect()
    }
}

fn body_key(data_key: &DataKey, salt: &[u8; SALT_BYTES]) -> MessageKey {
    MessageKey::from_bytes(Backend::AwsLc, derived_key(data_key.expose(), &[BODY_LABEL, salt]))
}

/// Bytes that are still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Unread> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Unread::Damaged("it ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unread> {
        Ok(self.bytes(N)?.try_into().expect("as many as were asked for"))
    }
}

#[cfg(test)]
mod tests;
