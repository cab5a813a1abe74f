//! What a node has for control: the service itself, on a thread of this process, or a link to one that is a process of its own. Shards
//! see no difference.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use creto_audit::LogKeys;
use creto_envelope::prekeys::PrekeyStock;
use creto_envelope::{AgentId, TrustDomain};
use creto_io::Parcel;
use creto_io::ring::ControlPort;
use creto_net::tls;
use creto_policy::Snapshot;
use creto_service::health::Health;
use creto_service::link::{
    Lease, LinkClientOptions, LinkHandle, LinkSink, NodeLink, ServiceDoors, ShardQuestions, fingerprint,
};
use creto_service::outbox::{AuditSink, Kept};
use creto_service::prekeys::PrekeyAllowance;
use creto_service::{
    MailboxDefaults, PolicyReloader, RemoteOptions, Service, ServiceError, ServiceHandle, ServiceOptions,
    channel_records, enrolment, key_log, key_records, prekeys, rotation,
};
use crossbeam::channel::{self, Receiver, Sender};

use super::{NodeError, certificate, doors, private_key, tell_all};
use crate::audit::AuditShown;
use crate::backup::host::Host as BackupHost;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::decisions::Decisions;
use crate::machine::NodeItem;

/// Where shards ask, and the other ends.
pub(crate) fn doors() -> (ServiceDoors, ShardQuestions) {
    let (publisher, publications) = rotation::publications();
    let (enrolment_door, enrolments) = enrolment::enrolments();
    let (record_door, record_questions) = key_records::key_record_questions();
    let (questioner, questions) = key_log::questions();
    let (prekey_door, prekey_requests) = prekeys::prekey_requests();
    let (channel_door, channel_questions) = channel_records::channel_questions();
    let doors = ServiceDoors {
        publisher,
        enrolments: enrolment_door,
        key_records: record_door,
        key_log: questioner,
        prekeys: prekey_door,
        channels: channel_door,
    };
    let questions = ShardQuestions {
        publications,
        enrolments,
        key_records: record_questions,
        key_log: questions,
        prekeys: prekey_requests,
        channels: channel_questions,
    };
    (doors, questions)
}

/// Control, as a node has it.
pub(super) enum Control {
    /// In this process.
    Here {
        service: ServiceHandle,
        /// Closed when its thread has ended.
        ended: Receiver<()>,
    },
    /// Elsewhere.
    Linked {
        link: LinkHandle,
        /// Says once that the shards have something to go by.
        is_ready: Receiver<()>,
        /// Closed when its thread has ended.
        ended: Receiver<()>,
    },
}

impl Control {
    pub(super) fn policy_reloader(&self) -> Option<PolicyReloader> {
        match self {
            Self::Here { service, .. } => Some(service.policy_reloader()),
            Self::Linked { .. } => None,
        }
    }

    pub(super) fn socket_path(&self) -> &Path {
        match self {
            Self::Here { service, .. } => service.socket_path(),
            Self::Linked { link, .. } => link.socket_path(),
        }
    }

    pub(super) fn remote_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Here { service, .. } => service.remote_address(),
            Self::Linked { .. } => None,
        }
    }

    /// Closed when the thread of the service, or of the link, has ended: it does not while the node runs.
    pub(super) fn ended(&self) -> &Receiver<()> {
        match self {
            Self::Here { ended, .. } | Self::Linked { ended, .. } => ended,
        }
    }

    pub(super) fn shutdown(self) -> Result<(), ServiceError> {
        match self {
            Self::Here { service, .. } => service.shutdown(),
            Self::Linked { link, .. } => link.shutdown(),
        }
    }
}

