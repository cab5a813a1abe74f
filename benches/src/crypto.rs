//! What cryptography costs on the way of a message: at its sender, on the node, at its recipient. `creto bench crypto`
//! prints these figures, the bench `documents` sets them beside those of the source documents.
//!
//! Everything is real: real keys, real batches of 1 KiB messages in real sessions; sender and recipient are the SDK's own
//! ends, the node is a shard's admission.
//! Each figure is the median of samples of some milliseconds each, after a warm-up, in CPU time of the calling thread: "per
//! second" is per second of one core's work.

pub mod median;
pub mod primitive;
pub mod station;

use std::hint::black_box;

use creto_crypto_accel::session::{Peers, ReceiveChain, SendChain};
use creto_sim::agents::SimAgent;

pub use median::Effort;
use station::{Admission, Recipient, Sender};

/// Payload of each message, in bytes.
pub const PAYLOAD_BYTES: usize = 1_024;

/// The figures, named as `creto bench crypto --json` names them.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Figures {
    /// Messages that one core takes from the application, seals in a session and signs per second, 256 to a batch: the
    /// outbox, key step, AES-256-GCM, leaf, tree, both signatures, the frame; a session's encapsulation every 1,000 messages.
    pub seal_n256_msgs_per_s: f64,
    /// The same with 64 to a batch.
    pub seal_n64_msgs_per_s: f64,
    /// One message alone, sealed suite: an encapsulation and both signatures for itself.
    pub seal_single_us: f64,
    /// Messages that one core of a node takes per second in batches of 256: decoded, verified, authorized.
    pub admit_n256_msgs_per_s: f64,
    /// Messages that one core verifies (the root from memory), opens and settles per second at their recipient.
    pub open_msgs_per_s: f64,
    /// CPU time of opening a session, both ends together.
    pub session_establish_us: f64,
    /// Replacing an agent's encryption key, until the node has acknowledged the new record. Measured with a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_ms: Option<f64>,
    /// One ML-DSA-65 signature.
    pub ml_dsa_sign_us: f64,
    /// One verification of it, with the key parsed.
    pub ml_dsa_verify_us: f64,
    /// Ed25519 verification of the roots of one turn, for each root.
    pub ed25519_batch_verify_us_per_signature: f64,
    /// One encapsulation as the path does it: X-Wing, which is ML-KEM-768 and X25519.
    pub kem_encaps_us: f64,
    /// What does the work.
    pub backend: String,
}

/// Measures everything but the rotation, which needs a node. Takes some seconds with [`Effort::FULL`].
#[must_use]
pub fn measure(effort: Effort) -> Figures {
    let (planner, executor) = (SimAgent::new("acme/planner", 1), SimAgent::new("acme/executor", 2));
    let mut sender = Sender::new(&planner, &executor);
    let mut seal = |batch_messages: usize| {
        let ns = effort.median_ns(|| {
            black_box(sender.batch(batch_messages));
        });
        batch_messages as f64 * 1e9 / ns
    };
    let (seal_n256_msgs_per_s, seal_n64_msgs_per_s) = (seal(256), seal(64));
    let seal_single_ns = effort.median_ns(|| {
        black_box(sender.single());
    });
    let primitives = primitive::measure(effort);
    Figures {
        seal_n256_msgs_per_s,
        seal_n64_msgs_per_s,
        seal_single_us: seal_single_ns / 1e3,
        admit_n256_msgs_per_s: Admission::new(&planner, &executor, 256).messages_per_s(effort),
        open_msgs_per_s: Recipient::new(&planner, &executor, 256).messages_per_s(effort),
        session_establish_us: session_establish_ns(effort, &planner, &executor) / 1e3,
        rotation_ms: None,
        ml_dsa_sign_us: primitives.ml_dsa_65_sign_ns / 1e3,
        ml_dsa_verify_us: primitives.ml_dsa_65_verify_ns / 1e3,
        ed25519_batch_verify_us_per_signature: primitives.ed25519_verify_ns / 1e3,
        kem_encaps_us: primitives.x_wing_encapsulate_ns / 1e3,
        backend: backend(),
    }
}

/// The sender encapsulates and derives the chain; the recipient checks the session id, decapsulates and derives it, too.
pub fn session_establish_ns(effort: Effort, from: &SimAgent, to: &SimAgent) -> f64 {
    let peers = Peers { sender: from.id.0, recipient: to.id.0, key_id: to.recipient_key().key_id() };
    effort.median_ns(|| {
        let (chain, wrapped_key) = SendChain::open(to.recipient_key(), &peers);
        let accepted = ReceiveChain::accept(to.recipient(), &peers, &chain.session_id(), &wrapped_key);
        black_box(accepted.expect("the chain was opened for this recipient"));
    })
}

/// The implementation of the path, and those instructions of this processor that it makes use of.
#[must_use]
pub fn backend() -> String {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("aes", std::arch::is_x86_feature_detected!("aes")),
        ("vaes", std::arch::is_x86_feature_detected!("vaes")),
        ("sha", std::arch::is_x86_feature_detected!("sha")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512ifma", std::arch::is_x86_feature_detected!("avx512ifma")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let features: [(&str, bool); 0] = [];
    let present: Vec<_> = features.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
    match present.is_empty() {
        true => "aws-lc".to_owned(),
        false => format!("aws-lc ({})", present.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_names_that_are_promised_and_are_positive() {
        let mut figures = measure(Effort::TRIAL);
        let names = |figures: &Figures| {
            let value = serde_json::to_value(figures).unwrap();
            let object = value.as_object().unwrap().clone();
            assert!(object.values().filter_map(serde_json::Value::as_f64).all(|figure| figure > 0.0), "{object:?}");
            let mut names: Vec<_> = object.keys().cloned().collect();
            names.sort();
            names
        };
        let without_node = [
            "admit_n256_msgs_per_s",
            "backend",
            "ed25519_batch_verify_us_per_signature",
            "kem_encaps_us",
            "ml_dsa_sign_us",
            "ml_dsa_verify_us",
            "open_msgs_per_s",
            "seal_n256_msgs_per_s",
            "seal_n64_msgs_per_s",
            "seal_single_us",
            "session_establish_us",
        ];
        assert_eq!(names(&figures), without_node);
        figures.rotation_ms = Some(1.0);
        let mut whole: Vec<_> =
            without_node.iter().map(ToString::to_string).chain(["rotation_ms".to_owned()]).collect();
        whole.sort();
        assert_eq!(names(&figures), whole);
    }
}
