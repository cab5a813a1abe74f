//! What can go wrong, sorted by what one was about to do. Every text says what to do next; none holds a payload or a key.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use creto_envelope::{AgentId, MessageId, RejectCode};
use creto_transparency::KeyLogError;
use thiserror::Error;

use crate::keystore::LockKind;

/// Why a key file could not be written or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The file system said no.
    #[error("the key file {path} cannot be {doing}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner can read the file.
    #[error(
        "the key file {path} is open to others (mode {mode:03o}): run `chmod 600 {path}`, and rotate the keys if anyone may have read them"
    )]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a key file.
    #[error("the key file {path} is not valid: {reason}; restore it from a backup or create the agent again")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, without any of its content.
        reason: String,
    },
    /// The file is encrypted, and what opens it was not given.
    #[error(
        "the key file {path} is encrypted, and its {} was not given; give it, with `AgentKeys::load_locked`",
        names(locks)
    )]
    Locked {
        /// Which file.
        path: PathBuf,
        /// What opens it: each alone.
        locks: Vec<LockKind>,
    },
    /// The file is encrypted with another passphrase, or its token has another PIN.
    #[error("the key file {path} does not open with this passphrase or PIN; give the one it was encrypted with")]
    WrongPassphrase {
        /// Which file.
        path: PathBuf,
    },
    /// An encrypted file is not as it was written.
    #[error(
        "the encrypted key file {path} is damaged: {reason}; restore it from a backup, or revoke the agent and create another"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A lock cannot be made or opened on this machine.
    #[error("the lock of the key file {path} cannot be made or opened here: {reason}; correct that and try again")]
    Lock {
        /// Which file.
        path: PathBuf,
        /// What is in the way.
        reason: String,
    },
    /// The file was written by a newer version.
    #[error("the key file {path} has format {found}, which this version does not read: update creto")]
    Version {
        /// Which file.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// This build cannot use a key that the file holds.
    #[error(
        "the key file {path} holds an experimental signing key that this build cannot use: build with `--features {feature}`"
    )]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// The cargo feature that it needs.
        feature: &'static str,
    },
    /// The file holds keys that this agent does not run with, another agent's or newer ones of its own: it was not written
    /// to.
    #[error(
        "the key file {path} holds keys of {name} that are not the ones in use here, and was not written to; move it to where it belongs, put this agent's own file back in its place, and try again"
    )]
    OtherKeys {
        /// Which file.
        path: PathBuf,
        /// Whose keys it holds.
        name: String,
    },
    /// The keys live in memory only: a key that is not on disk before it is published could be lost with what is sealed
    /// to it.
    #[error("the keys of {name} are in no file; save them first, then replace the encryption key")]
    NoFile {
        /// Whose.
        name: String,
    },
    /// The system has no randomness to give.
    #[error("the system gives no randomness: {0}; keys cannot be made safely")]
    Randomness(String),
}

fn names(locks: &[LockKind]) -> String {
    locks.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" or ")
}

/// Why the sessions that an agent keeps on disk cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file system said no.
    #[error(
        "the file of sessions {path} cannot be {doing}: {source}; check the folder, its owner and its space, or choose another state directory"
    )]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "the file of sessions {path} is in use by another process of this agent, which did not let go; stop that one, or give this one a state directory of its own"
    )]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// It was written by another version.
    #[error("the file of sessions {path} has format {found}, this version reads format 1: update creto")]
    Version {
        /// Which file.
        path: PathBuf,
        /// The format found.
        found: u64,
    },
    /// It belongs to another agent.
    #[error("the file of sessions {path} belongs to another agent; give each agent a state directory of its own")]
    OtherAgent {
        /// Which file.
        path: PathBuf,
    },
    /// It is not as it was written.
    #[error(
        "the file of sessions {path} is damaged ({reason}); move it away and start again. Without outgoing.redb nothing is lost. Without publishing.redb new sessions are begun in channels. Without incoming.redb what is in the mailbox under its sessions stays unreadable, and so does what comes until senders renew theirs; what was published in channels so far stays unreadable, too: end their subscriptions and subscribe anew. Without prekeys what was sent to them stays unreadable, and so does what comes until the agent has replaced its encryption key: run `creto agent rotate`; one that rotates on a schedule does so by itself when it receives"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, without any of its content.
        reason: String,
    },
}

