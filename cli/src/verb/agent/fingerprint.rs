//! `creto agent fingerprint`: digits that two people compare aloud, of keys that the node has proven to be in its key log.

use std::io::Write;

use creto_agent::{AgentFingerprint, KeyLogStatus, LookupError, StateDirectory};
use serde_json::json;

use crate::args::Global;
use crate::args::agent::AgentFingerprintArgs;
use crate::client::connect_with;
use crate::exit::{Exit, Failure};
use crate::terminal::{CAUTION, DIM, GOOD, LITERAL, STRONG, print_json, stdout};

pub(super) async fn run(global: &Global, args: &AgentFingerprintArgs) -> Result<Exit, Failure> {
    let me = args.as_agent.as_ref().unwrap_or(&args.name);
    let agent = connect_with(global, &args.reach, me, |options| {
        // It sends nothing and reads nothing: the sessions belong to the process that does.
        options.state = StateDirectory::Memory;
    })
    .await?;
    let found = agent.fingerprint(&args.name).await;
    // Every leaf, too: whether somebody was given a key of mine that I did not make.
    let log = agent.read_key_log().await;
    agent.close().await;
    if let Some(alarm) = &log.alarm {
        return Err(failure(args.json, alarm.code(), &alarm.to_string())?);
    }
    let found = match found {
        Ok(found) => found,
        Err(LookupError::KeyLog { source, .. }) => return Err(failure(args.json, source.code(), &source.to_string())?),
        Err(error @ (LookupError::TimedOut { .. } | LookupError::Closed)) => {
            return Err(Failure::of(Exit::Unreachable, &error));
        }
        Err(error) => return Err(Failure::of(Exit::Refused, &error)),
    };
    show(args, &found, &log)?;
    Ok(Exit::Ok)
}

/// What no honest node does is something that a check found.
fn failure(as_json: bool, code: &str, text: &str) -> Result<Failure, Failure> {
    if as_json {
        print_json(&json!({ "verified": false, "code": code, "error": text }))?;
    }
    Ok(Failure::new(Exit::Found, format!("{code}: {text}"), "docs/key-transparency.md says what each code means"))
}

fn show(args: &AgentFingerprintArgs, found: &AgentFingerprint, log: &KeyLogStatus) -> Result<(), Failure> {
    let place = &found.place;
    if args.json {
        return Ok(print_json(&json!({
            "name": found.name.to_string(),
            "id": found.agent.to_string(),
            "fingerprint": found.identity.to_string(),
            "record_fingerprint": found.record.to_string(),
            "version": found.version,
            "key_id": found.key_id.to_string(),
            "verified": true,
            "leaf": place.index,
            "leaf_time_ms": place.time_ms,
            "log_size": place.size,
            "log_root": hex::encode(place.root),
            "log_read": log.read,
            "log_head": log.head,
        }))?);
    }
    let mut out = stdout();
    writeln!(out, "{STRONG}{}{STRONG:#}\n", found.name)?;
    writeln!(out, "  fingerprint  {LITERAL}{}{LITERAL:#}  {DIM}stays as long as the agent{DIM:#}", found.identity)?;
    writeln!(
        out,
        "  this record  {LITERAL}{}{LITERAL:#}  {DIM}version {}, changes with every key{DIM:#}",
        found.record, found.version
    )?;
    writeln!(out, "  key id       {}", found.key_id)?;
    writeln!(
        out,
        "  key log      {GOOD}verified{GOOD:#}  {DIM}leaf {} of {}, head {}{DIM:#}",
        place.index,
        place.size,
        hex::encode(&place.root[..8])
    )?;
    if log.read < log.size {
        writeln!(
            out,
            "  {CAUTION}not all read{CAUTION:#}  {DIM}{} of {} leaves: the node did not give the others, in which keys of yours could be{DIM:#}",
            log.read, log.size
        )?;
    }
    writeln!(
        out,
        "\nRead the fingerprint to each other over another channel: it must be the same digits at both ends."
    )?;
    Ok(())
}
