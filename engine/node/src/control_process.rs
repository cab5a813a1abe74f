//! The control service as a process of its own: the directory, its API, its audit log, and links of the nodes that it serves. No shards.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use creto_envelope::TrustDomain;
use creto_net::tls;
use creto_policy::Snapshot;
use creto_service::health::Health;
use creto_service::link::{Admitted, LinkServer, LinkServerOptions, ShardQuestions};
use creto_service::metrics_server::MetricsServer;
use creto_service::prekeys::PrekeyAllowance;
use creto_service::{PolicyReloader, Service, ServiceError, ServiceHandle, SnapshotSink};
use crossbeam::channel::{self, Receiver};

use crate::audit::{AuditLog, AuditShown, AuditThread};
use crate::backup::host::Host as BackupHost;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::metrics::NodeMetrics;
use crate::run::control::{doors, retention_s, service_options};
use crate::run::{NodeError, certificate, private_key, unix_ms};
use crate::vitals::Vitals;

/// A control service that serves nodes.
pub struct ControlProcess {
    address: SocketAddr,
    admitted: Admitted,
    service: ServiceHandle,
    /// Closed when its thread has ended.
    ended: Receiver<()>,
    audit: AuditThread,
    vitals: Vitals,
    _metrics: Option<MetricsServer>,
    // Last: the lock on the data directory goes when everything else has ended.
    _data_dir: DataDir,
}

impl fmt::Debug for ControlProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlProcess").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ControlProcess {
    /// Starts the service and returns when it serves.
    ///
    /// # Errors
    /// [`NodeError`] says what stands in the way and what to do.
    pub fn start(config: &Config) -> Result<Self, NodeError> {
        let trust_domain = TrustDomain::parse(&config.node.trust_domain)?;
        creto_service::policy::check(&config.policy_options()).map_err(ServiceError::from)?;
        let data_dir = DataDir::open_control(&config.data_dir(), &config.wal_dir())?;
        let admitted = Admitted::open(&config.link_nodes())?;
        let admits = admitted.clone();
        let tls = tls::link_server_config(
            certificate(&config.certificate())?,
            private_key(&config.private_key())?,
            move |certificate| admits.admits(certificate),
        )?;
        let audit = AuditLog::open(&data_dir.audit_dir(), &trust_domain, 0, unix_ms())?;
        let key_log_keys = audit.key_log_keys()?;
        let health = Health::new(0);
        let audit = audit
            .start(Vec::new(), health.clone(), config.audit.retention, config.alerts.limits())
            .map_err(|error| NodeError::System { what: "starting the thread of the audit log", error })??;
        health.set_metrics(Arc::new(NodeMetrics::new(Vec::new())));
        let metrics = config.metrics.listen.map(|listen| MetricsServer::start(listen, health.clone())).transpose()?;
        let vitals = Vitals::new(health.clone(), []);
        let (doors, asked) = doors();
        let options = LinkServerOptions {
            listen: config.link.listen,
            tls,
            admitted: admitted.clone(),
            lifetime: config.link.snapshot_lifetime,
            retention_s: retention_s(config),
        };
        let links = LinkServer::bind(options, doors)?;
        let (address, feed) = (links.address(), links.feed());
        let ShardQuestions { publications, enrolments, key_records, key_log, prekeys, channels } = asked;
        let (sink, kept) = audit.control();
        let host = Arc::new(BackupHost::new(config, &data_dir, Vec::new(), Arc::clone(&kept)));
        let shown = Arc::new(AuditShown::new(data_dir.audit_dir()));
        let service = Service::open(service_options(config, &data_dir, trust_domain, health))?
            .with_backups(host)
            .with_key_log(key_log_keys, key_log)
            .with_audit_log(shown)
            .with_key_records(key_records)
            .with_channels(channels)
            .with_prekeys(prekeys, PrekeyAllowance::default(), feed.clone())
            .with_enrolments(enrolments)
            .with_links(links)
            .with_audit(sink, kept)?;
        let (alive, ended) = channel::bounded::<()>(0);
        let sink = move |snapshot: Arc<Snapshot>| {
            // It is dropped with the service's thread.
            let _alive = &alive;
            feed.publish(snapshot);
        };
        let service = service.spawn_with(sink, publications)?;
        Ok(Self { address, admitted, service, ended, audit, vitals, _metrics: metrics, _data_dir: data_dir })
    }

    /// The address that nodes connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many nodes are admitted.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.admitted.list().len()
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

    /// Has the service read its file of policy again.
    #[must_use]
    pub fn policy_reloader(&self) -> PolicyReloader {
        self.service.policy_reloader()
    }

    /// Waits for `stop`.
    ///
    /// # Errors
    /// When the service ends before.
    pub fn wait(&self, stop: &Receiver<()>) -> Result<(), NodeError> {
        channel::select! {
            recv(stop) -> _ => Ok(()),
            recv(self.ended) -> _ => Err(NodeError::ControlEnded),
        }
    }

    /// Ends the service: nodes go on by what they know for as long as they may.
    ///
    /// # Errors
    /// When the service had failed.
    pub fn stop(self) -> Result<(), NodeError> {
        let Self { service, audit, _data_dir, .. } = self;
        service.shutdown()?;
        audit.stop();
        Ok(())
    }
}
