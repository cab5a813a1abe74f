//! `creto topology`: cores, caches and memory nodes of this machine, and who runs where under the configuration.

use std::io::Write;

use creto_node::config::{Config, size_text};
use creto_node::host::Host;
use creto_node::plan::Plan;
use creto_node::topology::{Cache, CpuPlace, Role, Topology, network_interrupts, roles};
use serde_json::{Value, json};

use crate::args::{Global, TopologyArgs};
use crate::exit::{Exit, Failure};
use crate::terminal::{Align, CAUTION, Columns, DIM, LITERAL, print_json, stdout, wrap};

mod machine;
mod svg;
#[cfg(test)]
mod tests;
mod text;

use machine::Machine;
use text::Glyphs;

/// Width of a remark.
const WIDTH: usize = 90;

pub(crate) fn run(global: &Global, args: &TopologyArgs) -> Result<Exit, Failure> {
    let (config, is_written) = global.load_config_or_default()?;
    let host = Host::probe().map_err(|error| {
        Failure::new(Exit::System, format!("this machine cannot be described: {error}"), "`creto doctor` says more")
    })?;
    let topology = Topology::probe(&host);
    let plan = Plan::resolve(&config, &host);
    let interrupts = network_interrupts();
    let machine = Machine::of(&topology, plan.as_ref().ok(), &interrupts);
    if let Some(file) = &args.svg {
        let lines = plan.as_ref().map(threads).unwrap_or_default();
        let lines: Vec<String> = lines.into_iter().map(|(name, text)| format!("{name}: {text}")).collect();
        std::fs::write(file, svg::draw(&machine, &summary(&topology), &lines))
            .map_err(|error| Failure::file("write", file, &error))?;
    }
    if args.json {
        let (exit, plan) = match &plan {
            Ok(plan) => (Exit::Ok, planned(&topology, plan)),
            Err(error) => (Exit::Usage, json!({ "ok": false, "problems": [{ "message": error.to_string() }] })),
        };
        print_json(
            &json!({ "cpus": topology.cpus, "nodes": topology.nodes, "cores": topology.core_count(), "network_interrupts": interrupts, "plan": plan }),
        )?;
        return Ok(exit);
    }
    let mut out = stdout();
    writeln!(out, "{}\n", summary(&topology))?;
    let glyphs = Glyphs::of_environment(|name| std::env::var(name).ok());
    writeln!(out, "{}", text::draw(&machine, &glyphs))?;
    table(&topology, plan.as_ref().ok()).write(&mut out)?;
    // The machine is shown all the same: it is what the mistake in the configuration is about.
    let plan = plan?;
    writeln!(out, "{DIM}\"/2\" behind a cache: two cores share it{DIM:#}\n")?;
    match is_written {
        true => writeln!(out, "{DIM}as configured in {}:{DIM:#}", global.config_path().display())?,
        false => writeln!(out, "{DIM}by default:{DIM:#}")?,
    }
    for (name, text) in threads(&plan) {
        writeln!(out, "  {name:15} {text}")?;
    }
    let warnings = plan.warnings.iter().map(ToString::to_string);
    for remark in warnings.chain(topology.remarks(&plan)) {
        let mut label = "warn";
        for line in wrap(&remark, WIDTH) {
            writeln!(out, "{CAUTION}{label:4}{CAUTION:#}  {line}")?;
            label = "";
        }
    }
    writeln!(
        out,
        "{DIM}change it in [topology] of the configuration, see{DIM:#} {LITERAL}docs/operations.md{LITERAL:#}"
    )?;
    Ok(Exit::Ok)
}

/// The machine and the plan, as `--json` prints them.
pub(crate) fn described(config: &Config) -> Value {
    let host = match Host::probe() {
        Ok(host) => host,
        Err(error) => return json!({ "error": error.to_string() }),
    };
    let topology = Topology::probe(&host);
    let plan = match Plan::resolve(config, &host) {
        Ok(plan) => planned(&topology, &plan),
        Err(error) => json!({ "ok": false, "problems": [{ "message": error.to_string() }] }),
    };
    json!({ "cpus": topology.cpus, "nodes": topology.nodes, "cores": topology.core_count(), "plan": plan })
}

