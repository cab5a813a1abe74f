//! Writes the seeds of every target: the golden files as they are, and small programs for what has none.
//!
//! `cargo +nightly run --manifest-path fuzz/Cargo.toml --bin seed-corpus`, with `--features link` for those of `link`, too.
//!
//! Without seeds a fuzzer spends its life before the first length check; with them it starts behind the last one.

use std::path::{Path, PathBuf};
use std::{fs, io};

use bytes::Bytes;
use creto_fuzz::creto_store::{
    BatchPart, Cursors, CursorsEntry, Dead, DeadLetter, DeathCause, Dedup, DedupSender, Epoch, FrameHeader, GroupId,
    Lsn, MailboxId, MessageFlags, MessageId, PartMessage, Priority, Progress, Record, Revive, SegmentHeader,
    SegmentNumber, SenderId, Settle, SettleCause, Start, Subscribe, SubscriberId, Subscriptions, SubscriptionsEntry,
    Unsubscribe,
};

fn main() -> io::Result<()> {
    let golden = Golden::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../envelope/golden")))?;
    let corpus = Corpus(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")));
    let mut count = 0;
    for (target, name, seed) in golden
        .seeds()
        .into_iter()
        .chain(log_seeds())
        .chain(datagram_seeds(&golden))
        .chain(shard_seeds())
        .chain(config_seeds())
        .chain(link_seeds())
    {
        corpus.write(target, &name, &seed)?;
        count += 1;
    }
    println!("{count} seeds are in {}", corpus.0.display());
    Ok(())
}

type Seed = (&'static str, String, Vec<u8>);

struct Corpus(PathBuf);

impl Corpus {
    fn write(&self, target: &str, name: &str, seed: &[u8]) -> io::Result<()> {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), seed)
    }
}

/// The hex files of the worked example, and the frames inside `example.json`.
struct Golden {
    files: Vec<(String, Vec<u8>)>,
    small_frames: Vec<Vec<u8>>,
}

