//! Answers for a shard whose ring has no room. Whoever brings them serves all shards and waits for none of them: they lie here until the
//! shard comes round.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use creto_io::Parcel;
use creto_io::ring::ControlPort;

use crate::machine::NodeItem;
use crate::run::tell;

/// What lies there for one shard: no more than it has asked and was not answered.
#[derive(Debug, Default)]
pub(crate) struct Late {
    items: Mutex<VecDeque<NodeItem>>,
    has_some: AtomicBool,
}

impl Late {
    fn put(&self, item: NodeItem) {
        // What it guards is whole at every moment.
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.push_back(item);
        self.has_some.store(true, Ordering::Release);
    }

    /// Everything that lies there.
    pub(crate) fn take(&self) -> VecDeque<NodeItem> {
        if !self.has_some.load(Ordering::Acquire) {
            return VecDeque::new();
        }
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_some.store(false, Ordering::Release);
        std::mem::take(&mut *items)
    }
}

/// The way of answers to one shard.
#[derive(Clone)]
pub(crate) struct Way {
    shard_index: u16,
    port: ControlPort<Parcel<NodeItem>>,
    /// Of a link, whose snapshots do not come by the ring; behind the snapshots of a service an answer has to stay in it.
    late: Option<Arc<Late>>,
}

impl Way {
    pub(crate) fn new(shard_index: u16, port: ControlPort<Parcel<NodeItem>>, late: Option<Arc<Late>>) -> Self {
        Self { shard_index, port, late }
    }

    /// Hands an answer to the shard.
    pub(crate) fn tell(&self, item: NodeItem) {
        let Some(late) = &self.late else { return tell(usize::from(self.shard_index), &self.port, item) };
        if let Err(back) = self.port.send_item(item) {
            late.put(back);
            // It may have emptied its ring since, and gone to sleep. One that has no room for this does not sleep.
            let _ = self.port.send_item(NodeItem::Look);
        }
    }
}

#[cfg(test)]
mod tests {
    use creto_io::ring::mesh;
    use creto_shard::ConnectionId;

    use super::*;

    fn answer(number: u64) -> NodeItem {
        NodeItem::KeyRecordPublished { connection: ConnectionId(number), answer: Ok(1) }
    }

    #[test]
    fn answers_to_a_shard_that_takes_nothing_wait_for_it_and_hold_nobody_up() {
        let ports = mesh::<Parcel<NodeItem>>(1, 4);
        let late = Arc::new(Late::default());
        let way = Way::new(0, ports[0].control_port(), Some(Arc::clone(&late)));
        let begun = std::time::Instant::now();
        (0..100).for_each(|number| way.tell(answer(number)));
        assert!(begun.elapsed() < std::time::Duration::from_secs(1), "nothing waits for the shard");
        let numbers: Vec<_> = late
            .take()
            .into_iter()
            .map(|item| match item {
                NodeItem::KeyRecordPublished { connection, .. } => connection.0,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(numbers, (4..100).collect::<Vec<_>>(), "none is lost");
        assert!(late.take().is_empty());
    }
}
