use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;

use creto_crypto_accel::seal::{RecipientKey, RecipientSecret};
use creto_crypto_accel::session::{Peers, ReceiveChain, SendChain};
use creto_envelope::KeyId;

use super::incoming::{Incoming, Write};
use super::outgoing::{StoredSession, put, take};
use super::*;
use crate::receiver::sessions::SessionUse;
use crate::receiver::sessions::refused::Refused;

const ME: AgentId = AgentId([7; 16]);
const PEER: AgentId = AgentId([8; 16]);

fn ends() -> (SendChain, Box<[u8; 1_120]>, ReceiveChain) {
    let secret = RecipientSecret::from_seed(&[3; 32]);
    let peers = Peers { sender: ME.0, recipient: PEER.0, key_id: secret.key_id() };
    let (chain, wrapped_key) = SendChain::open(&RecipientKey::parse(secret.public()).unwrap(), &peers);
    let receive = ReceiveChain::accept(&secret, &peers, &chain.session_id(), &wrapped_key).unwrap();
    (chain, Box::new(wrapped_key), receive)
}

fn stored(recipient: u8) -> StoredSession {
    let (chain, wrapped_key, _) = ends();
    StoredSession {
        recipient: AgentId([recipient; 16]),
        key_id: KeyId([4; 16]),
        prekey: (recipient == 2).then_some(KeyId([6; 16])),
        record_version: 5,
        opened_at_ms: 1_760_000_000_000,
        freed: [true, false, true, false],
        wrapped_key,
        chain,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_taken_is_gone_from_the_disk_and_comes_as_it_was_put() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("planner.keys.sessions");
    assert!(take(&folder, ME).unwrap().is_empty() && !folder.exists(), "nothing is made to find nothing");
    let mut session = stored(1);
    session.chain.next().unwrap();
    let (id, wrapped_key) = (session.chain.session_id(), session.wrapped_key.clone());
    put(&folder, ME, vec![session, stored(2)]).unwrap();
    assert_eq!((mode(&folder), mode(&folder.join("outgoing.redb"))), (0o700, 0o600));

    let mut taken = take(&folder, ME).unwrap();
    assert_eq!(taken.iter().map(|session| session.prekey).collect::<Vec<_>>(), [None, Some(KeyId([6; 16]))]);
    let first = taken.remove(0);
    assert_eq!((first.recipient, first.key_id, first.record_version), (AgentId([1; 16]), KeyId([4; 16]), 5));
    assert_eq!((first.chain.session_id(), first.chain.counter(), &first.wrapped_key), (id, 1, &wrapped_key));
    assert_eq!((first.freed, first.opened_at_ms), ([true, false, true, false], 1_760_000_000_000));
    assert!(take(&folder, ME).unwrap().is_empty(), "whoever comes second opens sessions of its own");
}

#[test]
fn a_copy_of_the_file_gives_no_sessions_because_the_original_may() {
    let folder = tempfile::tempdir().unwrap();
    let (original, backup) = (folder.path().join("outgoing.redb"), folder.path().join("backup"));
    let sums = [&original, &backup].map(|path| PathBuf::from(format!("{}.sha256", path.display())));
    let back_up = || {
        fs::copy(&original, &backup).unwrap();
        fs::copy(&sums[0], &sums[1]).unwrap();
    };
    let restore = || {
        fs::rename(&backup, &original).unwrap();
        fs::rename(&sums[1], &sums[0]).unwrap();
    };
    put(folder.path(), ME, vec![stored(1), stored(2)]).unwrap();
    back_up();
    assert_eq!(take(folder.path(), ME).unwrap().len(), 2);
    restore();
    assert!(take(folder.path(), ME).unwrap().is_empty(), "a key would encrypt two messages");
    put(folder.path(), ME, vec![stored(3)]).unwrap();
    assert_eq!(take(folder.path(), ME).unwrap().len(), 1, "its own sessions are as good as ever");

    // A copy that is put into before anybody takes from it.
    put(folder.path(), ME, vec![stored(1)]).unwrap();
    back_up();
    restore();
    put(folder.path(), ME, vec![stored(4)]).unwrap();
    let taken = take(folder.path(), ME).unwrap();
    assert_eq!(taken.iter().map(|session| session.recipient).collect::<Vec<_>>(), [AgentId([4; 16])]);
}

#[test]
fn an_incoming_session_comes_back_with_what_was_settled_and_in_the_order_of_use() {
    let folder = tempfile::tempdir().unwrap();
    let (mut send, _, mut receive) = ends();
    let (counter, key) = send.next().unwrap();
    let mut sealed = Vec::new();
    key.seal_append(&[0; 12], b"header", b"hello", &mut sealed);
    receive.open(counter, &[0; 12], b"header", &sealed).unwrap();
    receive.settle(counter);
    let write = |session: u8, used| Write {
        sender: PEER,
        session: [session; 16],
        used,
        prekey: None,
        chain: receive.to_bytes(),
    };
    {
        let (file, stored) = Incoming::open(folder.path(), ME, Zeroizing::new([0; 32])).unwrap();
        assert!(stored.sessions.is_empty() && stored.refused.is_empty());
        file.commit(&[write(1, 30), write(2, 10), write(3, 20)], &[], &[]).unwrap();
        file.commit(&[], &[(PEER, [3; 16])], &[]).unwrap();
        assert!(matches!(Incoming::open(folder.path(), ME, Zeroizing::new([0; 32])), Err(StateError::InUse { .. })));
    }
    let sessions = Incoming::open(folder.path(), ME, Zeroizing::new([0; 32])).unwrap().1.sessions;
    assert_eq!(
        sessions.iter().map(|session| (session.session[0], session.used)).collect::<Vec<_>>(),
        [(2, 10), (1, 30)]
    );
    assert!(sessions[0].chain.is_settled(counter) && !sessions[0].chain.is_settled(counter + 1));
    assert_eq!(mode(&folder.path().join("incoming.redb")), 0o600);
}

#[test]
fn a_refused_message_comes_back_with_its_key_until_it_is_settled_or_removed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |counter| SessionUse { key: (PEER, [5; 16]), counter };
    let refused = |number: u8, has_key: bool| Refused {
        key: has_key.then(|| Arc::new(Zeroizing::new([number; 32]))),
        order: 100 - u64::from(number),
        refused_at_ms: 1_760_000_000_000,
        mailbox_sequence: number.into(),
    };
    {
        let (file, _) = Incoming::open(folder.path(), ME, Zeroizing::new([0; 32])).unwrap();
        let written: Vec<_> = (1..=3).map(|number: u8| (at(number.into()), Some(refused(number, true)))).collect();
        file.commit(&[], &[], &written).unwrap();
        file.commit(&[], &[], &[(at(1), None), (at(2), Some(refused(2, false)))]).unwrap();
    }
    let (_, stored) = Incoming::open(folder.path(), ME, Zeroizing::new([0; 32])).unwrap();
    let [(first, with_key), (second, without)] = &stored.refused[..] else { panic!("two are left") };
    assert_eq!((*first, *second), (at(3), at(2)), "in the order in which they were refused");
    assert_eq!((with_key.key.as_ref().map(|key| ***key), without.key.is_none()), (Some([3; 32]), true));
    assert_eq!((with_key.order, with_key.refused_at_ms, with_key.mailbox_sequence), (97, 1_760_000_000_000, 3));
}

