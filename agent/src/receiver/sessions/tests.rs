use creto_crypto_accel::keys::XWING_CIPHERTEXT_BYTES;
use creto_crypto_accel::seal::{RecipientKey, RecipientSecret};
use creto_crypto_accel::session::{Peers, SESSION_MESSAGES_MAX, SendChain};

use super::*;

const ME: AgentId = AgentId([9; 16]);
const NONCE: [u8; 12] = [0; 12];

/// A sender's end of a session, and this end's key.
struct Sender {
    secret: RecipientSecret,
    peers: Peers,
    chain: SendChain,
    wrapped_key: [u8; XWING_CIPHERTEXT_BYTES],
}

#[derive(Clone)]
struct Message {
    at: SessionUse,
    sealed: Vec<u8>,
    carries: bool,
}

impl Sender {
    fn new(id: u8) -> Self {
        let secret = RecipientSecret::from_seed(&[3; 32]);
        let peers = Peers { sender: [id; 16], recipient: ME.0, key_id: secret.key_id() };
        let (chain, wrapped_key) = SendChain::open(&RecipientKey::parse(secret.public()).unwrap(), &peers);
        Self { secret, peers, chain, wrapped_key }
    }

    fn seal(&mut self, carries: bool) -> Message {
        let (counter, key) = self.chain.next().unwrap();
        let mut sealed = Vec::new();
        key.seal_append(&NONCE, b"header", &counter.to_le_bytes(), &mut sealed);
        let at = SessionUse { key: (AgentId(self.peers.sender), self.chain.session_id()), counter };
        Message { at, sealed, carries }
    }

    fn open(&self, sessions: &IncomingSessions, message: &Message) -> Result<Opened, RejectCode> {
        let accept = || {
            let chain = ReceiveChain::accept(&self.secret, &self.peers, &message.at.key.1, &self.wrapped_key);
            chain.map_err(|_| RejectCode::EnvelopeSeal)
        };
        let accept = message.carries.then_some(accept);
        sessions.open_message(
            message.at,
            None,
            accept,
            &Sealed { nonce: NONCE, aad: b"header", payload: &message.sealed },
        )
    }
}

fn payload(message: &Message, accepted: bool) -> Result<Opened, RejectCode> {
    Ok(Opened::Payload { payload: message.at.counter.to_le_bytes().to_vec(), accepted })
}

const BOUNDS: Bounds = Bounds {
    sender_sessions: 4,
    all_sessions: 8,
    sender_keys: 8_192,
    all_keys: 12_288,
    sender_refused: 8,
    all_refused: 8,
};

fn in_memory() -> IncomingSessions {
    IncomingSessions::new(BOUNDS)
}

fn on_disk(folder: &Path) -> IncomingSessions {
    IncomingSessions::open(folder, ME, Zeroizing::new([0; 32]), BOUNDS).unwrap()
}

#[test]
fn a_session_begins_with_any_message_that_carries_its_key_and_takes_the_others_in_any_order() {
    let (mut sender, sessions) = (Sender::new(1), in_memory());
    let messages: Vec<Message> = [true, true, false, false].map(|carries| sender.seal(carries)).to_vec();
    assert_eq!(sender.open(&sessions, &messages[2]), Err(RejectCode::UnknownSession), "nothing opens it yet");
    assert_eq!(sender.open(&sessions, &messages[1]), payload(&messages[1], true));
    for message in [&messages[3], &messages[0], &messages[2], &messages[1]] {
        assert_eq!(sender.open(&sessions, message), payload(message, false));
    }
}

#[test]
fn a_settled_message_is_a_duplicate_and_any_other_opens_as_often_as_it_comes() {
    let (mut sender, sessions) = (Sender::new(1), in_memory());
    let (first, second) = (sender.seal(true), sender.seal(true));
    sender.open(&sessions, &first).unwrap();
    sender.open(&sessions, &second).unwrap();
    sessions.settle([first.at]).unwrap();
    assert_eq!(sender.open(&sessions, &first), Ok(Opened::Settled), "also though it carries the wrapped key");
    assert_eq!(sender.open(&sessions, &second), payload(&second, false));
}

