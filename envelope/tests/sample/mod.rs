//! Well-formed values to start from, and buffers as the framing layer hands them out.

use creto_envelope::channel::frames::{
    ChannelAck, ChannelAttach, ChannelCredit, ChannelDeliver, ChannelDetach, ChannelLeave, ChannelLeft, ChannelMembers,
    ChannelNack, ChannelRequest, ChannelSubscribe, ChannelSubscribed, GiveBack, LeaveMode, Start,
    encode_channel_response,
};
use creto_envelope::channel::listing::{ChannelList, ChannelListed};
use creto_envelope::channel::{
    ChannelName, ChannelPattern, ChannelRecord, Publishing, SignedChannelRecord, Subscribing,
};
use creto_envelope::control::{
    KeyRecordPublish, KeyRecordPublished, KeyRecordRequest, Login, LoginAccepted, Reject, RotationMode, StreamOpen,
    StreamRole,
};
use creto_envelope::deliver::{
    ConsumerAck, ConsumerNack, Credit, DeliverEncoder, MessageToDeliver, Nack, Subscribe, Subscribed,
};
use creto_envelope::enrol::{Enrol, Enrolled};
use creto_envelope::envelope::FLAG_EPHEMERAL;
use creto_envelope::key_log::{
    KEY_LEAF_BYTES, KeyLeaves, KeyLeavesRequest, KeyLogRefusal, KeyProof, KeyProofRequest, ProvenKey,
};
use creto_envelope::letters::{
    DeadLetterChange, DeadLetterChanged, DeadLetterEntry, DeadLetterList, DeadLetterRead, DeadLetters, DeathCause,
    LetterChange,
};
use creto_envelope::limits::{AEAD_TAG_BYTES, WRAPPED_KEY_BYTES};
use creto_envelope::notice::{Notice, NoticeBody, NoticeCause};
use creto_envelope::prekeys::{
    Prekey, PrekeyBatch, PrekeyClaim, PrekeyClaimed, PrekeyKind, PrekeySignature, PrekeyStock, PrekeyStockRequest,
    PrekeyStockTold, PrekeyUploaded, SignedPrekey, encode_prekey_upload,
};
use creto_envelope::presence::{PresenceAnswer, PresenceAudience, PresenceRequest, PresenceShow, PresenceState};
use creto_envelope::signal::SignalCredit;
use creto_envelope::submit::{SubmitAck, SubmitResult, WHOLE_BATCH};
use creto_envelope::{
    AgentId, AgentName, AgentState, BatchHeader, ChannelId, EnvelopeHeader, FrameType, GroupId, InSession, KeyId,
    KeyRecord, MessageId, RejectCode, SignedKeyRecord, Statement, TrustDomain,
};
use rkyv::util::AlignedVec;

/// A copy that starts at a multiple of eight.
pub(crate) fn aligned(bytes: &[u8]) -> AlignedVec {
    let mut out = AlignedVec::new();
    out.extend_from_slice(bytes);
    out
}

/// A header of the sealed suite for this many bytes of plaintext.
pub(crate) fn envelope_header(plaintext_bytes: usize) -> EnvelopeHeader {
    let id = MessageId::from_parts(1_700_000_000_000, [7; 10]);
    EnvelopeHeader::sealed(AgentId([1; 16]), AgentId([2; 16]), KeyId([3; 16]), id, 1_700_000_000_001, plaintext_bytes)
        .unwrap()
}

/// An envelope with this many bytes of plaintext; nobody can open it.
pub(crate) fn envelope(plaintext_bytes: usize) -> Vec<u8> {
    let mut bytes = envelope_header(plaintext_bytes).to_bytes().to_vec();
    bytes.resize(bytes.len() + WRAPPED_KEY_BYTES + plaintext_bytes + AEAD_TAG_BYTES, 0xab);
    bytes
}

/// A header of the session suite for this many bytes of plaintext.
pub(crate) fn session_header(plaintext_bytes: usize, counter: u64, with_wrapped_key: bool) -> EnvelopeHeader {
    let id = MessageId::from_parts(1_700_000_000_000, [7; 10]);
    let position = InSession { session_id: [6; 16], counter, with_wrapped_key };
    let (sender, recipient, key_id) = (AgentId([1; 16]), AgentId([2; 16]), KeyId([3; 16]));
    EnvelopeHeader::session(sender, recipient, key_id, id, 1_700_000_000_001, plaintext_bytes, &position).unwrap()
}

