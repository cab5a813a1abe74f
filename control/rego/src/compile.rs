//! From a file to a policy that can be evaluated, or to the first reason why not.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use regorus::Engine;
use regorus::unstable::{Module, Ref, Source};
use regorus::utils::limits::ExecutionTimerConfig;

use crate::builtins::Use;
use crate::error::{Place, PolicyError, RefusalCode};
use crate::facts::{self, Defined, Facts, Problem};
use crate::limits::{
    BRACKETS_MAX, EVALUATION_MS_MAX, EVALUATION_STEPS_PER_CHECK, EXPRESSION_OPERATORS_MAX, POLICY_BYTES_MAX,
};
use crate::scan::scan;
use crate::schema::{self, ReadSet};

/// What regorus calls the file: it has no colon, so that a place can be read out of an error.
const FILE: &str = "policy";
/// Put in front of a file that names no package.
pub(crate) const PACKAGE_LINE: &str = "package creto.messaging\n";
/// `recent_messages[...]` stands alone in a policy: it is a rule of the package, and its value is in the input.
const RECENT_MESSAGES_RULE: &str = "package creto.messaging\n\nrecent_messages := input.recent_messages\n";
/// The rule that decides.
pub(crate) const ALLOW: &str = "allow";

/// Reads files of policy.
#[derive(Debug)]
pub struct PolicySource;

/// A policy that was accepted. Cheap to clone; may be sent between threads.
#[derive(Clone)]
pub struct CompiledPolicy {
    pub(crate) name: String,
    pub(crate) text: String,
    /// With everything loaded; each evaluation works on a clone.
    pub(crate) engine: Engine,
    pub(crate) reads: ReadSet,
    pub(crate) rules: BTreeMap<String, Defined>,
    /// Lines that were put in front of the text.
    pub(crate) lines_before: u32,
    pub(crate) is_v0: bool,
}

impl std::fmt::Debug for CompiledPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledPolicy").field("name", &self.name).field("reads", &self.reads).finish_non_exhaustive()
    }
}

impl PolicySource {
    /// Reads the policy `text` of the file `name`.
    ///
    /// Rego v1 is tried first, and v0 after it unless a keyword of v1 (`if`, `in`, `every`) stands in the file without an
    /// import of `future.keywords`.
    /// A file without a package line is of the package `creto.messaging`.
    ///
    /// # Errors
    /// [`PolicyError`]: the first thing in the file because of which it is refused.
    pub fn parse(name: &str, text: &str) -> Result<CompiledPolicy, PolicyError> {
        let (parsed, facts) = Parsed::read(name, text, Use::Policy, &BTreeSet::new())?;
        if !facts.rules.get(ALLOW).is_some_and(|rule| rule.complete) {
            let place = facts.rules.get(ALLOW).map_or(Place::START, |rule| Place {
                line: rule.place.line.saturating_sub(parsed.lines_before),
                column: rule.place.column,
            });
            let problem = Problem {
                code: RefusalCode::NoAllow,
                place,
                what: "there is no rule `allow` that is true or false".to_owned(),
                hint: "write `allow { ... }`, or `allow if { ... }` in Rego v1".to_owned(),
            };
            return Err(problem.in_file(name));
        }
        let mut engine = parsed.engine;
        prepare(&mut engine).map_err(|error| refused(name, &error, parsed.lines_before, &facts))?;
        Ok(CompiledPolicy {
            name: name.to_owned(),
            text: text.to_owned(),
            engine,
            reads: facts.reads,
            rules: facts.rules,
            lines_before: parsed.lines_before,
            is_v0: parsed.is_v0,
        })
    }
}

impl CompiledPolicy {
    /// The file, as it was named.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it reads of a request.
    #[must_use]
    pub fn reads(&self) -> &ReadSet {
        &self.reads
    }

    /// Whether it was read as Rego v0: `allow { ... }` without `if`.
    #[must_use]
    pub fn is_v0(&self) -> bool {
        self.is_v0
    }
}

/// A file that regorus parsed, in an engine of its own.
pub(crate) struct Parsed {
    pub(crate) engine: Engine,
    pub(crate) lines_before: u32,
    pub(crate) is_v0: bool,
}

