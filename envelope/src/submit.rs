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
    /// When trying again may help, in units of 10 ms; zero when that is of no use, or at once.
    pub retry_after: u16,
}

impl SubmitResult {
    /// A result with the code's own [`retry_after_ms`](RejectCode::retry_after_ms).
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "no code asks for more than ten minutes")]
    pub const fn new(sequence: u64, index: u32, code: RejectCode) -> Self {
        let retry_after = code.retry_after_ms().div_ceil(10) as u16;
        Self { sequence, index, code: code.as_u16(), retry_after }
    }

    /// When trying again may help.
    #[must_use]
    pub const fn retry_after_ms(&self) -> u32 {
        self.retry_after as u32 * 10
    }
}

/// Every batch up to a sequence is answered: durable, but for the results listed here or in an earlier SubmitAck.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SubmitAck {
    /// The highest submit sequence that is answered, with all before it.
    pub through_sequence: u64,
    /// How long the node asks the sender to send nothing new, in milliseconds: its log is filling up. Zero: no wish.
    pub pause_ms: u32,
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
        out.extend_from_slice(&self.pause_ms.to_le_bytes());
        for result in &self.results {
            out.extend_from_slice(&result.sequence.to_le_bytes());
            out.extend_from_slice(&result.index.to_le_bytes());
            out.extend_from_slice(&result.code.to_le_bytes());
            out.extend_from_slice(&result.retry_after.to_le_bytes());
        }
        finish_frame(out, start, FrameType::SubmitAck);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let through_sequence = reader.u64()?;
        let count = reader.u32()? as usize;
        let pause_ms = reader.u32()?;
        if count > SUBMIT_RESULTS_MAX || reader.remaining() != count * 16 {
            return Err(RejectCode::FrameLength);
        }
        let mut results = Vec::with_capacity(count);
        for _ in 0..count {
            results.push(SubmitResult {
                sequence: reader.u64()?,
                index: reader.u32()?,
                code: reader.u16()?,
                retry_after: reader.u16()?,
            });
        }
        reader.end()?;
        Ok(Self { through_sequence, pause_ms, results })
    }
}
