//! `creto sub`: prints what is published in a channel, or in all channels whose names fit a pattern, and acknowledges each message once it
//! is printed. What cannot be read is said, and the status says that there was such a message.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use creto_agent::channel::Start;
use creto_agent::{
    Agent, ChannelError, ChannelMessage, ChannelName, ChannelSubscription, PatternEvent, PatternSubscription,
    SubscribeOptions,
};
use serde_json::json;
use tokio::time::timeout;

use crate::args::Global;
use crate::args::pubsub::SubArgs;
use crate::client::{block_on, channel_failure, connect_with};
use crate::exit::{Exit, Failure};
use crate::moment::time;
use crate::terminal::{CAUTION, DIM, GOOD, STRONG, grouped, stdout};
use crate::traces::Traces;
use crate::verb::recv::{Signals, payload_as_json, shown_here};

/// How long what waits for its key is waited for beyond the time in which that is said.
const REPORT_GRACE: Duration = Duration::from_secs(2);

/// What went back to a group's other members and is remembered, so that it is not waited for when it comes again.
const GAVE_BACK_MAX: usize = 1_024;

/// What is read.
enum Reads {
    One(ChannelSubscription),
    Many(Box<PatternSubscription>),
}

/// Why the command goes on or ends.
enum Next {
    Message(ChannelName, Box<ChannelMessage>),
    /// One that cannot be read.
    Unreadable(ChannelName, ChannelError),
    /// One of the channels is read from now on.
    Joined(ChannelName),
    /// Or not any more.
    Left(ChannelName, ChannelError),
    /// Not all of them are read.
    Incomplete(ChannelError),
    /// Nothing came in time.
    Nothing,
    /// Ctrl-C, or nothing comes any more.
    End,
}

pub(crate) fn run(global: &Global, args: &SubArgs) -> Result<Exit, Failure> {
    let _traces = Traces::begin(&args.trace)?;
    block_on(subscribe(global, args))
}

async fn subscribe(global: &Global, args: &SubArgs) -> Result<Exit, Failure> {
    let agent = connect_with(global, &args.reach, &args.agent, |options| options.prekeys = args.prekeys.into()).await?;
    let mut signals = Signals::catch()?;
    let mut in_a_hurry = false;
    let done = read(&agent, args, &mut signals, &mut in_a_hurry).await;
    // In every case: what was printed is acknowledged before the connection ends; unless whoever waits for that says once more that
    // it is to end.
    if !in_a_hurry {
        tokio::select! {
            () = agent.close() => {},
            () = signals.next() => {},
        }
    }
    done?;
    Ok(Exit::Ok)
}

async fn read(agent: &Agent, args: &SubArgs, signals: &mut Signals, in_a_hurry: &mut bool) -> Result<(), Failure> {
    if args.unsubscribe {
        return tokio::select! {
            ended = unsubscribe(agent, args) => ended,
            () = signals.next() => {
                let what = format!("the subscription to {} may still be there", args.channel);
                Err(Failure::new(Exit::Unanswered, what, "run the command again"))
            }
        };
    }
    let options = SubscribeOptions {
        start: args.from.unwrap_or(Start::GoOn),
        group: args.group.clone(),
        key_wait: args.key_wait,
        skip_unreadable: args.skip_unreadable,
        owner: args.owner.clone(),
        ..SubscribeOptions::default()
    };
    let subscribed = async {
        Ok(match args.channel.name() {
            Some(name) => Reads::One(agent.subscribe_channel(&name, options).await?),
            None => Reads::Many(Box::new(agent.subscribe_pattern(&args.channel, options).await?)),
        })
    };
    let subscribed = tokio::select! {
        subscribed = subscribed => subscribed,
        () = signals.next() => {
            let what = format!("the node has not said that {} subscribes to {}", args.agent, args.channel);
            return Err(Failure::new(Exit::Unanswered, what, "run the command again"));
        }
    };
    let mut reads = subscribed.map_err(|error| channel_failure(&error))?;
    let mut unread = Unread::default();
    let printed = print_all(&mut reads, args, signals, &mut unread).await;
    tokio::select! {
        () = reads.leave() => {},
        () = signals.next() => *in_a_hurry = true,
    }
    printed?;
    unread.into_result()
}

/// Ends the subscription, or those to all channels that fit.
async fn unsubscribe(agent: &Agent, args: &SubArgs) -> Result<(), Failure> {
    let names = match args.channel.name() {
        Some(name) => vec![name],
        None => agent.list_channels(&args.channel).await.map_err(|error| channel_failure(&error))?,
    };
    for name in names {
        let ended = agent.unsubscribe_channel(&name, args.group.as_deref()).await;
        ended.map_err(|error| channel_failure(&error))?;
        unsubscribed(&name, args)?;
    }
    Ok(())
}

