use creto_crypto_accel::seal::{RecipientKey, RecipientSecret};
use creto_crypto_accel::session::{Peers, ReceiveChain, SendChain};
use creto_envelope::prekeys::{Prekey, PrekeyBatch, PrekeyKind};
use creto_envelope::{AgentName, TrustDomain};

use super::*;
use crate::clock;
use crate::directory::Identity;
use crate::receiver::sessions::{Bounds, Opened, Sealed, SessionUse};
use crate::state::prekeys::Made;

const SENDER: AgentId = AgentId([7; 16]);

fn keys() -> AgentKeys {
    AgentKeys::generate(AgentName::parse("acme/worker").unwrap(), TrustDomain::default()).unwrap()
}

fn identity(keys: &AgentKeys, version: u32) -> Arc<Identity> {
    Arc::new(Identity::verify(keys.id(), &keys.signed_record(version, 0, u64::MAX)).unwrap())
}

fn seed(number: u8) -> [u8; 32] {
    [number; 32]
}

/// A batch of so many one-time prekeys, as the node would hand out each of them.
fn signed(keys: &AgentKeys, version: u32, count: u8) -> Vec<SignedPrekey> {
    use creto_crypto_accel::merkle::{Tree, leaf_hash};
    let prekeys: Vec<Prekey> = (0..count).map(|number| make::prekey(PrekeyKind::OneTime, &seed(number))).collect();
    let PrekeyBatch { signature, prekeys, .. } = make::sign(keys, version, prekeys, 5);
    let mut tree = Tree::new();
    tree.rebuild(&prekeys.iter().map(|p| leaf_hash(&p.id(version).0, &p.to_bytes())).collect::<Vec<_>>());
    let path = |index| {
        let mut path = Vec::new();
        tree.path(index, &mut path);
        path
    };
    (0..)
        .zip(prekeys)
        .map(|(index, prekey)| SignedPrekey {
            signature: signature.clone(),
            count: count.into(),
            index,
            prekey,
            path: path(index),
        })
        .collect()
}

#[test]
fn every_prekey_of_a_batch_holds_and_none_of_which_anything_was_changed() {
    let keys = keys();
    let identity = identity(&keys, 1);
    for count in [1, 2, 7, 64] {
        for prekey in signed(&keys, 1, count) {
            let claimed = ClaimedPrekey::check(&prekey, Arc::clone(&identity)).unwrap();
            assert_eq!((claimed.id, claimed.version(), claimed.is_last_resort()), (prekey.id(), 1, false));
        }
    }
    let whole = signed(&keys, 1, 7).remove(3);
    type Change = Box<dyn Fn(&mut SignedPrekey)>;
    let changes: [(&str, Change); 12] = [
        ("another version", Box::new(|p| p.signature.key_record_version = 2)),
        ("another time", Box::new(|p| p.signature.signed_at_ms += 1)),
        ("a bit of Ed25519", Box::new(|p| p.signature.ed25519[5] ^= 1)),
        ("a bit of ML-DSA-65", Box::new(|p| p.signature.ml_dsa_65[5] ^= 1)),
        ("another place", Box::new(|p| p.index = 2)),
        ("more in the batch", Box::new(|p| p.count = 8)),
        ("fewer in the batch", Box::new(|p| p.count = 4)),
        ("a node too few", Box::new(|p| p.path.truncate(p.path.len() - 1))),
        ("a node too many", Box::new(|p| p.path.push([0; 32]))),
        ("another kind", Box::new(|p| p.prekey.kind = PrekeyKind::LastResort)),
        ("a bit of X25519", Box::new(|p| p.prekey.x25519[9] ^= 1)),
        ("a bit of ML-KEM-768", Box::new(|p| p.prekey.ml_kem_768[9] ^= 1)),
    ];
    for (what, change) in changes {
        let mut prekey = whole.clone();
        change(&mut prekey);
        let outcome = ClaimedPrekey::check(&prekey, Arc::clone(&identity));
        assert!(matches!(outcome, Err(PrekeyError::Invalid { .. })), "{what}");
    }
    // Somebody else's, and a key that is of no use although it is signed.
    let other = self::keys();
    assert!(ClaimedPrekey::check(&signed(&other, 1, 1)[0], Arc::clone(&identity)).is_err());
    let weak = Prekey { kind: PrekeyKind::OneTime, x25519: [0; 32], ..whole.prekey };
    let batch = make::sign(&keys, 1, vec![weak.clone()], 5);
    let weak = SignedPrekey { signature: batch.signature, count: 1, index: 0, prekey: weak, path: Vec::new() };
    let refused = ClaimedPrekey::check(&weak, identity).unwrap_err();
    assert!(refused.to_string().contains("not a usable key"), "{refused}");
}

