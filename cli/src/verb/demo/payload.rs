//! What the demo's messages say: made bytes, or the lines of a file.

use std::path::Path;

use bytes::Bytes;

use crate::exit::{Exit, Failure};
use crate::terminal::grouped;

/// Largest payload of a message.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Largest file of payloads: it is held in memory.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Where payloads come from. Message `k` has the same payload however often it is asked for.
#[derive(Debug)]
pub(super) enum Payloads {
    /// Bytes that do not compress, different in every message.
    Made {
        /// Two runs have different bytes.
        seed: u64,
        /// Size of each.
        payload_bytes: usize,
    },
    /// The lines of a file, from the first again after the last.
    Lines(Vec<Bytes>),
}

impl Payloads {
    /// The lines of the file at `path`, without their line ends; empty ones are no messages.
    pub(super) fn from_file(path: &Path) -> Result<Self, Failure> {
        let file_bytes = std::fs::metadata(path).map_err(|error| Failure::file("read", path, &error))?.len();
        if file_bytes > FILE_BYTES_MAX {
            let what = format!("{} has {} bytes, the demo holds at most 1 GiB", path.display(), grouped(file_bytes));
            return Err(Failure::new(Exit::Usage, what, "give it a part: head -n 100000 FILE > part.jsonl"));
        }
        let content = Bytes::from(std::fs::read(path).map_err(|error| Failure::file("read", path, &error))?);
        let mut lines = Vec::new();
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            if line.len() > PAYLOAD_BYTES_MAX {
                let what = format!("line {} of {} is longer than 1 MiB", index + 1, path.display());
                return Err(Failure::new(Exit::Usage, what, "store it elsewhere and send a reference"));
            }
            if !line.is_empty() {
                lines.push(content.slice_ref(line));
            }
        }
        if lines.is_empty() {
            let what = format!("{} has no line to send", path.display());
            return Err(Failure::new(Exit::Usage, what, "give a file with one payload per line"));
        }
        Ok(Self::Lines(lines))
    }

    /// The payload of message `number`.
    pub(super) fn get(&self, number: u64) -> Bytes {
        match self {
            Self::Made { seed, payload_bytes } => made(*seed, number, *payload_bytes),
            Self::Lines(lines) => {
                let count = lines.len() as u64;
                lines[usize::try_from(number % count).expect("below the number of lines")].clone()
            }
        }
    }

    /// How many different ones a file gives.
    pub(super) fn line_count(&self) -> Option<u64> {
        match self {
            Self::Made { .. } => None,
            Self::Lines(lines) => Some(lines.len() as u64),
        }
    }

    /// Size of the smallest and the largest.
    pub(super) fn bytes_range(&self) -> (usize, usize) {
        match self {
            Self::Made { payload_bytes, .. } => (*payload_bytes, *payload_bytes),
            Self::Lines(lines) => {
                let sizes = || lines.iter().map(Bytes::len);
                (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0))
            }
        }
    }
}

fn made(seed: u64, number: u64, payload_bytes: usize) -> Bytes {
    let mut state = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = (0..payload_bytes.div_ceil(8)).flat_map(|_| split_mix(&mut state).to_le_bytes());
    words.take(payload_bytes).collect()
}

/// SplitMix64: the next number of a sequence that looks random, and is the same for the same start.
pub(super) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn made_payloads_have_their_size_differ_and_repeat() {
        let payloads = Payloads::Made { seed: 7, payload_bytes: 21 };
        let all: HashSet<_> = (0..1_000).map(|number| payloads.get(number)).collect();
        assert_eq!(all.len(), 1_000);
        assert!(all.iter().all(|payload| payload.len() == 21));
        assert_eq!(payloads.get(5), payloads.get(5));
        assert!(Payloads::Made { seed: 0, payload_bytes: 0 }.get(0).is_empty());
    }

    #[test]
    fn lines_come_round_again_and_empty_ones_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines.jsonl");
        std::fs::write(&path, "{\"a\":1}\n\n{\"b\":22}\r\n{\"c\":3}").unwrap();
        let payloads = Payloads::from_file(&path).unwrap();
        assert_eq!(payloads.line_count(), Some(3));
        assert_eq!(payloads.get(4), "{\"b\":22}\r");
        assert_eq!(payloads.bytes_range(), (7, 9));
        std::fs::write(&path, "\n\n").unwrap();
        assert!(Payloads::from_file(&path).is_err());
    }
}
