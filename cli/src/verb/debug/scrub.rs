//! Takes out of a text what may be a secret: better too much than one of them.

/// Characters of a word that is a key, a digest or a token, for all that can be seen from outside.
const WORD_CHARS_MIN: usize = 40;
/// What stands in the place of what was taken out.
const TAKEN: &str = "***";
/// Names behind which a value is secret, in lower case.
const SECRET_NAMES: &[&str] =
    &["password", "passwd", "passphrase", "secret", "token", "pin", "authorization", "bearer"];
/// How a token of enrolment begins.
const TOKEN: &str = "creto-enrol-";

/// The text without passwords in URLs, blocks in PEM, tokens, values of names that sound secret, and long words in hexadecimal digits or
/// Base64.
pub(super) fn scrub(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_in_block = false;
    for line in text.split_inclusive('\n') {
        let (begins, ends) = (line.contains("-----BEGIN "), line.contains("-----END "));
        if is_in_block || begins {
            if begins {
                out.push_str("(a block in PEM was taken out)\n");
            }
            is_in_block = !ends;
            continue;
        }
        out.push_str(&words(&named(&urls(line))));
    }
    out
}

/// Users and passwords of URLs: all that stands before the last `@` of what is one word with the scheme.
fn urls(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || c == '"' || c == '\'').unwrap_or(after.len());
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

/// Values behind names that sound secret: `password=x`, `"token": "x"`, `Bearer x`.
fn named(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    for name in SECRET_NAMES {
        for (at, _) in lower.match_indices(name) {
            let begins_a_word =
                lower[..at].chars().next_back().is_none_or(|c| !c.is_ascii_lowercase() || *name != "pin");
            let behind = at + name.len();
            let gap = lower[behind..].find(|c: char| !matches!(c, '=' | ':' | '"' | '\'' | ' ')).unwrap_or(0);
            let mark = &lower[behind..behind + gap];
            // `a token was made` is a sentence, `token: x` is none.
            let is_assigned = mark.contains(['=', ':']) || (*name == "bearer" && !mark.is_empty());
            if !begins_a_word || !is_assigned {
                continue;
            }
            let begin = behind + gap;
            let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '&' | ',' | ';' | '}');
            let mut end = lower[begin..].find(is_end).map_or(lower.len(), |end| begin + end);
            // The kind of an authorization, and then what counts.
            if matches!(&lower[begin..end], "bearer" | "basic") {
                let next = lower[end..].find(|c: char| !c.is_whitespace()).map_or(lower.len(), |next| end + next);
                end = lower[next..].find(is_end).map_or(lower.len(), |end| next + end);
            }
            cuts.push((begin, end));
        }
    }
    cuts.sort_unstable();
    let mut out = String::new();
    let mut done = 0;
    for (begin, end) in cuts.into_iter().filter(|(begin, end)| begin < end) {
        if begin >= done {
            out.push_str(&line[done..begin]);
            out.push_str(TAKEN);
        }
        done = done.max(end);
    }
    out.push_str(&line[done..]);
    out
}

/// Tokens, and long words that only a machine can read.
fn words(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix(TOKEN) {
            out.push_str(TOKEN);
            out.push_str(TAKEN);
            rest = behind.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
            continue;
        }
        let length = rest.find(|c: char| !is_of_a_word(c)).unwrap_or(rest.len());
        if length == 0 {
            let mut chars = rest.chars();
            out.extend(chars.next());
            rest = chars.as_str();
            continue;
        }
        let (word, behind) = rest.split_at(length);
        match word.len() >= WORD_CHARS_MIN && is_of_machines(word) {
            true => out.push_str(TAKEN),
            // `creto-enrol-` is three words with what comes behind it.
            false => out.push_str(word),
        }
        rest = behind;
        if word == "creto" && rest.starts_with(&TOKEN[word.len()..]) {
            out.truncate(out.len() - word.len());
            rest = &line[line.len() - rest.len() - word.len()..];
        }
    }
    out
}

fn is_of_a_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')
}

/// Hexadecimal digits throughout, or capitals, small letters and digits among each other.
fn is_of_machines(word: &str) -> bool {
    let has = |kind: fn(&char) -> bool| word.chars().any(|c| kind(&c));
    let is_hex = word.chars().all(|c| c.is_ascii_hexdigit());
    is_hex || (has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase) && has(char::is_ascii_digit))
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
    }

    #[test]
    fn blocks_in_pem_are_taken_out_whole() {
        let block = "one\n-----BEGIN PRIVATE KEY-----\nMC4CAQAw\nBQ==\n-----END PRIVATE KEY-----\ntwo\n";
        check(block, "one\n(a block in PEM was taken out)\ntwo\n");
        check("a -----BEGIN X----- b -----END X-----\ntwo", "(a block in PEM was taken out)\ntwo");
        check("-----BEGIN X-----\nnever ended\n", "(a block in PEM was taken out)\n");
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
    }

    #[test]
    fn what_only_machines_read_is_taken_out_and_names_of_files_are_not() {
        check(&format!("key {} end", "0f".repeat(20)), "key *** end");
        check("wal/shard-0000/segment-00000000000000000001.wal", "wal/shard-0000/segment-00000000000000000001.wal");
        check("id 018f3c5e-7b2a-7c44-9d1e-0123456789ab", "id 018f3c5e-7b2a-7c44-9d1e-0123456789ab");
        check("/usr/lib/postgresql/bin/very/long/path/indeed", "/usr/lib/postgresql/bin/very/long/path/indeed");
        let base64 = "TUlJQ2RnSUJBREFOQmdrcWhraUc5dzBCQVFFRkFBU0NBbUF3Z2dKY0Fn";
        check(base64, "***");
        check("größer ✓ ok", "größer ✓ ok");
    }
}