/// A recorded session, opened to the prekey of `number`, and its first message.
struct Recorded {
    at: SessionUse,
    peers: Peers,
    wrapped_key: [u8; 1_120],
    first: Vec<u8>,
}

fn record_session(keys: &AgentKeys, number: u8) -> Recorded {
    let prekey = make::prekey(PrekeyKind::OneTime, &seed(number));
    let id = prekey.id(1);
    let key = RecipientKey::parse(RecipientSecret::from_seed(&seed(number)).public()).unwrap().named(id.0);
    let peers = Peers { sender: SENDER.0, recipient: keys.id().0, key_id: id.0 };
    let (mut chain, wrapped_key) = SendChain::open(&key, &peers);
    let (counter, message_key) = chain.next().unwrap();
    let mut first = Vec::new();
    message_key.seal_append(&[0; 12], b"header", b"hello", &mut first);
    let at = SessionUse { key: (SENDER, chain.session_id()), counter };
    Recorded { at, peers, wrapped_key, first }
}

impl Recorded {
    fn id(&self) -> creto_envelope::KeyId {
        creto_envelope::KeyId(self.peers.key_id)
    }

    /// Opens the first message as a recipient does.
    fn open(&self, sessions: &IncomingSessions) -> Result<Opened, RejectCode> {
        self.open_as(sessions, Some(self.id()))
    }

    /// The same, of a message that says that its session was opened to this prekey.
    fn open_as(
        &self,
        sessions: &IncomingSessions,
        prekey: Option<creto_envelope::KeyId>,
    ) -> Result<Opened, RejectCode> {
        let accept = || {
            let secret = sessions.prekeys(|prekeys| prekeys.opening(self.id(), clock::now_ms())).flatten();
            let (secret, _) = secret.ok_or(RejectCode::UnknownRecipientKey)?;
            let chain = ReceiveChain::accept(&secret, &self.peers, &self.at.key.1, &self.wrapped_key);
            chain.map_err(|_| RejectCode::EnvelopeSeal)
        };
        let sealed = Sealed { nonce: [0; 12], aad: b"header", payload: &self.first };
        sessions.open_message(self.at, prekey, Some(accept), &sealed)
    }

    /// Whether somebody who has recorded everything opens it with the key of this seed, whatever it is called.
    fn opens_with(&self, seed: [u8; 32]) -> bool {
        let secret = RecipientSecret::from_seed(&seed).named(self.peers.key_id);
        let mut chain = ReceiveChain::accept(&secret, &self.peers, &self.at.key.1, &self.wrapped_key).unwrap();
        chain.open(0, &[0; 12], b"header", &self.first).is_ok()
    }
}

fn sessions(folder: &std::path::Path, keys: &AgentKeys) -> IncomingSessions {
    IncomingSessions::open(folder, keys.id(), keys.prekey_file_key(), Bounds::PRODUCTION).unwrap()
}

fn add(sessions: &IncomingSessions, numbers: std::ops::Range<u8>) {
    let made = numbers.map(|number| {
        let kind = PrekeyKind::OneTime;
        let id = make::prekey(kind, &seed(number)).id(1);
        Made { kind, version: 1, id, seed: zeroize::Zeroizing::new(seed(number)) }
    });
    sessions.prekeys(|prekeys| prekeys.add(made.collect(), 5)).unwrap().unwrap();
}

