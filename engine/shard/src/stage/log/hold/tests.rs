use bytes::Bytes;
use creto_store::{
    Admit, MailboxId, Mailboxes, MailboxesConfig, MessageFlags, MessageId, PartMessage, Priority, Record, SegmentFile,
    SegmentNumber, SegmentSource, SenderId, SettleCause, SourceError, Wal, WalConfig,
};

use super::{HoldAnswer, HoldEnd, HoldId, HoldRequest};
use crate::audit::AuditFeed;
use crate::event::{Action, Now};
use crate::limits::{HOLD_LEASE_US, HOLD_US_MAX};
use crate::stage::log::Log;

const MAILBOX: MailboxId = MailboxId([1; 16]);
const BACKUP: HoldId = HoldId(7);

struct NoSegments;

impl SegmentSource for NoSegments {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        Ok(Vec::new())
    }

    fn read(&mut self, segment: SegmentNumber, _: u64, _: &mut [u8]) -> Result<(), SourceError> {
        panic!("there is no {segment} to read")
    }
}

fn at(monotonic_us: u64) -> Now {
    Now { unix_ms: 1_700_000_000_000, monotonic_us }
}

/// A log whose disk does everything at once.
struct Fixture {
    log: Log,
    stored: Vec<u64>,
    numbers: u64,
}

impl Fixture {
    fn new() -> Self {
        let config = WalConfig {
            segment_bytes: 64 << 10,
            frame_bytes_max: 16 << 10,
            wal_bytes_max: 8 * (64 << 10),
            pending_bytes_max: 64 << 10,
            ..WalConfig::default()
        };
        let recovered = creto_store::recover(&mut NoSegments, 0, |_, _| {}).unwrap();
        let wal = Wal::open(config, recovered, 7, 0);
        let log = Log::new(wal, Mailboxes::new(MailboxesConfig::default(), [1, 2]));
        Self { log, stored: Vec::new(), numbers: 0 }
    }

    fn started() -> Self {
        let mut fixture = Self::new();
        fixture.run();
        fixture
    }

    fn run(&mut self) {
        loop {
            self.log.admit(at(0), false);
            let mut actions = Vec::new();
            self.log.commit(at(0), &mut actions);
            if actions.is_empty() {
                break;
            }
            for action in actions {
                let Action::Disk(action) = action else { panic!("{action:?}") };
                if let creto_store::Action::Write(write) = &action {
                    write.encode_into(&mut vec![0; write.bytes()]);
                }
                self.log.disk_completed(action.id(), Ok(()), &mut AuditFeed::default(), &mut Vec::new());
            }
            self.log.take_durable(at(0), &mut AuditFeed::default());
        }
    }

    /// Stores a message, if the log takes it.
    fn store(&mut self) -> bool {
        self.numbers += 1;
        let mut id = [0; 16];
        id[..6].copy_from_slice(&at(0).unix_ms.to_be_bytes()[2..]);
        id[8..].copy_from_slice(&self.numbers.to_be_bytes());
        let mut message = PartMessage {
            mailbox: MAILBOX,
            sender: SenderId([2; 16]),
            message_id: MessageId(id),
            sequence: 0,
            expiry_ms: 0,
            leaf_index: 0,
            priority: Priority::Normal,
            flags: MessageFlags::NONE,
            salt: [0; 16],
            path: Bytes::new(),
            envelope: Bytes::from(vec![0; 8 << 10]),
        };
        let record = |message: &PartMessage| {
            let part = creto_store::BatchPart { batch_header: Bytes::new(), messages: vec![message.clone()] };
            Record::BatchPart(part)
        };
        if self.log.wal.check_append(&record(&message)).is_err() {
            return false;
        }
        let admitted = self.log.mailboxes.admit(message.sender, message.message_id, MAILBOX, 8 << 10, at(0).unix_ms);
        let Ok(Admit::New(sequence)) = admitted else { panic!("{admitted:?}") };
        message.sequence = sequence;
        self.log.wal.append(record(&message)).unwrap();
        self.stored.push(sequence);
        self.run();
        true
    }

