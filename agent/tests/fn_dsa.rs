//! Agents with a third signing key, against a real node in this process: what is signed, what is refused, what stays.

#![allow(clippy::unwrap_used, reason = "helper functions outside of a test count as code for the lint")]

#[path = "../../engine/node/tests/home/mod.rs"]
mod home;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use creto_agent::raw::{RawConnection, seal_envelope, signed_batch_frame};
use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, MessageId, RejectCode, TreeDigest, TrustDomain, proof};
use creto_envelope::control::StreamRole;
use creto_envelope::envelope::EnvelopeHeader;
use creto_envelope::submit::SubmitAck;
use creto_envelope::{FrameType, SignatureSuite};
use creto_node::Node;
use creto_service::client::Client;
use home::{Home, now_ms, on_time};

/// An agent with three signing keys in a file, registered.
async fn with_three_keys(home: &Home, node: &Node, name: &str) -> PathBuf {
    let keys = AgentKeys::generate_with_fn_dsa_512(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap();
    let path = home.path().join(name.replace('/', "-"));
    keys.save(&path).unwrap();
    let record = keys.signed_record(1, now_ms() - 1_000, now_ms() + 86_400_000);
    Client::new(node.control_socket()).register(&record).await.unwrap();
    path
}

/// The same keys without the third, as their file would be without it.
fn without_third(path: &Path) -> AgentKeys {
    use std::os::unix::fs::PermissionsExt;
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file.as_object_mut().unwrap().remove("fn_dsa_512_key").unwrap();
    let copy = path.with_extension("two");
    std::fs::write(&copy, file.to_string()).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600)).unwrap();
    AgentKeys::load(&copy).unwrap()
}

async fn connect(home: &Home, node: &Node, keys: impl Into<Arc<AgentKeys>>, digest: TreeDigest) -> Agent {
    let mut options = ConnectOptions::new(node.address(), home.certificate.clone(), keys);
    (options.tree_digest, options.keep_proofs) = (digest, true);
    Agent::connect(options).await.unwrap()
}

/// Sends one message and gives the suite under which it came.
async fn suite_of_one(sender: &Agent, receiver: &Agent, text: &str) -> SignatureSuite {
    sender.send(receiver.name(), text.to_owned()).await.unwrap();
    let delivery = receiver.receive().await.unwrap();
    assert_eq!(delivery.payload, text);
    let proven = proof::verify(delivery.proof().unwrap()).unwrap();
    delivery.ack();
    proven.signature_suite
}

async fn check_three_signatures(config: &str, digest: TreeDigest, expect: SignatureSuite) {
    let home = Home::new();
    let node = home.start_with(&format!("topology.shards = 2\n{config}"));
    let path = with_three_keys(&home, &node, "acme/a").await;
    let receiver = connect(&home, &node, home.register(&node, "acme/b").await, digest).await;
    let sender = connect(&home, &node, AgentKeys::load(&path).unwrap(), digest).await;
    assert_eq!(suite_of_one(&sender, &receiver, "three signatures").await, expect);

    let control = Client::new(node.control_socket());
    let id = sender.id();
    let before = control.key_record(id, 1).await.unwrap().record;
    assert_eq!(sender.rotate_keys().await.unwrap().version, 2);
    let after = control.key_record(id, 2).await.unwrap().record;
    assert_ne!(before.key_id(), after.key_id());
    assert!(after.fn_dsa_512.is_some() && before.fn_dsa_512 == after.fn_dsa_512, "a rotation keeps the third key");
    assert_eq!(suite_of_one(&sender, &receiver, "and after a rotation").await, expect);
    sender.close().await;

    let reloaded = AgentKeys::load(&path).unwrap();
    assert!(reloaded.has_fn_dsa_512() && reloaded.record_version() == 2);
    let sender = connect(&home, &node, reloaded, digest).await;
    assert_eq!(suite_of_one(&sender, &receiver, "and from the file").await, expect);
    // The other way: whoever has three keys reads what was signed with two.
    assert!(!suite_of_one(&receiver, &sender, "back").await.has_fn_dsa_512());
    sender.close().await;
    receiver.close().await;
    node.stop().unwrap();
}

#[test]
fn an_agent_with_three_keys_signs_suite_3_also_after_a_rotation_and_a_restart() {
    on_time(check_three_signatures("", TreeDigest::Sha256, SignatureSuite::TripleSha256));
}

#[test]
fn over_a_sha3_tree_it_signs_suite_4() {
    let config = "crypto.tree_digest = \"sha3-256\"\n";
    on_time(check_three_signatures(config, TreeDigest::Sha3_256, SignatureSuite::TripleSha3));
}

#[test]
fn a_batch_of_it_with_two_signatures_is_refused() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let path = with_three_keys(&home, &node, "acme/a").await;
        let to = home.register(&node, "acme/b").await;
        let two = Arc::new(without_third(&path));
        let connection =
            RawConnection::connect(node.address(), &home.certificate, Duration::from_secs(10)).await.unwrap();
        // A login is signed with two keys in every suite.
        let (_control, _) = connection.log_in(&two).await.unwrap();
        let mut submit = connection.open(StreamRole::Submit).await.unwrap();
        let mut codes = Vec::new();
        for (sequence, keys) in [(1, &*two), (2, &AgentKeys::load(&path).unwrap())] {
            let id = MessageId::from_parts(now_ms(), [u8::try_from(sequence).unwrap(); 10]);
            let header = EnvelopeHeader::sealed(two.id(), to.id(), to.key_id(), id, now_ms(), 5).unwrap();
            let envelope = seal_envelope(&header, &to.signed_record(1, 0, u64::MAX), b"hello").unwrap();
            submit.send(signed_batch_frame(keys, sequence, &[envelope]).unwrap()).await.unwrap();
            let frame = submit.next().await.unwrap().unwrap();
            assert_eq!(frame.frame_type, FrameType::SubmitAck as u8);
            let ack = SubmitAck::parse(&frame.body).unwrap();
            codes.push(ack.results.first().map(|result| RejectCode::from_u16(result.code).unwrap()));
        }
        assert_eq!(codes, [Some(RejectCode::BatchSuite), None], "with two signatures, then with three");
        connection.close();
        node.stop().unwrap();
    });
}
