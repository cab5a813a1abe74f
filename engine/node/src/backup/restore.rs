//! Makes a data folder of a backup: everything is checked beside its place before anything is put there.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use creto_audit_store::{check_copy, is_log_file};
use creto_store::{FileSource, parse_segment_file_name, verify};

use super::copy::{Copier, From, sha256};
use super::manifest::{
    CERTIFICATE_FILE, CONFIGURATION_FILE, DIGEST_FILE, DIRECTORY_FILE, FileEntry, MANIFEST_BYTES_MAX, MANIFEST_FILE,
    Manifest, PRIVATE_KEY_FILE, digest_line,
};
use super::tar::{self, Entry};
use super::target::sync_folder;
use super::{BackupError, failed};
use crate::data_dir::{AUDIT_DIR, DESCRIPTION_FILE, RESTORE_DIR, described_shards};

/// Where a backup comes from.
pub enum Source {
    /// A folder.
    Folder(PathBuf),
    /// A tar archive, and its name in errors.
    Tar(Box<dyn Read>, PathBuf),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => f.debug_tuple("Folder").field(path).finish(),
            Self::Tar(_, path) => f.debug_tuple("Tar").field(path).finish(),
        }
    }
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// What the backup held.
    pub manifest: Manifest,
    /// Messages in the logs, settled or not.
    pub messages: u64,
    /// The configuration that the node ran by, as a file in the data folder.
    pub configuration: PathBuf,
}

/// The name under which the configuration is restored: the operator's own stays what it is.
const RESTORED_CONFIGURATION_FILE: &str = "restored.toml";
/// Where the audit log is restored to without its secret keys: nobody goes on with it.
pub const RESTORED_AUDIT_DIR: &str = "audit.restored";

/// Restores a backup into `data_dir`, which is made, or is empty. Only when every digest, every version and every frame of
/// the logs was checked, it gets its files; if this ends before, no node starts on the folder.
///
/// # Errors
/// [`BackupError`].
pub fn restore(
    source: Source,
    data_dir: &Path,
    on_piece: &mut dyn FnMut(u64) -> Result<(), BackupError>,
) -> Result<Restored, BackupError> {
    match fs::read_dir(data_dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Ok(false) => return Err(BackupError::NotEmpty(data_dir.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_dir(data_dir)?,
        Err(error) => return Err(failed("read", data_dir)(error)),
    }
    let staging = Staging { folder: data_dir.join(RESTORE_DIR), is_done: false };
    make_dir(&staging.folder)?;
    sync_folder(data_dir)?;
    let mut copier = Copier::new(None, on_piece);
    let manifest = match source {
        Source::Folder(folder) => from_folder(&folder, &staging.folder, &mut copier)?,
        Source::Tar(tar, name) => {
            from_tar(BufReader::with_capacity(1 << 20, tar), &name, &staging.folder, &mut copier)?
        }
    };
    let messages = check(&manifest, &staging.folder)?;
    // Nodes that know a later state of it do not take it for the same.
    creto_service::offline::forget_incarnation(&staging.folder.join(DIRECTORY_FILE))?;
    staging.put_in_place(&manifest, data_dir)?;
    Ok(Restored { manifest, messages, configuration: data_dir.join(RESTORED_CONFIGURATION_FILE) })
}

/// Where files are until they were checked.
struct Staging {
    folder: PathBuf,
    is_done: bool,
}

impl Staging {
    /// The description comes last: without it, and with this folder, no node starts.
    fn put_in_place(mut self, manifest: &Manifest, data_dir: &Path) -> Result<(), BackupError> {
        let mut names =
            vec![("wal", "wal"), (DIRECTORY_FILE, DIRECTORY_FILE), (CONFIGURATION_FILE, RESTORED_CONFIGURATION_FILE)];
        if manifest.secrets {
            names.extend([CERTIFICATE_FILE, PRIVATE_KEY_FILE].map(|name| (name, name)));
        }
        if manifest.audit.is_some() {
            // Without its secret keys nobody goes on with a log: it is there to be read.
            names.push((AUDIT_DIR, if manifest.secrets { AUDIT_DIR } else { RESTORED_AUDIT_DIR }));
            sync_folders(&self.folder.join(AUDIT_DIR))?;
        }
        names.push((DESCRIPTION_FILE, DESCRIPTION_FILE));
        for shard in 0..manifest.shard_count {
            // Empty ones, too: a log whose folder is gone is missed.
            let folder = self.folder.join(format!("wal/shard-{shard:04}"));
            if !folder.is_dir() {
                fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
            }
            sync_folder(&folder)?;
        }
        // Of a control service, which has no logs, it is made here.
        let wal = self.folder.join("wal");
        fs::create_dir_all(&wal).map_err(failed("create", &wal))?;
        sync_folder(&wal)?;
        for (from, to) in names {
            let from = self.folder.join(from);
            fs::rename(&from, data_dir.join(to)).map_err(failed("move", &from))?;
        }
        sync_folder(data_dir)?;
        fs::remove_dir(&self.folder).map_err(failed("remove", &self.folder))?;
        self.is_done = true;
        sync_folder(data_dir)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Nothing of it is in place: after a failed check the folder is empty again.
        if !self.is_done && self.folder.parent().is_some_and(|data_dir| !data_dir.join("wal").exists()) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn from_folder(folder: &Path, staging: &Path, copier: &mut Copier<'_>) -> Result<Manifest, BackupError> {
    let read_small = |name: &str| {
        let path = folder.join(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::Incomplete(folder.to_owned()));
            }
            opened => opened.map_err(failed("open", &path))?,
        };
        let mut bytes = Vec::new();
        file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes).map_err(failed("read", &path))?;
        Ok(bytes)
    };
    let manifest = checked_manifest(&read_small(MANIFEST_FILE)?, &read_small(DIGEST_FILE)?)?;
    let mut known: Vec<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    known.extend([MANIFEST_FILE, DIGEST_FILE]);
    if let Some(unknown) = unknown_file(folder, folder, &known)? {
        return Err(BackupError::Damaged(format!("{unknown}: the manifest does not name it")));
    }
    for wanted in &manifest.files {
        let path = folder.join(&wanted.name);
        let length = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::Damaged(format!("{}: it is missing", wanted.name)));
            }
            metadata => metadata.map_err(failed("look at", &path))?.len(),
        };
        if length != wanted.bytes {
            return Err(BackupError::Damaged(format!("{}: it has {length} bytes, not {}", wanted.name, wanted.bytes)));
        }
        let found = unpack(&wanted.name, wanted.bytes, From::file(&path)?, staging, copier)?;
        if found != *wanted {
            return Err(BackupError::Damaged(format!("{}: its digest is another one", wanted.name)));
        }
    }
    Ok(manifest)
}

