//! `creto mailbox` against a control service: what is set is shown, kept, taken back; what cannot be set says its range.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use creto_agent::TrustDomain;
use creto_service::{Service, ServiceHandle, ServiceOptions};
use serde_json::{Value, json};

struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

fn creto(folder: &Path, args: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_creto"))
        .current_dir(folder)
        .args(args)
        .env_remove("CRETO_CONFIG")
        .output()
        .expect("the binary was built");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Run { status: output.status.code().expect("an exit"), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn json_of(folder: &Path, args: &[&str]) -> Value {
    let run = creto(folder, args);
    assert_eq!(run.status, 0, "{args:?}: {}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout))
}

/// A control service without shards.
fn serve(folder: &Path) -> ServiceHandle {
    let data = folder.join("data");
    let trust_domain = TrustDomain::parse("creto.local").expect("the default");
    let options = ServiceOptions::new(data.join("control.redb"), data.join("control.sock"), trust_domain);
    Service::open(options).and_then(|service| service.spawn(|_: Arc<_>| {})).expect("a service")
}

#[test]
fn what_is_set_is_shown_kept_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(creto(dir, &["init"]).status, 0);
    let service = serve(dir);
    for name in ["acme/planner", "acme/worker"] {
        assert_eq!(creto(dir, &["agent", "create", name]).status, 0);
    }
    let set = json_of(
        dir,
        &["mailbox", "set", "acme/planner", "--retention", "3d", "--messages", "10000", "--bytes", "1GiB", "--json"],
    );
    assert_eq!(
        (&set["retention_s"], &set["messages_max"], &set["bytes_max"]),
        (&json!(259_200), &json!(10_000), &json!(1u64 << 30))
    );
    assert_eq!((&set["max_deliveries"], &set["in_force"]["retention_s"]), (&Value::Null, &json!(259_200)));
    assert_eq!(json_of(dir, &["mailbox", "show", "acme/planner", "--json"]), set);

    let listed = json_of(dir, &["mailbox", "list", "acme", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!((&listed[0], &listed[1]["messages_max"]), (&set, &Value::Null));
    assert_eq!(listed[1]["in_force"]["messages_max"], json!(100_000));
    let table = creto(dir, &["mailbox", "list"]).stdout;
    assert!(table.contains("acme/planner") && table.contains("3d*") && table.contains("10,000*"), "{table}");
    let shown = creto(dir, &["mailbox", "show", "acme/planner"]).stdout;
    assert!(shown.contains("retention   3d          set for this mailbox"), "{shown}");
    let text = creto(dir, &["mailbox", "set", "acme/planner", "--retention", "4d", "--max-deliveries", "5"]).stdout;
    assert!(text.contains("Retention counts for messages that are admitted from now on."), "{text}");

    service.shutdown().unwrap();
    let service = serve(dir);
    let some = json_of(dir, &["mailbox", "set", "acme/planner", "--default", "messages,bytes", "--json"]);
    assert_eq!((&some["messages_max"], &some["bytes_max"]), (&Value::Null, &Value::Null));
    assert_eq!((&some["retention_s"], &some["max_deliveries"]), (&json!(345_600), &json!(5)));
    let all = json_of(dir, &["mailbox", "set", "acme/planner", "--default", "--json"]);
    assert_eq!((&all["retention_s"], &all["max_deliveries"]), (&Value::Null, &Value::Null));
    service.shutdown().unwrap();
}

#[test]
fn what_cannot_be_set_says_its_range_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(creto(dir, &["init"]).status, 0);
    let service = serve(dir);
    assert_eq!(creto(dir, &["agent", "create", "acme/planner"]).status, 0);
    for (arguments, text) in [
        (&["--retention", "1m"][..], "1m is out of range: from 1h to 30d"),
        (&["--retention", "31d"], "31d is out of range: from 1h to 30d"),
        (&["--retention", "soon"], "expected a time with its unit such as 3d or 12h"),
        (&["--messages", "0"], "0 is out of range: from 1 to 10000000"),
        (&["--bytes", "1MiB"], "1 MiB is out of range: from 2 MiB to 1 TiB"),
        (&["--max-deliveries", "300"], "300 is out of range: from 2 to 255"),
        (&["--max-deliveries", "1"], "1 is out of range: from 2 to 255"),
        (&["--default", "everything"], "[possible values: retention, messages, bytes, max-deliveries]"),
        (&[], "required"),
    ] {
        let run = creto(dir, &[&["mailbox", "set", "acme/planner"], arguments].concat());
        assert_eq!(run.status, 2, "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(text), "{arguments:?}: {}", run.stderr);
    }
    assert_eq!(json_of(dir, &["mailbox", "show", "acme/planner", "--json"])["retention_s"], Value::Null);
    let unknown = creto(dir, &["mailbox", "set", "acme/nobody", "--messages", "5"]);
    assert_eq!(unknown.status, 4, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("next: check the name with `creto agent list`"), "{}", unknown.stderr);
    service.shutdown().unwrap();
}
