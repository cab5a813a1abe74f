//! The few file operations that the log needs, so that a test can make each of them fail.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[cfg(test)]
pub(crate) mod faulty;

/// A folder with files. Names are relative, with at most one folder in front.
pub trait Disk {
    /// Writes at `offset`; makes the file if there is none.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&mut self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads up to `bytes.len()` bytes at `offset`: fewer at the end of the file. `None` when there is no such file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, file: &str, offset: u64, bytes: &mut [u8]) -> io::Result<Option<usize>>;
    /// Length of the file; `None` when there is none.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self, file: &str) -> io::Result<Option<u64>>;
    /// Cuts the file.
    ///
    /// # Errors
    /// What the system says.
    fn cut(&mut self, file: &str, length: u64) -> io::Result<()>;
    /// Makes what was written to the file durable.
    ///
    /// # Errors
    /// What the system says. What is on the disk is not known then.
    fn sync(&mut self, file: &str) -> io::Result<()>;
    /// Makes what was made, renamed and removed in the folder durable; the empty name is the log's own folder.
    ///
    /// # Errors
    /// What the system says.
    fn sync_folder(&mut self, folder: &str) -> io::Result<()>;
    /// Makes a folder, if there is none.
    ///
    /// # Errors
    /// What the system says.
    fn make_folder(&mut self, folder: &str) -> io::Result<()>;
    /// Renames a file over another.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&mut self, file: &str) -> io::Result<()>;
    /// Names of the files in a folder, in order; none when there is no such folder.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
}

/// A real folder. Files that are written stay open.
#[derive(Debug)]
pub struct RealDisk {
    folder: PathBuf,
    open: BTreeMap<String, File>,
}

/// Files that stay open: those of the current segment, tiles and commit, and some of the segment before.
const OPEN_FILES_MAX: usize = 8;

impl RealDisk {
    /// The log in this folder.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), open: BTreeMap::new() }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.folder.clone() } else { self.folder.join(name) }
    }

    fn file(&mut self, name: &str) -> io::Result<&File> {
        if !self.open.contains_key(name) {
            if self.open.len() >= OPEN_FILES_MAX {
                self.open.clear();
            }
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.open(self.path(name))?;
            self.open.insert(name.to_owned(), file);
        }
        Ok(&self.open[name])
    }
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

impl Disk for RealDisk {
    fn write_at(&mut self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(file)?.write_all_at(bytes, offset)
    }

    fn read_at(&self, file: &str, offset: u64, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(file) = if_there(File::open(self.path(file)))? else { return Ok(None) };
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(filled))
    }

    fn length(&self, file: &str) -> io::Result<Option<u64>> {
        Ok(if_there(std::fs::metadata(self.path(file)))?.map(|metadata| metadata.len()))
    }

    fn cut(&mut self, file: &str, length: u64) -> io::Result<()> {
        self.file(file)?.set_len(length)
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        self.file(file)?.sync_data()
    }

    fn sync_folder(&mut self, folder: &str) -> io::Result<()> {
        File::open(self.path(folder))?.sync_all()
    }

    fn make_folder(&mut self, folder: &str) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.path(folder))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.open.remove(from);
        self.open.remove(to);
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        self.open.remove(file);
        std::fs::remove_file(self.path(file))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let Some(entries) = if_there(std::fs::read_dir(self.path(folder)))? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}
