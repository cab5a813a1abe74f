//! The frames about prekeys, on the control stream.
//!
//! Their answers say everything themselves: a Reject never answers one of them but for its form, so that answers about the
//! same agent, which may overtake each other, are not taken for each other.

use super::{PREKEY_BATCH_HEADER_BYTES, PrekeyBatch, SignedPrekey};
use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::id::AgentId;
use crate::limits::PREKEY_UPLOAD_BODY_BYTES_MAX;
use crate::reader::Reader;
use crate::reject::RejectCode;

/// Why something about prekeys was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrekeyRefusal {
    /// The number of a [`RejectCode`], never zero; it may be one that this version does not know.
    pub code: u16,
    /// When trying again may help, in milliseconds; zero when that will not.
    pub retry_after_ms: u32,
}

impl From<RejectCode> for PrekeyRefusal {
    fn from(code: RejectCode) -> Self {
        Self { code: code.as_u16(), retry_after_ms: code.retry_after_ms() }
    }
}

/// Appends a PrekeyUpload frame; [`PrekeyBatch::parse`] reads its body.
///
/// # Panics
/// As [`PrekeyBatch::to_bytes`].
pub fn encode_prekey_upload(out: &mut Vec<u8>, batch: &PrekeyBatch) {
    let start = begin_frame(out, FrameType::PrekeyUpload);
    out.extend_from_slice(&batch.to_bytes());
    finish_frame(out, start, FrameType::PrekeyUpload);
}

/// Answers a PrekeyUpload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrekeyUploaded {
    /// One-time prekeys that the node has of the agent now, all on its disk; or why it did not take the batch.
    pub answer: Result<u32, PrekeyRefusal>,
}

impl PrekeyUploaded {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::PrekeyUploaded);
        write_answer(out, self.answer.as_ref().err());
        out.extend_from_slice(&self.answer.unwrap_or_default().to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        finish_frame(out, start, FrameType::PrekeyUploaded);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let refusal = read_answer(&mut reader)?;
        let one_time = reader.u32()?;
        reader.zeros(4, RejectCode::FrameReserved)?;
        reader.end()?;
        match refusal {
            None => Ok(Self { answer: Ok(one_time) }),
            Some(_) if one_time != 0 => Err(RejectCode::FrameReserved),
            Some(refusal) => Ok(Self { answer: Err(refusal) }),
        }
    }
}

/// Asks for a prekey of an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrekeyClaim {
    /// Whose.
    pub agent: AgentId,
}

impl PrekeyClaim {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::PrekeyClaim);
        out.extend_from_slice(&self.agent.0);
        finish_frame(out, start, FrameType::PrekeyClaim);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let agent = AgentId(*reader.array()?);
        reader.end()?;
        Ok(Self { agent })
    }
}

/// Answers a PrekeyClaim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrekeyClaimed {
    /// Whose prekey it is.
    pub agent: AgentId,
    /// The prekey; a one-time one was marked on the node's disk before, and is handed out to nobody else.
    pub answer: Result<SignedPrekey, PrekeyRefusal>,
}

impl PrekeyClaimed {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::PrekeyClaimed);
        out.extend_from_slice(&self.agent.0);
        write_answer(out, self.answer.as_ref().err());
        if let Ok(prekey) = &self.answer {
            out.extend_from_slice(&prekey.to_bytes());
        }
        finish_frame(out, start, FrameType::PrekeyClaimed);
    }

    /// Parses the body. Neither path nor signatures are verified here.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let agent = AgentId(*reader.array()?);
        let answer = match read_answer(&mut reader)? {
            Some(refusal) => Err(refusal),
            None => Ok(SignedPrekey::parse(reader.take(reader.remaining())?)?),
        };
        reader.end()?;
        Ok(Self { agent, answer })
    }
}

/// Asks what the node has of the prekeys of the agent that is logged in. Its body is eight zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PrekeyStockRequest;

impl PrekeyStockRequest {
    /// Appends the frame.
    pub fn encode(self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::PrekeyStockRequest);
        out.extend_from_slice(&[0; 8]);
        finish_frame(out, start, FrameType::PrekeyStockRequest);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        reader.zeros(8, RejectCode::FrameReserved)?;
        reader.end()?;
        Ok(Self)
    }
}

/// What the node has of an agent's prekeys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PrekeyStock {
    /// The version of the key record that they belong to; zero when there are none of the current one.
    pub key_record_version: u32,
    /// One-time prekeys that are left.
    pub one_time: u32,
    /// Whether there is one of last resort.
    pub last_resort: bool,
    /// Nobody asked: there are fewer than the node wants.
    pub is_notice: bool,
}

/// Answers a PrekeyStockRequest, or tells the owner unasked that its prekeys become few.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrekeyStockTold {
    /// What there is, or why the node cannot say.
    pub answer: Result<PrekeyStock, PrekeyRefusal>,
}

impl PrekeyStockTold {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::PrekeyStock);
        write_answer(out, self.answer.as_ref().err());
        let stock = self.answer.unwrap_or_default();
        out.extend_from_slice(&stock.key_record_version.to_le_bytes());
        out.extend_from_slice(&stock.one_time.to_le_bytes());
        out.extend_from_slice(&[u8::from(stock.last_resort), u8::from(stock.is_notice), 0, 0, 0, 0, 0, 0]);
        finish_frame(out, start, FrameType::PrekeyStock);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let refusal = read_answer(&mut reader)?;
        let (key_record_version, one_time) = (reader.u32()?, reader.u32()?);
        let mut flag = || match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RejectCode::FrameReserved),
        };
        let (last_resort, is_notice) = (flag()?, flag()?);
        reader.zeros(6, RejectCode::FrameReserved)?;
        reader.end()?;
        let stock = PrekeyStock { key_record_version, one_time, last_resort, is_notice };
        match refusal {
            None => Ok(Self { answer: Ok(stock) }),
            Some(_) if stock != PrekeyStock::default() => Err(RejectCode::FrameReserved),
            Some(refusal) => Ok(Self { answer: Err(refusal) }),
        }
    }
}

/// Code, zeros, time to wait: all zero when the answer is yes.
fn write_answer(out: &mut Vec<u8>, refusal: Option<&PrekeyRefusal>) {
    let (code, retry_after_ms) = refusal.map_or((0, 0), |refusal| (refusal.code, refusal.retry_after_ms));
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&retry_after_ms.to_le_bytes());
}

fn read_answer(reader: &mut Reader<'_>) -> Result<Option<PrekeyRefusal>, RejectCode> {
    let code = reader.u16()?;
    reader.zeros(2, RejectCode::FrameReserved)?;
    match (code, reader.u32()?) {
        (0, 0) => Ok(None),
        (0, _) => Err(RejectCode::FrameReserved),
        (code, retry_after_ms) => Ok(Some(PrekeyRefusal { code, retry_after_ms })),
    }
}

const _: () = assert!(
    PREKEY_BATCH_HEADER_BYTES + super::PREKEY_BYTES * crate::limits::PREKEYS_PER_BATCH_MAX
        == PREKEY_UPLOAD_BODY_BYTES_MAX
);
