//! Every kind of policy that is refused: its code, its place, and what it says to do.

use creto_rego::{PolicyError, PolicySource, limits};

fn refused(text: &str) -> PolicyError {
    match PolicySource::parse("p.rego", text) {
        Ok(policy) => panic!("{policy:?} was accepted:\n{text}"),
        Err(error) => error,
    }
}

/// Code, line, column and a part of the whole error.
fn check(text: &str, code: &str, line: u32, column: u32, part: &str) {
    let error = refused(text);
    assert_eq!((error.code.as_str(), error.line, error.column), (code, line, column), "{error}\n{text}");
    let shown = error.to_string();
    assert!(shown.starts_with(&format!("p.rego:{line}:{column}: ")) && shown.contains(part), "{shown}\n{text}");
    assert!(!error.hint.is_empty() && !error.what.is_empty());
}

#[test]
fn every_refusal_has_its_code_its_place_and_what_to_do() {
    for (text, code, line, column, part) in [
        ("", "no_allow", 1, 1, "allow"),
        ("# nothing\n", "no_allow", 1, 1, "allow"),
        ("deny { true }", "no_allow", 1, 1, "allow"),
        ("\nallow[x] { x := 1 }", "no_allow", 2, 1, "true or false"),
        ("allow(x) { x }", "no_allow", 1, 1, "true or false"),
        ("allow { input.action == }", "syntax", 1, 25, "correct it"),
        ("allow {\n  input.action ==\n}\n", "syntax", 3, 1, "correct it"),
        ("package creto.messaging\n\nallow if { input.action == \"x }\n", "syntax", 3, 32, "correct it"),
        ("allow {\n  \"a\" in input.sender.roles\n}", "syntax", 1, 7, "`in` and `every` are of Rego v1"),
        ("package other\nallow { true }", "package", 1, 1, "creto.messaging"),
        ("import data.other\nallow { true }", "import", 1, 1, "import inputs"),
        ("import input.sender\nimport input.recipient as sender\nallow { true }", "import", 2, 1, "another name"),
        ("import input.sender as input\nallow { true }", "import", 1, 1, "another name"),
        ("import input.sender as recent_messages\nallow { true }", "import", 1, 1, "another name"),
        ("import input.sender as s\nallow { true }\ns { true }", "reserved_name", 3, 1, "`s`"),
        ("allow { true }\ninput { true }", "reserved_name", 2, 1, "`input`"),
        ("allow { true }\nrecent_messages[x] { x := 1 }", "reserved_name", 2, 1, "recent_messages"),
        ("allow {\n    time.now_ns() > 5\n}", "not_deterministic", 2, 5, "time.now_ns"),
        ("allow { rand.intn(\"a\", 2) == 1 }", "not_deterministic", 1, 9, "rand.intn"),
        ("allow { uuid.rfc4122(\"a\") == \"b\" }", "not_deterministic", 1, 9, "uuid"),
        ("allow { http.send({\"url\": \"http://a\"}).status_code == 200 }", "not_deterministic", 1, 9, "http.send"),
        ("allow { net.lookup_ip_addr(\"a\") }", "not_deterministic", 1, 9, "net."),
        ("allow { opa.runtime().env }", "not_deterministic", 1, 9, "opa.runtime"),
        ("allow { io.jwt.decode(\"a\") }", "not_deterministic", 1, 9, "io.jwt"),
        ("allow { trace(\"a\") }", "not_deterministic", 1, 9, "trace"),
        ("allow { print(\"a\") }", "not_deterministic", 1, 9, "print"),
        ("allow { numbers.range(1, 1000000000000)[_] == 1 }", "unknown_function", 1, 9, "numbers.range"),
        ("allow { cuont(input.sender.roles) == 1 }", "unknown_function", 1, 9, "did you mean `count`?"),
        ("allow { is_friend(input.sender.nhi) }", "unknown_function", 1, 9, "is_friend"),
        ("allow { input.sender.role == \"a\" }", "unknown_input", 1, 9, "did you mean `input.sender.roles`?"),
        ("allow { input.sendr.roles }", "unknown_input", 1, 9, "did you mean `input.sender`?"),
        ("allow { input[\"user\"] }", "unknown_input", 1, 9, "input.user"),
        ("import input.sendr\nallow { true }", "unknown_input", 1, 1, "did you mean `input.sender`?"),
        ("import input.sender as s\nallow { s.rolls[_] == \"a\" }", "unknown_input", 2, 9, "input.sender.roles"),
        ("allow { data.users[input.sender.nhi] }", "data_read", 1, 9, "no data"),
        ("allow { data[input.action].x }", "data_read", 1, 9, "no data"),
        ("allow { data.creto.messaging[input.action] }", "data_read", 1, 9, "no data"),
        ("allow { x := data\n x.creto }", "data_read", 1, 14, "no data"),
        ("allow { data.creto.messaging.alow }", "undefined_name", 1, 9, "alow"),
        ("allow { b with input as {} }\nb { true }", "with_override", 1, 11, "tests"),
        ("allow { b }\nb { allow }", "recursion", 1, 1, "depends on itself"),
        ("allow { true }\nx { y }\na { b }\nb { c }\nc { a }\ny { z }\nz { z }", "recursion", 3, 1, "`a` depends"),
        ("allow { f(3) }\nf(x) = y { y := f(x - 1) }", "recursion", 2, 1, "depends on itself"),
        ("allow { frends[input.sender.nhi] }\nfriends := {\"a\"}", "undefined_name", 1, 9, "did you mean `friends`?"),
        ("allow { count(recent_mesages[input.sender.nhi]) < 3 }", "undefined_name", 1, 15, "`recent_messages`"),
    ] {
        check(text, code, line, column, part);
    }
}

