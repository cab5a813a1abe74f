//! A PKCS#11 token as a lock: the data key is encrypted under an AES key that never leaves the token.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use creto_crypto_accel::keys::{NONCE_BYTES, TAG_BYTES};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::{DataKey, KeyLock, LockError, LockKind, Passphrase};
use crate::clock;

/// AES-256-GCM by the token (CKM_AES_GCM).
const AES_256_GCM: u8 = 1;
const LABEL: &[u8] = b"creto/keystore/v1/token\0";
const KEY_ID_BYTES: usize = 16;
/// Everything before the nonce: it is authenticated with the key.
const HEAD_BYTES: usize = 4 + KEY_ID_BYTES;
const LOCK_BYTES: usize = HEAD_BYTES + NONCE_BYTES + 32 + TAG_BYTES;
/// What the key is called on the token, for those who look there.
const KEY_LABEL: &[u8] = b"creto keystore";
/// CKA_VALUE_LEN of AES-256.
const AES_BYTES: u64 = 32;

/// A login to a token ends with its last session, and is one for the whole process: one use at a time.
static IN_USE: Mutex<()> = Mutex::new(());

/// A token, and the PIN of its user.
///
/// Each lock that it makes has an AES-256 key of its own on the token, which is sensitive and cannot be extracted: without the
/// token the file never opens again. The module is a shared library that runs inside this process with all its rights:
/// it is named by whoever runs the agent, never by the file.
pub struct TokenLock {
    module: PathBuf,
    token: String,
    pin: AuthPin,
}

impl TokenLock {
    /// The token with this label, behind this PKCS#11 module. Nothing is loaded yet.
    #[must_use]
    pub fn new(module: impl Into<PathBuf>, token: impl Into<String>, pin: &Passphrase) -> Self {
        Self { module: module.into(), token: token.into(), pin: AuthPin::from(pin.expose().to_owned()) }
    }

    /// Does something on the token, logged in.
    fn with_session<T>(&self, work: impl FnOnce(&Session) -> Result<T, LockError>) -> Result<T, LockError> {
        let _in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let module = self.module.display();
        let pkcs11 = Pkcs11::new(&self.module)
            .map_err(|error| LockError::System(format!("the PKCS#11 module {module} cannot be loaded ({error})")))?;
        match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(refused("start", &error)),
        }
        let slots = pkcs11.get_slots_with_token().map_err(|error| refused("list its tokens", &error))?;
        let mut own = slots
            .into_iter()
            .filter(|slot| pkcs11.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == self.token));
        let slot = own.next().ok_or_else(|| {
            LockError::System(format!("no token called {:?} is behind the module {module}", self.token))
        })?;
        if own.next().is_some() {
            return Err(LockError::System(format!("two tokens are called {:?}", self.token)));
        }
        let session = pkcs11.open_rw_session(slot).map_err(|error| refused("open a session", &error))?;
        match session.login(UserType::User, Some(&self.pin)) {
            // Whoever loaded the module first is logged in: this process is, that is what the token asks.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                return Err(LockError::Wrong);
            }
            Err(error) => return Err(refused("log in", &error)),
        }
        work(&session)
    }
}

impl KeyLock for TokenLock {
    fn kind(&self) -> LockKind {
        LockKind::Token
    }

    fn close(&self, data_key: &DataKey) -> Result<Vec<u8>, LockError> {
        let id: [u8; KEY_ID_BYTES] = clock::random();
        let mut nonce: [u8; NONCE_BYTES] = clock::random();
        let mut lock = vec![AES_256_GCM, 0, 0, 0];
        lock.extend_from_slice(&id);
        assert_eq!(lock.len(), HEAD_BYTES);
        lock.extend_from_slice(&nonce);
        let wrapped = self.with_session(|session| {
            let key = make_key(session, &id)?;
            let aad = [LABEL, &lock[..HEAD_BYTES]].concat();
            let mechanism = gcm(&mut nonce, &aad)?;
            session.encrypt(&mechanism, key, data_key.expose()).map_err(|error| refused("encrypt by AES-GCM", &error))
        })?;
        lock.extend_from_slice(&wrapped);
        if lock.len() != LOCK_BYTES {
            return Err(LockError::System("the token encrypts to another length than AES-GCM does".to_owned()));
        }
        Ok(lock)
    }

    fn open(&self, lock: &[u8]) -> Result<DataKey, LockError> {
        let damaged = |reason: &str| LockError::Damaged(reason.to_owned());
        let lock: &[u8; LOCK_BYTES] =
            lock.try_into().map_err(|_| damaged("its token lock has another length than such locks have"))?;
        let (head, rest) = lock.split_at(HEAD_BYTES);
        let (nonce, wrapped) = rest.split_at(NONCE_BYTES);
        if head[..4] != [AES_256_GCM, 0, 0, 0] {
            return Err(damaged("its token lock is not of AES-256-GCM"));
        }
        let mut nonce = nonce.to_vec();
        let opened = self.with_session(|session| {
            let key = find_key(session, &head[4..])?.ok_or_else(|| {
                LockError::System(format!("the token {:?} does not have the key of this file", self.token))
            })?;
            let aad = [LABEL, head].concat();
            let mechanism = gcm(&mut nonce, &aad)?;
            let opened = session.decrypt(&mechanism, key, wrapped).map(Zeroizing::new);
            opened.map_err(|error| match error {
                Error::Pkcs11(
                    RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange | RvError::GeneralError,
                    Function::Decrypt,
                ) => damaged("the key in its token lock was changed"),
                error => refused("decrypt by AES-GCM", &error),
            })
        })?;
        let key = <[u8; 32]>::try_from(opened.as_slice()).map_err(|_| damaged("its token lock holds no data key"))?;
        Ok(DataKey::new(Zeroizing::new(key)))
    }
}

impl fmt::Debug for TokenLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenLock").field("module", &self.module).field("token", &self.token).finish_non_exhaustive()
    }
}

/// An AES-256 key that never leaves the token.
fn make_key(session: &Session, id: &[u8]) -> Result<ObjectHandle, LockError> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(AES_BYTES.into()),
        Attribute::Id(id.to_vec()),
        Attribute::Label(KEY_LABEL.to_vec()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    let key = session.generate_key(&Mechanism::AesKeyGen, &template);
    let key = key.map_err(|error| refused("make an AES-256 key", &error))?;
    // What was asked for is not always what is done.
    let asked = [AttributeType::Sensitive, AttributeType::Extractable, AttributeType::NeverExtractable];
    let is = session.get_attributes(key, &asked).map_err(|error| refused("tell of its key", &error))?;
    let stays = [Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::NeverExtractable(true)];
    if !stays.iter().all(|attribute| is.contains(attribute)) {
        let _ = session.destroy_object(key);
        return Err(LockError::System("the token makes keys that can be taken out of it".to_owned()));
    }
    Ok(key)
}

fn find_key(session: &Session, id: &[u8]) -> Result<Option<ObjectHandle>, LockError> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        Attribute::Id(id.to_vec()),
    ];
    let found = session.find_objects(&template).map_err(|error| refused("look for the key", &error))?;
    Ok(found.first().copied())
}

fn gcm<'a>(nonce: &'a mut [u8], aad: &'a [u8]) -> Result<Mechanism<'a>, LockError> {
    let params = GcmParams::new(nonce, aad, (8 * TAG_BYTES as u64).into());
    params.map(Mechanism::AesGcm).map_err(|error| refused("take the parameters of AES-GCM", &error))
}

fn refused(what: &str, error: &Error) -> LockError {
    LockError::System(format!("the token does not {what} ({error})"))
}
