//! `creto dlq`: dead letters of an agent's mailbox. Only who has the agent's keys sees and changes them.

use std::io::Write;

use creto_agent::{
    Agent, DeadLetterEntry, DeadLetterError, DeathCause, REASON_SENDER_REVOKED, ReceiveError, StateDirectory,
};
use serde_json::{Value, json};

use crate::args::Global;
use crate::args::dlq::{DlqArgs, DlqChangeArgs, DlqInspectArgs, DlqListArgs, DlqVerb};
use crate::client::{block_on, connect_with, receive_failure};
use crate::exit::{Exit, Failure};
use crate::moment::date_time;
use crate::terminal::{Align, Columns, DIM, GOOD, LITERAL, STRONG, grouped, print_json, stdout};
use crate::verb::recv::{payload_as_json, shown_here};

/// Dead letters that are asked for at a time.
const PAGE: u32 = 256;

/// What becomes of dead letters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Replay,
    Purge,
}

pub(crate) fn run(global: &Global, args: &DlqArgs) -> Result<Exit, Failure> {
    block_on(async {
        match &args.verb {
            DlqVerb::List(args) => list(global, args).await,
            DlqVerb::Inspect(args) => inspect(global, args).await,
            DlqVerb::Replay(args) => change(global, args, Change::Replay).await,
            DlqVerb::Purge(args) => change(global, args, Change::Purge).await,
        }
    })
}

