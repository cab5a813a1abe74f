//! Every policy in `docs/policy.md` is accepted, and its tests pass on the examples.

use creto_rego::PolicySource;

const PAGE: &str = include_str!("../../../docs/policy.md");

fn blocks(language: &str) -> Vec<&'static str> {
    let start = format!("```{language}\n");
    PAGE.split(start.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

#[test]
fn every_documented_policy_is_accepted_and_the_documented_tests_pass() {
    let policies = blocks("rego");
    let [tests] = blocks("rego-test")[..] else { panic!("one block of tests") };
    assert_eq!(policies.len(), 3);
    for (number, text) in policies.into_iter().enumerate() {
        let policy = PolicySource::parse("p.rego", text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        if number < 2 {
            let report = policy.test("p_test.rego", tests).unwrap_or_else(|error| panic!("{error}"));
            assert!(report.passed() && report.tests.len() == 3, "{report:?}");
        }
    }
}
