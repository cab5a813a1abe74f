//! The agents of a run against a creto node, and its channels: made, registered, connected.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use creto_agent::channel::{ChannelName, ChannelRecord, ChannelSubscription, Publisher, Publishing, Subscribing};
use creto_agent::{Agent, AgentId, AgentKeys, AgentName, BatchOptions, ConnectOptions, Stats, SubscribeOptions};
use creto_envelope::limits::CHANNEL_SUBSCRIBERS_MAX;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::ledger::{LedgerError, LedgerPaths};
use crate::options::{RegisterError, Registration, RunError, RunOptions, Shape};
use crate::peer::{CretoLine, Receiver, Subscriber, churn, names, serve};
use crate::setup::{now_ms, run_label};
use crate::target::{Cast, CretoNode, Readers};

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
    node: Arc<CretoNode>,
    retry_for: Duration,
    state: Option<PathBuf>,
    batch: BatchOptions,
}

impl Member {
    pub(crate) fn name(&self) -> &AgentName {
        self.keys.name()
    }

    pub(crate) async fn connect(&self) -> Result<Agent, RunError> {
        let CretoNode { address, certificate, idle_timeout, tree_digest, .. } = &*self.node;
        let mut connect = ConnectOptions::new(*address, certificate.clone(), Arc::clone(&self.keys));
        connect.idle_timeout = *idle_timeout;
        connect.tree_digest = *tree_digest;
        connect.batch = self.batch;
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
pub(crate) struct CretoCast {
    senders: Vec<Player>,
    /// Of each sender, where it publishes.
    publishers: Vec<Option<Publisher>>,
    receivers: Vec<Player>,
    servers: Vec<Player>,
    stands: Vec<Stand>,
    /// What agents keep that leave and come back.
    folder: Option<tempfile::TempDir>,
}

impl CretoCast {
    pub(crate) async fn make(
        node: &CretoNode,
        options: &RunOptions,
        register: &impl AsyncFn(Registration) -> Result<(), RegisterError>,
        paths: Option<&LedgerPaths>,
    ) -> Result<Self, RunError> {
        let node = Arc::new(node.clone());
        let Shape { senders, receivers, servers, channels, subscribers } = options.shape();
        let label = RunLabel::now();
        let folder = options.churn.map(|_| tempfile::tempdir()).transpose().map_err(RunError::Folder)?;
        if let Some(paths) = paths {
            std::fs::create_dir_all(&paths.keys).map_err(|source| LedgerError::File {
                path: paths.keys.clone(),
                doing: "given its folder of keys",
                source,
            })?;
        }
        let agent = async |role: &str, place: usize, state: Option<PathBuf>| -> Result<Member, RunError> {
            let keys = label.keys(&node, role, place)?;
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
                node: Arc::clone(&node),
                retry_for: options.duration.saturating_add(options.drain_timeout),
                state,
                batch: options.batch,
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
                let name = label.channel(&node, place)?;
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
        let mut publishers = Vec::new();
        for (sender, player) in senders.iter().enumerate() {
            publishers.push(publisher(player, &stands, sender).await?);
        }
        Ok(Self { senders, publishers, receivers, servers, stands, folder })
    }
}

/// Opens the channel that this sender publishes in, if there is one.
async fn publisher(player: &Player, stands: &[Stand], sender: usize) -> Result<Option<Publisher>, RunError> {
    if stands.is_empty() {
        return Ok(None);
    }
    let opened = player.agent.publisher(&stands[sender % stands.len()].name).await;
    let name = || player.member.name().to_string();
    opened.map(Some).map_err(|source| RunError::Channel { name: name(), source })
}

impl Cast for CretoCast {
    type Line = CretoLine;
    /// Those that sent, and the folder of those that left and came back.
    type Left = (Vec<Agent>, Option<tempfile::TempDir>);

    fn sender_ids(&self) -> Vec<AgentId> {
        self.senders.iter().map(|player| player.agent.id()).collect()
    }

    fn lines(&mut self) -> Vec<CretoLine> {
        let receivers = names(self.receivers.iter().map(|player| &player.member));
        let servers = names(self.servers.iter().map(|player| &player.member));
        let publishers = std::mem::take(&mut self.publishers);
        let each = self.senders.iter().zip(publishers);
        let line = |(player, publisher): (&Player, Option<Publisher>)| CretoLine {
            agent: player.agent.clone(),
            publisher,
            receivers: Arc::clone(&receivers),
            servers: Arc::clone(&servers),
        };
        each.map(line).collect()
    }

    fn read(self, readers: &mut Readers<'_>) -> Self::Left {
        // They own their agents: those that leave make new ones.
        let Self { senders, receivers, servers, stands, folder, .. } = self;
        let (count, subscribers) = (receivers.len(), readers.options.shape().subscribers);
        let mut leaving = Vec::new();
        for (place, player) in receivers.into_iter().enumerate() {
            let leaves = readers.options.churn.map(|_| {
                let (leave, leaves) = mpsc::channel(1);
                leaving.push(leave);
                leaves
            });
            let receiver = Receiver {
                run: Arc::clone(readers.run),
                place,
                player,
                pause: readers.pause(place),
                leaves,
                ledger: readers.delivered.map(crate::ledger::LedgerWriter::records),
                signals: readers.signals.clone(),
            };
            readers.tasks.spawn(receiver.receive());
        }
        for (channel, stand) in stands.into_iter().enumerate() {
            for (place, (player, subscription)) in stand.subscribers.into_iter().enumerate() {
                let pause = readers.pause(count + channel * subscribers + place);
                let (run, signals) = (Arc::clone(readers.run), readers.signals.clone());
                let subscriber = Subscriber { run, channel, place, player, subscription, pause, signals };
                readers.tasks.spawn(subscriber.receive());
            }
        }
        for player in servers {
            readers.tasks.spawn(serve(Arc::clone(readers.run), player, readers.signals.clone()));
        }
        if let Some(every) = readers.options.churn {
            let over = readers.signals.over.clone();
            readers.tasks.spawn(async move {
                churn(leaving, every, over).await;
                Vec::new()
            });
        }
        (senders.into_iter().map(|player| player.agent).collect(), folder)
    }

    async fn close((agents, folder): Self::Left) -> Vec<Stats> {
        let mut closing = JoinSet::new();
        let mut stats = Vec::new();
        for agent in agents {
            stats.push(agent.stats());
            closing.spawn(agent.close());
        }
        closing.join_all().await;
        drop(folder);
        stats
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
        Self { text: run_label(), now_ms: now_ms() }
    }

    fn keys(&self, node: &CretoNode, role: &str, place: usize) -> Result<AgentKeys, RunError> {
        let name = format!("{}/{role}{place}-{}", node.organization, self.text);
        let name = AgentName::parse(&name).map_err(|error| RunError::Option(error.to_string()))?;
        Ok(AgentKeys::generate(name, node.trust_domain.clone())?)
    }

    fn channel(&self, node: &CretoNode, place: usize) -> Result<ChannelName, RunError> {
        let name = format!("{}/load.{}.{place}", node.organization, self.text);
        ChannelName::parse(&name).map_err(|error| RunError::Option(error.to_string()))
    }
}
