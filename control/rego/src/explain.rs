//! Why a request is allowed or not: each rule `allow` by itself.

use regorus::unstable::Rule;

use crate::compile::{ALLOW, CompiledPolicy, PolicySource};
use crate::error::EvaluationError;
use crate::evaluate::Verdict;
use crate::facts;
use crate::request::Request;

/// A verdict and what led to it.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What the policy says.
    pub verdict: Verdict,
    /// What it saw of the request.
    pub inputs: serde_json::Value,
    /// Each rule `allow`, in the order of the file.
    pub rules: Vec<RuleOutcome>,
}

/// One rule `allow`, evaluated as if there were no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleOutcome {
    /// Line on which it begins, counted from 1.
    pub line: u32,
    /// That line.
    pub text: String,
    /// Whether the policy would allow with this rule alone.
    pub allow: bool,
    /// Why it would have no answer.
    pub error: Option<EvaluationError>,
}

impl CompiledPolicy {
    /// Decides a request and says which rules allow it. For people: each rule is compiled again.
    #[must_use]
    pub fn explain(&self, request: &Request) -> Explanation {
        let mut engine = self.engine.clone();
        let module = engine.get_modules().last().expect("it was loaded").clone();
        let before = self.text_offset();
        let allows: Vec<_> = module
            .policy
            .iter()
            .filter(|rule| matches!(rule.as_ref(), Rule::Spec { .. }) && self.is_allow(rule))
            .map(|rule| {
                let span = rule.span();
                let at = |offset: u32| (offset as usize).saturating_sub(before);
                (span.line.saturating_sub(self.lines_before), at(span.start)..at(span.end))
            })
            .collect();
        let rules = allows.iter().filter_map(|(line, kept)| {
            let others = allows.iter().map(|(_, range)| range).filter(|range| *range != kept);
            let alone = PolicySource::parse(&self.name, &without(&self.text, others.cloned())).ok()?;
            let text = self.text.lines().nth((*line as usize).saturating_sub(1)).unwrap_or_default().trim().to_owned();
            let (allow, error) = match alone.evaluate(request) {
                Ok(verdict) => (verdict.allow, None),
                Err(error) => (false, Some(error)),
            };
            Some(RuleOutcome { line: *line, text, allow, error })
        });
        Explanation { verdict: self.decide(request), inputs: self.inputs_read(request), rules: rules.collect() }
    }

    fn is_allow(&self, rule: &Rule) -> bool {
        facts::head(rule).span().text() == ALLOW
    }

    /// Bytes that were put in front of the text.
    fn text_offset(&self) -> usize {
        if self.lines_before == 0 { 0 } else { crate::compile::PACKAGE_LINE.len() }
    }
}

/// The text with these ranges blank, so that lines stay where they are.
fn without(text: &str, ranges: impl Iterator<Item = std::ops::Range<usize>>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in ranges {
        for byte in bytes.get_mut(range).into_iter().flatten().filter(|byte| !matches!(byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
    }
    String::from_utf8(bytes).expect("whole tokens were replaced")
}
