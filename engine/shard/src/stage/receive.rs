//! Receive: a frame of the submit stream becomes a batch with a place in its connection's ledger.
//!
//! Promises that every batch behind it belongs to a connection that logged in, has the next submit sequence, fits what
//! the connection may have in flight, and will be answered. Knows nothing of what is inside.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use creto_envelope::batch::parse_submit_sequence;
use creto_envelope::{BatchHeaderView, RejectCode, SignedKeyRecord};

use super::Refusals;
use crate::connection::{Connection, Fits, LoggedIn};
use crate::event::ConnectionId;
use crate::limits::{BAD_SIGNATURES_MAX, ConnectionLimits};

/// A SignedBatch frame as it arrived on the submit stream of a connection that logged in.
#[derive(Debug)]
pub(crate) struct SubmitFrame {
    pub(crate) connection: ConnectionId,
    pub(crate) body: Bytes,
}

/// Batches that have a place in their connection's ledger.
#[derive(Debug)]
pub(crate) struct Received {
    batches: Vec<ReceivedBatch>,
}

#[derive(Debug)]
pub(crate) struct ReceivedBatch {
    pub(crate) connection: ConnectionId,
    pub(crate) login: LoggedIn,
    /// The record whose keys sign what this connection sends.
    pub(crate) signer: Arc<SignedKeyRecord>,
    pub(crate) sequence: u64,
    /// Bad signatures that its connection may still send.
    pub(crate) chances: u32,
    /// The batch: header and entries, starting at a multiple of eight bytes.
    pub(crate) batch: Bytes,
}

/// A stream that cannot go on: its numbering is broken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BrokenStream {
    pub(crate) connection: ConnectionId,
    pub(crate) code: RejectCode,
}

/// Takes the frames of one turn in; `draining` refuses all of them. Adds their bytes to `ingress_bytes`.
pub(crate) fn receive(
    frames: Vec<SubmitFrame>,
    connections: &mut BTreeMap<ConnectionId, Connection>,
    limits: &ConnectionLimits,
    draining: bool,
    ingress_bytes: &mut usize,
    refusals: &mut Refusals,
    broken: &mut Vec<BrokenStream>,
) -> Received {
    let mut batches = Vec::with_capacity(frames.len());
    for SubmitFrame { connection: id, body } in frames {
        let Some(connection) = connections.get_mut(&id) else { continue };
        let (Some(login), Some(signer)) = (connection.login, &connection.signer) else { continue };
        let signer = Arc::clone(signer);
        let sequence = match parse_submit_sequence(&body) {
            Ok(sequence) => sequence,
            Err(code) => {
                broken.push(BrokenStream { connection: id, code });
                continue;
            }
        };
        let batch = body.slice(8..);
        let header = BatchHeaderView::parse(&batch).map(|header| header.tree_size());
        let fits =
            match connection.submit.arrive(sequence, header.unwrap_or(0), body.len(), limits.in_flight_messages_max) {
                Ok(fits) => fits,
                Err(code) => {
                    broken.push(BrokenStream { connection: id, code });
                    continue;
                }
            };
        *ingress_bytes += body.len();
        match (header, fits) {
            (Err(code), _) => refusals.batch(id, sequence, code),
            _ if draining => refusals.batch(id, sequence, RejectCode::ShuttingDown),
            (Ok(count), _) if count > limits.batch_messages_max => {
                refusals.batch(id, sequence, RejectCode::BatchTooManyMessages);
            }
            _ if batch.len() > limits.batch_bytes_max as usize => {
                refusals.batch(id, sequence, RejectCode::FrameOversized);
            }
            (_, Fits::No) => refusals.batch(id, sequence, RejectCode::TooManyInFlight),
            (Ok(_), Fits::Yes) => {
                let chances = BAD_SIGNATURES_MAX.saturating_sub(connection.bad_signatures);
                batches.push(ReceivedBatch { connection: id, login, signer, sequence, chances, batch });
            }
        }
    }
    Received { batches }
}

impl Received {
    pub(crate) fn batches(&self) -> &[ReceivedBatch] {
        &self.batches
    }

    pub(crate) fn into_batches(self) -> Vec<ReceivedBatch> {
        self.batches
    }
}
