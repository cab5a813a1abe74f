use creto_envelope::channel::ChannelRecord;
use creto_envelope::{AgentId, AgentState, RejectCode};
use proptest::prelude::*;

use super::{Action, Decision, DecisionTable, decide};
use crate::fixture::{agent, channel, record};
use crate::{KeyVersion, Policy, Principal, Snapshot, SnapshotBuilder};

mod channels;
mod loaded;

const NOW_MS: u64 = 1_000;
const ACTIONS: [Action; 3] = [Action::SendMessage, Action::ReadDirectory, Action::Subscribe];

/// Two of acme, one of globex, and one of acme in each state and on each side of its validity.
fn world() -> SnapshotBuilder {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    for (name, state, valid) in [
        ("acme/a", AgentState::Active, 0..2_000),
        ("acme/b", AgentState::Active, 0..2_000),
        ("globex/c", AgentState::Active, 0..2_000),
        ("acme/suspended", AgentState::Suspended, 0..2_000),
        ("acme/revoked", AgentState::Revoked, 0..2_000),
        ("acme/expired", AgentState::Active, 0..1_000),
        ("acme/early", AgentState::Active, 1_001..2_000),
    ] {
        builder.insert(state, vec![record(name, 1, valid)]).unwrap();
    }
    builder
}

fn check(sender: &str, action: Action, recipient: &str, expect: Result<(), RejectCode>) {
    let expect = expect.map_or_else(Decision::Deny, |()| Decision::ALLOW);
    let snapshot = world().build(1);
    let (sender, recipient) = (agent(sender), agent(recipient));
    assert_eq!(decide(&snapshot, NOW_MS, &sender, action, &recipient, 0), expect);
    let mut table = DecisionTable::new(64, 1_000);
    for _ in 0..2 {
        assert_eq!(table.decide(&snapshot, NOW_MS, &sender, action, &recipient, 0), expect);
    }
}

#[test]
fn an_organization_talks_among_itself_and_to_nobody_else() {
    check("acme/a", Action::SendMessage, "acme/b", Ok(()));
    check("acme/a", Action::SendMessage, "acme/a", Ok(()));
    check("acme/a", Action::SendMessage, "globex/c", Err(RejectCode::PolicyDenied));
    check("globex/c", Action::SendMessage, "acme/a", Err(RejectCode::PolicyDenied));
    check("acme/a", Action::ReadDirectory, "acme/b", Ok(()));
    check("acme/a", Action::ReadDirectory, "globex/c", Err(RejectCode::PolicyDenied));
    check("acme/a", Action::ReadDirectory, "acme/a", Ok(()));
}

#[test]
fn a_sender_that_may_not_act_is_told_why() {
    for action in ACTIONS {
        for recipient in ["acme/b", "acme/nobody", "globex/c"] {
            check("acme/nobody", action, recipient, Err(RejectCode::UnknownSender));
            check("acme/suspended", action, recipient, Err(RejectCode::AgentSuspended));
            check("acme/revoked", action, recipient, Err(RejectCode::AgentRevoked));
            check("acme/expired", action, recipient, Err(RejectCode::KeyExpired));
            check("acme/early", action, recipient, Err(RejectCode::KeyNotYetValid));
        }
    }
}

#[test]
fn a_revoked_recipient_looks_unknown_to_a_sender_and_a_suspended_one_still_gets_mail() {
    check("acme/a", Action::SendMessage, "acme/nobody", Err(RejectCode::UnknownRecipient));
    check("acme/a", Action::SendMessage, "acme/revoked", Err(RejectCode::UnknownRecipient));
    check("acme/a", Action::SendMessage, "acme/suspended", Ok(()));
    check("acme/a", Action::SendMessage, "acme/expired", Ok(()));
}

#[test]
fn a_key_record_of_a_revoked_agent_can_be_read_and_one_of_nobody_cannot() {
    check("acme/a", Action::ReadDirectory, "acme/revoked", Ok(()));
    check("acme/a", Action::ReadDirectory, "acme/nobody", Err(RejectCode::UnknownAgent));
}

#[test]
fn only_the_owner_subscribes_to_a_mailbox() {
    check("acme/a", Action::Subscribe, "acme/a", Ok(()));
    for other in ["acme/b", "acme/revoked", "acme/nobody", "globex/c"] {
        check("acme/a", Action::Subscribe, other, Err(RejectCode::NotMailboxOwner));
    }
}

