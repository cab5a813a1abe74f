//! Frames of the link: a header of eight bytes, and a body whose length is checked, for its type, before it is read.

use creto_envelope::channel::SignedChannelRecord;
use creto_envelope::control::RotationMode;
use creto_envelope::enrol::Enrolled;
use creto_envelope::key_log::{KeyLeaves, KeyLeavesRequest, KeyLogQuestion, KeyProof, KeyProofRequest};
use creto_envelope::prekeys::{PrekeyBatch, PrekeyStock, SignedPrekey};
use creto_envelope::{AgentId, ChannelId, FrameType, RejectCode, SignedKeyRecord, TrustDomain};
use thiserror::Error;

use crate::limits::{
    CHANNEL_ANSWER_BYTES_MAX, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, GONE_MAX, KEY_LEAVES_ANSWER_BYTES_MAX,
    LINK_VERSION, NUMBERS_ANSWER_BYTES_MAX, REASON_BYTES_MAX, RECORD_ANSWER_BYTES_MAX, SMALL_BODY_BYTES_MAX,
};
use crate::reader::{Reader, put_text};
use crate::snapshot::SnapshotHead;

/// Why bytes are no frame: the link ends, for nobody knows what the other side means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// a frame of a type that is not known, or not of this side
    #[error("a frame of type {0}, which this version does not know; run the same version of creto on both sides")]
    Type(u8),
    /// a frame of another version
    #[error("a frame of version {0}, and this is version {LINK_VERSION}; run the same version of creto on both sides")]
    Version(u8),
    /// a frame whose length is not that of its fields
    #[error("a frame whose length is not that of its fields; run the same version of creto on both sides")]
    Length,
    /// a frame that is too long
    #[error("a frame of {0} bytes, which is more than one of its type may have")]
    Oversized(u32),
    /// a field that must be zero
    #[error("a field that must be zero is not; run the same version of creto on both sides")]
    NotZero,
    /// a value without a meaning
    #[error("a field holds a value without a meaning; run the same version of creto on both sides")]
    Value,
}

/// The eight bytes in front of a body: `u32 body_bytes | u8 type | u8 version | u16 zero`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Bytes that follow.
    pub body_bytes: usize,
    /// What they are.
    pub frame_type: u8,
}

const HELLO: u8 = 1;
const ASK: u8 = 2;
const PUBLISH: u8 = 16;
const ENROL: u8 = 17;
const KEY_RECORD: u8 = 18;
const KEY_LOG: u8 = 19;
const UPLOAD: u8 = 20;
const CLAIM: u8 = 21;
const STOCK: u8 = 22;
const CHANNEL_RECORD: u8 = 23;
const WELCOME: u8 = 128;
const REFUSED: u8 = 129;
const RENEWED: u8 = 130;
const SNAPSHOT_BEGIN: u8 = 131;
const AGENTS: u8 = 132;
const GONE: u8 = 133;
const SNAPSHOT_END: u8 = 134;
const PREKEYS_LOW: u8 = 135;
const CHANNELS: u8 = 136;
const CHANNELS_GONE: u8 = 137;
/// Of an answer: the question's type and this bit. They are apart from those above.
const ANSWER: u8 = 0xc0;

impl FrameHeader {
    /// Reads a header, and says no to a body that is longer than one of its type can be.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, LinkError> {
        let [a, b, c, d, frame_type, version, r0, r1] = *bytes;
        if u16::from(version) != LINK_VERSION {
            return Err(LinkError::Version(version));
        }
        if [r0, r1] != [0, 0] {
            return Err(LinkError::NotZero);
        }
        let bytes_max = match frame_type {
            HELLO | ASK | CLAIM | STOCK | KEY_RECORD | CHANNEL_RECORD | WELCOME | REFUSED | RENEWED | SNAPSHOT_END
            | PREKEYS_LOW => SMALL_BODY_BYTES_MAX,
            PUBLISH | ENROL | KEY_LOG | UPLOAD | SNAPSHOT_BEGIN | AGENTS | GONE | CHANNELS | CHANNELS_GONE => {
                FRAME_BODY_BYTES_MAX
            }
            answer if (PUBLISH | ANSWER..=CHANNEL_RECORD | ANSWER).contains(&answer) => FRAME_BODY_BYTES_MAX,
            unknown => return Err(LinkError::Type(unknown)),
        };
        let body_bytes = u32::from_le_bytes([a, b, c, d]);
        match usize::try_from(body_bytes) {
            Ok(bytes) if bytes <= bytes_max => Ok(Self { body_bytes: bytes, frame_type }),
            _ => Err(LinkError::Oversized(body_bytes)),
        }
    }
}

