//! The secret keys of an agent, and the file that keeps them.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use creto_crypto_accel::fn_dsa::{FN_DSA_512_PUBLIC_BYTES, FN_DSA_512_SIGNATURE_BYTES, FnDsaSigner};
use creto_crypto_accel::seal::{RecipientSecret, derived_key};
use creto_crypto_accel::sign::{HybridSignature, SigningKeys};
use creto_crypto_accel::token::EnrolmentToken;
use creto_envelope::channel::{ChannelRecord, SignedChannelRecord};
use creto_envelope::key_record::token_binding;
use creto_envelope::{
    AgentId, AgentName, AgentState, KeyId, KeyRecord, Purpose, RejectCode, SignedKeyRecord, TrustDomain,
};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::clock;
use crate::error::KeysError;
use crate::keystore::container::Held;
use crate::keystore::{KeyLock, LockKind};
use crate::receiver::sessions::{Bounds, IncomingSessions};
use crate::state::sealed::channel_file_key;
use crate::stats::UNPOISONED;

pub(crate) mod file;
mod ring;
mod rotate;

pub use file::KEY_FILE_FORMAT;
use file::{Contents, Mark, Opener};
pub(crate) use ring::Standing;
use ring::{Key, Ring};

/// An agent's name and its secret keys: Ed25519 and ML-DSA-65 to sign, X-Wing (X25519 and ML-KEM-768) to be sealed to.
/// Experimental, with the feature `fn-dsa`: FN-DSA-512 to sign as a third.
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
    seeds: Seeds,
    signing: SigningKeys,
    ring: RwLock<Ring>,
    kept: Mutex<Kept>,
    /// Where the keys are kept, once they are.
    file: OnceLock<PathBuf>,
    /// Sessions that senders opened to keys that are kept nowhere.
    sessions_in_memory: OnceLock<Arc<IncomingSessions>>,
}

/// How the keys are kept in their file.
#[derive(Default)]
struct Kept {
    /// The state of the file that the keys agree with.
    mark: Option<Mark>,
    /// What it takes to write an encrypted file again; `None`: it is plain.
    held: Option<Held>,
}

#[derive(Zeroize, ZeroizeOnDrop)]
struct Seeds {
    ed25519: [u8; 32],
    ml_dsa_65: [u8; 32],
    /// Erases itself. A whole key, not a seed: what a seed expands to is not part of a standard yet.
    #[zeroize(skip)]
    fn_dsa_512: Option<FnDsaSigner>,
}

impl Seeds {
    fn generate() -> Result<Self, KeysError> {
        let mut seeds = Self { ed25519: [0; 32], ml_dsa_65: [0; 32], fn_dsa_512: None };
        for seed in [&mut seeds.ed25519, &mut seeds.ml_dsa_65] {
            getrandom::fill(seed).map_err(|error| KeysError::Randomness(error.to_string()))?;
        }
        Ok(seeds)
    }

    fn fn_dsa_512_public(&self) -> Option<&[u8; FN_DSA_512_PUBLIC_BYTES]> {
        self.fn_dsa_512.as_ref().map(FnDsaSigner::public)
    }
}

impl AgentKeys {
    /// Makes new keys from the system's randomness, for version 1 of the agent's key record.
    ///
    /// # Errors
    /// [`KeysError::Randomness`] when the system has none.
    pub fn generate(name: AgentName, trust_domain: TrustDomain) -> Result<Self, KeysError> {
        Self::generate_from(Seeds::generate()?, name, trust_domain)
    }

    /// As [`generate`](Self::generate), with an FN-DSA-512 signing key beside the other two: **experimental**, its standard
    /// is not final. The agent's record demands the third signature on every batch from then on, so node and recipients
    /// need the feature, too.
    ///
    /// # Errors
    /// [`KeysError::Randomness`] when the system has none.
    #[cfg(feature = "fn-dsa")]
    pub fn generate_with_fn_dsa_512(name: AgentName, trust_domain: TrustDomain) -> Result<Self, KeysError> {
        let mut seeds = Seeds::generate()?;
        seeds.fn_dsa_512 = Some(FnDsaSigner::generate());
        Self::generate_from(seeds, name, trust_domain)
    }

