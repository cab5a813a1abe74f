//! Agents and policies that change, twice: as shards see them, and with policies that keep nothing between two questions.

use std::sync::Arc;

use creto_envelope::channel::{ChannelName, ChannelRecord, Publishing, Subscribing};
use creto_envelope::{AgentId, AgentName, AgentState, ChannelId, KeyRecord, TrustDomain};
use creto_policy::{
    Action, Answer, Attributes, Evaluation, Evaluator, KeyVersion, Policy, PolicySource, Principal, Question, Reads,
    Snapshot, SnapshotBuilder,
};
use creto_rego::{Agent, CompiledPolicy, EvaluationError, PolicySource as RegoSource, Request};
use creto_service::policy::RegoPolicy;

use crate::model::{self, Grant, POLICIES};

const ORGANIZATIONS: [&str; 3] = ["acme", "globex", "initech"];
const AGENTS: u64 = 12;
const TOPICS: [&str; 4] = ["acme/alerts.eu", "acme/plans", "globex/alerts", "initech/none"];

/// SplitMix64: everything follows from one seed.
pub(crate) struct Script(pub(crate) u64);

impl Script {
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.next(from.len() as u64)).expect("it is below the length")]
    }
}

/// Every policy, as shards have it, as it is without any memory, and in Rust.
pub(crate) struct Policies(Vec<(Arc<RegoPolicy>, Arc<Plain>, &'static Grant)>);

impl Policies {
    pub(crate) fn compile() -> Self {
        let compile = |(text, grant): &(&str, &'static Grant)| {
            let compiled = RegoSource::parse("p.rego", text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            let shards = Arc::new(RegoPolicy::new(compiled.clone(), text));
            (Arc::clone(&shards), Arc::new(Plain { compiled, shards }), *grant)
        };
        Self(POLICIES.iter().map(compile).collect())
    }
}

/// A policy that is asked with the whole request and an interpreter that never ran before.
#[derive(Debug)]
pub(crate) struct Plain {
    compiled: CompiledPolicy,
    shards: Arc<RegoPolicy>,
}

impl PolicySource for Plain {
    fn digest(&self) -> &[u8; 32] {
        self.shards.digest()
    }

    fn reads(&self) -> Reads {
        self.shards.reads()
    }

    fn evaluator(&self) -> Box<dyn Evaluator> {
        Box::new(PlainEvaluator(self.compiled.clone()))
    }
}

#[derive(Debug)]
struct PlainEvaluator(CompiledPolicy);

impl Evaluator for PlainEvaluator {
    fn evaluate(&mut self, question: &Question<'_>) -> Evaluation {
        let agent = |principal: &Principal| Agent {
            nhi: principal.name().to_string(),
            name: principal.name().to_string(),
            organization_id: principal.name().organization().to_owned(),
            kind: principal.attributes().agent_type().to_owned(),
            roles: principal.attributes().roles().to_vec(),
            capabilities: principal.attributes().capabilities().to_vec(),
        };
        let request = Request {
            sender: agent(question.sender),
            recipient: Some(agent(question.recipient)),
            action: match question.action {
                Action::SendMessage => creto_rego::Action::SendMessage,
                Action::Publish => creto_rego::Action::Publish,
                Action::SubscribeChannel => creto_rego::Action::Subscribe,
                _ => creto_rego::Action::ReadDirectory,
            },
            channel: question.channel.map(ToString::to_string),
            recent_messages: question.recent_messages,
        };
        let answer = match self.0.evaluate(&request) {
            Ok(verdict) if verdict.allow => {
                let said = verdict.obligations;
                Answer::Allow(creto_policy::Obligations {
                    messages_per_s: said.messages_per_s,
                    bytes_per_s: said.bytes_per_s,
                    size_max: said.size_max,
                    priorities: said.priorities.map_or_else(Default::default, |names| {
                        use creto_envelope::Priority::{Critical, High, Low, Normal};
                        names.into_iter().map(|name| [Low, Normal, High, Critical][name as usize]).collect()
                    }),
                })
            }
            Ok(_) => Answer::Deny,
            Err(EvaluationError::TooLong) => Answer::TooLong,
            Err(_) => Answer::Failed,
        };
        Evaluation { answer, took_us: 0 }
    }
}

/// Which policy is in force.
#[derive(Clone, Copy)]
enum Chosen {
    None,
    BuiltIn,
    FailOpen,
    Rego(&'static Grant),
}

pub(crate) struct World {
    kept: SnapshotBuilder,
    fresh: SnapshotBuilder,
    names: Vec<AgentName>,
    chosen: Chosen,
    published: Chosen,
    epoch: u64,
    pub(crate) now_ms: u64,
}

impl World {
    pub(crate) fn new(script: &mut Script, policies: &Policies) -> Self {
        let names = (0..AGENTS).map(|number| {
            let organization = ORGANIZATIONS[usize::try_from(number % 3).expect("three")];
            AgentName::parse(&format!("{organization}/{number}")).expect("a name")
        });
        let mut world = Self {
            kept: SnapshotBuilder::new(),
            fresh: SnapshotBuilder::new(),
            names: names.collect(),
            chosen: Chosen::None,
            published: Chosen::None,
            epoch: 1,
            now_ms: 5_000,
        };
        for number in 0..world.names.len() - 2 {
            world.register(number, 0..10_000);
            world.describe_agent(script, number);
        }
        for topic in &TOPICS[..3] {
            world.put_channel(script, topic);
        }
        world.choose(script, policies);
        world.published = world.chosen;
        world
    }

    pub(crate) fn snapshots(&self) -> (Snapshot, Snapshot) {
        (self.kept.build(self.epoch), self.fresh.build(self.epoch))
    }

    pub(crate) fn publish(&mut self) -> (Snapshot, Snapshot) {
        self.epoch += 1;
        self.published = self.chosen;
        self.snapshots()
    }

    /// The policy of the last snapshots, in Rust.
    pub(crate) fn published_policy(&self) -> Option<&'static Grant> {
        match self.published {
            Chosen::None => None,
            Chosen::BuiltIn => Some(&model::by_organization),
            Chosen::FailOpen => Some(&model::everything),
            Chosen::Rego(grant) => Some(grant),
        }
    }

    pub(crate) fn first(&self) -> AgentId {
        self.id(0)
    }

    /// One of another organization than the first.
    pub(crate) fn second(&self) -> AgentId {
        self.id(1)
    }

    pub(crate) fn pick(&self, script: &mut Script) -> AgentId {
        let number = usize::try_from(script.next(self.names.len() as u64)).expect("it is below the length");
        self.id(number)
    }

    /// Some channel, which may not be there.
    pub(crate) fn pick_channel(script: &mut Script) -> AgentId {
        let name = ChannelName::parse(script.pick(&TOPICS)).expect("a name");
        Action::on_channel(&ChannelId::derive(&TrustDomain::default(), &name))
    }

    pub(crate) fn describe(&self, sender: &AgentId, recipient: &AgentId) -> String {
        let one = |agent: &AgentId| {
            let known = self.fresh.principal(agent);
            let known = known.map(|known| (known.name().to_string(), known.state(), known.attributes()));
            format!("{known:?}")
        };
        format!("from {} to {}", one(sender), one(recipient))
    }

    /// Something changes.
    pub(crate) fn change(&mut self, script: &mut Script, policies: &Policies) {
        let number = usize::try_from(script.next(self.names.len() as u64)).expect("it is below the length");
        let agent = self.id(number);
        match script.next(15) {
            0 | 1 => self.choose(script, policies),
            2..=5 => self.describe_agent(script, number),
            6 | 7 => {
                let active = AgentState::Active;
                let state = script.pick(&[active, active, active, active, AgentState::Suspended, AgentState::Revoked]);
                self.both(|builder| builder.set_state(&agent, state));
            }
            8 => {
                let from_ms = script.next(4) / 3 * script.next(4_000);
                let some_ms = script.next(12_000);
                self.register(number, from_ms..from_ms + script.pick(&[12_000, 12_000, some_ms]));
            }
            9 if script.next(4) == 0 => self.both(|builder| builder.remove(&agent)),
            10 => self.now_ms = script.next(10_500),
            11..=13 => self.put_channel(script, TOPICS[number % TOPICS.len()]),
            _ => self.now_ms += script.next(60),
        }
    }

    /// Creates a channel, changes it, or deletes it.
    fn put_channel(&mut self, script: &mut Script, topic: &str) {
        let listed = |script: &mut Script, world: &Self| {
            let mut listed: Vec<_> = (0..script.next(5)).map(|_| world.pick(script)).collect();
            listed.sort_unstable();
            listed.dedup();
            listed
        };
        let subscribing = match script.next(6) {
            0 => Subscribing::Private,
            1 => Subscribing::AuthzRequired,
            2 => Subscribing::Allowlist(listed(script, self)),
            _ => Subscribing::Open,
        };
        let publishing = if script.next(3) > 0 { Publishing::Open } else { Publishing::Listed(listed(script, self)) };
        let record = ChannelRecord {
            version: 1,
            name: ChannelName::parse(topic).expect("a name"),
            trust_domain: TrustDomain::default(),
            owner: self.pick(script),
            owner_key_version: 1,
            signed_at_ms: 1,
            subscribing,
            publishing,
            has_history: false,
            is_deleted: script.next(8) == 0,
            retention_s: 60,
            messages_max: 1,
            bytes_max: 1,
            subscribers_max: 1,
        };
        self.both(|builder| builder.insert_channel(record.clone()));
    }

    fn id(&self, number: usize) -> AgentId {
        AgentId::derive(&TrustDomain::default(), &self.names[number])
    }

    fn both<T>(&mut self, change: impl Fn(&mut SnapshotBuilder) -> T) {
        change(&mut self.kept);
        change(&mut self.fresh);
    }

    fn choose(&mut self, script: &mut Script, Policies(policies): &Policies) {
        let (chosen, kept, fresh) = match script.next(20) {
            0 => (Chosen::None, None, None),
            1 => (Chosen::FailOpen, Some(Policy::FailOpen), Some(Policy::FailOpen)),
            2 | 3 => (Chosen::BuiltIn, Some(Policy::SameOrganization), Some(Policy::SameOrganization)),
            number => {
                let place = usize::try_from(number).expect("small") % policies.len();
                let (shards, plain, grant) = &policies[place];
                let shards: Arc<dyn PolicySource> = Arc::clone(shards) as _;
                (Chosen::Rego(*grant), Some(Policy::Loaded(shards)), Some(Policy::Loaded(Arc::clone(plain) as _)))
            }
        };
        self.chosen = chosen;
        self.kept.set_policy(kept);
        self.fresh.set_policy(fresh);
    }

    /// Gives an agent a type, roles and capabilities.
    fn describe_agent(&mut self, script: &mut Script, number: usize) {
        let agent = self.id(number);
        let some = |script: &mut Script, of: &[&'static str]| -> Vec<&'static str> {
            of.iter().copied().filter(|_| script.next(3) == 0).collect()
        };
        let roles = some(script, &["coordinator", "intern", "reader"]);
        let capabilities = some(script, &["agent", "worker", "plan"]);
        let attributes = Attributes::parse(script.pick(&["agent", "worker", "guest"]), roles, capabilities);
        let attributes = Arc::new(attributes.expect("plain texts"));
        self.both(|builder| builder.set_attributes(&agent, Arc::clone(&attributes)));
    }

    /// Registers an agent, or gives it its next key record.
    fn register(&mut self, number: usize, valid_ms: std::ops::Range<u64>) {
        let agent = self.id(number);
        let older = self.fresh.principal(&agent).map(Principal::current);
        let state = self.fresh.principal(&agent).map_or(AgentState::Active, Principal::state);
        let version = older.map_or(1, |older| older.version + 1);
        let pattern = version.to_le_bytes()[0];
        let newer = KeyRecord {
            version,
            state: AgentState::Active,
            valid_from_ms: valid_ms.start,
            valid_until_ms: valid_ms.end,
            ed25519: [pattern; 32],
            x25519: [pattern; 32],
            ml_dsa_65: Box::new([pattern; 1952]),
            ml_kem_768: Box::new([pattern; 1184]),
            name: self.names[number].clone(),
            trust_domain: TrustDomain::default(),
            fn_dsa_512: None,
            purpose: None,
        };
        let versions: Vec<_> = older.into_iter().chain([KeyVersion::from(&newer)]).collect();
        self.both(|builder| {
            let inserted = builder.insert_versions(&newer.trust_domain, &newer.name, state, versions.clone());
            inserted.expect("versions of one agent ascend")
        });
    }
}