/// What a node says first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The trust domain of its configuration.
    pub trust_domain: TrustDomain,
    /// How long its mailboxes keep what nobody acknowledges, in seconds: all nodes of one control keep it as long.
    pub retention_s: u32,
}

/// What a node says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FromNode {
    /// The first frame.
    Hello(Hello),
    /// Is what I hold still what there is? The number comes back.
    Ask {
        /// It only goes up.
        number: u64,
    },
    /// Something for the directory.
    Question {
        /// Comes back with the answer; no two that are not answered have the same.
        id: u64,
        /// What.
        question: Question,
    },
}

/// What shards ask of control.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// An agent's next key record.
    Publish {
        /// Who is logged in.
        agent: AgentId,
        /// What becomes of the key that is replaced.
        mode: RotationMode,
        /// The record.
        record: Box<SignedKeyRecord>,
    },
    /// A registration with a token.
    Enrol {
        /// SHA-256 of the token's secret.
        token: [u8; 32],
        /// The address that asked, as IPv6.
        peer: [u8; 16],
        /// What is to be registered.
        record: Box<SignedKeyRecord>,
    },
    /// A version of an agent's key record.
    KeyRecord {
        /// Whose.
        agent: AgentId,
        /// Which.
        version: u32,
    },
    /// About the key log.
    KeyLog(KeyLogQuestion),
    /// Prekeys of an agent that is logged in.
    Upload {
        /// Who.
        agent: AgentId,
        /// They.
        batch: Box<PrekeyBatch>,
    },
    /// A prekey for an agent to which policy lets the asker send.
    Claim {
        /// Who is logged in.
        asker: AgentId,
        /// Whose prekey.
        agent: AgentId,
    },
    /// What is left of an agent's own prekeys.
    Stock {
        /// Whose.
        agent: AgentId,
    },
    /// The record of a channel, with its owner's signatures.
    ChannelRecord {
        /// Which channel.
        channel: ChannelId,
    },
}

/// Why a question is not granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The code for the agent.
    pub code: RejectCode,
    /// When the same may be granted, in milliseconds from now; zero when that will not be.
    pub retry_after_ms: u32,
}

/// What control answers, of the kind of the question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The version that is current now.
    Publish(Result<u32, Refused>),
    /// What became of the registration.
    Enrol(Result<Enrolled, Refused>),
    /// The record.
    KeyRecord(Result<Box<SignedKeyRecord>, Refused>),
    /// A whole frame of `docs/protocol.md`, for the agent.
    KeyLog(Vec<u8>),
    /// What there is now.
    Upload(Result<PrekeyStock, Refused>),
    /// The prekey.
    Claim(Result<Box<SignedPrekey>, Refused>),
    /// What there is.
    Stock(Result<PrekeyStock, Refused>),
    /// The record.
    ChannelRecord(Result<Box<SignedChannelRecord>, Refused>),
}

/// What control says to a node that it takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The trust domain of its directory.
    pub trust_domain: TrustDomain,
    /// How long the node goes by a snapshot after it has asked, in milliseconds.
    pub lifetime_ms: u32,
    /// Of its directory: another one when it was made anew or restored, whatever its epochs are then.
    pub incarnation: [u8; 16],
}

/// Why control serves a node no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedLink {
    /// For programs: a word.
    pub code: String,
    /// For people: why, and what to do.
    pub reason: String,
}

/// What control says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FromControl {
    /// The first frame.
    Welcome(Welcome),
    /// Instead of it, or later: the link ends.
    Refused(RefusedLink),
    /// Up to the moment in which this number was asked, everything that was published came before.
    Renewed {
        /// As in [`FromNode::Ask`].
        number: u64,
    },
    /// A snapshot begins.
    SnapshotBegin(SnapshotHead),
    /// Some of its agents, for [`crate::Incoming::agents`].
    Agents(Vec<u8>),
    /// Agents that are not there any more.
    Gone(Vec<AgentId>),
    /// Some of its channels, for [`crate::Incoming::channels`].
    Channels(Vec<u8>),
    /// Channels that are not there any more.
    ChannelsGone(Vec<ChannelId>),
    /// All of the snapshot came.
    SnapshotEnd {
        /// How many agents the directory has.
        agents: u64,
        /// How many channels.
        channels: u64,
    },
    /// The answer to a question.
    Answer {
        /// The question's.
        id: u64,
        /// It.
        answer: Answer,
    },
    /// An agent has few one-time prekeys left.
    PrekeysLow {
        /// Whose.
        agent: AgentId,
        /// What is left.
        stock: PrekeyStock,
    },
}

