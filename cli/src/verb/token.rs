//! `creto token create|list|withdraw`: who may register agents, where not everybody may.

use std::io::Write;

use creto_service::client::Client;
use creto_service::tokens::{TokenInfo, TokenWanted};

use crate::args::Global;
use crate::args::token::{TokenArgs, TokenCreateArgs, TokenListArgs, TokenVerb, TokenWithdrawArgs};
use crate::client::{block_on, control_failure};
use crate::exit::{Exit, Failure};
use crate::moment::{date_time, now_ms};
use crate::terminal::{Align, CAUTION, Columns, DIM, GOOD, LITERAL, STRONG, print_json, stdout};

pub(crate) fn run(global: &Global, args: &TokenArgs) -> Result<Exit, Failure> {
    let config = global.load_config()?;
    let client = Client::new(config.control_socket());
    match &args.verb {
        TokenVerb::Create(args) => block_on(create(&client, args)),
        TokenVerb::List(args) => block_on(list(&client, args)),
        TokenVerb::Withdraw(args) => block_on(withdraw(&client, args)),
    }
}

async fn create(client: &Client, args: &TokenCreateArgs) -> Result<Exit, Failure> {
    let of_name = args.name.as_ref().map(|name| name.organization().to_owned());
    let wanted = TokenWanted {
        organization: args.organization.clone().or(of_name).unwrap_or_default(),
        name: args.name.as_ref().map(ToString::to_string),
        expires_in_s: args.expires.as_secs(),
        uses: args.uses,
    };
    let made = client.make_token(&wanted).await.map_err(|error| control_failure(&error))?;
    if args.json {
        print_json(&serde_json::to_value(&made).expect("texts and numbers"))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    writeln!(out, "{STRONG}{}{STRONG:#}\n", made.token)?;
    print(&mut out, &made.info)?;
    writeln!(out, "\n{CAUTION}It is not shown again.{CAUTION:#} Whoever has it may register what it is for.")?;
    let name = wanted.name.unwrap_or_else(|| format!("{}/NAME", wanted.organization));
    writeln!(out, "Next: {LITERAL}CRETO_ENROLMENT_TOKEN=... creto agent create {name}{LITERAL:#}")?;
    Ok(Exit::Ok)
}

async fn list(client: &Client, args: &TokenListArgs) -> Result<Exit, Failure> {
    let tokens = client.tokens().await.map_err(|error| control_failure(&error))?;
    if args.json {
        print_json(&serde_json::to_value(&tokens).expect("texts and numbers"))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    if tokens.is_empty() {
        writeln!(out, "No tokens. {DIM}creto token create --organization acme{DIM:#}")?;
        return Ok(Exit::Ok);
    }
    let mut columns = Columns::new(&[
        ("id", Align::Left),
        ("for", Align::Left),
        ("state", Align::Left),
        ("left", Align::Right),
        ("of", Align::Right),
        ("good until", Align::Left),
    ]);
    for token in &tokens {
        columns.add([
            token.id.clone(),
            token.scope.clone(),
            state(token).to_owned(),
            token.uses_left.to_string(),
            token.uses.to_string(),
            date_time(token.expires_at_ms),
        ]);
    }
    columns.write(&mut out)?;
    Ok(Exit::Ok)
}

async fn withdraw(client: &Client, args: &TokenWithdrawArgs) -> Result<Exit, Failure> {
    let token = client.withdraw_token(&args.id).await.map_err(|error| control_failure(&error))?;
    if args.json {
        print_json(&serde_json::to_value(&token).expect("texts and numbers"))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    writeln!(out, "{GOOD}withdrawn{GOOD:#}  {STRONG}{}{STRONG:#}\n", token.id)?;
    print(&mut out, &token)?;
    Ok(Exit::Ok)
}

fn state(token: &TokenInfo) -> &'static str {
    match (token.uses_left, now_ms() < token.expires_at_ms) {
        (0, _) => "used",
        (_, false) => "expired",
        (_, true) => "good",
    }
}

fn print(out: &mut impl Write, token: &TokenInfo) -> std::io::Result<()> {
    let what = if token.scope.contains('/') { "this agent" } else { "agents of this organization" };
    writeln!(out, "  id          {}", token.id)?;
    writeln!(out, "  for         {}  {DIM}{what}{DIM:#}", token.scope)?;
    writeln!(out, "  uses        {} of {}", token.uses_left, token.uses)?;
    writeln!(out, "  good until  {} UTC", date_time(token.expires_at_ms))
}
