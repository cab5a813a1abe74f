//! `creto mailbox list|show|set`: what each mailbox may hold.

use std::io::Write;
use std::time::Duration;

use creto_node::config::{size_text, span_text};
use creto_service::api::MailboxInfo;
use creto_service::client::Client;
use creto_service::mailboxes::MailboxChange;

use crate::args::Global;
use crate::args::mailbox::{MailboxArgs, MailboxListArgs, MailboxSetArgs, MailboxShowArgs, MailboxVerb, Setting};
use crate::client::{block_on, control_failure};
use crate::exit::{Exit, Failure};
use crate::terminal::{Align, Columns, DIM, GOOD, STRONG, grouped, print_json, stdout};

/// Behind a value that was set for this mailbox.
const OWN: &str = "*";

pub(crate) fn run(global: &Global, args: &MailboxArgs) -> Result<Exit, Failure> {
    let config = global.load_config()?;
    let client = Client::new(config.control_socket());
    match &args.verb {
        MailboxVerb::List(args) => block_on(list(&client, args)),
        MailboxVerb::Show(args) => block_on(show(&client, args)),
        MailboxVerb::Set(args) => block_on(set(&client, args)),
    }
}

async fn list(client: &Client, args: &MailboxListArgs) -> Result<Exit, Failure> {
    let mailboxes = client.mailboxes(args.organization.as_deref()).await.map_err(|error| control_failure(&error))?;
    if args.json {
        print_json(&serde_json::to_value(&mailboxes).expect("settings are plain data"))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    if mailboxes.is_empty() {
        let whose = args.organization.as_ref().map_or_else(String::new, |organization| format!(" of {organization}"));
        writeln!(out, "No mailboxes{whose} yet. {DIM}creto agent create acme/planner{DIM:#}")?;
        return Ok(Exit::Ok);
    }
    let mut columns = Columns::new(&[
        ("mailbox", Align::Left),
        ("retention", Align::Right),
        ("messages", Align::Right),
        ("bytes", Align::Right),
        ("deliveries", Align::Right),
    ]);
    let cell = |(value, is_own): (String, bool)| format!("{value}{}", if is_own { OWN } else { " " });
    for mailbox in &mailboxes {
        let [retention, messages, bytes, deliveries] = values(mailbox).map(cell);
        columns.add([mailbox.name.clone(), retention, messages, bytes, deliveries]);
    }
    columns.write(&mut out)?;
    writeln!(out, "\n{DIM}{OWN} set for this mailbox; everything else is the node's configuration{DIM:#}")?;
    Ok(Exit::Ok)
}

async fn show(client: &Client, args: &MailboxShowArgs) -> Result<Exit, Failure> {
    let mailbox = client.mailbox(&args.name).await.map_err(|error| control_failure(&error))?;
    if args.json {
        print_json(&serde_json::to_value(&mailbox).expect("settings are plain data"))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    writeln!(out, "{STRONG}{}{STRONG:#}\n", mailbox.name)?;
    print(&mut out, &mailbox)?;
    Ok(Exit::Ok)
}

async fn set(client: &Client, args: &MailboxSetArgs) -> Result<Exit, Failure> {
    let change = change(args);
    let mailbox = client.set_mailbox(&args.name, &change).await.map_err(|error| control_failure(&error))?;
    if args.json {
        print_json(&serde_json::to_value(&mailbox).expect("settings are plain data"))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    writeln!(out, "{GOOD}set{GOOD:#}  {STRONG}{}{STRONG:#}\n", mailbox.name)?;
    print(&mut out, &mailbox)?;
    if change.retention_s.is_some() {
        writeln!(out, "\n{DIM}Retention counts for messages that are admitted from now on.{DIM:#}")?;
    }
    Ok(Exit::Ok)
}

/// What is named is set; what is named with `--default`, or everything if nothing is, is taken back.
fn change(args: &MailboxSetArgs) -> MailboxChange {
    let taken_back = match args.default.as_deref() {
        None => MailboxChange::default(),
        Some([]) => MailboxChange::ALL_DEFAULT,
        Some(settings) => {
            let back = |setting| settings.contains(&setting);
            MailboxChange {
                retention_s: back(Setting::Retention).then_some(None),
                messages_max: back(Setting::Messages).then_some(None),
                bytes_max: back(Setting::Bytes).then_some(None),
                max_deliveries: back(Setting::MaxDeliveries).then_some(None),
            }
        }
    };
    MailboxChange {
        retention_s: args.retention.map(Some).or(taken_back.retention_s),
        messages_max: args.messages.map(Some).or(taken_back.messages_max),
        bytes_max: args.bytes.map(Some).or(taken_back.bytes_max),
        max_deliveries: args.max_deliveries.map(Some).or(taken_back.max_deliveries),
    }
}

/// What is in force, and whether it was set for this mailbox: retention, messages, bytes, deliveries.
fn values(mailbox: &MailboxInfo) -> [(String, bool); 4] {
    let now = &mailbox.in_force;
    let deliveries = match now.max_deliveries {
        0 => "any".to_owned(),
        count => count.to_string(),
    };
    [
        (span_text(Duration::from_secs(u64::from(now.retention_s))), mailbox.retention_s.is_some()),
        (grouped(u64::from(now.messages_max)), mailbox.messages_max.is_some()),
        (size_text(now.bytes_max), mailbox.bytes_max.is_some()),
        (deliveries, mailbox.max_deliveries.is_some()),
    ]
}

fn print(out: &mut impl Write, mailbox: &MailboxInfo) -> std::io::Result<()> {
    for (name, (value, is_own)) in ["retention", "messages", "bytes", "deliveries"].into_iter().zip(values(mailbox)) {
        let whose = if is_own { "set for this mailbox" } else { "the node's default" };
        writeln!(out, "  {name:<10}  {value:<10}  {DIM}{whose}{DIM:#}")?;
    }
    Ok(())
}
