//! What the shards keep of a decision, for control to tell.

use std::time::{Duration, Instant};

use creto_envelope::AgentId;
use creto_io::Parcel;
use creto_io::ring::ControlPort;
use creto_policy::Action;
use creto_service::policy::{DecisionHost, KeptOn};
use crossbeam::channel;

use crate::machine::NodeItem;
use crate::run::tell;

/// How long the shards may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

pub(crate) struct Decisions {
    ports: Vec<ControlPort<Parcel<NodeItem>>>,
}

impl Decisions {
    pub(crate) fn new(ports: Vec<ControlPort<Parcel<NodeItem>>>) -> Self {
        Self { ports }
    }
}

impl DecisionHost for Decisions {
    fn kept(&self, sender: AgentId, action: Action, recipient: AgentId) -> Vec<KeptOn> {
        let (answer, answers) = channel::bounded(self.ports.len());
        for (shard_index, port) in self.ports.iter().enumerate() {
            tell(shard_index, port, NodeItem::Kept { sender, action, recipient, answer: answer.clone() });
        }
        drop(answer);
        let until = Instant::now() + ANSWER;
        let mut kept = Vec::with_capacity(self.ports.len());
        while let Ok(answer) = answers.recv_deadline(until) {
            kept.push(answer);
        }
        kept.sort_by_key(|kept: &KeptOn| kept.shard);
        kept
    }
}
