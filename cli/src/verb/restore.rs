//! `creto restore`: a data folder of a backup. Every digest, every version and every frame of the logs is checked before
//! anything is in its place.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use creto_node::backup::{RESTORED_AUDIT_DIR, Restored, Source, restore};
use serde_json::json;

use super::backup::{bar, check_stop, failure, open_tar, point, size, stop_flag};
use crate::args::RestoreArgs;
use crate::exit::{Exit, Failure};
use crate::moment::date_time;
use crate::terminal::{CAUTION, DIM, GOOD, LITERAL, STRONG, grouped, print_json, stdout};

pub(crate) fn run(args: &RestoreArgs) -> Result<Exit, Failure> {
    let stop = stop_flag()?;
    let source = if args.source.is_dir() {
        Source::Folder(args.source.clone())
    } else {
        let (tar, name) = open_tar(&args.source)?;
        Source::Tar(tar, name)
    };
    let bar = bar("checked");
    let began = Instant::now();
    let restored = restore(source, &args.data_dir, &mut |bytes| {
        bar.inc(bytes);
        check_stop(&stop)
    });
    bar.finish_and_clear();
    let restored = restored.map_err(|error| failure(&error))?;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    if args.json {
        let manifest = &restored.manifest;
        print_json(&json!({
            "data_dir": args.data_dir,
            "taken_ms": manifest.taken_ms,
            "files": manifest.files.len(),
            "bytes": manifest.files.iter().map(|file| file.bytes).sum::<u64>(),
            "messages": restored.messages,
            "audit_leaves": manifest.audit.as_ref().map(|audit| audit.size),
            "secrets": manifest.secrets,
            "shard_count": manifest.shard_count,
            "shards": manifest.shards.iter().map(point).collect::<Vec<_>>(),
            "configuration": restored.configuration,
            "took_ms": took_ms,
        }))?;
    } else {
        print(&restored, &args.data_dir)?;
    }
    Ok(Exit::Ok)
}

fn print(restored: &Restored, data_dir: &Path) -> std::io::Result<()> {
    let mut out = stdout();
    let manifest = &restored.manifest;
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    writeln!(
        out,
        "{GOOD}restored{GOOD:#}  {STRONG}{}{STRONG:#}  {DIM}as of {} UTC: {}, {} messages in its logs, every frame read{DIM:#}\n",
        data_dir.display(),
        date_time(manifest.taken_ms),
        size(bytes),
        grouped(restored.messages),
    )?;
    let is_node = manifest.shard_count > 0;
    let what = if is_node { "a node" } else { "the control service" };
    let configuration = restored.configuration.display();
    writeln!(out, "Start {what} on it with this in its configuration ({configuration} is what it ran by):")?;
    let mut lines = vec![format!("node.data_dir = {:?}", data_dir.display().to_string())];
    if is_node {
        lines.extend(["wal.dir = \"wal\"".to_owned(), format!("topology.shards = {}", manifest.shard_count)]);
    }
    for line in lines {
        writeln!(out, "  {LITERAL}{line}{LITERAL:#}")?;
    }
    if !manifest.secrets {
        writeln!(
            out,
            "The backup has no certificate and key: put the old node.crt and node.key into the folder, or make new ones with \
             {LITERAL}creto init --force{LITERAL:#} and give agents the new certificate."
        )?;
        if manifest.audit.is_some() {
            writeln!(
                out,
                "Nor has it the audit log's secret keys: the log is in {RESTORED_AUDIT_DIR}, to be read. To go on with it, put the \
                 old node's audit.key into that folder and call it audit; otherwise another log begins, and agents that \
                 were here before refuse its key log."
            )?;
        }
    }
    writeln!(out, "\n{CAUTION}What this means{CAUTION:#}")?;
    let of_node: &[&str] = &[
        "Messages that were read since the backup come again; the SDK hides those that it knows.",
        "Messages, agents and keys that came since the backup are gone, though they were acknowledged.",
        "A key that was revoked since is accepted again: revoke it anew (`creto agent rotate NAME --emergency`).",
        "The node that was backed up must not run any more: both would take messages for the same mailboxes.",
    ];
    let of_control: &[&str] = &[
        "Agents and keys that came since the backup are gone.",
        "A key that was revoked since is accepted again: revoke it anew (`creto agent rotate NAME --emergency`).",
        "No node is admitted: `creto control admit`. One that ran meanwhile refuses this older directory until it is restarted.",
        "The service that was backed up must not run any more.",
    ];
    for line in if is_node { of_node } else { of_control } {
        writeln!(out, "  - {line}")?;
    }
    Ok(())
}
