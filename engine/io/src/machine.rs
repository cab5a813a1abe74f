//! The contract between the driver and the logic: events in, actions out.
//!
//! A turn of the driver:
//!
//! ```text
//!              socket   rings   disk   clock
//!                 |       |       |      |
//! on_event(now, ...) once for each thing that happened
//! on_turn(now)       once, when all of them are in: the place to verify, commit and answer as one batch
//! poll_action()      until it says None; each is carried out at once
//!                 |       |       |
//!              datagrams, wake-ups and writes leave together at the end of the turn
//! ```
//!
//! The machine never waits and never calls out. It is a type parameter of the driver, not a trait object: no dynamic call
//! is made per message.

use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use creto_net::{ConnId, EcnCodepoint, NetEvent, Pieces, StreamId};

use crate::clock::Now;
use crate::error::DiskError;

/// Names a disk action until it is answered. Chosen by the machine.
pub type ActionId = u64;

/// The logic of one shard.
pub trait Machine {
    /// What shards send each other.
    type Item: Send + 'static;
    /// What a disk write knows how to write.
    type Write: EncodeWrite;

    /// Takes in one thing that happened. Should only take it in: work on many is cheaper in [`Machine::on_turn`].
    fn on_event(&mut self, now: Now, event: IoEvent<Self::Item>);

    /// Called once per turn after its events, also in turns that only a deadline woke.
    fn on_turn(&mut self, now: Now);

    /// The next thing to do.
    fn poll_action(&mut self) -> Option<IoAction<Self::Item, Self::Write>>;

    /// When [`Machine::on_turn`] must be called at the latest, in [`Now::us`]. `None` for no wish of its own.
    fn next_deadline_us(&self) -> Option<u64>;
}

/// The content of a disk write, which can put itself into the buffer that goes to the disk.
pub trait EncodeWrite {
    /// Fills `out`, all of it. It has the length of the action that carried this and holds arbitrary bytes before.
    fn encode_into(self, out: &mut [u8]);
}

/// Where an item came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Another shard.
    Shard(u16),
    /// Outside the shards: configuration, policy, a wish to stop.
    Control,
}

/// Something that happened.
#[derive(Debug)]
pub enum IoEvent<T> {
    /// On the network.
    Net(NetEvent),
    /// [`IoAction::Send`] found the out-queue full. Nothing of it was queued; a [`NetEvent::Writable`] follows.
    SendFull {
        /// The connection.
        conn: ConnId,
        /// The stream.
        stream: StreamId,
        /// What was to be sent.
        pieces: Pieces,
    },
    /// An item arrived.
    Item {
        /// From whom.
        source: Source,
        /// The item.
        item: T,
    },
    /// [`IoAction::SendItem`] found the ring full. An [`IoEvent::RingRoom`] follows.
    RingFull {
        /// The shard it was meant for.
        to: u16,
        /// The item.
        item: T,
    },
    /// A ring that was full has room again.
    RingRoom {
        /// The shard at its other end.
        to: u16,
    },
    /// A disk action was carried out, or was not. For a write: it is durable now.
    DiskDone {
        /// The action.
        id: ActionId,
        /// How it went.
        result: Result<(), DiskError>,
    },
    /// [`IoAction::Read`] was carried out, or was not.
    ReadDone {
        /// The action.
        id: ActionId,
        /// The bytes, 8-byte aligned.
        result: Result<Bytes, DiskError>,
    },
}

/// Something to do.
#[derive(Debug)]
pub enum IoAction<T, W> {
    /// Send whole frames on a stream. Dropped if the connection is gone: its [`NetEvent::Closed`] says so.
    Send {
        /// The connection.
        conn: ConnId,
        /// The stream.
        stream: StreamId,
        /// The frames.
        pieces: Pieces,
    },
    /// Finish the node's half of a stream after what is queued on it.
    Finish {
        /// The connection.
        conn: ConnId,
        /// The stream.
        stream: StreamId,
    },
    /// The peer has proved who it is: it may send large frames now.
    Authenticated {
        /// The connection.
        conn: ConnId,
    },
    /// Close a connection.
    Close {
        /// The connection.
        conn: ConnId,
        /// Application code.
        code: u32,
        /// For the peer's log.
        reason: &'static str,
    },
    /// Read no more from a stream, or from all of a connection.
    PauseReading {
        /// The connection.
        conn: ConnId,
        /// The stream; `None` for all.
        stream: Option<StreamId>,
    },
    /// Read again what was paused with the same fields.
    ResumeReading {
        /// The connection.
        conn: ConnId,
        /// The stream; `None` for all.
        stream: Option<StreamId>,
    },
    /// Send an item to another shard.
    SendItem {
        /// The shard.
        to: u16,
        /// The item.
        item: T,
    },
    /// Write and make durable, then answer with [`IoEvent::DiskDone`].
    Write {
        /// To answer under.
        id: ActionId,
        /// The segment, which is there.
        segment: u64,
        /// Where in it; a multiple of [`crate::limits::BLOCK_BYTES`].
        offset: u64,
        /// How much; a multiple of the same.
        bytes: usize,
        /// What.
        write: W,
    },
    /// Read, then answer with [`IoEvent::ReadDone`].
    Read {
        /// To answer under.
        id: ActionId,
        /// The segment.
        segment: u64,
        /// Where in it.
        offset: u64,
        /// How much.
        bytes: usize,
    },
    /// Make a segment file of this length, its space reserved and written once; an existing one is replaced. Durable
    /// before it is answered with [`IoEvent::DiskDone`].
    Prepare {
        /// To answer under.
        id: ActionId,
        /// The segment to make.
        segment: u64,
        /// Its length.
        bytes: u64,
        /// A segment of that length that is not needed any more: its file is renamed once its digest is gone: far cheaper.
        recycle: Option<u64>,
    },
    /// Write the digest of a segment to the file beside it: whole or not at all, and durable before it is answered.
    WriteDigest {
        /// To answer under.
        id: ActionId,
        /// The segment.
        segment: u64,
        /// What the file holds, one piece after the other.
        pieces: Vec<Bytes>,
    },
    /// Delete a segment's digest, then its file, durably. What is not there counts as deleted.
    Delete {
        /// To answer under.
        id: ActionId,
        /// The segment.
        segment: u64,
    },
    /// Shorten a segment file to this length.
    Shorten {
        /// To answer under.
        id: ActionId,
        /// The segment.
        segment: u64,
        /// Its new length.
        bytes: u64,
    },
    /// Refuse new connections from now on.
    StopAccepting,
    /// Close every connection.
    CloseAll {
        /// Application code.
        code: u32,
        /// For the peers' logs.
        reason: &'static str,
    },
    /// The machine is done. The driver sends what is queued, waits for the disk, and ends.
    Halt,
}

/// What travels in a ring: an item of the machine's, or a datagram that landed on the wrong shard.
#[derive(Debug)]
pub enum Parcel<T> {
    /// The machine's.
    Item(T),
    /// The driver's.
    Datagram(Datagram),
}

/// A datagram on its way to the shard that owns its connection.
#[derive(Debug)]
pub struct Datagram {
    pub(crate) remote: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) bytes: BytesMut,
}
