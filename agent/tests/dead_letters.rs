//! Refusing messages, and dead letters, against a real node over QUIC.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::time::{Duration, Instant};

use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, DeadLetterError, DeathCause, Delivery};
use creto_node::Node;
use home::{Home, on_time};
use redb::{ReadableDatabase, ReadableTableMetadata};

/// Short pauses, and three deliveries.
const CONFIG: &str = "topology.shards = 2\nmailbox.redelivery_base_ms = 100\nmailbox.redelivery_max_ms = 400\n\
     mailbox.max_deliveries = 3\n";

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| String::from_utf8(delivery.payload.to_vec()).unwrap()).collect()
}

async fn receive(agent: &Agent, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for _ in 0..count {
        deliveries.push(agent.receive().await.unwrap());
    }
    deliveries
}

/// Waits until there are so many dead letters; their numbers.
async fn dead(agent: &Agent, count: u64) -> Vec<u64> {
    loop {
        let page = agent.dead_letters(0, 256).await.unwrap();
        if page.total == count {
            return page.letters.iter().map(|letter| letter.mailbox_sequence).collect();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An agent whose keys are in a file, with its sessions beside it; `again` is another process of it.
async fn worker(home: &Home, node: &Node) -> Agent {
    let keys = home.register(node, "acme/worker").await;
    keys.save(home.path().join("worker.keys")).unwrap();
    again(home, node).await
}

async fn again(home: &Home, node: &Node) -> Agent {
    let keys = AgentKeys::load(home.path().join("worker.keys")).unwrap();
    home.connect(node, keys).await
}

async fn sender(home: &Home, node: &Node) -> Agent {
    let keys = home.register(node, "acme/planner").await;
    home.connect(node, keys).await
}

#[test]
fn a_nacked_message_comes_again_once_for_each_time_and_then_dies() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with(CONFIG);
        let (planner, worker) = (sender(&home, &node).await, worker(&home, &node).await);
        for text in ["one", "two"] {
            planner.send(&name("acme/worker"), text).await.unwrap();
        }
        let first = receive(&worker, 2).await;
        assert_eq!(texts(&first), ["one", "two"]);
        first[1].ack();
        let began = Instant::now();
        first[0].nack();
        // Said once, it is said.
        first[0].ack();
        let second = receive(&worker, 1).await;
        assert!(began.elapsed() >= Duration::from_millis(100));
        assert_eq!((texts(&second), second[0].attempt), (vec!["one".to_owned()], 1));
        let began = Instant::now();
        second[0].nack_after(Duration::from_millis(350));
        let third = receive(&worker, 1).await;
        assert!(began.elapsed() >= Duration::from_millis(350));
        assert_eq!(third[0].attempt, 2);
        third[0].nack();
        let numbers = dead(&worker, 1).await;
        let letter = worker.dead_letter(numbers[0]).await.unwrap();
        assert_eq!((&letter.payload[..], letter.from.as_str(), letter.attempt), (&b"one"[..], "acme/planner", 3));
        let listed = worker.dead_letters(0, 9).await.unwrap().letters[0];
        assert_eq!((listed.cause, listed.reason, listed.deliveries), (DeathCause::Deliveries, 0, 3));
        assert_eq!(worker.stats().consumer_nacked, 3);
        // Nobody else's business.
        assert_eq!(planner.dead_letters(0, 9).await.unwrap().total, 0);
        assert!(matches!(planner.dead_letter(numbers[0]).await, Err(DeadLetterError::Unknown { .. })));
        assert_eq!(planner.purge_dead_letters(&numbers).await.unwrap(), 0);
        assert_eq!(worker.purge_dead_letters(&numbers).await.unwrap(), 1);
        assert!(matches!(worker.dead_letter(numbers[0]).await, Err(DeadLetterError::Unknown { .. })));
        worker.close().await;
        planner.close().await;
    });
}

#[test]
fn a_rejected_message_opens_in_another_process_and_so_does_what_follows_in_its_session() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with(CONFIG);
        let (planner, first) = (sender(&home, &node).await, worker(&home, &node).await);
        planner.send(&name("acme/worker"), "opens the session").await.unwrap();
        let opener = receive(&first, 1).await.remove(0);
        // What was answered before it does not carry the session's key.
        planner.send(&name("acme/worker"), "needs it").await.unwrap();
        opener.reject(7);
        let numbers = dead(&first, 1).await;
        // Nothing of the session was ever acknowledged.
        first.close().await;

        let second = again(&home, &node).await;
        let letter = second.dead_letter(numbers[0]).await.unwrap();
        assert_eq!(&letter.payload[..], b"opens the session");
        let follower = receive(&second, 1).await.remove(0);
        assert_eq!(&follower.payload[..], b"needs it");
        follower.ack();
        assert_eq!(second.replay_dead_letters(&numbers).await.unwrap(), 1);
        let replayed = receive(&second, 1).await.remove(0);
        assert_eq!((&replayed.payload[..], replayed.attempt), (&b"opens the session"[..], 0));
        replayed.ack();
        assert_eq!(second.stats().rejected_total(), 0);
        second.close().await;
        planner.close().await;
    });
}

