//! PostgreSQL where it hurts: killed, away, cut off during a commit, taken by another, badly set up.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[path = "proxy/mod.rs"]
mod proxy;
#[allow(dead_code, reason = "each test file takes what it needs")]
#[path = "server/mod.rs"]
mod server;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use creto_control_storage::limits::{BEGIN_TIMEOUT, CONNECT_TIMEOUT, LOCK_TIMEOUT, OUTCOME_TIMEOUT, RECONNECT_PAUSE};
use creto_control_storage::{Backend, Postgres, RedbFile, StorageError, Table, copy_rows};
use proxy::{Fate, Proxy};
use server::Server;

const NUMBERS: Table<u64, Vec<u8>> = Table::new("numbers");

fn open(url: &str) -> Result<Postgres, StorageError> {
    let postgres = Postgres::open(url.parse().unwrap())?;
    postgres.create(&[NUMBERS.erased()])?;
    Ok(postgres)
}

fn put(postgres: &Postgres, number: u64) -> Result<(), StorageError> {
    let transaction = postgres.begin_write()?;
    transaction.table(NUMBERS).put(&number, &[1; 100])?;
    transaction.commit()
}

fn numbers(postgres: &Postgres) -> Result<Vec<u64>, StorageError> {
    let read = postgres.begin_read()?;
    read.table(NUMBERS).all().map(|row| row.map(|row| row.0)).collect()
}

