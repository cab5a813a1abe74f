//! What a directory of a million agents costs: memory, a start, a lookup, a change until the shards could have it.
//!
//! `cargo bench -p creto-benches --bench directory [-- --agents 1000000] [--keep FOLDER]`. An agent takes eleven kilobytes of disk: a
//! million are 11 GB, which are written below the target folder and removed at the end. `--keep FOLDER` leaves them there, and with what
//! an earlier run left there only measures.
//!
//! Every agent has one version of its key record, which is what its figures hold for; what a further one takes is a figure of its own.
//!
//! The file is written by the service's own code, without registering: so many signatures would take an hour. Everything else is real:
//! the file, the service on its thread, the API over its socket, durable commits. Memory is that of a process that does nothing else.
#![allow(clippy::unwrap_used, reason = "a bench stops where it is wrong")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, AgentName, AgentState, KeyRecord, SignedKeyRecord, TrustDomain};
use creto_policy::{KeyVersion, Replacement, Snapshot};
use creto_service::client::Client;
use creto_service::fill::fill;
use creto_service::key_records::{KeyRecordDoor, Reply, key_record_questions};
use creto_service::states::{StateChange, StateWord};
use creto_service::{Service, ServiceHandle, ServiceOptions};

/// How this bench is told to do one part of its work, in a process of its own.
const FILL: &str = "--fill";
const MEASURE: &str = "--measure";
const SNAPSHOT: &str = "--snapshot";
const DIE: &str = "--die";
const START: &str = "--start";
const USAGE: &str = "cargo bench -p creto-benches --bench directory [-- --agents N] [--keep FOLDER]";

const AGENTS_DEFAULT: u32 = 1_000_000;
const ORGANIZATIONS: u32 = 1_000;
const LOOKUPS: usize = 20_000;
const RECORDS: usize = 20_000;
const CHANGES: usize = 400;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [FILL, folder, agents] => write(Path::new(folder), agents.parse().unwrap()),
        [MEASURE, folder, agents] => measure(Path::new(folder), agents.parse().unwrap()),
        [SNAPSHOT, _, agents] => memory_of_snapshot(agents.parse().unwrap()),
        [DIE, folder, _] => die(Path::new(folder)),
        [START, folder, agents] => drop(start(Path::new(folder), agents.parse().unwrap(), "start after a kill")),
        // Among all benches, as a test runner starts them: that it works is shown with few.
        ["--test"] => parts(1_000, None),
        _ => match parse(&words) {
            Some((agents, keep)) => parts(agents, keep),
            None => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        },
    }
    ExitCode::SUCCESS
}

fn parse(words: &[&str]) -> Option<(u32, Option<PathBuf>)> {
    let (mut agents, mut keep) = (AGENTS_DEFAULT, None);
    for pair in words.chunks(2) {
        match *pair {
            ["--agents", count] => agents = count.parse().ok().filter(|count| *count > 0)?,
            ["--keep", folder] => keep = Some(PathBuf::from(folder)),
            _ => return None,
        }
    }
    Some((agents, keep))
}

fn parts(agents: u32, keep: Option<PathBuf>) {
    let own = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = keep.unwrap_or_else(|| own.path().to_owned());
    fs::create_dir_all(&folder).unwrap();
    let run = |part| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let status = child.arg(part).arg(&folder).arg(agents.to_string()).status().unwrap();
        assert!(status.success(), "{part}: {status}");
    };
    if !file_in(&folder).exists() {
        run(FILL);
    }
    [SNAPSHOT, MEASURE, DIE, START].into_iter().for_each(run);
}

fn file_in(folder: &Path) -> PathBuf {
    folder.join("control.redb")
}

fn name(number: u32) -> AgentName {
    AgentName::parse(&format!("org-{}/agent-{number}", number % ORGANIZATIONS)).unwrap()
}

/// The keys are patterns, each agent's its own.
fn record(number: u32) -> SignedKeyRecord {
    let mut key = [1; 32];
    key[..4].copy_from_slice(&number.to_le_bytes());
    SignedKeyRecord {
        record: KeyRecord {
            version: 1,
            state: AgentState::Active,
            valid_from_ms: 0,
            valid_until_ms: u64::MAX,
            ed25519: key,
            x25519: key,
            ml_dsa_65: Box::new([3; 1952]),
            ml_kem_768: Box::new([4; 1184]),
            name: name(number),
            trust_domain: TrustDomain::default(),
            fn_dsa_512: None,
            purpose: None,
        },
        ed25519: [5; 64],
        ml_dsa_65: Box::new([6; 3309]),
    }
}

