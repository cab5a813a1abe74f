//! What agents of the patterns send, sealed ahead: which message is what.

use creto_crypto_accel::digest::sha256;
use creto_envelope::attachment::{AttachmentChunk, AttachmentHead, AttachmentId};
use creto_envelope::envelope::FLAG_EPHEMERAL;
use creto_envelope::request::{RequestPayload, ResponsePayload};
use creto_envelope::{EnvelopeHeader, Kind, MessageId, Priority};

use super::{CALLER, OUTSIDER, UPLOADER, WORKER};
use crate::agents::SimAgent;
use crate::clock::START_MS;
use crate::pool::{FIRST_OF_PATTERNS, FIRST_PUBLISHED, MessageNumber, PoolMessage, Recipient, message_id};

/// Those that send, in the order of their messages.
const SENDERS: [usize; 4] = [CALLER, WORKER, OUTSIDER, UPLOADER];
/// Messages of each: no more than the smallest window of ids holds, so that answers may go out in any order.
pub(crate) const MESSAGES_PER_SENDER: usize = 16;
/// All of them.
pub(crate) const PATTERN_MESSAGES: usize = SENDERS.len() * MESSAGES_PER_SENDER;
pub(crate) const REQUESTS: usize = 8;
/// Answers to one request that the worker may give: another one when it comes again.
pub(crate) const COPIES: usize = 2;
pub(crate) const FILES: usize = 2;
/// How often a file may be begun.
pub(crate) const RUNS: usize = 2;
pub(crate) const CHUNKS: usize = 3;
/// Messages of a file: its chunks, and the head behind them.
const PARTS: usize = CHUNKS + 1;
/// Signals of each agent that signals.
pub(crate) const SIGNALS: usize = 8;
/// What every id of a signal has in it, behind its time: whatever is stored is searched for it.
const SIGNAL_MARK: [u8; 8] = [0, 0, 0, 0x51, 0x67, 0x6e, 0x61, 0x6c];
/// The same with version and variant, as it stands in the id.
pub(crate) const SIGNAL_BYTES: [u8; 8] = [0x70, 0, 0x80, 0x51, 0x67, 0x6e, 0x61, 0x6c];
/// How long a signal means something.
const SIGNAL_TTL_S: u32 = 60;
/// Until when it does.
pub(crate) const SIGNAL_END_MS: u64 = START_MS + SIGNAL_TTL_S as u64 * 1_000;
/// Longer than any clock of a run is off: what waits without end does not expire.
const PATIENT_TTL_S: u32 = 7 * 86_400;
const CHUNK_BYTES: u32 = 600;
const FILE_BYTES: u64 = 1_500;

const _: () = assert!(2 * REQUESTS == MESSAGES_PER_SENDER && COPIES * REQUESTS == MESSAGES_PER_SENDER);
const _: () = assert!(REQUESTS == SIGNALS && FILES * RUNS * PARTS == MESSAGES_PER_SENDER);
const _: () = assert!(FILE_BYTES.div_ceil(CHUNK_BYTES as u64) == CHUNKS as u64);

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Request(usize),
    Answer {
        request: usize,
        copy: usize,
    },
    /// An answer of somebody who was not asked.
    Foreign(usize),
    Chunk {
        file: usize,
        run: usize,
        index: usize,
    },
    Head {
        file: usize,
        run: usize,
    },
    Signal,
}

/// The first message of an agent of the patterns.
pub(crate) fn first_of(sender: usize) -> MessageNumber {
    let place = SENDERS.iter().position(|of| *of == sender).expect("the stranger sends nothing");
    FIRST_OF_PATTERNS + place * MESSAGES_PER_SENDER
}

/// What a message is, if it is one of the patterns.
pub(crate) fn part_of(number: MessageNumber) -> Option<Part> {
    let place = number.checked_sub(FIRST_OF_PATTERNS).filter(|_| number < FIRST_PUBLISHED)?;
    let order = place % MESSAGES_PER_SENDER;
    Some(match SENDERS[place / MESSAGES_PER_SENDER] {
        CALLER | OUTSIDER if order % 2 == 1 => Part::Signal,
        CALLER => Part::Request(order / 2),
        OUTSIDER => Part::Foreign(order / 2),
        WORKER => Part::Answer { request: order / COPIES, copy: order % COPIES },
        _ => {
            let (file, run, part) = (order / (RUNS * PARTS), order / PARTS % RUNS, order % PARTS);
            if part == CHUNKS { Part::Head { file, run } } else { Part::Chunk { file, run, index: part } }
        }
    })
}

pub(crate) fn is_signal(number: MessageNumber) -> bool {
    part_of(number) == Some(Part::Signal)
}

pub(crate) fn request(request: usize) -> MessageNumber {
    first_of(CALLER) + 2 * request
}

pub(crate) fn answer(request: usize, copy: usize) -> MessageNumber {
    first_of(WORKER) + COPIES * request + copy
}

pub(crate) fn foreign(request: usize) -> MessageNumber {
    first_of(OUTSIDER) + 2 * request
}

/// A part of a file: a chunk, or the head behind the last one.
pub(crate) fn file_part(file: usize, run: usize, part: usize) -> MessageNumber {
    first_of(UPLOADER) + (file * RUNS + run) * PARTS + part
}

