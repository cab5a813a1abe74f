//! The binary as a person meets it: what it prints, what it leaves behind, how it ends.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

fn creto(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_creto"));
    command.current_dir(folder);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CRETO_")) {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command) -> Run {
    let Output { status, stdout, stderr } = command.output().expect("the binary was built for this test");
    let text = |bytes| String::from_utf8(bytes).expect("everything printed is UTF-8");
    Run { status: status.code().expect("no signal ends it"), stdout: text(stdout), stderr: text(stderr) }
}

fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout))
}

#[test]
fn init_makes_what_a_node_needs_and_keeps_the_key_private() {
    let dir = tempfile::tempdir().unwrap();
    let made = run(creto(dir.path()).args(["init", "--listen", "127.0.0.1:9000", "--trust-domain", "acme.example"]));
    assert_eq!((made.status, made.stderr.as_str()), (0, ""), "{}", made.stdout);
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("data"), 0o700);
    assert_eq!(mode("data/node.key"), 0o600);
    assert_eq!(mode("data/node.crt"), 0o644);
    assert!(!made.stdout.contains('\u{1b}'), "no colours where nobody sees them");

    let shown = json(&run(creto(dir.path()).args(["config", "show", "--json"])));
    let value = |key: &str| shown.as_array().unwrap().iter().find(|row| row["key"] == key).unwrap()["value"].clone();
    assert_eq!(value("listen"), "127.0.0.1:9000");
    assert_eq!(value("trust_domain"), "acme.example");
}

#[test]
fn init_refuses_to_overwrite_unless_forced() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(creto(dir.path()).arg("init")).status, 0);
    let config = dir.path().join("creto.toml");
    let key = std::fs::read(dir.path().join("data/node.key")).unwrap();
    std::fs::write(&config, "[log]\nlevel = \"debug\"\n").unwrap();

    let again = run(creto(dir.path()).arg("init"));
    assert_eq!(again.status, 2);
    assert_eq!(
        again.stderr,
        "error: creto.toml exists already\n \
         next: keep it and run `creto serve`, or replace configuration and certificate with --force\n"
    );
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "[log]\nlevel = \"debug\"\n");

    assert_eq!(run(creto(dir.path()).args(["init", "--force"])).status, 0);
    assert!(std::fs::read_to_string(&config).unwrap().contains("[topology]"));
    assert_ne!(std::fs::read(dir.path().join("data/node.key")).unwrap(), key);
    let left: Vec<_> =
        std::fs::read_dir(dir.path().join("data")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "only key, certificate and the keys of the audit log: {left:?}");
}

#[test]
fn init_makes_keys_for_a_configuration_that_a_package_brought_and_leaves_that_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("etc.toml");
    let written = "[node]\nlisten = \"127.0.0.1:9000\"\ndata_dir = \"kept\"\n";
    std::fs::write(&config, written).unwrap();
    let init = |more: &[&str]| run(creto(dir.path()).args(["-c", "etc.toml", "init", "--keep-config"]).args(more));
    let made = init(&["--name", "node.example"]);
    assert_eq!((made.status, made.stderr.as_str()), (0, ""), "{}", made.stdout);
    assert!(!made.stdout.contains("configuration, every key"), "{}", made.stdout);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), written);
    let key = std::fs::read(dir.path().join("kept/node.key")).unwrap();
    assert_eq!(std::fs::metadata(dir.path().join("kept")).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(dir.path().join("kept/node.crt").is_file() && dir.path().join("kept/audit/audit.pub").is_file());

    // A key that is there is a node's: it is not replaced unasked.
    let again = init(&[]);
    assert_eq!(again.status, 2);
    assert!(again.stderr.contains("kept/node.key exists already"), "{}", again.stderr);
    assert_eq!(init(&["--force"]).status, 0);
    assert_ne!(std::fs::read(dir.path().join("kept/node.key")).unwrap(), key);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), written);
    // What is in the file cannot be said again on the command line, and there must be one.
    assert_eq!(init(&["--trust-domain", "acme.example"]).status, 2);
    assert_eq!(run(creto(dir.path()).args(["init", "--keep-config"])).status, 2);
}

