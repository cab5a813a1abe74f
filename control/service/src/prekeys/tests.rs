use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use creto_crypto_accel::merkle::{leaf_hash, root_from_path};
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::control::RotationMode;
use creto_envelope::prekeys::{Prekey, PrekeyBatch, PrekeyKind, PrekeyStock, SignedPrekey};
use creto_envelope::{AgentId, KeyRecord, RejectCode, SignedKeyRecord, TrustDomain};

use super::check::CheckedBatch;
use super::tables::{Claimed, Claims, Uploaded};
use crate::directory::{Change, Changed, Directory, Rotated};
use crate::fixture::{in_mode, next, prekeys, record, sign, sign_prekeys, signed};
use crate::limits::{PREKEYS_HELD_MAX, PREKEYS_SIGNED_AHEAD_MS};
use crate::registration::Registration;
use crate::rotation::Rotation;
use crate::states::{StateChange, StateRequest, StateWord, Whose};
use crate::storage::both;
use crate::storage::{Storage, faulty};

const NOW_MS: u64 = 1_700_000_000_000;

/// A directory with one agent, whose keys follow from seed 1.
struct World {
    storage: Arc<Storage>,
    directory: Directory,
    owner: SignedKeyRecord,
}

impl World {
    fn open(path: &Path) -> Self {
        Self::with(both::open(path))
    }

    fn with(storage: Storage) -> Self {
        let storage = Arc::new(storage);
        let mut directory = Directory::load(Arc::clone(&storage), 10, 1_000, 3_600, NOW_MS).unwrap();
        let owner = signed("acme/owner", 1);
        let registration = Registration::of(owner.clone(), &TrustDomain::default(), NOW_MS).unwrap();
        directory.change(vec![Change::Register(registration)], NOW_MS).unwrap();
        Self { storage, directory, owner }
    }

    fn id(&self) -> AgentId {
        self.owner.record.agent_id()
    }

    fn upload(&mut self, batch: &PrekeyBatch) -> Uploaded {
        let batch = CheckedBatch::check(batch, &self.owner.record, NOW_MS).unwrap();
        match self.directory.change(vec![Change::Prekeys(batch)], NOW_MS).unwrap().remove(0) {
            Changed::Prekeys(answer) => answer,
            other => panic!("an upload is answered with {other:?}"),
        }
    }

    fn batch(&self, signed_at_ms: u64, numbers: std::ops::Range<u64>) -> PrekeyBatch {
        prekeys(&self.owner.record, 1, signed_at_ms, numbers)
    }

    /// Claims so often, in one transaction.
    fn claim(&self, count: usize) -> Vec<Result<Claimed, RejectCode>> {
        let transaction = self.storage.begin_write().unwrap();
        let mut claims = Claims::begin(&self.storage, &*transaction).unwrap();
        let answers = (0..count).map(|_| claims.claim(self.id(), true).unwrap()).collect();
        claims.finish().unwrap();
        transaction.commit().unwrap();
        answers
    }

    fn stock(&self) -> PrekeyStock {
        let transaction = self.storage.begin_write().unwrap();
        Claims::begin(&self.storage, &*transaction).unwrap().stock(self.id()).unwrap()
    }

    fn rotate(&mut self, mode: RotationMode) {
        let record = in_mode(mode, &next(&self.owner, 1, 2), 1);
        let rotation = Rotation::check(self.id(), mode, record.clone(), &TrustDomain::default(), NOW_MS).unwrap();
        let answer = self.directory.change(vec![Change::Rotate(rotation)], NOW_MS).unwrap().remove(0);
        assert_eq!(answer, Changed::Rotate(Rotated::Replaced(2)));
        self.owner = record;
    }
}

fn stock(one_time: u32, last_resort: bool) -> PrekeyStock {
    PrekeyStock { key_record_version: 1, one_time, last_resort, is_notice: false }
}

/// The number that a prekey of the fixture has as its share.
fn number(prekey: &SignedPrekey) -> u64 {
    u64::from_le_bytes(*prekey.prekey.x25519.first_chunk().unwrap())
}

