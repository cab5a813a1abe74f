//! `creto agent set`: what an agent is, in the words that policies read.

use std::io::Write;

use creto_service::attributes::AttributesChange;
use creto_service::client::Client;

use super::{as_json, some_or_dash};
use crate::args::agent::AgentSetArgs;
use crate::client::control_failure;
use crate::exit::{Exit, Failure};
use crate::terminal::{GOOD, STRONG, print_json, stdout};

pub(super) async fn run(client: &Client, args: &AgentSetArgs) -> Result<Exit, Failure> {
    let agent = client.set_attributes(&args.name, &change(args)).await.map_err(|error| control_failure(&error))?;
    if args.json {
        print_json(&as_json(&agent))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    writeln!(out, "{GOOD}set{GOOD:#}  {STRONG}{}{STRONG:#}\n", agent.name)?;
    writeln!(out, "  type          {}", agent.agent_type)?;
    writeln!(out, "  roles         {}", some_or_dash(&agent.roles))?;
    writeln!(out, "  capabilities  {}", some_or_dash(&agent.capabilities))?;
    Ok(Exit::Ok)
}

/// What is named takes the place of what was there; the rest stays.
fn change(args: &AgentSetArgs) -> AttributesChange {
    let list = |given: &[String], clear: bool| match given {
        [] if clear => Some(None),
        [] => None,
        given => Some(Some(given.to_vec())),
    };
    AttributesChange {
        agent_type: args.agent_type.clone().map(Some),
        roles: list(&args.roles, args.clear_roles),
        capabilities: list(&args.capabilities, args.clear_capabilities),
    }
}
