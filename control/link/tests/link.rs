//! What goes into a frame comes out of it, anything else is refused, and a snapshot arrives as it was, in one piece or change by change.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::collections::BTreeMap;
use std::sync::Arc;

use creto_envelope::channel::{ChannelName, ChannelRecord, Publishing, SignedChannelRecord, Subscribing};
use creto_envelope::control::RotationMode;
use creto_envelope::enrol::Enrolled;
use creto_envelope::key_log::{
    KEY_LEAF_BYTES, KeyLeaves, KeyLeavesRequest, KeyLogQuestion, KeyLogRefusal, KeyProofRequest,
};
use creto_envelope::limits::{CHANNEL_MEMBERS_MAX, KEY_LEAVES_MAX, NAME_BYTES_MAX, TRUST_DOMAIN_BYTES_MAX};
use creto_envelope::prekeys::PrekeyStock;
use creto_envelope::{
    AgentId, AgentName, AgentState, ChannelId, KeyId, KeyRecord, RejectCode, SignedKeyRecord, TrustDomain,
};
use creto_link::limits::{
    CHANNEL_LISTED_MAX, CHANNELS_MAX, CHUNK_BYTES, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, GONE_MAX,
};
use creto_link::snapshot::frames_between;
use creto_link::{
    Answer, FrameHeader, FromControl, FromNode, Hello, Incoming, LinkError, PolicyPart, Question, Refused, RefusedLink,
    SnapshotHead, SnapshotRefused, Welcome,
};
use creto_policy::{
    Attributes, KeyVersion, LowerRetention, MailboxSettings, Policy, Principal, Replacement, Snapshot, SnapshotBuilder,
};
use proptest::prelude::*;

fn name(number: u16) -> AgentName {
    AgentName::parse(&format!("org{}/agent-{number}", number % 3)).unwrap()
}

fn id(number: u16) -> AgentId {
    AgentId::derive(&TrustDomain::default(), &name(number))
}

fn record() -> Box<SignedKeyRecord> {
    Box::new(SignedKeyRecord {
        record: KeyRecord {
            version: 3,
            state: AgentState::Active,
            valid_from_ms: 1,
            valid_until_ms: 9,
            ed25519: [1; 32],
            x25519: [2; 32],
            ml_dsa_65: Box::new([3; 1952]),
            ml_kem_768: Box::new([4; 1184]),
            name: name(7),
            trust_domain: TrustDomain::default(),
            fn_dsa_512: None,
            purpose: None,
        },
        ed25519: [5; 64],
        ml_dsa_65: Box::new([6; 3309]),
    })
}

fn topic(number: u16) -> ChannelName {
    ChannelName::parse(&format!("org{}/topic.t{number}", number % 3)).unwrap()
}

fn topic_id(number: u16) -> ChannelId {
    ChannelId::derive(&TrustDomain::default(), &topic(number))
}

fn channel(number: u16, version: u32) -> ChannelRecord {
    ChannelRecord {
        version,
        name: topic(number),
        trust_domain: TrustDomain::default(),
        owner: id(number),
        owner_key_version: 1,
        signed_at_ms: 5,
        subscribing: Subscribing::Open,
        publishing: Publishing::Open,
        has_history: false,
        is_deleted: false,
        retention_s: 3_600,
        messages_max: 9,
        bytes_max: 99,
        subscribers_max: 7,
    }
}

/// So many ids, ascending.
fn listed(count: usize) -> Vec<AgentId> {
    (0..u64::try_from(count).unwrap())
        .map(|number| AgentId([number.to_be_bytes(); 2].concat().try_into().unwrap()))
        .collect()
}

fn signed_channel() -> Box<SignedChannelRecord> {
    let record = ChannelRecord { subscribing: Subscribing::Allowlist(listed(3)), ..channel(4, 2) };
    Box::new(SignedChannelRecord { record, ed25519: [5; 64], ml_dsa_65: Box::new([6; 3309]) })
}

fn no() -> Refused {
    Refused { code: RejectCode::Overloaded, retry_after_ms: 1_000 }
}

fn split(frame: &[u8]) -> (FrameHeader, &[u8]) {
    let (header, body) = frame.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
    let header = FrameHeader::parse(header).unwrap();
    assert_eq!(header.body_bytes, body.len());
    (header, body)
}

