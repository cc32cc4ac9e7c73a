//! Renewing after the certificate's end, on the listener without client certificates: the key of the ended one signs what
//! is asked for.
//!
//! It is the identity of before: the broker that is asked must be that of before, known by the roots of before or by those
//! that are followed, and its answer must be for this node.

use std::sync::Arc;

use attache_envelope::late_renewal::LateRenewal;
use attache_mtls::key::LeafKey;
use attache_mtls::tls::anonymous_client_config;
use attache_proto::attache::v1 as pb;
use jiff::Timestamp;
use pb::enrollment_client::EnrollmentClient;

use super::IdentitySettings;
use super::enroll::{EnrollError, connect};
use super::issued::Issued;
use super::state::Ended;
use super::trust;
use crate::agent::broker::answered;

/// Has the next key signed by proof of the ended certificate's.
pub(super) async fn renew(
    settings: &IdentitySettings,
    ended: &Ended,
    next: &LeafKey,
) -> Result<Issued, EnrollError> {
    let bundle = match &settings.trust {
        Some(followed) => trust::read(&followed.bundle_file)?,
        None => ended.bundle.clone(),
    };
    let tls = anonymous_client_config(Arc::new(bundle), ended.broker.clone())?;
    let connection = connect(settings, tls).await?;
    let request = request(ended, next, Timestamp::now())?;
    let mut client = EnrollmentClient::new(connection.channel);
    let call = tokio::time::timeout(settings.deadlines.call, client.renew_late(request));
    let response = answered("RenewLate", call.await)?;
    let issued = Issued::check(response.certificate, next, Timestamp::now())?;
    issued.require_id(&ended.node)?;
    Ok(issued)
}

fn request(
    ended: &Ended,
    next: &LeafKey,
    at: Timestamp,
) -> Result<pb::RenewLateRequest, EnrollError> {
    let (csr, version) = (next.certificate_request()?, env!("CARGO_PKG_VERSION"));
    let unix_ms = at.as_millisecond();
    let signed = LateRenewal {
        broker: &ended.broker.to_string(),
        certificate: &ended.certificate,
        request: &csr,
        version,
        at_ms: u64::try_from(unix_ms).unwrap_or(0),
    };
    let signature = ended.key.sign(&signed.transcript())?;
    Ok(pb::RenewLateRequest {
        certificate: ended.certificate.to_vec(),
        csr,
        version: version.to_owned(),
        at: Some(pb::Time { unix_ms }),
        signature,
    })
}
