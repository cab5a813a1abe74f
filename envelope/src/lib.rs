//! The message as bytes: envelopes, signed batches, key records, and the frames that carry them.
//!
//! Everything that another implementation must agree on is here and in `docs/envelope-format.md` and
//! `docs/protocol.md`, which give every byte. This crate is pure: slices in, views and bytes out. It has no keys and
//! verifies no signature; it says which bytes are hashed and signed.
//!
//! What comes from outside is viewed in place, and only after it was checked: a `parse` either returns a view whose
//! fields can be trusted to be within their limits, or the [`RejectCode`] of the first rule that was broken.
#![forbid(unsafe_code)]

pub mod attachment;
pub mod batch;
pub mod channel;
pub mod control;
pub mod deliver;
pub mod enrol;
pub mod envelope;
pub mod frame;
pub mod id;
pub mod key_log;
pub mod key_record;
pub mod letters;
pub mod limits;
pub mod notice;
pub mod prekeys;
pub mod presence;
pub mod proof;
mod reader;
pub mod receipt;
pub mod reject;
pub mod request;
pub mod self_destruct;
pub mod signal;
pub mod submit;
pub mod thread;
pub mod trace;

pub use batch::{BatchHeader, BatchHeaderView, BatchView, EntrySpan, SignatureSuite, Statement, TreeDigest};
pub use envelope::{EnvelopeHeader, EnvelopeView, InSession, Kind, Priority, Suite};
pub use frame::{FrameHeader, FrameType};
pub use id::{AgentId, AgentName, ChannelId, GroupId, KeyId, MessageId, TrustDomain};
pub use key_record::{AgentState, KeyRecord, Purpose, SignedKeyRecord};
pub use reject::RejectCode;
