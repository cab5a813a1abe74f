//! How long it takes to replace an agent's encryption key, end to end: a node of its own, a real disk on both sides. From
//! making the new key, over its file, which is synced before anybody hears of the key, and its record, signed by the agent,
//! until the node has said that the record is durable and counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use creto_agent::raw::{RawConnection, RawStream};
use creto_agent::{AgentKeys, AgentName, TrustDomain};
use creto_envelope::control::{KeyRecordPublish, KeyRecordPublished, RotationMode};
use creto_envelope::{FrameType, RejectCode};
use creto_service::client::Client;

use super::on_a_node;
use crate::client::{connect_failure, control_failure, keys_failure};
use crate::exit::{Exit, Failure};
use crate::moment::now_ms;
use crate::verb::demo::probe::random;

const DAY_MS: u64 = 86_400_000;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Rotations before those that count.
const WARM_UP: u32 = 3;

/// The median of this many rotations, in milliseconds.
pub(crate) fn measure(samples: u32) -> Result<f64, Failure> {
    let mut took = Vec::new();
    on_a_node("creto-bench-", 1, false, async |host, _| {
        host.start().await?;
        let name = AgentName::parse("acme/planner").expect("a constant name");
        let (ed25519, ml_dsa_65) = (random()?, random()?);
        let make = |version| -> Result<AgentKeys, Failure> {
            let domain = TrustDomain::default();
            Ok(AgentKeys::from_seeds(name.clone(), domain, version, &ed25519, &ml_dsa_65, &random()?))
        };
        let sign = |keys: &AgentKeys| {
            let now_ms = now_ms();
            keys.signed_record(keys.record_version(), now_ms.saturating_sub(DAY_MS), now_ms + DAY_MS)
        };
        let first = Arc::new(make(1)?);
        let client = Client::new(host.control_socket());
        client.register(&sign(&first)).await.map_err(|error| control_failure(&error))?;
        let connection = RawConnection::connect(host.address(), &host.certificate(), CONNECT_WITHIN).await;
        let connection = connection.map_err(|error| connect_failure(&error))?;
        let (mut control, _) = connection.log_in(&first).await.map_err(|error| connect_failure(&error))?;
        for version in (2..).take((WARM_UP + samples) as usize) {
            let begun = Instant::now();
            let keys = make(version)?;
            keys.save(host.folder().join(format!("planner-{version}.keys"))).map_err(|error| keys_failure(&error))?;
            let publish = KeyRecordPublish { mode: RotationMode::Planned, record: sign(&keys) };
            let published = ask(&mut control, &publish).await?;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
            assert_eq!(published.version, version, "the node publishes what it was given");
        }
        connection.close();
        Ok(Exit::Ok)
    })?;
    let counted = took.get_mut(WARM_UP as usize..).unwrap_or_default();
    counted.sort_unstable_by(f64::total_cmp);
    let middle = counted.get(counted.len() / 2).copied();
    middle.ok_or_else(|| Failure::new(Exit::System, "the key was not replaced: the run was interrupted", ""))
}

async fn ask(control: &mut RawStream, publish: &KeyRecordPublish) -> Result<KeyRecordPublished, Failure> {
    let refused = |what: String| Failure::new(Exit::Refused, format!("the node did not replace the key: {what}"), "");
    let mut frame = Vec::new();
    publish.encode(&mut frame);
    control.send(frame).await.map_err(|error| refused(error.to_string()))?;
    let answer = control.next().await.map_err(|error| refused(error.to_string()))?;
    let answer = answer.ok_or_else(|| refused("it closed the stream".to_owned()))?;
    if answer.frame_type == FrameType::KeyRecordPublished as u8 {
        return KeyRecordPublished::parse(&answer.body).map_err(|code| refused(code.to_string()));
    }
    Err(refused(answer.reject_code().map_or("unknown", RejectCode::name).to_owned()))
}
