//! What a policy reads, calls and defines, found in its parsed tree.
//!
//! A read is counted where its first name stands. `input` behind any other name is one of two things: an import, which is
//! followed, or a value, and then whatever was given that value stands somewhere as `input...` and is counted whole.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Expr, Literal, Module, Query, Rule, RuleAssign, RuleHead, Span, WithModifier};

use crate::builtins::{self, Use};
use crate::error::{Place, RefusalCode};
use crate::limits::RULE_DEPTH_MAX;
use crate::schema::{self, RECENT_MESSAGES, ReadSet};

/// The package of every policy.
pub(crate) const PACKAGE: [&str; 2] = ["creto", "messaging"];
/// Names that no rule may have.
const RESERVED: &[&str] = &["data", "input", RECENT_MESSAGES];
const HELP_BUILTINS: &str = "docs/policy.md lists the builtins that a policy may call";
const CACHED: &str = "a decision is kept, so a policy may only depend on its input: take what you need from there";

/// A reason to refuse, before the file's name is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: RefusalCode,
    pub(crate) place: Place,
    pub(crate) what: String,
    pub(crate) hint: String,
}

/// What was found.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) reads: ReadSet,
    /// Rules, each with where it stands first and whether it is complete: a plain name with a value.
    pub(crate) rules: BTreeMap<String, Defined>,
    pub(crate) problems: Vec<Problem>,
    /// Which rule mentions which.
    edges: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Clone, Copy)]
pub(crate) struct Defined {
    pub(crate) place: Place,
    pub(crate) complete: bool,
}

/// Walks a file. `others` are rules that it may mention and does not define.
pub(crate) fn gather(module: &Module, of: Use, others: &BTreeSet<String>) -> Facts {
    let mut walk = Walk { of, aliases: BTreeMap::new(), others, facts: Facts::default(), rule: String::new() };
    walk.package(module);
    walk.imports(module);
    for rule in &module.policy {
        walk.define(rule);
    }
    for rule in &module.policy {
        walk.rule(rule);
    }
    walk.recursion();
    walk.facts
}

struct Walk<'a> {
    of: Use,
    /// Names that imports gave to inputs.
    aliases: BTreeMap<String, Vec<String>>,
    others: &'a BTreeSet<String>,
    facts: Facts,
    /// The rule at hand.
    rule: String,
}

/// One step of a reference.
enum Step {
    Field(String),
    /// Known only when it is evaluated.
    Dynamic,
}

