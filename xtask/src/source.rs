//! Rules about files of source and text.

use crate::{Complaint, Tree};

/// Lines of the longest Rust file. A file that grows past it has two subjects.
const LINES_MAX: usize = 900;

/// Crates without clock, randomness, IO or threads: folder by folder.
pub const PURE_CRATES: &[&str] = &[
    "envelope",
    "crypto-accel",
    "store",
    "net",
    "engine/shard",
    "control/policy",
    "control/rego",
    "control/audit",
    "control/transparency",
];

/// Notes to oneself: the work is done, or it is an issue, but not a comment. Written apart, so that this file has none.
const NOTES: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
];

/// Paths that only exist on the machine of whoever wrote them.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/ro", "ot/"),
    concat!("/builds", "/"),
];

/// No Rust file is longer than 900 lines.
#[must_use]
pub fn files_stay_short(tree: &Tree) -> Vec<Complaint> {
    let long = |(path, text): (&str, &str)| {
        let lines = text.lines().count();
        let complaint =
            || Complaint::new(path, 0, format!("{lines} lines; split it by subject, {LINES_MAX} are the most"));
        (lines > LINES_MAX).then(complaint)
    };
    tree.rust_files().filter_map(long).collect()
}

/// Nothing says that it will be done later.
#[must_use]
pub fn nothing_is_left_for_later(tree: &Tree) -> Vec<Complaint> {
    let text_files = tree.files().filter(|(path, _)| is_text(path));
    lines_with(text_files, NOTES, |note| format!("{note} in a tracked file; do it, or open an issue"))
}

/// No file names a folder of the machine it was written on.
#[must_use]
pub fn no_file_names_a_build_machine(tree: &Tree) -> Vec<Complaint> {
    let text_files = tree.files().filter(|(path, _)| is_text(path));
    // Inside of a relative path (`tests/home/mod.rs`) it is a folder like any other.
    let begins = |line: &str, at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-)}~".contains(c));
    let names = |line: &str, path: &str| line.match_indices(path).any(|(at, _)| begins(line, at));
    let mut complaints = Vec::new();
    for (file, content) in text_files {
        for (index, line) in content.lines().enumerate() {
            let found = MACHINE_PATHS.iter().find(|path| names(line, path));
            complaints.extend(found.map(|path| {
                Complaint::new(file, index + 1, format!("{path} names somebody's machine; use a relative path"))
            }));
        }
    }
    complaints
}

/// Pure crates forbid unsafe code, so that a review of `unsafe` need not look there.
#[must_use]
pub fn pure_crates_forbid_unsafe_code(tree: &Tree) -> Vec<Complaint> {
    let complaint = |folder: &&str| {
        let path = format!("{folder}/src/lib.rs");
        match tree.text(&path) {
            None => Some(Complaint::new(&path, 0, "the pure crate is missing; correct PURE_CRATES of xtask")),
            Some(text) if !text.contains("#![forbid(unsafe_code)]") => {
                Some(Complaint::new(&path, 0, "a pure crate says #![forbid(unsafe_code)] at its top"))
            }
            Some(_) => None,
        }
    };
    PURE_CRATES.iter().filter_map(complaint).collect()
}

fn is_text(path: &str) -> bool {
    const TEXT: &[&str] = &["rs", "md", "toml", "sh", "yml", "yaml", "py", "json", "service"];
    const SCRIPTS: &[&str] = &["check", ".ci/run"];
    SCRIPTS.contains(&path) || path.rsplit_once('.').is_some_and(|(_, extension)| TEXT.contains(&extension))
}

fn lines_with<'a>(
    files: impl Iterator<Item = (&'a str, &'a str)>,
    needles: &[&str],
    text: impl Fn(&str) -> String,
) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, content) in files {
        for (index, line) in content.lines().enumerate() {
            let found = needles.iter().find(|needle| line.contains(**needle));
            complaints.extend(found.map(|needle| Complaint::new(path, index + 1, text(needle))));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_found() {
        let long = "\n".repeat(LINES_MAX + 1);
        let tree = Tree::of(&[("a.rs", &long), ("b.rs", &long[1..]), ("c.md", &long)]);
        let found: Vec<_> = files_stay_short(&tree).into_iter().map(|complaint| complaint.path).collect();
        assert_eq!(found, ["a.rs"]);
    }

    #[test]
    fn notes_to_oneself_are_found() {
        for note in NOTES {
            let tree = Tree::of(&[("a.rs", &format!("fn a() {{}}\n// {note} later\n")), ("b.bin", note)]);
            let found = nothing_is_left_for_later(&tree);
            assert_eq!(found.len(), 1, "{note}");
            assert_eq!((found[0].path.as_str(), found[0].line), ("a.rs", 2));
        }
        assert_eq!(nothing_is_left_for_later(&Tree::of(&[("a.rs", "fn todos() {}")])), []);
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        for path in MACHINE_PATHS {
            let tree = Tree::of(&[("docs/a.md", &format!("see {path}x/y"))]);
            assert_eq!(no_file_names_a_build_machine(&tree).len(), 1, "{path}");
        }
        for fine in ["see /etc/creto.toml", concat!("#[path = \"../tests/ho", "me/mod.rs\"]"), concat!("./wo", "rk/a")]
        {
            assert_eq!(no_file_names_a_build_machine(&Tree::of(&[("docs/a.md", fine)])), [], "{fine}");
        }
    }

    #[test]
    fn a_pure_crate_without_its_lint_or_without_itself_is_found() {
        let mut files: Vec<(String, &str)> = PURE_CRATES
            .iter()
            .map(|folder| (format!("{folder}/src/lib.rs"), "//! a\n#![forbid(unsafe_code)]\n"))
            .collect();
        let tree = |files: &[(String, &str)]| {
            Tree::of(&files.iter().map(|(path, text)| (path.as_str(), *text)).collect::<Vec<_>>())
        };
        assert_eq!(pure_crates_forbid_unsafe_code(&tree(&files)), []);
        files[0].1 = "//! forbid unsafe";
        files.pop();
        assert_eq!(pure_crates_forbid_unsafe_code(&tree(&files)).len(), 2);
    }
}
