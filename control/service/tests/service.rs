//! The service as a node runs it: a thread, a socket, a file, and clients.
#![allow(clippy::unwrap_used, reason = "this file is all tests, also the functions that tests share")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use creto_envelope::key_record::{FN_DSA_512_PUBLIC_BYTES, TOKEN_BINDING_BYTES};
use creto_envelope::{AgentName, AgentState, TrustDomain};
use creto_policy::{Action, Decision, Snapshot, decide};
use creto_service::api::ErrorCode;
use creto_service::attributes::AttributesChange;
use creto_service::client::{Client, ClientError};
use creto_service::limits::{CONNECTIONS_MAX, SIGNED_KEY_RECORD_BYTES_MAX};
use creto_service::mailboxes::MailboxChange;
use creto_service::states::{StateChange, StateWord};
use creto_service::tokens::{Enrolment, EnrolmentToken, TokenWanted};
use creto_service::{Service, ServiceError, ServiceHandle, ServiceOptions, StorageError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

#[path = "../src/fixture.rs"]
#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;
use fixture::{record, sign, signed, signed_for};

/// Every snapshot that was published.
type Published = Arc<Mutex<Vec<Arc<Snapshot>>>>;

struct Node {
    folder: PathBuf,
    handle: ServiceHandle,
    published: Published,
}

fn options(folder: &Path) -> ServiceOptions {
    ServiceOptions::new(folder.join("control.redb"), folder.join("control.sock"), TrustDomain::default())
}

fn start(folder: &Path) -> Node {
    let published = Published::default();
    let sink = Arc::clone(&published);
    let service = Service::open(options(folder)).unwrap();
    let handle = service.spawn(move |snapshot| sink.lock().unwrap().push(snapshot)).unwrap();
    Node { folder: folder.to_owned(), handle, published }
}

impl Node {
    fn client(&self) -> Client {
        Client::new(self.handle.socket_path())
    }

    fn newest(&self) -> Arc<Snapshot> {
        Arc::clone(self.published.lock().unwrap().last().unwrap())
    }

    fn restart(self) -> Self {
        self.handle.shutdown().unwrap();
        start(&self.folder)
    }

    /// Sends `request` as it is and reads the answer to its end.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.handle.socket_path()).unwrap();
        // A server that refuses early closes its side; what it said is still there to be read.
        let _refused_early = stream.write_all(request);
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}

fn refused(result: Result<impl std::fmt::Debug, ClientError>) -> (u16, String) {
    match result {
        Err(ClientError::Refused { status, error }) => {
            assert!(!error.message.is_empty() && !error.next.is_empty(), "{error:?}");
            (status, error.code)
        }
        other => panic!("expected a refusal: {other:?}"),
    }
}

fn code(code: ErrorCode) -> (u16, String) {
    (code.http_status(), code.as_str().to_owned())
}

#[tokio::test]
async fn a_registered_agent_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    let created = node.client().register(&signed("acme/planner", 1)).await.unwrap();
    assert!(created.created);
    let agent = created.agent;
    let record = record("acme/planner", 1);
    assert_eq!(agent.name, "acme/planner");
    assert_eq!(agent.organization, "acme");
    assert_eq!(agent.id, record.agent_id().to_string());
    assert_eq!(agent.spiffe_id, "spiffe://creto.local/acme/planner");
    assert_eq!((agent.state.as_str(), agent.version), ("active", 1));
    assert_eq!(agent.key_id, record.key_id().to_string());
    assert_eq!((agent.valid_from_ms, agent.valid_until_ms), (record.valid_from_ms, record.valid_until_ms));

    let node = node.restart();
    assert_eq!(node.client().agent(&record.name).await.unwrap(), agent);
    assert_eq!(node.client().agents(None).await.unwrap(), std::slice::from_ref(&agent));
    assert_eq!(node.newest().principal(&record.agent_id()).unwrap().current(), (&record).into());
    let again = node.client().register(&signed("acme/planner", 1)).await.unwrap();
    assert_eq!((again.created, again.agent), (false, agent));
    let status = node.client().status().await.unwrap();
    assert_eq!((status.epoch, status.agents, status.trust_domain.as_str()), (2, 1, "creto.local"));
}

