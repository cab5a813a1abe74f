//! What a run does, and which of it goes together.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use creto_agent::channel::SignedChannelRecord;
use creto_agent::{
    BatchOptions, ChannelError, ConnectError, KeysError, NodeCertificate, ReceiveError, SignedKeyRecord,
};
use creto_envelope::limits::BATCH_MESSAGES_MAX;
use thiserror::Error;

use crate::arrival::{Arrival, Ways, Workload, seed_of};
use crate::ledger::LedgerError;
use crate::limits::{
    AGENTS_MAX, BATCH_AGE_MAX, CLOSED_LOOP_MAX, CONNECTIONS_MAX, DRAIN_TIMEOUT, MESSAGES_MAX, PAYLOAD_BYTES_MAX,
    PAYLOAD_BYTES_MIN, PROCESSES_MAX, RUN_TIME_MAX, TALLY_BITS_MAX,
};
use crate::mix::{PriorityMix, SizeMix, Targets};
use crate::nats::NatsError;
use crate::share::Share;
use crate::target::{CretoNode, Target};

/// What is sent to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scenario {
    /// Each sender writes to a mailbox of its own; with a skew, to all of them.
    Direct,
    /// Many senders write to few mailboxes.
    FanIn,
    /// What is published in one channel goes to many subscribers.
    FanOut,
    /// Each publisher has a channel of its own, with its own subscribers.
    Channel,
    /// A request and its answer.
    Request,
    /// Of ten messages seven to mailboxes, two into a channel, and one request.
    Mixed,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Direct, Self::FanIn, Self::FanOut, Self::Channel, Self::Request, Self::Mixed];

    /// The name, as on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::FanIn => "fan-in",
            Self::FanOut => "fan-out",
            Self::Channel => "channel",
            Self::Request => "request",
            Self::Mixed => "mixed",
        }
    }

    fn ways(self) -> Ways {
        match self {
            Self::Direct | Self::FanIn => Ways::DIRECT,
            Self::FanOut | Self::Channel => Ways::PUBLISH,
            Self::Request => Ways::REQUEST,
            Self::Mixed => Ways::MIXED,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name).ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            format!("`{name}` is none of {all}")
        })
    }
}

/// What the caller makes known to the node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Registration {
    /// An agent.
    Agent(Box<SignedKeyRecord>),
    /// A channel.
    Channel(Box<SignedChannelRecord>),
}

/// What a function of the caller's may fail with.
pub type RegisterError = Box<dyn Error + Send + Sync>;

/// What a run does.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The system that is driven.
    pub target: Target,
    /// What is sent to whom.
    pub scenario: Scenario,
    /// Messages a second, over all senders. Default 1,000.
    pub rate_per_s: u64,
    /// How the times at which they are due lie to each other.
    pub arrival: Arrival,
    /// A closed loop instead: so many messages are under way at any time, and the next is sent when one is answered. What it
    /// measures is not what a message waits that comes when it comes.
    pub closed_loop: Option<usize>,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Messages are sent and not measured for so long first. Default 1 s.
    pub warmup: Duration,
    /// For how long messages are due that are measured. Default 10 s.
    pub duration: Duration,
    /// Bytes of each payload. Default 1,024.
    pub sizes: SizeMix,
    /// How urgent they are. Default normal.
    pub priorities: PriorityMix,
    /// When a sender's batch closes, which is signed and verified as one. Default the SDK's.
    pub batch: BatchOptions,
    /// Connections that send, each of an agent of its own; the scenario's number without.
    pub connections: Option<usize>,
    /// Agents that receive: mailboxes, subscribers of a channel, agents that answer; the scenario's number without.
    pub agents: Option<usize>,
    /// The first recipients get more than the last ones: by Zipf's law with this exponent.
    pub skew: Option<f64>,
    /// So many of those that receive take their time with each message.
    pub slow_consumers: usize,
    /// How much.
    pub slow_by: Duration,
    /// Those that receive are away until everything was sent.
    pub offline_then_drain: bool,
    /// One after the other of those that receive leaves and comes back, each so long after the one before.
    pub churn: Option<Duration>,
    /// Where to keep what was acknowledged and delivered.
    pub ledger: Option<PathBuf>,
    /// Whether the histogram of each second is kept, for a log of histograms.
    pub keep_histograms: bool,
    /// How long to wait for answers and deliveries after the last message was due. Default 60 s.
    pub drain_timeout: Duration,
    /// The process whose CPU time is the node's.
    pub node_pid: Option<i32>,
    /// Processes that the run is divided among. Default 1.
    pub processes: u32,
    /// CPUs that the generator was pinned to by whoever started it, as a list.
    pub pinned_to: Option<String>,
    /// What this process does of the run; without, all of it.
    pub share: Option<Share>,
}

