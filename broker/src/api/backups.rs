//! Backups: `Backups` of attache.v1. What leaves is the store's rows as they are stored, and their signed end.
//!
//! A backup is a mutation whose work comes before its change: the intent is on record before the first byte, and the outcome
//! says what came of it, also where the caller went away. The file is written on a thread of its own.

use std::{path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use attache_backup::{AuditHead, Sealed, WriteError};
use attache_envelope::{
    SystemRandom,
    id::{BackupId, RequestId},
};
use attache_proto::attache::v1 as pb;
use attache_translog::log_origin;
use pb::{backups_server::Backups, create_backup_response::Part};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Extensions, Request, Response, Status};

use super::{
    field::{fixed, note, page, page_token, required, time_ms},
    mutate::{Asked, Prepared, digest, mutate},
    peer::Peers,
    rpc_error::RpcError,
};
use crate::{
    audit::AuditLog,
    backup::{BackupRecord, BackupWriteError, Moment, Records, RecordsError, Writing},
    mutation::{BrokenOff, Mutation, Mutations, Worked},
    store::Change,
    vault::BrokerVault,
};

/// Pieces that wait for a slow reader.
const QUEUED: usize = 4;
/// How long a reader may take none: a state is not held for one that does not read.
const PATIENCE: Duration = Duration::from_secs(60);
/// Whether the caller may still call is asked again after so many pieces.
const ASK_EVERY: u32 = 64;

/// So many backups are named with what is destroyed.
const NAMED: usize = 32;

const CREATE: &str = "backup.create";
const VERIFIED: &str = "backup.verify";

/// The service.
#[derive(Clone)]
pub(super) struct BackupService {
    /// Admits callers.
    pub peers: Peers,
    /// The store.
    pub vault: Arc<BrokerVault>,
    /// Changes.
    pub mutations: Mutations,
    /// The audit log.
    pub log: AuditLog,
    /// The store's file, whose size says how large a backup may be.
    pub store_file: PathBuf,
    /// One backup at a time: each holds a state of the store.
    pub one: Arc<Semaphore>,
    /// Breaks a backup off: a broker that stops waits for none.
    pub stop: CancellationToken,
}

type Answers = mpsc::Sender<Result<pb::CreateBackupResponse, Status>>;
type Parts = Pin<Box<dyn Stream<Item = Result<pb::CreateBackupResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Backups for BackupService {
    type CreateBackupStream = Parts;

    async fn create_backup(
        &self,
        request: Request<pb::CreateBackupRequest>,
    ) -> Result<Response<Parts>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let extensions = request.extensions().clone();
        let mut asked = request.into_inner();
        let wanted = required("mutation", asked.mutation.take())?;
        let request_id = fixed::<16>("mutation.request_id", &wanted.request_id)?;
        let mutation = Mutation {
            operator: peer.id,
            cert_serial: hex::decode(&peer.serial).unwrap_or_default(),
            request_id: RequestId::from_bytes(request_id),
            verb: CREATE.to_owned(),
            object: String::new(),
            digest: digest(CREATE, &asked),
            reason: Some(note("reason", asked.reason)?).filter(|reason| !reason.is_empty()),
        };
        let known = self
            .mutations
            .known(&mutation.operator, mutation.request_id, &mutation.digest);
        if known.await.map_err(RpcError::from)?.is_some() {
            return Err(made_already().into());
        }
        let backup = BackupId::random(&SystemRandom)
            .map_err(|error| RpcError::internal("NO_RANDOMNESS", error.to_string()))?;
        let (send, receive) = mpsc::channel(QUEUED);
        let begun = Part::Begun(self.begun(backup)?);
        if wanted.dry_run {
            answer(&send, Ok(begun)).await;
        } else {
            let permit = Arc::clone(&self.one).try_acquire_owned();
            let permit = permit.map_err(|_| one_at_a_time())?;
            let creation = Creation {
                service: self.clone(),
                send,
                extensions,
                backup,
                by: mutation.operator.to_string(),
                _permit: permit,
            };
            tokio::spawn(creation.run(mutation, begun));
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn list_backups(
        &self,
        request: Request<pb::ListBackupsRequest>,
    ) -> Result<Response<pb::ListBackupsResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let page = page(request.into_inner().page)?;
        let after = page.after.map(|after| after.parse::<BackupId>());
        let after = after.transpose().map_err(|_| {
            RpcError::invalid("page.token", "is none that a page had; begin at the first")
        })?;
        let records = Records(self.vault.ledger());
        let mut records = records
            .page(after, page.size + 1)
            .await
            .map_err(RpcError::from)?;
        let more = records.len() > page.size;
        records.truncate(page.size);
        let last = records.last().filter(|_| more);
        let next_token = page_token(last.map(|it| it.id.to_string()).as_deref());
        Ok(Response::new(pb::ListBackupsResponse {
            backups: records.iter().map(view).collect(),
            next_token,
        }))
    }

    async fn record_verified_backup(
        &self,
        request: Request<pb::RecordVerifiedBackupRequest>,
    ) -> Result<Response<pb::RecordVerifiedBackupResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest(VERIFIED, &asked);
        let id = BackupId::from_bytes(fixed("id", &asked.id)?);
        let hash = fixed::<32>("hash", &asked.hash)?;
        let by = peer.id.to_string();
        let prepare = async {
            let found = Records(self.vault.ledger()).one(id).await?;
            let (seq, mut record) = found.ok_or_else(|| no_backup(id))?;
            if record.body.hash != hash {
                return Err(other_hash(id));
            }
            record.body.verified = Some((self.log.clock().now_ms(), by));
            let mut change = Change::default();
            change.require_at(crate::store::Table::Backup, *id.as_bytes(), seq);
            record.put(&mut change);
            let answer = pb::RecordVerifiedBackupResponse {
                committed: None,
                backup: Some(view(&record)),
            };
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: VERIFIED,
            object: id.to_string(),
            mutation,
            digest,
            reason: String::new(),
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        Ok(Response::new(pb::RecordVerifiedBackupResponse {
            committed: Some(committed),
            ..answer
        }))
    }
}

