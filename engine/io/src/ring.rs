//! Bounded rings between shards, and the wake-up of a parked shard.
//!
//! [`mesh`] makes one single-producer ring for each ordered pair of shards, and one for each shard that anybody outside
//! may write to. A push makes the item visible at once to a shard that is awake; a parked one is woken at the end of the
//! sender's turn ([`Ports::flush_wakes`]), once however much was sent.
//!
//! Why not glommio's `shared_channel`: its receiver is a future per channel, so a shard of 16 would hold 15 tasks that
//! each move items into the shard's own queue, and both ends must connect at the same time or wait for each other for
//! ever. Here the shard takes items straight from the ring. The wake-up is the same as theirs underneath: a waker used
//! from another thread, which glommio turns into one write to the sleeper's eventfd. Figures in
//! `docs/decisions/2026-11-20-shard-rings.md`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use crossbeam::queue::ArrayQueue;

use crate::machine::Source;

/// Makes the ports of `shard_count` shards whose rings hold `slots` items each.
pub fn mesh<T: Send>(shard_count: u16, slots: usize) -> Vec<Ports<T>> {
    let count = usize::from(shard_count);
    let bells: Vec<Arc<Bell>> = (0..count).map(|_| Arc::default()).collect();
    let lanes: Vec<Arc<Lane<T>>> = (0..count * count).map(|_| Arc::new(Lane::new(slots))).collect();
    let control: Vec<Arc<Lane<T>>> = (0..count).map(|_| Arc::new(Lane::new(slots))).collect();
    let ports = (0..shard_count).map(|shard_index| {
        let me = usize::from(shard_index);
        Ports {
            shard_index,
            outgoing: (0..count).map(|to| Arc::clone(&lanes[me * count + to])).collect(),
            incoming: (0..count).map(|from| Arc::clone(&lanes[from * count + me])).collect(),
            control: Arc::clone(&control[me]),
            bells: bells.clone(),
            to_wake: vec![false; count],
            blocked: vec![false; count],
        }
    });
    ports.collect()
}

/// One shard's ends of all rings.
#[derive(Debug)]
pub struct Ports<T> {
    shard_index: u16,
    outgoing: Vec<Arc<Lane<T>>>,
    incoming: Vec<Arc<Lane<T>>>,
    control: Arc<Lane<T>>,
    bells: Vec<Arc<Bell>>,
    /// Peers that must be woken at the end of the turn if they are parked.
    to_wake: Vec<bool>,
    /// Peers whose ring was full when we last pushed.
    blocked: Vec<bool>,
}

/// A way into one shard from outside the shards; cloned freely, used from any thread.
#[derive(Debug)]
pub struct ControlPort<T> {
    lane: Arc<Lane<T>>,
    bell: Arc<Bell>,
}

impl<T> Clone for ControlPort<T> {
    fn clone(&self) -> Self {
        Self { lane: Arc::clone(&self.lane), bell: Arc::clone(&self.bell) }
    }
}

impl<T: Send> ControlPort<T> {
    /// Sends an item and wakes the shard. The item comes back when the ring is full.
    pub fn send(&self, item: T) -> Result<(), T> {
        self.lane.queue.push(item)?;
        self.bell.ring();
        Ok(())
    }
}

impl<T> ControlPort<T> {
    /// Wakes the shard if it is parked: what the watchdog tries first.
    pub(crate) fn wake(&self) {
        self.bell.ring_always();
    }
}

#[derive(Debug)]
struct Lane<T> {
    queue: ArrayQueue<T>,
    /// The producer found the ring full and wants to know when it is not.
    producer_waits: AtomicBool,
}

impl<T> Lane<T> {
    fn new(slots: usize) -> Self {
        Self { queue: ArrayQueue::new(slots), producer_waits: AtomicBool::new(false) }
    }
}

/// How others wake a shard. Locked only to wake one that is parked, never by a shard that is awake.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    parked: AtomicBool,
    waker: Mutex<Option<Waker>>,
    rung: AtomicU64,
}

