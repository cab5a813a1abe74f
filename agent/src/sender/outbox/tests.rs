use std::collections::{BTreeMap, BTreeSet};

use creto_envelope::Statement;
use creto_envelope::batch::{BatchView, parse_submit_sequence};
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::submit::SubmitResult;
use proptest::prelude::*;

use super::*;

const ACCEPTED: LoginAccepted = LoginAccepted {
    node_time_ms: 0,
    shard_index: 0,
    shard_count: 1,
    in_flight_messages_max: 1_000,
    batch_messages_max: 256,
    batch_bytes_max: 1 << 20,
};

type Answer = oneshot::Receiver<Result<Receipt, SendError>>;

fn id(n: u32) -> MessageId {
    let mut random = [0; 10];
    random[6..].copy_from_slice(&n.to_be_bytes());
    MessageId::from_parts(0, random)
}

fn number(id: MessageId) -> u32 {
    u32::from_be_bytes([id.0[12], id.0[13], id.0[14], id.0[15]])
}

/// A message whose "envelope" is 200 bytes that end with its number.
fn message(n: u32, recipient: u8, now_us: u64) -> (Message, Answer) {
    let (reply, answer) = oneshot::channel();
    let mut envelope = vec![recipient; 200];
    envelope[196..].copy_from_slice(&n.to_be_bytes());
    let ticket = Ticket { reply, _places: None };
    let content = Content::Sealed(Bytes::from(envelope));
    (Message::new(id(n), AgentId([recipient; 16]), 200, content, ticket, now_us, 1_000_000), answer)
}

fn sealed(job: SealJob) -> SealedBatch {
    let statement = Statement {
        sender: AgentId([7; 16]),
        key_record_version: 1,
        tree_size: u32::try_from(job.messages.len()).unwrap(),
        root: [0; 32],
        signed_at_ms: 0,
    };
    SealedBatch {
        number: job.number,
        header: BatchHeader::new(&statement, &[0; 64], &[0; 3_309]),
        salts: vec![[0; 16]; job.messages.len()],
        messages: job.messages,
    }
}

/// Sequence and (recipient, number) of the messages of a SignedBatch frame.
fn read(frame: &[u8]) -> (u64, Vec<(u8, u32)>) {
    let mut body = rkyv::util::AlignedVec::<8>::new();
    body.extend_from_slice(&frame[FRAME_HEADER_BYTES..]);
    let sequence = parse_submit_sequence(&body).unwrap();
    let mut entries = Vec::new();
    let batch = BatchView::parse(&body[8..], &mut entries).unwrap();
    let messages = entries.iter().map(|entry| {
        let envelope = batch.envelope(entry);
        (envelope[0], u32::from_be_bytes(envelope[196..].try_into().unwrap()))
    });
    (sequence, messages.collect())
}

/// Seals and writes everything that is due.
fn pump(outbox: &mut Outbox, now_us: u64) -> Vec<(u64, Vec<(u8, u32)>)> {
    let mut frames = Vec::new();
    loop {
        let before = frames.len();
        while let Some(job) = outbox.next_job(now_us) {
            outbox.sealed(sealed(job));
        }
        while let Some(frame) = outbox.next_frame() {
            frames.push(read(&frame));
        }
        if frames.len() == before {
            return frames;
        }
    }
}

fn ack(through_sequence: u64, results: &[(u64, u32, RejectCode)]) -> SubmitAck {
    let results = results.iter().map(|(sequence, index, code)| SubmitResult {
        sequence: *sequence,
        index: *index,
        code: code.as_u16(),
    });
    SubmitAck { through_sequence, results: results.collect() }
}

/// Applies an acknowledgement and gives the numbers that were answered, with the answers.
fn answered(outbox: &mut Outbox, ack: &SubmitAck, now_us: u64) -> Vec<(u32, Result<Receipt, SendError>)> {
    let mut answers = Vec::new();
    outbox.acknowledged(ack, now_us, &mut answers).unwrap();
    answers.into_iter().map(|answered| (number(answered.message.id), answered.answer)).collect()
}

