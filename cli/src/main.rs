//! The binary `creto`: a node, its tools and its client in one.
//!
//! Each verb is one file under `verb/`. A verb reads its arguments, does one thing, and returns how it went; what is
//! printed and which status the process ends with is decided here, in one place.
#![forbid(unsafe_code)]

mod args;
mod client;
mod exit;
mod identity;
mod moment;
mod passphrase;
mod process;
mod supervisor;
mod terminal;
mod traces;
mod verb;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Verb};
use crate::exit::{Exit, Failure};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for; everything else is a mistake of usage. A closed pipe is neither.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    cli.color.write_global();
    match run(&cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

fn run(cli: &Cli) -> Result<Exit, Failure> {
    match &cli.verb {
        Verb::Init(args) => verb::init::run(&cli.global, args),
        Verb::Serve(args) => verb::serve::run(&cli.global, args),
        Verb::Control(args) => verb::control::run(&cli.global, args),
        Verb::Agent(args) => verb::agent::run(&cli.global, args),
        Verb::Mailbox(args) => verb::mailbox::run(&cli.global, args),
        Verb::Channel(args) => verb::channel::run(&cli.global, args),
        Verb::Token(args) => verb::token::run(&cli.global, args),
        Verb::Send(args) => verb::send::run(&cli.global, args),
        Verb::Recv(args) => verb::recv::run(&cli.global, args),
        Verb::Signal(args) => verb::signal::run(&cli.global, args),
        Verb::Presence(args) => verb::presence::run(&cli.global, args),
        Verb::Request(args) => verb::request::run(&cli.global, args),
        Verb::Respond(args) => verb::respond::run(&cli.global, args),
        Verb::Pub(args) => verb::publish::run(&cli.global, args),
        Verb::Sub(args) => verb::subscribe::run(&cli.global, args),
        Verb::Dlq(args) => verb::dlq::run(&cli.global, args),
        Verb::Bench(args) => verb::bench::run(&cli.global, args),
        Verb::Demo(args) => verb::demo::run(args),
        Verb::KillCycles(args) => verb::demo::cycles::run(args),
        Verb::Top(args) => verb::top::run(&cli.global, args),
        Verb::Status(args) => verb::status::run(&cli.global, args),
        Verb::Dashboard(args) => verb::dashboard::run(&cli.global, args),
        Verb::Doctor(args) => verb::doctor::run(&cli.global, args),
        Verb::Tune(args) => verb::tune::run(&cli.global, args),
        Verb::Topology(args) => verb::topology::run(&cli.global, args),
        Verb::Config(args) => verb::config::run(&cli.global, args),
        Verb::Wal(args) => verb::wal::run(&cli.global, args),
        Verb::Backup(args) => verb::backup::run(&cli.global, args),
        Verb::Restore(args) => verb::restore::run(args),
        Verb::Proof(args) => verb::proof::run(&cli.global, args),
        Verb::Thread(args) => verb::thread::run(&cli.global, args),
        Verb::Policy(args) => verb::policy::run(&cli.global, args),
        Verb::Audit(args) => verb::audit::run(&cli.global, args),
        Verb::Debug(args) => verb::debug::run(&cli.global, args),
        Verb::Man(args) => verb::man::run(args),
        Verb::Completions(args) => verb::completions::run(args),
    }
}
