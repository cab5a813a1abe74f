//! `creto bench run`, `compare` and `verify`: the binary, real processes, real QUIC. The machine decides how fast that is: nothing here
//! looks at a latency or a rate, and whether a run is valid may be either.

mod process;

use std::path::Path;

use process::{Node, Run, creto};
use serde_json::Value;

const PERCENTILES: [&str; 5] = ["p50", "p90", "p99", "p99_9", "max"];

/// Runs, and checks that the status says what the object says.
fn bench(folder: &Path, args: &[&str]) -> (Value, Run) {
    let run = creto(folder, 2, &[&["bench", "run", "--json"], args].concat());
    assert!(run.status == 0 || run.status == 1, "{args:?}: {}{}", run.stdout, run.stderr);
    (run.json(), run)
}

#[track_caller]
fn check_counts(report: &Value, count: u64) {
    for name in ["sent", "acknowledged", "delivered"] {
        assert_eq!(report[name], count, "{name} in {report:#}");
    }
    for name in ["lost", "duplicated", "unknown", "rejected"] {
        assert_eq!(report[name], 0, "{name} in {report:#}");
    }
}

#[test]
fn a_run_starts_a_node_of_its_own_prints_one_object_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("place");
    std::fs::create_dir(&place).expect("a folder");
    let short = [
        "--scenario",
        "direct",
        "--rate",
        "300",
        "--duration",
        "1s",
        "--warmup",
        "500ms",
        "--seed",
        "42",
        "--shards",
        "2",
    ];
    let files = ["--dir", "place", "--html", "page.html", "--csv", "table.csv", "--hdr", "log.hlog"];
    let (report, run) = bench(folder.path(), &[&short[..], &files].concat());

    check_counts(&report, 300);
    assert_eq!((&report["offered_rate"], &report["warmup"]["sent"]), (&300.0.into(), &150.into()), "{report:#}");
    assert!(report["achieved_rate"].as_f64().is_some_and(|rate| rate > 0.0));
    for name in ["publish_to_durable_us", "publish_to_delivered_us", "publish_to_settled_us"] {
        for percentile in PERCENTILES {
            assert!(report[name][percentile].is_u64(), "{name}.{percentile} in {report:#}");
        }
        assert_eq!(report[name]["count"], 300, "{name}");
    }
    for name in ["node_cpu_us_per_message", "generator_cpu_us_per_message"] {
        assert!(report[name].as_f64().is_some_and(|us| us > 0.0), "{name} in {report:#}");
    }
    assert!(report["generator_late_us_p99"].is_u64(), "{report:#}");
    assert!(report["durability"].as_str().is_some_and(|way| way.contains("in flight")), "{report:#}");
    let reasons = report["invalid_because"].as_array().expect("a list").len();
    assert_eq!((report["valid"] == true, reasons == 0), (run.status == 0, run.status == 0), "{report:#}");
    let setup = &report["setup"];
    for name in ["host", "kernel", "version", "build"] {
        assert!(setup[name].as_str().is_some_and(|text| !text.is_empty()), "{name} in {setup:#}");
    }
    assert!(setup["cores"].as_u64() > Some(0) && setup["node"]["shards"] == 2, "{setup:#}");
    assert_eq!(
        (&setup["seed"], &setup["node"]["is_own"], &setup["options"]["rate"]),
        (&42.into(), &true.into(), &300.into())
    );

    let page = std::fs::read_to_string(folder.path().join("page.html")).expect("a page");
    assert!(page.matches("<svg").count() == 4 + 3 && page.contains("Latency by percentile") && !page.contains("://"));
    let table = std::fs::read_to_string(folder.path().join("table.csv")).expect("a table");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == rows[0].len()));
    let sent: u64 = rows[1..].iter().map(|row| row[3].parse::<u64>().expect("a count")).sum();
    assert_eq!(sent, 450, "every message in its second, those of the warm-up, too: {table}");
    let log = std::fs::read_to_string(folder.path().join("log.hlog")).expect("a log");
    assert!(log.contains("Histogram log format version 1.3") && log.contains("Tag=publish_to_delivered,"), "{log}");

    let left: Vec<_> = std::fs::read_dir(&place).expect("a folder").collect();
    assert!(left.is_empty(), "the node's folder is removed: {left:?}");
    let pid = setup["node"]["pid"].as_u64().expect("a process");
    let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(!arguments.contains("creto-bench-"), "the node has ended: {arguments}");
}

