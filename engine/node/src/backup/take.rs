//! Takes a backup: the logs, then the directory, then the rest, and the manifest when the node says that it held still.

use std::fs;
use std::path::{Path, PathBuf};

use creto_audit_store::Moment;
use creto_audit_store::layout::SECRET_KEYS;
use creto_service::api::{BackupSource, HeldShard};
use creto_store::{FileSource, segment_file_name, verify};

use super::copy::{Copier, From, sha256};
use super::host::{audit_of, source_of};
use super::manifest::{
    AuditPoint, BACKUP_FORMAT, CERTIFICATE_FILE, CONFIGURATION_FILE, DIGEST_FILE, DIRECTORY_FILE, FileEntry, Formats,
    Manifest, PRIVATE_KEY_FILE, ShardPoint, audit_name, digest_line, segment_name,
};
use super::target::Target;
use super::{BackupError, failed};
use crate::config::Config;
use crate::data_dir::{AUDIT_DIR, DESCRIPTION_FILE, DataDir, DataDirError, described_shards};

/// What to back up, and how.
pub struct Order<'a> {
    /// What the node consists of.
    pub source: BackupSource,
    /// Its logs, held up to a durable point.
    pub shards: Vec<ShardPoint>,
    /// When they were held, Unix milliseconds.
    pub taken_ms: u64,
    /// Whether the node's certificate and private key go into it.
    pub with_secrets: bool,
    /// Most bytes per second.
    pub bytes_per_s: Option<u64>,
    /// Waits for the copy of the directory, taken at one moment after the logs were held. Asked once, after the logs are
    /// copied.
    pub directory: &'a mut dyn FnMut() -> Result<PathBuf, BackupError>,
    /// Lets go of the logs, and says whether they were held until now.
    pub let_go: &'a mut dyn FnMut() -> Result<(), BackupError>,
    /// Told bytes copied and bytes known so far, often; an error ends the backup.
    pub on_progress: &'a mut dyn FnMut(u64, u64) -> Result<(), BackupError>,
}

impl std::fmt::Debug for Order<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Order").field("source", &self.source).field("shards", &self.shards).finish_non_exhaustive()
    }
}

impl std::convert::From<HeldShard> for ShardPoint {
    fn from(held: HeldShard) -> Self {
        Self {
            shard: held.shard,
            first_segment: held.first_segment,
            last_segment: held.last_segment,
            end_offset: held.end_offset,
            end_lsn: held.end_lsn,
        }
    }
}

/// A node that is stopped, and does not start as long as this lives.
#[derive(Debug)]
pub struct Stopped {
    /// What it consists of.
    pub source: BackupSource,
    /// Its logs, up to where recovery finds that they end.
    pub shards: Vec<ShardPoint>,
    /// The directory, when it is in a database.
    copy: Option<DirectoryCopy>,
    _data_dir: DataDir,
}

/// A copy of the directory; it goes when nobody needs it any more.
#[derive(Debug)]
struct DirectoryCopy(PathBuf);

impl Drop for DirectoryCopy {
    fn drop(&mut self) {
        // One that stays is written over by the next.
        let _gone = fs::remove_file(&self.0);
    }
}

impl Stopped {
    /// Locks the data folder of this configuration and reads its logs.
    ///
    /// # Errors
    /// [`BackupError`]: a node runs on it, there is none, a log is damaged, or the database that has the directory is away.
    pub fn open(config: &Config) -> Result<Self, BackupError> {
        let (data_dir, shard_count) = DataDir::open_stopped(&config.data_dir(), &config.wal_dir())?;
        if data_dir.is_control_elsewhere() || (config.database().is_none() && !data_dir.control_path().exists()) {
            return Err(BackupError::NoDirectory(config.data_dir()));
        }
        let mut shards = Vec::with_capacity(usize::from(shard_count));
        for shard in 0..shard_count {
            let report = verify(&mut FileSource::new(data_dir.shard_dir(shard)), u32::from(shard))?;
            if let Some(problem) = report.problems.first() {
                return Err(BackupError::LogDamaged { shard, problem: problem.to_string() });
            }
            let first_segment = report.segments.first().map_or(1, |segment| segment.number.0);
            let end = report.end.map(|end| (end.segment.0, end.offset, end.lsn.0));
            let (last_segment, end_offset, end_lsn) = end.unwrap_or((0, 0, 0));
            shards.push(ShardPoint { shard, first_segment, last_segment, end_offset, end_lsn });
        }
        let source = source_of(config);
        let source = BackupSource { audit: audit_of(&source.data_dir)?, ..source };
        let copy = match config.database() {
            None => None,
            Some(database) => {
                let copy = DirectoryCopy(source.data_dir.join(format!("{DIRECTORY_FILE}.backup")));
                creto_service::offline::copy(database, &copy.0)?;
                Some(copy)
            }
        };
        Ok(Self { source, shards, copy, _data_dir: data_dir })
    }

    /// The directory: nobody changes it now.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        match &self.copy {
            None => self.source.data_dir.join(DIRECTORY_FILE),
            Some(copy) => copy.0.clone(),
        }
    }
}

