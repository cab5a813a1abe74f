//! `creto agent`: keys are made here and stay here; the node learns their public half, and what an agent is from its operator.

use std::io::Write;
use std::path::Path;

use creto_agent::enrol::EnrolmentToken;
use creto_agent::keystore::{KeyLock, LockKind, PassphraseLock};
use creto_agent::{AgentId, AgentKeys, AgentName, KeysError, StateDirectory, TrustDomain};
use creto_crypto_accel::verify::VerifyingKeys;
use creto_node::config::Config;
use creto_service::api::{AgentInfo, AgentKeys as KeyVersions, ErrorCode, KeyVersionInfo};
use creto_service::client::Client;
use creto_service::states::StateWord;
use serde_json::{Value, json};

use crate::args::Global;
use crate::args::agent::{
    AgentArgs, AgentCreateArgs, AgentListArgs, AgentRotateArgs, AgentShowArgs, AgentVerb, TokenArg,
};
use crate::client::{
    block_on, connect_with, control_failure, keys_failure, keys_folder, keys_path, load_keys, rotate_failure,
};
use crate::exit::{Exit, Failure};
use crate::moment::{date, date_time, now_ms};
use crate::terminal::{Align, BAD, CAUTION, Columns, DIM, GOOD, LITERAL, STRONG, print_json, stdout};

mod enrol;
mod fingerprint;
mod passphrase;
mod prekeys;
mod set;
mod state;
mod svid;

const MS_PER_DAY: u64 = 86_400_000;
/// Keys are valid from a little before they are made, for nodes whose clock is late.
const VALID_BEFORE_MS: u64 = 300_000;
/// For the folder of the keys.
const KEYS_FOLDER_MODE: u32 = 0o700;
/// Most characters of an attribute in the list.
const CELL_CHARS_MAX: usize = 32;
/// How the node says that an agent is revoked.
const REVOKED: &str = "revoked";
/// What the node answers about a name that is not registered.
const UNKNOWN: &str = "agent_unknown";

pub(crate) fn run(global: &Global, args: &AgentArgs) -> Result<Exit, Failure> {
    if let AgentVerb::Passphrase(args) = &args.verb {
        // Where an agent runs there may be no node, and no configuration of one.
        return passphrase::run(global, args);
    }
    if let AgentVerb::Create(args) = &args.verb
        && args.node.is_some()
    {
        return block_on(enrol::run(global, args));
    }
    let config = global.load_config()?;
    let client = Client::new(config.control_socket());
    match &args.verb {
        AgentVerb::Create(args) => {
            let trust_domain = trust_domain(&config, args)?;
            block_on(create(global, &client, trust_domain, args))
        }
        AgentVerb::List(args) => block_on(list(&client, args)),
        AgentVerb::Show(args) => block_on(show(&client, args)),
        AgentVerb::Prekeys(args) => block_on(prekeys::run(&client, args)),
        AgentVerb::Set(args) => block_on(set::run(&client, args)),
        AgentVerb::Suspend(args) => block_on(state::set(&client, StateWord::Suspended, args)),
        AgentVerb::Resume(args) => block_on(state::set(&client, StateWord::Active, args)),
        AgentVerb::Revoke(args) => block_on(state::revoke(&client, args)),
        AgentVerb::Rotate(args) => block_on(rotate(global, args)),
        AgentVerb::Passphrase(_) => unreachable!("it was done above"),
        AgentVerb::Fingerprint(args) => block_on(fingerprint::run(global, args)),
    }
}

/// The trust domain that was given, or the configuration's.
fn trust_domain(config: &Config, args: &AgentCreateArgs) -> Result<TrustDomain, Failure> {
    let given = args.trust_domain.as_ref().unwrap_or(&config.node.trust_domain);
    TrustDomain::parse(given).map_err(|error| {
        let next = "give it with --trust-domain, or correct node.trust_domain in the configuration";
        Failure::new(Exit::Usage, error.to_string(), next)
    })
}

/// The token that was given, if one was.
fn token_of(args: &AgentCreateArgs) -> Result<Option<&EnrolmentToken>, Failure> {
    match &args.token {
        None => Ok(None),
        Some(TokenArg(Some(token))) => Ok(Some(token)),
        Some(TokenArg(None)) => {
            let next = "copy all of it, from creto-enrol- on";
            Err(Failure::new(Exit::Usage, "what was given is no token for enrolment", next))
        }
    }
}

