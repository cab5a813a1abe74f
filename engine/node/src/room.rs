//! What is left of the disk, told to a shard, and what the shard makes of it, told to everybody else.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use creto_service::health::{Health, ShardState};
use creto_shard::Room;

/// Least time between two lines about one shard's room: a log at a mark crosses it back and forth.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Looks after the room of one shard's log.
#[derive(Debug)]
pub(crate) struct RoomWatch {
    shard_index: u16,
    shard_count: u16,
    wal_dir: PathBuf,
    health: Health,
    told: ShardState,
    last_line: Option<Instant>,
}

impl RoomWatch {
    pub(crate) fn new(shard_index: u16, shard_count: u16, wal_dir: PathBuf, health: Health) -> Self {
        Self { shard_index, shard_count, wal_dir, health, told: ShardState::Starting, last_line: None }
    }

    /// This shard's share of what the file system of the log has left: every shard may take as much. Asks the kernel, which
    /// answers from memory.
    pub(crate) fn disk_room(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.wal_dir).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize) / u64::from(self.shard_count))
    }

    /// Takes how much room a shard that has started has.
    pub(crate) fn tell(&mut self, room: &Room) {
        let (state, cause) = match room {
            Room::Open => (ShardState::Serving, String::new()),
            Room::Slow { pause_ms } => (
                ShardState::Slow,
                format!(
                    "less than a quarter of the log's room is left, senders are asked to pause {pause_ms} ms: have messages \
                     read, raise wal.wal_bytes_max, or free space under {}",
                    self.wal_dir.display()
                ),
            ),
            Room::Full => (
                ShardState::Full,
                format!(
                    "the log has no room, messages are refused and reading goes on: have messages read, raise \
                     wal.wal_bytes_max, or free space under {}",
                    self.wal_dir.display()
                ),
            ),
            Room::Fenced { cause } => (ShardState::Fenced, cause.clone()),
        };
        if state == self.told {
            return;
        }
        self.health.set(self.shard_index, state, cause.as_str());
        let is_first = self.told == ShardState::Starting;
        self.told = state;
        // A fence has its own line, which the main thread writes.
        let is_worth_a_line = state != ShardState::Fenced && !(is_first && state == ShardState::Serving);
        if is_worth_a_line && self.last_line.is_none_or(|line| line.elapsed() > LINE_EVERY) {
            self.last_line = Some(Instant::now());
            match state {
                ShardState::Serving => tracing::info!(shard = self.shard_index, "the log has room again"),
                _ => tracing::warn!(shard = self.shard_index, "{cause}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shard_says_of_its_room_is_what_the_control_api_tells() {
        let folder = tempfile::tempdir().unwrap();
        let health = Health::new(1);
        let mut watch = RoomWatch::new(0, 1, folder.path().to_owned(), health.clone());
        assert!(watch.disk_room().unwrap() > 0);
        let mut told = |room: Room| {
            watch.tell(&room);
            let readiness = health.readiness();
            (readiness.ready, readiness.shards[0].state)
        };
        assert_eq!(told(Room::Open), (true, ShardState::Serving));
        assert_eq!(told(Room::Slow { pause_ms: 10 }), (true, ShardState::Slow));
        assert_eq!(told(Room::Full), (true, ShardState::Full));
        assert_eq!(told(Room::Open), (true, ShardState::Serving));
        assert_eq!(told(Room::Fenced { cause: "the disk".to_owned() }), (false, ShardState::Fenced));
    }
}