/// Asks until it is done: a database that comes back is found by whoever asks next.
fn until_done<T>(what: impl Fn() -> Result<T, StorageError>) -> T {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match what() {
            Ok(done) => return done,
            Err(error) if Instant::now() < until && error.is_passing() => std::thread::sleep(RECONNECT_PAUSE / 4),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn nothing_that_was_committed_is_lost_when_the_server_is_killed() {
    let Some(mut server) = Server::start(&[]) else { return };
    let url = server.database();
    let postgres = open(&url).unwrap();
    let mut there = Vec::new();
    for round in 0..4 {
        for number in 10 * round..10 * round + 7 {
            put(&postgres, number).unwrap();
            there.push(number);
        }
        // A change that is not committed when the server dies.
        let transaction = postgres.begin_write().unwrap();
        transaction.table(NUMBERS).put(&(10 * round + 9), b"lost").unwrap();
        assert_eq!(transaction.table(NUMBERS).count().unwrap(), there.len() as u64 + 1);
        server.kill();
        let error = transaction.commit().unwrap_err();
        assert!(matches!(error, StorageError::Unreachable { .. }), "{error}");
        server.start_again();
        assert_eq!(until_done(|| numbers(&postgres)), there);
    }
    drop(postgres);
    assert_eq!(numbers(&open(&url).unwrap()).unwrap(), there);
}

#[test]
fn while_the_server_is_away_everything_is_refused_at_once_and_it_comes_back_by_itself() {
    let Some(mut server) = Server::start(&[]) else { return };
    let postgres = open(&server.database()).unwrap();
    put(&postgres, 1).unwrap();
    assert_eq!(numbers(&postgres).unwrap(), [1]);
    server.stop();
    for _ in 0..3 {
        let began = Instant::now();
        let refused = [put(&postgres, 2).unwrap_err(), numbers(&postgres).unwrap_err()];
        for error in refused {
            assert!(matches!(error, StorageError::Unreachable { .. }), "{error}");
            assert!(error.is_passing());
        }
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    server.start_again();
    until_done(|| put(&postgres, 3));
    assert_eq!(until_done(|| numbers(&postgres)), [1, 3]);
}

/// A database that is reached through a proxy.
fn behind_a_proxy(server: &Server) -> (Postgres, Proxy, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(server.folder(), folder.path());
    let name = server.database().rsplit('/').next().unwrap().to_owned();
    let host = folder.path().to_str().unwrap().replace('/', "%2F");
    let postgres = open(&format!("postgres://creto@{host}/{name}")).unwrap();
    (postgres, proxy, folder)
}

#[test]
fn a_commit_whose_answer_was_lost_is_looked_up_and_is_done_or_not() {
    let Some(server) = Server::shared() else { return };
    let (postgres, proxy, _folder) = behind_a_proxy(server);
    put(&postgres, 1).unwrap();
    // The server never heard of it: it is an error, and it was not done.
    proxy.set(Fate::CutBefore);
    let error = put(&postgres, 2).unwrap_err();
    assert!(matches!(error, StorageError::Unreachable { .. }), "{error}");
    assert_eq!((numbers(&postgres).unwrap(), proxy.fate()), (vec![1], Fate::Passes));
    // The server did it, and only its answer was lost: it is done.
    proxy.set(Fate::CutBehind);
    put(&postgres, 3).unwrap();
    assert_eq!((numbers(&postgres).unwrap(), proxy.fate()), (vec![1, 3], Fate::Passes));
    put(&postgres, 4).unwrap();
    assert_eq!(numbers(&postgres).unwrap(), [1, 3, 4]);
}

#[test]
fn an_outcome_that_cannot_be_looked_up_is_said_to_be_unknown_and_never_guessed() {
    let Some(server) = Server::shared() else { return };
    let (postgres, proxy, _folder) = behind_a_proxy(server);
    put(&postgres, 1).unwrap();
    proxy.set(Fate::CutAndShut);
    let began = Instant::now();
    let error = put(&postgres, 2).unwrap_err();
    assert!(matches!(error, StorageError::OutcomeUnknown { .. }), "{error}");
    assert!(began.elapsed() < 2 * OUTCOME_TIMEOUT + LOCK_TIMEOUT);
    assert!(matches!(put(&postgres, 3), Err(StorageError::Unreachable { .. })));
    postgres.verify().unwrap_err();
    proxy.set(Fate::Passes);
    // The database is there again, and there may be one commit more than this process knows of: until it looked.
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match postgres.verify().unwrap_err() {
            StorageError::OutcomeUnknown { .. } => break,
            error => assert!(error.is_passing() && Instant::now() < until, "{error}"),
        }
        std::thread::sleep(RECONNECT_PAUSE);
    }
    until_done(|| put(&postgres, 4));
    postgres.verify().unwrap();
    assert_eq!(until_done(|| numbers(&postgres)), [1, 2, 4], "it was done, and is found now");
}

#[test]
fn a_second_process_is_refused_and_one_that_was_overtaken_writes_nothing_more() {
    let Some(server) = Server::shared() else { return };
    let (first, proxy, _folder) = behind_a_proxy(server);
    put(&first, 1).unwrap();
    let url = server.url(first.place().rsplit('/').next().unwrap());
    let error = open(&url).unwrap_err();
    assert!(matches!(error, StorageError::Taken { .. }), "{error}");
    // Read it may, as `creto proof` does.
    assert_eq!(numbers(&Postgres::read_only(url.parse().unwrap()).unwrap()).unwrap(), [1]);

    // The first one loses its connection and finds no way back; another takes its place, and is gone again.
    first.verify().unwrap();
    proxy.set(Fate::Shut);
    let name = url.rsplit('/').next().unwrap();
    cut(server, name);
    first.verify().unwrap_err();
    let second = until_done(|| open(&url));
    put(&second, 5).unwrap();
    first.verify().unwrap_err();
    drop(second);
    proxy.set(Fate::Passes);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match put(&first, 6) {
            Err(StorageError::Overtaken { .. }) => break,
            Err(error) if error.is_passing() && Instant::now() < until => std::thread::sleep(RECONNECT_PAUSE),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(first.verify(), Err(StorageError::Overtaken { .. })));
    assert_eq!(numbers(&Postgres::read_only(url.parse().unwrap()).unwrap()).unwrap(), [1, 5]);
}

/// Ends all connections of a database.
fn cut(server: &Server, name: &str) {
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE application_name = 'creto' AND datname = current_database()";
    server.sql(name, end);
}

#[test]
fn a_database_that_lost_commits_is_neither_written_nor_read_any_more() {
    let Some(server) = Server::shared() else { return };
    // Restored to a time at which this process had it already, to one before that, and to one before any.
    for restored in [
        "UPDATE creto._writer SET commits = 1",
        "UPDATE creto._writer SET commits = 1, incarnation = '\\x00'",
        "DELETE FROM creto._writer",
    ] {
        for is_read_first in [false, true] {
            let url = server.database();
            let name = url.rsplit('/').next().unwrap();
            let postgres = open(&url).unwrap();
            for number in 1..4 {
                put(&postgres, number).unwrap();
            }
            server.sql(name, restored);
            cut(server, name);
            for is_read in [is_read_first, !is_read_first, is_read_first] {
                let error = if is_read { numbers(&postgres).unwrap_err() } else { put(&postgres, 9).unwrap_err() };
                assert!(matches!(error, StorageError::WentBack { known: 3, .. }), "{restored}: {error}");
                assert!(!error.is_passing());
            }
            // Also when it has as many again: they are others.
            server.sql(name, "UPDATE creto._writer SET commits = 3");
            assert!(matches!(put(&postgres, 9), Err(StorageError::WentBack { .. })));
            drop(postgres);
            // Whoever starts on it knows nothing else.
            put(&open(&url).unwrap(), 4).unwrap();
        }
    }
}

#[test]
fn a_database_that_says_nothing_is_given_up_in_seconds() {
    let Some(server) = Server::shared() else { return };
    let (postgres, proxy, _folder) = behind_a_proxy(server);
    put(&postgres, 1).unwrap();
    assert_eq!(numbers(&postgres).unwrap(), [1]);
    proxy.set(Fate::Silent);
    let within = BEGIN_TIMEOUT + CONNECT_TIMEOUT + Duration::from_secs(1);
    for what in [|postgres: &Postgres| numbers(postgres).map(drop), |postgres: &Postgres| put(postgres, 2)] {
        let began = Instant::now();
        let error = what(&postgres).unwrap_err();
        assert!(matches!(error, StorageError::Unreachable { .. }), "{error}");
        assert!(began.elapsed() < within, "{:?}", began.elapsed());
    }
    proxy.set(Fate::Passes);
    until_done(|| put(&postgres, 3));
    assert_eq!(until_done(|| numbers(&postgres)), [1, 3]);
}

#[test]
fn whoever_asks_often_while_the_database_refuses_does_not_connect_as_often() {
    let Some(server) = Server::shared() else { return };
    let (postgres, proxy, _folder) = behind_a_proxy(server);
    let place = postgres.place();
    let name = place.rsplit('/').next().unwrap();
    server.sql("postgres", &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
    server.sql(
        "postgres",
        &format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"),
    );
    let (before, began) = (proxy.accepted(), Instant::now());
    for _ in 0..200 {
        for error in [put(&postgres, 1).unwrap_err(), numbers(&postgres).unwrap_err()] {
            assert!(matches!(error, StorageError::Refused { .. }), "{error}");
        }
    }
    let pauses = u32::try_from(began.elapsed().as_millis() / RECONNECT_PAUSE.as_millis()).unwrap();
    assert!(proxy.accepted() - before <= pauses + 1, "{} connections", proxy.accepted() - before);
    server.sql("postgres", &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    until_done(|| match put(&postgres, 2) {
        Err(StorageError::Refused { .. }) => Err(StorageError::Failed),
        other => other,
    });
}

#[test]
fn a_statement_that_is_cancelled_is_refused_and_its_connection_goes_on() {
    let Some(server) = Server::shared() else { return };
    let url = server.database();
    let name = url.rsplit('/').next().unwrap();
    let postgres = open(&url).unwrap();
    put(&postgres, 1).unwrap();
    let writers = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let before = server.sql(name, writers);
    let until = Instant::now() + Duration::from_secs(30);
    let wait_for = |statement: &str| {
        while server.sql(name, statement) == "0" {
            assert!(Instant::now() < until, "{statement}");
        }
    };
    std::thread::scope(|scope| {
        let lock = "BEGIN; LOCK TABLE creto.numbers IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3); COMMIT";
        scope.spawn(|| server.sql(name, lock));
        wait_for("SELECT count(*) FROM pg_locks WHERE relation = 'creto.numbers'::regclass AND granted");
        let putting = scope.spawn(|| put(&postgres, 2));
        wait_for(
            "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
             WHERE application_name = 'creto' AND datname = current_database() AND wait_event_type = 'Lock'",
        );
        let error = putting.join().unwrap().unwrap_err();
        // As a statement that takes too long: it would take as long again.
        assert!(matches!(&error, StorageError::Refused { cause, .. } if cause.contains("57014")), "{error}");
        assert!(!error.is_passing());
    });
    put(&postgres, 3).unwrap();
    assert_eq!((numbers(&postgres).unwrap(), server.sql(name, writers)), (vec![1, 3], before));
}

#[test]
fn a_row_that_is_none_of_its_table_is_an_error_of_the_copy() {
    let Some(server) = Server::shared() else { return };
    let url = server.database();
    let postgres = open(&url).unwrap();
    put(&postgres, 1).unwrap();
    server.sql(url.rsplit('/').next().unwrap(), "INSERT INTO creto.numbers VALUES ('\\x0203', '\\x00')");
    let folder = tempfile::tempdir().unwrap();
    let file = RedbFile::open(&folder.path().join("copy.redb")).unwrap();
    for _ in 0..2 {
        let (from, to) = (postgres.begin_read().unwrap(), file.begin_write().unwrap());
        let error = copy_rows(&*from, &*to, NUMBERS.erased()).unwrap_err();
        assert!(matches!(error, StorageError::Row { table: "numbers" }), "{error}");
    }
}

#[test]
fn a_server_that_does_not_keep_what_it_commits_is_refused() {
    let Some(server) = Server::start(&["-c", "fsync=off"]) else { return };
    let error = open(&server.database()).unwrap_err();
    assert!(matches!(error, StorageError::NotDurable { .. }), "{error}");
    assert!(error.to_string().contains("fsync = on"));
}

#[test]
fn a_server_that_stops_keeping_what_it_commits_gets_no_more_commits() {
    let Some(server) = Server::start(&[]) else { return };
    let postgres = open(&server.database()).unwrap();
    put(&postgres, 1).unwrap();
    reload_with(&server, "fsync", "off");
    // Its processes hear of it one after the other.
    let until = Instant::now() + Duration::from_secs(10);
    let error = loop {
        match put(&postgres, 2) {
            Ok(()) => assert!(Instant::now() < until, "it commits on"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StorageError::NotDurable { .. }), "{error}");
    reload_with(&server, "fsync", "on");
    until_done(|| match put(&postgres, 3) {
        Err(StorageError::NotDurable { .. }) => Err(StorageError::Failed),
        other => other,
    });
}

/// Changes a setting of the server while it runs.
fn reload_with(server: &Server, name: &str, value: &str) {
    server.sql("postgres", &format!("ALTER SYSTEM SET {name} = {value}"));
    server.sql("postgres", "SELECT pg_reload_conf()");
    let until = Instant::now() + Duration::from_secs(10);
    while server.sql("postgres", &format!("SHOW {name}")) != value {
        assert!(Instant::now() < until, "it does not read its configuration");
    }
}

#[test]
fn commits_are_synchronous_and_the_lock_is_kept_whatever_the_servers_defaults_are() {
    for is_off_before in [true, false] {
        // So that nobody but the commit writes the log in time.
        let Some(mut server) = Server::start(&["-c", "wal_writer_delay=10s", "-c", "idle_session_timeout=300ms"])
        else {
            return;
        };
        let url = server.database();
        if is_off_before {
            reload_with(&server, "synchronous_commit", "off");
        }
        let postgres = open(&url).unwrap();
        put(&postgres, 1).unwrap();
        reload_with(&server, "synchronous_commit", "off");
        // Nor does an idle connection lose its lock.
        std::thread::sleep(Duration::from_secs(1));
        assert!(matches!(open(&url), Err(StorageError::Taken { .. })));
        put(&postgres, 2).unwrap();
        server.kill();
        server.start_again();
        assert_eq!(until_done(|| numbers(&postgres)), [1, 2]);
    }
}

#[test]
fn over_tcp_the_certificate_and_its_name_are_checked_and_the_password_is_asked_for() {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Some(mut server) = Server::start(&[]) else { return };
    server.sql("postgres", "ALTER ROLE creto PASSWORD 'correct horse'");
    let certificate = server.put("server.crt", &issued.cert.pem());
    let key = server.put("server.key", &issued.signing_key.serialize_pem());
    for (name, value) in [("ssl_cert_file", &certificate), ("ssl_key_file", &key)] {
        server.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{}'", value.display()));
    }
    server.sql("postgres", "ALTER SYSTEM SET ssl = on");
    server.stop();
    server.listen(port);
    server.start_again();

    let trusted = certificate.to_str().unwrap().replace('/', "%2F");
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let other = server.put("other.crt", &other.cert.pem()).to_str().unwrap().replace('/', "%2F");
    let url =
        |password: &str, host: &str, query: &str| format!("postgres://creto:{password}@{host}:{port}/postgres?{query}");
    let good = url("correct%20horse", "localhost", &format!("sslmode=verify-full&sslrootcert={trusted}"));
    let postgres = open(&good).unwrap();
    put(&postgres, 1).unwrap();
    let with_tls =
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'creto'";
    assert_eq!(server.sql("postgres", with_tls), "1");
    drop(postgres);

    // Nobody vouches for it, it is another one's, it has another name.
    for (host, query) in [
        ("localhost", String::new()),
        ("localhost", format!("sslrootcert={other}")),
        ("127.0.0.1", format!("sslrootcert={trusted}")),
    ] {
        let error = refused(&url("correct%20horse", host, &query));
        assert!(
            matches!(error, StorageError::Unreachable { .. } | StorageError::Certificates { .. }),
            "{query}: {error}"
        );
        assert!(!error.to_string().contains("horse"), "{error}");
    }
    let error = refused(&url("wrong", "localhost", &format!("sslrootcert={trusted}")));
    assert!(matches!(error, StorageError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("password authentication failed"), "{error}");
    // Without TLS, because the URL says so. What another one holds is waited for longer than a socket's: it may be that its
    // machine died, and the server has not heard of that.
    let plain = url("correct%20horse", "127.0.0.1", "sslmode=disable");
    let first = until_done(|| open(&plain));
    std::thread::spawn(move || {
        std::thread::sleep(LOCK_TIMEOUT + Duration::from_secs(1));
        drop(first);
    });
    open(&plain).unwrap();
}

fn refused(url: &str) -> StorageError {
    Postgres::open(url.parse().unwrap()).unwrap_err()
}
