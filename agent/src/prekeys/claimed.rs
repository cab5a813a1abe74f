//! A prekey that the node gave, held against the record of whoever is said to have left it there.

use std::sync::Arc;

use creto_crypto_accel::keys::RecipientPublic;
use creto_crypto_accel::merkle::{leaf_hash, root_from_path};
use creto_crypto_accel::seal::RecipientKey;
use creto_envelope::KeyId;
use creto_envelope::prekeys::{PrekeyKind, SignedPrekey};

use crate::directory::Identity;
use crate::error::PrekeyError;

/// A prekey whose owner signed it. It is made only here.
#[derive(Debug)]
pub(crate) struct ClaimedPrekey {
    /// Its owner, under the record that it belongs to.
    pub(crate) identity: Arc<Identity>,
    /// Under which an envelope names it.
    pub(crate) id: KeyId,
    /// To wrap a session's secret for; it has that id, too.
    pub(crate) key: RecipientKey,
    kind: PrekeyKind,
}

impl ClaimedPrekey {
    /// Checks version, path, both signatures and both halves of the key. About 0.2 ms.
    ///
    /// # Errors
    /// [`PrekeyError::Invalid`]: nothing may be sealed to it.
    pub(crate) fn check(signed: &SignedPrekey, identity: Arc<Identity>) -> Result<Self, PrekeyError> {
        let (record, agent) = (&identity.record, identity.record.agent_id());
        let invalid = |reason| PrekeyError::Invalid { agent, reason };
        let SignedPrekey { signature, count, index, prekey, path } = signed;
        if signature.key_record_version != record.version {
            return Err(invalid("it belongs to another version of the key record"));
        }
        let id = signed.id();
        let leaf = leaf_hash(&id.0, &prekey.to_bytes());
        // The path has exactly the nodes that index and count demand.
        let root =
            root_from_path(leaf, *index, *count, path).map_err(|_| invalid("its path does not fit its place"))?;
        let statement = signature.statement(agent, *count, root).to_bytes();
        identity
            .signing
            .verify(&statement, &signature.ed25519, &signature.ml_dsa_65)
            .map_err(|_| invalid("it is not signed by the keys of the record"))?;
        let public = RecipientPublic { ml_kem_768: *prekey.ml_kem_768, x25519: prekey.x25519 };
        let key = RecipientKey::parse(&public).map_err(|_| invalid("it is not a usable key"))?.named(id.0);
        let kind = prekey.kind;
        Ok(Self { identity, id, key, kind })
    }

    /// Whether others are given it, too.
    pub(crate) fn is_last_resort(&self) -> bool {
        self.kind == PrekeyKind::LastResort
    }

    /// The version of its owner's key record.
    pub(crate) fn version(&self) -> u32 {
        self.identity.record.version
    }
}
