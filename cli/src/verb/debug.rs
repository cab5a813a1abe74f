//! `creto debug bundle`: one archive for whoever shall help with a node.
//!
//! It holds what the other verbs print, and nothing that a node keeps secret: no file of the data folder is opened, only listed, and every
//! text goes through `scrub` on its way in, for a log may hold what nobody foresaw.

mod listing;
mod scrub;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use creto_node::config::Config;
use creto_service::client::{Client, ClientError};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::Global;
use crate::args::debug::{BundleArgs, DebugArgs, DebugVerb};
use crate::exit::{Exit, Failure, plain};
use crate::process;
use crate::terminal::{DIM, GOOD, STRONG, grouped, print_json, stdout};
use crate::verb::{doctor, topology};
use scrub::scrub;

/// Of a log, no more than this, from its end.
const LOG_BYTES_MAX: u64 = 4 << 20;
/// How long a node may take to answer each question.
const ANSWER: Duration = Duration::from_secs(5);
/// Only its owner may read the archive: it says how the machine is made.
const MODE: u32 = 0o600;

/// One file of the archive.
struct Part {
    name: &'static str,
    about: &'static str,
    text: String,
}

pub(crate) fn run(global: &Global, args: &DebugArgs) -> Result<Exit, Failure> {
    match &args.verb {
        DebugVerb::Bundle(args) => bundle(global, args),
    }
}

fn bundle(global: &Global, args: &BundleArgs) -> Result<Exit, Failure> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let path = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("creto-debug-{now_s}.tar.gz")));
    let log = args.log.as_deref().map(|path| log(path).map_err(|error| Failure::file("read", path, &error)));
    let mut parts = gather(global, args, log.transpose()?);
    for part in &mut parts {
        part.text = scrub(&part.text);
    }
    write(&path, &parts, now_s).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Usage, format!("{} exists already", path.display()), "name another file with --out")
        }
        _ => Failure::file("write", &path, &error),
    })?;
    if args.json {
        let part = |part: &Part| json!({ "name": part.name, "about": part.about, "bytes": part.text.len() });
        print_json(&json!({ "file": path, "parts": parts.iter().map(part).collect::<Vec<_>>() }))?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    let width = parts.iter().map(|part| part.name.len()).max().unwrap_or(0);
    for Part { name, about, text } in &parts {
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        writeln!(out, "  {name:width$}  {:>9} B  {DIM}{about}{DIM:#}", grouped(bytes))?;
    }
    writeln!(out, "{GOOD}made{GOOD:#}  {STRONG}{}{STRONG:#}", path.display())?;
    writeln!(
        out,
        "{DIM}no message, key, token or password is in it; read it before you send it on: tar -xzf it{DIM:#}"
    )?;
    Ok(Exit::Ok)
}

fn gather(global: &Global, args: &BundleArgs, log: Option<String>) -> Vec<Part> {
    let part = |name, about, text| Part { name, about, text };
    let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("plain data is always JSON");
    let loaded = global.load_config_or_default();
    // A configuration that is not understood is when help is needed most.
    let (config, about_config) = match &loaded {
        Ok((config, true)) => (config.clone(), config.to_toml()),
        Ok((config, false)) => {
            (config.clone(), format!("# there is no {}\n{}", global.config_path().display(), config.to_toml()))
        }
        Err(failure) => {
            (Config::default(), format!("# it is not understood, and everything here is by the defaults\n{failure}\n"))
        }
    };
    let file = matches!(loaded, Ok((_, true))).then(|| global.config_path());
    let asked = ask(&config);
    let mut parts = vec![
        part("version.json", "this program and the kernel", pretty(&version())),
        part("configuration.toml", "every value in force, without passwords", about_config),
        part("environment.txt", "names of the variables that are set for creto, without their values", environment()),
        part("topology.json", "CPUs, caches, and the plan laid over them", pretty(&topology::described(&config))),
        part("limits.txt", "limits of this process, and of the node's where it runs", limits(&config)),
        part("machine.txt", "what the kernel says of memory, pressure and settings", machine()),
        part("status.json", "what the node says of itself", pretty(&asked.status)),
        part("metrics.json", "what the node counts and measures", pretty(&asked.metrics)),
        part("data-folder.txt", "names, sizes and modes in the data folder, without contents", listing::of(&config)),
    ];
    if !args.no_doctor {
        let findings = doctor::examined(&config, file);
        let findings = findings.unwrap_or_else(|error| json!({ "error": plain(&error) }));
        parts.push(part("doctor.json", "what `creto doctor` finds", pretty(&findings)));
    }
    parts.extend(log.map(|text| part("node.log", "the last lines of the log that was named", text)));
    parts
}

struct Asked {
    status: Value,
    metrics: Value,
}

fn ask(config: &Config) -> Asked {
    let said = |answer: Result<Value, ClientError>| match answer {
        Ok(value) => value,
        Err(error) => json!({ "error": error.to_string() }),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let none = json!({ "error": plain(&error) });
            return Asked { status: none.clone(), metrics: none };
        }
    };
    let client = Client::new(config.control_socket()).with_timeout(ANSWER);
    runtime.block_on(async {
        let readiness = client.readiness().await.map(value);
        let status = client.status().await.map(value);
        let policy = client.policy().await.map(value);
        let metrics = client.metrics().await.map(value);
        let status = json!({ "readiness": said(readiness), "status": said(status), "policy": said(policy) });
        Asked { status, metrics: said(metrics) }
    })
}

