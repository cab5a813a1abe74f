//! What is looked at before anything is parsed: does it begin with a package, and is an expression too deep to walk?
//!
//! regorus bounds how deeply brackets nest, but not how many operators stand in a row, and it recurses once for each. What
//! is in `[` or `{` it parses twice, as an expression and as a comprehension, so that each nesting doubles the time.

use regorus::unstable::{Lexer, Source, TokenKind};

use crate::error::Place;
use crate::limits::{BRACKETS_MAX, EXPRESSION_OPERATORS_MAX};

/// What the tokens of a file say.
pub(crate) struct Scan {
    /// The first word is `package`.
    pub(crate) has_package: bool,
    /// A keyword of Rego v1 stands in it, and it does not import that into v0.
    pub(crate) is_v1: bool,
    /// Where an expression gets too deep.
    pub(crate) too_deep: Option<Place>,
}

/// Scans until the end, or until something that is no token: the parser will say so.
pub(crate) fn scan(source: &Source) -> Scan {
    let mut lexer = Lexer::new(source);
    let mut scan = Scan { has_package: false, is_v1: false, too_deep: None };
    let mut brackets = Vec::new();
    // Operators of the expression at hand, for each bracket that is open.
    let mut open = vec![0_usize];
    let (mut first, mut has_future) = (true, false);
    let (mut line_before, mut operator_before) = (1, false);
    while let Ok(token) = lexer.next_token() {
        if token.0 == TokenKind::Eof {
            break;
        }
        let text = token.1.text();
        scan.has_package |= first && text == "package";
        if token.0 == TokenKind::Ident {
            scan.is_v1 |= matches!(text, "if" | "in" | "every");
            has_future |= text == "future";
        }
        first = false;
        let operator = is_operator(&token.0, text);
        if token.1.line > line_before && !operator && !operator_before {
            *open.last_mut().expect("never empty") = 0;
        }
        match (&token.0, text) {
            (TokenKind::Symbol, "[" | "{" | "(") => brackets.push(text != "("),
            (TokenKind::Symbol, "]" | "}" | ")") => drop(brackets.pop()),
            _ => {}
        }
        match text {
            _ if token.0 != TokenKind::Symbol => *open.last_mut().expect("never empty") += usize::from(operator),
            "(" | "[" | "{" => {
                *open.last_mut().expect("never empty") += 1;
                open.push(0);
            }
            ")" | "]" | "}" if open.len() > 1 => drop(open.pop()),
            "," => *open.last_mut().expect("never empty") = 0,
            _ => *open.last_mut().expect("never empty") += usize::from(operator),
        }
        let doubling = brackets.iter().filter(|doubles| **doubles).count();
        if open.iter().sum::<usize>() > EXPRESSION_OPERATORS_MAX || doubling > BRACKETS_MAX {
            scan.too_deep = Some(Place { line: token.1.line, column: token.1.col });
            break;
        }
        (line_before, operator_before) = (token.1.line, operator);
    }
    scan.is_v1 &= !has_future;
    scan
}

/// Whether the expression goes on with it: everything but what separates.
fn is_operator(kind: &TokenKind, text: &str) -> bool {
    match kind {
        TokenKind::Symbol => !matches!(text, "(" | ")" | "[" | "]" | "{" | "}" | "," | ";"),
        TokenKind::Ident => matches!(text, "in" | "not" | "with" | "else"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(text: &str) -> Scan {
        scan(&Source::from_contents("a.rego".to_owned(), text.to_owned()).unwrap())
    }

    #[test]
    fn a_package_line_is_seen_behind_comments() {
        assert!(scanned("# a\n\npackage a\n").has_package);
        assert!(!scanned("allow { input.package }").has_package);
        assert!(!scanned("").has_package);
    }

    #[test]
    fn a_row_of_operators_is_too_deep_however_it_is_broken() {
        let many = EXPRESSION_OPERATORS_MAX + 1;
        for text in [
            format!("x := 1{}", " + 1".repeat(many)),
            format!("x := 1{}", " +\n1".repeat(many)),
            format!("x := 1{}", "\n+ 1".repeat(many)),
            format!("x := 1{}", " + [y |\ny := 1\ny > 0][0]".repeat(many)),
            format!("x := {}1", "-\n".repeat(many)),
            format!("x := a{}", ".b".repeat(many)),
            format!("x := a{}", "[0]".repeat(many)),
            format!("x := {}1{}", "[".repeat(many), "]".repeat(many)),
        ] {
            assert!(scanned(&text).too_deep.is_some(), "{text}");
        }
    }

    #[test]
    fn brackets_that_would_double_the_time_are_too_deep() {
        let nested = |open: &str, close: &str, times| format!("x := {}1{}", open.repeat(times), close.repeat(times));
        for (open, close) in [("[", "]"), ("{", "}"), ("[1 |", "]"), ("f([", "])")] {
            assert!(scanned(&nested(open, close, BRACKETS_MAX)).too_deep.is_none(), "{open}");
            assert!(scanned(&nested(open, close, BRACKETS_MAX + 1)).too_deep.is_some(), "{open}");
        }
        assert!(scanned(&nested("(", ")", 30)).too_deep.is_none());
        assert!(scanned("x := \"[[[[[[[[[[[[[\" # [[[[[[[[[[").too_deep.is_none());
    }

    #[test]
    fn a_long_file_of_short_expressions_is_not_too_deep() {
        let rule = "allow {\n  input.sender.nhi == \"a\"\n  input.action == \"b\"\n}\n";
        assert!(scanned(&rule.repeat(500)).too_deep.is_none());
        let list = format!("x := [{}]", "\"a.b\", ".repeat(500));
        assert!(scanned(&list).too_deep.is_none());
    }
}
