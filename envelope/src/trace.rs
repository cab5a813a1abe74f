//! What a sender's trace is told to whoever opens its message: W3C Trace Context, before everything else of a payload, before it is
//! sealed. `docs/patterns.md` gives every byte.
//!
//! Nothing of it stands outside of the seal: a node cannot tell a message that has one from one that is some bytes longer. What is read
//! from a peer is never a reason to lose the message: a context that breaks a rule is left out, and the body is what it was.

/// Bytes before the tracestate.
pub const TRACE_HEADER_BYTES: usize = 32;
/// Most bytes of a tracestate that are carried: what the recommendation asks everybody to carry at least.
pub const TRACESTATE_BYTES_MAX: usize = 512;
/// Most bytes that this head takes, in any version.
pub const TRACE_HEAD_BYTES_MAX: usize = 1_024;

// No UTF-8 text begins with 0xff. Other bytes of an application's may: those get a guard.
const MAGIC: [u8; 3] = *b"\xffTC";
/// The version that this code reads and writes.
const VERSION: u8 = 1;
/// Bytes that every version begins with: magic, version, length of the head, flags, zero.
const FIXED_BYTES: usize = 8;

const _: () = assert!(TRACE_HEADER_BYTES + TRACESTATE_BYTES_MAX <= TRACE_HEAD_BYTES_MAX);

/// A head without a context, before a body that would itself be taken for one with a head ([`needs_guard`]).
pub const TRACE_GUARD: [u8; FIXED_BYTES] = *b"\xffTC\x01\x08\x00\x00\x00";

/// Whether these bytes of an application's would be read as a head and what stands behind it.
#[must_use]
pub fn needs_guard(body: &[u8]) -> bool {
    TraceHead::parse(body).is_some()
}

/// Where in which trace something was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
    state: String,
}

/// A context that breaks a rule of the recommendation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl TraceContext {
    /// A context of these parts. `state` is a tracestate as its HTTP header has it; above [`TRACESTATE_BYTES_MAX`] bytes its last members
    /// are left out.
    ///
    /// # Errors
    /// [`Malformed`] when an id is zero or the state has anything but printable ASCII.
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], flags: u8, state: &str) -> Result<Self, Malformed> {
        let is_text = state.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if trace_id == [0; 16] || span_id == [0; 8] || !is_text {
            return Err(Malformed);
        }
        Ok(Self { trace_id, span_id, flags, state: shortened(state).to_owned() })
    }

    /// Reads the values of the headers `traceparent` and `tracestate`.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn from_headers(traceparent: &str, tracestate: &str) -> Result<Self, Malformed> {
        // Lengths first: a later version may have more behind these, and never less.
        let bytes = traceparent.as_bytes();
        let is_of_form = bytes.len() >= 55 && [2, 35, 52].iter().all(|&dash| bytes[dash] == b'-');
        let version = is_of_form.then(|| hex::<1>(&bytes[..2])).flatten().ok_or(Malformed)?[0];
        let has_more = bytes.len() > 55;
        if version == 0xff || (version == 0 && has_more) || (has_more && bytes[55] != b'-') {
            return Err(Malformed);
        }
        let trace_id = hex(&bytes[3..35]).ok_or(Malformed)?;
        let span_id = hex(&bytes[36..52]).ok_or(Malformed)?;
        let [flags] = hex(&bytes[53..55]).ok_or(Malformed)?;
        Self::new(trace_id, span_id, flags, tracestate)
    }

    /// The value of the header `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(55);
        text.push_str("00-");
        let mut write = |bytes: &[u8], end: &str| {
            for byte in bytes {
                write!(text, "{byte:02x}").expect("a String takes what is written");
            }
            text.push_str(end);
        };
        write(&self.trace_id, "-");
        write(&self.span_id, "-");
        write(&[self.flags], "");
        text
    }

    /// The value of the header `tracestate`; empty without one.
    #[must_use]
    pub fn tracestate(&self) -> &str {
        &self.state
    }

    /// The trace.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The span in it.
    #[must_use]
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// Its flags; bit 0: it is sampled.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// Bytes that it takes before a body.
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        TRACE_HEADER_BYTES + self.state.len()
    }

    /// Writes the head behind what `out` holds; the body goes behind it.
    ///
    /// ```text
    ///  0 [3] 0xff "TC" | 3 u8 version = 1 | 4 u16 head_bytes | 6 u8 flags | 7 u8 zero | 8 [16] trace id | 24 [8] span id | 32 tracestate
    /// ```
    pub fn write(&self, out: &mut Vec<u8>) {
        let head_bytes = u16::try_from(self.head_bytes()).expect("a head is at most TRACE_HEAD_BYTES_MAX");
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&head_bytes.to_le_bytes());
        out.extend_from_slice(&[self.flags, 0]);
        out.extend_from_slice(&self.trace_id);
        out.extend_from_slice(&self.span_id);
        out.extend_from_slice(self.state.as_bytes());
    }
}

/// What stands before a body, as far as this is of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceHead {
    /// The context; of a later version, or one that breaks a rule, none.
    pub context: Result<TraceContext, Malformed>,
    /// Where the body begins.
    pub bytes: usize,
}

impl TraceHead {
    /// Reads the head of a payload; `None` when there is none, or when it does not say where its body begins: then all of it is the
    /// application's.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let fixed = payload.first_chunk::<FIXED_BYTES>().filter(|fixed| fixed.starts_with(&MAGIC))?;
        let [_, _, _, version, low, high, flags, zero] = *fixed;
        let bytes = usize::from(u16::from_le_bytes([low, high]));
        let head = payload.get(..bytes).filter(|head| (FIXED_BYTES..=TRACE_HEAD_BYTES_MAX).contains(&head.len()))?;
        let context = if (version, zero) == (VERSION, 0) { context(head, flags) } else { Err(Malformed) };
        Some(Self { context, bytes })
    }
}

fn context(head: &[u8], flags: u8) -> Result<TraceContext, Malformed> {
    let (ids, state) = head[FIXED_BYTES..].split_first_chunk::<24>().ok_or(Malformed)?;
    let (trace_id, span_id) = ids.split_first_chunk::<16>().ok_or(Malformed)?;
    let span_id = span_id.first_chunk().ok_or(Malformed)?;
    let state = str::from_utf8(state).map_err(|_| Malformed)?;
    if state.len() > TRACESTATE_BYTES_MAX {
        return Err(Malformed);
    }
    TraceContext::new(*trace_id, *span_id, flags, state)
}

/// As many whole members from the front as there is room for.
fn shortened(state: &str) -> &str {
    match state.get(..TRACESTATE_BYTES_MAX + 1) {
        None => state,
        Some(front) => front.rfind(',').map_or("", |end| &state[..end]),
    }
}

/// Lower-case hexadecimal digits.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
