//! The report as a page: charts as inline SVG, no script, nothing from anywhere else, light and dark as the reader has it. Pure.

use std::fmt::Write as _;

use crate::measure::Point;
use crate::report::{Phase, Report, Row};

mod chart;
mod heat;

use chart::{Chart, Line, Scale};

const STYLE: &str = "
:root{color-scheme:light dark;--bg:#fbfbfd;--card:#fff;--ink:#1c2430;--dim:#667085;--rule:#e4e7ec;--a:#2563eb;--b:#d9480f;--c:#0f8a5f;
--good:#0f8a5f;--bad:#c92a2a;--caution:#b25e09;
--h0:#f4f6d0;--h1:#edf8b1;--h2:#c7e9b4;--h3:#7fcdbb;--h4:#41b6c4;--h5:#1d91c0;--h6:#225ea8;--h7:#253494;--h8:#081d58}
@media(prefers-color-scheme:dark){:root{--bg:#0f141b;--card:#171e28;--ink:#e6eaf0;--dim:#98a2b3;--rule:#2a3441;--a:#7aa2ff;--b:#ff9f6e;
--c:#5ad1a2;--good:#5ad1a2;--bad:#ff8787;--caution:#ffc078;
--h0:#14254f;--h1:#1d3a7a;--h2:#2255a0;--h3:#1d7fb8;--h4:#2fa3bf;--h5:#5fc0b4;--h6:#a3dba8;--h7:#d9f0a3;--h8:#fbfbd0}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px}
h2{font-size:16px;margin:0 0 2px}
p{margin:0 0 8px}
.dim{color:var(--dim)}
.verdict{display:inline-block;padding:1px 10px;border-radius:99px;border:1px solid currentColor;font-weight:600;font-size:14px}
.good{color:var(--good)}.bad{color:var(--bad)}.caution{color:var(--caution)}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));margin-top:16px}
.tiles{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));margin:20px 0 4px}
.card,.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px}
.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums}
.tile span{color:var(--dim);font-size:13px}
.wide{grid-column:1/-1}
svg{display:block;width:100%;height:auto;margin-top:8px}
svg text{fill:var(--dim);font:11px system-ui,sans-serif}
.rule{stroke:var(--rule);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.a{stroke:var(--a)}.b{stroke:var(--b)}.c{stroke:var(--c)}.dash{stroke-dasharray:5 4}
.shade{fill:var(--rule);opacity:.45}
.key{font-size:13px;color:var(--dim)}
.key i{display:inline-block;width:16px;border-top:3px solid;vertical-align:middle;margin:0 6px 0 0}
.key i.a{border-color:var(--a)}.key i.b{border-color:var(--b)}.key i.c{border-color:var(--c)}.key span{margin-right:16px;white-space:nowrap}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin-top:8px}
th,td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--rule)}
th{color:var(--dim);font-weight:500;font-size:13px}
th:first-child,td:first-child{text-align:left;padding-left:0}
tr:last-child td{border-bottom:0}
.scroll{overflow-x:auto}
td.text{text-align:left;overflow-wrap:anywhere}
ul{margin:8px 0 0;padding-left:20px}
.h0{fill:var(--h0);background:var(--h0)}.h1{fill:var(--h1);background:var(--h1)}.h2{fill:var(--h2);background:var(--h2)}.h3{fill:var(--h3);background:var(--h3)}.h4{fill:var(--h4);background:var(--h4)}.h5{fill:var(--h5);background:var(--h5)}.h6{fill:var(--h6);background:var(--h6)}.h7{fill:var(--h7);background:var(--h7)}.h8{fill:var(--h8);background:var(--h8)}
.begin{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:3 3}.halo{stroke:var(--card);stroke-width:4}
.heat svg{min-width:720px}
.heat h3,.heat .map{display:none}
.heat input{position:absolute;opacity:0}
.heat label{display:inline-block;padding:3px 12px;margin:0 6px 4px 0;border:1px solid var(--rule);border-radius:99px;font-size:14px;cursor:pointer}
.heat input:checked+label{border-color:var(--a);color:var(--a);font-weight:600}
.heat input:focus-visible+label{outline:2px solid var(--a);outline-offset:2px}
#heat0:checked~.m0,#heat1:checked~.m1,#heat2:checked~.m2{display:block}
.steps b{display:inline-block;width:22px;height:12px;vertical-align:-1px}
.key .steps{margin:0 8px 0 -8px}
@media print{.heat .map,.heat h3{display:block}.heat label{display:none}}
";

