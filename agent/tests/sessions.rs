//! Sessions of the SDK over real QUIC, against a node that does exactly what the script says.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

mod peer;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use creto_agent::{Agent, AgentKeys, ConnectOptions, Priority, RejectCode, SendOptions, SessionPolicy, Subscription};
use peer::{Batch, Link, PATIENCE, Peer, eventually, keys, name};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// What a header says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    session: [u8; 16],
    counter: u64,
    carries: bool,
}

fn place(envelope: &[u8]) -> Place {
    assert_eq!(envelope[1], 2, "the suite of sessions");
    Place {
        session: envelope[128..144].try_into().unwrap(),
        counter: u64::from_le_bytes(envelope[104..112].try_into().unwrap()),
        carries: envelope[6..8] != [0, 0],
    }
}

fn places(batch: &Batch) -> Vec<Place> {
    batch.entries.iter().map(|(_, envelope)| place(envelope)).collect()
}

/// Sends one message and acknowledges it: the batch that it went in.
async fn send(agent: &Agent, link: &mut Link, to: &str, text: &str) -> Batch {
    send_with(agent, link, to, text, SendOptions::default()).await
}

async fn send_with(agent: &Agent, link: &mut Link, to: &str, text: &str, options: SendOptions) -> Batch {
    let pending = agent.submit(&name(to), text.to_owned(), options).await.unwrap();
    let batch = link.batch().await;
    link.acknowledge(batch.sequence, &[]).await;
    pending.await.unwrap();
    batch
}

#[tokio::test]
async fn the_first_message_opens_the_session_and_what_follows_its_acknowledgement_goes_without_the_key() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let [first] = places(&send(&agent, &mut link, "acme/b", "one").await)[..] else { panic!("one message") };
    assert_eq!((first.counter, first.carries), (0, true));
    let second = send(&agent, &mut link, "acme/b", "two").await;
    assert_eq!(places(&second), [Place { counter: 1, carries: false, ..first }]);
    assert_eq!(second.entries[0].1.len(), 160 + 3 + 16);
    let urgent = SendOptions { priority: Priority::High, ..SendOptions::default() };
    let third = send_with(&agent, &mut link, "acme/b", "three", urgent).await;
    assert_eq!(places(&third), [Place { counter: 2, ..first }], "it may overtake the first one, so it brings the key");
    agent.renew_sessions().await.unwrap();
    let renewed = places(&send(&agent, &mut link, "acme/b", "four").await)[0];
    assert_ne!(renewed.session, first.session);
    assert!(renewed.carries);
    let stats = agent.stats();
    assert_eq!((stats.sealed, stats.encapsulations, stats.sessions_opened, stats.signatures), (4, 2, 2, 4));
}

#[tokio::test]
async fn without_sessions_every_message_is_sealed_by_itself() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(ConnectOptions { sessions: SessionPolicy::Off, ..peer.options(&a) }).await;
    for text in ["one", "two"] {
        let batch = send(&agent, &mut link, "acme/b", text).await;
        assert_eq!(batch.entries[0].1[1], 1, "the sealed suite");
    }
    assert_eq!((agent.stats().encapsulations, agent.stats().sessions_opened), (2, 0));
}

/// Messages of a real sender, in one batch each: the first carries its session's key, the others were sealed after it was
/// acknowledged.
async fn conversation(peer: &Peer, from: &Arc<AgentKeys>, to: &str, texts: &[&str]) -> Vec<Batch> {
    let (agent, mut link) = peer.connect(peer.options(from)).await;
    let mut batches = Vec::new();
    for text in texts {
        batches.push(send(&agent, &mut link, to, text).await);
    }
    agent.close().await;
    batches
}

async fn receive(mailbox: &mut Subscription) -> creto_agent::Delivery {
    timeout(PATIENCE, mailbox.next()).await.expect("a delivery comes").unwrap().unwrap()
}

