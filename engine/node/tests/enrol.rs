//! Enrolment over the network: a stranger with a token becomes an agent, and one without does not.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use std::sync::Arc;
use std::time::Duration;

use creto_agent::enrol::{EnrolError, Enrolment, EnrolmentToken, enrol};
use creto_agent::raw::RawConnection;
use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, RejectCode, TrustDomain};
use creto_envelope::FrameType;
use creto_envelope::control::StreamRole;
use creto_envelope::enrol::{Enrol, Enrolled};
use creto_node::Node;
use creto_service::client::Client;
use creto_service::tokens::TokenWanted;
use home::{Home, now_ms, on_time};
use tokio::task::JoinSet;

const WITHIN: Duration = Duration::from_secs(10);

fn keys(name: &str) -> Arc<AgentKeys> {
    Arc::new(AgentKeys::generate(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap())
}

async fn token(node: &Node, organization: &str, name: Option<&str>, uses: u32) -> EnrolmentToken {
    let wanted =
        TokenWanted { organization: organization.into(), name: name.map(str::to_owned), expires_in_s: 60, uses };
    let made = Client::new(node.control_socket()).make_token(&wanted).await.unwrap();
    EnrolmentToken::parse(&made.token).unwrap()
}

struct World {
    home: Home,
    node: Node,
}

impl World {
    fn new() -> Self {
        let home = Home::new();
        let node = home.start();
        Self { home, node }
    }

    async fn enrol(&self, keys: &Arc<AgentKeys>, token: &EnrolmentToken) -> Result<Enrolment, EnrolError> {
        let valid_ms = now_ms() - 1_000..now_ms() + 86_400_000;
        enrol(self.node.address(), &self.home.certificate, keys, valid_ms, token, WITHIN).await
    }

    async fn refused(&self, keys: &Arc<AgentKeys>, token: &EnrolmentToken) -> &'static str {
        self.enrol(keys, token).await.unwrap_err().code().unwrap()
    }
}

#[test]
fn a_stranger_with_a_token_is_an_agent_at_once_and_the_token_is_used() {
    on_time(async {
        let world = World::new();
        let token = token(&world.node, "acme", None, 1).await;
        let (new, other) = (keys("acme/new"), keys("acme/other"));
        assert_eq!(world.enrol(&new, &token).await.unwrap(), Enrolment::Created);
        // On whichever shard: all know it when the answer is there.
        for _ in 0..4 {
            let options = ConnectOptions::new(world.node.address(), world.home.certificate.clone(), Arc::clone(&new));
            let agent = Agent::connect(options).await.unwrap();
            agent.send(new.name(), "to myself").await.unwrap();
            agent.close().await;
        }
        assert_eq!(world.refused(&other, &token).await, "token_used");
        // Whoever lost the answer asks again, with another validity and so another record.
        assert_eq!(world.enrol(&new, &token).await.unwrap(), Enrolment::Known);
        // Somebody else's keys under that name are not it.
        assert_eq!(world.refused(&keys("acme/new"), &token).await, "name_taken");
        let agents = Client::new(world.node.control_socket()).agents(None).await.unwrap();
        assert_eq!(agents.iter().map(|agent| &agent.name[..]).collect::<Vec<_>>(), ["acme/new"]);
        world.node.stop().unwrap();
    });
}

