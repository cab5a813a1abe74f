//! `creto init`: a configuration, a data folder and the node's TLS pair. Nothing that exists is overwritten unasked.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use creto_audit_store::layout::PUBLIC_KEYS;
use creto_node::config::Config;

use crate::args::{Global, InitArgs};
use crate::exit::{Exit, Failure};
use crate::identity::Identity;
use crate::terminal::{DIM, GOOD, LITERAL, stdout};
use crate::verb::audit::FOLDER as AUDIT_FOLDER;

/// For the folder of keys and messages: only its owner may look inside.
const PRIVATE_FOLDER_MODE: u32 = 0o700;
/// For a private key.
const PRIVATE_FILE_MODE: u32 = 0o600;
/// For what anyone may read.
pub(crate) const PUBLIC_FILE_MODE: u32 = 0o644;

pub(crate) fn run(global: &Global, args: &InitArgs) -> Result<Exit, Failure> {
    let config_path = global.config_path_in(&args.folder);
    let base = config_path.parent().unwrap_or(Path::new(""));
    let (config, text) = match args.keep_config {
        true => (global.load_config()?, None),
        false => {
            let text = Config::template(&chosen(args));
            // Read back before anything is written: a bad argument is refused here, and paths come out as the node sees them.
            (Config::parse(&config_path.display().to_string(), &text, [])?.in_folder(base), Some(text))
        }
    };
    let data_dir = config.data_dir();

    let files = [&config_path, &config.private_key(), &config.certificate()].map(Clone::clone);
    let replaced = if text.is_none() { &files[1..] } else { &files[..] };
    if let Some(existing) = replaced.iter().find(|file| file.exists())
        && !args.force
    {
        return Err(Failure::new(
            Exit::Usage,
            format!("{} exists already", existing.display()),
            "keep it and run `creto serve`, or replace configuration and certificate with --force",
        ));
    }
    let mut names = args.names.clone();
    let listen = if args.keep_config { Some(config.node.listen) } else { args.listen };
    names.extend(listen.iter().filter(|listen| !listen.ip().is_unspecified()).map(|listen| listen.ip().to_string()));
    let identity = Identity::self_signed(&names)?;

    if text.is_some() {
        make_folder(base, None)?;
    }
    make_folder(&data_dir, Some(PRIVATE_FOLDER_MODE))?;
    let [_, private_key, certificate] = &files;
    write_file(private_key, PRIVATE_FILE_MODE, &identity.private_key_pem)?;
    write_file(certificate, PUBLIC_FILE_MODE, &identity.certificate_pem)?;
    if let Some(text) = &text {
        write_file(&config_path, PUBLIC_FILE_MODE, text)?;
    }
    let audit = data_dir.join(AUDIT_FOLDER);
    make_audit_keys(&audit, &config.node.trust_domain)?;

    let rows = [
        (config_path.display().to_string(), "configuration, every key explained"),
        (format!("{}/", data_dir.display()), "messages, agents, keys (only you may look inside)"),
        (private_key.display().to_string(), "the node's TLS key (mode 0600)"),
        (certificate.display().to_string(), "its certificate, self-signed: agents trust exactly this one"),
        (audit.join(PUBLIC_KEYS).display().to_string(), "the audit log's public keys: give them to auditors now"),
    ];
    let width = rows.iter().map(|(path, _)| path.chars().count()).max().unwrap_or(0);
    let mut out = stdout();
    for (path, what) in rows.iter().skip(usize::from(text.is_none())) {
        writeln!(out, "{GOOD}made{GOOD:#}  {path:width$}  {DIM}{what}{DIM:#}")?;
    }
    writeln!(out, "      {:width$}  {DIM}SHA-256 {}{DIM:#}", "", identity.fingerprint)?;
    let flag =
        if config_path == Path::new("creto.toml") { String::new() } else { format!(" -c {}", config_path.display()) };
    writeln!(out, "\nNext: {LITERAL}creto doctor{flag}{LITERAL:#}   {DIM}is this machine ready?{DIM:#}")?;
    writeln!(out, "      {LITERAL}creto serve{flag}{LITERAL:#}    {DIM}run the node{DIM:#}")?;
    Ok(Exit::Ok)
}

/// The keys that sign the audit log. Those that exist stay, also with --force: a log goes on with its keys or not at all.
fn make_audit_keys(folder: &Path, trust_domain: &str) -> Result<(), Failure> {
    make_folder(folder, Some(PRIVATE_FOLDER_MODE))?;
    let made = creto_audit_store::keys::load_or_create(folder, trust_domain);
    made.map(|_| ()).map_err(|error| Failure::of(Exit::System, &error))
}

/// What the arguments decide, in TOML. The address and the trust domain always stand in the file: the two to look at.
fn chosen(args: &InitArgs) -> Vec<(&'static str, String)> {
    let default = Config::default();
    let listen = args.listen.unwrap_or(default.node.listen);
    let trust_domain = args.trust_domain.clone().unwrap_or(default.node.trust_domain);
    vec![
        ("node.listen", format!("\"{listen}\"")),
        ("node.data_dir", format!("\"{}\"", default.node.data_dir.display())),
        ("node.trust_domain", format!("\"{}\"", trust_domain.escape_default())),
    ]
}

fn make_folder(path: &Path, mode: Option<u32>) -> Result<(), Failure> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    if let Some(mode) = mode {
        builder.mode(mode);
    }
    builder.create(path).map_err(|error| Failure::file("make the folder", path, &error))
}

/// Writes a file that appears whole or not at all, and reaches the disk before it appears.
pub(crate) fn write_file(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(folder, Some(PRIVATE_FOLDER_MODE))?;
    let fail = |error: std::io::Error| Failure::file("write", path, &error);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let new = folder.join(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, path))
        .and_then(|()| std::fs::File::open(folder)?.sync_all());
    written.map_err(|error| {
        let _ = std::fs::remove_file(&new);
        fail(error)
    })
}
