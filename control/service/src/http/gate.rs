//! Who comes over TCP: an administrator, who signs each request with both keys of an agent, or somebody who asks only whether
//! the node lives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use creto_audit::event::Peer;
use creto_audit::{Label, What};
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::{AgentId, AgentName};
use tokio::sync::Mutex as AsyncMutex;

use super::{Refusal, log_failure, number_of, refuse, storage_failed};
use crate::api::ErrorCode;
use crate::directory::Reader;
use crate::limits::{
    ADMINISTRATOR_BURST, ADMINISTRATOR_REQUEST, ATTRIBUTES_BODY_BYTES_MAX, NONCES_MAX, REQUEST_TIMEOUT,
    SIGNATURE_SKEW_S, SVID_BODY_BYTES_MAX,
};
use crate::service::{Published, wall_clock_ms};
use crate::signed_request::{
    CONTENT_DIGEST, Claim, NONCE_BYTES, SIGNATURE, SIGNATURE_INPUT, Signatures, Target, content_digest,
};
use crate::telling::Teller;

/// Whoever asks these need not say who they are: they are for whatever restarts the node.
const OPEN_PATHS: [&str; 2] = ["/live", "/ready"];

/// The largest body of any request.
const BODY_BYTES_MAX: usize = ATTRIBUTES_BODY_BYTES_MAX;
const _: () = assert!(BODY_BYTES_MAX >= SVID_BODY_BYTES_MAX);

tokio::task_local! {
    static CALLER: Caller;
}

/// Who asked for what is being done.
pub(super) fn caller() -> Caller {
    CALLER.try_with(|caller| *caller).unwrap_or_default()
}

/// Who asked, for whoever tells the audit log.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Caller {
    /// Zero on the control socket, and while it is not known.
    pub(super) agent: AgentId,
    pub(super) peer: Peer,
}

/// From where a connection comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin(pub(super) IpAddr);

/// The door of the API over TCP. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Inner>);

struct Inner {
    reader: Reader,
    snapshot: Published,
    /// Of administrators who came. All versions of an agent's key record have the same signing keys, so they are read once.
    keys: Mutex<BTreeMap<AgentId, Arc<VerifyingKeys>>>,
    /// Held by whoever reads one of them: what strangers claim costs one thread at most.
    reading: AsyncMutex<()>,
    teller: Teller,
    administrators: BTreeSet<AgentId>,
    /// Hosts that a request may be addressed to, in lower case: a request to another node is not taken here, and no page in a
    /// browser gets in by a name that leads here.
    authorities: [String; 2],
    seen: Mutex<Seen>,
}

/// What is remembered of requests whose signatures held.
struct Seen {
    nonces: BTreeSet<(AgentId, [u8; NONCE_BYTES])>,
    /// The same in the order of their coming, with when that was and when they were signed.
    order: VecDeque<(Instant, u64, AgentId, [u8; NONCE_BYTES])>,
    /// What was signed before this second is refused: before the node started, or at the time of what is forgotten.
    floor_s: u64,
    /// When each administrator's allowance is full again.
    full_at: BTreeMap<AgentId, Instant>,
}

impl Gate {
    pub(crate) fn new(
        address: SocketAddr,
        administrators: &[AgentName],
        reader: Reader,
        snapshot: Published,
        teller: Teller,
    ) -> Self {
        let of_name = |name| AgentId::derive(reader.trust_domain(), name);
        let administrators = administrators.iter().map(of_name).collect();
        let authorities = [address.to_string(), format!("localhost:{}", address.port())];
        let seen = Mutex::new(Seen::since(wall_clock_ms() / 1_000));
        let (keys, reading) = (Mutex::default(), AsyncMutex::default());
        Self(Arc::new(Inner { reader, snapshot, keys, reading, teller, administrators, authorities, seen }))
    }

