//! `creto debug bundle`: it has what helps, and nothing of what a node, its agents and their messages keep secret.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use process::{Node, command, creto, ok, run};

/// What the archive holds: each part, by its name without the folder.
fn parts(archive: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(std::fs::File::open(archive).unwrap()));
    let mut parts = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        assert_eq!(path.components().count(), 2, "everything is in one folder: {}", path.display());
        assert_eq!(entry.header().mode().unwrap(), 0o600, "nobody else reads what is unpacked");
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        parts.insert(path.file_name().unwrap().to_string_lossy().into_owned(), text);
    }
    parts
}

/// No piece of a secret, in any of the forms in which it could have come here.
#[track_caller]
fn check_absent(parts: &BTreeMap<String, String>, what: &str, secret: &[u8]) {
    let plain = String::from_utf8_lossy(secret);
    let plain = plain.trim();
    for (name, text) in parts {
        for form in [plain.to_owned(), hex::encode(secret), STANDARD.encode(secret)] {
            assert!(form.len() >= 5, "{what} is too short to be looked for");
            assert!(!text.contains(&form), "{what} is in {name}");
        }
        // A piece of it is as bad as the whole.
        for piece in plain.lines().filter(|line| line.len() >= 32 && !line.contains(' ') && !line.starts_with("-----"))
        {
            assert!(!text.contains(&piece[..32]), "a piece of {what} is in {name}");
        }
    }
}

#[test]
fn a_bundle_of_a_node_that_runs_has_what_helps_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let node = Node::with_agents(folder, 2, &["acme/planner", "acme/worker"]);
    let address = node.address.to_string();
    let payload = "the colon is missing in line seventeen";
    ok(folder, 2, &["send", "acme/planner", "acme/worker", payload, "--node", &address]);
    let token = ok(folder, 2, &["token", "create", "--organization", "acme", "--json"]).json()["token"].clone();
    let token = token.as_str().unwrap();

    // A log in which somebody has been careless.
    let secret_key = std::fs::read_to_string(folder.join("data/node.key")).unwrap();
    let log = format!(
        "node ready\nenrolment with {token}\nat postgres://creto:hunter2-hunter2@db/creto\nPGPASSWORD=correct-horse\n\
         {secret_key}Authorization: Bearer battery-staple\n\
         unlocked with passphrase \"x\": passphrase = \"purple monkey dishwasher\"\n\
         Config {{ password: Some(\"open-sesame\") }}\nthe last line\n"
    );
    std::fs::write(folder.join("node.log"), &log).unwrap();

    let mut bundle = command(folder, 2, &["debug", "bundle", "--out", "out.tar.gz", "--log", "node.log", "--json"]);
    bundle.env("PGPASSWORD", "correct-horse").env("CRETO_ENROLMENT_TOKEN", token);
    let bundle = run(bundle);
    assert_eq!(bundle.status, 0, "{}", bundle.stderr);
    let said = bundle.json();
    let parts = parts(&folder.join("out.tar.gz"));
    let names: Vec<&str> =
        said["parts"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(parts.keys().map(String::as_str).collect::<Vec<_>>(), sorted, "what is printed is what is in it");
    let expected = [
        "configuration.toml",
        "data-folder.txt",
        "doctor.json",
        "environment.txt",
        "limits.txt",
        "machine.txt",
        "metrics.json",
        "node.log",
        "status.json",
        "topology.json",
        "version.json",
    ];
    assert_eq!(sorted, expected);
    assert_eq!(std::fs::metadata(folder.join("out.tar.gz")).unwrap().permissions().mode() & 0o777, 0o600);

    // What helps.
    let json = |name: &str| serde_json::from_str::<serde_json::Value>(&parts[name]).unwrap();
    assert_eq!(json("status.json")["readiness"]["ready"], true, "{}", parts["status.json"]);
    assert!(json("metrics.json").as_array().unwrap().len() > 20, "{}", parts["metrics.json"]);
    assert!(!json("doctor.json")["findings"].as_array().unwrap().is_empty());
    assert_eq!(json("topology.json")["plan"]["shard_count"], 2);
    assert_eq!(json("version.json")["creto"], env!("CARGO_PKG_VERSION"));
    let pid = node.process.0.id();
    for (name, text) in [
        ("configuration.toml", "segment_bytes = \"8 MiB\""),
        ("data-folder.txt", "audit/audit.key"),
        ("environment.txt", "CRETO_ENROLMENT_TOKEN\n"),
        ("limits.txt", &format!("the node's process {pid}")),
        ("machine.txt", "MemTotal"),
        ("node.log", "the last line"),
    ] {
        assert!(parts[name].contains(text), "{name} lacks {text:?}: {}", parts[name]);
    }

    // What does not belong there.
    for file in ["data/node.key", "data/audit/audit.key", "agents/acme/planner.keys", "agents/acme/worker.keys"] {
        check_absent(&parts, file, &std::fs::read(folder.join(file)).unwrap());
    }
    check_absent(&parts, "a message", payload.as_bytes());
    check_absent(&parts, "a token", token.as_bytes());
    check_absent(&parts, "the token's bits", token.trim_start_matches("creto-enrol-").as_bytes());
    for password in ["hunter2-hunter2", "correct-horse", "battery-staple", "monkey dishwasher", "open-sesame"] {
        check_absent(&parts, "a password", password.as_bytes());
    }
    node.stop();
}

#[test]
fn a_bundle_is_made_where_the_configuration_is_not_understood_and_nothing_runs() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    std::fs::write(
        folder.join("creto.toml"),
        "[control]\ndatabase = \"postgres://creto:hunter2-hunter2@db/creto?sslmode=maybe\"\n[topology]\nshard = 2\n",
    )
    .unwrap();
    let bundle = creto(folder, 1, &["debug", "bundle", "--out", "out.tar.gz", "--no-doctor"]);
    assert_eq!(bundle.status, 0, "{}", bundle.stderr);
    let parts = parts(&folder.join("out.tar.gz"));
    assert!(!parts.contains_key("doctor.json"));
    assert!(parts["configuration.toml"].contains("unknown key `shard`"), "{}", parts["configuration.toml"]);
    assert!(parts["status.json"].contains("creto serve"), "{}", parts["status.json"]);
    check_absent(&parts, "a password", b"hunter2-hunter2");
    for name in parts.keys() {
        assert!(bundle.stdout.contains(name.as_str()), "{name}: {}", bundle.stdout);
    }

    // What is there is not written over, and the password of a configuration that is understood is not in it either.
    let again = creto(folder, 1, &["debug", "bundle", "--out", "out.tar.gz", "--no-doctor"]);
    assert_eq!(again.status, 2, "{}", again.stderr);
    std::fs::write(folder.join("creto.toml"), "[control]\ndatabase = \"postgres://creto:hunter2-hunter2@db/creto\"\n")
        .unwrap();
    ok(folder, 1, &["debug", "bundle", "--out", "understood.tar.gz", "--no-doctor"]);
    let parts = self::parts(&folder.join("understood.tar.gz"));
    assert!(
        parts["configuration.toml"].contains("postgres://creto@db/creto")
            || parts["configuration.toml"].contains("@db/creto")
    );
    check_absent(&parts, "a password", b"hunter2-hunter2");
}

#[test]
fn a_log_that_is_not_there_is_said_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = creto(dir.path(), 1, &["debug", "bundle", "--out", "out.tar.gz", "--log", "none.log", "--no-doctor"]);
    assert_eq!(bundle.status, 5, "{}", bundle.stderr);
    assert!(bundle.stderr.contains("none.log"), "{}", bundle.stderr);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
