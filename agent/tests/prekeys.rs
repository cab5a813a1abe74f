//! Prekeys from end to end: agents whose keys and state are in files, a real node, QUIC.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::path::PathBuf;
use std::time::Duration;

use creto_agent::limits::PREKEYS_STOCK;
use creto_agent::{
    Agent, AgentKeys, AgentName, ConnectError, ConnectOptions, PrekeyPolicy, RejectCode, RotationSchedule, SendError,
    SessionPolicy, StateDirectory,
};
use creto_node::Node;
use creto_service::api::AgentPrekeys;
use creto_service::client::Client;
use home::{Home, on_time};

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

async fn key_file(home: &Home, node: &Node, agent: &str) -> PathBuf {
    let path = home.path().join(format!("{}.keys", agent.replace('/', "-")));
    home.register(node, agent).await.save(&path).unwrap();
    path
}

fn options(home: &Home, node: &Node, keys: &PathBuf, prekeys: PrekeyPolicy) -> ConnectOptions {
    let keys = AgentKeys::load(keys).unwrap();
    ConnectOptions { prekeys, ..ConnectOptions::new(node.address(), home.certificate.clone(), keys) }
}

async fn connect(home: &Home, node: &Node, keys: &PathBuf, prekeys: PrekeyPolicy) -> Agent {
    Agent::connect(options(home, node, keys, prekeys)).await.unwrap()
}

