//! What is noted of a live record is what recovery notes of it, and names the right bytes of the disk.

use creto_store::{Noted, Position, recover};

use crate::disk::{Crash, Disk, Random};
use crate::node::{NOW_MS, Node, SHARD, messages, small_config};

#[test]
fn a_record_is_noted_alike_when_it_becomes_durable_and_when_it_is_recovered() {
    let mut compared = 0;
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut disk = Disk::default();
        let mut live: Vec<(Position, Noted)> = Vec::new();
        let mut number = 1;
        for life in 0..3 {
            let config = small_config(1 + random.below(3));
            let (mut node, _) = Node::start(&mut disk, config, Default::default(), seed ^ life, NOW_MS).unwrap();
            for _ in 0..40 {
                let count = 1 + random.below(4) as u64;
                let submitted = node.submit(messages(number, count, 1 + random.below(3000), NOW_MS), NOW_MS);
                number += count;
                if random.one_in(3) && node.wal.is_started() {
                    submitted.first().map(|message| node.settle(message));
                }
                if random.one_in(3) {
                    node.settle_down(&mut disk, &mut random, NOW_MS);
                }
                if random.one_in(8) {
                    node.trim();
                }
                let durable = node.take_durable();
                live.extend(durable.iter().map(|durable| (durable.position, durable.record.noted(durable.position))));
            }
            node.settle_down(&mut disk, &mut random, NOW_MS);
            let durable = node.take_durable();
            live.extend(durable.iter().map(|durable| (durable.position, durable.record.noted(durable.position))));
            let log_start = node.wal.log_start();
            node.crash(&mut disk, Crash::Power, &mut random);

            let mut found = Vec::new();
            recover(&mut disk, SHARD, |position, record| found.push((position, record.noted(position)))).unwrap();
            live.retain(|(position, _)| position.segment >= log_start);
            assert_eq!(found, live, "seed {seed}, life {life}");
            for message in found.iter().flat_map(|(_, noted)| match noted {
                Noted::Part(messages) | Noted::Moved(messages) | Noted::Notice(messages) => &messages[..],
                _ => &[],
            }) {
                let (from, bytes) = (message.place.message_offset as usize, message.place.message_bytes as usize);
                let bytes = &disk.bytes_mut(message.place.segment)[from..from + bytes];
                assert_eq!(bytes[..16], message.mailbox.0);
                assert_eq!(bytes[32..48], message.message_id.0);
                assert_eq!(bytes[48..56], message.sequence.to_le_bytes());
                compared += 1;
            }
        }
    }
    assert!(compared > 2000, "vacuous: {compared}");
}
