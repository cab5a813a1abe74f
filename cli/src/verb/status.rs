//! `creto status`: whether the node that runs here serves, shard by shard, and by which policy.

use std::io::Write;

use creto_service::client::Client;
use creto_service::health::{Readiness, ShardState};

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
    let asked = runtime.block_on(async { Ok((client.readiness().await?, client.policy().await?)) });
    let (readiness, policy) = asked.map_err(|error| control_failure(&error))?;
    if args.json {
        let mut value = serde_json::to_value(&readiness).expect("readiness is plain data");
        value["policy"] = serde_json::to_value(&policy).expect("it is plain data");
        print_json(&value)?;
    } else {
        print(&readiness)?;
        print_policy(&mut stdout(), &policy)?;
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
    for shard in &readiness.shards {
        let style = match shard.state {
            ShardState::Serving => GOOD,
            ShardState::Starting | ShardState::Slow | ShardState::Full => CAUTION,
            ShardState::Fenced => BAD,
        };
        writeln!(out, "  shard {:<3}  {style}{}{style:#}", shard.shard, shard.state.as_str())?;
        for line in wrap(&shard.cause, TEXT_CHARS_MAX).iter().filter(|line| !line.is_empty()) {
            writeln!(out, "             {DIM}{line}{DIM:#}")?;
        }
    }
    Ok(())
}