/// The page. It needs nothing but itself.
#[must_use]
pub fn html(report: &Report) -> String {
    let mut page = String::new();
    let options = &report.setup.options;
    let title = format!("creto bench: {}", escaped(&report.scenario));
    // Writing into a string does not fail, here and below.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\">\n<title>{title}</title>\n<style>{STYLE}</style></head>\n<body><main>\n"
    );
    let verdict = match report.valid {
        true => "<span class=\"verdict good\">valid</span>",
        false => "<span class=\"verdict bad\">not valid</span>",
    };
    let offered = match (options.rate, options.closed_loop) {
        (Some(rate), _) => format!("{} messages/s offered, {} arrivals", grouped(rate), escaped(&options.arrival)),
        (None, count) => format!("closed loop of {}", grouped(count.unwrap_or(0) as u64)),
    };
    let _ = write!(
        page,
        "<h1>{title} {verdict}</h1>\n<p class=\"dim\">{offered} for {} s after {} s of warm-up, {} run{}, {} bytes, {}</p>\n",
        options.duration_s,
        options.warmup_s,
        report.runs.len(),
        if report.runs.len() == 1 { "" } else { "s" },
        escaped(&options.size),
        date(report.setup.started_at_ms)
    );
    list(&mut page, "bad", "Not valid because", &report.invalid_because);
    list(&mut page, "caution", "Note", &report.notes);
    tiles(&mut page, report);
    page.push_str("<div class=\"grid\">\n");
    charts(&mut page, report);
    heat::draw(&mut page, report);
    latencies(&mut page, report);
    if report.runs.len() > 1 {
        runs(&mut page, report);
    }
    counts(&mut page, report);
    setup(&mut page, report);
    page.push_str("</div>\n</main></body></html>\n");
    page
}

fn list(page: &mut String, class: &str, heading: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(page, "<ul class=\"{class}\">");
    for line in lines {
        let _ = write!(page, "<li>{heading}: {}</li>", escaped(line));
    }
    page.push_str("</ul>\n");
}

fn tiles(page: &mut String, report: &Report) {
    let us = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), duration);
    let cpu = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{us:.2} us"));
    page.push_str("<div class=\"tiles\">\n");
    for (value, label) in [
        (rate(report.achieved_rate), "messages/s achieved"),
        (us(report.publish_to_durable_us.p99), "p99 to durable"),
        (us(report.publish_to_delivered_us.p50), "p50 to delivered"),
        (us(report.publish_to_delivered_us.p99), "p99 to delivered"),
        (us(report.publish_to_delivered_us.p99_9), "p99.9 to delivered"),
        (cpu(report.node_cpu_us_per_message), "node CPU per message"),
    ] {
        let _ = writeln!(page, "<div class=\"tile\"><b>{value}</b><span>{label}</span></div>");
    }
    page.push_str("</div>\n");
}