#[test]
fn a_process_that_looks_at_a_dead_letter_keeps_no_consumer_from_starting() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with(CONFIG);
        let (planner, first) = (sender(&home, &node).await, worker(&home, &node).await);
        planner.send(&name("acme/worker"), "opens the session").await.unwrap();
        let opener = receive(&first, 1).await.remove(0);
        planner.send(&name("acme/worker"), "needs it").await.unwrap();
        opener.reject(7);
        let numbers = dead(&first, 1).await;
        first.close().await;

        let looks = again(&home, &node).await;
        assert_eq!(&looks.dead_letter(numbers[0]).await.unwrap().payload[..], b"opens the session");
        let consumer = again(&home, &node).await;
        let follower = receive(&consumer, 1).await.remove(0);
        assert_eq!(&follower.payload[..], b"needs it");
        follower.ack();
        consumer.close().await;
        // Once the other one is gone it may look again, and become a consumer itself.
        assert_eq!(looks.dead_letter(numbers[0]).await.unwrap().from.as_str(), "acme/planner");
        assert_eq!(looks.replay_dead_letters(&numbers).await.unwrap(), 1);
        receive(&looks, 1).await[0].ack();
        looks.close().await;
        planner.close().await;
    });
}

/// Keys of refused messages that are on a closed process's disk.
fn refused_keys(home: &Home) -> u64 {
    // A copy: the database writes when it opens.
    let (file, copy) = (home.path().join("worker.keys.sessions/incoming.redb"), home.path().join("copy"));
    std::fs::copy(file, &copy).unwrap();
    let read = redb::Database::open(copy).unwrap().begin_read().unwrap();
    read.open_table(redb::TableDefinition::<&[u8; 40], &[u8]>::new("refused")).unwrap().len().unwrap()
}

#[test]
fn the_key_of_a_dead_letter_goes_with_it() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with(CONFIG);
        let (planner, first) = (sender(&home, &node).await, worker(&home, &node).await);
        for text in ["read after all", "deleted", "stays"] {
            planner.send(&name("acme/worker"), text).await.unwrap();
        }
        receive(&first, 3).await.into_iter().for_each(|delivery| delivery.reject(1));
        let numbers = dead(&first, 3).await;
        first.close().await;
        assert_eq!(refused_keys(&home), 3);

        let second = again(&home, &node).await;
        assert_eq!(second.replay_dead_letters(&numbers[..1]).await.unwrap(), 1);
        receive(&second, 1).await[0].ack();
        assert_eq!(second.purge_dead_letters(&numbers[1..2]).await.unwrap(), 1);
        second.close().await;
        assert_eq!(refused_keys(&home), 1);
        planner.close().await;
    });
}

#[test]
fn consumers_that_die_of_a_message_lose_it_to_the_dead_letters_and_open_what_comes_after_it() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with(CONFIG);
        let (planner, mut consumer) = (sender(&home, &node).await, worker(&home, &node).await);
        for text in ["poison", "one", "two"] {
            planner.send(&name("acme/worker"), text).await.unwrap();
        }
        for _ in 0..3 {
            let poison = consumer.receive().await.unwrap();
            assert_eq!(&poison.payload[..], b"poison");
            // It goes without a word.
            drop(poison);
            consumer.close().await;
            consumer = again(&home, &node).await;
        }
        let rest = receive(&consumer, 2).await;
        assert_eq!(texts(&rest), ["one", "two"]);
        rest.iter().for_each(Delivery::ack);
        let numbers = dead(&consumer, 1).await;
        assert_eq!(&consumer.dead_letter(numbers[0]).await.unwrap().payload[..], b"poison");
        consumer.close().await;
        planner.close().await;
    });
}

#[test]
fn dead_letters_survive_a_restart_of_the_node_and_many_are_changed_together() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with(CONFIG);
        let keys = [home.register(&node, "acme/planner").await, home.register(&node, "acme/worker").await];
        for keys in &keys {
            keys.save(home.path().join(format!("{}.keys", keys.name().as_str().replace('/', "-")))).unwrap();
        }
        let connect = async |node: &Node, file: &str| {
            let keys = AgentKeys::load(home.path().join(file)).unwrap();
            Agent::connect(ConnectOptions::new(node.address(), home.certificate.clone(), keys)).await.unwrap()
        };
        let (planner, worker) = (connect(&node, "acme-planner.keys").await, connect(&node, "acme-worker.keys").await);
        let to = name("acme/worker");
        let answers = planner.send_many((0..700).map(|number| (&to, format!("task {number}")))).await;
        assert!(answers.iter().all(Result::is_ok));
        for delivery in receive(&worker, 700).await {
            delivery.reject(1);
        }
        assert_eq!(dead(&worker, 700).await.len(), 256, "page by page");
        planner.close().await;
        worker.close().await;
        node.stop().unwrap();

        let node = home.start_with(CONFIG);
        let worker = connect(&node, "acme-worker.keys").await;
        let (mut numbers, mut after) = (Vec::new(), 0);
        loop {
            let page = worker.dead_letters(after, 100).await.unwrap();
            let Some(last) = page.letters.last() else { break };
            after = last.mailbox_sequence;
            numbers.extend(page.letters.iter().map(|letter| letter.mailbox_sequence));
        }
        assert_eq!(numbers.len(), 700);
        assert_eq!(worker.replay_dead_letters(&numbers).await.unwrap(), 700);
        let deliveries = receive(&worker, 700).await;
        assert_eq!(texts(&deliveries), (0..700).map(|number| format!("task {number}")).collect::<Vec<_>>());
        deliveries.iter().for_each(Delivery::ack);
        worker.close().await;
        node.stop().unwrap();
    });
}
