//! How far the sending of a file has come, kept beside the sender's keys: text, a line for what is durable at the node.
//!
//! Lines are added after the answer and never synced: what a crash takes away is sent again, and the recipient knows it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use creto_envelope::AgentId;
use creto_envelope::attachment::AttachmentId;

use super::{AttachmentError, failed};

const HEAD: &str = "head";

/// The file, locked for this process.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Which attachment is being sent.
    pub(super) id: AttachmentId,
    /// Its head is durable.
    pub(super) has_head: bool,
    /// Chunks that are.
    pub(super) chunks: BTreeSet<u32>,
}

impl Journal {
    /// What `path` says of sending what `digest` stands for to `to`; another file, or another recipient, begins anew as `fresh`.
    pub(super) fn open(
        path: &Path,
        to: AgentId,
        digest: &[u8; 32],
        fresh: AttachmentId,
    ) -> Result<Self, AttachmentError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed(folder, "made"))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(failed(path, "opened"))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => AttachmentError::InUse { path: path.to_owned() },
            TryLockError::Error(source) => failed(path, "locked")(source),
        })?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed(path, "read"))?;
        let text = String::from_utf8_lossy(&text);
        let mut journal = Self { path: path.to_owned(), file, id: fresh, has_head: false, chunks: BTreeSet::new() };
        // The last line may be torn: only what has its end counts.
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        match lines.next().and_then(|line| id_of(line, to, digest)) {
            Some(id) => {
                journal.id = id;
                for line in lines {
                    match line.parse() {
                        Ok(index) => drop(journal.chunks.insert(index)),
                        Err(_) => journal.has_head |= line == HEAD,
                    }
                }
                // What was torn must not run into the next line, and is no number by itself: 13 may be what is left of 130.
                let whole = text.rfind('\n').map_or(0, |end| end + 1);
                journal.file.set_len(whole as u64).map_err(failed(path, "cut"))?;
            }
            None => {
                journal.file.set_len(0).map_err(failed(path, "emptied"))?;
                journal.add(&first_line(fresh, to, digest))?;
            }
        }
        Ok(journal)
    }

    pub(super) fn head_is_durable(&mut self) -> Result<(), AttachmentError> {
        self.has_head = true;
        self.add(HEAD)
    }

    pub(super) fn chunk_is_durable(&mut self, index: u32) -> Result<(), AttachmentError> {
        self.chunks.insert(index);
        self.add(&index.to_string())
    }

    /// All is sent: the next time begins anew.
    pub(super) fn end(self) -> Result<(), AttachmentError> {
        std::fs::remove_file(&self.path).map_err(failed(&self.path, "removed"))
    }

    fn add(&mut self, line: &str) -> Result<(), AttachmentError> {
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(failed(&self.path, "written"))
    }
}

fn first_line(id: AttachmentId, to: AgentId, digest: &[u8; 32]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("creto-upload 1 {} {} {}", hex(&id.0), hex(&to.0), hex(digest))
}

fn id_of(line: &str, to: AgentId, digest: &[u8; 32]) -> Option<AttachmentId> {
    let id = line.strip_prefix("creto-upload 1 ")?.split(' ').next()?;
    let id = AttachmentId(u128::from_str_radix(id, 16).ok()?.to_be_bytes());
    (line == first_line(id, to, digest)).then_some(id)
}
