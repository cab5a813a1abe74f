//! `creto dashboard`: a page about the node that runs here, served to a browser on this machine until Ctrl-C.

use std::io::{BufRead, IsTerminal, Write};

use creto_service::client::Client;
use creto_service::dashboard::{Dashboard, Links};
use creto_service::limits::DASHBOARD_TIMEOUT;
use serde_json::json;

use crate::args::{DashboardArgs, Global};
use crate::client::{block_on, control_failure};
use crate::exit::{Exit, Failure};
use crate::terminal::{DIM, LITERAL, stdout};
use crate::verb::recv::Signals;

pub(crate) fn run(global: &Global, args: &DashboardArgs) -> Result<Exit, Failure> {
    block_on(serve(global, args))
}

async fn serve(global: &Global, args: &DashboardArgs) -> Result<Exit, Failure> {
    let (config, _) = global.load_config_or_default()?;
    let client = Client::new(config.control_socket()).with_timeout(DASHBOARD_TIMEOUT);
    // Who may not open the socket, or asks for a node that does not run, hears of it here and not in the browser.
    client.readiness().await.map_err(|error| control_failure(&error))?;
    let dashboard = Dashboard::bind(args.port.unwrap_or(0), client).await;
    let dashboard = dashboard.map_err(|error| Failure::of(Exit::System, &error))?;
    let mut signals = Signals::catch()?;
    let (links, port, is_json) = (dashboard.links(), dashboard.address().port(), args.json);
    let link = links.make().map_err(|error| Failure::of(Exit::System, &error))?;
    tell_link(&link, port, is_json)?;
    if !is_json {
        let mut out = stdout();
        writeln!(
            out,
            "{DIM}opens once and within ten minutes, on this machine; Enter makes a next link, Ctrl-C ends it. From elsewhere:{DIM:#} \
             ssh -L {port}:127.0.0.1:{port} HOST"
        )?;
        out.flush()?;
    }
    if may_read_input() {
        // It ends with the process: nothing else can wake it.
        std::thread::spawn(move || link_for_each_line(&links, port, is_json));
    }
    let entered = || {
        // Whoever closed the output does not want to know; the page goes on.
        let _ = match is_json {
            true => tell(&json!({ "event": "entered" })),
            false => {
                let mut out = stdout();
                writeln!(out, "{DIM}a browser was let in; Enter makes a link for another one{DIM:#}")
                    .and_then(|()| out.flush())
            }
        };
    };
    dashboard.serve(signals.next(), entered).await;
    Ok(Exit::Ok)
}

/// A process in the background that reads from its terminal is stopped by the system.
fn may_read_input() -> bool {
    let input = std::io::stdin();
    !input.is_terminal() || rustix::termios::tcgetpgrp(&input).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// A link each time that somebody asks for one: one that nobody wants is made for nobody.
fn link_for_each_line(links: &Links, port: u16, is_json: bool) {
    // By bytes: what stands in the line is nobody's business.
    for _line in std::io::stdin().lock().split(b'\n').map_while(Result::ok) {
        match links.make() {
            Ok(link) if tell_link(&link, port, is_json).is_ok() => {}
            Ok(_) => return,
            Err(error) => eprintln!("{error}"),
        }
    }
}

fn tell_link(link: &str, port: u16, is_json: bool) -> std::io::Result<()> {
    if is_json {
        return tell(&json!({ "event": "link", "link": link, "port": port }));
    }
    let mut out = stdout();
    writeln!(out, "{LITERAL}{link}{LITERAL:#}")?;
    out.flush()
}

fn tell(value: &serde_json::Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}
