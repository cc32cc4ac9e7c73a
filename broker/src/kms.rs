//! A KMS plugin of Kubernetes (KMS v2) on this machine, over its unix socket: it encrypts the secret of a slot, and
//! decrypts it when the broker starts, with nobody there.
//!
//! The socket is the whole of the trust: who may open it has what the plugin decrypts. Each call has a connection and a
//! deadline of its own. Plaintexts are wiped here; what gRPC buffers of them while a call lasts is not ours to wipe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use attache_arena::{Arena, ArenaError, Key};
use attache_envelope::EnvelopeError;
use attache_envelope::id::{SlotId, StoreId};
use attache_envelope::key::SlotSecret;
use attache_envelope::lp::Malformed;
use attache_envelope::slot::kms::{KmsCiphertext, plaintext, read_plaintext};
use attache_proto::kms::v2 as pb;
use pb::key_management_service_client::KeyManagementServiceClient;
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use zeroize::Zeroizing;

/// How long connecting may take, and then each call.
const LIMIT: Duration = Duration::from_secs(5);
/// The largest answer, in bytes: annotations of 32 kB, and the rest.
const ANSWER_MAX: usize = 64 * 1024;

/// A plugin, by its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsPlugin {
    socket: PathBuf,
}

/// Why a plugin did not encrypt or decrypt.
#[derive(Debug, Error)]
pub enum KmsError {
    /// It does not answer, or not now.
    #[error("the KMS plugin at {socket} does not answer: {why}")]
    Away {
        /// Its socket.
        socket: String,
        /// In its words or the system's.
        why: String,
    },
    /// It says no.
    #[error("the KMS plugin at {socket} refuses: {why}")]
    Refused {
        /// Its socket.
        socket: String,
        /// In its words.
        why: String,
    },
    /// It answered what KMS v2 does not allow.
    #[error("the KMS plugin at {socket} answers what KMS v2 does not allow")]
    Answer {
        /// Its socket.
        socket: String,
        /// Which part.
        source: Malformed,
    },
    /// What it decrypted is another slot's, or no slot's secret.
    #[error("what the KMS plugin at {socket} decrypts is not the secret of this slot")]
    OtherSecret {
        /// Its socket.
        socket: String,
    },
    /// No locked memory left.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}

impl KmsPlugin {
    /// A plugin that listens there; it is called when it is needed.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Has a new slot's secret encrypted, by a plugin that says that it is well.
    ///
    /// # Errors
    /// [`KmsError`].
    pub async fn encrypt(
        &self,
        store: StoreId,
        slot: SlotId,
        secret: &Key,
    ) -> Result<KmsCiphertext, KmsError> {
        let mut client = self.client().await?;
        let status = client.status(pb::StatusRequest {}).await;
        let status = status.map_err(|status| self.said(&status))?.into_inner();
        if !matches!(status.version.as_str(), "v2" | "v2beta1") || status.healthz != "ok" {
            let why = format!("it says version {}, {}", status.version, status.healthz);
            return Err(self.away(why));
        }
        let mut plaintext = plaintext(store, slot, SlotSecret::new(secret.expose()));
        let request = pb::EncryptRequest {
            plaintext: std::mem::take(&mut *plaintext),
            uid: slot.to_string(),
        };
        let answer = client.encrypt(Request::new(request)).await;
        let answer = answer.map_err(|status| self.said(&status))?.into_inner();
        let annotations = answer.annotations.into_iter();
        let annotations: BTreeMap<_, _> = annotations.map(|it| (it.key, it.value)).collect();
        KmsCiphertext::new(answer.key_id, answer.ciphertext, annotations).map_err(|source| {
            KmsError::Answer {
                socket: self.shown(),
                source,
            }
        })
    }

    /// Has the secret of a slot decrypted, into a cell of the arena.
    ///
    /// # Errors
    /// [`KmsError`].
    pub async fn decrypt(
        &self,
        arena: &Arena,
        (store, slot): (StoreId, SlotId),
        kept: &KmsCiphertext,
    ) -> Result<Key, KmsError> {
        let annotation = |(key, value): (&String, &Vec<u8>)| pb::Annotation {
            key: key.clone(),
            value: value.clone(),
        };
        let request = pb::DecryptRequest {
            ciphertext: kept.ciphertext().to_vec(),
            uid: slot.to_string(),
            key_id: kept.key_id().to_owned(),
            annotations: kept.annotations().iter().map(annotation).collect(),
        };
        let answer = self.client().await?.decrypt(request).await;
        let answer = answer.map_err(|status| self.said(&status))?.into_inner();
        let plaintext = Zeroizing::new(answer.plaintext);
        arena.key_with(|cell| {
            let read = read_plaintext(&plaintext, store, slot, cell);
            read.map_err(|_: EnvelopeError| KmsError::OtherSecret {
                socket: self.shown(),
            })
        })
    }

