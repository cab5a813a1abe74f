use super::*;
use crate::fixture::{ORIGIN, keys};

#[test]
fn keys_are_read_as_they_are_written() {
    let keys = keys();
    let secret = keys.to_secret_text();
    let again = LogKeys::parse(&secret).unwrap();
    assert_eq!(again.public(), keys.public());
    let text = keys.public().to_text();
    assert_eq!(LogPublic::parse(&text).unwrap(), *keys.public());
    assert!(text.starts_with(&format!("{ORIGIN}+")), "{text}");
    assert!(!format!("{keys:?}").contains("AQEBAQ"), "secrets are not printed");
}

#[test]
fn the_ed25519_line_is_what_other_tools_for_notes_write() {
    // The key of the specification of notes in Go: name, id and key belong together.
    let (name, key) = ("PeterNeumann", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
    let bytes = STANDARD.decode(key).unwrap();
    assert_eq!(format!("{:08x}", key_id(name, &bytes[..1], &bytes[1..])), "c74f20a3");
}

#[test]
fn keys_that_do_not_belong_together_are_refused() {
    let (ours, theirs) = (keys(), LogKeys::from_seeds("creto.local/creto-audit/other", &[1; 32], &[2; 32]).unwrap());
    let (ours, theirs) = (ours.public().to_text(), theirs.public().to_text());
    let mixed = format!("{}\n{}\n", ours.lines().next().unwrap(), theirs.lines().nth(1).unwrap());
    assert_eq!(LogPublic::parse(&mixed), Err(KeysError::Id));
    let renamed = ours.replace("node-1", "node-2");
    assert_eq!(LogPublic::parse(&renamed), Err(KeysError::Id));
    for wrong in ["", "a\n", ours.lines().next().unwrap(), &format!("{ours}\n"), &ours.replace('+', "-")] {
        assert_eq!(LogPublic::parse(wrong), Err(KeysError::Form), "{wrong}");
    }
    assert!(LogKeys::parse(&ours).is_err(), "public keys are no secret ones");
    for origin in ["", "a b", "a+b", "a\nb", &"x".repeat(513)] {
        assert!(LogKeys::from_seeds(origin, &[1; 32], &[2; 32]).is_none(), "{origin:?}");
    }
}

#[test]
fn keys_of_another_log_of_the_node_sign_nothing_of_this_one() {
    let ours = keys();
    let other = ours.of_log(&format!("{ORIGIN}/keys")).unwrap();
    assert_ne!(other.public(), ours.public());
    let note = other.sign_note(&format!("{ORIGIN}/keys\nof the other\n"));
    let verifier = |keys: &LogKeys| crate::LogVerifier::new(keys.public().clone()).unwrap();
    assert_eq!(verifier(&other).verify_text(note.as_bytes()), Ok(&*format!("{ORIGIN}/keys\nof the other\n")));
    assert_eq!(verifier(&ours).verify_text(note.as_bytes()).unwrap_err().code(), "other_origin");
    // Also where the text is changed to begin with the origin of this log: the name is part of the key's id.
    let renamed = note.replacen("/keys\n", "\n", 1);
    assert_eq!(verifier(&ours).verify_text(renamed.as_bytes()).unwrap_err().code(), "signature_missing");
    let renamed = note.replace("/keys", "");
    assert_eq!(verifier(&ours).verify_text(renamed.as_bytes()).unwrap_err().code(), "signature_missing");
}
