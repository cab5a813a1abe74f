//! Start and stop: one thread, one runtime, one directory.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use creto_audit::LogKeys;
use creto_control_storage::DatabaseUrl;
use creto_envelope::{AgentName, TrustDomain};
use creto_policy::{KEY_GRACE_MS, Snapshot};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::audit::AuditLogSource;
use crate::backup::{BackupHost, Backups};
use crate::channel_records::{self, ChannelQuestions};
use crate::directory::{Directory, Outbox, Reader, told_of_policy};
use crate::enrolment::{self, Enrolments};
use crate::error::ServiceError;
use crate::health::Health;
use crate::http::{Api, Gate};
use crate::key_log::Questions;
use crate::key_log::serve::{self, KeyLog};
use crate::key_records::{self, KeyRecordQuestions};
use crate::limits::{ADMINISTRATORS_MAX, AGENTS_MAX, CONNECTIONS_MAX, READS_MAX, RELOADS_MAX};
use crate::link::LinkServer;
use crate::mailboxes::MailboxDefaults;
use crate::outbox::{AuditSink, Kept};
use crate::policy::{DecisionHost, InForce, LoadError, PolicyOptions, Reload, Reloads, follow};
use crate::prekeys::{PrekeyAllowance, PrekeyRequests, StockSink};
use crate::rotation::{Publications, publications};
use crate::socket::SocketFile;
use crate::storage::Storage;
use crate::svid::TrustBundle;
use crate::telling::{Note, Telling, telling};
use crate::tokens::Enrolment;
use crate::{http, prekeys, writer};

/// Where the node takes new snapshots.
///
/// `publish` is called once before [`Service::spawn`] returns, and again after every change, by the thread that
/// changed it, before whoever asked for the change is answered. Changes that arrive together are published together.
/// Epochs only go up. It should hand the snapshot on and return: the next registration waits for it.
pub trait SnapshotSink: Send + 'static {
    /// Takes over `snapshot`; decisions made from now on should be made by it.
    fn publish(&self, snapshot: Arc<Snapshot>);
}

impl<F: Fn(Arc<Snapshot>) + Send + 'static> SnapshotSink for F {
    fn publish(&self, snapshot: Arc<Snapshot>) {
        self(snapshot);
    }
}

/// What the service needs to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceOptions {
    /// The directory's file; it is created when it does not exist, its folder is not.
    pub directory_path: PathBuf,
    /// The database that has the directory instead, if it is not to be in that file. What is in the file is taken over by a database
    /// that is new; the file is renamed then.
    pub database: Option<DatabaseUrl>,
    /// The socket of the HTTP API.
    pub socket_path: PathBuf,
    /// The trust domain of all names; a directory belongs to one for ever.
    pub trust_domain: TrustDomain,
    /// Most agents that can be registered.
    pub agents_max: u64,
    /// How long messages are accepted that are sealed to an encryption key that was replaced, in milliseconds.
    pub key_grace_ms: u64,
    /// What holds for mailboxes for which nothing else is set.
    pub mailbox_defaults: MailboxDefaults,
    /// The policy that the shards decide by.
    pub policy: PolicyOptions,
    /// Who may register agents.
    pub enrolment: Enrolment,
    /// The trust bundle (PEM) whose SVIDs register agents; `None`: none do. Read at the start, and again for each enrolment.
    pub spiffe_bundle: Option<PathBuf>,
    /// Where the node's shards say how they are.
    pub health: Health,
    /// The API over TCP, if there is to be one.
    pub remote: Option<RemoteOptions>,
}

/// The API over TCP, for administrators elsewhere and for whatever watches the node. There is no TLS in it: it listens where
/// nobody else listens in, and every request but the two for health is signed ([`crate::signed_request`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteOptions {
    /// Where to listen; of this machine only. Port 0: any.
    pub listen: SocketAddr,
    /// The agents whose signed requests are taken, at most [`ADMINISTRATORS_MAX`].
    pub administrators: Vec<AgentName>,
}

impl ServiceOptions {
    /// Options with the default limits.
    #[must_use]
    pub fn new(directory_path: impl Into<PathBuf>, socket_path: impl Into<PathBuf>, trust_domain: TrustDomain) -> Self {
        Self {
            directory_path: directory_path.into(),
            database: None,
            socket_path: socket_path.into(),
            trust_domain,
            agents_max: AGENTS_MAX,
            key_grace_ms: KEY_GRACE_MS,
            mailbox_defaults: MailboxDefaults::default(),
            policy: PolicyOptions::default(),
            enrolment: Enrolment::default(),
            spiffe_bundle: None,
            health: Health::default(),
            remote: None,
        }
    }
}

