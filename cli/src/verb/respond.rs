//! `creto respond`: answers the requests of an agent, with what they ask, with a text, or with what a command prints.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use creto_agent::{Agent, IncomingRequest, ServeOptions, ServeOutcome, Served};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::args::Global;
use crate::args::request::RespondArgs;
use crate::client::{block_on, connect_with, receive_failure};
use crate::exit::{Exit, Failure, plain};
use crate::terminal::{BAD, CAUTION, DIM, GOOD, STRONG, stdout};
use crate::traces::Traces;
use crate::verb::recv::{Signals, harmless};

/// Most bytes that are read of what a command prints: one more than fits, so that more is refused and not cut.
const PRINTED_BYTES_MAX: u64 = (1 << 20) + 1;
/// The command did not end before the request's deadline.
const FAILED_TOO_SLOW: u32 = 1_000;
/// The command cannot be run.
const FAILED_TO_RUN: u32 = 1_001;

/// What requests are answered with.
enum Answerer {
    Echo,
    Reply(Bytes),
    Exec(Vec<String>),
}

pub(crate) fn run(global: &Global, args: &RespondArgs) -> Result<Exit, Failure> {
    let _traces = Traces::begin(&args.trace)?;
    block_on(respond(global, args))
}

async fn respond(global: &Global, args: &RespondArgs) -> Result<Exit, Failure> {
    // Said before anybody asks: whoever did would only be told that it failed.
    if let Some(program) = args.exec.first()
        && !is_there(program)
    {
        let next = "name one that is; no shell is between, so arguments stand by themselves, as in --exec tr a-z A-Z";
        return Err(Failure::new(Exit::Usage, format!("there is no command `{program}` here"), next));
    }
    let agent = connect_with(global, &args.reach, &args.agent, |options| options.prekeys = args.prekeys.into()).await?;
    let answered = answer_all(&agent, args).await;
    // In every case: what was answered is acknowledged before the connection ends.
    agent.close().await;
    answered?;
    Ok(Exit::Ok)
}

/// Whether a command can be found as the system will look for it: by its path, or in the folders of PATH.
fn is_there(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).exists();
    }
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).exists()))
}

async fn answer_all(agent: &Agent, args: &RespondArgs) -> Result<(), Failure> {
    let answerer = Arc::new(match (&args.reply, args.echo) {
        (Some(text), _) => Answerer::Reply(Bytes::from(text.clone())),
        (None, true) => Answerer::Echo,
        (None, false) => Answerer::Exec(args.exec.clone()),
    });
    let handler = move |request: IncomingRequest| {
        let answerer = Arc::clone(&answerer);
        async move { answerer.answer(&request).await }
    };
    // Told when an answer is durable, and not before.
    let (report, mut reports) = mpsc::channel(usize::from(args.concurrency));
    let mut options = ServeOptions::default().concurrency(args.concurrency.into()).report(report);
    options.requests_max = args.count;
    let mut signals = Signals::catch()?;
    let mut server = agent.serve(options, handler).map_err(|error| receive_failure(&error))?;
    let mut printed = Ok(());
    loop {
        tokio::select! {
            biased;
            Some(served) = reports.recv() => {
                printed = print(&served, args.json);
                if printed.is_err() {
                    break;
                }
            }
            ended = server.ended() => {
                // What it told last.
                while let Ok(served) = reports.try_recv() {
                    print(&served, args.json)?;
                }
                return ended.map_err(|error| receive_failure(&error));
            }
            () = signals.next() => break,
        }
    }
    // What is being worked on is answered, unless somebody insists; what cannot be printed is answered all the same.
    let mut stopping = std::pin::pin!(server.stop());
    loop {
        tokio::select! {
            biased;
            Some(served) = reports.recv() => {
                if printed.is_ok() {
                    printed = print(&served, args.json);
                }
            }
            stopped = &mut stopping => {
                printed?;
                return stopped.map_err(|error| receive_failure(&error));
            }
            () = signals.next() => return Ok(printed?),
        }
    }
}

