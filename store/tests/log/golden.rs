//! The worked example of `docs/wal-format.md` is what the code writes, byte by byte.
//!
//! After a deliberate change of the format, `CRETO_GOLDEN=write cargo test -p creto-store --test log golden` writes the page.

use std::fmt::Write;

use bytes::Bytes;
use creto_store::{
    BatchPart, MailboxId, MailboxesConfig, MessageFlags, MessageId, PartMessage, Priority, Record, SegmentNumber,
    SenderId, Settle, SettleCause, verify,
};

use crate::disk::{Disk, Random};
use crate::node::{NOW_MS, Node, SHARD, small_config};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/wal-format.md");
const BEGIN: &str = "<!-- golden:begin -->\n```\n";
const END: &str = "```\n<!-- golden:end -->";

#[test]
fn the_worked_example_of_the_page_is_what_the_code_writes() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page marks where the example begins");
    let (on_page, after) = rest.split_once(END).expect("the page marks where the example ends");
    let written = dump(&example());
    if std::env::var("CRETO_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(PAGE, format!("{before}{BEGIN}{written}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(on_page, written, "the format changed: raise its version, or find out what changed it");
}

#[test]
fn the_bytes_of_the_page_are_a_sound_log() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (_, rest) = page.split_once(BEGIN).unwrap();
    let (on_page, _) = rest.split_once(END).unwrap();
    let mut disk = Disk::default();
    disk.prepare(SegmentNumber(1), 64 << 10, None);
    for line in on_page.lines() {
        let (offset, bytes) = line.split_once(':').unwrap();
        let offset = usize::from_str_radix(offset, 16).unwrap();
        for (at, byte) in bytes.split_whitespace().enumerate() {
            disk.bytes_mut(SegmentNumber(1))[offset + at] = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    let report = verify(&mut disk, SHARD).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!((report.frames, report.records, report.messages, report.durable_upto.0), (4, 3, 1, 3));
}

fn example() -> Vec<u8> {
    let mut disk = Disk::default();
    let config = MailboxesConfig::default();
    let mut node = Node::start(&mut disk, small_config(1), config, 0x1122_3344_5566_7788, NOW_MS).unwrap().0;
    let message = PartMessage {
        mailbox: MailboxId(*b"mailbox-id-16-by"),
        sender: SenderId(*b"sender-id-16-byt"),
        message_id: MessageId(0x018b_cfe5_6800_7000_8000_0000_0000_0001_u128.to_be_bytes()),
        sequence: 1,
        expiry_ms: NOW_MS + 60_000,
        leaf_index: 0,
        priority: Priority::Normal,
        flags: MessageFlags::NONE,
        salt: *b"salt-of-16-bytes",
        path: Bytes::from_static(b"one hash of the path, 32 bytes.."),
        envelope: Bytes::from_static(b"sealed envelope"),
    };
    let part = BatchPart { batch_header: Bytes::from_static(b"batch header"), messages: vec![message.clone()] };
    let settle = Settle { mailbox: message.mailbox, cause: SettleCause::Acknowledged, sequences: vec![1] };
    node.settle_down(&mut disk, &mut Random(1), NOW_MS);
    for record in [Record::BatchPart(part), Record::Settle(settle)] {
        node.wal.append(record).unwrap();
        node.settle_down(&mut disk, &mut Random(1), NOW_MS);
    }
    node.wal.confirm();
    node.settle_down(&mut disk, &mut Random(1), NOW_MS);
    disk.bytes_mut(SegmentNumber(1)).clone()
}

fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (at, line) in bytes.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|&byte| byte != 0)) {
        write!(text, "{:04x}:", 16 * at).unwrap();
        for byte in line {
            write!(text, " {byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}
