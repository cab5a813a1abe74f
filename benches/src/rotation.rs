//! How long it takes to replace an encryption key on a whole node: a real key file, a real directory on disk.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::time::{Duration, Instant};

use creto_agent::{AgentKeys, AgentName, TrustDomain};

use crate::node::BenchNode;

/// Rotations that do not count. A node takes 64 keys of one agent within an hour.
const WARM_UP: usize = 5;

/// What each rotation took.
#[derive(Clone, Debug)]
pub struct Rotations {
    /// From the record on its way to the node's word that it is durable and counts; the shortest first.
    pub published: Vec<Duration>,
    /// The whole call of the SDK, which asks for the current record first and syncs the key file twice.
    pub whole: Vec<Duration>,
}

/// Replaces the key of a new agent this many times, at most 59, and a few times before.
///
/// # Panics
/// When a rotation fails.
pub async fn measure(node: &BenchNode, rotations: usize) -> Rotations {
    let keys = AgentKeys::generate(AgentName::parse("acme/rotor").unwrap(), TrustDomain::default()).unwrap();
    keys.save(node.folder().join("rotor.keys")).unwrap();
    node.register(&keys).await;
    let agent = node.connect(keys).await;
    let mut found = Rotations { published: Vec::new(), whole: Vec::new() };
    for rotation in 0..WARM_UP + rotations {
        let begun = Instant::now();
        let published = agent.rotate_keys().await.unwrap().published_in;
        if rotation >= WARM_UP {
            found.published.push(published);
            found.whole.push(begun.elapsed());
        }
    }
    agent.close().await;
    found.published.sort_unstable();
    found.whole.sort_unstable();
    found
}
