//! The node's TLS key and its self-signed certificate, as PEM.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use creto_crypto_accel::digest::sha256;
use creto_net::tls::NodeIdentity;

use crate::exit::{Exit, Failure};

/// Characters of one line of PEM (RFC 7468).
const PEM_LINE_CHARS: usize = 64;

/// A key with its certificate.
pub(crate) struct Identity {
    /// PKCS#8 in PEM.
    pub(crate) private_key_pem: String,
    /// X.509 in PEM.
    pub(crate) certificate_pem: String,
    /// SHA-256 of the certificate in hex: what two people compare on the telephone.
    pub(crate) fingerprint: String,
}

impl Identity {
    /// Makes a new key and a certificate for `localhost`, the loopback addresses and `names`.
    pub(crate) fn self_signed(names: &[String]) -> Result<Self, Failure> {
        let made = NodeIdentity::self_signed(names).map_err(|error| {
            let next = "give --name plain host names and IP addresses";
            Failure::new(Exit::Usage, error.to_string(), next)
        })?;
        let certificate = &made.certificate;
        Ok(Self {
            private_key_pem: pem("PRIVATE KEY", &made.key_pkcs8),
            certificate_pem: pem("CERTIFICATE", certificate),
            fingerprint: hex::encode(sha256(&[certificate])),
        })
    }
}

/// A certificate in PEM, and nothing else.
pub(crate) fn certificate_pem(der: &[u8]) -> String {
    pem("CERTIFICATE", der)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE_CHARS));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
