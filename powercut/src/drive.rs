//! A drive with a volatile cache, in memory: what it was given is readable at once and durable after the next flush. When
//! its power is cut, anything else may be left of what was not flushed.
//!
//! It promises no more than a drive does: 512-byte sectors are whole, and nothing is known of their order. It knows
//! nothing of files, kernels or time; chance comes from a seed.

use std::collections::VecDeque;
use std::ops::Range;

/// What a drive writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// A cache that holds more than this makes room: what came first becomes durable.
pub const CACHE_BYTES_MAX: usize = 64 << 20;

/// What is left of the writes that no flush covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// One of the following, by the seed.
    Any,
    /// Nothing.
    Nothing,
    /// The first so many in the order in which they came, and some sectors of the next one.
    First,
    /// Each as it falls: whole, cut off at some sector, or not at all.
    Writes,
    /// Each sector as it falls.
    Sectors,
}

/// When the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// After so many further requests; that one is answered with an error, and if it is a write, sectors of it may stay.
    pub after_requests: u32,
    /// What stays.
    pub keep: Keep,
    /// Decides what else is left to chance.
    pub seed: u64,
}

/// The drive has no power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPower;

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes taken.
    pub writes: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// Requests refused for lack of power.
    pub refused: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Cuts that met writes which no flush covered.
    pub cuts_with_unflushed: u64,
    /// Sectors that were written, not flushed, and are gone.
    pub sectors_lost: u64,
    /// Sectors that were written, not flushed, and are there all the same.
    pub sectors_kept: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    /// It fails when this many more requests have come.
    Failing(u32, Keep, u64),
    Off(Keep, u64),
}

struct Write {
    at: usize,
    bytes: Vec<u8>,
}

impl Write {
    fn range(&self) -> Range<usize> {
        self.at..self.at + self.bytes.len()
    }
}

/// See the module.
pub struct Drive {
    /// What a read shows while there is power.
    seen: Vec<u8>,
    /// What is left when there was none.
    durable: Vec<u8>,
    /// Written and not flushed, in order.
    cache: VecDeque<Write>,
    cache_bytes: usize,
    power: Power,
    counts: Counts,
}

impl Drive {
    /// A drive of zeros. Memory is only taken for what is written.
    ///
    /// # Panics
    /// When `bytes` is not whole sectors.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        assert!(bytes.is_multiple_of(SECTOR_BYTES), "a drive has whole sectors");
        let (seen, durable) = (vec![0; bytes], vec![0; bytes]);
        Self { seen, durable, cache: VecDeque::new(), cache_bytes: 0, power: Power::On, counts: Counts::default() }
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.seen.len()
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether it answers with errors.
    #[must_use]
    pub fn is_off(&self) -> bool {
        matches!(self.power, Power::Off(..))
    }

    /// Reads what was written last, flushed or not. A range beyond the end gives what there is.
    ///
    /// # Errors
    /// [`NoPower`].
    pub fn read(&mut self, at: u64, bytes: usize) -> Result<&[u8], NoPower> {
        self.request()?;
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(self.seen.len());
        let to = from.saturating_add(bytes).min(self.seen.len());
        Ok(&self.seen[from..to])
    }

    /// Takes a write into the cache; gives how many bytes fit on the drive.
    ///
    /// # Errors
    /// [`NoPower`]; if it fails at this very write, some of its sectors may stay.
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result<usize, NoPower> {
        let was_on = !self.is_off();
        let power = self.request();
        if power.is_err() && !was_on {
            return Err(NoPower);
        }
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(self.seen.len());
        let taken = bytes.len().min(self.seen.len() - from);
        self.seen[from..from + taken].copy_from_slice(&bytes[..taken]);
        self.cache_bytes += taken;
        self.cache.push_back(Write { at: from, bytes: bytes[..taken].to_vec() });
        while self.cache_bytes > CACHE_BYTES_MAX {
            self.settle_first();
        }
        power?;
        self.counts.writes += 1;
        Ok(taken)
    }

    /// Makes everything durable that was written before.
    ///
    /// # Errors
    /// [`NoPower`]; nothing became durable by it then.
    pub fn flush(&mut self) -> Result<(), NoPower> {
        self.request()?;
        while !self.cache.is_empty() {
            self.settle_first();
        }
        self.counts.flushes += 1;
        Ok(())
    }

    /// Cuts the power, now or some requests later.
    pub fn cut(&mut self, cut: Cut) {
        if self.is_off() {
            return;
        }
        match cut.after_requests {
            0 => self.fail(cut.keep, cut.seed),
            requests => self.power = Power::Failing(requests, cut.keep, cut.seed),
        }
    }

    /// Gives the power back: what was not flushed is there or not, as it falls, and stays so.
    pub fn restore(&mut self) {
        let Power::Off(keep, seed) = self.power else { return };
        self.power = Power::On;
        let mut random = Random(seed);
        let keep = match keep {
            Keep::Any => [Keep::Nothing, Keep::First, Keep::Writes, Keep::Sectors][random.below(4)],
            one => one,
        };
        self.counts.cuts_with_unflushed += u64::from(!self.cache.is_empty());
        let whole = random.below(self.cache.len() + 1);
        // Some cuts leave nearly all, others nearly nothing.
        let share = random.below(1_001);
        for (index, write) in std::mem::take(&mut self.cache).into_iter().enumerate() {
            let sectors = write.bytes.len().div_ceil(SECTOR_BYTES);
            // Up to which sector the writes stay that lose their end.
            let end = match keep {
                Keep::Any | Keep::Nothing => 0,
                Keep::First if index < whole => sectors,
                Keep::First if index == whole => random.below(sectors + 1),
                Keep::First => 0,
                Keep::Writes => [0, random.below(sectors + 1), sectors][random.below(3)],
                Keep::Sectors => sectors,
            };
            for (sector, bytes) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                let at = write.at + sector * SECTOR_BYTES;
                let stays = sector < end && (keep != Keep::Sectors || random.below(1_000) < share);
                if stays {
                    self.durable[at..at + bytes.len()].copy_from_slice(bytes);
                    self.counts.sectors_kept += 1;
                } else {
                    self.counts.sectors_lost += 1;
                }
            }
            // An earlier write to the same place may have stayed where this one is gone: what is durable now is shown
            // once all have been looked at, so a place that was written twice is copied twice, and is right at the end.
            let range = write.range();
            self.seen[range.clone()].copy_from_slice(&self.durable[range]);
        }
        self.cache_bytes = 0;
    }

    /// Counts one request; an error from the one at which the power fails.
    fn request(&mut self) -> Result<(), NoPower> {
        match self.power {
            Power::On => return Ok(()),
            Power::Failing(left, keep, seed) if left > 1 => {
                self.power = Power::Failing(left - 1, keep, seed);
                return Ok(());
            }
            Power::Failing(_, keep, seed) => self.fail(keep, seed),
            Power::Off(..) => {}
        }
        self.counts.refused += 1;
        Err(NoPower)
    }

    fn fail(&mut self, keep: Keep, seed: u64) {
        self.power = Power::Off(keep, seed);
        self.counts.cuts += 1;
    }

    fn settle_first(&mut self) {
        let Some(write) = self.cache.pop_front() else { return };
        self.cache_bytes -= write.bytes.len();
        self.durable[write.range()].copy_from_slice(&write.bytes);
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Below `bound`, which is small against 2^64.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
