//! What both ends do: senders submit what is due, takers wait for the answers, receivers count what comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use creto_agent::{
    Acknowledged, Agent, AgentId, AgentName, ChannelError, ChannelSubscription, Delivery, Failure, PendingPublish,
    PendingSend, PublishOptions, Publisher, Receipt, RequestError, RequestOptions, SendError, SendOptions,
    ServeOptions, Stats,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::arrival::{Planned, Way};
use crate::cast::{Member, Player};
use crate::ledger::Record;
use crate::limits::{PENDING_PER_SENDER, REQUEST_TIMEOUT, REQUESTS_PER_SENDER, SETTLE_TIMEOUT, UNSETTLED_MAX};
use crate::options::micros;
use crate::pace::{OwnLateness, timed};
use crate::payload::{Mark, digest};
use crate::state::{Run, Told};

/// A message whose answer is waited for.
#[derive(Debug)]
struct Waiting<A> {
    answer: A,
    planned: Planned,
    digest: [u8; 32],
    /// Its place in a closed loop.
    _place: Option<OwnedSemaphorePermit>,
}

/// Where records of acknowledged messages go.
pub(crate) type AcknowledgedLedger = mpsc::Sender<(Record, Planned)>;
/// Where records of delivered messages go; the delivery is acknowledged once its record is down.
pub(crate) type DeliveredLedger = mpsc::Sender<(Record, Delivery)>;

/// One connection that sends.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) run: Arc<Run>,
    pub(crate) lane: u32,
    pub(crate) agent: Agent,
    pub(crate) publisher: Option<Publisher>,
    /// Mailboxes, and agents that answer.
    pub(crate) receivers: Arc<[AgentName]>,
    pub(crate) servers: Arc<[AgentName]>,
    /// Before when its messages are due; none in a closed loop.
    pub(crate) due: Option<watch::Receiver<u64>>,
    /// Its places in a closed loop.
    pub(crate) places: Option<Arc<Semaphore>>,
    pub(crate) ledger: Option<AcknowledgedLedger>,
}

impl Sender {
    /// Sends everything that is due, and ends when everything is answered. Never waits for an answer: only for a place in flight.
    pub(crate) async fn send(mut self) {
        let (direct, answers) = mpsc::channel::<Waiting<PendingSend>>(PENDING_PER_SENDER);
        let (published, publish_answers) = mpsc::channel::<Waiting<PendingPublish>>(PENDING_PER_SENDER);
        let mut requests = JoinSet::new();
        let requests_max = Arc::new(Semaphore::new(REQUESTS_PER_SENDER));
        let mut takers = JoinSet::new();
        takers.spawn(take_answers(Arc::clone(&self.run), answers, self.ledger.take()));
        takers.spawn(take_answers(Arc::clone(&self.run), publish_answers, None));

        let (run, workload) = (Arc::clone(&self.run), Arc::clone(&self.run.workload));
        let mut dated = workload.lane(self.lane);
        let mut undated = workload.undated(self.lane);
        let mut lateness = OwnLateness::default();
        // A closed loop begins with the clock, too.
        tokio::time::sleep_until(run.start.into()).await;
        loop {
            let mut place = None;
            let planned = match (&mut self.due, &self.places) {
                (Some(due), _) => {
                    let Some(planned) = dated.next() else { break };
                    // The pacer is gone when the run was given up.
                    if due.wait_for(|before| *before > planned.due_us).await.is_err() {
                        break;
                    }
                    planned
                }
                (None, places) => {
                    let places = Arc::clone(places.as_ref().expect("a closed loop has places"));
                    place = Some(places.acquire_owned().await.expect("nobody closes it"));
                    let now_us = micros(run.start.elapsed());
                    if now_us >= workload.end_us {
                        break;
                    }
                    let planned = undated.at(now_us);
                    if !run.in_bounds(planned.number) {
                        break;
                    }
                    planned
                }
            };
            let mark = Mark { number: planned.number, due_us: planned.due_us };
            let payload = run.payloads.make(mark, planned.payload_bytes);
            let digest = if run.keeps_ledger { digest(&payload) } else { [0; 32] };
            let now_us = micros(run.start.elapsed());
            let late_us = self.due.is_some().then(|| lateness.handed_over(planned.due_us, now_us));
            run.handed_over(&planned, now_us, late_us);
            match planned.way {
                Way::Direct => {
                    let to = &self.receivers[planned.target % self.receivers.len()];
                    let options = SendOptions { priority: planned.priority, ..SendOptions::default() };
                    let (submitted, wait) = timed(self.agent.submit(to, payload, options)).await;
                    lateness.waited(wait);
                    match submitted {
                        Ok(answer) => {
                            let waiting = Waiting { answer, planned, digest, _place: place };
                            let (taken, wait) = timed(direct.send(waiting)).await;
                            lateness.waited(wait);
                            if taken.is_err() {
                                break;
                            }
                        }
                        Err(error) => run.answered(&planned, Told::of_send(&error)),
                    }
                }
                Way::Publish => {
                    let publisher = self.publisher.as_ref().expect("a run that publishes has a channel");
                    let options = PublishOptions { priority: planned.priority, ..PublishOptions::default() };
                    let (submitted, wait) = timed(publisher.submit(payload, options)).await;
                    lateness.waited(wait);
                    match submitted {
                        Ok(answer) => {
                            let waiting = Waiting { answer, planned, digest, _place: place };
                            let (taken, wait) = timed(published.send(waiting)).await;
                            lateness.waited(wait);
                            if taken.is_err() {
                                break;
                            }
                        }
                        Err(error) => run.answered(&planned, told_of_channel(&error)),
                    }
                }
                Way::Request => {
                    while let Some(joined) = requests.try_join_next() {
                        joined.expect("a request does not panic");
                    }
                    let (under_way, wait) = timed(Arc::clone(&requests_max).acquire_owned()).await;
                    lateness.waited(wait);
                    let under_way = under_way.expect("nobody closes it");
                    let to = self.servers[planned.target % self.servers.len()].clone();
                    let options = RequestOptions::new(REQUEST_TIMEOUT).priority(planned.priority);
                    let (agent, run) = (self.agent.clone(), Arc::clone(&run));
                    requests.spawn(async move {
                        let answer = agent.request_with(&to, payload, options).await;
                        let told = match &answer {
                            Ok(_) => Told::Done,
                            Err(error) => told_of_request(error),
                        };
                        run.answered(&planned, told);
                        drop((place, under_way));
                    });
                }
            }
        }
        drop((direct, published));
        while let Some(joined) = requests.join_next().await {
            joined.expect("a request does not panic");
        }
        while let Some(joined) = takers.join_next().await {
            joined.expect("taking answers does not panic");
        }
    }
}

