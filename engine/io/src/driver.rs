//! The loop of one shard.
//!
//! ```text
//! timers -> socket -> rings -> disk -> network events -> machine -> actions -> wake-ups -> datagrams -> yield or park
//! ```
//!
//! What is below `yield or park` is the driver's: `on_glommio.rs` and `on_io_uring.rs` each wait in their own way, and run this.
//!
//! A turn is bounded at every step ([`crate::limits`]), so it stays far below a millisecond and everything gets its share
//! of each. Whatever is left over is seen by the next turn, which then does not park.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use creto_net::framing::FrameType;
use creto_net::{Endpoint, EndpointConfig, NetEvent, NodeKeys, SendError, Transmit, owner_shard};

use crate::clock::{Clock, Now};
use crate::disk::{Disk, DiskConfig, Outcome};
use crate::files::Files;
use crate::limits::{
    ACTIONS_PER_TURN, FRAME_BYTES_PER_TURN, HALT_US_MAX, NET_EVENTS_PER_TURN, PARK_MAX, RECEIVE_BYTES_PER_TURN,
    RING_ITEMS_PER_TURN, SEND_RETRY, TRANSMITS_PER_TURN,
};
use crate::machine::{Datagram, IoAction, IoEvent, Machine, Parcel, Source};
use crate::park::Signal;
use crate::planted;
use crate::ring::{ControlPort, Ports};
use crate::socket::{BoundSocket, Sent, ShardSocket, ecn_of};
use crate::stats::{DriverStats, StatsReader, Times};
use crate::watchdog::Progress;

/// What a shard's driver is made of.
pub struct DriverConfig<T> {
    /// The endpoint to make; its shard index is the shard's.
    pub endpoint: EndpointConfig,
    /// The shard's socket of the group.
    pub socket: BoundSocket,
    /// Its disk.
    pub disk: DiskConfig,
    /// The node's clock.
    pub clock: Clock,
    /// Its ends of the rings.
    pub ports: Ports<Parcel<T>>,
    /// What the watchdog reads.
    pub progress: Arc<Progress>,
    /// Where its counters are shown.
    pub stats: StatsReader,
}

impl<T: Send> ControlPort<Parcel<T>> {
    /// Sends an item to the machine of the shard, from any thread.
    ///
    /// # Errors
    /// The ring is full; the item comes back.
    pub fn send_item(&self, item: T) -> Result<(), T> {
        self.send(Parcel::Item(item)).map_err(|parcel| match parcel {
            Parcel::Item(item) => item,
            Parcel::Datagram(_) => unreachable!("an item was sent"),
        })
    }
}

/// What comes after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TurnEnd {
    /// The machine has halted, and all that it asked for is done.
    Over,
    /// Another turn, once the kernel was given what the disk wants.
    Again,
    /// Nothing will happen by itself for so long: wait, but not longer.
    Rest(Duration),
}

pub(crate) struct Driver<M: Machine, F: Files> {
    machine: M,
    endpoint: Endpoint,
    keys: NodeKeys,
    socket: ShardSocket,
    pub(crate) signal: Rc<Signal>,
    disk: Disk<F>,
    clock: Clock,
    ports: Ports<Parcel<M::Item>>,
    shard_index: u16,
    shard_count: u16,
    /// The datagrams that the socket's full buffer refused, to be tried first.
    unsent: Option<Transmit>,
    outgoing: Vec<u8>,
    /// Actions may be left in the machine: the last turn carried out as many as it may.
    actions_left: bool,
    /// When the machine said [`IoAction::Halt`].
    halted_at_us: Option<u64>,
    stats: DriverStats,
    write_times: Times,
    receive_times: Times,
    published: StatsReader,
}