/// An answer of the control API as plain JSON.
fn value(of: impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or(Value::Null)
}

fn version() -> Value {
    let uname = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    json!({
        "creto": env!("CARGO_PKG_VERSION"),
        "debug_build": cfg!(debug_assertions),
        "arch": std::env::consts::ARCH,
        "kernel": text(uname.release()),
        "kernel_version": text(uname.version()),
        "distribution": read_some(Path::new("/etc/os-release")),
        "in_container": Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists(),
    })
}

/// Names only: a value may be a password.
fn environment() -> String {
    let is_ours =
        |name: &String| ["CRETO", "PG", "NOTIFY_SOCKET", "WATCHDOG"].iter().any(|prefix| name.starts_with(prefix));
    let mut names: Vec<String> =
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).filter(is_ours).collect();
    names.sort();
    names.iter().map(|name| format!("{name}\n")).collect()
}

fn limits(config: &Config) -> String {
    let mut text = format!("# this process\n{}", read_some(Path::new("/proc/self/limits")));
    if let Some(pid) = process::behind(&config.control_socket()) {
        for (what, file) in [("limits", "limits"), ("state", "status"), ("control group", "cgroup")] {
            let said = read_some(Path::new(&format!("/proc/{pid}/{file}")));
            text.push_str(&format!("\n# the node's process {pid}: {what}\n{said}"));
        }
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
        text.push_str(&format!(
            "\n# files that it has open: {}\n",
            open.map_or_else(|error| plain(&error), |count| count.to_string())
        ));
    }
    text
}

fn machine() -> String {
    const FILES: &[&str] = &[
        "/proc/sys/kernel/io_uring_disabled",
        "/proc/sys/net/core/rmem_max",
        "/proc/sys/net/core/wmem_max",
        "/proc/sys/fs/file-nr",
        "/proc/sys/vm/swappiness",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/pressure/cpu",
        "/proc/pressure/memory",
        "/proc/pressure/io",
        "/sys/fs/cgroup/cpu.max",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/cpuset.cpus.effective",
        "/proc/net/snmp",
    ];
    let read = |file: &&str| format!("# {file}\n{}\n", read_some(Path::new(file)));
    FILES.iter().map(read).collect()
}

/// A file of the kernel's or the system's, none of which is long.
fn read_some(path: &Path) -> String {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(64 << 10).read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("({})\n", plain(&error)),
    }
}

/// The end of a log; `-` is what comes on standard input.
fn log(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let (bytes, skipped) = last_bytes(io::stdin().lock(), LOG_BYTES_MAX)?;
        return Ok(from_a_line_on(&bytes, skipped));
    }
    last_lines(path)
}

/// The last bytes of what can be read only once, and whether there were more; never more than twice as many are held.
fn last_bytes(mut from: impl Read, bytes_max: u64) -> io::Result<(Vec<u8>, bool)> {
    let most = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let (mut bytes, mut skipped) = (Vec::new(), false);
    while (&mut from).take(bytes_max).read_to_end(&mut bytes)? > 0 {
        let spare = bytes.len().saturating_sub(most);
        skipped |= spare > 0;
        bytes.drain(..spare);
    }
    Ok((bytes, skipped))
}

/// The end of a file, from the beginning of a line on.
fn last_lines(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(LOG_BYTES_MAX);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(from_a_line_on(&bytes, skipped > 0))
}

fn from_a_line_on(bytes: &[u8], was_cut: bool) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    match was_cut {
        false => text,
        true => text.split_once('\n').map_or(String::new(), |(_, whole)| whole.to_owned()),
    }
}

fn write(path: &Path, parts: &[Part], now_s: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    let written = write_archive(file, path, parts, now_s);
    if written.is_err() {
        // Half an archive helps nobody.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn write_archive(file: File, path: &Path, parts: &[Part], now_s: u64) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = name.strip_suffix(".tar.gz").or_else(|| name.strip_suffix(".tgz")).unwrap_or("creto-debug");
    for part in parts {
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(part.text.len()).unwrap_or(u64::MAX));
        // Also where it is unpacked.
        header.set_mode(MODE);
        header.set_mtime(now_s);
        archive.append_data(&mut header, format!("{folder}/{}", part.name), part.text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_comes_on_standard_input_the_end_is_kept_from_a_line_on() {
        let text = "first\nsecond\nthird\n";
        let kept = |bytes_max| last_bytes(text.as_bytes(), bytes_max).unwrap();
        assert_eq!(kept(64), (text.as_bytes().to_vec(), false));
        let (bytes, was_cut) = kept(9);
        assert_eq!((bytes.as_slice(), was_cut), (&b"nd\nthird\n"[..], true));
        assert_eq!(from_a_line_on(&bytes, was_cut), "third\n");
        assert_eq!(from_a_line_on(b"no end", true), "");
    }
}
