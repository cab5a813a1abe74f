//! Agents that replace their keys through the SDK, on a real node: under load, after crashes, with an older file.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use creto_agent::{
    Agent, AgentKeys, AgentName, ConnectOptions, KeysError, RejectCode, RotateError, RotationSchedule, TrustDomain,
};
use creto_node::Node;
use creto_service::client::Client;
use home::{Home, now_ms, on_time};

const HOUR_MS: u64 = 3_600_000;

fn options(home: &Home, node: &Node, keys: AgentKeys) -> ConnectOptions {
    ConnectOptions::new(node.address(), home.certificate.clone(), keys)
}

/// An agent with a key file, registered with version 1 from this moment on.
async fn with_file(home: &Home, node: &Node, name: &str, valid_from_ms: u64) -> (PathBuf, AgentKeys) {
    let name = AgentName::parse(name).unwrap();
    let path = home.path().join(name.as_str().replace('/', "-"));
    let keys = AgentKeys::generate(name, TrustDomain::default()).unwrap();
    keys.save(&path).unwrap();
    let record = keys.signed_record(1, valid_from_ms, now_ms() + 24 * HOUR_MS);
    Client::new(node.control_socket()).register(&record).await.unwrap();
    (path, keys)
}

/// Versions as the node lists them.
async fn states(node: &Node, name: &AgentName) -> Vec<(u32, String)> {
    let keys = Client::new(node.control_socket()).keys(name).await.unwrap();
    keys.versions.into_iter().map(|version| (version.version, version.state)).collect()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never happened that {what}");
}

/// Sends numbers as fast as it may until told to stop; how many were acknowledged, and that none was refused.
async fn send_numbers(agent: Agent, to: AgentName, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) -> u64 {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let payloads = (number..number + 128).map(|number: u64| (&to, number.to_le_bytes().to_vec()));
        for answer in agent.send_many(payloads).await {
            answer.expect("a message is acknowledged, whatever becomes of keys meanwhile");
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        number += 128;
    }
    agent.close().await;
    number
}

#[test]
fn ten_rotations_and_an_emergency_under_load_lose_no_message_and_repeat_none() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (path, executor) = with_file(&home, &node, "acme/executor", now_ms() - 1_000).await;
        let to = executor.name().clone();
        let executor = Agent::connect(options(&home, &node, executor)).await.unwrap();
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut senders = Vec::new();
        for name in ["acme/a", "acme/b"] {
            let keys = home.register(&node, name).await;
            let agent = home.connect(&node, keys).await;
            senders.push((
                name.to_owned(),
                tokio::spawn(send_numbers(agent, to.clone(), Arc::clone(&stop), Arc::clone(&acknowledged))),
            ));
        }

        let mut incidents = executor.incidents();
        let receiving = tokio::spawn({
            let executor = executor.clone();
            async move {
                let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
                while let Ok(delivery) = executor.receive().await {
                    let number = u64::from_le_bytes(delivery.payload.as_ref().try_into().unwrap());
                    if number == u64::MAX {
                        delivery.ack();
                        break;
                    }
                    seen.entry(delivery.from.to_string()).or_default().push(number);
                    delivery.ack();
                }
                seen
            }
        });

        let mut slowest = Duration::ZERO;
        for version in 2..=12 {
            // Each key gets messages of its own.
            let before = acknowledged.load(Ordering::Relaxed);
            eventually("messages flow", async || acknowledged.load(Ordering::Relaxed) > before + 300).await;
            let rotation = match version {
                12 => executor.rotate_compromised_keys().await.unwrap(),
                _ => executor.rotate_keys().await.unwrap(),
            };
            assert_eq!(rotation.version, version);
            slowest = slowest.max(rotation.published_in);
        }
        let before = acknowledged.load(Ordering::Relaxed);
        eventually("messages flow after the emergency", async || acknowledged.load(Ordering::Relaxed) > before + 300)
            .await;
        stop.store(true, Ordering::Relaxed);
        let mut sent = BTreeMap::new();
        for (name, sender) in senders {
            sent.insert(name, sender.await.unwrap());
        }
        // Behind all of theirs, from one whose messages come last: the mailbox is one queue.
        let last = home.register(&node, "acme/last").await;
        home.connect(&node, last).await.send(&to, u64::MAX.to_le_bytes().to_vec()).await.unwrap();

        let seen = receiving.await.unwrap();
        for (name, count) in &sent {
            assert!(*count > 1_000, "vacuous: {name} sent {count}");
            let mut times = vec![0; usize::try_from(*count).unwrap()];
            seen[name].iter().for_each(|number| times[usize::try_from(*number).unwrap()] += 1);
            let wrong: Vec<_> = times.iter().enumerate().filter(|(_, times)| **times != 1).take(20).collect();
            assert!(wrong.is_empty(), "{name}: not once, but so often: {wrong:?}; {:?}", executor.stats());
        }
        assert_eq!(executor.stats().keys_rotated, 11);
        let listed = states(&node, &to).await;
        assert_eq!(listed[0], (12, "current".to_owned()));
        assert!(listed[1..].iter().all(|(_, state)| state == "revoked"), "{listed:?}");
        let total: u64 = sent.values().sum();
        println!("{total} messages over 12 keys; the slowest rotation was published in {slowest:?}");
        drop(executor);
        assert!(tokio::time::timeout(Duration::from_millis(200), incidents.next()).await.is_ok_and(|i| i.is_none()));
        assert_eq!(AgentKeys::load(&path).unwrap().record_version(), 12);
        node.stop().unwrap();
    });
}