fn from_node() -> Vec<FromNode> {
    let question = |question| FromNode::Question { id: 0x0102_0304_0506_0708, question };
    let proof = KeyProofRequest { agent: id(1), version: 2, seen: 3, wants_keys: true };
    vec![
        FromNode::Hello(Hello { trust_domain: TrustDomain::default(), retention_s: 86_400 }),
        FromNode::Ask { number: 7 },
        question(Question::Publish { agent: id(1), mode: RotationMode::Emergency, record: record() }),
        question(Question::Enrol { token: [9; 32], peer: [8; 16], record: record() }),
        question(Question::KeyRecord { agent: id(2), version: 5 }),
        question(Question::KeyLog(KeyLogQuestion::Proof(proof))),
        question(Question::KeyLog(KeyLogQuestion::Leaves(KeyLeavesRequest { from: 1, through: 9 }))),
        question(Question::Claim { asker: id(1), agent: id(2) }),
        question(Question::Stock { agent: id(3) }),
        question(Question::ChannelRecord { channel: topic_id(3) }),
    ]
}

fn from_control() -> Vec<FromControl> {
    let answer = |answer| FromControl::Answer { id: 0xffee_ddcc_bbaa_9988, answer };
    let stock = PrekeyStock { key_record_version: 4, one_time: 31, last_resort: true, is_notice: false };
    let (mut leaves, mut none) = (Vec::new(), Vec::new());
    KeyLeaves { from: 3, answer: Ok(vec![[1; KEY_LEAF_BYTES]; 2]) }.encode(&mut leaves);
    KeyLeaves { from: 3, answer: Err(KeyLogRefusal { code: 501, retry_after_ms: 9 }) }.encode(&mut none);
    let text = PolicyPart::Text { sha256: [7; 32], name: "p.rego".to_owned(), text: "package creto".to_owned() };
    let head = |is_whole, policy| {
        FromControl::SnapshotBegin(SnapshotHead { epoch: 12, is_whole, key_grace_ms: 604_800_000, policy })
    };
    vec![
        FromControl::Welcome(Welcome {
            trust_domain: TrustDomain::default(),
            lifetime_ms: 60_000,
            incarnation: [3; 16],
        }),
        FromControl::Refused(RefusedLink { code: "retention".to_owned(), reason: "because".to_owned() }),
        FromControl::Renewed { number: 7 },
        head(true, text),
        head(false, PolicyPart::AsBefore),
        head(true, PolicyPart::None),
        head(true, PolicyPart::SameOrganization),
        head(true, PolicyPart::FailOpen),
        FromControl::Agents(vec![1, 2, 3]),
        FromControl::Gone(vec![id(1), id(2)]),
        FromControl::Channels(vec![4, 5, 6]),
        FromControl::ChannelsGone(vec![topic_id(1), topic_id(2)]),
        FromControl::SnapshotEnd { agents: 1_000_000, channels: 100_000 },
        FromControl::PrekeysLow { agent: id(4), stock: PrekeyStock { is_notice: true, ..stock } },
        answer(Answer::Publish(Ok(9))),
        answer(Answer::Publish(Err(no()))),
        answer(Answer::Enrol(Ok(Enrolled::Created))),
        answer(Answer::Enrol(Ok(Enrolled::Refused(1_023)))),
        answer(Answer::KeyRecord(Ok(record()))),
        answer(Answer::KeyRecord(Err(no()))),
        answer(Answer::KeyLog(leaves)),
        answer(Answer::KeyLog(none)),
        answer(Answer::Upload(Ok(stock))),
        answer(Answer::Claim(Err(no()))),
        answer(Answer::Stock(Ok(stock))),
        answer(Answer::ChannelRecord(Ok(signed_channel()))),
        answer(Answer::ChannelRecord(Err(no()))),
    ]
}

