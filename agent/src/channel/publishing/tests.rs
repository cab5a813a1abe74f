use creto_crypto_accel::session::ChannelReceiveChain;
use creto_envelope::channel::{ChannelName, Publishing as WhoPublishes, Subscribing};
use creto_envelope::{ChannelId, TrustDomain};

use super::*;

const LIMITS: SessionLimits = SessionLimits { messages: 20, age: Duration::from_secs(100), reserve: 8, kept: 3 };
const NOW: u64 = 1_000_000;

fn agent(number: u8) -> AgentId {
    AgentId([number; 16])
}

fn record(subscribing: Subscribing, has_history: bool) -> Arc<ChannelRecord> {
    Arc::new(ChannelRecord {
        version: 1,
        name: ChannelName::parse("acme/alerts").unwrap(),
        trust_domain: TrustDomain::default(),
        owner: agent(100),
        owner_key_version: 1,
        signed_at_ms: 0,
        subscribing,
        publishing: WhoPublishes::Open,
        has_history,
        is_deleted: false,
        retention_s: 60,
        messages_max: 100,
        bytes_max: 1_000_000,
        subscribers_max: 100,
    })
}

fn channel() -> ChannelId {
    record(Subscribing::Open, false).channel_id()
}

fn ends() -> ChannelEnds {
    ChannelEnds { channel: channel().0, publisher: [1; 16] }
}

fn members(is_whole: bool, joined: &[u8], left: &[u8]) -> ChannelMembers {
    let ids = |numbers: &[u8]| numbers.iter().map(|number| agent(*number)).collect();
    ChannelMembers { channel: channel(), version: 1, is_whole, joined: ids(joined), left: ids(left) }
}

/// A publisher with its disk.
struct Scene {
    state: Publishing,
    secrets: u8,
    disk: Vec<(StoredSession, Members)>,
    /// Keys that were given, by member.
    given: BTreeMap<AgentId, Vec<ChannelKey>>,
    now_ms: u64,
}

impl Scene {
    fn new(subscribing: Subscribing, has_history: bool, whole: &[u8]) -> Self {
        let mut scene = Self {
            state: Publishing::new(ends(), LIMITS),
            secrets: 0,
            disk: Vec::new(),
            given: BTreeMap::new(),
            now_ms: NOW,
        };
        scene.state.set_record(record(subscribing, has_history));
        scene.state.told(&members(true, whole, &[])).unwrap();
        scene
    }

    fn write(&mut self) {
        let changes = self.state.take_changes();
        self.state.confirm(&changes);
        self.store(changes);
    }

    fn store(&mut self, changes: Changes) {
        for session in changes.sessions {
            let id = session.base.session_id();
            match self.disk.iter_mut().find(|(known, _)| known.base.session_id() == id) {
                Some(known) => known.0 = session,
                None => self.disk.push((session, Members::default())),
            }
        }
        let Self { disk, .. } = self;
        let mut put = |rows: Vec<(SessionId, AgentId, Option<u64>)>,
                       of: fn(&mut Members) -> &mut BTreeMap<AgentId, u64>| {
            for (session, member, from) in rows {
                let Some(known) = disk.iter_mut().find(|(known, _)| known.base.session_id() == session) else {
                    continue;
                };
                match from {
                    Some(from) => drop(of(&mut known.1).insert(member, from)),
                    None => drop(of(&mut known.1).remove(&member)),
                }
            }
        };
        put(changes.given, |members| &mut members.given);
        put(changes.owed, |members| &mut members.owed);
        self.disk.retain(|(known, _)| !changes.removed.contains(&known.base.session_id()));
    }

    /// Does what the task does, until there is nothing to do.
    fn work(&mut self) {
        if self.state.wants_session() {
            self.secrets += 1;
            self.state.begin(&[self.secrets; 32], self.now_ms);
        }
        self.write();
        for Give { member, session, key } in self.gives(100, self.now_ms) {
            self.given.entry(member).or_default().push(key);
            self.state.gave(member, session, Outcome::Durable, self.now_ms);
        }
        self.write();
    }