#[tokio::test]
async fn messages_of_a_session_are_shown_once_in_whatever_order_and_however_often_they_come() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let batches = conversation(&peer, &a, "acme/b", &["0", "1", "2", "3"]).await;
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let (mut mailbox, mut incidents) = (agent.subscribe().unwrap(), agent.incidents());
    link.subscription().await;
    link.deliver(&batches[2], &[(0, 3, 0)]).await;
    let incident = timeout(PATIENCE, incidents.next()).await.unwrap().unwrap();
    assert_eq!(
        (incident.code, incident.mailbox_sequence),
        (RejectCode::UnknownSession, 3),
        "nothing has opened it yet"
    );
    for (n, sequence) in [(0, 1), (3, 4), (1, 2), (3, 4), (2, 3), (0, 1)] {
        link.deliver(&batches[n], &[(0, sequence, 1)]).await;
    }
    let mut held = Vec::new();
    for expected in ["0", "3", "1", "2"] {
        held.push(receive(&mut mailbox).await);
        assert_eq!(held.last().unwrap().payload, expected);
    }
    eventually("what came twice is hidden", || agent.stats().duplicates_hidden == 2).await;
    held.iter().for_each(creto_agent::Delivery::ack);
    let mut acks = link.consumer_acks(4).await;
    acks.sort_unstable();
    assert_eq!(acks, [1, 2, 3, 4]);
    // Settled, and again: acknowledged again, in this process and by the session alone.
    link.deliver(&batches[3], &[(0, 4, 2)]).await;
    assert_eq!(link.consumer_acks(1).await, [4]);
    let stats = agent.stats();
    assert_eq!((stats.delivered, stats.duplicates_hidden, stats.sessions_accepted), (4, 3, 1));
}

#[tokio::test]
async fn a_session_whose_opener_a_node_pushes_as_a_signal_is_not_opened() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let batches = conversation(&peer, &a, "acme/b", &["0", "1"]).await;
    let (agent, mut link) = peer.connect(peer.options(&b)).await;
    let _signals = agent.signals().unwrap();
    let (mut mailbox, mut incidents) = (agent.subscribe().unwrap(), agent.incidents());
    link.subscription().await;
    link.signal_credit().await;
    link.signals(&batches[0], &[0], |_| ()).await;
    let refused = || agent.stats().rejected.get(&RejectCode::EnvelopeSignal).copied() == Some(1);
    eventually("it is refused", refused).await;
    // What it opens is not there: the prekey that it may have used is, and the message comes as it is to come.
    link.deliver(&batches[1], &[(0, 2, 0)]).await;
    let incident = timeout(PATIENCE, incidents.next()).await.unwrap().unwrap();
    assert_eq!((incident.code, incident.mailbox_sequence), (RejectCode::UnknownSession, 2));
    for (n, sequence) in [(0, 1), (1, 2)] {
        link.deliver(&batches[n], &[(0, sequence, 1)]).await;
        assert_eq!(receive(&mut mailbox).await.payload, n.to_string());
    }
    assert_eq!(agent.stats().sessions_accepted, 1);
    agent.close().await;
}

/// Frames are opened side by side on several workers; a session that one of them opens is there for those after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_come_together_find_the_session_that_the_first_of_them_opens() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    for _ in 0..20 {
        let batches = conversation(&peer, &a, "acme/b", &["0", "1", "2", "3"]).await;
        let (agent, mut link) = peer.connect(peer.options(&b)).await;
        let mut mailbox = agent.subscribe().unwrap();
        link.subscription().await;
        for (n, batch) in batches.iter().enumerate() {
            link.deliver(batch, &[(0, n as u64, 0)]).await;
        }
        for expected in ["0", "1", "2", "3"] {
            assert_eq!(receive(&mut mailbox).await.payload, expected);
        }
        assert_eq!(agent.stats().rejected_total(), 0);
    }
}

/// An agent in a runtime of its own, which can be killed in the middle of anything.
struct Process {
    runtime: Runtime,
    agent: Agent,
    mailbox: Subscription,
    link: Link,
}

impl Process {
    fn start(script: &Runtime, peer: &Peer, keys: &Arc<AgentKeys>, state: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = peer.options(keys).state(state);
        let connecting = runtime.spawn(Agent::connect(options));
        let mut link = script.block_on(peer.accept());
        let agent = script.block_on(connecting).unwrap().unwrap();
        let mailbox = agent.subscribe().unwrap();
        script.block_on(link.subscription());
        Self { runtime, agent, mailbox, link }
    }

    /// Nothing runs any more from here on, and nothing was put in order: what SIGKILL does, but for the file lock, which
    /// goes when the last task has dropped it.
    fn kill(self) {
        self.runtime.shutdown_timeout(PATIENCE);
        self.link.cut();
        drop((self.agent, self.mailbox));
    }
}

