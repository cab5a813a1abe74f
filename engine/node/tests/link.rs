//! Nodes whose control service is elsewhere: they share its directory, hear of a revocation at once, and go by what they knew last for
//! as long as they may, and no longer.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_agent::channel::{ChannelRecord, Publishing, Subscribing};
use creto_agent::enrol::{Enrolment, EnrolmentToken, enrol};
use creto_agent::raw::{RawConnection, RawStream, prekey_batch};
use creto_agent::{
    Agent, AgentKeys, AgentName, ChannelError, ChannelName, ChannelSubscription, ConnectOptions, RejectCode,
    SubscribeOptions, TrustDomain,
};
use creto_envelope::channel::frames::ChannelRequest;
use creto_envelope::prekeys::{PrekeyClaim, PrekeyClaimed, PrekeyKind, PrekeyUploaded, encode_prekey_upload};
use creto_envelope::{ChannelId, FrameType};
use creto_node::{ControlProcess, Node};
use creto_service::client::Client;
use creto_service::health::{ControlLink, Readiness};
use creto_service::states::{StateChange, StateWord};
use creto_service::tokens::TokenWanted;
use crossbeam::channel;
use home::{Home, now_ms, on_time};

const WITHIN: Duration = Duration::from_secs(10);
/// The promise of a revocation.
const EVERYWHERE_WITHIN: Duration = Duration::from_secs(1);
const SHARDS: u32 = 2;

/// A control service, and how long its nodes go by what they knew.
struct Service {
    home: Home,
    process: Option<ControlProcess>,
    address: SocketAddr,
    lifetime: &'static str,
}

impl Service {
    fn new(lifetime: &'static str) -> Self {
        let home = Home::new();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut service = Self { home, process: None, address, lifetime };
        service.start();
        service
    }

    /// On the same address as before, if there was one.
    fn start(&mut self) {
        let lines = format!("link.listen = \"{}\"\nlink.snapshot_lifetime = \"{}\"\n", self.address, self.lifetime);
        let process = ControlProcess::start(&self.home.configure(&lines)).unwrap();
        self.address = process.address();
        self.process = Some(process);
    }

    fn stop(&mut self) {
        self.process.take().unwrap().stop().unwrap();
    }

    fn client(&self) -> Client {
        Client::new(self.process.as_ref().unwrap().control_socket())
    }

    fn admit(&self, name: &str, node: &Home) {
        let folder = self.home.path().join("data/nodes");
        std::fs::copy(node.path().join("data/node.crt"), folder.join(format!("{name}.new"))).unwrap();
        std::fs::rename(folder.join(format!("{name}.new")), folder.join(format!("{name}.crt"))).unwrap();
    }

    fn dismiss(&self, name: &str) {
        std::fs::remove_file(self.home.path().join(format!("data/nodes/{name}.crt"))).unwrap();
    }

    /// A node of this service that may not be admitted.
    fn node(&self, home: &Home) -> Node {
        let certificate = self.home.path().join("data/node.crt");
        self.node_that_believes(home, &certificate)
    }

    fn node_that_believes(&self, home: &Home, certificate: &Path) -> Node {
        home.start_with(&format!(
            "topology.shards = {SHARDS}\nlink.control = \"{}\"\nlink.control_certificate = \"{}\"\n",
            self.address,
            certificate.display()
        ))
    }

    /// A node that is admitted, when it has a directory.
    fn linked(&self, name: &str) -> (Home, Node) {
        let home = Home::new();
        self.admit(name, &home);
        let mut node = self.node(&home);
        assert!(wait_for_control(&mut node));
        (home, node)
    }

    async fn register(&self, name: &str) -> Arc<AgentKeys> {
        let keys = keys(name);
        let record = keys.signed_record(1, now_ms() - 1_000, now_ms() + 86_400_000);
        self.client().register(&record).await.unwrap();
        keys
    }

    /// The events of the audit log, with their texts.
    async fn events(&self) -> Vec<(String, String)> {
        let page = self.client().audit_events(0, 1_000).await.unwrap();
        let text = |event: &serde_json::Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        page.events.iter().map(|event| (text(event, "kind"), text(event, "text"))).collect()
    }
}