/// An envelope of the session suite with this many bytes of plaintext; nobody can open it.
pub(crate) fn session_envelope(plaintext_bytes: usize, counter: u64, with_wrapped_key: bool) -> Vec<u8> {
    let header = session_header(plaintext_bytes, counter, with_wrapped_key);
    let mut bytes = header.to_bytes().to_vec();
    bytes.resize(header.envelope_bytes(), 0xab);
    bytes
}

/// An envelope of the channel suite with this many bytes of plaintext; nobody can open it.
pub(crate) fn published_envelope(plaintext_bytes: usize, counter: u64) -> Vec<u8> {
    let id = MessageId::from_parts(1_700_000_000_000, [7; 10]);
    let (sender, channel) = (AgentId([1; 16]), ChannelId([2; 16]));
    let header =
        EnvelopeHeader::published(sender, channel, id, 1_700_000_000_001, plaintext_bytes, [6; 16], counter).unwrap();
    let mut bytes = header.to_bytes().to_vec();
    bytes.resize(header.envelope_bytes(), 0xab);
    bytes
}

/// A batch header that announces this many envelopes; its signatures are noise.
pub(crate) fn batch_header(tree_size: u32) -> BatchHeader {
    let statement = Statement {
        sender: AgentId([1; 16]),
        key_record_version: 3,
        tree_size,
        root: [9; 32],
        signed_at_ms: 1_700_000_000_002,
    };
    BatchHeader::new(&statement, &[4; 64], &[5; 3309])
}

/// A key record whose keys are noise and whose ids fit them.
pub(crate) fn key_record() -> KeyRecord {
    KeyRecord {
        version: 2,
        state: AgentState::Active,
        valid_from_ms: 1_700_000_000_000,
        valid_until_ms: 1_800_000_000_000,
        ed25519: [1; 32],
        x25519: [2; 32],
        ml_dsa_65: Box::new([3; 1952]),
        ml_kem_768: Box::new([4; 1184]),
        name: AgentName::parse("acme/planner").unwrap(),
        trust_domain: TrustDomain::default(),
        fn_dsa_512: None,
        purpose: None,
    }
}

/// [`key_record`] with noise for signatures.
pub(crate) fn signed_key_record() -> SignedKeyRecord {
    SignedKeyRecord { record: key_record(), ed25519: [5; 64], ml_dsa_65: Box::new([6; 3309]) }
}

/// A whole Deliver frame with messages of these plaintext lengths and path lengths.
pub(crate) fn deliver_frame(with_header: bool, messages: &[(usize, usize)]) -> Vec<u8> {
    let mut out = Vec::new();
    let header = batch_header(9).to_bytes();
    let mut encoder = DeliverEncoder::begin(&mut out, with_header.then_some(&header[..]));
    for (index, &(plaintext_bytes, path_nodes)) in (0..).zip(messages) {
        encoder.push(&MessageToDeliver {
            mailbox_sequence: 1_000 + u64::from(index),
            leaf_index: index,
            attempt: 1,
            salt: &[8; 16],
            path: &vec![[6; 32]; path_nodes],
            envelope: &envelope(plaintext_bytes),
        });
    }
    encoder.finish();
    out
}

/// A signal with this many bytes of plaintext; nobody can open it.
pub(crate) fn signal(plaintext_bytes: usize) -> Vec<u8> {
    let header = EnvelopeHeader { flags: FLAG_EPHEMERAL, ttl_s: 10, ..envelope_header(plaintext_bytes) };
    let mut bytes = header.to_bytes().to_vec();
    bytes.resize(header.envelope_bytes(), 0xab);
    bytes
}

/// A whole Signal frame.
pub(crate) fn signal_frame() -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = DeliverEncoder::begin_signal(&mut out, &batch_header(9).to_bytes());
    for leaf_index in [3, 8] {
        encoder.push(&MessageToDeliver {
            mailbox_sequence: 0,
            leaf_index,
            attempt: 0,
            salt: &[8; 16],
            path: &[[6; 32]; 2],
            envelope: &signal(5),
        });
    }
    encoder.finish();
    out
}

