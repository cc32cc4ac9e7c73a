//! The broker's CA at work: a certificate request in, a certificate for exactly one identity out.
//!
//! ```text
//! one CA      signs everything
//! two         after a rotation: the active one signs nodes and operators; the one before is still trusted, and signs the
//!             broker's own certificate, since those who were certified before know no other
//! ```
//! Whoever has a certificate of the active CA has learned it with that, so the one before goes when nobody needs it.
//!
//! A CA's seed is borrowed from the key arena for each signature. Whoever calls has proved the identity; this module must
//! never take a name from the request.

use std::sync::Arc;

use arc_swap::ArcSwap;
use attache_mtls::{
    CertificateDer,
    bundle::{BundleError, TrustBundle},
    ca::{
        BROKER_VALIDITY, CaError, CertificateAuthority, CertificateRequest, IssuedCertificate,
        default_validity,
    },
    identity::SpkiSha256,
    spiffe::{PeerId, TrustDomain},
};
use jiff::Timestamp;

use super::recorded::RecordedKey;
use crate::keys::{CaKey, Keys};

/// Why a certificate was not signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The CA could not sign.
    #[error("the CA could not sign")]
    Ca(#[from] CaError),
    /// The CA certificate makes no trust bundle.
    #[error("the CA certificate makes no trust bundle")]
    Bundle(#[from] BundleError),
    /// Keyring and certificates are not of one state.
    #[error(
        "the keyring does not have the key of the CA certificate before the active one, or has one without it"
    )]
    Unpaired,
}

/// The CA certificates of a store.
#[derive(Clone, PartialEq, Eq)]
pub struct CaCertificates {
    /// The one that signs.
    pub active: CertificateDer<'static>,
    /// The one before, while it is trusted, and since when it signs no more, in milliseconds since 1970.
    pub before: Option<(CertificateDer<'static>, u64)>,
}

/// A CA with its key.
#[derive(Clone)]
pub struct Ca {
    certificate: CertificateAuthority,
    key: CaKey,
}

impl Ca {
    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.key.epoch()
    }

    /// The pin of its key.
    #[must_use]
    pub fn pin(&self) -> SpkiSha256 {
        self.certificate.spki_sha256()
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateAuthority {
        &self.certificate
    }

    fn issue(
        &self,
        request: &CertificateRequest,
        identity: &PeerId,
        now: Timestamp,
    ) -> Result<IssuedCertificate, AuthorityError> {
        let validity = default_validity(identity);
        let seed = self.key.seed();
        Ok(self
            .certificate
            .issue(seed, request, identity, validity, now)?)
    }
}

/// The CAs of one moment.
#[derive(Clone)]
pub struct Cas {
    /// The one that signs nodes and operators.
    pub active: Ca,
    /// The one before, and since when it signs none of them any more.
    pub before: Option<(Ca, u64)>,
}

impl Cas {
    /// The one that signs the broker's own certificate, and by which newcomers know the broker: everybody trusts it. One
    /// before that is about to end signs nothing any more.
    #[must_use]
    pub fn known(&self, now: Timestamp) -> &Ca {
        let lasts = |ca: &Ca| {
            let least = (BROKER_VALIDITY / 3).try_into().unwrap_or_default();
            now.duration_until(ca.certificate.not_after()) > least
        };
        let before = self.before.as_ref().map(|(ca, _)| ca);
        before.filter(|ca| lasts(ca)).unwrap_or(&self.active)
    }

    /// Whether certificates of the CA of this epoch are accepted.
    #[must_use]
    pub fn trusts(&self, epoch: u32) -> bool {
        let before = self.before.as_ref().map(|(ca, _)| ca.epoch());
        self.active.epoch() == epoch || before == Some(epoch)
    }