/// Takes a backup. Until it returns well, nothing at its target looks complete.
///
/// # Errors
/// [`BackupError`]; what was written is removed, as far as it can be.
pub fn take(order: Order<'_>, mut target: Target) -> Result<Manifest, BackupError> {
    let Order { source, shards, taken_ms, with_secrets, bytes_per_s, directory, let_go, on_progress } = order;
    let mut segments = Vec::new();
    for shard in &shards {
        for number in shard.first_segment..=shard.last_segment {
            let name = segment_file_name(creto_store::SegmentNumber(number));
            let path = source.wal_dir.join(format!("shard-{:04}", shard.shard)).join(name);
            let bytes = match number == shard.last_segment {
                true => shard.end_offset,
                false => length(&path)?,
            };
            segments.push((segment_name(shard.shard, number), path, bytes));
        }
    }
    let moment = source.audit.as_ref().map(|audit| {
        let moment = Moment::parse(&audit.checkpoint, &audit.commit);
        moment.ok_or_else(|| BackupError::Lost("the node says of its audit log what cannot be read".to_owned()))
    });
    let (moment, audit_dir) = (moment.transpose()?, source.data_dir.join(AUDIT_DIR));
    let audit_files = moment.as_ref().map(|moment| moment.files(&audit_dir)).transpose()?.unwrap_or_default();
    let of_segments = segments.iter().map(|(.., bytes)| bytes);
    let known: u64 = of_segments.chain(audit_files.iter().map(|file| &file.bytes)).sum();
    let mut done = 0;
    let mut on_piece = |bytes| {
        done += bytes;
        on_progress(done, known.max(done))
    };
    let mut copier = Copier::new(bytes_per_s, &mut on_piece);
    let mut files = Vec::new();
    // First of all: entries may go at any hour.
    for file in &audit_files {
        let (name, path) = (audit_name(&file.name), audit_dir.join(&file.name));
        let from = file.content.as_deref().map_or_else(|| From::file(&path), |content| Ok(From::Bytes(content)))?;
        put(&mut target, &mut copier, &mut files, &name, from, file.bytes)?;
    }
    for (name, path, bytes) in &segments {
        put(&mut target, &mut copier, &mut files, name, From::segment(path)?, *bytes)?;
    }

    // After the logs: an agent is in the directory before anything of it is in a log.
    let path = directory()?;
    put(&mut target, &mut copier, &mut files, DIRECTORY_FILE, From::file(&path)?, length(&path)?)?;

    let description = read(&source.data_dir.join(DESCRIPTION_FILE))?;
    let shard_count = u16::try_from(shards.len()).expect("a node has at most 256 shards");
    if described_shards(&description) != Some(shard_count) {
        let (path, reason) =
            (source.data_dir.join(DESCRIPTION_FILE), "the node has another number of shards".to_owned());
        return Err(DataDirError::Damaged { path, reason }.into());
    }
    let mut small =
        vec![(DESCRIPTION_FILE, description), (CONFIGURATION_FILE, source.configuration.clone().into_bytes())];
    if with_secrets {
        small.push((CERTIFICATE_FILE, read(&source.certificate)?));
        small.push((PRIVATE_KEY_FILE, read(&source.private_key)?));
    }
    for (name, bytes) in &small {
        put(&mut target, &mut copier, &mut files, name, From::Bytes(bytes), bytes.len() as u64)?;
    }
    if with_secrets && moment.is_some() {
        let path = audit_dir.join(SECRET_KEYS);
        let (name, bytes) = (audit_name(SECRET_KEYS), length(&path)?);
        put(&mut target, &mut copier, &mut files, &name, From::file(&path)?, bytes)?;
    }

    let manifest = Manifest {
        format: BACKUP_FORMAT,
        formats: Formats::WRITTEN,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        taken_ms,
        shard_count,
        secrets: with_secrets,
        shards,
        audit: moment.map(|moment| AuditPoint::of(&moment, &audit_files)),
        files,
    };
    let bytes = manifest.to_bytes();
    let digest = digest_line(&sha256(&bytes));
    target.put(DIGEST_FILE, digest.len() as u64, |out| {
        out.write_all(digest.as_bytes()).map_err(failed("write", Path::new(DIGEST_FILE)))
    })?;
    // Only now it is known that no file was reused while it was read.
    let_go()?;
    target.finish(&bytes)?;
    Ok(manifest)
}

fn put(
    target: &mut Target,
    copier: &mut Copier<'_>,
    files: &mut Vec<FileEntry>,
    name: &str,
    from: From<'_>,
    bytes: u64,
) -> Result<(), BackupError> {
    let mut sha256 = String::new();
    target.put(name, bytes, |out| {
        sha256 = copier.copy(from, bytes, out, Path::new(name))?;
        Ok(())
    })?;
    files.push(FileEntry { name: name.to_owned(), bytes, sha256 });
    Ok(())
}

fn length(path: &Path) -> Result<u64, BackupError> {
    Ok(fs::metadata(path).map_err(failed("look at", path))?.len())
}

fn read(path: &Path) -> Result<Vec<u8>, BackupError> {
    fs::read(path).map_err(failed("read", path))
}