#[test]
fn whoever_steals_the_keys_and_the_folder_later_opens_no_recorded_session() {
    let folder = tempfile::tempdir().unwrap();
    let name = AgentName::parse("acme/worker").unwrap();
    let keys = AgentKeys::from_seeds(name, TrustDomain::default(), 1, &[0x75; 32], &[0x76; 32], &[0x77; 32]);
    let recorded = record_session(&keys, 3);
    // The slots of the file as they were: what a thief would look for in every file of the folder.
    let slots = || std::fs::read(folder.path().join("prekeys")).unwrap().split_off(512);
    let is_in_folder = |part: &[u8]| {
        let mut files =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        files.any(|bytes| bytes.windows(part.len()).any(|window| window == part))
    };
    let sealed;
    {
        let sessions = sessions(folder.path(), &keys);
        add(&sessions, 1..6);
        assert!(recorded.opens_with(seed(3)), "until then it opens");
        sealed = slots();
        assert_eq!(recorded.open(&sessions), Ok(Opened::Payload { payload: b"hello".to_vec(), accepted: true }));
        sessions.keep_and_erase(&[recorded.at.key]).unwrap();
        // The application has it, and the node is told.
        sessions.settle([recorded.at]).unwrap();
    }
    let slot = |number: usize| &sealed[(number - 1) * 128 + 40..(number - 1) * 128 + 88];
    assert!(!is_in_folder(slot(3)) && !is_in_folder(&seed(3)), "its secret half is in no byte of the folder");
    assert!([1, 2, 4, 5].iter().all(|number| is_in_folder(slot(*number))), "those of the others are");
    // Every key that is left: those of the other prekeys, and the long-term one.
    assert_eq!(RecipientSecret::from_seed(&[0x77; 32]).key_id(), keys.key_id().0);
    assert!(!recorded.opens_with([0x77; 32]));
    assert!([1, 2, 4, 5].iter().all(|number| !recorded.opens_with(seed(*number))));
    // And the session itself gives no settled message back.
    assert_eq!(recorded.open(&sessions(folder.path(), &keys)), Ok(Opened::Settled));
}

#[test]
fn a_crash_between_the_session_on_disk_and_the_erased_prekey_leaves_a_message_that_opens_and_erases() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys();
    let recorded = record_session(&keys, 3);
    let payload = |accepted| Ok(Opened::Payload { payload: b"hello".to_vec(), accepted });
    {
        let sessions = sessions(folder.path(), &keys);
        add(&sessions, 3..4);
        assert_eq!(recorded.open(&sessions), payload(true));
        // A crash before anything was written: the prekey is there, so the message opens when it comes again.
    }
    {
        let sessions = sessions(folder.path(), &keys);
        assert_eq!(recorded.open(&sessions), payload(true));
        sessions.keep_session(recorded.at.key).unwrap();
        // A crash here: the session is on disk, the prekey is not erased.
    }
    {
        // No other message may ever come: whoever opens the folder erases.
        let sessions = sessions(folder.path(), &keys);
        assert!(!sessions.is_one_time(&recorded.id()));
        assert_eq!(recorded.open(&sessions), payload(false), "the session is known");
        sessions.keep_and_erase(&[recorded.at.key]).unwrap();
        // A crash before the application has acknowledged.
    }
    let sessions = sessions(folder.path(), &keys);
    assert_eq!(recorded.open(&sessions), payload(false), "it comes again, and opens without its prekey");
}

