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
            assert_eq!((receipt.kind, receipt.correlation_id), (Kind::Receipt, Some(sent.message_id)));
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
        assert!((5..40).contains(&sent.resumed_chunks), "{sent:?}");
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
        // An application that has moved the file before it acknowledged is not handed another one.
        planner.send_file(&name("acme/worker"), file_of(&home, "small", 5), |_| ()).await.unwrap();
        let received = next_file(&third, &attachments).await;
        fs::rename(&received.path, home.path().join("moved")).unwrap();
        fs::write(&received.path, "of somebody else").unwrap();
        drop((received, attachments));
        third.close().await;
        let fourth = worker(&home, &node).await;
        let attachments = Attachments::open(&folder, AttachmentLimits::default()).await.unwrap();
        let again = attachments.take(fourth.receive().await.unwrap()).await.unwrap();
        assert!(matches!(again, Taken::Known), "{again:?}");
        fs::remove_file(folder.join("small")).unwrap();
        let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "the file and the folder of parts: {names:?}");
        fourth.close().await;
        planner.close().await;
    });
}

/// The parts of an attachment of these chunks, the head last: it has the hashes of `told`, and the id `id`.
fn parts(id: u8, told: &[u8], sent: &[&[u8]]) -> Vec<Vec<u8>> {
    let chunk_bytes = u32::try_from(told.len() / sent.len()).unwrap();
    let hashes: Vec<_> = told.chunks(chunk_bytes as usize).map(|chunk| sha256(&[chunk])).collect();
    let (id, bytes, name, media_type, note) = (AttachmentId([id; 16]), told.len() as u64, "a", "", &b""[..]);
    let chunk = |(index, content): (u32, &&[u8])| {
        AttachmentChunk { id, index, chunk_bytes, bytes, content }.to_bytes().unwrap()
    };
    let mut parts: Vec<_> = (0..).zip(sent).map(chunk).collect();
    let head = AttachmentHead { id, bytes, chunk_bytes, name, media_type, chunk_hashes: &hashes, note };
    parts.push(head.to_bytes().unwrap());
    parts
}

