//! The page for operators lists every key as the code has it.

use std::path::Path;

use creto_node::config::Config;

const BEGIN: &str = "<!-- config: begin";
const END: &str = "<!-- config: end -->";

#[test]
fn the_operations_page_lists_every_key() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let text = std::fs::read_to_string(&page).expect("docs/operations.md exists");
    let begin = text.find(BEGIN).expect("the page says where the table begins");
    let begin = begin + text[begin..].find('\n').expect("the marker is a line") + 1;
    let end = begin + text[begin..].find(END).expect("the page says where the table ends");
    let wanted = table();
    if std::env::var_os("CRETO_WRITE_DOCS").is_some() {
        std::fs::write(&page, format!("{}{wanted}{}", &text[..begin], &text[end..])).expect("the page can be written");
        return;
    }
    assert_eq!(
        &text[begin..end],
        wanted,
        "docs/operations.md is out of date: CRETO_WRITE_DOCS=1 cargo test -p creto-node --test operations"
    );
}

fn table() -> String {
    let mut text = String::new();
    let mut section = "";
    for key in Config::keys() {
        if key.section != section {
            section = key.section;
            text.push_str(&format!("\n### [{section}]\n\n| key | default | accepts | meaning |\n|---|---|---|---|\n"));
        }
        let doc = key.doc.replace('|', "\\|");
        text.push_str(&format!("| `{}` | `{}` | {} | {doc} |\n", key.name, key.default, key.accepts));
    }
    text.push_str("\nThe variable of a key is its path in capitals with double underscores: ");
    text.push_str(&format!("`{}` for `wal.segment_bytes`.\n\n", variable("segment_bytes")));
    text
}

fn variable(name: &str) -> String {
    Config::keys().into_iter().find(|key| key.name == name).map(|key| key.variable).unwrap_or_default()
}
