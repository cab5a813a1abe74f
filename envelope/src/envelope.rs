//! The message as bytes: a fixed 160-byte header, the wrapped key, the encrypted payload.
//!
//! The header is laid out so that rkyv views it in place: little-endian, no padding, aligned to eight bytes.
//! `docs/envelope-format.md` gives every byte. Nothing here is read before [`EnvelopeView::parse`] has checked it.

use rkyv::rancor::Failure;
use rkyv::ser::writer::Buffer;
use rkyv::{Archive, Deserialize, Serialize};

use crate::id::{AgentId, ChannelId, KeyId, MessageId};
use crate::limits::{
    AEAD_TAG_BYTES, CHANNEL_SESSION_MESSAGES_MAX, PAYLOAD_BYTES_MAX, SESSION_MESSAGES_MAX, SIGNAL_PLAINTEXT_BYTES_MAX,
    SIGNAL_TTL_S_MAX, WRAPPED_KEY_BYTES,
};
use crate::reject::RejectCode;

/// Size of the header, in bytes.
pub const ENVELOPE_HEADER_BYTES: usize = 160;
/// Alignment that an envelope needs inside a batch, in bytes.
pub const ENVELOPE_ALIGNMENT: usize = 8;
/// The version that this code writes.
pub const ENVELOPE_VERSION: u8 = 1;

/// Bit of the header's flags: the sender asks for a receipt ([`crate::receipt`]) when the work is done.
pub const FLAG_RECEIPT_WANTED: u8 = 1;
/// Bit of the header's flags: the sender asks the node for a notice ([`crate::notice`]) should the message expire.
pub const FLAG_NOTICE_WANTED: u8 = 2;
/// Bit of the header's flags: the key id is that of a prekey ([`crate::prekeys`]), not of a key record. Only in the session
/// suite: whatever opens a message must open it again until it is settled, and a one-time key is erased before.
pub const FLAG_PREKEY: u8 = 4;
/// Bit of the header's flags: the message is a signal ([`crate::signal`]), which no node stores. Only alone, on a direct message of the
/// sealed suite: what may be lost must take no key out of a session, nor bring the one that later messages need.
pub const FLAG_EPHEMERAL: u8 = 8;
/// Bit of the header's flags: the sender asks for a receipt ([`crate::receipt`]) when the recipient has opened the message.
pub const FLAG_DELIVERED_WANTED: u8 = 16;

/// How the payload's key reaches the recipient.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum Suite {
    /// One encapsulation for this message: X-Wing (ML-KEM-768 and X25519), HKDF-SHA256, AES-256-GCM.
    Sealed = 1,
    /// One key per message from the chain of a session, which one encapsulation opened.
    Session = 2,
    /// One key per message from the chain of a channel's session, which its publisher gave each subscriber.
    Channel = 3,
}

impl Suite {
    /// The suite with this number.
    #[must_use]
    pub const fn from_u8(suite: u8) -> Option<Self> {
        Some(match suite {
            1 => Self::Sealed,
            2 => Self::Session,
            3 => Self::Channel,
            _ => return None,
        })
    }
}

/// What the message is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// From one agent to another.
    Direct = 1,
    /// To the subscribers of a channel.
    Channel = 2,
    /// Wants an answer.
    Request = 3,
    /// Is an answer.
    Response = 4,
    /// Says that a message arrived or was read.
    Receipt = 5,
    /// Opens a session.
    SessionOpen = 6,
    /// Between SDKs, not for the application.
    Control = 7,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::Direct,
            2 => Self::Channel,
            3 => Self::Request,
            4 => Self::Response,
            5 => Self::Receipt,
            6 => Self::SessionOpen,
            7 => Self::Control,
            _ => return None,
        })
    }
}

/// How urgent the message is. Higher classes are delivered first; inside a class, first in, first out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Priority {
    /// After everything else.
    Low = 0,
    /// The usual.
    #[default]
    Normal = 1,
    /// Before the usual.
    High = 2,
    /// Before everything.
    Critical = 3,
}

