//! `creto pub`: messages to the subscribers of a channel, each durable when it is said to be.

use std::collections::VecDeque;
use std::io::{BufRead, Read, Write};
use std::time::{Duration, Instant};

use creto_agent::{ChannelError, PendingPublish, PublishOptions, Publisher, PublisherOptions};
use serde_json::json;
use tokio::sync::mpsc;

use crate::args::Global;
use crate::args::pubsub::PubArgs;
use crate::client::{block_on, channel_failure, connect_with};
use crate::exit::{Exit, Failure, plain};
use crate::terminal::{DIM, GOOD, grouped, stdout};
use crate::traces::Traces;
use crate::verb::send::{PAYLOAD_BYTES_MAX, payload};

/// Lines that are on their way at a time. The SDK's own bounds hold as well.
const IN_FLIGHT_MAX: usize = 1_024;

/// A message on its way: how long it is, and when it was handed over.
type Sent = (usize, Instant, PendingPublish);

pub(crate) fn run(global: &Global, args: &PubArgs) -> Result<Exit, Failure> {
    let payload = match args.lines {
        true => None,
        false => Some(payload(args.file.as_deref(), args.text.as_deref())?),
    };
    let _traces = Traces::begin(&args.trace)?;
    block_on(publish(global, args, payload))
}

async fn publish(global: &Global, args: &PubArgs, payload: Option<Vec<u8>>) -> Result<Exit, Failure> {
    let agent = connect_with(global, &args.reach, &args.agent, |options| options.prekeys = args.prekeys.into()).await?;
    let published = async {
        let options = PublisherOptions { owner: args.owner.clone() };
        let opened = agent.publisher_with(&args.channel, options).await;
        let publisher = opened.map_err(|error| channel_failure(&error))?;
        match payload {
            Some(payload) => {
                let sent = hand_over(&publisher, args, payload).await?;
                finish(&publisher, args, sent).await
            }
            None => publish_lines(&publisher, args).await,
        }
    };
    let published = published.await;
    // In every case: keys that subscribers are still to be given are, and what is left of the session is kept for the next time.
    agent.close().await;
    published?;
    Ok(Exit::Ok)
}

async fn publish_lines(publisher: &Publisher, args: &PubArgs) -> Result<(), Failure> {
    let (to_publish, mut lines) = mpsc::channel(IN_FLIGHT_MAX);
    // It ends with the input, or with the first line that nobody takes any more.
    std::thread::spawn(move || read_lines(&to_publish));
    let (begin, mut count) = (Instant::now(), 0_u64);
    let mut on_the_way: VecDeque<Sent> = VecDeque::new();
    loop {
        tokio::select! {
            // Answers come in the order of the lines.
            answer = async { (&mut on_the_way[0].2).await }, if !on_the_way.is_empty() => {
                let (bytes, begin, pending) = on_the_way.pop_front().expect("it was answered just now");
                let receipt = answer.map_err(|error| channel_failure(&error))?;
                count += 1;
                if args.json {
                    print_as_json(publisher, args, bytes, begin, pending.message_id(), receipt.was_duplicate)?;
                }
            }
            line = lines.recv(), if on_the_way.len() < IN_FLIGHT_MAX => match line {
                Some(line) => on_the_way.push_back(hand_over(publisher, args, line?).await?),
                None => break,
            },
        }
    }
    for (bytes, begin, pending) in on_the_way {
        let id = pending.message_id();
        let receipt = pending.await.map_err(|error| channel_failure(&error))?;
        count += 1;
        if args.json {
            print_as_json(publisher, args, bytes, begin, id, receipt.was_duplicate)?;
        }
    }
    if !args.json {
        let (count, seconds) = (grouped(count), begin.elapsed().as_secs_f64());
        let readers = readers(publisher);
        let to = publisher.channel();
        writeln!(
            stdout(),
            "{GOOD}durable{GOOD:#}  {count} messages  {DIM}to {to}, {readers}, in {seconds:.1} s{DIM:#}"
        )?;
    }
    Ok(())
}

/// Hands over the lines of standard input, without what ends them.
fn read_lines(lines: &mpsc::Sender<Result<Vec<u8>, Failure>>) {
    let mut input = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        // One byte more than fits, and the end of the line: a longer one is refused and not cut.
        let line = match input.by_ref().take(PAYLOAD_BYTES_MAX + 2).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {
                // Also as other systems end it.
                if line.pop_if(|last| *last == b'\n').is_some() {
                    line.pop_if(|last| *last == b'\r');
                }
                match line.len() as u64 > PAYLOAD_BYTES_MAX {
                    true => Err(Failure::new(Exit::Usage, "a line is longer than 1 MiB", "publish it with --file")),
                    false => Ok(line),
                }
            }
            Err(error) => {
                let what = format!("cannot read standard input: {}", plain(&error));
                Err(Failure::new(Exit::System, what, "check what is piped in"))
            }
        };
        let is_last = line.is_err();
        if lines.blocking_send(line).is_err() || is_last {
            return;
        }
    }
}

async fn hand_over(publisher: &Publisher, args: &PubArgs, payload: Vec<u8>) -> Result<Sent, Failure> {
    let options = PublishOptions {
        priority: args.priority.into(),
        ttl: args.ttl.map(|seconds| Duration::from_secs(seconds.into())),
        ..PublishOptions::default()
    };
    let (bytes, begin) = (payload.len(), Instant::now());
    let pending = publisher.submit(payload, options).await.map_err(|error| channel_failure(&error))?;
    Ok((bytes, begin, pending))
}

async fn finish(publisher: &Publisher, args: &PubArgs, (bytes, begin, pending): Sent) -> Result<(), Failure> {
    let id = pending.message_id();
    let receipt = pending.await.map_err(|error: ChannelError| channel_failure(&error))?;
    if args.json {
        return print_as_json(publisher, args, bytes, begin, id, receipt.was_duplicate);
    }
    let (id, bytes, to) = (id.to_uuid_string(), grouped(bytes as u64), publisher.channel());
    let (millis, readers) = (begin.elapsed().as_secs_f64() * 1000.0, readers(publisher));
    writeln!(stdout(), "{GOOD}durable{GOOD:#}  {id}  {DIM}{bytes} bytes to {to}, {readers}, in {millis:.1} ms{DIM:#}")?;
    Ok(())
}

fn readers(publisher: &Publisher) -> String {
    match publisher.subscribers() {
        0 => "no subscriber yet".to_owned(),
        1 => "1 subscriber".to_owned(),
        many => format!("{} subscribers", grouped(many as u64)),
    }
}

fn print_as_json(
    publisher: &Publisher,
    args: &PubArgs,
    bytes: usize,
    begin: Instant,
    id: creto_agent::MessageId,
    was_duplicate: bool,
) -> Result<(), Failure> {
    let line = json!({
        "message_id": id.to_uuid_string(),
        "from": args.agent.as_str(),
        "channel": publisher.channel().as_str(),
        "payload_bytes": bytes,
        "subscribers": publisher.subscribers(),
        "was_duplicate": was_duplicate,
        "elapsed_us": u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX),
    });
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
}