impl RemoteOptions {
    fn bind(&self) -> Result<(TcpListener, SocketAddr), ServiceError> {
        if !self.listen.ip().is_loopback() {
            return Err(ServiceError::NotLoopback(self.listen));
        }
        if self.administrators.len() > ADMINISTRATORS_MAX {
            return Err(ServiceError::Administrators(self.administrators.len()));
        }
        let bound = || {
            let listener = TcpListener::bind(self.listen)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        bound().map_err(|source| ServiceError::Listen { address: self.listen, source })
    }
}

/// An open directory that is not served yet.
pub struct Service {
    options: ServiceOptions,
    storage: Arc<Storage>,
    directory: Directory,
    policy: InForce,
    /// What the audit log is told of this start.
    begun: Vec<Note>,
    backups: Option<Arc<Backups>>,
    decisions: Option<Arc<dyn DecisionHost>>,
    audit_log: Option<Arc<dyn AuditLogSource>>,
    prekeys: Option<Prekeys>,
    enrolments: Option<Enrolments>,
    key_log: Option<(KeyLog, Questions)>,
    key_records: Option<KeyRecordQuestions>,
    links: Option<LinkServer>,
    channel_records: Option<ChannelQuestions>,
}

/// What is asked about prekeys, by what rules, and who is told when they become few.
struct Prekeys {
    requests: PrekeyRequests,
    allowance: PrekeyAllowance,
    sink: Arc<dyn StockSink>,
}

impl Service {
    /// Opens the directory, or creates it, and loads the policy and all agents.
    ///
    /// # Errors
    /// [`ServiceError`]: the file is in use, of another trust domain, damaged, the disk refuses, the policy is refused, or the trust bundle.
    pub fn open(options: ServiceOptions) -> Result<Self, ServiceError> {
        if let Some(path) = &options.spiffe_bundle {
            TrustBundle::read(path)?;
        }
        let storage = Arc::new(match &options.database {
            None => Storage::open(&options.directory_path, &options.trust_domain)?,
            Some(url) => Storage::open_database(url.clone(), &options.directory_path, &options.trust_domain)?,
        });
        let mut directory = Directory::load(
            Arc::clone(&storage),
            options.agents_max,
            options.key_grace_ms,
            options.mailbox_defaults.retention_s,
            wall_clock_ms(),
        )?;
        let (in_force, policy, failure) = InForce::open(options.policy.clone(), directory.epoch())?;
        let mut begun: Vec<_> = failure.iter().map(LoadError::note).collect();
        begun.push(told_of_policy(&policy, directory.epoch()));
        directory.set_policy(policy);
        Ok(Self {
            options,
            storage,
            directory,
            policy: in_force,
            begun,
            backups: None,
            decisions: None,
            audit_log: None,
            prekeys: None,
            enrolments: None,
            key_log: None,
            key_records: None,
            links: None,
            channel_records: None,
        })
    }

    /// The same service, which can say what the shards of this node keep of a decision.
    #[must_use]
    pub fn with_decisions(self, host: Arc<dyn DecisionHost>) -> Self {
        Self { decisions: Some(host), ..self }
    }

    /// The same service, whose API shows this audit log.
    #[must_use]
    pub fn with_audit_log(self, log: Arc<dyn AuditLogSource>) -> Self {
        Self { audit_log: Some(log), ..self }
    }

    /// The same service, which takes what is asked about prekeys through the other end of `requests`, and tells `sink` whose
    /// have become few.
    #[must_use]
    pub fn with_prekeys(self, requests: PrekeyRequests, allowance: PrekeyAllowance, sink: impl StockSink) -> Self {
        Self { prekeys: Some(Prekeys { requests, allowance, sink: Arc::new(sink) }), ..self }
    }

    /// The same service, which registers whoever comes through the other end of `enrolments` with a token.
    #[must_use]
    pub fn with_enrolments(self, enrolments: Enrolments) -> Self {
        Self { enrolments: Some(enrolments), ..self }
    }

    /// The same service, which gives shards the key records that they ask for through the other end of `questions`.
    #[must_use]
    pub fn with_key_records(self, questions: KeyRecordQuestions) -> Self {
        Self { key_records: Some(questions), ..self }
    }