/// A file of the backup that the manifest does not name.
fn unknown_file(root: &Path, folder: &Path, known: &[&str]) -> Result<Option<String>, BackupError> {
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let path = entry.map_err(failed("read", folder))?.path();
        let name = path.strip_prefix(root).expect("it was found under it").to_string_lossy().into_owned();
        if path.is_dir() {
            if let Some(unknown) = unknown_file(root, &path, known)? {
                return Ok(Some(unknown));
            }
        } else if !known.contains(&name.as_str()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn from_tar(mut tar: impl Read, from: &Path, staging: &Path, copier: &mut Copier<'_>) -> Result<Manifest, BackupError> {
    let not_ours = || {
        let text = "its layout: it is not as `creto backup` writes it, or was packed anew (unpack it then, and restore the folder)";
        BackupError::Damaged(format!("{}: {text}", from.display()))
    };
    let cut = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::Incomplete(from.to_owned()),
        _ => failed("read", from)(error),
    };
    let mut found = BTreeMap::new();
    let mut small: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let manifest = loop {
        let entry = tar::next_entry(&mut tar).map_err(cut)?.ok_or_else(not_ours)?;
        let (name, bytes) = match entry {
            Entry::File { name, bytes } => (name, bytes),
            Entry::End => {
                let (Some(manifest), Some(digest)) = (small.get(MANIFEST_FILE), small.get(DIGEST_FILE)) else {
                    return Err(BackupError::Incomplete(from.to_owned()));
                };
                break checked_manifest(manifest, digest)?;
            }
        };
        if found.contains_key(&name) || small.contains_key(&name) {
            return Err(not_ours());
        }
        if name == MANIFEST_FILE || name == DIGEST_FILE {
            if bytes > MANIFEST_BYTES_MAX {
                return Err(not_ours());
            }
            let mut content = Vec::new();
            (&mut tar).take(bytes).read_to_end(&mut content).map_err(cut)?;
            if (content.len() as u64) < bytes {
                return Err(BackupError::Incomplete(from.to_owned()));
            }
            small.insert(name, content);
        } else {
            if !is_backup_name(&name) {
                return Err(not_ours());
            }
            let file = match unpack(&name, bytes, From::Stream(&mut tar, from), staging, copier) {
                Err(BackupError::Short(_)) => return Err(BackupError::Incomplete(from.to_owned())),
                unpacked => unpacked?,
            };
            found.insert(name, file);
        }
        if !tar::skip_padding(&mut tar, bytes).map_err(cut)? {
            return Err(not_ours());
        }
    };
    for wanted in &manifest.files {
        if found.remove(&wanted.name).as_ref() != Some(wanted) {
            return Err(BackupError::Damaged(format!("{}: it is missing, or its digest is another one", wanted.name)));
        }
    }
    match found.keys().next() {
        Some(name) => Err(BackupError::Damaged(format!("{name}: the manifest does not name it"))),
        None => Ok(manifest),
    }
}

/// Names that a backup may hold: whatever else an archive names is written nowhere.
fn is_backup_name(name: &str) -> bool {
    let plain = [DESCRIPTION_FILE, DIRECTORY_FILE, CONFIGURATION_FILE, CERTIFICATE_FILE, PRIVATE_KEY_FILE];
    let segment = name.strip_prefix("wal/shard-").and_then(|rest| rest.split_once('/'));
    let is_segment = segment.is_some_and(|(shard, file)| {
        shard.len() == 4 && shard.bytes().all(|byte| byte.is_ascii_digit()) && parse_segment_file_name(file).is_some()
    });
    let is_audit = name.strip_prefix(AUDIT_DIR).and_then(|rest| rest.strip_prefix('/')).is_some_and(is_log_file);
    plain.contains(&name) || is_segment || is_audit
}

fn checked_manifest(manifest: &[u8], digest: &[u8]) -> Result<Manifest, BackupError> {
    if digest != digest_line(&sha256(manifest)).as_bytes() {
        return Err(BackupError::Damaged(format!("{MANIFEST_FILE}: its digest is another one than in {DIGEST_FILE}")));
    }
    Manifest::parse(manifest)
}

/// Writes a file beside its place, and says what it is.
fn unpack(
    name: &str,
    bytes: u64,
    from: From<'_>,
    staging: &Path,
    copier: &mut Copier<'_>,
) -> Result<FileEntry, BackupError> {
    let path = staging.join(name);
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("create", folder))?;
    }
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path).map_err(failed("create", &path))?;
    let mut out = &file;
    let sha256 = copier.copy(from, bytes, &mut out as &mut dyn Write, &path)?;
    file.sync_all().map_err(failed("sync", &path))?;
    Ok(FileEntry { name: name.to_owned(), bytes, sha256 })
}

