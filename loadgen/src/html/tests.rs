use super::*;
use crate::measure::Percentiles;
use crate::report::{Curves, RunFigures};
use crate::shards::{ShardSecond, ShardSeries};

fn report() -> Report {
    let row = |run, second| Row {
        run,
        second,
        phase: if second == 0 { Phase::Warmup } else { Phase::Measured },
        sent: 20_000,
        acknowledged: 19_900 + second * 20,
        deliveries: 19_950,
        durable_p50_us: Some(700),
        durable_p99_us: Some(2_000 + second * 90),
        delivered_p50_us: Some(1_100),
        delivered_p99_us: Some(4_000 + second * 300),
        settled_p99_us: Some(5_000),
        node_cpu_us: Some(130_000 + second * 1_000),
        generator_cpu_us: None,
    };
    let curve = |base: u64| -> Vec<Point> {
        [0.0, 50.0, 90.0, 99.0, 99.9, 99.99]
            .iter()
            .zip(1..)
            .map(|(at, place)| Point { percentile: *at, us: base * place })
            .collect()
    };
    let mut report = Report {
        scenario: "<direct> & \"quoted\"".to_owned(),
        offered_rate: Some(20_000.0),
        achieved_rate: 19_998.2,
        invalid_because: vec!["the generator was late: p99 1,200 us".to_owned()],
        notes: vec!["<script>alert(1)</script>".to_owned()],
        publish_to_delivered_us: Percentiles { p99: Some(4_321), count: 9, ..Percentiles::default() },
        series: (1..=2).flat_map(|run| (0..11).map(move |second| row(run, second))).collect(),
        curves: Curves {
            publish_to_durable_us: curve(700),
            publish_to_delivered_us: curve(1_500),
            publish_to_settled_us: curve(1_700),
        },
        runs: vec![RunFigures::default(); 2],
        ..Report::default()
    };
    report.shards = shards(2, 2, 11);
    report.setup.options.duration_s = 10.0;
    report.setup.options.warmup_s = 1.0;
    report.setup.options.rate = Some(20_000);
    report
}

/// Shard `n` accepts `n` thousand messages a second more than the one before, and ten more each second.
#[allow(clippy::cast_precision_loss, reason = "a handful of shards and seconds")]
fn shards(shard_count: u16, runs: u32, seconds: u64) -> ShardSeries {
    let each = |of: &dyn Fn(f64) -> f64| (0..shard_count).map(|shard| Some(of(f64::from(shard)))).collect::<Vec<_>>();
    let second = |run, second: u64| ShardSecond {
        run,
        second,
        accepted_per_s: each(&|shard| 1_000.0 * (shard + 1.0) + 10.0 * second as f64),
        cpu_percent: each(&|shard| 12.5 * (shard + 1.0)),
        commit_p99_us: (0..shard_count).map(|shard| (shard > 0).then_some(800 << second.min(6))).collect(),
    };
    let seconds = (1..=runs).flat_map(|run| (0..seconds).map(move |at| (run, at)));
    ShardSeries {
        unavailable_because: None,
        shards: (0..shard_count).collect(),
        seconds: seconds.map(|(run, at)| second(run, at)).collect(),
    }
}

