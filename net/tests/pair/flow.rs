use std::time::Duration;

use bytes::Bytes;
use creto_net::framing::FrameError;
use creto_net::framing::FrameType::{Deliver, Reject, SignedBatch, StreamOpen};
use creto_net::{CloseReason, ConnId, NetEvent, NetLimits, Pieces, SendError, StreamEnd, StreamId};
use quinn_proto as quic;

use crate::harness::{Pair, Rng, frame};

const SOON: Duration = Duration::from_secs(20);

fn open(pair: &mut Pair, client: usize, conn: ConnId) -> (quic::StreamId, StreamId) {
    let stream = pair.clients[client].open();
    pair.clients[client].write(stream, &frame(StreamOpen, &[2; 8]));
    let opened = |pair: &mut Pair| {
        pair.events.iter().rev().find_map(|event| match event {
            NetEvent::StreamOpened { conn: c, stream } if *c == conn => Some(*stream),
            _ => None,
        })
    };
    assert!(pair.run_until(SOON, |pair| opened(pair).is_some()));
    pair.server.authenticated(conn);
    let id = opened(pair).unwrap();
    (stream, id)
}

#[test]
fn frames_arrive_whole_and_in_order_on_a_bad_network() {
    for seed in 0..12 {
        let mut pair = Pair::new(NetLimits::default());
        let (client, conn) = pair.establish();
        let (stream, _) = open(&mut pair, client, conn);
        let mut rng = Rng(seed);
        let bodies: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; usize::try_from(rng.below(9_000)).unwrap()]).collect();
        let mut fates = Rng(seed);
        pair.fate = Box::new(move |_, _| match fates.below(12) {
            0 => vec![],
            1 => vec![Duration::from_millis(1), Duration::from_millis(9)],
            2 => vec![Duration::from_millis(12)],
            _ => vec![Duration::from_millis(1)],
        });
        let all: Vec<u8> = bodies.iter().flat_map(|body| frame(SignedBatch, body)).collect();
        let mut rest = all.clone();
        let done = pair.run_until(Duration::from_secs(60), |pair| {
            let left = pair.clients[client].write(stream, &rest).len();
            rest.drain(..rest.len() - left);
            pair.frames().len() == 1 + bodies.len()
        });
        assert!(done, "seed {seed}: {} of {} frames", pair.frames().len(), bodies.len());
        for ((frame_type, got), sent) in pair.frames().iter().skip(1).zip(&bodies) {
            assert_eq!((*frame_type, &got[..]), (SignedBatch, &sent[..]), "seed {seed}");
            assert_eq!(got.as_ptr() as usize % 8, 0);
        }
    }
}

#[test]
fn a_bad_frame_stops_its_stream_and_leaves_the_connection() {
    let mut pair = Pair::new(NetLimits::default());
    let (client, conn) = pair.establish();
    let (bad, bad_id) = open(&mut pair, client, conn);
    let mut wrong_version = frame(SignedBatch, b"x");
    wrong_version[5] = 2;
    pair.clients[client].write(bad, &wrong_version);
    let seen = |pair: &mut Pair| {
        let error = FrameError::Version { found: 2 };
        pair.events
            .iter()
            .any(|e| matches!(e, NetEvent::FrameError { error: e, stream, .. } if *e == error && *stream == bad_id))
    };
    assert!(pair.run_until(SOON, seen));
    // The stream can still be answered.
    pair.server.send(conn, bad_id, frame(Reject, b"reject")).unwrap();
    pair.server.finish(conn, bad_id);
    pair.run_for(Duration::from_millis(50));
    assert_eq!(pair.clients[client].read(bad), frame(Reject, b"reject"));
    // And others go on.
    let (good, _) = open(&mut pair, client, conn);
    pair.clients[client].write(good, &frame(SignedBatch, b"fine"));
    assert!(pair.run_until(SOON, |pair| pair.frames().iter().any(|(_, body)| &body[..] == b"fine")));
    assert_eq!(pair.server.stats().frame_errors, 1);
}

#[test]
fn the_frame_limit_is_small_before_login_and_large_after() {
    let mut pair = Pair::new(NetLimits::default());
    let (client, conn) = pair.establish();
    let stream = pair.clients[client].open();
    pair.clients[client].write(stream, &frame(SignedBatch, &vec![0; 20_000]));
    let too_large = |pair: &mut Pair| {
        pair.events.iter().any(|event| {
            matches!(event, NetEvent::FrameError { error: FrameError::TooLarge { body_bytes: 20_000, .. }, .. })
        })
    };
    assert!(pair.run_until(SOON, too_large));
    let (stream, _) = open(&mut pair, client, conn);
    let large = frame(SignedBatch, &vec![3; 900_000]);
    let mut rest = &large[..];
    assert!(pair.run_until(SOON, |pair| {
        rest = pair.clients[client].write(stream, rest);
        pair.frames().iter().any(|(_, body)| body.len() == 900_000)
    }));
}

