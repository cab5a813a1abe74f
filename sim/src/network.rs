//! Connections between agents and shards. Inside a stream frames keep their order, as QUIC promises; between streams and
//! connections they do not. A connection may break at any point, in each direction at a point of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use creto_envelope::FrameType;
use creto_shard::StreamId;

use crate::channels::client::OpenHandle;
use crate::channels::{self, Cursor};
use crate::letters::Question;
use crate::pool::{MessageNumber, Window};

/// Streams of every connection, by role.
pub(crate) const CONTROL: StreamId = StreamId(0);
pub(crate) const SUBMIT: StreamId = StreamId(1);
pub(crate) const DELIVER: StreamId = StreamId(2);
/// Of connections that read channels.
pub(crate) const CHANNELS: StreamId = StreamId(3);
pub(crate) const STREAMS: usize = 4;

/// Names a connection in a run: its place, and its [`ConnectionId`](creto_shard::ConnectionId).
pub(crate) type LinkNumber = usize;

/// A frame on its way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) frame_type: FrameType,
    pub(crate) body: Bytes,
}

/// One direction of one stream.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    on_the_way: VecDeque<Packet>,
    last_arrival_us: u64,
}

impl Lane {
    /// A lane on which nothing arrives earlier.
    pub(crate) fn starting_at(first_arrival_us: u64) -> Self {
        Self { on_the_way: VecDeque::new(), last_arrival_us: first_arrival_us }
    }

    /// Sends a frame; it arrives at the time that comes back, never before the one sent before it.
    pub(crate) fn send(&mut self, packet: Packet, earliest_us: u64) -> u64 {
        self.on_the_way.push_back(packet);
        self.last_arrival_us = self.last_arrival_us.max(earliest_us);
        self.last_arrival_us
    }

    pub(crate) fn arrive(&mut self) -> Packet {
        self.on_the_way.pop_front().expect("every frame on its way arrives once")
    }
}

/// A connection, as the agent and as the shard see it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) agent: usize,
    pub(crate) shard: usize,
    /// The start of the node that it belongs to.
    pub(crate) life: u32,
    pub(crate) exporter: [u8; 32],
    pub(crate) to_node: [Lane; STREAMS],
    pub(crate) to_client: [Lane; STREAMS],
    pub(crate) node_side: NodeSide,
    pub(crate) client_side: ClientSide,
}

/// What the shard was given over a connection and has not answered.
#[derive(Debug, Default)]
pub(crate) struct NodeSide {
    /// The shard knows the connection.
    pub(crate) is_open: bool,
    /// Batches that arrived and are not answered, by submit sequence.
    pub(crate) batches: BTreeMap<u64, ArrivedBatch>,
    /// Results that were told ahead of their batch's answer.
    pub(crate) results: BTreeMap<u64, Vec<(u32, u16)>>,
    /// When the shard saw that it was gone.
    pub(crate) gone_us: u64,
    /// What is read under which number.
    pub(crate) readers: BTreeMap<u32, Cursor>,
    /// Numbers whose subscriptions are to end.
    pub(crate) ending: BTreeSet<u32>,
    /// A frame of the channels stream that is not whole yet.
    pub(crate) pieces: Vec<u8>,
    /// The agent asked who reads these channels.
    pub(crate) attached: [bool; channels::CHANNELS],
    /// And was told that these do.
    pub(crate) told: [Option<BTreeSet<usize>>; channels::CHANNELS],
    /// Who reads a mailbox over it, and shows that.
    pub(crate) reader: Reader,
    /// When it asked for the presence of another, without an answer.
    pub(crate) presence_asked_us: VecDeque<u64>,
}

/// What a shard knows of who reads a mailbox over a connection.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// When it was asked for, and when it was so.
    pub(crate) asked_us: Option<u64>,
    pub(crate) subscribed_us: Option<u64>,
    /// It shows itself, by what it said last; since when, and when it said the contrary.
    pub(crate) shown: bool,
    pub(crate) showed_us: Option<u64>,
    pub(crate) hid_us: Option<u64>,
}

impl Reader {
    pub(crate) fn shows(&mut self, shown: bool, now_us: u64) {
        if shown && !self.shown {
            self.showed_us = Some(now_us);
        } else if !shown {
            self.hid_us = Some(now_us);
        }
        self.shown = shown;
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ArrivedBatch {
    pub(crate) window: Window,
    pub(crate) is_tampered: bool,
    /// When the shard had it; zero until then.
    pub(crate) arrived_us: u64,
    /// The agent asked before who reads these channels.
    pub(crate) attached: [bool; channels::CHANNELS],
}

/// What the agent knows of a connection.
#[derive(Debug, Default)]
pub(crate) struct ClientSide {
    pub(crate) is_open: bool,
    pub(crate) is_logged_in: bool,
    pub(crate) last_sequence: u64,
    /// Every batch that was sent.
    pub(crate) sent: BTreeMap<u64, ArrivedBatch>,
    /// The last batch that is answered.
    pub(crate) answered_through: u64,
    pub(crate) results: BTreeMap<u64, Vec<(u32, u16)>>,
    /// Deliveries that the application has and has not acknowledged.
    pub(crate) unacknowledged: Vec<(u64, MessageNumber)>,
    /// What it asked about its dead letters and was not answered.
    pub(crate) question: Option<Question>,
    /// The same of notices.
    pub(crate) unacknowledged_notices: Vec<u64>,
    /// What it reads of channels, by its number for it.
    pub(crate) handles: BTreeMap<u32, OpenHandle>,
    /// The batch header that the deliver stream showed last.
    pub(crate) header: Option<Bytes>,
    /// Messages that the node may still push, and bytes of them: the last one may overdraw.
    pub(crate) credit_messages: u32,
    pub(crate) credit_bytes: u64,
    /// Signals that it may still push.
    pub(crate) credit_signals: u32,
}

/// Results of a batch by submit sequence, from what an answer lists; and what the answer leaves unsaid.
pub(crate) fn code_of(results: &[(u32, u16)], index: u32) -> Option<u16> {
    let names = |(listed, _): &&(u32, u16)| *listed == creto_envelope::submit::WHOLE_BATCH || *listed == index;
    results.iter().find(names).map(|(_, code)| *code)
}
