//! Attachments: files of any size, in chunks that are messages of their own.
//!
//! A head says what the file is and has the hash of every chunk; the chunks follow. Each is sealed, signed, counted in the recipient's
//! quota and durable as any message is, so nothing here asks anything new of a node. [`Agent::send_file`] sends one and goes on where it
//! was after a crash; [`Attachments`] puts files together from a mailbox's deliveries and goes on, too. `docs/attachments.md` has the
//! bytes, and what becomes of a file when somebody dies in between.
//!
//! [`Agent::send_file`]: crate::Agent::send_file

use std::io;
use std::path::{Path, PathBuf};

use creto_envelope::attachment::AttachmentPart;

use crate::error::SendError;
use crate::receiver::Delivery;

mod journal;
mod receive;
mod send;
mod spool;

pub use creto_envelope::attachment::{AttachmentId, CHUNKS_MAX, is_file_name};
pub use journal::UPLOAD_FORMAT;
pub use receive::{AttachmentLimits, Attachments, Later, PartTaken, ReceivedFile, Refusal, Taken};
pub use send::{FileProgress, FileToSend, SentFile};
pub use spool::PARTS_FORMAT;

/// Why a file cannot be sent, or received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachmentError {
    /// A file cannot be worked on.
    #[error("{path} cannot be {doing}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What was to be done.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file's name cannot be the name of an attachment.
    #[error(
        "{name:?} cannot name an attachment: give a name of 1 to 255 bytes without / and \\ and control characters"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The media type, or the note, breaks a limit.
    #[error(
        "the media type or the note is too long: the type takes 127 printable characters, all that describes a file one message"
    )]
    Description,
    /// The file is larger than attachments can be.
    #[error("the file has {bytes} bytes, and an attachment at most {max}: split it")]
    TooLarge {
        /// Bytes of the file.
        bytes: u64,
        /// Most that there may be.
        max: u64,
    },
    /// The file was written to while it was sent.
    #[error(
        "{path} was changed while it was sent: what is there already is of no use to anybody; send it again when it rests"
    )]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// It took longer to send than its parts live at the node.
    #[error(
        "the first parts of the file are {} s old and may have expired before it was whole: send it again, with a longer time to live, \
         when its recipient reads what is there", .age.as_secs()
    )]
    Expired {
        /// Age of the first part.
        age: std::time::Duration,
    },
    /// Parts of files do not destroy themselves.
    #[error(
        "an attachment cannot destroy itself: its parts lie on the recipient's disk; send what must go in a message"
    )]
    SelfDestruct,
    /// Another process works with the same file of progress, or the same folder.
    #[error("{path} is in use by another process: wait for it, or name another one")]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// A part of it cannot be sent.
    #[error(transparent)]
    Send(#[from] SendError),
}

fn failed<'a>(path: &'a Path, doing: &'static str) -> impl FnOnce(io::Error) -> AttachmentError + use<'a> {
    move |source| AttachmentError::File { path: path.to_owned(), doing, source }
}

impl Delivery {
    /// Whether this message is a part of an attachment: give it to [`Attachments::take`].
    #[must_use]
    pub fn is_attachment_part(&self) -> bool {
        self.attachment_id().is_some()
    }

    /// The attachment that this message is a part of, among those of its sender.
    #[must_use]
    pub fn attachment_id(&self) -> Option<AttachmentId> {
        if self.kind != creto_envelope::Kind::Direct {
            return None;
        }
        match AttachmentPart::parse(&self.payload) {
            Ok(Some(AttachmentPart::Head(head))) => Some(head.id),
            Ok(Some(AttachmentPart::Chunk(chunk))) => Some(chunk.id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
