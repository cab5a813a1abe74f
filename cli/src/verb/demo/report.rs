//! What the demo found: a table for people, one object for machines, and the verdict.

use std::io::Write;
use std::time::Duration;

use creto_agent::RejectCode;
use serde_json::{Value, json};

use super::audit::Findings;
use super::book::{Counts, percentile};
use super::probe::{Revoked, Verdict};
use super::traffic::Hidden;
use crate::terminal::{BAD, DIM, GOOD, LITERAL, STRONG, grouped, wrap};

/// Columns of the table's labels and values; what is left of 80 is for the remark.
const LABEL_CHARS: usize = 18;
const VALUE_CHARS: usize = 10;
const REMARK_CHARS: usize = 80 - LABEL_CHARS - VALUE_CHARS - 3;

/// Everything that was counted.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) counts: Counts,
    pub(super) hidden: Hidden,
    /// Answers other than receipts, by their text.
    pub(super) failures: Vec<(String, u64)>,
    pub(super) sender_count: usize,
    pub(super) receiver_count: usize,
    pub(super) shard_count: u16,
    pub(super) payload_bytes: (usize, usize),
    pub(super) input: Option<String>,
    pub(super) tampered: Verdict,
    pub(super) untampered: Verdict,
    pub(super) denied: Verdict,
    /// `None`: it never came to it.
    pub(super) revoked: Option<Revoked>,
    /// What the node's audit log says; or why it says nothing that counts.
    pub(super) audit: Result<Findings, String>,
    /// Processes that SIGKILL ended.
    pub(super) kills: u64,
    pub(super) acknowledged_at_kill: u64,
    pub(super) restart: Duration,
    pub(super) steady_per_second: u64,
    pub(super) burst: Duration,
    pub(super) burst_messages: u64,
    pub(super) node_cpu: Duration,
    /// Of that, until the burst was delivered.
    pub(super) burst_cpu: Duration,
    /// Messages that the node still holds after everything was acknowledged.
    pub(super) left_in_mailboxes: u64,
    /// The last process ended in order, with everything answered.
    pub(super) node_stopped: bool,
    pub(super) on_disk: bool,
}

impl Report {
    /// What is not as it must be; empty when all is well.
    pub(super) fn problems(&self) -> Vec<String> {
        let counts = &self.counts;
        let mut problems = Vec::new();
        let mut check = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        let many = |count: u64, what: &str| format!("{} {what}", grouped(count));
        check(counts.lost == 0, many(counts.lost, "acknowledged messages were not delivered"));
        check(counts.delivered_twice == 0, many(counts.delivered_twice, "messages reached an application twice"));
        check(counts.unknown == 0, many(counts.unknown, "messages were delivered that nobody sent"));
        let altered = counts.delivered - counts.verified;
        check(altered == 0, many(altered, "messages were delivered with other content, sender or mailbox"));
        check(counts.out_of_order == 0, many(counts.out_of_order, "messages overtook earlier ones of their sender"));
        let unanswered = counts.sent - counts.acknowledged;
        check(unanswered == 0, many(unanswered, "messages were never acknowledged"));
        for (text, count) in &self.failures {
            check(false, format!("{} times: {text}", grouped(*count)));
        }
        check(self.hidden.rejected == 0, many(self.hidden.rejected, "deliveries did not verify at their receiver"));
        check(self.tampered.is(RejectCode::BatchRoot), format!("the tampered batch: {}", self.tampered.text()));
        check(self.untampered == Verdict::Accepted, format!("the same batch untouched: {}", self.untampered.text()));
        check(self.denied.is(RejectCode::PolicyDenied), format!("the forbidden send: {}", self.denied.text()));
        let (closed, again) = self.revoked_verdicts();
        check(closed.is(RejectCode::AgentRevoked), format!("the connection of a revoked agent: {}", closed.text()));
        check(again.is(RejectCode::AgentRevoked), format!("the login of a revoked agent: {}", again.text()));
        check(self.kills > 0, "no node was killed, so nothing was proven".to_owned());
        let left = self.left_in_mailboxes;
        check(left == 0, many(left, "messages are still in mailboxes after all were acknowledged"));
        check(self.node_stopped, "the node did not stop in order when it was asked to".to_owned());
        match &self.audit {
            Ok(findings) => problems.extend(findings.problems(counts.acknowledged)),
            Err(error) => problems.push(format!("the audit log: {error}")),
        }
        problems
    }

