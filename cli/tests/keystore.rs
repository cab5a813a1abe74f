//! Encrypted keys on the command line: where their passphrase comes from, and how a run without the right one ends.

mod process;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use process::{Node, Process, command, creto, ok, run};

const SHARDS: u16 = 1;
const FIRST: &str = "correct horse battery staple";
const SECOND: &str = "another one altogether";

fn passphrase_file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("{text}\n")).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
    path
}

fn node(folder: &Path) -> Node {
    Node::with_agents(folder, SHARDS, &["acme/worker"])
}

#[test]
fn keys_are_encrypted_where_a_passphrase_is_given_and_every_verb_opens_them_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let node = node(folder);
    let first = passphrase_file(folder, "first", FIRST);
    let file = first.to_str().expect("UTF-8");
    let keys = folder.join("agents/acme/planner.keys");

    let made = ok(folder, SHARDS, &["agent", "create", "acme/planner", "--passphrase-file", file, "--json"]).json();
    assert_eq!((made["encrypted"].as_bool(), made["created"].as_bool()), (Some(true), Some(true)));
    assert!(fs::read(&keys).expect("the file").starts_with(b"creto keystore\r\n"));

    let address = node.address.to_string();
    let send = ["send", "acme/planner", "acme/worker", "hello", "--node", &address];
    // No source: neither a terminal nor anything else is asked, and the status says which kind of refusal it is.
    let without = creto(folder, SHARDS, &send);
    assert_eq!(without.status, 6, "{}", without.stderr);
    assert!(
        without.stderr.contains("--passphrase-file") && without.stderr.contains("no terminal"),
        "{}",
        without.stderr
    );

    ok(folder, SHARDS, &[&send[..], &["--passphrase-file", file]].concat());
    let mut by_variable = command(folder, SHARDS, &send);
    by_variable.env("CRETO_PASSPHRASE_FILE", &first);
    assert_eq!(run(by_variable).status, 0);
    let credentials = folder.join("credentials");
    fs::create_dir(&credentials).expect("a folder");
    fs::write(credentials.join("creto-passphrase"), FIRST).expect("a file");
    let mut by_credential = command(folder, SHARDS, &send);
    by_credential.env("CREDENTIALS_DIRECTORY", &credentials);
    assert_eq!(run(by_credential).status, 0);

    // Rotating writes the file again, and needs the passphrase only to open it.
    ok(folder, SHARDS, &["agent", "rotate", "acme/planner", "--node", &address, "--passphrase-file", file]);
    assert!(fs::read(&keys).expect("the file").starts_with(b"creto keystore\r\n"));
    // Running it again goes on where it stopped.
    let again = ok(folder, SHARDS, &["agent", "create", "acme/planner", "--passphrase-file", file, "--json"]).json();
    assert_eq!((again["encrypted"].as_bool(), again["created"].as_bool()), (Some(true), Some(false)));
    node.stop();
}

#[test]
fn a_wrong_passphrase_a_damaged_file_and_an_open_one_each_end_with_their_own_status() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let node = node(folder);
    let first = passphrase_file(folder, "first", FIRST);
    let second = passphrase_file(folder, "second", SECOND);
    let (first, second) = (first.to_str().expect("UTF-8"), second.to_str().expect("UTF-8"));
    ok(folder, SHARDS, &["agent", "create", "acme/planner", "--passphrase-file", first]);
    let address = node.address.to_string();
    let send = |file| {
        let args = ["send", "acme/planner", "acme/worker", "x", "--node", &address, "--passphrase-file", file];
        creto(folder, SHARDS, &args)
    };

    let wrong = send(second);
    assert_eq!(wrong.status, 6, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("does not open with this passphrase"), "{}", wrong.stderr);

    let keys = folder.join("agents/acme/planner.keys");
    let whole = fs::read(&keys).expect("the file");
    let mut damaged = whole.clone();
    damaged[100] ^= 1;
    fs::write(&keys, &damaged).expect("written");
    let refused = send(first);
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("is damaged: its checksum does not match"), "{}", refused.stderr);
    assert_eq!(fs::read(&keys).expect("the file"), damaged, "it is left as it was");
    fs::write(&keys, &whole).expect("written");

    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).expect("a mode");
    let open = send(first);
    assert_eq!(open.status, 2, "{}", open.stderr);
    assert!(open.stderr.contains("chmod 600"), "{}", open.stderr);
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::set_permissions(folder.join("first"), fs::Permissions::from_mode(0o640)).expect("a mode");
    let open = send(first);
    assert_eq!(open.status, 2, "{}", open.stderr);
    assert!(open.stderr.contains("the passphrase in") && open.stderr.contains("chmod 600"), "{}", open.stderr);
    node.stop();
}

