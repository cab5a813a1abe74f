//! The dashboard's server: who is let in, what of the node gets through, and what a browser is told to hold to.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use creto_audit::event::Kind;
use creto_envelope::TrustDomain;
use creto_service::client::Client;
use creto_service::dashboard::{Dashboard, Links};
use creto_service::limits::{DASHBOARD_EVENTS_MAX, DASHBOARD_KEYS_MAX};
use creto_service::{Service, ServiceHandle, ServiceOptions};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

fn node(folder: &Path) -> ServiceHandle {
    let options = ServiceOptions::new(folder.join("control.redb"), folder.join("control.sock"), TrustDomain::default());
    Service::open(options).unwrap().spawn(|_| ()).unwrap()
}

/// A dashboard for the socket in `folder`, whether anybody answers there or not.
struct Served {
    address: SocketAddr,
    links: Links,
    /// How often somebody was let in.
    entered: Arc<AtomicUsize>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    /// One whose node may take its time: this machine may be busy.
    async fn start(folder: &Path) -> Self {
        Self::with_patience(folder, Duration::from_mins(1)).await
    }

    async fn with_patience(folder: &Path, patience: Duration) -> Self {
        let client = Client::new(folder.join("control.sock")).with_timeout(patience);
        let dashboard = Dashboard::bind(0, client).await.unwrap();
        let (address, links, entered) = (dashboard.address(), dashboard.links(), Arc::new(AtomicUsize::new(0)));
        let (stop, stopped) = oneshot::channel();
        let told = Arc::clone(&entered);
        let count = move || {
            told.fetch_add(1, Ordering::SeqCst);
        };
        let task = tokio::spawn(dashboard.serve(async { drop(stopped.await) }, count));
        Self { address, links, entered, stop, task }
    }

    /// That of a new link.
    fn token(&self) -> String {
        self.links.make().unwrap().split_once('#').unwrap().1.to_owned()
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let host = self.address.to_string();
        let given = headers.iter().any(|(name, _)| *name == "host");
        let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: 0\r\n");
        let all = headers.iter().copied().chain((!given).then_some(("host", host.as_str())));
        all.for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        Answer::parse(&answer)
    }

    /// Lets a browser in; gives the header that it brings along from then on.
    async fn enter(&self) -> String {
        let entered = self.ask("POST", "/session", &[("authorization", &format!("Bearer {}", self.token()))]).await;
        assert_eq!(entered.status, 201, "{}", entered.body);
        format!("Bearer {}", entered.json()["key"].as_str().unwrap())
    }

