//! From text and environment to a checked configuration. Every problem is collected, so one run shows them all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::problem::{ConfigError, Place, Problem, without_passwords};
use super::schema::{KEYS, Key, SECTIONS, SEGMENTS_MIN};
use super::show::Origin;
use super::value::{Written, nearest, quoted, size_text};
use super::{Config, ENV_PREFIX, ENV_PREFIX_LIKE};

/// Bytes that the address of a Unix socket can hold, without its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// The log is written in blocks of this size.
const BLOCK_BYTES: u64 = 4096;

/// Where a value was written, by index into [`KEYS`].
type Places = BTreeMap<usize, Place>;

pub(super) fn read(
    name: &str,
    base: &Path,
    bytes: &[u8],
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let mut places = Places::new();
    let mut config = Config { base: base.to_owned(), origins: vec![Origin::Default; KEYS.len()], ..Config::default() };
    match std::str::from_utf8(bytes) {
        Ok(text) => read_file(name, text, &mut config, &mut places, &mut problems),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let place = Place::in_file(name, &valid, valid.len()..valid.len());
            let hint = "save the file as UTF-8".to_owned();
            problems.push(Problem { place, message: "this is not UTF-8 text".to_owned(), hint });
        }
    }
    read_environment(env, &mut config, &mut places, &mut problems);
    if problems.is_empty() {
        check_together(&config, &places, &mut problems);
    }
    if problems.is_empty() { Ok(config) } else { Err(ConfigError::NotUnderstood { problems }) }
}

fn read_file(name: &str, text: &str, config: &mut Config, places: &mut Places, problems: &mut Vec<Problem>) {
    let place = |span: Range<usize>| Place::in_file(name, text, span);
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        // What follows a broken line may be read wrongly: only the breaks are certain.
        problems.extend(syntax_errors.iter().map(|error| Problem {
            place: place(error.span().unwrap_or(0..0)),
            message: format!("this is not TOML: {}", error.message().trim_end_matches(", expected nothing")),
            hint: quotes_hint(text, error.span().unwrap_or(0..0).start),
        }));
        return;
    }

    let mut found: Vec<(usize, Problem)> = Vec::new();
    for (section, value) in document.get_ref() {
        let at = section.span();
        let mut wrong = |message: String, hint: String| {
            found.push((at.start, Problem { place: place(at.clone()), message, hint }));
        };
        let section: &str = section.get_ref();
        let known = SECTIONS.iter().any(|(name, _)| *name == section);
        match (value.get_ref(), known) {
            (DeValue::Table(table), true) => {
                read_section(section, table, &place, config, places, &mut found);
            }
            (_, true) => wrong(
                format!("`{section}` is a section, not {}", written(value.get_ref()).found()),
                format!("write [{section}] on a line of its own, its keys below it"),
            ),
            (DeValue::Table(_), false) => wrong(
                format!("unknown section {}", section_text(section)),
                match nearest(section, SECTIONS.iter().map(|(name, _)| *name)) {
                    Some(name) => format!("did you mean [{name}]?"),
                    None => format!("the sections are {}", sections_text()),
                },
            ),
            (_, false) => wrong(
                format!("key `{}` stands outside any section", section.escape_debug()),
                match KEYS.iter().find(|key| key.name == section) {
                    Some(key) => format!("it belongs in [{}]", key.section),
                    None => format!("the sections are {}", sections_text()),
                },
            ),
        }
    }
    found.sort_by_key(|(start, _)| *start);
    problems.extend(found.into_iter().map(|(_, problem)| problem));
}

fn read_section(
    section: &str,
    table: &DeTable<'_>,
    place: &impl Fn(Range<usize>) -> Place,
    config: &mut Config,
    places: &mut Places,
    found: &mut Vec<(usize, Problem)>,
) {
    for (name, value) in table {
        let known = KEYS.iter().enumerate().find(|(_, key)| key.section == section && key.name == &**name.get_ref());
        let Some((index, key)) = known else {
            let message = format!("unknown key `{}` in [{section}]", name.get_ref().escape_debug());
            let hint = suggestion(section, name.get_ref());
            found.push((name.span().start, Problem { place: place(name.span()), message, hint }));
            continue;
        };
        let at = place(value.span());
        match key.read(config, &written(value.get_ref())) {
            Ok(()) => {
                let Place::File { file, line, .. } = &at else {
                    unreachable!("a value of the file stands in the file")
                };
                config.origins[index] = Origin::File { file: file.clone(), line: *line };
                places.insert(index, at);
            }
            Err(message) => {
                let message = format!("{}: {message}", key.path());
                found.push((value.span().start, Problem { place: at, message, hint: String::new() }));
            }
        }
    }
}

