//! The rotation of the CA: another one signs at once, and the one before is trusted until nobody needs it.
//!
//! ```text
//! rotate   new key and certificate, one commit -> signs nodes and operators; both are in the bundle; the broker's own
//!          certificate stays that of the CA before, which everybody knows
//! renew    whoever gets a certificate of the new CA learns both with it
//! drop     nobody has the CA before alone any more, no token or code of it is open, and the bundle is published in every
//!          cluster -> the key and the certificate before are gone, one commit -> the broker's own certificate is the new CA's
//! now      new key and certificate alone, one commit: whoever has a certificate is cut off, for a CA in wrong hands
//! ```
//! Whoever has a certificate of the new CA has its anchor, so the broker's own certificate may change when the last has one:
//! no phase of announcing it is needed. Each step is one commit: a start finds one CA or two and goes on.

use std::{sync::Arc, time::Duration};

use attache_mtls::{
    ca::{CA_VALIDITY, CertificateAuthority},
    renew::NODE_RENEWS_LATE_FOR,
    spiffe::PeerId,
};
use attache_translog::{Alarm, Event};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{EnrollError, Gate};
use crate::{
    identity::{
        Authority, AuthorityError, JoinTokenRecord, OperatorCodeRecord,
        ca_rows::{self, ACTIVE, BEFORE},
        recorded::{PREVIOUS_GRACE, RecordedKey, RecordedKeys},
    },
    keys::{CaChange, CaEpochs, KeysError, Rekeyed, SlotSet},
    store::{Change, LedgerError, Table},
};

/// How often it is looked whether somebody still needs the CA before.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is done once the CAs have changed: bundle and certificate of the broker itself.
pub type CaChanged = Box<dyn Fn(&Authority) + Send + Sync>;

/// Why the CA was not changed.
#[derive(Debug, thiserror::Error)]
pub enum CaChangeError {
    /// The one before is still there.
    #[error(
        "the CA of epoch {before} is still trusted since the last rotation, and one at a time is replaced: see who needs it \
         with: attache key status --ca"
    )]
    UnderWay {
        /// Its epoch.
        before: u32,
    },
    /// There is none of that epoch to be dropped.
    #[error(
        "there is no CA of epoch {epoch} beside the active one, so nothing is to be dropped: see attache key status --ca"
    )]
    NotThere {
        /// What was named.
        epoch: u32,
    },
    /// The keyring cannot be sealed.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The certificate cannot be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Rows cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// A new CA that is not committed yet.
pub struct NewCa {
    /// What to commit.
    pub change: Change,
    /// The keyring's number after it.
    pub keyring_number: u64,
    /// Its certificate.
    pub certificate: CertificateAuthority,
    /// Its epoch.
    pub epoch: u32,
    /// Who is cut off with it: nobody, where the one before stays.
    pub cut_off: Vec<InNeed>,
    epochs: CaEpochs,
    /// Since when the one before is only trusted; none where it goes at once.
    since_ms: Option<u64>,
}

/// The end of the CA before, which is not committed yet.
pub struct CaEnd {
    /// What to commit.
    pub change: Change,
    epochs: CaEpochs,
    /// Who still needs it, and is cut off.
    pub in_need: Vec<InNeed>,
}

/// An identity that knows the CA before alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InNeed {
    /// Its SPIFFE ID.
    pub id: String,
    /// As people call it.
    pub name: String,
    /// Until when, if it never renews.
    pub until: Timestamp,
}

/// What a rotation waits for beside those who need the CA before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitsFor {
    /// Join tokens or codes that name it are open.
    pub tokens: bool,
    /// A cluster does not have the bundle yet.
    pub publication: bool,
}

impl Gate {
    /// With what is done once the CAs have changed.
    #[must_use]
    pub fn on_ca_change(mut self, changed: CaChanged) -> Self {
        self.ca_changed = changed;
        self
    }