fn frame(frame_type: u8, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let version = u8::try_from(LINK_VERSION).expect("it is below 256");
    let mut out = vec![0, 0, 0, 0, frame_type, version, 0, 0];
    body(&mut out);
    let bytes = out.len() - FRAME_HEADER_BYTES;
    assert!(bytes <= FRAME_BODY_BYTES_MAX, "everything that is said has a bound that fits a frame");
    let bytes = u32::try_from(bytes).expect("it was just looked at");
    out[..4].copy_from_slice(&bytes.to_le_bytes());
    out
}

impl FromNode {
    /// The frame.
    #[must_use]
    pub fn to_frame(&self) -> Vec<u8> {
        match self {
            Self::Hello(Hello { trust_domain, retention_s }) => frame(HELLO, |out| {
                out.extend_from_slice(&retention_s.to_le_bytes());
                put_text(out, trust_domain.as_str());
            }),
            Self::Ask { number } => frame(ASK, |out| out.extend_from_slice(&number.to_le_bytes())),
            Self::Question { id, question } => frame(question.frame_type(), |out| {
                out.extend_from_slice(&id.to_le_bytes());
                question.put(out);
            }),
        }
    }

    /// Reads the body behind `header`.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn parse(header: FrameHeader, body: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new(body);
        let said = match header.frame_type {
            HELLO => {
                let (retention_s, bytes) = (reader.u32()?, usize::from(reader.u16()?));
                let trust_domain = take_domain(&mut reader, bytes)?;
                Self::Hello(Hello { trust_domain, retention_s })
            }
            ASK => Self::Ask { number: reader.u64()? },
            frame_type => {
                let id = reader.u64()?;
                Self::Question { id, question: Question::take(frame_type, &mut reader)? }
            }
        };
        reader.end()?;
        Ok(said)
    }
}

impl Question {
    /// Whether the answer may be as large as a frame: fewer of these are asked at a time.
    #[must_use]
    pub fn is_large(&self) -> bool {
        matches!(self, Self::KeyLog(_) | Self::ChannelRecord { .. })
    }

    /// Most bytes that the frame with its answer has.
    #[must_use]
    pub fn answer_bytes_max(&self) -> usize {
        match self {
            Self::KeyLog(KeyLogQuestion::Leaves(_)) => KEY_LEAVES_ANSWER_BYTES_MAX,
            Self::ChannelRecord { .. } => CHANNEL_ANSWER_BYTES_MAX,
            Self::KeyRecord { .. } | Self::Claim { .. } | Self::KeyLog(_) => RECORD_ANSWER_BYTES_MAX,
            Self::Publish { .. } | Self::Enrol { .. } | Self::Upload { .. } | Self::Stock { .. } => {
                NUMBERS_ANSWER_BYTES_MAX
            }
        }
    }

    const fn frame_type(&self) -> u8 {
        match self {
            Self::Publish { .. } => PUBLISH,
            Self::Enrol { .. } => ENROL,
            Self::KeyRecord { .. } => KEY_RECORD,
            Self::KeyLog(_) => KEY_LOG,
            Self::Upload { .. } => UPLOAD,
            Self::Claim { .. } => CLAIM,
            Self::Stock { .. } => STOCK,
            Self::ChannelRecord { .. } => CHANNEL_RECORD,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Publish { agent, mode, record } => {
                out.extend_from_slice(&agent.0);
                out.extend_from_slice(&[*mode as u8, 0, 0, 0, 0, 0, 0, 0]);
                out.extend_from_slice(&record.to_bytes());
            }
            Self::Enrol { token, peer, record } => {
                out.extend_from_slice(token);
                out.extend_from_slice(peer);
                out.extend_from_slice(&record.to_bytes());
            }
            Self::KeyRecord { agent, version } => {
                out.extend_from_slice(&agent.0);
                out.extend_from_slice(&version.to_le_bytes());
            }
            Self::KeyLog(KeyLogQuestion::Proof(question)) => question.encode(out),
            Self::KeyLog(KeyLogQuestion::Leaves(question)) => question.encode(out),
            Self::Upload { agent, batch } => {
                out.extend_from_slice(&agent.0);
                out.extend_from_slice(&batch.to_bytes());
            }
            Self::Claim { asker, agent } => {
                out.extend_from_slice(&asker.0);
                out.extend_from_slice(&agent.0);
            }
            Self::Stock { agent } => out.extend_from_slice(&agent.0),
            Self::ChannelRecord { channel } => out.extend_from_slice(&channel.0),
        }
    }

