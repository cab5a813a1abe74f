//! Channels in the snapshots that are published, and what they may list together.

use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::channel::{ChannelName, ChannelRecord, Publishing, SignedChannelRecord, Subscribing};
use creto_envelope::{AgentId, AgentName, ChannelId, TrustDomain};

use super::{NOW_MS, open, register};
use crate::api::ErrorCode;
use crate::channels::CheckedChannel;
use crate::directory::channels::ChannelTotals;
use crate::directory::{Change, Changed, ChannelPut, Directory};
use crate::fixture::{signed, signing_keys};
use crate::limits::{CHANNEL_LISTED_MAX, CHANNELS_MAX};

fn record(channel: &str, version: u32) -> ChannelRecord {
    ChannelRecord {
        version,
        name: ChannelName::parse(channel).unwrap(),
        trust_domain: TrustDomain::default(),
        owner: AgentId::derive(&TrustDomain::default(), &AgentName::parse("acme/owner").unwrap()),
        owner_key_version: 1,
        signed_at_ms: 1_000,
        subscribing: Subscribing::Open,
        publishing: Publishing::Open,
        has_history: false,
        is_deleted: false,
        retention_s: 3_600,
        messages_max: 1_000,
        bytes_max: 1 << 20,
        subscribers_max: 100,
    }
}

fn checked(record: ChannelRecord) -> CheckedChannel {
    let keys = signing_keys(1);
    let signature = keys.sign(&record.signed_bytes());
    let signed = SignedChannelRecord { record, ed25519: signature.ed25519, ml_dsa_65: signature.ml_dsa_65 };
    let public = keys.public();
    CheckedChannel::verify(signed, &VerifyingKeys::parse(&public.ed25519, &public.ml_dsa_65).unwrap()).unwrap()
}

fn put(directory: &mut Directory, record: ChannelRecord) -> ChannelPut {
    let changed = directory.change(vec![Change::Channel(checked(record))], NOW_MS).unwrap();
    match changed.into_iter().next() {
        Some(changed @ Changed::Channel(_)) => {
            let is_refused = matches!(&changed, Changed::Channel(ChannelPut::Refused(..) | ChannelPut::Known));
            assert_eq!(changed.is_new(), !is_refused, "{changed:?}");
            let Changed::Channel(put) = changed else { unreachable!("it was just looked at") };
            put
        }
        other => panic!("a channel is put here, nothing else: {other:?}"),
    }
}

fn listed(count: u8) -> Vec<AgentId> {
    (0..count).map(|number| AgentId([number; 16])).collect()
}

#[test]
fn a_snapshot_has_every_channel_that_is_not_deleted_as_it_was_put_last_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let id = |text: &str| ChannelId::derive(&TrustDomain::default(), &ChannelName::parse(text).unwrap());
    let (mut directory, _) = open(&path, 10);
    register(&mut directory, &[signed("acme/owner", 1)]);
    let before = directory.snapshot();
    assert_eq!(put(&mut directory, record("acme/one", 1)), ChannelPut::Created);
    assert_eq!(put(&mut directory, record("acme/two", 1)), ChannelPut::Created);
    assert_eq!(put(&mut directory, record("acme/two", 1)), ChannelPut::Known);
    let both = directory.snapshot();
    assert!(before.epoch() < both.epoch() && before.channel_count() == 0);
    let second = ChannelRecord { subscribing: Subscribing::Allowlist(listed(3)), ..record("acme/one", 2) };
    assert_eq!(put(&mut directory, second.clone()), ChannelPut::Changed);
    assert_eq!(put(&mut directory, ChannelRecord { is_deleted: true, ..record("acme/two", 2) }), ChannelPut::Deleted);
    let check = |directory: &Directory| {
        let snapshot = directory.snapshot();
        assert_eq!(snapshot.channel(&id("acme/one")).unwrap().record(), &second);
        assert!(snapshot.channel(&id("acme/two")).is_none());
        assert_eq!(ChannelTotals::of(&directory.builder), ChannelTotals { channels: 1, listed: 3 });
        snapshot.epoch()
    };
    let epoch = check(&directory);
    assert_eq!(both.channel(&id("acme/one")).unwrap().record().version, 1);
    drop(directory);
    let (directory, _) = open(&path, 10);
    assert_eq!(check(&directory), epoch);
}

#[test]
fn channels_are_refused_beyond_what_a_directory_lists_together_and_may_always_shrink() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(&folder.path().join("control.redb"), 10);
    register(&mut directory, &[signed("acme/owner", 1)]);
    let some = ChannelRecord { publishing: Publishing::Listed(listed(4)), ..record("acme/one", 1) };
    assert_eq!(put(&mut directory, some), ChannelPut::Created);
    let attempt = |mut totals: ChannelTotals, record: ChannelRecord| {
        let storage = std::sync::Arc::clone(&directory.storage);
        let transaction = storage.begin_write().unwrap();
        let answer = directory.put_channel(&*transaction, &checked(record), &mut totals, NOW_MS).unwrap();
        transaction.abort().unwrap();
        let code = match answer {
            ChannelPut::Refused(code, _) => Err(code),
            _ => Ok(()),
        };
        code.map(|()| totals)
    };
    let full = ChannelTotals { channels: CHANNELS_MAX, listed: CHANNEL_LISTED_MAX };
    let change = |count| ChannelRecord { publishing: Publishing::Listed(listed(count)), ..record("acme/one", 2) };
    assert_eq!(attempt(full, change(5)), Err(ErrorCode::ChannelsFull));
    assert_eq!(attempt(full, change(4)), Ok(full));
    assert_eq!(attempt(full, change(1)), Ok(ChannelTotals { listed: CHANNEL_LISTED_MAX - 3, ..full }));
    assert_eq!(attempt(full, record("acme/two", 1)), Err(ErrorCode::ChannelsFull));
    let almost = ChannelTotals { channels: CHANNELS_MAX - 1, listed: CHANNEL_LISTED_MAX - 1 };
    assert_eq!(attempt(almost, change(5)), Ok(ChannelTotals { listed: CHANNEL_LISTED_MAX, ..almost }));
    assert_eq!(attempt(almost, change(6)), Err(ErrorCode::ChannelsFull));
    let deleted = ChannelRecord { is_deleted: true, ..record("acme/one", 2) };
    let less = ChannelTotals { channels: CHANNELS_MAX - 1, listed: CHANNEL_LISTED_MAX - 4 };
    assert_eq!(attempt(full, deleted), Ok(less));
}
