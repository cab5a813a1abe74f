//! `creto status`: whether the node that runs here serves, shard by shard, and by which policy.

use std::io::Write;

use creto_service::client::Client;
use creto_service::health::{ControlLink, Readiness, ShardState};

use crate::args::{Global, StatusArgs};
use crate::client::control_failure;
use crate::exit::{Exit, Failure};
use crate::terminal::{BAD, CAUTION, DIM, GOOD, print_json, stdout, wrap};
use crate::verb::policy::print_policy;

/// Width of the text below a shard.
const TEXT_CHARS_MAX: usize = 84;

pub(crate) fn run(global: &Global, args: &StatusArgs) -> Result<Exit, Failure> {
    let (config, _) = global.load_config_or_default()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(Exit::System, format!("no runtime can be started: {error}"), "check `ulimit -a`")
    })?;
    let client = Client::new(config.control_socket());
    let asked = runtime.block_on(async {
        let readiness = client.readiness().await?;
        // Where control is elsewhere it has the policy.
        let policy = if readiness.control.is_some() { None } else { Some(client.policy().await?) };
        Ok((readiness, policy))
    });
    let (readiness, policy) = asked.map_err(|error| control_failure(&error))?;
    if args.json {
        let mut value = serde_json::to_value(&readiness).expect("readiness is plain data");
        if let Some(policy) = &policy {
            value["policy"] = serde_json::to_value(policy).expect("it is plain data");
        }
        print_json(&value)?;
    } else {
        print(&readiness)?;
        if let Some(policy) = &policy {
            print_policy(&mut stdout(), policy)?;
        }
    }
    Ok(if readiness.ready { Exit::Ok } else { Exit::Found })
}

fn print(readiness: &Readiness) -> std::io::Result<()> {
    let mut out = stdout();
    match readiness.ready {
        true => writeln!(out, "{GOOD}ready{GOOD:#}")?,
        false => writeln!(out, "{BAD}not ready{BAD:#}")?,
    }
    for line in wrap(&readiness.directory, TEXT_CHARS_MAX).iter().filter(|line| !line.is_empty()) {
        writeln!(out, "  directory  {BAD}{line}{BAD:#}")?;
    }
    if let Some(control) = &readiness.control {
        print_link(&mut out, control)?;
    }
    for (place, node) in readiness.nodes.iter().enumerate() {
        let what = if place == 0 { "nodes" } else { "" };
        writeln!(out, "  {what:<9}  {GOOD}linked{GOOD:#}  {}", node.name)?;
    }
    for shard in &readiness.shards {
        let style = match shard.state {
            ShardState::Serving => GOOD,
            ShardState::Starting | ShardState::Slow | ShardState::Full => CAUTION,
            ShardState::Fenced | ShardState::Stalled => BAD,
        };
        writeln!(out, "  shard {:<3}  {style}{}{style:#}", shard.shard, shard.state.as_str())?;
        for line in wrap(&shard.cause, TEXT_CHARS_MAX).iter().filter(|line| !line.is_empty()) {
            writeln!(out, "             {DIM}{line}{DIM:#}")?;
        }
    }
    Ok(())
}

/// The link to a control service elsewhere, and what the shards go by without it.
fn print_link(out: &mut impl Write, control: &ControlLink) -> std::io::Result<()> {
    let (style, state) = if control.linked { (GOOD, "linked") } else { (CAUTION, "not linked") };
    writeln!(out, "  control    {style}{state}{style:#}  {DIM}{}{DIM:#}", control.address)?;
    for line in wrap(&control.cause, TEXT_CHARS_MAX).iter().filter(|line| !line.is_empty()) {
        writeln!(out, "             {DIM}{line}{DIM:#}")?;
    }
    let seconds = |ms: u64| format!("{}.{} s", ms / 1_000, ms % 1_000 / 100);
    let age = control.snapshot_age_ms.map(|ms| format!("epoch {}, confirmed {} ago", control.epoch, seconds(ms)));
    let age = age.unwrap_or_else(|| "none yet".to_owned());
    match control.lapses_in_ms {
        Some(ms) => writeln!(out, "  directory  {age}{DIM}, counts for {} more without control{DIM:#}", seconds(ms)),
        None => writeln!(out, "  directory  {BAD}{age}: everything is denied until control confirms it{BAD:#}"),
    }
}
