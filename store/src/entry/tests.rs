use proptest::prelude::*;

use super::*;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::limits::{ENVELOPE_BYTES_MAX, PATH_HASHES_MAX};

proptest! {
    #[test]
    fn an_entry_gives_back_what_was_noted(
        sequence in any::<u64>(),
        envelope_bytes in 0..=ENVELOPE_BYTES_MAX,
        hashes in 0..=PATH_HASHES_MAX,
        priority in 0_u8..4,
        expiry_ms in 0..4_000_000_000_000_u64,
        (segment, record_offset, message_offset, crc) in any::<(u32, u32, u32, u32)>(),
        share_bytes in 0_u32..70_000,
    ) {
        let place = Place {
            segment: SegmentNumber(u64::from(segment)),
            record_offset,
            message_offset,
            message_bytes: length_u32(PartMessage::encoded_bytes_of(32 * hashes, envelope_bytes)),
            crc,
        };
        let message = NotedMessage {
            mailbox: MailboxId([1; 16]),
            sender: SenderId([2; 16]),
            message_id: MessageId([3; 16]),
            sequence,
            expiry_ms,
            priority: Priority::from_byte(priority).unwrap(),
            flags: if priority == 1 { MessageFlags::WANTS_NOTICE } else { MessageFlags::NONE },
            envelope_bytes: length_u32(envelope_bytes),
            place,
        };
        let mut entry = Entry::new(&message, 77, share_bytes);
        prop_assert_eq!((entry.sequence(), entry.place()), (sequence, place));
        prop_assert_eq!((entry.envelope_bytes(), entry.priority()), (envelope_bytes, message.priority));
        prop_assert_eq!(entry.wants_notice(), priority == 1);
        prop_assert_eq!(entry.log_bytes(), u64::from(place.message_bytes) + u64::from(share_bytes.next_multiple_of(8)));
        // Never before its time; within a second after it.
        if expiry_ms == 0 {
            prop_assert!(!entry.is_over(u64::MAX));
        } else {
            prop_assert!(!entry.is_over(expiry_ms - 1) && entry.is_over(expiry_ms + 999));
        }
        entry.set_settling(true);
        entry.set_handed_out(true);
        entry.set_settling(false);
        prop_assert!(entry.is_handed_out() && !entry.is_settling() && !entry.is_damaged());
    }
}