#[tokio::test]
async fn whoever_is_told_that_it_is_registered_is_in_the_published_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    assert_eq!(node.newest().epoch(), 1, "there is a snapshot, with a policy, before the first request");
    let (a, b) = (record("acme/a", 1).agent_id(), record("acme/b", 2).agent_id());
    for (name, seed) in [("acme/a", 1), ("acme/b", 2)] {
        let agent = node.client().register(&signed(name, seed)).await.unwrap().agent;
        let snapshot = node.newest();
        let principal = snapshot.principal(&record(name, seed).agent_id()).unwrap();
        assert_eq!((principal.agent().to_string(), principal.state()), (agent.id, AgentState::Active));
    }
    assert_eq!(decide(&node.newest(), 2_000, &a, Action::SendMessage, &b, 0), Decision::ALLOW);
    let epochs: Vec<_> = node.published.lock().unwrap().iter().map(|snapshot| snapshot.epoch()).collect();
    assert_eq!(epochs, [1, 2, 3]);
}

#[tokio::test]
async fn every_kind_of_bad_record_has_its_own_code() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    let client = node.client();
    client.register(&signed("acme/taken", 1)).await.unwrap();

    assert_eq!(refused(client.register(&signed("acme/taken", 2)).await), code(ErrorCode::NameTaken));
    let mut tampered = signed("acme/a", 1);
    tampered.ml_dsa_65[100] ^= 1;
    assert_eq!(refused(client.register(&tampered).await), code(ErrorCode::SelfSignature));
    let mut elsewhere = record("acme/a", 1);
    elsewhere.trust_domain = TrustDomain::parse("other.local").unwrap();
    assert_eq!(refused(client.register(&sign(elsewhere, 1)).await), code(ErrorCode::TrustDomain));
    let mut weak = record("acme/a", 1);
    weak.ed25519 = [0; 32];
    assert_eq!(refused(client.register(&sign(weak, 1)).await), code(ErrorCode::WeakKey));
    let mut over = record("acme/a", 1);
    over.valid_until_ms = over.valid_from_ms + 1;
    assert_eq!(refused(client.register(&sign(over, 1)).await), code(ErrorCode::Validity));
    let mut second = record("acme/a", 1);
    second.version = 2;
    assert_eq!(refused(client.register(&sign(second, 1)).await), code(ErrorCode::VersionNotFirst));
    let mut suspended = record("acme/a", 1);
    suspended.state = AgentState::Suspended;
    assert_eq!(refused(client.register(&sign(suspended, 1)).await), code(ErrorCode::RecordState));
    assert_eq!(refused(client.register_bytes("nonsense".into()).await), code(ErrorCode::RecordMalformed));
    let oversized = vec![0; SIGNED_KEY_RECORD_BYTES_MAX + 1];
    assert_eq!(refused(client.register_bytes(oversized.into()).await), code(ErrorCode::BodyTooLarge));
    let unknown = AgentName::parse("acme/a").unwrap();
    assert_eq!(refused(client.agent(&unknown).await), code(ErrorCode::AgentUnknown));

    assert_eq!(client.agents(None).await.unwrap().len(), 1);
    assert_eq!(node.published.lock().unwrap().len(), 2, "nothing was published for what was refused");
}

#[tokio::test]
async fn the_longest_record_that_the_format_allows_fits() {
    let folder = tempfile::tempdir().unwrap();
    let trust_domain = TrustDomain::parse(&"d".repeat(255)).unwrap();
    let mut options = options(folder.path());
    options.trust_domain = trust_domain.clone();
    let handle = Service::open(options).unwrap().spawn(|_| {}).unwrap();
    let mut longest = record(&format!("a/{}", "b".repeat(126)), 1);
    longest.trust_domain = trust_domain;
    let mut with_third_key = longest.clone();
    with_third_key.fn_dsa_512 = Some(Box::new([0; FN_DSA_512_PUBLIC_BYTES]));
    let with_third_key = sign(with_third_key, 1);
    assert_eq!(with_third_key.to_bytes().len(), SIGNED_KEY_RECORD_BYTES_MAX - TOKEN_BINDING_BYTES);
    let client = Client::new(handle.socket_path());
    // It is read whole, and refused for its third key, which is none.
    assert_eq!(refused(client.register(&with_third_key).await), code(ErrorCode::WeakKey));
    assert!(client.register(&sign(longest, 1)).await.unwrap().created);
}

