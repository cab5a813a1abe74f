//! The stages before the log by themselves, for whoever measures what they cost or counts what they allocate.
//!
//! A node runs them through [`Shard`](crate::Shard), as `path.rs` says; this runs the same functions over one connection
//! that is logged in, answers nothing, and drops what it admitted.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use creto_envelope::SignedKeyRecord;
use creto_envelope::batch::parse_submit_sequence;
use creto_policy::{DecisionTable, Snapshot};

use crate::connection::{Connection, LoggedIn, SubmitLedger};
use crate::event::{ConnectionId, Now};
use crate::limits::{ConnectionLimits, DECISION_LIFETIME_MS, DECISION_TABLE_ENTRIES};
use crate::meter::Meter;
use crate::stage::Refusals;
use crate::stage::authorize::authorize;
use crate::stage::decode::decode;
use crate::stage::receive::{Received, SubmitFrame, receive};
use crate::stage::verify::{Verified, Verifier, verify};
use crate::stages::{StageClock, StageTimes};

const CONNECTION: ConnectionId = ConnectionId(1);

/// One connection's way through the stages.
#[derive(Debug)]
pub struct Admission {
    connections: BTreeMap<ConnectionId, Connection>,
    snapshot: Arc<Snapshot>,
    verifier: Verifier,
    decisions: DecisionTable,
    meter: Meter,
    refusals: Refusals,
}

impl Admission {
    /// For batches of the agent of this record.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, signer: Arc<SignedKeyRecord>) -> Self {
        let mut connection = Connection::new([0; 32], ([127, 0, 0, 1], 4433).into());
        let (agent, key_record_version) = (signer.record.agent_id(), signer.record.version);
        connection.login = Some(LoggedIn { agent, key_record_version });
        connection.signer = Some(signer);
        Self {
            connections: BTreeMap::from([(CONNECTION, connection)]),
            snapshot,
            verifier: Verifier::default(),
            decisions: DecisionTable::new(DECISION_TABLE_ENTRIES, DECISION_LIFETIME_MS),
            meter: Meter::default(),
            refusals: Refusals::default(),
        }
    }

    /// Decodes and verifies the body of a SignedBatch frame. Returns how many messages held.
    pub fn verify(&mut self, now: Now, body: Bytes) -> usize {
        self.verified(now, body).into_batches().iter().map(|batch| batch.messages.len()).sum()
    }

    /// The same, and asks policy. Returns how many messages are allowed.
    pub fn authorize(&mut self, now: Now, body: Bytes) -> usize {
        let verified = self.verified(now, body);
        self.decisions.begin_turn();
        let (decisions, meter) = (&mut self.decisions, &mut self.meter);
        let authorized = authorize(verified, now, &self.snapshot, decisions, meter, &mut self.refusals);
        usize::try_from(authorized.message_count()).expect("a batch has at most 1,024 messages")
    }

    /// Messages and batches refused so far.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.refusals.batches.len() + self.refusals.messages.len()
    }

    fn verified(&mut self, now: Now, body: Bytes) -> Verified {
        let received = self.received(body);
        let decoded = decode(received, &mut self.refusals);
        let times = (&StageClock::default(), &mut StageTimes::default());
        verify(decoded, now, &self.snapshot, &mut self.verifier, &mut self.refusals, times)
    }

    fn received(&mut self, body: Bytes) -> Received {
        // Nothing is answered here, so every batch begins its connection's ledger anew.
        let connection = self.connections.get_mut(&CONNECTION).expect("the connection is there from the start");
        connection.submit = SubmitLedger::after(parse_submit_sequence(&body).unwrap_or(0).wrapping_sub(1));
        let frames = vec![SubmitFrame { connection: CONNECTION, body }];
        let (limits, mut broken) = (ConnectionLimits::default(), Vec::new());
        receive(frames, &mut self.connections, &limits, false, &mut 0, &mut self.refusals, &mut broken)
    }
}
