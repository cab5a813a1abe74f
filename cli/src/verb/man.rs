//! `creto man`: the manual, a page for the program and one for each of its verbs.

use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::args::{Cli, ManArgs};
use crate::exit::{Exit, Failure};
use crate::terminal::{DIM, GOOD, stdout};

pub(crate) fn run(args: &ManArgs) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    // Gives each verb the name that its page has: creto-agent-create.
    command.build();
    let Some(folder) = &args.out else {
        let mut text = Vec::new();
        page(command).render(&mut text)?;
        io::stdout().lock().write_all(&text)?;
        return Ok(Exit::Ok);
    };
    std::fs::create_dir_all(folder).map_err(|error| Failure::file("make the folder", folder, &error))?;
    write(&command, folder).map_err(|error| Failure::file("write into", folder, &error))?;
    writeln!(stdout(), "{GOOD}made{GOOD:#}  {}  {DIM}man -l {0}/creto.1{DIM:#}", folder.display())?;
    Ok(Exit::Ok)
}

/// The page of a verb and of everything below it, but for what is hidden.
fn write(command: &Command, folder: &Path) -> io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write(verb, folder)?;
    }
    page(command.clone()).generate_to(folder).map(drop)
}

fn page(command: Command) -> Man {
    Man::new(command).source(concat!("creto ", env!("CARGO_PKG_VERSION"))).manual("creto")
}