    fn generate_from(seeds: Seeds, name: AgentName, trust_domain: TrustDomain) -> Result<Self, KeysError> {
        let ring = Ring::new(Key::new(1, new_seed()?, clock::now_ms()));
        Ok(Self::expand(name, trust_domain, seeds, ring))
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
        let seeds = Seeds { ed25519: *ed25519, ml_dsa_65: *ml_dsa_65, fn_dsa_512: None };
        let ring = Ring::new(Key::new(record_version, Zeroizing::new(*x_wing), clock::now_ms()));
        Self::expand(name, trust_domain, seeds, ring)
    }

    fn expand(name: AgentName, trust_domain: TrustDomain, seeds: Seeds, ring: Ring) -> Self {
        Self {
            id: AgentId::derive(&trust_domain, &name),
            signing: SigningKeys::from_seeds(&seeds.ed25519, &seeds.ml_dsa_65),
            name,
            trust_domain,
            seeds,
            ring: RwLock::new(ring),
            kept: Mutex::default(),
            file: OnceLock::new(),
            sessions_in_memory: OnceLock::new(),
        }
    }

    /// The same keys for another version of the key record: the one they are registered under.
    #[must_use]
    pub fn with_record_version(self, record_version: u32) -> Self {
        self.ring_mut().current.version = record_version;
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
        self.ring().current.version
    }

