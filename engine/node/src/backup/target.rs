//! Where a backup is written to: a folder, a tar file, or a stream. Until it is finished, nothing there looks complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::manifest::MANIFEST_FILE;
use super::tar;
use super::{BackupError, failed};

/// Where a backup is written to.
pub enum Target {
    /// A folder, which is made, or is empty.
    Folder(FolderTarget),
    /// A tar archive.
    Tar(TarTarget),
}

/// A backup as files of a folder.
#[derive(Debug)]
pub struct FolderTarget {
    folder: PathBuf,
    is_own_folder: bool,
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    is_finished: bool,
}

/// A backup as a tar archive.
pub struct TarTarget {
    out: BufWriter<Box<dyn Write + Send>>,
    /// Where it is written, and what it is called once it is complete; a stream has neither.
    file: Option<(File, PathBuf, PathBuf)>,
    modified_s: u64,
    is_finished: bool,
}

impl Target {
    /// A folder, which is made, or is empty.
    ///
    /// # Errors
    /// [`BackupError`]: it holds something, or cannot be made.
    pub fn folder(folder: &Path) -> Result<Self, BackupError> {
        let is_own_folder = match fs::DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed("create", folder)(error)),
        };
        let mut entries = fs::read_dir(folder).map_err(failed("read", folder))?;
        if entries.next().is_some() {
            return Err(BackupError::NotEmpty(folder.to_owned()));
        }
        let (files, folders, is_finished) = (Vec::new(), Vec::new(), false);
        Ok(Self::Folder(FolderTarget { folder: folder.to_owned(), is_own_folder, files, folders, is_finished }))
    }

    /// A tar archive at `path`, which does not exist. It has another name until it is complete.
    ///
    /// # Errors
    /// [`BackupError`]: it exists, or cannot be made.
    pub fn tar_file(path: &Path, now_s: u64) -> Result<Self, BackupError> {
        if path.exists() {
            return Err(BackupError::NotEmpty(path.to_owned()));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial);
        let file = file.map_err(failed("create", &partial))?;
        let out = file.try_clone().map_err(failed("create", &partial))?;
        Ok(Self::Tar(TarTarget {
            out: BufWriter::new(Box::new(out)),
            file: Some((file, partial, path.to_owned())),
            modified_s: now_s,
            is_finished: false,
        }))
    }

    /// A tar archive to a stream. Whoever reads it must see its end: without its last file it is not complete.
    #[must_use]
    pub fn tar_stream(out: impl Write + Send + 'static, now_s: u64) -> Self {
        let out = BufWriter::new(Box::new(out) as Box<dyn Write + Send>);
        Self::Tar(TarTarget { out, file: None, modified_s: now_s, is_finished: false })
    }

    /// Writes a file of exactly `bytes`, which `content` writes.
    pub(super) fn put(
        &mut self,
        name: &str,
        bytes: u64,
        content: impl FnOnce(&mut dyn Write) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        match self {
            Self::Folder(target) => target.put(name, name, content),
            Self::Tar(target) => target.put(name, bytes, content),
        }
    }

    /// Writes the manifest, with which the backup is complete, once everything else is on the disk.
    pub(super) fn finish(mut self, manifest: &[u8]) -> Result<(), BackupError> {
        match &mut self {
            Self::Folder(target) => target.finish(manifest),
            Self::Tar(target) => target.finish(manifest),
        }
    }
}

impl FolderTarget {
    fn put(
        &mut self,
        name: &str,
        as_name: &str,
        content: impl FnOnce(&mut dyn Write) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let path = self.folder.join(as_name);
        let mut parents: Vec<_> = Path::new(name).ancestors().skip(1).map(|parent| self.folder.join(parent)).collect();
        parents.retain(|parent| *parent != self.folder && !parent.exists());
        for parent in parents.into_iter().rev() {
            fs::DirBuilder::new().mode(0o700).create(&parent).map_err(failed("create", &parent))?;
            self.folders.push(parent);
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path).map_err(failed("create", &path))?;
        self.files.push(path.clone());
        let mut file = Caching { file, written: 0 };
        content(&mut file)?;
        file.file.sync_all().map_err(failed("sync", &path))?;
        file.forget();
        Ok(())
    }

    fn finish(&mut self, manifest: &[u8]) -> Result<(), BackupError> {
        let folder = self.folder.clone();
        let partial = format!("{MANIFEST_FILE}.partial");
        let path = folder.join(&partial);
        self.put(MANIFEST_FILE, &partial, |out| out.write_all(manifest).map_err(failed("write", &path)))?;
        // The names of everything, before the name that says that everything is there.
        for made in self.folders.iter().chain([&folder]) {
            sync_folder(made)?;
        }
        fs::rename(&path, folder.join(MANIFEST_FILE)).map_err(failed("rename", &path))?;
        self.is_finished = true;
        sync_folder(&folder)?;
        match folder.parent() {
            Some(parent) if self.is_own_folder => {
                sync_folder(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for FolderTarget {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        // The best that can be done: what stays has no manifest, and is refused.
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        for folder in self.folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
        if self.is_own_folder {
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

impl TarTarget {
    fn place(&self) -> PathBuf {
        self.file.as_ref().map_or_else(|| PathBuf::from("the output"), |(_, partial, _)| partial.clone())
    }

    fn put(
        &mut self,
        name: &str,
        bytes: u64,
        content: impl FnOnce(&mut dyn Write) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let place = self.place();
        let header = tar::header(name, bytes, self.modified_s);
        let header = header.ok_or_else(|| BackupError::TooLargeForTar { name: name.to_owned(), bytes })?;
        self.out.write_all(&header).map_err(failed("write", &place))?;
        content(&mut self.out)?;
        tar::pad(&mut self.out, bytes).map_err(failed("write", &place))
    }

    fn finish(&mut self, manifest: &[u8]) -> Result<(), BackupError> {
        let place = self.place();
        // What it depends on is on the disk before it is.
        self.out.flush().map_err(failed("write", &place))?;
        if let Some((file, ..)) = &self.file {
            file.sync_all().map_err(failed("sync", &place))?;
        }
        self.put(MANIFEST_FILE, manifest.len() as u64, |out| out.write_all(manifest).map_err(failed("write", &place)))?;
        self.out.write_all(&tar::TAR_END).and_then(|()| self.out.flush()).map_err(failed("write", &place))?;
        self.is_finished = true;
        let Some((file, partial, path)) = &self.file else { return Ok(()) };
        file.sync_all().map_err(failed("sync", partial))?;
        fs::rename(partial, path).map_err(failed("rename", partial))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_folder(folder)
    }
}

impl Drop for TarTarget {
    fn drop(&mut self) {
        if let Some((_, partial, _)) = self.file.as_ref().filter(|_| !self.is_finished) {
            let _ = fs::remove_file(partial);
        }
    }
}

/// A file whose pages leave the page cache once they are on the disk: a backup must not push out what others use.
struct Caching {
    file: File,
    written: u64,
}

/// Bytes after which what was written is synced and forgotten.
const FORGET_BYTES: u64 = 32 << 20;

impl Caching {
    fn forget(&self) {
        // Only advice: where it is not taken, the cache is a little fuller.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

impl Write for Caching {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        let before = self.written / FORGET_BYTES;
        self.written += written as u64;
        if self.written / FORGET_BYTES > before {
            self.file.sync_data()?;
            self.forget();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), BackupError> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(failed("sync", folder))
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Folder(_) => "Target::Folder",
            Self::Tar(_) => "Target::Tar",
        })
    }
}

impl std::fmt::Debug for TarTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarTarget").field("place", &self.place()).finish_non_exhaustive()
    }
}