#[tokio::test]
async fn of_concurrent_registrations_of_one_name_exactly_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    let mut calls = JoinSet::new();
    for seed in 1..=24 {
        let client = node.client();
        calls.spawn(async move { (seed, client.register(&signed("acme/a", seed)).await) });
    }
    let mut winners = Vec::new();
    while let Some(call) = calls.join_next().await {
        let (seed, result) = call.unwrap();
        match result {
            Ok(registered) => winners.push((seed, registered.created)),
            Err(error) => assert_eq!(error.code(), Some("name_taken")),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert!(winners[0].1);
    let winner = record("acme/a", winners[0].0);
    assert_eq!(node.client().agent(&winner.name).await.unwrap().key_id, winner.key_id().to_string());
    assert_eq!(node.restart().newest().principal(&winner.agent_id()).unwrap().current(), (&winner).into());
}

#[tokio::test]
async fn requests_outside_the_api_are_told_so_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    for (request, status, code) in [
        ("GET /v2/agents HTTP/1.1\r\nHost: x\r\n\r\n", "404", "path_unknown"),
        ("DELETE /v1/agents HTTP/1.1\r\nHost: x\r\n\r\n", "405", "method"),
        ("POST /v1/agents HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "415", "content_type"),
        ("GET /v1/agents/Acme/a HTTP/1.1\r\nHost: x\r\n\r\n", "400", "name_invalid"),
        ("GET /v1/agents?limit=many HTTP/1.1\r\nHost: x\r\n\r\n", "400", "query_invalid"),
        ("GET /v1/agents?page=2 HTTP/1.1\r\nHost: x\r\n\r\n", "400", "query_invalid"),
    ] {
        let answer = node.raw(request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\",\"detail\":")), "{request:?}: {answer}");
    }
    assert!(node.raw(b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let endless = [b"GET /".as_slice(), &[b'a'; 64 * 1024]].concat();
    let answer = node.raw(&endless);
    assert!(answer.starts_with("HTTP/1.1 4") || answer.is_empty(), "{answer}");
    assert_eq!(node.client().status().await.unwrap().agents, 0);
}

#[tokio::test]
async fn connections_that_say_nothing_lock_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    let silent: Vec<_> =
        (0..CONNECTIONS_MAX).map(|_| UnixStream::connect(node.handle.socket_path()).unwrap()).collect();
    assert_eq!(node.client().status().await.unwrap().agents, 0);
    drop(silent);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_silent_connections_and_removes_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    let client = node.client();
    client.status().await.unwrap();
    let _silent = UnixStream::connect(node.handle.socket_path()).unwrap();
    let begun = Instant::now();
    node.handle.shutdown().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(matches!(client.status().await, Err(ClientError::SocketMissing(_))));
}

#[test]
fn a_second_node_on_the_same_files_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    assert!(matches!(Service::open(options(folder.path())), Err(ServiceError::Storage(StorageError::InUse(_)))));
    let mut other = options(folder.path());
    other.directory_path = folder.path().join("other.redb");
    let refused = Service::open(other).unwrap().spawn(|_| {}).err();
    assert!(matches!(refused, Some(ServiceError::SocketInUse(_))), "{refused:?}");
    assert!(node.handle.is_running() && node.handle.socket_path().exists());
}

#[tokio::test]
async fn a_client_without_a_node_is_told_what_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let missing = Client::new(&path).status().await.unwrap_err();
    assert!(missing.to_string().contains("creto serve"), "{missing}");
    // Bound, and nobody listens: a listener that is dropped may live on for a moment in a child that another test forks.
    let unheard = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    unheard.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    let dead = Client::new(&path).status().await.unwrap_err();
    assert!(matches!(dead, ClientError::NotRunning(_)) && dead.to_string().contains("creto serve"), "{dead}");
    let _deaf = std::os::unix::net::UnixListener::bind(folder.path().join("deaf.sock")).unwrap();
    let deaf = Client::new(folder.path().join("deaf.sock")).with_timeout(Duration::from_millis(50)).status().await;
    assert!(matches!(deaf, Err(ClientError::Timeout(_))), "{deaf:?}");
}

