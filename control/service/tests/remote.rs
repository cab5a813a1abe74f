//! The API over TCP: who may ask, and what everybody else is told. A client of its own, so that requests can be wrong.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use creto_audit::What;
use creto_audit::event::{Code, Peer};
use creto_crypto_accel::sign::SigningKeys;
use creto_envelope::{AgentId, AgentName, TrustDomain};
use creto_service::api::{AgentInfo, AgentPage, ApiError, ErrorCode};
use creto_service::client::Client;
use creto_service::limits::ADMINISTRATOR_BURST;
use creto_service::outbox::{AuditSink, ControlEvent, Kept};
use creto_service::signed_request::{
    CONTENT_DIGEST, Claim, SIGNATURE, SIGNATURE_INPUT, Signatures, Target, content_digest,
};
use creto_service::states::{StateChange, StateWord};
use creto_service::{RemoteOptions, Service, ServiceHandle, ServiceOptions};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[path = "../src/fixture.rs"]
#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;
use fixture::{signed, signing_keys};

const OPS: &str = "acme/ops";
const OPS_SEED: u8 = 7;

#[derive(Default)]
struct Log(Mutex<Vec<ControlEvent>>);

impl AuditSink for Log {
    fn tell(&self, events: Vec<ControlEvent>) {
        self.0.lock().unwrap().extend(events);
    }
}

struct Node {
    handle: ServiceHandle,
    log: Arc<Log>,
}

impl Node {
    /// With an administrator that is registered, and one that is not.
    async fn start(folder: &Path) -> Self {
        let mut options =
            ServiceOptions::new(folder.join("control.redb"), folder.join("control.sock"), TrustDomain::default());
        let administrators = [OPS, "acme/nobody"].map(|name| AgentName::parse(name).unwrap()).into();
        options.remote = Some(RemoteOptions { listen: "127.0.0.1:0".parse().unwrap(), administrators });
        let log = Arc::<Log>::default();
        let service = Service::open(options).unwrap();
        let service = service.with_audit(log.clone(), Arc::<Kept>::default()).unwrap();
        let handle = service.spawn(|_| ()).unwrap();
        let node = Self { handle, log };
        node.operator().register(&signed(OPS, OPS_SEED)).await.unwrap();
        node
    }

    fn operator(&self) -> Client {
        Client::new(self.handle.socket_path())
    }

    fn address(&self) -> SocketAddr {
        self.handle.remote_address().unwrap()
    }

    fn ask(&self) -> Ask {
        Ask {
            address: self.address(),
            method: "GET",
            target: "/v1/agents".to_owned(),
            host: self.address().to_string(),
            signed_host: None,
            body: Vec::new(),
            content_type: None,
            signer: OPS.to_owned(),
            keys: signing_keys(OPS_SEED),
            created_s: now_s(),
            nonce: fresh_nonce(),
            change: |head| head,
        }
    }

    /// Ends the service, and gives what the audit log was told.
    fn told(self) -> Vec<What> {
        self.handle.shutdown().unwrap();
        self.log.0.lock().unwrap().iter().map(|told| told.event.what).collect()
    }
}

/// A request, as it should be until something is changed.
struct Ask {
    address: SocketAddr,
    method: &'static str,
    target: String,
    host: String,
    /// The host that was signed, when it is another.
    signed_host: Option<String>,
    body: Vec<u8>,
    content_type: Option<&'static str>,
    signer: String,
    keys: SigningKeys,
    created_s: u64,
    nonce: [u8; 16],
    /// Does something to the head once it is signed.
    change: fn(String) -> String,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn is_refused(&self, code: ErrorCode) {
        let error: ApiError = self.json();
        assert_eq!((error.code.as_str(), error.status), (code.as_str(), code.http_status()), "{error:?}");
        assert_eq!(self.status, code.http_status());
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        assert!(!error.title.is_empty() && !error.message.is_empty() && !error.next.is_empty(), "{error:?}");
    }
}