/// Waits until the node has as many one-time prekeys of an agent as it wants.
async fn stocked(node: &Node, agent: &str, enough: impl Fn(&AgentPrekeys) -> bool) -> AgentPrekeys {
    let client = Client::new(node.control_socket());
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let stock = client.prekeys(&name(agent)).await.unwrap();
        if enough(&stock) {
            return stock;
        }
        assert!(tokio::time::Instant::now() < end, "not in time: {stock:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn full(stock: &AgentPrekeys) -> bool {
    stock.one_time == PREKEYS_STOCK && stock.last_resort
}

/// A node with a recipient that receives.
struct World {
    home: Home,
    node: Node,
    worker: PathBuf,
}

impl World {
    async fn new() -> Self {
        let home = Home::new();
        let node = home.start();
        let worker = key_file(&home, &node, "acme/worker").await;
        Self { home, node, worker }
    }

    async fn agent(&self, agent: &str, prekeys: PrekeyPolicy) -> Agent {
        let keys = key_file(&self.home, &self.node, agent).await;
        connect(&self.home, &self.node, &keys, prekeys).await
    }

    /// The recipient, whose prekeys are with the node when this returns.
    async fn receiving(&self) -> (Agent, creto_agent::Subscription) {
        let worker = connect(&self.home, &self.node, &self.worker, PrekeyPolicy::Prefer).await;
        let mailbox = worker.subscribe().unwrap();
        stocked(&self.node, "acme/worker", full).await;
        (worker, mailbox)
    }
}

async fn take(mailbox: &mut creto_agent::Subscription, expect: &str) {
    let delivery = mailbox.next().await.unwrap().unwrap();
    assert_eq!(delivery.payload, expect);
    delivery.ack();
}

#[test]
fn sessions_are_opened_to_prekeys_that_are_used_once_and_go_on_over_restarts() {
    on_time(async {
        let world = World::new().await;
        let (worker, mut mailbox) = world.receiving().await;
        let a = world.agent("acme/a", PrekeyPolicy::Require).await;
        let b = world.agent("acme/b", PrekeyPolicy::Prefer).await;
        for n in 0..3 {
            for sender in [&a, &b] {
                sender.send(&name("acme/worker"), n.to_string()).await.unwrap();
                take(&mut mailbox, &n.to_string()).await;
            }
        }
        for sender in [&a, &b] {
            let stats = sender.stats();
            assert_eq!((stats.prekeys_claimed, stats.prekeys_last_resort, stats.encapsulations), (1, 0, 1));
        }
        let stock = stocked(&world.node, "acme/worker", |_| true).await;
        assert_eq!((stock.one_time, stock.last_resort), (PREKEYS_STOCK - 2, true), "two sessions, one each");
        let stats = worker.stats();
        assert_eq!(
            (stats.prekeys_used, stats.prekeys_uploaded, stats.sessions_accepted),
            (2, u64::from(PREKEYS_STOCK) + 1, 2)
        );
        assert_eq!(stats.rejected_total(), 0);
        a.close().await;
        worker.close().await;
        drop(mailbox);

        // Both start again. The session goes on, its prekey is gone, and no other one is used.
        let keys = world.home.path().join("acme-a.keys");
        let a = connect(&world.home, &world.node, &keys, PrekeyPolicy::Require).await;
        a.send(&name("acme/worker"), "again").await.unwrap();
        assert_eq!((a.stats().prekeys_claimed, a.stats().encapsulations), (0, 0));
        let worker = connect(&world.home, &world.node, &world.worker, PrekeyPolicy::Prefer).await;
        let mut mailbox = worker.subscribe().unwrap();
        take(&mut mailbox, "again").await;
        assert_eq!((worker.stats().sessions_accepted, worker.stats().prekeys_used), (0, 0));
        // A new session takes another prekey.
        a.renew_sessions().await.unwrap();
        a.send(&name("acme/worker"), "anew").await.unwrap();
        take(&mut mailbox, "anew").await;
        assert_eq!((a.stats().prekeys_claimed, worker.stats().prekeys_used), (1, 1));
        a.close().await;
        b.close().await;
        worker.close().await;
        world.node.stop().unwrap();
    });
}

#[test]
fn a_recipient_that_dies_before_it_acknowledges_reads_the_message_again_although_its_prekey_is_gone() {
    on_time(async {
        let world = World::new().await;
        let (worker, mut mailbox) = world.receiving().await;
        let a = world.agent("acme/a", PrekeyPolicy::Require).await;
        a.send(&name("acme/worker"), "one").await.unwrap();
        let held = mailbox.next().await.unwrap().unwrap();
        assert_eq!((held.payload.as_ref(), worker.stats().prekeys_used), (&b"one"[..], 1));
        // Its process ends without an acknowledgement.
        drop(held);
        drop(mailbox);
        worker.close().await;
        let worker = connect(&world.home, &world.node, &world.worker, PrekeyPolicy::Prefer).await;
        let mut mailbox = worker.subscribe().unwrap();
        take(&mut mailbox, "one").await;
        assert_eq!((worker.stats().sessions_accepted, worker.stats().rejected_total()), (0, 0));
        a.close().await;
        worker.close().await;
        world.node.stop().unwrap();
    });
}

#[test]
fn without_a_prekey_prefer_takes_the_key_of_the_record_and_require_sends_nothing() {
    on_time(async {
        let world = World::new().await;
        // It receives, and was told to have none.
        let worker = connect(&world.home, &world.node, &world.worker, PrekeyPolicy::Off).await;
        let mut mailbox = worker.subscribe().unwrap();
        let prefers = world.agent("acme/a", PrekeyPolicy::Prefer).await;
        prefers.send(&name("acme/worker"), "all the same").await.unwrap();
        take(&mut mailbox, "all the same").await;
        assert_eq!((prefers.stats().prekeys_missing, prefers.stats().prekeys_claimed), (1, 0));
        let off = world.agent("acme/b", PrekeyPolicy::Off).await;
        off.send(&name("acme/worker"), "does not ask").await.unwrap();
        take(&mut mailbox, "does not ask").await;
        assert_eq!(off.stats().prekeys_missing, 0);
        let requires = world.agent("acme/c", PrekeyPolicy::Require).await;
        let refused = requires.send(&name("acme/worker"), "not at all").await.unwrap_err();
        assert!(matches!(refused, SendError::NoPrekey { .. }), "{refused}");
        assert_eq!(refused.code(), Some(RejectCode::NoPrekey));
        // Nobody has that name: the same error as ever.
        let unknown = requires.send(&name("acme/nobody"), "?").await.unwrap_err();
        assert_eq!(unknown.code(), Some(RejectCode::UnknownAgent));
        worker.close().await;
        // It changes its mind, and what was refused goes now.
        let (worker, mut mailbox) = world.receiving().await;
        requires.send(&name("acme/worker"), "at last").await.unwrap();
        take(&mut mailbox, "at last").await;
        assert_eq!(requires.stats().prekeys_claimed, 1);
        let keys = world.home.path().join("acme-c.keys");
        let impossible = options(&world.home, &world.node, &keys, PrekeyPolicy::Require);
        let impossible = ConnectOptions { sessions: SessionPolicy::Off, ..impossible };
        assert!(matches!(Agent::connect(impossible).await, Err(ConnectError::PrekeysWithoutSessions)));
        worker.close().await;
        world.node.stop().unwrap();
    });
}

#[test]
fn whoever_takes_more_than_its_share_gets_the_last_resort_and_the_owner_makes_new_ones() {
    on_time(async {
        let world = World::new().await;
        let (worker, mut mailbox) = world.receiving().await;
        let mut senders = Vec::new();
        for sender in ["acme/a", "acme/b", "acme/c", "acme/d"] {
            senders.push(world.agent(sender, PrekeyPolicy::Require).await);
        }
        // Each of these takes one, and each sender its share of an hour; at 31 the node says so, and the stock is filled up.
        let share = 16;
        for n in 0..share {
            for sender in &senders {
                sender.renew_sessions().await.unwrap();
                sender.send(&name("acme/worker"), n.to_string()).await.unwrap();
                take(&mut mailbox, &n.to_string()).await;
            }
        }
        let uploaded = || worker.stats().prekeys_uploaded;
        assert!(uploaded() > u64::from(PREKEYS_STOCK) + 1, "{}", uploaded());
        let a = senders.swap_remove(0);
        assert_eq!((a.stats().prekeys_claimed, worker.stats().prekeys_used), (share, 4 * share));
        // Its share is used up.
        a.renew_sessions().await.unwrap();
        for n in 0..3 {
            a.send(&name("acme/worker"), n.to_string()).await.unwrap();
            take(&mut mailbox, &n.to_string()).await;
            a.renew_sessions().await.unwrap();
        }
        assert_eq!(
            (a.stats().prekeys_last_resort, a.stats().prekeys_claimed),
            (1, share + 1),
            "one claim serves three sessions"
        );
        assert_eq!((worker.stats().prekeys_used, worker.stats().rejected_total()), (4 * share, 0));
        a.close().await;
        worker.close().await;
        world.node.stop().unwrap();
    });
}

#[test]
fn a_new_key_has_prekeys_of_its_own_and_those_of_the_old_one_still_open() {
    on_time(async {
        let world = World::new().await;
        let (worker, mut mailbox) = world.receiving().await;
        let a = world.agent("acme/a", PrekeyPolicy::Require).await;
        a.send(&name("acme/worker"), "to the first").await.unwrap();
        take(&mut mailbox, "to the first").await;
        assert_eq!(worker.rotate_keys().await.unwrap().version, 2);
        let stock = stocked(&world.node, "acme/worker", |stock| stock.version == 2 && full(stock)).await;
        assert_eq!(stock.version, 2);
        // The session that was opened before goes on for the grace period.
        a.send(&name("acme/worker"), "still").await.unwrap();
        take(&mut mailbox, "still").await;
        assert_eq!(a.stats().prekeys_claimed, 1);
        // A new one goes to a prekey of the new version, of which the sender has not heard before.
        a.renew_sessions().await.unwrap();
        a.send(&name("acme/worker"), "to the second").await.unwrap();
        take(&mut mailbox, "to the second").await;
        assert_eq!((a.stats().prekeys_claimed, a.stats().prekeys_missing), (2, 0));
        // An emergency: sessions to prekeys of the old version are refused, and their messages sealed again.
        assert_eq!(worker.rotate_compromised_keys().await.unwrap().version, 3);
        stocked(&world.node, "acme/worker", |stock| stock.version == 3 && full(stock)).await;
        a.send(&name("acme/worker"), "to the third").await.unwrap();
        take(&mut mailbox, "to the third").await;
        assert_eq!(
            (a.stats().prekeys_claimed, worker.stats().prekeys_used, worker.stats().rejected_total()),
            (3, 3, 0)
        );
        a.close().await;
        worker.close().await;
        world.node.stop().unwrap();
    });
}

#[test]
fn an_agent_without_a_folder_for_its_state_has_none_and_still_claims_others() {
    on_time(async {
        let world = World::new().await;
        let in_memory = ConnectOptions {
            state: StateDirectory::Memory,
            ..options(&world.home, &world.node, &world.worker, PrekeyPolicy::Prefer)
        };
        let worker = Agent::connect(in_memory).await.unwrap();
        let mut mailbox = worker.subscribe().unwrap();
        let a = world.agent("acme/a", PrekeyPolicy::Prefer).await;
        let mut at_a = a.subscribe().unwrap();
        stocked(&world.node, "acme/a", full).await;
        a.send(&name("acme/worker"), "there").await.unwrap();
        take(&mut mailbox, "there").await;
        assert_eq!(a.stats().prekeys_missing, 1);
        worker.send(&name("acme/a"), "and back").await.unwrap();
        take(&mut at_a, "and back").await;
        assert_eq!((worker.stats().prekeys_claimed, worker.stats().prekeys_uploaded), (1, 0));
        a.close().await;
        worker.close().await;
        world.node.stop().unwrap();
    });
}

/// Whether no secret half is in a worker's file any more.
fn is_empty(world: &World) -> bool {
    let file = world.home.path().join("acme-worker.keys.sessions/prekeys");
    std::fs::read(file).unwrap()[512..].iter().all(|byte| *byte == 0)
}

#[test]
fn a_key_that_is_replaced_in_an_emergency_by_a_process_that_does_not_receive_takes_its_prekeys_along() {
    on_time(async {
        let world = World::new().await;
        for (policy, state) in [
            (PrekeyPolicy::Prefer, StateDirectory::BesideKeys),
            (PrekeyPolicy::Off, StateDirectory::BesideKeys),
            (PrekeyPolicy::Prefer, StateDirectory::Memory),
        ] {
            let (worker, mailbox) = world.receiving().await;
            worker.close().await;
            drop(mailbox);
            assert!(!is_empty(&world));
            let options = options(&world.home, &world.node, &world.worker, policy);
            let other = Agent::connect(ConnectOptions { state, ..options }).await.unwrap();
            other.rotate_keys().await.unwrap();
            assert!(!is_empty(&world), "what was sent to them before still opens");
            other.rotate_compromised_keys().await.unwrap();
            assert!(is_empty(&world), "when it returns, under {policy:?}");
            other.close().await;
        }
        world.node.stop().unwrap();
    });
}

#[test]
fn without_a_schedule_no_process_replaces_the_key_of_others_because_it_lacks_their_folder() {
    on_time(async {
        let world = World::new().await;
        let (worker, mailbox) = world.receiving().await;
        worker.close().await;
        drop(mailbox);
        let folder = world.home.path().join("acme-worker.keys.sessions");
        let (kept, mut last_ms) =
            (world.home.path().join("kept"), stocked(&world.node, "acme/worker", full).await.uploaded_at_ms);
        std::fs::rename(&folder, &kept).unwrap();
        // Two processes, each with the key file and a folder that does not last.
        for _ in 0..2 {
            let worker = connect(&world.home, &world.node, &world.worker, PrekeyPolicy::Prefer).await;
            let mailbox = worker.subscribe().unwrap();
            let stock = stocked(&world.node, "acme/worker", |stock| stock.uploaded_at_ms > last_ms).await;
            assert!((stock.version, stock.last_resort) == (1, true) && full(&stock), "{stock:?}");
            assert_eq!(worker.stats().keys_rotated, 0);
            last_ms = stock.uploaded_at_ms;
            worker.close().await;
            drop(mailbox);
            std::fs::remove_dir_all(&folder).unwrap();
        }
        // Whoever has the folder reads on.
        std::fs::rename(&kept, &folder).unwrap();
        let a = world.agent("acme/a", PrekeyPolicy::Require).await;
        a.send(&name("acme/worker"), "to a prekey of the first").await.unwrap();
        let worker = connect(&world.home, &world.node, &world.worker, PrekeyPolicy::Prefer).await;
        let mut mailbox = worker.subscribe().unwrap();
        take(&mut mailbox, "to a prekey of the first").await;
        a.close().await;
        worker.close().await;
        world.node.stop().unwrap();
    });
}

#[test]
fn an_agent_that_lost_its_prekeys_replaces_its_key_and_is_sent_what_it_can_read() {
    on_time(async {
        let world = World::new().await;
        let (worker, mailbox) = world.receiving().await;
        worker.close().await;
        drop(mailbox);
        // A container that keeps its key file and nothing else.
        std::fs::remove_dir_all(world.home.path().join("acme-worker.keys.sessions")).unwrap();
        let options = options(&world.home, &world.node, &world.worker, PrekeyPolicy::Prefer);
        let options = ConnectOptions { rotation: RotationSchedule::Weekly, ..options };
        let worker = Agent::connect(options).await.unwrap();
        let mut mailbox = worker.subscribe().unwrap();
        stocked(&world.node, "acme/worker", |stock| stock.version == 2 && full(stock)).await;
        let a = world.agent("acme/a", PrekeyPolicy::Require).await;
        a.send(&name("acme/worker"), "to a prekey that is there").await.unwrap();
        take(&mut mailbox, "to a prekey that is there").await;
        let stats = worker.stats();
        assert_eq!((stats.keys_rotated, stats.prekeys_used, stats.rejected_total()), (1, 1, 0));
        a.close().await;
        worker.close().await;
        world.node.stop().unwrap();
    });
}
