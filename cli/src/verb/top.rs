//! `creto top`: what the node that runs here does, shard by shard, from one moment to the next.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use creto_metrics::{Buckets, Family, families as of};
use creto_service::api::MetricReading;
use creto_service::client::Client;
use serde_json::json;

use crate::args::{Global, TopArgs};
use crate::client::{block_on, control_failure};
use crate::exit::{Exit, Failure};
use crate::terminal::{Align, BAD, CAUTION, Columns, DIM, GOOD, STRONG, grouped, stdout};
use crate::verb::recv::Signals;

/// Clears the screen from its upper left corner.
const CLEAR: &str = "\x1b[H\x1b[J";
/// A screen of its own, which leaves what was there before as it was.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Shards leave their numbers ten times a second.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Refusals that are listed, the most frequent first.
const REJECTS_SHOWN: usize = 8;

pub(crate) fn run(global: &Global, args: &TopArgs) -> Result<Exit, Failure> {
    block_on(watch(global, args))
}

async fn watch(global: &Global, args: &TopArgs) -> Result<Exit, Failure> {
    let (config, _) = global.load_config_or_default()?;
    let client = Client::new(config.control_socket());
    let mut signals = Signals::catch()?;
    let mut before = Readings::take(&client).await?;
    let has_screen = !args.json && !args.once && std::io::stdout().is_terminal();
    let _screen = has_screen.then(Screen::enter).transpose()?;
    let mut left = if args.once { 1 } else { args.count.unwrap_or(u64::MAX) };
    while left > 0 {
        tokio::select! {
            () = tokio::time::sleep(args.interval.max(INTERVAL_MIN)) => {}
            () = signals.next() => break,
        }
        let now = Readings::take(&client).await?;
        let shown = Shown::between(&before, &now);
        before = now;
        if args.json {
            let mut exact = std::io::stdout().lock();
            writeln!(exact, "{}", shown.to_json())?;
            exact.flush()?;
        } else {
            if has_screen {
                write!(std::io::stdout(), "{CLEAR}")?;
            }
            shown.print()?;
        }
        left -= 1;
    }
    Ok(Exit::Ok)
}

/// The terminal's second screen, as long as this lives.
struct Screen;

impl Screen {
    fn enter() -> std::io::Result<Self> {
        let mut out = std::io::stdout();
        write!(out, "{ENTER}")?;
        out.flush()?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = std::io::stdout();
        // A terminal that is gone needs no putting back.
        let _ = write!(out, "{LEAVE}").and_then(|()| out.flush());
    }
}

/// Everything that the node said at one moment.
struct Readings {
    at: Instant,
    /// By name and shard; the empty text where there is no shard.
    numbers: BTreeMap<(String, String), f64>,
    writes: BTreeMap<String, Buckets>,
    states: BTreeMap<String, String>,
    rejects: BTreeMap<String, f64>,
    version: String,
}

impl Readings {
    async fn take(client: &Client) -> Result<Self, Failure> {
        let readings = client.metrics().await.map_err(|error| control_failure(&error))?;
        Ok(Self::of(Instant::now(), readings))
    }

    fn of(at: Instant, readings: Vec<MetricReading>) -> Self {
        let mut all = Self {
            at,
            numbers: BTreeMap::new(),
            writes: BTreeMap::new(),
            states: BTreeMap::new(),
            rejects: BTreeMap::new(),
            version: String::new(),
        };
        for MetricReading { name, labels, value, histogram, .. } in readings {
            let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
            let (shard, value) = (label("shard"), value.unwrap_or(0.0));
            if name == of::WAL_WRITE_SECONDS.name {
                let times = histogram.map(|times| Buckets { upto: times.upto, count: times.count, sum: times.sum });
                all.writes.insert(shard, times.unwrap_or_default());
            } else if name == of::SHARD_STATE.name {
                if value > 0.0 {
                    all.states.insert(shard, label("state"));
                }
            } else if name == of::NODE_REJECTS.name {
                *all.rejects.entry(label("code")).or_default() += value;
            } else if name == of::NODE_INFO.name {
                all.version = label("version");
            } else {
                all.numbers.insert((name, shard), value);
            }
        }
        all
    }