    /// The id of the current encryption key.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.ring().current.id()
    }

    /// What names the signing keys: they are the same under every version of the record.
    pub(crate) fn signing_fingerprint(&self) -> [u8; 32] {
        creto_transparency::leaf::signing_fingerprint(&self.unsigned_record_of(&self.ring().current, 1, 0, 0))
    }

    /// When the key before the current one was replaced, Unix milliseconds, as long as it is kept.
    pub(crate) fn replaced_at_ms(&self) -> Option<u64> {
        self.ring().replaced.first().map(|replaced| replaced.at_ms)
    }

    /// The id of the encryption key that these keys have under this version of the record, if they have it.
    pub(crate) fn key_id_of(&self, version: u32) -> Option<KeyId> {
        let ring = self.ring();
        let replaced = ring.replaced.iter().map(|replaced| &replaced.key);
        std::iter::once(&ring.current).chain(replaced).find(|key| key.version == version).map(Key::id)
    }

    /// Whether an FN-DSA-512 key signs every batch as a third: experimental.
    #[must_use]
    pub fn has_fn_dsa_512(&self) -> bool {
        self.seeds.fn_dsa_512.is_some()
    }

    /// The file that these keys were loaded from or first saved to, absolute. `None`: they live in memory only.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.get().map(PathBuf::as_path)
    }

    fn kept_in(&self, path: &Path) {
        // Saved again elsewhere, the keys still belong to their first place. A path that cannot be made absolute (the
        // working directory is gone) stays as it is.
        let _ = self.file.set(absolute(path));
    }

    /// The public keys as a key record, signed by Ed25519 and ML-DSA-65: what a node registers. Validity is in Unix
    /// milliseconds, the end exclusive.
    #[must_use]
    pub fn signed_record(&self, version: u32, valid_from_ms: u64, valid_until_ms: u64) -> SignedKeyRecord {
        self.record_of(&self.ring().current, version, valid_from_ms..valid_until_ms, None)
    }

    /// As [`signed_record`](Self::signed_record), for `purpose` and nothing else: a node refuses it for any other.
    #[must_use]
    pub fn signed_record_for(&self, purpose: Purpose, version: u32, valid_ms: Range<u64>) -> SignedKeyRecord {
        self.record_of(&self.ring().current, version, valid_ms, Some(purpose))
    }

    /// The first key record, signed to be registered with `token`.
    #[must_use]
    pub fn enrolment_record(&self, token: &EnrolmentToken, valid_ms: Range<u64>) -> SignedKeyRecord {
        let binding = token_binding(&token.hash(), &self.id());
        self.signed_record_for(Purpose::Enrolment(binding), self.record_version(), valid_ms)
    }

    /// A channel's record, signed by Ed25519 and ML-DSA-65: what a node takes of the channel's owner.
    ///
    /// # Errors
    /// [`RejectCode::FrameReserved`] when the record breaks a rule of its format, or names another owner.
    pub fn signed_channel(&self, record: ChannelRecord) -> Result<SignedChannelRecord, RejectCode> {
        record.check()?;
        if record.owner != self.id() {
            return Err(RejectCode::FrameReserved);
        }
        let HybridSignature { ed25519, ml_dsa_65 } = self.signing.sign(&record.signed_bytes());
        Ok(SignedChannelRecord { record, ed25519, ml_dsa_65 })
    }

    fn record_of(&self, key: &Key, version: u32, valid_ms: Range<u64>, purpose: Option<Purpose>) -> SignedKeyRecord {
        let record = KeyRecord { purpose, ..self.unsigned_record_of(key, version, valid_ms.start, valid_ms.end) };
        let HybridSignature { ed25519, ml_dsa_65 } = self.signing.sign(&record.signed_bytes());
        SignedKeyRecord { record, ed25519, ml_dsa_65 }
    }

    fn unsigned_record_of(&self, key: &Key, version: u32, valid_from_ms: u64, valid_until_ms: u64) -> KeyRecord {
        let (signing, opening) = (self.signing.public(), key.secret.public());
        KeyRecord {
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
            fn_dsa_512: self.seeds.fn_dsa_512_public().map(|public| Box::new(*public)),
            purpose: None,
        }
    }

    /// Writes the keys to a file that only its owner can read. The file is either the old one or the whole new one,
    /// also after a crash. A file that holds keys which would be lost is never written over, nor is one that cannot be
    /// read. It is encrypted if the file is that the keys are kept in; [`save_locked`](Self::save_locked) makes it so.
    ///
    /// # Errors
    /// [`KeysError::OtherKeys`], [`KeysError::File`], or what [`load`](Self::load) says of a file that is there already.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), KeysError> {
        self.save_with(path.as_ref(), None)
    }

    /// As [`save`](Self::save), encrypted behind a lock. Where the keys are kept already, a plain file becomes an encrypted
    /// one, and in an encrypted one the lock takes the place of the one of its kind: that is how a passphrase is changed.
    /// The data key stays then, and whoever has an older copy of the file still opens that one with the old passphrase.
    ///
    /// Takes as long as the lock does, for a passphrase about 0.2 s and 64 MiB of memory.
    ///
    /// # Errors
    /// As [`save`](Self::save), and [`KeysError::Lock`].
    pub fn save_locked(&self, path: impl AsRef<Path>, lock: &dyn KeyLock) -> Result<(), KeysError> {
        self.save_with(path.as_ref(), Some(lock))
    }

    fn save_with(&self, path: &Path, new: Option<&dyn KeyLock>) -> Result<(), KeysError> {
        // In their own place another process of the agent may have written a newer key: it stays.
        let is_own_place = self.file() == Some(&absolute(path));
        let _lock = file::lock(path)?;
        if is_own_place {
            self.reload()?;
        }
        // One writer at a time: a key that is replaced meanwhile is in the ring before or after, not half.
        let mut kept = self.kept.lock().expect(UNPOISONED);
        if !is_own_place {
            self.check_replaceable(path, new.map_or_else(|| kept.held.as_ref().into(), Opener::Lock))?;
        }
        let relocked = match (new, &kept.held) {
            (None, _) => None,
            (Some(new), Some(held)) if is_own_place => Some(held.with(new)),
            // A copy elsewhere has a data key of its own.
            (Some(new), _) => Some(Held::new(new)),
        };
        let relocked = relocked.transpose().map_err(|error| file::lock_error(path, error))?;
        let held = relocked.as_ref().or(kept.held.as_ref());
        file::write(path, &self.name, &self.trust_domain, &self.seeds, &self.ring(), held)?;
        self.kept_in(path);
        if self.file() == Some(&absolute(path)) {
            *kept = Kept { mark: Mark::of(path), held: relocked.or(kept.held.take()) };
        }
        Ok(())
    }

    /// Reads the keys from a plain file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`KeysError`]; a file that others can read is refused, as ssh does it, and an encrypted one with
    /// [`KeysError::Locked`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KeysError> {
        Self::load_with(path.as_ref(), Opener::Nothing)
    }

    /// Reads the keys from an encrypted file, or from a plain one. Takes as long as the lock does: not on a thread that
    /// carries packets.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`KeysError::WrongPassphrase`], and [`KeysError::Damaged`] for a file that is not as it
    /// was written.
    pub fn load_locked(path: impl AsRef<Path>, lock: &dyn KeyLock) -> Result<Self, KeysError> {
        Self::load_with(path.as_ref(), Opener::Lock(lock))
    }

    fn load_with(path: &Path, opener: Opener<'_>) -> Result<Self, KeysError> {
        // Before the content: a file that is replaced in between is read again, not missed.
        let mark = Mark::of(path);
        let Contents { name, trust_domain, seeds, ring, held } = file::read(path, opener)?;
        let keys = Self::expand(name, trust_domain, seeds, ring);
        keys.kept_in(path);
        *keys.kept.lock().expect(UNPOISONED) = Kept { mark, held };
        Ok(keys)
    }

    /// Whether the file that the keys are kept in is still as it was when they were last written or read.
    #[must_use]
    pub fn is_file_unchanged(&self) -> bool {
        let kept = self.kept.lock().expect(UNPOISONED);
        kept.mark.is_some() && self.file().and_then(Mark::of) == kept.mark
    }

    /// What opens the file that the keys are kept in. Nothing: it is plain, or there is none.
    #[must_use]
    pub fn locks(&self) -> Vec<LockKind> {
        self.kept.lock().expect(UNPOISONED).held.as_ref().map_or_else(Vec::new, Held::kinds)
    }

    /// Signs with both keys. About 190 us: not on a thread that carries packets.
    pub(crate) fn sign(&self, statement: &[u8]) -> HybridSignature {
        self.signing.sign(statement)
    }

    /// Signs with the third key, where there is one. About 0.6 ms more.
    pub(crate) fn sign_fn_dsa_512(&self, statement: &[u8]) -> Option<Box<[u8; FN_DSA_512_SIGNATURE_BYTES]>> {
        self.seeds.fn_dsa_512.as_ref().map(|signer| signer.sign(statement))
    }

    /// The sessions that senders opened to these keys, for an agent that keeps no state on disk: they live as long as the
    /// keys do.
    pub(crate) fn sessions_in_memory(&self) -> Arc<IncomingSessions> {
        let new = || Arc::new(IncomingSessions::new(Bounds::PRODUCTION));
        Arc::clone(self.sessions_in_memory.get_or_init(new))
    }

    /// The key that opens what was sealed to `key_id`, if it is ours: the current one, one that was replaced, or one that
    /// another process of this agent has put into the file meanwhile. May read the file: not on a thread that carries
    /// packets.
    pub(crate) fn opening(&self, key_id: KeyId) -> Option<Arc<RecipientSecret>> {
        let now_ms = clock::now_ms();
        let known = self.ring().opening(key_id, now_ms);
        known.or_else(|| self.reload_if_changed().then(|| self.ring().opening(key_id, now_ms)).flatten())
    }

    /// Under which the secret halves of prekeys are sealed in their file: it follows from a signing key, which is never replaced.
    pub(crate) fn prekey_file_key(&self) -> Zeroizing<[u8; 32]> {
        derived_key(&self.seeds.ed25519, &[b"creto/prekey-files/v1\0", &self.id.0])
    }

    /// Under which the sessions of channels are sealed in their files; as [`prekey_file_key`](Self::prekey_file_key).
    pub(crate) fn channel_file_key(&self) -> Zeroizing<[u8; 32]> {
        channel_file_key(&self.prekey_file_key())
    }

    /// A prekey of this version was needed, so its own key is in use.
    pub(crate) fn touch(&self, version: u32) {
        self.ring().touch(version, clock::now_ms());
    }

    /// Whether the encryption key of this version is here.
    pub(crate) fn has_version(&self, version: u32) -> bool {
        self.key_id_of(version).is_some()
    }

    fn ring(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().expect(UNPOISONED)
    }

    fn ring_mut(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().expect(UNPOISONED)
    }
}

impl fmt::Debug for AgentKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentKeys")
            .field("name", &self.name.as_str())
            .field("trust_domain", &self.trust_domain.as_str())
            .field("record_version", &self.record_version())
            .finish_non_exhaustive()
    }
}

/// As far as it can be: when the working directory is gone, a path stays as it is.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn new_seed() -> Result<Zeroizing<[u8; 32]>, KeysError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut seed[..]).map_err(|error| KeysError::Randomness(error.to_string()))?;
    Ok(seed)
}

#[cfg(test)]
mod tests;