#[test]
fn without_a_policy_everything_is_denied() {
    let mut unloaded = world();
    unloaded.set_policy(None);
    for snapshot in [Snapshot::empty(), unloaded.build(1)] {
        let mut table = DecisionTable::new(64, 1_000);
        for action in ACTIONS {
            let answer = table.decide(&snapshot, NOW_MS, &agent("acme/a"), action, &agent("acme/a"), 0);
            assert_eq!(answer, Decision::Deny(RejectCode::PolicyUnavailable));
        }
    }
}

#[test]
fn an_answer_is_kept_until_its_lifetime_is_over() {
    let (snapshot, a, b) = (world().build(1), agent("acme/a"), agent("acme/b"));
    let mut table = DecisionTable::new(64, 100);
    for (now_ms, hits) in [(NOW_MS, 0), (NOW_MS, 1), (NOW_MS + 99, 2), (NOW_MS + 100, 2), (NOW_MS + 101, 3)] {
        assert!(table.decide(&snapshot, now_ms, &a, Action::SendMessage, &b, 0).is_allowed());
        assert_eq!(table.stats().hits, hits, "at {now_ms}");
    }
    assert!(table.decide(&snapshot, NOW_MS - 1, &a, Action::SendMessage, &b, 0).is_allowed());
    assert_eq!(table.stats().hits, 3, "a clock that steps back finds no entry");
}

#[test]
fn an_answer_is_not_kept_past_the_end_of_the_senders_keys() {
    let (snapshot, a, b) = (world().build(1), agent("acme/a"), agent("acme/b"));
    let mut table = DecisionTable::new(64, u64::MAX);
    assert!(table.decide(&snapshot, 1_999, &a, Action::SendMessage, &b, 0).is_allowed());
    let expired = Decision::Deny(RejectCode::KeyExpired);
    assert_eq!(table.decide(&snapshot, 2_000, &a, Action::SendMessage, &b, 0), expired);
    assert_eq!(table.decide(&snapshot, u64::MAX, &a, Action::SendMessage, &b, 0), expired);
}

#[test]
fn a_new_snapshot_voids_every_kept_answer_also_under_the_same_epoch() {
    let mut builder = world();
    let (a, b) = (agent("acme/a"), agent("acme/b"));
    let mut table = DecisionTable::new(64, u64::MAX);
    assert!(table.decide(&builder.build(1), NOW_MS, &a, Action::SendMessage, &b, 0).is_allowed());
    builder.set_state(&a, AgentState::Suspended);
    for epoch in [2, 1] {
        let answer = table.decide(&builder.build(epoch), NOW_MS, &a, Action::SendMessage, &b, 0);
        assert_eq!(answer, Decision::Deny(RejectCode::AgentSuspended));
    }
    assert_eq!((table.stats().hits, table.stats().invalidations), (0, 3));
}

#[test]
fn strangers_cannot_push_out_the_pairs_that_talk() {
    let (snapshot, a, b) = (world().build(1), agent("acme/a"), agent("acme/b"));
    let mut table = DecisionTable::new(4, u64::MAX);
    assert!(table.decide(&snapshot, NOW_MS, &a, Action::SendMessage, &b, 0).is_allowed());
    for made_up in 0..=255 {
        let answer = table.decide(&snapshot, NOW_MS, &a, Action::SendMessage, &AgentId([made_up; 16]), 0);
        assert_eq!(answer, Decision::Deny(RejectCode::UnknownRecipient));
    }
    assert!(table.decide(&snapshot, NOW_MS, &a, Action::SendMessage, &b, 0).is_allowed());
    assert_eq!((table.stats().hits, table.stats().evictions), (1, 0));
}

#[test]
fn a_full_place_gives_up_the_answer_that_lapses_first() {
    let (snapshot, a) = (world().build(1), agent("acme/a"));
    let recipients = ["acme/a", "acme/b", "acme/suspended", "acme/expired", "acme/early"].map(agent);
    let mut table = DecisionTable::new(4, 100);
    for (recipient, now_ms) in recipients.iter().zip(NOW_MS..) {
        assert!(table.decide(&snapshot, now_ms, &a, Action::SendMessage, recipient, 0).is_allowed());
    }
    assert_eq!(table.stats().evictions, 1);
    for recipient in recipients[1..].iter().chain(&recipients[..1]) {
        assert!(table.decide(&snapshot, NOW_MS + 5, &a, Action::SendMessage, recipient, 0).is_allowed());
    }
    assert_eq!((table.stats().hits, table.stats().evictions), (4, 2));
}

#[test]
fn a_table_without_room_still_answers() {
    let (snapshot, a, b) = (world().build(1), agent("acme/a"), agent("acme/b"));
    for entries_max in 0..4 {
        let mut table = DecisionTable::new(entries_max, u64::MAX);
        for _ in 0..3 {
            assert!(table.decide(&snapshot, NOW_MS, &a, Action::SendMessage, &b, 0).is_allowed());
        }
        assert_eq!((table.stats().hits, table.stats().misses), (0, 3));
    }
}

