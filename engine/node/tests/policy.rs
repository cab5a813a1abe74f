//! Policies that operators write, on a real node over QUIC: the documents' examples as they stand, what an agent is bound to,
//! and what becomes of a file that changes.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::time::{Duration, Instant};

use creto_agent::{Agent, AgentName, RejectCode, SendOptions};
use creto_envelope::Priority;
use creto_node::config::Config;
use creto_node::{Node, NodeError};
use creto_service::attributes::AttributesChange;
use creto_service::client::{Client, ClientError};
use home::{Home, on_time};

/// The examples of the product's documents, each as it stands there.
const SAME_ORGANIZATION: &str = include_str!("../../../control/rego/tests/examples/same_organization.rego");
const RATE_LIMITING: &str = include_str!("../../../control/rego/tests/examples/rate_limiting.rego");
const ROLE_BASED: &str = include_str!("../../../control/rego/tests/examples/role_based.rego");

fn write(home: &Home, text: &str) {
    std::fs::write(home.path().join("policy.rego"), text).unwrap();
}

/// A node with this policy.
fn start(home: &Home, text: &str) -> Node {
    write(home, text);
    home.start_with("topology.shards = 2\npolicy.file = \"policy.rego\"\n")
}

fn client(node: &Node) -> Client {
    Client::new(node.control_socket())
}

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

async fn agent(home: &Home, node: &Node, name: &str) -> Agent {
    let keys = home.register(node, name).await;
    home.connect(node, keys).await
}

/// The code with which a message is refused, if it is.
async fn refused(from: &Agent, to: &str) -> Option<RejectCode> {
    refused_with(from, to, b"hello".to_vec(), SendOptions::default()).await
}

async fn refused_with(from: &Agent, to: &str, payload: Vec<u8>, options: SendOptions) -> Option<RejectCode> {
    let answer = from.send_with(&name(to), payload, options).await;
    answer.err().map(|error| error.code().unwrap_or_else(|| panic!("{error}")))
}

/// Sends, one message after the answer to the last, until one is refused with this, or is not; says how long that took.
async fn until_refused(from: &Agent, to: &str, wanted: Option<RejectCode>) -> Duration {
    let begun = Instant::now();
    while refused(from, to).await != wanted {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never was {wanted:?}");
    }
    begun.elapsed()
}

#[test]
fn the_documents_example_of_one_organization_runs_as_written() {
    on_time(async {
        let home = Home::new();
        let node = start(&home, SAME_ORGANIZATION);
        let (planner, stranger) = (agent(&home, &node, "acme/planner").await, agent(&home, &node, "other/agent").await);
        home.register(&node, "acme/executor").await;
        assert_eq!(refused(&planner, "acme/executor").await, None);
        assert_eq!(refused(&planner, "other/agent").await, Some(RejectCode::PolicyDenied));
        assert_eq!(refused(&stranger, "acme/executor").await, Some(RejectCode::PolicyDenied));
        node.stop().unwrap();
    });
}

#[test]
fn the_documents_example_of_a_rate_runs_as_written() {
    on_time(async {
        let home = Home::new();
        let node = start(&home, RATE_LIMITING);
        let (planner, to) = (agent(&home, &node, "acme/planner").await, name("other/agent"));
        home.register(&node, "other/agent").await;
        let begun = Instant::now();
        let answers = planner.send_many((0..1_100).map(|_| (&to, b"hello".to_vec()))).await;
        let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
        let codes: Vec<_> = answers.into_iter().filter_map(|answer| answer.err()?.code()).collect();
        assert!(codes.iter().all(|code| *code == RejectCode::PolicyDenied), "{codes:?}");
        // On a machine that stood still for most of a minute, the first of them are not recent any more.
        if begun.elapsed() < Duration::from_secs(45) {
            assert_eq!((accepted, codes.len()), (1_000, 100));
        }
        let told = client(&node).explain(&name("acme/planner"), "send_message", &to).await.unwrap();
        assert!(told.recent_messages.is_some_and(|recent| recent > 0) && told.kept.is_empty(), "{told:?}");
        node.stop().unwrap();
    });
}

