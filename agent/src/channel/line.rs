//! One channel that this agent publishes to: its sessions carried out. [`publishing`](super::publishing) decides, the task here writes,
//! asks and gives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use creto_crypto_accel::session::{CHANNEL_SECRET_BYTES, ChannelEnds, SessionId};
use creto_envelope::channel::frames::ChannelMembers;
use creto_envelope::channel::{ChannelName, ChannelRecord};
use creto_envelope::{AgentId, ChannelId, Kind, Priority, RejectCode, TrustDomain};
use tokio::sync::{Notify, OnceCell, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zeroize::Zeroizing;

use super::error::ChannelError;
use super::publishing::{Give, Outcome, Publishing, SessionLimits, Taken, TooManyMembers, Wait};
use super::records::{Records, Seen, seen_of};
use crate::clock;
use crate::directory::{CURRENT, Directory};
use crate::error::{LookupError, SendError, StateError};
use crate::keys::AgentKeys;
use crate::limits::{
    CHANNEL_ATTACH_TIMEOUT, CHANNEL_CLOSE_TIMEOUT, CHANNEL_GIVE_RETRY_FOR, CHANNEL_GIVES_MAX, CHANNEL_RECORD_LIFETIME,
    CHANNEL_RECORD_PAUSE, CHANNEL_SESSIONS_LOOKED_THROUGH, STATE_PAUSE, STATE_WAIT,
};
use crate::sender::{Event, SendOptions};
use crate::state::publishing::{PublishingFile, SeenRecord, StoredChannel};
use crate::stats::{Counters, UNPOISONED};
use crate::stream::Refusal;
use crate::submit::{Handling, Submitter};
use crate::worker::on_disk;

/// What all lines of an agent use.
#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) keys: Arc<AgentKeys>,
    pub(crate) submitter: Arc<Submitter>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) records: Arc<Records>,
    pub(crate) counters: Arc<Counters>,
    /// To the sender's task; weak, because that one ends when the driver has.
    pub(crate) events: mpsc::WeakSender<Event>,
    /// Turns true when the agent is closing.
    pub(crate) closing: watch::Receiver<bool>,
    /// Where sessions are kept; in memory if nowhere.
    pub(crate) folder: Option<std::path::PathBuf>,
    file: OnceCell<Option<Arc<PublishingFile>>>,
    /// Where nothing is kept: the newest record that was seen of each channel that was ever opened.
    seen: Mutex<BTreeMap<ChannelId, SeenRecord>>,
}

/// The channels that an agent publishes to.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: Mutex<BTreeMap<ChannelId, Arc<Line>>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: ChannelName,
    pub(crate) channel: ChannelId,
    state: Mutex<Publishing>,
    /// Counts what may let those go on who wait.
    changed: watch::Sender<u64>,
    /// Wakes the task.
    wake: Notify,
    asks: Mutex<Asks>,
    /// The handle of the application; gone when all of its clones are.
    handle: Mutex<Weak<Handle>>,
    over: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Asks {
    /// The record is to be asked for.
    record: bool,
    /// The node is to be asked again who subscribes, not before this.
    attach_at: Option<Instant>,
    is_closing: bool,
    /// Why the record cannot be had now.
    trouble: Option<ChannelError>,
    /// Nothing is published here any more.
    failed: Option<ChannelError>,
}

/// While there is one, the line goes on.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) line: Arc<Line>,
    pub(crate) means: Arc<Means>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.line.asks().is_closing = true;
        self.line.wake.notify_one();
    }
}

/// A counter of a session that a message uses. Dropped when the message is answered, or will never be sent.
#[derive(Debug)]
pub(crate) struct InUse {
    line: Arc<Line>,
    session: SessionId,
    counter: u64,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.line.state().settled(self.session, self.counter);
        if self.line.asks().is_closing {
            self.line.wake.notify_one();
        }
    }
}

