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
    /// Syncs that were begun.
    syncs: Cell<u64>,
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
            syncs: Cell::new(0),
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
        self.syncs.set(self.syncs.get() + 1);
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

    /// Waits until the sync that is under way has ended. It may be asked again and again before.
    async fn sync_ended(&self) {
        let begun = self.syncs.get();
        poll_fn(|cx| {
            if !self.is_syncing.get() || self.syncs.get() != begun {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
