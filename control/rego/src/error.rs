//! Why a policy is refused, and why an evaluation gave no answer.

use std::fmt;

/// The stable name of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalCode {
    /// The file is larger than `POLICY_BYTES_MAX`.
    TooLarge,
    /// More operators or brackets around one place than `EXPRESSION_OPERATORS_MAX` and `BRACKETS_MAX`, or more rules that
    /// depend on each other in a row than `RULE_DEPTH_MAX`.
    TooDeep,
    /// Neither Rego v1 nor v0.
    Syntax,
    /// Another package than `creto.messaging`.
    Package,
    /// An import of something else than inputs and keywords.
    Import,
    /// No complete rule `allow`.
    NoAllow,
    /// A rule has a name that means something else.
    ReservedName,
    /// A builtin whose answer differs from call to call, or that reaches outside.
    NotDeterministic,
    /// A builtin that is not on the list, or a function that does not exist.
    UnknownFunction,
    /// An input that the schema does not have.
    UnknownInput,
    /// A read of `data` outside of the policy's own rules.
    DataRead,
    /// `with` in a policy.
    WithOverride,
    /// A rule that depends on itself.
    Recursion,
    /// A name that nothing defines.
    UndefinedName,
    /// Something else that the interpreter refuses.
    Refused,
    /// A file of tests without tests.
    NoTests,
}

impl RefusalCode {
    /// As scripts see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::Syntax => "syntax",
            Self::Package => "package",
            Self::Import => "import",
            Self::NoAllow => "no_allow",
            Self::ReservedName => "reserved_name",
            Self::NotDeterministic => "not_deterministic",
            Self::UnknownFunction => "unknown_function",
            Self::UnknownInput => "unknown_input",
            Self::DataRead => "data_read",
            Self::WithOverride => "with_override",
            Self::Recursion => "recursion",
            Self::UndefinedName => "undefined_name",
            Self::Refused => "refused",
            Self::NoTests => "no_tests",
        }
    }
}

/// A place in a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Place {
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

/// A policy that is not loaded: where, what and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// The stable name.
    pub code: RefusalCode,
    /// The file, as it was named.
    pub file: String,
    /// Line, counted from 1.
    pub line: u32,
    /// Column, counted from 1, in characters.
    pub column: u32,
    /// What is wrong: lower case, without a final stop.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, file, line, column, what, hint } = self;
        write!(f, "{file}:{line}:{column}: {what} ({}); {hint}", code.as_str())
    }
}

/// An evaluation that gave no answer; the answer is no. It is never kept: the next may have one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// the request has more than the policy is made for: {0}; see the limits of the input schema
    #[error("the request has more than the policy is made for: {0}; see the limits of the input schema")]
    TooMuch(&'static str),
    /// the evaluation took longer than its limit; make the policy do less
    #[error("the evaluation took longer than {} ms; make the policy do less", crate::limits::EVALUATION_MS_MAX)]
    TooLong,
    /// `allow` is neither true nor false; make it a condition
    #[error("`allow` is {0}, neither true nor false; make it a condition")]
    NotBoolean(String),
    /// `obligations` is not what the schema says; correct it
    #[error("`obligations` is not as documented: {0}; correct it")]
    Obligations(String),
    /// the interpreter failed, at this line if it knows; test the policy with this input
    #[error("{what}; test the policy with this input")]
    Failed {
        /// What it said.
        what: String,
        /// Line of the policy, counted from 1.
        line: Option<u32>,
    },
}
