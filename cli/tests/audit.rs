//! `creto audit`: what auditors, scripts and people get, and the statuses.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its log has nothing to say")]

mod process;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use creto_audit::event::{ChannelId, Peer, Rule, What};
use creto_audit::{Event, Label, SourceId};
use creto_audit_store::disk::RealDisk;
use creto_audit_store::{Writer, keys};
use creto_envelope::{AgentId, AgentName, KeyId, MessageId, TrustDomain};
use process::{Run, run};

fn audit(folder: &Path, args: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_creto"));
    command.current_dir(folder).env_clear().arg("audit").args(args);
    run(command)
}

fn id(name: &str) -> AgentId {
    AgentId::derive(&TrustDomain::default(), &AgentName::parse(name).unwrap())
}

fn message(number: u8) -> MessageId {
    MessageId::from_parts(1_764_000_000_000, [number; 10])
}

fn accepted(sequence: u64, message_id: MessageId) -> What {
    What::Accepted {
        sender: id("acme/planner"),
        recipient: id("acme/worker"),
        message_id,
        channel: ChannelId::default(),
        sequence,
        envelope_bytes: 1_400,
        key_version: 1,
        priority: 1,
        message_kind: 0,
    }
}

/// Two agents and `count` messages from one to the other, every other one delivered.
fn log(folder: &Path, count: u8) -> PathBuf {
    let log = folder.join("audit");
    std::fs::create_dir_all(&log).unwrap();
    let keys = keys::load_or_create(&log, "creto.local").unwrap();
    let mut writer = Writer::open(RealDisk::new(&log), keys).unwrap();
    if writer.size() == 0 {
        for name in ["acme/planner", "acme/worker"] {
            let what = What::AgentRegistered {
                agent: id(name),
                actor: AgentId::ZERO,
                key_id: KeyId([1; 16]),
                valid_from: creto_audit::event::TimeMs(0),
                valid_until: creto_audit::event::TimeMs(0),
                key_version: 1,
            };
            writer
                .append_with_label(SourceId::CONTROL, &Event::new(1_764_000_000_000, what), &Label::of(name))
                .unwrap();
        }
    }
    for number in 0..count {
        let (time, sequence) = (1_764_000_000_000 + u64::from(number) * 1_000, u64::from(number));
        let source = SourceId::shard(u16::from(number % 2));
        writer.append(source, &[Event::new(time, accepted(sequence, message(number)))]).unwrap();
        if number % 2 == 0 {
            let what = What::Delivered { mailbox: id("acme/worker"), sequence };
            writer.append(source, &[Event::new(time + 5, what)]).unwrap();
        }
    }
    writer.commit().unwrap();
    writer.checkpoint(1_764_000_100_000).unwrap();
    log
}

#[test]
fn an_export_verifies_on_a_machine_that_has_only_it_and_the_public_keys() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = log(here.path(), 40);
    let exported = audit(here.path(), &["export", "all.audit", "--log", "audit", "--json"]).json();
    assert_eq!((&exported["leaves"], &exported["disclosed"]), (&62.into(), &62.into()));
    for file in ["all.audit", "audit/audit.pub"] {
        std::fs::copy(here.path().join(file), there.path().join(Path::new(file).file_name().unwrap())).unwrap();
    }
    let verify = ["verify", "all.audit", "--key", "audit.pub", "--keep-checkpoint", "seen", "--json"];
    let verified = audit(there.path(), &verify);
    assert_eq!(verified.status, 0, "{}{}", verified.stdout, verified.stderr);
    let verified = verified.json();
    assert_eq!((&verified["ok"], &verified["leaves"], &verified["sources"]), (&true.into(), &62.into(), &3.into()));
    assert_eq!(verified["root"], exported["root"]);
    let text = audit(there.path(), &["verify", "all.audit", "--key", "audit.pub", "--since", "seen"]);
    assert!(text.status == 0 && text.stdout.contains("62, 0 of them only hashes"), "{}", text.stdout);
    assert_eq!(audit(here.path(), &["verify", log.to_str().unwrap(), "--key", "audit/audit.pub"]).status, 0);
}

