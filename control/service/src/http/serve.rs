//! Takes connections, on the control socket and over TCP, and serves one request on each.

use std::sync::Arc;

use axum::middleware;
use axum::{Extension, Router};
use creto_audit::event::{Code, Peer};
use creto_audit::{Label, What};
use creto_envelope::AgentId;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use super::gate::{self, Gate, Origin};
use super::{Api, metrics, router};
use crate::health::Health;
use crate::limits::{
    CONNECTION_TIMEOUT, CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_TIMEOUT, REMOTE_CONNECTIONS_MAX, SHUTDOWN_TIMEOUT,
};
use crate::telling::Teller;

/// What the audit log calls a refusal of somebody who is neither the node's user nor root.
const OTHER_USER: &str = "other_user";

/// Serves on the control socket, and over TCP where `remote` is given, until `stopped` resolves; then calls `closed`, finishes
/// what is under way, and says how many requests had to be cut off.
pub(crate) async fn serve(
    listener: UnixListener,
    remote: Option<(TcpListener, Gate)>,
    api: Api,
    stopped: oneshot::Receiver<()>,
    closed: impl FnOnce(),
) -> usize {
    let teller = api.teller.clone();
    let local = router(api);
    let (stop, stopping) = watch::channel(());
    let over_tcp = async {
        let Some((listener, gate)) = remote else { return 0 };
        let router = local.clone().layer(middleware::from_fn_with_state(gate, gate::authenticate));
        let accept = async move || listener.accept().await;
        let admit = |(stream, peer): (_, std::net::SocketAddr)| {
            Some((stream, router.clone().layer(Extension(Origin(peer.ip())))))
        };
        accept_all(REMOTE_CONNECTIONS_MAX, accept, admit, stopping.clone(), || ()).await
    };
    let on_socket = async {
        let accept = async move || listener.accept().await;
        let admit = |(stream, _): (UnixStream, _)| match is_own_user(&stream) {
            Ok(()) => Some((stream, local.clone())),
            Err(uid) => {
                tell_other_user(&teller, uid);
                None
            }
        };
        accept_all(CONNECTIONS_MAX, accept, admit, stopping.clone(), closed).await
    };
    let stopped = async {
        // Also when whoever would say so is gone.
        let _ = stopped.await;
        drop(stop);
    };
    let (on_socket, over_tcp, ()) = tokio::join!(on_socket, over_tcp, stopped);
    on_socket + over_tcp
}

/// Serves `router` on a socket of a node that has no service, until `stopped` resolves. Otherwise as [`serve`].
pub(crate) async fn serve_local(
    listener: UnixListener,
    router: Router,
    stopped: oneshot::Receiver<()>,
    closed: impl FnOnce(),
) -> usize {
    let (stop, stopping) = watch::channel(());
    let accept = async move || listener.accept().await;
    let admit = |(stream, _): (UnixStream, _)| match is_own_user(&stream) {
        Ok(()) => Some((stream, router.clone())),
        Err(uid) => {
            tracing::warn!(uid, "a control connection of another user was refused");
            None
        }
    };
    let stopped = async {
        // Also when whoever would say so is gone.
        let _ = stopped.await;
        drop(stop);
    };
    let (cut_off, ()) = tokio::join!(accept_all(CONNECTIONS_MAX, accept, admit, stopping, closed), stopped);
    cut_off
}

/// Serves what a node counts and measures, until `stopped` resolves.
pub(crate) async fn serve_metrics(listener: TcpListener, health: Health, stopped: oneshot::Receiver<()>) {
    // Also when whoever would say so is gone.
    let stopped = async { drop(stopped.await) };
    serve_tcp(listener, metrics::router(health), REMOTE_CONNECTIONS_MAX, stopped).await;
}

/// Serves `router` to whoever connects, `connections_max` at a time, until `stopped` resolves.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    stopped: impl Future<Output = ()>,
) {
    let (stop, stopping) = watch::channel(());
    let accept = async move || listener.accept().await;
    let admit = |(stream, _): (_, std::net::SocketAddr)| Some((stream, router.clone()));
    let stopped = async {
        stopped.await;
        drop(stop);
    };
    tokio::join!(accept_all(connections_max, accept, admit, stopping, || ()), stopped);
}

/// Takes connections, `connections_max` at a time, until `stop` changes or ends. `admit` says what serves one, if anything does.
async fn accept_all<C, S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    connections_max: usize,
    accept: impl AsyncFn() -> std::io::Result<C>,
    admit: impl Fn(C) -> Option<(S, Router)>,
    mut stop: watch::Receiver<()>,
    closed: impl FnOnce(),
) -> usize {
    let permits = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    let (stopping, stopping_seen) = watch::channel(());
    loop {
        // The permit first: who is over the limit waits in the backlog, not in our memory.
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            (permit, accept().await)
        };
        let (permit, connection) = tokio::select! {
            biased;
            _ = stop.changed() => break,
            (permit, accepted) = accepted => match accepted {
                Ok(connection) => (permit, connection),
                Err(error) => {
                    // Out of file descriptors, most likely: one of ours must end before the next try can do better.
                    tracing::warn!(%error, "a control connection was not accepted");
                    drop(permit);
                    tokio::select! {
                        _ = stop.changed() => break,
                        ended = connections.join_next() => if ended.is_none() {
                            tokio::time::sleep(HEAD_TIMEOUT).await;
                        },
                    }
                    continue;
                }
            },
        };
        while connections.try_join_next().is_some() {}
        let Some((stream, router)) = admit(connection) else { continue };
        let stopping = stopping_seen.clone();
        connections.spawn(async move {
            serve_connection(stream, router, stopping).await;
            drop(permit);
        });
    }
    drop(accept);
    closed();
    drop(stopping);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, all_ended).await.is_ok() {
        return 0;
    }
    let cut_off = connections.len();
    connections.shutdown().await;
    cut_off
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    mut stopping: watch::Receiver<()>,
) {
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let exchange = async {
        tokio::pin!(connection);
        tokio::select! {
            ended = &mut connection => ended,
            // Closes at once if nothing was asked yet, and after the answer otherwise.
            _ = stopping.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    match tokio::time::timeout(CONNECTION_TIMEOUT, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a control connection ended early"),
        Err(_) => tracing::debug!("a control connection was closed because it took too long"),
    }
}

fn tell_other_user(teller: &Teller, uid: Option<u32>) {
    tracing::warn!(uid, "a control connection of another user was refused");
    let (actor, peer, code) = (AgentId::ZERO, Peer::default(), Code::of_control(OTHER_USER));
    let what = What::AdministrationRefused { actor, peer, code: code.unwrap_or(Code::NONE) };
    teller.refused(what, Label::of(&uid.map_or_else(|| "user unknown".to_owned(), |uid| format!("user {uid}"))));
}

/// Gives the number of the user that is refused. The mode of the socket says the same; this holds also where a file system does
/// not care about modes.
fn is_own_user(stream: &UnixStream) -> Result<(), Option<u32>> {
    let own_uid = rustix::process::geteuid().as_raw();
    match stream.peer_cred().ok().map(|peer| peer.uid()) {
        Some(uid) if uid == own_uid || uid == 0 => Ok(()),
        other => Err(other),
    }
}