impl Parsed {
    /// Parses and looks at everything that can be seen without the interpreter.
    pub(crate) fn read(
        name: &str,
        text: &str,
        of: Use,
        others: &BTreeSet<String>,
    ) -> Result<(Self, Facts), PolicyError> {
        let text = prepare_text(name, text)?;
        let lines_before = text.lines_before;
        let parsed = Self::parse(name, &text)?;
        let mut engine = parsed.engine.clone();
        let module: Ref<Module> = engine.get_modules().last().expect("it was added").clone();
        let mut facts = facts::gather(&module, of, others);
        for problem in &mut facts.problems {
            problem.place.line = problem.place.line.saturating_sub(lines_before).max(1);
        }
        match facts.problems.iter().min_by_key(|problem| problem.place) {
            None => Ok((parsed, facts)),
            Some(problem) => Err(problem.in_file(name)),
        }
    }

    fn parse(name: &str, text: &Prepared) -> Result<Self, PolicyError> {
        let lines_before = text.lines_before;
        let parse = |is_v0| {
            let mut engine = engine();
            add(&mut engine, &text.text, is_v0).map(|()| Self { engine, lines_before, is_v0 })
        };
        let v1 = match parse(false) {
            Ok(parsed) => return Ok(parsed),
            Err(error) => located(&error),
        };
        let mut hint = "correct it; a rule is `allow { ... }`, or `allow if { ... }` in Rego v1";
        if text.is_v1 && v1.1.starts_with("`if` keyword") {
            hint = "write `allow if { ... }`: `in` and `every` are of Rego v1";
        }
        let (place, what) = match text.is_v1 {
            true => v1,
            false => match parse(true) {
                Ok(parsed) => return Ok(parsed),
                Err(error) => {
                    let v0 = inside(&text.text, located(&error));
                    // It asked for `if`, and nobody wrote one.
                    if v1.0 > v0.0 { v1 } else { v0 }
                }
            },
        };
        let problem = Problem {
            code: RefusalCode::Syntax,
            place: Place { line: place.line.saturating_sub(lines_before).max(1), column: place.column },
            what,
            hint: hint.to_owned(),
        };
        Err(problem.in_file(name))
    }
}

/// Of a mistake in a body, regorus says for v0 where the body begins. For v1 it says where the mistake is, so it is asked
/// about this body as one of v1, with everything before it blank.
fn inside(text: &str, found: (Place, String)) -> (Place, String) {
    const HEAD: &str = "package p\nr if ";
    let (place, what) = found;
    let line_start =
        text.split_inclusive('\n').take(place.line.saturating_sub(1) as usize).map(str::len).sum::<usize>();
    let before =
        text[line_start..].chars().take(place.column.saturating_sub(1) as usize).map(char::len_utf8).sum::<usize>();
    let body = &text[line_start + before..];
    if !what.starts_with("expecting") || !body.starts_with('{') {
        return (place, what);
    }
    let Err(error) = add(&mut Engine::new(), &format!("{HEAD}{body}"), false) else { return (place, what) };
    let (inner, what_inner) = located(&error);
    // The body begins on the second line, behind `r if `.
    let column = if inner.line == 2 { (inner.column + place.column).saturating_sub(6) } else { inner.column };
    let inner = Place { line: inner.line.max(2) - 2 + place.line, column };
    if inner > place { (inner, what_inner) } else { (place, what) }
}

/// Adds a module.
pub(crate) fn add(engine: &mut Engine, text: &str, is_v0: bool) -> Result<(), String> {
    engine.set_rego_v0(is_v0);
    engine.add_policy(FILE.to_owned(), text.to_owned()).map(drop).map_err(|error| error.to_string())
}

/// An engine with our limits and the rules that every policy finds.
fn engine() -> Engine {
    let mut engine = Engine::new();
    engine.set_execution_timer_config(ExecutionTimerConfig {
        limit: Duration::from_millis(EVALUATION_MS_MAX),
        check_interval: NonZeroU32::new(EVALUATION_STEPS_PER_CHECK).expect("limits.rs says so"),
    });
    // A builtin that fails is an error and denies: undefined would let `not startswith(...)` allow.
    engine.set_strict_builtin_errors(true);
    add(&mut engine, RECENT_MESSAGES_RULE, false).expect("it is ours");
    engine
}

