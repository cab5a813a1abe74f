//! A dishonest node, and what the SDK says to it: each lie has a code of its own, over a restart of the agent too.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod peer;

use std::path::Path;
use std::sync::Arc;

use creto_agent::{Agent, AgentKeys, KeyLogError, LookupError, TrustDomain};
use creto_envelope::AgentId;
use creto_transparency::memory::MemoryLog;
use creto_transparency::{KeyLeaf, LeafKind, LogKeys};
use peer::{Peer, keys, name, record};

/// Two agents that the node knows; the first has a key file, so that what it saw of the log outlives it.
struct World {
    folder: tempfile::TempDir,
    peer: Peer,
    worker: Arc<AgentKeys>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let me = AgentKeys::generate(name("acme/me"), TrustDomain::default()).unwrap();
        me.save(folder.path().join("me.keys")).unwrap();
        let worker = keys("acme/worker");
        Self { peer: Peer::start(&[&me, &worker]), folder, worker }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn me(&self) -> AgentId {
        AgentKeys::load(self.path().join("me.keys")).unwrap().id()
    }

    /// A process of the agent; it has read the log as the node has it now.
    async fn connect(&self) -> Agent {
        let keys = Arc::new(AgentKeys::load(self.path().join("me.keys")).unwrap());
        let (agent, _link) = self.peer.connect(self.peer.options(&keys)).await;
        agent.read_key_log().await;
        agent
    }

    /// The code under which the worker's keys are refused.
    async fn refused(&self, agent: &Agent) -> &'static str {
        match agent.fingerprint(&name("acme/worker")).await {
            Err(LookupError::KeyLog { source, .. }) => source.code(),
            other => panic!("a dishonest node is refused: {other:?}"),
        }
    }

    /// What a send to the worker says: its keys are used nowhere.
    async fn is_not_sent_to(&self, agent: &Agent) {
        let error = agent.send(&name("acme/worker"), "secret").await.unwrap_err();
        assert!(error.to_string().contains("are not used"), "{error}");
        assert_eq!(agent.stats().sealed, 0);
    }
}

/// The first leaves of a log.
fn copy(from: &MemoryLog, leaves: u64, to: &mut MemoryLog) {
    for index in 0..leaves {
        to.append(*from.leaf(index));
    }
}

#[tokio::test]
async fn an_honest_node_proves_what_it_gives_and_the_log_may_grow() {
    let world = World::new();
    let agent = world.connect().await;
    let found = agent.fingerprint(&name("acme/worker")).await.unwrap();
    assert_eq!((found.place.size, found.version, found.key_id), (2, 1, world.worker.key_id()));
    let third = keys("acme/third");
    world.peer.set_record(third.id(), record(&third));
    assert_eq!(agent.fingerprint(&name("acme/third")).await.unwrap().place.size, 3);
    let status = agent.read_key_log().await;
    assert_eq!((status.size, status.read, status.alarm), (3, 3, None));
    assert_eq!(agent.stats().key_log_refused, 0);
    agent.close().await;
    let text = std::fs::read_to_string(world.path().join("me.keys.keylog")).unwrap();
    assert!(text.contains("creto.local/creto-audit/peer/keys"), "{text}");
    assert_eq!(world.connect().await.key_log().size, 3);
}

#[tokio::test]
async fn a_record_that_is_exchanged_or_slipped_in_is_not_used() {
    let world = World::new();
    let agent = world.connect().await;
    let thief = keys("acme/worker");
    world.peer.directory().slips_in = true;
    world.peer.set_record(world.worker.id(), record(&thief));
    assert_eq!(world.refused(&agent).await, "record_exchanged");
    // With a leaf of its own that is in no tree.
    let leaf = KeyLeaf::of(&record(&thief).record, LeafKind::Enrolled, 5).to_bytes();
    world.peer.directory().tamper = Some(Box::new(move |proof| {
        if let Ok(proven) = &mut proof.answer {
            proven.leaf = leaf;
        }
    }));
    assert_eq!(world.refused(&agent).await, "not_in_the_log");
    world.is_not_sent_to(&agent).await;
    assert_eq!(agent.stats().key_log_refused, 3);
    // A record without any leaf.
    world.peer.directory().tamper = None;
    world.peer.set_record(world.worker.id(), thief.signed_record(2, 0, u64::MAX));
    let error = agent.fingerprint(&name("acme/worker")).await.unwrap_err();
    assert_eq!(error, LookupError::Refused(creto_agent::RejectCode::UnknownKeyVersion));
}

#[tokio::test]
async fn another_log_is_refused_by_whoever_saw_the_first_also_after_a_restart() {
    let world = World::new();
    let agent = world.connect().await;
    let theirs = record(&keys("acme/worker"));
    let mut other = MemoryLog::new();
    for record in [&record(&keys("acme/me")), &theirs] {
        other.append(KeyLeaf::of(&record.record, LeafKind::Enrolled, 5));
    }
    world.peer.directory().log = other;
    world.peer.directory().slips_in = true;
    world.peer.set_record(world.worker.id(), theirs.clone());
    // As large as the one that was seen: no head is sent, and the proof leads elsewhere.
    assert_eq!(world.refused(&agent).await, "not_in_the_log");
    // Larger.
    world.peer.directory().log.append(KeyLeaf::of(&theirs.record, LeafKind::Rotated, 5));
    assert_eq!(world.refused(&agent).await, "does_not_extend");
    agent.close().await;
    let agent = world.connect().await;
    assert_eq!(agent.key_log().alarm.map(|alarm| alarm.code()), Some("does_not_extend"));
    world.is_not_sent_to(&agent).await;
}

