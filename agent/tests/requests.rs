//! Requests and their answers over a real node: who gets an answer, what becomes of one that nobody waits for, and what is left
//! when somebody dies in between.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use creto_agent::{
    Agent, AgentKeys, AgentName, ConnectOptions, Failure, Kind, Priority, RequestError, RequestOptions, RespondError,
    SendOptions, ServeOptions, Stats,
};
use creto_envelope::request::ResponsePayload;
use creto_node::Node;
use creto_node::config::Config;
use home::{Home, on_time};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(50);

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

async fn connect_with(
    home: &Home,
    node: &Node,
    keys: &Arc<AgentKeys>,
    change: impl FnOnce(&mut ConnectOptions),
) -> Agent {
    let mut options = ConnectOptions::new(node.address(), home.certificate.clone(), Arc::clone(keys));
    change(&mut options);
    Agent::connect(options).await.unwrap()
}

async fn connect(home: &Home, node: &Node, keys: &Arc<AgentKeys>) -> Agent {
    connect_with(home, node, keys, |_| ()).await
}

async fn keys(home: &Home, node: &Node, name: &str) -> Arc<AgentKeys> {
    Arc::new(home.register(node, name).await)
}

/// Two agents, `acme/a` and `acme/b`, which have no files.
async fn two(home: &Home, node: &Node) -> (Agent, Agent) {
    let (a, b) = (keys(home, node, "acme/a").await, keys(home, node, "acme/b").await);
    (connect(home, node, &a).await, connect(home, node, &b).await)
}

/// A server that answers with what it was asked, in capitals.
fn shout(agent: &Agent) -> creto_agent::Server {
    let shout = async |request: creto_agent::IncomingRequest| {
        Ok(Bytes::from(String::from_utf8(request.payload.to_vec()).unwrap().to_uppercase()))
    };
    agent.serve(ServeOptions::default(), shout).unwrap()
}

/// Waits for what no message announces.
async fn eventually(agent: &Agent, what: &str, holds: impl Fn(&Stats) -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds(&agent.stats()) {
        assert!(Instant::now() < end, "not in time: {what}; {:?}", agent.stats());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What is durable at the node and what of it is settled, when it has ended.
fn ended(node: Node) -> (u64, u64) {
    let summary = node.stop().unwrap();
    let (durable, settled): (Vec<_>, Vec<_>) =
        summary.shards.iter().map(|shard| (shard.messages_durable, shard.messages_settled)).unzip();
    (durable.iter().sum(), settled.iter().sum())
}

#[test]
fn a_request_is_answered_by_the_agent_that_was_asked_and_nothing_is_left_at_the_node() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        let server = shout(&b);
        let answer = a.request(&name("acme/b"), "quiet", LONG).await.unwrap();
        assert_eq!((&answer.payload[..], answer.from.as_str(), answer.from_id), (&b"QUIET"[..], "acme/b", b.id()));
        assert_ne!(answer.message_id, answer.request_id);
        assert!(answer.proof.is_none(), "nobody asked for proofs");
        server.stop().await.unwrap();
        let (asked, answered) = (a.stats(), b.stats());
        assert_eq!((asked.requests, asked.responses, asked.late_responses, asked.delivered), (1, 1, 0, 0));
        assert_eq!((answered.requests_answered, answered.requests_expired, answered.delivered), (1, 0, 1));
        a.close().await;
        b.close().await;
        assert_eq!(ended(node), (2, 2));
    });
}

