//! Certificates: `Enrollment` (without a client certificate) and `Renewal` of attache.v1.

use std::sync::Arc;

use attache_envelope::name::ClusterName;
use attache_mtls::ca::{CertificateRequest, IssuedCertificate};
use attache_proto::attache::v1 as pb;
use jiff::Timestamp;
use pb::{enrollment_server::Enrollment, renewal_server::Renewal};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{
    field::{missing, operator_id, optional, parse, point, required, time},
    peer::connection,
    rpc_error::RpcError,
};
use crate::{
    attest::{ClusterRegistry, MAX_TOKEN_BYTES, PodToken, enrolling},
    identity::{Gate, LateRequest, PluginVersion},
};

/// The longest signature of a leaf's key: ECDSA on P-256, as DER.
const SIGNATURE_MAX: usize = 72;

/// The service.
#[derive(Clone)]
pub struct EnrollmentService {
    /// Signs.
    pub gate: Arc<Gate>,
    /// Who may enroll nodes.
    pub clusters: Arc<ClusterRegistry>,
    /// The broker's whole SPIFFE ID.
    pub broker_id: String,
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    async fn join_node(
        &self,
        request: Request<pb::JoinNodeRequest>,
    ) -> Result<Response<pb::JoinNodeResponse>, Status> {
        let mut asked = request.into_inner();
        let token = Zeroizing::new(std::mem::take(&mut asked.token));
        if token.is_empty() {
            return Err(RpcError::invalid(
                "token",
                "is missing; make one with: attache node join-token",
            )
            .into());
        }
        let request = certificate_request(&asked.csr)?;
        let version = plugin_version(&asked.version)?;
        let issued = self
            .gate
            .join(&token, request, version)
            .await
            .map_err(RpcError::from)?;
        Ok(Response::new(pb::JoinNodeResponse {
            certificate: Some(certificate(&self.gate, &issued)?),
            broker_id: self.broker_id.clone(),
        }))
    }

    async fn enroll_node(
        &self,
        request: Request<pb::EnrollNodeRequest>,
    ) -> Result<Response<pb::EnrollNodeResponse>, Status> {
        let mut asked = request.into_inner();
        let token = std::mem::take(&mut asked.token);
        let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES || !printable {
            let mend = "must be the projected token of the node plugin's pod";
            return Err(RpcError::invalid("token", mend).into());
        }
        let token = PodToken::new(token);
        let cluster: ClusterName = parse("cluster", &asked.cluster)?;
        let request = certificate_request(&asked.csr)?;
        let version = plugin_version(&asked.version)?;
        let node = enrolling(&self.clusters, &cluster, &token, Timestamp::now())
            .await
            .map_err(RpcError::from)?;
        let issued = self
            .gate
            .enroll(node, request, version)
            .await
            .map_err(RpcError::from)?;
        Ok(Response::new(pb::EnrollNodeResponse {
            certificate: Some(certificate(&self.gate, &issued)?),
            broker_id: self.broker_id.clone(),
        }))
    }

    async fn sign_in_operator(
        &self,
        request: Request<pb::SignInOperatorRequest>,
    ) -> Result<Response<pb::SignInOperatorResponse>, Status> {
        let mut asked = request.into_inner();
        let code = Zeroizing::new(std::mem::take(&mut asked.code));
        if code.is_empty() {
            let mend = "is missing; another operator makes one with: attache operator add";
            return Err(RpcError::invalid("code", mend).into());
        }
        let request = certificate_request(&asked.csr)?;
        let id = operator_id(&self.gate.authority().trust_domain(), &asked.name)?;
        let issued = self
            .gate
            .sign_in_by_code(&code, id, request)
            .await
            .map_err(RpcError::from)?;
        Ok(Response::new(pb::SignInOperatorResponse {
            certificate: Some(certificate(&self.gate, &issued)?),
            broker_id: self.broker_id.clone(),
        }))
    }

    async fn renew_late(
        &self,
        request: Request<pb::RenewLateRequest>,
    ) -> Result<Response<pb::RenewLateResponse>, Status> {
        let asked = request.into_inner();
        if asked.certificate.is_empty() {
            return Err(missing("certificate").into());
        }
        if !(1..=SIGNATURE_MAX).contains(&asked.signature.len()) {
            let problem = format!("must be 1 to {SIGNATURE_MAX} bytes");
            return Err(RpcError::invalid("signature", problem).into());
        }
        let at = point("at", required("at", asked.at)?)?;
        let asked = LateRequest {
            certificate: asked.certificate,
            request: certificate_request(&asked.csr)?,
            version: plugin_version(&asked.version)?,
            at,
            signature: asked.signature,
        };
        let issued = self.gate.renew_late(asked).await.map_err(RpcError::from)?;
        Ok(Response::new(pb::RenewLateResponse {
            certificate: Some(certificate(&self.gate, &issued)?),
        }))
    }
}

#[tonic::async_trait]
impl Renewal for EnrollmentService {
    async fn renew(
        &self,
        request: Request<pb::RenewRequest>,
    ) -> Result<Response<pb::RenewResponse>, Status> {
        let connection = connection(request.extensions())?.clone();
        let asked = request.into_inner();
        let request = certificate_request(&asked.csr)?;
        let version = plugin_version(&asked.version)?;
        let issued = self
            .gate
            .renew(connection.peer()?, connection.was_live, request, version)
            .await
            .map_err(RpcError::from)?;
        Ok(Response::new(pb::RenewResponse {
            certificate: Some(certificate(&self.gate, &issued)?),
        }))
    }
}

/// What somebody wants signed: PKCS#10, DER.
///
/// # Errors
/// INVALID_ARGUMENT for `csr`.
pub(super) fn certificate_request(csr: &[u8]) -> Result<CertificateRequest, RpcError> {
    if csr.is_empty() {
        return Err(missing("csr"));
    }
    CertificateRequest::verify(csr).map_err(|e| RpcError::invalid("csr", e.to_string()))
}

fn plugin_version(text: &str) -> Result<PluginVersion, RpcError> {
    Ok(optional("version", text)?.unwrap_or_default())
}

/// A certificate as it goes on the wire, with what its holder trusts from now on.
///
/// # Errors
/// INTERNAL when the CA certificate makes no bundle.
pub(super) fn certificate(
    gate: &Gate,
    issued: &IssuedCertificate,
) -> Result<pb::IssuedCertificate, RpcError> {
    let bundle = gate
        .authority()
        .bundle()
        .map_err(crate::identity::EnrollError::from)?;
    let identity = issued.identity();
    Ok(pb::IssuedCertificate {
        chain: issued
            .chain()
            .iter()
            .map(|der| der.as_ref().to_vec())
            .collect(),
        trust_bundle: bundle
            .certificates()
            .map(|der| der.as_ref().to_vec())
            .collect(),
        spiffe_id: identity.id().to_string(),
        not_before: time(identity.not_before()),
        not_after: time(identity.not_after()),
    })
}
