//! A dashboard for Grafana and alert rules for Prometheus, made of [`families`](crate::families).

use std::fmt::Write;

use serde_json::{Value, json};

use crate::families::{
    AGENT_LOGINS, CHANNEL_MESSAGES_PUBLISHED, CHANNEL_MESSAGES_PUSHED, DIRECTORY_AGENTS, MAILBOX_CACHED_BYTES,
    MAILBOX_DELIVER_SECONDS, MAILBOX_MESSAGES_DEAD, MAILBOX_MESSAGES_DURABLE, MAILBOX_MESSAGES_EXPIRED,
    MAILBOX_MESSAGES_PUSHED, MAILBOX_MESSAGES_SETTLED, MAILBOX_QUEUED_BYTES, MAILBOX_QUEUED_MESSAGES,
    MAILBOX_SETTLE_SECONDS, MAILBOX_UNREADABLE, NET_CONNECTIONS, NET_DATAGRAMS_DROPPED, NET_RECEIVED_BYTES,
    NET_SENT_BYTES, NODE_READY, NODE_REJECTS, NODE_RESIDENT_BYTES, POLICY_ALLOWED_WITHOUT, POLICY_AUTHORIZE_SECONDS,
    POLICY_EVALUATIONS, RING_FULL, SHARD_CPU_SECONDS, SHARD_STATE, SUBMIT_ACKNOWLEDGE_SECONDS, SUBMIT_BATCHES,
    SUBMIT_RECEIVE_SECONDS, SUBMIT_VERIFY_SECONDS, WAL_BYTES, WAL_BYTES_MAX, WAL_ERRORS, WAL_QUEUE_SECONDS,
    WAL_ROOM_BYTES, WAL_WRITE_SECONDS, WAL_WRITES, WAL_WRITTEN_BYTES,
};
use crate::{Family, Kind};

impl Family {
    /// The name that its values have in the text: counters end with `_total`.
    #[must_use]
    pub fn sample_name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge | Kind::Histogram => self.name.to_owned(),
        }
    }

    fn rate(&self) -> String {
        format!("rate({}[$__rate_interval])", self.sample_name())
    }

    fn rate_by(&self, label: &str) -> String {
        format!("sum by ({label}) ({})", self.rate())
    }
}

