//! `creto kill-cycles` on a disk whose power is cut before each kill.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::drive::{Counts, Keep};
use crate::rig::{Rig, RigError};
use crate::switch::{Switch, SwitchOptions};

/// What the node finds as its disk.
const DRIVE_BYTES: usize = 1 << 30;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The binary under test.
    pub creto: PathBuf,
    /// How many cuts under load; while the node starts there are more.
    pub cuts: u64,
    /// Decides the moments and what is left.
    pub seed: u64,
    /// What a cut leaves of what was not synced.
    pub keep: Keep,
    /// Bytes of each payload.
    pub payload_bytes: u32,
    /// A bug that the node is asked for; it has to be built with the feature `planted-bugs`.
    pub planted_bug: Option<String>,
}

impl RunOptions {
    /// A sound node, any subset of the unsynced sectors, payloads of 1 KiB.
    #[must_use]
    pub fn new(creto: impl Into<PathBuf>, cuts: u64, seed: u64) -> Self {
        Self { creto: creto.into(), cuts, seed, keep: Keep::Any, payload_bytes: 1_024, planted_bug: None }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The report of `creto kill-cycles`, and what the drive counted as `power_cuts`.
    pub report: Value,
    /// What the drive counted.
    pub counts: Counts,
}

impl Outcome {
    /// Messages that were acknowledged and never came.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.report["lost"].as_u64().unwrap_or(u64::MAX)
    }

    /// What is wrong; nothing, if the node holds its promises and the cuts met writes that were not synced.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let found = self.report["problems"].as_array().map(|all| all.iter().map(ToString::to_string).collect());
        let mut problems: Vec<String> = found.unwrap_or_else(|| vec!["the report lists no problems".to_owned()]);
        let asked: u64 =
            ["cycles", "kills_while_starting"].iter().filter_map(|field| self.report[field].as_u64()).sum();
        if self.counts.cuts != asked {
            problems.push(format!("{} cuts took place, {asked} were reported", self.counts.cuts));
        }
        if self.counts.sectors_lost == 0 {
            problems.push("no cut met a write that was not synced, so nothing was shown".to_owned());
        }
        problems
    }
}

/// Runs it in `folder`, which is empty and is so again afterwards, unless the run found something. `device` is started as
/// the drive's process, see [`Rig::start`].
///
/// # Errors
/// [`RigError`]; that the node lost something is no error.
pub fn run(folder: &Path, options: &RunOptions, device: Command) -> Result<Outcome, RigError> {
    let rig_folder = folder.join("rig");
    fs::create_dir(&rig_folder).map_err(RigError::io("make", &rig_folder))?;
    let rig = Rig::start(&rig_folder, DRIVE_BYTES, device)?;
    let data = rig.disk().join("data");
    let socket = folder.join("power");
    let switch = Switch::start(&socket, rig, SwitchOptions { seed: options.seed, keep: options.keep })?;
    let ran = kill_cycles(folder, options, &data, &socket);
    let counts = switch.finish()?;
    let mut report = ran?;
    report["power_cuts"] = json!({
        "cuts": counts.cuts,
        "cuts_with_unsynced_writes": counts.cuts_with_unflushed,
        "sectors_lost": counts.sectors_lost,
        "sectors_kept_unsynced": counts.sectors_kept,
        "writes": counts.writes,
        "syncs": counts.flushes,
        "requests_refused": counts.refused,
        "keep": format!("{:?}", options.keep).to_lowercase(),
    });
    Ok(Outcome { report, counts })
}

fn kill_cycles(folder: &Path, options: &RunOptions, data: &Path, socket: &Path) -> Result<Value, RigError> {
    let mut command = Command::new(&options.creto);
    command.args(["kill-cycles", "--json", "--cycles", &options.cuts.to_string()]);
    command.args(["--seed", &options.seed.to_string(), "--size", &options.payload_bytes.to_string()]);
    command.arg("--data").arg(data).arg("--power").arg(socket).stdin(Stdio::null()).stderr(Stdio::inherit());
    if let Some(bug) = &options.planted_bug {
        // What it finds is expected, and nothing to be kept.
        command.env("PLANTED_BUG", bug).env("TMPDIR", folder).stderr(Stdio::null());
    }
    let output = command.output().map_err(RigError::io("start", &options.creto))?;
    serde_json::from_slice(&output.stdout).map_err(|_| RigError::Program {
        command: format!("{command:?}"),
        said: format!("it ended with {} and without a report", output.status),
    })
}
