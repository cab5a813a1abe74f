//! The shards of a node that starts: each with its log, recovered, and with what the configuration sets for it.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use creto_io::probe::Choice;
use creto_shard::limits::ConnectionLimits;
use creto_shard::{Log, Placement, Retention, Shard, ShardIndex};
use creto_store::{DedupConfig, FileSource, Mailboxes, MailboxesConfig, RedeliveryConfig, Wal, WalConfig};

use super::{NodeError, random, unix_ms};
use crate::audit::AuditLog;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::recovery::{RecoveryProgress, WatchedSource};

/// What the logs held when the node started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Records read.
    pub records: u64,
    /// Messages that wait in mailboxes.
    pub messages: u64,
    /// How long it took.
    pub took: Duration,
}

/// Recovers the logs of all shards, each on a thread of its own.
pub(super) fn recover_shards(
    config: &Config,
    writes: Choice,
    data_dir: &DataDir,
    shard_count: u16,
    audit: &AuditLog,
) -> Result<(Vec<Shard>, Recovered), NodeError> {
    let begun = Instant::now();
    let progress = RecoveryProgress::default();
    let recover = |shard_index| -> Result<(Shard, u64, u64), NodeError> {
        let mut source = WatchedSource::new(FileSource::new(data_dir.shard_dir(shard_index)), &progress);
        let mut mailboxes = Mailboxes::new(mailboxes_config(config), random_pair()?);
        let mut records = 0;
        let on_noted = |position, noted| {
            records += 1;
            mailboxes.note(position, noted);
        };
        let recovered = creto_store::recover_noted(&mut source, u32::from(shard_index), on_noted)
            .map_err(|error| NodeError::Recovery { shard_index, error })?;
        mailboxes.recovered();
        let caught_up =
            audit.catch_up(&mut source, shard_index).map_err(|error| NodeError::Recovery { shard_index, error })??;
        if caught_up > 0 {
            tracing::info!(shard_index, "{caught_up} events of its log are new to the audit log");
        }
        let messages = mailboxes.messages();
        let wal = Wal::open(wal_config(config, writes), recovered, random_pair()?[0], unix_ms());
        let limits = ConnectionLimits {
            in_flight_messages_max: config.net.in_flight_messages_max,
            batch_messages_max: config.net.batch_messages_max,
            batch_bytes_max: u32::try_from(config.net.batch_bytes_max).unwrap_or(u32::MAX),
        };
        let retention_ms = u64::try_from(config.mailbox.retention.as_millis()).unwrap_or(u64::MAX);
        let log = Log::new(wal, mailboxes).with_retention(Retention(retention_ms));
        let decisions = config.policy.decisions_max as usize;
        let (index, placement) = (ShardIndex(shard_index), Placement::new(shard_count));
        let shard = Shard::with_decision_entries(index, placement, limits, log, decisions)
            .with_tree_digest(config.crypto.tree_digest);
        creto_io::memory::prefer_huge_pages(shard.decision_memory());
        Ok((shard, records, messages))
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let recover = &recover;
        let (finish, finished) = mpsc::channel::<()>();
        let spawn = |shard_index| {
            let finish = finish.clone();
            scope.spawn(move || {
                // Gone when the last shard is done.
                let _finish = finish;
                recover(shard_index)
            })
        };
        let threads: Vec<_> = (0..shard_count).map(spawn).collect();
        drop(finish);
        progress.report(&finished);
        threads.into_iter().map(|thread| thread.join().expect("a panic in recovery ends the process")).collect()
    });
    let mut shards = Vec::with_capacity(results.len());
    let mut recovered = Recovered::default();
    for result in results {
        let (shard, records, messages) = result?;
        recovered.records += records;
        recovered.messages += messages;
        shards.push(shard);
    }
    recovered.took = begun.elapsed();
    Ok((shards, recovered))
}

fn wal_config(config: &Config, writes: Choice) -> WalConfig {
    WalConfig {
        segment_bytes: config.wal.segment_bytes,
        wal_bytes_max: config.wal.wal_bytes_max,
        writes_in_flight_max: writes.writes_in_flight,
        ..WalConfig::default()
    }
}

fn mailboxes_config(config: &Config) -> MailboxesConfig {
    MailboxesConfig {
        mailbox_messages_max: u64::from(config.mailbox.messages_max),
        mailbox_bytes_max: config.mailbox.bytes_max,
        shard_bytes_max: config.mailbox.shard_bytes_max,
        cache_bytes: usize::try_from(config.mailbox.cache_bytes).unwrap_or(usize::MAX),
        dedup: DedupConfig {
            sender_ids_max: config.mailbox.dedup_window_messages as usize,
            window_ms: u64::try_from(config.mailbox.dedup_window.as_millis()).unwrap_or(u64::MAX),
            ..DedupConfig::default()
        },
        redelivery: RedeliveryConfig {
            base_us: u64::from(config.mailbox.redelivery_base_ms) * 1_000,
            max_us: u64::from(config.mailbox.redelivery_max_ms) * 1_000,
            deliveries_max: u8::try_from(config.mailbox.max_deliveries).unwrap_or(u8::MAX),
        },
        ..MailboxesConfig::default()
    }
}

fn random_pair() -> Result<[u64; 2], NodeError> {
    let bytes: [u8; 16] = random()?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok([u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])])
}