impl Bell {
    /// Wakes the shard if it is parked.
    fn ring(&self) {
        // Pairs with the fence of `park`: either we see that it is parked, or it sees what we pushed.
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::AcqRel) {
            self.ring_always();
        }
    }

    fn ring_always(&self) {
        self.rung.fetch_add(1, Ordering::Relaxed);
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    /// Announces that the shard is about to wait. Everything pushed before this is visible after it.
    pub(crate) fn park(&self, waker: &Waker) {
        {
            let mut own = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            if !own.as_ref().is_some_and(|own| own.will_wake(waker)) {
                *own = Some(waker.clone());
            }
        }
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Whether nobody has rung since [`Bell::park`].
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Acquire)
    }

    pub(crate) fn unpark(&self) {
        self.parked.store(false, Ordering::Release);
    }

    /// Forgets the waker. On the shard's own thread before its executor ends: a glommio task must not be freed by another.
    pub(crate) fn retire(&self) {
        self.unpark();
        self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl<T: Send> Ports<T> {
    /// The shard that these belong to.
    pub fn shard_index(&self) -> u16 {
        self.shard_index
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.outgoing.len()).expect("mesh takes a u16")
    }

    /// A way into this shard for others than shards.
    pub fn control_port(&self) -> ControlPort<T> {
        ControlPort { lane: Arc::clone(&self.control), bell: Arc::clone(self.bell()) }
    }

    /// Puts an item into the ring to another shard. When it is full the item comes back, and [`Ports::poll_room`] will
    /// name the shard once there is room.
    ///
    /// # Panics
    /// When `to` is no shard.
    pub fn push(&mut self, to: u16, item: T) -> Result<(), T> {
        let to = usize::from(to);
        let lane = &self.outgoing[to];
        self.to_wake[to] = true;
        let Err(item) = lane.queue.push(item) else { return Ok(()) };
        lane.producer_waits.store(true, Ordering::Relaxed);
        // Pairs with the fence of `drain`: either it sees that we wait, or we see the room that it made.
        fence(Ordering::SeqCst);
        match lane.queue.push(item) {
            Ok(()) => Ok(()),
            Err(item) => {
                self.blocked[to] = true;
                Err(item)
            }
        }
    }

    /// Puts an item into the ring to another shard if that is at most half full: for what may be dropped, so that it never
    /// takes the room of what may not.
    pub fn push_if_roomy(&mut self, to: u16, item: T) -> Result<(), T> {
        let to = usize::from(to);
        let queue = &self.outgoing[to].queue;
        if queue.len() * 2 > queue.capacity() {
            return Err(item);
        }
        self.to_wake[to] = true;
        queue.push(item)
    }

    /// A shard whose ring was full and has room again.
    pub fn poll_room(&mut self) -> Option<u16> {
        for (to, blocked) in self.blocked.iter_mut().enumerate() {
            if *blocked && !self.outgoing[to].queue.is_full() {
                *blocked = false;
                return u16::try_from(to).ok();
            }
        }
        None
    }

    /// Takes up to `each_max` items from every ring. Returns how many.
    pub fn drain(&mut self, each_max: usize, mut take: impl FnMut(Source, T)) -> usize {
        let mut taken = 0;
        for (from, lane) in (0u16..).zip(&self.incoming) {
            let mut of_lane = 0;
            while of_lane < each_max {
                let Some(item) = lane.queue.pop() else { break };
                of_lane += 1;
                take(Source::Shard(from), item);
            }
            if of_lane > 0 {
                fence(Ordering::SeqCst);
                if lane.producer_waits.load(Ordering::Relaxed) && lane.producer_waits.swap(false, Ordering::AcqRel) {
                    self.to_wake[usize::from(from)] = true;
                }
            }
            taken += of_lane;
        }
        for _ in 0..each_max {
            let Some(item) = self.control.queue.pop() else { break };
            taken += 1;
            take(Source::Control, item);
        }
        taken
    }

    /// Wakes each parked shard that was sent something, or given room, since the last call.
    pub fn flush_wakes(&mut self) {
        for (to, wake) in self.to_wake.iter_mut().enumerate() {
            if std::mem::take(wake) {
                self.bells[to].ring();
            }
        }
    }

    /// Whether anything waits to be taken.
    pub fn has_incoming(&self) -> bool {
        !self.control.queue.is_empty()
            || self.incoming.iter().any(|lane| !lane.queue.is_empty())
            || self.blocked.iter().zip(&self.outgoing).any(|(blocked, lane)| *blocked && !lane.queue.is_full())
    }

    /// How often others have woken this shard.
    pub fn woken(&self) -> u64 {
        self.bell().rung.load(Ordering::Relaxed)
    }

    pub(crate) fn bell(&self) -> &Arc<Bell> {
        &self.bells[usize::from(self.shard_index)]
    }
}
