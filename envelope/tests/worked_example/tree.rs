//! Known answers of the tree for small sizes, so that another implementation can be checked without any cryptography
//! but SHA-256.

use creto_crypto_accel::merkle::{Tree, leaf_hash};
use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct KnownAnswers {
    about: &'static str,
    leaves: Vec<String>,
    trees: Vec<KnownTree>,
}

#[derive(Serialize)]
struct KnownTree {
    size: u32,
    root: String,
    paths: Vec<Vec<String>>,
}

pub(crate) fn known_answers() -> KnownAnswers {
    let leaves: Vec<_> = (0..9u8).map(|index| leaf_hash(&[index; 16], &[index])).collect();
    let trees = (1..=leaves.len()).map(|size| known_tree(&leaves[..size])).collect();
    KnownAnswers {
        about: "Leaf i is SHA-256(0x00 || sixteen bytes i || one byte i); a tree of size n has the first n leaves.",
        leaves: leaves.iter().map(hex::encode).collect(),
        trees,
    }
}

fn known_tree(leaves: &[[u8; 32]]) -> KnownTree {
    let mut tree = Tree::new();
    tree.rebuild(leaves);
    let mut path = Vec::new();
    let paths = (0..tree.size()).map(|index| {
        tree.path(index, &mut path);
        path.iter().map(hex::encode).collect()
    });
    KnownTree { size: tree.size(), paths: paths.collect(), root: hex::encode(tree.root()) }
}