#[test]
fn init_says_what_is_wrong_with_an_argument_before_it_writes() {
    let dir = tempfile::tempdir().unwrap();
    let run = run(creto(dir.path()).args(["init", "--trust-domain", "Not A Domain"]));
    assert_eq!(run.status, 2);
    assert!(run.stderr.contains("node.trust_domain"), "{}", run.stderr);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn init_makes_another_folder_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let made = run(creto(dir.path()).args(["init", "nodes/one"]));
    assert_eq!(made.status, 0, "{}", made.stderr);
    assert!(dir.path().join("nodes/one/creto.toml").is_file() && dir.path().join("nodes/one/data/node.key").is_file());
    assert_eq!(run(creto(dir.path()).args(["-c", "nodes/one/creto.toml", "config", "check"])).status, 0);
}

#[test]
fn config_check_points_at_the_mistake_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("creto.toml"), "[topology]\nshard = 2\n").unwrap();
    let check = run(creto(dir.path()).args(["config", "check"]));
    assert_eq!(check.status, 2);
    assert_eq!(
        check.stderr,
        "error: creto.toml:2:1: unknown key `shard` in [topology]\n  \
           |\n\
         2 | shard = 2\n  \
           | ^^^^^ did you mean `shards`?\n \
         next: correct it, then run `creto config check`\n"
    );

    let check = json(&run(creto(dir.path()).args(["config", "check", "--json"])));
    assert_eq!(check["ok"], false);
    assert_eq!(check["problems"][0]["line"], 2);
    assert_eq!(check["problems"][0]["hint"], "did you mean `shards`?");
}

#[test]
fn config_check_holds_the_file_against_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("creto.toml"), "[topology]\ncpus = [8191]\n").unwrap();
    let check = run(creto(dir.path()).args(["config", "check"]));
    assert_eq!(check.status, 2);
    assert!(check.stderr.starts_with("error: topology.cpus names CPU 8191, but this machine has "));
    assert!(check.stderr.contains("\n next: name CPUs of that list"), "{}", check.stderr);
}

#[test]
fn a_missing_configuration_says_how_to_make_one() {
    let dir = tempfile::tempdir().unwrap();
    let check = run(creto(dir.path()).args(["config", "check"]));
    assert_eq!(check.status, 2);
    assert!(check.stderr.starts_with("error: cannot read creto.toml: "), "{}", check.stderr);
    assert!(check.stderr.contains("creto init"), "{}", check.stderr);
}

#[test]
fn config_show_is_a_file_that_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let show = run(creto(dir.path()).args(["config", "show"]).env("CRETO__LOG__LEVEL", "debug"));
    assert_eq!(show.status, 0, "{}", show.stderr);
    assert!(show.stdout.contains("# CRETO__LOG__LEVEL"), "{}", show.stdout);
    std::fs::write(dir.path().join("copy.toml"), &show.stdout).unwrap();
    let copy = run(creto(dir.path()).args(["--config", "copy.toml", "config", "show"]));
    let values =
        |text: &str| text.lines().map(|line| line.split('#').next().unwrap().trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&copy.stdout), values(&show.stdout));
}

#[test]
fn colours_are_used_only_where_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let always = run(creto(dir.path()).args(["config", "show", "--color", "always"]));
    assert!(always.stdout.contains('\u{1b}'));
    for never in [vec!["config", "show", "--color", "never"], vec!["config", "show"]] {
        assert!(!run(creto(dir.path()).args(never)).stdout.contains('\u{1b}'));
    }
}

