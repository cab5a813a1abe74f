//! Keys that open only with a PKCS#11 token: on SoftHSM, with a token of the test's own.

mod process;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use process::{Node, Run, command, run};

const SHARDS: u16 = 1;
const PIN: &str = "fedcba123456";
const SECOND: &str = "another one altogether";

/// Where distributions put it; the variable names another.
fn module() -> Option<PathBuf> {
    let named = std::env::var_os("CRETO_SOFTHSM").map(PathBuf::from);
    let usual =
        ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm.so"];
    named.into_iter().chain(usual.map(PathBuf::from)).find(|path| path.exists())
}

/// A folder with a SoftHSM of its own.
struct Home {
    folder: tempfile::TempDir,
    module: String,
}

impl Home {
    /// `None`, said aloud, where there is no SoftHSM; `CRETO_REQUIRE_SOFTHSM` makes that a failure.
    fn new() -> Option<Self> {
        let Some(module) = module() else {
            assert!(std::env::var_os("CRETO_REQUIRE_SOFTHSM").is_none(), "no SoftHSM: install the package softhsm2");
            println!("skipped: no SoftHSM (the package softhsm2)");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("tokens")).expect("a folder");
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            folder.path().join("tokens").display()
        );
        fs::write(folder.path().join("softhsm2.conf"), conf).expect("a file");
        let home = Self { folder, module: module.to_str().expect("UTF-8").to_owned() };
        home.write("pin", PIN);
        home.init_token("creto");
        Some(home)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, line: &str) -> String {
        let path = self.path().join(name);
        fs::write(&path, line).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        path.to_str().expect("UTF-8").to_owned()
    }

    fn init_token(&self, label: &str) {
        let mut tool = Command::new("softhsm2-util");
        tool.env("SOFTHSM2_CONF", self.path().join("softhsm2.conf"));
        tool.args(["--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", PIN]);
        let made = tool.output().expect("softhsm2-util comes with the library");
        assert!(made.status.success(), "{made:?}");
    }

    fn creto(&self, args: &[&str]) -> Run {
        let mut creto = command(self.path(), SHARDS, args);
        creto.env("SOFTHSM2_CONF", self.path().join("softhsm2.conf"));
        run(creto)
    }

    fn ok(&self, args: &[&str]) -> Run {
        let run = self.creto(args);
        assert_eq!(run.status, 0, "{args:?}: {}{}", run.stdout, run.stderr);
        run
    }

    /// With the token and a PIN.
    fn with<'a>(&'a self, args: &[&'a str], token: &'a str, pin: &'a str) -> Vec<&'a str> {
        let more = ["--pkcs11-module", &self.module, "--pkcs11-token", token, "--passphrase-file", pin];
        [args, &more].concat()
    }
}

#[track_caller]
fn refused(run: &Run, status: i32, says: &str) {
    assert_eq!(run.status, status, "{}", run.stderr);
    assert!(run.stderr.contains(says), "{}", run.stderr);
}

#[test]
fn keys_behind_a_token_open_with_it_and_its_pin_and_with_nothing_else() {
    let Some(home) = Home::new() else { return };
    let node = Node::with_agents(home.path(), SHARDS, &["acme/worker"]);
    let pin = home.path().join("pin").to_str().expect("UTF-8").to_owned();
    let made = home.ok(&home.with(&["agent", "create", "acme/planner", "--json"], "creto", &pin)).json();
    assert_eq!((made["encrypted"].as_bool(), made["locks"][0].as_str()), (Some(true), Some("token")));
    let keys = home.path().join("agents/acme/planner.keys");
    assert!(fs::read(&keys).expect("the file").starts_with(b"creto keystore\r\n"));

    let address = node.address.to_string();
    let send = ["send", "acme/planner", "acme/worker", "hello", "--node", &address];
    home.ok(&home.with(&send, "creto", &pin));
    home.ok(&home.with(&["agent", "rotate", "acme/planner", "--node", &address], "creto", &pin));
    home.ok(&home.with(&send, "creto", &pin));

    refused(&home.creto(&send), 6, "its token was not given");
    refused(&home.creto(&[&send[..], &["--passphrase-file", &pin]].concat()), 6, "its token was not given");
    let wrong = home.write("wrong", "000000");
    refused(&home.creto(&home.with(&send, "creto", &wrong)), 6, "does not open with");
    home.init_token("other");
    refused(&home.creto(&home.with(&send, "other", &pin)), 5, "does not have the key of this file");
    refused(&home.creto(&home.with(&send, "absent", &pin)), 5, "no token called");
    let mut no_module = home.with(&send, "creto", &pin);
    let place = no_module.iter().position(|arg| *arg == home.module).expect("it is named");
    no_module[place] = "/nowhere/pkcs11.so";
    refused(&home.creto(&no_module), 5, "cannot be loaded");

    // The token is lost: its files are all there is of it.
    fs::rename(home.path().join("tokens"), home.path().join("lost")).expect("renamed");
    fs::create_dir(home.path().join("tokens")).expect("a folder");
    refused(&home.creto(&home.with(&send, "creto", &pin)), 5, "no token called");
    fs::remove_dir(home.path().join("tokens")).expect("it is empty");
    fs::rename(home.path().join("lost"), home.path().join("tokens")).expect("renamed");
    home.ok(&home.with(&send, "creto", &pin));
    node.stop();
}

#[test]
fn a_passphrase_beside_the_token_opens_the_same_keys_when_the_token_is_lost() {
    let Some(home) = Home::new() else { return };
    let node = Node::with_agents(home.path(), SHARDS, &["acme/worker"]);
    let pin = home.path().join("pin").to_str().expect("UTF-8").to_owned();
    home.ok(&home.with(&["agent", "create", "acme/planner"], "creto", &pin));
    let second = home.write("second", SECOND);
    let add = ["agent", "passphrase", "acme/planner", "--new-passphrase-file", &second, "--json"];
    let added = home.ok(&home.with(&add, "creto", &pin)).json();
    assert_eq!(added["locks"], serde_json::json!(["token", "passphrase"]));

    let address = node.address.to_string();
    let send = ["send", "acme/planner", "acme/worker", "hello", "--node", &address];
    home.ok(&home.with(&send, "creto", &pin));
    fs::remove_dir_all(home.path().join("tokens")).expect("it was there");
    home.ok(&[&send[..], &["--passphrase-file", &second]].concat());
    node.stop();
}
