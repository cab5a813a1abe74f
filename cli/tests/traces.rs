//! Traces over a real node: a collector that decodes what it is sent, and spans of several processes that are one trace.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use process::{Node, Process, Run, command, run};
use prost::Message as _;

const AGENTS: &[&str] = &["acme/planner", "acme/worker"];

/// A span as it was told.
#[derive(Clone, Debug)]
struct Told {
    service: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    /// Empty: it is the first of its trace.
    parent: Vec<u8>,
    kind: i32,
    attributes: BTreeMap<String, String>,
}

/// Takes spans as OpenTelemetry's collector does.
struct Collector {
    address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&told);
        // Ends with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                take(&stream.unwrap(), &all);
            }
        });
        Self { address, told }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    #[track_caller]
    fn only(&self, name: &str, service: &str) -> Told {
        let told = self.told.lock().unwrap();
        let found: Vec<&Told> = told.iter().filter(|span| span.name == name && span.service == service).collect();
        assert_eq!(found.len(), 1, "{name} of {service} in {told:#?}");
        found[0].clone()
    }
}

fn take(stream: &TcpStream, all: &Mutex<Vec<Told>>) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        head.push(line.trim_end().to_ascii_lowercase());
    }
    assert_eq!(head[0], "post /v1/traces http/1.1", "{head:?}");
    assert!(head.iter().any(|line| line == "content-type: application/x-protobuf"), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.unwrap();
        let service = attributes(&resource.attributes)["service.name"].clone();
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            all.lock().unwrap().push(Told {
                service: service.clone(),
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
                kind: span.kind,
                attributes: attributes(&span.attributes),
            });
        }
    }
    let mut stream = stream;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n").unwrap();
}

fn attributes(all: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = all.iter().map(|pair| {
        let value = pair.value.as_ref().and_then(|value| value.value.as_ref()).map_or_else(String::new, text);
        (pair.key.clone(), value)
    });
    pairs.collect()
}

/// A node, two agents, and a collector.
struct Scene {
    folder: tempfile::TempDir,
    node: Node,
    collector: Collector,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::with_agents(folder.path(), 2, AGENTS);
        Self { folder, node, collector: Collector::start() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A command that tells the collector, as this service.
    fn told(&self, service: &str, args: &[&str]) -> Command {
        let address = self.node.address.to_string();
        let mut command = command(self.path(), 2, args);
        command.arg("--node").arg(address).env("OTEL_SERVICE_NAME", service);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", self.collector.url());
        command
    }

    fn ok(&self, service: &str, args: &[&str]) -> Run {
        let run = run(self.told(service, args));
        assert_eq!((run.status, run.stderr.contains("spans")), (0, false), "{args:?}: {}{}", run.stdout, run.stderr);
        run
    }
}

#[track_caller]
fn check_continues(after: &Told, before: &Told) {
    assert_eq!((&after.trace, &after.parent), (&before.trace, &before.id), "{after:#?} is not a child of {before:#?}");
}

#[test]
fn a_message_carries_its_trace_from_its_sender_to_its_recipient_and_the_node_never_has_it() {
    let scene = Scene::new();
    let sent = scene.ok("planner", &["send", "acme/planner", "acme/worker", "what was said", "--json"]);
    let publish = scene.collector.only("creto.publish", "planner");
    assert_eq!((publish.trace.len(), publish.id.len(), publish.parent.len()), (16, 8, 0), "{publish:?}");
    assert_eq!(publish.kind, SpanKind::Producer as i32);

    // It is on the node's disk, and in none of its files, in whatever form.
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
    let (mut files, mut log_bytes) = (0, 0);
    let mut folders = vec![scene.path().join("data")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                files += 1;
                log_bytes += bytes.len();
                for clear in [publish.trace.clone(), publish.id.clone(), hex(&publish.trace), b"\xffTC\x01".to_vec()] {
                    assert!(!bytes.windows(clear.len()).any(|window| window == clear), "{} has it", path.display());
                }
            }
        }
    }
    assert!(files > 3 && log_bytes > 4_096, "{files} files of {log_bytes} bytes were looked through");

    let received = scene.ok("worker", &["recv", "acme/worker", "-n", "1", "--json"]);
    let message = &received.lines()[0];
    assert_eq!(message["text"], "what was said", "{message}");
    let process = scene.collector.only("creto.process", "worker");
    check_continues(&process, &publish);
    assert_eq!(process.kind, SpanKind::Consumer as i32);
    for (span, operation, destination) in [(&publish, "send", "acme/worker"), (&process, "process", "acme/worker")] {
        let of = |name: &str| span.attributes.get(name).map_or("", String::as_str);
        assert_eq!((of("messaging.system"), of("messaging.operation.type")), ("creto", operation), "{span:?}");
        assert_eq!(
            (of("messaging.destination.name"), of("messaging.message.body.size")),
            (destination, "13"),
            "{span:?}"
        );
        assert_eq!(sent.json()["message_id"], of("messaging.message.id"), "{span:?}");
        assert!(!span.attributes.values().any(|value| value.contains("what was said")), "no payload: {span:?}");
    }
    scene.node.stop();
}

