//! Who comes over TCP: an administrator, who signs each request with both keys of an agent, or somebody who asks only whether
//! the node lives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use creto_audit::event::Peer;
use creto_audit::{Label, What};
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::{AgentId, AgentName, TrustDomain};

use super::{Refusal, number_of, refuse};
use crate::api::ErrorCode;
use crate::limits::{
    ADMINISTRATOR_BURST, ADMINISTRATOR_REQUEST, NONCES_MAX, SIGNATURE_SKEW_S, SIGNED_KEY_RECORD_BYTES_MAX,
};
use crate::service::{Published, wall_clock_ms};
use crate::signed_request::{
    CONTENT_DIGEST, Claim, NONCE_BYTES, SIGNATURE, SIGNATURE_INPUT, Signatures, Target, content_digest,
};
use crate::telling::Teller;

/// Whoever asks these need not say who they are: they are for whatever restarts the node.
const OPEN_PATHS: [&str; 2] = ["/live", "/ready"];

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
    trust_domain: TrustDomain,
    snapshot: Published,
    teller: Teller,
    administrators: BTreeSet<AgentId>,
    /// Hosts that a request may be addressed to, in lower case: a request to another node is not taken here, and no page in a
    /// browser gets in by a name that leads here.
    authorities: [String; 2],
    seen: Mutex<Seen>,
}

/// What is remembered of requests whose signatures held.
#[derive(Default)]
struct Seen {
    nonces: BTreeSet<(AgentId, [u8; NONCE_BYTES])>,
    /// The same, with the second after which a request is refused by its time; that one grows.
    until: VecDeque<(u64, AgentId, [u8; NONCE_BYTES])>,
    /// When each administrator's allowance is full again.
    full_at: BTreeMap<AgentId, Instant>,
}

impl Gate {
    pub(crate) fn new(
        address: SocketAddr,
        administrators: &[AgentName],
        trust_domain: TrustDomain,
        snapshot: Published,
        teller: Teller,
    ) -> Self {
        let administrators = administrators.iter().map(|name| AgentId::derive(&trust_domain, name)).collect();
        let authorities = [address.to_string(), format!("localhost:{}", address.port())];
        let seen = Mutex::default();
        Self(Arc::new(Inner { trust_domain, snapshot, teller, administrators, authorities, seen }))
    }

    /// Who signed this request, if it may be taken. `body` is the whole one.
    fn admit(&self, request: &Request, body: &[u8], asked: &mut Caller) -> Result<(), Refusal> {
        let gate = &*self.0;
        let headers = request.headers();
        let unsigned = || refuse(ErrorCode::RequestUnsigned, "the request is not signed as this API wants it");
        let claim = text(headers, SIGNATURE_INPUT).and_then(Claim::parse).ok_or_else(unsigned)?;
        let signatures = text(headers, SIGNATURE).and_then(Signatures::parse).ok_or_else(unsigned)?;
        let digest = text(headers, CONTENT_DIGEST).ok_or_else(unsigned)?;
        let authority = text(headers, header::HOST.as_str()).map(str::to_ascii_lowercase).ok_or_else(unsigned)?;

        if !gate.authorities.contains(&authority) {
            return Err(refuse(ErrorCode::Authority, format!("{authority} is not what this node listens on")));
        }
        let agent = AgentId::derive(&gate.trust_domain, &claim.name);
        if !gate.administrators.contains(&agent) {
            let message = format!("{} is no administrator of this node", claim.name);
            return Err(refuse(ErrorCode::NotAdministrator, message));
        }
        asked.agent = agent;
        let now_ms = wall_clock_ms();
        if claim.created_s.abs_diff(now_ms / 1_000) > SIGNATURE_SKEW_S {
            let message = format!("the request was signed more than {SIGNATURE_SKEW_S} s from this node's time");
            return Err(refuse(ErrorCode::RequestStale, message));
        }
        let snapshot = gate.snapshot.newest();
        let principal = snapshot.principal(&agent);
        let principal = principal
            .ok_or_else(|| refuse(ErrorCode::NotAdministrator, format!("{} is not registered", claim.name)))?;
        principal.may_act(now_ms).map_err(|code| {
            refuse(ErrorCode::NotAdministrator, format!("{} may not act: {}", claim.name, code.name()))
        })?;
        if content_digest(body) != digest {
            return Err(refuse(ErrorCode::ContentDigest, "the body is not the one whose digest was signed"));
        }
        let base = claim.base(&Target {
            method: request.method().as_str(),
            authority: &authority,
            request_target: request.uri().path_and_query().map_or("/", |target| target.as_str()),
            content_digest: digest,
        });
        let record = &principal.current().record;
        let held = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65)
            .is_ok_and(|keys| keys.verify(&base, &signatures.ed25519, &signatures.ml_dsa_65).is_ok());
        if !held {
            let message = format!("the signatures are not both those of {}", claim.name);
            return Err(refuse(ErrorCode::RequestSignature, message));
        }
        let mut seen = gate.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.take(agent, &claim, now_ms, Instant::now())
    }
}

