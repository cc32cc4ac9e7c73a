//! What nodes say that their kernels lack: their own word, for operators to look after them, and for no decision.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use attache_mtls::spiffe::NodeId;

/// What a node's tmpfs lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lacks {
    /// Inode flags (kernel 6.6): what keeps a container from changing its secrets is then csi.readOnly alone.
    pub inode_flags: bool,
    /// The mount option that keeps pages from swap (kernel 6.4).
    pub noswap: bool,
}

impl Lacks {
    /// The words for it.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let words = [(self.inode_flags, "inode-flags"), (self.noswap, "noswap")];
        words
            .into_iter()
            .filter_map(|(lacks, word)| lacks.then_some(word))
    }
}

/// Those of admitted nodes that lack something, since this broker started. A clone is another handle.
#[derive(Debug, Clone, Default)]
pub struct Lacking {
    by_node: Arc<ArcSwap<HashMap<String, Lacks>>>,
}

impl Lacking {
    /// Takes up what a node says; costs a look where that is what it said before.
    pub fn said(&self, node: &NodeId, lacks: Lacks) {
        let known = self.by_node.load();
        if known.is_empty() && lacks == Lacks::default() {
            return;
        }
        let node = node.to_string();
        if known.get(&node).copied().unwrap_or_default() == lacks {
            return;
        }
        self.by_node.rcu(|known| {
            let mut next = HashMap::clone(known);
            if lacks == Lacks::default() {
                next.remove(&node);
            } else {
                next.insert(node.clone(), lacks);
            }
            next
        });
    }

    /// What a node lacks, by its own word.
    #[must_use]
    pub fn of(&self, node: &str) -> Lacks {
        self.by_node.load().get(node).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_said_last_is_what_is_known_of_it() {
        let lacking = Lacking::default();
        let node = |uid: &str| NodeId::new("example.org".parse().unwrap(), "local", uid).unwrap();
        let (old, new) = (node("old"), node("new"));
        let lacks = Lacks {
            inode_flags: true,
            noswap: true,
        };
        lacking.said(&new, Lacks::default());
        lacking.said(&old, lacks);
        assert_eq!(lacking.of(&old.to_string()), lacks);
        let words: Vec<_> = lacks.words().collect();
        assert_eq!(words, ["inode-flags", "noswap"]);
        assert_eq!(lacking.of(&new.to_string()).words().count(), 0);
        lacking.said(&old, Lacks::default());
        assert_eq!(lacking.of(&old.to_string()), Lacks::default());
    }
}
