//! The folder of a receiver: files that are whole, and in `.creto-parts` what is not whole yet.
//!
//! | file | content |
//! |---|---|
//! | `SENDER-ID.data` | the chunks, each at its place |
//! | `SENDER-ID.have` | for each chunk that is on the disk u32 index, u32 chunk bytes, SHA-256; added after the data was synced |
//! | `finished` | for each file that is whole: sender, id, u16 name bytes, name; added before the file gets its name |
//! | `lock` | held by the one process that works here |
//!
//! A record that a crash has torn is the last of its file, and does not count.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use creto_crypto_accel::digest::sha256;
use creto_envelope::AgentId;
use creto_envelope::attachment::{AttachmentChunk, AttachmentId};

use super::{AttachmentError, failed};

const PARTS: &str = ".creto-parts";
const DATA: &str = "data";
const HAVE: &str = "have";
const HAVE_BYTES: usize = 40;
/// Files that are remembered to be whole. One whose head comes again behind so many others is received again.
const FINISHED_MAX: usize = 4_096;
/// Names that are tried for one file.
const NAMES_MAX: u32 = 10_000;

/// Names an attachment, whoever sent it.
pub(super) type Key = (AgentId, AttachmentId);

/// The folder, locked for this process.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    parts: PathBuf,
    _lock: File,
    finished: BTreeMap<Key, String>,
    finished_file: File,
    /// Where the next record of that file goes.
    finished_bytes: u64,
}

/// An attachment that is not whole.
#[derive(Debug)]
pub(super) struct Part {
    data_path: PathBuf,
    data: File,
    have_file: File,
    /// Chunks on the disk, with what their content hashes to.
    pub(super) have: BTreeMap<u32, [u8; 32]>,
    /// Bytes of each chunk but the last, as the first one said.
    pub(super) chunk_bytes: Option<u32>,
    /// Bytes of content on the disk, about: the last chunk counts as a whole one after a restart.
    pub(super) bytes: u64,
}