/// An answer that says whether a message is durable.
trait Outcome: Future {
    fn told(output: Self::Output) -> Result<Receipt, Told>;
}

impl Outcome for PendingSend {
    fn told(output: Result<Receipt, SendError>) -> Result<Receipt, Told> {
        output.map_err(|error| Told::of_send(&error))
    }
}

impl Outcome for PendingPublish {
    fn told(output: Result<Receipt, ChannelError>) -> Result<Receipt, Told> {
        output.map_err(|error| told_of_channel(&error))
    }
}

/// Takes the answers. They come in the order of the messages, so that none waits here for an earlier one; only a
/// message that was refused for now lets later ones wait, and their latency then counts with it.
async fn take_answers<A: Outcome>(
    run: Arc<Run>,
    mut waiting: mpsc::Receiver<Waiting<A>>,
    ledger: Option<AcknowledgedLedger>,
) {
    while let Some(Waiting { answer, planned, digest, _place }) = waiting.recv().await {
        match A::told(answer.await) {
            Ok(receipt) => {
                run.durable(&planned);
                match &ledger {
                    None => run.answered(&planned, Told::Done),
                    Some(ledger) => {
                        let line = Record {
                            pair: run.pair(&planned),
                            number: planned.number,
                            message_id: receipt.message_id,
                            digest,
                            flow: run.flow(&planned),
                        };
                        // A ledger that cannot be written ends the run with its own error.
                        let _ = ledger.send((line, planned)).await;
                    }
                }
            }
            Err(told) => run.answered(&planned, told),
        }
    }
}

fn told_of_channel(error: &ChannelError) -> Told {
    match error {
        ChannelError::Send(error) => Told::of_send(error),
        ChannelError::Refused(code) => Told::Refused(code.as_u16()),
        _ => Told::Unknown,
    }
}

fn told_of_request(error: &RequestError) -> Told {
    match error {
        RequestError::NotSent(source)
        | RequestError::Denied { source, .. }
        | RequestError::UnknownAgent { source, .. }
        | RequestError::MailboxFull { source, .. } => Told::of_send(source),
        _ => Told::Unknown,
    }
}

/// Deliveries that were acknowledged, and whose acknowledgement has not gone out: when each was due, by its sequence.
type Unsettled = Arc<Mutex<BTreeMap<u64, u64>>>;

const UNPOISONED: &str = "no code panics while it holds this lock";

/// Remembers what is acknowledged next. False: there is no room.
fn settles(unsettled: &Unsettled, sequence: u64, due_us: u64) -> bool {
    let mut unsettled = unsettled.lock().expect(UNPOISONED);
    let has_room = unsettled.len() < UNSETTLED_MAX;
    if has_room {
        unsettled.insert(sequence, due_us);
    }
    has_room
}