/// The receiving process dies at each point of a message's life; afterwards the node delivers again what it has not seen
/// acknowledged. Whatever was not acknowledged is shown again; what was, and is on disk, is not.
#[test]
fn a_killed_receiver_loses_nothing_and_shows_nothing_again_that_it_acknowledged() {
    let script = Runtime::new().unwrap();
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = {
        let _inside = script.enter();
        Peer::start(&[&a, &b])
    };
    let batches = script.block_on(conversation(&peer, &a, "acme/b", &["0", "1", "2"]));
    assert!(!places(&batches[1])[0].carries && !places(&batches[2])[0].carries);
    // Which messages the application acknowledges in the first life, and which of these the node forgets.
    let lives: [(&[usize], &[usize]); 6] =
        [(&[], &[]), (&[1], &[1]), (&[0], &[]), (&[0], &[0]), (&[2, 0], &[0]), (&[0, 1, 2], &[1])];
    for (acknowledged, forgotten) in lives {
        let state = tempfile::tempdir().unwrap();
        let mut first = Process::start(&script, &peer, &b, state.path());
        script.block_on(async {
            let mut held = Vec::new();
            for (n, batch) in batches.iter().enumerate() {
                first.link.deliver(batch, &[(0, n as u64, 0)]).await;
                held.push(receive(&mut first.mailbox).await);
            }
            acknowledged.iter().for_each(|n| held[*n].ack());
            if !acknowledged.is_empty() {
                // The acknowledgement leaves only after it is on disk.
                first.link.consumer_acks(acknowledged.len()).await;
            }
        });
        first.kill();

        let mut second = Process::start(&script, &peer, &b, state.path());
        script.block_on(async {
            let left = (0..3).filter(|n| !forgotten.contains(n));
            for n in left.clone() {
                second.link.deliver(&batches[n], &[(0, n as u64, 1)]).await;
            }
            for n in left.clone().filter(|n| !acknowledged.contains(n)) {
                let delivery = receive(&mut second.mailbox).await;
                assert_eq!(delivery.payload, n.to_string(), "after {acknowledged:?} and {forgotten:?}");
                delivery.ack();
            }
            let mut acks = second.link.consumer_acks(left.clone().count()).await;
            acks.sort_unstable();
            assert_eq!(acks, left.map(|n| n as u64).collect::<Vec<_>>(), "each is acknowledged, again or at last");
            assert_eq!(second.agent.stats().rejected_total(), 0);
            assert!(timeout(Duration::ZERO, second.mailbox.next()).await.is_err(), "nothing is shown again");
        });
        second.kill();
    }
}

/// A sender that closes goes on with its session; one that is killed opens another. No counter is ever used twice.
#[test]
fn a_restarted_sender_uses_no_counter_twice() {
    let script = Runtime::new().unwrap();
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = {
        let _inside = script.enter();
        Peer::start(&[&a, &b])
    };
    let state = tempfile::tempdir().unwrap();
    let run = |closes: bool| -> Vec<Place> {
        let mut process = Process::start(&script, &peer, &a, state.path());
        let sent = script.block_on(async {
            let mut sent = Vec::new();
            for text in ["one", "two"] {
                sent.extend(places(&send(&process.agent, &mut process.link, "acme/b", text).await));
            }
            sent
        });
        if closes {
            script.block_on(process.runtime.spawn(process.agent.close())).unwrap();
            process.runtime.shutdown_timeout(PATIENCE);
        } else {
            process.kill();
        }
        sent
    };
    let lives: Vec<Vec<Place>> = [true, true, false, true, true].map(run).to_vec();
    let used: Vec<(([u8; 16], u64), bool)> =
        lives.iter().flatten().map(|place| ((place.session, place.counter), place.carries)).collect();
    let different: BTreeSet<_> = used.iter().map(|(key, _)| key).collect();
    assert_eq!(different.len(), used.len(), "{used:?}");
    let sessions: Vec<[u8; 16]> = lives.iter().map(|life| life[0].session).collect();
    assert!(sessions[0] == sessions[1] && sessions[1] == sessions[2], "closed, it goes on");
    assert!(sessions[2] != sessions[3] && sessions[3] == sessions[4], "killed, it begins again");
    assert_eq!(
        lives[1].iter().map(|place| (place.counter, place.carries)).collect::<Vec<_>>(),
        [(2, false), (3, false)]
    );
    assert!(lives[3][0].carries);
}

