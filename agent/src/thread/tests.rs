use creto_envelope::envelope::EnvelopeHeader;
use creto_envelope::proof::ProofParts;
use creto_envelope::{AgentId, KeyId, TrustDomain};

use super::*;
use crate::AgentKeys;
use crate::raw::sign_batch;

const AT_MS: u64 = 1_790_000_000_000;
const SALT: [u8; 16] = [9; 16];
const ARTEFACT: [u8; 32] = [0xaf; 32];

fn keys(name: &str) -> AgentKeys {
    AgentKeys::generate(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap()
}

/// A message as its recipient keeps it.
#[derive(Clone)]
struct Exhibit {
    label: &'static str,
    proof: Vec<u8>,
    payload: Vec<u8>,
    hash: [u8; 32],
}

/// Two agents that talk, and one that does not belong there.
struct Scene {
    a: AgentKeys,
    b: AgentKeys,
    eve: AgentKeys,
    /// Counted up, so that message ids grow.
    now_ms: u64,
}

impl Scene {
    fn new() -> Self {
        Self { a: keys("acme/a"), b: keys("acme/b"), eve: keys("acme/eve"), now_ms: AT_MS }
    }

    fn say(
        &mut self,
        label: &'static str,
        from: fn(&Self) -> &AgentKeys,
        to: fn(&Self) -> &AgentKeys,
        message: TypedMessage,
    ) -> Exhibit {
        self.now_ms += 1;
        let (from, to) = (from(self), to(self).id());
        exhibit(label, from, to, &payload(&message), self.now_ms, None)
    }
}

fn payload(message: &TypedMessage) -> Vec<u8> {
    let TypedMessage { message_type, parent, handoff, content, .. } = message;
    let (message_type, parent, handoff) = (*message_type, *parent, *handoff);
    TypedPayload { message_type, blinding: [5; 32], parent, handoff, content }.to_bytes().unwrap()
}

/// A message with these ids, or those that its payload has. What is sealed in it nobody looks at.
fn exhibit(
    label: &'static str,
    from: &AgentKeys,
    to: AgentId,
    payload: &[u8],
    at_ms: u64,
    ids: Option<(MessageId, MessageId)>,
) -> Exhibit {
    let (message_id, correlation_id) = ids.unwrap_or_else(|| committed(payload, at_ms));
    let mut header = EnvelopeHeader::sealed(from.id(), to, KeyId([3; 16]), message_id, at_ms, payload.len()).unwrap();
    (header.kind, header.correlation_id) = (Kind::Direct as u8, correlation_id.0);
    let mut envelope = header.to_bytes().to_vec();
    envelope.resize(header.envelope_bytes(), label.as_bytes()[0]);
    let batch = sign_batch(from, [(&SALT, &envelope[..])], AT_MS);
    let parts = ProofParts {
        batch_header: &batch.to_bytes(),
        leaf_index: 0,
        salt: &SALT,
        path: &[],
        envelope: &envelope,
        key_record: &from.signed_record(1, AT_MS - 1_000, AT_MS + 1_000_000),
    };
    Exhibit { label, proof: parts.to_bytes(), payload: payload.to_vec(), hash: sha256(&[&envelope]) }
}

fn check(exhibits: &[&Exhibit]) -> Result<VerifiedThread, ThreadError> {
    let mut thread = Thread::new();
    for Exhibit { label, proof, payload, .. } in exhibits {
        thread.add(*label, proof, payload)?;
    }
    thread.verify()
}

/// The verdict, and about which message, whatever the order in which they are added.
fn refused(exhibits: &[&Exhibit]) -> (&'static str, String) {
    let error = check(exhibits).unwrap_err();
    let mut backwards = exhibits.to_vec();
    backwards.reverse();
    let again = check(&backwards).unwrap_err();
    assert_eq!(error, again, "the order in which messages are added says nothing");
    (error.code(), error.label().unwrap_or_default().to_owned())
}

fn labels(thread: &VerifiedThread) -> Vec<&str> {
    thread.messages.iter().map(|message| message.label.as_str()).collect()
}

/// A handoff: offered, taken, and two words about how it goes, the second behind the first.
fn handoff(scene: &mut Scene) -> [Exhibit; 4] {
    let offer = TypedMessage::new(MessageType::HandoffRequest, r#"{"work":"parser"}"#).handing_over(ARTEFACT);
    let offer = scene.say("offer", |s| &s.a, |s| &s.b, offer);
    let approval = TypedMessage::new(MessageType::HandoffApproval, "{}").handing_over(ARTEFACT).after(offer.hash);
    let approval = scene.say("approval", |s| &s.b, |s| &s.a, approval);
    let status = TypedMessage::new(MessageType::StatusUpdate, r#"{"done":0.5}"#).after(approval.hash);
    let status = scene.say("status", |s| &s.b, |s| &s.a, status);
    let gate = TypedMessage::new(MessageType::QualityGateResult, r#"{"passed":true}"#).after(status.hash);
    let gate = scene.say("gate", |s| &s.b, |s| &s.a, gate);
    [offer, approval, status, gate]
}

#[test]
fn a_conversation_holds_in_whatever_order_it_is_added() {
    let mut scene = Scene::new();
    let [offer, approval, status, gate] = handoff(&mut scene);
    let thread = check(&[&offer, &approval, &status, &gate]).unwrap();
    assert_eq!(labels(&thread), ["offer", "approval", "status", "gate"]);
    let first = &thread.messages[0];
    assert_eq!((first.sender.as_str(), first.message_type), ("acme/a", MessageType::HandoffRequest));
    assert_eq!((first.hash, first.parent, first.handoff), (offer.hash, None, Some(ARTEFACT)));
    assert_eq!((first.recipient_id, first.content_bytes), (scene.b.id(), 17));
    // What is there twice counts once.
    assert_eq!(check(&[&gate, &status, &offer, &gate, &approval]).unwrap(), thread);
    // A part of it is another thread.
    assert_ne!(check(&[&offer, &approval, &status]).unwrap().digest, thread.digest);
    // Several may follow the same message.
    let vote = |n: u8| TypedMessage::new(MessageType::ConsensusVote, vec![n]).after(gate.hash);
    let (one, two) = (scene.say("1", |s| &s.a, |s| &s.b, vote(1)), scene.say("2", |s| &s.b, |s| &s.a, vote(2)));
    let reply = TypedMessage::new(MessageType::StatusUpdate, "").after(one.hash);
    let reply = scene.say("reply", |s| &s.b, |s| &s.a, reply);
    let thread = check(&[&two, &reply, &one, &gate, &status, &approval, &offer]).unwrap();
    assert_eq!(labels(&thread), ["offer", "approval", "status", "gate", "1", "reply", "2"]);
}

#[test]
fn the_first_message_that_does_not_fit_is_named() {
    let mut scene = Scene::new();
    let [offer, approval, status, gate] = handoff(&mut scene);
    assert_eq!(refused(&[&offer, &status, &gate]), ("missing_parent", "status".to_owned()));
    assert_eq!(refused(&[&approval]), ("missing_parent", "approval".to_owned()));
    assert_eq!(check(&[]).unwrap_err().code(), "empty");
    let other = scene.say("other", |s| &s.a, |s| &s.b, TypedMessage::new(MessageType::SecurityAlert, "{}"));
    assert_eq!(refused(&[&offer, &approval, &other]), ("second_beginning", "other".to_owned()));
    // Somebody who has the hash from wherever.
    let meddling = TypedMessage::new(MessageType::StatusUpdate, "{}").after(status.hash);
    let meddling = scene.say("meddling", |s| &s.eve, |s| &s.a, meddling);
    assert_eq!(refused(&[&offer, &approval, &status, &meddling, &gate]), ("stranger", "meddling".to_owned()));
    // Another one of the same name.
    scene.b = keys("acme/b");
    let false_word = TypedMessage::new(MessageType::StatusUpdate, "{}").after(gate.hash);
    let false_word = scene.say("false word", |s| &s.b, |s| &s.a, false_word);
    assert_eq!(refused(&[&offer, &approval, &status, &gate, &false_word]), ("other_keys", "false word".to_owned()));
}

#[test]
fn a_handoff_is_approved_by_whoever_was_asked_for_what_was_handed_over_and_by_nobody_else() {
    let mut scene = Scene::new();
    let [offer, approval, ..] = handoff(&mut scene);
    let approves = |what: [u8; 32], parent: [u8; 32]| {
        TypedMessage::new(MessageType::HandoffApproval, "{}").handing_over(what).after(parent)
    };
    let of_other = scene.say("of another", |s| &s.b, |s| &s.a, approves([1; 32], offer.hash));
    assert_eq!(refused(&[&offer, &of_other]), ("handoff", "of another".to_owned()));
    let by_asker = scene.say("by the asker", |s| &s.a, |s| &s.b, approves(ARTEFACT, offer.hash));
    assert_eq!(refused(&[&offer, &by_asker]), ("handoff", "by the asker".to_owned()));
    let unasked = TypedMessage::new(MessageType::HandoffApproval, "{}").handing_over(ARTEFACT);
    let unasked = scene.say("unasked", |s| &s.b, |s| &s.a, unasked);
    assert_eq!(refused(&[&unasked]), ("handoff", "unasked".to_owned()));
    // Not at once, but asked before.
    let thinking = TypedMessage::new(MessageType::StatusUpdate, "thinking").after(offer.hash);
    let thinking = scene.say("thinking", |s| &s.b, |s| &s.a, thinking);
    let later = scene.say("later", |s| &s.b, |s| &s.a, approves(ARTEFACT, thinking.hash));
    assert_eq!(labels(&check(&[&offer, &thinking, &later, &approval]).unwrap()).len(), 4);
}

#[test]
fn a_payload_that_its_sender_did_not_sign_is_refused_whatever_bit_is_another() {
    let mut scene = Scene::new();
    let [offer, approval, ..] = handoff(&mut scene);
    let mut thread = Thread::new();
    for bit in 0..offer.payload.len() * 8 {
        let mut payload = offer.payload.clone();
        payload[bit / 8] ^= 1 << (bit % 8);
        let error = thread.add("changed", &offer.proof, &payload).unwrap_err();
        assert!(["not_committed", "not_typed"].contains(&error.code()), "bit {bit}: {error}");
    }
    assert_eq!(thread.add("exchanged", &offer.proof, &approval.payload).unwrap_err().code(), "not_committed");
    assert_eq!(thread.add("nothing", &offer.proof, b"{}").unwrap_err().code(), "not_typed");
    let mut proof = offer.proof.clone();
    *proof.last_mut().unwrap() ^= 1;
    let error = thread.add("broken", &proof, &offer.payload).unwrap_err();
    assert!(matches!(&error, ThreadError::Proof { .. }) && error.label() == Some("broken"), "{error}");
    assert_eq!(thread.verify().unwrap_err(), ThreadError::Empty, "nothing of it was added");
    // Every bit of both ids commits, but for the time and what a UUID fixes: 202 of them.
    let (message_id, correlation_id) = committed(&offer.payload, AT_MS);
    let holds = |message_id, correlation_id| is_committed(&offer.payload, message_id, Some(correlation_id));
    assert!(holds(message_id, correlation_id));
    let flipped = |id: MessageId, bit: usize| {
        let mut id = id;
        id.0[bit / 8] ^= 1 << (bit % 8);
        id
    };
    assert!((0..128).all(|bit| !holds(message_id, flipped(correlation_id, bit))));
    let free = (0..128).filter(|bit| holds(flipped(message_id, *bit), correlation_id)).count();
    assert_eq!(free, 48, "the time alone");
}

#[test]
fn two_envelopes_under_one_id_are_no_accident() {
    let mut scene = Scene::new();
    let [offer, approval, ..] = handoff(&mut scene);
    // The same payload sealed twice: another envelope, whose hash is another.
    let again = exhibit("twice", &scene.a, scene.b.id(), &offer.payload, AT_MS + 1, None);
    assert_ne!(again.hash, offer.hash);
    let error = check(&[&offer, &again, &approval]).unwrap_err();
    assert!(matches!(&error, ThreadError::SecondEnvelope { .. }), "{error}");
    // Not typed, though it holds: kinds other than direct are none, and ids that commit to nothing.
    let ids = Some((MessageId::from_parts(AT_MS, [7; 10]), MessageId::ZERO));
    let uncommitted = exhibit("free ids", &scene.a, scene.b.id(), &offer.payload, AT_MS, ids);
    assert_eq!(refused(&[&uncommitted]), ("not_committed", "free ids".to_owned()));
}

#[test]
fn a_thread_is_bounded() {
    let mut scene = Scene::new();
    let beginning = scene.say("beginning", |s| &s.a, |s| &s.b, TypedMessage::new(MessageType::TaskAssignment, "{}"));
    let mut thread = Thread::new();
    thread.add("beginning", &beginning.proof, &beginning.payload).unwrap();
    thread.fill_for_a_test(THREAD_MESSAGES_MAX);
    thread.add("known", &beginning.proof, &beginning.payload).unwrap();
    let more = scene.say("more", |s| &s.a, |s| &s.b, TypedMessage::new(MessageType::TaskAssignment, "{}"));
    assert_eq!(thread.add("more", &more.proof, &more.payload).unwrap_err(), ThreadError::TooMany);
}
