//! The pages that are made of the list of families: docs/metrics.md, the dashboard and the alert rules. `CRETO_WRITE_DOCS=1` writes them.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use creto_metrics::{Kind, dashboard, families};

fn docs(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs")).join(name)
}

#[track_caller]
fn check(name: &str, wanted: &str) {
    let path = docs(name);
    if std::env::var_os("CRETO_WRITE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "docs/{name} is not what the code says; CRETO_WRITE_DOCS=1 with this test writes it");
}

#[test]
fn the_page_lists_every_family() {
    let page = std::fs::read_to_string(docs("metrics.md")).unwrap();
    let (begin, end) = ("<!-- families -->\n", "<!-- /families -->\n");
    let (before, rest) = page.split_once(begin).unwrap();
    let (_, behind) = rest.split_once(end).unwrap();
    let mut table = "| name | kind | labels | what |\n|---|---|---|---|\n".to_owned();
    for family in families::ALL {
        let labels = family.labels.join(", ");
        let (name, kind, help) = (family.sample_name(), family.kind.as_str(), family.help);
        writeln!(table, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    check("metrics.md", &format!("{before}{begin}{table}{end}{behind}"));
}

#[test]
fn the_dashboard_and_the_alert_rules_are_those_of_the_code() {
    check("observability/grafana-dashboard.json", &format!("{:#}\n", dashboard::grafana()));
    check("observability/prometheus-alerts.yml", &dashboard::alert_rules());
}

#[test]
fn no_panel_and_no_rule_asks_for_a_name_that_no_node_tells() {
    let mut told = BTreeSet::new();
    for family in families::ALL {
        match family.kind {
            Kind::Histogram => told.extend(["bucket", "sum", "count"].map(|part| format!("{}_{part}", family.name))),
            Kind::Counter | Kind::Gauge => drop(told.insert(family.sample_name())),
        }
    }
    let texts = [dashboard::grafana().to_string(), dashboard::alert_rules()];
    let mut asked = BTreeSet::new();
    for text in &texts {
        let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
        asked.extend(words.filter(|word| word.starts_with("creto_")).map(str::to_owned));
    }
    assert!(asked.len() > 20, "{asked:?}");
    let unknown: Vec<_> = asked.difference(&told).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
