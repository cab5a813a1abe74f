//! The oracle of the formats: parses bytes and writes down again what it understood.
//!
//! Every format here has one encoding of each value. So whatever is accepted must come back byte for byte, and a change
//! of any byte is either refused or shows as exactly that change. The fuzz targets hold the parsers to the same rule.

use creto_envelope::batch::{BatchHeader, BatchHeaderView, BatchView, encode_signed_batch, parse_submit_sequence};
use creto_envelope::channel::SignedChannelRecord;
use creto_envelope::channel::frames::{
    CHANNEL_DELIVER_HEADER_BYTES, ChannelAck, ChannelAttach, ChannelCredit, ChannelDeliver, ChannelDetach,
    ChannelLeave, ChannelLeft, ChannelMembers, ChannelNack, ChannelRequest, ChannelSubscribe, ChannelSubscribed,
    encode_channel_response,
};
use creto_envelope::channel::listing::{ChannelList, ChannelListed};
use creto_envelope::control::{
    KeyRecordPublish, KeyRecordPublished, KeyRecordRequest, Login, LoginAccepted, Reject, StreamOpen,
    encode_key_record_response,
};
use creto_envelope::deliver::{
    ConsumerAck, ConsumerNack, Credit, Deliver, DeliverEncoder, MessageToDeliver, Subscribe, Subscribed,
};
use creto_envelope::enrol::{Enrol, Enrolled};
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::key_log::{KeyLeaves, KeyLeavesRequest, KeyProof, KeyProofRequest};
use creto_envelope::letters::{
    DeadLetterChange, DeadLetterChanged, DeadLetterList, DeadLetterRead, DeadLetters, parse_dead_letter,
};
use creto_envelope::notice::Notice;
use creto_envelope::prekeys::{
    PrekeyBatch, PrekeyClaim, PrekeyClaimed, PrekeyStockRequest, PrekeyStockTold, PrekeyUploaded, encode_prekey_upload,
};
use creto_envelope::presence::{PresenceAnswer, PresenceRequest, PresenceShow};
use creto_envelope::proof::{ProofFormatError, ProofView};
use creto_envelope::signal::{SignalCredit, parse_signals};
use creto_envelope::submit::SubmitAck;
use creto_envelope::{EnvelopeHeader, EnvelopeView, FrameType, RejectCode, SignedKeyRecord};

