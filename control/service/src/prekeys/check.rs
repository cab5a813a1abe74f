//! What a batch of prekeys must fulfil before the directory looks at it. Pure: bytes, keys and time in, a verdict out.

use std::collections::HashSet;

use creto_crypto_accel::keys::RecipientPublic;
use creto_crypto_accel::merkle::{Tree, leaf_hash};
use creto_crypto_accel::seal::RecipientKey;
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::prekeys::{PREKEY_BYTES, PrekeyBatch, PrekeyKind, PrekeySignature};
use creto_envelope::{AgentId, KeyRecord, RejectCode};

use crate::limits::PREKEYS_SIGNED_AHEAD_MS;

/// A batch whose signatures hold and whose keys are usable, with the path of each of its prekeys. It is made only here.
#[derive(Debug)]
pub(crate) struct CheckedBatch {
    agent: AgentId,
    signature: PrekeySignature,
    one_time: usize,
    root: [u8; 32],
    prekeys: Vec<([u8; PREKEY_BYTES], Vec<[u8; 32]>)>,
}

impl CheckedBatch {
    /// Checks a batch of the agent of `record`, its current one. About 60 us for each prekey, and 0.2 ms.
    pub(crate) fn check(batch: &PrekeyBatch, record: &KeyRecord, now_ms: u64) -> Result<Self, RejectCode> {
        let PrekeyBatch { agent, signature, prekeys } = batch;
        if *agent != record.agent_id() {
            return Err(RejectCode::SenderMismatch);
        }
        if signature.key_record_version != record.version {
            return Err(RejectCode::UnknownKeyVersion);
        }
        // A batch from far ahead would keep out every later one, which must be later still.
        if signature.signed_at_ms > now_ms.saturating_add(PREKEYS_SIGNED_AHEAD_MS) {
            return Err(RejectCode::SigningTime);
        }
        let ids: Vec<_> = prekeys.iter().map(|prekey| prekey.id(record.version)).collect();
        if ids.iter().collect::<HashSet<_>>().len() != ids.len() {
            return Err(RejectCode::PrekeyBatch);
        }
        let bytes: Vec<_> = prekeys.iter().map(|prekey| prekey.to_bytes()).collect();
        let leaves: Vec<_> = ids.iter().zip(&bytes).map(|(id, bytes)| leaf_hash(&id.0, bytes)).collect();
        let mut tree = Tree::new();
        tree.rebuild(&leaves);
        let root = tree.root();
        let keys = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65).map_err(|_| RejectCode::BadSignature)?;
        let statement = signature.statement(*agent, tree.size(), root).to_bytes();
        keys.verify(&statement, &signature.ed25519, &signature.ml_dsa_65).map_err(|_| RejectCode::BadSignature)?;
        for prekey in prekeys {
            let public = RecipientPublic { ml_kem_768: *prekey.ml_kem_768, x25519: prekey.x25519 };
            RecipientKey::parse(&public).map_err(|_| RejectCode::PrekeyBatch)?;
        }
        let path = |index| {
            let mut path = Vec::new();
            tree.path(index, &mut path);
            path
        };
        let one_time = prekeys.iter().filter(|prekey| prekey.kind == PrekeyKind::OneTime).count();
        let prekeys = bytes.into_iter().zip((0..).map(path)).collect();
        Ok(Self { agent: *agent, signature: signature.clone(), one_time, root, prekeys })
    }

    pub(crate) fn agent(&self) -> AgentId {
        self.agent
    }

    pub(crate) fn signature(&self) -> &PrekeySignature {
        &self.signature
    }

    pub(crate) fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// How many are for one use: they come first.
    pub(crate) fn one_time(&self) -> usize {
        self.one_time
    }

    /// Each prekey's bytes and path.
    pub(crate) fn prekeys(&self) -> &[([u8; PREKEY_BYTES], Vec<[u8; 32]>)] {
        &self.prekeys
    }
}