    fn take(frame_type: u8, reader: &mut Reader<'_>) -> Result<Self, LinkError> {
        Ok(match frame_type {
            PUBLISH => {
                let agent = AgentId(reader.array()?);
                let mode = RotationMode::from_u8(reader.u8()?).ok_or(LinkError::Value)?;
                reader.zeros(7)?;
                Self::Publish { agent, mode, record: take_record(reader)? }
            }
            ENROL => Self::Enrol { token: reader.array()?, peer: reader.array()?, record: take_record(reader)? },
            KEY_RECORD => Self::KeyRecord { agent: AgentId(reader.array()?), version: reader.u32()? },
            KEY_LOG => {
                let (inner, body) = take_inner(reader.rest())?;
                Self::KeyLog(match inner {
                    FrameType::KeyProofRequest => KeyLogQuestion::Proof(of_agent(KeyProofRequest::parse(body))?),
                    FrameType::KeyLeavesRequest => KeyLogQuestion::Leaves(of_agent(KeyLeavesRequest::parse(body))?),
                    _ => return Err(LinkError::Value),
                })
            }
            UPLOAD => {
                let agent = AgentId(reader.array()?);
                Self::Upload { agent, batch: Box::new(of_agent(PrekeyBatch::parse(reader.rest()))?) }
            }
            CLAIM => Self::Claim { asker: AgentId(reader.array()?), agent: AgentId(reader.array()?) },
            STOCK => Self::Stock { agent: AgentId(reader.array()?) },
            CHANNEL_RECORD => Self::ChannelRecord { channel: ChannelId(reader.array()?) },
            other => return Err(LinkError::Type(other)),
        })
    }
}

impl FromControl {
    /// The frame.
    #[must_use]
    pub fn to_frame(&self) -> Vec<u8> {
        match self {
            Self::Welcome(Welcome { trust_domain, lifetime_ms, incarnation }) => frame(WELCOME, |out| {
                out.extend_from_slice(&lifetime_ms.to_le_bytes());
                out.extend_from_slice(incarnation);
                put_text(out, trust_domain.as_str());
            }),
            Self::Refused(RefusedLink { code, reason }) => frame(REFUSED, |out| {
                put_text(out, cut(code));
                put_text(out, cut(reason));
            }),
            Self::Renewed { number } => frame(RENEWED, |out| out.extend_from_slice(&number.to_le_bytes())),
            Self::SnapshotBegin(head) => frame(SNAPSHOT_BEGIN, |out| head.put(out)),
            Self::Agents(agents) => frame(AGENTS, |out| out.extend_from_slice(agents)),
            Self::Gone(ids) => frame(GONE, |out| ids.iter().for_each(|id| out.extend_from_slice(&id.0))),
            Self::Channels(channels) => frame(CHANNELS, |out| out.extend_from_slice(channels)),
            Self::ChannelsGone(ids) => {
                frame(CHANNELS_GONE, |out| ids.iter().for_each(|id| out.extend_from_slice(&id.0)))
            }
            Self::SnapshotEnd { agents, channels } => frame(SNAPSHOT_END, |out| {
                out.extend_from_slice(&agents.to_le_bytes());
                out.extend_from_slice(&channels.to_le_bytes());
            }),
            Self::Answer { id, answer } => frame(answer.frame_type(), |out| {
                out.extend_from_slice(&id.to_le_bytes());
                answer.put(out);
            }),
            Self::PrekeysLow { agent, stock } => frame(PREKEYS_LOW, |out| {
                out.extend_from_slice(&agent.0);
                put_stock(stock, out);
            }),
        }
    }