/// Makes keys unless they are here already, and registers them unless they are registered already: running it again
/// after any failure goes on where it stopped.
async fn create(
    global: &Global,
    client: &Client,
    trust_domain: TrustDomain,
    args: &AgentCreateArgs,
) -> Result<Exit, Failure> {
    let token = token_of(args)?;
    let svid = svid::of(args)?;
    let name = &args.name;
    let path = keys_path(&keys_folder(global, &args.keys), name);
    let registered = find(client, name).await?;
    let had_keys = path.exists();
    if registered.as_ref().is_some_and(|agent| agent.state == REVOKED) {
        return Err(Failure::new(Exit::Refused, format!("{name} was revoked"), ErrorCode::AgentRevoked.next()));
    }
    if let (Some(registered), false) = (&registered, had_keys) {
        let next = "choose another name, or name the folder that has its keys with --keys";
        let what =
            format!("{name} is registered since {}, with keys that are not here", date(registered.registered_at_ms));
        return Err(Failure::new(Exit::Refused, what, next));
    }
    let keys = keys_here(global, args, trust_domain, &path)?;
    let (agent, created) = match registered {
        Some(agent) if agent.key_id == keys.key_id().to_string() => (agent, false),
        Some(_) => {
            let what = format!("{name} is registered with other keys than those in {}", path.display());
            return Err(Failure::new(
                Exit::Refused,
                what,
                "choose another name, or find the keys it was registered with",
            ));
        }
        None => {
            let valid_ms = validity(args);
            let record = match token {
                Some(token) if svid.is_none() => keys.enrolment_record(token, valid_ms),
                _ => keys.signed_record(keys.record_version(), valid_ms.start, valid_ms.end),
            };
            let registration = match (&svid, token) {
                (Some(svid), _) => {
                    let enrolment = svid.enrolment(&record).map_err(|error| Failure::of(Exit::Usage, &error))?;
                    client.enrol_with_svid(&enrolment).await
                }
                (None, Some(token)) => client.enrol(&record, token).await,
                (None, None) => client.register(&record).await,
            };
            let registration = registration.map_err(|error| {
                if !had_keys && error.code().is_some() {
                    forget_keys(&keys, &path);
                }
                control_failure(&error)
            })?;
            (registration.agent, registration.created)
        }
    };
    if args.json {
        let mut value = as_json(&agent);
        value["created"] = created.into();
        add_keys(&mut value, &keys, &path);
        print_json(&value)?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    let done = if created { "created" } else { "exists" };
    writeln!(out, "{GOOD}{done}{GOOD:#}  {STRONG}{name}{STRONG:#}\n")?;
    print_agent(&mut out, &agent)?;
    print_keys(&mut out, &keys, name, &path)?;
    if created {
        writeln!(out, "\nNext: {LITERAL}creto recv {name} --follow{LITERAL:#}   {DIM}print what it is sent{DIM:#}")?;
    }
    Ok(Exit::Ok)
}

/// The keys of the agent that is to be created: those that are here, or new ones, which are saved before the node hears of them: a
/// registered agent without keys could never be used.
fn keys_here(
    global: &Global,
    args: &AgentCreateArgs,
    trust_domain: TrustDomain,
    path: &Path,
) -> Result<AgentKeys, Failure> {
    let (name, folders) = (&args.name, &args.keys);
    if path.exists() {
        let keys = load_keys(global, folders, name)?;
        check_has_wanted(&keys, args)?;
        if wants_lock(args) && keys.locks().is_empty() {
            let what = format!("{name} has keys here, and they are not encrypted");
            return Err(Failure::new(
                Exit::Refused,
                what,
                format!("encrypt them first: `creto agent passphrase {name}`"),
            ));
        }
        return Ok(keys);
    }
    // Asked for first: nothing is left behind when there is none.
    let lock = wanted_lock(args)?;
    let keys = generate(args, trust_domain).map_err(|error| keys_failure(&error))?;
    make_private_folder(path.parent().unwrap_or(Path::new(".")))?;
    let saved = match &lock {
        Some(lock) => keys.save_locked(path, &**lock),
        None => keys.save(path),
    };
    saved.map_err(|error| keys_failure(&error))?;
    Ok(keys)
}

/// Removes keys that were made just now: the node said no, so nobody will ever know them.
fn forget_keys(keys: &AgentKeys, path: &Path) {
    if keys.is_file_unchanged() {
        let _ = std::fs::remove_file(path);
    }
}

/// From when to when a new record is valid, Unix milliseconds.
fn validity(args: &AgentCreateArgs) -> std::ops::Range<u64> {
    let now = now_ms();
    now.saturating_sub(VALID_BEFORE_MS)..now + u64::from(args.valid_days) * MS_PER_DAY
}

/// What is said of keys that are here.
fn add_keys(value: &mut Value, keys: &AgentKeys, path: &Path) {
    value["signature_algorithms"] = json!(algorithms(keys.has_fn_dsa_512()));
    value["keys"] = path.display().to_string().into();
    value["encrypted"] = (!keys.locks().is_empty()).into();
    value["locks"] = lock_names(keys).into();
}

fn print_keys(out: &mut impl Write, keys: &AgentKeys, name: &AgentName, path: &Path) -> std::io::Result<()> {
    print_third(out, keys.has_fn_dsa_512())?;
    if keys.locks().is_empty() {
        writeln!(
            out,
            "  keys        {}  {CAUTION}not encrypted: whoever has this file is this agent{CAUTION:#}",
            path.display()
        )?;
        return writeln!(
            out,
            "              {LITERAL}creto agent passphrase {name}{LITERAL:#}   {DIM}encrypt it{DIM:#}"
        );
    }
    let with = lock_names(keys).join(" or ");
    writeln!(out, "  keys        {}  {DIM}encrypted: opens with its {with} only{DIM:#}", path.display())
}

/// What opens an agent's file, in words.
fn lock_names(keys: &AgentKeys) -> Vec<&'static str> {
    keys.locks().into_iter().map(LockKind::name).collect()
}

