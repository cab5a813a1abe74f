//! `creto presence`: whether an agent is there, as far as it shows that to whoever asks.

use std::io::Write;

use creto_agent::{Presence, PresenceError};
use serde_json::json;

use crate::args::Global;
use crate::args::presence::PresenceArgs;
use crate::client::{block_on, connect_with};
use crate::exit::{Exit, Failure};
use crate::terminal::{DIM, GOOD, STRONG, print_json, stdout};

pub(crate) fn run(global: &Global, args: &PresenceArgs) -> Result<Exit, Failure> {
    block_on(ask(global, args))
}

async fn ask(global: &Global, args: &PresenceArgs) -> Result<Exit, Failure> {
    let agent = connect_with(global, &args.reach, &args.from, |_| ()).await?;
    let answer = agent.presence(&args.agent).await;
    agent.close().await;
    let presence = answer.map_err(|error| failure(&error))?;
    let (word, minutes) = match presence {
        Presence::Online => ("online", None),
        Presence::Seen { ago } => ("seen", Some(ago.as_secs() / 60)),
        _ => ("unknown", None),
    };
    if args.json {
        print_json(&json!({ "agent": args.agent.as_str(), "presence": word, "minutes_ago": minutes }))?;
        return Ok(Exit::Ok);
    }
    let name = &args.agent;
    match minutes {
        None if presence == Presence::Online => writeln!(stdout(), "{GOOD}online{GOOD:#}  {STRONG}{name}{STRONG:#}")?,
        Some(minutes) => writeln!(stdout(), "seen {minutes} min ago  {STRONG}{name}{STRONG:#}")?,
        None => {
            let why = "it shows nothing, or not to FROM, or was never there";
            writeln!(stdout(), "unknown  {STRONG}{name}{STRONG:#}  {DIM}{why}{DIM:#}")?;
        }
    }
    Ok(Exit::Ok)
}

fn failure(error: &PresenceError) -> Failure {
    let exit = match error {
        PresenceError::TooOften | PresenceError::Unsupported => Exit::Refused,
        _ => Exit::Unreachable,
    };
    Failure::new(exit, error.to_string(), "see whether the node serves: creto status")
}
