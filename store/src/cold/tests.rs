use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn extents_are_whole_blocks_that_cover_what_is_wanted_and_lie_apart(
        ranges in proptest::collection::vec((0_u64..3, 0_u64..400_000, 1_u64..30_000), 1..12),
    ) {
        let mut extents = Vec::new();
        for &(segment, start, bytes) in &ranges {
            cover(&mut extents, SegmentNumber(segment), start, start + bytes);
        }
        for &(segment, start, bytes) in &ranges {
            let holds = |e: &&Extent| e.segment == SegmentNumber(segment) && e.start <= start && start + bytes <= e.end;
            prop_assert_eq!(extents.iter().filter(holds).count(), 1);
        }
        let block = BLOCK_BYTES as u64;
        prop_assert!(extents.iter().all(|e| e.start.is_multiple_of(block) && e.end.is_multiple_of(block)));
        extents.sort_by_key(|extent| (extent.segment, extent.start));
        for pair in extents.windows(2).filter(|pair| pair[0].segment == pair[1].segment) {
            prop_assert!(pair[0].end + READ_GAP_BYTES < pair[1].start, "two that are near are one");
        }
    }
}