impl Golden {
    fn read(folder: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "hex") {
                let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
                files.push((name, unhex(&fs::read_to_string(&path)?)));
            }
        }
        let example = fs::read_to_string(folder.join("example.json"))?;
        let (_, frames) = example.split_once("\"frames\": {").expect("the example lists small frames");
        let small_frames = frames.split('"').map(unhex).filter(|frame| frame.len() >= 8).collect();
        Ok(Self { files, small_frames })
    }

    fn file(&self, name: &str) -> &[u8] {
        let found = self.files.iter().find(|(known, _)| known == name);
        &found.expect("the worked example has this file").1
    }

    fn seeds(&self) -> Vec<Seed> {
        let mut seeds: Vec<Seed> = Vec::new();
        for (name, bytes) in &self.files {
            match name.as_str() {
                name if name.contains("envelope-") || name == "signal-envelope" => seeds.push(("envelope", name.into(), bytes.clone())),
                name if name.starts_with("proof-") => seeds.push(("proof", name.into(), bytes.clone())),
                name if name.ends_with(".key-record") => {
                    let mut frame = vec![0, 0, 0, 0, 0x14, 1, 0, 0];
                    frame.extend_from_slice(bytes);
                    seeds.push(("frame", name.into(), frame));
                }
                name => seeds.push(("frame", name.into(), bytes.clone())),
            }
        }
        let numbered = self.small_frames.iter().enumerate();
        seeds.extend(numbered.map(|(index, frame)| ("frame", format!("small-{index}"), frame.clone())));
        let batch = &self.file("signed-batch")[8..];
        seeds.push(("batch", "signed-batch".into(), batch.to_vec()));
        // One envelope of the smallest size, so that the fuzzer need not carry three.
        let mut one = batch[..8 + 3_448 + 24].to_vec();
        one[8 + 4] = 1;
        one[8 + 3_448 + 16..8 + 3_448 + 20].copy_from_slice(&160u32.to_le_bytes());
        one.extend_from_slice(&self.file("envelope-0")[..160]);
        seeds.push(("batch", "one-header".into(), one));
        seeds
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Option<Vec<u8>> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).and_then(|d| d.try_into().ok())).collect();
    let digits = digits.unwrap_or_default();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn log_seeds() -> Vec<Seed> {
    let message = |envelope_bytes| PartMessage {
        mailbox: MailboxId([1; 16]),
        sender: SenderId([2; 16]),
        message_id: MessageId([3; 16]),
        sequence: 4,
        expiry_ms: 5,
        leaf_index: 6,
        priority: Priority::High,
        flags: MessageFlags::NONE,
        salt: [7; 16],
        path: Bytes::from(vec![8; 64]),
        envelope: Bytes::from(vec![9; envelope_bytes]),
    };
    let sender = DedupSender { sender: SenderId([1; 16]), floor_ms: 2, ids: vec![MessageId([3; 16]); 2] };
    let letter = DeadLetter { sequence: 5, died_ms: 6, reason: 7, cause: DeathCause::Rejected, deliveries: 8 };
    let (channel, subscriber, group) = (MailboxId([1; 16]), SubscriberId([2; 16]), GroupId([3; 16]));
    let progress = Progress { cursor: 4, missed: 5, skipped: 6, done: vec![7, 8] };
    let members = vec![SubscriberId([4; 16]), SubscriberId([5; 16])];
    let of_group = SubscriptionsEntry {
        channel,
        group,
        subscriber: SubscriberId::NONE,
        number: 9,
        progress: progress.clone(),
        part: 0,
        members,
    };
    let own = SubscriptionsEntry {
        channel,
        group: GroupId::NONE,
        subscriber,
        number: 8,
        progress: Progress { skipped: 0, done: Vec::new(), ..progress.clone() },
        part: 0,
        members: Vec::new(),
    };
    let records = [
        Record::BatchPart(BatchPart {
            batch_header: Bytes::from(vec![1; 13]),
            messages: vec![message(21), message(0)],
        }),
        Record::Settle(Settle { mailbox: MailboxId([1; 16]), cause: SettleCause::Expired, sequences: vec![1, 2, 3] }),
        Record::Dedup(Dedup { next_sequence: 9, senders: vec![sender] }),
        Record::Start(Start { epoch: Epoch(2), started_ms: 3, recovered_through: Lsn(4) }),
        Record::Dead(Dead { mailbox: MailboxId([1; 16]), is_again: true, letters: vec![letter; 2] }),
        Record::Revive(Revive { mailbox: MailboxId([1; 16]), sequences: vec![1, 2, 3] }),
        Record::BatchPart(BatchPart {
            batch_header: Bytes::from(vec![1; 13]),
            messages: vec![PartMessage { flags: MessageFlags::PUBLISHED, ..message(21) }],
        }),
        Record::Settle(Settle { mailbox: MailboxId([1; 16]), cause: SettleCause::Consumed, sequences: vec![1, 2, 3] }),
        Record::Subscribe(Subscribe { channel, subscriber, group: GroupId::NONE, number: 8, begins_after: Some(7) }),
        Record::Subscribe(Subscribe { channel, subscriber, group, number: 9, begins_after: None }),
        Record::Unsubscribe(Unsubscribe { channel, subscriber, group }),
        Record::Cursors(Cursors { entries: vec![CursorsEntry { number: 9, progress: progress.clone() }; 2] }),
        Record::Subscriptions(Subscriptions { entries: vec![of_group, own] }),
    ];
    let mut seeds = Vec::new();
    let mut body = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let start = body.len();
        body.resize(start + record.encoded_bytes(), 0);
        record.encode_into(&mut body[start..]);
        seeds.push(("record", format!("record-{index}"), [&[0], &body[start..]].concat()));
    }
    seeds.push(("channels", "records".to_owned(), body.clone()));
    let header = FrameHeader {
        crc: 0,
        epoch: Epoch(1),
        epoch_nonce: 2,
        lsn: Lsn(5),
        durable_upto: Lsn(4),
        segment: SegmentNumber(1),
        log_start: SegmentNumber(1),
        body_bytes: u32::try_from(body.len()).expect("four records are short"),
        record_count: 4,
        previous_crc: 7,
        offset_blocks: 1,
        shard_index: 3,
    };
    let mut frame = vec![0; header.total_bytes()];
    frame[96..96 + body.len()].copy_from_slice(&body);
    header.seal(&mut frame);
    seeds.push(("record", "frame".into(), [&[2], &frame[..]].concat()));
    let header = SegmentHeader {
        shard_index: 3,
        number: SegmentNumber(1),
        epoch: Epoch(1),
        epoch_nonce: 2,
        first_lsn: Lsn(1),
        previous_crc: 0,
        log_start: SegmentNumber(1),
        created_ms: 4,
    };
    let mut block = [0; 4096];
    header.encode_into(&mut block);
    seeds.push(("record", "segment-header".into(), [&[3], &block[..]].concat()));

    // Programs of `log_image`: a segment header, frames of a record each, then one kind of damage.
    let honest = [0, 0, 2, 1, 0, 0, 0, 2, 1, 1, 3, 4, 0, 0, 2, 1, 2, 9, 0, 9, 1, 0, 50, 0, 0];
    for damage in 9..=15 {
        let second = [0, 0x80, 2, 1, 0, 0, 0, 2, 0, 0, 0];
        let program = [&honest[..], &second[..], &[damage, 0, 0, 16, 32, 1]].concat();
        seeds.push(("recovery", format!("damage-{damage}"), program));
    }
    seeds.push(("recovery", "honest".into(), honest.to_vec()));
    seeds
}

