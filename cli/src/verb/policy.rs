//! `creto policy check|test|explain|reload`: policies in Rego, without a node and on one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use creto_rego::limits::POLICY_BYTES_MAX;
use creto_rego::{Action, Agent, CompiledPolicy, Obligations, PolicyError, PolicySource, Request, TestReport, Verdict};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::Global;
use crate::args::policy::{PolicyArgs, PolicyCheckArgs, PolicyExplainArgs, PolicyTestArgs, PolicyVerb};
use crate::exit::{Exit, Failure};
use crate::terminal::{Align, BAD, Columns, DIM, GOOD, STRONG, print_json, stdout};

const EXTENSION: &str = "rego";
/// The tests of `a.rego` are in `a_test.rego`.
const TESTS: &str = "_test";
/// Kind of an agent of which the file does not say one.
const KIND: &str = "agent";

pub(crate) use node::print_policy;

mod node;

pub(crate) fn run(global: &Global, args: &PolicyArgs) -> Result<Exit, Failure> {
    match &args.verb {
        PolicyVerb::Check(args) => check(args),
        PolicyVerb::Test(args) => test(args),
        PolicyVerb::Explain(args) => match (&args.file, &args.agents) {
            (Some(file), Some(agents)) => explain(args, file, agents),
            _ => node::explain(global, args),
        },
        PolicyVerb::Reload(args) => node::reload(global, args),
    }
}

pub(crate) fn parse_action(text: &str) -> Result<Action, String> {
    let names = || Action::ALL.map(Action::as_str).join(", ");
    Action::ALL.into_iter().find(|action| action.as_str() == text).ok_or_else(|| format!("it is one of {}", names()))
}

/// Why a policy was not used: it could not be read, or it is refused.
enum Trouble {
    File(Failure),
    Refused(PolicyError),
}

impl Trouble {
    /// As a person or a script reads it.
    fn end(self, as_json: bool) -> Result<Exit, Failure> {
        match self {
            Self::File(failure) => Err(failure),
            Self::Refused(error) if as_json => {
                print_json(&json!({ "ok": false, "problems": [problem(&error)] }))?;
                Ok(Exit::Found)
            }
            Self::Refused(error) => Err(refused(&error)),
        }
    }
}

fn refused(error: &PolicyError) -> Failure {
    let PolicyError { code, file, line, column, what, hint } = error;
    Failure::new(Exit::Found, format!("{file}:{line}:{column}: {what} ({})", code.as_str()), hint.clone())
}

fn problem(error: &PolicyError) -> Value {
    json!({
        "code": error.code.as_str(),
        "file": error.file,
        "line": error.line,
        "column": error.column,
        "message": error.what,
        "hint": error.hint,
    })
}

fn load(path: &Path) -> Result<CompiledPolicy, Trouble> {
    let text = read(path).map_err(Trouble::File)?;
    PolicySource::parse(&path.display().to_string(), &text).map_err(Trouble::Refused)
}

/// The text of a file, of which no more is read than it takes to see that it is too large.
fn read(path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let bounded = |file: std::fs::File| {
        std::io::Read::read_to_end(&mut std::io::Read::take(file, POLICY_BYTES_MAX as u64 + 1), &mut bytes)
    };
    std::fs::File::open(path).and_then(bounded).map_err(|error| Failure::file("read", path, &error))?;
    String::from_utf8(bytes).map_err(|_| {
        Failure::new(Exit::Usage, format!("{} is not UTF-8", path.display()), "a policy is a text; check the path")
    })
}

fn check(args: &PolicyCheckArgs) -> Result<Exit, Failure> {
    let policy = match load(&args.file) {
        Ok(policy) => policy,
        Err(trouble) => return trouble.end(args.json),
    };
    let version = if policy.is_v0() { "v0" } else { "v1" };
    let reads: Vec<String> = policy.reads().names().collect();
    if args.json {
        print_json(&json!({ "ok": true, "file": policy.name(), "rego": version, "reads": reads }))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    let read = if reads.is_empty() { "nothing of a request".to_owned() } else { reads.join(", ") };
    writeln!(out, "{GOOD}ok{GOOD:#}     {} {DIM}(Rego {version}){DIM:#}\nreads  {read}", policy.name())?;
    Ok(Exit::Ok)
}

/// A policy and the file of its tests, whichever of them was named.
fn pair(path: &Path) -> (PathBuf, PathBuf) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let stem = stem.strip_suffix(TESTS).unwrap_or(&stem);
    (path.with_file_name(format!("{stem}.{EXTENSION}")), path.with_file_name(format!("{stem}{TESTS}.{EXTENSION}")))
}

fn test(args: &PolicyTestArgs) -> Result<Exit, Failure> {
    let pairs: BTreeSet<_> = args.files.iter().map(|path| pair(path)).collect();
    let mut reports = Vec::new();
    for (policy, tests) in &pairs {
        match test_one(policy, tests) {
            Ok(report) => reports.push((tests, report)),
            Err(trouble) => return trouble.end(args.json),
        }
    }
    let failed: usize = reports.iter().map(|(_, report)| failures(report)).sum();
    let count: usize = reports.iter().map(|(_, report)| report.tests.len()).sum();
    let exit = if failed == 0 { Exit::Ok } else { Exit::Found };
    if args.json {
        let tests: Vec<_> = reports.iter().flat_map(|(file, report)| as_json(file, report)).collect();
        print_json(&json!({ "ok": failed == 0, "passed": count - failed, "failed": failed, "tests": tests }))?;
        return Ok(exit);
    }
    let mut out = stdout();
    let mut columns =
        Columns::new(&[("result", Align::Left), ("test", Align::Left), ("place", Align::Left), ("why", Align::Left)]);
    for (file, report) in &reports {
        for test in &report.tests {
            let result = if test.failure.is_none() { "pass" } else { "FAIL" };
            let place = format!("{}:{}", file.display(), test.line);
            columns.add([result.to_owned(), test.name.clone(), place, test.failure.clone().unwrap_or_default()]);
        }
    }
    columns.write(&mut out)?;
    let style = if failed == 0 { GOOD } else { BAD };
    writeln!(out, "\n{style}{} passed, {failed} failed{style:#}", count - failed)?;
    Ok(exit)
}

