//! The manifest: what a backup holds. It is written last, so a backup without one is not complete.

use creto_audit_store::layout::{
    CHECKPOINT, COMMIT, ENTRIES, MILESTONES, PUBLIC_KEYS, SECRET_KEYS, SEGMENT_LEAVES, TILES, entries_file,
    hashes_file, milestone_file,
};
use creto_audit_store::{Moment, MomentFile};
use creto_service::storage::FORMAT as DIRECTORY_FORMAT;
use creto_store::{FRAME_VERSION, SEGMENT_VERSION, SegmentNumber, segment_file_name};
use serde::{Deserialize, Serialize};

use super::BackupError;
use crate::data_dir::{AUDIT_DIR, DATA_FORMAT, DESCRIPTION_FILE};

/// The format of a backup that this version writes.
pub const BACKUP_FORMAT: u32 = 2;

/// The manifest's name in a backup.
pub(crate) const MANIFEST_FILE: &str = "manifest.json";
/// Its digest, as `sha256sum` writes it.
pub(crate) const DIGEST_FILE: &str = "manifest.sha256";
/// Largest manifest that is read: a line for each of half a million segments.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 128 << 20;
pub(crate) const DIRECTORY_FILE: &str = "control.redb";
pub(crate) const CONFIGURATION_FILE: &str = "creto.toml";
pub(crate) const CERTIFICATE_FILE: &str = "node.crt";
pub(crate) const PRIVATE_KEY_FILE: &str = "node.key";

/// What a backup holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format of the backup.
    pub format: u32,
    /// The formats of what is in it.
    pub formats: Formats,
    /// The software that wrote it.
    pub version: String,
    /// When the logs were held: what was acknowledged before is in it. Unix milliseconds.
    pub taken_ms: u64,
    /// Number of shards of the node.
    pub shard_count: u16,
    /// Whether the node's private key is in it.
    pub secrets: bool,
    /// Up to where the log of each shard goes.
    pub shards: Vec<ShardPoint>,
    /// The audit log, as it was then. A backup of format 1 has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditPoint>,
    /// Every file but the manifest and its digest.
    pub files: Vec<FileEntry>,
}

/// The formats of a node's files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Formats {
    /// Of the data folder: `node.json`.
    pub data: u32,
    /// Of a segment's header.
    pub segment: u16,
    /// Of a frame.
    pub frame: u16,
    /// Of the directory: `control.redb`. Older ones are read.
    pub directory: u64,
    /// Of the audit log; zero in a backup of format 1, which has none.
    #[serde(default)]
    pub audit: u32,
}

/// How much of the audit log there is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditPoint {
    /// Leaves.
    pub size: u64,
    /// The files of entries that were not dropped.
    pub entries: Vec<u64>,
    /// Sizes of the older checkpoints.
    pub milestones: Vec<u64>,
}

impl AuditPoint {
    /// What these files are of this moment.
    pub(crate) fn of(moment: &Moment, files: &[MomentFile]) -> Self {
        let numbers = |folder: &str| {
            let in_folder = files.iter().filter_map(|file| file.name.strip_prefix(folder)?.strip_prefix('/'));
            in_folder.filter_map(|name| name.parse().ok()).collect()
        };
        Self { size: moment.size(), entries: numbers(ENTRIES), milestones: numbers(MILESTONES) }
    }

    /// Names of its files, of at most `files_max`; `None` when there must be more.
    fn names(&self, with_secrets: bool, files_max: usize) -> Option<Vec<String>> {
        let segments = usize::try_from(self.size.div_ceil(SEGMENT_LEAVES)).ok().filter(|count| *count <= files_max)?;
        let mut names: Vec<String> = [PUBLIC_KEYS, TILES, CHECKPOINT, COMMIT].map(str::to_owned).into();
        names.extend((0..segments as u64).map(hashes_file));
        names.extend(self.entries.iter().copied().map(entries_file));
        names.extend(self.milestones.iter().copied().map(milestone_file));
        names.extend(with_secrets.then(|| SECRET_KEYS.to_owned()));
        Some(names.iter().map(|name| audit_name(name)).collect())
    }
}

