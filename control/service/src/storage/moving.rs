//! From the file into the database, and who has the directory since.
//!
//! ```text
//! 1  one transaction   all rows, and `moving` in `meta`: the epoch and the number of the last event of the file, u64 LE each
//! 2  in the folder     the mark: the directory is in a database
//! 3  in the folder     the file gets another name, that of no other file
//! 4  one transaction   `moving` goes
//! ```
//!
//! Each is durable before the next. Whoever starts behind 1 goes on with 2, if the file is the one that was moved. As long as the mark
//! is there, no new file is made: a configuration that lost its database does not begin an empty directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use creto_control_storage::{Reading, RedbFile, StorageError};
use creto_envelope::TrustDomain;

use super::{AGENTS, META, Storage};
use crate::error::{Extent, ServiceError};

const META_MOVING: &str = "moving";
/// Behind the name of the file.
const MARK: &str = ".in-database";
/// The same.
const MOVED: &str = ".moved";

/// Takes over what is in the file at `path`, if `database` is new.
pub(super) fn open_database(
    database: Storage,
    path: &Path,
    trust_domain: &TrustDomain,
) -> Result<Storage, ServiceError> {
    let is_there = database.is_ours(trust_domain)?;
    if path.exists() {
        if !is_there {
            database.create_all()?;
            take_over(&database, &Storage::with_backend(Box::new(RedbFile::open(path)?), trust_domain)?)?;
        } else if !is_moving(&database, path)? {
            return Err(ServiceError::TwoDirectories {
                file: path.to_owned(),
                in_file: extent(&*unchanged(path)?.begin_read()?)?,
                database: database.backend.place(),
                in_database: extent(&*database.begin_read()?)?,
            });
        }
        mark(path, &database.backend.place())?;
        let moved = rename(path)?;
        tracing::info!(
            database = %database.backend.place(),
            file = %moved.display(),
            "the database has what was in the file, which has this name now"
        );
    }
    let database = Storage::with_backend(database.backend, trust_domain)?;
    let transaction = database.begin_write()?;
    match transaction.table(META).take(META_MOVING)? {
        Some(_) => transaction.commit()?,
        None => transaction.abort()?,
    }
    mark(path, &database.backend.place())?;
    Ok(database)
}

fn take_over(database: &Storage, file: &Storage) -> Result<(), ServiceError> {
    let (from, to) = (file.begin_read()?, database.begin_write()?);
    file.copy_rows(&*from, &*to)?;
    to.table(META).put(META_MOVING, &state(file, &*from)?)?;
    Ok(to.commit()?)
}

/// What tells a state of the directory from every other: whatever changes it is told to the audit log.
fn state(storage: &Storage, transaction: &dyn Reading) -> Result<Vec<u8>, ServiceError> {
    let (epoch, number) = (storage.epoch(transaction)?, storage.outbox_number(transaction)?);
    Ok([epoch.to_le_bytes(), number.to_le_bytes()].concat())
}

/// Whether the file is the one whose rows the database took over, in a start that did not come to its end.
fn is_moving(database: &Storage, path: &Path) -> Result<bool, ServiceError> {
    let Some(moving) = database.begin_read()?.table(META).get(META_MOVING)? else { return Ok(false) };
    let file = unchanged(path)?;
    let transaction = file.begin_read()?;
    Ok(moving == state(&file, &*transaction)?)
}

fn unchanged(path: &Path) -> Result<Storage, ServiceError> {
    Ok(Storage::unchecked(Box::new(RedbFile::read_only(path)?)))
}

fn extent(transaction: &dyn Reading) -> Result<Extent, ServiceError> {
    let epoch = transaction.table(META).get(super::META_EPOCH)?;
    // Whoever reads this wants to know which is which: a damaged one says 0.
    let epoch = epoch.and_then(|row| row.try_into().ok()).map_or(0, u64::from_le_bytes);
    Ok(Extent { agents: transaction.table(AGENTS).count()?, epoch })
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServiceError {
    let path = path.to_owned();
    move |source| StorageError::File { what, path, source }.into()
}

/// Gives the file a name that no other has, and returns it.
fn rename(path: &Path) -> Result<PathBuf, ServiceError> {
    let numbered = (2_u32..).map(|number| beside(path, &format!("{MOVED}.{number}")));
    // Nobody else makes one: this process has the data folder, and the database.
    let mut names = std::iter::once(beside(path, MOVED)).chain(numbered);
    let moved = names.find(|name| !name.exists()).expect("a folder has fewer files than there are numbers");
    fs::rename(path, &moved).map_err(failed("rename", path))?;
    sync_folder_of(path)?;
    Ok(moved)
}

/// Says that the directory is in a database.
fn mark(path: &Path, database: &str) -> Result<(), ServiceError> {
    let mark = beside(path, MARK);
    // Nothing reads this but people: what counts is that there is a file.
    let text = format!(
        "The directory of this node is in the database {database}. \
         Without this file, and without control.database in the configuration, a node starts with an empty directory.\n"
    );
    if fs::read(&mark).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&mark);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(failed("write", &mark))?;
    sync_folder_of(path)
}

/// # Errors
/// [`ServiceError::InDatabase`] when the directory is in a database.
pub(super) fn check_unmarked(path: &Path) -> Result<(), ServiceError> {
    let mark = beside(path, MARK);
    if mark.exists() { Err(ServiceError::InDatabase { file: path.to_owned(), mark }) } else { Ok(()) }
}

/// The directory is in the file at `path`, and in no database.
pub(super) fn unmark(path: &Path) -> Result<(), ServiceError> {
    let mark = beside(path, MARK);
    match fs::remove_file(&mark) {
        Ok(()) => sync_folder_of(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", &mark)(error)),
    }
}

fn sync_folder_of(path: &Path) -> Result<(), ServiceError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of", path))
}

#[cfg(test)]
mod tests;