    /// Reads the body behind `header`.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn parse(header: FrameHeader, body: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new(body);
        let said = match header.frame_type {
            WELCOME => {
                let (lifetime_ms, incarnation) = (reader.u32()?, reader.array()?);
                let bytes = usize::from(reader.u16()?);
                Self::Welcome(Welcome { trust_domain: take_domain(&mut reader, bytes)?, lifetime_ms, incarnation })
            }
            REFUSED => {
                let mut text = || {
                    let bytes = usize::from(reader.u16()?);
                    // Shown to people: nothing of it may tell a terminal what to do.
                    let text = reader.text(bytes)?;
                    Ok(text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>())
                };
                Self::Refused(RefusedLink { code: text()?, reason: text()? })
            }
            RENEWED => Self::Renewed { number: reader.u64()? },
            SNAPSHOT_BEGIN => Self::SnapshotBegin(SnapshotHead::take(&mut reader)?),
            AGENTS => Self::Agents(reader.rest().to_vec()),
            GONE => Self::Gone(take_ids(&mut reader)?.iter().map(|id| AgentId(*id)).collect()),
            CHANNELS => Self::Channels(reader.rest().to_vec()),
            CHANNELS_GONE => Self::ChannelsGone(take_ids(&mut reader)?.iter().map(|id| ChannelId(*id)).collect()),
            SNAPSHOT_END => Self::SnapshotEnd { agents: reader.u64()?, channels: reader.u64()? },
            PREKEYS_LOW => Self::PrekeysLow { agent: AgentId(reader.array()?), stock: take_stock(&mut reader)? },
            frame_type => {
                let id = reader.u64()?;
                Self::Answer { id, answer: Answer::take(frame_type, &mut reader)? }
            }
        };
        reader.end()?;
        Ok(said)
    }
}

impl Answer {
    const fn frame_type(&self) -> u8 {
        ANSWER
            | match self {
                Self::Publish(_) => PUBLISH,
                Self::Enrol(_) => ENROL,
                Self::KeyRecord(_) => KEY_RECORD,
                Self::KeyLog(_) => KEY_LOG,
                Self::Upload(_) => UPLOAD,
                Self::Claim(_) => CLAIM,
                Self::Stock(_) => STOCK,
                Self::ChannelRecord(_) => CHANNEL_RECORD,
            }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Publish(answer) => put_result(answer, out, |version, out| {
                out.extend_from_slice(&version.to_le_bytes());
            }),
            Self::Enrol(answer) => put_result(answer, out, |enrolled, out| {
                let (outcome, code) = match *enrolled {
                    Enrolled::Created => (0, 0),
                    Enrolled::Known => (1, 0),
                    Enrolled::Refused(code) => (2, code),
                };
                out.extend_from_slice(&[outcome, 0]);
                out.extend_from_slice(&u16::to_le_bytes(code));
            }),
            Self::KeyRecord(answer) => {
                put_result(answer, out, |record, out| out.extend_from_slice(&record.to_bytes()));
            }
            Self::KeyLog(frame) => out.extend_from_slice(frame),
            Self::Upload(answer) | Self::Stock(answer) => put_result(answer, out, put_stock),
            Self::Claim(answer) => {
                put_result(answer, out, |prekey, out| out.extend_from_slice(&prekey.to_bytes()));
            }
            Self::ChannelRecord(answer) => {
                put_result(answer, out, |record, out| out.extend_from_slice(&record.to_bytes()));
            }
        }
    }

    fn take(frame_type: u8, reader: &mut Reader<'_>) -> Result<Self, LinkError> {
        if frame_type & ANSWER != ANSWER {
            return Err(LinkError::Type(frame_type));
        }
        Ok(match frame_type & !ANSWER {
            PUBLISH => Self::Publish(take_result(reader, Reader::u32)?),
            ENROL => Self::Enrol(take_result(reader, |reader| {
                let outcome = reader.u8()?;
                reader.zeros(1)?;
                match (outcome, reader.u16()?) {
                    (0, 0) => Ok(Enrolled::Created),
                    (1, 0) => Ok(Enrolled::Known),
                    (2, code @ 1..) => Ok(Enrolled::Refused(code)),
                    _ => Err(LinkError::Value),
                }
            })?),
            KEY_RECORD => Self::KeyRecord(take_result(reader, take_record)?),
            KEY_LOG => {
                let frame = reader.rest();
                let (inner, body) = take_inner(frame)?;
                match inner {
                    FrameType::KeyProof => of_agent(KeyProof::parse(body)).map(drop)?,
                    FrameType::KeyLeaves => of_agent(KeyLeaves::parse(body)).map(drop)?,
                    _ => return Err(LinkError::Value),
                }
                Self::KeyLog(frame.to_vec())
            }
            UPLOAD => Self::Upload(take_result(reader, take_stock)?),
            CLAIM => {
                Self::Claim(take_result(reader, |reader| Ok(Box::new(of_agent(SignedPrekey::parse(reader.rest()))?)))?)
            }
            STOCK => Self::Stock(take_result(reader, take_stock)?),
            CHANNEL_RECORD => Self::ChannelRecord(take_result(reader, |reader| {
                Ok(Box::new(of_agent(SignedChannelRecord::parse(reader.rest()))?))
            })?),
            _ => return Err(LinkError::Type(frame_type)),
        })
    }
}