#[test]
fn many_requests_are_under_way_at_once_and_each_gets_its_own_answer() {
    const REQUESTS: usize = 300;
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        let c = connect(&home, &node, &keys(&home, &node, "acme/c").await).await;
        // Every handler waits until a hundred are at work: that many are under way, on both sides.
        let (at_work, enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let servers = [b.clone(), c.clone()].map(|agent| {
            let (at_work, enough) = (Arc::clone(&at_work), Arc::clone(&enough));
            let (name, options) = (agent.name().clone(), ServeOptions::default().concurrency(100));
            let handler = move |request: creto_agent::IncomingRequest| {
                let (at_work, enough, name) = (Arc::clone(&at_work), Arc::clone(&enough), name.clone());
                async move {
                    let waits = enough.notified();
                    if at_work.fetch_add(1, Ordering::AcqRel) + 1 >= 100 {
                        enough.notify_waiters();
                    } else {
                        waits.await;
                    }
                    Ok(Bytes::from(format!("{name} {}", String::from_utf8_lossy(&request.payload))))
                }
            };
            agent.serve(options, handler).unwrap()
        });
        let mut asking = JoinSet::new();
        for n in 0..REQUESTS {
            let (a, to) = (a.clone(), name(if n % 2 == 0 { "acme/b" } else { "acme/c" }));
            asking.spawn(async move {
                let answer = a.request(&to, n.to_string(), LONG).await.unwrap();
                assert_eq!(answer.payload, format!("{to} {n}"));
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked.unwrap();
        }
        for server in servers {
            server.stop().await.unwrap();
        }
        assert_eq!((a.stats().responses, a.stats().late_responses), (REQUESTS as u64, 0));
        assert_eq!(b.stats().requests_answered + c.stats().requests_answered, REQUESTS as u64);
        for agent in [a, b, c] {
            agent.close().await;
        }
        assert_eq!(ended(node), (2 * REQUESTS as u64, 2 * REQUESTS as u64));
    });
}

#[test]
fn a_request_that_is_given_up_leaves_nothing_behind_and_its_answer_is_acknowledged_and_dropped() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        let mut mailbox = a.subscribe().unwrap();
        let to = name("acme/b");
        let asked = tokio::spawn({
            let (a, to) = (a.clone(), to.clone());
            async move { a.request(&to, "never mind", LONG).await }
        });
        let request = b.receive().await.unwrap();
        let info = request.request().unwrap();
        assert!(info.remaining() > LONG / 2 && info.remaining() <= LONG);
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        request.respond("too late").await.unwrap();
        assert!(matches!(request.respond("again").await, Err(RespondError::Finished)));
        eventually(&a, "the answer is late", |stats| stats.late_responses == 1).await;
        // It is not shown to whoever reads the mailbox either.
        b.send(&name("acme/a"), "something else").await.unwrap();
        let other = mailbox.next().await.unwrap().unwrap();
        assert_eq!(other.payload, "something else");
        other.ack();
        drop(mailbox);
        a.close().await;
        b.close().await;
        assert_eq!(ended(node), (3, 3));
    });
}

#[test]
fn a_request_without_an_answer_ends_at_its_deadline_and_the_node_keeps_it_no_longer() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        let after = Duration::from_millis(600);
        let began = Instant::now();
        let error = a.request(&name("acme/b"), "anybody?", after).await.unwrap_err();
        assert!(began.elapsed() >= after);
        let text = error.to_string();
        assert!(text.contains("has the request in its mailbox") && text.contains("600 ms"), "{text}");
        let RequestError::TimedOut { accepted: true, message_id, .. } = error else { panic!("{error:?}") };
        // Its time to live is a second; the sender is told nothing of it.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        a.send(&name("acme/b"), "after it").await.unwrap();
        let next = b.receive().await.unwrap();
        assert_eq!((&next.payload[..], next.message_id == message_id), (&b"after it"[..], false));
        next.ack();
        a.close().await;
        b.close().await;
        assert_eq!(ended(node).0, 2, "there is no notice");
    });
}

