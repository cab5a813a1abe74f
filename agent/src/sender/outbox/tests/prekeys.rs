//! Prekeys: what waits for one, what goes without, and what does not go.

use creto_envelope::TreeDigest;
use creto_envelope::prekeys::{PrekeyKind, SignedPrekey};

use super::*;
use crate::prekeys::make;

/// A prekey of the owner of these keys, whose number names it.
fn prekey(key: usize, kind: PrekeyKind, number: u8) -> Arc<ClaimedPrekey> {
    let (keys, identity) = owner(key);
    let prekey = make::prekey(kind, &[number; 32]);
    let signature = make::sign(keys, identity.record.version, vec![prekey.clone()], 5).signature;
    let signed = SignedPrekey { signature, count: 1, index: 0, prekey, path: Vec::new() };
    Arc::new(ClaimedPrekey::check(&signed, Arc::clone(identity)).unwrap())
}

fn with_prekeys(policy: PrekeyPolicy) -> Outbox {
    connected().with_prekeys(policy)
}

/// Puts the messages of every job that is due where they wait for an answer; gives the prekey that each one's session is open to.
fn opened_to(outbox: &mut Outbox, now_us: u64) -> Vec<(u32, Option<KeyId>)> {
    let mut opened = Vec::new();
    while let Some(job) = outbox.next_job(now_us) {
        for (message, planned) in job.messages.iter().zip(&job.under) {
            let taken = planned.as_ref().unwrap().under.chain.take(1).unwrap();
            opened.push((number(message.id), taken.opened_to.prekey));
        }
        outbox.sealed(sealed(job));
        while outbox.next_frame().is_some() {}
    }
    opened
}

fn claimed(
    outbox: &mut Outbox,
    recipient: u8,
    prekey: Result<Arc<ClaimedPrekey>, PrekeyError>,
    now_us: u64,
) -> Vec<(u32, SendError)> {
    let mut answers = Vec::new();
    outbox.claimed(AgentId([recipient; 16]), prekey, now_us, &mut answers);
    answers.into_iter().map(|answered| (number(answered.message.id), answered.answer.unwrap_err())).collect()
}

const NONE: PrekeyError = PrekeyError::Refused(RejectCode::NoPrekey);

#[test]
fn a_session_waits_for_its_prekey_and_nothing_for_anybody_else_does() {
    let mut outbox = with_prekeys(PrekeyPolicy::Prefer);
    push(&mut outbox, 0..3, 1);
    assert!(opened_to(&mut outbox, 5_000).is_empty());
    assert_eq!(outbox.take_claims(), [AgentId([1; 16])]);
    push(&mut outbox, 3..4, 2);
    assert!(opened_to(&mut outbox, 5_000).is_empty());
    assert_eq!(outbox.take_claims(), [AgentId([2; 16])], "the first one is asked for once");
    let second = prekey(0, PrekeyKind::OneTime, 2);
    assert!(claimed(&mut outbox, 2, Ok(Arc::clone(&second)), 6_000).is_empty());
    assert_eq!(opened_to(&mut outbox, 6_000), [(3, Some(second.id))]);
    let first = prekey(0, PrekeyKind::OneTime, 1);
    claimed(&mut outbox, 1, Ok(Arc::clone(&first)), 7_000);
    answered(&mut outbox, &ack(1, &[]), 7_000);
    assert_eq!(opened_to(&mut outbox, 7_000), [0, 1, 2].map(|n| (n, Some(first.id))), "one session, in their order");
    assert!(outbox.take_claims().is_empty());
    // A one-time prekey serves one session.
    outbox.sessions_mut().renew();
    push(&mut outbox, 4..5, 1);
    answered(&mut outbox, &ack(2, &[]), 8_000);
    assert!(opened_to(&mut outbox, 8_000).is_empty());
    assert_eq!(outbox.take_claims(), [AgentId([1; 16])]);
}

#[test]
fn one_of_last_resort_serves_a_while_and_so_does_the_word_that_there_is_none() {
    let mut outbox = with_prekeys(PrekeyPolicy::Prefer);
    let last = prekey(0, PrekeyKind::LastResort, 9);
    let mut now_us = 1_000_000;
    let next = |outbox: &mut Outbox, n: u32, now_us: u64| {
        outbox.sessions_mut().renew();
        push(outbox, n..n + 1, 1);
        let opened = opened_to(outbox, now_us);
        let through = u64::from(n) + 1;
        if !opened.is_empty() {
            answered(outbox, &ack(through, &[]), now_us);
        }
        (opened.first().map(|(_, prekey)| *prekey), outbox.take_claims().len())
    };
    assert_eq!(next(&mut outbox, 0, now_us), (None, 1));
    claimed(&mut outbox, 1, Ok(Arc::clone(&last)), now_us);
    assert_eq!(opened_to(&mut outbox, now_us), [(0, Some(last.id))]);
    answered(&mut outbox, &ack(1, &[]), now_us);
    now_us += u64::try_from(crate::limits::PREKEY_LAST_RESORT_USED.as_micros()).unwrap() - 1;
    assert_eq!(next(&mut outbox, 1, now_us), (Some(Some(last.id)), 0));
    now_us += 1;
    assert_eq!(next(&mut outbox, 2, now_us), (None, 1));
    claimed(&mut outbox, 1, Err(NONE), now_us);
    assert_eq!(opened_to(&mut outbox, now_us), [(2, None)], "to the key of the record");
    answered(&mut outbox, &ack(3, &[]), now_us);
    now_us += u64::try_from(crate::limits::PREKEY_NONE_REMEMBERED.as_micros()).unwrap() - 1;
    assert_eq!(next(&mut outbox, 3, now_us), (Some(None), 0));
    assert_eq!(next(&mut outbox, 4, now_us + 1), (None, 1));
}