fn numbers(answers: &[Result<Claimed, RejectCode>]) -> Vec<u64> {
    answers.iter().map(|answer| number(&answer.as_ref().unwrap().prekey)).collect()
}

/// What a sender checks of a prekey.
fn holds(prekey: &SignedPrekey, record: &KeyRecord) -> bool {
    let leaf = leaf_hash(&prekey.id().0, &prekey.prekey.to_bytes());
    let root = root_from_path(leaf, prekey.index, prekey.count, &prekey.path).unwrap();
    let statement = prekey.signature.statement(record.agent_id(), prekey.count, root).to_bytes();
    let keys = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65).unwrap();
    keys.verify(&statement, &prekey.signature.ed25519, &prekey.signature.ml_dsa_65).is_ok()
}

#[test]
fn prekeys_are_handed_out_in_their_order_each_once_and_with_what_proves_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let mut world = World::open(&path);
    assert_eq!(world.stock(), PrekeyStock::default());
    assert_eq!(world.claim(1), [Err(RejectCode::NoPrekey)]);
    assert_eq!(world.upload(&world.batch(2, 0..5)), Uploaded::Added(stock(5, false)));
    assert_eq!(world.upload(&world.batch(4, 5..7)), Uploaded::Added(stock(7, false)));

    let first = world.claim(3);
    assert_eq!(numbers(&first), [0, 1, 2]);
    assert_eq!(first[2].as_ref().unwrap().left, Some(4));
    // Closed and opened again: what was handed out stays so.
    let owner = world.owner.record.clone();
    drop(world);
    let world = World::open(&path);
    assert_eq!(world.stock(), stock(4, false));
    let rest = world.claim(5);
    assert_eq!(numbers(&rest[..4]), [3, 4, 5, 6]);
    assert_eq!(rest[4], Err(RejectCode::NoPrekey));
    assert!(first.iter().chain(&rest[..4]).all(|answer| holds(&answer.as_ref().unwrap().prekey, &owner)));
    // Nothing of them is left in the file.
    let read = world.storage.begin_read().unwrap();
    assert_eq!(read.table(super::tables::PREKEYS).count().unwrap(), 0);
    assert_eq!(read.table(super::tables::PREKEY_BATCHES).count().unwrap(), 0);
}

#[test]
fn when_none_is_left_the_newest_of_last_resort_is_given_to_everybody() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::open(&folder.path().join("control.redb"));
    assert_eq!(world.upload(&world.batch(1, 0..1)), Uploaded::Added(stock(1, true)));
    assert_eq!(world.upload(&world.batch(3, 0..0)), Uploaded::Added(stock(1, true)));
    let answers = world.claim(3);
    assert_eq!(numbers(&answers), [0, 3, 3]);
    let [one_time, last, _] = &answers[..] else { unreachable!() };
    assert_eq!(one_time.as_ref().unwrap().prekey.prekey.kind, PrekeyKind::OneTime);
    let last = last.as_ref().unwrap();
    assert_eq!((last.prekey.prekey.kind, last.left), (PrekeyKind::LastResort, None));
    assert!(holds(&last.prekey, &world.owner.record));

    // Whoever has used up their share gets it, too, and takes nothing from the others.
    world.upload(&world.batch(4, 7..8));
    let transaction = world.storage.begin_write().unwrap();
    let mut claims = Claims::begin(&world.storage, &*transaction).unwrap();
    assert_eq!(number(&claims.claim(world.id(), false).unwrap().unwrap().prekey), 3);
    assert!(!claims.finish().unwrap(), "there is nothing to write");
    drop(transaction);
    assert_eq!(world.stock(), stock(1, true));
}

#[test]
fn a_batch_that_comes_again_brings_nothing_back_that_was_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::open(&folder.path().join("control.redb"));
    let (first, second) = (world.batch(2, 0..3), world.batch(4, 3..6));
    world.upload(&first);
    assert_eq!(numbers(&world.claim(2)), [0, 1]);
    assert_eq!(world.upload(&first), Uploaded::Known(stock(1, false)));
    world.upload(&second);
    // Older than the last one, or as old and another: neither may be added, whoever kept it.
    for old in [&first, &world.batch(4, 8..9), &world.batch(3, 8..9)] {
        assert_eq!(world.upload(old), Uploaded::from(RejectCode::PrekeyBatch));
    }
    assert_eq!(numbers(&world.claim(4)), [2, 3, 4, 5]);
    assert_eq!(world.upload(&second), Uploaded::Known(stock(0, false)));
}