fn id(number: u32) -> AgentId {
    AgentId::derive(&TrustDomain::default(), &name(number))
}

fn write(folder: &Path, agents: u32) {
    let begun = Instant::now();
    let mut numbers: Vec<u32> = (0..agents).collect();
    numbers.sort_by_cached_key(|number| id(*number));
    let path = file_in(folder);
    let written = fill(&path, &TrustDomain::default(), numbers.into_iter().map(record)).unwrap();
    let bytes = fs::metadata(&path).unwrap().len();
    println!(
        "written: {written} agents, {:.1} GB, {} B each, in {:.0?}",
        bytes as f64 / 1e9,
        bytes / written,
        begun.elapsed()
    );
}

/// What a snapshot takes by itself, what further versions of keys take, and a change of very many agents at once.
fn memory_of_snapshot(agents: u32) {
    let before = resident_bytes();
    let (mut builder, ids) = creto_benches::control::decisions::agents(agents as usize);
    let bytes = resident_bytes() - before - u64::from(agents) * size_of::<AgentId>() as u64;
    println!("a snapshot of {agents} agents of one version: {} MiB, {} B each", bytes >> 20, bytes / u64::from(agents));

    let some = &ids[..ids.len().min(10_000)];
    // First, while no memory has been given back that they could take.
    let before = resident_bytes();
    let replacement = Replacement { at_ms: 5, mode: RotationMode::Planned };
    for version in 2..=11 {
        for agent in some {
            let next = KeyVersion { version, ..builder.principal(agent).unwrap().current() };
            builder.replace_key(agent, next, replacement, 1_024).unwrap();
        }
    }
    let versions = 10 * some.len() as u64;
    let more = resident_bytes().saturating_sub(before);
    println!("{versions} further versions: {} B each", more / versions);

    let published = builder.build(1);
    let (begun, before) = (Instant::now(), resident_bytes());
    some.iter().for_each(|agent| assert!(builder.revoke(agent, 7)));
    let changed = builder.build(2);
    let (took, more) = (begun.elapsed(), resident_bytes().saturating_sub(before));
    println!("{} agents revoked at once: {took:.1?}, {} MiB until the one before is dropped", some.len(), more >> 20);
    let begun = Instant::now();
    drop(published);
    println!("the one before dropped: {:.1?}", begun.elapsed());
    drop(changed);
}

/// A service that runs, when it published which snapshot, and its door.
struct Running {
    service: ServiceHandle,
    door: KeyRecordDoor,
    snapshot: Arc<Snapshot>,
    published: Receiver<Instant>,
}

fn start(folder: &Path, agents: u32, what: &str) -> Running {
    let before = resident_bytes();
    let (begun, domain) = (Instant::now(), TrustDomain::default());
    let (door, questions) = key_record_questions();
    let service = Service::open(ServiceOptions::new(file_in(folder), folder.join("control.sock"), domain)).unwrap();
    let opened = begun.elapsed();
    let first: Arc<Mutex<Option<Arc<Snapshot>>>> = Arc::default();
    let (tell, published) = channel();
    let sink = Arc::clone(&first);
    let publish = move |snapshot: Arc<Snapshot>| {
        sink.lock().unwrap().get_or_insert(snapshot);
        // Whoever measures something else does not listen.
        let _ = tell.send(Instant::now());
    };
    let service = service.with_key_records(questions).spawn(publish).unwrap();
    let started = begun.elapsed();
    let snapshot = first.lock().unwrap().clone().unwrap();
    assert_eq!(snapshot.agent_count(), agents as usize);
    let resident = resident_bytes() - before;
    println!("{what}: {started:.2?}, of which to open and load {opened:.2?}");
    println!("memory after it: {} MiB, {} B an agent", resident >> 20, resident / u64::from(agents));
    published.recv().unwrap();
    Running { service, door, snapshot, published }
}

