//! What is packaged fits the program: the unit, the filters of system calls, the image, the package.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Exposure as `systemd-analyze security` counts it, in tenths: 0 is closed, 100 is open.
const EXPOSURE_TENTHS_MAX: u32 = 15;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The values of a setting of the unit, in their order.
fn settings(unit: &str, name: &str) -> Vec<String> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
    unit.lines().filter_map(value).collect()
}

#[track_caller]
fn seconds(unit: &str, name: &str) -> Duration {
    let [value] = &settings(unit, name)[..] else { panic!("{name} is set once") };
    Duration::from_secs(value.parse().unwrap())
}

/// What a node was seen to call.
fn system_calls() -> BTreeSet<String> {
    let calls: BTreeSet<String> = text("packaging/system-calls.txt").lines().map(str::to_owned).collect();
    for needed in
        ["io_uring_setup", "io_uring_enter", "io_uring_register", "sched_setaffinity", "recvmmsg", "fdatasync"]
    {
        assert!(calls.contains(needed), "{needed} is missing: was it a node that was traced?");
    }
    calls
}

/// Runs `systemd-analyze`; nothing where it is not installed.
fn analyze(args: &[&str]) -> Option<std::process::Output> {
    match Command::new("systemd-analyze").args(args).env("SYSTEMD_LOG_LEVEL", "warning").output() {
        Ok(output) => Some(output),
        Err(_) => {
            assert!(std::env::var_os("CRETO_REQUIRE_SYSTEMD").is_none(), "systemd-analyze is demanded and not here");
            println!("skipped: no systemd-analyze");
            None
        }
    }
}

#[test]
fn the_unit_waits_as_long_as_a_node_takes_to_end() {
    let unit = text("packaging/systemd/creto.service");
    assert!(seconds(&unit, "TimeoutStopSec") >= 2 * creto_node::DRAIN, "a node that drains is killed");
    assert_eq!(settings(&unit, "Type"), ["notify"]);
    assert!(seconds(&unit, "WatchdogSec") >= Duration::from_secs(10), "a slow disk is no reason to kill a node");
    assert_eq!(settings(&unit, "KillSignal"), ["SIGTERM"]);
    assert_eq!(settings(&unit, "CapabilityBoundingSet"), [""]);
    // A database that is away longer than some starts take must not end the node for good.
    assert_eq!(settings(&unit, "StartLimitIntervalSec"), ["0"]);
    // Statuses with which another start would end, too: what a check found, and what was not understood.
    assert_eq!(settings(&unit, "RestartPreventExitStatus"), ["1 2"]);
}