impl Reads {
    async fn next(&mut self) -> Result<Next, ChannelError> {
        match self {
            Self::One(subscription) => {
                let name = subscription.channel().clone();
                match subscription.next().await {
                    Some(Ok(message)) => Ok(Next::Message(name, Box::new(message))),
                    Some(Err(error)) if error.is_about_one_message() => Ok(Next::Unreadable(name, error)),
                    Some(Err(error)) => Err(error),
                    None => Ok(Next::End),
                }
            }
            Self::Many(subscription) => Ok(match subscription.next().await {
                Some(PatternEvent::Message { channel, message }) => Next::Message(channel, Box::new(message)),
                Some(PatternEvent::Unread { channel, error }) => Next::Unreadable(channel, error),
                Some(PatternEvent::Joined { channel }) => Next::Joined(channel),
                Some(PatternEvent::Left { channel, error }) => Next::Left(channel, error),
                Some(PatternEvent::Incomplete { error }) => Next::Incomplete(error),
                Some(_) => Next::Nothing,
                None => Next::End,
            }),
        }
    }

    /// What came and waits for its key.
    fn waiting(&self) -> Vec<(ChannelName, u64)> {
        let waiting = match self {
            Self::One(subscription) => vec![(subscription.channel().clone(), subscription.waiting())],
            Self::Many(subscription) => subscription.waiting(),
        };
        let each = |(name, sequences): (ChannelName, Vec<u64>)| {
            sequences.into_iter().map(move |sequence| (name.clone(), sequence)).collect::<Vec<_>>()
        };
        waiting.into_iter().flat_map(each).collect()
    }

    async fn leave(self) {
        match self {
            Self::One(subscription) => subscription.leave().await,
            Self::Many(subscription) => subscription.leave().await,
        }
    }
}

async fn print_all(
    reads: &mut Reads,
    args: &SubArgs,
    signals: &mut Signals,
    unread: &mut Unread,
) -> Result<(), Failure> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let wait = Duration::from_millis(args.wait);
    let mut last = Instant::now();
    while left > 0 {
        let next = next(reads, signals);
        let next = if args.follow { next.await } else { timeout(wait, next).await.unwrap_or(Ok(Next::Nothing)) };
        match next.map_err(|error| channel_failure(&error))? {
            Next::Message(channel, message) => {
                print(&channel, &message, args)?;
                // Only now: a message that could not be printed comes again.
                message.ack();
                unread.sequences.remove(&(channel, message.sequence));
                left -= 1;
            }
            Next::Unreadable(channel, error) => {
                print_unread(&channel, &error, args)?;
                unread.add(channel, &error, args);
            }
            Next::Joined(channel) => print_joined(&channel, args)?,
            Next::Left(channel, error) => print_left(&channel, &error, args)?,
            Next::Incomplete(error) => {
                print_incomplete(&error, args)?;
                // What passes is listed again.
                if matches!(error, ChannelError::TooMany { .. } | ChannelError::Mailbox(_)) {
                    unread.incomplete = Some(error);
                }
            }
            Next::Nothing => {
                // What came is printed, or it is said that it cannot be read; unless nothing is heard of it at all.
                let waits = reads.waiting().into_iter().find(|waiting| !unread.is_said(waiting));
                match waits {
                    Some(_) if last.elapsed() < args.key_wait.max(wait) + REPORT_GRACE => continue,
                    Some(waiting) if args.group.is_none() => drop(unread.sequences.insert(waiting)),
                    _ => {}
                }
                break;
            }
            Next::End => break,
        }
        last = Instant::now();
    }
    Ok(())
}

async fn next(reads: &mut Reads, signals: &mut Signals) -> Result<Next, ChannelError> {
    tokio::select! {
        // A message that is there is printed even when the signal came first: it is ours already.
        biased;
        next = reads.next() => next,
        () = signals.next() => Ok(Next::End),
    }
}

/// What came and was not printed.
#[derive(Default)]
struct Unread {
    /// At most as many as the subscriptions' windows allow: what lies behind comes when these are settled.
    sequences: BTreeSet<(ChannelName, u64)>,
    /// In a group: what was said lately and went back to the others.
    gave_back: BTreeSet<(ChannelName, u64)>,
    /// One of them does not hold; it is not only its key that is missing.
    is_wrong: bool,
    /// Why not all channels were read, the last time that it was said.
    incomplete: Option<ChannelError>,
}

impl Unread {
    fn add(&mut self, channel: ChannelName, error: &ChannelError, args: &SubArgs) {
        let which = error.sequence().map(|sequence| (channel, sequence));
        if args.group.is_some() {
            // It went back, and another member may read it; unless nobody can.
            self.is_wrong |= matches!(error, ChannelError::Unreadable { .. });
            self.gave_back.extend(which);
            if self.gave_back.len() > GAVE_BACK_MAX {
                self.gave_back.pop_first();
            }
        } else if !args.skip_unreadable {
            self.sequences.extend(which);
            self.is_wrong |= matches!(error, ChannelError::Unreadable { .. });
        }
    }

