//! Claims of several askers, of a process that is killed over and over: no prekey is handed out twice.
#![allow(clippy::unwrap_used, reason = "this file is all tests, also the functions that tests share")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use creto_envelope::prekeys::{PrekeyKind, PrekeyStock, SignedPrekey};
use creto_envelope::{AgentId, RejectCode, SignedKeyRecord, TrustDomain};
use creto_service::client::Client;
use creto_service::prekeys::{Claim, PrekeyAllowance, PrekeyDoor, Reply, Upload, prekey_requests};
use creto_service::rotation::{Refused, publications};
use creto_service::{Service, ServiceHandle, ServiceOptions};

#[path = "../src/fixture.rs"]
#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;
#[path = "../../storage/tests/server/mod.rs"]
#[allow(dead_code, reason = "each test file takes what it needs")]
mod server;
use fixture::{prekeys, signed};

const WITHIN: Duration = Duration::from_secs(60);
const EVERYTHING: PrekeyAllowance =
    PrekeyAllowance { claims_per_pair: u32::MAX, claims_per_asker: u32::MAX, uploads: u32::MAX };

/// A file with the URL of the database that has the directory.
const DATABASE: &str = "database";

type Low = Arc<Mutex<Vec<(AgentId, PrekeyStock)>>>;

fn start(folder: &Path, allowance: PrekeyAllowance) -> (ServiceHandle, PrekeyDoor, Low) {
    let mut options =
        ServiceOptions::new(folder.join("control.redb"), folder.join("control.sock"), TrustDomain::default());
    // The process that is killed finds it there, too.
    options.database = std::fs::read_to_string(folder.join(DATABASE)).ok().map(|url| url.parse().unwrap());
    let (door, requests) = prekey_requests();
    let low = Low::default();
    let told = Arc::clone(&low);
    let service = Service::open(options).unwrap();
    let service =
        service.with_prekeys(requests, allowance, move |agent, stock| told.lock().unwrap().push((agent, stock)));
    let (_, publications) = publications();
    (service.spawn_with(|_| {}, publications).unwrap(), door, low)
}

fn register(service: &ServiceHandle, record: &SignedKeyRecord) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Client::new(service.socket_path()).register(record)).unwrap();
}

fn upload(
    door: &PrekeyDoor,
    record: &SignedKeyRecord,
    at_ms: u64,
    numbers: std::ops::Range<u64>,
) -> Result<PrekeyStock, Refused> {
    let (answer, answered) = mpsc::channel();
    let batch = Box::new(prekeys(&record.record, 1, at_ms, numbers));
    let agent = record.record.agent_id();
    door.upload(Upload { agent, batch, reply: Reply::new(move |said| answer.send(said).unwrap()) })?;
    answered.recv_timeout(WITHIN).unwrap()
}

fn claim(door: &PrekeyDoor, asker: AgentId, agent: AgentId) -> Result<SignedPrekey, Refused> {
    let (answer, answered) = mpsc::channel();
    door.claim(Claim { asker, agent, reply: Reply::new(move |said| answer.send(said).unwrap()) })?;
    answered.recv_timeout(WITHIN).unwrap()
}

fn stock(door: &PrekeyDoor, agent: AgentId) -> PrekeyStock {
    let (answer, answered) = mpsc::channel();
    door.stock(agent, Reply::new(move |said| answer.send(said).unwrap())).unwrap();
    answered.recv_timeout(WITHIN).unwrap().unwrap()
}

#[test]
fn whoever_asks_more_than_their_share_is_given_the_last_resort_and_the_owner_is_told_when_few_are_left() {
    let folder = tempfile::tempdir().unwrap();
    let allowance = PrekeyAllowance { claims_per_pair: 20, ..PrekeyAllowance::default() };
    let (service, door, low) = start(folder.path(), allowance);
    let owner = signed("acme/owner", 1);
    let id = owner.record.agent_id();
    register(&service, &owner);
    assert_eq!(claim(&door, AgentId([1; 16]), id).unwrap_err().code, RejectCode::NoPrekey);
    assert_eq!(upload(&door, &owner, 1, 0..40).unwrap().one_time, 40);

    let kinds = |asker: u8, count: usize| -> Vec<PrekeyKind> {
        (0..count).map(|_| claim(&door, AgentId([asker; 16]), id).unwrap().prekey.kind).collect()
    };
    assert_eq!(kinds(1, 20), [PrekeyKind::OneTime; 20]);
    assert_eq!(kinds(1, 3), [PrekeyKind::LastResort; 3], "the share of this asker is used up");
    assert_eq!(stock(&door, id).one_time, 20);
    assert_eq!(kinds(2, 20), [PrekeyKind::OneTime; 20], "that of another is not");
    assert_eq!(kinds(3, 1), [PrekeyKind::LastResort]);
    let notice = |one_time| PrekeyStock { key_record_version: 1, one_time, last_resort: true, is_notice: true };
    assert_eq!(*low.lock().unwrap(), [(id, notice(31)), (id, notice(0))]);
    service.shutdown().unwrap();
    assert_eq!(claim(&door, AgentId([1; 16]), id).unwrap_err().code, RejectCode::ShuttingDown);
}