    /// Keys that are to be given, once the disk has to whom.
    fn gives(&mut self, most: usize, now_ms: u64) -> Vec<Give> {
        self.state.prepare(most, now_ms);
        self.write();
        self.state.gives(most, now_ms)
    }

    /// Publishes one message; it is not answered yet.
    fn publish(&mut self) -> Taken {
        loop {
            match self.state.take(self.now_ms) {
                Ok(taken) => return taken,
                Err(Wait::Told) => panic!("nobody said who subscribes"),
                Err(_) => self.work(),
            }
        }
    }

    fn publish_whole(&mut self) -> Taken {
        let taken = self.publish();
        self.state.settled(taken.session, taken.counter);
        taken
    }

    fn told(&mut self, joined: &[u8], left: &[u8]) {
        self.state.told(&members(false, joined, left)).unwrap();
        self.work();
    }

    /// Whether a member can open a message with what it was given.
    fn reads(&self, member: u8, taken: &Taken) -> bool {
        let keys = self.given.get(&agent(member)).map_or(&[][..], |keys| keys);
        keys.iter().filter(|key| key.session_id() == taken.session).any(|key| {
            let mut chain = ChannelReceiveChain::new(key.at(key.counter()).unwrap());
            chain.key(taken.counter).is_ok()
        })
    }

    /// The process dies, or ends, and another one reads the disk.
    fn restart(&mut self, in_good_order: bool, whole: &[u8], has_history: bool) {
        self.read_disk(in_good_order);
        // Which of them comes first is the node's to say.
        match self.secrets.is_multiple_of(2) {
            true => {
                self.state.set_record(record(Subscribing::Open, has_history));
                self.state.told(&members(true, whole, &[])).unwrap();
            }
            false => {
                self.state.told(&members(true, whole, &[])).unwrap();
                self.state.set_record(record(Subscribing::Open, has_history));
            }
        }
        self.work();
    }

    fn read_disk(&mut self, in_good_order: bool) {
        if in_good_order {
            let changes = self.state.leave();
            self.store(changes);
        }
        self.state = Publishing::new(ends(), LIMITS);
        let mut disk = std::mem::take(&mut self.disk);
        disk.sort_by_key(|(session, _)| session.begun_at_ms);
        for (session, given) in disk {
            // As it stays on the disk.
            let copy = StoredSession {
                base: session.base.at(session.base.counter()).unwrap(),
                chain: session.chain.as_ref().map(|chain| chain.at(chain.counter()).unwrap()),
                ..session
            };
            self.disk.push((copy, given.clone()));
            self.state.adopt(session, given);
        }
    }
}

#[test]
fn everybody_who_subscribes_reads_from_the_first_message_and_no_counter_is_used_twice() {
    let mut scene = Scene::new(Subscribing::Open, false, &[2, 3]);
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        let taken = scene.publish_whole();
        assert!(scene.reads(2, &taken) && scene.reads(3, &taken));
        assert!(seen.insert((taken.session, taken.counter)));
    }
    let sessions: BTreeSet<_> = seen.iter().map(|(session, _)| *session).collect();
    assert_eq!(sessions.len(), 3, "20 messages each");
    assert_eq!(scene.given[&agent(2)].len(), 3, "each of them was given once");
}

#[test]
fn a_newcomer_reads_what_lies_behind_it_in_the_channel_and_nothing_that_was_acknowledged_before() {
    let mut scene = Scene::new(Subscribing::Open, false, &[2]);
    let before: Vec<Taken> = (0..3).map(|_| scene.publish_whole()).collect();
    let on_their_way: Vec<Taken> = (0..2).map(|_| scene.publish()).collect();
    // The acknowledgements of those stand behind the join.
    scene.told(&[4], &[]);
    on_their_way.iter().for_each(|taken| scene.state.settled(taken.session, taken.counter));
    let after = scene.publish_whole();
    assert!(before.iter().all(|taken| !scene.reads(4, taken)));
    assert!(on_their_way.iter().chain([&after]).all(|taken| scene.reads(4, taken)));
    assert_eq!(before[0].session, after.session, "nobody left");
}

