use creto_crypto_accel::merkle::{Tree, leaf_hash};
use creto_envelope::batch::BatchView;
use creto_envelope::deliver::{DeliverEncoder, MessageToDeliver};
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::{AgentName, TrustDomain};

use super::*;

const NOW_MS: u64 = 1_700_000_000_000;

fn keys(name: &str) -> (Arc<AgentKeys>, SignedKeyRecord) {
    let keys = AgentKeys::generate(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap();
    let record = keys.signed_record(1, 0, u64::MAX);
    (Arc::new(keys), record)
}

fn aligned(bytes: &[u8]) -> Bytes {
    let mut copy = rkyv::util::AlignedVec::<8>::new();
    copy.extend_from_slice(bytes);
    Bytes::from_owner(copy)
}

/// Body of the Deliver frame that a SignedBatch frame becomes.
fn delivered(frame: &[u8]) -> Bytes {
    let body = aligned(&frame[FRAME_HEADER_BYTES + 8..]);
    let mut entries = Vec::new();
    let batch = BatchView::parse(&body, &mut entries).unwrap();
    let mut tree = Tree::new();
    let leaf = |entry: &creto_envelope::batch::EntrySpan| leaf_hash(&entry.salt, batch.envelope(entry));
    tree.rebuild(&entries.iter().map(leaf).collect::<Vec<_>>());
    let (mut out, mut path) = (Vec::new(), Vec::new());
    let mut encoder = DeliverEncoder::begin(&mut out, Some(batch.header.as_bytes()));
    for (leaf_index, entry) in (0..).zip(&entries) {
        tree.path(leaf_index, &mut path);
        encoder.push(&MessageToDeliver {
            mailbox_sequence: u64::from(leaf_index),
            leaf_index,
            attempt: 0,
            salt: &entry.salt,
            path: &path,
            envelope: batch.envelope(entry),
        });
    }
    encoder.finish();
    aligned(&out[FRAME_HEADER_BYTES..])
}

#[test]
fn what_goes_into_the_sending_end_comes_out_of_the_receiving_end_once_and_in_order_over_sessions() {
    let ((planner, planner_record), (worker, worker_record)) = (keys("acme/planner"), keys("acme/worker"));
    for sessions in [SessionPolicy::default(), SessionPolicy::Off] {
        let batches = BatchOptions { messages: 150, ..BatchOptions::default() };
        let mut sending = SendingEnd::new(Arc::clone(&planner), &worker_record, batches, sessions).unwrap();
        let mut receiving = ReceivingEnd::new(Arc::clone(&worker), &planner_record).unwrap();
        let count = if sessions == SessionPolicy::Off { 200 } else { 2_300 };
        let sent: Vec<_> = (0..count).map(|n: u32| Bytes::from(n.to_string().repeat(n as usize % 9))).collect();
        sent.iter().for_each(|payload| sending.submit(payload.clone(), NOW_MS).unwrap());
        let (mut opened, mut frames) = (Vec::new(), 0);
        while let Some(frame) = sending.next_frame(NOW_MS) {
            let body = delivered(&frame);
            receiving.open(&body, &mut opened).unwrap();
            receiving.settle();
            let before = opened.len();
            receiving.open(&body, &mut opened).unwrap();
            // What was settled does not open twice; the sealed suite leaves that to the window of message ids.
            opened.truncate(if sessions == SessionPolicy::Off { before } else { opened.len() });
            frames += 1;
        }
        assert_eq!(opened, sent);
        assert_eq!(frames, count.div_ceil(150));
    }
}

#[test]
fn messages_of_another_sender_and_frames_without_a_header_are_refused() {
    let ((planner, planner_record), (worker, worker_record)) = (keys("acme/planner"), keys("acme/worker"));
    let (other, _) = keys("acme/other");
    let sessions = SessionPolicy::default();
    let mut sending = SendingEnd::new(other, &worker_record, BatchOptions::default(), sessions).unwrap();
    let mut receiving = ReceivingEnd::new(worker, &planner_record).unwrap();
    sending.submit(Bytes::from_static(b"hello"), NOW_MS).unwrap();
    let body = delivered(&sending.next_frame(NOW_MS).unwrap());
    let mut opened = Vec::new();
    assert_eq!(receiving.open(&body, &mut opened), Err(RejectCode::SenderMismatch));
    let mut empty = Vec::new();
    DeliverEncoder::begin(&mut empty, None).finish();
    assert_eq!(receiving.open(&aligned(&empty[FRAME_HEADER_BYTES..]), &mut opened), Err(RejectCode::FrameUnexpected));
    assert!(opened.is_empty());
    assert_eq!(receiving.sender(), planner.id());
}