#[tokio::test]
async fn a_node_that_ends_before_it_has_answered_is_told_from_one_that_cannot_be_understood() {
    let folder = tempfile::tempdir().unwrap();
    let answers: [(&str, &[u8]); 4] = [
        ("none.sock", b""),
        ("half-a-head.sock", b"HTTP/1.1 200 OK\r\nconte"),
        ("half-a-body.sock", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"agents\":"),
        ("not-http.sock", b"SSH-2.0-OpenSSH\r\n\r\n"),
    ];
    for (name, answer) in answers {
        let path = folder.path().join(name);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let node = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                connection.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            connection.write_all(answer).unwrap();
        });
        let error = Client::new(&path).status().await.unwrap_err();
        node.join().unwrap();
        assert_eq!(matches!(error, ClientError::Closed), name != "not-http.sock", "{name}: {error:?}");
    }
}

const CHILD_FOLDER: &str = "CRETO_TEST_CHILD_FOLDER";

/// Not a test by itself: the node of the next one, in a process that can be killed.
#[test]
fn node_to_be_killed() {
    let Ok(folder) = std::env::var(CHILD_FOLDER) else { return };
    let node = start(Path::new(&folder));
    // Says that it is up, then stays until someone kills it, or the one who would has gone.
    println!("up");
    let _end = std::io::stdin().read_to_end(&mut Vec::new());
    drop(node);
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start_child(folder: &Path) -> KilledOnDrop {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "node_to_be_killed", "--nocapture"])
        .env(CHILD_FOLDER, folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = KilledOnDrop(child);
    let mut said = String::new();
    let stdout = child.0.stdout.as_mut().unwrap();
    while !said.contains("up\n") {
        let mut byte = [0];
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "the node ended: {said}");
        said.push(char::from(byte[0]));
    }
    child
}

/// Registers one agent after the other until the node is gone; says which ones it was told of.
async fn register_until_killed(client: Client, worker: u8, round: u32, answered: mpsc::Sender<()>) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let name = format!("acme/a-{round}-{worker}-{}", told.len());
        match client.register(&signed(&name, worker)).await {
            Ok(registered) => assert!(registered.created),
            Err(_) => return told,
        }
        told.push(name);
        // Nobody counts any more once the node was killed.
        let _enough = answered.try_send(());
    }
}

#[tokio::test]
async fn a_killed_node_has_everyone_whom_it_told_that_they_are_registered() {
    let folder = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    for round in 0..5 {
        let child = start_child(folder.path());
        let (answered, mut answers) = mpsc::channel(1_024);
        let mut workers = JoinSet::new();
        for worker in 1..=8 {
            let client = Client::new(folder.path().join("control.sock"));
            workers.spawn(register_until_killed(client, worker, round, answered.clone()));
        }
        // At another moment in every round, and always while eight calls are under way.
        for _ in 0..=round * 11 {
            answers.recv().await.unwrap();
        }
        drop(child);
        told.extend(workers.join_all().await.into_iter().flatten());
    }
    let node = start(folder.path());
    let found: BTreeSet<_> =
        node.client().agents(Some("acme")).await.unwrap().into_iter().map(|agent| agent.name).collect();
    let lost: Vec<_> = told.iter().filter(|name| !found.contains(*name)).collect();
    assert!(lost.is_empty(), "were told that they are registered, and are gone: {lost:?}");
    assert!(told.len() > 100, "vacuous: only {} calls were answered", told.len());
    println!("{} told, {} found after 5 kills", told.len(), found.len());
}

