//! Below the SDK: one connection, its streams, any bytes. For tests of a node, and for checking other implementations
//! of the protocol. Nothing here retries, checks or remembers: applications use [`crate::Agent`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use creto_crypto_accel::merkle::leaf_hashes;
use creto_envelope::batch::encode_signed_batch;
use creto_envelope::control::{Login, LoginAccepted, Reject, StreamOpen, StreamRole};
use creto_envelope::envelope::EnvelopeHeader;
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::limits::FRAME_BODY_BYTES_MAX;
use creto_envelope::prekeys::{PrekeyBatch, PrekeyKind};
use creto_envelope::{BatchHeader, FrameType, RejectCode, SignedKeyRecord, TreeDigest};
use quinn::{RecvStream, SendStream, VarInt};

use crate::clock;
use crate::connection::{Dialer, exporter, sign_login};
use crate::directory::Identity;
use crate::error::{ConnectError, LookupError};
use crate::keys::AgentKeys;
use crate::limits::IDLE_TIMEOUT;
use crate::prekeys::make;
use crate::sender::seal;
use crate::stream::{self, StreamEnd};
use crate::tls::NodeCertificate;

mod ends;

pub use ends::{ReceivingEnd, SendingEnd};

/// A QUIC connection to a node, not logged in.
#[derive(Debug)]
pub struct RawConnection {
    dialer: Dialer,
    connection: quinn::Connection,
}

/// A frame whatever its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// The type's number.
    pub frame_type: u8,
    /// The body; it starts at a multiple of eight bytes in memory.
    pub body: Bytes,
}

impl RawFrame {
    /// The code, when this is a Reject frame with a code that this version knows.
    #[must_use]
    pub fn reject_code(&self) -> Option<RejectCode> {
        if self.frame_type != FrameType::Reject as u8 {
            return None;
        }
        Reject::parse(&self.body).ok().and_then(|reject| RejectCode::from_u16(reject.code))
    }
}

impl RawConnection {
    /// Connects, trusting exactly `certificate`.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        node: SocketAddr,
        certificate: &NodeCertificate,
        within: Duration,
    ) -> Result<Self, ConnectError> {
        Self::connect_for(node, certificate, within, IDLE_TIMEOUT).await
    }

    /// As [`connect`](Self::connect), with another time for which a silent node counts as alive: a third of it is how often
    /// this side lets the node know that it is. The node's own `[net] idle_timeout_s` holds, too.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_for(
        node: SocketAddr,
        certificate: &NodeCertificate,
        within: Duration,
        idle_timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let dialer = Dialer::new(node, certificate, idle_timeout)?;
        let connection = dialer.dial(within).await?;
        Ok(Self { dialer, connection })
    }

    /// Another connection to the same node over the same socket, for those who need thousands of them.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn another(&self, within: Duration) -> Result<Self, ConnectError> {
        let connection = self.dialer.dial(within).await?;
        Ok(Self { dialer: self.dialer.clone(), connection })
    }

    /// Goes on from another port, as a client whose network address changes: this connection, and all others of its socket.
    ///
    /// # Errors
    /// When the system gives no other port.
    pub fn change_address(&self) -> std::io::Result<()> {
        self.dialer.rebind()
    }

    /// The TLS exporter value that a login on this connection signs.
    ///
    /// # Errors
    /// [`ConnectError`] when TLS does not give it.
    pub fn exporter(&self) -> Result<[u8; 32], ConnectError> {
        exporter(&self.connection).map_err(|end| self.error(&end))
    }

    /// The Login of these keys for this connection.
    ///
    /// # Errors
    /// As [`exporter`](Self::exporter).
    pub async fn login(&self, keys: &Arc<AgentKeys>) -> Result<Login, ConnectError> {
        Ok(sign_login(keys, self.exporter()?).await)
    }

    /// Opens a stream and sends nothing on it yet.
    ///
    /// # Errors
    /// [`ConnectError`] when the connection is gone.
    pub async fn open_bare(&self) -> Result<RawStream, ConnectError> {
        let (send, receive) = self.connection.open_bi().await.map_err(|error| self.dialer.lost(error))?;
        Ok(RawStream { send, receive })
    }

    /// Opens a stream and sends its StreamOpen frame.
    ///
    /// # Errors
    /// As [`open_bare`](Self::open_bare).
    pub async fn open(&self, role: StreamRole) -> Result<RawStream, ConnectError> {
        let mut stream = self.open_bare().await?;
        let mut frame = Vec::new();
        StreamOpen { role }.encode(&mut frame);
        stream.send(frame).await.map_err(|end| self.error(&end.0))?;
        Ok(stream)
    }

    /// Opens the control stream and logs in.
    ///
    /// # Errors
    /// [`ConnectError`] when the login is refused or the connection ends.
    pub async fn log_in(&self, keys: &Arc<AgentKeys>) -> Result<(RawStream, LoginAccepted), ConnectError> {
        let mut control = self.open(StreamRole::Control).await?;
        let mut frame = Vec::new();
        self.login(keys).await?.encode(&mut frame);
        control.send(frame).await.map_err(|end| self.error(&end.0))?;
        let answer = control.next().await.map_err(|end| self.error(&end.0))?;
        let Some(answer) = answer else { return Err(self.error(&StreamEnd::Ended)) };
        if answer.frame_type == FrameType::LoginAccepted as u8 {
            let accepted = LoginAccepted::parse(&answer.body).map_err(ConnectError::Protocol)?;
            return Ok((control, accepted));
        }
        Err(answer.reject_code().map_or(ConnectError::Protocol(RejectCode::FrameUnexpected), ConnectError::Refused))
    }

    /// Waits until the connection is closed, and gives the reason.
    pub async fn closed(&self) -> ConnectError {
        self.dialer.lost(self.connection.closed().await)
    }

    /// Closes the connection.
    pub fn close(&self) {
        self.connection.close(VarInt::from_u32(0), b"");
    }

    fn error(&self, end: &StreamEnd) -> ConnectError {
        match (end, self.connection.close_reason()) {
            (StreamEnd::Broken(code), _) => ConnectError::Protocol(*code),
            (StreamEnd::Ended, Some(reason)) => self.dialer.lost(reason),
            (StreamEnd::Ended, None) => ConnectError::Protocol(RejectCode::FrameTruncated),
        }
    }
}

