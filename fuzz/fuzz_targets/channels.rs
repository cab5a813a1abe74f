//! Any records, one after the other, as what a log says of channels: taken without a panic, served in order, and carried over as
//! records that say the same.
#![no_main]

use std::collections::BTreeMap;

use bytes::Bytes;
use creto_fuzz::creto_store::{
    GroupId, Lsn, MailboxId, Mailboxes, MailboxesConfig, Position, Record, SegmentNumber, SubscriberId,
    SubscriptionState,
};

const RECORDS_MAX: u64 = 2_000;

/// Whose progress is asked for.
type Name = (MailboxId, SubscriberId, GroupId);

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut mailboxes = Mailboxes::new(MailboxesConfig::default(), [1, 2]);
    let mut rest = Bytes::copy_from_slice(data);
    let (mut lsn, mut last, mut names) = (0, 0, Vec::new());
    while let Ok((record, taken)) = Record::parse(&rest) {
        rest = rest.slice(taken..);
        if lsn == RECORDS_MAX || !is_numbered(&record, &mut last) {
            continue;
        }
        lsn += 1;
        names.extend(names_in(&record));
        let position = Position { segment: SegmentNumber(1 + lsn / 10), lsn: Lsn(lsn), index: 0, offset: 4_192 };
        mailboxes.note(position, record.noted(position));
    }
    mailboxes.recovered();
    names.sort_unstable();
    names.dedup();
    let before = states(&mailboxes, &names);
    for &(channel, subscriber, group) in &names {
        let Some(reader) = mailboxes.attach(channel, subscriber, group) else { continue };
        // Nothing is in memory: all that may come of it is a read.
        assert!(mailboxes.next_published(reader, 10, u64::MAX, 0).is_empty());
        mailboxes.acknowledge_upto(reader, u64::MAX);
        mailboxes.acknowledge_each(reader, &[1, 2, 3]);
        mailboxes.reset_reader(reader, Some(0));
        mailboxes.take_ready_readers();
    }
    mailboxes.end_turn();
    assert_eq!(states(&mailboxes, &names), before, "who was handed nothing has consumed nothing");

    // What is carried over says all of it to a reader that knows nothing else.
    let mut again = Mailboxes::new(MailboxesConfig::default(), [3, 4]);
    for record in mailboxes.carry_over(SegmentNumber(u64::MAX), 64 << 10) {
        lsn += 1;
        let mut bytes = vec![0xff; record.encoded_bytes()];
        record.encode_into(&mut bytes);
        assert_eq!(Record::parse(&Bytes::from(bytes)), Ok((record.clone(), record.encoded_bytes())));
        let position = Position { segment: SegmentNumber(1), lsn: Lsn(lsn), index: 0, offset: 4_192 };
        again.note(position, record.noted(position));
    }
    let carried = states(&again, &names);
    assert!(
        before.iter().all(|(name, state)| carried.get(name) == Some(state)),
        "a subscription is carried over as it is"
    );
});

/// No log gives a sequence twice, nor one that nothing could follow.
fn is_numbered(record: &Record, last: &mut u64) -> bool {
    let part = match record {
        Record::BatchPart(part) | Record::Moved(part) | Record::Notice(part) => part,
        Record::Dedup(dedup) => return dedup.next_sequence < u64::MAX / 2,
        _ => return true,
    };
    part.messages.iter().all(|message| {
        let is_next = message.sequence > *last && message.sequence < u64::MAX / 2;
        *last = message.sequence.max(*last);
        is_next
    })
}

fn names_in(record: &Record) -> Vec<Name> {
    match record {
        Record::Subscribe(subscribe) => vec![(subscribe.channel, subscribe.subscriber, subscribe.group)],
        Record::Unsubscribe(unsubscribe) => vec![(unsubscribe.channel, unsubscribe.subscriber, unsubscribe.group)],
        Record::Subscriptions(carried) => {
            let of = |entry: &creto_fuzz::creto_store::SubscriptionsEntry| {
                entry.members.first().map_or((entry.channel, entry.subscriber, entry.group), |&member| {
                    (entry.channel, member, entry.group)
                })
            };
            carried.entries.iter().map(of).collect()
        }
        _ => Vec::new(),
    }
}

fn states(mailboxes: &Mailboxes, names: &[Name]) -> BTreeMap<Name, SubscriptionState> {
    let state = |&(channel, subscriber, group): &Name| {
        Some(((channel, subscriber, group), mailboxes.subscription(channel, subscriber, group)?))
    };
    names.iter().filter_map(state).collect()
}
