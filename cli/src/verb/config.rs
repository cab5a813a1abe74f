//! `creto config check|show`

use std::io::Write;

use creto_node::config::{Config, ConfigError, Origin, Place, Problem, Shown};
use creto_node::host::Host;
use creto_node::plan::Plan;
use serde_json::{Value, json};

use crate::args::{ConfigArgs, ConfigVerb, Global};
use crate::exit::{Exit, Failure};
use crate::terminal::{CAUTION, DIM, GOOD, LITERAL, STRONG, print_json, stdout};

pub(crate) fn run(global: &Global, args: &ConfigArgs) -> Result<Exit, Failure> {
    match &args.verb {
        ConfigVerb::Check(args) => check(global, args.json),
        ConfigVerb::Show(args) => show(global, args.json),
    }
}

fn check(global: &Global, as_json: bool) -> Result<Exit, Failure> {
    let config = match Config::load(global.config_path(), std::env::vars_os()) {
        Ok(config) => config,
        Err(error) if as_json => {
            print_json(&refused(&error))?;
            return Ok(Exit::Usage);
        }
        Err(error) => return Err(error.into()),
    };
    let host = Host::probe().map_err(|error| {
        Failure::new(Exit::System, format!("this machine cannot be described: {error}"), "`creto doctor` says more")
    })?;
    let plan = match Plan::resolve(&config, &host) {
        Ok(plan) => plan,
        Err(error) if as_json => {
            print_json(&json!({ "ok": false, "problems": [{ "message": error.to_string() }] }))?;
            return Ok(Exit::Usage);
        }
        Err(error) => return Err(error.into()),
    };
    let written = config.show().iter().filter(|row| row.origin != Origin::Default).count();
    if as_json {
        print_json(&json!({
            "ok": true,
            "file": global.config_path(),
            "keys_written": written,
            "shards": plan.shards.iter().map(|shard| json!({ "shard": shard.shard_index, "cpu": shard.cpu })).collect::<Vec<_>>(),
            "wal_disk_bytes_max": plan.wal_disk_bytes_max,
            "memory_bytes_max": plan.memory_bytes_max,
            "memlock_bytes_min": plan.memlock_bytes_min,
            "warnings": plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    let shards = if plan.shard_count() == 1 { "1 shard".to_owned() } else { format!("{} shards", plan.shard_count()) };
    let where_they_run = match plan.shards.iter().all(|shard| shard.cpu.is_some()) {
        true => format!("on CPU {}", plan.cpus_text()),
        false => "not pinned".to_owned(),
    };
    writeln!(
        out,
        "{GOOD}ok{GOOD:#}    {}: {shards} {where_they_run}, {written} keys written",
        global.config_path().display()
    )?;
    for warning in &plan.warnings {
        writeln!(out, "{CAUTION}warn{CAUTION:#}  {warning}")?;
    }
    Ok(Exit::Ok)
}

fn refused(error: &ConfigError) -> Value {
    let problems = match error {
        ConfigError::Unreadable { .. } => vec![json!({ "message": error.to_string() })],
        ConfigError::NotUnderstood { problems } => problems.iter().map(problem).collect(),
    };
    json!({ "ok": false, "problems": problems })
}

fn problem(problem: &Problem) -> Value {
    let Problem { place, message, hint } = problem;
    match place {
        Place::File { file, line, column, .. } => {
            json!({ "file": file, "line": line, "column": column, "message": message, "hint": hint })
        }
        Place::Variable { name } => json!({ "variable": name, "message": message, "hint": hint }),
        Place::Defaults => json!({ "message": message, "hint": hint }),
    }
}

fn show(global: &Global, as_json: bool) -> Result<Exit, Failure> {
    let (config, _) = global.load_config_or_default()?;
    if as_json {
        print_json(&Value::Array(config.show().iter().map(row).collect()))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    // The text is a configuration file; only its colours are added here.
    for line in config.to_toml().lines() {
        match line.rsplit_once("  # ") {
            Some((assignment, origin)) => {
                let style = if origin == "default" { DIM } else { LITERAL };
                let name_end = assignment.find(" =").unwrap_or(0);
                let (name, value) = assignment.split_at(name_end);
                let weight = if origin == "default" { anstyle::Style::new() } else { STRONG };
                writeln!(out, "{name}{weight}{value}{weight:#}  {style}# {origin}{style:#}")?;
            }
            None => writeln!(out, "{STRONG}{line}{STRONG:#}")?,
        }
    }
    Ok(Exit::Ok)
}

fn row(row: &Shown) -> Value {
    let origin = match &row.origin {
        Origin::Default => json!({ "kind": "default" }),
        Origin::File { file, line } => json!({ "kind": "file", "file": file, "line": line }),
        Origin::Variable { name } => json!({ "kind": "variable", "name": name }),
    };
    let value: Value = row.value.parse().unwrap_or_else(|_| Value::String(row.value.clone()));
    json!({ "section": row.section, "key": row.name, "value": value, "origin": origin })
}
