//! Enrolment by an X.509-SVID: a workload that SPIFFE knows registers its agent without a token.
//!
//! The workload has a certificate whose one URI is its SPIFFE id, `spiffe://<trust domain>/<agent's name>`, from an authority of
//! the node's trust bundle. With the certificate's key it signs the [statement] over the key record that it wants
//! registered. What is checked is the X.509-SVID standard (sections 2 to 5 of SPIFFE's `X509-SVID.md`) and RFC 5280's path, but
//! for the key usage of intermediates, which the library does not look at.
//! Pure: bytes and time in, a verdict out. What the record itself must fulfil is in [`registration`](crate::registration).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use creto_crypto_accel::digest::sha256;
use creto_envelope::{AgentName, TrustDomain};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;
use webpki::aws_lc_rs as algorithms;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::api::ErrorCode;
use crate::error::ServiceError;
use crate::limits::{SPIFFE_BUNDLE_BYTES_MAX, SVID_CERTIFICATE_BYTES_MAX, SVID_CERTIFICATES_MAX};

mod holder;
#[cfg(test)]
mod tests;

pub use holder::{Svid, SvidReadError};

const SCHEME: &str = "spiffe://";

/// What a workload sends: the body of `POST /v1/svid-enrolments`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SvidEnrolment {
    /// The signed key record to register, in base64.
    pub record: String,
    /// The SVID first, then the intermediate certificates up to one below the bundle's: DER in base64.
    pub certificates: Vec<String>,
    /// How the statement is signed: a SignatureScheme of TLS 1.3 (RFC 8446 section 4.2.3).
    pub scheme: u16,
    /// The signature of the SVID's key over the statement, in base64.
    pub signature: String,
}

/// What the key of an SVID signs to register a key record: only this record, only with this certificate, and nothing that
/// any other protocol signs.
///
/// ```text
/// "creto/svid-enrolment/v1" || 0x00 || SHA-256(certificate's DER) || SHA-256(signed key record)
/// ```
#[must_use]
pub fn statement(certificate: &[u8], signed_record: &[u8]) -> Vec<u8> {
    [&b"creto/svid-enrolment/v1\0"[..], &sha256(&[certificate]), &sha256(&[signed_record])].concat()
}

/// How a statement may be signed, by the scheme's number. Each goes with one kind of key.
const SCHEMES: &[(u16, &dyn SignatureVerificationAlgorithm)] = &[
    (0x0403, algorithms::ECDSA_P256_SHA256),
    (0x0503, algorithms::ECDSA_P384_SHA384),
    (0x0804, algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY),
    (0x0805, algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY),
    (0x0806, algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY),
    (0x0807, algorithms::ED25519),
];

/// Why an SVID registers nobody. Each has a code of its own.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SvidError {
    /// What was sent cannot be read.
    #[error("the enrolment cannot be read: {0}")]
    Malformed(String),
    /// The certificate has no URI, several, or one that is no SPIFFE id.
    #[error("the certificate is no X.509-SVID: {0}")]
    Uri(String),
    /// The certificate may issue others.
    #[error("the certificate is that of an authority, not of a workload")]
    Authority,
    /// The certificate's key may not be used so.
    #[error("the key usage of the certificate is not that of an X.509-SVID: {0}")]
    KeyUsage(&'static str),
    /// It belongs to another trust domain.
    #[error("the SPIFFE id {found} is not of trust domain {served}, which this node serves")]
    TrustDomain {
        /// The SPIFFE id.
        found: String,
        /// Of this node.
        served: TrustDomain,
    },
    /// The SPIFFE id is not that of the record's agent.
    #[error("the SPIFFE id {found} is not that of the agent, {expected}")]
    Name {
        /// In the certificate.
        found: String,
        /// Of the record.
        expected: String,
    },
    /// It is not valid now.
    #[error("the certificate, or one above it, is not valid now: {0}")]
    Time(String),
    /// No authority of the bundle stands behind it.
    #[error("no authority of the trust bundle stands behind the certificate: {0}")]
    Untrusted(String),
    /// The sender does not have its key.
    #[error("the enrolment is not signed with the key of the certificate")]
    Signature,
}

