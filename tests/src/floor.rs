//! The floor of an RPC: a server that does nothing but the transport, as a process of its own.
//!
//! It takes the broker's own certificate, listener settings and message types, and answers `Deliver` at once and empty:
//! what is left of a release when nothing is attested, decided, recorded or sealed.

use std::{fs, path::Path, process::Child, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use attache_broker::api::peer::BrokerStream;
use attache_mtls::{
    accept::{AcceptLimits, Acceptor},
    bundle::TrustBundle,
    key::LeafKey,
    tls::{Credentials, Material},
};
use attache_proto::attache::v1 as pb;
use pb::delivery_server::{Delivery, DeliveryServer};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, transport::Server};

use crate::{Bed, process::PATIENCE};

/// The argument that makes a bench the floor's server.
const ARGUMENT: &str = "--floor-server";
/// Where it says how it can be reached.
const ADDRESS: &str = "floor.addr";

struct Empty;

#[tonic::async_trait]
impl Delivery for Empty {
    async fn deliver(
        &self,
        _: Request<pb::DeliverRequest>,
    ) -> Result<Response<pb::DeliverResponse>, Status> {
        Ok(Response::new(pb::DeliverResponse::default()))
    }
}

/// The running server; it ends when dropped.
pub struct Floor {
    child: Child,
    /// Where it listens.
    pub address: std::net::SocketAddr,
}

impl Floor {
    /// Starts this very program again as the server, beside a bed's broker.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(bed: &Bed) -> Result<Self> {
        let place = bed.dir.join(ADDRESS);
        let _ = fs::remove_file(&place);
        let mut child = std::process::Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .arg(&bed.dir)
            .spawn()?;
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Ok(address) = fs::read_to_string(&place).unwrap_or_default().parse() {
                return Ok(Self { child, address });
            }
            if child.try_wait()?.is_some() || std::time::Instant::now() > deadline {
                let _ = child.kill();
                bail!("the floor's server did not start");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Called first by a bench: when this process was started as the floor's server, serves until it is killed, and answers
/// true if it ever ends.
///
/// # Errors
/// When it cannot serve.
pub fn serve_if_asked() -> Result<bool> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|it| it != ARGUMENT) {
        return Ok(false);
    }
    let dir = arguments.next().context("the bed's folder")?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(Path::new(&dir)))?;
    Ok(true)
}

async fn serve(dir: &Path) -> Result<()> {
    let tls = dir.join("broker/tls");
    let bundle = TrustBundle::from_pem(&fs::read(dir.join("broker/trust-bundle.pem"))?)?;
    let key = LeafKey::read(&tls.join("broker.key"))?;
    let material = Material::from_pem(&fs::read(tls.join("broker.crt"))?, &key, Arc::new(bundle))?;
    let acceptor = Acceptor::new(
        Credentials::new(material).server_config()?,
        AcceptLimits::default(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let place = dir.join(ADDRESS);
    fs::write(
        place.with_extension("tmp"),
        listener.local_addr()?.to_string(),
    )?;
    fs::rename(place.with_extension("tmp"), place)?;
    let (send, receive) = mpsc::channel(64);
    tokio::spawn(async move { acceptor.run(listener, send).await });
    let incoming = ReceiverStream::new(receive)
        .map(|stream| Ok::<_, std::io::Error>(BrokerStream::new(stream, true)));
    Server::builder()
        .add_service(DeliveryServer::new(Empty))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
