//! Reading all channels whose names fit a pattern, those that come later too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::pin::Pin;
use std::task::{Context, Poll};

use creto_envelope::RejectCode;
use creto_envelope::channel::frames::Start;
use creto_envelope::channel::{ChannelName, ChannelPattern};
use creto_envelope::limits::CHANNEL_SUBSCRIPTIONS_MAX;
use futures_core::Stream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{ChannelError, ChannelMessage, ChannelSubscription, SubscribeOptions};
use crate::client::Agent;
use crate::clock;
use crate::limits::{
    CHANNEL_ATTACH_TIMEOUT, CHANNEL_JOINS_AT_A_TIME, CHANNEL_LIST_PAUSE, CHANNEL_LIST_SPREAD, REFUSED_PAUSE_MAX,
    REFUSED_PAUSE_MIN,
};

/// What a [`PatternSubscription`] has to say.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PatternEvent {
    /// This channel is read from now on.
    Joined {
        /// The channel.
        channel: ChannelName,
    },
    /// A message of one of the channels.
    Message {
        /// The channel.
        channel: ChannelName,
        /// The message, to be acknowledged like any.
        message: ChannelMessage,
    },
    /// A message of one of the channels cannot be read. The subscription goes on.
    Unread {
        /// The channel.
        channel: ChannelName,
        /// Why; it says which message.
        error: ChannelError,
    },
    /// This channel is not read any more, or cannot be. It is joined again when the node says that something has changed, unless another
    /// process of this agent has taken it over.
    Left {
        /// The channel.
        channel: ChannelName,
        /// Why.
        error: ChannelError,
    },
    /// Not all channels that fit are read: the node could not say which these are, or there are more than an agent may read.
    Incomplete {
        /// Why.
        error: ChannelError,
    },
}

/// All channels whose names fit a pattern, as one stream. Each channel keeps its own order; there is none between channels.
///
/// Dropped, it leaves all of them; the subscriptions stay at the node. As long as there is one, the agent stays connected.
pub struct PatternSubscription {
    agent: Agent,
    pattern: ChannelPattern,
    options: SubscribeOptions,
    /// A listing that is under way, or the wait for the next; and channels that are being joined.
    tasks: JoinSet<Done>,
    to_join: VecDeque<ChannelName>,
    joining: BTreeSet<ChannelName>,
    /// Channels that could not be joined for now, and are tried again after a pause.
    paused: BTreeSet<ChannelName>,
    subscriptions: BTreeMap<ChannelName, ChannelSubscription>,
    /// Channels that were read already, each with whether it may be again.
    before: BTreeMap<ChannelName, bool>,
    /// Behind which the next message is looked for, so that a busy channel does not keep the others waiting.
    last: Option<ChannelName>,
    events: VecDeque<PatternEvent>,
    is_first: bool,
    /// The last listing failed.
    has_failed: bool,
    has_ended: bool,
}

enum Done {
    Listed(watch::Receiver<u64>, Result<Vec<ChannelName>, ChannelError>),
    Joined(ChannelName, Box<Result<ChannelSubscription, ChannelError>>),
    Paused(ChannelName),
}

impl Agent {
    /// The names of all channels that fit the pattern and that this agent may subscribe to, in the order of the alphabet.
    ///
    /// # Errors
    /// [`ChannelError`]: nobody knows which these are.
    pub async fn list_channels(&self, pattern: &ChannelPattern) -> Result<Vec<ChannelName>, ChannelError> {
        self.listings().list(pattern, false).await
    }

    /// Subscribes to all channels that fit the pattern and that this agent may subscribe to: those that there are, which it has joined
    /// when this returns, and from then on those that come. A channel that comes later is read from its oldest message on where its owner
    /// lets newcomers read what was before them, unless `options` say from which time or sequence.
    ///
    /// An agent reads at most [`CHANNEL_SUBSCRIPTIONS_MAX`] channels at a time; where there are more,
    /// [`PatternEvent::Incomplete`] says so, and those first in the alphabet are read.
    ///
    /// # Errors
    /// [`ChannelError`]: the node has not said which channels there are.
    pub async fn subscribe_pattern(
        &self,
        pattern: &ChannelPattern,
        options: SubscribeOptions,
    ) -> Result<PatternSubscription, ChannelError> {
        let mut changes = self.listings().changes();
        changes.borrow_and_update();
        let names = self.listings().list(pattern, true).await?;
        let mut subscription = PatternSubscription {
            agent: self.clone(),
            pattern: pattern.clone(),
            options,
            tasks: JoinSet::new(),
            to_join: VecDeque::new(),
            joining: BTreeSet::new(),
            paused: BTreeSet::new(),
            subscriptions: BTreeMap::new(),
            before: BTreeMap::new(),
            last: None,
            events: VecDeque::new(),
            is_first: true,
            has_failed: false,
            has_ended: false,
        };
        subscription.listed(changes, Ok(names));
        std::future::poll_fn(|context| subscription.poll_joined(context)).await;
        subscription.is_first = false;
        Ok(subscription)
    }
}

impl PatternSubscription {
    /// The pattern.
    #[must_use]
    pub fn pattern(&self) -> &ChannelPattern {
        &self.pattern
    }

