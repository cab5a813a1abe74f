//! The seam: what a policy in Rego reads and says, as a shard sees it; what is in force after what became of its file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use creto_envelope::Priority;
use creto_policy::{Input, Obligations, Policy, PolicySource as _, Priorities, Snapshot};
use creto_rego::PolicySource;
use tokio::sync::{mpsc, oneshot};

use super::rego::bounds;
use super::{
    FAIL_OPEN, InForce, LoadError, NotReloaded, OnFailure, PolicyOptions, RegoPolicy, Reload, SAME_ORGANIZATION, follow,
};
use crate::directory::Directory;
use crate::health::Health;
use crate::service::Published;
use crate::storage::faulty;
use crate::telling::telling;
use crate::writer;

const POLICY: &str = "allow { input.sender.organization_id == input.recipient.organization_id }\n";

fn rego(text: &str) -> RegoPolicy {
    RegoPolicy::new(PolicySource::parse("p.rego", text).unwrap_or_else(|error| panic!("{error}")), text)
}

fn in_file(folder: &tempfile::TempDir, text: &str, on_failure: OnFailure) -> PolicyOptions {
    let file = folder.path().join("p.rego");
    std::fs::write(&file, text).unwrap();
    PolicyOptions { file: Some(file), on_failure }
}

#[test]
fn what_a_policy_reads_is_told_input_by_input() {
    let all = [Input::SenderNhi, Input::SenderCapabilities, Input::RecipientNhi, Input::Action, Input::RecentMessages];
    for (text, read) in [
        ("allow { input.action == \"publish\" }", &all[3..4]),
        ("allow { input.sender.nhi == \"a\"; input.recipient.nhi == \"b\" }", &[all[0], all[2]]),
        ("allow { count(recent_messages[input.sender.nhi]) < 3 }", &[all[0], all[4]]),
        ("allow { x := input.sender; x.type == \"a\" }", &all[..2]),
        ("allow { x := input; x.action == \"a\" }", &all[..]),
    ] {
        let reads = rego(text).reads();
        for input in all {
            assert_eq!(reads.has(input), read.contains(&input), "{input:?}: {text}");
        }
    }
}

#[test]
fn obligations_are_what_the_policy_says() {
    assert_eq!(bounds(&creto_rego::Obligations::default()), Obligations::NONE);
    let said = r#"{"messages_per_s": 5, "bytes_per_s": 6, "size_max": 7, "priorities": ["low", "critical"]}"#;
    let wanted = Obligations {
        messages_per_s: Some(5),
        bytes_per_s: Some(6),
        size_max: Some(7),
        priorities: Priorities::NONE.with(Priority::Low).with(Priority::Critical),
    };
    assert_eq!(bounds(&serde_json::from_str(said).unwrap()), wanted);
}

#[test]
fn without_a_file_one_organization_talks() {
    let (in_force, policy, _) = InForce::open(PolicyOptions::default(), 3).unwrap();
    assert!(matches!(policy, Policy::SameOrganization) && in_force.load().is_none());
    assert_eq!((in_force.info().name.as_str(), in_force.info().epoch), (SAME_ORGANIZATION, 3));
}

#[test]
fn a_node_does_not_start_with_a_policy_that_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = InForce::open(in_file(&folder, "allow {\n  input.sender.role\n}", OnFailure::Deny), 1).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("p.rego:2:3: there is no `input.sender.role`") && text.contains("did you mean"), "{text}");
    let missing = PolicyOptions { file: Some(PathBuf::from("/nowhere/p.rego")), on_failure: OnFailure::Deny };
    assert!(matches!(InForce::open(missing, 1), Err(LoadError::File { .. })));
    let large = in_file(&folder, &"#".repeat(1 << 20), OnFailure::Deny);
    assert!(matches!(InForce::open(large, 1), Err(LoadError::Refused { .. })));
    let file = folder.path().join("b.rego");
    std::fs::write(&file, [0xff]).unwrap();
    let binary = PolicyOptions { file: Some(file), on_failure: OnFailure::Deny };
    assert!(matches!(InForce::open(binary, 1), Err(LoadError::NotText(_))));
}

#[test]
fn the_door_stands_open_only_where_it_is_configured_and_until_there_is_a_policy() {
    let folder = tempfile::tempdir().unwrap();
    let options = in_file(&folder, "allow {", OnFailure::Allow);
    let (in_force, policy, failure) = InForce::open(options, 1).unwrap();
    assert!(failure.is_some());
    assert!(matches!(policy, Policy::FailOpen) && in_force.compiled().is_none());
    assert!(
        in_force.info().name == FAIL_OPEN && in_force.info().failure.is_some() && in_force.info().allows_on_failure
    );
    in_file(&folder, POLICY, OnFailure::Allow);
    let loaded = in_force.load().unwrap().unwrap();
    let info = in_force.replace(Arc::clone(&loaded), 2);
    assert!(info.name.ends_with("p.rego") && info.failure.is_none() && info.epoch == 2);
    assert_eq!(info.sha256.as_deref(), Some(loaded.digest_text().as_str()));
    in_file(&folder, "allow {", OnFailure::Allow);
    in_force.keep(&in_force.load().unwrap().unwrap_err());
    let info = in_force.info();
    assert!(info.name.ends_with("p.rego") && info.failure.is_some(), "the one before stays: {info:?}");
}

#[tokio::test]
async fn a_policy_that_could_not_be_put_into_force_is_tried_again_by_itself() {
    for fate_of_it in [faulty::DONE, faulty::NOT_DONE, faulty::AWAY] {
        let folder = tempfile::tempdir().unwrap();
        let (in_force, policy, _) = InForce::open(in_file(&folder, POLICY, OnFailure::Deny), 1).unwrap();
        let (storage, fate) = faulty::uncertain_storage();
        let mut directory = Directory::load(Arc::new(storage), 10, 1_000, 3_600, 5_000).unwrap();
        directory.set_policy(policy);
        let published = Published::new(directory.snapshot());
        let (changes, pending) = mpsc::channel(8);
        let (reloader, reloads) = mpsc::channel(1);
        let (teller, _telling) = telling();
        let sink = Box::new(|_: Arc<Snapshot>| {});
        let writing = tokio::spawn(writer::write(directory, sink, published.clone(), Health::default(), pending));
        fate.store(fate_of_it, Ordering::Relaxed);
        let other = "allow { input.action == \"send\" }\n";
        in_file(&folder, other, OnFailure::Deny);
        let following = tokio::spawn(follow(in_force.clone(), reloads, changes, teller));
        let (answer, answered) = oneshot::channel();
        reloader.send(Reload(Some(answer))).await.unwrap();
        let failed = answered.await.unwrap();
        assert!(matches!(failed, Err(NotReloaded::Storage)), "{failed:?}");
        fate.store(faulty::FINE, Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(30);
        let wanted = rego(other).digest_text();
        while in_force.info().sha256.as_ref() != Some(&wanted) {
            assert!(Instant::now() < until, "it is not tried again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let snapshot = published.newest();
        let Some(Policy::Loaded(loaded)) = snapshot.policy() else { panic!("{:?}", snapshot.policy()) };
        assert_eq!((loaded.digest(), snapshot.epoch()), (rego(other).digest(), in_force.info().epoch));
        drop(reloader);
        following.await.unwrap();
        writing.await.unwrap();
    }
}
