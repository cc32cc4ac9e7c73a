//! What a node signs when it renews after its certificate's end.
//!
//! ```text
//! transcript = LP("attache/late-renewal/1", broker id, SHA-256(certificate), SHA-256(request), version, time u64)
//! ```
//!
//! The key of the ended certificate signs it. TLS has no part in the proof any more, so everything that is asked for is
//! in here, and so is the one broker that may be asked. No other signature of that key begins with these bytes: what TLS
//! signs begins with spaces, a certificate request with a sequence of DER.

use sha2::{Digest, Sha256};

use crate::lp::Lp;

/// A late renewal, as it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct LateRenewal<'a> {
    /// The broker's SPIFFE ID.
    pub broker: &'a str,
    /// The ended certificate, DER.
    pub certificate: &'a [u8],
    /// The certificate request of the next key, DER.
    pub request: &'a [u8],
    /// The plugin's version.
    pub version: &'a str,
    /// When it is signed, in milliseconds since 1970.
    pub at_ms: u64,
}

impl LateRenewal<'_> {
    /// The bytes that are signed.
    #[must_use]
    pub fn transcript(&self) -> Vec<u8> {
        let certificate: [u8; 32] = Sha256::digest(self.certificate).into();
        let request: [u8; 32] = Sha256::digest(self.request).into();
        Lp::labelled("attache/late-renewal/1")
            .str(self.broker)
            .bytes(&certificate)
            .bytes(&request)
            .str(self.version)
            .u64(self.at_ms)
            .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: LateRenewal<'static> = LateRenewal {
        broker: "spiffe://example.internal/broker/broker-0",
        certificate: b"certificate",
        request: b"request",
        version: "0.1.0",
        at_ms: 1,
    };

    #[test]
    fn whatever_is_asked_for_is_signed() {
        let transcript = ASKED.transcript();
        assert_eq!(transcript, ASKED.transcript());
        for other in [
            LateRenewal {
                broker: "spiffe://example.internal/broker/broker-1",
                ..ASKED
            },
            LateRenewal {
                certificate: b"certificatf",
                ..ASKED
            },
            LateRenewal {
                request: b"requesu",
                ..ASKED
            },
            LateRenewal {
                version: "0.1.1",
                ..ASKED
            },
            LateRenewal { at_ms: 2, ..ASKED },
        ] {
            assert_ne!(other.transcript(), transcript, "{other:?}");
        }
    }
}