/// Ends in the middle of its work, as after SIGKILL.
fn die(folder: &Path) {
    let options = ServiceOptions::new(file_in(folder), folder.join("control.sock"), TrustDomain::default());
    let service = Service::open(options).unwrap().spawn(|_: Arc<Snapshot>| {}).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let change = StateChange { state: StateWord::Suspended, reason: None, since_ms: None };
    runtime.block_on(Client::new(service.socket_path()).set_state(&name(0), &change)).unwrap();
    // Nothing is closed, nor said goodbye to.
    std::process::exit(0);
}

fn measure(folder: &Path, agents: u32) {
    let Running { service, door, snapshot, published } = start(folder, agents, "start");
    let mut random = Random(7);
    let mut pick = || u32::try_from(random.next() % u64::from(agents)).unwrap();
    let numbers: Vec<u32> = (0..LOOKUPS.max(RECORDS)).map(|_| pick()).collect();
    of_snapshot(&snapshot, &numbers);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = Client::new(service.socket_path());
    runtime.block_on(of_api(&client, &numbers[..LOOKUPS]));
    of_records(&door, &numbers[..RECORDS]);
    drop(snapshot);
    runtime.block_on(changes(&client, &numbers[..CHANGES], &published));
    println!("memory at the end: {} MiB, at most {} MiB", resident_bytes() >> 20, memory_bytes("VmHWM:") >> 20);
    service.shutdown().unwrap();
}

/// As a shard looks an agent up, in an order that the processor cannot guess.
fn of_snapshot(snapshot: &Snapshot, numbers: &[u32]) {
    let ids: Vec<AgentId> = numbers.iter().map(|number| id(*number)).collect();
    let times = ids.iter().map(|agent| {
        let begun = Instant::now();
        let version = snapshot.principal(agent).map(creto_policy::Principal::current_version);
        let took = begun.elapsed();
        assert_eq!(version, Some(1));
        took
    });
    print("lookup in the snapshot, clock included", times.collect());
}

async fn of_api(client: &Client, numbers: &[u32]) {
    let mut times = Vec::with_capacity(numbers.len());
    for number in numbers {
        let name = name(*number);
        let begun = Instant::now();
        let agent = client.agent(&name).await.unwrap();
        times.push(begun.elapsed());
        assert_eq!(agent.name, name.as_str());
    }
    print("lookup over the API, a connection each", times);
    let begun = Instant::now();
    let page = client.agents_page(None, Some("org-5"), Some(1_000)).await.unwrap();
    println!("a page of {} agents: {:.2?}", page.agents.len(), begun.elapsed());
    let begun = Instant::now();
    let status = client.status().await.unwrap();
    println!("status, which counts {} agents: {:.2?}", status.agents, begun.elapsed());
}

/// As a shard asks for the record of somebody who logs in, one after the other.
fn of_records(door: &KeyRecordDoor, numbers: &[u32]) {
    let times = numbers.iter().map(|number| {
        let (tell, told) = channel();
        let agent = id(*number);
        let begun = Instant::now();
        door.ask(agent, 1, Reply::new(move |answer| tell.send(answer).unwrap())).unwrap();
        let signed = told.recv().unwrap().unwrap();
        let took = begun.elapsed();
        assert_eq!(signed.record.agent_id(), agent);
        took
    });
    print("a key record for a shard", times.collect());
}

/// From the request on its way to the snapshot that has it: durable in between.
async fn changes(client: &Client, numbers: &[u32], published: &Receiver<Instant>) {
    let mut times = Vec::with_capacity(numbers.len());
    for (round, number) in numbers.iter().enumerate() {
        let name = name(*number);
        let info = client.agent(&name).await.unwrap();
        let state = if info.state == "active" { StateWord::Suspended } else { StateWord::Active };
        let begun = Instant::now();
        let change = StateChange { state, reason: None, since_ms: None };
        client.set_state(&name, &change).await.unwrap();
        times.push(published.recv().unwrap() - begun);
        assert!(published.try_recv().is_err(), "one snapshot for change {round}");
    }
    print("a change until its snapshot is published", times);
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: p50 {:.1?}, p99 {:.1?}, slowest {:.1?} of {}", at(50), at(99), at(100), times.len());
}

fn resident_bytes() -> u64 {
    memory_bytes("VmRSS:")
}

/// A line of `/proc/self/status`, which counts in kB.
fn memory_bytes(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// SplitMix64: every run looks up the same agents.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
