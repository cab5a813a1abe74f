//! Requests that an agent signs with both of its signing keys: HTTP Message Signatures (RFC 9421) over the method, the
//! authority, the target and the digest of the body (RFC 9530).
//!
//! A request carries two signatures, labelled `ed25519` and `ml-dsa-65`, over the same base; both must hold. The profile is
//! strict: components and parameters are these, in this order, so that there is one way to write a claim and one to read it.
//!
//! ```text
//! content-digest: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:
//! signature-input: ed25519=PARAMS, ml-dsa-65=PARAMS
//! signature: ed25519=:BASE64:, ml-dsa-65=:BASE64:
//!
//! PARAMS = ("@method" "@authority" "@request-target" "content-digest");created=UNIX_SECONDS;keyid="acme/ops";nonce="BASE64URL";tag="creto-control/v1"
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use creto_crypto_accel::digest::sha256;
use creto_envelope::AgentName;

/// Header with the digest of the body.
pub const CONTENT_DIGEST: &str = "content-digest";
/// Header with what is signed, and by whom.
pub const SIGNATURE_INPUT: &str = "signature-input";
/// Header with the two signatures.
pub const SIGNATURE: &str = "signature";

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 16;
/// Bytes of an Ed25519 signature (RFC 8032).
const ED25519_BYTES: usize = 64;
/// Bytes of an ML-DSA-65 signature (FIPS 204).
const ML_DSA_65_BYTES: usize = 3_309;

const COMPONENTS: &str = r#"("@method" "@authority" "@request-target" "content-digest")"#;
const TAG: &str = "creto-control/v1";

/// What the signatures speak of.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// `GET`, `POST` and so on.
    pub method: &'a str,
    /// The `Host` header, in lower case.
    pub authority: &'a str,
    /// Path and query, as in the request line.
    pub request_target: &'a str,
    /// The value of [`CONTENT_DIGEST`].
    pub content_digest: &'a str,
}

/// Who signed, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Unix time in seconds.
    pub created_s: u64,
    /// The agent whose keys signed.
    pub name: AgentName,
    /// Never used twice by an agent.
    pub nonce: [u8; NONCE_BYTES],
}

/// The two signatures of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signatures {
    /// Ed25519.
    pub ed25519: [u8; ED25519_BYTES],
    /// ML-DSA-65.
    pub ml_dsa_65: Box<[u8; ML_DSA_65_BYTES]>,
}

impl Claim {
    fn params(&self) -> String {
        let nonce = URL_SAFE_NO_PAD.encode(self.nonce);
        format!("{COMPONENTS};created={};keyid=\"{}\";nonce=\"{nonce}\";tag=\"{TAG}\"", self.created_s, self.name)
    }

    /// The value of [`SIGNATURE_INPUT`].
    #[must_use]
    pub fn to_header(&self) -> String {
        let params = self.params();
        format!("ed25519={params}, ml-dsa-65={params}")
    }

    /// Reads the value of [`SIGNATURE_INPUT`]. `None` when it is not what [`Claim::to_header`] writes.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let rest = header.strip_prefix("ed25519=")?.strip_prefix(COMPONENTS)?.strip_prefix(";created=")?;
        let (created, rest) = rest.split_once(";keyid=\"")?;
        let (name, rest) = rest.split_once("\";nonce=\"")?;
        let (nonce, _) = rest.split_once('"')?;
        let nonce = URL_SAFE_NO_PAD.decode(nonce).ok()?.try_into().ok()?;
        let claim = Self { created_s: created.parse().ok()?, name: AgentName::parse(name).ok()?, nonce };
        // Everything else of the header, and that numbers and names are written the one way, in one comparison.
        (claim.to_header() == header).then_some(claim)
    }

    /// The bytes that both keys sign: the signature base of RFC 9421, section 2.5.
    #[must_use]
    pub fn base(&self, target: &Target<'_>) -> Vec<u8> {
        let Target { method, authority, request_target, content_digest } = target;
        format!(
            "\"@method\": {method}\n\"@authority\": {authority}\n\"@request-target\": {request_target}\n\
             \"content-digest\": {content_digest}\n\"@signature-params\": {}",
            self.params()
        )
        .into_bytes()
    }
}

