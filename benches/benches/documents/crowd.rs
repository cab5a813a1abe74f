//! Many users of one node at once: each registered with keys of its own, logged in on a connection of its own, writing to
//! another one of them. By the wall clock, from handing a signed message to QUIC to the node's word that it is durable.
//!
//! Messages are sealed and signed before the clock starts: users have machines of their own, and share one here.

use std::collections::VecDeque;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use creto_agent::raw::{RawConnection, RawStream};
use creto_agent::{AgentKeys, AgentName, TrustDomain};
use creto_benches::crypto::PAYLOAD_BYTES;
use creto_benches::node::{BenchNode, record};
use creto_benches::sessions::Sessions;
use creto_envelope::FrameType;
use creto_envelope::control::StreamRole;
use creto_envelope::submit::SubmitAck;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What a node needs for ten thousand users and what they send.
pub(crate) const CONFIGURATION: &str =
    "net.connections_max = 20000\nnet.idle_timeout_s = 300\nmailbox.shard_bytes_max = \"8 GiB\"\n";
/// Sockets of all users: of one each, nothing would be measured but the kernel.
pub(crate) const SOCKETS: usize = 64;
/// Messages under one signature, where users write more than one at a time.
pub(crate) const BURST: usize = 16;
/// Users that register or connect at the same time.
const TOGETHER: usize = 64;
const WITHIN: Duration = Duration::from_secs(60);
/// How long users believe in a silent node: with the six seconds of the SDK, ten thousand of them on one busy CPU lose it.
const IDLE: Duration = Duration::from_secs(300);

/// Users that are connected.
pub(crate) struct Crowd<'n> {
    node: &'n BenchNode,
    keys: Vec<Arc<AgentKeys>>,
    users: Vec<User>,
    /// One connection of each socket.
    sockets: Vec<Arc<RawConnection>>,
}

struct User {
    keys: Arc<AgentKeys>,
    sessions: Sessions,
    /// Signed and not sent yet.
    frames: VecDeque<Vec<u8>>,
    connection: Arc<RawConnection>,
    submit: RawStream,
    _control: RawStream,
}

/// How a crowd was answered.
pub(crate) struct Answers {
    /// Half of all answers came within.
    pub(crate) median: Duration,
    /// 99 % came within.
    pub(crate) p99: Duration,
    /// Messages a second that were answered, from the first to the last.
    pub(crate) per_s: f64,
}

impl Answers {
    fn of(mut took: Vec<Duration>, messages: usize, wall: Duration) -> Self {
        took.sort_unstable();
        let (median, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        Self { median, p99, per_s: messages as f64 / wall.as_secs_f64() }
    }
}

impl<'n> Crowd<'n> {
    pub(crate) fn new(node: &'n BenchNode) -> Self {
        Self { node, keys: Vec::new(), users: Vec::new(), sockets: Vec::new() }
    }

    /// Registers and connects users until there are this many, an even number.
    pub(crate) async fn grow(&mut self, count: usize) {
        let first = self.keys.len();
        let records = in_parallel((first..count).collect(), |number| {
            let name = AgentName::parse(&format!("acme/user-{number:05}")).unwrap();
            let keys = AgentKeys::generate(name, TrustDomain::default()).unwrap();
            let record = record(&keys);
            (Arc::new(keys), record)
        });
        // Together: the directory commits those that wait at the same time at once.
        let mut registering = JoinSet::new();
        for (keys, record) in records {
            self.keys.push(keys);
            let control = self.node.control();
            registering.spawn(async move { control.register(&record).await.map(drop).unwrap() });
            if registering.len() == TOGETHER {
                registering.join_next().await.unwrap().unwrap();
            }
        }
        registering.join_all().await;

        for number in first..count.min(SOCKETS) {
            let node = (self.node.address(), self.node.certificate().clone());
            let dialed = async move { RawConnection::connect_for(node.0, &node.1, WITHIN, IDLE).await.unwrap() };
            let user = self.user(number, dialed).await;
            self.sockets.push(Arc::clone(&user.connection));
            self.users.push(user);
        }
        let mut connecting = JoinSet::new();
        let mut connected: Vec<User> = Vec::new();
        for number in self.users.len()..count {
            let socket = Arc::clone(&self.sockets[number % self.sockets.len()]);
            connecting.spawn(self.user(number, async move { socket.another(WITHIN).await.unwrap() }));
            if connecting.len() == TOGETHER {
                connected.push(connecting.join_next().await.unwrap().unwrap());
            }
        }
        connected.extend(connecting.join_all().await);
        self.users.extend(connected);
        assert_eq!(self.users.len(), count);
    }

