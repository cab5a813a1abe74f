//! `creto audit alerts`: what an operator should look at, and what to do about it.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;

use creto_audit::monitor::{Rule, counts_for, what_to_do};
use creto_audit::{ChainedEvent, What};
use creto_audit_store::LogReader;
use serde_json::{Value, json};

use super::follow::each_checkpoint;
use super::list::{Names, each};
use super::show::as_json;
use super::{folder, store};
use crate::args::Global;
use crate::args::audit::AuditAlertsArgs;
use crate::exit::{Exit, Failure};
use crate::moment::date_time;
use crate::terminal::{Align, BAD, Columns, DIM, GOOD, STRONG, grouped, print_json, stdout};

/// An alert, as it stands in the log.
struct Alert {
    index: u64,
    event: ChainedEvent,
    rule: Rule,
    who: String,
    count: u32,
    window_s: u32,
}

impl Alert {
    fn of(index: u64, event: &ChainedEvent, names: &Names) -> Option<Self> {
        let What::AlertRaised { agent, peer, count, window_s, rule, .. } = event.event.what else { return None };
        let agent = (!agent.is_zero()).then(|| names.of(agent));
        let peer = peer.address().map(|peer| peer.to_string());
        let who = [agent, peer].into_iter().flatten().collect::<Vec<_>>().join(" from ");
        let who = if who.is_empty() { "several, or not known".to_owned() } else { who };
        Some(Self { index, event: *event, rule, who, count, window_s })
    }

    fn as_json(&self) -> Value {
        let mut value = as_json(self.index, &self.event);
        value["who"] = self.who.as_str().into();
        value["next"] = what_to_do(self.rule).into();
        value
    }

    fn row(&self) -> [String; 6] {
        [
            self.index.to_string(),
            date_time(self.event.event.time_ms()),
            self.rule.word().to_owned(),
            self.who.clone(),
            grouped(self.count.into()),
            format!("{} s", self.window_s),
        ]
    }
}

/// What a rule saw, and how often it was too much.
#[derive(Clone, Copy, Default)]
struct Seen {
    events: u64,
    alerts: u64,
}

struct Found {
    names: Names,
    alerts: VecDeque<Alert>,
    seen: BTreeMap<Rule, Seen>,
}

pub(super) fn list(global: &Global, args: &AuditAlertsArgs) -> Result<Exit, Failure> {
    let folder = folder(global, &args.log)?;
    let mut log = LogReader::open(&folder).map_err(|error| store(&error))?;
    let seen = Rule::ALL.iter().map(|(rule, ..)| (*rule, Seen::default())).collect();
    let mut found = Found { names: Names::default(), alerts: VecDeque::new(), seen };
    let is_wanted = |event: &ChainedEvent| args.after.is_none_or(|after| event.event.time_ms() >= after);
    each(&log, 0..log.checkpoint().size, |index, event| {
        found.names.learn(event);
        if is_wanted(event) {
            found.take(index, event, args.limit as usize);
        }
        Ok(())
    })?;
    if !args.follow {
        return report(&found, args.json);
    }
    for alert in &found.alerts {
        print_one(alert, args.json)?;
    }
    each_checkpoint(&folder, || {
        let next = log.checkpoint().size;
        if !log.refresh().map_err(|error| store(&error))? {
            return Ok(());
        }
        each(&log, next..log.checkpoint().size, |index, event| {
            found.names.learn(event);
            Alert::of(index, event, &found.names).map_or(Ok(()), |alert| print_one(&alert, args.json))
        })
    })
}

impl Found {
    fn take(&mut self, index: u64, event: &ChainedEvent, limit: usize) {
        if let Some((rule, count)) = counts_for(&event.event.what) {
            self.seen.entry(rule).or_default().events += u64::from(count);
        }
        let Some(alert) = Alert::of(index, event, &self.names) else { return };
        self.seen.entry(alert.rule).or_default().alerts += 1;
        self.alerts.push_back(alert);
        if self.alerts.len() > limit {
            self.alerts.pop_front();
        }
    }
}

fn print_one(alert: &Alert, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", alert.as_json())?;
        return Ok(out.flush()?);
    }
    let mut out = stdout();
    writeln!(out, "{BAD}{}{BAD:#}", alert.row().join("  "))?;
    writeln!(out, "  {}", what_to_do(alert.rule))?;
    Ok(out.flush()?)
}

fn report(found: &Found, as_json: bool) -> Result<Exit, Failure> {
    let Found { alerts, seen, .. } = found;
    let exit = if alerts.is_empty() { Exit::Ok } else { Exit::Found };
    if as_json {
        let seen: BTreeMap<_, _> = seen
            .iter()
            .map(|(rule, seen)| (rule.word(), json!({ "events": seen.events, "alerts": seen.alerts })))
            .collect();
        print_json(&json!({ "alerts": alerts.iter().map(Alert::as_json).collect::<Vec<_>>(), "seen": seen }))?;
        return Ok(exit);
    }
    let mut out = stdout();
    if alerts.is_empty() {
        writeln!(out, "{GOOD}no alerts{GOOD:#}\n")?;
    } else {
        let mut columns = Columns::new(&[
            ("leaf", Align::Right),
            ("time (UTC)", Align::Left),
            ("rule", Align::Left),
            ("who", Align::Left),
            ("count", Align::Right),
            ("within", Align::Right),
        ]);
        alerts.iter().for_each(|alert| columns.add(alert.row()));
        columns.write(&mut out)?;
        writeln!(out, "\n{STRONG}What to do{STRONG:#}")?;
        for (rule, _) in seen.iter().filter(|(rule, _)| alerts.iter().any(|alert| alert.rule == **rule)) {
            writeln!(out, "  {BAD}{}{BAD:#}: {}", rule.word(), what_to_do(*rule))?;
        }
        writeln!(out)?;
    }
    let mut columns = Columns::new(&[("rule", Align::Left), ("seen", Align::Right), ("alerts", Align::Right)]);
    for (rule, seen) in seen {
        columns.add([rule.word().to_owned(), grouped(seen.events), grouped(seen.alerts)]);
    }
    columns.write(&mut out)?;
    writeln!(out, "{DIM}`[alerts]` says how much of each raises one.{DIM:#}")?;
    Ok(exit)
}
