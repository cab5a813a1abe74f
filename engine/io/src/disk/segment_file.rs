//! One open segment file, and the sync that several writes to it share.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::error::DiskError;
use crate::files::Files;

/// A segment's file. Writes to it may be under way at the same time; they are made durable together.
///
/// A sync covers every write that had landed before it began, so whoever finds one under way waits for the next, which
/// covers all who wait. One at a time: the kernel reports a failed write-back to one sync of a file only, so with two at a
/// time, one of them could say yes to what the other has just learned is lost. After a failure no sync succeeds any more.
pub(super) struct SegmentFile<F: Files> {
    file: F::File,
    /// Writes that have landed since the file was opened.
    landed: Cell<u64>,
    /// As many of them as a sync has covered.
    synced: Cell<u64>,
    is_syncing: Cell<bool>,
    failed: RefCell<Option<DiskError>>,
    waiting: RefCell<Vec<Waker>>,
}

impl<F: Files> SegmentFile<F> {
    pub(super) fn new(file: F::File) -> Self {
        Self {
            file,
            landed: Cell::new(0),
            synced: Cell::new(0),
            is_syncing: Cell::new(false),
            failed: RefCell::default(),
            waiting: RefCell::default(),
        }
    }

    pub(super) fn file(&self) -> &F::File {
        &self.file
    }

    /// Makes a write durable that has just landed.
    pub(super) async fn make_durable(&self, system: &F) -> Result<(), DiskError> {
        let mine = self.landed.get() + 1;
        self.landed.set(mine);
        loop {
            if let Some(error) = &*self.failed.borrow() {
                return Err(error.clone());
            }
            if self.synced.get() >= mine {
                return Ok(());
            }
            if self.is_syncing.get() {
                self.sync_ended().await;
            } else {
                self.sync(system).await;
            }
        }
    }

    async fn sync(&self, system: &F) {
        self.is_syncing.set(true);
        let covers = self.landed.get();
        let result = system.fdatasync(&self.file).await;
        self.is_syncing.set(false);
        match result {
            Ok(()) => self.synced.set(covers),
            Err(error) => {
                self.failed.replace(Some(error));
            }
        }
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits until the sync that is under way has ended.
    async fn sync_ended(&self) {
        let mut registered = false;
        poll_fn(|cx| {
            if registered {
                return Poll::Ready(());
            }
            registered = true;
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