#[test]
fn doctor_reports_each_check_and_its_status_is_that_of_the_worst() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(creto(dir.path()).args(["init", "--listen", "127.0.0.1:0"])).status, 0);
    let doctor = run(creto(dir.path()).args(["doctor", "--json"]));
    let report = json(&doctor);
    let findings = report["findings"].as_array().unwrap();
    let count = |state: &str| findings.iter().filter(|finding| finding["state"] == state).count();
    let (warnings, failures) = (count("warn"), count("fail"));
    assert_eq!((&report["warnings"], &report["failures"]), (&warnings.into(), &failures.into()));
    assert_eq!(report["ok"], failures == 0);
    assert_eq!(doctor.status, if failures > 0 { 2 } else { i32::from(warnings > 0) }, "{}", doctor.stdout);
    let of_the_machine =
        ["io_uring", "memlock", "open files", "cpus", "udp buffers", "kernel", "instructions", "clock", "time"];
    let of_the_disk = ["file system", "disk space", "inodes"];
    let of_the_node = ["configuration", "certificate", "data folder", "address", "node"];
    for name in of_the_machine.iter().chain(&of_the_disk).chain(&of_the_node) {
        assert!(findings.iter().any(|finding| finding["name"] == *name), "{name} is missing: {}", doctor.stdout);
    }
    for finding in findings.iter().filter(|finding| finding["state"] != "ok") {
        assert_ne!(finding["fix"], "", "{finding}");
    }

    std::fs::set_permissions(dir.path().join("data/node.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::set_permissions(dir.path().join("data/audit/audit.key"), std::fs::Permissions::from_mode(0o604)).unwrap();
    let doctor = run(creto(dir.path()).arg("doctor"));
    assert_eq!(doctor.status, 2);
    for fix in ["fix: chmod 600 data/node.key", "fix: chmod 600 data/audit/audit.key"] {
        assert!(doctor.stdout.contains(fix), "{fix}: {}", doctor.stdout);
    }
}

#[test]
fn doctor_notices_a_key_of_another_certificate() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["one", "two"] {
        assert_eq!(run(creto(dir.path()).args(["init", folder, "--listen", "127.0.0.1:0"])).status, 0);
    }
    std::fs::copy(dir.path().join("two/data/node.key"), dir.path().join("one/data/node.key")).unwrap();
    let doctor = run(creto(dir.path()).args(["-c", "one/creto.toml", "doctor", "--json"]));
    let report = json(&doctor);
    let findings = report["findings"].as_array().unwrap();
    let certificate = findings.iter().find(|finding| finding["name"] == "certificate").unwrap();
    assert_eq!((&certificate["state"], doctor.status), (&"fail".into(), 2), "{certificate}");
}

/// Every verb that `--help` of `path` lists, below it, and `path` itself, each with its words.
fn verbs(folder: &Path, path: &[String], all: &mut Vec<Vec<String>>) {
    let help = run(creto(folder).args(path).arg("--help"));
    assert_eq!(help.status, 0, "{path:?}: {}", help.stderr);
    all.push(path.to_vec());
    let Some((_, list)) = help.stdout.split_once("\nCommands:\n") else { return };
    let is_one = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    for line in list.lines().take_while(|line| !line.is_empty()).filter(is_one) {
        let word = line.split_whitespace().next().expect("a line that is not empty has a word");
        verbs(folder, &[path, &[word.to_owned()]].concat(), all);
    }
}

#[test]
fn every_verb_has_a_page_of_the_manual_and_can_be_completed() {
    let dir = tempfile::tempdir().unwrap();
    let made = run(creto(dir.path()).args(["man", "--out", "man1"]));
    assert_eq!((made.status, made.stderr.as_str()), (0, ""), "{}", made.stdout);
    let mut all = Vec::new();
    verbs(dir.path(), &[], &mut all);
    assert!(all.len() > 80, "{all:?}");
    let script = |shell| run(creto(dir.path()).args(["completions", shell])).stdout;
    let (bash, zsh, fish) = (script("bash"), script("zsh"), script("fish"));
    for words in &all {
        let name = ["creto".to_owned()].iter().chain(words).cloned().collect::<Vec<_>>().join("-");
        let page = std::fs::read_to_string(dir.path().join(format!("man1/{name}.1")));
        let page = page.unwrap_or_else(|error| panic!("{name}.1: {error}"));
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
        assert!(!page.contains('\u{1b}'), "no colours in {name}.1");
        let Some(last) = words.last() else { continue };
        let path: String = words.iter().map(|word| format!("__subcmd__{word}")).collect();
        assert!(bash.contains(&format!("cmd=\"creto{path}\"")), "bash does not complete {words:?}");
        assert!(zsh.contains(&format!("_creto{path}_commands() {{")), "zsh does not complete {words:?}");
        assert!(fish.contains(&format!("-a \"{last}\"")), "fish does not complete {words:?}");
    }
    let pages = std::fs::read_dir(dir.path().join("man1")).unwrap().count();
    assert_eq!(pages, all.len(), "what is hidden has no page");
    let page = run(creto(dir.path()).arg("man"));
    assert_eq!(page.stdout, std::fs::read_to_string(dir.path().join("man1/creto.1")).unwrap());
}

#[test]
fn completions_are_printed_for_every_shell() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = run(creto(dir.path()).args(["completions", shell]));
        assert_eq!(run.status, 0);
        assert!(run.stdout.contains("creto"), "{shell}");
    }
}