fn read_environment(
    env: impl IntoIterator<Item = (OsString, OsString)>,
    config: &mut Config,
    places: &mut Places,
    problems: &mut Vec<Problem>,
) {
    // Sorted, so that the same environment always reads the same.
    let variables: BTreeMap<OsString, OsString> =
        env.into_iter().filter(|(name, _)| sets_a_key(&name.to_string_lossy())).collect();
    for (name, text) in variables {
        let name = name.to_string_lossy().into_owned();
        let place = Place::Variable { name: name.clone() };
        let Some((index, key)) = KEYS.iter().enumerate().find(|(_, key)| key.variable() == name) else {
            let message = "unknown configuration variable".to_owned();
            problems.push(Problem { place, message, hint: variable_suggestion(&name) });
            continue;
        };
        let Some(text) = text.to_str() else {
            let hint = "set it to UTF-8 text".to_owned();
            problems.push(Problem { place, message: "its value is not UTF-8".to_owned(), hint });
            continue;
        };
        match key.read(config, &Written::Variable(text)) {
            Ok(()) => {
                config.origins[index] = Origin::Variable { name };
                places.insert(index, place);
            }
            Err(message) => {
                problems.push(Problem { place, message: format!("{}: {message}", key.path()), hint: String::new() });
            }
        }
    }
}

/// Holds together what no single key can know.
fn check_together(config: &Config, places: &Places, problems: &mut Vec<Problem>) {
    // Blamed is the first of the keys that someone wrote: a default is never wrong alone.
    let mut wrong = |paths: &[&str], message: String, hint: String| {
        let index = |path: &&str| KEYS.iter().position(|key| key.path() == **path);
        let written = paths.iter().filter_map(index).find_map(|index| places.get(&index));
        let place = written.cloned().unwrap_or(Place::Defaults);
        problems.push(Problem { place, message, hint });
    };

    let wal = &config.wal;
    if !wal.segment_bytes.is_multiple_of(BLOCK_BYTES) {
        wrong(
            &["wal.segment_bytes"],
            format!("wal.segment_bytes: {} is not a multiple of 4 KiB", size_text(wal.segment_bytes)),
            format!("the next one is {}", size_text(wal.segment_bytes.next_multiple_of(BLOCK_BYTES))),
        );
    }
    if wal.wal_bytes_max < SEGMENTS_MIN * wal.segment_bytes {
        wrong(
            &["wal.wal_bytes_max", "wal.segment_bytes"],
            format!(
                "wal.wal_bytes_max: {} is less than five segments of {}",
                size_text(wal.wal_bytes_max),
                size_text(wal.segment_bytes)
            ),
            format!("give it {} or make segments smaller", size_text(SEGMENTS_MIN * wal.segment_bytes)),
        );
    }
    let net = &config.net;
    if net.in_flight_messages_max < net.batch_messages_max {
        wrong(
            &["net.in_flight_messages_max", "net.batch_messages_max"],
            format!(
                "net.in_flight_messages_max: {} is less than one batch of {} messages",
                net.in_flight_messages_max, net.batch_messages_max
            ),
            "a full batch could never be sent".to_owned(),
        );
    }
    let mailbox = &config.mailbox;
    if mailbox.dedup_window_messages <= net.in_flight_messages_max {
        wrong(
            &["mailbox.dedup_window_messages", "net.in_flight_messages_max"],
            format!(
                "mailbox.dedup_window_messages: {} does not cover the {} messages that may be in flight",
                mailbox.dedup_window_messages, net.in_flight_messages_max
            ),
            "a message sent again after a crash could be stored twice".to_owned(),
        );
    }
    if mailbox.shard_bytes_max < mailbox.bytes_max {
        wrong(
            &["mailbox.bytes_max", "mailbox.shard_bytes_max"],
            format!(
                "mailbox.bytes_max: {} is more than mailbox.shard_bytes_max, {}",
                size_text(mailbox.bytes_max),
                size_text(mailbox.shard_bytes_max)
            ),
            "one mailbox cannot hold more than its shard".to_owned(),
        );
    }
    if mailbox.redelivery_max_ms < mailbox.redelivery_base_ms {
        wrong(
            &["mailbox.redelivery_base_ms", "mailbox.redelivery_max_ms"],
            format!(
                "mailbox.redelivery_base_ms: {} is more than mailbox.redelivery_max_ms, {}",
                mailbox.redelivery_base_ms, mailbox.redelivery_max_ms
            ),
            "the first pause cannot be longer than the longest".to_owned(),
        );
    }
    if mailbox.max_deliveries == 1 {
        wrong(
            &["mailbox.max_deliveries"],
            "mailbox.max_deliveries: 1 is too few".to_owned(),
            "the least is 2, or 0 for never: one crash of a consumer would lose it the session that the message opens"
                .to_owned(),
        );
    }
    let socket = config.control_socket();
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        wrong(
            &["control.socket", "node.data_dir"],
            format!(
                "control.socket: {} is longer than the {SOCKET_PATH_BYTES_MAX} bytes a Unix socket may have",
                quoted(&socket.to_string_lossy())
            ),
            "choose a shorter path, such as \"/run/creto/control.sock\"".to_owned(),
        );
    }
}