#[test]
fn a_request_that_comes_after_its_deadline_is_dropped_before_its_handler_and_counted() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        // Shorter than the second that its time to live is rounded up to.
        let error = a.request(&name("acme/b"), "too old", Duration::from_millis(150)).await.unwrap_err();
        assert!(matches!(error, RequestError::TimedOut { .. }), "{error:?}");
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&seen);
        let server = b
            .serve(ServeOptions::default(), move |request| {
                counted.fetch_add(1, Ordering::AcqRel);
                std::future::ready(Ok(request.payload))
            })
            .unwrap();
        assert_eq!(a.request(&name("acme/b"), "in time", LONG).await.unwrap().payload, "in time");
        eventually(&b, "it is dropped", |stats| stats.requests_expired == 1).await;
        server.stop().await.unwrap();
        assert_eq!((seen.load(Ordering::Acquire), b.stats().requests_answered), (1, 1));
        // Whoever answers by hand is told.
        let (sender, to) = (a.clone(), name("acme/b"));
        let slow = tokio::spawn(async move { sender.request(&to, "slow", Duration::from_millis(300)).await });
        let request = b.receive().await.unwrap();
        assert!(matches!(slow.await.unwrap(), Err(RequestError::TimedOut { .. })));
        assert!(matches!(request.respond("late").await, Err(RespondError::TooLate)));
        assert_eq!(b.stats().requests_expired, 2);
        a.close().await;
        b.close().await;
        assert_eq!(ended(node), (4, 4));
    });
}

#[test]
fn an_answer_of_somebody_who_was_not_asked_is_never_taken_for_one() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        let eve = connect(&home, &node, &keys(&home, &node, "acme/eve").await).await;
        let asked = tokio::spawn({
            let a = a.clone();
            async move { a.request(&name("acme/b"), "the secret word?", LONG).await }
        });
        let request = b.receive().await.unwrap();
        // However eve learned the id of the request.
        let forged = SendOptions {
            kind: Kind::Response,
            correlation_id: Some(request.message_id),
            priority: Priority::Critical,
            ..SendOptions::default()
        };
        eve.send_with(&name("acme/a"), ResponsePayload::Answered(b"swordfish").to_bytes(), forged).await.unwrap();
        eventually(&a, "it is seen and dropped", |stats| stats.foreign_responses == 1).await;
        assert!(!asked.is_finished());
        request.respond("friend").await.unwrap();
        let answer = asked.await.unwrap().unwrap();
        assert_eq!((&answer.payload[..], answer.from.as_str()), (&b"friend"[..], "acme/b"));
        // One that answers no request at all, from whomever.
        let forged = SendOptions { correlation_id: Some(answer.message_id), ..forged };
        for from in [&eve, &b] {
            from.send_with(&name("acme/a"), ResponsePayload::Answered(b"?").to_bytes(), forged).await.unwrap();
        }
        eventually(&a, "both are late", |stats| stats.late_responses == 2).await;
        for agent in [a, b, eve] {
            agent.close().await;
        }
        assert_eq!(ended(node), (5, 5));
    });
}

#[test]
fn a_subscription_gets_everything_but_answers_and_an_answer_goes_to_nobody_else() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        let mut mailbox = a.subscribe().unwrap();
        let to = name("acme/a");
        let responder = tokio::spawn(async move {
            b.send(&to, "before").await.unwrap();
            let request = b.receive().await.unwrap();
            assert_eq!((&request.payload[..], request.kind, request.correlation_id), (&b"?"[..], Kind::Request, None));
            // A response that the application made itself is the application's.
            let by_hand = SendOptions { kind: Kind::Response, ..SendOptions::default() };
            b.send_with(&to, "by hand", by_hand).await.unwrap();
            request.respond("the answer").await.unwrap();
            b.send(&to, "after").await.unwrap();
            // So is a request.
            let by_hand = SendOptions { kind: Kind::Request, ..SendOptions::default() };
            b.send_with(&to, "asked by hand", by_hand).await.unwrap();
            b.close().await;
        });
        assert_eq!(a.request(&name("acme/b"), "?", LONG).await.unwrap().payload, "the answer");
        for expected in ["before", "by hand", "after", "asked by hand"] {
            let delivery = mailbox.next().await.unwrap().unwrap();
            assert_eq!(delivery.payload, expected);
            assert!(delivery.request().is_none());
            assert!(matches!(delivery.respond("no").await, Err(RespondError::NotARequest)));
            delivery.ack();
        }
        responder.await.unwrap();
        drop(mailbox);
        a.close().await;
        assert_eq!(ended(node), (6, 6));
    });
}

