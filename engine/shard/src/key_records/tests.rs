use creto_sim::agents::SimAgent;

use super::*;

fn record() -> Arc<SignedKeyRecord> {
    SimAgent::new("acme/planner", 1).record
}

const NOW: Now = Now { unix_ms: 0, monotonic_us: 5 };

#[test]
fn control_is_asked_by_the_first_who_waits_and_again_after_its_answer() {
    let (mut records, place, record) = (KeyRecords::default(), (AgentId([1; 16]), 1), record());
    let [a, b] = [ConnectionId(1), ConnectionId(2)];
    assert!(records.wait(NOW, place, a) && !records.wait(NOW, place, a));
    assert!(!records.wait(NOW, place, b) && !records.wait(NOW, place, b));
    assert!(records.wait(NOW, (place.0, 2), a), "another version is another record");
    assert_eq!(records.answered(place, None), [a, b]);
    assert!(records.get(place).is_none() && records.wait(NOW, place, b), "nothing came, so it is asked for again");
    assert_eq!(records.answered(place, Some(&record)), [b]);
    assert_eq!(records.answered(place, Some(&record)), [], "an answer that comes too late is for nobody");
    assert!(records.get(place).is_some());
}

#[test]
fn the_oldest_records_make_room() {
    let (mut records, record) = (KeyRecords::default(), record());
    let agent = AgentId([1; 16]);
    let versions = 1..=u32::try_from(KEY_RECORDS_KEPT_MAX).unwrap() + 3;
    for version in versions.clone() {
        records.wait(NOW, (agent, version), ConnectionId(1));
        records.answered((agent, version), Some(&record));
    }
    let kept: Vec<_> = versions.filter(|version| records.get((agent, *version)).is_some()).collect();
    assert_eq!((kept.len(), kept[0]), (KEY_RECORDS_KEPT_MAX, 4));
    assert!(records.waiting.is_empty());
}
