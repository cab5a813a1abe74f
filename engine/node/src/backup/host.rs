//! The node as its control service sees it when a backup is taken.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_audit_store::{Moment, StoreError};
use creto_io::Parcel;
use creto_io::ring::ControlPort;
use creto_service::api::{AuditMoment, BackupSource, HeldShard};
use creto_service::backup::{BackupHost, HoldRequest, NotHeld};
use creto_service::limits::BACKUP_LEASE;
use creto_service::outbox::Kept;
use creto_shard::{HoldAnswer, HoldEnd, HoldId};
use crossbeam::channel;

use crate::config::Config;
use crate::data_dir::{AUDIT_DIR, DataDir};
use crate::machine::NodeItem;
use crate::run::tell;

/// How long the shards may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(crate) struct Host {
    source: BackupSource,
    ports: Vec<ControlPort<Parcel<NodeItem>>>,
    /// What control told and the audit log keeps.
    kept: Arc<Kept>,
}

impl Host {
    pub(crate) fn new(
        config: &Config,
        data_dir: &DataDir,
        ports: Vec<ControlPort<Parcel<NodeItem>>>,
        kept: Arc<Kept>,
    ) -> Self {
        let wal_dir = data_dir.shard_dir(0).parent().map(absolute).unwrap_or_default();
        Self { source: BackupSource { wal_dir, ..source_of(config) }, ports, kept }
    }
}

/// The audit log of a node with this data folder as it is now; none before anything is signed.
pub(super) fn audit_of(data_dir: &Path) -> Result<Option<AuditMoment>, StoreError> {
    let moment = Moment::read(&data_dir.join(AUDIT_DIR))?;
    Ok(moment.map(|moment| AuditMoment { checkpoint: moment.checkpoint(), commit: moment.commit() }))
}

/// What a node of this configuration consists of.
pub(crate) fn source_of(config: &Config) -> BackupSource {
    BackupSource {
        data_dir: absolute(&config.data_dir()),
        wal_dir: absolute(&config.wal_dir()),
        certificate: absolute(&config.certificate()),
        private_key: absolute(&config.private_key()),
        configuration: config.to_toml(),
        audit: None,
    }
}

/// Whoever is told may have another working folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl BackupHost for Host {
    fn source(&self) -> Result<BackupSource, NotHeld> {
        let audit = audit_of(&self.source.data_dir)
            .map_err(|error| NotHeld::Unavailable(format!("the audit log cannot be read: {error}")))?;
        Ok(BackupSource { audit, ..self.source.clone() })
    }

    fn hold(&self, backup: u64, request: HoldRequest) -> Result<Vec<HeldShard>, NotHeld> {
        let (answer, answers) = channel::bounded(self.ports.len());
        // What the audit log does not have by now stays in the outbox until the directory is copied.
        match request {
            HoldRequest::Begin | HoldRequest::Renew => self.kept.hold(BACKUP_LEASE),
            HoldRequest::End => self.kept.let_go(),
        }
        let request = match request {
            HoldRequest::Begin => creto_shard::HoldRequest::Begin,
            HoldRequest::Renew => creto_shard::HoldRequest::Renew,
            HoldRequest::End => creto_shard::HoldRequest::End,
        };
        for (shard_index, port) in self.ports.iter().enumerate() {
            tell(shard_index, port, NodeItem::Hold { id: HoldId(backup), request, answer: answer.clone() });
        }
        drop(answer);
        let until = Instant::now() + ANSWER;
        let mut shards = Vec::with_capacity(self.ports.len());
        while shards.len() < self.ports.len() {
            let answered = answers.recv_deadline(until);
            let (shard, answer) = answered.map_err(|_| NotHeld::Unavailable("a shard does not answer".to_owned()))?;
            shards.push(held(shard, answer)?);
        }
        shards.sort_by_key(|held| held.shard);
        Ok(shards)
    }
}

fn held(shard: u16, answer: HoldAnswer) -> Result<HeldShard, NotHeld> {
    let held = match answer {
        HoldAnswer::Held(held) => held,
        HoldAnswer::NotStarted => return Err(NotHeld::Unavailable(format!("shard {shard} is starting"))),
        HoldAnswer::Over(why) => {
            let why = match why {
                HoldEnd::SpaceNeeded => "needed the space that the backup kept; raise wal.wal_bytes_max, or its --rate",
                HoldEnd::Lapsed => "did not hear of the backup in time",
                HoldEnd::Unknown => "was started, or another backup was begun, since",
            };
            return Err(NotHeld::Over(format!("shard {shard} {why}")));
        }
    };
    Ok(HeldShard {
        shard,
        first_segment: held.first_segment.0,
        last_segment: held.last_segment.0,
        end_offset: held.end_offset,
        end_lsn: held.end_lsn.0,
        epoch: held.epoch.0,
    })
}
