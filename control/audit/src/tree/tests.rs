use proptest::prelude::*;

use super::*;

/// RFC 6962 section 2.1, word for word.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(&[]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(usize::try_from(split(leaves.len() as u64)).unwrap());
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

/// RFC 6962 section 2.1.1.
fn naive_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let k = usize::try_from(split(leaves.len() as u64)).unwrap();
    let (left, right) = leaves.split_at(k);
    let (mut path, other) =
        if index < k { (naive_path(index, left), right) } else { (naive_path(index - k, right), left) };
    path.push(naive_root(other));
    path
}

/// RFC 6962 section 2.1.2.
fn naive_consistency(old: usize, leaves: &[Hash], is_whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if is_whole { Vec::new() } else { vec![naive_root(leaves)] };
    }
    let k = usize::try_from(split(leaves.len() as u64)).unwrap();
    let (left, right) = leaves.split_at(k);
    let (mut proof, other) = if old <= k {
        (naive_consistency(old, left, is_whole), right)
    } else {
        (naive_consistency(old - k, right, false), left)
    };
    proof.push(naive_root(other));
    proof
}

struct Leaves(Vec<Hash>);

impl Nodes for Leaves {
    type Error = std::convert::Infallible;

    fn complete(&mut self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        let begin = usize::try_from(index << level).unwrap();
        Ok(naive_root(&self.0[begin..begin + (1 << level)]))
    }
}

fn leaves(count: usize) -> Leaves {
    Leaves((0..count as u64).map(|index| sha256(&[&index.to_le_bytes()])).collect())
}

#[test]
fn roots_are_those_of_the_rfc_however_leaves_come_in() {
    let Leaves(all) = leaves(1_100);
    for step in [1, 2, 3, 7, 255, 256, 257, 1_100] {
        let (mut tree, mut tiles) = (Frontier::new(), Vec::new());
        for part in all.chunks(step) {
            tree.append(part, |tile| tiles.push(tile));
            let size = usize::try_from(tree.size()).unwrap();
            assert_eq!(tree.root(), naive_root(&all[..size]), "{size} leaves, {step} at a time");
        }
        assert_eq!(tiles, all.chunks_exact(256).map(naive_root).collect::<Vec<_>>());
    }
    assert_eq!(Frontier::new().root(), sha256(&[]));
}

#[test]
fn a_tree_goes_on_from_its_subtrees() {
    for size in 0..70 {
        let mut all = leaves(140);
        let mut tree = Frontier::read(&mut all, size).unwrap();
        assert_eq!((tree.size(), tree.root()), (size, naive_root(&all.0[..usize::try_from(size).unwrap()])));
        tree.append(&all.0[usize::try_from(size).unwrap()..], |_| ());
        assert_eq!(tree.root(), naive_root(&all.0));
        assert_eq!(root_at(&mut all, size).unwrap(), naive_root(&all.0[..usize::try_from(size).unwrap()]));
    }
}

#[test]
fn proofs_are_those_of_the_rfc_and_hold_exactly() {
    for size in 1..=65_usize {
        let mut all = leaves(size);
        let root = naive_root(&all.0);
        for index in 0..size {
            let path = inclusion_proof(&mut all, index as u64, size as u64).unwrap();
            assert_eq!(path, naive_path(index, &all.0));
            let leaf = all.0[index];
            assert_eq!(root_of_inclusion(leaf, index as u64, size as u64, &path), Ok(root));
            let longer = [&path[..], &[leaf]].concat();
            assert_eq!(root_of_inclusion(leaf, index as u64, size as u64, &longer), Err(PathError::Length));
            if let Some((_, shorter)) = path.split_last() {
                assert_eq!(root_of_inclusion(leaf, index as u64, size as u64, shorter), Err(PathError::Length));
            }
        }
        for old in 0..=size {
            let (old_root, old, size) = (naive_root(&all.0[..old]), old as u64, size as u64);
            let proof = consistency_proof(&mut all, old, size).unwrap();
            if old > 0 {
                assert_eq!(proof, naive_consistency(usize::try_from(old).unwrap(), &all.0, true));
            }
            assert_eq!(check_consistency(old, old_root, size, root, &proof), Ok(()));
            let longer = [&proof[..], &[root]].concat();
            assert_eq!(check_consistency(old, old_root, size, root, &longer), Err(PathError::Length));
            if let Some((_, shorter)) = proof.split_last() {
                assert!(check_consistency(old, old_root, size, root, shorter).is_err());
            }
            assert!(check_consistency(old, [9; 32], size, root, &proof).is_err());
            assert!(old == 0 || check_consistency(old, old_root, size, [9; 32], &proof).is_err());
        }
    }
}

