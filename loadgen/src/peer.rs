//! Agents of a creto node: what a sender hands its messages to, receivers that count what comes, agents that answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use creto_agent::{
    Acknowledged, Agent, AgentName, ChannelError, ChannelSubscription, Delivery, Failure, PendingPublish, PendingSend,
    PublishOptions, Publisher, RequestError, RequestOptions, SendOptions, ServeOptions, Stats,
};
use creto_envelope::MessageId;
use tokio::sync::{mpsc, watch};

use crate::arrival::{Planned, Way};
use crate::cast::{Member, Player};
use crate::ledger::Record;
use crate::limits::{REQUEST_TIMEOUT, SETTLE_TIMEOUT, UNSETTLED_MAX};
use crate::payload::digest;
use crate::state::{Run, Told};
use crate::target::{Line, Signals, is_over_after};

/// Where records of delivered messages go; the delivery is acknowledged once its record is down.
pub(crate) type DeliveredLedger = mpsc::Sender<(Record, Delivery)>;

/// An agent that sends.
#[derive(Debug)]
pub(crate) struct CretoLine {
    pub(crate) agent: Agent,
    pub(crate) publisher: Option<Publisher>,
    /// Mailboxes, and agents that answer.
    pub(crate) receivers: Arc<[AgentName]>,
    pub(crate) servers: Arc<[AgentName]>,
}

/// What the node's word on a message is waited for with.
#[derive(Debug)]
pub(crate) enum CretoAnswer {
    Sent(PendingSend),
    Published(PendingPublish),
}

impl Line for CretoLine {
    type Answer = CretoAnswer;

    async fn submit(&mut self, planned: &Planned, payload: Bytes) -> Result<CretoAnswer, Told> {
        if planned.way == Way::Publish {
            let publisher = self.publisher.as_ref().expect("a run that publishes has a channel");
            let options = PublishOptions { priority: planned.priority, ..PublishOptions::default() };
            let submitted = publisher.submit(payload, options).await;
            return submitted.map(CretoAnswer::Published).map_err(|error| told_of_channel(&error));
        }
        let to = &self.receivers[planned.target % self.receivers.len()];
        let options = SendOptions { priority: planned.priority, ..SendOptions::default() };
        let submitted = self.agent.submit(to, payload, options).await;
        submitted.map(CretoAnswer::Sent).map_err(|error| Told::of_send(&error))
    }

    async fn answer(answer: CretoAnswer) -> Result<Option<MessageId>, Told> {
        let receipt = match answer {
            CretoAnswer::Sent(answer) => answer.await.map_err(|error| Told::of_send(&error)),
            CretoAnswer::Published(answer) => answer.await.map_err(|error| told_of_channel(&error)),
        };
        receipt.map(|receipt| Some(receipt.message_id))
    }

    fn request(&mut self, planned: &Planned, payload: Bytes) -> impl Future<Output = Told> + Send + 'static {
        let to = self.servers[planned.target % self.servers.len()].clone();
        let options = RequestOptions::new(REQUEST_TIMEOUT).priority(planned.priority);
        let agent = self.agent.clone();
        async move {
            match agent.request_with(&to, payload, options).await {
                Ok(_) => Told::Done,
                Err(error) => told_of_request(&error),
            }
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
            let Some(mark) = self.run.mark_of(&delivery.payload, Some(delivery.from_id)) else {
                self.run.strange();
                continue;
            };
            self.run.delivered(mark);
            if is_over_after(self.pause, &mut over).await {
                return Ended::Over;
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
            let mark = self.run.mark_of(&message.payload, Some(message.publisher_id));
            let Some(mark) = mark.filter(|mark| self.run.publishes_in(mark.number, self.channel)) else {
                self.run.strange();
                continue;
            };
            self.run.read(self.place, mark);
            if is_over_after(self.pause, &mut over).await {
                break;
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
            let mark = run.mark_of(&request.payload, Some(request.from_id));
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

/// Names in their order.
pub(crate) fn names<'a>(members: impl Iterator<Item = &'a Member>) -> Arc<[AgentName]> {
    members.map(|member| member.name().clone()).collect()
}
