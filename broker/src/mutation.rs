//! An operator's change, from the intent on record to the outcome on record, once a request id.
//!
//! ```text
//! request id known? -> the same answer again
//! durable Intent leaf -> ledger.apply(change + request row) -> taken up -> Outcome leaf with (seq, T) -> answer
//! ```
//!
//! All of it runs in a task of its own, so that a caller who goes away leaves nothing half done. What is committed is
//! taken up by the views in memory whatever becomes of the outcome: a committed ban holds, also while the audit fails. An
//! outcome that finds no room in the log is tried again until it is durable, and until then its request row is not
//! pruned, since a start would need it. Callers stand in line
//! for nobody but a running request of the same id. A dry run never comes here; and nothing may change a row on an
//! operator's word but through here.

mod requests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use attache_envelope::EnvelopeError;
use attache_envelope::body::{MAX_RESULT_BYTES, RequestBody, request_key};
use attache_envelope::id::RequestId;
use attache_mtls::spiffe::OperatorId;
use attache_translog::{Ending, Intent, Outcome};
use thiserror::Error;
use tokio_util::task::TaskTracker;

use crate::audit::{AuditError, AuditLog, OpenIntent};
use crate::store::{
    Applied, ApplyError, Change, FIRST_INCARNATION, Ledger, LedgerError, RedbStore, Store, Table,
};
use requests::{Admission, Operator, Ticket};

/// How long an outcome that is not on record waits before it is tried again.
const OUTCOME_RETRY: Duration = Duration::from_secs(1);

/// What is asked for, by whom.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// The operator of the peer's certificate.
    pub operator: OperatorId,
    /// That certificate's serial number.
    pub cert_serial: Vec<u8>,
    /// The request, a uuid of version 7.
    pub request_id: RequestId,
    /// What is done, such as `secret.put`.
    pub verb: String,
    /// To what, such as `payments/db`.
    pub object: String,
    /// SHA-256 over everything that was asked for.
    pub digest: [u8; 32],
    /// Why, in the operator's words.
    pub reason: Option<String>,
}

/// A mutation that is in the store and on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The answer, as it was given the first time.
    pub result: Vec<u8>,
    /// Whether this is a repeat.
    pub repeated: bool,
    /// The commit that it is in.
    pub seq: u64,
}

/// Why a mutation was not done, or not known to be.
#[derive(Debug, Error)]
pub enum MutationError {
    /// The id is no uuid of version 7, or its time lies ahead.
    #[error(
        "the request id must be a uuid of version 7 of the present time; compare the clocks of this machine and of the broker"
    )]
    RequestId,
    /// The id is older than answers are kept: whether it was done is not known here, so it is not done again.
    #[error(
        "the request is older than 24 hours, or older than the operator's last 4,096; begin anew with a new request id"
    )]
    TooOld,
    /// The id was used for something else.
    #[error("the request id was used for another request; begin anew with a new request id")]
    OtherDigest,
    /// What the change stands on has changed. Nothing was written.
    #[error(transparent)]
    Conflict(ApplyError),
    /// Nothing was written.
    #[error("the change was not committed")]
    NotCommitted(#[source] ApplyError),
    /// It is not known whether it was written: repeat it with the same request id.
    #[error("it is not known whether the change was committed; repeat it with the same request id")]
    Unknown(#[source] ApplyError),
    /// The intent could not be put on record. Nothing was written.
    #[error("the change could not be put on record")]
    Audit(#[source] AuditError),
    /// It is in the store and in effect, and its outcome is not on record yet; that is tried until it is. A repeat is
    /// answered.
    #[error(
        "the change was committed and is in effect, and its outcome could not be put on record yet; repeat it with the \
         same request id"
    )]
    Outcome(#[source] AuditError),
    /// What was to be done before the change could be built was broken off; that is on record. Nothing was written.
    #[error("{0}")]
    BrokenOff(BrokenOff),
    /// The request rows cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A request row does not decode, or the answer is too large to be kept.
    #[error("the record of the request cannot be read or written")]
    Record(#[source] EnvelopeError),
    /// The task ended without an answer: a bug.
    #[error("the change was interrupted; repeat it with the same request id")]
    Interrupted,
}

/// What work before a change came to.
pub struct Worked {
    /// What to commit.
    pub change: Change,
    /// What to answer, and to answer again to a repeat.
    pub result: Vec<u8>,
    /// SHA-256 of what was made outside of the store, for the outcome on record.
    pub made: Option<[u8; 32]>,
}

impl Worked {
    /// A change, and what to answer.
    ///
    /// # Errors
    /// [`MutationError::Record`] for an answer that no request row keeps.
    pub fn of(change: Change, result: Vec<u8>) -> Result<Self, MutationError> {
        if result.len() > MAX_RESULT_BYTES {
            return Err(MutationError::Record(EnvelopeError::Rule(
                "a result is longer than a request row keeps",
            )));
        }
        Ok(Self {
            change,
            result,
            made: None,
        })
    }
}

/// Why work before a change was broken off, for the caller and for the record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BrokenOff(pub String);

/// Takes mutations. A clone takes the same ones.
pub struct Mutations<S: Store = RedbStore> {
    shared: Arc<Shared<S>>,
    tasks: TaskTracker,
}

struct Shared<S: Store> {
    log: AuditLog,
    ledger: Ledger<S>,
    operators: Mutex<HashMap<OperatorId, Arc<Operator>>>,
}

impl<S: Store> Clone for Mutations<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            tasks: self.tasks.clone(),
        }
    }
}