    fn is_said(&self, which: &(ChannelName, u64)) -> bool {
        self.sequences.contains(which) || self.gave_back.contains(which)
    }

    /// The status says it, unless it was asked for that these be passed over.
    fn into_result(self) -> Result<(), Failure> {
        let what = match self.sequences.len() {
            0 if self.is_wrong => "the group has messages that cannot be read".to_owned(),
            0 => return self.incomplete.map_or(Ok(()), |error| Err(channel_failure(&error))),
            1 => "the channel has 1 message that was not read".to_owned(),
            many => format!("the channel has {} messages that were not read", grouped(many as u64)),
        };
        let (exit, next) = match self.is_wrong {
            true => (Exit::Found, "look at who published them, then pass them over with --skip-unreadable"),
            false => {
                (Exit::Unanswered, "read again when their publishers run, or pass them over with --skip-unreadable")
            }
        };
        Err(Failure::new(exit, what, next))
    }
}

fn unsubscribed(channel: &ChannelName, args: &SubArgs) -> Result<(), Failure> {
    if args.json {
        let line = json!({ "unsubscribed": channel.as_str(), "group": args.group });
        writeln!(std::io::stdout().lock(), "{line}")?;
    } else {
        writeln!(stdout(), "{GOOD}unsubscribed{GOOD:#}  {STRONG}{channel}{STRONG:#}")?;
    }
    Ok(())
}

/// One line for machines, at once.
fn print_line(line: &serde_json::Value) -> std::io::Result<()> {
    let mut exact = std::io::stdout().lock();
    writeln!(exact, "{line}")?;
    exact.flush()
}

/// For people beside what they read, so that what is published stands alone.
fn print_joined(channel: &ChannelName, args: &SubArgs) -> std::io::Result<()> {
    if args.json {
        return print_line(&json!({ "channel": channel.as_str(), "joined": true }));
    }
    let _ = writeln!(anstream::stderr().lock(), "{DIM}reads {channel}{DIM:#}");
    Ok(())
}

fn print_left(channel: &ChannelName, error: &ChannelError, args: &SubArgs) -> std::io::Result<()> {
    if args.json {
        let code = error.code().map(creto_agent::RejectCode::as_u16);
        return print_line(&json!({ "channel": channel.as_str(), "left": error.to_string(), "code": code }));
    }
    let _ = writeln!(anstream::stderr().lock(), "{CAUTION}left{CAUTION:#}  {channel}: {error}");
    Ok(())
}

fn print_incomplete(error: &ChannelError, args: &SubArgs) -> std::io::Result<()> {
    if args.json {
        return print_line(&json!({ "pattern": args.channel.as_str(), "incomplete": error.to_string() }));
    }
    let _ = writeln!(anstream::stderr().lock(), "{CAUTION}incomplete{CAUTION:#}  {}: {error}", args.channel);
    Ok(())
}

fn print_unread(channel: &ChannelName, error: &ChannelError, args: &SubArgs) -> std::io::Result<()> {
    if !args.json {
        let which = if args.channel.name().is_some() { String::new() } else { format!("{channel}: ") };
        let _ = writeln!(anstream::stderr().lock(), "{CAUTION}unread{CAUTION:#}  {which}{error}");
        return Ok(());
    }
    let mut line = json!({
        "channel": channel.as_str(),
        "sequence": error.sequence(),
        "unread": error.to_string(),
        "code": error.code().map(creto_agent::RejectCode::as_u16),
    });
    if let ChannelError::NoKey { message_id, publisher, .. } = error {
        line["message_id"] = message_id.to_uuid_string().into();
        line["from"] = publisher.as_str().into();
    }
    print_line(&line)
}

fn print(channel: &ChannelName, message: &ChannelMessage, args: &SubArgs) -> std::io::Result<()> {
    // Written as it is: output that leaves out styles would leave out what looks like one in a message, too.
    let mut exact = std::io::stdout().lock();
    if args.json {
        let mut line = json!({
            "channel": channel.as_str(),
            "sequence": message.sequence,
            "message_id": message.message_id.to_uuid_string(),
            "from": message.publisher.as_str(),
            "timestamp_ms": message.timestamp_ms,
            "priority": format!("{:?}", message.priority).to_lowercase(),
            "attempt": message.attempt,
            "payload_bytes": message.payload.len(),
        });
        payload_as_json(&mut line, &message.payload);
        writeln!(exact, "{line}")?;
    } else {
        let (at, sequence, from) = (time(message.timestamp_ms), message.sequence, &message.publisher);
        match args.channel.name() {
            Some(_) => write!(stdout(), "{DIM}{at}  {sequence}{DIM:#}  {STRONG}{from}{STRONG:#}  ")?,
            None => write!(stdout(), "{DIM}{at}{DIM:#}  {channel} {DIM}{sequence}{DIM:#}  {STRONG}{from}{STRONG:#}  ")?,
        }
        writeln!(exact, "{}", shown_here(&message.payload))?;
    }
    exact.flush()
}
