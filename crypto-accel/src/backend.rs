//! The two implementations behind one face. Each submodule has the same types with the same methods.

pub(crate) mod aws_lc;
pub(crate) mod portable;
pub(crate) mod step;

/// Which implementation does the work. The results are interchangeable: what one makes, the other accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// aws-lc-rs: assembly, partly formally verified. The path.
    AwsLc,
    /// Pure Rust (ml-dsa, ml-kem, dalek, RustCrypto): the oracle in tests and the maker of golden files. Signs
    /// deterministically.
    Portable,
}

impl Backend {
    /// Both, for tests that must hold with each.
    pub const ALL: [Self; 2] = [Self::AwsLc, Self::Portable];
}

/// What both halves of X-Wing give before they are combined. Erased on drop.
#[derive(zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub(crate) struct HalfSecrets {
    pub(crate) ml_kem: [u8; 32],
    pub(crate) x25519: [u8; 32],
}

/// The X-Wing seed expanded by SHAKE256 to 96 bytes (draft-connolly-cfrg-xwing-kem, expandDecapsulationKey):
/// d || z for ML-KEM.KeyGen_internal, then the X25519 secret. Erased on drop.
#[derive(zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub(crate) struct ExpandedSeed {
    pub(crate) ml_kem: [u8; 64],
    pub(crate) x25519: [u8; 32],
}