/// Whether a request waits for its answer without end.
pub(crate) fn is_patient(request: usize) -> bool {
    request.is_multiple_of(2)
}

/// Whether these two, which follow each other, may be signed together: what is stored, and a signal behind it.
pub(crate) fn is_pair(first: MessageNumber) -> bool {
    matches!(part_of(first), Some(Part::Request(_) | Part::Foreign(_)))
}

/// The id of a signal.
pub(crate) fn signal_id(number: MessageNumber, time_ms: u64) -> MessageId {
    let [high, low] = u16::try_from(number).expect("a pool holds a few hundred messages").to_be_bytes();
    let mut random = [0; 10];
    random[..SIGNAL_MARK.len()].copy_from_slice(&SIGNAL_MARK);
    random[SIGNAL_MARK.len()..].copy_from_slice(&[high, low]);
    let id = MessageId::from_parts(time_ms, random);
    assert_eq!(id.0[6..14], SIGNAL_BYTES, "a signal's id can be searched for");
    id
}

/// Every message of the patterns, in order.
pub(crate) fn seal_all(agents: &[SimAgent]) -> Vec<PoolMessage> {
    (FIRST_OF_PATTERNS..FIRST_PUBLISHED).map(|number| seal(agents, number)).collect()
}

fn seal(agents: &[SimAgent], number: MessageNumber) -> PoolMessage {
    let place = number - FIRST_OF_PATTERNS;
    let (sender, order) = (SENDERS[place / MESSAGES_PER_SENDER], place % MESSAGES_PER_SENDER);
    let part = part_of(number).expect("a message of the patterns");
    let ttl_of = |request| if is_patient(request) { PATIENT_TTL_S } else { 1 };
    let answered =
        |request| (CALLER, Kind::Response, Priority::High, ttl_of(request), message_id(self::request(request)));
    let (to, kind, priority, ttl_s, correlation_id) = match part {
        Part::Request(request) => (WORKER, Kind::Request, Priority::Normal, ttl_of(request), MessageId::ZERO),
        Part::Answer { request, .. } | Part::Foreign(request) => answered(request),
        Part::Chunk { .. } | Part::Head { .. } => (WORKER, Kind::Direct, Priority::Normal, 0, MessageId::ZERO),
        Part::Signal => (WORKER, Kind::Direct, Priority::Normal, SIGNAL_TTL_S, MessageId::ZERO),
    };
    let plaintext = match part {
        Part::Request(_) => RequestPayload { deadline_ms: START_MS + 1_000, body: b"what is asked" }.to_bytes(),
        Part::Answer { .. } | Part::Foreign(_) => ResponsePayload::Answered(b"what is answered").to_bytes(),
        Part::Chunk { file, index, .. } => chunk(file, index),
        Part::Head { file, .. } => head(file),
        Part::Signal => b"working on it".to_vec(),
    };
    let (from, recipient) = (&agents[sender], &agents[to]);
    let key_id = recipient.record.record.key_id();
    let mut header =
        EnvelopeHeader::sealed(from.id, recipient.id, key_id, message_id(number), START_MS, plaintext.len())
            .expect("a simulated payload is small");
    (header.kind, header.priority, header.ttl_s) = (kind as u8, priority as u8, ttl_s);
    header.correlation_id = correlation_id.0;
    header.flags = if part == Part::Signal { FLAG_EPHEMERAL } else { 0 };
    let envelope = from.seal_under(recipient, &header, &plaintext);
    let expires = ttl_s == 1;
    PoolMessage { sender, to: Recipient::Agent(to), order, priority, expires, wants_notice: false, envelope }
}

/// Bytes of a chunk of a file: all but the last have as many as the head says.
fn content(file: usize, index: usize) -> Vec<u8> {
    let bytes = if index + 1 == CHUNKS { FILE_BYTES % u64::from(CHUNK_BYTES) } else { u64::from(CHUNK_BYTES) };
    let fill = u8::try_from(file * CHUNKS + index).expect("a handful of chunks");
    vec![fill; usize::try_from(bytes).expect("a small chunk")]
}

fn attachment(file: usize) -> AttachmentId {
    AttachmentId([u8::try_from(file).expect("a handful of files"); 16])
}

fn chunk(file: usize, index: usize) -> Vec<u8> {
    let content = content(file, index);
    let index = u32::try_from(index).expect("a handful of chunks");
    let chunk =
        AttachmentChunk { id: attachment(file), index, chunk_bytes: CHUNK_BYTES, bytes: FILE_BYTES, content: &content };
    chunk.to_bytes().expect("a proper chunk")
}

fn head(file: usize) -> Vec<u8> {
    let chunk_hashes: [[u8; 32]; CHUNKS] = std::array::from_fn(|index| sha256(&[&content(file, index)]));
    let head = AttachmentHead {
        id: attachment(file),
        bytes: FILE_BYTES,
        chunk_bytes: CHUNK_BYTES,
        name: "report.pdf",
        media_type: "",
        chunk_hashes: &chunk_hashes,
        note: b"",
    };
    head.to_bytes().expect("a proper head")
}
