//! Channels: names, patterns, and the record, one encoding for each value.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use creto_envelope::channel::{
    CHANNEL_RECORD_FIXED_BYTES, ChannelName, ChannelNameError, ChannelPattern, ChannelRecord, Publishing,
    SignedChannelRecord, Subscribing,
};
use creto_envelope::limits::{CHANNEL_MEMBERS_MAX, SIGNED_CHANNEL_RECORD_BYTES_MAX};
use creto_envelope::{AgentId, AgentName, ChannelId, RejectCode, TrustDomain};
use proptest::prelude::*;

fn agent(number: u16) -> AgentId {
    let [high, low] = number.to_be_bytes();
    AgentId([high, low, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3])
}

fn record() -> ChannelRecord {
    ChannelRecord {
        version: 2,
        name: ChannelName::parse("acme/alerts.eu.critical").unwrap(),
        trust_domain: TrustDomain::default(),
        owner: agent(7),
        owner_key_version: 1,
        signed_at_ms: 1_700_000_000_000,
        subscribing: Subscribing::Allowlist(vec![agent(1), agent(9)]),
        publishing: Publishing::Listed(vec![agent(2)]),
        has_history: true,
        is_deleted: false,
        retention_s: 7 * 86_400,
        messages_max: 1_000_000,
        bytes_max: 1 << 30,
        subscribers_max: 10_000,
    }
}

fn signed(record: ChannelRecord) -> SignedChannelRecord {
    SignedChannelRecord { record, ed25519: [1; 64], ml_dsa_65: Box::new([2; 3_309]) }
}

#[test]
fn names_are_words_of_an_organization() {
    for name in ["acme/a", "acme/alerts.eu.critical", "ac.me-1/a_b-c.0", "acme/a.b"] {
        let parsed = ChannelName::parse(name).unwrap();
        assert_eq!((parsed.as_str(), parsed.organization()), (name, name.split('/').next().unwrap()));
    }
    for name in ["", "acme", "acme/", "/a", "acme/a..b", "acme/.a", "acme/a."] {
        assert_eq!(ChannelName::parse(name), Err(ChannelNameError::Form(name.to_owned())), "{name}");
    }
    for (name, found) in
        [("acme/a/b", '/'), ("acme/A", 'A'), ("acme/*", '*'), ("ac*me/a", '*'), ("acme/\u{430}", '\u{430}')]
    {
        assert_eq!(ChannelName::parse(name), Err(ChannelNameError::Character { name: name.to_owned(), found }));
    }
    let long = format!("acme/{}", "a".repeat(124));
    assert_eq!(ChannelName::parse(&long), Err(ChannelNameError::TooLong(129)));
}

#[test]
fn a_pattern_stands_for_the_names_whose_words_fit() {
    let matches =
        |pattern: &str, name: &str| ChannelPattern::parse(pattern).unwrap().matches(&ChannelName::parse(name).unwrap());
    for (pattern, name) in [
        ("acme/alerts.*.critical", "acme/alerts.eu.critical"),
        ("acme/*", "acme/alerts"),
        ("acme/**", "acme/alerts"),
        ("acme/**", "acme/alerts.eu.critical"),
        ("acme/alerts.**", "acme/alerts.eu.critical"),
        ("acme/*.eu.**", "acme/alerts.eu.critical"),
        ("acme/alerts", "acme/alerts"),
    ] {
        assert!(matches(pattern, name), "{pattern} {name}");
        let pattern = ChannelPattern::parse(pattern).unwrap();
        assert!(name.starts_with(pattern.prefix()));
    }
    for (pattern, name) in [
        ("acme/alerts.*.critical", "acme/alerts.critical"),
        ("acme/alerts.*.critical", "acme/alerts.eu.west.critical"),
        ("acme/*", "acme/alerts.eu"),
        ("acme/alerts.**", "acme/alerts"),
        ("acme/alerts", "acme/alerts.eu"),
        ("acme/**", "other/alerts"),
    ] {
        assert!(!matches(pattern, name), "{pattern} {name}");
    }
    for pattern in ["acme/a*", "acme/**.a", "acme/***", "acme/a..b", "acme", "acme/"] {
        assert_eq!(ChannelPattern::parse(pattern), Err(ChannelNameError::Pattern(pattern.to_owned())));
    }
    assert!(matches!(ChannelPattern::parse("*/a"), Err(ChannelNameError::Character { .. })));
    assert_eq!(ChannelPattern::parse("acme/a.*").unwrap().name(), None);
    assert_eq!(ChannelPattern::parse("acme/a.b").unwrap().name(), Some(ChannelName::parse("acme/a.b").unwrap()));
}

#[test]
fn a_channel_and_an_agent_of_one_name_have_different_ids() {
    let domain = TrustDomain::default();
    let channel = ChannelId::derive(&domain, &ChannelName::parse("acme/planner").unwrap());
    assert_ne!(channel.0, AgentId::derive(&domain, &AgentName::parse("acme/planner").unwrap()).0);
    let elsewhere = TrustDomain::parse("other.org").unwrap();
    assert_ne!(channel, ChannelId::derive(&elsewhere, &ChannelName::parse("acme/planner").unwrap()));
}