impl Walk<'_> {
    fn package(&mut self, module: &Module) {
        let (root, steps) = chain(&module.package.refr);
        let mut names: Vec<&str> = root.map(Span::text).into_iter().collect();
        names.extend(steps.iter().map(|step| if let Step::Field(name) = step { name.as_str() } else { "" }));
        if names != PACKAGE {
            let what = format!("the package is `{}`", names.join("."));
            self.refuse(
                RefusalCode::Package,
                &module.package.span,
                what,
                "write `package creto.messaging`, or leave it out",
            );
        }
    }

    fn imports(&mut self, module: &Module) {
        for import in &module.imports {
            let (root, steps) = chain(&import.refr);
            let root = root.map_or("", Span::text);
            let fields = fixed(&steps);
            match root {
                "future" | "rego" => {}
                "input" => {
                    let last = fields.last().map_or("input", String::as_str);
                    let alias = import.r#as.as_ref().map_or(last, Span::text).to_owned();
                    self.input(&fields, &import.span, false);
                    // Two meanings of a name: which one regorus takes is not for us to guess.
                    let means_else = RESERVED.contains(&alias.as_str()) && last != alias;
                    if means_else || self.aliases.contains_key(&alias) {
                        let what = format!("`{alias}` already has a meaning");
                        self.refuse(RefusalCode::Import, &import.span, what, "import it `as` another name");
                    }
                    self.aliases.insert(alias, fields);
                }
                _ => {
                    let what = format!("`{}` cannot be imported", import.refr.span().text());
                    let hint = "import inputs (`import input.sender`), `rego.v1` or `future.keywords`; put rules into this file";
                    self.refuse(RefusalCode::Import, &import.span, what, hint);
                }
            }
        }
    }

    /// Notes that a rule exists.
    fn define(&mut self, rule: &Rule) {
        let refr = head(rule);
        let (Some(root), steps) = chain(refr) else { return };
        let name = root.text().to_owned();
        if RESERVED.contains(&name.as_str()) || self.aliases.contains_key(&name) {
            let what = format!("no rule can be called `{name}`");
            self.refuse(RefusalCode::ReservedName, root, what, "choose another name");
        }
        let plain = match rule {
            Rule::Spec { head: RuleHead::Compr { .. }, .. } => true,
            Rule::Spec { .. } => false,
            Rule::Default { args, .. } => args.is_empty(),
        };
        let complete = plain && steps.is_empty();
        let defined = Defined { place: place(root), complete };
        self.facts.rules.entry(name).and_modify(|known| known.complete |= complete).or_insert(defined);
    }

    fn rule(&mut self, rule: &Rule) {
        let refr = head(rule);
        self.rule = chain(refr).0.map_or_else(String::new, |root| root.text().to_owned());
        self.indexes(refr);
        match rule {
            Rule::Default { args, value, .. } => {
                self.exprs(args.iter());
                self.expr(value);
            }
            Rule::Spec { head, bodies, .. } => {
                match head {
                    RuleHead::Compr { assign, .. } => self.assign(assign.as_ref()),
                    RuleHead::Set { key, .. } => self.exprs(key.iter()),
                    RuleHead::Func { args, assign, .. } => {
                        self.exprs(args.iter());
                        self.assign(assign.as_ref());
                    }
                }
                for body in bodies {
                    self.assign(body.assign.as_ref());
                    self.query(&body.query);
                }
            }
        }
    }

    fn assign(&mut self, assign: Option<&RuleAssign>) {
        if let Some(assign) = assign {
            self.expr(&assign.value);
        }
    }

    fn query(&mut self, query: &Query) {
        for statement in &query.stmts {
            match &statement.literal {
                Literal::SomeVars { .. } => {}
                Literal::SomeIn { key, value, collection, .. } => {
                    self.exprs(key.iter());
                    self.expr(value);
                    self.expr(collection);
                }
                Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expr(expr),
                Literal::Every { domain, query, .. } => {
                    self.expr(domain);
                    self.query(query);
                }
            }
            for with in &statement.with_mods {
                self.with(with);
            }
        }
    }

    /// Tests may say what the input is. A policy may not: under `with` its rules would read something else.
    fn with(&mut self, with: &WithModifier) {
        self.expr(&with.r#as);
        let (root, steps) = chain(&with.refr);
        match self.of {
            Use::Policy => {
                let what = "`with` replaces what a rule reads".to_owned();
                self.refuse(RefusalCode::WithOverride, &with.span, what, "pass it to a function; `with` is for tests");
            }
            Use::Tests if root.map(Span::text) == Some("input") => {
                self.input(&fixed(&steps), root.unwrap_or(&with.span), false);
            }
            Use::Tests => {
                let what = format!("`with {}` replaces something else than the input", with.refr.span().text());
                self.refuse(
                    RefusalCode::WithOverride,
                    &with.span,
                    what,
                    "write `with input as` or `with input.sender as`",
                );
            }
        }
    }

    fn exprs<'e>(&mut self, exprs: impl Iterator<Item = &'e regorus::unstable::Ref<Expr>>) {
        for expr in exprs {
            self.expr(expr);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => {}
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expr),
            Expr::Array { items, .. } | Expr::Set { items, .. } => self.exprs(items.iter()),
            Expr::Object { fields, .. } => {
                for (_, key, value) in fields {
                    self.expr(key);
                    self.expr(value);
                }
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.expr(term);
                self.query(query);
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                self.expr(key);
                self.expr(value);
                self.query(query);
            }
            Expr::Call { fcn, params, .. } => {
                self.call(fcn);
                self.exprs(params.iter());
            }
            Expr::UnaryExpr { expr, .. } => self.expr(expr),
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            | Expr::AssignExpr { lhs, rhs, .. } => {
                self.expr(lhs);
                self.expr(rhs);
            }
            Expr::Membership { key, value, collection, .. } => {
                self.exprs(key.iter());
                self.expr(value);
                self.expr(collection);
            }
        }
    }

    /// The expressions in the brackets of a reference, and what it begins with if that is no name.
    fn indexes(&mut self, expr: &Expr) {
        let mut at = expr;
        loop {
            match at {
                Expr::RefDot { refr, .. } => at = refr,
                Expr::RefBrack { refr, index, .. } => {
                    self.expr(index);
                    at = refr;
                }
                Expr::Var { .. } => return,
                other => return self.expr(other),
            }
        }
    }

    fn reference(&mut self, expr: &Expr) {
        self.indexes(expr);
        let (Some(root), steps) = chain(expr) else { return };
        let name = root.text();
        if let Some(prefix) = self.aliases.get(name) {
            let fields: Vec<_> = prefix.iter().cloned().chain(fixed(&steps)).collect();
            return self.input(&fields, root, true);
        }
        match name {
            "input" => self.input(&fixed(&steps), root, true),
            RECENT_MESSAGES => self.recent_messages(),
            "data" => self.data(expr, root, &fixed(&steps)),
            name => self.edge(name.to_owned()),
        }
    }

    /// An input is named, and read if `is_read`.
    fn input(&mut self, fields: &[String], span: &Span, is_read: bool) {
        match schema::resolve(fields) {
            Ok(path) if is_read && path == [RECENT_MESSAGES] => self.recent_messages(),
            Ok(path) if is_read => self.facts.reads.add(path),
            Ok(_) => {}
            Err(unknown) => {
                let what = format!("there is no `{}`", unknown.path);
                self.refuse(RefusalCode::UnknownInput, span, what, unknown.hint);
            }
        }
    }

    /// They are found under the sender's identity, whatever stands in the brackets.
    fn recent_messages(&mut self) {
        self.facts.reads.add(vec![RECENT_MESSAGES]);
        self.facts.reads.add(vec!["sender", "nhi"]);
    }

    /// Only this package's rules are there, and each must be named: what a variable picks could be anything.
    fn data(&mut self, expr: &Expr, root: &Span, fields: &[String]) {
        match fields {
            [a, b, rule, ..] if [a, b] == PACKAGE => match rule.as_str() {
                RECENT_MESSAGES => self.recent_messages(),
                rule if self.knows(rule) => self.edge(rule.to_owned()),
                rule => {
                    let what = format!("nothing defines `{rule}`");
                    self.refuse(RefusalCode::UndefinedName, root, what, "name a rule of this file");
                }
            },
            _ => {
                let what = format!("`{}` is no rule of this policy", expr.span().text());
                let hint = "there is no data beside the input; name a rule of this file, or write the values into it";
                self.refuse(RefusalCode::DataRead, root, what, hint);
            }
        }
    }

    fn call(&mut self, function: &Expr) {
        let (root, steps) = chain(function);
        let fields = fixed(&steps);
        let (Some(root), true) = (root, fields.len() == steps.len()) else {
            let what = "a function that is known only when it is called".to_owned();
            return self.refuse(RefusalCode::UnknownFunction, function.span(), what, "name the function");
        };
        if root.text() == "data" {
            return self.data(function, root, &fields);
        }
        let name = [root.text()].into_iter().chain(fields.iter().map(String::as_str)).collect::<Vec<_>>().join(".");
        if builtins::is_not_deterministic(&name) {
            let what = format!("`{name}` is not the same from call to call, or reaches outside of the policy");
            self.refuse(RefusalCode::NotDeterministic, root, what, CACHED);
        } else if builtins::is_allowed(&name, self.of) || self.knows(&name) {
            self.edge(name);
        } else {
            let names = builtins::names().iter().copied().chain(self.facts.rules.keys().map(String::as_str));
            let hint = match schema::nearest(&name, names) {
                Some(near) => format!("did you mean `{near}`? {HELP_BUILTINS}"),
                None => HELP_BUILTINS.to_owned(),
            };
            self.refuse(RefusalCode::UnknownFunction, root, format!("a policy cannot call `{name}`"), hint);
        }
    }

    fn knows(&self, name: &str) -> bool {
        self.facts.rules.contains_key(name) || self.others.contains(name)
    }

    fn edge(&mut self, to: String) {
        if self.facts.rules.contains_key(&to) {
            self.facts.edges.entry(self.rule.clone()).or_default().insert(to);
        }
    }

    /// Takes the rules away that mention none of the others, layer by layer. What stays mentions itself in the end, or goes
    /// deeper than the stack is meant for. regorus would find either only in an evaluation that goes there.
    fn recursion(&mut self) {
        let Facts { rules, edges, problems, .. } = &mut self.facts;
        let mut left: BTreeSet<&String> = rules.keys().collect();
        for _ in 0..RULE_DEPTH_MAX {
            let mentions = |rule: &&String| edges.get(*rule).is_some_and(|to| to.iter().any(|to| left.contains(to)));
            let stay: BTreeSet<&String> = left.iter().copied().filter(mentions).collect();
            if stay.len() == left.len() {
                break;
            }
            left = stay;
        }
        let Some(first) = left.first() else { return };
        let mut way: Vec<&String> = Vec::new();
        let mut at = *first;
        let circle = loop {
            if let Some(start) = way.iter().position(|passed| *passed == at) {
                break way.get(start..).unwrap_or_default();
            }
            way.push(at);
            match edges.get(at).and_then(|to| to.iter().find(|to| left.contains(to))) {
                Some(next) => at = next,
                None => break &[],
            }
        };
        let problem = match circle.iter().filter_map(|rule| Some((rules.get(*rule)?.place, rule))).min() {
            Some((place, rule)) => Problem {
                code: RefusalCode::Recursion,
                place,
                what: format!("`{rule}` depends on itself"),
                hint: "rules cannot be recursive; go through roles or capabilities with `[_]` instead".to_owned(),
            },
            None => Problem {
                code: RefusalCode::TooDeep,
                place: left.iter().filter_map(|rule| Some(rules.get(*rule)?.place)).min().unwrap_or(Place::START),
                what: format!("more than {RULE_DEPTH_MAX} rules that depend on each other in a row"),
                hint: "put some of them together".to_owned(),
            },
        };
        problems.push(problem);
    }

    fn refuse(&mut self, code: RefusalCode, span: &Span, what: String, hint: impl Into<String>) {
        self.facts.problems.push(Problem { code, place: place(span), what, hint: hint.into() });
    }
}

