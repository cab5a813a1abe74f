//! Dead letters.

use super::*;
use crate::limits::DEAD_RECORD_LETTERS_MAX;
use crate::record::Dead;
use crate::wal::DiskError;

fn shard(messages: u64) -> Shard {
    let mut shard = Shard::new(MailboxesConfig::default());
    (1..=messages).for_each(|number| shard.queue(number, Priority::Normal));
    shard
}

impl Shard {
    /// Hands these out, and rejects them for this reason.
    fn reject(&mut self, sequences: &[u64], reason: u16) {
        self.deliver(1_000);
        let asked: Vec<(u64, u16)> = sequences.iter().map(|&sequence| (sequence, reason)).collect();
        self.mailboxes.reject(INBOX, &asked, NOW_MS);
    }

    /// A dead letter as its owner sees it.
    fn look(&mut self, sequence: u64) -> Option<Delivery> {
        let wanted = match self.mailboxes.dead_letter(INBOX, sequence)? {
            LetterFound::Here(delivery) => return Some(*delivery),
            LetterFound::Busy => panic!("nothing else is read"),
            LetterFound::Later(read) => read,
        };
        while let Some(ColdRead { id, segment, offset, bytes }) = self.mailboxes.next_read() {
            let done = self.mailboxes.read_completed(id, Ok(self.bytes(segment, offset, bytes)));
            if let Some((read, found)) = done.letter {
                assert_eq!(read, wanted);
                return found.ok().map(|found| *found);
            }
        }
        panic!("a read brings the letter, or says that it cannot")
    }

    fn replayed(&self, config: MailboxesConfig, log: &[(Position, Record)]) -> Mailboxes {
        let mut again = Mailboxes::new(config, [5, 6]);
        for (position, record) in log {
            again.note(*position, record.noted(*position));
        }
        again.recovered();
        again
    }
}

#[test]
fn a_rejected_message_is_dead_when_its_record_is_durable_and_not_before() {
    let mut shard = shard(3);
    shard.reject(&[2, 2, 9], 41);
    assert_eq!(shard.dead(), []);
    assert_eq!(shard.mailboxes.settle(INBOX, &[2], SettleCause::Acknowledged), None, "its end is on its way");
    let dead = shard.mailboxes.next_death().unwrap();
    assert_eq!(shard.mailboxes.next_death(), None);
    shard.mailboxes.death_refused(dead);
    let letter = DeadLetter { sequence: 2, died_ms: NOW_MS, reason: 41, cause: DeathCause::Rejected, deliveries: 1 };
    assert_eq!(shard.die(), [letter]);
    assert_eq!((shard.dead(), shard.mailboxes.dead_messages(INBOX)), (vec![2], 1));
    shard.mailboxes.reset(INBOX, None, 0, NOW_MS);
    assert_eq!(shard.deliver(9), [(1, 2), (3, 2)]);
    assert_eq!(shard.mailboxes.queued_messages(INBOX), 3, "it counts in the mailbox's quota");
}

#[test]
fn a_dead_letter_lives_again_at_its_old_place_with_all_its_deliveries_before_it() {
    let mut shard = shard(4);
    shard.reject(&[3, 2], 1);
    shard.die();
    shard.mailboxes.reset(INBOX, None, 0, NOW_MS);
    let revive = shard.mailboxes.revive(INBOX, &[2, 3, 4, 9, 2]).unwrap();
    assert_eq!(revive.sequences, [2, 3]);
    assert_eq!(shard.mailboxes.revive(INBOX, &[2]), None, "it is on its way");
    assert_eq!(shard.mailboxes.purge(INBOX, &[2]), None, "it is on its way");
    shard.mailboxes.revive_refused(&revive);
    assert_eq!(shard.revive(&[2, 3]), [2, 3]);
    assert_eq!(shard.dead(), []);
    assert_eq!(shard.deliver(9), [(1, 2), (2, 1), (3, 1), (4, 2)]);
}

