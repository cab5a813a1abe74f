//! The tracked files of the repository, as text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders that are never part of the repository.
const SKIPPED_FOLDERS: &[&str] = &[".git", "target", "corpus", "artifacts"];

/// A broken rule: where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Path from the root of the repository.
    pub path: String,
    /// Line, counted from 1; 0 when it is about the whole file.
    pub line: usize,
    /// What is wrong and what to do.
    pub text: String,
}

impl Complaint {
    /// About one line of a file, or about the whole file with line 0.
    pub fn new(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.text),
            line => write!(f, "{}:{line}: {}", self.path, self.text),
        }
    }
}

/// Paths from the root, each with its text; files that are not UTF-8 have none.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    /// A tree made of these files.
    #[must_use]
    pub fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect() }
    }

    /// The repository that this crate is part of: what git tracks and what it would; without git, every file.
    ///
    /// # Panics
    /// When the repository cannot be read: no check could be made.
    #[must_use]
    pub fn of_repository() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository");
        let paths = tracked(root).unwrap_or_else(|| walk(root));
        let read = |path: PathBuf| {
            let text = String::from_utf8(std::fs::read(root.join(&path)).ok()?).unwrap_or_default();
            Some((path.to_str()?.to_owned(), text))
        };
        let files: BTreeMap<_, _> = paths.into_iter().filter_map(read).collect();
        assert!(files.contains_key("Cargo.toml"), "the root of the repository was not found at {}", root.display());
        Self { files }
    }

    /// Text of a file, if there is one of that path.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Every file, in the order of the paths.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Every Rust file.
    pub fn rust_files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// Whether a file or a folder of that path exists; a trailing slash asks for a folder.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        (!path.ends_with('/') && self.files.contains_key(path))
            || self.files.keys().any(|file| file.starts_with(&folder))
    }

    /// Names of the folders and files at the root.
    #[must_use]
    pub fn roots(&self) -> Vec<&str> {
        let mut roots: Vec<_> = self.files.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
        roots.dedup();
        roots
    }
}

fn tracked(root: &Path) -> Option<Vec<PathBuf>> {
    let git = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()?;
    let list = String::from_utf8(git.stdout).ok()?;
    let paths: Vec<_> = list.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    (git.status.success() && !paths.is_empty()).then_some(paths)
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(root.join(&folder)) else { continue };
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            match entry.file_type() {
                Ok(kind) if kind.is_file() => files.push(path),
                Ok(kind) if kind.is_dir() && !SKIPPED_FOLDERS.iter().any(|name| path.ends_with(name)) => {
                    folders.push(path)
                }
                _ => {}
            }
        }
    }
    files
}