#[test]
fn a_report_has_what_each_shard_did_in_each_second() {
    let folder = tempfile::tempdir().expect("a folder");
    let load = ["--rate", "400", "--duration", "4s", "--warmup", "0s", "--shards", "2", "--connections", "8"];
    let (report, _) = bench(folder.path(), &[&load[..], &["--html", "page.html"]].concat());
    let shards = &report["shards"];
    assert_eq!(
        (&shards["shards"], &shards["unavailable_because"]),
        (&serde_json::json!([0, 1]), &Value::Null),
        "{shards:#}"
    );
    let seconds = shards["seconds"].as_array().expect("a list");
    assert!(!seconds.is_empty() && seconds.len() <= 5, "{shards:#}");
    let sum = |name: &str| -> f64 {
        let lists = seconds.iter().map(|second| second[name].as_array().expect("a list"));
        lists.inspect(|list| assert_eq!(list.len(), 2, "{name}")).flatten().filter_map(Value::as_f64).sum()
    };
    // Of a second two ends were looked at: no more than all of it was counted, and no less than something.
    assert!(sum("accepted_per_s") > 0.0 && sum("cpu_percent") > 0.0 && sum("commit_p99_us") > 0.0, "{shards:#}");
    let page = std::fs::read_to_string(folder.path().join("page.html")).expect("a page");
    assert!(page.contains("<title>shard 1, second ") && page.contains(" messages/s</title>"), "cells with figures");
}

#[test]
fn receivers_that_are_away_find_room_for_everything_in_their_mailbox() {
    let folder = tempfile::tempdir().expect("a folder");
    let load = ["--rate", "200", "--duration", "500ms", "--warmup", "0s", "--offline-then-drain"];
    let (report, _) = bench(folder.path(), &load);
    check_counts(&report, 100);
    assert_eq!(report["drain"]["deliveries"], 100, "{report:#}");
    let notes = report["notes"].as_array().expect("a list");
    assert!(!notes.iter().any(|note| note.as_str().is_some_and(|note| note.contains("full"))), "{notes:?}");
}

/// The node whose configuration is in this folder.
fn serving_in(place: &Path) -> Option<rustix::process::Pid> {
    let place = place.to_str().expect("UTF-8");
    let processes = std::fs::read_dir("/proc").expect("a folder").flatten();
    let mut pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let pid = pids.find(|pid: &i32| {
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.contains("\0serve\0") && arguments.contains(place)
    });
    pid.and_then(rustix::process::Pid::from_raw)
}

#[test]
fn a_node_of_its_own_that_is_killed_ends_the_run_at_once_with_its_last_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("place");
    std::fs::create_dir(&place).expect("a folder");
    let args = ["bench", "run", "--json", "--rate", "50", "--duration", "10m", "--dir", "place", "--ledger", "ledger"];
    let mut command = process::command(folder.path(), 1, &args);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut bench = process::Process(command.spawn().expect("the binary was built"));
    // Made when everybody is connected.
    let ledger = folder.path().join("ledger");
    let began = std::time::Instant::now();
    while !ledger.exists() {
        assert!(began.elapsed() < process::PATIENCE && bench.0.try_wait().expect("a child").is_none(), "no run begins");
        std::thread::yield_now();
    }
    let node = serving_in(&place).expect("the node runs");
    rustix::process::kill_process(node, rustix::process::Signal::KILL).expect("it runs");
    let status = bench.0.wait().expect("a child");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut bench.0.stderr.take().expect("piped"), &mut said).expect("UTF-8");
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("the node ended by signal 9") && said.contains("wrote last"), "{said}");
    assert!(began.elapsed() < process::PATIENCE, "the run would have taken ten minutes");
}

