//! The node's certificate and its private key: whether they belong together, and when the certificate counts.

use std::path::Path;

use creto_net::tls;
use creto_service::link::read_certificate;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What the two are to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pair {
    /// One of them cannot be read by whoever asks, or is not there: that is another finding.
    Unread,
    /// They are none: with why.
    Broken(String),
    /// A node can be reached by them.
    Sound(Validity),
}

/// From when until when a certificate says that it counts, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from_s: i64,
    pub(super) until_s: i64,
    /// What the clock said.
    pub(super) now_s: i64,
}

impl Pair {
    /// Puts them together as the node does at its start.
    pub(super) fn look(certificate: &Path, private_key: &Path) -> Self {
        let readable = |path: &Path| std::fs::File::open(path).is_ok();
        if !readable(certificate) || !readable(private_key) {
            return Self::Unread;
        }
        let der = match read_certificate(certificate) {
            Ok(der) => der,
            Err(error) => return Self::Broken(error.to_string()),
        };
        let key = match PrivateKeyDer::from_pem_file(private_key) {
            Ok(key) => key,
            // What the parser says has nothing of the key in it, and is not needed.
            Err(_) => return Self::Broken(format!("{} is not a private key in PEM", private_key.display())),
        };
        if let Err(error) = tls::server_config(CertificateDer::from(der.to_vec()), key) {
            return Self::Broken(error.to_string());
        }
        match X509Certificate::from_der(&der) {
            Ok((_, parsed)) => {
                let validity = parsed.validity();
                let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Self::Sound(Validity {
                    from_s: validity.not_before.timestamp(),
                    until_s: validity.not_after.timestamp(),
                    now_s: i64::try_from(now_s.as_secs()).unwrap_or(i64::MAX),
                })
            }
            Err(error) => Self::Broken(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn a_key_of_another_certificate_is_noticed_before_the_node_notices() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("node.crt"), folder.path().join("node.key"));
        assert_eq!(Pair::look(&certificate, &key), Pair::Unread);
        let (mine, other) = (Identity::self_signed(&[]).unwrap(), Identity::self_signed(&[]).unwrap());
        std::fs::write(&certificate, &mine.certificate_pem).unwrap();
        std::fs::write(&key, &mine.private_key_pem).unwrap();
        let Pair::Sound(Validity { from_s, until_s, now_s }) = Pair::look(&certificate, &key) else {
            panic!("{:?}", Pair::look(&certificate, &key))
        };
        assert!(from_s <= now_s && now_s < until_s, "{from_s} {now_s} {until_s}");
        std::fs::write(&key, &other.private_key_pem).unwrap();
        assert!(matches!(Pair::look(&certificate, &key), Pair::Broken(_)));
        std::fs::write(&key, "no key").unwrap();
        let Pair::Broken(why) = Pair::look(&certificate, &key) else { panic!("no key is no key") };
        assert!(why.ends_with("is not a private key in PEM") && !why.contains("no key"), "{why}");
    }
}
