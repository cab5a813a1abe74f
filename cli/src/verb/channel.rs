//! `creto channel`: what a channel is, signed by its owner's keys here, and kept by the node.

use std::io::Write;
use std::time::Duration;

use creto_agent::channel::{ChannelName, ChannelRecord, Publishing, Subscribing};
use creto_agent::{AgentId, AgentName, TrustDomain};
use creto_envelope::limits::CHANNEL_SUBSCRIBERS_MAX;
use creto_node::config::{size_text, span_text};
use creto_service::channels::ChannelInfo;
use creto_service::client::Client;

use crate::args::channel::{
    ChannelArgs, ChannelCreateArgs, ChannelDeleteArgs, ChannelListArgs, ChannelSetArgs, ChannelSettings,
    ChannelShowArgs, ChannelVerb, PublishArg, SubscribeArg,
};
use crate::args::{Global, KeysArgs};
use crate::client::{block_on, control_failure, load_keys};
use crate::exit::{Exit, Failure};
use crate::moment::{date_time, now_ms};
use crate::terminal::{Align, Columns, DIM, GOOD, STRONG, grouped, print_json, stdout};

/// What holds for a channel of which nothing else was said.
const RETENTION_S: u32 = 7 * 86_400;
const MESSAGES_MAX: u64 = 1_000_000;
const BYTES_MAX: u64 = 1 << 30;

pub(crate) fn run(global: &Global, args: &ChannelArgs) -> Result<Exit, Failure> {
    let config = global.load_config()?;
    let client = Client::new(config.control_socket());
    match &args.verb {
        ChannelVerb::Create(args) => {
            let trust_domain = TrustDomain::parse(&config.node.trust_domain);
            let trust_domain = trust_domain.map_err(|error| Failure::of(Exit::Usage, &error))?;
            block_on(create(global, &client, trust_domain, args))
        }
        ChannelVerb::Set(args) => block_on(set(global, &client, args)),
        ChannelVerb::List(args) => block_on(list(&client, args)),
        ChannelVerb::Show(args) => block_on(show(&client, args)),
        ChannelVerb::Delete(args) => block_on(delete(global, &client, args)),
    }
}

async fn create(
    global: &Global,
    client: &Client,
    trust_domain: TrustDomain,
    args: &ChannelCreateArgs,
) -> Result<Exit, Failure> {
    let version = match client.channel_record(&args.name).await {
        Ok(before) if !before.record.is_deleted => {
            let what = format!("there is a channel {} already", args.name);
            return Err(Failure::new(
                Exit::Refused,
                what,
                format!("look at it with `creto channel show {}`", args.name),
            ));
        }
        // A name that was used before goes on counting.
        Ok(before) => before.record.version,
        Err(error) if error.code() == Some("channel_unknown") => 0,
        Err(error) => return Err(control_failure(&error)),
    };
    let mut record = ChannelRecord {
        version,
        name: args.name.clone(),
        owner: AgentId::derive(&trust_domain, &args.owner),
        trust_domain,
        owner_key_version: 1,
        signed_at_ms: 0,
        subscribing: Subscribing::Open,
        publishing: Publishing::Open,
        has_history: false,
        is_deleted: false,
        retention_s: RETENTION_S,
        messages_max: MESSAGES_MAX,
        bytes_max: BYTES_MAX,
        subscribers_max: CHANNEL_SUBSCRIBERS_MAX,
    };
    change(&mut record, &args.settings)?;
    put(global, client, &args.keys, &args.owner, record, "created", args.json).await
}

async fn set(global: &Global, client: &Client, args: &ChannelSetArgs) -> Result<Exit, Failure> {
    let (owner, mut record) = of_owner(client, &args.name, args.owner.as_ref()).await?;
    let before = record.clone();
    change(&mut record, &args.settings)?;
    if record == before && args.owner.is_none() {
        let next = "name what is to change, such as --retention 1d; see `creto channel set --help`";
        return Err(Failure::new(Exit::Usage, "nothing would change", next));
    }
    put(global, client, &args.keys, &owner, record, "set", args.json).await
}