/// Parses the body of a frame, which starts at a multiple of eight, and encodes it again: the whole frame.
pub(crate) fn reencode(frame_type: FrameType, body: &[u8]) -> Result<Vec<u8>, RejectCode> {
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + body.len());
    match frame_type {
        FrameType::StreamOpen => StreamOpen::parse(body)?.encode(&mut out),
        FrameType::Login => Login::parse(body)?.encode(&mut out),
        FrameType::LoginAccepted => LoginAccepted::parse(body)?.encode(&mut out),
        FrameType::Reject => Reject::parse(body)?.encode(&mut out),
        FrameType::KeyRecordRequest => KeyRecordRequest::parse(body)?.encode(&mut out),
        FrameType::KeyRecordResponse => encode_key_record_response(&mut out, &SignedKeyRecord::parse(body)?),
        FrameType::KeyRecordPublish => KeyRecordPublish::parse(body)?.encode(&mut out),
        FrameType::KeyRecordPublished => KeyRecordPublished::parse(body)?.encode(&mut out),
        FrameType::Enrol => Enrol::parse(body)?.encode(&mut out),
        FrameType::Enrolled => Enrolled::parse(body)?.encode(&mut out),
        FrameType::SignedBatch => reencode_signed_batch(body, &mut out)?,
        FrameType::SubmitAck => SubmitAck::parse(body)?.encode(&mut out),
        FrameType::Subscribe => Subscribe::parse(body)?.encode(&mut out),
        FrameType::Subscribed => Subscribed::parse(body)?.encode(&mut out),
        FrameType::Credit => Credit::parse(body)?.encode(&mut out),
        FrameType::Deliver => reencode_deliver(&Deliver::parse(body)?, body, &mut out),
        FrameType::ConsumerAck => ConsumerAck::parse(body)?.encode(&mut out),
        FrameType::ConsumerNack => ConsumerNack::parse(body)?.encode(&mut out),
        FrameType::Notice => {
            let Notice { mailbox_sequence, attempt, body } = Notice::parse(body)?;
            Notice::encode(&mut out, mailbox_sequence, attempt, &body.to_bytes());
        }
        FrameType::PresenceShow => PresenceShow::parse(body)?.encode(&mut out),
        FrameType::PresenceRequest => PresenceRequest::parse(body)?.encode(&mut out),
        FrameType::PresenceAnswer => PresenceAnswer::parse(body)?.encode(&mut out),
        FrameType::SignalCredit => SignalCredit::parse(body)?.encode(&mut out),
        FrameType::Signal => {
            reencode_deliver(&parse_signals(body)?, body, &mut out);
            // The same body under its own number.
            out[4] = frame_type as u8;
        }
        FrameType::DeadLetterList => DeadLetterList::parse(body)?.encode(&mut out),
        FrameType::DeadLetters => DeadLetters::parse(body)?.encode(&mut out),
        FrameType::DeadLetterRead => DeadLetterRead::parse(body)?.encode(&mut out),
        FrameType::DeadLetter => {
            let letter = parse_dead_letter(body)?;
            reencode_deliver(&letter, body, &mut out);
            // The same body under its own number.
            out[4] = frame_type as u8;
        }
        FrameType::DeadLetterChange => DeadLetterChange::parse(body)?.encode(&mut out),
        FrameType::DeadLetterChanged => DeadLetterChanged::parse(body)?.encode(&mut out),
        FrameType::PrekeyUpload => encode_prekey_upload(&mut out, &PrekeyBatch::parse(body)?),
        FrameType::PrekeyUploaded => PrekeyUploaded::parse(body)?.encode(&mut out),
        FrameType::PrekeyClaim => PrekeyClaim::parse(body)?.encode(&mut out),
        FrameType::PrekeyClaimed => PrekeyClaimed::parse(body)?.encode(&mut out),
        FrameType::PrekeyStockRequest => PrekeyStockRequest::parse(body)?.encode(&mut out),
        FrameType::PrekeyStock => PrekeyStockTold::parse(body)?.encode(&mut out),
        FrameType::KeyProofRequest => KeyProofRequest::parse(body)?.encode(&mut out),
        FrameType::KeyProof => KeyProof::parse(body)?.encode(&mut out),
        FrameType::KeyLeavesRequest => KeyLeavesRequest::parse(body)?.encode(&mut out),
        FrameType::KeyLeaves => KeyLeaves::parse(body)?.encode(&mut out),
        FrameType::ChannelSubscribe => ChannelSubscribe::parse(body)?.encode(&mut out),
        FrameType::ChannelSubscribed => ChannelSubscribed::parse(body)?.encode(&mut out),
        FrameType::ChannelCredit => ChannelCredit::parse(body)?.encode(&mut out),
        FrameType::ChannelDeliver => {
            let ChannelDeliver { handle, deliver } = ChannelDeliver::parse(body)?;
            let behind = &body[CHANNEL_DELIVER_HEADER_BYTES..];
            let mut again = Vec::new();
            let header = deliver.batch_header.as_ref().map(|header| owned_header(header).to_bytes());
            let encoder = DeliverEncoder::begin_body(&mut again, header.as_ref().map(|header| &header[..]));
            reencode_messages(encoder, &deliver, behind);
            ChannelDeliver::encode_head(&mut out, handle, again.len());
            out.extend_from_slice(&again);
        }
        FrameType::ChannelAck => ChannelAck::parse(body)?.encode(&mut out),
        FrameType::ChannelNack => ChannelNack::parse(body)?.encode(&mut out),
        FrameType::ChannelLeave => ChannelLeave::parse(body)?.encode(&mut out),
        FrameType::ChannelLeft => ChannelLeft::parse(body)?.encode(&mut out),
        FrameType::ChannelAttach => ChannelAttach::parse(body)?.encode(&mut out),
        FrameType::ChannelMembers => ChannelMembers::parse(body)?.encode(&mut out),
        FrameType::ChannelDetach => ChannelDetach::parse(body)?.encode(&mut out),
        FrameType::ChannelRequest => ChannelRequest::parse(body)?.encode(&mut out),
        FrameType::ChannelResponse => encode_channel_response(&mut out, &SignedChannelRecord::parse(body)?),
        FrameType::ChannelList => ChannelList::parse(body)?.encode(&mut out),
        FrameType::ChannelListed => ChannelListed::parse(body)?.encode(&mut out),
        unknown => panic!("{unknown:?} has no oracle yet: add it here"),
    }
    Ok(out)
}

