//! The prekeys of recipients that a sender has in hand. Pure: what is to be claimed is asked for, and the answer put here.
//!
//! A one-time prekey is taken by the session that is opened to it, within an hour: its owner may not keep the secret half for ever.
//! One of last resort serves for a while, and so does the word that there is none: neither is asked for again with every session.
//! A node that cannot say is asked once more before that counts as the word that there is none.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use creto_envelope::AgentId;

use crate::error::PrekeyError;
use crate::limits::{
    PREKEY_LAST_RESORT_USED, PREKEY_NONE_REMEMBERED, PREKEY_ONE_TIME_USED, PREKEY_RETRY_AFTER, PREKEYS_REMEMBERED_MAX,
};
use crate::prekeys::PrekeyPolicy;
use crate::prekeys::claimed::ClaimedPrekey;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    /// `None`: sessions are opened to the keys of records.
    policy: Option<PrekeyPolicy>,
    in_hand: HashMap<AgentId, InHand>,
    /// Claimed, and not answered.
    asked: BTreeSet<AgentId>,
    /// Of these, recipients to whom nothing can be sent before the answer.
    awaited: BTreeSet<AgentId>,
    to_ask: Vec<AgentId>,
}

#[derive(Debug)]
struct InHand {
    /// `None`: there is none to be had.
    prekey: Option<Arc<ClaimedPrekey>>,
    /// Until when that is so.
    until_us: u64,
    /// Where there is none: what that means.
    missing: Missing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Missing {
    /// Sessions are opened to the key of the record, unless a prekey is required.
    GoesWithout,
    /// The node could not say, and is asked once more.
    AskedAgain,
    /// What the node gave does not hold: nothing goes on its word.
    Refused,
}

impl Shelf {
    pub(crate) fn new(policy: PrekeyPolicy) -> Self {
        Self { policy: (policy != PrekeyPolicy::Off).then_some(policy), ..Self::default() }
    }

    /// Whether nothing goes without.
    pub(crate) fn is_required(&self) -> bool {
        self.policy == Some(PrekeyPolicy::Require)
    }

    /// Whether a session to `recipient`, whose current record is at least of this version, can be opened now.
    pub(crate) fn is_ready(&self, recipient: &AgentId, record_version: u32, now_us: u64) -> bool {
        self.policy.is_none()
            || self.in_hand.get(recipient).is_some_and(|in_hand| {
                let is_good = match &in_hand.prekey {
                    Some(prekey) => prekey.version() >= record_version,
                    None => in_hand.missing == Missing::GoesWithout && !self.is_required(),
                };
                is_good && now_us < in_hand.until_us
            })
    }

    /// Asks for a prekey; `is_awaited` holds back what goes to this recipient until the answer. What can do without does not ask
    /// again soon.
    pub(crate) fn want(&mut self, recipient: AgentId, is_awaited: bool, now_us: u64) {
        let has_none = |in_hand: &InHand| in_hand.prekey.is_none() && now_us < in_hand.until_us;
        if is_awaited {
            self.awaited.insert(recipient);
        } else if self.in_hand.get(&recipient).is_some_and(has_none) {
            return;
        }
        if self.asked.insert(recipient) {
            self.to_ask.push(recipient);
        }
    }

    /// Whether something for this recipient waits for an answer.
    pub(crate) fn is_awaited(&self, recipient: &AgentId) -> bool {
        self.awaited.contains(recipient)
    }

    /// Those for whom a prekey is to be claimed; each is answered with [`put`](Self::put) or [`missing`](Self::missing).
    pub(crate) fn take_wanted(&mut self) -> Vec<AgentId> {
        std::mem::take(&mut self.to_ask)
    }

    /// A prekey came.
    pub(crate) fn put(&mut self, recipient: AgentId, prekey: Arc<ClaimedPrekey>, now_us: u64) {
        let used = if prekey.is_last_resort() { PREKEY_LAST_RESORT_USED } else { PREKEY_ONE_TIME_USED };
        let (prekey, missing) = (Some(prekey), Missing::GoesWithout);
        self.answered(recipient, InHand { prekey, until_us: now_us.saturating_add(micros(used)), missing });
    }

    /// There is none, or nobody knows. Says whether it is to be asked for once more before anything goes without.
    pub(crate) fn missing(&mut self, recipient: AgentId, why: &PrekeyError, now_us: u64) -> bool {
        let was_asked_again = self
            .in_hand
            .get(&recipient)
            .is_some_and(|in_hand| in_hand.prekey.is_none() && in_hand.missing == Missing::AskedAgain);
        let (missing, remembered) = match (why.is_false(), why.is_retryable()) {
            (true, _) => (Missing::Refused, PREKEY_NONE_REMEMBERED),
            (_, true) if was_asked_again => (Missing::GoesWithout, PREKEY_RETRY_AFTER),
            (_, true) => (Missing::AskedAgain, PREKEY_RETRY_AFTER),
            _ => (Missing::GoesWithout, PREKEY_NONE_REMEMBERED),
        };
        let until_us = now_us.saturating_add(micros(remembered));
        self.answered(recipient, InHand { prekey: None, until_us, missing });
        missing == Missing::AskedAgain
    }

    fn answered(&mut self, recipient: AgentId, in_hand: InHand) {
        self.asked.remove(&recipient);
        self.awaited.remove(&recipient);
        if self.in_hand.len() >= PREKEYS_REMEMBERED_MAX && !self.in_hand.contains_key(&recipient) {
            // What can be asked for again goes first.
            let is_one_time = |known: &InHand| known.prekey.as_ref().is_some_and(|prekey| !prekey.is_last_resort());
            self.in_hand.retain(|_, known| is_one_time(known));
            if self.in_hand.len() >= PREKEYS_REMEMBERED_MAX {
                self.in_hand.clear();
            }
        }
        self.in_hand.insert(recipient, in_hand);
    }

    /// The prekey to open a session to, if there is one.
    pub(crate) fn look(&self, recipient: &AgentId) -> Option<&Arc<ClaimedPrekey>> {
        self.in_hand.get(recipient)?.prekey.as_ref()
    }

    /// The same; one for one use is gone from here then.
    pub(crate) fn take(&mut self, recipient: &AgentId) -> Option<Arc<ClaimedPrekey>> {
        let prekey = Arc::clone(self.look(recipient)?);
        if !prekey.is_last_resort() {
            self.in_hand.remove(recipient);
        }
        Some(prekey)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
