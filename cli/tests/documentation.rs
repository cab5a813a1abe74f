//! The page for operators lists every exit status as `creto --help` does.

use std::path::Path;
use std::process::Command;

const BEGIN: &str = "<!-- exit: begin";
const END: &str = "<!-- exit: end -->";

#[test]
fn the_operations_page_lists_every_exit_status() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
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
        "docs/operations.md is out of date: CRETO_WRITE_DOCS=1 cargo test -p creto-cli --test documentation"
    );
}

fn table() -> String {
    let help = Command::new(env!("CARGO_BIN_EXE_creto")).arg("--help").output().expect("the binary was built");
    let help = String::from_utf8(help.stdout).expect("help is UTF-8");
    let (_, statuses) = help.split_once("Exit status:\n").expect("help lists the statuses");
    let row = |line: &str| {
        let (status, meaning) = line.trim().split_once("  ").expect("a number, then its meaning");
        format!("| {status} | {meaning} |\n")
    };
    let rows: String = statuses.lines().filter(|line| !line.trim().is_empty()).map(row).collect();
    assert!(rows.lines().count() > 2, "{help}");
    format!("\n| status | meaning |\n|---|---|\n{rows}\n")
}
