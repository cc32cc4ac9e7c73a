//! The gate that every call passes, and the changes to identities that the broker makes by itself: a next key becomes
//! current, a node joins, a certificate is renewed, a copy is banned.
//!
//! ```text
//! admit    Current, Previous -> in | Next -> promote, then in | Copy -> alarm on record, ban, out
//!          Copy on a connection that was made while its key was live -> out, and no alarm
//! join     enrollment on record -> token row taken and identity row written in one commit -> certificate
//! enroll   as join, with a proof by the node's cluster in place of the token
//! again    a live node that joins or enrolls anew: only by an operator's word; after a restore one word for all
//! renew    a node: still its cluster's -> renewal on record -> next key recorded -> certificate; an operator: for seven
//!          days after the sign-in
//! late     a node without a connection of its own: the proof of its key, then as renew
//! ```
//! Each change is on record, then committed and in the view at once, then the store's new anchor is on record, and only
//! then it is answered. While the log takes nothing, nobody is enrolled, signed in, renewed or banned here. It runs in a
//! task of its own: a caller that goes away leaves nothing half done.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use attache_envelope::name::{ClusterName, NodeName, NodeUid};
use attache_mtls::{
    ca::{BACKDATE, CertificateRequest, IssuedCertificate},
    identity::PeerIdentity,
    spiffe::{NodeId, OperatorId, PeerId, SpiffeError},
};
use attache_translog::{Alarm, Anchor, Ban, Bootstrap, Enrollment, Event, Renewal};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::{
    authority::{Authority, AuthorityError},
    one_time::{JOIN_TOKEN_LIFETIME, JoinToken, Malformed},
    plugin_version::PluginVersion,
    presence,
    recorded::{RecordedKeys, Standing},
    rows::{BanRecord, JoinTokenRecord, NodeRecord, OperatorRecord, Role},
    view::{Caller, Directory, NotAdmitted},
};
use crate::{
    attest::{ClusterRegistry, EnrollingNode},
    audit::{AuditError, AuditLog},
    store::{ApplyError, BrokerLedger, Change, LedgerError, Table},
};

mod approvals;
mod ca;
mod codes;
mod late;
mod readmission;

use approvals::Again;
pub use approvals::SecondEnrollment;
pub use ca::{CaChangeError, CaChanged, InNeed, WaitsFor, keep_ca};
pub use codes::NameTaken;
pub use late::{LateError, LateRequest};
pub(crate) use readmission::READMISSION;
pub use readmission::{NobodyWaits, READMITS_FOR, Readmission};

/// How many expired join tokens one change takes away.
const PRUNED_AT_ONCE: usize = 64;
/// Among how many it looks for them: more are live at no time that anybody plans for.
const SCANNED_AT_ONCE: usize = 1024;

/// Ends what an identity has open, connections and sealing sessions, once it is banned or its keys were replaced.
pub type CutOff = Box<dyn Fn(&PeerId) + Send + Sync>;

/// Admits callers and changes identities.
pub struct Gate {
    ledger: BrokerLedger,
    audit: AuditLog,
    authority: Authority,
    directory: Directory,
    broker_id: String,
    cut_off: CutOff,
    clusters: Arc<ClusterRegistry>,
    /// When the store's incarnation began, where that is not the first.
    restored: Option<Timestamp>,
    ca_changed: CaChanged,
    /// The bundle that was last published in every cluster.
    published: ArcSwapOption<String>,
    /// One change at a time: each reads the row that it replaces.
    changing: Mutex<()>,
}