#[test]
fn what_nobody_subscribed_for_stays_at_the_node_while_requests_are_answered() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let b = connect(&home, &node, &keys(&home, &node, "acme/b").await).await;
        let keys = keys(&home, &node, "acme/a").await;
        for n in 0..20 {
            b.send(&name("acme/a"), n.to_string()).await.unwrap();
        }
        let server = shout(&b);
        // Room for five, so fifteen are left at the node, and the answers stand behind them.
        let a = connect_with(&home, &node, &keys, |options| options.window_messages = 5).await;
        for _ in 0..3 {
            assert_eq!(a.request(&name("acme/b"), "x", LONG).await.unwrap().payload, "X");
        }
        assert_eq!((a.stats().delivered, a.stats().consumer_acknowledged), (0, 3));
        // Whoever subscribes later, in this process, gets all of them in order.
        let mut mailbox = a.subscribe().unwrap();
        for n in 0..10 {
            let delivery = mailbox.next().await.unwrap().unwrap();
            assert_eq!(delivery.payload, n.to_string());
            delivery.ack();
        }
        drop(mailbox);
        a.close().await;
        // And in another one.
        let a = connect(&home, &node, &keys).await;
        for n in 10..20 {
            let delivery = a.receive().await.unwrap();
            assert_eq!(delivery.payload, n.to_string());
            delivery.ack();
        }
        server.stop().await.unwrap();
        a.close().await;
        b.close().await;
        assert_eq!(ended(node), (26, 26));
    });
}

#[test]
fn an_application_that_holds_all_it_may_gets_its_answers_and_then_the_rest_in_order_and_once() {
    const MESSAGES: usize = 500;
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a_keys, b_keys) = (keys(&home, &node, "acme/a").await, keys(&home, &node, "acme/b").await);
        let b = connect(&home, &node, &b_keys).await;
        let to = name("acme/a");
        let texts: Vec<String> = (0..MESSAGES).map(|n| n.to_string()).collect();
        let sent = b.send_many(texts.iter().map(|text| (&to, text.clone()))).await;
        assert!(sent.iter().all(Result::is_ok));
        let server = shout(&b);
        let a = connect_with(&home, &node, &a_keys, |options| options.window_messages = 8).await;
        let mut mailbox = a.subscribe().unwrap();
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(mailbox.next().await.unwrap().unwrap());
        }
        // Nothing of these is acknowledged, and 492 messages stand before the answer, unless it is more urgent than they are.
        for _ in 0..5 {
            assert_eq!(a.request(&name("acme/b"), "go on", LONG).await.unwrap().payload, "GO ON");
        }
        let urgent = RequestOptions::new(LONG).priority(Priority::Critical);
        assert_eq!(a.request_with(&name("acme/b"), "now", urgent).await.unwrap().payload, "NOW");
        // Requests on the way, all the time.
        let asking = tokio::spawn({
            let a = a.clone();
            async move {
                for _ in 0..20 {
                    assert_eq!(a.request(&name("acme/b"), "more", LONG).await.unwrap().payload, "MORE");
                }
            }
        });
        for (n, delivery) in held.into_iter().enumerate() {
            assert_eq!(delivery.payload, n.to_string());
            delivery.ack();
        }
        for n in 8..MESSAGES {
            let delivery = mailbox.next().await.unwrap().unwrap();
            assert_eq!(delivery.payload, n.to_string(), "in order, and once");
            delivery.ack();
        }
        asking.await.unwrap();
        server.stop().await.unwrap();
        drop(mailbox);
        let stats = a.stats();
        assert!(stats.passed_over > 0 && stats.renewals > 0, "{stats:?}");
        assert_eq!((stats.responses, stats.late_responses, stats.delivered), (26, 0, MESSAGES as u64), "{stats:?}");
        a.close().await;
        b.close().await;
        assert_eq!(ended(node), (MESSAGES as u64 + 52, MESSAGES as u64 + 52));
    });
}

