//! Every family of a node.

use crate::{Family, Kind};

macro_rules! families {
    ($( $(#[doc = $doc:literal])* $kind:ident $ident:ident = $name:literal, [$($label:literal),*], $help:literal; )+) => {
        $(
            #[doc = $help]
            pub static $ident: Family = Family { name: $name, help: $help, kind: Kind::$kind, labels: &[$($label),*] };
        )+

        /// All of them, in the order of the page.
        pub static ALL: &[&Family] = &[ $( &$ident, )+ ];
    };
}

families! {
    Gauge NODE_INFO = "creto_node_info", ["version"], "Always one; the version stands in its label";
    Gauge NODE_START_SECONDS = "creto_node_start_seconds", [], "When the process started, Unix time";
    Counter NODE_CPU_SECONDS = "creto_node_cpu_seconds", [], "CPU time of all threads of the process, user and system";
    Gauge NODE_RESIDENT_BYTES = "creto_node_resident_bytes", [], "Resident memory of the process";
    Gauge NODE_OPEN_FILES = "creto_node_open_files", [], "File descriptors that the process has open";
    Gauge NODE_READY = "creto_node_ready", [], "Whether every shard serves, and by the directory that there is: one or zero";

    Gauge DIRECTORY_EPOCH = "creto_directory_epoch", [], "Counts the changes of the directory that the shards go by";
    Gauge DIRECTORY_AGENTS = "creto_directory_agents", [], "Agents that are registered";
    Gauge DIRECTORY_CHANNELS = "creto_directory_channels", [], "Channels that there are";

    Gauge SHARD_STATE = "creto_shard_state", ["shard", "state"], "One for the state that the shard is in: starting, serving, slow, full, fenced or stalled";
    Counter SHARD_CPU_SECONDS = "creto_shard_cpu_seconds", ["shard"], "CPU time of the shard's thread";
    Counter SHARD_TURNS = "creto_shard_turns", ["shard"], "Turns of the shard's loop";
    Counter SHARD_PARKS = "creto_shard_parks", ["shard"], "Times that the shard had nothing to do and waited";
    Counter SHARD_WAKES = "creto_shard_wakes", ["shard"], "Times that another shard or thread woke it";

    Gauge NET_CONNECTIONS = "creto_net_connections", ["shard"], "Open connections";
    Counter NET_HANDSHAKES = "creto_net_handshakes", ["shard"], "Handshakes completed";
    Counter NET_HANDSHAKES_DEFERRED = "creto_net_handshakes_deferred", ["shard"], "Handshakes refused, ignored or sent a Retry";
    Counter NET_RECEIVED_BYTES = "creto_net_received_bytes", ["shard"], "Bytes received from the socket";
    Counter NET_RECEIVES = "creto_net_receives", ["shard"], "Receive calls that brought something";
    Counter NET_SENT_BYTES = "creto_net_sent_bytes", ["shard"], "Bytes sent on the socket";
    Counter NET_SENDS = "creto_net_sends", ["shard"], "Send calls, one for up to 64 datagrams of a connection";
    Counter NET_SENDS_BLOCKED = "creto_net_sends_blocked", ["shard"], "Times that the socket's send buffer was full";
    Counter NET_SEND_ERRORS = "creto_net_send_errors", ["shard"], "Send calls that failed";
    Counter NET_DATAGRAMS_FORWARDED = "creto_net_datagrams_forwarded", ["shard"], "Datagrams that came to this shard and belonged to another";
    Counter NET_DATAGRAMS_DROPPED = "creto_net_datagrams_dropped", ["shard"], "Datagrams that could not be forwarded because the ring was full";
    Counter NET_FRAMES = "creto_net_frames", ["shard"], "Frames received on the streams of connections";

    Counter RING_ITEMS_SENT = "creto_ring_items_sent", ["shard"], "Items put into the rings to other shards";
    Counter RING_ITEMS_RECEIVED = "creto_ring_items_received", ["shard"], "Items taken from rings";
    Counter RING_FULL = "creto_ring_full", ["shard"], "Items that found a ring full and waited";

    Counter SUBMIT_BATCHES = "creto_submit_batches", ["shard"], "Signed batches taken in";
    Counter SUBMIT_BYTES = "creto_submit_bytes", ["shard"], "Bytes of signed batches";
    Gauge SUBMIT_WAITING_BYTES = "creto_submit_waiting_bytes", ["shard"], "Bytes taken in and not answered yet";
    Counter SUBMIT_ROOTS_CHECKED = "creto_submit_roots_checked", ["shard"], "Batches whose signatures were checked";
    Counter SUBMIT_BATCHES_VERIFIED = "creto_submit_batches_verified", ["shard"], "Batches whose signatures held";
    Histogram SUBMIT_RECEIVE_SECONDS = "creto_submit_receive_seconds", ["shard"], "From the first bytes of a signed batch to its last";
    Histogram SUBMIT_VERIFY_SECONDS = "creto_submit_verify_seconds", ["shard"], "How long the tree and the signatures of a batch took; with crypto workers, the way there and back too";
    Histogram SUBMIT_ACKNOWLEDGE_SECONDS = "creto_submit_acknowledge_seconds", ["shard"], "From when a batch's messages were known durable until their acknowledgement was handed to the connection";
    Counter AGENT_LOGINS = "creto_agent_logins", ["shard"], "Logins that held";
    Counter AGENT_KEYS_REPLACED = "creto_agent_keys_replaced", ["shard"], "Encryption keys that agents replaced";

    Counter POLICY_MESSAGES_ALLOWED = "creto_policy_messages_allowed", ["shard"], "Messages that policy allowed";
    Histogram POLICY_AUTHORIZE_SECONDS = "creto_policy_authorize_seconds", ["shard"], "How long the decisions about a batch took; batches of one turn share what they took together";
    Counter POLICY_DECISIONS_KEPT = "creto_policy_decisions_kept", ["shard"], "Decisions that were answered from memory";
    Counter POLICY_DECISIONS_MADE = "creto_policy_decisions_made", ["shard"], "Decisions that were made anew";
    Counter POLICY_EVALUATIONS = "creto_policy_evaluations", ["shard"], "Evaluations of a policy that an operator wrote";
    Counter POLICY_EVALUATIONS_FAILED = "creto_policy_evaluations_failed", ["shard"], "Evaluations that failed or did not end in time: denied";
    Counter POLICY_ALLOWED_WITHOUT = "creto_policy_allowed_without", ["shard"], "Decisions that allowed because no policy could be loaded and the configuration says so";
    Counter NODE_REJECTS = "creto_node_rejects", ["shard", "code"], "Refusals, by the name of their code";

    Counter MAILBOX_MESSAGES_DURABLE = "creto_mailbox_messages_durable", ["shard"], "Messages that became durable in a mailbox or a channel";
    Counter MAILBOX_MESSAGES_DUPLICATE = "creto_mailbox_messages_duplicate", ["shard"], "Messages that were durable already";
    Counter MAILBOX_MESSAGES_PUSHED = "creto_mailbox_messages_pushed", ["shard"], "Messages pushed to consumers, repeated pushes included";
    Counter MAILBOX_MESSAGES_SETTLED = "creto_mailbox_messages_settled", ["shard"], "Messages that are done with, durably: acknowledged, expired, given up or purged";
    Counter MAILBOX_MESSAGES_NACKED = "creto_mailbox_messages_nacked", ["shard"], "Messages that consumers asked to have again, later";
    Counter MAILBOX_MESSAGES_EXPIRED = "creto_mailbox_messages_expired", ["shard"], "Messages that expired, durably";
    Counter MAILBOX_MESSAGES_UNTOLD = "creto_mailbox_messages_untold", ["shard"], "Expired messages whose senders asked to be told and could not be";
    Counter MAILBOX_MESSAGES_DEAD = "creto_mailbox_messages_dead", ["shard"], "Messages that became dead letters";
    Counter MAILBOX_MESSAGES_REVIVED = "creto_mailbox_messages_revived", ["shard"], "Dead letters that their owners had delivered again";
    Counter MAILBOX_MESSAGES_VOID = "creto_mailbox_messages_void", ["shard"], "Messages that were not delivered because their senders signed them after they were revoked";
    Counter MAILBOX_NOTICES = "creto_mailbox_notices", ["shard"], "Notices to senders that became durable";
    Histogram MAILBOX_DELIVER_SECONDS = "creto_mailbox_deliver_seconds", ["shard"], "From when a batch's messages were known durable until they were pushed for the first time; of the batches that became durable last";
    Histogram MAILBOX_SETTLE_SECONDS = "creto_mailbox_settle_seconds", ["shard"], "From a push until its consumer had acknowledged the last message of it; of few pushes of a mailbox at a time";
    Gauge MAILBOX_QUEUED_MESSAGES = "creto_mailbox_queued_messages", ["shard"], "Messages that wait in mailboxes and channels";
    Gauge MAILBOX_QUEUED_BYTES = "creto_mailbox_queued_bytes", ["shard"], "Bytes of the messages that wait";
    Gauge MAILBOX_CACHED_BYTES = "creto_mailbox_cached_bytes", ["shard"], "Bytes of waiting messages that are in memory";
    Counter MAILBOX_READ_BACK = "creto_mailbox_read_back", ["shard"], "Messages that had left memory and were read back from the log";
    Counter MAILBOX_UNREADABLE = "creto_mailbox_unreadable", ["shard"], "Messages that could not be read back: damaged, or not given by the disk";

    Counter CHANNEL_MESSAGES_PUBLISHED = "creto_channel_messages_published", ["shard"], "Durable messages that were published in a channel";
    Counter CHANNEL_MESSAGES_PUSHED = "creto_channel_messages_pushed", ["shard"], "Messages of channels pushed to subscribers, repeated pushes included";
    Gauge CHANNEL_SUBSCRIPTIONS = "creto_channel_subscriptions", ["shard"], "Subscriptions to channels, members of groups among them";
    Gauge CHANNEL_READERS = "creto_channel_readers", ["shard"], "Subscriptions that a connection reads";
    Counter CHANNEL_SUBSCRIPTIONS_ENDED = "creto_channel_subscriptions_ended", ["shard"], "Subscriptions that the node decided to end because their agents may not read any more";

    Counter WAL_WRITES = "creto_wal_writes", ["shard"], "Writes to the log that became durable, each with everything that waited";
    Counter WAL_WRITTEN_BYTES = "creto_wal_written_bytes", ["shard"], "Bytes of them";
    Histogram WAL_QUEUE_SECONDS = "creto_wal_queue_seconds", ["shard"], "How long a batch's messages waited, allowed, until the write with them was handed to the disk";
    Histogram WAL_WRITE_SECONDS = "creto_wal_write_seconds", ["shard"], "How long a write took until it was durable";
    Counter WAL_ERRORS = "creto_wal_errors", ["shard"], "Disk operations of any kind that failed";
    Counter WAL_MESSAGES_MOVED = "creto_wal_messages_moved", ["shard"], "Messages that were written again so that the segments that held them could go";
    Gauge WAL_BYTES = "creto_wal_bytes", ["shard"], "Bytes of the log's files";
    Gauge WAL_BYTES_MAX = "creto_wal_bytes_max", ["shard"], "What they can grow to: as configured, or less where the file system has less";
    Gauge WAL_ROOM_BYTES = "creto_wal_room_bytes", ["shard"], "What the log has left for messages; they are refused some group commits before it is zero";
}

/// The family with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Family> {
    ALL.iter().copied().find(|family| family.name == name)
}