impl Spool {
    /// Opens a folder, and makes it if it is not there. Parts that nothing was added to for `keep` are deleted.
    pub(super) fn open(folder: &Path, keep: Duration) -> Result<Self, AttachmentError> {
        let parts = folder.join(PARTS);
        std::fs::create_dir_all(folder).map_err(failed(folder, "made"))?;
        match DirBuilder::new().mode(0o700).create(&parts) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&parts, "made")(error)),
            _ => {}
        }
        let lock_path = parts.join("lock");
        let lock = open(&lock_path).map_err(failed(&lock_path, "opened"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => AttachmentError::InUse { path: folder.to_owned() },
            TryLockError::Error(source) => failed(&lock_path, "locked")(source),
        })?;
        let (finished, finished_file, finished_bytes) = read_finished(&parts)?;
        let spool = Self { folder: folder.to_owned(), parts, _lock: lock, finished, finished_file, finished_bytes };
        spool.tidy(keep)?;
        Ok(spool)
    }

    /// What is left to do of files that are whole, and what nobody goes on with.
    fn tidy(&self, keep: Duration) -> Result<(), AttachmentError> {
        for key in self.finished.keys() {
            if self.path(*key, DATA).exists() {
                self.name_it(*key)?;
            }
        }
        let now = SystemTime::now();
        for entry in std::fs::read_dir(&self.parts).map_err(failed(&self.parts, "read"))? {
            let path = entry.map_err(failed(&self.parts, "read"))?.path();
            let is_data = path.extension().is_some_and(|extension| extension == DATA);
            let changed = path.metadata().and_then(|metadata| metadata.modified());
            let is_old = changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|age| age > keep));
            if is_data && is_old {
                remove(&path.with_extension(HAVE))?;
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Attachments that are not whole, with what is there of each.
    pub(super) fn parts(&self) -> Result<BTreeMap<Key, Part>, AttachmentError> {
        let mut parts = BTreeMap::new();
        for entry in std::fs::read_dir(&self.parts).map_err(failed(&self.parts, "read"))? {
            let path = entry.map_err(failed(&self.parts, "read"))?.path();
            let key = path.extension().filter(|extension| *extension == DATA).and(path.file_stem());
            if let Some(key) = key.and_then(|stem| stem.to_str()).and_then(key_of) {
                parts.insert(key, self.part(key)?);
            }
        }
        Ok(parts)
    }

    /// What is there of one attachment; opens its files, and makes them if they are not there.
    pub(super) fn part(&self, key: Key) -> Result<Part, AttachmentError> {
        let (data_path, have_path) = (self.path(key, DATA), self.path(key, HAVE));
        let data = open(&data_path).map_err(failed(&data_path, "opened"))?;
        let mut have_file = open(&have_path).map_err(failed(&have_path, "opened"))?;
        let mut records = Vec::new();
        have_file.read_to_end(&mut records).map_err(failed(&have_path, "read"))?;
        let (records, torn) = records.as_chunks::<HAVE_BYTES>();
        if !torn.is_empty() {
            // What is added must not run into it.
            have_file.set_len(records.as_flattened().len() as u64).map_err(failed(&have_path, "cut"))?;
        }
        let mut part = Part { data_path, data, have_file, have: BTreeMap::new(), chunk_bytes: None, bytes: 0 };
        for record in records {
            let number = |at: usize| u32::from_le_bytes(*record[at..].first_chunk().expect("four bytes of forty"));
            let (index, chunk_bytes) = (number(0), number(4));
            part.chunk_bytes = Some(chunk_bytes);
            part.bytes += u64::from(chunk_bytes);
            part.have.insert(index, *record[8..].first_chunk().expect("the rest of forty bytes"));
        }
        Ok(part)
    }

    /// Deletes what is there of an attachment.
    pub(super) fn forget(&self, key: Key) -> Result<(), AttachmentError> {
        remove(&self.path(key, HAVE))?;
        remove(&self.path(key, DATA))
    }

    /// Where a file that was whole has been put. The application may have moved it.
    pub(super) fn finished(&self, key: Key) -> Option<PathBuf> {
        self.finished.get(&key).map(|name| self.folder.join(name))
    }

    /// Whether what is on the disk of an attachment is what these hashes say, byte for byte.
    pub(super) fn is_as(
        &self,
        key: Key,
        bytes: u64,
        chunk_bytes: u32,
        hashes: &[[u8; 32]],
    ) -> Result<bool, AttachmentError> {
        let path = self.path(key, DATA);
        let data = open(&path).map_err(failed(&path, "opened"))?;
        if data.metadata().map_err(failed(&path, "read"))?.len() != bytes {
            return Ok(false);
        }
        let mut content = vec![0; chunk_bytes as usize];
        for (index, hash) in (0u64..).zip(hashes) {
            let begin = index * u64::from(chunk_bytes);
            let length = usize::try_from((bytes - begin).min(u64::from(chunk_bytes))).expect("a chunk");
            data.read_exact_at(&mut content[..length], begin).map_err(failed(&path, "read"))?;
            if sha256(&[&content[..length]]) != *hash {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives a file that is whole its name, durably: this one, or another if there is one of this name. Returns where it is.
    pub(super) fn finish(&mut self, key: Key, name: &str) -> Result<PathBuf, AttachmentError> {
        let path = self.parts.join("finished");
        let mut attempt = 1;
        loop {
            let name = numbered(name, attempt);
            if self.folder.join(&name).symlink_metadata().is_ok() && attempt < NAMES_MAX {
                attempt += 1;
                continue;
            }
            let record = finished_record(key, &name);
            self.finished_file.write_all_at(&record, self.finished_bytes).map_err(failed(&path, "written"))?;
            self.finished_file.sync_data().map_err(failed(&path, "synced"))?;
            self.finished_bytes += record.len() as u64;
            self.finished.insert(key, name);
            match self.name_it(key) {
                Err(AttachmentError::File { source, .. })
                    if source.kind() == io::ErrorKind::AlreadyExists && attempt < NAMES_MAX =>
                {
                    attempt += 1;
                }
                named => return named,
            }
        }
    }

    /// Gives a file that is remembered to be whole its name.
    fn name_it(&self, key: Key) -> Result<PathBuf, AttachmentError> {
        let path = self.finished(key).expect("it was just remembered");
        let data = self.path(key, DATA);
        match std::fs::hard_link(&data, &path) {
            // The process before came as far as this.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_same(&data, &path) => {}
            linked => linked.map_err(failed(&path, "named"))?,
        }
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed(&self.folder, "synced"))?;
        self.forget(key)?;
        Ok(path)
    }

    fn path(&self, (from, id): Key, extension: &str) -> PathBuf {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.parts.join(format!("{}-{}.{extension}", hex(&from.0), hex(&id.0)))
    }
}

impl Part {
    /// Puts a chunk on the disk: durable when this returns.
    pub(super) fn write(&mut self, chunk: &AttachmentChunk<'_>, hash: [u8; 32]) -> Result<(), AttachmentError> {
        self.write_it(chunk, &hash).map_err(failed(&self.data_path, "written"))?;
        self.chunk_bytes = Some(chunk.chunk_bytes);
        self.bytes += chunk.content.len() as u64;
        self.have.insert(chunk.index, hash);
        Ok(())
    }

    fn write_it(&mut self, chunk: &AttachmentChunk<'_>, hash: &[u8; 32]) -> io::Result<()> {
        self.data.write_all_at(chunk.content, chunk.offset())?;
        self.data.sync_data()?;
        let mut record = Vec::with_capacity(HAVE_BYTES);
        record.extend_from_slice(&chunk.index.to_le_bytes());
        record.extend_from_slice(&chunk.chunk_bytes.to_le_bytes());
        record.extend_from_slice(hash);
        // At its place: what a write before this one left torn is written over.
        self.have_file.write_all_at(&record, (self.have.len() * HAVE_BYTES) as u64)?;
        self.have_file.sync_data()
    }
}

/// A file to read and to write, which is made if it is not there.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn remove(path: &Path) -> Result<(), AttachmentError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, "deleted")(error)),
        _ => Ok(()),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| path.symlink_metadata().map(|file| (file.dev(), file.ino()));
    matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

fn key_of(stem: &str) -> Option<Key> {
    let (from, id) = stem.split_once('-')?;
    let number = |text: &str| (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
    Some((AgentId(number(from)?.to_be_bytes()), AttachmentId(number(id)?.to_be_bytes())))
}

/// `report.csv`, `report (2).csv`, `report (3).csv`: at most 255 bytes, which file systems take.
fn numbered(name: &str, attempt: u32) -> String {
    if attempt == 1 {
        return name.to_owned();
    }
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && extension.len() < 32 => (stem, format!(".{extension}")),
        _ => (name, String::new()),
    };
    let tail = format!(" ({attempt}){extension}");
    let mut length = stem.len().min(255 - tail.len());
    while !stem.is_char_boundary(length) {
        length -= 1;
    }
    format!("{}{tail}", &stem[..length])
}

fn finished_record((from, id): Key, name: &str) -> Vec<u8> {
    let length = u16::try_from(name.len()).expect("a name has at most 255 bytes");
    [&from.0[..], &id.0, &length.to_le_bytes(), name.as_bytes()].concat()
}

/// What the file says, and the file with its length; it has no torn record, and not many more than [`FINISHED_MAX`].
fn read_finished(parts: &Path) -> Result<(BTreeMap<Key, String>, File, u64), AttachmentError> {
    let path = parts.join("finished");
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(failed(&path, "read"))?,
    };
    let mut records = Vec::new();
    let mut rest = &bytes[..];
    while let Some((fixed, behind)) = rest.split_first_chunk::<34>() {
        let length = usize::from(u16::from_le_bytes([fixed[32], fixed[33]]));
        let Some((name, behind)) = behind.split_at_checked(length) else { break };
        let Ok(name) = std::str::from_utf8(name) else { break };
        let id = |at: usize| *fixed[at..].first_chunk::<16>().expect("two ids in thirty-four bytes");
        records.push(((AgentId(id(0)), AttachmentId(id(16))), name.to_owned()));
        rest = behind;
    }
    if !rest.is_empty() || records.len() > FINISHED_MAX {
        records.drain(..records.len().saturating_sub(FINISHED_MAX / 2));
        let kept: Vec<u8> = records.iter().flat_map(|(key, name)| finished_record(*key, name)).collect();
        let new = path.with_extension("new");
        std::fs::write(&new, kept).map_err(failed(&new, "written"))?;
        File::open(&new).and_then(|file| file.sync_all()).map_err(failed(&new, "synced"))?;
        std::fs::rename(&new, &path).map_err(failed(&path, "replaced"))?;
    }
    let bytes = records.iter().map(|(key, name)| finished_record(*key, name).len() as u64).sum();
    let file = open(&path).map_err(failed(&path, "opened"))?;
    Ok((records.into_iter().collect(), file, bytes))
}