/// A bidirectional stream.
#[derive(Debug)]
pub struct RawStream {
    send: SendStream,
    receive: RecvStream,
}

/// A stream ended in the middle of something, or the connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("the stream ended: {0:?}; ask the connection for the reason")]
pub struct RawStreamEnded(StreamEnd);

impl RawStream {
    /// Sends any bytes.
    ///
    /// # Errors
    /// [`RawStreamEnded`].
    pub async fn send(&mut self, bytes: impl Into<Vec<u8>>) -> Result<(), RawStreamEnded> {
        stream::write(&mut self.send, bytes.into()).await.map_err(RawStreamEnded)
    }

    /// The next frame, whatever it is; `None` when the node finished the stream.
    ///
    /// # Errors
    /// [`RawStreamEnded`] when it ends inside a frame or a frame is above every limit.
    pub async fn next(&mut self) -> Result<Option<RawFrame>, RawStreamEnded> {
        let mut header = [0; FRAME_HEADER_BYTES];
        match stream::read_exact(&mut self.receive, &mut header).await {
            Ok(()) => {}
            Err(StreamEnd::Ended) => return Ok(None),
            Err(end) => return Err(RawStreamEnded(end)),
        }
        let [l0, l1, l2, l3, frame_type, ..] = header;
        let body_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if body_bytes > FRAME_BODY_BYTES_MAX {
            return Err(RawStreamEnded(StreamEnd::Broken(RejectCode::FrameOversized)));
        }
        let body = stream::read_body(&mut self.receive, body_bytes).await.map_err(RawStreamEnded)?;
        Ok(Some(RawFrame { frame_type, body }))
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        // It may be finished already.
        let _ = self.send.finish();
    }

    /// Breaks the sending side off.
    pub fn reset(&mut self) {
        // It may be closed already.
        let _ = self.send.reset(VarInt::from_u32(0));
    }
}

/// Seals a payload under a header of one's own making, to the key in `recipient`, which is verified first.
///
/// # Errors
/// [`LookupError::Invalid`] when the record does not hold.
pub fn seal_envelope(
    header: &EnvelopeHeader,
    recipient: &SignedKeyRecord,
    payload: &[u8],
) -> Result<Vec<u8>, LookupError> {
    let identity = Identity::verify(recipient.record.agent_id(), recipient)?;
    Ok(seal::seal(header, &identity.sealing, payload))
}

/// Signs a tree over these envelopes with these salts.
#[must_use]
pub fn sign_batch<'e>(
    keys: &AgentKeys,
    entries: impl IntoIterator<Item = (&'e [u8; 16], &'e [u8])>,
    signed_at_ms: u64,
) -> BatchHeader {
    let entries: Vec<_> = entries.into_iter().collect();
    let mut leaves = Vec::with_capacity(entries.len());
    leaf_hashes(entries, &mut leaves);
    seal::sign(keys, TreeDigest::Sha256, &leaves, signed_at_ms)
}

/// Prekeys that follow from these seeds, signed for the current version of the key record. The last one is of last resort if
/// `last_resort` says so; the others are for one use.
#[must_use]
pub fn prekey_batch(keys: &AgentKeys, seeds: &[[u8; 32]], last_resort: bool, signed_at_ms: u64) -> PrekeyBatch {
    let one_time = seeds.len() - usize::from(last_resort).min(seeds.len());
    let kind = |index| if index < one_time { PrekeyKind::OneTime } else { PrekeyKind::LastResort };
    let prekeys = seeds.iter().enumerate().map(|(index, seed)| make::prekey(kind(index), seed)).collect();
    make::sign(keys, keys.record_version(), prekeys, signed_at_ms)
}

/// A whole SignedBatch frame over these envelopes, signed now, with fresh salts.
///
/// # Errors
/// The limit that the batch is above.
pub fn signed_batch_frame(
    keys: &AgentKeys,
    submit_sequence: u64,
    envelopes: &[Vec<u8>],
) -> Result<Vec<u8>, RejectCode> {
    let salts: Vec<[u8; 16]> = clock::random_each(envelopes.len());
    let entries = || salts.iter().zip(envelopes.iter().map(Vec::as_slice));
    let header = sign_batch(keys, entries(), clock::now_ms());
    let mut frame = Vec::new();
    encode_signed_batch(&mut frame, submit_sequence, &header, entries().collect::<Vec<_>>().into_iter())?;
    Ok(frame)
}
