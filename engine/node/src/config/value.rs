//! The kinds of value a key may have: how each is read from what was written, and written so that it reads back.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use creto_envelope::AgentName;
use creto_envelope::TreeDigest;
use creto_io::executor::DriverKind;
use creto_service::{Enrolment, OnFailure};

/// Highest CPU number that can be named; Linux is built for at most this many.
const CPU_INDEX_MAX: u16 = 8191;

/// Which CPUs shards are pinned to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cpus {
    /// As many of the CPUs this process may use as there are shards, whole cores before their second threads.
    #[default]
    Auto,
    /// Exactly these, in this order: shard 0 on the first.
    List(Vec<u16>),
}

/// Who verifies batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Crypto {
    /// Each shard itself.
    #[default]
    Inline,
    /// Workers for all shards, one pinned to each of these CPUs.
    Workers(Vec<u16>),
}

/// How many shards there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shards {
    /// One per CPU.
    #[default]
    Auto,
    /// This many.
    Exactly(u16),
}

/// How a write to the log is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalSync {
    /// As the device does it better: measured once, then remembered.
    #[default]
    Auto,
    /// fdatasync after the write.
    Fdatasync,
    /// O_DSYNC on the file.
    Dsync,
}

/// How many group commits of one shard are on their way at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WritesInFlight {
    /// As many as the device gains from: measured once, then remembered.
    #[default]
    Auto,
    /// This many.
    Exactly(u16),
}

/// Least severe line that is written to the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what a human must act on.
    Error,
    /// And what may need one soon.
    Warn,
    /// And what the node did.
    #[default]
    Info,
    /// And why.
    Debug,
    /// And every step.
    Trace,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A value as someone wrote it, before its key gave it a type.
#[derive(Debug)]
pub(super) enum Written<'a> {
    /// A TOML string.
    Text(Cow<'a, str>),
    /// A TOML integer, in the range of any key.
    Integer(i128),
    /// A TOML array.
    Array(Vec<Written<'a>>),
    /// The text of an environment variable: the key decides what it means.
    Variable(&'a str),
    /// Anything that no key takes, by its name.
    Other(&'static str),
}

impl Written<'_> {
    /// What it is, for "found ...".
    pub(super) fn found(&self) -> String {
        match self {
            Self::Text(text) => format!("the string {}", quoted(text)),
            Self::Integer(number) => format!("the number {number}"),
            Self::Array(_) => "an array".to_owned(),
            Self::Variable(text) => quoted(text),
            Self::Other(name) => (*name).to_owned(),
        }
    }

    /// The text, if it is text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Variable(text) => Some(text.trim()),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub(super) fn integer(&self) -> Option<i128> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Variable(text) => text.trim().replace('_', "").parse().ok(),
            _ => None,
        }
    }
}

/// A value of a fixed set of words.
pub(super) trait Word: Copy + PartialEq + 'static {
    /// Every value with its word.
    const WORDS: &'static [(&'static str, Self)];

    /// The word of this value.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

impl Word for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Word for TreeDigest {
    const WORDS: &'static [(&'static str, Self)] = &[("sha256", Self::Sha256), ("sha3-256", Self::Sha3_256)];
}

impl Word for DriverKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[(Self::Glommio.name(), Self::Glommio), (Self::IoUring.name(), Self::IoUring)];
}

impl Word for OnFailure {
    const WORDS: &'static [(&'static str, Self)] = &[("deny", Self::Deny), ("allow", Self::Allow)];
}

impl Word for Enrolment {
    const WORDS: &'static [(&'static str, Self)] = &[("open", Self::Open), ("token", Self::Token)];
}

impl Word for WalSync {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("fdatasync", Self::Fdatasync), ("dsync", Self::Dsync)];
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(count) => write!(f, "{count}"),
        }
    }
}

impl fmt::Display for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline => f.write_str("inline"),
            Self::Workers(cpus) => f.write_str(&cpu_list_text(cpus)),
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::List(cpus) => f.write_str(&cpu_list_text(cpus)),
        }
    }
}

/// Reads one of the words of `W`.
pub(super) fn read_word<W: Word>(written: &Written<'_>) -> Result<W, String> {
    let words = || W::WORDS.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let Some(text) = written.text() else {
        return Err(format!("expected one of {}, found {}", words(), written.found()));
    };
    match W::WORDS.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => match nearest(text, W::WORDS.iter().map(|(word, _)| *word)) {
            Some(word) => Err(format!("{} is not one of {}: did you mean \"{word}\"?", quoted(text), words())),
            None => Err(format!("expected one of {}, found {}", words(), written.found())),
        },
    }
}