#[test]
fn a_dead_letter_is_purged_expires_and_can_still_be_acknowledged() {
    let mut shard = Shard::new(MailboxesConfig::default());
    for number in 1..=4 {
        let mut part = shard.admit(number, Priority::Normal).unwrap();
        part.messages[0].expiry_ms = if number == 3 { NOW_MS + 1 } else { 0 };
        shard.apply(Record::BatchPart(part));
    }
    shard.reject(&[1, 2, 3], 0);
    shard.die();
    assert_eq!(shard.mailboxes.purge(INBOX, &[4]), None, "only dead letters are purged");
    let purge = shard.mailboxes.purge(INBOX, &[1, 4]).unwrap();
    assert_eq!((purge.cause, &purge.sequences[..]), (SettleCause::Purged, &[1][..]));
    shard.apply(Record::Settle(purge));
    assert_eq!(shard.dead(), [2, 3]);
    for settle in shard.mailboxes.expire(NOW_MS + 1_000, 10) {
        assert_eq!((settle.cause, &settle.sequences[..]), (SettleCause::Expired, &[3][..]));
        shard.apply(Record::Settle(settle));
    }
    assert_eq!(shard.settle(&[2]), Some(vec![2]));
    assert_eq!((shard.dead(), shard.mailboxes.dead_messages(INBOX)), (vec![], 0));
    assert_eq!(shard.mailboxes.messages(), 1);
}

#[test]
fn dead_letters_are_listed_in_pages_in_their_order() {
    let mut shard = shard(7);
    shard.reject(&[6, 2, 4, 7], 3);
    shard.die();
    let page = |after, most| -> Vec<u64> {
        let listed = shard.mailboxes.dead_letters(INBOX, after, most);
        assert!(listed.iter().all(|listed| listed.envelope_bytes == 100 && listed.letter.reason == 3));
        listed.into_iter().map(|listed| listed.letter.sequence).collect()
    };
    assert_eq!(page(0, 3), [2, 4, 6]);
    assert_eq!(page(6, 3), [7]);
    assert_eq!(page(u64::MAX, 3), [0; 0]);
    assert!(shard.mailboxes.dead_letters(MailboxId([8; 16]), 0, 3).is_empty());
}

#[test]
fn a_dead_letter_is_looked_at_and_stays_as_it_is() {
    for cache_bytes in [0, 1 << 20] {
        let mut shard = Shard::new(MailboxesConfig { cache_bytes, ..MailboxesConfig::default() });
        (1..=3).for_each(|number| shard.queue(number, Priority::Normal));
        shard.mailboxes.end_turn();
        shard.reject(&[2], 0);
        assert!(shard.look(2).is_none(), "it is not dead yet");
        shard.die();
        for _ in 0..2 {
            let found = shard.look(2).unwrap();
            assert_eq!((found.message.leaf_index, found.attempt), (2, 1));
        }
        assert!(shard.look(1).is_none() && shard.look(9).is_none());
        assert_eq!(shard.dead(), [2]);
    }
}

#[test]
fn a_dead_letter_holds_the_log_until_its_record_is_written_again() {
    let mut shard = shard(30);
    let mut log = Vec::new();
    shard.reject(&[1], 8);
    shard.settle(&(2..=30).collect::<Vec<_>>()).unwrap();
    shard.die();
    let point = |shard: &Shard| shard.mailboxes.trim_point(SegmentNumber(1), SegmentNumber(99), 64 << 20, true);
    assert_eq!(point(&shard), None, "the message is in the first segment");
    // It is moved. The record that says that it is dead stands before it now.
    let moved = shard.look(1).unwrap();
    let moved = BatchPart { batch_header: moved.batch_header, messages: vec![moved.message] };
    let position = shard.write(&Record::Moved(moved.clone()));
    log.push((position, Record::Moved(moved.clone())));
    shard.make_durable(position, Record::Moved(moved));
    // A record about a message that is not there is ignored: where the message was is needed, too.
    assert_eq!(point(&shard), None);
    let again = shard.mailboxes.next_death().unwrap();
    assert!(again.is_again && again.letters[0].reason == 8);
    assert_eq!(shard.mailboxes.next_death(), None);
    shard.mailboxes.death_refused(again);
    let again = shard.mailboxes.next_death().unwrap();
    for _ in 0..20 {
        shard.write(&Record::Dead(again.clone()));
    }
    let position = shard.write(&Record::Dead(again.clone()));
    log.push((position, Record::Dead(again.clone())));
    shard.make_durable(position, Record::Dead(again));
    assert_eq!(point(&shard).unwrap(), log[0].0.segment, "now the message holds, where it is");
    // What is left of the log tells all of it.
    let again = shard.replayed(MailboxesConfig::default(), &log);
    assert_eq!(again.dead_letters(INBOX, 0, 9), shard.mailboxes.dead_letters(INBOX, 0, 9));
}