#[test]
fn a_request_and_its_answer_are_one_trace() {
    let scene = Scene::new();
    let mut respond = scene.told("worker", &["respond", "acme/worker", "--echo", "-n", "1", "--json"]);
    let mut respond = Process(respond.stdout(Stdio::piped()).spawn().unwrap());
    scene.ok("planner", &["request", "acme/planner", "acme/worker", "what is new?"]);
    assert!(respond.0.wait().unwrap().success());
    let asked = scene.collector.only("creto.publish", "planner");
    let worked = scene.collector.only("creto.process", "worker");
    let answered = scene.collector.only("creto.publish", "worker");
    let taken = scene.collector.only("creto.process", "planner");
    check_continues(&worked, &asked);
    check_continues(&answered, &worked);
    check_continues(&taken, &answered);
}

#[test]
fn what_is_published_in_a_channel_carries_its_trace_too() {
    let scene = Scene::new();
    process::ok(scene.path(), 2, &["channel", "create", "acme/news", "--owner", "acme/planner"]);
    // The subscription stays, and what is published from then on is for it.
    let made = ["sub", "acme/worker", "acme/news", "--wait", "1", "--node", &scene.node.address.to_string()];
    process::ok(scene.path(), 2, &made);
    scene.ok("planner", &["pub", "acme/planner", "acme/news", "extra!"]);
    scene.ok("worker", &["sub", "acme/worker", "acme/news", "-n", "1", "--follow", "--json"]);
    let publish = scene.collector.only("creto.publish", "planner");
    check_continues(&scene.collector.only("creto.process", "worker"), &publish);
}

#[test]
fn without_a_context_a_recipient_begins_a_trace_of_its_own_and_without_a_collector_nothing_is_told() {
    let scene = Scene::new();
    let address = scene.node.address.to_string();
    let plain = ["send", "acme/planner", "acme/worker", "hello", "--node", &address];
    process::ok(scene.path(), 2, &plain);
    assert!(scene.collector.told.lock().unwrap().is_empty());
    scene.ok("worker", &["recv", "acme/worker", "-n", "1"]);
    let process = scene.collector.only("creto.process", "worker");
    assert!(process.parent.is_empty(), "{process:?}");
}

#[test]
fn a_collector_that_is_away_costs_no_message_and_is_said() {
    let scene = Scene::new();
    let address = scene.node.address.to_string();
    // Nobody listens there: it was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let sent = process::ok(
        scene.path(),
        2,
        &["send", "acme/planner", "acme/worker", "hi", "--node", &address, "--otlp", &url],
    );
    assert!(sent.stderr.contains("the last spans were not taken by") && sent.stderr.contains(&url), "{}", sent.stderr);
    let wrong =
        process::creto(scene.path(), 2, &["send", "acme/planner", "acme/worker", "hi", "--otlp", "https://host:1"]);
    assert_eq!(wrong.status, 2, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("give http://HOST:PORT"), "{}", wrong.stderr);
}
