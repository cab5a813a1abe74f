use creto_envelope::{AgentName, FrameHeader, FrameType, SignedKeyRecord, TrustDomain};
use creto_transparency::memory::MemoryLog;
use creto_transparency::{LeafKind, LogKeys};

use super::*;

fn agent_keys(name: &str) -> AgentKeys {
    AgentKeys::generate(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap()
}

fn log_keys() -> LogKeys {
    LogKeys::from_seeds("creto.local/creto-audit/node/keys", &[1; 32], &[2; 32]).unwrap()
}

/// An agent's key log and the node behind its connection.
struct World {
    key_log: Arc<KeyLog>,
    log: MemoryLog,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl World {
    fn without_file() -> Self {
        let key_log = KeyLog::open(Arc::new(agent_keys("acme/me")), None, Arc::default()).unwrap();
        key_log.connected();
        Self { key_log: Arc::new(key_log), ..Self::new() }
    }

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("me.keys.keylog");
        let key_log = KeyLog::open(Arc::new(agent_keys("acme/me")), Some(file.clone()), Arc::default()).unwrap();
        key_log.connected();
        Self { key_log: Arc::new(key_log), log: MemoryLog::new(), file, _folder: folder }
    }

    /// The node gets to know an agent.
    fn enter(&mut self, name: &str) -> SignedKeyRecord {
        let signed = agent_keys(name).signed_record(1, 0, 9);
        self.log.append(KeyLeaf::of(&signed.record, LeafKind::Enrolled, 5));
        signed
    }

    /// The node gets to know this agent.
    fn enter_me(&mut self) {
        let signed = self.key_log.own.0.signed_record(1, 0, 9);
        self.log.append(KeyLeaf::of(&signed.record, LeafKind::Enrolled, 5));
    }

    /// Answers a question as an honest node does. Returns whether it was one.
    async fn serve(&mut self, frame: &[u8]) -> bool {
        let (header, body) = frame.split_first_chunk().unwrap();
        match FrameHeader::parse(header).unwrap().frame_type {
            FrameType::KeyProofRequest => self.answers(&KeyProofRequest::parse(body).unwrap()).await,
            FrameType::KeyLeavesRequest => {
                self.key_log.leaves(self.log.leaves(&KeyLeavesRequest::parse(body).unwrap()));
            }
            _ => return false,
        }
        true
    }

    /// One look, as the agent takes it every now and then: its own record is proven, and pages are answered so.
    async fn look(&mut self, mut page: impl FnMut(&KeyLeavesRequest, KeyLeaves) -> KeyLeaves) -> Look {
        let key_log = Arc::clone(&self.key_log);
        let looking = tokio::spawn(async move {
            let look = key_log.look().await;
            key_log.looked(look);
            look
        });
        let question = self.question().await;
        self.answers(&question).await;
        loop {
            tokio::task::yield_now().await;
            if looking.is_finished() {
                return looking.await.unwrap();
            }
            if let Some(frame) = self.key_log.take_frame() {
                let request = KeyLeavesRequest::parse(&frame[8..]).unwrap();
                self.key_log.leaves(page(&request, self.log.leaves(&request)));
            }
        }
    }

    fn asks(&self, signed: &SignedKeyRecord) -> tokio::task::JoinHandle<Answer> {
        let (key_log, record) = (Arc::clone(&self.key_log), signed.record.clone());
        tokio::spawn(async move { key_log.prove(&record).await })
    }

    /// The next question that leaves.
    async fn question(&self) -> KeyProofRequest {
        let frame = self.key_log.next_frame().await;
        let (header, body) = frame.split_first_chunk().unwrap();
        assert_eq!(FrameHeader::parse(header).unwrap().frame_type, FrameType::KeyProofRequest);
        KeyProofRequest::parse(body).unwrap()
    }

    async fn answers(&mut self, question: &KeyProofRequest) {
        let proof = self.log.prove(question, &log_keys(), 5);
        self.key_log.proven(proof).await;
    }
}

#[tokio::test]
async fn proofs_that_are_asked_for_at_once_do_not_take_a_log_that_grows_for_another() {
    let mut world = World::new();
    let records: Vec<_> = (0..4).map(|n| world.enter(&format!("acme/a{n}"))).collect();
    let mut asking = Vec::new();
    let mut questions = Vec::new();
    for record in &records {
        asking.push(world.asks(record));
        questions.push(world.question().await);
    }
    assert!(questions.iter().all(|question| question.seen == 0 && question.wants_keys), "nothing was seen yet");
    // It grows between the answers, each of which says how it grew from nothing.
    for question in &questions {
        world.answers(question).await;
        world.enter("acme/more");
    }
    // Those that were overtaken are asked again, from what is seen now.
    for _ in 1..4 {
        let again = world.question().await;
        assert!(again.seen >= 4 && !again.wants_keys, "{again:?}");
        world.answers(&again).await;
    }
    for asked in asking {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_question_that_a_connection_lost_is_asked_on_the_next_one() {
    let mut world = World::new();
    let record = world.enter("acme/a");
    let asking = world.asks(&record);
    let first = world.question().await;
    world.key_log.lost();
    world.key_log.connected();
    assert_eq!(world.question().await, first);
    world.answers(&first).await;
    asking.await.unwrap().unwrap();
    // Late, and nobody's.
    world.answers(&first).await;
}

#[tokio::test]
async fn only_so_many_proofs_are_asked_for_at_a_time() {
    let mut world = World::new();
    let records: Vec<_> = (0..KEY_LOG_PROOFS_OPEN_MAX + 1).map(|n| world.enter(&format!("acme/a{n}"))).collect();
    let asking: Vec<_> = records.iter().map(|record| world.asks(record)).collect();
    let mut questions = Vec::new();
    for _ in 0..KEY_LOG_PROOFS_OPEN_MAX {
        questions.push(world.question().await);
    }
    tokio::task::yield_now().await;
    assert_eq!(world.key_log.take_frame(), None);
    for question in &questions {
        world.answers(question).await;
    }
    let last = world.question().await;
    world.answers(&last).await;
    for asked in asking {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_busy_node_is_asked_again_and_a_refusal_is_an_answer() {
    let mut world = World::new();
    let record = world.enter("acme/a");
    let (agent, version) = (record.record.agent_id(), 1);
    let asking = world.asks(&record);
    let busy = KeyLogRefusal { code: RejectCode::Overloaded.as_u16(), retry_after_ms: 1 };
    let refuse = |refusal: KeyLogRefusal| KeyProof { agent, version, answer: Err(refusal) };
    world.question().await;
    world.key_log.proven(refuse(busy)).await;
    world.question().await;
    world.key_log.proven(refuse(RejectCode::PolicyDenied.into())).await;
    assert_eq!(asking.await.unwrap(), Err(LookupError::Refused(RejectCode::PolicyDenied)));
    let asking = world.asks(&record);
    for _ in 0..KEY_LOG_TRIES_MAX {
        world.question().await;
        world.key_log.proven(refuse(busy)).await;
    }
    assert_eq!(asking.await.unwrap(), Err(LookupError::Refused(RejectCode::Overloaded)));
    let asking = world.asks(&record);
    world.question().await;
    world.key_log.proven(refuse(KeyLogRefusal { code: 9_999, retry_after_ms: 0 })).await;
    assert_eq!(asking.await.unwrap(), Err(LookupError::RefusedWith(9_999)));
}

#[tokio::test]
async fn what_was_seen_is_in_the_file_before_the_key_is_used_and_a_damaged_file_is_refused() {
    let mut world = World::new();
    let record = world.enter("acme/a");
    let asking = world.asks(&record);
    let question = world.question().await;
    world.answers(&question).await;
    asking.await.unwrap().unwrap();
    let me = world.key_log.own.agent();
    let seen = file::read(&world.file, me).unwrap().unwrap();
    assert_eq!((seen.watch.size(), seen.scan.size()), (1, 0));
    // Another process that has seen less does not take it back.
    let mut less = Watch::pin(log_keys().public().clone()).unwrap();
    less.advance(world.log.head(1, 4).sign(&log_keys()).as_bytes(), &[]).unwrap();
    world.enter("acme/b");
    let mut more = Watch::pin(log_keys().public().clone()).unwrap();
    more.advance(world.log.head(2, 4).sign(&log_keys()).as_bytes(), &[]).unwrap();
    for (watch, size) in [(&more, 2), (&less, 2)] {
        file::write(&world.file, me, &file::Seen::text(me, watch, &Scan::new())).unwrap();
        assert_eq!(file::read(&world.file, me).unwrap().unwrap().watch.size(), size);
    }

    let text = std::fs::read_to_string(&world.file).unwrap();
    let of = |text: &str| {
        std::fs::write(&world.file, text).unwrap();
        file::read(&world.file, me).map(|seen| seen.is_some())
    };
    assert!(matches!(of(&text), Ok(true)));
    let (head, tail) = text.split_at(text.len() / 2);
    assert!(matches!(of(head), Err(KeyLogFileError::Damaged { .. })));
    assert!(matches!(of(tail), Err(KeyLogFileError::Damaged { .. })));
    assert!(matches!(of(&text.replace("\\n2\\n", "\\n3\\n")), Err(KeyLogFileError::Damaged { .. })), "a forged head");
    assert!(matches!(of(&text.replace("\"read\": 0", "\"read\": 1")), Err(KeyLogFileError::Damaged { .. })));
    assert!(matches!(of(&text.replace("\"format\": 1", "\"format\": 2")), Err(KeyLogFileError::Version { .. })));
    let other = text.replace(&me.to_string(), &AgentId([9; 16]).to_string());
    assert!(matches!(of(&other), Err(KeyLogFileError::OtherAgent { .. })));
}

#[tokio::test]
async fn a_node_that_keeps_its_leaves_to_itself_is_not_believed_until_it_gives_them() {
    let mut world = World::new();
    let record = world.enter("acme/a");
    world.enter_me();
    let refusal = KeyLogRefusal { code: RejectCode::Overloaded.as_u16(), retry_after_ms: 0 };
    for looks in 1..=KEY_LOG_LOOKS_MISSED_MAX {
        assert_eq!(world.key_log.alarm(), None, "after {} looks", looks - 1);
        let look = world.look(|_, page| KeyLeaves { from: page.from, answer: Err(refusal) }).await;
        assert_eq!(look, Look::Missed);
    }
    let withheld = KeyLogError::Withheld { looks: KEY_LOG_LOOKS_MISSED_MAX, read: 0, size: 2 };
    assert_eq!(world.key_log.status().alarm, Some(withheld.clone()));
    assert_eq!(world.key_log.counters.snapshot().key_log_alarms, 1);
    let (agent, source) = (record.record.agent_id(), withheld);
    assert_eq!(world.asks(&record).await.unwrap(), Err(LookupError::KeyLog { agent, source }));
    // It looks on, and what it finds then counts.
    assert_eq!(world.look(|_, page| page).await, Look::Whole);
    assert_eq!((world.key_log.alarm(), world.key_log.status().read), (None, 2));
    let asking = world.asks(&record);
    let question = world.question().await;
    world.answers(&question).await;
    asking.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_node_that_gives_a_few_leaves_at_a_time_misses_a_look_with_each_and_nothing_is_read_twice() {
    let mut world = World::new();
    world.enter_me();
    for n in 0..5 {
        world.enter(&format!("acme/a{n}"));
    }
    let mut from = Vec::new();
    for looks in 1..=6 {
        let look = world
            .look(|request, mut page| {
                from.push(request.from);
                page.answer.as_mut().unwrap().truncate(1);
                page
            })
            .await;
        assert_eq!(look, if looks < 6 { Look::Missed } else { Look::Whole }, "look {looks}");
        assert_eq!(world.key_log.status().read, if looks < 6 { 0 } else { 6 });
    }
    assert_eq!(from, [0, 1, 2, 3, 4, 5]);
    assert_eq!(world.key_log.status().looks_missed, 0);
}

#[tokio::test]
async fn leaves_of_a_broken_off_look_that_are_not_the_heads_are_found_by_the_next() {
    let mut world = World::new();
    world.enter_me();
    world.enter("acme/a");
    let other = agent_keys("acme/other").signed_record(1, 0, 9);
    let other = KeyLeaf::of(&other.record, LeafKind::Enrolled, 5).to_bytes();
    let look = world.look(|_, page| KeyLeaves { from: page.from, answer: Ok(vec![other]) }).await;
    assert_eq!(look, Look::Missed);
    assert_eq!(world.look(|_, page| page).await, Look::Impossible);
    assert_eq!(world.key_log.alarm(), Some(KeyLogError::LeavesChanged { size: 2 }));
}

#[tokio::test]
async fn a_proof_that_others_overtake_is_asked_for_alone() {
    let mut world = World::new();
    world.enter_me();
    let record = world.enter("acme/a");
    let key_log = Arc::clone(&world.key_log);
    let looking = tokio::spawn(async move { key_log.look().await });
    for _ in 0..KEY_LOG_OVERTAKEN_MAX {
        let question = world.question().await;
        // Another proof is faster, each time under a newer head.
        world.enter("acme/more");
        let asking = world.asks(&record);
        let faster = world.question().await;
        world.answers(&faster).await;
        asking.await.unwrap().unwrap();
        world.enter("acme/more");
        world.answers(&question).await;
    }
    let alone = world.question().await;
    assert_eq!(alone.agent, world.key_log.own.agent());
    let asking = world.asks(&record);
    tokio::task::yield_now().await;
    assert_eq!(world.key_log.take_frame(), None, "nothing may overtake it now");
    world.enter("acme/more");
    world.answers(&alone).await;
    for what in ["the other proof", "the leaves"] {
        let frame = world.key_log.next_frame().await;
        assert!(world.serve(&frame).await, "{what}");
    }
    asking.await.unwrap().unwrap();
    assert_eq!(looking.await.unwrap(), Look::Whole);
}

#[tokio::test]
async fn a_question_that_was_given_up_on_the_wire_gets_its_own_answer_and_no_later_one_does() {
    let mut world = World::new();
    let (first, second) = (world.enter("acme/a"), world.enter("acme/b"));
    let asking = world.asks(&first);
    let given_up = world.question().await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    world.key_log.abandon((given_up.agent, given_up.version));
    // A newer head is seen meanwhile.
    let asking = world.asks(&second);
    let question = world.question().await;
    world.enter("acme/more");
    world.answers(&question).await;
    asking.await.unwrap().unwrap();
    // Whoever asks again waits for the answer that is on its way.
    let asking = world.asks(&first);
    tokio::task::yield_now().await;
    assert_eq!(world.key_log.take_frame(), None);
    world.answers(&given_up).await;
    while !asking.is_finished() {
        let frame = world.key_log.next_frame().await;
        world.serve(&frame).await;
        tokio::task::yield_now().await;
    }
    asking.await.unwrap().unwrap();
    assert_eq!((world.key_log.alarm(), world.key_log.counters.snapshot().key_log_refused), (None, 0));
}

#[tokio::test]
async fn an_agent_that_looks_by_itself_finds_out_in_time_and_one_that_is_told_to_look_counts_nothing() {
    let mut world = World::without_file();
    let pace = Pace { after: Duration::from_millis(20), every: Duration::from_secs(3_600) };
    Arc::get_mut(&mut world.key_log).unwrap().pace = pace;
    world.enter_me();
    let (closing, closed) = watch::channel(false);
    let looking = tokio::spawn(Arc::clone(&world.key_log).look_after(closed));
    let refusal = KeyLogRefusal { code: RejectCode::Overloaded.as_u16(), retry_after_ms: 0 };
    let began = std::time::Instant::now();
    // It would wait for an hour if a look that came to nothing counted like any other.
    while world.key_log.alarm().is_none() {
        let frame = world.key_log.next_frame().await;
        let (header, body) = frame.split_first_chunk().unwrap();
        match FrameHeader::parse(header).unwrap().frame_type {
            FrameType::KeyProofRequest => world.answers(&KeyProofRequest::parse(body).unwrap()).await,
            _ => {
                let from = KeyLeavesRequest::parse(body).unwrap().from;
                world.key_log.leaves(KeyLeaves { from, answer: Err(refusal) });
            }
        }
        tokio::task::yield_now().await;
    }
    assert!(began.elapsed() >= pace.after * (KEY_LOG_LOOKS_MISSED_MAX - 1), "not more often than that");
    closing.send(true).unwrap();
    looking.await.unwrap();
    // By hand it is looked as often as somebody likes.
    let missed = world.key_log.status().looks_missed;
    let key_log = Arc::clone(&world.key_log);
    let by_hand = tokio::spawn(async move { key_log.read_on().await });
    let question = world.question().await;
    let (agent, version) = (question.agent, question.version);
    let denied = KeyLogRefusal { code: RejectCode::PolicyDenied.as_u16(), retry_after_ms: 0 };
    world.key_log.proven(KeyProof { agent, version, answer: Err(denied) }).await;
    by_hand.await.unwrap();
    assert_eq!(world.key_log.status().looks_missed, missed);
}

#[tokio::test]
async fn a_late_proof_takes_no_question_that_was_not_asked_yet() {
    let mut world = World::new();
    let record = world.enter("acme/a");
    let asking = world.asks(&record);
    let late = world.question().await;
    world.key_log.lost();
    world.key_log.connected();
    // It comes before the question is asked on this connection.
    world.answers(&late).await;
    let again = world.question().await;
    world.answers(&again).await;
    asking.await.unwrap().unwrap();
}

#[tokio::test]
async fn two_processes_that_are_shown_two_logs_notice_at_their_file() {
    let mut world = World::new();
    let record = world.enter("acme/a");
    let me = world.key_log.own.agent();
    let mut others = MemoryLog::new();
    others.append(KeyLeaf::of(&agent_keys("acme/b").signed_record(1, 0, 9).record, LeafKind::Enrolled, 5));
    let mut other = Watch::pin(log_keys().public().clone()).unwrap();
    other.advance(others.head(1, 4).sign(&log_keys()).as_bytes(), &[]).unwrap();
    let text = file::Seen::text(me, &other, &Scan::new());
    assert_eq!(file::write(&world.file, me, &text).unwrap(), None);
    let asking = world.asks(&record);
    let question = world.question().await;
    world.answers(&question).await;
    let forked = KeyLogError::Forked { seen: 1, found: 1 };
    let (agent, source) = (record.record.agent_id(), forked.clone());
    assert_eq!(asking.await.unwrap(), Err(LookupError::KeyLog { agent, source }));
    assert_eq!(world.key_log.alarm(), Some(forked));
    assert_eq!(std::fs::read_to_string(&world.file).unwrap(), text);

    let stranger = LogKeys::from_seeds("creto.local/creto-audit/node/keys", &[3; 32], &[4; 32]).unwrap();
    let mut other = Watch::pin(stranger.public().clone()).unwrap();
    other.advance(world.log.head(1, 4).sign(&stranger).as_bytes(), &[]).unwrap();
    let text = file::Seen::text(me, &other, &Scan::new());
    assert_eq!(file::write(&world.file, me, &text).unwrap(), Some(KeyLogError::OtherKeys));
}
