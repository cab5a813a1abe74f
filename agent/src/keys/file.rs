//! The key file: one JSON object, mode 0600, whole or not at all; plain, or encrypted as [`container`] has it.
//!
//! Format 2 holds every encryption key with what became of it; format 1, which knew one, is read for ever.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use creto_crypto_accel::fn_dsa::{FN_DSA_512_STORED_BYTES, FnDsaSigner};
use creto_crypto_accel::keys::KeyError;
use creto_envelope::control::RotationMode;
use creto_envelope::{AgentName, TrustDomain};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Seeds;
use super::ring::{Key, Pending, Replaced, Ring};
use crate::clock;
use crate::error::KeysError;
use crate::keystore::container::{self, Container, Held, Unread};
use crate::keystore::{KeyLock, LockError};
use crate::limits::{KEY_FILE_BYTES_MAX, KEYS_HELD_MAX};

/// The format of key files that this version writes.
pub const KEY_FILE_FORMAT: u32 = 2;

/// What a key file says.
pub(super) struct Contents {
    pub(super) name: AgentName,
    pub(super) trust_domain: TrustDomain,
    pub(super) seeds: Seeds,
    pub(super) ring: Ring,
    /// What it takes to write the file again as it is; `None`: it is plain.
    pub(super) held: Option<Held>,
}

/// What an encrypted file is opened with. A plain one needs nothing.
#[derive(Clone, Copy)]
pub(super) enum Opener<'a> {
    Nothing,
    Lock(&'a dyn KeyLock),
    /// What an earlier state of the same file was opened with.
    Held(&'a Held),
}

impl<'a> From<Option<&'a Held>> for Opener<'a> {
    fn from(held: Option<&'a Held>) -> Self {
        held.map_or(Self::Nothing, Self::Held)
    }
}

/// Tells one state of a file from the next: it is always replaced as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark(u64, i64, i64, u64);

impl Mark {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self(meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
    }
}

/// Holds off other processes that change files of this folder, until it is dropped.
pub(super) fn lock(path: &Path) -> Result<File, KeysError> {
    // The folder, not the file: that one is replaced by the very change that this guards.
    let locked = File::open(folder_of(path)).and_then(|folder| folder.lock().map(|()| folder));
    locked.map_err(|source| KeysError::File { path: path.to_owned(), doing: "locked", source })
}

pub(super) fn write(
    path: &Path,
    name: &AgentName,
    trust_domain: &TrustDomain,
    seeds: &Seeds,
    ring: &Ring,
    held: Option<&Held>,
) -> Result<(), KeysError> {
    let base64 = |secret: &[u8]| Zeroizing::new(BASE64.encode(secret));
    let entry = |key: &Key, state: State| KeyEntry { version: key.version, state, x_wing_seed: base64(&key.seed[..]) };
    let pending = ring.pending.iter().map(|Pending { key, mode }| {
        entry(key, if *mode == RotationMode::Emergency { State::PendingEmergency } else { State::Pending })
    });
    let current = std::iter::once(entry(&ring.current, State::Current));
    let replaced = ring.replaced.iter().map(|Replaced { key, at_ms }| entry(key, State::Replaced { at_ms: *at_ms }));
    let file = KeyFile {
        format: KEY_FILE_FORMAT,
        name: name.to_string(),
        trust_domain: trust_domain.to_string(),
        ed25519_seed: base64(&seeds.ed25519),
        ml_dsa_65_seed: base64(&seeds.ml_dsa_65),
        fn_dsa_512_key: seeds.fn_dsa_512.as_ref().map(|signer| Erased(base64(&signer.to_stored()[..]))),
        encryption_keys: pending.chain(current).chain(replaced).collect(),
    };
    // Taken at once: a buffer that grows leaves what it held behind.
    let mut json = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX));
    serde_json::to_writer_pretty(&mut *json, &file).expect("strings and numbers make JSON");
    json.push(b'\n');
    debug_assert!(json.len() <= KEY_FILE_BYTES_MAX, "{} bytes", json.len());
    let sealed = held.map(|held| held.seal(&json));
    write_whole(path, sealed.as_ref().unwrap_or(&json)).map_err(|source| KeysError::File {
        path: path.to_owned(),
        doing: "written",
        source,
    })
}