fn keys(name: &str) -> Arc<AgentKeys> {
    Arc::new(AgentKeys::generate(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap())
}

fn wait_for_control(node: &mut Node) -> bool {
    let (_never, stop) = channel::bounded(0);
    node.wait_for_control(&stop).unwrap()
}

async fn connect(home: &Home, node: &Node, keys: &Arc<AgentKeys>) -> Agent {
    let options = ConnectOptions::new(node.address(), home.certificate.clone(), Arc::clone(keys));
    Agent::connect(options).await.unwrap()
}

/// What a login is refused with; none: it is taken.
async fn log_in(home: &Home, node: &Node, keys: &Arc<AgentKeys>) -> Option<RejectCode> {
    let connection = RawConnection::connect(node.address(), &home.certificate, WITHIN).await.unwrap();
    match connection.log_in(keys).await {
        Ok(_) => None,
        Err(error) => Some(error.code().unwrap_or_else(|| panic!("{error}"))),
    }
}

async fn readiness(node: &Node) -> (Readiness, ControlLink) {
    let readiness = Client::new(node.control_socket()).readiness().await.unwrap();
    let control = readiness.control.clone().unwrap();
    (readiness, control)
}

/// Looks again and again until it is so: nothing here says when.
async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) -> Duration {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}

async fn until_linked(node: &Node, is_linked: bool) {
    until("the link is as it should be", || async { readiness(node).await.1.linked == is_linked }).await;
}

async fn until_denied(home: &Home, node: &Node, keys: &Arc<AgentKeys>) -> Duration {
    until("it is denied", || async { log_in(home, node, keys).await == Some(RejectCode::PolicyUnavailable) }).await
}

#[test]
fn two_nodes_share_the_agents_of_one_control_service() {
    on_time(async {
        let service = Service::new("60s");
        let (planner, worker) = (service.register("acme/planner").await, service.register("acme/worker").await);
        let (one, two) = (service.linked("node-1"), service.linked("node-2"));
        for (home, node) in [&one, &two] {
            let (from, to) = (connect(home, node, &planner).await, connect(home, node, &worker).await);
            from.send(to.name(), "hello").await.unwrap();
            let delivery = to.receive().await.unwrap();
            assert_eq!(&delivery.payload[..], b"hello");
            delivery.ack();
            from.close().await;
            to.close().await;
        }

        // Whoever comes later is known to both, whichever way it came.
        let stranger = service.register("other/stranger").await;
        let (home, node) = &one;
        let from = connect(home, node, &stranger).await;
        let denied = from.send(worker.name(), "psst").await.unwrap_err();
        assert!(denied.to_string().contains("PolicyDenied"), "{denied}");
        from.close().await;
        let wanted = TokenWanted { organization: "acme".to_owned(), name: None, expires_in_s: 60, uses: 1 };
        let token = EnrolmentToken::parse(&service.client().make_token(&wanted).await.unwrap().token).unwrap();
        let late = keys("acme/late");
        let valid_ms = now_ms() - 1_000..now_ms() + 86_400_000;
        let enrolled = enrol(node.address(), &home.certificate, &late, valid_ms.clone(), &token, WITHIN).await;
        assert_eq!(enrolled.unwrap(), Enrolment::Created);
        assert_eq!(log_in(home, node, &late).await, None, "who was told that it is registered can log in");
        let (home, node) = &two;
        until("the other node knows it", || async { log_in(home, node, &late).await.is_none() }).await;
        let used = enrol(node.address(), &home.certificate, &keys("acme/later"), valid_ms, &token, WITHIN).await;
        assert_eq!(used.unwrap_err().code(), Some("token_used"));

        // A key that is replaced at one node is the one that the other hands out.
        let file = home.path().join("worker.keys");
        worker.save(&file).unwrap();
        let agent = connect(home, node, &Arc::new(AgentKeys::load(&file).unwrap())).await;
        assert_eq!(agent.rotate_keys().await.unwrap().version, 2);
        agent.close().await;
        let agents = service.client().agents(Some("acme")).await.unwrap();
        let versions: Vec<_> = agents.iter().map(|agent| (&agent.name[..], agent.version)).collect();
        assert_eq!(versions, [("acme/late", 1), ("acme/planner", 1), ("acme/worker", 2)]);

        // And both have an audit log of their own, which their own API shows.
        for (_, node) in [&one, &two] {
            until("it is in the node's audit log", || async {
                let page = Client::new(node.control_socket()).audit_events(0, 1_000).await.unwrap();
                let kinds: HashSet<_> = page.events.iter().filter_map(|event| event["kind"].as_str()).collect();
                assert!(!kinds.contains("agent_registered"), "that is control's to tell");
                kinds.contains("message_delivered")
            })
            .await;
            let refused = Client::new(node.control_socket()).agents(None).await.unwrap_err();
            assert!(refused.to_string().contains(&service.address.to_string()), "{refused}");
        }
        until("it is in control's audit log", || async {
            let events = service.events().await;
            let is_there = |name: &str| events.contains(&("node_linked".to_owned(), name.to_owned()));
            let is_rotated = events.iter().any(|(kind, _)| kind == "key_rotated");
            is_there("node-1") && is_there("node-2") && is_rotated
        })
        .await;
        one.1.stop().unwrap();
        two.1.stop().unwrap();
    });
}

