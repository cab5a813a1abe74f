//! Takes out of a text what may be a secret: better too much than one of them.

/// Characters of a word that is a key, a digest or a token, for all that can be seen from outside.
const WORD_CHARS_MIN: usize = 40;
/// What stands in the place of what was taken out.
const TAKEN: &str = "***";
/// The same of a block.
const BLOCK_TAKEN: &str = "(a block in PEM was taken out)\n";
/// Names behind which a value is secret, in lower case; a longer name has them in it (`secret_key`).
const SECRET_NAMES: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "pin",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "api_key",
    "api-key",
    "apikey",
];
/// Those of them whose value may be several words.
const LONG_SECRET_NAMES: &[&str] = &["passphrase", "authorization", "cookie"];
/// How a token of enrolment begins.
const TOKEN: &str = "creto-enrol-";
/// Bytes of a key in pairs of digits with colons between, as OpenSSL prints it; an address of a network card has six.
const PAIRS_MIN: usize = 10;
/// What opens and closes a text of several lines.
const LONG_QUOTES: &[&str] = &["\"\"\"", "'''"];

/// The text without passwords in URLs, blocks in PEM, tokens, values of names that sound secret, also those of several lines, and long
/// words in hexadecimal digits, with or without colons, or Base64.
pub(super) fn scrub(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_in_block = false;
    // What closes the text of several lines that is being taken out.
    let mut long_quote: Option<&str> = None;
    // Whether the line before ended in the middle of pairs of digits.
    let mut pairs_go_on = false;
    // Where the lines in `out` begin that may be the rest of a block in PEM whose beginning is not here.
    let mut body: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let (begins, ends) = (line.contains("-----BEGIN "), line.contains("-----END "));
        if is_in_block || begins {
            if begins {
                out.push_str(BLOCK_TAKEN);
            }
            is_in_block = !ends;
            continue;
        }
        if ends {
            out.truncate(body.take().unwrap_or(out.len()));
            out.push_str(BLOCK_TAKEN);
            continue;
        }
        let is_body = !line.trim().is_empty() && line.trim().chars().all(is_of_a_word);
        body = if is_body { body.or(Some(out.len())) } else { None };
        if let Some(quote) = long_quote {
            if line.contains(quote) {
                long_quote = None;
                out.push_str("***\n");
            }
            continue;
        }
        if let Some((before, quote)) = opens_a_long_secret(line) {
            out.push_str(&format!("{before}{TAKEN}\n"));
            long_quote = Some(quote);
            continue;
        }
        let line = pairs(line, &mut pairs_go_on);
        out.push_str(&words(&tokens(&named(&logins(&urls(&line))))));
    }
    out
}

/// What stands before the value of a name that sounds secret, if that value is a text in quotes which another line closes; with what
/// closes it.
fn opens_a_long_secret(line: &str) -> Option<(&str, &'static str)> {
    let (at, quote) = LONG_QUOTES.iter().filter_map(|quote| Some((line.find(quote)?, *quote))).min()?;
    let (before, value) = line.split_at(at + quote.len());
    let name = before.to_ascii_lowercase();
    (SECRET_NAMES.iter().any(|secret| name.contains(secret)) && !value.contains(quote)).then_some((before, quote))
}

/// Bytes as pairs of hexadecimal digits with colons between: `0a:1b:2c`. A run that is long enough, or goes on from the line before.
fn pairs(line: &str, go_on: &mut bool) -> String {
    let mut out = String::new();
    let mut rest = line;
    let mut is_first = true;
    while !rest.is_empty() {
        let (run, behind) = rest.split_at(span(rest, |c| c.is_ascii_hexdigit() || c == ':'));
        let pairs = run.split(':').filter(|pair| !pair.is_empty());
        let count = pairs.clone().count();
        let is_of_pairs = count > 0 && pairs.clone().all(|pair| pair.len() == 2);
        let continues = *go_on && is_first && is_of_pairs;
        if !run.is_empty() {
            is_first = false;
            *go_on = is_of_pairs && run.ends_with(':') && behind.trim().is_empty() && (continues || count >= PAIRS_MIN);
        }
        out.push_str(if is_of_pairs && (continues || count >= PAIRS_MIN) { TAKEN } else { run });
        let between = behind.find(|c: char| c.is_ascii_hexdigit() || c == ':').unwrap_or(behind.len());
        out.push_str(&behind[..between]);
        rest = &behind[between..];
    }
    out
}

