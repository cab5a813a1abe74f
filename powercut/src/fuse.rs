//! As much of the kernel's FUSE protocol (7.31, `linux/fuse.h`) as a file system of one folder with one file needs. Bytes
//! in, bytes out: it knows nothing of drives, files or threads.

use std::fmt;

/// The one file; the folder it is in has the number 1.
pub(crate) const VOLUME: u64 = 2;
/// Its name.
pub(crate) const VOLUME_NAME: &str = "volume";
/// Most bytes of one write request.
pub(crate) const WRITE_BYTES_MAX: usize = 1 << 20;
/// What a request of the kernel fits into: the largest write, its headers, and room.
pub(crate) const REQUEST_BYTES_MAX: usize = WRITE_BYTES_MAX + 64 * 1024;

const IN_HEADER_BYTES: usize = 40;
const OUT_HEADER_BYTES: usize = 16;
const MAJOR: u32 = 7;
const MINOR: u32 = 31;
const PAGE_BYTES: usize = 4_096;

const FLAG_ASYNC_READ: u32 = 1;
const FLAG_BIG_WRITES: u32 = 1 << 5;
const FLAG_MAX_PAGES: u32 = 1 << 22;
// Absent on purpose: FUSE_WRITEBACK_CACHE. A write that the kernel keeps to itself is not seen here.

/// The kernel keeps no page of the file: what it reads comes from here, also after a cut.
const OPEN_DIRECT_IO: u32 = 1;
const OPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

const MODE_FOLDER: u32 = 0o040_700;
const MODE_FILE: u32 = 0o100_600;

/// An error number for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(i32);

impl Errno {
    pub(crate) const NO_ENTRY: Self = Self(2);
    pub(crate) const IO: Self = Self(5);
    pub(crate) const NOT_SUPPORTED: Self = Self(38);
}

/// What the kernel asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    Init,
    Lookup {
        name: &'a [u8],
    },
    Attributes {
        node: u64,
    },
    Open,
    Read {
        at: u64,
        bytes: usize,
    },
    Write {
        at: u64,
        bytes: &'a [u8],
    },
    Sync,
    StatFs,
    /// A file or folder was closed: says nothing about durability.
    Done,
    /// Nothing is to be answered.
    Silent,
    /// Something that this file system does without.
    Other,
}

/// One request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) unique: u64,
    pub(crate) operation: Operation<'a>,
}

/// What came is not what the kernel sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the kernel sent a FUSE request that is not understood")
    }
}

impl<'a> Request<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let opcode = u32_at(bytes, 4)?;
        let unique = u64_at(bytes, 8)?;
        let node = u64_at(bytes, 16)?;
        let body = bytes.get(IN_HEADER_BYTES..).ok_or(Malformed)?;
        let operation = match opcode {
            1 => Operation::Lookup { name: body.strip_suffix(&[0]).unwrap_or(body) },
            2 | 36 | 42 => Operation::Silent,
            3 | 4 => Operation::Attributes { node },
            14 | 27 => Operation::Open,
            15 => Operation::Read { at: u64_at(body, 8)?, bytes: u32_at(body, 16)? as usize },
            16 => {
                let bytes = u32_at(body, 16)? as usize;
                Operation::Write { at: u64_at(body, 8)?, bytes: body.get(40..40 + bytes).ok_or(Malformed)? }
            }
            17 => Operation::StatFs,
            18 | 25 | 29 | 38 => Operation::Done,
            20 => Operation::Sync,
            26 => Operation::Init,
            _ => Operation::Other,
        };
        Ok(Self { unique, operation })
    }
}

/// An answer that is an error.
pub(crate) fn refuse(unique: u64, errno: Errno) -> Vec<u8> {
    Answer::new(unique, -errno.0).finish()
}

/// An answer without content.
pub(crate) fn done(unique: u64) -> Vec<u8> {
    Answer::new(unique, 0).finish()
}

/// What was read.
pub(crate) fn content(unique: u64, bytes: &[u8]) -> Vec<u8> {
    let mut answer = Answer::new(unique, 0);
    answer.0.extend_from_slice(bytes);
    answer.finish()
}

/// How much was written.
pub(crate) fn written(unique: u64, bytes: usize) -> Vec<u8> {
    Answer::new(unique, 0).u32(short(bytes)).u32(0).finish()
}

