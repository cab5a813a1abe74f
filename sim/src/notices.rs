//! Notices: what the node tells senders about messages of theirs that expired. A message that asked for one is forgotten
//! only when its notice is durable, or when a shard says that it could not have one.

use std::collections::{BTreeMap, BTreeSet};

use creto_envelope::notice::{NOTICE_BODY_BYTES, NoticeBody, NoticeCause};
use creto_store::{BatchPart, SettleCause};

use crate::model::{Checked, Model, Rule, broken, owner};
use crate::pool::{FIRST_PUBLISHED, MessageNumber, Pool, Recipient};

/// The truth about the notices of one run.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    /// Those that are durable, by the shard whose log holds them and their sequence there.
    durable: BTreeMap<(usize, u64), Durable>,
    /// Messages that a durable notice tells of.
    told: BTreeSet<MessageNumber>,
    /// Messages that asked for a notice, and were forgotten without.
    untold: BTreeSet<MessageNumber>,
    /// Notices that shards of earlier lives said they could not give.
    pub(crate) refused_before: u64,
}

#[derive(Debug)]
struct Durable {
    number: MessageNumber,
    expiry_ms: u64,
    consumer_acknowledged: bool,
    settled: Option<SettleCause>,
}

/// What a notice of this run says about a message, in its bytes.
fn bodies(pool: &Pool, number: MessageNumber, expired_at_ms: u64) -> [[u8; NOTICE_BODY_BYTES]; 2] {
    let message = &pool.messages[number];
    let Recipient::Agent(recipient) = message.to else { unreachable!("nobody is told of what was published") };
    let recipient = pool.agents[recipient].id;
    let message_id = crate::pool::message_id(number);
    [NoticeCause::TimeToLive, NoticeCause::Retention]
        .map(|cause| NoticeBody { recipient, message_id, expired_at_ms, cause }.to_bytes())
}

impl Model {
    /// A Notice record is durable.
    pub(crate) fn notices_are_durable(&mut self, pool: &Pool, shard: usize, part: &BatchPart) -> Checked {
        for notice in &part.messages {
            let (number, stored) = self.noticed(pool, shard, &notice.message_id.0, &notice.mailbox.0)?;
            let is_told = bodies(pool, number, stored).iter().any(|body| body[..] == notice.envelope[..]);
            if !is_told || !pool.messages[number].wants_notice {
                return broken(Rule::Content, format!("a notice of message {number} says {:02x?}", notice.envelope));
            }
            let expiry_ms = notice.expiry_ms;
            let durable = Durable { number, expiry_ms, consumer_acknowledged: false, settled: None };
            if self.notices.durable.insert((shard, notice.sequence), durable).is_some()
                || self.ledgers[shard].messages.contains_key(&notice.sequence)
            {
                let text = format!("shard {shard} gave sequence {} to a notice, too", notice.sequence);
                return broken(Rule::StoredOnce, text);
            }
            self.notices.told.insert(number);
            self.tally.notices += 1;
        }
        Ok(())
    }

    /// The message that a notice in this shard's log is about, and when it was over.
    fn noticed(
        &self,
        pool: &Pool,
        shard: usize,
        id: &[u8; 16],
        mailbox: &[u8; 16],
    ) -> Result<(usize, u64), crate::Violation> {
        let number = pool.message_of(id).filter(|number| *number < FIRST_PUBLISHED);
        let number = number.filter(|&number| pool.agents[pool.messages[number].sender].id.0 == *mailbox);
        let Some(number) = number else {
            return broken(Rule::Content, "a notice is about no message of its mailbox's agent");
        };
        if owner(pool, pool.messages[number].sender, self.ledgers.len()) != shard {
            return broken(Rule::Content, format!("shard {shard} holds a notice for another shard's mailbox"));
        }
        match self.fates[number].stored {
            Some(stored) if stored.expiry_ms <= self.latest_unix_ms => Ok((number, stored.expiry_ms)),
            stored => broken(Rule::SettledForAReason, format!("message {number} is not over, and noticed: {stored:?}")),
        }
    }

