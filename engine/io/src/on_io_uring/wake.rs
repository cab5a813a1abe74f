//! How others wake a shard that rests in its ring: an eventfd, which the ring polls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::Wake;

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd. As a waker it is written to, from any thread.
#[derive(Debug)]
pub(super) struct EventFd(OwnedFd);

impl EventFd {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    #[allow(clippy::host_endian_bytes, reason = "the kernel takes a number of its own byte order")]
    pub(super) fn write(&self) {
        // It only fails when the counter is about to overflow, and then the shard is being woken already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes all that was written, so that a poll waits again.
    pub(super) fn clear(&self) {
        // It would block when nothing was written, which is as clear.
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Wake for EventFd {
    fn wake(self: Arc<Self>) {
        self.write();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.write();
    }
}
