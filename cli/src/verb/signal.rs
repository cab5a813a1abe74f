//! `creto signal`: tells an agent what is so just now. Nobody stores it.

use std::io::Write;
use std::time::{Duration, Instant};

use creto_agent::{Signal, SignalOptions, WorkState, Working};
use serde_json::json;

use crate::args::Global;
use crate::args::signal::SignalArgs;
use crate::client::{block_on, connect_with, send_failure};
use crate::exit::{Exit, Failure};
use crate::moment::time;
use crate::terminal::{DIM, GOOD, STRONG, grouped, print_json, stdout};
use crate::verb::recv::{payload_as_json, shown_here};

pub(crate) fn run(global: &Global, args: &SignalArgs) -> Result<Exit, Failure> {
    block_on(signal(global, args))
}

async fn signal(global: &Global, args: &SignalArgs) -> Result<Exit, Failure> {
    let text = args.text.clone().unwrap_or_default();
    let payload = match args.state {
        Some(state) => Working { state: state.into(), about: args.about, note: text }.to_bytes(),
        None => text.into_bytes(),
    };
    let bytes = payload.len();
    let options = SignalOptions { ttl: Duration::from_secs(args.ttl.into()), priority: args.priority.into() };
    let agent = connect_with(global, &args.reach, &args.from, |_| ()).await?;
    let begin = Instant::now();
    let answer = agent.signal_with(&args.to, payload, options).await;
    let took = begin.elapsed();
    agent.close().await;
    answer.map_err(|error| send_failure(&error))?;
    if args.json {
        print_json(&json!({
            "from": args.from.as_str(),
            "to": args.to.as_str(),
            "payload_bytes": bytes,
            "ttl_s": args.ttl,
            "elapsed_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        }))?;
        return Ok(Exit::Ok);
    }
    let (bytes, millis) = (grouped(bytes as u64), took.as_secs_f64() * 1000.0);
    let what = "whether anybody had it, nobody says";
    writeln!(stdout(), "{GOOD}signalled{GOOD:#}  {DIM}{bytes} bytes to {} in {millis:.1} ms; {what}{DIM:#}", args.to)?;
    Ok(Exit::Ok)
}

/// Prints one that came.
pub(crate) fn print(signal: &Signal, as_json: bool) -> std::io::Result<()> {
    let working = signal.working();
    if as_json {
        let mut line = json!({
            "signal": true,
            "message_id": signal.message_id.to_uuid_string(),
            "from": signal.from.as_str(),
            "timestamp_ms": signal.timestamp_ms,
            "until_ms": signal.until_ms,
            "priority": format!("{:?}", signal.priority).to_lowercase(),
        });
        match &working {
            Some(Working { state, about, note }) => {
                line["state"] = word(*state).into();
                line["about"] = about.map(|id| id.to_uuid_string()).into();
                line["text"] = note.as_str().into();
            }
            None => payload_as_json(&mut line, &signal.payload),
        }
        writeln!(std::io::stdout().lock(), "{line}")
    } else {
        let (at, from) = (time(signal.timestamp_ms), &signal.from);
        let (word, text) = match &working {
            Some(working) => (word(working.state), shown_here(working.note.as_bytes())),
            None => ("signal", shown_here(&signal.payload)),
        };
        write!(stdout(), "{DIM}{at}{DIM:#}  {STRONG}{from}{STRONG:#}  {GOOD}{word}{GOOD:#}  ")?;
        // Written as it is, as messages are.
        writeln!(std::io::stdout().lock(), "{text}")
    }
}

fn word(state: WorkState) -> &'static str {
    match state {
        WorkState::Waiting => "waiting",
        WorkState::Idle => "idle",
        _ => "working",
    }
}