    /// A new CA, whose certificate is made here. `alone`: no other is trusted from its commit on.
    ///
    /// # Errors
    /// [`CaChangeError`].
    pub fn new_ca(&self, set: &SlotSet, alone: bool) -> Result<NewCa, CaChangeError> {
        let cas = self.authority.cas();
        if let (Some((before, _)), false) = (&cas.before, alone) {
            let before = before.epoch();
            return Err(CaChangeError::UnderWay { before });
        }
        let keys = self.authority.keys();
        let CaChange { rekeyed, epochs } = if alone {
            keys.replace_ca_now(set)?
        } else {
            keys.rotate_ca(set)?
        };
        let Rekeyed { mut change, number } = rekeyed;
        let (key, now) = (epochs.active(), self.now());
        let store = self.ledger.store_id();
        let certificate = CertificateAuthority::create(
            key.seed(),
            &self.authority.trust_domain(),
            // Another name than that of the one before: a chain says by it which of the two signed.
            &format!("Attaché CA {store} {}", key.epoch()),
            CA_VALIDITY,
            now,
        )
        .map_err(AuthorityError::from)?;
        let before = cas.active.certificate().certificate();
        let since_ms = (!alone).then(|| crate::identity::ms(now));
        let body = ca_rows::encode(certificate.certificate());
        change.put(Table::Meta, ACTIVE, body);
        match since_ms {
            Some(since_ms) => {
                change.require_absent(Table::Meta, BEFORE);
                let body = ca_rows::encode_before(before, since_ms);
                change.put(Table::Meta, BEFORE, body);
            }
            None if cas.before.is_some() => {
                let row = BEFORE.as_bytes().to_vec();
                change.deletes.push((Table::Meta, row));
            }
            None => change.require_absent(Table::Meta, BEFORE),
        }
        let cut_off = if alone {
            self.without(key.epoch())
        } else {
            Vec::new()
        };
        Ok(NewCa {
            change,
            keyring_number: number,
            certificate,
            epoch: key.epoch(),
            cut_off,
            epochs,
            since_ms,
        })
    }

    /// A new CA is committed. Whoever is cut off with it is so at once, but for `asked_by`: see [`Gate::cut_off_caller`].
    pub fn ca_rotated(&self, new: CaTakenUp, asked_by: &PeerId) {
        self.authority.keys().take_up_ca(new.epochs);
        self.authority.rotated(new.certificate, new.since_ms);
        (self.ca_changed)(&self.authority);
        let ids = new.cut_off.iter().filter_map(|it| it.id.parse().ok());
        ids.filter(|id| id != asked_by)
            .for_each(|id| (self.cut_off)(&id));
    }

    /// Closes the connections of an identity that was left alone until its answer was on its way.
    pub fn cut_off_caller(&self, id: &PeerId) {
        (self.cut_off)(id);
    }

    /// The end of the CA before, whoever needs it.
    ///
    /// # Errors
    /// [`CaChangeError`].
    pub fn ca_end(&self, set: &SlotSet, epoch: u32) -> Result<CaEnd, CaChangeError> {
        let cas = self.authority.cas();
        let before = cas.before.as_ref();
        if before.is_none_or(|(ca, _)| ca.epoch() != epoch) {
            return Err(CaChangeError::NotThere { epoch });
        }
        let CaChange { rekeyed, epochs } = self.authority.keys().drop_ca(set)?;
        let mut change = rekeyed.change;
        let row = BEFORE.as_bytes().to_vec();
        change.deletes.push((Table::Meta, row));
        Ok(CaEnd {
            change,
            epochs,
            in_need: self.in_need(),
        })
    }

    /// The end of the CA before is committed: what is open of those who had it alone ends.
    pub fn ca_dropped(&self, epochs: CaEpochs, in_need: &[InNeed]) {
        self.authority.keys().take_up_ca(epochs);
        self.authority.dropped();
        (self.ca_changed)(&self.authority);
        let ids = in_need.iter().filter_map(|it| it.id.parse::<PeerId>().ok());
        ids.for_each(|id| (self.cut_off)(&id));
    }

    /// Who knows the CA before alone, by SPIFFE ID: can call with what it signed, or come again with that.
    #[must_use]
    pub fn in_need(&self) -> Vec<InNeed> {
        self.without(self.authority.cas().active.epoch())
    }

    /// Who has nothing of the CA of that epoch.
    fn without(&self, active: u32) -> Vec<InNeed> {
        let (view, now) = (self.directory.view(), self.now());
        let mut all = Vec::new();
        for (id, (_, node)) in &view.nodes {
            let of = |key: &RecordedKey| key.not_after.saturating_add(NODE_RENEWS_LATE_FOR);
            let end = end(&node.keys, active, now, |key| {
                of(key).unwrap_or(Timestamp::MAX)
            });
            let (id, name) = (id.clone(), node.name.clone());
            all.extend(end.map(|until| InNeed { id, name, until }));
        }
        for (name, (_, operator)) in &view.operators {
            let id = format!("spiffe://{}/operator/{name}", self.authority.trust_domain());
            let end = end(&operator.keys, active, now, |key| key.not_after);
            let name = name.clone();
            all.extend(end.map(|until| InNeed { id, name, until }));
        }
        all.retain(|it| !view.bans.contains_key(&it.id));
        all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// The rows of every join token and of every operator's code. What was made so far names the CA before, or was shown to
    /// whoever that let stand in for the broker: with a CA that ends at once they end too.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn one_time_rows(&self) -> Result<Vec<(Table, Vec<u8>)>, LedgerError> {
        let mut all = Vec::new();
        for table in [Table::JoinToken, Table::OperatorCode] {
            let rows = self.ledger.whole(table).await?.into_iter();
            all.extend(rows.map(|(key, _)| (table, key)));
        }
        Ok(all)
    }