async fn delete(global: &Global, client: &Client, args: &ChannelDeleteArgs) -> Result<Exit, Failure> {
    let (owner, record) = of_owner(client, &args.name, args.owner.as_ref()).await?;
    let (subscribing, publishing) = (Subscribing::Open, Publishing::Open);
    let record = ChannelRecord { is_deleted: true, subscribing, publishing, ..record };
    put(global, client, &args.keys, &owner, record, "deleted", args.json).await
}

/// A channel that is there, and the name of its owner, or of whoever is to be it.
async fn of_owner(
    client: &Client,
    name: &ChannelName,
    new_owner: Option<&AgentName>,
) -> Result<(AgentName, ChannelRecord), Failure> {
    let shown = client.channel(name).await.map_err(|error| control_failure(&error))?;
    let signed = client.channel_record(name).await.map_err(|error| control_failure(&error))?;
    let mut record = signed.record;
    let owner = match new_owner {
        None => AgentName::parse(&shown.owner).map_err(|error| Failure::of(Exit::System, &error))?,
        Some(new_owner) => {
            record.owner = AgentId::derive(&record.trust_domain, new_owner);
            new_owner.clone()
        }
    };
    Ok((owner, record))
}

/// Signs the next version with the owner's keys, and hands it to the node.
async fn put(
    global: &Global,
    client: &Client,
    keys: &KeysArgs,
    owner: &AgentName,
    record: ChannelRecord,
    done: &str,
    json: bool,
) -> Result<Exit, Failure> {
    let keys = load_keys(global, keys, owner)?;
    let agent = client.agent(owner).await.map_err(|error| control_failure(&error))?;
    let record = ChannelRecord {
        version: record.version + 1,
        owner_key_version: agent.version,
        signed_at_ms: now_ms(),
        ..record
    };
    let signed = keys.signed_channel(record).map_err(|error| Failure::of(Exit::Usage, &error))?;
    let channel = client.put_channel(&signed).await.map_err(|error| control_failure(&error))?;
    if json {
        return print_as_json(&channel);
    }
    let mut out = stdout();
    writeln!(out, "{GOOD}{done}{GOOD:#}  {STRONG}{}{STRONG:#}\n", channel.name)?;
    print(&mut out, &channel)?;
    Ok(Exit::Ok)
}