#[test]
fn handlers_that_ask_others_get_their_answers_however_many_requests_wait() {
    const REQUESTS: usize = 60;
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, c) = {
            let (a, c) = (keys(&home, &node, "acme/a").await, keys(&home, &node, "acme/c").await);
            (connect(&home, &node, &a).await, connect(&home, &node, &c).await)
        };
        let b_keys = keys(&home, &node, "acme/b").await;
        let b = connect_with(&home, &node, &b_keys, |options| options.window_messages = 4).await;
        let shouting = shout(&c);
        let handler = {
            let b = b.clone();
            move |request: creto_agent::IncomingRequest| {
                let b = b.clone();
                async move {
                    let left = request.remaining();
                    let answer = b.request(&name("acme/c"), request.payload, left).await;
                    answer.map(|answer| answer.payload).map_err(|error| Failure::new(1, error.to_string()))
                }
            }
        };
        let server = b.serve(ServeOptions::default().concurrency(4), handler).unwrap();
        let mut asking = JoinSet::new();
        for n in 0..REQUESTS {
            let a = a.clone();
            asking.spawn(async move {
                let answer = a.request(&name("acme/b"), format!("n{n}"), LONG).await.unwrap();
                assert_eq!(answer.payload, format!("N{n}"));
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked.unwrap();
        }
        server.stop().await.unwrap();
        shouting.stop().await.unwrap();
        for agent in [a, b, c] {
            agent.close().await;
        }
        assert_eq!(ended(node), (4 * REQUESTS as u64, 4 * REQUESTS as u64));
    });
}

#[test]
fn a_request_whose_worker_dies_before_the_answer_comes_again_to_the_next_one() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let a = connect(&home, &node, &keys(&home, &node, "acme/a").await).await;
        let b_keys = keys(&home, &node, "acme/b").await;
        let asked = tokio::spawn(async move { (a.request(&name("acme/b"), "do it", LONG).await, a) });
        let first = connect(&home, &node, &b_keys).await;
        let request = first.receive().await.unwrap();
        let message_id = request.message_id;
        // It was read, and perhaps worked on. Nothing that the process would do at its end is done.
        drop(first);
        std::mem::forget(request);
        let second = connect(&home, &node, &b_keys).await;
        let attempts = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = Arc::clone(&attempts);
        let server = second
            .serve(ServeOptions::default(), move |request| {
                seen.lock().unwrap().push((request.message_id, request.attempt));
                std::future::ready(Ok(Bytes::from_static(b"done")))
            })
            .unwrap();
        let (answer, a) = asked.await.unwrap();
        assert_eq!(answer.unwrap().payload, "done");
        server.stop().await.unwrap();
        assert_eq!(*attempts.lock().unwrap(), [(message_id, 1)]);
        a.close().await;
        second.close().await;
        assert_eq!(ended(node), (2, 2));
    });
}

#[test]
fn an_answer_to_a_process_that_died_is_dropped_acknowledged_and_counted_by_the_next_one() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let b = connect(&home, &node, &keys(&home, &node, "acme/b").await).await;
        let a_keys = keys(&home, &node, "acme/a").await;
        let first = connect(&home, &node, &a_keys).await;
        let to = name("acme/b");
        let mut asking = Box::pin(first.request(&to, "wait for me", LONG));
        let request = tokio::select! {
            answer = &mut asking => panic!("{answer:?}"),
            request = b.receive() => request.unwrap(),
        };
        drop(asking);
        drop(first);
        request.respond("you are gone").await.unwrap();
        b.send(&name("acme/a"), "good morning").await.unwrap();
        let second = connect(&home, &node, &a_keys).await;
        let delivery = second.receive().await.unwrap();
        assert_eq!(delivery.payload, "good morning");
        delivery.ack();
        assert_eq!(second.stats().late_responses, 1);
        second.close().await;
        b.close().await;
        assert_eq!(ended(node), (3, 3));
    });
}

#[test]
fn a_node_that_restarts_between_request_and_answer_loses_neither() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let address = node.address();
        let (a, b) = two(&home, &node).await;
        let asked = tokio::spawn(async move { (a.request(&name("acme/b"), "hold on", LONG).await, a) });
        let request = b.receive().await.unwrap();
        node.stop().unwrap();
        let config = home.path().join("creto.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("127.0.0.1:0", &address.to_string())).unwrap();
        let node = Node::start(&Config::load(&config, []).unwrap()).unwrap();
        request.respond("here I am").await.unwrap();
        let (answer, a) = asked.await.unwrap();
        assert_eq!(answer.unwrap().payload, "here I am");
        assert!(a.stats().reconnects > 0);
        b.close().await;
        a.close().await;
        // The request was durable before, and settled by this one.
        assert_eq!(ended(node), (1, 2));
    });
}

