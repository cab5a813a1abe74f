//! Channels over the API: what their owners have signed is taken, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::path::Path;

use creto_envelope::channel::{
    ChannelName, ChannelPattern, ChannelRecord, Publishing, SignedChannelRecord, Subscribing,
};
use creto_envelope::{AgentId, AgentName, KeyRecord, TrustDomain};
use creto_service::api::ErrorCode;
use creto_service::client::{Client, ClientError};
use creto_service::states::{StateChange, StateWord};
use creto_service::{Service, ServiceHandle, ServiceOptions};

#[path = "../src/fixture.rs"]
#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;
use fixture::{record as key_record, sign as sign_key, signed, signing_keys};

/// The keys of the owner, of another agent of its organization, and of one elsewhere.
const OWNER: u8 = 1;
const OTHER: u8 = 2;
const STRANGER: u8 = 3;

fn start(folder: &Path) -> (ServiceHandle, Client) {
    let options = ServiceOptions::new(folder.join("control.redb"), folder.join("control.sock"), TrustDomain::default());
    let handle = Service::open(options).unwrap().spawn(|_| {}).unwrap();
    let client = Client::new(handle.socket_path());
    (handle, client)
}

async fn with_agents(folder: &Path) -> (ServiceHandle, Client) {
    let (handle, client) = start(folder);
    for (name, seed) in [("acme/owner", OWNER), ("acme/other", OTHER), ("else/stranger", STRANGER)] {
        client.register(&signed(name, seed)).await.unwrap();
    }
    (handle, client)
}

fn agent(name: &str) -> AgentId {
    AgentId::derive(&TrustDomain::default(), &AgentName::parse(name).unwrap())
}

fn name(text: &str) -> ChannelName {
    ChannelName::parse(text).unwrap()
}

