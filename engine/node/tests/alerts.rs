//! What an operator should look at: each rule raises an alert on a real node when there was enough, and not before.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::sync::Arc;
use std::time::Duration;

use creto_agent::raw::{RawConnection, RawStream, seal_envelope, sign_batch, signed_batch_frame};
use creto_agent::{AgentKeys, RejectCode, TrustDomain};
use creto_audit::event::{Peer, Rule};
use creto_audit::{LogVerifier, What};
use creto_audit_store::{LogReader, export, keys, verify_export};
use creto_envelope::batch::encode_signed_batch;
use creto_envelope::control::StreamRole;
use creto_envelope::submit::SubmitAck;
use creto_envelope::{AgentId, AgentName, EnvelopeHeader, MessageId};
use creto_node::Node;
use creto_service::client::Client;
use creto_service::states::{StateChange, StateWord};
use home::{Home, now_ms, on_time};

/// Every rule raises an alert at three.
const LIMITS: &str = "topology.shards = 2\n[alerts]\nforged_signatures = 3\nreplays = 3\ndenials = 3\n\
                      login_failures = 3\nclock_skew = 3\nrevoked_keys = 3\n";
const HOUR_MS: u64 = 3_600_000;

struct World {
    home: Home,
    node: Node,
    planner: Arc<AgentKeys>,
    executor: Arc<AgentKeys>,
    stranger: Arc<AgentKeys>,
    gone: Arc<AgentKeys>,
    nobody: Arc<AgentKeys>,
}

impl World {
    async fn new() -> Self {
        let home = Home::new();
        let node = home.start_with(LIMITS);
        let register = async |name: &str| Arc::new(home.register(&node, name).await);
        let (planner, executor) = (register("acme/planner").await, register("acme/executor").await);
        let (stranger, gone) = (register("other/stranger").await, register("acme/gone").await);
        let name = AgentName::parse("acme/gone").unwrap();
        let change = StateChange { state: StateWord::Revoked, reason: None, since_ms: None };
        Client::new(node.control_socket()).set_state(&name, &change).await.unwrap();
        let nobody = AgentKeys::generate("acme/nobody".parse().unwrap(), TrustDomain::default()).unwrap();
        Self { home, node, planner, executor, stranger, gone, nobody: Arc::new(nobody) }
    }

    async fn connect(&self) -> RawConnection {
        let within = Duration::from_secs(10);
        RawConnection::connect(self.node.address(), &self.home.certificate, within).await.unwrap()
    }

    fn envelope(&self, to: &AgentKeys, id: MessageId) -> Vec<u8> {
        let header = EnvelopeHeader::sealed(self.planner.id(), to.id(), to.key_id(), id, now_ms(), 5).unwrap();
        seal_envelope(&header, &to.signed_record(1, 0, u64::MAX), b"hello").unwrap()
    }

    /// Has each rule see so much.
    async fn provoke(&self, times: u8) {
        let connection = self.connect().await;
        let _control = connection.log_in(&self.planner).await.unwrap();
        let mut submit = connection.open(StreamRole::Submit).await.unwrap();
        let mut sequence = 0;
        for number in 0..times {
            let id = MessageId::from_parts(now_ms(), [number; 10]);
            let good = self.envelope(&self.executor, id);
            let mut frame = |envelope: Vec<u8>| {
                sequence += 1;
                signed_batch_frame(&self.planner, sequence, &[envelope]).unwrap()
            };
            // A byte of the first signature, behind the frame's header and the batch's first fields.
            let mut forged = frame(good.clone());
            forged[16 + 72] ^= 1;
            check(&mut submit, forged, RejectCode::BadSignature).await;
            let replayed = frame(self.envelope(&self.executor, MessageId::from_parts(1, [number; 10])));
            check(&mut submit, replayed, RejectCode::OutsideDedupWindow).await;
            let denied = frame(self.envelope(&self.stranger, id));
            check(&mut submit, denied, RejectCode::PolicyDenied).await;
            sequence += 1;
            let late = batch_of(&self.planner, sequence, &good, now_ms() - 2 * HOUR_MS);
            check(&mut submit, late, RejectCode::SigningTime).await;
            for keys in [&self.nobody, &self.gone] {
                // A connection each: three failures end one.
                let refused = self.connect().await.log_in(keys).await;
                assert!(refused.is_err());
            }
        }
    }

    /// The alerts in the log of the node that has ended, verified from an export.
    async fn alerts(self) -> Vec<(Rule, AgentId, Peer, u32)> {
        let Self { home, node, .. } = self;
        tokio::task::spawn_blocking(move || node.stop().unwrap()).await.unwrap();
        let folder = home.path().join("data/audit");
        let mut file = Vec::new();
        export(&LogReader::open(&folder).unwrap(), &mut file, |_| true).unwrap();
        let verifier = LogVerifier::new(keys::load_public(&folder.join("audit.pub")).unwrap()).unwrap();
        let mut alerts = Vec::new();
        verify_export(&file[..], &verifier, None, |seen| {
            if let What::AlertRaised { agent, peer, count, threshold: 3, rule, .. } = seen.event.event.what {
                alerts.push((rule, agent, peer, count));
            }
        })
        .unwrap();
        alerts.sort_unstable();
        alerts
    }
}

async fn check(submit: &mut RawStream, frame: Vec<u8>, expect: RejectCode) {
    submit.send(frame).await.unwrap();
    let answer = submit.next().await.unwrap().unwrap();
    let ack = SubmitAck::parse(&answer.body).unwrap();
    let codes: Vec<_> = ack.results.iter().map(|result| RejectCode::from_u16(result.code).unwrap()).collect();
    assert_eq!(codes, [expect]);
}

/// A batch of one envelope that says it was signed at this time.
fn batch_of(keys: &AgentKeys, sequence: u64, envelope: &[u8], signed_at_ms: u64) -> Vec<u8> {
    let salt = [5; 16];
    let header = sign_batch(keys, [(&salt, envelope)], signed_at_ms);
    let mut frame = Vec::new();
    encode_signed_batch(&mut frame, sequence, &header, [(&salt, envelope)].into_iter()).unwrap();
    frame
}

#[test]
fn each_rule_raises_one_alert_at_its_threshold() {
    on_time(async {
        let world = World::new().await;
        world.provoke(3).await;
        let (planner, gone) = (world.planner.id(), world.gone.id());
        let (here, nowhere) = (Peer::from(std::net::IpAddr::from([127, 0, 0, 1])), Peer::default());
        let expected = [
            (Rule::ForgedSignatures, planner, here, 3),
            (Rule::Replays, planner, nowhere, 3),
            (Rule::Denials, planner, nowhere, 3),
            (Rule::LoginFailures, AgentId::ZERO, here, 3),
            (Rule::ClockSkew, planner, nowhere, 3),
            (Rule::RevokedKeys, gone, here, 3),
        ];
        assert_eq!(world.alerts().await, expected);
    });
}

#[test]
fn below_its_threshold_no_rule_raises_an_alert() {
    on_time(async {
        let world = World::new().await;
        world.provoke(2).await;
        assert_eq!(world.alerts().await, []);
    });
}
