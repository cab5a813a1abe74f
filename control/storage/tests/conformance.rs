//! What a back end promises: the same for a redb file, redb in memory, and PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
#[path = "server/mod.rs"]
mod server;
#[path = "suite/mod.rs"]
mod suite;

use std::path::PathBuf;

use creto_control_storage::{Backend, Postgres, RedbFile};
use server::Server;
use suite::Home;

/// A file, which may be closed and opened again.
struct File(tempfile::TempDir);

impl File {
    fn path(&self) -> PathBuf {
        self.0.path().join("control.redb")
    }
}

impl Home for File {
    fn open(&self) -> Box<dyn Backend> {
        Box::new(RedbFile::open(&self.path()).unwrap())
    }

    fn second_is_refused(&self) -> bool {
        RedbFile::open(&self.path()).is_err()
    }
}

/// Memory, which is gone when it is closed.
struct Memory;

impl Home for Memory {
    fn open(&self) -> Box<dyn Backend> {
        Box::new(RedbFile::with_disk(redb::backends::InMemoryBackend::new()).unwrap())
    }

    fn keeps(&self) -> bool {
        false
    }
}

/// A database of a server that all tests share.
struct Database(String);

impl Home for Database {
    fn open(&self) -> Box<dyn Backend> {
        Box::new(Postgres::open(self.0.parse().unwrap()).unwrap())
    }

    fn second_is_refused(&self) -> bool {
        Postgres::open(self.0.parse().unwrap()).is_err()
    }

    fn cases(&self) -> u32 {
        12
    }
}

macro_rules! conforms {
    ($($claim:ident),+ $(,)?) => {
        mod redb_file {
            $(#[test]
            fn $claim() {
                super::suite::$claim(&super::File(tempfile::tempdir().unwrap()));
            })+
        }

        mod redb_in_memory {
            $(#[test]
            fn $claim() {
                super::suite::$claim(&super::Memory);
            })+
        }

        mod postgres {
            $(#[test]
            fn $claim() {
                if let Some(server) = super::Server::shared() {
                    super::suite::$claim(&super::Database(server.database()));
                }
            })+
        }
    };
}

conforms! {
    rows_of_every_type_come_back_in_the_order_of_their_keys,
    a_transaction_sees_what_it_did_and_nobody_else_does,
    what_is_given_up_or_dropped_leaves_nothing,
    a_snapshot_stays_as_it_was,
    what_was_committed_is_there_when_it_is_opened_again,
    pages_end_where_they_should,
    bounds_that_hold_nothing_are_empty,
    changes_of_many_pages_are_one_transaction,
    counts_are_exact_inside_of_a_transaction,
    a_second_writer_waits_and_a_reader_does_not,
    readers_see_whole_transactions_while_one_writes,
    it_does_what_a_map_in_memory_does,
    tables_are_made_once_and_named,
    only_one_process_has_it,
    all_rows_are_copied_to_a_file_and_back,
}