#[test]
fn a_search_whose_node_ends_prints_what_it_had_found() {
    use std::io::{BufRead as _, Read as _};

    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("place");
    std::fs::create_dir(&place).expect("a folder");
    let search = ["bench", "run", "--json", "--find-max", "--rate", "40", "--p99", "30s", "--dir", "place"];
    let mut command = process::command(folder.path(), 1, &[&search[..], &["--duration", "3s"]].concat());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut bench = process::Process(command.spawn().expect("the binary was built"));
    let mut errors = std::io::BufReader::new(bench.0.stderr.take().expect("piped"));
    let mut said = String::new();
    while !said.contains("40/s") {
        assert!(errors.read_line(&mut said).expect("UTF-8") > 0, "no step was made: {said}");
    }
    // The next one has begun, or is about to.
    let node = serving_in(&place).expect("the node runs");
    rustix::process::kill_process(node, rustix::process::Signal::KILL).expect("it runs");
    errors.read_to_string(&mut said).expect("UTF-8");
    let mut printed = String::new();
    bench.0.stdout.take().expect("piped").read_to_string(&mut printed).expect("UTF-8");
    let found: Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}{said}"));
    assert_eq!(bench.0.wait().expect("a child").code(), Some(3), "{said}");
    let steps = found["steps"].as_array().expect("a list");
    assert_eq!((steps.len(), &steps[0]["rate"], &found["is_complete"]), (1, &40.into(), &false.into()), "{found:#}");
    assert_eq!(found["best"].is_object(), steps[0]["holds"] == true, "{found:#}");
    assert!(said.contains("the node ended"), "{said}");
}

#[test]
fn a_run_is_shown_as_a_table_without_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = [
        "bench",
        "run",
        "--rate",
        "100",
        "--duration",
        "500ms",
        "--warmup",
        "0s",
        "--repeat",
        "2",
        "--arrival",
        "poisson",
    ];
    let run = creto(folder.path(), 1, &[&args[..], &["--scenario", "fan-out", "--agents", "2"]].concat());
    assert!(run.status == 0 || run.status == 1, "{}{}", run.stdout, run.stderr);
    for text in
        ["fan-out scenario", "seed ", "deliveries", "to settled", "of each run", "CPU of a message", "in flight"]
    {
        assert!(run.stdout.contains(text), "{text}: {}", run.stdout);
    }
}

#[test]
fn a_ledger_of_a_running_node_verifies_and_what_is_wrong_with_it_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::with_agents(folder.path(), 2, &[]);
    let (address, pid) = (node.address.to_string(), node.process.0.id().to_string());
    let load =
        ["--rate", "200", "--duration", "1s", "--warmup", "0s", "--connections", "2", "--priority", "normal=3,high=1"];
    let at = ["--connect", address.as_str(), "--node-pid", pid.as_str(), "--ledger", "ledger"];
    let (report, _) = bench(folder.path(), &[&load[..], &at].concat());
    check_counts(&report, 200);
    assert!(report["node_cpu_us_per_message"].as_f64().is_some_and(|us| us > 0.0), "{report:#}");
    assert!(report["durability"].is_string() && report["setup"]["node"]["is_own"] == false, "{report:#}");

    let verify =
        |more: &[&str]| creto(folder.path(), 2, &[&["bench", "verify", "--ledger", "ledger", "--json"], more].concat());
    let found = |run: &Run, wanted: [u64; 5]| {
        let report = run.json();
        let names = ["acknowledged", "found", "missing", "duplicated", "out_of_order"];
        for (name, count) in names.iter().zip(wanted) {
            assert_eq!(report[name], count, "{name} in {report:#}");
        }
        run.status
    };
    // The old name of the option is still one.
    assert_eq!(found(&verify(&["--node", &address]), [200, 200, 0, 0, 0]), 0);
    assert_eq!(found(&verify(&["--files-only"]), [200, 200, 0, 0, 0]), 0);

    // Records of 72 bytes: the first two of a flow change places, the first comes again, the last is cut off.
    let path = folder.path().join("ledger.delivered");
    let good = std::fs::read(&path).expect("a ledger");
    let flow = |record: &[u8]| (record[4..8].to_vec(), record[64..68].to_vec());
    let records: Vec<&[u8]> = good.chunks(72).collect();
    let other =
        (1..records.len()).find(|at| flow(records[*at]) == flow(records[0])).expect("a flow has several messages");
    let mut swapped = records.clone();
    swapped.swap(0, other);
    for (bytes, wanted) in [
        (swapped.concat(), [200, 200, 0, 0, 1]),
        ([&good[..], records[0]].concat(), [200, 200, 0, 1, 0]),
        (good[..good.len() - 1].to_vec(), [200, 199, 1, 0, 0]),
    ] {
        std::fs::write(&path, bytes).expect("a file");
        assert_eq!(found(&verify(&["--files-only"]), wanted), 1);
    }
    let mut damaged = good.clone();
    damaged[72 * 50] ^= 1;
    std::fs::write(&path, &damaged).expect("a file");
    for more in [&["--files-only"][..], &["--node", &address]] {
        let run = verify(more);
        assert!(run.status == 5 && run.stderr.contains("damaged in the middle"), "{} {}", run.status, run.stderr);
        assert!(std::fs::read(&path).expect("a ledger") == damaged, "nothing of it is cut off");
    }
    let again = creto(folder.path(), 2, &[&["bench", "run", "--json"][..], &load, &at].concat());
    assert!(again.status == 5 && again.stderr.contains("exists already"), "{} {}", again.status, again.stderr);
    node.stop();
}

