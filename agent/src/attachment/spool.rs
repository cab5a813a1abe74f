//! The folder of a receiver: files that are whole, and in `.creto-parts` what is not whole yet.
//!
//! | file | content |
//! |---|---|
//! | `SENDER-ID.data` | the chunks, each at its place; becomes the file |
//! | `SENDER-ID.have` | a header (magic and version, u64 bytes, u32 chunk bytes, u32 0, check), then for each chunk that is on the disk u32 index, u32 0, SHA-256, check; added after the data was synced |
//! | `settled` | a line with the version, then for each attachment that is whole or refused u16 bytes and a record with its check |
//! | `lock` | held by the one process that works here |
//!
//! A check is the first 8 bytes of SHA-256 of what stands before it. A record whose check does not hold is one that a crash has torn, or
//! a damaged one: it does not count, and those behind it do. An attachment is whole when `settled` says so and its `.data` is gone.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use creto_crypto_accel::digest::sha256;
use creto_envelope::AgentId;
use creto_envelope::attachment::{AttachmentChunk, AttachmentId};
use rustix::fs::{OFlags, RenameFlags};

use super::{AttachmentError, failed};
use crate::clock;

/// The version of the files of `.creto-parts`.
pub const PARTS_FORMAT: u8 = 1;
const PARTS: &str = ".creto-parts";
const DATA: &str = "data";
const HAVE: &str = "have";
const SETTLED: &str = "settled";
const SETTLED_HEAD: &[u8] = b"creto-attachments 1\n";
const HAVE_MAGIC: [u8; 7] = *b"cretoAP";
const HAVE_HEAD_BYTES: usize = 32;
const HAVE_BYTES: usize = 48;
const CHECK_BYTES: usize = 8;
/// Attachments that are remembered to be whole, or refused; beyond, the oldest are forgotten.
const SETTLED_MAX: usize = 4_096;
/// The same of one sender: nobody makes another one's be forgotten.
const SETTLED_OF_SENDER_MAX: usize = 512;
/// Numbers that are tried behind a name before one that nobody could guess is.
const NUMBERS_MAX: u32 = 100;

/// Names an attachment, whoever sent it.
pub(super) type Key = (AgentId, AttachmentId);

/// How large a file is, and its chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) bytes: u64,
    pub(super) chunk_bytes: u32,
}

/// What is remembered of an attachment that nothing more is wanted of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Settled {
    /// It is whole.
    Finished(Finished),
    /// It was refused, for this reason.
    Refused(u16),
}

/// A file that is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Finished {
    /// SHA-256 of its head.
    pub(super) digest: [u8; 32],
    name: String,
}

/// The folder, locked for this process.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    parts: PathBuf,
    _lock: File,
    settled: BTreeMap<Key, Settled>,
    /// Their keys in the order in which they were settled.
    order: VecDeque<Key>,
    settled_file: File,
    /// Where the next record of that file goes, and how many it has.
    settled_bytes: u64,
    settled_records: usize,
}

/// An attachment that is not whole.
#[derive(Debug)]
pub(super) struct Part {
    data_path: PathBuf,
    data: File,
    have_file: File,
    /// Records in that file, those that do not count among them.
    slots: u64,
    pub(super) shape: Shape,
    /// Since when nothing was added, by a clock that nobody sets; at the earliest since this process has the folder.
    touched: Instant,
    /// Chunks on the disk, with what their content hashes to.
    pub(super) have: BTreeMap<u32, [u8; 32]>,
}