/// A connection of this agent to each shard of a node: the kernel spreads them, so some are made for nothing.
async fn on_every_shard(home: &Home, node: &Node, keys: &Arc<AgentKeys>) -> Vec<(RawConnection, RawStream)> {
    let mut by_shard: Vec<Option<(RawConnection, RawStream)>> = (0..SHARDS).map(|_| None).collect();
    while by_shard.iter().any(Option::is_none) {
        let connection = RawConnection::connect(node.address(), &home.certificate, WITHIN).await.unwrap();
        let (control, accepted) = connection.log_in(keys).await.unwrap();
        by_shard[accepted.shard_index as usize] = Some((connection, control));
    }
    by_shard.into_iter().flatten().collect()
}

#[test]
fn a_revocation_is_on_every_shard_of_every_node_within_a_second_of_its_answer() {
    on_time(async {
        let service = Service::new("60s");
        let nodes = [service.linked("node-1"), service.linked("node-2")];
        for (round, (state, code)) in
            [(StateWord::Suspended, RejectCode::AgentSuspended), (StateWord::Revoked, RejectCode::AgentRevoked)]
                .into_iter()
                .enumerate()
        {
            let keys = service.register(&format!("acme/a{round}")).await;
            let mut connections = Vec::new();
            for (home, node) in &nodes {
                until("the node knows it", || async { log_in(home, node, &keys).await.is_none() }).await;
                connections.extend(on_every_shard(home, node, &keys).await);
            }
            let asked = Instant::now();
            let closing: Vec<_> = connections
                .into_iter()
                .map(|(connection, stream)| {
                    tokio::spawn(async move {
                        let error = connection.closed().await;
                        drop(stream);
                        (error, asked.elapsed())
                    })
                })
                .collect();
            let change = StateChange { state, reason: Some("a test".to_owned()), since_ms: None };
            service.client().set_state(keys.name(), &change).await.unwrap();
            let answered = asked.elapsed();
            let mut last = Duration::ZERO;
            for closing in closing {
                let (error, after) = closing.await.unwrap();
                assert_eq!(error.code(), Some(code), "{error}");
                assert!(after <= answered + EVERYWHERE_WITHIN, "closed {after:?} after it was asked for");
                last = last.max(after);
            }
            println!(
                "{state:?}: answered {:.1} ms after the request, the last of {} shards on 2 nodes closed {:.1} ms after it",
                answered.as_secs_f64() * 1e3,
                2 * SHARDS,
                last.as_secs_f64() * 1e3
            );
        }
        for (_, node) in nodes {
            node.stop().unwrap();
        }
    });
}