async fn send_all(planner: &Agent, parts: Vec<Vec<u8>>) {
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
fn what_does_not_hold_is_refused_as_a_whole_and_over_a_restart() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (planner, worker) = pair(&home, &node).await;
        let folder = home.path().join("inbox");
        let mut limits = AttachmentLimits::default();
        limits.file_bytes_max = 1_000;
        let attachments = Attachments::open(&folder, limits).await.unwrap();
        let is_refused = |taken: &Taken, why| matches!(taken, Taken::Refused { refusal, .. } if *refusal == why);

        // The head that comes again under another id, as of a run that did not hear that the first was durable: once.
        send_all(&planner, parts(1, b"onetwo", &[b"one", b"two"])).await;
        send_all(&planner, parts(1, b"onetwo", &[b"one", b"two"])).await;
        let all = taken(&worker, &attachments, 6).await;
        let expected = |taken: &[Taken]| {
            matches!(taken, [Taken::Part(_), Taken::Part(_), Taken::File(file), Taken::Known, Taken::Known, Taken::File(again)]
                if file.bytes == 6 && file.path == again.path)
        };
        assert!(expected(&all), "{all:?}");
        all.into_iter().for_each(|taken| {
            if let Taken::File(file) = taken {
                file.head.ack();
            }
        });
        // Another head under the same id is not that file.
        send_all(&planner, parts(1, b"oneTWO", &[b"one", b"TWO"]).split_off(2)).await;
        let all = taken(&worker, &attachments, 1).await;
        assert!(is_refused(&all[0], Refusal::Broken), "{all:?}");
        assert_eq!(reasons(&worker, 1).await, [65_001]);

        // A chunk that is not what the head says; one that came otherwise before; one of a file of another size.
        for (id, sent) in [
            (2, parts(2, b"onetwo", &[b"one", b"tww"])),
            (3, {
                let mut sent = parts(3, b"onetwo", &[b"one", b"two"]);
                sent[1] = parts(3, b"twoone", &[b"two", b"one"]).swap_remove(0);
                sent
            }),
            (4, {
                let mut sent = parts(4, b"onetwo", &[b"one", b"two"]);
                sent[1] = parts(4, b"onetwothree!", &[b"one", b"two", b"thr", b"ee!"]).swap_remove(1);
                sent
            }),
        ] {
            send_all(&planner, sent).await;
            let all = taken(&worker, &attachments, 3).await;
            assert!(matches!(&all[0], Taken::Part(part) if part.id == AttachmentId([id; 16])), "{all:?}");
            assert!(is_refused(&all[2], Refusal::Broken), "{all:?}");
            let refused = all.iter().filter(|taken| is_refused(taken, Refusal::Broken)).count();
            assert_eq!(reasons(&worker, refused as u64).await, vec![65_001; refused]);
        }

        // Larger than this receiver takes, from the first chunk on; and that is remembered.
        let mut too_large = parts(5, &[5; 1_200], &[&[5; 600], &[5; 600]]);
        let head = too_large.pop().unwrap();
        send_all(&planner, too_large).await;
        let all = taken(&worker, &attachments, 2).await;
        // One letter is enough to say so: what follows is dropped.
        assert!(is_refused(&all[0], Refusal::TooLarge) && matches!(all[1], Taken::Known), "{all:?}");
        drop((all, attachments));
        let attachments = Attachments::open(&folder, AttachmentLimits::default()).await.unwrap();
        send_all(&planner, vec![head]).await;
        assert!(is_refused(&taken(&worker, &attachments, 1).await[0], Refusal::TooLarge));
        assert_eq!(reasons(&worker, 2).await, [65_000; 2]);

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
fn what_there_is_no_room_for_comes_later_and_a_sender_has_a_share() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (planner, worker) = pair(&home, &node).await;
        let other = home.connect(&node, home.register(&node, "acme/other").await).await;
        let third = home.connect(&node, home.register(&node, "acme/third").await).await;
        let mut limits = AttachmentLimits::default();
        (limits.parts_bytes_max, limits.parts_max, limits.sender_parts_max) = (1_000, 4, 2);
        let attachments = Attachments::open(home.path().join("inbox"), limits).await.unwrap();
        let first_of = |id, bytes: usize| {
            vec![parts(id, &vec![id; bytes], &[&vec![id; bytes / 2], &vec![id; bytes / 2]]).swap_remove(0)]
        };
        let later = |taken: &Taken| match taken {
            Taken::Later { later, .. } => Some(*later),
            Taken::Part(_) => None,
            other => panic!("{other:?}"),
        };
        // Alone, a file may be larger than a share; its whole size counts from the first chunk on.
        for (agent, id, bytes, expected) in [
            (&planner, 1, 400, None),
            (&planner, 2, 200, Some(Later::NoRoom)),
            (&other, 3, 500, None),
            (&other, 4, 20, Some(Later::NoRoom)),
            (&planner, 5, 100, None),
            (&planner, 6, 0, Some(Later::TooManyParts)),
            (&other, 7, 0, None),
            // Whose own share is free.
            (&third, 9, 2, Some(Later::NoRoom)),
        ] {
            let part = if bytes == 0 { vec![parts(id, &[1], &[&[1]]).swap_remove(0)] } else { first_of(id, bytes) };
            for part in part {
                agent.send(&name("acme/worker"), part).await.unwrap();
            }
            let mut all = taken(&worker, &attachments, 1).await;
            // What was refused for now may come again in between.
            while matches!(&all[0], Taken::Later { id: of, .. } if *of != AttachmentId([id; 16])) {
                all = taken(&worker, &attachments, 1).await;
            }
            let expected = if id == 7 { Some(Later::NoRoom) } else { expected };
            assert_eq!(later(&all[0]), expected, "attachment {id}");
        }
        // A head before its chunks waits for them.
        let mut early = parts(8, b"ab", &[b"a", b"b"]);
        early.rotate_right(1);
        let agent = home.connect(&node, home.register(&node, "acme/early").await).await;
        let attachments = Attachments::open(home.path().join("other"), AttachmentLimits::default()).await.unwrap();
        for part in early {
            agent.send(&name("acme/worker"), part).await.unwrap();
        }
        let mut seen = Vec::new();
        loop {
            match attachments.take(worker.receive().await.unwrap()).await.unwrap() {
                Taken::Later { later, id, .. } if id == AttachmentId([8; 16]) => seen.push(Some(later)),
                Taken::Part(part) if part.id == AttachmentId([8; 16]) => seen.push(None),
                Taken::File(file) if file.id == AttachmentId([8; 16]) => break file.head.ack(),
                _ => {}
            }
        }
        assert_eq!(seen[..3], [Some(Later::Missing), None, None], "and then it came again");
        for agent in [worker, planner, other, third, agent] {
            agent.close().await;
        }
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
        // One that grows is another file, too, and a pipe is none.
        let file = file_of(&home, "growing", 30 * CHUNK);
        let path = file.path.clone();
        let grown = planner
            .send_file(&to, file, |_| {
                let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
                std::io::Write::write_all(&mut file, b"more").unwrap();
            })
            .await;
        assert!(matches!(grown, Err(AttachmentError::Changed { .. })), "{grown:?}");
        assert!(matches!(send(FileToSend::new("/dev/null")).await, AttachmentError::File { .. }));
        let options = SendOptions { kind: Kind::Request, ..SendOptions::default() };
        let chunk = AttachmentChunk { id: AttachmentId([1; 16]), index: 0, chunk_bytes: 1, bytes: 1, content: b"a" };
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