    /// The same service, which serves nodes of other processes too. Its sink is to be that server's [feed](LinkServer::feed).
    #[must_use]
    pub fn with_links(self, links: LinkServer) -> Self {
        Self { links: Some(links), ..self }
    }

    /// The same service, which gives shards the records of channels that they ask for through the other end of `questions`.
    #[must_use]
    pub fn with_channels(self, questions: ChannelQuestions) -> Self {
        Self { channel_records: Some(questions), ..self }
    }

    /// The same service, which can be asked for backups of this node.
    #[must_use]
    pub fn with_backups(self, host: Arc<dyn BackupHost>) -> Self {
        let backups = Backups::new(host, Arc::clone(&self.storage), &self.options.directory_path);
        Self { backups: Some(Arc::new(backups)), ..self }
    }

    /// The same service, which answers what agents ask about the key log through the other end of `questions`, and signs its heads
    /// with `keys`.
    #[must_use]
    pub fn with_key_log(self, keys: LogKeys, questions: Questions) -> Self {
        let key_log = KeyLog::new(Arc::clone(&self.storage), keys);
        Self { key_log: Some((key_log, questions)), ..self }
    }

    /// The same service, whose changes an audit log keeps: `sink` is told of each, first of those that it does not have.
    ///
    /// # Errors
    /// [`ServiceError`] when the outbox cannot be read.
    pub fn with_audit(mut self, sink: Arc<dyn AuditSink>, kept: Arc<Kept>) -> Result<Self, ServiceError> {
        let begun = std::mem::take(&mut self.begun);
        self.directory.tell_audit(Outbox::new(sink, kept), begun, wall_clock_ms())?;
        Ok(self)
    }

    /// The directory as it was opened.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.directory.snapshot()
    }

    /// Publishes the first snapshot and starts the control thread. The socket accepts connections when this returns.
    ///
    /// # Errors
    /// [`ServiceError`] when the socket cannot be had or the thread not be started.
    pub fn spawn(self, sink: impl SnapshotSink) -> Result<ServiceHandle, ServiceError> {
        let (_, publications) = publications();
        self.spawn_with(sink, publications)
    }

    /// As [`Service::spawn`], and takes what agents publish through the other end of `publications`.
    ///
    /// # Errors
    /// As [`Service::spawn`].
    pub fn spawn_with(
        self,
        sink: impl SnapshotSink,
        publications: Publications,
    ) -> Result<ServiceHandle, ServiceError> {
        let Self {
            options,
            storage,
            directory,
            policy,
            begun: _,
            backups,
            decisions,
            audit_log,
            prekeys,
            enrolments,
            key_log,
            key_records,
            links,
            channel_records,
        } = self;
        let (teller, telling) = telling();
        let remote_listener = options.remote.as_ref().map(RemoteOptions::bind).transpose()?;
        let remote_address = remote_listener.as_ref().map(|(_, address)| *address);
        let key_log = key_log.map(|(key_log, questions)| serve::answer(key_log, questions));
        let key_records = key_records.map(|questions| key_records::answer(Arc::clone(&storage), questions));
        let channel_records = channel_records.map(|questions| channel_records::answer(Arc::clone(&storage), questions));
        let (socket_file, listener) = SocketFile::bind(&options.socket_path)?;
        let socket_path = socket_file.path().to_owned();
        let snapshot = Published::new(directory.snapshot());
        sink.publish(snapshot.newest());
        let remote = options.remote.zip(remote_listener).map(|(remote, (listener, address))| {
            let (snapshot, teller) = (snapshot.clone(), teller.clone());
            let reader = Reader::new(Arc::clone(&storage), options.trust_domain.clone());
            (listener, Gate::new(address, &remote.administrators, reader, snapshot, teller))
        });
        let links = links.map(|links| {
            let (trust_domain, health) = (options.trust_domain.clone(), options.health.clone());
            let incarnation = storage.incarnation()?;
            Ok::<_, ServiceError>(links.serve(
                options.key_grace_ms,
                trust_domain,
                incarnation,
                Arc::clone(&storage),
                health,
                teller.clone(),
            ))
        });
        let links = links.transpose()?;
        let (reloader, reloads) = mpsc::channel(RELOADS_MAX);
        let prekeys = prekeys.map(|prekeys| (Arc::clone(&storage), prekeys));
        let api = Api {
            reader: Reader::new(storage, options.trust_domain),
            key_grace_ms: options.key_grace_ms,
            mailbox_defaults: options.mailbox_defaults,
            enrolment: options.enrolment,
            spiffe_bundle: options.spiffe_bundle,
            changes: None,
            policy,
            reloads: reloader.downgrade(),
            snapshot,
            decisions,
            audit_log,
            backups,
            teller,
            started_at_ms: wall_clock_ms(),
            health: options.health,
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("creto-control".to_owned())
            .spawn(move || {
                run(
                    socket_file,
                    listener,
                    remote,
                    api,
                    directory,
                    Box::new(sink),
                    publications,
                    prekeys,
                    enrolments,
                    [key_log.map(boxed), key_records.map(boxed), channel_records.map(boxed)],
                    links.map(boxed),
                    reloads,
                    telling,
                    stopped,
                )
            })
            .map_err(ServiceError::Thread)?;
        Ok(ServiceHandle {
            socket_path,
            remote_address,
            reloader: PolicyReloader(reloader),
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The newest snapshot that was published. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Published(Arc<Mutex<Arc<Snapshot>>>);

impl Published {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(snapshot))))
    }

    pub(crate) fn newest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set(&self, snapshot: &Arc<Snapshot>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(snapshot);
    }
}

/// Has a running service read its file of policy again. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PolicyReloader(mpsc::Sender<Reload>);

impl PolicyReloader {
    /// Asks for it. What comes of it is in the log.
    pub fn reload(&self) {
        // A full queue holds a request that has not begun; without a queue there is no service.
        let _waits_or_gone = self.0.try_send(Reload(None));
    }
}

/// A running service. Dropping it stops the service and waits for its thread.
#[derive(Debug)]
pub struct ServiceHandle {
    socket_path: PathBuf,
    remote_address: Option<SocketAddr>,
    reloader: PolicyReloader,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<(), ServiceError>>>,
}

impl ServiceHandle {
    /// Where the HTTP API listens.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// Where it listens on TCP, if it does.
    #[must_use]
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.remote_address
    }

