//! Who is in the demo: agents of one organization, one of which is revoked, and a stranger.

use std::sync::Arc;
use std::time::Duration;

use creto_agent::{Agent, AgentId, AgentKeys, AgentName, ConnectOptions, SignedKeyRecord, TrustDomain};
use creto_service::client::Client;

use super::node::NodeHost;
use crate::client::{connect_failure, control_failure, keys_failure, keys_path};
use crate::exit::{Exit, Failure};
use crate::moment::now_ms;

/// Senders come first: their position is their number.
const SENDERS: [&str; 2] = ["acme/planner", "acme/researcher"];
/// Their mailboxes are on different shards when there are two.
const RECEIVERS: [&str; 2] = ["acme/executor", "acme/critic"];
const STRANGER: &str = "rival/scout";
/// It is revoked.
const LEAVER: &str = "acme/contractor";

/// Folder of keys and sessions in the node's.
pub(super) const AGENTS_FOLDER: &str = "agents";
const DAY_MS: u64 = 86_400_000;
/// Few enough that what is in flight at a kill is a second's work, not everything.
const IN_FLIGHT_MESSAGES: u32 = 1_024;
/// An agent with nothing to say asks every third of it whether the node is there: it finds a new one within a second.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// One agent that was registered.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) keys: Arc<AgentKeys>,
    pub(super) record: Arc<SignedKeyRecord>,
}

impl Member {
    pub(super) fn name(&self) -> &AgentName {
        self.keys.name()
    }

    pub(super) fn id(&self) -> AgentId {
        self.keys.id()
    }
}

/// Everybody.
#[derive(Clone, Debug)]
pub(super) struct Cast {
    pub(super) senders: Vec<Member>,
    pub(super) receivers: Vec<Member>,
    pub(super) stranger: Member,
    pub(super) leaver: Member,
}

impl Cast {
    /// Makes the keys of everybody and registers them over the node's control socket.
    pub(super) async fn register(host: &NodeHost) -> Result<Self, Failure> {
        let client = Client::new(host.control_socket());
        let mut members = Vec::new();
        for name in SENDERS.iter().chain(&RECEIVERS).chain([&STRANGER, &LEAVER]) {
            let name = AgentName::parse(name).expect("the names of the cast are names");
            let keys = AgentKeys::generate(name, TrustDomain::default()).map_err(|error| keys_failure(&error))?;
            let now_ms = now_ms();
            let record = keys.signed_record(keys.record_version(), now_ms.saturating_sub(DAY_MS), now_ms + 30 * DAY_MS);
            client.register(&record).await.map_err(|error| control_failure(&error))?;
            members.push(Member { keys: Arc::new(keys), record: Arc::new(record) });
        }
        let leaver = members.pop().expect("the leaver is the last");
        let stranger = members.pop().expect("the stranger comes before");
        let receivers = members.split_off(SENDERS.len());
        Ok(Self { senders: members, receivers, stranger, leaver })
    }

    /// Connects a member as an application does whose keys are in a file: what it remembers of its sessions is on disk.
    pub(super) async fn connect(host: &NodeHost, member: &Member) -> Result<Agent, Failure> {
        let mut state = keys_path(&host.folder().join(AGENTS_FOLDER), member.name()).into_os_string();
        state.push(".sessions");
        let mut options =
            ConnectOptions::new(host.address(), host.certificate(), Arc::clone(&member.keys)).state(state);
        options.in_flight_messages = IN_FLIGHT_MESSAGES;
        options.idle_timeout = IDLE_TIMEOUT;
        Agent::connect(options).await.map_err(|error| connect_failure(&error))
    }

    /// Position of a sender.
    pub(super) fn sender_at(&self, id: AgentId) -> Option<usize> {
        self.senders.iter().position(|sender| sender.id() == id)
    }

    /// Writes the keys into a folder, as `creto agent create` does.
    pub(super) fn save_keys(&self, folder: &std::path::Path) -> Result<(), Failure> {
        for member in self.senders.iter().chain(&self.receivers).chain([&self.stranger, &self.leaver]) {
            let path = keys_path(folder, member.name());
            let parent = path.parent().unwrap_or(folder);
            std::fs::create_dir_all(parent).map_err(|error| Failure::file("make the folder", parent, &error))?;
            member.keys.save(&path).map_err(|error| Failure::new(Exit::System, error.to_string(), ""))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_shards_own_a_mailbox_each() {
        let shard = |name: &str| {
            let id = AgentId::derive(&TrustDomain::default(), &AgentName::parse(name).unwrap());
            id.partition() % 2
        };
        assert_ne!(shard(RECEIVERS[0]), shard(RECEIVERS[1]));
    }
}