impl Priority {
    /// The priority with this number.
    #[must_use]
    pub const fn from_u8(priority: u8) -> Option<Self> {
        Some(match priority {
            0 => Self::Low,
            1 => Self::Normal,
            2 => Self::High,
            3 => Self::Critical,
            _ => return None,
        })
    }
}

/// Kind and channel of an envelope that was checked when it came in, as the numbers that stand there: for who keeps envelopes
/// at any alignment and cannot view them. `None` when the bytes are too few.
#[must_use]
pub fn kind_and_channel(envelope: &[u8]) -> Option<(u8, [u8; 16])> {
    let header: &[u8; ENVELOPE_HEADER_BYTES] = envelope.first_chunk()?;
    Some((header[KIND_AT], *header[CHANNEL_AT..].first_chunk()?))
}

/// When a signal that was checked when it came in is over, Unix milliseconds; `None` for any other message. For who keeps envelopes at
/// any alignment, as [`kind_and_channel`].
#[must_use]
pub fn signal_until_ms(envelope: &[u8]) -> Option<u64> {
    let header: &[u8; ENVELOPE_HEADER_BYTES] = envelope.first_chunk()?;
    let ttl_s = u32::from_le_bytes(*header[TTL_AT..].first_chunk()?);
    let timestamp_ms = u64::from_le_bytes(*header[TIMESTAMP_AT..].first_chunk()?);
    (header[FLAGS_AT] & FLAG_EPHEMERAL != 0).then(|| signal_end_ms(timestamp_ms, ttl_s))
}

fn signal_end_ms(timestamp_ms: u64, ttl_s: u32) -> u64 {
    timestamp_ms.saturating_add(u64::from(ttl_s) * 1_000)
}

const FLAGS_AT: usize = std::mem::offset_of!(ArchivedEnvelopeHeader, flags);
const TTL_AT: usize = std::mem::offset_of!(ArchivedEnvelopeHeader, ttl_s);
const TIMESTAMP_AT: usize = std::mem::offset_of!(ArchivedEnvelopeHeader, timestamp_ms);
const KIND_AT: usize = std::mem::offset_of!(ArchivedEnvelopeHeader, kind);
const CHANNEL_AT: usize = std::mem::offset_of!(ArchivedEnvelopeHeader, channel);

/// The header of an envelope, field for field in the order of the wire.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
#[repr(C)]
pub struct EnvelopeHeader {
    /// [`ENVELOPE_VERSION`].
    pub version: u8,
    /// [`Suite`].
    pub suite: u8,
    /// [`Kind`].
    pub kind: u8,
    /// [`Priority`].
    pub priority: u8,
    /// [`FLAG_RECEIPT_WANTED`], [`FLAG_NOTICE_WANTED`], [`FLAG_PREKEY`], [`FLAG_EPHEMERAL`] and [`FLAG_DELIVERED_WANTED`]; every other
    /// bit is zero.
    pub flags: u8,
    /// Zero.
    pub reserved0: u8,
    /// Bytes of the wrapped key: 1,120 in the sealed suite, 1,120 or 0 in the session suite.
    pub wrapped_key_bytes: u16,
    /// Bytes of ciphertext and tag.
    pub payload_bytes: u32,
    /// Seconds the message may wait; zero means the mailbox's own limit.
    pub ttl_s: u32,
    /// Who sends ([`AgentId`]).
    pub sender: [u8; 16],
    /// Whose mailbox it goes to ([`AgentId`]).
    pub recipient: [u8; 16],
    /// The channel, or zero.
    pub channel: [u8; 16],
    /// [`MessageId`].
    pub message_id: [u8; 16],
    /// Ties a response to its request, or zero.
    pub correlation_id: [u8; 16],
    /// When the sender made it, Unix milliseconds.
    pub timestamp_ms: u64,
    /// Place of the message in its session, below 4,096; zero in the sealed suite.
    pub counter: u64,
    /// Which of the recipient's keys opens it ([`KeyId`]).
    pub key_id: [u8; 16],
    /// The session; zero in the sealed suite.
    pub session_id: [u8; 16],
    /// Four zero bytes and the counter, little-endian.
    pub nonce: [u8; 12],
    /// Zero.
    pub reserved1: u32,
}

