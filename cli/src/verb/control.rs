//! `creto control`: a control service for nodes of other processes, and which nodes those are.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use creto_node::ControlProcess;
use creto_node::config::Config;
use creto_service::client::Client;
use creto_service::link::{Admitted, fingerprint, read_certificate};
use rustix::process::Signal;
use serde_json::json;

use crate::args::Global;
use crate::args::control::{AdmitArgs, ControlArgs, ControlVerb, DismissArgs, NodesArgs};
use crate::exit::{Exit, Failure};
use crate::identity::certificate_pem;
use crate::supervisor::Supervised;
use crate::terminal::{DIM, GOOD, STRONG, print_json, stdout};
use crate::verb::init::{PUBLIC_FILE_MODE, write_file};
use crate::verb::serve::{catch_signals, failure, print_line, reload_when_asked, start_log};

pub(crate) fn run(global: &Global, args: &ControlArgs) -> Result<Exit, Failure> {
    let mut config = match (&args.data_dir, &args.verb) {
        // Who is admitted lies in the folder. What it is to serve by does not: not by the defaults because a file was not found.
        (Some(_), Some(_)) => global.load_config_or_default()?.0,
        _ => global.load_config()?,
    };
    if let Some(data_dir) = &args.data_dir {
        // Relative to where the command is run, and not to the configuration.
        config.node.data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.clone());
    }
    match &args.verb {
        None => serve(config, args),
        Some(ControlVerb::Admit(admitted)) => admit(&config, admitted),
        Some(ControlVerb::Dismiss(dismissed)) => dismiss(&config, dismissed),
        Some(ControlVerb::Nodes(nodes)) => list(&config, nodes),
    }
}

fn serve(mut config: Config, args: &ControlArgs) -> Result<Exit, Failure> {
    if args.with_parent {
        // Nobody else would end it: whoever asks for this made the service for the time of its own life.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)?;
    }
    if config.is_linked() {
        let what = format!("this configuration is of a node whose control service is at {}", config.link.control);
        return Err(Failure::new(
            Exit::Usage,
            what,
            "run `creto serve` with it, or give the control service a folder of its own (`creto init`)",
        ));
    }
    if let Some(listen) = args.listen {
        config.link.listen = listen;
    }
    start_log(&config);
    // Before the service: a signal that comes while it starts must end it in order, too.
    let (stop, reload) = catch_signals()?;
    let control = ControlProcess::start(&config).map_err(|error| failure(&error))?;
    reload_when_asked(Some(control.policy_reloader()), reload)?;
    let supervised = Supervised::begin(control.vitals(), format!("serves nodes on {}", control.address()))?;
    // Nobody may be reading any more; that is no reason to stop serving.
    let _ = ready(&control, &config, args);
    control.wait(&stop).map_err(|error| failure(&error))?;
    supervised.ends();
    let begin = Instant::now();
    control.stop().map_err(|error| failure(&error))?;
    let _ = stopped(begin, args);
    Ok(Exit::Ok)
}

fn ready(control: &ControlProcess, config: &Config, args: &ControlArgs) -> std::io::Result<()> {
    if args.json {
        return print_line(&json!({
            "event": "ready",
            "address": control.address(),
            "control_socket": control.control_socket(),
            "control_address": control.control_address(),
            "nodes": control.nodes(),
            "snapshot_lifetime_ms": u64::try_from(config.link.snapshot_lifetime.as_millis()).unwrap_or(u64::MAX),
            "pid": std::process::id(),
        }));
    }
    let nodes = match control.nodes() {
        0 => "no node is admitted yet: creto control admit NAME CERTIFICATE".to_owned(),
        1 => "1 node is admitted".to_owned(),
        count => format!("{count} nodes are admitted"),
    };
    let mut out = stdout();
    writeln!(out, "{GOOD}ready{GOOD:#}    control at {STRONG}{}{STRONG:#}  {DIM}{nodes}{DIM:#}", control.address())?;
    out.flush()
}