/// Users and passwords of URLs: all that stands before the last `@` of what is one word with the scheme, or in quotes with it.
fn urls(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let before_the_scheme = before[..at].trim_end_matches(|c: char| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let end = match before_the_scheme.chars().next_back() {
            Some(quote) if is_quote(quote) => {
                let is_escaped = before_the_scheme[..before_the_scheme.len() - 1].ends_with('\\');
                closing(after, quote, is_escaped)
            }
            _ => after.find(char::is_whitespace).unwrap_or(after.len()),
        };
        let (word, behind) = after.split_at(end);
        match word.rfind('@') {
            Some(at) => {
                out.push_str(TAKEN);
                out.push_str(&word[at..]);
            }
            None => out.push_str(word),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Passwords before an address that has no scheme: `user:password@host`.
fn logins(line: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || is_quote(c);
    let login = |piece: &str| {
        let (colon, at) = (piece.find(':'), piece.rfind('@'));
        match (colon, at) {
            (Some(colon), Some(at)) if colon < at && !piece.contains("://") => {
                format!("{}{TAKEN}{}", &piece[..=colon], &piece[at..])
            }
            _ => piece.to_owned(),
        }
    };
    line.split_inclusive(is_end).map(login).collect()
}

/// Values behind names that sound secret: `password=x`, `"token": "x"`, `Bearer x`, `--passphrase x`.
fn named(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    for name in SECRET_NAMES {
        for (at, _) in lower.match_indices(name) {
            let begins_a_word = lower[..at].chars().next_back().is_none_or(|c| !c.is_ascii_lowercase());
            let behind = at + name.len();
            let goes_on = span(&lower[behind..], |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
            let ends_a_word = !lower[behind..].starts_with(|c: char| c.is_ascii_alphanumeric());
            // `mapping`, `pinned`.
            if *name == "pin" && !(begins_a_word && ends_a_word) {
                continue;
            }
            let word = lower[..at].rfind(|c: char| c.is_whitespace()).map_or(0, |space| space + 1);
            // `a token was made` is a sentence; `token: x`, `--token x` and `Bearer x` are none.
            let needs_a_mark = *name != "bearer" && !lower[word..].starts_with("--");
            let begin = behind + goes_on;
            let Some((from, to)) = value_in(&lower[begin..], needs_a_mark, LONG_SECRET_NAMES.contains(name)) else {
                continue;
            };
            let (from, to) = (begin + from, begin + to);
            // How many there are of something is no secret: `tokens_max = 5`.
            if goes_on > 0 && lower[from..to].chars().all(|c| c.is_ascii_digit()) {
                continue;
            }
            cuts.push((from, to));
        }
    }
    cuts.sort_unstable();
    let mut out = String::new();
    let mut done = 0;
    for (from, to) in cuts.into_iter().filter(|(from, to)| from < to) {
        if from >= done {
            out.push_str(&line[done..from]);
            out.push_str(TAKEN);
        }
        done = done.max(to);
    }
    out.push_str(&line[done..]);
    out
}

/// From where to where the value stands that is given to the name before `text`; `None` where no value is.
fn value_in(text: &str, needs_a_mark: bool, is_long: bool) -> Option<(usize, usize)> {
    let is_blank = |c: char| c.is_whitespace();
    // The name itself may stand in quotes, and all of it in a text in quotes.
    let name_end = span(text, |c| is_quote(c) || c == '\\');
    let gap_end = name_end + span(&text[name_end..], is_blank);
    let mark_end = gap_end + span(&text[gap_end..], |c| matches!(c, '=' | ':' | '>'));
    if mark_end == gap_end && (needs_a_mark || gap_end == name_end) {
        return None;
    }
    let begin = mark_end + span(&text[mark_end..], is_blank);
    let value = &text[begin..];
    let escapes = span(value, |c| c == '\\');
    let first = value[escapes..].chars().next()?;
    if is_quote(first) {
        let open = begin + escapes + 1;
        return Some((open, open + closing(&text[open..], first, escapes > 0)));
    }
    if let Some(close) = match first {
        '[' => Some(']'),
        '{' => Some('}'),
        _ => None,
    } {
        let open = begin + escapes + 1;
        return Some((open, open + text[open..].find(close).unwrap_or(text[open..].trim_end().len())));
    }
    let is_end = |c: char| is_quote(c) || c == '\\' || c == '\n' || (c.is_whitespace() && !is_long);
    let mut end = value.find(is_end).unwrap_or(value.len());
    // The next part of a query.
    let is_next = |at: usize| {
        let name = span(&value[at + 1..], |c| c.is_ascii_alphanumeric() || c == '_');
        name > 0 && value[at + 1 + name..].starts_with('=')
    };
    if let Some((at, _)) = value[..end].match_indices('&').find(|(at, _)| is_next(*at)) {
        end = at;
    }
    // As Rust shows a value in another: `Some("x")`.
    if value[..end].ends_with('(') {
        let escapes = span(&value[end..], |c| c == '\\');
        if let Some(quote) = value[end + escapes..].chars().next().filter(|c| is_quote(*c)) {
            let open = end + escapes + 1;
            return Some((begin, begin + open + closing(&value[open..], quote, escapes > 0)));
        }
    }
    let value = value[..end].trim_end().trim_end_matches([',', ';', '}', ')', ']']);
    let is_plain = matches!(value, "true" | "false" | "null" | "none");
    (!is_plain).then_some((begin, begin + value.len()))
}

/// Where the quotes are closed that were opened before `text`, by a quote that is escaped as that was; the end of the line, if nowhere.
fn closing(text: &str, quote: char, is_escaped: bool) -> usize {
    let closes = |at: usize| is_escaped || !text[..at].ends_with('\\');
    let mut quotes = text.match_indices(quote).map(|(at, _)| at);
    let end = quotes.find(|at| closes(*at)).unwrap_or(text.trim_end().len());
    if is_escaped { text[..end].trim_end_matches('\\').len() } else { end }
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'' | '`')
}

/// The length of what is of a kind at the beginning of the text.
fn span(text: &str, is_of_it: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is_of_it(c)).unwrap_or(text.len())
}

/// Tokens of enrolment, also what is left of one.
fn tokens(line: &str) -> String {
    let mut pieces = line.split(TOKEN);
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        out.push_str(TOKEN);
        out.push_str(TAKEN);
        out.push_str(piece.trim_start_matches(|c: char| c.is_ascii_alphanumeric()));
    }
    out
}

/// Long words that only a machine can read.
fn words(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (word, behind) = rest.split_at(span(rest, is_of_a_word));
        match word.len() >= WORD_CHARS_MIN && is_of_machines(word) {
            true => out.push_str(TAKEN),
            false => out.push_str(word),
        }
        let between = behind.find(is_of_a_word).unwrap_or(behind.len());
        out.push_str(&behind[..between]);
        rest = &behind[between..];
    }
    out
}