fn test_one(policy: &Path, tests: &Path) -> Result<TestReport, Trouble> {
    let policy = load(policy)?;
    if !tests.exists() {
        let what = format!("{} has no tests: there is no {}", policy.name(), tests.display());
        let next = "write that file, with rules `test_...` that are true when all is well (docs/policy.md)";
        return Err(Trouble::File(Failure::new(Exit::Found, what, next)));
    }
    let text = read(tests).map_err(Trouble::File)?;
    policy.test(&tests.display().to_string(), &text).map_err(Trouble::Refused)
}

fn failures(report: &TestReport) -> usize {
    report.tests.iter().filter(|test| test.failure.is_some()).count()
}

fn as_json(file: &Path, report: &TestReport) -> Vec<Value> {
    let row = |test: &creto_rego::TestOutcome| {
        json!({
            "test": test.name,
            "file": file.display().to_string(),
            "line": test.line,
            "pass": test.failure.is_none(),
            "failure": test.failure,
        })
    };
    report.tests.iter().map(row).collect()
}

/// What the file of agents says of one.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Known {
    nhi: Option<String>,
    organization_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    roles: Vec<String>,
    capabilities: Vec<String>,
    recent_messages: u32,
}

fn explain(args: &PolicyExplainArgs, file: &Path, agents_file: &Path) -> Result<Exit, Failure> {
    let policy = match load(file) {
        Ok(policy) => policy,
        Err(trouble) => return trouble.end(args.json),
    };
    let agents = agents(agents_file)?;
    let (sender, recent_messages) = agent(&agents, agents_file, &args.from)?;
    let recipient = args.to.as_ref().map(|to| agent(&agents, agents_file, to)).transpose()?;
    let request = Request {
        sender,
        recipient: recipient.map(|(recipient, _)| recipient),
        action: args.action,
        channel: args.channel.clone(),
        recent_messages,
    };
    let explanation = policy.explain(&request);
    let exit = if explanation.verdict.allow { Exit::Ok } else { Exit::Found };
    if args.json {
        let rules = explanation.rules.iter().map(|rule| {
            let error = rule.error.as_ref().map(ToString::to_string);
            json!({ "line": rule.line, "text": rule.text, "allow": rule.allow, "error": error })
        });
        print_json(&json!({
            "allow": explanation.verdict.allow,
            "reason": explanation.verdict.reason,
            "obligations": explanation.verdict.obligations,
            "inputs": explanation.inputs,
            "rules": rules.collect::<Vec<_>>(),
        }))?;
        return Ok(exit);
    }
    let mut out = stdout();
    print_verdict(&mut out, &explanation.verdict)?;
    for rule in &explanation.rules {
        let (style, word) = if rule.allow { (GOOD, "allows") } else { (DIM, "does not") };
        writeln!(out, "  {style}{word:<9}{style:#} {}:{}: {}", policy.name(), rule.line, rule.text)?;
        if let Some(error) = &rule.error {
            writeln!(out, "            {BAD}fails{BAD:#}: {error}")?;
        }
    }
    writeln!(out, "\n{STRONG}It saw{STRONG:#}")?;
    for (name, value) in explanation.inputs.as_object().into_iter().flatten() {
        writeln!(out, "  {name} = {value}")?;
    }
    Ok(exit)
}

fn print_verdict(out: &mut impl Write, verdict: &Verdict) -> std::io::Result<()> {
    match &verdict.reason {
        None => writeln!(out, "{GOOD}allow{GOOD:#}")?,
        Some(reason) => writeln!(out, "{BAD}deny{BAD:#}  {reason}")?,
    }
    if verdict.obligations != Obligations::default() {
        writeln!(out, "  bound to {}", json!(verdict.obligations))?;
    }
    Ok(())
}

fn agents(path: &Path) -> Result<BTreeMap<String, Known>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
    serde_json::from_str(&text).map_err(|error| {
        let next =
            "it is an object with one for each agent, such as {\"acme/planner\": {\"roles\": [\"coordinator\"]}}";
        Failure::new(Exit::Usage, format!("{}: {error}", path.display()), next)
    })
}

/// The agent of that name and its recent messages.
fn agent(agents: &BTreeMap<String, Known>, path: &Path, name: &str) -> Result<(Agent, u32), Failure> {
    let Some(known) = agents.get(name) else {
        let names: Vec<&str> = agents.keys().map(String::as_str).collect();
        let next = format!("add it, or name one of {}", names.join(", "));
        return Err(Failure::new(Exit::Usage, format!("{name} is not in {}", path.display()), next));
    };
    let organization = || name.split('/').next().unwrap_or_default().to_owned();
    let agent = Agent {
        nhi: known.nhi.clone().unwrap_or_else(|| name.to_owned()),
        name: name.to_owned(),
        organization_id: known.organization_id.clone().unwrap_or_else(organization),
        kind: known.kind.clone().unwrap_or_else(|| KIND.to_owned()),
        roles: known.roles.clone(),
        capabilities: known.capabilities.clone(),
    };
    Ok((agent, known.recent_messages))
}
