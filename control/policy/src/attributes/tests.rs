use std::sync::Arc;

use creto_envelope::AgentState;

use super::{Attributes, AttributesError, CAPABILITIES_MAX, ROLES_MAX, TEXT_BYTES_MAX};
use crate::fixture::{agent, record};
use crate::{Policy, SnapshotBuilder};

const NONE: [&str; 0] = [];

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("text-{number}")).collect()
}

#[test]
fn roles_and_capabilities_are_sorted_and_each_is_there_once() {
    let attributes = Attributes::parse("planner", ["b", "a", "b"], ["write", "read", "write"]).unwrap();
    assert_eq!(attributes.agent_type(), "planner");
    assert_eq!(attributes.roles(), ["a", "b"]);
    assert_eq!(attributes.capabilities(), ["read", "write"]);
    assert_eq!(attributes, Attributes::parse("planner", ["a", "b"], ["read", "write"]).unwrap());
    assert_eq!(Attributes::default(), Attributes::parse("agent", NONE, NONE).unwrap());
}

#[test]
fn the_largest_set_is_taken_and_one_more_of_anything_is_refused() {
    let longest = "x".repeat(TEXT_BYTES_MAX);
    assert!(Attributes::parse(&longest, numbered(ROLES_MAX), numbered(CAPABILITIES_MAX)).is_ok());
    let twice = [numbered(ROLES_MAX), numbered(ROLES_MAX)].concat();
    assert!(Attributes::parse("a", twice, NONE).is_ok(), "what is there twice counts once");
    let many = |what, count, count_max| Err(AttributesError::Many { what, count, count_max });
    assert_eq!(Attributes::parse("a", numbered(65), NONE), many("roles", 65, 64));
    assert_eq!(Attributes::parse("a", NONE, numbered(257)), many("capabilities", 257, 256));
    let long = |what| Err(AttributesError::Long { what, bytes: 513 });
    assert_eq!(Attributes::parse(&"x".repeat(513), NONE, NONE), long("type"));
    assert_eq!(Attributes::parse("a", ["x".repeat(513)], NONE), long("role"));
    assert_eq!(Attributes::parse("a", NONE, ["x".repeat(513)]), long("capability"));
}

#[test]
fn a_text_that_only_looks_like_another_or_moves_a_cursor_is_refused() {
    for (text, character) in [
        ("\u{430}dmin", '\u{430}'), // Cyrillic
        ("admin\u{200b}", '\u{200b}'),
        ("ａdmin", 'ａ'),
        ("ad\u{301}min", '\u{301}'),
        ("\u{202e}nimda", '\u{202e}'),
        ("admin\n", '\n'),
        ("\u{1b}[2Jadmin", '\u{1b}'),
        ("admin\0", '\0'),
        ("admin ", ' '),
        (" admin", ' '),
    ] {
        let refused = |what| Err(AttributesError::Character { what, character });
        assert_eq!(Attributes::parse(text, NONE, NONE), refused("type"), "{text:?}");
        assert_eq!(Attributes::parse("a", [text], NONE), refused("role"), "{text:?}");
        assert_eq!(Attributes::parse("a", NONE, [text]), refused("capability"), "{text:?}");
    }
    assert_eq!(Attributes::parse("", NONE, NONE), Err(AttributesError::Empty("type")));
    assert_eq!(Attributes::parse("a", [""], NONE), Err(AttributesError::Empty("role")));
    assert!(Attributes::parse("on call", ["team:eu/ops"], ["http.get *"]).is_ok());
}

#[test]
fn whatever_differs_between_two_sets_is_in_the_digest() {
    let set = |agent_type, roles: &[&str], capabilities: &[&str]| {
        Attributes::parse(agent_type, roles.iter().copied(), capabilities.iter().copied()).unwrap()
    };
    let sets = [
        set("a", &[], &[]),
        set("b", &[], &[]),
        set("a", &["a"], &[]),
        set("a", &[], &["a"]),
        set("a", &["a", "b"], &[]),
        set("a", &["ab"], &[]),
        set("a", &["a"], &["b"]),
        set("a", &["abcdefgh", "i"], &[]),
        set("a", &["abcdefghi"], &[]),
    ];
    for (at, one) in sets.iter().enumerate() {
        for other in &sets[at + 1..] {
            assert_ne!(one.digest(), other.digest(), "{one:?} and {other:?}");
        }
    }
    assert_eq!(set("a", &["a", "b"], &[]).digest(), set("a", &["b", "a"], &[]).digest());
}

#[test]
fn a_change_of_attributes_is_in_the_next_snapshot_and_in_its_stamp() {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let id = builder.insert(AgentState::Active, vec![record("acme/a", 1, 0..10)]).unwrap();
    let before = builder.build(1);
    assert_eq!(**before.principal(&id).unwrap().attributes(), Attributes::default());

    let set = Arc::new(Attributes::parse("planner", ["coordinator"], ["plan"]).unwrap());
    assert!(builder.set_attributes(&id, Arc::clone(&set)));
    assert!(!builder.set_attributes(&agent("acme/nobody"), Arc::clone(&set)));
    let after = builder.build(1);
    assert_ne!(before.stamp(), after.stamp(), "under one epoch too");
    assert_eq!(*after.principal(&id).unwrap().attributes(), set);
    assert_eq!(**before.principal(&id).unwrap().attributes(), Attributes::default());

    // A new key, and the agent inserted anew, leave them as they are.
    builder.insert(AgentState::Active, vec![record("acme/a", 2, 0..10)]).unwrap();
    assert_eq!(*builder.principal(&id).unwrap().attributes(), set);
    builder.insert(AgentState::Active, vec![record("acme/a", 1, 0..10)]).unwrap();
    assert!(builder.set_attributes(&id, Arc::default()));
    assert_eq!(before.stamp(), builder.build(1).stamp());
}

#[test]
fn agents_with_equal_attributes_share_them() {
    let mut builder = SnapshotBuilder::new();
    let insert = |builder: &mut SnapshotBuilder, name: &str| {
        builder.insert(AgentState::Active, vec![record(name, 1, 0..10)]).unwrap()
    };
    let agents = ["acme/a", "acme/b", "other/c"].map(|name| insert(&mut builder, name));
    let shared = |builder: &SnapshotBuilder| {
        let of = |id| Arc::as_ptr(builder.principal(id).unwrap().attributes());
        of(&agents[0]) == of(&agents[1]) && of(&agents[1]) == of(&agents[2])
    };
    assert!(shared(&builder), "of whom nothing is set, too");
    for id in &agents {
        builder.set_attributes(id, Arc::new(Attributes::parse("worker", ["reader"], NONE).unwrap()));
    }
    assert!(shared(&builder));
}
