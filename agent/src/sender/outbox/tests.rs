use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use creto_envelope::batch::{BatchView, parse_submit_sequence};
use creto_envelope::envelope::EnvelopeHeader;
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::submit::SubmitResult;
use creto_envelope::{KeyId, MessageId, Priority, Statement};
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::keys::AgentKeys;
use crate::limits::RECIPIENT_SESSIONS_MAX;
use crate::sender::message::{Plain, Ticket};
use crate::sender::sessions::SessionPolicy;

mod prekeys;
mod signals;

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

/// Keys that somebody has; which ones does not matter to the outbox, only whether they are the same.
fn identity(key: usize) -> Arc<Identity> {
    Arc::clone(&owner(key).1)
}

fn owner(key: usize) -> &'static (AgentKeys, Arc<Identity>) {
    static KEYS: OnceLock<[(AgentKeys, Arc<Identity>); 2]> = OnceLock::new();
    let make = |version: u32| {
        let name = creto_envelope::AgentName::parse("acme/worker").unwrap();
        let keys = AgentKeys::generate(name, creto_envelope::TrustDomain::default()).unwrap();
        let identity = Identity::verify(keys.id(), &keys.signed_record(version, 0, u64::MAX)).unwrap();
        (keys, Arc::new(identity))
    };
    &KEYS.get_or_init(|| [make(1), make(2)])[key]
}

fn message(n: u32, recipient: u8, now_us: u64) -> (Message, Answer) {
    message_with(n, recipient, now_us, Priority::Normal)
}

fn message_with(n: u32, recipient: u8, now_us: u64, priority: Priority) -> (Message, Answer) {
    let (reply, answer) = oneshot::channel();
    let identity = identity(0);
    let (me, key) = (AgentId([7; 16]), KeyId(identity.sealing.key_id()));
    let mut header = EnvelopeHeader::sealed(me, AgentId([recipient; 16]), key, id(n), 0, 24).unwrap();
    header.priority = priority as u8;
    let plain = Plain { header: Box::new(header), recipient: identity, payload: Bytes::from(vec![0; 24]) };
    (Message::new(id(n), plain, Ticket { reply, _places: None }, now_us, 1_000_000), answer)
}

