//! The dashboard: a page about one node for a browser on this machine, and the few answers of the node's control socket that the page
//! may have.
//!
//! A browser can neither open the control socket nor sign requests as the API over TCP wants them, and shall do neither. So whoever may
//! open the socket starts this server beside it, on an address of this machine, and opens a [link](Links::make) to it: what gets in by
//! the link is let in once and given a key, which every request for an answer of the node brings along. It passes on nothing but the
//! paths of `forwarded`, and nothing but GET. The page itself and its scripts are the same for everybody and have no secret; they
//! come from this binary and load nothing from elsewhere.
//!
//! Why there is no cookie and what else there was: `docs/decisions/2026-12-01-dashboard-in-a-browser.md`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use crate::api::ApiError;
use crate::client::{Client, ClientError};
use crate::http;
use crate::limits::{DASHBOARD_CONNECTIONS_MAX, DASHBOARD_EVENTS_MAX, DASHBOARD_FORWARDS_MAX};

mod door;

use door::Door;

/// Nothing from elsewhere, no script and no style inside of a page, and nobody may frame it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// What every answer says, whatever it is.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The page: path, media type, content.
const PAGE: [(&str, &str, &str); 8] = [
    ("/", "text/html; charset=utf-8", include_str!("dashboard/page/page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("dashboard/page/page.css")),
    ("/page.mjs", JAVASCRIPT, include_str!("dashboard/page/page.mjs")),
    ("/readings.mjs", JAVASCRIPT, include_str!("dashboard/page/readings.mjs")),
    ("/chart.mjs", JAVASCRIPT, include_str!("dashboard/page/chart.mjs")),
    ("/proof.mjs", JAVASCRIPT, include_str!("dashboard/page/proof.mjs")),
    ("/kinds.mjs", JAVASCRIPT, include_str!("dashboard/page/kinds.mjs")),
    ("/icon.svg", "image/svg+xml", include_str!("dashboard/page/icon.svg")),
];

/// Why there is no dashboard.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DashboardError {
    /// the port cannot be listened on
    #[error("cannot listen on port {port} of 127.0.0.1: {source}; choose another one with --port")]
    Listen {
        /// As it was asked for.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// there are no random bytes
    #[error("the system has no random bytes: {0}; look at its log")]
    Random(getrandom::Error),
}

/// A server of the page, which listens already.
#[derive(Debug)]
pub struct Dashboard {
    listener: TcpListener,
    address: SocketAddr,
    state: Shared,
    entered: mpsc::Receiver<()>,
}

/// Makes links to a dashboard, also while it serves. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Links(Arc<Door>);

impl Links {
    /// A link that lets one browser in, once and for ten minutes: to be shown to nobody else. The one before it holds no more.
    ///
    /// # Errors
    /// [`DashboardError::Random`].
    pub fn make(&self) -> Result<String, DashboardError> {
        self.0.make_link(Instant::now()).map_err(DashboardError::Random)
    }
}

/// What every request can reach.
#[derive(Clone, Debug)]
struct Shared {
    client: Client,
    door: Arc<Door>,
    /// The node's socket takes few connections at a time, and others ask there too.
    forwards: Arc<Semaphore>,
    entered: mpsc::Sender<()>,
}

impl Dashboard {
    /// Listens on this port of 127.0.0.1, 0 for any, for the node that `client` asks, and waits for each of its answers as long as that
    /// one does.
    ///
    /// # Errors
    /// [`DashboardError`].
    pub async fn bind(port: u16, client: Client) -> Result<Self, DashboardError> {
        let refused = |source| DashboardError::Listen { port, source };
        let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), port)).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let door = Arc::new(Door::new(address));
        let (entered, told) = mpsc::channel(1);
        let forwards = Arc::new(Semaphore::new(DASHBOARD_FORWARDS_MAX));
        Ok(Self { listener, address, state: Shared { client, door, forwards, entered }, entered: told })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What makes links to it. Until the first is made nobody is let in.
    #[must_use]
    pub fn links(&self) -> Links {
        Links(Arc::clone(&self.state.door))
    }

    /// Serves until `stopped` resolves. `told` is called each time that a browser was let in, which uses its link up.
    pub async fn serve(self, stopped: impl Future<Output = ()>, mut told: impl FnMut()) {
        let Self { listener, state, mut entered, .. } = self;
        let router = router(state);
        let tell = async {
            while entered.recv().await.is_some() {
                told();
            }
        };
        tokio::select! {
            () = http::serve_tcp(listener, router, DASHBOARD_CONNECTIONS_MAX, stopped) => {}
            // Not before the router is gone, which holds the sending half.
            () = tell => {}
        }
    }
}

fn router(state: Shared) -> Router {
    let node = forwarded().layer(middleware::from_fn_with_state(state.clone(), only_with_key));
    let page = PAGE.into_iter().fold(Router::new(), |router, (path, media_type, content)| {
        router.route(path, get(async move || ([(header::CONTENT_TYPE, media_type)], content)))
    });
    page.merge(node)
        .route("/session", post(enter))
        .fallback(async || {
            refuse(StatusCode::NOT_FOUND, "path_unknown", "the dashboard has no such path", "open its page")
        })
        .method_not_allowed_fallback(async || {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "method", "the dashboard changes nothing", "use `creto` for that")
        })
        .layer(middleware::from_fn_with_state(state.clone(), only_from_here))
        .layer(middleware::map_response(with_headers))
        .with_state(state)
}

