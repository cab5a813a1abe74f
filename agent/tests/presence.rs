//! Presence against a real node: off unless an agent shows itself, and one answer for all that is not to be known.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::time::Duration;

use creto_agent::{Agent, AgentName, ConnectOptions, Presence, PresencePolicy};
use creto_node::Node;
use home::{Home, on_time};
use tokio::time::sleep;

async fn connect(home: &Home, node: &Node, name: &str, presence: PresencePolicy) -> Agent {
    let keys = home.register(node, name).await;
    let mut options = ConnectOptions::new(node.address(), home.certificate.clone(), keys);
    options.presence = presence;
    Agent::connect(options).await.unwrap()
}

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

/// Asks until it is so: nobody says when the node has heard of a subscription, or of its end.
async fn until(asker: &Agent, agent: &str, is_so: impl Fn(Presence) -> bool) -> Presence {
    loop {
        let presence = asker.presence(&name(agent)).await.unwrap();
        if is_so(presence) {
            return presence;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn an_agent_that_shows_itself_is_online_while_it_receives_and_was_seen_afterwards() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with("topology.shards = 2\n");
        let a = connect(&home, &node, "acme/a", PresencePolicy::Nobody).await;
        let stranger = connect(&home, &node, "other/agent", PresencePolicy::Nobody).await;
        let b = connect(&home, &node, "acme/b", PresencePolicy::Senders).await;
        assert_eq!(
            a.presence(&name("acme/b")).await.unwrap(),
            Presence::Unknown,
            "it is connected, and does not receive"
        );
        let mailbox = b.subscribe().unwrap();
        until(&a, "acme/b", |presence| presence == Presence::Online).await;
        assert_eq!(stranger.presence(&name("acme/b")).await.unwrap(), Presence::Unknown);
        drop(mailbox);
        b.close().await;
        let seen = until(&a, "acme/b", |presence| presence != Presence::Online).await;
        assert_eq!(seen, Presence::Seen { ago: Duration::ZERO });
        for agent in [a, stranger] {
            agent.close().await;
        }
        node.stop().unwrap();
    });
}

#[test]
fn an_agent_that_does_not_show_itself_is_unknown_like_one_that_does_not_exist() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let a = connect(&home, &node, "acme/a", PresencePolicy::Nobody).await;
        let b = connect(&home, &node, "acme/b", PresencePolicy::default()).await;
        a.send(&name("acme/b"), "are you there?").await.unwrap();
        b.receive().await.unwrap().ack();
        for agent in ["acme/b", "acme/nobody", "acme/a"] {
            assert_eq!(a.presence(&name(agent)).await.unwrap(), Presence::Unknown, "{agent}");
        }
        b.close().await;
        a.close().await;
        node.stop().unwrap();
    });
}
