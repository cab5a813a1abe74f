//! `creto bench store`: the log on a real disk, beside what the disk does by itself.

use std::io::Write;

use creto_benches::store::{Figures, Options, measure};
use creto_io::Durability;
use creto_io::probe::{QUICK, probe};

use crate::args::Global;
use crate::args::bench::{BenchStoreArgs, DriverArg, SyncArg};
use crate::exit::{Exit, Failure, plain};
use crate::terminal::{Align, CAUTION, Columns, DIM, GOOD, grouped, print_json, stdout};
use crate::verb::doctor::disk::nearest_existing;

pub(super) fn run(global: &Global, args: &BenchStoreArgs) -> Result<Exit, Failure> {
    let (config, _) = global.load_config_or_default()?;
    let folder = args.dir.clone().unwrap_or_else(|| nearest_existing(&config.wal_dir()));
    let cannot = |error: std::io::Error| {
        let what = format!("{} cannot be measured: {}", folder.display(), plain(&error));
        Failure::new(Exit::System, what, "name a folder with 2 GiB of room: --dir /path")
    };
    let place = tempfile::Builder::new().prefix(".bench-store-").tempdir_in(&folder).map_err(cannot)?;
    let measured = probe(place.path(), QUICK).map_err(cannot)?;
    let options = Options {
        driver: args.driver.map_or(config.engine.driver, DriverArg::kind),
        durability: match args.sync {
            None => measured.choice.durability,
            Some(SyncArg::Fdatasync) => Durability::Fdatasync,
            Some(SyncArg::Dsync) => Durability::Dsync,
        },
        writes_in_flight: args.writes_in_flight.map_or(measured.choice.writes_in_flight, usize::from),
        messages_in_flight: args.in_flight,
        time: args.duration,
        recycle: !args.fresh_segments,
    };
    let figures = measure(place.path(), &options).map_err(|error| {
        let next = "`creto doctor` looks at the disk and at io_uring and prints the fix";
        Failure::new(Exit::System, error.to_string(), next)
    })?;
    if args.json {
        print_json(&serde_json::to_value(&figures).expect("figures are plain data"))?;
    } else {
        print(&figures)?;
    }
    Ok(Exit::Ok)
}

fn print(figures: &Figures) -> std::io::Result<()> {
    let mut out = stdout();
    writeln!(
        out,
        "{DIM}messages of 1 KiB; {}, {} in flight; log and device in turns of half a second{DIM:#}\n",
        figures.sync_mode, figures.writes_in_flight
    )?;
    let mut table = Columns::new(&[
        ("what", Align::Left),
        ("log", Align::Right),
        ("device", Align::Right),
        ("unit", Align::Left),
        ("ratio", Align::Right),
        ("target", Align::Right),
        ("", Align::Left),
    ]);
    let mut misses = 0;
    let mut verdict = |holds: bool| {
        misses += usize::from(!holds);
        if holds { "holds" } else { "short" }.to_owned()
    };
    let block = format!("append, {} KiB a write", figures.append_block_bytes >> 10);
    let cells = |cells: [&str; 6], verdict: String| -> [String; 7] {
        let [a, b, c, d, e, f] = cells.map(str::to_owned);
        [a, b, c, d, e, f, verdict]
    };
    let (log, device) = (format!("{:.0}", figures.append_mb_per_s), format!("{:.0}", figures.device_mb_per_s));
    let ratio = format!("{:.2}", figures.append_ratio);
    let append = [&block, &log, &device, "MB/s", &ratio, ">= 0.85"];
    table.add(cells(append, verdict(figures.append_ratio >= 0.85)));
    let cpu = format!("{:.2}", figures.append_cpu_us_per_message);
    let holds = verdict(figures.append_cpu_us_per_message <= 0.6);
    table.add(cells(["CPU time of a message", &cpu, "", "us", "", "<= 0.6"], holds));
    let mut latency = |what: &str, ack: u64, device: u64, ratio: f64, most: f64| {
        let (ack, device, shown) = (grouped(ack), grouped(device), format!("{ratio:.2}"));
        let target = format!("<= {most}");
        table.add(cells([what, &ack, &device, "us", &shown, &target], verdict(ratio <= most)));
    };
    let (ack, device) = (figures.ack_p99_us, figures.device_fdatasync_p99_us);
    latency("acknowledge at a tenth of that, p99", ack, device, figures.ack_p99_ratio, 1.5);
    let (ack, device) = (figures.steady_ack_p99_us, figures.steady_device_fdatasync_p99_us);
    latency("acknowledge at 100,000/s, p99", ack, device, figures.steady_ack_p99_ratio, 4.0);
    let recovery = format!("{:.2}", figures.recovery_gb_per_s);
    let holds = verdict(figures.recovery_gb_per_s >= 1.0);
    table.add(cells(["read back, every checksum", &recovery, "", "GB/s", "", ">= 1"], holds));
    table.write(&mut out)?;
    match misses {
        0 => writeln!(out, "\n{GOOD}every target holds{GOOD:#}"),
        _ => writeln!(
            out,
            "\n{CAUTION}{misses} short{CAUTION:#}: what else writes to the device or runs here counts, too"
        ),
    }
}