#[test]
fn mistakes_on_the_command_line_end_with_status_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in [vec!["confg"], vec![], vec!["config"], vec!["doctor", "--jsn"], vec!["completions", "csh"]] {
        assert_eq!(run(creto(dir.path()).args(&args)).status, 2, "{args:?}");
    }
    assert_eq!(run(creto(dir.path()).arg("--help")).status, 0);
    assert_eq!(run(creto(dir.path()).arg("--version")).status, 0);
}

#[test]
fn a_reader_that_leaves_early_is_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut child =
        creto(dir.path()).args(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn bench_crypto_prints_one_object_with_the_promised_figures() {
    let dir = tempfile::tempdir().unwrap();
    let figures = json(&run(creto(dir.path()).args(["bench", "crypto", "--trial", "--json"])));
    let figures = figures.as_object().unwrap();
    let rates = ["seal_n256_msgs_per_s", "seal_n64_msgs_per_s", "admit_n256_msgs_per_s", "open_msgs_per_s"];
    let times = ["seal_single_us", "session_establish_us", "ml_dsa_sign_us", "ml_dsa_verify_us", "kem_encaps_us"];
    let each = ["ed25519_batch_verify_us_per_signature", "rotation_ms"];
    for name in rates.iter().chain(&times).chain(&each) {
        assert!(figures[*name].as_f64().unwrap() > 0.0, "{name}");
    }
    assert!(figures["backend"].as_str().unwrap().starts_with("aws-lc"));
    assert_eq!(figures.len(), 12, "{figures:?}");
    let table = run(creto(dir.path()).args(["bench", "crypto", "--trial"]));
    assert_eq!((table.status, table.stderr.as_str()), (0, ""));
    assert!(table.stdout.contains("seal and sign, 256 to a batch"), "{}", table.stdout);
}

#[test]
fn bench_control_prints_one_object_with_the_promised_figures() {
    let dir = tempfile::tempdir().unwrap();
    let trial = |more: &[&str]| run(creto(dir.path()).args(["bench", "control", "--trial", "--dir", "."]).args(more));
    let figures = json(&trial(&["--json"]));
    for name in ["decision_p99_ns", "decision_miss_us", "revocation_ms", "audit_leaves_per_s"] {
        assert!(figures[name].as_f64().unwrap() > 0.0, "{name}: {figures}");
    }
    assert!(figures["decision_p50_ns"].as_f64() <= figures["decision_p99_ns"].as_f64(), "{figures}");
    assert!(figures["verify_1m_leaves_s"].is_null(), "a trial writes no million leaves: {figures}");
    let table = trial(&[]);
    assert_eq!((table.status, table.stderr.as_str()), (0, ""));
    assert!(table.stdout.contains("audit, events to leaves"), "{}", table.stdout);
}

#[test]
fn topology_shows_every_cpu_and_who_runs_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let shown = json(&run(creto(dir.path()).args(["topology", "--json"])));
    let cpus = shown["cpus"].as_array().unwrap();
    assert!(!cpus.is_empty() && shown["cores"].as_u64().unwrap() >= 1, "{shown}");
    let (plan, first) = (&shown["plan"], &cpus.iter().find(|cpu| cpu["allowed"] == true).unwrap()["cpu"]);
    assert_eq!((&plan["ok"], &plan["crypto"]), (&true.into(), &"inline".into()));
    assert!(plan["shard_count"].as_u64().unwrap() >= 1);

    let text = run(creto(dir.path()).arg("topology"));
    assert_eq!(
        text.stdout.lines().filter(|line| line.contains("  shard ")).count(),
        plan["shards"].as_array().unwrap().len()
    );

    // What is not there, and what is used twice, is said in one line, below the machine that it is about.
    std::fs::write(dir.path().join("creto.toml"), "[topology]\ncrypto = [8000]\n").unwrap();
    let absent = run(creto(dir.path()).arg("topology"));
    assert_eq!(absent.status, 2);
    assert!(absent.stdout.contains("CPU  core"), "{}", absent.stdout);
    assert!(absent.stderr.contains("topology.crypto names CPU 8000"), "{}", absent.stderr);
    std::fs::write(dir.path().join("creto.toml"), format!("[topology]\ncpus = [{first}]\ncrypto = [{first}]\n"))
        .unwrap();
    let twice = run(creto(dir.path()).args(["topology", "--json"]));
    assert_eq!((twice.status, &json(&twice)["plan"]["ok"]), (2, &false.into()));
}