fn datagram_seeds(golden: &Golden) -> Vec<Seed> {
    let frames = [golden.file("login"), &golden.small_frames[0][..]].concat();
    let mut fates = vec![0; 24];
    fates[1] = 2;
    fates[3] = 3;
    let initial = {
        // A long header of version 1 with an 8-byte destination id: enough to be taken for an Initial.
        let mut packet = vec![0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x9e];
        packet.resize(1_200, 0x55);
        packet
    };
    let length = 1_200_u16.to_le_bytes();
    vec![
        ("datagram", "handshake".into(), [&[0], &fates[..], &frames[..]].concat()),
        ("datagram", "honest-handshake".into(), [&[0], &[0; 24][..], &frames[..]].concat()),
        ("datagram", "stream".into(), [&[1, 7], &frames[..]].concat()),
        ("datagram", "strangers".into(), [&[3, 1, 5, length[0], length[1]], &initial[..]].concat()),
    ]
}

/// Programs of the target `shard`: two clients log in, one sends each batch of the pool, the other reads and acknowledges.
fn shard_seeds() -> Vec<Seed> {
    let logged_in = [1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 6, 1, 1, 7, 1, 200, 255, 12];
    let mut seeds = Vec::new();
    for batch in 0..25 {
        let program = [&logged_in[..], &[3, 0, batch, 3, 0, 0, 3, 0, batch, 8, 1, 1]].concat();
        seeds.push(("shard", format!("batch-{batch}"), program));
    }
    let late_disk = [&logged_in[..], &[13, 0, 3, 0, 0, 3, 0, 2, 14, 0, 1, 14, 0, 0, 3, 0, 6, 13, 0]].concat();
    seeds.push(("shard", "late-and-failing-disk".into(), late_disk));
    let takeover =
        [&logged_in[..], &[3, 0, 2, 0, 0, 1, 2, 1, 6, 2, 1, 7, 2, 9, 255, 12, 8, 1, 1, 8, 2, 1, 12, 2]].concat();
    seeds.push(("shard", "takeover".into(), takeover));
    seeds
}

/// Files of the target `config`: an environment variable up to the first line feed, then TOML.
fn config_seeds() -> Vec<Seed> {
    let files = [
        "\n[node]\nlisten = \"127.0.0.1:7443\"\ndata_dir = \"data\"\n[topology]\nshards = 2\n",
        "CRETO__WAL__SEGMENT_BYTES=64MiB\nwal.segment_bytes = \"128 MiB\"\nmailbox.messages_max = 1000\n",
        "CRETO__LOG__LEVEL=debug\n[net]\nidle_timeout = \"30s\"\n[control]\nsocket = \"c.sock\"\n[typo]\nx = 1\n",
    ];
    (0..).zip(files).map(|(index, file): (u8, _)| ("config", format!("file-{index}"), file.into())).collect()
}

#[cfg(not(feature = "link"))]
fn link_seeds() -> Vec<Seed> {
    Vec::new()
}