/// Takes the time of each acknowledgement as it is handed to the connection, until the agent is gone.
fn measure_settling(run: Arc<Run>, agent: &Agent, unsettled: Unsettled) -> tokio::task::JoinHandle<()> {
    let mut acknowledgements = agent.acknowledgements();
    tokio::spawn(async move {
        while let Some(acknowledged) = acknowledgements.next().await {
            let settled: Vec<u64> = {
                let mut unsettled = unsettled.lock().expect(UNPOISONED);
                match acknowledged {
                    Acknowledged::Mailbox(sequences) => {
                        sequences.iter().filter_map(|sequence| unsettled.remove(sequence)).collect()
                    }
                    Acknowledged::Channel { sequences, .. } => {
                        // The largest stands for all before it.
                        let last = sequences.iter().max().copied().unwrap_or(0);
                        let later = unsettled.split_off(&last.saturating_add(1));
                        std::mem::replace(&mut *unsettled, later).into_values().collect()
                    }
                    _ => Vec::new(),
                }
            };
            run.settled(&settled);
        }
        // Whose acknowledgement went out no more: nobody settles those.
        let left = std::mem::take(&mut *unsettled.lock().expect(UNPOISONED)).len();
        if left > 0 {
            run.unmeasured(left);
        }
    })
}

/// What all receivers are told.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    /// Whether they may begin.
    pub(crate) open: watch::Receiver<bool>,
    /// Whether it is over.
    pub(crate) over: watch::Receiver<bool>,
}

/// An agent that reads its mailbox.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) run: Arc<Run>,
    pub(crate) place: usize,
    pub(crate) player: Player,
    /// What it takes for each message.
    pub(crate) pause: Option<Duration>,
    /// Something comes when it is to leave and come back.
    pub(crate) leaves: Option<mpsc::Receiver<()>>,
    pub(crate) ledger: Option<DeliveredLedger>,
    pub(crate) signals: Signals,
}

/// How a stretch of reading ended.
enum Ended {
    /// It is over, or receiving failed.
    Over,
    /// It is to leave and come back.
    Leaves,
}

impl Receiver {
    /// Counts what comes until it is over; gives what the SDK counted.
    pub(crate) async fn receive(mut self) -> Vec<Stats> {
        let mut stats = Vec::new();
        let mut over = self.signals.over.clone();
        let open = async { self.signals.open.clone().wait_for(|open| *open).await.is_ok() };
        let opened = tokio::select! {
            opened = open => opened,
            _ = over.wait_for(|over| *over) => false,
        };
        loop {
            let unsettled = Unsettled::default();
            let settling = measure_settling(Arc::clone(&self.run), &self.player.agent, Arc::clone(&unsettled));
            let ended = if opened { self.read(&unsettled).await } else { Ended::Over };
            stats.push(self.player.agent.stats());
            self.player.agent.clone().close().await;
            let Ended::Leaves = ended else {
                let Player { agent, .. } = self.player;
                drop(agent);
                // It ends with the agent.
                drop(settling.await);
                return stats;
            };
            let connected = tokio::select! {
                biased;
                // A node that is gone lets nobody in until the attempt is given up.
                _ = over.wait_for(|over| *over) => return stats,
                connected = self.player.member.connect() => connected,
            };
            match connected {
                Ok(agent) => {
                    self.run.came_back();
                    // The one before is gone with it.
                    self.player.agent = agent;
                }
                Err(error) => {
                    self.run.failed(&error.to_string());
                    return stats;
                }
            }
        }
    }

    async fn read(&mut self, unsettled: &Unsettled) -> Ended {
        let mut mailbox = match self.player.agent.subscribe() {
            Ok(mailbox) => mailbox,
            Err(error) => {
                self.run.failed(&error.to_string());
                return Ended::Over;
            }
        };
        let mut over = self.signals.over.clone();
        loop {
            let leaves = async {
                match &mut self.leaves {
                    Some(leaves) => leaves.recv().await,
                    None => std::future::pending().await,
                }
            };
            let delivery = tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => return Ended::Over,
                asked = leaves => match asked {
                    Some(()) => return Ended::Leaves,
                    None => {
                        self.leaves = None;
                        continue;
                    }
                },
                delivery = mailbox.next() => delivery,
            };
            let delivery = match delivery {
                Some(Ok(delivery)) => delivery,
                Some(Err(error)) => {
                    self.run.failed(&error.to_string());
                    return Ended::Over;
                }
                None => return Ended::Over,
            };
            let Some(mark) = self.run.mark_of(&delivery.payload, delivery.from_id) else {
                self.run.strange();
                continue;
            };
            self.run.delivered(mark);
            if let Some(pause) = self.pause {
                tokio::time::sleep(pause).await;
            }
            if !settles(unsettled, delivery.mailbox_sequence, mark.due_us) {
                self.run.unmeasured(1);
            }
            match &self.ledger {
                None => delivery.ack(),
                Some(ledger) => {
                    let line = Record {
                        pair: u32::try_from(self.place).unwrap_or(u32::MAX),
                        number: mark.number,
                        message_id: delivery.message_id,
                        digest: digest(&delivery.payload),
                        flow: self.run.flow_of(mark.number, delivery.priority),
                    };
                    drop(ledger.send((line, delivery)).await);
                }
            }
        }
    }
}

