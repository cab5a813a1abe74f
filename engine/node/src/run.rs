//! The process: opens the data directory, recovers the logs, starts control and the shards, and ends them in order.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use creto_envelope::TrustDomain;
use creto_io::executor::{self, ExecutorConfig, ShardThread};
use creto_io::probe::Choice;
use creto_io::ring::{self, ControlPort};
use creto_io::socket;
use creto_io::watchdog::{Progress, Watchdog, Watched};
use creto_io::{Clock, DiskConfig, DriverConfig, DriverError, Parcel};
use creto_net::tls;
use creto_net::{EndpointConfig, NetLimits, NodeKeys};
use creto_service::health::Health;
use creto_service::metrics_server::MetricsServer;
use creto_service::{PolicyReloader, ServiceError};
use creto_shard::observe::Counters;
use creto_store::{digest_file_name, segment_file_name};
use crossbeam::channel::{self, Receiver, RecvTimeoutError};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::audit::{AuditLog, AuditThread};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::depths::NodeDepths;
use crate::device;
use crate::host::Host;
use crate::late::{Late, Way};
use crate::machine::{Ends, NodeItem, OUT_QUEUE_BYTES_MAX, ShardMachine, ShardReport};
use crate::metrics::{Board, NodeMetrics};
use crate::plan::Plan;
use crate::room::RoomWatch;
use crate::vitals::Vitals;
use crate::workers::Workers;

pub(crate) mod control;
mod doors;
mod error;
mod shards;

use control::{Control, Linked};
pub use error::NodeError;
pub use shards::Recovered;
use shards::recover_shards;

