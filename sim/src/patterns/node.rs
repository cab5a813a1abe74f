//! What the node says about signals and presence, held against the truth at the moment at which it does.

use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::presence::{PresenceAnswer, PresenceAudience, PresenceShow, PresenceState};
use creto_envelope::signal::parse_signals;
use creto_envelope::{FrameHeader, FrameType, RejectCode};
use creto_shard::ShardMessage;

use super::messages::{SIGNAL_END_MS, is_signal};
use super::truth::Counted;
use super::{OUTSIDER, STRANGER, WORKER};
use crate::model::{Checked, Rule, broken};
use crate::network::LinkNumber;
use crate::node::link_of;
use crate::pool::{MessageNumber, Recipient, aligned};
use crate::world::World;

/// What a shard was told is known to every other after this, with the turns and rings that it takes.
pub(crate) const KNOWN_US: u64 = 400;

impl World<'_> {
    /// A frame of an agent of the patterns arrives at the node.
    pub(crate) fn note_pattern_frame(&mut self, link: LinkNumber, frame_type: FrameType, body: &[u8]) {
        let now_us = self.clock.now_us();
        let side = &mut self.links[link].node_side;
        match frame_type {
            FrameType::Subscribe => side.reader.asked_us = Some(now_us),
            FrameType::PresenceShow => {
                let PresenceShow { audience } = PresenceShow::parse(body).expect("agents send proper frames");
                side.reader.shows(audience == PresenceAudience::Senders, now_us);
            }
            FrameType::PresenceRequest => side.presence_asked_us.push_back(now_us),
            _ => {}
        }
    }

    /// A shard says something to a connection of its own.
    pub(crate) fn check_pattern_frame(
        &mut self,
        shard: usize,
        link: LinkNumber,
        frame_type: FrameType,
        body: &[u8],
    ) -> Checked {
        match frame_type {
            FrameType::Subscribed => {
                self.links[link].node_side.reader.subscribed_us = Some(self.clock.now_us());
                Ok(())
            }
            FrameType::Signal => {
                // What comes from another shard was looked at there, too.
                if self.worker_owner() == shard {
                    self.check_sender_of_signals(shard, body)?;
                }
                self.check_signals(link, body)
            }
            FrameType::PresenceAnswer => self.check_presence(link, body),
            other => self.check_letters(link, other, body),
        }
    }

    fn worker_owner(&self) -> usize {
        self.pool.owner(Recipient::Agent(WORKER), self.profile.shard_count)
    }

    /// The shard of the worker's mailbox hands signals to another one, which sends them on.
    pub(crate) fn check_pushed_signals(&mut self, shard: usize, message: &ShardMessage) -> Checked {
        let ShardMessage::Push { connection, frames } = message else { return Ok(()) };
        if !self.patterns.is_on || self.links[link_of(*connection)].agent != WORKER {
            return Ok(());
        }
        let mut rest = &frames[..];
        while let Some(header) = rest.first_chunk() {
            let header = FrameHeader::parse(header).expect("a shard sends proper frames");
            let (frame, after) = rest.split_at(FRAME_HEADER_BYTES + header.body_bytes as usize);
            if header.frame_type == FrameType::Signal {
                self.check_sender_of_signals(shard, &aligned(&frame[FRAME_HEADER_BYTES..]))?;
            }
            rest = after;
        }
        Ok(())
    }

    fn signals_in(&self, body: &[u8]) -> Result<Vec<MessageNumber>, crate::Violation> {
        let signals = parse_signals(body).expect("a shard sends proper frames");
        let number_of = |envelope: &[u8]| {
            let number = envelope.get(64..80).and_then(|id| self.pool.message_of(id.try_into().ok()?));
            match number.filter(|number| is_signal(*number)) {
                Some(number) => Ok(number),
                None => broken(Rule::Content, "something was pushed as a signal that is none"),
            }
        };
        signals.messages.iter().map(|span| number_of(&body[span.envelope.clone()])).collect()
    }

    /// The shard of the mailbox knows whom it lets signal.
    fn check_sender_of_signals(&mut self, shard: usize, body: &[u8]) -> Checked {
        let is_revoked = self.channels.is_on && self.channels.knows_as_revoked(shard, OUTSIDER);
        let number = self.signals_in(body)?.into_iter().find(|number| self.pool.messages[*number].sender == OUTSIDER);
        match number.filter(|_| is_revoked) {
            None => Ok(()),
            Some(number) => {
                let text =
                    format!("signal {number} is pushed by shard {shard}, which knows that its sender is revoked");
                broken(Rule::RemovedGetNothing, text)
            }
        }
    }

    fn check_signals(&mut self, link: LinkNumber, body: &[u8]) -> Checked {
        let (now_us, now_ms) = (self.clock.now_us(), self.clock.now().unix_ms);
        let signals = self.signals_in(body)?;
        if self.links[link].agent != WORKER {
            return broken(Rule::Content, format!("connection {link} is pushed signals {signals:?} of the worker"));
        }
        let Some(since_us) = self.links[link].node_side.reader.subscribed_us else {
            let text = format!("connection {link} is pushed signals {signals:?} and does not read");
            return broken(Rule::SignalsGoToWhoListens, text);
        };
        let later = self.links.iter().enumerate().find(|(_, other)| {
            let other_us = other.node_side.reader.subscribed_us.filter(|_| other.agent == WORKER);
            other.life == self.node.life && other_us.is_some_and(|us| us > since_us && us + KNOWN_US < now_us)
        });
        if let Some((later, _)) = later {
            let text = format!("connection {link} is pushed signals {signals:?}, and connection {later} reads by now");
            return broken(Rule::SignalsGoToWhoListens, text);
        }
        if now_ms > SIGNAL_END_MS && !self.clock.was_set_within(KNOWN_US) {
            let text =
                format!("connection {link} is pushed signals {signals:?}, which were over at {SIGNAL_END_MS} ms");
            return broken(Rule::OverIsNotPushed, text);
        }
        Ok(())
    }

    /// A signal's sender is answered, and cannot tell whether anybody had it.
    pub(crate) fn check_signal_answer(&mut self, number: MessageNumber, code: Option<u16>) -> Checked {
        let code = code.map(|code| RejectCode::from_u16(code).expect("a shard sends known codes"));
        // It was made when the run began, and may be made a minute before.
        let is_out_of_time = self.model.latest_unix_ms >= SIGNAL_END_MS
            || self.model.earliest_unix_ms + 60_000
                < crate::clock::START_MS + crate::patterns::messages::MESSAGES_PER_SENDER as u64;
        let is_right = match code {
            None => true,
            Some(RejectCode::SignalTime) => is_out_of_time,
            Some(RejectCode::SigningTime) => self.model.clock_was_far_off(),
            Some(RejectCode::AgentRevoked | RejectCode::UnknownSender) => self.model.patterns.may_be_revoked(number),
            Some(code) => code == RejectCode::ShuttingDown,
        };
        if code.is_none() {
            self.model.count(Counted::SignalsTaken);
        }
        match is_right {
            true => Ok(()),
            false => broken(Rule::SignalsGoToWhoListens, format!("signal {number} was refused: {code:?}")),
        }
    }

    fn check_presence(&mut self, link: LinkNumber, body: &[u8]) -> Checked {
        let PresenceAnswer { state, .. } = PresenceAnswer::parse(body).expect("a shard sends proper frames");
        let (agent, now_us) = (self.links[link].agent, self.clock.now_us());
        let Some(asked_us) = self.links[link].node_side.presence_asked_us.pop_front() else {
            return broken(Rule::PresenceIsTrue, format!("connection {link} was told {state:?}, and has not asked"));
        };
        let (is_there, may_be_there, was_shown) = self.worker_is_there(asked_us, now_us);
        let is_stranger = agent == STRANGER;
        let what = match state {
            PresenceState::Online => Some(Counted::PresenceOnline),
            PresenceState::Unknown if is_stranger && is_there => Some(Counted::PresenceHidden),
            PresenceState::Unknown if !is_stranger => Some(Counted::PresenceUnknown),
            _ => None,
        };
        if let Some(what) = what {
            self.model.count(what);
        }
        let is_right = match state {
            PresenceState::Online => !is_stranger && may_be_there,
            PresenceState::Seen { .. } => !is_stranger && was_shown && !is_there,
            PresenceState::Unknown => is_stranger || !is_there,
            _ => true,
        };
        match is_right {
            true => Ok(()),
            false => {
                let text = format!(
                    "agent {agent} asked at {asked_us} us and was told {state:?}: it reads and shows that for certain: \
                     {is_there}; it may: {may_be_there}; it did: {was_shown}"
                );
                broken(Rule::PresenceIsTrue, text)
            }
        }
    }

    /// Whether the worker reads, and shows that, for certain all the time since a question was asked; whether it may have at some
    /// moment of it; and whether it ever did since the node started.
    fn worker_is_there(&self, asked_us: u64, now_us: u64) -> (bool, bool, bool) {
        let of_worker = || self.links.iter().filter(|link| link.agent == WORKER && link.life == self.node.life);
        let (mut is_there, mut may_be_there, mut was_shown) = (false, false, false);
        for link in of_worker() {
            let reader = &link.node_side.reader;
            let Some(asked_to_read_us) = reader.asked_us else { continue };
            was_shown |= reader.showed_us.is_some();
            let has_rival =
                of_worker().any(|other| other.node_side.reader.asked_us.is_some_and(|us| us > asked_to_read_us));
            let is_replaced = of_worker().any(|other| {
                let others = &other.node_side.reader;
                let came_later = others.asked_us.is_some_and(|us| us > asked_to_read_us);
                came_later && others.subscribed_us.is_some_and(|us| us + KNOWN_US < asked_us)
            });
            let reads = reader.subscribed_us.is_some_and(|us| us + KNOWN_US < asked_us);
            let shows = reader.shown && reader.showed_us.is_some_and(|us| us + KNOWN_US < asked_us);
            is_there |= reads && shows && !has_rival && link.node_side.is_open;
            let has_gone = !link.node_side.is_open && link.node_side.gone_us + KNOWN_US < asked_us;
            let has_hidden = reader.hid_us.is_some_and(|us| !reader.shown && us + KNOWN_US < asked_us);
            may_be_there |= reader.showed_us.is_some_and(|us| us <= now_us) && !has_gone && !has_hidden && !is_replaced;
        }
        (is_there, may_be_there, was_shown)
    }

    /// What is over is not pushed any more.
    pub(crate) fn check_not_over(&mut self, number: MessageNumber) -> Checked {
        let now_ms = self.clock.now().unix_ms;
        let stored = self.model.fates[number].stored;
        match stored.filter(|of| of.expiry_ms != 0 && of.expiry_ms < now_ms && !self.clock.was_set_within(KNOWN_US)) {
            None => Ok(()),
            Some(stored) => {
                broken(Rule::OverIsNotPushed, format!("message {number}, {stored:?}, is pushed at {now_ms} ms"))
            }
        }
    }
}
