//! Attachments: files that are larger than a message, as a head that says what they are and chunks that are messages of their own.
//! The payloads of envelopes of kind direct, before they are sealed; `docs/attachments.md` gives every byte.

use crate::limits::PAYLOAD_PLAINTEXT_BYTES_MAX;

/// Bytes before a chunk's content.
pub const CHUNK_HEADER_BYTES: usize = 40;
/// Most bytes of content in one chunk.
pub const CHUNK_BYTES_MAX: usize = PAYLOAD_PLAINTEXT_BYTES_MAX - CHUNK_HEADER_BYTES;
/// Bytes of a head before the name.
pub const HEAD_FIXED_BYTES: usize = 40;
/// Longest name of a file, in bytes.
pub const FILE_NAME_BYTES_MAX: usize = 255;
/// Longest media type, in bytes.
pub const MEDIA_TYPE_BYTES_MAX: usize = 127;
/// Most chunks of one attachment: with chunks of the largest size 31.9 GiB.
pub const CHUNKS_MAX: usize = 32_640;

// No UTF-8 text begins with 0xff.
const MAGIC: [u8; 3] = *b"\xffAT";
/// The version that this code reads and writes.
const VERSION: u8 = 1;
const HEAD: u8 = 0;
const CHUNK: u8 = 1;

// The largest head is a message.
const _: () = assert!(
    HEAD_FIXED_BYTES + FILE_NAME_BYTES_MAX + MEDIA_TYPE_BYTES_MAX + CHUNKS_MAX * 32 <= PAYLOAD_PLAINTEXT_BYTES_MAX
);

/// Names an attachment of one sender: random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AttachmentId(pub [u8; 16]);

/// A payload that says it belongs to an attachment, and breaks a rule of that or is of a later version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// A message that belongs to an attachment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AttachmentPart<'a> {
    /// What the file is.
    Head(AttachmentHead<'a>),
    /// A piece of it.
    Chunk(AttachmentChunk<'a>),
}

/// What a file is, and the hashes of its chunks.
///
/// ```text
///  0 [3] 0xff "AT" | 3 u8 version = 1 | 4 u8 0 (head) | 5 [3] zero
///  8 [16] id | 24 u64 bytes | 32 u32 chunk bytes | 36 u16 name bytes | 38 u16 media type bytes
/// 40 name | media type | [32] SHA-256 of each chunk | note
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachmentHead<'a> {
    /// Which attachment.
    pub id: AttachmentId,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of each chunk but the last, 1 to [`CHUNK_BYTES_MAX`].
    pub chunk_bytes: u32,
    /// The file's name, one that [`is_file_name`] takes.
    pub name: &'a str,
    /// Its media type (RFC 6838), or nothing.
    pub media_type: &'a str,
    /// SHA-256 of each chunk, in order.
    pub chunk_hashes: &'a [[u8; 32]],
    /// The application's own words about it.
    pub note: &'a [u8],
}

/// A piece of a file.
///
/// ```text
///  0 [3] 0xff "AT" | 3 u8 version = 1 | 4 u8 1 (chunk) | 5 [3] zero
///  8 [16] id | 24 u32 index | 28 u32 chunk bytes | 32 u64 bytes of the file | 40 content
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttachmentChunk<'a> {
    /// Of which attachment.
    pub id: AttachmentId,
    /// Which chunk, from 0; below [`CHUNKS_MAX`].
    pub index: u32,
    /// Bytes of each chunk but the last, as its head says.
    pub chunk_bytes: u32,
    /// Bytes of the file, as its head says: whoever has no room for it need not take the first chunk.
    pub bytes: u64,
    /// As many bytes as this chunk has in a file of that size.
    pub content: &'a [u8],
}

/// Whether a text can name a file: 1 to [`FILE_NAME_BYTES_MAX`] bytes, none of `/` and `\`, neither `.` nor `..`, and no character that
/// only controls how others look: control characters, separators of lines, directions and joiners. A receiver makes a file of this name in
/// a folder of its own, and nowhere else.
#[must_use]
pub fn is_file_name(name: &str) -> bool {
    (1..=FILE_NAME_BYTES_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.chars().any(|c| c.is_control() || is_format(c) || matches!(c, '/' | '\\'))
}

/// Characters of Unicode's categories Cf, Zl and Zp: invisible, and able to show a name as another one.
fn is_format(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}')
}

fn is_media_type(text: &str) -> bool {
    text.len() <= MEDIA_TYPE_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// How many chunks a file has.
#[must_use]
pub fn chunk_count(bytes: u64, chunk_bytes: u32) -> u64 {
    bytes.div_ceil(u64::from(chunk_bytes.max(1)))
}

/// Bytes of one chunk of a file.
fn bytes_of_chunk(bytes: u64, chunk_bytes: u32, index: u32) -> usize {
    let begin = u64::from(index) * u64::from(chunk_bytes);
    usize::try_from(bytes.saturating_sub(begin).min(u64::from(chunk_bytes))).expect("a chunk is smaller than a message")
}

impl<'a> AttachmentPart<'a> {
    /// Whether a payload says that it belongs to an attachment.
    #[must_use]
    pub fn is_claimed(payload: &[u8]) -> bool {
        payload.starts_with(&MAGIC)
    }

    /// Reads the payload of a message of kind direct; `None` when it does not begin as one of an attachment does, and is the
    /// application's alone.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(payload: &'a [u8]) -> Result<Option<Self>, Malformed> {
        if !Self::is_claimed(payload) {
            return Ok(None);
        }
        let [_, _, _, VERSION, part, 0, 0, 0, ..] = *payload else { return Err(Malformed) };
        match part {
            HEAD => AttachmentHead::parse(payload).map(Self::Head),
            CHUNK => AttachmentChunk::parse(payload).map(Self::Chunk),
            _ => Err(Malformed),
        }
        .map(Some)
    }
}

