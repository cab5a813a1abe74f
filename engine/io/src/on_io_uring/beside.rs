//! The thread beside a shard, for what the kernel can only do blocking: renames, deletions, syncs of a folder.

use std::io;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, bounded};

use crate::limits::DISK_OPERATIONS_MAX;

type Work = Box<dyn FnOnce() + Send>;

/// Carries out one piece of work after the other; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Beside {
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Beside {
    /// Starts the thread. It may run wherever the calling thread may, so it is started before that is pinned.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub(crate) fn start(shard_index: u16) -> io::Result<Self> {
        // Each disk operation waits for one piece of work at most.
        let (work, works) = bounded::<Work>(DISK_OPERATIONS_MAX);
        let run = move || works.into_iter().for_each(|work| work());
        let thread = std::thread::Builder::new().name(format!("creto-files-{shard_index}")).spawn(run)?;
        Ok(Self { work: Some(work), thread: Some(thread) })
    }

    pub(super) fn send(&self, work: Work) {
        let sender = self.work.as_ref().expect("it takes work until it is dropped");
        assert!(sender.try_send(work).is_ok(), "no more work than disk operations, and the thread lives");
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed by its own thread, and whoever waited for its work has waited in vain.
            let _ = thread.join();
        }
    }
}
