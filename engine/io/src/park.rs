//! How a shard waits: for its own tasks, for other shards, and for the clock, whichever comes first.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::timer::Timer;

use crate::ring::Bell;

/// Set by tasks of the same shard, awaited by its driver.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    pub(crate) fn set(&self) {
        self.set.set(true);
        // Taken out first: waking may run code that registers again.
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.get()
    }

    pub(crate) fn take(&self) -> bool {
        self.set.replace(false)
    }

    pub(crate) fn register(&self, waker: &Waker) {
        let mut own = self.waker.borrow_mut();
        if !own.as_ref().is_some_and(|own| own.will_wake(waker)) {
            *own = Some(waker.clone());
        }
    }

    /// Waits until it is set, and takes it.
    pub(crate) async fn taken(self: &Rc<Self>) {
        poll_fn(|cx| {
            if self.take() {
                return Poll::Ready(());
            }
            self.register(cx.waker());
            Poll::Pending
        })
        .await;
    }
}

/// Gives the other tasks of the shard and the reactor their turn, and comes back as soon as they had it.
///
/// glommio polls its reactor only when no task is runnable. `yield_now` leaves this one runnable, and so does
/// `timer::sleep(Duration::ZERO)`, which is over before it begins: under load either of them starves the disk for as long
/// as the load lasts. What works is a timer that is not due yet when it is first looked at; a microsecond is enough, and
/// is over by the time the reactor looks.
pub(crate) async fn yield_to_reactor() {
    let mut wait = Duration::from_micros(1);
    let mut timer = Timer::new(wait);
    let mut registered = false;
    poll_fn(|cx| {
        loop {
            match Pin::new(&mut timer).poll(cx) {
                Poll::Pending => {
                    registered = true;
                    return Poll::Pending;
                }
                Poll::Ready(_) if registered => return Poll::Ready(()),
                Poll::Ready(_) => {
                    wait *= 2;
                    timer = Timer::new(wait);
                }
            }
        }
    })
    .await;
}

/// Waits until `signal` is set, `bell` is rung, or `longest` has passed. `nothing_waits` is asked once after the shard
/// has announced that it parks: whatever was pushed before is seen by it, whatever comes later rings the bell.
pub(crate) async fn park(signal: &Signal, bell: &Bell, longest: Duration, nothing_waits: impl Fn() -> bool) {
    let mut timer = Timer::new(longest);
    let mut announced = false;
    poll_fn(|cx| {
        if signal.take() {
            return Poll::Ready(());
        }
        if !announced {
            announced = true;
            signal.register(cx.waker());
            bell.park(cx.waker());
            if !nothing_waits() {
                return Poll::Ready(());
            }
        } else if !bell.is_parked() {
            return Poll::Ready(());
        } else {
            signal.register(cx.waker());
        }
        Pin::new(&mut timer).poll(cx).map(|_| ())
    })
    .await;
    bell.unpark();
}
