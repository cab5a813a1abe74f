//! Signals: what is so just now, told to whoever listens, and stored nowhere. `docs/patterns.md` says what becomes of one.

use std::time::Duration;

use bytes::Bytes;
use creto_envelope::{AgentName, Priority};
use tokio::time::{Instant, timeout_at};

use crate::client::Agent;
use crate::clock;
use crate::error::{ReceiveError, SendError};
use crate::limits::SIGNAL_TTL;
use crate::receiver::signals::Signals;

pub use creto_envelope::limits::{SIGNAL_PLAINTEXT_BYTES_MAX, SIGNAL_TTL_S_MAX};
pub use creto_envelope::signal::{WorkState, Working};

/// How a signal is sent. `SignalOptions::default()` is the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalOptions {
    /// How long it means something, to the second: 1 to 60. Default 10 s.
    pub ttl: Duration,
    /// How urgent it is. Signals have no order among messages; policy may bind a sender to some priorities.
    pub priority: Priority,
}

impl Default for SignalOptions {
    fn default() -> Self {
        Self { ttl: SIGNAL_TTL, priority: Priority::Normal }
    }
}

impl Agent {
    /// Tells an agent what is so just now, such as "working on it". Nobody stores it: the recipient has it if it listens
    /// ([`signals`](Self::signals)) at this moment and keeps up, and else nobody ever does. `Ok` says that the node took it, which
    /// **says nothing about whether anybody had it**, or is there. At most [`SIGNAL_PLAINTEXT_BYTES_MAX`] bytes.
    ///
    /// It is sealed and signed like a message and policy decides about it like about one, but it is in no order with messages, waits
    /// for none of them, and is in no session: it is sealed to the key of the recipient's record.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/node.rs"));
    /// # fn main() -> Result<(), Box<dyn Error>> { with_node(async |node| {
    /// # use std::time::Duration;
    /// # use creto_agent::{WorkState, Working};
    /// # let agent = node.connect("planner").await?;
    /// # let worker = agent.name().clone();
    /// let mut signals = agent.signals()?; // asks the node for them
    /// let working = Working { state: WorkState::Working, about: None, note: "2 of 3".to_owned() };
    /// # loop {
    /// agent.signal_working(&worker, &working, Duration::from_secs(5)).await?;
    /// # // It may have been faster than the question for signals.
    /// # if tokio::time::timeout(Duration::from_millis(100), signals.next()).await.is_ok() { break; }
    /// # }
    /// # agent.signal(&worker, "my own").await?;
    /// let signal = signals.next().await.expect("the agent is not closed");
    /// println!("{} says {:?}", signal.from, signal.working());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`SendError`]. It is never sent again: [`SendError::SignalDropped`] without a connection, and where 64 are on their way.
    pub async fn signal(&self, to: &AgentName, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.signal_with(to, payload, SignalOptions::default()).await
    }

    /// As [`signal`](Self::signal), sent otherwise.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn signal_with(
        &self,
        to: &AgentName,
        payload: impl Into<Bytes>,
        options: SignalOptions,
    ) -> Result<(), SendError> {
        let (message_id, payload) = (clock::new_message_id(), payload.into());
        let after = options.ttl.min(Duration::from_secs(SIGNAL_TTL_S_MAX.into()));
        let at = Instant::now() + after;
        let sent = async { self.submitter().signal(message_id, to, payload, options).await?.await.map(drop) };
        // Later nobody wants it.
        timeout_at(at, sent).await.unwrap_or(Err(SendError::TimedOut { message_id, after }))
    }

    /// Tells an agent what this one is doing, for so long. Say it again before that is over while it is so.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn signal_working(&self, to: &AgentName, working: &Working, ttl: Duration) -> Result<(), SendError> {
        self.signal_with(to, working.to_bytes(), SignalOptions { ttl, ..SignalOptions::default() }).await
    }

    /// Signals for this agent, from now on. The node pushes them to the one process that receives; that is this one from now on, also
    /// where nobody reads its mailbox. What is not read in time is dropped, the oldest first, and counted
    /// ([`Stats::signals_dropped`](crate::Stats::signals_dropped)). A node that is older than this knows no signals, and ends the connection
    /// of whoever asks for some.
    ///
    /// # Errors
    /// [`ReceiveError::AlreadySubscribed`] while there is one.
    pub fn signals(&self) -> Result<Signals, ReceiveError> {
        self.inbox().listen()
    }
}
