//! Agents at work: senders that submit, receivers that acknowledge, all writing into the [`Book`].

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use creto_agent::{Agent, AgentName, Delivery, PendingSend, SendOptions, Subscription};
use creto_crypto_accel::digest::sha256;
use creto_loadgen::ledger::Record;
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use super::book::{Book, Pair, Received, Sent};
use super::cast::Cast;
use super::node::NodeHost;
use super::payload::Payloads;
use crate::client::receive_failure;
use crate::exit::{Exit, Failure, plain};

/// Answers of one sender that may be waited for.
const PENDING_MAX: usize = 4_096;

/// Where messages that were acknowledged are written down as well.
pub(super) type AcknowledgedLedger = mpsc::Sender<(Record, ())>;
/// Where messages that were delivered are written down before they are acknowledged to the node.
pub(super) type DeliveredLedger = mpsc::Sender<(Record, (Delivery, Received))>;

/// Everybody at work.
pub(super) struct Troupe {
    cast: Arc<Cast>,
    senders: Vec<Agent>,
    readers: Vec<Reader>,
    payloads: Arc<Payloads>,
    book: Arc<Book>,
    acknowledged: Option<AcknowledgedLedger>,
    delivered: Option<DeliveredLedger>,
    /// Messages that readers took out of their mailboxes.
    taken: Arc<AtomicU64>,
    /// What the SDKs of readers counted that have left.
    gone: Hidden,
    /// Says that no more is to be submitted.
    resting: Arc<AtomicBool>,
}

/// A receiver that is there.
struct Reader {
    /// Its position in the cast.
    to: usize,
    agent: Agent,
    /// Says that it is to take nothing more.
    leaving: Arc<Notify>,
    reading: JoinHandle<()>,
}

/// What the SDK of all agents counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hidden {
    /// Messages that were sent again and that the node had already.
    pub(super) by_node: u64,
    /// Messages that were pushed again and that the application had already.
    pub(super) by_agents: u64,
    /// Connections after the first.
    pub(super) reconnects: u64,
    /// Messages that came and did not verify or open.
    pub(super) rejected: u64,
    /// What the senders paid for their messages.
    pub(super) paid: Paid,
}

/// The public-key cryptography behind the messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Paid {
    /// Messages that were sealed.
    pub(super) sealed: u64,
    /// Key encapsulations (X-Wing).
    pub(super) encapsulations: u64,
    /// Roots of batches, each signed with Ed25519 and ML-DSA-65.
    pub(super) signatures: u64,
}

impl Troupe {
    /// Connects everybody and starts to receive.
    pub(super) async fn connect(
        host: &NodeHost,
        cast: &Arc<Cast>,
        payloads: Arc<Payloads>,
        book: Arc<Book>,
        ledgers: Option<(AcknowledgedLedger, DeliveredLedger)>,
    ) -> Result<Self, Failure> {
        let (acknowledged, delivered) = ledgers.unzip();
        let mut troupe = Self {
            cast: Arc::clone(cast),
            senders: Vec::new(),
            readers: Vec::new(),
            payloads,
            book,
            acknowledged,
            delivered,
            taken: Arc::default(),
            gone: Hidden::default(),
            resting: Arc::new(AtomicBool::new(false)),
        };
        for to in 0..cast.receivers.len() {
            troupe.come(host, to).await?;
        }
        for sender in &cast.senders {
            troupe.senders.push(Cast::connect(host, sender).await?);
        }
        Ok(troupe)
    }

    /// A receiver connects and reads its mailbox from now on.
    pub(super) async fn come(&mut self, host: &NodeHost, to: usize) -> Result<(), Failure> {
        let agent = Cast::connect(host, &self.cast.receivers[to]).await?;
        let mailbox = agent.subscribe().map_err(|error| receive_failure(&error))?;
        let leaving = Arc::new(Notify::new());
        let desk = Desk {
            to,
            cast: Arc::clone(&self.cast),
            book: Arc::clone(&self.book),
            ledger: self.delivered.clone(),
            taken: Arc::clone(&self.taken),
            leaving: Arc::clone(&leaving),
        };
        let reading = tokio::spawn(desk.read(mailbox));
        self.readers.push(Reader { to, agent, leaving, reading });
        Ok(())
    }

