//! A small real HTTPS server, for tests of what is asked and believed of an API server: it answers as the test says.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Client;
use crate::metrics::ApiMetrics;

/// What the server answers to the n-th request, given its head and body; no answer at all when there is none.
type Answers = dyn Fn(usize, &str) -> Option<Vec<u8>> + Send + Sync;

/// A small real HTTPS server in place of an API server.
pub(crate) struct Server {
    pub(super) address: SocketAddr,
    pub(super) folder: TempDir,
    asked: Arc<AtomicUsize>,
}

pub(super) fn ca(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Server {
    /// A server for 127.0.0.1 under a CA of its own, and the folder of credentials that fit it.
    pub(crate) async fn start(
        answers: impl Fn(usize, &str) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let ca = ca("the cluster's CA");
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (acceptor, answers): (_, Arc<Answers>) =
            (TlsAcceptor::from(Arc::new(config)), Arc::new(answers));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answers, asked) =
                    (acceptor.clone(), Arc::clone(&answers), Arc::clone(&counted));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    while let Some(request) = request(&mut stream).await {
                        let number = asked.fetch_add(1, Ordering::SeqCst);
                        let Some(answer) = answers(number, &request) else {
                            std::future::pending::<()>().await;
                            return;
                        };
                        // An empty answer ends the connection.
                        let ends = answer.is_empty();
                        if ends || stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.crt"), ca.pem()).unwrap();
        fs::write(folder.path().join("token"), "first-token\n").unwrap();
        Self {
            address,
            folder,
            asked,
        }
    }

    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        let address = format!("https://{}", self.address).parse().unwrap();
        Client::new(&address, self.folder.path().into(), ApiMetrics::default())
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// One request, head and body.
async fn request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut text = String::new();
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_lowercase();
            let length = length.split_once("content-length: ");
            let length = length.map_or(0, |(_, rest)| {
                rest.lines().next().unwrap().parse::<usize>().unwrap()
            });
            if body.len() >= length {
                return Some(text);
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => text.push_str(std::str::from_utf8(&chunk[..read]).unwrap()),
        }
    }
}

/// An answer of this status and body.
#[expect(clippy::unnecessary_wraps, reason = "it is what a server answers with")]
pub(crate) fn answer(status: &str, body: &str) -> Option<Vec<u8>> {
    Some(
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
    )
}
