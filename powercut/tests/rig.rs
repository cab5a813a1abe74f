//! The rig itself: what is synced survives, what is not does not, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use creto_powercut::{Cut, Keep, Rig, what_is_missing};

const DRIVE_BYTES: usize = 64 << 20;
const CUT: Cut = Cut { after_requests: 0, keep: Keep::Nothing, seed: 1 };

/// Runs the test where it can run; elsewhere it says why not, or fails if it was demanded.
fn with_rig(test: impl FnOnce(&mut Rig)) {
    if let Some(missing) = what_is_missing() {
        assert!(std::env::var_os("CRETO_REQUIRE_POWER_CUTS").is_none(), "power cuts were demanded; missing: {missing}");
        eprintln!("skipped: needs root, /dev/fuse and loop devices; missing: {missing}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut rig = start(folder.path());
    test(&mut rig);
    rig.end().unwrap();
    nothing_is_left_in(folder.path());
}

fn nothing_is_left_in(folder: &Path) {
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "the rig left something behind");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&*folder.to_string_lossy()), "{mounts}");
}

fn start(folder: &Path) -> Rig {
    let mut device = Command::new(env!("CARGO_BIN_EXE_creto-powercut"));
    device.arg("device");
    Rig::start(folder, DRIVE_BYTES, device).unwrap()
}

/// As the log writes: around the page cache.
fn direct(path: &Path) -> File {
    const O_DIRECT: i32 = 0o40000;
    OpenOptions::new().write(true).create(true).truncate(false).custom_flags(O_DIRECT).open(path).unwrap()
}

/// Bytes at an address that O_DIRECT accepts.
fn block(buffer: &mut Vec<u8>, value: u8) -> &[u8] {
    buffer.clear();
    buffer.resize(8_192, value);
    let skip = buffer.as_ptr().align_offset(4_096);
    &buffer[skip..skip + 4_096]
}

#[test]
fn a_cut_takes_what_was_not_synced_and_leaves_what_was() {
    with_rig(|rig| {
        let path = rig.disk().join("log");
        let mut buffer = Vec::new();
        let mut file = direct(&path);
        for value in [1, 2] {
            file.write_all(block(&mut buffer, value)).unwrap();
        }
        file.sync_all().unwrap();
        drop(file);
        File::open(rig.disk()).unwrap().sync_all().unwrap();

        let mut file = direct(&path);
        file.write_all(block(&mut buffer, 3)).unwrap();
        assert_eq!(fs::read(&path).unwrap()[0], 3, "readable before the cut");
        rig.cut(CUT).unwrap();
        assert!(file.write_all(block(&mut buffer, 4)).is_err(), "a drive without power answers with errors");
        drop(file);
        rig.restore().unwrap();
        let found = fs::read(&path).unwrap();
        assert_eq!((found[0], found[4_096], found.len()), (1, 2, 8_192));
    });
}

#[test]
fn each_sync_of_a_direct_write_is_a_flush_of_the_drive_and_no_write_is_one() {
    with_rig(|rig| {
        let mut file = direct(&rig.disk().join("log"));
        let mut buffer = Vec::new();
        // Its blocks are laid out first: what is counted then is data only.
        (0..32).for_each(|_| file.write_all(block(&mut buffer, 0)).unwrap());
        file.sync_all().unwrap();
        let mut file = direct(&rig.disk().join("log"));
        let before = rig.counts().unwrap();
        (0..16).for_each(|_| file.write_all(block(&mut buffer, 1)).unwrap());
        let written = rig.counts().unwrap();
        for _ in 0..16 {
            file.write_all(block(&mut buffer, 2)).unwrap();
            file.sync_data().unwrap();
        }
        let synced = rig.counts().unwrap();
        assert!(written.writes >= before.writes + 16, "{before:?} {written:?}");
        // The file system may commit its journal of its own accord meanwhile, every five seconds.
        assert!(written.flushes <= before.flushes + 2, "{before:?} {written:?}");
        assert!(synced.flushes >= written.flushes + 16, "{written:?} {synced:?}");
    });
}

#[test]
fn the_file_system_comes_back_after_every_kind_of_cut() {
    with_rig(|rig| {
        for seed in 0..20 {
            let folder = rig.disk().join(format!("round-{seed}"));
            fs::create_dir(&folder).unwrap();
            for name in 0..5 {
                let mut file = File::create(folder.join(name.to_string())).unwrap();
                file.write_all(&[7; 10_000]).unwrap();
                file.sync_all().unwrap();
            }
            let mut buffer = Vec::new();
            (0..8).for_each(|_| direct(&folder.join("unsynced")).write_all(block(&mut buffer, 9)).unwrap());
            let keep = [Keep::Any, Keep::Nothing, Keep::First, Keep::Writes, Keep::Sectors][seed % 5];
            let after_requests = [0, 1, 7][seed % 3];
            rig.cut(Cut { after_requests, keep, seed: seed as u64 }).unwrap();
            rig.restore().unwrap();
            for name in 0..5 {
                let found = fs::read(folder.join(name.to_string()));
                assert_eq!(found.unwrap(), [7; 10_000], "round {seed}, file {name}: it was synced");
            }
        }
        let counts = rig.counts().unwrap();
        assert!(counts.cuts == 20 && counts.cuts_with_unflushed > 0 && counts.sectors_lost > 0, "{counts:?}");
    });
}

#[test]
fn a_rig_that_is_dropped_in_the_middle_leaves_nothing_behind() {
    with_rig(|_| {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = start(folder.path());
        fs::write(rig.disk().join("file"), [1; 5_000]).unwrap();
        rig.cut(CUT).unwrap();
        // To the drive's process this is the same as the death of this one: its socket closes.
        drop(rig);
        nothing_is_left_in(folder.path());
    });
}
