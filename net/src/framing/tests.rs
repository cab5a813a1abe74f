use proptest::prelude::*;

use creto_envelope::FrameHeader;

use super::*;

use creto_envelope::FrameType::{Credit, SignedBatch, StreamOpen, SubmitAck};

fn encoded(frames: &[(FrameType, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (frame_type, body) in frames {
        let body_bytes = u32::try_from(body.len()).unwrap();
        out.extend_from_slice(&FrameHeader { body_bytes, frame_type: *frame_type }.to_bytes());
        out.extend_from_slice(body);
    }
    out
}

/// Feeds `pieces` and returns every frame, or the first error.
fn decode<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limit_bytes: u32,
) -> Result<Vec<(FrameType, Vec<u8>)>, FrameError> {
    let mut decoder = FrameDecoder::default();
    let mut frames = Vec::new();
    for mut piece in pieces {
        while let Some(frame) = decoder.push(&mut piece, limit_bytes)? {
            assert_eq!(frame.body.as_ptr() as usize % FRAME_BODY_ALIGN, 0, "every body starts aligned");
            frames.push((frame.frame_type, frame.body.to_vec()));
        }
        assert!(piece.is_empty(), "a decoder without a whole frame has taken everything");
    }
    decoder.finish()?;
    Ok(frames)
}

fn header(body_bytes: u32, version: u8, reserved: u16) -> Vec<u8> {
    let mut bytes = body_bytes.to_le_bytes().to_vec();
    bytes.extend_from_slice(&[0x20, version]);
    bytes.extend_from_slice(&reserved.to_le_bytes());
    bytes
}

#[test]
fn frames_split_at_every_byte_boundary_come_out_whole() {
    let frames = vec![
        (StreamOpen, vec![7; 8]),
        (SignedBatch, (0..=255).collect()),
        (Credit, vec![]),
        (SubmitAck, vec![1, 2, 3]),
    ];
    let bytes = encoded(&frames);
    for at in 0..=bytes.len() {
        let (left, right) = bytes.split_at(at);
        assert_eq!(decode([left, right], 256), Ok(frames.clone()), "split at {at}");
    }
    assert_eq!(decode(bytes.chunks(1), 256), Ok(frames), "one byte at a time");
}

#[test]
fn a_frame_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    assert_eq!(decode([&encoded(&[(SignedBatch, vec![0; 64])])[..]], 64).unwrap().len(), 1);
    let error = decode([&encoded(&[(SignedBatch, vec![0; 65])])[..]], 64).unwrap_err();
    assert_eq!(error, FrameError::TooLarge { body_bytes: 65, limit_bytes: 64 });
    let error = decode([&header(u32::MAX, 1, 0)[..]], 1 << 20).unwrap_err();
    assert_eq!(error, FrameError::TooLarge { body_bytes: u32::MAX, limit_bytes: 1 << 20 });
}

#[test]
fn another_version_and_reserved_bytes_are_refused_by_name() {
    assert_eq!(decode([&header(0, 2, 0)[..]], 64), Err(FrameError::Version { found: 2 }));
    assert_eq!(decode([&header(0, 0, 0)[..]], 64), Err(FrameError::Version { found: 0 }));
    assert_eq!(decode([&header(0, 1, 0x0100)[..]], 64), Err(FrameError::Reserved { found: 0x0100 }));
}

#[test]
fn an_unknown_type_and_a_body_above_its_types_limit_are_refused() {
    let mut unknown = header(0, 1, 0);
    unknown[4] = 0x7f;
    assert_eq!(decode([&unknown[..]], 64), Err(FrameError::UnknownType { found: 0x7f }));
    let mut control = header(20_000, 1, 0);
    control[4] = FrameType::Login as u8;
    let error = FrameError::TooLarge { body_bytes: 20_000, limit_bytes: 16_384 };
    assert_eq!(decode([&control[..]], 1 << 20), Err(error));
}

#[test]
fn the_decoder_and_the_envelope_crate_refuse_the_same_headers() {
    for case in 0..=255u8 {
        for bytes in [
            [8, 0, 0, 0, case, 1, 0, 0],
            [8, 0, 0, 0, 1, case, 0, 0],
            [8, 0, case, 0, 0x20, 1, 0, 0],
            [8, 0, 0, 0, 1, 1, case, 0],
        ] {
            let ours = parse_header(bytes, u32::MAX).map_err(FrameError::reject_code);
            let theirs = FrameHeader::parse(&bytes).map(|header| (header.frame_type, header.body_bytes));
            assert_eq!(ours, theirs, "{bytes:?}");
        }
    }
}

#[test]
fn a_bad_frame_ends_the_stream_for_good() {
    let mut decoder = FrameDecoder::default();
    let bad = header(0, 9, 0);
    assert_eq!(decoder.push(&mut &bad[..], 64), Err(FrameError::Version { found: 9 }));
    let good = encoded(&[(SignedBatch, vec![])]);
    assert_eq!(decoder.push(&mut &good[..], 64), Err(FrameError::Version { found: 9 }));
    assert_eq!(decoder.finish(), Err(FrameError::Version { found: 9 }));
}

#[test]
fn an_end_inside_a_frame_says_how_much_is_missing() {
    let bytes = encoded(&[(SignedBatch, vec![0; 16])]);
    assert_eq!(decode([&bytes[..20]], 64), Err(FrameError::Truncated { missing_bytes: 4 }));
    assert_eq!(decode([&bytes[..3]], 64), Err(FrameError::Truncated { missing_bytes: 5 }));
    assert_eq!(decode([&bytes[..]], 64).unwrap().len(), 1);
}

#[test]
fn an_empty_body_is_a_frame_even_at_the_end_of_a_piece() {
    assert_eq!(decode([&encoded(&[(Credit, vec![])])[..]], 0), Ok(vec![(Credit, vec![])]));
}

proptest! {
    #[test]
    fn any_frames_in_any_pieces_come_out_as_they_went_in(
        frames in prop::collection::vec((prop::sample::select(FrameType::ALL), prop::collection::vec(any::<u8>(), 0..300)), 0..12),
        cuts in prop::collection::vec(1usize..97, 1..64),
    ) {
        let bytes = encoded(&frames);
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break }
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            pieces.push(head);
            rest = tail;
        }
        prop_assert_eq!(decode(pieces, 300), Ok(frames));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_hold_more_than_one_frame(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        cut in 1usize..64,
    ) {
        let mut decoder = FrameDecoder::default();
        'stream: for mut piece in bytes.chunks(cut) {
            loop {
                match decoder.push(&mut piece, 128) {
                    Ok(Some(frame)) => prop_assert!(frame.body.len() <= 128),
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
            prop_assert!(decoder.held_bytes() <= 128);
        }
    }
}
