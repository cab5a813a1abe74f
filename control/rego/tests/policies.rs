//! Policies as people write them: the documented examples, both versions of Rego, and what a verdict is made of.

use creto_rego::{Action, Agent, CompiledPolicy, EvaluationError, Obligations, PolicySource, PriorityName, Request};
use creto_rego::{Verdict, limits};

/// The examples of the product's documents, each as it stands there.
const SAME_ORGANIZATION: &str = include_str!("examples/same_organization.rego");
const RATE_LIMITING: &str = include_str!("examples/rate_limiting.rego");
const ROLE_BASED: &str = include_str!("examples/role_based.rego");

fn agent(name: &str) -> Agent {
    let organization = name.split('/').next().unwrap_or_default();
    Agent {
        nhi: format!("nhi:{name}"),
        name: name.to_owned(),
        organization_id: organization.to_owned(),
        kind: "assistant".to_owned(),
        ..Agent::default()
    }
}

fn request(from: &str, to: &str) -> Request {
    Request {
        sender: agent(from),
        recipient: Some(agent(to)),
        action: Action::SendMessage,
        channel: None,
        recent_messages: 0,
    }
}

fn policy(text: &str) -> CompiledPolicy {
    PolicySource::parse("a.rego", text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn allows(text: &str, request: &Request) -> bool {
    policy(text).evaluate(request).unwrap_or_else(|error| panic!("{error}\n{text}")).allow
}

#[test]
fn the_documented_example_of_one_organization_runs_as_written() {
    assert!(allows(SAME_ORGANIZATION, &request("acme/a", "acme/b")));
    assert!(!allows(SAME_ORGANIZATION, &request("acme/a", "other/b")));
    let mut nobody = request("acme/a", "acme/b");
    nobody.recipient = None;
    assert!(!allows(SAME_ORGANIZATION, &nobody), "nothing equals what is not there");
}

#[test]
fn the_documented_example_of_a_rate_runs_as_written() {
    let mut request = request("acme/a", "acme/b");
    for (recent_messages, allow) in [(0, true), (999, true), (1000, false), (limits::RECENT_MESSAGES_MAX, false)] {
        request.recent_messages = recent_messages;
        assert_eq!(allows(RATE_LIMITING, &request), allow, "{recent_messages}");
    }
    request.recent_messages += 1;
    assert_eq!(policy(RATE_LIMITING).evaluate(&request), Err(EvaluationError::TooMuch("recent messages")));
    assert!(allows(SAME_ORGANIZATION, &request), "whoever does not count them does not care");
}

#[test]
fn the_documented_example_of_a_role_runs_as_written() {
    let mut request = request("acme/a", "acme/b");
    assert!(!allows(ROLE_BASED, &request));
    request.sender.roles = vec!["worker".to_owned(), "coordinator".to_owned()];
    assert!(allows(ROLE_BASED, &request));
    request.action = Action::Publish;
    assert!(!allows(ROLE_BASED, &request));
}

#[test]
fn the_documented_examples_run_in_one_file() {
    let policy = policy(&format!("{SAME_ORGANIZATION}\n{RATE_LIMITING}\n{ROLE_BASED}"));
    assert!(policy.is_v0());
    assert_eq!(
        policy.reads().to_string(),
        "input.action, recent_messages, input.recipient.organization_id, input.sender.nhi, input.sender.organization_id, \
         input.sender.roles"
    );
    let mut request = request("acme/a", "other/b");
    assert!(policy.decide(&request).allow);
    request.recent_messages = 5_000;
    let denied = policy.decide(&request);
    assert_eq!((denied.allow, denied.reason.as_deref()), (false, Some("no rule `allow` holds")));
    let explanation = policy.explain(&request);
    let lines: Vec<_> = explanation.rules.iter().map(|rule| (rule.line, rule.allow)).collect();
    assert_eq!(lines, [(2, false), (7, false), (12, false)]);
    request.sender.roles = vec!["coordinator".to_owned()];
    let explanation = policy.explain(&request);
    let allowed: Vec<_> = explanation.rules.iter().filter(|rule| rule.allow).map(|rule| rule.line).collect();
    assert_eq!((explanation.verdict.allow, allowed), (true, vec![12]));
    assert_eq!(explanation.inputs["recent_messages"], 5_000);
    let failing = PolicySource::parse("a.rego", "allow { true }\nallow { not startswith(input.sender.roles, \"x\") }")
        .unwrap()
        .explain(&request);
    assert!(!failing.verdict.allow && failing.rules[0].allow && failing.rules[1].error.is_some(), "{failing:?}");
}

#[test]
fn rego_v1_runs_with_and_without_its_package() {
    let rule =
        "default allow := false\n\nallow if {\n    some role in input.sender.roles\n    role == \"coordinator\"\n}\n";
    for text in [
        format!("package creto.messaging\n\n{rule}"),
        format!("package creto.messaging\n\nimport rego.v1\n\n{rule}"),
        rule.to_owned(),
    ] {
        assert!(!policy(&text).is_v0(), "{text}");
        let mut request = request("acme/a", "other/b");
        let verdict = policy(&text).decide(&request);
        assert_eq!((verdict.allow, verdict.reason.as_deref()), (false, Some("`allow` is false")));
        request.sender.roles = vec!["coordinator".to_owned()];
        assert!(allows(&text, &request), "{text}");
    }
}

#[test]
fn functions_imports_and_helping_rules_work() {
    let text = "package creto.messaging

import input.sender as from

trusted := {\"acme\", \"initech\"}

can(capability) if capability in from.capabilities

allow if {
    from.organization_id in trusted
    can(\"plan\")
    every role in from.roles { startswith(role, \"r\") }
}
";
    let mut request = request("acme/a", "other/b");
    assert!(!allows(text, &request));
    request.sender.capabilities = vec!["plan".to_owned()];
    assert!(allows(text, &request));
    request.sender.roles = vec!["x".to_owned()];
    assert!(!allows(text, &request));
    let reads = policy(text).reads().to_string();
    assert_eq!(reads, "input.sender.capabilities, input.sender.organization_id, input.sender.roles");
}

#[test]
fn recent_messages_are_the_senders_alone_under_each_of_their_names() {
    for read in ["recent_messages", "input.recent_messages", "data.creto.messaging.recent_messages"] {
        let text = format!("allow {{ count({read}[input.sender.nhi]) == 3 }}");
        let mut request = request("acme/a", "acme/b");
        request.recent_messages = 3;
        assert!(allows(&text, &request), "{read}");
        assert!(!allows(&text.replace("sender.nhi", "recipient.nhi"), &request), "{read}");
        assert!(policy(&text).reads().has_recent_messages(), "{read}");
    }
}

#[test]
fn obligations_come_with_a_yes() {
    let text = "package creto.messaging

allow if input.sender.organization_id == \"acme\"

obligations := {\"messages_per_s\": 5, \"size_max\": 65536, \"priorities\": {\"normal\", \"low\"}}
";
    let wanted = Obligations {
        messages_per_s: Some(5),
        bytes_per_s: None,
        size_max: Some(65536),
        priorities: Some(vec![PriorityName::Low, PriorityName::Normal]),
    };
    assert_eq!(policy(text).decide(&request("acme/a", "b/b")).obligations, wanted);
    let denied = policy(text).decide(&request("other/a", "b/b"));
    assert_eq!((denied.allow, denied.obligations), (false, Obligations::default()));
}

#[test]
fn obligations_that_hold_for_some_are_none_for_the_others() {
    let text = "allow { true }\nobligations = {\"bytes_per_s\": 9} { input.sender.type == \"guest\" }\n";
    let mut request = request("acme/a", "b/b");
    assert_eq!(policy(text).decide(&request).obligations, Obligations::default());
    request.sender.kind = "guest".to_owned();
    assert_eq!(policy(text).decide(&request).obligations.bytes_per_s, Some(9));
}

#[test]
fn whatever_is_not_a_clear_yes_is_a_no() {
    for (text, reason) in [
        ("allow { false }", "no rule `allow` holds"),
        ("allow = false { true }", "`allow` is false"),
        ("allow = \"yes\" { true }", "`allow` is a text"),
        ("allow = 1 { true }", "`allow` is a number"),
        ("allow = [true] { true }", "`allow` is an array"),
        ("allow { input.recipient.roles[9] == \"x\" }", "no rule `allow` holds"),
        (
            "allow = true { input.action == \"send_message\" }\nallow = false { input.sender.type == \"assistant\" }",
            "rule",
        ),
        // Undefined would let it through.
        ("allow { not startswith(input.sender.roles, \"x\") }", "startswith"),
        ("allow { true }\nobligations = {\"messages_per_second\": 1} { true }", "unknown field `messages_per_second`"),
        ("allow { true }\nobligations = {\"size_max\": -1} { true }", "invalid value"),
        ("allow { true }\nobligations = {\"priorities\": [\"urgent\"]} { true }", "unknown variant `urgent`"),
        ("allow { true }\nobligations = 5 { true }", "obligations"),
    ] {
        let Verdict { allow, reason: why, obligations } = policy(text).decide(&request("acme/a", "other/b"));
        assert!(!allow, "{text}");
        assert!(why.as_ref().is_some_and(|why| why.contains(reason)), "{text}: {why:?}");
        assert_eq!(obligations, Obligations::default());
    }
}

#[test]
fn a_request_that_is_too_large_is_a_no() {
    let whole = request("acme/a", "acme/b");
    assert!(allows("allow { true }", &whole));
    let mut roles = whole.clone();
    roles.sender.roles = vec!["r".to_owned(); limits::ROLES_MAX + 1];
    let mut capabilities = whole.clone();
    capabilities.recipient.as_mut().unwrap().capabilities = vec!["c".to_owned(); limits::CAPABILITIES_MAX + 1];
    let mut text = whole.clone();
    text.sender.name = "n".repeat(limits::TEXT_BYTES_MAX + 1);
    let mut channel = whole;
    channel.channel = Some("n".repeat(limits::TEXT_BYTES_MAX + 1));
    for request in [roles, capabilities, text, channel] {
        let verdict = policy("allow { true }").evaluate(&request);
        assert!(matches!(verdict, Err(EvaluationError::TooMuch(_))), "{verdict:?}");
    }
}

#[test]
fn an_evaluation_that_does_not_end_is_ended() {
    // 64 to the power of 9 steps, were it let.
    let text =
        format!("allow {{\n  a := input.sender.roles\n{}  a[_] == \"never\"\n}}\n", "  a[_] == a[_]\n".repeat(4));
    let mut request = request("acme/a", "acme/b");
    request.sender.roles = vec!["same".to_owned(); limits::ROLES_MAX];
    assert_eq!(policy(&text).evaluate(&request), Err(EvaluationError::TooLong));
}

#[test]
fn what_doubles_with_every_statement_is_ended_before_it_is_large() {
    let squares: String = (1..60).map(|n| format!("  x{n} := x{} * x{}\n", n - 1, n - 1)).collect();
    let text = format!("allow {{\n  x0 := 123456789 + count(input.sender.roles)\n{squares}  x59 > 0\n}}\n");
    let verdict = policy(&text).evaluate(&request("acme/a", "acme/b"));
    assert!(verdict.is_err(), "{verdict:?}");
}

#[test]
fn no_operator_panics_whatever_it_is_given() {
    let values = [
        "0",
        "-1",
        "1.5",
        "1e308",
        "-1e308",
        "1e-308",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551616",
        "340282366920938463463374607431768211456",
        "\"a\"",
        "[]",
        "{}",
        "{1}",
        "null",
        "true",
    ];
    let request = request("acme/a", "acme/b");
    for a in values {
        for operator in ["+", "-", "*", "/", "%", "|", "&", "==", "<", "in"] {
            for b in values {
                let rule = format!("allow {{ x := {a}\n y := {b}\n x {operator} y }}\n");
                let text = format!("import future.keywords.in\n{rule}");
                let _ = policy(&text).decide(&request);
            }
        }
        for text in [
            format!("allow {{ x := {a}\n -x }}"),
            format!("allow {{ x := {a}\n x[x] }}"),
            format!("allow {{ x := {a}\n input[x] }}"),
        ] {
            if let Ok(policy) = PolicySource::parse("p.rego", &text) {
                let _ = policy.decide(&request);
            }
        }
    }
}

#[test]
fn a_policy_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>(_: &T) {}
    shared(&policy("allow { true }"));
}

#[test]
fn tests_of_a_policy_pass_and_fail() {
    let policy = policy(RATE_LIMITING);
    let tests = "test_few { allow with input as {\"sender\": {\"nhi\": \"a\"}, \"recent_messages\": {\"a\": [1, 2]}} }
test_many {
    many := numbers.range(1, 1000)
    not allow with input as {\"sender\": {\"nhi\": \"a\"}, \"recent_messages\": {\"a\": many}}
}
test_wrong { allow with input as {\"sender\": {\"nhi\": \"b\"}, \"recent_messages\": {\"a\": []}} }
test_false = false { true }
";
    let report = policy.test("a_test.rego", tests).unwrap();
    let outcomes: Vec<_> =
        report.tests.iter().map(|test| (test.name.as_str(), test.line, test.failure.as_deref())).collect();
    let wanted = [
        ("test_few", 1, None),
        ("test_many", 2, None),
        ("test_wrong", 6, Some("it does not hold")),
        ("test_false", 7, Some("it is false")),
    ];
    assert_eq!(outcomes, wanted);
    assert!(!report.passed());
}

#[test]
fn tests_in_rego_v1_see_a_policy_in_v0_and_each_its_own_input() {
    let tests = "package creto.messaging

coordinator := {\"sender\": {\"roles\": [\"coordinator\"]}, \"action\": \"send_message\"}

test_coordinator if allow with input as coordinator

test_others if not allow with input as coordinator with input.sender.roles as [\"worker\"]
";
    let report = policy(ROLE_BASED).test("a_test.rego", tests).unwrap();
    assert!(report.passed() && report.tests.len() == 2, "{report:?}");
}
