//! A NATS server with JetStream, driven with the same plan and measured by the same clock as a creto node. Its client is in a program with
//! the cargo feature `nats` only: a product needs none.
//!
//! | of a creto node | here |
//! |---|---|
//! | a mailbox | a stream of its own, retention by work queue, with one durable pull consumer and explicit acknowledgements |
//! | a channel | a stream, retention by interest, with one such consumer for each subscriber |
//! | a request and its answer | a message in the stream of whoever answers; the answer in a stream of whoever asked |
//! | the word that a message is durable | the acknowledgement of the publish: what that means the server's `sync_interval` says (`nats/sync.rs`) |
//! | an acknowledgement | handed to the connection, as the SDK's is |
//!
//! Streams are in files. Messages are neither signed nor encrypted by anybody, the connection only where its address begins with
//! `tls://`. Streams are deleted at the end of a run; one that was broken off leaves them, named `bench-...`.

#[cfg(feature = "nats")]
pub(crate) mod drive;
#[cfg(feature = "nats")]
mod monitor;
mod sync;

use std::path::PathBuf;

use thiserror::Error;

pub use sync::{NatsFound, NatsSync};

/// A NATS server with JetStream.
#[derive(Clone, Debug)]
pub struct NatsServer {
    /// `nats://HOST:PORT`, or `tls://HOST:PORT`.
    pub url: String,
    /// Whom to trust over TLS, as a file of certificates; without, whom the system trusts.
    pub certificate: Option<PathBuf>,
    /// `HOST:PORT` of its monitoring, where it says how it syncs.
    pub monitor: Option<String>,
    /// How it syncs, as whoever runs it says.
    pub sync: Option<NatsSync>,
}

/// Why a NATS server cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NatsError {
    /// It does not answer.
    #[error("the NATS server at {url} cannot be reached: {reason}; check the address, and that it runs")]
    Connect {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// It has no JetStream.
    #[error(
        "the NATS server at {url} has no JetStream: start it with `jetstream {{ store_dir: ... }}` in its configuration, or -js"
    )]
    NoJetStream {
        /// Where.
        url: String,
    },
    /// A stream or a consumer could not be made.
    #[error("the NATS server makes no stream {name}: {reason}; check its limits of JetStream")]
    Stream {
        /// Which.
        name: String,
        /// Why.
        reason: String,
    },
    /// This program cannot drive one.
    #[error(
        "this program was built without NATS; build it with `cargo build --release --package creto-cli --features nats`"
    )]
    LeftOut,
    /// Its monitoring does not say how it syncs.
    #[error(
        "the monitoring of the NATS server at {address} cannot be read: {reason}; start it with `http: {address}`, or say --nats-sync"
    )]
    Monitor {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
}

#[cfg(not(feature = "nats"))]
impl NatsServer {
    /// Says that this program cannot.
    ///
    /// # Errors
    /// [`NatsError::LeftOut`].
    #[allow(clippy::unused_async, reason = "as with the feature, where it asks the server")]
    pub async fn look(&self) -> Result<NatsFound, NatsError> {
        Err(NatsError::LeftOut)
    }
}
