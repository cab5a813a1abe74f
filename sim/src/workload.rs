//! Agents: each sends its messages in order and sends again what is not acknowledged, and reads its own mailbox. They keep
//! the rules of the SDK: what is sent again keeps its id, and nothing is sent before everything that was sent before it is
//! acknowledged or was sent on the same connection.

use creto_envelope::control::{LoginAccepted, Reject, StreamOpen, StreamRole};
use creto_envelope::deliver::{ConsumerAck, Credit, Deliver, Subscribe};
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::notice::{NOTICE_BODY_BYTES, Notice};
use creto_envelope::submit::SubmitAck;
use creto_envelope::{EnvelopeView, FrameHeader, FrameType, RejectCode};
use creto_shard::StreamId;

use crate::channels::CHANNELS;
use crate::fault::Fault;
use crate::model::{Checked, Rule, broken};
use crate::network::{
    ArrivedBatch, CONTROL, ClientSide, DELIVER, Lane, Link, LinkNumber, NodeSide, Packet, SUBMIT, code_of,
};
use crate::node::lane_of;
use crate::patterns;
use crate::pool::{AGENTS, MESSAGES_PER_AGENT, Pool, Recipient, Window, aligned};
use crate::world::{Step, World};

#[derive(Debug)]
pub(crate) struct Agent {
    index: usize,
    /// Messages that its application has handed over so far.
    released: usize,
    acknowledged: [bool; MESSAGES_PER_AGENT],
    /// The next message to send on the current connection.
    next: usize,
    /// The connection that it sends on.
    current: Option<LinkNumber>,
    /// All connections that it has not seen end.
    open: Vec<LinkNumber>,
    /// It waits until then before it sends or connects.
    not_before_us: u64,
}

impl Agent {
    pub(crate) fn new(index: usize) -> Self {
        Self {
            index,
            released: 0,
            acknowledged: [false; MESSAGES_PER_AGENT],
            next: 0,
            current: None,
            open: Vec::new(),
            not_before_us: 0,
        }
    }

    pub(crate) fn open(&self) -> &[LinkNumber] {
        &self.open
    }

    pub(crate) fn current(&self) -> Option<LinkNumber> {
        self.current
    }

    /// The oldest message that is not acknowledged, or the next one to be handed over.
    fn oldest_open(&self) -> usize {
        self.acknowledged.iter().take(self.released).position(|done| !done).unwrap_or(self.released)
    }

    pub(crate) fn has_all_acknowledged(&self) -> bool {
        self.oldest_open() == self.released
    }

    pub(crate) fn state(&self, links: &[Link]) -> String {
        let open: Vec<String> = self
            .open
            .iter()
            .map(|&link| {
                let (node, client) = (&links[link].node_side, &links[link].client_side);
                let (unanswered, unacknowledged) = (node.batches.len(), client.unacknowledged.len());
                let credit = (client.credit_messages, client.credit_bytes);
                format!(
                    "{link}: node has it {}, logged in {}, unanswered {unanswered}, unacknowledged {unacknowledged}, \
                     credit {credit:?}",
                    node.is_open, client.is_logged_in
                )
            })
            .collect();
        let (oldest, released, next) = (self.oldest_open(), self.released, self.next);
        format!("agent {}: oldest open {oldest} of {released}, next {next}, {open:?}", self.index)
    }
}

