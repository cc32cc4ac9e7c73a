//! PEM (RFC 7468), read strictly and written plainly.
//!
//! Certificates and keys are stored and sent as PEM; this is the one place that reads them. A file that holds a section
//! of another kind than asked for is refused, never skipped over: a bundle that is silently shorter than its author
//! believes is a wrong bundle.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject, SectionKind};
use zeroize::Zeroizing;

/// The largest PEM text that is read, in bytes.
pub const MAX_PEM_BYTES: usize = 256 * 1024;

const BEGIN: &[u8] = b"-----BEGIN ";
const LINE: usize = 64;

/// Why a PEM text was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// Over [`MAX_PEM_BYTES`].
    #[error("the PEM text is over {MAX_PEM_BYTES} bytes")]
    TooLarge,
    /// A section without its end, or with broken base64.
    #[error("a PEM section is incomplete or not base64")]
    Malformed,
    /// A section of another kind than the one wanted.
    #[error("the PEM text holds a section that is not {wanted:?}")]
    Kind {
        /// The label that was looked for.
        wanted: &'static str,
    },
    /// The number of sections is wrong: none, or several where one belongs.
    #[error("the PEM text holds {found} sections")]
    Count {
        /// How many there are.
        found: usize,
    },
}

/// Reads all certificates of a PEM text, in order; at least one.
///
/// # Errors
/// [`PemError`] when the text is too large, malformed, empty, or holds anything but certificates.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let sections = sections(pem, SectionKind::Certificate, "CERTIFICATE")?;
    Ok(sections
        .into_iter()
        .map(|mut der| CertificateDer::from(std::mem::take(&mut *der)))
        .collect())
}

/// Reads the one PKCS#8 private key of a PEM text, as DER.
///
/// # Errors
/// [`PemError`] when the text is too large, malformed, or holds anything but one `PRIVATE KEY`.
pub fn private_key(pem: &[u8]) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let mut keys = sections(pem, SectionKind::PrivateKey, "PRIVATE KEY")?;
    match (keys.pop(), keys.len()) {
        (Some(key), 0) => Ok(key),
        (_, more) => Err(PemError::Count { found: more + 1 }),
    }
}

/// Reads the one certificate request (PKCS#10) of a PEM text, as DER.
///
/// # Errors
/// [`PemError`] when the text is too large, malformed, or holds anything but one `CERTIFICATE REQUEST`.
pub fn certificate_request(pem: &[u8]) -> Result<Vec<u8>, PemError> {
    let mut requests = sections(pem, SectionKind::Csr, "CERTIFICATE REQUEST")?;
    match (requests.pop(), requests.len()) {
        (Some(mut request), 0) => Ok(std::mem::take(&mut *request)),
        (_, more) => Err(PemError::Count { found: more + 1 }),
    }
}

fn sections(
    pem: &[u8],
    kind: SectionKind,
    wanted: &'static str,
) -> Result<Vec<Zeroizing<Vec<u8>>>, PemError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(PemError::TooLarge);
    }
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (this, der) = section.map_err(|_| PemError::Malformed)?;
        if this != kind {
            return Err(PemError::Kind { wanted });
        }
        found.push(Zeroizing::new(der));
    }
    // The iterator passes over labels that it does not know; the count of openings tells.
    let openings = pem
        .windows(BEGIN.len())
        .filter(|window| *window == BEGIN)
        .count();
    match found.len() {
        0 if openings == 0 => Err(PemError::Count { found: 0 }),
        n if n == openings => Ok(found),
        _ => Err(PemError::Kind { wanted }),
    }
}

/// Writes one PEM section with 64-column lines.
#[must_use]
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(
        body.len() + body.len() / LINE + 2 * label.len() + 40,
    ));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest: &str = &body;
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// Writes certificates as consecutive PEM sections.
#[must_use]
pub fn encode_certificates<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> String {
    certificates
        .into_iter()
        .map(|der| encode("CERTIFICATE", der).to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_request_round_trips_and_must_be_the_only_section() {
        let text = encode("CERTIFICATE REQUEST", &[7; 99]);
        assert_eq!(certificate_request(text.as_bytes()).unwrap(), [7; 99]);
        let two = format!("{}{}", *text, *text);
        assert_eq!(
            certificate_request(two.as_bytes()),
            Err(PemError::Count { found: 2 })
        );
        let other = encode("CERTIFICATE", &[7; 99]);
        assert!(matches!(
            certificate_request(other.as_bytes()),
            Err(PemError::Kind { .. })
        ));
    }

    #[test]
    fn certificates_round_trip() {
        let ders: Vec<_> = [1usize, 47, 48, 49, 500]
            .iter()
            .map(|n| CertificateDer::from(vec![7u8; *n]))
            .collect();
        let text = encode_certificates(&ders);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert_eq!(certificates(text.as_bytes()).unwrap(), ders);
    }

    #[test]
    fn anything_but_the_wanted_kind_is_refused() {
        let cert = encode("CERTIFICATE", b"x");
        let key = encode("PRIVATE KEY", b"k");
        let odd = encode("TRUSTED CERTIFICATE", b"t");
        let kind = |wanted| Err(PemError::Kind { wanted });
        assert_eq!(certificates(b""), Err(PemError::Count { found: 0 }));
        assert_eq!(
            certificates(b"plain text"),
            Err(PemError::Count { found: 0 })
        );
        assert_eq!(
            certificates([cert.as_bytes(), key.as_bytes()].concat().as_slice()),
            kind("CERTIFICATE")
        );
        assert_eq!(
            certificates([cert.as_bytes(), odd.as_bytes()].concat().as_slice()),
            kind("CERTIFICATE")
        );
        assert_eq!(
            certificates(&cert.as_bytes()[..cert.len() - 10]),
            Err(PemError::Malformed)
        );
        assert_eq!(
            certificates(cert.replace("eA==", "e*==").as_bytes()),
            Err(PemError::Malformed)
        );
        assert_eq!(
            certificates(&vec![b'\n'; MAX_PEM_BYTES + 1]),
            Err(PemError::TooLarge)
        );
        assert!(private_key(key.as_bytes()).is_ok());
        assert!(matches!(
            private_key(b""),
            Err(PemError::Count { found: 0 })
        ));
        let two = [key.as_bytes(), key.as_bytes()].concat();
        assert!(matches!(
            private_key(&two),
            Err(PemError::Count { found: 2 })
        ));
        assert!(matches!(
            private_key(cert.as_bytes()),
            Err(PemError::Kind { .. })
        ));
    }
}