#[test]
fn nothing_hides_a_call_that_is_not_the_same_from_call_to_call() {
    for call in [
        "time.now_ns()",
        "time[\"now_ns\"]()",
        "http.send({})",
        "rand.intn(\"a\", 1)",
        "opa.runtime()",
        "uuid.parse(\"a\")",
    ] {
        for frame in [
            "allow { x := CALL\n x }",
            "allow { [1 | CALL] == [] }",
            "allow { {x | x := CALL} == {1} }",
            "allow { {\"a\": CALL} == {} }",
            "allow { {CALL: 1} == {} }",
            "allow { {k: v | k := \"a\"; v := CALL} == {} }",
            "allow { not CALL }",
            "allow { input.sender.roles[CALL] }",
            "allow { CALL[_] == 1 }",
            "allow { CALL.a.b == 1 }",
            "allow { 1 + (2 * CALL) > 1 }",
            "allow { -CALL > 1 }",
            "allow { count([CALL]) == 1 }",
            "allow { lower(upper(CALL)) == \"a\" }",
            "allow { f(1) }\nf(x) { CALL == x }",
            "allow { f(1) }\nf(CALL) { true }",
            "allow = CALL { true }",
            "allow = true { false } else = CALL { true }",
            "allow { false } else { CALL }",
            "allow { a[1] }\na[CALL] { true }",
            "allow { a.b }\na = {\"b\": CALL} { true }",
            "allow { true }\nobligations = {\"size_max\": CALL} { true }",
            "allow { true }\nunused { CALL }",
            "allow { some x in [CALL]\n x }",
            "allow { every x in [CALL] { x } }",
            "allow { every x in [1] { x == CALL } }",
            "allow { CALL in [1] }",
            "allow { 1 in CALL }",
            "allow { b with input as CALL }\nb { true }",
            "allow { {1} | {CALL} == {2} }",
            "allow { walk(CALL) }",
            "allow { CALL }\ntime := {\"now_ns\": 1}\nhttp := 1\nrand := 2",
            "import input.sender as time\nallow { CALL }",
            "import input.sender as http\nallow { CALL }",
        ] {
            for version in [
                "",
                "import future.keywords\n",
                "package creto.messaging\nimport future.keywords.in\nimport future.keywords.every\n",
            ] {
                let error = refused(&format!("{version}{}", frame.replace("CALL", call)));
                let code = error.code.as_str();
                // Another reason may stand before it in the file, and v0 without keywords has no `every`.
                assert!(
                    matches!(code, "not_deterministic" | "unknown_function" | "with_override" | "syntax"),
                    "{error}\n{frame}"
                );
                assert!(code != "syntax" || version.is_empty() || call.contains('['), "{error}\n{frame}");
            }
        }
    }
}

#[test]
fn a_function_that_is_replaced_is_refused() {
    for text in [
        "allow { count(input.sender.roles) == 1 with count as time.now_ns }",
        "allow { f(1) with f as http.send }\nf(x) { x }",
        "allow { b with data.creto.messaging.c as 1 }\nb { c }\nc := 2",
    ] {
        assert_eq!(refused(text).code.as_str(), "with_override", "{text}");
    }
}

