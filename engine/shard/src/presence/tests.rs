use super::*;

fn agent(number: u32) -> AgentId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    AgentId(id)
}

#[test]
fn when_somebody_stopped_is_told_in_whole_minutes_for_a_week() {
    let mut seen = LastSeen::default();
    seen.stopped(agent(1), 1_000_000);
    for (later_ms, minutes) in [(0, Some(0)), (59_999, Some(0)), (60_000, Some(1)), (LAST_SEEN_KEPT_MS, None)] {
        assert_eq!(seen.minutes(&agent(1), 1_000_000 + later_ms), minutes, "{later_ms}");
    }
    assert_eq!(seen.minutes(&agent(1), 0), Some(0), "the clock was set back");
    seen.stopped(agent(1), 2_000_000);
    assert_eq!(seen.by_time.len(), 1, "the last time counts");
    seen.pass(2_000_000 + LAST_SEEN_KEPT_MS);
    assert!(seen.by_agent.is_empty() && seen.by_time.is_empty());
}

#[test]
fn a_bounded_number_is_remembered_and_the_longest_gone_are_forgotten_first() {
    let mut seen = LastSeen::default();
    let count = u32::try_from(LAST_SEEN_MAX).expect("a small number") + 2;
    for number in 0..count {
        seen.stopped(agent(number), u64::from(number));
    }
    assert_eq!((seen.by_agent.len(), seen.by_time.len()), (LAST_SEEN_MAX, LAST_SEEN_MAX));
    assert_eq!((seen.minutes(&agent(1), 0), seen.minutes(&agent(2), 0)), (None, Some(0)));
    seen.forget(&agent(2));
    assert_eq!((seen.minutes(&agent(2), 0), seen.by_time.len()), (None, LAST_SEEN_MAX - 1));
}

#[test]
fn one_connection_asks_so_often_and_then_as_fast_as_it_is_refilled() {
    let mut questions = PresenceQuestions::default();
    let at = |monotonic_us| Now { unix_ms: 0, monotonic_us };
    let mut ask = |monotonic_us| {
        let is_allowed = questions.take(at(monotonic_us));
        questions.open = 0;
        is_allowed
    };
    assert!((0..PRESENCE_BURST).all(|_| ask(0)));
    assert!(!ask(PRESENCE_REFILL_US - 1));
    assert!(ask(PRESENCE_REFILL_US));
    assert!(!ask(PRESENCE_REFILL_US));
    assert!(ask(3 * PRESENCE_REFILL_US) && ask(3 * PRESENCE_REFILL_US) && !ask(3 * PRESENCE_REFILL_US));
    // However long it rests, it saves up no more than that.
    assert!((0..PRESENCE_BURST).all(|_| ask(u64::MAX / 2)) && !ask(u64::MAX / 2));
}

#[test]
fn no_more_questions_are_open_than_may_be() {
    let mut questions = PresenceQuestions { left: u32::MAX, ..PresenceQuestions::default() };
    let now = Now { unix_ms: 0, monotonic_us: 0 };
    assert!((0..PRESENCE_QUESTIONS_MAX).all(|_| questions.take(now)));
    assert!(!questions.take(now));
    questions.open -= 1;
    assert!(questions.take(now));
}