#[test]
fn what_does_not_open_makes_no_session_and_moves_none() {
    let (mut sender, sessions) = (Sender::new(1), in_memory());
    let good = sender.seal(true);
    let mut bad = good.clone();
    bad.sealed[0] ^= 1;
    assert_eq!(sender.open(&sessions, &bad), Err(RejectCode::EnvelopeSeal));
    assert!(sessions.table().sessions.is_empty());
    sender.open(&sessions, &good).unwrap();
    let mut far = sender.seal(false);
    far.at.counter = SESSION_MESSAGES_MAX - 1;
    assert_eq!(sender.open(&sessions, &far), Err(RejectCode::EnvelopeSeal));
    far.at.counter = SESSION_MESSAGES_MAX;
    assert_eq!(sender.open(&sessions, &far), Err(RejectCode::SessionCounter));
    // Whoever takes the session of another finds none under its own name.
    let mut thief = good.clone();
    thief.at.key.0 = AgentId([66; 16]);
    thief.carries = false;
    assert_eq!(sender.open(&sessions, &thief), Err(RejectCode::UnknownSession));
}

#[test]
fn the_session_that_was_idle_longest_goes_when_a_sender_or_all_have_too_many() {
    let sessions = in_memory();
    let open = |id: u8| {
        let mut sender = Sender::new(id);
        let opener = sender.seal(true);
        assert_eq!(sender.open(&sessions, &opener), payload(&opener, true));
        (sender, opener)
    };
    let mut of_one: Vec<_> = (0..4).map(|_| open(1)).collect();
    let (sender, opener) = &of_one[0];
    sender.open(&sessions, opener).unwrap();
    of_one.push(open(1));
    let known = |(sender, opener): &(Sender, Message)| {
        let message = Message { carries: false, ..opener.clone() };
        sender.open(&sessions, &message) != Err(RejectCode::UnknownSession)
    };
    assert_eq!(of_one.iter().map(known).collect::<Vec<_>>(), [true, false, true, true, true]);
    let others: Vec<_> = (2..8).map(open).collect();
    assert!(others.iter().all(known));
    assert_eq!(of_one.iter().filter(|session| known(session)).count(), 2, "eight in all");
    let table = sessions.table();
    assert_eq!((table.sessions.len(), table.counts.total), (8, 8));
    assert_eq!(table.senders.values().map(BTreeMap::len).sum::<usize>(), 8);
}

#[test]
fn hundreds_of_processes_of_one_sender_keep_their_sessions() {
    let sessions = IncomingSessions::new(Bounds::PRODUCTION);
    let processes: Vec<_> = (0..300).map(|_| skipping(&sessions, 1, 0)).collect();
    assert!(processes.iter().all(|process| is_known(&sessions, process)));
}

/// A session of `id` whose first message to come is the one at `counter`.
fn skipping(sessions: &IncomingSessions, id: u8, counter: u64) -> (Sender, Vec<Message>) {
    let mut sender = Sender::new(id);
    let messages: Vec<Message> = (0..=counter).map(|_| sender.seal(true)).collect();
    sender.open(sessions, messages.last().unwrap()).unwrap();
    (sender, messages)
}

fn is_known(sessions: &IncomingSessions, (sender, messages): &(Sender, Vec<Message>)) -> bool {
    let message = Message { carries: false, ..messages.last().unwrap().clone() };
    sender.open(sessions, &message) != Err(RejectCode::UnknownSession)
}

