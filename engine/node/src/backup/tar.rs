//! The tar archives of backups: POSIX ustar, plain files only, every byte of it determined by name, length and time.
//!
//! Any tar unpacks them. Reading one back is stricter than tar is: a header must have exactly the bytes that this file
//! writes for it, and padding must be zeros, so that a changed byte is found wherever it is.

use std::io::{self, Read, Write};

pub(crate) const TAR_BLOCK_BYTES: usize = 512;
/// Largest file that a header can describe.
pub(crate) const TAR_FILE_BYTES_MAX: u64 = (1 << 33) - 1;
/// Two blocks of zeros end an archive.
pub(crate) const TAR_END: [u8; 2 * TAR_BLOCK_BYTES] = [0; 2 * TAR_BLOCK_BYTES];

/// A file's header. `None` when the name or the length does not fit into one.
pub(crate) fn header(name: &str, bytes: u64, modified_s: u64) -> Option<[u8; TAR_BLOCK_BYTES]> {
    if name.is_empty() || name.len() >= 100 || bytes > TAR_FILE_BYTES_MAX || modified_s > TAR_FILE_BYTES_MAX {
        return None;
    }
    let mut block = [0; TAR_BLOCK_BYTES];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{bytes:011o}\0"));
    put(136, &format!("{modified_s:011o}\0"));
    // The checksum counts its own field as spaces.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(block)
}

/// Zeros from `bytes` to the next block.
pub(crate) fn padding_bytes(bytes: u64) -> usize {
    let over = usize::try_from(bytes % TAR_BLOCK_BYTES as u64).expect("less than a block");
    (TAR_BLOCK_BYTES - over) % TAR_BLOCK_BYTES
}

/// What stands at the next place of an archive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    File { name: String, bytes: u64 },
    End,
}

/// Reads the next header; at the end, also checks that nothing follows. `Ok(None)`: these bytes are not what
/// [`header`] writes.
pub(crate) fn next_entry(from: &mut impl Read) -> io::Result<Option<Entry>> {
    let mut block = [0; TAR_BLOCK_BYTES];
    from.read_exact(&mut block)?;
    if block.iter().all(|&byte| byte == 0) {
        from.read_exact(&mut block)?;
        let is_end = block.iter().all(|&byte| byte == 0) && from.read(&mut block)? == 0;
        return Ok(is_end.then_some(Entry::End));
    }
    Ok(parse(&block))
}

fn parse(block: &[u8; TAR_BLOCK_BYTES]) -> Option<Entry> {
    let text = |from: usize, to: usize| std::str::from_utf8(&block[from..to]).ok();
    let name = text(0, 100)?.split('\0').next()?.to_owned();
    let number = |from| u64::from_str_radix(text(from, from + 11)?, 8).ok();
    let bytes = number(124)?;
    (header(&name, bytes, number(136)?)? == *block).then_some(Entry::File { name, bytes })
}

/// Reads the padding behind a file of `bytes`, and says whether it is zeros.
pub(crate) fn skip_padding(from: &mut impl Read, bytes: u64) -> io::Result<bool> {
    let mut padding = [0; TAR_BLOCK_BYTES];
    let padding = &mut padding[..padding_bytes(bytes)];
    from.read_exact(padding)?;
    Ok(padding.iter().all(|&byte| byte == 0))
}

/// Writes the padding behind a file of `bytes`.
pub(crate) fn pad(to: &mut impl Write, bytes: u64) -> io::Result<()> {
    to.write_all(&TAR_END[..padding_bytes(bytes)])
}

#[cfg(test)]
mod tests;
