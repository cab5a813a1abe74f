//! `creto thread`, as two people and an auditor use it.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use process::{Node, creto, ok};
use serde_json::Value;

#[test]
fn a_conversation_is_had_kept_and_checked_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let node = Node::with_agents(folder, 2, &["acme/planner", "acme/worker"]);
    let address = node.address.to_string();
    let say =
        |args: &[&str]| ok(folder, 2, &[&["thread", "send"], args, &["--node", &address, "--json"]].concat()).json();
    let hear = |agent: &str, proofs: &str| -> Value {
        let run = ok(folder, 2, &["recv", agent, "--proofs", proofs, "-n", "1", "--node", &address, "--json"]);
        run.lines().remove(0)
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let artefact = "ab".repeat(32);

    let offer =
        say(&["acme/planner", "acme/worker", "handoff_request", r#"{"work":"parser"}"#, "--handoff", &artefact]);
    let offered = hear("acme/worker", "of-worker");
    assert_eq!(
        (&offered["typed"]["type"], &offered["typed"]["handoff"]),
        (&"handoff_request".into(), &artefact.clone().into())
    );
    assert_eq!((&offered["typed"]["hash"], &offered["text"]), (&offer["hash"], &r#"{"work":"parser"}"#.into()));
    let hash = text(&offered["typed"]["hash"]);
    say(&["acme/worker", "acme/planner", "handoff_approval", "{}", "--handoff", &artefact, "--parent", &hash]);
    let approved = hear("acme/planner", "of-planner");
    assert_eq!(approved["typed"]["parent"], hash.as_str());
    say(&["acme/worker", "acme/planner", "status_update", "{}", "--parent", &text(&approved["typed"]["hash"])]);
    hear("acme/planner", "of-planner");
    // One that is no part of it: a proof without a payload beside it.
    ok(folder, 2, &["send", "acme/worker", "acme/planner", "by the way", "--node", &address]);
    hear("acme/planner", "of-planner");

    // Whoever checks it needs neither node nor keys.
    let verify = |args: &[&str]| creto(folder, 2, &[&["thread", "verify"], args].concat());
    let whole = verify(&["of-worker", "of-planner", "--json"]);
    assert_eq!(whole.status, 0, "{}{}", whole.stdout, whole.stderr);
    let whole = whole.json();
    let types: Vec<_> = whole["messages"].as_array().unwrap().iter().map(|message| text(&message["type"])).collect();
    assert_eq!(types, ["handoff_request", "handoff_approval", "status_update"]);
    assert_eq!(whole["fingerprints_compared"], false);
    let shown = verify(&["of-worker", "of-planner"]).stdout;
    assert!(shown.contains("3 messages") && shown.contains("--expect NAME=FINGERPRINT"), "{shown}");
    let expect = |index: usize| {
        let message = &whole["messages"][index];
        format!("{}={}", text(&message["sender"]), text(&message["signing_fingerprint"]))
    };
    let (planner, worker) = (expect(0), expect(1));
    let compared = verify(&["of-worker", "of-planner", "--json", "--expect", &planner, "--expect", &worker]).json();
    assert_eq!((&compared["ok"], &compared["fingerprints_compared"]), (&true.into(), &true.into()));
    let wrong = format!("acme/worker={}", "00".repeat(32));
    let refused = verify(&["of-worker", "of-planner", "--expect", &wrong, "--json"]);
    assert_eq!((refused.status, &refused.json()["code"]), (1, &"other_fingerprint".into()));

    // What is missing is named, and so is what was changed.
    let half = verify(&["of-planner", "--json"]);
    assert_eq!((half.status, &half.json()["code"]), (1, &"missing_parent".into()));
    let payload = folder.join("of-worker").join(format!("{}.typed", text(&offered["message_id"])));
    let mode = fs::metadata(&payload).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it is plaintext");
    let mut bytes = fs::read(&payload).unwrap();
    assert!(bytes.ends_with(br#"{"work":"parser"}"#));
    let end = bytes.len() - 3;
    bytes[end] = b'x';
    fs::write(&payload, bytes).unwrap();
    let changed = verify(&["of-worker", "of-planner", "--json"]);
    assert_eq!((changed.status, &changed.json()["code"]), (1, &"not_committed".into()));
    assert!(text(&changed.json()["file"]).contains(&text(&offered["message_id"])));

    fs::create_dir(folder.join("empty")).unwrap();
    assert_eq!(verify(&["empty"]).status, 2);
    let unsaid = creto(
        folder,
        2,
        &["thread", "send", "acme/planner", "acme/worker", "handoff_request", "{}", "--node", &address],
    );
    assert_eq!(unsaid.status, 2);
    assert!(unsaid.stderr.contains("give its SHA-256"), "{}", unsaid.stderr);
    let unknown = creto(folder, 2, &["thread", "send", "acme/planner", "acme/worker", "gossip", "{}"]);
    assert!(unknown.status == 2 && unknown.stderr.contains("security_alert"), "{}", unknown.stderr);
}
