//! What agents of the patterns do: they keep the rules of the SDK for requests, files, signals and presence.

use creto_envelope::control::{Reject, StreamRole};
use creto_envelope::deliver::{ConsumerAck, ConsumerNack, Nack, Subscribe};
use creto_envelope::presence::{PresenceAudience, PresenceRequest, PresenceShow};
use creto_envelope::signal::{SignalCredit, parse_signals};
use creto_envelope::{EnvelopeView, RejectCode};

use super::messages::{self, CHUNKS, COPIES, Part, REQUESTS, RUNS, SIGNALS, first_of, is_patient, part_of};
use super::truth::Counted;
use super::{Asked, CALLER, FIRST, FileOutcome, OUTSIDER, Patterns, STRANGER, UPLOADER, WORKER, Work};
use crate::fault::Fault;
use crate::letters::reason_of;
use crate::model::{Checked, Rule, broken};
use crate::network::{CONTROL, DELIVER, LinkNumber, SUBMIT, code_of};
use crate::planted::PlantedBug;
use crate::pool::{MessageNumber, Window, aligned};
use crate::world::{Step, World};

/// An agent of the patterns.
#[derive(Debug)]
pub(crate) struct PatternAgent {
    /// Its place in the pool.
    pub(crate) index: usize,
    /// The connection that it sends on.
    current: Option<LinkNumber>,
    /// All connections that it has not seen end.
    open: Vec<LinkNumber>,
    not_before_us: u64,
    /// What it sends, in order.
    outbox: Vec<Outgoing>,
    /// The next of them to send on the current connection.
    next: usize,
}

#[derive(Debug)]
struct Outgoing {
    number: MessageNumber,
    is_acknowledged: bool,
    /// The node refused it for the time of its clock.
    is_given_up: bool,
    /// It goes out together with the signal behind it, once.
    has_signal: bool,
}

/// What becomes of a message that an application has.
enum Looked {
    /// It is not done with it.
    Kept,
    Done,
    Refused(Nack),
}

impl Looked {
    fn of(refused: Option<Nack>) -> Self {
        refused.map_or(Self::Done, Self::Refused)
    }
}

impl PatternAgent {
    pub(super) fn new(index: usize) -> Self {
        Self { index, current: None, open: Vec::new(), not_before_us: 0, outbox: Vec::new(), next: 0 }
    }

    pub(crate) fn open(&self) -> &[LinkNumber] {
        &self.open
    }

    fn oldest_open(&self) -> usize {
        self.outbox.iter().position(|of| !of.is_acknowledged).unwrap_or(self.outbox.len())
    }

    pub(super) fn has_all_acknowledged(&self) -> bool {
        self.oldest_open() == self.outbox.len()
    }

    fn has_acknowledged(&self, number: MessageNumber) -> bool {
        self.outbox.iter().any(|of| of.number == number && of.is_acknowledged)
    }

    fn reads(&self) -> bool {
        matches!(self.index, CALLER | WORKER)
    }
}

impl Patterns {
    /// Its sender has given a message up.
    pub(super) fn is_given_up(&self, number: MessageNumber) -> bool {
        self.agents.iter().flat_map(|agent| &agent.outbox).any(|of| of.number == number && of.is_given_up)
    }

    fn agent(&mut self, index: usize) -> &mut PatternAgent {
        &mut self.agents[index - FIRST]
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.random.one_in(chances)
    }
}