#[test]
fn one_message_far_ahead_makes_room_for_its_keys_among_its_senders_own_sessions_only() {
    let folder = tempfile::tempdir().unwrap();
    let sessions = on_disk(folder.path());
    let last = SESSION_MESSAGES_MAX - 1;
    let honest = skipping(&sessions, 2, 20);
    let idle = skipping(&sessions, 1, 0);
    let greedy: Vec<_> = (0..3).map(|_| skipping(&sessions, 1, last)).collect();
    let known: Vec<bool> = greedy.iter().map(|session| is_known(&sessions, session)).collect();
    assert_eq!(known, [false, true, true], "8,192 keys of one sender");
    assert!(is_known(&sessions, &honest) && is_known(&sessions, &idle), "neither another's, nor one without keys");
    // A second one: above the bound over all, whoever has most pays.
    let other: Vec<_> = (0..2).map(|_| skipping(&sessions, 3, last)).collect();
    let largest = greedy[1..].iter().chain(&other);
    assert_eq!(largest.filter(|session| is_known(&sessions, session)).count(), 2);
    assert!(is_known(&sessions, &honest));
    let all = |sessions: &IncomingSessions| sessions.table().keys.total;
    assert_eq!(all(&sessions), 2 * 4_096 + 32);

    // What is read from the disk counts the same, and what is settled does not count.
    sessions.settle([honest.1[20].at, other[1].1[4_095].at, idle.1[0].at]).unwrap();
    drop(sessions);
    let sessions = on_disk(folder.path());
    assert_eq!(all(&sessions), 4_096 + 32);
    sessions.settle(other[1].1.iter().map(|message| message.at)).unwrap();
    assert_eq!(all(&sessions), 32);
    assert!(is_known(&sessions, &honest) && is_known(&sessions, &other[1]));
}

/// Messages of `hostile` that would open a session far ahead, and do not open: how many of them were tried.
fn flood(sessions: &IncomingSessions, hostile: &Sender, count: u8, counter: u64) -> usize {
    let tried = std::cell::Cell::new(0);
    for n in 0..count {
        let accept = || {
            tried.set(tried.get() + 1);
            Ok(ReceiveChain::accept(&hostile.secret, &hostile.peers, &hostile.chain.session_id(), &hostile.wrapped_key)
                .unwrap())
        };
        let at = SessionUse { key: (AgentId(hostile.peers.sender), [n; 16]), counter };
        let refused =
            sessions.open_message(at, None, Some(accept), &Sealed { nonce: NONCE, aad: b"header", payload: &[0; 24] });
        assert_eq!(refused, Err(RejectCode::EnvelopeSeal));
    }
    tried.get()
}

#[test]
fn a_sender_whose_openers_fail_is_tried_no_further_where_it_is_dear_and_still_loses_nothing_that_holds() {
    let sessions = in_memory();
    let mut hostile = Sender::new(1);
    let (near, far) = {
        let messages: Vec<Message> = (0..SESSION_MESSAGES_MAX).map(|_| hostile.seal(true)).collect();
        (messages[1_000].clone(), messages[4_095].clone())
    };
    let tried = flood(&sessions, &hostile, 200, 4_095);
    assert!((8..60).contains(&tried), "8 and one in 16 of the rest, give or take: {tried}");
    assert_eq!(flood(&sessions, &hostile, 50, 1_024), 50, "what is cheap is always tried");
    let unopened = Message { carries: false, ..far.clone() };
    assert_eq!(hostile.open(&sessions, &unopened), Err(RejectCode::UnknownSession), "as ever");
    let mut other = Sender::new(2);
    let of_other = (0..=2_000).map(|_| other.seal(true)).last().unwrap();
    assert_eq!(other.open(&sessions, &of_other), payload(&of_other, true), "nobody else pays");
    // The same messages come in the same order on every connection, and the one that holds is the last.
    let opened = (0..1_000).find(|_| {
        sessions.stream_begins();
        flood(&sessions, &hostile, 20, 4_095);
        hostile.open(&sessions, &far).is_ok()
    });
    assert!(opened.is_some(), "a thousand connections with one chance in 16 each");
    assert_eq!(hostile.open(&sessions, &near), payload(&near, false));
}

/// Its keys go one by one, and the memory for them with them; one message that never comes keeps what lies above it.
#[test]
fn a_session_whose_messages_are_settled_takes_no_room() {
    let sessions = in_memory();
    let (sender, messages) = skipping(&sessions, 1, 999);
    let held = |sessions: &IncomingSessions| sessions.table().keys.total;
    assert_eq!(held(&sessions), 1_024);
    sessions.settle(messages[1..].iter().map(|message| message.at)).unwrap();
    assert_eq!(held(&sessions), 1_024, "the first one is still to come");
    assert_eq!(sender.open(&sessions, &messages[0]), payload(&messages[0], false));
    sessions.settle([messages[0].at]).unwrap();
    assert_eq!(held(&sessions), 0);
    assert_eq!(sender.open(&sessions, &messages[0]), Ok(Opened::Settled));
}

