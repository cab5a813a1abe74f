use creto_policy::Attributes;
use creto_policy::attributes::{CAPABILITIES_MAX, ROLES_MAX, TEXT_BYTES_MAX};
use serde_json::json;

use super::{AttributesChange, parse_row, row_bytes};

const NONE: [&str; 0] = [];

fn largest() -> Attributes {
    let texts = |count: usize| (0..count).map(|number| format!("{number:0>TEXT_BYTES_MAX$}")).collect::<Vec<_>>();
    Attributes::parse(&"t".repeat(TEXT_BYTES_MAX), texts(ROLES_MAX), texts(CAPABILITIES_MAX)).unwrap()
}

#[test]
fn attributes_come_back_from_their_bytes_and_from_no_others() {
    let some = Attributes::parse("planner", ["a", "coordinator"], ["plan"]).unwrap();
    for attributes in [Attributes::default(), some.clone(), largest()] {
        assert_eq!(parse_row(&row_bytes(&attributes)), Some(attributes));
    }
    let bytes = row_bytes(&some);
    for cut in 0..bytes.len() {
        assert_eq!(parse_row(&bytes[..cut]), None, "cut at {cut}");
    }
    assert_eq!(parse_row(&[&bytes[..], &[0]].concat()), None);
    // Format, zeros, both counts, a length, a text that is none, and one that sorts behind the next.
    for (at, wrong) in
        [(0, 2), (1, 1), (2, 1), (2, 65), (3, 1), (4, 2), (5, 1), (6, 1), (8, 8), (10, b'\n'), (19, b'd')]
    {
        let mut changed = bytes.clone();
        changed[at] = wrong;
        assert_eq!(parse_row(&changed), None, "byte {at}");
    }
}

#[test]
fn what_is_left_out_stays_what_is_given_replaces_and_null_takes_back() {
    let before = Attributes::parse("planner", ["a", "b"], ["plan"]).unwrap();
    let after = |change: serde_json::Value| {
        let change: AttributesChange = serde_json::from_value(change).unwrap();
        assert_eq!(serde_json::from_value::<AttributesChange>(json!(change)).unwrap(), change);
        change.applied_to(&before).unwrap()
    };
    let expect = |agent_type, roles: &[&str], capabilities: &[&str]| {
        Attributes::parse(agent_type, roles.iter().copied(), capabilities.iter().copied()).unwrap()
    };
    assert_eq!(after(json!({})), before);
    assert_eq!(after(json!({"roles": ["c"]})), expect("planner", &["c"], &["plan"]));
    assert_eq!(after(json!({"type": "worker", "capabilities": []})), expect("worker", &["a", "b"], &[]));
    assert_eq!(after(json!({"type": null, "roles": null, "capabilities": null})), expect("agent", &[], &[]));
}

#[test]
fn what_is_no_attribute_is_refused() {
    let refused = |change: serde_json::Value| {
        let change: AttributesChange = serde_json::from_value(change).unwrap();
        change.applied_to(&Attributes::parse("agent", NONE, NONE).unwrap()).unwrap_err().to_string()
    };
    assert_eq!(refused(json!({"type": ""})), "a type is empty; give it at least one character");
    assert!(refused(json!({"roles": ["\u{430}dmin"]})).contains("plain ASCII"));
    assert!(serde_json::from_value::<AttributesChange>(json!({"role": ["a"]})).is_err(), "a name that is none");
}
