//! `creto policy explain` and `reload` on the node that runs here.

use std::io::Write;

use creto_envelope::AgentName;
use creto_service::api::{DecisionInfo, PolicyInfo};
use creto_service::client::Client;
use serde_json::json;

use crate::args::Global;
use crate::args::policy::{PolicyExplainArgs, PolicyReloadArgs};
use crate::client::{block_on, control_failure};
use crate::exit::{Exit, Failure};
use crate::terminal::{BAD, CAUTION, DIM, GOOD, STRONG, print_json, stdout};

/// Digits of the digest of a policy that a person compares.
const DIGEST_CHARS: usize = 16;

pub(super) fn explain(global: &Global, args: &PolicyExplainArgs) -> Result<Exit, Failure> {
    let config = global.load_config()?;
    let client = Client::new(config.control_socket());
    let name = |text: &str| {
        let next = "write organization/agent, such as acme/planner";
        AgentName::parse(text).map_err(|error| Failure::new(Exit::Usage, error.to_string(), next))
    };
    let Some(to) = &args.to else {
        let next = "name the agent that it is done to, or ask a file with --file and --agents";
        return Err(Failure::new(Exit::Usage, "a node decides about two agents", next));
    };
    let (from, to) = (name(&args.from)?, name(to)?);
    let answer = client.explain(&from, args.action.as_str(), &to);
    let decision = block_on(async { answer.await.map_err(|error| control_failure(&error)) })?;
    if args.json {
        print_json(&serde_json::to_value(&decision).expect("a decision is plain data"))?;
    } else {
        print(&decision)?;
    }
    Ok(if decision.allow { Exit::Ok } else { Exit::Found })
}

fn print(decision: &DecisionInfo) -> std::io::Result<()> {
    let mut out = stdout();
    match &decision.reason {
        None => writeln!(out, "{GOOD}allow{GOOD:#}")?,
        Some(reason) => match decision.code {
            Some(code) => writeln!(out, "{BAD}deny{BAD:#}  {code} {reason}")?,
            None => writeln!(out, "{BAD}deny{BAD:#}  {reason}")?,
        },
    }
    if let Some(bound_to) = &decision.bound_to {
        writeln!(out, "  bound to {}", json!(bound_to))?;
    }
    for rule in &decision.rules {
        let (style, word) = if rule.allow { (GOOD, "allows") } else { (DIM, "does not") };
        writeln!(out, "  {style}{word:<9}{style:#} {}:{}: {}", decision.policy, rule.line, rule.text)?;
        if let Some(error) = &rule.error {
            writeln!(out, "            {BAD}fails{BAD:#}: {error}")?;
        }
    }
    writeln!(out, "\n{STRONG}policy{STRONG:#}  {} {DIM}since epoch {}{DIM:#}", decision.policy, decision.policy_epoch)?;
    writeln!(out, "{STRONG}epoch{STRONG:#}   {}", decision.epoch)?;
    if let Some(recent_messages) = decision.recent_messages {
        writeln!(out, "{STRONG}recent{STRONG:#}  {recent_messages} messages {DIM}so it is asked for each{DIM:#}")?;
    }
    let kept: Vec<_> = decision.kept.iter().map(|kept| kept.shard.to_string()).collect();
    match kept.as_slice() {
        [] => writeln!(out, "{STRONG}kept{STRONG:#}    {DIM}on no shard{DIM:#}")?,
        shards => writeln!(out, "{STRONG}kept{STRONG:#}    on shard {}", shards.join(", "))?,
    }
    if let Some(inputs) = decision.inputs.as_object() {
        writeln!(out, "\n{STRONG}It saw{STRONG:#}")?;
        for (name, value) in inputs {
            writeln!(out, "  {name} = {value}")?;
        }
    }
    Ok(())
}

pub(super) fn reload(global: &Global, args: &PolicyReloadArgs) -> Result<Exit, Failure> {
    let config = global.load_config()?;
    let client = Client::new(config.control_socket());
    let policy = block_on(async { client.reload_policy().await.map_err(|error| control_failure(&error)) })?;
    if args.json {
        print_json(&serde_json::to_value(&policy).expect("it is plain data"))?;
    } else {
        print_policy(&mut stdout(), &policy)?;
    }
    Ok(Exit::Ok)
}

/// The policy in force, in one line, and why it is not what is in the file.
pub(crate) fn print_policy(out: &mut impl Write, policy: &PolicyInfo) -> std::io::Result<()> {
    let digest = policy.sha256.as_ref().map(|digest| format!("  sha256 {}", &digest[..DIGEST_CHARS.min(digest.len())]));
    let epoch = format!("since epoch {}", policy.epoch);
    writeln!(out, "policy     {STRONG}{}{STRONG:#}{}  {DIM}{epoch}{DIM:#}", policy.name, digest.unwrap_or_default())?;
    if let Some(failure) = &policy.failure {
        writeln!(out, "           {CAUTION}the file is not in force{CAUTION:#}: {failure}")?;
    }
    Ok(())
}