#[tokio::test]
async fn settings_of_a_mailbox_are_published_before_they_are_answered_and_bad_ones_have_their_own_code() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    let client = node.client();
    let name = AgentName::parse("acme/a").unwrap();
    let change = |retention_s| MailboxChange { retention_s: Some(Some(retention_s)), ..MailboxChange::default() };
    assert_eq!(refused(client.set_mailbox(&name, &change(7_200)).await), code(ErrorCode::AgentUnknown));
    client.register(&signed("acme/a", 1)).await.unwrap();
    let set = client.set_mailbox(&name, &change(7_200)).await.unwrap();
    assert_eq!((set.retention_s, set.in_force.retention_s, set.in_force.messages_max), (Some(7_200), 7_200, 100_000));
    let snapshot = node.newest();
    let principal = snapshot.principal(&record("acme/a", 1).agent_id()).unwrap();
    assert_eq!(principal.mailbox_settings().retention_s, Some(7_200));
    assert_eq!(client.mailbox(&name).await.unwrap(), set);
    assert_eq!(client.mailboxes(Some("acme")).await.unwrap(), [set]);
    assert_eq!(client.mailboxes(Some("other")).await.unwrap(), []);

    assert_eq!(refused(client.set_mailbox(&name, &change(60)).await), code(ErrorCode::SettingRange));
    let patch = |content_type: &str, body: &str| {
        let length = body.len();
        let head = format!("PATCH /v1/mailboxes/acme/a HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n");
        node.raw(format!("{head}Content-Type: {content_type}\r\n\r\n{body}").as_bytes())
    };
    for (content_type, body, code) in [
        ("text/plain", "{}", "content_type"),
        ("application/json", "{", "settings_malformed"),
        ("application/json", r#"{"retention":"3d"}"#, "settings_malformed"),
        ("application/json", r#"{"max_deliveries":1000}"#, "settings_malformed"),
        ("application/json", r#"{"bytes_max":1}"#, "setting_range"),
        ("application/json", r#"{"max_deliveries":1}"#, "setting_range"),
    ] {
        let answer = patch(content_type, body);
        assert!(answer.contains(&format!("\"code\":\"{code}\",\"detail\":")), "{body}: {answer}");
    }
    assert!(patch("application/json", "{}").starts_with("HTTP/1.1 200 "));
    assert_eq!(node.published.lock().unwrap().len(), 3, "what changes nothing is not published");
    let node = node.restart();
    assert_eq!(node.client().mailbox(&name).await.unwrap().retention_s, Some(7_200));
}

#[tokio::test]
async fn attributes_are_published_before_they_are_answered_and_bad_ones_have_their_own_code() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    let client = node.client();
    let name = AgentName::parse("acme/a").unwrap();
    let change =
        |role: &str| AttributesChange { roles: Some(Some(vec![role.to_owned()])), ..AttributesChange::default() };
    assert_eq!(refused(client.set_attributes(&name, &change("x")).await), code(ErrorCode::AgentUnknown));
    client.register(&signed("acme/a", 1)).await.unwrap();
    let set = client.set_attributes(&name, &change("coordinator")).await.unwrap();
    assert_eq!((set.agent_type.as_str(), set.roles.len(), set.capabilities.len()), ("agent", 1, 0));
    let snapshot = node.newest();
    let principal = snapshot.principal(&record("acme/a", 1).agent_id()).unwrap();
    assert_eq!(principal.attributes().roles(), ["coordinator"]);
    assert_eq!(client.agent(&name).await.unwrap(), set);
    assert_eq!(client.agents(Some("acme")).await.unwrap(), [set]);
    let again = client.register(&signed("acme/a", 1)).await.unwrap();
    assert_eq!(again.agent.roles, ["coordinator"], "registering again shows them, and leaves them");

    assert_eq!(refused(client.set_attributes(&name, &change("")).await), code(ErrorCode::AttributeRange));
    let patch = |content_type: &str, body: &str| {
        let length = body.len();
        let head = format!("PATCH /v1/agents/acme/a HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n");
        node.raw(format!("{head}Content-Type: {content_type}\r\n\r\n{body}").as_bytes())
    };
    let many =
        serde_json::json!({ "roles": (0..65).collect::<Vec<_>>().iter().map(i32::to_string).collect::<Vec<_>>() });
    for (content_type, body, code) in [
        ("text/plain", "{}", "content_type"),
        ("application/json", "{", "attributes_malformed"),
        ("application/json", r#"{"role":["a"]}"#, "attributes_malformed"),
        ("application/json", r#"{"roles":"a"}"#, "attributes_malformed"),
        ("application/json", r#"{"type":""}"#, "attribute_range"),
        ("application/json", r#"{"type":"\u0430gent"}"#, "attribute_range"),
        ("application/json", &many.to_string(), "attribute_range"),
    ] {
        let answer = patch(content_type, body);
        assert!(answer.contains(&format!("\"code\":\"{code}\",\"detail\":")), "{body}: {answer}");
    }
    assert!(patch("application/json", "{}").starts_with("HTTP/1.1 200 "));
    assert!(patch("application/json", &" ".repeat(600_000)).contains("body_too_large"));
    // The largest there are, more than a key record has bytes.
    let texts = |count: usize| Some(Some((0..count).map(|number| format!("{number:x>512}")).collect()));
    let largest =
        AttributesChange { agent_type: Some(Some("t".repeat(512))), roles: texts(64), capabilities: texts(256) };
    assert_eq!(client.set_attributes(&name, &largest).await.unwrap().capabilities.len(), 256);
    let node = node.restart();
    assert_eq!(node.client().agent(&name).await.unwrap().roles.len(), 64);
}

#[tokio::test]
async fn a_revocation_is_published_before_it_is_answered_and_bad_ones_have_their_own_code() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    let client = node.client();
    let name = AgentName::parse("acme/a").unwrap();
    let change = |state, since_ms| StateChange { state, reason: None, since_ms };
    let revoke = change(StateWord::Revoked, Some(7));
    assert_eq!(refused(client.set_state(&name, &revoke).await), code(ErrorCode::AgentUnknown));
    assert_eq!(
        refused(client.set_organization_state("acme", None, &revoke).await),
        code(ErrorCode::OrganizationUnknown)
    );
    for (agent, seed) in [("acme/a", 1), ("acme/b", 2), ("acme/c", 3)] {
        client.register(&signed(agent, seed)).await.unwrap();
    }
    let id = |agent: &str, seed| record(agent, seed).agent_id();
    let held = |agent: &str, seed| {
        let snapshot = node.newest();
        snapshot.principal(&id(agent, seed)).map(|known| (known.state(), known.revoked_at_ms())).unwrap()
    };
    let info = client.set_state(&name, &change(StateWord::Suspended, None)).await.unwrap();
    assert_eq!((info.state.as_str(), held("acme/a", 1)), ("suspended", (AgentState::Suspended, None)));
    let info = client.set_state(&name, &revoke).await.unwrap();
    assert_eq!((info.state_since_ms, held("acme/a", 1)), (Some(7), (AgentState::Revoked, Some(7))));
    let active = change(StateWord::Active, None);
    assert_eq!(refused(client.set_state(&name, &active).await), code(ErrorCode::AgentRevoked));
    assert_eq!(refused(client.register(&signed("acme/a", 1)).await), code(ErrorCode::AgentRevoked));
    assert_eq!(
        refused(client.set_state(&name, &change(StateWord::Revoked, Some(u64::MAX))).await),
        code(ErrorCode::StateRange)
    );

    let done = client.set_organization_state("acme", None, &change(StateWord::Revoked, None)).await.unwrap();
    assert_eq!((done.changed, done.unchanged, done.next_after), (2, 1, None));
    assert_eq!((held("acme/b", 2).0, held("acme/c", 3).0), (AgentState::Revoked, AgentState::Revoked));
    let put = |body: &str| {
        let length = body.len();
        let head = format!("PUT /v1/agents/acme/a/state HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n");
        node.raw(format!("{head}Content-Type: application/json\r\n\r\n{body}").as_bytes())
    };
    for (body, code) in [
        ("{", "state_malformed"),
        ("{}", "state_malformed"),
        (r#"{"state":"gone"}"#, "state_malformed"),
        (r#"{"state":"suspended","since_ms":1}"#, "state_range"),
        (r#"{"state":"revoked","reason":"\u001b[2J"}"#, "state_range"),
    ] {
        let answer = put(body);
        assert!(answer.contains(&format!("\"code\":\"{code}\",\"detail\":")), "{body}: {answer}");
    }
    let node = node.restart();
    let listed = node.client().agents(Some("acme")).await.unwrap();
    assert!(listed.iter().all(|agent| agent.state == "revoked"), "{listed:?}");
}

#[tokio::test]
async fn where_tokens_are_demanded_nobody_is_registered_without_a_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut demanding = options(folder.path());
    demanding.enrolment = Enrolment::Token;
    let service = Service::open(demanding).unwrap();
    let handle = service.spawn(|_| {}).unwrap();
    let client = Client::new(handle.socket_path());
    assert_eq!(refused(client.register(&signed("acme/a", 1)).await), code(ErrorCode::TokenMissing));

    let wanted = |organization: &str, name: Option<&str>, uses| TokenWanted {
        organization: organization.to_owned(),
        name: name.map(str::to_owned),
        expires_in_s: 60,
        uses,
    };
    assert_eq!(refused(client.make_token(&wanted("Acme", None, 1)).await), code(ErrorCode::TokenRange));
    assert_eq!(refused(client.make_token(&wanted("acme", Some("other/a"), 1)).await), code(ErrorCode::TokenRange));
    let made = client.make_token(&wanted("acme", None, 2)).await.unwrap();
    assert!(!format!("{made:?}").contains(&made.token), "{made:?}");
    let token = EnrolmentToken::parse(&made.token).unwrap();
    assert_eq!(
        refused(client.enrol(&signed_for("other/a", 1, &token.hash()), &token).await),
        code(ErrorCode::TokenScope)
    );
    let forged = EnrolmentToken::new([0x5a; 32].into());
    assert_eq!(
        refused(client.enrol(&signed_for("acme/a", 1, &forged.hash()), &forged).await),
        code(ErrorCode::TokenUnknown)
    );
    // The keys must be the record's own, token or not.
    let mut stolen = signed_for("acme/a", 1, &token.hash());
    stolen.ed25519[0] ^= 1;
    assert_eq!(refused(client.enrol(&stolen, &token).await), code(ErrorCode::SelfSignature));
    // Who carries a record cannot use another token with it, nor one that was made without.
    let other = client.make_token(&wanted("acme", None, 1)).await.unwrap();
    let other = EnrolmentToken::parse(&other.token).unwrap();
    let swapped = client.enrol(&signed_for("acme/a", 1, &other.hash()), &token).await;
    assert_eq!(refused(swapped), code(ErrorCode::RecordPurpose));
    assert_eq!(refused(client.enrol(&signed("acme/a", 1), &token).await), code(ErrorCode::RecordPurpose));

    assert!(client.enrol(&signed_for("acme/a", 1, &token.hash()), &token).await.unwrap().created);
    assert!(
        !client.enrol(&signed_for("acme/a", 1, &token.hash()), &token).await.unwrap().created,
        "asked again, no use is taken"
    );
    assert!(client.enrol(&signed_for("acme/b", 2, &token.hash()), &token).await.unwrap().created);
    assert_eq!(
        refused(client.enrol(&signed_for("acme/c", 3, &token.hash()), &token).await),
        code(ErrorCode::TokenUsed)
    );
    let mut listed = client.tokens().await.unwrap();
    listed.retain(|token| token.uses == 2);
    assert_eq!((listed.len(), listed[0].uses_left), (1, 0));
    // What is on the disk tells nobody the token.
    let secret = token.text();
    let digits = secret.strip_prefix("creto-enrol-").unwrap();
    let secret: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect();
    let file = std::fs::read(folder.path().join("control.redb")).unwrap();
    assert!(
        !file.windows(32).any(|bytes| bytes == secret) && !file.windows(64).any(|bytes| bytes == digits.as_bytes())
    );

    assert_eq!(client.withdraw_token(&listed[0].id).await.unwrap(), listed[0]);
    assert_eq!(refused(client.withdraw_token(&listed[0].id).await), code(ErrorCode::TokenIdUnknown));
    handle.shutdown().unwrap();
    // Where none is demanded, one that is brought must be good all the same.
    let node = start(folder.path());
    assert_eq!(
        refused(node.client().enrol(&signed_for("acme/c", 3, &token.hash()), &token).await),
        code(ErrorCode::TokenUnknown)
    );
    let unused = node.client().register(&signed_for("acme/c", 3, &token.hash())).await;
    assert_eq!(refused(unused), code(ErrorCode::RecordPurpose), "signed for a token, and brought without");
    node.client().register(&signed("acme/c", 3)).await.unwrap();
    let raw = node
        .raw(b"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
    assert!(raw.contains("token_malformed"), "{raw}");
}