pub(crate) fn place(span: &Span) -> Place {
    Place { line: span.line, column: span.col }
}

/// What a rule is called by.
pub(crate) fn head(rule: &Rule) -> &Expr {
    match rule {
        Rule::Default { refr, .. }
        | Rule::Spec {
            head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. },
            ..
        } => refr,
    }
}

/// The name that a reference begins with, and its steps.
fn chain(expr: &Expr) -> (Option<&Span>, Vec<Step>) {
    let mut steps = Vec::new();
    let mut at = expr;
    let root = loop {
        match at {
            Expr::RefDot { refr, field, .. } => {
                steps.push(Step::Field(field.0.text().to_owned()));
                at = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                steps.push(match index.as_ref() {
                    Expr::String { value, .. } | Expr::RawString { value, .. } => match value.as_string() {
                        Ok(text) => Step::Field(text.to_string()),
                        Err(_) => Step::Dynamic,
                    },
                    _ => Step::Dynamic,
                });
                at = refr;
            }
            Expr::Var { span, .. } => break Some(span),
            _ => break None,
        }
    };
    steps.reverse();
    (root, steps)
}

/// The fields up to the first step that is not known.
fn fixed(steps: &[Step]) -> Vec<String> {
    let field = |step: &Step| if let Step::Field(name) = step { Some(name.clone()) } else { None };
    steps.iter().map_while(field).collect()
}