impl World<'_> {
    pub(crate) fn patterns_begin(&mut self) {
        if !self.patterns.is_on {
            return;
        }
        self.model.patterns.is_on = true;
        for number in 0..self.patterns.agents.len() {
            let delay_us = self.patterns.random.between(0, 5_000);
            self.clock.after(delay_us, Step::PatternAgent { agent: number });
        }
    }

    /// Whether the outsider is out of it.
    pub(super) fn is_outsider_gone(&self, agent: usize) -> bool {
        agent == OUTSIDER && self.model.patterns.is_outsider_revoked
    }

    pub(crate) fn pattern_agent_acts(&mut self, number: usize) -> Checked {
        // Those who wait for nothing leave the steps in which everything must come to rest to the others.
        let (least_us, most_us) = match self.is_healing {
            false => (200, 8_000),
            true if self.patterns_wait().is_some() => (200, 4_000),
            true => (10_000, 40_000),
        };
        let delay_us = self.patterns.random.between(least_us, most_us);
        self.clock.after(delay_us, Step::PatternAgent { agent: number });
        if self.is_finishing {
            return Ok(());
        }
        let index = self.patterns.agents[number].index;
        match index {
            CALLER => self.call(),
            OUTSIDER => self.meddle(),
            UPLOADER => self.upload(),
            _ => {}
        }
        for link in self.patterns.agents[number].open.clone() {
            if self.links[link].client_side.is_logged_in && self.patterns.agents[number].reads() {
                self.work_through(link)?;
                self.look_after_letters(link);
            }
        }
        let agent = &self.patterns.agents[number];
        if agent.not_before_us > self.clock.now_us() || self.is_outsider_gone(index) {
            return Ok(());
        }
        match agent.current {
            None => self.connect_for_patterns(number),
            Some(link) if self.links[link].client_side.is_logged_in => {
                self.send_outgoing(number, link);
                self.signal_and_ask(index, link);
                if agent_takes_over(index, self.is_healing) && self.patterns.one_in(30) {
                    self.faults.add(Fault::Takeover);
                    self.connect_for_patterns(number);
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn connect_for_patterns(&mut self, number: usize) {
        let index = self.patterns.agents[number].index;
        let roles = [(CONTROL, StreamRole::Control), (SUBMIT, StreamRole::Submit), (DELIVER, StreamRole::Deliver)];
        let link = self.open_link(index, &roles);
        let agent = &mut self.patterns.agents[number];
        agent.current = Some(link);
        agent.open.push(link);
    }

    pub(crate) fn pattern_agent_logged_in(&mut self, number: usize, link: LinkNumber) {
        let agent = &mut self.patterns.agents[number];
        agent.next = agent.oldest_open();
        let (index, reads) = (agent.index, agent.reads());
        self.note(|| format!("connection {link}: agent {index} is logged in"));
        if !reads {
            return;
        }
        let mailbox = self.pool.agents[index].id;
        self.send_to_node(link, DELIVER, |out| Subscribe { mailbox }.encode(out));
        self.grant(link);
        if index == WORKER && self.patterns.one_in(2) {
            self.show_presence(link, PresenceAudience::Senders);
        }
    }

    fn show_presence(&mut self, link: LinkNumber, audience: PresenceAudience) {
        self.note(|| format!("connection {link}: the worker shows itself to {audience:?}"));
        self.send_to_node(link, DELIVER, |out| PresenceShow { audience }.encode(out));
    }

    fn enqueue(&mut self, index: usize, number: MessageNumber, has_signal: bool) {
        self.model.patterns.is_sent(number);
        let outgoing = Outgoing { number, is_acknowledged: false, is_given_up: false, has_signal };
        self.patterns.agent(index).outbox.push(outgoing);
    }

    /// The caller asks, and gives up.
    fn call(&mut self) {
        let now_us = self.clock.now_us();
        for request in 0..REQUESTS {
            let state = &mut self.patterns.requests[request];
            let Asked::Waiting { until_us } = state.asked else { continue };
            if until_us <= now_us {
                state.asked = Asked::TimedOut;
                self.model.count(Counted::TimedOut);
            } else if !self.is_healing && self.patterns.random.one_in(60) {
                self.patterns.requests[request].asked = Asked::GivenUp;
                self.model.count(Counted::GivenUp);
                self.note(|| format!("request {request} is given up"));
            }
        }
        let next = self.patterns.requests.iter().position(|state| state.asked == Asked::Unsent);
        let Some(request) = next.filter(|_| !self.is_healing && self.patterns.random.one_in(3)) else { return };
        let timeout_us = self.patterns.random.between(2_000, 80_000);
        let until_us = if is_patient(request) { u64::MAX } else { now_us + timeout_us };
        self.patterns.requests[request].asked = Asked::Waiting { until_us };
        let has_signal = self.patterns.one_in(2);
        self.model.count(Counted::Requests);
        self.note(|| format!("request {request} is made, until {until_us} us"));
        self.enqueue(CALLER, messages::request(request), has_signal);
    }

    /// The outsider answers what it was not asked.
    fn meddle(&mut self) {
        if self.is_healing || self.is_outsider_gone(OUTSIDER) || !self.patterns.one_in(4) {
            return;
        }
        let sent = self.patterns.agent(OUTSIDER).outbox.len();
        if sent < REQUESTS && self.patterns.requests[sent].asked != Asked::Unsent {
            let has_signal = self.patterns.one_in(2);
            self.enqueue(OUTSIDER, messages::foreign(sent), has_signal);
        }
    }

    /// A shard knows that the outsider is revoked, and others may not: it signals as long as its connection is there.
    pub(crate) fn outsider_signals_once_more(&mut self) {
        let link = self.patterns.agent(OUTSIDER).current.filter(|link| self.links[*link].client_side.is_logged_in);
        if let Some(link) = link.filter(|_| self.patterns.is_on) {
            let signal = self.patterns.random.index(SIGNALS);
            self.send_batch(link, Window { sender: OUTSIDER, first: 2 * signal + 1, count: 1 }, false);
        }
    }

    /// The uploader sends one file after the other, and dies now and then.
    fn upload(&mut self) {
        let is_open = |file: &super::File| !file.head_is_sent && !file.is_given_up;
        let Some(number) = self.patterns.files.iter().position(is_open) else { return };
        let (has_begun, run) = (self.patterns.files[number].has_begun, self.patterns.files[number].run);
        if !has_begun {
            if !self.is_healing && self.patterns.one_in(6) {
                self.patterns.files[number].has_begun = true;
                self.send_chunks(number);
            }
            return;
        }
        let head = messages::file_part(number, run, CHUNKS);
        for index in 0..CHUNKS {
            if self.patterns.agents[UPLOADER - FIRST].has_acknowledged(messages::file_part(number, run, index)) {
                self.patterns.files[number].journal[index] = true;
            }
        }
        if (0..=CHUNKS).any(|part| self.patterns.is_given_up(messages::file_part(number, run, part))) {
            self.patterns.files[number].is_given_up = true;
            return;
        }
        if self.patterns.agents[UPLOADER - FIRST].has_acknowledged(head) {
            self.patterns.files[number].head_is_sent = true;
            return;
        }
        if !self.is_healing && run + 1 < RUNS && self.patterns.one_in(12) {
            self.uploader_dies(number);
            return;
        }
        let is_queued = self.patterns.agents[UPLOADER - FIRST].outbox.iter().any(|of| of.number == head);
        if self.patterns.files[number].journal == [true; CHUNKS] && !is_queued {
            self.enqueue(UPLOADER, head, false);
        }
    }

    fn send_chunks(&mut self, file: usize) {
        let run = self.patterns.files[file].run;
        for index in 0..CHUNKS {
            if !self.patterns.files[file].journal[index] {
                self.enqueue(UPLOADER, messages::file_part(file, run, index), false);
            }
        }
    }

    /// Its next process has the journal, which may lack what was written last, and new message ids.
    fn uploader_dies(&mut self, file: usize) {
        let forgets = self.patterns.one_in(2);
        let state = &mut self.patterns.files[file];
        state.run += 1;
        if forgets && let Some(last) = state.journal.iter().rposition(|is_durable| *is_durable) {
            state.journal[last] = false;
        }
        let agent = self.patterns.agent(UPLOADER);
        agent.outbox.retain(|of| of.is_acknowledged);
        let link = agent.current;
        self.model.count(Counted::Resumed);
        self.note(|| format!("the uploader dies in the middle of file {file}"));
        if let Some(link) = link {
            self.end_link(link);
        }
        self.send_chunks(file);
    }

    fn end_link(&mut self, link: LinkNumber) {
        self.client_gone(link);
        let delay_us = self.delay(self.profile.network_us);
        self.clock.after(delay_us, Step::NodeGone { link });
    }

    fn send_outgoing(&mut self, number: usize, link: LinkNumber) {
        let agent = &mut self.patterns.agents[number];
        let end = agent.outbox.len().min(agent.oldest_open() + self.profile.ahead_max);
        let mut windows = Vec::new();
        while agent.next < end {
            let outgoing = &mut agent.outbox[agent.next];
            // What is sent again goes alone: a signal is said once.
            let count = 1 + usize::from(std::mem::take(&mut outgoing.has_signal));
            windows.push(Window { sender: agent.index, first: outgoing.number - first_of(agent.index), count });
            agent.next += 1;
        }
        for window in windows {
            self.send_batch(link, window, false);
        }
    }

    /// Signals, and questions whether the worker is there.
    fn signal_and_ask(&mut self, index: usize, link: LinkNumber) {
        if matches!(index, CALLER | OUTSIDER) && !self.is_healing && self.patterns.one_in(2) {
            let signal = self.patterns.random.index(SIGNALS);
            self.send_batch(link, Window { sender: index, first: 2 * signal + 1, count: 1 }, false);
        }
        if matches!(index, CALLER | STRANGER) && !self.is_healing && self.patterns.one_in(3) {
            let agent = self.pool.agents[WORKER].id;
            self.send_to_node(link, CONTROL, |out| PresenceRequest { agent }.encode(out));
        }
        if index != WORKER {
            return;
        }
        if !self.is_healing && self.patterns.one_in(12) {
            let audience = if self.patterns.one_in(2) { PresenceAudience::Nobody } else { PresenceAudience::Senders };
            self.show_presence(link, audience);
        }
        if self.links[link].client_side.credit_signals < 2 && self.patterns.one_in(2) {
            let signals = u32::try_from(self.patterns.random.between(1, 4)).expect("a few");
            self.links[link].client_side.credit_signals += signals;
            self.send_to_node(link, DELIVER, |out| SignalCredit { signals }.encode(out));
        }
    }

    /// Looks at everything that the application of a reader has and has not let go of.
    fn work_through(&mut self, link: LinkNumber) -> Checked {
        let waiting = std::mem::take(&mut self.links[link].client_side.unacknowledged);
        let (mut kept, mut done, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, number) in waiting {
            let part = part_of(number).expect("only agents of the patterns write to each other");
            match self.take_part(number, part)? {
                Looked::Done => {
                    self.model.fates[number].consumer_acknowledged = true;
                    done.push(sequence);
                }
                Looked::Refused(nack) => {
                    if let Nack::Never { .. } = nack {
                        self.model.fates[number].consumer_rejected = true;
                    }
                    refused.push((sequence, nack));
                }
                Looked::Kept => kept.push((sequence, number)),
            }
        }
        self.links[link].client_side.unacknowledged = kept;
        if !done.is_empty() {
            self.note(|| format!("connection {link}: the application acknowledges {done:?}"));
            self.send_to_node(link, DELIVER, |out| ConsumerAck { sequences: done }.encode(out));
        }
        if !refused.is_empty() {
            self.note(|| format!("connection {link}: the application refuses {refused:?}"));
            self.send_to_node(link, DELIVER, |out| ConsumerNack { messages: refused }.encode(out));
        }
        let client = &self.links[link].client_side;
        if client.credit_messages < 8 || client.credit_bytes < 2_048 {
            self.grant(link);
        }
        Ok(())
    }

    /// What becomes of a message: it is kept, acknowledged, or refused in some way.
    fn take_part(&mut self, number: MessageNumber, part: Part) -> Result<Looked, crate::Violation> {
        match part {
            Part::Request(request) => Ok(if self.work_on(request) { Looked::Done } else { Looked::Kept }),
            Part::Answer { request, .. } => {
                self.answer_comes(request, true)?;
                Ok(Looked::Done)
            }
            Part::Foreign(request) => {
                self.answer_comes(request, false)?;
                Ok(Looked::Done)
            }
            Part::Chunk { file, index, .. } => Ok(Looked::of(self.chunk_comes(number, file, index))),
            Part::Head { file, .. } => Ok(Looked::of(self.head_comes(number, file)?)),
            Part::Signal => broken(Rule::SignalsLeaveNoTrace, format!("signal {number} came as a message")),
        }
    }

    /// The worker works on a request, answers it, and is done with it when its answer is durable.
    fn work_on(&mut self, request: usize) -> bool {
        let now_us = self.clock.now_us();
        let is_over = match self.patterns.requests[request].asked {
            Asked::TimedOut => true,
            Asked::Waiting { until_us } => until_us <= now_us,
            Asked::Unsent | Asked::Answered | Asked::GivenUp => false,
        };
        let busy_us = self.patterns.random.between(0, 20_000);
        let state = &mut self.patterns.requests[request];
        state.was_shown = true;
        match state.work {
            Work::Idle if is_over => {
                self.model.count(Counted::CameTooLate);
                true
            }
            Work::Idle if state.answers == COPIES => true,
            Work::Idle => {
                state.work = Work::Busy { until_us: now_us + busy_us };
                false
            }
            Work::Busy { until_us } if now_us < until_us => false,
            Work::Busy { .. } => {
                let copy = state.answers;
                (state.answers, state.work) = (copy + 1, Work::Answering { copy });
                if copy > 0 {
                    self.model.count(Counted::AnsweredAgain);
                }
                self.note(|| format!("the worker answers request {request}, copy {copy}"));
                self.enqueue(WORKER, messages::answer(request, copy), false);
                false
            }
            Work::Answering { copy } => {
                // It may take a while to say so; another process would begin again meanwhile.
                let is_slow = !self.is_healing && self.patterns.one_in(2);
                let answer = messages::answer(request, copy);
                let is_durable = !is_slow && self.patterns.agents[WORKER - FIRST].has_acknowledged(answer);
                if is_durable {
                    self.patterns.requests[request].work = Work::Idle;
                }
                is_durable
            }
        }
    }

    /// The caller takes the first answer of whom it asked, while it waits, and drops every other.
    fn answer_comes(&mut self, request: usize, is_of_worker: bool) -> Checked {
        let is_anybodys = self.planted == Some(PlantedBug::TakeAnyAnswer);
        let state = &mut self.patterns.requests[request];
        if !is_of_worker && !is_anybodys {
            self.model.count(Counted::ForeignAnswers);
            return Ok(());
        }
        if !matches!(state.asked, Asked::Waiting { .. }) {
            self.model.count(Counted::LateAnswers);
            return Ok(());
        }
        (state.asked, state.taken) = (Asked::Answered, state.taken + 1);
        self.model.count(Counted::Answered);
        if !state.was_shown || state.answers == 0 {
            let text = format!("request {request} is answered, and nobody who was asked has answered: {state:?}");
            return broken(Rule::AnsweredOnce, text);
        }
        Ok(())
    }

    /// The receiver takes a chunk, unless it has it or wants nothing of its file. Whatever it does, it need not come again.
    fn chunk_comes(&mut self, number: MessageNumber, file: usize, index: usize) -> Option<Nack> {
        let keeps = self.planted == Some(PlantedBug::KeepChunks);
        let state = &mut self.patterns.files[file];
        if state.outcome.is_some() || state.have[index] {
            // A chunk of a file that was settled is dropped.
            state.have[index] |= keeps;
            self.model.count(Counted::PartsAgain);
            return None;
        }
        if state.is_too_large {
            return Some(self.refuse_file(number, file));
        }
        // Other files take the room that there is.
        if !self.is_healing && self.patterns.one_in(6) {
            self.model.count(Counted::NoRoom);
            return Some(Nack::Later { delay_ms: 5 });
        }
        self.patterns.files[file].have[index] = true;
        self.model.count(Counted::Chunks);
        None
    }

    /// The receiver hands a file out when all of it is there.
    fn head_comes(&mut self, number: MessageNumber, file: usize) -> Result<Option<Nack>, crate::Violation> {
        let has_lost_a_part = self.has_lost_a_part(file);
        let state = &mut self.patterns.files[file];
        match state.outcome {
            Some(FileOutcome::Whole) => {
                self.model.count(Counted::PartsAgain);
                return Ok(None);
            }
            Some(FileOutcome::Refused) => return Ok(Some(Nack::Never { reason: reason_of(number) })),
            None if state.is_too_large => return Ok(Some(self.refuse_file(number, file))),
            None => {}
        }
        if state.have != [true; CHUNKS] {
            self.model.count(Counted::EarlyHeads);
            // What its owner deleted does not come any more: in the end nobody waits for it.
            if self.is_healing && has_lost_a_part {
                return Ok(Some(self.refuse_file(number, file)));
            }
            return Ok(Some(Nack::Later { delay_ms: 5 }));
        }
        (state.outcome, state.have) = (Some(FileOutcome::Whole), [false; CHUNKS]);
        state.handed_out += 1;
        self.model.count(Counted::Files);
        let is_stored =
            |part| (0..RUNS).any(|run| self.model.fates[messages::file_part(file, run, part)].stored.is_some());
        match (0..=CHUNKS).all(is_stored) {
            true => Ok(None),
            false => broken(Rule::WholeOrNotAtAll, format!("file {file} is handed out, and not all of it was durable")),
        }
    }

    fn refuse_file(&mut self, number: MessageNumber, file: usize) -> Nack {
        let state = &mut self.patterns.files[file];
        state.outcome = Some(FileOutcome::Refused);
        if self.planted != Some(PlantedBug::KeepChunks) {
            state.have = [false; CHUNKS];
        }
        self.model.count(Counted::FilesRefused);
        Nack::Never { reason: reason_of(number) }
    }

    /// What the SDK does with signals: verify, hide what the application has seen, show the rest.
    pub(crate) fn signals_arrive(&mut self, link: LinkNumber, body: &bytes::Bytes) -> Checked {
        let signals = parse_signals(body).expect("a shard sends proper frames");
        let header = body.slice_ref(signals.batch_header.expect("signals come with their header").as_bytes());
        for span in signals.messages {
            let envelope = aligned(&body[span.envelope.clone()]);
            let id = EnvelopeView::parse(&envelope).map(|view| view.message_id().0);
            let number = id.ok().and_then(|id| self.pool.message_of(&id));
            let Some(number) = number.filter(|&number| self.pool.proves(number, &header, body, &span)) else {
                return broken(Rule::Content, format!("connection {link}: a signal came that nobody sent"));
            };
            let client = &mut self.links[link].client_side;
            if client.credit_signals == 0 {
                return broken(Rule::CreditIsKept, format!("connection {link}: signal {number} came without credit"));
            }
            client.credit_signals -= 1;
            self.note(|| format!("connection {link}: signal {number} comes"));
            let is_first = !std::mem::replace(&mut self.model.fates[number].delivered, true);
            self.model.count(if is_first { Counted::SignalsShown } else { Counted::SignalsAgain });
        }
        Ok(())
    }

    /// The node has answered a batch.
    pub(crate) fn pattern_answered(&mut self, number: usize, window: Window, results: &[(u32, u16)]) {
        for (place, message) in (0..).zip(window.messages()) {
            let code = code_of(results, place).and_then(RejectCode::from_u16);
            let pause_us = self.patterns.random.between(500, 40_000);
            let not_before_us = self.clock.now_us() + pause_us;
            let agent = &mut self.patterns.agents[number];
            // A signal is over when it was answered; and what a dead process had sent, nobody waits for.
            let Some(at) = agent.outbox.iter().position(|of| of.number == message && !of.is_acknowledged) else {
                continue;
            };
            match code {
                None | Some(RejectCode::Duplicate) => {
                    agent.outbox[at].is_acknowledged = true;
                    self.model.fates[message].sender_knows = true;
                }
                Some(RejectCode::OutsideDedupWindow | RejectCode::SigningTime) => {
                    (agent.outbox[at].is_acknowledged, agent.outbox[at].is_given_up) = (true, true);
                    self.model.tally.refused_for_the_clock += 1;
                    self.model.refused_for_room = true;
                }
                Some(_) => {
                    agent.next = agent.next.min(at);
                    agent.not_before_us = not_before_us;
                }
            }
        }
    }

    /// The node refuses something on another stream.
    pub(crate) fn pattern_agent_rejected(&mut self, number: usize, link: LinkNumber, reject: &Reject) -> Checked {
        let agent = &self.patterns.agents[number];
        match RejectCode::from_u16(reject.code) {
            Some(RejectCode::SubscriptionReplaced | RejectCode::ShuttingDown | RejectCode::Overloaded) => {}
            Some(RejectCode::AgentRevoked) if self.is_outsider_gone(agent.index) => {}
            code => {
                return broken(Rule::RefusedForAReason, format!("connection {link} was refused something: {code:?}"));
            }
        }
        let pause_us = self.patterns.random.between(1_000, 20_000);
        self.patterns.agents[number].not_before_us = self.clock.now_us() + pause_us;
        self.note(|| format!("connection {link}: rejected with {}, the agent closes it", reject.code));
        self.end_link(link);
        Ok(())
    }

    pub(crate) fn pattern_agent_gone(&mut self, number: usize, link: LinkNumber) {
        let agent = &mut self.patterns.agents[number];
        agent.open.retain(|open| *open != link);
        agent.current = agent.current.filter(|current| *current != link);
    }
}

/// Who comes over a second connection now and then: who reads.
fn agent_takes_over(index: usize, is_healing: bool) -> bool {
    matches!(index, CALLER | WORKER) && !is_healing
}
