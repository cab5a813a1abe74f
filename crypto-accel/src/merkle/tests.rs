use proptest::prelude::*;

use super::*;

/// RFC 6962 section 2.1, word by word: split at the largest power of two below the size.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(&[]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split_point(leaves.len()));
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

/// RFC 6962 section 2.1.1, word by word.
fn naive_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let split = split_point(leaves.len());
    let (left, right) = leaves.split_at(split);
    let (mut path, other) = match index < split {
        true => (naive_path(index, left), naive_root(right)),
        false => (naive_path(index - split, right), naive_root(left)),
    };
    path.push(other);
    path
}

fn split_point(size: usize) -> usize {
    size.next_power_of_two() / 2
}

fn numbered_leaves(size: usize) -> Vec<Hash> {
    (0..size).map(|number| sha256(&[&number.to_le_bytes()])).collect()
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap()
}

fn path_of(tree: &Tree, index: usize) -> Vec<Hash> {
    let mut path = Vec::new();
    tree.path(count(index), &mut path);
    path
}

#[test]
fn roots_are_those_of_the_reference_implementation_of_rfc_6962() {
    // From certificate-transparency's merkletree test data.
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let leaves = reference_leaves();
    let mut tree = Tree::new();
    tree.rebuild(&[]);
    assert_eq!(hex::encode(tree.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (last, root) in roots.iter().enumerate() {
        tree.rebuild(&leaves[..=last]);
        assert_eq!(hex::encode(tree.root()), *root, "tree of {} leaves", last + 1);
    }
}

#[test]
fn paths_are_those_of_the_reference_implementation_of_rfc_6962() {
    // Leaf (counted from zero), tree size and path, from certificate-transparency's merkletree test data.
    let known: [(usize, usize, &[&str]); 6] = [
        (0, 1, &[]),
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
        (
            1,
            5,
            &[
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
        (4, 5, &["d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"]),
    ];
    let leaves = reference_leaves();
    let mut tree = Tree::new();
    for (index, size, nodes) in known {
        tree.rebuild(&leaves[..size]);
        let path: Vec<Hash> = nodes.iter().map(|node| hex::decode(node).unwrap().try_into().unwrap()).collect();
        assert_eq!(path_of(&tree, index), path, "leaf {index} of {size}");
        assert_eq!(root_from_path(leaves[index], count(index), count(size), &path), Ok(tree.root()));
    }
}

/// Leaves of certificate-transparency's merkletree test data. They have no salt.
fn reference_leaves() -> Vec<Hash> {
    let inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    inputs.iter().map(|input| sha256(&[&[0], &hex::decode(input).unwrap()])).collect()
}

#[test]
fn every_path_of_every_tree_up_to_300_leaves_leads_to_its_root_and_to_no_other() {
    let leaves = numbered_leaves(300);
    let (mut tree, mut path, mut paths) = (Tree::new(), Vec::new(), 0u32);
    for size in 1..=300 {
        tree.rebuild(&leaves[..size]);
        for index in 0..size {
            tree.path(count(index), &mut path);
            assert_eq!(root_from_path(leaves[index], count(index), count(size), &path), Ok(tree.root()));
            // The neighbour's leaf under this path, and this leaf at the neighbour's place.
            if size > 1 {
                let other = (index + 1) % size;
                assert_ne!(root_from_path(leaves[other], count(index), count(size), &path), Ok(tree.root()));
                assert_ne!(root_from_path(leaves[index], count(other), count(size), &path), Ok(tree.root()));
            }
            paths += 1;
        }
    }
    assert_eq!(paths, 300 * 301 / 2);
}

/// Leaf, path and root, bit by bit, for every leaf of a small, an odd, a full and an unbalanced tree.
#[test]
fn every_flipped_bit_of_leaf_path_or_root_is_refused() {
    for size in [1, 2, 3, 7, 16, 33] {
        let leaves = numbered_leaves(size);
        let mut tree = Tree::new();
        tree.rebuild(&leaves);
        let root = tree.root();
        for (index, leaf) in leaves.iter().enumerate() {
            let (at, of, path) = (count(index), count(size), path_of(&tree, index));
            for bit in 0..256 {
                let (mut other_leaf, mut other_root) = (*leaf, root);
                flip(&mut other_leaf, bit);
                flip(&mut other_root, bit);
                assert_ne!(root_from_path(other_leaf, at, of, &path), Ok(root));
                assert_ne!(root_from_path(*leaf, at, of, &path), Ok(other_root));
            }
            for bit in 0..path.len() * 256 {
                let mut other = path.clone();
                flip(&mut other[bit / 256], bit % 256);
                assert_ne!(root_from_path(*leaf, at, of, &other), Ok(root), "bit {bit} of leaf {index} of {size}");
            }
        }
    }
}

#[test]
fn leaf_and_node_hashes_are_domain_separated() {
    let (salt, envelope) = ([7; 16], b"envelope".as_slice());
    assert_eq!(leaf_hash(&salt, envelope), sha256(&[&[0], &salt, envelope]));
    let (left, right) = ([1; 32], [2; 32]);
    assert_eq!(node_hash(&left, &right), sha256(&[&[1], &left, &right]));
    // An envelope that looks like two hashes is still a leaf.
    let forged = [left[16..].to_vec(), right.to_vec()].concat();
    let forged_salt = *left.first_chunk().unwrap();
    assert_ne!(leaf_hash(&forged_salt, &forged), node_hash(&left, &right));
}

#[test]
fn every_tree_up_to_300_leaves_is_the_naive_tree_with_the_naive_paths() {
    let leaves = numbered_leaves(300);
    let mut tree = Tree::new();
    for size in 1..=leaves.len() {
        let leaves = &leaves[..size];
        tree.rebuild(leaves);
        assert_eq!(tree.root(), naive_root(leaves));
        assert_eq!(tree.size() as usize, size);
        // All paths of small and odd sizes, the two ends of the others: the naive definition is cubic.
        let indices: Vec<usize> = match size <= 70 || size == 255 || size == 257 {
            true => (0..size).collect(),
            false => vec![0, size / 2, size - 1],
        };
        for index in indices {
            let path = path_of(&tree, index);
            assert_eq!(path, naive_path(index, leaves), "leaf {index} of {size}");
            assert_eq!(path.len(), usize::from(path_length(count(index), count(size)).unwrap()));
            assert_eq!(root_from_path(leaves[index], count(index), count(size), &path), Ok(tree.root()));
        }
    }
}

#[test]
fn a_rebuilt_tree_remembers_nothing_and_keeps_its_memory() {
    let leaves = numbered_leaves(256);
    let (mut reused, mut fresh) = (Tree::new(), Tree::new());
    reused.rebuild(&leaves);
    let capacity = reused.nodes.capacity();
    for size in [3, 256, 1, 0, 77] {
        reused.rebuild(&leaves[..size]);
        fresh = Tree { nodes: Vec::new(), ..fresh };
        fresh.rebuild(&leaves[..size]);
        assert_eq!((reused.root(), reused.size()), (fresh.root(), fresh.size()));
        assert_eq!(reused.nodes.capacity(), capacity);
    }
}

#[test]
fn an_index_outside_the_tree_is_refused() {
    for (index, size) in [(0, 0), (1, 1), (256, 256), (u32::MAX, u32::MAX)] {
        let refused = Err(PathError::IndexOutOfTree { index, size });
        assert_eq!(root_from_path([0; 32], index, size, &[]), refused);
    }
}

#[test]
fn the_longest_path_has_32_nodes() {
    assert_eq!(path_length(0, u32::MAX), Ok(32));
    assert_eq!(usize::from(path_length(0, u32::MAX).unwrap()), PATH_LENGTH_MAX);
    // The last leaf of 2^31 + 1 leaves hangs right under the root.
    assert_eq!(path_length(1 << 31, (1 << 31) + 1), Ok(1));
}

#[derive(Clone, Debug)]
enum Mutation {
    Leaf(usize),
    Node(usize, usize),
    Drop(usize),
    Insert(usize),
    Swap(usize, usize),
    Index(u32),
    Size(u32),
    Root(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (0..256usize).prop_map(Mutation::Leaf),
        (any::<usize>(), 0..256usize).prop_map(|(node, bit)| Mutation::Node(node, bit)),
        any::<usize>().prop_map(Mutation::Drop),
        any::<usize>().prop_map(Mutation::Insert),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Mutation::Swap(a, b)),
        prop_oneof![0..600u32, any::<u32>()].prop_map(Mutation::Index),
        prop_oneof![0..600u32, any::<u32>()].prop_map(Mutation::Size),
        (0..256usize).prop_map(Mutation::Root),
    ]
}

fn flip(hash: &mut Hash, bit: usize) {
    hash[bit / 8] ^= 1 << (bit % 8);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_mutated_proof_never_verifies(size in 1..400usize, index in any::<prop::sample::Index>(), what in mutation()) {
        let leaves = numbered_leaves(size);
        let index = index.index(size);
        let mut tree = Tree::new();
        tree.rebuild(&leaves);
        let (mut leaf, mut root, mut path) = (leaves[index], tree.root(), path_of(&tree, index));
        let (honest_path, honest) = (path.clone(), (count(index), count(size)));
        let (mut at, mut of) = honest;
        match what {
            Mutation::Leaf(bit) => flip(&mut leaf, bit),
            Mutation::Root(bit) => flip(&mut root, bit),
            Mutation::Insert(position) => path.insert(position % (path.len() + 1), [9; 32]),
            Mutation::Index(other) => at = other,
            Mutation::Size(other) => of = other,
            Mutation::Node(node, bit) if !path.is_empty() => { let n = node % path.len(); flip(&mut path[n], bit) }
            Mutation::Drop(node) if !path.is_empty() => { path.remove(node % path.len()); }
            Mutation::Swap(a, b) if !path.is_empty() => { let n = path.len(); path.swap(a % n, b % n) }
            _ => {}
        }
        prop_assume!(path != honest_path || (at, of) != honest || leaf != leaves[index] || root != tree.root());
        // A wrong size alone can still prove the root, where leaf and siblings lie the same way in both trees: that is
        // why the size is inside the signed statement. Then the path must have the same shape bit by bit.
        let verified = root_from_path(leaf, at, of, &path) == Ok(root);
        let only_size_changed = of != honest.1 && at == honest.0 && path == honest_path && leaf == leaves[index];
        let shape = |index: u32, size: u32| -> Vec<bool> {
            let (mut position, mut width, mut sides) = (index, size, Vec::new());
            while width > 1 {
                if position ^ 1 < width { sides.push(position & 1 == 0) }
                position /= 2;
                width = width.div_ceil(2);
            }
            sides
        };
        match verified {
            false => {}
            true => prop_assert!(only_size_changed && shape(at, of) == shape(honest.0, honest.1)),
        }
    }
}

proptest! {
    #[test]
    fn leaf_hashes_together_are_the_leaf_hashes_one_by_one(
        lengths in prop::collection::vec(0usize..3_000, 0..9),
        fill: u8,
    ) {
        let leaves: Vec<([u8; 16], Vec<u8>)> =
            lengths.iter().enumerate().map(|(index, length)| (fill.wrapping_add(index.to_le_bytes()[0]), length)).map(|(byte, length)| ([byte; 16], vec![byte.wrapping_mul(3); *length])).collect();
        let mut together = vec![[7; 32]];
        leaf_hashes(leaves.iter().map(|(salt, envelope)| (salt, envelope.as_slice())), &mut together);
        let one_by_one = leaves.iter().map(|(salt, envelope)| leaf_hash(salt, envelope));
        prop_assert_eq!(together, std::iter::once([7; 32]).chain(one_by_one).collect::<Vec<_>>());
    }
}
