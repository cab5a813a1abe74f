//! A run from beginning to end.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use creto_agent::{
    Agent, AgentKeys, AgentName, ConnectError, ConnectOptions, KeysError, MessageId, NodeCertificate, ReceiveError,
    SignedKeyRecord, TreeDigest, TrustDomain,
};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::ledger::{Durability, LedgerError, LedgerPaths, LedgerWriter};
use crate::limits::{
    DRAIN_TIMEOUT, MESSAGES_MAX, PAIRS_MAX, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN, PENDING_PER_PAIR, PROGRESS_EVERY,
};
use crate::pace::{Pacer, Schedule};
use crate::peer::{Pair, Run};
use crate::report::{Latency, Progress, Report};

/// What is sent to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scenario {
    /// Each sender writes to a receiver of its own.
    Direct,
}

impl Scenario {
    /// The name, as on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
        }
    }
}

impl FromStr for Scenario {
    type Err = RunError;

    fn from_str(name: &str) -> Result<Self, RunError> {
        match name {
            "direct" => Ok(Self::Direct),
            _ => Err(RunError::Option(format!("`{name}` is not a scenario; there is: direct"))),
        }
    }
}

/// What a run does.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The node's UDP address.
    pub node: SocketAddr,
    /// The node's certificate.
    pub certificate: NodeCertificate,
    /// What is sent to whom.
    pub scenario: Scenario,
    /// Messages a second, over all senders. Default 1,000.
    pub rate_per_s: u64,
    /// For how long messages are due. Default 10 s.
    pub duration: Duration,
    /// Bytes of each payload, 16 to 1,048,576. Default 1,024.
    pub payload_bytes: usize,
    /// Pairs of a sender and a receiver, each with a connection of its own. Default 1.
    pub pairs: usize,
    /// Where to keep what was acknowledged and delivered.
    pub ledger: Option<PathBuf>,
    /// How long to wait for answers and deliveries after the last message was due. Default 60 s.
    pub drain_timeout: Duration,
    /// Organization of the agents' names. Default `bench`.
    pub organization: String,
    /// Trust domain of the agents' names.
    pub trust_domain: TrustDomain,
    /// How long a silent node counts as alive, for each agent. Default 2 s.
    pub idle_timeout: Duration,
    /// Hash of the tree under each batch signature, as the node demands it. Default SHA-256.
    pub tree_digest: TreeDigest,
}

impl RunOptions {
    /// The usual values.
    #[must_use]
    pub fn new(node: SocketAddr, certificate: NodeCertificate, scenario: Scenario) -> Self {
        Self {
            node,
            certificate,
            scenario,
            rate_per_s: 1_000,
            duration: Duration::from_secs(10),
            payload_bytes: 1_024,
            pairs: 1,
            ledger: None,
            drain_timeout: DRAIN_TIMEOUT,
            organization: "bench".to_owned(),
            trust_domain: TrustDomain::default(),
            idle_timeout: Duration::from_secs(2),
            tree_digest: TreeDigest::default(),
        }
    }

    fn check(&self) -> Result<Schedule, RunError> {
        let option = |text: String| Err(RunError::Option(text));
        if !(PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&self.payload_bytes) {
            return option(format!("a payload has {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX} bytes"));
        }
        if !(1..=PAIRS_MAX).contains(&self.pairs) {
            return option(format!("a run has 1 to {PAIRS_MAX} pairs"));
        }
        if self.rate_per_s == 0 {
            return option("the rate is at least one message a second".to_owned());
        }
        let schedule = Schedule::new(self.rate_per_s, self.duration);
        match schedule.message_count {
            0 => option("this rate and duration make no message: raise one of them".to_owned()),
            count if count > MESSAGES_MAX => option(format!("a run has at most {MESSAGES_MAX} messages")),
            _ => Ok(schedule),
        }
    }
}