#[test]
fn every_frame_comes_back_as_it_was_and_not_with_a_byte_less_or_more() {
    for said in from_node() {
        let frame = said.to_frame();
        let (header, body) = split(&frame);
        assert_eq!(FromNode::parse(header, body), Ok(said.clone()));
        assert!(FromControl::parse(header, body).is_err(), "{said:?} is nothing that control says");
        for bytes in 0..body.len() {
            assert!(FromNode::parse(header, &body[..bytes]).is_err(), "{said:?} cut to {bytes}");
        }
        assert!(FromNode::parse(header, &[body, &[0]].concat()).is_err(), "{said:?} and a byte");
    }
    for said in from_control() {
        let frame = said.to_frame();
        let (header, body) = split(&frame);
        assert_eq!(FromControl::parse(header, body), Ok(said.clone()));
        assert!(FromNode::parse(header, body).is_err(), "{said:?} is nothing that a node says");
        // Of agents, of channels and of a policy's text the length of the frame is the length.
        let is_open =
            matches!(
                &said,
                FromControl::Agents(_) | FromControl::Gone(_) | FromControl::Channels(_) | FromControl::ChannelsGone(_)
            ) || matches!(&said, FromControl::SnapshotBegin(SnapshotHead { policy: PolicyPart::Text { .. }, .. }));
        if !is_open {
            for bytes in 0..body.len() {
                assert!(FromControl::parse(header, &body[..bytes]).is_err(), "{said:?} cut to {bytes}");
            }
            assert!(FromControl::parse(header, &[body, &[0]].concat()).is_err(), "{said:?} and a byte");
        }
    }
}

#[test]
fn a_length_is_refused_before_anything_of_it_is_read() {
    let header = |bytes: u32, frame_type: u8, version: u8, zero: u8| {
        let [a, b, c, d] = bytes.to_le_bytes();
        FrameHeader::parse(&[a, b, c, d, frame_type, version, zero, 0])
    };
    assert_eq!(header(u32::MAX, 132, 1, 0), Err(LinkError::Oversized(u32::MAX)));
    assert_eq!(
        header(u32::try_from(FRAME_BODY_BYTES_MAX).unwrap() + 1, 20, 1, 0).map(drop),
        Err(LinkError::Oversized(524_289))
    );
    assert_eq!(header(4_097, 1, 1, 0), Err(LinkError::Oversized(4_097)));
    assert_eq!(header(4_097, 23, 1, 0), Err(LinkError::Oversized(4_097)));
    assert!(header(524_288, 132, 1, 0).is_ok() && header(4_096, 1, 1, 0).is_ok());
    assert!(header(524_288, 136, 1, 0).is_ok() && header(524_288, 215, 1, 0).is_ok());
    assert_eq!(header(0, 132, 2, 0), Err(LinkError::Version(2)));
    assert_eq!(header(0, 132, 1, 1), Err(LinkError::NotZero));
    for unknown in [0, 3, 15, 24, 127, 138, 207, 216, 255] {
        assert_eq!(header(0, unknown, 1, 0), Err(LinkError::Type(unknown)));
    }
}

#[test]
fn what_control_shows_to_people_cannot_speak_to_their_terminal() {
    let frame =
        FromControl::Refused(RefusedLink { code: "a\u{1b}[2J".to_owned(), reason: "x\ny".repeat(1_000) }).to_frame();
    let (header, body) = split(&frame);
    let FromControl::Refused(RefusedLink { code, reason }) = FromControl::parse(header, body).unwrap() else {
        panic!()
    };
    assert_eq!(code, "a?[2J");
    assert!(reason.len() <= 512 && reason.starts_with("x?yx?y"));
}

/// Everything of an agent that a shard could notice.
fn seen(principal: &Principal) -> String {
    let versions: Vec<_> = principal.versions().collect();
    let accepted: Vec<_> = versions.iter().map(|version| principal.accepted_until_ms(&version.key)).collect();
    format!(
        "{} {:?} {:?} {:?} {:?} {:?} {versions:?} {accepted:?}",
        principal.name(),
        principal.state(),
        principal.revoked_at_ms(),
        principal.mailbox_settings(),
        principal.lower_retention(),
        principal.attributes(),
    )
}

fn all(snapshot: &Snapshot) -> BTreeMap<AgentId, String> {
    let agents = snapshot.changes_since(nobody()).map(|(id, principal)| (id, seen(principal.unwrap())));
    agents.collect()
}

fn all_channels(snapshot: &Snapshot) -> BTreeMap<ChannelId, ChannelRecord> {
    let channels =
        snapshot.channel_changes_since(nobody()).map(|(id, channel)| (id, channel.unwrap().record().clone()));
    channels.collect()
}