    fn settle_all(&mut self) {
        for sequence in std::mem::take(&mut self.stored) {
            let settle = self.log.mailboxes.settle(MAILBOX, &[sequence], SettleCause::Acknowledged).unwrap();
            self.log.wal.append(Record::Settle(settle)).unwrap();
            self.run();
        }
    }

    fn ask(&mut self, monotonic_us: u64, request: HoldRequest) -> HoldAnswer {
        self.log.hold(at(monotonic_us), BACKUP, request)
    }
}

#[test]
fn a_hold_lasts_as_long_as_it_is_renewed_and_no_longer_than_it_may() {
    assert_eq!(Fixture::new().ask(0, HoldRequest::Begin), HoldAnswer::NotStarted);
    let mut fixture = Fixture::started();
    let begun = fixture.ask(0, HoldRequest::Begin);
    assert!(matches!(begun, HoldAnswer::Held(_)), "{begun:?}");
    fixture.store();
    let mut now_us = 0;
    while now_us + HOLD_LEASE_US / 2 < HOLD_US_MAX {
        now_us += HOLD_LEASE_US / 2;
        assert_eq!(fixture.ask(now_us, HoldRequest::Renew), begun, "what is held is what was held at first");
    }
    assert_eq!(fixture.ask(HOLD_US_MAX, HoldRequest::End), HoldAnswer::Over(HoldEnd::Lapsed));
    assert_eq!(fixture.log.wal.held(), None);
}

#[test]
fn a_backup_that_is_not_heard_of_lets_go_by_itself() {
    let mut fixture = Fixture::started();
    fixture.ask(0, HoldRequest::Begin);
    fixture.log.tick(at(HOLD_LEASE_US - 1));
    assert!(fixture.log.wal.held().is_some());
    fixture.log.tick(at(HOLD_LEASE_US));
    assert_eq!(fixture.log.wal.held(), None);
    assert_eq!(fixture.ask(HOLD_LEASE_US, HoldRequest::Renew), HoldAnswer::Over(HoldEnd::Lapsed));
    assert!(matches!(fixture.ask(HOLD_LEASE_US, HoldRequest::Begin), HoldAnswer::Held(_)));
    assert!(matches!(fixture.ask(HOLD_LEASE_US, HoldRequest::End), HoldAnswer::Held(_)));
    assert_eq!(fixture.log.wal.held(), None);
    assert_eq!(fixture.ask(HOLD_LEASE_US, HoldRequest::End), HoldAnswer::Over(HoldEnd::Unknown));
}

#[test]
fn a_backup_never_makes_the_log_refuse_messages() {
    let mut fixture = Fixture::started();
    for _ in 0..16 {
        assert!(fixture.store());
    }
    fixture.ask(0, HoldRequest::Begin);
    // Everything is read as it comes, and without the hold the log would never be full.
    let mut renewed = 0;
    for _ in 0..200 {
        fixture.settle_all();
        assert!(fixture.store(), "after {renewed} renewals");
        if matches!(fixture.ask(1, HoldRequest::Renew), HoldAnswer::Held(_)) {
            renewed += 1;
        }
    }
    assert!((1..200).contains(&renewed), "{renewed}");
    assert_eq!(fixture.ask(1, HoldRequest::End), HoldAnswer::Over(HoldEnd::SpaceNeeded));
}

#[test]
fn another_backup_takes_the_place_of_the_first() {
    let mut fixture = Fixture::started();
    fixture.ask(0, HoldRequest::Begin);
    assert!(matches!(fixture.log.hold(at(1), HoldId(8), HoldRequest::Begin), HoldAnswer::Held(_)));
    assert_eq!(fixture.ask(1, HoldRequest::Renew), HoldAnswer::Over(HoldEnd::Unknown));
    assert!(matches!(fixture.log.hold(at(1), HoldId(8), HoldRequest::End), HoldAnswer::Held(_)));
}
