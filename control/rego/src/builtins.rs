//! Which builtins a policy may call. The list says what is allowed, so that a new builtin is refused until it was looked at.

/// Deterministic, and the result is not much larger than the arguments. What makes much of little (`numbers.range`,
/// `bits.lsh`, `sprintf` with a width) is left out: the clock is looked at between builtins, not inside. So is what panics
/// in this version of regorus: `object.subset` of empty arrays, `strings.count` of an empty text.
const ALLOWED: &[&str] = &[
    "abs",
    "array.reverse",
    "array.slice",
    "bits.and",
    "bits.negate",
    "bits.or",
    "bits.xor",
    "ceil",
    "contains",
    "count",
    "endswith",
    "floor",
    "indexof",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "lower",
    "max",
    "min",
    "object.get",
    "object.keys",
    "round",
    "sort",
    "split",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "strings.reverse",
    "substring",
    "sum",
    "to_number",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "union",
    "upper",
];

/// What tests may call besides: it makes inputs, on the machine of whoever wrote it.
const ALLOWED_IN_TESTS: &[&str] = &["array.concat", "concat", "numbers.range", "object.union", "sprintf"];

/// Beginnings of what differs from call to call, reaches outside or leaves a trace: only for the words of the refusal.
const NOT_DETERMINISTIC: &[&str] =
    &["time.", "rand.", "uuid.", "http.", "net.", "opa.", "io.", "providers.", "trace", "print"];

/// Where a file of policy is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It decides.
    Policy,
    /// It tests one that does.
    Tests,
}

pub(crate) fn is_allowed(name: &str, of: Use) -> bool {
    ALLOWED.contains(&name) || (of == Use::Tests && ALLOWED_IN_TESTS.contains(&name))
}

/// Whether what is wrong with it is that its answer cannot be kept.
pub(crate) fn is_not_deterministic(name: &str) -> bool {
    NOT_DETERMINISTIC.iter().any(|start| if start.ends_with('.') { name.starts_with(start) } else { name == *start })
}

pub(crate) fn names() -> &'static [&'static str] {
    ALLOWED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allowed_builtin_exists() {
        for name in ALLOWED.iter().chain(ALLOWED_IN_TESTS) {
            assert!(regorus::unstable::BUILTINS.contains_key(name), "{name}");
            assert!(!is_not_deterministic(name), "{name}");
        }
    }

    /// A panic would end the process: whatever is allowed is called here with everything that is odd.
    #[test]
    fn no_allowed_builtin_panics_whatever_it_is_given() {
        use regorus::Value;
        use regorus::unstable::{BUILTINS, Expr, Ref, Source, Span};

        let json = r#"[null, true, false, 0, 1, -1, 2, 1.5, -0.5, 1e308, -1e308, 1e-308, 9223372036854775807,
            -9223372036854775808, 18446744073709551615, 340282366920938463463374607431768211456, "", "a", "aa", "ä€", "0",
            "-1", "1e400", "0x10", " ", [], [1], [0, -1, 1.5], [""], ["a", ""], ["ä", "a", "aa"], [[], [null]], {}, {"a": 1},
            {"": {"a": []}}]"#;
        let Value::Array(items) = Value::from_json_str(json).unwrap() else { panic!("an array") };
        let mut values: Vec<Value> = items.iter().cloned().collect();
        let set = |items: &[Value]| Value::from(items.iter().cloned().collect::<std::collections::BTreeSet<_>>());
        let texts = set(&[Value::from("a"), Value::from("")]);
        values.extend([set(&[]), set(&values), texts.clone(), set(&[texts, set(&[])])]);

        let source = Source::from_contents("a".to_owned(), "a".to_owned()).unwrap();
        let span = Span { source, line: 1, col: 1, start: 0, end: 1 };
        let expr = || Ref::new(Expr::Null { span: span.clone(), value: Value::Null, eidx: 0 });
        for name in ALLOWED.iter().chain(ALLOWED_IN_TESTS).filter(|name| !name.starts_with("numbers.")) {
            let (function, arity) = BUILTINS[name];
            let params: Vec<_> = (0..arity).map(|_| expr()).collect();
            for mut number in 0..values.len().pow(arity.into()) {
                let argument = |_| {
                    let value = values[number % values.len()].clone();
                    number /= values.len();
                    value
                };
                let arguments: Vec<Value> = (0..arity).map(argument).collect();
                let call = || function(&span, &params, &arguments, true).is_ok();
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
                assert!(outcome.is_ok(), "{name} of {arguments:?}");
            }
        }
    }

    #[test]
    fn the_page_lists_every_allowed_builtin() {
        let page = include_str!("../../../docs/policy.md");
        let (_, rest) = page.split_once("<!-- builtins: begin -->").expect("the page says where the list begins");
        let (list, _) = rest.split_once("<!-- builtins: end -->").expect("the page says where the list ends");
        assert_eq!(list.split('`').skip(1).step_by(2).collect::<Vec<_>>(), ALLOWED);
    }

    #[test]
    fn nothing_that_depends_on_the_moment_is_allowed() {
        for name in [
            "time.now_ns",
            "rand.intn",
            "uuid.rfc4122",
            "http.send",
            "net.lookup_ip_addr",
            "opa.runtime",
            "io.jwt.decode",
        ] {
            assert!(
                !is_allowed(name, Use::Policy) && !is_allowed(name, Use::Tests) && is_not_deterministic(name),
                "{name}"
            );
        }
        // Their cost is in a number, not in their arguments.
        for name in [
            "object.subset",
            "strings.count",
            "numbers.range",
            "bits.lsh",
            "sprintf",
            "product",
            "json.unmarshal",
            "regex.match",
        ] {
            assert!(!is_allowed(name, Use::Policy), "{name}");
        }
    }
}
