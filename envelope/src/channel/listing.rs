//! Frames that list channels, on the control stream. `docs/protocol.md`, section 9, says what each of them leads to.

use super::{ChannelName, ChannelPattern};
use crate::frame::{FrameType, begin_frame, finish_frame};
use crate::id::ChannelId;
use crate::limits::{CONTROL_BODY_BYTES_MAX, NAME_BYTES_MAX};
use crate::reader::Reader;
use crate::reject::RejectCode;

/// Most names in one ChannelListed frame.
pub const CHANNELS_LISTED_MAX: usize = 100;

const FLAG_WATCHED: u8 = 1;
const FLAG_CHANGED: u8 = 1;
const LISTED_HEADER_BYTES: usize = 36;
const _: () = assert!(LISTED_HEADER_BYTES + CHANNELS_LISTED_MAX * (1 + NAME_BYTES_MAX) <= CONTROL_BODY_BYTES_MAX);

/// Asks which channels there are that this agent may subscribe to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelList {
    /// Chosen by the client: the answer has the same, and so has a Reject.
    pub context: [u8; 16],
    /// What the page before said in `next`; `None` begins the listing.
    pub after: Option<ChannelId>,
    /// Whether the client wants to be told, once, when the answers may be others.
    pub is_watched: bool,
    /// What their names are like.
    pub pattern: ChannelPattern,
}

impl ChannelList {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::ChannelList);
        out.extend_from_slice(&self.context);
        out.extend_from_slice(&self.after.unwrap_or(ChannelId::ZERO).0);
        out.push(if self.is_watched { FLAG_WATCHED } else { 0 });
        put_text(out, self.pattern.as_str());
        finish_frame(out, start, FrameType::ChannelList);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or, for unknown flags and for what is no pattern, [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (context, after, flags) = (*reader.array()?, ChannelId(*reader.array()?), reader.u8()?);
        let pattern = text(&mut reader)?;
        reader.end()?;
        if flags & !FLAG_WATCHED != 0 {
            return Err(RejectCode::FrameReserved);
        }
        let pattern = ChannelPattern::parse(pattern).map_err(|_| RejectCode::FrameReserved)?;
        let after = (after != ChannelId::ZERO).then_some(after);
        Ok(Self { context, after, is_watched: flags == FLAG_WATCHED, pattern })
    }
}

/// Answers a [`ChannelList`], or says that the answers may be others now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChannelListed {
    /// Some of the channels.
    Page {
        /// The question's.
        context: [u8; 16],
        /// The listing goes on behind this, which need not be the id of any channel; `None`: that was all.
        next: Option<ChannelId>,
        /// Their names, in the listing's order; at most [`CHANNELS_LISTED_MAX`].
        names: Vec<ChannelName>,
    },
    /// The client had asked to be told: whoever lists again may get another answer. It is not told a second time.
    Changed {
        /// Of the question that asked for this.
        context: [u8; 16],
    },
}

impl ChannelListed {
    /// Appends the frame.
    ///
    /// # Panics
    /// When there are more than [`CHANNELS_LISTED_MAX`] names.
    #[allow(clippy::cast_possible_truncation, reason = "asserted to be below CHANNELS_LISTED_MAX")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_frame(out, FrameType::ChannelListed);
        let (context, next, flags, names) = match self {
            Self::Page { context, next, names } => (context, *next, 0, &names[..]),
            Self::Changed { context } => (context, None, FLAG_CHANGED, &[][..]),
        };
        assert!(names.len() <= CHANNELS_LISTED_MAX, "what is left comes with the next page");
        out.extend_from_slice(context);
        out.extend_from_slice(&next.unwrap_or(ChannelId::ZERO).0);
        out.extend_from_slice(&[flags, 0]);
        out.extend_from_slice(&(names.len() as u16).to_le_bytes());
        for name in names {
            put_text(out, name.as_str());
        }
        finish_frame(out, start, FrameType::ChannelListed);
    }

    /// Parses the body.
    ///
    /// # Errors
    /// [`RejectCode::FrameLength`] or [`RejectCode::FrameReserved`].
    pub fn parse(body: &[u8]) -> Result<Self, RejectCode> {
        let mut reader = Reader::new(body, RejectCode::FrameLength);
        let (context, next, flags) = (*reader.array()?, ChannelId(*reader.array()?), reader.u8()?);
        reader.zeros(1, RejectCode::FrameReserved)?;
        let count = usize::from(reader.u16()?);
        if count > CHANNELS_LISTED_MAX {
            return Err(RejectCode::FrameLength);
        }
        let name = |_| ChannelName::parse(text(&mut reader)?).map_err(|_| RejectCode::FrameReserved);
        let names: Vec<_> = (0..count).map(name).collect::<Result<_, _>>()?;
        reader.end()?;
        match (flags, next == ChannelId::ZERO) {
            (0, is_last) => Ok(Self::Page { context, next: (!is_last).then_some(next), names }),
            (FLAG_CHANGED, true) if names.is_empty() => Ok(Self::Changed { context }),
            _ => Err(RejectCode::FrameReserved),
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("names and patterns have at most 128 bytes"));
    out.extend_from_slice(text.as_bytes());
}

fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, RejectCode> {
    let length = usize::from(reader.u8()?);
    std::str::from_utf8(reader.take(length)?).map_err(|_| RejectCode::FrameReserved)
}
