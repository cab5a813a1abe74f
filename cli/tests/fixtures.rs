//! Data folders as versions wrote them: each is opened by a real node, and its messages are read.
//!
//! `fixtures/README.md` says how a new one is made, which a change of any format needs.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use creto_agent::AgentName;
use creto_store::conformance::Folder;
use creto_store::{
    BatchPart, Cursors, CursorsEntry, FileSource, GroupId, MailboxId, Mailboxes, MailboxesConfig, MessageFlags,
    MessageId, PartMessage, Priority, Progress, Record, SenderId, Settle, SettleCause, Subscribe, SubscriberId,
    Subscriptions, SubscriptionsEntry, Unsubscribe, Wal, WalConfig, recover, recover_noted, segment_file_name, verify,
};

mod process;
use process::{Node, command, name, ok, on_time, restored_home, run};

const SHARDS: u16 = 2;
/// When the logs of a fixture were written, by their own word.
const WRITTEN_MS: u64 = 1_795_000_000_000;
/// Set to the name of a new fixture to make it.
const WRITE: &str = "CRETO_WRITE_FIXTURE";
/// What this version writes, and what each fixture has.
const FORMATS_FILE: &str = "formats.json";
/// What each agent of a fixture finds in its mailbox, in order.
const MESSAGES_FILE: &str = "messages.json";
/// How many notices each agent of a fixture finds in its mailbox, and what is set for mailboxes; since the formats that
/// know them.
const NOTICES_FILE: &str = "notices.json";
const MAILBOXES_FILE: &str = "mailboxes.json";
/// The texts of each agent's dead letters, which were sent after what waits for it.
const LETTERS_FILE: &str = "letters.json";
/// What the directory says of some agents: type, roles, state.
const AGENTS_FILE: &str = "agents.json";
/// What the log of shard 0 holds of a channel, since the formats that know them: who subscribes, and how many messages of the
/// channel the first of them has not consumed.
const CHANNELS_FILE: &str = "channels.json";
const CHANNEL: MailboxId = MailboxId([0xcc; 16]);
const SUBSCRIBER: SubscriberId = SubscriberId([0xd1; 16]);
/// Far from now, and from what a message can say.
const LATE_MS: u64 = 4_000_000_000_000;
/// Of each agent, what stands there.
const AGENT_FIELDS: [&str; 4] = ["type", "roles", "state", "state_reason"];
/// Since the formats that know them: a channel that agents of the fixture publish in and subscribe to.
const FEED: &str = "acme/feed";
const FEED_FILE: &str = "feed.json";
/// Since the formats that know them: parts of a file that had come to an agent of the fixture when its sender was killed. A receiver's
/// folder of parts is nobody else's (mode 0700), which no repository keeps: it has another name here.
const PARTS: &str = "inbox/parts";
const FILE: &str = "table.csv";
const FILE_BYTES: usize = 300_000;
/// A backup of its data folder.
const BACKUP_FILE: &str = "backup.tar";

/// Every format of a file that a node or an agent keeps, and of what is kept in these files.
fn written() -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("data folder (node.json)", u64::from(creto_node::data_dir::DATA_FORMAT)),
        ("directory (control.redb)", creto_service::storage::FORMAT),
        ("segment", u64::from(creto_store::SEGMENT_VERSION)),
        ("frame of the log", u64::from(creto_store::FRAME_VERSION)),
        ("record of the log", u64::from(creto_store::RECORD_VERSION)),
        ("digest of a segment", u64::from(creto_store::DIGEST_VERSION)),
        ("envelope", u64::from(creto_envelope::envelope::ENVELOPE_VERSION)),
        ("batch header", u64::from(creto_envelope::batch::BATCH_VERSION)),
        ("key record", u64::from(creto_envelope::key_record::KEY_RECORD_FORMAT)),
        ("key file of an agent", u64::from(creto_agent::KEY_FILE_FORMAT)),
        ("sessions of an agent", creto_agent::STATE_FORMAT),
        ("prekeys of an agent", u64::from(creto_agent::PREKEY_FILE_FORMAT)),
        ("backup (manifest.json)", u64::from(creto_node::backup::BACKUP_FORMAT)),
        ("audit log", u64::from(creto_audit_store::FORMAT)),
        ("upload of a file", u64::from(creto_agent::attachment::UPLOAD_FORMAT)),
        ("parts of a file", u64::from(creto_agent::attachment::PARTS_FORMAT)),
    ])
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// The folders of all fixtures, oldest first.
fn all() -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(fixtures())
        .expect("the folder of the fixtures")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&fs::read(path).expect("a file of the fixture")).expect("JSON")
}

