#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use proptest::prelude::*;

use super::*;

fn head<'a>(name: &'a str, hashes: &'a [[u8; 32]], note: &'a [u8]) -> AttachmentHead<'a> {
    let bytes = hashes.len() as u64 * 100;
    let media_type = "text/csv";
    AttachmentHead { id: AttachmentId([7; 16]), bytes, chunk_bytes: 100, name, media_type, chunk_hashes: hashes, note }
}

/// What is understood, written down again.
fn again(payload: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    Ok(AttachmentPart::parse(payload)?.map(|part| match part {
        AttachmentPart::Head(head) => head.to_bytes().unwrap(),
        AttachmentPart::Chunk(chunk) => chunk.to_bytes().unwrap(),
    }))
}

#[test]
fn every_changed_or_missing_byte_is_refused_or_shows() {
    let hashes = [[1; 32], [2; 32], [3; 32]];
    let chunk = AttachmentChunk { id: AttachmentId([7; 16]), index: 5, chunk_bytes: 7, bytes: 42, content: b"content" };
    for payload in [head("report.csv", &hashes, b"please read").to_bytes().unwrap(), chunk.to_bytes().unwrap()] {
        assert_eq!(again(&payload), Ok(Some(payload.clone())));
        for cut in 0..payload.len() {
            if let Ok(Some(part)) = again(&payload[..cut]) {
                // The end of both is free text.
                assert_eq!(part, payload[..cut], "{cut}");
            }
        }
        for at in 0..payload.len() {
            for mask in [1, 0x80, 0xff, 1 << (at % 8)] {
                let mut other = payload.clone();
                other[at] ^= mask;
                if let Ok(part) = again(&other) {
                    assert!(part.is_none_or(|part| part == other), "byte {at} xor {mask:#04x}");
                }
            }
        }
    }
}

#[test]
fn what_a_head_counts_must_be_there_before_it_is_believed() {
    let payload = head("a", &[[1; 32]], b"").to_bytes().unwrap();
    for (bytes, chunk_bytes) in [(u64::MAX, 1), (u64::MAX, u32::MAX), (101, 100), (0, 100), (100, 0)] {
        let mut other = payload.clone();
        other[24..32].copy_from_slice(&u64::to_le_bytes(bytes));
        other[32..36].copy_from_slice(&u32::to_le_bytes(chunk_bytes));
        let parsed = AttachmentPart::parse(&other);
        // Without a chunk the hash is a note.
        assert!(parsed.is_err() || bytes == 0, "{bytes} in chunks of {chunk_bytes}");
    }
}

#[test]
fn a_name_is_that_of_a_file_in_a_folder_and_nothing_else() {
    for good in ["a", "report.csv", ".profile", "…", "größe 1", &"x".repeat(255)] {
        assert!(head(good, &[], b"").to_bytes().is_some(), "{good}");
    }
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "/etc/passwd",
        "..\\a",
        "a\nb",
        "a\0",
        "\u{9b}31m",
        "a\u{202e}fdp.exe",
        "a\u{200b}b",
        "a\u{2028}b",
        &"x".repeat(256),
    ] {
        assert!(head(bad, &[], b"").to_bytes().is_none(), "{bad:?}");
        let mut payload = head("a", &[], b"").to_bytes().unwrap();
        payload[36..38].copy_from_slice(&u16::try_from(bad.len()).unwrap().to_le_bytes());
        payload.splice(40..41, bad.bytes());
        assert_eq!(AttachmentPart::parse(&payload), Err(Malformed), "{bad:?}");
    }
}

#[test]
fn a_chunk_has_the_bytes_that_it_has_in_a_file_of_that_size() {
    let chunk = |index, bytes, content: &[u8]| {
        AttachmentChunk { id: AttachmentId([7; 16]), index, chunk_bytes: 10, bytes, content }.to_bytes().is_some()
    };
    assert!(chunk(0, 10, &[0; 10]) && chunk(1, 15, &[0; 5]) && chunk(1, 20, &[0; 10]));
    for (index, bytes, content) in
        [(0, 11, 9), (1, 15, 6), (1, 15, 4), (2, 15, 5), (1, 10, 0), (u32::MAX, u64::MAX, 10)]
    {
        assert!(!chunk(index, bytes, &vec![0; content]), "{content} bytes as chunk {index} of {bytes}");
    }
}

#[test]
fn limits_hold_at_their_edges() {
    let chunk = |index, bytes: usize| {
        let (id, chunk_bytes) = (AttachmentId([7; 16]), u32::try_from(bytes).unwrap());
        let of = (u64::from(index) + 1) * bytes as u64;
        AttachmentChunk { id, index, chunk_bytes, bytes: of, content: &vec![0; bytes] }.to_bytes().map(|all| all.len())
    };
    assert_eq!(chunk(32_639, CHUNK_BYTES_MAX), Some(PAYLOAD_PLAINTEXT_BYTES_MAX));
    assert_eq!([chunk(32_640, 1), chunk(0, 0), chunk(0, CHUNK_BYTES_MAX + 1)], [None; 3]);
    let hashes = vec![[0; 32]; CHUNKS_MAX + 1];
    let largest = head("a", &hashes[1..], b"").to_bytes().unwrap();
    let Ok(Some(AttachmentPart::Head(parsed))) = AttachmentPart::parse(&largest) else { panic!("it is a head") };
    assert_eq!((parsed.chunk_hashes.len(), parsed.bytes_of_chunk(32_639)), (CHUNKS_MAX, 100));
    assert!(head("a", &hashes, b"").to_bytes().is_none());
    let room = vec![0; PAYLOAD_PLAINTEXT_BYTES_MAX - largest.len() + 1];
    assert!(head("a", &hashes[1..], &room).to_bytes().is_none());
    assert!(head("a", &hashes[1..], &room[1..]).to_bytes().is_some());
}

proptest! {
    #[test]
    fn whatever_is_parsed_comes_back(payload in prop::collection::vec(any::<u8>(), 0..300), part in 0u8..3) {
        let claimed = [&b"\xffAT\x01"[..], &[part, 0, 0, 0], &payload].concat();
        if let Ok(Some(bytes)) = again(&claimed) {
            prop_assert_eq!(bytes, claimed);
        }
        prop_assert_eq!(again(&payload).is_ok_and(|part| part.is_some()), false);
    }

    #[test]
    fn chunks_fill_a_file_exactly(bytes in 0u64..1_000_000, chunk_bytes in 1u32..2_000) {
        let chunks = usize::try_from(chunk_count(bytes, chunk_bytes)).unwrap();
        prop_assume!(chunks <= CHUNKS_MAX);
        let hashes = vec![[0; 32]; chunks];
        let (id, name) = (AttachmentId([1; 16]), "a");
        let head = AttachmentHead { id, bytes, chunk_bytes, name, media_type: "", chunk_hashes: &hashes, note: b"" };
        let sum: usize = (0..u32::try_from(chunks).unwrap()).map(|index| head.bytes_of_chunk(index)).sum();
        prop_assert_eq!(sum as u64, bytes);
        prop_assert!((0..u32::try_from(chunks).unwrap()).all(|index| head.bytes_of_chunk(index) > 0));
    }
}