    /// The signing keys of an administrator who is registered.
    async fn keys_of(&self, agent: AgentId) -> Result<Arc<VerifyingKeys>, Refusal> {
        let known = || self.0.keys.lock().unwrap_or_else(PoisonError::into_inner).get(&agent).map(Arc::clone);
        if let Some(keys) = known() {
            return Ok(keys);
        }
        let _one_at_a_time = self.0.reading.lock().await;
        if let Some(keys) = known() {
            return Ok(keys);
        }
        let reader = self.0.reader.clone();
        let record = tokio::task::spawn_blocking(move || reader.current_record(agent)).await;
        let record = record.map_err(|_| storage_failed("the directory was not read"))?.map_err(log_failure)?;
        let keys = record.and_then(|record| VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65).ok());
        let keys = Arc::new(keys.ok_or_else(|| storage_failed("the keys of an administrator cannot be used"))?);
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(agent, Arc::clone(&keys));
        Ok(keys)
    }

    /// Takes a request by its head: signed by an administrator who may act, in time, and for the first time. `caller` is who it is
    /// once the signatures held, and `claimed` whose they were to be.
    async fn admit(&self, head: &Parts, caller: &mut Caller, claimed: &mut String) -> Result<(), Refusal> {
        let gate = &*self.0;
        let headers = &head.headers;
        let unsigned = || refuse(ErrorCode::RequestUnsigned, "the request is not signed as this API wants it");
        let claim = text(headers, SIGNATURE_INPUT).and_then(Claim::parse).ok_or_else(unsigned)?;
        let signatures = text(headers, SIGNATURE).and_then(Signatures::parse).ok_or_else(unsigned)?;
        let content_digest = text(headers, CONTENT_DIGEST).ok_or_else(unsigned)?;
        let authority = text(headers, header::HOST.as_str()).map(str::to_ascii_lowercase).ok_or_else(unsigned)?;

        if !gate.authorities.contains(&authority) {
            return Err(refuse(ErrorCode::Authority, format!("{authority} is not what this node listens on")));
        }
        let agent = AgentId::derive(gate.reader.trust_domain(), &claim.name);
        if !gate.administrators.contains(&agent) {
            let message = format!("{} is no administrator of this node", claim.name);
            return Err(refuse(ErrorCode::NotAdministrator, message));
        }
        *claimed = format!(", as {}", claim.name);
        let now_ms = wall_clock_ms();
        if claim.created_s.abs_diff(now_ms / 1_000) > SIGNATURE_SKEW_S {
            let message = format!("the request was signed more than {SIGNATURE_SKEW_S} s from this node's time");
            return Err(refuse(ErrorCode::RequestStale, message));
        }
        let may_act = || {
            let snapshot = gate.snapshot.newest();
            let principal = snapshot
                .principal(&agent)
                .ok_or_else(|| refuse(ErrorCode::NotAdministrator, format!("{} is not registered", claim.name)))?;
            principal.may_act(now_ms).map_err(|code| {
                refuse(ErrorCode::NotAdministrator, format!("{} may not act: {}", claim.name, code.name()))
            })
        };
        may_act()?;
        let keys = self.keys_of(agent).await?;
        // Whoever was revoked while the keys were read is not let in.
        may_act()?;
        let base = claim.base(&Target {
            method: head.method.as_str(),
            authority: &authority,
            request_target: head.uri.path_and_query().map_or("/", |target| target.as_str()),
            content_digest,
        });
        if keys.verify(&base, &signatures.ed25519, &signatures.ml_dsa_65).is_err() {
            let message = format!("the signatures are not both those of {}", claim.name);
            return Err(refuse(ErrorCode::RequestSignature, message));
        }
        caller.agent = agent;
        let mut seen = gate.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.take(agent, &claim, Instant::now())
    }
}

impl Seen {
    fn since(floor_s: u64) -> Self {
        Self { nonces: BTreeSet::new(), order: VecDeque::new(), floor_s, full_at: BTreeMap::new() }
    }

    /// Once each, and not too many in a time. What comes here was signed: nobody else's requests take room.
    fn take(&mut self, agent: AgentId, claim: &Claim, now: Instant) -> Result<(), Refusal> {
        let kept = Duration::from_secs(3 * SIGNATURE_SKEW_S);
        while let Some((_, created_s, agent, nonce)) = self.order.pop_front_if(|(at, ..)| now - *at > kept) {
            self.nonces.remove(&(agent, nonce));
            // By the clock it is too old by far. If somebody sets that back, it is refused by this.
            self.floor_s = self.floor_s.max(created_s + 1);
        }
        if claim.created_s < self.floor_s {
            return Err(refuse(ErrorCode::RequestStale, "the request was signed before what this node remembers"));
        }
        if self.nonces.contains(&(agent, claim.nonce)) {
            return Err(refuse(ErrorCode::RequestReplayed, "this request was taken before"));
        }
        let full_at = self.full_at.get(&agent).map_or(now, |full_at| now.max(*full_at));
        if full_at - now > ADMINISTRATOR_REQUEST * (ADMINISTRATOR_BURST - 1) || self.nonces.len() >= NONCES_MAX {
            return Err(refuse(ErrorCode::TooManyRequests, format!("{} asks too often", claim.name)));
        }
        self.nonces.insert((agent, claim.nonce));
        self.order.push_back((now, claim.created_s, agent, claim.nonce));
        self.full_at.insert(agent, full_at + ADMINISTRATOR_REQUEST);
        Ok(())
    }
}