#[test]
fn a_session_that_goes_for_want_of_room_goes_from_the_disk_too() {
    let folder = tempfile::tempdir().unwrap();
    {
        let sessions = on_disk(folder.path());
        for _ in 0..6 {
            let mut sender = Sender::new(1);
            let opener = sender.seal(true);
            sender.open(&sessions, &opener).unwrap();
            sessions.settle([opener.at]).unwrap();
        }
    }
    assert_eq!(on_disk(folder.path()).table().sessions.len(), 4);
}

#[test]
fn what_is_refused_is_kept_on_disk_and_opens_in_another_process_with_all_that_follows() {
    let folder = tempfile::tempdir().unwrap();
    let mut sender = Sender::new(1);
    let (opener, settled, follower) = (sender.seal(true), sender.seal(false), sender.seal(false));
    {
        let sessions = on_disk(folder.path());
        sender.open(&sessions, &opener).unwrap();
        sessions.settle_and_keep([], [(opener.at, 1)]).unwrap();
        let before = std::fs::metadata(folder.path().join("incoming.redb")).unwrap().modified().unwrap();
        sessions.settle_and_keep([], [(opener.at, 1)]).unwrap();
        let after = std::fs::metadata(folder.path().join("incoming.redb")).unwrap().modified().unwrap();
        assert_eq!(after, before, "any state of it that is on disk will do");
    }
    {
        let sessions = on_disk(folder.path());
        for message in [&follower, &settled, &opener] {
            assert_eq!(sender.open(&sessions, message), payload(message, false));
        }
        // Together with what is done: of both the one transaction says what they need.
        sessions.settle_and_keep([settled.at], [(opener.at, 1)]).unwrap();
    }
    let sessions = on_disk(folder.path());
    assert_eq!(sender.open(&sessions, &settled), Ok(Opened::Settled));
    for message in [&opener, &follower] {
        assert_eq!(sender.open(&sessions, message), payload(message, false));
    }
}

/// The second process numbers its uses above those of the first: in the third one, what the second used is the later.
#[test]
fn what_was_used_last_is_known_over_two_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let open = |sessions: &IncomingSessions| {
        let mut sender = Sender::new(1);
        let messages = [true, true].map(|carries| sender.seal(carries)).to_vec();
        sender.open(sessions, &messages[0]).unwrap();
        sessions.settle([messages[0].at]).unwrap();
        (sender, messages)
    };
    let processes: Vec<_> = {
        let sessions = on_disk(folder.path());
        let processes: Vec<_> = (0..4).map(|_| open(&sessions)).collect();
        // Each is used often.
        for _ in 0..9 {
            for (sender, messages) in &processes {
                sender.open(&sessions, &messages[1]).unwrap();
            }
        }
        sessions.settle(processes.iter().map(|(_, messages)| messages[1].at)).unwrap();
        processes
    };
    let late = {
        let sessions = on_disk(folder.path());
        // In the place of the first one, which was idle longest.
        let late = open(&sessions);
        assert!(!is_known(&sessions, &processes[0]));
        late
    };
    let sessions = on_disk(folder.path());
    open(&sessions);
    let known = [&processes[1], &processes[2], &processes[3], &late].map(|process| is_known(&sessions, process));
    assert_eq!(known, [false, true, true, true], "the one that was idle longest goes, not the one that was used last");
}

#[test]
fn what_failed_to_be_written_is_written_when_it_is_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut sender, mut other) = (Sender::new(1), Sender::new(1));
    let (settled, kept) = (sender.seal(true), other.seal(true));
    let follower = other.seal(false);
    {
        let sessions = on_disk(folder.path());
        sender.open(&sessions, &settled).unwrap();
        other.open(&sessions, &kept).unwrap();
        let fails = |fails| sessions.disk.lock().unwrap().as_mut().unwrap().fails = fails;
        fails(true);
        for _ in 0..2 {
            sessions.settle_and_keep([settled.at], [(kept.at, 2)]).expect_err("none of it is on the disk");
        }
        fails(false);
        sessions.settle_and_keep([settled.at], [(kept.at, 2)]).unwrap();
    }
    let sessions = on_disk(folder.path());
    assert_eq!(sender.open(&sessions, &settled), Ok(Opened::Settled));
    assert_eq!(other.open(&sessions, &follower), payload(&follower, false));
}