#[test]
fn an_asker_that_takes_all_it_may_leaves_some_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let (service, door, _) = start(folder.path(), PrekeyAllowance::default());
    let owner = signed("acme/owner", 1);
    let id = owner.record.agent_id();
    register(&service, &owner);
    // Not one more than what an agent may have before it is told that it has few.
    let few = u32::try_from(creto_service::limits::PREKEYS_LOW).unwrap();
    assert_eq!(upload(&door, &owner, 1, 0..few.into()).unwrap().one_time, few);
    let greedy: Vec<PrekeyKind> =
        (0..2 * few).map(|_| claim(&door, AgentId([1; 16]), id).unwrap().prekey.kind).collect();
    let share = creto_service::limits::PREKEY_CLAIMS_PER_PAIR_MAX as usize;
    assert_eq!(greedy.iter().filter(|kind| **kind == PrekeyKind::OneTime).count(), share);
    assert_eq!(claim(&door, AgentId([2; 16]), id).unwrap().prekey.kind, PrekeyKind::OneTime);
    service.shutdown().unwrap();
}

#[tokio::test]
async fn the_operator_sees_how_many_prekeys_of_an_agent_are_left() {
    let folder = tempfile::tempdir().unwrap();
    let (service, door, _) = start(folder.path(), PrekeyAllowance::default());
    let owner = signed("acme/owner", 1);
    let client = Client::new(service.socket_path());
    assert!(client.prekeys(&owner.record.name).await.is_err(), "nobody of that name");
    client.register(&owner).await.unwrap();
    let none = client.prekeys(&owner.record.name).await.unwrap();
    assert_eq!((none.version, none.one_time, none.last_resort, none.uploaded_at_ms), (1, 0, false, None));
    upload(&door, &owner, 7, 0..40).unwrap();
    claim(&door, AgentId([1; 16]), owner.record.agent_id()).unwrap();
    let some = client.prekeys(&owner.record.name).await.unwrap();
    assert_eq!((some.one_time, some.last_resort, some.low, some.uploaded_at_ms), (39, true, 32, Some(7)));
    service.shutdown().unwrap();
}

#[test]
fn what_does_not_hold_or_comes_too_often_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (service, door, _) = start(folder.path(), PrekeyAllowance { uploads: 2, ..PrekeyAllowance::default() });
    let (owner, other) = (signed("acme/owner", 1), signed("acme/other", 2));
    register(&service, &owner);
    // Not registered; registered, and signed by the keys of another.
    assert_eq!(upload(&door, &other, 1, 0..1).unwrap_err().code, RejectCode::UnknownSender);
    register(&service, &other);
    assert_eq!(upload(&door, &other, 1, 0..1).unwrap_err().code, RejectCode::BadSignature);
    let refused = upload(&door, &other, 1, 0..1).unwrap_err();
    assert_eq!(refused.code, RejectCode::RateLimited);
    assert!(refused.retry_after_ms > 3_000_000, "an hour, less what has passed");
    assert!(upload(&door, &owner, 1, 0..1).is_ok());
    service.shutdown().unwrap();
}

const OWNERS: u8 = 4;
const ASKERS: u8 = 8;
/// Claims of one asker that wait for their answer.
const IN_FLIGHT: usize = 128;
/// After so many of its answers an asker says so.
const SAID_EVERY: u64 = 100;

/// Where the process that is killed finds its folder, and from which number its prekeys count.
const CHILD: &str = "CRETO_PREKEYS_CHILD";

fn owners() -> Vec<SignedKeyRecord> {
    (0..OWNERS).map(|owner| signed(&format!("acme/owner-{owner}"), 1)).collect()
}

/// Uploads for one owner whenever few are left, and never stops.
fn keep_uploading(door: &PrekeyDoor, owner: &SignedKeyRecord, mut next: u64) {
    let id = owner.record.agent_id();
    loop {
        match stock(door, id).one_time {
            0..384 => {
                // Even, so that there is none of last resort.
                upload(door, owner, 2 * next, next..next + 128).unwrap();
                next += 128;
            }
            _ => std::thread::yield_now(),
        }
    }
}