/// Why a machine or a person did not get a certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The text is no join token.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Used, expired, never made, or made by another broker: one answer for all.
    #[error(
        "the join token is not valid: it works once and for ten minutes; make a new one with: attache node join-token"
    )]
    Token,
    /// The text is no operator's code.
    #[error(transparent)]
    MalformedCode(Malformed),
    /// As a join token that is not valid.
    #[error(
        "the code is not valid: it works once and for an hour; another operator makes a new one with: attache operator add"
    )]
    Code,
    /// The code is good, for another operator.
    #[error(
        "is not that of the code, which is for {name} and still good: attache login --new {name} --code"
    )]
    CodeOfAnother {
        /// Whom the code is for.
        name: String,
    },
    /// Nobody signs in under that name by a code.
    #[error(transparent)]
    NameTaken(#[from] NameTaken),
    /// The identity is banned.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// Cluster or uid of the token make no SPIFFE ID.
    #[error("the node's cluster and uid make no SPIFFE ID")]
    Identity(#[from] SpiffeError),
    /// A live node came anew.
    #[error(transparent)]
    Second(#[from] SecondEnrollment),
    /// An operator exists already.
    #[error(
        "there is an operator already, and only the first is made like this; if none can sign in any more, stop the \
         broker and add --recover"
    )]
    OperatorExists,
    /// An operator that is banned is not signed in again, not even by recovery.
    #[error(
        "{id} is banned: recover under another name, then lift the ban with: attache operator unban"
    )]
    RecoversBanned {
        /// The operator's SPIFFE ID.
        id: String,
    },
    /// A late renewal is not proven, or not in time.
    #[error(transparent)]
    Late(#[from] LateError),
    /// The request was refused, or the CA could not sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Somebody else changed the same identity at the same moment.
    #[error("the identity was changed at the same moment; try again")]
    Conflict,
    /// The store could not write.
    #[error("the store is not available")]
    Store(#[source] ApplyError),
    /// The store could not read.
    #[error("the store is not available")]
    Read(#[from] LedgerError),
    /// The audit log could not record it.
    #[error("the audit log is not available")]
    Audit(#[from] AuditError),
    /// The system has no randomness.
    #[error("the system has no randomness")]
    Random,
}

impl Gate {
    /// Makes the gate of a broker.
    #[must_use]
    pub fn new(
        ledger: BrokerLedger,
        audit: AuditLog,
        authority: Authority,
        directory: Directory,
        broker_id: String,
        cut_off: CutOff,
        clusters: Arc<ClusterRegistry>,
    ) -> Self {
        Self {
            ledger,
            audit,
            authority,
            directory,
            broker_id,
            cut_off,
            clusters,
            restored: None,
            ca_changed: Box::new(|_| ()),
            published: ArcSwapOption::empty(),
            changing: Mutex::new(()),
        }
    }

    /// Of a store whose incarnation began then, in milliseconds since 1970: keys that were certified before are none that it
    /// could know.
    #[must_use]
    pub fn restored(mut self, at_ms: Option<u64>) -> Self {
        let at = at_ms.and_then(|ms| i64::try_from(ms).ok());
        self.restored = at.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        self
    }

    /// What is known of callers.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The CA.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Whether a peer that has just finished its handshake showed a live key of an identity that may call. Any other may
    /// only hear why not; a copy's first call raises the alarm.
    #[must_use]
    pub fn is_live(&self, peer: &PeerIdentity) -> bool {
        let standing = self.directory.standing(peer, self.now());
        standing.is_ok_and(|(_, standing)| standing != Standing::Copy)
    }

    /// Admits a verified peer, or says why not. `was_live` is what [`Gate::is_live`] said of its connection: a key that was
    /// replaced while its connection stood is no copy.
    ///
    /// # Errors
    /// [`NotAdmitted`]; a copy is banned before this answers.
    ///
    /// # Cancel safety
    /// What has to be written is written in a task of its own.
    pub async fn admit(
        self: &Arc<Self>,
        peer: &Arc<PeerIdentity>,
        was_live: bool,
    ) -> Result<Caller, NotAdmitted> {
        let (caller, standing) = self.directory.standing(peer, self.now())?;
        match standing {
            Standing::Current | Standing::Previous => Ok(caller),
            Standing::Next => {
                let (gate, peer) = (Arc::clone(self), Arc::clone(peer));
                let promoted = tokio::spawn(async move { gate.promote(&peer).await }).await;
                match promoted {
                    Ok(Ok(())) => Ok(caller),
                    Ok(Err(EnrollError::NotAdmitted(error))) => Err(error),
                    Ok(Err(_)) | Err(_) => Err(NotAdmitted::Unavailable),
                }
            }
            Standing::Copy if was_live => Err(NotAdmitted::Superseded),
            // Certified before the store went back: it may be the newest that the identity had. It calls no more, and is no
            // proof of a copy.
            Standing::Copy if self.restored.is_some_and(|at| signed(peer) < at) => {
                Err(NotAdmitted::BeforeRestore {
                    id: peer.id().to_string(),
                })
            }
            Standing::Copy => {
                let (gate, id) = (Arc::clone(self), peer.id().clone());
                let banned = tokio::spawn(async move { gate.ban_copy(&id).await }).await;
                match banned {
                    Ok(Ok(())) => Err(NotAdmitted::Copy {
                        id: peer.id().to_string(),
                    }),
                    Ok(Err(_)) | Err(_) => Err(NotAdmitted::Unavailable),
                }
            }
        }
    }

    /// A committed ban holds from here on, and what the identity has open ends.
    pub fn banned(&self, id: &PeerId, seq: u64, ban: &BanRecord) {
        self.directory.ban(&id.to_string(), seq, ban);
        (self.cut_off)(id);
    }

    /// Makes a join token for a node whose uid was read from the cluster; answers its text, its id and its row.
    ///
    /// # Errors
    /// [`EnrollError::Random`].
    pub fn draw_join_token(
        &self,
        cluster: &ClusterName,
        node: (&NodeName, &NodeUid),
        by: String,
    ) -> Result<(Zeroizing<String>, [u8; 16], JoinTokenRecord), EnrollError> {
        let token = JoinToken::draw(self.authority.pin()).map_err(|_| EnrollError::Random)?;
        let record = JoinTokenRecord {
            hash: token.hash(),
            cluster: cluster.as_str().to_owned(),
            node_name: node.0.as_str().to_owned(),
            node_uid: node.1.as_str().to_owned(),
            not_after: self.after(JOIN_TOKEN_LIFETIME),
            by,
        };
        Ok((token.text(), token.id(), record))
    }

    /// Adds to a change the removal of join tokens that nobody redeemed in time: they are good for nothing.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn forget_expired_tokens(&self, change: &mut Change) -> Result<(), LedgerError> {
        let not_after = |body: &[u8]| Some(JoinTokenRecord::decode(body).ok()?.not_after);
        self.forget_expired(Table::JoinToken, not_after, change)
            .await
    }

    /// Adds to a change the removal of rows that are over, by the end that `not_after` reads in a body.
    async fn forget_expired(
        &self,
        table: Table,
        not_after: fn(&[u8]) -> Option<Timestamp>,
        change: &mut Change,
    ) -> Result<(), LedgerError> {
        let now = self.now();
        let rows = self.ledger.scan(table, b"", None, SCANNED_AT_ONCE).await?;
        let expired = rows
            .into_iter()
            .filter(|(_, row)| not_after(&row.body).is_some_and(|end| end < now));
        let keys = expired.map(|(key, _)| (table, key));
        change.deletes.extend(keys.take(PRUNED_AT_ONCE));
        Ok(())
    }

    /// Redeems a join token.
    ///
    /// # Errors
    /// [`EnrollError`]; the token is used up only when a certificate was made.
    pub async fn join(
        self: &Arc<Self>,
        token: &str,
        request: CertificateRequest,
        version: PluginVersion,
    ) -> Result<IssuedCertificate, EnrollError> {
        let token = JoinToken::parse(token)?;
        // Whoever has no token stands in nobody's way.
        self.token_row(&token).await?;
        let gate = Arc::clone(self);
        spawned(async move { gate.join_now(&token, &request, version).await }).await
    }

    /// Certifies the first key of a node whose cluster says that the plugin's own pod runs there.
    ///
    /// # Errors
    /// [`EnrollError`]; [`EnrollError::Second`] for a live node that an operator has not approved.
    pub async fn enroll(
        self: &Arc<Self>,
        node: EnrollingNode,
        request: CertificateRequest,
        version: PluginVersion,
    ) -> Result<IssuedCertificate, EnrollError> {
        let gate = Arc::clone(self);
        spawned(async move { gate.enroll_now(node, &request, version).await }).await
    }

    /// Signs the next key of an admitted caller, who says of which version it is.
    ///
    /// # Errors
    /// [`EnrollError`]; [`NotAdmitted::Superseded`] for a key that was replaced, [`NotAdmitted::NodeGone`] for a node that
    /// its cluster does not have any more.
    pub async fn renew(
        self: &Arc<Self>,
        peer: &Arc<PeerIdentity>,
        was_live: bool,
        request: CertificateRequest,
        version: PluginVersion,
    ) -> Result<IssuedCertificate, EnrollError> {
        self.renew_as(peer, was_live, (request, version), None)
            .await
    }

    /// Renews; `evidence` is by what the caller proved its key, where a connection did not.
    async fn renew_as(
        self: &Arc<Self>,
        peer: &Arc<PeerIdentity>,
        was_live: bool,
        (request, version): (CertificateRequest, PluginVersion),
        evidence: Option<String>,
    ) -> Result<IssuedCertificate, EnrollError> {
        let caller = self.admit(peer, was_live).await?;
        presence::refuse_gone(&self.clusters, &self.directory, &caller).await?;
        let (gate, peer) = (Arc::clone(self), Arc::clone(peer));
        spawned(async move { gate.renew_now(&peer, &request, version, evidence).await }).await
    }

    /// Makes the first operator.
    ///
    /// # Errors
    /// [`EnrollError::OperatorExists`] once there is one.
    pub async fn bootstrap_operator(
        self: &Arc<Self>,
        id: OperatorId,
        request: CertificateRequest,
    ) -> Result<IssuedCertificate, EnrollError> {
        let gate = Arc::clone(self);
        spawned(async move { gate.sign_in_now(&id, &request, SignIn::First).await }).await
    }

    /// Signs an operator in anew, or makes one more, whoever there is already: for whoever holds slot material, of which
    /// the opened store is the proof. It raises an alarm.
    ///
    /// # Errors
    /// [`EnrollError::RecoversBanned`].
    pub async fn recover_operator(
        self: &Arc<Self>,
        id: OperatorId,
        request: CertificateRequest,
    ) -> Result<IssuedCertificate, EnrollError> {
        let gate = Arc::clone(self);
        spawned(async move { gate.sign_in_now(&id, &request, SignIn::Recovery).await }).await
    }

    async fn join_now(
        &self,
        token: &JoinToken,
        request: &CertificateRequest,
        version: PluginVersion,
    ) -> Result<IssuedCertificate, EnrollError> {
        let _one = self.changing.lock().await;
        let (seq, record) = self.token_row(token).await?;
        let mut change = Change::default();
        change.require_at(Table::JoinToken, token.id(), seq);
        change.deletes.push((Table::JoinToken, token.id().to_vec()));
        let newcomer = Newcomer {
            id: self.node_id(&record.cluster, &record.node_uid)?,
            name: record.node_name,
            version,
            evidence: format!("join-token {}", hex::encode(token.id())),
            asked_for: record.not_after.checked_sub(JOIN_TOKEN_LIFETIME).ok(),
        };
        self.take_in(newcomer, request, change).await
    }

    async fn enroll_now(
        &self,
        node: EnrollingNode,
        request: &CertificateRequest,
        version: PluginVersion,
    ) -> Result<IssuedCertificate, EnrollError> {
        let _one = self.changing.lock().await;
        let id = self.node_id(node.cluster().as_str(), node.uid().as_str())?;
        let newcomer = Newcomer {
            id,
            name: node.name().to_string(),
            version,
            evidence: format!("service-account-token of pod {}", node.pod()),
            asked_for: None,
        };
        self.take_in(newcomer, request, Change::default()).await
    }

    fn node_id(&self, cluster: &str, uid: &str) -> Result<NodeId, EnrollError> {
        let domain = self.authority.trust_domain();
        Ok(NodeId::new(domain, cluster, uid)?)
    }

    /// Certifies a node's first key, or its first one anew, in one commit with what `change` has already.
    async fn take_in(
        &self,
        newcomer: Newcomer,
        request: &CertificateRequest,
        mut change: Change,
    ) -> Result<IssuedCertificate, EnrollError> {
        let now = self.now();
        let (text, view) = (newcomer.id.to_string(), self.directory.view());
        if view.bans.contains_key(&text) {
            return Err(NotAdmitted::Banned {
                id: text.clone(),
                noun: "node",
                name: text,
            }
            .into());
        }
        let known = view.nodes.get(&text);
        let standing = match known {
            Some((_, known)) => {
                self.come_again(&newcomer, known, request, &mut change)
                    .await?
            }
            None => Again::Never,
        };
        let id = PeerId::Node(newcomer.id);
        let issued = self.authority.issue(request, &id, now)?;
        let node = NodeRecord {
            name: newcomer.name,
            keys: RecordedKeys::first(self.authority.recorded(&issued)),
            joined: now,
            renewed: now,
            version: newcomer.version.into_string(),
        };
        match known {
            Some((seq, _)) => change.require_at(Table::Identity, text.clone(), *seq),
            None => change.require_absent(Table::Identity, text.clone()),
        }
        change.put(Table::Identity, text.clone(), node.encode());
        let mut events = Vec::new();
        if let Some(reason) = standing.alarm() {
            events.push(Event::from(Alarm {
                identity: text.clone(),
                reason,
            }));
        }
        events.push(Event::from(Enrollment {
            node: text.clone(),
            key: *issued.identity().spki_sha256().as_bytes(),
            not_after_ms: super::ms(issued.identity().not_after()),
            evidence: newcomer.evidence,
            serial: issued.serial().as_bytes().to_vec(),
        }));
        let replaced = standing.is_replaced();
        self.commit(change, &text, events, |seq| {
            self.directory
                .change(|view| drop(view.nodes.insert(text.clone(), (seq, node.clone()))));
            if replaced {
                (self.cut_off)(&id);
            }
        })
        .await?;
        Ok(issued)
    }

    /// The row of a token that can be redeemed, and its commit.
    async fn token_row(&self, token: &JoinToken) -> Result<(u64, JoinTokenRecord), EnrollError> {
        let row = self.ledger.read(Table::JoinToken, &token.id()).await?;
        let row = row.ok_or(EnrollError::Token)?;
        let record = JoinTokenRecord::decode(&row.body).map_err(|_| EnrollError::Token)?;
        if !token.matches(record.hash) || record.not_after < self.now() {
            return Err(EnrollError::Token);
        }
        Ok((row.seq, record))
    }

    async fn renew_now(
        &self,
        peer: &PeerIdentity,
        request: &CertificateRequest,
        version: PluginVersion,
        evidence: Option<String>,
    ) -> Result<IssuedCertificate, EnrollError> {
        let _one = self.changing.lock().await;
        let now = self.now();
        let (caller, standing) = self.directory.standing(peer, now)?;
        if standing != Standing::Current {
            return Err(NotAdmitted::Superseded.into());
        }
        self.directory.view().refuse_ended_sign_in(&caller, now)?;
        let issued = self.authority.issue(request, peer.id(), now)?;
        let renewal = Event::from(Renewal {
            identity: peer.id().to_string(),
            previous_serial: peer.serial().as_bytes().to_vec(),
            key: *issued.identity().spki_sha256().as_bytes(),
            not_after_ms: super::ms(issued.identity().not_after()),
            evidence,
            serial: issued.serial().as_bytes().to_vec(),
        });
        let key = self.authority.recorded(&issued);
        let node = Some((now, version));
        self.change_keys(&caller, |keys| keys.renewed(key), node, vec![renewal])
            .await?;
        Ok(issued)
    }

    async fn promote(&self, peer: &PeerIdentity) -> Result<(), EnrollError> {
        let _one = self.changing.lock().await;
        let now = self.now();
        let (caller, standing) = self.directory.standing(peer, now)?;
        match standing {
            Standing::Next => {}
            // Another call with the same key was first.
            Standing::Current | Standing::Previous => return Ok(()),
            // It was replaced while this waited, before its first use.
            Standing::Copy => return Err(NotAdmitted::Superseded.into()),
        }
        self.change_keys(&caller, |keys| keys.promoted(now), None, Vec::new())
            .await
    }

    async fn ban_copy(&self, id: &PeerId) -> Result<(), EnrollError> {
        let _one = self.changing.lock().await;
        let text = id.to_string();
        if self.directory.view().bans.contains_key(&text) {
            return Ok(());
        }
        let reason =
            "a key that was replaced has been used: a copy of the identity exists".to_owned();
        let ban = BanRecord {
            reason: reason.clone(),
            by: self.broker_id.clone(),
            at: self.now(),
        };
        let mut change = Change::default();
        change.require_absent(Table::Ban, text.clone());
        change.put(Table::Ban, text.clone(), ban.encode());
        let events = vec![
            Event::from(Alarm {
                identity: text.clone(),
                reason: reason.clone(),
            }),
            Event::from(Ban {
                identity: text.clone(),
                reason,
            }),
        ];
        self.commit(change, &text, events, |seq| self.banned(id, seq, &ban))
            .await
    }

    async fn sign_in_now(
        &self,
        id: &OperatorId,
        request: &CertificateRequest,
        how: SignIn,
    ) -> Result<IssuedCertificate, EnrollError> {
        let _one = self.changing.lock().await;
        let (view, text) = (self.directory.view(), id.to_string());
        let known = view.operators.get(id.name());
        let mut events = Vec::new();
        match how {
            SignIn::First if view.operators.is_empty() => {}
            SignIn::First => return Err(EnrollError::OperatorExists),
            SignIn::Recovery if view.bans.contains_key(&text) => {
                return Err(EnrollError::RecoversBanned { id: text });
            }
            SignIn::Recovery => {
                let reason = match known {
                    Some(_) => "signed in by recovery; the earlier keys are no longer admitted",
                    None => "made by recovery",
                };
                events.push(Event::from(Alarm {
                    identity: text.clone(),
                    reason: reason.to_owned(),
                }));
            }
        }
        self.certify(id, request, Change::default(), events, None)
            .await
    }

    /// Certifies an operator's first key, or its first one anew, in one commit with what `change` has already.
    async fn certify(
        &self,
        id: &OperatorId,
        request: &CertificateRequest,
        mut change: Change,
        mut events: Vec<Event>,
        evidence: Option<String>,
    ) -> Result<IssuedCertificate, EnrollError> {
        let (now, view, text) = (self.now(), self.directory.view(), id.to_string());
        let known = view.operators.get(id.name());
        let issued = self
            .authority
            .issue(request, &PeerId::Operator(id.clone()), now)?;
        let record = OperatorRecord {
            role: Role::Admin,
            keys: RecordedKeys::first(self.authority.recorded(&issued)),
            created: known.map_or(now, |(_, record)| record.created),
            signed_in: now,
        };
        match known {
            Some((seq, _)) => change.require_at(Table::Operator, id.name(), *seq),
            None => change.require_absent(Table::Operator, id.name()),
        }
        change.put(Table::Operator, id.name(), record.encode());
        events.push(Event::from(Bootstrap {
            operator: text.clone(),
            key: *issued.identity().spki_sha256().as_bytes(),
            not_after_ms: super::ms(issued.identity().not_after()),
            evidence,
            serial: issued.serial().as_bytes().to_vec(),
        }));
        let signed_in_again = known.is_some();
        self.commit(change, &text, events, |seq| {
            let name = id.name();
            self.directory.change(|view| {
                drop(
                    view.operators
                        .insert(name.to_owned(), (seq, record.clone())),
                )
            });
            if signed_in_again {
                (self.cut_off)(&PeerId::Operator(id.clone()));
            }
        })
        .await?;
        Ok(issued)
    }

    /// Replaces the recorded keys of a caller; when a node renewed, and of which version it was, is noted.
    async fn change_keys(
        &self,
        caller: &Caller,
        change_keys: impl FnOnce(RecordedKeys) -> RecordedKeys,
        renewed: Option<(Timestamp, PluginVersion)>,
        events: Vec<Event>,
    ) -> Result<(), EnrollError> {
        let view = self.directory.view();
        let mut change = Change::default();
        match caller {
            Caller::Node { id, .. } => {
                let key = id.to_string();
                let (seq, mut record) =
                    view.nodes.get(&key).cloned().ok_or(EnrollError::Conflict)?;
                record.keys = change_keys(record.keys);
                if let Some((at, version)) = renewed {
                    record.renewed = at;
                    record.version = version.into_string();
                }
                change.require_at(Table::Identity, key.clone(), seq);
                change.put(Table::Identity, key.clone(), record.encode());
                self.commit(change, &key, events, |seq| {
                    self.directory
                        .change(|view| drop(view.nodes.insert(key.clone(), (seq, record.clone()))));
                })
                .await
            }
            Caller::Operator { id, .. } => {
                let key = id.name().to_owned();
                let (seq, mut record) = view
                    .operators
                    .get(&key)
                    .cloned()
                    .ok_or(EnrollError::Conflict)?;
                record.keys = change_keys(record.keys);
                change.require_at(Table::Operator, key.clone(), seq);
                change.put(Table::Operator, key.clone(), record.encode());
                self.commit(change, &id.to_string(), events, |seq| {
                    self.directory.change(|view| {
                        drop(view.operators.insert(key.clone(), (seq, record.clone())))
                    });
                })
                .await
            }
        }
    }

    /// Puts the events on record, durable; commits; lets it take effect, given the commit; puts the new anchor on record.
    /// Events whose commit then fails are followed by an alarm that says so. What is committed and whose anchor could not
    /// be put on record is not answered; it is in effect all the same, since the view must not differ from the rows.
    async fn commit(
        &self,
        change: Change,
        identity: &str,
        events: Vec<Event>,
        take_up: impl FnOnce(u64),
    ) -> Result<(), EnrollError> {
        let on_record = !events.is_empty();
        let mut queued = Vec::with_capacity(events.len());
        for event in events {
            queued.push(self.audit.queue(&self.audit.leaf(event)).await?);
        }
        for leaf in queued {
            let _receipt = leaf.durable().await?;
        }
        let applied = match self.ledger.apply(change).await {
            Ok(applied) => applied,
            Err(error) => {
                if on_record {
                    let reason = format!("what was put on record before did not happen: {error}");
                    let identity = identity.to_owned();
                    let _receipt = self.audit.append(Alarm { identity, reason }).await?;
                }
                return Err(match error {
                    ApplyError::Conflict { .. } => EnrollError::Conflict,
                    other @ (ApplyError::Busy
                    | ApplyError::Ambiguous { .. }
                    | ApplyError::Ledger(_)
                    | ApplyError::Closed) => EnrollError::Store(other),
                });
            }
        };
        take_up(applied.seq);
        let anchor = Anchor {
            incarnation: self.ledger.incarnation(),
            seq: applied.seq,
            t: applied.anchor_t,
        };
        let _receipt = self.audit.append(anchor).await?;
        Ok(())
    }

    fn now(&self) -> Timestamp {
        self.audit.clock().now()
    }

    /// The end of what lasts so long from now.
    fn after(&self, lasts: SignedDuration) -> Timestamp {
        self.now().saturating_add(lasts).unwrap_or(Timestamp::MAX)
    }
}

/// A node that has shown its evidence.
struct Newcomer {
    id: NodeId,
    /// The Node object's.
    name: String,
    /// What its plugin says of its version.
    version: PluginVersion,
    /// What it has shown, for the record.
    evidence: String,
    /// When an operator asked for it to enroll, where one did.
    asked_for: Option<Timestamp>,
}

/// How an operator comes by a certificate that is no renewal.
#[derive(Clone, Copy)]
enum SignIn {
    /// On the admin socket, while there is no operator.
    First,
    /// By slot material.
    Recovery,
}

/// Runs to its end whether or not the caller waits.
async fn spawned<T: Send + 'static>(
    work: impl Future<Output = Result<T, EnrollError>> + Send + 'static,
) -> Result<T, EnrollError> {
    tokio::spawn(work)
        .await
        .unwrap_or(Err(EnrollError::Conflict))
}

/// When this CA signed its certificate, which begins earlier.
fn signed(peer: &PeerIdentity) -> Timestamp {
    let begin = peer.not_before();
    begin.checked_add(BACKDATE).unwrap_or(begin)
}

#[cfg(test)]
mod tests;
