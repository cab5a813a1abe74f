//! Every statement of docs/security.md that stands in a table names the test that holds it.

use crate::figures::cells;
use crate::{Complaint, Tree};

const SECURITY: &str = "docs/security.md";
/// The heading of the column that names tests.
const HELD_BY: &str = "held by";

/// Every row of a table with a column "held by" names, in backticks in that column, tests that exist.
#[must_use]
pub fn every_statement_names_the_test_that_holds_it(tree: &Tree) -> Vec<Complaint> {
    let Some(text) = tree.text(SECURITY) else {
        return vec![Complaint::new(SECURITY, 0, "the list of statements is missing")];
    };
    let mut complaints = Vec::new();
    let mut in_table = false;
    for (index, line) in text.lines().enumerate() {
        let Some(cells) = cells(line) else {
            in_table &= line.starts_with('|');
            continue;
        };
        let last = *cells.last().expect("a row has a cell");
        if !in_table {
            in_table = true;
            if last != HELD_BY {
                complaints.push(Complaint::new(SECURITY, index + 1, format!("the last column is \"{HELD_BY}\"")));
            }
            continue;
        }
        let names: Vec<_> = last.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            complaints.push(Complaint::new(SECURITY, index + 1, "the statement names no test; name one in backticks"));
        }
        let missing = names.into_iter().filter(|name| !is_test(tree, name));
        complaints
            .extend(missing.map(|name| Complaint::new(SECURITY, index + 1, format!("there is no test `{name}`"))));
    }
    complaints
}

/// Whether a function of this name stands under a test attribute, or inside `proptest!`.
fn is_test(tree: &Tree, name: &str) -> bool {
    let needle = format!("fn {name}(");
    tree.rust_files().any(|(_, text)| {
        let lines: Vec<_> = text.lines().collect();
        (0..lines.len()).any(|at| {
            let above = lines[..at].iter().rev().take_while(|line| {
                let line = line.trim_start();
                line.starts_with("#[") || line.starts_with("///")
            });
            lines[at].contains(&needle) && above.into_iter().any(|line| line.contains("test"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(page: &str) -> Vec<String> {
        let test = "#[test]\n#[cfg(unix)]\nfn nobody_reads_it() {}\n#[tokio::test]\nasync fn nobody_writes_it() {}\nfn helps() {}\n";
        let tree = Tree::of(&[(SECURITY, page), ("agent/tests/a.rs", test)]);
        every_statement_names_the_test_that_holds_it(&tree).iter().map(ToString::to_string).collect()
    }

    const HEAD: &str = "| statement | held by |\n|---|---|\n";

    #[test]
    fn statements_that_are_held_pass() {
        let page =
            format!("{HEAD}| a | `nobody_reads_it`, `nobody_writes_it` |\n\ntext\n\n{HEAD}| b | `nobody_reads_it` |\n");
        assert_eq!(complaints(&page), Vec::<String>::new());
    }

    #[test]
    fn a_statement_without_a_test_and_one_whose_test_is_gone_are_found() {
        assert_eq!(complaints(&format!("{HEAD}| a | everybody knows |\n")).len(), 1);
        assert_eq!(
            complaints(&format!("{HEAD}| a | `nobody_steals_it` |\n")),
            ["docs/security.md:3: there is no test `nobody_steals_it`"]
        );
        assert_eq!(complaints(&format!("{HEAD}| a | `helps` |\n")).len(), 1, "a function is not a test");
        assert_eq!(complaints("| statement | why |\n|---|---|\n| a | `nobody_reads_it` |\n").len(), 1);
        assert_eq!(every_statement_names_the_test_that_holds_it(&Tree::default()).len(), 1);
    }
}