/// How long a node that was asked to stop waits for what is under way.
pub const DRAIN: Duration = Duration::from_secs(10);

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
    service: Control,
    metrics: Option<MetricsServer>,
    audit: AuditThread,
    watchdog: Watchdog,
    vitals: Vitals,
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
    /// Starts a node and returns when its logs are open and proven. A node that has its control service elsewhere may not have heard of
    /// it yet, and denies everything until it has: [`Node::wait_for_control`].
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
        let is_linked = config.is_linked();
        if is_linked {
            for key in config.of_control_only() {
                tracing::warn!(
                    "{key} is for the control service, and this node has its own elsewhere: it is not looked at"
                );
            }
        } else {
            creto_service::policy::check(&config.policy_options()).map_err(ServiceError::from)?;
        }
        let shard_count = plan.shard_count();
        let data_dir = DataDir::open(&config.data_dir(), &config.wal_dir(), shard_count)?;
        data_dir.settle_control(is_linked)?;
        let tls = tls::server_config(certificate(&config.certificate())?, private_key(&config.private_key())?)?;
        let key_file = config.private_key();
        let secret = fs::read(&key_file).map_err(|error| pem_error(&key_file, error))?;
        let keys = NodeKeys::derive(&secret);

        let executors: Vec<ExecutorConfig> = plan
            .shards
            .iter()
            .map(|shard| ExecutorConfig {
                driver: config.engine.driver,
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
        let (of_control, asked) = control::doors();
        let (link, asked) = match is_linked {
            true => {
                let link = control::link(config, &data_dir, trust_domain.clone(), health.clone(), asked)?;
                (Some(link), None)
            }
            false => (None, Some(asked)),
        };
        let (workers, jobs) = Workers::start(&plan.crypto_cpus, &control)
            .map_err(|error| NodeError::System { what: "starting the crypto workers", error })?;
        let (mut watched, mut boards, mut pulses) = (Vec::new(), Vec::new(), Vec::new());
        let mut threads = Vec::new();
        for (((executor, ports), socket), shard) in executors.iter().zip(meshes).zip(sockets).zip(shards) {
            let shard_index = executor.shard_index;
            let progress = Arc::new(Progress::default());
            pulses.push(Arc::clone(&progress));
            watched.push(Watched::new(shard_index, Arc::clone(&progress), ports.control_port()));
            let late = Arc::new(Late::default());
            let board = Board::default();
            boards.push(board.clone());
            let way = Way::new(shard_index, ports.control_port(), is_linked.then(|| Arc::clone(&late)));
            let publish = doors::publish_key_records(of_control.publisher.clone(), way.clone());
            let enrol = doors::enrol(of_control.enrolments.clone(), way.clone());
            let ask_key_record = doors::ask_key_records(of_control.key_records.clone(), way.clone());
            let ask_key_log = doors::ask_key_log(of_control.key_log.clone(), way.clone());
            let ask_channel = doors::ask_channels(of_control.channels.clone(), way.clone());
            let ask_prekeys = doors::ask_prekeys(of_control.prekeys.clone(), way);
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
                stats: board.stats(),
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
                late,
                board,
            };
            let linked = link.as_ref().map(|link| Linked::new(link.lease()));
            let shard = shard.with_stage_clock(move || clock.us());
            let machine = ShardMachine::new(shard, shard_index, shard_count, room, ends, linked);
            let report = report.clone();
            // Nobody listens any more when the node is being stopped.
            let ended = move || drop(report.send((shard_index, ShardReport::Ended)));
            threads.push(executor::start(executor, driver, machine, ended)?);
        }
        drop((report, jobs, of_control));
        health.set_depths(Arc::new(NodeDepths(boards.iter().map(Board::depths).collect())));
        health.set_metrics(Arc::new(NodeMetrics::new(boards)));
        let watchdog = Watchdog::start(watched, crate::vitals::tell_stalls(health.clone()))
            .map_err(|error| NodeError::System { what: "starting the watchdog", error })?;

        let vitals = Vitals::new(health.clone(), pulses);
        let metrics = config.metrics.listen.map(|listen| MetricsServer::start(listen, health.clone())).transpose()?;

        let service = match (link, asked) {
            (Some(link), _) => control::start_link(link, control.clone())?,
            (None, asked) => {
                let asked = asked.expect("a node without a link has its questions left");
                let (ports, told) = (control.clone(), audit.control());
                control::start_service(config, &data_dir, trust_domain, health, ports, asked, told, key_log_keys)?
            }
        };
        let mut node = Self {
            address,
            plan,
            writes,
            control,
            threads,
            workers,
            service,
            metrics,
            audit,
            watchdog,
            vitals,
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

    /// Where it tells what it counts and measures, if anywhere but on its control socket.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(MetricsServer::address)
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

    /// Has the node read its file of policy again; `None` where control is elsewhere, and has it.
    #[must_use]
    pub fn policy_reloader(&self) -> Option<PolicyReloader> {
        self.service.policy_reloader()
    }

    /// How it is, for whoever supervises the process.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.vitals.clone()
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

    /// Whether control is a process elsewhere that has not told this node anything since it started: until then it denies everything.
    #[must_use]
    pub fn waits_for_control(&self) -> bool {
        matches!(&self.service, Control::Linked { is_ready, .. } if is_ready.is_empty())
    }

    /// Waits until control has said who there is and what they may do, where that is a process elsewhere. Returns whether it has:
    /// `stop` may come first.
    ///
    /// # Errors
    /// As [`Node::wait`].
    pub fn wait_for_control(&mut self, stop: &Receiver<()>) -> Result<bool, NodeError> {
        let Control::Linked { is_ready, ended, .. } = &self.service else { return Ok(true) };
        let (ready, ended) = (is_ready.clone(), ended.clone());
        loop {
            channel::select! {
                recv(stop) -> _ => return Ok(false),
                recv(ready) -> told => match told {
                    Ok(()) => return Ok(true),
                    Err(_) => return Err(NodeError::ControlEnded),
                },
                recv(ended) -> _ => return Err(NodeError::ControlEnded),
                recv(self.reports) -> report => self.take_report(report.ok())?,
            }
        }
    }

    /// Waits for `stop` or for a shard, or control, that ends by itself. A fenced shard is logged; the others go on.
    ///
    /// # Errors
    /// When a shard's loop ended, or the thread of control.
    pub fn wait(&mut self, stop: &Receiver<()>) -> Result<(), NodeError> {
        let ended = self.service.ended().clone();
        loop {
            channel::select! {
                recv(stop) -> _ => return Ok(()),
                recv(ended) -> _ => return Err(NodeError::ControlEnded),
                recv(self.reports) -> report => self.take_report(report.ok())?,
            }
        }
    }

    /// What a shard says while the node runs; `None` when none can say anything any more.
    fn take_report(&mut self, report: Option<(u16, ShardReport)>) -> Result<(), NodeError> {
        match report {
            Some((shard_index, ShardReport::Fenced(cause))) => {
                let error = NodeError::Fenced { shard_index, cause };
                tracing::error!("{error}; restart the node when the disk is sound");
                Ok(())
            }
            // Its agents cannot be served by the others: their mailboxes are in its log.
            Some((shard_index, ShardReport::Ended)) => Err(self.shard_error(Some(shard_index))),
            Some((_, ShardReport::Started | ShardReport::Drained | ShardReport::Sealed)) => Ok(()),
            None => Err(self.shard_error(None)),
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

fn net_limits(config: &Config) -> NetLimits {
    NetLimits {
        connections_max: config.net.connections_max as usize,
        idle_timeout_ms: config.net.idle_timeout_s.saturating_mul(1_000),
        out_queue_bytes_max: OUT_QUEUE_BYTES_MAX,
        ..NetLimits::default()
    }
}

pub(crate) fn certificate(path: &Path) -> Result<CertificateDer<'static>, NodeError> {
    CertificateDer::from_pem_file(path).map_err(|error| pem_error(path, error))
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, NodeError> {
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
