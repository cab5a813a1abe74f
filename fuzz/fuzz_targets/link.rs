//! Frames of the link between a control service and a node, one after the other: refused, or understood by the side that they are for
//! and written back byte for byte; and what they say of a snapshot is put together without a panic, within its bounds.
#![no_main]

use creto_envelope::TrustDomain;
use creto_fuzz::creto_envelope;
use creto_link::limits::FRAME_HEADER_BYTES;
use creto_link::{FrameHeader, FromControl, FromNode, Incoming};
use creto_policy::Policy;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut incoming = Incoming::new(TrustDomain::default(), 3);
    let mut rest = data;
    while let Some((header, after)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let Ok(parsed) = FrameHeader::parse(header) else { return };
        let Some((body, after)) = after.split_at_checked(parsed.body_bytes) else { return };
        rest = after;
        let is_same = |frame: Vec<u8>| frame[..FRAME_HEADER_BYTES] == header[..] && frame[FRAME_HEADER_BYTES..] == *body;
        if let Ok(said) = FromNode::parse(parsed, body) {
            assert!(is_same(said.to_frame()), "{said:?} is written in another way than it was read");
            assert!(FromControl::parse(parsed, body).is_err(), "{said:?} is of both sides");
        }
        let Ok(said) = FromControl::parse(parsed, body) else { continue };
        // What is shown to people is cleaned.
        if !matches!(said, FromControl::Refused(_)) {
            assert!(is_same(said.to_frame()), "{said:?} is written in another way than it was read");
        }
        let taken = match said {
            FromControl::SnapshotBegin(head) => incoming.begin(head, |_, text, _| match text.len() % 2 {
                0 => Ok(Policy::SameOrganization),
                _ => Err("no policy".to_owned()),
            }),
            FromControl::Agents(agents) => incoming.agents(&agents),
            FromControl::Gone(ids) => incoming.gone(&ids),
            FromControl::Channels(channels) => incoming.channels(&channels),
            FromControl::ChannelsGone(ids) => incoming.channels_gone(&ids),
            FromControl::SnapshotEnd { agents, channels } => incoming.end(agents, channels).map(|snapshot| {
                assert_eq!((snapshot.agent_count() as u64, snapshot.channel_count() as u64), (agents, channels));
                assert!(snapshot.epoch() >= 3);
            }),
            _ => Ok(()),
        };
        if taken.is_err() {
            return;
        }
    }
});