#[test]
fn a_comparison_has_a_verdict_and_a_status() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut report, _) = bench(folder.path(), &["--rate", "100", "--duration", "500ms", "--warmup", "0s"]);
    // Whatever this machine made of it.
    report["valid"] = true.into();
    report["invalid_because"] = Vec::<String>::new().into();
    let write = |name: &str, report: &Value| {
        std::fs::write(folder.path().join(name), report.to_string()).expect("a file");
    };
    write("before.json", &report);
    let mut slower = report.clone();
    let p99 = report["publish_to_delivered_us"]["p99"].as_u64().expect("a latency");
    slower["publish_to_delivered_us"]["p99"] = (p99 * 3).into();
    write("slower.json", &slower);
    let mut other = report.clone();
    other["setup"]["options"]["rate"] = 7.into();
    write("other.json", &other);
    let mut newer = report.clone();
    newer["format"] = 99.into();
    write("newer.json", &newer);

    let compare = |after: &str, more: &[&str]| {
        creto(folder.path(), 1, &[&["bench", "compare", "before.json", after], more].concat())
    };
    assert_eq!(compare("before.json", &[]).status, 0);
    let worse = compare("slower.json", &["--json"]);
    let figures = worse.json();
    assert_eq!((worse.status, &figures["holds"]), (1, &false.into()), "{figures:#}");
    let figure = figures["figures"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["figure"] == "publish_to_delivered_us.p99");
    assert_eq!(figure.expect("it is there")["verdict"], "worse");
    assert!(compare("slower.json", &[]).stdout.contains("worse"));
    assert_eq!(compare("slower.json", &["--max-latency", "300"]).status, 0, "limits are options");
    assert!(compare("other.json", &[]).stdout.contains("not of the same load"));
    for (after, more) in [("newer.json", &[][..]), ("page.html", &[]), ("before.json", &["--max-cpu", "-1"])] {
        assert_ne!(compare(after, more).status, 0);
    }
    assert_eq!(compare("newer.json", &[]).status, 2);
}

