//! `creto channel` against a control service: the owner's keys sign here, and refusals say what to do.

mod process;

use process::{Node, creto, ok};

#[test]
fn a_channel_is_created_changed_listed_and_deleted_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let _node = Node::with_agents(folder, 1, &["acme/planner", "acme/worker"]);
    let run = |args: &[&str]| ok(folder, 1, args);
    let refused = |args: &[&str], status: i32, says: &str| {
        let run = creto(folder, 1, args);
        assert_eq!(run.status, status, "{args:?}: {}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains(says), "{args:?}: {}", run.stderr);
    };

    assert!(run(&["channel", "list"]).stdout.contains("creto channel create"));
    let created = run(&["channel", "create", "acme/alerts.eu", "--owner", "acme/planner", "--json"]).json();
    assert_eq!((&created["name"], &created["version"]), (&"acme/alerts.eu".into(), &1.into()));
    assert_eq!((&created["subscribing"], &created["retention_s"]), (&"open".into(), &604_800.into()));
    refused(&["channel", "create", "acme/alerts.eu", "--owner", "acme/planner"], 4, "creto channel show");
    refused(&["channel", "create", "acme/Alerts", "--owner", "acme/planner"], 2, "'A'");
    refused(&["channel", "create", "other/alerts", "--owner", "acme/planner"], 4, "no agent of other");

    let args = ["channel", "set", "acme/alerts.eu", "--allow", "acme/worker", "--publisher", "acme/worker", "--json"];
    let set = run(&[&args[..], &["--retention", "1d", "--history", "true", "--bytes", "64MiB"]].concat()).json();
    assert_eq!((&set["subscribing"], &set["subscribers"][0]), (&"allowlist".into(), &"acme/worker".into()));
    assert_eq!((&set["publishers"][0], &set["version"]), (&"acme/worker".into(), &2.into()));
    assert_eq!((&set["retention_s"], &set["bytes_max"]), (&86_400.into(), &(64 << 20).into()));
    refused(&["channel", "set", "acme/alerts.eu", "--retention", "1d"], 2, "nothing would change");
    refused(&["channel", "set", "acme/alerts.eu", "--retention", "31d"], 2, "30d");
    refused(&["channel", "set", "acme/alerts.eu", "--subscribe", "open", "--allow", "acme/worker"], 2, "allowlist");
    refused(&["channel", "set", "acme/none", "--retention", "1d"], 4, "no channel acme/none");

    // A list that is there stays.
    let same = ["channel", "set", "acme/alerts.eu", "--subscribe", "allowlist", "--messages", "7", "--json"];
    assert_eq!(run(&same).json()["subscribers"][0], "acme/worker");

    run(&["channel", "create", "acme/alerts.us", "--owner", "acme/worker", "--subscribe", "private"]);
    let table = run(&["channel", "list", "acme/alerts.*"]).stdout;
    assert!(table.contains("allowlist (1)") && table.contains("private") && table.lines().count() == 3, "{table}");
    assert_eq!(run(&["channel", "list", "acme/*.us", "--json"]).json().as_array().unwrap().len(), 1);
    let shown = run(&["channel", "show", "acme/alerts.eu"]).stdout;
    assert!(shown.contains("acme/planner") && shown.contains("allowlist: acme/worker"), "{shown}");

    assert_eq!(run(&["channel", "delete", "acme/alerts.eu", "--json"]).json()["deleted"], true);
    refused(&["channel", "show", "acme/alerts.eu"], 4, "no channel");
    refused(&["channel", "delete", "acme/alerts.eu"], 4, "no channel");
    // Its name goes on counting.
    let again = run(&["channel", "create", "acme/alerts.eu", "--owner", "acme/planner", "--json"]).json();
    assert_eq!(again["version"], 5);

    // Whoever is revoked signs nothing: another one takes the channel over, and not before.
    refused(&["channel", "set", "acme/alerts.us", "--owner", "acme/planner"], 4, "belongs to another agent");
    run(&["agent", "revoke", "acme/worker", "--yes"]);
    refused(&["channel", "set", "acme/alerts.us", "--retention", "2h"], 4, "no active agent");
    let taken = run(&["channel", "set", "acme/alerts.us", "--owner", "acme/planner", "--json"]).json();
    assert_eq!((&taken["owner"], &taken["version"]), (&"acme/planner".into(), &2.into()));
}