/// The protocol that is spoken.
pub(crate) fn init(unique: u64) -> Vec<u8> {
    let flags = FLAG_ASYNC_READ | FLAG_BIG_WRITES | FLAG_MAX_PAGES;
    let pages = short(WRITE_BYTES_MAX / PAGE_BYTES);
    let answer = Answer::new(unique, 0).u32(MAJOR).u32(MINOR).u32(0).u32(flags);
    // Requests in the background and where congestion begins, two numbers of 16 bits in each field.
    let answer = answer.u32(64 | 48 << 16).u32(short(WRITE_BYTES_MAX)).u32(1).u32(pages);
    (0..8).fold(answer, |answer, _| answer.u32(0)).finish()
}

/// The file by its name.
pub(crate) fn entry(unique: u64, file_bytes: usize) -> Vec<u8> {
    let answer = Answer::new(unique, 0).u64(VOLUME).u64(0).u64(0).u64(0).u32(0).u32(0);
    answer.attributes(VOLUME, file_bytes).finish()
}

/// What the folder or the file is.
pub(crate) fn attributes(unique: u64, node: u64, file_bytes: usize) -> Vec<u8> {
    Answer::new(unique, 0).u64(0).u32(0).u32(0).attributes(node, file_bytes).finish()
}

/// The file is open.
pub(crate) fn opened(unique: u64) -> Vec<u8> {
    Answer::new(unique, 0).u64(0).u32(OPEN_DIRECT_IO | OPEN_PARALLEL_DIRECT_WRITES).u32(0).finish()
}

/// Sizes that nobody relies on.
pub(crate) fn stat_fs(unique: u64, file_bytes: usize) -> Vec<u8> {
    let blocks = (file_bytes / PAGE_BYTES) as u64;
    let answer = Answer::new(unique, 0).u64(blocks).u64(0).u64(0).u64(2).u64(0);
    let answer = answer.u32(short(PAGE_BYTES)).u32(255).u32(short(PAGE_BYTES));
    (0..7).fold(answer, |answer, _| answer.u32(0)).finish()
}

struct Answer(Vec<u8>);

impl Answer {
    fn new(unique: u64, error: i32) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&error.to_le_bytes());
        bytes.extend_from_slice(&unique.to_le_bytes());
        debug_assert_eq!(bytes.len(), OUT_HEADER_BYTES);
        Self(bytes)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn attributes(self, node: u64, file_bytes: usize) -> Self {
        let (mode, size) = if node == VOLUME { (MODE_FILE, file_bytes as u64) } else { (MODE_FOLDER, 0) };
        let answer = self.u64(node).u64(size).u64(size / 512).u64(0).u64(0).u64(0).u32(0).u32(0).u32(0);
        answer.u32(mode).u32(1).u32(0).u32(0).u32(0).u32(short(PAGE_BYTES)).u32(0)
    }

    fn finish(mut self) -> Vec<u8> {
        let bytes = short(self.0.len());
        self.0[..4].copy_from_slice(&bytes.to_le_bytes());
        self.0
    }
}

/// A number that the limits above keep far below 2^32.
fn short(value: usize) -> u32 {
    u32::try_from(value).expect("requests and answers are limited to a little above a MiB")
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|chunk| u32::from_le_bytes(*chunk)).ok_or(Malformed)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Malformed> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|chunk| u64::from_le_bytes(*chunk)).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; IN_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
        bytes[8..16].copy_from_slice(&77_u64.to_le_bytes());
        bytes[16..24].copy_from_slice(&VOLUME.to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn a_write_is_its_place_and_its_bytes() {
        let mut body = vec![0; 40];
        body[8..16].copy_from_slice(&4_096_u64.to_le_bytes());
        body[16..20].copy_from_slice(&3_u32.to_le_bytes());
        body.extend_from_slice(b"abc");
        let bytes = request(16, &body);
        let operation = Operation::Write { at: 4_096, bytes: b"abc" };
        assert_eq!(Request::parse(&bytes), Ok(Request { unique: 77, operation }));
        assert_eq!(Request::parse(&bytes[..bytes.len() - 1]), Err(Malformed));
    }

    #[test]
    fn answers_have_the_sizes_of_the_kernels_header() {
        let header = OUT_HEADER_BYTES;
        for (answer, bytes) in [
            (done(1), 0),
            (refuse(1, Errno::IO), 0),
            (init(1), 64),
            (entry(1, 4_096), 128),
            (attributes(1, 1, 4_096), 104),
            (opened(1), 16),
            (written(1, 512), 8),
            (stat_fs(1, 4_096), 80),
            (content(1, &[1, 2, 3]), 3),
        ] {
            assert_eq!(answer.len(), header + bytes);
            assert_eq!(u32_at(&answer, 0), Ok(short(answer.len())));
        }
    }
}