#[test]
fn a_session_that_is_in_no_file_keeps_its_prekey() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys();
    let recorded = record_session(&keys, 3);
    let sessions = sessions(folder.path(), &keys);
    add(&sessions, 3..4);
    // Nothing was opened: there is no session that could be kept.
    sessions.keep_and_erase(&[recorded.at.key]).unwrap();
    assert!(sessions.is_one_time(&recorded.id()));
    // It is opened, and cannot be written: whoever erased first would have neither now.
    recorded.open(&sessions).unwrap();
    sessions.fail(true);
    for _ in 0..2 {
        assert!(sessions.keep_and_erase(&[recorded.at.key]).is_err());
        assert!(sessions.is_one_time(&recorded.id()));
        assert!(sessions.prekeys(|prekeys| prekeys.opening(recorded.id(), 0)).flatten().is_some());
    }
    drop(sessions);
    let sessions = self::sessions(folder.path(), &keys);
    assert!(sessions.is_one_time(&recorded.id()), "and so it is on disk");
    assert!(matches!(recorded.open(&sessions), Ok(Opened::Payload { accepted: true, .. })));
    // After the files were let go of nothing is erased any more.
    sessions.release();
    sessions.keep_and_erase(&[recorded.at.key]).unwrap();
    drop(sessions);
    let sessions = self::sessions(folder.path(), &keys);
    assert!(sessions.is_one_time(&recorded.id()));
}

#[test]
fn only_what_a_session_was_opened_to_is_erased_whatever_its_messages_say() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys();
    let (mine, anothers) = (record_session(&keys, 3), record_session(&keys, 4));
    let sessions = sessions(folder.path(), &keys);
    add(&sessions, 3..5);
    mine.open(&sessions).unwrap();
    // The messages that follow name the prekey of somebody else, or none.
    for says in [Some(anothers.id()), None] {
        assert_eq!(mine.open_as(&sessions, says), Err(RejectCode::EnvelopeSeal));
    }
    sessions.keep_and_erase(&[mine.at.key, anothers.at.key]).unwrap();
    assert!(!sessions.is_one_time(&mine.id()) && sessions.is_one_time(&anothers.id()));
    drop(sessions);
    // What it was opened to is remembered with it.
    let sessions = self::sessions(folder.path(), &keys);
    assert_eq!(mine.open_as(&sessions, Some(anothers.id())), Err(RejectCode::EnvelopeSeal));
    assert_eq!(mine.open(&sessions), Ok(Opened::Payload { payload: b"hello".to_vec(), accepted: false }));
    assert!(matches!(anothers.open(&sessions), Ok(Opened::Payload { accepted: true, .. })));
}

fn wire() -> Arc<Prekeys> {
    Arc::new(Prekeys::new(Arc::new(keys()), Arc::new(Counters::default())))
}

/// The frame that the writer would send now.
fn frame_type(prekeys: &Prekeys) -> Option<u8> {
    prekeys.take_frame().map(|frame| frame[4])
}

fn frame(encode: impl FnOnce(&mut Vec<u8>)) -> Frame {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    let header = creto_envelope::FrameHeader::parse(bytes.first_chunk().unwrap()).unwrap();
    Frame { frame_type: header.frame_type, body: bytes.split_off(8).into() }
}

fn no(agent: AgentId) -> Frame {
    frame(|out| PrekeyClaimed { agent, answer: Err(RejectCode::NoPrekey.into()) }.encode(out))
}

async fn asks(prekeys: &Arc<Prekeys>, agents: &[AgentId]) -> Vec<tokio::task::JoinHandle<Said<SignedPrekey>>> {
    let mut asked = Vec::new();
    for agent in agents {
        let (prekeys, agent) = (Arc::clone(prekeys), *agent);
        asked.push(tokio::spawn(async move { prekeys.ask_claim(agent).await }));
        tokio::task::yield_now().await;
    }
    asked
}

#[tokio::test]
async fn a_node_is_asked_once_until_it_has_answered_and_then_freely() {
    let prekeys = wire();
    let agents = [1, 2, 3].map(|number| AgentId([number; 16]));
    let asked = asks(&prekeys, &agents).await;
    assert_eq!(frame_type(&prekeys), None, "without a connection");
    prekeys.connected();
    assert_eq!((frame_type(&prekeys), frame_type(&prekeys)), (Some(0x52), None));
    prekeys.answered(&no(agents[0])).unwrap();
    assert_eq!((frame_type(&prekeys), frame_type(&prekeys), frame_type(&prekeys)), (Some(0x52), Some(0x52), None));
    // The connection breaks: what is open is asked again, on the next one.
    prekeys.lost();
    assert_eq!(frame_type(&prekeys), None);
    prekeys.connected();
    assert_eq!(frame_type(&prekeys), Some(0x52));
    for agent in &agents[1..] {
        prekeys.answered(&no(*agent)).unwrap();
    }
    for asked in asked {
        assert_eq!(asked.await.unwrap(), Err(PrekeyError::Refused(RejectCode::NoPrekey)));
    }
}