impl Spool {
    /// Opens a folder, and makes it if it is not there.
    pub(super) fn open(folder: &Path) -> Result<Self, AttachmentError> {
        let parts = folder.join(PARTS);
        std::fs::create_dir_all(folder).map_err(failed(folder, "made"))?;
        match DirBuilder::new().mode(0o700).create(&parts) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&parts, "made")(error)),
            _ => {}
        }
        // In a folder of others somebody may have made it first.
        let found = parts.symlink_metadata().map_err(failed(&parts, "looked at"))?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o077 != 0 {
            let other = "it is not a folder of this user alone (mode 0700); move it away";
            return Err(failed(&parts, "used")(io::Error::new(io::ErrorKind::PermissionDenied, other)));
        }
        for made in [Some(&*parts), Some(folder), folder.parent()].into_iter().flatten() {
            sync_folder(made)?;
        }
        let lock_path = parts.join("lock");
        let lock = open(&lock_path).map_err(failed(&lock_path, "opened"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => AttachmentError::InUse { path: folder.to_owned() },
            TryLockError::Error(source) => failed(&lock_path, "locked")(source),
        })?;
        let path = parts.join(SETTLED);
        let settled_file = open(&path).map_err(failed(&path, "opened"))?;
        let mut spool = Self {
            folder: folder.to_owned(),
            parts,
            _lock: lock,
            settled: BTreeMap::new(),
            order: VecDeque::new(),
            settled_file,
            settled_bytes: 0,
            settled_records: 0,
        };
        let mut bytes = Vec::new();
        spool.settled_file.read_to_end(&mut bytes).map_err(failed(&path, "read"))?;
        for (key, settled) in read_settled(&bytes).map_err(failed(&path, "read"))? {
            spool.remember(key, settled);
        }
        spool.rewrite_settled()?;
        Ok(spool)
    }

    /// Attachments that are not whole.
    pub(super) fn parts(&self) -> Result<BTreeMap<Key, Part>, AttachmentError> {
        let mut parts = BTreeMap::new();
        for entry in std::fs::read_dir(&self.parts).map_err(failed(&self.parts, "read"))? {
            let path = entry.map_err(failed(&self.parts, "read"))?.path();
            // Nothing of it is acknowledged: a crash came when it began, or when it was deleted.
            if path.extension().is_some_and(|extension| extension == DATA) && !path.with_extension(HAVE).exists() {
                remove(&path)?;
            }
        }
        for entry in std::fs::read_dir(&self.parts).map_err(failed(&self.parts, "read"))? {
            let path = entry.map_err(failed(&self.parts, "read"))?.path();
            let stem = path.extension().filter(|extension| *extension == HAVE).and(path.file_stem());
            let Some(key) = stem.and_then(|stem| stem.to_str()).and_then(key_of) else { continue };
            // Without data it was whole, and the crash came before the rest was tidied up.
            let is_refused = matches!(self.settled.get(&key), Some(Settled::Refused(_)));
            match if self.path(key, DATA).exists() && !is_refused { self.part(key, None)? } else { None } {
                Some(part) => drop(parts.insert(key, part)),
                None => self.forget(key)?,
            }
        }
        Ok(parts)
    }

    /// Opens the files of an attachment; makes them if it is to begin with this shape. `None` when nothing of it was ever acknowledged.
    pub(super) fn part(&self, key: Key, begin: Option<Shape>) -> Result<Option<Part>, AttachmentError> {
        let (data_path, have_path) = (self.path(key, DATA), self.path(key, HAVE));
        let mut have_file = open(&have_path).map_err(failed(&have_path, "opened"))?;
        let mut records = Vec::new();
        have_file.read_to_end(&mut records).map_err(failed(&have_path, "read"))?;
        let found = shape_of(&records).map_err(failed(&have_path, "read"))?;
        let Some(shape) = found.or(begin) else { return Ok(None) };
        let data = open(&data_path).map_err(failed(&data_path, "opened"))?;
        if found.is_none() {
            records.clear();
            have_file.set_len(0).map_err(failed(&have_path, "cut"))?;
            have_file.write_all_at(&have_head(shape), 0).map_err(failed(&have_path, "written"))?;
            have_file.sync_all().map_err(failed(&have_path, "synced"))?;
            data.sync_all().map_err(failed(&data_path, "synced"))?;
        }
        if begin.is_some() {
            // Or what is acknowledged would be in files that a power cut takes away.
            sync_folder(&self.parts)?;
        }
        let slots = records.get(HAVE_HEAD_BYTES..).unwrap_or_default().as_chunks::<HAVE_BYTES>().0;
        let mut part = Part {
            data_path,
            data,
            have_file,
            slots: slots.len() as u64,
            shape,
            touched: Instant::now(),
            have: BTreeMap::new(),
        };
        for slot in slots.iter().filter(|slot| holds(&slot[..])) {
            let index = u32::from_le_bytes(*slot.first_chunk().expect("four bytes of a record"));
            part.have.insert(index, *slot[8..].first_chunk().expect("thirty-two bytes of a record"));
        }
        Ok(Some(part))
    }

    /// How long nothing was added to an attachment.
    pub(super) fn rests(&self, key: Key) -> Duration {
        let changed = self.path(key, HAVE).metadata().and_then(|metadata| metadata.modified());
        changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok()).unwrap_or_default()
    }

    /// Deletes what is there of an attachment that is not whole.
    pub(super) fn forget(&self, key: Key) -> Result<(), AttachmentError> {
        remove(&self.path(key, DATA))?;
        remove(&self.path(key, HAVE))
    }

    /// What is remembered of an attachment.
    pub(super) fn settled(&self, key: Key) -> Option<&Settled> {
        // As long as the data is there it has no name yet.
        self.settled
            .get(&key)
            .filter(|settled| matches!(settled, Settled::Refused(_)) || !self.path(key, DATA).exists())
    }

    /// Where a file that is whole is, unless the application has moved or changed it: another one of its name is not taken for it.
    pub(super) fn place_of(
        &self,
        finished: &Finished,
        shape: Shape,
        hashes: &[[u8; 32]],
    ) -> Result<Option<PathBuf>, AttachmentError> {
        let path = self.folder.join(&finished.name);
        if !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            return Ok(None);
        }
        let is_it = File::open(&path).and_then(|file| has(&file, shape, hashes)).map_err(failed(&path, "read"))?;
        Ok(is_it.then_some(path))
    }

    /// Whether what was written of an attachment is what these hashes say, byte for byte.
    pub(super) fn is_as(&self, key: Key, shape: Shape, hashes: &[[u8; 32]]) -> Result<bool, AttachmentError> {
        let path = self.path(key, DATA);
        let data = open(&path).map_err(failed(&path, "opened"))?;
        // From the disk, as far as the system lets itself be told: what was written was synced.
        let _ = rustix::fs::fadvise(&data, 0, None, rustix::fs::Advice::DontNeed);
        has(&data, shape, hashes).map_err(failed(&path, "read"))
    }

    /// Gives a file that is whole its name, durably: this one, or another if there is one of this name. Returns where it is.
    pub(super) fn finish(&mut self, key: Key, digest: [u8; 32], name: &str) -> Result<PathBuf, AttachmentError> {
        let data = self.path(key, DATA);
        let found = data.symlink_metadata().map_err(failed(&data, "looked at"))?;
        let is_it = |there: &Metadata| (there.dev(), there.ino()) == (found.dev(), found.ino());
        // Behind them one that nobody could take first.
        let unguessed = || format!("attachment-{}-{}", hex(&key.1.0), hex(&clock::random::<4>()));
        let mut names = (1..=NUMBERS_MAX).map(|number| numbered(name, number)).chain(std::iter::repeat_with(unguessed));
        let mut next = names.next();
        while let Some(name) = next {
            let path = self.folder.join(&name);
            next = names.next();
            match path.symlink_metadata() {
                // A crash came between the two steps of giving it its name, where a file system needs two.
                Ok(there) if is_it(&there) => {}
                Ok(_) => continue,
                Err(_) => {}
            }
            // First that it is so, then that it is: without data and without a record a chunk that comes again would begin it anew.
            self.settle(key, Settled::Finished(Finished { digest, name: name.clone() }))?;
            if path.symlink_metadata().is_ok_and(|there| is_it(&there)) {
                remove(&data)?;
                sync_folder(&self.parts)?;
                remove(&self.path(key, HAVE))?;
                return Ok(path);
            }
            match rename(&data, &path) {
                Ok(()) => {
                    sync_folder(&self.folder)?;
                    sync_folder(&self.parts)?;
                    remove(&self.path(key, HAVE))?;
                    return Ok(path);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // A name that this file system does not take.
                Err(error) if is_about_the_name(&error) && !name.starts_with("attachment-") => next = Some(unguessed()),
                Err(error) => return Err(failed(&path, "named")(error)),
            }
        }
        unreachable!("there is always another name")
    }

    /// Remembers durably that nothing more of this attachment is wanted.
    pub(super) fn settle(&mut self, key: Key, settled: Settled) -> Result<(), AttachmentError> {
        let path = self.parts.join(SETTLED);
        let record = settled_record(key, &settled);
        self.settled_file.write_all_at(&record, self.settled_bytes).map_err(failed(&path, "written"))?;
        self.settled_file.sync_data().map_err(failed(&path, "synced"))?;
        self.settled_bytes += record.len() as u64;
        self.settled_records += 1;
        self.remember(key, settled);
        if self.settled_records > 2 * SETTLED_MAX { self.rewrite_settled() } else { Ok(()) }
    }

    fn remember(&mut self, key: Key, settled: Settled) {
        if self.settled.insert(key, settled).is_some() {
            self.order.retain(|known| *known != key);
        }
        self.order.push_back(key);
        let of_sender = self.settled.range((key.0, AttachmentId([0; 16]))..=(key.0, AttachmentId([0xff; 16]))).count();
        let oldest = if of_sender > SETTLED_OF_SENDER_MAX {
            self.order.iter().position(|(sender, _)| *sender == key.0)
        } else {
            (self.order.len() > SETTLED_MAX).then_some(0)
        };
        if let Some(oldest) = oldest.and_then(|at| self.order.remove(at)) {
            self.settled.remove(&oldest);
        }
    }

    /// Writes the file of what is settled anew, with what is remembered and nothing else.
    fn rewrite_settled(&mut self) -> Result<(), AttachmentError> {
        let path = self.parts.join(SETTLED);
        let new = path.with_extension("new");
        let mut bytes = SETTLED_HEAD.to_vec();
        self.order.iter().for_each(|key| bytes.extend(settled_record(*key, &self.settled[key])));
        remove(&new)?;
        let file = open(&new).map_err(failed(&new, "opened"))?;
        file.write_all_at(&bytes, 0).and_then(|()| file.sync_all()).map_err(failed(&new, "written"))?;
        std::fs::rename(&new, &path).map_err(failed(&path, "replaced"))?;
        sync_folder(&self.parts)?;
        (self.settled_file, self.settled_bytes, self.settled_records) = (file, bytes.len() as u64, self.order.len());
        Ok(())
    }

    fn path(&self, (from, id): Key, extension: &str) -> PathBuf {
        self.parts.join(format!("{}-{}.{extension}", hex(&from.0), hex(&id.0)))
    }
}