/// As [`json`]; empty for a fixture that is older than this.
fn since<T: serde::de::DeserializeOwned>(fixture: &Path, file: &str) -> BTreeMap<String, T> {
    if fixture.join(file).exists() { json(&fixture.join(file)) } else { BTreeMap::new() }
}

/// A copy in a temporary folder, with the modes that git does not keep.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("a copy");
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("a mode");
        }
    }
}

#[test]
fn every_format_that_is_written_has_a_fixture() {
    if std::env::var_os(WRITE).is_some() {
        return;
    }
    let written: BTreeMap<String, u64> =
        written().into_iter().map(|(name, format)| (name.to_owned(), format)).collect();
    let found: Vec<BTreeMap<String, u64>> = all().iter().map(|fixture| json(&fixture.join(FORMATS_FILE))).collect();
    let next = "a format was raised: keep a data folder as it is written now, see fixtures/README.md";
    assert!(found.contains(&written), "{next}\nwritten: {written:#?}\nfixtures: {found:#?}");
}

#[test]
fn a_node_starts_on_every_data_folder_that_a_version_wrote_and_serves_its_messages() {
    if std::env::var_os(WRITE).is_some() {
        return;
    }
    on_time(async {
        for fixture in all() {
            let dir = tempfile::tempdir().expect("a folder");
            copy(&fixture, dir.path());
            let digests = fs::read_dir(dir.path().join("data/wal/shard-0000")).expect("a log");
            assert!(digests.count() > 2, "{}: several segments and a digest", fixture.display());
            ok(dir.path(), SHARDS, &["wal", "verify"]);
            check_channel(&fixture, dir.path(), false);
            let node = Node::start(dir.path(), SHARDS);
            let messages: BTreeMap<String, Vec<String>> = json(&fixture.join(MESSAGES_FILE));
            assert!(messages.values().any(|texts| texts.len() > 3));
            let told: BTreeMap<String, u64> = since(&fixture, NOTICES_FILE);
            let set: BTreeMap<String, u64> = since(&fixture, MAILBOXES_FILE);
            for agent in messages.keys() {
                let shown = ok(dir.path(), SHARDS, &["mailbox", "show", agent, "--json"]).json();
                assert_eq!(shown["messages_max"].as_u64(), set.get(agent).copied(), "{}: {agent}", fixture.display());
            }
            let described: BTreeMap<String, serde_json::Value> = since(&fixture, AGENTS_FILE);
            for (agent, wanted) in described {
                let shown = ok(dir.path(), SHARDS, &["agent", "show", &agent, "--json"]).json();
                for field in AGENT_FIELDS {
                    assert_eq!(shown[field], wanted[field], "{}: {field} of {agent}", fixture.display());
                }
            }
            let letters: BTreeMap<String, Vec<String>> = since(&fixture, LETTERS_FILE);
            let address = node.address.to_string();
            for (agent, mut wanted) in messages {
                let dead = letters.get(&agent).cloned().unwrap_or_default();
                let dlq = |args: &[&str]| {
                    ok(dir.path(), SHARDS, &[&["dlq"], args, &["--node", &address, "--json"]].concat()).json()
                };
                let listed = dlq(&["list", &agent]);
                assert_eq!(
                    listed["letters"].as_array().map(Vec::len),
                    Some(dead.len()),
                    "{}: {agent}",
                    fixture.display()
                );
                assert_eq!(dlq(&["replay", &agent, "--all"])["replayed"], dead.len());
                wanted.extend(dead);
                let reader = node.connect(dir.path(), &agent).await;
                let mut notices = reader.notices().expect("one of them");
                let mut subscription = reader.subscribe().expect("one subscription");
                let mut texts = Vec::new();
                let wait = |texts: &Vec<_>| Duration::from_secs(if texts.len() < wanted.len() { 30 } else { 1 });
                while let Ok(Some(delivery)) = tokio::time::timeout(wait(&texts), subscription.next()).await {
                    let delivery = delivery.expect("a message that opens");
                    texts.push(String::from_utf8(delivery.payload.to_vec()).expect("UTF-8"));
                    delivery.ack();
                }
                assert_eq!(texts, wanted, "{}: {agent}", fixture.display());
                for _ in 0..told.get(&agent).copied().unwrap_or(0) {
                    let notice = notices.next().await.expect("a notice that is kept");
                    assert_eq!(notice.to.as_ref().map(AgentName::as_str), Some("acme/other"));
                    notice.ack();
                }
                // It goes on: what comes now is written in the formats of now.
                reader.send(&name(&agent), b"now".to_vec()).await.expect("it is durable");
                reader.close().await;
            }
            goes_on(&fixture, dir.path(), &address);
            node.stop();
            ok(dir.path(), SHARDS, &["wal", "verify"]);
            check_channel(&fixture, dir.path(), true);
            // One that a version wrote goes on; where there is none, one begins.
            let key = match fixture.join("data/audit").exists() {
                true => fixture.join("data/audit/audit.pub"),
                false => dir.path().join("data/audit/audit.pub"),
            };
            ok(dir.path(), SHARDS, &["audit", "verify", "data/audit", "--key", key.to_str().expect("UTF-8")]);
            ok(dir.path(), SHARDS, &["backup", "backup"]);
        }
    });
}

