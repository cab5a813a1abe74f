//! `creto policy check`, `test` and `explain`: what scripts and people get, and the statuses.

mod process;

use std::path::Path;
use std::process::Command;

use process::{Run, run};

const POLICY: &str = concat!(
    include_str!("../../control/rego/tests/examples/same_organization.rego"),
    "\n",
    include_str!("../../control/rego/tests/examples/role_based.rego")
);
const AGENTS: &str = r#"{
    "acme/planner": { "roles": ["coordinator"] },
    "acme/worker": { "type": "worker", "recent_messages": 7 },
    "other/agent": {}
}"#;

fn policy(folder: &Path, args: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_creto"));
    command.current_dir(folder).env_clear().arg("policy").args(args);
    run(command)
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("it can be written");
    }
    folder
}

#[test]
fn check_says_what_a_policy_reads() {
    let folder = folder(&[("p.rego", POLICY)]);
    let run = policy(folder.path(), &["check", "p.rego"]);
    assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    assert!(run.stdout.contains("Rego v0") && run.stdout.contains("input.sender.roles"), "{}", run.stdout);
    let run = policy(folder.path(), &["check", "p.rego", "--json"]);
    let reads =
        ["input.action", "input.recipient.organization_id", "input.sender.organization_id", "input.sender.roles"];
    assert_eq!(run.json()["reads"], serde_json::json!(reads));
    assert_eq!((run.status, &run.json()["ok"], &run.json()["rego"]), (0, &true.into(), &"v0".into()));
}

#[test]
fn check_refuses_with_place_code_and_what_to_do() {
    let folder = folder(&[("p.rego", "allow {\n    input.sender.role == \"a\"\n}\n")]);
    let run = policy(folder.path(), &["check", "p.rego"]);
    assert_eq!((run.status, run.stdout.as_str()), (1, ""));
    assert!(run.stderr.contains("p.rego:2:5: there is no `input.sender.role` (unknown_input)"), "{}", run.stderr);
    assert!(run.stderr.contains("did you mean `input.sender.roles`?"), "{}", run.stderr);
    let run = policy(folder.path(), &["check", "p.rego", "--json"]);
    let problem = &run.json()["problems"][0];
    assert_eq!((run.status, &run.json()["ok"]), (1, &false.into()));
    assert_eq!(
        (&problem["code"], &problem["line"], &problem["column"]),
        (&"unknown_input".into(), &2.into(), &5.into())
    );
    let run = policy(folder.path(), &["check", "missing.rego"]);
    assert_eq!(run.status, 5, "{}", run.stderr);
    std::fs::write(folder.path().join("large.rego"), vec![b'#'; 10 << 20]).unwrap();
    let run = policy(folder.path(), &["check", "large.rego"]);
    assert!(run.status == 1 && run.stderr.contains("too_large"), "{}", run.stderr);
}

#[test]
fn tests_pass_fail_and_must_be_there() {
    let good = "test_same { allow with input as {\"sender\": {\"organization_id\": \"a\"}, \"recipient\": {\"organization_id\": \"a\"}} }";
    let bad = format!("{good}\ntest_wrong {{ allow with input as {{}} }}\n");
    let folder = folder(&[
        ("p.rego", POLICY),
        ("p_test.rego", good),
        ("q.rego", POLICY),
        ("q_test.rego", &bad),
        ("r.rego", POLICY),
    ]);
    let run = policy(folder.path(), &["test", "p.rego", "p_test.rego"]);
    assert_eq!(run.status, 0, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("1 passed, 0 failed") && run.stdout.contains("pass    test_same"), "{}", run.stdout);
    let run = policy(folder.path(), &["test", "p.rego", "q.rego"]);
    assert_eq!(run.status, 1);
    assert!(run.stdout.contains("FAIL    test_wrong  q_test.rego:2  it does not hold"), "{}", run.stdout);
    let run = policy(folder.path(), &["test", "q.rego", "--json"]);
    let value = run.json();
    assert_eq!(
        (run.status, &value["ok"], &value["passed"], &value["failed"]),
        (1, &false.into(), &1.into(), &1.into())
    );
    assert_eq!((&value["tests"][1]["test"], &value["tests"][1]["pass"]), (&"test_wrong".into(), &false.into()));
    let run = policy(folder.path(), &["test", "r.rego"]);
    assert!(run.status == 1 && run.stderr.contains("r.rego has no tests: there is no r_test.rego"), "{}", run.stderr);
    std::fs::write(folder.path().join("r_test.rego"), "helper { true }").unwrap();
    let run = policy(folder.path(), &["test", "r.rego", "--json"]);
    assert_eq!((run.status, &run.json()["problems"][0]["code"]), (1, &"no_tests".into()));
    assert_eq!(policy(folder.path(), &["test"]).status, 2);
}

#[test]
fn explain_names_the_rule_that_allows_and_what_it_saw() {
    let folder = folder(&[("p.rego", POLICY), ("agents.json", AGENTS)]);
    let explain = |args: &[&str]| {
        policy(folder.path(), &[&["explain", "--file", "p.rego", "--agents", "agents.json"], args].concat())
    };
    let run = explain(&["acme/planner", "send_message", "other/agent"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert!(run.stdout.starts_with("allow\n") && run.stdout.contains("allows    p.rego:7: allow {"), "{}", run.stdout);
    assert!(run.stdout.contains("does not  p.rego:2: allow {"), "{}", run.stdout);
    assert!(run.stdout.contains("sender.roles = [\"coordinator\"]"), "{}", run.stdout);
    let run = explain(&["acme/planner", "publish", "other/agent", "--channel", "news", "--json"]);
    let value = run.json();
    assert_eq!((run.status, &value["allow"], &value["reason"]), (1, &false.into(), &"no rule `allow` holds".into()));
    assert_eq!((&value["inputs"]["action"], &value["rules"][1]["line"]), (&"publish".into(), &7.into()));
    assert_eq!(explain(&["acme/worker", "read_directory"]).status, 1, "nobody to have an organization");
    for (args, part) in [
        (&["acme/nobody", "publish"][..], "acme/nobody is not in agents.json"),
        (&["acme/worker", "shout", "other/agent"], "read_directory"),
    ] {
        let run = explain(args);
        assert!(run.status == 2 && run.stderr.contains(part), "{}", run.stderr);
    }
    std::fs::write(folder.path().join("agents.json"), "{\"a/b\": {\"role\": []}}").unwrap();
    let run = explain(&["a/b", "publish"]);
    assert!(run.status == 2 && run.stderr.contains("unknown field `role`"), "{}", run.stderr);
}