impl Means {
    pub(crate) fn new(
        submitter: &Arc<Submitter>,
        records: Arc<Records>,
        events: mpsc::WeakSender<Event>,
        closing: watch::Receiver<bool>,
        folder: Option<std::path::PathBuf>,
    ) -> Self {
        Self {
            keys: Arc::clone(&submitter.keys),
            submitter: Arc::clone(submitter),
            directory: Arc::clone(&submitter.directory),
            records,
            counters: Arc::clone(&submitter.counters),
            events,
            closing,
            folder,
            file: OnceCell::new(),
            seen: Mutex::default(),
        }
    }

    /// The file of sessions, opened once: it belongs to this process then. Another process that has it is given time to let go.
    async fn file(&self) -> Result<Option<Arc<PublishingFile>>, ChannelError> {
        let opened = self.file.get_or_try_init(|| async {
            let Some(folder) = &self.folder else { return Ok(None) };
            let until = Instant::now() + STATE_WAIT;
            loop {
                let (folder, me, key) = (folder.clone(), self.keys.id(), self.keys.channel_file_key());
                match on_disk(move || PublishingFile::open(&folder, me, key)).await {
                    Err(StateError::InUse { .. }) if Instant::now() < until => sleep(STATE_PAUSE).await,
                    Err(error) => return Err(ChannelError::State(Arc::new(error))),
                    Ok(file) => return Ok(Some(Arc::new(file))),
                }
            }
        });
        opened.await.cloned()
    }
}

impl Lines {
    fn lines(&self) -> MutexGuard<'_, BTreeMap<ChannelId, Arc<Line>>> {
        self.lines.lock().expect(UNPOISONED)
    }

    fn all(&self) -> Vec<Arc<Line>> {
        self.lines().values().cloned().collect()
    }

    /// The channels that the node is to be asked about on a new connection.
    pub(crate) fn channels(&self) -> Vec<ChannelId> {
        self.lines().keys().copied().collect()
    }

    /// The node says who subscribes to a channel. About one that nothing is published to any more nobody cares.
    pub(crate) fn told(&self, members: &ChannelMembers) -> Result<(), TooManyMembers> {
        let line = self.lines().get(&members.channel).cloned();
        line.map_or(Ok(()), |line| line.told(members))
    }

    /// The node does not say who subscribes. Says whether it was asked.
    pub(crate) fn refused(&self, refusal: &Refusal) -> bool {
        let line = self.lines().get(&ChannelId(refusal.context)).cloned();
        line.map(|line| line.refused(refusal)).is_some()
    }

    /// The connection is gone.
    pub(crate) fn lost(&self) {
        self.all().iter().for_each(|line| line.state().lost());
    }

    /// Nothing is published any more, for this reason.
    pub(crate) fn end(&self, reason: &ChannelError) {
        self.all().iter().for_each(|line| line.fail(reason.clone()));
    }

    /// Opens the channel for publishing, or joins who does so already. Waits until the node has said who subscribes.
    pub(crate) async fn open(
        self: &Arc<Self>,
        means: &Arc<Means>,
        name: &ChannelName,
        owner: Option<AgentId>,
        limits: SessionLimits,
        most: usize,
    ) -> Result<Arc<Handle>, ChannelError> {
        let trust_domain = means.keys.trust_domain();
        let channel = ChannelId::derive(trust_domain, name);
        let file = means.file().await?;
        let handle = loop {
            let ending = {
                let mut lines = self.lines();
                match lines.get(&channel).cloned() {
                    Some(line) => {
                        let handle = line.handle.lock().expect(UNPOISONED).upgrade();
                        match handle {
                            Some(handle) => break handle,
                            None => line,
                        }
                    }
                    None if lines.len() >= most => return Err(ChannelError::TooMany { most }),
                    None => {
                        let line = Arc::new(Line::new(name.clone(), channel, means.keys.id(), limits));
                        let handle = Arc::new(Handle { line: Arc::clone(&line), means: Arc::clone(means) });
                        *line.handle.lock().expect(UNPOISONED) = Arc::downgrade(&handle);
                        lines.insert(channel, Arc::clone(&line));
                        drop(lines);
                        let task = Task { line, means: Arc::clone(means), lines: Arc::clone(self), owner, file };
                        tokio::spawn(task.run());
                        break handle;
                    }
                }
            };
            // It is being put away.
            ending.wake.notify_one();
            let _ = ending.over.subscribe().wait_for(|over| *over).await;
        };
        let ready = handle.line.wait(|line| line.state().is_ready().then_some(()));
        match timeout(CHANNEL_ATTACH_TIMEOUT, ready).await {
            Ok(ready) => ready?,
            Err(_) => return Err(handle.line.asks().trouble.take().unwrap_or(ChannelError::TimedOut)),
        }
        Ok(handle)
    }

    /// Puts every line away, in good order: keys that are to be given are, and what is left of the sessions is on disk.
    pub(crate) async fn close(&self) {
        for line in self.all() {
            line.asks().is_closing = true;
            line.wake.notify_one();
        }
        for line in self.all() {
            let _ = line.over.subscribe().wait_for(|over| *over).await;
        }
    }
}

