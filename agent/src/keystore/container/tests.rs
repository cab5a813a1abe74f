use super::*;
use crate::keystore::{Argon2Cost, Passphrase, PassphraseLock};

const CONTENT: &[u8] = b"what is kept secret, and longer than one block of the cipher";

/// Opens to whoever has the same byte: for tests of what is around a lock.
struct Latch(u8);

impl KeyLock for Latch {
    fn kind(&self) -> LockKind {
        LockKind::Passphrase
    }

    fn close(&self, data_key: &DataKey) -> Result<Vec<u8>, LockError> {
        Ok(data_key.expose().iter().map(|byte| byte ^ self.0).chain([self.0]).collect())
    }

    fn open(&self, lock: &[u8]) -> Result<DataKey, LockError> {
        let (latch, key) = lock.split_last().ok_or_else(|| LockError::Damaged("it is empty".to_owned()))?;
        let key: [u8; 32] = key.try_into().map_err(|_| LockError::Damaged("its length".to_owned()))?;
        if *latch != self.0 {
            return Err(LockError::Wrong);
        }
        Ok(DataKey::new(Zeroizing::new(key.map(|byte| byte ^ self.0))))
    }
}

fn passphrase(text: &str) -> PassphraseLock {
    PassphraseLock::with_cost(Passphrase::new(text.to_owned()).unwrap(), Argon2Cost::LEAST)
}

fn opened(file: &[u8], lock: &dyn KeyLock) -> Result<Vec<u8>, LockError> {
    let container = Container::parse(file).expect("it is whole");
    container.open(lock).expect("it has such a lock").map(|(content, _)| content.to_vec())
}

/// With a checksum that fits, as whoever changes a file on purpose writes it.
fn summed(mut file: Vec<u8>) -> Vec<u8> {
    let end = file.len() - SUM_BYTES;
    let sum = sha256(&[&file[..end]]);
    file[end..].copy_from_slice(&sum);
    file
}

#[test]
fn what_is_locked_opens_with_the_same_passphrase_and_with_no_other() {
    let lock = passphrase("correct horse battery staple");
    let file = Held::new(&lock).unwrap().seal(CONTENT);
    assert!(is_encrypted(&file));
    assert_eq!(opened(&file, &lock).unwrap(), CONTENT);
    for wrong in ["correct horse battery stapl", "Correct horse battery staple", "correct horse battery staple "] {
        assert_eq!(opened(&file, &passphrase(wrong)), Err(LockError::Wrong), "{wrong}");
    }
    let text = String::from_utf8_lossy(&file);
    assert!(!text.contains("secret") && !text.contains("horse"));
}

#[test]
fn no_two_files_share_a_salt_a_data_key_or_a_sealed_byte_run() {
    let lock = passphrase("correct horse battery staple");
    let held = Held::new(&lock).unwrap();
    let (one, again, other) = (held.seal(CONTENT), held.seal(CONTENT), Held::new(&lock).unwrap().seal(CONTENT));
    let (one, again, other) =
        (Container::parse(&one).unwrap(), Container::parse(&again).unwrap(), Container::parse(&other).unwrap());
    assert_ne!(one.salt, again.salt);
    assert_ne!(one.sealed[..16], again.sealed[..16], "the same content under the same data key");
    assert_eq!(one.locks[0].body, again.locks[0].body, "no lock is opened to write a file again");
    assert_ne!(one.locks[0].body[16..32], other.locks[0].body[16..32]);
    assert!(other.open_again(&held).is_err(), "each file has a data key of its own");
}

#[test]
fn any_flipped_bit_is_found_before_anybody_is_asked_for_a_passphrase() {
    let file = Held::new(&Latch(7)).unwrap().seal(CONTENT);
    for at in 0..file.len() * 8 {
        let mut changed = file.clone();
        changed[at / 8] ^= 1 << (at % 8);
        let unread = Container::parse(&changed).err().unwrap_or_else(|| panic!("bit {at} is not seen"));
        let is_version = (MAGIC.len()..MAGIC.len() + 2).contains(&(at / 8));
        assert_eq!(matches!(unread, Unread::Version(_)), is_version, "bit {at}: {unread:?}");
    }
}

#[test]
fn a_bit_that_is_flipped_on_purpose_opens_nothing() {
    let file = Held::new(&Latch(7)).unwrap().seal(CONTENT);
    for at in 0..(file.len() - SUM_BYTES) * 8 {
        let mut changed = file.clone();
        changed[at / 8] ^= 1 << (at % 8);
        let changed = summed(changed);
        let Ok(container) = Container::parse(&changed) else { continue };
        let is_open = container.open(&Latch(7)).is_some_and(|opened| opened.is_ok());
        assert!(!is_open, "bit {at}");
    }
}

