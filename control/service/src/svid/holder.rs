//! The workload's side: an SVID with its key, as files give them, and what it signs.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use creto_envelope::SignedKeyRecord;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use super::{SCHEMES, SvidEnrolment, statement};

/// An X.509-SVID and its private key. The key is never printed; aws-lc erases it.
pub struct Svid {
    certificates: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
}

/// Why files are no SVID that could sign.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SvidReadError {
    /// There is no certificate.
    #[error("there is no PEM certificate in the file of the SVID; give the file that the SPIFFE agent writes")]
    Certificate,
    /// There is no key.
    #[error("there is no PEM private key in the file of the SVID's key; give the file that the SPIFFE agent writes")]
    Key,
    /// The key is of a kind that signs nothing here.
    #[error(
        "the SVID's key is of a kind that cannot be used; use ECDSA on P-256 or P-384, Ed25519, or RSA of 2,048 bits or more"
    )]
    KeyKind,
}

impl Svid {
    /// From PEM: the certificates, the workload's own first, and its private key (PKCS#8, SEC 1 or PKCS#1).
    ///
    /// # Errors
    /// [`SvidReadError`].
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, SvidReadError> {
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(|_| SvidReadError::Certificate)?;
        if certificates.is_empty() {
            return Err(SvidReadError::Certificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| SvidReadError::Key)?;
        let key = any_supported_type(&key).map_err(|_| SvidReadError::KeyKind)?;
        Ok(Self { certificates, key })
    }

    /// Signs for the registration of a key record.
    ///
    /// # Errors
    /// [`SvidReadError::KeyKind`].
    pub fn enrolment(&self, signed: &SignedKeyRecord) -> Result<SvidEnrolment, SvidReadError> {
        let record = signed.to_bytes();
        let offered: Vec<SignatureScheme> = SCHEMES.iter().map(|(number, _)| SignatureScheme::from(*number)).collect();
        let signer = self.key.choose_scheme(&offered).ok_or(SvidReadError::KeyKind)?;
        let signature = signer.sign(&statement(&self.certificates[0], &record)).map_err(|_| SvidReadError::KeyKind)?;
        Ok(SvidEnrolment {
            record: BASE64.encode(record),
            certificates: self.certificates.iter().map(|certificate| BASE64.encode(certificate)).collect(),
            scheme: signer.scheme().into(),
            signature: BASE64.encode(signature),
        })
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}