#[test]
fn a_changed_leaf_is_named_and_ends_with_status_1() {
    let folder = tempfile::tempdir().unwrap();
    log(folder.path(), 40);
    audit(folder.path(), &["export", "all.audit", "--log", "audit"]);
    let file = folder.path().join("all.audit");
    let mut bytes = std::fs::read(&file).unwrap();
    let needle = message(20).0;
    let at = bytes.windows(16).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let refused = audit(folder.path(), &["verify", "all.audit", "--key", "audit/audit.pub", "--json"]);
    assert_eq!(refused.status, 1);
    let refused = refused.json();
    assert_eq!((&refused["ok"], &refused["code"]), (&false.into(), &"leaf_changed".into()));
    assert_eq!((&refused["source"], &refused["position"]), (&"shard-0".into(), &20.into()));
    bytes[at] ^= 1;
    bytes.truncate(bytes.len() - 9);
    std::fs::write(&file, &bytes).unwrap();
    let cut = audit(folder.path(), &["verify", "all.audit", "--key", "audit/audit.pub", "--json"]);
    assert_eq!((cut.status, &cut.json()["code"]), (1, &"truncated".into()));
}

#[test]
fn other_keys_and_a_log_that_was_rolled_back_are_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    log(one.path(), 10);
    log(two.path(), 10);
    audit(one.path(), &["export", "old.audit", "--log", "audit"]);
    let other = two.path().join("audit/audit.pub");
    let refused = audit(one.path(), &["verify", "old.audit", "--key", other.to_str().unwrap(), "--json"]);
    assert_eq!((refused.status, &refused.json()["code"]), (1, &"other_origin".into()));
    log(one.path(), 10);
    std::fs::copy(one.path().join("audit/checkpoint"), one.path().join("newer")).unwrap();
    let args = ["verify", "old.audit", "--key", "audit/audit.pub", "--since", "newer", "--json"];
    let rolled_back = audit(one.path(), &args);
    assert_eq!((rolled_back.status, &rolled_back.json()["code"]), (1, &"rolled_back".into()));
    let usage = audit(one.path(), &["verify", "old.audit", "--key", "old.audit"]);
    assert_eq!(usage.status, 5, "{}", usage.stderr);
}

#[test]
fn a_message_is_proven_in_one_small_file() {
    let folder = tempfile::tempdir().unwrap();
    log(folder.path(), 40);
    std::fs::copy(folder.path().join("audit/checkpoint"), folder.path().join("seen")).unwrap();
    log(folder.path(), 40);
    let uuid = message(7).to_uuid_string();
    let proven = audit(
        folder.path(),
        &["prove", "--message", &uuid, "--log", "audit", "--since", "seen", "-o", "it.tlog-proof", "--json"],
    );
    assert_eq!(proven.status, 0, "{}", proven.stderr);
    let args = ["verify", "it.tlog-proof", "--key", "audit/audit.pub", "--since", "seen", "--json"];
    let verified = audit(folder.path(), &args);
    assert_eq!(verified.status, 0, "{}", verified.stdout);
    let event = verified.json()["event"].clone();
    assert_eq!((&event["message_id"], &event["kind"]), (&uuid.into(), &"message_accepted".into()));
    let file = folder.path().join("it.tlog-proof");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\nindex ", "\nindex 1")).unwrap();
    let refused = audit(folder.path(), &["verify", "it.tlog-proof", "--key", "audit/audit.pub", "--json"]);
    assert_eq!((refused.status, &refused.json()["code"]), (1, &"not_in_the_log".into()));
    let unknown = message(200).to_uuid_string();
    assert_eq!(audit(folder.path(), &["prove", "--message", &unknown, "--log", "audit"]).status, 1);
}