impl<S: Store> Mutations<S> {
    /// Closes what a crash left open, each intent by one read of its request row, and then takes mutations.
    ///
    /// # Errors
    /// [`MutationError::Ledger`], [`MutationError::Outcome`]: then none can be taken.
    pub async fn open(
        log: AuditLog,
        ledger: Ledger<S>,
        open_intents: Vec<OpenIntent>,
        tasks: TaskTracker,
    ) -> Result<Self, MutationError> {
        let shared = Shared {
            log,
            ledger,
            operators: Mutex::new(HashMap::new()),
        };
        for intent in open_intents {
            shared.close(intent).await?;
        }
        Ok(Self {
            shared: Arc::new(shared),
            tasks,
        })
    }

    /// The answer to a request that was done already, before anything is built for it.
    ///
    /// # Errors
    /// [`MutationError::RequestId`], [`MutationError::TooOld`], [`MutationError::OtherDigest`], and of reading.
    pub async fn known(
        &self,
        operator: &OperatorId,
        request_id: RequestId,
        digest: &[u8; 32],
    ) -> Result<Option<Done>, MutationError> {
        requests::check_age(request_id, self.shared.log.clock().now_ms())?;
        self.shared.answered(operator, request_id, digest).await
    }

    /// Does the change that `work` comes to, which is begun once the intent is on record, and keeps its result for repeats; or
    /// answers what is kept. What breaks `work` off is the outcome's reason. `take_up` is told the sequence right after the
    /// commit; a repeat takes up nothing.
    ///
    /// # Errors
    /// [`MutationError`]; each says whether anything was written.
    ///
    /// # Cancel safety
    /// The change goes its way to the end in a task of its own, whether or not anybody waits: `work` has to end by itself.
    pub async fn run(
        &self,
        mutation: Mutation,
        work: impl Future<Output = Result<Worked, BrokenOff>> + Send + 'static,
        take_up: impl FnOnce(u64) + Send + 'static,
    ) -> Result<Done, MutationError> {
        requests::check_age(mutation.request_id, self.shared.log.clock().now_ms())?;
        let shared = Arc::clone(&self.shared);
        let task = self
            .tasks
            .spawn(async move { shared.run(&mutation, work, take_up).await });
        task.await.unwrap_or(Err(MutationError::Interrupted))
    }
}

