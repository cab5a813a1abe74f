use creto_crypto_accel::verify::VerifyingKeys;

use super::*;

fn keys() -> AgentKeys {
    AgentKeys::generate(AgentName::parse("acme/planner").unwrap(), TrustDomain::default()).unwrap()
}

#[test]
fn a_saved_file_gives_the_same_keys_and_only_its_owner_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("planner.keys");
    let saved = keys().with_record_version(3);
    assert_eq!(saved.file(), None, "they live in memory only");
    saved.save(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left behind");
    let loaded = AgentKeys::load(&path).unwrap();
    assert_eq!((saved.file(), loaded.file()), (Some(path.as_path()), Some(path.as_path())));
    assert_eq!((loaded.id(), loaded.key_id(), loaded.record_version()), (saved.id(), saved.key_id(), 3));
    assert_eq!(loaded.signing.public(), saved.signing.public());
}

#[test]
fn a_file_that_others_can_read_is_refused_with_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("open.keys");
    keys().save(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = AgentKeys::load(&path).unwrap_err();
    assert!(matches!(error, KeysError::Permissions { mode: 0o644, .. }));
    assert!(error.to_string().contains("chmod 600"));
}

#[test]
fn a_damaged_file_is_refused_without_telling_what_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged.keys");
    keys().save(&path).unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    let seed = whole.lines().find(|line| line.contains("x_wing")).unwrap().split('"').nth(3).unwrap().to_owned();
    let damaged = [
        whole.replace(&seed, &seed[..20]),
        whole.replace("x_wing_seed", "xwing_seed"),
        whole.replace("acme/planner", "planner"),
        whole.replace("\"record_version\": 1", "\"record_version\": 0"),
        whole[..whole.len() / 2].to_owned(),
        String::new(),
    ];
    for text in damaged {
        fs::write(&path, &text).unwrap();
        let error = AgentKeys::load(&path).unwrap_err();
        assert!(matches!(error, KeysError::Format { .. }), "{error}");
        assert!(!error.to_string().contains(&seed[..8]), "{error}");
    }
    fs::write(&path, whole.replace("\"format\": 1", "\"format\": 2")).unwrap();
    assert!(matches!(AgentKeys::load(&path).unwrap_err(), KeysError::Version { found: 2, .. }));
}

#[test]
fn a_signed_record_names_the_agent_and_both_signatures_hold() {
    let keys = keys();
    let signed = SignedKeyRecord::parse(&keys.signed_record(2, 5, 9).to_bytes()).unwrap();
    let record = &signed.record;
    assert_eq!((record.agent_id(), record.key_id(), record.version), (keys.id(), keys.key_id(), 2));
    let public = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65).unwrap();
    public.verify(&record.signed_bytes(), &signed.ed25519, &signed.ml_dsa_65).unwrap();
}

#[test]
fn debug_output_shows_no_secret() {
    let keys = keys();
    let text = format!("{keys:?}");
    assert!(text.contains("acme/planner"));
    for seed in [&keys.seeds.ed25519, &keys.seeds.ml_dsa_65, &keys.seeds.x_wing] {
        assert!(
            !text.contains(&BASE64.encode(seed)) && !text.contains(&format!("{seed:?}")) && !text.contains(&hex(seed))
        );
    }
}
