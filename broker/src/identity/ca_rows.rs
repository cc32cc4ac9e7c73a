//! The rows of the CA certificates.
//!
//! ```text
//! meta "ca"         = record || certificate DER               the one that signs
//! meta "ca-before"  = record || certificate DER, since u64    the one before, while it is trusted; since when it signs no more
//! ```

use attache_envelope::{EnvelopeError, lp::Lp};
use attache_mtls::CertificateDer;

use super::rows::read;

/// The key of the row of the one that signs.
pub(crate) const ACTIVE: &str = "ca";
/// The key of the row of the one before.
pub(crate) const BEFORE: &str = "ca-before";
/// A CA certificate is never larger, in bytes.
const CA_MAX: usize = 16 * 1024;

pub(crate) fn encode(certificate: &CertificateDer<'_>) -> Vec<u8> {
    Lp::record().bytes(certificate.as_ref()).into_bytes()
}

pub(crate) fn decode(body: &[u8]) -> Result<CertificateDer<'static>, EnvelopeError> {
    let der = read("ca", body, |r| {
        r.bytes_up_to("certificate", CA_MAX).map(<[u8]>::to_vec)
    })?;
    Ok(CertificateDer::from(der))
}

pub(crate) fn encode_before(certificate: &CertificateDer<'_>, since_ms: u64) -> Vec<u8> {
    Lp::record()
        .bytes(certificate.as_ref())
        .u64(since_ms)
        .into_bytes()
}

pub(crate) fn decode_before(body: &[u8]) -> Result<(CertificateDer<'static>, u64), EnvelopeError> {
    read("ca-before", body, |r| {
        let der = r.bytes_up_to("certificate", CA_MAX)?.to_vec();
        Ok((CertificateDer::from(der), r.u64("since")?))
    })
}