/// What a worker does, without the cryptography: an "envelope" of 200 bytes, and 1,120 more where it carries the wrapped
/// key, that ends with the message's number.
fn sealed(mut job: SealJob) -> SealedBatch {
    let statement = Statement {
        sender: AgentId([7; 16]),
        key_record_version: 1,
        tree_size: u32::try_from(job.messages.len()).unwrap(),
        root: [0; 32],
        signed_at_ms: 0,
    };
    for (message, planned) in job.messages.iter_mut().zip(job.under) {
        let key_id = message.plain().key_id();
        message.sealed.get_or_insert_with(|| {
            let carries = planned.as_ref().is_none_or(|planned| planned.carries);
            let mut envelope = vec![message.recipient.0[0]; if carries { 1_320 } else { 200 }];
            let number_at = envelope.len() - 4;
            envelope[number_at..].copy_from_slice(&number(message.id).to_be_bytes());
            let ticket = planned.map(|planned| planned.under.ticket);
            Sealed { envelope: Bytes::from(envelope), key_id, ticket }
        });
    }
    SealedBatch {
        number: job.number,
        header: Some(BatchHeader::new(&statement, &[0; 64], &[0; 3_309])),
        salts: vec![[0; 16]; job.messages.len()],
        messages: job.messages,
        unsealed: Vec::new(),
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
        (envelope[0], u32::from_be_bytes(*envelope.last_chunk().unwrap()))
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
    let results = results.iter().map(|(sequence, index, code)| {
        // Without a wish of the node: the pauses are our own.
        SubmitResult { retry_after: 0, ..SubmitResult::new(*sequence, *index, *code) }
    });
    SubmitAck { through_sequence, pause_ms: 0, results: results.collect() }
}

/// Applies an acknowledgement and gives the numbers that were answered, with the answers.
fn answered(outbox: &mut Outbox, ack: &SubmitAck, now_us: u64) -> Vec<(u32, Result<Receipt, SendError>)> {
    let mut answers = Vec::new();
    outbox.acknowledged(ack, now_us, &mut answers).unwrap();
    answers.into_iter().map(|answered| (number(answered.message.id), answered.answer)).collect()
}

fn outbox(limits: BatchLimits) -> Outbox {
    let sessions = Sessions::new(SessionPolicy::default(), RECIPIENT_SESSIONS_MAX);
    Outbox::new(AgentId([7; 16]), limits, sessions)
}

fn connected() -> Outbox {
    // Bytes for as many messages as a batch may hold, also while each carries the wrapped key.
    let mut outbox = outbox(BatchLimits { bytes: 512 * 1024, ..BatchLimits::default() });
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
    let results = [(0, 599), (1, 499)].map(|(index, code)| SubmitResult { sequence: 1, index, code, retry_after: 0 });
    let answers =
        answered(&mut outbox, &SubmitAck { through_sequence: 1, pause_ms: 0, results: results.to_vec() }, 5_000);
    assert_eq!(answers.len(), 1);
    assert!(matches!(answers[0], (1, Err(SendError::RefusedWith { code: 499, .. }))));
    assert_eq!(outbox.waiting.len(), 1);
}

#[test]
fn no_more_is_in_flight_than_the_node_allows() {
    let mut outbox = outbox(BatchLimits::default());
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
        let mut outbox = outbox(BatchLimits { messages: 16, ..BatchLimits::default() });
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

fn push_with(outbox: &mut Outbox, n: u32, recipient: u8, priority: Priority) {
    outbox.push(message_with(n, recipient, 0, priority).0);
}

/// The bytes of the entries of a frame.
fn sizes(outbox: &mut Outbox, now_us: u64) -> Vec<usize> {
    let job = outbox.next_job(now_us).unwrap();
    outbox.sealed(sealed(job));
    let _ = outbox.next_frame().unwrap();
    outbox.in_flight.back().unwrap().messages.iter().map(|message| message.sealed_bytes().len()).collect()
}

#[test]
fn a_lone_message_opens_its_session_itself_and_is_not_delayed_for_it() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    let job = outbox.next_job(0).unwrap();
    assert_eq!((job.messages.len(), job.under.len()), (1, 1), "at once, at the time it came, and alone");
    assert!(job.under[0].as_ref().unwrap().carries);
    outbox.sealed(sealed(job));
    assert!(outbox.next_frame().is_some());
    assert_eq!(outbox.deadline_us(0), None, "nothing else is to be done for it");
}

#[test]
fn a_batch_counts_the_bytes_that_its_messages_have_without_the_wrapped_key() {
    let mut outbox = outbox(BatchLimits { bytes: 16 * 1_024, ..BatchLimits::default() });
    outbox.connected(&ACCEPTED);
    push(&mut outbox, 0..60, 1);
    assert_eq!(sizes(&mut outbox, 5_000), [1_320; 12], "each carries it");
    answered(&mut outbox, &ack(1, &[]), 5_000);
    assert_eq!(sizes(&mut outbox, 5_000), [200; 48], "the session is there: all the others fit");
}

#[test]
fn only_an_acknowledgement_lets_messages_go_without_the_wrapped_key_and_only_of_its_own_priority() {
    let mut outbox = connected();
    push_with(&mut outbox, 0, 1, Priority::Normal);
    assert_eq!(sizes(&mut outbox, 0), [1_320]);
    push_with(&mut outbox, 1, 1, Priority::Normal);
    assert_eq!(sizes(&mut outbox, 5_000), [1_320], "the first one is in flight");
    // The opener is refused, for good; what was in flight behind it opens the session as well.
    answered(&mut outbox, &ack(1, &[(1, 0, RejectCode::PolicyDenied)]), 5_000);
    push_with(&mut outbox, 2, 1, Priority::Normal);
    assert_eq!(sizes(&mut outbox, 10_000), [1_320]);
    answered(&mut outbox, &ack(2, &[]), 10_000);
    push_with(&mut outbox, 3, 1, Priority::Normal);
    push_with(&mut outbox, 4, 1, Priority::High);
    assert_eq!(sizes(&mut outbox, 15_000), [200, 1_320], "a more urgent one may overtake the opener");
}

#[test]
fn an_opener_that_waits_for_a_full_mailbox_frees_nobody_until_it_is_in() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    assert_eq!(sizes(&mut outbox, 0), [1_320]);
    answered(&mut outbox, &ack(1, &[(1, 0, RejectCode::MailboxFull)]), 0);
    push(&mut outbox, 1..2, 1);
    let retry_us = outbox.deadline_us(0).unwrap();
    assert_eq!(sizes(&mut outbox, retry_us), [1_320, 1_320]);
    // The node had it after all, from a connection that broke: a duplicate is durable, too.
    answered(&mut outbox, &ack(2, &[(2, 0, RejectCode::Duplicate), (2, 1, RejectCode::PolicyDenied)]), retry_us);
    push(&mut outbox, 2..3, 1);
    assert_eq!(sizes(&mut outbox, retry_us), [200]);
}

