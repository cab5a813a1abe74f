//! Whether the node serves, shard by shard: the shards say it, the control API tells it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
}

impl ShardState {
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
    /// Every shard.
    pub shards: Vec<ShardHealth>,
}

/// Where shards say how they are. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<State>);

#[derive(Debug, Default)]
struct State {
    shards: Mutex<Vec<ShardHealth>>,
    directory: OnceLock<&'static str>,
}

impl Health {
    /// For so many shards, all of them starting.
    #[must_use]
    pub fn new(shard_count: u16) -> Self {
        let since_ms = wall_clock_ms();
        let starting = |shard| ShardHealth { shard, state: ShardState::Starting, since_ms, cause: String::new() };
        let shards = Mutex::new((0..shard_count).map(starting).collect());
        Self(Arc::new(State { shards, directory: OnceLock::new() }))
    }

    /// Says how a shard is. One that is fenced stays so.
    pub fn set(&self, shard: u16, state: ShardState, cause: impl Into<String>) {
        let mut shards = self.0.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(health) = shards.get_mut(usize::from(shard)) else { return };
        if health.state != ShardState::Fenced {
            *health = ShardHealth { shard, state, since_ms: wall_clock_ms(), cause: cause.into() };
        }
    }

    /// Says that what the shards decide by is not the directory any more that there is, and what to do: for as long as the process
    /// lives.
    pub(crate) fn lose_directory(&self, cause: &'static str) {
        // The first cause is the one that counts.
        let _known = self.0.directory.set(cause);
    }

    /// How all of them are.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let shards = self.0.shards.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let directory = self.0.directory.get().copied().unwrap_or_default();
        let ready = directory.is_empty() && shards.iter().all(|shard| shard.state.is_ready());
        Readiness { ready, directory: directory.to_owned(), shards }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_every_shard_serves_and_a_fence_is_for_ever() {
        let health = Health::new(2);
        assert!(!health.readiness().ready);
        health.set(0, ShardState::Serving, "");
        assert!(!health.readiness().ready);
        health.set(1, ShardState::Full, "read some");
        assert!(health.readiness().ready);
        health.set(1, ShardState::Fenced, "the disk");
        health.set(1, ShardState::Serving, "");
        let readiness = health.readiness();
        assert!(!readiness.ready);
        assert_eq!((readiness.shards[1].state, readiness.shards[1].cause.as_str()), (ShardState::Fenced, "the disk"));
    }
}
