//! Records for the tests of this crate. Nothing here verifies signatures, so the keys are patterns.

use std::sync::Arc;

use creto_envelope::channel::{ChannelName, ChannelRecord, Publishing, Subscribing};
use creto_envelope::{AgentId, AgentName, AgentState, KeyRecord, SignedKeyRecord, TrustDomain};

pub(crate) fn agent(name: &str) -> AgentId {
    AgentId::derive(&TrustDomain::default(), &AgentName::parse(name).unwrap())
}

pub(crate) fn record(name: &str, version: u32, valid_ms: std::ops::Range<u64>) -> Arc<SignedKeyRecord> {
    let pattern = u8::try_from(version % 256).unwrap();
    Arc::new(SignedKeyRecord {
        record: KeyRecord {
            version,
            state: AgentState::Active,
            valid_from_ms: valid_ms.start,
            valid_until_ms: valid_ms.end,
            ed25519: [pattern; 32],
            x25519: [pattern; 32],
            ml_dsa_65: Box::new([pattern; 1952]),
            ml_kem_768: Box::new([pattern; 1184]),
            name: AgentName::parse(name).unwrap(),
            trust_domain: TrustDomain::default(),
            fn_dsa_512: None,
            purpose: None,
        },
        ed25519: [0; 64],
        ml_dsa_65: Box::new([0; 3309]),
    })
}

/// A channel of acme's agent `a`, for everybody.
pub(crate) fn channel(name: &str, version: u32) -> ChannelRecord {
    ChannelRecord {
        version,
        name: ChannelName::parse(name).unwrap(),
        trust_domain: TrustDomain::default(),
        owner: agent("acme/a"),
        owner_key_version: 1,
        signed_at_ms: 1_000,
        subscribing: Subscribing::Open,
        publishing: Publishing::Open,
        has_history: false,
        is_deleted: false,
        retention_s: 3_600,
        messages_max: 1_000,
        bytes_max: 1 << 20,
        subscribers_max: 100,
    }
}
