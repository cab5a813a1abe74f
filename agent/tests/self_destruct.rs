//! Messages that destroy themselves, against a real node: there as long as their senders want, and no dead letters.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::time::Duration;

use creto_agent::attachment::{AttachmentError, FileToSend};
use creto_agent::{
    Agent, AgentName, ConnectOptions, Delivery, Kind, ReceiptKind, SelfDestruct, SendError, SendOptions, SessionPolicy,
};
use creto_node::Node;
use home::{Home, now_ms, on_time};
use tokio::time::{sleep, timeout};

async fn connect(home: &Home, node: &Node, name: &str, change: impl FnOnce(&mut ConnectOptions)) -> Agent {
    let keys = home.register(node, name).await;
    let mut options = ConnectOptions::new(node.address(), home.certificate.clone(), keys);
    change(&mut options);
    Agent::connect(options).await.unwrap()
}

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

fn so(how: SelfDestruct) -> SendOptions {
    SendOptions { self_destruct: Some(how), ..SendOptions::default() }
}

fn seen(delivery: &Delivery) -> Option<Vec<u8>> {
    delivery.self_destructing().unwrap().read(<[u8]>::to_vec)
}

#[test]
fn what_burns_after_reading_is_shown_until_it_is_acknowledged_and_given_back_as_often_as_it_comes() {
    for sessions in [SessionPolicy::default(), SessionPolicy::Off] {
        on_time(async {
            let home = Home::new();
            let node = home.start();
            let a = connect(&home, &node, "acme/a", |options| options.sessions = sessions).await;
            let b = connect(&home, &node, "acme/b", |_| ()).await;
            let confirmed = SendOptions { receipt: true, ..so(SelfDestruct::AfterReading) };
            a.send_with(&name("acme/b"), "the code is 7", confirmed).await.unwrap();
            let message = b.receive().await.unwrap();
            assert!(message.payload.is_empty() && message.self_destructing().unwrap().until_ms.is_none());
            assert_eq!(seen(&message).unwrap(), b"the code is 7");
            message.nack_after(Duration::from_millis(1));
            assert_eq!(seen(&message), None, "it comes again; this one is gone");
            let again = b.receive().await.unwrap();
            assert_eq!((again.attempt, seen(&again).unwrap().as_slice()), (1, &b"the code is 7"[..]));
            again.ack();
            assert_eq!(seen(&again), None);
            let told = a.receive().await.unwrap();
            assert_eq!(told.receipt().unwrap().kind, ReceiptKind::Done);
            told.ack();
            b.close().await;
            a.close().await;
            let settled: u64 = node.stop().unwrap().shards.iter().map(|shard| shard.messages_settled).sum();
            assert_eq!(settled, 2);
        });
    }
}

#[test]
fn one_that_is_rejected_is_deleted_and_no_dead_letter() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = (connect(&home, &node, "acme/a", |_| ()).await, connect(&home, &node, "acme/b", |_| ()).await);
        a.send_with(&name("acme/b"), "secret", so(SelfDestruct::AfterReading)).await.unwrap();
        b.receive().await.unwrap().reject(7);
        a.send(&name("acme/b"), "plain").await.unwrap();
        b.receive().await.unwrap().reject(8);
        while b.dead_letters(0, 10).await.unwrap().total == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        let letters = b.dead_letters(0, 10).await.unwrap();
        assert_eq!(letters.letters.iter().map(|letter| letter.reason).collect::<Vec<_>>(), [8]);
        b.close().await;
        a.close().await;
        let summary = node.stop().unwrap();
        let (settled, dead): (Vec<_>, Vec<_>) =
            summary.shards.iter().map(|shard| (shard.messages_settled, shard.messages_dead)).unzip();
        assert_eq!((settled.iter().sum::<u64>(), dead.iter().sum::<u64>()), (1, 1));
    });
}

#[test]
fn when_its_time_is_over_it_is_gone_for_whoever_holds_it_and_for_whoever_comes_later() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = (connect(&home, &node, "acme/a", |_| ()).await, connect(&home, &node, "acme/b", |_| ()).await);
        let soon = so(SelfDestruct::After(Duration::from_millis(1_500)));
        a.send_with(&name("acme/b"), "for a moment", soon).await.unwrap();
        let message = b.receive().await.unwrap();
        let until_ms = message.self_destructing().unwrap().until_ms.unwrap();
        // On a machine that is slow enough it is over already.
        let first = seen(&message);
        assert!(first.is_some() || now_ms() >= until_ms);
        while seen(&message).is_some() {
            sleep(Duration::from_millis(20)).await;
        }
        assert!(now_ms() >= until_ms);
        message.ack();

        // Nobody reads this one in time: the node drops it, or the recipient does.
        a.send_with(&name("acme/c"), "too late", SendOptions { notice: false, ..soon }).await.unwrap_err();
        let c = connect(&home, &node, "acme/c", |_| ()).await;
        a.send_with(&name("acme/c"), "too late", SendOptions { notice: false, ..soon }).await.unwrap();
        sleep(Duration::from_millis(1_600)).await;
        a.send(&name("acme/c"), "in time").await.unwrap();
        let next = c.receive().await.unwrap();
        assert_eq!((next.kind, &next.payload[..]), (Kind::Direct, &b"in time"[..]));
        next.ack();
        assert!(timeout(Duration::from_millis(100), c.receive()).await.is_err());
        for agent in [a, b, c] {
            agent.close().await;
        }
        node.stop().unwrap();
    });
}

#[test]
fn what_cannot_destroy_itself_is_not_sent() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let a = connect(&home, &node, "acme/a", |_| ()).await;
        let me = a.name().clone();
        let question = SendOptions { kind: Kind::Request, ..so(SelfDestruct::AfterReading) };
        assert!(matches!(a.send_with(&me, "?", question).await, Err(SendError::SelfDestructKind)));
        let largest = vec![0; (1 << 20) - 16];
        a.send_with(&me, largest, so(SelfDestruct::AfterReading)).await.unwrap();
        let larger = vec![0; (1 << 20) - 15];
        let refused = a.send_with(&me, larger, so(SelfDestruct::AfterReading)).await;
        assert!(matches!(refused, Err(SendError::TooLarge { .. })));
        let path = home.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let mut file = FileToSend::new(&path);
        file.options = so(SelfDestruct::AfterReading);
        let refused = a.send_file(&me, file, |_| ()).await;
        assert!(matches!(refused, Err(AttachmentError::SelfDestruct)));
        a.close().await;
        node.stop().unwrap();
    });
}
