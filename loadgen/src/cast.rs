//! The agents of a run, and its channels: made, registered, connected.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use creto_agent::channel::{ChannelName, ChannelRecord, ChannelSubscription, Publisher, Publishing, Subscribing};
use creto_agent::{
    Agent, AgentId, AgentKeys, AgentName, ConnectOptions, NodeCertificate, SubscribeOptions, TreeDigest,
};
use creto_envelope::limits::CHANNEL_SUBSCRIBERS_MAX;
use tokio::task::JoinSet;

use crate::ledger::LedgerPaths;
use crate::options::{RegisterError, Registration, RunError, RunOptions, Shape};

const DAY_MS: u64 = 86_400_000;
/// Agents that log in at a time.
const CONNECTING_AT_A_TIME: usize = 32;
/// More than any subscriber leaves unread before a run is given up.
const CHANNEL_BYTES_MAX: u64 = 64 << 30;
const CHANNEL_RETENTION_S: u32 = 3_600;

/// One agent, and how it connects: again, too, when it had left.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) keys: Arc<AgentKeys>,
    node: std::net::SocketAddr,
    certificate: NodeCertificate,
    idle_timeout: Duration,
    tree_digest: TreeDigest,
    retry_for: Duration,
    state: Option<PathBuf>,
}

impl Member {
    pub(crate) fn name(&self) -> &AgentName {
        self.keys.name()
    }

    pub(crate) async fn connect(&self) -> Result<Agent, RunError> {
        let mut connect = ConnectOptions::new(self.node, self.certificate.clone(), Arc::clone(&self.keys));
        connect.idle_timeout = self.idle_timeout;
        connect.tree_digest = self.tree_digest;
        // Whatever the node refuses for now is tried again until the run itself gives up.
        connect.retry_for = self.retry_for;
        if let Some(folder) = &self.state {
            connect = connect.state(folder);
        }
        let name = || self.name().to_string();
        Agent::connect(connect).await.map_err(|source| RunError::Connect { name: name(), source })
    }
}

/// An agent that is connected.
#[derive(Debug)]
pub(crate) struct Player {
    pub(crate) member: Member,
    pub(crate) agent: Agent,
}

/// A channel, with those that read it.
#[derive(Debug)]
pub(crate) struct Stand {
    pub(crate) name: ChannelName,
    pub(crate) subscribers: Vec<(Player, ChannelSubscription)>,
}

/// Everybody.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(crate) senders: Vec<Player>,
    pub(crate) receivers: Vec<Player>,
    pub(crate) servers: Vec<Player>,
    pub(crate) stands: Vec<Stand>,
    /// What agents keep that leave and come back.
    pub(crate) folder: Option<tempfile::TempDir>,
}

impl Cast {
    pub(crate) async fn make(
        options: &RunOptions,
        register: &impl AsyncFn(Registration) -> Result<(), RegisterError>,
        paths: Option<&LedgerPaths>,
    ) -> Result<Self, RunError> {
        let Shape { senders, receivers, servers, channels, subscribers } = options.shape();
        let label = RunLabel::now();
        let folder = options.churn.map(|_| tempfile::tempdir()).transpose().map_err(RunError::Folder)?;
        if let Some(paths) = paths {
            std::fs::create_dir_all(&paths.keys).map_err(|source| crate::ledger::LedgerError::File {
                path: paths.keys.clone(),
                doing: "given its folder of keys",
                source,
            })?;
        }
        let agent = async |role: &str, place: usize, state: Option<PathBuf>| -> Result<Member, RunError> {
            let keys = label.keys(options, role, place)?;
            let record = keys.signed_record(
                keys.record_version(),
                label.now_ms.saturating_sub(DAY_MS),
                label.now_ms + 365 * DAY_MS,
            );
            let name = keys.name().to_string();
            let registered = register(Registration::Agent(Box::new(record))).await;
            registered.map_err(|source| RunError::Register { name, source })?;
            Ok(Member {
                keys: Arc::new(keys),
                node: options.node,
                certificate: options.certificate.clone(),
                idle_timeout: options.idle_timeout,
                tree_digest: options.tree_digest,
                retry_for: options.duration.saturating_add(options.drain_timeout),
                state,
            })
        };
        let mut reading = Vec::new();
        for place in 0..receivers {
            let state = folder.as_ref().map(|folder| folder.path().join(place.to_string()));
            let member = agent("r", place, state).await?;
            if let Some(paths) = paths {
                member.keys.save(paths.receiver_keys(place))?;
            }
            reading.push(member);
        }
        let group = async |role: &str, count: usize| -> Result<Vec<Member>, RunError> {
            let mut members = Vec::new();
            for place in 0..count {
                members.push(agent(role, place, None).await?);
            }
            Ok(members)
        };
        let sending = group("s", senders).await?;
        let serving = group("a", servers).await?;
        let subscribing = group("c", channels * subscribers).await?;
        let mut stands = Vec::new();
        if channels > 0 {
            let owner = agent("o", 0, None).await?;
            for place in 0..channels {
                let name = label.channel(options, place)?;
                let record = channel_record(&name, &owner.keys, subscribers, label.now_ms);
                let signed = owner.keys.signed_channel(record).map_err(|code| RunError::Register {
                    name: name.to_string(),
                    source: format!("its record is refused: {code}").into(),
                })?;
                let registered = register(Registration::Channel(Box::new(signed))).await;
                registered.map_err(|source| RunError::Register { name: name.to_string(), source })?;
                stands.push(Stand { name, subscribers: Vec::new() });
            }
        }
        let senders = connect_all(sending).await?;
        let receivers = connect_all(reading).await?;
        let servers = connect_all(serving).await?;
        // Before anybody publishes: who subscribes first misses nothing.
        for (place, player) in connect_all(subscribing).await?.into_iter().enumerate() {
            let stand = &mut stands[place / subscribers];
            let subscription = player.agent.subscribe_channel(&stand.name, SubscribeOptions::default()).await;
            let name = || player.member.name().to_string();
            let subscription = subscription.map_err(|source| RunError::Channel { name: name(), source })?;
            stand.subscribers.push((player, subscription));
        }
        Ok(Self { senders, receivers, servers, stands, folder })
    }

