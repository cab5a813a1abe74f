//! Prekeys of a real node over QUIC: uploaded, claimed, each handed out once, also by a node that is killed over and over.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use creto_agent::raw::{RawConnection, RawFrame, RawStream, prekey_batch};
use creto_agent::{AgentKeys, AgentName, NodeCertificate, RejectCode, TrustDomain};
use creto_envelope::prekeys::{
    PrekeyClaim, PrekeyClaimed, PrekeyKind, PrekeyStock, PrekeyStockRequest, PrekeyStockTold, PrekeyUploaded,
    SignedPrekey, encode_prekey_upload,
};
use creto_envelope::{AgentId, FrameType};
use creto_node::Node;
use creto_node::config::Config;
use creto_service::client::Client;
use home::{Home, now_ms, on_time};

const WITHIN: Duration = Duration::from_secs(10);

fn keys(name: &str, seed: u8) -> Arc<AgentKeys> {
    let name = AgentName::parse(name).unwrap();
    Arc::new(AgentKeys::from_seeds(name, TrustDomain::default(), 1, &[seed; 32], &[seed; 32], &[seed; 32]))
}

async fn register(socket: &Path, keys: &AgentKeys) {
    let record = keys.signed_record(1, now_ms() - 1_000, now_ms() + 86_400_000);
    Client::new(socket).register(&record).await.unwrap();
}

/// A connection that is logged in, and its control stream.
struct Link {
    connection: RawConnection,
    control: RawStream,
}

impl Link {
    async fn new(address: SocketAddr, certificate: &NodeCertificate, keys: &Arc<AgentKeys>) -> Self {
        // A node that is killed says nothing: it is missed after a second.
        let idle = Duration::from_secs(1);
        let connection = RawConnection::connect_for(address, certificate, WITHIN, idle).await.unwrap();
        let (control, _) = connection.log_in(keys).await.unwrap();
        Self { connection, control }
    }

    async fn ask(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut frame = Vec::new();
        encode(&mut frame);
        self.control.send(frame).await.unwrap();
    }

    async fn next(&mut self, expect: FrameType) -> RawFrame {
        let frame = self.control.next().await.unwrap().unwrap();
        assert_eq!(frame.frame_type, expect as u8, "{:?}", frame.reject_code());
        frame
    }

    /// Prekeys from the numbers in `seeds`, and one of last resort if it says so.
    async fn upload(
        &mut self,
        keys: &AgentKeys,
        seeds: std::ops::Range<u64>,
        last_resort: bool,
        at_ms: u64,
    ) -> Result<u32, u16> {
        let seed = |number: u64| {
            let mut seed = [0x5e; 32];
            seed[..8].copy_from_slice(&number.to_le_bytes());
            seed
        };
        let batch = prekey_batch(keys, &seeds.map(seed).collect::<Vec<_>>(), last_resort, at_ms);
        self.ask(|out| encode_prekey_upload(out, &batch)).await;
        let answer = self.next(FrameType::PrekeyUploaded).await;
        PrekeyUploaded::parse(&answer.body).unwrap().answer.map_err(|refusal| refusal.code)
    }

    async fn claim(&mut self, agent: AgentId) -> Result<SignedPrekey, u16> {
        self.ask(|out| PrekeyClaim { agent }.encode(out)).await;
        let answer = PrekeyClaimed::parse(&self.next(FrameType::PrekeyClaimed).await.body).unwrap();
        assert_eq!(answer.agent, agent);
        answer.answer.map_err(|refusal| refusal.code)
    }

    async fn stock(&mut self) -> PrekeyStock {
        self.ask(|out| PrekeyStockRequest.encode(out)).await;
        PrekeyStockTold::parse(&self.next(FrameType::PrekeyStock).await.body).unwrap().answer.unwrap()
    }
}

async fn link(home: &Home, node: &Node, keys: &Arc<AgentKeys>) -> Link {
    Link::new(node.address(), &home.certificate, keys).await
}

