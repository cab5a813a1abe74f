//! Every frame, held to the pages: it comes back as it was sent, and nothing that is not whole and exact is accepted.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod canonical;
#[allow(dead_code, reason = "each test file takes what it needs")]
mod sample;

use canonical::{reencode, reencode_batch_header, reencode_envelope};
use creto_envelope::control::{
    KeyRecordPublish, KeyRecordPublished, KeyRecordRequest, Login, LoginAccepted, Reject, RotationMode, StreamOpen,
    StreamRole,
};
use creto_envelope::deliver::{
    ConsumerAck, ConsumerNack, Credit, DeliverEncoder, MessageToDeliver, Nack, Subscribe, Subscribed,
};
use creto_envelope::enrol::{Enrol, Enrolled};
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::submit::{SubmitAck, SubmitResult};
use creto_envelope::{AgentId, FrameHeader, FrameType, RejectCode, SignedKeyRecord};
use proptest::prelude::*;
use sample::{aligned, batch_header, envelope, frames, published_envelope, session_envelope};

fn split(frame: &[u8]) -> (FrameHeader, &[u8]) {
    let (header, body) = frame.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
    (FrameHeader::parse(header).unwrap(), body)
}

/// Whatever is done to a byte of `original`, the parser refuses it or understands exactly what now stands there.
#[track_caller]
fn check_mutations(original: &[u8], reencode: impl Fn(&[u8]) -> Result<Vec<u8>, RejectCode>) {
    let mut bytes = aligned(original);
    for index in 0..original.len() {
        for mask in [0x01, 0x80, 0xff, 1 << (index % 8)] {
            bytes[index] ^= mask;
            if let Ok(again) = reencode(&bytes) {
                assert!(again == bytes[..], "byte {index} xor {mask:#04x} is understood as something else");
            }
            bytes[index] ^= mask;
        }
    }
    assert_eq!(bytes[..], *original, "every mutation was taken back");
}

#[track_caller]
fn check_truncations(original: &[u8], reencode: impl Fn(&[u8]) -> Result<Vec<u8>, RejectCode>) {
    let bytes = aligned(original);
    for length in 0..original.len() {
        assert!(reencode(&bytes[..length]).is_err(), "{length} of {} bytes are accepted", original.len());
    }
}

#[test]
fn there_is_a_sample_of_every_frame() {
    let sampled: Vec<_> = frames().into_iter().map(|(frame_type, _)| frame_type).collect();
    for frame_type in FrameType::ALL {
        assert!(sampled.contains(frame_type), "no sample of {frame_type:?}");
    }
}

#[test]
fn every_frame_comes_back_as_it_was_sent() {
    for (frame_type, frame) in frames() {
        let (header, body) = split(&frame);
        assert_eq!(header, FrameHeader { body_bytes: u32::try_from(body.len()).unwrap(), frame_type });
        assert_eq!(reencode(frame_type, &aligned(body)).unwrap(), frame, "{frame_type:?}");
    }
}

#[test]
fn every_truncation_of_every_frame_is_refused() {
    for (frame_type, frame) in frames() {
        check_truncations(split(&frame).1, |body| reencode(frame_type, body));
    }
}

#[test]
fn bytes_behind_a_frame_are_refused() {
    for (frame_type, frame) in frames() {
        let body = split(&frame).1;
        for extra in [1, 7, 8, 16, 24, 3_448] {
            for fill in [0, 1] {
                let mut longer = body.to_vec();
                longer.resize(body.len() + extra, fill);
                assert!(reencode(frame_type, &aligned(&longer)).is_err(), "{frame_type:?} with {extra} more bytes");
            }
        }
    }
}

#[test]
fn every_changed_byte_of_every_frame_is_refused_or_shows() {
    for (frame_type, frame) in frames() {
        check_mutations(split(&frame).1, |body| {
            reencode(frame_type, body).map(|frame| frame[FRAME_HEADER_BYTES..].to_vec())
        });
    }
}

