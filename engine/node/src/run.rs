//! The process: opens the data directory, recovers the logs, starts control and the shards, and ends them in order.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use creto_audit::LogKeys;
use creto_envelope::TrustDomain;
use creto_io::executor::{self, ExecutorConfig, ShardThread};
use creto_io::probe::Choice;
use creto_io::ring::{self, ControlPort};
use creto_io::socket;
use creto_io::watchdog::{Progress, Watchdog, Watched};
use creto_io::{Clock, DiskConfig, DriverConfig, DriverError, Parcel, StatsReader, drive};
use creto_net::tls;
use creto_net::{EndpointConfig, NetLimits, NodeKeys};
use creto_policy::Snapshot;
use creto_service::channel_records::{self, ChannelQuestions};
use creto_service::enrolment::{self, Enrolments};
use creto_service::health::Health;
use creto_service::key_log::{self, Questions};
use creto_service::key_records::{self, KeyRecordQuestions};
use creto_service::outbox::{AuditSink, Kept};
use creto_service::prekeys::{self, PrekeyAllowance, PrekeyRequests};
use creto_service::rotation::{self, Publications};
use creto_service::{
    MailboxDefaults, PolicyReloader, RemoteOptions, Service, ServiceError, ServiceHandle, ServiceOptions,
};
use creto_shard::observe::Counters;
use creto_store::{digest_file_name, segment_file_name};
use crossbeam::channel::{self, Receiver, RecvTimeoutError};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::audit::{AuditLog, AuditShown, AuditThread};
use crate::backup::host::Host as BackupHost;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::decisions::Decisions;
use crate::device;
use crate::host::Host;
use crate::machine::{Ends, NodeItem, OUT_QUEUE_BYTES_MAX, ShardMachine, ShardReport};
use crate::plan::Plan;
use crate::room::RoomWatch;
use crate::workers::Workers;

mod doors;
mod error;
mod shards;

pub use error::NodeError;
pub use shards::Recovered;
use shards::recover_shards;

/// How long a node that was asked to stop waits for what is under way.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a shard may take to make room for what it is told.
const TELL: Duration = Duration::from_secs(5);

/// A node that serves.
pub struct Node {
    address: SocketAddr,
    plan: Plan,
    writes: Choice,
    control: Vec<ControlPort<Parcel<NodeItem>>>,
    threads: Vec<ShardThread<Result<ShardMachine, DriverError>>>,
    workers: Workers,
    service: ServiceHandle,
    audit: AuditThread,
    watchdog: Watchdog,
    reports: Receiver<(u16, ShardReport)>,
    recovered: Recovered,
    // Last: the lock on the data directory goes when everything else has ended.
    _data_dir: DataDir,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("address", &self.address).field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// What a node did, told when it has ended.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The counters of each shard.
    pub shards: Vec<Counters>,
    /// Stalls that the watchdog noticed.
    pub stalls: u64,
    /// Whether everything under way was answered and written.
    pub drained: bool,
}