// The layout is the format: if a compiler or rkyv ever laid it out differently, this would not build.
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<ArchivedEnvelopeHeader>() == ENVELOPE_HEADER_BYTES);
    assert!(align_of::<ArchivedEnvelopeHeader>() == ENVELOPE_ALIGNMENT);
    assert!(offset_of!(ArchivedEnvelopeHeader, wrapped_key_bytes) == 6);
    assert!(offset_of!(ArchivedEnvelopeHeader, payload_bytes) == 8);
    assert!(offset_of!(ArchivedEnvelopeHeader, ttl_s) == 12);
    assert!(offset_of!(ArchivedEnvelopeHeader, sender) == 16);
    assert!(offset_of!(ArchivedEnvelopeHeader, recipient) == 32);
    assert!(offset_of!(ArchivedEnvelopeHeader, channel) == 48);
    assert!(offset_of!(ArchivedEnvelopeHeader, message_id) == 64);
    assert!(offset_of!(ArchivedEnvelopeHeader, correlation_id) == 80);
    assert!(offset_of!(ArchivedEnvelopeHeader, timestamp_ms) == 96);
    assert!(offset_of!(ArchivedEnvelopeHeader, counter) == 104);
    assert!(offset_of!(ArchivedEnvelopeHeader, key_id) == 112);
    assert!(offset_of!(ArchivedEnvelopeHeader, session_id) == 128);
    assert!(offset_of!(ArchivedEnvelopeHeader, nonce) == 144);
    assert!(offset_of!(ArchivedEnvelopeHeader, reserved1) == 156);
};

/// Where a message stands in its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InSession {
    /// The session. Never zero.
    pub session_id: [u8; 16],
    /// Place in the session's chain of keys, below [`SESSION_MESSAGES_MAX`].
    pub counter: u64,
    /// Whether the message carries the wrapped key that opened the session.
    pub with_wrapped_key: bool,
}

impl EnvelopeHeader {
    /// A header of the session suite for a plaintext of `plaintext_bytes`.
    ///
    /// # Errors
    /// [`RejectCode::EnvelopeOversized`] when the payload would be larger than the limit, [`RejectCode::SessionCounter`]
    /// when the counter is beyond the end of a session, [`RejectCode::UnknownSession`] when the session id is zero.
    pub fn session(
        sender: AgentId,
        recipient: AgentId,
        key_id: KeyId,
        message_id: MessageId,
        timestamp_ms: u64,
        plaintext_bytes: usize,
        position: &InSession,
    ) -> Result<Self, RejectCode> {
        let sealed = Self::sealed(sender, recipient, key_id, message_id, timestamp_ms, plaintext_bytes)?;
        if position.counter >= SESSION_MESSAGES_MAX {
            return Err(RejectCode::SessionCounter);
        }
        if position.session_id == [0; 16] {
            return Err(RejectCode::UnknownSession);
        }
        Ok(Self {
            suite: Suite::Session as u8,
            wrapped_key_bytes: if position.with_wrapped_key { sealed.wrapped_key_bytes } else { 0 },
            counter: position.counter,
            session_id: position.session_id,
            nonce: nonce(position.counter),
            ..sealed
        })
    }

    /// A header of the channel suite for a plaintext of `plaintext_bytes`, published under this counter of a session of `sender`.
    ///
    /// # Errors
    /// [`RejectCode::EnvelopeOversized`] when the payload would be larger than the limit, [`RejectCode::SessionCounter`]
    /// when the counter is beyond the end of a channel's session, [`RejectCode::UnknownSession`] when the session id is zero.
    pub fn published(
        sender: AgentId,
        channel: ChannelId,
        message_id: MessageId,
        timestamp_ms: u64,
        plaintext_bytes: usize,
        session_id: [u8; 16],
        counter: u64,
    ) -> Result<Self, RejectCode> {
        let (recipient, key_id) = (AgentId(channel.0), KeyId([0; 16]));
        let sealed = Self::sealed(sender, recipient, key_id, message_id, timestamp_ms, plaintext_bytes)?;
        if counter >= CHANNEL_SESSION_MESSAGES_MAX {
            return Err(RejectCode::SessionCounter);
        }
        if session_id == [0; 16] {
            return Err(RejectCode::UnknownSession);
        }
        Ok(Self {
            suite: Suite::Channel as u8,
            kind: Kind::Channel as u8,
            channel: channel.0,
            wrapped_key_bytes: 0,
            counter,
            session_id,
            nonce: nonce(counter),
            ..sealed
        })
    }