    pub(super) fn to_json(&self) -> Value {
        let counts = &self.counts;
        let latency = |per_mille| percentile(&counts.latencies_us, per_mille);
        json!({
            "sent": counts.sent,
            "acknowledged": counts.acknowledged,
            "delivered": counts.delivered,
            "verified": counts.verified,
            "lost": counts.lost,
            "duplicates": self.hidden.by_node + self.hidden.by_agents,
            "duplicates_hidden_by_node": self.hidden.by_node,
            "duplicates_hidden_by_agents": self.hidden.by_agents,
            "delivered_twice": counts.delivered_twice,
            "out_of_order": counts.out_of_order,
            "rejected_tampered": u64::from(matches!(self.tampered, Verdict::Refused(_))),
            "rejected_tampered_reason": self.tampered.text(),
            "rejected_denied": u64::from(matches!(self.denied, Verdict::Refused(_))),
            "rejected_denied_reason": self.denied.text(),
            "rejected_revoked": u64::from(matches!(self.revoked_verdicts().1, Verdict::Refused(_))),
            "rejected_revoked_reason": self.revoked_verdicts().1.text(),
            "revocation_closed_reason": self.revoked_verdicts().0.text(),
            "revocation_closed_ms": self.revoked.map(|revoked| (revoked.closed_after.as_secs_f64() * 1e4).round() / 10.0),
            "audit": self.audit.as_ref().ok().map(Findings::to_json),
            "node_restarts": self.kills,
            "node_restart_ms": millis(self.restart),
            "longest_delivery_pause_ms": millis(counts.longest_pause),
            "reconnects": self.hidden.reconnects,
            "sealed": self.hidden.paid.sealed,
            "encapsulations": self.hidden.paid.encapsulations,
            "signatures": self.hidden.paid.signatures,
            "latency_messages": counts.latencies_us.len(),
            "latency_rate_per_s": self.steady_per_second,
            "p50_us": latency(500),
            "p99_us": latency(990),
            "p999_us": latency(999),
            "node_cpu_us_per_message": self.cpu_us(),
            "node_cpu_us_per_burst_message": self.burst_cpu_us(),
            "burst_messages": self.burst_messages,
            "burst_messages_per_s": self.per_second(),
            "payload_bytes_min": self.payload_bytes.0,
            "payload_bytes_max": self.payload_bytes.1,
            "shards": self.shard_count,
            "on_disk": self.on_disk,
            "problems": self.problems(),
        })
    }

    fn cpu_us(&self) -> Option<f64> {
        cpu_us(self.node_cpu, self.counts.delivered)
    }

    fn burst_cpu_us(&self) -> Option<f64> {
        cpu_us(self.burst_cpu, self.burst_messages)
    }

    fn per_second(&self) -> u64 {
        let per_s = u128::from(self.burst_messages) * 1_000_000 / self.burst.as_micros().max(1);
        u64::try_from(per_s).unwrap_or(u64::MAX)
    }

    pub(super) fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Self { counts, hidden, .. } = self;
        let (senders, receivers) = (self.sender_count, self.receiver_count);
        let row = |out: &mut _, label: &str, value: String, holds: bool, remark: &str| {
            print_row(out, label, &value, holds, remark)
        };
        let count = |count: u64| grouped(count);
        let whole = |count: u64| count == counts.sent;
        let payloads = self.payloads();
        row(out, "sent", count(counts.sent), true, &format!("{payloads}; {senders} agents to {receivers}, over QUIC"))?;
        let remark = match self.on_disk {
            true => "each was on disk before its sender was told so",
            false => "each was in the log before its sender was told so; no disk here, only memory",
        };
        row(out, "acknowledged", count(counts.acknowledged), whole(counts.acknowledged), remark)?;
        row(out, "delivered", count(counts.delivered), whole(counts.delivered), "each counted once")?;
        let remark = "both signatures, tree path and seal held; content as it was sent";
        row(out, "verified", count(counts.verified), whole(counts.verified), remark)?;
        let remark = match counts.delivered_twice {
            0 => "sent or pushed again around the kill; none reached an application".to_owned(),
            twice => format!("{} more did reach an application", grouped(twice)),
        };
        let duplicates = hidden.by_node + hidden.by_agents;
        row(out, "duplicates hidden", count(duplicates), counts.delivered_twice == 0, &remark)?;
        row(out, "lost", count(counts.lost), counts.lost == 0, "acknowledged and not delivered")?;
        let paid = &hidden.paid;
        let remark = format!(
            "for {} messages sealed: one opens a session, which has a key for each message",
            count(paid.sealed)
        );
        row(out, "encapsulations", count(paid.encapsulations), true, &remark)?;
        let remark = "Ed25519 and ML-DSA-65 over the root of a batch; every message is under one";
        row(out, "signatures", count(paid.signatures), true, remark)?;
        writeln!(out)?;
        self.print_refused(out)?;
        let remark = format!(
            "SIGKILL after {} acknowledgements; serving again in {} ms, longest pause between two deliveries {} ms",
            grouped(self.acknowledged_at_kill),
            millis(self.restart),
            millis(counts.longest_pause)
        );
        row(out, "node restarts", count(self.kills), self.kills > 0, &remark)?;
        let after = self.revoked.map_or_else(|| "-".to_owned(), |revoked| super::millis(revoked.closed_after));
        let closed = self.revoked_verdicts().0;
        let remark = format!("from the operator's word until the agent's connection was closed: {}", closed.text());
        row(out, "revoked in", after, closed.is(RejectCode::AgentRevoked), &remark)?;
        writeln!(out)?;
        match &self.audit {
            Ok(findings) => findings.print(out, counts.acknowledged)?,
            Err(error) => row(out, "audit log", "-".to_owned(), false, error)?,
        }
        writeln!(out)?;
        self.print_figures(out)
    }

    /// How the connection of the agent that was revoked was closed, and what its next login was answered.
    fn revoked_verdicts(&self) -> (Verdict, Verdict) {
        self.revoked.map_or((Verdict::NotTried, Verdict::NotTried), |revoked| (revoked.closed, revoked.again))
    }

    fn print_refused(&self, out: &mut impl Write) -> std::io::Result<()> {
        let attempts = [
            (self.tampered, RejectCode::BatchRoot, "one byte changed in a batch that was signed properly"),
            (self.denied, RejectCode::PolicyDenied, "an agent of another organization wrote to one of this"),
            (self.revoked_verdicts().1, RejectCode::AgentRevoked, "an agent that was revoked logged in again"),
        ];
        let refused = attempts.iter().filter(|(verdict, ..)| matches!(verdict, Verdict::Refused(_))).count();
        let (mut label, mut value) = ("refused", grouped(refused as u64));
        for (verdict, wanted, what) in attempts {
            print_row(out, label, &value, verdict.is(wanted), &format!("{}: {what}", verdict.text()))?;
            (label, value) = ("", String::new());
        }
        Ok(())
    }

    fn print_figures(&self, out: &mut impl Write) -> std::io::Result<()> {
        let latencies = &self.counts.latencies_us;
        let ms = |per_mille| {
            percentile(latencies, per_mille)
                .map_or_else(|| "-".to_owned(), |us| format!("{:.2} ms", Duration::from_micros(us).as_secs_f64() * 1e3))
        };
        let remark = format!(
            "from due to in the receiver's hands, verified and opened; {} messages, {} a second, open loop",
            grouped(latencies.len() as u64),
            grouped(self.steady_per_second)
        );
        print_row(out, "latency p50", &ms(500), true, &remark)?;
        print_row(out, "        p99", &ms(990), true, "")?;
        print_row(out, "        p99.9", &ms(999), true, "")?;
        let cpu = self.cpu_us().map_or_else(|| "-".to_owned(), |us| format!("{us:.1} us"));
        let burst = self.burst_cpu_us().map_or_else(|| "-".to_owned(), |us| format!("{us:.1}"));
        let remark = format!(
            "per message delivered, start and restart included; {burst} us in the burst, where many share a signature and a sync"
        );
        print_row(out, "node CPU", &cpu, true, &remark)?;
        let remark = "as fast as this machine seals, stores and opens, the kill included";
        print_row(out, "throughput", &format!("{}/s", grouped(self.per_second())), true, remark)
    }

    fn payloads(&self) -> String {
        let (min, max) = (grouped(self.payload_bytes.0 as u64), grouped(self.payload_bytes.1 as u64));
        match &self.input {
            None => format!("{max} bytes each"),
            Some(file) => format!("lines of {file}, {min} to {max} bytes"),
        }
    }
}

