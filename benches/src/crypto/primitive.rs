//! One algorithm at a time. The path only has them in pairs (both signatures, both halves of X-Wing), so these call the
//! functions that its backend calls: aws-lc for everything but the verification of Ed25519, which is dalek's.

use std::hint::black_box;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, ML_DSA_65, ML_DSA_65_SIGNING, ParsedPublicKey, PqdsaKeyPair};
use creto_crypto_accel::seal::{RecipientKey, RecipientSecret};
use creto_crypto_accel::sign::SigningKeys;

use super::{Effort, PAYLOAD_BYTES};

/// Bytes of a batch statement.
const STATEMENT_BYTES: usize = 80;
/// Signatures of one turn.
const TURN: usize = 64;

/// Nanoseconds of one operation each, the median.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Primitives {
    /// AES-256-GCM over 1 KiB, with a key of its own.
    pub aes_256_gcm_seal_ns: f64,
    /// The same, opening.
    pub aes_256_gcm_open_ns: f64,
    /// New ML-KEM-768 key pair.
    pub ml_kem_768_keygen_ns: f64,
    /// ML-KEM-768 encapsulation.
    pub ml_kem_768_encapsulate_ns: f64,
    /// ML-KEM-768 decapsulation.
    pub ml_kem_768_decapsulate_ns: f64,
    /// New X-Wing key pair from its seed, with the public half.
    pub x_wing_keygen_ns: f64,
    /// X-Wing encapsulation: what the path does.
    pub x_wing_encapsulate_ns: f64,
    /// X-Wing decapsulation: what the path does.
    pub x_wing_decapsulate_ns: f64,
    /// One X25519 agreement.
    pub x25519_agree_ns: f64,
    /// Both signing keys from their seeds.
    pub signing_keygen_ns: f64,
    /// ML-DSA-65 key pair from its seed.
    pub ml_dsa_65_keygen_ns: f64,
    /// Ed25519 signature over a statement.
    pub ed25519_sign_ns: f64,
    /// Strict verification of Ed25519 in a turn of 64, for each: one by one, as the path does it.
    pub ed25519_verify_ns: f64,
    /// What dalek's batch verification would take for each of 64. The path does not use it: its verdicts differ.
    pub ed25519_verify_in_batch_ns: f64,
    /// ML-DSA-65 signature over a statement, hedged.
    pub ml_dsa_65_sign_ns: f64,
    /// Verification of it, with the key parsed.
    pub ml_dsa_65_verify_ns: f64,
    /// Both signatures over a statement.
    pub hybrid_sign_ns: f64,
    /// Verification of both.
    pub hybrid_verify_ns: f64,
}