#[test]
fn what_failed_to_be_removed_is_removed_with_the_next_transaction() {
    let folder = tempfile::tempdir().unwrap();
    {
        let sessions = on_disk(folder.path());
        for n in 0..6 {
            let mut sender = Sender::new(1);
            let opener = sender.seal(true);
            sender.open(&sessions, &opener).unwrap();
            sessions.disk.lock().unwrap().as_mut().unwrap().fails = n == 4;
            assert_eq!(sessions.settle([opener.at]).is_err(), n == 4);
        }
    }
    let (_, left) = Incoming::open(folder.path(), ME, Zeroizing::new([0; 32])).unwrap();
    assert_eq!(left.sessions.len(), 3, "the fifth was never written, and the first two are gone");
}

#[test]
fn what_is_settled_again_is_not_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut sender, sessions) = (Sender::new(1), on_disk(folder.path()));
    let message = sender.seal(true);
    sender.open(&sessions, &message).unwrap();
    sessions.settle([message.at]).unwrap();
    let before = std::fs::metadata(folder.path().join("incoming.redb")).unwrap().modified().unwrap();
    sessions.settle([message.at, message.at]).unwrap();
    assert_eq!(std::fs::metadata(folder.path().join("incoming.redb")).unwrap().modified().unwrap(), before);
}

/// A refused message of a session that went for want of room since, with the one that opened the session.
fn refused_and_crowded_out(sessions: &IncomingSessions) -> (Sender, Message, Message) {
    let mut sender = Sender::new(1);
    let (opener, refused) = (sender.seal(true), sender.seal(false));
    for message in [&opener, &refused] {
        sender.open(sessions, message).unwrap();
    }
    sessions.settle_and_keep([opener.at], [(refused.at, 7)]).unwrap();
    for _ in 0..4 {
        let (_, messages) = skipping(sessions, 1, 0);
        sessions.settle([messages[0].at]).unwrap();
    }
    (sender, opener, refused)
}

#[test]
fn a_refused_message_opens_however_many_sessions_come_after_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, opener, refused) = {
        let sessions = on_disk(folder.path());
        let (sender, opener, refused) = refused_and_crowded_out(&sessions);
        assert_eq!(sender.open(&sessions, &refused), payload(&refused, false));
        (sender, opener, refused)
    };
    {
        let sessions = on_disk(folder.path());
        assert_eq!(sender.open(&sessions, &refused), payload(&refused, false), "in another process");
        let unopened = Message { carries: false, ..opener.clone() };
        assert_eq!(sender.open(&sessions, &unopened), Err(RejectCode::UnknownSession), "its session is gone");
        // Delivered again, and acknowledged.
        sessions.settle([refused.at]).unwrap();
        assert_eq!(sender.open(&sessions, &refused), Ok(Opened::Settled));
    }
    assert_eq!(sender.open(&on_disk(folder.path()), &refused), Ok(Opened::Settled), "also in the next one");
}

#[test]
fn the_key_of_a_refused_message_goes_when_it_is_acknowledged_after_all_or_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let mut sender = Sender::new(1);
    let (opener, refused) = (sender.seal(true), sender.seal(false));
    let kept = |folder: &Path| Incoming::open(folder, ME, Zeroizing::new([0; 32])).unwrap().1.refused.len();
    {
        let sessions = on_disk(folder.path());
        sender.open(&sessions, &opener).unwrap();
        sender.open(&sessions, &refused).unwrap();
        sessions.settle_and_keep([], [(opener.at, 1), (refused.at, 2)]).unwrap();
        sessions.settle([opener.at]).unwrap();
    }
    assert_eq!(kept(folder.path()), 1);
    {
        let sessions = on_disk(folder.path());
        let fails = |fails| sessions.disk.lock().unwrap().as_mut().unwrap().fails = fails;
        fails(true);
        sessions.purge_refused(&[2, 3]).unwrap_err();
        fails(false);
        sessions.settle([]).unwrap();
        assert_eq!(sender.open(&sessions, &refused), Ok(Opened::Settled), "its session has no key of it either");
    }
    assert_eq!(kept(folder.path()), 0);
}

