//! Every certificate is made here: a root, sometimes one below it, and what a workload would have.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};

use creto_envelope::SignedKeyRecord;

use super::*;
use crate::fixture::signed;

/// The first of June 2026.
const NOW_MS: u64 = 1_780_272_000_000;
const PLANNER: &str = "spiffe://creto.local/acme/planner";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority_params(id: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, id);
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2036, 1, 1));
    params
}

fn authority() -> Authority {
    CertifiedIssuer::self_signed(authority_params("spiffe://creto.local"), KeyPair::generate().unwrap()).unwrap()
}

fn bundle(authorities: &[&Authority]) -> TrustBundle {
    let pem: String = authorities.iter().map(|authority| authority.pem()).collect();
    TrustBundle::parse(pem.as_bytes()).unwrap()
}

/// As SPIRE makes them: an hour on either side of now, one URI, signing only.
fn workload_params(ids: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = ids.iter().map(|id| SanType::URI((*id).try_into().unwrap())).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (date_time_ymd(2026, 5, 31), date_time_ymd(2026, 6, 2));
    params.is_ca = IsCa::ExplicitNoCa;
    params
}

struct Workload {
    pem: String,
    key: KeyPair,
}

impl Workload {
    fn of(params: &CertificateParams, issuer: &Authority) -> Self {
        Self::with_key(params, issuer, KeyPair::generate().unwrap())
    }

    fn with_key(params: &CertificateParams, issuer: &Authority, key: KeyPair) -> Self {
        Self { pem: params.signed_by(&key, issuer).unwrap().pem(), key }
    }

    fn svid(&self) -> Svid {
        Svid::from_pem(self.pem.as_bytes(), self.key.serialize_pem().as_bytes()).unwrap()
    }

    fn enrolment(&self) -> SvidEnrolment {
        self.enrolment_of(&signed("acme/planner", 1))
    }

    fn enrolment_of(&self, signed: &SignedKeyRecord) -> SvidEnrolment {
        self.svid().enrolment(signed).unwrap()
    }
}

fn check(bundle: &TrustBundle, enrolment: &SvidEnrolment) -> Result<Vouched, SvidError> {
    bundle.check(enrolment, &TrustDomain::default(), NOW_MS)
}

#[track_caller]
fn refused(bundle: &TrustBundle, enrolment: &SvidEnrolment, code: ErrorCode, says: &str) {
    let error = check(bundle, enrolment).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn a_workload_with_an_svid_may_register_the_agent_of_its_path_and_no_other() {
    let root = authority();
    let workload = Workload::of(&workload_params(&[PLANNER]), &root);
    let signed = signed("acme/planner", 1);
    let vouched = check(&bundle(&[&root]), &workload.enrolment_of(&signed)).unwrap();
    assert_eq!(vouched.record(), signed.to_bytes());
    let domain = TrustDomain::default();
    vouched.check_name(&AgentName::parse("acme/planner").unwrap(), &domain).unwrap();
    let error = vouched.check_name(&AgentName::parse("acme/worker").unwrap(), &domain).unwrap_err();
    assert_eq!(error.code(), ErrorCode::SvidName);
    assert!(error.to_string().contains(PLANNER) && error.to_string().contains("acme/worker"), "{error}");
}

#[test]
fn every_kind_of_key_that_svids_have_signs() {
    let root = authority();
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let workload = Workload::with_key(&workload_params(&[PLANNER]), &root, key);
        check(&bundle(&[&root]), &workload.enrolment()).unwrap_or_else(|error| panic!("{algorithm:?}: {error}"));
    }
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let workload = Workload::with_key(&workload_params(&[PLANNER]), &root, rsa);
    check(&bundle(&[&root]), &workload.enrolment()).unwrap();
    // A key that no scheme takes signs nothing, and says so.
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let workload = Workload::with_key(&workload_params(&[PLANNER]), &root, other);
    assert_eq!(workload.svid().enrolment(&signed("acme/planner", 1)), Err(SvidReadError::KeyKind));
}

#[test]
fn an_intermediate_authority_stands_between_and_must_be_sent() {
    let root = authority();
    let below =
        CertifiedIssuer::signed_by(authority_params("spiffe://creto.local"), KeyPair::generate().unwrap(), &root)
            .unwrap();
    let mut workload = Workload::of(&workload_params(&[PLANNER]), &below);
    refused(&bundle(&[&root]), &workload.enrolment(), ErrorCode::SvidUntrusted, "trust bundle");
    workload.pem.push_str(&below.pem());
    check(&bundle(&[&root]), &workload.enrolment()).unwrap();
    // While authorities change, the bundle has both.
    let new = authority();
    check(&bundle(&[&new, &root]), &workload.enrolment()).unwrap();
    refused(&bundle(&[&new]), &workload.enrolment(), ErrorCode::SvidUntrusted, "trust bundle");
}