/// Claims and writes down what it is given, the moment that it is answered.
fn keep_claiming(door: &PrekeyDoor, asker: u8, ledger: &Mutex<File>, answers: &AtomicU64) {
    let owners: Vec<_> = owners().iter().map(|owner| owner.record.agent_id()).collect();
    let (answer, answered) = mpsc::channel();
    let ask = |number: usize| {
        let answer = answer.clone();
        let reply = Reply::new(move |said| answer.send(said).unwrap());
        door.claim(Claim { asker: AgentId([asker; 16]), agent: owners[number % owners.len()], reply }).unwrap();
    };
    (0..IN_FLIGHT).for_each(ask);
    let mut number = IN_FLIGHT + usize::from(asker);
    for said in &answered {
        match said {
            Ok(prekey) => {
                assert_eq!(prekey.prekey.kind, PrekeyKind::OneTime);
                ledger.lock().unwrap().write_all(&prekey.id().0).unwrap();
                let count = answers.fetch_add(1, Ordering::Relaxed) + 1;
                if count.is_multiple_of(SAID_EVERY) {
                    println!("{count}");
                }
            }
            Err(refused) => assert_eq!(refused.code, RejectCode::NoPrekey),
        }
        number += 1;
        ask(number);
    }
}

#[test]
#[ignore = "the process that the test below starts and kills"]
fn a_service_that_is_asked_until_it_is_killed() {
    let child = std::env::var(CHILD).expect("started by no_prekey_is_handed_out_twice_by_a_process_that_is_killed");
    let (folder, first) = child.rsplit_once(':').unwrap();
    let first: u64 = first.parse().unwrap();
    let (service, door, _) = start(Path::new(folder), EVERYTHING);
    let owners = owners();
    owners.iter().for_each(|owner| register(&service, owner));
    let ledger = Mutex::new(File::create_new(Path::new(folder).join(format!("ledger-{first}"))).unwrap());
    let answers = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // Numbers of their own: the id of a prekey does not say whose it is.
        for (owner, first) in owners.iter().zip((first..).step_by(1 << 28)) {
            let door = &door;
            scope.spawn(move || keep_uploading(door, owner, first));
        }
        for asker in 0..ASKERS {
            let (door, ledger, answers) = (&door, &ledger, &answers);
            scope.spawn(move || keep_claiming(door, asker, ledger, answers));
        }
    });
}

/// Runs a process on `folder` until it has said that it answered `quota` claims, then kills it.
fn run_and_kill(folder: &Path, first: u64, quota: u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_service_that_is_asked_until_it_is_killed", "--ignored", "--nocapture"])
        .env(CHILD, format!("{}:{first}", folder.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reached = lines.map_while(Result::ok).any(|line| line.parse().is_ok_and(|count: u64| count >= quota));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert!(reached && status.signal() == Some(9), "the process ended by itself: {status}");
}

fn ledgers(folder: &Path) -> Vec<[u8; 16]> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let ledgers = paths.filter(|path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("ledger-"));
    let mut ids = Vec::new();
    for path in ledgers {
        // A record is written at once, so only the last one can be cut.
        ids.extend_from_slice(std::fs::read(path).unwrap().as_chunks::<16>().0);
    }
    ids
}

/// As many claims as `CRETO_PREKEY_CLAIMS` says: `scripts/prekeys.sh` asks for ten million.
#[test]
fn no_prekey_is_handed_out_twice_by_a_process_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    hand_out_and_kill(folder.path(), number("CRETO_PREKEY_CLAIMS", 100_000));
}

#[test]
fn no_prekey_is_handed_out_twice_by_a_process_that_is_killed_on_postgresql() {
    let Some(server) = server::Server::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(DATABASE), server.database()).unwrap();
    hand_out_and_kill(folder.path(), 10_000);
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn hand_out_and_kill(folder: &Path, claims: u64) {
    let mut seed = number("CRETO_SEED", std::process::id().into());
    println!("CRETO_SEED={seed}, {claims} claims");
    let begun = std::time::Instant::now();
    let (mut first, mut kills, mut answered) = (1 << 32, 0, 0);
    while answered < claims {
        // SplitMix64.
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let quota = 1 + (mixed ^ (mixed >> 27)) % (claims / 8).max(1);
        run_and_kill(folder, first, quota);
        kills += 1;
        // No number comes twice, however many the one before had uploaded.
        first += 1 << 32;
        answered = ledgers(folder).len() as u64;
    }

    let mut ids = ledgers(folder);
    let took = begun.elapsed();
    // And what is left is none of them.
    let (service, door, _) = start(folder, EVERYTHING);
    let mut left = 0;
    for owner in owners() {
        while let Ok(prekey) = claim(&door, AgentId([1; 16]), owner.record.agent_id()) {
            ids.push(prekey.id().0);
            left += 1;
        }
    }
    service.shutdown().unwrap();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    println!(
        "{answered} claims in {took:?}, {kills} kills, {left} prekeys left, {} handed out twice",
        count - ids.len()
    );
    assert_eq!(ids.len(), count, "a prekey was handed out twice");
    let versions: BTreeSet<_> = ids.iter().map(|id| id[..4].to_vec()).collect();
    assert_eq!(versions.len(), 1);
}
