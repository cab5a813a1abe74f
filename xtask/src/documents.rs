//! Rules about the documents: what they name exists.

use crate::manifests::{members, package_name};
use crate::{Complaint, Tree};

const ARCHITECTURE: &str = "ARCHITECTURE.md";
/// The map of the documents for language models.
const MODELS_MAP: &str = "llms.txt";

/// Every path that ARCHITECTURE.md names exists.
#[must_use]
pub fn architecture_names_what_exists(tree: &Tree) -> Vec<Complaint> {
    let Some(text) = tree.text(ARCHITECTURE) else {
        return vec![Complaint::new(ARCHITECTURE, 0, "the map of the code is missing")];
    };
    let mut complaints = Vec::new();
    for (line, named) in code_spans(text) {
        let missing = paths_in(tree, named).into_iter().filter(|path| !tree.exists(path));
        complaints.extend(missing.map(|path| Complaint::new(ARCHITECTURE, line, format!("{path} does not exist"))));
    }
    complaints
}

/// Every crate of the workspace is on the map, by its folder and by its name.
#[must_use]
pub fn architecture_names_every_crate(tree: &Tree) -> Vec<Complaint> {
    let text = tree.text(ARCHITECTURE).unwrap_or_default();
    let mut complaints = Vec::new();
    for folder in members(tree) {
        let name = package_name(tree, &folder).unwrap_or_default();
        for missing in [format!("{folder}/"), name].into_iter().filter(|needle| !text.contains(&format!("`{needle}`")))
        {
            complaints.push(Complaint::new(ARCHITECTURE, 0, format!("the code map leaves out `{missing}`")));
        }
    }
    complaints
}

/// Every relative link of a document leads to a file.
#[must_use]
pub fn links_lead_somewhere(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, text) in tree.files().filter(|(path, _)| path.ends_with(".md") || *path == MODELS_MAP) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (index, line) in text.lines().enumerate() {
            for target in link_targets(line) {
                let target = target.split('#').next().unwrap_or_default();
                if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                if !resolve(folder, target).is_some_and(|target| tree.exists(&target)) {
                    complaints.push(Complaint::new(path, index + 1, format!("the link to {target} leads nowhere")));
                }
            }
        }
    }
    complaints
}

/// Every document that is no decision is on the map for language models.
#[must_use]
pub fn the_map_for_models_names_every_document(tree: &Tree) -> Vec<Complaint> {
    let map = tree.text(MODELS_MAP).unwrap_or_default();
    let named: Vec<&str> = map.lines().flat_map(link_targets).collect();
    let is_document = |path: &str| match path.strip_suffix(".md") {
        Some(path) => !path.contains('/') || path.strip_prefix("docs/").is_some_and(|name| !name.contains('/')),
        None => false,
    };
    let missing = tree.files().filter(|(path, _)| is_document(path) && !named.contains(path));
    missing.map(|(path, _)| Complaint::new(MODELS_MAP, 0, format!("the map leaves out {path}"))).collect()
}

/// Text between single backticks outside of fenced blocks, each with its line.
pub(crate) fn code_spans(text: &str) -> Vec<(usize, &str)> {
    let mut spans = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            spans.extend(line.split('`').skip(1).step_by(2).map(|span| (index + 1, span)));
        }
    }
    spans
}

/// The paths that a code span names: it begins with a name at the root of the tree. `a/{b,c}.rs` names two.
fn paths_in(tree: &Tree, span: &str) -> Vec<String> {
    let root = span.split('/').next().unwrap_or_default();
    let is_path = span.contains('/') && tree.roots().contains(&root) && !span.contains([' ', '*', '(', '<', '\'']);
    if !is_path {
        return Vec::new();
    }
    match span.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (choices, after))) => {
            choices.split(',').map(|choice| format!("{before}{choice}{after}")).collect()
        }
        None => vec![span.to_owned()],
    }
}

/// Targets of the inline links of a line: `[text](target)`.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

/// The path from the root that `target`, written in a document of `folder`, means.
fn resolve(folder: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = if target.starts_with('/') { Vec::new() } else { folder.split('/').collect() };
    parts.retain(|part| !part.is_empty());
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_gone_is_found() {
        let tree = Tree::of(&[
            ("ARCHITECTURE.md", "`store/src/wal.rs` and `store/` and `a/b` and `x.y()`\n`store/src/{wal,gone}.rs`\n"),
            ("store/src/wal.rs", ""),
        ]);
        let found = architecture_names_what_exists(&tree);
        assert_eq!(found, [Complaint::new(ARCHITECTURE, 2, "store/src/gone.rs does not exist")]);
        assert_eq!(architecture_names_what_exists(&Tree::of(&[("a.rs", "")])).len(), 1);
    }

    #[test]
    fn a_crate_that_is_not_on_the_map_is_found() {
        let tree = |map| {
            Tree::of(&[
                ("Cargo.toml", "[workspace]\nmembers = [\"engine/io\"]\n"),
                ("engine/io/Cargo.toml", "[package]\nname = \"creto-io\"\n"),
                ("ARCHITECTURE.md", map),
            ])
        };
        assert_eq!(architecture_names_every_crate(&tree("| `engine/io/` | `creto-io` |")), []);
        assert_eq!(architecture_names_every_crate(&tree("| `engine/io/` | creto-io |")).len(), 1);
        assert_eq!(architecture_names_every_crate(&tree("")).len(), 2);
    }

    #[test]
    fn a_document_that_is_not_on_the_map_for_models_is_found() {
        let files =
            [("README.md", ""), ("docs/a.md", ""), ("docs/b.md", ""), ("docs/decisions/c.md", ""), ("a/d.md", "")];
        let with = |map| [&files[..], &[("llms.txt", map)]].concat();
        let found = the_map_for_models_names_every_document(&Tree::of(&with("[r](README.md), [a](docs/a.md#part)")));
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["llms.txt: the map leaves out docs/a.md", "llms.txt: the map leaves out docs/b.md"]);
        let whole = with("[r](README.md), [a](docs/a.md)\n[b](docs/b.md)");
        assert_eq!(the_map_for_models_names_every_document(&Tree::of(&whole)), []);
        let broken = with("[gone](docs/gone.md)");
        assert_eq!(links_lead_somewhere(&Tree::of(&broken)).len(), 1);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let tree = Tree::of(&[
            ("README.md", "[a](docs/a.md) [b](docs/) [c](https://example.org/x) [d](#here) [e](docs/a.md#part)"),
            ("docs/a.md", "[up](../README.md)\n[gone](b.md), [outside](../../x)\n"),
        ]);
        let found: Vec<_> = links_lead_somewhere(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["docs/a.md:2: the link to b.md leads nowhere", "docs/a.md:2: the link to ../../x leads nowhere"]
        );
    }
}