/// Up to where the log of a shard goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardPoint {
    /// The shard.
    pub shard: u16,
    /// Its first segment.
    pub first_segment: u64,
    /// Its last one; below the first for a log that holds nothing.
    pub last_segment: u64,
    /// Where it ends in the last one.
    pub end_offset: u64,
    /// Its last frame.
    pub end_lsn: u64,
}

/// A file of a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name, with the folders it is in.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

/// Only as much of a manifest as every version writes.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl Formats {
    /// Those that this version writes.
    pub(crate) const WRITTEN: Self = Self {
        data: DATA_FORMAT,
        segment: SEGMENT_VERSION,
        frame: FRAME_VERSION,
        directory: DIRECTORY_FORMAT,
        audit: creto_audit_store::FORMAT,
    };

    fn check(&self) -> Result<(), BackupError> {
        let known = Self::WRITTEN;
        let found = [
            ("data", u64::from(self.data), u64::from(known.data)),
            ("segment", u64::from(self.segment), u64::from(known.segment)),
            ("frame", u64::from(self.frame), u64::from(known.frame)),
            ("directory", self.directory, known.directory),
            ("audit log", u64::from(self.audit), u64::from(known.audit)),
        ];
        match found.into_iter().find(|(_, found, known)| found > known) {
            Some((what, found, known)) => Err(BackupError::Format { what, found, known }),
            None => Ok(()),
        }
    }
}

impl Manifest {
    /// Reads a manifest whose digest was checked, and checks what it says against itself.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BackupError> {
        let damaged = |error: serde_json::Error| BackupError::Damaged(format!("{MANIFEST_FILE}: {error}"));
        // The version first: another one may have other fields.
        let Version { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format > BACKUP_FORMAT {
            let (found, known) = (u64::from(format), u64::from(BACKUP_FORMAT));
            return Err(BackupError::Format { what: "backup", found, known });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(damaged)?;
        manifest.formats.check()?;
        if manifest.is_consistent() {
            Ok(manifest)
        } else {
            Err(BackupError::Damaged(format!("{MANIFEST_FILE} contradicts itself")))
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("numbers and texts are always JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Exactly the files that its shards need, each once, and those that every backup has.
    fn is_consistent(&self) -> bool {
        let mut wanted: Vec<String> = [DESCRIPTION_FILE, DIRECTORY_FILE, CONFIGURATION_FILE].map(str::to_owned).into();
        if self.secrets {
            wanted.extend([CERTIFICATE_FILE, PRIVATE_KEY_FILE].map(str::to_owned));
        }
        if let Some(audit) = &self.audit {
            let Some(names) = audit.names(self.secrets, self.files.len()) else { return false };
            wanted.extend(names);
        }
        for (index, shard) in (0..self.shard_count).zip(&self.shards) {
            // A count from outside: no more names than files are worth making.
            let count = shard.last_segment.saturating_sub(shard.first_segment);
            if shard.shard != index || count >= self.files.len() as u64 {
                return false;
            }
            wanted.extend((shard.first_segment..=shard.last_segment).map(|number| segment_name(index, number)));
        }
        let mut found: Vec<_> = self.files.iter().map(|file| file.name.clone()).collect();
        wanted.sort_unstable();
        found.sort_unstable();
        let ends = self.shards.iter().filter(|shard| shard.first_segment <= shard.last_segment).all(|shard| {
            let name = segment_name(shard.shard, shard.last_segment);
            self.files.iter().any(|file| file.name == name && file.bytes == shard.end_offset)
        });
        wanted == found && ends && self.shards.len() == usize::from(self.shard_count)
    }
}

/// Where a segment is in a backup, and in a data folder whose logs are in `wal`.
pub(crate) fn segment_name(shard: u16, segment: u64) -> String {
    format!("wal/shard-{shard:04}/{}", segment_file_name(SegmentNumber(segment)))
}

/// Where a file of the audit log is in a backup.
pub(crate) fn audit_name(name: &str) -> String {
    format!("{AUDIT_DIR}/{name}")
}

/// What [`DIGEST_FILE`] holds for a manifest with this digest.
pub(crate) fn digest_line(sha256: &str) -> String {
    format!("{sha256}  {MANIFEST_FILE}\n")
}

#[cfg(test)]
mod tests;