/// What was said takes the place of what was there.
fn change(record: &mut ChannelRecord, settings: &ChannelSettings) -> Result<(), Failure> {
    let ids = |names: &[AgentName]| {
        let mut ids: Vec<_> = names.iter().map(|name| AgentId::derive(&record.trust_domain, name)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let contradiction = |what: &str| Failure::new(Exit::Usage, what, "leave one of them out");
    let (allowed, publishers) = (ids(&settings.allowed), ids(&settings.publishers));
    match settings.subscribe {
        // A list that is there stays, unless another one was given.
        Some(SubscribeArg::Allowlist)
            if allowed.is_empty() && matches!(record.subscribing, Subscribing::Allowlist(_)) => {}
        Some(SubscribeArg::Allowlist) => record.subscribing = Subscribing::Allowlist(allowed),
        Some(_) if !allowed.is_empty() => {
            return Err(contradiction("--allow names an allowlist, and --subscribe says that there is none"));
        }
        Some(SubscribeArg::Open) => record.subscribing = Subscribing::Open,
        Some(SubscribeArg::Private) => record.subscribing = Subscribing::Private,
        Some(SubscribeArg::AuthzRequired) => record.subscribing = Subscribing::AuthzRequired,
        None if allowed.is_empty() => {}
        None => record.subscribing = Subscribing::Allowlist(allowed),
    }
    match settings.publish {
        Some(PublishArg::Listed) if publishers.is_empty() && matches!(record.publishing, Publishing::Listed(_)) => {}
        Some(PublishArg::Listed) => record.publishing = Publishing::Listed(publishers),
        Some(PublishArg::Open) if !publishers.is_empty() => {
            return Err(contradiction("--publisher names publishers, and --publish open says that all may"));
        }
        Some(PublishArg::Open) => record.publishing = Publishing::Open,
        None if publishers.is_empty() => {}
        None => record.publishing = Publishing::Listed(publishers),
    }
    record.has_history = settings.history.unwrap_or(record.has_history);
    record.retention_s = settings.retention.unwrap_or(record.retention_s);
    record.messages_max = settings.messages.unwrap_or(record.messages_max);
    record.bytes_max = settings.bytes.unwrap_or(record.bytes_max);
    record.subscribers_max = settings.subscribers.unwrap_or(record.subscribers_max);
    Ok(())
}

async fn list(client: &Client, args: &ChannelListArgs) -> Result<Exit, Failure> {
    let channels = client.channels(args.pattern.as_ref()).await.map_err(|error| control_failure(&error))?;
    if args.json {
        print_json(&serde_json::to_value(&channels).expect("a channel is plain data"))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    if channels.is_empty() {
        let fitting = args.pattern.as_ref().map_or_else(String::new, |pattern| format!(" that {pattern} fits"));
        writeln!(out, "No channels{fitting}. {DIM}creto channel create acme/alerts --owner acme/planner{DIM:#}")?;
        return Ok(Exit::Ok);
    }
    let mut columns = Columns::new(&[
        ("channel", Align::Left),
        ("owner", Align::Left),
        ("subscribing", Align::Left),
        ("publishing", Align::Left),
        ("retention", Align::Right),
        ("messages", Align::Right),
        ("bytes", Align::Right),
        ("version", Align::Right),
    ]);
    for channel in &channels {
        columns.add([
            channel.name.clone(),
            channel.owner.clone(),
            listed(&channel.subscribing, channel.subscriber_count),
            listed(&channel.publishing, channel.publisher_count),
            span_text(Duration::from_secs(u64::from(channel.retention_s))),
            grouped(channel.messages_max),
            size_text(channel.bytes_max),
            channel.version.to_string(),
        ]);
    }
    columns.write(&mut out)?;
    Ok(Exit::Ok)
}

async fn show(client: &Client, args: &ChannelShowArgs) -> Result<Exit, Failure> {
    let channel = client.channel(&args.name).await.map_err(|error| control_failure(&error))?;
    if args.json {
        return print_as_json(&channel);
    }
    let mut out = stdout();
    writeln!(out, "{STRONG}{}{STRONG:#}\n", channel.name)?;
    print(&mut out, &channel)?;
    Ok(Exit::Ok)
}

fn print_as_json(channel: &ChannelInfo) -> Result<Exit, Failure> {
    print_json(&serde_json::to_value(channel).expect("a channel is plain data"))?;
    Ok(Exit::Ok)
}

fn print(out: &mut impl Write, channel: &ChannelInfo) -> std::io::Result<()> {
    let names = |names: &Option<Vec<String>>| match names.as_deref() {
        None | Some([]) => String::new(),
        Some(names) => format!(": {}", names.join(", ")),
    };
    writeln!(out, "  id           {}", channel.id)?;
    writeln!(out, "  owner        {}", channel.owner)?;
    writeln!(out, "  subscribing  {}{}", words(&channel.subscribing), names(&channel.subscribers))?;
    writeln!(out, "  publishing   {}{}", words(&channel.publishing), names(&channel.publishers))?;
    let history = if channel.history { "new subscribers may read it" } else { "new subscribers read what comes" };
    writeln!(out, "  history      {history}")?;
    let retention = span_text(Duration::from_secs(u64::from(channel.retention_s)));
    let (messages, bytes) = (grouped(channel.messages_max), size_text(channel.bytes_max));
    writeln!(out, "  keeps        {retention}, at most {messages} messages and {bytes}")?;
    writeln!(out, "  subscribers  at most {}", grouped(u64::from(channel.subscribers_max)))?;
    let (created, changed) = (date_time(channel.created_at_ms), date_time(channel.changed_at_ms));
    writeln!(out, "  created      {created} UTC, version {} since {changed} UTC", channel.version)
}

fn words(word: &str) -> String {
    word.replace('_', " ")
}

/// A rule and how many agents it names, for a cell.
fn listed(rule: &str, count: usize) -> String {
    if count == 0 { words(rule) } else { format!("{} ({count})", words(rule)) }
}