impl Seen {
    /// Once each, and not too many in a time. What comes here was signed: nobody else's requests take room.
    fn take(&mut self, agent: AgentId, claim: &Claim, now_ms: u64, now: Instant) -> Result<(), Refusal> {
        while let Some((_, agent, nonce)) = self.until.pop_front_if(|(until_s, ..)| *until_s < now_ms / 1_000) {
            self.nonces.remove(&(agent, nonce));
        }
        if self.nonces.contains(&(agent, claim.nonce)) {
            return Err(refuse(ErrorCode::RequestReplayed, "this request was taken before"));
        }
        let full_at = self.full_at.get(&agent).map_or(now, |full_at| now.max(*full_at));
        if full_at - now > ADMINISTRATOR_REQUEST * (ADMINISTRATOR_BURST - 1) || self.nonces.len() >= NONCES_MAX {
            return Err(refuse(ErrorCode::TooManyRequests, format!("{} asks too often", claim.name)));
        }
        self.nonces.insert((agent, claim.nonce));
        // The clock may be set back meanwhile by as much as a signature may be ahead of it.
        self.until.push_back((now_ms / 1_000 + 2 * SIGNATURE_SKEW_S, agent, claim.nonce));
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

/// Lets an administrator's request through, with who it is.
pub(super) async fn authenticate(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    if OPEN_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Origin>().map_or_else(Peer::default, |origin| origin.0.into());
    let mut caller = Caller { agent: AgentId::ZERO, peer };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (head, body) = request.into_parts();
    let admitted = match to_bytes(body, SIGNED_KEY_RECORD_BYTES_MAX).await {
        Ok(body) => {
            let unread = Request::from_parts(head, Body::empty());
            gate.admit(&unread, &body, &mut caller).map(|()| {
                let (head, _) = unread.into_parts();
                Request::from_parts(head, Body::from(body))
            })
        }
        Err(_) => Err(refuse(
            ErrorCode::BodyTooLarge,
            format!("the body is larger than {SIGNED_KEY_RECORD_BYTES_MAX} bytes, or ended early"),
        )),
    };
    match admitted {
        Ok(mut request) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) => {
            let what =
                What::AdministrationRefused { actor: caller.agent, peer: caller.peer, code: number_of(refusal.code) };
            gate.0.teller.refused(what, Label::of(&format!("{method} {path}")));
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
    fn a_nonce_is_taken_once_for_as_long_as_its_request_would_be() {
        let (mut seen, agent, mut now) = (Seen::default(), AgentId([1; 16]), Instant::now());
        let mut take = |agent, nonce, now_ms| {
            // Its rate is another matter.
            now += ADMINISTRATOR_REQUEST;
            (code(seen.take(agent, &claim(nonce), now_ms, now)), seen.nonces.len(), seen.until.len())
        };
        assert_eq!(take(agent, 1, 1_000_000), (None, 1, 1));
        let last_ms = 1_000_000 + 2 * SIGNATURE_SKEW_S * 1_000;
        for now_ms in [1_000_000, 1_000_000 - SIGNATURE_SKEW_S * 1_000, last_ms] {
            assert_eq!(take(agent, 1, now_ms).0, Some(ErrorCode::RequestReplayed), "at {now_ms}");
        }
        assert_eq!(take(AgentId([2; 16]), 1, last_ms).0, None, "another agent's");
        assert_eq!(take(agent, 2, last_ms + 2_000), (None, 2, 2), "what is too old to be taken again is forgotten");
    }

    #[test]
    fn an_administrator_has_an_allowance_that_fills_again() {
        let (mut seen, agent, now) = (Seen::default(), AgentId([1; 16]), Instant::now());
        let mut nonce = 0;
        let mut ask = |now| {
            nonce += 1;
            code(seen.take(agent, &claim(nonce), 1_000_000, now))
        };
        for _ in 0..ADMINISTRATOR_BURST {
            assert_eq!(ask(now), None);
        }
        assert_eq!(ask(now), Some(ErrorCode::TooManyRequests));
        assert_eq!(ask(now + ADMINISTRATOR_REQUEST), None, "one more after the time of one");
        assert_eq!(ask(now + ADMINISTRATOR_REQUEST), Some(ErrorCode::TooManyRequests));
    }
}
