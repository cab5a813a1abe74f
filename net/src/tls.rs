//! TLS of the node and of agents: version 1.3, X25519MLKEM768 preferred, ALPN `creto/1`, no 0-RTT, no resumption.
//!
//! An agent trusts exactly one certificate, byte for byte. There is no certificate authority to attack and no name to
//! confuse; a node that changes its certificate hands out the new one.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use thiserror::Error;
use zeroize::Zeroizing;

/// Application protocol that both ends must name.
pub const ALPN: &[u8] = b"creto/1";

/// Application protocol of the link between a control service and its nodes.
pub const LINK_ALPN: &[u8] = b"creto-link/1";

/// Label of the TLS exporter value that a login signs.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-creto-login-v1";

/// Why a TLS configuration could not be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The private key is not a PKCS#8, SEC 1 or PKCS#1 key in DER.
    #[error("the private key cannot be read ({0}), make a new pair with `creto init`")]
    Key(&'static str),
    /// The certificate and the key do not work together.
    #[error("certificate and private key do not work together ({0}), make a new pair with `creto init`")]
    Pair(#[source] rustls::Error),
    /// The certificate could not be made.
    #[error("the certificate cannot be made ({0}), check the host names given")]
    Make(#[source] rcgen::Error),
}

/// A certificate and its private key, both DER.
#[derive(Clone)]
pub struct NodeIdentity {
    /// The X.509 certificate: public, agents pin it.
    pub certificate: CertificateDer<'static>,
    /// The private key, PKCS#8. Erased on drop.
    pub key_pkcs8: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeIdentity").field("certificate_bytes", &self.certificate.len()).finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// Makes a self-signed certificate (ECDSA P-256) for `localhost`, `127.0.0.1`, `::1` and `names`. The only place of
    /// this crate that draws randomness: a key is made once, at `creto init`.
    pub fn self_signed(names: &[String]) -> Result<Self, TlsError> {
        let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
        all.extend(names.iter().filter(|name| !matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1")).cloned());
        let made = rcgen::generate_simple_self_signed(all).map_err(TlsError::Make)?;
        Ok(Self { certificate: made.cert.der().clone(), key_pkcs8: Zeroizing::new(made.signing_key.serialize_der()) })
    }
}

/// TLS of a node.
pub fn server_config(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(hybrid_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 cipher suites")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A full handshake costs less than a millisecond; a ticket would be state to protect and a door to 0-RTT.
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// [`server_config`] from what [`NodeIdentity`] holds.
pub fn server_config_of(identity: &NodeIdentity) -> Result<Arc<ServerConfig>, TlsError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key_pkcs8.to_vec()));
    server_config(identity.certificate.clone(), key)
}

/// Reads a private key from DER of any of the three usual forms.
pub fn private_key(der: Vec<u8>) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::try_from(der).map_err(TlsError::Key)
}

/// TLS of an agent that trusts exactly `certificate`. Works with `quinn` through
/// `quinn::crypto::rustls::QuicClientConfig::try_from`.
pub fn client_config(certificate: CertificateDer<'static>) -> Arc<ClientConfig> {
    let provider = hybrid_provider();
    let pinned = Pinned { certificate, provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 cipher suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = false;
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// TLS of a control service for its nodes: whoever connects must prove that it has the key of a certificate that `admits` says yes to.
///
/// # Errors
/// [`TlsError::Pair`].
pub fn link_server_config(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    admits: impl Fn(&CertificateDer<'_>) -> bool + Send + Sync + 'static,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = hybrid_provider();
    let admitted = Admitted { admits: Box::new(admits), provider: Arc::clone(&provider) };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 cipher suites")
        .with_client_cert_verifier(Arc::new(admitted))
        .with_single_cert(vec![certificate], key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![LINK_ALPN.to_vec()];
    // A resumed connection would not show its certificate again.
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// TLS of a node for a control service that has exactly the certificate `control`; the node shows its own.
///
/// # Errors
/// [`TlsError::Pair`].
pub fn link_client_config(
    control: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = hybrid_provider();
    let pinned = Pinned { certificate: control, provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 cipher suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_client_auth_cert(vec![certificate], key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![LINK_ALPN.to_vec()];
    config.enable_early_data = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The aws-lc-rs provider with X25519MLKEM768 first, said here and not left to a feature flag of a dependency.
fn hybrid_provider() -> Arc<CryptoProvider> {
    let mut all = provider::default_provider();
    all.kx_groups = vec![provider::kx_group::X25519MLKEM768, provider::kx_group::X25519];
    Arc::new(all)
}

/// Accepts one certificate and no other.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Name and validity add nothing to equality: whoever holds the pin was given this very certificate.
        if end_entity == &self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts the certificates of which it is said, each by itself, and no path to another one.
struct Admitted {
    admits: Box<dyn Fn(&CertificateDer<'_>) -> bool + Send + Sync>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admitted")
    }
}

impl ClientCertVerifier for Admitted {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // As with `Pinned`: whoever was admitted is this very certificate.
        match (self.admits)(end_entity) {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
