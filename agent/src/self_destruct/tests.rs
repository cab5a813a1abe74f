#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use super::*;

fn wrapped(how: SelfDestruct, now_ms: u64) -> Bytes {
    how.wrap(b"", Bytes::from(b"secret".to_vec()), now_ms)
}

fn destructing(payload: Bytes, now_ms: u64) -> (SelfDestructing, Fuse) {
    match found(payload, now_ms) {
        Found::Destructing(destructing, fuse) => (destructing, fuse),
        Found::Plain(_) => panic!("it destroys itself"),
        Found::Over => panic!("its time is not over"),
    }
}

#[tokio::test]
async fn what_it_says_is_there_until_the_delivery_is_finished_or_dropped() {
    let now_ms = clock::now_ms();
    let (message, fuse) = destructing(wrapped(SelfDestruct::AfterReading, now_ms), now_ms);
    assert_eq!((message.after_reading, message.until_ms), (true, None));
    assert_eq!(message.read(<[u8]>::to_vec).unwrap(), b"secret");
    // Whoever acknowledges while looking sees it to the end.
    let seen = message.read(|payload| {
        fuse.burn();
        payload.to_vec()
    });
    assert_eq!(seen.unwrap(), b"secret");
    assert_eq!(message.read(<[u8]>::to_vec), None);
    let (message, fuse) = destructing(wrapped(SelfDestruct::AfterReading, now_ms), now_ms);
    drop(fuse);
    assert_eq!(message.read(<[u8]>::to_vec), None);
}

#[tokio::test]
async fn when_its_time_is_over_it_is_erased_whoever_holds_it_and_looks_or_does_not() {
    let now_ms = clock::now_ms();
    let (message, _fuse) = destructing(wrapped(SelfDestruct::After(Duration::from_millis(100)), now_ms), now_ms);
    assert_eq!((message.after_reading, message.until_ms), (false, Some(now_ms + 100)));
    let is_there = || message.content.payload.lock().unwrap().is_some();
    // Nobody looks through `read`, which would erase it, too.
    tokio::time::timeout(Duration::from_secs(30), async {
        while is_there() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(clock::now_ms() >= now_ms + 100);
}

#[tokio::test]
async fn whoever_looks_when_its_time_is_over_sees_nothing_whatever_the_timer_does() {
    let now_ms = clock::now_ms();
    let (message, _fuse) = destructing(wrapped(SelfDestruct::AfterReadingOr(Duration::from_secs(60)), now_ms), now_ms);
    let until_ms = message.until_ms.unwrap();
    assert!(message.content.show(until_ms - 1).is_some());
    assert!(message.content.show(until_ms).is_none());
    assert!(message.content.show(until_ms - 1).is_none(), "and it stays gone, also under a clock that was set back");
}

#[tokio::test]
async fn one_whose_time_is_over_before_anybody_looked_went_unseen_and_one_that_was_shown_did_not() {
    let now_ms = clock::now_ms();
    let minute = SelfDestruct::AfterReadingOr(Duration::from_secs(60));
    for (looks_at, unseen) in [(None, true), (Some(now_ms), false), (Some(now_ms + 60_000), true)] {
        let (message, fuse) = destructing(wrapped(minute, now_ms), now_ms);
        let shown = looks_at.map(|at_ms| message.content.show(at_ms).is_some());
        assert_eq!(shown, looks_at.map(|at_ms| at_ms == now_ms));
        assert_eq!((fuse.went_unseen(now_ms + 59_999), fuse.went_unseen(now_ms + 60_000)), (false, unseen));
    }
    let (_message, fuse) = destructing(wrapped(SelfDestruct::AfterReading, now_ms), now_ms);
    assert!(!fuse.went_unseen(u64::MAX), "it has no time, and whoever acknowledges it unread has their reasons");
}

#[tokio::test]
async fn one_that_comes_too_late_is_not_shown_and_one_that_only_says_so_is_shown_as_it_came() {
    let payload = wrapped(SelfDestruct::After(Duration::from_millis(10)), 1_000);
    assert!(matches!(found(payload.clone(), 1_010), Found::Over));
    assert_eq!((looked_at(payload.clone(), 1_010), looked_at(payload, 1_009).unwrap()), (None, Bytes::from("secret")));
    for odd in [&b"\xffSD\x02later version"[..], b"\xffSD", b"plain"] {
        let payload = Bytes::copy_from_slice(odd);
        assert!(matches!(found(payload.clone(), 0), Found::Plain(same) if same == payload));
        assert_eq!(looked_at(payload.clone(), 0), Some(payload));
    }
}

#[test]
fn nothing_that_is_printed_says_what_is_in_it() {
    let payload = Mutex::new(Some(Bytes::from_static(b"secret")));
    let content = Arc::new(Content { until_ms: None, payload, was_shown: AtomicBool::new(false) });
    let message = SelfDestructing { after_reading: true, until_ms: None, content };
    let printed = format!("{message:?}");
    assert!(!printed.contains("secret") && !printed.contains("115"), "{printed}");
}
