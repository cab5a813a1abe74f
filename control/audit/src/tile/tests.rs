use super::*;

#[test]
fn paths_are_those_of_the_specification() {
    assert_eq!(tile_path(0, 1_234_067, 256), "tile/0/x001/x234/067");
    assert_eq!(tile_path(2, 0, 1), "tile/2/000.p/1");
    assert_eq!(bundle_path(999, 256), "tile/entries/999");
    assert_eq!(bundle_path(1_000, 112), "tile/entries/x001/000.p/112");
}

#[test]
fn a_bundle_is_read_as_it_was_written_and_a_broken_one_says_so() {
    let (short, long) = (vec![1; ENTRY_BYTES_MIN], vec![2; ENTRY_BYTES_MAX]);
    let mut bundle = Vec::new();
    push_entry(&mut bundle, &short);
    push_hidden(&mut bundle);
    push_entry(&mut bundle, &long);
    let found: Vec<_> = entries(&bundle).collect();
    assert_eq!(found, [Entry::Full(&short), Entry::Hidden, Entry::Full(&long)]);
    assert_eq!(bundle[..2], [0, u8::try_from(ENTRY_BYTES_MIN).unwrap()], "lengths are big-endian");
    let whole = [0, 2 + ENTRY_BYTES_MIN, 4 + ENTRY_BYTES_MIN];
    for length in 0..bundle.len() {
        let last = entries(&bundle[..length]).last();
        assert_eq!(last == Some(Entry::Broken), !whole.contains(&length), "{length} bytes");
    }
    assert_eq!(entries(&[0, 5, 1, 2, 3, 4, 5]).collect::<Vec<_>>(), [Entry::Broken]);
}