fn summary(topology: &Topology) -> String {
    let (cpus, cores) = (topology.cpus.len(), topology.core_count());
    let nodes = topology.nodes.len().max(1);
    format!("{}, {}, {}", count(cpus, "CPU"), count(cores, "core"), count(nodes, "memory node"))
}

fn table(topology: &Topology, plan: Option<&Plan>) -> Columns {
    let heading = ["CPU", "core", "socket", "node", "L1", "L2", "L3"].map(|name| (name, Align::Right));
    let mut columns = Columns::new(&[&heading[..], &[("runs", Align::Left)]].concat());
    let roles = plan.map(roles).unwrap_or_default();
    for place in &topology.cpus {
        let known = |number: Option<u16>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let core = place.siblings.iter().min().copied();
        let runs = match roles.get(&place.cpu) {
            Some(role) => role.to_string(),
            None if !place.allowed => "closed to this process".to_owned(),
            None => String::new(),
        };
        let cache = |level| cache_text(topology, place, level);
        columns.add([
            place.cpu.to_string(),
            known(core),
            known(place.package),
            known(place.node),
            cache(1),
            cache(2),
            cache(3),
            runs,
        ]);
    }
    columns
}

/// `2 MiB`, or `30 MiB /4` for a cache that four CPUs share, threads of one core not counted.
fn cache_text(topology: &Topology, place: &CpuPlace, level: u8) -> String {
    let Some(Cache { bytes, cpus, .. }) = place.caches.iter().find(|cache| cache.level == level) else {
        return "-".to_owned();
    };
    let size = bytes.map_or_else(|| "?".to_owned(), size_text);
    let core_of = |cpu: &u16| {
        let place = topology.cpus.iter().find(|place| place.cpu == *cpu)?;
        place.siblings.iter().min().copied()
    };
    let cores: std::collections::BTreeSet<_> = cpus.iter().filter_map(core_of).collect();
    if cores.len() > 1 { format!("{size} /{}", cores.len()) } else { size }
}

/// What each kind of thread of the node is and where it runs.
fn threads(plan: &Plan) -> Vec<(&'static str, String)> {
    let shards = match plan.shards.iter().all(|shard| shard.cpu.is_some()) {
        true => format!("{} on CPU {}", plan.shard_count(), plan.cpus_text()),
        false => format!("{}, not pinned: the kernel places them", plan.shard_count()),
    };
    let workers = match plan.crypto_cpus.len() {
        0 => "none: each shard verifies what it receives".to_owned(),
        count => {
            let cpus: Vec<String> = plan.crypto_cpus.iter().map(ToString::to_string).collect();
            format!("{count} on CPU {}", cpus.join(","))
        }
    };
    let control = "1, not pinned: it answers the operator and is not on the path of a message".to_owned();
    vec![("shards", shards), ("crypto workers", workers), ("control", control)]
}

fn planned(topology: &Topology, plan: &Plan) -> Value {
    let roles = roles(plan);
    let of = |kind: fn(&Role) -> Option<u16>| -> Vec<Value> {
        let of_kind = roles.iter().filter_map(|(cpu, role)| Some(json!({ "index": kind(role)?, "cpu": cpu })));
        of_kind.collect()
    };
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).chain(topology.remarks(plan)).collect();
    json!({
        "ok": true,
        "shard_count": plan.shard_count(),
        "shards": of(|role| match role { Role::Shard(index) => Some(*index), Role::CryptoWorker(_) => None }),
        "crypto": if plan.crypto_cpus.is_empty() { "inline" } else { "workers" },
        "crypto_workers": of(|role| match role { Role::CryptoWorker(index) => Some(*index), Role::Shard(_) => None }),
        "control": { "cpu": null },
        "warnings": warnings,
    })
}

fn count(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