pub(super) fn read(path: &Path, opener: Opener<'_>) -> Result<Contents, KeysError> {
    let bytes = read_private(path)?;
    if !container::is_encrypted(&bytes) {
        return parse(path, &bytes, None);
    }
    let damaged = |reason: &str| KeysError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let container = Container::parse(&bytes).map_err(|unread| match unread {
        Unread::Version(found) => KeysError::Version { path: path.to_owned(), found: found.into() },
        Unread::Damaged(reason) => damaged(reason),
    })?;
    let locked = || KeysError::Locked { path: path.to_owned(), locks: container.kinds() };
    let (json, held) = match opener {
        Opener::Nothing => return Err(locked()),
        Opener::Held(held) => container.open_again(held).map_err(|_| locked())?,
        Opener::Lock(lock) => container.open(lock).ok_or_else(locked)?.map_err(|error| lock_error(path, error))?,
    };
    parse(path, &json, Some(held))
}

pub(super) fn lock_error(path: &Path, error: LockError) -> KeysError {
    let path = path.to_owned();
    match error {
        LockError::Wrong => KeysError::WrongPassphrase { path },
        LockError::Damaged(reason) => KeysError::Damaged { path, reason },
        LockError::System(reason) => KeysError::Lock { path, reason },
    }
}

/// All of a file that only its owner can read.
fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    let file_error = |source| KeysError::File { path: path.to_owned(), doing: "read", source };
    let file = File::open(path).map_err(file_error)?;
    let meta = file.metadata().map_err(file_error)?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Permissions { path: path.to_owned(), mode });
    }
    // Taken at once: a buffer that grows leaves what it held behind. One byte more than may be, so that it is seen.
    let most = KEY_FILE_BYTES_MAX + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(most).min(most) + 1));
    file.take(most as u64).read_to_end(&mut bytes).map_err(file_error)?;
    if bytes.len() == most {
        return Err(KeysError::Format { path: path.to_owned(), reason: "it is longer than any key file".to_owned() });
    }
    Ok(bytes)
}