#[test]
fn without_a_good_token_nobody_is_registered_though_the_socket_asks_for_none() {
    on_time(async {
        let world = World::new();
        let forged = EnrolmentToken::new([0x5a; 32].into());
        assert_eq!(world.refused(&keys("acme/new"), &forged).await, "token_unknown");
        // Also of names that are there: nobody asks for those without a token for them.
        let other = token(&world.node, "other", None, 2).await;
        let there = keys("other/there");
        world.enrol(&there, &other).await.unwrap();
        for name in ["other/there", "other/gone"] {
            assert_eq!(world.refused(&keys(name), &forged).await, "token_unknown");
        }
        let elsewhere = token(&world.node, "acme", None, 1).await;
        for name in ["other/there", "other/gone"] {
            assert_eq!(world.refused(&keys(name), &elsewhere).await, "token_scope");
        }
        let for_one = token(&world.node, "acme", Some("acme/planner"), 1).await;
        assert_eq!(world.refused(&keys("acme/new"), &for_one).await, "token_scope");
        assert_eq!(world.refused(&keys("other/planner"), &for_one).await, "token_scope");
        let elsewhere = AgentName::parse("acme/planner").unwrap();
        let elsewhere = AgentKeys::generate(elsewhere, TrustDomain::parse("other.org").unwrap()).unwrap();
        assert_eq!(world.refused(&Arc::new(elsewhere), &for_one).await, "trust_domain");
        let planner = keys("acme/planner");
        let (node, certificate) = (world.node.address(), &world.home.certificate);
        let over = enrol(node, certificate, &planner, 1_000..2_000, &for_one, WITHIN).await;
        assert_eq!(over.unwrap_err().code(), Some("validity"));
        assert_eq!(Client::new(world.node.control_socket()).agents(None).await.unwrap().len(), 1);
        // None of that has used it up.
        assert_eq!(world.enrol(&planner, &for_one).await.unwrap(), Enrolment::Created);
        world.node.stop().unwrap();
    });
}