#[test]
fn every_changed_or_missing_byte_of_an_envelope_is_refused_or_shows() {
    for plaintext_bytes in [0, 1, 40] {
        check_mutations(&envelope(plaintext_bytes), reencode_envelope);
        check_truncations(&envelope(plaintext_bytes), reencode_envelope);
        for with_wrapped_key in [false, true] {
            let envelope = session_envelope(plaintext_bytes, 77, with_wrapped_key);
            check_mutations(&envelope, reencode_envelope);
            check_truncations(&envelope, reencode_envelope);
        }
        let published = published_envelope(plaintext_bytes, 65_535);
        check_mutations(&published, reencode_envelope);
        check_truncations(&published, reencode_envelope);
    }
}

#[test]
fn every_changed_or_missing_byte_of_a_batch_header_is_refused_or_shows() {
    let header = batch_header(3).to_bytes();
    check_mutations(&header, reencode_batch_header);
    check_truncations(&header, reencode_batch_header);
}

#[test]
fn every_frame_header_is_refused_or_says_what_it_is() {
    let known = |frame_type: u8| FrameType::from_u8(frame_type).is_some();
    for frame_type in 0..=u8::MAX {
        for version in [0, 1, 2, 255] {
            for reserved in [[0, 0], [1, 0], [0, 1]] {
                let bytes = [4, 0, 0, 0, frame_type, version, reserved[0], reserved[1]];
                let expect = match (version, reserved, known(frame_type)) {
                    (1, [0, 0], true) => Ok(bytes),
                    (1, [0, 0], false) => Err(RejectCode::FrameUnknownType),
                    (1, _, _) => Err(RejectCode::FrameReserved),
                    _ => Err(RejectCode::FrameVersion),
                };
                assert_eq!(FrameHeader::parse(&bytes).map(FrameHeader::to_bytes), expect);
            }
        }
    }
}

#[test]
fn the_numbers_of_the_frame_types_are_those_of_the_page() {
    let numbers: Vec<_> = FrameType::ALL.iter().map(|&frame_type| frame_type as u8).collect();
    let control = [0x01, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a];
    let letters = [0x40, 0x41, 0x42, 0x43, 0x44, 0x45];
    let path = [0x20, 0x21, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39];
    let prekeys = [0x50, 0x51, 0x52, 0x53, 0x54, 0x55];
    let key_log = [0x60, 0x61, 0x62, 0x63];
    let channels = [0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x7b, 0x7c, 0x7d, 0x7e];
    assert_eq!(numbers, [&control[..], &path, &letters, &prekeys, &key_log, &channels].concat());
}

#[test]
fn a_stream_opens_with_one_of_four_roles() {
    let body = |role: u8| [role, 0, 0, 0, 0, 0, 0, 0];
    let roles = [StreamRole::Control, StreamRole::Submit, StreamRole::Deliver, StreamRole::Channels];
    for (number, role) in (1..).zip(roles) {
        assert_eq!(StreamOpen::parse(&body(number)), Ok(StreamOpen { role }));
    }
    for number in (0..=u8::MAX).filter(|number| !(1..=4).contains(number)) {
        assert_eq!(StreamOpen::parse(&body(number)), Err(RejectCode::StreamRole));
    }
    // No priority class but zero is spoken in this version.
    assert_eq!(StreamOpen::parse(&[1, 1, 0, 0, 0, 0, 0, 0]), Err(RejectCode::FrameReserved));
}

#[test]
fn a_key_record_is_published_in_one_of_two_modes() {
    let mut body = encoded(|out| {
        KeyRecordPublish { mode: RotationMode::Planned, record: sample::signed_key_record() }.encode(out);
    })
    .split_off(FRAME_HEADER_BYTES);
    for mode in 0..=u8::MAX {
        body[0] = mode;
        let parsed = KeyRecordPublish::parse(&body).map(|publish| publish.mode as u8);
        assert_eq!(parsed, if mode < 2 { Ok(mode) } else { Err(RejectCode::FrameReserved) });
    }
}

