//! A bounded map that forgets what was not asked for lately.
//!
//! Two halves: what is asked for moves into the young one; when that is full it becomes the old one, and what was in
//! the old one is gone. Every operation is a lookup or two, and memory is bounded by twice the half's size.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// The map.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    /// A map of at most twice `half` entries, and of at least the last `half`.
    pub(super) fn new(half: usize) -> Self {
        let (young, old) = (HashMap::new(), HashMap::new());
        Self { young, old, half }
    }

    /// What is kept under `key`.
    pub(super) fn find<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.keep(key, value.clone());
        Some(value)
    }

    /// Keeps a value, in place of the one before.
    pub(super) fn keep(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_lately_stays_and_the_rest_is_bounded() {
        let mut recent = Recent::new(4);
        recent.keep(0, "zero");
        for key in 1..1000 {
            recent.keep(key, "other");
            assert_eq!(recent.find(&0), Some("zero"), "after {key}");
            assert!(recent.young.len() + recent.old.len() <= 8);
        }
        assert_eq!(recent.find(&1), None);
        assert_eq!(recent.find(&999), Some("other"));
    }

    #[test]
    fn the_last_half_is_kept_whatever_else_came() {
        let mut recent = Recent::new(4);
        for key in 0..100 {
            recent.keep(key, key);
        }
        for key in 96..100 {
            assert_eq!(recent.find(&key), Some(key));
        }
    }

    #[test]
    fn the_last_value_of_a_key_is_the_only_one() {
        let mut recent = Recent::new(1);
        recent.keep("a", 1);
        recent.keep("b", 1);
        recent.keep("a", 2);
        assert_eq!(recent.find("a"), Some(2));
        recent.keep("c", 1);
        recent.keep("d", 1);
        assert_eq!(recent.find("a"), None);
    }
}