impl SvidError {
    /// The code of the API.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed(_) => ErrorCode::SvidMalformed,
            Self::Uri(_) => ErrorCode::SvidUri,
            Self::Authority => ErrorCode::SvidAuthority,
            Self::KeyUsage(_) => ErrorCode::SvidKeyUsage,
            Self::TrustDomain { .. } => ErrorCode::SvidTrustDomain,
            Self::Name { .. } => ErrorCode::SvidName,
            Self::Time(_) => ErrorCode::SvidTime,
            Self::Untrusted(_) => ErrorCode::SvidUntrusted,
            Self::Signature => ErrorCode::SvidSignature,
        }
    }
}

/// The authorities whose SVIDs register agents: the trust bundle of the node's own trust domain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustBundle(Arc<[CertificateDer<'static>]>);

/// Why a file is no trust bundle.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// It cannot be read.
    #[error("{0}")]
    File(io::Error),
    /// It is too large to be one.
    #[error("it is larger than {SPIFFE_BUNDLE_BYTES_MAX} bytes")]
    TooLarge,
    /// It is not PEM, or cut short.
    #[error("it is not PEM: {0}")]
    Pem(String),
    /// It has none.
    #[error("it has no certificate")]
    Empty,
    /// One cannot stand at the top of a path.
    #[error("certificate {number} is not that of an authority: {reason}")]
    Authority {
        /// Counted from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl TrustBundle {
    /// Reads a file of certificates in PEM.
    pub(crate) fn read(path: &Path) -> Result<Self, ServiceError> {
        let of_path = |source| ServiceError::TrustBundle { path: path.to_owned(), source };
        let mut pem = Vec::new();
        File::open(path)
            .and_then(|file| file.take(SPIFFE_BUNDLE_BYTES_MAX + 1).read_to_end(&mut pem))
            .map_err(|error| of_path(BundleError::File(error)))?;
        if pem.len() as u64 > SPIFFE_BUNDLE_BYTES_MAX {
            return Err(of_path(BundleError::TooLarge));
        }
        Self::parse(&pem).map_err(of_path)
    }

    /// Parses one or more certificates in PEM.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn parse(pem: &[u8]) -> Result<Self, BundleError> {
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| BundleError::Pem(error.to_string()))?;
        if certificates.is_empty() {
            return Err(BundleError::Empty);
        }
        for (index, certificate) in certificates.iter().enumerate() {
            let bad = |reason: String| BundleError::Authority { number: index + 1, reason };
            anchor_from_trusted_cert(certificate).map_err(|error| bad(error.to_string()))?;
            let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| bad(error.to_string()))?;
            if !parsed.is_ca() {
                return Err(bad("it may not issue certificates".to_owned()));
            }
        }
        Ok(Self(certificates.into()))
    }

    /// Checks what a workload sent against the bundle, at `now_ms`: that it may register an agent of this name in this trust
    /// domain. Gives the signed key record that its certificate's key has signed for.
    ///
    /// # Errors
    /// The first rule that is broken; what costs least is checked first.
    pub fn check(
        &self,
        enrolment: &SvidEnrolment,
        trust_domain: &TrustDomain,
        now_ms: u64,
    ) -> Result<Vouched, SvidError> {
        let decoded = |what: &str, text: &str| {
            BASE64.decode(text).map_err(|_| SvidError::Malformed(format!("{what} is not base64")))
        };
        let count = enrolment.certificates.len();
        if !(1..=SVID_CERTIFICATES_MAX).contains(&count) {
            return Err(SvidError::Malformed(format!("it has {count} certificates, not 1 to {SVID_CERTIFICATES_MAX}")));
        }
        let mut certificates = Vec::with_capacity(count);
        for text in &enrolment.certificates {
            let der = decoded("a certificate", text)?;
            if der.len() > SVID_CERTIFICATE_BYTES_MAX {
                return Err(SvidError::Malformed("a certificate is larger than any SVID".to_owned()));
            }
            certificates.push(CertificateDer::from(der));
        }
        let (leaf, intermediates) = certificates.split_first().expect("it has at least one");
        let name = name_of(leaf, trust_domain)?;
        let end_entity = EndEntityCert::try_from(leaf).map_err(|error| path_error(&error))?;
        self.check_path(&end_entity, intermediates, now_ms)?;

        let record = decoded("the record", &enrolment.record)?;
        let signature = decoded("the signature", &enrolment.signature)?;
        let (_, algorithm) = SCHEMES.iter().find(|(number, _)| *number == enrolment.scheme).ok_or_else(|| {
            SvidError::Malformed(format!("the signature scheme {:#06x} is not taken", enrolment.scheme))
        })?;
        end_entity
            .verify_signature(*algorithm, &statement(leaf, &record), &signature)
            .map_err(|_| SvidError::Signature)?;
        Ok(Vouched { name, record })
    }

    fn check_path(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        now_ms: u64,
    ) -> Result<(), SvidError> {
        let anchors: Vec<_> = self
            .0
            .iter()
            .map(|certificate| anchor_from_trusted_cert(certificate).expect("the bundle was checked when it was read"))
            .collect();
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now_ms));
        // An SVID need not say what it is for; one that does must be for clients (X509-SVID section 4.4).
        let usage = KeyUsage::client_auth();
        leaf.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, intermediates, now, usage, None, None)
            .map(drop)
            .map_err(|error| path_error(&error))
    }
}

