//! Connection ids that say whose they are.
//!
//! ```text
//!  0       1            5        8
//! +-------+------------+--------+
//! | shard | 4 random   | 3 tag  |
//! +-------+------------+--------+
//! ```
//!
//! The first byte is the shard that owns the connection, so a shard that receives a stranger's datagram knows where to
//! forward it without asking anyone. The tag (HMAC-SHA256 under the node's key, truncated) tells our ids from noise and
//! from those that a client invents for its first packet; a lucky guess (1 in 2^24) only moves a whole handshake to
//! another shard.

use aws_lc_rs::{hkdf, hmac};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

/// Bytes of a connection id.
pub const CONNECTION_ID_BYTES: usize = 8;
const TAG_AT: usize = 5;

/// Keys that every shard of a node shares, all derived from one secret of the node (its TLS key does).
///
/// The same secret after a restart gives the same keys. That matters: a restarted node can then answer packets of its
/// former life with stateless resets that the agents believe, and they reconnect at once instead of after the idle
/// timeout.
#[derive(Clone)]
pub struct NodeKeys {
    pub(crate) cid: hmac::Key,
    pub(crate) reset: [u8; 32],
    pub(crate) token: [u8; 32],
}

impl std::fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKeys(..)")
    }
}

impl NodeKeys {
    /// Derives the keys. `secret` must hold at least 32 bytes of entropy.
    pub fn derive(secret: &[u8]) -> Self {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"creto/node-keys/v1").extract(secret);
        let cid = expand(&prk, b"connection id");
        Self {
            cid: hmac::Key::new(hmac::HMAC_SHA256, &cid),
            reset: expand(&prk, b"stateless reset"),
            token: expand(&prk, b"retry token"),
        }
    }

    fn tag(&self, head: &[u8]) -> [u8; CONNECTION_ID_BYTES - TAG_AT] {
        let tag = hmac::sign(&self.cid, head);
        let mut short = [0; CONNECTION_ID_BYTES - TAG_AT];
        short.copy_from_slice(&tag.as_ref()[..CONNECTION_ID_BYTES - TAG_AT]);
        short
    }

    fn made(&self, id: &[u8]) -> bool {
        id.len() == CONNECTION_ID_BYTES && self.tag(&id[..TAG_AT]) == id[TAG_AT..]
    }
}

fn expand(prk: &hkdf::Prk, label: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    prk.expand(&[label], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .expect("32 bytes is below the limit of HKDF-SHA256");
    out
}

/// The other shard that owns the connection of a datagram which arrived at shard `here`; `None` when it is to be handled
/// here: it is ours, or the first packet of a handshake, or noise.
///
/// Looks at the first QUIC packet of the datagram only; all packets of one datagram are for one connection (RFC 9000,
/// section 12.2). A datagram of our own costs one comparison. One for another shard costs an HMAC (0.3 us), so that nobody
/// without an id of ours can make one shard send noise to another.
pub fn owner_shard(keys: &NodeKeys, here: u8, datagram: &[u8]) -> Option<u8> {
    const LONG_HEADER: u8 = 0x80;
    const VERSION_1: [u8; 4] = [0, 0, 0, 1];

    let (&first, rest) = datagram.split_first()?;
    let id = if first & LONG_HEADER == 0 {
        rest.get(..CONNECTION_ID_BYTES)?
    } else {
        let (version, rest) = rest.split_at_checked(4)?;
        let (&id_bytes, rest) = rest.split_first()?;
        if version != VERSION_1 {
            return None;
        }
        rest.get(..usize::from(id_bytes))?
    };
    (id.first() != Some(&here) && keys.made(id)).then(|| id[0])
}

/// Makes the ids of one shard. `seed` must be new at every start: two lives of a node must not make the same ids.
pub(crate) struct ShardCids {
    shard_index: u8,
    keys: NodeKeys,
    seed: hmac::Key,
    made: u64,
}

impl ShardCids {
    pub(crate) fn new(shard_index: u8, keys: NodeKeys, seed: &[u8; 32]) -> Self {
        Self { shard_index, keys, seed: hmac::Key::new(hmac::HMAC_SHA256, seed), made: 0 }
    }
}

impl ConnectionIdGenerator for ShardCids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.made += 1;
        let random = hmac::sign(&self.seed, &self.made.to_le_bytes());
        let mut id = [0; CONNECTION_ID_BYTES];
        id[0] = self.shard_index;
        id[1..TAG_AT].copy_from_slice(&random.as_ref()[..TAG_AT - 1]);
        let tag = self.keys.tag(&id[..TAG_AT]);
        id[TAG_AT..].copy_from_slice(&tag);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.keys.made(id) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}