impl Line {
    fn new(name: ChannelName, channel: ChannelId, me: AgentId, limits: SessionLimits) -> Self {
        let ends = ChannelEnds { channel: channel.0, publisher: me.0 };
        Self {
            name,
            channel,
            state: Mutex::new(Publishing::new(ends, limits)),
            changed: watch::Sender::new(0),
            wake: Notify::new(),
            asks: Mutex::new(Asks { record: true, ..Asks::default() }),
            handle: Mutex::default(),
            over: watch::Sender::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, Publishing> {
        self.state.lock().expect(UNPOISONED)
    }

    fn asks(&self) -> MutexGuard<'_, Asks> {
        self.asks.lock().expect(UNPOISONED)
    }

    fn has_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn told(&self, members: &ChannelMembers) -> Result<(), TooManyMembers> {
        let mut state = self.state();
        state.told(members)?;
        let strangers = state.strangers();
        drop(state);
        if strangers > 0 {
            // A newer record may allow them.
            self.asks().record = true;
        }
        self.has_changed();
        self.wake.notify_one();
        Ok(())
    }

    fn refused(&self, refusal: &Refusal) {
        let number = refusal.code.map_or_else(|number| number, |code| code.as_u16());
        let error = ChannelError::refused(self.name.as_str(), "publish", number);
        match error.is_retryable() {
            true => {
                // Nothing more is heard of who comes and goes, until the node has said again who is there.
                self.state().lost();
                let pause = Duration::from_millis(refusal.retry_after_ms.into()).max(CHANNEL_RECORD_PAUSE);
                self.asks().attach_at = Some(Instant::now() + pause);
                self.wake.notify_one();
            }
            false => self.fail(error),
        }
    }

    fn fail(&self, reason: ChannelError) {
        self.asks().failed.get_or_insert(reason);
        self.has_changed();
        self.wake.notify_one();
    }

    /// Waits until `look` gives something, or nothing is published here any more.
    async fn wait<R>(&self, look: impl Fn(&Self) -> Option<R>) -> Result<R, ChannelError> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            // First: what is still there is of no use then.
            if let Some(error) = &self.asks().failed {
                return Err(error.clone());
            }
            if let Some(found) = look(self) {
                return Ok(found);
            }
            // It lives as long as this.
            let _ = changed.changed().await;
        }
    }

    /// Waits until there is a key for the next message.
    pub(crate) async fn wait_for_key(&self) -> Result<(), ChannelError> {
        self.wait(|line| line.can_take()).await
    }

    fn can_take(&self) -> Option<()> {
        let mut state = self.state();
        match state.can_take(clock::now_ms()) {
            Ok(()) => Some(()),
            Err(Wait::Told) => None,
            Err(Wait::Session | Wait::Disk) => {
                drop(state);
                self.wake.notify_one();
                None
            }
        }
    }

    /// The key of the next message, if there is one now.
    pub(crate) fn take(self: &Arc<Self>) -> Option<(Taken, InUse)> {
        let mut state = self.state();
        let taken = state.take(clock::now_ms()).ok()?;
        let has_changes = state.has_changes();
        drop(state);
        if has_changes {
            self.wake.notify_one();
        }
        let in_use = InUse { line: Arc::clone(self), session: taken.session, counter: taken.counter };
        Some((taken, in_use))
    }

    /// Waits until those for whom this session was begun have it, or cannot be given it now.
    pub(crate) async fn handed_out(&self, session: SessionId) -> Result<(), ChannelError> {
        self.wait(|line| line.state().is_handed_out(session).then_some(())).await
    }

    /// The owner's record, if it is here.
    pub(crate) fn record(&self) -> Option<Arc<ChannelRecord>> {
        self.state().record().cloned()
    }

    pub(crate) fn member_count(&self) -> usize {
        self.state().member_count()
    }

    /// Whether nothing is to be given or on its way.
    pub(crate) async fn given_all(&self) -> Result<(), ChannelError> {
        self.wait(|line| line.state().has_given_all().then_some(())).await
    }
}