impl Ask {
    fn head(&self) -> String {
        let digest = content_digest(&self.body);
        let claim =
            Claim { created_s: self.created_s, name: AgentName::parse(&self.signer).unwrap(), nonce: self.nonce };
        let base = claim.base(&Target {
            method: self.method,
            authority: self.signed_host.as_ref().unwrap_or(&self.host),
            request_target: &self.target,
            content_digest: &digest,
        });
        let signature = self.keys.sign(&base);
        let signatures = Signatures { ed25519: signature.ed25519, ml_dsa_65: signature.ml_dsa_65 };
        let content_type = self.content_type.map(|text| format!("content-type: {text}\r\n")).unwrap_or_default();
        let head = format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\n{content_type}content-length: {}\r\n{CONTENT_DIGEST}: {digest}\r\n\
             {SIGNATURE_INPUT}: {}\r\n{SIGNATURE}: {}\r\n\r\n",
            self.method,
            self.target,
            self.host,
            self.body.len(),
            claim.to_header(),
            signatures.to_header(),
        );
        (self.change)(head)
    }

    async fn send(&self) -> Answer {
        exchange(self.address, &self.head(), &self.body).await
    }
}

async fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: answer[end + 4..].to_vec() }
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn fresh_nonce() -> [u8; 16] {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).unwrap();
    nonce
}

fn ops() -> AgentId {
    AgentId::derive(&TrustDomain::default(), &AgentName::parse(OPS).unwrap())
}

#[tokio::test]
async fn an_administrator_reads_and_changes_what_the_operator_does() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    let page: AgentPage = node.ask().send().await.json();
    assert_eq!(page.agents.iter().map(|agent| agent.name.as_str()).collect::<Vec<_>>(), [OPS]);

    let record = signed("acme/planner", 8);
    let registered =
        Ask { method: "POST", body: record.to_bytes(), content_type: Some("application/octet-stream"), ..node.ask() };
    let registered = registered.send().await;
    assert_eq!(registered.status, 201);
    assert_eq!(registered.json::<AgentInfo>().name, "acme/planner");

    let suspended = Ask {
        method: "PUT",
        target: "/v1/agents/acme/planner/state".to_owned(),
        body: br#"{"state":"suspended"}"#.to_vec(),
        content_type: Some("application/json"),
        ..node.ask()
    };
    assert_eq!(suspended.send().await.json::<AgentInfo>().state, "suspended");
    let one = Ask { target: "/v1/agents?limit=1&after=acme/ops".to_owned(), ..node.ask() };
    let page: AgentPage = one.send().await.json();
    assert_eq!(page.agents[0].name, "acme/planner");

    // More than a key record, which the other requests are held to.
    let large = Ask {
        method: "PATCH",
        target: "/v1/agents/acme/planner".to_owned(),
        body: format!("{{\"roles\":[\"{}\"]}}", vec!["r".repeat(500); 1].join("\",\"")).into_bytes(),
        content_type: Some("application/json"),
        ..node.ask()
    };
    let padded = [large.body.clone(), vec![b' '; 100_000]].concat();
    assert_eq!(Ask { body: padded, ..large }.send().await.status, 200);

    let told = node.told();
    assert!(told.iter().all(|what| !matches!(what, What::AdministrationRefused { .. })));
    let by = |wanted: fn(&What) -> Option<AgentId>| told.iter().filter_map(wanted).collect::<Vec<_>>();
    let registered = by(|what| match what {
        What::AgentRegistered { actor, .. } => Some(*actor),
        _ => None,
    });
    assert_eq!(registered, [AgentId::ZERO, ops()], "the operator on the socket, then the administrator");
    let suspended = by(|what| match what {
        What::AgentSuspended { actor, .. } => Some(*actor),
        _ => None,
    });
    assert_eq!(suspended, [ops()]);
}