#[tokio::test]
async fn two_processes_of_one_key_file_send_under_sessions_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (path, b) = (folder.path().join("a.keys"), keys("acme/b"));
    keys("acme/a").save(&path).unwrap();
    let a = Arc::new(AgentKeys::load(&path).unwrap());
    let peer = Peer::start(&[&a, &b]);
    let seen = conversation(&peer, &a, "acme/b", &["an earlier run"]).await;
    assert!(folder.path().join("a.keys.sessions/outgoing.redb").exists(), "beside the keys");
    let (one, mut one_link) = peer.connect(peer.options(&Arc::new(AgentKeys::load(&path).unwrap()))).await;
    let (two, mut two_link) = peer.connect(peer.options(&Arc::new(AgentKeys::load(&path).unwrap()))).await;
    let of_one = places(&send(&one, &mut one_link, "acme/b", "x").await)[0];
    let of_two = places(&send(&two, &mut two_link, "acme/b", "y").await)[0];
    assert_eq!((of_one.session, of_one.counter), (places(&seen[0])[0].session, 1), "the first one goes on with it");
    assert!(of_two.session != of_one.session && of_two.carries);
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn the_process_that_subscribes_last_takes_over_what_the_one_before_has_settled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.keys");
    keys("acme/b").save(&path).unwrap();
    let load = || Arc::new(AgentKeys::load(&path).unwrap());
    let (a, b) = (keys("acme/a"), load());
    let peer = Peer::start(&[&a, &b]);
    let batches = conversation(&peer, &a, "acme/b", &["0", "1", "2"]).await;
    let (one, mut one_link) = peer.connect(peer.options(&b)).await;
    let mut mailbox = one.subscribe().unwrap();
    one_link.subscription().await;
    for (n, batch) in batches[..2].iter().enumerate() {
        one_link.deliver(batch, &[(0, n as u64, 0)]).await;
    }
    receive(&mut mailbox).await.ack();
    let held = receive(&mut mailbox).await;
    one_link.consumer_acks(1).await;

    // The other one subscribes, and has to wait for the file until the node has told the first.
    let (two, mut two_link) = peer.connect(peer.options(&load())).await;
    let mut other_mailbox = two.subscribe().unwrap();
    two_link.subscription().await;
    for (n, batch) in batches.iter().enumerate() {
        two_link.deliver(batch, &[(0, n as u64, 1)]).await;
    }
    one_link.refuse_deliver(RejectCode::SubscriptionReplaced).await;
    for expected in ["1", "2"] {
        assert_eq!(receive(&mut other_mailbox).await.payload, expected);
    }
    assert_eq!(two_link.consumer_acks(1).await, [0], "settled by the other process");
    held.ack();
    eventually("the late acknowledgement is counted", || one.stats().consumer_acknowledged == 2).await;
    assert_eq!(two.stats().rejected_total(), 0);
}

#[tokio::test]
async fn a_recipient_with_new_keys_gets_everything_that_was_in_flight_again_in_order_and_under_its_ids() {
    let (a, b) = (keys("acme/a"), keys("acme/b"));
    let peer = Peer::start(&[&a, &b]);
    let (agent, mut link) = peer.connect(peer.options(&a)).await;
    let mut pending = Vec::new();
    for n in 0..40 {
        pending.push(agent.submit(&name("acme/b"), n.to_string(), SendOptions::default()).await.unwrap());
    }
    let expected: Vec<_> = pending.iter().map(creto_agent::PendingSend::message_id).collect();
    let renewed = keys("acme/b");
    peer.set_record(b.id(), renewed.signed_record(2, 0, u64::MAX));
    let (mut refused, mut accepted) = (0, Vec::new());
    while accepted.len() < 40 {
        let batch = link.batch().await;
        let is_old = batch.entries[0].1[112..128] == b.key_id().0;
        let results: Vec<_> = match is_old {
            true => {
                let count = u32::try_from(batch.entries.len()).unwrap();
                refused += count;
                (0..count).map(|index| (batch.sequence, index, RejectCode::UnknownRecipientKey)).collect()
            }
            false => {
                assert!(batch.entries.iter().all(|(_, envelope)| envelope[112..128] == renewed.key_id().0));
                accepted.extend(batch.ids());
                Vec::new()
            }
        };
        link.acknowledge(batch.sequence, &results).await;
    }
    assert!(refused > 0);
    assert_eq!(accepted, expected);
    for answer in pending {
        answer.await.unwrap();
    }
    assert_eq!((agent.stats().sessions_opened, agent.stats().refused_total()), (2, 0));
}
