use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NORMAL: Priority = Priority::Normal;

fn to(recipient: u8, key: u8, record_version: u32) -> To {
    To { recipient: AgentId([recipient; 16]), key_id: KeyId([key; 16]), record_version }
}

fn sessions(messages: u64) -> Sessions<u32> {
    let age = Duration::from_secs(3_600);
    Sessions::new(SessionPolicy::Renew { messages, age }, 8)
}

/// Sends one message: its session by name, whether it carries the wrapped key, and the ticket.
fn send(sessions: &mut Sessions<u32>, to: To, priority: Priority, now_us: u64) -> (u32, bool, SessionTicket) {
    send_with(sessions, to, priority, false, now_us)
}

fn send_with(
    sessions: &mut Sessions<u32>,
    to: To,
    priority: Priority,
    time_limit: bool,
    now_us: u64,
) -> (u32, bool, SessionTicket) {
    let decision = sessions.decide(&to, priority, now_us);
    let name = u32::try_from(sessions.next_number).unwrap();
    let under = sessions.take(&to, priority, time_limit, decision, now_us, || name).unwrap();
    (*under.chain, decision.carries, under.ticket)
}

#[test]
fn every_message_carries_the_wrapped_key_until_one_is_acknowledged() {
    let mut sessions = sessions(1_000);
    let (first, carries, ticket) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    assert!(carries);
    for _ in 0..5 {
        let (session, carries, _) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
        assert_eq!((session, carries), (first, true));
    }
    sessions.acknowledged(AgentId([1; 16]), ticket);
    assert!(!send(&mut sessions, to(1, 1, 1), NORMAL, 0).1);
    assert!(send(&mut sessions, to(2, 2, 1), NORMAL, 0).1, "another recipient has a session of its own");
}

#[test]
fn a_more_urgent_message_carries_the_wrapped_key_because_it_may_overtake() {
    let mut sessions = sessions(1_000);
    let (_, _, ticket) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    sessions.acknowledged(AgentId([1; 16]), ticket);
    for priority in [Priority::Low, Priority::High, Priority::Critical] {
        let (session, carries, ticket) = send(&mut sessions, to(1, 1, 1), priority, 0);
        assert_eq!((session, carries), (0, true));
        sessions.acknowledged(AgentId([1; 16]), ticket);
        assert!(!send(&mut sessions, to(1, 1, 1), priority, 0).1);
    }
}

#[test]
fn a_message_that_may_expire_frees_nobody_and_is_freed_by_one_that_stays() {
    let mut sessions = sessions(1_000);
    let (_, _, expires) = send_with(&mut sessions, to(1, 1, 1), NORMAL, true, 0);
    sessions.acknowledged(AgentId([1; 16]), expires);
    let (_, carries, stays) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    assert!(carries, "the one before may be gone when this is read");
    sessions.acknowledged(AgentId([1; 16]), stays);
    assert!(!send_with(&mut sessions, to(1, 1, 1), NORMAL, true, 0).1);
}

#[test]
fn at_nine_tenths_one_message_opens_the_next_session_and_the_old_one_goes_on_until_it_is_acknowledged() {
    let mut sessions = sessions(10);
    for _ in 0..9 {
        let (_, _, ticket) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
        sessions.acknowledged(AgentId([1; 16]), ticket);
    }
    let (next, carries, opener) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    assert_eq!((next, carries), (1, true));
    assert_eq!(send(&mut sessions, to(1, 1, 1), NORMAL, 0).0, 0, "one message of the old session is left");
    // Used up: the next one serves, and carries its key as long as nothing of it is acknowledged.
    let (session, carries, _) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    assert_eq!((session, carries), (next, true));
    sessions.acknowledged(AgentId([1; 16]), opener);
    let (session, carries, _) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    assert_eq!((session, carries), (next, false));
}

#[test]
fn an_acknowledged_opener_brings_its_session_into_use_at_once() {
    let mut sessions = sessions(10);
    for _ in 0..9 {
        let (_, _, ticket) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
        sessions.acknowledged(AgentId([1; 16]), ticket);
    }
    let (next, _, opener) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    sessions.acknowledged(AgentId([1; 16]), opener);
    let (session, carries, _) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    assert_eq!((session, carries), (next, false));
}

