use creto_audit::event::{ChannelId, Code};
use creto_audit::{Event, SourceId};
use creto_audit_store::Writer;
use creto_audit_store::disk::RealDisk;

use super::super::book::{Pair, Sent};
use super::*;

const AGENT: AgentId = AgentId([7; 16]);

fn id(n: u8) -> MessageId {
    MessageId::from_parts(u64::from(n), [n; 10])
}

fn accepted(n: u8) -> What {
    What::Accepted {
        sender: AGENT,
        recipient: AGENT,
        message_id: id(n),
        channel: ChannelId([0; 16]),
        sequence: u64::from(n),
        envelope_bytes: 100,
        key_version: 1,
        priority: 1,
        message_kind: 0,
    }
}

fn refused(n: u8, code: RejectCode) -> What {
    let code = Code::from(code);
    What::SubmitRefused { sender: AGENT, recipient: AGENT, message_id: id(n), key_version: 1, count: 1, code }
}

/// A log of these events.
fn log(events: &[What]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys::create(folder.path(), "creto.local/creto-audit/n").unwrap();
    let mut writer = Writer::open(RealDisk::new(folder.path()), keys).unwrap();
    let events: Vec<Event> = events.iter().map(|what| Event::new(1, *what)).collect();
    writer.append(SourceId::shard(0), &events).unwrap();
    writer.commit().unwrap();
    writer.checkpoint(2).unwrap();
    folder
}

fn tally(sent: &[u8], acknowledged: &[u8]) -> Tally {
    let pair = Pair { from: 0, to: 0 };
    Tally::of(&Pages {
        sent: sent.iter().map(|n| Sent { id: id(*n), pair, digest: [0; 32], due: None }).collect(),
        acknowledged: acknowledged.iter().copied().map(id).collect(),
        ..Pages::default()
    })
}

#[test]
fn each_acknowledged_message_must_stand_once_in_the_log() {
    let log = log(&[accepted(1), accepted(2), accepted(2), accepted(3), accepted(9)]);
    // The third was sent and never acknowledged, the fourth is missing, nobody sent the ninth.
    let wanted = Messages { once: 1, missing: 1, twice: 1, unknown: 1 };
    let there = verify_in_place(log.path(), tally(&[1, 2, 3, 4], &[1, 2, 4])).unwrap();
    assert_eq!((there.messages, there.events), (wanted, 5));
    let exported = export_and_verify(log.path(), log.path(), tally(&[1, 2, 3, 4], &[1, 2, 4]), &[]).unwrap();
    assert_eq!((exported.messages, exported.events), (wanted, 5));
    assert_eq!(exported.problems(3).len(), 3);
}

#[test]
fn an_exhibit_is_proven_and_one_that_is_not_there_is_not() {
    let log = log(&[accepted(1), refused(2, RejectCode::PolicyDenied), refused(3, RejectCode::RateLimited)]);
    let denial = |n| Exhibit::Denial { sender: AGENT, message_id: id(n) };
    let exhibits = [denial(2), denial(3), Exhibit::Closing { agent: AGENT }];
    let findings = export_and_verify(log.path(), log.path(), tally(&[1], &[1]), &exhibits).unwrap();
    assert_eq!(findings.proofs, [(exhibits[0], Some(1)), (exhibits[1], None), (exhibits[2], None)]);
    assert_eq!(findings.problems(1).len(), 2, "one for each that is not there");
    assert_eq!(findings.problems(2).len(), 3, "and one for the message");
}

#[test]
fn a_proof_of_another_event_or_another_log_is_none() {
    let exhibit = Exhibit::Denial { sender: AGENT, message_id: id(2) };
    let [this, other] = [(); 2].map(|()| log(&[accepted(1), refused(2, RejectCode::PolicyDenied)]));
    let reader = LogReader::open(this.path()).unwrap();
    let file = this.path().join("a.tlog-proof");
    let check = |index, auditor: &LogReader| {
        fs::write(&file, prove(&reader, index, None).unwrap().to_text()).unwrap();
        check_proof(&file, auditor.verifier(), auditor.checkpoint(), exhibit)
    };
    assert_eq!(check(1, &reader), Ok(()));
    assert!(check(0, &reader).unwrap_err().contains("another event"));
    assert!(check(1, &LogReader::open(other.path()).unwrap()).is_err());
}

#[test]
fn a_log_with_a_changed_entry_does_not_hold() {
    let log = log(&[accepted(1), accepted(2)]);
    let entries = log.path().join(creto_audit_store::layout::entries_file(0));
    let mut bytes = fs::read(&entries).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&entries, bytes).unwrap();
    assert!(verify_in_place(log.path(), tally(&[1, 2], &[1, 2])).is_err());
    assert!(export_and_verify(log.path(), log.path(), tally(&[1, 2], &[1, 2]), &[]).is_err());
}