    /// A receiver acknowledges what it has and goes; what comes for it waits in its mailbox.
    pub(super) async fn leave(&mut self, to: usize) {
        let Some(at) = self.readers.iter().position(|reader| reader.to == to) else { return };
        let reader = self.readers.remove(at);
        reader.leaving.notify_one();
        // An error means that it has ended by itself: the book will say what is missing.
        let _ = reader.reading.await;
        // What it took and did not acknowledge would come again, and rightly so.
        let taken = self.taken.load(Ordering::Relaxed);
        self.book.reach(|progress| progress.delivered >= taken).await;
        self.gone.add(&reader.agent);
        reader.agent.close().await;
    }

    /// Submits the messages of these numbers as fast as answers make room.
    pub(super) fn burst(&self, numbers: Range<u64>) -> JoinSet<()> {
        self.spread(|lane, share| lane.submit_all(share.into_iter(numbers.clone())))
    }

    /// Submits the messages of these numbers one by one, each when it is due.
    pub(super) fn steady(&self, numbers: Range<u64>, per_second: u64) -> Result<JoinSet<()>, Failure> {
        let mut clocks = Vec::new();
        let start = Instant::now();
        for index in 0..self.senders.len() {
            let share = Share { index, of: self.senders.len() };
            clocks.push(tick(share.into_iter(numbers.clone()), numbers.start, start, per_second)?);
        }
        let mut clocks = clocks.into_iter();
        Ok(self.spread(|lane, _| lane.submit_due(clocks.next().expect("one for each sender"))))
    }

    fn spread<F: Future<Output = ()> + Send + 'static>(&self, mut work: impl FnMut(Lane, Share) -> F) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for (from, agent) in self.senders.iter().enumerate() {
            let (pending, answers) = mpsc::channel(PENDING_MAX);
            let lane = Lane {
                from,
                sender_count: self.senders.len() as u64,
                agent: agent.clone(),
                names: self.cast.receivers.iter().map(|receiver| receiver.name().clone()).collect(),
                payloads: Arc::clone(&self.payloads),
                book: Arc::clone(&self.book),
                pending,
                resting: Arc::clone(&self.resting),
            };
            tasks.spawn(take_answers(answers, Arc::clone(&self.book), self.acknowledged.clone()));
            tasks.spawn(work(lane, Share { index: from, of: self.senders.len() }));
        }
        tasks
    }

    /// Nobody submits any more; what was submitted goes on.
    pub(super) fn rest(&self) {
        self.resting.store(true, Ordering::Relaxed);
    }

    /// Closes everybody in good order: the last acknowledgements reach the node. Gives what the SDKs counted.
    pub(super) async fn close(mut self) -> Hidden {
        let mut hidden = std::mem::take(&mut self.gone);
        let mut closing = JoinSet::new();
        let (agents, reading): (Vec<_>, Vec<_>) =
            self.readers.drain(..).map(|reader| (reader.agent, reader.reading)).unzip();
        for agent in self.senders.drain(..).chain(agents) {
            hidden.add(&agent);
            closing.spawn(agent.close());
        }
        closing.join_all().await;
        for reading in reading {
            // The mailboxes have ended with their agents.
            let _ = reading.await;
        }
        hidden
    }
}

impl Hidden {
    fn add(&mut self, agent: &Agent) {
        let stats = agent.stats();
        self.by_node += stats.acknowledged_again;
        self.by_agents += stats.duplicates_hidden;
        self.reconnects += stats.reconnects;
        self.rejected += stats.rejected_total();
        self.paid.sealed += stats.sealed;
        self.paid.encapsulations += stats.encapsulations;
        self.paid.signatures += stats.signatures;
    }
}

/// The numbers of one sender: every n-th.
#[derive(Clone, Copy)]
struct Share {
    index: usize,
    of: usize,
}

impl Share {
    fn into_iter(self, numbers: Range<u64>) -> impl Iterator<Item = u64> + Send + 'static {
        numbers.skip(self.index).step_by(self.of)
    }
}

/// One sender.
struct Lane {
    from: usize,
    sender_count: u64,
    agent: Agent,
    names: Arc<[AgentName]>,
    payloads: Arc<Payloads>,
    book: Arc<Book>,
    pending: mpsc::Sender<(PendingSend, Record)>,
    resting: Arc<AtomicBool>,
}

impl Lane {
    async fn submit_all(self, numbers: impl Iterator<Item = u64>) {
        for number in numbers.take_while(|_| !self.resting.load(Ordering::Relaxed)) {
            self.submit(number, None).await;
        }
    }

