//! What lies in the data folder and in that of the log: names, sizes, modes and ages. No file is opened.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use creto_node::config::Config;

/// Lines of a listing; a log of 64 TiB has more files.
const ENTRIES_MAX: usize = 20_000;

/// What stands behind them.
const MORE: &str = "and more, which is not shown\n";

/// Both folders, the log's only where it is outside of the other.
pub(super) fn of(config: &Config) -> String {
    let (data, wal) = (config.data_dir(), config.wal_dir());
    let mut text = String::from("# mode  owner  bytes  seconds since it was written  name\n");
    let mut left = ENTRIES_MAX;
    for folder in [&data, &wal] {
        if folder == &wal && wal.starts_with(&data) {
            continue;
        }
        let _ = writeln!(text, "\n# {}", folder.display());
        list(folder, folder, &mut text, &mut left);
    }
    text
}

fn list(root: &Path, folder: &Path, text: &mut String, left: &mut usize) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            let _ = writeln!(text, "{}: {error}", folder.display());
            return;
        }
    };
    // One more than is shown, so that the end is said.
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).take(*left + 1).collect();
    paths.sort();
    for path in paths {
        if *left == 0 {
            if !text.ends_with(MORE) {
                text.push_str(MORE);
            }
            return;
        }
        *left -= 1;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        let age = age.map_or_else(|| "ahead".to_owned(), |age| age.as_secs().to_string());
        let end = if metadata.is_dir() { "/" } else { "" };
        let (mode, owner, bytes) = (metadata.mode() & 0o7777, metadata.uid(), metadata.len());
        let _ = writeln!(text, "{mode:04o}  {owner:>5}  {bytes:>12}  {age:>8}  {name}{end}");
        // Not through links: they lead to what is not the node's.
        if metadata.is_dir() {
            list(root, &path, text, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_names_files_and_never_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse("creto.toml", "", []).unwrap().in_folder(folder.path());
        std::fs::create_dir_all(config.wal_dir().join("shard-0000")).unwrap();
        std::fs::write(config.data_dir().join("node.key"), "the secret").unwrap();
        std::fs::write(config.wal_dir().join("shard-0000/segment-1.wal"), "the message").unwrap();
        std::os::unix::fs::symlink("/proc", config.data_dir().join("elsewhere")).unwrap();
        let text = of(&config);
        for name in ["node.key\n", "wal/shard-0000/\n", "wal/shard-0000/segment-1.wal\n", "elsewhere\n"] {
            assert!(text.contains(name), "{name}: {text}");
        }
        assert!(!text.contains("secret") && !text.contains("message"), "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("elsewhere")).count(), 1, "{text}");
    }

    #[test]
    fn a_listing_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..5 {
            std::fs::write(folder.path().join(format!("{index}")), "").unwrap();
        }
        let (mut text, mut left) = (String::new(), 3);
        list(folder.path(), folder.path(), &mut text, &mut left);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.ends_with(MORE), "{text}");
    }
}