/// What one panel shows: its title, the unit as Grafana calls it, and what is drawn under which name.
struct Panel {
    title: &'static str,
    unit: &'static str,
    drawn: Vec<(String, &'static str)>,
}

/// The stages of a message's way through a node, in their order.
const STAGES: [(&Family, &str); 8] = [
    (&SUBMIT_RECEIVE_SECONDS, "1 received"),
    (&SUBMIT_VERIFY_SECONDS, "2 verified"),
    (&POLICY_AUTHORIZE_SECONDS, "3 authorized"),
    (&WAL_QUEUE_SECONDS, "4 waited for the write"),
    (&WAL_WRITE_SECONDS, "5 written"),
    (&SUBMIT_ACKNOWLEDGE_SECONDS, "6 acknowledged"),
    (&MAILBOX_DELIVER_SECONDS, "6 delivered"),
    (&MAILBOX_SETTLE_SECONDS, "7 settled"),
];

fn panels() -> Vec<Panel> {
    let all = |family: &Family| format!("sum({})", family.rate());
    let now = |family: &Family| format!("sum({})", family.sample_name());
    let quantile = |share: &str, family: &Family| {
        format!("histogram_quantile({share}, sum by (le) (rate({}_bucket[$__rate_interval])))", family.name)
    };
    let write = |share: &str| quantile(share, &WAL_WRITE_SECONDS);
    let stages = |share: &str| STAGES.map(|(family, stage)| (quantile(share, family), stage)).to_vec();
    let per_message = format!("{} / {}", all(&SHARD_CPU_SECONDS), all(&MAILBOX_MESSAGES_DURABLE));
    vec![
        Panel {
            title: "Messages",
            unit: "ops",
            drawn: vec![
                (all(&MAILBOX_MESSAGES_DURABLE), "durable"),
                (all(&MAILBOX_MESSAGES_PUSHED), "pushed"),
                (all(&MAILBOX_MESSAGES_SETTLED), "settled"),
                (all(&CHANNEL_MESSAGES_PUBLISHED), "published"),
                (all(&CHANNEL_MESSAGES_PUSHED), "pushed in channels"),
            ],
        },
        Panel {
            title: "Durable write",
            unit: "s",
            drawn: vec![(write("0.5"), "p50"), (write("0.99"), "p99"), (write("0.999"), "p99.9")],
        },
        Panel { title: "Stages, p50", unit: "s", drawn: stages("0.5") },
        Panel { title: "Stages, p99", unit: "s", drawn: stages("0.99") },
        Panel {
            title: "Messages a write",
            unit: "short",
            drawn: vec![(
                format!("{} / {}", MAILBOX_MESSAGES_DURABLE.rate_by("shard"), WAL_WRITES.rate_by("shard")),
                "shard {{shard}}",
            )],
        },
        Panel { title: "CPU a durable message", unit: "s", drawn: vec![(per_message, "shards together")] },
        Panel {
            title: "CPU of the shards",
            unit: "percentunit",
            drawn: vec![(SHARD_CPU_SECONDS.rate_by("shard"), "shard {{shard}}")],
        },
        Panel { title: "Refusals", unit: "ops", drawn: vec![(NODE_REJECTS.rate_by("code"), "{{code}}")] },
        Panel { title: "Waiting messages", unit: "short", drawn: vec![(now(&MAILBOX_QUEUED_MESSAGES), "messages")] },
        Panel {
            title: "Waiting bytes",
            unit: "bytes",
            drawn: vec![(now(&MAILBOX_QUEUED_BYTES), "waiting"), (now(&MAILBOX_CACHED_BYTES), "of these in memory")],
        },
        Panel {
            title: "The logs",
            unit: "bytes",
            drawn: vec![
                (now(&WAL_BYTES), "files"),
                (now(&WAL_BYTES_MAX), "can grow to"),
                (now(&WAL_ROOM_BYTES), "left for messages"),
            ],
        },
        Panel {
            title: "Written to the logs",
            unit: "Bps",
            drawn: vec![(WAL_WRITTEN_BYTES.rate_by("shard"), "shard {{shard}}")],
        },
        Panel {
            title: "Network",
            unit: "Bps",
            drawn: vec![(all(&NET_RECEIVED_BYTES), "in"), (all(&NET_SENT_BYTES), "out")],
        },
        Panel {
            title: "Connections and agents",
            unit: "short",
            drawn: vec![
                (now(&NET_CONNECTIONS), "connections"),
                (now(&DIRECTORY_AGENTS), "registered agents"),
                (all(&AGENT_LOGINS), "logins a second"),
            ],
        },
        Panel {
            title: "Batches and decisions",
            unit: "ops",
            drawn: vec![(all(&SUBMIT_BATCHES), "batches"), (all(&POLICY_EVALUATIONS), "policy evaluations")],
        },
        Panel {
            title: "What became of the others",
            unit: "ops",
            drawn: vec![(all(&MAILBOX_MESSAGES_EXPIRED), "expired"), (all(&MAILBOX_MESSAGES_DEAD), "dead letters")],
        },
        Panel {
            title: "Short of room",
            unit: "ops",
            drawn: vec![(all(&RING_FULL), "rings full"), (all(&NET_DATAGRAMS_DROPPED), "datagrams dropped")],
        },
        Panel { title: "Memory", unit: "bytes", drawn: vec![(now(&NODE_RESIDENT_BYTES), "resident")] },
    ]
}

/// The dashboard, to be imported into Grafana: two panels in a row, of whichever Prometheus is chosen.
#[must_use]
pub fn grafana() -> Value {
    let source = json!({ "type": "prometheus", "uid": "${source}" });
    let panels: Vec<Value> = panels()
        .into_iter()
        .enumerate()
        .map(|(index, panel)| {
            let targets: Vec<Value> = panel
                .drawn
                .into_iter()
                .zip("ABCDEFGH".chars())
                .map(|((expression, legend), name)| {
                    json!({ "refId": name.to_string(), "datasource": source, "expr": expression, "legendFormat": legend })
                })
                .collect();
            json!({
                "id": index + 1,
                "type": "timeseries",
                "title": panel.title,
                "datasource": source,
                "gridPos": { "x": 12 * (index % 2), "y": 8 * (index / 2), "w": 12, "h": 8 },
                "fieldConfig": { "defaults": { "unit": panel.unit, "min": 0 }, "overrides": [] },
                "options": { "legend": { "displayMode": "list", "placement": "bottom" }, "tooltip": { "mode": "multi" } },
                "targets": targets,
            })
        })
        .collect();
    json!({
        "uid": "creto-node",
        "title": "creto node",
        "schemaVersion": 39,
        "editable": true,
        "refresh": "10s",
        "time": { "from": "now-1h", "to": "now" },
        "templating": { "list": [{ "name": "source", "type": "datasource", "query": "prometheus" }] },
        "panels": panels,
    })
}

/// When somebody is to be told.
struct Rule {
    name: &'static str,
    expression: String,
    lasts: &'static str,
    severity: &'static str,
    summary: &'static str,
    action: &'static str,
}

fn rules() -> Vec<Rule> {
    let grows = |family: &Family| format!("increase({}[5m]) > 0", family.sample_name());
    vec![
        Rule {
            name: "CretoNodeNotReady",
            expression: format!("{} == 0", NODE_READY.sample_name()),
            lasts: "30s",
            severity: "page",
            summary: "a shard does not serve, or the node does not decide by the newest directory",
            action: "Run `creto status` on the node: it says which, and what to do.",
        },
        Rule {
            name: "CretoShardFenced",
            expression: format!("{}{{state=\"fenced\"}} == 1", SHARD_STATE.sample_name()),
            lasts: "0s",
            severity: "page",
            summary: "the disk of a shard failed, and nothing is acknowledged there until the node is started again",
            action: "Look at the disk (`dmesg`, `creto doctor`), then start the node again.",
        },
        Rule {
            name: "CretoDiskErrors",
            expression: grows(&WAL_ERRORS),
            lasts: "0s",
            severity: "page",
            summary: "disk operations failed",
            action: "Look at the disk (`dmesg`, `creto doctor`).",
        },
        Rule {
            name: "CretoMessagesUnreadable",
            expression: grows(&MAILBOX_UNREADABLE),
            lasts: "0s",
            severity: "page",
            summary: "messages that were acknowledged cannot be read back",
            action: "Run `creto wal verify` on a copy of the data folder, and look at the disk.",
        },
        Rule {
            name: "CretoLogFull",
            expression: format!("{}{{state=\"full\"}} == 1", SHARD_STATE.sample_name()),
            lasts: "1m",
            severity: "page",
            summary: "a log has no room: messages are refused",
            action: "Find the mailboxes that nobody reads (`creto mailbox list`), or give the log more room.",
        },
        Rule {
            name: "CretoLogFillsUp",
            expression: format!("{} < 0.25 * {}", WAL_ROOM_BYTES.sample_name(), WAL_BYTES_MAX.sample_name()),
            lasts: "5m",
            severity: "ticket",
            summary: "a log has less than a quarter of its room left: senders are slowed down",
            action: "Find the mailboxes that nobody reads (`creto mailbox list`), or give the log more room.",
        },
        Rule {
            name: "CretoDurableWritesSlow",
            expression: format!(
                "histogram_quantile(0.99, sum by (instance, le) (rate({}_bucket[5m]))) > 0.1",
                WAL_WRITE_SECONDS.name
            ),
            lasts: "10m",
            severity: "ticket",
            summary: "one durable write in a hundred takes more than 100 ms",
            action: "Look at what else uses the disk; `creto doctor` measures it.",
        },
        Rule {
            name: "CretoMessagesWaitForWrites",
            expression: format!(
                "histogram_quantile(0.99, sum by (instance, le) (rate({}_bucket[5m]))) > 0.5",
                WAL_QUEUE_SECONDS.name
            ),
            lasts: "10m",
            severity: "ticket",
            summary: "one batch in a hundred waits for more than 500 ms until its write begins: the logs take less than what comes",
            action: "See with `creto top` which shards; give the node more shards or a faster disk, or send less.",
        },
        Rule {
            name: "CretoAllowedWithoutPolicy",
            expression: grows(&POLICY_ALLOWED_WITHOUT),
            lasts: "0s",
            severity: "page",
            summary: "everything is allowed, because no policy can be loaded and the configuration says so",
            action: "Run `creto policy check`: it says why the policy cannot be loaded.",
        },
        Rule {
            name: "CretoShardBusy",
            expression: format!("rate({}[5m]) > 0.9", SHARD_CPU_SECONDS.sample_name()),
            lasts: "10m",
            severity: "ticket",
            summary: "a shard's thread uses more than nine tenths of its CPU",
            action: "Give the node more shards, or see with `creto top` what they do.",
        },
    ]
}

/// The alert rules, as Prometheus reads them (YAML).
#[must_use]
pub fn alert_rules() -> String {
    let mut out = String::from("groups:\n  - name: creto\n    rules:\n");
    for Rule { name, expression, lasts, severity, summary, action } in rules() {
        // Single quotes, in which YAML knows no escapes but of themselves.
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        write!(
            out,
            "      - alert: {name}\n        expr: {}\n        for: {lasts}\n        labels:\n          severity: {severity}\n        annotations:\n          summary: {}\n          description: {}\n",
            quoted(&expression),
            quoted(summary),
            quoted(action),
        )
        .expect("a String takes what is written");
    }
    out
}