#[test]
fn a_node_that_loses_control_goes_by_what_it_knew_then_denies_and_comes_back_by_itself() {
    on_time(async {
        let mut service = Service::new("3s");
        let (planner, worker) = (service.register("acme/planner").await, service.register("acme/worker").await);
        let unseen = service.register("acme/unseen").await;
        let (home, node) = service.linked("node-1");
        let (from, to) = (connect(&home, &node, &planner).await, connect(&home, &node, &worker).await);
        from.send(to.name(), "before").await.unwrap();
        // Who sends is looked up, and proven, once: while control is away nobody new can be.
        let first = to.receive().await.unwrap();
        assert_eq!(&first.payload[..], b"before");
        first.ack();
        let (ready, control) = readiness(&node).await;
        assert!(ready.ready && control.linked && control.cause.is_empty(), "{ready:?}");
        assert!(control.lapses_in_ms.is_some_and(|ms| (1..=3_000).contains(&ms)), "{control:?}");

        let lost = Instant::now();
        service.stop();
        from.send(to.name(), "without control").await.unwrap();
        // A record that nobody asked for before is with control: later, and not never.
        assert_eq!(log_in(&home, &node, &unseen).await, Some(RejectCode::Overloaded));
        let (ready, control) = readiness(&node).await;
        assert!(ready.ready && !control.linked && control.cause.contains("creto control"), "{ready:?}");

        until_denied(&home, &node, &planner).await;
        let denied_after = lost.elapsed();
        println!("denied {:.2} s after control was lost; a snapshot counts for 3 s", denied_after.as_secs_f64());
        assert!(denied_after < Duration::from_millis(3_500), "it goes by it for no longer: {denied_after:?}");
        let (ready, control) = readiness(&node).await;
        assert!(!ready.ready && control.lapses_in_ms.is_none(), "{ready:?}");
        assert!(control.snapshot_age_ms.is_some_and(|ms| ms >= 3_000), "{control:?}");
        // What is sent meanwhile waits, at the sender, and so does what is there to be read.
        let late = tokio::time::timeout(Duration::from_millis(300), from.send(to.name(), "too late")).await;
        assert!(late.is_err(), "{late:?}");

        service.start();
        from.send(to.name(), "after").await.unwrap();
        let back = lost.elapsed();
        println!("back {:.2} s after control was lost", back.as_secs_f64());
        assert!(readiness(&node).await.0.ready);
        let mut texts = HashSet::new();
        while !texts.contains("after") {
            let delivery = to.receive().await.unwrap();
            texts.insert(String::from_utf8(delivery.payload.to_vec()).unwrap());
            delivery.ack();
        }
        assert!(texts.contains("without control"), "nothing that was acknowledged is lost: {texts:?}");
        assert_eq!(log_in(&home, &node, &unseen).await, None);
        node.stop().unwrap();
    });
}

#[test]
fn a_node_that_starts_while_control_is_away_recovers_its_log_denies_and_serves_when_it_hears_of_it() {
    on_time(async {
        let mut service = Service::new("60s");
        let (planner, worker) = (service.register("acme/planner").await, service.register("acme/worker").await);
        let (home, node) = service.linked("node-1");
        let from = connect(&home, &node, &planner).await;
        from.send(worker.name(), "kept").await.unwrap();
        from.close().await;
        node.stop().unwrap();
        service.stop();

        let mut node = service.node(&home);
        assert!(node.waits_for_control());
        assert_eq!(node.recovered().messages, 1, "its log is read all the same");
        assert_eq!(log_in(&home, &node, &planner).await, Some(RejectCode::PolicyUnavailable));
        let (ready, control) = readiness(&node).await;
        assert!(!ready.ready && control.lapses_in_ms.is_none() && control.snapshot_age_ms.is_none(), "{ready:?}");
        // It can be stopped meanwhile, too.
        let (stop, stopped) = channel::bounded(1);
        stop.send(()).unwrap();
        assert!(!node.wait_for_control(&stopped).unwrap());

        service.start();
        assert!(wait_for_control(&mut node));
        let to = connect(&home, &node, &worker).await;
        assert_eq!(&to.receive().await.unwrap().payload[..], b"kept");
        node.stop().unwrap();
    });
}