impl<M, F> Driver<M, F>
where
    M: Machine,
    M::Write: 'static,
    F: Files,
{
    pub(crate) fn new(config: DriverConfig<M::Item>, machine: M, files: F) -> io::Result<Self> {
        let DriverConfig { endpoint, socket, disk, clock, ports, progress: _, stats } = config;
        let (shard_index, shard_count) = (ports.shard_index(), ports.shard_count());
        assert_eq!(u16::from(endpoint.shard_index), shard_index, "endpoint and rings are of the same shard");
        let keys = endpoint.keys.clone();
        let now = clock.now();
        let signal = Rc::<Signal>::default();
        Ok(Self {
            machine,
            endpoint: Endpoint::new(endpoint, clock.instant_of(now.us), now.wall_ms),
            keys,
            socket: ShardSocket::new(&socket)?,
            disk: Disk::new(disk, files, Rc::clone(&signal)),
            signal,
            clock,
            ports,
            shard_index,
            shard_count,
            unsent: None,
            outgoing: Vec::new(),
            actions_left: false,
            halted_at_us: None,
            stats: DriverStats::default(),
            write_times: Times::default(),
            receive_times: Times::default(),
            published: stats,
        })
    }

    /// One turn. Whatever is left over is seen by the next.
    ///
    /// # Errors
    /// The socket cannot be used any more.
    pub(crate) fn turn(&mut self, progress: &Progress) -> io::Result<TurnEnd> {
        let now = self.clock.now();
        progress.turn();
        self.stats.turns += 1;
        planted::stand_still(self.shard_index);

        // Whatever it announced is looked at below. Left set, it would keep the shard from ever parking again.
        self.signal.take();
        let mut happened = self.take_timers(now);
        happened |= self.take_datagrams(now)?;
        happened |= self.take_items(now);
        happened |= self.take_completions(now);
        happened |= self.take_net_events(now);
        self.machine.on_turn(now);
        happened |= self.carry_out(now);
        self.ports.flush_wakes();
        let sent = self.transmit(now);
        happened |= sent;

        if self.stats.turns.is_multiple_of(16) || !happened {
            self.publish();
        }
        if self.may_end(now, sent) {
            return Ok(TurnEnd::Over);
        }
        let longest = if happened { Duration::ZERO } else { self.park_time(now) };
        if longest.is_zero() {
            return Ok(TurnEnd::Again);
        }
        self.stats.parks += 1;
        Ok(TurnEnd::Rest(longest))
    }

    /// Whether nothing has come since the turn: asked once it was announced that the shard rests.
    pub(crate) fn nothing_waits(&self) -> bool {
        !self.ports.has_incoming() && !self.disk.has_completions()
    }

    pub(crate) fn into_machine(self) -> M {
        self.machine
    }

    /// Whether the machine has halted and everything that it asked for is done. Peers that keep the shard sending cannot
    /// hold it longer than [`HALT_US_MAX`].
    fn may_end(&self, now: Now, sent: bool) -> bool {
        let Some(since_us) = self.halted_at_us else { return false };
        let quiet = !sent && self.unsent.is_none();
        self.disk.running() == 0 && (quiet || now.us.saturating_sub(since_us) > HALT_US_MAX)
    }

    fn take_timers(&mut self, now: Now) -> bool {
        let instant = self.clock.instant_of(now.us);
        let due = self.endpoint.next_timeout().is_some_and(|at| at <= instant);
        if due {
            self.endpoint.handle_timeout(instant);
        }
        due
    }

    fn take_datagrams(&mut self, now: Now) -> io::Result<bool> {
        let instant = self.clock.instant_of(now.us);
        let here = u8::try_from(self.shard_index).expect("an endpoint's shard index is a byte");
        let Self { endpoint, keys, socket, ports, stats, shard_count, .. } = self;
        let (bytes, calls) = socket.receive(RECEIVE_BYTES_PER_TURN, |meta, datagram| {
            let owner = if *shard_count > 1 { owner_shard(keys, here, &datagram).map(u16::from) } else { None };
            // An id may name a shard of a former life that had more of them: its reset can come from here.
            let Some(owner) = owner.filter(|owner| owner < shard_count) else {
                return endpoint.handle_datagram(instant, meta.addr, meta.dst_ip, ecn_of(meta), datagram);
            };
            let forward = Datagram { remote: meta.addr, local_ip: meta.dst_ip, ecn: ecn_of(meta), bytes: datagram };
            match ports.push_if_roomy(owner, Parcel::Datagram(forward)) {
                Ok(()) => stats.datagrams_forwarded += 1,
                // Dropped like on a full link: QUIC sends it again.
                Err(_) => stats.datagrams_dropped += 1,
            }
        })?;
        stats.receives += calls;
        stats.bytes_received += bytes as u64;
        Ok(calls > 0)
    }

    fn take_items(&mut self, now: Now) -> bool {
        let instant = self.clock.instant_of(now.us);
        let Self { endpoint, machine, ports, stats, .. } = self;
        let taken = ports.drain(RING_ITEMS_PER_TURN, |source, parcel| match parcel {
            Parcel::Item(item) => {
                stats.items_received += 1;
                machine.on_event(now, IoEvent::Item { source, item });
            }
            Parcel::Datagram(datagram) => {
                debug_assert_ne!(source, Source::Control, "only shards forward datagrams");
                endpoint.handle_datagram(instant, datagram.remote, datagram.local_ip, datagram.ecn, datagram.bytes);
            }
        });
        let mut room = false;
        while let Some(to) = ports.poll_room() {
            room = true;
            machine.on_event(now, IoEvent::RingRoom { to });
        }
        taken > 0 || room
    }

    fn take_completions(&mut self, now: Now) -> bool {
        let mut any = false;
        while let Some(completion) = self.disk.next_completion() {
            any = true;
            let id = completion.id;
            let event = match completion.outcome {
                Outcome::Done(result) => IoEvent::DiskDone { id, result },
                Outcome::Written { result, bytes, us } => {
                    self.stats.disk_writes += 1;
                    self.stats.disk_bytes_written += bytes;
                    self.stats.disk_write_us += us;
                    self.write_times.add(us);
                    IoEvent::DiskDone { id, result }
                }
                Outcome::Read(result) => IoEvent::ReadDone { id, result },
            };
            if matches!(event, IoEvent::DiskDone { result: Err(_), .. } | IoEvent::ReadDone { result: Err(_), .. }) {
                self.stats.disk_errors += 1;
            }
            self.machine.on_event(now, event);
        }
        any
    }

    fn take_net_events(&mut self, now: Now) -> bool {
        let mut frame_bytes = 0;
        let mut count = 0;
        while count < NET_EVENTS_PER_TURN && frame_bytes < FRAME_BYTES_PER_TURN {
            let Some(event) = self.endpoint.poll_event() else { break };
            count += 1;
            if let NetEvent::Frame { frame_type, body, took, .. } = &event {
                frame_bytes += body.len();
                if *frame_type == FrameType::SignedBatch {
                    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                    self.stats.batch_receive_us += us;
                    self.receive_times.add(us);
                }
            }
            self.machine.on_event(now, IoEvent::Net(event));
        }
        count > 0
    }

    fn carry_out(&mut self, now: Now) -> bool {
        for done in 0..ACTIONS_PER_TURN {
            let Some(action) = self.machine.poll_action() else {
                self.actions_left = false;
                return done > 0;
            };
            self.act(now, action);
        }
        self.actions_left = true;
        true
    }

    fn act(&mut self, now: Now, action: IoAction<M::Item, M::Write>) {
        match action {
            IoAction::Send { conn, stream, pieces } => match self.endpoint.send(conn, stream, pieces) {
                Ok(()) | Err(SendError::Closed) => {}
                Err(SendError::Full(pieces)) => {
                    self.machine.on_event(now, IoEvent::SendFull { conn, stream, pieces });
                }
            },
            IoAction::Finish { conn, stream } => self.endpoint.finish(conn, stream),
            IoAction::Authenticated { conn } => self.endpoint.authenticated(conn),
            IoAction::Close { conn, code, reason } => {
                let instant = self.clock.instant_of(now.us);
                self.endpoint.close(instant, conn, code, Bytes::from_static(reason.as_bytes()));
            }
            IoAction::PauseReading { conn, stream } => self.endpoint.pause_reading(conn, stream),
            IoAction::ResumeReading { conn, stream } => self.endpoint.resume_reading(conn, stream),
            IoAction::SendItem { to, item } => match self.ports.push(to, Parcel::Item(item)) {
                Ok(()) => self.stats.items_sent += 1,
                Err(Parcel::Item(item)) => {
                    self.stats.rings_full += 1;
                    self.machine.on_event(now, IoEvent::RingFull { to, item });
                }
                Err(Parcel::Datagram(_)) => unreachable!("an item was pushed"),
            },
            IoAction::Write { id, segment, offset, bytes, write } => self.disk.write(id, segment, offset, bytes, write),
            IoAction::Read { id, segment, offset, bytes } => self.disk.read(id, segment, offset, bytes),
            IoAction::Prepare { id, segment, bytes, recycle } => self.disk.prepare(id, segment, bytes, recycle),
            IoAction::WriteDigest { id, segment, pieces } => self.disk.write_digest(id, segment, pieces),
            IoAction::Delete { id, segment } => self.disk.delete(id, segment),
            IoAction::Shorten { id, segment, bytes } => self.disk.shorten(id, segment, bytes),
            IoAction::StopAccepting => self.endpoint.stop_accepting(),
            IoAction::CloseAll { code, reason } => {
                let instant = self.clock.instant_of(now.us);
                self.endpoint.close_all(instant, code, &Bytes::from_static(reason.as_bytes()));
            }
            IoAction::Halt => self.halted_at_us = self.halted_at_us.or(Some(now.us)),
        }
    }

    /// Sends what is ready. True when something went out or more is ready than one turn may send.
    fn transmit(&mut self, now: Now) -> bool {
        let instant = self.clock.instant_of(now.us);
        let segments_max = self.socket.segments_max();
        let mut sent = 0;
        while sent < TRANSMITS_PER_TURN {
            let transmit = match self.unsent.take() {
                Some(transmit) => transmit,
                None => match self.endpoint.poll_transmit(instant, segments_max, &mut self.outgoing) {
                    Some(transmit) => transmit,
                    None => return sent > 0,
                },
            };
            match self.socket.send(&transmit, &self.outgoing) {
                Sent::Yes => {
                    self.stats.sends += 1;
                    self.stats.bytes_sent += transmit.size as u64;
                }
                Sent::Lost => self.stats.send_errors += 1,
                Sent::Full => {
                    self.stats.sends_blocked += 1;
                    self.unsent = Some(transmit);
                    return sent > 0;
                }
            }
            sent += 1;
        }
        true
    }

    /// How long nothing will happen by itself.
    fn park_time(&self, now: Now) -> Duration {
        if self.endpoint.has_events() || self.actions_left || self.signal.is_set() {
            return Duration::ZERO;
        }
        let mut longest = PARK_MAX;
        if self.unsent.is_some() {
            longest = SEND_RETRY;
        } else if self.endpoint.has_transmits() {
            return Duration::ZERO;
        }
        let net = self.endpoint.next_timeout().map(|at| self.clock.us_of_deadline(at));
        for deadline_us in net.into_iter().chain(self.machine.next_deadline_us()) {
            longest = longest.min(Duration::from_micros(deadline_us.saturating_sub(now.us)));
        }
        longest
    }

    fn publish(&mut self) {
        self.stats.woken = self.ports.woken();
        self.stats.take_net(&self.endpoint.stats(), self.endpoint.connections());
        self.published.publish(&self.stats, &self.write_times, &self.receive_times);
    }
}
