//! Answers questions about the key log from the last committed state.

use std::sync::Arc;

use creto_audit::LogKeys;
use creto_audit::tree::{consistency_proof, inclusion_proof, root_at};
use creto_envelope::RejectCode;
use creto_envelope::key_log::{KeyLeaves, KeyLeavesRequest, KeyLogQuestion, KeyProof, KeyProofRequest, ProvenKey};
use creto_envelope::limits::KEY_LEAVES_MAX;
use creto_transparency::TreeHead;

use super::tables::LogReader;
use super::{Asked, BUSY, Questions};
use crate::error::ServiceError;
use crate::limits::KEY_LOG_ANSWERS_MAX;
use crate::service::wall_clock_ms;
use crate::storage::Storage;

/// Whoever signs heads and makes proofs.
pub(crate) struct KeyLog {
    storage: Arc<Storage>,
    keys: LogKeys,
    /// The newest head that was signed, and its size.
    newest: Option<(u64, Vec<u8>)>,
}

/// Answers until every questioner is gone.
pub(crate) async fn answer(mut key_log: KeyLog, questions: Questions) {
    let Questions(mut questions) = questions;
    let mut waiting = Vec::new();
    while questions.recv_many(&mut waiting, KEY_LOG_ANSWERS_MAX).await > 0 {
        let asked = std::mem::take(&mut waiting);
        // Reads may have to wait for the disk, and a signature takes a while.
        let answered = tokio::task::spawn_blocking(move || {
            key_log.answer_all(asked);
            key_log
        });
        match answered.await {
            Ok(back) => key_log = back,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The service is shutting down; what was not answered says so.
                Err(_) => return,
            },
        }
    }
}

impl KeyLog {
    pub(crate) fn new(storage: Arc<Storage>, keys: LogKeys) -> Self {
        Self { storage, keys, newest: None }
    }

    pub(super) fn answer_all(&mut self, asked: Vec<Asked>) {
        let storage = Arc::clone(&self.storage);
        let transaction = storage.begin_read();
        let opened = transaction
            .as_ref()
            .map_err(ToString::to_string)
            .and_then(|transaction| LogReader::open(&storage, &**transaction).map_err(|error| error.to_string()));
        let mut log = match opened {
            Ok(log) => log,
            Err(error) => {
                tracing::error!(%error, "the key log cannot be read");
                return asked.into_iter().for_each(|asked| {
                    let frame = asked.question.refused(BUSY);
                    asked.answer(frame);
                });
            }
        };
        for asked in asked {
            let question = asked.question;
            let frame = self.frame(&mut log, &question).unwrap_or_else(|error| {
                tracing::error!(%error, "the key log cannot be read");
                question.refused(BUSY)
            });
            asked.answer(frame);
        }
    }

    fn frame(&mut self, log: &mut LogReader<'_>, question: &KeyLogQuestion) -> Result<Vec<u8>, ServiceError> {
        let mut out = Vec::new();
        match question {
            KeyLogQuestion::Proof(question) => self.prove(log, question)?.encode(&mut out),
            KeyLogQuestion::Leaves(KeyLeavesRequest { from, through }) => {
                let end = (*through).min(from.saturating_add(KEY_LEAVES_MAX as u64));
                KeyLeaves { from: *from, answer: Ok(log.leaves(*from, end)?) }.encode(&mut out);
            }
        }
        Ok(out)
    }

    fn prove(&mut self, log: &mut LogReader<'_>, question: &KeyProofRequest) -> Result<KeyProof, ServiceError> {
        let KeyProofRequest { agent, version, seen, wants_keys } = *question;
        let Some(index) = log.place(agent, version)? else {
            return Ok(KeyProof { agent, version, answer: Err(RejectCode::UnknownKeyVersion.into()) });
        };
        let size = log.size();
        let proven = ProvenKey {
            size,
            index,
            leaf: log.leaf(index)?,
            path: inclusion_proof(log, index, size)?,
            // Whoever has seen a larger log is shown this one, and has to say what that means.
            consistency: if seen < size { consistency_proof(log, seen, size)? } else { Vec::new() },
            note: if seen == size { Vec::new() } else { self.head(log)? },
            keys: if wants_keys { self.keys.public().to_text().into_bytes() } else { Vec::new() },
        };
        Ok(KeyProof { agent, version, answer: Ok(proven) })
    }

    /// The head of the log as it is now, signed once for each size.
    fn head(&mut self, log: &mut LogReader<'_>) -> Result<Vec<u8>, ServiceError> {
        let size = log.size();
        if let Some((signed, note)) = &self.newest
            && *signed == size
        {
            return Ok(note.clone());
        }
        // What is read is durable, so what is signed is never taken back.
        let head = TreeHead { size, root: root_at(log, size)?, time_ms: wall_clock_ms() };
        let note = head.sign(&self.keys).into_bytes();
        self.newest = Some((size, note.clone()));
        Ok(note)
    }
}