/// The field at a place that was checked to lie inside.
fn field<const BYTES: usize>(bytes: &[u8], at: usize) -> [u8; BYTES] {
    *bytes[at..].first_chunk().expect("every field lies inside the fixed part")
}

impl<'a> AttachmentHead<'a> {
    /// The payload; `None` when a rule is broken, or it is larger than a message.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "both lengths are checked to be below their limits")]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let bytes =
            HEAD_FIXED_BYTES + self.name.len() + self.media_type.len() + self.chunk_hashes.len() * 32 + self.note.len();
        if !self.holds() || bytes > PAYLOAD_PLAINTEXT_BYTES_MAX {
            return None;
        }
        let mut out = Vec::with_capacity(bytes);
        begin(&mut out, HEAD, self.id);
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.chunk_bytes.to_le_bytes());
        out.extend_from_slice(&(self.name.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.media_type.len() as u16).to_le_bytes());
        for part in [self.name.as_bytes(), self.media_type.as_bytes(), self.chunk_hashes.as_flattened(), self.note] {
            out.extend_from_slice(part);
        }
        Some(out)
    }

    fn holds(&self) -> bool {
        is_file_name(self.name)
            && is_media_type(self.media_type)
            && (1..=CHUNK_BYTES_MAX).contains(&(self.chunk_bytes as usize))
            && self.chunk_hashes.len() <= CHUNKS_MAX
            && chunk_count(self.bytes, self.chunk_bytes) == self.chunk_hashes.len() as u64
    }

    fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = payload.split_at_checked(HEAD_FIXED_BYTES).ok_or(Malformed)?;
        let bytes = u64::from_le_bytes(field(fixed, 24));
        let chunk_bytes = u32::from_le_bytes(field(fixed, 32));
        let name_bytes = usize::from(u16::from_le_bytes(field(fixed, 36)));
        let media_type_bytes = usize::from(u16::from_le_bytes(field(fixed, 38)));
        // Before anything is taken that they count.
        let chunks = chunk_count(bytes, chunk_bytes);
        let chunks = usize::try_from(chunks).ok().filter(|chunks| *chunks <= CHUNKS_MAX).ok_or(Malformed)?;
        let (name, rest) = rest.split_at_checked(name_bytes).ok_or(Malformed)?;
        let (media_type, rest) = rest.split_at_checked(media_type_bytes).ok_or(Malformed)?;
        let (hashes, note) = rest.split_at_checked(chunks * 32).ok_or(Malformed)?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| Malformed);
        let head = Self {
            id: AttachmentId(field(fixed, 8)),
            bytes,
            chunk_bytes,
            name: text(name)?,
            media_type: text(media_type)?,
            chunk_hashes: hashes.as_chunks().0,
            note,
        };
        if head.holds() { Ok(head) } else { Err(Malformed) }
    }

    /// Bytes of one chunk of the file.
    #[must_use]
    pub fn bytes_of_chunk(&self, index: u32) -> usize {
        bytes_of_chunk(self.bytes, self.chunk_bytes, index)
    }
}

impl<'a> AttachmentChunk<'a> {
    /// Where its content begins in the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::from(self.index) * u64::from(self.chunk_bytes)
    }

    /// The payload; `None` when a rule is broken.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        if !self.holds() {
            return None;
        }
        let mut out = Vec::with_capacity(CHUNK_HEADER_BYTES + self.content.len());
        begin(&mut out, CHUNK, self.id);
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.chunk_bytes.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(self.content);
        Some(out)
    }

    fn holds(&self) -> bool {
        (self.index as usize) < CHUNKS_MAX
            && self.chunk_bytes as usize <= CHUNK_BYTES_MAX
            && chunk_count(self.bytes, self.chunk_bytes) <= CHUNKS_MAX as u64
            && !self.content.is_empty()
            && self.content.len() == bytes_of_chunk(self.bytes, self.chunk_bytes, self.index)
    }

    fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, content) = payload.split_at_checked(CHUNK_HEADER_BYTES).ok_or(Malformed)?;
        let (index, chunk_bytes) = (u32::from_le_bytes(field(fixed, 24)), u32::from_le_bytes(field(fixed, 28)));
        let bytes = u64::from_le_bytes(field(fixed, 32));
        let chunk = Self { id: AttachmentId(field(fixed, 8)), index, chunk_bytes, bytes, content };
        if chunk.holds() { Ok(chunk) } else { Err(Malformed) }
    }
}

fn begin(out: &mut Vec<u8>, part: u8, id: AttachmentId) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, part, 0, 0, 0]);
    out.extend_from_slice(&id.0);
}

#[cfg(test)]
mod tests;
