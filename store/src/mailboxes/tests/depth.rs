//! Depths of mailboxes, a few places at a time.

use super::*;

fn mailbox_id(number: u16) -> MailboxId {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    MailboxId(id)
}

/// One durable message in a mailbox with this number.
fn queue_in(shard: &mut Shard, mailbox: u16, number: u64) {
    let (mailbox, envelope) = (mailbox_id(mailbox), Bytes::from(vec![7; 100]));
    let admitted = shard.mailboxes.admit(SENDER, message_id(number), mailbox, envelope.len(), NOW_MS);
    let Ok(Admit::New(sequence)) = admitted else { panic!("{admitted:?}") };
    let mut part = part(sequence, number, Priority::Normal, envelope);
    part.messages[0].mailbox = mailbox;
    shard.apply(Record::BatchPart(part));
}

/// All depths, found in steps of so many places.
fn depths(shard: &Shard, places_max: u32) -> Vec<Depth> {
    let (mut found, mut next) = (Vec::new(), Some(0));
    while let Some(place) = next {
        let before = found.len();
        next = shard.mailboxes.depths_from(place, places_max, |depth| found.push(depth));
        assert!(found.len() - before <= places_max as usize, "a look is bounded");
    }
    found
}

#[test]
fn every_mailbox_that_holds_something_is_seen_once_however_few_places_a_look_has() {
    let mut shard = Shard::new(MailboxesConfig::default());
    assert!(depths(&shard, 100).is_empty());
    let mut number = 0;
    for mailbox in 0..300 {
        for _ in 0..=mailbox % 3 {
            number += 1;
            queue_in(&mut shard, mailbox, number);
        }
    }
    let all = depths(&shard, 10_000);
    assert_eq!(all.len(), 300);
    assert_eq!(all.iter().map(|depth| depth.messages).sum::<u64>(), number);
    assert_eq!(all.iter().map(|depth| depth.bytes).sum::<u64>(), shard.mailboxes.queued_bytes());
    for places_max in [1, 7, 299, 4_096] {
        assert_eq!(depths(&shard, places_max), all);
    }
}

#[test]
fn places_that_were_given_back_are_not_walked() {
    let mut shard = Shard::new(MailboxesConfig::default());
    // Three chunks of places; then only the last mailbox holds anything, so that what is between it and the first chunk is given back.
    let count = 3 * 4_096;
    for mailbox in 0..count {
        queue_in(&mut shard, mailbox, u64::from(mailbox) + 1);
    }
    for mailbox in 0..count - 1 {
        let (id, sequence) = (mailbox_id(mailbox), u64::from(mailbox) + 1);
        let settle = shard.mailboxes.settle(id, &[sequence], SettleCause::Acknowledged).unwrap();
        shard.apply(Record::Settle(settle));
    }
    let (mut looks, mut found, mut next) = (0, 0, Some(0));
    while let Some(place) = next {
        next = shard.mailboxes.depths_from(place, 4_096, |_| found += 1);
        looks += 1;
    }
    assert_eq!((found, looks), (1, 2), "the spare chunk and that of the one mailbox");
}

#[test]
fn a_depth_says_what_is_handed_out_and_ends_with_what_is_settled() {
    let mut shard = Shard::new(MailboxesConfig::default());
    shard.queue(1, Priority::Normal);
    shard.queue(2, Priority::Normal);
    assert_eq!(shard.deliver(1), [(1, 1)]);
    let [depth] = depths(&shard, 8_192)[..] else { panic!("there is one mailbox") };
    assert_eq!((depth.mailbox, depth.messages, depth.handed_out_messages, depth.dead_messages), (INBOX, 2, 1, 0));
    shard.settle(&[1, 2]);
    assert!(depths(&shard, 8_192).is_empty());
}
