use creto_envelope::{AgentId, MessageId, RejectCode};
use proptest::prelude::*;

use super::*;
use crate::limits::{EVENT_BYTES_MAX, EVENT_HEADER_BYTES};

const PAGE: &str = include_str!("../../../../docs/audit-format.md");

fn chained(kind: u8, fields: &[u8], label: &str) -> Vec<u8> {
    let mut bytes = vec![EVENT_VERSION, kind, 0, u8::try_from(label.len()).unwrap()];
    bytes.resize(EVENT_HEADER_BYTES, 0);
    bytes.extend_from_slice(fields);
    bytes.extend_from_slice(label.as_bytes());
    bytes
}

fn parse_again(bytes: &[u8]) -> ChainedEvent {
    let event = ChainedEvent::parse(bytes).unwrap();
    let mut again = Vec::new();
    event.encode(&mut again);
    assert_eq!(again, bytes, "an accepted event comes back as it was");
    event
}

/// All zero, but for closed lists without a zero.
fn smallest_fields(kind: &Kind) -> Vec<u8> {
    let mut fields = vec![0; kind.fields_bytes];
    if kind.name == "notice_queued" {
        fields[56] = 1;
    }
    if kind.name == "alert_raised" {
        fields[44] = 1;
    }
    fields
}

#[test]
fn every_kind_is_parsed_to_the_kind_that_it_was_and_encodes_to_the_same_bytes() {
    for kind in Kind::ALL {
        let event = parse_again(&chained(kind.number, &smallest_fields(kind), "acme/planner"));
        assert_eq!((event.event.what.number(), event.event.what.name()), (kind.number, kind.name));
        let mut names = Vec::new();
        event.event.what.visit(|name, _| names.push(name));
        assert_eq!(names, kind.fields.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        assert_eq!(kind.fields.iter().map(|(_, bytes)| bytes).sum::<usize>(), kind.fields_bytes);
        assert_eq!(event.label.as_str(), "acme/planner");
    }
}

#[test]
fn numbers_and_names_of_kinds_are_never_given_twice() {
    for (index, kind) in Kind::ALL.iter().enumerate() {
        assert!(Kind::ALL[index + 1..].iter().all(|other| other.number > kind.number && other.name != kind.name));
    }
}

#[test]
fn the_page_lists_every_kind_with_its_fields() {
    for kind in Kind::ALL {
        let fields: Vec<_> = kind.fields.iter().map(|(name, bytes)| format!("{name} {bytes}")).collect();
        let row = format!("| {} | `{}` | {} | {} |", kind.number, kind.name, kind.fields_bytes, fields.join(", "));
        assert!(PAGE.contains(&row), "the page has no row\n{row}");
    }
}

#[test]
fn the_page_lists_every_code_of_the_control_api_and_no_number_twice() {
    for (index, (number, name)) in CONTROL_CODES.iter().enumerate() {
        assert_eq!(usize::from(*number), 1_000 + index);
        assert!(PAGE.contains(&format!("| {number} `{name}` |")), "the page has no {number} {name}");
        assert_eq!((Code::of_control(name), Code(*number).name()), (Some(Code(*number)), Some(*name)));
    }
    assert_eq!(Code::of_control("nothing"), None);
}

#[test]
fn an_event_that_is_cut_or_has_one_byte_more_is_refused() {
    for kind in Kind::ALL {
        let bytes = chained(kind.number, &smallest_fields(kind), "x");
        for length in 0..bytes.len() {
            assert!(ChainedEvent::parse(&bytes[..length]).is_err(), "{} of {} bytes", kind.name, length);
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(ChainedEvent::parse(&longer), Err(EventError::Length));
    }
}

#[test]
fn what_has_no_meaning_is_refused_by_its_name() {
    let good = chained(2, &[0; 24], "");
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        ChainedEvent::parse(&bytes)
    };
    assert!(ChainedEvent::parse(&good).is_ok());
    assert_eq!(with(0, 2), Err(EventError::Version(2)));
    assert_eq!(with(1, 63), Err(EventError::Kind(63)));
    assert_eq!(with(2, 2), Err(EventError::NotZero));
    assert_eq!(with(6, 1), Err(EventError::NotZero));
    assert_eq!(with(23, 0x80), Err(EventError::Value), "a time with its highest bit");
    assert_eq!(with(3, 1), Err(EventError::Length));
    let mut dead = chained(4, &[0; 28], "");
    dead[EVENT_HEADER_BYTES + 26] = 9;
    assert_eq!(ChainedEvent::parse(&dead), Err(EventError::Value), "a cause that does not exist");
    assert_eq!(ChainedEvent::parse(&chained(64, &[0; 68], "a\x1bb")), Err(EventError::Value));
}

#[test]
fn the_bytes_are_those_of_the_page() {
    let what = What::Accepted {
        sender: AgentId([1; 16]),
        recipient: AgentId([2; 16]),
        message_id: MessageId([3; 16]),
        channel: ChannelId([4; 16]),
        sequence: 0x0807_0605_0403_0201,
        envelope_bytes: 0x1413_1211,
        key_version: 0x2423_2221,
        priority: 2,
        message_kind: 7,
    };
    let event = Event::recovered(0x0000_0605_0403_0201, what);
    let (source, previous) = (SourceId::shard(0x0102), ChainHash([9; 32]));
    let mut bytes = Vec::new();
    ChainedEvent { source, position: 5, previous, event, label: Label::NONE }.encode(&mut bytes);
    let expected = [
        "01010100",
        "0201",
        "0000",
        "0500000000000000",
        "0102030405060000",
        &"09".repeat(32),
        &"01".repeat(16),
        &"02".repeat(16),
        &"03".repeat(16),
        &"04".repeat(16),
        "0102030405060708",
        "11121314",
        "21222324",
        "02",
        "07",
    ];
    assert_eq!(hex::encode(&bytes), expected.concat());
    let parsed = parse_again(&bytes);
    assert_eq!(parsed.event, event);
    assert!(parsed.event.is_recovered() && parsed.event.time_ms() == 0x0605_0403_0201);
    assert_eq!(ChainedEvent::peek(&bytes), Ok((source, 5, previous)));
}

#[test]
fn a_label_is_cut_and_says_nothing_to_a_terminal() {
    assert_eq!(Label::of("acme/planner").as_str(), "acme/planner");
    assert_eq!(Label::of("a\x1b[2Jb\u{e9}\u{202e}").as_str(), "a?[2Jb??");
    assert_eq!(Label::of(&"x".repeat(500)).as_str().len(), 128);
}

#[test]
fn the_largest_event_is_within_the_limit() {
    let label = Label::of(&"x".repeat(500));
    for kind in Kind::ALL {
        let bytes = chained(kind.number, &smallest_fields(kind), label.as_str());
        assert!(bytes.len() <= EVENT_BYTES_MAX, "{}", kind.name);
    }
}

#[test]
fn sources_and_codes_are_read_as_they_are_written() {
    for source in [SourceId::shard(0), SourceId::shard(65_534), SourceId::CONTROL] {
        assert_eq!(SourceId::parse(&source.to_string()), Some(source));
    }
    for wrong in ["", "shard-", "shard-65535", "shard-01", "shard-+1", "shard-65536", "Control"] {
        assert_eq!(SourceId::parse(wrong), None, "{wrong}");
    }
    assert_eq!(Code::from(RejectCode::AgentRevoked).name(), Some("AgentRevoked"));
    assert_eq!(Code(9).name(), None);
    assert_eq!(
        Peer::from("192.0.2.1".parse::<std::net::IpAddr>().unwrap()).address().unwrap().to_string(),
        "192.0.2.1"
    );
    assert_eq!(Peer::default().address(), None);
}

proptest! {
    #[test]
    fn any_bytes_are_an_event_that_encodes_to_them_or_an_error(
        kind in prop::sample::select(Kind::ALL),
        body in prop::collection::vec(any::<u8>(), 0..200),
        label_bytes in 0_u8..4,
        flags in 0_u8..3,
    ) {
        let mut bytes = vec![EVENT_VERSION, kind.number, flags, label_bytes, 1, 0, 0, 0];
        bytes.extend_from_slice(&body);
        if let Ok(event) = ChainedEvent::parse(&bytes) {
            parse_again(&bytes);
            prop_assert_eq!(ChainedEvent::peek(&bytes), Ok((event.source, event.position, event.previous)));
        }
    }
}