#[test]
fn the_tree_of_rfc_6962s_example_has_its_nodes_where_the_rfc_draws_them() {
    // RFC 6962 section 2.1.3, the tree of seven leaves.
    let mut all = leaves(7);
    let [a, b, c, d, e, f, j] = *all.0.as_slice().first_chunk::<7>().unwrap();
    let (g, h, i) = (node_hash(&a, &b), node_hash(&c, &d), node_hash(&e, &f));
    let (k, l) = (node_hash(&g, &h), node_hash(&i, &j));
    assert_eq!(inclusion_proof(&mut all, 0, 7).unwrap(), [b, h, l]);
    assert_eq!(inclusion_proof(&mut all, 3, 7).unwrap(), [c, g, l]);
    assert_eq!(inclusion_proof(&mut all, 4, 7).unwrap(), [f, j, k]);
    assert_eq!(inclusion_proof(&mut all, 6, 7).unwrap(), [i, k]);
    assert_eq!(consistency_proof(&mut all, 3, 7).unwrap(), [c, d, g, l]);
    assert_eq!(consistency_proof(&mut all, 4, 7).unwrap(), [l]);
    assert_eq!(consistency_proof(&mut all, 6, 7).unwrap(), [i, j, k]);
}

proptest! {
    #[test]
    fn a_changed_path_never_proves_the_root(size in 1_usize..300, index: usize, at: usize, bit in 0_u8..8) {
        let mut all = leaves(size);
        let index = index % size;
        let root = naive_root(&all.0);
        let mut path = inclusion_proof(&mut all, index as u64, size as u64).unwrap();
        prop_assert_eq!(root_of_inclusion(all.0[index], index as u64, size as u64, &path), Ok(root));
        let other = root_of_inclusion(all.0[index], (index as u64) ^ 1, size as u64, &path);
        prop_assert!(other != Ok(root) || path.is_empty() && index ^ 1 >= size);
        if !path.is_empty() {
            let at = at % path.len();
            path[at][usize::from(bit)] ^= 1 << bit;
            prop_assert_ne!(root_of_inclusion(all.0[index], index as u64, size as u64, &path), Ok(root));
        }
    }

    #[test]
    fn a_changed_consistency_proof_never_holds(size in 2_usize..300, old: usize, at: usize) {
        let mut all = leaves(size);
        let old = old % (size - 1) + 1;
        let (old_root, root) = (naive_root(&all.0[..old]), naive_root(&all.0));
        let mut proof = consistency_proof(&mut all, old as u64, size as u64).unwrap();
        let at = at % proof.len();
        proof[at][0] ^= 1;
        prop_assert_eq!(
            check_consistency(old as u64, old_root, size as u64, root, &proof), Err(PathError::OtherRoot));
    }
}

#[test]
fn a_frontier_goes_on_from_its_subtrees_and_from_no_others() {
    let Leaves(all) = leaves(300);
    for size in [0, 1, 2, 3, 255, 256, 257, 299] {
        let mut tree = Frontier::new();
        tree.append(&all[..size], |_| {});
        let subtrees: Vec<_> = tree.subtrees().copied().collect();
        let mut again = Frontier::from_subtrees(size as u64, &subtrees).unwrap();
        assert_eq!(again.root(), naive_root(&all[..size]));
        again.append(&all[size..], |_| {});
        assert_eq!((again.size(), again.root()), (300, naive_root(&all)));
        let longer = [&subtrees[..], &[[0; 32]]].concat();
        assert_eq!(Frontier::from_subtrees(size as u64, &longer), None);
        assert!(size == 0 || Frontier::from_subtrees(size as u64, &subtrees[1..]).is_none());
    }
}

/// A store of every complete subtree, filled by [`completed_by`] alone.
#[derive(Default)]
struct Store(std::collections::BTreeMap<(u8, u64), Hash>);

impl Nodes for Store {
    type Error = std::convert::Infallible;

    fn complete(&mut self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        Ok(self.0[&(level, index)])
    }
}

#[test]
fn what_each_leaf_completes_is_every_complete_subtree_and_no_other() {
    let Leaves(all) = leaves(300);
    let mut store = Store::default();
    for (index, leaf) in all.iter().enumerate() {
        let Ok(()) = completed_by(&mut store, index as u64, *leaf, |store, level, at, hash| {
            assert_eq!(store.0.insert((level, at), hash), None, "each is told once");
            Ok(())
        });
        let size = index + 1;
        assert_eq!(root_at(&mut store, size as u64), Ok(naive_root(&all[..size])));
        let complete: usize = (0..9).map(|level| size >> level).sum();
        assert_eq!(store.0.len(), complete);
    }
    for ((level, at), hash) in &store.0 {
        let begin = usize::try_from(at << level).unwrap();
        assert_eq!(*hash, naive_root(&all[begin..begin + (1 << level)]));
    }
}