#[test]
fn a_file_of_another_agent_or_of_a_later_version_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), ME, vec![stored(1)]).unwrap();
    let error = take(folder.path(), PEER).unwrap_err();
    assert!(matches!(error, StateError::OtherAgent { .. }) && error.to_string().contains("of its own"), "{error}");

    let file = StateFile::open(folder.path(), "outgoing.redb", ME).unwrap();
    file.write(|transaction| {
        transaction.open_table(META).unwrap().insert(META_FORMAT, &9_u64.to_le_bytes()[..]).unwrap();
        Ok(())
    })
    .unwrap();
    drop(file);
    let error = take(folder.path(), ME).unwrap_err();
    assert!(matches!(error, StateError::Version { found: 9, .. }), "{error}");
    assert!(error.to_string().contains("update creto"), "{error}");
}

#[test]
fn a_damaged_file_is_an_error_with_a_way_out_wherever_the_damage_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outgoing.redb");
    put(folder.path(), ME, vec![stored(1), stored(2)]).unwrap();
    let whole = fs::read(&path).unwrap();
    let chain = whole.windows(16).position(|window| window == [4; 16]).expect("the key id is in the file");
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let damages: [(&str, Damage); 5] = [
        ("no database at all", Box::new(|bytes| *bytes = b"not a database".to_vec())),
        ("another magic number", Box::new(|bytes| bytes[0] ^= 1)),
        ("cut to a page", Box::new(|bytes| bytes.truncate(4_096))),
        ("a bit of a session", Box::new(move |bytes| bytes[chain + 40] ^= 1)),
        ("its first page zero", Box::new(|bytes| bytes[..4_096].fill(0))),
    ];
    for (what, damage) in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let error = take(folder.path(), ME).map(|sessions| sessions.len()).expect_err(what);
        assert!(matches!(error, StateError::Damaged { .. }), "{what}: {error}");
        assert!(error.to_string().contains("move it away"), "{what}: {error}");
    }
}