#[test]
fn a_certificate_that_is_not_valid_now_registers_nobody() {
    let root = authority();
    let bundle = bundle(&[&root]);
    for (from, until) in [((2026, 5, 1), (2026, 5, 31)), ((2026, 6, 2), (2026, 6, 3))] {
        let mut params = workload_params(&[PLANNER]);
        (params.not_before, params.not_after) =
            (date_time_ymd(from.0, from.1, from.2), date_time_ymd(until.0, until.1, until.2));
        refused(&bundle, &Workload::of(&params, &root).enrolment(), ErrorCode::SvidTime, "not valid now");
    }
}

#[test]
fn what_is_no_svid_of_this_trust_domain_has_its_own_code() {
    let root = authority();
    let bundle = bundle(&[&root]);
    let of = |ids: &[&str]| Workload::of(&workload_params(ids), &root).enrolment();
    for (ids, code, says) in [
        (&["spiffe://other.example/acme/planner"][..], ErrorCode::SvidTrustDomain, "creto.local"),
        (&[PLANNER, "spiffe://creto.local/acme/worker"], ErrorCode::SvidUri, "2 URIs"),
        (&[PLANNER, PLANNER], ErrorCode::SvidUri, "2 URIs"),
        (&[PLANNER, "https://acme.example"], ErrorCode::SvidUri, "2 URIs"),
        (&["https://creto.local/acme/planner"], ErrorCode::SvidUri, "spiffe://"),
        (&["SPIFFE://creto.local/acme/planner"], ErrorCode::SvidUri, "spiffe://"),
        (&["spiffe://creto.local"], ErrorCode::SvidUri, "a path"),
        (&["spiffe://creto.local/"], ErrorCode::SvidUri, "organization/agent"),
        (&["spiffe://creto.local/acme"], ErrorCode::SvidUri, "organization/agent"),
        (&["spiffe://creto.local/acme/planner/"], ErrorCode::SvidUri, "organization/agent"),
        (&["spiffe://creto.local/ns/default/sa/planner"], ErrorCode::SvidUri, "organization/agent"),
        (&["spiffe://creto.local/acme/planner?as=other"], ErrorCode::SvidUri, "organization/agent"),
        (&["spiffe://creto.local/acme/Planner"], ErrorCode::SvidUri, "organization/agent"),
        (&["spiffe://user@creto.local/acme/planner"], ErrorCode::SvidUri, "trust domain is none"),
        (&["spiffe://creto.local:443/acme/planner"], ErrorCode::SvidUri, "trust domain is none"),
    ] {
        refused(&bundle, &of(ids), code, says);
    }
    let mut params = workload_params(&[]);
    params.subject_alt_names = vec![SanType::DnsName("planner.acme".try_into().unwrap())];
    refused(&bundle, &Workload::of(&params, &root).enrolment(), ErrorCode::SvidUri, "no URI");
    // Other names may stand beside the one URI.
    params.subject_alt_names.push(SanType::URI(PLANNER.try_into().unwrap()));
    check(&bundle, &Workload::of(&params, &root).enrolment()).unwrap();
}

#[test]
fn an_authority_and_a_key_of_another_use_register_nobody() {
    let root = authority();
    let bundle = bundle(&[&root]);
    let mut params = authority_params(PLANNER);
    params.key_usages.push(KeyUsagePurpose::DigitalSignature);
    refused(&bundle, &Workload::of(&params, &root).enrolment(), ErrorCode::SvidAuthority, "authority");
    for (usages, says) in [
        (vec![], "none"),
        (vec![KeyUsagePurpose::KeyEncipherment], "may not sign"),
        (vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign], "sign certificates"),
        (vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign], "sign certificates"),
    ] {
        let mut params = workload_params(&[PLANNER]);
        params.key_usages = usages;
        refused(&bundle, &Workload::of(&params, &root).enrolment(), ErrorCode::SvidKeyUsage, says);
    }
    let mut params = workload_params(&[PLANNER]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    refused(&bundle, &Workload::of(&params, &root).enrolment(), ErrorCode::SvidKeyUsage, "clients");
    params.extended_key_usages = vec![];
    check(&bundle, &Workload::of(&params, &root).enrolment()).unwrap();
}

#[test]
fn an_unknown_root_and_one_of_the_same_name_are_not_trusted() {
    let (root, stranger) = (authority(), authority());
    let workload = Workload::of(&workload_params(&[PLANNER]), &stranger);
    refused(&bundle(&[&root]), &workload.enrolment(), ErrorCode::SvidUntrusted, "trust bundle");
    let mut self_signed = workload_params(&[PLANNER]);
    self_signed.distinguished_name.push(rcgen::DnType::CommonName, "spiffe://creto.local");
    let key = KeyPair::generate().unwrap();
    let workload = Workload { pem: self_signed.self_signed(&key).unwrap().pem(), key };
    refused(&bundle(&[&root]), &workload.enrolment(), ErrorCode::SvidUntrusted, "trust bundle");
}