    /// A header of the sealed suite for a plaintext of `plaintext_bytes`.
    ///
    /// # Errors
    /// [`RejectCode::EnvelopeOversized`] when the payload would be larger than the limit.
    #[allow(clippy::cast_possible_truncation, reason = "both lengths are checked against limits below u16 and u32")]
    pub fn sealed(
        sender: AgentId,
        recipient: AgentId,
        key_id: KeyId,
        message_id: MessageId,
        timestamp_ms: u64,
        plaintext_bytes: usize,
    ) -> Result<Self, RejectCode> {
        let payload_bytes = plaintext_bytes.saturating_add(AEAD_TAG_BYTES);
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(RejectCode::EnvelopeOversized);
        }
        Ok(Self {
            version: ENVELOPE_VERSION,
            suite: Suite::Sealed as u8,
            kind: Kind::Direct as u8,
            priority: Priority::Normal as u8,
            flags: 0,
            reserved0: 0,
            wrapped_key_bytes: WRAPPED_KEY_BYTES as u16,
            payload_bytes: payload_bytes as u32,
            ttl_s: 0,
            sender: sender.0,
            recipient: recipient.0,
            channel: [0; 16],
            message_id: message_id.0,
            correlation_id: [0; 16],
            timestamp_ms,
            counter: 0,
            key_id: key_id.0,
            session_id: [0; 16],
            nonce: nonce(0),
            reserved1: 0,
        })
    }

    /// The header as it stands on the wire and as it is authenticated.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ENVELOPE_HEADER_BYTES] {
        let mut bytes = Aligned([0; ENVELOPE_HEADER_BYTES]);
        rkyv::api::serialize_using::<_, Failure>(self, &mut Buffer::from(&mut bytes.0))
            .expect("a header of fixed size fits a buffer of that size");
        bytes.0
    }

    /// Bytes of the whole envelope that this header announces.
    #[must_use]
    pub fn envelope_bytes(&self) -> usize {
        ENVELOPE_HEADER_BYTES + usize::from(self.wrapped_key_bytes) + self.payload_bytes as usize
    }
}

/// rkyv writes into aligned memory only.
#[repr(C, align(16))]
struct Aligned<const N: usize>([u8; N]);

/// The nonce of a counter: four zero bytes, then the counter, little-endian. Never random: random 96-bit nonces
/// under one key run out.
#[must_use]
pub fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// An envelope whose every field was checked, viewed in place.
#[derive(Clone, Copy, Debug)]
pub struct EnvelopeView<'a> {
    header: &'a ArchivedEnvelopeHeader,
    bytes: &'a [u8],
}

