//! What the audit log is told of by a service that runs: tokens, refusals, policies, backups, revocations.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use creto_audit::What;
use creto_audit::event::{Code, KindOf, Outcome, Peer, TokenId};
use creto_audit::limits::TOLD_AT_ONCE_MAX;
use creto_envelope::{AgentId, AgentName, TrustDomain};
use creto_service::api::{BackupSource, ErrorCode, HeldShard};
use creto_service::backup::{BackupHost, HoldRequest, NotHeld};
use creto_service::client::Client;
use creto_service::outbox::{AuditSink, ControlEvent, Kept};
use creto_service::states::{StateChange, StateWord};
use creto_service::tokens::{Enrolment, EnrolmentToken, TokenWanted};
use creto_service::{OnFailure, Service, ServiceHandle, ServiceOptions};

#[path = "../src/fixture.rs"]
#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;
use fixture::{record, signed, signed_for};

#[derive(Default)]
struct Log(Mutex<Vec<ControlEvent>>);

impl AuditSink for Log {
    fn tell(&self, events: Vec<ControlEvent>) {
        self.0.lock().unwrap().extend(events);
    }
}

/// Holds one log, until it does not.
#[derive(Default)]
struct Host(Mutex<bool>);

impl BackupHost for Host {
    fn source(&self) -> Result<BackupSource, NotHeld> {
        let path = PathBuf::new;
        Ok(BackupSource {
            data_dir: path(),
            wal_dir: path(),
            certificate: path(),
            private_key: path(),
            configuration: String::new(),
            audit: None,
        })
    }

    fn hold(&self, _: u64, _: HoldRequest) -> Result<Vec<HeldShard>, NotHeld> {
        if *self.0.lock().unwrap() {
            return Err(NotHeld::Over("it needed the space".to_owned()));
        }
        let (shard, first_segment, last_segment, end_offset, end_lsn, epoch) = (0, 1, 1, 0, 0, 1);
        Ok(vec![HeldShard { shard, first_segment, last_segment, end_offset, end_lsn, epoch }])
    }
}

struct Node {
    handle: ServiceHandle,
    log: Arc<Log>,
    host: Arc<Host>,
}

impl Node {
    fn start(folder: &Path, set: impl FnOnce(&mut ServiceOptions)) -> Self {
        let mut options =
            ServiceOptions::new(folder.join("control.redb"), folder.join("control.sock"), TrustDomain::default());
        set(&mut options);
        let (log, host) = (Arc::<Log>::default(), Arc::<Host>::default());
        let service = Service::open(options).unwrap().with_backups(Arc::clone(&host) as _);
        let service = service.with_audit(Arc::clone(&log) as _, Arc::new(Kept::default())).unwrap();
        Self { handle: service.spawn(|_| {}).unwrap(), log, host }
    }

    fn client(&self) -> Client {
        Client::new(self.handle.socket_path())
    }

    /// Everything that was told, once the service has ended.
    fn stop(self) -> Vec<(What, String)> {
        self.handle.shutdown().unwrap();
        let events = std::mem::take(&mut *self.log.0.lock().unwrap());
        let numbers: Vec<_> = events.iter().map(|event| event.number).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "one number after the other");
        events.iter().map(|event| (event.event.what, event.label.as_str().to_owned())).collect()
    }
}

fn code(code: ErrorCode) -> Code {
    Code::of_control(code.as_str()).unwrap()
}

fn wanted(name: &str) -> TokenWanted {
    TokenWanted { organization: "acme".to_owned(), name: Some(name.to_owned()), expires_in_s: 60, uses: 1 }
}

fn administration_refused(of: ErrorCode, what: &str) -> (What, String) {
    let (actor, peer) = (AgentId::ZERO, Peer::default());
    (What::AdministrationRefused { actor, peer, code: code(of) }, what.to_owned())
}

#[test]
fn every_code_of_the_api_has_a_number_in_the_log() {
    for code in ErrorCode::ALL {
        assert!(Code::of_control(code.as_str()).is_some(), "give {} the next number in control_code.rs", code.as_str());
    }
}

