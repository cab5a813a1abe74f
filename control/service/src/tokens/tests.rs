use creto_envelope::AgentName;
use serde_json::json;

use super::{TokenError, TokenRow, TokenWanted};

const NOW_MS: u64 = 5_000;

fn wanted(value: serde_json::Value) -> Result<TokenRow, TokenError> {
    serde_json::from_value::<TokenWanted>(value).unwrap().row(NOW_MS)
}

#[test]
fn no_two_tokens_are_one() {
    assert_ne!(super::generate().unwrap().hash(), super::generate().unwrap().hash());
}

#[test]
fn a_row_comes_back_from_its_bytes_and_from_no_others() {
    for scope in ["acme", "acme/planner"] {
        let row = TokenRow { scope: scope.to_owned(), uses_left: 2, uses: 3, created_ms: 1, expires_ms: u64::MAX };
        let bytes = row.to_bytes();
        assert_eq!(TokenRow::parse(&bytes), Some(row));
        for cut in 0..bytes.len() {
            assert_eq!(TokenRow::parse(&bytes[..cut]), None);
        }
        for (at, wrong) in [(0, 2), (1, 1), (2, 1), (3, 1), (4, 4), (28, b'A'), (29, b'\n')] {
            let mut changed = bytes.clone();
            changed[at] = wrong;
            assert_eq!(TokenRow::parse(&changed), None, "byte {at}");
        }
    }
}

#[test]
fn a_token_covers_its_organization_or_its_name_and_nothing_that_begins_like_it() {
    let row = |scope: &str| TokenRow { scope: scope.to_owned(), uses_left: 1, uses: 1, created_ms: 0, expires_ms: 1 };
    let covers = |scope: &str, name: &str| row(scope).covers(&AgentName::parse(name).unwrap());
    assert!(covers("acme", "acme/planner") && covers("acme/planner", "acme/planner"));
    for (scope, name) in
        [("acme", "acmes/planner"), ("acm", "acme/planner"), ("acme/planner", "acme/planner-7"), ("acme/p", "acme/q")]
    {
        assert!(!covers(scope, name), "{scope} {name}");
    }
}

#[test]
fn what_cannot_be_a_token_is_refused() {
    let row = wanted(json!({"organization": "acme", "expires_in_s": 3600, "uses": 5})).unwrap();
    assert_eq!((row.scope.as_str(), row.uses_left, row.expires_ms), ("acme", 5, NOW_MS + 3_600_000));
    let one = wanted(json!({"organization": "acme", "name": "acme/a", "expires_in_s": 60, "uses": 1})).unwrap();
    assert_eq!(one.scope, "acme/a");
    for organization in ["", "Acme", "acme/a", "\u{430}cme"] {
        let refused = wanted(json!({"organization": organization, "expires_in_s": 3600, "uses": 1}));
        assert_eq!(refused, Err(TokenError::Organization(organization.to_owned())));
    }
    for name in ["other/a", "acme", "acme/", "acme/\u{430}"] {
        let refused = wanted(json!({"organization": "acme", "name": name, "expires_in_s": 3600, "uses": 1}));
        assert!(matches!(refused, Err(TokenError::Name { .. })), "{name}");
    }
    for seconds in [0, 59, 8_000_000, u64::MAX] {
        let refused = wanted(json!({"organization": "acme", "expires_in_s": seconds, "uses": 1}));
        assert_eq!(refused, Err(TokenError::Expiry(seconds)));
    }
    for (name, uses) in [(None, 0), (None, 100_000), (Some("acme/a"), 2)] {
        let refused = wanted(json!({"organization": "acme", "name": name, "expires_in_s": 3600, "uses": uses}));
        assert_eq!(refused, Err(TokenError::Uses(uses)));
    }
}