/// An agent that reads a channel.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) run: Arc<Run>,
    /// Place of its channel, and its own among those of that channel.
    pub(crate) channel: usize,
    pub(crate) place: usize,
    pub(crate) player: Player,
    pub(crate) subscription: ChannelSubscription,
    pub(crate) pause: Option<Duration>,
    pub(crate) signals: Signals,
}

impl Subscriber {
    /// Counts what comes until it is over; gives what the SDK counted.
    pub(crate) async fn receive(mut self) -> Vec<Stats> {
        let unsettled = Unsettled::default();
        let settling = measure_settling(Arc::clone(&self.run), &self.player.agent, Arc::clone(&unsettled));
        let mut over = self.signals.over.clone();
        loop {
            let message = tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => break,
                message = self.subscription.next() => message,
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    self.run.failed(&error.to_string());
                    if error.is_about_one_message() {
                        continue;
                    }
                    break;
                }
                None => break,
            };
            let mark = self.run.mark_of(&message.payload, message.publisher_id);
            let Some(mark) = mark.filter(|mark| self.run.publishes_in(mark.number, self.channel)) else {
                self.run.strange();
                continue;
            };
            self.run.read(self.place, mark);
            if let Some(pause) = self.pause {
                tokio::time::sleep(pause).await;
            }
            if !settles(&unsettled, message.sequence, mark.due_us) {
                self.run.unmeasured(1);
            }
            message.ack();
        }
        // The subscription goes with the run: a channel that is used again owes it nothing.
        let ended = tokio::time::timeout(SETTLE_TIMEOUT, self.subscription.unsubscribe()).await;
        // A node that is gone has nothing to end.
        if let Ok(Err(error)) = ended {
            self.run.failed(&error.to_string());
        }
        let stats = self.player.agent.stats();
        self.player.agent.close().await;
        drop(settling.await);
        vec![stats]
    }
}

/// Answers requests until it is over; gives what the SDK counted.
pub(crate) async fn serve(run: Arc<Run>, player: Player, signals: Signals) -> Vec<Stats> {
    let agent = player.agent;
    let handling = Arc::clone(&run);
    let server = agent.serve(ServeOptions::default(), move |request| {
        let run = Arc::clone(&handling);
        async move {
            let mark = run.mark_of(&request.payload, request.from_id);
            let Some(mark) = mark else {
                run.strange();
                return Err(Failure::new(1, "no request of this run"));
            };
            run.delivered(mark);
            Ok(request.payload.slice(..crate::limits::PAYLOAD_BYTES_MIN))
        }
    });
    match server {
        Ok(mut server) => {
            let mut over = signals.over.clone();
            let ended = tokio::select! {
                _ = over.wait_for(|over| *over) => None,
                ended = server.ended() => Some(ended),
            };
            match ended {
                // What it fails with is that it had ended.
                None => drop(server.stop().await),
                Some(Ok(())) => {}
                Some(Err(error)) => run.failed(&error.to_string()),
            }
        }
        Err(error) => run.failed(&error.to_string()),
    }
    let stats = agent.stats();
    agent.close().await;
    vec![stats]
}

/// Has receivers leave and come back, one after the other, until it is over.
pub(crate) async fn churn(leaves: Vec<mpsc::Sender<()>>, every: Duration, mut over: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    for turn in (0..leaves.len()).cycle() {
        tokio::select! {
            _ = over.wait_for(|over| *over) => return,
            _ = tick.tick() => {}
        }
        // One that is still coming back is left alone.
        let _ = leaves[turn].try_send(());
    }
}

/// Whoever sent it, and what they call themselves.
pub(crate) fn is_from(ids: &[AgentId], number: u64, from: AgentId) -> bool {
    let lane = usize::try_from(number % ids.len().max(1) as u64).unwrap_or(usize::MAX);
    ids.get(lane).is_some_and(|id| *id == from)
}

/// The members whose places are the last so many take their time.
pub(crate) fn pause_of(place: usize, count: usize, slow: usize, by: Duration) -> Option<Duration> {
    (place + slow >= count).then_some(by)
}

/// Names in their order.
pub(crate) fn names<'a>(members: impl Iterator<Item = &'a Member>) -> Arc<[AgentName]> {
    members.map(|member| member.name().clone()).collect()
}
