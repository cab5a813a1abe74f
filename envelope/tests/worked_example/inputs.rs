//! What the worked example starts from. Everything else follows.

use creto_envelope::envelope::{FLAG_EPHEMERAL, Kind, Priority};

/// 2026-01-01T00:00:00Z.
pub(crate) const VALID_FROM_MS: u64 = 1_767_225_600_000;
/// One year later.
pub(crate) const VALID_UNTIL_MS: u64 = 1_798_761_600_000;
/// When the batch is signed.
pub(crate) const SIGNED_AT_MS: u64 = VALID_FROM_MS + 1_010;
/// Stands for the exporter value of a TLS connection.
pub(crate) const EXPORTER: [u8; 32] = [0xee; 32];

/// An agent: its name, and the first byte of 96 that count up: Ed25519 seed, ML-DSA-65 seed, X-Wing seed.
pub(crate) struct AgentInput {
    pub(crate) name: &'static str,
    first_seed_byte: u8,
}

pub(crate) const PLANNER: AgentInput = AgentInput { name: "acme/planner", first_seed_byte: 0x00 };
pub(crate) const EXECUTOR: AgentInput = AgentInput { name: "acme/executor", first_seed_byte: 0x60 };
pub(crate) const EXECUTOR_X_WING_SEED: [u8; 32] = counting(0xa0);

impl AgentInput {
    pub(crate) fn ed25519_seed(&self) -> [u8; 32] {
        counting(self.first_seed_byte)
    }

    pub(crate) fn ml_dsa_65_seed(&self) -> [u8; 32] {
        counting(self.first_seed_byte + 0x20)
    }

    pub(crate) fn x_wing_seed(&self) -> [u8; 32] {
        counting(self.first_seed_byte + 0x40)
    }

    pub(crate) fn key_record_file(&self) -> String {
        format!("{}.key-record.hex", self.name.strip_prefix("acme/").expect("all agents are of one organization"))
    }
}

pub(crate) struct MessageInput {
    pub(crate) plaintext: &'static str,
    pub(crate) kind: Kind,
    pub(crate) priority: Priority,
    pub(crate) flags: u8,
    pub(crate) ttl_s: u32,
    pub(crate) correlation_id: [u8; 16],
    pub(crate) timestamp_ms: u64,
    pub(crate) id_random: [u8; 10],
    pub(crate) salt: [u8; 16],
    first_coin_byte: u8,
}

impl MessageInput {
    /// 64 bytes that count up: the first half for ML-KEM-768, the second for X25519.
    pub(crate) fn coins(&self) -> [u8; 64] {
        counting(self.first_coin_byte)
    }
}

pub(crate) const MESSAGES: [MessageInput; 3] = [
    MessageInput {
        plaintext: "hello, executor",
        kind: Kind::Direct,
        priority: Priority::Normal,
        flags: 0,
        ttl_s: 0,
        correlation_id: [0; 16],
        timestamp_ms: VALID_FROM_MS + 1_000,
        id_random: [0xe0; 10],
        salt: [0xd0; 16],
        first_coin_byte: 0xc0,
    },
    MessageInput {
        plaintext: r#"{"task":"summarise","document":"q3-report"}"#,
        kind: Kind::Request,
        priority: Priority::High,
        flags: 0,
        ttl_s: 60,
        correlation_id: [0xb1; 16],
        timestamp_ms: VALID_FROM_MS + 1_001,
        id_random: [0xe1; 10],
        salt: [0xd1; 16],
        first_coin_byte: 0xc1,
    },
    MessageInput {
        plaintext: "",
        kind: Kind::Control,
        priority: Priority::Low,
        flags: 0,
        ttl_s: 3_600,
        correlation_id: [0; 16],
        timestamp_ms: VALID_FROM_MS + 1_002,
        id_random: [0xe2; 10],
        salt: [0xd2; 16],
        first_coin_byte: 0xc2,
    },
];

/// A signal, which is in no batch of the example.
pub(crate) const SIGNAL: MessageInput = MessageInput {
    plaintext: "typing",
    kind: Kind::Direct,
    priority: Priority::Normal,
    flags: FLAG_EPHEMERAL,
    ttl_s: 10,
    correlation_id: [0; 16],
    timestamp_ms: VALID_FROM_MS + 3_000,
    id_random: [0xe8; 10],
    salt: [0xd8; 16],
    first_coin_byte: 0xc8,
};

/// A message of the worked example's session, of kind direct and normal priority.
pub(crate) struct SessionMessageInput {
    pub(crate) plaintext: &'static str,
    pub(crate) counter: u64,
    pub(crate) with_wrapped_key: bool,
    pub(crate) timestamp_ms: u64,
    pub(crate) id_random: [u8; 10],
}

/// The coins of the session's one encapsulation.
pub(crate) const SESSION_COINS: [u8; 64] = counting(0xc3);

/// The first opens the session; the second comes without the wrapped key; two were sent between it and the third.
pub(crate) const SESSION_MESSAGES: [SessionMessageInput; 3] = [
    SessionMessageInput {
        plaintext: "let us talk",
        counter: 0,
        with_wrapped_key: true,
        timestamp_ms: VALID_FROM_MS + 2_000,
        id_random: [0xe4; 10],
    },
    SessionMessageInput {
        plaintext: "at length",
        counter: 1,
        with_wrapped_key: false,
        timestamp_ms: VALID_FROM_MS + 2_001,
        id_random: [0xe5; 10],
    },
    SessionMessageInput {
        plaintext: "",
        counter: 4,
        with_wrapped_key: false,
        timestamp_ms: VALID_FROM_MS + 2_004,
        id_random: [0xe6; 10],
    },
];

const fn counting<const N: usize>(first: u8) -> [u8; N] {
    let mut bytes = [first; N];
    let mut index = 1;
    while index < N {
        bytes[index] = bytes[index - 1].wrapping_add(1);
        index += 1;
    }
    bytes
}
