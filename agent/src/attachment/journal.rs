//! How far the sending of a file has come, kept beside the sender's keys: text, a line for each chunk that is durable at the node.
//!
//! Lines are added after the answer and never synced: what a crash takes away is sent again, and the recipient knows it. What is older
//! than the messages live is not believed.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use creto_envelope::AgentId;
use creto_envelope::attachment::AttachmentId;

use super::{AttachmentError, failed};

/// The version that this code reads and writes.
pub const UPLOAD_FORMAT: u8 = 1;
const FIRST: &str = "creto-upload ";

/// The file, locked for this process.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Which attachment is being sent.
    pub(super) id: AttachmentId,
    /// Since when, Unix milliseconds.
    pub(super) begun_ms: u64,
    /// Chunks that are.
    pub(super) chunks: BTreeSet<u32>,
}

impl Journal {
    /// What `path` says of sending what `digest` stands for to `to`; another file, another recipient, and what began more than
    /// `live` ago begin anew as `fresh`.
    pub(super) fn open(
        path: &Path,
        to: AgentId,
        digest: &[u8; 32],
        fresh: AttachmentId,
        live: Duration,
        now_ms: u64,
    ) -> Result<Self, AttachmentError> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder, "made"))?;
        }
        let mut file = loop {
            let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).expect("a flag of the system");
            let file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags(flags)
                .open(path)
                .map_err(failed(path, "opened"))?;
            file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => AttachmentError::InUse { path: path.to_owned() },
                TryLockError::Error(source) => failed(path, "locked")(source),
            })?;
            // Whoever had it may have come to its end, and removed it.
            let found = file.metadata().map_err(failed(path, "looked at"))?;
            if path.symlink_metadata().is_ok_and(|there| (there.dev(), there.ino()) == (found.dev(), found.ino())) {
                break file;
            }
        };
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed(path, "read"))?;
        let text = String::from_utf8_lossy(&text);
        if !text.starts_with(FIRST) && !FIRST.starts_with(&*text) {
            let other = "it is a file of something else: name another one to go on from";
            return Err(failed(path, "used")(io::Error::new(io::ErrorKind::InvalidData, other)));
        }
        let mut journal = Self { path: path.to_owned(), file, id: fresh, begun_ms: now_ms, chunks: BTreeSet::new() };
        // The last line may be torn: only what has its end counts.
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let first = lines.next();
        let version = first.and_then(|line| line.strip_prefix(FIRST)?.split(' ').next()?.parse::<u32>().ok());
        if version.is_some_and(|version| version > u32::from(UPLOAD_FORMAT)) {
            let later = "it is of a later version: update creto, or delete it and send all of the file again";
            return Err(failed(path, "read")(io::Error::new(io::ErrorKind::InvalidData, later)));
        }
        match first.and_then(|line| id_of(line, to, digest, live, now_ms)) {
            Some((id, begun_ms)) => {
                (journal.id, journal.begun_ms) = (id, begun_ms);
                journal.chunks = lines.filter_map(|line| line.parse().ok()).collect();
                // What was torn must not run into the next line, and is no number by itself: 13 may be what is left of 130.
                let whole = text.rfind('\n').map_or(0, |end| end + 1);
                journal.file.set_len(whole as u64).map_err(failed(path, "cut"))?;
            }
            None => {
                journal.file.set_len(0).map_err(failed(path, "emptied"))?;
                journal.add(&first_line(fresh, to, digest, now_ms))?;
            }
        }
        Ok(journal)
    }

    pub(super) fn chunk_is_durable(&mut self, index: u32) -> Result<(), AttachmentError> {
        self.chunks.insert(index);
        self.add(&index.to_string())
    }

    /// All is sent: the next time begins anew.
    pub(super) fn end(self) -> Result<(), AttachmentError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&self.path, "removed")(error)),
            _ => Ok(()),
        }
    }

    fn add(&mut self, line: &str) -> Result<(), AttachmentError> {
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(failed(&self.path, "written"))
    }
}

fn first_line(id: AttachmentId, to: AgentId, digest: &[u8; 32], begun_ms: u64) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{FIRST}{UPLOAD_FORMAT} {} {} {} {begun_ms}", hex(&id.0), hex(&to.0), hex(digest))
}

fn id_of(line: &str, to: AgentId, digest: &[u8; 32], live: Duration, now_ms: u64) -> Option<(AttachmentId, u64)> {
    let mut words = line.strip_prefix(FIRST)?.split(' ').skip(1);
    let id = AttachmentId(u128::from_str_radix(words.next()?, 16).ok()?.to_be_bytes());
    let begun_ms: u64 = line.rsplit(' ').next()?.parse().ok()?;
    let is_alive = now_ms.checked_sub(begun_ms).is_some_and(|age_ms| u128::from(age_ms) < live.as_millis());
    (is_alive && line == first_line(id, to, digest, begun_ms)).then_some((id, begun_ms))
}