/// Parses bytes as one envelope and writes its fields down again.
pub(crate) fn reencode_envelope(bytes: &[u8]) -> Result<Vec<u8>, RejectCode> {
    let view = EnvelopeView::parse(bytes)?;
    let header = view.header();
    let header = EnvelopeHeader {
        version: header.version,
        suite: view.suite() as u8,
        kind: view.kind() as u8,
        priority: view.priority() as u8,
        flags: header.flags,
        reserved0: header.reserved0,
        wrapped_key_bytes: header.wrapped_key_bytes.to_native(),
        payload_bytes: header.payload_bytes.to_native(),
        ttl_s: header.ttl_s.to_native(),
        sender: view.sender().0,
        recipient: view.recipient().0,
        channel: header.channel,
        message_id: view.message_id().0,
        correlation_id: header.correlation_id,
        timestamp_ms: header.timestamp_ms.to_native(),
        counter: view.counter(),
        key_id: view.key_id().0,
        session_id: view.session_id(),
        nonce: header.nonce,
        reserved1: header.reserved1.to_native(),
    };
    assert_eq!(header.envelope_bytes(), bytes.len(), "a header announces its envelope's length");
    assert_eq!(view.header_bytes(), header.to_bytes());
    let mut out = header.to_bytes().to_vec();
    out.extend_from_slice(view.wrapped_key().map_or(&[], |key| &key[..]));
    out.extend_from_slice(view.payload());
    Ok(out)
}

/// Parses bytes as the header of a batch and writes its fields down again.
pub(crate) fn reencode_batch_header(bytes: &[u8]) -> Result<Vec<u8>, RejectCode> {
    let view = BatchHeaderView::parse(bytes)?;
    assert_eq!(view.as_bytes(), &bytes[..view.signature_suite().header_bytes()]);
    Ok(owned_header(&view).to_bytes().to_vec())
}

/// Parses bytes as a proof and writes its parts down again.
pub(crate) fn reencode_proof(bytes: &[u8]) -> Result<Vec<u8>, ProofFormatError> {
    Ok(ProofView::parse(bytes)?.parts().to_bytes())
}

fn owned_header(view: &BatchHeaderView<'_>) -> BatchHeader {
    let (digest, fn_dsa_512) = (view.signature_suite().tree_digest(), view.fn_dsa_512().copied().map(Box::new));
    BatchHeader::over(digest, &view.statement(), view.ed25519(), view.ml_dsa_65(), fn_dsa_512)
}

fn reencode_signed_batch(body: &[u8], out: &mut Vec<u8>) -> Result<(), RejectCode> {
    let submit_sequence = parse_submit_sequence(body)?;
    let mut entries = Vec::new();
    let batch = BatchView::parse(&body[8..], &mut entries)?;
    let entries: Vec<_> = entries.iter().map(|entry| (&entry.salt, batch.envelope(entry))).collect();
    for (_, envelope) in &entries {
        assert!(envelope.as_ptr().addr().is_multiple_of(8), "every envelope of a batch is aligned");
    }
    encode_signed_batch(out, submit_sequence, &owned_header(&batch.header), entries.iter().copied())
        .expect("what was parsed is within the limits of what can be encoded");
    Ok(())
}

fn reencode_deliver(deliver: &Deliver<'_>, body: &[u8], out: &mut Vec<u8>) {
    let header = deliver.batch_header.as_ref().map(|header| owned_header(header).to_bytes());
    reencode_messages(DeliverEncoder::begin(out, header.as_ref().map(|header| &header[..])), deliver, body);
}

fn reencode_messages(mut encoder: DeliverEncoder<'_>, deliver: &Deliver<'_>, body: &[u8]) {
    for message in &deliver.messages {
        let envelope = &body[message.envelope.clone()];
        assert!(envelope.as_ptr().addr().is_multiple_of(8), "every delivered envelope is aligned");
        encoder.push(&MessageToDeliver {
            mailbox_sequence: message.mailbox_sequence,
            leaf_index: message.leaf_index,
            attempt: message.attempt,
            salt: &message.salt,
            path: message.path(body),
            envelope,
        });
    }
    assert_eq!(encoder.finish() as usize, deliver.messages.len());
}