/// Of Base64 in both of its alphabets.
fn is_of_a_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_')
}

/// Hexadecimal digits throughout, or capitals, small letters and digits among each other; a part of it that is so is enough.
fn is_of_machines(word: &str) -> bool {
    let has = |kind: fn(&char) -> bool| word.chars().any(|c| kind(&c));
    let is_hex = |part: &str| part.len() >= WORD_CHARS_MIN && part.chars().all(|c| c.is_ascii_hexdigit());
    let has_hex = word.split(|c: char| !c.is_ascii_alphanumeric()).any(is_hex);
    has_hex || (has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase) && has(char::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        assert_eq!(scrub(text), expect);
    }

    #[test]
    fn passwords_in_urls_are_taken_out_whatever_they_are_made_of() {
        check("database = \"postgres://creto:hunter2@db/creto\"", "database = \"postgres://***@db/creto\"");
        check("at postgres://creto:a/b?c#d@e@db/creto now", "at postgres://***@db/creto now");
        check("see https://example.org/a?b=c", "see https://example.org/a?b=c");
        check("at postgres://creto:it's@db/creto now", "at postgres://***@db/creto now");
        check("database = 'postgres://creto:two words@db/creto' # x", "database = 'postgres://***@db/creto' # x");
        check(r#"{"text":"at \"postgres://u:a b@db\" now"}"#, r#"{"text":"at \"postgres://***@db\" now"}"#);
        check("connect creto:hunter2@db:5432 failed", "connect creto:***@db:5432 failed");
    }

    #[test]
    fn blocks_in_pem_are_taken_out_whole() {
        let block = "one\n-----BEGIN PRIVATE KEY-----\nMC4CAQAw\nBQ==\n-----END PRIVATE KEY-----\ntwo\n";
        check(block, "one\n(a block in PEM was taken out)\ntwo\n");
        check("a -----BEGIN X----- b -----END X-----\ntwo", "(a block in PEM was taken out)\ntwo");
        check("-----BEGIN X-----\nnever ended\n", "(a block in PEM was taken out)\n");
    }

    #[test]
    fn a_block_in_pem_whose_beginning_was_cut_off_is_taken_out_up_to_its_end() {
        let rest = "MC4CAQAw\nBQ==\n-----END PRIVATE KEY-----\ntwo\n";
        check(rest, "(a block in PEM was taken out)\ntwo\n");
        check(&format!("one two\n{rest}"), "one two\n(a block in PEM was taken out)\ntwo\n");
    }

    #[test]
    fn keys_in_pairs_of_digits_are_taken_out_over_all_of_their_lines() {
        let pairs = |count: usize| vec!["0a"; count].join(":");
        check(&format!("SHA256 Fingerprint={}\n", pairs(32)), "SHA256 Fingerprint=***\n");
        check(&format!("key {} end", pairs(16).to_uppercase()), "key *** end");
        let text = format!("priv:\n    {}:\n    {}:\n    1b:2c\npub:\n", pairs(15), pairs(15));
        check(&text, "priv:\n    ***\n    ***\n    ***\npub:\n");
        for plain in
            ["at 12:34:56.789", "eth0 0a:1b:2c:3d:4e:5f up", "[fe80::1]:7443", "2001:db8:85a3:0:0:8a2e:370:7334"]
        {
            check(plain, plain);
        }
    }

    #[test]
    fn values_of_several_lines_are_taken_out_whole() {
        check("passphrase = \"\"\"\ncorrect\nhorse\n\"\"\"\nx = 1\n", "passphrase = \"\"\"***\n***\nx = 1\n");
        check("secret = '''a\nb''' # x\nnext\n", "secret = '''***\n***\nnext\n");
        check("about = \"\"\"\nof a node\n\"\"\"\n", "about = \"\"\"\nof a node\n\"\"\"\n");
    }

    #[test]
    fn tokens_are_taken_out_wherever_they_stand() {
        let token = format!("creto-enrol-{}", "5a".repeat(32));
        check(&format!("made {token}, once"), "made creto-enrol-***, once");
        check(&format!("({token})"), "(creto-enrol-***)");
        check("creto-enrol-5a", "creto-enrol-***");
        check("creto-node and creto, creto", "creto-node and creto, creto");
    }

    #[test]
    fn values_of_names_that_sound_secret_are_taken_out() {
        check("PGPASSWORD=hunter2 creto serve", "PGPASSWORD=*** creto serve");
        check("{\"token\": \"abc\", \"uses\": 1}", "{\"token\": \"***\", \"uses\": 1}");
        check("Authorization: Bearer abc.def", "Authorization: ***");
        check("host=db&password=hunter2&x=1", "host=db&password=***&x=1");
        check("a token was made for acme/planner", "a token was made for acme/planner");
        check("pin: 1234; mapping: 5", "pin: ***; mapping: 5");
        check("SECRET_KEY=hunter2 --token abc x", "SECRET_KEY=*** --token *** x");
        check("tokens_max = 5, require_token = true", "tokens_max = 5, require_token = true");
        check("Cookie: a=b; c=d\n", "Cookie: ***\n");
        check("PGPASSWORD=a&b,c;d creto", "PGPASSWORD=*** creto");
    }

    #[test]
    fn values_of_several_words_are_taken_out_whole() {
        check("passphrase = \"correct horse battery\" # x", "passphrase = \"***\" # x");
        check("host=db password='two words' user=x", "host=db password='***' user=x");
        check("passphrase: correct horse battery\n", "passphrase: ***\n");
        check(r#"{"password":"a\"b c","user":"x"}"#, r#"{"password":"***","user":"x"}"#);
    }

    #[test]
    fn values_are_taken_out_of_texts_in_json_and_of_what_rust_shows() {
        check(r#"{"text":"password=\"two words\" x"}"#, r#"{"text":"password=\"***\" x"}"#);
        check(r#"{"text":"{\"token\": \"a b\"}"}"#, r#"{"text":"{\"token\": \"***\"}"}"#);
        check("Config { password: Some(\"two words\"), port: 1 }", "Config { password: ***\"), port: 1 }");
        check("secret: [12, 34, 255], port: 1", "secret: [***], port: 1");
        check(r#"{"password":"","token":null,"user":"x"}"#, r#"{"password":"","token":null,"user":"x"}"#);
    }

    #[test]
    fn what_only_machines_read_is_taken_out_and_names_of_files_are_not() {
        check(&format!("key {} end", "0f".repeat(20)), "key *** end");
        check("wal/shard-0000/segment-00000000000000000001.wal", "wal/shard-0000/segment-00000000000000000001.wal");
        check("id 018f3c5e-7b2a-7c44-9d1e-0123456789ab", "id 018f3c5e-7b2a-7c44-9d1e-0123456789ab");
        check("/usr/lib/postgresql/bin/very/long/path/indeed", "/usr/lib/postgresql/bin/very/long/path/indeed");
        let base64 = "TUlJQ2RnSUJBREFOQmdrcWhraUc5dzBCQVFFRkFBU0NBbUF3Z2dKY0Fn";
        check(base64, "***");
        let url_safe = "eyJhbGciOiJFZERTQSJ9-8Q_ab7Kx1ZpQm4Rt-Yw2Uv9";
        check(url_safe, "***");
        check(&format!("key_{}", "0f".repeat(20)), "***");
        check("größer ✓ ok", "größer ✓ ok");
    }
}