/// A snapshot lives as long as what is compared with it.
fn nobody() -> &'static Snapshot {
    static EMPTY: std::sync::OnceLock<Snapshot> = std::sync::OnceLock::new();
    EMPTY.get_or_init(Snapshot::empty)
}

#[derive(Clone, Debug)]
enum Change {
    Insert(u16, AgentState, Vec<(bool, u64)>),
    State(u16, AgentState),
    Revoke(u16, u64),
    Remove(u16),
    Mailbox(u16, MailboxSettings, LowerRetention),
    Attributes(u16, Vec<String>),
    Policy(bool),
    Channel(ChannelRecord),
    RemoveChannel(u16),
    Publish,
}

fn agent_state() -> impl Strategy<Value = AgentState> {
    prop_oneof![Just(AgentState::Active), Just(AgentState::Suspended), Just(AgentState::Revoked)]
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let number = 0..40_u16;
    let settings =
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(a, b, c, d)| MailboxSettings {
            retention_s: a.then_some(4_000),
            messages_max: b.then_some(17),
            bytes_max: c.then_some(5 << 20),
            max_deliveries: d.then_some(9),
        });
    let lower =
        (any::<u32>(), any::<u64>()).prop_map(|(retention_s, until_ms)| LowerRetention { retention_s, until_ms });
    let change = prop_oneof![
        4 => (number.clone(), agent_state(), prop::collection::vec((any::<bool>(), any::<u64>()), 1..5))
            .prop_map(|(number, state, versions)| Change::Insert(number, state, versions)),
        2 => (number.clone(), agent_state()).prop_map(|(number, state)| Change::State(number, state)),
        1 => (number.clone(), any::<u64>()).prop_map(|(number, at)| Change::Revoke(number, at)),
        1 => number.clone().prop_map(Change::Remove),
        1 => (number.clone(), settings, lower).prop_map(|(number, settings, lower)| Change::Mailbox(number, settings, lower)),
        1 => (number.clone(), prop::collection::vec("[a-z]{1,9}", 0..4)).prop_map(|(number, roles)| Change::Attributes(number, roles)),
        1 => any::<bool>().prop_map(Change::Policy),
        4 => channels().prop_map(Change::Channel),
        1 => number.prop_map(Change::RemoveChannel),
        3 => Just(Change::Publish),
    ];
    prop::collection::vec(change, 1..60)
}

fn channels() -> impl Strategy<Value = ChannelRecord> {
    let subscribing = prop_oneof![
        Just(Subscribing::Open),
        Just(Subscribing::Private),
        Just(Subscribing::AuthzRequired),
        (0..30_usize).prop_map(|count| Subscribing::Allowlist(listed(count))),
    ];
    let publishing =
        prop_oneof![Just(Publishing::Open), (0..30_usize).prop_map(|count| Publishing::Listed(listed(count)))];
    let counts = (1..u32::MAX, any::<bool>(), 1..u64::MAX, 1..=10_000_u32);
    (0..40_u16, 1..4_u32, subscribing, publishing, counts, any::<u8>()).prop_map(
        |(number, version, subscribing, publishing, (owner_key_version, has_history, most, subscribers_max), dice)| {
            // One in eight is deleted: it lists nobody.
            let is_deleted = dice < 32;
            let (subscribing, publishing) = match is_deleted {
                true => (Subscribing::Open, Publishing::Open),
                false => (subscribing, publishing),
            };
            ChannelRecord {
                owner: id(u16::from(dice)),
                owner_key_version,
                has_history,
                subscribing,
                publishing,
                is_deleted,
                messages_max: most,
                bytes_max: most,
                subscribers_max,
                ..channel(number, version)
            }
        },
    )
}

fn version(version: u32, is_last: bool, emergency: bool, at_ms: u64) -> KeyVersion {
    let mode = if emergency { RotationMode::Emergency } else { RotationMode::Planned };
    KeyVersion {
        version,
        key: KeyId([u8::try_from(version).unwrap(); 16]),
        valid_from_ms: at_ms / 2,
        valid_until_ms: at_ms,
        has_fn_dsa_512: emergency,
        replaced: (!is_last).then_some(Replacement { at_ms, mode }),
    }
}

