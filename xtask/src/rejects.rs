//! The reject codes that docs/protocol.md lists are the ones of the code, no more and no fewer.

use std::collections::BTreeMap;

use creto_envelope::reject::RejectCode;

use crate::{Complaint, Tree};

const PROTOCOL: &str = "docs/protocol.md";

/// Each code stands in a table of the page as `| 100 | FrameTruncated | ...`, with or without backticks.
#[must_use]
pub fn the_protocol_page_lists_every_reject_code(tree: &Tree) -> Vec<Complaint> {
    let codes: BTreeMap<u16, &str> = RejectCode::ALL.iter().map(|code| (code.as_u16(), code.name())).collect();
    let Some(text) = tree.text(PROTOCOL) else {
        return vec![Complaint::new(PROTOCOL, 0, "the page of the protocol is missing")];
    };
    compare(text, &codes)
}

fn compare(text: &str, codes: &BTreeMap<u16, &str>) -> Vec<Complaint> {
    let listed: BTreeMap<u16, (usize, &str)> = text
        .lines()
        .enumerate()
        .filter_map(|(index, line)| row(line).map(|(code, name)| (code, (index + 1, name))))
        .collect();
    let mut complaints = Vec::new();
    for (code, name) in codes {
        match listed.get(code) {
            Some((_, listed)) if listed == name => {}
            Some((line, listed)) => {
                complaints.push(Complaint::new(PROTOCOL, *line, format!("code {code} is called {name}, not {listed}")));
            }
            None => {
                complaints.push(Complaint::new(PROTOCOL, 0, format!("the reject code {code} ({name}) is not listed")))
            }
        }
    }
    let unknown = listed.iter().filter(|(code, _)| !codes.contains_key(code));
    complaints.extend(unknown.map(|(code, (line, name))| {
        Complaint::new(PROTOCOL, *line, format!("there is no reject code {code} ({name})"))
    }));
    complaints
}

/// Code and name of a row whose first cell is a number of three digits and whose second is a name in camel case.
fn row(line: &str) -> Option<(u16, &str)> {
    let mut cells = line.trim().strip_prefix('|')?.split('|').map(|cell| cell.trim().trim_matches('`'));
    let (code, name) = (cells.next()?, cells.next()?);
    let is_name = name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(|c| c.is_ascii_alphanumeric());
    let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    (is_code && is_name).then(|| code.parse().ok()).flatten().map(|code| (code, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(page: &str) -> Vec<String> {
        let codes = BTreeMap::from([(100, "FrameTruncated"), (101, "FrameOversized")]);
        compare(page, &codes).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_list_passes() {
        let page = "| code | name |\n|---|---|\n| 100 | `FrameTruncated` | a |\n| `101` | FrameOversized | b |\n| 0x10 | Login |\n| 160 | header |\n";
        assert_eq!(complaints(page), Vec::<String>::new());
    }

    #[test]
    fn a_code_that_is_missing_renamed_or_made_up_is_found() {
        assert_eq!(
            complaints("| 100 | FrameTruncated |\n"),
            ["docs/protocol.md: the reject code 101 (FrameOversized) is not listed"]
        );
        assert_eq!(
            complaints("| 100 | FrameCut |\n| 101 | FrameOversized |\n| 102 | FrameOdd |\n"),
            [
                "docs/protocol.md:1: code 100 is called FrameTruncated, not FrameCut",
                "docs/protocol.md:3: there is no reject code 102 (FrameOdd)"
            ]
        );
    }

    #[test]
    fn a_missing_page_is_found() {
        assert_eq!(the_protocol_page_lists_every_reject_code(&Tree::default()).len(), 1);
    }
}