#[test]
fn where_a_prekey_is_required_nothing_leaves_without_and_what_may_pass_is_waited_for() {
    let mut outbox = with_prekeys(PrekeyPolicy::Require);
    push(&mut outbox, 0..2, 1);
    assert!(opened_to(&mut outbox, 5_000).is_empty());
    assert_eq!(outbox.take_claims().len(), 1);
    let busy = PrekeyError::Refused(RejectCode::Overloaded);
    assert!(claimed(&mut outbox, 1, Err(busy), 5_000).is_empty());
    assert!(opened_to(&mut outbox, 5_000).is_empty() && outbox.take_claims().is_empty(), "not at once again");
    let again_us = outbox.deadline_us(5_000).unwrap();
    assert!(opened_to(&mut outbox, again_us).is_empty());
    assert_eq!(outbox.take_claims().len(), 1);
    let answers = claimed(&mut outbox, 1, Err(NONE), again_us);
    assert_eq!(answers.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1]);
    let (_, error) = &answers[0];
    assert!(matches!(error, SendError::NoPrekey { .. }) && error.code() == Some(RejectCode::NoPrekey), "{error}");
    assert!(opened_to(&mut outbox, again_us + 1).is_empty());
    // The next message asks again.
    push(&mut outbox, 2..3, 1);
    assert!(opened_to(&mut outbox, again_us + 5_000).is_empty());
    assert_eq!(outbox.take_claims().len(), 1);
    claimed(&mut outbox, 1, Ok(prekey(0, PrekeyKind::OneTime, 1)), again_us + 5_000);
    assert_eq!(opened_to(&mut outbox, again_us + 5_000).len(), 1);
}

#[test]
fn a_session_is_renewed_to_a_prekey_that_is_claimed_while_the_old_one_goes_on() {
    let mut outbox = with_prekeys(PrekeyPolicy::Prefer);
    push(&mut outbox, 0..901, 1);
    let mut now_us = 5_000;
    opened_to(&mut outbox, now_us);
    let ids = [1, 2].map(|number| prekey(0, PrekeyKind::OneTime, number));
    outbox.take_claims();
    claimed(&mut outbox, 1, Ok(Arc::clone(&ids[0])), now_us);
    let mut opened = Vec::new();
    loop {
        let more = opened_to(&mut outbox, now_us);
        if more.is_empty() {
            break;
        }
        opened.extend(more);
        now_us += 2_000;
        let last = outbox.in_flight.back().unwrap().sequence;
        answered(&mut outbox, &ack(last, &[]), now_us);
    }
    assert_eq!(opened.len(), 901);
    assert!(opened.iter().all(|(_, prekey)| *prekey == Some(ids[0].id)), "the 901st goes under the old one, too");
    assert_eq!(outbox.take_claims().len(), 1);
    claimed(&mut outbox, 1, Ok(Arc::clone(&ids[1])), now_us);
    push(&mut outbox, 901..902, 1);
    assert_eq!(opened_to(&mut outbox, now_us + 5_000), [(901, Some(ids[1].id))]);
}

#[test]
fn a_prekey_of_a_newer_record_brings_that_record_along() {
    let mut outbox = with_prekeys(PrekeyPolicy::Prefer);
    push(&mut outbox, 0..1, 1);
    opened_to(&mut outbox, 5_000);
    outbox.take_claims();
    let newer = prekey(1, PrekeyKind::OneTime, 1);
    claimed(&mut outbox, 1, Ok(Arc::clone(&newer)), 5_000);
    let job = outbox.next_job(5_000).unwrap();
    assert_eq!(job.messages[0].plain().key_id(), KeyId(identity(1).sealing.key_id()));
    assert_eq!(job.under[0].as_ref().unwrap().under.chain.take(1).unwrap().opened_to.prekey, Some(newer.id));
}

/// Until when nothing is sealed but what has a session, and the claims then.
fn claims_after(outbox: &mut Outbox, now_us: u64) -> (u64, usize) {
    assert!(opened_to(outbox, now_us).is_empty());
    let again_us = outbox.deadline_us(now_us).unwrap();
    assert!(opened_to(outbox, again_us).is_empty());
    (again_us, outbox.take_claims().len())
}

