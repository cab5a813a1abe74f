//! The kinds of events: one table, from which bytes, names and text are made.

use creto_envelope::{AgentId, KeyId, MessageId};

use super::field::{
    Action, ChannelId, Code, DeathCause, Digest, ExpiryCause, Field, KindOf, Outcome, Peer, RotationMode, Rule, Shown,
    TimeMs, TokenId,
};
use crate::limits::EVENT_FIELDS_BYTES_MAX;
use crate::reader::Reader;

macro_rules! events {
    ($(
        $(#[doc = $doc:literal])+
        $number:literal $word:literal $name:ident { $( $(#[doc = $field_doc:literal])+ $field:ident: $type:ident, )* }
    )*) => {
        /// What happened. The number of a kind never changes its meaning and is never used again.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum What { $( $(#[doc = $doc])+ $name { $( $(#[doc = $field_doc])+ $field: $type, )* }, )* }

        /// A kind of event, without what happened.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct Kind {
            /// Its number in the bytes.
            pub number: u8,
            /// Its name in text and JSON.
            pub name: &'static str,
            /// Bytes of its fields.
            pub fields_bytes: usize,
            /// Names and sizes of its fields, in order.
            pub fields: &'static [(&'static str, usize)],
        }

        impl Kind {
            /// All kinds, in ascending order.
            pub const ALL: &[Self] = &[ $( Self {
                number: $number,
                name: $word,
                fields_bytes: 0 $( + <$type as Field>::BYTES )*,
                fields: &[ $( (stringify!($field), <$type as Field>::BYTES), )* ],
            }, )* ];
        }

        impl What {
            /// Number of the kind in the bytes.
            #[must_use]
            pub fn number(&self) -> u8 {
                match self { $( Self::$name { .. } => $number, )* }
            }

            /// Name of the kind in text and JSON.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $( Self::$name { .. } => $word, )* }
            }

            pub(crate) fn put(&self, out: &mut Vec<u8>) {
                match *self { $( Self::$name { $($field),* } => { $( Field::put($field, out); )* } )* }
            }

            /// `Err` for a kind that is not known, `Ok(None)` when its fields end early or have no meaning.
            pub(crate) fn take(number: u8, reader: &mut Reader<'_>) -> Result<Option<Self>, UnknownKind> {
                match number {
                    $( $number => Ok((|| Some(Self::$name { $( $field: <$type as Field>::take(reader)?, )* }))()), )*
                    _ => Err(UnknownKind),
                }
            }

            /// Names each field and shows it, in order.
            pub fn visit(&self, mut field: impl FnMut(&'static str, Shown)) {
                match *self { $( Self::$name { $($field),* } => { $( field(stringify!($field), Field::shown($field)); )* } )* }
            }
        }

        $( const _: () = assert!((0 $( + <$type as Field>::BYTES )*) <= EVENT_FIELDS_BYTES_MAX); )*
    };
}

pub(crate) struct UnknownKind;

events! {
    /// A message is durable: it was acknowledged to its sender, or is about to be.
    1 "message_accepted" Accepted {
        /// Who signed it.
        sender: AgentId,
        /// In whose mailbox it is.
        recipient: AgentId,
        /// Its id.
        message_id: MessageId,
        /// The channel it was published in; zero: none.
        channel: ChannelId,
        /// The number that its shard gave it: what the later events of this source call it by.
        sequence: u64,
        /// Bytes of its envelope, as signed.
        envelope_bytes: u32,
        /// Version of the sender's key record that verified it; zero where the log does not say it.
        key_version: u32,
        /// Its priority, 0 to 3.
        priority: u8,
        /// The envelope's kind, as a number.
        message_kind: u8,
    }
    /// Its consumer acknowledged a message: it was delivered.
    2 "message_delivered" Delivered {
        /// Whose mailbox.
        mailbox: AgentId,
        /// The message.
        sequence: u64,
    }
    /// A message's time was over before it was acknowledged.
    3 "message_expired" Expired {
        /// Whose mailbox.
        mailbox: AgentId,
        /// The message.
        sequence: u64,
    }
    /// A message is kept and not delivered any more.
    4 "message_dead" DeadLettered {
        /// Whose mailbox.
        mailbox: AgentId,
        /// The message.
        sequence: u64,
        /// What its consumer gave as reason: the consumer's own number; zero: none.
        reason: u16,
        /// Who gave it up.
        cause: DeathCause,
        /// Deliveries of it that failed; stays at 255.
        deliveries: u8,
    }
    /// A message was given up after too many deliveries, and is not kept.
    5 "message_given_up" GivenUp {
        /// Whose mailbox.
        mailbox: AgentId,
        /// The message.
        sequence: u64,
    }
    /// A dead letter is to be delivered again.
    6 "message_revived" Revived {
        /// Whose mailbox.
        mailbox: AgentId,
        /// The message.
        sequence: u64,
    }
    /// Its owner deleted a dead letter.
    7 "message_purged" Purged {
        /// Whose mailbox.
        mailbox: AgentId,
        /// The message.
        sequence: u64,
    }
    /// The node put a notice into a sender's mailbox, about a message of its that expired. The notice has a sequence of its own.
    8 "notice_queued" Noticed {
        /// Whose mailbox: that of the expired message's sender.
        mailbox: AgentId,
        /// Whom the message was for.
        recipient: AgentId,
        /// The message that expired.
        message_id: MessageId,
        /// The notice's own number.
        sequence: u64,
        /// Which time was over.
        cause: ExpiryCause,
    }
    /// Messages were refused when they came in. The refusals of one batch for one reason are one event.
    9 "submit_refused" SubmitRefused {
        /// Who sent them, by their login.
        sender: AgentId,
        /// Whom the first one was for; zero where that could not be read.
        recipient: AgentId,
        /// The id of the first one; zero where that could not be read.
        message_id: MessageId,
        /// Version of the key record they were signed with; zero where that could not be read.
        key_version: u32,
        /// How many.
        count: u32,
        /// Why.
        code: Code,
    }
    /// A queued message is not handed to its recipient: who may talk to whom has changed since it was accepted.
    10 "delivery_denied" DeliveryDenied {
        /// Who signed it.
        sender: AgentId,
        /// Whose mailbox.
        recipient: AgentId,
        /// The message's id.
        message_id: MessageId,
        /// The message.
        sequence: u64,
        /// Why.
        code: Code,
    }
    /// A signature did not hold.
    11 "signature_failure" SignatureFailure {
        /// Whose signature it was said to be.
        claimed: AgentId,
        /// Who sent it, by their login; zero before a login.
        sender: AgentId,
        /// From where.
        peer: Peer,
        /// Version of the key record that it was held against; zero: none.
        key_version: u32,
        /// How many messages it was to cover.
        count: u32,
        /// Which check failed.
        code: Code,
    }
    /// An agent proved who it is on a connection.
    12 "login_accepted" LoginAccepted {
        /// The agent.
        agent: AgentId,
        /// From where.
        peer: Peer,
        /// The connection's number on this source.
        connection: u64,
        /// Version of its key record.
        key_version: u32,
    }
    /// A login was refused.
    13 "login_failed" LoginFailed {
        /// Who it was said to be.
        claimed: AgentId,
        /// From where.
        peer: Peer,
        /// The connection's number on this source.
        connection: u64,
        /// Why.
        code: Code,
    }
    /// A connection was closed because its agent may not act any more.
    14 "connection_closed" ConnectionClosed {
        /// The agent.
        agent: AgentId,
        /// The connection's number on this source.
        connection: u64,
        /// Why: revoked, suspended, its key replaced.
        code: Code,
    }
    /// An agent began to read a mailbox or a channel.
    15 "subscribed" Subscribed {
        /// The agent.
        agent: AgentId,
        /// The channel; zero: its own mailbox.
        channel: ChannelId,
        /// The connection's number on this source.
        connection: u64,
    }
    /// An agent does not read a mailbox or a channel any more.
    16 "unsubscribed" Unsubscribed {
        /// The agent.
        agent: AgentId,
        /// The channel; zero: its own mailbox.
        channel: ChannelId,
        /// The connection's number on this source.
        connection: u64,
        /// Why; zero: it wanted to.
        code: Code,
    }
    /// A shard's log was opened.
    17 "shard_started" ShardStarted {
        /// The log's epoch that begins.
        epoch: u64,
        /// The last frame of the log that was found again.
        recovered_through: u64,
    }
    /// A shard's log was sealed: nothing is accepted after it.
    18 "shard_stopped" ShardStopped {
        /// The log's epoch that ends.
        epoch: u64,
        /// The last frame of the log.
        last_frame: u64,
    }
    /// A shard's log was fenced, because a write or a sync failed: nothing more is acknowledged there.
    19 "shard_fenced" ShardFenced {
        /// The log's epoch.
        epoch: u64,
    }
    /// Events of one kind and for one reason were not told one by one, because there were too many of them. Any source tells it.
    20 "events_merged" EventsMerged {
        /// What they would have been.
        kind: KindOf,
        /// Why.
        code: Code,
        /// How many there were, or how much they would have counted.
        count: u32,
        /// When the first of them was.
        since: TimeMs,
    }

    /// An agent was registered. The event's text is its name.
    64 "agent_registered" AgentRegistered {
        /// The agent.
        agent: AgentId,
        /// Who did it; zero: whoever runs the node, over its socket; the agent itself: over the network, with a token.
        actor: AgentId,
        /// Its encryption key.
        key_id: KeyId,
        /// When its validity begins.
        valid_from: TimeMs,
        /// When its validity ends.
        valid_until: TimeMs,
        /// Version of its key record.
        key_version: u32,
    }
    /// An agent's type, roles or capabilities were changed.
    65 "agent_changed" AgentChanged {
        /// The agent.
        agent: AgentId,
        /// Who did it; zero: whoever runs the node.
        actor: AgentId,
        /// SHA-256 of its attributes as the directory stores them.
        attributes: Digest,
    }
    /// An agent may not act for now.
    66 "agent_suspended" AgentSuspended {
        /// The agent.
        agent: AgentId,
        /// Who did it; zero: whoever runs the node.
        actor: AgentId,
    }
    /// An agent that was suspended may act again.
    67 "agent_resumed" AgentResumed {
        /// The agent.
        agent: AgentId,
        /// Who did it; zero: whoever runs the node.
        actor: AgentId,
    }
    /// An agent may never act again. The event's text is the reason that was given.
    68 "agent_revoked" AgentRevoked {
        /// The agent.
        agent: AgentId,
        /// Who did it; zero: whoever runs the node.
        actor: AgentId,
        /// What it signed after this is void.
        effective: TimeMs,
    }
    /// An agent's encryption key was replaced.
    69 "key_rotated" KeyRotated {
        /// The agent.
        agent: AgentId,
        /// The new key.
        key_id: KeyId,
        /// The old key is accepted until then; zero: not any more.
        grace_until: TimeMs,
        /// Version of the key record that was replaced.
        from_version: u32,
        /// Version of the new one.
        to_version: u32,
        /// How.
        mode: RotationMode,
    }
    /// A policy is in force. The event's text is the name it was given.
    70 "policy_loaded" PolicyLoaded {
        /// SHA-256 of its text.
        policy: Digest,
        /// Who did it; zero: whoever runs the node.
        actor: AgentId,
        /// The epoch of decisions that it began.
        epoch: u64,
    }
    /// A policy was refused; the one before it stays in force. The event's text is the code of its first error.
    71 "policy_refused" PolicyRefused {
        /// SHA-256 of its text.
        policy: Digest,
        /// Who did it; zero: whoever runs the node.
        actor: AgentId,
        /// The first line that is wrong; zero: none in particular.
        line: u32,
    }
    /// What is set for a mailbox was changed. Zero in a field: as the node's configuration says.
    72 "mailbox_changed" MailboxChanged {
        /// Whose mailbox.
        mailbox: AgentId,
        /// Who did it; zero: whoever runs the node.
        actor: AgentId,
        /// Most bytes queued.
        bytes_max: u64,
        /// How long what nobody acknowledges is kept.
        retention_s: u32,
        /// Most messages queued.
        messages_max: u32,
        /// After so many deliveries a message is given up.
        max_deliveries: u8,
    }
    /// Something was allowed because no decision could be made, and the configuration says that it then is.
    73 "fail_open_used" FailOpenUsed {
        /// Who wanted it.
        subject: AgentId,
        /// On whom.
        object: AgentId,
        /// The epoch of the last decisions.
        epoch: u64,
        /// How often, since the last such event of the same agents.
        count: u32,
        /// What.
        action: Action,
    }
    /// A backup began.
    74 "backup_begun" BackupBegun {
        /// The backup.
        backup: TokenId,
        /// Shards that it holds.
        shards: u16,
    }
    /// A backup ended.
    75 "backup_ended" BackupEnded {
        /// The backup.
        backup: TokenId,
        /// How.
        outcome: Outcome,
    }
    /// A one-time token for an enrolment was made. The event's text is the name that it is for.
    76 "token_issued" TokenIssued {
        /// The token, by its id.
        token: TokenId,
        /// Who did it; zero: whoever runs the node.
        actor: AgentId,
        /// When it ends.
        valid_until: TimeMs,
    }
    /// An enrolment was refused. The event's text is the name that was asked for.
    77 "enrolment_refused" EnrolmentRefused {
        /// The token that was shown; zero: none.
        token: TokenId,
        /// From where.
        peer: Peer,
        /// Why.
        code: Code,
    }
    /// All agents of an organization were revoked. The event's text is its name; each agent has an event of its own.
    78 "organization_revoked" OrganizationRevoked {
        /// Who did it; zero: whoever runs the node.
        actor: AgentId,
        /// What they signed after this is void.
        effective: TimeMs,
        /// How many agents.
        count: u32,
    }
    /// The node started. The event's text is its version.
    79 "node_started" NodeStarted {
        /// Shards that it has.
        shards: u16,
    }
    /// The node was told to stop. Shards write a last event of their own.
    80 "node_stopped" NodeStopped {
        /// How.
        outcome: Outcome,
    }
    /// Old entries of this log were dropped; their hashes stay.
    81 "entries_dropped" EntriesDropped {
        /// Entries before this leaf are gone.
        below: u64,
    }
    /// An agent's prekeys were uploaded.
    82 "prekeys_uploaded" PrekeysUploaded {
        /// The agent.
        agent: AgentId,
        /// One-time keys in the batch.
        count: u32,
    }
    /// Somebody asked for a change and was refused, or was not let in. The event's text is what was asked for, or which user it was.
    83 "administration_refused" AdministrationRefused {
        /// Who; zero: not known.
        actor: AgentId,
        /// From where.
        peer: Peer,
        /// Why.
        code: Code,
    }
    /// A one-time token was used: an agent was registered with it, which has an event of its own.
    84 "token_used" TokenUsed {
        /// The token, by its id.
        token: TokenId,
        /// Who was registered.
        agent: AgentId,
        /// How many more may be.
        uses_left: u32,
    }
    /// A one-time token was withdrawn: nobody is registered with it any more.
    85 "token_withdrawn" TokenWithdrawn {
        /// The token, by its id.
        token: TokenId,
        /// Who did it; zero: whoever runs the node.
        actor: AgentId,
    }
    /// More of something happened than an operator should let pass.
    86 "alert_raised" AlertRaised {
        /// Whose doing it is; zero: not known, or several.
        agent: AgentId,
        /// From where, where the rule goes by that.
        peer: Peer,
        /// How much of it there was in the window.
        count: u32,
        /// How much raises an alert.
        threshold: u32,
        /// Within how many seconds.
        window_s: u32,
        /// What it is about.
        rule: Rule,
    }
    /// A node that the control service admits has a link to it. The event's text is what the node is called there.
    87 "node_linked" NodeLinked {
        /// SHA-256 of the node's certificate.
        node: Digest,
        /// From where.
        peer: Peer,
    }
    /// Somebody wanted a link to the control service, or had one, and is not served. The event's text is why.
    88 "node_link_refused" NodeLinkRefused {
        /// SHA-256 of the node's certificate; zero: it is not known.
        node: Digest,
        /// From where.
        peer: Peer,
    }
    /// A channel was created, or its record was replaced. The event's text is its name.
    96 "channel_changed" ChannelChanged {
        /// The channel.
        channel: ChannelId,
        /// Whose it is, who signed the record.
        owner: AgentId,
        /// Who handed it in; zero: whoever may use the node's socket.
        actor: AgentId,
        /// SHA-256 of the signed record.
        record: Digest,
        /// The record's version.
        version: u32,
    }
    /// A channel was deleted. The event's text is its name.
    97 "channel_deleted" ChannelDeleted {
        /// The channel.
        channel: ChannelId,
        /// Whose it was, who signed that.
        owner: AgentId,
        /// Who handed it in; zero: whoever may use the node's socket.
        actor: AgentId,
        /// SHA-256 of the signed record that says so.
        record: Digest,
        /// The version of the record that says so.
        version: u32,
    }
}
