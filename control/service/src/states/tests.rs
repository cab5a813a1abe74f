use serde_json::json;

use super::{StateChange, StateError, StateRow, StateWord};
use crate::limits::REASON_BYTES_MAX;

const NOW_MS: u64 = 5_000;

fn change(value: serde_json::Value) -> StateChange {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_row_comes_back_from_its_bytes_and_from_no_others() {
    for reason in ["", "key lost", &"x".repeat(REASON_BYTES_MAX)] {
        let row = StateRow { since_ms: 1, decided_ms: u64::MAX, reason: reason.to_owned() };
        let bytes = row.to_bytes();
        assert_eq!(StateRow::parse(&bytes), Some(row));
        for cut in 0..bytes.len() {
            assert_eq!(StateRow::parse(&bytes[..cut]), None);
        }
        for (at, wrong) in [(0, 2), (1, 1), (2, 0xee), (3, 0xff)] {
            let mut changed = bytes.clone();
            changed[at] = wrong;
            assert_eq!(StateRow::parse(&changed), None, "byte {at}");
        }
    }
    let mut no_text = StateRow { since_ms: 1, decided_ms: 2, reason: "ab".to_owned() }.to_bytes();
    no_text[20] = 0xff;
    assert_eq!(StateRow::parse(&no_text), None);
}

#[test]
fn a_revocation_counts_since_now_or_since_a_time_that_has_come() {
    let row = |value| change(value).row(NOW_MS).unwrap();
    let expect = |since_ms, reason: &str| Some(StateRow { since_ms, decided_ms: NOW_MS, reason: reason.to_owned() });
    assert_eq!(row(json!({"state": "revoked"})), expect(NOW_MS, ""));
    assert_eq!(row(json!({"state": "revoked", "since_ms": 0, "reason": "Schlüssel weg"})), expect(0, "Schlüssel weg"));
    assert_eq!(row(json!({"state": "suspended"})), expect(NOW_MS, ""));
    assert_eq!(row(json!({"state": "active"})), None);
}

#[test]
fn what_is_no_change_of_state_is_refused() {
    let refused = |value| change(value).row(NOW_MS).unwrap_err();
    assert_eq!(
        refused(json!({"state": "revoked", "since_ms": NOW_MS + 1})),
        StateError::SinceAhead { since_ms: NOW_MS + 1, now_ms: NOW_MS }
    );
    assert_eq!(refused(json!({"state": "active", "since_ms": 1})), StateError::SinceWithoutRevocation);
    assert_eq!(refused(json!({"state": "revoked", "reason": "a\nb"})), StateError::ReasonCharacter('\n'));
    assert_eq!(refused(json!({"state": "revoked", "reason": "\u{202e}b"})), StateError::ReasonCharacter('\u{202e}'));
    assert_eq!(refused(json!({"state": "revoked", "reason": "x".repeat(513)})), StateError::ReasonLong(513));
    for value in [json!({}), json!({"state": "deleted"}), json!({"state": "active", "why": ""})] {
        assert!(serde_json::from_value::<StateChange>(value).is_err());
    }
    assert_eq!(serde_json::to_value(StateWord::Revoked).unwrap(), "revoked");
}
