//! How long it takes to replace an agent's encryption key, end to end: a node of its own, a real disk on both sides, an
//! agent whose keys are in a file. From the call, over the new key, its file, which is synced before anybody hears of the
//! key, and its signed record, until the node has said that the record is durable and counts.

use std::sync::Arc;
use std::time::Instant;

use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, TrustDomain};
use creto_service::client::Client;

use super::on_a_node;
use crate::client::{connect_failure, control_failure, keys_failure};
use crate::exit::{Exit, Failure};
use crate::moment::now_ms;

const DAY_MS: u64 = 86_400_000;
/// Rotations before those that count.
const WARM_UP: usize = 3;

/// The median of this many rotations, in milliseconds.
pub(crate) fn measure(samples: usize) -> Result<f64, Failure> {
    let mut took = Vec::new();
    on_a_node("creto-bench-", None, 1, false, async |host, _| {
        host.start().await?;
        let name = AgentName::parse("acme/planner").expect("a constant name");
        let file = host.folder().join("planner.keys");
        let keys = AgentKeys::generate(name, TrustDomain::default()).map_err(|error| keys_failure(&error))?;
        keys.save(&file).map_err(|error| keys_failure(&error))?;
        let keys = AgentKeys::load(&file).map_err(|error| keys_failure(&error))?;
        let now_ms = now_ms();
        let record = keys.signed_record(keys.record_version(), now_ms.saturating_sub(DAY_MS), now_ms + DAY_MS);
        let client = Client::new(host.control_socket());
        client.register(&record).await.map_err(|error| control_failure(&error))?;
        let options = ConnectOptions::new(host.address(), host.certificate(), Arc::new(keys));
        let agent = Agent::connect(options).await.map_err(|error| connect_failure(&error))?;
        for _ in 0..WARM_UP + samples {
            let begun = Instant::now();
            agent.rotate_keys().await.map_err(|error| Failure::of(Exit::Refused, &error))?;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        agent.close().await;
        Ok(Exit::Ok)
    })?;
    let counted = took.get_mut(WARM_UP..).unwrap_or_default();
    counted.sort_unstable_by(f64::total_cmp);
    let middle = counted.get(counted.len() / 2).copied();
    middle.ok_or_else(|| Failure::new(Exit::System, "the key was not replaced: the run was interrupted", ""))
}