#[test]
fn a_refused_opener_hurts_nobody() {
    let mut sessions = sessions(10);
    let (_, _, ticket) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    sessions.acknowledged(AgentId([1; 16]), ticket);
    (1..9).for_each(|_| assert!(!send(&mut sessions, to(1, 1, 1), NORMAL, 0).1));
    let (next, ..) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    // The opener of `next` is refused: nothing is heard of it. The old session goes on, then `next` opens itself again.
    assert_eq!(send(&mut sessions, to(1, 1, 1), NORMAL, 0).0, 0);
    for _ in 0..5 {
        let (session, carries, _) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
        assert_eq!((session, carries), (next, true));
    }
}

#[test]
fn a_session_ends_with_its_age() {
    let hour_us = 3_600_000_000;
    let mut sessions = sessions(1_000);
    let (old, _, ticket) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    sessions.acknowledged(AgentId([1; 16]), ticket);
    assert_eq!(send(&mut sessions, to(1, 1, 1), NORMAL, hour_us / 10 * 9 - 1).0, old);
    let (next, carries, _) = send(&mut sessions, to(1, 1, 1), NORMAL, hour_us / 10 * 9);
    assert!(next != old && carries, "renewed in passing");
    assert_eq!(send(&mut sessions, to(1, 1, 1), NORMAL, hour_us - 1).0, old);
    assert_eq!(send(&mut sessions, to(1, 1, 1), NORMAL, hour_us).0, next, "the old one is over");
    let (session, carries, _) = send(&mut sessions, to(1, 1, 1), NORMAL, 3 * hour_us);
    assert!(session != next && carries, "an idle pair begins again");
}

#[test]
fn a_newer_key_of_the_recipient_gets_a_session_of_its_own_and_an_older_message_goes_with_it() {
    let mut sessions = sessions(1_000);
    let (old, _, ticket) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    sessions.acknowledged(AgentId([1; 16]), ticket);
    assert_eq!(send(&mut sessions, to(1, 1, 2), NORMAL, 0).0, old, "a new record with the same key changes nothing");
    let (new, carries, _) = send(&mut sessions, to(1, 9, 3), NORMAL, 0);
    assert!(new != old && carries);
    assert_eq!(send(&mut sessions, to(1, 1, 1), NORMAL, 0).0, new, "looked up before the new record came");
    sessions.forget(AgentId([1; 16]), KeyId([1; 16]));
    assert_eq!(send(&mut sessions, to(1, 9, 3), NORMAL, 0).0, new, "that key was replaced already");
    sessions.forget(AgentId([1; 16]), KeyId([9; 16]));
    assert_ne!(send(&mut sessions, to(1, 9, 3), NORMAL, 0).0, new);
}

#[test]
fn a_message_that_was_looked_up_before_the_key_was_replaced_does_not_open_the_next_session() {
    let mut sessions = sessions(10);
    let (current, ..) = send(&mut sessions, to(1, 9, 2), NORMAL, 0);
    (1..9).for_each(|_| assert_eq!(send(&mut sessions, to(1, 9, 2), NORMAL, 0).0, current));
    assert_eq!(send(&mut sessions, to(1, 1, 1), NORMAL, 0).0, current, "it goes with the newer key");
    let (old, carries, _) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    assert!(old != current && carries, "used up: the key that it knows is better than none");
    // Which the node refuses, so that the record is fetched and the message sealed again.
    sessions.forget(AgentId([1; 16]), KeyId([1; 16]));
    assert_ne!(send(&mut sessions, to(1, 9, 2), NORMAL, 0).0, old);
}

#[test]
fn renewal_on_demand_opens_new_sessions_and_ignores_late_acknowledgements_of_the_old() {
    let mut sessions = sessions(1_000);
    let (old, _, ticket) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    sessions.renew();
    let (new, carries, _) = send(&mut sessions, to(1, 1, 1), NORMAL, 0);
    assert!(new != old && carries);
    sessions.acknowledged(AgentId([1; 16]), ticket);
    assert!(send(&mut sessions, to(1, 1, 1), NORMAL, 0).1, "that was the old session's");
}

#[test]
fn without_sessions_every_message_is_sealed_by_itself() {
    let mut sessions: Sessions<()> = Sessions::new(SessionPolicy::Off, 8);
    let decision = sessions.decide(&to(1, 1, 1), NORMAL, 0);
    assert!(decision.carries);
    assert!(sessions.take(&to(1, 1, 1), NORMAL, false, decision, 0, || ()).is_none());
    assert!(sessions.leave(0).is_empty());
}