#[test]
fn prekeys_end_with_the_version_of_the_key_record_that_they_belong_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::open(&folder.path().join("control.redb"));
    let old = world.batch(1, 0..3);
    world.upload(&old);
    let before = CheckedBatch::check(&world.batch(5, 8..9), &world.owner.record, NOW_MS).unwrap();
    world.rotate(RotationMode::Planned);
    assert_eq!(world.claim(1), [Err(RejectCode::NoPrekey)]);
    assert_eq!(world.stock(), PrekeyStock::default());
    // Checked before, and written after the key was replaced.
    let answer = world.directory.change(vec![Change::Prekeys(before)], NOW_MS).unwrap().remove(0);
    assert_eq!(answer, Changed::Prekeys(Uploaded::from(RejectCode::UnknownKeyVersion)));
    let refused = CheckedBatch::check(&old, &world.owner.record, NOW_MS).err();
    assert_eq!(refused, Some(RejectCode::UnknownKeyVersion));

    let two = PrekeyStock { key_record_version: 2, one_time: 2, last_resort: false, is_notice: false };
    assert_eq!(world.upload(&world.batch(6, 10..12)), Uploaded::Added(two));
    let given = world.claim(3);
    assert_eq!(numbers(&given[..2]), [10, 11]);
    assert_eq!(given[2], Err(RejectCode::NoPrekey), "the old one of last resort is gone, too");
    assert!(holds(&given[0].as_ref().unwrap().prekey, &world.owner.record));
}

#[test]
fn nobody_is_given_a_prekey_of_an_agent_that_may_not_act_and_it_uploads_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::open(&folder.path().join("control.redb"));
    world.upload(&world.batch(1, 0..3));
    let states = [
        (StateWord::Suspended, Some(RejectCode::AgentSuspended)),
        (StateWord::Active, None),
        (StateWord::Revoked, Some(RejectCode::AgentRevoked)),
    ];
    for ((state, refused), at_ms) in states.into_iter().zip([3, 5, 7]) {
        let change = StateChange { state, reason: None, since_ms: None };
        let request = StateRequest { whose: Whose::Agent(world.id()), change };
        world.directory.change(vec![Change::State(request)], NOW_MS).unwrap();
        let upload = world.upload(&world.batch(at_ms, 10 * at_ms..10 * at_ms + 1));
        match refused {
            Some(code) => {
                assert_eq!(world.claim(1), [Err(RejectCode::NoPrekey)]);
                assert_eq!(upload, Uploaded::from(code));
            }
            None => assert_eq!((numbers(&world.claim(1)), upload), (vec![0], Uploaded::Added(stock(4, true)))),
        }
    }
}

