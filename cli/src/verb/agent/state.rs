//! `creto agent suspend|resume|revoke`: who may not act for now, and who never may again.

use std::io::{BufRead, Write};

use creto_service::client::Client;
use creto_service::states::{OrganizationChanged, StateChange, StateWord};
use serde_json::json;

use super::{as_json, print_agent};
use crate::args::agent::{AgentRevokeArgs, AgentStateArgs, WhoseArgs};
use crate::client::control_failure;
use crate::exit::{Exit, Failure};
use crate::moment::now_ms;
use crate::terminal::{CAUTION, DIM, GOOD, STRONG, grouped, print_json, stdout};

pub(super) async fn set(client: &Client, state: StateWord, args: &AgentStateArgs) -> Result<Exit, Failure> {
    let change = StateChange { state, reason: args.reason.clone(), since_ms: None };
    change_states(client, &args.whose, &change, args.json).await
}

pub(super) async fn revoke(client: &Client, args: &AgentRevokeArgs) -> Result<Exit, Failure> {
    if let Some(organization) = args.whose.organization.as_ref().filter(|_| !args.yes) {
        confirm(organization)?;
    }
    let ago_ms = args.since.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let since_ms = ago_ms.map(|ago_ms| now_ms().saturating_sub(ago_ms));
    let change = StateChange { state: StateWord::Revoked, reason: args.reason.clone(), since_ms };
    change_states(client, &args.whose, &change, args.json).await
}

/// Nothing takes a revocation back, so whoever means an organization writes its name twice.
fn confirm(organization: &str) -> Result<(), Failure> {
    let question = format!(
        "This revokes every agent of {STRONG}{organization}{STRONG:#}, {CAUTION}for good{CAUTION:#}.\nType the name of the organization to go on: "
    );
    let mut err = anstream::stderr().lock();
    // Nobody is left to tell when standard error is closed: the answer decides.
    let _ = err.write_all(question.as_bytes()).and_then(|()| err.flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim_end_matches(['\r', '\n']) == organization {
        return Ok(());
    }
    let what = format!("nobody was revoked: the answer was not {organization}");
    Err(Failure::new(Exit::Usage, what, "run it again and type the name, or give --yes in a script"))
}

async fn change_states(
    client: &Client,
    whose: &WhoseArgs,
    change: &StateChange,
    wants_json: bool,
) -> Result<Exit, Failure> {
    match (&whose.name, &whose.organization) {
        (Some(name), _) => {
            let agent = client.set_state(name, change).await.map_err(|error| control_failure(&error))?;
            if wants_json {
                print_json(&as_json(&agent))?;
                return Ok(Exit::Ok);
            }
            let mut out = stdout();
            writeln!(out, "{GOOD}{}{GOOD:#}  {STRONG}{}{STRONG:#}\n", agent.state, agent.name)?;
            print_agent(&mut out, &agent)?;
        }
        (None, Some(organization)) => {
            let done = change_organization(client, organization, change).await?;
            let state = serde_json::to_value(change.state).expect("a word");
            if wants_json {
                print_json(&json!({
                    "organization": organization,
                    "state": state,
                    "changed": done.changed,
                    "unchanged": done.unchanged,
                    "revoked_before": done.revoked_before,
                }))?;
                return Ok(Exit::Ok);
            }
            let mut out = stdout();
            let word = state.as_str().unwrap_or_default();
            writeln!(out, "{GOOD}{word}{GOOD:#}  {STRONG}{organization}{STRONG:#}: {} agents", grouped(done.changed))?;
            for (count, what) in [(done.unchanged, "were so before"), (done.revoked_before, "are revoked, for good")] {
                if count > 0 {
                    writeln!(out, "{DIM}{} {what}{DIM:#}", grouped(count))?;
                }
            }
        }
        (None, None) => unreachable!("one of them is required"),
    }
    Ok(Exit::Ok)
}

/// Every agent that the organization has: as many transactions as it takes, each as large as one may be.
async fn change_organization(
    client: &Client,
    organization: &str,
    change: &StateChange,
) -> Result<OrganizationChanged, Failure> {
    let mut all = OrganizationChanged::default();
    let mut after: Option<String> = None;
    loop {
        let done = client.set_organization_state(organization, after.as_deref(), change).await;
        let done = done.map_err(|error| control_failure(&error))?;
        all.changed += done.changed;
        all.unchanged += done.unchanged;
        all.revoked_before += done.revoked_before;
        match done.next_after {
            Some(next) if after.as_deref() < Some(next.as_str()) => after = Some(next),
            Some(_) => {
                let what = "the node's list of agents does not advance";
                return Err(Failure::new(Exit::Refused, what, "use the same version of `creto` on both sides"));
            }
            None => return Ok(all),
        }
    }
}