#[test]
fn prekeys_are_claimed_in_their_order_then_the_last_resort_and_their_owner_is_told_of_it() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (owner, planner) = (keys("acme/executor", 1), keys("acme/planner", 2));
        for keys in [&owner, &planner] {
            register(node.control_socket(), keys).await;
        }
        let mut at_owner = link(&home, &node, &owner).await;
        let mut at_planner = link(&home, &node, &planner).await;
        let others = [keys("acme/planner-b", 3), keys("acme/planner-c", 4)];
        let none = PrekeyStock::default();
        assert_eq!(at_owner.stock().await, none);
        assert_eq!(at_planner.claim(owner.id()).await.unwrap_err(), RejectCode::NoPrekey.as_u16());

        let at_ms = now_ms();
        assert_eq!(at_owner.upload(&owner, 0..34, true, at_ms).await, Ok(33));
        assert_eq!(
            at_owner.upload(&owner, 50..51, false, at_ms).await,
            Err(RejectCode::PrekeyBatch.as_u16()),
            "not later"
        );
        let full = PrekeyStock { key_record_version: 1, one_time: 33, last_resort: true, is_notice: false };
        assert_eq!(at_owner.stock().await, full);

        // Each of them takes its share of an hour.
        let mut claimed = Vec::new();
        for _ in 0..16 {
            claimed.push(at_planner.claim(owner.id()).await.unwrap());
        }
        for other in &others {
            register(node.control_socket(), other).await;
            let mut at_other = link(&home, &node, other).await;
            while claimed.len() < 33 {
                let prekey = at_other.claim(owner.id()).await.unwrap();
                if prekey.prekey.kind == PrekeyKind::LastResort {
                    break;
                }
                claimed.push(prekey);
            }
            at_other.connection.close();
        }
        assert_eq!(claimed.iter().map(|prekey| prekey.index).collect::<Vec<_>>(), (0..33).collect::<Vec<_>>());
        for _ in 0..2 {
            assert_eq!(at_planner.claim(owner.id()).await.unwrap().prekey.kind, PrekeyKind::LastResort);
        }
        // When fewer than 32 were left, and when none was.
        for one_time in [31, 0] {
            let notice = PrekeyStockTold::parse(&at_owner.next(FrameType::PrekeyStock).await.body).unwrap().answer;
            assert_eq!(notice, Ok(PrekeyStock { one_time, is_notice: true, ..full }));
        }
        at_owner.connection.close();
        at_planner.connection.close();
        node.stop().unwrap();
    });
}

#[test]
fn what_nobody_may_do_is_refused_in_the_answers_own_kind() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (owner, other) = (keys("acme/executor", 1), keys("other/worker", 2));
        for keys in [&owner, &other] {
            register(node.control_socket(), keys).await;
        }
        let mut at_owner = link(&home, &node, &owner).await;
        assert_eq!(at_owner.upload(&owner, 0..4, false, now_ms()).await, Ok(4));
        // Another organization: policy lets it send nothing, so it claims nothing.
        let mut at_other = link(&home, &node, &other).await;
        assert_eq!(at_other.claim(owner.id()).await.unwrap_err(), RejectCode::PolicyDenied.as_u16());
        assert_eq!(at_other.claim(AgentId([9; 16])).await.unwrap_err(), RejectCode::UnknownRecipient.as_u16());
        // Prekeys of somebody else, and signed by somebody else.
        assert_eq!(at_other.upload(&owner, 0..4, false, now_ms()).await, Err(RejectCode::SenderMismatch.as_u16()));
        let forged = keys("other/worker", 3);
        assert_eq!(at_other.upload(&forged, 0..4, false, now_ms()).await, Err(RejectCode::BadSignature.as_u16()));
        assert_eq!(at_owner.stock().await.one_time, 4);
        at_owner.connection.close();
        at_other.connection.close();
        node.stop().unwrap();
    });
}

/// Where the process that is killed finds its home.
const CHILD: &str = "CRETO_PREKEYS_NODE";

#[test]
#[ignore = "the process that the test below starts and kills"]
fn a_node_that_serves_until_it_is_killed() {
    let home = std::env::var(CHILD).expect("started by no_prekey_is_handed_out_twice_by_a_node_that_is_killed");
    let config = Config::load(&Path::new(&home).join("creto.toml"), []).unwrap();
    let mut node = Node::start(&config).unwrap();
    println!("serving on {}", node.address());
    node.wait(&crossbeam::channel::never()).unwrap();
}

