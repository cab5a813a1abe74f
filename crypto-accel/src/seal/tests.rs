use super::*;

const HEADER: [u8; 160] = [0x42; 160];
const NONCE: [u8; NONCE_BYTES] = [0; NONCE_BYTES];

fn both_ways(check: impl Fn(Backend, Backend)) {
    for sender in Backend::ALL {
        for recipient in Backend::ALL {
            check(sender, recipient);
        }
    }
}

/// Wrapped key and sealed payload.
fn seal_with(backend: Backend, recipient: &RecipientPublic, plaintext: &[u8]) -> ([u8; 1120], Vec<u8>) {
    let (wrapped, secret) = RecipientKey::with_backend(backend, recipient).unwrap().encapsulate();
    let mut sealed = Vec::new();
    message_key(&secret, &HEADER).seal_append(&NONCE, &HEADER, plaintext, &mut sealed);
    (wrapped, sealed)
}

fn open_with(
    secret: &RecipientSecret,
    wrapped: &[u8; 1120],
    header: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, OpenError> {
    let shared = secret.decapsulate(wrapped)?;
    let opened = message_key(&shared, header).open(&NONCE, header, sealed);
    let mut in_place = sealed.to_vec();
    let again = message_key(&shared, header).open_in_place(&NONCE, header, &mut in_place).map(|p| p.to_vec());
    assert_eq!(opened, again, "both ways of opening agree");
    if opened == Err(OpenError::NotAuthentic) {
        assert!(in_place.iter().all(|&byte| byte == 0), "nothing unauthenticated is left behind");
    }
    opened
}

#[test]
fn what_either_backend_seals_either_opens() {
    both_ways(|sender, recipient| {
        let secret = RecipientSecret::with_backend(recipient, &[3; 32]);
        for length in [0, 1, 15, 16, 17, 1024, 70_001] {
            let plaintext: Vec<u8> = (0..=250).cycle().take(length).collect();
            let (wrapped, sealed) = seal_with(sender, secret.public(), &plaintext);
            assert_eq!(sealed.len(), length + TAG_BYTES);
            assert_eq!(open_with(&secret, &wrapped, &HEADER, &sealed), Ok(plaintext));
        }
    });
}

#[test]
fn a_seed_gives_the_same_public_key_in_both_backends() {
    for seed in 0..16 {
        let [a, b] = Backend::ALL.map(|backend| RecipientSecret::with_backend(backend, &[seed; 32]));
        assert_eq!(a.public(), b.public());
        assert_eq!(a.key_id(), b.key_id());
        assert_eq!(a.key_id(), a.public().key_id());
    }
}

#[test]
fn every_change_of_header_ciphertext_tag_or_wrapped_key_is_found() {
    both_ways(|sender, recipient| {
        let secret = RecipientSecret::with_backend(recipient, &[3; 32]);
        let (wrapped, sealed) = seal_with(sender, secret.public(), b"attack at dawn");
        for byte in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[byte] ^= 0x10;
            assert_eq!(open_with(&secret, &wrapped, &HEADER, &changed), Err(OpenError::NotAuthentic));
        }
        for byte in (0..HEADER.len()).step_by(13) {
            let mut header = HEADER;
            header[byte] ^= 1;
            assert_eq!(open_with(&secret, &wrapped, &header, &sealed), Err(OpenError::NotAuthentic));
        }
        // 0x10 keeps clear of the top bit of the X25519 share, which X25519 ignores but X-Wing hashes.
        for byte in (0..wrapped.len()).step_by(31).chain(1088..1120) {
            let mut changed = wrapped;
            changed[byte] ^= 0x10;
            assert_eq!(open_with(&secret, &changed, &HEADER, &sealed), Err(OpenError::NotAuthentic));
        }
        let mut top_bit = wrapped;
        top_bit[1119] ^= 0x80;
        assert_eq!(open_with(&secret, &top_bit, &HEADER, &sealed), Err(OpenError::NotAuthentic));
    });
}

#[test]
fn another_recipient_cannot_open() {
    both_ways(|sender, recipient| {
        let secret = RecipientSecret::with_backend(recipient, &[3; 32]);
        let other = RecipientSecret::with_backend(recipient, &[4; 32]);
        let (wrapped, sealed) = seal_with(sender, secret.public(), b"for one pair of eyes");
        assert_eq!(open_with(&other, &wrapped, &HEADER, &sealed), Err(OpenError::NotAuthentic));
    });
}

#[test]
fn a_payload_shorter_than_its_tag_is_refused() {
    for backend in Backend::ALL {
        for length in 0..TAG_BYTES {
            let key = || MessageKey::from_bytes(backend, Zeroizing::new([1; 32]));
            let mut sealed = vec![0; length];
            assert_eq!(key().open(&NONCE, &HEADER, &sealed), Err(OpenError::TooShort));
            assert_eq!(key().open_in_place(&NONCE, &HEADER, &mut sealed), Err(OpenError::TooShort));
        }
    }
}