#[test]
fn a_passphrase_is_given_to_plain_keys_and_changed_while_no_node_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let node = node(folder);
    let first = passphrase_file(folder, "first", FIRST);
    let second = passphrase_file(folder, "second", SECOND);
    let (first, second) = (first.to_str().expect("UTF-8"), second.to_str().expect("UTF-8"));

    // Today's plain keys still open, and whoever makes some is told that they lie open and what to do.
    let plain = ok(folder, SHARDS, &["agent", "create", "acme/planner"]);
    assert!(plain.stdout.contains("not encrypted") && plain.stdout.contains("creto agent passphrase acme/planner"));
    ok(folder, SHARDS, &["send", "acme/planner", "acme/worker", "plain", "--node", &node.address.to_string()]);
    node.stop();

    let change = ["agent", "passphrase", "acme/planner", "--new-passphrase-file"];
    let encrypted = ok(folder, SHARDS, &[&change[..], &[first, "--json"]].concat()).json();
    assert_eq!((encrypted["was_encrypted"].as_bool(), encrypted["encrypted"].as_bool()), (Some(false), Some(true)));
    // The old one is asked for.
    assert_eq!(creto(folder, SHARDS, &[&change[..], &[second]].concat()).status, 6);
    let changed = ok(folder, SHARDS, &[&change[..], &[second, "--passphrase-file", first, "--json"]].concat()).json();
    assert_eq!(changed["was_encrypted"].as_bool(), Some(true));
    let short = passphrase_file(folder, "short", "seven77");
    let short =
        creto(folder, SHARDS, &[&change[..], &[short.to_str().expect("UTF-8"), "--passphrase-file", second]].concat());
    assert_eq!(short.status, 2, "{}", short.stderr);
    assert!(short.stderr.contains("shorter than 8 characters"), "{}", short.stderr);
    // No place to ask for a new one.
    assert_eq!(creto(folder, SHARDS, &["agent", "passphrase", "acme/planner", "--passphrase-file", second]).status, 6);

    let node = Node::start(folder, SHARDS);
    let address = node.address.to_string();
    let send = ["send", "acme/planner", "acme/worker", "x", "--node", &address, "--passphrase-file"];
    assert_eq!(creto(folder, SHARDS, &[&send[..], &[first]].concat()).status, 6);
    ok(folder, SHARDS, &[&send[..], &[second]].concat());
    node.stop();
}

/// A terminal of util-linux' `script`, in which a verb runs.
struct Terminal {
    process: Process,
    seen: String,
}

impl Terminal {
    fn run(folder: &Path, args: &[&str]) -> Self {
        let creto = command(folder, SHARDS, args);
        let words = std::iter::once(creto.get_program()).chain(creto.get_args());
        let line: Vec<String> = words.map(|word| format!("'{}'", word.to_str().expect("UTF-8"))).collect();
        let mut script = Command::new("script");
        script.args(["-qefc", &line.join(" "), "/dev/null"]).current_dir(folder);
        for (key, value) in creto.get_envs() {
            match value {
                Some(value) => script.env(key, value),
                None => script.env_remove(key),
            };
        }
        let process = Process(script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script was found"));
        Self { process, seen: String::new() }
    }

    /// Waits for a prompt, and types.
    fn answer(&mut self, prompt: &str, typed: &str) {
        let from = self.seen.len();
        let output = self.process.0.stdout.as_mut().expect("piped");
        while !self.seen[from..].contains(prompt) {
            let mut byte = [0];
            assert_eq!(output.read(&mut byte).expect("a pipe can be read"), 1, "it ended: {}", self.seen);
            self.seen.push(char::from(byte[0]));
        }
        let input = self.process.0.stdin.as_mut().expect("piped");
        input.write_all(format!("{typed}\n").as_bytes()).expect("it reads");
    }

    fn end(mut self) -> (i32, String) {
        self.process.0.stdout.take().expect("piped").read_to_string(&mut self.seen).expect("UTF-8");
        (self.process.0.wait().expect("a child").code().expect("an exit"), std::mem::take(&mut self.seen))
    }
}

#[test]
fn on_a_terminal_the_passphrase_is_asked_for_twice_for_new_keys_once_after_that_and_never_shown() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: no script(1) of util-linux to make a terminal");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let node = node(folder);
    let new = "New passphrase of acme/planner: ";

    let mut differs = Terminal::run(folder, &["agent", "create", "acme/planner", "--encrypt"]);
    differs.answer(new, FIRST);
    differs.answer("The same again: ", SECOND);
    let (status, text) = differs.end();
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("the two passphrases differ") && !folder.join("agents/acme/planner.keys").exists(), "{text}");

    let mut made = Terminal::run(folder, &["agent", "create", "acme/planner", "--encrypt"]);
    made.answer(new, FIRST);
    made.answer("The same again: ", FIRST);
    let (status, text) = made.end();
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("created") && !text.contains(FIRST), "{text}");

    for (typed, expected) in [(FIRST, 0), (SECOND, 6)] {
        let address = node.address.to_string();
        let mut sent = Terminal::run(folder, &["send", "acme/planner", "acme/worker", "hello", "--node", &address]);
        sent.answer("Passphrase of acme/planner: ", typed);
        let (status, text) = sent.end();
        assert_eq!(status, expected, "{text}");
        assert!(!text.contains(typed), "{text}");
    }
    node.stop();
}
