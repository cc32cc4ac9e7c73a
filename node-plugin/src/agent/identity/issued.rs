//! A certificate as a broker's answer brings it: believed only once it is this node's, for this key, under the bundle
//! that comes with it.

use attache_mtls::CertificateDer;
use attache_mtls::bundle::{BundleError, TrustBundle};
use attache_mtls::identity::SpkiSha256;
use attache_mtls::key::LeafKey;
use attache_mtls::spiffe::{NodeId, PeerId};
use attache_mtls::verify::{PeerError, Purpose};
use attache_proto::attache::v1 as pb;
use jiff::Timestamp;
use thiserror::Error;

/// The most certificates of a chain: the leaf, and what signed it.
const MAX_CHAIN: usize = 8;

/// Why an issued certificate is not taken.
#[derive(Debug, Error)]
pub(super) enum IssuedError {
    /// There is none, or its chain is too long.
    #[error("it holds no certificate, or a chain of more than {MAX_CHAIN}")]
    Chain,
    /// The trust bundle.
    #[error("its trust bundle is refused")]
    Bundle(#[from] BundleError),
    /// The certificate does not verify under that bundle.
    #[error("its certificate is refused")]
    Leaf(#[from] PeerError),
    /// Not a node's certificate, or another name than the answer says.
    #[error("its certificate is not a node's, or not of the ID that it names")]
    Id,
    /// Another node's.
    #[error("its certificate is for {found}; this node is {expected}")]
    OtherNode {
        /// This node.
        expected: NodeId,
        /// The one in the certificate.
        found: NodeId,
    },
    /// Another key's.
    #[error("its certificate is for another key than was sent")]
    Key,
    /// The bundle lacks the CA that the join token pins.
    #[error("its trust bundle lacks the CA that the join token names")]
    Pin,
}

/// A certificate that is this node's, with the roots to trust from now on.
pub(super) struct Issued {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) bundle: TrustBundle,
    pub(super) node: NodeId,
}

impl Issued {
    /// Checks an answer against the key that was sent.
    pub(super) fn check(
        certificate: Option<pb::IssuedCertificate>,
        key: &LeafKey,
        now: Timestamp,
    ) -> Result<Self, IssuedError> {
        let certificate = certificate.ok_or(IssuedError::Chain)?;
        if certificate.chain.is_empty() || certificate.chain.len() > MAX_CHAIN {
            return Err(IssuedError::Chain);
        }
        let der = |list: Vec<Vec<u8>>| {
            list.into_iter()
                .map(CertificateDer::from)
                .collect::<Vec<_>>()
        };
        let chain = der(certificate.chain);
        let bundle = TrustBundle::from_der(der(certificate.trust_bundle))?;
        let own = bundle.verify(&chain, Purpose::Client, now)?;
        let PeerId::Node(node) = own.id().clone() else {
            return Err(IssuedError::Id);
        };
        if node.to_string() != certificate.spiffe_id {
            return Err(IssuedError::Id);
        }
        if own.spki_sha256() != key.spki_sha256() {
            return Err(IssuedError::Key);
        }
        Ok(Self {
            chain,
            bundle,
            node,
        })
    }

    /// Demands that it is for this node.
    pub(super) fn require_id(&self, expected: &NodeId) -> Result<(), IssuedError> {
        if self.node == *expected {
            return Ok(());
        }
        Err(IssuedError::OtherNode {
            expected: expected.clone(),
            found: self.node.clone(),
        })
    }

    /// Demands that the pinned CA is among the roots.
    pub(super) fn require_pin(&self, pin: SpkiSha256) -> Result<(), IssuedError> {
        if self.bundle.pins().any(|found| found == pin) {
            Ok(())
        } else {
            Err(IssuedError::Pin)
        }
    }
}
