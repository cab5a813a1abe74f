//! Keys that agents replace, on a real node: control stream, directory on disk, every shard.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::sync::Arc;
use std::time::Duration;

use creto_agent::raw::{RawConnection, RawStream};
use creto_agent::{AgentKeys, Purpose, RejectCode, SignedKeyRecord};
use creto_envelope::FrameType;
use creto_envelope::control::{KeyRecordPublish, KeyRecordPublished, KeyRecordRequest, RotationMode};
use creto_node::Node;
use home::{Home, now_ms, on_time};

const WITHIN: Duration = Duration::from_secs(10);

/// Keys with the signing keys of `seed` and encryption keys that follow from `encryption`.
fn keys(seed: u8, encryption: u8, version: u32) -> Arc<AgentKeys> {
    let name = creto_agent::AgentName::parse("acme/executor").unwrap();
    let domain = creto_agent::TrustDomain::default();
    Arc::new(AgentKeys::from_seeds(name, domain, version, &[seed; 32], &[seed; 32], &[encryption; 32]))
}

fn record(keys: &AgentKeys) -> SignedKeyRecord {
    keys.signed_record(keys.record_version(), now_ms() - 1_000, now_ms() + 86_400_000)
}

/// The same, signed to replace the key of the version before it.
fn next(mode: RotationMode, keys: &AgentKeys) -> SignedKeyRecord {
    let valid_ms = now_ms() - 1_000..now_ms() + 86_400_000;
    keys.signed_record_for(Purpose::Rotation(mode), keys.record_version(), valid_ms)
}

async fn log_in(home: &Home, node: &Node, keys: &Arc<AgentKeys>) -> (RawConnection, RawStream) {
    let connection = RawConnection::connect(node.address(), &home.certificate, WITHIN).await.unwrap();
    let (control, _) = connection.log_in(keys).await.unwrap();
    (connection, control)
}

async fn publish(control: &mut RawStream, record: &SignedKeyRecord) -> Result<u32, RejectCode> {
    publish_as(control, RotationMode::Planned, record).await
}

async fn publish_as(control: &mut RawStream, mode: RotationMode, record: &SignedKeyRecord) -> Result<u32, RejectCode> {
    let mut frame = Vec::new();
    KeyRecordPublish { mode, record: record.clone() }.encode(&mut frame);
    control.send(frame).await.unwrap();
    let answer = control.next().await.unwrap().unwrap();
    if answer.frame_type == FrameType::KeyRecordPublished as u8 {
        return Ok(KeyRecordPublished::parse(&answer.body).unwrap().version);
    }
    Err(answer.reject_code().unwrap())
}

async fn current_version(control: &mut RawStream, keys: &AgentKeys) -> u32 {
    let mut frame = Vec::new();
    KeyRecordRequest { agent: keys.id(), version: 0 }.encode(&mut frame);
    control.send(frame).await.unwrap();
    SignedKeyRecord::parse(&control.next().await.unwrap().unwrap().body).unwrap().record.version
}

#[test]
fn a_published_key_is_the_current_one_and_stays_it_over_a_restart() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let (first, second, third) = (keys(1, 1, 1), keys(1, 2, 2), keys(1, 3, 3));
        creto_service::client::Client::new(node.control_socket()).register(&record(&first)).await.unwrap();
        let (_connection, mut control) = log_in(&home, &node, &first).await;
        assert_eq!(publish(&mut control, &next(RotationMode::Planned, &third)).await, Err(RejectCode::RotationVersion));
        assert_eq!(
            publish(&mut control, &next(RotationMode::Planned, &keys(9, 2, 2))).await,
            Err(RejectCode::RotationSigningKeys)
        );
        let planned = next(RotationMode::Planned, &second);
        let changed = publish_as(&mut control, RotationMode::Emergency, &planned).await;
        assert_eq!(changed, Err(RejectCode::RotationMode), "signed as planned, published as an emergency");
        assert_eq!(publish(&mut control, &record(&second)).await, Err(RejectCode::RotationMode), "signed for nothing");
        let published = planned;
        assert_eq!(publish(&mut control, &published).await, Ok(2));
        assert_eq!(publish(&mut control, &published).await, Ok(2), "again, as after a lost answer");
        // The answer came behind the snapshot, so the shard that gave it knows.
        assert_eq!(current_version(&mut control, &first).await, 2);
        node.stop().unwrap();

        let node = home.start();
        // With the version before and with the current one: the same agent.
        for keys in [&first, &second] {
            let (_connection, mut control) = log_in(&home, &node, keys).await;
            assert_eq!(current_version(&mut control, keys).await, 2);
        }
        let (_connection, mut control) = log_in(&home, &node, &first).await;
        assert_eq!(publish(&mut control, &next(RotationMode::Planned, &third)).await, Ok(3));
        let versions =
            creto_service::client::Client::new(node.control_socket()).keys(first.name()).await.unwrap().versions;
        let listed: Vec<_> = versions.iter().map(|v| (v.version, v.state.as_str())).collect();
        assert_eq!(listed, [(3, "current"), (2, "grace"), (1, "grace")]);
        node.stop().unwrap();
    });
}
