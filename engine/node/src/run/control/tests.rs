use std::time::Duration;

use creto_envelope::{AgentName, AgentState, KeyId};
use creto_policy::{KeyVersion, Policy, SnapshotBuilder};

use creto_service::link::Moment;

use super::*;

/// A directory with one agent, which is revoked in the second epoch.
fn snapshots() -> [Arc<Snapshot>; 2] {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    let version = KeyVersion {
        version: 1,
        key: KeyId([1; 16]),
        valid_from_ms: 0,
        valid_until_ms: u64::MAX,
        has_fn_dsa_512: false,
        replaced: None,
    };
    let name = AgentName::parse("acme/a").unwrap();
    let agent = builder.insert_versions(&TrustDomain::default(), &name, AgentState::Active, vec![version]).unwrap();
    let first = builder.build(1);
    builder.revoke(&agent, 5);
    [first, builder.build(2)].map(Arc::new)
}

fn is_lapsed(snapshot: Option<Arc<Snapshot>>, epoch: u64) -> bool {
    let snapshot = snapshot.expect("the shard is told something else than before");
    assert_eq!(snapshot.epoch(), epoch);
    snapshot.policy().is_none()
}

#[test]
fn after_an_outage_no_shard_goes_by_what_it_knew_before_it() {
    let lease = Lease::default();
    let confirm = |lasts: Duration| lease.confirm(Moment::now().plus(lasts));
    let [first, second] = snapshots();
    let mut shard = Linked::new(lease.clone());
    assert!(shard.look().is_none(), "it denies everything, as it did");
    lease.publish(first);
    assert!(is_lapsed(shard.look(), 1), "it is not confirmed");
    confirm(Duration::from_secs(3_600));
    assert!(!is_lapsed(shard.look(), 1));
    confirm(Duration::ZERO);
    assert!(is_lapsed(shard.look(), 1));
    // The link is back. Between any two steps of the link's thread the shard may look.
    let mut quick = Linked::new(lease.clone());
    assert!(is_lapsed(quick.look(), 1));
    lease.publish(second);
    assert!(is_lapsed(quick.look(), 2));
    confirm(Duration::from_secs(3_600));
    assert!(!is_lapsed(quick.look(), 2));
    // A shard that did not come round in all that time sees the newest, and nothing in between.
    assert!(!is_lapsed(shard.look(), 2));
    assert!(shard.look().is_none());
}