fn connected() -> Outbox {
    let mut outbox = Outbox::new(BatchLimits::default());
    outbox.connected(&ACCEPTED);
    outbox
}

fn push(outbox: &mut Outbox, numbers: std::ops::Range<u32>, recipient: u8) {
    for n in numbers {
        outbox.push(message(n, recipient, 0).0);
    }
}

#[test]
fn a_lone_message_leaves_at_once_and_the_next_ones_wait_for_company_or_the_answer() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    assert_eq!(pump(&mut outbox, 0), [(1, vec![(1, 0)])]);
    push(&mut outbox, 1..4, 1);
    assert!(pump(&mut outbox, 0).is_empty());
    assert_eq!(outbox.deadline_us(0), Some(1_000));
    answered(&mut outbox, &ack(1, &[]), 10);
    assert_eq!(pump(&mut outbox, 10), [(2, vec![(1, 1), (1, 2), (1, 3)])]);
}

#[test]
fn one_acknowledgement_answers_every_batch_up_to_its_sequence() {
    let mut outbox = connected();
    push(&mut outbox, 0..600, 1);
    assert_eq!(pump(&mut outbox, 5_000).len(), 3);
    let answers = answered(&mut outbox, &ack(2, &[]), 5_000);
    assert_eq!(answers.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..512).collect::<Vec<_>>());
    assert!(answers.iter().all(|(_, answer)| answer.as_ref().is_ok_and(|receipt| !receipt.was_duplicate)));
    assert_eq!(outbox.unanswered(), 88);
}

#[test]
fn a_result_refuses_its_message_only_also_when_it_comes_before_the_acknowledgement() {
    let mut outbox = connected();
    push(&mut outbox, 0..3, 1);
    pump(&mut outbox, 5_000);
    assert!(answered(&mut outbox, &ack(0, &[(1, 1, RejectCode::PolicyDenied)]), 5_000).is_empty());
    let answers = answered(&mut outbox, &ack(1, &[(1, 2, RejectCode::Duplicate)]), 5_000);
    assert!(answers[0].1.is_ok());
    assert!(matches!(answers[1].1, Err(SendError::Refused { code: RejectCode::PolicyDenied, .. })));
    assert!(answers[2].1.as_ref().is_ok_and(|receipt| receipt.was_duplicate), "a duplicate is durable");
}

#[test]
fn a_result_for_the_whole_batch_refuses_every_message_of_it() {
    let mut outbox = connected();
    push(&mut outbox, 0..3, 1);
    pump(&mut outbox, 5_000);
    let answers = answered(&mut outbox, &ack(1, &[(1, WHOLE_BATCH, RejectCode::KeyExpired)]), 5_000);
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|(_, a)| matches!(a, Err(SendError::Refused { code: RejectCode::KeyExpired, .. }))));
}

#[test]
fn after_a_lost_connection_everything_unanswered_goes_again_first_and_in_order() {
    let mut outbox = connected();
    push(&mut outbox, 0..600, 1);
    pump(&mut outbox, 5_000);
    answered(&mut outbox, &ack(1, &[]), 5_000);
    push(&mut outbox, 600..610, 1);
    outbox.lost();
    assert!(pump(&mut outbox, 6_000).is_empty(), "without a connection nothing moves");
    outbox.connected(&ACCEPTED);
    let frames = pump(&mut outbox, 6_000);
    assert_eq!(frames.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [1, 2], "each stream counts from one");
    let numbers: Vec<u32> = frames.into_iter().flat_map(|(_, messages)| messages).map(|(_, n)| n).collect();
    assert_eq!(numbers, (256..610).collect::<Vec<_>>());
}

