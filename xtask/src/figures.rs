//! Every figure that SPECIFICATION.md promises is held by a test or a bench, or says that it is not yet.

use crate::{Complaint, Tree};

const SPECIFICATION: &str = "SPECIFICATION.md";
/// What a row says that nothing holds.
const NOT_YET: &str = "not yet";

/// Every row of a table that has a figure names what holds it, and what it names exists.
///
/// The last column names it in backticks: `recovery_keeps_every_record` (a test or bench function),
/// `creto-store wal::tests::recovery_keeps_every_record`, `seal/1024` (a bench by its id) or a path.
#[must_use]
pub fn every_figure_names_what_holds_it(tree: &Tree) -> Vec<Complaint> {
    let Some(text) = tree.text(SPECIFICATION) else {
        return vec![Complaint::new(SPECIFICATION, 0, "the list of promises is missing")];
    };
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(cells) = cells(line) else { continue };
        let (Some(last), true) = (cells.last(), has_figure(&cells)) else { continue };
        if last.contains(NOT_YET) {
            continue;
        }
        let names: Vec<_> = last.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            let text = format!("the row names no test or bench; name one in backticks, or say \"{NOT_YET}\"");
            complaints.push(Complaint::new(SPECIFICATION, index + 1, text));
        }
        let missing = names.into_iter().filter(|name| !exists(tree, name));
        complaints.extend(
            missing.map(|name| {
                Complaint::new(SPECIFICATION, index + 1, format!("there is no test, bench or file `{name}`"))
            }),
        );
    }
    complaints
}

/// Cells of a table's row; nothing for other lines, for a heading's rule and for its heading.
pub(crate) fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let cells: Vec<_> = inner.split('|').map(str::trim).collect();
    let rule = cells.iter().all(|cell| cell.chars().all(|c| c == '-' || c == ':'));
    (!rule).then_some(cells)
}

/// Whether the row promises a number: a digit outside of the last column.
fn has_figure(cells: &[&str]) -> bool {
    cells.split_last().is_some_and(|(_, rest)| rest.iter().any(|cell| cell.contains(|c: char| c.is_ascii_digit())))
}

fn exists(tree: &Tree, name: &str) -> bool {
    let function = name.rsplit("::").next().unwrap_or(name);
    let function = function.rsplit(' ').next().unwrap_or(function);
    let needle = format!("fn {function}(");
    let quoted = [format!("\"{name}\""), format!("\"{}\"", name.split('/').next().unwrap_or(name))];
    let is_name = function.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !function.is_empty();
    tree.exists(name)
        || (is_name && tree.rust_files().any(|(_, text)| text.contains(&needle)))
        || tree
            .rust_files()
            .filter(|(path, _)| path.starts_with("benches/"))
            .any(|(_, text)| quoted.iter().any(|quoted| text.contains(quoted.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(specification: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("SPECIFICATION.md", specification),
            ("store/src/wal/tests.rs", "#[test]\nfn recovery_keeps_all() {}\n"),
            ("benches/benches/seal.rs", "group(\"seal\")"),
            ("cli/tests/kill.sh", ""),
        ]);
        every_figure_names_what_holds_it(&tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rows_that_are_held_pass() {
        let rows = "| what | figure | held by |\n|---|---|---|\n\
                    | idle | < 1 % | not yet |\n\
                    | lost | 0 | `recovery_keeps_all` |\n\
                    | lost | 0 | `creto-store wal::tests::recovery_keeps_all`, `cli/tests/kill.sh` |\n\
                    | seal | 300,000 | `seal/1024` |\n\
                    | a sentence | without a figure | nothing |\n";
        assert_eq!(complaints(rows), Vec::<String>::new());
    }

    #[test]
    fn a_row_without_a_holder_is_found() {
        assert_eq!(complaints("| seal | 300,000 | measured once |\n").len(), 1);
    }

    #[test]
    fn a_row_that_names_what_is_gone_is_found() {
        assert_eq!(
            complaints("| lost | 0 | `recovery_keeps_all`, `recovery_keeps_none` |\n"),
            ["SPECIFICATION.md:1: there is no test, bench or file `recovery_keeps_none`"]
        );
        assert_eq!(complaints("| seal | 300,000 | `verify/1024` |\n").len(), 1);
    }

    #[test]
    fn a_missing_list_is_found() {
        assert_eq!(every_figure_names_what_holds_it(&Tree::default()).len(), 1);
    }
}
