//! A node whose disk fails, or fills up. Both need a file system of their own on a loop device, and so root: without it
//! these tests say that they were skipped.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use creto_agent::{AgentName, ConnectOptions, SendError, TrustDomain};
use creto_envelope::AgentId;
use creto_service::client::Client;
use creto_service::health::ShardState;
use creto_shard::{Placement, ShardIndex};
use home::Home;

/// An ext4 file system in a file, mounted somewhere.
struct SmallDisk {
    image: PathBuf,
    device: String,
    folder: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl SmallDisk {
    /// `None`, and a line that says so, where nobody may mount.
    fn mount(image: &Path, folder: &Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::File::create(image).unwrap().set_len(bytes).unwrap();
        let path = image.to_str().unwrap();
        // No space kept for root, and a small journal: what is measured is what the log can have.
        let made = run("mkfs.ext4", &["-q", "-F", "-m", "0", "-J", "size=4", path]);
        let device = made.and_then(|_| run("losetup", &["--find", "--show", path]));
        let mounted = device.filter(|device| {
            let is_mounted = run("mount", &[device, folder.to_str().unwrap()]).is_some();
            if !is_mounted {
                run("losetup", &["--detach", device]);
            }
            is_mounted
        });
        if mounted.is_none() {
            println!(
                "skipped: a loop device cannot be mounted here; run this as root, with mkfs.ext4, losetup and mount"
            );
        }
        Some(Self { image: image.to_owned(), device: mounted?, folder: folder.to_owned() })
    }

    /// From now on every write to the device fails.
    fn fail(&self) {
        std::fs::OpenOptions::new().write(true).open(&self.image).unwrap().set_len(1 << 20).unwrap();
        run("losetup", &["--set-capacity", &self.device]).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["--lazy", self.folder.to_str().unwrap()]);
        run("losetup", &["--detach", &self.device]);
    }
}

/// A name whose mailbox belongs to this shard of two.
fn name_on(shard: u16) -> AgentName {
    let owner = |name: &AgentName| Placement::new(2).owner(&AgentId::derive(&TrustDomain::default(), name));
    (0..)
        .map(|n| AgentName::parse(&format!("acme/reader-{n}")).unwrap())
        .find(|n| owner(n) == ShardIndex(shard))
        .unwrap()
}

fn in_time<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(240), test).await.expect("in four minutes") });
}

#[test]
fn a_disk_that_fails_stops_its_shard_within_100_ms_and_no_other() {
    let home = Home::new();
    let folder = home.path().join("data/wal/shard-0001");
    let Some(disk) = SmallDisk::mount(&home.path().join("image"), &folder, 256 << 20) else { return };
    in_time(async {
        let node = home.start();
        let control = Client::new(node.control_socket());
        assert!(control.readiness().await.unwrap().ready);
        let times = [0, 1].map(|_| Arc::new(Mutex::new(Vec::new())));
        let mut tasks = Vec::new();
        for (shard, acknowledged) in (0..).zip(&times) {
            let to = name_on(shard);
            home.register(&node, to.as_str()).await;
            let keys = home.register(&node, &format!("acme/sender-{shard}")).await;
            let agent = home.connect(&node, keys).await;
            let acknowledged: Arc<Mutex<Vec<Instant>>> = Arc::clone(acknowledged);
            tasks.push(tokio::spawn(async move {
                while agent.send(&to, vec![1; 512]).await.is_ok() {
                    acknowledged.lock().unwrap().push(Instant::now());
                }
            }));
        }
        let count = |shard: usize| times[shard].lock().unwrap().len();
        while count(0) < 100 || count(1) < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        disk.fail();
        let failed_at = Instant::now();
        let readiness = loop {
            let readiness = control.readiness().await.unwrap();
            if !readiness.ready {
                break readiness;
            }
            assert!(failed_at.elapsed() < Duration::from_secs(5), "the node still says that it is ready");
        };
        let told_in = failed_at.elapsed();
        let other_before = count(0);
        while count(0) < other_before + 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let last = times[1].lock().unwrap().last().unwrap().saturating_duration_since(failed_at);
        println!(
            "the last acknowledgement came {last:?} after the disk failed, readiness turned false after {told_in:?}"
        );
        assert!(last < Duration::from_millis(100), "{last:?}");
        assert_eq!(
            readiness.shards.iter().map(|shard| shard.state).collect::<Vec<_>>(),
            [ShardState::Serving, ShardState::Fenced]
        );
        let cause = &readiness.shards[1].cause;
        assert!(cause.ends_with("check the disk, then start the node again"), "{cause}");
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        tokio::task::spawn_blocking(move || node.stop()).await.unwrap().unwrap();
    });
    drop(disk);
}