#[test]
fn with_history_a_newcomer_reads_what_was_before_also_in_sessions_that_are_over() {
    let mut scene = Scene::new(Subscribing::Open, true, &[2]);
    let before: Vec<Taken> = (0..25).map(|_| scene.publish_whole()).collect();
    scene.told(&[4], &[]);
    assert!(before.iter().all(|taken| scene.reads(4, taken)));
    assert_eq!(scene.given[&agent(4)].len(), 2);
    // And after the channel keeps nothing of the first session any more, its key is gone.
    scene.now_ms += 60_001;
    let now_ms = scene.now_ms;
    scene.state.expire(now_ms);
    scene.write();
    assert_eq!((scene.state.sessions.len(), scene.disk.len()), (1, 1));
}

#[test]
fn whoever_left_is_not_given_what_is_published_after_that_was_learned() {
    let mut scene = Scene::new(Subscribing::Open, false, &[2, 3]);
    let before = scene.publish_whole();
    scene.told(&[], &[3]);
    let after = scene.publish_whole();
    assert_ne!(before.session, after.session);
    assert!(scene.reads(2, &after) && !scene.reads(3, &after));
    assert!(scene.state.sessions.iter().all(|session| session.id != before.session), "nobody needs it any more");
    // It comes again, and reads on from there.
    scene.told(&[3], &[]);
    let again = scene.publish_whole();
    assert!(scene.reads(3, &again) && !scene.reads(3, &after));
    // One that was given nothing yet costs no session.
    scene.state.told(&members(false, &[5], &[])).unwrap();
    scene.told(&[], &[5]);
    assert_eq!(scene.publish_whole().session, again.session);
}

#[test]
fn the_node_can_add_nobody_whom_the_owner_does_not_allow() {
    let listed = Subscribing::Allowlist(vec![agent(2)]);
    let mut scene = Scene::new(listed, true, &[2, 66]);
    let first = scene.publish_whole();
    scene.told(&[67], &[]);
    let second = scene.publish_whole();
    assert!(scene.reads(2, &first) && scene.reads(2, &second));
    assert_eq!((scene.given.len(), scene.state.strangers()), (1, 2), "an invented member is never given anything");
    assert!(scene.state.has_given_all() && scene.state.is_handed_out(second.session), "nothing waits for it");
    assert_eq!(scene.state.gives_at_ms(), None);
    // The owner allows one of them: with history, from the beginning.
    let wider = Subscribing::Allowlist(vec![agent(2), agent(66)]);
    scene.state.set_record(record(wider, true));
    scene.work();
    assert!(scene.reads(66, &first) && !scene.given.contains_key(&agent(67)));
    // And takes it back: what is published from now on is not for it.
    scene.state.set_record(record(Subscribing::Allowlist(vec![agent(2)]), true));
    let third = scene.publish_whole();
    assert_ne!(third.session, second.session);
    assert!(!scene.reads(66, &third) && scene.reads(2, &third));
}

#[test]
fn a_publisher_that_dies_or_ends_goes_on_and_uses_no_counter_twice() {
    for in_good_order in [true, false] {
        let mut scene = Scene::new(Subscribing::Open, false, &[2]);
        let mut seen = BTreeSet::new();
        for round in 0..4 {
            for _ in 0..3 {
                let taken = scene.publish_whole();
                assert!(seen.insert((taken.session, taken.counter)), "round {round}");
                assert!(scene.reads(2, &taken));
            }
            scene.restart(in_good_order, &[2], false);
        }
        let sessions: BTreeSet<_> = seen.iter().map(|(session, _)| *session).collect();
        let expected = if in_good_order { 1 } else { 2 };
        assert_eq!(sessions.len(), expected, "what was written as used is not used again: {in_good_order}");
        assert_eq!(scene.given[&agent(2)].len(), expected, "nothing is given twice");
    }
}