    /// Has the service read its file of policy again, from anywhere.
    #[must_use]
    pub fn policy_reloader(&self) -> PolicyReloader {
        self.reloader.clone()
    }

    /// Whether the control thread is alive. When it is not, [`ServiceHandle::shutdown`] says why.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Takes no new requests, answers those under way, closes the directory and ends the thread.
    ///
    /// # Errors
    /// What ended the service before, or [`ServiceError::CutOff`].
    pub fn shutdown(mut self) -> Result<(), ServiceError> {
        self.stop_and_join()
    }

    fn stop_and_join(&mut self) -> Result<(), ServiceError> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or(Err(ServiceError::Died)))
    }
}

impl Drop for ServiceHandle {
    fn drop(&mut self) {
        if let Err(error) = self.stop_and_join() {
            tracing::error!(%error, "the control service did not end well");
        }
    }
}

/// What is served beside the API until the service ends.
type Beside = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn boxed(serving: impl Future<Output = ()> + Send + 'static) -> Beside {
    Box::pin(serving)
}

/// The control thread.
#[allow(clippy::too_many_arguments, reason = "everything that the thread takes along")]
fn run(
    socket_file: SocketFile,
    listener: UnixListener,
    remote: Option<(TcpListener, Gate)>,
    mut api: Api,
    directory: Directory,
    sink: Box<dyn SnapshotSink>,
    publications: Publications,
    prekeys: Option<(Arc<Storage>, Prekeys)>,
    enrolments: Option<Enrolments>,
    beside: [Option<Beside>; 3],
    links: Option<Beside>,
    reloads: Reloads,
    telling: Telling,
    stopped: oneshot::Receiver<()>,
) -> Result<(), ServiceError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // The commits, one after the other; those of claims, and the checks of prekeys and of enrolments, the same; the requests of a
        // backup, one after the other; questions about the key log, for key records and for those of channels, the same, and the keys
        // of administrators; what looks at policies, at which nodes are admitted and whether
        // the directory is still this service's; reads of the audit log, one at a time; and what
        // requests read of the directory.
        .max_blocking_threads(14 + READS_MAX)
        .thread_name("creto-control-commit")
        .build()
        .map_err(ServiceError::Thread)?;
    runtime.block_on(async move {
        let listener = tokio::net::UnixListener::from_std(listener).map_err(ServiceError::Thread)?;
        let remote = match remote {
            Some((listener, gate)) => {
                Some((tokio::net::TcpListener::from_std(listener).map_err(ServiceError::Thread)?, gate))
            }
            None => None,
        };
        let failures = Failures::default();
        let (changes, pending) = mpsc::channel(CONNECTIONS_MAX);
        let publications =
            failures.spawn(writer::take_publications(publications, changes.clone(), api.reader.trust_domain().clone()));
        let policies = failures.spawn(follow(api.policy.clone(), reloads, changes.clone(), api.teller.clone()));
        let prekeys =
            prekeys.map(|(storage, Prekeys { requests: PrekeyRequests { uploads, questions }, allowance, sink })| {
                let (changes, reads) = (changes.clone(), Arc::clone(&storage));
                let uploads = failures.spawn(prekeys::keeper::take_uploads(uploads, changes, reads, allowance));
                (uploads, failures.spawn(prekeys::keeper::hand_out(storage, questions, allowance, sink)))
            });
        let enrolments = enrolments.map(|enrolments| {
            let (reader, teller) = (api.reader.clone(), api.teller.clone());
            failures.spawn(enrolment::take_enrolments(enrolments, changes.clone(), reader, teller))
        });
        let health = api.health.clone();
        let (stop_telling, nothing_more) = oneshot::channel();
        let telling = failures.spawn(telling.run(changes.clone(), nothing_more));
        let mut tasks: Vec<_> = beside.into_iter().flatten().map(|beside| failures.spawn(beside)).collect();
        tasks.extend(links.map(|links| failures.spawn_endless(links)));
        api.changes = Some(changes);
        let writer = failures.spawn(writer::write(directory, sink, api.snapshot.clone(), health, pending));
        // The file goes first, so that a client that comes now is told "not running" instead of waiting.
        let serving = http::serve(listener, remote, api, stopped, move || drop(socket_file));
        let cut_off = tokio::select! {
            cut_off = serving => cut_off,
            () = failures.first() => {
                tracing::error!("a part of the control service has failed; it ends");
                return Err(ServiceError::Died);
            }
        };
        // What it had not handed on is answered with "shutting down".
        tasks.extend([publications, policies]);
        tasks.extend(enrolments);
        tasks.extend(prekeys.into_iter().flat_map(|(uploads, claims)| [uploads, claims]));
        tasks.iter().for_each(JoinHandle::abort);
        // What was told is written: whoever was refused has their answer.
        drop(stop_telling);
        if telling.await.is_err() {
            return Err(ServiceError::Died);
        }
        // The last sender goes with it and the server, so the writer commits what it has and ends.
        if writer.await.is_err() {
            return Err(ServiceError::Died);
        }
        if cut_off == 0 { Ok(()) } else { Err(ServiceError::CutOff(cut_off)) }
    })
}

