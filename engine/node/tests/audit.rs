//! The audit log of a node that runs: every acknowledged message is in it once, also when a crash took its end.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use creto_agent::MessageId;
use creto_audit::{ChainedEvent, LogVerifier, SourceId, What};
use creto_audit_store::{LogReader, export, keys, verify_export};
use home::{Home, on_time};

/// Every event of the log, verified from an export, with nothing but the public keys.
fn events(home: &Home) -> Vec<ChainedEvent> {
    let folder = home.path().join("data/audit");
    let reader = LogReader::open(&folder).unwrap();
    let mut file = Vec::new();
    export(&reader, &mut file, |_| true).unwrap();
    let verifier = LogVerifier::new(keys::load_public(&folder.join("audit.pub")).unwrap()).unwrap();
    let mut events = Vec::new();
    verify_export(&file[..], &verifier, None, |seen| events.push(*seen.event)).unwrap();
    events
}

/// How often each message was accepted, and how often what was accepted was delivered.
fn messages(events: &[ChainedEvent]) -> BTreeMap<MessageId, (u32, u32)> {
    let mut places: BTreeMap<(SourceId, u64), MessageId> = BTreeMap::new();
    let mut messages: BTreeMap<MessageId, (u32, u32)> = BTreeMap::new();
    for event in events {
        match event.event.what {
            What::Accepted { message_id, sequence, .. } => {
                places.insert((event.source, sequence), message_id);
                messages.entry(message_id).or_default().0 += 1;
            }
            What::Delivered { sequence, .. } => {
                let message_id = places[&(event.source, sequence)];
                messages.entry(message_id).or_default().1 += 1;
            }
            _ => {}
        }
    }
    messages
}

/// Starts the node, sends so many messages from one agent to the other, receives `received` of them, and stops it.
async fn exchange(home: &Home, is_first: bool, sent: usize, received: usize) -> Vec<MessageId> {
    let node = home.start();
    let (from, to) = ("acme/planner", "acme/executor");
    if is_first {
        for name in [from, to] {
            let keys = home.register(&node, name).await;
            keys.save(home.path().join(name.replace('/', "-"))).unwrap();
        }
    }
    let load = |name: &str| creto_agent::AgentKeys::load(home.path().join(name.replace('/', "-"))).unwrap();
    let planner = home.connect(&node, load(from)).await;
    let executor = home.connect(&node, load(to)).await;
    let to = executor.name().clone();
    let mut ids = Vec::new();
    for number in 0..sent {
        let receipt = planner.send(&to, format!("message {number}")).await.unwrap();
        ids.push(receipt.message_id);
    }
    let mut inbox = executor.subscribe().unwrap();
    for _ in 0..received {
        inbox.next().await.unwrap().unwrap().ack();
    }
    planner.close().await;
    executor.close().await;
    tokio::task::spawn_blocking(move || node.stop().unwrap()).await.unwrap();
    ids
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn every_acknowledged_message_is_in_the_log_once_and_so_is_its_delivery() {
    on_time(async {
        let home = Home::new();
        let ids = exchange(&home, true, 40, 25).await;
        let events = events(&home);
        assert!(events.iter().all(|event| !event.event.is_recovered()), "nothing crashed");
        let messages = messages(&events);
        assert_eq!(messages.len(), ids.len());
        for (place, id) in ids.iter().enumerate() {
            let (accepted, delivered) = messages[id];
            assert_eq!(accepted, 1, "message {place}");
            assert_eq!(delivered, u32::from(place < 25), "message {place}");
        }
        assert!(matches!(events.first().unwrap().event.what, What::NodeStarted { shards: 2 }));
        assert!(matches!(events.last().unwrap().event.what, What::NodeStopped { .. }));
        let registered = events.iter().filter(|event| matches!(event.event.what, What::AgentRegistered { .. }));
        let names: Vec<_> = registered.map(|event| (event.source, event.label.as_str())).collect();
        assert_eq!(names, [(SourceId::CONTROL, "acme/planner"), (SourceId::CONTROL, "acme/executor")]);
        let logins = events.iter().filter(|event| matches!(event.event.what, What::LoginAccepted { .. })).count();
        assert_eq!(logins, 2);
    });
}

#[test]
fn what_a_crash_took_of_the_log_is_made_again_from_the_logs_of_the_shards() {
    on_time(async {
        let home = Home::new();
        let audit = home.path().join("data/audit");
        let mut ids = exchange(&home, true, 10, 5).await;
        copy(&audit, &home.path().join("before"));
        ids.extend(exchange(&home, false, 10, 10).await);
        // As if nothing of this run had reached the audit log's disk.
        fs::remove_dir_all(&audit).unwrap();
        copy(&home.path().join("before"), &audit);
        ids.extend(exchange(&home, false, 10, 0).await);
        let events = events(&home);
        let messages = messages(&events);
        assert_eq!(messages.len(), 30);
        for (place, id) in ids.iter().enumerate() {
            assert_eq!(messages[id], (1, u32::from(place < 15)), "message {place}");
        }
        let recovered = events.iter().filter(|event| event.event.is_recovered());
        let of_messages =
            recovered.filter(|event| matches!(event.event.what, What::Accepted { .. } | What::Delivered { .. }));
        assert_eq!(of_messages.count(), 20, "ten accepted and ten delivered");
    });
}

#[test]
fn a_log_that_begins_late_tells_what_is_still_in_the_logs_of_the_shards() {
    on_time(async {
        let home = Home::new();
        let mut ids = exchange(&home, true, 10, 3).await;
        fs::remove_dir_all(home.path().join("data/audit")).unwrap();
        ids.extend(exchange(&home, false, 2, 0).await);
        let messages = messages(&events(&home));
        for (place, id) in ids.iter().enumerate() {
            assert_eq!(messages[id], (1, u32::from(place < 3)), "message {place}");
        }
    });
}