/// What agents of a fixture had begun goes on: a subscription to a channel, publishing in it, and a file.
fn goes_on(fixture: &Path, home: &Path, address: &str) {
    let feed: BTreeMap<String, Vec<String>> = since(fixture, FEED_FILE);
    if let Some(unread) = feed.get("unread") {
        // What was published then is there as long as the channel keeps it: nobody knows when this is read.
        ok(home, SHARDS, &["pub", "acme/sender", FEED, "now", "--node", address]);
        let read = ok(home, SHARDS, &["sub", "acme/other", FEED, "--wait", "3000", "--node", address, "--json"]);
        let texts: Vec<_> = read.lines().iter().map(|line| line["text"].as_str().expect("a text").to_owned()).collect();
        let all = [&unread[..], &["now".to_owned()]].concat();
        assert!(texts == all || texts == all[unread.len()..], "{}: {texts:?}", fixture.display());
    }
    if fixture.join(PARTS).exists() {
        let (inbox, file) = (home.join("inbox"), home.join(FILE));
        fs::rename(home.join(PARTS), inbox.join(".creto-parts")).expect("a name");
        fs::set_permissions(inbox.join(".creto-parts"), fs::Permissions::from_mode(0o700)).expect("a mode");
        fs::write(&file, [b'7'; FILE_BYTES]).expect("a file");
        ok(home, SHARDS, &["send", "acme/sender", "acme/filer", "--attach", FILE, "--node", address]);
        let args = ["recv", "acme/filer", "--attachments", "inbox", "-n", "1", "--node", address];
        ok(home, SHARDS, &args);
        assert_eq!(fs::read(inbox.join(FILE)).expect("it is whole"), [b'7'; FILE_BYTES]);
    }
}