#[test]
fn events_are_found_by_kind_agent_message_source_and_time() {
    let folder = tempfile::tempdir().unwrap();
    log(folder.path(), 40);
    let query = |args: &[&str]| {
        let run = audit(folder.path(), &[&["query", "--log", "audit", "--json"], args].concat());
        assert_eq!(run.status, 0, "{}", run.stderr);
        run.lines()
    };
    assert_eq!(query(&[]).len(), 62);
    assert_eq!(query(&["--kind", "message_delivered"]).len(), 20);
    assert_eq!(query(&["--agent", "acme/planner"]).len(), 41);
    assert_eq!(query(&["--agent", &id("acme/planner").to_string()]).len(), 41);
    assert_eq!(query(&["--source", "control"]).len(), 2);
    let of_message: Vec<_> = query(&["--message", &message(20).to_uuid_string()]);
    let kinds: Vec<_> = of_message.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message_accepted", "message_delivered"], "what became of it is joined");
    assert_eq!(query(&["--kind", "message_accepted", "--after", "1764000030000"]).len(), 10);
    let text = audit(folder.path(), &["query", "--log", "audit", "--kind", "agent_registered"]);
    assert!(text.stdout.contains("agent=acme/planner"), "{}", text.stdout);
    let tail = audit(folder.path(), &["tail", "--log", "audit", "-n", "3", "--json"]);
    assert_eq!(tail.lines().iter().map(|event| event["index"].as_u64().unwrap()).collect::<Vec<_>>(), [59, 60, 61]);
    assert_eq!(audit(folder.path(), &["query", "--kind", "nothing"]).status, 2);
}

#[test]
fn a_redacted_export_verifies_and_says_how_much_is_hidden() {
    let folder = tempfile::tempdir().unwrap();
    log(folder.path(), 40);
    let args = ["export", "some.audit", "--log", "audit", "--redact", "--message", &message(20).to_uuid_string()];
    assert_eq!(audit(folder.path(), &args).status, 0);
    let verified = audit(folder.path(), &["verify", "some.audit", "--key", "audit/audit.pub", "--json"]).json();
    assert_eq!((&verified["leaves"], &verified["only_hashes"]), (&62.into(), &60.into()));
    let bytes = std::fs::read(folder.path().join("some.audit")).unwrap();
    assert!(!bytes.windows(16).any(|window| window == message(21).0), "what is hidden is not in the file");
}

#[test]
fn init_makes_the_keys_of_the_log() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mut init = Command::new(env!("CARGO_BIN_EXE_creto"));
    assert!(init.current_dir(folder.path()).env_clear().arg("init").output().unwrap().status.success());
    let found = std::fs::read_dir(folder.path()).unwrap().filter_map(|entry| {
        let audit = entry.unwrap().path().join("audit");
        audit.is_dir().then_some(audit)
    });
    let audit: Vec<_> = found.collect();
    let [audit] = audit.as_slice() else { panic!("one data folder: {audit:?}") };
    let mode = std::fs::metadata(audit.join("audit.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(std::fs::read_to_string(audit.join("audit.pub")).unwrap().starts_with("creto.local/creto-audit/node-"));
}

#[test]
fn the_end_of_a_long_log_is_listed_without_reading_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let log = log(folder.path(), 40);
    let keys = keys::load(&log).unwrap();
    let mut writer = Writer::open(RealDisk::new(&log), keys).unwrap();
    let events: Vec<_> =
        (100..70_100).map(|sequence| Event::new(1_764_000_200_000, accepted(sequence, message(1)))).collect();
    writer.append(SourceId::shard(0), &events).unwrap();
    writer
        .append(
            SourceId::shard(1),
            &[Event::new(1_764_000_300_000, What::ShardStarted { epoch: 7, recovered_through: 1 })],
        )
        .unwrap();
    writer.commit().unwrap();
    writer.checkpoint(1_764_000_400_000).unwrap();
    // Whoever reads the first file fails.
    std::fs::write(log.join("entries/000000000000"), b"x").unwrap();
    assert_eq!(audit(folder.path(), &["query", "--log", "audit", "--limit", "1"]).status, 1);
    let tail = audit(folder.path(), &["tail", "--log", "audit", "-n", "3", "--json"]);
    assert_eq!(tail.status, 0, "{}", tail.stderr);
    let found: Vec<_> = tail.lines().iter().map(|event| (event["index"].as_u64(), event["kind"].clone())).collect();
    let kinds = ["message_accepted", "message_accepted", "shard_started"];
    assert_eq!(found, (70_060..).map(Some).zip(kinds.map(Into::into)).collect::<Vec<_>>());
    let filtered = ["tail", "--log", "audit", "-n", "1", "--kind", "shard_started", "--json"];
    assert_eq!(audit(folder.path(), &filtered).lines()[0]["epoch"], 7);
    // More than the last file has: it goes on in the one before.
    assert_eq!(audit(folder.path(), &["tail", "--log", "audit", "-n", "5000"]).status, 1);
}

