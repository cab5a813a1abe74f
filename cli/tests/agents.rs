//! `creto agent` against a control service: keys stay here, running it again does no harm, refusals say what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use creto_agent::TrustDomain;
use creto_service::{Enrolment, Service, ServiceHandle, ServiceOptions};

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
    node_with(folder, Enrolment::Open)
}

fn node_with(folder: &Path, enrolment: Enrolment) -> ServiceHandle {
    assert_eq!(creto(folder, &["init"]).status, 0);
    let data = folder.join("data");
    let trust_domain = TrustDomain::parse("creto.local").expect("the default");
    let mut options = ServiceOptions::new(data.join("control.redb"), data.join("control.sock"), trust_domain);
    options.enrolment = enrolment;
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

    let prekeys = json(&creto(dir.path(), &["agent", "prekeys", "acme/planner", "--json"]));
    assert_eq!(
        prekeys,
        serde_json::json!({ "name": "acme/planner", "version": 1, "one_time": 0, "last_resort": false, "low": 32 })
    );
    let prekeys = creto(dir.path(), &["agent", "prekeys", "acme/planner"]);
    assert!(prekeys.stdout.starts_with("acme/planner  none\n"), "{}", prekeys.stdout);
    assert_eq!(creto(dir.path(), &["agent", "prekeys", "acme/nobody"]).status, 4);
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

#[test]
fn what_an_agent_is_can_be_set_and_what_is_given_replaces_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let service = node(dir.path());
    assert_eq!(creto(dir.path(), &["agent", "create", "acme/planner"]).status, 0);
    let set = |args: &[&str]| {
        let run = creto(dir.path(), &[&["agent", "set", "acme/planner", "--json"], args].concat());
        assert_eq!(run.status, 0, "{args:?}: {}", run.stderr);
        let value = json(&run);
        let texts = |name: &str| {
            value[name]
                .as_array()
                .unwrap()
                .iter()
                .map(|text| text.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        format!("{}: {}; {}", value["type"].as_str().unwrap(), texts("roles"), texts("capabilities"))
    };
    assert_eq!(set(&["--type", "planner", "--role", "b", "--role", "a"]), "planner: a b; ");
    assert_eq!(set(&["--capability", "plan"]), "planner: a b; plan");
    assert_eq!(set(&["--role", "c"]), "planner: c; plan");

    let shown = creto(dir.path(), &["agent", "show", "acme/planner"]).stdout;
    assert!(shown.contains("type        planner\n  roles       c\n  can         plan\n"), "{shown}");
    let listed = creto(dir.path(), &["agent", "list"]).stdout;
    assert!(listed.lines().next().unwrap().contains("type     roles"), "{listed}");
    assert!(listed.contains("planner  c "), "{listed}");
    let text = creto(dir.path(), &["agent", "set", "acme/planner", "--clear-roles"]).stdout;
    assert!(text.contains("roles         -\n  capabilities  plan\n"), "{text}");
    assert_eq!(set(&["--clear-capabilities", "--type", "agent"]), "agent: ; ");

    for (args, status, text) in [
        (&["--role", "\u{430}dmin"][..], 4, "next: give texts of 1 to 512 plain ASCII characters"),
        (&["--role", "a", "--clear-roles"], 2, "cannot be used with"),
        (&[], 2, "required"),
    ] {
        let run = creto(dir.path(), &[&["agent", "set", "acme/planner"], args].concat());
        assert_eq!(run.status, status, "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(text), "{args:?}: {}", run.stderr);
    }
    assert_eq!(creto(dir.path(), &["agent", "set", "acme/nobody", "--type", "x"]).status, 4);
    service.shutdown().unwrap();
}

fn creto_with_input(folder: &Path, args: &[&str], input: &str) -> Run {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new(env!("CARGO_BIN_EXE_creto"))
        .current_dir(folder)
        .args(args)
        .env_remove("CRETO_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Run { status: output.status.code().expect("an exit"), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn an_agent_is_suspended_resumed_and_revoked_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let service = node(dir);
    for name in ["acme/a", "acme/b", "acme/c", "acmes/d"] {
        assert_eq!(creto(dir, &["agent", "create", name]).status, 0);
    }
    let states = || {
        let list = json(&creto(dir, &["agent", "list", "--json"]));
        let words = list.as_array().unwrap().iter().map(|agent| agent["state"].as_str().unwrap().to_owned());
        words.collect::<Vec<_>>().join(" ")
    };
    let suspended = creto(dir, &["agent", "suspend", "acme/a", "--reason", "on holiday"]);
    assert!(suspended.stdout.starts_with("suspended  acme/a\n"), "{}{}", suspended.stdout, suspended.stderr);
    let shown = creto(dir, &["agent", "show", "acme/a"]).stdout;
    assert!(shown.contains("  suspended   since ") && shown.contains(" UTC  on holiday\n"), "{shown}");
    assert_eq!(json(&creto(dir, &["agent", "resume", "acme/a", "--json"]))["state"], "active");
    let revoked = json(&creto(dir, &["agent", "revoke", "acme/a", "--since", "2h", "--reason", "key lost", "--json"]));
    assert_eq!((&revoked["state"], &revoked["state_reason"]), (&"revoked".into(), &"key lost".into()));
    let ms = |name: &str| revoked[name].as_u64().unwrap();
    assert!((7_190_000..=7_260_000).contains(&(ms("state_set_at_ms") - ms("state_since_ms"))), "{revoked}");
    for (verb, status) in [("resume", 4), ("suspend", 4), ("create", 4), ("revoke", 0)] {
        let run = creto(dir, &["agent", verb, "acme/a"]);
        assert_eq!(run.status, status, "{verb}: {}{}", run.stdout, run.stderr);
        assert!(status == 0 || run.stderr.contains("next: create another agent under another name"), "{}", run.stderr);
    }
    assert_eq!(states(), "revoked active active active");

    // A whole organization, and no other that begins like it: only for whoever types its name, or says that it is meant.
    for input in ["", "acm\n", "yes\n"] {
        let run = creto_with_input(dir, &["agent", "revoke", "--organization", "acme"], input);
        assert_eq!(run.status, 2, "{input:?}: {}", run.stderr);
        assert!(
            run.stderr.contains("Type the name of the organization") && run.stderr.contains("give --yes"),
            "{}",
            run.stderr
        );
    }
    let all = json(&creto(dir, &["agent", "suspend", "--organization", "acme", "--json"]));
    assert_eq!((&all["changed"], &all["revoked_before"]), (&2.into(), &1.into()));
    assert_eq!(states(), "revoked suspended suspended active");
    let run = creto_with_input(dir, &["agent", "revoke", "--organization", "acme"], "acme\n");
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert!(run.stdout.contains("revoked  acme: 2 agents\n1 were so before\n"), "{}", run.stdout);
    assert_eq!(states(), "revoked revoked revoked active");
    assert_eq!(creto(dir, &["agent", "revoke", "--organization", "acmes", "--yes"]).status, 0);
    let unknown = creto(dir, &["agent", "revoke", "--organization", "nobody", "--yes"]);
    assert_eq!(unknown.status, 4, "{}", unknown.stderr);
    assert_eq!(creto(dir, &["agent", "revoke"]).status, 2);
    assert_eq!(creto(dir, &["agent", "revoke", "acme/a", "--organization", "acme"]).status, 2);
    service.shutdown().unwrap();
}

#[test]
fn where_a_token_is_demanded_an_agent_is_created_with_one_and_its_keys_stay_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let service = node_with(dir, Enrolment::Token);
    let create = |name: &str, token: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_creto"));
        command.current_dir(dir).args(["agent", "create", name]).env_remove("CRETO_CONFIG");
        if let Some(token) = token {
            command.env("CRETO_ENROLMENT_TOKEN", token);
        }
        let output = command.output().expect("the binary was built");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Run { status: output.status.code().expect("an exit"), stdout: text(output.stdout), stderr: text(output.stderr) }
    };
    let run = create("acme/planner", None);
    assert_eq!(run.status, 4, "{}", run.stderr);
    assert!(run.stderr.contains("next: have the operator run `creto token create`"), "{}", run.stderr);
    assert!(!dir.join("agents/acme/planner.keys").exists(), "the node said no, so nobody will ever know these keys");

    let made = json(&creto(dir, &["token", "create", "--organization", "acme", "--uses", "2", "--json"]));
    let token = made["token"].as_str().unwrap();
    assert_eq!((&made["scope"], &made["uses_left"]), (&"acme".into(), &2.into()));
    let other = create("other/planner", Some(token));
    assert_eq!(other.status, 4);
    assert!(other.stderr.contains("the token is for acme, not for other/planner"), "{}", other.stderr);
    let cut = create("acme/planner", Some(&token[..token.len() - 1]));
    assert_eq!(cut.status, 2, "{}", cut.stderr);
    assert!(cut.stderr.contains("next: copy all of it") && !cut.stderr.contains(&token[..40]), "{}", cut.stderr);
    let run = create("acme/planner", Some(token));
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert!(!run.stdout.contains(token));

    let text = creto(dir, &["token", "create", "--name", "acme/worker", "--expires", "10m"]);
    assert_eq!(text.status, 0, "{}", text.stderr);
    let one = text.stdout.lines().next().unwrap().to_owned();
    assert!(text.stdout.contains("It is not shown again."), "{}", text.stdout);
    assert_eq!(create("acme/other", Some(&one)).status, 4);
    assert_eq!(create("acme/worker", Some(&one)).status, 0);
    let listed = creto(dir, &["token", "list"]).stdout;
    assert!(!listed.contains(token) && !listed.contains(&one), "{listed}");
    assert!(
        listed.contains("acme/worker  used      0   1") && listed.contains("acme         good      1   2"),
        "{listed}"
    );
    let id = made["id"].as_str().unwrap();
    assert_eq!(json(&creto(dir, &["token", "withdraw", id, "--json"]))["id"], id);
    let run = create("acme/third", Some(token));
    assert!(run.status == 4 && run.stderr.contains("this node made no such token"), "{}", run.stderr);
    assert_eq!(creto(dir, &["token", "create"]).status, 2);
    assert_eq!(creto(dir, &["token", "create", "--organization", "acme", "--expires", "1s"]).status, 4);
    service.shutdown().unwrap();
}

#[test]
fn a_name_that_only_looks_like_another_is_refused_before_any_node_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(creto(dir.path(), &["init", "--listen", "127.0.0.1:9"]).status, 0);
    // Cyrillic a, a zero-width space, a fullwidth letter, a combining accent.
    for name in ["\u{430}cme/planner", "acme/plan\u{200b}ner", "acme/ｐlanner", "acme/pla\u{301}nner"] {
        let run = creto(dir.path(), &["agent", "create", name]);
        assert_eq!(run.status, 2, "{name}: {}", run.stderr);
        assert!(run.stderr.contains("a-z"), "{name}: {}", run.stderr);
    }
    assert!(!dir.path().join("agents").exists());
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

#[test]
fn a_workload_registers_its_agent_with_its_svid_and_a_key_that_others_can_read_is_refused() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(creto(dir.path(), &["init"]).status, 0);
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.path().join("bundle.pem"), root.pem()).unwrap();
    let mut workload = CertificateParams::new(Vec::new()).unwrap();
    workload.subject_alt_names = vec![SanType::URI("spiffe://creto.local/acme/planner".try_into().unwrap())];
    workload.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.path().join("svid.pem"), workload.signed_by(&key, &root).unwrap().pem()).unwrap();
    let key_path = dir.path().join("svid.key");
    std::fs::write(&key_path, key.serialize_pem()).unwrap();
    let mode = |mode| std::fs::set_permissions(&key_path, std::fs::Permissions::from_mode(mode)).unwrap();

    let data = dir.path().join("data");
    let trust_domain = TrustDomain::parse("creto.local").expect("the default");
    let mut options = ServiceOptions::new(data.join("control.redb"), data.join("control.sock"), trust_domain);
    (options.enrolment, options.spiffe_bundle) = (Enrolment::Token, Some(dir.path().join("bundle.pem")));
    let service = Service::open(options).and_then(|service| service.spawn(|_: Arc<_>| {})).expect("a service");

    let create = |name: &str| {
        creto(dir.path(), &["agent", "create", name, "--svid", "svid.pem", "--svid-key", "svid.key", "--json"])
    };
    mode(0o640);
    let open = create("acme/planner");
    assert_eq!(open.status, 2, "{}", open.stderr);
    assert!(open.stderr.contains("chmod 600"), "{}", open.stderr);
    mode(0o600);
    let other = create("acme/worker");
    assert_eq!(other.status, 4, "{}", other.stderr);
    assert!(other.stderr.contains("spiffe://creto.local/acme/planner is not that of the agent"), "{}", other.stderr);
    assert!(!dir.path().join("agents/acme/worker.keys").exists(), "nothing is left behind");
    let made = create("acme/planner");
    assert_eq!(made.status, 0, "{}", made.stderr);
    assert_eq!(json(&made)["created"], true);
    let alone = creto(dir.path(), &["agent", "create", "acme/planner", "--svid", "svid.pem"]);
    assert_eq!(alone.status, 2, "{}", alone.stderr);
    service.shutdown().unwrap();
}
