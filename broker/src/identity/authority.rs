//! The broker's CA at work: a certificate request in, a certificate for exactly one identity out.
//!
//! The CA's seed is borrowed from the key arena for each signature. Whoever calls has proved the identity; this module
//! must never take a name from the request.

use std::sync::Arc;

use attache_mtls::{
    CertificateDer,
    bundle::{BundleError, TrustBundle},
    ca::{CaError, CertificateAuthority, CertificateRequest, IssuedCertificate, default_validity},
    identity::SpkiSha256,
    spiffe::{PeerId, TrustDomain},
};
use jiff::Timestamp;

use super::recorded::RecordedKey;
use crate::keys::Keys;

/// Why a certificate was not signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The CA could not sign.
    #[error("the CA could not sign")]
    Ca(#[from] CaError),
    /// The CA certificate makes no trust bundle.
    #[error("the CA certificate makes no trust bundle")]
    Bundle(#[from] BundleError),
}

/// The CA certificate, and the keys that its seed is borrowed from.
#[derive(Clone)]
pub struct Authority {
    ca: Arc<CertificateAuthority>,
    keys: Arc<Keys>,
}

impl Authority {
    /// Takes up the CA certificate that the store holds.
    ///
    /// # Errors
    /// [`AuthorityError::Ca`] when it is no CA certificate of ours.
    pub fn load(
        certificate: CertificateDer<'static>,
        keys: Arc<Keys>,
    ) -> Result<Self, AuthorityError> {
        Ok(Self {
            ca: Arc::new(CertificateAuthority::load(certificate)?),
            keys,
        })
    }

    /// Signs a certificate for `identity` with the key of a request, for the identity's usual length.
    ///
    /// # Errors
    /// [`AuthorityError::Ca`] when the CA cannot sign.
    pub fn issue(
        &self,
        request: &CertificateRequest,
        identity: &PeerId,
        now: Timestamp,
    ) -> Result<IssuedCertificate, AuthorityError> {
        let validity = default_validity(identity);
        Ok(self
            .ca
            .issue(self.keys.ca_seed(), request, identity, validity, now)?)
    }

    /// The CA certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.ca.certificate()
    }

    /// What callers have to trust.
    ///
    /// # Errors
    /// [`AuthorityError::Bundle`], which a loaded CA certificate never gives.
    pub fn bundle(&self) -> Result<TrustBundle, AuthorityError> {
        Ok(TrustBundle::from_der(vec![self.ca.certificate().clone()])?)
    }

    /// When the CA's certificate ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.ca.not_after()
    }

    /// The pin of the CA's key, for join tokens.
    #[must_use]
    pub fn pin(&self) -> SpkiSha256 {
        self.ca.spki_sha256()
    }

    /// Whose identities it signs.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.ca.trust_domain()
    }
}

/// A certificate as it is recorded.
#[must_use]
pub fn recorded(issued: &IssuedCertificate) -> RecordedKey {
    let identity = issued.identity();
    RecordedKey {
        spki: identity.spki_sha256(),
        serial: identity.serial().to_string(),
        not_after: identity.not_after(),
    }
}