#[test]
fn who_follows_a_log_is_shown_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let log = log(folder.path(), 2);
    let mut follow = Command::new(env!("CARGO_BIN_EXE_creto"));
    follow.current_dir(folder.path()).args(["audit", "tail", "--log", "audit", "-n", "1", "--follow", "--json"]);
    let mut follow = process::Process(follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let output = BufReader::new(follow.0.stdout.take().unwrap());
    let (told, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || output.lines().try_for_each(|line| told.send(line.unwrap())));
    let next =
        || -> serde_json::Value { serde_json::from_str(&lines.recv_timeout(process::PATIENCE).unwrap()).unwrap() };
    assert_eq!(next()["index"], 4);
    let mut writer = Writer::open(RealDisk::new(&log), keys::load(&log).unwrap()).unwrap();
    for epoch in 1..4 {
        let what = What::ShardStarted { epoch, recovered_through: 0 };
        writer.append(SourceId::shard(0), &[Event::new(1_764_000_200_000, what)]).unwrap();
        writer.commit().unwrap();
        writer.checkpoint(1_764_000_200_000 + epoch).unwrap();
        let shown = next();
        assert_eq!((&shown["index"], &shown["epoch"]), (&(4 + epoch).into(), &epoch.into()));
    }
    // A folder is gone when nobody has a file of it open.
    drop(writer);
    std::fs::remove_dir_all(&log).unwrap();
    let mut error = String::new();
    follow.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(error.contains("is not there any more"), "{error}");
    assert_eq!(follow.0.wait().unwrap().code(), Some(5));
}

#[test]
fn alerts_are_listed_with_what_to_do_and_end_with_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let log = log(folder.path(), 4);
    let none = audit(folder.path(), &["alerts", "--log", "audit"]);
    assert!(none.status == 0 && none.stdout.contains("no alerts"), "{}{}", none.stdout, none.stderr);
    let mut writer = Writer::open(RealDisk::new(&log), keys::load(&log).unwrap()).unwrap();
    let (agent, peer) = (id("acme/planner"), Peer::from(std::net::IpAddr::from([192, 0, 2, 7])));
    let refused = What::SubmitRefused {
        sender: agent,
        recipient: id("acme/worker"),
        message_id: message(1),
        key_version: 1,
        count: 120,
        code: creto_envelope::RejectCode::PolicyDenied.into(),
    };
    let alert = |agent, peer, rule| What::AlertRaised { agent, peer, count: 120, threshold: 100, window_s: 60, rule };
    writer.append(SourceId::shard(0), &[Event::new(1_764_000_200_000, refused)]).unwrap();
    for (time, what) in [
        (1_764_000_200_000, alert(agent, Peer::default(), Rule::Denials)),
        (1_764_000_300_000, alert(AgentId::ZERO, peer, Rule::LoginFailures)),
    ] {
        writer.append(SourceId::CONTROL, &[Event::new(time, what)]).unwrap();
    }
    writer.commit().unwrap();
    writer.checkpoint(1_764_000_400_000).unwrap();
    let text = audit(folder.path(), &["alerts", "--log", "audit"]);
    assert_eq!(text.status, 1);
    for wanted in ["denials", "acme/planner", "120", "60 s", "192.0.2.7", "creto policy explain", "What to do"] {
        assert!(text.stdout.contains(wanted), "{wanted}: {}", text.stdout);
    }
    let listed = audit(folder.path(), &["alerts", "--log", "audit", "--json"]);
    let value = listed.json();
    assert_eq!((listed.status, value["alerts"].as_array().map(Vec::len)), (1, Some(2)));
    assert_eq!(value["seen"]["denials"], serde_json::json!({ "events": 120, "alerts": 1 }));
    assert_eq!(
        (&value["alerts"][1]["who"], &value["alerts"][1]["rule"]),
        (&"192.0.2.7".into(), &"login_failures".into())
    );
    let late = audit(folder.path(), &["alerts", "--log", "audit", "--after", "1764000300001", "--json"]);
    assert_eq!((late.status, &late.json()["alerts"]), (0, &serde_json::json!([])));
    let last = audit(folder.path(), &["alerts", "--log", "audit", "--limit", "1", "--json"]).json();
    assert_eq!(last["alerts"][0]["rule"], "login_failures");
}
