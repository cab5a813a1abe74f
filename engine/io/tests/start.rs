//! Shards that cannot begin: whoever waits for them is told.
#![allow(clippy::unwrap_used, reason = "a test's steps fail by panicking")]

mod support;

use std::sync::mpsc;
use std::time::Duration;

use creto_io::executor::{DriverKind, ExecutorConfig, preflight, start};
use creto_io::{Durability, ExecutorError};
use support::echo::Echo;
use support::{on_each_driver, parts_of_a_node};

/// No machine has it, and the kernel's sets of CPUs have room for it.
const NO_SUCH_CPU: u16 = 1_000;

fn a_shard_without_its_cpu_says_so_before_and_when_it_starts(driver: DriverKind) {
    let folder = tempfile::tempdir().unwrap();
    let executor = ExecutorConfig { driver, ..ExecutorConfig::new(0, Some(NO_SUCH_CPU)) };
    assert!(matches!(preflight(&executor), Err(ExecutorError::Pin { cpu: NO_SUCH_CPU, .. })));
    let (config, _) = parts_of_a_node(Durability::Fdatasync, folder.path(), 1).1.remove(0);
    let (ended, has_ended) = mpsc::channel();
    match start(&executor, config, Echo::default(), move || ended.send(()).unwrap()) {
        Err(error) => assert!(matches!(error, ExecutorError::Pin { .. }), "{error}"),
        Ok(thread) => {
            assert!(matches!(thread.join(), Err(ExecutorError::Pin { .. })));
            // A ring of its own tells at once; glommio says it when it is joined, and nobody waits for more.
            if driver == DriverKind::IoUring {
                has_ended.recv_timeout(Duration::from_secs(10)).unwrap();
            }
        }
    }
}

fn a_shard_without_its_folder_ends_and_says_so(driver: DriverKind) {
    let folder = tempfile::tempdir().unwrap();
    let executor = ExecutorConfig { driver, ..ExecutorConfig::new(0, None) };
    let (config, shard) = parts_of_a_node(Durability::Fdatasync, folder.path(), 1).1.remove(0);
    std::fs::remove_dir(&shard.folder).unwrap();
    let (ended, has_ended) = mpsc::channel();
    let thread = start(&executor, config, Echo::default(), move || ended.send(()).unwrap()).unwrap();
    has_ended.recv_timeout(Duration::from_secs(10)).unwrap();
    let error = thread.join().unwrap().err().unwrap();
    assert!(error.to_string().contains("cannot be used"), "{error}");
}

on_each_driver!(a_shard_without_its_cpu_says_so_before_and_when_it_starts, a_shard_without_its_folder_ends_and_says_so,);
