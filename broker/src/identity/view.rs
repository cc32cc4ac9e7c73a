//! What is known of callers, in memory: rebuilt from the rows at the start, changed after each commit.
//!
//! Reading is lock-free. A change is copied in whole, so a reader sees one state or the next, never a mixture. The view
//! decides nothing that the rows do not say, and must never be changed before the commit is durable.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use attache_envelope::EnvelopeError;
use attache_mtls::{
    identity::PeerIdentity,
    spiffe::{NodeId, OperatorId, PeerId},
};
use jiff::Timestamp;

use super::{
    lacking::{Lacking, Lacks},
    recorded::Standing,
    rows::{BanRecord, NodeRecord, OperatorRecord, Role},
};
use crate::store::{Ledger, LedgerError, Store, Table};

/// A caller who may call: recorded, live, not banned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A node plugin.
    Node {
        /// Its ID.
        id: NodeId,
        /// Its certificate's serial, hexadecimal.
        serial: String,
    },
    /// A person.
    Operator {
        /// Their ID.
        id: OperatorId,
        /// Their certificate's serial, hexadecimal.
        serial: String,
        /// What they may do.
        role: Role,
    },
}

/// Why a verified certificate may not call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// Banned by an operator, or by the broker because a copy was used.
    #[error("{id} is banned; an operator can lift that with: attache {noun} unban {name}")]
    Banned {
        /// The SPIFFE ID.
        id: String,
        /// `node` or `operator`.
        noun: &'static str,
        /// How the command names it.
        name: String,
    },
    /// Never enrolled here, or forgotten.
    #[error("{id} is not known here; it has to {mend} first")]
    Unknown {
        /// The SPIFFE ID.
        id: String,
        /// What it has to do.
        mend: &'static str,
    },
    /// The key is none of the live ones.
    #[error(
        "{id} called with a key that it has replaced: a copy of the identity is in use; it is banned now"
    )]
    Copy {
        /// The SPIFFE ID.
        id: String,
    },
    /// The key is none that the restored store knows, and was certified before the restore.
    #[error(
        "{id} shows a key from before the store was restored, which the store does not know: a node enrolls anew, an operator \
         signs in again"
    )]
    BeforeRestore {
        /// The SPIFFE ID.
        id: String,
    },
    /// The cluster has no such node any more.
    #[error(
        "{id} is not a node of its cluster any more: its Node object is gone or has another uid; it has to enroll anew"
    )]
    NodeGone {
        /// The SPIFFE ID.
        id: String,
    },
    /// A broker's certificate, where nodes and operators call.
    #[error("a broker's certificate cannot call here")]
    Broker,
    /// A superseded key within its grace wants a new certificate.
    #[error("this certificate has been replaced by a newer one; renew with that")]
    Superseded,
    /// The seven days are over in which an operator's certificate is renewed.
    #[error(
        "{id} signed in more than seven days ago, and is renewed no more since {until}: sign in again with: attache login \
         --new {name}"
    )]
    SignInEnded {
        /// The SPIFFE ID.
        id: String,
        /// Its last part.
        name: String,
        /// When they were over.
        until: Timestamp,
    },
    /// What has to be written first could not be.
    #[error("the identity cannot be checked at the moment; try again")]
    Unavailable,
}

/// Everything that is known.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Nodes by SPIFFE ID, with the sequence of their rows.
    pub nodes: HashMap<String, (u64, NodeRecord)>,
    /// Operators by name, with the sequence of their rows.
    pub operators: HashMap<String, (u64, OperatorRecord)>,
    /// Bans by SPIFFE ID, with the sequence of their rows.
    pub bans: HashMap<String, (u64, BanRecord)>,
}

/// The view, shared.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    view: Arc<ArcSwap<View>>,
    bans_made: Arc<AtomicU64>,
    lacking: Lacking,
}

/// Why the view could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A row could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A row is authentic and not decodable: written by another version.
    #[error("the row {key} of table {table} cannot be decoded")]
    Row {
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: EnvelopeError,
    },
}

impl Directory {
    /// Reads the whole view from the rows.
    ///
    /// # Errors
    /// [`DirectoryError`]: nobody is served until every row is understood.
    pub async fn load<S: Store>(ledger: &Ledger<S>) -> Result<Self, DirectoryError> {
        let view = View {
            nodes: whole(ledger, Table::Identity, NodeRecord::decode).await?,
            operators: whole(ledger, Table::Operator, OperatorRecord::decode).await?,
            bans: whole(ledger, Table::Ban, BanRecord::decode).await?,
        };
        Ok(Self {
            view: Arc::new(ArcSwap::from_pointee(view)),
            bans_made: Arc::default(),
            lacking: Lacking::default(),
        })
    }

    /// The view of this moment.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// What nodes say of their kernels.
    #[must_use]
    pub fn lacking(&self) -> &Lacking {
        &self.lacking
    }