#[test]
fn a_batch_that_is_sealed_during_a_reconnect_waits_for_its_place() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    let first = outbox.next_job(0).unwrap();
    push(&mut outbox, 1..2, 1);
    let second = outbox.next_job(2_000).unwrap();
    outbox.sealed(sealed(second));
    outbox.lost();
    outbox.connected(&ACCEPTED);
    push(&mut outbox, 2..3, 1);
    assert!(pump(&mut outbox, 9_000).is_empty(), "a worker still holds the first message");
    outbox.sealed(sealed(first));
    assert_eq!(pump(&mut outbox, 9_000), [(1, vec![(1, 0), (1, 1), (1, 2)])]);
}

#[test]
fn a_full_mailbox_holds_back_its_own_messages_and_nobody_elses() {
    let mut outbox = connected();
    push(&mut outbox, 0..2, 1);
    pump(&mut outbox, 5_000);
    let full = [(1, 0, RejectCode::MailboxFull), (1, 1, RejectCode::MailboxFull)];
    assert!(answered(&mut outbox, &ack(1, &full), 5_000).is_empty(), "it is tried again");
    push(&mut outbox, 2..4, 1);
    push(&mut outbox, 4..5, 2);
    assert_eq!(pump(&mut outbox, 9_000), [(2, vec![(2, 4)])]);
    let retry_us = outbox.deadline_us(9_000).unwrap();
    assert_eq!(retry_us, 55_000, "50 ms after the refusal");
    answered(&mut outbox, &ack(2, &[]), 9_000);
    assert_eq!(pump(&mut outbox, retry_us), [(3, vec![(1, 0), (1, 1), (1, 2), (1, 3)])]);
}

#[test]
fn a_message_that_is_refused_for_now_too_long_is_refused_for_good() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    let mut now_us = 0;
    let error = loop {
        let [(sequence, _)] = pump(&mut outbox, now_us)[..] else { panic!("one batch") };
        let mut answers = answered(&mut outbox, &ack(sequence, &[(sequence, 0, RejectCode::Overloaded)]), now_us);
        if let Some((_, answer)) = answers.pop() {
            break answer.unwrap_err();
        }
        now_us = outbox.deadline_us(now_us).unwrap();
    };
    assert!(matches!(error, SendError::Refused { code: RejectCode::Overloaded, .. }));
    assert!((1_000_000..2_100_000).contains(&now_us), "{now_us}");
}

#[test]
fn outside_the_window_is_unknown_only_for_what_may_have_been_accepted_before() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    pump(&mut outbox, 5_000);
    outbox.lost();
    outbox.connected(&ACCEPTED);
    push(&mut outbox, 1..2, 1);
    pump(&mut outbox, 5_000);
    let outside = [(1, WHOLE_BATCH, RejectCode::OutsideDedupWindow)];
    let answers = answered(&mut outbox, &ack(1, &outside), 5_000);
    assert!(matches!(answers[0].1, Err(SendError::Unknown { .. })));
    assert!(matches!(answers[1].1, Err(SendError::Refused { code: RejectCode::OutsideDedupWindow, .. })));
}

#[test]
fn after_a_disk_failure_nobody_knows_and_that_is_the_answer() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    pump(&mut outbox, 0);
    answered(&mut outbox, &ack(1, &[(1, WHOLE_BATCH, RejectCode::ShardFenced)]), 0);
    assert_eq!(pump(&mut outbox, 60_000).len(), 1, "the resend finds out");
    let answers = answered(&mut outbox, &ack(2, &[(2, 0, RejectCode::OutsideDedupWindow)]), 60_000);
    assert!(matches!(answers[0].1, Err(SendError::Unknown { code: RejectCode::OutsideDedupWindow, .. })));

    let (message, _) = message(1, 1, 0);
    outbox.push(message);
    pump(&mut outbox, 0);
    let answers = answered(&mut outbox, &ack(3, &[(3, 0, RejectCode::ShardFenced)]), 2_000_000);
    assert!(matches!(answers[0].1, Err(SendError::Unknown { code: RejectCode::ShardFenced, .. })));
}

