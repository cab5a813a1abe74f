//! The pages cannot rot: every hex block, table of codes, frame types and limits in them is held against the golden files
//! and the code.
//!
//! A hex block says where its bytes come from: ` ```hex file=NAME ` (a golden file) or ` ```hex value=PATH ` (a value of
//! `example.json`). Its lines are `OFFSET: bytes ; remark`; a line `...` leaves bytes out.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::fs;
use std::path::PathBuf;

use creto_envelope::{FrameType, RejectCode, limits};

const PAGES: [&str; 4] = ["envelope-format.md", "protocol.md", "proof-format.md", "prekeys.md"];

fn read(relative: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page(name: &str) -> String {
    read(&format!("../docs/{name}"))
}

/// The bytes that a block says it was cut from.
fn source(tag: &str) -> Vec<u8> {
    let text = match tag.split_once('=').unwrap() {
        ("file", name) => read(&format!("golden/{name}")).lines().collect(),
        ("value", path) => {
            let example: serde_json::Value = serde_json::from_str(&read("golden/example.json")).unwrap();
            let pointer = format!("/{}", path.replace('.', "/"));
            let value = example.pointer(&pointer).unwrap_or_else(|| panic!("example.json has no {path}"));
            value.as_str().unwrap().to_owned()
        }
        _ => panic!("a hex block names a file or a value, not {tag}"),
    };
    hex::decode(text).unwrap()
}

/// Holds one block against its source; returns how many bytes it shows.
fn check_block(page: &str, tag: &str, lines: &[&str]) -> usize {
    let source = source(tag);
    let (mut shown, mut at, mut gap) = (0, 0, false);
    for line in lines {
        if line.trim() == "..." {
            gap = true;
            continue;
        }
        let (offset, rest) = line.split_once(':').unwrap_or_else(|| panic!("{page}, {tag}: no offset in `{line}`"));
        let offset: usize = offset.trim().parse().unwrap();
        let bytes = hex::decode(rest.split(';').next().unwrap().split_whitespace().collect::<String>()).unwrap();
        assert!(offset == at || (gap && offset > at), "{page}, {tag}: {offset} does not follow {at}");
        assert_eq!(source.get(offset..offset + bytes.len()), Some(&bytes[..]), "{page}, {tag}, offset {offset}");
        (at, gap) = (offset + bytes.len(), false);
        shown += bytes.len();
    }
    assert!(gap || at == source.len(), "{page}, {tag}: ends at {at} of {}", source.len());
    shown
}

#[test]
fn hex_blocks_of_the_pages_are_the_golden_bytes() {
    let (mut blocks, mut shown) = (0, 0);
    for name in PAGES {
        let text = page(name);
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some(tag) = line.strip_prefix("```hex ") else {
                assert_ne!(line, "```hex", "{name}: a hex block says where its bytes come from");
                continue;
            };
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            shown += check_block(name, tag, &block);
            blocks += 1;
        }
    }
    assert!(blocks >= 30 && shown >= 1_800, "only {blocks} blocks with {shown} bytes were compared");
}

/// The cells of every table row of a page that begins with a cell for which `first` holds.
fn rows(name: &str, first: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
    let text = page(name);
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    text.lines()
        .filter(|line| line.starts_with('|'))
        .map(cells)
        .filter(|cells: &Vec<String>| first(&cells[0]))
        .collect()
}

#[test]
fn the_page_lists_every_reject_code_as_it_is() {
    let listed: Vec<_> = rows("protocol.md", |cell| cell.len() == 3 && cell.parse::<u16>().is_ok());
    let expect: Vec<_> = RejectCode::ALL
        .iter()
        .map(|code| {
            let retry = if code.is_retryable() { "yes" } else { "no" };
            vec![code.as_u16().to_string(), format!("`{}`", code.name()), code.text().to_owned(), retry.to_owned()]
        })
        .collect();
    assert_eq!(listed, expect);
}

#[test]
fn every_code_that_a_page_names_has_that_number() {
    let mut named = 0;
    for name in PAGES {
        let text = page(name);
        for quoted in text.split('`').skip(1).step_by(2) {
            let Some((word, number)) = quoted.strip_suffix(')').and_then(|quoted| quoted.split_once(" (")) else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            assert_eq!(RejectCode::from_u16(number).map(RejectCode::name), Some(word), "{name}: `{quoted}`");
            named += 1;
        }
    }
    assert!(named > 60, "only {named} codes were compared");
}

