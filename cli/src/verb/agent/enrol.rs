//! `creto agent create --node`: the node runs elsewhere, so it is asked where agents reach it, and wants a token.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use creto_agent::enrol::{EnrolError, Enrolment, enrol};
use creto_service::api::ErrorCode;
use serde_json::json;

use super::{add_keys, keys_here, print_keys, token_of, trust_domain, validity};
use crate::args::Global;
use crate::args::agent::AgentCreateArgs;
use crate::client::{connect_failure, keys_folder, keys_path, node_certificate, resolve};
use crate::exit::{Exit, Failure};
use crate::terminal::{DIM, GOOD, LITERAL, STRONG, print_json, stdout};

/// How long the node is waited for.
const WITHIN: Duration = Duration::from_secs(10);

/// Makes keys unless they are here already, and has them registered unless they are: running it again after any failure goes on
/// where it stopped.
pub(super) async fn run(global: &Global, args: &AgentCreateArgs) -> Result<Exit, Failure> {
    let name = &args.name;
    let Some(token) = token_of(args)? else {
        let next =
            "have the operator of the node run `creto token create`, and give its token in CRETO_ENROLMENT_TOKEN";
        return Err(Failure::new(Exit::Usage, "a node elsewhere registers agents with a token only", next));
    };
    let (config, _) = global.load_config_or_default()?;
    let node = resolve(args.node.as_deref(), &config)?;
    let certificate = node_certificate(args.certificate.as_deref(), &config)?;
    let trust_domain = trust_domain(&config, args)?;
    let path = keys_path(&keys_folder(global, &args.keys), name);
    let keys = Arc::new(keys_here(global, args, trust_domain.clone(), &path)?);
    if *keys.trust_domain() != trust_domain {
        let what = format!("the keys of {name} that are here belong to {}", keys.trust_domain());
        return Err(Failure::new(Exit::Usage, what, "give that with --trust-domain, or choose another name"));
    }
    let enrolled = enrol(node, &certificate, &keys, validity(args), token, WITHIN).await;
    // Refused or not, the keys stay: another run may have had them registered meanwhile, and the next one goes on with them.
    let created = enrolled.map_err(|error| failure(&error))? == Enrolment::Created;
    let key_id = keys.key_id().to_string();
    let spiffe_id = name.spiffe_id(&trust_domain);
    if args.json {
        let mut value = json!({
            "name": name.as_str(),
            "id": keys.id().to_string(),
            "spiffe_id": spiffe_id,
            "version": keys.record_version(),
            "key_id": key_id,
            "node": node.to_string(),
            "created": created,
        });
        add_keys(&mut value, &keys, &path);
        print_json(&value)?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    let done = if created { "created" } else { "exists" };
    writeln!(out, "{GOOD}{done}{GOOD:#}  {STRONG}{name}{STRONG:#}  {DIM}at {node}{DIM:#}\n")?;
    writeln!(out, "  id          {}", keys.id())?;
    writeln!(out, "  spiffe id   {spiffe_id}")?;
    writeln!(out, "  key id      {key_id}  {DIM}compare it over another channel{DIM:#}")?;
    print_keys(&mut out, &keys, name, &path)?;
    if created {
        let command = format!("creto recv {name} --follow --node {node}");
        writeln!(out, "\nNext: {LITERAL}{command}{LITERAL:#}   {DIM}print what it is sent{DIM:#}")?;
    }
    Ok(Exit::Ok)
}

fn failure(error: &EnrolError) -> Failure {
    match error {
        EnrolError::Connect(error) => connect_failure(error),
        EnrolError::Refused(_) => {
            let code = ErrorCode::ALL.iter().find(|code| Some(code.as_str()) == error.code());
            Failure::new(Exit::Refused, error.to_string(), code.map_or("", |code| code.next()))
        }
        EnrolError::OtherKey => Failure::of(Exit::Refused, error),
        _ => Failure::of(Exit::Unreachable, error),
    }
}
