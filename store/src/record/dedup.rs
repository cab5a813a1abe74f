//! Ids to remember, as they stand in the log.

use super::{Dedup, DedupSender, RecordError};
use crate::id::{MessageId, SenderId};
use crate::layout::{Reader, Writer, length_u32, length_usize};
use crate::limits::{DEDUP_RECORD_IDS_MAX, DEDUP_RECORD_SENDERS_MAX};

impl Dedup {
    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.u64(self.next_sequence);
        writer.u32(length_u32(self.senders.len()));
        writer.u32(0);
        for sender in &self.senders {
            writer.put(&sender.sender.0);
            writer.u64(sender.floor_ms);
            writer.u32(length_u32(sender.ids.len()));
            writer.u32(0);
            for id in &sender.ids {
                writer.put(&id.0);
            }
        }
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let fixed = (|| Some((reader.u64()?, reader.u32()?, reader.u32()?)))();
        let (next_sequence, sender_count, reserved) = fixed.ok_or(RecordError::Truncated)?;
        if reserved != 0 {
            return Err(RecordError::NotZero);
        }
        let sender_count = length_usize(sender_count);
        if sender_count > DEDUP_RECORD_SENDERS_MAX {
            return Err(RecordError::OverLimit);
        }
        let mut ids_left = DEDUP_RECORD_IDS_MAX;
        let senders = (0..sender_count).map(|_| DedupSender::parse(reader, &mut ids_left)).collect::<Result<_, _>>()?;
        Ok(Self { next_sequence, senders })
    }
}

impl DedupSender {
    fn parse(reader: &mut Reader<'_>, ids_left: &mut usize) -> Result<Self, RecordError> {
        let fixed = (|| Some((reader.array()?, reader.u64()?, reader.u32()?, reader.u32()?)))();
        let (sender, floor_ms, id_count, reserved) = fixed.ok_or(RecordError::Truncated)?;
        if reserved != 0 {
            return Err(RecordError::NotZero);
        }
        let id_count = length_usize(id_count);
        *ids_left = ids_left.checked_sub(id_count).ok_or(RecordError::OverLimit)?;
        if reader.left() / 16 < id_count {
            return Err(RecordError::Truncated);
        }
        let ids = (0..id_count).map_while(|_| reader.array().map(MessageId)).collect();
        Ok(Self { sender: SenderId(sender), floor_ms, ids })
    }
}