#[test]
fn a_request_that_the_node_refuses_says_why_and_what_to_do() {
    on_time(async {
        let home = Home::new();
        let node = home.start_with("topology.shards = 2\nmailbox.messages_max = 1\n");
        let (a, b) = two(&home, &node).await;
        let error = a.request(&name("acme/nobody"), "?", LONG).await.unwrap_err();
        assert!(matches!(error, RequestError::UnknownAgent { .. }), "{error:?}");
        a.send(&name("acme/b"), "fills the mailbox").await.unwrap();
        // For a quarter of its time it is tried again.
        let began = Instant::now();
        let error = a.request(&name("acme/b"), "?", Duration::from_secs(4)).await.unwrap_err();
        assert!(matches!(error, RequestError::MailboxFull { .. }), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(4));
        assert!(error.to_string().contains("does not read fast enough"), "{error}");
        let error = a.request(&name("acme/b"), vec![0; 1 << 20], LONG).await.unwrap_err();
        assert!(matches!(error, RequestError::NotSent(creto_agent::SendError::TooLarge { .. })), "{error:?}");
        a.clone().close().await;
        let error = a.request(&name("acme/b"), "?", LONG).await.unwrap_err();
        assert!(matches!(error, RequestError::Receiving(_)), "{error:?}");
        b.close().await;
        node.stop().unwrap();
    });
}

#[test]
fn failures_panics_and_answers_that_do_not_fit_are_told_to_whoever_asked() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        let (others, mut left) = mpsc::channel(4);
        let server = b
            .serve(ServeOptions::default().others(others), async |request: creto_agent::IncomingRequest| match &request
                .payload[..]
            {
                b"fail" => Err(Failure::new(7, "out of tea")),
                b"panic" => panic!("on purpose"),
                b"large" => Ok(vec![0; (1 << 20) - 7].into()),
                b"largest" => Ok(vec![0; (1 << 20) - 8].into()),
                _ => Ok(Bytes::new()),
            })
            .unwrap();
        let ask = async |text: &'static str| match a.request(&name("acme/b"), text, LONG).await {
            Ok(answer) => Ok(answer.payload.len()),
            Err(RequestError::Failed { code, message, from }) => {
                assert_eq!(from, "acme/b");
                Err((code, message))
            }
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(ask("fail").await, Err((7, "out of tea".to_owned())));
        assert_eq!(ask("panic").await.unwrap_err().0, Failure::PANICKED);
        assert_eq!(ask("large").await.unwrap_err().0, Failure::TOO_LARGE);
        assert_eq!(ask("largest").await, Ok((1 << 20) - 8));
        assert_eq!(ask("").await, Ok(0));
        a.send(&name("acme/b"), "no request").await.unwrap();
        let other = left.recv().await.unwrap();
        assert_eq!(other.payload, "no request");
        other.ack();
        server.stop().await.unwrap();
        a.close().await;
        b.close().await;
        assert_eq!(ended(node), (11, 11));
    });
}

#[test]
fn a_handler_that_panics_before_its_first_wait_fails_its_request_and_no_other() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        let server = b
            .serve(ServeOptions::default(), |request| {
                assert!(request.payload != "panic", "on purpose");
                std::future::ready(Ok(request.payload))
            })
            .unwrap();
        let error = a.request(&name("acme/b"), "panic", LONG).await.unwrap_err();
        assert!(matches!(error, RequestError::Failed { code: Failure::PANICKED, .. }), "{error:?}");
        assert_eq!(a.request(&name("acme/b"), "go on", LONG).await.unwrap().payload, "go on");
        server.stop().await.unwrap();
        a.close().await;
        b.close().await;
        assert_eq!(ended(node), (4, 4));
    });
}

