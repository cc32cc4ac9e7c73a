//! gRPC connections to a bed's broker with the identities that lie in the bed: its node's, its operator's.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use attache_cli::{Environment, context::Settings};
use attache_envelope::late_renewal::LateRenewal;
use attache_mtls::{
    bundle::TrustBundle,
    connect::Connector,
    identity::SpkiSha256,
    key::LeafKey,
    spiffe::BrokerId,
    tls::{Credentials, Material, spki_pinned_client_config},
};
use attache_proto::attache::v1 as pb;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{Bed, bed::TRUST_DOMAIN, pod::Pod};

/// How long a handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A channel over connections that `connector` opens to `address`, opened when it is first used. Must be called inside a
/// tokio runtime.
#[must_use]
pub fn channel(connector: Connector, address: SocketAddr) -> Channel {
    Endpoint::from_static("http://broker").connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let connector = connector.clone();
            async move {
                connector
                    .connect(address)
                    .await
                    .map(TokioIo::new)
                    .map_err(std::io::Error::other)
            }
        },
    ))
}

/// The identity of the bed's node, as its plugin keeps it on disk.
///
/// # Errors
/// When the plugin has none yet.
pub fn node_credentials(bed: &Bed) -> Result<Credentials> {
    let state = bed.dir.join("node-state");
    let read = |name: &str| fs::read(state.join(name)).with_context(|| format!("read {name}"));
    let bundle = TrustBundle::from_pem(&read("bundle.pem")?)?;
    let key = LeafKey::from_pem(&read("key.pem")?)?;
    let material = Material::from_pem(&read("node.crt")?, &key, Arc::new(bundle))?;
    Ok(Credentials::new(material))
}

/// The identity of the bed's operator, as the command line keeps it on disk.
///
/// # Errors
/// When nobody has signed in.
pub fn operator_credentials(bed: &Bed) -> Result<Credentials> {
    let settings = Settings::read(&Environment {
        config: Some(bed.cli_config().into()),
        ..Environment::default()
    })?;
    let (_, context) = settings.pick(None)?;
    let read = |path| {
        let path = settings.resolve(path);
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    };
    let bundle = TrustBundle::from_pem(&read(&context.trust_bundle)?)?;
    let key = LeafKey::from_pem(&read(&context.key)?)?;
    let material = Material::from_pem(&read(&context.certificate)?, &key, Arc::new(bundle))?;
    Ok(Credentials::new(material))
}

/// A connector with this identity, for the bed's broker and no other.
///
/// # Errors
/// When the identity cannot be used.
pub fn connector(credentials: &Credentials) -> Result<Connector> {
    let broker = BrokerId::new(TRUST_DOMAIN.parse()?, "broker-0")?;
    Ok(Connector::new(
        credentials.client_config(broker)?,
        CONNECT_LIMIT,
    ))
}

/// The channel that the bed's node plugin would have. Must be called inside a tokio runtime.
///
/// # Errors
/// As [`node_credentials`].
pub fn node(bed: &Bed) -> Result<Channel> {
    let (grpc, _) = bed.broker_addresses()?;
    Ok(channel(connector(&node_credentials(bed)?)?, grpc))
}

/// The channel that the bed's operator would have. Must be called inside a tokio runtime.
///
/// # Errors
/// As [`operator_credentials`].
pub fn operator(bed: &Bed) -> Result<Channel> {
    let (grpc, _) = bed.broker_addresses()?;
    Ok(channel(connector(&operator_credentials(bed)?)?, grpc))
}

/// The channel of a machine that joins by this token, on the enrollment listener.
///
/// # Errors
/// When the text is no token, or the broker does not run.
pub fn joining(bed: &Bed, token: &str) -> Result<Channel> {
    let tls = spki_pinned_client_config(pin(token)?)?;
    let (_, enroll) = bed.broker_addresses()?;
    Ok(channel(Connector::new(tls, CONNECT_LIMIT), enroll))
}

/// What a plugin would ask for that finds in the bed's state folder what is there, and asks at this time.
///
/// # Errors
/// As [`node_credentials`].
pub fn late_request(bed: &Bed, at: Timestamp) -> Result<pb::RenewLateRequest> {
    // The agent's own, so that no other user's process reads it as a private file.
    let key = LeafKey::from_pem(&fs::read(bed.dir.join("node-state/key.pem"))?)?;
    let credentials = node_credentials(bed)?;
    let certificate = credentials.current().identity().certificate().to_vec();
    let (csr, version) = (LeafKey::generate()?.certificate_request()?, "0.1.0");
    let unix_ms = at.as_millisecond();
    let signed = LateRenewal {
        broker: &format!("spiffe://{TRUST_DOMAIN}/broker/broker-0"),
        certificate: &certificate,
        request: &csr,
        version,
        at_ms: u64::try_from(unix_ms)?,
    };
    let signature = key.sign(&signed.transcript())?;
    Ok(pb::RenewLateRequest {
        certificate,
        csr,
        version: version.to_owned(),
        at: Some(pb::Time { unix_ms }),
        signature,
    })
}

/// The CA's pin in a join token.
///
/// # Errors
/// When the text is no token.
pub fn pin(token: &str) -> Result<SpkiSha256> {
    let encoded = token
        .strip_prefix("attache-join-1:")
        .context("a join token")?;
    let bytes = URL_SAFE_NO_PAD.decode(encoded)?;
    let pin = bytes.last_chunk::<32>().context("a pin at its end")?;
    Ok(SpkiSha256::from_bytes(*pin))
}

/// The channel of root on the broker's machine: the admin socket.
///
/// # Errors
/// When the socket's path is no URI.
pub fn admin(bed: &Bed) -> Result<Channel> {
    let socket = format!("unix:{}/broker-admin.sock", bed.dir.display());
    Ok(Endpoint::try_from(socket)?.connect_lazy())
}

/// What the bed's node plugin would ask for a pod's volume, with a made-up key and nonce.
#[must_use]
pub fn deliver_request(pod: &Pod, token: &str) -> pb::DeliverRequest {
    pb::DeliverRequest {
        volume_id: pod.volume_id(),
        volume_name: pod.volume.clone(),
        pod_token: token.to_owned(),
        plugin_key: vec![9; 32],
        nonce: vec![1; 16],
        held: None,
        attributes: pod.attributes.clone().into_iter().collect(),
        pod_namespace: pod.namespace.clone(),
        pod_name: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        service_account: pod.service_account.clone(),
        volume_mount_group: None,
        lacks_inode_flags: false,
        lacks_noswap: false,
    }
}