fn apply(builder: &mut SnapshotBuilder, change: Change) {
    match change {
        Change::Insert(number, state, versions) => {
            let count = versions.len();
            let versions = versions
                .into_iter()
                .zip(1..)
                .map(|((emergency, at_ms), number)| version(number, number as usize == count, emergency, at_ms));
            builder.insert_versions(&TrustDomain::default(), &name(number), state, versions.collect()).unwrap();
        }
        Change::State(number, state) => drop(builder.set_state(&id(number), state)),
        Change::Revoke(number, at_ms) => drop(builder.revoke(&id(number), at_ms)),
        Change::Remove(number) => drop(builder.remove(&id(number))),
        Change::Mailbox(number, settings, lower) => drop(builder.set_mailbox(&id(number), settings, lower)),
        Change::Attributes(number, roles) => {
            let attributes = Attributes::parse("kind", roles, ["can"]).unwrap();
            builder.set_attributes(&id(number), Arc::new(attributes));
        }
        Change::Policy(is_there) => builder.set_policy(is_there.then_some(Policy::SameOrganization)),
        Change::Channel(record) => {
            builder.insert_channel(record);
        }
        Change::RemoveChannel(number) => drop(builder.remove_channel(&topic_id(number))),
        Change::Publish => {}
    }
}

const GRACE_MS: u64 = 5_000;

/// Carries a snapshot over as frames.
fn carry(
    before: &Snapshot,
    now: &Snapshot,
    is_whole: bool,
    incoming: &mut Incoming,
) -> Result<Snapshot, SnapshotRefused> {
    let head = SnapshotHead { epoch: now.epoch(), is_whole, key_grace_ms: GRACE_MS, policy: PolicyPart::of(now) };
    let frame = FromControl::SnapshotBegin(head).to_frame();
    let (header, body) = split(&frame);
    let FromControl::SnapshotBegin(head) = FromControl::parse(header, body).unwrap() else { panic!() };
    incoming.begin(head, |_, _, _| unreachable!("no text is sent"))?;
    for frame in frames_between(before, now) {
        let frame = frame.to_frame();
        let (header, body) = split(&frame);
        match FromControl::parse(header, body).unwrap() {
            FromControl::Agents(agents) => incoming.agents(&agents)?,
            FromControl::Gone(ids) => incoming.gone(&ids)?,
            FromControl::Channels(channels) => incoming.channels(&channels)?,
            FromControl::ChannelsGone(ids) => incoming.channels_gone(&ids)?,
            other => panic!("{other:?} is no part of a snapshot"),
        }
    }
    incoming.end(now.agent_count() as u64, now.channel_count() as u64)
}

proptest! {
    #[test]
    fn a_snapshot_arrives_as_it_was_whole_and_by_its_changes(changes in changes(), link_again in 0..8_usize) {
        let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
        builder.set_key_grace_ms(GRACE_MS);
        let mut incoming = Incoming::new(TrustDomain::default(), 0);
        let (mut before, mut is_whole, mut held) = (Snapshot::empty(), true, 0);
        for (epoch, change) in (1..).zip(changes) {
            let is_published = matches!(change, Change::Publish);
            apply(&mut builder, change);
            if !is_published {
                continue;
            }
            if usize::try_from(epoch).unwrap() % 8 == link_again {
                (incoming, before, is_whole) = (Incoming::new(TrustDomain::default(), held), Snapshot::empty(), true);
            }
            let now = builder.build(epoch);
            let arrived = carry(&before, &now, is_whole, &mut incoming).unwrap();
            prop_assert_eq!(all(&arrived), all(&now));
            prop_assert_eq!(all_channels(&arrived), all_channels(&now));
            prop_assert_eq!(arrived.epoch(), epoch);
            prop_assert_eq!(arrived.policy().is_some(), now.policy().is_some());
            (before, is_whole, held) = (now, false, epoch);
        }
    }

    #[test]
    fn any_bytes_are_understood_or_refused_by_both_sides(frame_type in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..300)) {
        let header = FrameHeader { body_bytes: body.len(), frame_type };
        if let Ok(said) = FromNode::parse(header, &body) {
            let again = said.to_frame();
            prop_assert_eq!(split(&again).1, &body[..]);
        }
        let _ = FromControl::parse(header, &body);
        let mut incoming = Incoming::new(TrustDomain::default(), 0);
        let head = SnapshotHead { epoch: 1, is_whole: true, key_grace_ms: 0, policy: PolicyPart::None };
        incoming.begin(head, |_, _, _| unreachable!()).unwrap();
        let _ = incoming.agents(&body);
        let _ = incoming.channels(&body);
    }
}