#[tokio::test]
async fn two_that_want_one_of_the_same_agent_are_given_one_each() {
    let prekeys = wire();
    let agent = AgentId([1; 16]);
    prekeys.connected();
    let asked = asks(&prekeys, &[agent, agent]).await;
    let given = signed(&keys(), 1, 2);
    for prekey in &given {
        assert_eq!((frame_type(&prekeys), frame_type(&prekeys)), (Some(0x52), None));
        let answer = Ok(prekey.clone());
        prekeys.answered(&frame(|out| PrekeyClaimed { agent, answer }.encode(out))).unwrap();
    }
    for (asked, given) in asked.into_iter().zip(given) {
        assert_eq!(asked.await.unwrap().unwrap(), given);
    }
}

#[tokio::test]
async fn a_node_that_knows_no_prekeys_is_left_alone() {
    let refusal = |code| Refusal { code: Ok(code), retry_after_ms: 0, context: [0; 16] };
    for (code, asks_again) in [(RejectCode::FrameUnexpected, true), (RejectCode::FrameUnknownType, false)] {
        let prekeys = wire();
        prekeys.connected();
        assert!(!prekeys.refused(&refusal(code)), "nothing was asked");
        let asked = asks(&prekeys, &[AgentId([1; 16]), AgentId([2; 16])]).await;
        assert_eq!(frame_type(&prekeys), Some(0x52));
        assert!(!prekeys.refused(&refusal(RejectCode::LoginRequired)), "that is about something else");
        assert!(prekeys.refused(&refusal(code)));
        for asked in asked {
            assert_eq!(asked.await.unwrap(), Err(PrekeyError::Unsupported));
        }
        assert_eq!(prekeys.ask_claim(AgentId([3; 16])).await, Err(PrekeyError::Unsupported));
        prekeys.lost();
        prekeys.connected();
        let _asked = asks(&prekeys, &[AgentId([1; 16])]).await;
        assert_eq!(frame_type(&prekeys).is_some(), asks_again);
    }
}

#[tokio::test]
async fn a_node_that_ends_the_connection_over_the_question_is_asked_again_after_a_while() {
    let hour = crate::limits::PREKEYS_UNSUPPORTED_REMEMBERED;
    for (unsupported, asks_again) in [(hour, false), (Duration::ZERO, true)] {
        let waits = Waits { unsupported, ..Waits::PRODUCTION };
        let prekeys = Arc::new(Prekeys { waits, ..Prekeys::new(Arc::new(keys()), Arc::new(Counters::default())) });
        prekeys.connected();
        prekeys.ended_with(RejectCode::FrameUnknownType);
        let asked = asks(&prekeys, &[AgentId([1; 16])]).await;
        assert_eq!(frame_type(&prekeys), Some(0x52), "nothing had been asked that it could be about");
        prekeys.ended_with(RejectCode::ShuttingDown);
        // Its refusal was lost with the connection, whose end says the same.
        prekeys.ended_with(RejectCode::FrameUnknownType);
        prekeys.lost();
        for asked in asked {
            assert_eq!(asked.await.unwrap(), Err(PrekeyError::Unsupported));
        }
        prekeys.connected();
        let _asked = asks(&prekeys, &[AgentId([1; 16])]).await;
        assert_eq!(frame_type(&prekeys).is_some(), asks_again);
    }
}

