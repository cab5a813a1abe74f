//! Whether the node serves, shard by shard: the shards say it, the control API tells it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use creto_metrics::{Sample, Source, families as of};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::depths::{DepthSource, MailboxDepths};
use crate::limits::STALL_NOT_READY;
use crate::link::{Lease, Moment};
use crate::service::wall_clock_ms;

/// How a shard is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// Its log is not proven yet.
    Starting,
    /// It serves.
    Serving,
    /// Its log is filling up: senders are asked to slow down.
    Slow,
    /// Its log has no room: messages are refused, reading and acknowledging go on.
    Full,
    /// Its disk failed: nothing is acknowledged until the node is started again.
    Fenced,
    /// It makes no progress.
    Stalled,
}

impl ShardState {
    /// All that there are.
    pub const ALL: [Self; 6] = [Self::Starting, Self::Serving, Self::Slow, Self::Full, Self::Fenced, Self::Stalled];

    /// Whether agents of this shard are served. A full log still hands out and settles.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Serving | Self::Slow | Self::Full)
    }

    /// The state's word in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Slow => "slow",
            Self::Full => "full",
            Self::Fenced => "fenced",
            Self::Stalled => "stalled",
        }
    }
}

/// One shard, as the API tells it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ShardHealth {
    /// Counts from 0.
    pub shard: u16,
    /// How it is.
    pub state: ShardState,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// Why, and what to do: empty when it serves.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
}

/// Whether the node serves: the answer of `GET /v1/ready`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether every shard serves, and decides by the directory that there is. A load balancer should send nobody here otherwise.
    pub ready: bool,
    /// Why it decides by another: empty when it does not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub directory: String,
    /// Of a node whose control service is another process: its link there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlLink>,
    /// Of a control service that serves nodes of other processes: those that have a link to it now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<LinkedNode>,
    /// Every shard.
    pub shards: Vec<ShardHealth>,
}

impl Readiness {
    /// Why it is not ready, in one line; empty when it is, and as little as is known when it has just started.
    #[must_use]
    pub fn why(&self) -> String {
        if self.ready {
            return String::new();
        }
        let lapsed = self.control.iter().filter(|control| control.lapses_in_ms.is_none());
        let shards = self.shards.iter().filter(|shard| !shard.state.is_ready()).map(|shard| {
            let gap = if shard.cause.is_empty() { "" } else { ": " };
            format!("shard {} is {}{gap}{}", shard.shard, shard.state.as_str(), shard.cause)
        });
        let causes = std::iter::once(self.directory.clone()).chain(lapsed.map(|control| control.cause.clone()));
        causes.chain(shards).filter(|cause| !cause.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

/// A node of another process that has a link to this control service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LinkedNode {
    /// What it is called here.
    pub name: String,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
}

/// The link of a node to the process of its control service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ControlLink {
    /// Where that is.
    pub address: String,
    /// Whether the link stands.
    pub linked: bool,
    /// Since when it does or does not, Unix milliseconds.
    pub since_ms: u64,
    /// The epoch of the directory that the shards go by; 0: none.
    pub epoch: u64,
    /// How long ago that directory was known to be the newest, in milliseconds; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_age_ms: Option<u64>,
    /// For how long the shards go by it if the link does not stand, in milliseconds; none: they deny everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lapses_in_ms: Option<u64>,
    /// Why there is no link, and what to do: empty when there is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
}

/// Where a link says how it is. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct LinkState(Arc<(String, Lease, Mutex<LinkNow>)>);

#[derive(Clone, Debug)]
struct LinkNow {
    is_up: bool,
    since_ms: u64,
    epoch: u64,
    confirmed: Option<Moment>,
    cause: String,
}

impl LinkState {
    pub(crate) fn new(address: String, lease: Lease) -> Self {
        let cause = "the node has just started and has not reached it yet".to_owned();
        let now = LinkNow { is_up: false, since_ms: wall_clock_ms(), epoch: 0, confirmed: None, cause };
        Self(Arc::new((address, lease, Mutex::new(now))))
    }

    /// The link stands, and what the shards have was the newest at that moment. Returns whether it did not stand before.
    pub(crate) fn set_up(&self, confirmed: Moment) -> bool {
        let mut now = self.now();
        let is_new = !now.is_up;
        if is_new {
            (now.is_up, now.since_ms) = (true, wall_clock_ms());
            now.cause.clear();
        }
        now.confirmed = Some(confirmed);
        is_new
    }

