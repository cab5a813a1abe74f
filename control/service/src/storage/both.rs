//! The same tests on a file and on PostgreSQL.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use creto_envelope::TrustDomain;

use super::Storage;

#[allow(dead_code, reason = "what tests of the storage need is not needed here")]
#[path = "../../../storage/tests/server/mod.rs"]
mod server;
use server::Server;

thread_local! {
    static SERVER: Cell<Option<&'static Server>> = const { Cell::new(None) };
    /// The databases that stand for files.
    static DATABASES: RefCell<HashMap<PathBuf, String>> = RefCell::default();
}

/// Opens the file at `path`, or, inside of [`on_postgres`], the database that stands for it.
pub(crate) fn open(path: &Path) -> Storage {
    let trust_domain = TrustDomain::default();
    let Some(server) = SERVER.get() else { return Storage::open(path, &trust_domain).unwrap() };
    let url =
        DATABASES.with_borrow_mut(|urls| urls.entry(path.to_owned()).or_insert_with(|| server.database()).clone());
    Storage::open_database(url.parse().unwrap(), path, &trust_domain).unwrap()
}

/// A database of the test server, if there is one.
pub(crate) fn database() -> Option<creto_control_storage::DatabaseUrl> {
    Server::shared().map(|server| server.database().parse().unwrap())
}

/// Runs tests again that open their directories with [`open`].
pub(crate) fn on_postgres(tests: &[(&str, fn())]) {
    let Some(server) = Server::shared() else { return };
    SERVER.set(Some(server));
    for (name, test) in tests {
        println!("on PostgreSQL: {name}");
        test();
    }
    SERVER.set(None);
}

/// A test that runs these tests on PostgreSQL, too.
macro_rules! on_postgres_too {
    ($($test:ident),+ $(,)?) => {
        #[test]
        fn the_same_holds_on_postgresql() {
            crate::storage::both::on_postgres(&[$((stringify!($test), $test as fn())),+]);
        }
    };
}
pub(crate) use on_postgres_too;