#[test]
fn an_enrolment_says_one_of_three_things_and_never_shows_its_token() {
    for (outcome, code) in (0..=u8::MAX).flat_map(|outcome| [0, 1, u16::MAX].map(|code| (outcome, code))) {
        let [low, high] = code.to_le_bytes();
        let parsed = Enrolled::parse(&[outcome, 0, low, high, 0, 0, 0, 0]);
        assert_eq!(
            parsed,
            match (outcome, code) {
                (0, 0) => Ok(Enrolled::Created),
                (1, 0) => Ok(Enrolled::Known),
                (2, 1..) => Ok(Enrolled::Refused(code)),
                _ => Err(RejectCode::FrameReserved),
            }
        );
    }
    let enrol = Enrol { token: &[0xa5; 32], record: sample::signed_key_record() };
    let body = encoded(|out| enrol.encode(out)).split_off(FRAME_HEADER_BYTES);
    assert_eq!(Enrol::parse(&body), Ok(Enrol { token: &[0xa5; 32], record: sample::signed_key_record() }));
    assert!(!format!("{enrol:?}").contains("165, 165"), "the token is a secret");
    assert_eq!(Enrol::parse(&body[..31]).unwrap_err(), RejectCode::FrameLength);
    assert_eq!(Enrol::parse(&body[..32]).unwrap_err(), SignedKeyRecord::parse(&[]).unwrap_err());
}

#[test]
fn a_dead_letter_is_one_message_with_its_header() {
    let parse =
        |frame: &[u8]| creto_envelope::letters::parse_dead_letter(&aligned(&frame[FRAME_HEADER_BYTES..])).map(drop);
    assert_eq!(parse(&sample::dead_letter_frame()), Ok(()));
    assert_eq!(parse(&sample::deliver_frame(true, &[(0, 1), (0, 1)])), Err(RejectCode::FrameLength));
    assert_eq!(parse(&sample::deliver_frame(true, &[])), Err(RejectCode::FrameLength));
    assert_eq!(parse(&sample::deliver_frame(false, &[(0, 1)])), Err(RejectCode::FrameLength));
}

#[test]
fn a_nacked_message_is_wanted_later_or_never_or_untouched_and_says_nothing_else() {
    let message = |kind: u8, reserved: u8, reason: u16, delay_ms: u32| {
        let mut body = vec![1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, kind, reserved];
        body.extend_from_slice(&reason.to_le_bytes());
        body.extend_from_slice(&delay_ms.to_le_bytes());
        ConsumerNack::parse(&body).map(|nack| nack.messages[0])
    };
    assert_eq!(message(0, 0, 0, 5), Ok((9, Nack::Later { delay_ms: 5 })));
    assert_eq!(message(1, 0, 5, 0), Ok((9, Nack::Never { reason: 5 })));
    assert_eq!(message(2, 0, 0, 0), Ok((9, Nack::Untouched)));
    let more = [message(2, 0, 1, 0), message(2, 0, 0, 1), message(3, 0, 0, 0)];
    for wrong in more.into_iter().chain([message(0, 1, 0, 0), message(0, 0, 1, 0), message(1, 0, 0, 1)]) {
        assert_eq!(wrong, Err(RejectCode::FrameReserved));
    }
}