/// The task of a line.
struct Task {
    line: Arc<Line>,
    means: Arc<Means>,
    lines: Arc<Lines>,
    /// The owner that the application has named.
    owner: Option<AgentId>,
    file: Option<Arc<PublishingFile>>,
}

/// What became of a key that was to be given.
type Gave = (AgentId, SessionId, Outcome);
type Fetched = Result<Arc<ChannelRecord>, ChannelError>;

impl Task {
    async fn run(self) {
        if let Err(error) = self.carry().await {
            tracing::warn!(channel = %self.line.name, %error, "nothing is published to the channel any more");
            self.line.fail(error);
        }
        self.leave().await;
        self.lines.lines().remove(&self.line.channel);
        self.tell(Event::Detach(self.line.channel)).await;
        self.line.fail(ChannelError::Closed);
        self.line.over.send_replace(true);
    }

    async fn carry(&self) -> Result<(), ChannelError> {
        let line = &self.line;
        let StoredChannel { record: mut seen, sessions } = self.read().await?;
        for (session, members) in sessions {
            line.state().adopt(session, members);
        }
        self.tell(Event::Attach(line.channel)).await;
        let mut gives: JoinSet<Gave> = JoinSet::new();
        let mut fetches: JoinSet<Fetched> = JoinSet::new();
        let mut closing = self.means.closing.clone();
        let mut closes_at: Option<Instant> = None;
        let (mut fetch_at, mut looks_at) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            if let Some(error) = line.asks().failed.clone() {
                return Err(error);
            }
            if fetches.is_empty() && (now >= fetch_at || line.asks().record) {
                line.asks().record = false;
                self.fetch(&mut fetches);
                fetch_at = now + CHANNEL_RECORD_LIFETIME;
            }
            if line.asks().attach_at.is_some_and(|at| at <= now) {
                line.asks().attach_at = None;
                self.tell(Event::Attach(line.channel)).await;
            }
            if now >= looks_at {
                line.state().expire(clock::now_ms());
                looks_at = now + CHANNEL_SESSIONS_LOOKED_THROUGH;
            }
            if line.state().wants_session() {
                let mut secret = Zeroizing::new([0; CHANNEL_SECRET_BYTES]);
                clock::fill(&mut secret[..]);
                line.state().begin(&secret, clock::now_ms());
                self.means.counters.channel_sessions_begun.add(1);
            }
            let room = CHANNEL_GIVES_MAX.saturating_sub(gives.len());
            line.state().prepare(room, clock::now_ms());
            self.write().await?;
            self.give(&mut gives);
            let is_closing = line.asks().is_closing || *closing.borrow();
            // What is still on its way into the channel is given to whoever comes meanwhile.
            let is_done = gives.is_empty() && line.state().is_settled();
            if is_closing && (is_done || *closing.borrow() || closes_at.is_some_and(|at| at <= now)) {
                return Ok(());
            }
            if is_closing && closes_at.is_none() {
                closes_at = Some(now + CHANNEL_CLOSE_TIMEOUT);
            }
            let next = [Some(fetch_at), Some(looks_at), closes_at, line.asks().attach_at, self.gives_at(gives.len())];
            let next = next.into_iter().flatten().min().expect("the record is looked at again some day");
            tokio::select! {
                () = line.wake.notified() => {},
                Some(gave) = gives.join_next() => {
                    let (member, session, outcome) = gave.expect("giving a key does not panic");
                    line.state().gave(member, session, outcome, clock::now_ms());
                    self.means.counters.channel_keys_given.add(usize::from(outcome == Outcome::Durable));
                    line.has_changed();
                },
                Some(fetched) = fetches.join_next() => {
                    let pause = self.fetched(fetched.expect("a question does not panic"), &mut seen).await?;
                    if let Some(pause) = pause {
                        fetch_at = Instant::now() + pause;
                    }
                },
                _ = closing.changed() => {},
                () = sleep_until(next) => {},
            }
        }
    }

    fn gives_at(&self, under_way: usize) -> Option<Instant> {
        // Until then one of those that are under way ends.
        let at_ms = self.line.state().gives_at_ms().filter(|_| under_way < CHANNEL_GIVES_MAX)?;
        Some(Instant::now() + Duration::from_millis(at_ms.saturating_sub(clock::now_ms())))
    }

    async fn read(&self) -> Result<StoredChannel, ChannelError> {
        let channel = self.line.channel;
        let Some(file) = self.file.clone() else {
            let record = self.means.seen.lock().expect(UNPOISONED).get(&channel).copied();
            return Ok(StoredChannel { record, ..StoredChannel::default() });
        };
        on_disk(move || file.channel(channel)).await.map_err(|error| ChannelError::State(Arc::new(error)))
    }

    /// Writes what changed, and only then lets it be used.
    async fn write(&self) -> Result<(), ChannelError> {
        let changes = self.line.state().take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        let changes = match self.file.clone() {
            None => changes,
            Some(file) => {
                let channel = self.line.channel;
                let written = on_disk(move || file.write(channel, &changes).map(|()| changes)).await;
                written.map_err(|error| ChannelError::State(Arc::new(error)))?
            }
        };
        self.line.state().confirm(&changes);
        self.line.has_changed();
        Ok(())
    }

    fn fetch(&self, fetches: &mut JoinSet<Fetched>) {
        let (records, name, keys) =
            (Arc::clone(&self.means.records), self.line.name.clone(), Arc::clone(&self.means.keys));
        fetches.spawn(async move {
            let trust_domain: &TrustDomain = keys.trust_domain();
            records.fetch(&name, trust_domain).await
        });
    }

    /// The record came, or did not: then after which pause it is asked for again.
    async fn fetched(&self, fetched: Fetched, seen: &mut Option<SeenRecord>) -> Result<Option<Duration>, ChannelError> {
        let line = &self.line;
        let fetched = fetched.and_then(|record| Ok((Seen::check(&record, *seen, self.owner)?, record)));
        let trouble = match fetched {
            // A shard may be a moment behind; the record at hand goes on meanwhile.
            Ok((Seen::Older, _)) => Err(Seen::older(&line.name)),
            Ok((_, record)) => Ok(record),
            Err(error) if error.is_retryable() => Err(error),
            Err(error) => return Err(error),
        };
        let record = match trouble {
            Ok(record) => record,
            Err(error) => {
                tracing::debug!(channel = %line.name, %error, "the record of the channel cannot be had now");
                line.asks().trouble = Some(error);
                return Ok(Some(CHANNEL_RECORD_PAUSE));
            }
        };
        if !record.lets_publish(&self.means.keys.id()) {
            return Err(ChannelError::NotAllowed { channel: line.name.to_string(), doing: "publish" });
        }
        let is_new = seen_of(&record);
        if *seen != Some(is_new) {
            let channel = line.channel;
            match self.file.clone() {
                Some(file) => {
                    let written = on_disk(move || file.seen(channel, is_new)).await;
                    written.map_err(|error| ChannelError::State(Arc::new(error)))?;
                }
                None => drop(self.means.seen.lock().expect(UNPOISONED).insert(channel, is_new)),
            }
            *seen = Some(is_new);
        }
        let strangers = {
            let mut state = line.state();
            state.set_record(record);
            state.strangers()
        };
        if strangers > 0 {
            tracing::warn!(channel = %line.name, strangers, "the node names subscribers whom the channel's owner does not allow: they are given no key");
        }
        line.has_changed();
        Ok(None)
    }

    /// Sends keys to those who are to have them.
    fn give(&self, gives: &mut JoinSet<Gave>) {
        let room = CHANNEL_GIVES_MAX.saturating_sub(gives.len());
        let due = self.line.state().gives(room, clock::now_ms());
        for give in due {
            let (means, channel) = (Arc::clone(&self.means), self.line.channel);
            gives.spawn(async move {
                let (member, session) = (give.member, give.session);
                let sent = send_key(&means, channel, give).await;
                (member, session, outcome(&sent))
            });
        }
    }

    /// What is left of the sessions goes to disk, for another run.
    async fn leave(&self) {
        let changes = self.line.state().leave();
        let Some(file) = self.file.clone() else { return };
        let channel = self.line.channel;
        if let Err(error) = on_disk(move || file.write(channel, &changes)).await {
            // Counters that were written as used are not used again, so this costs some of a session.
            tracing::warn!(channel = %self.line.name, %error, "the end of a session of the channel is not written down");
        }
    }

    async fn tell(&self, event: Event) {
        if let Some(events) = self.means.events.upgrade() {
            // The sender is gone only when the agent is.
            let _ = events.send(event).await;
        }
    }
}