#[test]
fn the_recipient_that_was_idle_longest_pays_again_when_there_are_too_many() {
    let mut sessions = sessions(1_000);
    let first: Vec<u32> = (0..8).map(|n| send(&mut sessions, to(n, n, 1), NORMAL, 0).0).collect();
    assert_eq!(send(&mut sessions, to(0, 0, 1), NORMAL, 0).0, first[0]);
    send(&mut sessions, to(100, 100, 1), NORMAL, 0);
    assert_eq!(send(&mut sessions, to(0, 0, 1), NORMAL, 0).0, first[0]);
    assert!(send(&mut sessions, to(1, 1, 1), NORMAL, 0).0 > first[7]);
    assert_eq!((sessions.lines.len(), sessions.by_use.len()), (8, 8));
}

#[test]
fn what_is_left_for_another_run_goes_on_there_with_its_count_and_its_age() {
    let mut before = sessions(10);
    let (_, _, ticket) = send(&mut before, to(1, 1, 1), NORMAL, 5_000_000);
    before.acknowledged(AgentId([1; 16]), ticket);
    send(&mut before, to(1, 1, 1), NORMAL, 5_000_000);
    (0..10).for_each(|_| _ = send(&mut before, to(2, 2, 1), NORMAL, 5_000_000));
    let left = before.leave(65_000_000);
    assert_eq!(left.len(), 2);
    assert_eq!((left[0].taken, left[0].age, left[0].freed), (2, Duration::from_secs(60), [false, true, false, false]));

    let mut after = sessions(10);
    after.next_number = 100;
    left.into_iter().for_each(|kept| after.adopt(kept, 0));
    let (session, carries, _) = send(&mut after, to(1, 1, 1), NORMAL, 0);
    assert_eq!((session, carries), (0, false), "it was freed before");
    assert!(send(&mut after, to(1, 1, 1), NORMAL, 3_540_000_000).0 > 100, "its hour began in the first run");
}

/// What happens to a conversation with one recipient.
#[derive(Clone, Copy, Debug)]
enum Event {
    Send { priority: u8, time_limit: bool },
    Acknowledge { which: usize },
    Refuse { which: usize },
    Wait { us: u64 },
    Renew,
    NewKey,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0u8..4, prop::bool::weighted(0.2)).prop_map(|(priority, time_limit)| Event::Send { priority, time_limit }),
        6 => any::<usize>().prop_map(|which| Event::Acknowledge { which }),
        2 => any::<usize>().prop_map(|which| Event::Refuse { which }),
        1 => (1u64..2_000_000_000).prop_map(|us| Event::Wait { us }),
        1 => Just(Event::Renew),
        1 => Just(Event::NewKey),
    ]
}

proptest! {
    /// Nothing that is acknowledged may become unreadable: whatever is refused, overtakes or expires, and in whatever
    /// order answers come, each message that was accepted without the wrapped key stands behind one in the same lane
    /// of the mailbox that has it and does not expire. And no session has more messages than it may.
    #[test]
    fn whatever_is_accepted_can_be_opened_by_whoever_reads_the_mailbox_in_its_order(
        events in prop::collection::vec(event(), 1..200),
        messages in 1u64..12,
    ) {
        let mut sessions = sessions(messages);
        let (mut now_us, mut key) = (0, 1);
        let mut counts: HashMap<u32, u64> = HashMap::new();
        let mut in_flight = Vec::new();
        // What a reader has who reads only what never expires, by lane.
        let mut readable: BTreeSet<(u8, u32)> = BTreeSet::new();
        for event in events {
            match event {
                Event::Send { priority, time_limit } => {
                    let lane = Priority::from_u8(priority).unwrap();
                    let recipient = to(1, key, u32::from(key));
                    let (session, carries, ticket) = send_with(&mut sessions, recipient, lane, time_limit, now_us);
                    *counts.entry(session).or_default() += 1;
                    prop_assert!(counts[&session] <= messages);
                    prop_assert!(
                        carries || readable.contains(&(priority, session)),
                        "sealed without the wrapped key, and nothing before it has it"
                    );
                    in_flight.push((session, carries && !time_limit, priority, ticket));
                }
                Event::Acknowledge { which } if !in_flight.is_empty() => {
                    let (session, opens, priority, ticket) = in_flight.swap_remove(which % in_flight.len());
                    if opens {
                        readable.insert((priority, session));
                    }
                    sessions.acknowledged(AgentId([1; 16]), ticket);
                }
                Event::Refuse { which } if !in_flight.is_empty() => {
                    in_flight.swap_remove(which % in_flight.len());
                }
                Event::Acknowledge { .. } | Event::Refuse { .. } => {}
                Event::Wait { us } => now_us += us,
                Event::Renew => sessions.renew(),
                Event::NewKey => {
                    sessions.forget(AgentId([1; 16]), KeyId([key; 16]));
                    key += 1;
                }
            }
        }
    }
}