#[tokio::test]
async fn a_token_is_told_when_it_is_made_used_withdrawn_and_shown_in_vain() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), |options| options.enrolment = Enrolment::Token);
    let client = node.client();
    let epoch = client.status().await.unwrap().epoch;
    let made = client.make_token(&wanted("acme/a")).await.unwrap();
    let other = client.make_token(&wanted("acme/b")).await.unwrap();
    assert_eq!(client.status().await.unwrap().epoch, epoch, "no shard decides otherwise for it");
    let token = EnrolmentToken::parse(&made.token).unwrap();
    client.enrol(&signed_for("acme/a", 1, &token.hash()), &token).await.unwrap();
    client.enrol(&signed_for("acme/c", 3, &token.hash()), &token).await.unwrap_err();
    client.register(&signed("acme/d", 4)).await.unwrap_err();
    client.register_bytes(b"nonsense".as_slice().into()).await.unwrap_err();
    client.withdraw_token(&other.info.id).await.unwrap();
    client.withdraw_token(&other.info.id).await.unwrap_err();
    let told = node.stop();

    let id = |wanted: &str| {
        let mut ids = told.iter().filter_map(|(what, _)| match what {
            What::TokenIssued { token, .. } => Some(*token),
            _ => None,
        });
        ids.find(|token| shown(token) == wanted).expect("its id begins with the one that the API shows")
    };
    let (token, other) = (id(&made.info.id), id(&other.info.id));
    let issued = |at: usize| matches!(told[at].0, What::TokenIssued { actor: AgentId::ZERO, .. });
    assert!(issued(1) && issued(2), "{told:?}");
    assert_eq!((told[1].1.as_str(), told[2].1.as_str()), ("acme/a", "acme/b"));
    let agent = record("acme/a", 1).agent_id();
    assert!(told.contains(&(What::TokenUsed { token, agent, uses_left: 0 }, String::new())), "{told:?}");
    assert!(told.contains(&(What::TokenWithdrawn { token: other, actor: AgentId::ZERO }, "acme/b".to_owned())));
    let refused = |token, of, name: &str| {
        (What::EnrolmentRefused { token, peer: Peer::default(), code: code(of) }, name.to_owned())
    };
    let refusals: Vec<_> = told.iter().filter(|(what, _)| matches!(what, What::EnrolmentRefused { .. })).collect();
    let expected = [
        refused(token, ErrorCode::TokenUsed, "acme/c"),
        refused(TokenId::default(), ErrorCode::TokenMissing, "acme/d"),
        refused(TokenId::default(), ErrorCode::RecordMalformed, ""),
    ];
    assert_eq!(refusals, expected.iter().collect::<Vec<_>>());
    let path = format!("DELETE /v1/tokens/{}", shown(&other));
    assert!(told.contains(&administration_refused(ErrorCode::TokenIdUnknown, &path)), "{told:?}");
}

/// A token's id as the API shows it.
fn shown(token: &TokenId) -> String {
    token.0[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_change_that_is_refused_is_told_and_a_question_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), |_| {});
    let (client, name) = (node.client(), AgentName::parse("acme/nobody").unwrap());
    client.agent(&name).await.unwrap_err();
    let change = StateChange { state: StateWord::Suspended, reason: None, since_ms: None };
    client.set_state(&name, &change).await.unwrap_err();
    let told = node.stop();
    let refused = administration_refused(ErrorCode::AgentUnknown, "PUT /v1/agents/acme/nobody/state");
    assert_eq!(told[1..], [refused]);
}

#[tokio::test]
async fn a_policy_is_told_when_the_node_starts_with_it_and_when_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.rego");
    std::fs::write(&file, "allow {\n").unwrap();
    let node = Node::start(folder.path(), |options| {
        options.policy.file = Some(file.clone());
        options.policy.on_failure = OnFailure::Allow;
    });
    std::fs::write(&file, "allow { true }\n").unwrap();
    node.client().reload_policy().await.unwrap();
    let broken = "allow {\n    input.sender.role == \"a\"\n}\n";
    std::fs::write(&file, broken).unwrap();
    node.client().reload_policy().await.unwrap_err();
    let told = node.stop();
    let of = |is_loaded: bool| -> Vec<&(What, String)> {
        let policies = told.iter().filter(|(what, _)| match what {
            What::PolicyLoaded { .. } => is_loaded,
            What::PolicyRefused { .. } => !is_loaded,
            _ => false,
        });
        policies.collect()
    };
    let loaded: Vec<_> = of(true).iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(loaded, ["fail-open", "file"]);
    // The file of the start may have been looked at once more, before it was written anew.
    let mut refused = of(false);
    refused.dedup();
    let [(What::PolicyRefused { line: 1.., .. }, first), (What::PolicyRefused { line: 2, policy, .. }, second)] =
        refused[..]
    else {
        panic!("{refused:?}");
    };
    assert_eq!((first.as_str(), second.as_str()), ("syntax", "unknown_input"));
    assert_eq!(policy.0, creto_crypto_accel::digest::sha256(&[broken.as_bytes()]));
}