    /// The link does not stand. Returns whether that is news.
    pub(crate) fn set_down(&self, cause: &str) -> bool {
        let mut now = self.now();
        let is_new = now.is_up || now.cause != cause;
        if now.is_up {
            (now.is_up, now.since_ms) = (false, wall_clock_ms());
        }
        if is_new {
            cause.clone_into(&mut now.cause);
        }
        is_new
    }

    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.now().epoch = epoch;
    }

    fn shown(&self) -> ControlLink {
        let (address, lease, _) = &*self.0;
        let LinkNow { is_up, since_ms, epoch, confirmed, cause } = self.now().clone();
        let ms = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        ControlLink {
            address: address.clone(),
            linked: is_up,
            since_ms,
            epoch,
            snapshot_age_ms: confirmed.map(|confirmed| ms(confirmed.elapsed())),
            lapses_in_ms: lease.left().map(ms),
            cause,
        }
    }

    fn now(&self) -> MutexGuard<'_, LinkNow> {
        // What it guards is whole at every moment.
        self.0.2.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where shards say how they are. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<State>);

#[derive(Debug, Default)]
struct State {
    shards: Mutex<Vec<ShardHealth>>,
    /// Those that make no progress, with since when and why.
    stalls: Mutex<BTreeMap<u16, (Instant, &'static str)>>,
    directory: OnceLock<&'static str>,
    /// Whether more may be stored than what the shards decide by.
    is_in_doubt: AtomicBool,
    link: OnceLock<LinkState>,
    metrics: OnceLock<Arc<dyn Source>>,
    depths: OnceLock<Arc<dyn DepthSource>>,
    /// Since when each has a link.
    nodes: Mutex<BTreeMap<String, u64>>,
}

impl Health {
    /// For so many shards, all of them starting.
    #[must_use]
    pub fn new(shard_count: u16) -> Self {
        let since_ms = wall_clock_ms();
        let starting = |shard| ShardHealth { shard, state: ShardState::Starting, since_ms, cause: String::new() };
        let shards = Mutex::new((0..shard_count).map(starting).collect());
        Self(Arc::new(State {
            shards,
            stalls: Mutex::default(),
            directory: OnceLock::new(),
            is_in_doubt: AtomicBool::new(false),
            link: OnceLock::new(),
            metrics: OnceLock::new(),
            depths: OnceLock::new(),
            nodes: Mutex::default(),
        }))
    }

    /// Says how a shard is. One that is fenced stays so.
    pub fn set(&self, shard: u16, state: ShardState, cause: impl Into<String>) {
        let mut shards = self.0.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(health) = shards.get_mut(usize::from(shard)) else { return };
        if health.state != ShardState::Fenced {
            *health = ShardHealth { shard, state, since_ms: wall_clock_ms(), cause: cause.into() };
        }
    }

    /// Says that a shard makes no progress since then, and why as far as anybody knows; or that it goes on.
    pub fn set_stalled(&self, shard: u16, stalled: Option<(Instant, &'static str)>) {
        let mut stalls = self.0.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        match stalled {
            Some(stalled) => drop(stalls.insert(shard, stalled)),
            None => drop(stalls.remove(&shard)),
        }
    }

    /// How the shards are, those that stand still among them.
    fn shards(&self) -> Vec<ShardHealth> {
        let mut shards = self.0.shards.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (shard, (since, advice)) in self.0.stalls.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let lasted = since.elapsed();
            // What is over in a moment sends nobody away.
            let Some(health) = shards.get_mut(usize::from(*shard)).filter(|_| lasted >= STALL_NOT_READY) else {
                continue;
            };
            if health.state.is_ready() {
                let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
                let cause = format!("no progress for {} s: {advice}", lasted.as_secs());
                let since_ms = wall_clock_ms().saturating_sub(lasted_ms);
                *health = ShardHealth { shard: *shard, state: ShardState::Stalled, since_ms, cause };
            }
        }
        shards
    }

    /// Says that what the shards decide by is not the directory any more that there is, and what to do: for as long as the process
    /// lives.
    pub(crate) fn lose_directory(&self, cause: &'static str) {
        // The first cause is the one that counts.
        let _known = self.0.directory.set(cause);
    }

    /// Says whether more may be stored than was told: the outcome of a commit is not known.
    pub(crate) fn set_directory_in_doubt(&self, is_in_doubt: bool) {
        self.0.is_in_doubt.store(is_in_doubt, Ordering::Release);
    }

    /// As it was said last.
    pub(crate) fn is_directory_in_doubt(&self) -> bool {
        self.0.is_in_doubt.load(Ordering::Acquire)
    }

    /// Says that a service without shards has nobody left who keeps what it tells: it confirms nothing to its nodes any more.
    pub fn lose_audit_log(&self) {
        self.lose_directory(
            "the audit log cannot be written; its log says why, mend that and restart the control service",
        );
    }

