//! A real node on a disk that forgets what was not synced, killed with its power: nothing acknowledged is lost. And a node
//! that does not sync is found by the very same test.

use std::process::{Command, Stdio};

use creto_powercut::{Keep, Outcome, RunOptions, run, serve_from_environment, what_is_missing};

/// Runs it where it can run; elsewhere says why not, or fails if it was demanded.
fn cut_power(options: &RunOptions) -> Option<Outcome> {
    if let Some(missing) = what_is_missing() {
        assert!(std::env::var_os("CRETO_REQUIRE_POWER_CUTS").is_none(), "power cuts were demanded; missing: {missing}");
        eprintln!("skipped: needs root, /dev/fuse and loop devices; missing: {missing}");
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    // This binary again, with the last test of this file alone.
    let mut drive = Command::new(std::env::current_exe().expect("this binary has a path"));
    drive.args(["--ignored", "--exact", "is_the_drive_of_the_other_tests"]).stdout(Stdio::null());
    let outcome = run(folder.path(), options, drive).unwrap_or_else(|error| panic!("seed {}: {error}", options.seed));
    Some(outcome)
}

fn options(cuts: u64) -> RunOptions {
    let random = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| u64::from(since.subsec_nanos()));
    let seed = std::env::var("CRETO_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(random);
    eprintln!("seed {seed}");
    RunOptions::new(env!("CARGO_BIN_EXE_creto"), cuts, seed)
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let options = options(6);
    let Some(outcome) = cut_power(&options) else { return };
    assert_eq!(outcome.problems(), [""; 0], "seed {}: {:#}", options.seed, outcome.report);
    assert!(outcome.report["acknowledged"].as_u64().is_some_and(|count| count > 0), "{:#}", outcome.report);
}

/// How often the cuts are tried: whether one finds an acknowledged write that was not synced is a matter of milliseconds.
const RUNS_MAX: usize = 6;

/// Such a node must lose something, or the test above proves nothing.
fn check_that_it_loses(planted_bug: &str, cuts: u64) {
    for run in 1..=RUNS_MAX {
        let options = RunOptions { keep: Keep::Nothing, planted_bug: Some(planted_bug.to_owned()), ..options(cuts) };
        let Some(outcome) = cut_power(&options) else { return };
        if outcome.lost() > 0 {
            return;
        }
        eprintln!("run {run} of {RUNS_MAX}, seed {}, lost nothing: {:#}", options.seed, outcome.report);
    }
    panic!("{planted_bug} lost nothing in {RUNS_MAX} runs of {cuts} cuts");
}

#[test]
fn a_node_that_does_not_sync_loses_acknowledged_messages_to_a_power_cut() {
    check_that_it_loses("skip-sync", 2);
}

#[test]
fn a_node_that_does_not_wait_for_its_sync_loses_acknowledged_messages_to_a_power_cut() {
    check_that_it_loses("sync-not-awaited", 6);
}

#[test]
#[ignore = "the other tests start it as a process of its own"]
fn is_the_drive_of_the_other_tests() {
    if let Some(served) = serve_from_environment() {
        served.expect("the drive is served until the other end closes");
    }
}
