//! Traces that go through messages: which span of the sender a message comes from, told to its recipient inside of the seal.
//!
//! Off unless [`ConnectOptions::trace`](crate::ConnectOptions::trace) names somebody who knows how spans of this process and contexts go
//! together; without that no message says anything of a trace, and none is a byte longer, but for one whose own bytes look like a context:
//! eight bytes go before those ([`needs_guard`]). What comes from others is read either way: the head is taken off a payload before
//! the application sees it, and [`Delivery::trace`](crate::Delivery::trace) has what it said. `docs/patterns.md` gives the bytes.
//!
//! | span | from | to | attributes |
//! |---|---|---|---|
//! | `creto.publish` | a message is handed over | the node has it on disk, or it is refused for good | `messaging.system` = `creto`, `messaging.operation.type` = `send`, `messaging.operation.name` = `publish`, `messaging.destination.name`, `messaging.message.id`, `messaging.message.body.size`, `messaging.client.id`, `error.type` |
//! | `creto.process` | a message is shown to the application | its delivery is dropped | the same with `process`, and `messaging.creto.sender`, `messaging.creto.attempt` |
//!
//! The names are those of OpenTelemetry's semantic conventions for messaging. `creto.publish` stands in whichever span the application was
//! in. `creto.process` is the child of the sender's `creto.publish`; what an application does in it it does
//! [inside](tracing::Span::in_scope) of [`Delivery::span`](crate::Delivery::span), and what it sends then continues the trace.
//!
//! Spans and attributes go to whoever collects the traces of this process: names of agents and ids of messages, never a payload.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use creto_envelope::limits::PAYLOAD_PLAINTEXT_BYTES_MAX;
use creto_envelope::trace::{TRACE_GUARD, TraceHead, needs_guard};
use creto_envelope::{Kind, MessageId};
use tracing::{Span, field};

pub use creto_envelope::trace::{Malformed, TRACE_HEADER_BYTES, TRACESTATE_BYTES_MAX, TraceContext};

use crate::error::SendError;
use crate::stats::Counters;

/// Knows how the spans of this process and the contexts in messages go together: whoever collects the spans.
pub trait Propagation: fmt::Debug + Send + Sync + 'static {
    /// Where in which trace a span is that was just begun; none if that is to be told to nobody.
    fn context_of(&self, span: &Span) -> Option<TraceContext>;

    /// Makes a span that was just begun a part of what another agent did.
    fn continue_from(&self, span: &Span, context: &TraceContext);
}

/// Somebody who knows, or nobody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracer(Option<Arc<dyn Propagation>>);

/// A message's span, and what is told of it.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) span: Option<Box<Span>>,
    /// What goes before the payload: a context, a guard, or nothing.
    pub(crate) head: Vec<u8>,
}

/// Whom a message is from and for, as spans name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) me: &'a str,
    pub(crate) other: &'a str,
}

impl Tracer {
    pub(crate) fn new(propagation: Option<Arc<dyn Propagation>>) -> Self {
        Self(propagation)
    }

    /// Begins the span of a message that is handed over. `head_bytes` are what else goes before its body.
    pub(crate) fn publish(
        &self,
        ends: Ends<'_>,
        kind: Kind,
        id: MessageId,
        body: &Bytes,
        head_bytes: usize,
    ) -> Published {
        // Bytes that look like a head are the application's all the same.
        let guard = || match may_stand_in(kind) && head_bytes == 0 && needs_guard(body) {
            true => TRACE_GUARD.to_vec(),
            false => Vec::new(),
        };
        let Some(propagation) = self.0.as_ref().filter(|_| may_stand_in(kind)) else {
            return Published { span: None, head: guard() };
        };
        let span = tracing::info_span!(
            target: "creto",
            "creto.publish",
            otel.kind = "producer",
            messaging.system = "creto",
            messaging.operation.type = "send",
            messaging.operation.name = "publish",
            messaging.destination.name = ends.other,
            messaging.client.id = ends.me,
            messaging.message.id = id.to_uuid_string(),
            messaging.message.body.size = body.len(),
            error.type = field::Empty,
            otel.status_code = field::Empty,
        );
        // Where there is no room for it nothing is told; a message is never lost to its trace.
        let has_room =
            |context: &TraceContext| context.head_bytes() + head_bytes + body.len() <= PAYLOAD_PLAINTEXT_BYTES_MAX;
        let head = match propagation.context_of(&span).filter(has_room) {
            Some(context) => {
                let mut head = Vec::with_capacity(context.head_bytes());
                context.write(&mut head);
                head
            }
            None => guard(),
        };
        Published { span: Some(Box::new(span)), head }
    }

