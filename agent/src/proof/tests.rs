//! A proof holds as it was written, for nothing else, and alone.

use creto_crypto_accel::merkle::{Tree, leaf_hash};
use creto_envelope::EnvelopeHeader;
use creto_envelope::proof::{PROOF_HEADER_BYTES, ProofParts, ProofView};
use creto_envelope::{BatchHeader, SignedKeyRecord};

use super::*;
use crate::AgentKeys;
use crate::raw::sign_batch;

const SIGNED_AT_MS: u64 = 1_790_000_000_000;

fn golden() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../envelope/golden/proof-1.hex");
    let text = std::fs::read_to_string(path).unwrap();
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

/// A sender, and a signed batch of messages to somebody.
struct Signed {
    keys: AgentKeys,
    record: SignedKeyRecord,
    header: BatchHeader,
    tree: Tree,
    envelopes: Vec<Vec<u8>>,
}

const SALT: [u8; 16] = [9; 16];

impl Signed {
    fn new(count: u8) -> Self {
        Self::of(0..count)
    }

    fn of(numbers: std::ops::Range<u8>) -> Self {
        let keys = AgentKeys::generate(AgentName::parse("acme/planner").unwrap(), TrustDomain::default()).unwrap();
        let envelopes: Vec<_> = numbers.map(|number| envelope(keys.id(), number)).collect();
        let header = sign_batch(&keys, envelopes.iter().map(|bytes| (&SALT, &bytes[..])), SIGNED_AT_MS);
        let mut tree = Tree::new();
        tree.rebuild(&envelopes.iter().map(|bytes| leaf_hash(&SALT, bytes)).collect::<Vec<_>>());
        let record = keys.signed_record(1, SIGNED_AT_MS - 1_000, SIGNED_AT_MS + 1_000);
        Self { keys, record, header, tree, envelopes }
    }

    fn proof(&self, index: u32) -> Vec<u8> {
        self.proof_with(index, index, &self.record, &self.header)
    }

    /// The envelope at `index` under the path of the leaf at `leaf_index`.
    fn proof_with(&self, index: u32, leaf_index: u32, record: &SignedKeyRecord, header: &BatchHeader) -> Vec<u8> {
        let mut path = Vec::new();
        self.tree.path(leaf_index, &mut path);
        let parts = ProofParts {
            batch_header: &header.to_bytes(),
            leaf_index,
            salt: &SALT,
            path: path.as_flattened(),
            envelope: &self.envelopes[index as usize],
            key_record: record,
        };
        parts.to_bytes()
    }
}

/// Sealed to nobody: a proof does not ask what is inside.
fn envelope(sender: AgentId, number: u8) -> Vec<u8> {
    let id = MessageId::from_parts(SIGNED_AT_MS, [number; 10]);
    let header =
        EnvelopeHeader::sealed(sender, AgentId([2; 16]), KeyId([3; 16]), id, SIGNED_AT_MS, usize::from(number))
            .unwrap();
    let mut bytes = header.to_bytes().to_vec();
    bytes.resize(header.envelope_bytes(), number);
    bytes
}

#[test]
fn a_proof_says_who_signed_what() {
    let proven = verify(&golden()).unwrap();
    assert_eq!(proven.sender.as_str(), "acme/planner");
    assert_eq!(proven.sender_id.to_string(), "54e3244d15f3af9d1e39c702dce7b6f8");
    assert_eq!((proven.signed_at_ms, proven.timestamp_ms), (1_767_225_601_010, proven.message_id.unix_ms()));
    assert_eq!((proven.kind, proven.priority), (Kind::Request, Priority::High));
    assert_eq!((proven.leaf_index, proven.tree_size), (1, 3));
}

#[test]
fn every_message_of_a_batch_has_a_proof() {
    for count in [1, 2, 3, 5, 8] {
        let signed = Signed::new(count);
        for index in 0..u32::from(count) {
            let proven = verify(&signed.proof(index)).unwrap();
            assert_eq!((proven.leaf_index, proven.tree_size), (index, u32::from(count)));
        }
    }
}

/// Not one bit of the file can be changed: it is counted, signed, hashed under what is signed, or must be zero. Inside of
/// the two ML-DSA signatures one bit of each byte is flipped: those take the longest to refuse.
#[test]
fn a_proof_with_any_bit_flipped_is_refused() {
    let whole = golden();
    verify(&whole).unwrap();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for part in 0..threads {
            let mut proof = whole.clone();
            scope.spawn(move || {
                let last = proof.len() - 4;
                let long = [PROOF_HEADER_BYTES + 136..PROOF_HEADER_BYTES + 136 + 3_309, last - 3_309..last];
                for at in (part..proof.len()).step_by(threads) {
                    let bits = if long.iter().any(|range| range.contains(&at)) { at % 8..at % 8 + 1 } else { 0..8 };
                    for bit in bits {
                        proof[at] ^= 1 << bit;
                        assert!(verify(&proof).is_err(), "byte {at}, bit {bit} is not held by anything");
                        proof[at] ^= 1 << bit;
                    }
                }
            });
        }
    });
}

