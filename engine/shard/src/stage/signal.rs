//! Signal: what is never stored goes to whoever reads the mailbox now, or nowhere.
//!
//! Promises that nothing of it reaches the log or a mailbox, of which this file knows neither; that its sender is answered the same, and
//! at once, whether or not anybody had it; that a reader is pushed no more than it said it takes, of a credit that nothing else draws on;
//! and that nothing is pushed whose time is over, to or from an agent that may not act. What is not pushed is gone.

use creto_envelope::deliver::{DeliverEncoder, MessageToDeliver};
use creto_envelope::envelope::signal_until_ms;
use creto_envelope::{AgentId, AgentState, RejectCode};
use creto_policy::Snapshot;
use creto_store::planted::{Bug, is_planted};

use super::deliver::{Push, Subscriptions};
use crate::event::Now;
use crate::route::{BatchPart, PartMessage, PartOutcome};

/// What became of a part of signals.
#[derive(Debug)]
pub(crate) struct Signalled {
    pub(crate) pushes: Vec<Push>,
    /// Of all of them.
    pub(crate) outcome: PartOutcome,
}

/// Pushes up to `room` signals of a part.
pub(crate) fn signal(
    now: Now,
    part: &BatchPart,
    snapshot: &Snapshot,
    subscriptions: &mut Subscriptions,
    mut room: usize,
) -> Signalled {
    // Whoever may not act any more, or is not known, as before control has said who there is, neither sends nor is sent anything.
    if snapshot.policy().is_none() || !(is_active(snapshot, &part.sender) || is_planted(Bug::SignalOfRevoked)) {
        room = 0;
    }
    let mut pushes = Vec::new();
    for run in part.messages.chunk_by(|one, next| one.recipient == next.recipient) {
        let recipient = run[0].recipient;
        if room > 0 && is_active(snapshot, &recipient) {
            let push = push_run(now, part, &recipient, run, subscriptions, room);
            room -= push.as_ref().map_or(0, |push| usize::try_from(push.message_count).expect("at most a batch"));
            pushes.extend(push);
        }
    }
    let message_count = u32::try_from(part.messages.len()).expect("a batch has at most 1,024 messages");
    let (connection, sequence) = (part.origin.connection, part.sequence);
    let mut outcome =
        PartOutcome { connection, sequence, message_count, refused: Vec::new(), pause_ms: 0, durable_us: None };
    if is_planted(Bug::TellWhoListens) && pushes.is_empty() {
        outcome.refused = part.messages.iter().map(|message| (message.leaf_index, RejectCode::NotSubscribed)).collect();
    }
    Signalled { pushes, outcome }
}

fn is_active(snapshot: &Snapshot, agent: &AgentId) -> bool {
    snapshot.principal(agent).is_some_and(|principal| principal.state() == AgentState::Active)
}

/// One Signal frame with what the recipient's reader takes of these.
fn push_run(
    now: Now,
    part: &BatchPart,
    recipient: &AgentId,
    run: &[PartMessage],
    subscriptions: &mut Subscriptions,
    room: usize,
) -> Option<Push> {
    let is_fresh = |message: &&PartMessage| {
        let until_ms = signal_until_ms(&message.envelope).expect("parts of signals are made of nothing else");
        now.unix_ms < until_ms
    };
    let fresh = run.iter().filter(is_fresh).take(room);
    let (to, taken) = subscriptions.take_signals(recipient, fresh.clone().count())?;
    let mut out = Vec::new();
    let mut frame = DeliverEncoder::begin_signal(&mut out, &part.header);
    for message in fresh.take(taken) {
        let (path, rest) = message.path.as_chunks::<32>();
        assert!(rest.is_empty(), "a path is made of whole hashes");
        frame.push(&MessageToDeliver {
            mailbox_sequence: 0,
            leaf_index: message.leaf_index,
            attempt: 0,
            salt: &message.salt,
            path,
            envelope: &message.envelope,
        });
    }
    let message_count = u64::from(frame.finish());
    Some(Push { to, frames: out.into(), message_count })
}