/// `u16 code (0: granted) | u16 zero | u32 retry_after_ms`, and what was granted.
fn put_result<T>(answer: &Result<T, Refused>, out: &mut Vec<u8>, put: impl FnOnce(&T, &mut Vec<u8>)) {
    let (code, retry_after_ms) = match answer {
        Ok(_) => (0, 0),
        Err(refused) => (refused.code.as_u16(), refused.retry_after_ms),
    };
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&retry_after_ms.to_le_bytes());
    if let Ok(granted) = answer {
        put(granted, out);
    }
}

fn take_result<'a, T>(
    reader: &mut Reader<'a>,
    take: impl FnOnce(&mut Reader<'a>) -> Result<T, LinkError>,
) -> Result<Result<T, Refused>, LinkError> {
    let code = reader.u16()?;
    reader.zeros(2)?;
    match (code, reader.u32()?) {
        (0, 0) => take(reader).map(Ok),
        (0, _) => Err(LinkError::NotZero),
        (code, retry_after_ms) => {
            let code = RejectCode::from_u16(code).ok_or(LinkError::Value)?;
            Ok(Err(Refused { code, retry_after_ms }))
        }
    }
}

/// `u32 key_record_version | u32 one_time | u8 flags (1 last resort, 2 notice) | [7] zero`
fn put_stock(stock: &PrekeyStock, out: &mut Vec<u8>) {
    out.extend_from_slice(&stock.key_record_version.to_le_bytes());
    out.extend_from_slice(&stock.one_time.to_le_bytes());
    let flags = u8::from(stock.last_resort) | u8::from(stock.is_notice) << 1;
    out.extend_from_slice(&[flags, 0, 0, 0, 0, 0, 0, 0]);
}

fn take_stock(reader: &mut Reader<'_>) -> Result<PrekeyStock, LinkError> {
    let (key_record_version, one_time, flags) = (reader.u32()?, reader.u32()?, reader.u8()?);
    reader.zeros(7)?;
    if flags > 3 {
        return Err(LinkError::NotZero);
    }
    Ok(PrekeyStock { key_record_version, one_time, last_resort: flags & 1 != 0, is_notice: flags & 2 != 0 })
}

fn take_record(reader: &mut Reader<'_>) -> Result<Box<SignedKeyRecord>, LinkError> {
    Ok(Box::new(of_agent(SignedKeyRecord::parse(reader.rest()))?))
}

/// The ids of what is gone.
fn take_ids<'a>(reader: &mut Reader<'a>) -> Result<&'a [[u8; 16]], LinkError> {
    match reader.rest().as_chunks::<16>() {
        (ids, []) if ids.len() <= GONE_MAX => Ok(ids),
        _ => Err(LinkError::Length),
    }
}

fn take_domain(reader: &mut Reader<'_>, bytes: usize) -> Result<TrustDomain, LinkError> {
    TrustDomain::parse(reader.text(bytes)?).map_err(|_| LinkError::Value)
}

/// A whole frame of `docs/protocol.md`: its type and its body.
fn take_inner(bytes: &[u8]) -> Result<(FrameType, &[u8]), LinkError> {
    let (header, body) = bytes.split_first_chunk().ok_or(LinkError::Length)?;
    let header = of_agent(creto_envelope::FrameHeader::parse(header))?;
    if body.len() != header.body_bytes as usize {
        return Err(LinkError::Length);
    }
    Ok((header.frame_type, body))
}

/// What an agent's frame says of itself is checked by its own rules.
fn of_agent<T>(parsed: Result<T, RejectCode>) -> Result<T, LinkError> {
    parsed.map_err(|_| LinkError::Value)
}

fn cut(text: &str) -> &str {
    let mut bytes = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(bytes) {
        bytes -= 1;
    }
    &text[..bytes]
}
