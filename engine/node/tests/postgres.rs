//! A node whose directory is in PostgreSQL: real QUIC, while the database is there, killed, and back.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;
#[path = "../../../control/storage/tests/server/mod.rs"]
#[allow(dead_code, reason = "each test file takes what it needs")]
mod server;

use std::time::{Duration, Instant};

use creto_agent::{Agent, AgentKeys, AgentName, TrustDomain};
use creto_service::api::ErrorCode;
use creto_service::client::{Client, ClientError};
use home::{Home, now_ms, on_time};
use server::Server;

async fn send_and_read(sender: &Agent, reader: &Agent, text: &str) {
    sender.send(reader.name(), text.as_bytes().to_vec()).await.unwrap();
    let delivery = reader.receive().await.unwrap();
    assert_eq!(delivery.payload.as_ref(), text.as_bytes());
    delivery.ack();
}

#[test]
fn messages_go_on_while_the_database_is_away_and_agents_are_registered_when_it_is_back() {
    let Some(mut server) = Server::start(&[]) else { return };
    on_time(async move {
        let home = Home::new();
        let database = format!("control.database = \"{}\"\n", server.database());
        let node = home.start_with(&database);
        let (first, second) = (home.register(&node, "acme/a").await, home.register(&node, "acme/b").await);
        let (sender, reader) = (home.connect(&node, first).await, home.connect(&node, second).await);
        send_and_read(&sender, &reader, "there").await;

        server.kill();
        send_and_read(&sender, &reader, "away").await;
        let control = Client::new(node.control_socket());
        let keys = AgentKeys::generate(AgentName::parse("acme/c").unwrap(), TrustDomain::default()).unwrap();
        let record = keys.signed_record(1, now_ms() - 1_000, now_ms() + 86_400_000);
        match control.register(&record).await {
            Err(ClientError::Refused { error, .. }) => assert_eq!(error.code, ErrorCode::StorageFailed.as_str()),
            other => panic!("{other:?}"),
        }
        assert!(control.readiness().await.unwrap().ready, "agents are served");

        server.start_again();
        let until = Instant::now() + Duration::from_secs(30);
        while let Err(error) = control.register(&record).await {
            assert!(Instant::now() < until, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let third = home.connect(&node, keys).await;
        send_and_read(&third, &reader, "back").await;
        for agent in [sender, reader, third] {
            agent.close().await;
        }
        node.stop().unwrap();
        assert!(!home.path().join("data/control.redb").exists());
    });
}