#[test]
fn what_an_alias_or_a_variable_stands_for_is_read_whole() {
    for (text, reads) in [
        ("allow { x := input\n x.sender.roles[_] == \"a\" }", "input"),
        ("allow { x := input.sender\n x.roles[_] == \"a\" }", "input.sender"),
        ("allow { f(input.sender) }\nf(x) { x.roles[_] == \"a\" }", "input.sender"),
        ("allow { input.sender[_] == \"a\" }", "input.sender"),
        ("allow { input[k].nhi == \"a\" }", "input"),
        ("allow { some k\n input.sender[k] == input.recipient[k] }", "input.recipient, input.sender"),
        ("allow { [x | x := input.sender.roles[_]; x == input.action] }", "input.action, input.sender.roles"),
        ("import input.sender as s\nallow { s.nhi == \"a\" }", "input.sender.nhi"),
        ("import input.sender as s\nallow { t := s\n t.nhi == \"a\" }", "input.sender"),
        ("import input.recent_messages\nallow { count(recent_messages.a) == 1 }", "recent_messages, input.sender.nhi"),
        ("import input\nallow { input.sender.nhi == \"a\" }", "input.sender.nhi"),
        ("allow { input[\"sender\"][`nhi`] == \"a\" }", "input.sender.nhi"),
        ("allow { input.sender.roles[input.action] }", "input.action, input.sender.roles"),
        ("allow { true }", ""),
        ("allow { {\"a\": input.channel}.a == \"b\" }", "input.channel"),
        (
            "default allow = false\nallow { a == 1 } else { input.channel == \"a\" }\na = input.action { true }",
            "input.action, input.channel",
        ),
        ("allow { recent_messages[input.sender.nhi][_] }", "recent_messages, input.sender.nhi"),
    ] {
        let policy = PolicySource::parse("p.rego", text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(policy.reads().to_string(), reads, "{text}");
    }
}

#[test]
fn a_policy_that_is_too_large_is_refused_and_the_largest_is_not() {
    let rule = "allow { true }\n";
    let fill = |bytes: usize| format!("{rule}{}", "# and so on\n".repeat(bytes / 12 + 1))[..bytes].to_owned();
    assert!(PolicySource::parse("p.rego", &fill(limits::POLICY_BYTES_MAX)).is_ok());
    check(&fill(limits::POLICY_BYTES_MAX + 1), "too_large", 1, 1, "65537 bytes");
}

#[test]
fn an_expression_that_would_exhaust_the_stack_is_refused() {
    for unit in [" + 1", " +\n1", ".a", "[0]"] {
        let text = format!("allow {{ x := input{} }}", unit.repeat(limits::POLICY_BYTES_MAX / 2 / unit.len()));
        assert_eq!(refused(&text).code.as_str(), "too_deep", "{unit}");
    }
    let deepest = format!("allow {{ x := 1{}\n x > 1 }}", " + 1".repeat(limits::EXPRESSION_OPERATORS_MAX - 5));
    assert!(PolicySource::parse("p.rego", &deepest).is_ok());
    // What takes longest to parse, as large as it may be.
    let item = format!("{}\"{}\"{},\n", "[".repeat(6), "a".repeat(3), "]".repeat(6));
    let slow = format!("allow {{ x := [{}1] }}", item.repeat(limits::POLICY_BYTES_MAX / item.len() - 2));
    assert!(PolicySource::parse("p.rego", &slow).is_ok());
    for brackets in [("[", "]"), ("(", ")"), ("{", "}")] {
        let text = format!("allow {{ x := {}1{} }}", brackets.0.repeat(10_000), brackets.1.repeat(10_000));
        assert_eq!(refused(&text).code.as_str(), "too_deep");
    }
}

#[test]
fn rules_in_a_row_that_would_exhaust_the_stack_are_refused_and_the_longest_row_is_not() {
    // Around each mention as much as is allowed, in the form that costs most.
    let row = |rules: usize, open: &str, close: &str, nested: usize| {
        let rule =
            |n: usize| format!("r{n} = x {{ x := {}r{}{} }}\n", open.repeat(nested), n + 1, close.repeat(nested));
        let rows: String = (1..rules - 1).map(rule).collect();
        format!("allow {{ r1 }}\n{rows}r{} {{ true }}\n", rules - 1)
    };
    check(&row(limits::RULE_DEPTH_MAX + 1, "", "", 0), "too_deep", 1, 1, "16 rules");
    check(&row(2_000, "", "", 0), "too_deep", 1, 1, "in a row");
    let mut decided = 0;
    for (open, close) in [("[1 | ", "]"), ("[", "]"), ("(1 + ", ")"), ("count([", "])"), ("{1: ", "}")] {
        for nested in [7, 20] {
            let text = row(limits::RULE_DEPTH_MAX, open, close, nested);
            let Ok(policy) = PolicySource::parse("p.rego", &text) else {
                eprintln!("no {open} {nested}");
                continue;
            };
            assert!(nested == 7 || open.starts_with('('), "{open} {nested}");
            let _ = policy.decide(&request());
            decided += 1;
        }
    }
    assert!(decided >= 5, "{decided}");
}

fn request() -> creto_rego::Request {
    let sender = creto_rego::Agent::default();
    creto_rego::Request {
        sender,
        recipient: None,
        action: creto_rego::Action::Publish,
        channel: None,
        recent_messages: 0,
    }
}

#[test]
fn tests_are_refused_where_they_would_change_the_policy_or_say_nothing() {
    let policy = PolicySource::parse("p.rego", "allow { input.action == \"publish\" }").unwrap();
    for (text, code, line, column) in [
        ("", "no_tests", 1, 1),
        ("helper { true }", "no_tests", 1, 1),
        ("test_a { true }\nallow { true }", "reserved_name", 2, 1),
        ("test_a { allow with input.sendr as {} }", "unknown_input", 1, 21),
        ("test_a { allow with data.a as 1 }", "with_override", 1, 16),
        ("test_a { time.now_ns() > 1 }", "not_deterministic", 1, 10),
        ("test_a { alow with input as {} }", "undefined_name", 1, 10),
        ("test_a { ", "syntax", 1, 10),
        ("package creto.messaging_test\ntest_a { true }", "package", 1, 1),
    ] {
        let error = policy.test("p_test.rego", text).expect_err(text);
        assert_eq!((error.code.as_str(), error.line, error.column), (code, line, column), "{error}\n{text}");
        assert_eq!(error.file, "p_test.rego");
    }
}
