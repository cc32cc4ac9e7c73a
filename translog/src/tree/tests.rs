//! The tree against the recursive definition of RFC 6962, and proofs that are tampered with.

use proptest::prelude::*;

use super::*;

fn leaves(count: usize) -> Vec<Hash> {
    (0..count)
        .map(|number| leaf_hash(&number.to_be_bytes()))
        .collect()
}

/// MTH of RFC 6962, section 2.1, word for word.
fn merkle_tree_hash(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let mut k = 1;
            while k * 2 < leaves.len() {
                k *= 2;
            }
            node_hash(
                &merkle_tree_hash(&leaves[..k]),
                &merkle_tree_hash(&leaves[k..]),
            )
        }
    }
}

#[test]
fn the_frontier_has_the_root_of_the_definition_at_every_size() {
    let leaves = leaves(130);
    let mut frontier = Frontier::new();
    assert_eq!(frontier.root(), empty_root());
    for (index, leaf) in leaves.iter().enumerate() {
        frontier.append(*leaf);
        assert_eq!(
            frontier.root(),
            merkle_tree_hash(&leaves[..=index]),
            "size {}",
            index + 1
        );
        assert_eq!(frontier.peaks().len(), (index + 1).count_ones() as usize);
    }
}

#[test]
fn a_kept_frontier_is_taken_up_only_under_its_root() {
    let mut frontier = Frontier::new();
    leaves(21)
        .into_iter()
        .for_each(|leaf| frontier.append(leaf));
    let (size, peaks, root) = (frontier.size(), frontier.peaks().to_vec(), frontier.root());

    assert_eq!(Frontier::resume(size, peaks.clone(), &root), Ok(frontier));
    assert_eq!(
        Frontier::resume(size + 2, peaks.clone(), &root),
        Err(ProofError::Length)
    );
    let mut swapped = peaks.clone();
    swapped.swap(0, 1);
    assert_eq!(
        Frontier::resume(size, swapped, &root),
        Err(ProofError::Root)
    );
    assert_eq!(
        Frontier::resume(0, vec![], &empty_root()),
        Ok(Frontier::new())
    );
    assert_eq!(Frontier::resume(0, vec![], &root), Err(ProofError::Root));
}

#[test]
fn every_leaf_of_every_small_tree_is_proved_and_no_other() {
    let all = leaves(34);
    for size in 1..=all.len() {
        let leaves = &all[..size];
        let root = merkle_tree_hash(leaves);
        for index in 0..size {
            let proof = inclusion_proof(index, leaves).unwrap();
            let check = |leaf, index, size, proof: &[Hash]| {
                verify_inclusion(leaf, index, size, proof, &root)
            };
            let (at, of) = (index as u64, size as u64);
            assert_eq!(check(&leaves[index], at, of, &proof), Ok(()));
            assert_eq!(
                check(&all[(index + 1) % 34], at, of, &proof),
                Err(ProofError::Root)
            );
            for other in (0..of).filter(|other| *other != at) {
                assert!(
                    check(&leaves[index], other, of, &proof).is_err(),
                    "{index} of {size} as {other}"
                );
            }
            assert_eq!(
                check(&leaves[index], of, of, &proof),
                Err(ProofError::Range)
            );
            assert!(check(&leaves[index], at, of, &[&proof[..], &[root]].concat()).is_err());
            if let Some((_, short)) = proof.split_last() {
                assert!(check(&leaves[index], at, of, short).is_err());
            }
        }
        assert_eq!(inclusion_proof(size, leaves), Err(ProofError::Range));
    }
}

#[test]
fn every_pair_of_small_trees_is_proved_consistent_and_no_other() {
    let all = leaves(34);
    for second in 1..=all.len() {
        let new_root = merkle_tree_hash(&all[..second]);
        for first in 1..=second {
            let old_root = merkle_tree_hash(&all[..first]);
            let proof = consistency_proof(first, &all[..second]).unwrap();
            let (from, to) = (first as u64, second as u64);
            assert_eq!(
                verify_consistency(from, to, &old_root, &new_root, &proof),
                Ok(()),
                "{first} {second}"
            );
            let longer = [&proof[..], &[new_root]].concat();
            assert!(verify_consistency(from, to, &old_root, &new_root, &longer).is_err());
            assert!(verify_consistency(from, to, &empty_root(), &new_root, &proof).is_err());
            assert!(verify_consistency(from, to, &old_root, &empty_root(), &proof).is_err());
            if let Some((_, short)) = proof.split_last() {
                assert!(verify_consistency(from, to, &old_root, &new_root, short).is_err());
            }
        }
        assert_eq!(consistency_proof(0, &all[..second]), Err(ProofError::Range));
        assert_eq!(
            consistency_proof(second + 1, &all[..second]),
            Err(ProofError::Range)
        );
        let to = second as u64;
        assert_eq!(
            verify_consistency(0, to, &empty_root(), &new_root, &[]),
            Err(ProofError::Range)
        );
        assert_eq!(
            verify_consistency(to + 1, to, &new_root, &new_root, &[]),
            Err(ProofError::Range)
        );
    }
}

#[test]
fn the_largest_sizes_do_not_overflow() {
    let hash = empty_root();
    let proof = [hash; 64];
    for (index, size) in [(u64::MAX - 1, u64::MAX), (0, u64::MAX), (1 << 63, u64::MAX)] {
        assert!(verify_inclusion(&hash, index, size, &proof, &hash).is_err());
        assert!(verify_consistency(index.max(1), size, &hash, &hash, &proof).is_err());
    }
}

proptest! {
    #[test]
    fn a_flipped_bit_of_a_proof_is_refused(size in 2usize..200, index in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>()) {
        let leaves = leaves(size);
        let root = merkle_tree_hash(&leaves);
        let index = index.index(size);

        let mut proof = inclusion_proof(index, &leaves).unwrap();
        let flipped = bit.index(proof.len() * 256);
        proof[flipped / 256][flipped % 256 / 8] ^= 1 << (flipped % 8);
        let verified = verify_inclusion(&leaves[index], index as u64, size as u64, &proof, &root);
        prop_assert_eq!(verified, Err(ProofError::Root));

        let first = index + 1;
        let mut proof = consistency_proof(first, &leaves).unwrap();
        if !proof.is_empty() {
            let flipped = bit.index(proof.len() * 256);
            proof[flipped / 256][flipped % 256 / 8] ^= 1 << (flipped % 8);
            let old = merkle_tree_hash(&leaves[..first]);
            let verified = verify_consistency(first as u64, size as u64, &old, &root, &proof);
            prop_assert_eq!(verified, Err(ProofError::Root));
        }
    }
}