/// How many there are of whom. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) senders: usize,
    pub(crate) receivers: usize,
    pub(crate) servers: usize,
    pub(crate) channels: usize,
    /// Of each channel.
    pub(crate) subscribers: usize,
}

impl RunOptions {
    /// The usual values, against this node.
    #[must_use]
    pub fn new(node: SocketAddr, certificate: NodeCertificate, scenario: Scenario) -> Self {
        Self::against(Target::Creto(CretoNode::new(node, certificate)), scenario)
    }

    /// The usual values.
    #[must_use]
    pub fn against(target: Target, scenario: Scenario) -> Self {
        Self {
            target,
            scenario,
            rate_per_s: 1_000,
            arrival: Arrival::Fixed,
            closed_loop: None,
            seed: 0,
            warmup: Duration::from_secs(1),
            duration: Duration::from_secs(10),
            sizes: SizeMix::of(1_024),
            priorities: PriorityMix::default(),
            batch: BatchOptions::default(),
            connections: None,
            agents: None,
            skew: None,
            slow_consumers: 0,
            slow_by: Duration::from_millis(10),
            offline_then_drain: false,
            churn: None,
            ledger: None,
            keep_histograms: false,
            drain_timeout: DRAIN_TIMEOUT,
            node_pid: None,
            processes: 1,
            pinned_to: None,
            share: None,
        }
    }

    /// Of this process.
    pub(crate) fn shape(&self) -> Shape {
        let whole = self.whole_shape();
        let Some(share) = self.share else { return whole };
        let part = |count: usize| share.of(count).len();
        let (receivers, servers) = (part(whole.receivers), part(whole.servers));
        let senders = part(whole.senders);
        match self.scenario {
            Scenario::Channel => Shape { senders, channels: senders, ..whole },
            // Each process has a channel of its own.
            _ => Shape { senders, receivers, servers, subscribers: part(whole.subscribers), ..whole },
        }
    }

    /// Place of one of this process's consumers among those of all processes: its mailboxes first, then its subscribers.
    pub(crate) fn place_of(&self, place: usize) -> usize {
        let Some(share) = self.share else { return place };
        let (whole, own) = (self.whole_shape(), self.shape());
        match place.checked_sub(own.receivers) {
            None => share.of(whole.receivers).start + place,
            Some(place) => whole.receivers + share.of(whole.channels * whole.subscribers).start + place,
        }
    }

    /// Of all processes together.
    pub(crate) fn whole_shape(&self) -> Shape {
        let senders = |usual: usize| self.connections.unwrap_or(usual);
        let none = Shape { senders: senders(1), receivers: 0, servers: 0, channels: 0, subscribers: 0 };
        let agents = |usual: usize| self.agents.unwrap_or(usual);
        match self.scenario {
            Scenario::Direct => Shape { receivers: agents(none.senders), ..none },
            Scenario::FanIn => Shape { senders: senders(8), receivers: agents(1), ..none },
            Scenario::FanOut => Shape { channels: 1, subscribers: agents(8), ..none },
            Scenario::Channel => Shape { channels: none.senders, subscribers: agents(1), ..none },
            Scenario::Request => Shape { servers: agents(none.senders), ..none },
            Scenario::Mixed => {
                let each = agents(2);
                Shape { senders: senders(2), receivers: each, servers: each, channels: 1, subscribers: each }
            }
        }
    }

