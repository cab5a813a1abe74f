//! Who goes first: a group commit before the zeros of a segment that is being made.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::limits::{ZERO_FILL_BYTES, ZERO_FILL_BYTES_BEHIND, ZERO_FILL_PER_BYTE};

/// What a shard writes to its log, as whoever fills a new segment looks at it.
///
/// While no commit is under way, the filler writes as fast as the disk takes it, a piece at a time. While one is, it waits
/// for its end, unless it fell behind: for each byte of the log it may have written [`ZERO_FILL_PER_BYTE`] zeros. A segment
/// is begun when the current one is half full, so at twice the log's rate it would be done just in time.
#[derive(Debug, Default)]
pub(super) struct Pace {
    writes: Cell<usize>,
    bytes_written: Cell<u64>,
    filler: RefCell<Option<Waker>>,
}

impl Pace {
    pub(super) fn write_begins(&self) {
        self.writes.set(self.writes.get() + 1);
    }

    pub(super) fn write_ended(&self, bytes: u64) {
        self.writes.set(self.writes.get() - 1);
        self.bytes_written.set(self.bytes_written.get() + bytes);
        let filler = self.filler.borrow_mut().take();
        if let Some(filler) = filler {
            filler.wake();
        }
    }

    /// Bytes of the log written so far.
    pub(super) fn bytes_written(&self) -> u64 {
        self.bytes_written.get()
    }

    /// Waits until zeros are in nobody's way, and says how many may go in one piece. `begun_at` is [`Pace::bytes_written`]
    /// when the filling began, `filled` how many zeros were written since.
    pub(super) async fn filler_may_go(&self, begun_at: u64, filled: u64) -> usize {
        poll_fn(|cx| {
            let due = (self.bytes_written.get() - begun_at).saturating_mul(ZERO_FILL_PER_BYTE);
            if due.saturating_sub(filled) >= ZERO_FILL_BYTES_BEHIND as u64 {
                return Poll::Ready(ZERO_FILL_BYTES_BEHIND);
            }
            if self.writes.get() == 0 || filled < due {
                return Poll::Ready(ZERO_FILL_BYTES);
            }
            self.filler.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn zeros_wait_for_commits_until_they_fall_behind_and_then_go_in_larger_pieces() {
        let pace = Pace::default();
        let may_go = |filled| match pin!(pace.filler_may_go(0, filled)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(bytes) => Some(bytes),
            Poll::Pending => None,
        };
        assert_eq!(may_go(0), Some(ZERO_FILL_BYTES), "no commit is under way");
        pace.write_begins();
        assert_eq!(may_go(0), None, "a commit goes first");
        pace.write_ended(64 << 10);
        pace.write_begins();
        assert_eq!(may_go(0), Some(ZERO_FILL_BYTES), "a little behind");
        assert_eq!(may_go(ZERO_FILL_PER_BYTE * (64 << 10)), None, "not any more");
        pace.write_ended(1 << 20);
        pace.write_begins();
        assert_eq!(may_go(0), Some(ZERO_FILL_BYTES_BEHIND), "far behind");
    }
}
