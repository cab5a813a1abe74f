//! Who is let in to a dashboard: by a link that holds once, then by a key that a tab of a browser keeps to itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderMap, HeaderName, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use creto_crypto_accel::digest::{Hash, sha256};
use zeroize::Zeroizing;

use crate::limits::DASHBOARD_KEYS_MAX;

/// Bytes of a token and of a key: nobody guesses them, however fast the server answers.
const SECRET_BYTES: usize = 32;

/// The door of one dashboard.
pub(super) struct Door {
    /// Hosts that a request may be addressed to.
    authorities: [String; 2],
    keys: Mutex<Keys>,
}

struct Keys {
    /// What the link that was not used yet lets in.
    token: Zeroizing<String>,
    /// Digests of the keys that were given, the oldest first. Comparing digests tells nobody by its time how much of a key is right.
    given: VecDeque<Hash>,
}

impl Door {
    pub(super) fn new(address: SocketAddr) -> Result<Self, getrandom::Error> {
        let authorities = [address.to_string(), format!("localhost:{}", address.port())];
        Ok(Self { authorities, keys: Mutex::new(Keys { token: secret()?, given: VecDeque::new() }) })
    }

    /// The link that was not used yet. What is behind `#` never leaves the browser by itself, not even for this server: so a link that
    /// is opened by something that only looks at it is not used up.
    pub(super) fn link(&self) -> String {
        self.link_to(&self.keys().token)
    }

    fn link_to(&self, token: &str) -> String {
        format!("http://{}/#{token}", self.authorities[0])
    }

    /// Gives a key for the token of the link, and makes the next link; `None` for anything else.
    pub(super) fn enter(&self, token: &str) -> Option<Result<(Zeroizing<String>, String), getrandom::Error>> {
        let mut keys = self.keys();
        if digest(token) != digest(&keys.token) {
            return None;
        }
        let made = secret().and_then(|key| Ok((key, secret()?)));
        Some(made.map(|(key, next_token)| {
            keys.token = next_token;
            if keys.given.len() == DASHBOARD_KEYS_MAX {
                keys.given.pop_front();
            }
            keys.given.push_back(digest(&key));
            (key, self.link_to(&keys.token))
        }))
    }

    pub(super) fn is_key(&self, key: &str) -> bool {
        let key = digest(key);
        self.keys().given.contains(&key)
    }

    /// Whether a request is meant for this server, and comes from its own page if it comes from a page.
    pub(super) fn is_addressed(&self, headers: &HeaderMap) -> bool {
        let is_ours = |authority: &str| self.authorities.iter().any(|ours| ours == authority);
        let host = only(headers, header::HOST);
        let has_origin = headers.contains_key(header::ORIGIN);
        let origin = only(headers, header::ORIGIN).and_then(|origin| origin.strip_prefix("http://"));
        host.is_some_and(is_ours) && (!has_origin || (origin == host))
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        // What it guards is whole at every moment.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("authorities", &self.authorities).finish_non_exhaustive()
    }
}

/// The header's one value.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)?.to_str().ok()
}

fn secret() -> Result<Zeroizing<String>, getrandom::Error> {
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    getrandom::fill(&mut bytes[..])?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(&bytes[..])))
}

fn digest(secret: &str) -> Hash {
    sha256(&[secret.as_bytes()])
}
