//! The examples do what they say, against a real node.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../examples/alerts.rs"]
#[allow(dead_code, reason = "its own start is not needed")]
mod alerts;
#[path = "../examples/call.rs"]
#[allow(dead_code, reason = "its own start is not needed")]
mod call;
#[path = "../examples/handover.rs"]
#[allow(dead_code, reason = "its own start is not needed")]
mod handover;
#[path = "../../engine/node/tests/home/mod.rs"]
mod home;
#[path = "../examples/tools.rs"]
#[allow(dead_code, reason = "its own start is not needed")]
mod tools;

use creto_agent::AgentName;
use creto_agent::channel::ChannelName;
use creto_service::client::Client;
use home::{Home, on_time};
use serde_json::json;

#[test]
fn a_tool_of_another_agent_is_called() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let planner = home.connect(&node, home.register(&node, "acme/planner").await).await;
        let worker = home.connect(&node, home.register(&node, "acme/worker").await).await;
        let server = tools::serve_tools(&worker).unwrap();
        let to = AgentName::parse("acme/worker").unwrap();
        let call = async |tool: &str, arguments| {
            call::call(&planner, &to, tool, &arguments).await.map_err(|error| error.to_string())
        };
        assert_eq!(call("word_count", json!({ "text": "find the missing colon" })).await, Ok(json!(4)));
        assert_eq!(call("divide", json!({ "a": 1, "b": 4 })).await, Ok(json!(0.25)));
        let refused = call("divide", json!({ "a": 1, "b": 0 })).await.unwrap_err();
        assert_eq!(refused, "divide does not work: divide does not divide by zero");
        assert_eq!(call("fly", json!({})).await.unwrap_err(), "fly does not work: there is no tool \"fly\" here");
        server.stop().await.unwrap();
        planner.close().await;
        worker.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn alerts_go_to_every_reader_and_a_group_shares_them() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let owner = home.register(&node, "acme/planner").await;
        let channel = ChannelName::parse("acme/alerts.eu").unwrap();
        let record = owner.signed_channel(alerts::open_channel(&owner, &channel)).unwrap();
        Client::new(node.control_socket()).put_channel(&record).await.unwrap();
        let publisher = home.connect(&node, owner).await;
        let mut readers = Vec::new();
        for name in ["acme/r1", "acme/r2", "acme/w1", "acme/w2"] {
            readers.push(home.connect(&node, home.register(&node, name).await).await);
        }
        let read = alerts::alerts(&publisher, &readers, &channel).await.unwrap();
        let all: Vec<String> = (1..=6).map(|n| format!("alert {n}")).collect();
        assert_eq!((&read[0].1, &read[1].1), (&all, &all), "in order");
        let mut shared: Vec<String> = read[2..].iter().flat_map(|(_, alerts)| alerts.clone()).collect();
        shared.sort();
        assert_eq!(shared, all, "each to one of them");
        for agent in readers.into_iter().chain([publisher]) {
            agent.close().await;
        }
        node.stop().unwrap();
    });
}

#[test]
fn a_file_is_handed_over_whole() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let sender = home.connect(&node, home.register(&node, "acme/planner").await).await;
        let receiver = home.connect(&node, home.register(&node, "acme/reader").await).await;
        let (path, inbox) = (home.path().join("report.csv"), home.path().join("inbox"));
        std::fs::write(&path, "city,alerts\nOslo,3\n".repeat(40_000)).unwrap();
        let upload = home.path().join("report.upload");
        let (sent, file) = tokio::join!(
            handover::hand_over(&sender, receiver.name(), &path, &upload),
            handover::take_over(&receiver, &inbox),
        );
        sent.unwrap();
        let file = file.unwrap();
        assert_eq!((file.name.as_str(), &file.note[..]), ("report.csv", &b"the alerts of this week"[..]));
        assert_eq!(std::fs::read(&file.path).unwrap(), std::fs::read(&path).unwrap());
        assert!(file.path.starts_with(&inbox) && !upload.exists(), "nothing is left to go on with");
        sender.close().await;
        receiver.close().await;
        node.stop().unwrap();
    });
}