#[test]
fn who_is_not_admitted_is_not_served_and_who_is_dismissed_not_any_more() {
    on_time(async {
        let service = Service::new("2s");
        let planner = service.register("acme/planner").await;
        let home = Home::new();
        let mut node = service.node(&home);
        until("it is told why", || async { readiness(&node).await.1.cause.contains("creto control admit") }).await;
        assert!(node.waits_for_control() && !readiness(&node).await.0.ready);
        assert_eq!(log_in(&home, &node, &planner).await, Some(RejectCode::PolicyUnavailable));
        // Another certificate under that name does not help.
        let other = Home::new();
        service.admit("node-1", &other);
        let mut helped = service.node(&other);
        assert!(wait_for_control(&mut helped), "it is looked at by now");
        assert!(node.waits_for_control() && !readiness(&node).await.1.linked);
        helped.stop().unwrap();
        service.admit("node-1", &home);
        assert!(wait_for_control(&mut node), "without a restart of either");
        assert_eq!(log_in(&home, &node, &planner).await, None);

        service.dismiss("node-1");
        until_linked(&node, false).await;
        until_denied(&home, &node, &planner).await;
        assert!(readiness(&node).await.1.cause.contains("does not admit this node"));
        until("it is in the audit log", || async {
            let events = service.events().await;
            let count = |kind: &str| events.iter().filter(|(known, _)| known == kind).count();
            count("node_linked") == 2 && count("node_link_refused") >= 2
        })
        .await;
        node.stop().unwrap();
    });
}

#[test]
fn a_node_believes_no_other_control_service_and_none_of_another_trust_domain_or_retention() {
    on_time(async {
        let service = Service::new("60s");
        service.register("acme/planner").await;
        let home = Home::new();
        service.admit("node-1", &home);
        let refused = async |node: Node, why: &str| {
            until(why, || async { readiness(&node).await.1.cause.contains(why) }).await;
            assert!(node.waits_for_control() && readiness(&node).await.1.epoch == 0);
            node.stop().unwrap();
        };
        let impostor = Home::new();
        let node = service.node_that_believes(&home, &impostor.path().join("data/node.crt"));
        refused(node, "is not the control service").await;

        let link = format!(
            "topology.shards = {SHARDS}\nlink.control = \"{}\"\nlink.control_certificate = \"{}\"\n",
            service.address,
            service.home.path().join("data/node.crt").display()
        );
        let node = home.start_with(&format!("{link}mailbox.retention = \"3d\"\n"));
        refused(node, "mailbox.retention").await;
        let elsewhere = Home::new();
        service.admit("node-2", &elsewhere);
        let node = elsewhere.start_with(&format!("{link}node.trust_domain = \"other.example\"\n"));
        refused(node, "node.trust_domain").await;
        // Shown as soon as it is signed.
        until("it is in the audit log", || async {
            let events = service.events().await;
            let is_there = |why: &str| events.contains(&("node_link_refused".to_owned(), why.to_owned()));
            is_there("retention") && is_there("trust_domain")
        })
        .await;
    });
}

#[test]
fn a_directory_that_went_back_is_refused_and_what_was_in_force_stays_until_its_time_is_over() {
    on_time(async {
        let mut service = Service::new("4s");
        let planner = service.register("acme/planner").await;
        service.stop();
        let file = service.home.path().join("data/control.redb");
        let older = std::fs::read(&file).unwrap();
        service.start();
        let (home, node) = service.linked("node-1");
        // So that no shard has to ask for its record later.
        drop(on_every_shard(&home, &node, &planner).await);
        let revoked = service.register("acme/revoked").await;
        let change = StateChange { state: StateWord::Revoked, reason: None, since_ms: None };
        service.client().set_state(revoked.name(), &change).await.unwrap();
        until("the node has heard", || async {
            log_in(&home, &node, &revoked).await == Some(RejectCode::AgentRevoked)
        })
        .await;

        service.stop();
        std::fs::write(&file, older).unwrap();
        service.start();
        until("it is refused", || async { readiness(&node).await.1.cause.contains("restored from a backup") }).await;
        let before = readiness(&node).await.1;
        assert_eq!(log_in(&home, &node, &revoked).await, Some(RejectCode::AgentRevoked));
        assert_eq!(log_in(&home, &node, &planner).await, None);
        until_denied(&home, &node, &planner).await;
        assert_eq!(readiness(&node).await.1.epoch, before.epoch);
        node.stop().unwrap();

        // The operator says that it is meant.
        let mut node = service.node(&home);
        assert!(wait_for_control(&mut node));
        assert_eq!(log_in(&home, &node, &planner).await, None);
        node.stop().unwrap();
    });
}