#[tokio::test]
async fn the_clock_of_a_claim_runs_while_there_is_a_connection() {
    let waits = Waits { claim: Duration::from_millis(20), ..Waits::PRODUCTION };
    let prekeys = Arc::new(Prekeys { waits, ..Prekeys::new(Arc::new(keys()), Arc::new(Counters::default())) });
    let waiting = tokio::spawn({
        let prekeys = Arc::clone(&prekeys);
        async move { prekeys.connected_for(prekeys.waits.claim).await }
    });
    // Many times as long, without one.
    assert!(
        timeout(Duration::from_millis(200), async {
            while !waiting.is_finished() {
                sleep(Duration::from_millis(5)).await
            }
        })
        .await
        .is_err()
    );
    prekeys.connected();
    timeout(crate::limits::PREKEY_CLAIM_TIMEOUT, waiting).await.expect("it runs now").unwrap();
}

#[tokio::test]
async fn a_question_that_is_not_answered_ends_and_its_late_answer_is_nobodys() {
    let waits = Waits { answer: Duration::from_millis(20), ..Waits::PRODUCTION };
    let prekeys = Arc::new(Prekeys { waits, ..Prekeys::new(Arc::new(keys()), Arc::new(Counters::default())) });
    prekeys.connected();
    let ask = || {
        let prekeys = Arc::clone(&prekeys);
        tokio::spawn(async move { prekeys.ask_stock().await })
    };
    let answer = |one_time| {
        let stock = PrekeyStock { one_time, ..STOCK };
        prekeys.answered(&frame(|out| PrekeyStockTold { answer: Ok(stock) }.encode(out))).unwrap();
    };
    let first = ask();
    assert_eq!(prekeys.next_frame().await[4], FrameType::PrekeyStockRequest as u8);
    assert_eq!(first.await.unwrap(), Err(PrekeyError::TimedOut));
    // It owes an answer: another question would be given that one.
    assert_eq!(ask().await.unwrap(), Err(PrekeyError::TimedOut));
    assert_eq!(frame_type(&prekeys), None);
    answer(1);
    let second = ask();
    assert_eq!(prekeys.next_frame().await[4], FrameType::PrekeyStockRequest as u8);
    answer(2);
    assert_eq!(second.await.unwrap().unwrap().one_time, 2);
}

/// A keeper at work on a folder, and this test in the place of the node.
struct Kept {
    prekeys: Arc<Prekeys>,
    sessions: Arc<IncomingSessions>,
    folder: tempfile::TempDir,
    /// Ends the keeper when it goes.
    _closing: watch::Sender<bool>,
}

const STOCK: PrekeyStock = PrekeyStock { key_record_version: 1, one_time: 64, last_resort: true, is_notice: false };

