//! The examples do what they say, against a real node.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../examples/call.rs"]
#[allow(dead_code, reason = "its own start is not needed")]
mod call;
#[path = "../../engine/node/tests/home/mod.rs"]
mod home;
#[path = "../examples/tools.rs"]
#[allow(dead_code, reason = "its own start is not needed")]
mod tools;

use creto_agent::AgentName;
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