    /// Begins the span of a message that is shown to the application.
    pub(crate) fn process(
        &self,
        ends: Ends<'_>,
        (kind, id, attempt): (Kind, MessageId, u8),
        body_bytes: usize,
        context: Option<&TraceContext>,
    ) -> Span {
        let Some(propagation) = self.0.as_ref().filter(|_| may_stand_in(kind)) else { return Span::none() };
        let span = tracing::info_span!(
            target: "creto",
            parent: None,
            "creto.process",
            otel.kind = "consumer",
            messaging.system = "creto",
            messaging.operation.type = "process",
            messaging.operation.name = "process",
            messaging.destination.name = ends.me,
            messaging.client.id = ends.me,
            messaging.message.id = id.to_uuid_string(),
            messaging.message.body.size = body_bytes,
            messaging.creto.sender = ends.other,
            messaging.creto.attempt = attempt,
        );
        if let Some(context) = context {
            propagation.continue_from(&span, context);
        }
        span
    }
}

/// What the application sends as messages, which may have a context. Receipts, and keys of channels, are the SDK's own.
pub(crate) fn may_stand_in(kind: Kind) -> bool {
    matches!(kind, Kind::Direct | Kind::Channel | Kind::Request | Kind::Response)
}

/// Where the body of a payload that was opened begins, and the context before it. One that breaks a rule is counted, and is none.
pub(crate) fn taken(payload: &[u8], counters: &Counters) -> (Option<TraceContext>, usize) {
    if payload.starts_with(&TRACE_GUARD) {
        return (None, TRACE_GUARD.len());
    }
    let Some(TraceHead { context, bytes }) = TraceHead::parse(payload) else { return (None, 0) };
    if context.is_err() {
        counters.traces_malformed.add(1);
    }
    (context.ok(), bytes)
}

/// Why a message was not taken, in a word.
pub(crate) fn error_type(error: &SendError) -> &'static str {
    match error {
        SendError::Refused { code, .. } | SendError::Unknown { code, .. } => code.name(),
        SendError::Disconnected(_) => "Disconnected",
        SendError::Closed => "Closed",
        _ => "_OTHER",
    }
}

/// A body with what goes before it.
pub(crate) fn with_head(head: &[u8], body: Bytes) -> Bytes {
    if head.is_empty() { body } else { [head, &body].concat().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_wrongly_is_counted_and_costs_the_body_nothing() {
        let counters = Counters::default();
        let zero_ids = [&b"\xffTC\x01\x20\x00\x01\x00"[..], &[0; 24], b"body"].concat();
        let later = [&b"\xffTC\x07\x0a\x00\x01\x00.."[..], b"body"].concat();
        for (payload, count) in [(zero_ids, 1), (later, 2)] {
            let (context, begins) = taken(&payload, &counters);
            assert_eq!((context, &payload[begins..]), (None, &b"body"[..]));
            assert_eq!(counters.snapshot().traces_malformed, count);
        }
        // One that does not even say where its body begins is the application's, and a guard says nothing wrong.
        assert_eq!(taken(b"\xffTC\x01\xff\x03\x01\x00 nothing", &counters), (None, 0));
        assert_eq!(taken(&[&TRACE_GUARD[..], b"body"].concat(), &counters), (None, TRACE_GUARD.len()));
        assert_eq!(counters.snapshot().traces_malformed, 2);
    }
}
