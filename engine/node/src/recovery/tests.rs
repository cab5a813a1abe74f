use super::*;

/// Four segments of 1 GB; 2 and 3 have digests.
struct Four;

impl SegmentSource for Four {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        Ok((1..=4).rev().map(|number| SegmentFile { number: SegmentNumber(number), bytes: 1_000_000_000 }).collect())
    }

    fn read(&mut self, _: SegmentNumber, _: u64, _: &mut [u8]) -> Result<(), SourceError> {
        Ok(())
    }

    fn read_digest(&mut self, _: SegmentNumber) -> Result<Bytes, SourceError> {
        Ok(Bytes::from_static(&[0; 1000]))
    }
}

#[test]
fn what_a_digest_stands_for_counts_as_done_and_not_as_read() {
    let progress = RecoveryProgress::default();
    let mut source = WatchedSource::new(Four, &progress);
    source.segments().unwrap();
    let mut window = vec![0; 1 << 20];
    let mut header = vec![0; 4096];
    for number in 1..=4 {
        source.read(SegmentNumber(number), 0, &mut header).unwrap();
    }
    // The end of the log is looked for first.
    source.read(SegmentNumber(4), 0, &mut window).unwrap();
    assert_eq!(progress.segments_done.load(Relaxed), 0);
    source.read(SegmentNumber(1), 0, &mut window).unwrap();
    source.read_digest(SegmentNumber(2)).unwrap();
    source.read_digest(SegmentNumber(3)).unwrap();
    assert_eq!(progress.segments_done.load(Relaxed), 2);
    assert_eq!(progress.bytes_read.load(Relaxed), 2 * (1 << 20) + 4 * 4096 + 2 * 1000);
    let text = progress.text(Duration::from_secs(3));
    assert_eq!(text, "[###############...............] 2 of 4 segments, 2.0 of 4.0 GB, 0.00 GB/s read, about 3 s left");
}

#[test]
fn a_recovery_that_is_over_at_once_is_not_spoken_of() {
    let (finish, finished) = std::sync::mpsc::channel::<()>();
    drop(finish);
    // Returns without waiting for anything.
    RecoveryProgress::default().report(&finished);
}
