//! The tables of a store, by the stable names that go into every MAC.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::lp::{Fault, Malformed};

macro_rules! tables {
    ($($(#[$doc:meta])+ $name:ident = $text:literal,)+) => {
        /// A table of the store.
        ///
        /// Ordered by name, as the anchor lists them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Table {
            $($(#[$doc])+ $name,)+
        }

        impl Table {
            /// Every table.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The name in the store and in MACs; it never changes.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

tables! {
    /// The sealed anchor, one row; carries no row MAC, its wrap authenticates it.
    Anchor = "anchor",
    /// Second enrollments of nodes, and what operators said of them.
    Approval = "approval",
    /// Backups that were made.
    Backup = "backup",
    /// Who may not call any more.
    Ban = "ban",
    /// Clusters: issuer, audience, source of pod facts.
    Cluster = "cluster",
    /// Deliveries, as nodes report them.
    Delivery = "delivery",
    /// Grants, and what they hold.
    Grant = "grant",
    /// Secrets by name: uuid, active version, state.
    Head = "head",
    /// Nodes and the keys recorded for them.
    Identity = "identity",
    /// One-time tokens that nodes enroll with.
    JoinToken = "join-token",
    /// Key-encryption keys, wrapped.
    Kek = "kek",
    /// Which values a KEK wraps; carries no row MAC, for it is held against the values' key rows.
    KekIndex = "kek-index",
    /// Keyspaces.
    Keyspace = "keyspace",
    /// The store's own facts: its keyring, its chains.
    Meta = "meta",
    /// Operators and the keys recorded for them.
    Operator = "operator",
    /// One-time codes that operators sign in with.
    OperatorCode = "operator-code",
    /// Ciphertexts of values; carries no row MAC, the data key's associated data holds their hash.
    Payload = "payload",
    /// Guard rails and other rules.
    Policy = "policy",
    /// Mutations of the last day, by operator and request id.
    Request = "request",
    /// What opens the store.
    Slot = "slot",
    /// The wrapped data key of a value.
    ValueKey = "value-key",
    /// Versions of secrets.
    Version = "version",
}

impl Table {
    /// Whether its rows carry a MAC and are part of the set hashes.
    #[must_use]
    pub const fn is_authenticated(self) -> bool {
        !matches!(self, Self::Anchor | Self::KekIndex | Self::Payload)
    }
}

impl Ord for Table {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl PartialOrd for Table {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Table {
    type Err = Malformed;

    fn from_str(name: &str) -> Result<Self, Malformed> {
        Self::ALL
            .iter()
            .copied()
            .find(|table| table.name() == name)
            .ok_or(Malformed::new("table", Fault::Unknown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_parse_back() {
        for table in Table::ALL {
            assert_eq!(table.name().parse(), Ok(*table));
        }
        let mut names: Vec<_> = Table::ALL.iter().map(|table| table.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 22);
    }

    #[test]
    fn an_unknown_table_is_refused() {
        assert_eq!(
            "heads".parse::<Table>(),
            Err(Malformed::new("table", Fault::Unknown))
        );
    }

    #[test]
    fn all_but_anchor_index_and_payload_are_authenticated() {
        let bare: Vec<_> = Table::ALL
            .iter()
            .filter(|table| !table.is_authenticated())
            .collect();
        assert_eq!(bare, [&Table::Anchor, &Table::KekIndex, &Table::Payload]);
    }

    #[test]
    fn order_is_that_of_the_names() {
        assert!(Table::Head < Table::ValueKey);
        assert!(Table::Kek < Table::KekIndex);
        assert!(Table::Keyspace > Table::KekIndex);
    }

    #[test]
    fn a_table_is_shown_by_its_name() {
        for table in Table::ALL.iter().copied() {
            assert_eq!(table.to_string().parse(), Ok(table));
        }
        assert_eq!(Table::KekIndex.to_string(), "kek-index");
    }
}
