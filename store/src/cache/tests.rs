use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::flags::MessageFlags;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::record::Priority;

fn part(sequences: &[u64], envelope: &Bytes) -> BatchPart {
    let messages = sequences.iter().map(|&sequence| PartMessage {
        mailbox: MailboxId([1; 16]),
        sender: SenderId([2; 16]),
        message_id: MessageId([3; 16]),
        sequence,
        expiry_ms: 0,
        leaf_index: 0,
        priority: Priority::Normal,
        flags: MessageFlags::NONE,
        salt: [0; 16],
        path: Bytes::new(),
        envelope: envelope.clone(),
    });
    BatchPart { batch_header: Bytes::from_static(b"header"), messages: messages.collect() }
}

proptest! {
    #[test]
    fn a_message_is_found_while_its_piece_is_among_the_newest(
        ops in proptest::collection::vec((0_u8..4, any::<u16>(), 1_u64..9), 1..200),
        first in prop_oneof![Just(0), Just(u32::MAX - 20)],
    ) {
        let mut cache = Cache { first, ..Cache::new(20_000) };
        let mut queued: BTreeMap<u64, u32> = BTreeMap::new();
        let envelope = Bytes::from(vec![7; 500]);
        let mut next = 0;
        for (op, number, count) in ops {
            match op {
                0 | 1 => {
                    let sequences: Vec<u64> = (0..count).map(|at| next + at * (1 + u64::from(number) % 3)).collect();
                    next = sequences.last().unwrap() + 1;
                    let piece = cache.insert(part(&sequences, &envelope));
                    prop_assert!(sequences.iter().all(|&sequence| cache.get(piece, sequence).is_some()));
                    queued.extend(sequences.into_iter().map(|sequence| (sequence, piece)));
                }
                2 => {
                    let Some((&sequence, &piece)) = queued.iter().nth(usize::from(number) % queued.len().max(1)) else {
                        continue;
                    };
                    queued.remove(&sequence);
                    cache.leave(piece, sequence);
                }
                _ => {
                    cache.shrink();
                    prop_assert!(cache.bytes() <= 20_000);
                }
            }
            // What is there is a run of the newest pieces: none goes before an older one.
            let found: Vec<bool> = queued.iter().map(|(&sequence, &piece)| cache.get(piece, sequence).is_some()).collect();
            prop_assert!(found.is_sorted());
            for (&sequence, &piece) in &queued {
                prop_assert!(cache.get(piece, sequence).is_none_or(|(message, _)| message.sequence == sequence));
            }
        }
        for (sequence, piece) in queued {
            cache.leave(piece, sequence);
        }
        prop_assert_eq!((cache.bytes(), cache.pieces.len()), (0, 0), "what is settled takes nothing");
    }
}

#[test]
fn memory_is_free_when_the_last_message_of_its_piece_is_settled() {
    let mut cache = Cache::new(1 << 20);
    let (first, second) = (Bytes::from(vec![7; 500]), Bytes::from(vec![8; 500]));
    let older = cache.insert(part(&[1, 2], &first));
    let younger = cache.insert(part(&[3], &second));
    cache.leave(younger, 3);
    assert!(second.is_unique(), "a piece that an older one outlives holds nothing");
    assert_eq!(cache.get(younger, 3), None);
    cache.leave(older, 1);
    assert!(!first.is_unique());
    cache.leave(older, 2);
    assert!(first.is_unique() && cache.bytes() == 0);
}

#[test]
fn a_number_that_came_around_finds_no_other_message() {
    let mut cache = Cache::new(1 << 20);
    let piece = cache.insert(part(&[10, 12], &Bytes::new()));
    assert_eq!(cache.get(piece, 11), None);
    cache.leave(piece, 9);
    assert!(cache.get(piece, 10).is_some() && cache.get(piece.wrapping_add(1), 10).is_none());
}