/// Takes prekeys through one node.
async fn claim(
    stream: &mut RawStream,
    of: creto_envelope::AgentId,
) -> Result<(creto_envelope::KeyId, PrekeyKind), u16> {
    let mut frame = Vec::new();
    PrekeyClaim { agent: of }.encode(&mut frame);
    stream.send(frame).await.unwrap();
    let answer = stream.next().await.unwrap().unwrap();
    assert_eq!(answer.frame_type, FrameType::PrekeyClaimed as u8, "{:?}", answer.reject_code());
    let claimed = PrekeyClaimed::parse(&answer.body).unwrap();
    claimed.answer.map(|prekey| (prekey.id(), prekey.prekey.kind)).map_err(|refusal| refusal.code)
}

#[test]
fn a_prekey_is_handed_out_once_by_all_nodes_together() {
    on_time(async {
        let service = Service::new("60s");
        let owner = service.register("acme/owner").await;
        let askers = [service.register("acme/a").await, service.register("acme/b").await];
        let nodes = [service.linked("node-1"), service.linked("node-2")];
        let (home, node) = &nodes[0];
        let connection = RawConnection::connect(node.address(), &home.certificate, WITHIN).await.unwrap();
        let (mut stream, _) = connection.log_in(&owner).await.unwrap();
        // The last of them is the one of last resort.
        let seeds: Vec<_> = (0..21_u8).map(|number| [number; 32]).collect();
        let mut frame = Vec::new();
        encode_prekey_upload(&mut frame, &prekey_batch(&owner, &seeds, true, now_ms()));
        stream.send(frame).await.unwrap();
        let answer = stream.next().await.unwrap().unwrap();
        assert_eq!(PrekeyUploaded::parse(&answer.body).unwrap().answer.unwrap(), 20);

        let of = creto_envelope::AgentId::derive(&TrustDomain::default(), owner.name());
        let claiming: Vec<_> = nodes
            .iter()
            .zip(&askers)
            .map(|((home, node), keys)| {
                let (address, certificate, keys) = (node.address(), home.certificate.clone(), Arc::clone(keys));
                tokio::spawn(async move {
                    let connection = RawConnection::connect(address, &certificate, WITHIN).await.unwrap();
                    let (mut stream, _) = connection.log_in(&keys).await.unwrap();
                    let mut claimed = Vec::new();
                    for _ in 0..12 {
                        claimed.push(claim(&mut stream, of).await.unwrap());
                    }
                    claimed
                })
            })
            .collect();
        let mut one_time = Vec::new();
        for claiming in claiming {
            let claimed = claiming.await.unwrap();
            one_time.extend(claimed.into_iter().filter(|(_, kind)| *kind == PrekeyKind::OneTime).map(|(id, _)| id));
        }
        assert_eq!(one_time.len(), 20, "all are given, and then the one of last resort");
        assert_eq!(one_time.iter().collect::<HashSet<_>>().len(), 20, "none is given twice");
        for (_, node) in nodes {
            node.stop().unwrap();
        }
    });
}

fn topic() -> ChannelName {
    ChannelName::parse("acme/alerts.eu").unwrap()
}

/// The same keys with a folder of their own, as channels need it.
async fn connect_with_folder(home: &Home, node: &Node, keys: &AgentKeys) -> Agent {
    let path = home.path().join(format!("{}.keys", keys.name().as_str().replace('/', "-")));
    if !path.exists() {
        keys.save(&path).unwrap();
    }
    connect(home, node, &Arc::new(AgentKeys::load(&path).unwrap())).await
}

/// Says what a channel is, at the control service.
async fn put_channel(service: &Service, owner: &AgentKeys, version: u32, subscribing: Subscribing) {
    let record = ChannelRecord {
        version,
        name: topic(),
        trust_domain: TrustDomain::default(),
        owner: owner.id(),
        owner_key_version: 1,
        signed_at_ms: 0,
        subscribing,
        publishing: Publishing::Open,
        has_history: false,
        is_deleted: false,
        retention_s: 3_600,
        messages_max: 1_000,
        bytes_max: 1 << 24,
        subscribers_max: 100,
    };
    service.client().put_channel(&owner.signed_channel(record).unwrap()).await.unwrap();
}

