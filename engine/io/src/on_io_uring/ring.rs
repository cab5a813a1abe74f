//! One io_uring, and what is under way in it. The only file of the driver that hands memory to the kernel.
//!
//! Whatever the kernel reads or writes belongs to a slot until its completion was taken: also when nobody waits for it any more,
//! and when the ring itself is dropped.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{Builder, IoUring, opcode, squeue};

use super::buffer::Buffer;

/// What is asked of the kernel. Everything that it needs is owned here.
#[derive(Debug)]
pub(super) enum Operation {
    Write { file: Rc<File>, buffer: Rc<Buffer>, offset: u64 },
    Read { file: Rc<File>, buffer: Buffer, offset: u64 },
    Fdatasync { file: Rc<File> },
    Reserve { file: Rc<File>, bytes: u64 },
}

impl Operation {
    fn entry(&mut self) -> squeue::Entry {
        let length = |bytes: usize| u32::try_from(bytes).expect("a buffer has far less than 4 GiB");
        match self {
            Self::Write { file, buffer, offset } => {
                let bytes = buffer.bytes();
                opcode::Write::new(Fd(file.as_raw_fd()), bytes.as_ptr(), length(bytes.len())).offset(*offset).build()
            }
            Self::Read { file, buffer, offset } => {
                let bytes = buffer.bytes_mut();
                opcode::Read::new(Fd(file.as_raw_fd()), bytes.as_mut_ptr(), length(bytes.len())).offset(*offset).build()
            }
            Self::Fdatasync { file } => opcode::Fsync::new(Fd(file.as_raw_fd())).flags(FsyncFlags::DATASYNC).build(),
            Self::Reserve { file, bytes } => opcode::Fallocate::new(Fd(file.as_raw_fd()), *bytes).build(),
        }
    }
}

/// What was polled is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Socket,
    Event,
}

/// Names an operation until its result was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotId(usize);

#[derive(Debug)]
enum Slot {
    Free,
    /// With the kernel. Whoever asked may have gone.
    UnderWay {
        operation: Operation,
        is_wanted: bool,
    },
    /// Answered, and not taken.
    Done {
        operation: Operation,
        result: i32,
    },
}

const SOCKET: u64 = u64::MAX;
const EVENT: u64 = u64::MAX - 1;

/// A ring of one thread.
pub(crate) struct Ring {
    uring: IoUring,
    slots: Vec<Slot>,
    free: Vec<usize>,
    under_way: usize,
}

impl Ring {
    /// Makes a ring with room for so many submissions at a time.
    ///
    /// # Errors
    /// The kernel refuses: it is too old, a sandbox forbids it, or there is no memory.
    pub(crate) fn new(entries: usize) -> io::Result<Self> {
        match Self::deferring(entries) {
            // Linux before 6.1 knows less; it only costs more.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Self::plain(entries),
            made => made,
        }
    }

