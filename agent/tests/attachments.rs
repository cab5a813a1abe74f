//! Attachments over a real node: whole or not at all, resumed on both sides, refused with a reason.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::fs;
use std::path::Path;
use std::pin::pin;

use creto_agent::attachment::{
    AttachmentError, AttachmentId, AttachmentLimits, Attachments, FileToSend, Later, ReceivedFile, Refusal, Taken,
};
use creto_agent::{Agent, AgentKeys, AgentName, Kind, SendOptions};
use creto_crypto_accel::digest::sha256;
use creto_envelope::attachment::{AttachmentChunk, AttachmentHead};
use creto_node::Node;
use home::{Home, on_time};

/// Bytes of a chunk as the SDK cuts them.
const CHUNK: usize = 256 * 1024 - 32;

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

async fn pair(home: &Home, node: &Node) -> (Agent, Agent) {
    let keys = home.register(node, "acme/worker").await;
    keys.save(home.path().join("worker.keys")).unwrap();
    let planner = home.connect(node, home.register(node, "acme/planner").await).await;
    (planner, worker(home, node).await)
}

/// Another process of the receiver.
async fn worker(home: &Home, node: &Node) -> Agent {
    home.connect(node, AgentKeys::load(home.path().join("worker.keys")).unwrap()).await
}

/// A file that no two chunks of are the same.
fn file_of(home: &Home, name: &str, bytes: usize) -> FileToSend {
    let path = home.path().join(name);
    let content: Vec<u8> = (0u64..).flat_map(|n| sha256(&[&n.to_le_bytes()])).take(bytes).collect();
    fs::write(&path, content).unwrap();
    FileToSend::new(path)
}

fn is_whole(received: &ReceivedFile, sent: &Path) -> bool {
    fs::read(&received.path).unwrap() == fs::read(sent).unwrap()
}

/// Takes what comes until a file is whole.
async fn next_file(worker: &Agent, attachments: &Attachments) -> ReceivedFile {
    loop {
        if let Taken::File(file) = attachments.take(worker.receive().await.unwrap()).await.unwrap() {
            return *file;
        }
    }
}

#[test]
fn a_file_arrives_whole_beside_other_messages_and_its_receipt_says_so() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (planner, worker) = pair(&home, &node).await;
        let folder = home.path().join("inbox");
        let attachments = Attachments::open(&folder, AttachmentLimits::default()).await.unwrap();
        for (file_name, bytes) in
            [("empty", 0), ("small.txt", 5), ("even.bin", 2 * CHUNK), ("large.bin", 6 * CHUNK + 1)]
        {
            let mut file = file_of(&home, file_name, bytes);
            file.media_type = "application/octet-stream".to_owned();
            file.note = "please read".into();
            file.options.receipt = true;
            let path = file.path.clone();
            let mut told = Vec::new();
            let sent = planner.send_file(&name("acme/worker"), file, |at| told.push(at.durable_bytes)).await.unwrap();
            planner.send(&name("acme/worker"), "and this").await.unwrap();
            assert_eq!((sent.bytes, sent.messages), (bytes as u64, bytes.div_ceil(CHUNK) as u64 + 1));
            assert!(told.is_sorted() && *told.last().unwrap() == bytes as u64, "{told:?}");

            let received = next_file(&worker, &attachments).await;
            assert!(is_whole(&received, &path), "{file_name}");
            assert_eq!((received.path, received.name.as_str()), (folder.join(file_name), file_name));
            assert_eq!((received.bytes, received.id), (bytes as u64, sent.id));
            assert_eq!(
                (&received.note[..], received.media_type.as_str()),
                (&b"please read"[..], "application/octet-stream")
            );
            let Taken::Message(message) = attachments.take(worker.receive().await.unwrap()).await.unwrap() else {
                panic!("it is no part of anything")
            };
            assert_eq!(&message.payload[..], b"and this");
            message.ack();
            received.head.ack();
            let receipt = planner.receive().await.unwrap();
            assert_eq!((receipt.kind, receipt.correlation_id), (Kind::Receipt, sent.message_id));
            receipt.ack();
        }
        worker.close().await;
        planner.close().await;
    });
}

