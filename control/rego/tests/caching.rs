//! The argument for keeping decisions: a verdict depends on the request by nothing but the inputs that are read.

use creto_rego::{Action, Agent, CompiledPolicy, EvaluationError, PolicySource, Request, Verdict};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const POLICIES: &[&str] = &[
    "allow { input.sender.organization_id == input.recipient.organization_id }",
    "allow { count(recent_messages[input.sender.nhi]) < 3 }",
    "allow { input.sender.roles[_] == \"coordinator\"\n input.action == \"send_message\" }",
    "allow { x := input\n x.sender.type == x.recipient.type }",
    "import input.sender as s\nallow { not s.roles[0] }\nobligations = {\"size_max\": count(s.capabilities)} { s.type == \"a\" }",
    "allow { some k\n input.sender[k] == input.recipient[k]\n not input.channel }",
    "allow { f(input.sender, input.recipient) }\nf(a, b) { count({r | r := a.roles[_]} & {r | r := b.roles[_]}) > 0 }",
    "package creto.messaging\n\nallow if { every r in input.sender.roles { r in input.recipient.roles } }",
    "allow { input[\"action\"] == \"publish\" } else = false { input.channel == \"a\" }",
    "allow { startswith(input.channel, input.sender.name) }\nallow { recent_messages[\"a\"][1] == null }",
    "package creto.messaging\n\ndefault allow := false\n\nallow if { data.creto.messaging.known[input.recipient.nhi] }\n\nknown contains n if { n := input.sender.nhi }",
];

fn text() -> impl Strategy<Value = String> {
    select(vec!["", "a", "b"]).prop_map(str::to_owned)
}

fn agent() -> impl Strategy<Value = Agent> {
    let list = || subsequence(vec!["a", "b", "coordinator"], 0..=3);
    let list = move || list().prop_map(|items| items.into_iter().map(str::to_owned).collect::<Vec<_>>());
    (text(), text(), text(), text(), list(), list()).prop_map(
        |(nhi, name, organization_id, kind, roles, capabilities)| Agent {
            nhi,
            name,
            organization_id,
            kind,
            roles,
            capabilities,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let channel = proptest::option::of(text());
    (agent(), proptest::option::weighted(0.8, agent()), select(Action::ALL.to_vec()), channel, 0_u32..5).prop_map(
        |(sender, recipient, action, channel, recent_messages)| Request {
            sender,
            recipient,
            action,
            channel,
            recent_messages,
        },
    )
}

fn policies() -> Vec<CompiledPolicy> {
    let parse = |text: &&str| PolicySource::parse("p.rego", text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    POLICIES.iter().map(parse).collect()
}

/// `to` wherever `policy` does not read, `request` wherever it does.
fn change_unread(policy: &CompiledPolicy, request: &Request, to: &Request) -> Request {
    let reads = |path: &[&str]| policy.reads().reads(path);
    let agent = |which: &str, kept: &Agent, to: &Agent| Agent {
        nhi: if reads(&[which, "nhi"]) { &kept.nhi } else { &to.nhi }.clone(),
        name: if reads(&[which, "name"]) { &kept.name } else { &to.name }.clone(),
        organization_id: if reads(&[which, "organization_id"]) { &kept.organization_id } else { &to.organization_id }
            .clone(),
        kind: if reads(&[which, "type"]) { &kept.kind } else { &to.kind }.clone(),
        roles: if reads(&[which, "roles"]) { &kept.roles } else { &to.roles }.clone(),
        capabilities: if reads(&[which, "capabilities"]) { &kept.capabilities } else { &to.capabilities }.clone(),
    };
    let reads_of_recipient = policy.reads().names().any(|name| name == "input" || name.starts_with("input.recipient"));
    Request {
        sender: agent("sender", &request.sender, &to.sender),
        recipient: match (&request.recipient, &to.recipient) {
            (Some(kept), Some(to)) => Some(agent("recipient", kept, to)),
            (kept, _) if reads_of_recipient => kept.clone(),
            (_, to) => to.clone(),
        },
        action: if reads(&["action"]) { request.action } else { to.action },
        channel: if reads(&["channel"]) { request.channel.clone() } else { to.channel.clone() },
        recent_messages: if reads(&["recent_messages"]) { request.recent_messages } else { to.recent_messages },
    }
}

/// The verdict. On a machine that stands still an evaluation runs out of time, which says nothing about the policy.
fn decide(policy: &CompiledPolicy, request: &Request) -> Verdict {
    let ended = |_| match policy.evaluate(request) {
        Err(EvaluationError::TooLong) => None,
        other => Some(other.unwrap_or_else(Verdict::from)),
    };
    (0..100).find_map(ended).expect("one of a hundred evaluations has its time")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_gets_the_same_verdict_twice_and_whatever_is_not_read_may_change(a in request(), b in request()) {
        for policy in POLICIES_ONCE.with(Clone::clone).iter() {
            let verdict = decide(policy, &a);
            prop_assert_eq!(&verdict, &decide(policy, &a));
            let changed = change_unread(policy, &a, &b);
            prop_assert_eq!(policy.inputs_read(&a), policy.inputs_read(&changed));
            prop_assert_eq!(&verdict, &decide(policy, &changed), "{}\n{:?}", policy.reads(), changed);
            // Any two that look the same to the policy.
            if policy.inputs_read(&a) == policy.inputs_read(&b) {
                prop_assert_eq!(&verdict, &decide(policy, &b));
            }
        }
    }
}

thread_local! {
    static POLICIES_ONCE: std::rc::Rc<Vec<CompiledPolicy>> = std::rc::Rc::new(policies());
}

/// A policy that always answers the same would show nothing.
#[test]
fn every_policy_of_these_says_yes_and_no() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let requests: Vec<_> = (0..300).map(|_| request().new_tree(&mut runner).unwrap().current()).collect();
    for (policy, text) in policies().iter().zip(POLICIES) {
        let yes = requests.iter().filter(|request| decide(policy, request).allow).count();
        assert!((1..requests.len()).contains(&yes), "{yes} of {}: {text}", requests.len());
    }
}
