//! `creto sub`: prints what is published in a channel, and acknowledges each message once it is printed. What cannot be read is said,
//! and the status says that there was such a message.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use creto_agent::channel::Start;
use creto_agent::{Agent, ChannelError, ChannelMessage, ChannelSubscription, SubscribeOptions};
use serde_json::json;
use tokio::time::timeout;

use crate::args::Global;
use crate::args::pubsub::SubArgs;
use crate::client::{block_on, channel_failure, connect_with};
use crate::exit::{Exit, Failure};
use crate::moment::time;
use crate::terminal::{CAUTION, DIM, GOOD, STRONG, grouped, stdout};
use crate::verb::recv::{Signals, payload_as_json, shown_here};

/// How long what waits for its key is waited for beyond the time in which that is said.
const REPORT_GRACE: Duration = Duration::from_secs(2);

/// What went back to a group's other members and is remembered, so that it is not waited for when it comes again.
const GAVE_BACK_MAX: usize = 1_024;

/// Why the command goes on or ends.
enum Next {
    Message(Box<ChannelMessage>),
    /// One that cannot be read.
    Unreadable(ChannelError),
    /// Nothing came in time.
    Nothing,
    /// Ctrl-C, or nothing comes any more.
    End,
}

pub(crate) fn run(global: &Global, args: &SubArgs) -> Result<Exit, Failure> {
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
            ended = agent.unsubscribe_channel(&args.channel, args.group.as_deref()) => {
                ended.map_err(|error| channel_failure(&error))?;
                unsubscribed(args)
            }
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
    let subscribed = tokio::select! {
        subscribed = agent.subscribe_channel(&args.channel, options) => subscribed,
        () = signals.next() => {
            let what = format!("the node has not said that {} subscribes to {}", args.agent, args.channel);
            return Err(Failure::new(Exit::Unanswered, what, "run the command again"));
        }
    };
    let mut subscription = subscribed.map_err(|error| channel_failure(&error))?;
    let mut unread = Unread::default();
    let printed = print_all(&mut subscription, args, signals, &mut unread).await;
    tokio::select! {
        () = subscription.leave() => {},
        () = signals.next() => *in_a_hurry = true,
    }
    printed?;
    unread.into_result()
}

async fn print_all(
    subscription: &mut ChannelSubscription,
    args: &SubArgs,
    signals: &mut Signals,
    unread: &mut Unread,
) -> Result<(), Failure> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let wait = Duration::from_millis(args.wait);
    let mut last = Instant::now();
    while left > 0 {
        let next = next(subscription, signals);
        let next = if args.follow { next.await } else { timeout(wait, next).await.unwrap_or(Ok(Next::Nothing)) };
        match next.map_err(|error| channel_failure(&error))? {
            Next::Message(message) => {
                print(&message, args)?;
                // Only now: a message that could not be printed comes again.
                message.ack();
                unread.sequences.remove(&message.sequence);
                left -= 1;
            }
            Next::Unreadable(error) => {
                print_unread(&error, args)?;
                unread.add(&error, args);
            }
            Next::Nothing => {
                // What came is printed, or it is said that it cannot be read; unless nothing is heard of it at all.
                let waits = subscription.waiting().into_iter().find(|sequence| !unread.is_said(*sequence));
                match waits {
                    Some(_) if last.elapsed() < args.key_wait.max(wait) + REPORT_GRACE => continue,
                    Some(sequence) if args.group.is_none() => drop(unread.sequences.insert(sequence)),
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

async fn next(subscription: &mut ChannelSubscription, signals: &mut Signals) -> Result<Next, ChannelError> {
    tokio::select! {
        // A message that is there is printed even when the signal came first: it is ours already.
        biased;
        message = subscription.next() => match message {
            Some(Ok(message)) => Ok(Next::Message(Box::new(message))),
            Some(Err(error)) if error.is_about_one_message() => Ok(Next::Unreadable(error)),
            Some(Err(error)) => Err(error),
            None => Ok(Next::End),
        },
        () = signals.next() => Ok(Next::End),
    }
}

/// What came and was not printed.
#[derive(Default)]
struct Unread {
    /// At most as many as the subscription's window allows: what lies behind comes when these are settled.
    sequences: BTreeSet<u64>,
    /// In a group: what was said lately and went back to the others.
    gave_back: BTreeSet<u64>,
    /// One of them does not hold; it is not only its key that is missing.
    is_wrong: bool,
}

impl Unread {
    fn add(&mut self, error: &ChannelError, args: &SubArgs) {
        if args.group.is_some() {
            // It went back, and another member may read it; unless nobody can.
            self.is_wrong |= matches!(error, ChannelError::Unreadable { .. });
            self.gave_back.extend(error.sequence());
            if self.gave_back.len() > GAVE_BACK_MAX {
                self.gave_back.pop_first();
            }
        } else if !args.skip_unreadable {
            self.sequences.extend(error.sequence());
            self.is_wrong |= matches!(error, ChannelError::Unreadable { .. });
        }
    }

    fn is_said(&self, sequence: u64) -> bool {
        self.sequences.contains(&sequence) || self.gave_back.contains(&sequence)
    }

    /// The status says it, unless it was asked for that these be passed over.
    fn into_result(self) -> Result<(), Failure> {
        let what = match self.sequences.len() {
            0 if self.is_wrong => "the group has messages that cannot be read".to_owned(),
            0 => return Ok(()),
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

fn unsubscribed(args: &SubArgs) -> Result<(), Failure> {
    let channel = &args.channel;
    if args.json {
        let line = json!({ "unsubscribed": channel.as_str(), "group": args.group });
        writeln!(std::io::stdout().lock(), "{line}")?;
    } else {
        writeln!(stdout(), "{GOOD}unsubscribed{GOOD:#}  {STRONG}{channel}{STRONG:#}")?;
    }
    Ok(())
}

fn print_unread(error: &ChannelError, args: &SubArgs) -> std::io::Result<()> {
    if !args.json {
        let _ = writeln!(anstream::stderr().lock(), "{CAUTION}unread{CAUTION:#}  {error}");
        return Ok(());
    }
    let mut line = json!({
        "channel": args.channel.as_str(),
        "sequence": error.sequence(),
        "unread": error.to_string(),
        "code": error.code().map(creto_agent::RejectCode::as_u16),
    });
    if let ChannelError::NoKey { message_id, publisher, .. } = error {
        line["message_id"] = message_id.to_uuid_string().into();
        line["from"] = publisher.as_str().into();
    }
    let mut exact = std::io::stdout().lock();
    writeln!(exact, "{line}")?;
    exact.flush()
}

fn print(message: &ChannelMessage, args: &SubArgs) -> std::io::Result<()> {
    // Written as it is: output that leaves out styles would leave out what looks like one in a message, too.
    let mut exact = std::io::stdout().lock();
    if args.json {
        let mut line = json!({
            "channel": args.channel.as_str(),
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
        write!(stdout(), "{DIM}{at}  {sequence}{DIM:#}  {STRONG}{from}{STRONG:#}  ")?;
        writeln!(exact, "{}", shown_here(&message.payload))?;
    }
    exact.flush()
}