impl Signatures {
    /// The value of [`SIGNATURE`].
    #[must_use]
    pub fn to_header(&self) -> String {
        let (ed25519, ml_dsa_65) = (STANDARD.encode(self.ed25519), STANDARD.encode(&self.ml_dsa_65[..]));
        format!("ed25519=:{ed25519}:, ml-dsa-65=:{ml_dsa_65}:")
    }

    /// Reads the value of [`SIGNATURE`]. `None` when it is not what [`Signatures::to_header`] writes.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let rest = header.strip_prefix("ed25519=:")?.strip_suffix(':')?;
        let (ed25519, ml_dsa_65) = rest.split_once(":, ml-dsa-65=:")?;
        let ed25519 = STANDARD.decode(ed25519).ok()?.try_into().ok()?;
        let ml_dsa_65: Box<[u8]> = STANDARD.decode(ml_dsa_65).ok()?.into();
        Some(Self { ed25519, ml_dsa_65: ml_dsa_65.try_into().ok()? })
    }
}

/// The value of [`CONTENT_DIGEST`] for a body, also for an empty one.
#[must_use]
pub fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(sha256(&[body])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim() -> Claim {
        Claim { created_s: 1_764_000_000, name: AgentName::parse("acme/ops").expect("a name"), nonce: [7; 16] }
    }

    #[test]
    fn the_base_is_the_one_that_the_standard_gives() {
        let digest = content_digest(b"");
        let target = Target {
            method: "GET",
            authority: "127.0.0.1:7440",
            request_target: "/v1/agents?limit=2",
            content_digest: &digest,
        };
        let expected = concat!(
            "\"@method\": GET\n",
            "\"@authority\": 127.0.0.1:7440\n",
            "\"@request-target\": /v1/agents?limit=2\n",
            "\"content-digest\": sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:\n",
            "\"@signature-params\": (\"@method\" \"@authority\" \"@request-target\" \"content-digest\");",
            "created=1764000000;keyid=\"acme/ops\";nonce=\"BwcHBwcHBwcHBwcHBwcHBw\";tag=\"creto-control/v1\"",
        );
        assert_eq!(String::from_utf8(claim().base(&target)).expect("text"), expected);
    }

    #[test]
    fn a_claim_is_written_and_read_one_way() {
        let header = claim().to_header();
        assert_eq!(Claim::parse(&header), Some(claim()));
        for other in [
            header.replace("created=1764000000", "created=01764000000"),
            header.replace("created=1764000000", "created=+1764000000"),
            header.replacen("created=1764000000", "created=1764000001", 1),
            header.replace("\"@method\" ", ""),
            header.replace("creto-control/v1", "creto-control/v2"),
            header.replace(", ml-dsa-65=", ",ml-dsa-65="),
            header.replace("BwcHBwcHBwcHBwcHBwcHBw", "BwcHBwcHBwcHBwcHBwcHBx"),
            header.split_once(", ").expect("two").0.to_owned(),
            format!("{header}, rsa=()"),
            format!("{header} "),
        ] {
            assert_eq!(Claim::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn both_signatures_are_written_and_read_one_way() {
        let signatures = Signatures { ed25519: [1; 64], ml_dsa_65: Box::new([2; ML_DSA_65_BYTES]) };
        let header = signatures.to_header();
        assert_eq!(Signatures::parse(&header), Some(signatures));
        let (ed25519, ml_dsa_65) = header.split_once(", ").expect("two");
        for other in [
            ed25519.to_owned(),
            ml_dsa_65.to_owned(),
            format!("{ml_dsa_65}, {ed25519}"),
            header.replacen("AQEB", "AQE", 1),
            header.replacen("AQEB", "AQ=B", 1),
        ] {
            assert_eq!(Signatures::parse(&other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_would_be_written(text in ".{0,300}") {
            prop_assert!(Claim::parse(&text).is_none_or(|claim| claim.to_header() == text));
            prop_assert!(Signatures::parse(&text).is_none_or(|signatures| signatures.to_header() == text));
        }
    }
}