#[test]
fn the_unit_is_one_that_systemd_understands_and_closes_what_can_be_closed() {
    let unit = text("packaging/systemd/creto.service").replace("/usr/bin/creto", env!("CARGO_BIN_EXE_creto"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("creto.service");
    std::fs::write(&path, unit).unwrap();
    let path = path.to_str().unwrap();
    let Some(version) = analyze(&["--version"]) else { return };
    if !knows_offline(&String::from_utf8_lossy(&version.stdout)) {
        println!("skipped: this systemd-analyze cannot be asked about a file");
        return;
    }
    let verified = analyze(&["verify", "--man=no", path]).unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    // What it says of other units of this machine is not ours.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("creto")).collect();
    assert!(verified.status.success() && ours.is_empty(), "{said}");

    let security = analyze(&["security", "--offline=yes", "--no-pager", path]).unwrap();
    let said = String::from_utf8_lossy(&security.stdout).into_owned();
    let line = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{said}"));
    let exposure = line.split(':').nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let (whole, tenth) = exposure.split_once('.').unwrap();
    let tenths = whole.parse::<u32>().unwrap() * 10 + tenth.parse::<u32>().unwrap();
    assert!(tenths <= EXPOSURE_TENTHS_MAX, "{line}");
}

/// Whether `systemd-analyze security` can look at a file: since systemd 250.
fn knows_offline(version: &str) -> bool {
    let number = version.split_whitespace().nth(1).and_then(|word| word.parse::<u32>().ok());
    number.is_some_and(|number| number >= 250)
}

#[test]
fn versions_of_systemd_are_told_apart() {
    assert!(knows_offline("systemd 252 (252.39-1~deb12u1)\n+PAM") && knows_offline("systemd 250 (250)"));
    assert!(!knows_offline("systemd 249 (249.11-0ubuntu3)") && !knows_offline(""));
}

#[test]
fn the_unit_lets_a_node_call_what_it_calls() {
    let unit = text("packaging/systemd/creto.service");
    let Some(_) = analyze(&["--version"]) else { return };
    let mut allowed = BTreeSet::new();
    for filter in settings(&unit, "SystemCallFilter") {
        let (denies, sets) = filter.strip_prefix('~').map_or((false, filter.as_str()), |sets| (true, sets));
        for set in sets.split_whitespace() {
            let calls = members(set);
            match denies {
                true => allowed.retain(|call| !calls.contains(call)),
                false => allowed.extend(calls),
            }
        }
    }
    let missing: Vec<String> = system_calls().difference(&allowed).cloned().collect();
    assert!(missing.is_empty(), "the unit forbids what a node calls: {missing:?}");
    for forbidden in ["ptrace", "mount", "bpf", "kexec_load", "init_module", "reboot", "setuid"] {
        assert!(!allowed.contains(forbidden), "the unit allows {forbidden}");
    }
}

/// The calls of a set, and of the sets in it.
fn members(set: &str) -> BTreeSet<String> {
    if !set.starts_with('@') {
        return [set.to_owned()].into();
    }
    let listed = analyze(&["syscall-filter", "--no-pager", set]).unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let calls = listed.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#') && *line != set);
    calls.flat_map(members).collect()
}

#[test]
fn the_seccomp_profile_lets_a_node_call_what_it_calls_and_little_else() {
    let profile: serde_json::Value = serde_json::from_str(&text("packaging/docker/seccomp.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut allowed = BTreeSet::new();
    let mut named = BTreeSet::new();
    for rule in profile["syscalls"].as_array().unwrap() {
        let is_allowed = match rule["action"].as_str().unwrap() {
            "SCMP_ACT_ALLOW" => true,
            "SCMP_ACT_ERRNO" => false,
            other => panic!("{other}: Docker has it, a node's profile does not"),
        };
        for argument in rule["args"].as_array().into_iter().flatten() {
            assert!(["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"].contains(&argument["op"].as_str().unwrap()), "{argument}");
        }
        for name in rule["names"].as_array().unwrap() {
            let name = name.as_str().unwrap().to_owned();
            let is_new = named.insert(name.clone());
            assert!(is_new || rule.get("args").is_some(), "{name} is named twice");
            if is_allowed {
                allowed.insert(name);
            }
        }
    }
    // The C library takes clone where there is no clone3: with its flags in a structure, a filter cannot see namespaces in it.
    let missing: Vec<String> =
        system_calls().into_iter().filter(|call| call != "clone3" && !allowed.contains(call)).collect();
    assert!(missing.is_empty(), "the profile forbids what a node calls: {missing:?}");
    assert!(allowed.contains("clone") && named.contains("clone3") && !allowed.contains("clone3"));
    for forbidden in
        ["ptrace", "mount", "bpf", "unshare", "setns", "keyctl", "process_vm_readv", "userfaultfd", "reboot"]
    {
        assert!(!named.contains(forbidden), "the profile names {forbidden}");
    }
}

#[test]
fn the_configurations_that_are_packaged_are_understood() {
    for path in ["packaging/debian/creto.toml", "packaging/docker/creto.toml"] {
        let mut check = Command::new(env!("CARGO_BIN_EXE_creto"));
        check.args(["-c", path, "config", "check"]).current_dir(root());
        let check = check.output().unwrap();
        assert!(check.status.success(), "{path}: {}", String::from_utf8_lossy(&check.stderr));
    }
}

#[test]
fn the_image_runs_as_nobody_in_particular_and_copies_what_is_there() {
    let file = text("packaging/docker/Dockerfile");
    let instructions: Vec<(&str, &str)> = file.lines().filter_map(|line| line.split_once(' ')).collect();
    let last = |name: &str| instructions.iter().rfind(|(known, _)| *known == name).map(|(_, rest)| *rest);
    assert_eq!(last("USER"), Some("10001:10001"));
    assert_eq!(last("STOPSIGNAL"), Some("SIGTERM"));
    assert!(last("HEALTHCHECK").unwrap().ends_with("CMD [\"/usr/bin/creto\", \"status\"]"));
    let image = instructions.iter().find(|(name, _)| *name == "FROM").unwrap().1;
    let rust_version = env!("CARGO_PKG_RUST_VERSION");
    assert!(image.starts_with(&format!("rust:{rust_version}-")), "{image} is not Rust {rust_version}");
    for (_, copied) in instructions.iter().filter(|(name, rest)| *name == "COPY" && !rest.starts_with("--from")) {
        let from = copied.split_whitespace().next().unwrap();
        assert!(root().join(from).exists(), "{from} is not in the repository");
    }
}

#[test]
fn the_package_names_what_is_there_and_its_scripts_are_ones_that_a_shell_reads() {
    let manifest = text("cli/Cargo.toml");
    let (_, deb) = manifest.split_once("[package.metadata.deb]").unwrap();
    let assets = deb.lines().filter_map(|line| line.trim().strip_prefix("[\"")?.split('"').next());
    let assets: Vec<&str> = assets.collect();
    assert!(assets.len() > 10, "{assets:?}");
    for asset in assets.iter().filter(|asset| asset.starts_with("../") && !asset.starts_with("../packaging/made/")) {
        let path = asset.trim_end_matches("*.md");
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{asset} is not in the repository");
    }
    for script in ["postinst", "postrm"] {
        let path = root().join("packaging/debian").join(script);
        let read = Command::new("sh").arg("-n").arg(&path).output().unwrap();
        assert!(read.status.success(), "{script}: {}", String::from_utf8_lossy(&read.stderr));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("#!/bin/sh\n") && text.contains("\nset -e\n") && text.contains("#DEBHELPER#"),
            "{script}"
        );
        assert!(!text.contains("rm -r"), "{script} deletes a folder with what is in it");
    }
}