impl<S: Store> Shared<S> {
    async fn run(
        &self,
        mutation: &Mutation,
        work: impl Future<Output = Result<Worked, BrokenOff>> + Send,
        take_up: impl FnOnce(u64) + Send,
    ) -> Result<Done, MutationError> {
        let operator = self.operator(&mutation.operator);
        let now_ms = self.log.clock().now_ms();
        loop {
            let requests = operator.requests(&self.ledger, &mutation.operator).await?;
            match requests.admit(mutation.request_id, now_ms)? {
                Admission::Known => {
                    let (id, digest) = (mutation.request_id, &mutation.digest);
                    let known = self.answered(&mutation.operator, id, digest).await?;
                    match known {
                        Some(done) => return Ok(done),
                        // Pruned between the two.
                        None => return Err(MutationError::TooOld),
                    }
                }
                Admission::Running(mut end) => {
                    // Committed already, it waits only for its outcome to be on record.
                    let (id, digest) = (mutation.request_id, &mutation.digest);
                    if let Some(done) = self.answered(&mutation.operator, id, digest).await? {
                        return Ok(done);
                    }
                    // Its end is the drop of its ticket, which is an error here.
                    drop(end.changed().await);
                }
                Admission::New(ticket) => {
                    return self.commit(mutation, work, ticket, take_up).await;
                }
            }
        }
    }

    async fn commit(
        &self,
        mutation: &Mutation,
        work: impl Future<Output = Result<Worked, BrokenOff>> + Send,
        ticket: Ticket,
        take_up: impl FnOnce(u64) + Send,
    ) -> Result<Done, MutationError> {
        let intent = Intent {
            operator: mutation.operator.to_string(),
            serial: mutation.cert_serial.clone(),
            request: *mutation.request_id.as_bytes(),
            verb: mutation.verb.clone(),
            object: mutation.object.clone(),
            digest: mutation.digest,
            expected_seq: self.ledger.seq() + 1,
            reason: mutation.reason.clone(),
        };
        let receipt = self
            .log
            .append(intent)
            .await
            .map_err(MutationError::Audit)?;
        let outcome = Outcome {
            operator: mutation.operator.to_string(),
            request: *mutation.request_id.as_bytes(),
            made: None,
            reason: None,
            ending: Ending::NotCommitted,
            seq: None,
            anchor_t: None,
            intent: receipt.index(),
        };
        let (change, result, made) = match work.await {
            Ok(worked) => (
                self.with_request_row(mutation, worked.change, &worked.result, &ticket),
                worked.result,
                worked.made,
            ),
            Err(broken_off) => {
                let reason = Some(broken_off.to_string());
                // Not on record yet, it is tried again until it is: the caller is told what broke it off.
                let _tried = self
                    .record(Outcome { reason, ..outcome }, ticket, false)
                    .await;
                return Err(MutationError::BrokenOff(broken_off));
            }
        };
        let applied = self.ledger.apply(change).await;
        if let Ok(applied) = &applied {
            take_up(applied.seq);
        }
        if let Some((ending, reason)) = ending(&applied) {
            let outcome = Outcome {
                made: made.filter(|_| applied.is_ok()),
                reason,
                ending,
                seq: applied.as_ref().ok().map(|applied| applied.seq),
                anchor_t: applied.as_ref().ok().map(|applied| applied.anchor_t),
                ..outcome
            };
            let recorded = self.record(outcome, ticket, applied.is_ok()).await;
            if applied.is_ok() {
                recorded.map_err(MutationError::Outcome)?;
            }
        }
        match applied {
            Ok(applied) => Ok(Done {
                result,
                repeated: false,
                seq: applied.seq,
            }),
            Err(error @ ApplyError::Conflict { .. }) => Err(MutationError::Conflict(error)),
            Err(error) if ending_is_known(&error) => Err(MutationError::NotCommitted(error)),
            Err(error) => Err(MutationError::Unknown(error)),
        }
    }

    /// The change with the row of its request, and without those that the request's place needs.
    fn with_request_row(
        &self,
        mutation: &Mutation,
        mut change: Change,
        result: &[u8],
        ticket: &Ticket,
    ) -> Change {
        let operator = mutation.operator.to_string();
        let key = request_key(&operator, mutation.request_id);
        let row = RequestBody {
            digest: mutation.digest,
            result: result.to_vec(),
            created_ms: self.log.clock().now_ms(),
        };
        change.require_absent(Table::Request, key.clone());
        change.put(Table::Request, key, row.encode());
        let pruned = ticket.pruned().iter();
        change
            .deletes
            .extend(pruned.map(|id| (Table::Request, request_key(&operator, *id))));
        change
    }

