use creto_envelope::control::{Login, StreamOpen, StreamRole};
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::{AgentId, AgentName, AgentState, FrameHeader, KeyId, TrustDomain};
use creto_policy::{KeyVersion, Policy, SnapshotBuilder};
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
    let ask_channel: AskChannel = Box::new(|_, _| Err(RejectCode::Overloaded));
    let ask_prekeys: AskPrekeys = Box::new(|_, _, _| Err(RejectCode::Overloaded.into()));
    let room = RoomWatch::new(0, 2, nowhere.path().to_owned(), creto_service::health::Health::new(2));
    let (report, audit) = (crossbeam::channel::unbounded().0, crossbeam::channel::unbounded().0);
    let ends = Ends {
        publish,
        enrol,
        ask_key_record,
        ask_key_log,
        ask_channel,
        ask_prekeys,
        report,
        workers: None,
        audit,
        late: Arc::default(),
        board: crate::metrics::Board::default(),
    };
    ShardMachine::new(shard, 0, 2, room, ends, None)
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

fn frame(machine: &mut ShardMachine, connection: ConnectionId, encode: impl FnOnce(&mut Vec<u8>)) {
    let mut out = Vec::new();
    encode(&mut out);
    let header = FrameHeader::parse(out[..FRAME_HEADER_BYTES].try_into().unwrap()).unwrap();
    let body = Bytes::from(out.split_off(FRAME_HEADER_BYTES));
    machine.apply(NOW, Event::Frame { connection, stream: StreamId(0), frame_type: header.frame_type, body });
}

#[test]
fn a_login_whose_record_control_does_not_take_a_question_for_is_answered_in_the_next_turn_and_may_try_again() {
    let mut machine = machine();
    let name = AgentName::parse("acme/planner").unwrap();
    let version = KeyVersion {
        version: 1,
        key: KeyId([1; 16]),
        valid_from_ms: 0,
        valid_until_ms: u64::MAX,
        has_fn_dsa_512: false,
        replaced: None,
    };
    let mut agents = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let agent = agents.insert_versions(&TrustDomain::default(), &name, AgentState::Active, vec![version]).unwrap();
    machine.apply(NOW, Event::Snapshot(Arc::new(agents.build(1))));
    let connection = ConnectionId(1);
    machine.apply(NOW, Event::Connected { connection, exporter: [0; 32], peer: ([127, 0, 0, 1], 4433).into() });
    frame(&mut machine, connection, |out| StreamOpen { role: StreamRole::Control }.encode(out));
    for round in 1..=2 {
        let (ed25519, ml_dsa_65) = ([0; 64], Box::new([0; 3_309]));
        let login = Login { agent, key_record_version: 1, ed25519, ml_dsa_65 };
        frame(&mut machine, connection, |out| login.encode(out));
        machine.on_turn(NOW);
        assert_eq!((machine.not_taken.len(), machine.next_deadline_us()), (1, Some(0)), "it is told at once");
        machine.on_turn(NOW);
        assert!(machine.not_taken.is_empty() && machine.next_deadline_us() != Some(0));
        assert_eq!(machine.shard.counters().rejects.get(&RejectCode::Overloaded), Some(&round));
    }
}