#[test]
fn the_documents_example_of_a_role_runs_as_written() {
    on_time(async {
        let home = Home::new();
        let node = start(&home, ROLE_BASED);
        let (planner, worker) = (agent(&home, &node, "acme/planner").await, agent(&home, &node, "other/worker").await);
        assert_eq!(refused(&planner, "other/worker").await, Some(RejectCode::PolicyDenied));
        let roles =
            AttributesChange { roles: Some(Some(vec!["coordinator".to_owned()])), ..AttributesChange::default() };
        client(&node).set_attributes(&name("acme/planner"), &roles).await.unwrap();
        assert_eq!(refused(&planner, "other/worker").await, None, "from the moment on that the role is set");
        // It must read the sender's key record to open the message, and may not write back.
        let delivery = worker.receive().await.unwrap();
        assert_eq!((delivery.from.as_str(), &delivery.payload[..]), ("acme/planner", &b"hello"[..]));
        delivery.ack();
        assert_eq!(refused(&worker, "acme/planner").await, Some(RejectCode::PolicyDenied));
        node.stop().unwrap();
    });
}

#[test]
fn a_sender_is_held_to_its_obligations() {
    on_time(async {
        let home = Home::new();
        let node = start(
            &home,
            "package creto.messaging\n\nallow if true\n\nobligations := {\"size_max\": 100, \"messages_per_s\": 20, \
             \"priorities\": [\"low\", \"normal\"]} if input.sender.name == \"acme/guest\"\n",
        );
        let (guest, member) = (agent(&home, &node, "acme/guest").await, agent(&home, &node, "acme/member").await);
        let high = SendOptions { priority: Priority::High, ..SendOptions::default() };
        let to = "acme/member";
        assert_eq!(refused_with(&guest, to, vec![7; 100], SendOptions::default()).await, None);
        assert_eq!(refused_with(&guest, to, vec![7; 101], SendOptions::default()).await, Some(RejectCode::PolicySize));
        assert_eq!(refused_with(&guest, to, vec![7; 10], high).await, Some(RejectCode::PolicyPriority));
        assert_eq!(refused_with(&member, to, vec![7; 5_000], high).await, None, "others are not bound");
        let begun = Instant::now();
        let (recipient, messages) = (name(to), 60);
        let payloads = (0..messages).map(|number: u32| (&recipient, number.to_le_bytes().to_vec()));
        for answer in guest.send_many(payloads).await {
            answer.expect("the SDK waits as long as it is told");
        }
        assert!(begun.elapsed() > Duration::from_millis(1_500), "60 at 20 a second: {:?}", begun.elapsed());
        node.stop().unwrap();
    });
}

#[test]
fn a_file_that_changes_is_in_force_within_a_second_and_one_that_is_broken_changes_nothing() {
    on_time(async {
        let home = Home::new();
        let node = start(&home, SAME_ORGANIZATION);
        let planner = agent(&home, &node, "acme/planner").await;
        home.register(&node, "other/agent").await;
        home.register(&node, "acme/executor").await;
        let denied = Some(RejectCode::PolicyDenied);
        assert_eq!(refused(&planner, "other/agent").await, denied);
        let before = client(&node).policy().await.unwrap();

        // The file alone, as an editor leaves it.
        write(&home, "allow { input.sender.name == \"acme/planner\" }\n");
        let took = until_refused(&planner, "other/agent", None).await;
        println!("in force {took:?} after the file changed");
        // The bound is a second; a loaded machine may be late with everything.
        assert!(took < Duration::from_secs(5), "{took:?}");
        let after = client(&node).policy().await.unwrap();
        assert!(after.epoch > before.epoch && after.sha256 != before.sha256, "{before:?} {after:?}");

        // Asked for.
        write(&home, SAME_ORGANIZATION);
        let reloaded = client(&node).reload_policy().await.unwrap();
        assert_eq!((reloaded.sha256, reloaded.failure), (before.sha256.clone(), None));
        assert_eq!(refused(&planner, "other/agent").await, denied, "it is in force when the answer comes");

        // Broken: told, and nothing else.
        write(&home, "allow {\n    input.sender.role == \"a\"\n}\n");
        let Err(ClientError::Refused { error, status }) = client(&node).reload_policy().await else {
            panic!("refused")
        };
        assert_eq!((status, error.code.as_str()), (422, "policy_refused"));
        assert!(error.message.contains("policy.rego:2:5: there is no `input.sender.role`"), "{}", error.message);
        assert!(error.message.contains("did you mean `input.sender.roles`?"), "{}", error.message);
        let kept = client(&node).policy().await.unwrap();
        assert!(kept.sha256 == before.sha256 && kept.failure.is_some(), "{kept:?}");
        assert_eq!((refused(&planner, "acme/executor").await, refused(&planner, "other/agent").await), (None, denied));

        // As a signal asks.
        write(&home, "allow { true }\n");
        node.policy_reloader().unwrap().reload();
        until_refused(&planner, "other/agent", None).await;
        node.stop().unwrap();
    });
}