/// What to do after the table.
pub(super) fn print_next(out: &mut impl Write) -> std::io::Result<()> {
    let steps = [
        ("creto demo --input FILE.jsonl", "the same with payloads of your own"),
        ("creto doctor", "is this machine ready for one?"),
        ("creto init && creto serve", "a node that stays"),
    ];
    for (index, (command, what)) in steps.iter().enumerate() {
        let label = if index == 0 { "Next:" } else { "" };
        writeln!(out, "{label:<6}{LITERAL}{command:<31}{LITERAL:#}{DIM}{what}{DIM:#}")?;
    }
    Ok(())
}

/// The last word.
pub(super) fn print_verdict(out: &mut impl Write, problems: &[String]) -> std::io::Result<()> {
    if problems.is_empty() {
        let what = "every acknowledged message arrived once, in order, as it was sent,\n             \
                    and stands once in the audit log";
        return writeln!(out, "{GOOD}{STRONG}all is well{STRONG:#}{GOOD:#}  {what}");
    }
    for problem in problems {
        writeln!(out, "{BAD}failed{BAD:#}  {problem}")?;
    }
    Ok(())
}

/// A row of a table of 80 columns: a label, a figure that is red when it must not be so, a remark.
pub(super) fn print_row(
    out: &mut impl Write,
    label: &str,
    value: &str,
    holds: bool,
    remark: &str,
) -> std::io::Result<()> {
    let style = if holds { STRONG } else { BAD };
    let mut lines = wrap(remark, REMARK_CHARS).into_iter();
    let first = lines.next().unwrap_or_default();
    write!(out, "{label:<LABEL_CHARS$}{style}{value:>VALUE_CHARS$}{style:#}")?;
    if !first.is_empty() {
        write!(out, "   {DIM}{first}{DIM:#}")?;
    }
    writeln!(out)?;
    let indent = LABEL_CHARS + VALUE_CHARS + 3;
    lines.try_for_each(|line| writeln!(out, "{:indent$}{DIM}{line}{DIM:#}", ""))
}

/// Microseconds of CPU time for each message, to a tenth.
fn cpu_us(cpu: Duration, messages: u64) -> Option<f64> {
    let messages = u32::try_from(messages).ok().filter(|count| *count > 0)?;
    Some((cpu.as_secs_f64() * 1e7 / f64::from(messages)).round() / 10.0)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