#[test]
fn a_recipient_with_another_key_gets_its_messages_again_in_order_and_under_their_ids() {
    let mut outbox = connected();
    push(&mut outbox, 0..3, 1);
    push(&mut outbox, 3..4, 2);
    assert_eq!(pump(&mut outbox, 5_000), [(1, vec![(1, 0), (1, 1), (1, 2), (2, 3)])]);
    let old = [0, 1, 2].map(|index| (1, index, RejectCode::UnknownRecipientKey));
    assert_eq!(answered(&mut outbox, &ack(1, &old), 5_000).len(), 1, "the other recipient's");
    assert_eq!(outbox.take_fetches(), [AgentId([1; 16])], "asked for once");
    push(&mut outbox, 4..5, 1);
    push(&mut outbox, 5..6, 2);
    assert_eq!(pump(&mut outbox, 9_000), [(2, vec![(2, 5)])], "what follows to the same recipient waits with them");
    outbox.fetched(AgentId([1; 16]), Ok(identity(1)), &mut Vec::new());
    let job = outbox.next_job(19_000).unwrap();
    assert!(job.messages.iter().all(|message| message.plain().header.key_id == identity(1).sealing.key_id()));
    assert!(job.under.iter().all(|planned| planned.as_ref().unwrap().carries), "a new session");
    outbox.sealed(sealed(job));
    let (sequence, messages) = read(&outbox.next_frame().unwrap());
    assert_eq!((sequence, messages), (3, vec![(1, 0), (1, 1), (1, 2), (1, 4)]));
    assert_eq!(answered(&mut outbox, &ack(3, &[]), 19_000).len(), 5);
}

#[test]
fn a_message_that_was_sealed_again_frees_nobody_when_the_node_has_it_from_an_earlier_connection() {
    let mut outbox = connected();
    push_with(&mut outbox, 0, 1, Priority::Normal);
    assert_eq!(sizes(&mut outbox, 0), [1_320]);
    // The node stores it, the answer is lost, and the recipient replaces its key.
    outbox.lost();
    outbox.connected(&ACCEPTED);
    assert_eq!(pump(&mut outbox, 5_000), [(1, vec![(1, 0)])]);
    answered(&mut outbox, &ack(1, &[(1, 0, RejectCode::UnknownRecipientKey)]), 5_000);
    outbox.fetched(AgentId([1; 16]), Ok(identity(1)), &mut Vec::new());
    // Sealed again, it opens a session that nobody will read of: what is stored is the first envelope.
    assert_eq!(sizes(&mut outbox, 10_000), [1_320]);
    let answers = answered(&mut outbox, &ack(2, &[(2, 0, RejectCode::Duplicate)]), 10_000);
    assert!(answers[0].1.as_ref().unwrap().was_duplicate);
    push_with(&mut outbox, 1, 1, Priority::Normal);
    assert_eq!(sizes(&mut outbox, 15_000), [1_320], "nothing that opens its session is in the mailbox");
    answered(&mut outbox, &ack(3, &[]), 15_000);
    push_with(&mut outbox, 2, 1, Priority::Normal);
    assert_eq!(sizes(&mut outbox, 20_000), [200]);
}

