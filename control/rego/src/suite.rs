//! Tests of a policy: rules `test_...` in a file beside it, as OPA has them.

use regorus::Value;

use crate::builtins::Use;
use crate::compile::{CompiledPolicy, Parsed, add, prepare, refused};
use crate::error::{Place, PolicyError, RefusalCode};
use crate::evaluate::evaluate_rule;
use crate::facts::{self, Problem};

const PREFIX: &str = "test_";

/// How the tests of a policy went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestReport {
    /// Each test, in the order of the file.
    pub tests: Vec<TestOutcome>,
}

/// How one test went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestOutcome {
    /// The rule.
    pub name: String,
    /// Line of its file, counted from 1.
    pub line: u32,
    /// Why it failed; none when it passed.
    pub failure: Option<String>,
}

impl TestReport {
    /// Whether every test passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.tests.iter().all(|test| test.failure.is_none())
    }
}

impl CompiledPolicy {
    /// Runs the tests `text` of the file `name`: rules `test_...` that are true when they pass.
    ///
    /// They see every rule of the policy, say with `with input as` what it reads, and may define rules of their own.
    ///
    /// # Errors
    /// [`PolicyError`]: the file is refused, redefines a rule of the policy, or has no tests.
    pub fn test(&self, name: &str, text: &str) -> Result<TestReport, PolicyError> {
        let others = self.rules.keys().cloned().collect();
        let (parsed, facts) = Parsed::read(name, text, Use::Tests, &others)?;
        let refuse = |code, place, what: String, hint: &str| {
            Err(Problem { code, place, what, hint: hint.to_owned() }.in_file(name))
        };
        let line = |line: u32| line.saturating_sub(parsed.lines_before).max(1);
        if let Some((rule, defined)) = facts.rules.iter().find(|(rule, _)| self.rules.contains_key(*rule)) {
            let place = Place { line: line(defined.place.line), column: defined.place.column };
            let what = format!("`{rule}` is a rule of the policy");
            return refuse(
                RefusalCode::ReservedName,
                place,
                what,
                "call it otherwise: a test must not change the policy",
            );
        }
        let mut tests: Vec<_> = facts.rules.iter().filter(|(rule, _)| rule.starts_with(PREFIX)).collect();
        tests.sort_by_key(|(_, defined)| defined.place);
        if tests.is_empty() {
            let what = "there is no test in this file".to_owned();
            return refuse(
                RefusalCode::NoTests,
                Place::START,
                what,
                "write a rule `test_...` that is true when all is well",
            );
        }
        let module = parsed.engine.clone().get_modules().last().expect("it was loaded").clone();
        let contents = module.package.span.source.get_contents().clone();
        let mut engine = self.engine.clone();
        let loaded = add(&mut engine, &contents, parsed.is_v0).and_then(|()| prepare(&mut engine));
        loaded.map_err(|error| refused(name, &error, parsed.lines_before, &facts))?;
        let run = |(rule, defined): &(&String, &facts::Defined)| {
            let value = evaluate_rule(&mut engine.clone(), rule, parsed.lines_before);
            let failure = match value {
                Ok(Value::Bool(true)) => None,
                Ok(Value::Undefined) => Some("it does not hold".to_owned()),
                Ok(other) => Some(format!("it is {other}")),
                Err(error) => Some(error.to_string()),
            };
            TestOutcome { name: (*rule).clone(), line: line(defined.place.line), failure }
        };
        Ok(TestReport { tests: tests.iter().map(run).collect() })
    }
}