#[test]
fn keys_without_a_file_have_no_folder_and_keys_with_one_have_it_beside() {
    let keys = AgentKeys::generate(
        creto_envelope::AgentName::parse("acme/planner").unwrap(),
        creto_envelope::TrustDomain::default(),
    )
    .unwrap();
    assert_eq!(StateDirectory::BesideKeys.folder(&keys), None);
    let folder = tempfile::tempdir().unwrap();
    keys.save(folder.path().join("planner.keys")).unwrap();
    assert_eq!(StateDirectory::BesideKeys.folder(&keys), Some(folder.path().join("planner.keys.sessions")));
    assert_eq!(StateDirectory::Folder("elsewhere".into()).folder(&keys), Some("elsewhere".into()));
    assert_eq!(StateDirectory::Memory.folder(&keys), None);
}

#[test]
fn bytes_that_a_database_never_wrote_are_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outgoing.redb");
    put(folder.path(), ME, vec![stored(1), stored(2)]).unwrap();
    let whole = fs::read(&path).unwrap();
    let written: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] != 0).collect();
    let mut seed = 88_172_645_463_325_252_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 32).unwrap()
    };
    for _ in 0..60 {
        let mut bytes = whole.clone();
        (0..8).for_each(|_| bytes[written[next() % written.len()]] = next().to_le_bytes()[0]);
        fs::write(&path, &bytes).unwrap();
        // As if nobody had closed it: only the database looks at its pages.
        let _ = fs::remove_file(folder.path().join("outgoing.redb.sha256"));
        match take(folder.path(), ME) {
            // Nothing that counts was hit, or only what says which file this is.
            Ok(sessions) => assert!([0, 2].contains(&sessions.len())),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// Whatever byte of a file that was left in order is wrong: it is said, and nothing is read from it.
#[test]
fn a_wrong_byte_anywhere_is_an_error_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outgoing.redb");
    put(folder.path(), ME, vec![stored(1)]).unwrap();
    let whole = fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 61) {
        file.write_all_at(&[whole[at] ^ 0x55], at as u64).unwrap();
        assert!(matches!(take(folder.path(), ME), Err(StateError::Damaged { .. })), "byte {at}");
        file.write_all_at(&[whole[at]], at as u64).unwrap();
    }
    // Moved away, as the error says: a new one begins.
    fs::remove_file(&path).unwrap();
    put(folder.path(), ME, vec![stored(2)]).unwrap();
    assert_eq!(take(folder.path(), ME).unwrap().len(), 1);
}

#[test]
fn a_file_that_nobody_closed_is_opened_without_its_sum() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), ME, vec![stored(1)]).unwrap();
    fs::remove_file(folder.path().join("outgoing.redb.sha256")).unwrap();
    assert_eq!(take(folder.path(), ME).unwrap().len(), 1);
}

mod channels {
    use std::collections::BTreeMap;

    use creto_crypto_accel::session::{ChannelEnds, ChannelKey, ChannelSendChain};
    use creto_envelope::ChannelId;

    use super::*;
    use crate::channel::keys::{KeyChanges, StoredKey, Times};
    use crate::channel::publishing::{Changes, Members, StoredSession};
    use crate::state::incoming::{Incoming, ReadChannel};
    use crate::state::publishing::{PublishingFile, SeenRecord};

    const CHANNEL: ChannelId = ChannelId([9; 16]);

    fn key() -> Zeroizing<[u8; 32]> {
        Zeroizing::new([5; 32])
    }

    fn chain(secret: u8) -> ChannelSendChain {
        ChannelSendChain::new(ChannelEnds { channel: CHANNEL.0, publisher: ME.0 }, &[secret; 32])
    }

    fn session(secret: u8, begun_at_ms: u64, is_over: bool) -> StoredSession {
        let chain = chain(secret);
        let ahead = chain.at(30).unwrap();
        let chain_left = (!is_over).then_some(ahead);
        StoredSession { base: chain.key(), chain: chain_left, end: 30, begun_at_ms, used_at_ms: begun_at_ms + 1 }
    }

