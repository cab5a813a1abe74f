use creto_control_storage::{Backend, DatabaseUrl, Postgres, RedbFile};
use creto_envelope::TrustDomain;

use super::super::{META_TRUST_DOMAIN, Storage, both};
use super::{AGENTS, META, beside, take_over};
use crate::ServiceError;
use crate::error::Extent;

fn add_agent(storage: &Storage, id: u8) {
    let transaction = storage.begin_write().unwrap();
    transaction.table(AGENTS).put(&[id; 16], b"an agent").unwrap();
    storage.advance_epoch(&*transaction).unwrap();
    transaction.commit().unwrap();
}

fn agents(storage: &Storage) -> u64 {
    storage.begin_read().unwrap().table(AGENTS).count().unwrap()
}

fn open(url: &DatabaseUrl, path: &std::path::Path) -> Result<Storage, ServiceError> {
    Storage::open_database(url.clone(), path, &TrustDomain::default())
}

#[test]
fn a_move_that_was_interrupted_is_finished_by_the_next_start_and_no_older_file_is_written_over() {
    for is_changed in [false, true] {
        let Some(url) = both::database() else { return };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.redb");
        std::fs::write(beside(&path, ".moved"), b"older").unwrap();
        let file = Storage::open(&path, &TrustDomain::default()).unwrap();
        add_agent(&file, 1);
        // Killed when the database had the rows, and the file its name still.
        let database = Storage { backend: Box::new(Postgres::open(url.clone()).unwrap()) };
        database.create_all().unwrap();
        take_over(&database, &file).unwrap();
        if is_changed {
            add_agent(&file, 2);
        }
        drop((file, database));
        let opened = open(&url, &path);
        assert_eq!(std::fs::read(beside(&path, ".moved")).unwrap(), b"older");
        if is_changed {
            // A node went on with the file meanwhile.
            let error = opened.err().unwrap();
            let ServiceError::TwoDirectories { in_file, in_database, .. } = &error else { panic!("{error}") };
            assert_eq!((*in_file, *in_database), (Extent { agents: 2, epoch: 3 }, Extent { agents: 1, epoch: 2 }));
            assert!(error.to_string().contains("2 agents, epoch 3") && !error.to_string().contains("DROP"), "{error}");
            assert!(path.exists());
            continue;
        }
        let database = opened.unwrap();
        assert_eq!(agents(&database), 1);
        assert!(!path.exists() && beside(&path, ".moved.2").exists());
        add_agent(&database, 3);
        drop(database);
        // The same file that comes back is none that is being moved.
        std::fs::copy(beside(&path, ".moved.2"), &path).unwrap();
        assert!(matches!(open(&url, &path), Err(ServiceError::TwoDirectories { .. })));
    }
}

#[test]
fn a_configuration_that_lost_its_database_does_not_begin_an_empty_directory() {
    let Some(url) = both::database() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    drop(open(&url, &path).unwrap());
    let error = Storage::open(&path, &TrustDomain::default()).err().unwrap();
    assert!(matches!(error, ServiceError::InDatabase { .. }) && !path.exists(), "{error}");
    assert!(error.to_string().contains("control.database") && error.to_string().contains("in-database"), "{error}");
    let mark = std::fs::read_to_string(beside(&path, ".in-database")).unwrap();
    assert!(mark.contains("postgres://creto@"), "{mark}");
    // Whoever puts a file there means it, and goes on with it.
    drop(Storage::open(&folder.path().join("other.redb"), &TrustDomain::default()).unwrap());
    std::fs::rename(folder.path().join("other.redb"), &path).unwrap();
    drop(Storage::open(&path, &TrustDomain::default()).unwrap());
    assert!(!beside(&path, ".in-database").exists());
}

#[test]
fn a_directory_that_is_not_ours_is_refused_before_anything_is_made_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let file: Box<dyn Backend> = Box::new(RedbFile::open(&path).unwrap());
    let database = both::database();
    let opened = database.clone().map(|url| Box::new(Postgres::open(url).unwrap()) as Box<dyn Backend>);
    for backend in std::iter::once(file).chain(opened) {
        // An older one, or a later one, which has other tables.
        backend.create(&[META.erased()]).unwrap();
        let transaction = backend.begin_write().unwrap();
        transaction.table(META).put(super::super::META_FORMAT, &1_u64.to_le_bytes()).unwrap();
        transaction.table(META).put(META_TRUST_DOMAIN, b"other.local").unwrap();
        transaction.commit().unwrap();
    }
    let refused = |error: Option<ServiceError>| matches!(error, Some(ServiceError::TrustDomain { .. }));
    assert!(refused(Storage::open(&path, &TrustDomain::default()).err()));
    assert_eq!(RedbFile::open(&path).unwrap().begin_read().unwrap().table_names().unwrap(), ["meta"]);
    let Some(url) = database else { return };
    assert!(refused(open(&url, &folder.path().join("none.redb")).err()));
    assert_eq!(Postgres::read_only(url).unwrap().begin_read().unwrap().table_names().unwrap(), ["meta"]);
}
