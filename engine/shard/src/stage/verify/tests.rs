use creto_sim::agents::SimAgent;

use super::*;

#[test]
fn keys_are_those_of_the_record_and_no_older_ones() {
    let mut cache = KeyCache::default();
    // The same agent and version, as after a directory was made anew.
    let (first, second) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/planner", 2));
    let of_first = cache.get(&first.record).unwrap();
    assert!(Arc::ptr_eq(&of_first, &cache.get(&first.record).unwrap()), "they are parsed once");
    let of_second = cache.get(&second.record).unwrap();
    assert_ne!(of_first.fingerprint(), of_second.fingerprint());
    assert_eq!(cache.get(&first.record).unwrap().fingerprint(), of_first.fingerprint());
    // One key replaced and the other kept: still another record.
    let mut half = SignedKeyRecord::clone(&first.record);
    half.record.ml_dsa_65 = second.record.record.ml_dsa_65.clone();
    assert_ne!(cache.get(&half).unwrap().fingerprint(), of_first.fingerprint());
    assert_eq!(cache.0.len(), 1);
}

#[test]
fn the_oldest_keys_make_room() {
    let mut cache = KeyCache::default();
    let mut record = SignedKeyRecord::clone(&SimAgent::new("acme/planner", 1).record);
    let versions = 1..=u32::try_from(KEY_CACHE_ENTRIES).unwrap() + 3;
    for version in versions.clone() {
        record.record.version = version;
        cache.get(&record).unwrap();
    }
    let agent = record.record.agent_id();
    let kept: Vec<u32> = versions.filter(|version| cache.0.get(&(agent, *version)).is_some()).collect();
    assert_eq!((kept.len(), kept[0]), (KEY_CACHE_ENTRIES, 4));
}
