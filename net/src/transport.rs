//! QUIC transport parameters, for the node and for agents.
//!
//! Stated, so that nobody has to look them up: congestion control is CUBIC with quinn's initial window of about 14 KB,
//! loss after 3 packets or 9/8 RTT, MTU discovery up to [`NetLimits::mtu_upper_bound`], no datagram extension, no
//! unidirectional streams, no spin bit.
//!
//! Both sides ask the other to acknowledge less often than every second packet (`ack_frequency`): a batch of messages is a
//! dozen packets, and what answers it leaves a millisecond later and takes the acknowledgement along. A full stream does not
//! care (0.67 us per KiB with 2, 10 or 25 packets per acknowledgement); a node that is not full sleeps through what would
//! have been a third of its datagrams.

use std::time::Duration;

use quinn_proto::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::limits::NetLimits;

/// Interval of an agent's keep-alive packets unless the limits name one. Not a third of the idle timeout but a tenth: a
/// quiet subscriber learns that its node was restarted from the answer to its next packet, and not before.
const AGENT_KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Packets after which an acknowledgement is due at once. A window of fewer packets waits [`ACK_DELAY`] for it, which a
/// connection that begins does twice.
const ACK_PACKETS: u32 = 32;
/// Longest time that an acknowledgement waits for something to go with: longer than a message takes to be durable.
const ACK_DELAY: Duration = Duration::from_millis(5);

/// Transport of the node's side.
pub fn server_transport(limits: &NetLimits) -> TransportConfig {
    let mut transport = common(limits);
    let window = limits.connection_window_bytes_before_login.min(limits.connection_window_bytes);
    transport
        // `Endpoint::authenticated` opens it to its full size.
        .receive_window(VarInt::from_u32(window))
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.streams_per_connection_max))
        .keep_alive_interval(limits.keep_alive_ms.map(|ms| Duration::from_millis(u64::from(ms))));
    transport
}

/// Transport of an agent's side: the same windows, keep-alives on, no streams opened by the node.
pub fn client_transport(limits: &NetLimits) -> TransportConfig {
    let mut transport = common(limits);
    let keep_alive = limits.keep_alive_ms.map_or(AGENT_KEEP_ALIVE, |ms| Duration::from_millis(u64::from(ms)));
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0)).keep_alive_interval(Some(keep_alive));
    transport
}

fn common(limits: &NetLimits) -> TransportConfig {
    let mut mtu_discovery = MtuDiscoveryConfig::default();
    mtu_discovery.upper_bound(limits.mtu_upper_bound);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(limits.stream_window_bytes))
        .receive_window(VarInt::from_u32(limits.connection_window_bytes))
        .send_window(limits.send_window_bytes)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(limits.idle_timeout_ms))))
        .mtu_discovery_config(Some(mtu_discovery))
        .ack_frequency_config(Some(ack_frequency()))
        .allow_spin(false);
    transport
}

/// What a side asks of the other's acknowledgements (draft-ietf-quic-ack-frequency): one for [`ACK_PACKETS`] packets, or after
/// [`ACK_DELAY`]; at once for what is out of order, as without the extension, and when a probe asks for it.
fn ack_frequency() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config.ack_eliciting_threshold(VarInt::from_u32(ACK_PACKETS - 1)).max_ack_delay(Some(ACK_DELAY));
    config
}
