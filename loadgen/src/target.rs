//! The systems that a run can drive, and what each of them cannot do.
//!
//! A run knows no system: it has a plan, a clock, histograms and a verdict. What differs is behind [`Cast`] (who takes part, and how
//! they read) and [`Line`] (what a sender hands its messages to). Another system is another pair of these.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use creto_agent::{AgentId, BatchOptions, Delivery, NodeCertificate, Stats, TreeDigest, TrustDomain};
use creto_envelope::MessageId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::arrival::Planned;
use crate::ledger::LedgerWriter;
use crate::mix::PriorityMix;
use crate::nats::NatsServer;
use crate::options::RunOptions;
use crate::state::{Run, Told};

/// The system that is driven.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Target {
    /// A creto node.
    Creto(CretoNode),
    /// A NATS server with JetStream.
    Nats(NatsServer),
}

impl Target {
    /// The name, as a report has it.
    #[must_use]
    pub fn system(&self) -> &'static str {
        match self {
            Self::Creto(_) => "creto",
            Self::Nats(_) => "nats-jetstream",
        }
    }

    /// What is broken by options that this system has nothing for, each with why.
    pub(crate) fn rules(&self, options: &RunOptions) -> Vec<(bool, String)> {
        let Self::Nats(_) = self else { return Vec::new() };
        let without = |is_broken: bool, text: &str| (is_broken, text.to_owned());
        vec![
            without(options.priorities != PriorityMix::default(), "JetStream has no priorities: leave out --priority"),
            without(
                options.batch != BatchOptions::default(),
                "a JetStream client sends each message by itself: leave out --batch and --batch-age",
            ),
            without(
                options.ledger.is_some(),
                "a ledger names messages as a creto node does, and is read back there: leave out --ledger",
            ),
            without(
                options.churn.is_some(),
                "JetStream gives what somebody left unacknowledged again only after a wait (ack_wait): leave out --churn",
            ),
        ]
    }
}

/// A creto node, and the names that its agents get.
#[derive(Clone, Debug)]
pub struct CretoNode {
    /// Its UDP address.
    pub address: SocketAddr,
    /// Its certificate.
    pub certificate: NodeCertificate,
    /// Organization of the agents' names. Default `bench`.
    pub organization: String,
    /// Trust domain of the agents' names.
    pub trust_domain: TrustDomain,
    /// How long a silent node counts as alive, for each agent. Default 2 s.
    pub idle_timeout: Duration,
    /// Hash of the tree under each batch signature, as the node demands it. Default SHA-256.
    pub tree_digest: TreeDigest,
}

impl CretoNode {
    /// With the usual values.
    #[must_use]
    pub fn new(address: SocketAddr, certificate: NodeCertificate) -> Self {
        Self {
            address,
            certificate,
            organization: "bench".to_owned(),
            trust_domain: TrustDomain::default(),
            idle_timeout: Duration::from_secs(2),
            tree_digest: TreeDigest::default(),
        }
    }
}

/// What a sender hands its messages to, one for each connection that sends.
pub(crate) trait Line: Send + 'static {
    /// A message whose answer is not there yet.
    type Answer: Send + 'static;

    /// Hands a message to a mailbox or into a channel over. It is not ready only while the system lets it wait for a place in flight.
    fn submit(&mut self, planned: &Planned, payload: Bytes) -> impl Future<Output = Result<Self::Answer, Told>> + Send;

    /// Waits for the word that the message is accepted, as durable as the system makes it; the message's id where it has one.
    fn answer(answer: Self::Answer) -> impl Future<Output = Result<Option<MessageId>, Told>> + Send;

    /// Sends a request and waits for its answer.
    fn request(&mut self, planned: &Planned, payload: Bytes) -> impl Future<Output = Told> + Send + 'static;
}

/// Everybody of a run, connected.
pub(crate) trait Cast {
    type Line: Line;
    /// What is left when everybody has ended.
    type Left;

    /// Those that send, lane by lane; none where the system does not tell who sent a message.
    fn sender_ids(&self) -> Vec<AgentId>;

    /// What each sender hands its messages to, lane by lane; asked for once.
    fn lines(&mut self) -> Vec<Self::Line>;

    /// Has everybody read who is to read, until it is over.
    fn read(self, readers: &mut Readers<'_>) -> Self::Left;

    /// Ends the connections of those that sent, and takes away what the run has left in the system, as far as it can be; what the SDK
    /// counted for each, where there is one that counts.
    fn close(left: Self::Left) -> impl Future<Output = Vec<Stats>>;
}

/// What all receivers are told.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    /// Whether they may begin.
    pub(crate) open: watch::Receiver<bool>,
    /// Whether it is over.
    pub(crate) over: watch::Receiver<bool>,
}

/// Where those that read are started.
pub(crate) struct Readers<'a> {
    pub(crate) run: &'a Arc<Run>,
    pub(crate) options: &'a RunOptions,
    pub(crate) signals: Signals,
    pub(crate) delivered: Option<&'a LedgerWriter<Delivery>>,
    pub(crate) tasks: JoinSet<Vec<Stats>>,
}

impl Readers<'_> {
    /// What the consumer at this place takes for each message.
    pub(crate) fn pause(&self, place: usize) -> Option<Duration> {
        let whole = self.options.whole_shape();
        let consumers = whole.receivers + whole.channels * whole.subscribers;
        pause_of(self.options.place_of(place), consumers, self.options.slow_consumers, self.options.slow_by)
    }
}

/// Waits as long as a slow consumer takes. True: the run is over, and nobody waits any longer.
pub(crate) async fn is_over_after(pause: Option<Duration>, over: &mut watch::Receiver<bool>) -> bool {
    match pause {
        None => false,
        Some(pause) => tokio::time::timeout(pause, over.wait_for(|over| *over)).await.is_ok(),
    }
}

/// The members whose places are the last so many take their time.
fn pause_of(place: usize, count: usize, slow: usize, by: Duration) -> Option<Duration> {
    (place + slow >= count).then_some(by)
}