impl Part {
    /// Puts a chunk on the disk: durable when this returns.
    pub(super) fn write(&mut self, chunk: &AttachmentChunk<'_>, hash: [u8; 32]) -> Result<(), AttachmentError> {
        self.write_it(chunk, &hash).map_err(failed(&self.data_path, "written"))?;
        self.slots += 1;
        self.touched = Instant::now();
        self.have.insert(chunk.index, hash);
        Ok(())
    }

    /// For how long nothing was added while this process could have.
    pub(super) fn rests(&self) -> Duration {
        self.touched.elapsed()
    }

    fn write_it(&self, chunk: &AttachmentChunk<'_>, hash: &[u8; 32]) -> io::Result<()> {
        self.data.write_all_at(chunk.content, chunk.offset())?;
        self.data.sync_data()?;
        let record = with_check([&chunk.index.to_le_bytes()[..], &[0; 4], hash].concat());
        // At its place: what a write before this one left torn is written over.
        self.have_file.write_all_at(&record, HAVE_HEAD_BYTES as u64 + self.slots * HAVE_BYTES as u64)?;
        self.have_file.sync_data()
    }

    /// Bytes of content on the disk.
    pub(super) fn received(&self) -> u64 {
        let begin = |index: u32| u64::from(index) * u64::from(self.shape.chunk_bytes);
        let length = |index: u32| self.shape.bytes.saturating_sub(begin(index)).min(u64::from(self.shape.chunk_bytes));
        self.have.keys().map(|index| length(*index)).sum()
    }
}