/// Writes a key file as a process leaves it that dies between saving the next key and the node's answer.
fn save_with_pending(path: &Path, name: &AgentName, encryption: [u8; 2]) {
    use base64::Engine as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let seed = |byte: u8| base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    let [current, pending] = encryption.map(seed);
    let text = format!(
        r#"{{"format": 2, "name": "{name}", "trust_domain": "creto.local",
            "ed25519_seed": "{0}", "ml_dsa_65_seed": "{0}", "encryption_keys": [
            {{"version": 2, "state": "pending", "x_wing_seed": "{pending}"}},
            {{"version": 1, "state": "current", "x_wing_seed": "{current}"}}]}}"#,
        seed(7)
    );
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

/// The same keys by themselves, for what happens outside of the file.
fn seeded(name: &AgentName, version: u32, encryption: u8) -> AgentKeys {
    AgentKeys::from_seeds(name.clone(), TrustDomain::default(), version, &[7; 32], &[7; 32], &[encryption; 32])
}

async fn register_seeded(node: &Node, keys: &AgentKeys) {
    let record = keys.signed_record(keys.record_version(), now_ms() - 1_000, now_ms() + 24 * HOUR_MS);
    Client::new(node.control_socket()).register(&record).await.unwrap();
}

#[test]
fn a_key_that_was_saved_and_not_published_is_published_with_the_next_connection() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let name = AgentName::parse("acme/executor").unwrap();
        register_seeded(&node, &seeded(&name, 1, 1)).await;
        let path = home.path().join("executor.keys");
        save_with_pending(&path, &name, [1, 2]);
        let agent = Agent::connect(options(&home, &node, AgentKeys::load(&path).unwrap())).await.unwrap();
        eventually("the saved key is current", async || states(&node, &name).await[0].0 == 2).await;
        eventually("the file knows", async || AgentKeys::load(&path).unwrap().record_version() == 2).await;
        assert_eq!(AgentKeys::load(&path).unwrap().key_id(), seeded(&name, 2, 2).key_id());
        agent.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn a_key_that_was_published_and_whose_answer_was_lost_is_adopted() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let name = AgentName::parse("acme/executor").unwrap();
        register_seeded(&node, &seeded(&name, 1, 1)).await;
        // What the process that died had done: the file, then the publish, and no answer.
        let path = home.path().join("executor.keys");
        save_with_pending(&path, &name, [1, 2]);
        publish_raw(&home, &node, &seeded(&name, 1, 1), &seeded(&name, 2, 2)).await;
        let sender = home.register(&node, "acme/planner").await;
        let sender = home.connect(&node, sender).await;
        sender.send(&name, "sealed to the new key").await.unwrap();

        let agent = Agent::connect(options(&home, &node, AgentKeys::load(&path).unwrap())).await.unwrap();
        let delivery = agent.receive().await.unwrap();
        assert_eq!(delivery.payload.as_ref(), b"sealed to the new key");
        delivery.ack();
        eventually("the file knows", async || AgentKeys::load(&path).unwrap().record_version() == 2).await;
        assert_eq!(states(&node, &name).await.len(), 2, "and nothing was published again");
        agent.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn a_file_that_is_behind_works_and_does_not_rotate_but_in_an_emergency() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let name = AgentName::parse("acme/executor").unwrap();
        register_seeded(&node, &seeded(&name, 1, 1)).await;
        let path = home.path().join("executor.keys");
        seeded(&name, 1, 1).save(&path).unwrap();
        // Another copy of the file was rotated.
        publish_raw(&home, &node, &seeded(&name, 1, 1), &seeded(&name, 2, 9)).await;

        let agent = Agent::connect(options(&home, &node, AgentKeys::load(&path).unwrap())).await.unwrap();
        let planner = home.register(&node, "acme/planner").await;
        let planner_name = planner.name().clone();
        agent.send(&planner_name, "it may still send").await.unwrap();
        assert!(matches!(agent.rotate_keys().await, Err(RotateError::Behind { node_version: 2 })));
        assert_eq!(states(&node, &name).await.len(), 2);
        let rotation = agent.rotate_compromised_keys().await.unwrap();
        assert_eq!(rotation.version, 3);
        let planner = home.connect(&node, planner).await;
        planner.send(&name, "and now it reads again").await.unwrap();
        assert_eq!(agent.receive().await.unwrap().payload.as_ref(), b"and now it reads again");
        agent.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn a_key_is_replaced_on_schedule_and_one_that_is_young_is_not() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (_, old) = with_file(&home, &node, "acme/old", now_ms() - 2 * HOUR_MS).await;
        let (_, young) = with_file(&home, &node, "acme/young", now_ms() - HOUR_MS / 2).await;
        let (old_name, young_name) = (old.name().clone(), young.name().clone());
        let mut agents = Vec::new();
        for keys in [old, young] {
            let options = ConnectOptions { rotation: RotationSchedule::Hourly, ..options(&home, &node, keys) };
            agents.push(Agent::connect(options).await.unwrap());
        }
        eventually("the old key is replaced", async || states(&node, &old_name).await.len() == 2).await;
        assert_eq!(agents[1].rotate_keys().await.unwrap().version, 2, "the young one only when it is told to");
        assert_eq!(states(&node, &young_name).await.len(), 2);
        assert_eq!(states(&node, &old_name).await.len(), 2, "once, not again and again");
        node.stop().unwrap();
    });
}

