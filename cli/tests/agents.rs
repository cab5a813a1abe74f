//! `creto agent` against a control service: keys stay here, running it again does no harm, refusals say what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use creto_agent::TrustDomain;
use creto_service::{Service, ServiceHandle, ServiceOptions};

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

fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr))
}

/// A folder as `creto init` makes it, with a control service and no shards.
fn node(folder: &Path) -> ServiceHandle {
    assert_eq!(creto(folder, &["init"]).status, 0);
    let data = folder.join("data");
    let trust_domain = TrustDomain::parse("creto.local").expect("the default");
    let options = ServiceOptions::new(data.join("control.redb"), data.join("control.sock"), trust_domain);
    Service::open(options).and_then(|service| service.spawn(|_: Arc<_>| {})).expect("a service")
}

#[test]
fn an_agent_is_created_once_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let service = node(dir.path());

    let created = json(&creto(dir.path(), &["agent", "create", "acme/planner", "--json"]));
    assert_eq!((&created["created"], &created["name"]), (&true.into(), &"acme/planner".into()));
    let keys = dir.path().join("agents/acme/planner.keys");
    assert_eq!(std::fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(dir.path().join("agents/acme")).unwrap().permissions().mode() & 0o777, 0o700);
    let before = std::fs::read(&keys).unwrap();

    let again = creto(dir.path(), &["agent", "create", "acme/planner", "--json"]);
    assert_eq!(again.status, 0, "{}", again.stderr);
    assert_eq!((&json(&again)["created"], &json(&again)["key_id"]), (&false.into(), &created["key_id"]));
    assert_eq!(std::fs::read(&keys).unwrap(), before, "keys are never replaced");

    assert_eq!(creto(dir.path(), &["agent", "create", "other/worker"]).status, 0);
    let names = |args: &[&str]| {
        let list = json(&creto(dir.path(), args));
        list.as_array().unwrap().iter().map(|agent| agent["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["agent", "list", "--json"]), ["acme/planner", "other/worker"]);
    assert_eq!(names(&["agent", "list", "acme", "--json"]), ["acme/planner"]);
    let table = creto(dir.path(), &["agent", "list"]);
    assert!(table.stdout.starts_with("name ") && table.stdout.lines().count() == 3, "{}", table.stdout);

    let shown = creto(dir.path(), &["agent", "show", "acme/planner"]);
    assert_eq!(shown.status, 0);
    assert!(shown.stdout.contains(created["id"].as_str().unwrap()), "{}", shown.stdout);
    assert!(shown.stdout.contains("spiffe://creto.local/acme/planner"), "{}", shown.stdout);
    service.shutdown().unwrap();
}

#[test]
fn a_registration_that_was_lost_is_made_up_with_the_same_keys() {
    let dir = tempfile::tempdir().unwrap();
    let service = node(dir.path());
    let created = json(&creto(dir.path(), &["agent", "create", "acme/planner", "--json"]));
    service.shutdown().unwrap();
    std::fs::remove_file(dir.path().join("data/control.redb")).unwrap();
    let trust_domain = TrustDomain::parse("creto.local").unwrap();
    let data = dir.path().join("data");
    let options = ServiceOptions::new(data.join("control.redb"), data.join("control.sock"), trust_domain);
    let service = Service::open(options).and_then(|service| service.spawn(|_: Arc<_>| {})).unwrap();

    let again = json(&creto(dir.path(), &["agent", "create", "acme/planner", "--json"]));
    assert_eq!((&again["created"], &again["key_id"]), (&true.into(), &created["key_id"]));
    service.shutdown().unwrap();
}

#[test]
fn a_name_whose_keys_are_elsewhere_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let service = node(dir.path());
    assert_eq!(creto(dir.path(), &["agent", "create", "acme/planner"]).status, 0);

    let taken = creto(dir.path(), &["agent", "create", "acme/planner", "--keys", "elsewhere"]);
    assert_eq!(taken.status, 4);
    assert!(taken.stderr.contains("with keys that are not here\n next: choose another name"), "{}", taken.stderr);
    assert!(!dir.path().join("elsewhere").exists());

    let unknown = creto(dir.path(), &["agent", "show", "acme/nobody"]);
    assert_eq!(unknown.status, 4);
    assert!(unknown.stderr.contains("\n next: "), "{}", unknown.stderr);
    service.shutdown().unwrap();
}

#[test]
fn without_a_node_the_status_says_so_and_the_text_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(creto(dir.path(), &["init", "--listen", "127.0.0.1:9"]).status, 0);
    for args in [&["agent", "list"][..], &["agent", "create", "acme/planner"], &["agent", "show", "acme/planner"]] {
        let run = creto(dir.path(), args);
        assert_eq!(run.status, 3, "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains("next: start one with `creto serve`"), "{}", run.stderr);
    }
    assert!(!dir.path().join("agents").exists(), "no keys for an agent that nobody knows");

    let send = creto(dir.path(), &["send", "acme/planner", "acme/worker", "hello"]);
    assert_eq!(send.status, 2);
    assert!(send.stderr.contains("next: make them with `creto agent create acme/planner`"), "{}", send.stderr);
    assert_eq!(creto(dir.path(), &["send", "acme/Planner", "acme/worker", "hello"]).status, 2);
    assert_eq!(creto(dir.path(), &["send", "acme/planner", "acme/worker"]).status, 2);
}

#[cfg(feature = "fn-dsa")]
#[test]
fn an_agent_with_a_third_key_is_made_and_shown_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let service = node(dir.path());
    let three = serde_json::json!(["Ed25519", "ML-DSA-65", "FN-DSA-512"]);
    let created = json(&creto(dir.path(), &["agent", "create", "acme/planner", "--fn-dsa", "--json"]));
    assert_eq!((&created["created"], &created["signature_algorithms"]), (&true.into(), &three));
    let shown = json(&creto(dir.path(), &["agent", "show", "acme/planner", "--json"]));
    assert_eq!(shown["signature_algorithms"], three);
    let shown = creto(dir.path(), &["agent", "show", "acme/planner"]);
    assert!(shown.stdout.contains("third key   FN-DSA-512"), "{}", shown.stdout);
    assert_eq!(creto(dir.path(), &["agent", "create", "acme/planner", "--fn-dsa"]).status, 0, "again does no harm");

    assert_eq!(creto(dir.path(), &["agent", "create", "acme/worker"]).status, 0);
    let shown = creto(dir.path(), &["agent", "show", "acme/worker"]);
    assert!(!shown.stdout.contains("third key"), "{}", shown.stdout);
    let other = creto(dir.path(), &["agent", "create", "acme/worker", "--fn-dsa"]);
    assert_eq!(other.status, 4, "{}", other.stderr);
    assert!(other.stderr.contains("next: leave out --fn-dsa"), "{}", other.stderr);
    service.shutdown().unwrap();
}