/// Reads a whole number in `range`.
pub(super) fn read_count(written: &Written<'_>, range: &RangeInclusive<u32>) -> Result<u32, String> {
    let number = written.integer().ok_or_else(|| format!("expected a whole number, found {}", written.found()))?;
    u32::try_from(number)
        .ok()
        .filter(|count| range.contains(count))
        .ok_or_else(|| format!("{number} is out of range: from {} to {}", range.start(), range.end()))
}

/// Reads a size: a number of bytes, or a text like `64 MiB`.
pub(super) fn read_size(written: &Written<'_>, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let expected = || format!("expected a size such as 4096 or \"64 MiB\", found {}", written.found());
    let bytes = match (written.integer(), written.text()) {
        (Some(bytes), _) => bytes,
        (None, Some(text)) => size_from_text(text).ok_or_else(expected)?,
        (None, None) => return Err(expected()),
    };
    u64::try_from(bytes).ok().filter(|bytes| range.contains(bytes)).ok_or_else(|| {
        let shown = u64::try_from(bytes).map_or_else(|_| bytes.to_string(), size_text);
        format!("{shown} is out of range: from {} to {}", size_text(*range.start()), size_text(*range.end()))
    })
}

/// Reads a time with its unit: `7d`, `36h`, `90m`, `3600s`.
pub(super) fn read_span(written: &Written<'_>, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let expected = || format!("expected a time with its unit such as \"7d\" or \"12h\", found {}", written.found());
    let text = written.text().ok_or_else(expected)?;
    let span = span_from_text(text).ok_or_else(expected)?;
    if range.contains(&span) {
        return Ok(span);
    }
    let (shortest, longest) = (span_text(*range.start()), span_text(*range.end()));
    Err(format!("{} is out of range: from {shortest} to {longest}", span_text(span)))
}

/// A time of whole seconds as a person writes it, exact: `7d`, `36h`, `90m`.
#[must_use]
pub fn span_text(span: Duration) -> String {
    let seconds = span.as_secs();
    let (unit, seconds_each) =
        SPAN_UNITS.into_iter().find(|(_, each)| seconds.is_multiple_of(*each)).unwrap_or(("s", 1));
    format!("{}{unit}", seconds / seconds_each)
}

const SPAN_UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

fn span_from_text(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let (_, seconds_each) = SPAN_UNITS.into_iter().find(|(unit, _)| *unit == text[digits..].trim())?;
    number.checked_mul(seconds_each).map(Duration::from_secs)
}

/// Reads `"auto"`, a number or nothing else.
pub(super) fn read_shards(written: &Written<'_>, shard_count_max: u16) -> Result<Shards, String> {
    match (written.integer(), written.text()) {
        (Some(number), _) => u16::try_from(number)
            .ok()
            .filter(|count| (1..=shard_count_max).contains(count))
            .map(Shards::Exactly)
            .ok_or_else(|| format!("{number} is out of range: from 1 to {shard_count_max}, or \"auto\"")),
        (None, Some("auto")) => Ok(Shards::Auto),
        _ => Err(format!("expected \"auto\" or a number of shards, found {}", written.found())),
    }
}

/// Reads `"auto"`, a number or nothing else.
pub(super) fn read_in_flight(written: &Written<'_>, count_max: u16) -> Result<WritesInFlight, String> {
    match (written.integer(), written.text()) {
        (Some(number), _) => u16::try_from(number)
            .ok()
            .filter(|count| (1..=count_max).contains(count))
            .map(WritesInFlight::Exactly)
            .ok_or_else(|| format!("{number} is out of range: from 1 to {count_max}, or \"auto\"")),
        (None, Some("auto")) => Ok(WritesInFlight::Auto),
        _ => Err(format!("expected \"auto\" or a number of writes, found {}", written.found())),
    }
}

/// Reads an array of names, or a text with commas between them, each once.
pub(super) fn read_agents(written: &Written<'_>, most: usize) -> Result<Vec<AgentName>, String> {
    let expected = || format!("expected an array of agents such as [\"acme/ops\"], found {}", written.found());
    let texts = match written {
        Written::Array(items) => items.iter().map(Written::text).collect::<Option<Vec<_>>>().ok_or_else(expected)?,
        _ => written.text().ok_or_else(expected)?.split(',').map(str::trim).filter(|text| !text.is_empty()).collect(),
    };
    if texts.len() > most {
        return Err(format!("{} agents are too many: at most {most}", texts.len()));
    }
    let mut names: Vec<AgentName> = Vec::new();
    for text in texts {
        let name = AgentName::parse(text).map_err(|error| format!("{} is no agent: {error}", quoted(text)))?;
        if names.contains(&name) {
            return Err(format!("{name} is named twice"));
        }
        names.push(name);
    }
    Ok(names)
}

