//! How long an agent that was revoked stays connected: a node of its own with two shards, a connection to each of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_agent::raw::{RawConnection, RawStream};
use creto_agent::{AgentKeys, AgentName, RejectCode, TrustDomain};
use creto_service::client::Client;
use creto_service::states::{StateChange, StateWord};
use tokio::time::timeout;

use super::node::NodeHost;
use super::on_a_node;
use crate::client::{connect_failure, control_failure, keys_failure};
use crate::exit::{Exit, Failure};
use crate::moment::now_ms;

const DAY_MS: u64 = 86_400_000;
const SHARDS: u16 = 2;
const WITHIN: Duration = Duration::from_secs(10);

/// From an operator's request until the last shard has closed the connection, slowest of so many agents, in milliseconds.
pub(crate) fn measure(agents: usize) -> Result<f64, Failure> {
    let mut slowest = Duration::ZERO;
    on_a_node("creto-bench-", None, SHARDS, false, async |host, _| {
        host.start().await?;
        let operator = Client::new(host.control_socket());
        for agent in 0..agents {
            let name = AgentName::parse(&format!("acme/leaver-{agent}")).expect("a sound name");
            let keys = AgentKeys::generate(name, TrustDomain::default()).map_err(|error| keys_failure(&error))?;
            let now_ms = now_ms();
            let record = keys.signed_record(keys.record_version(), now_ms.saturating_sub(DAY_MS), now_ms + DAY_MS);
            operator.register(&record).await.map_err(|error| control_failure(&error))?;
            let keys = Arc::new(keys);
            let connections = on_every_shard(host, &keys).await?;
            slowest = slowest.max(revoke(&operator, &keys, &connections).await?);
        }
        Ok(Exit::Ok)
    })?;
    if slowest.is_zero() {
        return Err(Failure::new(Exit::System, "nobody was revoked: the run was interrupted", ""));
    }
    Ok(slowest.as_secs_f64() * 1e3)
}

/// A connection to each shard: the kernel spreads them, so some are made for nothing.
async fn on_every_shard(host: &NodeHost, keys: &Arc<AgentKeys>) -> Result<Vec<(RawConnection, RawStream)>, Failure> {
    let mut by_shard: Vec<Option<(RawConnection, RawStream)>> = (0..SHARDS).map(|_| None).collect();
    while by_shard.iter().any(Option::is_none) {
        let connection = RawConnection::connect(host.address(), &host.certificate(), WITHIN).await;
        let connection = connection.map_err(|error| connect_failure(&error))?;
        let (control, accepted) = connection.log_in(keys).await.map_err(|error| connect_failure(&error))?;
        by_shard[accepted.shard_index as usize % usize::from(SHARDS)] = Some((connection, control));
    }
    Ok(by_shard.into_iter().flatten().collect())
}

async fn revoke(
    operator: &Client,
    keys: &AgentKeys,
    connections: &[(RawConnection, RawStream)],
) -> Result<Duration, Failure> {
    let change = StateChange { state: StateWord::Revoked, reason: Some("a measurement".to_owned()), since_ms: None };
    let asked = Instant::now();
    let closing = async {
        for (connection, _) in connections {
            let closed = timeout(WITHIN, connection.closed()).await;
            if !closed.is_ok_and(|error| error.code() == Some(RejectCode::AgentRevoked)) {
                let what = format!("a revoked agent was still connected after {} s", WITHIN.as_secs());
                return Err(Failure::new(Exit::Found, what, "say so to the developers: this must not be"));
            }
        }
        Ok(asked.elapsed())
    };
    let (changed, closed) = tokio::join!(operator.set_state(keys.name(), &change), closing);
    changed.map_err(|error| control_failure(&error))?;
    closed
}