#[test]
fn who_left_while_the_publisher_was_away_is_not_given_what_comes_and_who_came_is() {
    let mut scene = Scene::new(Subscribing::Open, false, &[2, 3]);
    let before = scene.publish_whole();
    scene.restart(true, &[2, 4], false);
    let after = scene.publish_whole();
    assert_ne!(before.session, after.session);
    assert!(scene.reads(2, &after) && scene.reads(4, &after) && !scene.reads(3, &after) && !scene.reads(4, &before));
}

#[test]
fn on_a_new_connection_nothing_counts_as_acknowledged_before_the_node_said_who_subscribes() {
    let mut scene = Scene::new(Subscribing::Open, false, &[2]);
    scene.publish_whole();
    let on_its_way = scene.publish();
    scene.state.lost();
    assert_eq!(scene.state.take(NOW).unwrap_err(), Wait::Told, "nothing is published under what may be over");
    // It is sent again and answered; somebody had joined before it came into the channel.
    scene.state.settled(on_its_way.session, on_its_way.counter);
    assert_eq!(scene.state.told(&members(false, &[4], &[])), Ok(()), "a change without the whole says nothing");
    scene.state.told(&members(true, &[2, 4], &[])).unwrap();
    scene.work();
    assert!(scene.reads(4, &on_its_way));
    scene.told(&[5], &[]);
    assert!(!scene.reads(5, &on_its_way));
}

#[test]
fn a_key_that_cannot_be_given_is_tried_again_and_holds_back_nobody_else() {
    let mut scene = Scene::new(Subscribing::Open, false, &[2, 3]);
    assert_eq!(scene.state.take(NOW).unwrap_err(), Wait::Session);
    scene.state.begin(&[9; 32], NOW);
    assert!(scene.state.gives(10, NOW).is_empty(), "the disk has nothing of it yet");
    scene.state.prepare(10, NOW);
    assert!(scene.state.gives(10, NOW).is_empty(), "nor that they may have it");
    scene.write();
    let taken = scene.state.take(NOW).unwrap();
    let gives = scene.gives(10, NOW);
    assert_eq!((gives.len(), scene.state.is_handed_out(taken.session)), (2, false));
    scene.state.gave(agent(2), taken.session, Outcome::Durable, NOW);
    scene.state.gave(agent(3), taken.session, Outcome::Later, NOW);
    assert!(scene.state.is_handed_out(taken.session) && !scene.state.has_given_all());
    let at_ms = scene.state.gives_at_ms().unwrap();
    assert!(at_ms > NOW && scene.gives(10, at_ms - 1).is_empty());
    assert_eq!(scene.gives(10, at_ms)[0].member, agent(3));
    scene.state.gave(agent(3), taken.session, Outcome::Never, at_ms);
    assert!(scene.state.has_given_all());
    // Named again, it is tried again.
    scene.state.told(&members(true, &[2, 3], &[])).unwrap();
    assert_eq!(scene.gives(10, at_ms).len(), 1);
}

#[test]
fn whoever_was_ever_sent_a_key_ends_the_session_when_they_leave_whatever_became_of_it() {
    for outcome in [None, Some(Outcome::Later), Some(Outcome::Never), Some(Outcome::Durable)] {
        for dies in [true, false] {
            let mut scene = Scene::new(Subscribing::Open, false, &[2, 3]);
            assert_eq!(scene.state.take(NOW).unwrap_err(), Wait::Session);
            scene.state.begin(&[9; 32], NOW);
            let before = scene.state.sessions[0].id;
            for give in scene.gives(10, NOW) {
                let outcome = if give.member == agent(2) { Some(Outcome::Durable) } else { outcome };
                // The answer may never come.
                if let Some(outcome) = outcome {
                    scene.state.gave(give.member, give.session, outcome, NOW);
                }
            }
            match dies {
                // Nothing was written since the keys were sent.
                true => scene.restart(false, &[2], false),
                false => scene.told(&[], &[3]),
            }
            let after = scene.publish_whole();
            assert_ne!(after.session, before, "{outcome:?} {dies}");
            assert!(!scene.reads(3, &after) && scene.reads(2, &after));
        }
    }
}