    /// Connects and logs in the user of this number, who will write to its neighbour.
    fn user<D>(&self, number: usize, dialed: D) -> impl Future<Output = User> + Send + use<D>
    where
        D: Future<Output = RawConnection> + Send + 'static,
    {
        let (keys, neighbour) = (Arc::clone(&self.keys[number]), Arc::clone(&self.keys[number ^ 1]));
        async move {
            let connection = dialed.await;
            let (control, _) = connection.log_in(&keys).await.unwrap();
            let submit = connection.open(StreamRole::Submit).await.unwrap();
            let sessions = Sessions::between(&keys, &neighbour);
            let connection = Arc::new(connection);
            User { keys, sessions, frames: VecDeque::new(), connection, submit, _control: control }
        }
    }

    /// Every user writes this many messages, the next one when the last one was answered: as many are under way at any
    /// time as there are users.
    pub(crate) async fn one_at_a_time(&mut self, messages_each: usize) -> Answers {
        self.seal(|_| messages_each, 1);
        let count = self.users.len() * messages_each;
        let begun = Instant::now();
        let mut writing = JoinSet::new();
        for mut user in self.users.drain(..) {
            writing.spawn(async move {
                let mut took = Vec::with_capacity(messages_each);
                while let Some(frame) = user.frames.pop_front() {
                    let begun = Instant::now();
                    user.exchange(frame).await;
                    took.push(begun.elapsed());
                }
                (user, took)
            });
        }
        self.back(writing, count, begun).await
    }

    /// Users take turns in writing [`BURST`] messages under one signature, so many messages a second in all, whatever
    /// became of those before. An answer's time counts from when its burst was due.
    pub(crate) async fn in_bursts(&mut self, messages_per_s: u32, duration: Duration) -> Answers {
        let user_count = self.users.len();
        let interval = Duration::from_secs_f64(BURST as f64 / f64::from(messages_per_s));
        let messages = u128::from(messages_per_s) * duration.as_millis() / 1_000;
        let bursts = usize::try_from(messages).unwrap().div_ceil(BURST);
        self.seal(|number| (bursts + user_count - 1 - number) / user_count, BURST);
        let mut turns = Vec::with_capacity(user_count);
        let mut writing = JoinSet::new();
        for mut user in self.users.drain(..) {
            let (turn, mut due) = mpsc::channel::<Instant>(user.frames.len().max(1));
            turns.push(turn);
            writing.spawn(async move {
                let mut took = Vec::with_capacity(user.frames.len());
                while let Some(due) = due.recv().await {
                    let frame = user.frames.pop_front().unwrap();
                    user.exchange(frame).await;
                    took.push(due.elapsed());
                }
                (user, took)
            });
        }
        let begun = Instant::now();
        for number in 0..bursts {
            let due = begun + interval.mul_f64(number as f64);
            tokio::time::sleep_until(due.into()).await;
            turns[number % user_count].try_send(due).unwrap();
        }
        drop(turns);
        self.back(writing, bursts * BURST, begun).await
    }

    async fn back(&mut self, mut writing: JoinSet<(User, Vec<Duration>)>, messages: usize, begun: Instant) -> Answers {
        let mut all = Vec::new();
        while let Some(written) = writing.join_next().await {
            let (user, took) = written.unwrap();
            self.users.push(user);
            all.extend(took);
        }
        Answers::of(all, messages, begun.elapsed())
    }

    /// Seals and signs what will be sent.
    fn seal(&mut self, batches: impl Fn(usize) -> usize + Sync, messages: usize) {
        let users = std::mem::take(&mut self.users).into_iter().enumerate().collect();
        self.users = in_parallel(users, |(number, mut user): (usize, User)| {
            for _ in 0..batches(number) {
                let frame = user.sessions.batch(&user.keys, messages, &[0x5a; PAYLOAD_BYTES]);
                user.frames.push_back(frame);
            }
            user
        });
    }
}

impl User {
    /// Sends a batch and waits until the node has it on disk.
    async fn exchange(&mut self, frame: Vec<u8>) {
        let answer = match self.submit.send(frame).await {
            Ok(()) => self.submit.next().await.ok().flatten(),
            Err(_) => None,
        };
        let Some(answer) = answer else { panic!("a user lost the node: {}", self.connection.closed().await) };
        assert_eq!(answer.frame_type, FrameType::SubmitAck as u8, "the node ended the conversation");
        let results = SubmitAck::parse(&answer.body).unwrap().results;
        assert!(results.is_empty(), "the node refused something: {results:?}");
    }
}

/// Memory of this process in bytes: the node, and its users at the other end of every connection.
pub(crate) fn resident_bytes() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1_024.0
}

/// The same for each, in order, on every CPU that this thread may use.
fn in_parallel<T: Send, R: Send>(items: Vec<T>, each: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().unwrap().get();
    let share = items.len().div_ceil(threads).max(1);
    let mut items = items.into_iter();
    thread::scope(|scope| {
        let shares: Vec<Vec<T>> = (0..threads).map(|_| items.by_ref().take(share).collect()).collect();
        let each = &each;
        let running: Vec<_> = shares
            .into_iter()
            .map(|share| scope.spawn(move || share.into_iter().map(each).collect::<Vec<R>>()))
            .collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}