/// A whole DeadLetter frame.
pub(crate) fn dead_letter_frame() -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = DeliverEncoder::begin_letter(&mut out, &batch_header(9).to_bytes());
    encoder.push(&MessageToDeliver {
        mailbox_sequence: 1_000,
        leaf_index: 3,
        attempt: 20,
        salt: &[8; 16],
        path: &[[6; 32]; 2],
        envelope: &envelope(5),
    });
    encoder.finish();
    out
}

/// A whole ChannelDeliver frame with one message.
pub(crate) fn channel_deliver_frame(with_header: bool) -> Vec<u8> {
    let (mut body, header) = (Vec::new(), batch_header(9).to_bytes());
    let mut encoder = DeliverEncoder::begin_body(&mut body, with_header.then_some(&header[..]));
    encoder.push(&MessageToDeliver {
        mailbox_sequence: 900,
        leaf_index: 3,
        attempt: 0,
        salt: &[8; 16],
        path: &[[6; 32]; 4],
        envelope: &published_envelope(21, 70),
    });
    assert_eq!(encoder.finish(), 1);
    let mut out = Vec::new();
    ChannelDeliver::encode_head(&mut out, 5, body.len());
    out.extend_from_slice(&body);
    out
}

/// Two subscribers of a channel, one of whom joined and one left unless it is the whole list.
pub(crate) fn channel_members(is_whole: bool) -> ChannelMembers {
    let (joined, left) = match is_whole {
        true => (vec![AgentId([1; 16]), AgentId([2; 16])], vec![]),
        false => (vec![AgentId([1; 16])], vec![AgentId([2; 16])]),
    };
    ChannelMembers { channel: ChannelId([7; 16]), version: 4, is_whole, joined, left }
}

/// The record of a channel with one publisher and one subscriber; its signatures are noise.
pub(crate) fn signed_channel_record() -> SignedChannelRecord {
    let record = ChannelRecord {
        name: ChannelName::parse("acme/alerts.eu").unwrap(),
        trust_domain: TrustDomain::default(),
        version: 2,
        owner: AgentId([1; 16]),
        owner_key_version: 3,
        signed_at_ms: 1_700_000_000_006,
        subscribing: Subscribing::Allowlist(vec![AgentId([2; 16])]),
        publishing: Publishing::Listed(vec![AgentId([3; 16])]),
        has_history: true,
        is_deleted: false,
        retention_s: 86_400,
        messages_max: 1_000,
        bytes_max: 1_000_000,
        subscribers_max: 10,
    };
    SignedChannelRecord { record, ed25519: [5; 64], ml_dsa_65: Box::new([6; 3309]) }
}

/// A list of two dead letters.
pub(crate) fn dead_letters() -> DeadLetters {
    let letter = DeadLetterEntry {
        mailbox_sequence: 1_000,
        died_ms: 1_700_000_000_004,
        expiry_ms: 1_700_600_000_000,
        envelope_bytes: 1_296,
        reason: 7,
        cause: DeathCause::Rejected,
        deliveries: 1,
    };
    let other = DeadLetterEntry {
        mailbox_sequence: 1_001,
        expiry_ms: 0,
        reason: 0,
        cause: DeathCause::Deliveries,
        deliveries: 20,
        ..letter
    };
    DeadLetters { total: 12, letters: vec![letter, other] }
}

/// A whole SignedBatch frame with envelopes of these plaintext lengths.
pub(crate) fn signed_batch_frame(plaintext_lengths: &[usize]) -> Vec<u8> {
    let envelopes: Vec<_> = plaintext_lengths.iter().map(|&length| envelope(length)).collect();
    let header = batch_header(u32::try_from(envelopes.len()).unwrap());
    let mut out = Vec::new();
    let entries = envelopes.iter().map(|envelope| (&[0x5a; 16], &envelope[..]));
    creto_envelope::batch::encode_signed_batch(&mut out, 42, &header, entries).unwrap();
    out
}