impl Answerer {
    async fn answer(&self, request: &IncomingRequest) -> Result<Bytes, creto_agent::Failure> {
        match self {
            Self::Echo => Ok(request.payload.clone()),
            Self::Reply(text) => Ok(text.clone()),
            Self::Exec(command) => execute(command, request).await,
        }
    }
}

/// Runs a command for a request. It is killed at the request's deadline.
async fn execute(command: &[String], request: &IncomingRequest) -> Result<Bytes, creto_agent::Failure> {
    let [program, arguments @ ..] = command else {
        return Err(creto_agent::Failure::new(FAILED_TO_RUN, "there is no command"));
    };
    let cannot = |error: &std::io::Error| {
        creto_agent::Failure::new(FAILED_TO_RUN, format!("{program} cannot be run: {}", plain(error)))
    };
    let child = Command::new(program)
        .args(arguments)
        .env("CRETO_REQUEST_FROM", request.from.as_str())
        .env("CRETO_REQUEST_ID", request.message_id.to_uuid_string())
        .env("CRETO_REQUEST_DEADLINE_MS", request.deadline_ms.to_string())
        .env("CRETO_REQUEST_ATTEMPT", request.attempt.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| cannot(&error))?;
    let printed = timeout(request.remaining(), converse(child, &request.payload)).await;
    match printed {
        Ok(Ok((status, printed))) if status.success() => Ok(printed.into()),
        Ok(Ok((status, _))) => {
            use std::os::unix::process::ExitStatusExt as _;
            // As a shell counts it: which signal it was, above 128.
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            let code = u32::try_from(code).unwrap_or(FAILED_TO_RUN);
            Err(creto_agent::Failure::new(code, format!("{program} ended with status {code}")))
        }
        Ok(Err(error)) => Err(cannot(&error)),
        Err(_) => Err(creto_agent::Failure::new(FAILED_TOO_SLOW, format!("{program} did not end in time"))),
    }
}

async fn converse(mut child: Child, input: &[u8]) -> std::io::Result<(std::process::ExitStatus, Vec<u8>)> {
    let mut stdin = child.stdin.take().expect("it was asked for");
    let stdout = child.stdout.take().expect("it was asked for");
    let write = async {
        // A command that does not want all of it is none the worse for that.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let mut printed = Vec::new();
    let (read, ()) = tokio::join!(async { stdout.take(PRINTED_BYTES_MAX).read_to_end(&mut printed).await }, write);
    read?;
    Ok((child.wait().await?, printed))
}

fn print(served: &Served, as_json: bool) -> std::io::Result<()> {
    let Served { request, outcome, took, .. } = served;
    let elapsed_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let (word, style) = match outcome {
        ServeOutcome::Answered { .. } => ("answered", GOOD),
        ServeOutcome::Failed(_) => ("failed", BAD),
        ServeOutcome::TooLate => ("too_late", CAUTION),
        ServeOutcome::NotTaken => ("not_taken", CAUTION),
        // It comes again.
        _ => ("again", CAUTION),
    };
    if as_json {
        let mut line = json!({
            "request_id": request.message_id.to_uuid_string(),
            "from": request.from.as_str(),
            "payload_bytes": request.payload.len(),
            "attempt": request.attempt,
            "outcome": word,
            "elapsed_us": elapsed_us,
        });
        match outcome {
            ServeOutcome::Answered { bytes } => line["answer_bytes"] = (*bytes).into(),
            ServeOutcome::Failed(failure) => {
                line["code"] = failure.code.into();
                line["message"] = failure.message.as_str().into();
            }
            _ => {}
        }
        return writeln!(std::io::stdout().lock(), "{line}");
    }
    let more = match outcome {
        ServeOutcome::Answered { bytes } => format!("{bytes} bytes in {elapsed_us} us"),
        ServeOutcome::Failed(failure) => format!("{}: {}", failure.code, harmless(&failure.message)),
        _ => format!("after {elapsed_us} us"),
    };
    let from = request.from.as_str();
    writeln!(stdout(), "{style}{word}{style:#}  {STRONG}{from}{STRONG:#}  {DIM}{more}{DIM:#}")
}
