//! The audit log of a node that runs: every acknowledged message is in it once, also when a crash took its end.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use creto_agent::MessageId;
use creto_audit::export::Summary;
use creto_audit::proof::InclusionProof;
use creto_audit::{ChainedEvent, Event, LogPublic, LogVerifier, SignedCheckpoint, SourceId, What};
use creto_audit_store::disk::RealDisk;
use creto_audit_store::{LogReader, Moment, MomentFile, Writer, event_json, export, keys, prove, verify_export};
use creto_service::client::{Client, ClientError};
use home::{Home, now_ms, on_time};

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

/// A log that a node writes, as it is now.
fn copy_log(from: &Path, to: &Path) {
    let moment = Moment::read(from).unwrap().unwrap();
    for MomentFile { name, bytes, content } in moment.files(from).unwrap() {
        let mut content = content.unwrap_or_else(|| fs::read(from.join(&name)).unwrap());
        content.truncate(usize::try_from(bytes).unwrap());
        let target = to.join(&name);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, content).unwrap();
    }
    fs::copy(from.join("audit.key"), to.join("audit.key")).unwrap();
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
fn the_log_is_read_and_proven_through_the_api() {
    on_time(async {
        let home = Home::new();
        exchange(&home, true, 30, 30).await;
        let node = home.start();
        let client = Client::new(node.control_socket());
        let mut shown = Vec::new();
        let (mut from, mut size) = (Some(0), 0);
        while let Some(leaf) = from {
            let page = client.audit_events(leaf, 7).await.unwrap();
            assert!(page.events.len() <= 7);
            shown.extend(page.events);
            (from, size) = (page.next_from, page.size);
        }
        let accepted = shown.iter().filter(|event| event["kind"] == "message_accepted").count();
        assert_eq!((shown.len() as u64, accepted), (size, 30));
        for (index, event) in shown.iter().enumerate() {
            assert_eq!(event["index"], index, "in the order of the leaves");
        }

        let public = fs::read_to_string(home.path().join("data/audit/audit.pub")).unwrap();
        assert_eq!(client.audit_keys().await.unwrap(), public);
        let verifier = LogVerifier::new(LogPublic::parse(&public).unwrap()).unwrap();
        let checkpoint = verifier.verify(client.audit_checkpoint().await.unwrap().as_bytes()).unwrap();
        assert!(checkpoint.size >= size);
        let proof = client.audit_proof(5).await.unwrap();
        let proven = InclusionProof::parse(proof.as_bytes()).unwrap().verify(&verifier, None).unwrap();
        assert_eq!(event_json(5, &proven.event), shown[5]);

        match client.audit_proof(1 << 40).await {
            Err(ClientError::Refused { status: 404, error }) => assert_eq!(error.code, "leaf_unknown"),
            other => panic!("{other:?}"),
        }
        let beyond = client.audit_events(1 << 40, 7).await.unwrap();
        assert_eq!((beyond.events.len(), beyond.next_from), (0, None));
        node.stop().unwrap();
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

const DAY_MS: u64 = 86_400_000;

/// A log with more than one file of entries, all of them signed at this time.
fn old_log(home: &Home, signed_ms: u64) -> SignedCheckpoint {
    let folder = home.path().join("data/audit");
    fs::create_dir_all(&folder).unwrap();
    let keys = keys::load_or_create(&folder, "creto.local").unwrap();
    let mut writer = Writer::open(RealDisk::new(&folder), keys).unwrap();
    let started = |epoch| Event::new(signed_ms, What::ShardStarted { epoch, recovered_through: 0 });
    writer.append(SourceId::shard(9), &(0..70_000).map(started).collect::<Vec<_>>()).unwrap();
    writer.commit().unwrap();
    writer.checkpoint(signed_ms).unwrap().unwrap().clone()
}

/// What an export of the node's log says, and that it grew out of what was seen.
fn verified(home: &Home, since: &SignedCheckpoint) -> (u64, Summary) {
    let folder = home.path().join("data/audit");
    let reader = LogReader::open(&folder).unwrap();
    let mut file = Vec::new();
    let exported = export(&reader, &mut file, |_| true).unwrap();
    let verifier = LogVerifier::new(keys::load_public(&folder.join("audit.pub")).unwrap()).unwrap();
    let (_, summary) = verify_export(&file[..], &verifier, Some(since.clone()), |_| ()).unwrap();
    (exported.dropped, summary)
}

#[test]
fn entries_whose_time_is_over_go_and_what_is_left_verifies_on() {
    on_time(async {
        let home = Home::new();
        let seen = old_log(&home, now_ms() - 2 * DAY_MS);
        for _ in 0..2 {
            let node = home.start_with("topology.shards = 1\naudit.retention = \"1d\"\n");
            tokio::task::spawn_blocking(move || node.stop().unwrap()).await.unwrap();
            assert!(!home.path().join("data/audit/entries/000000000000").exists(), "the first file is gone");
            assert!(home.path().join("data/audit/hashes/000000000000").exists(), "its hashes are not");
        }
        let (dropped, summary) = verified(&home, &seen);
        assert_eq!(
            (dropped, summary.hidden, summary.hidden_first, summary.dropped_below),
            (65_536, 65_536, 65_536, 65_536)
        );
        let log = LogReader::open(&home.path().join("data/audit")).unwrap();
        assert!(prove(&log, 10, None).is_err(), "an entry that is gone cannot be shown");
        let proof = prove(&log, 65_536, Some(&seen)).unwrap();
        proof.verify(log.verifier(), Some(&seen)).unwrap();
        let told = events(&home).into_iter().filter(|event| matches!(event.event.what, What::EntriesDropped { .. }));
        assert_eq!(told.count(), 1, "once, however often the node starts");
    });
}

#[test]
fn entries_whose_time_is_not_over_stay() {
    on_time(async {
        let home = Home::new();
        let seen = old_log(&home, now_ms() - DAY_MS / 2);
        let node = home.start_with("topology.shards = 1\naudit.retention = \"1d\"\n");
        tokio::task::spawn_blocking(move || node.stop().unwrap()).await.unwrap();
        let (dropped, summary) = verified(&home, &seen);
        assert_eq!((dropped, summary.hidden, summary.dropped_below), (0, 0, 0));
    });
}

#[test]
fn a_delivered_message_takes_318_bytes_of_the_log_and_64_of_them_for_ever() {
    on_time(async {
        let home = Home::new();
        let size = |folder: &str| -> u64 {
            let files = fs::read_dir(home.path().join("data/audit").join(folder)).unwrap();
            files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
        };
        exchange(&home, true, 10, 10).await;
        let before = (size("entries"), size("hashes"));
        exchange(&home, false, 100, 100).await;
        // Beside the messages: starts, stops, logins and subscriptions, at most 40 of them.
        let (entries, hashes) = (size("entries") - before.0, size("hashes") - before.1);
        assert!((25_400..=25_400 + 40 * 140).contains(&entries), "{entries} for 100 messages");
        assert!((6_400..=6_400 + 40 * 32).contains(&hashes), "{hashes} for 100 messages");
    });
}

#[test]
fn what_comes_after_a_restore_of_older_logs_is_told_also_after_a_crash() {
    on_time(async {
        let home = Home::new();
        let data = home.path().join("data");
        exchange(&home, true, 5, 0).await;
        for part in ["wal", "control.redb"] {
            let (from, to) = (data.join(part), home.path().join("older").join(part));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            match from.is_dir() {
                true => copy(&from, &to),
                false => drop(fs::copy(&from, &to).unwrap()),
            }
        }
        // Many frames that the audit log has, and the logs that are restored have not.
        exchange(&home, false, 60, 0).await;
        fs::remove_dir_all(data.join("wal")).unwrap();
        copy(&home.path().join("older/wal"), &data.join("wal"));
        fs::copy(home.path().join("older/control.redb"), data.join("control.redb")).unwrap();
        // As it is when the node has just begun to serve.
        let node = home.start();
        copy_log(&data.join("audit"), &home.path().join("just-started"));
        tokio::task::spawn_blocking(move || node.stop().unwrap()).await.unwrap();
        let ids = exchange(&home, false, 5, 0).await;
        fs::remove_dir_all(data.join("audit")).unwrap();
        copy(&home.path().join("just-started"), &data.join("audit"));
        exchange(&home, false, 1, 0).await;
        let messages = messages(&events(&home));
        for (place, id) in ids.iter().enumerate() {
            assert_eq!(messages.get(id).map(|(accepted, _)| *accepted), Some(1), "message {place}");
        }
    });
}
