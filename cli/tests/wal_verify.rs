//! `creto wal verify`, `dump` and `stats` on logs that were really written: sound, cut short, damaged.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use creto_store::conformance::Folder;
use creto_store::{
    BatchPart, FileSource, MailboxId, MessageFlags, MessageId, PartMessage, Priority, Record, SenderId, Wal, WalConfig,
    recover, segment_file_name,
};

const NOW_MS: u64 = 1_800_000_000_000;

/// Writes the log of one shard with `messages` messages, one frame each.
fn write_log(folder: &Path, shard_index: u32, messages: u8) {
    std::fs::create_dir_all(folder).expect("a temporary folder");
    let folder = Folder::new(folder);
    let recovered = recover(&mut FileSource::new(folder.path()), shard_index, |_, _| {}).expect("a new log");
    let mut wal = Wal::open(WalConfig::default(), recovered, 7, NOW_MS);
    folder.settle(&mut wal, NOW_MS);
    for number in 1..=messages {
        let message = PartMessage {
            mailbox: MailboxId([1; 16]),
            sender: SenderId([2; 16]),
            message_id: MessageId([number; 16]),
            sequence: u64::from(number),
            expiry_ms: 0,
            leaf_index: 0,
            priority: Priority::Normal,
            flags: MessageFlags::NONE,
            salt: [0; 16],
            path: Bytes::new(),
            envelope: Bytes::from(vec![number; 1000]),
        };
        let part = BatchPart { batch_header: Bytes::from_static(&[3; 64]), messages: vec![message] };
        wal.append(Record::BatchPart(part)).expect("there is room");
        folder.settle(&mut wal, NOW_MS);
    }
    wal.confirm();
    folder.settle(&mut wal, NOW_MS);
}

struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

fn verify(args: &[&str]) -> Run {
    wal("verify", args)
}

fn wal(verb: &str, args: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_creto")).args(["wal", verb]).args(args).output().expect("built");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Run { status: output.status.code().expect("an exit"), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr))
}

fn first_segment(shard: &Path) -> File {
    let name = segment_file_name(creto_store::SegmentNumber(1));
    OpenOptions::new().read(true).write(true).open(shard.join(name)).expect("the first segment")
}

#[test]
fn a_sound_log_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    write_log(&dir.path().join("shard-0000"), 0, 5);
    write_log(&dir.path().join("shard-0001"), 1, 2);
    let folder = dir.path().to_str().unwrap();

    let run = verify(&[folder, "--json"]);
    let report = json(&run);
    assert_eq!((run.status, &report["ok"], &report["messages"]), (0, &true.into(), &7.into()), "{}", run.stdout);
    assert_eq!(report["shards"][1]["messages"], 2);

    let run = verify(&[folder]);
    assert_eq!(run.status, 0);
    assert!(run.stdout.ends_with("Sound. 7 messages, every frame as it was written.\n"), "{}", run.stdout);
    assert_eq!(run.stdout.lines().count(), 5, "{}", run.stdout);

    let one = dir.path().join("shard-0001");
    assert_eq!(json(&verify(&[one.to_str().unwrap(), "--json"]))["messages"], 2);
}

#[test]
fn a_flipped_bit_is_found_and_placed() {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("shard-0000");
    write_log(&shard, 0, 5);
    let end = json(&verify(&[dir.path().to_str().unwrap(), "--json"]))["shards"][0]["end"]["offset"].as_u64().unwrap();
    // In the middle of the frames: what stands behind it proves that it was durable.
    let file = first_segment(&shard);
    let at = end / 2 / 4096 * 4096 + 500;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();

    let run = verify(&[dir.path().to_str().unwrap(), "--json"]);
    let report = json(&run);
    assert_eq!((run.status, &report["ok"]), (1, &false.into()));
    let problem = &report["shards"][0]["problems"][0];
    assert_eq!(problem["segment"], 1);
    assert!(problem["offset"].as_u64().unwrap() <= at && at < problem["offset"].as_u64().unwrap() + 8192, "{problem}");

    let run = verify(&[dir.path().to_str().unwrap()]);
    assert_eq!(run.status, 1);
    assert!(run.stdout.contains("damaged") && !run.stdout.contains("Sound"), "{}", run.stdout);
}

