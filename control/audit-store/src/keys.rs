//! The log's keys as files: the secret ones for their owner only, the public ones for everybody.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use creto_audit::keys::origin;
use creto_audit::limits::KEYS_BYTES_MAX;
use creto_audit::{LogKeys, LogPublic};
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::layout::{CHECKPOINT, PUBLIC_KEYS, SECRET_KEYS};

/// Makes fresh keys for the log of this origin and writes both files into the folder, which exists. Files that are there are
/// never overwritten: whoever loses the keys cannot go on with the log.
///
/// # Errors
/// [`StoreError::File`], also when there are keys; [`StoreError::Keys`] when the origin cannot name a key.
pub fn create(folder: &Path, origin: &str) -> Result<LogKeys, StoreError> {
    let mut seeds = Zeroizing::new([[0; 32]; 2]);
    getrandom::fill(seeds.as_flattened_mut()).map_err(StoreError::Random)?;
    let keys = LogKeys::from_seeds(origin, &seeds[0], &seeds[1]).ok_or(creto_audit::KeysError::Form)?;
    // The public file first: a secret without it could be used, and nobody could check what it signed.
    write_new(folder, PUBLIC_KEYS, 0o644, keys.public().to_text().as_bytes())?;
    write_new(folder, SECRET_KEYS, 0o600, keys.to_secret_text().as_bytes())?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(StoreError::file("sync the folder of", SECRET_KEYS))?;
    Ok(keys)
}

/// Reads the keys of the log in the folder, which exists, or makes them: the log is then called
/// `TRUST_DOMAIN/creto-audit/node-XXXXXXXX`, with eight random digits.
///
/// # Errors
/// [`StoreError::File`] or [`StoreError::Keys`]; also when there is a log and its keys are gone.
pub fn load_or_create(folder: &Path, trust_domain: &str) -> Result<LogKeys, StoreError> {
    let is_there = |name: &str| folder.join(name).exists();
    if is_there(SECRET_KEYS) || is_there(CHECKPOINT) {
        return load(folder);
    }
    if is_there(PUBLIC_KEYS) {
        // Left by a stop between the two files: nobody has signed anything with it.
        std::fs::remove_file(folder.join(PUBLIC_KEYS)).map_err(StoreError::file("remove", PUBLIC_KEYS))?;
    }
    let mut digits = [0; 4];
    getrandom::fill(&mut digits).map_err(StoreError::Random)?;
    create(folder, &origin(trust_domain, &format!("node-{:08x}", u32::from_be_bytes(digits))))
}

/// Reads the secret keys.
///
/// # Errors
/// [`StoreError::File`] or [`StoreError::Keys`].
pub fn load(folder: &Path) -> Result<LogKeys, StoreError> {
    Ok(LogKeys::parse(&read(&folder.join(SECRET_KEYS)).map_err(StoreError::file("read", SECRET_KEYS))?)?)
}

/// Reads a file of public keys, wherever it is.
///
/// # Errors
/// [`StoreError::File`] or [`StoreError::Keys`].
pub fn load_public(file: &Path) -> Result<LogPublic, StoreError> {
    let name = file.display().to_string();
    Ok(LogPublic::parse(&read(file).map_err(StoreError::file("read", &name))?)?)
}

fn write_new(folder: &Path, name: &str, mode: u32, text: &[u8]) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(folder.join(name));
    file.and_then(|mut file| file.write_all(text).and_then(|()| file.sync_all()))
        .map_err(StoreError::file("make", name))
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    // Room for all of it at once: a text that grows leaves copies of itself behind.
    let mut text = Zeroizing::new(String::with_capacity(KEYS_BYTES_MAX + 1));
    File::open(path)?.take(KEYS_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}
