//! The KMS v2 service (k8s.io/kms/apis/v2) of a token's key.
//!
//! One call at a time has the token, off the runtime; one that does not come back within [`LIMIT`] ends the process, since foreign
//! code cannot be interrupted. What gRPC buffers of a plaintext while a call lasts is not ours to wipe. A token that is away or broken answers UNAVAILABLE, which callers try
//! again; a ciphertext that is not the key's answers `INVALID_ARGUMENT`, which they do not.

use std::{sync::Arc, time::Duration};

use attache_proto::kms::v2 as pb;
use pb::key_management_service_server::KeyManagementService;
use tokio::sync::{Mutex, Notify};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use crate::token::{TokenError, TokenKey};

/// The most that is encrypted, in bytes: KMS v2's callers send a key each time.
const PLAINTEXT_MAX: usize = 1024;
/// The longest ciphertext that is looked at, in bytes (KMS v2: 1 kB).
const CIPHERTEXT_MAX: usize = 2048;

/// How long a call may have the token.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Serves one key.
#[derive(Debug, Clone)]
pub struct Service {
    key: Arc<TokenKey>,
    turn: Arc<Mutex<()>>,
    hangs: Arc<Notify>,
}

impl Service {
    /// Serves this key.
    #[must_use]
    pub fn new(key: TokenKey) -> Self {
        Self {
            key: Arc::new(key),
            turn: Arc::default(),
            hangs: Arc::default(),
        }
    }

    /// Comes when the module did not come back from a call.
    #[must_use]
    pub fn hangs(&self) -> Arc<Notify> {
        Arc::clone(&self.hangs)
    }

    /// Has the token do something; the next call waits for it, also when the caller has gone.
    async fn have<T: Send + 'static>(
        &self,
        work: impl FnOnce(&TokenKey) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let key = Arc::clone(&self.key);
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&key);
            drop(turn);
            done
        });
        match tokio::time::timeout(LIMIT, done).await {
            Ok(Ok(done)) => done.map_err(|error| told(&error)),
            Ok(Err(_)) => Err(Status::internal("the token's call did not end by itself")),
            Err(_) => {
                self.hangs.notify_one();
                Err(Status::unavailable("the PKCS#11 module does not come back"))
            }
        }
    }
}

/// What a caller is told, and the log.
fn told(error: &TokenError) -> Status {
    let words = with_cause(error);
    tracing::warn!(error = words, "the token did not do it");
    if matches!(error, TokenError::Ciphertext) {
        Status::invalid_argument(words)
    } else {
        Status::unavailable(words)
    }
}

fn with_cause(error: &TokenError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[tonic::async_trait]
impl KeyManagementService for Service {
    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let id = self.have(TokenKey::id).await;
        let (healthz, key_id) = match id {
            Ok(id) => ("ok".to_owned(), id),
            Err(status) => (status.message().to_owned(), String::new()),
        };
        Ok(Response::new(pb::StatusResponse {
            version: "v2".to_owned(),
            healthz,
            key_id,
        }))
    }

    async fn encrypt(
        &self,
        request: Request<pb::EncryptRequest>,
    ) -> Result<Response<pb::EncryptResponse>, Status> {
        let asked = request.into_inner();
        let plaintext = Zeroizing::new(asked.plaintext);
        if plaintext.is_empty() || plaintext.len() > PLAINTEXT_MAX {
            let words = format!("plaintext must have 1 to {PLAINTEXT_MAX} bytes");
            return Err(Status::invalid_argument(words));
        }
        let (ciphertext, key_id) = self.have(move |key| key.encrypt(&plaintext)).await?;
        tracing::info!(uid = ?asked.uid, "encrypted");
        Ok(Response::new(pb::EncryptResponse {
            ciphertext,
            key_id,
            annotations: Vec::new(),
        }))
    }

    async fn decrypt(
        &self,
        request: Request<pb::DecryptRequest>,
    ) -> Result<Response<pb::DecryptResponse>, Status> {
        let asked = request.into_inner();
        if asked.ciphertext.len() > CIPHERTEXT_MAX {
            return Err(told(&TokenError::Ciphertext));
        }
        let mut plaintext = self.have(move |key| key.decrypt(&asked.ciphertext)).await?;
        tracing::info!(uid = ?asked.uid, "decrypted");
        let plaintext = std::mem::take(&mut *plaintext);
        Ok(Response::new(pb::DecryptResponse { plaintext }))
    }
}
