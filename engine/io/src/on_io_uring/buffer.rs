//! Memory for O_DIRECT that is used again: a group commit a millisecond needs as many buffers, and memory that is new to the process
//! costs a page fault for each block.

use std::cell::RefCell;
use std::rc::Rc;

use crate::aligned::AlignedBuffer;

/// Buffers that wait for their next use.
const KEPT_MAX: usize = 8;
/// Bytes of the largest buffer that is kept: a full group commit.
const KEPT_BYTES_MAX: usize = 2 << 20;
/// A buffer is used for what needs at least this part of it.
const WASTE_MAX: usize = 4;
/// Bytes of the smallest that is made.
const BYTES_MIN: usize = 64 << 10;

/// Where buffers come from and go back to.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool(Rc<RefCell<Vec<AlignedBuffer>>>);

impl Pool {
    /// A buffer of so many bytes, whatever they are.
    pub(super) fn take(&self, bytes: usize) -> Buffer {
        let mut kept = self.0.borrow_mut();
        // Not one that is far too large: it is what the next group commit wants.
        let fits = |buffer: &AlignedBuffer| (bytes..=WASTE_MAX * bytes.max(BYTES_MIN)).contains(&buffer.len());
        let smallest =
            kept.iter().enumerate().filter(|(_, buffer)| fits(buffer)).min_by_key(|(_, buffer)| buffer.len());
        let memory = match smallest.map(|(place, _)| place) {
            Some(place) => kept.swap_remove(place),
            None if bytes > KEPT_BYTES_MAX => AlignedBuffer::new(bytes),
            None => AlignedBuffer::new(bytes.max(BYTES_MIN).next_power_of_two()),
        };
        Buffer { memory: Some(memory), bytes, pool: self.clone() }
    }

    /// Buffers that wait for their next use.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.0.borrow().len()
    }

    fn give_back(&self, memory: AlignedBuffer) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT_MAX && memory.len() <= KEPT_BYTES_MAX {
            kept.push(memory);
        }
    }
}

/// A buffer that goes back to its pool.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Option<AlignedBuffer>,
    bytes: usize,
    pool: Pool,
}

impl Buffer {
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().expect("it is there until the buffer is dropped").bytes(self.bytes)
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().expect("it is there until the buffer is dropped").bytes_mut(self.bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give_back(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_that_fits_is_used_again_and_no_more_than_a_few_are_kept() {
        let pool = Pool::default();
        let place = |buffer: &Buffer| buffer.bytes().as_ptr() as usize;
        let (small, large) = (pool.take(4_096), pool.take(1 << 20));
        let places = (place(&small), place(&large));
        assert!(places.0.is_multiple_of(4_096) && places.1.is_multiple_of(4_096), "as O_DIRECT demands");
        drop((large, small));
        let (small, large) = (pool.take(8_192), pool.take(500_000));
        assert_eq!(
            (place(&small), place(&large), small.bytes().len(), large.bytes().len()),
            (places.0, places.1, 8_192, 500_000)
        );
        drop((small, large));
        let many: Vec<Buffer> = (0..20).map(|_| pool.take(4_096)).collect();
        drop(many);
        assert_eq!(pool.kept(), KEPT_MAX);
        drop(pool.take(4 << 20));
        assert!(pool.0.borrow().iter().all(|kept| kept.len() <= KEPT_BYTES_MAX), "the largest are not kept");
    }
}