/// Reads every frame of the logs; returns how many messages are in them.
fn check(manifest: &Manifest, staging: &Path) -> Result<u64, BackupError> {
    let description = fs::read(staging.join(DESCRIPTION_FILE)).map_err(failed("read", staging))?;
    if described_shards(&description) != Some(manifest.shard_count) {
        return Err(BackupError::Damaged(format!(
            "{DESCRIPTION_FILE}: it is not that of {} shards",
            manifest.shard_count
        )));
    }
    let mut messages = 0;
    for shard in &manifest.shards {
        let folder = staging.join(format!("wal/shard-{:04}", shard.shard));
        let report = verify(&mut FileSource::new(folder), u32::from(shard.shard))?;
        let problem = report.problems.first().map(ToString::to_string);
        let end_lsn = report.end.as_ref().map_or(0, |end| end.lsn.0);
        let ends_elsewhere = || format!("it ends with frame {end_lsn}, not with {}", shard.end_lsn);
        if let Some(problem) = problem.or_else(|| (end_lsn != shard.end_lsn).then(ends_elsewhere)) {
            return Err(BackupError::Damaged(format!("the log of shard {}: {problem}", shard.shard)));
        }
        messages += report.messages;
    }
    if let Some(audit) = &manifest.audit {
        let damaged = |problem: String| BackupError::Damaged(format!("the audit log: {problem}"));
        let found = check_copy(&staging.join(AUDIT_DIR)).map_err(|error| damaged(error.to_string()))?;
        if found.leaves > audit.size {
            return Err(damaged(format!("{} leaves are signed, and it has {}", found.leaves, audit.size)));
        }
    }
    Ok(messages)
}

/// Makes durable what is in a folder of folders.
fn sync_folders(folder: &Path) -> Result<(), BackupError> {
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let path = entry.map_err(failed("read", folder))?.path();
        if path.is_dir() {
            sync_folder(&path)?;
        }
    }
    sync_folder(folder)
}

fn make_dir(path: &Path) -> Result<(), BackupError> {
    fs::DirBuilder::new().mode(0o700).create(path).map_err(failed("create", path))
}