/// Every element that is opened is closed, in order; what HTML leaves open is known.
fn assert_well_formed(page: &str) {
    let mut open: Vec<String> = Vec::new();
    let mut rest = page.strip_prefix("<!doctype html>").expect("it says that it is HTML");
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        assert!(!tag.contains('<'), "a tag in a tag: {tag}");
        assert!(tag.matches('"').count().is_multiple_of(2), "an attribute that does not end: {tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed in another order");
        } else if !tag.ends_with('/') && !tag.starts_with("meta") {
            let name = tag.split_whitespace().next().expect("an element has a name").to_owned();
            if name == "style" {
                rest = &rest[rest.find("</style>").expect("a style ends")..];
            }
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_but_itself() {
    for page in [html(&report()), html(&Report::default())] {
        assert_well_formed(&page);
        for outside in ["http://", "https://", "src=", "href=", "url(", "@import", "<script", "<link", "<img", "//cdn"]
        {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"), "and would not get anything if it asked");
        assert!(page.contains("prefers-color-scheme:dark"));
        assert!(!page.contains("NaN") && !page.contains("inf"), "every place of a chart is a number");
    }
}

#[test]
fn what_stands_in_a_report_is_text_in_its_page() {
    let page = html(&report());
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("&lt;direct&gt; &amp; &quot;quoted&quot;"));
    assert!(page.contains("not valid") && page.contains("the generator was late"));
}

#[test]
fn the_page_has_a_chart_for_each_question_and_a_line_for_each_run() {
    let page = html(&report());
    assert_eq!(page.matches("<svg").count(), 4 + 3, "and three maps of the shards");
    for chart in ["Throughput over time", "p99 of each second", "Latency by percentile", "CPU time of a message"] {
        assert!(page.contains(chart), "{chart}");
    }
    let lines = page.matches("<polyline").count();
    // Two runs twice, and what was offered; two runs twice; three distributions; two runs of the node's CPU.
    assert_eq!(lines, 5 + 4 + 3 + 2);
    assert!(page.contains("99.99 %") && page.contains("4.32 ms"));
    assert_eq!(html(&Report::default()).matches("nothing was measured").count(), 4);
}

#[test]
fn each_shard_and_second_is_a_cell_with_its_figure_and_a_legend_says_what_colours_are() {
    let page = html(&report());
    // Two shards, two runs of eleven seconds; the first shard committed nothing.
    assert_eq!(page.matches("<rect class=\"h").count(), 2 * 22 + 2 * 22 + 22);
    for cell in [
        "<title>shard 1, run 2, second 10: 2,100 messages/s</title>",
        "<title>shard 0, run 1, second 3: 12 % of one CPU</title>",
        "<title>shard 1, run 1, second 0: 800 us or less</title>",
    ] {
        assert!(page.contains(cell), "{cell}");
    }
    // From zero to the next round figure; of latencies from the least to the most.
    assert!(page.contains("<span>2,500 messages/s; 1,250 in the middle</span>"));
    assert!(
        page.contains("<span>800 us</span>") && page.contains("<span>51.2 ms or less; 6.40 ms in the middle</span>")
    );
    for (class, value) in [("h3", "1,000"), ("h7", "2,100")] {
        let cell = page
            .lines()
            .flat_map(|line| line.split("<rect "))
            .find(|cell| cell.contains(&format!(": {value} messages")));
        assert!(
            cell.is_some_and(|cell| cell.starts_with(&format!("class=\"{class}\""))),
            "{value} is {class}: {cell:?}"
        );
    }
    assert_eq!(page.matches("class=\"begin\"").count(), 3 * 2, "the warm-up ends in each run of each map");
}

#[test]
fn one_shard_and_many_and_a_long_run_fit_the_page() {
    let cells = |shard_count, seconds| {
        let mut report = report();
        report.shards = shards(shard_count, 1, seconds);
        let page = html(&report);
        assert_well_formed(&page);
        assert!(!page.contains("NaN") && !page.contains("inf"));
        (page.matches(" messages/s</title>").count(), page)
    };
    assert_eq!(cells(1, 5).0, 5);
    let (count, page) = cells(16, 60);
    assert_eq!(count, 16 * 60);
    assert!(
        page.contains(">shard 15</text>") && page.contains(">16,300</text>"),
        "names, and what is so of all seconds"
    );
    let (count, page) = cells(256, 3_600);
    assert!(count <= 256 * 24, "{count}");
    assert!(page.contains("a column is the mean of 150 seconds") && page.contains("second") && page.len() < 3 << 20);
}

#[test]
fn a_report_without_shards_says_why() {
    let mut report = report();
    report.shards = ShardSeries::unavailable("the node's <metrics> are elsewhere");
    let page = html(&report);
    assert_well_formed(&page);
    assert!(page.contains("Not to be had: the node&#39;s &lt;metrics&gt; are elsewhere."));
    assert_eq!(page.matches("<svg").count(), 4);
}

#[test]
fn a_moment_is_shown_as_its_date() {
    assert_eq!(date(0), "1970-01-01 00:00 UTC");
    assert_eq!(date(1_709_211_599_000), "2024-02-29 12:59 UTC");
    assert_eq!(date(1_798_761_600_000), "2027-01-01 00:00 UTC");
}