    async fn get(&self, path: &str, key: &str) -> Answer {
        self.ask("GET", path, &[("authorization", key)]).await
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pair =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        Self { status, headers: lines.filter_map(pair).collect(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn code(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        (self.status, self.json()["code"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn the_page_comes_whole_from_here_and_tells_the_browser_to_load_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path()).await;
    let page = served.ask("GET", "/", &[]).await;
    assert_eq!((page.status, page.headers["content-type"].as_str()), (200, "text/html; charset=utf-8"));
    let policy = &page.headers["content-security-policy"];
    for directive in
        ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "form-action 'none'"]
    {
        assert!(policy.contains(directive), "{directive}: {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains("data:"), "{policy}");
    assert!(
        !page.body.contains("<style")
            && !page.body.contains("style=")
            && !page.body.split(' ').any(|word| word.starts_with("on") && word.contains('=')),
        "nothing inline"
    );
    assert_eq!(page.body.matches("<script").count(), page.body.matches("<script type=\"module\" src=\"/").count());
    // Every file that the page and its modules name is there, and nothing of another host is named.
    let mut todo = vec!["/".to_owned()];
    let mut seen = BTreeMap::new();
    while let Some(path) = todo.pop() {
        let answer = served.ask("GET", &path, &[]).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.replace("http://www.w3.org/", "").contains("://"), "{path} names another host");
        // What only node.js reads as beside it is so here, too.
        let text = answer.body.replace("\"./", "\"/");
        let is_path = |text: &&str| {
            text.starts_with('/')
                && text.contains('.')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "/.".contains(c))
        };
        let quoted = text.split('"').filter(is_path);
        let further: Vec<String> = quoted.map(str::to_owned).filter(|path| !seen.contains_key(path)).collect();
        todo.extend(further);
        seen.insert(path, answer);
    }
    assert!(seen.len() >= 8, "{:?}", seen.keys());
    for (path, answer) in &seen {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.headers[name], value, "{path}");
        }
        assert!(
            answer.headers.keys().all(|name| !name.starts_with("access-control") && name != "set-cookie"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_node_answers_whoever_came_by_the_link_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let _node = node(folder.path());
    let served = Served::start(folder.path()).await;
    let missing = (401, "key_missing".to_owned());
    assert_eq!(served.ask("GET", "/v1/status", &[]).await.code(), missing);
    let token = served.token();
    assert!(token.len() == 43, "256 bits: {token}");
    assert_eq!(served.get("/v1/status", &format!("Bearer {token}")).await.code(), missing, "a link's token is no key");
    let bearer = format!("Bearer {token}");
    let entered = served.ask("POST", "/session", &[("authorization", &bearer)]).await;
    let key = format!("Bearer {}", entered.json()["key"].as_str().unwrap());
    let status = served.get("/v1/status", &key).await;
    assert_eq!((status.status, status.headers["content-type"].as_str()), (200, "application/json"));
    assert_eq!(status.json()["trust_domain"], TrustDomain::default().to_string());
    for wrong in [
        key[..key.len() - 1].to_owned(),
        key.replace("Bearer ", "Basic "),
        key.to_uppercase(),
        format!("{key}A"),
        "Bearer ".into(),
    ] {
        assert_eq!(served.get("/v1/status", &wrong).await.code(), missing, "{wrong}");
    }
    let twice = [("authorization", key.as_str()), ("authorization", key.as_str())];
    assert_eq!(served.ask("GET", "/v1/status", &twice).await.code(), missing);

    // The link holds once, and whoever runs the dashboard makes the next one.
    assert_eq!(served.entered.load(Ordering::SeqCst), 1);
    let used = served.ask("POST", "/session", &[("authorization", &bearer)]).await;
    assert_eq!(used.code(), (401, "link_used".into()));
    assert_ne!(served.enter().await, key);
    assert_eq!(served.get("/v1/status", &key).await.status, 200, "the first tab is still let in");
    for _ in 0..DASHBOARD_KEYS_MAX {
        served.enter().await;
    }
    assert_eq!(served.get("/v1/status", &key).await.code(), missing, "the oldest key makes room");
}

#[tokio::test]
async fn a_name_that_was_made_to_lead_here_and_a_page_of_another_origin_get_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let _node = node(folder.path());
    let served = Served::start(folder.path()).await;
    let (key, port) = (served.enter().await, served.address.port());
    let elsewhere = (421, "authority".to_owned());
    for host in [
        "evil.example",
        &format!("evil.example:{port}"),
        "127.0.0.1",
        "localhost",
        &format!("127.0.0.1:{}", port - 1),
        "",
        &format!("127.0.0.1:{port}.evil.example"),
    ] {
        for path in ["/", "/page.mjs", "/v1/status"] {
            let answer = served.ask("GET", path, &[("host", host), ("authorization", &key)]).await;
            assert_eq!(answer.code(), elsewhere, "{host} {path}");
        }
        let token = format!("Bearer {}", served.token());
        assert_eq!(
            served.ask("POST", "/session", &[("host", host), ("authorization", &token)]).await.code(),
            elsewhere
        );
    }
    let (ours, by_name) = (format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}"));
    for origin in ["null", "http://127.0.0.1", "https://evil.example", &by_name, &ours.replace("http:", "https:")] {
        let answer = served.ask("GET", "/v1/status", &[("origin", origin), ("authorization", &key)]).await;
        assert_eq!(answer.code(), elsewhere, "{origin}");
    }
    assert_eq!(served.ask("GET", "/v1/status", &[("origin", &ours), ("authorization", &key)]).await.status, 200);
    let through_a_tunnel = [("host", &by_name[7..]), ("origin", by_name.as_str()), ("authorization", key.as_str())];
    assert_eq!(served.ask("GET", "/v1/status", &through_a_tunnel).await.status, 200);
    let asked_beforehand =
        served.ask("OPTIONS", "/v1/status", &[("origin", &ours), ("access-control-request-method", "GET")]).await;
    assert!(
        asked_beforehand.status >= 400
            && !asked_beforehand.headers.keys().any(|name| name.starts_with("access-control"))
    );
}

#[tokio::test]
async fn only_a_few_paths_are_passed_on_and_nothing_can_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let _node = node(folder.path());
    let served = Served::start(folder.path()).await;
    let key = served.enter().await;
    // No shard is here that could say that nothing waits.
    assert_eq!(served.get("/v1/mailboxes/fullest", &key).await.json()["complete"], false);
    for path in ["/v1/ready", "/v1/status", "/v1/metrics", "/v1/mailboxes/fullest"] {
        let answer = served.get(path, &key).await;
        assert!(answer.headers["content-type"] == "application/json", "{path}: {answer:?}");
        answer.json();
    }
    let unknown = (404, "path_unknown".to_owned());
    for path in [
        "/v1/agents",
        "/v1/tokens",
        "/v1/channels",
        "/v1/policy",
        "/v1/openapi.json",
        "/v1/mailboxes",
        "/metrics",
        "/live",
        "/v1/backups",
        "/v1/mailboxes/acme/a",
        "/v1/key-records/00/1",
        "//v1/status",
        "/v1/status/",
        "/v1/audit/proofs/1/2",
        "/v1//status",
        "/V1/status",
        "/v1/mailboxes/fullest/../../agents",
    ] {
        assert_eq!(served.get(path, &key).await.code(), unknown, "{path}");
    }
    for path in [
        "/v1/audit/proofs/x",
        "/v1/audit/proofs/-1",
        "/v1/audit/proofs/..%2f..%2fagents",
        "/v1/audit/proofs/18446744073709551616",
    ] {
        assert_eq!(served.get(path, &key).await.code(), (404, "leaf_unknown".into()), "{path}");
    }
    let too_many = format!("/v1/audit/events?from=0&limit={}", DASHBOARD_EVENTS_MAX + 1);
    for path in [
        &too_many,
        "/v1/audit/events",
        "/v1/audit/events?from=0",
        "/v1/audit/events?from=a&limit=1",
        "/v1/audit/events?from=0&limit=1&more=1",
    ] {
        assert_eq!(served.get(path, &key).await.code(), (400, "query_invalid".into()), "{path}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for path in ["/", "/v1/status", "/v1/metrics"] {
            assert_eq!(
                served.ask(method, path, &[("authorization", &key)]).await.code(),
                (405, "method".into()),
                "{method} {path}"
            );
        }
    }
    assert_eq!(served.get("/session", &key).await.code(), (405, "method".into()));
}

#[tokio::test]
async fn what_the_node_refuses_comes_as_it_is_and_a_node_that_is_away_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path()).await;
    let key = served.enter().await;
    let away = served.get("/v1/metrics", &key).await;
    assert_eq!(away.code(), (502, "node_unreachable".into()));
    assert!(away.json()["next"].as_str().unwrap().contains("creto serve"), "{away:?}");
    assert_eq!(served.ask("GET", "/", &[]).await.status, 200, "the page is there all the same");

    let node = node(folder.path());
    let refused = served.get("/v1/audit/events?from=0&limit=8", &key).await;
    assert_eq!(refused.code(), (503, "audit_unavailable".into()), "this service has no audit log");
    assert_eq!(served.get("/v1/status", &key).await.status, 200, "a node that comes back is found again");
    tokio::task::spawn_blocking(move || node.shutdown().unwrap()).await.unwrap();
    assert_eq!(served.get("/v1/metrics", &key).await.code().1, "node_unreachable");

    // One that takes a request and does not answer it.
    let _silent = UnixListener::bind(folder.path().join("control.sock")).unwrap();
    let hasty = Served::with_patience(folder.path(), Duration::from_millis(100)).await;
    let late = hasty.get("/v1/metrics", &hasty.enter().await).await;
    assert_eq!(late.code(), (504, "node_unreachable".into()));

    let address = served.address;
    drop(served.stop);
    served.task.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "it has ended");
}