fn record(channel: &str, version: u32) -> ChannelRecord {
    ChannelRecord {
        version,
        name: name(channel),
        trust_domain: TrustDomain::default(),
        owner: agent("acme/owner"),
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

fn sign(record: ChannelRecord, seed: u8) -> SignedChannelRecord {
    let signature = signing_keys(seed).sign(&record.signed_bytes());
    SignedChannelRecord { record, ed25519: signature.ed25519, ml_dsa_65: signature.ml_dsa_65 }
}

fn code(result: Result<impl std::fmt::Debug, ClientError>) -> ErrorCode {
    match result {
        Err(ClientError::Refused { error, .. }) => {
            assert!(!error.message.is_empty() && !error.next.is_empty(), "{error:?}");
            *ErrorCode::ALL.iter().find(|code| code.as_str() == error.code).unwrap()
        }
        other => panic!("expected a refusal: {other:?}"),
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn a_channel_is_created_changed_deleted_and_created_again_and_survives_a_restart() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (handle, client) = with_agents(folder.path()).await;
        let first = sign(record("acme/alerts.eu", 1), OWNER);
        let created = client.put_channel(&first).await.unwrap();
        assert_eq!((&created.name[..], &created.owner[..], created.version), ("acme/alerts.eu", "acme/owner", 1));
        assert_eq!((&created.subscribing[..], &created.publishing[..]), ("open", "open"));
        // Again, with other signatures: the same record.
        assert_eq!(client.put_channel(&sign(record("acme/alerts.eu", 1), OWNER)).await.unwrap(), created);

        let mut listed = vec![agent("acme/other"), AgentId([9; 16])];
        listed.sort_unstable();
        let second = ChannelRecord {
            subscribing: Subscribing::Allowlist(listed),
            publishing: Publishing::Listed(vec![agent("else/stranger")]),
            has_history: true,
            ..record("acme/alerts.eu", 2)
        };
        let changed = client.put_channel(&sign(second.clone(), OWNER)).await.unwrap();
        assert_eq!((changed.version, changed.created_at_ms, changed.history), (2, created.created_at_ms, true));
        // Names of those who are registered, ids of others.
        let unknown = "09".repeat(16);
        assert_eq!(changed.subscribers, Some(vec![unknown, "acme/other".to_owned()]));
        assert_eq!(changed.publishers, Some(vec!["else/stranger".to_owned()]));

        handle.shutdown().unwrap();
        let (handle, client) = start(folder.path());
        assert_eq!(client.channel(&name("acme/alerts.eu")).await.unwrap(), changed);
        assert_eq!(client.channel_record(&name("acme/alerts.eu")).await.unwrap().record, second);

        let gone = ChannelRecord { is_deleted: true, ..record("acme/alerts.eu", 3) };
        assert!(client.put_channel(&sign(gone.clone(), OWNER)).await.unwrap().deleted);
        assert_eq!(code(client.channel(&name("acme/alerts.eu")).await), ErrorCode::ChannelUnknown);
        assert!(client.channels(None).await.unwrap().is_empty());
        // What was deleted cannot be deleted again, and its name goes on counting.
        let again = ChannelRecord { version: 4, ..gone };
        assert_eq!(code(client.put_channel(&sign(again, OWNER)).await), ErrorCode::ChannelUnknown);
        assert_eq!(code(client.put_channel(&first).await), ErrorCode::ChannelVersion);
        let back = client.put_channel(&sign(record("acme/alerts.eu", 4), OWNER)).await.unwrap();
        assert_eq!((back.version, back.created_at_ms, back.deleted), (4, created.created_at_ms, false));
        handle.shutdown().unwrap();
    });
}

#[test]
fn only_the_owner_with_both_keys_says_what_a_channel_is() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (handle, client) = with_agents(folder.path()).await;
        let mine = || record("acme/alerts", 1);
        // Somebody else's keys, or one of two signatures, or one bit of one.
        assert_eq!(code(client.put_channel(&sign(mine(), OTHER)).await), ErrorCode::ChannelSignature);
        let (good, other) = (sign(mine(), OWNER), sign(mine(), OTHER));
        let half = SignedChannelRecord { ed25519: other.ed25519, ..good.clone() };
        assert_eq!(code(client.put_channel(&half).await), ErrorCode::ChannelSignature);
        let half = SignedChannelRecord { ml_dsa_65: other.ml_dsa_65, ..good.clone() };
        assert_eq!(code(client.put_channel(&half).await), ErrorCode::ChannelSignature);
        let moved = SignedChannelRecord { record: ChannelRecord { retention_s: 3_601, ..mine() }, ..good.clone() };
        assert_eq!(code(client.put_channel(&moved).await), ErrorCode::ChannelSignature);
        // Owners that cannot be.
        let of = |owner: &str| ChannelRecord { owner: agent(owner), ..mine() };
        assert_eq!(code(client.put_channel(&sign(of("else/stranger"), STRANGER)).await), ErrorCode::ChannelOwner);
        assert_eq!(code(client.put_channel(&sign(of("acme/nobody"), OWNER)).await), ErrorCode::ChannelOwner);
        let later = ChannelRecord { owner_key_version: 2, ..mine() };
        assert_eq!(code(client.put_channel(&sign(later, OWNER)).await), ErrorCode::ChannelOwner);
        // A first version is 1; another domain, another node; a date that nobody can mean.
        assert_eq!(code(client.put_channel(&sign(record("acme/alerts", 2), OWNER)).await), ErrorCode::ChannelVersion);
        let elsewhere = ChannelRecord { trust_domain: TrustDomain::parse("other.org").unwrap(), ..mine() };
        assert_eq!(code(client.put_channel(&sign(elsewhere, OWNER)).await), ErrorCode::TrustDomain);
        let future = ChannelRecord { signed_at_ms: u64::MAX, ..mine() };
        assert_eq!(code(client.put_channel(&sign(future, OWNER)).await), ErrorCode::ChannelMalformed);
        let broken = ChannelRecord { messages_max: 0, ..mine() };
        assert_eq!(code(client.put_channel(&sign(broken, OWNER)).await), ErrorCode::ChannelMalformed);
        let unborn = ChannelRecord { is_deleted: true, ..mine() };
        assert_eq!(code(client.put_channel(&sign(unborn, OWNER)).await), ErrorCode::ChannelUnknown);
        // Keys that are not valid yet.
        let early = sign_key(KeyRecord { valid_from_ms: 4_000_000_000_000, ..key_record("acme/early", 4) }, 4);
        client.register(&early).await.unwrap();
        assert_eq!(code(client.put_channel(&sign(of("acme/early"), 4)).await), ErrorCode::ChannelOwner);
        assert!(client.channels(None).await.unwrap().is_empty(), "none of that left anything behind");

        client.put_channel(&good).await.unwrap();
        // It is taken, and stays its owner's: another one of the organization changes nothing.
        let stolen = ChannelRecord { version: 2, ..of("acme/other") };
        assert_eq!(code(client.put_channel(&sign(stolen.clone(), OTHER)).await), ErrorCode::ChannelOwner);
        let suspend = StateChange { state: StateWord::Suspended, reason: None, since_ms: None };
        let owner = AgentName::parse("acme/owner").unwrap();
        client.set_state(&owner, &suspend).await.unwrap();
        assert_eq!(code(client.put_channel(&sign(record("acme/alerts", 2), OWNER)).await), ErrorCode::ChannelOwner);
        assert_eq!(code(client.put_channel(&sign(stolen.clone(), OTHER)).await), ErrorCode::ChannelOwner);
        // Until its owner is revoked, who cannot sign anything any more.
        let revoke = StateChange { state: StateWord::Revoked, ..suspend };
        client.set_state(&owner, &revoke).await.unwrap();
        assert_eq!(code(client.put_channel(&sign(record("acme/alerts", 2), OWNER)).await), ErrorCode::ChannelOwner);
        assert_eq!(client.put_channel(&sign(stolen, OTHER)).await.unwrap().owner, "acme/other");
        handle.shutdown().unwrap();
    });
}