#[test]
fn a_refused_message_that_opened_its_session_opens_also_when_the_encryption_key_was_erased() {
    let sessions = in_memory();
    let mut sender = Sender::new(1);
    let opener = sender.seal(true);
    sender.open(&sessions, &opener).unwrap();
    sessions.settle_and_keep([], [(opener.at, 1)]).unwrap();
    for _ in 0..4 {
        skipping(&sessions, 1, 0);
    }
    let erased = Some(|| Err(RejectCode::UnknownRecipientKey));
    let sealed = Sealed { nonce: NONCE, aad: b"header", payload: &opener.sealed };
    assert_eq!(sessions.open_message(opener.at, None, erased, &sealed), payload(&opener, false));
    let tampered = Sealed { aad: b"another", ..sealed };
    assert_eq!(sessions.open_message(opener.at, None, erased, &tampered), Err(RejectCode::EnvelopeSeal));
}

/// The life of three messages at their recipient, step by step, in an order where acknowledgements overtake each other.
#[derive(Clone, Copy, Debug)]
enum Step {
    Open(usize),
    /// The application acknowledged it, and what that says is on disk.
    Settle(usize),
    /// The node got the ConsumerAck and forgot the message.
    Forget(usize),
}

/// The process dies after every number of steps; the node delivers again, in order, whatever it has not forgotten. Nothing
/// is lost, because all of it opens or is known to be settled; nothing that was settled is shown again; and this holds
/// if the process dies a second time after the next step.
#[test]
fn a_process_that_dies_anywhere_loses_nothing_and_shows_nothing_again_that_was_settled() {
    use Step::{Forget, Open, Settle};
    let life = [Open(0), Open(1), Settle(1), Open(2), Forget(1), Settle(0), Settle(2), Forget(2), Forget(0)];
    for first_life in 0..=life.len() {
        for second_life in first_life..=life.len().min(first_life + 2) {
            let folder = tempfile::tempdir().unwrap();
            let mut sender = Sender::new(1);
            // Only the first one carries the key: the others were sealed after it was acknowledged to their sender.
            let messages = [true, false, false].map(|carries| sender.seal(carries));
            let (mut settled, mut forgotten) = ([false; 3], [false; 3]);
            let redeliver = |sessions: &IncomingSessions, settled: &[bool; 3], forgotten: &[bool; 3]| {
                for (n, message) in messages.iter().enumerate().filter(|(n, _)| !forgotten[*n]) {
                    let opened = sender.open(sessions, message);
                    match settled[n] {
                        true => assert_eq!(opened, Ok(Opened::Settled), "{n} after {first_life}, {second_life}"),
                        false => assert!(
                            matches!(opened, Ok(Opened::Payload { .. })),
                            "{n} is lost after {first_life}, {second_life}: {opened:?}"
                        ),
                    }
                }
            };
            let run = |steps: &[Step], settled: &mut [bool; 3], forgotten: &mut [bool; 3]| {
                let sessions = on_disk(folder.path());
                redeliver(&sessions, settled, forgotten);
                for step in steps {
                    match *step {
                        Open(n) => assert!(matches!(sender.open(&sessions, &messages[n]), Ok(Opened::Payload { .. }))),
                        Settle(n) => {
                            sessions.settle([messages[n].at]).unwrap();
                            settled[n] = true;
                        }
                        Forget(n) => forgotten[n] = true,
                    }
                }
                // Dropped, not closed: what is not on disk is gone.
            };
            run(&life[..first_life], &mut settled, &mut forgotten);
            run(&life[first_life..second_life], &mut settled, &mut forgotten);
            run(&[], &mut settled, &mut forgotten);
        }
    }
}