#[tokio::test]
async fn nobody_is_told_a_secret_by_a_debug_text_or_by_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::new(folder.path().join("control.sock"));
    let dashboard = Dashboard::bind(0, client).await.unwrap();
    let link = dashboard.links().make().unwrap();
    let token = link.split_once('#').unwrap().1;
    assert!(!format!("{dashboard:?}").contains(token));
    assert!(link.starts_with("http://127.0.0.1:"), "{link}");
    let taken = Dashboard::bind(dashboard.address().port(), Client::new("none")).await.unwrap_err().to_string();
    assert!(taken.contains("--port"), "{taken}");
}

/// The check that runs in browsers, by the same files as the verifier of `creto audit verify` (`control/audit/golden/proofs`). Where there
/// is no node.js it is said; `CRETO_REQUIRE_NODE_JS=1` makes that a failure.
#[test]
fn the_page_judges_golden_proofs_as_the_rust_verifier_does() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/proofs.mjs");
    let is_required = std::env::var_os("CRETO_REQUIRE_NODE_JS").is_some();
    let run = match std::process::Command::new("node").arg(&script).output() {
        Ok(run) => run,
        Err(error) => {
            assert!(!is_required, "node.js: {error}");
            eprintln!("skipped: no node.js");
            return;
        }
    };
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    if out.starts_with("skipped") && !is_required {
        eprintln!("{out}");
        return;
    }
    assert!(run.status.success() && out.contains("golden proofs"), "{out}{err}");
}

/// The kinds of events that the page knows are all that there are. `CRETO_WRITE_DOCS=1` writes them.
#[test]
fn the_page_knows_every_kind_of_event_and_the_length_of_its_fields() {
    let mut text = "// Kinds of events in the audit log: number, name, bytes of its fields. Written by a test from those of the Rust code.\n\n\
                    export const KINDS = new Map([\n"
        .to_owned();
    for Kind { number, name, fields_bytes, .. } in Kind::ALL {
        writeln!(text, "  [{number}, [\"{name}\", {fields_bytes}]],").unwrap();
    }
    text.push_str("]);\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dashboard/page/kinds.mjs");
    if std::env::var_os("CRETO_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

/// Whatever the page asks for by a metric's name is counted by a node.
#[test]
fn every_metric_of_the_page_is_one_that_a_node_tells() {
    let script = include_str!("../src/dashboard/page/readings.mjs");
    let names: Vec<&str> = script.split('"').filter(|text| text.starts_with("creto_")).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(creto_metrics::families::ALL.iter().any(|family| family.name == name), "{name}");
    }
}
