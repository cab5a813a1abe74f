//! Cryptography of creto-messaging: slices in, verdicts out.
//!
//! This crate hashes, signs, verifies and seals bytes. It does not know what an envelope or a batch is, it does no IO,
//! reads no clock and holds no thread; every other crate hands it slices.
//!
//! | module | what it does | follows |
//! |---|---|---|
//! | [`digest`] | SHA-256 | FIPS 180-4 |
//! | [`merkle`] | the tree over a batch of envelopes, its root and its paths | RFC 6962 |
//! | [`sign`] | Ed25519 **and** ML-DSA-65 over one statement | RFC 8032, FIPS 204 |
//! | [`verify`] | both signatures must hold; bounded memory of verdicts | RFC 8032, FIPS 204 |
//! | [`fn_dsa`] | experimental, behind a feature: FN-DSA-512 as a third signature | FIPS 206 (not final) |
//! | [`processor`] | which implementation runs on this processor | |
//! | [`seal`] | X-Wing to a recipient's key, HKDF to a message key, AES-256-GCM | draft-connolly-cfrg-xwing-kem, FIPS 203, RFC 5869, SP 800-38D |
//! | [`session`] | one encapsulation, then a key per message from a chain | RFC 5869 |
//!
//! Two [`Backend`]s do the work: [`Backend::AwsLc`] is the path, [`Backend::Portable`] (pure Rust) is its oracle. Every
//! test runs against both, and across them: what one makes, the other accepts.
//!
//! Randomness: signing on the path is hedged and encapsulation needs coins, and aws-lc draws both from its own
//! generator. Whoever needs the same bytes twice (golden files) uses [`portable`], where coins are an argument.
#![forbid(unsafe_code)]

mod backend;
pub mod digest;
pub mod fn_dsa;
pub mod keys;
pub mod merkle;
pub mod processor;
pub mod seal;
pub mod session;
pub mod sign;
pub mod token;
pub mod verify;

#[cfg(test)]
mod vectors;

pub use backend::Backend;

/// Reproducible forms of what is otherwise randomized, for golden files and simulations. Never for real traffic.
pub mod portable {
    pub use crate::backend::portable::{encapsulate_deterministic, sign_deterministic};
    pub use crate::session::send::open_session_deterministic;
}