    /// The names of the nodes that say that they lack something and can still say more: neither banned nor, as a node
    /// that was replaced, without a certificate that is valid at `now`. Sorted.
    #[must_use]
    pub fn nodes_lacking(&self, lacks: impl Fn(Lacks) -> bool, now: Timestamp) -> Vec<String> {
        let view = self.view.load();
        let nodes = view.nodes.iter().filter(|(id, (_, node))| {
            lacks(self.lacking.of(id))
                && node.keys.not_after() > now
                && !view.bans.contains_key(*id)
        });
        let mut names: Vec<_> = nodes.map(|(_, (_, node))| node.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Changes the view after a commit.
    pub fn change(&self, change: impl Fn(&mut View)) {
        self.view.rcu(|view| {
            let mut next = View::clone(view);
            change(&mut next);
            next
        });
    }

    /// Takes up a committed ban.
    pub fn ban(&self, id: &str, seq: u64, ban: &BanRecord) {
        self.change(|view| drop(view.bans.insert(id.to_owned(), (seq, ban.clone()))));
        self.bans_made.fetch_add(1, Ordering::SeqCst);
    }

    /// How many bans were taken up. A caller that was admitted at this number is not banned while it stands.
    #[must_use]
    pub fn bans_made(&self) -> u64 {
        self.bans_made.load(Ordering::SeqCst)
    }

    /// Whether a node that was admitted when there were `bans_seen` bans still may call.
    ///
    /// # Errors
    /// [`NotAdmitted::Banned`].
    pub fn still_admitted(&self, node: &NodeId, bans_seen: u64) -> Result<(), NotAdmitted> {
        if self.bans_made() == bans_seen {
            return Ok(());
        }
        let text = node.to_string();
        self.view.load().refuse_banned(&text, "node", &text)
    }

    /// How a verified peer stands at `now`, before anything is written: who it is, and which of its keys it showed.
    ///
    /// # Errors
    /// [`NotAdmitted::Banned`], [`NotAdmitted::Unknown`], [`NotAdmitted::Broker`].
    pub fn standing(
        &self,
        peer: &PeerIdentity,
        now: Timestamp,
    ) -> Result<(Caller, Standing), NotAdmitted> {
        let view = self.view.load();
        let serial = peer.serial().to_string();
        match peer.id() {
            PeerId::Node(id) => {
                let text = id.to_string();
                view.refuse_banned(&text, "node", &text)?;
                let (_, record) = view.nodes.get(&text).ok_or(NotAdmitted::Unknown {
                    id: text,
                    mend: "join with a token (attache node join-token)",
                })?;
                let standing = record.keys.standing(peer.spki_sha256(), now);
                Ok((
                    Caller::Node {
                        id: id.clone(),
                        serial,
                    },
                    standing,
                ))
            }
            PeerId::Operator(id) => {
                let text = id.to_string();
                view.refuse_banned(&text, "operator", id.name())?;
                let (_, record) = view.operators.get(id.name()).ok_or(NotAdmitted::Unknown {
                    id: text,
                    mend: "be made an operator",
                })?;
                let standing = record.keys.standing(peer.spki_sha256(), now);
                Ok((
                    Caller::Operator {
                        id: id.clone(),
                        serial,
                        role: record.role,
                    },
                    standing,
                ))
            }
            PeerId::Broker(_) => Err(NotAdmitted::Broker),
        }
    }
}

impl View {
    /// Refuses to renew for an operator whose sign-in is too old; nodes have no such end.
    pub(super) fn refuse_ended_sign_in(
        &self,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<(), NotAdmitted> {
        let Caller::Operator { id, .. } = caller else {
            return Ok(());
        };
        let until = self
            .operators
            .get(id.name())
            .map(|(_, record)| record.renews_until());
        match until {
            Some(until) if now >= until => Err(NotAdmitted::SignInEnded {
                id: id.to_string(),
                name: id.name().to_owned(),
                until,
            }),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn refuse_banned(
        &self,
        id: &str,
        noun: &'static str,
        name: &str,
    ) -> Result<(), NotAdmitted> {
        if self.bans.contains_key(id) {
            return Err(NotAdmitted::Banned {
                id: id.to_owned(),
                noun,
                name: name.to_owned(),
            });
        }
        Ok(())
    }
}

/// A whole small table, decoded.
async fn whole<S: Store, T>(
    ledger: &Ledger<S>,
    table: Table,
    decode: impl Fn(&[u8]) -> Result<T, EnvelopeError>,
) -> Result<HashMap<String, (u64, T)>, DirectoryError> {
    let rows = ledger.whole(table).await?.into_iter();
    rows.map(|(key, row)| {
        let key = String::from_utf8_lossy(&key).into_owned();
        match decode(&row.body) {
            Ok(record) => Ok((key, (row.seq, record))),
            Err(source) => Err(DirectoryError::Row {
                table: table.name(),
                key,
                source,
            }),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use attache_mtls::identity::SpkiSha256;

    use super::*;
    use crate::identity::recorded::{RecordedKey, RecordedKeys};

    #[test]
    fn a_node_that_was_replaced_or_banned_is_not_named_for_what_it_lacks() {
        let directory = Directory::default();
        let now = Timestamp::from_second(1_000).unwrap();
        for (uid, ends, banned) in [
            ("b", 1_001, false),
            ("a", 1_001, false),
            ("gone", 1_000, false),
            ("bad", 1_001, true),
        ] {
            let id = NodeId::new("example.org".parse().unwrap(), "local", uid).unwrap();
            let node = NodeRecord {
                name: uid.to_owned(),
                keys: RecordedKeys::first(RecordedKey {
                    spki: SpkiSha256::from_bytes([1; 32]),
                    serial: "0a".to_owned(),
                    not_after: Timestamp::from_second(ends).unwrap(),
                    ca: 1,
                }),
                joined: now,
                renewed: now,
                version: "0.1.0".to_owned(),
            };
            directory.change(|view| drop(view.nodes.insert(id.to_string(), (1, node.clone()))));
            if banned {
                let ban = BanRecord {
                    reason: "lost".to_owned(),
                    by: "ada".to_owned(),
                    at: now,
                };
                directory.ban(&id.to_string(), 2, &ban);
            }
            let lacks = Lacks {
                inode_flags: true,
                noswap: false,
            };
            directory.lacking().said(&id, lacks);
        }
        assert_eq!(
            directory.nodes_lacking(|lacks| lacks.inode_flags, now),
            ["a", "b"]
        );
        assert!(
            directory
                .nodes_lacking(|lacks| lacks.noswap, now)
                .is_empty()
        );
    }
}
