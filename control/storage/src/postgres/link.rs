//! One connection to the database, and statements on it. They run on the runtime of the back end; whoever asks waits.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Row, SimpleQueryMessage, SimpleQueryRow};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::{DatabaseUrl, Tls};
use crate::error::StorageError;
use crate::limits::{
    BEGIN_TIMEOUT, CONNECT_TIMEOUT, KEEPALIVES, LOCK_TIMEOUT, POSTGRES_VERSION_MIN, STATEMENT_TIMEOUT,
};

/// Where distributions keep the certificates that they trust.
const SYSTEM_CERTIFICATES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A parameter of a statement.
#[derive(Debug)]
pub(crate) enum Param {
    Bytes(Vec<u8>),
    Many(Vec<Vec<u8>>),
    Number(i64),
}

impl Param {
    fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Bytes(bytes) => (bytes, Type::BYTEA),
            Self::Many(many) => (many, Type::BYTEA_ARRAY),
            Self::Number(number) => (number, Type::INT8),
        }
    }
}

/// What speaks with the database: a thread of its own, so that it does not matter on which one somebody waits.
pub(crate) struct Driver {
    /// `None` once it is dropped.
    runtime: Option<Runtime>,
    url: DatabaseUrl,
    tls: Option<MakeRustlsConnect>,
}

impl Driver {
    pub(crate) fn start(url: DatabaseUrl) -> Result<Self, StorageError> {
        let tls = match url.tls() {
            Tls::None => None,
            Tls::Verified(path) => Some(tls(path.as_deref())?),
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("creto-postgres")
            .enable_all()
            .build()
            .map_err(StorageError::Thread)?;
        Ok(Self { runtime: Some(runtime), url, tls })
    }

    pub(crate) fn place(&self) -> String {
        self.url.to_string()
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until it is dropped")
    }

    /// Has `work` done, and waits for it.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (done, outcome) = mpsc::sync_channel(1);
        self.runtime().spawn(async move {
            // Whoever waited may have been stopped.
            let _gone = done.send(work.await);
        });
        outcome.recv().map_err(|_| self.unreachable("the thread that speaks with it ended"))
    }

