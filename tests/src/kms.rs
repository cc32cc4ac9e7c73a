//! A KMS plugin of Kubernetes, as a real server on a real unix socket: AES-256-GCM under a key of its own.

use std::{collections::HashMap, fs, path::Path, thread::JoinHandle};

use anyhow::{Context, Result};
use attache_proto::kms::v2 as pb;
use pb::key_management_service_server::{KeyManagementService, KeyManagementServiceServer};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use tokio::{net::UnixListener, sync::oneshot};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// An annotation that the plugin wants back to decrypt.
const ANNOTATION: (&str, &[u8]) = ("version.kms.attache.test", b"1");

/// A plugin that serves until it is dropped.
#[derive(Debug)]
pub struct KmsPlugin {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Service {
    key: LessSafeKey,
    key_id: String,
}

impl KmsPlugin {
    /// Serves on a socket, under this key.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(socket: &Path, key: &[u8; 32]) -> Result<Self> {
        let _ = fs::remove_file(socket);
        let key = UnboundKey::new(&AES_256_GCM, key).ok().context("a key")?;
        let service = Service {
            key: LessSafeKey::new(key),
            key_id: "kms-key-1".to_owned(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(socket).with_context(|| socket.display().to_string())?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let served = Server::builder()
                .add_service(KeyManagementServiceServer::new(service))
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
                    let _ = stopped.await;
                });
            let _ = runtime.block_on(served);
        });
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for KmsPlugin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[tonic::async_trait]
impl KeyManagementService for Service {
    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(pb::StatusResponse {
            version: "v2".into(),
            healthz: "ok".into(),
            key_id: self.key_id.clone(),
        }))
    }

    async fn encrypt(
        &self,
        request: Request<pb::EncryptRequest>,
    ) -> Result<Response<pb::EncryptResponse>, Status> {
        let mut nonce = [0; 12];
        let drawn = SystemRandom::new().fill(&mut nonce);
        drawn.map_err(|_| Status::internal("no randomness"))?;
        let mut sealed = request.into_inner().plaintext;
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(nonce_of, Aad::empty(), &mut sealed)
            .map_err(|_| Status::internal("not sealed"))?;
        let (key, value) = (ANNOTATION.0.to_owned(), ANNOTATION.1.to_vec());
        Ok(Response::new(pb::EncryptResponse {
            ciphertext: [&nonce[..], &sealed].concat(),
            key_id: self.key_id.clone(),
            annotations: vec![pb::Annotation { key, value }],
        }))
    }

    async fn decrypt(
        &self,
        request: Request<pb::DecryptRequest>,
    ) -> Result<Response<pb::DecryptResponse>, Status> {
        let asked = request.into_inner();
        let annotations = asked.annotations.into_iter();
        let annotations: HashMap<_, _> = annotations.map(|it| (it.key, it.value)).collect();
        if asked.key_id != self.key_id
            || annotations.get(ANNOTATION.0).map(Vec::as_slice) != Some(ANNOTATION.1)
        {
            return Err(Status::invalid_argument(
                "another key, or annotations that are not ours",
            ));
        }
        let refused = || Status::invalid_argument("no ciphertext of this key");
        let (nonce, sealed) = asked.ciphertext.split_at_checked(12).ok_or_else(refused)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refused())?;
        let mut sealed = sealed.to_vec();
        let opened = self.key.open_in_place(nonce, Aad::empty(), &mut sealed);
        let plaintext = opened.map_err(|_| refused())?.to_vec();
        Ok(Response::new(pb::DecryptResponse { plaintext }))
    }
}