async fn list(global: &Global, args: &DlqListArgs) -> Result<Exit, Failure> {
    // It opens nothing: the sessions belong to the process that does.
    let agent = connect_with(global, &args.reach, &args.name, |options| options.state = StateDirectory::Memory).await?;
    let listed = pages(&agent, args.after, args.limit).await;
    agent.close().await;
    let (total, letters) = listed.map_err(|error| letter_failure(&error))?;
    if args.json {
        let letters: Vec<Value> = letters.iter().map(as_json).collect();
        print_json(&json!({ "mailbox": args.name.as_str(), "total": total, "letters": letters }))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    let Some(first) = letters.first() else {
        let where_to = if args.after > 0 { format!(" behind {}", args.after) } else { String::new() };
        writeln!(out, "No dead letters of {}{where_to}.", args.name)?;
        return Ok(Exit::Ok);
    };
    let mut columns = Columns::new(&[
        ("id", Align::Right),
        ("died", Align::Left),
        ("why", Align::Left),
        ("deliveries", Align::Right),
        ("bytes", Align::Right),
        ("kept until", Align::Left),
    ]);
    for letter in &letters {
        columns.add([
            letter.mailbox_sequence.to_string(),
            date_time(letter.died_ms),
            why(letter),
            letter.deliveries.to_string(),
            grouped(u64::from(letter.envelope_bytes)),
            if letter.expiry_ms == 0 { "-".to_owned() } else { date_time(letter.expiry_ms) },
        ]);
    }
    columns.write(&mut out)?;
    let shown = letters.len() as u64;
    if shown < total {
        writeln!(out, "\n{} of {} dead letters", grouped(shown), grouped(total))?;
    }
    writeln!(
        out,
        "\nNext: {LITERAL}creto dlq inspect {} {}{LITERAL:#}   {DIM}then replay or purge{DIM:#}",
        args.name, first.mailbox_sequence
    )?;
    Ok(Exit::Ok)
}

async fn inspect(global: &Global, args: &DlqInspectArgs) -> Result<Exit, Failure> {
    let agent = connect_with(global, &args.reach, &args.name, |_| ()).await?;
    let read = async {
        let letter = agent.dead_letter(args.id).await?;
        // What the node knows of its death.
        let page = agent.dead_letters(args.id.saturating_sub(1), 1).await?;
        let entry = page.letters.into_iter().find(|entry| entry.mailbox_sequence == args.id);
        Ok((letter, entry))
    };
    let read: Result<_, DeadLetterError> = read.await;
    agent.close().await;
    let (letter, entry) = read.map_err(|error| letter_failure(&error))?;
    if args.json {
        let mut value = json!({
            "mailbox_sequence": letter.mailbox_sequence,
            "message_id": letter.message_id.to_uuid_string(),
            "from": letter.from.as_str(),
            "timestamp_ms": letter.timestamp_ms,
            "priority": format!("{:?}", letter.priority).to_lowercase(),
            "kind": format!("{:?}", letter.kind).to_lowercase(),
            "correlation_id": letter.correlation_id.map(|id| id.to_uuid_string()),
            "attempt": letter.attempt,
            "letter": entry.as_ref().map(as_json),
        });
        payload_as_json(&mut value, &letter.payload);
        print_json(&value)?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    writeln!(out, "{STRONG}{}{STRONG:#}  from {STRONG}{}{STRONG:#}\n", args.id, letter.from)?;
    writeln!(out, "  message id  {}", letter.message_id.to_uuid_string())?;
    writeln!(out, "  sent        {} UTC  {DIM}by its sender's clock{DIM:#}", date_time(letter.timestamp_ms))?;
    if let Some(entry) = &entry {
        writeln!(out, "  died        {} UTC, {}", date_time(entry.died_ms), why(entry))?;
        writeln!(out, "  deliveries  {} failed", entry.deliveries)?;
    }
    writeln!(out, "  payload     {} bytes\n", grouped(letter.payload.len() as u64))?;
    drop(out);
    // Written as it is: output that leaves out styles would leave out what looks like one in a message, too.
    writeln!(std::io::stdout().lock(), "{}", shown_here(&letter.payload))?;
    Ok(Exit::Ok)
}

async fn change(global: &Global, args: &DlqChangeArgs, change: Change) -> Result<Exit, Failure> {
    let agent = connect_with(global, &args.reach, &args.name, |options| options.state = StateDirectory::Memory).await?;
    let changed = async {
        if !args.all {
            return apply(&agent, change, &args.ids).await;
        }
        // Those that are there now: what is replayed and dies again meanwhile keeps its number, and is passed.
        let (mut after, mut count) = (0, 0);
        loop {
            let ids = numbers(&agent.dead_letters(after, PAGE).await?.letters);
            let Some(&last) = ids.last() else { return Ok(count) };
            count += apply(&agent, change, &ids).await?;
            after = last;
        }
    };
    let changed = changed.await;
    agent.close().await;
    let count = changed.map_err(|error| letter_failure(&error))?;
    let mut asked = args.ids.clone();
    asked.sort_unstable();
    asked.dedup();
    let missing = (asked.len() as u64).saturating_sub(count);
    let (done, key) = match change {
        Change::Replay => ("replayed", "replayed"),
        Change::Purge => ("purged", "purged"),
    };
    if args.json {
        print_json(&json!({ "mailbox": args.name.as_str(), key: count, "missing": missing }))?;
    } else {
        let letters = if count == 1 { "dead letter" } else { "dead letters" };
        writeln!(stdout(), "{GOOD}{done}{GOOD:#}  {} {letters} of {}", grouped(count), args.name)?;
        if missing > 0 {
            writeln!(stdout(), "{} of the numbers are no dead letters of it", grouped(missing))?;
        }
    }
    Ok(if missing > 0 { Exit::Found } else { Exit::Ok })
}

async fn apply(agent: &Agent, change: Change, ids: &[u64]) -> Result<u64, DeadLetterError> {
    match change {
        Change::Replay => agent.replay_dead_letters(ids).await,
        Change::Purge => agent.purge_dead_letters(ids).await,
    }
}

/// Up to `limit` dead letters, page by page, and how many there are.
async fn pages(agent: &Agent, mut after: u64, limit: u64) -> Result<(u64, Vec<DeadLetterEntry>), DeadLetterError> {
    let mut letters: Vec<DeadLetterEntry> = Vec::new();
    loop {
        let left = limit - letters.len() as u64;
        let page = agent.dead_letters(after, u32::try_from(left).unwrap_or(PAGE).min(PAGE)).await?;
        let Some(last) = page.letters.last() else { return Ok((page.total, letters)) };
        after = last.mailbox_sequence;
        letters.extend(page.letters);
        if letters.len() as u64 >= limit {
            return Ok((page.total, letters));
        }
    }
}

fn numbers(letters: &[DeadLetterEntry]) -> Vec<u64> {
    letters.iter().map(|letter| letter.mailbox_sequence).collect()
}

fn why(letter: &DeadLetterEntry) -> String {
    match (letter.cause, letter.reason) {
        (DeathCause::Rejected, 0) => "rejected".to_owned(),
        (DeathCause::Rejected, REASON_SENDER_REVOKED) => "signed after its sender was revoked".to_owned(),
        (DeathCause::Rejected, reason) => format!("rejected, reason {reason}"),
        (DeathCause::Deliveries, _) => "failed too often".to_owned(),
    }
}

fn as_json(letter: &DeadLetterEntry) -> Value {
    json!({
        "mailbox_sequence": letter.mailbox_sequence,
        "died_ms": letter.died_ms,
        "expiry_ms": letter.expiry_ms,
        "envelope_bytes": letter.envelope_bytes,
        "cause": match letter.cause {
            DeathCause::Rejected => "rejected",
            DeathCause::Deliveries => "deliveries",
        },
        "reason": letter.reason,
        "deliveries": letter.deliveries,
    })
}

fn letter_failure(error: &DeadLetterError) -> Failure {
    match error {
        DeadLetterError::Sessions(error @ ReceiveError::State(_)) => receive_failure(error),
        DeadLetterError::Unopened { .. } => {
            Failure::new(Exit::Found, error.to_string(), "replay it where the agent runs, or purge it")
        }
        DeadLetterError::TimedOut | DeadLetterError::Closed | DeadLetterError::Sessions(_) => {
            Failure::of(Exit::Unreachable, error)
        }
        _ => Failure::of(Exit::Refused, error),
    }
}
