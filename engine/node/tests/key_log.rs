//! The key log of a real node over QUIC: what is proven, what a restart and a kill leave of it, and that a new key is a leaf before
//! anybody is given it.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::path::{Path, PathBuf};

use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, TrustDomain};
use creto_node::Node;
use creto_service::client::Client;
use home::{Home, now_ms, on_time};

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

/// Registers an agent whose keys are in a file.
async fn with_file(home: &Home, node: &Node, agent: &str) -> PathBuf {
    let path = home.path().join(agent.replace('/', "-"));
    let keys = AgentKeys::generate(name(agent), TrustDomain::default()).unwrap();
    keys.save(&path).unwrap();
    let record = keys.signed_record(1, now_ms() - 1_000, now_ms() + 86_400_000);
    Client::new(node.control_socket()).register(&record).await.unwrap();
    path
}

async fn connect(home: &Home, node: &Node, path: &Path) -> Agent {
    let keys = AgentKeys::load(path).unwrap();
    Agent::connect(ConnectOptions::new(node.address(), home.certificate.clone(), keys)).await.unwrap()
}

/// Leaves that this agent has read, all of which were those of a signed head.
async fn read(agent: &Agent) -> u64 {
    let status = agent.read_key_log().await;
    assert_eq!(status.alarm, None);
    assert_eq!(status.read, status.size);
    status.read
}

#[test]
fn every_key_is_proven_and_the_log_grows_over_rotations_and_restarts() {
    on_time(async {
        let home = Home::new();
        let mut node = home.start();
        let (planner, worker) =
            (with_file(&home, &node, "acme/planner").await, with_file(&home, &node, "acme/worker").await);
        let mut expected = 2;
        let mut identity = None;
        for round in 0..3 {
            let agent = connect(&home, &node, &planner).await;
            let other = connect(&home, &node, &worker).await;
            assert_eq!(read(&agent).await, expected, "round {round}");
            other.rotate_keys().await.unwrap();
            expected += 1;
            let found = agent.fingerprint(&name("acme/worker")).await.unwrap();
            assert_eq!((found.version, found.place.size), (round + 2, expected));
            assert_eq!(other.fingerprint(&name("acme/worker")).await.unwrap().record, found.record);
            assert!(identity.is_none_or(|identity| identity == found.identity));
            identity = Some(found.identity);
            // The next process goes on with what this one saw.
            agent.send(&name("acme/worker"), "to the newest key").await.unwrap();
            assert_eq!((agent.stats().key_log_refused, agent.stats().key_log_alarms), (0, 0));
            agent.close().await;
            other.close().await;
            node.stop().unwrap();
            node = home.start();
        }
        let agent = connect(&home, &node, &planner).await;
        assert_eq!(read(&agent).await, expected);
        agent.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn what_a_killed_node_leaves_is_the_log_that_agents_saw() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let planner = with_file(&home, &node, "acme/planner").await;
        let agent = connect(&home, &node, &planner).await;
        for round in 0..5 {
            with_file(&home, &node, &format!("acme/worker-{round}")).await;
            assert_eq!(read(&agent).await, round + 2);
        }
        agent.close().await;
        // The directory is still open: this is what a killed process leaves behind.
        let (live, copy) = (home.path().join("data/control.redb"), home.path().join("killed.redb"));
        std::fs::copy(&live, &copy).unwrap();
        node.stop().unwrap();
        std::fs::rename(&copy, &live).unwrap();
        let node = home.start();
        let agent = connect(&home, &node, &planner).await;
        assert_eq!(read(&agent).await, 6);
        assert_eq!(agent.fingerprint(&name("acme/worker-4")).await.unwrap().place.size, 6);
        agent.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn a_revocation_is_a_leaf_and_no_alarm_of_the_revoked() {
    on_time(async {
        use creto_service::states::{StateChange, StateWord};
        let home = Home::new();
        let node = home.start();
        let (planner, _) =
            (with_file(&home, &node, "acme/planner").await, with_file(&home, &node, "acme/worker").await);
        let agent = connect(&home, &node, &planner).await;
        assert_eq!(read(&agent).await, 2);
        let change = StateChange { state: StateWord::Revoked, reason: None, since_ms: None };
        Client::new(node.control_socket()).set_state(&name("acme/worker"), &change).await.unwrap();
        assert_eq!(read(&agent).await, 3);
        agent.close().await;
        node.stop().unwrap();
    });
}