    async fn client(&self) -> Result<KeyManagementServiceClient<Channel>, KmsError> {
        let endpoint = Endpoint::try_from(format!("unix:{}", self.shown()));
        let endpoint = endpoint.map_err(|error| self.away(error.to_string()))?;
        let endpoint = endpoint.connect_timeout(LIMIT).timeout(LIMIT);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| self.away(crate::causes::with_causes(&error)))?;
        Ok(KeyManagementServiceClient::new(channel).max_decoding_message_size(ANSWER_MAX))
    }

    fn said(&self, status: &Status) -> KmsError {
        use tonic::Code;

        let why = status.message().to_owned();
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unimplemented => {
                self.away(why)
            }
            Code::Ok
            | Code::Unknown
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => KmsError::Refused {
                socket: self.shown(),
                why,
            },
        }
    }

    fn away(&self, why: String) -> KmsError {
        let socket = self.shown();
        KmsError::Away { socket, why }
    }

    fn shown(&self) -> String {
        self.socket.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use pb::key_management_service_server::{KeyManagementService, KeyManagementServiceServer};
    use tokio::net::UnixListener;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::Response;
    use tonic::transport::Server;

    use super::*;

    const STORE: StoreId = StoreId::from_bytes([1; 16]);
    const SLOT: SlotId = SlotId::from_bytes([2; 16]);

    /// A plugin that hides nothing, and answers as it is told.
    #[derive(Clone, Copy)]
    struct Plain {
        healthz: &'static str,
        padding: usize,
    }

    #[tonic::async_trait]
    impl KeyManagementService for Plain {
        async fn status(
            &self,
            _: Request<pb::StatusRequest>,
        ) -> Result<Response<pb::StatusResponse>, Status> {
            Ok(Response::new(pb::StatusResponse {
                version: "v2".into(),
                healthz: self.healthz.into(),
                key_id: "k".into(),
            }))
        }

        async fn encrypt(
            &self,
            request: Request<pb::EncryptRequest>,
        ) -> Result<Response<pb::EncryptResponse>, Status> {
            let mut ciphertext = request.into_inner().plaintext;
            ciphertext.extend(vec![0; self.padding]);
            Ok(Response::new(pb::EncryptResponse {
                ciphertext,
                key_id: "k".into(),
                annotations: Vec::new(),
            }))
        }

        async fn decrypt(
            &self,
            request: Request<pb::DecryptRequest>,
        ) -> Result<Response<pb::DecryptResponse>, Status> {
            let plaintext = request.into_inner().ciphertext;
            Ok(Response::new(pb::DecryptResponse { plaintext }))
        }
    }

    fn serve(folder: &Path, plain: Plain) -> KmsPlugin {
        let socket = folder.join("kms.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let server = Server::builder().add_service(KeyManagementServiceServer::new(plain));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        KmsPlugin::new(socket)
    }

    #[tokio::test]
    async fn a_secret_comes_back_for_its_own_slot_and_for_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let arena = Arena::new().unwrap();
        let secret = arena.random_key().unwrap();
        let plain = Plain {
            healthz: "ok",
            padding: 0,
        };
        let plugin = serve(folder.path(), plain);
        let kept = plugin.encrypt(STORE, SLOT, &secret).await.unwrap();
        let back = plugin.decrypt(&arena, (STORE, SLOT), &kept).await.unwrap();
        assert_eq!(back.expose(), secret.expose());
        for other in [
            (STORE, SlotId::from_bytes([3; 16])),
            (StoreId::from_bytes([3; 16]), SLOT),
        ] {
            let refused = plugin.decrypt(&arena, other, &kept).await.err();
            assert!(matches!(refused, Some(KmsError::OtherSecret { .. })));
        }
    }

    #[tokio::test]
    async fn a_plugin_that_is_away_ill_or_answers_too_much_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let arena = Arena::new().unwrap();
        let secret = arena.random_key().unwrap();
        let none = KmsPlugin::new(folder.path().join("none.sock"));
        let away = none.encrypt(STORE, SLOT, &secret).await.unwrap_err();
        assert!(matches!(away, KmsError::Away { .. }), "{away}");
        let ill = Plain {
            healthz: "no network",
            padding: 0,
        };
        let away = serve(folder.path(), ill)
            .encrypt(STORE, SLOT, &secret)
            .await;
        let away = away.unwrap_err();
        assert!(away.to_string().contains("no network"), "{away}");
        for padding in [1024, 128 * 1024] {
            let large = Plain {
                healthz: "ok",
                padding,
            };
            let refused = serve(folder.path(), large)
                .encrypt(STORE, SLOT, &secret)
                .await;
            let refused = refused.unwrap_err();
            assert!(
                matches!(refused, KmsError::Answer { .. } | KmsError::Refused { .. }),
                "{refused}"
            );
        }
    }
}