/// Why what an agent has seen of the node's key log cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyLogFileError {
    /// The file system said no.
    #[error("the file of the key log {path} cannot be {doing}: {source}; check the folder, its owner and its space")]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It was written by another version.
    #[error("the file of the key log {path} has format {found}, this version reads format 1: update creto")]
    Version {
        /// Which file.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// It belongs to another agent.
    #[error("the file of the key log {path} belongs to another agent; put it back where it belongs")]
    OtherAgent {
        /// Which file.
        path: PathBuf,
    },
    /// It is not as it was written.
    #[error(
        "the file of the key log {path} is damaged ({reason}); restore it from a copy. Without it the log is taken as it is shown now: move it away only after you have compared fingerprints (`creto agent fingerprint`) over another channel"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a node's certificate could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateReadError {
    /// The file cannot be read.
    #[error("the certificate {path} cannot be read: {source}; copy it from the node (`creto init` prints where it is)")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no certificate in the text.
    #[error("there is no PEM certificate in this file; give the node's certificate, not its key")]
    Pem,
}

/// Why there is no connection to the node, or none any more.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No UDP socket could be opened.
    #[error("no UDP socket can be opened: {0}; check the limits on open files and the local firewall")]
    Socket(Arc<io::Error>),
    /// The address is not usable.
    #[error("{node} cannot be connected to: {source}; check the address and its port")]
    Address {
        /// The address given.
        node: SocketAddr,
        /// What QUIC said.
        source: quinn::ConnectError,
    },
    /// Nobody answered in time.
    #[error("no answer from {node} within {} ms; check that `creto serve` runs there and that UDP reaches it", .after.as_millis())]
    TimedOut {
        /// Where.
        node: SocketAddr,
        /// How long it was waited for.
        after: Duration,
    },
    /// The node has another certificate than the trusted one.
    #[error(
        "{node} shows another certificate than the one trusted; get the node's current certificate over a channel you trust"
    )]
    Certificate {
        /// Where.
        node: SocketAddr,
    },
    /// The connection ended.
    #[error("the connection to {node} ended: {source}")]
    Lost {
        /// Where.
        node: SocketAddr,
        /// What QUIC said.
        source: quinn::ConnectionError,
    },
    /// The node refused the login or ended the connection with a reason.
    #[error("the node refused: {0}")]
    Refused(RejectCode),
    /// The node refused with a code that this version does not know.
    #[error(
        "the node refused with code {0}, which this version does not know: update creto, or look it up in docs/protocol.md"
    )]
    RefusedWith(u16),
    /// The node sent something that the protocol does not allow here.
    #[error("the node broke the protocol: {0}; check that both sides run the same version")]
    Protocol(RejectCode),
    /// Every message is to go to a prekey, and none is to have a session.
    #[error(
        "prekeys open sessions, and this agent has none: with `PrekeyPolicy::Require` choose `SessionPolicy::Renew`, or `PrekeyPolicy::Prefer`"
    )]
    PrekeysWithoutSessions,
    /// The sessions that the agent keeps cannot be used.
    #[error("{0}")]
    State(Arc<StateError>),
    /// What the agent has seen of the node's key log cannot be used.
    #[error("{0}")]
    KeyLog(Arc<KeyLogFileError>),
    /// The agent was closed.
    #[error("this agent was closed; connect again")]
    Closed,
}

impl ConnectError {
    /// The code that the node refused with, if it did.
    #[must_use]
    pub fn code(&self) -> Option<RejectCode> {
        match self {
            Self::Refused(code) => Some(*code),
            _ => None,
        }
    }
}

/// Why there is no usable key record of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LookupError {
    /// The node refused to give it.
    #[error("{0}")]
    Refused(RejectCode),
    /// The node refused with a code that this version does not know.
    #[error("the node answered with code {0}, which this version does not know; update creto")]
    RefusedWith(u16),
    /// The record does not belong to this agent, or is not signed by the keys in it.
    #[error(
        "the key record that the node gave for {agent} does not hold ({reason}); do not use this node before the operator has looked"
    )]
    Invalid {
        /// Who was asked for.
        agent: AgentId,
        /// Which check failed.
        reason: &'static str,
    },
    /// The record is not proven to be in the node's key log, or the log is not believed.
    #[error("the keys of {agent} are not used: {source}")]
    KeyLog {
        /// Who was asked for.
        agent: AgentId,
        /// What no honest node says; its [`code`](KeyLogError::code) is stable.
        source: KeyLogError,
    },
    /// No answer in time.
    #[error("no answer about the key record of {agent}; retry when the node can be reached")]
    TimedOut {
        /// Who was asked for.
        agent: AgentId,
    },
    /// The agent was closed.
    #[error("this agent was closed; connect again")]
    Closed,
}