/// Reads `"auto"`, a list like `"0,2-3"` or an array of numbers.
pub(super) fn read_cpus(written: &Written<'_>) -> Result<Cpus, String> {
    if written.text() == Some("auto") {
        return Ok(Cpus::Auto);
    }
    read_cpu_list(written, "auto", "two shards on one CPU take turns").map(Cpus::List)
}

/// Reads `"inline"`, a list like `"0,2-3"` or an array of numbers.
pub(super) fn read_crypto(written: &Written<'_>) -> Result<Crypto, String> {
    if written.text() == Some("inline") {
        return Ok(Crypto::Inline);
    }
    read_cpu_list(written, "inline", "one worker keeps a CPU busy").map(Crypto::Workers)
}

/// Reads CPUs; `word` is what could be written instead of them.
fn read_cpu_list(written: &Written<'_>, word: &str, why_once: &str) -> Result<Vec<u16>, String> {
    let expected = || {
        let found = written.found();
        format!("expected \"{word}\", a list such as \"0,2-3\" or an array of numbers, found {found}")
    };
    let cpus = match written {
        Written::Array(items) => {
            let cpu = |item: &Written<'_>| item.integer().and_then(|number| u16::try_from(number).ok());
            items.iter().map(cpu).collect::<Option<Vec<_>>>().ok_or_else(expected)?
        }
        _ => match written.text() {
            Some(text) => cpu_list_from_text(text).ok_or_else(expected)?,
            None => return Err(expected()),
        },
    };
    if cpus.is_empty() {
        return Err(format!("the list of CPUs is empty: name at least one, or write \"{word}\""));
    }
    if let Some(cpu) = cpus.iter().find(|cpu| **cpu > CPU_INDEX_MAX) {
        return Err(format!("CPU {cpu} is out of range: from 0 to {CPU_INDEX_MAX}"));
    }
    if let Some((_, cpu)) = cpus.iter().enumerate().find(|(index, cpu)| cpus[..*index].contains(cpu)) {
        return Err(format!("CPU {cpu} is named twice: {why_once}"));
    }
    Ok(cpus)
}

/// The numbers of a list like `0,2-3`, or nothing if it is not one.
pub fn cpu_list_from_text(text: &str) -> Option<Vec<u16>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > CPU_INDEX_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The list in its shortest form, in the same order: `0,2-3`.
pub fn cpu_list_text(cpus: &[u16]) -> String {
    let mut parts = Vec::new();
    let mut rest = cpus;
    while let Some(&first) = rest.first() {
        let run = rest.iter().zip(first..).take_while(|(cpu, expect)| **cpu == *expect).count();
        let last = rest[run - 1];
        parts.push(if run < 2 { first.to_string() } else { format!("{first}-{last}") });
        rest = &rest[run..];
    }
    parts.join(",")
}

/// Bytes as a person writes them, exact: `64 MiB`, `4097 B`.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    let (unit, shift) = match bytes.trailing_zeros() {
        _ if bytes == 0 => ("B", 0),
        40.. => ("TiB", 40),
        30.. => ("GiB", 30),
        20.. => ("MiB", 20),
        10.. => ("KiB", 10),
        _ => ("B", 0),
    };
    format!("{} {unit}", bytes >> shift)
}

/// Bytes as the configuration takes them: `67108864`, `"64 MiB"`.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    size_from_text(text).and_then(|bytes| u64::try_from(bytes).ok())
}

/// A time of whole seconds as the configuration takes it: `7d`, `36h`, `90m`, `3600s`.
#[must_use]
pub fn parse_span(text: &str) -> Option<Duration> {
    span_from_text(text)
}

fn size_from_text(text: &str) -> Option<i128> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let number: i128 = text[..digits].replace('_', "").parse().ok()?;
    let unit: i128 = match text[digits..].trim() {
        "B" | "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The candidate that was probably meant, if one is near enough.
pub(super) fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&text, &candidate.to_lowercase()), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .map(|(_, candidate)| candidate)
}

/// The text between quotes, cut short, with nothing in it that moves a terminal's cursor.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}
