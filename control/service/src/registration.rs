//! What a key record must fulfil before the directory looks at it. Pure: bytes and time in, a verdict out.
//!
//! A [`Registration`] is proof that the sender holds both signing keys of the record, that all four keys are fit for
//! use, and that names and ids belong together. It is made only here.

use creto_crypto_accel::keys::{KeyError, RecipientPublic};
use creto_crypto_accel::seal::RecipientKey;
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::{AgentState, KeyRecord, Purpose, RejectCode, SignedKeyRecord, TrustDomain};
use thiserror::Error;

use crate::api::ErrorCode;

#[cfg(test)]
mod tests;

/// A signed key record that was checked in every way that needs no look into the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration(SignedKeyRecord);

/// Why a record cannot be registered, whatever the directory holds.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RegistrationError {
    /// the body is not a signed key record
    #[error("the body is not a signed key record: {}", .0.name())]
    Malformed(RejectCode),
    /// the record belongs to another trust domain
    #[error("the record belongs to trust domain {found}, this node serves {served}")]
    TrustDomain {
        /// In the record.
        found: TrustDomain,
        /// Of this node.
        served: TrustDomain,
    },
    /// the record's state is not active
    #[error("the record's state is not active")]
    State,
    /// the validity ends before it starts
    #[error("the record's validity ends at {until_ms} ms, not after its start at {from_ms} ms")]
    ValidityEmpty {
        /// Start.
        from_ms: u64,
        /// End.
        until_ms: u64,
    },
    /// the validity is over
    #[error("the record's validity ended at {until_ms} ms, it is {now_ms} ms now")]
    ValidityOver {
        /// End.
        until_ms: u64,
        /// The node's clock.
        now_ms: u64,
    },
    /// a key must not be used
    #[error("{0}")]
    WeakKey(#[from] KeyError),
    /// a self-signature does not hold
    #[error("the record is not signed by both of its own keys")]
    SelfSignature,
    /// the record was signed for something else
    #[error("the record was not signed for this registration, but for another token or purpose, or for none")]
    Purpose,
}

impl RegistrationError {
    /// The code of the API.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed(_) => ErrorCode::RecordMalformed,
            Self::TrustDomain { .. } => ErrorCode::TrustDomain,
            Self::State => ErrorCode::RecordState,
            Self::ValidityEmpty { .. } | Self::ValidityOver { .. } => ErrorCode::Validity,
            Self::WeakKey(_) => ErrorCode::WeakKey,
            Self::SelfSignature => ErrorCode::SelfSignature,
            Self::Purpose => ErrorCode::RecordPurpose,
        }
    }
}

impl Registration {
    /// Parses and checks `bytes` for a node that serves `trust_domain`. About 0.2 ms.
    ///
    /// A validity that starts later is fine: until then the agent is refused as not yet valid.
    ///
    /// # Errors
    /// The first rule that is broken; what costs least is checked first.
    pub fn check(bytes: &[u8], trust_domain: &TrustDomain, now_ms: u64) -> Result<Self, RegistrationError> {
        let signed = SignedKeyRecord::parse(bytes).map_err(RegistrationError::Malformed)?;
        Self::of(signed, trust_domain, now_ms)
    }

    /// As [`Registration::check`], for a record that was parsed.
    ///
    /// # Errors
    /// As [`Registration::check`].
    pub fn of(signed: SignedKeyRecord, trust_domain: &TrustDomain, now_ms: u64) -> Result<Self, RegistrationError> {
        let record = &signed.record;
        check_claims(record, trust_domain, now_ms)?;
        // Both kinds of keys, also those that sign nothing here: a key that fails now would fail every sender later.
        let verifying =
            VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65)?.with_fn_dsa_512(record.fn_dsa_512.as_deref())?;
        RecipientKey::parse(&RecipientPublic { ml_kem_768: *record.ml_kem_768, x25519: record.x25519 })?;
        verifying
            .verify(&record.signed_bytes(), &signed.ed25519, &signed.ml_dsa_65)
            .map_err(|_| RegistrationError::SelfSignature)?;
        Ok(Self(signed))
    }

    /// The same, if its agent signed it for `purpose` and nothing else.
    ///
    /// # Errors
    /// [`RegistrationError::Purpose`].
    pub fn signed_for(self, purpose: Option<Purpose>) -> Result<Self, RegistrationError> {
        if self.0.record.purpose == purpose { Ok(self) } else { Err(RegistrationError::Purpose) }
    }

    /// The record with its signatures.
    #[must_use]
    pub fn signed(&self) -> &SignedKeyRecord {
        &self.0
    }

    /// The record with its signatures, for keeps.
    #[must_use]
    pub fn into_signed(self) -> SignedKeyRecord {
        self.0
    }
}

fn check_claims(record: &KeyRecord, trust_domain: &TrustDomain, now_ms: u64) -> Result<(), RegistrationError> {
    if record.trust_domain != *trust_domain {
        return Err(RegistrationError::TrustDomain {
            found: record.trust_domain.clone(),
            served: trust_domain.clone(),
        });
    }
    if record.state != AgentState::Active {
        return Err(RegistrationError::State);
    }
    let (from_ms, until_ms) = (record.valid_from_ms, record.valid_until_ms);
    if until_ms <= from_ms {
        return Err(RegistrationError::ValidityEmpty { from_ms, until_ms });
    }
    if until_ms <= now_ms {
        return Err(RegistrationError::ValidityOver { until_ms, now_ms });
    }
    Ok(())
}