/// Whether the command says that the keys are to be encrypted. A credential of the system alone does not.
fn wants_lock(args: &AgentCreateArgs) -> bool {
    args.encrypt || args.keys.passphrase_file.is_some() || args.keys.pkcs11_module.is_some()
}

/// What the keys are to be encrypted with, if they are.
fn wanted_lock(args: &AgentCreateArgs) -> Result<Option<Box<dyn KeyLock>>, Failure> {
    if let Some(token) = crate::passphrase::token_of(&args.keys)? {
        return Ok(Some(Box::new(token)));
    }
    let given = crate::passphrase::given_new(args.keys.passphrase_file.as_deref())?;
    let passphrase = match given {
        None if args.encrypt => Some(crate::passphrase::asked_new(&args.name)?),
        given => given,
    };
    Ok(passphrase.map(|passphrase| Box::new(PassphraseLock::new(passphrase)) as Box<dyn KeyLock>))
}

#[cfg(feature = "fn-dsa")]
fn generate(args: &AgentCreateArgs, trust_domain: TrustDomain) -> Result<AgentKeys, KeysError> {
    let name = args.name.clone();
    match args.fn_dsa {
        true => AgentKeys::generate_with_fn_dsa_512(name, trust_domain),
        false => AgentKeys::generate(name, trust_domain),
    }
}

#[cfg(not(feature = "fn-dsa"))]
fn generate(args: &AgentCreateArgs, trust_domain: TrustDomain) -> Result<AgentKeys, KeysError> {
    AgentKeys::generate(args.name.clone(), trust_domain)
}

/// Keys that are here already have what was asked for.
fn check_has_wanted(keys: &AgentKeys, args: &AgentCreateArgs) -> Result<(), Failure> {
    #[cfg(feature = "fn-dsa")]
    let wants_third = args.fn_dsa;
    #[cfg(not(feature = "fn-dsa"))]
    let wants_third = false;
    if !wants_third || keys.has_fn_dsa_512() {
        return Ok(());
    }
    let what = format!("{} has keys here, and no FN-DSA-512 key among them", args.name);
    Err(Failure::new(Exit::Refused, what, "leave out --fn-dsa, or choose another name: signing keys stay as they are"))
}

/// What batches of an agent are signed with: all of it must hold.
fn algorithms(has_fn_dsa_512: bool) -> &'static [&'static str] {
    if has_fn_dsa_512 { &["Ed25519", "ML-DSA-65", "FN-DSA-512"] } else { &["Ed25519", "ML-DSA-65"] }
}

fn print_third(out: &mut impl Write, has_fn_dsa_512: bool) -> std::io::Result<()> {
    if has_fn_dsa_512 {
        writeln!(out, "  third key   FN-DSA-512, signs every batch  {DIM}experimental{DIM:#}")?;
    }
    Ok(())
}

async fn find(client: &Client, name: &AgentName) -> Result<Option<AgentInfo>, Failure> {
    match client.agent(name).await {
        Ok(agent) => Ok(Some(agent)),
        Err(error) if error.code() == Some(UNKNOWN) => Ok(None),
        Err(error) => Err(control_failure(&error)),
    }
}