#[test]
fn a_recipient_whose_key_is_refused_for_ever_is_given_up_after_some_pauses() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    let (mut now_us, mut sent) = (0, 0);
    let error = loop {
        let [(sequence, _)] = pump(&mut outbox, now_us)[..] else { panic!("one batch") };
        sent += 1;
        let refused = [(sequence, 0, RejectCode::UnknownRecipientKey)];
        let mut answers = answered(&mut outbox, &ack(sequence, &refused), now_us);
        if let Some((_, answer)) = answers.pop() {
            break answer.unwrap_err();
        }
        assert_eq!(outbox.take_fetches().len(), 1);
        outbox.fetched(AgentId([1; 16]), Ok(identity(0)), &mut Vec::new());
        now_us = outbox.deadline_us(now_us).unwrap_or(now_us);
    };
    assert!(matches!(error, SendError::Refused { code: RejectCode::UnknownRecipientKey, .. }));
    assert_eq!(sent, 1 + RESEALS_MAX);
    assert!(now_us > 300_000, "{now_us} us is no time for a node to learn a key");
}

#[test]
fn when_the_record_cannot_be_had_those_that_wait_for_it_are_told_so_and_the_others_go_on() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    pump(&mut outbox, 0);
    push(&mut outbox, 1..2, 1);
    answered(&mut outbox, &ack(1, &[(1, 0, RejectCode::UnknownRecipientKey)]), 0);
    outbox.take_fetches();
    let mut answers = Vec::new();
    outbox.fetched(AgentId([1; 16]), Err(LookupError::Refused(RejectCode::UnknownAgent)), &mut answers);
    assert_eq!(answers.len(), 1);
    let error = answers.pop().unwrap().answer.unwrap_err();
    assert!(matches!(error, SendError::Recipient { .. }) && error.to_string().contains("acme/worker"), "{error}");
    assert_eq!(pump(&mut outbox, 5_000), [(2, vec![(1, 1)])]);
}

#[test]
fn a_node_says_when_to_try_again_and_is_obeyed() {
    let mut outbox = connected();
    push(&mut outbox, 0..3, 1);
    pump(&mut outbox, 5_000);
    let result = SubmitResult { retry_after: 30, ..SubmitResult::new(1, 0, RejectCode::StorageFull) };
    let answers = answered(&mut outbox, &SubmitAck { through_sequence: 1, pause_ms: 0, results: vec![result] }, 5_000);
    assert_eq!(answers.len(), 2);
    assert_eq!(outbox.deadline_us(9_000), Some(305_000), "300 ms after the refusal");
    assert_eq!(pump(&mut outbox, 305_000), [(2, vec![(1, 0)])]);
}

#[test]
fn a_node_that_fills_up_is_sent_nothing_new_for_the_pause_it_asks_for() {
    let mut outbox = connected();
    push(&mut outbox, 0..3, 1);
    pump(&mut outbox, 5_000);
    answered(&mut outbox, &SubmitAck { through_sequence: 1, pause_ms: 250, results: Vec::new() }, 5_000);
    push(&mut outbox, 3..4, 1);
    assert!(pump(&mut outbox, 254_000).is_empty());
    assert_eq!(pump(&mut outbox, 255_000), [(2, vec![(1, 3)])]);
}