impl Node {
    /// Starts a node and returns when it serves.
    ///
    /// # Errors
    /// [`NodeError`] says what stands in the way and what to do.
    pub fn start(config: &Config) -> Result<Self, NodeError> {
        let host = Host::probe().map_err(|error| NodeError::System { what: "reading /proc and /sys", error })?;
        let plan = Plan::resolve(config, &host)?;
        for warning in &plan.warnings {
            tracing::warn!("{warning}");
        }
        let trust_domain = TrustDomain::parse(&config.node.trust_domain)?;
        // Before the logs are read, which may take long, and before anything is written to them.
        creto_service::policy::check(&config.policy_options()).map_err(ServiceError::from)?;
        let shard_count = plan.shard_count();
        let data_dir = DataDir::open(&config.data_dir(), &config.wal_dir(), shard_count)?;
        let tls = tls::server_config(certificate(&config.certificate())?, private_key(&config.private_key())?)?;
        let key_file = config.private_key();
        let secret = fs::read(&key_file).map_err(|error| pem_error(&key_file, error))?;
        let keys = NodeKeys::derive(&secret);

        let executors: Vec<ExecutorConfig> = plan
            .shards
            .iter()
            .map(|shard| ExecutorConfig {
                ring_entries: plan.uring_entries as usize,
                ..ExecutorConfig::new(shard.shard_index, shard.cpu)
            })
            .collect();
        for executor in &executors {
            executor::preflight(executor)?;
        }

        let (writes, source) = device::choose(config);
        tracing::info!("the log is written by {writes} ({})", source.text());
        let audit = AuditLog::open(&data_dir.audit_dir(), &trust_domain, shard_count, unix_ms())?;
        let key_log_keys = audit.key_log_keys()?;
        let (shards, recovered) = recover_shards(config, writes, &data_dir, shard_count, &audit)?;
        let listen = config.node.listen;
        let sockets = socket::bind_group(listen, shard_count, plan.udp_buffer_bytes as usize)
            .map_err(|error| NodeError::Listen { address: listen, error })?;
        let address = sockets.first().map_or(listen, socket::BoundSocket::local_addr);

        let (report, reports) = channel::bounded(4 * usize::from(shard_count) + 16);
        let health = Health::new(shard_count);
        let clock = Clock::start();
        let meshes = ring::mesh::<Parcel<NodeItem>>(shard_count, plan.ring_slots as usize);
        let control: Vec<_> = meshes.iter().map(ring::Ports::control_port).collect();
        let audit = audit
            .start(control.clone(), health.clone(), config.audit.retention, config.alerts.limits())
            .map_err(|error| NodeError::System { what: "starting the thread of the audit log", error })??;
        let (publisher, publications) = rotation::publications();
        let (enrolment_door, enrolments) = enrolment::enrolments();
        let (record_door, record_questions) = key_records::key_record_questions();
        let (channel_door, channel_questions) = channel_records::channel_questions();
        let (questioner, questions) = key_log::questions();
        let (prekey_door, prekey_requests) = prekeys::prekey_requests();
        let (workers, jobs) = Workers::start(&plan.crypto_cpus, &control)
            .map_err(|error| NodeError::System { what: "starting the crypto workers", error })?;
        let mut watched = Vec::new();
        let mut threads = Vec::new();
        for (((executor, ports), socket), shard) in executors.iter().zip(meshes).zip(sockets).zip(shards) {
            let shard_index = executor.shard_index;
            let progress = Arc::new(Progress::default());
            watched.push(Watched::new(shard_index, Arc::clone(&progress), ports.control_port()));
            let publish = doors::publish_key_records(publisher.clone(), shard_index, ports.control_port());
            let enrol = doors::enrol(enrolment_door.clone(), shard_index, ports.control_port());
            let ask_key_record = doors::ask_key_records(record_door.clone(), shard_index, ports.control_port());
            let ask_key_log = doors::ask_key_log(questioner.clone(), shard_index, ports.control_port());
            let ask_channel = doors::ask_channels(channel_door.clone(), shard_index, ports.control_port());
            let ask_prekeys = doors::ask_prekeys(prekey_door.clone(), shard_index, ports.control_port());
            let driver = DriverConfig {
                endpoint: EndpointConfig {
                    shard_index: u8::try_from(shard_index).expect("the plan allows at most 256 shards"),
                    limits: net_limits(config),
                    tls: Arc::clone(&tls),
                    keys: keys.clone(),
                    seed: random()?,
                },
                socket,
                disk: DiskConfig {
                    folder: data_dir.shard_dir(shard_index),
                    file_name: |number| segment_file_name(creto_store::SegmentNumber(number)),
                    digest_name: |number| digest_file_name(creto_store::SegmentNumber(number)),
                    durability: writes.durability,
                },
                clock,
                ports,
                progress,
                stats: StatsReader::default(),
            };
            let room = RoomWatch::new(shard_index, shard_count, data_dir.shard_dir(shard_index), health.clone());
            let ends = Ends {
                publish,
                enrol,
                ask_key_record,
                ask_key_log,
                ask_channel,
                ask_prekeys,
                report: report.clone(),
                workers: jobs.clone(),
                audit: audit.sender(),
            };
            let machine = ShardMachine::new(shard, shard_index, shard_count, room, ends);
            let report = report.clone();
            threads.push(executor::spawn(executor, move || async move {
                let ended = drive(driver, machine).await;
                // Nobody listens any more when the node is being stopped.
                let _ = report.send((shard_index, ShardReport::Ended));
                ended
            })?);
        }
        drop((report, jobs));
        let watchdog = Watchdog::start(watched, |_| {})
            .map_err(|error| NodeError::System { what: "starting the watchdog", error })?;

        let service = start_service(
            config,
            &data_dir,
            trust_domain,
            health,
            control.clone(),
            (publications, enrolments),
            audit.control(),
            (record_questions, channel_questions),
            (key_log_keys, questions),
            prekey_requests,
        )?;
        let mut node = Self {
            address,
            plan,
            writes,
            control,
            threads,
            workers,
            service,
            audit,
            watchdog,
            reports,
            recovered,
            _data_dir: data_dir,
        };
        node.wait_until_started()?;
        Ok(node)
    }