/// Subscribes as soon as the node has heard of the channel.
async fn subscribe_soon(agent: &Agent) -> ChannelSubscription {
    let begun = Instant::now();
    loop {
        match agent.subscribe_channel(&topic(), SubscribeOptions::default()).await {
            Ok(subscription) => return subscription,
            Err(ChannelError::Unknown { .. } | ChannelError::NotAllowed { .. }) => {
                assert!(begun.elapsed() < WITHIN, "the node does not hear of the channel");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// The next message, which is acknowledged; or the code with which the subscription ended.
async fn next_of(subscription: &mut ChannelSubscription) -> Result<String, RejectCode> {
    let message = tokio::time::timeout(WITHIN, subscription.next()).await.expect("something comes").unwrap();
    let message = message.map_err(|error| error.code().unwrap_or_else(|| panic!("{error}")))?;
    let text = String::from_utf8(message.payload.to_vec()).unwrap();
    message.ack();
    Ok(text)
}

#[test]
fn a_node_whose_control_service_is_elsewhere_serves_channels_and_hears_what_becomes_of_them() {
    on_time(async {
        let service = Service::new("60s");
        let one = service.linked("node-1");
        let owner = service.register("acme/owner").await;
        // By the changes of a snapshot to the first node, within a whole one to the second.
        put_channel(&service, &owner, 1, Subscribing::Open).await;
        let two = service.linked("node-2");
        let mut reading = Vec::new();
        for (place, (home, node)) in [&one, &two].into_iter().enumerate() {
            // An agent has one node.
            let worker = service.register(&format!("acme/worker-{place}")).await;
            let publishing = service.register(&format!("acme/publisher-{place}")).await;
            until("the node knows them", || async { log_in(home, node, &publishing).await.is_none() }).await;
            let reader = connect_with_folder(home, node, &worker).await;
            let mut subscription = subscribe_soon(&reader).await;
            // Who publishes fetches the signed record, which control has.
            let from = connect_with_folder(home, node, &publishing).await;
            let publisher = from.publisher(&topic()).await.unwrap();
            for text in ["disk is filling", "disk is full"] {
                publisher.publish(text).await.unwrap();
                assert_eq!(next_of(&mut subscription).await.as_deref(), Ok(text));
            }
            reading.push((reader, subscription, from, publisher));
        }
        // What its owner says of it next is heard by both.
        put_channel(&service, &owner, 2, Subscribing::Private).await;
        for (_, subscription, ..) in &mut reading {
            assert_eq!(next_of(subscription).await, Err(RejectCode::ChannelNotAllowed));
        }
        for (reader, _, from, publisher) in reading {
            drop(publisher);
            from.close().await;
            reader.close().await;
        }
        one.1.stop().unwrap();
        two.1.stop().unwrap();
    });
}

#[test]
fn a_channel_waits_while_control_is_away_for_too_long_and_loses_nothing() {
    on_time(async {
        let mut service = Service::new("3s");
        let (owner, worker) = (service.register("acme/owner").await, service.register("acme/worker").await);
        put_channel(&service, &owner, 1, Subscribing::Open).await;
        let (home, node) = service.linked("node-1");
        let (reader, from) =
            (connect_with_folder(&home, &node, &worker).await, connect_with_folder(&home, &node, &owner).await);
        let mut subscription = subscribe_soon(&reader).await;
        let publisher = from.publisher(&topic()).await.unwrap();
        publisher.publish("before").await.unwrap();
        assert_eq!(next_of(&mut subscription).await.as_deref(), Ok("before"));

        let connection = RawConnection::connect(node.address(), &home.certificate, WITHIN).await.unwrap();
        let (mut control, _) = connection.log_in(&worker).await.unwrap();
        assert_eq!(ask_for_record(&mut control).await, None);

        service.stop();
        publisher.publish("without control").await.unwrap();
        assert_eq!(next_of(&mut subscription).await.as_deref(), Ok("without control"));
        // Its record is with control: later, and not never.
        assert_eq!(ask_for_record(&mut control).await, Some(RejectCode::Overloaded));
        until_denied(&home, &node, &owner).await;
        assert_eq!(ask_for_record(&mut control).await, Some(RejectCode::PolicyUnavailable));
        let late = publisher.submit("too late", creto_agent::PublishOptions::default()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;

        service.start();
        until("it is answered again", || async { readiness(&node).await.0.ready }).await;
        assert_eq!(ask_for_record(&mut control).await, None);
        tokio::time::timeout(WITHIN, late).await.expect("it is answered").unwrap();
        assert_eq!(next_of(&mut subscription).await.as_deref(), Ok("too late"));
        publisher.publish("after").await.unwrap();
        assert_eq!(next_of(&mut subscription).await.as_deref(), Ok("after"));
        drop(publisher);
        from.close().await;
        reader.close().await;
        node.stop().unwrap();
    });
}

/// What a question for the channel's record is refused with, on a connection that is there already; none: it is answered.
async fn ask_for_record(stream: &mut RawStream) -> Option<RejectCode> {
    let channel = ChannelId::derive(&TrustDomain::default(), &topic());
    let mut frame = Vec::new();
    ChannelRequest { channel }.encode(&mut frame);
    stream.send(frame).await.unwrap();
    let answer = stream.next().await.unwrap().unwrap();
    if answer.frame_type == FrameType::ChannelResponse as u8 {
        return None;
    }
    Some(answer.reject_code().unwrap())
}

#[test]
fn a_directory_that_was_made_anew_is_refused_also_when_its_epoch_has_come_further() {
    on_time(async {
        let mut service = Service::new("4s");
        let planner = service.register("acme/planner").await;
        let (home, node) = service.linked("node-1");
        drop(on_every_shard(&home, &node, &planner).await);
        let before = readiness(&node).await.1;
        service.stop();
        std::fs::remove_file(service.home.path().join("data/control.redb")).unwrap();
        service.start();
        for number in 0..before.epoch + 3 {
            service.register(&format!("acme/other-{number}")).await;
        }
        until("it is refused", || async { readiness(&node).await.1.cause.contains("made anew") }).await;
        assert_eq!(readiness(&node).await.1.epoch, before.epoch);
        until_denied(&home, &node, &planner).await;
        node.stop().unwrap();

        // The operator says that it is meant.
        let mut node = service.node(&home);
        assert!(wait_for_control(&mut node));
        assert_eq!(log_in(&home, &node, &planner).await, Some(RejectCode::LoginUnknownAgent));
        node.stop().unwrap();
    });
}

#[test]
fn no_start_that_leaves_the_link_out_gives_a_node_a_directory_of_its_own_and_no_link_takes_one_from_it() {
    on_time(async {
        let service = Service::new("60s");
        let (home, node) = service.linked("node-1");
        node.stop().unwrap();
        let refused = Node::start(&home.configure("topology.shards = 2\n")).unwrap_err();
        assert!(refused.to_string().contains("link.control"), "{refused}");
        assert!(!home.path().join("data/control.redb").exists());
        let mut node = service.node(&home);
        assert!(wait_for_control(&mut node), "as before");
        node.stop().unwrap();

        let own = Home::new();
        own.start().stop().unwrap();
        let certificate = service.home.path().join("data/node.crt");
        let link = format!(
            "topology.shards = 2\nlink.control = \"{}\"\nlink.control_certificate = \"{}\"\n",
            service.address,
            certificate.display()
        );
        let refused = Node::start(&own.configure(&link)).unwrap_err();
        assert!(refused.to_string().contains("has a directory of agents of its own"), "{refused}");
        own.start().stop().unwrap();
    });
}

#[test]
fn whoever_connects_to_control_and_says_nothing_is_closed_before_a_handshake_would_be_given_up() {
    on_time(async {
        let service = Service::new("10s");
        let mut silent = tokio::net::TcpStream::connect(service.address).await.unwrap();
        let begun = Instant::now();
        let mut byte = [0; 1];
        let read = tokio::io::AsyncReadExt::read(&mut silent, &mut byte);
        let read = tokio::time::timeout(WITHIN, read).await.expect("it is closed");
        let lasted = begun.elapsed();
        assert!(matches!(read, Ok(0) | Err(_)), "it is told nothing");
        assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&lasted), "{lasted:?}");
    });
}