    /// The channels that are read now.
    pub fn channels(&self) -> impl Iterator<Item = &ChannelName> {
        self.subscriptions.keys()
    }

    /// What comes next, waiting for it, over reconnects too. `None` when the agent was closed, or gave up on the node; and behind
    /// [`PatternEvent::Incomplete`] with [`ChannelError::Mailbox`], when another process of this agent reads its mailbox. Cancel-safe.
    pub async fn next(&mut self) -> Option<PatternEvent> {
        std::future::poll_fn(|context| self.poll_event(context)).await
    }

    /// Acknowledges a message that could not be shown ([`PatternEvent::Unread`]), as [`ChannelSubscription::skip`] does.
    pub fn skip(&self, channel: &ChannelName, sequence: u64) -> bool {
        self.subscriptions.get(channel).is_some_and(|subscription| subscription.skip(sequence))
    }

    /// As [`ChannelSubscription::waiting`], of each channel.
    #[must_use]
    pub fn waiting(&self) -> Vec<(ChannelName, Vec<u64>)> {
        let waiting = self.subscriptions.iter().map(|(name, subscription)| (name.clone(), subscription.waiting()));
        waiting.filter(|(_, sequences)| !sequences.is_empty()).collect()
    }

    /// Stops reading all channels, after the last acknowledgements. The subscriptions stay at the node and go on where they were.
    pub async fn leave(mut self) {
        self.tasks.shutdown().await;
        let mut leaving = JoinSet::new();
        for (_, subscription) in std::mem::take(&mut self.subscriptions) {
            leaving.spawn(subscription.leave());
        }
        leaving.join_all().await;
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<PatternEvent>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            let has_done = self.poll_tasks(context).is_ready();
            if !self.events.is_empty() {
                continue;
            }
            if let Some(event) = self.poll_channels(context) {
                return Poll::Ready(Some(event));
            }
            if !has_done {
                return Poll::Pending;
            }
        }
    }

    /// Until everything that was listed is joined, or cannot be.
    fn poll_joined(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.joining.is_empty() && !self.has_ended {
            std::task::ready!(self.poll_tasks(context));
        }
        Poll::Ready(())
    }

    fn poll_tasks(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match std::task::ready!(self.tasks.poll_join_next(context)) {
            Some(Ok(Done::Listed(changes, listed))) => self.listed(changes, listed),
            Some(Ok(Done::Joined(name, joined))) => self.joined(name, *joined),
            Some(Ok(Done::Paused(name))) => {
                self.paused.remove(&name);
                self.to_join.push_back(name);
                self.join_more();
            }
            // Nobody aborts a task but whoever leaves, so that it has panicked; or the runtime ends.
            Some(Err(_)) | None => self.has_ended = true,
        }
        Poll::Ready(())
    }

    /// A listing came; looks for the next when there may be another answer.
    fn listed(&mut self, mut changes: watch::Receiver<u64>, listed: Result<Vec<ChannelName>, ChannelError>) {
        // The node says nothing of what it has not listed.
        let (mut lists_again, mut is_unsupported) = (false, false);
        let had_failed = std::mem::replace(&mut self.has_failed, listed.is_err());
        match listed {
            Ok(names) => {
                self.to_join.clear();
                let mut left_out = false;
                let mut read = self.subscriptions.len() + self.joining.len() + self.paused.len();
                for name in names {
                    let is_there = self.subscriptions.contains_key(&name)
                        || self.joining.contains(&name)
                        || self.paused.contains(&name);
                    if is_there || self.before.get(&name) == Some(&false) {
                        continue;
                    }
                    if read >= CHANNEL_SUBSCRIPTIONS_MAX {
                        left_out = true;
                        break;
                    }
                    read += 1;
                    self.to_join.push_back(name);
                }
                if left_out {
                    let error = ChannelError::TooMany { most: CHANNEL_SUBSCRIPTIONS_MAX };
                    self.events.push_back(PatternEvent::Incomplete { error });
                }
                self.join_more();
            }
            Err(ChannelError::Closed | ChannelError::Disconnected(_)) => {
                self.has_ended = true;
                return;
            }
            Err(error) => {
                is_unsupported = matches!(error, ChannelError::Unsupported);
                lists_again = !is_unsupported;
                if !had_failed {
                    self.events.push_back(PatternEvent::Incomplete { error });
                }
            }
        }
        let (agent, pattern) = (self.agent.clone(), self.pattern.clone());
        self.tasks.spawn(async move {
            if is_unsupported {
                // A node that knows no such question ends the connection over each, and with it all else that this agent does.
                std::future::pending::<()>().await;
            }
            // An error means that the agent is gone, which the listing says, too.
            if lists_again {
                let _ = timeout(CHANNEL_LIST_PAUSE, changes.changed()).await;
            } else {
                let _ = changes.changed().await;
            }
            let share = u32::from(u16::from_le_bytes(clock::random()));
            sleep(CHANNEL_LIST_SPREAD * share / u32::from(u16::MAX)).await;
            changes.borrow_and_update();
            let listed = agent.listings().list(&pattern, true).await;
            Done::Listed(changes, listed)
        });
    }

    fn join_more(&mut self) {
        while self.joining.len() < CHANNEL_JOINS_AT_A_TIME
            && let Some(name) = self.to_join.pop_front()
        {
            let mut options = self.options.clone();
            let was_read = self.before.contains_key(&name);
            if was_read {
                options.start = Start::GoOn;
            }
            let is_late = !self.is_first && !was_read;
            self.joining.insert(name.clone());
            self.tasks.spawn(join(self.agent.clone(), name, options, is_late));
        }
    }

    fn joined(&mut self, name: ChannelName, joined: Result<ChannelSubscription, ChannelError>) {
        self.joining.remove(&name);
        match joined {
            Ok(subscription) => {
                self.before.insert(name.clone(), true);
                self.subscriptions.insert(name.clone(), subscription);
                self.events.push_back(PatternEvent::Joined { channel: name });
            }
            // It has gone since it was listed, or this agent may not any more.
            Err(ChannelError::Unknown { .. } | ChannelError::NotAllowed { .. }) => {}
            Err(error) => {
                if error.is_retryable() {
                    self.paused.insert(name.clone());
                    let paused = name.clone();
                    self.tasks.spawn(async move {
                        sleep(CHANNEL_LIST_PAUSE).await;
                        Done::Paused(paused)
                    });
                }
                self.events.push_back(PatternEvent::Left { channel: name, error });
            }
        }
        self.join_more();
    }

    /// What the first channel that has something has, beginning behind the one that had something last.
    fn poll_channels(&mut self, context: &mut Context<'_>) -> Option<PatternEvent> {
        let behind = match &self.last {
            Some(last) => Bound::Excluded(last),
            None => Bound::Unbounded,
        };
        let mut shows =
            |(name, subscription): (&ChannelName, &mut ChannelSubscription)| match subscription.poll_message(context) {
                Poll::Ready(shown) => Some((name.clone(), shown)),
                Poll::Pending => None,
            };
        let first = self.subscriptions.range_mut((behind, Bound::Unbounded)).find_map(&mut shows);
        let first = match (first, &self.last) {
            (None, Some(last)) => self.subscriptions.range_mut(..=last).find_map(&mut shows),
            (first, _) => first,
        };
        let (channel, shown) = first?;
        self.last = Some(channel.clone());
        Some(match shown {
            Some(Ok(message)) => PatternEvent::Message { channel, message },
            Some(Err(error)) if error.is_about_one_message() => PatternEvent::Unread { channel, error },
            left => {
                let error = left.and_then(Result::err).unwrap_or(ChannelError::Closed);
                // Keys come to the mailbox, which another process of this agent reads now, or which cannot be used: nothing that is
                // published from now on can be read here. Joining again would take it back, and so on for ever.
                if matches!(error, ChannelError::Mailbox(_)) {
                    self.has_ended = true;
                    self.subscriptions.clear();
                    self.tasks.abort_all();
                    return Some(PatternEvent::Incomplete { error });
                }
                // Two processes would take it from each other for ever.
                let is_taken = error.code() == Some(RejectCode::SubscriptionReplaced);
                self.before.insert(channel.clone(), !is_taken);
                self.subscriptions.remove(&channel);
                PatternEvent::Left { channel, error }
            }
        })
    }
}

