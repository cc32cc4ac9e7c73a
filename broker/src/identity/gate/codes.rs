//! Operators by code: one operator makes a code for a name, and whoever has it signs in under that name, once.
//!
//! ```text
//! code, its secret's hash in a row -> not over, for this name, unused or used by this very key -> no operator of that name signs in still
//!   -> sign-in on record -> code used and operator's key recorded, in one commit -> certificate
//! ```
//! It is also the way back of an operator whose certificate has ended and is not renewed any more, with an alarm. An
//! operator who can still call keeps the name.

use std::sync::Arc;

use attache_mtls::{
    ca::{CertificateRequest, IssuedCertificate},
    spiffe::OperatorId,
};
use attache_translog::{Alarm, Event};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{EnrollError, Gate, spawned};
use crate::{
    identity::{
        one_time::{OPERATOR_CODE_LIFETIME, OperatorCode},
        operator_code::OperatorCodeRecord,
        view::{NotAdmitted, View},
    },
    store::{Change, LedgerError, Table},
};

/// Why a name gets no code, or none may be used for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameTaken {
    /// An operator of that name can still call.
    #[error(
        "{name} is an operator already, whose certificate works until {until}; while it does it renews itself"
    )]
    SignedIn {
        /// The operator's name.
        name: String,
        /// The end of the last certificate.
        until: Timestamp,
    },
    /// It is banned.
    #[error("{name} is banned; an operator can lift that with: attache operator unban {name}")]
    Banned {
        /// The operator's name.
        name: String,
    },
}

impl Gate {
    /// Whether somebody may sign in under this name by a code.
    ///
    /// # Errors
    /// [`NameTaken`].
    pub fn is_free(&self, id: &OperatorId) -> Result<(), NameTaken> {
        self.free(&self.directory.view(), id)
    }

    /// Makes a code; answers its text, its id and its row.
    ///
    /// # Errors
    /// [`EnrollError::Random`].
    pub fn draw_operator_code(
        &self,
        id: &OperatorId,
        by: String,
    ) -> Result<(Zeroizing<String>, [u8; 16], OperatorCodeRecord), EnrollError> {
        let code = OperatorCode::draw(self.authority.pin()).map_err(|_| EnrollError::Random)?;
        let record = OperatorCodeRecord {
            hash: code.hash(),
            name: id.name().to_owned(),
            not_after: self.after(OPERATOR_CODE_LIFETIME),
            by,
            used: None,
        };
        Ok((code.text(), code.id(), record))
    }

    /// Adds to a change the removal of codes that are over.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn forget_expired_codes(&self, change: &mut Change) -> Result<(), LedgerError> {
        let not_after = |body: &[u8]| Some(OperatorCodeRecord::decode(body).ok()?.not_after);
        self.forget_expired(Table::OperatorCode, not_after, change)
            .await
    }

    /// Signs an operator in by a code that is for this operator.
    ///
    /// # Errors
    /// [`EnrollError`]; the code is used up only when a certificate was made.
    pub async fn sign_in_by_code(
        self: &Arc<Self>,
        code: &str,
        id: OperatorId,
        request: CertificateRequest,
    ) -> Result<IssuedCertificate, EnrollError> {
        let code = OperatorCode::parse(code).map_err(EnrollError::MalformedCode)?;
        // Whoever has no code stands in nobody's way.
        self.code_row(&code).await?;
        let gate = Arc::clone(self);
        spawned(async move { gate.sign_in_by_code_now(&code, &id, &request).await }).await
    }

    async fn sign_in_by_code_now(
        &self,
        code: &OperatorCode,
        id: &OperatorId,
        request: &CertificateRequest,
    ) -> Result<IssuedCertificate, EnrollError> {
        let _one = self.changing.lock().await;
        let (seq, mut record) = self.code_row(code).await?;
        let spki = request.spki_sha256();
        if record.name != id.name() {
            return Err(EnrollError::CodeOfAnother { name: record.name });
        }
        let view = self.directory.view();
        let known = view.operators.get(id.name());
        let mut events = Vec::new();
        match record.used {
            None => {
                self.free(&view, id)?;
                if known.is_some() {
                    let reason = format!(
                        "signed in anew by a code of {}; the earlier keys are no longer admitted",
                        record.by
                    );
                    let identity = id.to_string();
                    events.push(Event::from(Alarm { identity, reason }));
                }
            }
            // Its answer was lost. Whoever signed in since by another key is not thrown out by it.
            Some(used) => {
                let its_own = known.is_some_and(|(_, operator)| operator.keys.current.spki == spki);
                if used != spki || !its_own {
                    return Err(EnrollError::Code);
                }
                refuse_banned(&view, id)?;
            }
        }
        record.used = Some(spki);
        let mut change = Change::default();
        change.require_at(Table::OperatorCode, code.id(), seq);
        change.put(Table::OperatorCode, code.id(), record.encode());
        let evidence = format!("operator-code {} of {}", hex::encode(code.id()), record.by);
        self.certify(id, request, change, events, Some(evidence))
            .await
    }

    /// The row of a code that is not over, and its commit.
    async fn code_row(
        &self,
        code: &OperatorCode,
    ) -> Result<(u64, OperatorCodeRecord), EnrollError> {
        let row = self.ledger.read(Table::OperatorCode, &code.id()).await?;
        let row = row.ok_or(EnrollError::Code)?;
        let record = OperatorCodeRecord::decode(&row.body).map_err(|_| EnrollError::Code)?;
        if !code.matches(record.hash) || record.not_after < self.now() {
            return Err(EnrollError::Code);
        }
        Ok((row.seq, record))
    }

    /// Whether nobody is signed in by that name: by a certificate that is valid, of a CA that is trusted.
    fn free(&self, view: &View, id: &OperatorId) -> Result<(), NameTaken> {
        let name = id.name().to_owned();
        if view.bans.contains_key(&id.to_string()) {
            return Err(NameTaken::Banned { name });
        }
        let (cas, now) = (self.authority.cas(), self.now());
        let keys = view.operators.get(&name).map(|(_, it)| &it.keys);
        let live = keys
            .into_iter()
            .flat_map(|keys| [Some(&keys.current), keys.next.as_ref()]);
        let trusted = live.flatten().filter(|key| cas.trusts(key.ca));
        match trusted.map(|key| key.not_after).max() {
            Some(until) if now <= until => Err(NameTaken::SignedIn { name, until }),
            Some(_) | None => Ok(()),
        }
    }
}

fn refuse_banned(view: &View, id: &OperatorId) -> Result<(), NotAdmitted> {
    view.refuse_banned(&id.to_string(), "operator", id.name())
}