#[test]
fn a_node_starts_with_a_broken_policy_only_where_the_door_may_stand_open() {
    on_time(async {
        let home = Home::new();
        write(&home, "allow {\n");
        let denies = "topology.shards = 1\npolicy.file = \"policy.rego\"\n";
        let allows = format!("{denies}policy.on_failure = \"allow\"\n");
        let node = home.start_with(&allows);
        let planner = agent(&home, &node, "acme/planner").await;
        home.register(&node, "other/agent").await;
        assert_eq!(refused(&planner, "other/agent").await, None);
        let policy = client(&node).policy().await.unwrap();
        assert!(policy.name == "fail-open" && policy.failure.is_some(), "{policy:?}");
        write(&home, SAME_ORGANIZATION);
        until_refused(&planner, "other/agent", Some(RejectCode::PolicyDenied)).await;
        write(&home, "allow {\n");
        client(&node).reload_policy().await.unwrap_err();
        assert_eq!(refused(&planner, "other/agent").await, Some(RejectCode::PolicyDenied), "there is one that holds");
        drop(planner);
        let summary = node.stop().unwrap();
        assert!(summary.shards[0].decisions.allowed_without_policy > 0, "every use is counted");

        std::fs::write(home.path().join("creto.toml"), format!("node.listen = \"127.0.0.1:0\"\n{denies}")).unwrap();
        let config = Config::load(&home.path().join("creto.toml"), []).unwrap();
        match Node::start(&config) {
            Err(NodeError::Service(error)) => {
                let text = error.to_string();
                assert!(text.contains("policy.rego:") && text.contains("(syntax)"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_node_explains_what_it_decides_and_where_it_keeps_that() {
    on_time(async {
        let home = Home::new();
        let node = start(&home, &format!("{SAME_ORGANIZATION}\n{ROLE_BASED}"));
        let planner = agent(&home, &node, "acme/planner").await;
        home.register(&node, "acme/executor").await;
        home.register(&node, "other/agent").await;
        let control = client(&node);
        let ask = async |to: &str| control.explain(&name("acme/planner"), "send_message", &name(to)).await.unwrap();
        let fresh = ask("acme/executor").await;
        assert!(fresh.allow && fresh.kept.is_empty() && fresh.code.is_none(), "{fresh:?}");
        assert_eq!(fresh.rules.iter().map(|rule| (rule.line, rule.allow)).collect::<Vec<_>>(), [(2, true), (7, false)]);
        assert_eq!(fresh.inputs["sender.organization_id"], "acme");
        assert_eq!(refused(&planner, "acme/executor").await, None);
        let kept = ask("acme/executor").await;
        assert!(matches!(kept.kept[..], [one] if one.allow), "{kept:?}");
        let denied = ask("other/agent").await;
        assert_eq!((denied.allow, denied.code), (false, Some(400)));
        assert_eq!(denied.reason.as_deref(), Some("no rule `allow` holds"));
        for (action, to, code) in
            [("shout", "acme/executor", "action_unknown"), ("send_message", "acme/nobody", "agent_unknown")]
        {
            let error = control.explain(&name("acme/planner"), action, &name(to)).await.unwrap_err();
            assert_eq!(error.code(), Some(code));
        }
        node.stop().unwrap();
    });
}