#[test]
fn an_end_that_was_never_durable_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("shard-0000");
    write_log(&shard, 0, 5);
    let before = json(&verify(&[dir.path().to_str().unwrap(), "--json"]));
    let end = before["shards"][0]["end"]["offset"].as_u64().unwrap();
    first_segment(&shard).write_all_at(&[0xab; 3000], end).unwrap();

    let run = verify(&[dir.path().to_str().unwrap(), "--json"]);
    let report = json(&run);
    assert_eq!((run.status, &report["messages"]), (0, &5.into()), "{}", run.stdout);
    assert_eq!(report["shards"][0]["end"]["cut_short"], true);
    assert!(verify(&[dir.path().to_str().unwrap()]).stdout.contains("never acknowledged"));
}

#[test]
fn a_folder_without_a_log_is_a_mistake_of_usage() {
    let dir = tempfile::tempdir().unwrap();
    let run = verify(&[dir.path().to_str().unwrap()]);
    assert_eq!(run.status, 2);
    assert!(run.stderr.starts_with("error: there is no log in "), "{}", run.stderr);
    assert_eq!(verify(&["/nonexistent"]).status, 5);

    write_log(&dir.path().join("renamed"), 0, 1);
    let run = verify(&[dir.path().join("renamed").to_str().unwrap()]);
    assert_eq!(run.status, 2);
    assert!(run.stderr.contains("its name is not that of a shard"), "{}", run.stderr);
}

#[test]
fn a_dump_shows_every_frame_and_record_where_it_stands_and_nothing_of_a_payload() {
    let dir = tempfile::tempdir().unwrap();
    write_log(&dir.path().join("shard-0000"), 0, 5);
    let folder = dir.path().to_str().unwrap();
    let lines = |args: &[&str]| -> Vec<serde_json::Value> {
        let run = wal("dump", args);
        assert_eq!(run.status, 0, "{}", run.stderr);
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines(&[folder, "--json"]);
    let count = |entry: &str| all.iter().filter(|line| line["entry"] == entry).count();
    // A start, five messages, the frame that confirms the last one.
    assert_eq!([count("segment"), count("frame"), count("record"), count("message")], [1, 7, 6, 5]);
    // What a message is said to be is what stands there.
    let segment = std::fs::read(dir.path().join("shard-0000").join("segment-0000000000000001.wal")).unwrap();
    for line in all.iter().filter(|line| line["entry"] == "message") {
        let offset = usize::try_from(line["offset"].as_u64().unwrap()).unwrap();
        assert_eq!(segment[offset..offset + 16], [1; 16]);
        assert_eq!(segment[offset + 48..offset + 56], line["sequence"].as_u64().unwrap().to_le_bytes());
    }
    let text = wal("dump", &[folder]).stdout;
    assert_eq!(text.lines().count(), all.len(), "{text}");
    assert!(text.contains("frame 3") && text.contains("message 2"), "{text}");

    let mailbox = "01".repeat(16);
    assert_eq!(lines(&[folder, "--json", "--mailbox", &mailbox]).len(), 1 + 3 * 5);
    assert_eq!(lines(&[folder, "--json", "--mailbox", &"02".repeat(16)]).len(), 1, "the segment only");
    assert_eq!(lines(&[folder, "--json", "--segment", "2"]).len(), 0);
    assert_eq!(wal("dump", &[folder, "--mailbox", "neither/name/nor-id"]).status, 2);
}

#[test]
fn statistics_tell_live_from_dead() {
    let dir = tempfile::tempdir().unwrap();
    write_log(&dir.path().join("shard-0000"), 0, 5);
    let folder = dir.path().to_str().unwrap();
    let run = wal("stats", &[folder, "--json"]);
    let shard = &json(&run)["shards"][0];
    assert_eq!((run.status, &shard["messages"], &shard["live_messages"]), (0, &5.into(), &5.into()), "{}", run.stdout);
    assert_eq!(shard["fullest_mailboxes"][0]["live_messages"], 5);
    let written = shard["written_bytes"].as_u64().unwrap();
    assert_eq!(shard["live_bytes"].as_u64().unwrap() + shard["dead_bytes"].as_u64().unwrap(), written);
    let kinds: Vec<_> = shard["kinds"].as_array().unwrap().iter().map(|kind| kind["kind"].clone()).collect();
    assert_eq!(kinds, ["batch", "start"]);
    let text = wal("stats", &[folder]);
    assert!(text.status == 0 && text.stdout.contains("fullest mailboxes"), "{}{}", text.stdout, text.stderr);
}
