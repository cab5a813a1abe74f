use creto_crypto_accel::merkle::leaf_hash;
use creto_envelope::deliver::{Deliver, DeliverEncoder, MessageToDeliver};
use creto_envelope::envelope::EnvelopeHeader;
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::{AgentName, TrustDomain};
use rkyv::util::AlignedVec;

use super::*;
use crate::raw::{seal_envelope, sign_batch};
use crate::receiver::sessions::Bounds;

const NOW_MS: u64 = 1_700_000_000_000;
const PAYLOAD: &[u8] = b"hello";
/// Where a Deliver frame with a header holds what nobody signs, because it is between the node and this connection: the
/// number of messages, the mailbox sequence of the message and how often it was pushed before.
const UNSIGNED: [std::ops::Range<usize>; 2] = [HEADER_OFFSET + 3448..HEADER_OFFSET + 3456, 3469..3470];

struct World {
    opener: Opener,
    sessions: IncomingSessions,
    identity: Arc<Identity>,
    planner: AgentKeys,
    executor: Arc<AgentKeys>,
}

impl World {
    fn new() -> Self {
        let keys = |name: &str, seed: u8| {
            let name = AgentName::parse(name).unwrap();
            AgentKeys::from_seeds(name, TrustDomain::default(), 1, &[seed; 32], &[seed; 32], &[seed; 32])
        };
        let (planner, executor) = (keys("acme/planner", 1), Arc::new(keys("acme/executor", 2)));
        let record = planner.signed_record(1, 0, u64::MAX);
        let identity = Arc::new(Identity::verify(planner.id(), &record).unwrap());
        let (opener, sessions) =
            (Opener::new(Arc::clone(&executor), Arc::default()), IncomingSessions::new(Bounds::PRODUCTION));
        Self { opener, sessions, identity, planner, executor }
    }

    /// The body of a Deliver frame with one message of a batch of this size, and the batch's header.
    fn frame(&self, size: u32, index: u32) -> Vec<u8> {
        let record = self.executor.signed_record(1, 0, u64::MAX);
        let salts: Vec<[u8; 16]> = (0..u128::from(size)).map(u128::to_le_bytes).collect();
        let envelopes: Vec<_> = (0..size)
            .map(|number| {
                let mut random = [0; 10];
                random[6..].copy_from_slice(&number.to_le_bytes());
                let id = MessageId::from_parts(NOW_MS, random);
                let header = EnvelopeHeader::sealed(
                    self.planner.id(),
                    self.executor.id(),
                    self.executor.key_id(),
                    id,
                    NOW_MS,
                    PAYLOAD.len(),
                );
                seal_envelope(&header.unwrap(), &record, PAYLOAD).unwrap()
            })
            .collect();
        let entries = || salts.iter().zip(envelopes.iter().map(Vec::as_slice));
        let header = sign_batch(&self.planner, entries(), NOW_MS);
        let mut tree = creto_crypto_accel::merkle::Tree::new();
        tree.rebuild(&entries().map(|(salt, envelope)| leaf_hash(salt, envelope)).collect::<Vec<_>>());
        let mut path = Vec::new();
        tree.path(index, &mut path);
        let mut frame = Vec::new();
        let mut encoder = DeliverEncoder::begin(&mut frame, Some(&header.to_bytes()));
        encoder.push(&MessageToDeliver {
            mailbox_sequence: 1,
            leaf_index: index,
            attempt: 0,
            salt: &salts[index as usize],
            path: &path,
            envelope: &envelopes[index as usize],
        });
        encoder.finish();
        frame.split_off(FRAME_HEADER_BYTES)
    }

    /// What the recipient makes of this frame: the payload of its message, if it shows it at all.
    fn open(&self, body: &[u8]) -> Option<Bytes> {
        let mut aligned = AlignedVec::<16>::with_capacity(body.len());
        aligned.extend_from_slice(body);
        let body = Bytes::from_owner(aligned);
        let deliver = Deliver::parse(&body).ok()?;
        let batch = deliver.batch_header?;
        // Whose record is asked for is what the header says: another sender, or another version, has another one.
        if (batch.sender(), batch.key_record_version()) != (self.planner.id(), 1) {
            return None;
        }
        let [_] = &deliver.messages[..] else { return None };
        let header = SignedHeader::new(body.clone(), Ok(Arc::clone(&self.identity)));
        match self.opener.open(&self.sessions, &header, &body, &deliver.messages).pop()?.ok()? {
            Arrived::Message(opened) => Some(opened.payload),
            Arrived::Settled(_) => None,
        }
    }

    fn refuse_every_flip(&self, body: &mut [u8], bytes: impl Iterator<Item = usize>) {
        for byte in bytes.filter(|byte| !UNSIGNED.iter().any(|unsigned| unsigned.contains(byte))) {
            for bit in 0..8 {
                body[byte] ^= 1 << bit;
                assert_eq!(self.open(body), None, "bit {bit} of byte {byte}");
                body[byte] ^= 1 << bit;
            }
        }
        assert_eq!(self.open(body).as_deref(), Some(PAYLOAD), "as it was made, it is shown");
    }
}

/// Header with both signatures, index, salt, path, lengths, envelope, wrapped key, payload, padding.
#[test]
fn any_flipped_bit_of_a_delivery_is_refused_by_its_recipient() {
    let world = World::new();
    let mut body = world.frame(1, 0);
    let bytes = 0..body.len();
    world.refuse_every_flip(&mut body, bytes);
}

/// The signatures are the same size whatever the batch; here it is the rest, for every leaf.
#[test]
fn any_flipped_bit_of_a_delivery_from_a_larger_batch_is_refused_by_its_recipient() {
    let world = World::new();
    for size in [2, 3, 5] {
        for index in 0..size {
            let mut body = world.frame(size, index);
            let bytes = (0..HEADER_OFFSET + 72).chain(HEADER_OFFSET + 3445..body.len());
            world.refuse_every_flip(&mut body, bytes);
        }
    }
}