#[test]
fn a_directory_of_many_agents_is_cut_into_frames_and_so_are_those_that_are_gone() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    builder.set_key_grace_ms(GRACE_MS);
    let count = u16::try_from(GONE_MAX).unwrap() + 500;
    for number in 0..count {
        apply(&mut builder, Change::Insert(number, AgentState::Active, vec![(false, 9)]));
    }
    let full = builder.build(1);
    assert!(frames_between(&Snapshot::empty(), &full).count() > 5);
    let mut incoming = Incoming::new(TrustDomain::default(), 0);
    assert_eq!(all(&carry(&Snapshot::empty(), &full, true, &mut incoming).unwrap()), all(&full));
    (1..count).for_each(|number| apply(&mut builder, Change::Remove(number)));
    let few = builder.build(2);
    assert_eq!(frames_between(&full, &few).count(), 2);
    assert_eq!(all(&carry(&full, &few, false, &mut incoming).unwrap()), all(&few));
}

#[test]
fn what_would_take_a_node_back_is_refused_with_why() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    apply(&mut builder, Change::Insert(1, AgentState::Active, vec![(false, 9)]));
    let (older, newer) = (builder.build(4), builder.build(5));
    let none = Snapshot::empty();
    let domain = TrustDomain::default;

    let mut incoming = Incoming::new(domain(), 5);
    let refused = carry(&none, &older, true, &mut incoming).map(drop);
    assert_eq!(refused, Err(SnapshotRefused::Older { held: 5, offered: 4 }));
    // The same one is what there is.
    carry(&none, &newer, true, &mut Incoming::new(domain(), 5)).unwrap();
    let mut incoming = Incoming::new(domain(), 0);
    carry(&none, &newer, true, &mut incoming).unwrap();
    let refused = carry(&newer, &older, false, &mut incoming).map(drop);
    assert_eq!(refused, Err(SnapshotRefused::Older { held: 5, offered: 4 }));

    // Changes of nothing, agents outside of a snapshot, an end without a beginning, two beginnings, a policy that was never there.
    let refused = carry(&none, &newer, false, &mut Incoming::new(domain(), 0)).map(drop);
    assert_eq!(refused, Err(SnapshotRefused::Order));
    let mut incoming = Incoming::new(domain(), 0);
    assert_eq!(incoming.agents(&[]), Err(SnapshotRefused::Order));
    assert_eq!(incoming.gone(&[]), Err(SnapshotRefused::Order));
    assert_eq!(incoming.channels(&[]), Err(SnapshotRefused::Order));
    assert_eq!(incoming.channels_gone(&[]), Err(SnapshotRefused::Order));
    assert_eq!(incoming.end(0, 0).map(drop), Err(SnapshotRefused::Order));
    let head = |policy| SnapshotHead { epoch: 1, is_whole: true, key_grace_ms: 0, policy };
    let never = |_: &str, _: &str, _: &[u8; 32]| unreachable!("no text is sent");
    assert_eq!(incoming.begin(head(PolicyPart::AsBefore), never), Err(SnapshotRefused::Order));
    incoming.begin(head(PolicyPart::None), never).unwrap();
    assert_eq!(incoming.begin(head(PolicyPart::None), never), Err(SnapshotRefused::Order));

    // A frame was lost.
    assert_eq!(incoming.end(1, 0).map(drop), Err(SnapshotRefused::Count { told: 1, arrived: 0 }));
    incoming.begin(head(PolicyPart::None), never).unwrap();
    assert_eq!(incoming.end(0, 1).map(drop), Err(SnapshotRefused::ChannelCount { told: 1, arrived: 0 }));
    let text = PolicyPart::Text { sha256: [0; 32], name: "p".to_owned(), text: "no".to_owned() };
    let mut incoming = Incoming::new(domain(), 0);
    let refused = incoming.begin(head(text), |_, _, _| Err("line 1".to_owned()));
    assert_eq!(refused, Err(SnapshotRefused::Policy("line 1".to_owned())));
    let mut incoming = Incoming::new(domain(), 0);
    incoming.begin(head(PolicyPart::None), never).unwrap();
    assert!(matches!(incoming.agents(&[1, 2, 3]), Err(SnapshotRefused::Bytes(LinkError::Length))));
}