/// What the log says of a channel that the directory does not know. Whoever subscribed to it is out once a node has served it, because
/// nobody may subscribe to what is not there; what was published stays until its time is over.
fn check_channel(fixture: &Path, home: &Path, was_served: bool) {
    let wanted: BTreeMap<String, u64> = since(fixture, CHANNELS_FILE);
    let mut mailboxes = Mailboxes::new(MailboxesConfig::default(), [1, 2]);
    let folder = home.join("data/wal/shard-0000");
    let on_noted = |position, noted| mailboxes.note(position, noted);
    recover_noted(&mut FileSource::new(&folder), 0, on_noted).expect("a sound log");
    mailboxes.recovered();
    assert_eq!(mailboxes.queued_messages(CHANNEL), wanted.get("messages").copied().unwrap_or(0));
    let subscribers = mailboxes.channel_subscribers(CHANNEL) as u64;
    if was_served {
        assert_eq!(subscribers, 0, "{}", fixture.display());
        return;
    }
    assert_eq!(subscribers, wanted.get("subscribers").copied().unwrap_or(0), "{}", fixture.display());
    if let Some(missed) = wanted.get("missed") {
        let state = mailboxes.subscription(CHANNEL, SUBSCRIBER, GroupId::NONE).expect("it subscribes");
        assert_eq!(state.progress.missed, *missed);
    }
}

#[test]
fn a_backup_of_every_format_is_restored_and_served() {
    if std::env::var_os(WRITE).is_some() {
        return;
    }
    for fixture in all() {
        let dir = tempfile::tempdir().expect("a folder");
        restored_home(dir.path());
        let backup = fixture.join(BACKUP_FILE);
        let restored = ok(dir.path(), SHARDS, &["restore", backup.to_str().expect("UTF-8"), "data", "--json"]);
        let messages: BTreeMap<String, Vec<String>> = json(&fixture.join(MESSAGES_FILE));
        let wanted: usize = messages.values().map(Vec::len).sum();
        assert!(restored.json()["messages"].as_u64().expect("a count") >= wanted as u64);
        let node = Node::start(dir.path(), SHARDS);
        for agent in messages.keys() {
            ok(dir.path(), SHARDS, &["agent", "show", agent]);
        }
        node.stop();
    }
}

#[test]
fn files_of_a_later_version_are_refused_with_what_to_do_and_stay_as_they_are() {
    if std::env::var_os(WRITE).is_some() {
        return;
    }
    let fixture = all().pop().expect("a fixture");
    let segment = {
        let folder = fixture.join("data/wal/shard-0000");
        let mut names: Vec<_> =
            fs::read_dir(folder).expect("a log").map(|entry| entry.expect("an entry").file_name()).collect();
        names.retain(|name| name.to_string_lossy().ends_with(".wal"));
        names.sort();
        format!("data/wal/shard-0000/{}", names[0].to_string_lossy())
    };
    let text = |text: &'static str, with: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").replacen(text, with, 1).into_bytes()
    };
    let version = |mut bytes: Vec<u8>| {
        bytes[12] += 1;
        bytes
    };
    type Change = Box<dyn Fn(Vec<u8>) -> Vec<u8>>;
    let cases: [(&str, Change, &[&str], i32, &str); 3] = [
        (&segment, Box::new(version), &["serve"], 1, "read it with the version that wrote it"),
        (
            "data/node.json",
            Box::new(text("\"format\":1", "\"format\":2")),
            &["serve"],
            2,
            "start it with the version that wrote it",
        ),
        (
            "agents/acme/reader.keys",
            Box::new(text("\"format\": 2", "\"format\": 3")),
            &["recv", "acme/reader", "--node", "127.0.0.1:9"],
            2,
            "update creto",
        ),
    ];
    for (file, change, args, status, next) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        copy(&fixture, dir.path());
        let path = dir.path().join(file);
        let before = fs::read(&path).expect("a file of the fixture");
        let changed = change(before.clone());
        assert_ne!(changed, before, "{file}");
        fs::write(&path, &changed).expect("a file");
        let run = run(command(dir.path(), SHARDS, args));
        assert_eq!(run.status, status, "{file}: {}", run.stderr);
        assert!(run.stderr.contains(next), "{file}: {}", run.stderr);
        assert_eq!(fs::read(&path).expect("still there"), changed, "{file}");
    }
}