    /// Has `work` done some time.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime().spawn(work);
    }

    pub(crate) fn unreachable(&self, cause: impl Display) -> StorageError {
        StorageError::Unreachable { database: self.place(), cause: cause.to_string() }
    }

    /// What an error of the database means.
    pub(crate) fn fault(&self, error: &tokio_postgres::Error) -> StorageError {
        let Some(refused) = error.as_db_error() else { return self.unreachable(causes(error)) };
        let cause = format!("{} ({})", refused.message(), refused.code().code());
        let database = self.place();
        // 08: the connection, 57: the database is being stopped or started, but not a statement that took too long; 53300: all
        // connections are taken.
        let code = refused.code();
        let is_passing = ["08", "57"].iter().any(|class| code.code().starts_with(class))
            && *code != SqlState::QUERY_CANCELED
            || *code == SqlState::TOO_MANY_CONNECTIONS;
        match is_passing {
            true => StorageError::Unreachable { database, cause },
            false => StorageError::Refused { database, cause },
        }
    }

    /// A connection that is ready for transactions.
    pub(crate) fn connect(&self) -> Result<Link, StorageError> {
        let (config, tls) = (self.url.config(), self.tls.clone());
        let connecting = async move {
            Ok::<_, tokio_postgres::Error>(match tls {
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    (client, tokio::spawn(async move { drop(connection.await) }))
                }
                Some(tls) => {
                    let (client, connection) = config.connect(tls).await?;
                    (client, tokio::spawn(async move { drop(connection.await) }))
                }
            })
        };
        // The configuration's own limit is one for each address.
        let connected = self.wait(async move { timeout(CONNECT_TIMEOUT, connecting).await })?;
        let (client, driver) =
            connected.map_err(|_| self.unreachable("it does not answer"))?.map_err(|error| self.fault(&error))?;
        let link = Link { client: Arc::new(client), driver, is_broken: AtomicBool::new(false) };
        self.prepare(&link)?;
        Ok(link)
    }

    fn prepare(&self, link: &Link) -> Result<(), StorageError> {
        // Nothing is looked up in schemas that others may fill; statements and waits end; a client that is gone is noticed, so
        // that its lock is free, and one that is only idle keeps it; a commit waits for the disk. All of it whatever the server's
        // defaults are and become.
        let (idle, count, interval) = KEEPALIVES;
        let sql = format!(
            "SET search_path = pg_catalog; SET statement_timeout = {}; SET lock_timeout = {}; \
             SET idle_in_transaction_session_timeout = '120s'; SET client_min_messages = warning; \
             SET tcp_keepalives_idle = {}; SET tcp_keepalives_interval = {}; SET tcp_keepalives_count = {count}; \
             SET tcp_user_timeout = 20000; \
             SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
             WHEN 'remote_apply' THEN 'remote_apply' WHEN 'remote_write' THEN 'remote_write' ELSE 'on' END, false); \
             SELECT set_config(name, '0', false) FROM pg_settings \
             WHERE name IN ('idle_session_timeout', 'transaction_timeout')",
            STATEMENT_TIMEOUT.as_millis(),
            LOCK_TIMEOUT.as_millis(),
            idle.as_secs(),
            interval.as_secs(),
        );
        self.ask(link, sql, CONNECT_TIMEOUT)?;
        let sql = "SELECT current_setting('fsync'), current_setting('server_version_num')";
        let row = self.ask(link, sql.to_owned(), CONNECT_TIMEOUT)?;
        let column = |index: usize| row.as_ref().and_then(|row| row.get(index)).unwrap_or_default();
        let version = column(1).parse::<u32>().unwrap_or(0) / 10_000;
        if version < POSTGRES_VERSION_MIN {
            return Err(StorageError::TooOld { database: self.place(), found: version });
        }
        if column(0) != "on" {
            return Err(StorageError::NotDurable { database: self.place() });
        }
        Ok(())
    }

    /// The rows of one statement.
    pub(crate) fn query(&self, link: &Link, sql: String, params: Vec<Param>) -> Result<Vec<Row>, StorageError> {
        let client = Arc::clone(&link.client);
        self.run(link, async move {
            let params: Vec<_> = params.iter().map(Param::typed).collect();
            client.query_typed(&sql, &params).await
        })
    }

    /// Statements without parameters.
    pub(crate) fn batch(&self, link: &Link, sql: impl Into<String>) -> Result<(), StorageError> {
        let (client, sql) = (Arc::clone(&link.client), sql.into());
        self.run(link, async move { client.batch_execute(&sql).await })
    }

    /// Begins a transaction with statements that do nothing yet, and returns the first row that they give.
    pub(crate) fn begin(&self, link: &Link, sql: impl Into<String>) -> Result<Option<SimpleQueryRow>, StorageError> {
        self.ask(link, sql.into(), BEGIN_TIMEOUT)
    }

    fn ask(&self, link: &Link, sql: String, within: Duration) -> Result<Option<SimpleQueryRow>, StorageError> {
        let client = Arc::clone(&link.client);
        let said = self.run_within(within, link, async move { client.simple_query(&sql).await })?;
        Ok(said.into_iter().find_map(|said| match said {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        }))
    }

    fn run<T: Send + 'static>(
        &self,
        link: &Link,
        work: impl Future<Output = Result<T, tokio_postgres::Error>> + Send + 'static,
    ) -> Result<T, StorageError> {
        // The server ends a statement first; whoever does not hear of that waits a little longer.
        self.run_within(STATEMENT_TIMEOUT + LOCK_TIMEOUT, link, work)
    }

    fn run_within<T: Send + 'static>(
        &self,
        within: Duration,
        link: &Link,
        work: impl Future<Output = Result<T, tokio_postgres::Error>> + Send + 'static,
    ) -> Result<T, StorageError> {
        let outcome = self.wait(async move { timeout(within, work).await })?;
        let Ok(outcome) = outcome else {
            link.is_broken.store(true, Ordering::Relaxed);
            return Err(self.unreachable("it does not answer"));
        };
        outcome.map_err(|error| {
            // Not by its text, which is in the language of the server.
            let severity = error.as_db_error().and_then(|refused| refused.parsed_severity());
            let is_fine = severity == Some(Severity::Error);
            if !is_fine {
                link.is_broken.store(true, Ordering::Relaxed);
            }
            self.fault(&error)
        })
    }

    /// A column of a row.
    pub(crate) fn column<'r, T: tokio_postgres::types::FromSql<'r>>(
        &self,
        row: &'r Row,
        index: usize,
    ) -> Result<T, StorageError> {
        row.try_get(index).map_err(|error| self.fault(&error))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Not waited for: that must not be done where others are driven.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A connection.
pub(crate) struct Link {
    client: Arc<Client>,
    driver: JoinHandle<()>,
    is_broken: AtomicBool,
}

impl Link {
    /// Whether nothing can be done with it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed) || self.client.is_closed()
    }

    pub(crate) async fn roll_back(&self) -> bool {
        matches!(timeout(STATEMENT_TIMEOUT, self.client.batch_execute("ROLLBACK")).await, Ok(Ok(())))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Closed at once, so that the server lets go of what it held.
        self.driver.abort();
    }
}

/// The whole chain: the outermost error of the library names only what it was doing.
fn causes(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn tls(path: Option<&Path>) -> Result<MakeRustlsConnect, StorageError> {
    let system = || SYSTEM_CERTIFICATES.iter().map(Path::new).find(|path| path.exists());
    let path = path.or_else(system).unwrap_or(Path::new(SYSTEM_CERTIFICATES[0]));
    let refused = |cause: String| StorageError::Certificates { path: path.to_owned(), cause };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| refused(error.to_string()))?;
    for certificate in certificates {
        // One that is not understood vouches for nothing.
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        let _not_understood = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(refused("there is none in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config =
        config.map_err(|error| refused(error.to_string()))?.with_root_certificates(roots).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