    pub(crate) fn warmup_us(&self) -> u64 {
        micros(self.warmup)
    }

    /// What is due when, in this repetition.
    pub(crate) fn workload(&self, repetition: u32) -> Workload {
        let (whole, shape) = (self.whole_shape(), self.shape());
        let lanes = u32::try_from(whole.senders).unwrap_or(u32::MAX);
        let lane = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let share = self.share.map(|share| share.of(whole.senders)).map_or(0..lanes, |at| lane(at.start)..lane(at.end));
        Workload {
            arrival: self.arrival,
            rate_per_s: self.rate_per_s,
            end_us: micros(self.warmup.saturating_add(self.duration)),
            lanes,
            share,
            seed: seed_of(self.seed, repetition),
            sizes: self.sizes.clone(),
            priorities: self.priorities.clone(),
            targets: Targets::new(shape.receivers.max(shape.servers).max(1), self.skew),
            ways: self.scenario.ways(),
        }
    }

    /// Whether these options go together.
    ///
    /// # Errors
    /// [`RunError::Option`] says which do not.
    pub fn check(&self) -> Result<(), RunError> {
        let times = [self.warmup, self.duration, self.drain_timeout, self.slow_by, self.churn.unwrap_or_default()];
        // Before anything is calculated with them.
        if times.iter().any(|time| *time > RUN_TIME_MAX) {
            let days = RUN_TIME_MAX.as_secs() / 86_400;
            return Err(RunError::Option(format!("no time of a run is longer than {days} days")));
        }
        let Shape { senders, receivers, servers, channels, subscribers } = self.whole_shape();
        let processes = self.processes as usize;
        // What processes divide among them; a channel of its own has each of its subscribers in one of them.
        let mut divided = vec![senders, receivers, servers];
        if self.scenario == Scenario::Mixed {
            divided.push(subscribers);
        }
        let agents = receivers + servers + channels * subscribers;
        let (seconds, rate) = (self.warmup.saturating_add(self.duration).as_secs_f64(), self.rate_per_s);
        #[allow(
            clippy::cast_precision_loss,
            reason = "a rate is far below 2^52, and the product is compared with a limit"
        )]
        let messages = if self.closed_loop.is_some() { 0.0 } else { rate as f64 * seconds };
        #[allow(clippy::cast_precision_loss, reason = "as before")]
        let bits = messages * (3 + subscribers) as f64;
        let receives = receivers > 0;
        let rules = [
            (!self.sizes.fits(), format!("a payload has {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX} bytes")),
            (
                !(1..=CONNECTIONS_MAX).contains(&senders),
                format!("a run has 1 to {CONNECTIONS_MAX} connections that send"),
            ),
            (
                !(1..=AGENTS_MAX).contains(&agents) || self.agents == Some(0),
                format!("a run has 1 to {AGENTS_MAX} agents that receive"),
            ),
            (
                !(1..=PROCESSES_MAX).contains(&self.processes),
                format!("a run has 1 to {PROCESSES_MAX} processes"),
            ),
            (
                processes > 1 && self.scenario == Scenario::FanOut,
                "one channel is not divided among processes: use --scenario channel with --connections".to_owned(),
            ),
            (
                processes > 1 && divided.iter().any(|count| (1..processes).contains(count)),
                "each process has a connection and an agent of each kind of its own: give at least as many --connections and --agents"
                    .to_owned(),
            ),
            (
                processes > 1 && self.ledger.is_some(),
                "a ledger is of one process: leave out --processes or --ledger".to_owned(),
            ),
            (
                !(1..=BATCH_MESSAGES_MAX).contains(&self.batch.messages),
                format!("a batch has 1 to {BATCH_MESSAGES_MAX} messages"),
            ),
            (
                self.batch.age > BATCH_AGE_MAX,
                format!("a batch waits no longer than {} s", BATCH_AGE_MAX.as_secs()),
            ),
            (rate == 0, "the rate is at least one message a second".to_owned()),
            (self.duration.is_zero(), "a run takes longer than no time".to_owned()),
            (
                messages > MESSAGES_MAX as f64 || bits > TALLY_BITS_MAX as f64,
                format!("a run has at most {MESSAGES_MAX} messages, and less for many subscribers: lower the rate or the duration"),
            ),
            (
                self.closed_loop.is_some_and(|count| !(senders..=CLOSED_LOOP_MAX).contains(&count)),
                format!("a closed loop has at least one message for each connection, and at most {CLOSED_LOOP_MAX}"),
            ),
            (
                self.skew.is_some_and(|skew| !(0.0..=10.0).contains(&skew)),
                "a skew is an exponent from 0 to 10".to_owned(),
            ),
            (
                self.skew.is_some() && receivers + servers == 0,
                "a skew is over mailboxes: with direct, fan-in, request and mixed".to_owned(),
            ),
            (
                self.slow_consumers > receivers + channels * subscribers,
                "there are fewer consumers than slow ones".to_owned(),
            ),
            (
                self.ledger.is_some() && self.closed_loop.is_some(),
                "a ledger is of an open loop: a closed one would wait for its disk".to_owned(),
            ),
            (
                self.offline_then_drain && !(receives && servers == 0 && channels == 0),
                "whoever is offline at first has a mailbox: with direct and fan-in".to_owned(),
            ),
            (
                self.churn.is_some_and(|every| every < Duration::from_millis(10)),
                "agents come and go not more often than every 10 ms".to_owned(),
            ),
            (
                self.churn.is_some() && (!receives || self.offline_then_drain),
                "agents come and go that read mailboxes: with direct, fan-in and mixed, and not with --offline-then-drain".to_owned(),
            ),
            (
                self.ledger.is_some() && !(receives && servers == 0 && channels == 0 && self.churn.is_none()),
                "a ledger is of mailboxes: with direct and fan-in, and without --churn".to_owned(),
            ),
        ];
        match rules.into_iter().chain(self.target.rules(self)).find(|(is_broken, _)| *is_broken) {
            Some((_, text)) => Err(RunError::Option(text)),
            // Looked for last: by now there are not too many.
            None if self.closed_loop.is_none() && !self.workload(0).has_any_from(self.warmup_us()) => {
                let text = "this rate and duration make no message: raise one of them";
                Err(RunError::Option(text.to_owned()))
            }
            None => Ok(()),
        }
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Why a run could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// An option is out of range, or does not go with another.
    #[error("{0}")]
    Option(String),
    /// An agent could not be made.
    #[error("{0}")]
    Keys(#[from] KeysError),
    /// An agent or a channel could not be registered.
    #[error("{name} cannot be registered: {source}")]
    Register {
        /// Which.
        name: String,
        /// What the caller's function said.
        source: RegisterError,
    },
    /// An agent could not connect.
    #[error("agent {name} cannot connect: {source}")]
    Connect {
        /// Who.
        name: String,
        /// Why.
        source: ConnectError,
    },
    /// A receiver could not subscribe.
    #[error("agent {name} cannot subscribe: {source}")]
    Subscribe {
        /// Who.
        name: String,
        /// Why.
        source: ReceiveError,
    },
    /// A channel could not be used.
    #[error("agent {name} cannot use the channel: {source}")]
    Channel {
        /// Who.
        name: String,
        /// Why.
        source: ChannelError,
    },
    /// A NATS server could not be used.
    #[error("{0}")]
    Nats(#[from] NatsError),
    /// The ledger could not be used.
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    /// No folder for what agents keep.
    #[error("no folder can be made for what agents keep: {0}; check the folder for temporary files")]
    Folder(std::io::Error),
    /// A process that was to do its share lost whoever divided the run, or its clock.
    #[error("this share of a run cannot be done: {0}")]
    Divided(std::io::Error),
    /// No thread for the pacer.
    #[error("the system starts no thread: {0}; check the limit on processes")]
    Thread(std::io::Error),
}
