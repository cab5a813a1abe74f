#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use super::*;

const NOW_MS: u64 = 1_000_000;

fn signal(from: u8, number: u64) -> Signal {
    let id = [&number.to_be_bytes()[..], &[0; 8]].concat();
    Signal {
        from: AgentName::parse("acme/a").unwrap(),
        from_id: AgentId([from; 16]),
        message_id: MessageId(id.try_into().unwrap()),
        payload: Bytes::from(number.to_string()),
        timestamp_ms: NOW_MS,
        until_ms: NOW_MS + 10_000,
        priority: Priority::Normal,
    }
}

fn listening() -> SignalQueue {
    let queue = SignalQueue::default();
    queue.listen().unwrap();
    queue
}

fn numbers(queue: &SignalQueue, now_ms: u64) -> (Vec<String>, usize) {
    let (mut numbers, mut late_in_all) = (Vec::new(), 0);
    loop {
        match queue.take(now_ms) {
            Taken::Signal(signal, late) => {
                numbers.push(String::from_utf8(signal.payload.to_vec()).unwrap());
                late_in_all += late;
            }
            Taken::Nothing(late) => return (numbers, late_in_all + late),
            Taken::Over => panic!("more may come"),
        }
    }
}

#[test]
fn a_signal_is_shown_once_however_often_it_comes_while_it_could_be_taken_for_new() {
    let queue = listening();
    assert_eq!(queue.put(signal(1, 7), NOW_MS), Put::New);
    assert_eq!(queue.put(signal(1, 7), NOW_MS), Put::Repeated);
    assert_eq!(numbers(&queue, NOW_MS), (vec!["7".to_owned()], 0));
    let last_ms = NOW_MS + 10_000 + skew_ms() - 1;
    assert_eq!(queue.put(signal(1, 7), last_ms), Put::Repeated, "as long as it would be shown");
    assert_eq!(queue.put(signal(1, 7), last_ms + 1), Put::Dropped, "its time is over");
    assert_eq!(queue.put(signal(2, 7), NOW_MS), Put::New, "an id belongs to its sender");
}

#[test]
fn what_is_late_or_early_is_not_shown() {
    let queue = listening();
    assert_eq!(queue.put(signal(1, 1), NOW_MS - skew_ms() - 1), Put::Dropped);
    assert_eq!(queue.put(signal(1, 1), NOW_MS - skew_ms()), Put::New);
    assert_eq!(queue.put(signal(1, 2), NOW_MS), Put::New);
    assert_eq!(numbers(&queue, NOW_MS + 10_000 + skew_ms()), (vec![], 2), "they waited for the application too long");
}

#[test]
fn of_more_than_the_application_reads_the_oldest_are_dropped() {
    let queue = listening();
    let puts: Vec<Put> = (0..SIGNALS_QUEUED_MAX as u64 + 2).map(|n| queue.put(signal(1, n), NOW_MS)).collect();
    assert_eq!(puts.iter().filter(|put| **put == Put::DroppedOldest).count(), 2);
    let (numbers, _) = numbers(&queue, NOW_MS);
    assert_eq!((numbers.len(), numbers[0].as_str()), (SIGNALS_QUEUED_MAX, "2"));
}

#[test]
fn a_sender_that_signals_without_end_costs_no_other_its_signals() {
    let queue = listening();
    for number in 0..SIGNAL_IDS_PER_SENDER as u64 {
        assert_ne!(queue.put(signal(1, number), NOW_MS), Put::Dropped);
    }
    assert_eq!(queue.put(signal(1, u64::MAX), NOW_MS), Put::Dropped, "it could not be told from a repeated one later");
    assert_eq!(queue.put(signal(2, 0), NOW_MS), Put::DroppedOldest, "another is heard");
    assert_eq!(queue.put(signal(1, 0), NOW_MS), Put::Repeated);
    // When the time of the first is over, there is room again.
    let later_ms = NOW_MS + 10_000 + skew_ms();
    let fresh = Signal { timestamp_ms: later_ms, until_ms: later_ms + 1_000, ..signal(1, u64::MAX) };
    assert_eq!(queue.put(fresh, later_ms), Put::DroppedOldest);
    assert_eq!(queue.state().seen.by_end.len(), 1, "nothing of what is over is remembered");
}

#[test]
fn what_is_remembered_of_all_senders_is_bounded() {
    let mut seen = Seen::default();
    for number in 0..SIGNAL_IDS_MAX as u64 {
        let (from, id) = (AgentId([u8::try_from(number / 512).unwrap(); 16]), signal(0, number).message_id);
        assert_eq!(seen.is_new(from, id, NOW_MS + 1, NOW_MS), Some(true));
    }
    assert_eq!(seen.is_new(AgentId([200; 16]), MessageId([1; 16]), NOW_MS + 1, NOW_MS), None);
    assert_eq!(seen.is_new(AgentId([200; 16]), MessageId([1; 16]), NOW_MS + 2, NOW_MS + 1), Some(true));
}

#[test]
fn the_node_is_allowed_a_window_at_a_time_and_only_while_somebody_listens() {
    let queue = SignalQueue::default();
    assert_eq!(queue.take_credit(), None);
    queue.listen().unwrap();
    assert!(queue.listen().is_err(), "one listens");
    assert_eq!(queue.take_credit(), Some(SignalCredit { signals: SIGNAL_WINDOW }));
    assert_eq!(queue.take_credit(), None);
    assert_eq!(queue.arrived(SIGNAL_WINDOW as usize / 2 - 1), Some(false));
    assert_eq!(queue.arrived(1), Some(true));
    assert_eq!(queue.take_credit(), Some(SignalCredit { signals: SIGNAL_WINDOW / 2 }));
    queue.stream_begins();
    assert_eq!(queue.take_credit(), Some(SignalCredit { signals: SIGNAL_WINDOW }), "another stream begins at nothing");
    queue.stop();
    assert_eq!(queue.arrived(SIGNAL_WINDOW as usize + 1), None, "more than was allowed");
    assert_eq!(queue.arrived(SIGNAL_WINDOW as usize), Some(false), "what was allowed may come after nobody listens");
    assert_eq!(queue.take_credit(), None);
    assert_eq!(queue.put(signal(1, 1), NOW_MS), Put::Dropped);
}