impl BackupService {
    fn begun(&self, backup: BackupId) -> Result<pb::BackupBegun, RpcError> {
        let size = std::fs::metadata(&self.store_file).map(|it| it.len());
        let size = size.map_err(|error| {
            RpcError::unavailable("STORE_AWAY", format!("the store's file: {error}"))
        })?;
        Ok(pb::BackupBegun {
            id: backup.as_bytes().to_vec(),
            seq: self.vault.ledger().seq(),
            about_bytes: size,
            vkey: self.log.head().vkey.to_string(),
        })
    }
}

/// One backup under way.
struct Creation {
    service: BackupService,
    send: Answers,
    extensions: Extensions,
    backup: BackupId,
    by: String,
    _permit: OwnedSemaphorePermit,
}

impl Creation {
    /// To its end: what was made, or why it was not.
    async fn run(self, mut mutation: Mutation, begun: Part) {
        mutation.object = self.backup.to_string();
        let (send, mutations) = (self.send.clone(), self.service.mutations.clone());
        let done = mutations.run(mutation, self.work(begun), |_| ()).await;
        let made = done.map_err(RpcError::from).and_then(|done| {
            if done.repeated {
                return Err(made_already());
            }
            let made = pb::BackupMade::decode(done.result.as_slice());
            let made = made.map_err(|_| made_already())?;
            let committed = pb::Committed {
                seq: done.seq,
                repeated: false,
            };
            Ok(Part::Made(pb::BackupMade {
                committed: Some(committed),
                ..made
            }))
        });
        answer(&send, made).await;
    }

