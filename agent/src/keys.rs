//! The secret keys of an agent, and the file that keeps them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use creto_crypto_accel::seal::RecipientSecret;
use creto_crypto_accel::sign::{HybridSignature, SigningKeys};
use creto_envelope::{AgentId, AgentName, AgentState, KeyId, KeyRecord, SignedKeyRecord, TrustDomain};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::KeysError;
use crate::limits::{ALL_SESSIONS_MAX, SENDER_SESSIONS_MAX};
use crate::receiver::sessions::IncomingSessions;

/// The format of key files that this version writes.
const FORMAT: u32 = 1;

/// An agent's name and its secret keys: Ed25519 and ML-DSA-65 to sign, X-Wing (X25519 and ML-KEM-768) to be sealed to.
///
/// Secrets are erased from memory on drop and never printed.
///
/// ```
/// use creto_agent::{AgentKeys, AgentName, TrustDomain};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("planner.keys");
/// let keys = AgentKeys::generate(AgentName::parse("acme/planner")?, TrustDomain::default())?;
/// keys.save(&path)?;                                   // mode 0600, whole or not at all
/// assert_eq!(AgentKeys::load(&path)?.id(), keys.id());
/// // What the node's operator registers: public keys, signed by the secret ones.
/// let record = keys.signed_record(1, 1_760_000_000_000, 1_791_536_000_000);
/// assert_eq!(record.record.name.as_str(), "acme/planner");
/// # Ok(())
/// # }
/// ```
pub struct AgentKeys {
    name: AgentName,
    trust_domain: TrustDomain,
    id: AgentId,
    record_version: u32,
    seeds: Seeds,
    signing: SigningKeys,
    opening: RecipientSecret,
    /// Where the keys are kept, once they are.
    file: OnceLock<PathBuf>,
    /// Sessions that senders opened to keys that are kept nowhere.
    sessions_in_memory: OnceLock<Arc<IncomingSessions>>,
}

#[derive(Zeroize, ZeroizeOnDrop)]
struct Seeds {
    ed25519: [u8; 32],
    ml_dsa_65: [u8; 32],
    x_wing: [u8; 32],
}

impl AgentKeys {
    /// Makes new keys from the system's randomness, for version 1 of the agent's key record.
    ///
    /// # Errors
    /// [`KeysError::Randomness`] when the system has none.
    pub fn generate(name: AgentName, trust_domain: TrustDomain) -> Result<Self, KeysError> {
        let mut seeds = Seeds { ed25519: [0; 32], ml_dsa_65: [0; 32], x_wing: [0; 32] };
        for seed in [&mut seeds.ed25519, &mut seeds.ml_dsa_65, &mut seeds.x_wing] {
            getrandom::fill(seed).map_err(|error| KeysError::Randomness(error.to_string()))?;
        }
        Ok(Self::expand(name, trust_domain, 1, seeds))
    }

    /// Keys from given seeds: for tests and for key stores of one's own. Each seed is 32 bytes of full entropy.
    #[must_use]
    pub fn from_seeds(
        name: AgentName,
        trust_domain: TrustDomain,
        record_version: u32,
        ed25519: &[u8; 32],
        ml_dsa_65: &[u8; 32],
        x_wing: &[u8; 32],
    ) -> Self {
        let seeds = Seeds { ed25519: *ed25519, ml_dsa_65: *ml_dsa_65, x_wing: *x_wing };
        Self::expand(name, trust_domain, record_version, seeds)
    }

    fn expand(name: AgentName, trust_domain: TrustDomain, record_version: u32, seeds: Seeds) -> Self {
        Self {
            id: AgentId::derive(&trust_domain, &name),
            signing: SigningKeys::from_seeds(&seeds.ed25519, &seeds.ml_dsa_65),
            opening: RecipientSecret::from_seed(&seeds.x_wing),
            name,
            trust_domain,
            record_version,
            seeds,
            file: OnceLock::new(),
            sessions_in_memory: OnceLock::new(),
        }
    }

    /// The same keys for another version of the key record: the one they are registered under.
    #[must_use]
    pub fn with_record_version(mut self, record_version: u32) -> Self {
        self.record_version = record_version;
        self
    }

    /// The agent's name.
    #[must_use]
    pub fn name(&self) -> &AgentName {
        &self.name
    }

    /// The trust domain of the name.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The agent's id, derived from both.
    #[must_use]
    pub fn id(&self) -> AgentId {
        self.id
    }

    /// The version of the key record that these keys log in and sign with.
    #[must_use]
    pub fn record_version(&self) -> u32 {
        self.record_version
    }