#[tokio::test]
async fn a_log_that_is_rolled_back_is_refused_also_after_a_restart() {
    let world = World::new();
    let third = keys("acme/third");
    world.peer.set_record(third.id(), record(&third));
    let agent = world.connect().await;
    agent.fingerprint(&name("acme/third")).await.unwrap();
    let mut older = MemoryLog::new();
    {
        let mut directory = world.peer.directory();
        copy(&directory.log, 2, &mut older);
        directory.log = older;
        directory.slips_in = true;
    }
    assert_eq!(world.refused(&agent).await, "rolled_back");
    agent.close().await;
    let agent = world.connect().await;
    assert_eq!(agent.key_log().alarm, Some(KeyLogError::RolledBack { seen: 3, found: 2 }));
    world.is_not_sent_to(&agent).await;
}

#[tokio::test]
async fn a_head_that_one_algorithm_signed_or_other_keys_is_refused() {
    for line in [0, 1] {
        let world = World::new();
        world.peer.directory().tamper = Some(Box::new(move |proof| {
            if let Ok(proven) = &mut proof.answer {
                let note = String::from_utf8(std::mem::take(&mut proven.note)).unwrap();
                let (text, signatures) = note.rsplit_once("\n\n").unwrap();
                let kept = signatures.lines().nth(line).unwrap();
                proven.note = format!("{text}\n\n{kept}\n").into_bytes();
            }
        }));
        let agent = world.connect().await;
        assert_eq!(agent.key_log().alarm.map(|alarm| alarm.code()), Some("signature_missing"));
        world.is_not_sent_to(&agent).await;
        assert!(!world.path().join("me.keys.keylog").exists(), "nothing of it is believed later");
    }
    // A log with keys of its own takes the place of the one that was seen.
    let world = World::new();
    world.connect().await.close().await;
    let theirs = LogKeys::from_seeds("creto.local/creto-audit/peer/keys", &[8; 32], &[9; 32]).unwrap();
    let mut log = MemoryLog::new();
    copy(&world.peer.directory().log, 2, &mut log);
    world.peer.directory().tamper = Some(Box::new(move |proof| {
        if let Ok(proven) = &mut proof.answer {
            proven.note = log.head(2, 6).sign(&theirs).into_bytes();
            proven.keys = theirs.public().to_text().into_bytes();
        }
    }));
    let agent = world.connect().await;
    assert_eq!(agent.key_log().alarm, Some(KeyLogError::OtherKeys));
    world.is_not_sent_to(&agent).await;
}

#[tokio::test]
async fn leaves_that_are_kept_from_an_agent_are_missed() {
    let world = World::new();
    let thief = record(&keys("acme/me"));
    // Others are given this record; the agent is shown a log without it.
    world.peer.directory().log.append(KeyLeaf::of(&thief.record, LeafKind::Rotated, 5));
    let mut shown = MemoryLog::new();
    for index in [0, 1, 1] {
        shown.append(*world.peer.directory().log.leaf(index));
    }
    world.peer.directory().shown = Some(shown);
    // Its own record is proven honestly, from before.
    let mine = world.me();
    let mut log = MemoryLog::new();
    copy(&world.peer.directory().log, 3, &mut log);
    world.peer.directory().tamper = Some(Box::new(move |proof| {
        let size = log.size();
        if let (Ok(proven), true) = (&mut proof.answer, proof.agent == mine) {
            let index = (0..size).find(|index| log.leaf(*index).agent == mine).unwrap();
            (proven.index, proven.leaf, proven.path) = (index, log.leaf(index).to_bytes(), log.path(index, size));
        }
    }));
    let agent = world.connect().await;
    assert_eq!(agent.key_log().alarm, Some(KeyLogError::LeavesChanged { size: 3 }));
    world.is_not_sent_to(&agent).await;
    assert_eq!(agent.stats().key_log_alarms, 1);
}

#[tokio::test]
async fn a_record_of_mine_that_i_did_not_make_is_an_alarm() {
    let world = World::new();
    let agent = world.connect().await;
    assert_eq!(agent.key_log().alarm, None);
    let mut thief = record(&keys("acme/me"));
    thief.record.version = 2;
    world.peer.directory().log.append(KeyLeaf::of(&thief.record, LeafKind::Rotated, 5));
    let status = agent.read_key_log().await;
    assert_eq!(status.alarm, Some(KeyLogError::ForeignRecord { index: 2, version: 2 }));
    assert_eq!(agent.stats().key_log_alarms, 1);
    world.is_not_sent_to(&agent).await;
    agent.close().await;
    // The next process finds it again: what was read ends before it.
    let agent = world.connect().await;
    assert_eq!(agent.key_log().alarm, Some(KeyLogError::ForeignRecord { index: 2, version: 2 }));
}