#[test]
fn a_node_that_cannot_say_is_asked_once_more_before_anything_goes_without_a_prekey() {
    let busy = || PrekeyError::Refused(RejectCode::Overloaded);
    for (second, opened_in) in [(Ok(1), true), (Err(busy()), true), (Err(PrekeyError::TimedOut), true)] {
        let mut outbox = with_prekeys(PrekeyPolicy::Prefer);
        push(&mut outbox, 0..2, 1);
        assert!(opened_to(&mut outbox, 5_000).is_empty());
        assert_eq!(outbox.take_claims().len(), 1);
        assert!(claimed(&mut outbox, 1, Err(busy()), 5_000).is_empty());
        let (again_us, claims) = claims_after(&mut outbox, 5_000);
        assert_eq!((again_us - 5_000, claims), (1_000_000, 1), "after a second, once");
        let expected = second.as_ref().ok().map(|number| prekey(0, PrekeyKind::OneTime, *number));
        let ids = [0, 1].map(|n| (n, expected.as_ref().map(|prekey| prekey.id)));
        let answer = second.map(|number| prekey(0, PrekeyKind::OneTime, number));
        assert!(claimed(&mut outbox, 1, answer, again_us).is_empty());
        assert_eq!(opened_to(&mut outbox, again_us) == ids, opened_in);
        if expected.is_none() {
            // That was not the word that there is none: the next session asks soon.
            outbox.sessions_mut().renew();
            answered(&mut outbox, &ack(1, &[]), again_us);
            push(&mut outbox, 2..3, 1);
            assert!(opened_to(&mut outbox, again_us + 1_000_000).is_empty());
            assert_eq!(outbox.take_claims().len(), 1);
        }
    }
}

#[test]
fn on_a_prekey_that_does_not_hold_nothing_is_sent_whatever_the_policy() {
    for policy in [PrekeyPolicy::Prefer, PrekeyPolicy::Require] {
        let mut outbox = with_prekeys(policy);
        for n in 0..2 {
            push(&mut outbox, n..n + 1, 1);
            assert!(opened_to(&mut outbox, 5_000).is_empty());
            assert_eq!(outbox.take_claims().len(), 1, "each time anew");
            let invalid = PrekeyError::Invalid { agent: AgentId([1; 16]), reason: "the test says so" };
            let failed = claimed(&mut outbox, 1, Err(invalid), 5_000);
            assert_eq!(failed.len(), 1);
            let (number, error) = &failed[0];
            assert_eq!(*number, n);
            let is_it = matches!(error, SendError::NoPrekey { source: PrekeyError::Invalid { .. }, .. });
            assert!(is_it, "{error}");
        }
    }
}

#[test]
fn a_one_time_prekey_in_hand_serves_for_an_hour() {
    let hour_us = u64::try_from(crate::limits::PREKEY_ONE_TIME_USED.as_micros()).unwrap();
    for (age_us, serves) in [(hour_us - 1, true), (hour_us, false)] {
        let mut outbox = with_prekeys(PrekeyPolicy::Prefer);
        push(&mut outbox, 0..1, 1);
        assert!(opened_to(&mut outbox, 5_000).is_empty());
        outbox.take_claims();
        claimed(&mut outbox, 1, Ok(prekey(0, PrekeyKind::OneTime, 1)), 5_000);
        assert_eq!(opened_to(&mut outbox, 5_000 + age_us).len(), usize::from(serves));
        assert_eq!(outbox.take_claims().len(), usize::from(!serves));
    }
}

#[test]
fn where_a_prekey_is_required_a_session_that_gives_no_key_is_an_error_and_no_sealed_message() {
    let keys = &owner(0).0;
    for (policy, is_sealed) in [(PrekeyPolicy::Require, false), (PrekeyPolicy::Prefer, true)] {
        let mut outbox = with_prekeys(policy);
        push(&mut outbox, 0..2, 1);
        assert!(opened_to(&mut outbox, 5_000).is_empty());
        outbox.take_claims();
        claimed(&mut outbox, 1, Ok(prekey(0, PrekeyKind::OneTime, 1)), 5_000);
        let job = outbox.next_job(5_000).unwrap();
        let chain = &job.under[0].as_ref().unwrap().under.chain;
        chain.take(1).unwrap();
        // Somebody hands the session over before the worker comes to it.
        chain.close().unwrap();
        let salts = vec![[0; 16]; job.messages.len()];
        let counters = crate::stats::Counters::default();
        let batch = crate::sender::seal::seal_batch(keys, job, salts, TreeDigest::Sha256, 5, &counters);
        assert_eq!((batch.messages.len(), batch.header.is_some()), if is_sealed { (2, true) } else { (0, false) });
        outbox.sealed(batch);
        assert_eq!(outbox.next_frame().is_some(), is_sealed);
        let failed = outbox.take_unsealed();
        assert_eq!(failed.len(), if is_sealed { 0 } else { 2 });
        for Answered { answer, .. } in failed {
            assert!(matches!(answer, Err(SendError::NoPrekey { source: PrekeyError::SessionOver, .. })));
        }
    }
}