#[test]
fn a_certificate_is_worth_nothing_without_its_key_and_a_signature_nothing_for_another_record() {
    let root = authority();
    let bundle = bundle(&[&root]);
    let workload = Workload::of(&workload_params(&[PLANNER]), &root);
    let thief = Workload { pem: workload.pem.clone(), key: KeyPair::generate().unwrap() };
    refused(&bundle, &thief.enrolment(), ErrorCode::SvidSignature, "not signed");

    let good = workload.enrolment();
    let other_record = SvidEnrolment { record: BASE64.encode(signed("acme/planner", 2).to_bytes()), ..good.clone() };
    refused(&bundle, &other_record, ErrorCode::SvidSignature, "not signed");
    // Another certificate of the same key is another statement.
    let again = Workload::with_key(&workload_params(&[PLANNER]), &root, clone_of(&workload.key));
    let other_certificate = SvidEnrolment { certificates: again.enrolment().certificates, ..good.clone() };
    refused(&bundle, &other_certificate, ErrorCode::SvidSignature, "not signed");
    let other_scheme = SvidEnrolment { scheme: 0x0503, ..good.clone() };
    refused(&bundle, &other_scheme, ErrorCode::SvidSignature, "not signed");
    let no_scheme = SvidEnrolment { scheme: 0x0201, ..good };
    refused(&bundle, &no_scheme, ErrorCode::SvidMalformed, "0x0201");
}

fn clone_of(key: &KeyPair) -> KeyPair {
    KeyPair::from_pem(&key.serialize_pem()).unwrap()
}

#[test]
fn no_cut_or_changed_certificate_is_taken_or_makes_the_check_panic() {
    let root = authority();
    let bundle = bundle(&[&root]);
    let good = Workload::of(&workload_params(&[PLANNER]), &root).enrolment();
    let der = BASE64.decode(&good.certificates[0]).unwrap();
    let with = |der: &[u8]| SvidEnrolment { certificates: vec![BASE64.encode(der)], ..good.clone() };
    assert!(check(&bundle, &with(&der)).is_ok());
    for length in 0..der.len() {
        assert!(check(&bundle, &with(&der[..length])).is_err(), "{length} bytes");
    }
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(check(&bundle, &with(&changed)).is_err(), "byte {at}");
    }
    assert!(check(&bundle, &with(&[&der[..], b"x"].concat())).is_err());
    for (field, enrolment) in [
        ("none", SvidEnrolment { certificates: vec![], ..good.clone() }),
        (
            "many",
            SvidEnrolment {
                certificates: vec![good.certificates[0].clone(); SVID_CERTIFICATES_MAX + 1],
                ..good.clone()
            },
        ),
        ("large", with(&vec![0x30; SVID_CERTIFICATE_BYTES_MAX + 1])),
        ("base64", SvidEnrolment { certificates: vec!["???".to_owned()], ..good.clone() }),
        ("signature", SvidEnrolment { signature: "???".to_owned(), ..good.clone() }),
        ("record", SvidEnrolment { record: "???".to_owned(), ..good.clone() }),
    ] {
        assert_eq!(check(&bundle, &enrolment).unwrap_err().code(), ErrorCode::SvidMalformed, "{field}");
    }
}

#[test]
fn only_certificates_of_authorities_make_a_trust_bundle() {
    let root = authority();
    let workload = Workload::of(&workload_params(&[PLANNER]), &root);
    assert!(matches!(TrustBundle::parse(b""), Err(BundleError::Empty)));
    assert!(matches!(TrustBundle::parse(b"no certificate"), Err(BundleError::Empty)));
    let cut = &root.pem()[..200];
    assert!(TrustBundle::parse(cut.as_bytes()).is_err());
    let mixed = format!("{}{}", root.pem(), workload.pem);
    assert!(matches!(TrustBundle::parse(mixed.as_bytes()), Err(BundleError::Authority { number: 2, .. })));
}

#[test]
fn files_that_hold_no_svid_are_refused_and_its_key_is_not_printed() {
    let root = authority();
    let workload = Workload::of(&workload_params(&[PLANNER]), &root);
    let key = workload.key.serialize_pem();
    let of = |certificate: &str, key: &str| Svid::from_pem(certificate.as_bytes(), key.as_bytes()).err();
    assert_eq!(of("", &key), Some(SvidReadError::Certificate));
    assert_eq!(of(&key, &key), Some(SvidReadError::Certificate));
    assert_eq!(of(&workload.pem, ""), Some(SvidReadError::Key));
    assert_eq!(of(&workload.pem, &workload.pem), Some(SvidReadError::Key));
    assert_eq!(format!("{:?}", workload.svid()), "Svid { certificates: 1, .. }");
    // What is sent has neither: the record is public, and the key is not in it.
    let sent = serde_json::to_string(&workload.enrolment()).unwrap();
    let secret: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(!sent.contains(&secret[40..80]));
    // It is one kind of JSON object, and nothing else is read as one.
    let more = sent.replacen('{', "{\"more\":1,", 1);
    assert!(serde_json::from_str::<SvidEnrolment>(&more).is_err());
}