impl LookupError {
    /// Whether the keys may be had later, as far as is known.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Refused(code) => code.is_retryable(),
            Self::RefusedWith(code) => (500..600).contains(code),
            Self::KeyLog { source, .. } => matches!(source, KeyLogError::Withheld { .. }),
            Self::TimedOut { .. } | Self::Closed => true,
            Self::Invalid { .. } => false,
        }
    }
}

/// Why there is no prekey of an agent to open a session to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PrekeyError {
    /// The node refused to give one; [`RejectCode::NoPrekey`] when it has none.
    #[error("{0}")]
    Refused(RejectCode),
    /// The node refused with a code that this version does not know.
    #[error("the node answered with code {0}, which this version does not know; update creto")]
    RefusedWith(u16),
    /// The node is of a version that does not know prekeys.
    #[error("the node does not know prekeys; update it, or send with `PrekeyPolicy::Prefer`")]
    Unsupported,
    /// The node gave one that its agent did not sign, or that is no usable key.
    #[error(
        "the prekey that the node gave for {agent} does not hold ({reason}); do not use this node before the operator has looked"
    )]
    Invalid {
        /// Who was asked for.
        agent: AgentId,
        /// Which check failed.
        reason: &'static str,
    },
    /// The key record that it must be signed under cannot be had.
    #[error("{0}")]
    Record(LookupError),
    /// The session that the message was planned for gives no keys any more.
    #[error("the session that the message was to go with is over; send it again")]
    SessionOver,
    /// No answer in time.
    #[error("no answer about a prekey; retry when the node can be reached")]
    TimedOut,
    /// The agent was closed.
    #[error("this agent was closed; connect again")]
    Closed,
}

impl PrekeyError {
    /// Whether asking again may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(code) => code.is_retryable(),
            Self::RefusedWith(number) => (500..600).contains(number),
            Self::TimedOut | Self::Record(LookupError::TimedOut { .. }) => true,
            _ => false,
        }
    }

    /// Whether the node said what no honest one says: nothing may be sent on its word then.
    pub(crate) fn is_false(&self) -> bool {
        matches!(self, Self::Invalid { .. } | Self::Record(LookupError::Invalid { .. } | LookupError::KeyLog { .. }))
    }
}

/// Why a message was not, or perhaps not, accepted.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The node refused the message; it was not stored.
    #[error("message {message_id} was refused: {code}")]
    Refused {
        /// Why, with what to do next.
        code: RejectCode,
        /// Which message.
        message_id: MessageId,
    },
    /// The node refused the message with a code that this version does not know; it was not stored.
    #[error(
        "message {message_id} was refused with code {code}, which this version does not know: update creto, or look it up in docs/protocol.md"
    )]
    RefusedWith {
        /// The number.
        code: u16,
        /// Which message.
        message_id: MessageId,
    },
    /// The message was sent, and the node cannot say whether it has it: the connection broke before the answer and the
    /// message is too old to be told from a replay by now, or the node's disk failed.
    #[error(
        "message {message_id} may or may not have been accepted ({code}); ask the recipient, or send it again under a new id if twice is harmless"
    )]
    Unknown {
        /// What the node said last.
        code: RejectCode,
        /// Which message.
        message_id: MessageId,
    },
    /// The deadline passed. Unless it was never sent, the message may still be accepted.
    #[error("no answer about message {message_id} within its deadline of {} ms; it may still be accepted: check before sending it under a new id", .after.as_millis())]
    TimedOut {
        /// Which message.
        message_id: MessageId,
        /// The deadline that was set.
        after: Duration,
    },
    /// The payload is too large.
    #[error(
        "the payload has {bytes} bytes; at most 1 MiB (1,048,576 bytes) fits into a message: send a reference instead"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A signal was not sent, or perhaps not: there is no connection just now, or too many signals are on their way. It is never sent again.
    #[error(
        "signal {message_id} was dropped: there is no connection, or too many signals are under way; send what is so when there is one"
    )]
    SignalDropped {
        /// Which signal.
        message_id: MessageId,
    },
    /// The payload of a signal is too large.
    #[error("the payload has {bytes} bytes; at most 4,096 fit into a signal: send a message")]
    SignalTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Signals are sealed to the key of the recipient's record, and this agent sends nothing to that.
    #[error(
        "a signal goes to no prekey, and this agent sends nothing without; send a message, or connect with `PrekeyPolicy::Prefer`"
    )]
    SignalWithoutPrekey,
    /// Only messages of kind direct destroy themselves.
    #[error("only a message of kind direct destroys itself; requests have a deadline")]
    SelfDestructKind,
    /// A request or an approval of a handoff does not say what is handed over.
    #[error("a handoff says what is handed over; give its SHA-256")]
    NoHandoff,
    /// The recipient's keys are not to be had.
    #[error("the keys of {recipient} cannot be had: {source}")]
    Recipient {
        /// The name as given.
        recipient: String,
        /// Why.
        source: LookupError,
    },
    /// There is no prekey of the recipient, and [`PrekeyPolicy::Require`](crate::PrekeyPolicy::Require) sends nothing without; or,
    /// under whichever policy, the one that the node gave does not hold.
    #[error("{recipient} has no prekey to send to: {source}")]
    NoPrekey {
        /// The recipient's name.
        recipient: String,
        /// Why.
        source: PrekeyError,
    },
    /// The agent was closed before the message was answered; it may have been accepted if it was sent.
    #[error("this agent was closed before the message was answered; connect again")]
    Closed,
    /// The agent gave up on the node before the message was answered.
    #[error("the agent gave up on the node: {0}")]
    Disconnected(ConnectError),
}