#[tokio::test]
async fn whoever_asks_whether_the_node_lives_need_not_sign() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    let ask = async |target: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", node.address());
        exchange(node.address(), &head, b"").await
    };
    assert_eq!(ask("/live").await.status, 204);
    assert!([200, 503].contains(&ask("/ready").await.status));
    for target in ["/v1/status", "/v1/agents", "/", "/live/", "/LIVE", "//live", "/ready?x=1/../v1/agents"] {
        let answer = ask(target).await;
        assert!(answer.status == 401 || target.starts_with("/ready?"), "{target}: {}", answer.status);
    }
}

#[tokio::test]
async fn a_request_that_is_not_an_administrators_own_is_refused_with_its_code_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    node.operator().register(&signed("acme/planner", 9)).await.unwrap();
    let mut refused = Vec::new();
    let mut check = async |ask: Ask, code: ErrorCode, is_known: bool| {
        ask.send().await.is_refused(code);
        refused.push((if is_known { ops() } else { AgentId::ZERO }, code));
    };
    let ask = || node.ask();

    // Not signed, by one key only, by another's key, by the same key twice.
    check(Ask { change: |head| without_header(&head, SIGNATURE), ..ask() }, ErrorCode::RequestUnsigned, false).await;
    check(Ask { change: |head| without_header(&head, SIGNATURE_INPUT), ..ask() }, ErrorCode::RequestUnsigned, false)
        .await;
    check(Ask { change: |head| without_header(&head, CONTENT_DIGEST), ..ask() }, ErrorCode::RequestUnsigned, false)
        .await;
    let one_only = |head: String| {
        let (before, after) = head.split_once(", ml-dsa-65=:").unwrap();
        format!("{before}\r\n{}", after.split_once("\r\n").unwrap().1)
    };
    check(Ask { change: one_only, ..ask() }, ErrorCode::RequestUnsigned, false).await;
    let twice = |head: String| head.replacen("\r\n", "\r\nsignature: ed25519=::\r\n", 1);
    check(Ask { change: twice, ..ask() }, ErrorCode::RequestUnsigned, false).await;
    check(Ask { keys: signing_keys(9), ..ask() }, ErrorCode::RequestSignature, false).await;
    let half = SigningKeys::from_seeds(&[OPS_SEED; 32], &[9; 32]);
    check(Ask { keys: half, ..ask() }, ErrorCode::RequestSignature, false).await;
    let other_half = SigningKeys::from_seeds(&[9; 32], &[OPS_SEED; 32]);
    check(Ask { keys: other_half, ..ask() }, ErrorCode::RequestSignature, false).await;

    // By somebody who is no administrator, or is none yet.
    let planner = Ask { signer: "acme/planner".to_owned(), keys: signing_keys(9), ..ask() };
    check(planner, ErrorCode::NotAdministrator, false).await;
    let nobody = Ask { signer: "acme/nobody".to_owned(), keys: signing_keys(9), ..ask() };
    nobody.send().await.is_refused(ErrorCode::NotAdministrator);

    // Something else was signed.
    check(Ask { change: |head| head.replacen("GET", "DELETE", 1), ..ask() }, ErrorCode::RequestSignature, false).await;
    let elsewhere = |head: String| head.replacen("/v1/agents", "/v1/tokens", 1);
    check(Ask { change: elsewhere, ..ask() }, ErrorCode::RequestSignature, false).await;
    let with_query = |head: String| head.replacen("/v1/agents", "/v1/agents?limit=1", 1);
    check(Ask { change: with_query, ..ask() }, ErrorCode::RequestSignature, false).await;
    let digest = |head: String| head.replacen("sha-256=:47DE", "sha-256=:57DE", 1);
    check(Ask { change: digest, ..ask() }, ErrorCode::RequestSignature, false).await;
    let head = Ask { body: b"ab".to_vec(), ..ask() }.head();
    exchange(node.address(), &head, b"ac").await.is_refused(ErrorCode::ContentDigest);
    let other_host = Some(format!("localhost:{}", node.address().port()));
    check(Ask { signed_host: other_host, ..ask() }, ErrorCode::RequestSignature, false).await;
    check(Ask { host: "node.example:80".to_owned(), ..ask() }, ErrorCode::Authority, false).await;

    // At another time, or again.
    check(Ask { created_s: now_s() - 65, ..ask() }, ErrorCode::RequestStale, false).await;
    check(Ask { created_s: now_s() + 65, ..ask() }, ErrorCode::RequestStale, false).await;
    let again = ask();
    let head = again.head();
    assert_eq!(exchange(node.address(), &head, b"").await.status, 200);
    exchange(node.address(), &head, b"").await.is_refused(ErrorCode::RequestReplayed);
    let signed_again = Ask { nonce: again.nonce, created_s: again.created_s, ..ask() };
    check(signed_again, ErrorCode::RequestReplayed, true).await;

    // It goes on as before.
    assert_eq!(node.ask().send().await.status, 200);

    let (local, told) = (Peer::from(node.address().ip()), node.told());
    for (actor, code) in refused {
        let code = Code::of_control(code.as_str()).unwrap();
        let expected = What::AdministrationRefused { actor, peer: local, code };
        assert!(told.contains(&expected), "nobody was told of {expected:?}");
    }
}