/// The body of a frame of channels with these.
fn channels_body(records: &[ChannelRecord]) -> Vec<u8> {
    let mut body = Vec::new();
    for record in records {
        let bytes = record.to_bytes();
        body.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(&bytes);
    }
    body
}

fn begun() -> Incoming {
    let mut incoming = Incoming::new(TrustDomain::default(), 0);
    let head = SnapshotHead { epoch: 1, is_whole: true, key_grace_ms: 0, policy: PolicyPart::None };
    incoming.begin(head, |_, _, _| unreachable!("no text is sent")).unwrap();
    incoming
}

#[test]
fn a_channel_that_cannot_be_one_of_this_directory_is_refused() {
    assert_eq!(begun().channels(&channels_body(&[channel(1, 1), channel(2, 1)])), Ok(()));
    let value = Err(SnapshotRefused::Bytes(LinkError::Value));
    let deleted = ChannelRecord { is_deleted: true, ..channel(1, 1) };
    assert_eq!(begun().channels(&channels_body(&[deleted])), value);
    assert_eq!(begun().channels(&channels_body(&[ChannelRecord { retention_s: 1, ..channel(1, 1) }])), value);
    let elsewhere = ChannelRecord { trust_domain: TrustDomain::parse("other.example").unwrap(), ..channel(1, 1) };
    assert!(matches!(begun().channels(&channels_body(&[elsewhere])), Err(SnapshotRefused::Channel(_))));
    let body = channels_body(&[channel(1, 1)]);
    for bytes in 1..body.len() {
        assert!(begun().channels(&body[..bytes]).is_err(), "cut to {bytes}");
    }
    let mut not_zero = body;
    not_zero[5] = 1;
    assert_eq!(begun().channels(&not_zero), Err(SnapshotRefused::Bytes(LinkError::NotZero)));
}

#[test]
fn more_channels_or_listed_agents_than_a_directory_has_are_refused() {
    let name = |number: usize| ChannelName::parse(&format!("acme/c{number}")).unwrap();
    let mut incoming = begun();
    let records: Vec<_> =
        (0..=CHANNELS_MAX).map(|number| ChannelRecord { name: name(number), ..channel(1, 1) }).collect();
    assert_eq!(incoming.channels(&channels_body(&records[..CHANNELS_MAX])), Ok(()));
    assert_eq!(incoming.channels(&channels_body(&records[CHANNELS_MAX..])), Err(SnapshotRefused::ManyChannels));

    let mut incoming = begun();
    let of_all = usize::try_from(CHANNEL_LISTED_MAX).unwrap() / CHANNEL_MEMBERS_MAX;
    let many = Publishing::Listed(listed(CHANNEL_MEMBERS_MAX));
    for number in 0..of_all {
        let record = ChannelRecord { name: name(number), publishing: many.clone(), ..channel(1, 1) };
        assert_eq!(incoming.channels(&channels_body(&[record])), Ok(()));
    }
    let one = ChannelRecord { name: name(of_all), publishing: Publishing::Listed(listed(1)), ..channel(1, 1) };
    assert_eq!(incoming.channels(&channels_body(&[one])), Err(SnapshotRefused::ManyChannels));
}