    /// What callers have to trust.
    ///
    /// # Errors
    /// [`AuthorityError::Bundle`], which loaded CA certificates never give.
    pub fn bundle(&self) -> Result<TrustBundle, AuthorityError> {
        let before = self.before.as_ref().map(|(ca, _)| ca);
        let all = [Some(&self.active), before].into_iter().flatten();
        let all = all.map(|ca| ca.certificate.certificate().clone());
        Ok(TrustBundle::from_der(all.collect())?)
    }
}

/// The CAs, shared: a change of them is one for all who hold it.
#[derive(Clone)]
pub struct Authority {
    cas: Arc<ArcSwap<Cas>>,
    keys: Arc<Keys>,
}

impl Authority {
    /// Takes up the CA certificates that the store holds.
    ///
    /// # Errors
    /// [`AuthorityError::Ca`] when one is no CA certificate of ours; [`AuthorityError::Unpaired`].
    pub fn load(certificates: CaCertificates, keys: Arc<Keys>) -> Result<Self, AuthorityError> {
        let active = Ca {
            certificate: CertificateAuthority::load(certificates.active)?,
            key: keys.ca_key(),
        };
        let before = match (certificates.before, keys.ca_key_before()) {
            (Some((certificate, since)), Some(key)) => {
                let certificate = CertificateAuthority::load(certificate)?;
                Some((Ca { certificate, key }, since))
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(AuthorityError::Unpaired),
        };
        Ok(Self {
            cas: Arc::new(ArcSwap::from_pointee(Cas { active, before })),
            keys,
        })
    }

    /// The CAs of this moment.
    #[must_use]
    pub fn cas(&self) -> Arc<Cas> {
        self.cas.load_full()
    }

    /// The keys that the seeds are borrowed from.
    #[must_use]
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Signs a certificate of a node or an operator with the key of a request, for the identity's usual length.
    ///
    /// # Errors
    /// [`AuthorityError::Ca`] when the CA cannot sign.
    pub fn issue(
        &self,
        request: &CertificateRequest,
        identity: &PeerId,
        now: Timestamp,
    ) -> Result<IssuedCertificate, AuthorityError> {
        self.cas.load().active.issue(request, identity, now)
    }

    /// As [`Authority::issue`], for the broker's own: by the CA that everybody trusts.
    ///
    /// # Errors
    /// As there.
    pub fn issue_own(
        &self,
        request: &CertificateRequest,
        identity: &PeerId,
        now: Timestamp,
    ) -> Result<IssuedCertificate, AuthorityError> {
        self.cas.load().known(now).issue(request, identity, now)
    }

    /// What callers have to trust.
    ///
    /// # Errors
    /// As [`Cas::bundle`].
    pub fn bundle(&self) -> Result<TrustBundle, AuthorityError> {
        self.cas.load().bundle()
    }

    /// When the first certificate of a CA that is trusted ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        let cas = self.cas.load();
        let active = cas.active.certificate.not_after();
        let before = cas.before.as_ref();
        before.map_or(active, |(ca, _)| active.min(ca.certificate.not_after()))
    }

    /// The pin of the CA by which newcomers know the broker.
    #[must_use]
    pub fn pin(&self) -> SpkiSha256 {
        self.cas.load().known(Timestamp::now()).pin()
    }

    /// Whose identities it signs.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        self.cas.load().active.certificate.trust_domain().clone()
    }

    /// A certificate as it is recorded. One of a CA that is not here any more counts as of the oldest.
    #[must_use]
    pub fn recorded(&self, issued: &IssuedCertificate) -> RecordedKey {
        let cas = self.cas.load();
        let issuer = issued.chain().pop();
        let is_active = issuer.as_ref() == Some(cas.active.certificate.certificate());
        let before = cas.before.as_ref().map_or(0, |(ca, _)| ca.epoch());
        let identity = issued.identity();
        RecordedKey {
            spki: identity.spki_sha256(),
            serial: identity.serial().to_string(),
            not_after: identity.not_after(),
            ca: if is_active {
                cas.active.epoch()
            } else {
                before
            },
        }
    }

    /// A new CA is committed: it signs from now on, and the one before is trusted beside it since `before_since_ms`, or no more.
    pub fn rotated(&self, certificate: CertificateAuthority, before_since_ms: Option<u64>) {
        let active = Ca {
            certificate,
            key: self.keys.ca_key(),
        };
        let before = self.cas.load().active.clone();
        self.cas.store(Arc::new(Cas {
            active,
            before: before_since_ms.map(|since_ms| (before, since_ms)),
        }));
    }

    /// The end of the one before is committed.
    pub fn dropped(&self) {
        let active = self.cas.load().active.clone();
        self.cas.store(Arc::new(Cas {
            active,
            before: None,
        }));
    }
}
