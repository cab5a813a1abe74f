//! The UDP socket of a shard: one of a `SO_REUSEPORT` group, read and written by `quinn-udp`, waited for by glommio.
//!
//! glommio's own UDP calls know neither GRO nor GSO, so they only do the waiting: the same socket is given to it under a
//! second descriptor, and `peek_from` with one byte completes when there is something to read. (`peek` would answer
//! "not connected", and its `send_to` has a slow path that sends one byte.)

use std::cell::Cell;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;

use bytes::BytesMut;
use creto_net::EcnCodepoint;
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::{GSO_SEGMENTS_MAX, RECEIVE_BATCH, RECEIVE_BUFFER_BYTES};
use crate::park::Signal;

/// A socket that is bound and waits for its shard.
#[derive(Debug)]
pub struct BoundSocket {
    socket: UdpSocket,
    local: SocketAddr,
}

impl BoundSocket {
    /// The address that it is bound to: the same for the whole group.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// A second descriptor of it, to wait for.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.socket.try_clone()?.into())
    }

    /// Receive and send buffer that the kernel granted, in bytes as the kernel counts (twice what fits).
    pub fn buffer_bytes(&self) -> io::Result<(usize, usize)> {
        let socket = socket2::SockRef::from(&self.socket);
        Ok((socket.recv_buffer_size()?, socket.send_buffer_size()?))
    }
}

/// Binds one socket per shard to `address`. Port 0 takes a free port, the same for all.
///
/// All are bound before any shard runs: the kernel spreads clients by the members of the group, and one that joined late
/// would take over clients in the middle of their handshake. `buffer_bytes` is asked for both directions; the kernel
/// grants at most `net.core.rmem_max` and `wmem_max`.
pub fn bind_group(address: SocketAddr, shard_count: u16, buffer_bytes: usize) -> io::Result<Vec<BoundSocket>> {
    let mut address = address;
    let mut group = Vec::with_capacity(usize::from(shard_count));
    for _ in 0..shard_count {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if address.is_ipv6() && address.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_port(true)?;
        socket.set_recv_buffer_size(buffer_bytes)?;
        socket.set_send_buffer_size(buffer_bytes)?;
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        let local = socket.local_addr()?;
        address.set_port(local.port());
        group.push(BoundSocket { socket, local });
    }
    Ok(group)
}

/// What came of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is with the kernel.
    Yes,
    /// The send buffer is full: try the same again later.
    Full,
    /// It was refused and is lost, which QUIC is made for.
    Lost,
}

pub(crate) struct ShardSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    buffers: Vec<u8>,
}

impl ShardSocket {
    pub(crate) fn new(bound: &BoundSocket) -> io::Result<Self> {
        let socket = bound.socket.try_clone()?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self { socket, state, buffers: vec![0; RECEIVE_BATCH * RECEIVE_BUFFER_BYTES] })
    }

    /// Datagrams that one send call may carry.
    pub(crate) fn segments_max(&self) -> usize {
        self.state.max_gso_segments().min(GSO_SEGMENTS_MAX)
    }

    /// Receives until the socket is empty or `bytes_max` is reached. Returns bytes and calls that brought something;
    /// whether more may wait is the caller's to assume when the bytes reach the limit.
    pub(crate) fn receive(
        &mut self,
        bytes_max: usize,
        mut take: impl FnMut(&RecvMeta, BytesMut),
    ) -> io::Result<(usize, u64)> {
        let mut bytes = 0;
        let mut calls = 0;
        while bytes < bytes_max {
            let mut metas = [RecvMeta::default(); RECEIVE_BATCH];
            let mut chunks = self.buffers.chunks_exact_mut(RECEIVE_BUFFER_BYTES);
            let mut slices: [IoSliceMut<'_>; RECEIVE_BATCH] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            let received = match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut metas) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    // An ICMP answer to something that we sent, a signal, no memory at the moment: nothing that the next
                    // turn could not find in order again.
                    tracing::debug!(%error, "receiving was interrupted");
                    break;
                }
            };
            calls += 1;
            for (meta, slice) in metas.iter().zip(&slices).take(received) {
                bytes += meta.len;
                let mut batch = BytesMut::from(&slice[..meta.len]);
                while !batch.is_empty() {
                    let datagram = batch.split_to(meta.stride.clamp(1, batch.len()));
                    take(meta, datagram);
                }
            }
            if received < RECEIVE_BATCH {
                // Fewer than asked for: the socket was empty a moment ago. What came since, `peek_from` will find.
                break;
            }
        }
        Ok((bytes, calls))
    }

    pub(crate) fn send(&self, transmit: &creto_net::Transmit, bytes: &[u8]) -> Sent {
        let datagrams = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: &bytes[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        match self.state.try_send(UdpSockRef::from(&self.socket), &datagrams) {
            Ok(()) => Sent::Yes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Full,
            Err(error) => {
                tracing::debug!(%error, destination = %transmit.destination, "a datagram was not sent");
                Sent::Lost
            }
        }
    }
}

/// Whether the socket itself is gone or was never one.
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT | libc::ENOTCONN))
}

pub(crate) fn ecn_of(meta: &RecvMeta) -> Option<EcnCodepoint> {
    meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8))
}

/// Tells the driver when the socket has something to read.
#[derive(Debug, Default)]
pub(crate) struct SocketWatch {
    armed: Cell<bool>,
    arm: Rc<Signal>,
}

impl SocketWatch {
    /// Asks to be told once, through `signal`.
    pub(crate) fn arm(&self) {
        if !self.armed.replace(true) {
            self.arm.set();
        }
    }

    /// Waits for each [`SocketWatch::arm`] and answers it. Runs as a task beside the driver.
    pub(crate) async fn run(self: Rc<Self>, socket: glommio::net::UdpSocket, signal: Rc<Signal>) {
        loop {
            self.arm.taken().await;
            // What it says does not matter, not even an error: the driver reads and sees for itself.
            let _ = socket.peek_from(&mut [0]).await;
            self.armed.set(false);
            signal.set();
        }
    }
}

/// The socket as glommio knows it, to wait for.
pub(crate) fn waitable(bound: &BoundSocket) -> io::Result<glommio::net::UdpSocket> {
    let descriptor = bound.socket.try_clone()?.into_raw_fd();
    // JUSTIFICATION: the only door that glommio has for a socket made elsewhere; without it there is no GRO and no GSO
    // (1.36 us of CPU per KiB received with them, more than twice that without).
    // SAFETY: the descriptor was duplicated on the line above and given up by `into_raw_fd`, so nothing else owns it.
    Ok(unsafe { glommio::net::UdpSocket::from_raw_fd(descriptor) })
}