/// The points of order 1, 2, 4 and 8 on Curve25519 and its twist, with the encodings that are not canonical.
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

#[test]
fn shares_and_keys_of_low_order_are_refused_by_both_backends() {
    for backend in Backend::ALL {
        let secret = RecipientSecret::with_backend(backend, &[3; 32]);
        let (wrapped, _) = seal_with(backend, secret.public(), b"");
        for point in LOW_ORDER {
            let point: [u8; 32] = hex::decode(point).unwrap().try_into().unwrap();
            let weak = RecipientPublic { x25519: point, ..secret.public().clone() };
            let refused = RecipientKey::with_backend(backend, &weak).map(|_| ());
            assert_eq!(refused, Err(KeyError::X25519Order), "{}", hex::encode(point));
            let mut share = wrapped;
            share[1088..].copy_from_slice(&point);
            assert_eq!(secret.decapsulate(&share).map(|_| ()), Err(OpenError::LowOrderShare));
        }
    }
}

#[test]
fn an_ml_kem_key_with_a_coefficient_above_the_modulus_is_refused_by_both_backends() {
    for backend in Backend::ALL {
        let mut public = RecipientSecret::with_backend(backend, &[3; 32]).public().clone();
        // 3329 in the first twelve bits: the smallest value that FIPS 203 section 7.2 forbids.
        public.ml_kem_768[0] = 0x01;
        public.ml_kem_768[1] = (public.ml_kem_768[1] & 0xf0) | 0x0d;
        let refused = RecipientKey::with_backend(backend, &public).map(|_| ());
        assert_eq!(refused, Err(KeyError::MlKem768Encoding));
        // 3328 is allowed.
        public.ml_kem_768[0] = 0x00;
        assert!(RecipientKey::with_backend(backend, &public).is_ok());
    }
}

#[test]
fn the_same_coins_give_the_same_bytes_and_fresh_ones_never_do() {
    let public = RecipientSecret::from_seed(&[3; 32]).public().clone();
    let first = portable::encapsulate_deterministic(&public, &[5; 64]).unwrap();
    let second = portable::encapsulate_deterministic(&public, &[5; 64]).unwrap();
    let other = portable::encapsulate_deterministic(&public, &[6; 64]).unwrap();
    assert_eq!((first.0, first.1.expose()), (second.0, second.1.expose()));
    assert_ne!(first.0, other.0);
    for backend in Backend::ALL {
        let key = RecipientKey::with_backend(backend, &public).unwrap();
        let ((a, secret_a), (b, secret_b)) = (key.encapsulate(), key.encapsulate());
        // Both halves are fresh, not only one of them.
        assert_ne!(a[..1088], b[..1088]);
        assert_ne!(a[1088..], b[1088..]);
        assert_ne!(secret_a.expose(), secret_b.expose());
    }
}

#[test]
fn a_message_key_is_hkdf_of_the_label_and_the_header() {
    // RFC 5869 written out with HMAC from the definition, so that neither backend's HKDF is its own witness.
    fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        let inner = crate::digest::sha256(&[[block.map(|b| b ^ 0x36).as_slice()].as_slice(), parts].concat());
        crate::digest::sha256(&[&block.map(|b| b ^ 0x5c), &inner])
    }
    let extracted = hmac(&[], &[&[7; 32]]);
    let expected = hmac(&extracted, &[b"creto/sealed/v1", &[0], &HEADER, &[1]]);
    for backend in Backend::ALL {
        let secret = SharedSecret { backend, bytes: Zeroizing::new([7; 32]) };
        assert_eq!(*message_key(&secret, &HEADER).bytes, expected);
    }
}

#[test]
fn nothing_secret_is_printed() {
    for backend in Backend::ALL {
        let secret = RecipientSecret::with_backend(backend, &[0xab; 32]);
        let (_, shared) = RecipientKey::with_backend(backend, secret.public()).unwrap().encapsulate();
        let key = message_key(&shared, &HEADER);
        let key_id = format!("{:?}", secret.key_id());
        assert_eq!(format!("{secret:?}"), format!("RecipientSecret {{ key_id: {key_id}, .. }}"));
        assert_eq!(format!("{shared:?}"), "SharedSecret { .. }");
        assert_eq!(format!("{key:?}"), "MessageKey { .. }");
    }
}

#[test]
fn a_key_under_another_name_is_the_same_key() {
    both_ways(|sender, recipient| {
        let secret = RecipientSecret::with_backend(recipient, &[3; 32]);
        let public = secret.public().clone();
        let key = RecipientKey::with_backend(sender, &public).unwrap().named([7; 16]);
        assert_eq!((key.key_id(), secret.key_id()), ([7; 16], public.key_id()));
        let (wrapped, shared) = key.encapsulate();
        let secret = secret.named([7; 16]);
        assert_eq!(secret.key_id(), [7; 16]);
        assert_eq!(secret.decapsulate(&wrapped).unwrap().expose(), shared.expose());
    });
}