#[test]
fn a_deliver_frame_knows_no_flag_but_the_batch_header() {
    for bit in 1..32 {
        let mut body = sample::deliver_frame(false, &[(3, 0)])[FRAME_HEADER_BYTES..].to_vec();
        body[4..8].copy_from_slice(&(1u32 << bit).to_le_bytes());
        assert_eq!(reencode(FrameType::Deliver, &aligned(&body)), Err(RejectCode::FrameReserved));
    }
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

fn signature() -> impl Strategy<Value = Box<[u8; 3309]>> {
    any::<u64>().prop_map(|seed| {
        let mut bytes = Box::new([0; 3309]);
        for (byte, value) in bytes.iter_mut().zip(seed.to_le_bytes().into_iter().cycle()) {
            *byte = value;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn control_frames_carry_every_value(
        agent: [u8; 16], version: u32, ed25519: [u8; 32], ml_dsa_65 in signature(),
        node_time_ms: u64, numbers: [u32; 5], code: u16, retry_after_ms: u32, context: [u8; 16],
    ) {
        let agent = AgentId(agent);
        let mut both = [0; 64];
        both[..32].copy_from_slice(&ed25519);
        let login = Login { agent, key_record_version: version, ed25519: both, ml_dsa_65 };
        let frame = encoded(|out| login.encode(out));
        prop_assert_eq!(frame.len(), 8 + 3_400);
        prop_assert_eq!(Login::parse(&frame[8..]).unwrap(), login);

        let [shard_index, shard_count, in_flight_messages_max, batch_messages_max, batch_bytes_max] = numbers;
        let accepted = LoginAccepted {
            node_time_ms, shard_index, shard_count, in_flight_messages_max, batch_messages_max, batch_bytes_max,
        };
        let frame = encoded(|out| accepted.encode(out));
        prop_assert_eq!(frame.len(), 8 + 32);
        prop_assert_eq!(LoginAccepted::parse(&frame[8..]).unwrap(), accepted);

        let reject = Reject { code, retry_after_ms, context };
        let frame = encoded(|out| reject.encode(out));
        prop_assert_eq!(frame.len(), 8 + 24);
        prop_assert_eq!(Reject::parse(&frame[8..]).unwrap(), reject);

        let request = KeyRecordRequest { agent, version };
        let frame = encoded(|out| request.encode(out));
        prop_assert_eq!(frame.len(), 8 + 24);
        prop_assert_eq!(KeyRecordRequest::parse(&frame[8..]).unwrap(), request);

        let published = KeyRecordPublished { version };
        let frame = encoded(|out| published.encode(out));
        prop_assert_eq!(frame.len(), 8 + 8);
        prop_assert_eq!(KeyRecordPublished::parse(&frame[8..]).unwrap(), published);
    }

    #[test]
    fn acknowledgements_and_credit_carry_every_value(
        through_sequence: u64, results in prop::collection::vec(any::<(u64, u32, u16, u16)>(), 0..40),
        sequences in prop::collection::vec(any::<u64>(), 0..40), mailbox: [u8; 16], queued_messages: u64,
        messages: u32, bytes: u32,
    ) {
        let result = |(sequence, index, code, retry_after)| SubmitResult { sequence, index, code, retry_after };
        let ack = SubmitAck { through_sequence, pause_ms: messages, results: results.into_iter().map(result).collect() };
        let frame = encoded(|out| ack.encode(out));
        prop_assert_eq!(frame.len(), 8 + 16 + 16 * ack.results.len());
        prop_assert_eq!(SubmitAck::parse(&frame[8..]).unwrap(), ack);

        let ack = ConsumerAck { sequences };
        let frame = encoded(|out| ack.encode(out));
        prop_assert_eq!(frame.len(), 8 + 8 + 8 * ack.sequences.len());
        prop_assert_eq!(ConsumerAck::parse(&frame[8..]).unwrap(), ack);

        let mailbox = AgentId(mailbox);
        let frame = encoded(|out| Subscribe { mailbox }.encode(out));
        prop_assert_eq!(Subscribe::parse(&frame[8..]).unwrap(), Subscribe { mailbox });
        let subscribed = Subscribed { mailbox, queued_messages };
        let frame = encoded(|out| subscribed.encode(out));
        prop_assert_eq!(Subscribed::parse(&frame[8..]).unwrap(), subscribed);
        let credit = Credit { messages, bytes };
        let frame = encoded(|out| credit.encode(out));
        prop_assert_eq!(Credit::parse(&frame[8..]).unwrap(), credit);
    }

    #[test]
    fn deliver_frames_carry_every_message(
        with_header: bool,
        messages in prop::collection::vec(
            (any::<(u64, u32, u8, [u8; 16])>(), prop::collection::vec(any::<[u8; 32]>(), 0..=10), 0usize..200),
            0..12,
        ),
    ) {
        let header = batch_header(12).to_bytes();
        let mut frame = Vec::new();
        let mut encoder = DeliverEncoder::begin(&mut frame, with_header.then_some(&header[..]));
        for ((mailbox_sequence, leaf_index, attempt, salt), path, plaintext_bytes) in &messages {
            encoder.push(&MessageToDeliver {
                mailbox_sequence: *mailbox_sequence,
                leaf_index: *leaf_index,
                attempt: *attempt,
                salt,
                path,
                envelope: &envelope(*plaintext_bytes),
            });
        }
        prop_assert_eq!(encoder.finish() as usize, messages.len());
        let body = aligned(&frame[8..]);
        let deliver = creto_envelope::deliver::Deliver::parse(&body).unwrap();
        prop_assert_eq!(deliver.batch_header.map(|view| view.as_bytes().to_vec()), with_header.then(|| header.to_vec()));
        prop_assert_eq!(deliver.messages.len(), messages.len());
        for (found, ((sequence, index, attempt, salt), path, plaintext_bytes)) in deliver.messages.iter().zip(&messages) {
            prop_assert_eq!((found.mailbox_sequence, found.leaf_index, found.attempt), (*sequence, *index, *attempt));
            prop_assert_eq!(&found.salt, salt);
            prop_assert_eq!(found.path(&body), &path[..]);
            prop_assert_eq!(&body[found.envelope.clone()], &envelope(*plaintext_bytes)[..]);
        }
        prop_assert_eq!(reencode(FrameType::Deliver, &body).unwrap(), frame);
    }

    #[test]
    fn any_body_of_any_type_is_refused_or_comes_back(
        frame_type in prop::sample::select(FrameType::ALL), body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let body = aligned(&body);
        if let Ok(frame) = reencode(frame_type, &body) {
            prop_assert_eq!(&frame[8..], &body[..]);
        }
    }

    #[test]
    fn any_damage_to_a_frame_is_refused_or_shows(
        pick in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let frames = frames();
        let (frame_type, frame) = &frames[pick.index(frames.len())];
        let mut body = aligned(&frame[8..]);
        for (at, value) in &damage {
            let at = at.index(body.len());
            body[at] = *value;
        }
        if let Ok(frame) = reencode(*frame_type, &body) {
            prop_assert_eq!(&frame[8..], &body[..]);
        }
    }
}

#[test]
fn a_proof_of_the_largest_parts_fits_its_frame_and_no_larger_one_is_read() {
    use creto_envelope::key_log::{KEY_LEAF_BYTES, KeyProof, ProvenKey};
    use creto_envelope::limits::{KEY_LOG_HASHES_MAX, KEY_LOG_KEYS_BYTES_MAX, KEY_LOG_NOTE_BYTES_MAX};
    let largest = ProvenKey {
        size: u64::MAX,
        index: 0,
        leaf: [0; KEY_LEAF_BYTES],
        path: vec![[1; 32]; KEY_LOG_HASHES_MAX],
        consistency: vec![[2; 32]; KEY_LOG_HASHES_MAX],
        note: vec![b'n'; KEY_LOG_NOTE_BYTES_MAX],
        keys: vec![b'k'; KEY_LOG_KEYS_BYTES_MAX],
    };
    let mut frame = Vec::new();
    let proof = KeyProof { agent: AgentId([2; 16]), version: 1, answer: Ok(largest) };
    proof.encode(&mut frame);
    assert_eq!(KeyProof::parse(split(&frame).1), Ok(proof));
    let mut longer = split(&frame).1.to_vec();
    longer[22] = u8::try_from(KEY_LOG_HASHES_MAX + 1).unwrap();
    longer.extend_from_slice(&[1; 32]);
    assert_eq!(KeyProof::parse(&longer), Err(RejectCode::FrameLength));
}
