//! Alerts in a channel: one agent publishes, two read everything, two more share the work as a group. Starts a node of its own in a
//! temporary folder, so one command shows it:
//!
//! `cargo run -p creto-agent --example alerts`

// A node and agents of it, as in the documentation's examples.
mod node {
    include!("../doc/node.rs");
}

use creto_agent::channel::{ChannelName, ChannelRecord, Publishing, Subscribing};
use creto_agent::{Agent, ChannelError, ChannelSubscription, SubscribeOptions};

const ALERTS: usize = 6;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    node::with_node(async |node| {
        let channel = ChannelName::parse("acme/alerts.eu")?;
        // What `creto channel create acme/alerts.eu --owner acme/planner` does.
        node.create_channel("planner", |owner| open_channel(owner, &channel)).await?;
        let mut agents = Vec::new();
        for name in ["planner", "reader-1", "reader-2", "worker-1", "worker-2"] {
            agents.push(node.connect(name).await?);
        }
        let [publisher, readers @ ..] = &agents[..] else { unreachable!("there are five") };
        for (name, alerts) in alerts(publisher, readers, &channel).await? {
            println!("{name}: {}", alerts.join(", "));
        }
        for agent in agents {
            agent.close().await;
        }
        Ok(())
    })
}

/// A channel that everybody may read and publish to, as far as the node's policy lets them.
pub(crate) fn open_channel(owner: &creto_agent::AgentKeys, name: &ChannelName) -> ChannelRecord {
    ChannelRecord {
        version: 1,
        name: name.clone(),
        trust_domain: owner.trust_domain().clone(),
        owner: owner.id(),
        owner_key_version: 1,
        signed_at_ms: 0,
        subscribing: Subscribing::Open,
        publishing: Publishing::Open,
        has_history: false,
        is_deleted: false,
        retention_s: 3_600,
        messages_max: 10_000,
        bytes_max: 1 << 26,
        subscribers_max: 100,
    }
}

/// Publishes alerts, and says who read which. The first two read for themselves, the others as a group.
pub(crate) async fn alerts(
    publisher: &Agent,
    readers: &[Agent],
    channel: &ChannelName,
) -> Result<Vec<(String, Vec<String>)>, ChannelError> {
    let mut subscriptions = Vec::new();
    for (index, reader) in readers.iter().enumerate() {
        let group = (index >= 2).then(|| "workers".to_owned());
        let options = SubscribeOptions { group, ..SubscribeOptions::default() };
        subscriptions.push(reader.subscribe_channel(channel, options).await?);
    }
    let mut group = subscriptions.split_off(2);
    let publisher = publisher.publisher(channel).await?;
    for n in 1..=ALERTS {
        publisher.publish(format!("alert {n}")).await?; // durable when it returns
    }
    let mut read = Vec::new();
    for (reader, subscription) in readers.iter().zip(&mut subscriptions) {
        let mut alerts = Vec::new();
        while alerts.len() < ALERTS {
            alerts.push(next(subscription).await?);
        }
        read.push((reader.name().to_string(), alerts));
    }
    let [first, second] = &mut group[..] else { unreachable!("two share the work") };
    let mut shares = [Vec::new(), Vec::new()];
    while shares[0].len() + shares[1].len() < ALERTS {
        // Whoever is free takes the next one.
        tokio::select! {
            alert = next(first) => shares[0].push(alert?),
            alert = next(second) => shares[1].push(alert?),
        }
    }
    read.extend(readers[2..].iter().map(|reader| reader.name().to_string()).zip(shares));
    Ok(read)
}

async fn next(subscription: &mut ChannelSubscription) -> Result<String, ChannelError> {
    let message = subscription.next().await.unwrap_or(Err(ChannelError::Closed))?;
    message.ack(); // the work is done
    Ok(String::from_utf8_lossy(&message.payload).into_owned())
}
