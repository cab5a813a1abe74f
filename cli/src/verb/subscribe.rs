//! `creto sub`: prints what is published in a channel, and acknowledges each message once it is printed.

use std::io::Write;
use std::time::Duration;

use creto_agent::channel::Start;
use creto_agent::{Agent, ChannelError, ChannelMessage, ChannelSubscription, SubscribeOptions};
use serde_json::json;

use crate::args::Global;
use crate::args::pubsub::SubArgs;
use crate::client::{block_on, channel_failure, connect_with};
use crate::exit::{Exit, Failure};
use crate::moment::time;
use crate::terminal::{CAUTION, DIM, GOOD, STRONG, stdout};
use crate::verb::recv::{Signals, payload_as_json, shown_here};

/// Why the command goes on or ends.
enum Next {
    Message(Box<ChannelMessage>),
    /// One that cannot be read.
    Unreadable(ChannelError),
    /// Nothing came in time, or Ctrl-C.
    End,
}

pub(crate) fn run(global: &Global, args: &SubArgs) -> Result<Exit, Failure> {
    block_on(subscribe(global, args))
}

async fn subscribe(global: &Global, args: &SubArgs) -> Result<Exit, Failure> {
    let agent = connect_with(global, &args.reach, &args.agent, |options| options.prekeys = args.prekeys.into()).await?;
    let done = read(&agent, args).await;
    // In every case: what was printed is acknowledged before the connection ends.
    agent.close().await;
    done?;
    Ok(Exit::Ok)
}

async fn read(agent: &Agent, args: &SubArgs) -> Result<(), Failure> {
    let key_wait = args.key_wait.unwrap_or_else(|| match args.follow {
        true => SubscribeOptions::default().key_wait,
        // A message without a key is to be heard of before nothing more is waited for.
        false => Duration::from_millis(args.wait) / 2,
    });
    let options = SubscribeOptions {
        start: args.from.unwrap_or(Start::GoOn),
        group: args.group.clone(),
        key_wait,
        skip_unreadable: args.skip_unreadable,
        owner: args.owner.clone(),
        ..SubscribeOptions::default()
    };
    let mut signals = Signals::catch()?;
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
    let mut subscription = tokio::select! {
        subscribed = agent.subscribe_channel(&args.channel, options) => subscribed.map_err(|error| channel_failure(&error))?,
        () = signals.next() => return Ok(()),
    };
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let next = next(&mut subscription, &mut signals);
        let next = if args.follow {
            next.await
        } else {
            tokio::time::timeout(Duration::from_millis(args.wait), next).await.unwrap_or(Ok(Next::End))
        };
        match next.map_err(|error| channel_failure(&error))? {
            Next::Message(message) => {
                print(&message, args)?;
                // Only now: a message that could not be printed comes again.
                message.ack();
                left -= 1;
            }
            Next::Unreadable(error) => print_unreadable(&error, args)?,
            Next::End => break,
        }
    }
    subscription.leave().await;
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

/// Says that a message cannot be read, to whoever reads the messages.
fn print_unreadable(error: &ChannelError, args: &SubArgs) -> std::io::Result<()> {
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