/// Makes a new fixture; not a test, but it needs what tests have.
#[test]
fn write_a_fixture_when_asked_to() {
    let Some(fixture) = std::env::var_os(WRITE) else { return };
    let fixture = fixtures().join(fixture);
    fs::create_dir(&fixture).expect("a fixture that is new: what is released stays as it is");
    let dir = tempfile::tempdir().expect("a folder");
    let home = dir.path();
    ok(home, SHARDS, &["init", "--listen", "127.0.0.1:0"]);
    let node = Node::start(home, SHARDS);
    let address = node.address.to_string();
    for agent in ["acme/sender", "acme/reader", "acme/other"] {
        // Longer than anybody will run this test.
        ok(home, SHARDS, &["agent", "create", agent, "--valid-days", "36500"]);
    }
    let send = |to: &str, text: &str, more: &[&str]| {
        ok(home, SHARDS, &[&["send", "acme/sender", to, text, "--node", &address], more].concat());
    };
    // A replaced key, a mailbox that was read to its end, and one with a session, two priorities and a text of its own.
    ok(home, SHARDS, &["agent", "rotate", "acme/other", "--node", &address]);
    for number in 1..=3 {
        send("acme/other", &format!("read and settled {number}"), &[]);
    }
    let read = ok(home, SHARDS, &["recv", "acme/other", "--count", "3", "--node", &address]);
    assert!(read.stdout.contains("settled 3"), "{}", read.stdout);
    let mut wanted = vec!["before the others".to_owned()];
    for number in 1..=8 {
        let text = format!("message {number}");
        send("acme/reader", &text, &[]);
        wanted.push(text);
    }
    send("acme/reader", &wanted[0], &["--priority", "high"]);
    // Four messages that were refused: one was deleted, one has been given another chance, and two are dead letters.
    for number in 1..=4 {
        send("acme/other", &format!("refused {number}"), &[]);
    }
    ok(home, SHARDS, &["recv", "acme/other", "--count", "4", "--reject", "7", "--node", &address]);
    let listed = ok(home, SHARDS, &["dlq", "list", "acme/other", "--node", &address, "--json"]).json();
    let id = |index: usize| listed["letters"][index]["mailbox_sequence"].to_string();
    ok(home, SHARDS, &["dlq", "purge", "acme/other", &id(0), "--node", &address]);
    ok(home, SHARDS, &["dlq", "replay", "acme/other", &id(1), "--node", &address]);
    // A message of a session that was opened to a prekey, and waits.
    let to_prekey = "to a prekey";
    let urgent = ["--priority", "high", "--node", &address];
    ok(home, SHARDS, &[&["send", "acme/reader", "acme/other", to_prekey], &urgent[..]].concat());
    // A setting of a mailbox, and a message that expired, with its notice.
    ok(home, SHARDS, &["mailbox", "set", "acme/reader", "--messages", "5000"]);
    send("acme/other", "too late", &["--ttl", "1"]);
    let end = std::time::Instant::now() + Duration::from_secs(120);
    while !ok(home, SHARDS, &["wal", "dump", "--json"]).stdout.contains("\"kind\":\"notice\"") {
        assert!(std::time::Instant::now() < end, "the message expires");
    }
    // A channel with a subscriber that has read one message of three.
    ok(home, SHARDS, &["channel", "create", FEED, "--owner", "acme/sender", "--retention", "30d"]);
    ok(home, SHARDS, &["sub", "acme/other", FEED, "--wait", "100", "--node", &address]);
    let unread = ["second of the feed", "third of the feed"];
    for text in ["first of the feed"].iter().chain(&unread) {
        ok(home, SHARDS, &["pub", "acme/sender", FEED, text, "--node", &address]);
    }
    let read = ok(home, SHARDS, &["sub", "acme/other", FEED, "-n", "1", "--wait", "10000", "--node", &address]);
    assert!(read.stdout.contains("first of the feed"), "{}", read.stdout);
    // A file whose sender was killed when the mailbox had room for one of its two chunks, which its receiver has.
    // It comes with a token, which its key record is signed for.
    let token = ok(home, SHARDS, &["token", "create", "--organization", "acme", "--uses", "3", "--json"]).json();
    let token = token["token"].as_str().expect("a text");
    ok(home, SHARDS, &["agent", "create", "acme/filer", "--valid-days", "36500", "--token", token]);
    ok(home, SHARDS, &["mailbox", "set", "acme/filer", "--messages", "1"]);
    fs::write(home.join(FILE), [b'7'; FILE_BYTES]).expect("a file");
    let args = ["send", "acme/sender", "acme/filer", "--attach", FILE, "--node", &address];
    let mut sending = process::Process(command(home, SHARDS, &args).spawn().expect("it starts"));
    let uploads = home.join("agents/acme/sender.keys.uploads");
    let came_so_far = || {
        let journal = fs::read_dir(&uploads).ok().and_then(|mut files| files.next())?.ok()?.path();
        Some(fs::read_to_string(journal).ok()?.lines().count())
    };
    while came_so_far() != Some(2) {
        assert!(std::time::Instant::now() < end, "one chunk is durable");
        assert!(sending.0.try_wait().expect("a child").is_none(), "it waits for room");
        std::thread::yield_now();
    }
    sending.signal(rustix::process::Signal::KILL);
    sending.0.wait().expect("a child");
    ok(home, SHARDS, &["recv", "acme/filer", "--attachments", "inbox", "--wait", "1000", "--node", &address]);
    ok(home, SHARDS, &["mailbox", "set", "acme/filer", "--messages", "5000"]);
    // Attributes, and an agent that is revoked.
    ok(home, SHARDS, &["agent", "set", "acme/reader", "--type", "worker", "--role", "reader", "--capability", "read"]);
    ok(home, SHARDS, &["agent", "create", "acme/gone"]);
    ok(home, SHARDS, &["agent", "revoke", "acme/gone", "--since", "1h", "--reason", "for a fixture"]);
    let described: serde_json::Map<_, _> = ["acme/reader", "acme/gone"]
        .into_iter()
        .map(|agent| {
            let shown = ok(home, SHARDS, &["agent", "show", agent, "--json"]).json();
            let fields = AGENT_FIELDS.map(|field| (field.to_owned(), shown[field].clone()));
            (agent.to_owned(), serde_json::Value::Object(fields.into_iter().collect()))
        })
        .collect();
    ok(home, SHARDS, &["backup", "backup", "--with-secrets"]);
    node.stop();

    let data = fixture.join("data");
    fs::create_dir_all(&data).expect("a folder");
    for file in ["control.redb", "node.json", "node.crt", "node.key"] {
        fs::copy(home.join("backup").join(file), data.join(file)).expect("a copy");
    }
    fs::create_dir_all(fixture.join("agents/acme")).expect("a folder");
    for agent in ["sender", "reader", "other", "filer"] {
        let file = format!("agents/acme/{agent}.keys");
        fs::copy(home.join(&file), fixture.join(&file)).expect("a copy");
    }
    // What opens the messages of a session whose first one was read. Never the outgoing ones: no two may have the same.
    let sessions = "agents/acme/other.keys.sessions";
    fs::create_dir(fixture.join(sessions)).expect("a folder");
    for entry in fs::read_dir(home.join(sessions)).expect("the sessions of a reader") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        if ["incoming.redb", "incoming.redb.sha256", "prekeys"].iter().any(|wanted| name == *wanted) {
            fs::copy(path, fixture.join(sessions).join(name)).expect("a copy");
        }
    }
    assert!(fixture.join(sessions).join("prekeys").exists(), "whoever received has prekeys");
    // A publisher's sessions are over wherever else the file is found, so that no two go on under the same.
    let sessions = "agents/acme/sender.keys.sessions";
    fs::create_dir(fixture.join(sessions)).expect("a folder");
    for name in ["publishing.redb", "publishing.redb.sha256"] {
        fs::copy(home.join(sessions).join(name), fixture.join(sessions).join(name))
            .expect("whoever published has sessions");
    }
    copy(&uploads, &fixture.join("agents/acme/sender.keys.uploads"));
    copy(&home.join("inbox/.creto-parts"), &fixture.join(PARTS));
    // Its logs are written anew below: a start tells again what it takes for new.
    copy(&home.join("backup/audit"), &data.join("audit"));
    for shard in 0..SHARDS {
        let folder = format!("wal/shard-{shard:04}");
        rewrite_log(&home.join("backup").join(&folder), &data.join(&folder), u32::from(shard));
    }
    fs::write(fixture.join("creto.toml"), "[node]\nlisten = \"127.0.0.1:0\"\n").expect("a file");
    let write = |name: &str, value: &serde_json::Value| {
        fs::write(fixture.join(name), format!("{value:#}\n")).expect("a file");
    };
    write(
        MESSAGES_FILE,
        &serde_json::json!({ "acme/reader": wanted, "acme/other": [to_prekey, "refused 2"], "acme/sender": [] }),
    );
    write(AGENTS_FILE, &serde_json::Value::Object(described));
    write(LETTERS_FILE, &serde_json::json!({ "acme/other": ["refused 3", "refused 4"] }));
    write(NOTICES_FILE, &serde_json::json!({ "acme/sender": 1 }));
    write(MAILBOXES_FILE, &serde_json::json!({ "acme/reader": 5_000 }));
    write(FEED_FILE, &serde_json::json!({ "unread": unread }));
    write(CHANNELS_FILE, &serde_json::json!({ "subscribers": 4, "messages": 2, "missed": 1 }));
    write(FORMATS_FILE, &serde_json::json!(written()));
    let again = tempfile::tempdir().expect("a folder");
    copy(&fixture, again.path());
    ok(again.path(), SHARDS, &["backup", "--tar", BACKUP_FILE, "--with-secrets"]);
    fs::copy(again.path().join(BACKUP_FILE), fixture.join(BACKUP_FILE)).expect("a copy");
    println!("wrote {}", fixture.display());
}