    /// A ring whose completions are made when its thread enters the kernel.
    fn deferring(entries: usize) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        Self::build(&mut builder, entries)
    }

    /// A ring as every kernel has it, whose completions may interrupt its thread.
    fn plain(entries: usize) -> io::Result<Self> {
        Self::build(&mut IoUring::builder(), entries)
    }

    fn build(builder: &mut Builder, entries: usize) -> io::Result<Self> {
        let uring = builder.setup_clamp().build(u32::try_from(entries).unwrap_or(u32::MAX))?;
        let features = uring.params();
        if !features.is_feature_ext_arg() || !features.is_feature_nodrop() {
            let old = "this kernel's io_uring cannot wait for a time: Linux 5.11 or later is needed, or `[engine] driver = \"glommio\"`";
            return Err(io::Error::new(io::ErrorKind::Unsupported, old));
        }
        Ok(Self { uring, slots: Vec::new(), free: Vec::new(), under_way: 0 })
    }

    /// Waits once, for a moment: a sandbox may allow to make a ring and forbid to use it.
    pub(super) fn try_out(&mut self) -> io::Result<()> {
        let limit = Timespec::from(Duration::from_micros(1));
        match self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit)) {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Submits an operation with the next [`Ring::enter`].
    pub(super) fn start(&mut self, mut operation: Operation) -> io::Result<SlotId> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        let entry = operation.entry().user_data(place as u64);
        // Before the entry is in the queue: from then on the kernel may use its memory. Moving it moves no heap.
        self.slots[place] = Slot::UnderWay { operation, is_wanted: true };
        self.under_way += 1;
        match self.push(&entry) {
            Ok(()) => Ok(SlotId(place)),
            Err(error) => {
                self.release(place);
                self.under_way -= 1;
                Err(error)
            }
        }
    }

    /// The result of an operation, with its memory, once it is there. The slot is free then.
    pub(super) fn take(&mut self, id: SlotId) -> Option<(i32, Operation)> {
        if !matches!(self.slots[id.0], Slot::Done { .. }) {
            return None;
        }
        let Slot::Done { operation, result } = self.release(id.0) else { unreachable!("it was looked at above") };
        Some((result, operation))
    }

    /// Nobody waits for this any more. Its memory stays the kernel's until it has answered.
    pub(super) fn abandon(&mut self, id: SlotId) {
        match &mut self.slots[id.0] {
            Slot::UnderWay { is_wanted, .. } => *is_wanted = false,
            Slot::Done { .. } => drop(self.release(id.0)),
            Slot::Free => unreachable!("a slot is free only after it was taken or abandoned"),
        }
    }

    /// Asks to be told once when there is something to read. The descriptor stays open as long as the ring.
    pub(super) fn poll(&mut self, what: Ready, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let tag = match what {
            Ready::Socket => SOCKET,
            Ready::Event => EVENT,
        };
        let readable = u32::from(libc::POLLIN.cast_unsigned());
        let entry = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), readable).build().user_data(tag);
        self.push(&entry)
    }

    /// Whether something was asked and not submitted.
    pub(super) fn has_submissions(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// Submits what was asked. With `longest` it waits for a completion, but not longer; there may be none.
    pub(super) fn enter(&mut self, longest: Option<Duration>) -> io::Result<()> {
        let answered = !self.uring.completion().is_empty();
        let entered = match longest {
            Some(longest) if !answered => {
                let limit = Timespec::from(longest);
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit))
            }
            _ => {
                let submissions = self.uring.submission();
                // Completions are made when the kernel is entered; it says in a flag that it has some.
                if submissions.is_empty() && !submissions.taskrun() && !submissions.cq_overflow() {
                    return Ok(());
                }
                drop(submissions);
                self.uring.submit()
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes every completion that is there, and says which polls are over. True when an operation was answered.
    pub(super) fn take_completions(&mut self, mut ready: impl FnMut(Ready)) -> bool {
        let mut answered = false;
        let Self { uring, slots, free, under_way } = self;
        for completion in uring.completion() {
            match completion.user_data() {
                // A poll that failed is over as well: whoever waits looks for himself.
                SOCKET => ready(Ready::Socket),
                EVENT => ready(Ready::Event),
                tag => {
                    let place = usize::try_from(tag).expect("a tag is a place");
                    *under_way -= 1;
                    match std::mem::replace(&mut slots[place], Slot::Free) {
                        Slot::UnderWay { operation, is_wanted: true } => {
                            slots[place] = Slot::Done { operation, result: completion.result() };
                            answered = true;
                        }
                        Slot::UnderWay { is_wanted: false, .. } => free.push(place),
                        Slot::Free | Slot::Done { .. } => unreachable!("the kernel answers what it was asked, once"),
                    }
                }
            }
        }
        answered
    }

    fn release(&mut self, place: usize) -> Slot {
        self.free.push(place);
        std::mem::replace(&mut self.slots[place], Slot::Free)
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // JUSTIFICATION: the only way into a ring.
            // SAFETY: what the entry points to belongs to a slot until its completion was taken (`start`, `take_completions`,
            // and `drop`, which waits for all of them), its descriptors are open as long: those of operations are in the slot, the
            // two that are polled are the reactor's, which outlives its ring.
            let pushed = unsafe { self.uring.submission().push(entry) };
            if pushed.is_ok() {
                return Ok(());
            }
            // Full: the kernel takes all of it, now or when it has room again.
            match self.uring.submit() {
                Err(error) if !is_passing(&error) => return Err(error),
                _ => {}
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for slot in &mut self.slots {
            if let Slot::UnderWay { is_wanted, .. } = slot {
                *is_wanted = false;
            }
        }
        while self.under_way > 0 {
            let waited = self.uring.submit_and_wait(1);
            self.take_completions(|_| {});
            if let Err(error) = waited
                && !is_passing(&error)
            {
                // The kernel may still write to this memory: it must never be anybody else's.
                std::mem::forget(std::mem::take(&mut self.slots));
                return;
            }
        }
    }
}

/// Whether the kernel will answer otherwise the next time: the time is over; a signal came; there is no memory, or no room for
/// completions, and taking some makes it.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM))
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