/// Events of these kinds, once as many are in the audit log as are waited for.
async fn audited(node: &Node, kinds: &[&str], count: usize) -> Vec<serde_json::Value> {
    let client = Client::new(node.control_socket());
    for _ in 0..1_000 {
        let page = client.audit_events(0, 1_000).await.unwrap();
        let of_kind = |event: &serde_json::Value| kinds.iter().any(|kind| event["kind"] == *kind);
        let found: Vec<_> = page.events.into_iter().filter(of_kind).collect();
        if found.len() >= count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("there never were {count} events of {kinds:?}");
}

#[test]
fn the_audit_log_says_who_came_with_which_token_and_from_where() {
    on_time(async {
        let world = World::new();
        let token = token(&world.node, "acme", None, 1).await;
        let new = keys("acme/new");
        world.refused(&keys("other/new"), &token).await;
        world.enrol(&new, &token).await.unwrap();
        let kinds = ["token_issued", "enrolment_refused", "agent_registered", "token_used"];
        let events = audited(&world.node, &kinds, 4).await;
        let one = |kind: &str| {
            let found: Vec<_> = events.iter().filter(|event| event["kind"] == *kind).collect();
            assert_eq!(found.len(), 1, "{kind}: {events:?}");
            found[0].clone()
        };
        let (issued, refused) = (one("token_issued"), one("enrolment_refused"));
        assert_eq!((&refused["token"], &refused["peer"]), (&issued["token"], &"127.0.0.1".into()), "{refused}");
        assert_eq!(
            (&refused["code"]["name"], &refused["text"]),
            (&"token_scope".into(), &"other/new".into()),
            "{refused}"
        );
        let registered = one("agent_registered");
        assert_eq!((&registered["agent"], &registered["actor"]), (&new.id().to_string().into(), &registered["agent"]));
        assert_eq!(one("token_used")["token"], issued["token"]);
        world.node.stop().unwrap();
    });
}

#[test]
fn a_revoked_name_is_never_registered_again() {
    on_time(async {
        let world = World::new();
        let (gone, token) = (keys("acme/gone"), token(&world.node, "acme", None, 5).await);
        world.enrol(&gone, &token).await.unwrap();
        let change = serde_json::from_str(r#"{"state":"revoked"}"#).unwrap();
        Client::new(world.node.control_socket()).set_state(gone.name(), &change).await.unwrap();
        assert_eq!(world.refused(&gone, &token).await, "agent_revoked");
        assert_eq!(world.refused(&keys("acme/gone"), &token).await, "agent_revoked");
        world.node.stop().unwrap();
    });
}

#[test]
fn a_hundred_strangers_at_once_get_no_more_than_the_token_has_uses() {
    on_time(async {
        let world = World::new();
        let token = Arc::new(token(&world.node, "acme", None, 60).await);
        let all: Vec<_> = (0..100).map(|number| keys(&format!("acme/a{number}"))).collect();
        let mut created = 0;
        for wave in all.chunks(25) {
            let asked = wave.iter().cloned().map(|keys| {
                let (node, certificate) = (world.node.address(), world.home.certificate.clone());
                let (token, valid_ms) = (Arc::clone(&token), now_ms() - 1_000..now_ms() + 86_400_000);
                async move { enrol(node, &certificate, &keys, valid_ms, &token, WITHIN).await }
            });
            for answer in asked.collect::<JoinSet<_>>().join_all().await {
                match answer {
                    Ok(enrolment) => {
                        assert_eq!(enrolment, Enrolment::Created);
                        created += 1;
                    }
                    Err(error) => assert_eq!(error.code(), Some("token_used"), "{error}"),
                }
            }
        }
        assert_eq!(created, 60);
        world.node.stop().unwrap();
    });
}

#[test]
fn whoever_may_not_log_in_yet_enrols_and_logs_in_on_one_connection() {
    on_time(async {
        let world = World::new();
        let (new, token) = (keys("acme/new"), token(&world.node, "acme", None, 1).await);
        let raw = RawConnection::connect(world.node.address(), &world.home.certificate, WITHIN).await.unwrap();
        let mut control = raw.open(StreamRole::Control).await.unwrap();
        let login = raw.login(&new).await.unwrap();
        let mut frames = Vec::new();
        login.encode(&mut frames);
        control.send(frames).await.unwrap();
        let refused = control.next().await.unwrap().unwrap();
        assert_eq!(refused.reject_code(), Some(RejectCode::LoginUnknownAgent));
        let mut frames = Vec::new();
        let record = new.enrolment_record(&token, now_ms() - 1_000..now_ms() + 86_400_000);
        Enrol { token: token.expose(), record }.encode(&mut frames);
        control.send(frames).await.unwrap();
        let enrolled = control.next().await.unwrap().unwrap();
        assert_eq!(enrolled.frame_type, FrameType::Enrolled as u8);
        assert_eq!(Enrolled::parse(&enrolled.body), Ok(Enrolled::Created));
        let mut frames = Vec::new();
        login.encode(&mut frames);
        control.send(frames).await.unwrap();
        assert_eq!(control.next().await.unwrap().unwrap().frame_type, FrameType::LoginAccepted as u8);
        world.node.stop().unwrap();
    });
}

#[test]
fn keys_that_are_behind_are_told_apart_from_those_of_somebody_else() {
    on_time(async {
        let world = World::new();
        let token = token(&world.node, "acme", None, 1).await;
        let path = world.home.path().join("planner.keys");
        let made = AgentKeys::generate(AgentName::parse("acme/planner").unwrap(), TrustDomain::default()).unwrap();
        made.save(&path).unwrap();
        let old = Arc::new(AgentKeys::load(&path).unwrap());
        std::fs::copy(&path, world.home.path().join("old.keys")).unwrap();
        world.enrol(&old, &token).await.unwrap();
        let options = ConnectOptions::new(world.node.address(), world.home.certificate.clone(), Arc::clone(&old));
        let agent = Agent::connect(options).await.unwrap();
        agent.rotate_keys().await.unwrap();
        agent.close().await;
        let behind = Arc::new(AgentKeys::load(world.home.path().join("old.keys")).unwrap());
        let refused = world.enrol(&behind, &token).await.unwrap_err();
        assert!(matches!(refused, EnrolError::OtherKey), "{refused}");
        world.node.stop().unwrap();
    });
}
