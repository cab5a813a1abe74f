//! Whatever stands in a file, it is refused or it decides: nothing panics, and every refusal has a place in the file.

use creto_rego::{Action, Agent, PolicySource, Request};
use proptest::prelude::*;
use proptest::sample::select;

const WORDS: &[&str] = &[
    "allow",
    "allow",
    "{",
    "}",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "input",
    ".sender",
    ".roles",
    "[_]",
    "==",
    ":=",
    "=",
    "\"a\"",
    "1",
    "-",
    "1e9",
    "not",
    "some",
    "x",
    "y",
    "in",
    "every",
    "if",
    "else",
    "default",
    "with",
    "as",
    "import",
    "package",
    "creto",
    ".messaging",
    "\n",
    "\n",
    ";",
    ",",
    "|",
    "&",
    "count",
    "recent_messages",
    "`r`",
    "#",
    "true",
    "data",
    "é",
    "contains",
    ":",
    "\"",
    "\t",
    "null",
    "rego.v1",
    "future.keywords",
    "set()",
    "obligations",
];

fn request() -> Request {
    let sender = Agent { roles: vec!["a".to_owned()], ..Agent::default() };
    Request { sender, recipient: None, action: Action::Publish, channel: None, recent_messages: 1 }
}

fn look_at(text: &str) {
    match PolicySource::parse("p.rego", text) {
        Ok(policy) => {
            let _ = policy.explain(&request());
            let _ = policy.test("p_test.rego", text);
        }
        Err(error) => {
            let lines = u32::try_from(text.split('\n').count()).expect("short");
            assert!((1..=lines + 1).contains(&error.line) && error.column > 0, "{error}\n{text}");
            assert!(!error.what.is_empty() && !error.hint.is_empty(), "{error}");
        }
    }
}

/// A policy of each version that uses most of what there is.
const WHOLE: &str = "import input.sender as s

default allow = false

allow = x { x := s.roles[_] == \"a\" } else = false { input.action == \"publish\" }

f(a, b) = c { c := {k: v | v := a[k]; not b[v]} }

names[n] { n := [s.name, \"é\"][_] }

obligations = {\"size_max\": 1 + (2 * 3)} { count(recent_messages[s.nhi]) < 5; f(s, {}) }
";

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn words_in_any_order_are_refused_or_decide(words in prop::collection::vec(select(WORDS), 0..40)) {
        look_at(&words.join(" "));
        look_at(&words.concat());
    }

    #[test]
    fn a_policy_with_words_lost_or_put_in_is_refused_or_decides(
        at in 0..WHOLE.chars().count(), lost in 0_usize..8, word in select(WORDS),
    ) {
        let mut chars: Vec<char> = WHOLE.chars().collect();
        let end = (at + lost).min(chars.len());
        chars.splice(at..end, word.chars());
        look_at(&chars.into_iter().collect::<String>());
    }
}

#[test]
fn the_policy_that_is_taken_apart_is_whole() {
    PolicySource::parse("p.rego", WHOLE).unwrap();
}
