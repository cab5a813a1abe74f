use proptest::prelude::*;

use super::*;
use crate::flags::MessageFlags;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::lsn::SegmentNumber;
use crate::noted::{NotedMessage, Place};
use crate::record::Priority;

fn entry(sequence: u64) -> Entry {
    let place = Place { segment: SegmentNumber(1), record_offset: 0, message_offset: 0, message_bytes: 96, crc: 0 };
    let message = NotedMessage {
        mailbox: MailboxId([1; 16]),
        sender: SenderId([2; 16]),
        message_id: MessageId([3; 16]),
        sequence,
        expiry_ms: 0,
        priority: Priority::Normal,
        flags: MessageFlags::NONE,
        envelope_bytes: 0,
        place,
    };
    Entry::new(&message, 0, 0)
}

proptest! {
    #[test]
    fn a_list_does_what_a_vector_does(ops in proptest::collection::vec((0_u8..5, any::<u16>()), 1..300)) {
        let (mut entries, mut list, mut model) = (Slab::default(), List::default(), Vec::<(u64, Slot)>::new());
        for (op, number) in ops {
            let sequence = u64::from(number);
            match op {
                0 => {
                    let slot = entries.insert(entry(sequence));
                    list.push_back(&mut entries, slot);
                    model.push((sequence, slot));
                }
                1 => {
                    let slot = entries.insert(entry(sequence));
                    list.merge(&mut entries, [slot]);
                    let at = model.iter().position(|(other, _)| *other >= sequence).unwrap_or(model.len());
                    model.insert(at, (sequence, slot));
                }
                2 if !model.is_empty() => {
                    let (_, slot) = model.remove(usize::from(number) % model.len());
                    list.remove(&mut entries, slot);
                    entries.remove(slot);
                }
                3 => {
                    // Several at once, into a list that is in order.
                    list.sort(&mut entries);
                    model = list.iter(&entries).map(|slot| (entries.get(slot).sequence(), slot)).collect();
                    let more: Vec<(u64, Slot)> =
                        (0..4).map(|step| sequence + 100 * step).map(|own| (own, entries.insert(entry(own)))).collect();
                    list.merge(&mut entries, more.iter().map(|pair| pair.1));
                    for pair in more {
                        let at = model.iter().position(|(other, _)| *other >= pair.0).unwrap_or(model.len());
                        model.insert(at, pair);
                    }
                }
                _ => {
                    list.sort(&mut entries);
                    let slots: Vec<_> = list.iter(&entries).map(|slot| (entries.get(slot).sequence(), slot)).collect();
                    prop_assert!(slots.is_sorted_by_key(|(sequence, _)| *sequence));
                    model.sort_by_key(|pair| (pair.0, slots.iter().position(|other| other == pair)));
                }
            }
            prop_assert_eq!(list.iter(&entries).collect::<Vec<_>>(), model.iter().map(|pair| pair.1).collect::<Vec<_>>());
            prop_assert_eq!(list.first(), model.first().map(|pair| pair.1));
        }
    }
}