#[test]
fn a_passphrase_lock_that_was_changed_on_purpose_opens_nothing() {
    let lock = passphrase("correct horse battery staple");
    let data_key = DataKey::new(Zeroizing::new([5; 32]));
    let closed = lock.close(&data_key).unwrap();
    assert_eq!(lock.open(&closed).unwrap().expose(), data_key.expose());
    for at in 0..closed.len() {
        let mut changed = closed.clone();
        changed[at] ^= 1;
        assert!(lock.open(&changed).is_err(), "byte {at}");
    }
    for length in [0, 1, closed.len() - 1] {
        assert!(matches!(lock.open(&closed[..length]), Err(LockError::Damaged(_))));
    }
}

#[test]
fn a_file_that_ends_early_or_goes_on_is_damaged() {
    let file = Held::new(&Latch(7)).unwrap().seal(CONTENT);
    for length in 0..file.len() {
        assert!(matches!(Container::parse(&file[..length]), Err(Unread::Damaged(_))), "{length} bytes");
        if length >= SUM_BYTES {
            assert!(Container::parse(&summed(file[..length].to_vec())).is_err(), "{length} bytes, summed");
        }
    }
    let longer = [&file[..], b"x"].concat();
    assert!(matches!(Container::parse(&longer), Err(Unread::Damaged(_))));
    assert!(Container::parse(&summed(longer)).is_err());
    let huge = [MAGIC, &vec![0; KEY_FILE_BYTES_MAX][..]].concat();
    assert_eq!(Container::parse(&huge).err(), Some(Unread::Damaged("it is longer than any key file")));
}

#[test]
fn a_hostile_file_cannot_ask_for_more_memory_or_time_than_its_bounds() {
    let lock = passphrase("correct horse battery staple");
    let closed = lock.close(&DataKey::new(Zeroizing::new([5; 32]))).unwrap();
    let least = [19 * 1024, 2, 1];
    for (at, number) in [
        (0, u32::MAX),
        (0, 1024 * 1024 + 1),
        (0, 19 * 1024 - 1),
        (0, 0),
        (1, u32::MAX),
        (1, 65),
        (1, 1),
        (2, u32::MAX),
        (2, 65),
        (2, 0),
    ] {
        let mut parameters: [u32; 3] = least;
        parameters[at] = number;
        assert_eq!(Argon2Cost::new(parameters[0], parameters[1], parameters[2]), None, "{parameters:?}");
        let mut hostile = closed.clone();
        hostile[4 + 4 * at..][..4].copy_from_slice(&number.to_le_bytes());
        assert!(matches!(lock.open(&hostile), Err(LockError::Damaged(_))), "{parameters:?}");
    }
    assert_eq!(Argon2Cost::new(1024 * 1024, 5, 1), None, "both within their bounds, and together too much");
    assert!(
        Argon2Cost::new(1024 * 1024, 4, 4).is_some()
            && Argon2Cost::new(64 * 1024, 3, 4) == Some(Argon2Cost::RECOMMENDED)
    );
}

#[test]
fn a_lock_that_a_later_version_brought_is_kept_and_one_of_the_same_kind_is_replaced() {
    let mut held = Held::new(&Latch(7)).unwrap();
    held.locks.push(Lock { kind: 200, body: vec![1, 2, 3] });
    let file = held.with(&Latch(9)).unwrap().seal(CONTENT);
    assert_eq!(opened(&file, &Latch(7)), Err(LockError::Wrong));
    assert_eq!(opened(&file, &Latch(9)).unwrap(), CONTENT);
    let container = Container::parse(&file).unwrap();
    assert_eq!((container.locks.len(), container.kinds()), (2, vec![LockKind::Passphrase]));
    let (_, held) = container.open(&Latch(9)).unwrap().unwrap();
    let again = held.seal(CONTENT);
    assert_eq!(Container::parse(&again).unwrap().locks[1].body, [1, 2, 3]);
    // The data key stayed, so whoever holds it goes on.
    assert!(Container::parse(&again).unwrap().open_again(&held).is_ok());
}

#[test]
fn what_holds_a_secret_prints_none() {
    let lock = passphrase("correct horse battery staple");
    let text = format!("{lock:?} {:?}", DataKey::new(Zeroizing::new([0xab; 32])));
    assert!(!text.contains("horse") && !text.contains("171") && !text.to_lowercase().contains("ab"), "{text}");
}