fn make_private_folder(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(KEYS_FOLDER_MODE).create(folder);
    made.map_err(|error| Failure::file("make the folder", folder, &error))
}

async fn list(client: &Client, args: &AgentListArgs) -> Result<Exit, Failure> {
    let agents = client.agents(args.organization.as_deref()).await.map_err(|error| control_failure(&error))?;
    if args.json {
        print_json(&Value::Array(agents.iter().map(as_json).collect()))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    if agents.is_empty() {
        let whose = args.organization.as_ref().map_or_else(String::new, |organization| format!(" of {organization}"));
        writeln!(out, "No agents{whose} yet. {DIM}creto agent create acme/planner{DIM:#}")?;
        return Ok(Exit::Ok);
    }
    let mut columns = Columns::new(&[
        ("name", Align::Left),
        ("state", Align::Left),
        ("type", Align::Left),
        ("roles", Align::Left),
        ("version", Align::Right),
        ("valid until", Align::Left),
        ("registered", Align::Left),
        ("key id", Align::Left),
    ]);
    for agent in &agents {
        columns.add([
            agent.name.clone(),
            agent.state.clone(),
            shortened(&agent.agent_type),
            shortened(&some_or_dash(&agent.roles)),
            agent.version.to_string(),
            date(agent.valid_until_ms),
            date(agent.registered_at_ms),
            agent.key_id.clone(),
        ]);
    }
    columns.write(&mut out)?;
    Ok(Exit::Ok)
}

async fn show(client: &Client, args: &AgentShowArgs) -> Result<Exit, Failure> {
    let agent = client.agent(&args.name).await.map_err(|error| control_failure(&error))?;
    let (fingerprint, has_fn_dsa_512) = signing_fingerprint(client, &agent).await?;
    let keys = client.keys(&args.name).await.map_err(|error| control_failure(&error))?;
    if args.json {
        let mut value = as_json(&agent);
        value["signing_fingerprint"] = fingerprint.into();
        value["signature_algorithms"] = json!(algorithms(has_fn_dsa_512));
        value["key_grace_ms"] = keys.key_grace_ms.into();
        value["keys"] = versions_as_json(&keys);
        print_json(&value)?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    let state = match agent.state.as_str() {
        "active" => format!("{GOOD}active{GOOD:#}"),
        REVOKED => format!("{BAD}revoked{BAD:#}"),
        other => format!("{CAUTION}{other}{CAUTION:#}"),
    };
    writeln!(out, "{STRONG}{}{STRONG:#}  {state}\n", agent.name)?;
    print_agent(&mut out, &agent)?;
    writeln!(out, "  signs with  {fingerprint}  {DIM}for creto proof verify{DIM:#}")?;
    print_third(&mut out, has_fn_dsa_512)?;
    writeln!(out)?;
    let mut columns = Columns::new(&[
        ("version", Align::Right),
        ("state", Align::Left),
        ("replaced", Align::Left),
        ("accepted until", Align::Left),
        ("key id", Align::Left),
    ]);
    let moment = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), date_time);
    for key in &keys.versions {
        let (replaced, until) = (moment(key.replaced_at_ms), moment(key.accepted_until_ms));
        columns.add([key.version.to_string(), key.state.clone(), replaced, until, key.key_id.clone()]);
    }
    columns.write(&mut out)?;
    Ok(Exit::Ok)
}

fn versions_as_json(keys: &KeyVersions) -> Value {
    let version = |key: &KeyVersionInfo| {
        json!({
            "version": key.version,
            "state": key.state,
            "key_id": key.key_id,
            "valid_from_ms": key.valid_from_ms,
            "valid_until_ms": key.valid_until_ms,
            "replaced_at_ms": key.replaced_at_ms,
            "accepted_until_ms": key.accepted_until_ms,
        })
    };
    Value::Array(keys.versions.iter().map(version).collect())
}

