//! `creto request`: asks an agent, and prints its answer.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use creto_agent::{Agent, AgentName, RequestError, RequestOptions, Response, Stats};
use serde_json::json;

use crate::args::Global;
use crate::args::request::RequestArgs;
use crate::client::{block_on, connect_with, receive_failure, send_failure};
use crate::exit::{Exit, Failure};
use crate::terminal::{CAUTION, DIM, grouped, print_json};
use crate::traces::Traces;
use crate::verb::recv::{harmless, payload_as_json, shown_here};
use crate::verb::send::payload;

pub(crate) fn run(global: &Global, args: &RequestArgs) -> Result<Exit, Failure> {
    let payload = payload(args.file.as_deref(), args.text.as_deref())?;
    let _traces = Traces::begin(&args.trace)?;
    block_on(request(global, args, payload))
}

async fn request(global: &Global, args: &RequestArgs, payload: Vec<u8>) -> Result<Exit, Failure> {
    let agent = connect_with(global, &args.reach, &args.from, |options| options.prekeys = args.prekeys.into()).await?;
    let options = RequestOptions::new(args.timeout).priority(args.priority.into());
    let begin = Instant::now();
    let answer = agent.request_with(&args.to, payload, options).await;
    let elapsed_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    tell_of_others(&args.from, &agent.stats());
    // In every case: an answer that was taken is acknowledged before the connection ends.
    Agent::close(agent).await;
    match answer {
        Ok(answer) => print(args, &answer, elapsed_us),
        Err(RequestError::Failed { code, message, .. }) if args.json => {
            print_json(&json!({
                "outcome": "failed",
                "from": args.to.as_str(),
                "code": code,
                "message": message,
                "elapsed_us": elapsed_us,
            }))?;
            Ok(Exit::Failed)
        }
        Err(error) => Err(request_failure(&error)),
    }
}

/// What came besides answers stays in the mailbox, and whoever never reads it should know.
fn tell_of_others(from: &AgentName, stats: &Stats) {
    let answers = stats.responses + stats.late_responses + stats.foreign_responses;
    let others = stats.verified.saturating_sub(answers + stats.duplicates_hidden);
    if others > 0 {
        let others = grouped(others);
        let _ = writeln!(
            anstream::stderr().lock(),
            "{CAUTION}unread{CAUTION:#}  messages for {from} besides answers: {others}; read them with `creto recv {from}`"
        );
    }
}

fn print(args: &RequestArgs, answer: &Response, elapsed_us: u64) -> Result<Exit, Failure> {
    if args.json {
        let mut object = json!({
            "outcome": "answered",
            "from": answer.from.as_str(),
            "request_id": answer.request_id.to_uuid_string(),
            "message_id": answer.message_id.to_uuid_string(),
            "timestamp_ms": answer.timestamp_ms,
            "payload_bytes": answer.payload.len(),
            "elapsed_us": elapsed_us,
        });
        payload_as_json(&mut object, &answer.payload);
        print_json(&object)?;
        return Ok(Exit::Ok);
    }
    // The answer alone goes to standard output: byte by byte where it is not shown to a person.
    let mut out = std::io::stdout().lock();
    match out.is_terminal() {
        true => writeln!(out, "{}", shown_here(&answer.payload))?,
        false => out.write_all(&answer.payload)?,
    }
    out.flush()?;
    let (from, micros) = (&answer.from, grouped(elapsed_us));
    let _ = writeln!(anstream::stderr().lock(), "{DIM}answered by {from} in {micros} us{DIM:#}");
    Ok(Exit::Ok)
}

fn request_failure(error: &RequestError) -> Failure {
    match error {
        RequestError::Denied { .. } | RequestError::UnknownAgent { .. } | RequestError::MailboxFull { .. } => {
            Failure::of(Exit::Refused, error)
        }
        RequestError::NotSent(error) => send_failure(error),
        RequestError::Receiving(error) => receive_failure(error),
        RequestError::TimedOut { .. } => Failure::of(Exit::Unanswered, error),
        RequestError::Failed { from, code, message } => {
            let what = format!("{from} answered with failure {code}: {}", harmless(message));
            Failure::new(Exit::Failed, what, "")
        }
        _ => Failure::of(Exit::Failed, error),
    }
}