    /// The address that agents connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The plan that the node runs by.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How the logs are written.
    #[must_use]
    pub fn writes(&self) -> Choice {
        self.writes
    }

    /// What the logs held when the node started.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// Has the node read its file of policy again.
    #[must_use]
    pub fn policy_reloader(&self) -> PolicyReloader {
        self.service.policy_reloader()
    }

    /// The socket of the control API.
    #[must_use]
    pub fn control_socket(&self) -> &Path {
        self.service.socket_path()
    }

    /// Where the control API listens on TCP, if it does.
    #[must_use]
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.service.remote_address()
    }

    fn wait_until_started(&mut self) -> Result<(), NodeError> {
        let mut started = 0;
        while started < self.control.len() {
            match self.reports.recv() {
                Ok((_, ShardReport::Started)) => started += 1,
                Ok((_, ShardReport::Drained | ShardReport::Sealed)) => {}
                Ok((shard_index, ShardReport::Fenced(cause))) => return Err(NodeError::Fenced { shard_index, cause }),
                Ok((shard_index, ShardReport::Ended)) => return Err(self.shard_error(Some(shard_index))),
                Err(_) => return Err(self.shard_error(None)),
            }
        }
        Ok(())
    }

    /// Waits for `stop` or for a shard that ends by itself. A fenced shard is logged; the others go on.
    ///
    /// # Errors
    /// When a shard's loop ended.
    pub fn wait(&mut self, stop: &Receiver<()>) -> Result<(), NodeError> {
        loop {
            channel::select! {
                recv(stop) -> _ => return Ok(()),
                recv(self.reports) -> report => match report {
                    Ok((shard_index, ShardReport::Fenced(cause))) => {
                        let error = NodeError::Fenced { shard_index, cause };
                        tracing::error!("{error}; restart the node when the disk is sound");
                    }
                    // Its agents cannot be served by the others: their mailboxes are in its log.
                    Ok((shard_index, ShardReport::Ended)) => return Err(self.shard_error(Some(shard_index))),
                    Ok((_, ShardReport::Started | ShardReport::Drained | ShardReport::Sealed)) => {}
                    Err(_) => return Err(self.shard_error(None)),
                },
            }
        }
    }

    /// Ends the node: takes nothing new, answers what is under way, writes what is answered, closes.
    ///
    /// # Errors
    /// When a shard had failed.
    pub fn stop(mut self) -> Result<Summary, NodeError> {
        let until = Instant::now() + DRAIN;
        let mut gone = vec![false; self.control.len()];
        let drained = self.all_shards(|| NodeItem::Drain, &ShardReport::Drained, &mut gone, until);
        // When all have drained, no shard has anything for another one's log any more.
        let drained = drained && self.all_shards(|| NodeItem::Seal, &ShardReport::Sealed, &mut gone, until);
        let Self { control, threads, workers, service, audit, watchdog, _data_dir, .. } = self;
        // Before the shards: nobody is told that an agent is registered when no shard can learn of it any more.
        service.shutdown()?;
        audit.shards_end();
        tell_all(&control, || NodeItem::Stop);
        let mut summary = Summary { drained, stalls: watchdog.stalls(), ..Summary::default() };
        for thread in threads {
            let machine = thread.join()??;
            summary.shards.push(machine.into_shard().counters().clone());
        }
        workers.stop();
        audit.stop();
        Ok(summary)
    }

    /// Tells every shard, and waits until each has reported what is wanted, or has `gone`: it failed.
    fn all_shards(&mut self, item: fn() -> NodeItem, wanted: &ShardReport, gone: &mut [bool], until: Instant) -> bool {
        tell_all(&self.control, item);
        let mut done = gone.to_vec();
        while done.contains(&false) {
            match self.reports.recv_deadline(until) {
                Ok((shard_index, report)) if report == *wanted => done[usize::from(shard_index)] = true,
                Ok((shard_index, ShardReport::Fenced(_) | ShardReport::Ended)) => {
                    done[usize::from(shard_index)] = true;
                    gone[usize::from(shard_index)] = true;
                }
                Ok((_, ShardReport::Started | ShardReport::Drained | ShardReport::Sealed)) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    /// Why a shard's loop ended although nobody asked it to.
    fn shard_error(&mut self, shard_index: Option<u16>) -> NodeError {
        let unexplained = || io::Error::other("it ended without a reason; see the log above, then restart the node");
        let place = usize::from(shard_index.unwrap_or(0));
        if place < self.threads.len() {
            match self.threads.swap_remove(place).join() {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return error.into(),
                Err(error) => return error.into(),
            }
        }
        NodeError::System { what: "running a shard", error: unexplained() }
    }
}

/// Tells every shard.
fn tell_all(ports: &[ControlPort<Parcel<NodeItem>>], item: impl Fn() -> NodeItem) {
    for (shard_index, port) in ports.iter().enumerate() {
        tell(shard_index, port, item());
    }
}

/// Tells a shard. Each empties this ring once a turn, so a full one is full for a moment only; one that stays full
/// belongs to a shard that has stalled, which the watchdog reports, or ended, which ends the node.
pub(crate) fn tell(shard_index: usize, port: &ControlPort<Parcel<NodeItem>>, mut item: NodeItem) {
    let until = Instant::now() + TELL;
    while let Err(back) = port.send_item(item) {
        if Instant::now() > until {
            tracing::error!(shard_index, "a shard does not take what it is told; restart the node");
            break;
        }
        item = back;
        std::thread::yield_now();
    }
}

#[allow(clippy::too_many_arguments, reason = "what it is made of, and its doors")]
fn start_service(
    config: &Config,
    data_dir: &DataDir,
    trust_domain: TrustDomain,
    health: Health,
    ports: Vec<ControlPort<Parcel<NodeItem>>>,
    (publications, enrolments): (Publications, Enrolments),
    audit: (Arc<dyn AuditSink>, Arc<Kept>),
    (record_questions, channel_questions): (KeyRecordQuestions, ChannelQuestions),
    key_log: (LogKeys, Questions),
    prekey_requests: PrekeyRequests,
) -> Result<ServiceHandle, NodeError> {
    let mut options = ServiceOptions::new(data_dir.control_path(), config.control_socket(), trust_domain);
    options.key_grace_ms = u64::try_from(config.keys.grace.as_millis()).unwrap_or(u64::MAX);
    options.mailbox_defaults = MailboxDefaults {
        retention_s: u32::try_from(config.mailbox.retention.as_secs()).unwrap_or(u32::MAX),
        messages_max: config.mailbox.messages_max,
        bytes_max: config.mailbox.bytes_max,
        max_deliveries: u8::try_from(config.mailbox.max_deliveries).unwrap_or(u8::MAX),
    };
    options.enrolment = config.control.enrolment;
    options.remote = config
        .control
        .listen
        .map(|listen| RemoteOptions { listen, administrators: config.control.administrators.clone() });
    options.spiffe_bundle = config.spiffe_bundle();
    options.database = config.database();
    options.health = health;
    options.policy = config.policy_options();
    let (sink, kept) = audit;
    let (keys, questions) = key_log;
    let host = Arc::new(BackupHost::new(config, data_dir, ports.clone(), Arc::clone(&kept)));
    let decisions = Arc::new(Decisions::new(ports.clone()));
    let shown = Arc::new(AuditShown::new(data_dir.audit_dir()));
    let service = Service::open(options)?.with_backups(host).with_decisions(decisions).with_key_log(keys, questions);
    let service = service.with_audit_log(shown).with_key_records(record_questions).with_channels(channel_questions);
    let low = doors::tell_low(ports.clone());
    let service = service.with_prekeys(prekey_requests, PrekeyAllowance::default(), low).with_audit(sink, kept)?;
    let service = service.with_enrolments(enrolments);
    let sink = move |snapshot: Arc<Snapshot>| tell_all(&ports, || NodeItem::Snapshot(Arc::clone(&snapshot)));
    Ok(service.spawn_with(sink, publications)?)
}

fn net_limits(config: &Config) -> NetLimits {
    NetLimits {
        connections_max: config.net.connections_max as usize,
        idle_timeout_ms: config.net.idle_timeout_s.saturating_mul(1_000),
        out_queue_bytes_max: OUT_QUEUE_BYTES_MAX,
        ..NetLimits::default()
    }
}

fn certificate(path: &Path) -> Result<CertificateDer<'static>, NodeError> {
    CertificateDer::from_pem_file(path).map_err(|error| pem_error(path, error))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, NodeError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| pem_error(path, error))
}

fn pem_error(path: &Path, error: impl fmt::Display) -> NodeError {
    NodeError::Pem { path: path.to_owned(), reason: error.to_string() }
}

fn random<const N: usize>() -> Result<[u8; N], NodeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| NodeError::System {
        what: "drawing random bytes",
        error: io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}

pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
