//! The write-ahead log as a [`RecordLog`].

use super::{Action, ActionId, AppendClass, AppendError, DiskError, Durable, Fenced, HeldLog, Space, Wal};
use crate::log::{RecordLog, SealedEnd};
use crate::lsn::{Epoch, RecordSequence, SegmentNumber};
use crate::mailboxes::LogExtent;
use crate::record::Record;

impl RecordLog for Wal {
    fn append(&mut self, record: Record) -> Result<RecordSequence, AppendError> {
        Self::append(self, record)
    }

    fn check_room(&self, class: AppendClass, bytes: usize) -> Result<(), AppendError> {
        Self::check_room(self, class, bytes)
    }

    fn check_append(&self, record: &Record) -> Result<(), AppendError> {
        Self::check_append(self, record)
    }

    fn record_bytes_max(&self) -> usize {
        Self::record_bytes_max(self)
    }

    fn next_action(&mut self, now_ms: u64) -> Option<Action> {
        Self::next_action(self, now_ms)
    }

    fn completed(&mut self, id: ActionId, outcome: Result<(), DiskError>) -> Result<(), Fenced> {
        Self::completed(self, id, outcome)
    }

    fn next_durable(&mut self) -> Option<Durable> {
        Self::next_durable(self)
    }

    fn appended(&self) -> RecordSequence {
        Self::appended(self)
    }

    fn durable(&self) -> RecordSequence {
        Self::durable(self)
    }

    fn epoch(&self) -> Epoch {
        Self::epoch(self)
    }

    fn is_started(&self) -> bool {
        Self::is_started(self)
    }

    fn fenced(&self) -> Option<&Fenced> {
        Self::fenced(self)
    }

    fn confirm(&mut self) {
        Self::confirm(self);
    }

    fn read(&mut self, segment: SegmentNumber, offset: u64, bytes: usize) -> ActionId {
        Self::read(self, segment, offset, bytes)
    }

    fn extent(&self) -> LogExtent {
        let extent = LogExtent::new(self.space(), self.spare_bytes(), self.active_segment(), self.segment_bytes());
        LogExtent { is_giving_back: self.is_giving_back(), ..extent }
    }

    fn log_start(&self) -> SegmentNumber {
        Self::log_start(self)
    }

    fn trim(&mut self, log_start: SegmentNumber, carry_over: Vec<Record>) -> Result<(), AppendError> {
        Self::trim(self, log_start, carry_over)
    }

    fn is_trimming(&self) -> bool {
        Self::is_trimming(self)
    }

    fn space(&self) -> Space {
        Self::space(self)
    }

    fn set_disk_room(&mut self, bytes: u64) {
        Self::set_disk_room(self, bytes);
    }

    fn tick(&mut self, bytes_max: u64) {
        self.retry_space();
        if self.space().bytes > bytes_max {
            self.drop_spare();
        }
    }

    fn seal(&mut self) {
        Self::seal(self);
    }

    fn is_sealed(&self) -> bool {
        Self::is_sealed(self)
    }

    fn end(&self) -> Option<SealedEnd> {
        Self::end(self)
    }

    fn hold(&mut self) -> Option<HeldLog> {
        Self::hold(self)
    }

    fn let_go(&mut self) {
        Self::let_go(self);
    }

    fn held(&self) -> Option<&HeldLog> {
        Self::held(self)
    }

    fn held_back_bytes(&self) -> u64 {
        Self::held_back_bytes(self)
    }
}
