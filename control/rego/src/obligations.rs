//! What an allowed sender is held to: the optional rule `obligations`.

use regorus::Value;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::EvaluationError;

/// How urgent a message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PriorityName {
    /// After everything else.
    Low,
    /// The usual.
    Normal,
    /// Before the usual.
    High,
    /// Before everything else.
    Critical,
}

/// Bounds that come with a yes; what is absent is not bounded by the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Obligations {
    /// Messages in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_per_s: Option<u64>,
    /// Bytes of payload in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    /// Bytes of the largest payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_max: Option<u64>,
    /// Priorities that may be used, in order, each once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priorities: Option<Vec<PriorityName>>,
}

impl Obligations {
    /// From the value of the rule; undefined means none.
    pub(crate) fn from_value(value: &Value) -> Result<Self, EvaluationError> {
        if *value == Value::Undefined {
            return Ok(Self::default());
        }
        let wrong = |what: String| EvaluationError::Obligations(what);
        // Sets become arrays on the way.
        let json = value.to_json_str().map_err(|error| wrong(error.to_string()))?;
        let mut obligations: Self = serde_json::from_str(&json).map_err(|error| wrong(plain(&error)))?;
        if let Some(priorities) = &mut obligations.priorities {
            priorities.sort_unstable();
            priorities.dedup();
        }
        Ok(obligations)
    }
}

/// Without the place, which is in text that nobody wrote.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}
