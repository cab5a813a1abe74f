//! `creto dashboard`: a page about the node that runs here, served to a browser on this machine until Ctrl-C.

use std::io::Write;

use creto_service::client::Client;
use creto_service::dashboard::Dashboard;
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
    let (link, port) = (dashboard.link(), dashboard.address().port());
    if args.json {
        tell(&json!({ "event": "link", "link": link, "port": port }))?;
    } else {
        let mut out = stdout();
        writeln!(out, "{LITERAL}{link}{LITERAL:#}")?;
        writeln!(
            out,
            "{DIM}opens once, on this machine; Ctrl-C ends it. From elsewhere:{DIM:#} ssh -L {port}:127.0.0.1:{port} HOST"
        )?;
        out.flush()?;
    }
    let next_link = |link: String| {
        // Whoever closed the output does not want links; the page goes on.
        let _ = match args.json {
            true => tell(&json!({ "event": "link", "link": link, "port": port })),
            false => {
                let mut out = stdout();
                writeln!(out, "{DIM}a browser was let in; for another one:{DIM:#} {LITERAL}{link}{LITERAL:#}")
                    .and_then(|()| out.flush())
            }
        };
    };
    dashboard.serve(signals.next(), next_link).await;
    Ok(Exit::Ok)
}

fn tell(value: &serde_json::Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}