/// Has regorus look at names and the order of statements, which it else does in the first evaluation.
pub(crate) fn prepare(engine: &mut Engine) -> Result<(), String> {
    let entry = rule_path(ALLOW).into();
    engine.compile_with_entrypoint(&entry).map(drop).map_err(|error| error.to_string())
}

pub(crate) fn rule_path(rule: &str) -> String {
    format!("data.creto.messaging.{rule}")
}

/// A text with a package.
struct Prepared {
    text: String,
    /// Lines that were put in front.
    lines_before: u32,
    is_v1: bool,
}

fn prepare_text(name: &str, text: &str) -> Result<Prepared, PolicyError> {
    let refuse =
        |code, place, what: String, hint: &str| Err(Problem { code, place, what, hint: hint.to_owned() }.in_file(name));
    if text.len() > POLICY_BYTES_MAX {
        let what = format!("{} bytes are more than the {POLICY_BYTES_MAX} of a policy", text.len());
        return refuse(
            RefusalCode::TooLarge,
            Place::START,
            what,
            "keep lists of agents in their roles or capabilities",
        );
    }
    let source = match Source::from_contents(FILE.to_owned(), text.to_owned()) {
        Ok(source) => source,
        Err(error) => return refuse(RefusalCode::TooLarge, Place::START, error.to_string(), "make it smaller"),
    };
    let scan = scan(&source);
    if let Some(place) = scan.too_deep {
        let what =
            format!("more than {EXPRESSION_OPERATORS_MAX} operators, or {BRACKETS_MAX} brackets, around one place");
        return refuse(RefusalCode::TooDeep, place, what, "take it apart into rules");
    }
    let (text, lines_before) = match scan.has_package {
        true => (text.to_owned(), 0),
        false => (format!("{PACKAGE_LINE}{text}"), 1),
    };
    Ok(Prepared { text, lines_before, is_v1: scan.is_v1 })
}

/// What regorus refused when it looked at the whole.
pub(crate) fn refused(name: &str, error: &str, lines_before: u32, facts: &Facts) -> PolicyError {
    let (place, what) = located(error);
    let place = Place { line: place.line.saturating_sub(lines_before).max(1), column: place.column };
    let undefined = what.strip_prefix("use of undefined variable `").and_then(|rest| rest.split('`').next());
    let problem = match undefined {
        Some(unknown) => {
            let names = facts.rules.keys().map(String::as_str).chain(["input", schema::RECENT_MESSAGES]);
            let hint = match schema::nearest(unknown, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "give it a value (`x := ...`), or read it from `input`".to_owned(),
            };
            Problem { code: RefusalCode::UndefinedName, place, what: format!("nothing defines `{unknown}`"), hint }
        }
        None => Problem { code: RefusalCode::Refused, place, what, hint: "write it in another way".to_owned() },
    };
    problem.in_file(name)
}

/// Place and message of an error of regorus, which is a picture: `--> policy:LINE:COLUMN`, the line, `error: MESSAGE`.
pub(crate) fn located(error: &str) -> (Place, String) {
    let place = error.split_once("--> ").and_then(|(_, rest)| {
        let mut numbers = rest.lines().next()?.strip_prefix(FILE)?.split(':').skip(1).map(str::parse);
        let (line, column): (u32, u32) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        // It counts from 1, but has been seen to say 0.
        Some(Place { line: line.max(1), column: column.max(1) })
    });
    let message = error.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or(error);
    let message = message.lines().next().unwrap_or_default().trim().trim_end_matches(['.', ':']);
    (place.unwrap_or(Place::START), message.to_owned())
}

impl Problem {
    pub(crate) fn in_file(&self, file: &str) -> PolicyError {
        let Self { code, place, what, hint } = self;
        PolicyError {
            code: *code,
            file: file.to_owned(),
            line: place.line,
            column: place.column,
            what: what.clone(),
            hint: hint.clone(),
        }
    }
}