/// The same records in small segments, with their digests, and with messages that never expire: a fixture is read years
/// after it was made.
fn rewrite_log(from: &Path, to: &Path, shard: u32) {
    fs::create_dir_all(to).expect("a folder");
    let folder = Folder::new(to);
    let mut records = Vec::new();
    recover(&mut FileSource::new(from), shard, |_, record| records.push(record)).expect("a backup");
    let config = WalConfig {
        segment_bytes: 32 << 10,
        frame_bytes_max: 16 << 10,
        wal_bytes_max: 4 << 20,
        ..WalConfig::default()
    };
    let recovered = recover(&mut FileSource::new(to), shard, |_, _| {}).expect("a new log");
    // It tells a frame from an imitation in a hostile envelope; here nobody is hostile.
    let mut wal = Wal::open(config, recovered, 0x6372_6574_6f00 + u64::from(shard), WRITTEN_MS);
    folder.settle(&mut wal, WRITTEN_MS);
    if shard == 0 {
        let last = records.iter().flat_map(sequences_of).max().unwrap_or(0);
        records.extend(records_of_a_channel(last + 1));
    }
    for mut record in records {
        match &mut record {
            Record::Start(_) => continue,
            // A chunk of the file, which its receiver has taken: it would need large segments.
            Record::BatchPart(part) if part.messages.iter().any(|message| message.envelope.len() > 16 << 10) => {
                continue;
            }
            Record::BatchPart(part) | Record::Moved(part) | Record::Notice(part) => {
                let is_of_a_mailbox = |message: &&mut PartMessage| !message.flags.contains(MessageFlags::PUBLISHED);
                part.messages.iter_mut().filter(is_of_a_mailbox).for_each(|message| message.expiry_ms = 0)
            }
            _ => {}
        }
        wal.append(record).expect("there is room");
        folder.settle(&mut wal, WRITTEN_MS);
    }
    wal.confirm();
    folder.settle(&mut wal, WRITTEN_MS);
    let report = verify(&mut FileSource::new(to), shard).expect("it was just written");
    assert!(report.problems.is_empty());
    let end = report.end.expect("a log that has begun");
    let last = OpenOptions::new().write(true).open(to.join(segment_file_name(end.segment))).expect("the last segment");
    last.set_len(end.offset).expect("shorter always fits");
    for unused in report.leftovers {
        fs::remove_file(to.join(segment_file_name(unused))).expect("a file that was prepared");
    }
}