#[test]
fn a_batch_that_does_not_hold_is_refused_before_the_directory_sees_it() {
    let owner = record("acme/owner", 1);
    let check = |batch: &PrekeyBatch| CheckedBatch::check(batch, &owner, NOW_MS).err();
    let good = prekeys(&owner, 1, NOW_MS + PREKEYS_SIGNED_AHEAD_MS, 0..3);
    assert_eq!(check(&good), None);

    let mut others = good.clone();
    others.agent = AgentId([9; 16]);
    assert_eq!(check(&others), Some(RejectCode::SenderMismatch));
    let ahead = prekeys(&owner, 1, NOW_MS + PREKEYS_SIGNED_AHEAD_MS + 1, 0..3);
    assert_eq!(check(&ahead), Some(RejectCode::SigningTime));
    assert_eq!(check(&prekeys(&owner, 2, NOW_MS, 0..3)), Some(RejectCode::BadSignature), "signed by somebody else");

    // Every part of what was signed, and each of the two signatures.
    let changes: [fn(&mut PrekeyBatch); 6] = [
        |batch| batch.prekeys[1].x25519[0] ^= 0x80,
        |batch| batch.prekeys.swap(0, 1),
        |batch| batch.prekeys.truncate(2),
        |batch| batch.signature.signed_at_ms -= 1,
        |batch| batch.signature.ed25519[5] ^= 1,
        |batch| batch.signature.ml_dsa_65[5] ^= 1,
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut changed = good.clone();
        change(&mut changed);
        assert_eq!(check(&changed), Some(RejectCode::BadSignature), "change {index}");
    }

    // Signed by the owner, and of no use to a sender, or given to two of them.
    let prekey = &good.prekeys[0];
    let low_order = Prekey { x25519: [0; 32], ..prekey.clone() };
    let not_a_key = Prekey { ml_kem_768: Box::new([0xff; 1_184]), ..prekey.clone() };
    for wrong in [vec![low_order], vec![not_a_key], vec![prekey.clone(), prekey.clone()]] {
        let batch = sign_prekeys(&owner, 1, NOW_MS, wrong);
        assert_eq!(check(&batch), Some(RejectCode::PrekeyBatch));
    }
    let stranger = sign(record("acme/stranger", 3), 3).record;
    assert_eq!(CheckedBatch::check(&good, &stranger, NOW_MS).err(), Some(RejectCode::SenderMismatch));
}

#[test]
fn an_agent_keeps_so_many_prekeys_on_the_node_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::open(&folder.path().join("control.redb"));
    for batch in 0..PREKEYS_HELD_MAX / 128 {
        let added = world.upload(&world.batch(2 * batch + 2, 128 * batch..128 * (batch + 1)));
        assert!(matches!(added, Uploaded::Added(_)), "{added:?}");
    }
    let one_more = world.batch(1_000, 5_000..5_001);
    assert_eq!(world.upload(&one_more), Uploaded::from(RejectCode::PrekeysFull));
    assert_eq!(numbers(&world.claim(1)), [0]);
    assert!(matches!(world.upload(&one_more), Uploaded::Added(_)));
}

#[test]
fn a_disk_that_refuses_hands_nothing_out() {
    let (storage, is_broken) = faulty::storage();
    let mut world = World::with(storage);
    world.upload(&world.batch(1, 0..3));
    is_broken.store(true, Ordering::Relaxed);
    let transaction = world.storage.begin_write().unwrap();
    let mut claims = Claims::begin(&world.storage, &*transaction).unwrap();
    let outcome = claims.claim(world.id(), true).and_then(|_| claims.finish());
    let committed = outcome.is_ok() && transaction.commit().is_ok();
    assert!(!committed, "what is not on the disk is not said");
}

#[test]
fn a_backup_has_no_prekey_that_could_be_handed_out_a_second_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::open(&folder.path().join("control.redb"));
    let batch = world.batch(1, 0..3);
    world.upload(&batch);
    let copy = folder.path().join("copy.redb");
    world.storage.copy_to(&copy).unwrap();
    assert_eq!(numbers(&world.claim(1)), [0]);

    let mut restored = World::open(&copy);
    assert_eq!(restored.claim(1), [Err(RejectCode::NoPrekey)]);
    assert_eq!(restored.stock(), stock(0, false));
    // Nor does the same batch come back, whoever sends it again.
    assert_eq!(restored.upload(&batch), Uploaded::Known(stock(0, false)));
    assert_eq!(restored.upload(&restored.batch(2, 3..5)), Uploaded::Added(stock(2, false)));
    assert_eq!(numbers(&restored.claim(2)), [3, 4]);
}

crate::storage::both::on_postgres_too!(
    prekeys_are_handed_out_in_their_order_each_once_and_with_what_proves_them,
    when_none_is_left_the_newest_of_last_resort_is_given_to_everybody,
    a_batch_that_comes_again_brings_nothing_back_that_was_handed_out,
    prekeys_end_with_the_version_of_the_key_record_that_they_belong_to,
    nobody_is_given_a_prekey_of_an_agent_that_may_not_act_and_it_uploads_none,
    an_agent_keeps_so_many_prekeys_on_the_node_and_no_more,
);