fn stopped(begin: Instant, args: &ControlArgs) -> std::io::Result<()> {
    let took = begin.elapsed();
    if args.json {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        return print_line(&json!({ "event": "stopped", "took_us": took_us }));
    }
    writeln!(stdout(), "{GOOD}stopped{GOOD:#}  in {:.1} s", took.as_secs_f64())
}

fn file_of(config: &Config, name: &str) -> PathBuf {
    config.link_nodes().join(format!("{name}.crt"))
}

fn admit(config: &Config, args: &AdmitArgs) -> Result<Exit, Failure> {
    let AdmitArgs { name, certificate } = args;
    let der = read_certificate(certificate).map_err(|error| Failure::of(Exit::Usage, &error))?;
    let (file, sha256) = (file_of(config, name), fingerprint(&der));
    if file.exists() {
        let same = read_certificate(&file).is_ok_and(|known| known == der);
        if !same {
            return Err(Failure::new(
                Exit::Usage,
                format!("another node is called {name} here"),
                format!("choose another name, or dismiss that one first (creto control dismiss {name})"),
            ));
        }
    }
    if let Some(other) = known(config)?.into_iter().find(|(other, known)| *known == sha256 && other != name) {
        return Err(Failure::new(
            Exit::Usage,
            format!("this node is admitted already, as {}", other.0),
            "nothing is to be done; dismiss it first to give it another name",
        ));
    }
    // Only the certificate, whatever else the file has.
    write_file(&file, PUBLIC_FILE_MODE, &certificate_pem(&der))?;
    let mut out = stdout();
    writeln!(out, "{GOOD}admitted{GOOD:#}  {name}  {DIM}SHA-256 {sha256}{DIM:#}")?;
    Ok(Exit::Ok)
}

fn dismiss(config: &Config, args: &DismissArgs) -> Result<Exit, Failure> {
    let file = file_of(config, &args.name);
    match std::fs::remove_file(&file) {
        Ok(()) => {
            writeln!(stdout(), "{GOOD}dismissed{GOOD:#}  {}  {DIM}its link ends within a second{DIM:#}", args.name)?;
            Ok(Exit::Ok)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::new(
            Exit::Usage,
            format!("no node is called {} here", args.name),
            "`creto control nodes` lists those that are admitted",
        )),
        Err(error) => Err(Failure::file("remove", &file, &error)),
    }
}

fn list(config: &Config, args: &NodesArgs) -> Result<Exit, Failure> {
    let known = known(config)?;
    let linked = linked(config);
    let is_linked = |name: &str| linked.as_ref().map(|linked| linked.iter().any(|node| node == name));
    if args.json {
        let node = |(name, sha256): &(String, String)| json!({ "name": name, "certificate_sha256": sha256, "linked": is_linked(name) });
        print_json(&json!({ "nodes": known.iter().map(node).collect::<Vec<_>>() }))?;
        return Ok(Exit::Ok);
    }
    let width = known.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = stdout();
    for (name, sha256) in &known {
        let state = match is_linked(name) {
            Some(true) => "linked",
            Some(false) => "not linked",
            None => "control does not run",
        };
        writeln!(out, "{name:width$}  {state}  {DIM}SHA-256 {sha256}{DIM:#}")?;
    }
    if known.is_empty() {
        writeln!(out, "{DIM}no node is admitted; creto control admit NAME CERTIFICATE{DIM:#}")?;
    }
    Ok(Exit::Ok)
}

/// The nodes that have a link now, if a control service runs that says so.
fn linked(config: &Config) -> Option<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let readiness = runtime.block_on(Client::new(config.control_socket()).readiness()).ok()?;
    Some(readiness.nodes.into_iter().map(|node| node.name).collect())
}

fn known(config: &Config) -> Result<Vec<(String, String)>, Failure> {
    let folder: &Path = &config.link_nodes();
    if !folder.exists() {
        return Ok(Vec::new());
    }
    Ok(Admitted::open(folder).map_err(|error| Failure::of(Exit::Usage, &error))?.list())
}