#[test]
fn the_search_tries_rates_and_prints_what_each_of_them_did() {
    let folder = tempfile::tempdir().expect("a folder");
    // Whatever this machine does: both rates that can be tried are far apart.
    let args = [
        "bench",
        "run",
        "--json",
        "--find-max",
        "--rate",
        "40",
        "--rate-max",
        "80",
        "--precision",
        "90",
        "--p99",
        "30s",
    ];
    let run = creto(folder.path(), 1, &[&args[..], &["--duration", "400ms", "--warmup", "100ms"]].concat());
    let found = run.json();
    let steps = found["steps"].as_array().expect("a list");
    assert!(!steps.is_empty() && steps[0]["rate"] == 40, "{found:#}");
    let holding = steps.iter().filter(|step| step["holds"] == true).filter_map(|step| step["rate"].as_u64());
    assert_eq!(found["max_rate"].as_u64(), Some(holding.max().unwrap_or(0)), "{found:#}");
    assert_eq!((run.status == 0, found["best"].is_object()), (found["max_rate"] != 0, found["max_rate"] != 0));
    assert_eq!((&found["p99_limit_us"], &found["is_complete"]), (&30_000_000.into(), &true.into()));
    assert!(steps.iter().all(|step| step["holds"] == true || step["because"][0].is_string()), "{found:#}");
}