/// What of the control API the page may have: counts, names, states and proofs. No payload is in any of it: the node has none to show.
fn forwarded() -> Router<Shared> {
    let fixed = [
        ("/v1/ready", JSON),
        ("/v1/status", JSON),
        ("/v1/metrics", JSON),
        ("/v1/mailboxes/fullest", JSON),
        ("/v1/audit/checkpoint", TEXT),
        ("/v1/audit/keys", TEXT),
    ];
    let router = fixed.into_iter().fold(Router::new(), |router, (path, media_type)| {
        router.route(path, get(async move |State(state): State<Shared>| forward(&state, path, media_type).await))
    });
    router.route("/v1/audit/events", get(events)).route("/v1/audit/proofs/{leaf}", get(proof))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    from: u64,
    limit: usize,
}

async fn events(State(state): State<Shared>, query: Result<Query<EventsQuery>, QueryRejection>) -> Response {
    // What is passed on is written here: nothing of the request's own text.
    match query {
        Ok(Query(EventsQuery { from, limit })) if limit <= DASHBOARD_EVENTS_MAX => {
            forward(&state, &format!("/v1/audit/events?from={from}&limit={limit}"), JSON).await
        }
        _ => {
            let message =
                format!("events are asked for by `from` and `limit`, which is at most {DASHBOARD_EVENTS_MAX}");
            refuse(StatusCode::BAD_REQUEST, "query_invalid", message, "correct the query")
        }
    }
}

async fn proof(State(state): State<Shared>, leaf: Result<Path<u64>, PathRejection>) -> Response {
    match leaf {
        Ok(Path(leaf)) => forward(&state, &format!("/v1/audit/proofs/{leaf}"), TEXT).await,
        Err(_) => refuse(StatusCode::NOT_FOUND, "leaf_unknown", "that is no number of a leaf", "leaves count from 0"),
    }
}

/// What the node answers, as it is. Only why it cannot be asked is said here.
async fn forward(state: &Shared, path: &str, media_type: &'static str) -> Response {
    let permit = state.forwards.acquire().await.expect("it is never closed");
    let answered = state.client.fetch(path).await;
    drop(permit);
    let unreachable = |status, error: &ClientError| {
        let text = error.to_string();
        let (message, next) = text.rsplit_once("; ").unwrap_or((&text, ""));
        refuse(status, "node_unreachable", message, next)
    };
    match answered {
        Ok((status, body)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            // A node that is not ready says so with the same object as one that is.
            let is_problem = !status.is_success() && serde_json::from_slice::<ApiError>(&body).is_ok();
            let media_type = if is_problem { http::PROBLEM_JSON } else { media_type };
            (status, [(header::CONTENT_TYPE, media_type)], body).into_response()
        }
        Err(error @ ClientError::Timeout(_)) => unreachable(StatusCode::GATEWAY_TIMEOUT, &error),
        Err(error) => unreachable(StatusCode::BAD_GATEWAY, &error),
    }
}

/// Lets in who brings the link's token, and gives a key for it.
async fn enter(State(state): State<Shared>, headers: HeaderMap) -> Response {
    let entered = bearer(&headers).and_then(|token| state.door.enter(token, Instant::now()));
    match entered {
        Some(Ok(key)) => {
            // Nobody is told any more when the server is being stopped.
            let _ = state.entered.send(()).await;
            (StatusCode::CREATED, Json(json!({ "key": key.as_str() }))).into_response()
        }
        Some(Err(error)) => {
            let message = format!("the system has no random bytes: {error}");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "random", message, "look at its log")
        }
        None => refuse(
            StatusCode::UNAUTHORIZED,
            "link_used",
            "this link was used before, is older than ten minutes, or is none",
            "press Enter where `creto dashboard` runs, and open the link that it shows",
        ),
    }
}

/// Answers of the node are for who was let in.
async fn only_with_key(State(state): State<Shared>, request: Request, next: Next) -> Response {
    match bearer(request.headers()) {
        Some(key) if state.door.is_key(key) => next.run(request).await,
        _ => {
            let next = "open the link that `creto dashboard` shows";
            refuse(StatusCode::UNAUTHORIZED, "key_missing", "this browser was not let in, or too long ago", next)
        }
    }
}

/// A page of another name that leads here (DNS rebinding), and one of another origin, get nothing at all.
async fn only_from_here(State(state): State<Shared>, request: Request, next: Next) -> Response {
    if state.door.is_addressed(request.headers()) {
        return next.run(request).await;
    }
    let next = "open the link as `creto dashboard` shows it";
    refuse(
        StatusCode::MISDIRECTED_REQUEST,
        "authority",
        "the request is addressed to another host, or of another page",
        next,
    )
}

async fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)?.strip_prefix("Bearer ")
}

fn refuse(status: StatusCode, code: &str, message: impl Into<String>, next: &str) -> Response {
    let body = ApiError {
        title: status.canonical_reason().unwrap_or("Refused").to_owned(),
        status: status.as_u16(),
        code: code.to_owned(),
        message: message.into(),
        next: next.to_owned(),
    };
    (status, [(header::CONTENT_TYPE, http::PROBLEM_JSON)], Json(body)).into_response()
}