impl World<'_> {
    pub(crate) fn agent_acts(&mut self, agent: usize) -> Checked {
        let pause_us = if self.is_healing { 3_000 } else { 6_000 };
        let delay_us = self.random.between(200, pause_us);
        self.clock.after(delay_us, Step::Agent { agent });
        if self.is_finishing {
            return Ok(());
        }
        if !self.is_healing && self.agents[agent].released < self.profile.messages[agent] {
            let more = self.random.index(6);
            let released = &mut self.agents[agent].released;
            *released = (*released + more).min(self.profile.messages[agent]);
        }
        for link in self.agents[agent].open.clone() {
            if self.links[link].client_side.is_logged_in {
                self.acknowledge_and_grant(link);
                self.look_after_letters(link);
            }
        }
        if self.agents[agent].not_before_us > self.clock.now_us() {
            return Ok(());
        }
        match self.agents[agent].current {
            None => self.connect(agent),
            Some(link) if self.links[link].client_side.is_logged_in => self.submit(agent, link),
            Some(_) => {}
        }
        Ok(())
    }

    /// An agent has lost what it knew, and sends everything again. Nothing may be stored twice.
    pub(crate) fn resend(&mut self) {
        let agent = self.random.index(AGENTS);
        let Some(link) = self.agents[agent].current else { return };
        if self.links[link].client_side.is_logged_in && self.agents[agent].next > 0 {
            self.faults.add(Fault::Resend);
            self.note(|| format!("agent {agent} sends everything again"));
            self.agents[agent].next = 0;
        }
    }

    /// Opens a connection to any shard; it becomes the one to send on.
    pub(crate) fn connect(&mut self, agent: usize) {
        let roles = [(CONTROL, StreamRole::Control), (SUBMIT, StreamRole::Submit), (DELIVER, StreamRole::Deliver)];
        let link = self.open_link(agent, &roles);
        self.agents[agent].current = Some(link);
        self.agents[agent].open.push(link);
    }

    /// Opens a connection with these streams to any shard, and logs in.
    pub(crate) fn open_link(&mut self, agent: usize, roles: &[(StreamId, StreamRole)]) -> LinkNumber {
        let link = self.links.len();
        let shard = self.random.index(self.profile.shard_count);
        let (exporter, login) = self.pool.login(agent, self.random.bits());
        self.note(|| format!("agent {agent} opens connection {link} to shard {shard}"));
        let connected_us = self.clock.now_us() + self.delay(self.profile.network_us * 2);
        let lane = || Lane::starting_at(connected_us);
        self.links.push(Link {
            agent,
            shard,
            life: self.node.life,
            exporter,
            to_node: std::array::from_fn(|_| lane()),
            to_client: std::array::from_fn(|_| Lane::default()),
            node_side: NodeSide::default(),
            client_side: ClientSide { is_open: true, ..ClientSide::default() },
        });
        self.clock.at(connected_us, Step::NodeConnect { link });
        for &(stream, role) in roles {
            self.send_to_node(link, stream, |out| StreamOpen { role }.encode(out));
        }
        self.send_to_node(link, CONTROL, |out| login.encode(out));
        link
    }

    /// Sends a frame that an encoder writes.
    pub(crate) fn send_to_node(&mut self, link: LinkNumber, stream: StreamId, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut frame = Vec::new();
        encode(&mut frame);
        let header = frame.first_chunk::<FRAME_HEADER_BYTES>().expect("an encoder writes a whole frame");
        let frame_type = FrameHeader::parse(header).expect("an encoder writes a proper frame").frame_type;
        self.send_packet(link, stream, Packet { frame_type, body: aligned(&frame[FRAME_HEADER_BYTES..]) });
    }

    fn send_packet(&mut self, link: LinkNumber, stream: StreamId, packet: Packet) {
        let earliest_us = self.clock.now_us() + self.delay(self.profile.network_us);
        let lane = lane_of(stream);
        let arrival_us = self.links[link].to_node[lane].send(packet, earliest_us);
        self.clock.at(arrival_us, Step::NodeFrame { link, stream: lane });
    }

    /// Sends the next batches, as many as may be unanswered.
    fn submit(&mut self, agent: usize, link: LinkNumber) {
        for _ in 0..1 + self.random.index(3) {
            let state = &self.agents[agent];
            let end = state.released.min(state.oldest_open() + self.profile.ahead_max);
            let first = state.next;
            let sizes: Vec<usize> = Pool::window_sizes(first, end).collect();
            if sizes.is_empty() {
                return;
            }
            // Each batch costs a verification, whatever it holds: mostly large ones make more messages per second.
            let largest = sizes[sizes.len() - 1];
            let count = if self.random.one_in(3) { self.random.pick(&sizes) } else { largest };
            let window = Window { sender: agent, first, count };
            if self.random.one_in(self.profile.tampering_one_in) {
                self.faults.add(Fault::Tampering);
                self.send_batch(link, window, true);
            }
            self.send_batch(link, window, false);
            self.agents[agent].next = first + window.count;
        }
    }

    pub(crate) fn send_batch(&mut self, link: LinkNumber, window: Window, is_tampered: bool) {
        let client = &mut self.links[link].client_side;
        client.last_sequence += 1;
        let sequence = client.last_sequence;
        client.sent.insert(sequence, ArrivedBatch { window, is_tampered, arrived_us: 0, attached: [false; CHANNELS] });
        let mut body = self.pool.batch_body(window, sequence);
        if is_tampered {
            // Somewhere behind the sequence and the fields that frame the batch: root, signatures, salts, envelopes.
            let at = 48 + self.random.index(body.len() - 48);
            body[at] ^= 1 << self.random.below(8);
        }
        self.note(|| {
            let changed = if is_tampered { ", changed" } else { "" };
            format!("connection {link}: agent sends batch {sequence}: {window:?}{changed}")
        });
        let body = bytes::Bytes::from_owner(body);
        self.send_packet(link, SUBMIT, Packet { frame_type: FrameType::SignedBatch, body });
    }

    /// Acknowledges what the application has, or a part of it, and lets more come.
    fn acknowledge_and_grant(&mut self, link: LinkNumber) {
        let mut waiting = std::mem::take(&mut self.links[link].client_side.unacknowledged);
        let mut kept = Vec::new();
        if !self.profile.acknowledges_all {
            let one_in = self.random.between(2, 6);
            waiting.retain(|delivery| {
                let stays = self.random.one_in(one_in);
                if stays {
                    kept.push(*delivery);
                }
                !stays
            });
        }
        self.links[link].client_side.unacknowledged = kept;
        let waiting = self.refuse_some(link, waiting);
        if !waiting.is_empty() {
            self.note(|| format!("connection {link}: the consumer acknowledges {waiting:?}"));
            for (_, number) in &waiting {
                self.model.fates[*number].consumer_acknowledged = true;
            }
            let sequences = waiting.iter().map(|(sequence, _)| *sequence).collect();
            self.send_to_node(link, DELIVER, |out| ConsumerAck { sequences }.encode(out));
        }
        let notices = std::mem::take(&mut self.links[link].client_side.unacknowledged_notices);
        if !notices.is_empty() {
            self.note(|| format!("connection {link}: the agent acknowledges the notices {notices:?}"));
            let agent = self.links[link].agent;
            for &sequence in &notices {
                self.model.notice_acknowledged(self.pool, agent, sequence);
            }
            self.send_to_node(link, DELIVER, |out| ConsumerAck { sequences: notices }.encode(out));
        }
        let client = &self.links[link].client_side;
        let is_low = client.credit_messages < 8 || client.credit_bytes < 2_048;
        if is_low && (self.is_healing || self.random.one_in(2)) {
            self.grant(link);
        }
    }

    pub(crate) fn grant(&mut self, link: LinkNumber) {
        let messages = u32::try_from(self.random.between(1, 12)).expect("a dozen");
        // Plenty, or so few that one message overdraws them.
        let bytes = if self.random.one_in(4) { 100 } else { messages * 2_048 };
        let client = &mut self.links[link].client_side;
        client.credit_messages += messages;
        client.credit_bytes += u64::from(bytes);
        self.send_to_node(link, DELIVER, |out| Credit { messages, bytes }.encode(out));
    }

    pub(crate) fn client_frame(&mut self, link: LinkNumber, stream: usize) -> Checked {
        let Packet { frame_type, body } = self.links[link].to_client[stream].arrive();
        if !self.links[link].client_side.is_open {
            return Ok(());
        }
        match frame_type {
            FrameType::LoginAccepted => {
                LoginAccepted::parse(&body).expect("a shard sends proper frames");
                self.logged_in(link);
                Ok(())
            }
            FrameType::Subscribed => Ok(()),
            FrameType::SubmitAck => self.answered(link, &body),
            FrameType::Deliver => self.delivered(link, &body),
            FrameType::DeadLetters | FrameType::DeadLetter | FrameType::DeadLetterChanged => {
                self.letters_answered(link, frame_type, &body)
            }
            FrameType::Notice => self.told(link, &body),
            FrameType::Signal => self.signals_arrive(link, &body),
            // Held against the truth when it was said.
            FrameType::PresenceAnswer => Ok(()),
            FrameType::Reject => self.rejected(link, stream, &body),
            FrameType::ChannelSubscribed
            | FrameType::ChannelDeliver
            | FrameType::ChannelLeft
            | FrameType::ChannelMembers => self.channel_frame_arrives(link, frame_type, &body),
            other => broken(Rule::RefusedForAReason, format!("connection {link} was sent a {other:?}")),
        }
    }

    fn logged_in(&mut self, link: LinkNumber) {
        let agent = self.links[link].agent;
        self.links[link].client_side.is_logged_in = true;
        if let Some(number) = patterns::number_of(agent) {
            return self.pattern_agent_logged_in(number, link);
        }
        if let Some(agent) = agent.checked_sub(AGENTS) {
            return self.channel_agent_logged_in(agent, link);
        }
        self.agents[agent].next = self.agents[agent].oldest_open();
        self.note(|| format!("connection {link}: agent {agent} is logged in"));
        let mailbox = self.pool.agents[agent].id;
        self.send_to_node(link, DELIVER, |out| Subscribe { mailbox }.encode(out));
        self.grant(link);
    }

    fn answered(&mut self, link: LinkNumber, body: &[u8]) -> Checked {
        let ack = SubmitAck::parse(body).expect("a shard sends proper frames");
        let agent = self.links[link].agent;
        let client = &mut self.links[link].client_side;
        for result in ack.results {
            client.results.entry(result.sequence).or_default().push((result.index, result.code));
        }
        let first = client.answered_through + 1;
        client.answered_through = ack.through_sequence.max(client.answered_through);
        for sequence in first..=ack.through_sequence {
            let client = &mut self.links[link].client_side;
            let ArrivedBatch { window, is_tampered, .. } = client.sent[&sequence];
            let results = client.results.remove(&sequence).unwrap_or_default();
            if is_tampered {
                continue;
            }
            if let Some(number) = patterns::number_of(agent) {
                self.pattern_answered(number, window, &results);
                continue;
            }
            if let Some(agent) = agent.checked_sub(AGENTS) {
                self.published_answered(agent, window, &results);
                continue;
            }
            for (index, number) in (0..).zip(window.messages()) {
                let place = self.pool.messages[number].order;
                let is_done = code_of(&results, index).is_none_or(|code| code == RejectCode::Duplicate.as_u16());
                let for_the_clock = [RejectCode::OutsideDedupWindow, RejectCode::SigningTime].map(RejectCode::as_u16);
                let is_outside = code_of(&results, index).is_some_and(|code| for_the_clock.contains(&code));
                if is_done {
                    self.agents[agent].acknowledged[place] = true;
                    self.model.fates[number].sender_knows = true;
                } else if is_outside && !self.agents[agent].acknowledged[place] {
                    // The clock is far off: the application is told, and may send it again under another id.
                    self.agents[agent].acknowledged[place] = true;
                    self.model.tally.refused_for_the_clock += 1;
                    // What the node has of it, or gets when everything is sent again, comes behind what was sent later.
                    self.model.refused_for_room = true;
                } else if !self.agents[agent].acknowledged[place] {
                    // It is sent again under its id, with all that follows it, after a while.
                    let pause_us = self.random.between(500, 40_000);
                    let agent = &mut self.agents[agent];
                    agent.next = agent.next.min(place);
                    agent.not_before_us = self.clock.now_us() + pause_us;
                }
            }
        }
        Ok(())
    }

    /// What the SDK does with a delivery: verify, hide what the application has seen, hand over the rest.
    fn delivered(&mut self, link: LinkNumber, body: &bytes::Bytes) -> Checked {
        let deliver = Deliver::parse(body).expect("a shard sends proper frames");
        let agent = self.links[link].agent;
        if let Some(header) = deliver.batch_header {
            self.links[link].client_side.header = Some(body.slice_ref(header.as_bytes()));
        }
        let Some(header) = self.links[link].client_side.header.clone() else {
            return broken(Rule::Content, format!("connection {link}: a delivery came before any batch header"));
        };
        for span in deliver.messages {
            let envelope = aligned(&body[span.envelope.clone()]);
            let id = EnvelopeView::parse(&envelope).map(|view| view.message_id().0);
            let Some(number) = id.ok().and_then(|id| self.pool.message_of(&id)) else {
                return broken(Rule::Content, format!("connection {link}: a message came that nobody sent"));
            };
            if !self.pool.proves(number, &header, body, &span)
                || self.pool.messages[number].to != Recipient::Agent(agent)
            {
                return broken(Rule::Content, format!("connection {link}: message {number} is not what was sent"));
            }
            let client = &mut self.links[link].client_side;
            if client.credit_messages == 0 {
                return broken(Rule::CreditIsKept, format!("connection {link}: message {number} came without credit"));
            }
            client.credit_messages -= 1;
            client.credit_bytes = client.credit_bytes.saturating_sub(envelope.len() as u64);
            client.unacknowledged.push((span.mailbox_sequence, number));
            self.note(|| format!("connection {link}: message {number} comes as sequence {}", span.mailbox_sequence));
            if self.model.fates[number].delivered {
                self.model.tally.repeated_deliveries += 1;
            } else {
                let shard = self.model.fates[number].stored.and_then(|stored| self.node.shards.get(stored.shard));
                if let Some(shard) = shard {
                    self.model.comes(number, shard.log().mailboxes());
                }
                self.model.delivered_first(self.pool, number, span.mailbox_sequence)?;
            }
        }
        Ok(())
    }

    fn told(&mut self, link: LinkNumber, body: &[u8]) -> Checked {
        let notice = Notice::parse(body).expect("a shard sends proper frames");
        self.note(|| format!("connection {link}: the node says {notice:?}"));
        let client = &mut self.links[link].client_side;
        if client.credit_messages == 0 {
            return broken(Rule::CreditIsKept, format!("connection {link}: {notice:?} came without credit"));
        }
        client.credit_messages -= 1;
        client.credit_bytes = client.credit_bytes.saturating_sub(NOTICE_BODY_BYTES as u64);
        client.unacknowledged_notices.push(notice.mailbox_sequence);
        Ok(())
    }

    fn rejected(&mut self, link: LinkNumber, stream: usize, body: &[u8]) -> Checked {
        let reject = Reject::parse(body).expect("a shard sends proper frames");
        let agent = self.links[link].agent;
        let of_patterns = patterns::number_of(agent);
        if agent >= AGENTS && of_patterns.is_none() {
            return self.channel_agent_rejected(link, stream, &reject);
        }
        let is_question = stream == lane_of(CONTROL) && self.links[link].client_side.question.is_some();
        match RejectCode::from_u16(reject.code) {
            code if is_question && code != Some(RejectCode::ShuttingDown) => return self.letters_refused(link, code),
            _ if let Some(number) = of_patterns => return self.pattern_agent_rejected(number, link, &reject),
            Some(RejectCode::SubscriptionReplaced) if self.agents[agent].current != Some(link) => {}
            // The newest subscription wins, and two connections may have been under way at once.
            Some(RejectCode::SubscriptionReplaced) => {}
            // Control could not read its key record when it logged in, or the node shuts down.
            Some(RejectCode::Overloaded) if self.links[link].client_side.is_logged_in => {
                return broken(Rule::RefusedForAReason, format!("connection {link} was told that the node is busy"));
            }
            Some(RejectCode::ShuttingDown | RejectCode::Overloaded) => {
                self.agents[agent].not_before_us = self.clock.now_us() + self.random.between(1_000, 20_000);
            }
            code => {
                return broken(Rule::RefusedForAReason, format!("connection {link} was refused something: {code:?}"));
            }
        }
        self.note(|| format!("connection {link}: rejected with {}, the agent closes it", reject.code));
        self.client_gone(link);
        let delay_us = self.delay(self.profile.network_us);
        self.clock.after(delay_us, Step::NodeGone { link });
        Ok(())
    }

    pub(crate) fn client_gone(&mut self, link: LinkNumber) {
        if !std::mem::take(&mut self.links[link].client_side.is_open) {
            return;
        }
        if let Some(number) = patterns::number_of(self.links[link].agent) {
            return self.pattern_agent_gone(number, link);
        }
        if self.links[link].agent >= AGENTS {
            return self.channel_agent_gone(link);
        }
        let agent = &mut self.agents[self.links[link].agent];
        agent.open.retain(|open| *open != link);
        agent.current = agent.current.filter(|current| *current != link);
    }
}
