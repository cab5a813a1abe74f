use std::sync::Mutex;
use std::time::{Duration, Instant};

use creto_control_storage::Table;
use creto_envelope::TrustDomain;

use super::*;
use crate::error::ServiceError;
use crate::key_log::tables::KEY_LEAVES;
use crate::registration::Registration;
use crate::storage::{AGENTS, KEY_RECORDS, NAMES};

/// A node of one shard that holds its log as long as it is told to.
#[derive(Default)]
struct Host {
    asked: Mutex<Vec<(u64, HoldRequest)>>,
    is_over: Mutex<bool>,
    /// What happens just before the shards say where their logs end.
    before: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl BackupHost for Host {
    fn source(&self) -> Result<BackupSource, NotHeld> {
        Ok(BackupSource {
            data_dir: "data".into(),
            wal_dir: "wal".into(),
            certificate: "node.crt".into(),
            private_key: "node.key".into(),
            configuration: String::new(),
            audit: None,
        })
    }

    fn hold(&self, backup: u64, request: HoldRequest) -> Result<Vec<HeldShard>, NotHeld> {
        if let Some(before) = self.before.lock().unwrap().take() {
            before();
        }
        self.asked.lock().unwrap().push((backup, request));
        if *self.is_over.lock().unwrap() {
            return Err(NotHeld::Over("space".to_owned()));
        }
        Ok(vec![HeldShard { shard: 0, first_segment: 1, last_segment: 1, end_offset: 8192, end_lsn: 1, epoch: 1 }])
    }
}

fn backups(folder: &Path) -> (Arc<Host>, Arc<Backups>) {
    let storage = Storage::open(&folder.join("control.redb"), &TrustDomain::default()).unwrap();
    backups_of(storage, folder)
}

fn backups_of(storage: Storage, folder: &Path) -> (Arc<Host>, Arc<Backups>) {
    let host = Arc::new(Host::default());
    (Arc::clone(&host), Arc::new(Backups::new(host, Arc::new(storage), &folder.join("control.redb"))))
}

fn register(storage: &Arc<Storage>, name: &str) {
    let signed = crate::fixture::signed(name, 1);
    let registration = Registration::of(signed, &TrustDomain::default(), 2_000).unwrap();
    let mut directory = crate::directory::Directory::load(Arc::clone(storage), 10, 1_000, 3_600, 2_000).unwrap();
    directory.change(vec![crate::directory::Change::Register(registration)], 2_000).unwrap();
}

fn copied(backups: &Backups, id: u64) -> PathBuf {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match backups.renew(id) {
            Ok(Some(path)) => return path,
            Ok(None) if Instant::now() < until => std::thread::yield_now(),
            _ => panic!("the directory is not copied"),
        }
    }
}

#[test]
fn the_copy_is_a_directory_of_one_moment_and_goes_with_the_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (host, backups) = backups(dir.path());
    register(&backups.storage, "acme/early");
    assert!(backups.begin(1).is_ok());
    let path = copied(&backups, 1);
    register(&backups.storage, "acme/late");

    let copy = Storage::open(&path, &TrustDomain::default()).unwrap();
    let read = copy.begin_read().unwrap();
    assert_eq!(read.table(AGENTS).count().unwrap(), 1);
    assert_eq!(read.table(KEY_RECORDS).count().unwrap(), 1);
    drop((read, copy));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    assert!(matches!(backups.begin(2), Err(Refused::Running)));
    assert!(matches!(backups.end(1), Ok(Ok(()))));
    assert!(!path.exists());
    assert!(matches!(backups.end(1), Err(Refused::NotHeld(NotHeld::Over(_)))));
    let asked = host.asked.lock().unwrap().clone();
    assert_eq!((asked[0], asked[asked.len() - 1]), ((1, HoldRequest::Begin), (1, HoldRequest::End)));
}

#[test]
fn a_backup_of_a_directory_in_postgresql_is_the_same_file() {
    let Some(url) = crate::storage::both::database() else { return };
    let again = url.clone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.redb");
    let storage = Storage::open_database(url, &path, &TrustDomain::default()).unwrap();
    let (_, backups) = backups_of(storage, dir.path());
    register(&backups.storage, "acme/early");
    assert!(backups.begin(1).is_ok());
    let copied = copied(&backups, 1);
    register(&backups.storage, "acme/late");

    // The same of a node that is stopped.
    let offline = dir.path().join("offline.redb");
    crate::offline::copy(again, &offline).unwrap();
    let found = Storage::open(&offline, &TrustDomain::default()).unwrap();
    assert_eq!(found.begin_read().unwrap().table(AGENTS).count().unwrap(), 2);

    // What `creto restore` puts into a data folder, and a node without a database opens.
    std::fs::copy(copied, &path).unwrap();
    let restored = Arc::new(Storage::open(&path, &TrustDomain::default()).unwrap());
    let names: Vec<_> = restored.begin_read().unwrap().table(NAMES).all().map(|row| row.unwrap().0).collect();
    assert_eq!(names, ["acme/early"]);
    register(&restored, "acme/next");
    assert_eq!(restored.begin_read().unwrap().table(KEY_LEAVES).count().unwrap(), 2);
}

#[test]
fn an_agent_whose_message_was_the_last_in_a_log_is_in_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (host, backups) = backups(dir.path());
    let storage = Arc::clone(&backups.storage);
    // Registered, connected, and its message durable, when the backup was under way and the shard not yet asked.
    *host.before.lock().unwrap() = Some(Box::new(move || register(&storage, "acme/last")));
    assert!(backups.begin(1).is_ok());
    let path = copied(&backups, 1);
    let copy = Storage::open(&path, &TrustDomain::default()).unwrap();
    assert_eq!(copy.begin_read().unwrap().table(AGENTS).count().unwrap(), 1);
}

#[test]
fn a_backup_whose_logs_were_let_go_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let (host, backups) = backups(dir.path());
    assert!(backups.begin(1).is_ok());
    let path = copied(&backups, 1);
    *host.is_over.lock().unwrap() = true;
    assert!(matches!(backups.renew(1), Err(Refused::NotHeld(NotHeld::Over(_)))));
    assert!(matches!(backups.end(1), Ok(Err(NotHeld::Over(_)))));
    assert!(!path.exists());
    *host.is_over.lock().unwrap() = false;
    assert!(backups.begin(2).is_ok());
}

#[test]
fn what_a_backup_left_that_died_is_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let (_, backups) = backups(dir.path());
    assert!(backups.begin(1).is_ok());
    let path = copied(&backups, 1);
    assert!(!backups.end_late());
    assert!(path.exists(), "its time is not over");
    backups.current().as_mut().unwrap().until = Instant::now();
    assert!(backups.end_late());
    assert!(!path.exists() && !backups.is_under_way(1));
    assert!(backups.begin(2).is_ok());
}

#[test]
fn a_table_that_copying_does_not_know_fails_the_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (_, backups) = backups(dir.path());
    let transaction = backups.storage.begin_write().unwrap();
    transaction.table(Table::<u64, u64>::new("something_new")).put(&1, &1).unwrap();
    transaction.commit().unwrap();
    let error = backups.storage.copy_to(&dir.path().join("copy")).unwrap_err();
    assert!(matches!(&error, ServiceError::UnknownTable(name) if name == "something_new"), "{error}");
}
