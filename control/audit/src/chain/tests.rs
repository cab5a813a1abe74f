use creto_envelope::AgentId;

use super::*;
use crate::event::What;

const ORIGIN: &str = "creto.local/creto-audit/node-1";

fn event(sequence: u64) -> Event {
    Event::new(1_000 + sequence, What::Delivered { mailbox: AgentId([7; 16]), sequence })
}

#[test]
fn a_chain_numbers_its_events_and_each_names_the_one_before() {
    let source = SourceId::shard(3);
    let mut chain = Chain::beginning(ORIGIN, source);
    let mut previous = ChainHash::beginning(ORIGIN, source);
    for position in 0..5 {
        let mut bytes = Vec::new();
        chain.append(&event(position), &Label::NONE, &mut bytes);
        let chained = ChainedEvent::parse(&bytes).unwrap();
        assert_eq!((chained.source, chained.position, chained.previous), (source, position, previous));
        previous = ChainHash::of(&bytes);
        assert_eq!((chain.position, chain.head), (position + 1, previous));
    }
}

#[test]
fn a_chain_hash_is_sha256_over_two_and_the_bytes() {
    assert_eq!(ChainHash::of(b"abc").0, sha256(&[b"\x02abc"]));
    let beginning = ChainHash::beginning("o", SourceId::shard(0x0102));
    assert_eq!(beginning.0, sha256(&[b"creto/audit-chain/v1\x00\x02\x01o"]));
}

#[test]
fn beginnings_differ_between_logs_and_sources() {
    let one = ChainHash::beginning(ORIGIN, SourceId::shard(0));
    assert_ne!(one, ChainHash::beginning(ORIGIN, SourceId::CONTROL));
    assert_ne!(one, ChainHash::beginning("creto.local/creto-audit/node-2", SourceId::shard(0)));
}