fn sequences_of(record: &Record) -> Vec<u64> {
    match record {
        Record::BatchPart(part) | Record::Moved(part) | Record::Notice(part) => {
            part.messages.iter().map(|message| message.sequence).collect()
        }
        Record::Dedup(dedup) => vec![dedup.next_sequence],
        _ => Vec::new(),
    }
}

/// Every record that a channel leads to: four messages, of which one expired and one left early; a subscriber, a group of three,
/// of which one was carried over, and somebody who unsubscribed.
fn records_of_a_channel(first: u64) -> Vec<Record> {
    let message = |number: u64| PartMessage {
        mailbox: CHANNEL,
        sender: SenderId([0xc1; 16]),
        message_id: MessageId((u128::from(WRITTEN_MS) << 80 | u128::from(number)).to_be_bytes()),
        sequence: first + number,
        expiry_ms: LATE_MS,
        leaf_index: 0,
        priority: Priority::Normal,
        flags: MessageFlags::PUBLISHED.with(MessageFlags::KEPT_FOR_RETENTION),
        salt: [1; 16],
        path: Default::default(),
        envelope: vec![7; 100].into(),
    };
    let part = BatchPart { batch_header: b"of a fixture".to_vec().into(), messages: (0..4).map(message).collect() };
    let moved = BatchPart { messages: vec![message(3)], ..part.clone() };
    let (own, of_group) = (first + 10, first + 11);
    let (group, members) = (GroupId([0xd0; 16]), [0xd2, 0xd3, 0xd4].map(|id| SubscriberId([id; 16])));
    let subscribe = |subscriber, group, number, begins_after| {
        Record::Subscribe(Subscribe { channel: CHANNEL, subscriber, group, number, begins_after })
    };
    let settle = |cause, number| Record::Settle(Settle { mailbox: CHANNEL, cause, sequences: vec![first + number] });
    let of = |done: Vec<u64>| Progress { cursor: first, missed: 1, skipped: 1, done };
    let entry = |number, progress| CursorsEntry { number, progress };
    vec![
        subscribe(SUBSCRIBER, GroupId::NONE, own, Some(first - 1)),
        subscribe(members[0], group, of_group, Some(first - 1)),
        subscribe(members[1], group, of_group, None),
        Record::BatchPart(part),
        settle(SettleCause::Expired, 1),
        Record::Cursors(Cursors {
            entries: vec![entry(own, Progress { skipped: 0, ..of(Vec::new()) }), entry(of_group, of(vec![first + 3]))],
        }),
        settle(SettleCause::Consumed, 0),
        Record::Moved(moved),
        Record::Subscriptions(Subscriptions {
            entries: vec![SubscriptionsEntry {
                channel: CHANNEL,
                group,
                subscriber: SubscriberId::NONE,
                number: of_group,
                progress: of(vec![first + 3]),
                part: 0,
                members: members.to_vec(),
            }],
        }),
        subscribe(members[2], GroupId::NONE, first + 12, Some(first + 3)),
        Record::Unsubscribe(Unsubscribe { channel: CHANNEL, subscriber: members[2], group: GroupId::NONE }),
    ]
}