async fn rotate(global: &Global, args: &AgentRotateArgs) -> Result<Exit, Failure> {
    let agent = connect_with(global, &args.reach, &args.name, |options| {
        // It sends nothing and reads nothing: the sessions belong to the process that does.
        options.state = StateDirectory::Memory;
    })
    .await?;
    let rotated = if args.emergency { agent.rotate_compromised_keys().await } else { agent.rotate_keys().await };
    agent.close().await;
    let rotation = rotated.map_err(|error| rotate_failure(&error))?;
    if args.json {
        print_json(&json!({
            "name": args.name.to_string(),
            "version": rotation.version,
            "key_id": rotation.key_id.to_string(),
            "emergency": args.emergency,
            "published_in_us": u64::try_from(rotation.published_in.as_micros()).unwrap_or(u64::MAX),
        }))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    let ms = rotation.published_in.as_secs_f64() * 1_000.0;
    let old = if args.emergency {
        "refused from now on; senders seal again by themselves"
    } else {
        "still opens what was sealed to it, until its grace period is over"
    };
    writeln!(out, "{GOOD}rotated{GOOD:#}  {STRONG}{}{STRONG:#}\n", args.name)?;
    writeln!(out, "  version     {}  {DIM}durable on the node after {ms:.1} ms{DIM:#}", rotation.version)?;
    writeln!(out, "  key id      {}  {DIM}compare it over another channel{DIM:#}", rotation.key_id)?;
    writeln!(out, "  old key     {old}")?;
    writeln!(
        out,
        "\nNext: {LITERAL}creto agent show {}{LITERAL:#}   {DIM}every version and its state{DIM:#}",
        args.name
    )?;
    Ok(Exit::Ok)
}

/// What names the signing keys of the agent's current key record, and whether there are three.
async fn signing_fingerprint(client: &Client, agent: &AgentInfo) -> Result<(String, bool), Failure> {
    let wrong = |what: String| Failure::new(Exit::Found, what, "look at the node's log: its directory may be damaged");
    let id =
        AgentId::parse_hex(&agent.id).ok_or_else(|| wrong(format!("the node gives {} as an agent id", agent.id)))?;
    let signed = client.key_record(id, agent.version).await.map_err(|error| control_failure(&error))?;
    let keys = VerifyingKeys::parse(&signed.record.ed25519, &signed.record.ml_dsa_65)
        .and_then(|keys| keys.with_fn_dsa_512(signed.record.fn_dsa_512.as_deref()))
        .map_err(|error| wrong(format!("a signing key of {} cannot be used: {error}", agent.name)))?;
    Ok((hex::encode(keys.fingerprint()), signed.record.fn_dsa_512.is_some()))
}

fn print_agent(out: &mut impl Write, agent: &AgentInfo) -> std::io::Result<()> {
    writeln!(out, "  id          {}", agent.id)?;
    writeln!(out, "  spiffe id   {}", agent.spiffe_id)?;
    writeln!(out, "  key id      {}  {DIM}compare it over another channel{DIM:#}", agent.key_id)?;
    let version = agent.version;
    writeln!(out, "  valid       {} to {}, version {version}", date(agent.valid_from_ms), date(agent.valid_until_ms))?;
    writeln!(out, "  registered  {} UTC", date_time(agent.registered_at_ms))?;
    if let Some(since_ms) = agent.state_since_ms {
        let why = agent.state_reason.as_ref().map_or_else(String::new, |reason| format!("  {DIM}{reason}{DIM:#}"));
        writeln!(out, "  {:<10}  since {} UTC{why}", agent.state, date_time(since_ms))?;
    }
    writeln!(out, "  type        {}", agent.agent_type)?;
    for (what, texts) in [("roles", &agent.roles), ("can", &agent.capabilities)] {
        if !texts.is_empty() {
            writeln!(out, "  {what:<10}  {}", texts.join(", "))?;
        }
    }
    Ok(())
}

fn some_or_dash(texts: &[String]) -> String {
    if texts.is_empty() { "-".to_owned() } else { texts.join(", ") }
}

/// Text for a cell of a table: `creto agent show` has all of it. The node takes plain ASCII only.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(CELL_CHARS_MAX) {
        None => text.to_owned(),
        Some(_) => text.chars().take(CELL_CHARS_MAX - 3).chain("...".chars()).collect(),
    }
}

fn as_json(agent: &AgentInfo) -> Value {
    json!({
        "name": agent.name,
        "id": agent.id,
        "spiffe_id": agent.spiffe_id,
        "organization": agent.organization,
        "state": agent.state,
        "state_since_ms": agent.state_since_ms,
        "state_set_at_ms": agent.state_set_at_ms,
        "state_reason": agent.state_reason,
        "version": agent.version,
        "key_id": agent.key_id,
        "valid_from_ms": agent.valid_from_ms,
        "valid_until_ms": agent.valid_until_ms,
        "registered_at_ms": agent.registered_at_ms,
        "type": agent.agent_type,
        "roles": agent.roles,
        "capabilities": agent.capabilities,
    })
}
