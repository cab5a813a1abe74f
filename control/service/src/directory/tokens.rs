//! Tokens for enrolment: made, listed and used inside the writer's transaction.

use creto_control_storage::{Reading, Writing};

use creto_envelope::key_record::token_binding;
use creto_envelope::{AgentName, Purpose};

use super::{Directory, Reader, Registered};
use crate::api::ErrorCode;
use crate::error::ServiceError;
use crate::limits::TOKENS_MAX;
use crate::registration::{Registration, RegistrationError};
use crate::storage::{Storage, TOKENS};
use crate::tokens::{TokenHash, TokenInfo, TokenRow, token_id};

/// A registration that brings the token that it was signed for.
#[derive(Debug)]
pub(crate) struct EnrolRequest {
    registration: Registration,
    token: TokenHash,
}

impl EnrolRequest {
    /// # Errors
    /// [`RegistrationError::Purpose`] when its agent signed it for another token, or for none.
    pub(crate) fn new(registration: Registration, token: TokenHash) -> Result<Self, RegistrationError> {
        let binding = token_binding(&token, &registration.signed().record.agent_id());
        Ok(Self { registration: registration.signed_for(Some(Purpose::Enrolment(binding)))?, token })
    }

    pub(super) fn token(&self) -> &TokenHash {
        &self.token
    }

    pub(crate) fn registration(&self) -> &Registration {
        &self.registration
    }

    pub(super) fn into_registration(self) -> Registration {
        self.registration
    }
}

/// A change of the tokens.
#[derive(Debug)]
pub(crate) enum TokenChange {
    Make(TokenHash, TokenRow),
    /// By its id.
    Withdraw(String),
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TokenSet {
    Done(TokenHash, TokenInfo),
    /// There are as many as there may be, and all can still be used.
    Full,
    Unknown,
}

impl Directory {
    /// Registers an agent if the token allows it; a new agent takes one use of it, in the same transaction. With how many
    /// uses are left then.
    pub(super) fn enrol_one(
        &self,
        transaction: &dyn Writing,
        request: &EnrolRequest,
        new_agents: u64,
        now_ms: u64,
    ) -> Result<(Registered, u32), ServiceError> {
        // Whoever lost the answer asks again, and the token may be used up by now: it was by them.
        if let Some(known) = self.known(transaction, &request.registration)? {
            return Ok((known, 0));
        }
        let tokens = transaction.table(TOKENS);
        let row = tokens.get(&request.token)?;
        let Some(row) = row else {
            return Ok(refused(ErrorCode::TokenUnknown, "this node made no such token, or has forgotten it"));
        };
        let mut row = parse(&self.storage, &request.token, &row)?;
        let name = &request.registration.signed().record.name;
        // What the token was for is told only to who may still use it.
        if now_ms >= row.expires_ms {
            return Ok(refused(ErrorCode::TokenExpired, "the token's time is over"));
        }
        if row.uses_left == 0 {
            return Ok(refused(ErrorCode::TokenUsed, "the token was used as often as it may be"));
        }
        if !row.covers(name) {
            return Ok(refused(ErrorCode::TokenScope, format!("the token is for {}, not for {name}", row.scope)));
        }
        let answer = self.register_one(transaction, &request.registration, new_agents, now_ms)?;
        if let Registered::Created(_) = answer {
            row.uses_left -= 1;
            tokens.put(&request.token, &row.to_bytes())?;
        }
        Ok((answer, row.uses_left))
    }

    pub(super) fn change_tokens(
        &self,
        transaction: &dyn Writing,
        change: &TokenChange,
        now_ms: u64,
    ) -> Result<TokenSet, ServiceError> {
        let tokens = transaction.table(TOKENS);
        match change {
            TokenChange::Make(hash, row) => {
                if tokens.count()? >= TOKENS_MAX {
                    // Those that nobody can use any more were only kept to say so.
                    for token in tokens.all() {
                        let (hash, bytes) = token?;
                        if TokenRow::parse(&bytes).is_none_or(|row| row.is_over(now_ms)) {
                            tokens.delete(&hash)?;
                        }
                    }
                }
                if tokens.count()? >= TOKENS_MAX {
                    return Ok(TokenSet::Full);
                }
                tokens.put(hash, &row.to_bytes())?;
                Ok(TokenSet::Done(*hash, row.info(hash)))
            }
            TokenChange::Withdraw(id) => {
                let found = all(&self.storage, transaction)?.into_iter().find(|(hash, _)| token_id(hash) == *id);
                let Some((hash, row)) = found else { return Ok(TokenSet::Unknown) };
                tokens.delete(&hash)?;
                Ok(TokenSet::Done(hash, row.info(&hash)))
            }
        }
    }
}

impl Reader {
    /// Why a token is of no use to this name, whatever is registered: who is told more than that has a token for it.
    pub(crate) fn check_token(&self, token: &TokenHash, name: &AgentName) -> Result<Option<ErrorCode>, ServiceError> {
        let transaction = self.storage.begin_read()?;
        let Some(row) = transaction.table(TOKENS).get(token)? else { return Ok(Some(ErrorCode::TokenUnknown)) };
        let row = parse(&self.storage, token, &row)?;
        Ok((!row.covers(name)).then_some(ErrorCode::TokenScope))
    }

    /// Every token there is, without the tokens.
    pub(crate) fn tokens(&self) -> Result<Vec<TokenInfo>, ServiceError> {
        let transaction = self.storage.begin_read()?;
        Ok(all(&self.storage, &*transaction)?.into_iter().map(|(hash, row)| row.info(&hash)).collect())
    }
}

fn all(storage: &Storage, transaction: &dyn Reading) -> Result<Vec<(TokenHash, TokenRow)>, ServiceError> {
    let rows = transaction.table(TOKENS).all();
    rows.map(|row| {
        let (hash, bytes) = row?;
        Ok((hash, parse(storage, &hash, &bytes)?))
    })
    .collect()
}

fn parse(storage: &Storage, hash: &TokenHash, bytes: &[u8]) -> Result<TokenRow, ServiceError> {
    TokenRow::parse(bytes).ok_or_else(|| storage.damaged(format!("token {}", token_id(hash))))
}

fn refused(code: ErrorCode, message: impl Into<String>) -> (Registered, u32) {
    (Registered::Refused(code, message.into()), 0)
}
