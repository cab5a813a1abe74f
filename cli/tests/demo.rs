//! The demo and the kill cycles in short forms: real processes, a real SIGKILL, everything counted.

use std::io::Write;
use std::process::Command;

/// Runs `creto` to its end and reads the one JSON object that it prints.
fn run(args: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_creto"))
        .args(args)
        .env_remove("CRETO_CONFIG")
        .output()
        .expect("the binary was built");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?} ended with {}:\n{out}\n{err}", output.status);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[track_caller]
fn check(report: &serde_json::Value, field: &str, expect: u64) {
    assert_eq!(report[field], expect, "{field} in {report:#}");
}

/// Nothing acknowledged is missing in the audit log, and nothing is in it twice.
#[track_caller]
fn check_audit(report: &serde_json::Value, acknowledged: u64) {
    let audit = &report["audit"];
    for (field, count) in [("accepted_once", acknowledged), ("missing", 0), ("accepted_twice", 0), ("unknown", 0)] {
        check(audit, field, count);
    }
    // Accepted and delivered, each.
    assert!(audit["events"].as_u64().is_some_and(|events| events >= 2 * acknowledged), "{report:#}");
}

#[test]
fn the_demo_loses_nothing_with_a_kill_in_the_middle() {
    let report = run(&["demo", "--messages", "600", "--json"]);
    for field in ["sent", "acknowledged", "delivered", "verified"] {
        check(&report, field, 600);
    }
    for (field, count) in [("lost", 0), ("rejected_tampered", 1), ("rejected_denied", 1), ("node_restarts", 1)] {
        check(&report, field, count);
    }
    for (field, reason) in [
        ("rejected_denied_reason", "PolicyDenied"),
        ("rejected_revoked_reason", "AgentRevoked"),
        ("revocation_closed_reason", "AgentRevoked"),
    ] {
        assert_eq!(report[field], reason, "{field} in {report:#}");
    }
    assert!(report["revocation_closed_ms"].as_f64().is_some_and(|took| took > 0.0), "{report:#}");
    check_audit(&report, 600);
    let proofs = report["audit"]["proofs"].as_array().expect("proofs");
    for (event, code) in
        [("submit_refused", Some("PolicyDenied")), ("agent_revoked", None), ("connection_closed", Some("AgentRevoked"))]
    {
        let proof = proofs.iter().find(|proof| proof["event"] == event).expect("one of each");
        assert!(proof["code"].as_str() == code && proof["leaf"].is_number(), "{report:#}");
    }
    // Two senders with two receivers each, and a thousand messages to a session.
    assert!(report["encapsulations"].as_u64().is_some_and(|count| (1..=8).contains(&count)), "{report:#}");
    assert!(report["signatures"].as_u64().is_some_and(|count| (1..600).contains(&count)), "{report:#}");
    for field in ["sealed", "duplicates", "p50_us", "p99_us", "p999_us", "node_cpu_us_per_message"] {
        assert!(report[field].is_number(), "{field} in {report:#}");
    }
}

#[test]
fn the_demo_sends_the_lines_of_a_file() {
    let mut input = tempfile::NamedTempFile::new().expect("a temporary file");
    for number in 0..40 {
        writeln!(input, "{{\"n\": {number}, \"text\": \"{}\"}}", "ä".repeat(number * 40))
            .expect("room for a few lines");
    }
    let path = input.path().to_str().expect("UTF-8");
    let report = run(&["demo", "--input", path, "--messages", "100", "--json"]);
    check(&report, "delivered", 100);
    check(&report, "lost", 0);
}

#[test]
fn kill_cycles_lose_nothing_and_deliver_nothing_twice() {
    let report = run(&["kill-cycles", "--cycles", "4", "--json"]);
    check(&report, "lost", 0);
    let acknowledged = report["acknowledged"].as_u64().unwrap_or(0);
    assert!(acknowledged > 0, "{report:#}");
    check_audit(&report, acknowledged);
}