#[test]
fn options_that_do_not_go_together_end_with_status_2() {
    let folder = tempfile::tempdir().expect("a folder");
    for args in [
        &["--scenario", "broadcast"][..],
        &["--size", "3"],
        &["--rate", "0"],
        &["--closed-loop", "4", "--rate", "9"],
        &["--node-pid", "1"],
        &["--scenario", "mixed", "--ledger", "x"],
        &["--scenario", "channel", "--offline-then-drain"],
        &["--connect", "127.0.0.1:1", "--shards", "2"],
        &["--duration", "18446744073709551615s"],
        &["--warmup", "18446744073709551615s", "--closed-loop", "2"],
    ] {
        let run = creto(folder.path(), 1, &[&["bench", "run", "--json"], args].concat());
        assert_eq!((run.status, run.stdout.as_str()), (2, ""), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn a_run_divided_among_processes_is_one_report_of_all_messages() {
    let folder = tempfile::tempdir().expect("a folder");
    let load = ["--rate", "300", "--duration", "1s", "--warmup", "500ms", "--seed", "42", "--connections", "3"];
    let divided = ["--processes", "2", "--repeat", "2", "--hdr", "log.hlog", "--csv", "table.csv"];
    let (report, run) = bench(folder.path(), &[&load[..], &divided].concat());
    check_counts(&report, 600);
    assert_eq!((&report["offered_rate"], &report["warmup"]["sent"]), (&300.0.into(), &300.into()), "{report:#}");
    for name in ["publish_to_durable_us", "publish_to_delivered_us", "publish_to_settled_us", "generator_late_us"] {
        assert_eq!(report[name]["count"], 600, "{name} in {report:#}");
    }
    assert_eq!((&report["setup"]["processes"], report["runs"].as_array().map(Vec::len)), (&2.into(), Some(2)));
    assert_eq!(
        (&report["setup"]["options"]["connections"], &report["setup"]["node"]["is_own"]),
        (&3.into(), &true.into())
    );
    for name in ["node_cpu_us_per_message", "generator_cpu_us_per_message"] {
        assert!(report[name].as_f64().is_some_and(|us| us > 0.0), "{name} in {report:#}");
    }
    // Why it is not valid is said of a process, or of the run: on a loaded machine both may be.
    assert_eq!(report["valid"] == true, run.status == 0, "{report:#}");
    let table = std::fs::read_to_string(folder.path().join("table.csv")).expect("a table");
    let sent: u64 =
        table.lines().skip(1).map(|row| row.split(',').nth(3).expect("a count").parse::<u64>().expect("a count")).sum();
    assert_eq!(sent, 900, "{table}");
    let log = std::fs::read_to_string(folder.path().join("log.hlog")).expect("a log");
    assert!(log.contains("Tag=run2.publish_to_delivered,"), "{log}");
}

#[test]
fn a_process_of_the_generator_that_is_killed_makes_the_run_invalid() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("place");
    std::fs::create_dir(&place).expect("a folder");
    let load = ["--rate", "100", "--duration", "4s", "--warmup", "0s", "--connections", "2", "--processes", "2"];
    let args = [&["bench", "run", "--json", "--dir", "place"][..], &load].concat();
    let mut command = process::command(folder.path(), 1, &args);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut bench = process::Process(command.spawn().expect("the binary was built"));
    let began = std::time::Instant::now();
    let parent = bench.0.id().to_string();
    // The second one, once it is at work.
    let worker = loop {
        assert!(began.elapsed() < process::PATIENCE && bench.0.try_wait().expect("a child").is_none(), "no run begins");
        if let Some(pid) = sending_worker(&parent) {
            break pid;
        }
        std::thread::yield_now();
    };
    rustix::process::kill_process(worker, rustix::process::Signal::KILL).expect("it runs");
    let mut printed = String::new();
    std::io::Read::read_to_string(&mut bench.0.stdout.take().expect("piped"), &mut printed).expect("UTF-8");
    let status = bench.0.wait().expect("a child").code();
    let report: Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    let reasons = report["invalid_because"].as_array().expect("a list");
    let names_it = |reason: &Value| reason.as_str().is_some_and(|reason| reason.contains("process 2 of 2 failed"));
    assert!(reasons.iter().any(names_it) && status == Some(1), "{status:?} {report:#}");
    assert!(report["acknowledged"].as_u64() > Some(0), "what the other one found is there: {report:#}");
}

/// The second process that this one has divided its run among, if it keeps the time of its messages already.
fn sending_worker(parent: &str) -> Option<rustix::process::Pid> {
    let processes = std::fs::read_dir("/proc").expect("a folder").flatten();
    let mut pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let pid = pids.find(|pid: &i32| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let names = || threads().filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
        let is_second = fields.get(1) == Some(&parent) && read("cmdline").contains("\"index\":1");
        is_second && names().any(|name| name.trim() == "creto-pacer")
    });
    pid.and_then(rustix::process::Pid::from_raw)
}

#[test]
fn a_run_that_cannot_be_divided_or_pinned_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (args, why) in [
        (&["--processes", "2"][..], "at least as many"),
        (&["--processes", "2", "--scenario", "fan-out"], "not divided"),
        (&["--processes", "2", "--connections", "2", "--ledger", "x"], "of one process"),
        (&["--pin", "1-0"], "no list of CPUs"),
        (&["--pin", "1023"], "may not use CPU 1023"),
        (&["--node-cpus", "1023"], "may not use CPU 1023"),
        (&["--target", "kafka://127.0.0.1:9092"], "nats://HOST:PORT"),
        (&["--nats-sync", "always"], "--target"),
        (&["--target", "nats://127.0.0.1:1", "--shards", "2"], "cannot be used with"),
    ] {
        let run = creto(folder.path(), 1, &[&["bench", "run", "--json"], args].concat());
        assert_eq!(run.status, 2, "{args:?}: {}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains(why), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn reports_of_several_systems_become_a_table_in_a_document() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut report, _) = bench(folder.path(), &["--rate", "100", "--duration", "500ms", "--warmup", "0s"]);
    report["valid"] = true.into();
    report["invalid_because"] = Vec::<String>::new().into();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("one.json"), report.to_string()).expect("a file");
    std::fs::write(path("page.md"), "before\n<!-- peers: begin -->\n<!-- peers: end -->\nafter\n").expect("a file");
    let peers = |args: &[&str]| creto(folder.path(), 1, &[&["bench", "peers"], args].concat());
    let run = peers(&["creto=one.json", "other=one.json", "--into", "page.md", "--left-out", "a mode"]);
    assert_eq!(run.status, 0, "{}{}", run.stdout, run.stderr);
    let page = std::fs::read_to_string(path("page.md")).expect("a page");
    assert!(page.starts_with("before\n") && page.ends_with("\nafter\n"), "{page}");
    for text in ["| creto | 1 of 1 |", "1.00 times, 1.00 times", "Ed25519 and ML-DSA-65", "Left out: a mode."] {
        assert!(page.contains(text), "{text}: {page}");
    }
    std::fs::write(path("bare.md"), "no marks\n").expect("a file");
    assert_eq!(peers(&["creto=one.json", "--into", "bare.md"]).status, 2);
    assert_eq!(peers(&["one.json"]).status, 2);
}