/// One whole frame of each type (two of Deliver: with and without a batch header).
pub(crate) fn frames() -> Vec<(FrameType, Vec<u8>)> {
    fn frame(frame_type: FrameType, encode: impl FnOnce(&mut Vec<u8>)) -> (FrameType, Vec<u8>) {
        let mut out = Vec::new();
        encode(&mut out);
        (frame_type, out)
    }
    let login =
        Login { agent: AgentId([1; 16]), key_record_version: 2, ed25519: [4; 64], ml_dsa_65: Box::new([5; 3309]) };
    let accepted = LoginAccepted {
        node_time_ms: 1_700_000_000_003,
        shard_index: 1,
        shard_count: 2,
        in_flight_messages_max: 16_384,
        batch_messages_max: 1_024,
        batch_bytes_max: 2 * 1024 * 1024,
    };
    let ack = SubmitAck {
        through_sequence: 7,
        pause_ms: 120,
        results: vec![
            SubmitResult::new(6, 3, RejectCode::StorageFull),
            SubmitResult::new(7, WHOLE_BATCH, RejectCode::BadSignature),
        ],
    };
    vec![
        frame(FrameType::StreamOpen, |out| StreamOpen { role: StreamRole::Submit }.encode(out)),
        frame(FrameType::Login, |out| login.encode(out)),
        frame(FrameType::LoginAccepted, |out| accepted.encode(out)),
        frame(FrameType::Reject, |out| {
            Reject { code: 500, retry_after_ms: 250, context: [9; 16] }.encode(out);
        }),
        frame(FrameType::KeyRecordRequest, |out| {
            KeyRecordRequest { agent: AgentId([2; 16]), version: 1 }.encode(out);
        }),
        frame(FrameType::KeyRecordResponse, |out| {
            creto_envelope::control::encode_key_record_response(out, &signed_key_record());
        }),
        frame(FrameType::KeyRecordPublish, |out| {
            KeyRecordPublish { mode: RotationMode::Emergency, record: signed_key_record() }.encode(out);
        }),
        frame(FrameType::KeyRecordPublished, |out| KeyRecordPublished { version: 2 }.encode(out)),
        frame(FrameType::Enrol, |out| Enrol { token: &[5; 32], record: signed_key_record() }.encode(out)),
        frame(FrameType::Enrolled, |out| Enrolled::Created.encode(out)),
        frame(FrameType::Enrolled, |out| Enrolled::Refused(1_026).encode(out)),
        (FrameType::SignedBatch, signed_batch_frame(&[0, 5, 32])),
        frame(FrameType::SubmitAck, |out| ack.encode(out)),
        frame(FrameType::Subscribe, |out| Subscribe { mailbox: AgentId([2; 16]) }.encode(out)),
        frame(FrameType::Subscribed, |out| {
            Subscribed { mailbox: AgentId([2; 16]), queued_messages: 12 }.encode(out);
        }),
        frame(FrameType::Credit, |out| Credit { messages: 256, bytes: 1_048_576 }.encode(out)),
        (FrameType::Deliver, deliver_frame(true, &[(0, 4), (5, 1)])),
        (FrameType::Deliver, deliver_frame(false, &[(3, 0)])),
        frame(FrameType::ConsumerAck, |out| ConsumerAck { sequences: vec![1_000, 1_001] }.encode(out)),
        frame(FrameType::ConsumerNack, |out| {
            let messages = vec![
                (1_000, Nack::Later { delay_ms: 250 }),
                (1_001, Nack::Never { reason: 7 }),
                (1_002, Nack::Untouched),
            ];
            ConsumerNack { messages }.encode(out);
        }),
        frame(FrameType::Notice, |out| {
            let body = NoticeBody {
                recipient: AgentId([2; 16]),
                message_id: MessageId([3; 16]),
                expired_at_ms: 1_700_000_000_009,
                cause: NoticeCause::Retention,
            };
            Notice::encode(out, 1_002, 3, &body.to_bytes());
        }),
        frame(FrameType::SignalCredit, |out| SignalCredit { signals: 64 }.encode(out)),
        (FrameType::Signal, signal_frame()),
        frame(FrameType::PresenceShow, |out| PresenceShow { audience: PresenceAudience::Senders }.encode(out)),
        frame(FrameType::PresenceRequest, |out| PresenceRequest { agent: AgentId([2; 16]) }.encode(out)),
        frame(FrameType::PresenceAnswer, |out| {
            PresenceAnswer { agent: AgentId([2; 16]), state: PresenceState::Seen { minutes: 7 } }.encode(out);
        }),
        frame(FrameType::PresenceAnswer, |out| {
            PresenceAnswer { agent: AgentId([2; 16]), state: PresenceState::Online }.encode(out);
        }),
        frame(FrameType::DeadLetterList, |out| {
            DeadLetterList { mailbox: AgentId([2; 16]), after: 1_000, letters_max: 100 }.encode(out);
        }),
        frame(FrameType::DeadLetters, |out| dead_letters().encode(out)),
        frame(FrameType::DeadLetterRead, |out| {
            DeadLetterRead { mailbox: AgentId([2; 16]), mailbox_sequence: 1_000 }.encode(out);
        }),
        (FrameType::DeadLetter, dead_letter_frame()),
        frame(FrameType::DeadLetterChange, |out| {
            let change = LetterChange::Replay;
            DeadLetterChange { mailbox: AgentId([2; 16]), change, sequences: vec![1_000, 1_001] }.encode(out);
        }),
        frame(FrameType::DeadLetterChanged, |out| DeadLetterChanged { count: 2 }.encode(out)),
        frame(FrameType::PrekeyUpload, |out| encode_prekey_upload(out, &prekey_batch(2))),
        frame(FrameType::PrekeyUploaded, |out| PrekeyUploaded { answer: Ok(128) }.encode(out)),
        frame(FrameType::PrekeyUploaded, |out| {
            PrekeyUploaded { answer: Err(RejectCode::Overloaded.into()) }.encode(out);
        }),
        frame(FrameType::PrekeyClaim, |out| PrekeyClaim { agent: AgentId([2; 16]) }.encode(out)),
        frame(FrameType::PrekeyClaimed, |out| {
            PrekeyClaimed { agent: AgentId([2; 16]), answer: Ok(signed_prekey()) }.encode(out);
        }),
        frame(FrameType::PrekeyClaimed, |out| {
            PrekeyClaimed { agent: AgentId([2; 16]), answer: Err(RejectCode::NoPrekey.into()) }.encode(out);
        }),
        frame(FrameType::PrekeyStockRequest, |out| PrekeyStockRequest.encode(out)),
        frame(FrameType::PrekeyStock, |out| {
            let stock = PrekeyStock { key_record_version: 3, one_time: 31, last_resort: true, is_notice: true };
            PrekeyStockTold { answer: Ok(stock) }.encode(out);
        }),
        frame(FrameType::PrekeyStock, |out| {
            PrekeyStockTold { answer: Err(RejectCode::ShuttingDown.into()) }.encode(out);
        }),
        frame(FrameType::KeyProofRequest, |out| {
            KeyProofRequest { agent: AgentId([2; 16]), version: 3, seen: 700, wants_keys: true }.encode(out);
        }),
        frame(FrameType::KeyProof, |out| key_proof(Ok(proven_key())).encode(out)),
        frame(FrameType::KeyProof, |out| key_proof(Err(RejectCode::Overloaded.into())).encode(out)),
        frame(FrameType::KeyLeavesRequest, |out| KeyLeavesRequest { from: 700, through: 703 }.encode(out)),
        frame(FrameType::KeyLeaves, |out| {
            KeyLeaves { from: 700, answer: Ok(vec![[8; KEY_LEAF_BYTES], [9; KEY_LEAF_BYTES]]) }.encode(out);
        }),
        frame(FrameType::KeyLeaves, |out| {
            KeyLeaves { from: 700, answer: Err(RejectCode::ShuttingDown.into()) }.encode(out);
        }),
        frame(FrameType::ChannelSubscribe, |out| {
            let start = Start::Sequence(900);
            ChannelSubscribe { handle: 5, channel: ChannelId([7; 16]), group: GroupId([8; 16]), start }.encode(out);
        }),
        frame(FrameType::ChannelSubscribe, |out| {
            let (channel, group) = (ChannelId([7; 16]), GroupId::NONE);
            ChannelSubscribe { handle: 5, channel, group, start: Start::GoOn }.encode(out);
        }),
        frame(FrameType::ChannelSubscribed, |out| {
            let (oldest_sequence, newest_sequence) = (850, 1_002);
            let channel = ChannelId([7; 16]);
            ChannelSubscribed { handle: 5, channel, next_sequence: 900, oldest_sequence, newest_sequence }.encode(out);
        }),
        frame(FrameType::ChannelCredit, |out| {
            ChannelCredit { handle: 5, messages: 256, bytes: 1_048_576 }.encode(out);
        }),
        (FrameType::ChannelDeliver, channel_deliver_frame(true)),
        (FrameType::ChannelDeliver, channel_deliver_frame(false)),
        frame(FrameType::ChannelAck, |out| ChannelAck { handle: 5, sequences: vec![900, 902] }.encode(out)),
        frame(FrameType::ChannelNack, |out| {
            ChannelNack { handle: 5, how: GiveBack::Untouched, sequences: vec![900, 902] }.encode(out);
        }),
        frame(FrameType::ChannelNack, |out| {
            ChannelNack { handle: 5, how: GiveBack::Later { delay_ms: 1_500 }, sequences: vec![900] }.encode(out);
        }),
        frame(FrameType::ChannelLeave, |out| ChannelLeave { handle: 5, mode: LeaveMode::Unsubscribe }.encode(out)),
        frame(FrameType::ChannelLeft, |out| ChannelLeft::as_asked(5).encode(out)),
        frame(FrameType::ChannelLeft, |out| ChannelLeft::because(5, RejectCode::ChannelFull).encode(out)),
        frame(FrameType::ChannelAttach, |out| ChannelAttach { channel: ChannelId([7; 16]) }.encode(out)),
        frame(FrameType::ChannelMembers, |out| channel_members(true).encode(out)),
        frame(FrameType::ChannelMembers, |out| channel_members(false).encode(out)),
        frame(FrameType::ChannelDetach, |out| ChannelDetach { channel: ChannelId([7; 16]) }.encode(out)),
        frame(FrameType::ChannelRequest, |out| ChannelRequest { channel: ChannelId([7; 16]) }.encode(out)),
        frame(FrameType::ChannelResponse, |out| encode_channel_response(out, &signed_channel_record())),
        frame(FrameType::ChannelList, |out| channel_list(None, true).encode(out)),
        frame(FrameType::ChannelList, |out| channel_list(Some(ChannelId([7; 16])), false).encode(out)),
        frame(FrameType::ChannelListed, |out| {
            let names = ["acme/alerts.db.critical", "acme/alerts.eu.critical"];
            let names = names.iter().map(|name| ChannelName::parse(name).unwrap()).collect();
            ChannelListed::Page { context: [3; 16], next: Some(ChannelId([7; 16])), names }.encode(out);
        }),
        frame(FrameType::ChannelListed, |out| {
            ChannelListed::Page { context: [3; 16], next: None, names: Vec::new() }.encode(out);
        }),
        frame(FrameType::ChannelListed, |out| ChannelListed::Changed { context: [3; 16] }.encode(out)),
    ]
}