async fn send_key(means: &Means, channel: ChannelId, give: Give) -> Result<(), SendError> {
    let Give { member, key, .. } = give;
    let recipient = means.directory.lookup(member, CURRENT).await;
    let recipient = recipient.map_err(|source| SendError::Recipient { recipient: member.to_string(), source })?;
    let retry_for_us = u64::try_from(CHANNEL_GIVE_RETRY_FOR.as_micros()).unwrap_or(u64::MAX);
    let handling = Handling { retry_for_us, channel, ..means.submitter.usual() };
    // Before whatever else waits in that mailbox: messages of the channel wait for it. Where the policy allows nothing that urgent, as
    // the usual.
    let mut sent = Ok(());
    for priority in [Priority::Critical, Priority::Normal] {
        let options = SendOptions { kind: Kind::Control, priority, notice: false, ..SendOptions::default() };
        // Erased with its last copy.
        let (id, payload) = (clock::new_message_id(), Bytes::from_owner(key.to_bytes()));
        let pending = means.submitter.submit_to(handling, id, Arc::clone(&recipient), payload, options, None).await?;
        sent = pending.await.map(drop);
        if !matches!(sent, Err(SendError::Refused { code: RejectCode::PolicyPriority, .. })) {
            break;
        }
    }
    sent
}

fn outcome(sent: &Result<(), SendError>) -> Outcome {
    let never = match sent {
        Ok(()) => return Outcome::Durable,
        Err(SendError::Refused { code, .. }) => !code.is_retryable(),
        Err(SendError::RefusedWith { code, .. }) => !(500..600).contains(code),
        Err(SendError::Recipient { source: LookupError::Refused(code), .. }) => !code.is_retryable(),
        Err(_) => false,
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "the key of a channel's session cannot be given now");
    }
    if never { Outcome::Never } else { Outcome::Later }
}