impl Kept {
    /// `before` is what an earlier process left in the folder.
    fn start(before: impl FnOnce(&IncomingSessions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = Arc::new(keys());
        let sessions = Arc::new(sessions(folder.path(), &keys));
        before(&sessions);
        let prekeys = Arc::new(Prekeys::new(keys, Arc::new(Counters::default())));
        let (closing, closed) = watch::channel(false);
        tokio::spawn(Arc::clone(&prekeys).look_after(closed));
        prekeys.connected();
        prekeys.receiving(&sessions);
        Self { prekeys, sessions, folder, _closing: closing }
    }

    async fn next(&self) -> Vec<u8> {
        timeout(PREKEY_CLAIM_TIMEOUT, self.prekeys.next_frame()).await.expect("the keeper asks")
    }

    /// Expects the question what is left, and answers it.
    async fn stock(&self, stock: PrekeyStock) {
        assert_eq!(self.next().await[4], FrameType::PrekeyStockRequest as u8);
        self.answer(|out| PrekeyStockTold { answer: Ok(stock) }.encode(out));
    }

    async fn batch(&self) -> PrekeyBatch {
        let frame = self.next().await;
        assert_eq!(frame[4], FrameType::PrekeyUpload as u8);
        PrekeyBatch::parse(&frame[8..]).unwrap()
    }

    fn answer(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.prekeys.answered(&frame(encode)).unwrap();
    }

    fn uploaded(&self, answer: Result<u32, RejectCode>) {
        self.answer(|out| PrekeyUploaded { answer: answer.map_err(PrekeyRefusal::from) }.encode(out));
    }

    fn notice(&self, one_time: u32) {
        let stock = PrekeyStock { one_time, is_notice: true, ..STOCK };
        self.answer(|out| PrekeyStockTold { answer: Ok(stock) }.encode(out));
    }

    /// How many of these open here.
    fn there(&self, batch: &PrekeyBatch) -> usize {
        let opens = |prekey: &&Prekey| {
            let id = prekey.id(batch.signature.key_record_version);
            self.sessions.prekeys(|prekeys| prekeys.opening(id, 0)).flatten().is_some()
        };
        batch.prekeys.iter().filter(opens).count()
    }
}

fn kinds(batch: &PrekeyBatch) -> (usize, bool) {
    (batch.one_time(), batch.prekeys.last().unwrap().kind == PrekeyKind::LastResort)
}

#[tokio::test]
async fn an_agent_makes_what_the_node_lacks_and_its_secret_halves_are_on_disk_before_anybody_sees_them() {
    let kept = Kept::start(|_| {});
    kept.stock(PrekeyStock::default()).await;
    let batch = kept.batch().await;
    assert_eq!(kinds(&batch), (64, true));
    assert_eq!((batch.agent, batch.signature.key_record_version), (kept.prekeys.keys.id(), 1));
    // A copy of the file at this moment is what a crash would leave.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(kept.folder.path().join("prekeys"), copy.path().join("prekeys")).unwrap();
    let crashed = sessions(copy.path(), &kept.prekeys.keys);
    let id = batch.prekeys[63].id(1);
    assert!(crashed.prekeys(|prekeys| prekeys.opening(id, 0)).flatten().is_some());
    kept.uploaded(Ok(64));
    // Few are left: only what is missing, and no other one of last resort.
    kept.notice(31);
    kept.stock(PrekeyStock { one_time: 31, ..STOCK }).await;
    let more = kept.batch().await;
    assert_eq!(kinds(&more), (33, false));
    assert!(more.signature.signed_at_ms > batch.signature.signed_at_ms);
    kept.uploaded(Ok(64));
    kept.prekeys.settled().await;
    assert_eq!(kept.prekeys.counters.snapshot().prekeys_uploaded, 65 + 33);
    // Whoever has enough only asks.
    kept.prekeys.connected();
    kept.stock(STOCK).await;
    kept.prekeys.settled().await;
    assert_eq!(frame_type(&kept.prekeys), None);
}

#[tokio::test]
async fn one_of_last_resort_is_replaced_after_a_week() {
    let week_ms = u64::try_from(crate::limits::PREKEY_LAST_RESORT_AGE.as_millis()).unwrap();
    for (age_ms, is_due) in [(week_ms, true), (week_ms - 60_000, false)] {
        let kept = Kept::start(|sessions| {
            add(sessions, 100..164);
            let id = make::prekey(PrekeyKind::LastResort, &seed(9)).id(1);
            let made = Made { kind: PrekeyKind::LastResort, version: 1, id, seed: zeroize::Zeroizing::new(seed(9)) };
            let made_ms = clock::now_ms() - age_ms;
            let work = sessions.prekeys(|prekeys| {
                prekeys.add(vec![made], made_ms)?;
                prekeys.uploaded(&[id], made_ms)
            });
            work.unwrap().unwrap();
        });
        kept.stock(STOCK).await;
        if is_due {
            assert_eq!(kinds(&kept.batch().await), (0, true));
            kept.uploaded(Ok(64));
        }
        kept.prekeys.settled().await;
        assert_eq!(frame_type(&kept.prekeys), None);
    }
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_comes_again_as_it_was_and_one_that_is_refused_leaves_nothing() {
    let kept = Kept::start(|_| {});
    kept.stock(PrekeyStock::default()).await;
    let first = kept.batch().await;
    kept.prekeys.lost();
    kept.prekeys.settled().await;
    kept.prekeys.connected();
    assert_eq!(kept.batch().await, first, "the node may have it: it knows it again");
    // Refused although it may have been taken before: it stays.
    kept.uploaded(Err(RejectCode::PrekeyBatch));
    kept.prekeys.settled().await;
    assert_eq!(kept.there(&first), 65);
    kept.prekeys.connected();
    kept.stock(PrekeyStock::default()).await;
    let second = kept.batch().await;
    assert_ne!(second, first);
    // Refused for good, and never sent before: nobody can be given any of them.
    kept.uploaded(Err(RejectCode::PrekeysFull));
    kept.prekeys.settled().await;
    assert_eq!((kept.there(&first), kept.there(&second)), (65, 0));
}

#[tokio::test]
async fn prekeys_whose_secret_halves_are_gone_have_the_key_replaced() {
    // The folder is new, and the node has some of before.
    let kept = Kept::start(|_| {});
    let mut to_replace = kept.prekeys.to_replace();
    kept.stock(PrekeyStock { one_time: 3, ..STOCK }).await;
    // No others beside them, but one of last resort that can be read.
    assert_eq!(kinds(&kept.batch().await), (0, true));
    kept.uploaded(Ok(3));
    timeout(PREKEY_CLAIM_TIMEOUT, to_replace.wait_for(|version| *version == 1)).await.expect("it is seen").unwrap();
    kept.prekeys.settled().await;
    assert_eq!(frame_type(&kept.prekeys), None, "nothing else is uploaded");
    // Fewer at the node than here is as it must be: somebody claimed one.
    let kept = Kept::start(|sessions| add(sessions, 1..5));
    kept.stock(PrekeyStock { one_time: 3, ..STOCK }).await;
    assert_eq!(kinds(&kept.batch().await), (61, true));
    assert_eq!(*kept.prekeys.to_replace().borrow(), 0);
}

#[tokio::test]
async fn a_node_that_answers_nothing_does_not_hold_up_what_is_to_be_erased() {
    let made = || {
        let id = make::prekey(PrekeyKind::OneTime, &seed(9)).id(0);
        Made { kind: PrekeyKind::OneTime, version: 0, id, seed: zeroize::Zeroizing::new(seed(9)) }
    };
    let kept = Kept::start(|sessions| sessions.prekeys(|prekeys| prekeys.add(vec![made()], 5)).unwrap().unwrap());
    assert_eq!(kept.next().await[4], FrameType::PrekeyStockRequest as u8);
    // Whose version has no key here.
    let file = kept.folder.path().join("prekeys");
    let is_erased = || std::fs::read(&file).unwrap()[512..].iter().all(|byte| *byte == 0);
    kept.prekeys.replaced().notify_one();
    timeout(PREKEY_CLAIM_TIMEOUT, async {
        while !is_erased() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("it is erased while the node says nothing");
}

#[tokio::test]
async fn who_makes_none_and_does_not_receive_erases_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Arc::new(keys());
    let file = folder.path().join("prekeys");
    let is_erased = || std::fs::read(&file).unwrap()[512..].iter().all(|byte| *byte == 0);
    let fill = |version| {
        let sessions = sessions(folder.path(), &keys);
        let id = make::prekey(PrekeyKind::OneTime, &seed(9)).id(version);
        let made = Made { kind: PrekeyKind::OneTime, version, id, seed: zeroize::Zeroizing::new(seed(9)) };
        sessions.prekeys(|prekeys| prekeys.add(vec![made], 5)).unwrap().unwrap();
    };
    let prekeys = Prekeys::new(Arc::clone(&keys), Arc::new(Counters::default()))
        .of(PrekeyPolicy::Off, Some(folder.path().to_owned()));
    // No folder is made for it, and no file.
    prekeys.erase_ended().await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    fill(1);
    prekeys.erase_ended().await;
    assert!(!is_erased(), "its version has its key");
    fill(0);
    prekeys.erase_ended().await;
    let sessions = sessions(folder.path(), &keys);
    let there = |version| sessions.is_one_time(&make::prekey(PrekeyKind::OneTime, &seed(9)).id(version));
    assert!(there(1) && !there(0));
}
