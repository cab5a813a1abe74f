//! Group commit of claims: whatever arrived while one commit was in flight is the next one. Nobody is answered before what
//! they were given is marked on the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use creto_envelope::prekeys::{PrekeyStock, SignedPrekey};
use creto_envelope::{AgentId, RejectCode};
use tokio::sync::mpsc;

use super::allowance::Used;
use super::check::CheckedBatch;
use super::tables::{Claimed, Claims};
use super::{Claim, PrekeyAllowance, Question, Reply, StockSink, Upload};
use crate::directory::Change;
use crate::error::ServiceError;
use crate::limits::{PREKEY_CLAIMS_PER_COMMIT_MAX, PREKEYS_LOW};
use crate::rotation::Refused;
use crate::service::wall_clock_ms;
use crate::storage::Storage;
use crate::writer::{Answer, Pending};

/// Checks what agents upload, and hands on what may be written, until the writer is gone.
pub(crate) async fn take_uploads(
    mut uploads: mpsc::Receiver<Upload>,
    changes: mpsc::Sender<Pending>,
    storage: Arc<Storage>,
    allowance: PrekeyAllowance,
) {
    let mut used = Used::default();
    while let Some(Upload { agent, batch, reply }) = uploads.recv().await {
        let now_ms = wall_clock_ms();
        if let Err(wait_ms) = used.upload(agent, &allowance, now_ms) {
            let retry_after_ms = u32::try_from(wait_ms).unwrap_or(u32::MAX);
            reply.send(Err(Refused { code: RejectCode::RateLimited, retry_after_ms }));
            continue;
        }
        let storage = Arc::clone(&storage);
        let checked = tokio::task::spawn_blocking(move || {
            let record = storage.begin_read().and_then(|transaction| storage.current_record(&*transaction, agent));
            let record = record.map_err(|error| {
                tracing::error!(%error, "prekeys cannot be taken");
                RejectCode::StorageFull
            })?;
            CheckedBatch::check(&batch, &record.ok_or(RejectCode::UnknownSender)?, now_ms)
        });
        match checked.await {
            Ok(Ok(batch)) => {
                let by = batch.agent();
                let pending = Pending { change: Change::Prekeys(batch), answer: Answer::Prekeys(reply), by };
                // Without a writer the reply is dropped, which says so.
                if changes.send(pending).await.is_err() {
                    return;
                }
            }
            Ok(Err(code)) => reply.send(Err(code.into())),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// Hands prekeys out until nobody can ask any more.
pub(crate) async fn hand_out(
    storage: Arc<Storage>,
    mut questions: mpsc::Receiver<Question>,
    allowance: PrekeyAllowance,
    sink: Arc<dyn StockSink>,
) {
    let mut used = Used::default();
    let mut batch = Vec::with_capacity(PREKEY_CLAIMS_PER_COMMIT_MAX);
    while questions.recv_many(&mut batch, PREKEY_CLAIMS_PER_COMMIT_MAX).await > 0 {
        let questions = std::mem::take(&mut batch);
        let (storage, sink) = (Arc::clone(&storage), Arc::clone(&sink));
        // Commits sync the disk, so they run beside the runtime, one at a time.
        let commit = tokio::task::spawn_blocking(move || {
            answer(&storage, questions, &mut used, &allowance, sink.as_ref());
            used
        });
        match commit.await {
            Ok(back) => used = back,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// What is said when all of a transaction is on the disk.
enum Said {
    Claim(Reply<SignedPrekey>, Result<Box<Claimed>, RejectCode>),
    Stock(Reply<PrekeyStock>, PrekeyStock),
}

fn answer(
    storage: &Storage,
    questions: Vec<Question>,
    used: &mut Used,
    allowance: &PrekeyAllowance,
    sink: &dyn StockSink,
) {
    let mut waiting = Vec::with_capacity(questions.len());
    match commit(storage, questions, used, allowance, &mut waiting) {
        Ok(low) => {
            for said in waiting {
                match said {
                    Said::Claim(reply, answer) => {
                        reply.send(answer.map(|claimed| claimed.prekey).map_err(Refused::from));
                    }
                    Said::Stock(reply, stock) => reply.send(Ok(stock)),
                }
            }
            low.into_iter().for_each(|(agent, stock)| sink.is_low(agent, stock));
        }
        Err(error) => {
            tracing::error!(%error, "prekeys cannot be handed out");
            for said in waiting {
                match said {
                    Said::Claim(reply, _) => reply.send(Err(RejectCode::StorageFull.into())),
                    Said::Stock(reply, _) => reply.send(Err(RejectCode::StorageFull.into())),
                }
            }
        }
    }
}

/// Answers all of `questions` in one durable transaction, and says whose prekeys have become few by it. After an error
/// nothing is handed out, and what is in `waiting` must not be said.
fn commit(
    storage: &Storage,
    questions: Vec<Question>,
    used: &mut Used,
    allowance: &PrekeyAllowance,
    waiting: &mut Vec<Said>,
) -> Result<BTreeMap<AgentId, PrekeyStock>, ServiceError> {
    let mut questions = questions.into_iter();
    let outcome = take(storage, &mut questions, used, allowance, waiting);
    // After an error: those that it did not come to.
    waiting.extend(questions.map(|question| match question {
        Question::Claim(Claim { reply, .. }) => Said::Claim(reply, Err(RejectCode::NoPrekey)),
        Question::Stock { reply, .. } => Said::Stock(reply, PrekeyStock::default()),
    }));
    outcome
}

fn take(
    storage: &Storage,
    questions: &mut impl Iterator<Item = Question>,
    used: &mut Used,
    allowance: &PrekeyAllowance,
    waiting: &mut Vec<Said>,
) -> Result<BTreeMap<AgentId, PrekeyStock>, ServiceError> {
    let transaction = storage.begin_write()?;
    let mut claims = Claims::begin(storage, &*transaction)?;
    let mut low = BTreeMap::new();
    let now_ms = wall_clock_ms();
    for question in questions {
        match question {
            Question::Claim(Claim { asker, agent, reply }) => {
                // Pushed before it can fail: whoever waits is answered in any case.
                waiting.push(Said::Claim(reply, Err(RejectCode::NoPrekey)));
                let one_time = used.may_claim(asker, agent, allowance, now_ms);
                let given = claims.claim(agent, one_time)?;
                let left = given.as_ref().ok().and_then(|claimed| claimed.left);
                if left.is_some() {
                    used.claimed(asker, agent, now_ms);
                }
                if left.is_some_and(|left| left + 1 == PREKEYS_LOW || left == 0) {
                    low.insert(agent, PrekeyStock::default());
                }
                if let Some(Said::Claim(_, answer)) = waiting.last_mut() {
                    *answer = given.map(Box::new);
                }
            }
            Question::Stock { agent, reply } => {
                waiting.push(Said::Stock(reply, PrekeyStock::default()));
                let found = claims.stock(agent)?;
                if let Some(Said::Stock(_, stock)) = waiting.last_mut() {
                    *stock = found;
                }
            }
        }
    }
    for (agent, stock) in &mut low {
        *stock = PrekeyStock { is_notice: true, ..claims.stock(*agent)? };
    }
    match claims.finish()? {
        true => transaction.commit()?,
        false => transaction.abort()?,
    }
    Ok(low)
}