/// Measures all of them.
///
/// # Panics
/// Never: keys and signatures are made here.
#[must_use]
#[allow(clippy::too_many_lines, reason = "one line or two for each algorithm")]
pub fn measure(effort: Effort) -> Primitives {
    const MADE_HERE: &str = "made here and honest";
    let time = |operation: &mut dyn FnMut()| effort.median_ns(operation);
    let statements: Vec<[u8; STATEMENT_BYTES]> = (0..64).map(|number| [number; STATEMENT_BYTES]).collect();
    assert_eq!(statements.len(), TURN);

    let gcm = || LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &black_box([1; 32])).expect(MADE_HERE));
    let (nonce, header) = (|| Nonce::assume_unique_for_key([0; 12]), [2; 160]);
    let mut payload = vec![3; PAYLOAD_BYTES];
    let aes_256_gcm_seal_ns = time(&mut || {
        let _ =
            black_box(gcm().seal_in_place_separate_tag(nonce(), Aad::from(&header), &mut payload).expect(MADE_HERE));
    });
    let mut sealed = vec![3; PAYLOAD_BYTES];
    let tag = gcm().seal_in_place_separate_tag(nonce(), Aad::from(&header), &mut sealed).expect(MADE_HERE);
    let aes_256_gcm_open_ns = time(&mut || {
        let opened = gcm().open_separate_gather(nonce(), Aad::from(&header), &sealed, tag.as_ref(), &mut payload);
        opened.expect(MADE_HERE);
    });

    let decapsulation = DecapsulationKey::generate(&ML_KEM_768).expect(MADE_HERE);
    let encapsulation = decapsulation.encapsulation_key().expect(MADE_HERE);
    let (ciphertext, _) = encapsulation.encapsulate().expect(MADE_HERE);
    let secret = RecipientSecret::from_seed(&[4; 32]);
    let recipient = RecipientKey::parse(secret.public()).expect(MADE_HERE);
    let (wrapped_key, _) = recipient.encapsulate();
    let x25519 = PrivateKey::generate(&X25519).expect(MADE_HERE);
    let peer = x25519.compute_public_key().expect(MADE_HERE);

    let ed25519 = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).expect(MADE_HERE);
    let ed25519_public = ed25519.public_key().as_ref().try_into().expect(MADE_HERE);
    let ed25519_public = ed25519_dalek::VerifyingKey::from_bytes(&ed25519_public).expect(MADE_HERE);
    let signatures: Vec<_> = statements
        .iter()
        .map(|statement| ed25519_dalek::Signature::from_slice(ed25519.sign(statement).as_ref()).expect(MADE_HERE))
        .collect();
    let messages: Vec<&[u8]> = statements.iter().map(<[u8; STATEMENT_BYTES]>::as_slice).collect();
    let publics = vec![ed25519_public; TURN];

    let ml_dsa = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, &[6; 32]).expect(MADE_HERE);
    let ml_dsa_public = ParsedPublicKey::new(&ML_DSA_65, ml_dsa.public_key().as_ref()).expect(MADE_HERE);
    let mut signature = vec![0; ML_DSA_65_SIGNING.signature_len()];
    let ml_dsa_65_sign_ns = time(&mut || {
        ml_dsa.sign(black_box(&statements[0]), &mut signature).expect(MADE_HERE);
    });
    let keys = SigningKeys::from_seeds(&[5; 32], &[6; 32]);
    let verifying = creto_crypto_accel::verify::VerifyingKeys::parse(&keys.public().ed25519, &keys.public().ml_dsa_65);
    let verifying = verifying.expect(MADE_HERE);
    let hybrid = keys.sign(&statements[0]);

    Primitives {
        aes_256_gcm_seal_ns,
        aes_256_gcm_open_ns,
        ml_kem_768_keygen_ns: time(&mut || {
            black_box(DecapsulationKey::generate(&ML_KEM_768).expect(MADE_HERE));
        }),
        ml_kem_768_encapsulate_ns: time(&mut || {
            black_box(encapsulation.encapsulate().expect(MADE_HERE));
        }),
        ml_kem_768_decapsulate_ns: time(&mut || {
            black_box(decapsulation.decapsulate(ciphertext.as_ref().into()).expect(MADE_HERE));
        }),
        x_wing_keygen_ns: time(&mut || {
            black_box(RecipientSecret::from_seed(black_box(&[4; 32])));
        }),
        x_wing_encapsulate_ns: time(&mut || {
            black_box(recipient.encapsulate());
        }),
        x_wing_decapsulate_ns: time(&mut || {
            black_box(secret.decapsulate(black_box(&wrapped_key)).expect(MADE_HERE));
        }),
        x25519_agree_ns: time(&mut || {
            let peer = UnparsedPublicKey::new(&X25519, peer.as_ref());
            agree(&x25519, peer, (), |shared| Ok::<_, ()>(black_box(shared[0]))).expect(MADE_HERE);
        }),
        signing_keygen_ns: time(&mut || {
            black_box(SigningKeys::from_seeds(black_box(&[5; 32]), &[6; 32]));
        }),
        ml_dsa_65_keygen_ns: time(&mut || {
            black_box(PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, black_box(&[6; 32])).expect(MADE_HERE));
        }),
        ed25519_sign_ns: time(&mut || {
            black_box(ed25519.sign(black_box(&statements[0])));
        }),
        ed25519_verify_ns: TURN_SHARE
            * time(&mut || {
                for (message, signature) in messages.iter().zip(&signatures) {
                    ed25519_public.verify_strict(message, signature).expect(MADE_HERE);
                }
            }),
        ed25519_verify_in_batch_ns: TURN_SHARE
            * time(&mut || ed25519_dalek::verify_batch(&messages, &signatures, &publics).expect(MADE_HERE)),
        ml_dsa_65_sign_ns,
        ml_dsa_65_verify_ns: time(&mut || {
            ml_dsa_public.verify_sig(black_box(&statements[0]), &signature).expect(MADE_HERE);
        }),
        hybrid_sign_ns: time(&mut || {
            black_box(keys.sign(black_box(&statements[0])));
        }),
        hybrid_verify_ns: time(&mut || {
            let verdict = verifying.verify(black_box(&statements[0]), &hybrid.ed25519, &hybrid.ml_dsa_65);
            verdict.expect(MADE_HERE);
        }),
    }
}

/// One of a turn.
const TURN_SHARE: f64 = 1.0 / TURN as f64;