#[test]
fn a_stream_that_ends_is_reported_once_and_its_place_is_free_again() {
    let limits = NetLimits { streams_per_connection_max: 2, ..NetLimits::default() };
    let mut pair = Pair::new(limits);
    let (client, conn) = pair.establish();
    for round in 0..20 {
        let (stream, id) = open(&mut pair, client, conn);
        pair.clients[client].conn.send_stream(stream).finish().unwrap();
        let ended = |pair: &mut Pair| {
            let end = StreamEnd::Finished;
            pair.events
                .iter()
                .any(|e| matches!(e, NetEvent::StreamClosed { stream, end: e, .. } if *stream == id && *e == end))
        };
        assert!(pair.run_until(SOON, ended), "round {round}");
        pair.server.finish(conn, id);
        pair.run_for(Duration::from_millis(50));
        pair.clients[client].read(stream);
        pair.run_for(Duration::from_millis(50));
    }
    let ends = pair.events.iter().filter(|event| matches!(event, NetEvent::StreamClosed { .. })).count();
    assert_eq!(ends, 20);
    assert!(matches!(pair.server.send(conn, StreamIdOf::first(&pair), frame(StreamOpen, b"")), Err(SendError::Closed)));
}

struct StreamIdOf;
impl StreamIdOf {
    fn first(pair: &Pair) -> StreamId {
        let ids = pair.events.iter().find_map(|event| match event {
            NetEvent::StreamOpened { stream, .. } => Some(*stream),
            _ => None,
        });
        ids.unwrap()
    }
}

#[test]
fn an_end_inside_a_frame_is_an_error_and_an_end() {
    let mut pair = Pair::new(NetLimits::default());
    let (client, conn) = pair.establish();
    let (stream, _) = open(&mut pair, client, conn);
    pair.clients[client].write(stream, &frame(SignedBatch, &[0; 100])[..50]);
    pair.clients[client].conn.send_stream(stream).finish().unwrap();
    let ended = |pair: &mut Pair| pair.events.iter().any(|event| matches!(event, NetEvent::StreamClosed { .. }));
    assert!(pair.run_until(SOON, ended));
    let missing = FrameError::Truncated { missing_bytes: 58 };
    assert!(pair.events.iter().any(|event| matches!(event, NetEvent::FrameError { error, .. } if *error == missing)));
}

#[test]
fn back_pressure_stops_the_sender_within_the_window_and_resuming_loses_nothing() {
    let limits = NetLimits {
        stream_window_bytes: 64 << 10,
        connection_window_bytes: 96 << 10,
        read_quantum_bytes: 16 << 10,
        ..NetLimits::default()
    };
    let mut pair = Pair::new(limits);
    let (client, conn) = pair.establish();
    let (stream, id) = open(&mut pair, client, conn);
    let before = pair.frames().len();
    pair.server.pause_reading(conn, Some(id));
    let bytes: Vec<u8> =
        (0..1_000u32).flat_map(|n| frame(SignedBatch, &[n.to_le_bytes(), [0; 4]].concat().repeat(64))).collect();
    let mut rest = &bytes[..];
    for _ in 0..40 {
        rest = pair.clients[client].write(stream, rest);
        pair.run_for(Duration::from_millis(20));
    }
    let taken = bytes.len() - rest.len();
    assert_eq!(pair.frames().len(), before, "a paused stream gives nothing");
    // QUIC's own send buffer holds what the window does not admit.
    let on_the_wire = pair.clients[client].conn.stats().udp_tx.bytes;
    assert!(on_the_wire < 150_000, "the window is 64 KiB, {on_the_wire} bytes went out of {taken} taken");

    pair.server.resume_reading(conn, Some(id));
    let done = pair.run_until(Duration::from_secs(60), |pair| {
        rest = pair.clients[client].write(stream, rest);
        pair.frames().len() == before + 1_000
    });
    assert!(done, "{} frames", pair.frames().len());
    for (n, (_, body)) in (0..1_000u32).zip(&pair.frames()[before..]) {
        assert_eq!(body[..4], n.to_le_bytes());
    }
}

