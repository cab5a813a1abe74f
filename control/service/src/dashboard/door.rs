//! Who is let in to a dashboard: by a link that holds once, then by a key that a tab of a browser keeps to itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use creto_crypto_accel::digest::{Hash, sha256};
use zeroize::Zeroizing;

use crate::limits::{DASHBOARD_KEYS_MAX, DASHBOARD_LINK_LIFETIME};

/// Bytes of a token and of a key: nobody guesses them, however fast the server answers.
const SECRET_BYTES: usize = 32;
const HTTP_PORT: u16 = 80;

/// The door of one dashboard.
pub(super) struct Door {
    /// Hosts that a request may be addressed to.
    authorities: Vec<String>,
    keys: Mutex<Keys>,
}

struct Keys {
    /// What the newest link lets in, if it was not used, and until when.
    token: Option<(Zeroizing<String>, Instant)>,
    /// Digests of the keys that were given, the oldest first. Comparing digests tells nobody by its time how much of a key is right.
    given: VecDeque<Hash>,
}

impl Door {
    pub(super) fn new(address: SocketAddr) -> Self {
        let mut authorities = vec![address.to_string(), format!("localhost:{}", address.port())];
        if address.port() == HTTP_PORT {
            // Browsers leave out the port that goes without saying.
            authorities.extend([address.ip().to_string(), "localhost".to_owned()]);
        }
        Self { authorities, keys: Mutex::new(Keys { token: None, given: VecDeque::new() }) }
    }

    /// Makes a link, which holds once and for [`DASHBOARD_LINK_LIFETIME`]; the one before it holds no more. What is behind `#` never leaves the browser by itself, not even for this server: so a link that
    /// is opened by something that only looks at it is not used up.
    pub(super) fn make_link(&self, now: Instant) -> Result<String, getrandom::Error> {
        let token = secret()?;
        let link = format!("http://{}/#{}", self.authorities[0], token.as_str());
        self.keys().token = Some((token, now + DASHBOARD_LINK_LIFETIME));
        Ok(link)
    }

    /// Gives a key for the token of the newest link, which is used up by it; `None` for anything else.
    pub(super) fn enter(&self, token: &str, now: Instant) -> Option<Result<Zeroizing<String>, getrandom::Error>> {
        let mut keys = self.keys();
        let (ours, until) = keys.token.as_ref()?;
        if digest(token) != digest(ours) || now >= *until {
            return None;
        }
        Some(secret().inspect(|key| {
            keys.token = None;
            if keys.given.len() == DASHBOARD_KEYS_MAX {
                keys.given.pop_front();
            }
            keys.given.push_back(digest(key));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn door(port: u16) -> Door {
        Door::new(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[test]
    fn a_link_holds_once_and_for_some_minutes_and_no_longer_than_until_the_next() {
        let (door, now) = (door(7_441), Instant::now());
        assert!(door.enter("", now).is_none(), "there is none yet");
        let token = |link: String| link.split_once('#').unwrap().1.to_owned();
        let made = |at| token(door.make_link(at).unwrap());
        let (first, second) = (made(now), made(now));
        assert!(door.enter(&first, now).is_none(), "the next one took its place");
        let just = now + DASHBOARD_LINK_LIFETIME;
        assert!(door.enter(&second, just).is_none(), "it is too old");
        let key = door.enter(&second, just.checked_sub(Duration::from_millis(1)).unwrap()).unwrap().unwrap();
        assert!(door.is_key(&key) && !door.is_key(&second));
        assert!(door.enter(&second, now).is_none(), "it was used");
    }

    #[test]
    fn a_browser_says_no_port_when_it_is_that_of_http_and_is_let_in() {
        let is_addressed = |port, host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            origin.map(|origin| headers.insert(header::ORIGIN, origin.parse().unwrap()));
            door(port).is_addressed(&headers)
        };
        for host in ["127.0.0.1", "localhost"] {
            assert!(is_addressed(80, host, None) && is_addressed(80, &format!("{host}:80"), None));
            assert!(is_addressed(80, host, Some(&format!("http://{host}"))));
            assert!(!is_addressed(80, host, Some("http://evil.example")));
            assert!(!is_addressed(7_441, host, None));
        }
    }
}