/// A file to read and to write, which is made if it is not there, and is no link.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).expect("a flag of the system");
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

/// Whether a file is what these hashes say, byte for byte.
fn has(file: &File, shape: Shape, hashes: &[[u8; 32]]) -> io::Result<bool> {
    if file.metadata()?.len() != shape.bytes {
        return Ok(false);
    }
    let mut content = vec![0; shape.chunk_bytes as usize];
    for (index, hash) in (0u64..).zip(hashes) {
        let begin = index * u64::from(shape.chunk_bytes);
        let length = usize::try_from((shape.bytes - begin).min(u64::from(shape.chunk_bytes))).expect("a chunk");
        file.read_exact_at(&mut content[..length], begin)?;
        if sha256(&[&content[..length]]) != *hash {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sync_folder(path: &Path) -> Result<(), AttachmentError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|folder| folder.sync_all()).map_err(failed(path, "synced"))
}

fn remove(path: &Path) -> Result<(), AttachmentError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, "deleted")(error)),
        _ => Ok(()),
    }
}

/// Renames, and replaces nothing.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
        // A file system that does not know the flag: a link does not replace anything either.
        Err(unknown @ (rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS)) => match std::fs::hard_link(from, to) {
            Ok(()) => std::fs::remove_file(from),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            // Where there are no links either, it may have been about the name.
            Err(_) => Err(unknown.into()),
        },
        renamed => Ok(renamed?),
    }
}

