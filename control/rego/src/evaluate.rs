//! A request in, a verdict out. Everything that is not a clear yes is a no.

use std::num::NonZeroU32;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};

use crate::compile::{ALLOW, CompiledPolicy, located, rule_path};
use crate::error::EvaluationError;
use crate::limits::EVALUATION_STEPS_PER_CHECK;
use crate::obligations::Obligations;
use crate::request::{InputWriter, Request, RequestView};

/// The rule of what comes with a yes.
const OBLIGATIONS: &str = "obligations";

/// What a policy says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be done.
    pub allow: bool,
    /// Why not; none with a yes.
    pub reason: Option<String>,
    /// What a yes is bound to; none with a no.
    pub obligations: Obligations,
}

impl Verdict {
    fn deny(reason: impl Into<String>) -> Self {
        Self { allow: false, reason: Some(reason.into()), obligations: Obligations::default() }
    }
}

impl From<EvaluationError> for Verdict {
    /// No answer is a no.
    fn from(error: EvaluationError) -> Self {
        Self::deny(error.to_string())
    }
}

impl CompiledPolicy {
    /// Decides a request. The verdict holds for every request that reads the same (see [`Self::inputs_read`]).
    ///
    /// Bounded by [`EVALUATION_MS_MAX`](crate::limits::EVALUATION_MS_MAX), which the interpreter looks at between its
    /// steps, by the sizes in [`limits`](crate::limits) and by the list of builtins, none of which makes much of little.
    ///
    /// # Errors
    /// [`EvaluationError`]: there is no answer. The request is denied; unlike a verdict, that must not be kept.
    pub fn evaluate(&self, request: &Request) -> Result<Verdict, EvaluationError> {
        let mut engine = self.engine.clone();
        engine.set_input(request.to_value(&self.reads)?);
        self.verdict(&mut engine)
    }

    /// An evaluator for many requests, one after the other, each of which ends after `limit`.
    #[must_use]
    pub fn evaluator(&self, limit: Duration) -> Evaluator {
        let mut policy = self.clone();
        policy.engine.set_execution_timer_config(ExecutionTimerConfig {
            limit,
            check_interval: NonZeroU32::new(EVALUATION_STEPS_PER_CHECK).expect("limits.rs says so"),
        });
        let (engine, input) = (policy.engine.clone(), InputWriter::new(&policy.reads));
        Evaluator { policy, engine, input }
    }

    fn verdict(&self, engine: &mut Engine) -> Result<Verdict, EvaluationError> {
        match self.rule(engine, ALLOW)? {
            Value::Bool(true) => {}
            Value::Bool(false) => return Ok(Verdict::deny("`allow` is false")),
            Value::Undefined => return Ok(Verdict::deny("no rule `allow` holds")),
            other => return Err(EvaluationError::NotBoolean(kind(&other).to_owned())),
        }
        let obligations = match self.rules.contains_key(OBLIGATIONS) {
            true => Obligations::from_value(&self.rule(engine, OBLIGATIONS)?)?,
            false => Obligations::default(),
        };
        Ok(Verdict { allow: true, reason: None, obligations })
    }

    /// Decides a request; no answer is a no.
    #[must_use]
    pub fn decide(&self, request: &Request) -> Verdict {
        self.evaluate(request).unwrap_or_else(Verdict::from)
    }

    /// What the policy sees of a request: requests of which this is the same get the same verdict.
    #[must_use]
    pub fn inputs_read(&self, request: &Request) -> serde_json::Value {
        request.project(&self.reads)
    }

    fn rule(&self, engine: &mut Engine, name: &str) -> Result<Value, EvaluationError> {
        evaluate_rule(engine, name, self.lines_before)
    }
}

/// One policy, prepared once and asked again and again. It gives the interpreter only what the policy reads.
#[derive(Clone)]
pub struct Evaluator {
    /// As it was compiled, with this evaluator's limit.
    policy: CompiledPolicy,
    /// What works.
    engine: Engine,
    input: InputWriter,
}

impl std::fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Evaluator {
    /// Decides a request, as [`CompiledPolicy::evaluate`] does.
    ///
    /// # Errors
    /// As there.
    pub fn evaluate(&mut self, request: &RequestView<'_>) -> Result<Verdict, EvaluationError> {
        self.engine.set_input(self.input.write(request)?);
        let verdict = self.policy.verdict(&mut self.engine);
        if verdict.is_err() {
            // Where it stopped is still in it: the next request begins with one that never ran.
            self.engine = self.policy.engine.clone();
        }
        verdict
    }
}

/// The value of a rule, or why there is none.
pub(crate) fn evaluate_rule(engine: &mut Engine, name: &str, lines_before: u32) -> Result<Value, EvaluationError> {
    engine.eval_rule(rule_path(name)).map_err(|error| {
        if error.downcast_ref::<regorus::LimitError>().is_some() {
            return EvaluationError::TooLong;
        }
        let text = error.to_string();
        let (place, what) = located(&text);
        let line = text.contains("--> ").then(|| place.line.saturating_sub(lines_before).max(1));
        EvaluationError::Failed { what, line }
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Set(_) => "a set",
        Value::Object(_) => "an object",
        _ => "undefined",
    }
}