#[tokio::test]
async fn a_backup_is_told_with_how_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), |_| {});
    let client = node.client();
    let mut ids = Vec::new();
    for outcome in [Outcome::Done, Outcome::GivenUp, Outcome::Failed] {
        // Ids are times: two in one millisecond would be one.
        let begun = loop {
            match client.begin_backup().await {
                Ok(begun) if !ids.contains(&begun.id) => break begun,
                Ok(begun) => client.end_backup(&begun.id).await.unwrap(),
                Err(error) => assert_eq!(error.code(), Some("backup_running"), "{error}"),
            }
        };
        match outcome {
            Outcome::Done => client.end_backup(&begun.id).await.unwrap(),
            Outcome::GivenUp => client.give_up_backup(&begun.id).await.unwrap(),
            Outcome::Failed => {
                *node.host.0.lock().unwrap() = true;
                assert_eq!(client.end_backup(&begun.id).await.unwrap_err().code(), Some("backup_over"));
            }
        }
        ids.push(begun.id);
    }
    let told = node.stop();
    for (id, outcome) in ids.iter().zip([Outcome::Done, Outcome::GivenUp, Outcome::Failed]) {
        let backup = TokenId(u128::from_str_radix(id, 16).unwrap().to_be_bytes());
        let of_it: Vec<_> = told
            .iter()
            .filter(|(what, _)| match what {
                What::BackupBegun { backup: of, .. } | What::BackupEnded { backup: of, .. } => *of == backup,
                _ => false,
            })
            .map(|(what, _)| *what)
            .collect();
        assert_eq!(of_it, [What::BackupBegun { backup, shards: 1 }, What::BackupEnded { backup, outcome }], "{told:?}");
    }
}

#[tokio::test]
async fn the_revocation_of_an_organization_is_one_event_beside_that_of_each_agent() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), |_| {});
    let client = node.client();
    for (name, seed) in [("acme/a", 1), ("acme/b", 2), ("other/a", 3)] {
        client.register(&signed(name, seed)).await.unwrap();
    }
    let change = |state| StateChange { state, reason: None, since_ms: None };
    client.set_organization_state("acme", None, &change(StateWord::Suspended)).await.unwrap();
    client.set_organization_state("acme", None, &change(StateWord::Revoked)).await.unwrap();
    let told = node.stop();
    let of_organization: Vec<_> =
        told.iter().filter(|(what, _)| matches!(what, What::OrganizationRevoked { .. })).collect();
    assert!(
        matches!(of_organization[..], [(What::OrganizationRevoked { count: 2, .. }, name)] if name == "acme"),
        "{told:?}"
    );
    let revoked = told.iter().filter(|(what, _)| matches!(what, What::AgentRevoked { .. })).count();
    assert_eq!(revoked, 2);
}

#[tokio::test]
async fn a_flood_of_refusals_is_told_in_part_and_counted_in_whole() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), |options| options.enrolment = Enrolment::Token);
    let client = node.client();
    let flood = TOLD_AT_ONCE_MAX as usize + 200;
    for _ in 0..flood {
        client.register_bytes(b"nonsense".as_slice().into()).await.unwrap_err();
    }
    let told = node.stop();
    let one_by_one = told.iter().filter(|(what, _)| matches!(what, What::EnrolmentRefused { .. })).count();
    let of_flood = (KindOf(77), code(ErrorCode::RecordMalformed));
    let merged: u32 = told
        .iter()
        .filter_map(|(what, _)| match what {
            What::EventsMerged { kind, code, count, .. } if (*kind, *code) == of_flood => Some(*count),
            _ => None,
        })
        .sum();
    assert_eq!(one_by_one + merged as usize, flood, "none is lost");
    assert!(merged > 0 && told.len() < flood, "{merged} of {}", told.len());
}
