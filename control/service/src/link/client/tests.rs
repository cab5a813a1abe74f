use std::sync::atomic::{AtomicUsize, Ordering};

use creto_envelope::TrustDomain;
use creto_link::{PolicyPart, SnapshotHead};
use rustls::crypto::aws_lc_rs::default_provider;

use super::*;
use crate::{channel_records, enrolment, key_log, key_records, prekeys, rotation};

/// Counts how often the shards were to look, and whether they could.
#[derive(Clone, Default)]
struct Counted(Arc<(AtomicUsize, AtomicUsize)>);

impl LinkSink for Counted {
    fn has_news(&self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }

    fn is_ready(&self) {
        self.0.1.fetch_add(1, Ordering::Relaxed);
    }

    fn is_low(&self, _: AgentId, _: PrekeyStock) {}
}

fn link(sink: &Counted) -> Link {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let options = LinkClientOptions {
        control: "control:7444".to_owned(),
        tls: Arc::new(tls),
        fingerprint: String::new(),
        trust_domain: TrustDomain::default(),
        retention_s: 60,
        socket_path: PathBuf::new(),
    };
    let questions = ShardQuestions {
        publications: rotation::publications().1,
        enrolments: enrolment::enrolments().1,
        key_records: key_records::key_record_questions().1,
        key_log: key_log::questions().1,
        prekeys: prekeys::prekey_requests().1,
        channels: channel_records::channel_questions().1,
    };
    let lease = Lease::default();
    let state = LinkState::new("control:7444".to_owned(), lease.clone());
    let sink = Box::new(sink.clone());
    Link { options, questions, lease, state, sink, held: None, was_ready: false, ask_every: Duration::from_millis(1) }
}

fn frame(said: &FromControl) -> Result<(FrameHeader, Vec<u8>), WireError> {
    let frame = said.to_frame();
    let (header, body) = frame.split_first_chunk().unwrap();
    Ok((FrameHeader::parse(header).unwrap(), body.to_vec()))
}

fn welcome(incarnation: [u8; 16]) -> FromControl {
    let lifetime_ms = u32::try_from(LIFETIME_MIN.as_millis()).unwrap();
    FromControl::Welcome(Welcome { trust_domain: TrustDomain::default(), lifetime_ms, incarnation })
}

fn begin(epoch: u64) -> FromControl {
    let policy = PolicyPart::SameOrganization;
    FromControl::SnapshotBegin(SnapshotHead { epoch, is_whole: true, key_grace_ms: 0, policy })
}

const END: FromControl = FromControl::SnapshotEnd { agents: 0, channels: 0 };

/// The numbers that were asked, up to the next one that is at least this.
async fn asked(sent: &mut mpsc::Receiver<Vec<u8>>, at_least: u64) -> u64 {
    loop {
        let frame = sent.recv().await.expect("it asks");
        let (header, body) = frame.split_first_chunk().unwrap();
        match FromNode::parse(FrameHeader::parse(header).unwrap(), body).unwrap() {
            FromNode::Ask { number } if number >= at_least => return number,
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_node_goes_on_asking_while_its_first_snapshot_is_on_its_way_however_long_that_takes() {
    let sink = Counted::default();
    let mut link = link(&sink);
    let lease = link.lease.clone();
    let (control, mut arrived) = mpsc::channel(FRAMES_MAX);
    let (unsent, mut sent) = mpsc::channel(UNSENT_MAX);
    let talking = tokio::spawn(async move {
        let down = link.talk(&unsent, &mut arrived, &mut Unanswered::default()).await;
        (link, down)
    });
    control.send(frame(&welcome([1; 16]))).await.unwrap();
    control.send(frame(&begin(7))).await.unwrap();
    // Many more than it could ask before it was answered for the first time.
    let newest = asked(&mut sent, 200).await;
    assert!(lease.newest_but(0).is_none());
    control.send(frame(&END)).await.unwrap();
    control.send(frame(&FromControl::Renewed { number: newest })).await.unwrap();
    asked(&mut sent, newest + 200).await;
    assert!(lease.is_alive_for(1), "it is what there is");
    assert_eq!(lease.newest_but(0).map(|(number, snapshot)| (number, snapshot.epoch())), Some((1, 7)));
    assert_eq!((sink.0.0.load(Ordering::Relaxed), sink.0.1.load(Ordering::Relaxed)), (2, 1));
    // What was asked before that is confirmed again makes nothing shorter or longer, and what was never asked is none of it.
    let left = lease.left().unwrap();
    control.send(frame(&FromControl::Renewed { number: newest - 1 })).await.unwrap();
    control.send(frame(&FromControl::Renewed { number: u64::MAX })).await.unwrap();
    let (_, down) = talking.await.unwrap();
    assert!(matches!(down, Err(Down::Order)), "{down:?}");
    assert!(lease.left().is_some_and(|now| now <= left));
}

#[tokio::test]
async fn a_directory_that_was_made_anew_is_refused_whatever_its_epoch() {
    let sink = Counted::default();
    let mut link = link(&sink);
    link.held = Some(([1; 16], 7));
    for (incarnation, is_the_same) in [([2; 16], false), ([1; 16], true)] {
        let (control, mut arrived) = mpsc::channel(FRAMES_MAX);
        let (unsent, _sent) = mpsc::channel(UNSENT_MAX);
        control.send(frame(&welcome(incarnation))).await.unwrap();
        for said in [begin(1_000), END] {
            control.send(frame(&said)).await.unwrap();
        }
        drop(control);
        let down = link.talk(&unsent, &mut arrived, &mut Unanswered::default()).await;
        assert_eq!(matches!(down, Err(Down::Incarnation)), !is_the_same, "{down:?}");
        assert_eq!(link.held, Some(([1; 16], if is_the_same { 1_000 } else { 7 })));
    }
}

#[tokio::test]
async fn while_nothing_can_be_written_what_control_says_is_read_on() {
    let sink = Counted::default();
    let mut link = link(&sink);
    let lease = link.lease.clone();
    let (control, mut arrived) = mpsc::channel(FRAMES_MAX);
    // Nobody takes anything of it.
    let (unsent, sent) = mpsc::channel(UNSENT_MAX);
    let talking = tokio::spawn(async move { link.talk(&unsent, &mut arrived, &mut Unanswered::default()).await });
    control.send(frame(&welcome([1; 16]))).await.unwrap();
    while sent.len() < UNSENT_MAX {
        tokio::task::yield_now().await;
    }
    for epoch in 1..50 {
        control.send(frame(&begin(epoch))).await.unwrap();
        control.send(frame(&END)).await.unwrap();
    }
    // The other side has ended the link: it has a moment for its last word.
    drop(sent);
    let why = RefusedLink { code: "not_admitted".to_owned(), reason: "because".to_owned() };
    control.send(frame(&FromControl::Refused(why))).await.unwrap();
    let down = talking.await.unwrap();
    assert!(matches!(&down, Err(Down::Refused(why)) if why.code == "not_admitted"), "{down:?}");
    assert_eq!(lease.newest_but(0).map(|(number, _)| number), Some(49));
}
