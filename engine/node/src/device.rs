//! How the logs are written: as configured, or as the device under `wal.dir` does it best, which is measured once and kept
//! in the data directory.
//!
//! ```text
//! data_dir/device.json          the device of wal.dir, what was measured on it, what was chosen
//! ```
//!
//! The file only saves time: one that is missing, damaged or of another device is measured anew.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use creto_io::Durability;
use creto_io::probe::{self, Choice, ProbeReport};
use serde::{Deserialize, Serialize};

use crate::config::{Config, WalSync, WritesInFlight};

/// What is written when nothing was measured: right on every device, best on none.
const UNMEASURED: Choice = Choice { durability: Durability::Fdatasync, writes_in_flight: 1 };
const FORMAT: u32 = 1;

/// What is kept of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    format: u32,
    /// Which device: it is measured again when another one is mounted there.
    device: String,
    /// The figures and what they led to.
    pub report: ProbeReport,
}

/// Where a [`Choice`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `[wal]` says both.
    Configured,
    /// Measured at an earlier start.
    Remembered,
    /// Measured just now.
    Measured,
    /// It could not be measured.
    Unmeasured,
}

impl Source {
    /// For a line about it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Configured => "as configured",
            Self::Remembered => "measured at an earlier start",
            Self::Measured => "measured just now",
            Self::Unmeasured => "not measured",
        }
    }
}

/// How a node of this configuration writes its logs. Measures the device, for less than a second, when nobody knows it.
#[must_use]
pub fn choose(config: &Config) -> (Choice, Source) {
    let (data_dir, wal_dir) = (config.data_dir(), config.wal_dir());
    if let Some(choice) = configured(config, None) {
        return (choice, Source::Configured);
    }
    if let Some(measured) = remembered(&data_dir, &wal_dir) {
        return (laid_over(config, measured.report.choice), Source::Remembered);
    }
    match measure(&data_dir, &wal_dir, probe::QUICK) {
        Ok(report) => {
            tracing::info!(folder = %wal_dir.display(), "the log's device: {report}");
            (laid_over(config, report.choice), Source::Measured)
        }
        Err(error) => {
            let folder = wal_dir.display();
            tracing::warn!("the device under {folder} could not be measured ({error}); writes go by {UNMEASURED}");
            (laid_over(config, UNMEASURED), Source::Unmeasured)
        }
    }
}

/// What was measured on the device that `wal_dir` is on now, if it was.
#[must_use]
pub fn remembered(data_dir: &Path, wal_dir: &Path) -> Option<Measured> {
    let bytes = fs::read(path(data_dir)).ok()?;
    let measured: Measured = serde_json::from_slice(&bytes).ok()?;
    let is_this = measured.format == FORMAT && identity(wal_dir).is_ok_and(|device| device == measured.device);
    is_this.then_some(measured)
}

/// Measures the device that `wal_dir` is on and remembers it for the next start.
///
/// # Errors
/// The folder cannot be written to. What was remembered stays.
pub fn measure(data_dir: &Path, wal_dir: &Path, each: Duration) -> io::Result<ProbeReport> {
    let device = identity(wal_dir)?;
    let report = probe::probe(wal_dir, each)?;
    let measured = Measured { format: FORMAT, device, report };
    let text = serde_json::to_string_pretty(&measured).map_err(io::Error::other)?;
    let beside = path(data_dir).with_extension("json.new");
    let written = File::create(&beside).and_then(|mut file| file.write_all(text.as_bytes()));
    // Not synced: a file that a crash left empty is measured anew.
    written.and_then(|()| fs::rename(&beside, path(data_dir)))?;
    Ok(measured.report)
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("device.json")
}

/// What tells one device from another: its number, the id of the file system on it, and its size.
fn identity(wal_dir: &Path) -> io::Result<String> {
    let (metadata, stat) = (fs::metadata(wal_dir)?, rustix::fs::statvfs(wal_dir)?);
    Ok(format!("{:x}-{:x}-{}", metadata.dev(), stat.f_fsid, stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// What the configuration says, with `measured` where it says "auto"; nothing when it says that and nothing was measured.
fn configured(config: &Config, measured: Option<Choice>) -> Option<Choice> {
    let durability = match config.wal.sync {
        WalSync::Auto => measured.map(|choice| choice.durability),
        WalSync::Fdatasync => Some(Durability::Fdatasync),
        WalSync::Dsync => Some(Durability::Dsync),
    };
    let writes_in_flight = match config.wal.writes_in_flight {
        WritesInFlight::Auto => measured.map(|choice| choice.writes_in_flight),
        WritesInFlight::Exactly(count) => Some(usize::from(count)),
    };
    Some(Choice { durability: durability?, writes_in_flight: writes_in_flight? })
}

fn laid_over(config: &Config, measured: Choice) -> Choice {
    configured(config, Some(measured)).expect("a measurement answers whatever the configuration leaves open")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path, wal: &str) -> Config {
        let config = Config::parse("creto.toml", &format!("[wal]\n{wal}"), []).unwrap().in_folder(folder);
        fs::create_dir_all(config.wal_dir()).unwrap();
        config
    }

    #[test]
    fn a_device_is_measured_once_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        let (first, source) = choose(&config);
        assert_eq!(source, Source::Measured);
        assert_eq!(choose(&config), (first, Source::Remembered));
        assert_eq!(fs::read_dir(config.wal_dir()).unwrap().count(), 0, "a measurement leaves nothing behind");
    }

    #[test]
    fn another_device_and_a_damaged_file_are_measured_anew() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        let _ = choose(&config);
        let file = path(&config.data_dir());
        let mut measured: Measured = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        measured.device.push('0');
        fs::write(&file, serde_json::to_vec(&measured).unwrap()).unwrap();
        assert_eq!(choose(&config).1, Source::Measured);
        fs::write(&file, "{").unwrap();
        assert_eq!(choose(&config).1, Source::Measured);
        assert_eq!(choose(&config).1, Source::Remembered);
    }

    #[test]
    fn what_is_configured_needs_no_measurement_and_wins_over_one() {
        let folder = tempfile::tempdir().unwrap();
        let both = config(folder.path(), "sync = \"dsync\"\nwrites_in_flight = 3");
        let expect = Choice { durability: Durability::Dsync, writes_in_flight: 3 };
        assert_eq!(choose(&both), (expect, Source::Configured));
        assert!(!path(&both.data_dir()).exists());
        let one = config(folder.path(), "writes_in_flight = 3");
        assert_eq!(choose(&one).0.writes_in_flight, 3);
        assert_eq!(choose(&one).1, Source::Remembered);
    }
}