struct Killed {
    child: Child,
    address: SocketAddr,
}

impl Killed {
    fn start(home: &Home) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_node_that_serves_until_it_is_killed", "--ignored", "--nocapture"])
            .env(CHILD, home.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.map_while(Result::ok).find_map(|line| line.split_once("serving on ")?.1.parse().ok());
        Self { child, address: address.expect("the node did not start; see above") }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Claims, several at a time, until `count` were answered or the node is gone.
async fn claim_until(mut link: Link, agent: AgentId, count: usize) -> Vec<[u8; 16]> {
    // With what is counted, fewer than the share of an hour.
    const OPEN: usize = 4;
    let mut claim = Vec::new();
    PrekeyClaim { agent }.encode(&mut claim);
    let mut ids = Vec::new();
    link.control.send(claim.repeat(OPEN)).await.unwrap();
    while ids.len() < count {
        let Ok(Some(frame)) = link.control.next().await else { break };
        assert_eq!(frame.frame_type, FrameType::PrekeyClaimed as u8);
        let prekey = PrekeyClaimed::parse(&frame.body).unwrap().answer.unwrap();
        assert_eq!(prekey.prekey.kind, PrekeyKind::OneTime);
        ids.push(prekey.id().0);
        if link.control.send(claim.clone()).await.is_err() {
            break;
        }
    }
    ids
}

#[test]
fn no_prekey_is_handed_out_twice_by_a_node_that_is_killed() {
    on_time(async {
        let home = Home::new();
        let socket = home.configure("topology.shards = 2\n").control_socket();
        let owner = keys("acme/executor", 1);
        let asker = |number: u8| keys(&format!("acme/planner-{number}"), number);
        let askers: Vec<_> = (2..10).map(asker).collect();
        let (mut ids, mut uploaded) = (Vec::new(), 0);
        for round in 0..4 {
            let node = Killed::start(&home);
            let mut at_owner = Link::new_registered(&node, &home, &socket, &owner).await;
            let left = at_owner.stock().await.one_time;
            assert_eq!(at_owner.upload(&owner, uploaded..uploaded + 128, false, now_ms()).await, Ok(left + 128));
            uploaded += 128;
            // Each of them a number of its own before the node dies; what it has asked for beyond that is under way.
            let mut claims = tokio::task::JoinSet::new();
            for (asker, count) in askers.iter().zip([6 + round, 11, 10, 9, 8, 11, 10, 9]) {
                let link = Link::new_registered(&node, &home, &socket, asker).await;
                claims.spawn(claim_until(link, owner.id(), count));
            }
            ids.extend(claims.join_next().await.unwrap().unwrap());
            node.kill();
            while let Some(rest) = claims.join_next().await {
                ids.extend(rest.unwrap());
            }
        }
        // What is left is none of them.
        let node = Killed::start(&home);
        let mut at_owner = Link::new_registered(&node, &home, &socket, &owner).await;
        let left = at_owner.stock().await.one_time as usize;
        for asker in &askers {
            let mut link = Link::new_registered(&node, &home, &socket, asker).await;
            for _ in 0..16 {
                match link.claim(owner.id()).await {
                    Ok(prekey) => ids.push(prekey.id().0),
                    Err(code) => assert_eq!(code, RejectCode::NoPrekey.as_u16()),
                }
            }
        }
        node.kill();
        assert!(ids.len() > 4 * 20 && ids.len() <= usize::try_from(uploaded).unwrap(), "{} claims", ids.len());
        assert!(left > 0, "the last round looked at something");
        let count = ids.len();
        assert_eq!(ids.into_iter().collect::<HashSet<_>>().len(), count, "a prekey was handed out twice");
    });
}

impl Link {
    /// Registers the agent if it is not, and logs in.
    async fn new_registered(node: &Killed, home: &Home, socket: &Path, keys: &Arc<AgentKeys>) -> Self {
        let record = keys.signed_record(1, now_ms() - 1_000, now_ms() + 86_400_000);
        // In a later round it is known already.
        let _known = Client::new(socket).register(&record).await;
        Self::new(node.address, &home.certificate, keys).await
    }
}