fn is_about_the_name(error: &io::Error) -> bool {
    use rustix::io::Errno;
    Errno::from_io_error(error).is_some_and(|error| [Errno::NAMETOOLONG, Errno::INVAL, Errno::ILSEQ].contains(&error))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_of(stem: &str) -> Option<Key> {
    let (from, id) = stem.split_once('-')?;
    let number = |text: &str| (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
    Some((AgentId(number(from)?.to_be_bytes()), AttachmentId(number(id)?.to_be_bytes())))
}

/// `report.csv`, `report (2).csv`, `report (3).csv`: at most 255 bytes, and neither hidden nor taken for an option.
fn numbered(name: &str, number: u32) -> String {
    let name = if name.starts_with(['.', '-']) { format!("_{name}") } else { name.to_owned() };
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if extension.len() < 32 => (stem, format!(".{extension}")),
        _ => (&*name, String::new()),
    };
    let tail = if number == 1 { extension } else { format!(" ({number}){extension}") };
    let mut length = stem.len().min(255 - tail.len());
    while !stem.is_char_boundary(length) {
        length -= 1;
    }
    format!("{}{tail}", &stem[..length])
}

fn with_check(mut record: Vec<u8>) -> Vec<u8> {
    let check = sha256(&[&record]);
    record.extend_from_slice(&check[..CHECK_BYTES]);
    record
}

fn holds(record: &[u8]) -> bool {
    let (body, check) = record.split_at(record.len() - CHECK_BYTES);
    sha256(&[body])[..CHECK_BYTES] == *check
}

fn later_version() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is of a later version: update creto, or receive into another folder")
}

fn have_head(Shape { bytes, chunk_bytes }: Shape) -> Vec<u8> {
    with_check([&HAVE_MAGIC[..], &[PARTS_FORMAT], &bytes.to_le_bytes(), &chunk_bytes.to_le_bytes(), &[0; 4]].concat())
}

/// What a file of chunks says of its attachment; none when a crash came before it was on the disk.
fn shape_of(records: &[u8]) -> io::Result<Option<Shape>> {
    let Some(head) = records.first_chunk::<HAVE_HEAD_BYTES>().filter(|head| holds(&head[..])) else { return Ok(None) };
    if head[..7] != HAVE_MAGIC || head[7] != PARTS_FORMAT {
        return Err(later_version());
    }
    let bytes = u64::from_le_bytes(*head[8..].first_chunk().expect("eight bytes of the header"));
    let chunk_bytes = u32::from_le_bytes(*head[16..].first_chunk().expect("four bytes of the header"));
    Ok(Some(Shape { bytes, chunk_bytes }))
}

fn settled_record((from, id): Key, settled: &Settled) -> Vec<u8> {
    let (kind, reason, digest, name) = match settled {
        Settled::Finished(Finished { digest, name }) => (1, 0, *digest, name.as_str()),
        Settled::Refused(reason) => (2, *reason, [0; 32], ""),
    };
    let body = [&[kind, 0][..], &u16::to_le_bytes(reason), &from.0, &id.0, &digest, name.as_bytes()].concat();
    let record = with_check(body);
    let length = u16::try_from(record.len()).expect("a name has at most 255 bytes");
    [&length.to_le_bytes()[..], &record].concat()
}

/// The records of the file of what is settled, up to one that a crash has torn.
fn read_settled(bytes: &[u8]) -> io::Result<Vec<(Key, Settled)>> {
    const FIXED: usize = 68;
    let mut rest = match bytes.strip_prefix(SETTLED_HEAD) {
        Some(rest) => rest,
        // A crash came before it was written.
        None if SETTLED_HEAD.starts_with(bytes) => return Ok(Vec::new()),
        None => return Err(later_version()),
    };
    let mut settled = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length));
        let Some((record, behind)) = behind.split_at_checked(length) else { break };
        rest = behind;
        if length < FIXED + CHECK_BYTES {
            break;
        }
        // A damaged one is one, not all behind it.
        if !holds(record) {
            continue;
        }
        let body = &record[..length - CHECK_BYTES];
        let id = |at: usize| *body[at..].first_chunk::<16>().expect("it lies in the fixed part");
        let key = (AgentId(id(4)), AttachmentId(id(20)));
        let digest = *body[36..].first_chunk().expect("it lies in the fixed part");
        match (body[0], std::str::from_utf8(&body[FIXED..])) {
            (1, Ok(name)) => settled.push((key, Settled::Finished(Finished { digest, name: name.to_owned() }))),
            (2, Ok("")) => settled.push((key, Settled::Refused(u16::from_le_bytes([body[2], body[3]])))),
            _ => break,
        }
    }
    Ok(settled)
}