impl SendError {
    /// The code that the node refused with, if it did.
    #[must_use]
    pub fn code(&self) -> Option<RejectCode> {
        match self {
            Self::Refused { code, .. }
            | Self::Unknown { code, .. }
            | Self::Recipient { source: LookupError::Refused(code), .. }
            | Self::NoPrekey { source: PrekeyError::Refused(code), .. } => Some(*code),
            Self::Disconnected(error) => error.code(),
            _ => None,
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The policy does not let this agent ask.
    #[error("{to} may not be asked by this agent: {source}; ask the operator, or someone else")]
    Denied {
        /// Who was to be asked.
        to: String,
        /// What the node said.
        source: SendError,
    },
    /// Nobody has this name.
    #[error("there is no {to} to be asked: {source}")]
    UnknownAgent {
        /// Who was to be asked.
        to: String,
        /// What the node said.
        source: SendError,
    },
    /// The mailbox of whoever was to be asked was full for a quarter of the request's time.
    #[error("the mailbox of {to} is full, so it does not read fast enough, or not at all: {source}")]
    MailboxFull {
        /// Who was to be asked.
        to: String,
        /// What the node said.
        source: SendError,
    },
    /// The request could not be sent for another reason.
    #[error("the request could not be sent: {0}")]
    NotSent(SendError),
    /// No answer in time.
    #[error("{}", no_answer(to, *after, *accepted))]
    TimedOut {
        /// Who was asked.
        to: String,
        /// The request's id.
        message_id: MessageId,
        /// How long it was waited for.
        after: Duration,
        /// Whether the node has said that it has the request. If not, it may have it all the same.
        accepted: bool,
    },
    /// Whoever was asked answered that it did not work.
    #[error("{from} answered with failure {code}: {message}")]
    Failed {
        /// Who answered.
        from: String,
        /// Its own number; from 4,294,967,040 on that of its SDK.
        code: u32,
        /// What it says, for people. It is a stranger's text: show nothing of it that could drive a terminal.
        message: String,
    },
    /// The answer has a form that this version does not read.
    #[error("the answer of {from} (message {message_id}) has a form that this version does not read: update creto")]
    Unreadable {
        /// Who answered.
        from: String,
        /// The answer's own id.
        message_id: MessageId,
    },
    /// No answer can come, because this agent does not receive (any more).
    #[error("no answer can be received: {0}")]
    Receiving(ReceiveError),
}

fn no_answer(to: &str, after: Duration, accepted: bool) -> String {
    let ms = after.as_millis();
    match accepted {
        true => format!(
            "{to} has the request in its mailbox and did not answer within {ms} ms; it may have been worked on: ask again if twice is harmless, and check that {to} runs"
        ),
        false => format!(
            "no answer of {to} within {ms} ms, and none of the node either; the request may have been worked on: ask again if twice is harmless, when the node can be reached"
        ),
    }
}

/// Why a request was not answered.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum RespondError {
    /// The delivery is none, or was sent by other means than `Agent::request`.
    #[error("this delivery is no request that waits for an answer; send a message to its sender instead")]
    NotARequest,
    /// It was answered, acknowledged or refused before.
    #[error("this request was answered, acknowledged or refused already; there is nothing more to do")]
    Finished,
    /// Nobody waits any more. The request is acknowledged.
    #[error("the deadline of this request has passed, so nobody waits for its answer; it was acknowledged")]
    TooLate,
    /// The answer could not be sent. The request is not acknowledged: answer again, or acknowledge or refuse it.
    #[error("the answer could not be sent: {0}")]
    Send(SendError),
}

/// Why the encryption key was not replaced.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RotateError {
    /// The key file.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The node has a newer key of this agent than the key file.
    #[error(
        "the node has key record {node_version} of this agent, whose key is not in the key file: another copy of the file was rotated. Use that copy; if it is lost, replace the key as compromised"
    )]
    Behind {
        /// The node's version.
        node_version: u32,
    },
    /// The agent's own record cannot be had from the node.
    #[error("the agent's own key record cannot be had: {0}")]
    Lookup(#[from] LookupError),
    /// The node refused the new key.
    #[error("the node refused the new key: {0}")]
    Refused(RejectCode),
    /// The node refused with a code that this version does not know.
    #[error("the node refused the new key with code {0}, which this version does not know: update creto")]
    RefusedWith(u16),
    /// No answer in time. The new key is saved, and is published with the next connection.
    #[error("the node did not answer in time; the new key is saved and will be published when the node can be reached")]
    TimedOut,
    /// The agent was closed. A new key that was saved is published by the next process.
    #[error("this agent was closed before the node had the new key; connect again")]
    Closed,
}