#[allow(clippy::cast_precision_loss, reason = "counts and microseconds of a run are far below 2^52")]
fn charts(page: &mut String, report: &Report) {
    let runs = report.series.iter().map(|row| row.run).max().unwrap_or(0);
    // One line for each run, all in one colour.
    let lines = |class: &'static str, of: &dyn Fn(&Row) -> Option<f64>| -> Vec<Line> {
        let of_run = |run| {
            let rows = report.series.iter().filter(move |row| row.run == run && row.phase != Phase::Drain);
            rows.filter_map(|row| Some((row.second as f64 + 0.5, of(row)?))).collect()
        };
        (1..=runs).map(|run| Line { class, points: of_run(run) }).collect()
    };
    let (warmup, end) =
        (report.setup.options.warmup_s, report.setup.options.warmup_s + report.setup.options.duration_s);
    let over_time = |y: Scale, lines: Vec<Line>, label: &'static str| Chart {
        label,
        x: Scale::linear(0.0, end.max(1.0), |seconds| format!("{seconds} s")),
        y,
        shade: (warmup > 0.0).then_some((0.0, warmup)),
        lines,
    };
    let highest = |lines: &[Line]| lines.iter().flat_map(|line| &line.points).fold(0.0f64, |most, (_, y)| most.max(*y));

    let mut throughput = lines("line b", &|row| Some(row.deliveries as f64));
    throughput.extend(lines("line a", &|row| Some(row.acknowledged as f64)));
    let mut top = highest(&throughput);
    if let Some(offered) = report.offered_rate {
        top = top.max(offered);
        throughput.push(Line { class: "line c dash", points: vec![(0.0, offered), (end, offered)] });
    }
    let chart = over_time(Scale::linear(0.0, top * 1.08, rate), throughput, "messages a second over time");
    let key = key(&[("a", "acknowledged"), ("b", "deliveries"), ("c", "offered")]
        [..if report.offered_rate.is_some() { 3 } else { 2 }]);
    card(page, "Throughput over time", "messages a second; the warm-up is shaded", &key, &chart, "");

    let mut p99 = lines("line a", &|row| row.durable_p99_us.map(|us| us as f64));
    p99.extend(lines("line b", &|row| row.delivered_p99_us.map(|us| us as f64)));
    let chart = over_time(Scale::log_around(&p99), p99, "p99 of each second over time");
    let key_of = self::key(&[("a", "to durable"), ("b", "to delivered")]);
    card(
        page,
        "p99 of each second",
        "from when a message was due, of what was answered or delivered in that second",
        &key_of,
        &chart,
        "",
    );

    let curve = |class: &'static str, points: &[Point]| Line {
        class,
        // Decades of the rest: 90 % is one, 99 % two.
        points: points
            .iter()
            .map(|point| (-(1.0 - point.percentile / 100.0).log10(), point.us.max(1) as f64))
            .collect(),
    };
    let curves = vec![
        curve("line a", &report.curves.publish_to_durable_us),
        curve("line b", &report.curves.publish_to_delivered_us),
        curve("line c", &report.curves.publish_to_settled_us),
    ];
    let decades = curves.iter().flat_map(|line| &line.points).fold(1.0f64, |most, (x, _)| most.max(*x));
    // No further than something was measured; a decade itself is not exact in binary.
    let x = Scale::steps(decades + 1e-6, |decade| match decade {
        0.0 => "0 %".to_owned(),
        1.0 => "90 %".to_owned(),
        2.0 => "99 %".to_owned(),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a handful of decades")]
        decade => format!("99.{} %", "9".repeat(decade as usize - 2)),
    });
    let chart = Chart { label: "latency by percentile", x, y: Scale::log_around(&curves), shade: None, lines: curves };
    let key_of = self::key(&[("a", "to durable"), ("b", "to delivered"), ("c", "to settled")]);
    card(page, "Latency by percentile", "all runs together; the percentiles by decades", &key_of, &chart, "");

    let per_message =
        |us: Option<u64>, row: &Row| Some(us? as f64 / row.acknowledged as f64).filter(|us| us.is_finite());
    let mut cpu = lines("line a", &|row| per_message(row.node_cpu_us, row));
    cpu.extend(lines("line c", &|row| per_message(row.generator_cpu_us, row)));
    let chart = over_time(
        Scale::linear(0.0, highest(&cpu) * 1.08, |us| format!("{us} us")),
        cpu,
        "CPU time of a message over time",
    );
    let key_of = self::key(&[("a", "node"), ("c", "generator, both ends of every message")]);
    card(
        page,
        "CPU time of a message",
        "user and system time in each second, by the messages that were acknowledged in it",
        &key_of,
        &chart,
        "",
    );
}

fn key(entries: &[(&str, &str)]) -> String {
    let one = |(class, text): &(&str, &str)| format!("<span><i class=\"{class}\"></i>{text}</span>");
    entries.iter().map(one).collect()
}

fn card_begins(page: &mut String, class: &str, heading: &str, what: &str) {
    let _ = write!(page, "<section class=\"card {class}\"><h2>{heading}</h2><p class=\"dim\">{what}</p>");
}

fn card(page: &mut String, heading: &str, what: &str, key: &str, chart: &Chart, class: &str) {
    card_begins(page, class, heading, what);
    let _ = write!(page, "<div class=\"key\">{key}</div>");
    chart.draw(page);
    page.push_str("</section>\n");
}

fn table(page: &mut String, class: &str, heading: &str, what: &str, head: &[&str], rows: &[Vec<String>]) {
    card_begins(page, class, heading, what);
    page.push_str("<div class=\"scroll\"><table><tr>");
    head.iter().for_each(|cell| page.push_str(&format!("<th>{cell}</th>")));
    page.push_str("</tr>");
    for row in rows {
        page.push_str("<tr>");
        row.iter().for_each(|cell| page.push_str(&format!("<td>{}</td>", escaped(cell))));
        page.push_str("</tr>");
    }
    page.push_str("</table></div></section>\n");
}

