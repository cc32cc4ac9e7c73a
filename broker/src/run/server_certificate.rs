//! The broker's own certificate: ninety days, its key outside the keyring, made again when a third of its life is left.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use attache_mtls::{
    bundle::TrustBundle,
    ca::{BROKER_VALIDITY, CertificateRequest},
    key::LeafKey,
    public_file::{read_public, write_public},
    spiffe::PeerId,
    tls::{Credentials, Material},
    verify::Purpose,
};
use jiff::Timestamp;

use crate::{config::Config, identity::Authority};

/// A certificate chain is never larger, in bytes.
pub(super) const CHAIN_MAX: u64 = 256 * 1024;
/// The certificate is looked at this often while the broker serves.
pub(super) const LOOK: Duration = Duration::from_secs(3600);

/// Makes a certificate for the key on disk, or for a new one where there is none that can be read. A key stays through the
/// certificates: a sealed broker is known by it, and there is no moment at which the two on disk are of different keys.
pub(super) fn issue(config: &Config, authority: &Authority, now: Timestamp) -> Result<()> {
    let path = config.store.server_key();
    let key = match LeafKey::read(&path) {
        Ok(key) => key,
        Err(_) => {
            let key = LeafKey::generate()?;
            key.write(&path)?;
            key
        }
    };
    let request = CertificateRequest::verify(&key.certificate_request()?)?;
    let issued = authority.issue_own(&request, &PeerId::Broker(config.id.clone()), now)?;
    publish(
        &config.store.server_certificate(),
        issued.chain_pem().as_bytes(),
    )
}

/// Writes the CA certificates that callers must trust.
pub(super) fn write_bundle(config: &Config, authority: &Authority) -> Result<()> {
    publish(
        &config.store.trust_bundle(),
        authority.bundle()?.to_pem().as_bytes(),
    )
}

/// The certificate on disk, made again when it is missing, another identity's, near its end, or of another CA than the one
/// that everybody trusts.
pub(super) fn load(config: &Config, authority: &Authority, now: Timestamp) -> Result<Material> {
    let bundle = Arc::new(authority.bundle()?);
    let cas = authority.cas();
    let known = TrustBundle::from_der(vec![cas.known(now).certificate().certificate().clone()])?;
    let usable = read(config, &bundle).ok().filter(|material| {
        let identity = material.identity();
        if known
            .verify(material.chain(), Purpose::Server, now)
            .is_err()
        {
            return false;
        }
        let left = now.duration_until(identity.not_after());
        *identity.id() == PeerId::Broker(config.id.clone())
            && left > (BROKER_VALIDITY / 3).try_into().unwrap_or_default()
    });
    match usable {
        Some(material) => Ok(material),
        None => {
            issue(config, authority, now)?;
            read(config, &bundle)
        }
    }
}

/// Loads the certificate again into the running server, and writes the CA certificates anew.
pub(super) fn reload(
    config: &Config,
    authority: &Authority,
    credentials: &Credentials,
) -> Result<()> {
    write_bundle(config, authority)?;
    Ok(credentials.reload(load(config, authority, Timestamp::now())?)?)
}

fn read(config: &Config, bundle: &Arc<TrustBundle>) -> Result<Material> {
    let path = config.store.server_certificate();
    let chain =
        read_public(&path, CHAIN_MAX).with_context(|| format!("cannot read {}", path.display()))?;
    let key = LeafKey::read(&config.store.server_key())?;
    Ok(Material::from_pem(&chain, &key, Arc::clone(bundle))?)
}

/// Replaces a file that anybody may read, and names it when that fails.
pub(super) fn publish(path: &Path, bytes: &[u8]) -> Result<()> {
    write_public(path, bytes, 0o644).with_context(|| format!("cannot write {}", path.display()))
}
