use creto_envelope::AgentId;
use creto_shard::limits::ConnectionLimits;
use creto_shard::route::Origin;
use creto_shard::{Log, Placement};
use creto_store::{FileSource, Mailboxes, MailboxesConfig, Wal, WalConfig};

use super::*;

const NOW: Now = Now { us: 0, wall_ms: 1_700_000_000_000 };

fn machine() -> ShardMachine {
    let nowhere = tempfile::tempdir().unwrap();
    let recovered = creto_store::recover(&mut FileSource::new(nowhere.path()), 0, |_, _| {}).unwrap();
    let wal = Wal::open(WalConfig::default(), recovered, 1, NOW.wall_ms);
    let log = Log::new(wal, Mailboxes::new(MailboxesConfig::default(), [1, 2]));
    let shard = Shard::new(ShardIndex(0), Placement::new(2), ConnectionLimits::default(), log);
    // A control service that is busy.
    let refused = KeyRefused { code: RejectCode::Overloaded, retry_after_ms: 7 };
    let publish: PublishKeyRecord = Box::new(move |_, _, _, _| Err(refused));
    let enrol: Enrol = Box::new(move |_, _, _, _| Err(refused));
    let ask_key_record: AskKeyRecord = Box::new(move |_, _| Err(refused));
    let ask_key_log: AskKeyLog = Box::new(|_, _| Err(RejectCode::Overloaded.into()));
    let ask_prekeys: AskPrekeys = Box::new(|_, _, _| Err(RejectCode::Overloaded.into()));
    let room = RoomWatch::new(0, 2, nowhere.path().to_owned(), creto_service::health::Health::new(2));
    let (report, audit) = (crossbeam::channel::unbounded().0, crossbeam::channel::unbounded().0);
    let ends = Ends { publish, enrol, ask_key_record, ask_key_log, ask_prekeys, report, workers: None, audit };
    ShardMachine::new(shard, 0, 2, room, ends)
}

/// A message that carries its number.
fn numbered(messages: u32) -> NodeItem {
    let origin = Origin { shard: ShardIndex(0), connection: ConnectionId(1) };
    NodeItem::Shard(ShardMessage::Credit { mailbox: AgentId::ZERO, origin, messages, bytes: 0 })
}

/// Takes actions as a driver whose ring has `room`; returns the numbers that went into the ring.
fn drive(machine: &mut ShardMachine, room: usize) -> Vec<u32> {
    let mut sent = Vec::new();
    while let Some(action) = machine.poll_action() {
        let IoAction::SendItem { to: 1, item } = action else { continue };
        if sent.len() == room {
            machine.on_event(NOW, IoEvent::RingFull { to: 1, item });
            continue;
        }
        if let NodeItem::Shard(ShardMessage::Credit { messages, .. }) = item {
            sent.push(messages);
        }
    }
    sent
}

#[test]
fn what_one_shard_says_to_another_stays_in_order_when_the_ring_is_full() {
    let mut machine = machine();
    machine.todo.extend((0..6).map(|number| IoAction::SendItem { to: 1, item: numbered(number) }));
    assert_eq!(drive(&mut machine, 2), [0, 1]);
    // Younger ones are already waiting when there is room again.
    machine.todo.extend((6..8).map(|number| IoAction::SendItem { to: 1, item: numbered(number) }));
    machine.on_event(NOW, IoEvent::RingRoom { to: 1 });
    assert_eq!(drive(&mut machine, 100), [2, 3, 4, 5, 6, 7]);
}