#[test]
fn sending_goes_on_after_the_sender_died_and_so_does_receiving() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (planner, first) = pair(&home, &node).await;
        let folder = home.path().join("inbox");
        let mut file = file_of(&home, "large.bin", 40 * CHUNK);
        file.resume = Some(home.path().join("uploads").join("large"));
        // The sender stops in the middle.
        let mut durable = 0;
        {
            let to = name("acme/worker");
            let (stop, mut stopped) = tokio::sync::mpsc::unbounded_channel();
            let mut sending = pin!(planner.send_file(&to, file.clone(), |at| {
                durable = at.durable_bytes;
                if durable >= 5 * CHUNK as u64 {
                    stop.send(()).unwrap();
                }
            }));
            tokio::select! {
                biased;
                _ = stopped.recv() => {}
                sent = &mut sending => panic!("it was to be stopped: {sent:?}"),
            }
        }
        assert!(durable < 40 * CHUNK as u64);
        // The receiver has some of it, and stops, too.
        {
            let attachments = Attachments::open(&folder, AttachmentLimits::default()).await.unwrap();
            let mut parts = 0;
            while parts < 4 {
                match attachments.take(first.receive().await.unwrap()).await.unwrap() {
                    Taken::Part(_) => parts += 1,
                    other => panic!("a part was due: {other:?}"),
                }
            }
            first.close().await;
        }
        let sent = planner.send_file(&name("acme/worker"), file.clone(), |_| ()).await.unwrap();
        assert!((5..40).contains(&sent.resumed_chunks) && sent.message_id.is_none(), "{sent:?}");
        assert!(!file.resume.unwrap().exists(), "what is done needs no journal");

        let second = worker(&home, &node).await;
        let attachments = Attachments::open(&folder, AttachmentLimits::default()).await.unwrap();
        let received = next_file(&second, &attachments).await;
        assert!(is_whole(&received, &file.path));
        // It dies before it has acknowledged the head: the file is handed out again, and is there once.
        drop((received, attachments));
        second.close().await;
        let third = worker(&home, &node).await;
        let attachments = Attachments::open(&folder, AttachmentLimits::default()).await.unwrap();
        let received = next_file(&third, &attachments).await;
        assert!(is_whole(&received, &file.path));
        received.head.ack();
        let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "the file and the folder of parts: {names:?}");
        third.close().await;
        planner.close().await;
    });
}

/// Sends the parts of an attachment that is as it is wanted.
async fn send_parts(planner: &Agent, id: u8, told: &[u8], sent: &[&[u8]], head_first: bool) {
    let chunk_bytes = u32::try_from(told.len() / sent.len()).unwrap();
    let hashes: Vec<_> = told.chunks(chunk_bytes as usize).map(|chunk| sha256(&[chunk])).collect();
    let id = AttachmentId([id; 16]);
    let bytes = told.len() as u64;
    let (name_of_file, media_type, note) = ("a", "", &b""[..]);
    let head = AttachmentHead { id, bytes, chunk_bytes, name: name_of_file, media_type, chunk_hashes: &hashes, note };
    let mut parts = vec![head.to_bytes().unwrap()];
    for (index, content) in (0..).zip(sent) {
        parts.push(AttachmentChunk { id, index, chunk_bytes, content }.to_bytes().unwrap());
    }
    if !head_first {
        parts.rotate_left(1);
    }
    for part in parts {
        planner.send(&name("acme/worker"), part).await.unwrap();
    }
}

async fn taken(worker: &Agent, attachments: &Attachments, parts: usize) -> Vec<Taken> {
    let mut all = Vec::new();
    for _ in 0..parts {
        all.push(attachments.take(worker.receive().await.unwrap()).await.unwrap());
    }
    all
}

