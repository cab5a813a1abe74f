use std::time::Instant;

use super::*;

fn reactor() -> Reactor {
    let ring = Ring::new(8).expect("io_uring is allowed where these tests run");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let event = Arc::new(EventFd::new().expect("an eventfd"));
    Reactor::new(ring, Beside::start(0).expect("a thread"), event, socket.into())
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_rest_ends_when_another_thread_wakes_the_shard() {
    let reactor = reactor();
    let waker = Waker::from(Arc::clone(&reactor.0.event));
    let began = Instant::now();
    let wakes = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        waker.wake();
    });
    reactor.rest(LONG).expect("the ring waits");
    assert!(began.elapsed() < LONG / 2);
    wakes.join().expect("the other thread ends");
    let began = Instant::now();
    reactor.rest(Duration::from_millis(30)).expect("the ring waits");
    assert!(began.elapsed() >= Duration::from_millis(30), "one wake ends one rest");
}

#[test]
fn what_was_done_beside_the_shard_ends_its_rest_and_goes_on() {
    let reactor = reactor();
    let told = Rc::new(Cell::new(0));
    reactor.spawn({
        let (reactor, told) = (reactor.clone(), Rc::clone(&told));
        async move {
            let slow = reactor.blocking(|| {
                std::thread::sleep(Duration::from_millis(20));
                Ok(7)
            });
            told.set(slow.await.expect("it was done"));
        }
    });
    reactor.look().expect("the ring answers");
    assert_eq!(told.get(), 0);
    let began = Instant::now();
    while told.get() == 0 {
        reactor.rest(LONG).expect("the ring waits");
    }
    assert!(told.get() == 7 && began.elapsed() < LONG / 2);
}

#[test]
fn a_task_that_spawns_another_and_one_that_wakes_itself_both_end() {
    let reactor = reactor();
    let ended = Rc::new(Cell::new(0));
    reactor.spawn({
        let (reactor, ended) = (reactor.clone(), Rc::clone(&ended));
        async move {
            let inner = Rc::clone(&ended);
            reactor.spawn(async move { inner.set(inner.get() + 1) });
            let mut polls = 0;
            poll_fn(|context| {
                polls += 1;
                context.waker().wake_by_ref();
                if polls < 3 { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            ended.set(ended.get() + 1);
        }
    });
    reactor.look().expect("the ring answers");
    assert_eq!((ended.get(), reactor.0.tasks.borrow().len()), (2, 0));
}

#[test]
fn the_end_lets_go_of_tasks_and_waits_for_what_they_had_asked() {
    let reactor = reactor();
    let named = tempfile::NamedTempFile::new().expect("a file");
    let file = Rc::new(named.reopen().expect("it opens again"));
    let dropped = Rc::new(());
    reactor.spawn({
        let (reactor, held) = (reactor.clone(), Rc::clone(&dropped));
        async move {
            let mut buffer = reactor.buffers().take(4_096);
            buffer.bytes_mut().fill(9);
            let write = Operation::Write { file, buffer: Rc::new(buffer), offset: 0 };
            reactor.carry_out(write).await.expect("it is written");
            drop(held);
        }
    });
    reactor.run_tasks();
    reactor.end();
    assert_eq!(Rc::strong_count(&dropped), 1, "the task is gone");
    drop(reactor);
    assert_eq!(std::fs::read(named.path()).expect("it is read"), vec![9; 4_096], "what was asked was carried out");
}