/// Why a run could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// An option is out of range.
    #[error("{0}")]
    Option(String),
    /// An agent could not be made.
    #[error("{0}")]
    Keys(#[from] KeysError),
    /// An agent could not be registered.
    #[error("agent {name} cannot be registered: {source}")]
    Register {
        /// Who.
        name: String,
        /// What the caller's function said.
        source: Box<dyn Error + Send + Sync>,
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
    /// The ledger could not be used.
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    /// No thread for the pacer.
    #[error("the system starts no thread: {0}; check the limit on processes")]
    Thread(std::io::Error),
}

/// Runs a scenario. `register` makes an agent known to the node; `progress` is called a few times a second.
///
/// # Errors
/// [`RunError`]. What the node does wrong is no error: it stands in the report.
pub async fn run(
    options: RunOptions,
    register: impl AsyncFn(SignedKeyRecord) -> Result<(), Box<dyn Error + Send + Sync>>,
    mut progress: impl FnMut(&Progress),
) -> Result<Report, RunError> {
    let schedule = options.check()?;
    let paths = options.ledger.as_deref().map(LedgerPaths::of);
    let agents = Agents::make(&options, &register, paths.as_ref()).await?;
    let pairs = u32::try_from(options.pairs).expect("checked against PAIRS_MAX");

    let start = Instant::now();
    let run = Arc::new(Run::new(schedule, start, u64::from(pairs), options.payload_bytes));
    let ledgers = paths.as_ref().map(|paths| Ledgers::start(paths, &run)).transpose()?;
    let pacer = Pacer::start(schedule, start).map_err(RunError::Thread)?;
    let mut senders = JoinSet::new();
    let mut receivers = JoinSet::new();
    for index in 0..pairs {
        let at = index as usize;
        let pair = Pair { run: Arc::clone(&run), index };
        let (waiting, answers) = mpsc::channel(PENDING_PER_PAIR);
        let (sender, receiver) = (&agents.senders[at], &agents.receivers[at]);
        let mailbox =
            receiver.subscribe().map_err(|source| RunError::Subscribe { name: receiver.name().to_string(), source })?;
        let to = receiver.name().clone();
        senders.spawn(pair.clone().send(sender.clone(), to, pacer.due.clone(), waiting, ledgers.is_some()));
        let acknowledged = ledgers.as_ref().map(|ledgers| ledgers.acknowledged.records());
        senders.spawn(pair.clone().take_answers(answers, acknowledged));
        let delivered = ledgers.as_ref().map(|ledgers| ledgers.delivered.records());
        receivers.spawn(pair.receive(mailbox, delivered));
    }

    watch(&run, &pacer, options.duration + options.drain_timeout, &mut progress).await;

    senders.shutdown().await;
    receivers.shutdown().await;
    let pacer_late = Latency::of(&pacer.finish());
    if let Some(ledgers) = ledgers {
        ledgers.acknowledged.finish().await?;
        ledgers.delivered.finish().await?;
    }
    let mut report = summarize(&options, &run, &agents, pacer_late);
    report.warn();
    agents.close().await;
    Ok(report)
}

/// Waits until everything is answered and everything acknowledged is delivered, at most this long.
async fn watch(run: &Run, pacer: &Pacer, at_most: Duration, progress: &mut impl FnMut(&Progress)) {
    let mut tick = interval(PROGRESS_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (acknowledged, delivered, lost, failed) = {
            let found = run.found();
            let failed = found.unknown + found.refused.values().sum::<u64>();
            (found.tally.acknowledged.count(), found.tally.delivered.count(), found.tally.lost(), failed)
        };
        let elapsed = run.start.elapsed();
        progress(&Progress {
            due: *pacer.due.borrow(),
            message_count: run.schedule.message_count,
            submitted: run.submitted.load(Ordering::Relaxed),
            acknowledged,
            delivered,
            elapsed,
        });
        let answered = run.answered.load(Ordering::Relaxed) == run.schedule.message_count;
        if answered && acknowledged + failed == run.schedule.message_count && lost == 0 || elapsed >= at_most {
            return;
        }
    }
}

fn summarize(options: &RunOptions, run: &Run, agents: &Agents, pacer_late: Latency) -> Report {
    let found = run.found();
    let sent = run.submitted.load(Ordering::Relaxed);
    let acknowledged = found.tally.acknowledged.count();
    let refused: u64 = found.refused.values().sum();
    let received = agents.receivers.iter().map(Agent::stats);
    let (hidden, rejected) = received.fold((0, 0), |(hidden, rejected), stats| {
        (hidden + stats.duplicates_hidden, rejected + stats.rejected_total())
    });
    let last = Duration::from_micros(run.last_acknowledged_us.load(Ordering::Relaxed));
    #[allow(clippy::cast_precision_loss, reason = "a run has far less than 2^52 messages")]
    let acknowledged_per_s =
        if acknowledged == 0 { 0.0 } else { acknowledged as f64 / last.max(options.duration).as_secs_f64() };
    Report {
        scenario: options.scenario.name().to_owned(),
        rate_per_s: options.rate_per_s,
        duration_s: options.duration.as_secs_f64(),
        payload_bytes: options.payload_bytes,
        pairs: options.pairs,
        sent,
        acknowledged,
        unknown: sent - acknowledged - refused,
        refused: found.refused.clone(),
        delivered: found.tally.delivered.count(),
        delivered_twice: found.tally.delivered_twice,
        duplicates_hidden: hidden,
        lost: found.tally.lost(),
        rejected: rejected + found.tally.strange,
        reconnects: agents.all().map(|agent| agent.stats().reconnects).sum(),
        encapsulations: agents.all().map(|agent| agent.stats().encapsulations).sum(),
        signatures: agents.all().map(|agent| agent.stats().signatures).sum(),
        acknowledged_per_s,
        acknowledged_latency: Latency::of(&found.acknowledged_latency),
        delivered_latency: Latency::of(&found.delivered_latency),
        pacer_late,
        warnings: Vec::new(),
    }
}

/// Both ledgers of a run.
struct Ledgers {
    acknowledged: LedgerWriter<()>,
    delivered: LedgerWriter<creto_agent::Delivery>,
}

impl Ledgers {
    fn start(paths: &LedgerPaths, run: &Arc<Run>) -> Result<Self, LedgerError> {
        let counting = Arc::clone(run);
        let acknowledged = LedgerWriter::start(&paths.acknowledged, Durability::Synced, false, move |record, ()| {
            // In the file and synced: now it counts.
            counting.acknowledged(record.number);
        })?;
        let delivered = LedgerWriter::start(&paths.delivered, Durability::Written, false, |_, delivery| {
            creto_agent::Delivery::ack(&delivery);
        })?;
        Ok(Self { acknowledged, delivered })
    }
}

/// The agents of a run.
struct Agents {
    senders: Vec<Agent>,
    receivers: Vec<Agent>,
}

impl Agents {
    async fn make(
        options: &RunOptions,
        register: &impl AsyncFn(SignedKeyRecord) -> Result<(), Box<dyn Error + Send + Sync>>,
        paths: Option<&LedgerPaths>,
    ) -> Result<Self, RunError> {
        if let Some(paths) = paths {
            if paths.acknowledged.exists() || paths.delivered.exists() || paths.keys.exists() {
                return Err(LedgerError::Exists(paths.acknowledged.clone()).into());
            }
            fs::create_dir_all(&paths.keys).map_err(|source| LedgerError::File {
                path: paths.keys.clone(),
                doing: "created",
                source,
            })?;
        }
        let label = RunLabel::now();
        let mut agents = Self { senders: Vec::new(), receivers: Vec::new() };
        for pair in 0..options.pairs {
            let receiver = label.keys(options, "r", pair)?;
            if let Some(paths) = paths {
                receiver.save(paths.receiver_keys(pair))?;
            }
            agents.receivers.push(connect(options, receiver, register, &label).await?);
            let sender = label.keys(options, "s", pair)?;
            agents.senders.push(connect(options, sender, register, &label).await?);
        }
        Ok(agents)
    }

    fn all(&self) -> impl Iterator<Item = &Agent> {
        self.senders.iter().chain(&self.receivers)
    }

    async fn close(self) {
        let mut closing = JoinSet::new();
        for agent in self.senders.into_iter().chain(self.receivers) {
            closing.spawn(agent.close());
        }
        closing.join_all().await;
    }
}

/// Tells the agents of one run from those of another.
struct RunLabel {
    text: String,
    now_ms: u64,
}

impl RunLabel {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self { text: format!("{now_ms:x}-{:x}", std::process::id()), now_ms }
    }

    fn keys(&self, options: &RunOptions, role: &str, pair: usize) -> Result<AgentKeys, RunError> {
        let name = format!("{}/{role}{pair}-{}", options.organization, self.text);
        let name = AgentName::parse(&name).map_err(|error| RunError::Option(error.to_string()))?;
        Ok(AgentKeys::generate(name, options.trust_domain.clone())?)
    }
}

async fn connect(
    options: &RunOptions,
    keys: AgentKeys,
    register: &impl AsyncFn(SignedKeyRecord) -> Result<(), Box<dyn Error + Send + Sync>>,
    label: &RunLabel,
) -> Result<Agent, RunError> {
    const DAY_MS: u64 = 86_400_000;
    let name = keys.name().to_string();
    let record =
        keys.signed_record(keys.record_version(), label.now_ms.saturating_sub(DAY_MS), label.now_ms + 365 * DAY_MS);
    register(record).await.map_err(|source| RunError::Register { name: name.clone(), source })?;
    let mut connect = ConnectOptions::new(options.node, options.certificate.clone(), keys);
    connect.idle_timeout = options.idle_timeout;
    connect.tree_digest = options.tree_digest;
    // Whatever the node refuses for now is tried again until the run itself gives up.
    connect.retry_for = options.duration + options.drain_timeout;
    Agent::connect(connect).await.map_err(|source| RunError::Connect { name, source })
}

/// The number of a message that was acknowledged, for whoever reads a ledger.
#[must_use]
pub(crate) fn id_text(id: MessageId) -> String {
    id.to_uuid_string()
}