#[test]
fn the_largest_channels_fit_frames_and_so_do_the_largest_answers() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    builder.set_key_grace_ms(GRACE_MS);
    let largest = |number: usize| {
        let name = format!("acme/{number:0>width$}", width = NAME_BYTES_MAX - 5);
        let everybody = || listed(CHANNEL_MEMBERS_MAX);
        ChannelRecord {
            name: ChannelName::parse(&name).unwrap(),
            subscribing: Subscribing::Allowlist(everybody()),
            publishing: Publishing::Listed(everybody()),
            ..channel(1, 1)
        }
    };
    // Small ones, so that a frame is nearly closed when a large one comes.
    (0..700).for_each(|number| apply(&mut builder, Change::Channel(channel(number, 1))));
    (0..5).for_each(|number| apply(&mut builder, Change::Channel(largest(number))));
    let snapshot = builder.build(1);
    for frame in frames_between(&Snapshot::empty(), &snapshot) {
        let bytes = frame.to_frame().len();
        assert!(bytes <= FRAME_BODY_BYTES_MAX + FRAME_HEADER_BYTES, "{bytes}");
    }
    assert!(CHUNK_BYTES + largest(0).to_bytes().len() < FRAME_BODY_BYTES_MAX);
    let arrived = carry(&Snapshot::empty(), &snapshot, true, &mut Incoming::new(TrustDomain::default(), 0)).unwrap();
    assert_eq!(all_channels(&arrived), all_channels(&snapshot));
    let signed = SignedChannelRecord { record: largest(0), ed25519: [0; 64], ml_dsa_65: Box::new([0; 3309]) };
    let frame = FromControl::Answer { id: 1, answer: Answer::ChannelRecord(Ok(Box::new(signed))) }.to_frame();
    let (header, body) = split(&frame);
    assert!(FromControl::parse(header, body).is_ok());
    assert_eq!(
        frame.len(),
        Question::ChannelRecord { channel: topic_id(1) }.answer_bytes_max()
            - (TRUST_DOMAIN_BYTES_MAX - TrustDomain::default().as_str().len())
    );
}

#[test]
fn no_answer_is_larger_than_its_question_is_counted_for() {
    let answers = from_control().into_iter().filter_map(|said| match &said {
        FromControl::Answer { answer, .. } => Some((answer.clone(), said.to_frame().len())),
        _ => None,
    });
    let mut leaves = Vec::new();
    KeyLeaves { from: 3, answer: Ok(vec![[1; KEY_LEAF_BYTES]; KEY_LEAVES_MAX]) }.encode(&mut leaves);
    let largest = FromControl::Answer { id: 1, answer: Answer::KeyLog(leaves.clone()) }.to_frame().len();
    let question = |answer: &Answer| match answer {
        Answer::Publish(_) => Question::Publish { agent: id(1), mode: RotationMode::Planned, record: record() },
        Answer::Enrol(_) => Question::Enrol { token: [9; 32], peer: [8; 16], record: record() },
        Answer::KeyRecord(_) => Question::KeyRecord { agent: id(2), version: 5 },
        Answer::KeyLog(_) => Question::KeyLog(KeyLogQuestion::Leaves(KeyLeavesRequest { from: 1, through: 9 })),
        Answer::Upload(_) | Answer::Stock(_) => Question::Stock { agent: id(3) },
        Answer::Claim(_) => Question::Claim { asker: id(1), agent: id(2) },
        Answer::ChannelRecord(_) => Question::ChannelRecord { channel: topic_id(3) },
    };
    for (answer, bytes) in answers.chain([(Answer::KeyLog(leaves), largest)]) {
        let question = question(&answer);
        assert!(bytes <= question.answer_bytes_max(), "{answer:?}: {bytes}");
        // What is small is not counted as if it were large: many of these wait.
        assert!(question.is_large() || question.answer_bytes_max() < 32 << 10, "{question:?}");
    }
}

#[test]
fn very_many_channels_that_are_gone_are_told_in_frames() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    builder.set_key_grace_ms(GRACE_MS);
    let count = u16::try_from(GONE_MAX).unwrap() + 500;
    (0..count).for_each(|number| apply(&mut builder, Change::Channel(channel(number, 1))));
    let full = builder.build(1);
    let mut incoming = Incoming::new(TrustDomain::default(), 0);
    assert_eq!(all_channels(&carry(&Snapshot::empty(), &full, true, &mut incoming).unwrap()), all_channels(&full));
    (1..count).for_each(|number| apply(&mut builder, Change::RemoveChannel(number)));
    let few = builder.build(2);
    assert_eq!(frames_between(&full, &few).count(), 2);
    assert_eq!(all_channels(&carry(&full, &few, false, &mut incoming).unwrap()).len(), 1);
}
