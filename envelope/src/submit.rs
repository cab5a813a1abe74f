//! SubmitAck: what became of the batches of a submit stream.

use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::limits::SUBMIT_RESULTS_MAX;
use crate::reader::Reader;
use crate::reject::RejectCode;

/// Index that stands for every message of a batch.
pub const WHOLE_BATCH: u32 = u32::MAX;

/// One message, or one whole batch, that was not simply stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubmitResult {
    /// Submit sequence of its batch.
    pub sequence: u64,
    /// Index inside the batch, or [`WHOLE_BATCH`].
    pub index: u32,
    /// Number of its [`RejectCode`].
    pub code: u16,
}

/// Every batch up to a sequence is answered: durable, but for the results listed here or in an earlier SubmitAck.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SubmitAck {
    /// The highest submit sequence that is answered, with all before it.
    pub through_sequence: u64,
    /// What was refused, or was a duplicate.
    pub results: Vec<SubmitResult>,
}

impl SubmitAck {
    /// Appends the frame.
    ///
    /// # Panics
    /// Above [`SUBMIT_RESULTS_MAX`] results: the caller splits them over several frames.
    #[allow(clippy::cast_possible_truncation, reason = "asserted to be below SUBMIT_RESULTS_MAX")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.results.len() <= SUBMIT_RESULTS_MAX, "results are split over frames before they are encoded");
        let start = begin_frame(out, FrameType::SubmitAck);
        out.extend_from_slice(&self.through_sequence.to_le_bytes());
        out.extend_from_slice(&(self.results.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for result in &self.results {
            out.extend_from_slice(&result.sequence.to_le_bytes());
            out.extend_from_slice(&result.index.to_le_bytes());
            out.extend_from_slice(&result.code.to_le_bytes());
            out.extend_from_slice(&[0; 2]);
        }
        finish_frame(out, start, FrameType::SubmitAck);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let through_sequence = reader.u64()?;
        let count = reader.u32()? as usize;
        reader.zeros(4, RejectCode::FrameReserved)?;
        if count > SUBMIT_RESULTS_MAX || reader.remaining() != count * 16 {
            return Err(RejectCode::FrameLength);
        }
        let mut results = Vec::with_capacity(count);
        for _ in 0..count {
            let result = SubmitResult { sequence: reader.u64()?, index: reader.u32()?, code: reader.u16()? };
            reader.zeros(2, RejectCode::FrameReserved)?;
            results.push(result);
        }
        reader.end()?;
        Ok(Self { through_sequence, results })
    }
}
