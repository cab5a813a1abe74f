//! `creto agent passphrase`: encrypts the keys of an agent that are here, or changes what they are encrypted with.

use std::io::Write;

use creto_agent::keystore::{LockKind, PassphraseLock};
use serde_json::json;

use super::lock_names;
use crate::args::Global;
use crate::args::agent::AgentPassphraseArgs;
use crate::client::{keys_failure, keys_folder, keys_path, load_keys};
use crate::exit::{Exit, Failure};
use crate::passphrase;
use crate::terminal::{DIM, GOOD, STRONG, print_json, stdout};

pub(super) fn run(global: &Global, args: &AgentPassphraseArgs) -> Result<Exit, Failure> {
    let name = &args.name;
    let path = keys_path(&keys_folder(global, &args.keys), name);
    let keys = load_keys(global, &args.keys, name)?;
    let before = keys.locks();
    let was_encrypted = !before.is_empty();
    // A credential of systemd is the old one here: it must not be taken for both.
    let new = match &args.new_passphrase_file {
        Some(file) => passphrase::given_new(Some(file))?,
        None => None,
    };
    let new = match new {
        Some(new) => new,
        None => passphrase::asked_new(name)?,
    };
    keys.save_locked(&path, &PassphraseLock::new(new)).map_err(|error| keys_failure(&error))?;
    if args.json {
        print_json(&json!({
            "name": name.to_string(),
            "keys": path.display().to_string(),
            "was_encrypted": was_encrypted,
            "encrypted": true,
            "locks": lock_names(&keys),
        }))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    let (done, old) = match &before[..] {
        [] => {
            ("encrypted", "copies of the file from before are not encrypted: delete them, and restart what has it open")
        }
        before if before.contains(&LockKind::Passphrase) => {
            ("changed", "copies of the file from before open with the old passphrase: delete them")
        }
        _ => ("added", "the passphrase opens the file beside its token"),
    };
    writeln!(out, "{GOOD}{done}{GOOD:#}  {STRONG}{name}{STRONG:#}\n")?;
    writeln!(
        out,
        "  keys        {}  {DIM}nobody can open it without the passphrase: keep that safe{DIM:#}",
        path.display()
    )?;
    writeln!(out, "  old copies  {old}")?;
    Ok(Exit::Ok)
}
