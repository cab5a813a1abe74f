//! The log in memory needs no medium: its writes are reported, its reads are answered from itself.

use bytes::Bytes;
use creto_store::conformance::{Handed, Medium, Opened, Random};
use creto_store::{Action, Epoch, MemoryLog, WalConfig};

use super::broken::AsDisk;

pub(super) struct MemoryMedium(WalConfig);

impl MemoryMedium {
    pub(super) fn new(seed: u64) -> Self {
        Self(super::config(seed))
    }
}

impl Medium for MemoryMedium {
    type Log = MemoryLog;

    const KEEPS: bool = false;

    fn open(&mut self, _: &mut Random) -> Result<Opened<MemoryLog>, String> {
        let log = MemoryLog::open(self.0.clone(), 3, Epoch(1), crate::node::NOW_MS);
        Ok(Opened { log, recovered: Vec::new() })
    }

    fn carry_out(&mut self, log: &MemoryLog, handed: &Handed) -> Bytes {
        match handed.action {
            Action::Read { segment, offset, bytes, .. } => log.bytes_at(segment, offset, bytes).unwrap_or_default(),
            _ => Bytes::new(),
        }
    }

    fn fail(&mut self, _: &Handed, _: &mut Random) {}

    fn stop(&mut self, _: Vec<Handed>, _: &mut Random) {
        unreachable!("it keeps nothing over a stop");
    }
}

impl AsDisk for MemoryMedium {
    fn take_everything(&mut self) {
        (self.0.pending_records_max, self.0.pending_bytes_max) = (usize::MAX, usize::MAX);
    }
}