/// Says when a task has failed: the others would serve on, and say less than they know.
#[derive(Clone, Default)]
struct Failures(Arc<Notify>);

/// Lives as long as its task.
struct Watched(Failures);

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.0.notify_one();
        }
    }
}

impl Failures {
    /// Starts a task. It may come to its end, when nobody can ask it anything any more.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let watched = Watched(self.clone());
        tokio::spawn(async move {
            task.await;
            drop(watched);
        })
    }

    /// Starts a task that does not come to an end by itself.
    fn spawn_endless(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let failures = self.clone();
        self.spawn(async move {
            task.await;
            failures.0.notify_one();
        })
    }

    async fn first(&self) {
        self.0.notified().await;
    }
}

/// Unix time in milliseconds. It may jump; nothing here relies on it going forward.
pub(crate) fn wall_clock_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_fails_is_noticed_and_one_that_comes_to_its_end_is_not() {
        let failures = Failures::default();
        failures.spawn(async {}).await.unwrap();
        let is_noticed = || async { tokio::time::timeout(Duration::from_millis(20), failures.first()).await.is_ok() };
        assert!(!is_noticed().await);
        failures.spawn(async { panic!("on purpose") }).await.unwrap_err();
        assert!(is_noticed().await);
        failures.spawn_endless(async {}).await.unwrap();
        assert!(is_noticed().await, "it was to serve as long as the service runs");
        let aborted = failures.spawn(std::future::pending());
        aborted.abort();
        aborted.await.unwrap_err();
        assert!(!is_noticed().await);
    }
}