fn channel_list(after: Option<ChannelId>, is_watched: bool) -> ChannelList {
    let pattern = ChannelPattern::parse("acme/alerts.*.critical").unwrap();
    ChannelList { context: [3; 16], after, is_watched, pattern }
}

/// So many prekeys of one agent, and one of last resort; nobody has the keys.
pub(crate) fn prekey_batch(one_time: u8) -> PrekeyBatch {
    let prekey =
        |kind, fill| Prekey { kind, x25519: [fill; 32], ml_kem_768: Box::new([fill.wrapping_add(100); 1_184]) };
    let mut prekeys: Vec<_> = (0..one_time).map(|fill| prekey(PrekeyKind::OneTime, fill)).collect();
    prekeys.push(prekey(PrekeyKind::LastResort, 0xee));
    let signature = PrekeySignature {
        key_record_version: 3,
        signed_at_ms: 1_700_000_000_004,
        ed25519: [6; 64],
        ml_dsa_65: Box::new([7; 3_309]),
    };
    PrekeyBatch { agent: AgentId([2; 16]), signature, prekeys }
}

/// The second of three prekeys.
pub(crate) fn signed_prekey() -> SignedPrekey {
    let PrekeyBatch { signature, prekeys, .. } = prekey_batch(2);
    SignedPrekey { signature, count: 3, index: 1, prekey: prekeys[1].clone(), path: vec![[8; 32], [9; 32]] }
}

fn key_proof(answer: Result<ProvenKey, KeyLogRefusal>) -> KeyProof {
    KeyProof { agent: AgentId([2; 16]), version: 3, answer }
}

fn proven_key() -> ProvenKey {
    ProvenKey {
        size: 703,
        index: 5,
        leaf: [7; KEY_LEAF_BYTES],
        path: vec![[1; 32], [2; 32]],
        consistency: vec![[3; 32]],
        note: b"a head\n".to_vec(),
        keys: b"keys\n".to_vec(),
    }
}