/// Why a question about dead letters has no answer, or not the one that was wanted.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// The mailbox has no such dead letter.
    #[error("mailbox message {mailbox_sequence}: {}", RejectCode::UnknownDeadLetter)]
    Unknown {
        /// The number that was asked for.
        mailbox_sequence: u64,
    },
    /// It does not verify or open here.
    #[error("dead letter {mailbox_sequence} cannot be opened: {code}")]
    Unopened {
        /// Which.
        mailbox_sequence: u64,
        /// Which check failed.
        code: RejectCode,
    },
    /// This agent has acknowledged it, and its key is erased.
    #[error(
        "dead letter {mailbox_sequence} was acknowledged by this agent before it died, and its key is erased; purge it"
    )]
    Acknowledged {
        /// Which.
        mailbox_sequence: u64,
    },
    /// Its sender wanted it gone by now.
    #[error("dead letter {mailbox_sequence} has destroyed itself: its time is over; purge it")]
    Destroyed {
        /// Which.
        mailbox_sequence: u64,
    },
    /// Its session is kept by another process, or cannot be read.
    #[error("the session that opens the dead letter cannot be used: {0}")]
    Sessions(ReceiveError),
    /// The node refused.
    #[error("the node refused: {0}")]
    Refused(RejectCode),
    /// The node refused with a code that this version does not know.
    #[error("the node refused with code {0}, which this version does not know: update creto")]
    RefusedWith(u16),
    /// The node answered something else, or badly.
    #[error("the node's answer about dead letters breaks the protocol: {0}")]
    Protocol(RejectCode),
    /// No answer in time.
    #[error("the node did not answer in time; look again whether it has changed anything when it can be reached")]
    TimedOut,
    /// The agent was closed.
    #[error("this agent was closed before the node answered; connect again")]
    Closed,
}

/// Why nobody says whether an agent is there.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// This agent asks too often.
    #[error("the node answers no more questions of this agent for now; ask less often")]
    TooOften,
    /// The node is of a version that does not know the question.
    #[error("the node does not know of presence; update it")]
    Unsupported,
    /// No answer in time.
    #[error("the node did not answer in time; ask again when it can be reached")]
    TimedOut,
    /// The agent was closed.
    #[error("this agent was closed before the node answered; connect again")]
    Closed,
}

/// Why no more deliveries come.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// There is a subscription already.
    #[error("this agent has a subscription already; use that one, or drop it first")]
    AlreadySubscribed,
    /// Another connection of the same agent subscribed; only the newest receives.
    #[error("{}", RejectCode::SubscriptionReplaced)]
    Replaced,
    /// The node refused the subscription.
    #[error("the node refused the subscription: {0}")]
    Refused(RejectCode),
    /// The sessions that the agent keeps cannot be used, so nothing can be opened or acknowledged safely.
    #[error("{0}")]
    State(Arc<StateError>),
    /// The agent gave up on the node.
    #[error("the agent gave up on the node: {0}")]
    Disconnected(ConnectError),
    /// The agent was closed.
    #[error("this agent was closed; connect again")]
    Closed,
}