    #[test]
    fn what_a_publisher_leaves_is_read_as_it_was_written_and_nothing_of_a_copy_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (members, gone) = ([AgentId([2; 16]), AgentId([3; 16])], AgentId([4; 16]));
        let seen = SeenRecord { version: 3, sha256: [7; 32], owner: AgentId([8; 16]) };
        {
            let file = PublishingFile::open(folder.path(), ME, key()).unwrap();
            assert!(matches!(PublishingFile::open(folder.path(), ME, key()), Err(StateError::InUse { .. })));
            let (over, current) = (session(1, 7, true), session(2, 8, false));
            let id = current.base.session_id();
            let mut given: Vec<_> = members.iter().map(|member| (id, *member, Some(4))).collect();
            given.push((id, gone, Some(5)));
            let owed = vec![(id, gone, Some(6)), (id, members[0], Some(7))];
            let changes = Changes { sessions: vec![current, over], given, owed, removed: vec![] };
            file.write(CHANNEL, &changes).unwrap();
            file.write(ChannelId([8; 16]), &Changes { sessions: vec![session(3, 1, false)], ..Changes::default() })
                .unwrap();
            let left = Changes { given: vec![(id, gone, None)], owed: vec![(id, gone, None)], ..Changes::default() };
            file.write(CHANNEL, &left).unwrap();
            file.seen(CHANNEL, seen).unwrap();
        }
        let read = || PublishingFile::open(folder.path(), ME, key()).unwrap().channel(CHANNEL).unwrap();
        let stored = read();
        assert_eq!(stored.record, Some(seen));
        let [(over, of_over), (current, of_current)] = &stored.sessions[..] else { panic!("{stored:?}") };
        assert!(over.chain.is_none() && *of_over == Members::default() && over.end == 30);
        let expected: BTreeMap<_, _> = members.iter().map(|member| (*member, 4)).collect();
        assert_eq!((current.chain.as_ref().unwrap().counter(), &of_current.given), (30, &expected));
        assert_eq!(of_current.owed, BTreeMap::from([(members[0], 7)]));
        assert_eq!(current.base.to_bytes()[..], chain(2).key().to_bytes()[..]);

        // Whoever has other keys has nothing.
        let other = PublishingFile::open(folder.path(), ME, Zeroizing::new([6; 32])).unwrap();
        assert!(matches!(other.channel(CHANNEL), Err(StateError::Damaged { .. })));
        drop(other);

        // In a copy both could go on under the same counters.
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(folder.path().join("publishing.redb"), copy.path().join("publishing.redb")).unwrap();
        // And not when it is started again, or by whoever has its bytes afterwards, either.
        for start in 0..3 {
            let copied = PublishingFile::open(copy.path(), ME, key()).unwrap();
            for channel in [CHANNEL, ChannelId([8; 16])] {
                let sessions = copied.channel(channel).unwrap().sessions;
                assert!(!sessions.is_empty());
                assert!(sessions.iter().all(|(session, _)| session.chain.is_none() && session.end == 30), "{start}");
            }
        }
        assert_eq!(read().sessions[1].0.chain.as_ref().unwrap().counter(), 30, "the original goes on");

        let file = PublishingFile::open(folder.path(), ME, key()).unwrap();
        let id = chain(2).session_id();
        file.write(CHANNEL, &Changes { removed: vec![id], ..Changes::default() }).unwrap();
        assert_eq!(file.channel(CHANNEL).unwrap().sessions.len(), 1);
        file.write(CHANNEL, &Changes { sessions: vec![session(2, 8, false)], ..Changes::default() }).unwrap();
        assert_eq!(file.channel(CHANNEL).unwrap().sessions[1].1, Members::default(), "who was given it went with it");
    }

    #[test]
    fn keys_of_channels_are_read_as_they_were_written_and_not_with_other_keys() {
        let folder = tempfile::tempdir().unwrap();
        let times = Times { received_at_ms: 5, used_at_ms: 6 };
        let stored = |secret| StoredKey { key: chain(secret).at(12).unwrap().key(), times };
        {
            let (file, read) = Incoming::open(folder.path(), ME, key()).unwrap();
            assert!(read.channel_keys.is_empty());
            file.commit_channel_keys(&KeyChanges { kept: vec![stored(1), stored(2)], removed: vec![] }).unwrap();
            let removed = vec![(ME, chain(2).session_id())];
            file.commit_channel_keys(&KeyChanges { kept: vec![], removed }).unwrap();
        }
        let (_, read) = Incoming::open(folder.path(), ME, key()).unwrap();
        let [StoredKey { key: known, times: known_times }] = &read.channel_keys[..] else { panic!("one is left") };
        assert_eq!((known.counter(), *known_times), (12, times));
        let bytes: Zeroizing<Vec<u8>> = ChannelKey::to_bytes(known);
        assert_eq!(bytes[..], stored(1).key.to_bytes()[..]);
        let other = Incoming::open(folder.path(), ME, Zeroizing::new([6; 32]));
        assert!(matches!(other, Err(StateError::Damaged { .. })));
    }
    #[test]
    fn what_is_remembered_of_a_channel_that_is_read_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let seen = Some(SeenRecord { version: 3, sha256: [7; 32], owner: AgentId([8; 16]) });
        let rows = [ReadChannel { before: Some(0), seen }, ReadChannel { before: None, seen }, ReadChannel::default()];
        for row in rows {
            {
                let (file, _) = Incoming::open(folder.path(), ME, key()).unwrap();
                file.commit_channel(CHANNEL, &row).unwrap();
            }
            let (_, read) = Incoming::open(folder.path(), ME, key()).unwrap();
            assert_eq!(read.channels, BTreeMap::from([(CHANNEL, row)]));
        }
    }
}