#[test]
fn a_record_comes_back_from_its_bytes_and_no_other_bytes_are_one() {
    let signed = signed(record());
    let bytes = signed.to_bytes();
    assert_eq!(SignedChannelRecord::parse(&bytes).unwrap(), signed);
    for cut in 0..bytes.len() {
        assert!(SignedChannelRecord::parse(&bytes[..cut]).is_err(), "{cut}");
    }
    assert_eq!(SignedChannelRecord::parse(&[&bytes[..], &[0]].concat()), Err(RejectCode::FrameLength));
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            if let Ok(parsed) = SignedChannelRecord::parse(&other) {
                assert_eq!(parsed.to_bytes(), other, "byte {at} bit {bit}");
                assert_ne!(parsed, signed, "byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn what_breaks_a_rule_of_the_format_is_refused_when_it_is_made_and_when_it_is_read() {
    let rules: [fn(&mut ChannelRecord); 11] = [
        |record| record.is_deleted = true,
        |record| record.version = 0,
        |record| record.owner_key_version = 0,
        |record| record.retention_s = 59,
        |record| record.retention_s = 30 * 86_400 + 1,
        |record| record.subscribers_max = 0,
        |record| record.subscribers_max = 10_001,
        |record| record.messages_max = 0,
        |record| record.bytes_max = 0,
        |record| record.subscribing = Subscribing::Allowlist(vec![agent(9), agent(1)]),
        |record| record.publishing = Publishing::Listed(vec![agent(2), agent(2)]),
    ];
    for break_rule in rules {
        let mut broken = record();
        break_rule(&mut broken);
        assert_eq!(broken.check(), Err(RejectCode::FrameReserved), "{broken:?}");
        assert_eq!(ChannelRecord::parse(&broken.to_bytes()), Err(RejectCode::FrameReserved), "{broken:?}");
    }
    // A list where none means anything.
    let mut bytes = record().to_bytes();
    bytes[1] = 0;
    assert_eq!(ChannelRecord::parse(&bytes), Err(RejectCode::FrameReserved));
    let many = (0..=u16::try_from(CHANNEL_MEMBERS_MAX).unwrap()).map(agent).collect::<Vec<_>>();
    let most = ChannelRecord { subscribing: Subscribing::Allowlist(many[1..].to_vec()), ..record() };
    assert_eq!(ChannelRecord::parse(&most.to_bytes()), Ok(most.clone()));
    let too_many = ChannelRecord { subscribing: Subscribing::Allowlist(many), ..record() };
    assert_eq!(ChannelRecord::parse(&too_many.to_bytes()), Err(RejectCode::FrameReserved));
    // A count that promises more than there is allocates nothing.
    let mut bytes = record().to_bytes();
    bytes[76..80].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(ChannelRecord::parse(&bytes), Err(RejectCode::FrameLength));
    assert!(signed(most).to_bytes().len() <= SIGNED_CHANNEL_RECORD_BYTES_MAX);
    assert_eq!(CHANNEL_RECORD_FIXED_BYTES, 88);
}

#[test]
fn the_record_alone_says_who_it_lets() {
    let (owner, listed, other) = (agent(7), agent(9), agent(8));
    let lets = |subscribing: Subscribing, publishing: Publishing| {
        let record = ChannelRecord { subscribing, publishing, ..record() };
        let deleted = ChannelRecord { is_deleted: true, ..record.clone() };
        for agent in [owner, listed, other] {
            assert!(!deleted.lets_subscribe(&agent) && !deleted.lets_publish(&agent));
        }
        [owner, listed, other].map(|agent| (record.lets_subscribe(&agent), record.lets_publish(&agent)))
    };
    let list = || vec![agent(1), listed];
    assert_eq!(lets(Subscribing::Open, Publishing::Open), [(true, true); 3]);
    assert_eq!(lets(Subscribing::AuthzRequired, Publishing::Open), [(true, true); 3]);
    assert_eq!(lets(Subscribing::Private, Publishing::Listed(list())), [(true, true), (false, true), (false, false)]);
    assert_eq!(
        lets(Subscribing::Allowlist(list()), Publishing::Listed(vec![])),
        [(true, true), (true, false), (false, false)]
    );
}

proptest! {
    #[test]
    fn any_bytes_give_a_record_that_encodes_to_them_or_none(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(record) = ChannelRecord::parse(&bytes) {
            prop_assert_eq!(record.to_bytes(), bytes);
        }
    }

    #[test]
    fn a_changed_field_is_refused_or_shows(at in 0_usize..CHANNEL_RECORD_FIXED_BYTES, value in any::<u8>()) {
        let mut bytes = record().to_bytes();
        bytes[at] = value;
        if let Ok(record) = ChannelRecord::parse(&bytes) {
            prop_assert_eq!(record.to_bytes(), bytes);
        }
    }

    #[test]
    fn a_pattern_made_of_a_name_stands_for_it(
        words in prop::collection::vec("[a-z0-9_-]{1,6}", 1..6),
        stars in prop::collection::vec(any::<bool>(), 6),
        cut in 0_usize..6,
    ) {
        let name = ChannelName::parse(&format!("acme/{}", words.join("."))).unwrap();
        let starred = words.iter().zip(&stars).map(|(word, star)| if *star { "*" } else { word });
        let whole = format!("acme/{}", starred.clone().collect::<Vec<_>>().join("."));
        prop_assert!(ChannelPattern::parse(&whole).unwrap().matches(&name));
        let cut = cut.min(words.len() - 1);
        let rest = starred.take(cut).chain(["**"]).collect::<Vec<_>>().join(".");
        let pattern = format!("acme/{rest}");
        prop_assert!(ChannelPattern::parse(&pattern).unwrap().matches(&name));
    }
}