    /// The file, then the row that says that it was made.
    async fn work(self, begun: Part) -> Result<Worked, BrokenOff> {
        let by = self.by.clone();
        let written = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Handle::current();
            runtime.block_on(self.write(begun))
        });
        let sealed = match written.await {
            Ok(Ok(sealed)) => sealed,
            Ok(Err(error)) => return Err(BrokenOff(error.to_string())),
            Err(_) => return Err(BrokenOff("the broker is stopping".into())),
        };
        let record = BackupRecord::made(&sealed, by);
        let mut change = Change::default();
        record.put(&mut change);
        let made = pb::BackupMade {
            committed: None,
            backup: Some(view(&record)),
        };
        Ok(Worked {
            change,
            result: made.encode_to_vec(),
            made: Some(sealed.hash),
        })
    }

    /// Runs on a thread of its own.
    async fn write(self, begun: Part) -> Result<Sealed, BackupWriteError> {
        let vault = &self.service.vault;
        let head = self.service.log.head();
        let moment = Moment {
            backup: self.backup,
            now_ms: self.service.log.clock().now_ms(),
            audit: AuditHead {
                chain: *self.service.log.chain(),
                size: head.size,
                root: head.root,
            },
        };
        let writing = Writing::of(vault.ledger(), vault.keys(), moment).await?;
        let origin = log_origin(
            vault.ledger().store_id().as_bytes(),
            self.service.log.chain().as_bytes(),
        );
        let signer = writing.signer().verifier(&origin);
        let signer = signer.map_err(|error| WriteError::Sign(error.into()))?;
        let begun = match begun {
            Part::Begun(begun) => Part::Begun(pb::BackupBegun {
                seq: writing.head().seq,
                vkey: signer.vkey(),
                ..begun
            }),
            other @ (Part::Piece(_) | Part::Made(_)) => other,
        };
        self.hand_on(begun).await.map_err(BackupWriteError::Gone)?;
        let mut pieces = 0_u32;
        writing
            .write(async |piece: Vec<u8>| {
                pieces = pieces.wrapping_add(1);
                if pieces.is_multiple_of(ASK_EVERY) {
                    self.ask_again().await?;
                }
                self.hand_on(Part::Piece(piece.into())).await
            })
            .await
    }

    /// Waits until the reader takes the part, but not for ever, and not in a broker that stops.
    async fn hand_on(&self, part: Part) -> Result<(), &'static str> {
        let sent = self
            .send
            .send(Ok(pb::CreateBackupResponse { part: Some(part) }));
        tokio::select! {
            biased;
            () = self.service.stop.cancelled() => Err("the broker is stopping"),
            sent = sent => sent.map_err(|_| "the caller went away before the backup was whole"),
            () = tokio::time::sleep(PATIENCE) => Err("the caller took nothing for a minute"),
        }
    }

    /// A caller who is banned meanwhile gets no more.
    async fn ask_again(&self) -> Result<(), &'static str> {
        let asked = self.service.peers.operator(&self.extensions).await;
        asked
            .map(drop)
            .map_err(|_| "the caller may not call any more")
    }
}

/// Answers a part that comes first or last; a caller who has gone needs none.
async fn answer(send: &Answers, part: Result<Part, RpcError>) {
    let answer = part.map(|part| pb::CreateBackupResponse { part: Some(part) });
    let _gone = send
        .send_timeout(answer.map_err(Status::from), PATIENCE)
        .await;
}

fn made_already() -> RpcError {
    RpcError::new(
        Code::AlreadyExists,
        "BACKUP_MADE",
        "this request has made a backup already, and its file is not sent again; begin anew with a new request id",
    )
}

fn one_at_a_time() -> RpcError {
    RpcError::exhausted(
        "BACKUP_UNDER_WAY",
        "another backup is being made; try again when it is done",
    )
}

fn no_backup(id: BackupId) -> RpcError {
    RpcError::new(
        Code::NotFound,
        "NO_BACKUP",
        format!(
            "the store has no record of backup {id}: it was made after the state that this store was restored from; see \
             those that it knows with: attache backup list"
        ),
    )
}

fn other_hash(id: BackupId) -> RpcError {
    RpcError::invalid(
        "hash",
        format!("is not that of backup {id}; verify the file of that backup"),
    )
}

/// The backups on record that were made at or after a time, newest first and as they are told, and how many there are: those that
/// may have what is destroyed.
pub(super) async fn since(
    vault: &BrokerVault,
    created_ms: u64,
) -> Result<(Vec<pb::Backup>, u64), RecordsError> {
    let records = Records(vault.ledger());
    let (backups, count) = records.since(created_ms, NAMED).await?;
    Ok((backups.iter().map(view).collect(), count))
}

/// A backup on record, as it is told.
fn view(record: &BackupRecord) -> pb::Backup {
    let body = &record.body;
    let verified = body.verified.as_ref();
    pb::Backup {
        id: record.id.as_bytes().to_vec(),
        incarnation: body.incarnation,
        seq: body.seq,
        created: time_ms(body.created_ms),
        created_by: body.created_by.clone(),
        hash: body.hash.to_vec(),
        size: body.size,
        verified: verified.and_then(|(at_ms, _)| time_ms(*at_ms)),
        verified_by: verified.map(|(_, by)| by.clone()).unwrap_or_default(),
    }
}