#[test]
fn a_proof_of_one_message_does_not_prove_another() {
    let signed = Signed::new(5);
    for index in 0..5 {
        for leaf_index in (0..5).filter(|leaf_index| *leaf_index != index) {
            let proof = signed.proof_with(index, leaf_index, &signed.record, &signed.header);
            assert_eq!(verify(&proof), Err(ProofError::Root), "message {index} as {leaf_index}");
        }
    }
    let other = Signed::of(5..10);
    let proof = other.proof_with(0, 0, &signed.record, &signed.header);
    assert_eq!(verify(&proof), Err(ProofError::Root), "an envelope of another batch");
}

#[test]
fn what_does_not_belong_together_is_named() {
    let signed = Signed::new(2);
    let (stranger, namesake) =
        (AgentKeys::generate(AgentName::parse("acme/other").unwrap(), TrustDomain::default()), {
            AgentKeys::generate(AgentName::parse("acme/planner").unwrap(), TrustDomain::default())
        });
    let (from, until) = (SIGNED_AT_MS - 1_000, SIGNED_AT_MS + 1_000);
    let check = |record: &SignedKeyRecord, header: &BatchHeader, expect: &str| {
        let error = verify(&signed.proof_with(0, 0, record, header)).unwrap_err();
        assert_eq!(error.code(), expect, "{error}");
    };
    check(&stranger.unwrap().signed_record(1, from, until), &signed.header, "other_key_record");
    let namesake = namesake.unwrap();
    check(&namesake.signed_record(2, from, until), &signed.header, "other_key_record_version");
    check(&namesake.signed_record(1, from, until), &signed.header, "batch_signature");
    let mut record = signed.record.clone();
    record.record.valid_until_ms += 1;
    check(&record, &signed.header, "key_record_signature");

    let mut header = signed.header.clone();
    header.signed_at_ms += 1;
    check(&signed.record, &header, "batch_signature");
    header.signed_at_ms = until;
    check(&signed.record, &header, "validity");
    header.signed_at_ms = from - 1;
    check(&signed.record, &header, "validity");
    let mut header = signed.header.clone();
    header.tree_size = 3;
    check(&signed.record, &header, "path");
    let mut header = signed.header.clone();
    header.root[0] ^= 1;
    check(&signed.record, &header, "root");
    let mut weak = signed.record.clone();
    weak.record.ed25519 = [0; 32];
    check(&weak, &signed.header, "weak_key");
}

#[test]
fn an_envelope_of_another_sender_is_refused_even_under_a_signed_root() {
    let mut signed = Signed::new(1);
    let keys = AgentKeys::generate(AgentName::parse("acme/planner").unwrap(), TrustDomain::default()).unwrap();
    signed.envelopes = vec![envelope(AgentId([1; 16]), 0)];
    signed.header = sign_batch(&keys, [(&SALT, &signed.envelopes[0][..])], SIGNED_AT_MS);
    signed.record = keys.signed_record(1, SIGNED_AT_MS, SIGNED_AT_MS + 1);
    assert_eq!(verify(&signed.proof(0)), Err(ProofError::OtherSender));
}

#[test]
fn a_file_that_is_no_proof_is_refused_with_a_reason() {
    for (file, code) in [(&b""[..], "not_a_proof"), (b"hello", "not_a_proof"), (b"CRETOPRF", "truncated")] {
        assert_eq!(verify(file).unwrap_err().code(), code);
    }
    let mut later = golden();
    later[8] = 2;
    assert_eq!(verify(&later).unwrap_err().code(), "version");
}

/// Whoever knows an encryption key, and everybody does, can put it into a record of their own: what tells two signers
/// apart is the fingerprint of their signing keys.
#[test]
fn a_stolen_name_and_key_id_do_not_give_the_fingerprint() {
    let honest = Signed::new(1);
    let mut thief = Signed::new(1);
    let stolen = &mut thief.record;
    stolen.record.x25519 = honest.record.record.x25519;
    stolen.record.ml_kem_768 = honest.record.record.ml_kem_768.clone();
    let signature = thief.keys.sign(&stolen.record.signed_bytes());
    (stolen.ed25519, stolen.ml_dsa_65) = (signature.ed25519, signature.ml_dsa_65);
    let [honest, thief] = [honest.proof(0), thief.proof(0)].map(|proof| verify(&proof).unwrap());
    assert_eq!((thief.sender, thief.sender_id, thief.key_id), (honest.sender, honest.sender_id, honest.key_id));
    assert_ne!(thief.signing_fingerprint, honest.signing_fingerprint);
}

#[test]
fn parts_of_a_proof_come_back_as_they_went_in() {
    let bytes = golden();
    let mut aligned = AlignedVec::<8>::new();
    aligned.extend_from_slice(&bytes);
    let view = ProofView::parse(&aligned).unwrap();
    assert_eq!(view.parts().to_bytes(), bytes);
    assert!(bytes.len() > PROOF_HEADER_BYTES);
}