fn parse(path: &Path, json: &[u8], held: Option<Held>) -> Result<Contents, KeysError> {
    let format_error = |reason: &str| KeysError::Format { path: path.to_owned(), reason: reason.to_owned() };
    // The format comes first: another one may mean everything else differently.
    let FormatOnly { format } = serde_json::from_slice(json)
        .map_err(|error| format_error(&format!("no JSON object with a format (line {})", error.line())))?;
    // serde_json's own texts may quote what they found, so only the place is told.
    let place = |error: serde_json::Error| format_error(&format!("line {}, column {}", error.line(), error.column()));
    let file: KeyFile = match format {
        1 => serde_json::from_slice::<KeyFileV1>(json).map_err(place)?.into(),
        KEY_FILE_FORMAT => serde_json::from_slice(json).map_err(place)?,
        found => return Err(KeysError::Version { path: path.to_owned(), found }),
    };
    let seed = |text: &str| -> Result<Zeroizing<[u8; 32]>, KeysError> {
        let bytes = Zeroizing::new(BASE64.decode(text).map_err(|_| format_error("a seed is not base64"))?);
        let seed = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| format_error("a seed is not 32 bytes"))?;
        Ok(Zeroizing::new(seed))
    };
    let name = AgentName::parse(&file.name).map_err(|error| format_error(&error.to_string()))?;
    let trust_domain = TrustDomain::parse(&file.trust_domain).map_err(|error| format_error(&error.to_string()))?;
    let third = |Erased(text): &Erased| -> Result<FnDsaSigner, KeysError> {
        let bad = || format_error("the FN-DSA-512 key is damaged");
        let bytes = Zeroizing::new(BASE64.decode(text).map_err(|_| bad())?);
        let stored = <&[u8; FN_DSA_512_STORED_BYTES]>::try_from(bytes.as_slice()).map_err(|_| bad())?;
        FnDsaSigner::from_stored(stored).map_err(|error| match error {
            KeyError::FnDsa512Unsupported => KeysError::Unsupported { path: path.to_owned(), feature: "fn-dsa" },
            _ => bad(),
        })
    };
    let fn_dsa_512 = file.fn_dsa_512_key.as_ref().map(third).transpose()?;
    let seeds = Seeds { ed25519: *seed(&file.ed25519_seed)?, ml_dsa_65: *seed(&file.ml_dsa_65_seed)?, fn_dsa_512 };
    if file.encryption_keys.len() > KEYS_HELD_MAX {
        return Err(format_error("it holds more encryption keys than any grace period makes"));
    }
    let now_ms = clock::now_ms();
    let (mut current, mut pending, mut replaced) = (None, None, Vec::new());
    for entry in &file.encryption_keys {
        if entry.version == 0 {
            return Err(format_error("record versions count from 1"));
        }
        let key = Key::new(entry.version, seed(&entry.x_wing_seed)?, now_ms);
        let twice = match entry.state {
            State::Current => current.replace(key).is_some(),
            State::Pending => pending.replace(Pending { key, mode: RotationMode::Planned }).is_some(),
            State::PendingEmergency => pending.replace(Pending { key, mode: RotationMode::Emergency }).is_some(),
            State::Replaced { at_ms } => {
                replaced.push(Replaced { key, at_ms });
                false
            }
        };
        if twice {
            return Err(format_error("two encryption keys are in a state that only one can have"));
        }
    }
    let current = current.ok_or_else(|| format_error("no encryption key is the current one"))?;
    let mut ring = Ring::new(current);
    (ring.pending, ring.replaced) = (pending, replaced);
    Ok(Contents { name, trust_domain, seeds, ring, held })
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    format: u32,
    name: String,
    trust_domain: String,
    #[serde(with = "erased")]
    ed25519_seed: Zeroizing<String>,
    #[serde(with = "erased")]
    ml_dsa_65_seed: Zeroizing<String>,
    /// Experimental: whoever lacks the field signs with two keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fn_dsa_512_key: Option<Erased>,
    encryption_keys: Vec<KeyEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Erased(#[serde(with = "erased")] Zeroizing<String>);

#[derive(Serialize, Deserialize)]
struct KeyEntry {
    version: u32,
    #[serde(flatten)]
    state: State,
    #[serde(with = "erased")]
    x_wing_seed: Zeroizing<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum State {
    Pending,
    PendingEmergency,
    Current,
    Replaced {
        /// Unix milliseconds.
        #[serde(rename = "replaced_at_ms")]
        at_ms: u64,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFileV1 {
    #[allow(dead_code, reason = "it was looked at before, and must not count as unknown")]
    format: u32,
    name: String,
    trust_domain: String,
    record_version: u32,
    #[serde(with = "erased")]
    ed25519_seed: Zeroizing<String>,
    #[serde(with = "erased")]
    ml_dsa_65_seed: Zeroizing<String>,
    #[serde(with = "erased")]
    x_wing_seed: Zeroizing<String>,
}

impl From<KeyFileV1> for KeyFile {
    fn from(file: KeyFileV1) -> Self {
        let KeyFileV1 { name, trust_domain, record_version, ed25519_seed, ml_dsa_65_seed, x_wing_seed, .. } = file;
        let current = KeyEntry { version: record_version, state: State::Current, x_wing_seed };
        let encryption_keys = vec![current];
        Self {
            format: KEY_FILE_FORMAT,
            name,
            trust_domain,
            ed25519_seed,
            ml_dsa_65_seed,
            fn_dsa_512_key: None,
            encryption_keys,
        }
    }
}

/// Strings that are erased from memory after they were written or read.
mod erased {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(text: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new)
    }
}

/// A new file beside the old one, synced, then renamed over it, then the directory synced.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = folder_of(path);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", hex(&crate::clock::random::<8>())));
    let beside = directory.join(beside);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // The error that matters is the first one; a file that was never made cannot be removed.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
