//! Tells the generator which commit it is built from: reports name it.
//!
//! `CRETO_COMMIT` says it where a package is built. Otherwise it is read from `.git`, where the sources are a checkout: by the same
//! commit everybody builds the same, and only another commit makes this build anew. Changes that nobody has committed are not seen.

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CRETO_COMMIT");
    let said = std::env::var("CRETO_COMMIT").ok().filter(|commit| !commit.is_empty());
    if let Some(commit) = said.or_else(|| Checkout::of(Path::new(".."))?.commit()) {
        println!("cargo::rustc-env=CRETO_COMMIT={commit}");
    }
}

/// Where a checkout keeps what it is at.
struct Checkout {
    /// Of this checkout alone.
    own: PathBuf,
    /// Of all checkouts of the repository.
    common: PathBuf,
}

impl Checkout {
    fn of(root: &Path) -> Option<Self> {
        let dot_git = root.join(".git");
        let own = match fs::read_to_string(&dot_git) {
            // One of several checkouts of a repository: a file that says where.
            Ok(text) => root.join(text.strip_prefix("gitdir: ")?.trim()),
            Err(_) => dot_git,
        };
        let common = match fs::read_to_string(own.join("commondir")) {
            Ok(text) => own.join(text.trim()),
            Err(_) => own.clone(),
        };
        own.join("HEAD").is_file().then_some(Self { own, common })
    }

    fn commit(&self) -> Option<String> {
        let head = Self::watched(&self.own.join("HEAD"))?;
        let Some(reference) = head.strip_prefix("ref: ") else { return hexadecimal(&head) };
        // A commit is written into the first, and moved into the second when the repository is tidied up.
        let loose = self.common.join(reference);
        if let Some(commit) = Self::watched(&loose) {
            return hexadecimal(&commit);
        }
        let packed = Self::watched(&self.common.join("packed-refs"))?;
        let line =
            packed.lines().find(|line| line.ends_with(reference) && line.split(' ').nth(1) == Some(reference))?;
        // The next commit makes the file that is not there yet.
        if let Some(folder) = loose.ancestors().skip(1).find(|folder| folder.is_dir()) {
            println!("cargo::rerun-if-changed={}", folder.display());
        }
        hexadecimal(line.split(' ').next()?)
    }

    /// Reads a file, and builds anew when it changes. One that is not there is not watched: that would build anew each time.
    fn watched(path: &Path) -> Option<String> {
        let text = fs::read_to_string(path).ok()?;
        println!("cargo::rerun-if-changed={}", path.display());
        Some(text.trim().to_owned())
    }
}

/// The name of a commit, and nothing else that might stand in a file.
fn hexadecimal(text: &str) -> Option<String> {
    let is_name = (40..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_name.then(|| text.to_owned())
}