#[test]
fn an_unknown_code_is_tried_again_only_when_it_is_the_nodes_own_state() {
    let mut outbox = connected();
    push(&mut outbox, 0..2, 1);
    pump(&mut outbox, 5_000);
    let results = [(0, 599), (1, 499)].map(|(index, code)| SubmitResult { sequence: 1, index, code });
    let answers = answered(&mut outbox, &SubmitAck { through_sequence: 1, results: results.to_vec() }, 5_000);
    assert_eq!(answers.len(), 1);
    assert!(matches!(answers[0], (1, Err(SendError::RefusedWith { code: 499, .. }))));
    assert_eq!(outbox.waiting.len(), 1);
}

#[test]
fn no_more_is_in_flight_than_the_node_allows() {
    let mut outbox = Outbox::new(BatchLimits::default());
    outbox.connected(&LoginAccepted { in_flight_messages_max: 10, batch_messages_max: 4, ..ACCEPTED });
    push(&mut outbox, 0..30, 1);
    let sizes: Vec<usize> = pump(&mut outbox, 5_000).iter().map(|(_, messages)| messages.len()).collect();
    assert_eq!(sizes, [4, 4, 2]);
    answered(&mut outbox, &ack(1, &[]), 5_000);
    assert_eq!(pump(&mut outbox, 5_000).len(), 1);
}

#[test]
fn the_node_can_ask_for_a_pause() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    outbox.pause(80_000);
    assert!(pump(&mut outbox, 5_000).is_empty());
    assert_eq!(outbox.deadline_us(5_000), Some(80_000));
    assert_eq!(pump(&mut outbox, 80_000).len(), 1);
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_an_error() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    pump(&mut outbox, 0);
    for wrong in [ack(2, &[]), ack(0, &[(2, 0, RejectCode::Duplicate)]), ack(0, &[(1, 1, RejectCode::Duplicate)])] {
        assert_eq!(outbox.acknowledged(&wrong, 0, &mut Vec::new()), Err(RejectCode::BatchSequence), "{wrong:?}");
    }
    answered(&mut outbox, &ack(1, &[]), 0);
    let late = ack(1, &[(1, 0, RejectCode::Duplicate)]);
    assert_eq!(outbox.acknowledged(&late, 0, &mut Vec::new()), Err(RejectCode::BatchSequence));
}

#[test]
fn giving_up_hands_back_every_message_that_no_worker_holds() {
    let mut outbox = connected();
    push(&mut outbox, 0..300, 1);
    pump(&mut outbox, 5_000);
    push(&mut outbox, 300..310, 1);
    assert_eq!(outbox.give_up().len(), 310);
    assert_eq!(outbox.unanswered(), 0);
}

/// A node that keeps what it accepted, knows it again, refuses some for now, and loses connections at any point.
#[derive(Default)]
struct Node {
    accepted: BTreeSet<u32>,
    /// In the order of acceptance, by recipient.
    mailboxes: BTreeMap<u8, Vec<u32>>,
    unanswered: VecDeque<(u64, Vec<(u32, RejectCode)>)>,
}

impl Node {
    fn admit(&mut self, (sequence, messages): (u64, Vec<(u8, u32)>), full: Option<u8>) {
        let mut results = Vec::new();
        for (index, (recipient, n)) in (0..).zip(messages) {
            if self.accepted.contains(&n) {
                results.push((index, RejectCode::Duplicate));
            } else if full == Some(recipient) {
                results.push((index, RejectCode::MailboxFull));
            } else {
                self.accepted.insert(n);
                self.mailboxes.entry(recipient).or_default().push(n);
            }
        }
        self.unanswered.push_back((sequence, results));
    }

