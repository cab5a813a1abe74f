use creto_envelope::AgentId;
use creto_policy::Obligations;

use super::Meter;
use crate::limits::{METER_RETRY_MS, RATES_MAX, RECENT_SENDERS_MAX};

const SECOND: u64 = 1_000_000;

fn agent(number: u32) -> AgentId {
    let mut id = [7; 16];
    id[..4].copy_from_slice(&number.to_le_bytes());
    AgentId(id)
}

fn rate(messages_per_s: Option<u64>, bytes_per_s: Option<u64>) -> Obligations {
    Obligations { messages_per_s, bytes_per_s, ..Obligations::NONE }
}

#[test]
fn recent_messages_are_those_of_the_last_minute() {
    let (mut meter, a, b) = (Meter::default(), agent(1), agent(2));
    let mut sent = Vec::new();
    for step in 0..4_000_u64 {
        // Some of a burst, some after pauses of up to two minutes.
        let now_us = step * 100_000 + (step / 500) * 40 * SECOND;
        let recent = sent.iter().filter(|&&at_us| at_us / SECOND + 60 > now_us / SECOND).count();
        assert_eq!(meter.recent(&a, now_us), Some(u32::try_from(recent).unwrap()), "{step}");
        if step % 7 != 0 {
            meter.sent(&a, now_us);
            sent.push(now_us);
        }
        assert_eq!(meter.recent(&b, now_us), Some(0));
    }
}

#[test]
fn a_clock_that_stands_still_or_steps_back_forgets_nothing() {
    let (mut meter, a) = (Meter::default(), agent(1));
    for now_us in [90 * SECOND, 90 * SECOND, 10 * SECOND, 0] {
        meter.recent(&a, now_us);
        meter.sent(&a, now_us);
    }
    assert_eq!(meter.recent(&a, 91 * SECOND), Some(4));
    assert_eq!(meter.recent(&a, 1_000 * SECOND), Some(0));
}

#[test]
fn counters_are_bounded_and_those_of_the_silent_make_room() {
    let mut meter = Meter::default();
    for number in 0..u32::try_from(RECENT_SENDERS_MAX).unwrap() {
        assert_eq!(meter.recent(&agent(number), 100 * SECOND), Some(0));
        meter.sent(&agent(number), 100 * SECOND);
    }
    let late = agent(u32::MAX);
    assert_eq!(meter.recent(&late, 101 * SECOND), None);
    assert_eq!(meter.recent(&late, 159 * SECOND), None, "all have sent within a minute");
    assert_eq!(meter.recent(&late, 160 * SECOND), Some(0));
    assert_eq!(meter.recent.len(), 1);
}

#[test]
fn a_rate_of_messages_gives_a_seconds_worth_at_once_and_then_one_after_the_other() {
    let (mut meter, a, bound) = (Meter::default(), agent(1), rate(Some(5), None));
    let mut passed = Vec::new();
    for now_ms in 0..3_000_u64 {
        match meter.take(&a, &bound, 1_000_000, now_ms * 1_000) {
            Ok(()) => passed.push(now_ms),
            Err(wait_ms) => assert!((1..=200).contains(&wait_ms), "{now_ms}: {wait_ms}"),
        }
    }
    assert_eq!(passed[..7], [0, 1, 2, 3, 4, 200, 400]);
    assert_eq!(passed.len(), 5 + 14, "five at once, five in each second");
}

#[test]
fn whoever_waits_as_long_as_it_was_told_is_let_through() {
    let (mut meter, a) = (Meter::default(), agent(1));
    for bound in [rate(Some(3), None), rate(None, Some(1_000)), rate(Some(7), Some(700)), rate(Some(u64::MAX), Some(1))]
    {
        let mut now_us = 0;
        for bytes in [1, 0, 900, 5_000, 1, 1, 1, 1, 1, 1, 1, 1] {
            if let Err(wait_ms) = meter.take(&a, &bound, bytes, now_us) {
                now_us += u64::from(wait_ms) * 1_000;
                assert_eq!(meter.take(&a, &bound, bytes, now_us), Ok(()), "{bound:?} at {now_us}");
            }
        }
    }
}

#[test]
fn a_message_larger_than_a_seconds_worth_passes_and_those_behind_it_wait() {
    let (mut meter, a, bound) = (Meter::default(), agent(1), rate(None, Some(1_000)));
    assert_eq!(meter.take(&a, &bound, 5_000, 0), Ok(()));
    assert_eq!(meter.take(&a, &bound, 1, 0), Err(4_001));
    assert_eq!(meter.take(&a, &bound, 1, 4_001_000), Ok(()));
}

#[test]
fn each_sender_and_each_figure_has_its_own_rate() {
    let (mut meter, a, b) = (Meter::default(), agent(1), agent(2));
    let (slow, fast) = (rate(Some(1), None), rate(Some(2), None));
    assert_eq!(meter.take(&a, &slow, 0, 0), Ok(()));
    assert_eq!(meter.take(&a, &slow, 0, 0), Err(1_000));
    assert_eq!(meter.take(&b, &slow, 0, 0), Ok(()));
    assert_eq!(meter.take(&a, &fast, 0, 0), Ok(()));
}

#[test]
fn a_rate_of_zero_lets_nothing_through() {
    let (mut meter, a) = (Meter::default(), agent(1));
    for now_us in [0, SECOND, u64::MAX] {
        assert_eq!(meter.take(&a, &rate(Some(0), None), 0, now_us), Err(METER_RETRY_MS));
        assert_eq!(meter.take(&a, &rate(None, Some(0)), 0, now_us), Err(METER_RETRY_MS));
    }
}

#[test]
fn rates_are_bounded_and_those_that_are_full_again_make_room() {
    let (mut meter, bound) = (Meter::default(), rate(Some(1), None));
    for number in 0..u32::try_from(RATES_MAX).unwrap() {
        assert_eq!(meter.take(&agent(number), &bound, 0, 0), Ok(()));
    }
    let late = agent(u32::MAX);
    assert_eq!(meter.take(&late, &bound, 0, SECOND - 1), Err(METER_RETRY_MS));
    assert_eq!(meter.take(&late, &bound, 0, SECOND), Ok(()));
    assert_eq!(meter.rates.len(), 1);
}
