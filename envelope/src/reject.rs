//! Why a peer's input was refused: stable codes, one table.
//!
//! A code never changes its meaning and is never used again. Codes are grouped: 1xx frames, 2xx envelopes and
//! batches, 3xx identity, 4xx policy and mailboxes, 5xx the node's own state. An SDK may retry a 5xx; anything
//! else stays refused until the sender changes something.

use std::fmt;

macro_rules! reject_codes {
    ($( $(#[doc = $doc:literal])+ $name:ident = $code:literal, $text:literal; )+) => {
        /// Why the node (or a recipient) refused something. The numbers are part of the protocol.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum RejectCode {
            $( $(#[doc = $doc])+ $name = $code, )+
        }

        impl RejectCode {
            /// Every code, in ascending order.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// The code with this number, if this version knows it.
            #[must_use]
            pub const fn from_u16(code: u16) -> Option<Self> {
                match code { $( $code => Some(Self::$name), )+ _ => None }
            }

            /// The name as the protocol documents it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => stringify!($name), )+ }
            }

            /// What is wrong and what to do next, in one sentence.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $( Self::$name => $text, )+ }
            }
        }
    };
}

reject_codes! {
    /// The stream ended inside a frame.
    FrameTruncated = 100, "the stream ended inside a frame; send whole frames";
    /// A frame's body is larger than its type allows.
    FrameOversized = 101, "the frame is larger than the limit; send smaller batches";
    /// A frame's version is not spoken here.
    FrameVersion = 102, "the frame version is not supported by this node; update the older side";
    /// A frame's type is not known.
    FrameUnknownType = 103, "the frame type is not known; update the older side";
    /// A frame's body has not the length that its type demands.
    FrameLength = 104, "the frame's length does not fit its type; check the encoder against docs/protocol.md";
    /// The frame is known, but not on this stream or not now.
    FrameUnexpected = 105, "this frame is not allowed on this stream in this state; see docs/protocol.md";
    /// A reserved field of a frame is not zero.
    FrameReserved = 106, "a reserved field of the frame is not zero; write zeros into reserved fields";
    /// A stream was opened with a role that is not known or not free.
    StreamRole = 107, "the stream's role is unknown or already taken on this connection; open each role once";

    /// The envelope is shorter than its header or its lengths say.
    EnvelopeTruncated = 200, "the envelope is shorter than it says; send all of its bytes";
    /// The envelope is larger than the limit.
    EnvelopeOversized = 201, "the envelope is too large; a payload holds at most 1 MiB of plaintext";
    /// The envelope's version is not spoken here.
    EnvelopeVersion = 202, "the envelope version is not supported; update the older side";
    /// The envelope's suite is not known.
    EnvelopeSuite = 203, "the envelope's cipher suite is not supported; use the sealed (1), the session (2) or, in channels, the channel suite (3)";
    /// The envelope's kind is not known.
    EnvelopeKind = 204, "the envelope's kind is not known; see docs/envelope-format.md";
    /// The envelope's priority is out of range.
    EnvelopePriority = 205, "the envelope's priority is out of range; use 0 (low) to 3 (critical)";
    /// The envelope's lengths disagree with its bytes or its suite.
    EnvelopeLength = 206, "the envelope's lengths do not fit its bytes or its suite; see docs/envelope-format.md";
    /// The envelope does not start at a multiple of eight bytes.
    EnvelopeMisaligned = 207, "the envelope is not aligned to eight bytes; pad the entries of the batch";
    /// A reserved field or an unknown flag of the envelope is set.
    EnvelopeReserved = 208, "a reserved field of the envelope is not zero; write zeros into reserved fields";
    /// The nonce is not the one that the counter demands.
    EnvelopeNonce = 209, "the nonce is not four zero bytes and the counter; never choose a nonce";
    /// The message id is not a UUID of version 7.
    EnvelopeMessageId = 210, "the message id is not a UUID of version 7 (RFC 9562)";
    /// The payload does not open under the recipient's key and this header.
    EnvelopeSeal = 211, "the payload does not open under the recipient's key and this header; fetch the recipient's current record and seal again";
    /// The counter is beyond the end of a session.
    SessionCounter = 212, "the counter is beyond the end of a session; open a new session after 4,096 messages at the latest";
    /// The session is not known (or not named) and the message does not carry the key that opens it.
    UnknownSession = 213, "the session is not known and the message carries no key that opens it; open a new session and seal again";

    /// Kind, suite, channel and recipient of the envelope do not fit each other.
    EnvelopeChannel = 214, "the envelope's kind, suite, channel and recipient do not fit each other; see the channel suite in docs/envelope-format.md";

    /// The message is a signal, and lives too long or is too large for one.
    EnvelopeSignal = 215, "a signal lives 1 to 60 seconds and holds at most 4,096 bytes; send a shorter one, or a message";

    /// The batch holds no message.
    BatchEmpty = 220, "the batch is empty; send at least one message";
    /// The batch holds too many messages.
    BatchTooManyMessages = 221, "the batch holds too many messages; close batches at the node's announced limit";
    /// The batch's version is not spoken here.
    BatchVersion = 222, "the batch version is not supported; update the older side";
    /// The batch's signature suite is not known, or does not fit the sender's key record.
    BatchSuite = 223, "the batch's signature suite is unknown or does not fit the sender's key record; sign with every key of the record";
    /// The tree over the batch's envelopes has another root.
    BatchRoot = 224, "the root in the batch header is not the root of its envelopes; rebuild the tree as RFC 6962 says";
    /// The batch ends before its last entry.
    BatchTruncated = 225, "the batch ends before its last message; send all of its bytes";
    /// The batch has bytes behind its last entry.
    BatchTrailing = 226, "the batch has bytes behind its last message; its tree size or its length is wrong";
    /// A reserved field of the batch is not zero.
    BatchReserved = 227, "a reserved field of the batch is not zero; write zeros into reserved fields";
    /// The submit sequence is not the next one of its stream.
    BatchSequence = 228, "the submit sequence is not the next one of this stream; count batches 1, 2, 3 per stream";
    /// Two messages of one batch share a message id.
    BatchRepeatedMessage = 229, "two messages of the batch share a message id; give every message its own";

    /// The tree is made of another hash than this deployment demands.
    BatchDigest = 230, "the node demands a tree of another hash; set the SDK's tree_digest to the node's [crypto] tree_digest";

    /// Something that needs a login came before it.
    LoginRequired = 300, "log in on the control stream first";
    /// The login's signatures do not fit this connection.
    LoginBadSignature = 301, "the login's signatures do not verify over this connection; sign this connection's exporter with both registered keys";
    /// The agent that logs in is not registered.
    LoginUnknownAgent = 302, "this agent is not registered here; run `creto agent create` first";
    /// A second login came on one connection.
    LoginAgain = 303, "this connection is already logged in; open another connection for another agent";
    /// The envelope's or batch's sender is not the agent that is logged in.
    SenderMismatch = 304, "the sender is not the agent that is logged in; send as yourself";
    /// The sender is not registered.
    UnknownSender = 305, "the sender is not registered here; run `creto agent create` first";
    /// The key record version is not known.
    UnknownKeyVersion = 306, "the key record version is not known here; fetch the current record";
    /// The key record's validity is over.
    KeyExpired = 307, "the agent's keys have expired; rotate them";
    /// The key record is not valid yet.
    KeyNotYetValid = 308, "the agent's keys are not valid yet; check the clock or the record's start";
    /// The agent is suspended.
    AgentSuspended = 309, "the agent is suspended; ask the operator";
    /// The agent is revoked.
    AgentRevoked = 310, "the agent is revoked; create a new one";
    /// A signature of the batch does not verify.
    BadSignature = 311, "a signature of the batch does not verify; both Ed25519 and ML-DSA-65 must";
    /// The signing time is too far from the node's clock.
    SigningTime = 312, "the signing time is too far from the node's clock; check the sender's clock";
    /// The agent asked for is not registered.
    UnknownAgent = 313, "no agent with this id is registered here; check the name and the trust domain";
    /// The published key record is not the next version of the agent's record.
    RotationVersion = 314, "the published key record is not the next version; fetch the current record and count on from it";
    /// The published key record has other signing keys than the current one.
    RotationSigningKeys = 315, "the published key record has other signing keys than the current one; rotate the encryption key only";
    /// The published key record does not hold.
    RotationRecord = 316, "the published key record does not hold; check its validity, that its encryption key is new, and both signatures";
    /// The uploaded prekeys do not hold.
    PrekeyBatch = 317, "the batch of prekeys does not hold; sign usable new keys, later than the batch before, at most 128";
    /// The node has enough prekeys of this agent.
    PrekeysFull = 318, "the node holds as many prekeys of this agent as it takes; upload more when some were claimed";
    /// The published key record was not signed for the mode that it is published with.
    RotationMode = 319, "the published key record was not signed for this way of replacing a key; sign it for the mode that is sent with it";

    /// Policy does not let this sender talk to this recipient.
    PolicyDenied = 400, "policy does not allow this sender to send to this recipient";
    /// The recipient is not registered.
    UnknownRecipient = 401, "the recipient is not registered here; check its name";
    /// Someone asked for a mailbox that is not their own.
    NotMailboxOwner = 402, "only the owner of a mailbox can read it; subscribe to your own";
    /// The recipient's mailbox has reached its quota.
    MailboxFull = 403, "the recipient's mailbox is full; retry when it has been read";
    /// The message was accepted before; it is durable and was not stored again.
    Duplicate = 404, "this message id was already accepted and is durable; nothing more to do";
    /// The message id is too old (or too far ahead) to be told from a replay.
    OutsideDedupWindow = 405, "the message id is too old or too far ahead to be told from a replay; if you never sent it, send it under a new id";
    /// Another connection of the same agent took over the subscription.
    SubscriptionReplaced = 406, "another connection of this agent subscribed to the mailbox; only the newest receives";
    /// The envelope names a recipient key that the recipient does not have.
    UnknownRecipientKey = 407, "the envelope is sealed to a key the recipient no longer has; fetch its current record";
    /// More credit was granted than the limit.
    CreditExceeded = 408, "more credit was granted than the limit; grant what was consumed";
    /// An acknowledgement names a message that was not delivered here.
    UnknownDelivery = 409, "the acknowledgement names a message that was not delivered on this stream";
    /// The mailbox has no such dead letter.
    UnknownDeadLetter = 410, "the mailbox has no such dead letter that can be read; list them first";
    /// The payload is larger than policy lets this sender send.
    PolicySize = 411, "the payload is larger than policy allows this sender; send smaller messages";
    /// The message's priority is none that policy lets this sender use.
    PolicyPriority = 412, "policy does not allow this sender this priority; use another";
    /// The agent has no prekey here.
    NoPrekey = 413, "the agent has no prekey here; use the encryption key of its key record";
    /// No channel has this id.
    UnknownChannel = 414, "no channel with this id is here, or it was deleted; check the name with `creto channel list`";
    /// The channel's record does not let this agent publish, or subscribe.
    ChannelNotAllowed = 415, "the channel's record does not let this agent do that; ask the channel's owner (`creto channel show`)";
    /// The channel has as many subscribers as it may.
    ChannelFull = 416, "the channel has as many subscribers as it may; try again when one has unsubscribed, or ask its owner for more";
    /// The frame names a subscription that this connection never had.
    NotSubscribed = 417, "this connection has no subscription with this handle; subscribe first";
    /// The connection reads, or publishes to, as many channels as it may.
    TooManySubscriptions = 418, "this connection has as many subscriptions as it may; leave one, or open another connection";

    /// The signal's time is over, or has not begun.
    SignalTime = 419, "the signal's time is over or has not begun by the node's clock; check the sender's clock, send what is so now";

    /// The node is too busy right now.
    Overloaded = 500, "the node is busy; retry after the stated time";
    /// The node's log has no room.
    StorageFull = 501, "the node's log is full; retry when messages have been read or space was added";
    /// The shard stopped acknowledging after a disk error.
    ShardFenced = 502, "the shard stopped after a disk error; the operator must act, see the node's log";
    /// The node is shutting down.
    ShuttingDown = 503, "the node is shutting down; reconnect in a moment";
    /// The connection has too many messages in flight.
    TooManyInFlight = 504, "too many messages wait for their acknowledgement; wait for some of them";
    /// There is no policy decision to be had; the answer is no.
    PolicyUnavailable = 505, "no policy is loaded, so nothing is allowed; retry when the control service is up";
    /// The sender has used up the rate that policy gives it.
    RateLimited = 506, "the rate that policy gives this sender is used up; retry after the stated time";
}

impl RejectCode {
    /// The number on the wire.
    #[must_use]
    pub const fn as_u16(self) -> u16 {
        self as u16
    }

    /// Whether the same message, sent again later, may be accepted.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self.as_u16(), 500..=599) || matches!(self, Self::MailboxFull)
    }

    /// When trying again may help, in milliseconds; zero for codes that are not retryable. What a node states unless it
    /// knows better.
    #[must_use]
    pub const fn retry_after_ms(self) -> u32 {
        match self {
            // Others of the same connection are on their way and make room.
            Self::TooManyInFlight => 20,
            Self::Overloaded | Self::RateLimited => 100,
            Self::MailboxFull => 200,
            Self::ShuttingDown => 500,
            // Somebody must read, or act.
            Self::StorageFull | Self::PolicyUnavailable | Self::ShardFenced => 1_000,
            _ => 0,
        }
    }
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.text(), self.as_u16(), self.name())
    }
}

impl std::error::Error for RejectCode {}