#[test]
fn a_server_ends_after_as_many_requests_as_it_was_to_and_tells_of_each_when_its_answer_is_durable() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        let (report, mut reports) = mpsc::channel(4);
        let options = ServeOptions::default().concurrency(4).requests_max(2).report(report);
        let mut server = b.serve(options, |request| std::future::ready(Ok(request.payload))).unwrap();
        let mut asking = JoinSet::new();
        for _ in 0..3 {
            let a = a.clone();
            asking.spawn(async move { a.request(&name("acme/b"), "x", LONG).await.unwrap() });
        }
        server.ended().await.unwrap();
        for _ in 0..2 {
            let served = reports.recv().await.unwrap();
            assert_eq!(served.outcome, creto_agent::ServeOutcome::Answered { bytes: 1 });
            asking.join_next().await.unwrap().unwrap();
        }
        assert!(reports.recv().await.is_none());
        assert_eq!(b.stats().requests_answered, 2);
        // The third is still there for the next one.
        b.receive().await.unwrap().respond("x").await.unwrap();
        asking.join_next().await.unwrap().unwrap();
        a.close().await;
        b.close().await;
        assert_eq!(ended(node), (6, 6));
    });
}

#[test]
fn a_server_that_stops_answers_what_it_has_begun_and_leaves_the_rest_at_the_node() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        let (begun, mut at_work) = mpsc::unbounded_channel();
        let go_on = Arc::new(Notify::new());
        let waits = Arc::clone(&go_on);
        let server = b
            .serve(ServeOptions::default().concurrency(2), move |request| {
                begun.send(request.payload.clone()).unwrap();
                let waits = Arc::clone(&waits);
                async move {
                    waits.notified().await;
                    Ok(request.payload)
                }
            })
            .unwrap();
        let mut asking = JoinSet::new();
        for n in 0..3 {
            let a = a.clone();
            asking.spawn(async move { a.request(&name("acme/b"), n.to_string(), LONG).await.unwrap().payload });
        }
        let mut first = BTreeSet::new();
        for _ in 0..2 {
            first.insert(at_work.recv().await.unwrap());
        }
        let stopping = tokio::spawn(server.stop());
        // The subscription is free as soon as nothing more is taken, long before the last answer.
        let rest = loop {
            match b.subscribe() {
                Ok(mut mailbox) => break mailbox.next().await.unwrap().unwrap(),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert!(!stopping.is_finished());
        go_on.notify_one();
        go_on.notify_one();
        let mut answers = BTreeSet::new();
        for _ in 0..2 {
            answers.insert(asking.join_next().await.unwrap().unwrap());
        }
        stopping.await.unwrap().unwrap();
        assert_eq!(answers, first);
        let payload = rest.payload.clone();
        rest.respond(payload.clone()).await.unwrap();
        assert_eq!(asking.join_next().await.unwrap().unwrap(), payload);
        a.close().await;
        b.close().await;
        assert_eq!(ended(node), (6, 6));
    });
}

#[test]
fn above_the_bound_of_requests_under_way_one_waits_for_a_place() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (a, b) = two(&home, &node).await;
        let mut asking = JoinSet::new();
        for n in 0..creto_agent::limits::REQUESTS_MAX {
            let a = a.clone();
            asking.spawn(async move { a.request(&name("acme/b"), n.to_string(), LONG).await });
        }
        eventually(&a, "all are sent", |stats| stats.acknowledged == creto_agent::limits::REQUESTS_MAX as u64).await;
        let error = a.request(&name("acme/b"), "one more", Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error, RequestError::TimedOut { accepted: false, .. }), "{error:?}");
        assert_eq!(a.stats().submitted, creto_agent::limits::REQUESTS_MAX as u64);
        // Giving them up makes room at once.
        asking.abort_all();
        while asking.join_next().await.is_some() {}
        let server = b.serve(ServeOptions::default(), |request| std::future::ready(Ok(request.payload))).unwrap();
        assert_eq!(a.request(&name("acme/b"), "now", LONG).await.unwrap().payload, "now");
        server.stop().await.unwrap();
        a.close().await;
        b.close().await;
        node.stop().unwrap();
    });
}