    fn answer(&mut self, batches: usize) -> Option<SubmitAck> {
        let batches = batches.min(self.unanswered.len());
        let answered: Vec<_> = self.unanswered.drain(..batches).collect();
        let through = answered.last()?.0;
        let results: Vec<_> = answered
            .iter()
            .flat_map(|(sequence, results)| results.iter().map(|(index, code)| (*sequence, *index, *code)))
            .collect();
        Some(ack(through, &results))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push { recipient: u8, count: u32 },
    Seal { last: bool },
    Write { admitted: bool },
    Answer { batches: usize },
    Lose,
    Wait { us: u64 },
    Full { recipient: Option<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..3, 1u32..40).prop_map(|(recipient, count)| Step::Push { recipient, count }),
        4 => any::<bool>().prop_map(|last| Step::Seal { last }),
        4 => any::<bool>().prop_map(|admitted| Step::Write { admitted }),
        3 => (1usize..4).prop_map(|batches| Step::Answer { batches }),
        1 => Just(Step::Lose),
        2 => (100u64..60_000).prop_map(|us| Step::Wait { us }),
        1 => prop::option::of(0u8..3).prop_map(|recipient| Step::Full { recipient }),
    ]
}

proptest! {
    /// Whatever is lost, refused for now, or sealed late: each message is accepted once and answered once, and unless
    /// the node refused some for now, each mailbox holds its messages in the order in which they were submitted.
    #[test]
    fn every_message_is_accepted_once_answered_once_and_in_order(steps in prop::collection::vec(step(), 1..120)) {
        let mut outbox = Outbox::new(BatchLimits { messages: 16, ..BatchLimits::default() });
        outbox.connected(&LoginAccepted { in_flight_messages_max: 64, ..ACCEPTED });
        let mut node = Node::default();
        let (mut now_us, mut next, mut full, mut ever_full) = (0, 0, None, false);
        let mut jobs: Vec<SealJob> = Vec::new();
        let mut replies: BTreeMap<u32, u32> = BTreeMap::new();
        // At the end everything works until nothing is left.
        let calm = [Step::Full { recipient: None }, Step::Lose]
            .into_iter()
            .chain((0..600).flat_map(|_| {
                [Step::Wait { us: 60_000 }, Step::Seal { last: false }, Step::Write { admitted: true }, Step::Answer { batches: 9 }]
            }));
        for step in steps.into_iter().chain(calm) {
            match step {
                Step::Push { recipient, count } => {
                    for _ in 0..count {
                        // Refusals for now never become final in this test.
                        let (mut message, _) = message(next, recipient, now_us);
                        message.retry_until_us = u64::MAX;
                        outbox.push(message);
                        next += 1;
                    }
                }
                Step::Seal { last } => {
                    jobs.extend(std::iter::from_fn(|| outbox.next_job(now_us)));
                    prop_assert!(jobs.len() <= SEAL_JOBS_MAX);
                    if !jobs.is_empty() {
                        let job = jobs.remove(if last { jobs.len() - 1 } else { 0 });
                        outbox.sealed(sealed(job));
                    }
                }
                // What is not admitted was lost on the way, with its connection.
                Step::Write { admitted } => while let Some(frame) = outbox.next_frame() {
                    if admitted {
                        node.admit(read(&frame), full);
                    } else {
                        node.unanswered.clear();
                        outbox.lost();
                        outbox.connected(&LoginAccepted { in_flight_messages_max: 64, ..ACCEPTED });
                        break;
                    }
                },
                Step::Answer { batches } => if let Some(ack) = node.answer(batches) {
                    for (n, answer) in answered(&mut outbox, &ack, now_us) {
                        prop_assert!(answer.is_ok(), "{answer:?}");
                        prop_assert!(node.accepted.contains(&n), "answered, not accepted");
                        *replies.entry(n).or_default() += 1;
                    }
                },
                Step::Lose => {
                    node.unanswered.clear();
                    outbox.lost();
                    outbox.connected(&LoginAccepted { in_flight_messages_max: 64, ..ACCEPTED });
                }
                Step::Wait { us } => now_us += us,
                Step::Full { recipient } => {
                    full = recipient;
                    ever_full |= full.is_some();
                }
            }
            prop_assert!(outbox.unanswered() <= 64);
        }
        prop_assert_eq!(replies.len(), next as usize, "every message is answered");
        prop_assert!(replies.values().all(|count| *count == 1), "and answered once");
        if !ever_full {
            for mailbox in node.mailboxes.values() {
                prop_assert!(mailbox.is_sorted(), "{mailbox:?}");
            }
        }
    }
}