impl<'a> EnvelopeView<'a> {
    /// Checks `bytes` as exactly one envelope and views it without copying.
    ///
    /// # Errors
    /// The [`RejectCode`] of the first rule that the bytes break; `bytes` must start at a multiple of
    /// [`ENVELOPE_ALIGNMENT`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RejectCode> {
        if !bytes.as_ptr().addr().is_multiple_of(ENVELOPE_ALIGNMENT) {
            return Err(RejectCode::EnvelopeMisaligned);
        }
        if bytes.len() < ENVELOPE_HEADER_BYTES {
            return Err(RejectCode::EnvelopeTruncated);
        }
        let header = rkyv::api::low::access_pos::<ArchivedEnvelopeHeader, Failure>(&bytes[..ENVELOPE_HEADER_BYTES], 0)
            .map_err(|_| RejectCode::EnvelopeMisaligned)?;
        if header.version != ENVELOPE_VERSION {
            return Err(RejectCode::EnvelopeVersion);
        }
        let suite = Suite::from_u8(header.suite).ok_or(RejectCode::EnvelopeSuite)?;
        let kind = Kind::from_u8(header.kind).ok_or(RejectCode::EnvelopeKind)?;
        Priority::from_u8(header.priority).ok_or(RejectCode::EnvelopePriority)?;
        let wants = header.flags & !(FLAG_PREKEY | FLAG_EPHEMERAL);
        let is_signal = header.flags & FLAG_EPHEMERAL != 0;
        let flags_hold = wants & !(FLAG_RECEIPT_WANTED | FLAG_NOTICE_WANTED | FLAG_DELIVERED_WANTED) == 0
            // A receipt for a receipt would go on for ever.
            && (wants == 0 || kind != Kind::Receipt)
            && (header.flags & FLAG_PREKEY == 0 || suite == Suite::Session)
            // Nobody can say later what became of what was never stored.
            && (!is_signal || (header.flags == FLAG_EPHEMERAL && suite == Suite::Sealed && kind == Kind::Direct))
            // There is no one recipient who could answer.
            && (header.flags == 0 || suite != Suite::Channel);
        if !flags_hold || header.reserved0 != 0 || header.reserved1 != 0 {
            return Err(RejectCode::EnvelopeReserved);
        }
        let wrapped_key_bytes = usize::from(header.wrapped_key_bytes.to_native());
        let payload_bytes = header.payload_bytes.to_native() as usize;
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(RejectCode::EnvelopeOversized);
        }
        let key_fits = match suite {
            Suite::Sealed => wrapped_key_bytes == WRAPPED_KEY_BYTES,
            Suite::Session => wrapped_key_bytes == WRAPPED_KEY_BYTES || wrapped_key_bytes == 0,
            Suite::Channel => wrapped_key_bytes == 0,
        };
        if !key_fits || payload_bytes < AEAD_TAG_BYTES {
            return Err(RejectCode::EnvelopeLength);
        }
        match bytes.len().cmp(&(ENVELOPE_HEADER_BYTES + wrapped_key_bytes + payload_bytes)) {
            std::cmp::Ordering::Less => return Err(RejectCode::EnvelopeTruncated),
            std::cmp::Ordering::Greater => return Err(RejectCode::EnvelopeLength),
            std::cmp::Ordering::Equal => {}
        }
        let counter = header.counter.to_native();
        match suite {
            // A key encrypts one message, so there is nothing to count.
            Suite::Sealed if counter != 0 => return Err(RejectCode::EnvelopeNonce),
            Suite::Session if counter >= SESSION_MESSAGES_MAX => return Err(RejectCode::SessionCounter),
            Suite::Channel if counter >= CHANNEL_SESSION_MESSAGES_MAX => return Err(RejectCode::SessionCounter),
            _ => {}
        }
        if header.nonce != nonce(counter) {
            return Err(RejectCode::EnvelopeNonce);
        }
        match (suite, header.session_id == [0; 16]) {
            (Suite::Sealed, false) => return Err(RejectCode::EnvelopeReserved),
            (Suite::Session | Suite::Channel, true) => return Err(RejectCode::UnknownSession),
            _ => {}
        }
        let fits_channel = match (suite, kind) {
            (Suite::Channel, Kind::Channel) => {
                header.channel == header.recipient && header.channel != [0; 16] && header.key_id == [0; 16]
            }
            (Suite::Channel, _) | (_, Kind::Channel) => false,
            _ => true,
        };
        if !fits_channel {
            return Err(RejectCode::EnvelopeChannel);
        }
        let is_short = (1..=SIGNAL_TTL_S_MAX).contains(&header.ttl_s.to_native())
            && payload_bytes <= SIGNAL_PLAINTEXT_BYTES_MAX + AEAD_TAG_BYTES;
        if is_signal && !is_short {
            return Err(RejectCode::EnvelopeSignal);
        }
        if !MessageId(header.message_id).is_uuid_v7() {
            return Err(RejectCode::EnvelopeMessageId);
        }
        Ok(Self { header, bytes })
    }

    /// The exact bytes, as hashed and signed.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The header's bytes: the additional authenticated data of the payload.
    #[must_use]
    pub fn header_bytes(&self) -> &'a [u8] {
        &self.bytes[..ENVELOPE_HEADER_BYTES]
    }

    /// The header, field by field.
    #[must_use]
    pub fn header(&self) -> &'a ArchivedEnvelopeHeader {
        self.header
    }

    /// Who sends.
    #[must_use]
    pub fn sender(&self) -> AgentId {
        AgentId(self.header.sender)
    }

    /// Whose mailbox it goes to; in the channel suite the channel's id.
    #[must_use]
    pub fn recipient(&self) -> AgentId {
        AgentId(self.header.recipient)
    }

    /// The id for deduplication.
    #[must_use]
    pub fn message_id(&self) -> MessageId {
        MessageId(self.header.message_id)
    }

    /// Which of the recipient's keys opens it.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId(self.header.key_id)
    }

    /// Whether that key is a prekey ([`crate::prekeys`]).
    #[must_use]
    pub fn is_to_prekey(&self) -> bool {
        self.header.flags & FLAG_PREKEY != 0
    }

    /// Whether the sender asks the recipient for a receipt ([`crate::receipt`]).
    #[must_use]
    pub fn wants_receipt(&self) -> bool {
        self.header.flags & FLAG_RECEIPT_WANTED != 0
    }

    /// Whether the sender asks the node for a notice should the message expire ([`crate::notice`]).
    #[must_use]
    pub fn wants_notice(&self) -> bool {
        self.header.flags & FLAG_NOTICE_WANTED != 0
    }

    /// Whether the sender asks the recipient for a receipt ([`crate::receipt`]) when it has opened the message.
    #[must_use]
    pub fn wants_delivered(&self) -> bool {
        self.header.flags & FLAG_DELIVERED_WANTED != 0
    }

    /// When the message is over, Unix milliseconds by its sender's clock, if it is a signal ([`crate::signal`]).
    #[must_use]
    pub fn signal_until_ms(&self) -> Option<u64> {
        let (timestamp_ms, ttl_s) = (self.header.timestamp_ms.to_native(), self.header.ttl_s.to_native());
        (self.header.flags & FLAG_EPHEMERAL != 0).then(|| signal_end_ms(timestamp_ms, ttl_s))
    }

    /// The message's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::from_u8(self.header.kind).expect("parse has checked the kind")
    }

    /// The message's priority.
    #[must_use]
    pub fn priority(&self) -> Priority {
        Priority::from_u8(self.header.priority).expect("parse has checked the priority")
    }

    /// How the payload's key reaches the recipient.
    #[must_use]
    pub fn suite(&self) -> Suite {
        Suite::from_u8(self.header.suite).expect("parse has checked the suite")
    }

    /// The channel that the message was published in, or zero.
    #[must_use]
    pub fn channel(&self) -> ChannelId {
        ChannelId(self.header.channel)
    }

    /// The session that the message belongs to; zero in the sealed suite.
    #[must_use]
    pub fn session_id(&self) -> [u8; 16] {
        self.header.session_id
    }

    /// Place of the message in its session; zero in the sealed suite.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.header.counter.to_native()
    }

    /// The wrapped key: ML-KEM-768 ciphertext, then X25519 share. Always there in the sealed suite; in the session suite
    /// it is the one that opened the session, or absent.
    #[must_use]
    pub fn wrapped_key(&self) -> Option<&'a [u8; WRAPPED_KEY_BYTES]> {
        self.bytes[ENVELOPE_HEADER_BYTES..self.payload_start()].first_chunk()
    }

    /// Ciphertext and tag.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.payload_start()..]
    }

    fn payload_start(&self) -> usize {
        ENVELOPE_HEADER_BYTES + usize::from(self.header.wrapped_key_bytes.to_native())
    }
}
