//! `creto send`: one message, sealed, signed, and durable when the command returns.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use creto_agent::{Agent, SelfDestruct, SendOptions};
use serde_json::json;

use crate::args::{Global, SendArgs};
use crate::client::{block_on, connect_with, send_failure};
use crate::exit::{Exit, Failure, plain};
use crate::terminal::{DIM, GOOD, grouped, print_json, stdout};
use crate::traces::Traces;

/// What stands for standard input.
const STDIN: &str = "-";
/// Largest message. One byte more is read, so that a longer input is refused and not cut.
pub(crate) const PAYLOAD_BYTES_MAX: u64 = 1 << 20;

pub(crate) fn run(global: &Global, args: &SendArgs) -> Result<Exit, Failure> {
    let _traces = Traces::begin(&args.trace)?;
    if let Some(path) = args.attach.as_deref().or(args.file.as_deref().filter(|path| is_large(path))) {
        return block_on(attach(global, args, path));
    }
    let payload = payload(args.file.as_deref(), args.text.as_deref())?;
    block_on(send(global, args, payload))
}

/// Whether a file does not fit into a message. What is no file, such as a pipe, is read and then seen.
fn is_large(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > PAYLOAD_BYTES_MAX)
}

async fn attach(global: &Global, args: &SendArgs, path: &Path) -> Result<Exit, Failure> {
    let agent = connect(global, args).await?;
    let sent = super::attach::send(global, args, &agent, path, options(args)).await;
    agent.close().await;
    sent
}

async fn connect(global: &Global, args: &SendArgs) -> Result<Agent, Failure> {
    connect_with(global, &args.reach, &args.from, |options| options.prekeys = args.prekeys.into()).await
}

fn options(args: &SendArgs) -> SendOptions {
    SendOptions {
        priority: args.priority.into(),
        receipt: args.receipt,
        delivered: args.delivered,
        self_destruct: match (args.burn, args.burn_after) {
            (false, None) => None,
            (true, None) => Some(SelfDestruct::AfterReading),
            (false, Some(after)) => Some(SelfDestruct::After(after)),
            (true, Some(after)) => Some(SelfDestruct::AfterReadingOr(after)),
        },
        notice: !args.no_notice,
        ttl: args.ttl.map(|seconds| Duration::from_secs(u64::from(seconds))),
        ..SendOptions::default()
    }
}

async fn send(global: &Global, args: &SendArgs, payload: Vec<u8>) -> Result<Exit, Failure> {
    let agent = connect(global, args).await?;
    let bytes = payload.len();
    let begin = Instant::now();
    let answer = agent.send_with(&args.to, payload, options(args)).await;
    let took = begin.elapsed();
    agent.close().await;
    let receipt = answer.map_err(|error| send_failure(&error))?;
    let id = receipt.message_id.to_uuid_string();
    if args.json {
        print_json(&json!({
            "message_id": id,
            "from": args.from.as_str(),
            "to": args.to.as_str(),
            "payload_bytes": bytes,
            "receipt_wanted": args.receipt,
            "delivered_wanted": args.delivered,
            "notice_wanted": !args.no_notice,
            "was_duplicate": receipt.was_duplicate,
            "elapsed_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        }))?;
        return Ok(Exit::Ok);
    }
    let millis = took.as_secs_f64() * 1000.0;
    let bytes = grouped(bytes as u64);
    let mut out = stdout();
    writeln!(out, "{GOOD}durable{GOOD:#}  {id}  {DIM}{bytes} bytes to {} in {millis:.1} ms{DIM:#}", args.to)?;
    Ok(Exit::Ok)
}

/// What is to be sent: the content of a file, of standard input, or a text.
pub(crate) fn payload(file: Option<&Path>, text: Option<&str>) -> Result<Vec<u8>, Failure> {
    let mut payload = Vec::new();
    match (file, text) {
        (Some(path), _) => {
            let file = std::fs::File::open(path).map_err(|error| Failure::file("read", path, &error))?;
            let read = file.take(PAYLOAD_BYTES_MAX + 1).read_to_end(&mut payload);
            read.map_err(|error| Failure::file("read", path, &error))?;
        }
        (None, Some(STDIN)) => {
            let read = std::io::stdin().lock().take(PAYLOAD_BYTES_MAX + 1).read_to_end(&mut payload);
            read.map_err(|error| {
                Failure::new(
                    Exit::System,
                    format!("cannot read standard input: {}", plain(&error)),
                    "check what is piped in",
                )
            })?;
        }
        (None, text) => payload.extend_from_slice(text.unwrap_or_default().as_bytes()),
    }
    if payload.len() as u64 > PAYLOAD_BYTES_MAX {
        let what = "the message is longer than 1 MiB";
        return Err(Failure::new(Exit::Usage, what, "send it as a file: creto send FROM TO --attach FILE"));
    }
    Ok(payload)
}