/// SplitMix64: the whole script follows from one seed.
struct Script(u64);

impl Script {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.next(from.len() as u64)).unwrap()]
    }
}

/// Runs a random sequence of requests, changes and clock steps, and compares every answer with a fresh evaluation.
fn differ(seed: u64) -> Result<u64, String> {
    let names = ["acme/a", "acme/b", "acme/c", "globex/d", "globex/e", "globex/f"];
    let topics = ["acme/one", "acme/two", "globex/three"];
    let mut script = Script(seed);
    let mut table = DecisionTable::new(script.pick(&[0, 4, 8, 64]), script.pick(&[0, 3, 50, 1_000, u64::MAX]));
    let mut builder = SnapshotBuilder::new();
    let mut snapshots = vec![Snapshot::empty()];
    let (mut current, mut epoch, mut now_ms) = (0, 0, 500);
    for step in 0..400 {
        match script.next(24) {
            0 => {
                let state = script.pick(&[AgentState::Active, AgentState::Suspended, AgentState::Revoked]);
                builder.set_state(&agent(script.pick(&names)), state);
            }
            1 | 2 => {
                let name = script.pick(&names);
                let older = builder.principal(&agent(name));
                let older = older.map(Principal::current);
                let version = older.map_or(1, |older| older.version + 1);
                let from_ms = script.next(1_000);
                let newer = record(name, version, from_ms..from_ms + script.next(500));
                let versions = older.into_iter().chain([KeyVersion::from(&newer.record)]).collect();
                let (domain, name) = (&newer.record.trust_domain, &newer.record.name);
                builder.insert_versions(domain, name, AgentState::Active, versions).unwrap();
            }
            3 => {
                builder.remove(&agent(script.pick(&names)));
            }
            4 => {
                builder.set_policy((script.next(3) > 0).then_some(Policy::SameOrganization));
            }
            // The same epoch twice happens only by a fault of the builder's owner; it must not matter.
            5 | 6 => {
                epoch += script.next(4).min(1) + u64::from(epoch == 0);
                snapshots.push(builder.build(epoch));
                current = snapshots.len() - 1;
            }
            7 => current = usize::try_from(script.next(snapshots.len() as u64)).unwrap(),
            8 => now_ms = script.next(1_500),
            9 => now_ms += script.next(20),
            10 | 11 => {
                let topic = channel(script.pick(&topics), 1);
                let known = snapshots[snapshots.len() - 1].channel(&topic.channel_id());
                let version = known.map_or(0, |known| known.record().version) + 1;
                // A version that is made twice, with other content, happens only by a fault of the builder's owner.
                builder.insert_channel(channels::some(&mut script, ChannelRecord { version, ..topic }, &names));
            }
            12 => {
                builder.remove_channel(&channel(script.pick(&topics), 1).channel_id());
            }
            _ => {
                let (sender, recipient) = (agent(script.pick(&names)), agent(script.pick(&names)));
                let (snapshot, action) =
                    (&snapshots[current], script.pick(&[&ACTIONS[..], &channels::ACTIONS].concat()));
                let recipient = match action.is_on_channel() {
                    true => Action::on_channel(&channel(script.pick(&topics), 1).channel_id()),
                    false => recipient,
                };
                let fresh = decide(snapshot, now_ms, &sender, action, &recipient, 0);
                let kept = table.decide(snapshot, now_ms, &sender, action, &recipient, 0);
                if kept != fresh {
                    return Err(format!("seed {seed}, step {step}: {action:?} is {fresh:?}, the table says {kept:?}"));
                }
            }
        }
    }
    Ok(table.stats().hits)
}

#[test]
fn a_kept_answer_is_the_fresh_answer_and_scripts_do_hit() {
    // A seed that failed: CRETO_SEED=123 cargo test -p creto-policy.
    let seeds = std::env::var("CRETO_SEED").map_or(0..300, |seed| {
        let seed = seed.parse().expect("CRETO_SEED is a number");
        seed..seed + 1
    });
    let hits: u64 = seeds.clone().map(|seed| differ(seed).unwrap_or_else(|difference| panic!("{difference}"))).sum();
    assert!(hits > 0 || seeds.end - seeds.start == 1, "vacuous: no answer came from the table");
}

proptest! {
    #[test]
    fn a_kept_answer_is_the_fresh_answer_for_any_seed(seed: u64) {
        differ(seed).map_err(TestCaseError::fail)?;
    }
}
