//! How chains are stored: a versioned form with one encoding of each state, and a checksum.
//!
//! ```text
//!  0 u8 version = 1 | 1 u8 kind (1 send, 2 receive, 3 channel send, 4 channel key) | 2 [6] zero | 8 [16] session id | 24 u64 counter | 32 [32] chain key
//! 64 receive only: settled bits below the counter as u64 words | the keys of the others, ascending
//! 64 of a channel only: [16] channel id | [16] publisher's id
//!    then [16] SHA-256 of everything before it, cut
//! ```
//!
//! The checksum finds what a disk did, not what an attacker did: whoever can write here holds the keys anyway.

use zeroize::Zeroizing;

use super::{KEY_BYTES, Key, SESSION_MESSAGES_MAX, SessionId};
use crate::digest::sha256;

const STATE_VERSION: u8 = 1;
/// Version, kind, zeros, session id, counter.
const HEAD_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 16;

/// Which end of a session a state is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Send = 1,
    Receive = 2,
    ChannelSend = 3,
    ChannelKey = 4,
}

/// Writes a state into memory that was asked for once, so that no copy is left behind when it grows.
pub(super) struct Writer {
    bytes: Zeroizing<Vec<u8>>,
}

impl Writer {
    /// `content_bytes` is what follows the counter.
    pub(super) fn new(kind: Kind, content_bytes: usize, session_id: &SessionId) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEAD_BYTES + content_bytes + CHECKSUM_BYTES));
        bytes.extend_from_slice(&[STATE_VERSION, kind as u8, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(session_id);
        Self { bytes }
    }

    pub(super) fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        assert!(self.bytes.len() + bytes.len() <= self.bytes.capacity(), "a state has the length that it was given");
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn finish(mut self) -> Zeroizing<Vec<u8>> {
        let checksum = checksum(&self.bytes);
        self.bytes(&checksum);
        self.bytes
    }
}

/// Takes a state apart; nothing is believed before its checksum held.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(kind: Kind, bytes: &'a [u8]) -> Result<(Self, SessionId), SessionStateError> {
        let version = *bytes.first().ok_or(SessionStateError::Damaged)?;
        if version != STATE_VERSION {
            return Err(SessionStateError::Version { found: version });
        }
        let (content, found) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(SessionStateError::Damaged)?;
        if checksum(content) != *found {
            return Err(SessionStateError::Damaged);
        }
        let mut reader = Self { rest: content };
        if reader.take::<8>()? != &[STATE_VERSION, kind as u8, 0, 0, 0, 0, 0, 0] {
            return Err(SessionStateError::Content);
        }
        let session_id = *reader.take()?;
        match session_id == [0; 16] {
            true => Err(SessionStateError::Content),
            false => Ok((reader, session_id)),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], SessionStateError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(SessionStateError::Content)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn number(&mut self) -> Result<u64, SessionStateError> {
        self.take().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Sixteen bytes that name something.
    pub(super) fn id(&mut self) -> Result<[u8; 16], SessionStateError> {
        self.take().copied()
    }

    /// A counter at or below the end of a session.
    pub(super) fn counter(&mut self) -> Result<u64, SessionStateError> {
        self.number().and_then(|counter| match counter <= SESSION_MESSAGES_MAX {
            true => Ok(counter),
            false => Err(SessionStateError::Content),
        })
    }

    pub(super) fn key(&mut self) -> Result<Key, SessionStateError> {
        self.take::<KEY_BYTES>().map(|key| Zeroizing::new(*key))
    }

    pub(super) fn finish(self) -> Result<(), SessionStateError> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(SessionStateError::Content),
        }
    }
}

/// A chain that is used up holds no key; any other holds one.
pub(super) fn check_chain(counter: u64, chain: &Key) -> Result<(), SessionStateError> {
    let is_erased = chain.iter().fold(0, |or, byte| or | byte) == 0;
    match is_erased == (counter == SESSION_MESSAGES_MAX) {
        true => Ok(()),
        false => Err(SessionStateError::Content),
    }
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    *sha256(&[content]).first_chunk().expect("32 bytes hold 16")
}

/// Why stored bytes are no session. A session that cannot be read is dropped; its peer opens a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionStateError {
    /// Written by a version that this code does not know.
    #[error("session state has version {found}, this program reads 1: use the program that wrote it")]
    Version {
        /// The version that was found.
        found: u8,
    },
    /// Cut short, or changed on the disk.
    #[error(
        "session state is cut short or damaged: drop the session; a sender opens a new one with its next message, a recipient when its sender renews it"
    )]
    Damaged,
    /// Whole, but not what a session can be.
    #[error(
        "session state contradicts itself: drop the session; a sender opens a new one with its next message, a recipient when its sender renews it"
    )]
    Content,
}