#[test]
fn a_shard_that_does_not_ask_for_events_holds_the_sender_back_too() {
    let limits = NetLimits {
        stream_window_bytes: 64 << 10,
        connection_window_bytes: 64 << 10,
        read_quantum_bytes: 16 << 10,
        ..NetLimits::default()
    };
    let mut pair = Pair::new(limits);
    let (client, conn) = pair.establish();
    let (stream, _) = open(&mut pair, client, conn);
    pair.polling = false;
    let bytes: Vec<u8> = (0..800).flat_map(|_| frame(SignedBatch, &[9; 512])).collect();
    let mut rest = &bytes[..];
    for _ in 0..20 {
        rest = pair.clients[client].write(stream, rest);
        pair.run_for(Duration::from_millis(20));
    }
    assert!(pair.clients[client].conn.stats().udp_tx.bytes < 120_000);
    assert!(pair.server.has_events());
    pair.polling = true;
    assert!(pair.run_until(Duration::from_secs(60), |pair| {
        rest = pair.clients[client].write(stream, rest);
        pair.frames().len() == 801
    }));
}

#[test]
fn a_full_out_queue_gives_the_pieces_back_and_says_when_there_is_room() {
    let limits = NetLimits {
        out_queue_bytes_max: 64 << 10,
        frame_body_bytes_max: 32 << 10,
        frame_body_bytes_max_before_login: 8 << 10,
        send_window_bytes: 32 << 10,
        ..NetLimits::default()
    };
    let mut pair = Pair::new(limits);
    let (client, conn) = pair.establish();
    let (stream, id) = open(&mut pair, client, conn);
    let mut sent = 0usize;
    let mut got = 0usize;
    let mut fulls = 0;
    let done = pair.run_until(Duration::from_secs(60), |pair| {
        let writable = pair.events.iter().any(|event| matches!(event, NetEvent::Writable { conn: c } if *c == conn));
        pair.events.retain(|event| !matches!(event, NetEvent::Writable { .. }));
        while sent < 400 && (fulls == 0 || writable || pair.server.queued_bytes(conn) == 0) {
            let pieces = vec![Bytes::from(frame(Deliver, &[5; 3_000])), Bytes::from_static(&[0; 4])];
            match pair.server.send(conn, id, pieces) {
                Ok(()) => sent += 1,
                Err(SendError::Full(Pieces::Many(pieces))) => {
                    assert_eq!(pieces.len(), 2);
                    assert!(pair.server.queued_bytes(conn) <= 64 << 10);
                    fulls += 1;
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        got += pair.clients[client].read(stream).len();
        got == 400 * 3_012
    });
    assert!(done, "sent {sent}, received {got} bytes, full {fulls} times");
    assert!(fulls > 3, "the queue of 64 KiB was filled by 1.2 MB");
}

#[test]
fn nothing_can_be_sent_to_a_closed_connection_and_its_id_is_never_used_again() {
    let mut pair = Pair::new(NetLimits::default());
    let (client, conn) = pair.establish();
    let (_, id) = open(&mut pair, client, conn);
    pair.clients[client].conn.close(pair.now, quic::VarInt::from_u32(77), Bytes::new());
    let closed = |pair: &mut Pair| {
        let reason = CloseReason::Peer { code: 77 };
        pair.events
            .iter()
            .any(|event| matches!(event, NetEvent::Closed { conn: c, reason: r } if *c == conn && *r == reason))
    };
    assert!(pair.run_until(SOON, closed));
    assert!(matches!(pair.server.send(conn, id, frame(StreamOpen, b"")), Err(SendError::Closed)));
    pair.run_for(SOON);
    let (_, next) = pair.establish();
    assert_eq!(next.slot(), conn.slot(), "the slot is free");
    assert_ne!(next, conn, "the id is not");
}

#[test]
fn a_stranger_can_make_the_node_hold_little() {
    let limits = NetLimits { read_quantum_bytes: 16 << 10, ..NetLimits::default() };
    let mut pair = Pair::new(limits);
    let (client, conn) = pair.establish();
    let stream = pair.clients[client].open();
    // The node does not read, so that everything it takes in stays.
    pair.server.pause_reading(conn, None);
    let bytes = vec![0; 1 << 20];
    let mut rest = &bytes[..];
    for _ in 0..40 {
        rest = pair.clients[client].write(stream, rest);
        pair.run_for(Duration::from_millis(20));
    }
    let on_the_wire = pair.clients[client].conn.stats().udp_tx.bytes;
    assert!(on_the_wire < 150_000, "the window is 64 KiB, {on_the_wire} bytes went out");
    // Whoever has logged in may send at full speed.
    pair.server.authenticated(conn);
    for _ in 0..40 {
        rest = pair.clients[client].write(stream, rest);
        pair.run_for(Duration::from_millis(20));
    }
    assert!(rest.is_empty(), "{} bytes did not fit the window", rest.len());
}
