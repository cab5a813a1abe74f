//! TLS of an agent: version 1.3, X25519MLKEM768 first, exactly one certificate trusted, no resumption, no 0-RTT.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{AckFrequencyConfig, IdleTimeout, TransportConfig, VarInt};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, PeerIncompatible, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::error::CertificateReadError;
use crate::limits::{ACK_DELAY, ACK_PACKETS};

/// Application protocol that both ends must name.
const ALPN: &[u8] = b"creto/1";

/// The certificate of a node. An agent trusts exactly this one, byte for byte: there is no authority to attack and no
/// name to confuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCertificate(CertificateDer<'static>);

impl NodeCertificate {
    /// From the DER bytes.
    #[must_use]
    pub fn from_der(der: impl Into<Vec<u8>>) -> Self {
        Self(CertificateDer::from(der.into()))
    }

    /// From PEM text.
    ///
    /// # Errors
    /// [`CertificateReadError::Pem`] when the text holds no certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateReadError> {
        CertificateDer::from_pem_slice(pem)
            .map(|certificate| Self(certificate.into_owned()))
            .map_err(|_| CertificateReadError::Pem)
    }

    /// From a file, PEM or DER.
    ///
    /// # Errors
    /// [`CertificateReadError`] when the file cannot be read or holds no certificate.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, CertificateReadError> {
        let path = path.as_ref();
        let bytes =
            std::fs::read(path).map_err(|source| CertificateReadError::File { path: path.to_owned(), source })?;
        // DER of a certificate starts with a SEQUENCE; PEM is text.
        if bytes.first() == Some(&0x30) { Ok(Self::from_der(bytes)) } else { Self::from_pem(&bytes) }
    }

    /// The DER bytes.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }
}

/// QUIC and TLS of an agent that trusts `certificate`. `idle_timeout` is how long a silent node counts as alive.
pub(crate) fn client_config(certificate: &NodeCertificate, idle_timeout: Duration) -> quinn::ClientConfig {
    let provider = hybrid_provider();
    let pinned = Pinned { certificate: certificate.0.clone(), provider: Arc::clone(&provider) };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 cipher suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.enable_early_data = false;
    tls.resumption = Resumption::disabled();
    let quic = QuicClientConfig::try_from(tls).expect("the provider has the initial cipher suite of QUIC");
    let mut config = quinn::ClientConfig::new(Arc::new(quic));
    config.transport_config(Arc::new(transport(idle_timeout)));
    config
}

fn transport(idle_timeout: Duration) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(8 << 20))
        .receive_window(VarInt::from_u32(12 << 20))
        .send_window(8 << 20)
        // The first retransmission of a handshake comes after 0.3 s, not after 1 s: a node that restarts is found soon.
        .initial_rtt(Duration::from_millis(100))
        // Two of three may be lost before the node counts as gone.
        .keep_alive_interval(Some(idle_timeout / 3))
        .max_idle_timeout(IdleTimeout::try_from(idle_timeout).ok())
        .ack_frequency_config(Some(ack_frequency()))
        .allow_spin(false);
    transport
}

/// As the node's side: `creto-net` says why. A node's answer to a batch takes the acknowledgement along.
fn ack_frequency() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config.ack_eliciting_threshold(VarInt::from_u32(ACK_PACKETS - 1)).max_ack_delay(Some(ACK_DELAY));
    config
}

/// The aws-lc-rs provider with X25519MLKEM768 first, said here and not left to a feature flag.
fn hybrid_provider() -> Arc<CryptoProvider> {
    let mut all = default_provider();
    all.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519];
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
        // Name and validity add nothing to equality: whoever pins it was given this very certificate.
        if *end_entity == self.certificate {
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
        Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
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