#[test]
fn the_page_lists_every_frame_type_with_its_limit() {
    let listed: Vec<_> = rows("protocol.md", |cell| cell.starts_with("0x"))
        .into_iter()
        .map(|cells| (cells[0].clone(), cells[1].clone(), cells[4].replace(',', "")))
        .collect();
    let expect: Vec<_> = FrameType::ALL
        .iter()
        .map(|&frame_type| {
            let limit = frame_type.body_bytes_max().to_string();
            (format!("{:#04x}", frame_type as u8), format!("{frame_type:?}"), limit)
        })
        .collect();
    assert_eq!(listed, expect);
}

#[test]
fn the_pages_list_the_limits_as_they_are() {
    let listed: Vec<_> = PAGES
        .iter()
        .flat_map(|name| rows(name, |cell| cell.starts_with('`') && cell.ends_with("_MAX`")))
        .map(|cells| (cells[0].trim_matches('`').to_owned(), cells[1].replace(',', "").parse::<u64>().unwrap()))
        .collect();
    let limit = |name: &str| -> u64 {
        match name {
            "PAYLOAD_PLAINTEXT_BYTES_MAX" => limits::PAYLOAD_PLAINTEXT_BYTES_MAX as u64,
            "PAYLOAD_BYTES_MAX" => limits::PAYLOAD_BYTES_MAX as u64,
            "ENVELOPE_BYTES_MAX" => limits::ENVELOPE_BYTES_MAX as u64,
            "SESSION_MESSAGES_MAX" => limits::SESSION_MESSAGES_MAX,
            "BATCH_MESSAGES_MAX" => limits::BATCH_MESSAGES_MAX as u64,
            "BATCH_BYTES_MAX" => limits::BATCH_BYTES_MAX as u64,
            "PATH_NODES_MAX" => limits::PATH_NODES_MAX as u64,
            "NAME_BYTES_MAX" => limits::NAME_BYTES_MAX as u64,
            "TRUST_DOMAIN_BYTES_MAX" => limits::TRUST_DOMAIN_BYTES_MAX as u64,
            "FRAME_BODY_BYTES_MAX" => limits::FRAME_BODY_BYTES_MAX as u64,
            "CONTROL_BODY_BYTES_MAX" => limits::CONTROL_BODY_BYTES_MAX as u64,
            "DELIVER_BODY_BYTES_MAX" => limits::DELIVER_BODY_BYTES_MAX as u64,
            "SUBMIT_RESULTS_MAX" => limits::SUBMIT_RESULTS_MAX as u64,
            "CONSUMER_ACK_SEQUENCES_MAX" => limits::CONSUMER_ACK_SEQUENCES_MAX as u64,
            "CONSUMER_NACK_MESSAGES_MAX" => limits::CONSUMER_NACK_MESSAGES_MAX as u64,
            "DEAD_LETTERS_LISTED_MAX" => limits::DEAD_LETTERS_LISTED_MAX as u64,
            "DEAD_LETTER_CHANGES_MAX" => limits::DEAD_LETTER_CHANGES_MAX as u64,
            "PREKEYS_PER_BATCH_MAX" => limits::PREKEYS_PER_BATCH_MAX as u64,
            "PREKEY_UPLOAD_BODY_BYTES_MAX" => limits::PREKEY_UPLOAD_BODY_BYTES_MAX as u64,
            "PREKEY_PATH_NODES_MAX" => limits::PREKEY_PATH_NODES_MAX as u64,
            "KEY_LEAVES_MAX" => limits::KEY_LEAVES_MAX as u64,
            "IN_FLIGHT_MESSAGES_MAX" => u64::from(limits::IN_FLIGHT_MESSAGES_MAX),
            "CHANNEL_SESSION_MESSAGES_MAX" => limits::CHANNEL_SESSION_MESSAGES_MAX,
            "CHANNEL_SUBSCRIPTIONS_MAX" => limits::CHANNEL_SUBSCRIPTIONS_MAX as u64,
            "CHANNEL_MEMBERS_TOLD_MAX" => creto_envelope::channel::frames::CHANNEL_MEMBERS_TOLD_MAX as u64,
            "CREDIT_MESSAGES_MAX" => u64::from(limits::CREDIT_MESSAGES_MAX),
            "CREDIT_BYTES_MAX" => u64::from(limits::CREDIT_BYTES_MAX),
            "SIGNAL_PLAINTEXT_BYTES_MAX" => limits::SIGNAL_PLAINTEXT_BYTES_MAX as u64,
            "SIGNAL_TTL_S_MAX" => u64::from(limits::SIGNAL_TTL_S_MAX),
            "SIGNAL_CREDIT_MAX" => u64::from(limits::SIGNAL_CREDIT_MAX),
            unknown => panic!("a page lists {unknown}, which is no limit"),
        }
    };
    for (name, value) in &listed {
        assert_eq!(*value, limit(name), "{name}");
    }
    assert_eq!(listed.len(), 30, "every limit is on one of the pages");
}