#[test]
fn of_two_changes_at_once_one_is_made() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (handle, client) = with_agents(folder.path()).await;
        client.put_channel(&sign(record("acme/alerts", 1), OWNER)).await.unwrap();
        let change = |retention_s| sign(ChannelRecord { retention_s, ..record("acme/alerts", 2) }, OWNER);
        let (one, two) = (change(60), change(61));
        let (one, two) = tokio::join!(client.put_channel(&one), client.put_channel(&two));
        let refused = [one, two].map(|put| put.err().map(|error| error.code().unwrap().to_owned()));
        assert_eq!(refused.iter().flatten().collect::<Vec<_>>(), ["channel_version"], "{refused:?}");
        assert_eq!(client.channel(&name("acme/alerts")).await.unwrap().version, 2);
        handle.shutdown().unwrap();
    });
}

#[test]
fn a_list_has_the_channels_that_fit_in_the_order_of_their_names() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (handle, client) = with_agents(folder.path()).await;
        let names = ["acme/a", "acme/alerts.eu.critical", "acme/alerts.eu.low", "acme/alerts.us.critical", "acme/b"];
        for channel in names.iter().rev() {
            client.put_channel(&sign(record(channel, 1), OWNER)).await.unwrap();
        }
        let list = async |pattern: &str| {
            let pattern = ChannelPattern::parse(pattern).unwrap();
            let channels = client.channels(Some(&pattern)).await.unwrap();
            channels.into_iter().map(|channel| channel.name).collect::<Vec<_>>()
        };
        assert_eq!(client.channels(None).await.unwrap().len(), 5);
        assert_eq!(list("acme/**").await, names);
        assert_eq!(list("acme/*").await, ["acme/a", "acme/b"]);
        assert_eq!(list("acme/alerts.*.critical").await, [names[1], names[3]]);
        assert_eq!(list("acme/alerts.eu.**").await, [names[1], names[2]]);
        assert_eq!(list("acme/alerts").await, [""; 0]);
        assert_eq!(list("else/**").await, [""; 0]);
        handle.shutdown().unwrap();
    });
}