    /// What else the end of the CA before waits for.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn ca_waits_for(&self) -> Result<WaitsFor, LedgerError> {
        let now = self.now();
        let open = |end: Option<Timestamp>| end.is_some_and(|end| end >= now);
        let tokens = self.ledger.whole(Table::JoinToken).await?;
        let mut ends = tokens
            .iter()
            .map(|(_, row)| Some(JoinTokenRecord::decode(&row.body).ok()?.not_after));
        let codes = self.ledger.whole(Table::OperatorCode).await?;
        let mut code_ends = codes.iter().map(|(_, row)| {
            // A used one is shown again where its answer was lost.
            Some(OperatorCodeRecord::decode(&row.body).ok()?.not_after)
        });
        let bundle = self.authority.bundle().ok().map(|bundle| bundle.to_pem());
        let published = self.published.load_full();
        Ok(WaitsFor {
            tokens: ends.any(open) || code_ends.any(open),
            publication: published.as_deref() != bundle.as_ref(),
        })
    }

    /// This bundle is published in every cluster whose nodes enroll by themselves.
    pub(in crate::identity) fn is_published(&self, pem: String) {
        self.published.store(Some(Arc::new(pem)));
    }

    /// Ends the CA before where nobody needs it and nothing waits for it; whether it did.
    pub(super) async fn end_unneeded_ca(&self) -> Result<bool, CaEndError> {
        let Some(epoch) = self.authority.cas().before.as_ref().map(|it| it.0.epoch()) else {
            return Ok(false);
        };
        // First the keyring's, then the identities', as whoever takes both.
        let _keyring = self.authority.keys().changing().await;
        let _one = self.changing.lock().await;
        let waits = self.ca_waits_for().await?;
        if !self.in_need().is_empty() || waits.tokens || waits.publication {
            return Ok(false);
        }
        let set = SlotSet::read(&self.ledger).await?;
        let CaEnd { change, epochs, .. } = self.ca_end(&set, epoch)?;
        let identity = self.broker_id.clone();
        let reason = format!(
            "the CA of epoch {epoch} is trusted no more: everybody who can call has a certificate of the one that replaced it"
        );
        let event = Event::from(Alarm { identity, reason });
        self.commit(change, &self.broker_id, vec![event], |_| {
            self.ca_dropped(epochs, &[]);
        })
        .await?;
        Ok(true)
    }
}

/// What a committed rotation changes in memory.
pub struct CaTakenUp {
    certificate: CertificateAuthority,
    epochs: CaEpochs,
    since_ms: Option<u64>,
    cut_off: Vec<InNeed>,
}

impl NewCa {
    /// What to commit, and what is taken up after it.
    #[must_use]
    pub fn into_parts(self) -> (Change, CaTakenUp) {
        let taken_up = CaTakenUp {
            certificate: self.certificate,
            epochs: self.epochs,
            since_ms: self.since_ms,
            cut_off: self.cut_off,
        };
        (self.change, taken_up)
    }
}

impl CaEnd {
    /// What to commit, and what is taken up after it.
    #[must_use]
    pub fn into_parts(self) -> (Change, CaEpochs, Vec<InNeed>) {
        (self.change, self.epochs, self.in_need)
    }
}

/// Why the CA before was not ended by itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaEndError {
    #[error(transparent)]
    Change(#[from] CaChangeError),
    #[error(transparent)]
    Read(#[from] LedgerError),
    #[error(transparent)]
    Commit(#[from] EnrollError),
}

/// Until when an identity can call, or come again, with a key of a CA before `active` alone; nothing when it cannot.
fn end(
    keys: &RecordedKeys,
    active: u32,
    now: Timestamp,
    last: impl Fn(&RecordedKey) -> Timestamp,
) -> Option<Timestamp> {
    let current = Some(&keys.current).filter(|key| key.ca < active);
    let current = current.map(&last);
    // Its calls are still answered for a while.
    let previous = keys.previous.as_ref().filter(|(key, _)| key.ca < active);
    let previous = previous.map(|(key, since)| {
        let grace = since.saturating_add(PREVIOUS_GRACE);
        key.not_after.min(grace.unwrap_or(Timestamp::MAX))
    });
    current.max(previous).filter(|until| *until >= now)
}

/// Ends the CA before once nobody needs it, until told to stop.
///
/// # Cancel safety
/// May be dropped at any time: a commit is whole, and a start takes up what is committed.
pub async fn keep_ca(gate: Arc<Gate>, stop: CancellationToken) {
    loop {
        match gate.end_unneeded_ca().await {
            Ok(true) => tracing::info!("the CA before is trusted no more: nobody needs it"),
            Ok(false) => {}
            Err(error) => {
                let error = crate::causes::with_causes(&error);
                tracing::warn!(error, "the CA before could not be ended; trying again");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}