/// A link as each side says it: a snapshot whole and by its changes, questions and what needs no keys of the answers.
#[cfg(feature = "link")]
fn link_seeds() -> Vec<Seed> {
    use creto_fuzz::creto_envelope::key_log::{KeyLeavesRequest, KeyLogQuestion, KeyProofRequest};
    use creto_fuzz::creto_envelope::prekeys::PrekeyStock;
    use creto_fuzz::creto_envelope::{AgentId, AgentName, AgentState, ChannelId, KeyId, TrustDomain};
    use creto_link::snapshot::frames_between;
    use creto_link::{Answer, FromControl, FromNode, Hello, PolicyPart, Question, SnapshotHead, Welcome};
    use creto_policy::{KeyVersion, Policy, Snapshot, SnapshotBuilder};

    let snapshot = |agents: u8, epoch: u64| -> Snapshot {
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        for number in 0..agents {
            let name = AgentName::parse(&format!("acme/a{number}")).expect("a name");
            let version = KeyVersion {
                version: 1,
                key: KeyId([number; 16]),
                valid_from_ms: 1,
                valid_until_ms: 9,
                has_fn_dsa_512: false,
                replaced: None,
            };
            builder
                .insert_versions(&TrustDomain::default(), &name, AgentState::Active, vec![version])
                .expect("one version makes an agent");
        }
        builder.build(epoch)
    };
    let told = |before: &Snapshot, now: &Snapshot, is_whole: bool, policy: PolicyPart| -> Vec<u8> {
        let head = SnapshotHead { epoch: now.epoch(), is_whole, key_grace_ms: 604_800_000, policy };
        let end = FromControl::SnapshotEnd { agents: now.agent_count() as u64, channels: now.channel_count() as u64 };
        let frames = std::iter::once(FromControl::SnapshotBegin(head)).chain(frames_between(before, now));
        frames.chain([end]).flat_map(|frame| frame.to_frame()).collect()
    };
    let (empty, few, more) = (Snapshot::empty(), snapshot(2, 7), snapshot(5, 9));
    let text = PolicyPart::Text { sha256: [7; 32], name: "p.rego".to_owned(), text: "package creto".to_owned() };
    let whole = told(&empty, &few, true, PolicyPart::SameOrganization);
    let grown = [&whole[..], &told(&few, &more, false, PolicyPart::AsBefore)].concat();
    let shrunk = [told(&empty, &more, true, text), told(&more, &snapshot(1, 12), false, PolicyPart::FailOpen)].concat();

    let agent = AgentId([3; 16]);
    let question = |id: u64, question| FromNode::Question { id, question }.to_frame();
    let proof = KeyProofRequest { agent, version: 2, seen: 3, wants_keys: true };
    let asked = [
        FromNode::Hello(Hello { trust_domain: TrustDomain::default(), retention_s: 86_400 }).to_frame(),
        FromNode::Ask { number: 7 }.to_frame(),
        question(1, Question::KeyRecord { agent, version: 5 }),
        question(2, Question::KeyLog(KeyLogQuestion::Proof(proof))),
        question(3, Question::KeyLog(KeyLogQuestion::Leaves(KeyLeavesRequest { from: 1, through: 9 }))),
        question(4, Question::Claim { asker: agent, agent: AgentId([4; 16]) }),
        question(5, Question::Stock { agent }),
        question(6, Question::ChannelRecord { channel: ChannelId([5; 16]) }),
    ];
    let stock = PrekeyStock { key_record_version: 4, one_time: 31, last_resort: true, is_notice: false };
    let answered = [
        FromControl::Welcome(Welcome { trust_domain: TrustDomain::default(), lifetime_ms: 60_000, incarnation: [3; 16] }),
        FromControl::Renewed { number: 7 },
        FromControl::PrekeysLow { agent, stock: PrekeyStock { is_notice: true, ..stock } },
        FromControl::Answer { id: 1, answer: Answer::Publish(Ok(9)) },
        FromControl::Answer { id: 5, answer: Answer::Stock(Ok(stock)) },
        FromControl::ChannelsGone(vec![ChannelId([6; 16])]),
    ];
    let answered = answered.into_iter().flat_map(|said| said.to_frame()).collect();
    let seeds = [("whole", whole), ("grown", grown), ("shrunk", shrunk), ("asked", asked.concat()), ("answered", answered)];
    seeds.map(|(name, seed)| ("link", name.to_owned(), seed)).to_vec()
}
