//! `creto agent prekeys`: what is left of the prekeys that an agent has at the node. None is claimed by looking.

use std::io::Write;

use creto_service::api::AgentPrekeys;
use creto_service::client::Client;
use serde_json::to_value;

use crate::args::agent::AgentShowArgs;
use crate::client::control_failure;
use crate::exit::{Exit, Failure};
use crate::moment::date_time;
use crate::terminal::{BAD, CAUTION, DIM, GOOD, STRONG, print_json, stdout};

pub(super) async fn run(client: &Client, args: &AgentShowArgs) -> Result<Exit, Failure> {
    let stock = client.prekeys(&args.name).await.map_err(|error| control_failure(&error))?;
    if args.json {
        print_json(&to_value(&stock).expect("numbers and a name are plain data"))?;
        return Ok(Exit::Ok);
    }
    let AgentPrekeys { name, version, one_time, last_resort, low, uploaded_at_ms } = &stock;
    let mut out = stdout();
    let (word, next) = match (u64::from(*one_time), last_resort) {
        (0, false) => {
            (format!("{BAD}none{BAD:#}"), "senders use the key of its record; it makes some while it receives")
        }
        (0, true) => (format!("{CAUTION}none for one use{CAUTION:#}"), "senders are given the one of last resort"),
        (left, _) if left < *low => (format!("{CAUTION}few{CAUTION:#}"), "it makes new ones while it receives"),
        _ => (format!("{GOOD}enough{GOOD:#}"), "each is handed out once"),
    };
    let last = if *last_resort { "yes" } else { "no" };
    let uploaded = uploaded_at_ms.map_or_else(|| "never".to_owned(), date_time);
    writeln!(out, "{STRONG}{name}{STRONG:#}  {word}\n")?;
    writeln!(out, "  one-time    {one_time}  {DIM}{next}{DIM:#}")?;
    writeln!(out, "  last resort {last}")?;
    writeln!(out, "  version     {version}  {DIM}of its key record{DIM:#}")?;
    writeln!(out, "  uploaded    {uploaded}  {DIM}by its own clock{DIM:#}")?;
    Ok(Exit::Ok)
}