    /// Opens the channel that this sender publishes in, if there is one.
    pub(crate) async fn publisher(&self, sender: usize) -> Result<Option<Publisher>, RunError> {
        if self.stands.is_empty() {
            return Ok(None);
        }
        let player = &self.senders[sender];
        let opened = player.agent.publisher(&self.stands[sender % self.stands.len()].name).await;
        let name = || player.member.name().to_string();
        opened.map(Some).map_err(|source| RunError::Channel { name: name(), source })
    }

    pub(crate) fn sender_ids(&self) -> Vec<AgentId> {
        self.senders.iter().map(|player| player.agent.id()).collect()
    }
}

/// Connects them, some at a time, and keeps their order.
async fn connect_all(members: Vec<Member>) -> Result<Vec<Player>, RunError> {
    let mut players: Vec<Option<Player>> = members.iter().map(|_| None).collect();
    let mut connecting = JoinSet::new();
    let mut members = members.into_iter().enumerate();
    loop {
        while connecting.len() < CONNECTING_AT_A_TIME
            && let Some((place, member)) = members.next()
        {
            connecting.spawn(async move {
                let agent = member.connect().await?;
                Ok::<_, RunError>((place, Player { member, agent }))
            });
        }
        match connecting.join_next().await {
            None => return Ok(players.into_iter().flatten().collect()),
            Some(connected) => {
                let (place, player) = connected.expect("connecting does not panic")?;
                players[place] = Some(player);
            }
        }
    }
}

fn channel_record(name: &ChannelName, owner: &AgentKeys, subscribers: usize, now_ms: u64) -> ChannelRecord {
    let wanted = u32::try_from(subscribers).unwrap_or(u32::MAX);
    ChannelRecord {
        version: 1,
        name: name.clone(),
        owner: owner.id(),
        trust_domain: owner.trust_domain().clone(),
        owner_key_version: owner.record_version(),
        signed_at_ms: now_ms,
        subscribing: Subscribing::Open,
        publishing: Publishing::Open,
        has_history: false,
        is_deleted: false,
        retention_s: CHANNEL_RETENTION_S,
        messages_max: crate::limits::MESSAGES_MAX,
        bytes_max: CHANNEL_BYTES_MAX,
        subscribers_max: wanted.clamp(1, CHANNEL_SUBSCRIBERS_MAX),
    }
}

/// Tells the agents of one run from those of another.
struct RunLabel {
    text: String,
    now_ms: u64,
}

impl RunLabel {
    fn now() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        // Runs of one process may begin in the same millisecond.
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        Self { text: format!("{now_ms:x}-{:x}-{run:x}", std::process::id()), now_ms }
    }

    fn keys(&self, options: &RunOptions, role: &str, place: usize) -> Result<AgentKeys, RunError> {
        let name = format!("{}/{role}{place}-{}", options.organization, self.text);
        let name = AgentName::parse(&name).map_err(|error| RunError::Option(error.to_string()))?;
        Ok(AgentKeys::generate(name, options.trust_domain.clone())?)
    }

    fn channel(&self, options: &RunOptions, place: usize) -> Result<ChannelName, RunError> {
        let name = format!("{}/load.{}.{place}", options.organization, self.text);
        ChannelName::parse(&name).map_err(|error| RunError::Option(error.to_string()))
    }
}