/// The value of a header that is there once and is text.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The whole body of a request that was taken, if it is the one that was signed.
async fn body_of(head: &Parts, body: Body) -> Result<Bytes, Refusal> {
    let body = match tokio::time::timeout(REQUEST_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let message = format!("the body is larger than {BODY_BYTES_MAX} bytes, or ended early");
            return Err(refuse(ErrorCode::BodyTooLarge, message));
        }
        Err(_) => return Err(refuse(ErrorCode::RequestTimeout, "the body did not come in time")),
    };
    match text(&head.headers, CONTENT_DIGEST) == Some(content_digest(&body).as_str()) {
        true => Ok(body),
        false => Err(refuse(ErrorCode::ContentDigest, "the body is not the one whose digest was signed")),
    }
}

/// Lets an administrator's request through, with who it is.
pub(super) async fn authenticate(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    if OPEN_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Origin>().map_or_else(Peer::default, |origin| origin.0.into());
    let (mut caller, mut claimed) = (Caller { agent: AgentId::ZERO, peer }, String::new());
    let (head, body) = request.into_parts();
    // The body last: whoever is not known takes no memory.
    let admitted = match gate.admit(&head, &mut caller, &mut claimed).await {
        Ok(()) => body_of(&head, body).await,
        Err(refusal) => Err(refusal),
    };
    match admitted {
        Ok(body) => CALLER.scope(caller, next.run(Request::from_parts(head, Body::from(body)))).await,
        Err(refusal) => {
            let what =
                What::AdministrationRefused { actor: caller.agent, peer: caller.peer, code: number_of(refusal.code) };
            gate.0.teller.refused(what, Label::of(&format!("{} {}{claimed}", head.method, head.uri.path())));
            let is_over = refusal.code == ErrorCode::TooManyRequests;
            let mut answer = refusal.into_response();
            if is_over {
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            answer
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(nonce: u8) -> Claim {
        Claim { created_s: 1_000, name: AgentName::parse("acme/ops").expect("a name"), nonce: [nonce; NONCE_BYTES] }
    }

    fn code(result: Result<(), Refusal>) -> Option<ErrorCode> {
        result.err().map(|refusal| refusal.code)
    }

    #[test]
    fn a_request_is_taken_once_whatever_becomes_of_the_clock() {
        let (mut seen, agent, begun) = (Seen::since(900), AgentId([1; 16]), Instant::now());
        assert_eq!(code(seen.take(agent, &Claim { created_s: 899, ..claim(9) }, begun)), Some(ErrorCode::RequestStale));
        assert_eq!(code(seen.take(agent, &claim(1), begun)), None);
        let kept = Duration::from_secs(3 * SIGNATURE_SKEW_S);
        for after in [Duration::ZERO, kept / 2, kept] {
            let again = code(seen.take(agent, &claim(1), begun + after));
            assert_eq!(again, Some(ErrorCode::RequestReplayed), "after {after:?}");
        }
        assert_eq!(code(seen.take(AgentId([2; 16]), &claim(1), begun + kept)), None, "another agent's");
        // It is forgotten, and a clock that was set back does not bring it in again.
        let later = begun + kept + Duration::from_secs(1);
        assert_eq!(code(seen.take(agent, &claim(1), later)), Some(ErrorCode::RequestStale));
        assert_eq!(code(seen.take(agent, &Claim { created_s: 1_001, ..claim(2) }, later)), None);
        assert_eq!((seen.nonces.len(), seen.order.len()), (2, 2));
    }

    #[test]
    fn an_administrator_has_an_allowance_that_fills_again() {
        let (mut seen, agent, now) = (Seen::since(0), AgentId([1; 16]), Instant::now());
        let mut nonce = 0;
        let mut ask = |now| {
            nonce += 1;
            code(seen.take(agent, &claim(nonce), now))
        };
        for _ in 0..ADMINISTRATOR_BURST {
            assert_eq!(ask(now), None);
        }
        assert_eq!(ask(now), Some(ErrorCode::TooManyRequests));
        assert_eq!(ask(now + ADMINISTRATOR_REQUEST), None, "one more after the time of one");
        assert_eq!(ask(now + ADMINISTRATOR_REQUEST), Some(ErrorCode::TooManyRequests));
    }
}