fn written<'a>(value: &'a DeValue<'_>) -> Written<'a> {
    match value {
        DeValue::String(text) => Written::Text(text.as_ref().into()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Written::Integer(number),
            Err(_) => Written::Other("a number too long for any key"),
        },
        DeValue::Array(items) => Written::Array(items.iter().map(|item| written(item.get_ref())).collect()),
        DeValue::Float(_) => Written::Other("a number with a fraction"),
        DeValue::Boolean(_) => Written::Other("a boolean"),
        DeValue::Datetime(_) => Written::Other("a date"),
        DeValue::Table(_) => Written::Other("a table"),
    }
}

/// The mistake that is made most: text without its quotes.
fn quotes_hint(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = text[before.rfind('\n').map_or(0, |newline| newline + 1)..].lines().next().unwrap_or("");
    let Some((name, value)) = line.split_once('=') else { return String::new() };
    let (name, value) = (name.trim(), value.split('#').next().unwrap_or("").trim());
    let is_known = KEYS.iter().any(|key| key.name == name);
    if is_known && !value.is_empty() && !value.contains(['"', '\'', '[', '{']) {
        format!("text stands in quotes: {}", without_passwords(&format!("{name} = \"{}\"", value.escape_debug())))
    } else {
        String::new()
    }
}

fn suggestion(section: &str, name: &str) -> String {
    let own = || KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return format!("it belongs in [{}]", key.section);
    }
    if let Some(name) = nearest(name, own()) {
        return format!("did you mean `{name}`?");
    }
    if let Some(name) = nearest(name, KEYS.iter().map(|key| key.name)) {
        let sections = KEYS.iter().filter(|key| key.name == name).map(|key| key.section);
        return format!("did you mean `{name}` in [{}]?", sections.collect::<Vec<_>>().join("] or ["));
    }
    format!("the keys of [{section}] are {}", own().collect::<Vec<_>>().join(", "))
}

/// Whether a variable is there to set a key, be it misspelt: by its beginning, or because it differs from the variable of a key by
/// underscores and at most one letter.
fn sets_a_key(name: &str) -> bool {
    let begins = |with: &str| name.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    let letters = |name: &str| name.replace('_', "").to_ascii_uppercase();
    begins(ENV_PREFIX)
        || begins(ENV_PREFIX_LIKE)
            && KEYS.iter().any(|key| strsim::damerau_levenshtein(&letters(name), &letters(&key.variable())) <= 1)
}

fn variable_suggestion(name: &str) -> String {
    let variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
    match nearest(name, variables.iter().map(String::as_str)) {
        Some(name) => format!("did you mean {name}?"),
        None => "`creto config show` lists the keys".to_owned(),
    }
}

fn section_text(section: &str) -> String {
    format!("[{}]", section.escape_debug())
}

fn sections_text() -> String {
    SECTIONS.iter().map(|(name, _)| section_text(name)).collect::<Vec<_>>().join(", ")
}