#[test]
fn what_was_moved_and_not_said_to_be_dead_again_is_said_after_the_restart() {
    let mut shard = shard(1);
    let part = part(1, 1, Priority::Normal, Bytes::from(vec![7; 100]));
    let letter = DeadLetter { sequence: 1, died_ms: NOW_MS, reason: 8, cause: DeathCause::Rejected, deliveries: 1 };
    let dead = Dead { mailbox: INBOX, is_again: false, letters: vec![letter] };
    let records = [Record::BatchPart(part.clone()), Record::Dead(dead.clone()), Record::Moved(part)];
    let log: Vec<_> = records.map(|record| (shard.write(&record), record)).into();
    let mut again = shard.replayed(MailboxesConfig::default(), &log);
    assert_eq!(again.dead_messages(INBOX), 1);
    assert_eq!(again.next_death(), Some(Dead { is_again: true, ..dead }));
    assert_eq!(again.next_death(), None);
}

#[test]
fn what_is_being_revived_or_purged_is_not_said_to_be_dead_again() {
    let mut shard = shard(2);
    shard.reject(&[1, 2], 0);
    shard.die();
    for sequence in [1, 2] {
        let moved = shard.look(sequence).unwrap();
        let moved = BatchPart { batch_header: moved.batch_header, messages: vec![moved.message] };
        shard.apply(Record::Moved(moved));
    }
    let revive = shard.mailboxes.revive(INBOX, &[1]).unwrap();
    let purge = shard.mailboxes.purge(INBOX, &[2]).unwrap();
    assert_eq!(shard.mailboxes.next_death(), None, "its record would stand behind the one that ends it");
    shard.mailboxes.revive_refused(&revive);
    let again = shard.mailboxes.next_death().unwrap();
    assert_eq!(again.letters.iter().map(|letter| letter.sequence).collect::<Vec<_>>(), [1]);
    shard.apply(Record::Settle(purge));
    assert_eq!(shard.mailboxes.next_death(), None);
}

#[test]
fn more_than_one_record_holds_die_in_several() {
    let count = DEAD_RECORD_LETTERS_MAX as u64 + 10;
    let mut shard = shard(count);
    shard.reject(&(1..=count).collect::<Vec<_>>(), 0);
    let first = shard.mailboxes.next_death().unwrap();
    assert_eq!(first.letters.len(), DEAD_RECORD_LETTERS_MAX);
    shard.apply(Record::Dead(first));
    assert_eq!(shard.die().len(), 10);
    assert_eq!(shard.mailboxes.all_dead_messages(), count);
    assert_eq!(shard.mailboxes.queued_messages(INBOX), count);
}

#[test]
fn a_mailbox_may_have_its_own_number_of_deliveries() {
    let mut shard = shard(3);
    shard.deliver(1_000);
    shard.mailboxes.nack(INBOX, &[(1, 0)], None, 0, NOW_MS);
    shard.mailboxes.nack(INBOX, &[(2, 0)], Some(1), 0, NOW_MS);
    shard.mailboxes.reset(INBOX, Some(1), 0, NOW_MS);
    assert_eq!(shard.die().iter().map(|letter| letter.sequence).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_letter_that_the_disk_does_not_give_may_be_asked_for_again() {
    let mut shard = Shard::new(MailboxesConfig { cache_bytes: 0, ..MailboxesConfig::default() });
    shard.queue(1, Priority::Normal);
    shard.reject(&[1], 0);
    shard.die();
    shard.mailboxes.end_turn();
    let found = shard.mailboxes.dead_letter(INBOX, 1);
    assert!(matches!(found, Some(LetterFound::Later(_))), "{found:?}");
    let read = shard.mailboxes.next_read().unwrap();
    let done = shard.mailboxes.read_completed(read.id, Err(DiskError::Io("busy".to_owned())));
    assert_eq!(done.letter.map(|(_, read)| read), Some(Err(LetterUnread::NotNow)));
    assert_eq!(done.problems.len(), 1, "the operator is told");
    assert!(shard.look(1).is_some());
}

#[test]
fn what_cleaning_writes_of_dead_letters_is_no_reason_to_clean_again() {
    let mut shard = shard(2);
    let before = shard.mailboxes.cleaning.settled_bytes;
    shard.reject(&[1], 0);
    let letters = shard.die();
    let after_death = shard.mailboxes.cleaning.settled_bytes;
    assert!(after_death > before, "a consumer's doing");
    shard.apply(Record::Dead(Dead { mailbox: INBOX, is_again: true, letters }));
    assert_eq!(shard.mailboxes.cleaning.settled_bytes, after_death);
    assert_eq!(shard.dead(), [1]);
}
