//! Late renewal: a node whose certificate ended while the broker was away, or while the node was off.
//!
//! ```text
//! the ended certificate, of this CA -> in time, and the proof fresh -> its key signed what is asked for -> as renew
//! ```
//! From the proof on it is a renewal like any other: a ban holds, a node that is gone from its cluster is refused, and a
//! key older than the one before the current is a copy's. Nobody who has no proof costs more than a few signatures.

use std::sync::Arc;

use attache_envelope::late_renewal::LateRenewal;
use attache_mtls::{
    CertificateDer,
    ca::{CertificateRequest, IssuedCertificate},
    identity::PeerIdentity,
    renew::NODE_RENEWS_LATE_FOR,
    spiffe::PeerId,
    verify::{PeerError, Purpose},
};
use jiff::{SignedDuration, Timestamp};

use super::{EnrollError, Gate};
use crate::identity::{PluginVersion, ms};

/// How far the time of a proof may lie from the broker's. Less than a replaced key is still known for: an answer that was
/// lost and a request that came late make no copy of an honest node.
const PROOF_AGE: SignedDuration = SignedDuration::from_mins(5);
/// What the audit says of it.
const EVIDENCE: &str = "its recorded key, after the certificate's end";

/// A late renewal as it is asked for.
pub struct LateRequest {
    /// The ended certificate, DER.
    pub certificate: Vec<u8>,
    /// The certificate request of the next key.
    pub request: CertificateRequest,
    /// The plugin's version.
    pub version: PluginVersion,
    /// When it was signed.
    pub at: Timestamp,
    /// By the key of the ended certificate.
    pub signature: Vec<u8>,
}

/// Why a late renewal was not taken for that of the node.
#[derive(Debug, thiserror::Error)]
pub enum LateError {
    /// The certificate is none of this CA's nodes.
    #[error("does not do: {0}")]
    Certificate(#[from] PeerError),
    /// It is an operator's or a broker's.
    #[error("is {0}, and only nodes renew late")]
    NotANode(PeerId),
    /// Too long ago.
    #[error(
        "the certificate of {id} ended at {ended}, more than seven days ago: this node has to enroll anew"
    )]
    Over {
        /// The node.
        id: PeerId,
        /// The certificate's end.
        ended: Timestamp,
    },
    /// The proof was made at another time.
    #[error(
        "the proof was made at {at}, and here it is {now}: compare the clocks of this node and of the broker"
    )]
    Clock {
        /// The node's time.
        at: Timestamp,
        /// The broker's.
        now: Timestamp,
    },
    /// Not signed by that key, or something else was.
    #[error("the signature is not that of the certificate's key over this request")]
    Signature,
}

impl Gate {
    /// Signs the next key of a node whose certificate has ended.
    ///
    /// # Errors
    /// [`EnrollError::Late`], and as [`Gate::renew`].
    pub async fn renew_late(
        self: &Arc<Self>,
        asked: LateRequest,
    ) -> Result<IssuedCertificate, EnrollError> {
        let peer = Arc::new(self.proven(&asked)?);
        let asked_for = (asked.request, asked.version);
        self.renew_as(&peer, false, asked_for, Some(EVIDENCE.to_owned()))
            .await
    }

    /// Who has proven to hold the key of an ended certificate.
    fn proven(&self, asked: &LateRequest) -> Result<PeerIdentity, EnrollError> {
        let now = self.now();
        let bundle = self.authority.bundle()?;
        let chain = [CertificateDer::from(asked.certificate.as_slice())];
        let peer = bundle
            .verify_ended(&chain, Purpose::Client, now)
            .map_err(LateError::from)?;
        if !matches!(peer.id(), PeerId::Node(_)) {
            return Err(LateError::NotANode(peer.id().clone()).into());
        }
        if now.duration_since(peer.not_after()) > NODE_RENEWS_LATE_FOR {
            let (id, ended) = (peer.id().clone(), peer.not_after());
            return Err(LateError::Over { id, ended }.into());
        }
        if now.duration_since(asked.at).abs() > PROOF_AGE {
            return Err(LateError::Clock { at: asked.at, now }.into());
        }
        let signed = LateRenewal {
            broker: &self.broker_id,
            certificate: &asked.certificate,
            request: asked.request.as_der(),
            version: asked.version.as_str(),
            at_ms: ms(asked.at),
        };
        if !peer.has_signed(&signed.transcript(), &asked.signature) {
            return Err(LateError::Signature.into());
        }
        Ok(peer)
    }
}