/// What a control service of this configuration is to know, in whichever process it is.
pub(crate) fn service_options(
    config: &Config,
    data_dir: &DataDir,
    trust_domain: TrustDomain,
    health: Health,
) -> ServiceOptions {
    let mut options = ServiceOptions::new(data_dir.control_path(), config.control_socket(), trust_domain);
    options.key_grace_ms = u64::try_from(config.keys.grace.as_millis()).unwrap_or(u64::MAX);
    options.mailbox_defaults = MailboxDefaults {
        retention_s: retention_s(config),
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
    options
}

pub(crate) fn retention_s(config: &Config) -> u32 {
    u32::try_from(config.mailbox.retention.as_secs()).unwrap_or(u32::MAX)
}

/// Starts the service of this node.
#[allow(clippy::too_many_arguments, reason = "what it is made of")]
pub(super) fn start_service(
    config: &Config,
    data_dir: &DataDir,
    trust_domain: TrustDomain,
    health: Health,
    ports: Vec<ControlPort<Parcel<NodeItem>>>,
    asked: ShardQuestions,
    audit: (Arc<dyn AuditSink>, Arc<Kept>),
    key_log_keys: LogKeys,
) -> Result<Control, NodeError> {
    let options = service_options(config, data_dir, trust_domain, health);
    let (sink, kept) = audit;
    let ShardQuestions { publications, enrolments, key_records, key_log, prekeys, channels } = asked;
    let host = Arc::new(BackupHost::new(config, data_dir, ports.clone(), Arc::clone(&kept)));
    let decisions = Arc::new(Decisions::new(ports.clone()));
    let shown = Arc::new(AuditShown::new(data_dir.audit_dir()));
    let service =
        Service::open(options)?.with_backups(host).with_decisions(decisions).with_key_log(key_log_keys, key_log);
    let service = service.with_audit_log(shown).with_key_records(key_records).with_channels(channels);
    let low = doors::tell_low(ports.clone());
    let service = service.with_prekeys(prekeys, PrekeyAllowance::default(), low).with_audit(sink, kept)?;
    let service = service.with_enrolments(enrolments);
    let (alive, ended) = channel::bounded::<()>(0);
    let sink = move |snapshot: Arc<Snapshot>| {
        // It is dropped with the service's thread.
        let _alive = &alive;
        tell_all(&ports, || NodeItem::Snapshot(Arc::clone(&snapshot)));
    };
    Ok(Control::Here { service: service.spawn_with(sink, publications)?, ended })
}

/// The link of this node to a control service elsewhere, before it is started.
pub(super) fn link(
    config: &Config,
    data_dir: &DataDir,
    trust_domain: TrustDomain,
    health: Health,
    asked: ShardQuestions,
) -> Result<NodeLink, NodeError> {
    let own = certificate(&config.certificate())?;
    let fingerprint = fingerprint(&own);
    let tls =
        tls::link_client_config(certificate(&config.control_certificate())?, own, private_key(&config.private_key())?)?;
    let options = LinkClientOptions {
        control: config.link.control.clone(),
        tls,
        fingerprint,
        trust_domain,
        retention_s: retention_s(config),
        socket_path: config.control_socket(),
    };
    let shown = Arc::new(AuditShown::new(data_dir.audit_dir()));
    Ok(NodeLink::new(options, asked, health, shown))
}

/// Starts the link.
pub(super) fn start_link(link: NodeLink, ports: Vec<ControlPort<Parcel<NodeItem>>>) -> Result<Control, NodeError> {
    let ((ready, is_ready), (alive, ended)) = (channel::bounded(1), channel::bounded(0));
    let link = link.spawn(ShardsOfLink { ports, ready, _alive: alive })?;
    Ok(Control::Linked { link, is_ready, ended })
}

struct ShardsOfLink {
    ports: Vec<ControlPort<Parcel<NodeItem>>>,
    ready: Sender<()>,
    /// Dropped with the thread of the link.
    _alive: Sender<()>,
}

impl LinkSink for ShardsOfLink {
    fn has_news(&self) {
        for port in &self.ports {
            // A shard whose ring is full does not sleep, and looks at the lease before it does anything.
            let _ = port.send_item(NodeItem::Look);
        }
    }

    fn is_ready(&self) {
        // It is told once, and there is room for it.
        let _ = self.ready.try_send(());
    }

    fn is_low(&self, agent: AgentId, stock: PrekeyStock) {
        for port in &self.ports {
            // One that has no room for a notice is told nothing: the owner asks when it connects.
            let _ = port.send_item(NodeItem::PrekeysLow { agent, stock });
        }
    }
}

/// What a shard of a linked node goes by, and for how long.
pub(crate) struct Linked {
    lease: Lease,
    /// The newest snapshot that this shard has taken, and its number.
    taken: u64,
    held: Arc<Snapshot>,
    /// Whether the shard goes by it; else by one that denies.
    is_in_force: bool,
}

impl Linked {
    pub(crate) fn new(lease: Lease) -> Self {
        Self { lease, taken: 0, held: Arc::new(Snapshot::empty()), is_in_force: false }
    }

    /// Returns what the shard is to go by from now on, if that is something else than before: there is a newer one, the time of what
    /// it has is over, or it was confirmed again.
    pub(crate) fn look(&mut self) -> Option<Arc<Snapshot>> {
        let mut is_new = false;
        let is_alive = loop {
            if let Some((number, snapshot)) = self.lease.newest_but(self.taken) {
                (self.taken, self.held, is_new) = (number, snapshot, true);
            }
            let is_alive = self.lease.is_alive_for(self.taken);
            // Confirmed is only what is there to be taken: it came between the two looks.
            if is_alive || self.lease.confirmed() <= self.taken {
                break is_alive;
            }
        };
        if !is_new && is_alive == self.is_in_force {
            return None;
        }
        self.is_in_force = is_alive;
        Some(if is_alive { Arc::clone(&self.held) } else { Arc::new(self.held.lapsed()) })
    }
}

#[cfg(test)]
mod tests;