    /// Says that a node has a link, or has none any more.
    pub(crate) fn set_linked(&self, name: &str, is_linked: bool) {
        let mut nodes = self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        match is_linked {
            true => drop(nodes.insert(name.to_owned(), wall_clock_ms())),
            false => drop(nodes.remove(name)),
        }
    }

    /// Who is asked for what the node counts and measures; the first one stays.
    pub fn set_metrics(&self, source: Arc<dyn Source>) {
        let _ = self.0.metrics.set(source);
    }

    /// Who is asked which mailboxes are the fullest; the first one stays.
    pub fn set_depths(&self, source: Arc<dyn DepthSource>) {
        let _ = self.0.depths.set(source);
    }

    /// The fullest mailboxes and channels; none, and not complete, where there are no shards.
    #[must_use]
    pub fn depths(&self) -> MailboxDepths {
        self.0.depths.get().map(|source| source.fullest()).unwrap_or_default()
    }

    /// What the node counts and measures; nothing until somebody can be asked.
    #[must_use]
    pub fn metrics(&self) -> Vec<Sample> {
        let readiness = self.readiness();
        let mut samples = vec![of::NODE_READY.count(&[], u64::from(readiness.ready))];
        for ShardHealth { shard, state, .. } in readiness.shards {
            let shard = shard.to_string();
            let each =
                |of_all: &ShardState| of::SHARD_STATE.count(&[&shard, of_all.as_str()], u64::from(*of_all == state));
            samples.extend(ShardState::ALL.iter().map(each));
        }
        if let Some(source) = self.0.metrics.get() {
            source.read(&mut samples);
        }
        samples
    }

    /// Says where the link of this node tells how it is.
    pub(crate) fn set_link(&self, link: LinkState) {
        let is_first = self.0.link.set(link).is_ok();
        assert!(is_first, "a node has one link");
    }

    /// How all of them are.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let shards = self.shards();
        let directory = self.0.directory.get().copied().unwrap_or_default();
        let control = self.0.link.get().map(LinkState::shown);
        // Without a link as long as the snapshot counts.
        let may_decide = control.as_ref().is_none_or(|control| control.lapses_in_ms.is_some());
        let ready = directory.is_empty() && may_decide && shards.iter().all(|shard| shard.state.is_ready());
        let nodes = self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let nodes = nodes.into_iter().map(|(name, since_ms)| LinkedNode { name, since_ms }).collect();
        Readiness { ready, directory: directory.to_owned(), control, nodes, shards }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_node_is_not_ready_while_a_shard_stands_still() {
        let health = Health::new(2);
        health.set(0, ShardState::Serving, "");
        health.set(1, ShardState::Slow, "little room");
        let ago = |ago: Duration| Some((Instant::now().checked_sub(ago).unwrap(), "the kernel holds it"));
        health.set_stalled(1, ago(STALL_NOT_READY / 2));
        assert!(health.readiness().ready, "for a moment");
        health.set_stalled(1, ago(2 * STALL_NOT_READY));
        let readiness = health.readiness();
        assert!(!readiness.ready);
        assert_eq!(readiness.why(), "shard 1 is stalled: no progress for 2 s: the kernel holds it");
        let told = health.metrics();
        assert!(told.contains(&of::SHARD_STATE.count(&["1", "stalled"], 1)), "{told:?}");
        health.set_stalled(1, None);
        assert!(health.readiness().ready);
        assert_eq!(health.readiness().shards[1].cause, "little room");
        // What is worse stays what it is.
        health.set(1, ShardState::Fenced, "the disk");
        health.set_stalled(1, ago(2 * STALL_NOT_READY));
        assert_eq!(health.readiness().why(), "shard 1 is fenced: the disk");
    }

    #[test]
    fn a_node_is_ready_when_every_shard_serves_and_a_fence_is_for_ever() {
        let health = Health::new(2);
        assert!(!health.readiness().ready);
        assert_eq!(health.readiness().why(), "shard 0 is starting; shard 1 is starting");
        health.set(0, ShardState::Serving, "");
        assert!(!health.readiness().ready);
        health.set(1, ShardState::Full, "read some");
        assert!(health.readiness().ready);
        health.set(1, ShardState::Fenced, "the disk");
        health.set(1, ShardState::Serving, "");
        let readiness = health.readiness();
        assert!(!readiness.ready);
        assert_eq!(readiness.why(), "shard 1 is fenced: the disk");
        assert_eq!((readiness.shards[1].state, readiness.shards[1].cause.as_str()), (ShardState::Fenced, "the disk"));
    }
}
