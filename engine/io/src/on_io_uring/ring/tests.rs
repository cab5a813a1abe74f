use std::io::{Read, Write};
use std::time::Instant;

use super::super::buffer::Pool;
use super::*;

/// Every test runs with the rings of new kernels and of old ones.
fn on_each(test: impl Fn(Ring)) {
    test(Ring::deferring(8).expect("io_uring is allowed where these tests run"));
    test(Ring::plain(8).expect("io_uring is allowed where these tests run"));
}

/// The ring reads from a pipe.
fn reading(ring: &mut Ring) -> (Pool, SlotId, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let pool = Pool::default();
    let file = Rc::new(File::from(std::os::fd::OwnedFd::from(reader)));
    let id = ring.start(Operation::Read { file, buffer: pool.take(4_096), offset: 0 }).expect("there is room");
    ring.enter(None).expect("it is submitted");
    assert!(!ring.take_completions(|_| {}), "there is nothing to read yet");
    (pool, id, writer)
}

fn wait(ring: &mut Ring) {
    ring.enter(Some(Duration::from_secs(10))).expect("the ring waits");
    ring.take_completions(|_| {});
}

#[test]
fn an_operation_is_answered_once_with_its_memory() {
    on_each(|mut ring| {
        let (_, id, mut writer) = reading(&mut ring);
        assert!(ring.take(id).is_none());
        writer.write_all(b"hello").expect("the pipe has room");
        wait(&mut ring);
        let (read, operation) = ring.take(id).expect("it was answered");
        let Operation::Read { buffer, .. } = operation else { panic!("a read comes back as one") };
        assert_eq!((read, &buffer.bytes()[..5]), (5, &b"hello"[..]));
        assert_eq!((ring.under_way, ring.free.len()), (0, 1));
    });
}

#[test]
fn memory_stays_the_kernels_until_it_has_answered_although_nobody_waits_any_more() {
    on_each(|mut ring| {
        let (pool, id, mut writer) = reading(&mut ring);
        ring.abandon(id);
        assert_eq!(pool.kept(), 0, "the kernel may still write to it");
        writer.write_all(b"late").expect("the pipe has room");
        wait(&mut ring);
        assert_eq!((pool.kept(), ring.under_way, ring.free.len()), (1, 0, 1));
    });
}

#[test]
fn a_ring_that_is_dropped_waits_for_what_is_under_way() {
    on_each(|mut ring| {
        let (pool, _, mut writer) = reading(&mut ring);
        let writes = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            writer.write_all(b"last").expect("the pipe has room");
        });
        assert_eq!(pool.kept(), 0);
        drop(ring);
        assert_eq!(pool.kept(), 1, "the memory is free, so the kernel has answered");
        writes.join().expect("the writer ends");
    });
}

#[test]
fn more_is_asked_at_once_than_the_ring_holds() {
    on_each(|mut ring| {
        let mut named = tempfile::NamedTempFile::new().expect("a file");
        let file = Rc::new(named.reopen().expect("it opens again"));
        let pool = Pool::default();
        let ids: Vec<_> = (0..40u8)
            .map(|place| {
                let mut buffer = pool.take(4_096);
                buffer.bytes_mut().fill(place);
                let offset = u64::from(place) * 4_096;
                ring.start(Operation::Write { file: Rc::clone(&file), buffer: Rc::new(buffer), offset })
                    .expect("room is made")
            })
            .collect();
        let mut done = 0;
        while done < ids.len() {
            wait(&mut ring);
            done += ids.iter().filter(|&&id| ring.take(id).is_some_and(|(written, _)| written == 4_096)).count();
        }
        let mut bytes = Vec::new();
        named.read_to_end(&mut bytes).expect("it is read");
        assert!(bytes.chunks(4_096).zip(0u8..).all(|(block, place)| block.iter().all(|&byte| byte == place)));
        assert_eq!(bytes.len(), 40 * 4_096);
    });
}

#[test]
fn an_error_of_the_kernel_is_a_negative_result() {
    on_each(|mut ring| {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let file = Rc::new(File::from(std::os::fd::OwnedFd::from(reader)));
        let id = ring.start(Operation::Fdatasync { file }).expect("there is room");
        wait(&mut ring);
        let (result, _) = ring.take(id).expect("it was answered");
        assert_eq!(result, -libc::EINVAL, "a pipe cannot be synced");
    });
}

#[test]
fn waiting_ends_with_its_time_or_with_what_is_polled() {
    on_each(|mut ring| {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        ring.poll(Ready::Socket, std::os::fd::AsFd::as_fd(&reader)).expect("there is room");
        let began = Instant::now();
        ring.enter(Some(Duration::from_millis(30))).expect("the ring waits");
        assert!(began.elapsed() >= Duration::from_millis(30));
        ring.take_completions(|ready| panic!("nothing is ready, and not {ready:?}"));
        writer.write_all(b"x").expect("the pipe has room");
        ring.enter(Some(Duration::from_secs(10))).expect("the ring waits");
        let mut told = Vec::new();
        ring.take_completions(|ready| told.push(ready));
        assert_eq!(told, [Ready::Socket]);
    });
}