#[test]
fn a_full_disk_refuses_messages_hands_out_what_it_has_and_takes_messages_again() {
    let home = Home::new();
    let folder = home.path().join("data/wal");
    let Some(disk) = SmallDisk::mount(&home.path().join("image"), &folder, 320 << 20) else { return };
    in_time(async {
        // The log may grow to far more than the disk has: it is the disk that ends.
        let node = home.start_with(
            "topology.shards = 1\nmailbox.bytes_max = \"1 TiB\"\nmailbox.shard_bytes_max = \"2 TiB\"\n\
             wal.wal_bytes_max = \"16 GiB\"\n",
        );
        let control = Client::new(node.control_socket());
        let state = async || control.readiness().await.unwrap().shards[0].state;
        let reader = home.register(&node, "acme/reader").await;
        let to = reader.name().clone();
        let keys = home.register(&node, "acme/sender").await;
        let mut options = ConnectOptions::new(node.address(), home.certificate.clone(), keys);
        // What is refused now is to be seen as such.
        options.retry_for = Duration::from_millis(1_500);
        let sender = creto_agent::Agent::connect(options).await.unwrap();

        let (mut acknowledged, mut number) = (Vec::new(), 0_u64);
        let mut states = Vec::new();
        let mut send = async |count: u64| -> u64 {
            let payload = |number: u64| [&number.to_le_bytes()[..], &[7; 60 << 10]].concat();
            let batch: Vec<_> = (number..number + count).map(|number| (&to, payload(number))).collect();
            let mut refused = 0;
            for answer in sender.send_many(batch).await {
                match answer {
                    Ok(_) => acknowledged.push(number),
                    Err(SendError::Refused { code, .. }) => {
                        assert_eq!(code, creto_agent::RejectCode::StorageFull);
                        refused += 1;
                    }
                    Err(other) => panic!("{other}"),
                }
                number += 1;
            }
            refused
        };
        let begun = Instant::now();
        let refused = loop {
            let refused = send(32).await;
            let now = state().await;
            if states.last() != Some(&now) {
                states.push(now);
            }
            if refused > 0 {
                break refused;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "the disk does not fill up");
        };
        assert!(states.contains(&ShardState::Slow), "senders are slowed before they are refused: {states:?}");
        assert_eq!(state().await, ShardState::Full);
        assert!(control.readiness().await.unwrap().ready, "reading goes on");

        let seen = Arc::new(AtomicU64::new(0));
        let reading = tokio::spawn({
            let reader = home.connect(&node, reader).await;
            let seen = Arc::clone(&seen);
            async move {
                let mut times = BTreeMap::<u64, u32>::new();
                while let Ok(delivery) = reader.receive().await {
                    let number = u64::from_le_bytes(*delivery.payload.first_chunk().unwrap());
                    delivery.ack();
                    if number == u64::MAX {
                        break;
                    }
                    *times.entry(number).or_default() += 1;
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                times
            }
        });
        while state().await == ShardState::Full {
            assert!(begun.elapsed() < Duration::from_secs(180), "what is read gives no room back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let freed_after = seen.load(Ordering::Relaxed);
        while send(32).await > 0 {
            assert!(begun.elapsed() < Duration::from_secs(200), "there is room and nothing is taken");
        }
        sender.send(&to, u64::MAX.to_le_bytes().to_vec()).await.unwrap();
        let times = reading.await.unwrap();
        let lost: Vec<_> = acknowledged.iter().filter(|number| !times.contains_key(number)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        assert!(times.values().all(|times| *times == 1), "nothing comes twice");
        println!(
            "{} messages of 60 KiB acknowledged, {refused} refused when the disk was full, room again after {freed_after} \
             were read, {states:?}",
            acknowledged.len()
        );
        tokio::task::spawn_blocking(move || node.stop()).await.unwrap().unwrap();
    });
    drop(disk);
}