    /// Puts an outcome on record. When that fails, a task goes on trying until it is durable or the log is closed; it
    /// has the ticket, so that the request row stays, and a shutdown does not wait for it: the next start closes the
    /// intent.
    async fn record(
        &self,
        outcome: Outcome,
        ticket: Ticket,
        committed: bool,
    ) -> Result<(), AuditError> {
        let error = match self.log.append(outcome.clone()).await {
            Ok(_receipt) => {
                ticket.ended(committed);
                return Ok(());
            }
            Err(error) => error,
        };
        tracing::error!(intent = outcome.intent, %error, "an outcome is not on record; trying again until it is");
        if is_over(&error) {
            ticket.ended(committed);
            return Err(error);
        }
        let log = self.log.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(OUTCOME_RETRY).await;
                match log.append(outcome.clone()).await {
                    Err(error) if !is_over(&error) => {}
                    Ok(_) | Err(_) => return ticket.ended(committed),
                }
            }
        });
        Err(error)
    }

    /// The kept answer to a request, from its row.
    async fn answered(
        &self,
        operator: &OperatorId,
        request_id: RequestId,
        digest: &[u8; 32],
    ) -> Result<Option<Done>, MutationError> {
        let key = request_key(&operator.to_string(), request_id);
        let Some(row) = self.ledger.read(Table::Request, &key).await? else {
            return Ok(None);
        };
        let body = RequestBody::decode(&row.body).map_err(MutationError::Record)?;
        if body.digest != *digest {
            return Err(MutationError::OtherDigest);
        }
        Ok(Some(Done {
            result: body.result,
            repeated: true,
            seq: row.seq,
        }))
    }

    /// Closes an intent whose process ended: its request row was written in the same commit, or never.
    async fn close(&self, intent: OpenIntent) -> Result<(), MutationError> {
        let key = request_key(&intent.operator, RequestId::from_bytes(intent.request));
        let row = self.ledger.read(Table::Request, &key).await?;
        let committed = match &row {
            Some(row) => {
                let body = RequestBody::decode(&row.body).map_err(MutationError::Record)?;
                (body.digest == intent.digest).then_some(row.seq)
            }
            None => None,
        };
        // T is known for the newest commit only; the leaf of an older one goes without.
        let position = self.ledger.position();
        let outcome = Outcome {
            operator: intent.operator,
            request: intent.request,
            made: None,
            reason: committed.is_none().then(|| {
                let of_before = "; or its commit went with a store that was replaced";
                let of_before = if self.ledger.incarnation() > FIRST_INCARNATION {
                    of_before
                } else {
                    ""
                };
                format!("the broker stopped before the commit{of_before}")
            }),
            ending: committed.map_or(Ending::NotCommitted, |_| Ending::Committed),
            seq: committed,
            anchor_t: (committed == Some(position.seq)).then_some(position.anchor_t),
            intent: intent.index,
        };
        tracing::info!(intent = intent.index, seq = ?committed, "closed an intent that a crash left open");
        let recorded = self.log.append(outcome).await;
        recorded.map(drop).map_err(MutationError::Outcome)
    }

    fn operator(&self, id: &OperatorId) -> Arc<Operator> {
        let mut operators = self
            .operators
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(operators.entry(id.clone()).or_default())
    }
}

/// What goes on record of how a change ended; nothing while that is not known, so that the next start finds out.
fn ending(applied: &Result<Applied, ApplyError>) -> Option<(Ending, Option<String>)> {
    match applied {
        Ok(_) => Some((Ending::Committed, None)),
        Err(error) if ending_is_known(error) => {
            Some((Ending::NotCommitted, Some(error.to_string())))
        }
        Err(_) => None,
    }
}

/// Whether the log takes nothing more before the next start, which then closes the intent.
fn is_over(error: &AuditError) -> bool {
    matches!(error, AuditError::Closed | AuditError::Poisoned)
}

fn ending_is_known(error: &ApplyError) -> bool {
    match error {
        ApplyError::Conflict { .. }
        | ApplyError::Busy
        | ApplyError::Ambiguous { .. }
        | ApplyError::Ledger(
            LedgerError::Damaged { .. } | LedgerError::Anchor(_) | LedgerError::Full,
        ) => true,
        ApplyError::Ledger(LedgerError::Store(_)) | ApplyError::Closed => false,
    }
}

#[cfg(test)]
mod tests;
