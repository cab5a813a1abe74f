//! What a shard does between two turns: its tasks, its ring, and waiting.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::beside::Beside;
use super::buffer::Pool;
use super::ring::{Operation, Ready, Ring, SlotId};
use super::wake::EventFd;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks of a shard's disk and the ring that they wait for. Bounded: a disk has at most
/// [`crate::limits::DISK_OPERATIONS_MAX`] tasks, and each waits for one thing.
#[derive(Clone)]
pub(super) struct Reactor(Rc<Inner>);

struct Inner {
    // Dropped first: what it polls is below.
    ring: RefCell<Ring>,
    tasks: RefCell<Vec<Task>>,
    /// Spawned since the tasks were last polled, maybe by one of them.
    spawned: RefCell<Vec<Task>>,
    stir: Arc<Stir>,
    waker: Waker,
    beside: Beside,
    event: Arc<EventFd>,
    socket: OwnedFd,
    event_is_polled: Cell<bool>,
    socket_is_polled: Cell<bool>,
    buffers: Pool,
}

/// Says that a task may go on. There are so few of them that all are looked at then.
#[derive(Debug, Default)]
struct Stir(AtomicBool);

impl Stir {
    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Stir {
    fn wake(self: Arc<Self>) {
        self.set();
    }
}

impl Reactor {
    pub(super) fn new(ring: Ring, beside: Beside, event: Arc<EventFd>, socket: OwnedFd) -> Self {
        let stir = Arc::<Stir>::default();
        let waker = Waker::from(Arc::clone(&stir));
        Self(Rc::new(Inner {
            ring: RefCell::new(ring),
            tasks: RefCell::default(),
            spawned: RefCell::default(),
            stir,
            waker,
            beside,
            event,
            socket,
            event_is_polled: Cell::new(false),
            socket_is_polled: Cell::new(false),
            buffers: Pool::default(),
        }))
    }

    pub(super) fn buffers(&self) -> &Pool {
        &self.0.buffers
    }

    /// Gives the kernel what the disk wants, and takes what it has answered. Does not wait.
    pub(super) fn look(&self) -> io::Result<()> {
        self.run_tasks();
        self.0.ring.borrow_mut().enter(None)?;
        self.take_completions()
    }

    /// Gives the kernel what the disk wants, and waits until something is answered, the socket has something to read or somebody
    /// wakes the shard, but not longer than so. Tasks are not run before: what they finish would be slept through.
    pub(super) fn rest(&self, longest: Duration) -> io::Result<()> {
        let inner = &*self.0;
        {
            let mut ring = inner.ring.borrow_mut();
            if !inner.socket_is_polled.replace(true) {
                ring.poll(Ready::Socket, inner.socket.as_fd())?;
            }
            if !inner.event_is_polled.replace(true) {
                ring.poll(Ready::Event, inner.event.as_fd())?;
            }
            ring.enter(Some(longest))?;
        }
        self.take_completions()
    }

    /// Lets go of every task. What they had asked of the kernel is waited for when the ring is dropped.
    pub(super) fn end(&self) {
        let tasks = (self.0.tasks.take(), self.0.spawned.take());
        drop(tasks);
    }

    fn take_completions(&self) -> io::Result<()> {
        let inner = &*self.0;
        let answered = inner.ring.borrow_mut().take_completions(|ready| match ready {
            Ready::Socket => inner.socket_is_polled.set(false),
            Ready::Event => {
                inner.event.clear();
                inner.event_is_polled.set(false);
            }
        });
        if answered {
            inner.stir.set();
        }
        self.run_tasks();
        // A sync behind a write: it need not wait for the turn in between.
        if inner.ring.borrow_mut().has_submissions() { inner.ring.borrow_mut().enter(None) } else { Ok(()) }
    }

    /// Runs every task that may go on.
    pub(super) fn run_tasks(&self) {
        let inner = &*self.0;
        while inner.stir.take() {
            let mut tasks = inner.tasks.take();
            tasks.append(&mut inner.spawned.borrow_mut());
            let mut context = Context::from_waker(&inner.waker);
            tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            *inner.tasks.borrow_mut() = tasks;
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.spawned.borrow_mut().push(Box::pin(task));
        self.0.stir.set();
    }

    /// Has the kernel carry out an operation: its result, negative for an error, and its memory.
    pub(super) async fn carry_out(&self, operation: Operation) -> io::Result<(u32, Operation)> {
        let id = self.0.ring.borrow_mut().start(operation)?;
        let mut asked = Asked { reactor: self.clone(), id: Some(id) };
        let (result, operation) = poll_fn(|_| asked.poll()).await;
        match u32::try_from(result) {
            Ok(result) => Ok((result, operation)),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        }
    }

    /// Has the thread beside the shard do something.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let result = Arc::new(Mutex::new(None));
        let (stir, event, place) = (Arc::clone(&self.0.stir), Arc::clone(&self.0.event), Arc::clone(&result));
        self.0.beside.send(Box::new(move || {
            // A panic goes on where the work was wanted, as it would if that had done it itself.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            place.lock().unwrap_or_else(PoisonError::into_inner).replace(done);
            // First that there is something to look at, then that it is time to look.
            stir.set();
            event.write();
        }));
        poll_fn(|_| match result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        })
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// An operation that somebody waits for.
struct Asked {
    reactor: Reactor,
    /// Until it was taken.
    id: Option<SlotId>,
}

impl Asked {
    fn poll(&mut self) -> Poll<(i32, Operation)> {
        let id = self.id.expect("not polled again after it was ready");
        match self.reactor.0.ring.borrow_mut().take(id) {
            Some(done) => {
                self.id = None;
                Poll::Ready(done)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.reactor.0.ring.borrow_mut().abandon(id);
        }
    }
}

#[cfg(test)]
mod tests;
