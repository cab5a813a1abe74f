//! Enrolment by X.509-SVIDs over the socket, with certificates made here.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[path = "../src/fixture.rs"]
#[allow(dead_code, reason = "each test takes what it needs of it")]
mod fixture;

use std::path::Path;
use std::sync::Arc;

use creto_envelope::{SignedKeyRecord, TrustDomain};
use creto_service::api::ErrorCode;
use creto_service::client::{Client, ClientError};
use creto_service::svid::{Svid, SvidEnrolment};
use creto_service::{Enrolment, Service, ServiceError, ServiceHandle, ServiceOptions};
use fixture::signed;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

const PLANNER: &str = "spiffe://creto.local/acme/planner";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn params(ids: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = ids.iter().map(|id| SanType::URI((*id).try_into().unwrap())).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

fn enrolment(params: &CertificateParams, issuer: &Authority, record: &SignedKeyRecord) -> SvidEnrolment {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    Svid::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap().enrolment(record).unwrap()
}

/// A service that registers nobody without a token, but for SVIDs of the bundle.
fn start(folder: &Path, bundle: Option<&str>) -> Result<ServiceHandle, ServiceError> {
    let mut options =
        ServiceOptions::new(folder.join("control.redb"), folder.join("control.sock"), TrustDomain::default());
    options.enrolment = Enrolment::Token;
    options.spiffe_bundle = bundle.map(|pem| {
        std::fs::write(folder.join("bundle.pem"), pem).unwrap();
        folder.join("bundle.pem")
    });
    Service::open(options)?.spawn(|_: Arc<_>| {})
}

#[track_caller]
fn refused(result: Result<impl std::fmt::Debug, ClientError>, code: ErrorCode) {
    match result {
        Err(ClientError::Refused { status, error }) => {
            assert_eq!((status, error.code.as_str()), (code.http_status(), code.as_str()), "{error:?}");
            assert!(!error.message.is_empty() && error.next == code.next(), "{error:?}");
        }
        other => panic!("expected {code:?}: {other:?}"),
    }
}

#[tokio::test]
async fn a_workload_with_an_svid_registers_its_agent_without_a_token_and_again_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let root = authority();
    let service = start(folder.path(), Some(&root.pem())).unwrap();
    let client = Client::new(service.socket_path());
    let record = signed("acme/planner", 1);
    refused(client.register(&record).await, ErrorCode::TokenMissing);
    let made = client.enrol_with_svid(&enrolment(&params(&[PLANNER]), &root, &record)).await.unwrap();
    assert!(made.created);
    assert_eq!((made.agent.name.as_str(), made.agent.spiffe_id.as_str()), ("acme/planner", PLANNER));
    // The next SVID, an hour later, for the same agent.
    let again = client.enrol_with_svid(&enrolment(&params(&[PLANNER]), &root, &record)).await.unwrap();
    assert_eq!((again.created, again.agent), (false, made.agent));
    // A name is taken once, SVID or not.
    refused(
        client.enrol_with_svid(&enrolment(&params(&[PLANNER]), &root, &signed("acme/planner", 2))).await,
        ErrorCode::NameTaken,
    );
}

#[tokio::test]
async fn every_svid_that_is_no_good_has_its_own_code_and_registers_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (root, stranger) = (authority(), authority());
    let service = start(folder.path(), Some(&root.pem())).unwrap();
    let client = Client::new(service.socket_path());
    let record = signed("acme/planner", 1);
    let good = enrolment(&params(&[PLANNER]), &root, &record);
    let mut old = params(&[PLANNER]);
    (old.not_before, old.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
    let mut issuer = params(&[PLANNER]);
    issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut sealing = params(&[PLANNER]);
    sealing.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    let of = |params: &CertificateParams| enrolment(params, &root, &record);
    let other_key = SvidEnrolment { signature: of(&params(&[PLANNER])).signature, ..good.clone() };
    for (enrolment, code) in [
        (SvidEnrolment { certificates: vec![], ..good.clone() }, ErrorCode::SvidMalformed),
        (of(&params(&[PLANNER, "spiffe://creto.local/acme/worker"])), ErrorCode::SvidUri),
        (of(&issuer), ErrorCode::SvidAuthority),
        (of(&sealing), ErrorCode::SvidKeyUsage),
        (of(&params(&["spiffe://other.example/acme/planner"])), ErrorCode::SvidTrustDomain),
        (of(&params(&["spiffe://creto.local/acme/worker"])), ErrorCode::SvidName),
        (of(&old), ErrorCode::SvidTime),
        (enrolment(&params(&[PLANNER]), &stranger, &record), ErrorCode::SvidUntrusted),
        (other_key, ErrorCode::SvidSignature),
    ] {
        refused(client.enrol_with_svid(&enrolment).await, code);
    }
    // The record must be good beside the SVID.
    let mut forged = record.clone();
    forged.ed25519[0] ^= 1;
    refused(client.enrol_with_svid(&enrolment(&params(&[PLANNER]), &root, &forged)).await, ErrorCode::SelfSignature);
    assert_eq!(client.agents(None).await.unwrap(), []);
    assert!(client.enrol_with_svid(&good).await.unwrap().created);
}

#[tokio::test]
async fn a_bundle_is_read_anew_and_one_that_cannot_be_read_registers_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (root, next) = (authority(), authority());
    let service = start(folder.path(), Some(&root.pem())).unwrap();
    let client = Client::new(service.socket_path());
    let of = |issuer: &Authority| enrolment(&params(&[PLANNER]), issuer, &signed("acme/planner", 1));
    refused(client.enrol_with_svid(&of(&next)).await, ErrorCode::SvidUntrusted);
    let bundle = folder.path().join("bundle.pem");
    std::fs::write(&bundle, "nothing").unwrap();
    refused(client.enrol_with_svid(&of(&next)).await, ErrorCode::SvidBundle);
    std::fs::write(&bundle, next.pem()).unwrap();
    refused(client.enrol_with_svid(&of(&root)).await, ErrorCode::SvidUntrusted);
    assert!(client.enrol_with_svid(&of(&next)).await.unwrap().created);
}

#[tokio::test]
async fn without_a_bundle_no_svid_registers_and_with_a_bad_one_no_service_starts() {
    let folder = tempfile::tempdir().unwrap();
    let root = authority();
    let error = start(folder.path(), Some("no certificate")).unwrap_err();
    assert!(matches!(error, ServiceError::TrustBundle { .. }), "{error}");
    assert!(error.to_string().contains("it has no certificate; correct [control] spiffe_bundle"), "{error}");
    let service = start(folder.path(), None).unwrap();
    let enrolment = enrolment(&params(&[PLANNER]), &root, &signed("acme/planner", 1));
    refused(Client::new(service.socket_path()).enrol_with_svid(&enrolment).await, ErrorCode::SvidOff);
}