/// Joins a channel, as often as the node says that it cannot be now, for so long: others wait behind it.
async fn join(agent: Agent, name: ChannelName, options: SubscribeOptions, is_late: bool) -> Done {
    let until = Instant::now() + CHANNEL_ATTACH_TIMEOUT;
    let mut pause = REFUSED_PAUSE_MIN;
    loop {
        let joined = timeout_at(until, try_to_join(&agent, &name, options.clone(), is_late)).await;
        match joined.unwrap_or(Err(ChannelError::TimedOut)) {
            Err(error) if error.is_retryable() && Instant::now() + pause < until => {
                tracing::debug!(%name, %error, "not joined yet");
            }
            joined => return Done::Joined(name, Box::new(joined)),
        }
        sleep(pause).await;
        pause = (pause * 2).min(REFUSED_PAUSE_MAX);
    }
}

async fn try_to_join(
    agent: &Agent,
    name: &ChannelName,
    mut options: SubscribeOptions,
    is_late: bool,
) -> Result<ChannelSubscription, ChannelError> {
    // It was made, or allowed, while this agent waited for it: nothing is to be missed that its owner lets newcomers read.
    if is_late && matches!(options.start, Start::GoOn | Start::Now) {
        let record = agent.records().fetch(name, agent.trust_domain()).await?;
        if record.has_history {
            options.start = Start::Oldest;
        }
    }
    agent.subscribe_channel(name, options).await
}

impl Stream for PatternSubscription {
    type Item = PatternEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<PatternEvent>> {
        self.poll_event(context)
    }
}

impl fmt::Debug for PatternSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channels: Vec<_> = self.channels().map(ChannelName::as_str).collect();
        f.debug_struct("PatternSubscription")
            .field("pattern", &self.pattern.as_str())
            .field("channels", &channels)
            .finish()
    }
}