    /// The id of the encryption key.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId(self.opening.key_id())
    }

    /// The file that these keys were loaded from or first saved to, absolute. `None`: they live in memory only.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.get().map(PathBuf::as_path)
    }

    fn kept_in(&self, path: &Path) {
        // Saved again elsewhere, the keys still belong to their first place. A path that cannot be made absolute (the
        // working directory is gone) stays as it is.
        let _ = self.file.set(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    }

    /// The public keys as a key record, signed by both signing keys: what a node registers. Validity is in Unix
    /// milliseconds, the end exclusive.
    #[must_use]
    pub fn signed_record(&self, version: u32, valid_from_ms: u64, valid_until_ms: u64) -> SignedKeyRecord {
        let (signing, opening) = (self.signing.public(), self.opening.public());
        let record = KeyRecord {
            version,
            state: AgentState::Active,
            valid_from_ms,
            valid_until_ms,
            ed25519: signing.ed25519,
            x25519: opening.x25519,
            ml_dsa_65: Box::new(signing.ml_dsa_65),
            ml_kem_768: Box::new(opening.ml_kem_768),
            name: self.name.clone(),
            trust_domain: self.trust_domain.clone(),
            fn_dsa_512: None,
        };
        let HybridSignature { ed25519, ml_dsa_65 } = self.signing.sign(&record.signed_bytes());
        SignedKeyRecord { record, ed25519, ml_dsa_65 }
    }

    /// Writes the keys to a file that only its owner can read. The file is either the old one or the whole new one,
    /// also after a crash.
    ///
    /// # Errors
    /// [`KeysError::File`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), KeysError> {
        let path = path.as_ref();
        let base64 = |seed: &[u8; 32]| Zeroizing::new(BASE64.encode(seed));
        let file = KeyFile {
            format: FORMAT,
            name: self.name.to_string(),
            trust_domain: self.trust_domain.to_string(),
            record_version: self.record_version,
            ed25519_seed: base64(&self.seeds.ed25519),
            ml_dsa_65_seed: base64(&self.seeds.ml_dsa_65),
            x_wing_seed: base64(&self.seeds.x_wing),
        };
        let mut json = Zeroizing::new(serde_json::to_vec_pretty(&file).expect("strings and numbers make JSON"));
        json.push(b'\n');
        write_whole(path, &json).map_err(|source| KeysError::File {
            path: path.to_owned(),
            doing: "written",
            source,
        })?;
        self.kept_in(path);
        Ok(())
    }

    /// Reads the keys from a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`KeysError`]; a file that others can read is refused, as ssh does it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KeysError> {
        let path = path.as_ref();
        let file_error = |source| KeysError::File { path: path.to_owned(), doing: "read", source };
        let format_error = |reason: &str| KeysError::Format { path: path.to_owned(), reason: reason.to_owned() };
        let mode = fs::metadata(path).map_err(file_error)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeysError::Permissions { path: path.to_owned(), mode });
        }
        let json = Zeroizing::new(fs::read(path).map_err(file_error)?);
        // The format comes first: another one may mean everything else differently.
        let FormatOnly { format } = serde_json::from_slice(&json)
            .map_err(|error| format_error(&format!("no JSON object with a format (line {})", error.line())))?;
        if format != FORMAT {
            return Err(KeysError::Version { path: path.to_owned(), found: format });
        }
        // serde_json's own texts may quote what they found, so only the place is told.
        let file: KeyFile = serde_json::from_slice(&json)
            .map_err(|error| format_error(&format!("line {}, column {}", error.line(), error.column())))?;
        let name = AgentName::parse(&file.name).map_err(|error| format_error(&error.to_string()))?;
        let trust_domain = TrustDomain::parse(&file.trust_domain).map_err(|error| format_error(&error.to_string()))?;
        let seed = |text: &str| -> Result<Zeroizing<[u8; 32]>, KeysError> {
            let bytes = Zeroizing::new(BASE64.decode(text).map_err(|_| format_error("a seed is not base64"))?);
            let seed = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| format_error("a seed is not 32 bytes"))?;
            Ok(Zeroizing::new(seed))
        };
        let seeds = Seeds {
            ed25519: *seed(&file.ed25519_seed)?,
            ml_dsa_65: *seed(&file.ml_dsa_65_seed)?,
            x_wing: *seed(&file.x_wing_seed)?,
        };
        if file.record_version == 0 {
            return Err(format_error("record versions count from 1"));
        }
        let keys = Self::expand(name, trust_domain, file.record_version, seeds);
        keys.kept_in(path);
        Ok(keys)
    }

    /// Signs with both keys. About 190 us: not on a thread that carries packets.
    pub(crate) fn sign(&self, statement: &[u8]) -> HybridSignature {
        self.signing.sign(statement)
    }

    /// The sessions that senders opened to these keys, for an agent that keeps no state on disk: they live as long as the
    /// keys do.
    pub(crate) fn sessions_in_memory(&self) -> Arc<IncomingSessions> {
        let new = || Arc::new(IncomingSessions::new(SENDER_SESSIONS_MAX, ALL_SESSIONS_MAX));
        Arc::clone(self.sessions_in_memory.get_or_init(new))
    }

    /// The key that opens what was sealed to `key_id`, if it is ours.
    pub(crate) fn opening(&self, key_id: KeyId) -> Option<&RecipientSecret> {
        (self.key_id() == key_id).then_some(&self.opening)
    }
}

impl fmt::Debug for AgentKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentKeys")
            .field("name", &self.name.as_str())
            .field("trust_domain", &self.trust_domain.as_str())
            .field("record_version", &self.record_version)
            .finish_non_exhaustive()
    }
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
    record_version: u32,
    #[serde(with = "erased")]
    ed25519_seed: Zeroizing<String>,
    #[serde(with = "erased")]
    ml_dsa_65_seed: Zeroizing<String>,
    #[serde(with = "erased")]
    x_wing_seed: Zeroizing<String>,
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
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
