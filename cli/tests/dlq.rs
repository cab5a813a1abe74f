//! `creto dlq` and `creto recv --reject`, as a person uses them.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;

use process::{Node, creto, ok};

#[test]
fn dead_letters_are_listed_inspected_replayed_and_purged_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let node = Node::with_agents(folder, 2, &["acme/planner", "acme/worker"]);
    let address = node.address.to_string();
    let with_node =
        |args: &[&str]| [args, &["--node", &address]].concat().iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    let run = |args: &[&str]| {
        let args = with_node(args);
        ok(folder, 2, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let status = |args: &[&str]| {
        let args = with_node(args);
        creto(folder, 2, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };

    assert!(run(&["dlq", "list", "acme/worker"]).stdout.contains("No dead letters of acme/worker."));
    for text in ["one", "two", "three"] {
        run(&["send", "acme/planner", "acme/worker", text]);
    }
    let printed = run(&["recv", "acme/worker", "--reject", "42", "-n", "3"]).stdout;
    assert!(printed.contains("one") && printed.contains("three"), "{printed}");

    let listed = run(&["dlq", "list", "acme/worker", "--json"]).json();
    assert_eq!(listed["total"], 3);
    let letters = listed["letters"].as_array().unwrap();
    assert!(letters.iter().all(|letter| letter["cause"] == "rejected" && letter["reason"] == 42), "{listed}");
    let ids: Vec<String> = letters.iter().map(|letter| letter["mailbox_sequence"].to_string()).collect();
    let table = run(&["dlq", "list", "acme/worker", "--limit", "2"]).stdout;
    assert!(table.contains("rejected, reason 42") && table.contains("2 of 3 dead letters"), "{table}");
    let behind = run(&["dlq", "list", "acme/worker", "--after", &ids[1], "--json"]).json();
    assert_eq!(behind["letters"].as_array().unwrap().len(), 1);

    let letter = run(&["dlq", "inspect", "acme/worker", &ids[1], "--json"]).json();
    assert_eq!((&letter["text"], &letter["from"]), (&"two".into(), &"acme/planner".into()));
    let shown = run(&["dlq", "inspect", "acme/worker", &ids[1]]).stdout;
    assert!(shown.contains("acme/planner") && shown.contains("two"), "{shown}");
    let unknown = status(&["dlq", "inspect", "acme/worker", "999999"]);
    assert_eq!(unknown.status, 4, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("list them first"), "{}", unknown.stderr);

    // Nothing is deleted without naming it, or saying that all of it is meant.
    assert_eq!(status(&["dlq", "purge", "acme/worker"]).status, 2);
    assert_eq!(status(&["dlq", "purge", "acme/worker", &ids[0], "--all"]).status, 2);
    assert_eq!(run(&["dlq", "replay", "acme/worker", &ids[1], "--json"]).json()["replayed"], 1);
    let again = status(&["dlq", "replay", "acme/worker", &ids[1], &ids[0], "--json"]);
    assert_eq!((again.status, &again.json()["replayed"], &again.json()["missing"]), (1, &1.into(), &1.into()));
    let printed = run(&["recv", "acme/worker", "-n", "2"]).stdout;
    assert!(printed.contains("one") && printed.contains("two") && !printed.contains("three"), "{printed}");
    let purged = run(&["dlq", "purge", "acme/worker", "--all"]).stdout;
    assert!(purged.contains("1 dead letter of acme/worker"), "{purged}");
    assert_eq!(run(&["dlq", "purge", "acme/worker", "--all", "--json"]).json()["purged"], 0);
    // Whose keys are not here, whose letters are not seen.
    assert_eq!(status(&["dlq", "list", "acme/other"]).status, 2);
    node.stop();
}