#[test]
fn what_is_owed_to_somebody_is_given_by_the_next_process() {
    for in_good_order in [true, false] {
        let mut scene = Scene::new(Subscribing::Open, false, &[2]);
        let before = scene.publish_whole();
        // It comes, and its mailbox takes nothing.
        scene.state.told(&members(false, &[4], &[])).unwrap();
        for give in scene.gives(10, NOW) {
            scene.state.gave(give.member, give.session, Outcome::Later, NOW);
        }
        let while_it_waits: Vec<Taken> = (0..2).map(|_| scene.publish_whole()).collect();
        scene.restart(in_good_order, &[2, 4], false);
        let after = scene.publish_whole();
        assert!(while_it_waits.iter().chain([&after]).all(|taken| scene.reads(4, taken)), "{in_good_order}");
        assert!(!scene.reads(4, &before));
        assert_eq!(before.session, after.session, "nobody left");
        // It is given once.
        let given = scene.given[&agent(4)].len();
        scene.restart(in_good_order, &[2, 4], false);
        assert_eq!((scene.given[&agent(4)].len(), scene.disk[0].1.owed.len()), (given, 0));
        // Who left meanwhile is owed nothing.
        scene.state.told(&members(false, &[5], &[])).unwrap();
        scene.write();
        scene.restart(in_good_order, &[2, 4], false);
        assert!(!scene.given.contains_key(&agent(5)));
    }
}

#[test]
fn history_is_given_also_where_the_node_says_who_subscribes_before_the_record_comes() {
    for record_first in [true, false] {
        let mut scene = Scene::new(Subscribing::Open, true, &[2]);
        let before: Vec<Taken> = (0..25).map(|_| scene.publish_whole()).collect();
        scene.read_disk(true);
        let tell = |scene: &mut Scene| scene.state.told(&members(true, &[2, 4], &[])).unwrap();
        if !record_first {
            tell(&mut scene);
        }
        scene.state.set_record(record(Subscribing::Open, true));
        if record_first {
            tell(&mut scene);
        }
        scene.work();
        assert!(before.iter().all(|taken| scene.reads(4, taken)), "{record_first}");
    }
}

#[test]
fn who_leaves_and_comes_again_in_one_change_is_given_a_session_anew() {
    let mut scene = Scene::new(Subscribing::Open, false, &[2, 3]);
    let before = scene.publish_whole();
    // Its folder is gone, and with it the key: it unsubscribed, and subscribes anew.
    scene.given.remove(&agent(3));
    scene.told(&[3], &[3]);
    let after = scene.publish_whole();
    assert_ne!(before.session, after.session);
    assert!(scene.reads(3, &after) && scene.reads(2, &after));
}

#[test]
fn a_session_ends_with_its_age_and_under_a_clock_that_was_set_back() {
    let mut scene = Scene::new(Subscribing::Open, false, &[2]);
    let first = scene.publish_whole().session;
    scene.now_ms += 99_999;
    assert_eq!(scene.publish_whole().session, first);
    scene.now_ms += 1;
    let second = scene.publish_whole().session;
    assert_ne!(second, first);
    scene.now_ms -= 1;
    assert_ne!(scene.publish_whole().session, second);
}

#[test]
fn sessions_and_subscribers_are_bounded() {
    let mut scene = Scene::new(Subscribing::Open, true, &[2]);
    for _ in 0..200 {
        scene.publish_whole();
    }
    assert!(scene.state.sessions.len() <= LIMITS.kept && scene.disk.len() <= LIMITS.kept);
    let many: Vec<AgentId> = (0..=u64::from(CHANNEL_SUBSCRIBERS_MAX))
        .map(|n| {
            let mut id = [7; 16];
            id[..8].copy_from_slice(&n.to_le_bytes());
            AgentId(id)
        })
        .collect();
    let (first, last) = many.split_at(many.len() - 1);
    let told = |joined: &[AgentId], is_whole| ChannelMembers { joined: joined.to_vec(), ..members(is_whole, &[], &[]) };
    assert_eq!(scene.state.told(&told(first, true)), Ok(()));
    assert_eq!(scene.state.told(&told(last, false)), Err(TooManyMembers));
}