/// A signed key record, and the name that an SVID vouches for. The record's own claims are not checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vouched {
    name: AgentName,
    record: Vec<u8>,
}

impl Vouched {
    /// The signed key record as it was sent.
    #[must_use]
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// Whether a record of this name may be registered.
    ///
    /// # Errors
    /// [`SvidError::Name`].
    pub fn check_name(&self, name: &AgentName, trust_domain: &TrustDomain) -> Result<(), SvidError> {
        if self.name == *name {
            return Ok(());
        }
        Err(SvidError::Name { found: self.name.spiffe_id(trust_domain), expected: name.spiffe_id(trust_domain) })
    }
}

/// The agent's name that a certificate has, if it is an X.509-SVID of a workload in this trust domain.
fn name_of(certificate: &[u8], trust_domain: &TrustDomain) -> Result<AgentName, SvidError> {
    let malformed = |what: &str| SvidError::Malformed(format!("{what} of the certificate cannot be read"));
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| malformed("the form"))?;
    if !rest.is_empty() {
        return Err(malformed("the end"));
    }
    // First of all: an authority's certificate has a SPIFFE id without a path, and should not be told that it lacks one.
    let constraints = parsed.basic_constraints().map_err(|_| malformed("the basic constraints"))?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(SvidError::Authority);
    }
    let uri = |reason: String| Err(SvidError::Uri(reason));
    let names = parsed.subject_alternative_name().map_err(|_| malformed("the names"))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let id = match uris[..] {
        [] => return uri("it has no URI".to_owned()),
        [id] => id,
        _ => return uri(format!("it has {} URIs, not one", uris.len())),
    };
    let Some((domain, path)) = id.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')) else {
        return uri("its URI is not spiffe://, a trust domain and a path".to_owned());
    };
    match parsed.key_usage().map_err(|_| malformed("the key usage"))?.map(|usage| usage.value) {
        None => return Err(SvidError::KeyUsage("it has none")),
        Some(usage) if usage.key_cert_sign() || usage.crl_sign() => {
            return Err(SvidError::KeyUsage("it may sign certificates or lists of revoked ones"));
        }
        Some(usage) if !usage.digital_signature() => return Err(SvidError::KeyUsage("it may not sign")),
        Some(_) => {}
    }
    if TrustDomain::parse(domain).is_err() {
        return uri("its trust domain is none".to_owned());
    }
    if domain != trust_domain.as_str() {
        return Err(SvidError::TrustDomain { found: id.to_owned(), served: trust_domain.clone() });
    }
    AgentName::parse(path).or_else(|_| uri(format!("its path is not organization/agent: {}", path.escape_default())))
}

fn path_error(error: &webpki::Error) -> SvidError {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } | Error::InvalidCertValidity => {
            SvidError::Time(error.to_string())
        }
        Error::CaUsedAsEndEntity => SvidError::Authority,
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
            SvidError::KeyUsage("it is not for clients, as its extended key usage says")
        }
        other => SvidError::Untrusted(other.to_string()),
    }
}