fn without_header(head: &str, name: &str) -> String {
    let prefix = format!("{name}: ");
    head.split_inclusive("\r\n").filter(|line| !line.starts_with(&prefix)).collect()
}

#[tokio::test]
async fn an_administrator_that_is_suspended_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    let change = StateChange { state: StateWord::Suspended, reason: None, since_ms: None };
    node.operator().set_state(&AgentName::parse(OPS).unwrap(), &change).await.unwrap();
    node.ask().send().await.is_refused(ErrorCode::NotAdministrator);
    let change = StateChange { state: StateWord::Active, ..change };
    node.operator().set_state(&AgentName::parse(OPS).unwrap(), &change).await.unwrap();
    assert_eq!(node.ask().send().await.status, 200);
}

#[tokio::test]
async fn an_administrator_that_asks_too_often_is_told_when_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    // More than an allowance that fills while this runs, however slow the machine is.
    for round in 0..100 * ADMINISTRATOR_BURST {
        let asked: Vec<_> = (0..32).map(|_| node.ask().head()).collect();
        let address = node.address();
        let mut answers = tokio::task::JoinSet::new();
        for head in asked {
            answers.spawn(async move { exchange(address, &head, b"").await });
        }
        while let Some(answer) = answers.join_next().await {
            let answer = answer.unwrap();
            if answer.status != 200 {
                answer.is_refused(ErrorCode::TooManyRequests);
                assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
                println!("refused in round {round}");
                return;
            }
        }
    }
    panic!("nobody was told to wait");
}

#[tokio::test]
async fn it_listens_where_nobody_else_listens_in() {
    let folder = tempfile::tempdir().unwrap();
    let open = |listen: &str, administrators| {
        let mut options = ServiceOptions::new(
            folder.path().join("control.redb"),
            folder.path().join("control.sock"),
            TrustDomain::default(),
        );
        options.remote = Some(RemoteOptions { listen: listen.parse().unwrap(), administrators });
        Service::open(options).unwrap().spawn(|_| ())
    };
    for address in ["0.0.0.0:0", "192.0.2.1:7440", "[::]:0"] {
        let error = open(address, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("control.listen") && error.contains(address), "{error}");
    }
    let crowd = vec![AgentName::parse(OPS).unwrap(); 65];
    let error = open("127.0.0.1:0", crowd).unwrap_err().to_string();
    assert!(error.contains("control.administrators"), "{error}");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = open(&held.local_addr().unwrap().to_string(), Vec::new()).unwrap_err();
    assert!(error.to_string().contains("cannot listen"), "{error}");
}
