//! `creto dashboard` against a node that runs.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

mod process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use process::{Node, PATIENCE, Process, command, creto, ok};
use serde_json::Value;

/// Status and body of an answer to a request with this bearer.
fn ask(port: u16, method: &str, path: &str, bearer: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {bearer}\r\n");
    write!(stream, "{head}content-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_link_lets_a_browser_in_to_what_the_node_tells_and_names_the_fullest_mailboxes() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::with_agents(folder.path(), 2, &["acme/planner", "acme/executor", "acme/clerk"]);
    let address = node.address.to_string();
    for (to, count) in [("acme/executor", 3), ("acme/clerk", 1)] {
        for _ in 0..count {
            ok(folder.path(), 2, &["send", "acme/planner", to, "the secret words", "--node", &address]);
        }
    }
    ok(folder.path(), 2, &["channel", "create", "acme/alerts.eu", "--owner", "acme/planner"]);
    for _ in 0..2 {
        ok(folder.path(), 2, &["pub", "acme/planner", "acme/alerts.eu", "the secret words", "--node", &address]);
    }

    let mut serve = command(folder.path(), 2, &["dashboard", "--json"]);
    let mut dashboard = Process(serve.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(dashboard.0.stdout.take().unwrap()).lines();
    let mut next_line = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let link_in = |line: Value| {
        assert_eq!(line["event"], "link", "{line}");
        (line["link"].as_str().unwrap().to_owned(), u16::try_from(line["port"].as_u64().unwrap()).unwrap())
    };
    let (link, port) = link_in(next_line());
    let token = link.strip_prefix(&format!("http://127.0.0.1:{port}/#")).unwrap();
    assert_eq!(ask(port, "GET", "/v1/metrics", token).0, 401);
    let (status, entered) = ask(port, "POST", "/session", token);
    assert_eq!(status, 201, "{entered}");
    let key = serde_json::from_str::<Value>(&entered).unwrap()["key"].as_str().unwrap().to_owned();
    assert_eq!(next_line()["event"], "entered", "no link is made that nobody asked for");
    assert_eq!(ask(port, "POST", "/session", token).0, 401);
    dashboard.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let (second, same_port) = link_in(next_line());
    assert!(second != link && same_port == port, "the next browser has a link of its own");

    // Shards look at their mailboxes now and then.
    let wanted = [("acme/executor", "agent", 3), ("acme/alerts.eu", "channel", 2), ("acme/clerk", "agent", 1)];
    let since = Instant::now();
    loop {
        let (status, body) = ask(port, "GET", "/v1/mailboxes/fullest", &key);
        assert_eq!(status, 200, "{body}");
        let fullest: Value = serde_json::from_str(&body).unwrap();
        let of = |mailbox: &Value| {
            let text = |name: &str| mailbox[name].as_str().unwrap_or_default().to_owned();
            assert!(mailbox["bytes"].as_u64().unwrap() > 100 && mailbox["shard"].as_u64().unwrap() < 2, "{mailbox}");
            (text("name"), text("kind"), mailbox["messages"].as_u64().unwrap())
        };
        let found: Vec<_> = fullest["mailboxes"].as_array().unwrap().iter().map(of).collect();
        if found == wanted.map(|(name, kind, count)| (name.to_owned(), kind.to_owned(), count)) {
            assert_eq!((fullest["holding"].as_u64(), fullest["complete"].as_bool()), (Some(3), Some(true)));
            break;
        }
        assert!(since.elapsed() < PATIENCE, "{fullest}");
        std::thread::sleep(Duration::from_millis(20));
    }
    for (path, word) in [
        ("/v1/metrics", "creto_wal_write_seconds"),
        ("/v1/ready", "\"serving\""),
        ("/v1/status", "trust_domain"),
        ("/v1/audit/keys", "creto-audit"),
        ("/v1/audit/checkpoint", "source control"),
        ("/v1/audit/proofs/0", "c2sp.org/tlog-proof@v1"),
        ("/v1/audit/events?from=0&limit=8", "node_started"),
    ] {
        let (status, body) = ask(port, "GET", path, &key);
        assert!(status == 200 && body.contains(word), "{path}: {status} {body}");
        assert!(!body.contains("secret words"), "{path} has a payload");
    }
    assert_eq!(ask(port, "GET", "/v1/agents", &key).0, 404);

    // The port that one has, another cannot have.
    let taken = creto(folder.path(), 2, &["dashboard", "--port", &port.to_string()]);
    assert!(taken.status == 5 && taken.stderr.contains("--port"), "{} {}", taken.status, taken.stderr);

    dashboard.signal(rustix::process::Signal::TERM);
    assert_eq!(dashboard.0.wait().unwrap().code(), Some(0));
    node.stop();
}

#[test]
fn without_a_node_it_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    ok(folder.path(), 1, &["init"]);
    let alone = creto(folder.path(), 1, &["dashboard"]);
    assert!(alone.status == 3 && alone.stderr.contains("creto serve"), "{} {}", alone.status, alone.stderr);
}