    fn get(&self, family: &Family, shard: &str) -> f64 {
        self.numbers.get(&(family.name.to_owned(), shard.to_owned())).copied().unwrap_or(0.0)
    }
}

/// One shard, between two moments.
struct Shard {
    number: String,
    state: String,
    /// Of one CPU, in percent.
    cpu: f64,
    connections: f64,
    durable: f64,
    pushed: f64,
    settled: f64,
    published: f64,
    pushed_in_channels: f64,
    /// Messages that one durable write had in it; none without a write.
    batch: Option<f64>,
    writes: Buckets,
    queued: f64,
    /// Of what the log can grow to, in percent.
    room: f64,
    rings_full: f64,
}

/// What is shown.
struct Shown {
    /// The node was started in between: rates are since then.
    is_restarted: bool,
    seconds: f64,
    version: String,
    is_ready: bool,
    up_seconds: f64,
    agents: f64,
    channels: f64,
    resident_bytes: f64,
    cpu: f64,
    shards: Vec<Shard>,
    /// By code, a second; the most frequent first.
    rejects: Vec<(String, f64)>,
}

impl Shown {
    fn between(before: &Readings, now: &Readings) -> Self {
        let started = now.get(&of::NODE_START_SECONDS, "");
        // A clock that was set back makes a later start an earlier one.
        let is_restarted = (started - before.get(&of::NODE_START_SECONDS, "")).abs() > 1e-6;
        let since_start = unix_seconds() - started;
        let seconds = match is_restarted {
            true => since_start.max(0.001),
            false => (now.at - before.at).as_secs_f64().max(0.001),
        };
        let earlier = |family: &Family, shard: &str| if is_restarted { 0.0 } else { before.get(family, shard) };
        let rate =
            |family: &Family, shard: &str| ((now.get(family, shard) - earlier(family, shard)) / seconds).max(0.0);
        let shards = now.states.iter().map(|(number, state)| {
            let (durable, writes) = (rate(&of::MAILBOX_MESSAGES_DURABLE, number), rate(&of::WAL_WRITES, number));
            let written = now.writes.get(number).cloned().unwrap_or_default();
            let had = if is_restarted { None } else { before.writes.get(number) };
            let most = now.get(&of::WAL_BYTES_MAX, number);
            Shard {
                number: number.clone(),
                state: state.clone(),
                cpu: 100.0 * rate(&of::SHARD_CPU_SECONDS, number),
                connections: now.get(&of::NET_CONNECTIONS, number),
                durable,
                pushed: rate(&of::MAILBOX_MESSAGES_PUSHED, number),
                settled: rate(&of::MAILBOX_MESSAGES_SETTLED, number),
                published: rate(&of::CHANNEL_MESSAGES_PUBLISHED, number),
                pushed_in_channels: rate(&of::CHANNEL_MESSAGES_PUSHED, number),
                batch: (writes > 0.0).then(|| durable / writes),
                writes: had.map_or_else(|| written.clone(), |had| written.since(had)),
                queued: now.get(&of::MAILBOX_QUEUED_MESSAGES, number),
                room: if most > 0.0 { 100.0 * now.get(&of::WAL_ROOM_BYTES, number) / most } else { 0.0 },
                rings_full: rate(&of::RING_FULL, number),
            }
        });
        let mut shards: Vec<Shard> = shards.collect();
        shards.sort_by_key(|shard| shard.number.parse::<u32>().unwrap_or(u32::MAX));
        let rejects = now.rejects.iter().map(|(code, count)| {
            let had = if is_restarted { 0.0 } else { before.rejects.get(code).copied().unwrap_or(0.0) };
            (code.clone(), ((count - had) / seconds).max(0.0))
        });
        let mut rejects: Vec<(String, f64)> = rejects.filter(|(_, rate)| *rate > 0.0).collect();
        rejects.sort_by(|one, other| other.1.total_cmp(&one.1));
        Self {
            is_restarted,
            seconds,
            version: now.version.clone(),
            is_ready: now.get(&of::NODE_READY, "") > 0.0,
            up_seconds: since_start,
            agents: now.get(&of::DIRECTORY_AGENTS, ""),
            channels: now.get(&of::DIRECTORY_CHANNELS, ""),
            resident_bytes: now.get(&of::NODE_RESIDENT_BYTES, ""),
            cpu: 100.0 * rate(&of::NODE_CPU_SECONDS, ""),
            shards,
            rejects,
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let ms = |share| move |writes: &Buckets| writes.quantile(share).map(|seconds| seconds * 1e3);
        let shards = self.shards.iter().map(|shard| {
            json!({
                "shard": shard.number.parse::<u32>().ok(),
                "state": shard.state,
                "cpu_percent": shard.cpu,
                "connections": shard.connections,
                "durable_per_s": shard.durable,
                "pushed_per_s": shard.pushed,
                "settled_per_s": shard.settled,
                "published_per_s": shard.published,
                "pushed_in_channels_per_s": shard.pushed_in_channels,
                "messages_per_write": shard.batch,
                "write_p50_ms_upto": ms(0.5)(&shard.writes),
                "write_p99_ms_upto": ms(0.99)(&shard.writes),
                "queued_messages": shard.queued,
                "log_room_percent": shard.room,
                "rings_full_per_s": shard.rings_full,
            })
        });
        let rejects: BTreeMap<&str, f64> = self.rejects.iter().map(|(code, rate)| (code.as_str(), *rate)).collect();
        json!({
            "seconds": self.seconds,
            "restarted": self.is_restarted,
            "version": self.version,
            "ready": self.is_ready,
            "up_s": self.up_seconds,
            "agents": self.agents,
            "channels": self.channels,
            "resident_bytes": self.resident_bytes,
            "cpu_percent": self.cpu,
            "shards": shards.collect::<Vec<_>>(),
            "rejects_per_s": rejects,
        })
    }

    fn print(&self) -> std::io::Result<()> {
        let mut out = stdout();
        let ready = match self.is_ready {
            true => format!("{GOOD}ready{GOOD:#}"),
            false => format!("{BAD}not ready{BAD:#}"),
        };
        writeln!(
            out,
            "{STRONG}creto {}{STRONG:#}  {ready}  up {}  {} agents  {} channels  {} MiB  {:.0} % CPU",
            self.version,
            duration(self.up_seconds),
            whole(self.agents),
            whole(self.channels),
            whole(self.resident_bytes / f64::from(1 << 20)),
            self.cpu,
        )?;
        if self.is_restarted {
            writeln!(out, "{CAUTION}it was started again: rates are since then{CAUTION:#}")?;
        }
        writeln!(out)?;
        self.table().write(&mut out)?;
        writeln!(out)?;
        if self.rejects.is_empty() {
            writeln!(out, "{DIM}nothing was refused{DIM:#}")?;
        }
        for (code, rate) in self.rejects.iter().take(REJECTS_SHOWN) {
            writeln!(out, "{CAUTION}{}/s{CAUTION:#}  {code}", rounded(*rate))?;
        }
        out.flush()
    }

    fn table(&self) -> Columns {
        let mut table = Columns::new(&[
            ("shard", Align::Right),
            ("state", Align::Left),
            ("CPU", Align::Right),
            ("connections", Align::Right),
            ("durable/s", Align::Right),
            ("pushed/s", Align::Right),
            ("settled/s", Align::Right),
            ("a write", Align::Right),
            ("write p50", Align::Right),
            ("p99", Align::Right),
            ("waiting", Align::Right),
            ("log room", Align::Right),
        ]);
        let upto = |writes: &Buckets, share: f64| match writes.quantile(share) {
            Some(seconds) => format!("<{} ms", milliseconds(seconds)),
            None if writes.count > 0 => ">10 s".to_owned(),
            None => "-".to_owned(),
        };
        for shard in &self.shards {
            table.add([
                shard.number.clone(),
                shard.state.clone(),
                format!("{:.0} %", shard.cpu),
                whole(shard.connections),
                rounded(shard.durable),
                rounded(shard.pushed + shard.pushed_in_channels),
                rounded(shard.settled),
                shard.batch.map_or_else(|| "-".to_owned(), rounded),
                upto(&shard.writes, 0.5),
                upto(&shard.writes, 0.99),
                whole(shard.queued),
                format!("{:.0} %", shard.room),
            ]);
        }
        table
    }
}

fn unix_seconds() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole, and not negative")]
fn whole(number: f64) -> String {
    grouped(number.round().max(0.0) as u64)
}

/// With one place behind the point where that says something.
fn rounded(number: f64) -> String {
    if number > 0.0 && number < 100.0 { format!("{number:.1}") } else { whole(number) }
}

fn milliseconds(seconds: f64) -> String {
    let ms = seconds * 1e3;
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds since a start, and not negative")]
fn duration(seconds: f64) -> String {
    let seconds = Duration::from_secs_f64(seconds.max(0.0)).as_secs();
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(family: &Family, labels: &[(&str, &str)], value: f64) -> MetricReading {
        MetricReading {
            name: family.name.to_owned(),
            kind: family.kind.as_str().to_owned(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            value: Some(value),
            histogram: None,
        }
    }

    fn at(started: f64, durable: f64, writes: f64, denied: f64) -> Vec<MetricReading> {
        let shard = [("shard", "0")];
        vec![
            reading(&of::NODE_START_SECONDS, &[], started),
            reading(&of::SHARD_STATE, &[("shard", "0"), ("state", "serving")], 1.0),
            reading(&of::SHARD_STATE, &[("shard", "0"), ("state", "full")], 0.0),
            reading(&of::MAILBOX_MESSAGES_DURABLE, &shard, durable),
            reading(&of::WAL_WRITES, &shard, writes),
            reading(&of::NODE_REJECTS, &[("shard", "0"), ("code", "PolicyDenied")], denied),
            reading(&of::NODE_REJECTS, &[("shard", "1"), ("code", "PolicyDenied")], denied),
        ]
    }

    #[test]
    fn rates_are_what_was_counted_in_between_by_the_time_that_passed() {
        let begin = Instant::now();
        let before = Readings::of(begin, at(5.0, 1_000.0, 10.0, 1.0));
        let now = Readings::of(begin + Duration::from_secs(2), at(5.0, 3_000.0, 20.0, 4.0));
        let shown = Shown::between(&before, &now);
        let shard = &shown.shards[0];
        assert_eq!((shard.durable, shard.batch, shard.state.as_str()), (1_000.0, Some(200.0), "serving"));
        assert_eq!(shown.rejects, [("PolicyDenied".to_owned(), 3.0)]);
        assert!(!shown.is_restarted);
        let json = shown.to_json();
        assert_eq!(json["shards"][0]["messages_per_write"], 200.0);
        assert!(json["shards"][0]["write_p50_ms_upto"].is_null());
    }

    #[test]
    fn a_node_that_was_started_again_has_no_rates_below_zero() {
        let begin = Instant::now();
        let before = Readings::of(begin, at(5.0, 1_000.0, 10.0, 9.0));
        let now = Readings::of(begin + Duration::from_secs(1), at(unix_seconds() - 0.5, 50.0, 1.0, 0.0));
        let shown = Shown::between(&before, &now);
        assert!(shown.is_restarted && shown.shards[0].durable > 50.0 && shown.rejects.is_empty());
    }

    #[test]
    fn times_read_well() {
        let all = [5.2, 65.0, 3_700.0, 90_000.0].map(duration);
        assert_eq!(all, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!((milliseconds(0.0008), milliseconds(0.05)), ("0.8".to_owned(), "50".to_owned()));
        assert_eq!(
            (rounded(0.0), rounded(12.34), rounded(1_234.5)),
            ("0".to_owned(), "12.3".to_owned(), "1,235".to_owned())
        );
    }
}
