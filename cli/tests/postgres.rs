//! The commands of a node whose directory is in PostgreSQL: shown without its password, backed up running and stopped, restored.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod process;
#[path = "../../control/storage/tests/server/mod.rs"]
#[allow(dead_code, reason = "each test file takes what it needs")]
mod server;

use std::path::Path;

use process::{Node, creto, name, ok, on_time, restored_home};
use server::Server;

fn configure(folder: &Path, url: &str) {
    let path = folder.join("creto.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    // Behind the section's own line: `creto init` writes it with all keys as comments.
    let text = text.replacen("[control]\n", &format!("[control]\ndatabase = \"{url}\"\n"), 1);
    assert!(text.contains(url));
    std::fs::write(&path, text).unwrap();
}

#[test]
fn a_node_with_its_directory_in_postgresql_is_backed_up_running_and_stopped_and_restored_to_both_kinds() {
    let Some(server) = Server::shared() else { return };
    on_time(async {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("first");
        std::fs::create_dir(&first).unwrap();
        ok(&first, 1, &["init", "--listen", "127.0.0.1:0"]);
        // The socket takes no password; one that is there must not be shown.
        let url = server.database().replace("creto@", "creto:hunter2@");
        configure(&first, &url);
        let shown = ok(&first, 1, &["config", "show"]).stdout;
        assert!(shown.contains("postgres://creto@") && !shown.contains("hunter2"), "{shown}");

        let node = Node::start(&first, 1);
        ok(&first, 1, &["agent", "create", "acme/one"]);
        ok(&first, 1, &["agent", "create", "acme/two"]);
        let agent = node.connect(&first, "acme/one").await;
        agent.send(&name("acme/two"), b"kept".to_vec()).await.unwrap();
        agent.close().await;
        ok(&first, 1, &["backup", "../running", "--with-secrets"]);
        ok(&first, 1, &["agent", "create", "acme/late"]);
        node.stop();
        ok(&first, 1, &["backup", "../stopped", "--with-secrets"]);
        assert!(!first.join("data/control.redb.backup").exists() && !first.join("data/control.redb").exists());
        for backup in ["running", "stopped"] {
            let configuration = std::fs::read_to_string(dir.path().join(backup).join("creto.toml")).unwrap();
            assert!(configuration.contains("postgres://creto@") && !configuration.contains("hunter2"));
        }

        // Into a folder, without a database.
        let second = dir.path().join("second");
        restored_home(&second);
        ok(&second, 1, &["restore", "../running", "data"]);
        let node = Node::start(&second, 1);
        let listed = ok(&second, 1, &["agent", "list"]).stdout;
        assert!(listed.contains("acme/two") && !listed.contains("acme/late"), "{listed}");
        let reader = node.connect(&first, "acme/two").await;
        let delivery = reader.receive().await.unwrap();
        assert_eq!(delivery.payload.as_ref(), b"kept");
        delivery.ack();
        reader.close().await;
        node.stop();

        // Into another database, through the folder.
        let third = dir.path().join("third");
        restored_home(&third);
        let configuration = std::fs::read_to_string(third.join("creto.toml")).unwrap();
        let other = server.database();
        std::fs::write(third.join("creto.toml"), format!("{configuration}[control]\ndatabase = \"{other}\"\n"))
            .unwrap();
        ok(&third, 1, &["restore", "../stopped", "data"]);
        let node = Node::start(&third, 1);
        assert!(ok(&third, 1, &["agent", "list"]).stdout.contains("acme/late"));
        assert!(third.join("data/control.redb.moved").exists());
        // The first node's database is its own; this one is taken.
        let fourth = dir.path().join("fourth");
        std::fs::create_dir(&fourth).unwrap();
        ok(&fourth, 1, &["init", "--listen", "127.0.0.1:0"]);
        configure(&fourth, &other);
        let refused = creto(&fourth, 1, &["serve"]);
        assert!(
            refused.status != 0 && refused.stderr.contains("belongs to another node that runs"),
            "{}",
            refused.stderr
        );
        node.stop();
    });
}