    /// A message that expired is forgotten, durably.
    pub(crate) fn forgotten(&mut self, pool: &Pool, number: MessageNumber) {
        self.tally.expired += 1;
        if pool.messages[number].wants_notice && !self.notices.told.contains(&number) {
            self.notices.untold.insert(number);
        }
    }

    /// Holds what was forgotten untold against what the shards say that they could not tell.
    pub(crate) fn untold_are_excused(&self, refused: u64) -> Checked {
        let (untold, refused) = (self.notices.untold.len() as u64, self.notices.refused_before + refused);
        match untold <= refused {
            true => Ok(()),
            false => broken(
                Rule::ExpiredIsTold,
                format!(
                    "{:?} were forgotten before their senders were told; {refused} could not be",
                    self.notices.untold
                ),
            ),
        }
    }

    /// Whether a sequence of this shard is a notice's; then it is settled.
    pub(crate) fn settle_notice(
        &mut self,
        shard: usize,
        sequence: u64,
        cause: SettleCause,
    ) -> Result<bool, crate::Violation> {
        let latest_unix_ms = self.latest_unix_ms;
        let Some(notice) = self.notices.durable.get_mut(&(shard, sequence)) else { return Ok(false) };
        let has_reason = match cause {
            SettleCause::Acknowledged => notice.consumer_acknowledged,
            SettleCause::Expired => notice.expiry_ms <= latest_unix_ms,
            // A notice is never a dead letter, nor in a channel.
            SettleCause::GivenUp | SettleCause::Purged | SettleCause::Consumed => false,
        };
        if !has_reason {
            return broken(Rule::SettledForAReason, format!("shard {shard} settled {notice:?} as {cause:?}"));
        }
        notice.settled = Some(cause);
        Ok(true)
    }

    /// Whether a sequence of this shard is a notice's.
    pub(crate) fn is_notice(&self, shard: usize, sequence: u64) -> bool {
        self.notices.durable.contains_key(&(shard, sequence))
    }

    /// The node pushes a notice to an agent.
    pub(crate) fn notice_pushed(&self, pool: &Pool, agent: usize, sequence: u64, body: &NoticeBody) -> Checked {
        let shard = owner(pool, agent, self.ledgers.len());
        match self.notices.durable.get(&(shard, sequence)) {
            None => broken(Rule::DeliveredIsDurable, format!("agent {agent} was told {body:?}, which is not durable")),
            Some(notice) if notice.settled.is_some_and(|cause| cause != SettleCause::Expired) => {
                broken(Rule::SettledStaysSettled, format!("agent {agent} was told {notice:?} again"))
            }
            Some(notice) if crate::pool::message_id(notice.number) != body.message_id => {
                broken(Rule::Content, format!("agent {agent} was told {body:?} for {notice:?}"))
            }
            Some(_) => Ok(()),
        }
    }

    /// An agent acknowledges a notice.
    pub(crate) fn notice_acknowledged(&mut self, pool: &Pool, agent: usize, sequence: u64) {
        let shard = owner(pool, agent, self.ledgers.len());
        let notice = self.notices.durable.get_mut(&(shard, sequence)).expect("only what was pushed is acknowledged");
        notice.consumer_acknowledged = true;
    }

    /// A recovery found these notices, and these of them not settled.
    pub(crate) fn holds_the_notices(&self, shard: usize, found: &BTreeSet<u64>, queued: &BTreeSet<u64>) -> Checked {
        for ((_, sequence), notice) in self.notices.durable.range((shard, 0)..=(shard, u64::MAX)) {
            match notice.settled {
                None if !found.contains(sequence) => {
                    return broken(
                        Rule::NothingAcknowledgedIsLost,
                        format!("shard {shard} recovered without {notice:?}"),
                    );
                }
                Some(_) if queued.contains(sequence) => {
                    return broken(Rule::SettledStaysSettled, format!("shard {shard} recovered {notice:?} as queued"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A drained node has settled every notice on its disk, too.
    pub(crate) fn every_notice_is_settled(&self) -> Checked {
        match self.notices.durable.iter().find(|(_, notice)| notice.settled.is_none()) {
            None => Ok(()),
            Some(left) => broken(Rule::RestsEmpty, format!("{left:?} is gone from memory and not settled")),
        }
    }
}
