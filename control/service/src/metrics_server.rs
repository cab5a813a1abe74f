//! What a node counts and measures, over plain HTTP for whoever collects that: no signature, and nothing else than numbers.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::error::ServiceError;
use crate::health::Health;
use crate::http;

/// A thread that answers `GET /metrics`, `/live` and `/ready`. Dropped, it ends.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Listens on this address and answers with what is told through `health`.
    ///
    /// # Errors
    /// [`ServiceError::MetricsListen`] when the address cannot be had, [`ServiceError::Thread`] when there is no thread.
    pub fn start(listen: SocketAddr, health: Health) -> Result<Self, ServiceError> {
        let refused = |source| ServiceError::MetricsListen { address: listen, source };
        let listener = std::net::TcpListener::bind(listen).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServiceError::Thread)?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(refused)?
        };
        let (stop, stopped) = oneshot::channel();
        let serve = move || runtime.block_on(http::serve_metrics(listener, health, stopped));
        let thread = std::thread::Builder::new().name("creto-metrics".to_owned()).spawn(serve);
        Ok(Self { address, stop: Some(stop), thread: Some(thread.map_err(ServiceError::Thread)?) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}