    async fn submit_due(self, mut due: mpsc::UnboundedReceiver<(u64, Instant)>) {
        while let Some((number, due)) = due.recv().await {
            self.submit(number, Some(due)).await;
        }
    }

    /// To each receiver in turn.
    async fn submit(&self, number: u64, due: Option<Instant>) {
        let turn = (number / self.sender_count) % self.names.len() as u64;
        let to = usize::try_from(turn).expect("below the number of receivers");
        let payload = self.payloads.get(number);
        let digest = sha256(&[&payload]);
        match self.agent.submit(&self.names[to], payload, SendOptions::default()).await {
            Ok(answer) => {
                let (id, pair) = (answer.message_id(), Pair { from: self.from, to });
                self.book.sent(Sent { id, pair, digest, due });
                let record =
                    Record { pair: u32::try_from(to).unwrap_or(u32::MAX), number, message_id: id, digest, flow: 0 };
                // The other end is there as long as this one is.
                let _ = self.pending.send((answer, record)).await;
            }
            Err(error) => self.book.refused(error.to_string()),
        }
    }
}

async fn take_answers(
    mut answers: mpsc::Receiver<(PendingSend, Record)>,
    book: Arc<Book>,
    ledger: Option<AcknowledgedLedger>,
) {
    while let Some((answer, record)) = answers.recv().await {
        let id = answer.message_id();
        match answer.await {
            Ok(receipt) => {
                if let Some(ledger) = &ledger {
                    // A ledger that cannot be written ends the run with its own error.
                    let _ = ledger.send((record, ())).await;
                }
                book.acknowledged(receipt.message_id);
            }
            // Without the id: a hundred refusals of one kind are one line.
            Err(error) => book.refused(error.to_string().replace(&format!(" {id}"), "")),
        }
    }
}

/// Where a receiver reads.
struct Desk {
    to: usize,
    cast: Arc<Cast>,
    book: Arc<Book>,
    ledger: Option<DeliveredLedger>,
    taken: Arc<AtomicU64>,
    leaving: Arc<Notify>,
}

impl Desk {
    async fn read(self, mut mailbox: Subscription) {
        loop {
            let next = tokio::select! {
                next = mailbox.next() => next,
                () = self.leaving.notified() => None,
            };
            let Some(Ok(delivery)) = next else { return };
            self.taken.fetch_add(1, Ordering::Relaxed);
            self.take(delivery).await;
        }
    }

    async fn take(&self, delivery: Delivery) {
        let at = Instant::now();
        let digest = sha256(&[&delivery.payload]);
        let (id, from) = (delivery.message_id, self.cast.sender_at(delivery.from_id));
        let received = Received { id, from, to: self.to, digest, at };
        match &self.ledger {
            None => finish(&self.book, &delivery, received),
            Some(ledger) => {
                let pair = u32::try_from(self.to).unwrap_or(u32::MAX);
                let record = Record { pair, number: delivery.mailbox_sequence, message_id: id, digest, flow: 0 };
                // A ledger that cannot be written ends the run with its own error.
                let _ = ledger.send((record, (delivery, received))).await;
            }
        }
    }
}

/// Acknowledges, then counts: when all are counted, nothing is left to acknowledge.
pub(super) fn finish(book: &Book, delivery: &Delivery, received: Received) {
    delivery.ack();
    book.received(received);
}

/// A thread that says when each message is due: the timers of an async runtime round up to a millisecond, which would
/// count as latency.
fn tick(
    numbers: impl Iterator<Item = u64> + Send + 'static,
    first: u64,
    start: Instant,
    per_second: u64,
) -> Result<mpsc::UnboundedReceiver<(u64, Instant)>, Failure> {
    // No bound is needed: it holds no more than the messages of the run, a few bytes each.
    let (announce, due) = mpsc::unbounded_channel();
    let keep_time = move || {
        for number in numbers {
            let at = start + Duration::from_nanos((number - first).saturating_mul(1_000_000_000) / per_second);
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if announce.send((number, at)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("creto-pacer".to_owned()).spawn(keep_time).map_err(|error| {
        let what = format!("no thread can be started: {}", plain(&error));
        Failure::new(Exit::System, what, "check the limit on processes (ulimit -u)")
    })?;
    Ok(due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_belongs_to_one_sender() {
        let mut all: Vec<u64> = (0..3).flat_map(|index| Share { index, of: 3 }.into_iter(10..21)).collect();
        all.sort_unstable();
        assert_eq!(all, (10..21).collect::<Vec<_>>());
    }
}