#[test]
fn keys_without_a_file_are_not_replaced() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let keys = home.register(&node, "acme/memory").await;
        let agent = home.connect(&node, keys).await;
        let error = agent.rotate_keys().await.unwrap_err();
        assert!(error.to_string().contains("save them first"), "{error}");
        agent.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn an_agent_whose_file_was_taken_by_anothers_keys_rotates_nothing_and_leaves_them_alone() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (path, keys) = with_file(&home, &node, "acme/executor", now_ms() - 1_000).await;
        let name = keys.name().clone();
        let agent = Agent::connect(options(&home, &node, keys)).await.unwrap();
        let own = std::fs::read(&path).unwrap();
        let (other_path, _) = with_file(&home, &node, "acme/stranger", now_ms() - 1_000).await;
        std::fs::copy(&other_path, &path).unwrap();
        for rotated in [agent.rotate_keys().await, agent.rotate_compromised_keys().await] {
            let error = rotated.unwrap_err();
            assert!(matches!(error, RotateError::Keys(KeysError::OtherKeys { .. })), "{error}");
            assert!(error.to_string().contains("holds keys of acme/stranger"), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&other_path).unwrap());
        assert_eq!(states(&node, &name).await.len(), 1, "the node heard of no new key");
        std::fs::write(&path, own).unwrap();
        assert_eq!(agent.rotate_keys().await.unwrap().version, 2, "with its own file back it goes on");
        agent.close().await;
        node.stop().unwrap();
    });
}

/// Publishes the next key past the SDK, as another copy of the keys would.
async fn publish_raw(home: &Home, node: &Node, signed_in: &AgentKeys, next: &AgentKeys) {
    use creto_agent::raw::RawConnection;
    use creto_envelope::Purpose;
    use creto_envelope::control::{KeyRecordPublish, RotationMode};
    let keys = seeded(signed_in.name(), signed_in.record_version(), 0);
    let connection = RawConnection::connect(node.address(), &home.certificate, Duration::from_secs(10)).await.unwrap();
    let (mut control, _) = connection.log_in(&Arc::new(keys)).await.unwrap();
    let (purpose, valid_ms) = (Purpose::Rotation(RotationMode::Planned), now_ms() - 1_000..now_ms() + 24 * HOUR_MS);
    let record = next.signed_record_for(purpose, next.record_version(), valid_ms);
    let mut frame = Vec::new();
    KeyRecordPublish { mode: RotationMode::Planned, record }.encode(&mut frame);
    control.send(frame).await.unwrap();
    let answer = control.next().await.unwrap().unwrap();
    assert_eq!(answer.reject_code(), None::<RejectCode>);
}
