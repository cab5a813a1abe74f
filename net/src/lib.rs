//! QUIC for one shard, without a socket: datagrams and time come in, frames and datagrams go out.
//!
//! [`Endpoint`] drives `quinn-proto` and `rustls`. It reads no clock, opens no socket and starts no thread, so a whole
//! conversation runs in virtual time inside an ordinary test. The driver in `creto-io` owns the socket.
//!
//! A turn of the driver looks like this:
//!
//! 1. [`Endpoint::handle_datagram`] for each datagram that is this shard's ([`owner_shard`] says whose it is),
//! 2. [`Endpoint::handle_timeout`] when [`Endpoint::next_timeout`] has passed,
//! 3. [`Endpoint::poll_event`] for as many events as the turn can carry,
//! 4. [`Endpoint::send`], [`Endpoint::pause_reading`], [`Endpoint::close`] as the shard decides,
//! 5. [`Endpoint::poll_transmit`] until it has nothing more to send.
//!
//! Everything that a stranger can make an endpoint keep is bounded in [`limits`].
#![forbid(unsafe_code)]

mod cid;
mod connection;
mod endpoint;
mod event;
pub mod framing;
pub mod limits;
pub mod tls;
mod transport;

pub use cid::{CONNECTION_ID_BYTES, NodeKeys, owner_shard};
pub use endpoint::{Endpoint, EndpointConfig, NetStats};
pub use event::{CloseReason, ConnId, NetEvent, Pieces, SendError, StreamEnd, StreamId};
pub use limits::NetLimits;
pub use quinn_proto::{EcnCodepoint, Transmit};
pub use transport::{client_transport, server_transport};