async fn reasons(worker: &Agent, count: u64) -> Vec<u16> {
    loop {
        let page = worker.dead_letters(0, 256).await.unwrap();
        if page.total == count {
            let reasons = page.letters.iter().map(|letter| letter.reason).collect();
            let numbers: Vec<_> = page.letters.iter().map(|letter| letter.mailbox_sequence).collect();
            worker.purge_dead_letters(&numbers).await.unwrap();
            return reasons;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn what_does_not_hold_is_refused_as_a_whole_in_whatever_order_it_comes() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (planner, worker) = pair(&home, &node).await;
        let folder = home.path().join("inbox");
        let mut limits = AttachmentLimits::default();
        limits.file_bytes_max = 1_000;
        limits.parts_max = 1;
        limits.parts_bytes_max = 300;
        let attachments = Attachments::open(&folder, limits).await.unwrap();

        // Chunks first is as good.
        send_parts(&planner, 1, b"onetwo", &[b"one", b"two"], false).await;
        let all = taken(&worker, &attachments, 3).await;
        assert!(matches!(&all[..], [Taken::Part(_), Taken::Part(_), Taken::File(file)] if file.bytes == 6), "{all:?}");
        if let Some(Taken::File(file)) = all.into_iter().next_back() {
            file.head.ack();
        }

        // A chunk that is not what the head says, before and behind it.
        for head_first in [true, false] {
            let id = 2 + u8::from(head_first);
            send_parts(&planner, id, b"onetwo", &[b"one", b"tww"], head_first).await;
            let all = taken(&worker, &attachments, 3).await;
            let refused = all.iter().filter(|taken| {
                matches!(taken, Taken::Refused { refusal: Refusal::BrokenChunk, id: of, .. } if *of == AttachmentId([id; 16]))
            });
            assert_eq!(refused.count(), 1, "{all:?}");
            // The head and the chunk behind it; what came before was acknowledged.
            let expected = if head_first { 2 } else { 1 };
            assert_eq!(reasons(&worker, expected).await, vec![65_001; usize::try_from(expected).unwrap()]);
        }

        // Larger than this receiver takes: chunks that follow go the same way.
        send_parts(&planner, 4, &[5; 1_200], &[&[5; 600], &[5; 600]], true).await;
        let all = taken(&worker, &attachments, 3).await;
        assert!(all.iter().all(|taken| matches!(taken, Taken::Refused { refusal: Refusal::TooLarge, .. })), "{all:?}");
        assert_eq!(reasons(&worker, 3).await, [65_000; 3]);

        // One file at a time, and 300 bytes of it: the rest comes later.
        send_parts(&planner, 5, &[6; 400], &[&[6; 200], &[6; 200]], true).await;
        send_parts(&planner, 6, &[7; 10], &[&[7; 10]], true).await;
        let all = taken(&worker, &attachments, 5).await;
        assert!(
            matches!(
                &all[..],
                [
                    Taken::Part(_),
                    Taken::Part(_),
                    Taken::Later(Later::NoRoom),
                    Taken::Later(Later::TooManyParts),
                    Taken::Later(Later::TooManyParts)
                ]
            ),
            "{all:?}"
        );

        // One of a later version is the application's, and so is what only looks like a part.
        let raw: [&[u8]; 3] = [b"\xffAT\x02\0\0\0\0", b"\xffAT\x01\0\0\0\0", b"\xffAT"];
        for payload in raw {
            planner.send(&name("acme/worker"), payload.to_vec()).await.unwrap();
            let all = taken(&worker, &attachments, 1).await;
            assert!(matches!(&all[..], [Taken::Message(message)] if message.payload == payload), "{all:?}");
        }
        worker.close().await;
        planner.close().await;
    });
}

#[test]
fn what_cannot_be_sent_is_said_before_anything_is_durable_or_when_it_shows() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (planner, worker) = pair(&home, &node).await;
        let to = name("acme/worker");
        let send = async |file: FileToSend| planner.send_file(&to, file, |_| ()).await.unwrap_err();
        assert!(matches!(send(FileToSend::new(home.path().join("nothing"))).await, AttachmentError::File { .. }));
        assert!(matches!(send(FileToSend::new(home.path())).await, AttachmentError::File { .. }));
        let mut file = file_of(&home, "a", 3);
        file.name = Some("../a".to_owned());
        assert!(matches!(send(file.clone()).await, AttachmentError::Name { .. }));
        (file.name, file.media_type) = (None, "text/ü".to_owned());
        assert!(matches!(send(file.clone()).await, AttachmentError::Description));
        (file.media_type, file.note) = (String::new(), vec![0; 1 << 20].into());
        assert!(matches!(send(file).await, AttachmentError::Description));
        // Nobody is there to get it.
        let stranger = planner.send_file(&name("acme/nobody"), file_of(&home, "a", 3), |_| ()).await;
        assert!(matches!(stranger, Err(AttachmentError::Send(_))), "{stranger:?}");

        // Changed in the middle: what follows is of another file.
        let file = file_of(&home, "changing", 30 * CHUNK);
        let path = file.path.clone();
        let mut is_changed = false;
        let changed = planner
            .send_file(&to, file, |_| {
                if !std::mem::replace(&mut is_changed, true) {
                    fs::write(&path, vec![1; 30 * CHUNK]).unwrap();
                }
            })
            .await;
        assert!(matches!(changed, Err(AttachmentError::Changed { .. })), "{changed:?}");
        let options = SendOptions { kind: Kind::Request, ..SendOptions::default() };
        let chunk = AttachmentChunk { id: AttachmentId([1; 16]), index: 0, chunk_bytes: 1, content: b"a" };
        planner.send_with(&to, chunk.to_bytes().unwrap(), options).await.unwrap();
        loop {
            let delivery = worker.receive().await.unwrap();
            delivery.ack();
            if delivery.kind == Kind::Request {
                assert!(!delivery.is_attachment_part(), "only kind direct has parts");
                break;
            }
        }
        worker.close().await;
        planner.close().await;
    });
}