fn latencies(page: &mut String, report: &Report) {
    let rows: Vec<Vec<String>> = [
        ("publish to durable", &report.publish_to_durable_us),
        ("publish to delivered", &report.publish_to_delivered_us),
        ("publish to settled", &report.publish_to_settled_us),
        ("the generator's own lateness", &report.generator_late_us),
    ]
    .into_iter()
    .map(|(name, of)| {
        let us = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), duration);
        let mut row = vec![name.to_owned(), grouped(of.count)];
        row.extend([of.p50, of.p90, of.p99, of.p99_9, of.max].map(us));
        row
    })
    .collect();
    let what = "from when each message was due, whatever became of the ones before it";
    table(page, "wide", "Latencies", what, &["", "measured", "p50", "p90", "p99", "p99.9", "max"], &rows);
}

fn runs(page: &mut String, report: &Report) {
    let us = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), duration);
    let rows: Vec<Vec<String>> = (1..)
        .zip(&report.runs)
        .map(|(place, run): (u32, _)| {
            let cpu = run.node_cpu_us_per_message.map_or_else(|| "-".to_owned(), |us| format!("{us:.2} us"));
            vec![
                format!("run {place}"),
                rate(run.achieved_rate),
                us(run.publish_to_durable_us.p99),
                us(run.publish_to_delivered_us.p50),
                us(run.publish_to_delivered_us.p99),
                cpu,
                if run.valid { "valid" } else { "not valid" }.to_owned(),
            ]
        })
        .collect();
    let head = ["", "achieved", "p99 to durable", "p50 to delivered", "p99 to delivered", "node CPU", ""];
    table(page, "wide", "Runs", "each for itself; the figures above are of all messages together", &head, &rows);
}

fn counts(page: &mut String, report: &Report) {
    let mut rows: Vec<Vec<String>> = [
        ("sent", report.sent),
        ("acknowledged", report.acknowledged),
        ("delivered", report.delivered),
        ("deliveries", report.deliveries),
        ("lost", report.lost),
        ("delivered twice", report.duplicated),
        ("without a known outcome", report.unknown),
        ("not as they were sent", report.rejected),
        ("duplicates that the SDK hid", report.duplicates_hidden),
        ("connections made again", report.reconnects),
        ("key encapsulations", report.encapsulations),
        ("signed batches", report.signatures),
    ]
    .map(|(name, count)| vec![name.to_owned(), grouped(count)])
    .into();
    rows.extend(report.refused.iter().map(|(code, count)| vec![format!("refused with {code}"), grouped(*count)]));
    table(page, "", "Counts", "everything is counted, nothing assumed", &["messages", "count"], &rows);
}

fn setup(page: &mut String, report: &Report) {
    let setup = &report.setup;
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "not known".to_owned());
    let node = match setup.node.is_own {
        true => format!("started for this run on the same machine, {}", setup.node.address),
        false => setup.node.address.clone(),
    };
    let mut rows = vec![
        ("durability", known(&report.durability)),
        ("node", node),
        ("node's version", known(&setup.node.version)),
        ("shards", setup.node.shards.map_or_else(|| "not known".to_owned(), |shards| shards.to_string())),
        ("host", setup.host.clone()),
        ("processor", setup.cpu_model.clone()),
        ("CPUs", setup.cores.to_string()),
        ("kernel", setup.kernel.clone()),
        ("load before the start", setup.load_average.map_or_else(|| "not known".to_owned(), |load| load.to_string())),
        ("generator", format!("{} ({} build), commit {}", setup.version, setup.build, known(&setup.commit))),
        ("seed", setup.seed.to_string()),
    ];
    let options = serde_json::to_value(&setup.options).unwrap_or_default();
    let all = options.as_object().map(|all| {
        let given = all.iter().filter(|(_, value)| !value.is_null());
        given
            .map(|(name, value)| format!("{name} {}", value.to_string().trim_matches('"')))
            .collect::<Vec<_>>()
            .join(", ")
    });
    rows.push(("options", all.unwrap_or_default()));
    page.push_str("<section class=\"card\"><h2>Set-up</h2><table>");
    for (name, value) in rows {
        let _ = write!(page, "<tr><td>{name}</td><td class=\"text\">{}</td></tr>", escaped(&value));
    }
    page.push_str("</table></section>\n");
}

/// Text as it stands in a page.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter => out.push(letter),
        }
    }
    out
}

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and far below 2^63")]
fn rate(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { grouped(rate.round() as u64) }
}

#[allow(clippy::cast_precision_loss, reason = "latencies are at most LATENCY_US_MAX")]
fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// A moment as a date, UTC (by Howard Hinnant's algorithm of days).
fn date(ms: u64) -> String {
    let (days, seconds) = (ms / 86_400_000, ms / 1_000 % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3_600, seconds / 60 % 60)
}

#[cfg(test)]
mod tests;
