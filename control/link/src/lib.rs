//! The link between a control service and a node of its own process, as bytes: what each says to the other, and a directory on its way.
//!
//! ```text
//! node                                      control
//! ----------------------------------------  ------------------------------------------------------------
//! Hello       version, trust domain   --->  the same trust domain?
//!             <---  Welcome                 how long a snapshot counts
//!             <---  SnapshotBegin, Agents, Channels ..., SnapshotEnd: all of it, and from then on what changed
//! Ask         a number, twice a second --->
//!             <---  Renewed                 the number: behind everything that was published before
//! Question    id, what                --->  the directory's doors
//!             <---  Answer                  id, what: behind the snapshot that belongs to it
//! ```
//!
//! - [`frame`]: every frame, and its length, which is checked before the frame is read.
//! - [`snapshot`]: agents and channels as bytes, and [`Incoming`], which makes a snapshot of what came, or says why it is refused.
//!
//! Pure: no socket, no clock. `docs/control-link.md` has every byte.
#![forbid(unsafe_code)]

mod agent;
pub mod frame;
pub mod limits;
mod reader;
pub mod snapshot;

pub use frame::{
    Answer, FrameHeader, FromControl, FromNode, Hello, LinkError, Question, Refused, RefusedLink, Welcome,
};
pub use snapshot::{Incoming, PolicyPart, SnapshotHead, SnapshotRefused};
