use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::lsn::Lsn;
use crate::record::PartMessage;
use crate::record::tests::any_record;

proptest! {
    #[test]
    fn the_bytes_at_every_place_are_the_encoded_message(record in any_record(), before in 0_u32..5000) {
        let mut segment = vec![0xee; before as usize + record.encoded_bytes()];
        record.encode_into(&mut segment[before as usize..]);
        let noted = record.noted(position(before));
        prop_assert_eq!(noted.message_count(), record.message_count());
        let (part, messages) = match (&record, &noted) {
            (Record::BatchPart(part), Noted::Part(messages)) | (Record::Moved(part), Noted::Moved(messages))
            | (Record::Notice(part), Noted::Notice(messages)) => (part, messages),
            _ => return Ok(()),
        };
        for (message, noted) in part.messages.iter().zip(messages) {
            let place = noted.place;
            prop_assert_eq!((place.segment, place.record_offset), (SegmentNumber(7), before));
            let bytes = &segment[place.message_offset as usize..][..place.message_bytes as usize];
            let alone = alone(message);
            prop_assert_eq!(bytes, &alone[..]);
            prop_assert_eq!(place.crc, crc32c::crc32c(&[&part.batch_header[..], bytes].concat()));
            prop_assert_eq!(length_u32(message.envelope.len()), noted.envelope_bytes);
            prop_assert_eq!(
                (message.mailbox, message.sender, message.message_id),
                (noted.mailbox, noted.sender, noted.message_id)
            );
            prop_assert_eq!(
                (message.sequence, message.expiry_ms, message.priority, message.flags),
                (noted.sequence, noted.expiry_ms, noted.priority, noted.flags)
            );
        }
    }

    #[test]
    fn what_was_summed_while_it_was_encoded_is_what_its_bytes_sum_to(record in any_record(), before: u32) {
        let (mut bytes, mut again) = (vec![0xee; record.encoded_bytes()], vec![0xee; record.encoded_bytes()]);
        record.encode_into(&mut bytes);
        let mut sums = Vec::new();
        let crc = record.encode_and_sum(&mut again, before, &mut sums);
        prop_assert_eq!(crc, crc32c::crc32c_append(before, &bytes));
        prop_assert_eq!(bytes, again);
        let mut sums = sums.into_iter();
        prop_assert_eq!(record.noted_as_summed(position(7), &mut sums), record.noted(position(7)));
        prop_assert_eq!(sums.next(), None);
    }

    #[test]
    fn a_record_that_was_read_is_noted_like_the_one_that_was_written(record in any_record(), at in 0_u32..1 << 31) {
        let mut bytes = vec![0xee; record.encoded_bytes()];
        record.encode_into(&mut bytes);
        let (read, _) = Record::parse(&Bytes::from(bytes)).unwrap();
        prop_assert_eq!(read.noted(position(at)), record.noted(position(at)));
    }
}

/// The message's bytes, without asking for its place: a part of one message and no header ends with them.
fn alone(message: &PartMessage) -> Vec<u8> {
    let part = BatchPart { batch_header: Bytes::new(), messages: vec![message.clone()] };
    let record = Record::BatchPart(part);
    let mut bytes = vec![0xee; record.encoded_bytes()];
    record.encode_into(&mut bytes);
    bytes.split_off(16)
}

fn position(offset: u32) -> Position {
    Position { segment: SegmentNumber(7), lsn: Lsn(3), index: 2, offset }
}
